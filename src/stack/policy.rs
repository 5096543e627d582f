//! The policy: whether traffic may go where [`super::forward`] would send it.
//!
//! A pure decision. The first rule that matches says what becomes of it, else the default of its direction. It is asked
//! once for each flow, whatever its protocol and way: TCP, UDP, echo, published ports, what is spliced past the link, and
//! for each query of the DNS forwarder. Packets of a flow that was let through ask nobody. Where there is no policy there is
//! nothing to ask.
//!
//! Peers are judged by the address on the host's side. One that stands for an IPv4 address (NAT64, 6to4) is refused when
//! either is, and allowed as itself only. Names are those of [`names`].

pub mod explain;
pub mod judge;
pub mod names;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;

pub use self::explain::describe;
use self::names::Names;
use super::boundary::Instant;
use super::flow::FlowProtocol;
use super::forward::embedded_ipv4;
use crate::config::Config;
use crate::config::rules::set::AddressSet;
use crate::config::rules::{Direction, DnsDefault, Peers, Rule, RuleProtocol, Rules, Verdict};

/// Names a rule of the policy that is in force, or one of its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleMark(u16);

impl RuleMark {
    /// No policy was asked.
    pub const NONE: RuleMark = RuleMark(u16::MAX);

    /// The user's hook is asked first, and has not answered yet ([`super::hook`]).
    pub const AWAITED: RuleMark = RuleMark(u16::MAX - 1);

    /// The rule at this place.
    #[must_use]
    pub fn of(index: usize) -> RuleMark {
        let place = u16::try_from(index).ok().filter(|place| *place < RuleMark::AWAITED.0);
        place.map_or(RuleMark::NONE, RuleMark)
    }

    /// Its place.
    #[must_use]
    pub fn index(self) -> Option<usize> {
        (self.0 < RuleMark::AWAITED.0).then_some(usize::from(self.0))
    }
}

/// What stands behind the rules in the list of what decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The default of what goes out.
    DefaultOut,
    /// The default of what comes in.
    DefaultIn,
    /// The default of queries.
    DefaultDns,
    /// What was let through by rules that are no more, and is not judged again.
    Former,
    /// The user's hook, which is asked before any rule.
    Hook,
}

impl Standing {
    /// In their order.
    pub const ALL: [Standing; 5] =
        [Standing::DefaultOut, Standing::DefaultIn, Standing::DefaultDns, Standing::Former, Standing::Hook];
}

/// What is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// A flow.
    Flow {
        /// Who initiates.
        direction: Direction,
        /// Transport.
        protocol: FlowProtocol,
        /// The endpoint on the host's side.
        peer: SocketAddr,
        /// The server's port.
        port: u16,
        /// A name that the peer would have been found by.
        assumed: Option<&'a str>,
    },
    /// A query to the DNS forwarder; the name is unknown of what is asked over TCP, or is none.
    Query {
        /// What is asked for.
        name: Option<&'a str>,
    },
}

impl<'a> Ask<'a> {
    /// The same of a peer that would have been found by this name.
    #[must_use]
    pub fn assuming(self, name: Option<&'a str>) -> Ask<'a> {
        match self {
            Ask::Flow { direction, protocol, peer, port, assumed: _ } => {
                Ask::Flow { direction, protocol, peer, port, assumed: name }
            }
            Ask::Query { .. } => self,
        }
    }

    /// About a flow that the container initiates.
    #[must_use]
    pub fn outbound(protocol: FlowProtocol, peer: SocketAddr) -> Ask<'static> {
        Ask::Flow { direction: Direction::Out, protocol, peer, port: peer.port(), assumed: None }
    }

    /// About a client of a published port that leads to `port` of the container.
    #[must_use]
    pub fn inbound(protocol: FlowProtocol, client: SocketAddr, port: u16) -> Ask<'static> {
        let peer = SocketAddr::new(client.ip().to_canonical(), client.port());
        Ask::Flow { direction: Direction::In, protocol, peer, port, assumed: None }
    }
}

/// What was decided, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rule.
    pub rule: RuleMark,
}

/// What the words `host` and `lan` stand for here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    host: AddressSet,
    lan: AddressSet,
}

impl Surroundings {
    fn of(config: &Config) -> Surroundings {
        Surroundings {
            host: AddressSet::of(config.host_addresses.iter().map(|address| (*address).into())),
            lan: AddressSet::of(config.host_networks.iter().copied()),
        }
    }
}

/// The policy in force.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    around: Surroundings,
    /// What addresses are called.
    pub names: Names,
}

