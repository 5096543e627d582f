//! TCP by raw segments: what the container's bytes become, in whatever order and shape they come (RFC 9293 §3.4, §3.8,
//! §3.10.7.4; RFC 2018).

use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, PSH, RST, SYN};
use crate::raw::{FULL, RawPeer, TARGET, USUAL, pattern};
use crate::world::{Settings, World, at};

/// A host that only listens.
fn listener() -> Script {
    Script::host(1, 0).ending(Ending::Never)
}

fn received(world: &World) -> u64 {
    let app = &world.peer(at(TARGET)).app;
    assert_eq!(app.wrong_at, None, "a wrong byte");
    app.received
}

#[test]
fn small_segments_reach_the_host_in_one_call_while_more_frames_wait_than_a_turn_takes() {
    for (is_crowded, bytes, calls) in [(false, 10, 8), (true, 10, 1), (true, 1_400, 8)] {
        let (mut world, mut peer) = RawPeer::connected(listener());
        world.stack.note_crowd(is_crowded);
        let before = world.host.stream_sends;
        for number in 0..8 {
            peer.put(&mut world, &peer.shape(ACK).with(&pattern(number * bytes, bytes)));
            peer.next += bytes as u32;
        }
        world.run_for(ms(0));
        let got = peer.take(&mut world);
        assert_eq!((got.len(), got[0].acknowledgement()), (1, peer.next), "one for all");
        assert_eq!(received(&world), 8 * bytes as u64);
        assert_eq!(world.host.stream_sends - before, calls, "crowded: {is_crowded}, {bytes} bytes each");
        peer.reset(world);
    }
}

#[test]
fn bytes_out_of_order_wait_for_those_before_and_are_told_of() {
    // RFC 9293 §3.10.7.4, SHLD-31; RFC 2018 §4: the block that came last is told first.
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    let late = peer.shape(ACK).at(base + 2_000).with(&pattern(2_000, 1_000));
    let got = peer.ask(&mut world, &late);
    assert_eq!((got.len(), got[0].acknowledgement()), (1, base), "RFC 5681 §4.2: a duplicate at once");
    assert_eq!(got[0].held(base), [(2_000, 3_000)]);
    let later = peer.shape(ACK).at(base + 4_000).with(&pattern(4_000, 500));
    let got = peer.ask(&mut world, &later);
    assert_eq!(got[0].held(base), [(4_000, 4_500), (2_000, 3_000)]);
    assert_eq!(received(&world), 0);
    let got = peer.ask(&mut world, &peer.shape(ACK).with(&pattern(0, 2_000)));
    assert_eq!((got.len(), got[0].acknowledgement()), (1, base + 3_000));
    assert_eq!(got[0].held(base), [(4_000, 4_500)]);
    assert_eq!(received(&world), 3_000);
    peer.next = base + 3_000;
    let got = peer.say(&mut world, &pattern(3_000, 1_000));
    assert_eq!((got[0].acknowledgement(), received(&world)), (base + 4_500, 4_500));
    peer.next = base + 4_500;
    peer.reset(world);
}

#[test]
fn without_sack_permitted_nothing_is_told_of_what_is_held() {
    // RFC 2018 §2: only where the SYN allowed it.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let syn_ack = peer.connect(&mut world, &[2, 4, 5, 0xb4], Target::running(listener()));
    assert_eq!((syn_ack.option(4), syn_ack.option(3)), (None, None));
    let late = peer.shape(ACK).at(peer.next + 100).with(&pattern(100, 100));
    let got = peer.ask(&mut world, &late);
    assert_eq!((got.len(), got[0].option(5)), (1, None));
    peer.reset(world);
}

#[test]
fn a_segment_that_overlaps_what_came_before_adds_only_its_news() {
    // RFC 9293 §3.10.7.4: what is outside of the window is cut off.
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    peer.say(&mut world, &pattern(0, 1_000));
    let got = peer.ask(&mut world, &peer.shape(ACK).at(base + 500).with(&pattern(500, 1_000)));
    assert_eq!((got[0].acknowledgement(), received(&world)), (base + 1_500, 1_500));
    let all_over_again = peer.shape(ACK).at(base).with(&pattern(0, 1_460));
    let got = peer.ask(&mut world, &all_over_again);
    assert_eq!((got.len(), got[0].acknowledgement(), received(&world)), (1, base + 1_500, 1_500));
    peer.next = base + 1_500;
    peer.reset(world);
}

