//! TCP by raw segments: how the host's bytes reach the container, again and again if need be (RFC 9293 §3.7, §3.8;
//! RFC 6298; RFC 5681; RFC 6675).

use netferry::stack::boundary::CloseKind;
use netferry::wire::vnet_header::Offload;

use crate::app::{Ending, Script};
use crate::clock::{Duration, Instant, ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::raw::{FULL, Got, RawPeer, TARGET, USUAL};
use crate::world::{Settings, World, at};

/// A host that sends so many bytes and then stays.
fn sender(bytes: u64) -> Script {
    Script::host(1, bytes).ending(Ending::Never)
}

/// A peer with this window, to which the host has bytes to send.
fn with_window(window: u16, bytes: u64) -> (World, RawPeer) {
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    peer.window = window;
    // Without a shift, so that a window is what it says.
    world.host.targets.insert(at(TARGET), Target::running(sender(bytes)));
    let got = peer.ask(&mut world, &peer.shape(SYN).acknowledging(0).options(&[2, 4, 5, 0xb4, 4, 2, 1, 1]));
    peer.next += 1;
    peer.expected = got[0].end();
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    (world, peer)
}

fn seconds_between(times: impl IntoIterator<Item = Instant>) -> Vec<f64> {
    let times: Vec<_> = times.into_iter().collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).total_micros() as f64 / 1e6).collect()
}

/// The bytes that came and follow each other from `position` of the host's pattern on.
fn assert_pattern(got: &[Got], base: u32) {
    for segment in got {
        let position = segment.sequence().wrapping_sub(base);
        let mut wanted = vec![0; segment.payload().len()];
        crate::app::fill(Script::host(1, 0).send_key, position.into(), &mut wanted);
        assert!(segment.payload() == wanted, "other bytes at {position}");
    }
}

#[test]
fn what_is_not_acknowledged_is_sent_again_ever_later_until_the_container_is_given_up() {
    // RFC 6298 §5.4 to §5.6: doubled each time, up to 60 s; RFC 9293 §3.8.3, R2.
    let (mut world, peer) = RawPeer::connected(sender(1_000));
    world.run_for(secs(400));
    let got = peer.take(&mut world);
    let (last, copies) = got.split_last().unwrap();
    assert!(copies.iter().all(|copy| copy.sequence() == peer.expected && copy.payload().len() == 1_000));
    let intervals = seconds_between(copies.iter().map(|copy| copy.at));
    assert_eq!(intervals[..9], [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]);
    assert!(intervals[9..].iter().all(|interval| *interval == 60.0), "{intervals:?}");
    assert_ne!(last.flags() & RST, 0, "the container, should it be there after all");
    assert_eq!((last.sequence(), last.at), (peer.expected + 1_000, Instant::from_secs(240)));
    assert_eq!(world.peer(at(TARGET)).closed, Some(CloseKind::Reset), "and the host learn of it");
    world.finish();
}

#[test]
fn a_syn_ack_is_sent_again_ever_later() {
    let mut world = World::usual();
    let peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(sender(0)));
    peer.put(&mut world, &peer.shape(SYN).acknowledging(0).options(USUAL));
    world.run_for(secs(300));
    let got = peer.take(&mut world);
    let (last, copies) = got.split_last().unwrap();
    assert!(copies.iter().all(|copy| copy.flags() == SYN | ACK && copy.sequence() == got[0].sequence()));
    assert_eq!(
        seconds_between(copies.iter().map(|copy| copy.at)),
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    );
    assert_eq!((last.flags() & RST, last.at), (RST, Instant::from_secs(240)), "RFC 5382 REQ-5");
    world.finish();
}

