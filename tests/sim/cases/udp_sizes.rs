//! UDP: empty, large, fragmented and joined datagrams.

use netferry::config::{AddressPair, Aliases, Segment};
use netferry::stack::drop_reason::DropReason;
use netferry::wire::vnet_header::Offload;

use super::both_families;
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, Moods};
use crate::packet::{self, Ip, SeenIp, UDP, udp};
use crate::world::{CONTAINER_MAC, GATEWAY, GATEWAY_MAC, Settings, World, at};

fn echoing(settings: Settings, target: std::net::SocketAddr) -> World {
    let mut world = World::new(settings);
    world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(1) });
    world
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    both_families(|target| {
        let mut world = echoing(Settings::default(), target);
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"");
        world.guest.udp_send(socket, target, b"x");
        world.guest.udp_send(socket, target, b"");
        world.run_for(ms(10));
        let lens: Vec<_> = world.guest.udp_received(socket).iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lens, [0, 1, 0]);
        world.finish_within(secs(301));
    });
}

#[test]
fn a_large_datagram_travels_whole_where_the_mtu_allows() {
    for offload in [Offload::ALL, Offload::NONE] {
        both_families(|target| {
            let settings = Settings::default().offload(offload).with(|config| config.link.mtu = 65_520);
            let mut world = echoing(settings, target);
            let socket = world.guest.udp_bind(7_000);
            let payloads: Vec<Vec<u8>> =
                [9_000, 65_400].map(|len| (0..len).map(|n| (n % 251) as u8).collect()).into();
            for payload in &payloads {
                world.guest.udp_send(socket, target, payload);
            }
            world.run_for(ms(10));
            let received: Vec<_> =
                world.guest.udp_received(socket).iter().map(|(_, bytes)| bytes.clone()).collect();
            assert!(received == payloads);
            world.finish_within(secs(301));
        });
    }
}

/// The transport of the packet whose fragments the core sent.
pub fn reassemble(fragments: &[SeenIp]) -> Vec<u8> {
    let end = |ip: &SeenIp| ip.fragment.unwrap().0 + ip.transport.len();
    let mut whole = vec![0; fragments.iter().map(end).max().unwrap()];
    for fragment in fragments {
        whole[fragment.fragment.unwrap().0..end(fragment)].copy_from_slice(&fragment.transport);
    }
    let covered: usize = fragments.iter().map(|fragment| fragment.transport.len()).sum();
    assert_eq!(covered, whole.len(), "the fragments cover the datagram once");
    assert_eq!(
        fragments.iter().filter(|fragment| !fragment.fragment.unwrap().1).count(),
        1,
        "one is the last"
    );
    assert!(fragments.iter().all(|fragment| fragment.identification == fragments[0].identification));
    let ip = SeenIp { transport: whole, fragment: None, ..fragments[0].clone() };
    assert!(ip.checksum_holds());
    ip.transport
}

#[test]
fn a_datagram_above_the_mtu_is_reassembled_and_the_answer_fragmented() {
    for (offload, backwards) in [(Offload::ALL, false), (Offload::NONE, true)] {
        both_families(|target| {
            let mut world = echoing(Settings::default().offload(offload), target);
            let source = world.settings.config.link.container_like(target.ip()).unwrap();
            let payload: Vec<u8> = (0..9_000u32).map(|n| (n % 251) as u8).collect();
            let mut fragments =
                Ip::new(source, target.ip(), UDP).fragments(udp((7_000, target.port()), &payload), 1_500);
            if backwards {
                fragments.reverse();
            }
            fragments.iter().for_each(|fragment| world.inject(fragment));
            world.run_for(ms(10));
            assert_eq!(world.host.datagrams[0].sent.len(), 1);
            assert!(world.host.datagrams[0].sent[0].bytes == payload);
            let answer: Vec<_> = world.sent_packets().filter(|ip| ip.fragment.is_some()).collect();
            assert!(answer.len() >= 7);
            assert!(reassemble(&answer)[8..] == payload);
            world.finish_within(secs(301));
        });
    }
}