#[test]
fn a_segment_that_overlaps_what_is_held_joins_it() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    for (from, len) in [(1_000, 400), (2_000, 400), (1_200, 1_000)] {
        peer.ask(&mut world, &peer.shape(ACK).at(base + from).with(&pattern(from as usize, len)));
    }
    // It reaches over all that is held, and beyond.
    let got = peer.ask(&mut world, &peer.shape(ACK).with(&pattern(0, 1_100)));
    assert_eq!((got[0].acknowledgement(), received(&world)), (base + 2_400, 2_400));
    assert_eq!(got[0].held(base), []);
    peer.next = base + 2_400;
    peer.reset(world);
}

#[test]
fn what_was_delivered_is_never_replaced_by_a_later_copy() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    peer.say(&mut world, &pattern(0, 1_000));
    // The same numbers with other bytes, in order and out of order: the model would find a wrong byte.
    peer.ask(&mut world, &peer.shape(ACK).at(base + 500).with(&[0xee; 500]));
    peer.say(&mut world, &pattern(1_000, 10));
    assert_eq!(received(&world), 1_010);
    peer.reset(world);
}

#[test]
fn a_duplicate_is_acknowledged_at_once_and_delivered_once() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let again = peer.shape(ACK | PSH).with(&pattern(0, 700));
    peer.say(&mut world, &pattern(0, 700));
    for _ in 0..3 {
        let got = peer.ask(&mut world, &again);
        assert_eq!((got.len(), got[0].acknowledgement()), (1, peer.next));
    }
    assert_eq!(received(&world), 700);
    peer.reset(world);
}

#[test]
fn bytes_beyond_the_window_are_cut_off_and_never_held() {
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    // Without a window shift ours is 65 535 at most.
    peer.connect(&mut world, &[2, 4, 5, 0xb4, 4, 2, 1, 1], Target::running(listener()));
    let base = peer.next;
    let astride = peer.shape(ACK).at(base + 65_035).with(&pattern(65_035, 1_000));
    assert_eq!(peer.ask(&mut world, &astride)[0].held(base), [(65_035, 65_535)]);
    let beyond = peer.shape(ACK).at(base + 65_535).with(&pattern(65_535, 1_000));
    let got = peer.ask(&mut world, &beyond);
    assert_eq!((got.len(), got[0].acknowledgement()), (1, base), "answered, as it is unacceptable");
    assert_eq!(got[0].held(base), [(65_035, 65_535)]);
    assert_eq!(received(&world), 0);
    peer.reset(world);
}

#[test]
fn a_fin_that_overtook_the_last_bytes_waits_for_them() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    let got = peer.ask(&mut world, &peer.shape(ACK | FIN).at(base + 1_000).with(&pattern(1_000, 200)));
    assert_eq!(got[0].acknowledgement(), base);
    assert_eq!(world.peer(at(TARGET)).app.peer_ended, None);
    let got = peer.ask(&mut world, &peer.shape(ACK).with(&pattern(0, 1_000)));
    assert_eq!(got[0].acknowledgement(), base + 1_201, "the FIN has its number");
    world.run_for(ms(1));
    assert_eq!(world.peer(at(TARGET)).app.peer_ended, Some(1_200));
    peer.next = base + 1_201;
    peer.reset(world);
}

#[test]
fn a_fin_that_comes_again_is_acknowledged_again_and_counts_once() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let again = peer.shape(ACK | FIN);
    peer.finish(&mut world);
    for _ in 0..3 {
        let got = peer.ask(&mut world, &again);
        assert_eq!((got.len(), got[0].acknowledgement(), got[0].flags()), (1, peer.next, ACK));
    }
    world.run_for(ms(1));
    assert!(world.peer(at(TARGET)).shut, "passed on, once: twice would be a violation");
    peer.reset(world);
}

#[test]
fn a_lying_fin_in_the_middle_of_bytes_does_not_hide_the_true_one() {
    let (mut world, mut peer) = RawPeer::connected(listener());
    let base = peer.next;
    // A FIN behind byte 100, before the bytes; then bytes that reach over it.
    peer.ask(&mut world, &peer.shape(ACK | FIN).at(base + 100));
    peer.say(&mut world, &pattern(0, 300));
    assert_eq!(world.peer(at(TARGET)).app.peer_ended, None);
    peer.finish(&mut world);
    world.run_for(ms(1));
    assert_eq!(world.peer(at(TARGET)).app.peer_ended, Some(300));
    peer.reset(world);
}

