//! What passed in one turn, kept until somebody looks at it.
//!
//! Link and sockets each have one while there is a capture. They put down what they see, as it is, cut to what is kept of a
//! packet at most; at the end of the turn it is known which flow each belongs to, and the observers get it. All stages share
//! the room that the observers have in this turn: what does not fit is lost, and counted, and costs no more than that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::host_side::{Happening, LARGEST_PAYLOAD};
use crate::config::limits::CAPTURE_TURN_BYTES;
use crate::observe::pcapng::Direction;
use crate::stack::boundary::{FlowId, ListenerId};
use crate::stack::flow::FlowKey;
use crate::stack::spliced::SplicedId;
use crate::wire::segmentation;
use crate::wire::vnet_header::VNET_HEADER_LEN;

/// Room that a packet takes beside its bytes, in a capture: what stands around it, and headers that are put together.
const BESIDE: usize = 128;
/// Things that one turn may have.
const MOST_SEEN: usize = CAPTURE_TURN_BYTES / 64;

/// What all stages of a worker share: what came first, and the room that is left in this turn.
#[derive(Debug, Clone, Default)]
pub struct Order(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    room: AtomicUsize,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { next: AtomicU64::new(0), room: AtomicUsize::new(CAPTURE_TURN_BYTES) }
    }
}

impl Order {
    /// A turn begins in which so many bytes may be put down.
    pub fn begin(&self, room: usize) {
        self.0.room.store(room.min(CAPTURE_TURN_BYTES), Ordering::Relaxed);
    }

    fn next(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the room of a packet with so many bytes, if there is that much. What has no bytes needs none.
    fn take(&self, bytes: usize) -> bool {
        let room = self.0.room.load(Ordering::Relaxed);
        let needed = if bytes == 0 { 0 } else { bytes + BESIDE };
        // Its stages are used by one thread at a time.
        needed <= room && {
            self.0.room.store(room - needed, Ordering::Relaxed);
            true
        }
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
    /// Of a stream: there was no room for them, so only their number is known.
    pub is_missed: bool,
}

/// Packets that there was no room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// As they passed.
    pub packets: u64,
    /// Where super-segments are to be cut.
    pub pieces: u64,
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
    lost: Lost,
}

impl Stage {
    /// An empty one, which keeps so many bytes of each packet.
    #[must_use]
    pub fn new(order: Order, most: usize) -> Stage {
        Stage { order, micros: 0, most, bytes: Vec::new(), seen: Vec::new(), lost: Lost::default() }
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
        if self.seen.len() >= MOST_SEEN || !self.order.take(kept) {
            let pieces = pieces_of(&sight, original_len);
            self.lost.pieces += pieces;
            self.lost.packets += if matches!(sight, Sight::Frame(..)) { 1 } else { pieces };
            return;
        }
        let start = self.bytes.len();
        for part in parts {
            let left = kept - (self.bytes.len() - start);
            self.bytes.extend_from_slice(&part[..part.len().min(left)]);
        }
        self.push(sight, (start, kept), original_len, false);
    }

    fn push(&mut self, sight: Sight, (start, len): (usize, usize), original_len: usize, is_missed: bool) {
        let (order, micros) = (self.order.next(), self.micros);
        self.seen.push(Seen { order, micros, sight, start, len, original_len, is_missed });
    }

    /// So many frames were lost on the way here.
    pub fn lose(&mut self, frames: u64) {
        self.lost.packets += frames;
        self.lost.pieces += frames;
    }

    /// Puts down bytes of a stream, as many times as they are packets at least. What there is no room for is known by its
    /// length alone, so that the bytes behind it stand at their place.
    pub fn put_stream(&mut self, sight: impl Fn() -> Sight, bytes: &[u8]) {
        // Of packets that are kept whole there may be as many as there must be.
        let each = if self.most < LARGEST_PAYLOAD { LARGEST_PAYLOAD } else { bytes.len().max(1) };
        for part in bytes.chunks(each) {
            let kept = part.len().min(self.most);
            if self.seen.len() < MOST_SEEN && self.order.take(kept) {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(&part[..kept]);
                self.push(sight(), (start, kept), part.len(), false);
            } else {
                self.miss(sight(), part.len());
            }
        }
    }

