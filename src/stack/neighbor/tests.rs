//! Tests of `neighbor`, sentences of its behaviour.

use super::*;
use crate::config::Config;
use crate::stack::emit::tests::{CONTAINER_MAC, GATEWAY_MAC, Link, link_config};
use crate::wire::frame::{self, Body};
use crate::wire::ip::write_headers;
use rstest::rstest;

/// Who we are on `link`.
fn neighbor(link: &LinkConfig) -> Neighbor {
    Neighbor::new(link, Advertisement::new(&Config::on(link.clone())))
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn request(sender: Ipv4Addr, target: Ipv4Addr) -> arp::Message {
    arp::Message {
        operation: Operation::Request,
        sender_mac: CONTAINER_MAC,
        sender,
        target_mac: MacAddr([0; 6]),
        target,
    }
}

/// An ICMPv6 packet of the container's, parsed by `use_it`.
fn with_ndp<T>(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
    use_it: impl FnOnce(&Packet<'_>) -> T,
) -> T {
    let header = Header {
        source: source.into(),
        destination: destination.into(),
        protocol: protocol::ICMPV6,
        hop_limit: 255,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    };
    let ethernet = Ethernet { source: CONTAINER_MAC, destination: ndp::multicast_mac(destination) };
    let mut bytes = vec![0; 54 + message.len()];
    let at = write_headers(&mut bytes, &ethernet, &header, message.len());
    bytes[at..].copy_from_slice(message);
    use_it(&ip::parse(&bytes[14..]).unwrap())
}

fn solicitation(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, with_mac: bool) -> Vec<u8> {
    let mut message = vec![0; NEIGHBOR_LEN];
    ndp::write_neighbor_solicitation(&mut message, source, destination, target, CONTAINER_MAC);
    if !with_mac {
        message.truncate(24);
    }
    fix_checksum(&mut message, source, destination);
    message
}

fn fix_checksum(message: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    message[2..4].fill(0);
    let checksum = ip::transport_checksum(source.into(), destination.into(), protocol::ICMPV6, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

fn solicit_target(source: &str, target: &str, with_mac: bool) -> (Neighbor, Link, Result<(), DropReason>) {
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    let (source, target) = (v6(source), v6(target));
    let group = ndp::solicited_node(target);
    let outcome = with_ndp(source, group, &solicitation(source, group, target, with_mac), |packet| {
        neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
    });
    (neighbor, link, outcome)
}

fn only_ndp(link: &Link) -> (MacAddr, IpAddr, IpAddr, Message) {
    assert_eq!(link.frames.len(), 1);
    let sent = frame::parse(&link.frames[0].bytes).unwrap();
    assert_eq!(sent.source, GATEWAY_MAC);
    let Body::Ip(packet) = sent.body else { panic!("not IP") };
    assert!(ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload));
    let message = ndp::parse(packet.payload, packet.hop_limit).unwrap();
    (sent.destination, packet.source, packet.destination, message)
}

#[rstest]
#[case::gateway(GATEWAY)]
#[case::dns(DNS)]
fn arp_requests_for_our_addresses_are_answered(#[case] target: Ipv4Addr) {
    // The last sender is a probe (RFC 5227), the one before an address of another of the container's networks.
    for sender in [CONTAINER, Ipv4Addr::new(172, 17, 0, 1), Ipv4Addr::UNSPECIFIED] {
        let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
        assert_eq!(neighbor.handle_arp(&request(sender, target), &mut link), Ok(()));
        let reply = frame::parse(&link.frames[0].bytes).unwrap();
        assert_eq!(reply.destination, CONTAINER_MAC);
        let expected = arp::Message {
            operation: Operation::Reply,
            sender_mac: GATEWAY_MAC,
            sender: target,
            target_mac: CONTAINER_MAC,
            target: sender,
        };
        assert_eq!(reply.body, Body::Arp(expected));
        let learnt = (sender == CONTAINER).then_some(CONTAINER_MAC);
        assert_eq!(neighbor.container_mac(), learnt, "only an address of the link teaches");
    }
}

#[test]
fn arp_requests_for_other_addresses_are_not_answered() {
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    for target in [CONTAINER, Ipv4Addr::new(10, 0, 2, 4), Ipv4Addr::new(203, 0, 113, 1)] {
        let outcome = neighbor.handle_arp(&request(CONTAINER, target), &mut link);
        assert_eq!(outcome, Err(DropReason::NotForUs), "{target}");
    }
    assert!(link.frames.is_empty());
}

#[test]
fn claims_of_our_addresses_are_ignored() {
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    for ours in [GATEWAY, DNS] {
        for operation in [Operation::Request, Operation::Reply] {
            let claim = arp::Message { operation, ..request(ours, ours) };
            assert_eq!(neighbor.handle_arp(&claim, &mut link), Err(DropReason::NeighborConflict));
        }
    }
    let mimic = arp::Message { sender_mac: GATEWAY_MAC, ..request(CONTAINER, GATEWAY) };
    assert_eq!(neighbor.handle_arp(&mimic, &mut link), Err(DropReason::NeighborConflict));
    assert!(link.frames.is_empty());
    assert_eq!(neighbor.container_mac(), None);
}

#[test]
fn container_is_learnt_from_its_own_frames_only_and_may_change() {
    let mut neighbor = neighbor(&link_config());
    assert_eq!(neighbor.ethernet(), Err(DropReason::NoContainerMac));
    for (mac, source) in [
        (CONTAINER_MAC, IpAddr::V4(GATEWAY)),
        (CONTAINER_MAC, IpAddr::V4(DNS)),
        (CONTAINER_MAC, IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1))),
        (CONTAINER_MAC, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (CONTAINER_MAC, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        (GATEWAY_MAC, IpAddr::V4(CONTAINER)),
        (MacAddr::BROADCAST, IpAddr::V4(CONTAINER)),
    ] {
        neighbor.learn(mac, source);
        assert_eq!(neighbor.container_mac(), None, "{mac} {source}");
    }
    neighbor.learn(CONTAINER_MAC, CONTAINER.into());
    assert_eq!(neighbor.container_mac(), Some(CONTAINER_MAC));
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    neighbor.learn(other, v6("fe80::9").into());
    assert_eq!(neighbor.ethernet(), Ok(Ethernet { source: GATEWAY_MAC, destination: other }));
}

#[test]
fn configured_address_is_known_from_the_start() {
    let config = LinkConfig { container_mac: Some(CONTAINER_MAC), ..link_config() };
    assert_eq!(neighbor(&config).container_mac(), Some(CONTAINER_MAC));
}

#[rstest]
#[case::gateway("fd00::2")]
#[case::link_local("fe80::2")]
#[case::dns("fd00::3")]
fn neighbor_solicitations_for_our_addresses_are_answered(#[case] target: &str) {
    for with_mac in [true, false] {
        let (neighbor, link, outcome) = solicit_target("fd00::64", target, with_mac);
        assert_eq!(outcome, Ok(()));
        let (mac, source, destination, message) = only_ndp(&link);
        assert_eq!((mac, source), (CONTAINER_MAC, v6(target).into()));
        assert_eq!(destination, IpAddr::V6(v6("fd00::64")));
        let expected = Message::NeighborAdvertisement { target: v6(target), target_mac: Some(GATEWAY_MAC) };
        assert_eq!(message, expected);
        assert_eq!(link.frames[0].bytes[58], 0xe0, "router, solicited, override");
        assert_eq!(neighbor.container_mac(), Some(CONTAINER_MAC));
    }
}

#[test]
fn probes_for_our_addresses_are_defended_to_all_nodes() {
    let (neighbor, link, outcome) = solicit_target("::", "fd00::2", false);
    assert_eq!(outcome, Ok(()));
    let (mac, _, destination, _) = only_ndp(&link);
    assert_eq!((mac, destination), (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES.into()));
    assert_eq!(link.frames[0].bytes[58], 0xa0, "router, not solicited, override");
    assert_eq!(neighbor.container_mac(), None);
}

#[test]
fn probes_and_requests_for_other_addresses_are_not_answered() {
    for (source, target) in [("::", "fd00::64"), ("::", "fe80::64"), ("fd00::64", "fd00::77")] {
        let (_, link, outcome) = solicit_target(source, target, !source.starts_with("::"));
        assert_eq!(outcome, Err(DropReason::NotForUs), "{target}");
        assert!(link.frames.is_empty());
    }
}

#[test]
fn invalid_solicitations_are_discarded() {
    let (_, link, outcome) = solicit_target("::", "fd00::2", true);
    assert_eq!(
        (outcome, link.frames.len()),
        (Err(DropReason::NeighborInvalid), 0),
        "a probe with a link address"
    );

    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    let (nobody, gateway) = (Ipv6Addr::UNSPECIFIED, v6("fd00::2"));
    let outcome = with_ndp(nobody, gateway, &solicitation(nobody, gateway, gateway, false), |packet| {
        neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
    });
    assert_eq!(outcome, Err(DropReason::NeighborInvalid), "a probe to a single node");

    let source = v6("fd00::64");
    let mut message = solicitation(source, gateway, gateway, true);
    message[30] ^= 1;
    let outcome =
        with_ndp(source, gateway, &message, |packet| neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link));
    assert_eq!(outcome, Err(DropReason::BadChecksum));

    let message = solicitation(source, gateway, gateway, true);
    let outcome = with_ndp(source, gateway, &message, |packet| {
        neighbor.handle_ndp(&Packet { hop_limit: 64, ..*packet }, CONTAINER_MAC, &mut link)
    });
    assert_eq!(outcome, Err(DropReason::NeighborInvalid));
    assert!(link.frames.is_empty());
    assert_eq!(neighbor.container_mac(), None);
}

#[test]
fn neighbor_claims_of_our_addresses_are_ignored() {
    let (_, link, outcome) = solicit_target("fd00::2", "fd00::3", true);
    assert_eq!((outcome, link.frames.len()), (Err(DropReason::NeighborConflict), 0));

    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    let source = v6("fe80::64");
    let mut advertise = |target: &str| {
        let mut message = [0; NEIGHBOR_LEN];
        ndp::write_neighbor_advertisement(&mut message, source, ALL_NODES, v6(target), CONTAINER_MAC, false);
        let outcome = with_ndp(source, ALL_NODES, &message, |packet| {
            neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
        });
        (outcome, neighbor.container_mac())
    };
    assert_eq!(advertise("fd00::2"), (Err(DropReason::NeighborConflict), None));
    assert_eq!(advertise("fd00::64"), (Ok(()), Some(CONTAINER_MAC)));
    assert!(link.frames.is_empty());
}

#[test]
fn router_solicitations_are_answered_to_the_asker_or_to_all() {
    let all_routers = v6("ff02::2");
    let mut bare = vec![133, 0, 0, 0, 0, 0, 0, 0];
    for (source, to, to_mac) in [
        (v6("fe80::64"), v6("fe80::64"), CONTAINER_MAC),
        (Ipv6Addr::UNSPECIFIED, ALL_NODES, MacAddr([0x33, 0x33, 0, 0, 0, 1])),
    ] {
        let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
        fix_checksum(&mut bare, source, all_routers);
        let outcome = with_ndp(source, all_routers, &bare, |packet| {
            neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
        });
        assert_eq!(outcome, Ok(()));
        let sent = frame::parse(&link.frames[0].bytes).unwrap();
        let Body::Ip(packet) = sent.body else { panic!("not IP") };
        assert_eq!((sent.destination, packet.destination), (to_mac, to.into()));
        assert_eq!((packet.source, packet.payload[0]), (v6("fe80::2").into(), 134));
    }
    let mut with_mac = [&bare[..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat();
    fix_checksum(&mut with_mac, Ipv6Addr::UNSPECIFIED, all_routers);
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    let outcome = with_ndp(Ipv6Addr::UNSPECIFIED, all_routers, &with_mac, |packet| {
        neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
    });
    assert_eq!(outcome, Err(DropReason::NeighborInvalid));
}

#[test]
fn container_is_asked_for_once_a_second_and_learnt_from_its_answer() {
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    let begin = Instant::from_secs(9);
    for millis in [0, 1, 999, 1_000, 1_500] {
        neighbor.solicit(CONTAINER.into(), begin + Duration::from_millis(millis), &mut link);
    }
    assert_eq!(link.frames.len(), 2);
    let asked = frame::parse(&link.frames[0].bytes).unwrap();
    assert_eq!(asked.destination, MacAddr::BROADCAST);
    let Body::Arp(message) = asked.body else { panic!("not ARP") };
    assert_eq!((message.operation, message.sender, message.target), (Operation::Request, GATEWAY, CONTAINER));
    let answer = arp::Message { operation: Operation::Reply, ..request(CONTAINER, GATEWAY) };
    assert_eq!(neighbor.handle_arp(&answer, &mut link), Ok(()));
    assert_eq!(neighbor.container_mac(), Some(CONTAINER_MAC));

    let mut link = Link::default();
    for millis in [0, 999] {
        neighbor.solicit(v6("fd00::64").into(), begin + Duration::from_millis(millis), &mut link);
    }
    let (mac, source, destination, message) = only_ndp(&link);
    assert_eq!(mac, MacAddr([0x33, 0x33, 0xff, 0, 0, 0x64]));
    assert_eq!((source, destination), (v6("fe80::2").into(), v6("ff02::1:ff00:64").into()));
    let expected = Message::NeighborSolicitation { target: v6("fd00::64"), source_mac: Some(GATEWAY_MAC) };
    assert_eq!(message, expected);
}

#[test]
fn strangers_and_ourselves_are_not_asked_for() {
    let (mut neighbor, mut link) = (neighbor(&link_config()), Link::default());
    for target in [GATEWAY.into(), DNS.into(), IpAddr::from([203, 0, 113, 1]), v6("2001:db8::1").into()] {
        neighbor.solicit(target, Instant::ZERO, &mut link);
    }
    assert!(link.frames.is_empty());
}

#[test]
fn without_a_family_nothing_of_it_is_ours() {
    let config = LinkConfig { ipv4: None, ipv6: None, ..link_config() };
    let (mut neighbor, mut link) = (neighbor(&config), Link::default());
    assert_eq!(neighbor.handle_arp(&request(CONTAINER, GATEWAY), &mut link), Err(DropReason::NotForUs));
    let source = v6("fe80::64");
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0];
    fix_checksum(&mut message, source, v6("ff02::2"));
    let outcome = with_ndp(source, v6("ff02::2"), &message, |packet| {
        neighbor.handle_ndp(packet, CONTAINER_MAC, &mut link)
    });
    assert_eq!(outcome, Err(DropReason::NotForUs));
    assert!(link.frames.is_empty());
}

/// The same link, shared with everybody whom the host reaches.
fn shared_link() -> LinkConfig {
    LinkConfig { segment: Segment::Shared(Default::default()), ..link_config() }
}

#[rstest]
#[case::a_neighbor(Ipv4Addr::new(10, 0, 2, 77), true)]
#[case::off_the_subnet(Ipv4Addr::new(203, 0, 113, 2), true)]
#[case::the_containers_own(CONTAINER, false)]
fn on_a_shared_segment_everybody_but_the_container_is_answered_for(
    #[case] target: Ipv4Addr,
    #[case] answered: bool,
) {
    let mut link = Link::default();
    let mut neighbor = neighbor(&shared_link());
    let result = neighbor.handle_arp(&request(CONTAINER, target), &mut link);
    assert_eq!(result.is_ok(), answered, "{result:?}");
    assert_eq!(link.frames.len(), usize::from(answered));
}

#[rstest]
#[case::probe(Ipv4Addr::UNSPECIFIED)]
#[case::announcement(Ipv4Addr::new(10, 0, 2, 77))]
fn on_a_shared_segment_an_address_that_the_container_gives_itself_is_left_to_it(#[case] sender: Ipv4Addr) {
    let mut link = Link::default();
    let mut neighbor = neighbor(&shared_link());
    let asked = request(sender, Ipv4Addr::new(10, 0, 2, 77));
    assert_eq!(neighbor.handle_arp(&asked, &mut link), Err(DropReason::NotForUs));
    assert!(link.frames.is_empty());
}
