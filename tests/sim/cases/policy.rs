//! Where the container may not go.

use std::net::{IpAddr, SocketAddr};

use netferry::stack::boundary::Action;
use netferry::stack::drop_reason::DropReason;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, Target};
use crate::packet::{self, ICMP, ICMPV6, Ip, SYN, TCP, UDP, echo_request, tcp, udp};
use crate::world::{GATEWAY, GATEWAY6, GATEWAY6_LINK_LOCAL, Settings, World, at};

fn gateways() -> [SocketAddr; 3] {
    [GATEWAY.into(), GATEWAY6.into(), IpAddr::from(GATEWAY6_LINK_LOCAL)].map(|ip| SocketAddr::new(ip, 8080))
}

#[test]
fn the_hosts_loopback_is_not_reached_through_the_gateway_unless_it_is_allowed() {
    for gateway in gateways() {
        let mut world = World::usual();
        let stream = world.guest.connect(gateway, Script::container(1, 10));
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, gateway, b"x");
        world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
        world.run_for(ms(10));
        assert_eq!(world.icmp_errors().len(), 1);
        assert_eq!((world.drops(DropReason::HostLoopback), world.host.actions.len()), (2, 0));
        world.finish();
    }
}

#[test]
fn the_gateway_leads_to_the_hosts_loopback_where_it_is_allowed() {
    for gateway in gateways() {
        let mut world = World::new(Settings::default().with(|config| config.host_loopback = true));
        let loopback = if gateway.is_ipv4() { at("127.0.0.1:8080") } else { at("[::1]:8080") };
        world.host.targets.insert(loopback, Target::running(Script::host(1, 100)));
        world.host.datagram_peers.insert(loopback, DatagramPeer::Echoes { after: ms(1) });
        let stream = world.guest.connect(gateway, Script::container(1, 100));
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, gateway, b"x");
        world.run_until(secs(5), "both ends", World::all_ended);
        world.run_for(ms(100));
        world.assert_exchanged(stream, world.peer(loopback));
        assert_eq!(world.guest.udp_received(socket), [(gateway, b"x".to_vec())], "answered as the gateway");
        world.finish_within(secs(301));
    }
}

#[test]
fn destinations_that_are_no_place_in_the_world_are_dropped_and_counted() {
    use DropReason::{HostLoopback, Martian, Multicast};
    let destinations = [
        ("127.0.0.1", HostLoopback),
        ("127.255.255.254", HostLoopback),
        ("0.0.0.0", Martian),
        ("0.1.2.3", Martian),
        ("240.0.0.1", Martian),
        ("224.0.0.1", Multicast),
        ("239.255.255.250", Multicast),
        ("255.255.255.255", Multicast),
        ("10.0.2.255", Multicast),
        ("::1", HostLoopback),
        ("::", Martian),
        ("::ffff:127.0.0.1", HostLoopback),
        ("::ffff:203.0.113.5", Martian),
        ("::127.0.0.1", Martian),
        ("ff02::1", Multicast),
        ("ff0e::101", Multicast),
    ];
    for allowed in [false, true] {
        for (destination, reason) in destinations {
            let mut world = World::new(Settings::default().with(|config| config.host_loopback = allowed));
            let destination: IpAddr = destination.parse().unwrap();
            let source = world.settings.config.link.container_like(destination).unwrap();
            let icmp = if destination.is_ipv4() { ICMP } else { ICMPV6 };
            let transports = [
                (TCP, tcp((5_000, 80), 1, 0, SYN, &[])),
                (UDP, udp((5_000, 80), b"x")),
                (icmp, echo_request(destination.is_ipv6(), 7, 1, b"x")),
            ];
            for (protocol, transport) in transports {
                world.inject(&Ip::new(source, destination, protocol).carrying(transport));
            }
            world.run_for(ms(10));
            assert_eq!(world.host.actions, [], "{destination}");
            assert_eq!(world.sent_packets().count(), 0, "{destination} is answered");
            let counted: u64 =
                [HostLoopback, Martian, Multicast].map(|reason| world.drops(reason)).iter().sum();
            assert_eq!(counted, 3, "{destination}");
            assert!(world.drops(reason) >= 2, "{destination} is {reason:?}: {:?}", world.stack.stats());
            world.finish();
        }
    }
}

#[test]
fn an_address_of_the_segment_that_nobody_has_is_unreachable() {
    for (destination, told) in [("10.0.2.77", (3, 1)), ("fd00::77", (1, 3))] {
        let mut world = World::usual();
        let destination: IpAddr = destination.parse().unwrap();
        let source = world.settings.config.link.container_like(destination).unwrap();
        world.inject(&Ip::new(source, destination, UDP).carrying(udp((5_000, 80), b"x")));
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].0, errors[0].1), told);
        assert_eq!(world.host.actions, []);
        world.finish();
    }
}

#[test]
fn an_unknown_transport_is_answered_with_protocol_unreachable() {
    // RFC 792: type 3 code 2; RFC 4443 §3.4: an unrecognized next header is type 4 code 1.
    for (target, told) in [("203.0.113.5", (3, 2)), ("2001:db8::5", (4, 1))] {
        let mut world = World::usual();
        let target: IpAddr = target.parse().unwrap();
        let source = world.settings.config.link.container_like(target).unwrap();
        world.inject(&Ip::new(source, target, 132).raw(&[0; 40]));
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].0, errors[0].1), told);
        assert_eq!(world.drops(DropReason::UnknownProtocol), 1);
        world.finish();
    }
}

#[test]
fn frames_for_another_link_address_are_not_forwarded() {
    let mut world = World::usual();
    let syn = Ip::new(crate::world::CONTAINER, at("203.0.113.5:80").ip(), TCP).carrying(tcp(
        (5, 80),
        1,
        0,
        SYN,
        &[],
    ));
    world.inject_frame(packet::ethernet(crate::world::CONTAINER_MAC, [0x02, 9, 9, 9, 9, 9], &syn));
    world.run_for(ms(10));
    let connects = world.count_actions(|action| matches!(action, Action::ConnectStream { .. }));
    assert_eq!(connects, 0, "RFC 1122 §3.3.1: another station's frame is not ours to route");
}
