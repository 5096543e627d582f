//! UDP: mappings, idle time, errors.

use std::net::SocketAddr;

use netferry::config::UdpMapping;
use netferry::stack::boundary::{Action, HostError};
use netferry::stack::drop_reason::DropReason;

use super::{both_families, everywhere};
use crate::clock::{ms, secs};
use crate::host::DatagramPeer;
use crate::packet::{Ip, UDP, udp};
use crate::world::{Settings, World, at};

fn opens(world: &World) -> usize {
    world.count_actions(|action| matches!(action, Action::OpenDatagram { .. }))
}

#[test]
fn a_datagram_is_answered_from_where_it_was_sent_to() {
    everywhere(|mut world, target| {
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(20) });
        let socket = world.guest.udp_bind(7_000);
        for payload in [&b"first"[..], b"second", b"third"] {
            world.guest.udp_send(socket, target, payload);
        }
        world.run_for(ms(100));
        let expected: Vec<_> =
            [&b"first"[..], b"second", b"third"].map(|bytes| (target, bytes.to_vec())).into();
        assert_eq!(world.guest.udp_received(socket), expected);
        assert_eq!(opens(&world), 1);
        assert_eq!(world.host.datagrams[0].local_port, 7_000, "the container's own port, where it is free");
        world.finish_within(secs(301));
    });
}

#[test]
fn the_hop_limit_is_one_less_beyond_us() {
    both_families(|target| {
        let mut world = World::usual();
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        world.inject(&Ip::new(source, target.ip(), UDP).hops(33).carrying(udp((7_000, 80), b"x")));
        world.run_for(ms(10));
        assert_eq!(world.host.datagrams[0].sent[0].how.hop_limit, 32);
        world.finish_within(secs(301));
    });
}

#[test]
fn an_idle_flow_is_freed_after_its_timeout_and_not_before() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(0) });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"x");
        world.run_for(secs(200));
        world.guest.udp_send(socket, target, b"x");
        world.run_for(secs(299));
        assert_eq!((world.stack.flow_count(), world.host.open_sockets()), (1, 1));
        world.run_for(secs(2));
        assert_eq!((world.stack.flow_count(), world.host.open_sockets()), (0, 0));
        world.finish();
    });
}

#[test]
fn an_answer_keeps_a_flow_alive() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: secs(250) });
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, target, b"x");
    world.run_for(secs(400));
    assert_eq!(world.guest.udp_received(socket).len(), 1);
    assert_eq!(world.stack.flow_count(), 1);
    world.finish_within(secs(301));
}

#[test]
fn a_port_unreachable_of_the_host_reaches_the_container() {
    everywhere(|mut world, target| {
        world.host.datagram_peers.insert(target, DatagramPeer::Reports { error: HostError::Refused });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"anyone there?");
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        let [(kind, code, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
        assert_eq!((*kind, *code), if target.is_ipv4() { (3, 3) } else { (1, 4) });
        assert_eq!(*from, target.ip(), "said by whom it concerns");
        assert_eq!((quote.destination, quote.ports()), (target.ip(), (7_000, target.port())));
        assert_eq!(Some(quote.source), world.settings.config.link.container_like(target.ip()));
        assert_eq!(quote.udp_payload(), b"anyone there?");
        world.finish_within(secs(301));
    });
}

#[test]
fn what_the_host_could_not_send_after_all_is_counted_and_told() {
    both_families(|target| {
        let mut world = World::usual();
        let error = Some(HostError::HostUnreachable);
        world.host.datagram_peers.insert(target, DatagramPeer::Loses { error });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"lost");
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        assert_eq!((errors[0].0, errors[0].1), if target.is_ipv4() { (3, 1) } else { (1, 3) });
        assert_eq!(world.drops(DropReason::HostRefused), 1);
        world.host.datagram_peers.insert(target, DatagramPeer::Loses { error: None });
        world.guest.udp_send(socket, target, b"no room");
        world.run_for(ms(10));
        assert_eq!((world.icmp_errors().len(), world.drops(DropReason::HostQueueFull)), (1, 1));
        world.finish_within(secs(301));
    });
}

