//! TCP by raw segments: what ends a connection, and what only claims to (RFC 9293 §3.5, §3.10.7; RFC 5961).

use netferry::config::PortProtocol;
use netferry::stack::boundary::CloseKind;

use crate::app::{Ending, Script};
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::raw::{RawPeer, TARGET, USUAL, pattern};
use crate::world::{Settings, World, at};

const CLIENT: &str = "198.51.100.9:3333";

fn idle() -> Script {
    Script::host(1, 0).ending(Ending::Never)
}

/// A state of the endpoint, and a connection that stands in it. RFC 9293 §3.3.2, by our side of it.
type Stand = (&'static str, fn() -> (World, RawPeer));

fn published() -> World {
    World::new(Settings::default().publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80))
}

fn syn_sent() -> (World, RawPeer) {
    let mut world = published();
    let (mut peer, ..) = RawPeer::called(&mut world, at(CLIENT), idle());
    // Where the container would stand had it answered: only what acknowledges our SYN can reset it.
    peer.next = 0;
    (world, peer)
}

fn syn_received() -> (World, RawPeer) {
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(idle()));
    let got = peer.ask(&mut world, &peer.shape(SYN).acknowledging(0).options(USUAL));
    (peer.next, peer.expected) = (peer.next + 1, got[0].end());
    (world, peer)
}

fn established() -> (World, RawPeer) {
    RawPeer::connected(idle())
}

/// The host has finished, and its FIN is acknowledged or not.
fn fin_wait(is_acknowledged: bool) -> (World, RawPeer) {
    let (mut world, mut peer) = RawPeer::connected(Script::host(1, 0));
    world.run_for(ms(0));
    let got = peer.take(&mut world);
    assert_ne!(got.last().unwrap().flags() & FIN, 0);
    if is_acknowledged {
        peer.expected += 1;
        peer.put(&mut world, &peer.shape(ACK));
        world.run_for(ms(0));
    }
    (world, peer)
}

fn close_wait() -> (World, RawPeer) {
    let (mut world, mut peer) = RawPeer::connected(idle());
    peer.finish(&mut world);
    (world, peer)
}

/// Both have finished at once: neither has acknowledged the other's FIN.
fn closing() -> (World, RawPeer) {
    let (mut world, mut peer) = fin_wait(false);
    let got = peer.finish(&mut world);
    assert_eq!((got.len(), got[0].acknowledgement()), (1, peer.next));
    (world, peer)
}

/// The container finished first, then the host.
fn last_ack() -> (World, RawPeer) {
    let (mut world, mut peer) = RawPeer::connected(Script::host(1, 0).ending(Ending::AfterPeerEnds));
    peer.finish(&mut world);
    world.run_for(ms(0));
    peer.take(&mut world);
    (world, peer)
}

const STANDS: [Stand; 7] = [
    ("SYN-RECEIVED", syn_received),
    ("ESTABLISHED", established),
    ("FIN-WAIT-1", || fin_wait(false)),
    ("FIN-WAIT-2", || fin_wait(true)),
    ("CLOSE-WAIT", close_wait),
    ("CLOSING", closing),
    ("LAST-ACK", last_ack),
];

/// The only connection of the host.
fn is_closed(world: &World) -> Option<CloseKind> {
    world.host.connections[0].closed
}

#[test]
fn a_reset_at_the_expected_number_ends_the_connection_in_every_state() {
    // RFC 9293 §3.10.7.4, second check; RFC 5961 §3.2, case 2.
    for (state, stand) in STANDS {
        let (mut world, peer) = stand();
        assert_eq!(world.stack.flow_count(), 1, "{state}");
        let got = peer.ask(&mut world, &peer.shape(RST));
        assert!(got.is_empty(), "{state}: a reset is not answered: {got:?}");
        assert_eq!(world.stack.flow_count(), 0, "{state}");
        let wanted = match state {
            // Both have sent their FIN; there is nobody to be reset.
            "CLOSING" | "LAST-ACK" => CloseKind::Graceful,
            _ => CloseKind::Reset,
        };
        assert_eq!(is_closed(&world), Some(wanted), "{state}: the host sees it, too");
        world.finish();
    }
}

