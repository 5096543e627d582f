//! One rule as an argument: `[out:|in:]PEER[:PORT[-END][,PORT...]][/tcp|udp|icmp|dns]`, as in `*.crates.io:443/tcp`,
//! `10.0.0.0/8`, `[fd00::/8]:80` and `in:203.0.113.0/24:8080`.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::preset::{LAN, LOOPBACK, METADATA};
use super::set::AddressSet;
use crate::config::rate::RateLimits;

use super::{Direction, Peers, Ports, Protocols, Rule, RuleError, RuleProtocol, Verdict};

impl Rule {
    /// The rule that an argument describes.
    ///
    /// # Errors
    /// Which part of it is none.
    pub fn from_spec(verdict: Verdict, text: &str) -> Result<Rule, RuleError> {
        let (direction, rest) = match (text.strip_prefix("in:"), text.strip_prefix("out:")) {
            (Some(rest), _) => (Direction::In, rest),
            (None, Some(rest)) => (Direction::Out, rest),
            (None, None) => (Direction::Out, text),
        };
        let (rest, protocols) = match rest.rsplit_once('/') {
            Some((rest, name)) if !name.starts_with(|first: char| first.is_ascii_digit()) => {
                let protocol =
                    RuleProtocol::of_name(name).ok_or_else(|| RuleError::Protocol(name.to_owned()))?;
                (rest, Protocols::of(&[protocol]))
            }
            Some(_) | None => (rest, Protocols::TRAFFIC),
        };
        let (peer, ports) = split_ports(rest)?;
        let rule = Rule {
            verdict,
            direction,
            protocols,
            peers: Peers::parse(&[peer])?,
            ports: ports.map(Ports::parse).transpose()?.unwrap_or_default(),
            label: None,
            limit: RateLimits::default(),
        };
        rule.checked()
    }
}

/// The peer and the ports behind it, if there are any; colons without brackets are those of an IPv6 address.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    let none = || RuleError::Peer(text.to_owned());
    if let Some(rest) = text.strip_prefix('[') {
        let (peer, rest) = rest.split_once(']').ok_or_else(none)?;
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((peer, Some(ports))),
            None if rest.is_empty() => Ok((peer, None)),
            None => Err(none()),
        };
    }
    if network(text).is_some() {
        return Ok((text, None));
    }
    Ok(text.rsplit_once(':').map_or((text, None), |(peer, ports)| (peer, Some(ports))))
}

impl Peers {
    /// Everybody who is one of these.
    ///
    /// # Errors
    /// Which is nobody.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Peers, RuleError> {
        let mut peers = Peers::default();
        let mut networks = Vec::new();
        let known = |texts: &[&str]| texts.iter().filter_map(|text| network(text)).collect::<Vec<_>>();
        for text in texts.iter().map(AsRef::as_ref) {
            match text {
                "any" | "*" => peers.anyone = true,
                "host" => {
                    peers.host = true;
                    networks.extend(known(&LOOPBACK));
                }
                "lan" => {
                    peers.lan = true;
                    networks.extend(known(&LAN));
                }
                "metadata" => networks.extend(known(&METADATA)),
                _ => match network(text) {
                    Some(network) => networks.push(network),
                    None if peers.names.add(text) => {}
                    None => return Err(RuleError::Peer(text.to_owned())),
                },
            }
            peers.written.push(text.to_owned());
        }
        peers.addresses = AddressSet::of(networks);
        if peers.written.is_empty() { Err(RuleError::NoPeer) } else { Ok(peers) }
    }
}

/// An address or a subnet. One with host bits is the subnet that it is in.
fn network(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Ports {
    /// Ports and ranges of ports with commas between them.
    ///
    /// # Errors
    /// Which is none.
    pub fn parse(text: &str) -> Result<Ports, RuleError> {
        text.split(',').map(range).collect::<Result<_, _>>().map(Ports)
    }
}

fn range(text: &str) -> Result<(u16, u16), RuleError> {
    let port = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port: &u16| *port > 0 && is_number)
    };
    let ends = match text.split_once('-') {
        Some((first, last)) => port(first).zip(port(last)),
        None => port(text).map(|port| (port, port)),
    };
    ends.filter(|(first, last)| first <= last).ok_or_else(|| RuleError::Port(text.to_owned()))
}

impl FromStr for Verdict {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Verdict, RuleError> {
        let all = [Verdict::Allow, Verdict::Deny, Verdict::Reject];
        let found = all.into_iter().find(|verdict| verdict.name() == text);
        found.ok_or_else(|| RuleError::Verdict(text.to_owned()))
    }
}
