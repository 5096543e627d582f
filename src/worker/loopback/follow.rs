//! Ports that are forwarded as long as somebody listens on the other side.
//!
//! Once a second the tables of both sides are read. What we listen on ourselves does not count as somebody: a port
//! that leads inward is never found on the host, nor one that leads outward in the container, so nothing is mirrored
//! back. A port that cannot be had now is tried again the next time.

use std::ops::RangeInclusive;

use tracing::debug;

use crate::config::{PortForwarding, PortProtocol, PortSet, PortsAt, PublishRule};
use crate::stack::boundary::{Duration, Instant, ListenerId};
use crate::sys::proc_net::PortTables;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is to be done about a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<L> {
    /// Listen on it.
    Listen(PublishRule),
    /// Stop that.
    Close(L),
}

/// What is followed, and what of it is listened on.
#[derive(Debug)]
pub struct Follow {
    inward: Vec<PortsAt>,
    outward: Vec<PortsAt>,
    host: PortTables,
    container: PortTables,
    ephemeral: RangeInclusive<u16>,
    /// Listeners that exist for the sake of a port that is followed.
    inward_listeners: Vec<ListenerId>,
    outward_listeners: Vec<u32>,
    next: Option<Instant>,
}

/// Ports that are bound on one side, by transport.
struct Bound {
    tcp: PortSet,
    udp: PortSet,
}

impl Follow {
    /// Looks for the first time at once; never where nothing is followed.
    pub fn new(
        forwarding: &PortForwarding,
        (host, container): (PortTables, PortTables),
        ephemeral: &RangeInclusive<u16>,
    ) -> Follow {
        let (inward, outward) = (forwarding.inward.followed.clone(), forwarding.outward.followed.clone());
        let next = (!inward.is_empty() || !outward.is_empty()).then_some(Instant::ZERO);
        Follow {
            inward,
            outward,
            host,
            container,
            ephemeral: ephemeral.clone(),
            inward_listeners: Vec::new(),
            outward_listeners: Vec::new(),
            next,
        }
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is time to look.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// A port that was to be listened on, on the host, is.
    pub fn inward_follows(&mut self, listener: ListenerId) {
        self.inward_listeners.push(listener);
    }

    /// A port that was to be listened on, in the container, is.
    pub fn outward_follows(&mut self, place: u32) {
        self.outward_listeners.push(place);
    }

    /// Looks: what is to be done on the host, where `published` is listened on, and in the container, where `inside` is.
    pub fn look(
        &mut self,
        now: Instant,
        published: &[(ListenerId, PublishRule)],
        inside: &[(u32, PublishRule)],
    ) -> (Vec<Change<ListenerId>>, Vec<Change<u32>>) {
        self.next = Some(now + INTERVAL);
        let ephemeral = &self.ephemeral;
        let in_container = read(&mut self.container, inside.iter().map(|(_, rule)| rule), ephemeral);
        let on_host = read(&mut self.host, published.iter().map(|(_, rule)| rule), ephemeral);
        let inward = changes(&self.inward, &in_container, published, &mut self.inward_listeners);
        let outward = changes(&self.outward, &on_host, inside, &mut self.outward_listeners);
        (inward, outward)
    }
}

/// What is bound on a side by others than us, who listen there on `ours`.
fn read<'a>(
    tables: &mut PortTables,
    ours: impl Iterator<Item = &'a PublishRule>,
    ephemeral: &RangeInclusive<u16>,
) -> Bound {
    let mut bound = Bound { tcp: PortSet::empty(), udp: PortSet::empty() };
    let read_tcp = tables.for_each(true, |port| bound.tcp.insert(port));
    let read_udp = tables.for_each(false, |port| {
        if !ephemeral.contains(&port) {
            bound.udp.insert(port);
        }
    });
    if let Err(error) = read_tcp.and(read_udp) {
        debug!(%error, "the tables of ports cannot be read");
    }
    for rule in ours {
        match rule.protocol {
            PortProtocol::Tcp => bound.tcp.remove(rule.host_port),
            PortProtocol::Udp => bound.udp.remove(rule.host_port),
        }
    }
    bound
}