#[test]
fn a_reset_elsewhere_in_the_window_is_asked_about_in_every_state() {
    // RFC 5961 §3.2, case 3: a challenge, so that a blind attacker needs the very number.
    for (state, stand) in STANDS {
        let (mut world, peer) = stand();
        if ["CLOSE-WAIT", "CLOSING", "LAST-ACK"].contains(&state) {
            // The window behind a FIN is empty of numbers; what is open of it is still a window.
            world.run_for(ms(0));
        }
        let got = peer.ask(&mut world, &peer.shape(RST).at(peer.next + 1_000));
        assert_eq!(world.stack.flow_count(), 1, "{state}");
        assert_eq!(got.len(), 1, "{state}: {got:?}");
        assert_eq!((got[0].flags() & (RST | SYN | FIN), got[0].acknowledgement()), (0, peer.next), "{state}");
        peer.reset(world);
    }
}

#[test]
fn a_reset_outside_of_the_window_is_dropped_in_every_state() {
    // RFC 5961 §3.2, case 1.
    for (state, stand) in STANDS {
        for sequence in [|peer: &RawPeer| peer.next - 1, |peer: &RawPeer| peer.next.wrapping_add(1 << 30)] {
            let (mut world, peer) = stand();
            assert!(peer.ask(&mut world, &peer.shape(RST).at(sequence(&peer))).is_empty(), "{state}");
            assert_eq!(world.stack.flow_count(), 1, "{state}");
            peer.reset(world);
        }
    }
}

#[test]
fn a_server_that_resets_the_syn_resets_the_client() {
    // RFC 9293 §3.10.7.3: in SYN-SENT a reset counts if it acknowledges our SYN, and only then.
    let (mut world, peer) = syn_sent();
    for dubious in [peer.shape(RST), peer.shape(RST | ACK).acknowledging(peer.expected + 1)] {
        assert!(peer.ask(&mut world, &dubious).is_empty());
        assert_eq!((world.stack.flow_count(), is_closed(&world)), (1, None));
    }
    assert!(peer.ask(&mut world, &peer.shape(RST | ACK)).is_empty());
    assert_eq!((world.stack.flow_count(), is_closed(&world)), (0, Some(CloseKind::Reset)));
    world.finish();
}

#[test]
fn a_server_that_answers_for_an_older_connection_is_reset_and_asked_again() {
    // RFC 9293 §3.5.1, figure 10; §3.10.7.3: an acknowledgement of what was never sent earns a RST at its number, which
    // clears the container's side of a connection that we know nothing of.
    let (mut world, mut peer) = syn_sent();
    peer.next = 777;
    let stale = peer.shape(ACK).acknowledging(peer.expected.wrapping_sub(5_000));
    let got = peer.ask(&mut world, &stale);
    assert_eq!((got.len(), got[0].flags(), got[0].sequence()), (1, RST, stale.acknowledgement));
    // A reset is not answered by one.
    assert!(peer.ask(&mut world, &as_reset(&stale)).is_empty());
    world.run_for(secs(1));
    let got = peer.take(&mut world);
    assert_eq!((got.len(), got[0].flags(), got[0].end()), (1, SYN, peer.expected), "the SYN again");
    let got = peer.ask(&mut world, &peer.shape(SYN | ACK).options(USUAL));
    peer.next += 1;
    assert_eq!((got[0].flags() & 0x3f, got[0].acknowledgement()), (ACK, peer.next), "and then it connects");
    peer.reset(world);
}