#[test]
fn a_syn_is_sent_again_ever_later() {
    let settings =
        Settings::default().publishing(netferry::config::PortProtocol::Tcp, at("0.0.0.0:8080"), 80);
    let mut world = World::new(settings);
    let (peer, _, first) = RawPeer::called(&mut world, at("198.51.100.9:3333"), sender(0));
    world.run_for(secs(100));
    let copies = peer.take(&mut world);
    assert!(copies.iter().all(|copy| copy.flags() == SYN && copy.sequence() == first.sequence()));
    let times = [first.at].into_iter().chain(copies.iter().map(|copy| copy.at));
    assert_eq!(seconds_between(times), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    world.run_for(secs(150));
    assert_eq!(world.peer(at("198.51.100.9:3333")).closed, Some(CloseKind::Reset));
    world.finish();
}

#[test]
fn a_round_trip_is_not_measured_by_what_was_sent_twice() {
    // RFC 6298 §3 (Karn), §5.7: after a SYN-ACK was repeated, data begins with a timeout of 3 s.
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    world.host.targets.insert(at(TARGET), Target::running(sender(100)));
    let syn = peer.shape(SYN).acknowledging(0).options(USUAL);
    peer.put(&mut world, &syn);
    world.run_for(ms(2_500));
    let got = peer.take(&mut world);
    assert_eq!(got.len(), 2);
    (peer.next, peer.expected) = (peer.next + 1, got[0].end());
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(secs(12));
    let got = peer.take(&mut world);
    let copies = got.iter().filter(|segment| !segment.payload().is_empty());
    assert_eq!(seconds_between(copies.map(|copy| copy.at)), [3.0, 6.0]);
    peer.reset(world);
}

#[test]
fn the_back_off_stays_until_something_new_was_measured() {
    // RFC 6298 §5 and §3: an acknowledgement of what was sent twice says nothing of the round trip.
    let (mut world, mut peer) = RawPeer::connected(sender(1_000));
    world.run_for(ms(700));
    assert_eq!(peer.acknowledge(&mut world).0, 1_000, "sent at 0, 200 and 600 ms");
    world.host.connection_mut(at(TARGET)).app.script.sends += 1_000;
    world.run_for(ms(0));
    let began = world.now;
    world.run_for(secs(3));
    let got = peer.take(&mut world);
    assert_eq!(seconds_between([began, got[1].at]), [0.8], "{got:?}");
    // This one is acknowledged at once, and was sent once.
    peer.expected = got[0].end();
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    for interval in [3.2, 0.2] {
        world.host.connection_mut(at(TARGET)).app.script.sends += 1_000;
        world.run_for(ms(0));
        let fresh = peer.take(&mut world);
        if interval == 3.2 {
            peer.expected = fresh[0].end();
            peer.put(&mut world, &peer.shape(ACK));
            world.run_for(ms(0));
            continue;
        }
        let began = world.now;
        world.run_for(ms(250));
        let got = peer.take(&mut world);
        assert_eq!(seconds_between([began, got[0].at]), [interval]);
    }
    peer.reset(world);
}

#[test]
fn a_closed_window_is_probed_ever_later_for_as_long_as_the_container_answers() {
    // RFC 9293 §3.8.6.1, MUST-35 to MUST-37, SHLD-29 and -30.
    let (mut world, mut peer) = with_window(0, 10_000);
    let began = world.now;
    let mut probes = vec![began];
    while world.now - began < secs(2 * 86_400) {
        // An answer comes soon at first; later it may come late.
        world.run_for(if world.now - began < secs(60) { ms(50) } else { secs(30) });
        for probe in peer.take(&mut world) {
            assert_eq!((probe.sequence(), probe.payload().len(), probe.flags() & RST), (peer.expected, 1, 0));
            probes.push(probe.at);
            // Nothing of it was taken.
            peer.put(&mut world, &peer.shape(ACK));
        }
    }
    let intervals = seconds_between(probes);
    let first: Vec<f64> = intervals.iter().copied().take(9).collect();
    assert_eq!(first, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]);
    assert!(intervals.len() > 2_800 && intervals[9..].iter().all(|interval| *interval == 60.0));
    assert!(world.peer(at(TARGET)).closed.is_none(), "two days later");
    peer.window = 0xffff;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    assert_eq!(peer.acknowledge(&mut world).0, 10_000, "all of it, at once");
    peer.reset(world);
}

#[test]
fn a_closed_window_that_nobody_answers_for_is_given_up() {
    let (mut world, peer) = with_window(0, 10_000);
    world.run_for(secs(239));
    assert!(peer.take(&mut world).iter().all(|probe| probe.flags() & RST == 0));
    world.run_for(secs(2));
    assert_ne!(peer.take(&mut world).last().unwrap().flags() & RST, 0);
    assert_eq!(world.peer(at(TARGET)).closed, Some(CloseKind::Reset));
    world.finish();
}