#[test]
fn the_largest_datagram_of_each_family_comes_through_in_fragments() {
    for (mtu, offload) in [(1_280, Offload::ALL), (1_500, Offload::NONE), (65_520, Offload::ALL)] {
        both_families(|target| {
            let bytes = if target.is_ipv4() { 65_507 } else { 65_527 };
            let settings = Settings::default().offload(offload).with(|config| config.link.mtu = mtu);
            let mut world = World::new(settings);
            world.host.datagram_peers.insert(target, DatagramPeer::Bursts { count: 1, bytes });
            let ip = Ip::new(world_source(target), target.ip(), UDP);
            let question = udp((7_000, target.port()), &vec![1; bytes]);
            ip.fragments(question, mtu.into()).iter().for_each(|piece| world.inject(piece));
            world.run_for(ms(10));
            assert_eq!(world.host.datagrams[0].sent[0].bytes.len(), bytes);
            let answer: Vec<_> = world.sent_packets().filter(|ip| ip.fragment.is_some()).collect();
            assert_eq!(reassemble(&answer).len(), 8 + bytes);
            world.finish_within(secs(301));
        });
    }
}

#[test]
fn two_large_answers_have_different_identifications() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.datagram_peers.insert(target, DatagramPeer::Bursts { count: 2, bytes: 4_000 });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"x");
        world.run_for(ms(10));
        let mut seen: Vec<_> =
            world.sent_packets().filter(|ip| ip.fragment.is_some()).map(|ip| ip.identification).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2);
        world.finish_within(secs(301));
    });
}

#[test]
fn fragments_that_never_complete_are_forgotten() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let fragments =
        Ip::new(crate::world::CONTAINER, target.ip(), UDP).fragments(udp((7_000, 80), &[1; 4_000]), 1_500);
    world.inject(&fragments[0]);
    world.inject(&fragments[2]);
    world.run_for(secs(120));
    assert_eq!(world.host.actions, []);
    // Too late: the rest has been forgotten.
    world.inject(&fragments[1]);
    world.run_for(secs(120));
    assert_eq!(world.host.actions, []);
    let errors = world.icmp_errors();
    let [(kind, code, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
    assert_eq!((*kind, *code, *from), (11, 1, GATEWAY.into()), "RFC 792: reassembly time exceeded");
    assert_eq!((quote.fragment, quote.ports()), (Some((0, true)), (7_000, 80)), "of the first fragment");
    assert_eq!(world.sent_packets().count(), 1);
    assert_eq!(world.drops(DropReason::FragmentTimeout), 2);
    world.finish();
}

#[test]
fn without_the_first_fragment_nothing_is_said_of_the_rest() {
    both_families(|target| {
        let mut world = World::usual();
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        let fragments = Ip::new(source, target.ip(), UDP).fragments(udp((7_000, 80), &[1; 4_000]), 1_500);
        world.inject(&fragments[1]);
        world.run_for(secs(60));
        assert_eq!((world.sent_packets().count(), world.drops(DropReason::FragmentTimeout)), (0, 1));
        world.finish();
    });
}

#[test]
fn fragments_that_ipv6_forbids_are_answered_with_a_parameter_problem() {
    // RFC 8200 §4.5: code and pointer by what is wrong.
    let source = crate::world::CONTAINER6;
    let target = at("[2001:db8::5]:80");
    let ip = |offset, more, protocol| Ip {
        fragment: Some((offset, more)),
        ..Ip::new(source, target.ip(), protocol)
    };
    let header_of_options = [17, 0, 1, 4, 0, 0, 0, 0];
    let ragged = ip(0, true, UDP).raw(&[1; 1_001]);
    let too_far = ip(65_528, true, UDP).raw(&[1; 1_000]);
    let without_transport = ip(0, true, 60).raw(&header_of_options);
    let endless_header = ip(0, true, 60).raw(&[17, 9, 1, 4, 0, 0, 0, 0]);
    for (packet, code, pointer) in
        [(ragged, 0, 4u32), (too_far, 0, 42), (without_transport, 3, 0), (endless_header, 3, 0)]
    {
        let mut world = World::usual();
        world.inject(&packet);
        world.run_for(ms(1));
        let told = world.sent_packets().next().expect("an error");
        assert_eq!((told.icmp(), &told.transport[4..8]), (Some((4, code)), &pointer.to_be_bytes()[..]));
        assert_eq!(world.drops(DropReason::FragmentInvalid), 1);
        assert_eq!(world.host.actions, []);
        world.finish();
    }
}

#[test]
fn datagrams_given_up_in_a_flood_of_fragments_are_counted() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    for number in 0..1_000 {
        let ip = Ip::new(crate::world::CONTAINER, target.ip(), UDP).numbered(number);
        world.inject(&Ip { fragment: Some((8, true)), ..ip }.raw(&[1; 1_000]));
    }
    world.run_for(ms(1));
    let limit = world.settings.config.limits.reassembly.datagrams as u64;
    assert_eq!(world.drops(DropReason::FragmentLimit), 1_000 - limit);
    // Others get through.
    let whole = Ip::new(crate::world::CONTAINER, target.ip(), UDP).numbered(2_000);
    whole.fragments(udp((7_000, 80), &[1; 4_000]), 1_500).iter().for_each(|piece| world.inject(piece));
    world.run_for(ms(1));
    assert_eq!(world.host.datagrams[0].sent.len(), 1);
    world.finish_within(secs(301));
}

