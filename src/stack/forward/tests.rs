//! Tables of what goes where, and of what goes nowhere.

use rstest::rstest;

use super::*;
use crate::config::{AddressPair, DhcpPool, Ipv4Link, Ipv6Link, PortProtocol, Services};
use crate::wire::MacAddr;

pub(crate) fn config(host_loopback: bool) -> Config {
    Config {
        host_loopback,
        ..Config::on(LinkConfig {
            segment: Default::default(),
            ipv4: Some(Ipv4Link {
                subnet: "10.0.2.0/24".parse().expect("literal"),
                gateway: "10.0.2.2".parse().expect("literal"),
                dns: Some("10.0.2.3".parse().expect("literal")),
                container: "10.0.2.100".parse().expect("literal"),
            }),
            ipv6: Some(Ipv6Link {
                prefix: "fd00:2::/64".parse().expect("literal"),
                gateway: "fd00:2::2".parse().expect("literal"),
                gateway_link_local: "fe80::2".parse().expect("literal"),
                dns: Some("fd00:2::3".parse().expect("literal")),
                container: "fd00:2::100".parse().expect("literal"),
            }),
            mtu: 1_500,
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            container_mac: None,
        })
    }
}

fn decide(host_loopback: bool, source: &str, destination: &str) -> Outbound {
    let destination = destination.parse().expect("literal");
    outbound(&config(host_loopback), FlowProtocol::Tcp, source.parse().expect("literal"), destination)
}

#[rstest]
#[case("10.0.2.100", "203.0.113.2:80")]
#[case("10.0.2.77", "192.168.1.1:443")]
#[case("fd00:2::100", "[2001:db8::1]:80")]
#[case::metadata_as_the_host_reaches_it("10.0.2.100", "169.254.169.254:80")]
#[case::metadata_6("fd00:2::100", "[fd00:ec2::254]:80")]
#[case::nat64("fd00:2::100", "[64:ff9b::203.0.113.2]:80")]
#[case::of_6to4("fd00:2::100", "[2002:cb00:7102::1]:80")]
fn the_world_is_reached_where_it_is(#[case] source: &str, #[case] destination: &str) {
    assert_eq!(decide(false, source, destination), Outbound::Host(destination.parse().expect("literal")));
}

#[rstest]
#[case("10.0.2.100", "10.0.2.2:80", "127.0.0.1:80")]
#[case("fd00:2::100", "[fd00:2::2]:80", "[::1]:80")]
#[case("fe80::99", "[fe80::2]:80", "[::1]:80")]
fn the_gateway_is_the_hosts_loopback_only_where_asked(
    #[case] source: &str,
    #[case] gateway: &str,
    #[case] loopback: &str,
) {
    assert_eq!(decide(false, source, gateway), Outbound::Closed(DropReason::HostLoopback));
    assert_eq!(decide(true, source, gateway), Outbound::Host(loopback.parse().expect("literal")));
}

#[rstest]
#[case("10.0.2.100", "127.0.0.1:22", DropReason::HostLoopback)]
#[case("10.0.2.100", "127.8.8.8:22", DropReason::HostLoopback)]
#[case("fd00:2::100", "[::1]:22", DropReason::HostLoopback)]
#[case("fd00:2::100", "[::ffff:127.0.0.1]:22", DropReason::HostLoopback)]
#[case("fd00:2::100", "[::ffff:203.0.113.2]:22", DropReason::Martian)]
#[case("fd00:2::100", "[::127.0.0.1]:22", DropReason::Martian)]
#[case("fd00:2::100", "[::]:22", DropReason::Martian)]
#[case::nat64("fd00:2::100", "[64:ff9b::7f00:1]:22", DropReason::Martian)]
#[case::nat64_unspecified("fd00:2::100", "[64:ff9b::]:22", DropReason::Martian)]
#[case::of_6to4("fd00:2::100", "[2002:7f00:1::1]:22", DropReason::Martian)]
#[case("fd00:2::100", "[::ffff:169.254.169.254]:80", DropReason::Martian)]
#[case("10.0.2.100", "0.0.0.0:22", DropReason::Martian)]
#[case("10.0.2.100", "0.1.2.3:22", DropReason::Martian)]
#[case("10.0.2.100", "240.0.0.1:22", DropReason::Martian)]
#[case("10.0.2.100", "255.255.255.255:67", DropReason::Multicast)]
#[case("10.0.2.100", "10.0.2.255:137", DropReason::Multicast)]
#[case("10.0.2.100", "224.0.0.251:5353", DropReason::Multicast)]
#[case("fd00:2::100", "[ff02::fb]:5353", DropReason::Multicast)]
fn what_would_mean_this_host_or_nobody_is_dropped(
    #[values(false, true)] host_loopback: bool,
    #[case] source: &str,
    #[case] destination: &str,
    #[case] reason: DropReason,
) {
    assert_eq!(decide(host_loopback, source, destination), Outbound::Drop(reason));
}

