//! Many seeds: random programs, random faults, random moods, misfortunes, and the reference model as the judge.

use std::net::SocketAddr;

use netferry::config::PortProtocol;
use netferry::stack::boundary::{HostError, ListenerId};
use netferry::wire::vnet_header::Offload;

use crate::app::{Ending, Reading, Script, Wish};
use crate::clock::{ms, secs};
use crate::guest::StreamId;
use crate::host::{DatagramPeer, Moods, Target};
use crate::link::Faults;
use crate::prng::Prng;
use crate::world::{Settings, World, at, seed_from_environment};

/// Seeds tried when nothing else is asked.
const DEFAULT_SEEDS: u64 = 200;

fn random_faults(prng: &mut Prng) -> Faults {
    let mut some = |most| if prng.chance(400) { prng.below(most) as u32 } else { 0 };
    let (loss, duplication, reordering, corruption) = (some(40), some(60), some(100), some(30));
    Faults {
        loss,
        duplication,
        reordering,
        corruption,
        reorder_by: ms(prng.within(1, 20)),
        delay: ms(prng.pick(&[0, 0, 1, 10, 80])),
        jitter: ms(prng.pick(&[0, 0, 0, 2])),
        bytes_per_second: prng.pick(&[None, None, Some(1_000_000)]),
    }
}

fn random_settings(seed: u64, prng: &mut Prng) -> Settings {
    let offload = prng.pick(&[
        Offload::ALL,
        Offload::ALL,
        Offload::NONE,
        Offload { udp: false, ..Offload::ALL },
        Offload { checksum: true, ..Offload::NONE },
    ]);
    let (mtu, total) =
        (prng.pick(&[1_500, 1_500, 1_280, 9_000, 65_520]), prng.pick(&[64 << 20, 512 << 20, 1 << 20]));
    let settings = Settings {
        seed,
        guest_buffer_bytes: prng.pick(&[8 << 10, 64 << 10, 256 << 10]),
        down: random_faults(prng),
        up: random_faults(prng),
        ..Settings::default()
    };
    settings
        .offload(offload)
        .publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80)
        .publishing(PortProtocol::Tcp, at("[::]:8080"), 80)
        .with(|config| {
            config.link.mtu = mtu;
            config.limits.tcp_buffer_total_bytes = total;
        })
}

fn random_reading(prng: &mut Prng) -> Reading {
    let (bytes, every) = (prng.within(500, 20_000) as usize, ms(prng.within(1, 20)));
    if prng.chance(200) { Reading::Paced { bytes, every } } else { Reading::Freely }
}

/// The programs of the two ends of flow `number`. At least one of them ends by itself.
fn random_scripts(number: u64, prng: &mut Prng) -> (Script, Script) {
    let sends = |prng: &mut Prng| match prng.below(4) {
        0 => prng.below(3),
        1 => prng.below(3_000),
        _ => prng.below(150_000),
    };
    let container = Script::container(number, sends(prng)).reading(random_reading(prng));
    let host = Script::host(number, sends(prng)).reading(random_reading(prng));
    match prng.below(4) {
        0 => (container.ending(Ending::AfterPeerEnds), host),
        1 => (container, host.ending(Ending::AfterPeerEnds)),
        2 => (Script::echoed(number, container.sends).reading(container.reading), Script::echo(number)),
        _ => (container, host),
    }
}

