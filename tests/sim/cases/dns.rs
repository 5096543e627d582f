//! The DNS address: queries go to the host's resolvers, and the next one is asked when one fails.

use std::net::SocketAddr;

use netferry::stack::boundary::{Action, HostError, HostEvent, StackEvent};
use netferry::stack::drop_reason::DropReason;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, Target};
use crate::world::{DNS, DNS6, Settings, World, at};

const FIRST: &str = "203.0.113.53:53";
const SECOND: &str = "203.0.113.54:53";

fn forwarders() -> [SocketAddr; 2] {
    [SocketAddr::new(DNS.into(), 53), SocketAddr::new(DNS6.into(), 53)]
}

fn query(identifier: u16) -> Vec<u8> {
    let mut message = identifier.to_be_bytes().to_vec();
    message.extend(b"\x01\x00\x00\x01\0\0\0\0\0\0\x07example\0\0\x01\0\x01");
    message
}

fn answer(identifier: u16, mark: u8) -> Vec<u8> {
    let mut message = query(identifier);
    message[2] |= 0x80;
    message.push(mark);
    message
}

fn resolves(mark: u8) -> DatagramPeer {
    DatagramPeer::Resolves { after: ms(20), mark }
}

/// How many datagrams reached `resolver`.
fn asked(world: &World, resolver: &str) -> usize {
    let sockets = world.host.datagrams.iter().filter(|socket| socket.target == at(resolver));
    sockets.map(|socket| socket.sent.len()).sum()
}

#[test]
fn a_query_is_forwarded_to_the_first_resolver_and_answered_from_the_dns_address() {
    for forwarder in forwarders() {
        let mut world = World::usual();
        world.host.datagram_peers.insert(at(FIRST), resolves(1));
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, forwarder, &query(0xbeef));
        world.run_for(ms(100));
        assert_eq!(world.guest.udp_received(socket), [(forwarder, answer(0xbeef, 1))]);
        assert_eq!((asked(&world, FIRST), asked(&world, SECOND)), (1, 0));
        world.finish_within(secs(301));
    }
}

#[test]
fn queries_leave_from_a_port_of_the_hosts_choice() {
    let mut world = World::usual();
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    world.run_for(ms(1));
    let opens = |action: &Action| matches!(action, Action::OpenDatagram { preferred_port: 0, .. });
    assert_eq!(world.count_actions(opens), 1);
    world.finish_within(secs(301));
}

#[test]
fn a_silent_resolver_is_passed_over_and_the_answer_comes_once() {
    for forwarder in forwarders() {
        let mut world = World::usual();
        world.host.datagram_peers.insert(at(FIRST), DatagramPeer::Silent);
        world.host.datagram_peers.insert(at(SECOND), resolves(2));
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, forwarder, &query(1));
        world.run_for(ms(1_490));
        assert_eq!((asked(&world, FIRST), asked(&world, SECOND)), (1, 0));
        world.run_for(ms(100));
        assert_eq!(world.guest.udp_received(socket), [(forwarder, answer(1, 2))]);
        world.run_for(secs(20));
        assert_eq!(world.guest.udp_received(socket).len(), 1);
        world.finish_within(secs(301));
    }
}

#[test]
fn a_late_answer_of_the_first_resolver_does_not_reach_the_client_twice() {
    let mut world = World::usual();
    world.host.datagram_peers.insert(at(FIRST), DatagramPeer::Resolves { after: ms(1_510), mark: 1 });
    world.host.datagram_peers.insert(at(SECOND), resolves(2));
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    world.run_for(secs(5));
    assert_eq!(world.guest.udp_received(socket).len(), 1);
    world.finish_within(secs(301));
}

#[test]
fn the_resolver_that_answered_is_asked_first_from_then_on() {
    let mut world = World::usual();
    world.host.datagram_peers.insert(at(SECOND), resolves(2));
    for (port, identifier) in [(7_000, 1), (7_001, 2)] {
        let socket = world.guest.udp_bind(port);
        world.guest.udp_send(socket, forwarders()[0], &query(identifier));
        world.run_for(secs(3));
        assert_eq!(world.guest.udp_received(socket), [(forwarders()[0], answer(identifier, 2))]);
    }
    assert_eq!((asked(&world, FIRST), asked(&world, SECOND)), (1, 2));
    world.finish_within(secs(301));
}

#[test]
fn a_resolver_that_refuses_is_passed_over_at_once() {
    let mut world = World::usual();
    world.host.datagram_peers.insert(at(FIRST), DatagramPeer::Reports { error: HostError::Refused });
    world.host.datagram_peers.insert(at(SECOND), resolves(2));
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    world.run_for(ms(500));
    assert_eq!(world.guest.udp_received(socket), [(forwarders()[0], answer(1, 2))]);
    assert!(world.icmp_errors().is_empty(), "the container learns nothing of it");
    world.finish_within(secs(301));
}

