//! What each worker lets the others know of itself at the end of a turn.

use std::borrow::Cow;

use super::held;
use crate::stack::stats::Stats;
use crate::worker::Worker;

/// One worker's.
#[derive(Debug, Default)]
pub struct Counted {
    pub stats: Stats,
    pub gauges: Gauges,
}

/// How things are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Flows, with those that only rest.
    pub flows: usize,
    /// Of these, connections whose handshake is under way.
    pub half_open: usize,
    /// What the buffers of TCP are charged with.
    pub tcp_buffer_bytes: usize,
    /// Frames that the interface had no room for; they are not among the statistics of the core.
    pub lost_frames: u64,
}

impl Gauges {
    fn add(&mut self, other: Gauges) {
        self.flows += other.flows;
        self.half_open += other.half_open;
        self.tcp_buffer_bytes += other.tcp_buffer_bytes;
        self.lost_frames += other.lost_frames;
    }
}

impl Worker {
    /// What all workers of the interface have counted.
    pub fn stats(&self) -> Cow<'_, Stats> {
        let own = self.stack.stats();
        let Some(member) = &self.member else { return Cow::Borrowed(own) };
        let mut sum = own.clone();
        member.others().for_each(|other| sum.add(&held(&member.crew.counted[other]).stats));
        Cow::Owned(sum)
    }

    /// How things are with all workers of the interface.
    pub fn gauges(&self) -> Gauges {
        let mut sum = self.own_gauges();
        if let Some(member) = &self.member {
            member.others().for_each(|other| sum.add(held(&member.crew.counted[other]).gauges));
        }
        sum
    }

    fn own_gauges(&self) -> Gauges {
        Gauges {
            flows: self.stack.flow_count(),
            half_open: self.stack.half_open_count(),
            tcp_buffer_bytes: self.stack.tcp_buffer_bytes(),
            lost_frames: self.link.dropped(),
        }
    }

    /// Lets the others know.
    pub(super) fn note_counted(&self) {
        if let Some(member) = self.member.as_ref().filter(|member| !member.is_leader()) {
            let mut counted = held(&member.crew.counted[member.own]);
            self.stack.stats().clone_into(&mut counted.stats);
            counted.gauges = self.own_gauges();
        }
    }
}