#[rstest]
#[case("10.0.2.2")]
#[case("10.0.2.3")]
#[case("10.0.2.255")]
#[case("10.0.2.0")]
#[case("127.0.0.1")]
#[case("203.0.113.9")]
#[case("0.0.0.0")]
#[case("fd00:2::2")]
#[case("fe80::2")]
#[case("2001:db8::1")]
#[case("::1")]
#[case("::")]
fn a_source_that_is_not_the_containers_is_spoofed(#[case] source: &str) {
    assert_eq!(decide(true, source, "203.0.113.2:80"), Outbound::Drop(DropReason::SpoofedSource));
}

#[test]
fn the_dns_address_offers_the_dns_and_nothing_else() {
    assert_eq!(decide(true, "10.0.2.100", "10.0.2.3:53"), Outbound::Resolver);
    assert_eq!(decide(true, "fd00:2::100", "[fd00:2::3]:53"), Outbound::Resolver);
    assert_eq!(decide(true, "10.0.2.100", "10.0.2.3:80"), Outbound::Closed(DropReason::Denied));
    let echo = |address: &str| {
        let destination = SocketAddr::new(address.parse().expect("literal"), 0);
        outbound(&config(false), FlowProtocol::Echo, "10.0.2.100".parse().expect("literal"), destination)
    };
    assert_eq!(echo("10.0.2.2"), Outbound::Gateway);
    assert_eq!(echo("10.0.2.3"), Outbound::Gateway);
}

#[test]
fn an_address_of_the_segment_that_nobody_has_is_unreachable() {
    assert_eq!(decide(false, "10.0.2.100", "10.0.2.9:80"), Outbound::Unreachable(DropReason::NotForUs));
    assert_eq!(decide(false, "fd00:2::100", "[fd00:2::9]:80"), Outbound::Unreachable(DropReason::NotForUs));
    assert_eq!(decide(false, "fd00:2::100", "[fe80::9]:80"), Outbound::Unreachable(DropReason::NotForUs));
}

fn rule(host_address: &str) -> PublishRule {
    PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: host_address.parse().expect("literal"),
        host_port: 8_080,
        interface: None,
        container_address: None,
        container_port: 80,
    }
}

#[rstest]
#[case("0.0.0.0", "203.0.113.9:50000", "203.0.113.9:50000", "10.0.2.100:80", false)]
#[case("::", "[2001:db8::9]:50000", "[2001:db8::9]:50000", "[fd00:2::100]:80", false)]
#[case("0.0.0.0", "127.0.0.1:50000", "10.0.2.2:50000", "10.0.2.100:80", true)]
#[case("::", "[::1]:50000", "[fd00:2::2]:50000", "[fd00:2::100]:80", true)]
#[case("0.0.0.0", "10.0.2.100:50000", "10.0.2.2:50000", "10.0.2.100:80", true)]
#[case("0.0.0.0", "[::ffff:203.0.113.9]:50000", "203.0.113.9:50000", "10.0.2.100:80", false)]
fn a_client_keeps_its_address_wherever_the_container_could_answer_it(
    #[case] bound: &str,
    #[case] client: &str,
    #[case] shown: &str,
    #[case] server: &str,
    #[case] masked: bool,
) {
    let expected =
        Inbound { client: shown.parse().expect("literal"), server: server.parse().expect("literal"), masked };
    assert_eq!(inbound(&config(false), &rule(bound), client.parse().expect("literal")), Ok(expected));
}

#[test]
fn without_the_family_a_client_is_refused() {
    let mut config = config(false);
    config.link.ipv6 = None;
    let client = "[2001:db8::9]:50000".parse().expect("literal");
    assert_eq!(inbound(&config, &rule("::"), client), Err(DropReason::Denied));
}