/// One life of a world; returns how many bytes it carried.
fn live(seed: u64) -> u64 {
    let mut prng = Prng::new(seed, "script");
    let mut world = World::new(random_settings(seed, &mut prng));
    let mut mood = |most| if prng.chance(500) { prng.below(most) as u32 } else { 0 };
    world.host.moods =
        Moods { storms: mood(200), short: mood(500), spurious: mood(500), joins: seed.is_multiple_of(2) };
    let mut pairs: Vec<(StreamId, SocketAddr)> = Vec::new();
    for number in 1..=prng.within(1, 5) {
        let (container, host) = random_scripts(number, &mut prng);
        let is_ipv6 = prng.chance(500);
        let outside = match is_ipv6 {
            true => at(&format!("[2001:db8::{number}]:4000")),
            false => at(&format!("203.0.113.{number}:4000")),
        };
        if prng.chance(300) {
            let stream = world.guest.listen(80, container);
            world.client_connects(u32::from(is_ipv6), outside, host).expect("nothing is full");
            // A server's sockets are all alike: this client is to meet this program before the next one comes.
            world.run_until(secs(600), "the handshake", |world| world.guest.streams[stream.0].established);
            pairs.push((stream, outside));
        } else {
            let limit = prng.pick(&[4 << 10, 64 << 10, 256 << 10]);
            let target = Target::running(host).after(ms(prng.below(300))).limits(limit, limit);
            pairs.push((world.connect(outside, container, target), outside));
        }
        world.run_for(ms(prng.below(100)));
    }
    let socket = world.guest.udp_bind(9_000);
    let peer = at("203.0.113.200:7");
    world.host.datagram_peers.insert(peer, DatagramPeer::Echoes { after: ms(2) });
    for number in 0..prng.below(20) {
        world.guest.udp_send(socket, peer, &vec![number as u8; prng.below(1_200) as usize]);
        world.run_for(ms(prng.below(20)));
    }
    world.run_until(secs(3_600), "all streams end", World::all_ended);
    for (stream, outside) in &pairs {
        world.assert_exchanged(*stream, world.peer(*outside));
    }
    for (from, bytes) in world.guest.udp_received(socket) {
        assert!(*from == peer && bytes.iter().all(|byte| *byte == bytes[0]), "a datagram nobody sent");
    }
    let carried = world.guest.streams.iter().map(|stream| stream.app.sent + stream.app.received).sum();
    world.finish_within(secs(600));
    carried
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = seed_from_environment() {
        return vec![seed];
    }
    let count = std::env::var("SEEDS").map_or(DEFAULT_SEEDS, |text| text.parse().expect("SEEDS is a number"));
    (1..=count).collect()
}

/// Lives each seed's world, on all processors; the sum of what they return.
fn live_all(live: impl Fn(u64) -> u64 + Sync) -> (u64, u64) {
    let (seeds, threads) = (seeds(), std::thread::available_parallelism().map_or(1, usize::from));
    let share = |first: usize| seeds.iter().skip(first).step_by(threads).map(|seed| live(*seed)).sum::<u64>();
    let total = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the seed is printed above")).sum()
    });
    (seeds.len() as u64, total)
}

#[test]
fn random_worlds_keep_the_books() {
    let (worlds, carried) = live_all(live);
    assert!(carried > worlds, "the worlds carry something");
}

/// What waits behind an address of an unlucky world.
fn random_misfortune(script: Script, prng: &mut Prng) -> Target {
    let error = prng.pick(&[
        HostError::Exhausted,
        HostError::Refused,
        HostError::TimedOut,
        HostError::NetworkUnreachable,
        HostError::Prohibited,
        HostError::Other,
    ]);
    let sends = script.sends;
    let target = match prng.below(6) {
        0 => Target { script, ..Target::failing(error) },
        1 => Target { script, ..Target::hanging() },
        2 => Target::running(script.ending(Ending::ResetAfterSending)),
        3 => Target::running(script.ending(Ending::ResetAfterReceiving(prng.below(sends + 2)))),
        4 => Target::running(script.ending(Ending::Never).reading(Reading::Never)),
        _ => Target::running(script),
    };
    target.after(ms(prng.below(3_000)))
}

