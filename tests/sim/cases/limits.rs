//! Every bound is reached, and reaching it is a state, not an error.

use std::time::Duration;

use netferry::stack::boundary::{Action, CloseKind, HostError};
use netferry::stack::drop_reason::DropReason;

use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, Target};
use crate::packet::{Ip, SYN, TCP, UDP, tcp, udp};
use crate::world::{CONTAINER, Settings, World, at};

fn target(number: u8) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([203, 0, 113, number], 80))
}

/// Connects an idle stream to each of `numbers`, one after the other.
fn open_idle(world: &mut World, numbers: std::ops::RangeInclusive<u8>) {
    for number in numbers {
        let host = Target::running(Script::host(u64::from(number), 0).ending(Ending::Never));
        let script = Script::container(u64::from(number), 10).ending(Ending::Never);
        world.connect(target(number), script, host);
        world.run_for(ms(500));
    }
}

#[test]
fn the_least_recently_used_idle_flow_gives_way_to_a_new_one() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.flows = 3;
        config.limits.evict_idle = Duration::from_secs(10);
    }));
    open_idle(&mut world, 1..=3);
    world.run_for(secs(5));
    world.guest.streams[0].app.script.sends = 20;
    world.run_for(secs(9));
    open_idle(&mut world, 4..=4);
    assert_eq!(world.host.connections_to(target(4)).count(), 1, "the new one connects");
    assert_eq!(world.peer(target(2)).closed, Some(CloseKind::Reset), "the one silent longest is given up");
    assert!(world.guest.streams[1].app.peer_reset, "and the container told");
    assert!(world.peer(target(1)).closed.is_none() && world.peer(target(3)).closed.is_none());
    assert_eq!((world.stack.stats().evicted(), world.most_flows), (1, 3));
    (0..4).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish();
}

#[test]
fn a_full_table_of_busy_flows_refuses_the_newcomer_until_one_ends() {
    let mut world = World::new(Settings::default().with(|config| config.limits.flows = 2));
    open_idle(&mut world, 1..=3);
    assert_eq!(world.host.connects_to(target(3)), 0);
    assert!(world.drops(DropReason::FlowLimit) >= 1);
    assert_eq!(world.stack.stats().evicted(), 0);
    world.guest.abort(crate::guest::StreamId(0));
    world.run_until(secs(20), "the newcomer's next SYN", |world| {
        world.host.connections_to(target(3)).count() == 1
    });
    (1..3).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish();
}

#[test]
fn half_open_flows_are_bounded_and_do_not_hinder_open_ones() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.half_open = 2;
        config.timeouts.tcp_handshake = Duration::from_secs(30);
    }));
    open_idle(&mut world, 1..=4);
    assert_eq!(world.stack.flow_count(), 4, "completed handshakes do not count");
    for number in 11..=13 {
        world.connect(target(number), Script::container(1, 10), Target::hanging());
        world.run_for(ms(10));
    }
    assert_eq!(world.drops(DropReason::HalfOpenLimit), 1);
    assert_eq!(world.count_actions(|action| matches!(action, Action::ConnectStream { .. })), 6);
    (0..7).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish_within(secs(60));
}

/// A SYN from a port and with a number that nobody has used before.
fn fresh_syn(world: &mut World, number: u32, to: std::net::SocketAddr) {
    let syn = tcp((1_024 + (number % 60_000) as u16, 80), number.wrapping_mul(0x9e37_79b9), 0, SYN, &[]);
    world.inject(&Ip::new(CONTAINER, to.ip(), TCP).carrying(syn));
}

/// Twenty SYNs in each millisecond, to whom `flooded` describes, beside a connection that was there and one that begins: both
/// must get on. How many connects of the flood the host has seen.
fn begin_amid_a_flood(flooded: Target, seconds: u32) -> usize {
    let mut world = World::new(Settings::default().with(|config| config.limits.half_open = 400));
    open_idle(&mut world, 1..=1);
    world.host.targets.insert(target(9), flooded);
    for number in 0..20 * 200 {
        fresh_syn(&mut world, number, target(9));
        if number % 20 == 0 {
            world.run_for(ms(1));
        }
    }
    let honest = world.connect(
        target(2),
        Script::container(2, 1_000).ending(Ending::Never),
        Target::running(Script::host(2, 1_000).ending(Ending::Never)),
    );
    for number in 0..20 * 1_000 * seconds {
        fresh_syn(&mut world, 4_000 + number, target(9));
        if number % 20 == 0 {
            world.run_for(ms(1));
        }
    }
    assert_eq!(world.peer(target(2)).app.received, 1_000, "the newcomer was heard");
    assert_eq!(world.guest.streams[honest.0].app.received, 1_000, "and answered");
    assert!(world.peer(target(1)).closed.is_none());
    assert!(world.drops(DropReason::HalfOpenLimit) > 50_000);
    let connects = world.host.connects_to(target(9));
    (0..2).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish_within(secs(300));
    connects
}