fn decide_dhcp(offered: bool, protocol: FlowProtocol, source: &str, destination: &str) -> Outbound {
    let mut config = config(true);
    if offered {
        let (first, last) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 30));
        config.services.dhcp = Some(DhcpPool { first, last });
        config.services.dhcpv6 = true;
    }
    let (source, destination) = (source.parse().expect("literal"), destination.parse().expect("literal"));
    outbound(&config, protocol, source, destination)
}

#[rstest]
#[case::without_an_address("0.0.0.0", "255.255.255.255:67", Outbound::Drop(DropReason::SpoofedSource))]
#[case::rebinding("10.0.2.15", "255.255.255.255:67", Outbound::Drop(DropReason::Multicast))]
#[case::renewing("10.0.2.15", "10.0.2.2:67", Outbound::Host(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 67)))]
#[case::version_6("fe80::99", "[ff02::1:2]:547", Outbound::Drop(DropReason::Multicast))]
fn dhcp_is_served_where_it_is_offered(
    #[case] source: &str,
    #[case] destination: &str,
    #[case] otherwise: Outbound,
) {
    assert_eq!(decide_dhcp(true, FlowProtocol::Udp, source, destination), Outbound::Dhcp);
    assert_eq!(decide_dhcp(false, FlowProtocol::Udp, source, destination), otherwise);
    let over_tcp = decide_dhcp(true, FlowProtocol::Tcp, source, destination);
    assert_eq!(over_tcp, otherwise, "DHCP is UDP");
}

#[rstest]
#[case::no_address_but_unicast("0.0.0.0", "10.0.2.2:67")]
#[case::no_address_and_another_service("0.0.0.0", "255.255.255.255:68")]
#[case::no_address_and_the_world("0.0.0.0", "203.0.113.2:67")]
#[case::a_foreign_source("192.168.1.1", "255.255.255.255:67")]
#[case::our_own_source("10.0.2.2", "255.255.255.255:67")]
#[case::our_own_source_6("fe80::2", "[ff02::1:2]:547")]
#[case::a_foreign_source_6("2001:db8::99", "[ff02::1:2]:547")]
#[case::unspecified_6("::", "[ff02::1:2]:547")]
fn dhcp_opens_no_way_for_other_sources(#[case] source: &str, #[case] destination: &str) {
    let decision = decide_dhcp(true, FlowProtocol::Udp, source, destination);
    assert_eq!(decision, Outbound::Drop(DropReason::SpoofedSource));
}

#[rstest]
#[case("10.0.2.15", "255.255.255.255:68")]
#[case("fe80::99", "[ff02::1:2]:546")]
#[case("fe80::99", "[ff02::1:3]:547")]
fn neighboring_groups_and_ports_are_not_dhcp(#[case] source: &str, #[case] destination: &str) {
    let decision = decide_dhcp(true, FlowProtocol::Udp, source, destination);
    assert_eq!(decision, Outbound::Drop(DropReason::Multicast));
}

#[rstest]
#[case::leased("10.0.2.15", "203.0.113.2:80")]
#[case::autoconfigured("fd00:2::5055:aff:fe00:264", "[2001:db8::1]:80")]
fn the_container_may_have_any_address_of_the_link(#[case] source: &str, #[case] destination: &str) {
    assert_eq!(decide(false, source, destination), Outbound::Host(destination.parse().expect("literal")));
}

#[rstest]
#[case("10.0.2.100", "10.0.2.3:53")]
#[case("10.0.2.100", "10.0.2.3:853")]
#[case("fd00:2::100", "[fd00:2::3]:53")]
fn dns_address_is_nobodys_where_dns_is_not_offered(
    #[values(FlowProtocol::Tcp, FlowProtocol::Udp, FlowProtocol::Echo)] protocol: FlowProtocol,
    #[case] source: &str,
    #[case] destination: &str,
) {
    let services = Services { dns: false, ..Services::default() };
    let config = Config { services, ..config(true) };
    let (source, destination) = (source.parse().expect("literal"), destination.parse().expect("literal"));
    let decision = outbound(&config, protocol, source, destination);
    assert_eq!(decision, Outbound::Unreachable(DropReason::NotForUs));
}