/// What makes `listening` follow `bound`; `following` are those of them that do.
fn changes<L: Copy + PartialEq>(
    followed: &[PortsAt],
    bound: &Bound,
    listening: &[(L, PublishRule)],
    following: &mut Vec<L>,
) -> Vec<Change<L>> {
    let is_bound = |protocol, port| match protocol {
        PortProtocol::Tcp => bound.tcp.contains(port),
        PortProtocol::Udp => bound.udp.contains(port),
    };
    let mut changes = Vec::new();
    following.retain(|listener| {
        let rule = listening.iter().find(|(other, _)| other == listener).map(|(_, rule)| rule);
        let stays = rule.is_some_and(|rule| is_bound(rule.protocol, rule.container_port));
        if !stays {
            changes.push(Change::Close(*listener));
        }
        stays
    });
    for ports in followed {
        let wanted = match ports.protocol {
            PortProtocol::Tcp => &bound.tcp,
            PortProtocol::Udp => &bound.udp,
        };
        for port in wanted.iter().filter(|port| ports.ports.contains(*port)) {
            let rule = ports.rule(port);
            let has = listening.iter().any(|(_, other)| {
                other.protocol == rule.protocol
                    && other.host_port == rule.host_port
                    && other.host_address == rule.host_address
            });
            if !has {
                changes.push(Change::Listen(rule));
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn at(ports: PortSet) -> PortsAt {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        PortsAt { protocol: PortProtocol::Tcp, address, interface: None, ports }
    }

    fn bound(ports: &[u16]) -> Bound {
        let mut bound = Bound { tcp: PortSet::empty(), udp: PortSet::empty() };
        ports.iter().for_each(|port| bound.tcp.insert(*port));
        bound
    }

    #[test]
    fn what_comes_is_listened_on_and_what_goes_no_longer() {
        let followed = [at(PortSet::all())];
        let mut following = Vec::new();
        let listen = changes(&followed, &bound(&[80, 8080]), &[], &mut following);
        assert_eq!(listen, [Change::Listen(followed[0].rule(80)), Change::Listen(followed[0].rule(8080))]);
        let listening = [(7, followed[0].rule(80)), (8, followed[0].rule(8080))];
        following.extend([7, 8]);
        assert_eq!(changes(&followed, &bound(&[80, 8080]), &listening, &mut following), []);
        assert_eq!(changes(&followed, &bound(&[8080]), &listening, &mut following), [Change::Close(7)]);
        assert_eq!(following, [8]);
    }

    #[test]
    fn what_is_listed_is_neither_listened_on_twice_nor_given_up() {
        let followed = [at(PortSet::all())];
        let listening = [(1, followed[0].rule(80))];
        let mut following: Vec<i32> = Vec::new();
        assert_eq!(changes(&followed, &bound(&[80]), &listening, &mut following), []);
        assert_eq!(changes(&followed, &bound(&[]), &listening, &mut following), []);
    }

    #[test]
    fn excluded_ports_are_not_followed() {
        let mut ports = PortSet::all();
        ports.remove(22);
        let followed = [at(ports)];
        let changes: Vec<Change<u32>> = changes(&followed, &bound(&[22, 23]), &[], &mut Vec::new());
        assert_eq!(changes, [Change::Listen(followed[0].rule(23))]);
    }

    #[test]
    fn what_we_listen_on_ourselves_is_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tables = PortTables::own().unwrap();
        assert!(read(&mut tables, [].iter(), &(0..=0)).tcp.contains(port));
        let ours = at(PortSet::all()).rule(port);
        assert!(!read(&mut tables, [ours].iter(), &(0..=0)).tcp.contains(port));
    }
}
