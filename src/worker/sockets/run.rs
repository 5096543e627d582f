//! Datagrams that follow each other to the same peer leave in one call.
//!
//! A sender without segmentation of its own gives the link one frame for each datagram. Those that are read in one turn
//! and leave the same way are gathered, and the kernel cuts them again (`UDP_SEGMENT`): each datagram leaves as it came.
//! Nothing waits longer than the turn lasts.

use std::num::NonZeroU16;

use crate::stack::boundary::{DatagramPort, DatagramSend};
use crate::sys::socket::datagram::{MAX_JOINED_BYTES, MAX_SEGMENTS};

/// Most bytes of a run; the kernel takes no more than a datagram may have.
const MAX_RUN_BYTES: usize = 65_000;

/// Datagrams that wait for the end of the turn. All but the last are of the same size, and none is empty.
#[derive(Debug, Default)]
pub struct Run {
    bytes: Vec<u8>,
    count: usize,
    segment_bytes: usize,
    /// The last was shorter, and ends it.
    is_ended: bool,
    way: Option<(DatagramPort, DatagramSend)>,
}

/// A run that is to leave now.
#[derive(Debug)]
pub struct Departure {
    /// By which socket.
    pub port: DatagramPort,
    /// How, the size of its datagrams included.
    pub how: DatagramSend,
    /// How many datagrams.
    pub count: u64,
    /// All of them; to be given back to [`Run::give_back`].
    pub bytes: Vec<u8>,
}

impl Run {
    /// Whether such a datagram may wait for others at all.
    pub fn may_wait(bytes: &[u8], how: &DatagramSend) -> bool {
        how.segment_bytes.is_none() && (1..=MAX_JOINED_BYTES).contains(&bytes.len())
    }

    /// Adds a datagram that may wait; false if it does not belong to those that do, which are to leave first.
    pub fn add(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> bool {
        if self.way.is_none() {
            self.way = Some((port, *how));
            self.segment_bytes = bytes.len();
        }
        let fits = self.way == Some((port, *how))
            && !self.is_ended
            && bytes.len() <= self.segment_bytes
            && self.count < MAX_SEGMENTS
            && self.bytes.len() + bytes.len() <= MAX_RUN_BYTES;
        if fits {
            self.bytes.extend_from_slice(bytes);
            self.count += 1;
            self.is_ended = bytes.len() < self.segment_bytes;
        }
        fits
    }

    /// Takes those that wait, if there are any.
    pub fn take(&mut self) -> Option<Departure> {
        let (port, mut how) = self.way.take()?;
        if self.count > 1 {
            how.segment_bytes = u16::try_from(self.segment_bytes).ok().and_then(NonZeroU16::new);
        }
        self.is_ended = false;
        let count = std::mem::take(&mut self.count) as u64;
        Some(Departure { port, how, count, bytes: std::mem::take(&mut self.bytes) })
    }

    /// Keeps the memory of a departure for the next.
    pub fn give_back(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::boundary::ListenerId;

    const PORT: DatagramPort = DatagramPort::Listener(ListenerId(1));
    const HOW: DatagramSend = DatagramSend {
        to: None,
        from: None,
        segment_bytes: None,
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: false,
    };

    #[test]
    fn equal_datagrams_on_the_same_way_become_one_run() {
        let mut run = Run::default();
        assert!(run.take().is_none());
        assert!(run.add(PORT, b"aaaa", &HOW) && run.add(PORT, b"bbbb", &HOW) && run.add(PORT, b"cc", &HOW));
        assert!(!run.add(PORT, b"d", &HOW), "the shorter one was the last");
        let departure = run.take().unwrap();
        assert_eq!((departure.bytes.as_slice(), departure.count), (&b"aaaabbbbcc"[..], 3));
        assert_eq!(departure.how.segment_bytes, NonZeroU16::new(4));
        run.give_back(departure.bytes);
        assert!(run.take().is_none());
    }

    #[test]
    fn what_differs_in_size_or_way_waits_for_its_own() {
        let others = [
            (PORT, &b"longer"[..], HOW),
            (DatagramPort::Listener(ListenerId(2)), b"bbbb", HOW),
            (PORT, b"bbbb", DatagramSend { hop_limit: 1, ..HOW }),
        ];
        for (port, bytes, how) in others {
            let mut run = Run::default();
            assert!(run.add(PORT, b"aaaa", &HOW));
            assert!(!run.add(port, bytes, &how));
            let departure = run.take().unwrap();
            assert_eq!((departure.count, departure.how.segment_bytes), (1, None), "one is no run");
            run.give_back(departure.bytes);
            assert!(run.add(port, bytes, &how));
        }
    }

    #[test]
    fn a_run_has_an_end() {
        let mut run = Run::default();
        let added = (0..100).take_while(|_| run.add(PORT, &[0; 64], &HOW)).count();
        assert_eq!(added, MAX_SEGMENTS);
        let mut run = Run::default();
        let added = (0..100).take_while(|_| run.add(PORT, &[0; 1_400], &HOW)).count();
        assert_eq!(added, MAX_RUN_BYTES / 1_400);
        let segments = NonZeroU16::new(64);
        assert!(!Run::may_wait(&[], &HOW) && !Run::may_wait(&[0; 1_473], &HOW));
        assert!(!Run::may_wait(&[0; 640], &DatagramSend { segment_bytes: segments, ..HOW }));
    }
}
