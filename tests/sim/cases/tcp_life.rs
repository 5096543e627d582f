//! TCP by raw segments: how connections begin, last and end (RFC 9293 §3.5, §3.6; RFC 6528; RFC 6191; RFC 1337; RFC 5382).

use std::collections::HashSet;
use std::time::Duration;

use netferry::config::PortProtocol;
use netferry::stack::boundary::{Action, CloseKind};
use netferry::stack::drop_reason::DropReason;

use crate::app::{Ending, Reading, Script};
use crate::clock::{Instant, ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::raw::{FULL, RawPeer, TARGET, USUAL, pattern};
use crate::world::{Settings, World, at};

const CLIENT: &str = "198.51.100.9:3333";

fn idle() -> Script {
    Script::host(1, 0).ending(Ending::Never)
}

fn published() -> World {
    World::new(Settings::default().publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80))
}

/// The first number of our side of a new connection from `port`, which is then reset.
fn initial_number(world: &mut World, port: u16) -> u32 {
    let mut peer = RawPeer::new(world, at(TARGET));
    peer.container.set_port(port);
    let syn_ack = peer.connect(world, USUAL, Target::running(idle()));
    peer.put(world, &peer.shape(RST));
    world.run_for(ms(0));
    syn_ack.sequence()
}

#[test]
fn initial_numbers_of_a_pair_grow_with_a_clock_of_four_microseconds() {
    // RFC 6528 §3, RFC 9293 §3.4.1, MUST-8.
    let mut world = World::usual();
    let first = initial_number(&mut world, 5_000);
    for seconds in 1..=20u32 {
        world.run_for(secs(1));
        assert_eq!(initial_number(&mut world, 5_000).wrapping_sub(first), seconds * 250_000);
    }
}

#[test]
fn initial_numbers_of_two_pairs_or_of_two_secrets_are_unrelated() {
    // RFC 6528 §3: all of the pair is in the hash, and a secret.
    let mut world = World::usual();
    let by_port: HashSet<u32> = (5_000..5_200).map(|port| initial_number(&mut world, port)).collect();
    assert_eq!(by_port.len(), 200);
    let mut sorted: Vec<u32> = by_port.into_iter().collect();
    sorted.sort_unstable();
    let near = sorted.windows(2).filter(|pair| pair[1] - pair[0] < 1_000).count();
    assert!(near < 5, "{near} of 200 are neighbours");
    let by_secret: HashSet<u32> = (1..=50)
        .map(|seed| initial_number(&mut World::new(Settings { seed, ..Settings::default() }), 5_000))
        .collect();
    assert_eq!(by_secret.len(), 50);
}

#[test]
fn both_may_open_at_once() {
    // RFC 9293 §3.5, figure 7, MUST-10: a server that connects back while it is connected to.
    for with_ack in [true, false] {
        let mut world = published();
        let (mut peer, _, first) =
            RawPeer::called(&mut world, at(CLIENT), Script::host(1, 50).ending(Ending::Never));
        let got = peer.ask(&mut world, &peer.shape(SYN).acknowledging(0).options(USUAL));
        assert_eq!((got.len(), got[0].flags() & 0x3f), (1, SYN | ACK), "{got:?}");
        assert_eq!((got[0].sequence(), got[0].acknowledgement()), (first.sequence(), peer.next + 1));
        let syn_ack = peer.shape(SYN | ACK).options(USUAL);
        peer.next += 1;
        let answer = if with_ack { syn_ack } else { peer.shape(ACK) };
        let got = peer.ask(&mut world, &answer);
        assert!(got.iter().all(|segment| segment.flags() & (SYN | RST) == 0), "{got:?}");
        assert_eq!(got.iter().map(|segment| segment.payload().len()).sum::<usize>(), 50, "{got:?}");
        peer.expected += 50;
        peer.say(&mut world, &pattern(0, 70));
        assert_eq!(world.peer(at(CLIENT)).app.received, 70);
        peer.reset(world);
    }
}

#[test]
fn a_syn_with_another_number_replaces_one_that_nothing_was_said_to() {
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(idle()).after(ms(100)));
    assert!(peer.ask(&mut world, &peer.shape(SYN).acknowledging(0).options(USUAL)).is_empty());
    peer.next = 77;
    assert!(peer.ask(&mut world, &peer.shape(SYN).acknowledging(0)).is_empty());
    world.run_for(ms(100));
    let got = peer.take(&mut world);
    assert_eq!((got.len(), got[0].acknowledgement()), (1, 78), "the one the container means now");
    assert_eq!((got[0].option(3), got[0].option(4)), (None, None), "with what it can do");
    assert_eq!(world.host.connects_to(at(TARGET)), 1);
    (peer.next, peer.expected) = (78, got[0].end());
    peer.reset(world);
}

