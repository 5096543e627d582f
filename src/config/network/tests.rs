//! Of subnets, names, and who may have which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::lease::*;
use super::wish::*;
use super::*;
use crate::config::address::HostNetworks;
use crate::config::forwarding::InterfaceName;
use crate::config::limits::{ALIASES_PER_MEMBER, NETWORK_MEMBERS};
use crate::config::publish::{PortProtocol, PublishRule};

fn network(wish: &NetworkWish) -> NetworkConfig {
    NetworkConfig::new("web".parse().unwrap(), wish, Surroundings::default()).unwrap()
}

fn refusal(wish: &NetworkWish, around: Surroundings<'_>) -> String {
    NetworkConfig::new("web".parse().unwrap(), wish, around).unwrap_err().to_string()
}

fn anybody() -> Admission {
    Admission {
        name: None,
        aliases: Vec::new(),
        ipv4: None,
        ipv6: None,
        interface: InterfaceName::new("eth0").unwrap(),
        publish: Vec::new(),
        rules: Default::default(),
        audited: false,
    }
}

fn named(name: &str) -> Admission {
    Admission { name: Some(name.parse().unwrap()), ..anybody() }
}

#[test]
fn a_network_is_like_dockers_unless_told_otherwise() {
    let network = network(&NetworkWish::default());
    let ipv4 = network.ipv4.unwrap();
    assert_eq!(ipv4.subnet, "172.17.0.0/16".parse().unwrap());
    assert_eq!(ipv4.gateway, Ipv4Addr::new(172, 17, 0, 1));
    let prefix = "fd40:6ce4:2b9f:100::/64".parse().unwrap();
    let ipv6 = NetworkIpv6 { prefix, gateway: "fd40:6ce4:2b9f:100::1".parse().unwrap() };
    assert_eq!((network.ipv6, network.mtu), (Some(ipv6), 1_500));
}

#[test]
fn subnets_that_the_host_or_another_network_uses_give_way_and_named_ones_are_refused() {
    let interfaces = [(IpAddr::from([172, 17, 0, 1]), 16), (IpAddr::from([172, 18, 3, 4]), 32)];
    let host = HostNetworks { interfaces: &interfaces, resolvers: &[[172, 19, 0, 53].into()] };
    let networks = [
        ("172.20.0.0/16".parse().unwrap(), "old".to_owned()),
        ("fd40:6ce4:2b9f:100::/64".parse().unwrap(), "old".to_owned()),
    ];
    let around = Surroundings { host, networks: &networks };
    let chosen = NetworkConfig::new("web".parse().unwrap(), &NetworkWish::default(), around).unwrap();
    assert_eq!(chosen.ipv4.unwrap().subnet, "172.21.0.0/16".parse().unwrap());
    assert_eq!(chosen.ipv6.unwrap().prefix, "fd40:6ce4:2b9f:101::/64".parse().unwrap());
    let ask = |text: &str| NetworkWish { subnet: Some(text.parse().unwrap()), ..NetworkWish::default() };
    assert!(refusal(&ask("172.17.5.0/24"), around).contains("overlaps 172.17.0.1/16 of a host interface"));
    assert!(refusal(&ask("172.19.0.0/16"), around).contains("resolver 172.19.0.53"));
    assert!(refusal(&ask("172.20.7.0/24"), around).contains("172.20.0.0/16 of network old"));
}

#[test]
fn what_cannot_be_a_network_is_refused_in_one_line() {
    let base = NetworkWish::default();
    let subnet = |text: &str| NetworkWish { subnet: Some(text.parse().unwrap()), ..base.clone() };
    let cases = [
        (subnet("10.1.2.3/24"), "10.1.2.0/24 is the subnet"),
        (subnet("127.0.0.0/16"), "loopback"),
        (subnet("10.1.2.0/30"), "no room"),
        (NetworkWish { gateway: Some([10, 0, 0, 1].into()), ..base.clone() }, "cannot be the gateway"),
        (NetworkWish { gateway: Some([172, 17, 0, 0].into()), ..base.clone() }, "cannot be the gateway"),
        (NetworkWish { gateway: Some([172, 17, 255, 255].into()), ..base.clone() }, "cannot be the gateway"),
        (NetworkWish { subnet6: Some("fe80::/64".parse().unwrap()), ..base.clone() }, "link-local"),
        (NetworkWish { gateway6: Some(Ipv6Addr::LOCALHOST), ..base.clone() }, "cannot be the gateway"),
        (NetworkWish { mtu: Some(1_000), ..base.clone() }, "1280"),
    ];
    for (wish, expected) in cases {
        let text = refusal(&wish, Surroundings::default());
        assert!(text.contains(expected) && !text.contains('\n'), "{wish:?}: {text}");
    }
    for name in ["", "-x", ".", "..", "a/b", "a b", &"a".repeat(64)] {
        assert!(name.parse::<NetworkName>().is_err(), "{name}");
    }
    assert!("my_net-1.x".parse::<NetworkName>().is_ok());
}

#[test]
fn names_of_hosts_are_kept_in_small_letters_and_no_other_names_are() {
    for (text, kept) in [("Web", "web"), ("my_db-1", "my_db-1"), ("db.Internal", "db.internal"), ("1a", "1a")]
    {
        assert_eq!(text.parse::<HostName>().unwrap().as_str(), kept);
    }
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
    let label = "a".repeat(64);
    for text in ["", ".", "a.", "a..b", "-a", "a-", "a b", "ä", "10.0.0.1", &long, &label] {
        assert!(text.parse::<HostName>().is_err(), "{text}");
    }
}