#[test]
fn other_errors_of_the_network_are_told_by_their_own_names() {
    for (error, ipv4, ipv6) in [
        (HostError::HostUnreachable, (3, 1), (1, 3)),
        (HostError::HopLimitExceeded, (11, 0), (3, 0)),
        (HostError::MessageTooLong { mtu: 1_400 }, (3, 4), (2, 0)),
    ] {
        both_families(|target| {
            let mut world = World::usual();
            world.host.datagram_peers.insert(target, DatagramPeer::Reports { error });
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, &[7; 100]);
            world.run_for(ms(10));
            let errors = world.icmp_errors();
            assert_eq!(errors.len(), 1, "{error:?}");
            assert_eq!((errors[0].0, errors[0].1), if target.is_ipv4() { ipv4 } else { ipv6 }, "{error:?}");
            if let HostError::MessageTooLong { mtu } = error {
                let told = world
                    .sent_packets()
                    .find(|ip| ip.icmp().is_some_and(|icmp| icmp == (3, 4) || icmp == (2, 0)));
                let field = &told.unwrap().transport[4..8];
                assert_eq!(u32::from_be_bytes(field.try_into().unwrap()), mtu);
            }
            world.finish_within(secs(301));
        });
    }
}

#[test]
fn each_peer_has_a_socket_of_its_own_by_default() {
    let mut world = World::usual();
    let socket = world.guest.udp_bind(7_000);
    for target in ["203.0.113.5:80", "203.0.113.6:80"] {
        world
            .host
            .datagram_peers
            .insert(at(target), DatagramPeer::EchoesFrom { source: at("203.0.113.77:1") });
        world.guest.udp_send(socket, at(target), b"x");
    }
    world.run_for(ms(10));
    assert_eq!(opens(&world), 2);
    assert_eq!(world.guest.udp_received(socket), [], "nobody but the peer asked may answer");
    world.finish_within(secs(301));
}

#[test]
fn an_endpoint_independent_mapping_serves_all_peers_of_a_port() {
    for (targets, stranger) in [
        (["203.0.113.5:80", "203.0.113.6:81"], "198.51.100.1:4000"),
        (["[2001:db8::5]:80", "[2001:db8::6]:81"], "[2001:db8:9::1]:4000"),
    ] {
        let independent = UdpMapping::EndpointIndependent;
        let mut world = World::new(Settings::default().with(|config| config.udp_mapping = independent));
        let socket = world.guest.udp_bind(7_000);
        for target in targets {
            world.host.datagram_peers.insert(at(target), DatagramPeer::Echoes { after: ms(1) });
            world.guest.udp_send(socket, at(target), b"x");
        }
        world.run_for(ms(10));
        assert_eq!(opens(&world), 1);
        let flow = world.host.datagrams[0].flow;
        world.host.send_to_flow(flow, at(stranger), b"from elsewhere");
        world.run_for(ms(10));
        let sources: Vec<SocketAddr> =
            world.guest.udp_received(socket).iter().map(|(from, _)| *from).collect();
        assert_eq!(sources, [at(targets[0]), at(targets[1]), at(stranger)]);
        world.finish_within(secs(301));
    }
}

#[test]
fn datagrams_with_a_wrong_checksum_are_dropped_and_without_one_taken() {
    let mut world = World::usual();
    let ip = Ip::new(crate::world::CONTAINER, at("203.0.113.5:80").ip(), UDP);
    let mut wrong = ip.carrying(udp((7_000, 80), b"wrong"));
    *wrong.last_mut().unwrap() ^= 4;
    world.inject(&wrong);
    world.inject(&ip.raw(&udp((7_000, 80), b"none")));
    world.run_for(ms(10));
    assert_eq!(world.drops(DropReason::BadChecksum), 1);
    assert_eq!(world.host.datagrams[0].sent.len(), 1);
    assert_eq!(world.host.datagrams[0].sent[0].bytes, b"none");
    world.finish_within(secs(301));
}
