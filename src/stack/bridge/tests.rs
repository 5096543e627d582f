//! Frames of well-behaved and of hostile containers, and where they go.

use etherparse::PacketBuilder;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::{Ipv4Link, Ipv6Link, Segment};
use crate::wire::arp::{FRAME_LEN, Message};
use crate::wire::frame::FrameError;
use crate::wire::icmp::fill_checksum;
use crate::wire::ip::Ethernet;

const GATEWAY_MAC: MacAddr = MacAddr([2, 0x67, 0x77, 0, 0, 2]);
const ZERO: Instant = Instant::ZERO;

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0x42, 172, 17, 0, last])
}

fn ipv4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 17, 0, last)
}

fn ipv6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, last)
}

fn link(last: u8) -> LinkConfig {
    LinkConfig {
        segment: Segment::Bridged { internal: false },
        ipv4: Some(Ipv4Link {
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: ipv4(1),
            dns: Some(ipv4(1)),
            container: ipv4(last),
        }),
        ipv6: Some(Ipv6Link {
            prefix: "fd00:17::/64".parse().unwrap(),
            gateway: ipv6(1),
            gateway_link_local: "fe80::2".parse().unwrap(),
            dns: Some(ipv6(1)),
            container: ipv6(last.into()),
        }),
        mtu: 1_500,
        gateway_mac: GATEWAY_MAC,
        container_mac: Some(mac(last)),
    }
}

/// Containers 2, 3 and 4, whose devices are called by their numbers.
struct Net {
    bridge: Bridge<u8>,
    ports: Vec<PortId>,
}

impl Net {
    fn new() -> Net {
        Net::with(false)
    }

    fn with(isolated: bool) -> Net {
        let mut bridge = Bridge::new(GATEWAY_MAC, isolated);
        let ports = (2..=4).map(|last| bridge.add(&link(last), mac(last), last).unwrap()).collect();
        Net { bridge, ports }
    }

    /// As the driver does it: what is to be learnt is, and the question asked again.
    fn judge(&mut self, from: u8, frame: &[u8], now: Instant) -> Verdict<'_, u8> {
        let port = self.ports[usize::from(from) - 2];
        for _ in 0..4 {
            match self.bridge.judge(port, &link(from), frame, now) {
                Verdict::Learn(claim) => {
                    if let Err(reason) = self.bridge.learn(port, claim, now) {
                        return Verdict::Drop(reason);
                    }
                }
                Verdict::Own | Verdict::One(_) | Verdict::Others { .. } | Verdict::Drop(_) => {
                    return self.bridge.judge(port, &link(from), frame, now);
                }
            }
        }
        panic!("it never ends to learn");
    }
}