/// A network, and who has come to it so far.
struct Board {
    network: NetworkConfig,
    present: Vec<Member>,
    count: u32,
}

impl Board {
    fn new(wish: &NetworkWish) -> Board {
        Board { network: network(wish), present: Vec::new(), count: 0 }
    }

    fn admit(&mut self, wanted: Admission) -> Result<Member, MemberError> {
        self.count += 1;
        let member = lease(&self.network, &self.present, format!("{:012x}", self.count), wanted)?;
        self.present.push(member.clone());
        Ok(member)
    }
}

#[test]
fn members_get_the_lowest_free_addresses_and_their_mac_follows() {
    let mut board = Board::new(&NetworkWish::default());
    let first = board.admit(named("web")).unwrap();
    assert_eq!(first.ipv4, Some(Ipv4Addr::new(172, 17, 0, 2)));
    assert_eq!(first.ipv6, Some("fd40:6ce4:2b9f:100::2".parse().unwrap()));
    assert_eq!(first.mac.to_string(), "02:42:ac:11:00:02");
    let second = board.admit(anybody()).unwrap();
    assert_eq!((second.ipv4, &*second.name), (Some(Ipv4Addr::new(172, 17, 0, 3)), "c1"));
    board.present.remove(0);
    let third = board.admit(named("web")).unwrap();
    assert_eq!((third.ipv4, third.mac), (first.ipv4, first.mac));
    assert_eq!(meant_by(board.present.iter(), "WEB"), Some(&third));
    assert_eq!(meant_by(board.present.iter(), &second.id), Some(&second));
    assert_eq!(meant_by(board.present.iter(), "0000"), None, "two begin so");
    assert_eq!(meant_by(board.present.iter(), "nobody"), None);
}

#[test]
fn addresses_and_names_that_somebody_has_are_refused_in_one_line() {
    let mut board = Board::new(&NetworkWish::default());
    board.admit(named("web")).unwrap();
    let at = |a, b, c, d| Admission { ipv4: Some(Ipv4Addr::new(a, b, c, d)), ..anybody() };
    let at6 = |text: &str| Admission { ipv6: Some(text.parse().unwrap()), ..anybody() };
    let cases = [
        (named("Web"), "web is on network web already"),
        (at(172, 17, 0, 1), "the gateway"),
        (at(172, 17, 0, 0), "the subnet itself"),
        (at(172, 17, 255, 255), "everybody"),
        (at(172, 17, 0, 2), "address of web"),
        (at(10, 0, 0, 1), "not in 172.17.0.0/16"),
        (at6("fd40:6ce4:2b9f:100::1"), "the gateway"),
        (at6("fd40:6ce4:2b9f:100::"), "routers"),
        (at6("fd40:6ce4:2b9f:100::2"), "address of web"),
        (at6("2001:db8::1"), "not in"),
    ];
    for (wanted, expected) in cases {
        let text = board.admit(wanted.clone()).unwrap_err().to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{wanted:?}: {text}");
    }
    assert_eq!(board.present.len(), 1);
    assert_eq!(board.admit(at(172, 17, 9, 9)).unwrap().mac.to_string(), "02:42:ac:11:09:09");
}

#[test]
fn without_ipv6_nobody_has_it_and_an_internal_network_publishes_nothing() {
    let wish = NetworkWish { without_ipv6: true, internal: true, ..NetworkWish::default() };
    let mut board = Board::new(&wish);
    assert_eq!(board.admit(anybody()).unwrap().ipv6, None);
    let wanted = Admission { ipv6: Some(Ipv6Addr::LOCALHOST), ..anybody() };
    assert!(matches!(board.admit(wanted), Err(MemberError::FamilyOff { .. })));
    let rule = PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: Ipv4Addr::UNSPECIFIED.into(),
        host_port: 80,
        interface: None,
        container_address: None,
        container_port: 80,
    };
    let wanted = Admission { publish: vec![rule], ..anybody() };
    assert!(matches!(board.admit(wanted), Err(MemberError::Internal { .. })));
}

#[test]
fn members_addresses_and_aliases_have_an_end() {
    let small = NetworkWish { subnet: Some("10.9.8.0/29".parse().unwrap()), ..NetworkWish::default() };
    let mut board = Board::new(&small);
    let addresses: Vec<_> =
        (0..5).map(|_| board.admit(anybody()).unwrap().ipv4.unwrap().octets()[3]).collect();
    assert_eq!(addresses, [2, 3, 4, 5, 6]);
    assert!(matches!(board.admit(anybody()), Err(MemberError::NoneFree { .. })));

    let mut board = Board::new(&NetworkWish::default());
    for _ in 0..NETWORK_MEMBERS {
        board.admit(anybody()).unwrap();
    }
    assert!(matches!(board.admit(anybody()), Err(MemberError::TooMany { .. })));
    board.present.pop();
    let aliases: Vec<HostName> = (0..=ALIASES_PER_MEMBER).map(|n| format!("a{n}").parse().unwrap()).collect();
    let wanted = Admission { aliases: aliases.clone(), ..anybody() };
    assert!(matches!(board.admit(wanted), Err(MemberError::TooManyAliases { .. })));
    let twice = vec![aliases[1].clone(), aliases[0].clone(), aliases[1].clone()];
    assert_eq!(board.admit(Admission { aliases: twice, ..anybody() }).unwrap().aliases, ["a0", "a1"]);
}
