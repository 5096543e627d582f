//! The link as a bad one: what its two directions hold back ([`crate::stack::impair`]).
//!
//! Super-segments are cut before they are judged, so that each packet has its own fate, and what leaves here toward
//! the container are packets of the MTU, each by a call of its own. That is what an impaired link costs; one that is not
//! costs a question for each frame.

use crate::config::limits::ImpairLimits;
use crate::config::{Impairment, Impairments};
use crate::stack::boundary::Instant;
use crate::stack::impair::{ImpairStats, ImpairedWay};
use crate::wire::segmentation;
use crate::wire::vnet_header::VNET_HEADER_LEN;

/// Both directions.
#[derive(Debug)]
pub struct Impaired {
    /// From the container.
    pub up: ImpairedWay,
    /// To the container.
    pub down: ImpairedWay,
    scratch: Vec<u8>,
}

impl Impaired {
    /// Ways with nothing on them.
    #[must_use]
    pub fn new(limits: ImpairLimits, seed: u64) -> Impaired {
        let way = |seed| ImpairedWay::new(Impairment::default(), limits, seed);
        Impaired { up: way(seed), down: way(seed.rotate_left(32) ^ 1), scratch: Vec::new() }
    }

    /// Changes how packets fare from now on.
    pub fn change(&mut self, how: Impairments) {
        self.up.change(how.up);
        self.down.change(how.down);
    }

    /// How packets fare.
    #[must_use]
    pub fn how(&self) -> Impairments {
        Impairments { up: *self.up.how(), down: *self.down.how() }
    }

    /// What became of packets: from the container, to the container.
    #[must_use]
    pub fn stats(&self) -> (ImpairStats, ImpairStats) {
        (self.up.stats(), self.down.stats())
    }

    /// Whether everything passes as it comes, and nothing is left on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.up.is_idle() && self.down.is_idle()
    }

    /// Sets a frame of the container's on its way.
    pub fn admit_up(&mut self, header: &[u8], frame: &[u8], now: Instant) {
        admit(&mut self.up, &mut self.scratch, header, frame, now);
    }

    /// Sets a frame for the container on its way.
    pub fn admit_down(&mut self, header: &[u8], frame: &[u8], now: Instant) {
        admit(&mut self.down, &mut self.scratch, header, frame, now);
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.up.poll_timeout(), self.down.poll_timeout()].into_iter().flatten().min()
    }
}

fn admit(way: &mut ImpairedWay, scratch: &mut Vec<u8>, header: &[u8], frame: &[u8], now: Instant) {
    if segmentation::is_super_segment(header) {
        segmentation::cut(header, frame, scratch, |packet| way.admit(&[0; VNET_HEADER_LEN], packet, now));
    } else {
        way.admit(header, frame, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet_header::{FrameMeta, Segmentation};
    use etherparse::PacketBuilder;

    #[test]
    fn each_packet_of_a_super_segment_has_its_own_fate() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .tcp(4_000, 80, 1, 500);
        builder.write(&mut frame, &[7; 60_000]).unwrap();
        let meta = FrameMeta {
            checksum_partial: true,
            checksum_valid: false,
            segmentation: Some(Segmentation::Tcp { segment_bytes: 1_000, ecn: false }),
        };
        let header = meta.encode(false, 34, 20, 16);
        let mut impaired = Impaired::new(ImpairLimits::default(), 9);
        impaired.change("loss=10%".parse().unwrap());
        for _ in 0..100 {
            impaired.admit_up(&header, &frame, Instant::ZERO);
        }
        let (up, down) = impaired.stats();
        assert_eq!((up.packets, down.packets), (6_000, 0));
        // Five standard deviations.
        assert!((600 - 117..=600 + 117).contains(&up.lost), "{}", up.lost);
        let mut arrived = 0;
        while let Some(packet) = impaired.up.poll(Instant::ZERO) {
            assert_eq!((packet.len(), &packet[..10]), (10 + 54 + 1_000, &[0; 10][..]));
            arrived += 1;
        }
        assert_eq!(arrived, 6_000 - up.lost);
    }
}
