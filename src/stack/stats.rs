//! Counters of one stack. They only grow; rates are the reader's business.

use super::drop_reason::DropReason;

/// Counters since the stack was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames read from the link, super-frames counted once.
    pub frames_from_container: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes_from_container: u64,
    /// Idle flows given up for new ones.
    pub flows_evicted: u64,
    drops: [u64; DropReason::COUNT],
}

impl Stats {
    /// Counts one thing that was not carried.
    pub fn record(&mut self, reason: DropReason) {
        self.record_many(reason, 1);
    }

    /// Counts several.
    pub fn record_many(&mut self, reason: DropReason, count: u64) {
        self.drops[reason.index()] += count;
    }

    /// Counts a frame of `bytes` bytes that was read.
    pub fn record_from_container(&mut self, bytes: usize) {
        self.frames_from_container += 1;
        self.bytes_from_container += bytes as u64;
    }

    /// Counts a flow that gave way.
    pub fn record_eviction(&mut self) {
        self.flows_evicted += 1;
    }

    /// How often this was the reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Every reason that occurred, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DropReason::NAMES.iter().copied().zip(self.drops).filter(|(_, count)| *count > 0)
    }
}
