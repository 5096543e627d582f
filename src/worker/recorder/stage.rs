//! What passed in one turn, kept until somebody looks at it.
//!
//! Link and sockets each have one while there is a capture. They put down what they see, as it is, cut to what is kept of a
//! packet at most; at the end of the turn it is known which flow each belongs to, and the observers get it. Where a turn has
//! more than fits ([`CAPTURE_TURN_BYTES`]) the rest is lost, and counted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::host_side::{Happening, LARGEST_PAYLOAD};
use crate::config::limits::CAPTURE_TURN_BYTES;
use crate::observe::pcapng::Direction;
use crate::stack::boundary::{FlowId, ListenerId};
use crate::stack::flow::FlowKey;
use crate::stack::spliced::SplicedId;
use crate::wire::vnet_header::VNET_HEADER_LEN;

/// Tells what came first, over all stages of a worker.
#[derive(Debug, Clone, Default)]
pub struct Order(Arc<AtomicU64>);

impl Order {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whose socket it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A flow's own.
    Flow(FlowId),
    /// A published port's: this client's, who came to this address.
    Client(ListenerId, SocketAddr, Option<IpAddr>),
}

/// On which side of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the container.
    Container,
    /// On the host.
    Host,
}

impl Place {
    /// The other side.
    #[must_use]
    pub fn other(self) -> Place {
        match self {
            Place::Container => Place::Host,
            Place::Host => Place::Container,
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A frame on the link, with its virtio-net header; outbound is from the container.
    Frame(Direction, [u8; VNET_HEADER_LEN]),
    /// Something that happened to a socket of the host.
    Socket(Whose, Happening),
    /// Something that happened to one of the two sockets of what is spliced.
    Spliced {
        /// Its name.
        id: SplicedId,
        /// Its ends as the container sees them.
        key: FlowKey,
        /// Where the socket is.
        place: Place,
        /// What happened.
        happening: Happening,
    },
}

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its place among all.
    pub order: u64,
    /// When, since the beginning.
    pub micros: u64,
    /// What.
    pub sight: Sight,
    start: usize,
    len: usize,
    /// Bytes that there were.
    pub original_len: usize,
}

/// What one place has seen.
#[derive(Debug)]
pub struct Stage {
    order: Order,
    micros: u64,
    /// What is kept of each.
    most: usize,
    bytes: Vec<u8>,
    seen: Vec<Seen>,
    lost: u64,
}

impl Stage {
    /// An empty one, which keeps so many bytes of each packet.
    #[must_use]
    pub fn new(order: Order, most: usize) -> Stage {
        Stage { order, micros: 0, most, bytes: Vec::new(), seen: Vec::new(), lost: 0 }
    }

    /// Keeps so many bytes of each packet from now on.
    pub fn keep(&mut self, most: usize) {
        self.most = most;
    }

    /// It is this late now.
    pub fn tick(&mut self, micros: u64) {
        self.micros = micros;
    }

    /// Puts something down, with its bytes in their parts.
    pub fn put(&mut self, sight: Sight, parts: &[&[u8]]) {
        self.put_up_to(self.most, sight, parts);
    }

    /// The same, whatever is kept of a packet: these bytes are several, or are put together only later.
    pub fn put_whole(&mut self, sight: Sight, bytes: &[u8]) {
        self.put_up_to(usize::MAX, sight, &[bytes]);
    }

    fn put_up_to(&mut self, most: usize, sight: Sight, parts: &[&[u8]]) {
        let original_len: usize = parts.iter().map(|part| part.len()).sum();
        let kept = original_len.min(most);
        if self.bytes.len() + kept > CAPTURE_TURN_BYTES || self.seen.len() >= CAPTURE_TURN_BYTES / 64 {
            self.lost += 1;
            return;
        }
        let start = self.bytes.len();
        for part in parts {
            let left = kept - (self.bytes.len() - start);
            self.bytes.extend_from_slice(&part[..part.len().min(left)]);
        }
        let seen =
            Seen { order: self.order.next(), micros: self.micros, sight, start, len: kept, original_len };
        self.seen.push(seen);
    }

    /// So many were lost on the way here.
    pub fn lose(&mut self, count: u64) {
        self.lost += count;
    }