#[test]
fn a_query_nobody_answers_is_given_up_and_its_flow_freed() {
    let mut world = World::usual();
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    world.run_for(secs(60));
    assert_eq!(world.guest.udp_received(socket), []);
    assert!(asked(&world, FIRST) <= 2 && asked(&world, SECOND) <= 2);
    world.finish_within(secs(301));
}

#[test]
fn queries_on_one_socket_are_each_answered() {
    let mut world = World::usual();
    world.host.datagram_peers.insert(at(FIRST), resolves(1));
    let socket = world.guest.udp_bind(7_000);
    for identifier in 1..=3 {
        world.guest.udp_send(socket, forwarders()[0], &query(identifier));
    }
    world.run_for(ms(100));
    let expected: Vec<_> = (1..=3).map(|identifier| (forwarders()[0], answer(identifier, 1))).collect();
    assert_eq!(world.guest.udp_received(socket), expected);
    world.finish_within(secs(301));
}

#[test]
fn more_queries_than_may_wait_cost_the_oldest_and_nobody_elses() {
    let mut world = World::usual();
    // The first says nothing, so that all wait for the second.
    world.host.datagram_peers.insert(at(SECOND), resolves(2));
    let (many, one) = (world.guest.udp_bind(7_000), world.guest.udp_bind(7_001));
    world.guest.udp_send(one, forwarders()[0], &query(99));
    for identifier in 1..=6 {
        world.guest.udp_send(many, forwarders()[0], &query(identifier));
    }
    world.run_for(secs(5));
    let expected: Vec<_> = (3..=6).map(|identifier| (forwarders()[0], answer(identifier, 2))).collect();
    assert_eq!(world.guest.udp_received(many), expected);
    assert_eq!(world.guest.udp_received(one), [(forwarders()[0], answer(99, 2))]);
    assert_eq!(world.drops(DropReason::DnsPendingLimit), 2);
    world.finish_within(secs(301));
}

#[test]
fn a_query_over_tcp_reaches_the_first_resolver() {
    for forwarder in forwarders() {
        let mut world = World::usual();
        world.host.targets.insert(at(FIRST), Target::running(Script::host(1, 500)));
        let stream = world.guest.connect(forwarder, Script::container(1, 40));
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(at(FIRST)));
        world.finish();
    }
}

#[test]
fn a_resolver_that_refuses_tcp_is_passed_over_before_the_container_learns_anything() {
    let mut world = World::usual();
    world.host.targets.insert(at(FIRST), Target::failing(HostError::Refused).after(ms(10)));
    world.host.targets.insert(at(SECOND), Target::running(Script::host(1, 500)));
    let stream = world.guest.connect(forwarders()[0], Script::container(1, 40));
    world.run_until(secs(5), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(at(SECOND)));
    assert_eq!((world.host.connects_to(at(FIRST)), world.host.connects_to(at(SECOND))), (1, 1));
    world.finish();
}

#[test]
fn the_container_is_refused_where_every_resolver_refuses_tcp() {
    let mut world = World::usual();
    let stream = world.guest.connect(forwarders()[0], Script::container(1, 40));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
    assert_eq!((world.host.connects_to(at(FIRST)), world.host.connects_to(at(SECOND))), (1, 1));
    world.finish();
}

#[test]
fn resolvers_that_change_are_asked_from_the_next_query_on() {
    let mut world = World::usual();
    let new = at("[2001:db8::53]:53");
    world.host.datagram_peers.insert(at(FIRST), resolves(1));
    world.host.datagram_peers.insert(new, resolves(9));
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    world.run_for(ms(100));
    world.host.tell(HostEvent::ResolversChanged(vec![new]));
    let socket = world.guest.udp_bind(7_001);
    world.guest.udp_send(socket, forwarders()[0], &query(2));
    world.run_for(ms(100));
    assert_eq!(world.guest.udp_received(socket), [(forwarders()[0], answer(2, 9))]);
    world.finish_within(secs(301));
}

#[test]
fn without_a_resolver_the_port_is_closed_and_the_user_told_once() {
    let mut world = World::new(Settings { resolvers: Vec::new(), ..Settings::default() });
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, forwarders()[0], &query(1));
    let stream = world.guest.connect(forwarders()[0], Script::container(1, 40));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
    let errors = world.icmp_errors();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].0, errors[0].1), (3, 3));
    assert_eq!(world.drops(DropReason::NoResolver), 2);
    assert_eq!(world.events.iter().filter(|(_, event)| *event == StackEvent::NoResolver).count(), 1);
    world.finish();
}

#[test]
fn other_ports_of_the_dns_address_are_closed() {
    let mut world = World::usual();
    let stream = world.guest.connect(SocketAddr::new(DNS.into(), 80), Script::container(1, 40));
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, SocketAddr::new(DNS.into(), 123), b"time?");
    world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
    assert_eq!(world.icmp_errors().len(), 1);
    assert_eq!((world.drops(DropReason::Denied), world.host.actions.len()), (2, 0));
    world.finish();
}