/// One life of a world in which hosts fail, refuse, hang and reset, descriptors and buffers run out, and the clock leaps;
/// returns how many connections saw an end. An end is never told before every byte.
fn live_unluckily(seed: u64) -> u64 {
    let mut prng = Prng::new(seed, "misfortune");
    let settings = random_settings(seed, &mut prng).publishing(PortProtocol::Udp, at("0.0.0.0:9053"), 9_000);
    let mut world = World::new(settings);
    let mut mood = |most| if prng.chance(500) { prng.below(most) as u32 } else { 0 };
    world.host.moods =
        Moods { storms: mood(200), short: mood(500), spurious: mood(500), joins: seed.is_multiple_of(2) };
    let socket = world.guest.udp_bind(9_000);
    for number in 1..=5u8 {
        let peer = at(&format!("203.0.113.{}:7", 200 + number));
        let fate = match prng.below(5) {
            0 => DatagramPeer::Echoes { after: ms(2) },
            1 => DatagramPeer::Loses { error: None },
            2 => DatagramPeer::Reports { error: HostError::Refused },
            3 => DatagramPeer::OpenFails { error: HostError::Exhausted },
            _ => DatagramPeer::Silent,
        };
        world.host.datagram_peers.insert(peer, fate);
    }
    let mut pairs: Vec<(StreamId, SocketAddr)> = Vec::new();
    for number in 1..=prng.within(2, 8) {
        let (container, host) = random_scripts(number, &mut prng);
        let container = match prng.below(5) {
            0 => container.ending(Ending::ResetAfterSending),
            1 => container.ending(Ending::ResetAfterReceiving(prng.below(host.sends + 2))),
            _ => container,
        };
        let outside = at(&format!("203.0.113.{number}:4000"));
        let target = random_misfortune(host, &mut prng);
        // A server's sockets are all alike: one client is to meet them.
        if number == 1 && prng.chance(500) {
            let stream = world.guest.listen(80, container);
            world.client_connects(0, outside, target.script);
            world.run_for(secs(3));
            pairs.push((stream, outside));
        } else {
            pairs.push((world.connect(outside, container, target), outside));
        }
        for _ in 0..prng.below(4) {
            let peer = at(&format!("203.0.113.{}:7", 201 + prng.below(5)));
            world.guest.udp_send(socket, peer, &vec![number as u8; prng.below(1_200) as usize]);
            let (client, local) = (at("198.51.100.77:777"), "203.0.113.1".parse().unwrap());
            world.host.send_to_listener(ListenerId(2), client, local, &[number as u8; 40]);
            world.run_for(ms(prng.below(200)));
        }
        if prng.chance(300) {
            // As after a suspension: whatever was due is late.
            world.now += prng.pick(&[secs(1), secs(90), secs(3_600), secs(86_400)]);
        }
    }
    world.run_for(secs(120));
    let mut ends = 0;
    for (stream, outside) in &pairs {
        // A SYN that was sent again after the clock had leapt over its first flow's end has made another.
        let Some(peer) = world.host.connections_to(*outside).last() else { continue };
        let (container, host) = (world.guest.app(*stream), &peer.app);
        for (listener, speaker) in [(container, host), (host, container)] {
            assert!(listener.received <= speaker.sent, "bytes that nobody sent");
            let Some(after) = listener.peer_ended else { continue };
            let told = (Some(Wish::Finish), speaker.sent);
            assert_eq!((speaker.ended, after), told, "an end that was none: {listener:?} of {speaker:?}");
            ends += 1;
        }
    }
    for (_, bytes) in world.guest.udp_received(socket) {
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a datagram nobody sent");
    }
    (world.link.up, world.link.down) = (Faults::default(), Faults::default());
    for place in 0..world.guest.streams.len() {
        world.guest.abort(StreamId(place));
    }
    world.finish_within(secs(100_000));
    ends
}

#[test]
fn random_worlds_of_misfortune_keep_the_books() {
    let (worlds, ends) = live_all(live_unluckily);
    assert!(ends > worlds / 2, "{ends} ends in {worlds} worlds");
}

#[test]
fn a_seed_decides_everything() {
    let trace = |seed: u64| {
        let mut prng = Prng::new(seed, "script");
        let mut world = World::new(random_settings(seed, &mut prng));
        let target = at("203.0.113.5:80");
        world.connect(target, Script::container(1, 30_000), Target::running(Script::host(1, 30_000)));
        world.run_until(secs(600), "both ends", World::all_ended);
        (world.now, world.link.sent_down.clone())
    };
    assert!(trace(11) == trace(11));
    assert!(trace(11) != trace(12));
}
