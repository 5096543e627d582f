//! The line that tells what was set up.

use std::fmt::Write;
use std::net::SocketAddr;

use super::container::{container_addresses, dns_addresses};
use crate::config::{LinkConfig, PortProtocol, PublishRule};

/// Published ports that are named one by one; of more, the rest is counted.
const NAMED_PORTS: usize = 8;

/// What was set up, in one line without the program's name.
#[must_use]
pub fn banner(tap_name: &str, link: &LinkConfig, publish: &[PublishRule]) -> String {
    let mut text = String::from(tap_name);
    for (address, prefix_len) in container_addresses(link) {
        let _ = write!(text, " {address}/{prefix_len}");
    }
    let gateways = [link.ipv4.map(|v4| v4.gateway.to_string()), link.ipv6.map(|v6| v6.gateway.to_string())];
    let _ = write!(text, ", gateway {}", joined(gateways.into_iter().flatten()));
    let _ = write!(text, ", DNS {}", joined(dns_addresses(link).iter().map(ToString::to_string)));
    let _ = write!(text, ", MTU {}", link.mtu);
    if !publish.is_empty() {
        let _ = write!(text, ", published {}", joined(publish.iter().take(NAMED_PORTS).map(rule_text)));
    }
    if publish.len() > NAMED_PORTS {
        let _ = write!(text, " and {} more", publish.len() - NAMED_PORTS);
    }
    text
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" ")
}

fn rule_text(rule: &PublishRule) -> String {
    let host = SocketAddr::new(rule.host_address, rule.host_port);
    let protocol = match rule.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
    };
    format!("{host}->{}/{protocol}", rule.container_port)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn rule(host_port: u16) -> PublishRule {
        PublishRule {
            protocol: PortProtocol::Tcp,
            host_address: Ipv4Addr::UNSPECIFIED.into(),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn line_names_addresses_gateway_dns_mtu_and_ports() {
        let link = LinkConfig { ipv6: None, ..LinkConfig::default() };
        assert_eq!(
            banner("tap0", &link, &[rule(8080)]),
            "tap0 10.0.2.100/24, gateway 10.0.2.2, DNS 10.0.2.3, MTU 1500, published 0.0.0.0:8080->80/tcp"
        );
    }

    #[test]
    fn both_families_are_named_and_many_ports_are_counted() {
        let link = LinkConfig::default();
        let rules: Vec<_> = (0..20).map(|i| rule(9_000 + i)).collect();
        let text = banner("eth0", &link, &rules);
        assert!(text.contains(&format!("{}/64", link.ipv6.unwrap().container)), "{text}");
        assert!(text.ends_with("0.0.0.0:9007->80/tcp and 12 more"), "{text}");
    }
}