fn udp(ether: (MacAddr, MacAddr), source: Ipv4Addr, to: (Ipv4Addr, u16), source_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ether.0.0, ether.1.0)
        .ipv4(source.octets(), to.0.octets(), 64)
        .udp(source_port, to.1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn udp6(ether: (MacAddr, MacAddr), source: Ipv6Addr, to: (Ipv6Addr, u16), source_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ether.0.0, ether.1.0)
        .ipv6(source.octets(), to.0.octets(), 64)
        .udp(source_port, to.1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn icmp6(ether: (MacAddr, MacAddr), addresses: (Ipv6Addr, Ipv6Addr), mut message: Vec<u8>) -> Vec<u8> {
    fill_checksum(&mut message, addresses.0.into(), addresses.1.into());
    let mut frame = [&ether.1.0[..], &ether.0.0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend([protocol::ICMPV6, 255]);
    frame.extend([addresses.0.octets(), addresses.1.octets()].concat());
    frame.extend(message);
    frame
}

fn discovery(kind: u8, target: Ipv6Addr, told: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    message.extend(told.into_iter().flat_map(|(option, mac)| [&[option, 1][..], &mac.0].concat()));
    message
}

fn arp(operation: Operation, from: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let message =
        Message { operation, sender_mac: from.0, sender: from.1, target_mac: MacAddr([0; 6]), target };
    let mut frame = [0; FRAME_LEN];
    message.write_frame(&mut frame, &Ethernet { source: from.0, destination: MacAddr::BROADCAST });
    frame.to_vec()
}

#[test]
fn a_frame_for_another_container_goes_to_its_port_and_one_for_the_gateway_to_the_core() {
    let mut net = Net::new();
    let frame = udp((mac(2), mac(3)), ipv4(2), (ipv4(3), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::One(&3));
    let frame = udp6((mac(2), mac(4)), ipv6(2), (ipv6(4), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::One(&4));
    let frame = udp((mac(2), GATEWAY_MAC), ipv4(2), ("203.0.113.1".parse().unwrap(), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Own);
    // As with any switch: nobody hears what he sends to himself.
    let frame = udp((mac(2), mac(2)), ipv4(2), (ipv4(2), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::NotForUs));
}

#[rstest]
#[case::gateway(GATEWAY_MAC)]
#[case::neighbor(mac(3))]
fn the_ethernet_address_of_another_is_not_taken(#[case] source: MacAddr) {
    let mut net = Net::new();
    for destination in [mac(4), GATEWAY_MAC, MacAddr::BROADCAST] {
        let frame = udp((source, destination), ipv4(2), (ipv4(4), 80), 4_000);
        assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedMac), "{destination}");
    }
}

#[rstest]
#[case::neighbor(ipv4(3))]
#[case::gateway(ipv4(1))]
#[case::nobody(ipv4(77))]
#[case::elsewhere(Ipv4Addr::new(198, 51, 100, 1))]
#[case::none(Ipv4Addr::UNSPECIFIED)]
fn the_address_of_another_is_not_spoken_for(#[case] source: Ipv4Addr) {
    let mut net = Net::new();
    let frame = udp((mac(2), mac(4)), source, (ipv4(4), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedSource));
    let frame = udp((mac(2), MacAddr::BROADCAST), source, (Ipv4Addr::BROADCAST, 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedSource));
}

#[rstest]
#[case::neighbor(ipv6(3))]
#[case::gateway(ipv6(1))]
#[case::gateway_by_link("fe80::2".parse().unwrap())]
#[case::neighbor_by_link("fe80::42:acff:fe11:3".parse().unwrap())]
#[case::neighbor_as_advertised("fd00:17::42:acff:fe11:3".parse().unwrap())]
#[case::elsewhere("2001:db8::1".parse().unwrap())]
#[case::none(Ipv6Addr::UNSPECIFIED)]
fn the_ipv6_address_of_another_is_not_spoken_for(#[case] source: Ipv6Addr) {
    let mut net = Net::new();
    let frame = udp6((mac(2), mac(4)), source, (ipv6(4), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedSource));
}

#[rstest]
#[case("fe80::42:acff:fe11:2")]
#[case("fd00:17::42:acff:fe11:2")]
#[case("fd00:17::2")]
#[case::of_its_own_making("fe80::1234")]
fn what_a_container_makes_of_its_own_is_its_own(#[case] source: &str) {
    let mut net = Net::new();
    let frame = udp6((mac(2), mac(3)), source.parse().unwrap(), (ipv6(3), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::One(&3));
}

#[test]
fn a_link_local_address_is_the_first_ones_until_it_is_forgotten() {
    let mut net = Net::new();
    let contested: Ipv6Addr = "fe80::1234".parse().unwrap();
    let claim = |from, now, net: &mut Net| {
        let frame = udp6((mac(from), mac(4)), contested, (ipv6(4), 80), 4_000);
        matches!(net.judge(from, &frame, now), Verdict::One(_))
    };
    let (later, much_later) = (Instant::from_secs(200), Instant::from_secs(499));
    assert!(claim(2, ZERO, &mut net) && !claim(3, ZERO, &mut net));
    assert!(claim(2, later, &mut net), "speaking keeps it");
    assert!(!claim(3, much_later, &mut net) && claim(3, Instant::from_secs(501), &mut net));
    assert!(!claim(2, Instant::from_secs(501), &mut net));
}

#[test]
fn who_has_goes_to_whom_it_is_about_alone() {
    let mut net = Net::new();
    let ask = |target| arp(Operation::Request, (mac(2), ipv4(2)), target);
    assert_eq!(net.judge(2, &ask(ipv4(3)), ZERO), Verdict::One(&3));
    assert_eq!(net.judge(2, &ask(ipv4(1)), ZERO), Verdict::Own);
    assert_eq!(net.judge(2, &ask(ipv4(9)), ZERO), Verdict::Drop(DropReason::NotForUs));
    assert_eq!(net.judge(2, &ask(ipv4(2)), ZERO), Verdict::Others { own: true }, "it tells of itself");

    let solicit = |target: Ipv6Addr| {
        let group = ndp::solicited_node(target);
        let message = discovery(135, target, Some((1, mac(2))));
        icmp6((mac(2), ndp::multicast_mac(group)), (ipv6(2), group), message)
    };
    assert_eq!(net.judge(2, &solicit(ipv6(3)), ZERO), Verdict::One(&3));
    assert_eq!(net.judge(2, &solicit("fe80::42:acff:fe11:4".parse().unwrap()), ZERO), Verdict::One(&4));
    assert_eq!(net.judge(2, &solicit(ipv6(1)), ZERO), Verdict::Own);
    assert_eq!(net.judge(2, &solicit("fe80::2".parse().unwrap()), ZERO), Verdict::Own);
    assert_eq!(net.judge(2, &solicit(ipv6(9)), ZERO), Verdict::Drop(DropReason::NotForUs));
}

#[test]
fn a_probe_for_an_address_in_use_reaches_its_holder_who_defends_it() {
    let mut net = Net::new();
    let frame = arp(Operation::Request, (mac(2), Ipv4Addr::UNSPECIFIED), ipv4(3));
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::One(&3));
    let probe = |from: u8, target: Ipv6Addr| {
        let group = ndp::solicited_node(target);
        let addresses = (Ipv6Addr::UNSPECIFIED, group);
        icmp6((mac(from), ndp::multicast_mac(group)), addresses, discovery(135, target, None))
    };
    assert_eq!(net.judge(2, &probe(2, ipv6(3)), ZERO), Verdict::One(&3));
    // Whoever probes first for a link-local address has it, though nobody has heard him with it.
    let wanted: Ipv6Addr = "fe80::1234".parse().unwrap();
    assert_eq!(net.judge(2, &probe(2, wanted), ZERO), Verdict::Drop(DropReason::NotForUs));
    assert_eq!(net.judge(3, &probe(3, wanted), ZERO), Verdict::One(&2));
}

#[rstest]
#[case::gateway(ipv4(1), DropReason::NeighborConflict)]
#[case::neighbor(ipv4(3), DropReason::NeighborConflict)]
#[case::nobody(ipv4(9), DropReason::SpoofedSource)]
fn nobody_says_over_arp_that_it_has_what_it_has_not(#[case] claimed: Ipv4Addr, #[case] reason: DropReason) {
    let mut net = Net::new();
    for operation in [Operation::Request, Operation::Reply] {
        for target in [ipv4(4), claimed] {
            let frame = arp(operation, (mac(2), claimed), target);
            assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(reason), "{operation:?}");
            let mut unicast = frame;
            unicast[..6].copy_from_slice(&mac(4).0);
            assert_eq!(net.judge(2, &unicast, ZERO), Verdict::Drop(reason), "{operation:?}");
        }
    }
    // Its own address, at the Ethernet address of another.
    let mut frame = arp(Operation::Reply, (mac(3), ipv4(2)), ipv4(4));
    frame[6..12].copy_from_slice(&mac(2).0);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedMac));
}

#[rstest]
#[case::gateway(ipv6(1))]
#[case::gateway_by_link("fe80::2".parse().unwrap())]
#[case::neighbor(ipv6(3))]
#[case::nobody(ipv6(9))]
fn nobody_advertises_what_it_has_not(#[case] claimed: Ipv6Addr) {
    let mut net = Net::new();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let message = discovery(136, claimed, Some((2, mac(2))));
    for (destination, to) in [(mac(4), ipv6(4)), (ndp::multicast_mac(all_nodes), all_nodes)] {
        let frame = icmp6((mac(2), destination), (ipv6(2), to), message.clone());
        assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::NeighborConflict));
    }
    let message = discovery(136, ipv6(2), Some((2, mac(3))));
    let frame = icmp6((mac(2), mac(4)), (ipv6(2), ipv6(4)), message);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Drop(DropReason::SpoofedMac));
    let message = discovery(136, ipv6(2), Some((2, mac(2))));
    let frame = icmp6((mac(2), ndp::multicast_mac(all_nodes)), (ipv6(2), all_nodes), message);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Others { own: true });
}

