//! The policy of an instance, parsed and checked: rules in their order, and what becomes of what none of them matches.
//!
//! A rule names a direction, protocols, peers and ports, and matches what all four match. The peer is the endpoint on the
//! host's side, where the traffic really goes or comes from: the gateway as an alias of the host's loopback is 127.0.0.1
//! here. The port is the server's: the peer's toward the world, the container's for published ports.
//!
//! [`file`] reads rules from TOML, [`text`] writes them, [`spec`] from one argument of the command line, [`preset`] has the named ones.

pub mod file;
pub mod preset;
pub mod recording;
pub mod set;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod text;

use std::fmt;

use self::preset::Preset;
use self::set::{AddressSet, NameSet};
use super::limits::{RULE_PEERS, RULES};
use super::rate::{RateLimits, SpecError};

/// What becomes of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verdict {
    /// It goes on.
    #[default]
    Allow,
    /// It is dropped, silently.
    Deny,
    /// It is dropped, and its sender told: by RST, by ICMP administratively prohibited, by REFUSED.
    Reject,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Reject => "reject",
        }
    }
}

/// Who initiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// The container.
    #[default]
    Out,
    /// A client of a published port.
    In,
}

impl Direction {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Direction::Out => "out",
            Direction::In => "in",
        }
    }
}

/// What a rule can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo.
    Icmp,
    /// A query to the DNS forwarder, over UDP or TCP.
    Dns,
}

impl RuleProtocol {
    /// All of them.
    pub const ALL: [RuleProtocol; 4] =
        [RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Icmp, RuleProtocol::Dns];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RuleProtocol::Tcp => "tcp",
            RuleProtocol::Udp => "udp",
            RuleProtocol::Icmp => "icmp",
            RuleProtocol::Dns => "dns",
        }
    }

    /// The protocol of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<RuleProtocol> {
        RuleProtocol::ALL.into_iter().find(|protocol| protocol.name() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// All that goes somewhere: what asks the DNS forwarder is another matter.
    pub const TRAFFIC: Protocols = Protocols(0b0111);

    /// These.
    #[must_use]
    pub fn of(protocols: &[RuleProtocol]) -> Protocols {
        Protocols(protocols.iter().fold(0, |bits, protocol| bits | protocol.bit()))
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(self, protocol: RuleProtocol) -> bool {
        self.0 & protocol.bit() != 0
    }
}

/// Ports; empty for all of them, and for what has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// These ranges, both ends included.
    #[must_use]
    pub fn of(ranges: Vec<(u16, u16)>) -> Ports {
        Ports(ranges)
    }

    /// Whether a rule with them matches all ports.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_any() || self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

/// Peers that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// Everybody.
    pub anyone: bool,
    /// The host itself: its addresses and its loopback.
    pub host: bool,
    /// The networks that the host is on, those of private use, and what is link-local.
    pub lan: bool,
    /// By address.
    pub addresses: AddressSet,
    /// By the names that they were found by.
    pub names: NameSet,
    /// As they were written.
    written: Vec<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of what it matches.
    pub verdict: Verdict,
    /// Who initiates.
    pub direction: Direction,
    /// Protocols.
    pub protocols: Protocols,
    /// Peers.
    pub peers: Peers,
    /// Ports.
    pub ports: Ports,
    /// What its author calls it.
    pub label: Option<String>,
    /// What the flows that it lets through may carry together.
    pub limit: RateLimits,
}

/// Why there is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Neither an address nor a subnet nor a name.
    #[error(
        "'{0}' is no peer; write an address, a subnet, a name, *.name, or one of any, host, lan and metadata"
    )]
    Peer(String),
    /// A rule for nobody.
    #[error("it names no peer; write \"any\" for everybody")]
    NoPeer,
    /// Not a port.
    #[error("'{0}' is no port; write one from 1 to 65535, or a range as in 8000-8999")]
    Port(String),
    /// Not a protocol.
    #[error("'{0}' is no protocol; there are tcp, udp, icmp and dns")]
    Protocol(String),
    /// Not a verdict.
    #[error("'{0}' is no verdict; there are allow, deny and reject")]
    Verdict(String),
    /// Not a direction.
    #[error("'{0}' is no direction; there are out and in")]
    Direction(String),
    /// What becomes of queries.
    #[error("'{0}' cannot become of queries; there are allow, listed, deny and reject")]
    Dns(String),
    /// Not a preset.
    #[error("'{0}' is no preset; there are no-lan, no-metadata, no-host and allow-list")]
    Preset(String),
    /// Rates of a rule.
    #[error("limit {0}")]
    Limit(#[from] SpecError),
    /// Rates of what does not pass.
    #[error("what is not allowed has no rate; leave the limit out, or allow it")]
    NoLimit,
    /// Ports of what has none.
    #[error("only tcp and udp have ports; leave the ports or the other protocols out")]
    NoPorts,
    /// Names of those who come in.
    #[error("who comes in is known by address only; leave the names out")]
    NamesIn,
    /// Queries are asked from inside, and their peers are names.
    #[error("a rule about dns is about the names that the container asks for; name those, or any")]
    NotAsked,
    /// Too many.
    #[error("there are more than {0} rules")]
    TooManyRules(usize),
    /// Too many.
    #[error("the rules have more than {0} peers in all")]
    TooManyPeers(usize),
}

