//! The policy, against a model that asks each rule by itself.

use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::stack::forward::tests::config;
use crate::wire::dns_answer as dns;

fn policy(toml: &str) -> Policy {
    let mut config = config(false);
    config.host_addresses = vec!["192.0.2.7".parse().unwrap()];
    config.host_networks = vec!["192.0.2.0/24".parse().unwrap()];
    Policy::new(&config, Rules::from_toml(toml).unwrap(), RandomState::with_seeds(1, 2, 3, 4))
}

fn out(policy: &Policy, protocol: FlowProtocol, peer: &str) -> Verdict {
    policy.decide(&Ask::outbound(protocol, peer.parse().unwrap()), None, Instant::ZERO).verdict
}

fn learn(policy: &mut Policy, name: &str, records: &[(&str, Result<&str, &str>)]) {
    let question = dns::question(&dns::query(1, name, dns::A).unwrap()).unwrap();
    let records: Vec<_> = records
        .iter()
        .map(|(owner, data)| dns::Record {
            owner: (*owner).to_owned(),
            ttl: 60,
            data: match data {
                Ok(address) => dns::Data::Address(address.parse().unwrap()),
                Err(alias) => dns::Data::Alias((*alias).to_owned()),
            },
        })
        .collect();
    policy.names.learn(&question, &records, Instant::ZERO);
}

const PRESETS: &str = "presets = ['no-lan', 'no-metadata', 'no-host']";

#[rstest]
#[case("10.1.2.3:80", Verdict::Reject)]
#[case("192.168.1.1:53", Verdict::Reject)]
#[case("100.64.0.1:80", Verdict::Reject)]
#[case("169.254.169.254:80", Verdict::Reject)]
#[case("168.63.129.16:80", Verdict::Reject)]
#[case("[fd00:ec2::254]:80", Verdict::Reject)]
#[case("[fe80::1]:80", Verdict::Reject)]
#[case("127.0.0.1:80", Verdict::Reject)]
#[case("[::1]:80", Verdict::Reject)]
#[case("192.0.2.7:22", Verdict::Reject)]
#[case("192.0.2.9:22", Verdict::Reject)]
#[case("[64:ff9b::a01:203]:80", Verdict::Reject)]
#[case("[2002:a9fe:a9fe::1]:80", Verdict::Reject)]
#[case("203.0.113.5:80", Verdict::Allow)]
#[case("172.32.0.1:80", Verdict::Allow)]
#[case("[2001:db8::1]:80", Verdict::Allow)]
#[case("[64:ff9b::cb00:7105]:80", Verdict::Allow)]
fn presets_keep_the_container_out_of_what_is_near(#[case] peer: &str, #[case] verdict: Verdict) {
    assert_eq!(out(&policy(PRESETS), FlowProtocol::Tcp, peer), verdict);
}

#[test]
fn an_address_that_stands_for_another_is_allowed_as_itself_only() {
    let policy = policy("default='deny'\n[[rule]]\nallow=['10.1.2.3', '64:ff9b::c000:201']");
    assert_eq!(out(&policy, FlowProtocol::Tcp, "[64:ff9b::a01:203]:80"), Verdict::Deny);
    assert_eq!(out(&policy, FlowProtocol::Tcp, "[64:ff9b::c000:201]:80"), Verdict::Allow);
}

#[test]
fn a_name_lets_through_what_was_asked_for_by_it_and_no_alias_of_it() {
    let mut policy = policy("presets=['allow-list']\n[[rule]]\nallow=['*.crates.io']\nports=443");
    learn(
        &mut policy,
        "static.crates.io",
        &[("static.crates.io", Err("cdn.net")), ("cdn.net", Ok("203.0.113.1"))],
    );
    // Whoever has evil.org says that it is another name of an allowed one, with an address of his choice.
    learn(&mut policy, "evil.org", &[("evil.org", Err("a.crates.io")), ("a.crates.io", Ok("203.0.113.2"))]);
    assert_eq!(out(&policy, FlowProtocol::Tcp, "203.0.113.1:443"), Verdict::Allow);
    assert_eq!(out(&policy, FlowProtocol::Tcp, "203.0.113.1:80"), Verdict::Reject);
    assert_eq!(out(&policy, FlowProtocol::Tcp, "203.0.113.2:443"), Verdict::Reject);
    let later = policy.decide(
        &Ask::outbound(FlowProtocol::Tcp, "203.0.113.1:443".parse().unwrap()),
        None,
        Instant::from_secs(60),
    );
    assert_eq!(later.verdict, Verdict::Reject, "the name is known no longer");
}

#[test]
fn a_forbidden_name_is_found_behind_aliases() {
    let mut policy = policy("[[rule]]\ndeny=['*.tracker.net']");
    learn(
        &mut policy,
        "shop.org",
        &[("shop.org", Err("x.tracker.net")), ("x.tracker.net", Ok("203.0.113.1"))],
    );
    assert_eq!(out(&policy, FlowProtocol::Udp, "203.0.113.1:443"), Verdict::Deny);
}