#[test]
fn both_may_close_at_once_and_each_fin_is_acknowledged() {
    // RFC 9293 §3.6, figure 13: FIN-WAIT-1, CLOSING, TIME-WAIT.
    let (mut world, mut peer) = RawPeer::connected(Script::host(1, 10));
    let got = peer.take(&mut world);
    assert_eq!((got[0].payload().len(), got[0].flags() & FIN), (10, FIN));
    // The container has not seen it yet.
    let got = peer.finish(&mut world);
    assert_eq!((got.len(), got[0].acknowledgement(), got[0].flags()), (1, peer.next, ACK));
    assert_eq!(world.host.open_sockets(), 1, "ours is not acknowledged");
    peer.expected += 11;
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty());
    assert_eq!((world.host.open_sockets(), world.stack.flow_count()), (0, 1), "the pair rests");
    world.finish();
}

#[test]
fn a_half_closed_connection_carries_bytes_the_other_way_for_as_long_as_it_takes() {
    // RFC 9293 §3.6, MUST-13; either half, an hour of a line a minute, and ten minutes of silence in between.
    for container_first in [true, false] {
        let script =
            Script::host(1, 0).ending(if container_first { Ending::Never } else { Ending::AfterSending });
        let (mut world, mut peer) = RawPeer::connected(script);
        if container_first {
            peer.finish(&mut world);
        } else {
            assert!(peer.acknowledge(&mut world).1, "the host has finished");
        }
        for line in 0..60 {
            world.run_for(if line == 30 { secs(600) } else { secs(60) });
            if container_first {
                world.host.connection_mut(at(TARGET)).app.script.sends += 80;
                world.run_for(ms(0));
                assert_eq!(peer.acknowledge(&mut world), (80, false), "line {line}");
            } else {
                peer.say(&mut world, &pattern(80 * line, 80));
                assert_eq!(world.peer(at(TARGET)).app.received as usize, 80 * (line + 1));
            }
        }
        if container_first {
            world.host.connection_mut(at(TARGET)).app.script.ending = Ending::AfterSending;
            world.run_for(ms(1));
            assert!(peer.acknowledge(&mut world).1, "and ends as the host ends it");
        } else {
            peer.finish(&mut world);
        }
        world.run_for(ms(1));
        assert_eq!(world.peer(at(TARGET)).closed, Some(CloseKind::Graceful));
        world.finish();
    }
}

/// A pair that rests, after a connection that carried `bytes` toward the container.
fn resting(bytes: u64) -> (World, RawPeer) {
    let settings = Settings::default().with(|config| config.timeouts.tcp_time_wait = Duration::from_secs(60));
    let (mut world, mut peer) = RawPeer::connected_in(World::new(settings), Script::host(1, bytes));
    let (mut total, mut fin) = (0, false);
    while !fin {
        let (count, ended) = peer.acknowledge(&mut world);
        (total, fin) = (total + count, ended);
    }
    assert_eq!(total as u64, bytes);
    peer.finish(&mut world);
    assert_eq!((world.stack.flow_count(), world.host.open_sockets()), (1, 0));
    (world, peer)
}

#[test]
fn a_syn_beyond_the_last_number_opens_a_resting_pair_anew() {
    // RFC 6191 §2 (no timestamps): and our own numbers begin beyond the last of ours, RFC 1122 §4.2.2.13. So many bytes
    // have gone by at once that the clock of RFC 6528 has not kept up.
    let (mut world, old) = resting(3 << 20);
    let mut peer = old.clone();
    let syn_ack = peer.connect(&mut world, USUAL, Target::running(idle()));
    let distance = syn_ack.sequence().wrapping_sub(old.expected);
    assert!((1..1 << 20).contains(&distance), "{distance} beyond the last");
    peer.say(&mut world, &pattern(0, 10));
    assert_eq!(world.host.connections[1].app.received, 10);
    peer.put(&mut world, &peer.shape(RST));
    world.run_for(ms(1));
    world.finish_within(secs(70));
}