#[test]
fn bytes_behind_the_containers_fin_are_not_delivered() {
    // RFC 9293 §3.10.7.4: in CLOSE-WAIT and later, segment text is ignored.
    let (mut world, mut peer) = RawPeer::connected(listener());
    peer.say(&mut world, &pattern(0, 100));
    peer.finish(&mut world);
    let got = peer.say(&mut world, b"who is there still?");
    assert!(got.iter().all(|segment| segment.acknowledgement() == peer.next - 19), "{got:?}");
    assert_eq!(received(&world), 100);
    peer.next -= 19;
    peer.reset(world);
}

#[test]
fn urgent_bytes_are_bytes_like_any_other() {
    // RFC 6093 §6: applications ought to receive them in line; so does the host here.
    let (mut world, mut peer) = RawPeer::connected(listener());
    let mut urgent = peer.shape(ACK | PSH | 0x20).with(&pattern(0, 500));
    urgent.urgent = 100;
    peer.ask(&mut world, &urgent);
    peer.next += 500;
    peer.say(&mut world, &pattern(500, 500));
    assert_eq!(received(&world), 1_000);
    // A pointer to where nothing is yet harms nobody.
    let mut pointless = peer.shape(ACK | 0x20);
    pointless.urgent = 0xffff;
    peer.ask(&mut world, &pointless);
    peer.say(&mut world, &pattern(1_000, 10));
    assert_eq!(received(&world), 1_010);
    peer.reset(world);
}

#[test]
fn bytes_on_the_syn_are_taken_when_they_come_again() {
    // RFC 9293 §3.4 lets them wait; RFC 7413 takes them with a cookie only. We acknowledge the SYN alone.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(listener()));
    let syn = peer.shape(SYN).acknowledging(0).options(USUAL).with(&pattern(0, 100));
    let got = peer.ask(&mut world, &syn);
    assert_eq!(got[0].acknowledgement(), peer.next + 1);
    (peer.next, peer.expected) = (peer.next + 1, got[0].end());
    peer.say(&mut world, &pattern(0, 100));
    assert_eq!(received(&world), 100);
    peer.reset(world);
}

#[test]
fn timestamps_are_not_agreed_to_and_not_looked_at() {
    // RFC 7323 §3.2: only where both SYNs have the option; on others it is to be ignored.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let syn = [USUAL, &[8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1]].concat();
    let syn_ack = peer.connect(&mut world, &syn, Target::running(listener()));
    assert_eq!(syn_ack.option(8), None);
    // One that goes backwards would be thrown away by a check of them (§5).
    for (position, value) in [(0, 9), (100, 1), (200, 0)] {
        let stamp = [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 0];
        let segment = peer.shape(ACK).options(&stamp).with(&pattern(position, 100));
        let got = peer.ask(&mut world, &segment);
        assert_eq!(got[0].option(8), None);
        peer.next += 100;
    }
    assert_eq!(received(&world), 300);
    peer.reset(world);
}

#[test]
fn a_segment_without_ack_is_dropped() {
    // RFC 9293 §3.10.7.4, fifth check.
    let (mut world, peer) = RawPeer::connected(listener());
    assert_eq!(peer.ask(&mut world, &peer.shape(0).with(&pattern(0, 100))).len(), 0);
    assert_eq!(received(&world), 0);
    peer.reset(world);
}

/// A host that reads nothing, with such buffers, behind a flow with buffers of 64 KiB; all of both full.
fn stalled(host_bytes: usize) -> (World, RawPeer) {
    let settings = Settings::default().with(|config| {
        config.limits.tcp_buffer_max_bytes = 64 << 10;
        config.limits.tcp_buffer_min_bytes = 64 << 10;
    });
    let mut world = World::new(settings);
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let host = Target::running(listener().reading(Reading::Never)).limits(host_bytes, host_bytes);
    peer.connect(&mut world, USUAL, host);
    let mut position = 0;
    loop {
        let got = peer.ask(&mut world, &peer.shape(ACK).with(&pattern(position, FULL)));
        let last = got.last().expect("an answer");
        position += last.acknowledgement().wrapping_sub(peer.next) as usize;
        peer.next = last.acknowledgement();
        assert!(position <= (68 << 10) + FULL, "it stops");
        if last.window() == 0 {
            return (world, peer);
        }
    }
}

