//! Many seeds: random programs, random faults, random moods, and the reference model as the judge.

use std::net::SocketAddr;

use netferry::config::PortProtocol;
use netferry::wire::vnet_header::Offload;

use crate::app::{Ending, Reading, Script};
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

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn random_worlds_keep_the_books() {
    let (seeds, mut carried) = (seeds(), 0);
    for seed in &seeds {
        carried += live(*seed);
    }
    assert!(carried > seeds.len() as u64, "the worlds carry something");
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
