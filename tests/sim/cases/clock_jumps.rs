//! A clock that jumps: a relay that was stopped, a virtual machine that was paused, or one that never should go back, and does.

use smoltcp::time::Duration;

use super::{both_families, everywhere};
use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::link::Faults;
use crate::prng::Prng;
use crate::world::{Settings, World, at};

const BYTES: u64 = 300_000;
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

#[test]
fn a_jump_of_six_hours_amid_a_transfer_costs_no_connection() {
    everywhere(|mut world, target| {
        let stream =
            world.connect(target, Script::container(1, BYTES), Target::running(Script::host(1, BYTES)));
        world.run_until(secs(5), "bytes flow", |world| world.guest.app(stream).received > 0);
        let before = world.link.commits;
        world.ahead_micros += 6 * HOUR;
        world.run_for(ms(1));
        assert!(world.link.commits - before < 500, "a storm of {} frames", world.link.commits - before);
        world.run_until(secs(60), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish_within(secs(300));
    });
}

#[test]
fn a_jump_of_six_hours_in_silence_asks_both_sides_and_ends_nothing() {
    both_families(|target| {
        let mut world = World::usual();
        let waiting = Script::container(1, 100).ending(crate::app::Ending::Never);
        let stream = world.connect(
            target,
            waiting,
            Target::running(Script::host(1, 100).ending(crate::app::Ending::Never)),
        );
        world.run_until(secs(5), "the exchange", |world| world.guest.app(stream).received == 100);
        for _ in 0..3 {
            world.ahead_micros += 6 * HOUR;
            world.run_for(secs(2));
            assert_eq!(world.stack.flow_count(), 1);
        }
        world.host.connection_mut(target).app.script.sends = 200;
        world.run_until(secs(5), "it goes on", |world| world.guest.app(stream).received == 200);
        world.guest.abort(stream);
        world.finish_within(secs(30));
    });
}

#[test]
fn a_clock_that_goes_back_neither_panics_nor_spins_and_all_arrives() {
    for target in ["203.0.113.5:80", "[2001:db8::5]:80"] {
        let mut world = World::new(Settings::default().faults(Faults::delay(ms(5))));
        let target = at(target);
        let stream =
            world.connect(target, Script::container(1, BYTES), Target::running(Script::host(1, BYTES)));
        world.run_until(secs(5), "bytes flow", |world| world.guest.app(stream).received > 0);
        // Further than everything that has been.
        world.ahead_micros -= HOUR;
        world.run_until(secs(60), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish_within(secs(4_000));
    }
}

#[test]
fn transfers_complete_over_a_bad_link_while_the_clock_jumps_to_and_fro() {
    for seed in 0..20 {
        let mut chance = Prng::new(seed, "clock jumps");
        let mut world = World::new(Settings { seed, ..Settings::default().faults(Faults::mixed(10)) });
        let target = at("203.0.113.5:80");
        let stream =
            world.connect(target, Script::container(1, BYTES), Target::running(Script::host(1, BYTES)));
        for _ in 0..10 {
            world.run_for(Duration::from_millis(chance.below(400)));
            let jump = i64::try_from(chance.below(20)).unwrap() * SECOND;
            world.ahead_micros += if chance.below(2) == 0 { -jump } else { 300 * jump };
        }
        world.run_until(secs(900), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish_within(secs(7_000));
    }
}