#[test]
fn a_syn_of_an_older_connection_does_not_disturb_a_resting_pair() {
    let (mut world, peer) = resting(10);
    for age in [1, 1_000, 1 << 30] {
        world.run_for(secs(1));
        let stray = peer.shape(SYN).at(peer.next.wrapping_sub(age)).acknowledging(0).options(USUAL);
        let got = peer.ask(&mut world, &stray);
        assert_eq!((got.len(), got[0].flags()), (1, ACK), "{age}");
        assert_eq!((got[0].sequence(), got[0].acknowledgement()), (peer.expected, peer.next));
    }
    assert_eq!(world.host.connects_to(at(TARGET)), 1);
    world.finish_within(secs(70));
}

#[test]
fn a_reset_does_not_end_the_rest_of_a_pair() {
    // RFC 1337 §3, fix F1.
    let (mut world, peer) = resting(10);
    for sequence in [peer.next, peer.next + 100] {
        assert!(peer.ask(&mut world, &peer.shape(RST).at(sequence)).is_empty());
        assert_eq!(world.stack.flow_count(), 1);
    }
    world.finish_within(secs(70));
}

#[test]
fn a_fin_that_comes_again_is_acknowledged_and_prolongs_the_rest() {
    // RFC 9293 §3.10.7.4, eighth check, TIME-WAIT.
    let (mut world, peer) = resting(10);
    for _ in 0..3 {
        world.run_for(secs(50));
        let got = peer.ask(&mut world, &peer.shape(FIN | ACK).at(peer.next - 1));
        assert_eq!((got.len(), got[0].flags()), (1, ACK));
        assert_eq!((got[0].sequence(), got[0].acknowledgement()), (peer.expected, peer.next));
    }
    assert_eq!(world.stack.flow_count(), 1, "150 s after it began, of 60");
    world.run_for(secs(59));
    assert_eq!(world.stack.flow_count(), 1);
    world.run_for(secs(2));
    assert_eq!(world.stack.flow_count(), 0);
    assert!(peer.ask(&mut world, &peer.shape(ACK)).iter().all(|segment| segment.flags() == RST));
    world.finish();
}

#[test]
fn a_resting_pair_does_not_argue() {
    let (mut world, peer) = resting(10);
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty(), "that is as it should be");
    let answers = (0..1_000).map(|round| {
        let shape = peer.shape(ACK).at(peer.next.wrapping_add(5 + round)).with(&[1; 9]);
        peer.ask(&mut world, &shape).len()
    });
    assert_eq!(answers.sum::<usize>(), 1, "RFC 5961 §7");
    world.finish_within(secs(70));
}

#[test]
fn a_flood_of_syns_is_bounded_and_harms_no_established_connection() {
    // RFC 4987; the host accepts every one of them, and the container never completes a handshake.
    let settings = Settings::default().with(|config| config.limits.half_open = 100);
    let (mut world, mut peer) = RawPeer::connected_in(World::new(settings), idle());
    let target = at("203.0.113.66:80");
    world.host.targets.insert(target, Target::running(idle()));
    let mut flooder = RawPeer::new(&mut world, target);
    for round in 0..20_000u32 {
        flooder.container.set_port(10_000 + (round % 50_000) as u16);
        flooder.put(&mut world, &flooder.shape(SYN).acknowledging(0).options(USUAL));
        if round % 100 == 0 {
            world.run_for(ms(1));
            peer.say(&mut world, &pattern(round as usize / 100 * 50, 50));
        }
    }
    world.run_for(ms(1));
    assert_eq!(world.stack.flow_count(), 58, "as many as are let in when they come once only, and one");
    assert_eq!(world.peer(at(TARGET)).app.received, 200 * 50, "to which nothing happened");
    assert_eq!(world.drops(DropReason::HalfOpenLimit), 20_000 - 57);
    world.run_for(secs(241));
    assert_eq!(world.stack.flow_count(), 1, "RFC 5382 REQ-5: four minutes later they are gone");
    // And the next one is served.
    let mut late = RawPeer::new(&mut world, at("203.0.113.67:80"));
    late.connect(&mut world, USUAL, Target::running(idle()));
    late.put(&mut world, &late.shape(RST));
    world.run_for(ms(1));
    peer.reset(world);
}

#[test]
fn a_container_killed_amid_an_upload_leaves_the_host_a_reset() {
    // Its kernel is gone with it: no FIN, no RST, and nobody who answers. What had come was delivered.
    let (mut world, mut peer) = RawPeer::connected(Script::host(1, 1_000_000).ending(Ending::Never));
    peer.say(&mut world, &pattern(0, FULL));
    world.run_for(secs(300));
    let connection = world.peer(at(TARGET));
    assert_eq!((connection.app.received, connection.closed), (FULL as u64, Some(CloseKind::Reset)));
    assert!(connection.app.peer_reset && connection.app.peer_ended.is_none(), "a reset, and no end");
    world.finish();
}