#[test]
fn a_taken_probe_is_the_first_byte_of_the_stream() {
    let (mut world, mut peer) = with_window(0, 10_000);
    let base = peer.expected;
    let mut got = Vec::new();
    for taken in 1..=3 {
        world.run_for(secs(1));
        let probes = peer.take(&mut world);
        assert_eq!(probes[0].sequence(), base + taken - 1);
        got.extend(probes);
        peer.expected = base + taken;
        peer.put(&mut world, &peer.shape(ACK));
    }
    peer.window = 0xffff;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    got.extend(peer.take(&mut world));
    assert_pattern(&got, base);
    assert_eq!(got.last().unwrap().end(), base + 10_000);
    peer.expected = base + 10_000;
    peer.reset(world);
}

#[test]
fn a_window_that_shrinks_below_what_is_on_its_way_loses_nothing() {
    // RFC 9293 §3.8.6, MUST-34.
    for (acknowledged, window) in [(2_000, 0), (2_000, 1_000), (0, 0), (0, 3_000)] {
        let (mut world, mut peer) = with_window(7 * FULL as u16, 40_000);
        let base = peer.expected;
        let sent = peer.take(&mut world);
        assert_eq!(sent.last().unwrap().end() - base, 7 * FULL as u32, "as much as the window allows");
        peer.window = window;
        peer.expected = base + acknowledged;
        peer.put(&mut world, &peer.shape(ACK));
        // Whatever comes now, it stays within the window, but for the byte of a probe.
        world.run_for(if window == 0 { secs(20) } else { ms(150) });
        let most = (u32::from(window)).max(1);
        for segment in peer.take(&mut world) {
            let reach = segment.end().wrapping_sub(peer.expected);
            assert!(reach <= most || reach > 1 << 31, "{reach} into a window of {window}");
        }
        peer.window = 0xffff;
        peer.put(&mut world, &peer.shape(ACK));
        let began = world.now;
        world.run_for(ms(0));
        let mut bytes = peer.acknowledge(&mut world).0;
        while bytes < 40_000 - acknowledged as usize && world.now - began < secs(30) {
            world.run_for(ms(1));
            bytes += peer.acknowledge(&mut world).0;
        }
        let took = world.now - began;
        assert_eq!(bytes, 40_000 - acknowledged as usize, "acknowledged {acknowledged}, window {window}");
        assert!(took <= secs(1), "the back-off of the probes does not hold up what follows: {took}");
        peer.reset(world);
    }
}

#[test]
fn repeated_acknowledgements_do_not_push_anything_into_a_closed_window() {
    let (mut world, peer) = with_window(0, 10_000);
    world.run_for(ms(250));
    assert_eq!(peer.take(&mut world).len(), 1, "a probe");
    for _ in 0..10 {
        assert_eq!(peer.ask(&mut world, &peer.shape(ACK)).len(), 0);
    }
    peer.reset(world);
}

#[test]
fn a_crumb_of_a_window_is_not_used_while_more_may_come() {
    // RFC 9293 §3.8.6.2.1: neither behind what is on its way, nor at once when nothing is.
    let (mut world, mut peer) = with_window(6 * FULL as u16, 30_000);
    let sent = peer.take(&mut world);
    let base = peer.expected;
    assert_eq!(sent.last().unwrap().end(), base + 8_760);
    // Four of six segments are taken, with room for ten bytes behind the last.
    peer.expected = base + 5_840;
    peer.window = 2_930;
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty(), "ten bytes are not worth a segment");
    peer.expected = base + 8_760;
    peer.window = 10;
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty(), "even when nothing is on its way");
    // But after a while it is better than nothing.
    world.run_for(ms(1_000));
    let got = peer.take(&mut world);
    assert_eq!((got[0].sequence(), got[0].payload().len()), (base + 8_760, 10));
    let began = world.now;
    assert!(seconds_between([sent[0].at, got[0].at])[0] >= 0.1 && world.now == began);
    peer.window = 0xffff;
    peer.expected = base + 8_770;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    assert_eq!(peer.acknowledge(&mut world).0, 30_000 - 8_770);
    peer.reset(world);
}

#[test]
fn a_last_small_segment_does_not_wait() {
    // RFC 9293 §3.7.4: no Nagle here; the program at the host's end has decided already.
    let (mut world, peer) = with_window(0xffff, 100);
    assert_eq!(peer.take(&mut world).len(), 1);
    world.host.connection_mut(at(TARGET)).app.script.sends += 5;
    world.run_for(ms(0));
    assert_eq!(peer.take(&mut world)[0].payload().len(), 5, "while the first is not acknowledged");
    peer.reset(world);
}

