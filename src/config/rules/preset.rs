//! Rules that many want, by name.

use crate::config::rate::RateLimits;

use super::{Direction, Peers, Ports, Protocols, Rule, RuleError, Verdict};

/// Addresses at which the machines of cloud providers are told their secrets: the one that nearly all have, those of
/// Amazon's containers and of IPv6 at Amazon and Google, and those of Alibaba and Azure.
pub const METADATA: [&str; 6] =
    ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"];

/// The networks of private use (RFC 1918, RFC 4193), of carriers (RFC 6598) and of a single link; those that the host is
/// on come in addition.
pub const LAN: [&str; 7] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// The host's loopback; its addresses come in addition.
pub const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

/// A named part of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Nothing in networks of private use, nor in those that the host is on.
    NoLan,
    /// No metadata service of a cloud.
    NoMetadata,
    /// Not the host itself.
    NoHost,
    /// Only what a rule allows.
    AllowList,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 4] = [Preset::NoLan, Preset::NoMetadata, Preset::NoHost, Preset::AllowList];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preset::NoLan => "no-lan",
            Preset::NoMetadata => "no-metadata",
            Preset::NoHost => "no-host",
            Preset::AllowList => "allow-list",
        }
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn of_name(name: &str) -> Result<Preset, RuleError> {
        let found = Preset::ALL.into_iter().find(|preset| preset.name() == name);
        found.ok_or_else(|| RuleError::Preset(name.to_owned()))
    }

    /// The rule that it is; none for the one that is a default.
    pub(super) fn rule(self) -> Option<Rule> {
        let peers = match self {
            Preset::NoLan => Peers::parse(&["lan"]),
            Preset::NoMetadata => Peers::parse(&["metadata"]),
            Preset::NoHost => Peers::parse(&["host"]),
            Preset::AllowList => return None,
        };
        Some(Rule {
            verdict: Verdict::Reject,
            direction: Direction::Out,
            protocols: Protocols::TRAFFIC,
            peers: peers.expect("the words of presets are peers"),
            ports: Ports::default(),
            label: Some(self.name().to_owned()),
            limit: RateLimits::default(),
        })
    }
}