#[test]
fn a_container_that_vanished_from_an_idle_connection_is_found_out() {
    // RFC 9293 §3.8.4: asked nine times, 75 s apart, after two hours and four minutes.
    let (mut world, peer) = RawPeer::connected(idle());
    world.run_for(secs(9_000));
    let got = peer.take(&mut world);
    let (last, probes) = got.split_last().unwrap();
    assert_eq!(probes.len(), 9);
    let is_question = |probe: &crate::raw::Got| {
        (probe.sequence(), probe.payload().len(), probe.flags()) == (peer.expected - 1, 0, ACK)
    };
    assert!(probes.iter().all(is_question), "{probes:?}");
    assert_eq!((probes[0].at, last.at), (Instant::from_secs(7_440), Instant::from_secs(7_440 + 9 * 75)));
    assert_ne!(last.flags() & RST, 0);
    assert_eq!(world.peer(at(TARGET)).closed, Some(CloseKind::Reset));
    world.finish();
}

#[test]
fn a_container_that_asks_whether_we_are_there_is_answered() {
    // RFC 9293 §3.8.4, MUST-25: with a byte of rubbish or without.
    let (mut world, mut peer) = RawPeer::connected(idle());
    peer.say(&mut world, &pattern(0, 10));
    for rubbish in [&[][..], &[0xee]] {
        world.run_for(secs(75));
        let question = peer.shape(ACK).at(peer.next - 1).with(rubbish);
        let got = peer.ask(&mut world, &question);
        assert_eq!((got.len(), got[0].acknowledgement()), (1, peer.next));
    }
    assert_eq!(world.peer(at(TARGET)).app.received, 10, "the rubbish went nowhere");
    peer.reset(world);
}

#[test]
fn how_often_the_container_asks_is_how_often_the_hosts_kernel_asks_its_peer() {
    // RFC 1122 §4.2.3.6 from end to end: our answer alone would tell the container of a peer that is long gone.
    let (mut world, mut peer) = RawPeer::connected(idle());
    peer.say(&mut world, &pattern(0, 10));
    let asked = |world: &World| -> Vec<Action> {
        let is_asking = |action: &&Action| matches!(action, Action::KeepAlive { .. });
        world.host.actions.iter().filter(is_asking).copied().collect()
    };
    world.host.connection_mut(at(TARGET)).vanished = true;
    for _ in 0..3 {
        world.run_for(secs(60));
        peer.ask(&mut world, &peer.shape(ACK).at(peer.next - 1));
    }
    let [Action::KeepAlive { idle, interval, .. }] = asked(&world)[..] else { panic!("{:?}", asked(&world)) };
    assert_eq!((idle, interval), (secs(60), secs(60)), "once: the kernel goes on by itself");
    let mut got = Vec::new();
    for _ in 0..12 {
        world.run_for(secs(60));
        got.extend(peer.ask(&mut world, &peer.shape(ACK).at(peer.next - 1)));
    }
    assert!(got.iter().any(|segment| segment.flags() & RST != 0), "it is found out");
    world.finish();
}

#[test]
fn a_probe_of_our_closed_window_does_not_ask_after_the_host() {
    let host = Target::running(idle().reading(Reading::Never)).limits(100, 100);
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    peer.connect(&mut world, USUAL, host);
    peer.say(&mut world, &pattern(0, 1_000));
    world.run_for(secs(60));
    peer.ask(&mut world, &peer.shape(ACK).at(peer.next - 1));
    assert_eq!(world.count_actions(|action| matches!(action, Action::KeepAlive { .. })), 0);
    peer.reset(world);
}

#[test]
fn a_host_peer_that_resets_amid_a_transfer_resets_the_container() {
    // Both ways at once: what was on its way is lost, and no FIN says otherwise.
    let host = Script::host(1, 500_000).ending(Ending::ResetAfterReceiving(5_000)).reading(Reading::Freely);
    let (mut world, mut peer) = RawPeer::connected(host);
    let mut got = Vec::new();
    for position in 0..5 {
        got.extend(peer.say(&mut world, &pattern(position * FULL, FULL)));
    }
    world.run_for(ms(1));
    got.extend(peer.take(&mut world));
    assert_ne!(got.iter().fold(0, |flags, segment| flags | segment.flags()) & RST, 0);
    assert!(got.iter().all(|segment| segment.flags() & FIN == 0));
    world.finish();
}