/// The largest payload that comes to a container whose SYN has these options.
fn largest_payload(options: &[u8], mtu: u16, offload: Offload, target: &str) -> (usize, Got) {
    let settings = Settings::default().offload(offload).with(|config| config.link.mtu = mtu);
    let mut world = World::new(settings);
    let mut peer = RawPeer::new(&mut world, at(target));
    let host = Target::running(sender(200_000));
    let syn_ack = peer.connect(&mut world, options, host);
    let mut largest = 0;
    let mut bytes = 0;
    loop {
        let base = peer.expected;
        let got = peer.take(&mut world);
        assert!(!got.is_empty(), "{bytes} bytes");
        for segment in &got {
            largest = largest.max(segment.payload().len());
            if segment.sequence() == peer.expected {
                peer.expected = segment.end();
            }
        }
        bytes += peer.expected.wrapping_sub(base) as usize;
        if bytes == 200_000 {
            break;
        }
        peer.put(&mut world, &peer.shape(ACK));
        world.run_for(ms(0));
    }
    peer.reset(world);
    (largest, syn_ack)
}

#[test]
fn segments_are_as_large_as_the_container_and_the_link_allow_and_no_larger() {
    // RFC 9293 §3.7.1, MUST-14 to MUST-16; what is announced is what the link takes.
    let mss = |value: u16| [&[2, 4][..], &value.to_be_bytes()].concat();
    let ipv6 = "[2001:db8::5]:80";
    for offload in [Offload::ALL, Offload::NONE] {
        for (options, mtu, target, largest) in [
            (mss(1_460), 1_500, TARGET, 1_460),
            (mss(536), 1_500, TARGET, 536),
            (mss(9_000), 1_500, TARGET, 1_460),
            (mss(8_960), 9_000, TARGET, 8_960),
            (mss(65_480), 65_520, TARGET, 65_480),
            (mss(1_460), 65_520, TARGET, 1_460),
            // Without the option: 536, and 1220 over IPv6.
            (vec![], 1_500, TARGET, 536),
            (vec![], 1_500, ipv6, 1_220),
            (mss(1_440), 1_500, ipv6, 1_440),
            (mss(65_535), 1_500, ipv6, 1_440),
        ] {
            let (found, syn_ack) = largest_payload(&options, mtu, offload, target);
            let headers = if target == TARGET { 40 } else { 60 };
            assert_eq!(found, largest, "{options:?} at {mtu} to {target}, {offload:?}");
            assert_eq!(syn_ack.option(2).unwrap(), (mtu - headers).to_be_bytes());
        }
    }
}

#[test]
fn an_absurd_segment_size_is_raised_to_what_can_be_borne() {
    // RFC 9293 says no least; without one, a container makes us send a packet a byte.
    for absurd in [0u16, 1, 20, 63] {
        let options = [&[2, 4][..], &absurd.to_be_bytes()].concat();
        assert_eq!(largest_payload(&options, 1_500, Offload::NONE, TARGET).0, 64);
    }
}

#[test]
fn three_repeated_acknowledgements_repair_once_and_two_do_not() {
    // RFC 5681 §3.2.
    let (mut world, mut peer) = with_window(0xffff, 8 * FULL as u64);
    let base = peer.expected;
    assert_eq!(peer.take(&mut world).len(), 8);
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty());
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty());
    let got = peer.ask(&mut world, &peer.shape(ACK));
    assert_eq!((got.len(), got[0].sequence(), got[0].payload().len()), (1, base, FULL));
    for _ in 0..10 {
        assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty(), "once");
    }
    // RFC 6582 §3.2: a partial acknowledgement repairs the next.
    peer.expected = base + 3 * FULL as u32;
    let got = peer.ask(&mut world, &peer.shape(ACK));
    assert_eq!((got.len(), got[0].sequence()), (1, peer.expected));
    peer.expected = base + 8 * FULL as u32;
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty());
    world.run_for(secs(5));
    assert!(peer.take(&mut world).is_empty(), "nothing is left to send");
    peer.reset(world);
}

fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
    let mut option = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
    for (first, end) in blocks {
        option.extend(first.to_be_bytes());
        option.extend(end.to_be_bytes());
    }
    option
}

