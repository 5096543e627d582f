//! Days go by: who is still there keeps what it has, and who is gone leaves nothing behind.
//!
//! RFC 5382 REQ-5 and REQ-6 (TCP), RFC 4787 REQ-5 (UDP), RFC 5508 REQ-2 (echo), RFC 9293 §3.8.4 (keep-alives).

use std::net::SocketAddr;
use std::time::Duration;

use netferry::config::PortProtocol::Tcp;
use netferry::stack::boundary::{Action, CloseKind};
use smoltcp::socket::tcp::State;

use super::both_families;
use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::guest::StreamId;
use crate::host::Target;
use crate::packet::{ACK, Ip, SYN, TCP, tcp};
use crate::world::{Settings, World, at};

const DAY: u64 = 86_400;

/// Silence of an established flow, and all questions behind it.
const FOUND_GONE: u64 = 7_440 + 9 * 75;

/// What the core holds while nothing is going on: flows, sockets of the host, bytes of buffers.
fn held(world: &World) -> (usize, usize, usize) {
    (world.stack.flow_count(), world.host.open_sockets(), world.stack.tcp_buffer_bytes())
}

fn idle(script: Script) -> Script {
    script.ending(Ending::Never)
}

/// A connection over which both sides have spoken, and are silent now.
fn idle_connection(target: SocketAddr) -> (World, StreamId) {
    let mut world = World::usual();
    let host = Target::running(idle(Script::host(1, 5_000)));
    let stream = world.connect(target, idle(Script::container(1, 5_000)), host);
    world.run_until(secs(5), "both have all", |world| {
        world.guest.app(stream).received == 5_000 && world.peer(target).app.received == 5_000
    });
    (world, stream)
}