#[test]
fn what_is_acknowledged_and_not_yet_taken_by_the_host_is_bounded_by_the_window() {
    let (mut world, peer) = stalled(4 << 10);
    assert_eq!(world.peer(at(TARGET)).written_by_core, 4 << 10);
    let base = peer.next;
    for offset in [0, 100, 5_000] {
        let got = peer.ask(&mut world, &peer.shape(ACK).at(base + offset).with(&[1; FULL]));
        assert_eq!((got.len(), got[0].acknowledgement(), got[0].window()), (1, base, 0), "{offset}");
    }
    assert!(world.stack.tcp_buffer_bytes() <= 2 * (64 << 10));
    peer.reset(world);
}

#[test]
fn probes_of_our_closed_window_are_answered_for_days() {
    // RFC 9293 §3.8.6.1, MUST-36: by one byte behind the window, or by one before it, as Linux does.
    let (mut world, mut peer) = stalled(4 << 10);
    let position = 0;
    for round in 0..3_000 {
        world.run_for(secs(60));
        let probe = match round % 2 {
            0 => peer.shape(ACK).at(peer.next - 1),
            _ => peer.shape(ACK).with(&[1]),
        };
        let got = peer.ask(&mut world, &probe);
        assert_eq!((got.len(), got[0].acknowledgement(), got[0].window()), (1, peer.next, 0));
    }
    let sent = world.peer(at(TARGET)).written_by_core as usize;
    world.host.connection_mut(at(TARGET)).app.script.reading = Reading::Freely;
    world.run_for(secs(1));
    let got = peer.take(&mut world);
    assert!(got.iter().any(|segment| segment.window() > 0), "told that it has opened: {got:?}");
    let total = world.peer(at(TARGET)).app.received as usize;
    assert!(total > sent && position == 0);
    peer.say(&mut world, &pattern(total, 10));
    assert_eq!(received(&world), total as u64 + 10);
    peer.reset(world);
}

#[test]
fn the_window_opens_by_segments_and_never_by_crumbs() {
    // RFC 9293 §3.8.6.2.2, MUST-39.
    let (mut world, peer) = stalled(200);
    let crumbs = Reading::Paced { bytes: 100, every: ms(10) };
    world.host.connection_mut(at(TARGET)).app.script.reading = crumbs;
    let mut edge = peer.next;
    let mut steps = Vec::new();
    for _ in 0..200 {
        world.run_for(ms(10));
        // Whatever is sent, and a probe is answered, too, with the window as it is.
        peer.put(&mut world, &peer.shape(ACK).at(peer.next - 1));
        world.run_for(secs(1));
        for segment in peer.take(&mut world) {
            let right = segment.acknowledgement().wrapping_add(u32::from(segment.window()) << 7);
            assert!(right.wrapping_sub(edge) < 1 << 31, "RFC 9293 §3.8.6, SHLD-14: it never shrinks");
            if right != edge {
                steps.push(right.wrapping_sub(edge));
                edge = right;
            }
        }
        if edge.wrapping_sub(peer.next) > 20_000 {
            break;
        }
    }
    assert!(steps.len() >= 3, "{steps:?}");
    // In steps of the shift, which may cut up to 127 bytes off.
    assert!(steps.iter().all(|step| *step >= FULL as u32 - 127), "{steps:?}");
    peer.reset(world);
}

#[test]
fn the_window_never_shrinks_while_bytes_pile_up() {
    let settings = Settings::default().with(|config| config.limits.tcp_buffer_max_bytes = 256 << 10);
    let mut world = World::new(settings);
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let host = Target::running(listener().reading(Reading::Never)).limits(4 << 10, 4 << 10);
    peer.connect(&mut world, USUAL, host);
    let base = peer.next;
    let mut most = 0;
    for position in 0..150 {
        let got = peer.say(&mut world, &pattern(position * FULL, FULL));
        for segment in got {
            let right =
                segment.acknowledgement().wrapping_add(u32::from(segment.window()) << 7).wrapping_sub(base);
            // RFC 7323 §2.4: what the shift cuts off is no shrinking, as the receiver knows what it once said.
            assert!(right + 127 >= most, "from {most} to {right}");
            most = right.max(most);
        }
    }
    let last = peer.shape(ACK).at(base + most - 10).with(&pattern(most as usize - 10, 20));
    assert_eq!(peer.ask(&mut world, &last)[0].held(base), [(most - 10, most)], "all that was ever granted");
    peer.reset(world);
}