    /// Puts down bytes of a stream, as many times as they are packets at least. What there is no room for is known by its
    /// length alone, so that the bytes behind it stand at their place.
    pub fn put_stream(&mut self, sight: impl Fn() -> Sight, bytes: &[u8]) {
        // Of packets that are kept whole there may be as many as there must be.
        let each = if self.most < LARGEST_PAYLOAD { LARGEST_PAYLOAD } else { bytes.len().max(1) };
        for part in bytes.chunks(each) {
            if self.seen.len() >= CAPTURE_TURN_BYTES / 64 {
                self.lost += 1;
                return;
            }
            let room = CAPTURE_TURN_BYTES.saturating_sub(self.bytes.len());
            let (start, len) = (self.bytes.len(), part.len().min(self.most).min(room));
            self.bytes.extend_from_slice(&part[..len]);
            let (order, micros, original_len) = (self.order.next(), self.micros, part.len());
            self.seen.push(Seen { order, micros, sight: sight(), start, len, original_len });
        }
    }

    /// What was seen, in its order.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// What is kept of the bytes.
    #[must_use]
    pub fn bytes_of(&self, seen: &Seen) -> &[u8] {
        &self.bytes[seen.start..seen.start + seen.len]
    }

    /// Forgets it; how many it was too much for.
    pub fn clear(&mut self) -> u64 {
        self.seen.clear();
        self.bytes.clear();
        // One turn that was long need not cost memory for ever.
        self.bytes.shrink_to(CAPTURE_TURN_BYTES / 8);
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Sight = Sight::Frame(Direction::Outbound, [0; VNET_HEADER_LEN]);

    #[test]
    fn parts_are_put_together_and_cut() {
        let mut stage = Stage::new(Order::default(), 6);
        stage.tick(7);
        stage.put(FRAME, &[b"abcd", b"efgh", b"ij"]);
        stage.put(FRAME, &[b"xyz"]);
        let seen = stage.seen();
        assert_eq!((stage.bytes_of(&seen[0]), seen[0].original_len, seen[0].micros), (&b"abcdef"[..], 10, 7));
        assert_eq!((stage.bytes_of(&seen[1]), seen[1].original_len), (&b"xyz"[..], 3));
        assert!(seen[0].order < seen[1].order);
    }

    #[test]
    fn bytes_of_a_stream_that_are_not_kept_are_counted_all_the_same() {
        let sight = || Sight::Frame(Direction::Outbound, [0; VNET_HEADER_LEN]);
        let lens = |stage: &Stage| -> Vec<(usize, usize)> {
            stage.seen().iter().map(|seen| (stage.bytes_of(seen).len(), seen.original_len)).collect()
        };
        let mut cut = Stage::new(Order::default(), 96);
        cut.put_stream(sight, &[7; 2 * LARGEST_PAYLOAD + 10]);
        assert_eq!(lens(&cut), [(96, LARGEST_PAYLOAD), (96, LARGEST_PAYLOAD), (10, 10)]);
        let mut whole = Stage::new(Order::default(), usize::MAX);
        let bytes = vec![7; CAPTURE_TURN_BYTES - 5];
        whole.put_stream(sight, &bytes);
        whole.put_stream(sight, &[7; 9]);
        whole.put_stream(sight, &[7; 9]);
        assert_eq!(lens(&whole), [(bytes.len(), bytes.len()), (5, 9), (0, 9)]);
        assert_eq!(whole.clear(), 0);
    }

    #[test]
    fn a_turn_has_a_bound_and_what_is_beyond_it_is_counted() {
        let mut stage = Stage::new(Order::default(), 1 << 20);
        let frame = vec![0; 64 << 10];
        let most = CAPTURE_TURN_BYTES / frame.len();
        for _ in 0..most + 5 {
            stage.put(FRAME, &[&frame]);
        }
        assert_eq!((stage.seen().len(), stage.clear(), stage.seen().len()), (most, 5, 0));
        for _ in 0..CAPTURE_TURN_BYTES / 64 + 3 {
            stage.put(FRAME, &[]);
        }
        assert_eq!(stage.clear(), 3);
    }
}
