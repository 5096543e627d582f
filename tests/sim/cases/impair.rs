//! Links that are slow on purpose, to the microsecond: what a transfer gets of the rate of a wire.

use netferry::config::Impairments;
use netferry::config::limits::ImpairLimits;
use netferry::stack::impair::ImpairedWay;

use crate::app::Script;
use crate::clock::secs;
use crate::host::Target;
use crate::world::{Settings, World, at};

/// A world with a link that is `how`, whose guest takes so much at once.
fn world(how: &str, guest_buffer_bytes: usize) -> World {
    let how: Impairments = how.parse().unwrap();
    let settings = Settings { guest_buffer_bytes, ..Settings::default() };
    let mut world = World::new(settings);
    world.stack.expect_bottleneck(&how);
    let way = |how, seed| ImpairedWay::new(how, ImpairLimits::default(), seed);
    world.link.impaired = Some((way(how.up, 1), way(how.down, 2)));
    world
}

/// Payload bits a second of a download that takes some ten seconds on a wire of `rate` bits, and how many packets were lost.
fn download(how: &str, rate: u64, window: usize) -> (u64, u64) {
    let mut world = world(how, window);
    let target = at("203.0.113.5:80");
    let bytes = rate * 10 / 8;
    let host = Target::running(Script::host(1, bytes)).limits(1 << 20, 1 << 20);
    let stream = world.connect(target, Script::container(1, 100), host);
    let began = world.now;
    world.run_until(secs(120), "the download", |world| world.guest.app(stream).received == bytes);
    let micros = (world.now - began).total_micros();
    let overflowed = world.link.impaired.as_ref().unwrap().1.stats().overflowed;
    world.run_until(secs(60), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    (bytes * 8 * 1_000_000 / micros, overflowed)
}

#[test]
fn a_download_has_what_the_frames_of_the_rate_carry() {
    for (how, rate, window) in [
        ("rate=1mbit,queue=2s", 1_000_000, 128 << 10),
        ("rate=10mbit", 10_000_000, 128 << 10),
        ("rate=100mbit", 100_000_000, 1 << 20),
        ("rate=10mbit,delay=20ms", 10_000_000, 192 << 10),
    ] {
        let (got, overflowed) = download(how, rate, window);
        // 1 460 bytes of each frame of 1 514.
        let due = rate * 1_460 / 1_514;
        assert!((due * 98 / 100..=due).contains(&got), "{how}: {got} of {due}");
        assert_eq!(overflowed, 0, "{how}");
    }
}

#[test]
fn a_download_that_may_have_more_on_its_way_than_the_queue_holds_has_as_much() {
    for (how, rate) in [
        ("rate=1mbit", 1_000_000),
        ("rate=10mbit", 10_000_000),
        ("rate=10mbit,queue=50ms", 10_000_000),
        ("rate=10mbit,delay=20ms", 10_000_000),
        ("rate=50mbit,delay=20ms", 50_000_000),
    ] {
        let (got, overflowed) = download(how, rate, 4 << 20);
        let due = rate * 1_460 / 1_514;
        assert!((due * 95 / 100..=due).contains(&got), "{how}: {got} of {due}, {overflowed} lost");
        assert_eq!(overflowed, 0, "{how}");
    }
}
