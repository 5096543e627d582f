//! Whose a frame is: the same for all that belongs together, whichever way it goes and whoever is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::wire::icmp::{Problem, error_len, write_error};

const SECRET: [u64; 4] = [9, 8, 7, 6];
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// What each of so many workers says of a frame: all the same one.
fn owner(workers: usize, frame: &[u8]) -> usize {
    let said: Vec<usize> = (0..workers)
        .map(|own| Share::part(own, workers, SECRET).owner_of_frame(frame).unwrap_or(own))
        .collect();
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    said[0]
}

fn tcp_frame(container: SocketAddr, remote: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
    let ip = match (container.ip(), remote.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("of one family"),
    };
    let mut frame = Vec::new();
    ip.tcp(container.port(), remote.port(), 1, 1_000).write(&mut frame, payload).unwrap();
    frame
}

fn endpoints() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = || {
        (any::<[u8; 3]>(), 1_u16..)
            .prop_map(|([a, b, c], port)| SocketAddr::new(Ipv4Addr::new(10, a, b, c).into(), port))
    };
    let v6 = || {
        (any::<[u8; 8]>(), 1_u16..).prop_map(|(low, port)| {
            let [a, b, c, d, e, f, g, h] = low;
            let bytes = [0xfd, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h];
            SocketAddr::new(Ipv6Addr::from(bytes).into(), port)
        })
    };
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

/// The container's error about a packet that it was sent.
fn error_about(packet: &[u8], (from, to): (IpAddr, IpAddr)) -> Vec<u8> {
    let mut message = vec![0; error_len(from.is_ipv6(), packet)];
    write_error(&mut message, from, to, Problem::PortUnreachable, packet);
    let (head, rest) = message.split_at(8);
    let word = [head[4], head[5], head[6], head[7]];
    let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let packet = ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4_raw(head[0], head[1], word);
            packet.write(&mut frame, rest).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let packet = ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6_raw(head[0], head[1], word);
            packet.write(&mut frame, rest).unwrap();
        }
        _ => unreachable!("of one family"),
    }
    frame
}

proptest! {
    #[test]
    fn frames_of_a_connection_and_errors_about_it_have_one_owner(
        (container, remote) in endpoints(),
        workers in 2_usize..9,
        payload in any::<[u8; 3]>(),
    ) {
        let key = FlowKey { protocol: FlowProtocol::Tcp, container, remote };
        let expected = owner(workers, &tcp_frame(container, remote, &[]));
        prop_assert_eq!(owner(workers, &tcp_frame(container, remote, &payload)), expected);
        // What it was sent, and what it says of that.
        let sent = tcp_frame(remote, container, &payload);
        let error = error_about(&sent[14..], (container.ip(), remote.ip()));
        prop_assert_eq!(owner(workers, &error), expected);
        for own in 0..workers {
            let share = Share::part(own, workers, SECRET);
            prop_assert_eq!(share.is_mine(&key), own == expected);
            prop_assert_eq!(share.owner(&key), (own != expected).then_some(expected));
        }
    }

    #[test]
    fn whatever_else_comes_is_of_the_first_or_of_nobody_in_particular(
        (container, remote) in endpoints(),
        frame in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let whoever = Share::part(1, 2, SECRET).owner_of_frame(&frame);
        prop_assert!(whoever.is_none() || frame::parse(&frame).is_ok());
        for protocol in [FlowProtocol::Udp, FlowProtocol::Echo] {
            let key = FlowKey { protocol, container, remote };
            prop_assert!(Share::part(0, 4, SECRET).is_mine(&key));
        }
    }
}

#[test]
fn fragments_datagrams_and_arp_are_of_the_first() {
    let remote = "192.0.2.1:80".parse().unwrap();
    let elsewhere = (0..)
        .map(|port| SocketAddr::new(IpAddr::from([10, 0, 2, 100]), 1_024 + port))
        .find(|container| owner(4, &tcp_frame(*container, remote, &[])) != 0)
        .unwrap();
    let mut fragment = tcp_frame(elsewhere, remote, b"the beginning");
    // More fragments; and the header's checksum, anew.
    fragment[20] = 0x20;
    fragment[24..26].fill(0);
    let sum = !crate::wire::checksum::sum(&fragment[14..34]);
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(owner(4, &fragment), 0);
    let datagram = |from: ([u8; 4], u16), to: ([u8; 4], u16)| {
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4(from.0, to.0, 64).udp(from.1, to.1);
        packet.write(&mut frame, b"x").unwrap();
        frame
    };
    let (ours, theirs) = (([10, 0, 2, 100], elsewhere.port()), ([192, 0, 2, 1], 80));
    assert_eq!(owner(4, &datagram(ours, theirs)), 0);
    let reply = datagram(theirs, ours);
    let about_datagram = error_about(&reply[14..], (elsewhere.ip(), remote.ip()));
    assert_eq!(owner(4, &about_datagram), 0);
}

#[test]
fn connections_are_spread_evenly() {
    let remote = "192.0.2.1:443".parse().unwrap();
    let mut counts = [0; 4];
    for port in 1_024..9_024 {
        counts[owner(4, &tcp_frame(SocketAddr::new(IpAddr::from([10, 0, 2, 100]), port), remote, &[]))] += 1;
    }
    assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
}

#[test]
fn one_worker_has_everything() {
    let share = Share::part(0, 1, SECRET);
    assert!(share.is_whole() && !share.has_leader());
    let frame = tcp_frame("10.0.2.100:4000".parse().unwrap(), "192.0.2.1:80".parse().unwrap(), &[]);
    assert_eq!(share.owner_of_frame(&frame), None);
}
