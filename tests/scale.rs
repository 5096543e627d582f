//! What 100 000 flows cost in memory, counted at the allocator, and that they can be had at all.

#[path = "../benches/rig/mod.rs"]
#[allow(dead_code, missing_docs)]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use rig::Rig;

/// Connections of the container.
const FLOWS: usize = 100_000;
/// What an idle one may cost.
const BYTES_PER_FLOW: usize = 2_048;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: everything is the system's allocator's doing; it is only counted beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_hundred_thousand_idle_connections_cost_little_each() {
    let mut rig = Rig::new();
    // What does not depend on their number is there from the first on.
    rig.connect(1);
    let before = HELD.load(Ordering::Relaxed);
    let connections = rig.connect(FLOWS - 1);
    drop(connections);
    assert_eq!(rig.stack.flow_count(), FLOWS);
    let each = (HELD.load(Ordering::Relaxed) - before) / FLOWS;
    println!("{each} bytes for each of {FLOWS}");
    assert!(each <= BYTES_PER_FLOW, "{each} bytes for each flow");
}
