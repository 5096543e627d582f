//! What is sent, when, and what is sent again.

use super::*;

const FIRST: u32 = 1_001;

fn at(millis: i64) -> Instant {
    Instant::from_millis(millis)
}

/// A sender whose SYN is acknowledged after `round_trip` ms, with ten segments of 1000 bytes queued.
fn sender(round_trip: i64) -> Sender {
    let mut sender = Sender::new(FIRST - 1, 1 << 20);
    sender.segment_bytes = 1_000;
    sender.syn_sent(at(0));
    sender.syn_acknowledged(FIRST, at(round_trip));
    sender.first_grant(1, FIRST, 1 << 20);
    sender.queue.append_with(10_000, |room| room.len());
    sender
}

/// Sends all that may be sent, in segments; returns where each begins.
fn send(sender: &mut Sender, now: Instant) -> Vec<u32> {
    let mut sent = Vec::new();
    while let Some(turn) = sender.turn(1_000) {
        sent.push(turn.sequence - FIRST);
        sender.sent(&turn, now);
    }
    sent
}

#[test]
fn a_lost_end_is_sent_again_after_a_fifth_of_a_second_and_then_ever_later() {
    let mut sender = sender(2);
    assert_eq!(send(&mut sender, at(10)).len(), 10);
    assert_eq!(sender.poll_timeout(), Some(at(210)));
    assert!(!sender.handle_timeout(at(209)));
    assert!(sender.handle_timeout(at(210)));
    assert_eq!(send(&mut sender, at(210)), [0], "one segment, until it is acknowledged");
    assert_eq!(sender.poll_timeout(), Some(at(610)), "RFC 6298 §5.5");
}

#[test]
fn only_the_gaps_between_what_is_held_are_repaired_each_once() {
    let mut sender = sender(2);
    send(&mut sender, at(10));
    sender.hold(FIRST + 1_000, FIRST + 3_000);
    sender.hold(FIRST + 4_000, FIRST + 8_000);
    sender.look_for_loss();
    assert_eq!(send(&mut sender, at(11)), [0, 3_000]);
    sender.duplicate();
    assert!(send(&mut sender, at(12)).is_empty());
    assert!(!sender.acknowledge(FIRST + 10_000, at(13)));
    assert_eq!((sender.poll_timeout(), sender.is_settled()), (None, true));
}

#[test]
fn three_repeats_without_a_word_of_what_is_held_repair_the_first_segment() {
    let mut sender = sender(2);
    send(&mut sender, at(10));
    sender.duplicate();
    sender.duplicate();
    assert!(send(&mut sender, at(11)).is_empty());
    sender.duplicate();
    assert_eq!(send(&mut sender, at(12)), [0]);
    sender.acknowledge(FIRST + 5_000, at(13));
    assert_eq!(send(&mut sender, at(13)), [5_000], "RFC 6582 §3.2: after a partial acknowledgement the next");
}

#[test]
fn a_closed_window_is_probed_with_one_byte_and_all_of_it_goes_once_it_opens() {
    let mut sender = sender(2);
    sender.grant(1, FIRST, 0);
    assert!(sender.turn(1_000).is_none());
    sender.watch_window(at(10));
    assert!(sender.handle_timeout(at(210)));
    assert_eq!(sender.turn(1_000).map(|turn| (turn.sequence, turn.len)), Some((FIRST, 1)));
    assert_eq!(send(&mut sender, at(210)), [0]);
    assert!(sender.grant(1, FIRST, 1 << 20));
    assert_eq!(send(&mut sender, at(220)).len(), 10);
}

#[test]
fn a_window_granted_earlier_does_not_replace_a_later_one() {
    let mut sender = sender(2);
    sender.grant(9, FIRST, 5_000);
    assert!(!sender.grant(8, FIRST, 0));
    assert_eq!(send(&mut sender, at(10)).len(), 5);
}

#[test]
fn the_fin_goes_once_behind_the_last_byte_and_its_acknowledgement_is_told() {
    let mut sender = sender(2);
    sender.is_closing = true;
    let turn = sender.turn(10_000).unwrap();
    assert_eq!((turn.len, turn.fin), (10_000, true));
    sender.sent(&turn, at(10));
    assert!(!sender.acknowledge(FIRST + 10_000, at(11)), "the bytes alone");
    assert!(sender.turn(10_000).is_none());
    assert!(sender.acknowledge(FIRST + 10_001, at(12)));
    assert!(sender.turn(10_000).is_none(), "never again");
}
