//! TCP: a slow reader on either side stalls the other and never grows memory; a long path fills.

use super::everywhere;
use crate::app::{Reading, Script};
use crate::clock::{ms, secs};
use crate::host::{Moods, Target};
use crate::link::Faults;
use crate::world::{Settings, World, at};

/// More than all buffers on the way hold together.
const MANY: u64 = 4 << 20;

#[test]
fn a_host_that_does_not_read_stalls_the_container_and_costs_bounded_memory() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 0).reading(Reading::Never)).limits(64 << 10, 64 << 10);
        let stream = world.connect(target, Script::container(1, MANY), host);
        world.run_for(secs(30));
        let sent = world.guest.app(stream).sent;
        let held = world.settings.config.limits.tcp_buffer_max_bytes + (64 << 10);
        assert!(sent <= (held + world.settings.guest_buffer_bytes) as u64, "{sent} bytes left the container");
        let port = world.guest.streams[stream.0].port;
        assert_eq!(world.segments_to(port).last().unwrap().window(), 0, "a closed window");
        world.run_for(secs(30));
        assert_eq!(world.guest.app(stream).sent, sent);
        world.host.connection_mut(target).app.script.reading = Reading::Freely;
        world.run_until(secs(120), "the rest", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_container_that_does_not_read_stalls_the_host_and_costs_bounded_memory() {
    everywhere(|mut world, target| {
        let script = Script::container(1, 0).reading(Reading::Never);
        let stream = world.connect(target, script, Target::running(Script::host(1, MANY)));
        world.run_for(secs(30));
        let held = world.settings.config.limits.tcp_buffer_max_bytes + world.settings.guest_buffer_bytes;
        let (taken, reads) = (world.peer(target).read_by_core, world.host.stream_reads);
        assert!(taken <= held as u64, "{taken} bytes taken off the host");
        world.run_for(secs(30));
        assert_eq!(
            (world.peer(target).read_by_core, world.host.stream_reads),
            (taken, reads),
            "nothing more is read"
        );
        world.guest.app_mut(stream).script.reading = Reading::Freely;
        world.run_until(secs(200), "the rest", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_slow_reader_gets_everything_at_its_own_pace() {
    let paced = Reading::Paced { bytes: 20_000, every: ms(10) };
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 1 << 20).reading(paced)).limits(32 << 10, 32 << 10);
        let stream = world.connect(target, Script::container(1, 1 << 20).reading(paced), host);
        world.run_until(secs(30), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_host_that_answers_blocked_and_short_all_the_time_loses_nothing() {
    for offload in [netferry::wire::vnet_header::Offload::ALL, netferry::wire::vnet_header::Offload::NONE] {
        let mut world = World::new(Settings::default().offload(offload));
        world.host.moods = Moods { storms: 300, short: 300, spurious: 300, joins: false };
        let target = at("203.0.113.5:80");
        let host = Target::running(Script::host(1, 300_000)).limits(8 << 10, 8 << 10);
        let stream = world.connect(target, Script::container(1, 300_000), host);
        world.run_until(secs(60), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    }
}

#[test]
fn a_link_that_takes_no_more_for_a_while_loses_nothing() {
    let mut world = World::new(Settings::default().faults(Faults::delay(ms(2))));
    world.link.down_capacity = 20;
    let target = at("203.0.113.5:80");
    let stream =
        world.connect(target, Script::container(1, 100_000), Target::running(Script::host(1, 1 << 20)));
    world.run_until(secs(60), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    world.finish();
}

/// 16 MiB over a path of 200 ms there and back. One mebibyte in flight moves it in 3.2 s, 64 KiB in 51 s.
fn fills_a_long_path(up: u64, down: u64) {
    for target in super::TARGETS {
        let settings = Settings { guest_buffer_bytes: 4 << 20, ..Settings::default() };
        let mut world = World::new(settings.faults(Faults::delay(ms(100))));
        let target = at(target);
        let host = Target::running(Script::host(1, down)).limits(4 << 20, 4 << 20);
        let stream = world.connect(target, Script::container(1, up), host);
        world.run_until(secs(6), "a filled window", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    }
}

#[test]
fn a_long_path_fills_toward_the_host() {
    fills_a_long_path(16 << 20, 0);
}

#[test]
fn a_long_path_fills_toward_the_container() {
    fills_a_long_path(0, 16 << 20);
}