/// The container in the place of a host with 192.0.2.10/24 and 2001:db8::10/64.
fn shared() -> Config {
    let base = config(false);
    let pair = |ipv4: &str, ipv6: &str| AddressPair {
        ipv4: Some(ipv4.parse().expect("literal")),
        ipv6: Some(ipv6.parse().expect("literal")),
    };
    let link = LinkConfig {
        segment: Segment::Shared(Aliases {
            loopback: pair("169.254.1.3", "fe80::7f"),
            host: pair("169.254.1.2", "fd00::2"),
        }),
        ipv4: Some(Ipv4Link {
            subnet: "192.0.2.0/24".parse().expect("literal"),
            gateway: "192.0.2.1".parse().expect("literal"),
            dns: Some("169.254.1.1".parse().expect("literal")),
            container: "192.0.2.10".parse().expect("literal"),
        }),
        ipv6: Some(Ipv6Link {
            prefix: "2001:db8::/64".parse().expect("literal"),
            gateway: "fe80::1".parse().expect("literal"),
            gateway_link_local: "fe80::1".parse().expect("literal"),
            dns: None,
            container: "2001:db8::10".parse().expect("literal"),
        }),
        ..base.link
    };
    Config { link, ..base }
}

#[rstest]
#[case::beyond_the_gateway("192.0.2.10", "203.0.113.2:80")]
#[case::the_real_gateway("192.0.2.10", "192.0.2.1:80")]
#[case::a_neighbor_of_the_host("192.0.2.10", "192.0.2.77:22")]
#[case::another_address_of_the_container("198.51.100.4", "203.0.113.2:80")]
#[case::beside_port_53_the_forwarder_is_nobody_special("192.0.2.10", "169.254.1.1:80")]
#[case::ipv6("2001:db8::10", "[2001:db8::77]:80")]
fn on_a_shared_segment_everybody_is_where_he_is(#[case] source: &str, #[case] destination: &str) {
    let destination = destination.parse().expect("literal");
    let decided = outbound(&shared(), FlowProtocol::Tcp, source.parse().expect("literal"), destination);
    assert_eq!(decided, Outbound::Host(destination));
}

#[rstest]
#[case("192.0.2.10", "169.254.1.3:80", "127.0.0.1:80")]
#[case("2001:db8::10", "[fe80::7f]:80", "[::1]:80")]
#[case("192.0.2.10", "169.254.1.2:80", "192.0.2.10:80")]
#[case("2001:db8::10", "[fd00::2]:80", "[2001:db8::10]:80")]
fn an_alias_is_the_host(#[case] source: &str, #[case] alias: &str, #[case] meant: &str) {
    let (source, alias) = (source.parse().expect("literal"), alias.parse().expect("literal"));
    let meant = Outbound::Host(meant.parse().expect("literal"));
    assert_eq!(outbound(&shared(), FlowProtocol::Tcp, source, alias), meant);
    assert_eq!(outbound(&shared(), FlowProtocol::Udp, source, alias), meant);
    assert_eq!(outbound(&shared(), FlowProtocol::Echo, source, alias), Outbound::Gateway);
}

#[rstest]
#[case(FlowProtocol::Udp, "169.254.1.1:53", Outbound::Resolver)]
#[case(FlowProtocol::Tcp, "169.254.1.1:53", Outbound::Resolver)]
#[case(FlowProtocol::Echo, "169.254.1.1:0", Outbound::Gateway)]
#[case(FlowProtocol::Tcp, "127.0.0.1:22", Outbound::Drop(DropReason::HostLoopback))]
#[case(FlowProtocol::Udp, "127.8.8.8:22", Outbound::Drop(DropReason::HostLoopback))]
#[case(FlowProtocol::Echo, "127.0.0.1:0", Outbound::Drop(DropReason::HostLoopback))]
#[case(FlowProtocol::Tcp, "0.0.0.0:22", Outbound::Drop(DropReason::Martian))]
#[case(FlowProtocol::Udp, "192.0.2.255:9", Outbound::Drop(DropReason::Multicast))]
#[case(FlowProtocol::Udp, "224.0.0.251:5353", Outbound::Drop(DropReason::Multicast))]
fn on_a_shared_segment_little_is_special(
    #[case] protocol: FlowProtocol,
    #[case] destination: &str,
    #[case] expected: Outbound,
) {
    let source = "192.0.2.10".parse().expect("literal");
    assert_eq!(outbound(&shared(), protocol, source, destination.parse().expect("literal")), expected);
}

