//! TCP over a bad link: everything still arrives, in order, once.

use netferry::wire::vnet_header::Offload;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::{Moods, Target};
use crate::link::Faults;
use crate::world::{Settings, World, at};

const MANY: u64 = 1 << 20;

/// A mebibyte and a bit each way over a link with `faults`, for both families, with and without offload.
fn completes(faults: Faults) {
    for (offload, target) in [
        (Offload::ALL, "203.0.113.5:80"),
        (Offload::NONE, "203.0.113.5:80"),
        (Offload::ALL, "[2001:db8::5]:80"),
    ] {
        let mut world = World::new(Settings::default().offload(offload).faults(faults));
        let target = at(target);
        let stream = world.connect(
            target,
            Script::container(1, MANY + 7),
            Target::running(Script::host(1, MANY + 13)),
        );
        world.run_until(secs(900), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish_within(secs(300));
    }
}

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn transfers_complete_under_loss() {
    completes(Faults { loss: 20, ..Faults::delay(ms(1)) });
}

#[test]
fn transfers_complete_under_duplication() {
    completes(Faults { duplication: 50, ..Faults::delay(ms(1)) });
}

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn transfers_complete_under_reordering() {
    completes(Faults { reordering: 50, reorder_by: ms(5), ..Faults::delay(ms(1)) });
}

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn transfers_complete_under_corruption() {
    completes(Faults { corruption: 20, ..Faults::delay(ms(1)) });
}

#[test]
fn transfers_complete_under_jitter_on_a_narrow_link() {
    completes(Faults { jitter: ms(3), bytes_per_second: Some(2_000_000), ..Faults::delay(ms(5)) });
}

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn transfers_complete_under_everything_at_once() {
    completes(Faults::mixed(20));
}

#[test]
#[ignore = "the engine does not always send a lost FIN again; see docs/testing.md"]
fn published_connections_complete_under_everything_at_once() {
    let settings = Settings::default().faults(Faults::mixed(20)).publishing(
        netferry::config::PortProtocol::Tcp,
        at("0.0.0.0:8080"),
        80,
    );
    let mut world = World::new(settings);
    world.host.moods = Moods { storms: 50, short: 50, spurious: 50, joins: false };
    let client = at("198.51.100.9:33333");
    let stream = world.guest.listen(80, Script::container(1, MANY));
    world.client_connects(0, client, Script::host(1, MANY)).unwrap();
    world.run_until(secs(900), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(client));
    world.finish_within(secs(300));
}