#[test]
fn a_connection_begins_amid_a_flood_of_syns_that_nobody_answers() {
    // As many as are let in when they come once: three quarters of three quarters.
    assert_eq!(begin_amid_a_flood(Target::hanging(), 4), 225);
}

#[test]
fn a_connection_begins_amid_a_flood_of_syns_that_are_refused() {
    let connects = begin_amid_a_flood(Target::failing(HostError::Refused), 4);
    assert!(connects < 400 + 5_000, "{connects} connects for nothing");
}

#[test]
fn connects_that_hang_leave_room_for_clients_of_published_ports() {
    let settings =
        Settings::default().publishing(netferry::config::PortProtocol::Tcp, at("0.0.0.0:8080"), 80);
    let mut world = World::new(settings.with(|config| config.limits.half_open = 40));
    world.host.targets.insert(target(9), Target::hanging());
    // Each comes again, and would be let in.
    for round in 0..4 {
        for number in 0..200 {
            fresh_syn(&mut world, number, target(9));
        }
        world.run_for(ms(if round == 0 { 1 } else { 1_000 }));
    }
    assert_eq!(world.stack.flow_count(), 30, "three quarters");
    world.guest.listen(80, Script::container(1, 100));
    let client = at("198.51.100.9:33333");
    assert!(world.stack.may_accept(netferry::stack::boundary::ListenerId(0)));
    world.client_connects(0, client, Script::host(1, 100)).unwrap();
    world.run_for(secs(1));
    assert_eq!(world.peer(client).app.received, 100);
    world.finish_within(secs(300));
}

#[test]
fn a_flood_of_datagrams_neither_ends_connections_that_rest_nor_keeps_new_ones_out() {
    let mut world = World::new(Settings::default().with(|config| config.limits.flows = 64));
    open_idle(&mut world, 1..=3);
    // Long enough to be given up for another connection.
    world.run_for(secs(30));
    for number in 0..5_000u16 {
        world.inject(&Ip::new(CONTAINER, target(9).ip(), UDP).carrying(udp((1_024 + number, 80), b"x")));
        if number % 10 == 0 {
            world.run_for(ms(10));
        }
    }
    open_idle(&mut world, 4..=6);
    for number in 1..=6 {
        assert!(world.peer(target(number)).closed.is_none());
    }
    assert_eq!(world.stack.flow_count(), 56 + 6, "an eighth is left by the flood");
    assert!(world.drops(DropReason::FlowLimit) > 1_000);
    (0..6).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish_within(secs(301));
}

#[test]
fn a_container_that_never_completes_a_handshake_holds_no_more_than_the_half_open_limit() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.half_open = 4;
        config.timeouts.tcp_handshake = Duration::from_secs(30);
    }));
    // The host answers at once; it is the container that never acknowledges the SYN-ACK.
    world.host.targets.insert(target(1), Target::running(Script::host(1, 0).ending(Ending::Never)));
    for port in 1..=10 {
        let syn = tcp((5_000 + port, 80), 1, 0, SYN, &[]);
        world.inject(&Ip::new(CONTAINER, target(1).ip(), TCP).carrying(syn));
        world.run_until(secs(1), "the SYN is read", |world| {
            world.link.next_at().is_none_or(|at| at > world.now)
        });
    }
    assert!(world.most_flows <= 10);
    world.finish_within(secs(120));
}

#[test]
fn buffer_memory_is_bounded_and_the_flow_that_does_not_fit_is_refused() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.tcp_buffer_total_bytes = 64 << 10;
        config.limits.tcp_buffer_min_bytes = 8 << 10;
    }));
    open_idle(&mut world, 1..=5);
    assert_eq!(world.stack.flow_count(), 4);
    assert!(world.drops(DropReason::MemoryLimit) >= 1);
    assert!(world.most_buffer_bytes <= 64 << 10);
    (0..5).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish();
}