#[rstest]
#[case("[::1]:22", DropReason::HostLoopback)]
#[case("[::ffff:127.0.0.1]:22", DropReason::HostLoopback)]
#[case("[::127.0.0.1]:22", DropReason::Martian)]
#[case("[::ffff:192.0.2.10]:22", DropReason::Martian)]
#[case("[::]:22", DropReason::Martian)]
#[case("[64:ff9b::127.0.0.1]:22", DropReason::Martian)]
#[case("[ff02::1]:22", DropReason::Multicast)]
fn on_a_shared_segment_no_form_of_ipv6_is_the_hosts_loopback(
    #[values(FlowProtocol::Tcp, FlowProtocol::Udp, FlowProtocol::Echo)] protocol: FlowProtocol,
    #[case] destination: &str,
    #[case] reason: DropReason,
) {
    let source = "2001:db8::10".parse().expect("literal");
    let decision = outbound(&shared(), protocol, source, destination.parse().expect("literal"));
    assert_eq!(decision, Outbound::Drop(reason));
}

/// Whoever is on the host's side, the container never sees a loopback address: not of a client of a published
/// port, nor of a peer that answers an unconnected socket.
#[rstest]
fn nobody_appears_as_a_loopback_address(
    #[values(false, true)] is_shared: bool,
    #[values(
        "127.0.0.1:4000",
        "127.9.9.9:4000",
        "[::1]:4000",
        "[::ffff:127.0.0.1]:4000",
        "203.0.113.9:4000",
        "[2001:db8:9::9]:4000",
        "169.254.169.254:4000"
    )]
    client: &str,
) {
    let config = if is_shared { shared() } else { config(true) };
    let client: SocketAddr = client.parse().expect("literal");
    let canonical = client.ip().to_canonical();
    let bound = if canonical.is_ipv4() { "0.0.0.0" } else { "::" };
    if let Ok(shown) = inbound(&config, &rule(bound), client) {
        assert!(!is_loopback(shown.client.ip()), "{shown:?}");
        // Who is not on the host is seen as who he is.
        assert!(is_loopback(canonical) || shown.client.ip() == canonical, "{shown:?}");
    }
    assert!(!is_loopback(shown_peer(&config, client).ip()));
}

#[test]
fn a_link_local_address_of_the_hosts_side_has_no_meaning() {
    let source = "2001:db8::10".parse().expect("literal");
    let gateway = "[fe80::1]:80".parse().expect("literal");
    let decided = outbound(&shared(), FlowProtocol::Tcp, source, gateway);
    assert_eq!(decided, Outbound::Unreachable(DropReason::NotForUs));
}

#[rstest]
#[case("192.0.2.1")]
#[case("169.254.1.1")]
#[case("169.254.1.2")]
#[case("169.254.1.3")]
#[case("127.0.0.1")]
#[case("0.0.0.0")]
#[case("224.0.0.1")]
#[case("192.0.2.255")]
fn nobody_speaks_in_our_name_on_a_shared_segment(#[case] source: &str) {
    let destination = "203.0.113.2:80".parse().expect("literal");
    let decided = outbound(&shared(), FlowProtocol::Tcp, source.parse().expect("literal"), destination);
    assert_eq!(decided, Outbound::Drop(DropReason::SpoofedSource));
}

#[rstest]
#[case::from_afar("203.0.113.9:4000", "203.0.113.9:4000")]
#[case::a_neighbor("192.0.2.77:4000", "192.0.2.77:4000")]
#[case::the_gateway_itself("192.0.2.1:4000", "192.0.2.1:4000")]
#[case::the_hosts_loopback("127.0.0.1:4000", "169.254.1.3:4000")]
#[case::the_host_by_the_shared_address("192.0.2.10:4000", "169.254.1.2:4000")]
fn on_a_shared_segment_clients_are_who_they_are(#[case] client: &str, #[case] shown: &str) {
    let rule = PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: Ipv4Addr::UNSPECIFIED.into(),
        host_port: 8080,
        interface: None,
        container_address: None,
        container_port: 80,
    };
    let (client, shown): (SocketAddr, SocketAddr) =
        (client.parse().expect("literal"), shown.parse().expect("literal"));
    let inbound = inbound(&shared(), &rule, client).expect("an IPv4 client");
    assert_eq!((inbound.client, inbound.masked), (shown, client != shown));
    assert_eq!(inbound.server, "192.0.2.10:80".parse().expect("literal"));
    assert_eq!(shown_peer(&shared(), client), shown);
}

