//! Explicit congestion notification by raw segments (RFC 3168): what a queue of the container's own marks is never lost, and
//! what we send is marked only where that was agreed to.

use crate::app::{Ending, Script};
use crate::clock::ms;
use crate::host::Target;
use crate::packet::{ACK, CWR, SYN};
use crate::raw::{FULL, Got, RawPeer, TARGET, USUAL, pattern};
use crate::world::{World, at};

const ECE: u8 = 0x40;
const MARKED: u8 = 0b11;
const CAPABLE: u8 = 0b10;

/// A connection whose SYN has these flags beside SYN.
fn connected(flags: u8, sends: u64) -> (World, RawPeer, Got) {
    let mut world = World::usual();
    let mut peer = RawPeer::new(&mut world, at(TARGET));
    let host = Script::host(1, sends).ending(Ending::Never);
    world.host.targets.insert(at(TARGET), Target::running(host));
    let got = peer.ask(&mut world, &peer.shape(SYN | flags).acknowledging(0).options(USUAL));
    (peer.next, peer.expected) = (peer.next + 1, got[0].end());
    let syn_ack = got[0].clone();
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    (world, peer, syn_ack)
}

/// The ECN fields of the packets on the link, by whether they carry data; takes nothing away.
fn fields(world: &World) -> Vec<(bool, u8)> {
    let tcp = |frame: &Vec<u8>| {
        let ip = crate::packet::read(frame).ok()?.ip?;
        (ip.protocol == crate::packet::TCP).then(|| (!ip.tcp_payload().is_empty(), frame[15] & 0b11))
    };
    world.link.sent_down.iter().filter_map(|(_, frame)| tcp(frame)).collect()
}

fn say_marked(world: &mut World, peer: &mut RawPeer, position: usize, flags: u8, field: u8) -> Got {
    let mut shape = peer.shape(ACK | flags).with(&pattern(position, 100));
    shape.traffic_class = field;
    peer.next += 100;
    let got = peer.ask(world, &shape);
    got.last().expect("an acknowledgement").clone()
}

#[test]
fn it_is_agreed_to_only_where_the_syn_asks_with_both_flags() {
    // §6.1.1, §6.1.1.1: ECE alone is the answer, and some middleboxes reflect flags.
    for (asked, agreed) in [(ECE | CWR, ECE), (ECE, 0), (CWR, 0), (0, 0)] {
        let (world, peer, syn_ack) = connected(asked, 0);
        assert_eq!(syn_ack.flags(), SYN | ACK | agreed, "{asked:#x}");
        peer.reset(world);
    }
}

#[test]
fn a_mark_on_data_is_echoed_until_the_container_says_that_it_slowed_down() {
    // §6.1.3.
    let (mut world, mut peer, _) = connected(ECE | CWR, 0);
    peer.take(&mut world);
    assert_eq!(say_marked(&mut world, &mut peer, 0, 0, CAPABLE).flags() & ECE, 0);
    assert_eq!(say_marked(&mut world, &mut peer, 100, 0, MARKED).flags() & ECE, ECE);
    for position in [200, 300, 400] {
        assert_eq!(say_marked(&mut world, &mut peer, position, 0, CAPABLE).flags() & ECE, ECE);
    }
    assert_eq!(say_marked(&mut world, &mut peer, 500, CWR, CAPABLE).flags() & ECE, 0);
    assert_eq!(
        say_marked(&mut world, &mut peer, 600, CWR, MARKED).flags() & ECE,
        ECE,
        "a mark on that very one"
    );
    assert_eq!(world.peer(at(TARGET)).app.received, 700);
    peer.reset(world);
}

#[test]
fn marks_where_nothing_was_agreed_are_not_echoed() {
    let (mut world, mut peer, _) = connected(0, 0);
    peer.take(&mut world);
    assert_eq!(say_marked(&mut world, &mut peer, 0, 0, MARKED).flags() & ECE, 0);
    peer.reset(world);
}

#[test]
fn new_data_may_be_marked_and_nothing_else() {
    // §6.1.4, §6.1.5: neither the SYN-ACK, nor acknowledgements, nor what is sent again.
    let (mut world, mut peer, _) = connected(ECE | CWR, 4 * FULL as u64);
    assert!(fields(&world).iter().all(|(is_data, field)| *field == if *is_data { CAPABLE } else { 0 }));
    assert_eq!(fields(&world).iter().filter(|(is_data, _)| *is_data).count(), 4);
    peer.take(&mut world);
    world.run_for(ms(250));
    assert_eq!(fields(&world), [(true, 0)], "a retransmission");
    peer.take(&mut world);
    peer.expected += 4 * FULL as u32;
    peer.put(&mut world, &peer.shape(ACK).with(&pattern(0, 10)));
    world.run_for(ms(0));
    assert_eq!(fields(&world), [(false, 0)], "an acknowledgement");
    peer.next += 10;
    peer.reset(world);
}

#[test]
fn an_echo_slows_the_sender_down_once_a_round_trip_and_is_answered_once() {
    // §6.1.2.
    let (mut world, mut peer, _) = connected(ECE | CWR, 4_000_000);
    let flight = peer.take(&mut world);
    let (first, last) = (peer.expected, flight.last().unwrap().end());
    assert!(last.wrapping_sub(first) > 100_000, "{flight:?}");
    // Half of the flight is acknowledged, each of ten times with the echo.
    for part in 1..=10 {
        peer.expected = first + part * last.wrapping_sub(first) / 20;
        peer.put(&mut world, &peer.shape(ACK | ECE));
        world.run_for(ms(0));
    }
    let meanwhile = peer.take(&mut world);
    assert!(meanwhile.iter().all(|segment| segment.sequence() >= last));
    let sent: usize = meanwhile.iter().map(|segment| segment.payload().len()).sum();
    assert!(sent <= 2 * FULL, "{sent} new bytes: half of what was on its way is too much now");
    peer.expected = meanwhile.last().map_or(last, |segment| segment.end());
    peer.put(&mut world, &peer.shape(ACK));
    world.run_for(ms(0));
    let after = peer.take(&mut world);
    let answers = meanwhile.iter().chain(&after).filter(|segment| segment.flags() & CWR != 0).count();
    // A super-segment is cut, and its first part alone has the flag where the kernel cuts it.
    assert!((1..=2).contains(&answers), "{answers} answers");
    assert!(!after.is_empty());
    peer.expected = after.last().unwrap().end();
    peer.reset(world);
}