#[test]
fn only_the_gateway_is_a_router_and_a_server_of_addresses() {
    let mut net = Net::new();
    let refused = Verdict::Drop(DropReason::RogueServer);
    let own = "fe80::42:acff:fe11:2".parse().unwrap();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for kind in [134, 137] {
        for (destination, to) in [(mac(3), ipv6(3)), (ndp::multicast_mac(all_nodes), all_nodes)] {
            let frame = icmp6((mac(2), destination), (own, to), vec![kind; 48]);
            assert_eq!(net.judge(2, &frame, ZERO), refused, "type {kind}");
        }
    }
    let frame = udp((mac(2), mac(3)), ipv4(2), (ipv4(3), 68), 67);
    assert_eq!(net.judge(2, &frame, ZERO), refused);
    let frame = udp6((mac(2), mac(3)), own, ("fe80::42:acff:fe11:3".parse().unwrap(), 546), 547);
    assert_eq!(net.judge(2, &frame, ZERO), refused);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(2).0, mac(3).0)
        .ipv4(ipv4(2).octets(), ipv4(3).octets(), 64)
        .icmpv4_raw(5, 1, [0; 4])
        .write(&mut frame, &[0; 28])
        .unwrap();
    assert_eq!(net.judge(2, &frame, ZERO), refused);
}

