//! Tables of hosts, and of what a container gets of them.

use super::*;
use crate::config::InterfaceName;

const ETH: u32 = 2;
const WLAN: u32 = 3;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(interface: u32, address: &str, prefix_len: u8) -> InterfaceAddress {
    InterfaceAddress { interface, address: ip(address), prefix_len, is_lasting: true }
}

/// 192.0.2.10/24 by 192.0.2.1 on eth0, 2001:db8::10/64 by fe80::1 on wlan0, and a loopback.
fn host() -> HostNetwork {
    HostNetwork {
        interfaces: vec![(1, "lo".into()), (ETH, "eth0".into()), (WLAN, "wlan0".into())],
        addresses: vec![
            own(1, "127.0.0.1", 8),
            own(1, "::1", 128),
            own(ETH, "192.0.2.10", 24),
            own(ETH, "192.0.2.11", 24),
            own(WLAN, "2001:db8::10", 64),
            own(WLAN, "fe80::10", 64),
            InterfaceAddress { is_lasting: false, ..own(WLAN, "2001:db8::abcd", 64) },
        ],
        routes: vec![
            Route::default_by(ip("192.0.2.1")).by(ETH),
            Route::to_neighbor(ip("198.51.100.9")).by(ETH),
            Route::default_by(ip("fe80::1")).by(WLAN),
        ],
    }
}

fn plain() -> HostCopy {
    HostCopy { gateway_is_loopback: true, ..HostCopy::default() }
}

#[track_caller]
fn resolved(copy: &HostCopy, host: &HostNetwork) -> Copied {
    resolve(copy, LinkConfig::default(), host).unwrap()
}

fn addresses(copied: &Copied) -> Vec<String> {
    let all = copied.parts.iter().flat_map(|part| &part.addresses);
    all.map(|(address, len)| format!("{address}/{len}")).collect()
}

#[test]
fn each_family_comes_from_the_interface_of_its_default_route() {
    let copied = resolved(&plain(), &host());
    assert_eq!(copied.tap_name, "eth0");
    assert_eq!(addresses(&copied), ["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"]);
    let (ipv4, ipv6) = (copied.link.ipv4.unwrap(), copied.link.ipv6.unwrap());
    assert_eq!((ipv4.gateway.to_string(), ipv6.gateway.to_string()), ("192.0.2.1".into(), "fe80::1".into()));
    assert_eq!(ipv6.gateway_link_local, ipv6.gateway);
    assert_eq!(
        (ipv4.container.to_string(), ipv6.container.to_string()),
        ("192.0.2.10".into(), "2001:db8::10".into())
    );
    let Segment::Shared(aliases) = copied.link.segment else { panic!("a private segment") };
    assert_eq!((aliases.loopback.ipv4, aliases.loopback.ipv6), (Some(ipv4.gateway), Some(ipv6.gateway)));
    assert_eq!(aliases.host, AddressPair::default());
    assert_eq!(copied.parts.iter().map(|part| part.routes.len()).collect::<Vec<_>>(), [2, 1]);
    assert!(copied.parts.iter().all(|part| part.has_prefix_routes));
}

#[test]
fn the_interface_that_is_named_is_the_template_of_both() {
    let copy = HostCopy { interface: InterfaceName::new("wlan0"), ..plain() };
    let copied = resolved(&copy, &host());
    assert_eq!((copied.tap_name.as_str(), addresses(&copied)), ("wlan0", vec!["2001:db8::10/64".into()]));
    assert!(copied.link.ipv4.is_none());
    let copy = HostCopy { interface: InterfaceName::new("eth9"), ..plain() };
    let error = resolve(&copy, LinkConfig::default(), &host()).unwrap_err().to_string();
    assert!(error.starts_with("the host has no interface eth9 with an address"), "{error}");
}

#[test]
fn addresses_that_are_named_replace_the_hosts_and_a_netmask_their_length() {
    let copy = HostCopy {
        addresses: vec![(ip("10.0.2.100"), None), (ip("172.16.0.1"), Some(30)), (ip("fd00::1"), None)],
        ..plain()
    };
    assert_eq!(addresses(&resolved(&copy, &host())), ["10.0.2.100/8", "172.16.0.1/30", "fd00::1/64"]);
    let copy = HostCopy { netmask: Some(24), ..copy };
    assert_eq!(addresses(&resolved(&copy, &host())), ["10.0.2.100/24", "172.16.0.1/30", "fd00::1/64"]);
}

#[test]
fn a_gateway_that_is_named_is_the_only_way_and_reached_on_the_link_where_need_be() {
    let copy = HostCopy { gateway4: Some("192.0.2.9".parse().unwrap()), ..plain() };
    let copied = resolved(&copy, &host());
    assert_eq!(copied.parts[0].routes, [Route::default_by(ip("192.0.2.9"))]);
    assert!(!copied.parts[0].has_prefix_routes, "the kernel makes the route to the neighbors");
    let copy = HostCopy { gateway4: Some("203.0.113.9".parse().unwrap()), ..plain() };
    let neighbor = ip("203.0.113.9");
    let expected = [Route::to_neighbor(neighbor), Route::default_by(neighbor)];
    assert_eq!(resolved(&copy, &host()).parts[0].routes, expected);
}

