//! Bytes in order, in a ring that is no larger than what it holds needs: an empty queue has no memory.
//!
//! Two bounds hold it: its capacity, which is what the other side is told, and the memory it may take now, which is
//! whatever all flows together have left.

/// A queue of bytes with a bound.
#[derive(Debug)]
pub struct ByteQueue {
    ring: Box<[u8]>,
    start: usize,
    len: usize,
    capacity: usize,
    /// Bytes that the ring may have now.
    memory_limit: usize,
}

impl ByteQueue {
    /// Smallest ring that is made.
    const LEAST_BYTES: usize = 2 << 10;

    /// An empty one for up to `capacity` bytes.
    pub fn new(capacity: usize) -> ByteQueue {
        ByteQueue { ring: Box::default(), start: 0, len: 0, capacity, memory_limit: capacity }
    }

    /// Bytes of its ring.
    #[inline]
    pub fn memory(&self) -> usize {
        self.ring.len()
    }

    /// Lets the ring become so large from now on; one that is larger stays.
    #[inline]
    pub fn limit_memory(&mut self, bytes: usize) {
        self.memory_limit = bytes.max(self.ring.len()).min(self.capacity);
    }

    /// Bytes it can take now.
    #[inline]
    pub fn room(&self) -> usize {
        self.memory_limit.saturating_sub(self.len)
    }

    /// Bytes it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The first bytes that stand side by side.
    pub fn front(&self) -> &[u8] {
        let end = (self.start + self.len).min(self.ring.len());
        &self.ring[self.start..end]
    }

    /// Gives up the first `count` bytes, which it holds.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        if count > 0 {
            self.start = (self.start + count) % self.ring.len();
        }
    }

    /// Whether it has a ring.
    #[inline]
    pub fn has_memory(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Gives up its ring, and whatever is ahead in it, where it holds nothing.
    pub fn shrink(&mut self) {
        if self.len == 0 {
            self.ring = Box::default();
            self.start = 0;
        }
    }

    /// Lets `fill` write up to `most` bytes behind the last; it says how many it did. Not for a queue that is written
    /// ahead: an empty one begins anew.
    pub fn append_with(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let most = most.min(self.room());
        if self.len == 0 {
            self.start = 0;
        }
        self.grow(self.len + most);
        let at = self.position(self.len);
        let side_by_side = most.min(self.ring.len() - at);
        let filled = fill(&mut self.ring[at..at + side_by_side]);
        self.len += filled.min(side_by_side);
    }

    /// Puts `bytes` at `offset` from the first, possibly beyond the last, without making them part of the queue:
    /// [`Self::extend`] does. What there is no room for is left out; returns how many bytes were kept.
    pub fn write_ahead(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let kept = bytes.len().min(self.memory_limit.saturating_sub(offset));
        if kept == 0 {
            return 0;
        }
        self.grow(offset + kept);
        let at = self.position(offset);
        let side_by_side = kept.min(self.ring.len() - at);
        self.ring[at..at + side_by_side].copy_from_slice(&bytes[..side_by_side]);
        self.ring[..kept - side_by_side].copy_from_slice(&bytes[side_by_side..kept]);
        kept
    }

    /// Makes `count` bytes that were written ahead part of the queue.
    pub fn extend(&mut self, count: usize) {
        debug_assert!(self.len + count <= self.ring.len(), "nothing was written there");
        self.len = (self.len + count).min(self.ring.len());
    }

    /// Moves the place of the first byte on while the queue is empty: what was written ahead comes nearer.
    pub fn skip(&mut self, count: usize) {
        debug_assert_eq!(self.len, 0, "bytes would be lost");
        if !self.ring.is_empty() {
            self.start = (self.start + count) % self.ring.len();
        }
    }

    /// The `len` bytes from `offset` on, in the two parts in which they lie; it holds them.
    pub fn parts(&self, offset: usize, len: usize) -> [&[u8]; 2] {
        if len == 0 {
            return [&[], &[]];
        }
        let at = self.position(offset);
        let side_by_side = len.min(self.ring.len() - at);
        [&self.ring[at..at + side_by_side], &self.ring[..len - side_by_side]]
    }

    fn position(&self, offset: usize) -> usize {
        let at = self.start + offset;
        if at < self.ring.len() { at } else { at - self.ring.len() }
    }

    /// A ring of at least `wanted` bytes, with everything where it was, what is ahead included.
    fn grow(&mut self, wanted: usize) {
        if wanted <= self.ring.len() {
            return;
        }
        let size = wanted.next_power_of_two().max(Self::LEAST_BYTES).min(self.memory_limit.max(wanted));
        let mut ring = vec![0; size].into_boxed_slice();
        let first = self.ring.len() - self.start;
        ring[..first].copy_from_slice(&self.ring[self.start..]);
        ring[first..first + self.start].copy_from_slice(&self.ring[..self.start]);
        self.ring = ring;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn an_empty_queue_has_no_memory() {
        let mut queue = ByteQueue::new(1 << 20);
        assert_eq!(queue.ring.len(), 0);
        queue.append_with(10, |room| room.len());
        assert_eq!(queue.ring.len(), ByteQueue::LEAST_BYTES);
        queue.consume(10);
        queue.shrink();
        assert_eq!((queue.ring.len(), queue.capacity()), (0, 1 << 20));
    }

    #[test]
    fn a_ring_grows_no_further_than_memory_allows() {
        let mut queue = ByteQueue::new(1 << 20);
        queue.limit_memory(3_000);
        queue.append_with(5_000, |room| room.len());
        assert_eq!((queue.len(), queue.memory(), queue.room()), (3_000, 3_000, 0));
        assert_eq!((queue.capacity(), queue.len()), (1 << 20, 3_000), "what the other side was told stands");
        queue.limit_memory(0);
        queue.consume(1_000);
        assert_eq!(queue.write_ahead(queue.len(), &[1; 5_000]), 1_000, "what it has stays");
    }

    #[test]
    fn what_is_ahead_becomes_part_of_it_in_its_place() {
        let mut queue = ByteQueue::new(8);
        queue.append_with(2, |room| {
            room.copy_from_slice(b"ab");
            2
        });
        assert_eq!(queue.write_ahead(4, b"efghij"), 4, "no more than it can hold");
        assert_eq!(queue.write_ahead(2, b"cd"), 2);
        assert_eq!(queue.write_ahead(8, b"i"), 0);
        queue.extend(6);
        assert_eq!(queue.front(), b"abcdefgh");
    }

    proptest! {
        #[test]
        fn bytes_leave_as_they_came(steps in prop::collection::vec((any::<bool>(), 0usize..5_000), 0..200)) {
            let (mut queue, mut model) = (ByteQueue::new(10_000), VecDeque::new());
            let mut next = 0u8;
            for (is_write, count) in steps {
                if is_write {
                    queue.append_with(count, |room| {
                        room.iter_mut().for_each(|byte| {
                            *byte = next;
                            model.push_back(next);
                            next = next.wrapping_add(1);
                        });
                        room.len()
                    });
                } else {
                    let count = count.min(queue.front().len());
                    prop_assert!(queue.front()[..count].iter().eq(model.range(..count)));
                    queue.consume(count);
                    model.drain(..count);
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.parts(0, queue.len()).concat().iter().eq(model.iter()));
            }
        }
    }
}