/// RFC 7113 §2: by extension headers and fragments, a router advertisement gets past a switch that looks at fixed places.
#[rstest]
#[case::options(&[60, 0, 1, 4, 0, 0, 0, 0], None, DropReason::RogueServer)]
#[case::atomic_fragment(&[44, 0, 0, 0, 0, 0, 0, 1], None, DropReason::RogueServer)]
#[case::first_fragment(&[44, 0, 0, 1, 0, 0, 0, 1], None, DropReason::RogueServer)]
#[case::behind_the_fragment_header(
    &[44, 0, 0, 1, 0, 0, 0, 1], Some(60), DropReason::Frame(FrameError::ExtensionChain)
)]
fn a_router_advertisement_is_not_hidden(
    #[case] extension: &[u8],
    #[case] behind: Option<u8>,
    #[case] reason: DropReason,
) {
    let own: Ipv6Addr = "fe80::42:acff:fe11:2".parse().unwrap();
    let frame = icmp6((mac(2), mac(3)), (own, ipv6(3)), vec![134; 48]);
    let mut extension = extension.to_vec();
    let kind = std::mem::replace(&mut extension[0], behind.unwrap_or(protocol::ICMPV6));
    let mut frame = [&frame[..54], &extension, &frame[54..]].concat();
    frame[20] = kind;
    frame[19] += 8;
    assert_eq!(Net::new().judge(2, &frame, ZERO), Verdict::Drop(reason));
}