#[rstest]
#[case("", Some("a.org"), Verdict::Allow)]
#[case("dns='reject'", Some("a.org"), Verdict::Reject)]
#[case("[[rule]]\nprotocol='dns'\ndeny='*.org'", Some("a.org"), Verdict::Deny)]
#[case("[[rule]]\nprotocol='dns'\ndeny='*.org'", Some("a.net"), Verdict::Allow)]
#[case("[[rule]]\nprotocol='dns'\ndeny='*.org'", None, Verdict::Deny)]
#[case("dns='deny'\n[[rule]]\nprotocol='dns'\nallow='*.org'", Some("a.org"), Verdict::Allow)]
#[case("dns='deny'\n[[rule]]\nprotocol='dns'\nallow='*.org'", None, Verdict::Deny)]
#[case("dns='listed'\n[[rule]]\nallow='*.org'", Some("a.org"), Verdict::Allow)]
#[case("dns='listed'\n[[rule]]\nallow='*.org'", Some("a.net"), Verdict::Reject)]
#[case("dns='listed'\n[[rule]]\nallow='*.org'", None, Verdict::Reject)]
#[case("default='deny'\n[[rule]]\ndeny='*.org'", Some("a.org"), Verdict::Allow)]
fn queries_are_judged_by_the_name_they_ask_for(
    #[case] toml: &str,
    #[case] name: Option<&str>,
    #[case] verdict: Verdict,
) {
    assert_eq!(policy(toml).decide(&Ask::Query { name }, None, Instant::ZERO).verdict, verdict);
}

/// A rule as the model has it: nothing prepared, each part asked by itself.
#[derive(Debug, Clone)]
struct Plain {
    verdict: Verdict,
    direction: Direction,
    protocols: Vec<&'static str>,
    peers: Vec<&'static str>,
    ports: Option<(u16, u16)>,
}

const PEERS: [&str; 8] =
    ["any", "10.0.0.0/8", "10.1.0.0/16", "203.0.113.1", "fd00::/8", "a.org", "*.org", "host"];
const ADDRESSES: [&str; 6] = ["10.1.0.1", "10.2.0.1", "203.0.113.1", "192.0.2.7", "fd00::1", "2001:db8::1"];
/// The names that these addresses were given for.
const NAMES: [&str; 6] = ["a.org", "b.org", "x.net", "", "c.org", "a.org"];

fn plain() -> impl Strategy<Value = Plain> {
    let verdict = prop::sample::select(vec![Verdict::Allow, Verdict::Deny, Verdict::Reject]);
    let peers = prop::sample::subsequence(PEERS.to_vec(), 1..4);
    let protocols = prop::sample::subsequence(vec!["tcp", "udp", "icmp"], 0..3);
    (verdict, any::<bool>(), protocols, peers, prop::option::of((1u16..4, 0u16..3))).prop_map(
        |(verdict, is_in, protocols, peers, ports)| {
            let direction = if is_in { Direction::In } else { Direction::Out };
            Plain {
                verdict,
                direction,
                protocols,
                peers,
                ports: ports.map(|(first, more)| (first, first + more)),
            }
        },
    )
}

impl Plain {
    fn written(&self) -> Option<Rule> {
        let protocols: Vec<_> =
            self.protocols.iter().filter_map(|name| RuleProtocol::of_name(name)).collect();
        let rule = Rule {
            verdict: self.verdict,
            direction: self.direction,
            protocols: if protocols.is_empty() {
                crate::config::rules::Protocols::TRAFFIC
            } else {
                crate::config::rules::Protocols::of(&protocols)
            },
            peers: Peers::parse(&self.peers).unwrap(),
            ports: crate::config::rules::Ports::of(self.ports.into_iter().collect()),
            label: None,
            limit: crate::config::RateLimits::default(),
        };
        rule.checked().ok()
    }

    fn matches(&self, direction: Direction, protocol: &str, place: usize, port: u16) -> bool {
        let address: IpAddr = ADDRESSES[place].parse().unwrap();
        let is_peer = |peer: &&str| match *peer {
            "any" => true,
            "host" => ADDRESSES[place] == "192.0.2.7",
            "a.org" => NAMES[place] == "a.org",
            "*.org" => NAMES[place].ends_with(".org"),
            subnet => subnet
                .parse::<ipnet::IpNet>()
                .or_else(|_| subnet.parse::<IpAddr>().map(ipnet::IpNet::from))
                .is_ok_and(|subnet| subnet.contains(&address)),
        };
        let has_port =
            self.ports.is_none_or(|(first, last)| protocol != "icmp" && first <= port && port <= last);
        self.direction == direction
            && (self.protocols.is_empty() || self.protocols.contains(&protocol))
            && self.peers.iter().any(is_peer)
            && has_port
    }
}

proptest! {
    /// The first rule of the naive model that matches is the one that decides.
    #[test]
    fn the_first_match_decides_as_in_the_model(
        plain in prop::collection::vec(plain(), 0..8),
        is_in in any::<bool>(),
        protocol in prop::sample::select(FlowProtocol::ALL.to_vec()),
        place in 0..ADDRESSES.len(),
        port in 1u16..6,
    ) {
        let (plain, list): (Vec<_>, Vec<_>) =
            plain.into_iter().filter_map(|plain| plain.written().map(|rule| (plain, rule))).unzip();
        let rules = Rules { list, default_out: Verdict::Deny, ..Rules::default() };
        let mut policy = Policy { rules, ..policy("") };
        for (address, name) in ADDRESSES.iter().zip(NAMES).filter(|(_, name)| !name.is_empty()) {
            learn(&mut policy, name, &[(name, Ok(address))]);
        }
        let peer = SocketAddr::new(ADDRESSES[place].parse().unwrap(), port);
        let (direction, ask) = if is_in {
            (Direction::In, Ask::inbound(protocol, peer, port))
        } else {
            (Direction::Out, Ask::outbound(protocol, peer))
        };
        let decided = policy.decide(&ask, None, Instant::ZERO);
        let expected = plain.iter().position(|rule| rule.matches(direction, protocol.name(), place, port));
        match expected {
            Some(place) => {
                prop_assert_eq!(decided, Judgement { verdict: plain[place].verdict, rule: RuleMark::of(place) });
            }
            None if is_in => prop_assert_eq!(decided.rule, policy.standing(Standing::DefaultIn)),
            None => prop_assert_eq!(decided.verdict, Verdict::Deny),
        }
    }
}
