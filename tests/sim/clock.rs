//! Simulated time: a queue of what is to happen, in order of time and then of arrival.

use std::collections::BTreeMap;

pub use smoltcp::time::{Duration, Instant};

/// So many milliseconds.
pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// So many seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Things that wait for their time.
#[derive(Debug)]
pub struct EventQueue<T> {
    waiting: BTreeMap<(Instant, u64), T>,
    arrivals: u64,
}

impl<T> EventQueue<T> {
    /// An empty queue.
    pub fn new() -> EventQueue<T> {
        EventQueue { waiting: BTreeMap::new(), arrivals: 0 }
    }

    /// Lets `thing` happen at `at`, after whatever was put there before.
    pub fn push(&mut self, at: Instant, thing: T) {
        self.arrivals += 1;
        self.waiting.insert((at, self.arrivals), thing);
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(at, _)| *at)
    }

    /// The first thing whose time has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let entry = self.waiting.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[test]
fn events_come_in_order_of_time_and_then_of_arrival() {
    let mut queue = EventQueue::new();
    queue.push(Instant::from_millis(5), "late");
    queue.push(Instant::from_millis(1), "first");
    queue.push(Instant::from_millis(1), "second");
    assert_eq!(queue.next_at(), Some(Instant::from_millis(1)));
    assert_eq!(queue.pop_due(Instant::ZERO), None);
    let now = Instant::from_millis(4);
    assert_eq!(
        [queue.pop_due(now), queue.pop_due(now), queue.pop_due(now)],
        [Some("first"), Some("second"), None]
    );
    assert_eq!(queue.len(), 1);
}