/// RFC 6980 §5; options may come before it.
#[rstest]
#[case::atomic_fragment(&[44, 0, 0, 0, 0, 0, 0, 1], false)]
#[case::first_fragment(&[44, 0, 0, 1, 0, 0, 0, 1], false)]
#[case::later_fragment(&[44, 0, 0, 8, 0, 0, 0, 1], false)]
#[case::atomic_behind_options(&[0, 44, 5, 2, 0, 0, 1, 0, 58, 0, 0, 0, 0, 0, 0, 1], false)]
#[case::options(&[0, 0, 5, 2, 0, 0, 1, 0], true)]
fn who_has_no_address_yet_says_nothing_in_fragments(#[case] extension: &[u8], #[case] is_heard: bool) {
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let frame = icmp6((mac(2), ndp::multicast_mac(all)), (Ipv6Addr::UNSPECIFIED, all), vec![128; 48]);
    let mut extension = extension.to_vec();
    let next = if extension.len() > 8 { extension[1] } else { protocol::ICMPV6 };
    let kind = std::mem::replace(&mut extension[0], next);
    extension[1] = 0;
    let mut frame = [&frame[..54], &extension, &frame[54..]].concat();
    frame[20] = kind;
    frame[19] += u8::try_from(extension.len()).unwrap();
    let mut net = Net::new();
    let verdict = net.judge(2, &frame, ZERO);
    let is_passed_on = matches!(verdict, Verdict::Others { .. });
    assert_eq!(is_passed_on, is_heard, "{verdict:?}");
    assert!(is_heard || verdict == Verdict::Drop(DropReason::SpoofedSource), "{verdict:?}");
}

#[test]
fn questions_to_the_gateways_services_are_heard_by_nobody_else() {
    let mut net = Net::new();
    let frame = udp((mac(2), MacAddr::BROADCAST), Ipv4Addr::UNSPECIFIED, (Ipv4Addr::BROADCAST, 67), 68);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Own);
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    let own = "fe80::42:acff:fe11:2".parse().unwrap();
    let frame = udp6((mac(2), ndp::multicast_mac(servers)), own, (servers, 547), 546);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Own);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    for source in [own, Ipv6Addr::UNSPECIFIED] {
        let frame =
            icmp6((mac(2), ndp::multicast_mac(routers)), (source, routers), vec![133, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(net.judge(2, &frame, ZERO), Verdict::Own);
    }
}

#[test]
fn groups_are_everybody_else() {
    let mut net = Net::new();
    let frame = udp(
        (mac(2), MacAddr([1, 0, 0x5e, 0, 0, 0xfb])),
        ipv4(2),
        (Ipv4Addr::new(224, 0, 0, 251), 5_353),
        5_353,
    );
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Others { own: false });
    let frame = udp((mac(2), MacAddr::BROADCAST), ipv4(2), (Ipv4Addr::new(172, 17, 255, 255), 9), 9);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Others { own: false });
    assert_eq!(net.bridge.others(net.ports[0]).copied().collect::<Vec<_>>(), [3, 4]);
    let frame = udp((mac(2), MacAddr([2, 9, 9, 9, 9, 9])), ipv4(2), (ipv4(9), 9), 9);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Others { own: false }, "nobody knows the station");
}

