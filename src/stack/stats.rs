//! What one worker's core has counted since it began. Plain numbers: whoever shows them adds the workers up.

use super::boundary::FrameSink;
use super::drop_reason::DropReason;
use super::flow::FlowProtocol;
use crate::wire::ip::ETHERNET_HEADER_LEN;
use crate::wire::vnet_header::VNET_HEADER_LEN;

/// Flows of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Flows that came to be.
    pub opened: u64,
    /// Flows that are no more, the evicted ones included.
    pub closed: u64,
    /// Flows given up to make room.
    pub evicted: u64,
}

impl FlowCounts {
    /// Flows that exist now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}

/// Frames and their bytes in one direction, Ethernet headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames; a super-segment is one.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one frame of `bytes`.
    pub fn record(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    /// Adds another count.
    pub fn add(&mut self, other: Traffic) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }

    /// The same frames as IP packets.
    #[must_use]
    pub fn without_link_headers(self) -> Traffic {
        let headers = self.frames * ETHERNET_HEADER_LEN as u64;
        Traffic { frames: self.frames, bytes: self.bytes.saturating_sub(headers) }
    }

    /// Takes another count out again.
    pub fn subtract(&mut self, other: Traffic) {
        self.frames = self.frames.saturating_sub(other.frames);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// A sink that counts what passes through it on its way to another.
#[derive(Debug)]
pub struct CountedFrames<'a, F> {
    frames: &'a mut F,
    sent: &'a mut Traffic,
}

impl<'a, F> CountedFrames<'a, F> {
    /// In front of `frames`; what passes is added to `sent`.
    pub fn new(frames: &'a mut F, sent: &'a mut Traffic) -> Self {
        CountedFrames { frames, sent }
    }
}

impl<F: FrameSink> FrameSink for CountedFrames<'_, F> {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.frames.reserve(len)
    }

    fn commit(&mut self, len: usize, header: [u8; VNET_HEADER_LEN]) {
        self.sent.record(len);
        self.frames.commit(len, header);
    }

    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]) {
        self.sent.record(len + payload[0].len() + payload[1].len());
        self.frames.commit_gathered(len, payload, header);
    }
}

/// The counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// What the container sent.
    pub from_container: Traffic,
    /// What it was sent.
    pub to_container: Traffic,
    /// TCP segments that it was sent again.
    pub tcp_retransmissions: u64,
    drops: [u64; DropReason::COUNT],
    flows: [FlowCounts; FlowProtocol::ALL.len()],
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            from_container: Traffic::default(),
            to_container: Traffic::default(),
            tcp_retransmissions: 0,
            drops: [0; DropReason::COUNT],
            flows: [FlowCounts::default(); FlowProtocol::ALL.len()],
        }
    }
}

impl Stats {
    /// Flows of all protocols given up to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.flows.iter().map(|counts| counts.evicted).sum()
    }

    /// Counts a drop.
    pub fn record(&mut self, reason: DropReason) {
        self.record_many(reason, 1);
    }

    /// Counts `count` drops for the same reason.
    pub fn record_many(&mut self, reason: DropReason, count: u64) {
        debug_assert!(reason.index() < DropReason::COUNT, "{reason:?} is missing in DropReason::ALL");
        if let Some(drops) = self.drops.get_mut(reason.index()) {
            *drops += count;
        }
    }

    /// Drops for this reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Drops for all reasons, zero counts included, each under one example of its kind.
    pub fn iter_drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    /// Counts a flow that came to be.
    pub fn flow_opened(&mut self, protocol: FlowProtocol) {
        self.flows[protocol.index()].opened += 1;
    }

    /// Counts a flow that is no more.
    pub fn flow_closed(&mut self, protocol: FlowProtocol) {
        self.flows[protocol.index()].closed += 1;
    }

    /// Counts that a flow is given up to make room; its end is counted by [`Self::flow_closed`].
    pub fn flow_evicted(&mut self, protocol: FlowProtocol) {
        self.flows[protocol.index()].evicted += 1;
    }

    /// Flows of one protocol.
    #[must_use]
    pub fn flows(&self, protocol: FlowProtocol) -> FlowCounts {
        self.flows[protocol.index()]
    }

    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Stats) {
        self.from_container.add(other.from_container);
        self.to_container.add(other.to_container);
        self.tcp_retransmissions += other.tcp_retransmissions;
        for (to, from) in self.drops.iter_mut().zip(other.drops) {
            *to += from;
        }
        for (to, from) in self.flows.iter_mut().zip(other.flows) {
            to.opened += from.opened;
            to.closed += from.closed;
            to.evicted += from.evicted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::FrameError;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let mut stats = Stats::default();
        for (count, reason) in DropReason::ALL.into_iter().enumerate() {
            stats.record_many(reason, count as u64);
            stats.record(reason);
        }
        for (count, (reason, drops)) in stats.iter_drops().enumerate() {
            assert_eq!(drops, count as u64 + 1, "{reason:?}");
            assert_eq!(stats.drops(reason), drops);
        }
    }

    #[test]
    fn workers_add_up() {
        let mut stats = Stats::default();
        stats.from_container.record(60);
        stats.record(DropReason::Frame(FrameError::UnknownEthertype(7)));
        stats.flow_opened(FlowProtocol::Udp);
        stats.flow_opened(FlowProtocol::Udp);
        stats.flow_evicted(FlowProtocol::Udp);
        stats.flow_closed(FlowProtocol::Udp);
        let mut sum = stats.clone();
        sum.add(&stats);
        assert_eq!(sum.from_container, Traffic { frames: 2, bytes: 120 });
        assert_eq!(sum.drops(DropReason::Frame(FrameError::UnknownEthertype(0))), 2);
        assert_eq!(sum.flows(FlowProtocol::Udp), FlowCounts { opened: 4, closed: 2, evicted: 2 });
        assert_eq!(sum.flows(FlowProtocol::Udp).open(), 2);
        assert_eq!(sum.flows(FlowProtocol::Tcp), FlowCounts::default());
    }
}