#[test]
fn only_what_the_container_does_not_hold_is_sent_again() {
    // RFC 6675 §5.
    let (mut world, mut peer) = with_window(0xffff, 10 * FULL as u64);
    let (base, full) = (peer.expected, FULL as u32);
    assert_eq!(peer.take(&mut world).len(), 10);
    let held = sack(&[(base + 2 * full, base + 5 * full), (base + 6 * full, base + 10 * full)]);
    let got = peer.ask(&mut world, &peer.shape(ACK).options(&held));
    let ranges: Vec<_> =
        got.iter().map(|segment| (segment.sequence() - base, segment.end() - base)).collect();
    assert_eq!(ranges, [(0, full), (full, 2 * full), (5 * full, 6 * full)]);
    assert_pattern(&got, base);
    peer.expected = base + 10 * full;
    assert!(peer.ask(&mut world, &peer.shape(ACK)).is_empty());
    peer.reset(world);
}

#[test]
fn what_the_container_says_it_holds_is_believed_only_within_what_was_sent() {
    // RFC 2018 §5, RFC 6675 §5: no sequence number that is not outstanding.
    let (mut world, mut peer) = with_window(0xffff, 4 * FULL as u64);
    let (base, full) = (peer.expected, FULL as u32);
    assert_eq!(peer.take(&mut world).len(), 4);
    for nonsense in [
        (base + 3 * full, base + 100 * full),
        (base - 1_000, base + 3 * full),
        (base + 3 * full, base + 2 * full),
        (base + full, base + full),
        (base.wrapping_add(0x8000_0000), base.wrapping_add(0x8000_1000)),
    ] {
        assert!(
            peer.ask(&mut world, &peer.shape(ACK | 0x08).options(&sack(&[nonsense])).window(0xfff0)).len()
                <= 1
        );
        peer.window = 0xffff;
    }
    world.run_for(ms(300));
    // It has not been fooled into thinking that anything has arrived.
    let mut bytes = peer.acknowledge(&mut world).0;
    for _ in 0..8 {
        world.run_for(ms(500));
        bytes += peer.acknowledge(&mut world).0;
    }
    assert!(bytes <= 4 * FULL);
    peer.expected = base + 4 * full;
    peer.put(&mut world, &peer.shape(ACK));
    peer.reset(world);
}

#[test]
fn after_a_timeout_what_is_held_is_not_believed_any_more() {
    // RFC 2018 §8: the container may have thrown it away.
    let (mut world, mut peer) = with_window(0xffff, 3 * FULL as u64);
    let (base, full) = (peer.expected, FULL as u32);
    assert_eq!(peer.take(&mut world).len(), 3);
    let got = peer.ask(&mut world, &peer.shape(ACK).options(&sack(&[(base + full, base + 3 * full)])));
    assert!(got.is_empty(), "two segments are too few to tell a loss");
    world.run_for(ms(250));
    assert_eq!(peer.take(&mut world)[0].sequence(), base);
    // It acknowledges the first only: the others were thrown away, and are sent again.
    peer.expected = base + full;
    let got = peer.ask(&mut world, &peer.shape(ACK));
    assert_eq!(got[0].sequence(), base + full);
    world.run_for(ms(0));
    peer.expected = base + 3 * full;
    peer.put(&mut world, &peer.shape(ACK));
    peer.reset(world);
}

#[test]
fn a_fin_is_sent_again_like_a_byte() {
    let mut script = sender(100);
    script.ending = Ending::AfterSending;
    let (mut world, mut peer) = RawPeer::connected(script);
    let sent = peer.take(&mut world);
    assert_ne!(sent.last().unwrap().flags() & FIN, 0);
    peer.expected += 100;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(900));
    let got = peer.take(&mut world);
    assert!(
        got.len() >= 2 && got.iter().all(|copy| copy.flags() & FIN != 0 && copy.sequence() == peer.expected)
    );
    peer.expected += 1;
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(secs(5));
    assert!(peer.take(&mut world).is_empty());
    peer.finish(&mut world);
    world.finish();
}

#[test]
fn patience_is_a_duration() {
    // The figures above are those of the usual settings.
    let timeouts = World::usual().settings.config.timeouts;
    assert_eq!(timeouts.tcp_closing, std::time::Duration::from_secs(240));
    assert_eq!(Duration::from(timeouts.tcp_handshake), secs(240));
}