#[test]
fn in_the_hosts_place_what_its_link_does_not_take_leaves_in_fragments() {
    both_families(|target| {
        let settings = Settings::default().with(|config| {
            config.link.mtu = 9_000;
            let none = AddressPair { ipv4: None, ipv6: None };
            config.link.segment = Segment::Shared(Aliases { loopback: none, host: none });
        });
        let mut world = World::new(settings);
        world.host.datagram_peers.insert(target, DatagramPeer::TooLong { mtu: 1_500 });
        let ip = Ip::new(world_source(target), target.ip(), UDP).whole();
        for bytes in [4_000, 1_000, 4_000] {
            world.inject(&ip.carrying(udp((7_000, target.port()), &vec![1; bytes])));
            world.run_for(ms(1));
        }
        let sent = world.host.datagrams[0].sent.iter();
        let sent: Vec<_> = sent.map(|sent| (sent.bytes.len(), sent.how.dont_fragment)).collect();
        assert_eq!(sent, [(4_000, false), (1_000, true), (4_000, false)]);
        assert!(world.icmp_errors().is_empty());
        world.finish_within(secs(301));
    });
}

#[test]
fn what_may_not_be_fragmented_is_not_and_what_may_be_is() {
    both_families(|target| {
        let source = world_source(target);
        let ip = Ip::new(source, target.ip(), UDP);
        let transport = udp((7_000, target.port()), &[1; 1_400]);
        let mut world = World::usual();
        world.inject(&ip.clone().whole().carrying(transport.clone()));
        world.inject(&ip.carrying(transport.clone()));
        ip.fragments(transport, 1_280).iter().for_each(|piece| world.inject(piece));
        world.run_for(ms(1));
        let sent: Vec<_> = world.host.datagrams[0].sent.iter().map(|sent| sent.how.dont_fragment).collect();
        // IPv6 says it by having a fragment header, or none.
        assert_eq!(sent, if target.is_ipv6() { [true, true, false] } else { [true, false, false] });
        world.finish_within(secs(301));
    });
}

fn world_source(target: std::net::SocketAddr) -> std::net::IpAddr {
    if target.is_ipv6() { crate::world::CONTAINER6.into() } else { crate::world::CONTAINER.into() }
}

