//! The part of the forwarding decision that is about loopback: who goes from socket to socket, past the link.
//!
//! A client of a published port is local when it is on the host's loopback and has asked a loopback address; only
//! such a one is ever spliced, so that everybody else is seen as who he is. The other way, from the container's
//! loopback, leads to the same loopback of the host and nowhere else.

use std::net::SocketAddr;

use super::{DropReason, is_loopback, loopback_like};
use crate::config::{Config, LocalClients, PublishRule};

/// Which way a client of a published port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Over the link: [`super::inbound`] tells how it appears.
    Link,
    /// Spliced to this address of the container.
    Splice(SocketAddr),
}

/// Decides about a client that reached the host at `local` under `rule`.
#[must_use]
pub fn local_client(config: &Config, rule: &PublishRule, client: SocketAddr, local: SocketAddr) -> Path {
    if !is_loopback(client.ip()) || !is_loopback(local.ip()) || rule.container_address.is_some() {
        return Path::Link;
    }
    let address = match config.local_clients {
        LocalClients::Link => return Path::Link,
        LocalClients::SplicedToLoopback => loopback_like(local.ip()),
        LocalClients::SplicedToAddress => match config.link.container_like(local.ip()) {
            Some(own) => own,
            None => return Path::Link,
        },
    };
    Path::Splice(SocketAddr::new(address, rule.container_port))
}

/// Decides where a client in the container leads to that asked one of its loopback addresses, under an outward
/// rule (see [`crate::config::forwarding`]).
///
/// # Errors
/// `Denied` for a client that is not on the container's loopback.
pub fn outward(rule: &PublishRule, client: SocketAddr) -> Result<SocketAddr, DropReason> {
    if !is_loopback(client.ip()) || !is_loopback(rule.host_address) {
        return Err(DropReason::Denied);
    }
    Ok(SocketAddr::new(loopback_like(rule.host_address), rule.container_port))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::PortProtocol;
    use crate::stack::forward::tests::config;

    fn rule(host_address: &str) -> PublishRule {
        PublishRule {
            protocol: PortProtocol::Tcp,
            host_address: host_address.parse().unwrap(),
            host_port: 8080,
            interface: None,
            container_address: None,
            container_port: 80,
        }
    }

    fn decide(clients: LocalClients, client: &str, local: &str) -> Path {
        let config = Config { local_clients: clients, ..config(false) };
        local_client(&config, &rule("0.0.0.0"), client.parse().unwrap(), local.parse().unwrap())
    }

    #[rstest]
    #[case(LocalClients::SplicedToLoopback, "127.0.0.1:4000", "127.0.0.1:8080", "127.0.0.1:80")]
    #[case(LocalClients::SplicedToLoopback, "127.0.0.2:4000", "127.9.9.9:8080", "127.0.0.1:80")]
    #[case(LocalClients::SplicedToLoopback, "[::1]:4000", "[::1]:8080", "[::1]:80")]
    #[case(LocalClients::SplicedToAddress, "127.0.0.1:4000", "127.0.0.1:8080", "10.0.2.100:80")]
    #[case(LocalClients::SplicedToAddress, "[::1]:4000", "[::1]:8080", "[fd00:2::100]:80")]
    fn from_loopback_to_loopback_is_spliced(
        #[case] clients: LocalClients,
        #[case] client: &str,
        #[case] local: &str,
        #[case] target: &str,
    ) {
        assert_eq!(decide(clients, client, local), Path::Splice(target.parse().unwrap()));
    }

    #[rstest]
    #[case("203.0.113.9:4000", "203.0.113.1:8080")]
    #[case("203.0.113.9:4000", "127.0.0.1:8080")]
    #[case("127.0.0.1:4000", "203.0.113.1:8080")]
    #[case("[2001:db8::9]:4000", "[::1]:8080")]
    fn everybody_else_takes_the_link(#[case] client: &str, #[case] local: &str) {
        assert_eq!(decide(LocalClients::SplicedToLoopback, client, local), Path::Link);
    }

    #[test]
    fn where_nothing_is_to_be_spliced_nothing_is() {
        assert_eq!(decide(LocalClients::Link, "127.0.0.1:4000", "127.0.0.1:8080"), Path::Link);
    }

    #[test]
    fn outward_leads_from_loopback_to_loopback_only() {
        let target = outward(&rule("127.0.0.1"), "127.0.0.1:4000".parse().unwrap());
        assert_eq!(target, Ok("127.0.0.1:80".parse().unwrap()));
        let target = outward(&rule("::1"), "[::1]:4000".parse().unwrap());
        assert_eq!(target, Ok("[::1]:80".parse().unwrap()));
        assert_eq!(outward(&rule("127.0.0.1"), "203.0.113.9:4000".parse().unwrap()), Err(DropReason::Denied));
        assert_eq!(outward(&rule("0.0.0.0"), "127.0.0.1:4000".parse().unwrap()), Err(DropReason::Denied));
    }
}
