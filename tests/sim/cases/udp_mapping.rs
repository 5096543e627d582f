//! UDP through NAT as RFC 4787 has it: who sees the container where, and who is heard.

use std::net::SocketAddr;

use netferry::stack::drop_reason::DropReason;

use crate::clock::{ms, secs};
use crate::host::DatagramPeer;
use crate::packet::{Ip, UDP, udp};
use crate::world::{CONTAINER, Settings, World, at};

/// Peers of each family, the last of which is never asked.
const PEERS: [[&str; 3]; 2] = [
    ["203.0.113.5:3478", "198.51.100.6:3479", "192.0.2.77:3480"],
    ["[2001:db8::5]:3478", "[2001:db8:2::6]:3479", "[2001:db8:3::7]:3480"],
];

fn peers(run: impl Fn([SocketAddr; 3])) {
    PEERS.into_iter().for_each(|peers| run(peers.map(at)));
}

fn ports(world: &World) -> Vec<u16> {
    world.host.datagrams.iter().map(|socket| socket.local_port).collect()
}

#[test]
fn all_peers_see_an_endpoint_at_its_own_port() {
    peers(|peers| {
        let mut world = World::usual();
        let socket = world.guest.udp_bind(7_000);
        for peer in &peers[..2] {
            world.host.datagram_peers.insert(*peer, DatagramPeer::Echoes { after: ms(1) });
            world.guest.udp_send(socket, *peer, b"x");
        }
        world.run_for(ms(10));
        assert_eq!(ports(&world), [7_000, 7_000]);
        let heard: Vec<SocketAddr> = world.guest.udp_received(socket).iter().map(|(from, _)| *from).collect();
        assert_eq!(heard, peers[..2]);
        world.finish_within(secs(301));
    });
}

#[test]
fn where_the_port_is_taken_all_peers_see_the_same_other_port() {
    peers(|peers| {
        let mut world = World::usual();
        // Another endpoint of the container with the same port has it.
        let stranger: SocketAddr = match peers[0] {
            SocketAddr::V4(_) => at("10.0.2.101:7000"),
            SocketAddr::V6(_) => at("[fd00::101]:7000"),
        };
        let first = Ip::new(stranger.ip(), peers[2].ip(), UDP).carrying(udp((7_000, 3_480), b"x"));
        world.inject(&first);
        world.run_for(ms(1));
        let socket = world.guest.udp_bind(7_000);
        for peer in &peers[..2] {
            world.guest.udp_send(socket, *peer, b"x");
            world.run_for(ms(10));
        }
        let [theirs, one, other] = ports(&world)[..] else { panic!("three sockets") };
        assert_eq!(theirs, 7_000);
        assert!(one != 7_000 && one == other, "{one} {other}");
        world.finish_within(secs(301));
    });
}

#[test]
fn a_mapping_lasts_as_long_as_one_of_its_peers() {
    peers(|peers| {
        let mut world = World::usual();
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, peers[0], b"x");
        world.run_for(secs(200));
        world.guest.udp_send(socket, peers[1], b"x");
        // The first is over by now.
        world.run_for(secs(200));
        assert_eq!(world.stack.flow_count(), 1);
        world.guest.udp_send(socket, peers[2], b"x");
        world.run_for(ms(10));
        assert_eq!(ports(&world), [7_000, 7_000, 7_000]);
        world.finish_within(secs(301));
    });
}

#[test]
fn only_peers_that_were_asked_are_heard() {
    peers(|peers| {
        let mut world = World::usual();
        let socket = world.guest.udp_bind(7_000);
        for peer in &peers[..2] {
            world.guest.udp_send(socket, *peer, b"x");
        }
        world.run_for(ms(10));
        for flow in [0, 1].map(|place: usize| world.host.datagrams[place].flow) {
            world.host.send_to_flow(flow, peers[2], b"unasked");
        }
        world.run_for(ms(10));
        assert_eq!(world.guest.udp_received(socket), []);
        world.finish_within(secs(301));
    });
}

#[test]
fn a_peer_beyond_the_limit_is_served_from_another_port() {
    let mut world = World::new(Settings::default().with(|config| config.limits.peers_per_mapping = 3));
    let socket = world.guest.udp_bind(7_000);
    for number in 1..=5 {
        world.guest.udp_send(socket, SocketAddr::from(([203, 0, 113, number], 9)), b"x");
    }
    world.run_for(ms(10));
    let ports = ports(&world);
    assert_eq!(ports[..3], [7_000; 3]);
    assert!(ports[3..].iter().all(|port| *port != 7_000), "{ports:?}");
    assert!(world.host.datagrams.iter().all(|socket| socket.sent.len() == 1));
    world.finish_within(secs(301));
}

/// A packet in another traffic class.
fn in_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        (packet[0], packet[1]) = (0x60 | class >> 4, class << 4);
    } else {
        packet[1] = class;
        packet[10..12].fill(0);
        let checksum = !crate::packet::sum(0, &packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

#[test]
fn datagrams_of_different_class_and_hop_limit_leave_as_they_came() {
    for target in [at("203.0.113.5:80"), at("[2001:db8::5]:80")] {
        let mut world = World::usual();
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        for (class, hops) in [(0xb8, 64), (0x03, 17), (0x00, 255), (0x01, 2)] {
            let ip = Ip::new(source, target.ip(), UDP).hops(hops);
            world.inject(&in_class(ip.carrying(udp((7_000, 80), b"x")), class));
        }
        world.run_for(ms(10));
        let sent: Vec<_> = world.host.datagrams[0]
            .sent
            .iter()
            .map(|sent| (sent.how.traffic_class, sent.how.hop_limit))
            .collect();
        assert_eq!(sent, [(0xb8, 63), (0x03, 16), (0x00, 254), (0x01, 1)]);
        world.finish_within(secs(301));
    }
}

#[test]
fn queries_of_multicast_dns_stay_on_the_segment() {
    for (source, group) in [
        (CONTAINER.into(), "224.0.0.251".parse().unwrap()),
        ("fd00::64".parse::<std::net::IpAddr>().unwrap(), "ff02::fb".parse::<std::net::IpAddr>().unwrap()),
    ] {
        let mut world = World::usual();
        world.inject(&Ip::new(source, group, UDP).hops(255).carrying(udp((5_353, 5_353), b"query")));
        world.run_for(ms(10));
        assert_eq!((world.host.opened, world.icmp_errors().len()), (0, 0), "{group}");
        assert_eq!(world.drops(DropReason::Multicast), 1);
        world.finish();
    }
}