#[test]
fn a_datagram_too_long_for_the_hosts_link_is_answered_with_its_mtu() {
    both_families(|target| {
        let settings = Settings::default().with(|config| config.link.mtu = 9_000);
        let mut world = World::new(settings);
        world.host.datagram_peers.insert(target, DatagramPeer::TooLong { mtu: 1_500 });
        let ip = Ip::new(world_source(target), target.ip(), UDP).whole();
        let packet = ip.carrying(udp((7_000, target.port()), &[1; 4_000]));
        // The first opens the socket, the second finds it open.
        for _ in 0..2 {
            world.inject(&packet);
            world.run_for(ms(1));
        }
        let errors = world.icmp_errors();
        assert_eq!(errors.len(), 2);
        for (kind, code, from, quote) in errors {
            assert_eq!((kind, code), if target.is_ipv4() { (3, 4) } else { (2, 0) });
            assert_eq!(Some(from), world.settings.config.link.gateway_like(target.ip()));
            assert_eq!((quote.length, quote.ports()), (packet.len(), (7_000, target.port())));
        }
        let told = world.sent_packets().next().unwrap();
        assert_eq!(told.transport[4..8], 1_500u32.to_be_bytes());
        world.finish_within(secs(301));
    });
}

#[test]
fn overlapping_fragments_are_dropped() {
    let mut world = World::usual();
    let target = at("[2001:db8::5]:80");
    let ip = Ip::new(crate::world::CONTAINER6, target.ip(), UDP);
    let mut fragments = ip.fragments(udp((7_000, 80), &[1; 4_000]), 1_500);
    let overlap = Ip { fragment: Some((1_000, true)), ..ip.clone() }.raw(&[9; 1_000]);
    fragments.insert(1, overlap);
    fragments.iter().for_each(|fragment| world.inject(fragment));
    world.run_for(ms(10));
    assert_eq!(world.host.actions, []);
    assert!(world.drops(DropReason::FragmentOverlap) >= 1);
    world.run_for(secs(120));
    world.finish();
}

#[test]
fn a_run_of_equal_datagrams_stays_together_toward_the_container() {
    for (offload, bytes) in [(Offload::ALL, 100), (Offload::ALL, 1_400), (Offload::NONE, 1_400)] {
        both_families(|target| {
            let mut world = World::new(Settings::default().offload(offload));
            world.host.moods = Moods { joins: true, ..Moods::default() };
            world.host.datagram_peers.insert(target, DatagramPeer::Bursts { count: 40, bytes });
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, b"x");
            world.run_for(ms(10));
            let received = world.guest.udp_received(socket);
            assert_eq!(received.len(), 40);
            for (index, (from, payload)) in received.iter().enumerate() {
                assert_eq!((*from, payload), (target, &vec![index as u8; bytes]));
            }
            assert_eq!(world.link.super_commits > 0, offload.udp, "joined where the link can");
            world.finish_within(secs(301));
        });
    }
}

#[test]
fn a_super_datagram_of_the_container_leaves_as_its_datagrams() {
    both_families(|target| {
        let mut world = World::usual();
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        let payload: Vec<u8> = (0..10_250u32).map(|n| (n / 1_000) as u8).collect();
        let mut datagram = udp((7_000, 80), &payload);
        let pseudo = packet::pseudo_sum(source, target.ip(), UDP, datagram.len());
        datagram[6..8].copy_from_slice(&pseudo.to_be_bytes());
        let frame =
            packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, &Ip::new(source, target.ip(), UDP).raw(&datagram));
        let start = if target.is_ipv4() { 34u8 } else { 54 };
        let size = 1_000u16.to_le_bytes();
        let header = [1, 5, start + 8, 0, size[0], size[1], start, 0, 6, 0];
        let now = world.now;
        world.link.inject_up(header, frame, now);
        world.run_for(ms(10));
        let sent = &world.host.datagrams[0].sent;
        let lens: Vec<_> = sent.iter().map(|datagram| datagram.bytes.len()).collect();
        assert_eq!(lens, [[1_000; 10].to_vec(), vec![250]].concat());
        assert!(
            sent.iter()
                .enumerate()
                .all(|(index, datagram)| datagram.bytes.iter().all(|byte| *byte == index as u8))
        );
        world.finish_within(secs(301));
    });
}