#[test]
fn a_connection_whose_bytes_nobody_takes_gives_way_where_memory_is_short_and_one_that_rests_does_not() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.tcp_buffer_total_bytes = 128 << 10;
        config.limits.tcp_buffer_min_bytes = 8 << 10;
    }));
    open_idle(&mut world, 1..=1);
    for number in 2..=9 {
        let host = Target::running(Script::host(u64::from(number), 10_000_000).ending(Ending::Never));
        let script = Script::container(u64::from(number), 10).ending(Ending::Never).reading(Reading::Never);
        world.connect(target(number), script, host);
        world.run_for(ms(500));
    }
    assert!(world.drops(DropReason::MemoryLimit) >= 1, "all of it is taken");
    assert_eq!(world.stack.stats().evicted(), 0, "and nobody has been silent for long");
    // Whoever was refused asks again, and so does somebody new.
    world.run_for(secs(60));
    open_idle(&mut world, 10..=10);
    world.run_until(secs(60), "somebody new", |world| world.host.connections_to(target(10)).count() == 1);
    assert!(world.stack.stats().evicted() >= 1 && world.most_buffer_bytes <= 128 << 10);
    assert!(world.peer(target(1)).closed.is_none(), "what holds nothing is no gain");
    (0..10).for_each(|place| world.guest.abort(crate::guest::StreamId(place)));
    world.finish();
}

#[test]
fn a_transfer_completes_in_the_smallest_buffers() {
    let mut world = World::new(Settings::default().with(|config| {
        config.limits.tcp_buffer_total_bytes = 16 << 10;
        config.limits.tcp_buffer_min_bytes = 8 << 10;
    }));
    let stream =
        world.connect(target(1), Script::container(1, 200_000), Target::running(Script::host(1, 200_000)));
    world.run_until(secs(60), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(target(1)));
    world.finish();
}

#[test]
fn datagrams_that_wait_for_their_socket_are_bounded() {
    let mut world =
        World::new(Settings::default().with(|config| config.limits.datagrams_pending_per_flow = 3));
    for number in 0..5u8 {
        world.inject(&Ip::new(CONTAINER, target(1).ip(), UDP).carrying(udp((5_000, 80), &[number])));
    }
    world.run_for(ms(10));
    assert_eq!(world.host.datagrams[0].sent.len(), 3);
    assert_eq!(world.drops(DropReason::HostQueueFull), 2);
    world.finish_within(secs(301));
}

#[test]
fn icmp_errors_are_sent_within_their_rate() {
    let mut world = World::new(Settings::default().with(|config| config.limits.icmp_errors_per_second = 10));
    let offending = Ip::new(CONTAINER, target(1).ip(), UDP).hops(1).carrying(udp((5_000, 80), b"x"));
    for _ in 0..50 {
        world.inject(&offending);
    }
    world.run_for(ms(1));
    assert_eq!(world.icmp_errors().len(), 10);
    assert_eq!(world.drops(DropReason::ErrorRateLimit), 40);
    world.run_for(secs(1));
    world.inject(&offending);
    world.run_for(ms(1));
    assert_eq!(world.icmp_errors().len(), 11);
    world.finish();
}

#[test]
fn a_udp_flow_whose_socket_cannot_be_opened_is_freed() {
    let mut world = World::usual();
    world.host.datagram_peers.insert(target(1), DatagramPeer::OpenFails { error: HostError::Exhausted });
    world.inject(&Ip::new(CONTAINER, target(1).ip(), UDP).carrying(udp((5_000, 80), b"x")));
    world.run_for(ms(10));
    assert_eq!(world.drops(DropReason::DescriptorLimit), 1);
    world.finish_within(ms(1));
}

#[test]
fn a_flow_for_each_kind_counts_toward_the_same_limit() {
    let mut world = World::new(Settings::default().with(|config| config.limits.flows = 2));
    open_idle(&mut world, 1..=1);
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, at("203.0.113.9:9"), b"x");
    world.run_for(ms(10));
    assert_eq!(world.stack.flow_count(), 2);
    world.guest.ping("203.0.113.9".parse().unwrap(), 7, 1, b"x");
    world.run_for(ms(10));
    assert_eq!(world.drops(DropReason::FlowLimit), 1);
    world.guest.abort(crate::guest::StreamId(0));
    world.finish_within(secs(301));
}

#[test]
fn alarms_of_flows_that_are_gone_are_bounded() {
    let mut world = World::usual();
    let mut most = 0;
    for round in 0..200 {
        for port in 0..100 {
            let (ports, sequence) = ((5_000 + 100 * round + port, 80), 1);
            // Nobody listens there, so that each is refused at once.
            world.inject(&Ip::new(CONTAINER, target(9).ip(), TCP).carrying(tcp(
                ports,
                sequence,
                0,
                SYN,
                &[],
            )));
        }
        world.guest_is_mute = true;
        // No faster than what is let in at once, however many come to nothing.
        world.run_for(ms(100));
        most = most.max(world.stack.alarm_count());
    }
    assert_eq!((world.stack.flow_count(), world.host.opened), (0, 20_000));
    assert!(most <= 1_024 + 4 * 100 + 100, "{most} alarms");
    world.finish();
}
