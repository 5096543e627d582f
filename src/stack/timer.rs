//! Deadlines of flows: one heap, lazily corrected.
//!
//! A flow asks to be woken no later than some instant. Moving a deadline later costs nothing: the flow is woken
//! at the old one, finds that nothing is due, and asks again. So the common case, a packet that pushes an idle
//! timeout further away, never touches the heap.
//!
//! What flows that are gone had asked for stays until it is due, or until such entries are most of the heap: then
//! they are swept out, so that connections opened and closed in a row cost no more memory than those that live.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::boundary::{FlowId, Instant};

/// Entries that are never worth a sweep.
const FEW: usize = 1_024;
/// A sweep is due when there are so many entries to a living flow: it pays for itself.
const CROWD: usize = 4;

/// When a flow is due to be woken; kept inside the flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarm(Option<Instant>);

/// All alarms of one worker.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl Timers {
    /// Makes sure that `flow` is woken at `deadline` or before.
    pub fn wake_by(&mut self, flow: FlowId, alarm: &mut Alarm, deadline: Instant) {
        if alarm.0.is_none_or(|armed| deadline < armed) {
            alarm.0 = Some(deadline);
            self.heap.push(Reverse((deadline, flow.slot, flow.generation)));
        }
    }

    /// Entries, those of flows that are gone included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Whether most entries must be of nobody, when so many flows live.
    #[must_use]
    pub fn is_crowded(&self, flows: usize) -> bool {
        self.heap.len() > FEW + CROWD * flows
    }

    /// Forgets the entries that are not in force.
    pub fn sweep(&mut self, is_in_force: impl Fn(FlowId, Instant) -> bool) {
        self.heap.retain(|Reverse((at, slot, generation))| {
            is_in_force(FlowId { slot: *slot, generation: *generation }, *at)
        });
        self.heap.shrink_to(FEW.max(2 * self.heap.len()));
    }

    /// The earliest instant at which somebody may be due.
    #[must_use]
    pub fn earliest(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the next alarm that is due. The caller confirms it against the flow's own [`Alarm`].
    pub fn pop_due(&mut self, now: Instant) -> Option<(FlowId, Instant)> {
        let Reverse((at, slot, generation)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((FlowId { slot, generation }, at))
    }
}

impl Alarm {
    /// Whether it is set for `at`.
    #[must_use]
    pub fn is_set_for(&self, at: Instant) -> bool {
        self.0 == Some(at)
    }

    /// Whether the alarm that rang at `at` is the one in force; if so it is spent.
    pub fn ring(&mut self, at: Instant) -> bool {
        let in_force = self.0 == Some(at);
        if in_force {
            self.0 = None;
        }
        in_force
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowId = FlowId { slot: 3, generation: 7 };

    #[test]
    fn a_later_deadline_costs_no_entry_and_an_earlier_one_wins() {
        let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
        timers.wake_by(FLOW, &mut alarm, Instant::from_secs(10));
        timers.wake_by(FLOW, &mut alarm, Instant::from_secs(20));
        assert_eq!(timers.heap.len(), 1);
        timers.wake_by(FLOW, &mut alarm, Instant::from_secs(5));
        assert_eq!(timers.earliest(), Some(Instant::from_secs(5)));
        assert_eq!(timers.pop_due(Instant::from_secs(4)), None);
        let (flow, at) = timers.pop_due(Instant::from_secs(10)).expect("due");
        assert_eq!(flow, FLOW);
        assert!(alarm.ring(at));
        let (_, stale) = timers.pop_due(Instant::from_secs(10)).expect("the older entry is still there");
        assert!(!alarm.ring(stale), "a stale entry rings for nobody");
    }
}