fn as_reset(stale: &crate::raw::Shape) -> crate::raw::Shape {
    crate::raw::Shape { flags: RST | ACK, ..stale.clone() }
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_reset_while_the_handshake_goes_on() {
    // RFC 9293 §3.10.7.4, fifth check, SYN-RECEIVED.
    let (mut world, peer) = syn_received();
    for wrong in [peer.expected + 1, peer.expected - 1, peer.expected.wrapping_add(1 << 31)] {
        let got = peer.ask(&mut world, &peer.shape(ACK).acknowledging(wrong));
        assert_eq!((got.len(), got[0].flags(), got[0].sequence()), (1, RST, wrong), "{got:?}");
    }
    assert_eq!(world.stack.flow_count(), 1);
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    let mut peer = peer;
    peer.say(&mut world, &pattern(0, 10));
    assert_eq!(world.peer(at(TARGET)).app.received, 10, "the right one still opens it");
    peer.reset(world);
}

#[test]
fn a_syn_that_acknowledges_something_is_reset_while_nothing_was_said_and_the_held_one_stays() {
    // RFC 9293 §3.10.7.2, second check: nothing was sent yet, so that it is of another connection.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(idle()).after(ms(500)));
    let got = peer.ask(&mut world, &peer.shape(SYN).acknowledging(0).options(USUAL));
    assert!(got.is_empty(), "{got:?}");
    for sequence in [peer.next, peer.next + 70_000] {
        let stray = peer.shape(SYN | ACK).at(sequence).acknowledging(77);
        let got = peer.ask(&mut world, &stray);
        assert_eq!(got.len(), 1, "at {sequence}");
        assert_eq!((got[0].flags(), got[0].sequence()), (RST, 77), "{got:?}");
        assert!(peer.ask(&mut world, &as_reset(&stray)).is_empty(), "a reset is not answered");
    }
    assert_eq!(world.stack.flow_count(), 1);
    world.run_for(ms(500));
    let got = peer.take(&mut world);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!((got[0].flags() & 0x3f, got[0].acknowledgement()), (SYN | ACK, peer.next + 1));
    (peer.next, peer.expected) = (peer.next + 1, got[0].end());
    peer.put(&mut world, &peer.shape(ACK));
    peer.say(&mut world, &pattern(0, 10));
    assert_eq!(world.peer(at(TARGET)).app.received, 10);
    peer.reset(world);
}

#[test]
fn a_syn_in_the_window_is_asked_about_and_changes_nothing() {
    // RFC 5961 §4.2: wherever it lies.
    for (state, stand) in STANDS {
        if state == "SYN-RECEIVED" {
            continue;
        }
        for offset in [0u32, 1_000, u32::MAX, 1 << 30] {
            let (mut world, peer) = stand();
            let syn = peer.shape(SYN).at(peer.next.wrapping_add(offset)).acknowledging(0);
            let got = peer.ask(&mut world, &syn);
            assert_eq!(got.len(), 1, "{state}, {offset}: {got:?}");
            assert_eq!(
                (got[0].flags() & (SYN | RST | FIN), got[0].acknowledgement()),
                (0, peer.next),
                "{state}"
            );
            assert_eq!(world.stack.flow_count(), 1, "{state}");
            peer.reset(world);
        }
    }
}

#[test]
fn a_container_that_begins_anew_on_a_connection_it_has_forgotten_gets_there() {
    // RFC 9293 §3.5.1, figure 9: SYN, challenge, RST at the number of the challenge, SYN.
    let (mut world, mut peer) = established();
    peer.say(&mut world, &pattern(0, 100));
    let syn = peer.shape(SYN).at(99).acknowledging(0).options(USUAL);
    let got = peer.ask(&mut world, &syn);
    let challenge = got.last().unwrap();
    peer.put(&mut world, &peer.shape(RST).at(challenge.acknowledgement()));
    world.run_for(ms(0));
    assert_eq!((world.stack.flow_count(), is_closed(&world)), (0, Some(CloseKind::Reset)));
    let got = peer.ask(&mut world, &syn);
    assert_eq!((got[0].flags() & 0x3f, got[0].acknowledgement()), (SYN | ACK, 100));
    (peer.next, peer.expected) = (100, got[0].end());
    peer.reset(world);
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_is_asked_about_and_its_bytes_are_dropped() {
    // RFC 9293 §3.10.7.4, fifth check, ESTABLISHED; RFC 5961 §5.2.
    let (mut world, peer) = established();
    let beyond = peer.shape(ACK).acknowledging(peer.expected + 1).with(&pattern(0, 100));
    let got = peer.ask(&mut world, &beyond);
    assert_eq!((got.len(), got[0].flags(), got[0].acknowledgement()), (1, ACK, peer.next));
    assert_eq!(world.peer(at(TARGET)).app.received, 0);
    peer.reset(world);
}

#[test]
fn an_acknowledgement_older_than_any_window_is_asked_about_and_its_bytes_are_dropped() {
    // RFC 5961 §5.2: not older than the largest window that the container has granted.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let host = Target::running(Script::host(1, 5_000).ending(Ending::Never));
    peer.window = 10_000;
    // Without a shift: its largest window is 10 000.
    peer.connect(&mut world, &[2, 4, 5, 0xb4], host);
    assert_eq!(peer.acknowledge(&mut world).0, 5_000);
    let old =
        |age: u32| peer.shape(ACK).acknowledging(peer.expected.wrapping_sub(age)).with(&pattern(0, 100));
    for age in [10_001, 1 << 20, 0x7fff_0000] {
        let got = peer.ask(&mut world, &old(age));
        assert_eq!((got.len(), got[0].acknowledgement()), (1, peer.next), "{age}");
        assert_eq!(world.peer(at(TARGET)).app.received, 0, "{age}");
        world.run_for(secs(1));
    }
    peer.ask(&mut world, &old(5_000));
    assert_eq!(world.peer(at(TARGET)).app.received, 100, "one that is late counts for what it brings");
    peer.next += 100;
    peer.reset(world);
}

#[test]
fn what_claims_to_belong_to_a_connection_is_answered_no_more_than_so_often() {
    // RFC 5961 §7; also what keeps two ends that disagree from talking for ever.
    let (mut world, peer) = established();
    let mut answers = 0;
    for round in 0..1_000u32 {
        let shape = match round % 4 {
            0 => peer.shape(RST).at(peer.next + 5),
            1 => peer.shape(SYN).at(peer.next + 5),
            2 => peer.shape(ACK).at(peer.next.wrapping_add(1 << 30)),
            _ => peer.shape(ACK).acknowledging(peer.expected + 9),
        };
        answers += peer.ask(&mut world, &shape).len();
        world.run_for(ms(1));
    }
    assert!((2..=3).contains(&answers), "{answers} answers in a second");
    // Bytes that come again are no such claim: their acknowledgement was lost, and is due each time.
    let mut peer = peer;
    peer.say(&mut world, &pattern(0, 100));
    let again = peer.shape(ACK).at(peer.next - 100).with(&pattern(0, 100));
    assert!((0..20).all(|_| peer.ask(&mut world, &again).len() == 1));
    peer.reset(world);
}

#[test]
fn segments_of_no_connection_are_reset_at_the_number_they_expect() {
    // RFC 9293 §3.10.7.1.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    peer.expected = 4_242;
    let got = peer.ask(&mut world, &peer.shape(ACK).with(b"who?"));
    assert_eq!((got.len(), got[0].flags(), got[0].sequence()), (1, RST, 4_242));
    let got = peer.ask(&mut world, &peer.shape(FIN).with(b"who?"));
    assert_eq!((got[0].flags(), got[0].sequence()), (RST | ACK, 0));
    assert_eq!(got[0].acknowledgement(), peer.next + 5);
    assert!(peer.ask(&mut world, &peer.shape(RST)).is_empty());
    assert!(peer.ask(&mut world, &peer.shape(RST | ACK | SYN)).is_empty());
    let got = peer.ask(&mut world, &peer.shape(SYN | ACK));
    assert_eq!((got[0].flags(), got[0].sequence()), (RST, 4_242));
    world.finish();
}

#[test]
fn bytes_for_a_connection_that_is_over_are_reset() {
    let (mut world, mut peer) = RawPeer::connected(Script::host(1, 0).ending(Ending::AfterPeerEnds));
    peer.finish(&mut world);
    world.run_for(ms(0));
    peer.take(&mut world);
    peer.expected += 1;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    assert_eq!(world.stack.flow_count(), 0, "the container closed first, so it is the one to wait");
    let got = peer.say(&mut world, b"more");
    assert_eq!((got.len(), got[0].flags()), (1, RST));
    world.finish();
}

#[test]
fn bytes_for_a_host_that_has_closed_come_back_as_a_reset() {
    let (mut world, mut peer) =
        RawPeer::connected(Script::host(1, 0).ending(Ending::ResetAfterReceiving(10)));
    let mut got = peer.say(&mut world, &pattern(0, 10));
    world.run_for(ms(1));
    got.extend(peer.take(&mut world));
    assert!(got.iter().any(|segment| segment.flags() & RST != 0), "{got:?}");
    world.finish();
}