#[test]
fn containers_that_are_kept_apart_reach_the_gateway_alone() {
    let mut net = Net::with(true);
    let refused = Verdict::Drop(DropReason::Isolated);
    let group = (MacAddr([1, 0, 0x5e, 0, 0, 0xfb]), Ipv4Addr::new(224, 0, 0, 251));
    for (destination, to) in [(mac(3), ipv4(3)), group, (MacAddr([2, 9, 9, 9, 9, 9]), ipv4(9))] {
        let frame = udp((mac(2), destination), ipv4(2), (to, 80), 4_000);
        assert_eq!(net.judge(2, &frame, ZERO), refused, "{destination}");
    }
    let ask = |target| arp(Operation::Request, (mac(2), ipv4(2)), target);
    assert_eq!(net.judge(2, &ask(ipv4(3)), ZERO), refused);
    assert_eq!(net.judge(2, &ask(ipv4(1)), ZERO), Verdict::Own);
    assert_eq!(net.judge(2, &ask(ipv4(2)), ZERO), Verdict::Own);
    let frame = udp((mac(2), GATEWAY_MAC), ipv4(2), ("203.0.113.1".parse().unwrap(), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Own);
}

#[test]
fn a_few_stations_behind_a_port_are_learnt_and_reached_there_until_they_are_forgotten() {
    let mut net = Net::new();
    let station = |last| MacAddr([2, 1, 1, 1, 1, last]);
    let hello = |last, net: &mut Net, now| {
        let frame = udp((station(last), mac(3)), ipv4(2), (ipv4(3), 80), 4_000);
        match net.judge(2, &frame, now) {
            Verdict::Drop(reason) => Err(reason),
            Verdict::Own | Verdict::One(_) | Verdict::Others { .. } | Verdict::Learn(_) => Ok(()),
        }
    };
    for last in 0..u8::try_from(LEARNED_PER_PORT).unwrap() {
        assert_eq!(hello(last, &mut net, ZERO), Ok(()));
    }
    assert_eq!(hello(99, &mut net, ZERO), Err(DropReason::StationLimit));
    let answer = udp((mac(3), station(0)), ipv4(3), (ipv4(2), 4_000), 80);
    assert_eq!(net.judge(3, &answer, ZERO), Verdict::One(&2));
    // Nobody else takes one of them meanwhile.
    let frame = udp((station(0), mac(4)), ipv4(3), (ipv4(4), 80), 4_000);
    assert_eq!(net.judge(3, &frame, ZERO), Verdict::Drop(DropReason::SpoofedMac));
    assert_eq!(hello(0, &mut net, Instant::from_secs(299)), Ok(()));
    let later = Instant::from_secs(301);
    assert_eq!(hello(99, &mut net, later), Ok(()), "most are forgotten");
    assert_eq!(net.judge(3, &answer, later), Verdict::One(&2), "who was heard is not");
    let answer = udp((mac(3), station(1)), ipv4(3), (ipv4(2), 4_000), 80);
    assert_eq!(net.judge(3, &answer, later), Verdict::Others { own: false });
}

#[test]
fn a_port_that_has_learnt_enough_does_not_stop_the_others_with_every_frame() {
    let mut net = Net::new();
    let port = net.ports[0];
    let frame = |last| udp((MacAddr([2, 1, 1, 1, 1, last]), mac(3)), ipv4(2), (ipv4(3), 80), 4_000);
    for last in 0..=u8::try_from(LEARNED_PER_PORT).unwrap() {
        net.judge(2, &frame(last), ZERO);
    }
    let refused = Verdict::Drop(DropReason::StationLimit);
    assert_eq!(net.bridge.judge(port, &link(2), &frame(77), Instant::from_secs(9)), refused);
    let asks = net.bridge.judge(port, &link(2), &frame(77), Instant::from_secs(10));
    assert!(matches!(asks, Verdict::Learn(_)));
}

#[test]
fn what_a_port_held_is_free_when_it_is_gone_and_what_is_held_is_given_to_nobody() {
    let mut net = Net::new();
    let add = |net: &mut Net, last, address: u8| net.bridge.add(&link(address), mac(last), 9).map(|_| ());
    assert_eq!(add(&mut net, 3, 9), Err(PortError::Station(mac(3))));
    assert_eq!(add(&mut net, 9, 3), Err(PortError::Address(ipv4(3).into())));
    let gateway = net.bridge.add(&link(9), GATEWAY_MAC, 9);
    assert_eq!(gateway, Err(PortError::Station(GATEWAY_MAC)));
    assert_eq!(net.bridge.remove(net.ports[1]), Some(3));
    assert_eq!(net.bridge.remove(net.ports[1]), None);
    let frame = udp((mac(2), mac(3)), ipv4(2), (ipv4(3), 80), 4_000);
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::Others { own: false });
    assert_eq!(add(&mut net, 3, 3), Ok(()));
    assert_eq!(net.judge(2, &frame, ZERO), Verdict::One(&9));
    // Its successor's frames are not those of the port that is gone.
    let frame = udp((mac(3), mac(2)), ipv4(3), (ipv4(2), 80), 4_000);
    assert_eq!(net.judge(3, &frame, ZERO), Verdict::Drop(DropReason::NotForUs));
}

#[test]
fn a_flood_is_bounded_by_frames_and_by_bytes() {
    let flood = |bytes: usize, micros: u64| {
        let mut budget = FloodBudget::new(ZERO);
        (0..100_000)
            .filter(|number| match budget.take(bytes, ZERO + Duration::from_micros(number * micros)) {
                Ok(()) => true,
                Err(reason) => {
                    assert_eq!(reason, DropReason::FloodLimit);
                    false
                }
            })
            .count() as u64
    };
    assert_eq!(flood(60, 0), FLOOD_BURST);
    assert_eq!(flood(65_000, 0), FLOOD_BURST / 32);
    // Ten seconds.
    assert!((FLOOD_BURST + 10 * FLOODS_PER_SECOND).abs_diff(flood(60, 100)) <= 2);
    assert!((FLOOD_BURST + 10 * FLOODS_PER_SECOND).abs_diff(32 * flood(65_000, 100)) <= 64);
}