impl Policy {
    /// The policy of an instance.
    #[must_use]
    pub fn new(config: &Config, rules: Rules, hasher: RandomState) -> Policy {
        Policy { rules, around: Surroundings::of(config), names: Names::new(hasher) }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many marks there are.
    #[must_use]
    pub fn marks(&self) -> usize {
        self.rules.list.len() + Standing::ALL.len()
    }

    /// The mark of what stands behind the rules.
    #[must_use]
    pub fn standing(&self, which: Standing) -> RuleMark {
        RuleMark::of(self.rules.list.len() + which as usize)
    }

    /// The rule of a mark, or what stands in the place of one.
    #[must_use]
    pub fn rule(&self, mark: RuleMark) -> Option<Result<&Rule, Standing>> {
        let index = mark.index()?;
        match self.rules.list.get(index) {
            Some(rule) => Some(Ok(rule)),
            None => Standing::ALL.get(index - self.rules.list.len()).copied().map(Err),
        }
    }

    /// Decides. A rule that has let the same flow through before, `held`, matches it, whatever names are known now.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>, held: Option<RuleMark>, now: Instant) -> Judgement {
        let held = held.and_then(RuleMark::index);
        let matching = self
            .rules
            .list
            .iter()
            .enumerate()
            .find(|(index, rule)| held == Some(*index) || self.matches(rule, ask, now));
        if let Some((index, rule)) = matching {
            return Judgement { verdict: rule.verdict, rule: RuleMark::of(index) };
        }
        let (standing, verdict) = match ask {
            Ask::Flow { direction: Direction::Out, .. } => (Standing::DefaultOut, self.rules.default_out),
            Ask::Flow { direction: Direction::In, .. } => (Standing::DefaultIn, self.rules.default_in),
            Ask::Query { name } => (Standing::DefaultDns, self.default_of_query(*name)),
        };
        Judgement { verdict, rule: self.standing(standing) }
    }

    fn default_of_query(&self, name: Option<&str>) -> Verdict {
        match self.rules.default_dns {
            DnsDefault::Allow => Verdict::Allow,
            DnsDefault::Deny => Verdict::Deny,
            DnsDefault::Reject => Verdict::Reject,
            DnsDefault::Listed => {
                let allows = |rule: &Rule| {
                    rule.verdict == Verdict::Allow && name.is_some_and(|name| rule.peers.names.contains(name))
                };
                if self.rules.list.iter().any(allows) { Verdict::Allow } else { Verdict::Reject }
            }
        }
    }

    fn matches(&self, rule: &Rule, ask: &Ask<'_>, now: Instant) -> bool {
        match *ask {
            Ask::Flow { direction, protocol, peer, port, assumed } => {
                let protocol = match protocol {
                    FlowProtocol::Tcp => RuleProtocol::Tcp,
                    FlowProtocol::Udp => RuleProtocol::Udp,
                    FlowProtocol::Echo => RuleProtocol::Icmp,
                };
                rule.direction == direction
                    && rule.protocols.contains(protocol)
                    && rule.ports.contains(port)
                    && self.is_peer(rule, peer.ip(), assumed, now)
            }
            Ask::Query { name } => rule.protocols.contains(RuleProtocol::Dns) && is_asked_for(rule, name),
        }
    }

    fn is_peer(&self, rule: &Rule, address: IpAddr, assumed: Option<&str>, now: Instant) -> bool {
        let peers = &rule.peers;
        let is_inside = |address| {
            peers.addresses.contains(address)
                || (peers.host && self.around.host.contains(address))
                || (peers.lan && self.around.lan.contains(address))
        };
        let allows = rule.verdict == Verdict::Allow;
        peers.anyone
            || is_inside(address)
            || (!allows && embedded_ipv4(address).is_some_and(|v4| is_inside(v4.into())))
            || assumed.is_some_and(|name| peers.names.contains(name))
            || self.is_named(peers, allows, address, now)
    }

    fn is_named(&self, peers: &Peers, allows: bool, address: IpAddr, now: Instant) -> bool {
        if peers.names.is_empty() {
            return false;
        }
        let mut known = self.names.of(address, now).filter(|learnt| learnt.is_asked || !allows);
        known.any(|learnt| peers.names.contains(&learnt.name))
    }
}

/// Whether a rule is about a query. Of one whose name is not known, whatever may forbid it does.
fn is_asked_for(rule: &Rule, name: Option<&str>) -> bool {
    let peers = &rule.peers;
    let by_name = match name {
        Some(name) => peers.names.contains(name),
        None => rule.verdict != Verdict::Allow && !peers.names.is_empty(),
    };
    peers.anyone || by_name
}
