//! A hostile container: nothing panics, nothing is left, every frame is counted for its reason, and the honest connection
//! beside goes on.

use netferry::stack::drop_reason::DropReason;
use netferry::wire::vnet_header::Offload;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::hostile::{Kind, kinds};
use crate::world::{Settings, World, at};

fn counted(world: &World) -> Vec<(DropReason, u64)> {
    world.stack.stats().iter_drops().filter(|(_, count)| *count > 0).collect()
}

/// Sends every frame of a kind into a world with an honest connection, one every few microseconds.
fn endure(kind: &Kind, offload: Offload) {
    let mut world = World::new(Settings::default().offload(offload));
    let target = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 300_000));
    let honest = world.connect(target, Script::container(1, 300_000), host);
    // Only this one is to be seen, so the SYNs of the others meet nobody.
    world.run_for(ms(1));
    let before: u64 = world.stack.stats().from_container.frames;
    for (header, frame) in &kind.frames {
        let now = world.now;
        world.link.inject_up(*header, frame.clone(), now);
        world.run_for(crate::clock::Duration::from_micros(20));
    }
    world.run_until(secs(60), kind.name, World::all_ended);
    assert!(world.stack.stats().from_container.frames >= before + kind.frames.len() as u64, "{}", kind.name);
    world.assert_exchanged(honest, world.peer(target));
    // What waits for the rest of a packet is given up in time, too.
    world.run_for(secs(120));
    let drops = counted(&world);
    for (reason, _) in &drops {
        let is_expected = kind.reasons.iter().any(|expected| expected.index() == reason.index());
        // Errors about these may have been sent or suppressed, by their own rate.
        let is_about_errors = matches!(reason, DropReason::ErrorSuppressed | DropReason::ErrorRateLimit);
        assert!(is_expected || is_about_errors, "{}: {drops:?}", kind.name);
    }
    let total: u64 = drops.iter().map(|(_, count)| *count).sum();
    let takes_several = kind.reasons.contains(&DropReason::FragmentTimeout);
    if takes_several {
        for reason in &kind.reasons[..1] {
            assert!(world.drops(*reason) > 0 || kind.reasons.len() > 2, "{}: {drops:?}", kind.name);
        }
        assert!(total > 0, "{}", kind.name);
    } else if !kind.reasons.is_empty() {
        assert!(
            total >= kind.frames.len() as u64,
            "{}: {total} of {}: {drops:?}",
            kind.name,
            kind.frames.len()
        );
    }
    world.finish_within(secs(400));
}

#[test]
fn every_kind_of_hostile_packet_is_dropped_for_its_reason_beside_an_honest_connection() {
    let kinds = kinds();
    assert!(kinds.len() > 30, "{}", kinds.len());
    for kind in &kinds {
        println!("{}", kind.name);
        endure(kind, Offload::ALL);
    }
}

#[test]
fn all_kinds_at_once_without_offload_leave_nothing_behind() {
    let frames = kinds().into_iter().flat_map(|kind| kind.frames).collect();
    let all = Kind { name: "everything", frames, reasons: DropReason::ALL.to_vec() };
    endure(&all, Offload::NONE);
}