#[test]
fn what_the_host_will_not_take_any_more_ends_in_rst_and_not_in_fin() {
    // The container has finished and everything of it is acknowledged; then the host gives up.
    let (mut world, mut peer) = stalled(4 << 10);
    // Its FIN finds no room in the window: the host reads a little, and the rest waits in our buffer.
    world.host.connection_mut(at(TARGET)).app.script.reading =
        Reading::Paced { bytes: 4_000, every: ms(500) };
    world.run_for(secs(3));
    peer.take(&mut world);
    let got = peer.finish(&mut world);
    assert_eq!(got[0].acknowledgement(), peer.next, "the FIN is acknowledged");
    let connection = world.host.connection_mut(at(TARGET));
    assert!(!connection.shut, "and not passed on yet");
    connection.app.script.ending = Ending::ResetAfterReceiving(1);
    world.run_for(secs(5));
    let got = peer.take(&mut world);
    let last = got.last().expect("a word");
    assert_ne!(last.flags() & RST, 0, "{last:?}");
    assert!(got.iter().all(|segment| segment.flags() & FIN == 0));
    assert!(!world.peer(at(TARGET)).shut, "no FIN after bytes that were lost");
    world.finish();
}

/// Round trips of a transfer's handshake, of its neighbor's messages, and what it may have on its way at last.
#[rstest::rstest]
#[case(0, 0, 64 << 10)]
#[case(4, 0, 64 << 10)]
#[case(0, 4, 64 << 10)]
#[case(4, 4, 1 << 20)]
fn a_transfer_of_a_near_container_makes_room_for_messages_beside_it(
    #[case] handshake: u64,
    #[case] exchange: u64,
    #[case] most: u32,
) {
    let mut world = World::usual();
    let mut transfer = RawPeer::new(&mut world, at(TARGET));
    let mut messages = RawPeer::new(&mut world, at("203.0.113.7:7"));
    messages.container.set_port(5_001);
    connect_within(&mut transfer, &mut world, ms(handshake), Target::running(listener()));
    connect_within(&mut messages, &mut world, ms(exchange), Target::running(Script::echo(1)));
    let window = |got: &[crate::raw::Got]| u32::from(got.last().expect("it is acknowledged").window()) << 7;
    let (mut position, mut said) = (0, 0);
    let mut send = |world: &mut World, transfer: &mut RawPeer| {
        position += FULL;
        window(&transfer.say(world, &pattern(position - FULL, FULL)))
    };
    // What was granted once stays so: a megabyte has to pass first.
    let mut last = 0;
    for number in 0..800 {
        if number % 100 == 0 || exchange == 0 {
            messages.say(&mut world, &pattern(said, 1));
            said += 1;
            world.run_for(ms(exchange));
            assert!(messages.acknowledge(&mut world).0 <= 1);
        }
        last = send(&mut world, &mut transfer);
    }
    assert!(last.abs_diff(most) < 128, "{last} beside messages");
    world.run_for(ms(6));
    let alone = if handshake == 0 { 768 << 10 } else { 1 << 20 };
    last = send(&mut world, &mut transfer);
    assert!(last.abs_diff(alone) < 128, "{last} alone");
    messages.put(&mut world, &messages.shape(RST | ACK));
    transfer.reset(world);
}

/// Connects, with an acknowledgement that comes so late.
fn connect_within(peer: &mut RawPeer, world: &mut World, late: crate::clock::Duration, host: Target) {
    world.host.targets.insert(peer.remote, host);
    let got = peer.ask(world, &peer.shape(SYN).acknowledging(0).options(USUAL));
    peer.next += 1;
    peer.expected = got[0].end();
    world.run_for(late);
    peer.put(world, &peer.shape(ACK));
    world.run_for(ms(0));
    peer.take(world);
}

#[test]
fn a_transfer_whose_program_acknowledges_by_itself_makes_no_room_for_its_own_messages() {
    for (every, most) in [(8, 64 << 10), (20, 768 << 10)] {
        let mut world = World::usual();
        let mut peer = RawPeer::new(&mut world, at(TARGET));
        // The host sends a byte behind every eleven kilobytes, which is an exchange, or every twenty-nine.
        peer.connect(&mut world, USUAL, Target::running(listener()));
        let mut last = 0;
        for number in 0..1_000 {
            let got = peer.say(&mut world, &pattern(number * FULL, FULL));
            last = u32::from(got.last().expect("it is acknowledged").window()) << 7;
            if number % every == every - 1 {
                world.host.connection_mut(at(TARGET)).app.script.sends += 1;
                world.run_for(ms(0));
                assert_eq!(peer.acknowledge(&mut world).0, 1);
            }
        }
        assert!(last.abs_diff(most) < 128, "{last} with a byte for each {every} segments");
        peer.reset(world);
    }
}