/// The segment of a network: the gateway is the resolver, too.
fn bridged(internal: bool, host_loopback: bool) -> Config {
    let mut config = config(host_loopback);
    let link = &mut config.link;
    link.segment = Segment::Bridged { internal };
    link.container_mac = Some(MacAddr([2, 0x6e, 10, 0, 2, 100]));
    let (Some(ipv4), Some(ipv6)) = (&mut link.ipv4, &mut link.ipv6) else { unreachable!() };
    ipv4.dns = Some(ipv4.gateway);
    ipv6.dns = Some(ipv6.gateway);
    config
}

#[rstest]
#[case::neighbor("10.0.2.77")]
#[case::gateway("10.0.2.2")]
#[case::elsewhere("192.0.2.1")]
#[case::neighbor_6("fd00:2::77")]
#[case::gateway_by_link("fe80::2")]
fn a_container_of_a_network_speaks_for_itself_alone(#[case] source: &str) {
    let decided = outbound(
        &bridged(false, false),
        FlowProtocol::Udp,
        source.parse().expect("literal"),
        if source.contains(':') { "[2001:db8::1]:80" } else { "203.0.113.2:80" }.parse().expect("literal"),
    );
    assert_eq!(decided, Outbound::Drop(DropReason::SpoofedSource));
}

#[rstest]
#[case("10.0.2.100", "203.0.113.2:80")]
#[case("fd00:2::100", "[2001:db8::1]:80")]
#[case::as_it_makes_it_of_an_advertised_prefix("fd00:2::6e:aff:fe00:264", "[2001:db8::1]:80")]
fn an_internal_network_has_no_way_out(#[case] source: &str, #[case] destination: &str) {
    let decide = |internal| {
        let (source, destination) = (source.parse().expect("literal"), destination.parse().expect("literal"));
        outbound(&bridged(internal, false), FlowProtocol::Tcp, source, destination)
    };
    assert_eq!(decide(false), Outbound::Host(destination.parse().expect("literal")));
    assert_eq!(decide(true), Outbound::Unreachable(DropReason::NoWayOut));
}

#[rstest]
#[case("10.0.2.100", "10.0.2.2", "127.0.0.1:80")]
#[case("fd00:2::100", "fd00:2::2", "[::1]:80")]
fn a_gateway_that_is_the_resolver_has_both_meanings(
    #[case] source: &str,
    #[case] gateway: &str,
    #[case] loopback: &str,
) {
    let source = source.parse().expect("literal");
    let gateway: IpAddr = gateway.parse().expect("literal");
    let decide = |internal, host_loopback, protocol, port| {
        outbound(&bridged(internal, host_loopback), protocol, source, SocketAddr::new(gateway, port))
    };
    for internal in [false, true] {
        assert_eq!(decide(internal, true, FlowProtocol::Udp, 53), Outbound::Resolver);
        assert_eq!(decide(internal, false, FlowProtocol::Echo, 0), Outbound::Gateway);
    }
    let (tcp, closed) = (FlowProtocol::Tcp, Outbound::Closed);
    assert_eq!(decide(false, true, tcp, 80), Outbound::Host(loopback.parse().expect("literal")));
    assert_eq!(decide(false, false, tcp, 80), closed(DropReason::HostLoopback));
    assert_eq!(decide(true, true, tcp, 80), closed(DropReason::NoWayOut));
}

#[test]
fn other_containers_are_not_reached_through_the_gateway() {
    let decide = |destination: &str| {
        let source = "10.0.2.100".parse().expect("literal");
        outbound(&bridged(false, true), FlowProtocol::Tcp, source, destination.parse().expect("literal"))
    };
    assert_eq!(decide("10.0.2.77:80"), Outbound::Unreachable(DropReason::NotForUs));
}

#[test]
fn ports_of_an_internal_network_are_not_published_and_those_of_others_lead_to_the_container_alone() {
    let rule = |container_address: Option<&str>| PublishRule {
        protocol: PortProtocol::Tcp,
        host_address: "0.0.0.0".parse().expect("literal"),
        host_port: 8080,
        interface: None,
        container_address: container_address.map(|address| address.parse().expect("literal")),
        container_port: 80,
    };
    let client = "198.51.100.7:4000".parse().expect("literal");
    let (open, internal) = (bridged(false, false), bridged(true, false));
    assert!(can_publish(&open.link, &rule(None)) && !can_publish(&internal.link, &rule(None)));
    assert!(!can_publish(&open.link, &rule(Some("10.0.2.77"))));
    assert_eq!(inbound(&open, &rule(None), client).map(|inbound| inbound.client), Ok(client));
    assert_eq!(inbound(&internal, &rule(None), client), Err(DropReason::NoWayOut));
}