/// Frames of all kinds whose addresses mean something here, and with some bytes changed.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let macs = prop_oneof![
        (2..=5u8).prop_map(mac),
        Just(GATEWAY_MAC),
        Just(MacAddr::BROADCAST),
        any::<[u8; 6]>().prop_map(MacAddr),
        Just(MacAddr([0x33, 0x33, 0, 0, 0, 1])),
    ];
    let v4 = prop_oneof![(0..=5u8).prop_map(ipv4), any::<[u8; 4]>().prop_map(Ipv4Addr::from)];
    let v6 = prop_oneof![
        (0..=5u16).prop_map(ipv6),
        Just("fe80::2".parse().unwrap()),
        Just("fe80::42:acff:fe11:3".parse().unwrap()),
        Just(Ipv6Addr::UNSPECIFIED),
        Just("ff02::1".parse().unwrap()),
        any::<[u8; 16]>().prop_map(Ipv6Addr::from),
    ];
    let ports = prop_oneof![Just(67u16), Just(68), Just(546), Just(547), any::<u16>()];
    let kinds = 128..=140u8;
    let ether = (macs.clone(), macs.clone());
    prop_oneof![
        (ether.clone(), v4.clone(), v4.clone(), ports.clone(), ports.clone())
            .prop_map(|(ether, source, to, from, port)| udp(ether, source, (to, port), from)),
        (ether.clone(), v6.clone(), v6.clone(), ports.clone(), ports)
            .prop_map(|(ether, source, to, from, port)| udp6(ether, source, (to, port), from)),
        (ether, v6.clone(), v6.clone(), kinds, v6, proptest::option::of((1..=2u8, macs.clone()))).prop_map(
            |(ether, source, to, kind, target, told)| icmp6(
                ether,
                (source, to),
                discovery(kind, target, told)
            )
        ),
        (any::<bool>(), macs, v4.clone(), v4).prop_map(|(is_request, from, sender, target)| {
            let operation = if is_request { Operation::Request } else { Operation::Reply };
            arp(operation, (from, sender), target)
        }),
    ]
}

proptest! {
    /// Whatever container 2 sends: what reaches others is in its own name.
    #[test]
    fn whatever_leaves_is_in_the_senders_own_name(
        mut frame in hostile_frame(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        for (place, value) in changes {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        let mut net = Net::new();
        let leaves = matches!(net.judge(2, &frame, ZERO), Verdict::One(_) | Verdict::Others { .. });
        if leaves {
            let parsed = frame::parse(&frame).unwrap();
            prop_assert!(parsed.source != GATEWAY_MAC && ![mac(3), mac(4)].contains(&parsed.source));
            let (given, made) = ([ipv4(2).into(), ipv6(2).into()], given_addresses(&link(2), mac(2)));
            let others: Vec<IpAddr> =
                [3, 4].into_iter().flat_map(|last| given_addresses(&link(last), mac(last))).collect();
            let is_own = |address: IpAddr| {
                let is_new_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                given.contains(&address)
                    || made.contains(&address)
                    || (is_new_link_local && !link(2).is_gateway(address) && !others.contains(&address))
            };
            match parsed.body {
                Body::Arp(message) => {
                    prop_assert!(message.sender.is_unspecified() || is_own(message.sender.into()));
                    prop_assert_eq!(message.sender_mac, parsed.source);
                }
                Body::Ip(packet) => {
                    prop_assert!(packet.source.is_unspecified() || is_own(packet.source));
                    if packet.protocol == protocol::ICMPV6 && packet.source.is_ipv6() {
                        prop_assert!(!matches!(packet.payload[0], 134 | 137));
                    }
                }
            }
        }
    }
}
