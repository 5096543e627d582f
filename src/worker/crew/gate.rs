//! How many clients of published ports may be on their way into the container, whichever worker they belong to.
//!
//! The leader counts a client in when it hands him over, the owner counts him out when the container has accepted or
//! refused him. Two limits, those that a single worker has for them: of one port, and of all.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Limits;
use crate::stack::boundary::ListenerId;

/// Handshakes with the container that its clients have begun, but for the leader's own.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    limit_per_port: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    of_port: BTreeMap<u32, usize>,
    total: usize,
    /// Somebody was not let in.
    is_awaited: bool,
}

impl Gate {
    /// Nobody is under way.
    pub fn new(limits: &Limits) -> Gate {
        Gate {
            limit: limits.half_open,
            limit_per_port: limits.opening_per_port,
            counts: Mutex::new(Counts::default()),
        }
    }

    /// A panic while it was held has left numbers.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more client of a port may come; `own` are those whom the leader keeps itself. If not, the next
    /// [`Gate::release`] tells that somebody waits for it.
    pub fn has_room(&self, listener: ListenerId, own: usize) -> bool {
        let mut counts = self.counts();
        let of_port = counts.of_port.get(&listener.0).copied().unwrap_or(0);
        let has_room = counts.total < self.limit && of_port + own < self.limit_per_port;
        counts.is_awaited |= !has_room;
        has_room
    }

    /// One is on his way.
    pub fn count(&self, listener: ListenerId) {
        let mut counts = self.counts();
        counts.total += 1;
        *counts.of_port.entry(listener.0).or_default() += 1;
    }

    /// So many are in, or gone. Whether somebody waits for that.
    pub fn release(&self, listener: ListenerId, count: usize) -> bool {
        let mut counts = self.counts();
        counts.total = counts.total.saturating_sub(count);
        if let Some(of_port) = counts.of_port.get_mut(&listener.0) {
            *of_port = of_port.saturating_sub(count);
            if *of_port == 0 {
                counts.of_port.remove(&listener.0);
            }
        }
        std::mem::take(&mut counts.is_awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUNG: ListenerId = ListenerId(1);
    const OTHER: ListenerId = ListenerId(2);

    #[test]
    fn a_port_has_its_share_over_all_workers_and_who_waits_is_told_once() {
        let limits = Limits { half_open: 5, opening_per_port: 3, ..Limits::default() };
        let gate = Gate::new(&limits);
        gate.count(HUNG);
        gate.count(HUNG);
        assert!(gate.has_room(HUNG, 0));
        assert!(!gate.release(OTHER, 0), "nobody waits yet");
        assert!(!gate.has_room(HUNG, 1), "the leader has one of its own");
        assert!(gate.has_room(OTHER, 1));
        gate.count(OTHER);
        assert!(gate.release(HUNG, 1));
        assert!(!gate.release(HUNG, 1), "it has been told");
        assert!(gate.has_room(HUNG, 1));
    }

    #[test]
    fn all_ports_have_a_limit_together() {
        let limits = Limits { half_open: 2, opening_per_port: 2, ..Limits::default() };
        let gate = Gate::new(&limits);
        gate.count(HUNG);
        gate.count(OTHER);
        assert!(!gate.has_room(ListenerId(3), 0));
        assert!(gate.release(OTHER, 1));
        assert!(gate.has_room(ListenerId(3), 0));
    }
}