    /// Bytes of a stream that there is no room for are one thing with those in front of them.
    fn miss(&mut self, sight: Sight, len: usize) {
        let is_full = self.seen.len() >= MOST_SEEN;
        match self.seen.last_mut() {
            Some(last) if last.is_missed && last.sight == sight => last.original_len += len,
            _ if is_full => self.lose(1),
            _ => self.push(sight, (self.bytes.len(), 0), len, true),
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

    /// Forgets it; what it was too much for.
    pub fn clear(&mut self) -> Lost {
        self.seen.clear();
        self.bytes.clear();
        // One turn that was long need not cost memory for ever.
        self.bytes.shrink_to(CAPTURE_TURN_BYTES / 8);
        std::mem::take(&mut self.lost)
    }
}

/// Packets that something stands for, where those that were joined are apart.
fn pieces_of(sight: &Sight, len: usize) -> u64 {
    match sight {
        Sight::Frame(_, header) => segmentation::pieces(header, len) as u64,
        Sight::Socket(_, happening) | Sight::Spliced { happening, .. } => match happening {
            Happening::Datagrams { segment_bytes: Some(each), .. } => {
                len.div_ceil(each.get().into()).max(1) as u64
            }
            _ => 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet_header::{FrameMeta, Segmentation};
    use crate::worker::recorder::host_side::End;

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

    /// What is kept of each, its length, and whether it was missed.
    fn lens(stage: &Stage) -> Vec<(usize, usize, bool)> {
        let one = |seen: &Seen| (stage.bytes_of(seen).len(), seen.original_len, seen.is_missed);
        stage.seen().iter().map(one).collect()
    }

    fn sent(slot: u32) -> Sight {
        Sight::Socket(Whose::Flow(FlowId { slot, generation: 0 }), Happening::Sent(End::Ours))
    }

    #[test]
    fn bytes_of_a_stream_that_are_not_kept_are_counted_all_the_same() {
        let mut cut = Stage::new(Order::default(), 96);
        cut.put_stream(|| sent(1), &[7; 2 * LARGEST_PAYLOAD + 10]);
        assert_eq!(lens(&cut), [(96, LARGEST_PAYLOAD, false), (96, LARGEST_PAYLOAD, false), (10, 10, false)]);
        let order = Order::default();
        order.begin(1_000);
        let mut whole = Stage::new(order.clone(), usize::MAX);
        whole.put_stream(|| sent(1), &[7; 800]);
        whole.put_stream(|| sent(1), &[7; 300]);
        whole.put_stream(|| sent(1), &[7; 500]);
        whole.put_stream(|| sent(2), &[7; 9]);
        whole.put(sent(2), &[]);
        assert_eq!(lens(&whole), [(800, 800, false), (0, 800, true), (0, 9, true), (0, 0, false)]);
        order.begin(1_000);
        whole.put_stream(|| sent(2), &[7; 9]);
        assert_eq!(lens(&whole)[4..], [(9, 9, false)]);
        assert_eq!(whole.clear(), Lost::default());
    }

    #[test]
    fn stages_without_room_copy_nothing_and_count_what_they_lose() {
        let order = Order::default();
        let (mut link, mut sockets) = (Stage::new(order.clone(), 4_000), Stage::new(order.clone(), 4_000));
        order.begin(0);
        let tcp = FrameMeta {
            checksum_partial: true,
            checksum_valid: false,
            segmentation: Some(Segmentation::Tcp { segment_bytes: 1_000, ecn: false }),
        };
        link.put(FRAME, &[&[7; 60]]);
        link.put(Sight::Frame(Direction::Inbound, tcp.encode(false, 34, 20, 16)), &[&[7; 54], &[7; 2_001]]);
        link.lose(5);
        let address = SocketAddr::from(([192, 0, 2, 1], 9));
        let datagrams = Happening::Datagrams {
            local: address,
            peer: address,
            from: End::Ours,
            segment_bytes: std::num::NonZeroU16::new(100),
            hop_limit: 64,
        };
        sockets
            .put_whole(Sight::Socket(Whose::Flow(FlowId { slot: 0, generation: 0 }), datagrams), &[7; 201]);
        for _ in 0..1_000 {
            sockets.put_stream(|| sent(1), &[7; 100_000]);
        }
        // What began and ended is seen all the same: the bytes behind it must stand at their place.
        sockets.put_whole(sent(1), &[]);
        assert_eq!((link.bytes.capacity(), sockets.bytes.capacity()), (0, 0));
        assert_eq!(lens(&sockets), [(0, 100_000_000, true), (0, 0, false)]);
        assert_eq!(link.clear(), Lost { packets: 7, pieces: 9 });
        assert_eq!(sockets.clear(), Lost { packets: 3, pieces: 3 });
        // What one has taken the other has no longer.
        order.begin(1_000);
        link.put(FRAME, &[&[7; 1_000 - BESIDE]]);
        sockets.put_stream(|| sent(1), &[7]);
        assert_eq!(lens(&sockets), [(0, 1, true)]);
    }

    #[test]
    fn a_turn_has_a_bound_and_what_is_beyond_it_is_counted() {
        let order = Order::default();
        order.begin(usize::MAX);
        let mut stage = Stage::new(order, 1 << 20);
        let frame = vec![0; 64 << 10];
        let most = CAPTURE_TURN_BYTES / (frame.len() + BESIDE);
        for _ in 0..most + 5 {
            stage.put(FRAME, &[&frame]);
        }
        assert_eq!((stage.seen().len(), stage.clear().packets, stage.seen().len()), (most, 5, 0));
        for _ in 0..MOST_SEEN + 3 {
            stage.put(FRAME, &[]);
        }
        assert_eq!(stage.clear().packets, 3);
    }
}