impl Rule {
    /// A rule about what goes out to these peers.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new<S: AsRef<str>>(verdict: Verdict, peers: &[S]) -> Result<Rule, RuleError> {
        let rule = Rule {
            verdict,
            direction: Direction::Out,
            protocols: Protocols::TRAFFIC,
            peers: Peers::parse(peers)?,
            ports: Ports::default(),
            label: None,
            limit: RateLimits::default(),
        };
        rule.checked()
    }

    /// The rule, if its parts agree.
    ///
    /// # Errors
    /// Which do not.
    pub fn checked(mut self) -> Result<Rule, RuleError> {
        let has_dns = self.protocols.contains(RuleProtocol::Dns);
        if !self.ports.is_any() {
            let with_ports = Protocols::of(&[RuleProtocol::Tcp, RuleProtocol::Udp]);
            match self.protocols {
                Protocols::TRAFFIC => self.protocols = with_ports,
                Protocols(bits) if bits & !with_ports.0 == 0 => {}
                Protocols(_) => return Err(RuleError::NoPorts),
            }
        }
        if self.verdict != Verdict::Allow && !self.limit.is_off() {
            return Err(RuleError::NoLimit);
        }
        if self.direction == Direction::In && !self.peers.names.is_empty() {
            return Err(RuleError::NamesIn);
        }
        let Peers { host, lan, addresses, .. } = &self.peers;
        let by_address = *host || *lan || !addresses.is_empty();
        if has_dns && (self.direction == Direction::In || by_address) {
            return Err(RuleError::NotAsked);
        }
        Ok(self)
    }
}

impl fmt::Display for Rule {
    /// As in `allow out tcp *.crates.io 443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict.name(), self.direction.name())?;
        if self.protocols != Protocols::TRAFFIC {
            let all = RuleProtocol::ALL.into_iter().filter(|protocol| self.protocols.contains(*protocol));
            let names: Vec<_> = all.map(RuleProtocol::name).collect();
            write!(f, " {}", names.join(","))?;
        }
        write!(f, " {}", self.peers)?;
        for (place, (first, last)) in self.ports.0.iter().enumerate() {
            f.write_str(if place == 0 { " " } else { "," })?;
            write!(f, "{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
        }
        if self.limit.is_off() { Ok(()) } else { write!(f, " limit {}", self.limit) }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let shown = self.written.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>();
        f.write_str(&shown.join(","))?;
        match self.written.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ",... ({more} more)"),
        }
    }
}

/// What becomes of a query to the DNS forwarder that no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsDefault {
    /// It is asked.
    #[default]
    Allow,
    /// It is asked if a rule that allows something names what it asks for; otherwise it is refused.
    Listed,
    /// It is dropped.
    Deny,
    /// It is refused.
    Reject,
}

impl DnsDefault {
    /// All of them.
    pub const ALL: [DnsDefault; 4] =
        [DnsDefault::Allow, DnsDefault::Listed, DnsDefault::Deny, DnsDefault::Reject];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DnsDefault::Allow => "allow",
            DnsDefault::Listed => "listed",
            DnsDefault::Deny => "deny",
            DnsDefault::Reject => "reject",
        }
    }
}

/// The policy of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// In their order: the first that matches decides.
    pub list: Vec<Rule>,
    /// What becomes of what goes out and no rule matches.
    pub default_out: Verdict,
    /// What becomes of what comes in and no rule matches.
    pub default_in: Verdict,
    /// What becomes of queries that no rule matches.
    pub default_dns: DnsDefault,
}

impl Rules {
    /// Whether they say nothing: everything goes where it says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Rules::default()
    }

    /// Whether a rule knows peers by name.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.list.iter().any(|rule| !rule.peers.names.is_empty())
    }

    /// Adds what a preset says behind what is there.
    pub fn apply(&mut self, preset: Preset) {
        match preset.rule() {
            Some(rule) => self.list.push(rule),
            None => self.default_out = Verdict::Reject,
        }
    }

    /// Adds others behind what is there. What they say of the rest counts, where they say anything.
    pub fn append(&mut self, others: Rules) {
        self.list.extend(others.list);
        let stricter = |ours: Verdict, theirs| if theirs == Verdict::Allow { ours } else { theirs };
        self.default_out = stricter(self.default_out, others.default_out);
        self.default_in = stricter(self.default_in, others.default_in);
        if others.default_dns != DnsDefault::Allow {
            self.default_dns = others.default_dns;
        }
    }

    /// The rules, if there are not too many.
    ///
    /// # Errors
    /// How many may be.
    pub fn bounded(self) -> Result<Rules, RuleError> {
        if self.list.len() > RULES {
            return Err(RuleError::TooManyRules(RULES));
        }
        if self.list.iter().map(|rule| rule.peers.written.len()).sum::<usize>() > RULE_PEERS {
            return Err(RuleError::TooManyPeers(RULE_PEERS));
        }
        Ok(self)
    }
}