#[test]
fn only_the_first_address_and_only_a_default_route_on_demand() {
    let copy = HostCopy { only_first_address: true, only_default_route: true, ..plain() };
    let copied = resolved(&copy, &host());
    assert_eq!(addresses(&copied), ["192.0.2.10/24", "2001:db8::10/64"]);
    assert_eq!(copied.parts[0].routes, [Route::default_by(ip("192.0.2.1"))]);
}

#[test]
fn a_family_that_the_host_lacks_is_left_out_unless_it_alone_is_asked_for() {
    let mut host = host();
    host.addresses.retain(|own| own.address.is_ipv4());
    host.routes.retain(Route::is_ipv4);
    let copied = resolved(&plain(), &host);
    assert!(copied.link.ipv4.is_some() && copied.link.ipv6.is_none());
    let alone = LinkConfig { ipv4: None, ..LinkConfig::default() };
    let error = resolve(&plain(), alone, &host).unwrap_err().to_string();
    assert!(error.starts_with("the host has no IPv6 address to copy"), "{error}");
}

#[test]
fn without_a_default_route_the_only_interface_with_an_address_is_the_template() {
    let mut host = host();
    host.routes.clear();
    let copied = resolved(&plain(), &host);
    assert_eq!((copied.tap_name.as_str(), addresses(&copied).len()), ("eth0", 3));
    // Somebody has to be the host, even without a gateway.
    assert_eq!(copied.link.ipv4.unwrap().gateway, LOCAL_GATEWAY);
    assert_eq!(copied.link.ipv6.unwrap().gateway, GATEWAY_LINK_LOCAL);
}

#[test]
fn a_host_without_any_address_still_reaches_its_container() {
    let host = HostNetwork { interfaces: vec![(1, "lo".into())], ..HostNetwork::default() };
    let copied = resolved(&plain(), &host);
    assert_eq!((copied.tap_name.as_str(), addresses(&copied)), ("tap0", vec!["169.254.2.1/16".into()]));
    assert_eq!(copied.parts[0].routes, [Route::default_by(LOCAL_GATEWAY.into())]);
}

#[test]
fn the_better_of_two_default_routes_counts() {
    let mut host = host();
    host.addresses.push(own(WLAN, "198.51.100.10", 24));
    host.routes.insert(0, Route::default_by(ip("198.51.100.1")).by(WLAN).with_priority(600));
    assert_eq!(resolved(&plain(), &host).link.ipv4.unwrap().gateway.to_string(), "192.0.2.1");
    host.routes[0] = Route::default_by(ip("198.51.100.1")).by(WLAN);
    assert_eq!(resolved(&plain(), &host).link.ipv4.unwrap().gateway.to_string(), "198.51.100.1");
}

#[test]
fn aliases_that_are_named_are_these() {
    let copy = HostCopy {
        map_host_loopback: vec![ip("192.0.2.7"), ip("fd00::7")],
        map_guest_address: vec![ip("169.254.1.2")],
        dns_forward: vec![ip("169.254.1.1")],
        gateway_is_loopback: false,
        ..HostCopy::default()
    };
    let copied = resolved(&copy, &host());
    let Segment::Shared(aliases) = copied.link.segment else { panic!("a private segment") };
    assert_eq!(aliases.loopback.ipv6, Some("fd00::7".parse().unwrap()));
    assert_eq!(aliases.host, pair(&[ip("169.254.1.2")]));
    assert_eq!(copied.link.ipv4.unwrap().dns, Some("169.254.1.1".parse().unwrap()));
    assert_eq!(copied.link.ipv6.unwrap().dns, None);
}

#[test]
fn resolvers_are_told_where_asked_and_never_by_a_loopback_address() {
    let copy = HostCopy { dns_forward: vec![ip("169.254.1.1")], ..plain() };
    let link = resolved(&copy, &host()).link;
    let conf = ResolvConf {
        servers: vec!["127.0.0.53:53".parse().unwrap(), "192.0.2.53:53".parse().unwrap()],
        search: vec!["example.org".into()],
        options: Vec::new(),
    };
    let complete = |copy: &HostCopy| {
        let mut offers = Offers::default();
        complete_offers(&mut offers, copy, &link, &conf);
        offers
    };
    assert_eq!(complete(&copy), Offers { resolvers: Some(Vec::new()), ..Offers::default() });
    let asked = HostCopy { offers_resolvers: true, offers_search: true, ..copy };
    let offers = complete(&asked);
    assert_eq!(offers.resolvers, Some(vec![ip("169.254.1.1"), ip("192.0.2.53")]));
    assert_eq!(offers.search, ["example.org"]);
}