#[test]
fn an_established_connection_idle_for_three_days_is_asked_after_and_goes_on() {
    both_families(|target| {
        let (mut world, stream) = idle_connection(target);
        let segments = |world: &World| world.segments_to(world.guest.streams[stream.0].port);
        let before = segments(&world).len();
        world.run_for(secs(3 * DAY));
        assert_eq!(world.stack.flow_count(), 1);
        let questions = &segments(&world)[before..];
        assert_eq!(questions.len(), 34, "one after each 2 h 4 min, each answered");
        assert!(questions.iter().all(|segment| segment.tcp_flags() == Some(ACK)));
        let asked = world.count_actions(|action| matches!(action, Action::KeepAlive { .. }));
        assert_eq!(asked, 1, "the host's kernel goes on by itself");
        world.guest.app_mut(stream).script = Script::container(1, 20_000).ending(Ending::AfterPeerEnds);
        world.host.connection_mut(target).app.script = Script::host(1, 20_000);
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_container_that_is_gone_is_found_out_and_its_peer_reset() {
    both_families(|target| {
        let (mut world, _) = idle_connection(target);
        world.link.up.loss = 1_000;
        world.run_for(secs(FOUND_GONE - 10));
        assert_eq!(world.peer(target).closed, None, "not before all questions");
        world.run_for(secs(20));
        assert_eq!(world.peer(target).closed, Some(CloseKind::Reset));
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn a_peer_that_is_gone_is_found_out_and_the_container_reset() {
    both_families(|target| {
        let (mut world, stream) = idle_connection(target);
        world.host.connection_mut(target).vanished = true;
        world.run_for(secs(FOUND_GONE - 10));
        assert!(!world.guest.app(stream).peer_reset);
        world.run_for(secs(20));
        assert!(world.guest.app(stream).peer_reset);
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn a_half_that_the_container_has_closed_lasts_for_days_and_then_carries_the_answer() {
    both_families(|target| {
        let mut world = World::usual();
        let host = Target::running(idle(Script::host(1, 0)));
        let stream = world.connect(target, Script::container(1, 3_000), host);
        world.run_for(secs(2 * DAY));
        assert_eq!((world.guest.state(stream), world.stack.flow_count()), (State::FinWait2, 1));
        world.host.connection_mut(target).app.script = Script::host(1, 9_000);
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_half_that_the_host_has_closed_lasts_for_days_and_then_carries_the_answer() {
    both_families(|target| {
        let mut world = World::usual();
        let stream =
            world.connect(target, idle(Script::container(1, 0)), Target::running(Script::host(1, 3_000)));
        world.run_for(secs(2 * DAY));
        assert_eq!((world.guest.state(stream), world.stack.flow_count()), (State::CloseWait, 1));
        world.guest.app_mut(stream).script = Script::container(1, 9_000);
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_host_that_takes_its_last_bytes_over_hours_gets_them_all() {
    both_families(|target| {
        let mut world = World::usual();
        let reading = Reading::Paced { bytes: 1_000, every: secs(700) };
        let host = Target::running(Script::host(1, 0).reading(reading)).limits(4_000, 4_000);
        let stream = world.connect(target, Script::container(1, 60_000), host);
        world.run_until(secs(DAY), "all of it", |world| world.peer(target).app.peer_ended.is_some());
        world.assert_exchanged(stream, world.peer(target));
        assert!(world.now.secs() > 10 * 3_600);
        world.finish();
    });
}

#[test]
fn half_closed_flows_of_a_side_that_is_gone_end_in_every_state() {
    both_families(|target| {
        // FIN-WAIT-2 of the container: the peer is gone, the container is told.
        let mut world = World::usual();
        let host = Target::running(idle(Script::host(1, 0)));
        let stream = world.connect(target, Script::container(1, 10), host);
        world.run_for(secs(1));
        world.host.connection_mut(target).vanished = true;
        world.run_for(secs(FOUND_GONE + 10));
        assert!(world.guest.app(stream).peer_reset);
        assert_eq!(held(&world), (0, 0, 0));
        // The same of which the container is gone.
        let mut world = World::usual();
        let host = Target::running(idle(Script::host(1, 0)));
        world.connect(target, Script::container(1, 10), host);
        world.run_for(secs(1));
        world.link.up.loss = 1_000;
        world.run_for(secs(FOUND_GONE + 10));
        assert_eq!(world.peer(target).closed, Some(CloseKind::Reset));
        assert_eq!(held(&world), (0, 0, 0));
        // CLOSE-WAIT of a container that is gone.
        let mut world = World::usual();
        world.connect(target, idle(Script::container(1, 0)), Target::running(Script::host(1, 10)));
        world.run_for(secs(1));
        world.link.up.loss = 1_000;
        world.run_for(secs(FOUND_GONE + 10));
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn a_container_that_leaves_a_fin_or_data_unacknowledged_is_given_four_minutes() {
    both_families(|target| {
        for sends in [0, 100] {
            let mut world = World::usual();
            let host = Target::running(idle(Script::host(1, sends)));
            world.connect(target, idle(Script::container(1, 0)), host);
            world.run_for(secs(1));
            world.link.up.loss = 1_000;
            world.host.connection_mut(target).app.script = Script::host(1, sends + 10);
            world.run_for(secs(239));
            assert_eq!(world.stack.flow_count(), 1);
            world.run_for(secs(3));
            assert_eq!(held(&world), (0, 0, 0));
        }
    });
}

#[test]
fn last_ack_of_a_container_that_is_gone_ends_in_four_minutes() {
    both_families(|target| {
        let mut world = World::usual();
        let host = Target::running(idle(Script::host(1, 0)));
        world.connect(target, Script::container(1, 10), host);
        world.run_for(secs(1));
        world.link.up.loss = 1_000;
        world.host.connection_mut(target).app.script = Script::host(1, 0);
        world.run_for(secs(245));
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn syns_that_nobody_goes_on_with_are_gone_after_four_minutes() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.targets.insert(target, Target::running(idle(Script::host(1, 0))));
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        for port in 1..=200 {
            let syn = tcp((5_000 + port, target.port()), 1, 0, SYN, &[]);
            world.inject(&Ip::new(source, target.ip(), TCP).carrying(syn));
        }
        // The container's own stack knows nothing of them; what it would say is lost.
        world.link.up.loss = 1_000;
        world.run_for(secs(1));
        assert_eq!(world.stack.flow_count(), 200);
        world.run_for(secs(244));
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn clients_that_a_container_never_answers_are_gone_after_four_minutes() {
    let mut world = World::new(Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80));
    world.link.up.loss = 1_000;
    for number in 1..=50 {
        let client = SocketAddr::from(([198, 51, 100, number], 4_000));
        world.client_connects(0, client, idle(Script::host(1, 0))).unwrap();
    }
    world.run_for(secs(245));
    assert_eq!(held(&world), (0, 0, 0));
}

#[test]
fn a_udp_mapping_outlives_five_minutes_less_a_second_of_silence_and_an_echo_a_minute() {
    both_families(|target| {
        let mut world = World::usual();
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"x");
        world.run_for(secs(299));
        assert_eq!(world.stack.flow_count(), 1);
        // RFC 4787 REQ-6: what goes out keeps it, and what comes in does, too.
        world.guest.udp_send(socket, target, b"x");
        world.run_for(secs(299));
        world.host.send_to_flow(world.host.datagrams[0].flow, target, b"y");
        world.run_for(secs(299));
        assert_eq!(world.stack.flow_count(), 1);
        world.run_for(secs(2));
        assert_eq!(held(&world), (0, 0, 0));
        world.guest.ping(target.ip(), 7, 1, b"x");
        world.run_for(secs(59));
        assert_eq!(world.stack.flow_count(), 1);
        world.run_for(secs(2));
        assert_eq!(held(&world), (0, 0, 0));
    });
}

#[test]
fn every_timeout_is_as_configured() {
    let mut world = World::new(Settings::default().with(|config| {
        config.timeouts.apply("tcp-established=60s,tcp-probe=1s,tcp-closing=20s,udp=7s,icmp=3s").unwrap();
        config.timeouts.tcp_handshake = Duration::from_secs(30);
    }));
    let target = at("203.0.113.5:80");
    let (closing, hanging) = (at("203.0.113.6:80"), at("203.0.113.7:80"));
    world.connect(target, idle(Script::container(1, 0)), Target::running(idle(Script::host(1, 0))));
    world.connect(closing, idle(Script::container(1, 0)), Target::running(idle(Script::host(1, 0))));
    world.connect(hanging, Script::container(1, 0), Target::hanging());
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, target, b"x");
    world.guest.ping(target.ip(), 7, 1, b"x");
    world.run_for(ms(500));
    world.link.up.loss = 1_000;
    world.host.connection_mut(closing).app.script = Script::host(1, 10);
    for (after, flows) in [(2, 5), (2, 4), (4, 3), (14, 2), (10, 1), (40, 0)] {
        world.run_for(secs(after));
        assert_eq!(world.stack.flow_count(), flows, "at {}", world.now);
    }
    assert_eq!(held(&world), (0, 0, 0));
}
