//! What of the container's bytes we have, and how much more we take (RFC 9293 §3.8.6, RFC 2018).
//!
//! Bytes that the relay has not taken, and behind them bytes that came out of order, share one ring: the window never
//! grants more than that holds.

use super::queue::ByteQueue;
use super::sequence::{Ranges, is_at_most, is_before, later};
use crate::wire::tcp::{Flags, Segment};

/// Bits by which our windows are shifted: 8 MiB at most, in steps of 128 bytes.
const WINDOW_SHIFT: u8 = 7;

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    /// Bytes that the relay has yet to take, the last before `expected`; bytes out of order are ahead of its end.
    pub queue: ByteQueue,
    /// What is ahead, in sequence numbers.
    pub ahead: Ranges,
    /// Where bytes out of order came last.
    ahead_latest: u32,
    /// RCV.NXT.
    pub expected: u32,
    /// The same when the container was last told something short.
    answered: u32,
    /// First sequence number beyond the window that we have granted.
    granted: u32,
    /// Largest window that is granted.
    largest_window: usize,
    /// The number of the container's FIN, once that is known.
    fin: Option<u32>,
    /// Bits by which our windows are shifted; none unless both sides can.
    shift: u8,
    /// Largest payload of one segment that we have asked for.
    segment_bytes: u16,
}

impl Receiver {
    /// A receiver that knows nothing of the container yet.
    pub fn new(capacity: usize) -> Receiver {
        Receiver {
            queue: ByteQueue::new(capacity),
            ahead: Ranges::default(),
            ahead_latest: 0,
            expected: 0,
            answered: 0,
            granted: 0,
            largest_window: capacity,
            fin: None,
            shift: WINDOW_SHIFT,
            segment_bytes: 0,
        }
    }

    /// The number of the first byte, and the largest payload that we ask for.
    pub fn begin(&mut self, expected: u32, segment_bytes: u16) {
        self.expected = expected;
        self.answered = expected;
        self.granted = expected;
        self.segment_bytes = segment_bytes;
    }

    /// The container cannot shift windows, so neither do we (RFC 7323 §2.2).
    pub fn never_shift(&mut self) {
        self.shift = 0;
    }

    /// Bytes that have come since it was last asked, or since the beginning.
    pub fn come_since_answer(&mut self) -> u32 {
        let before = std::mem::replace(&mut self.answered, self.expected);
        self.expected.wrapping_sub(before)
    }

    /// Grants no larger window from now on, whatever there is room for; what was granted stays so.
    pub fn limit_window(&mut self, bytes: usize) {
        self.largest_window = self.queue.capacity().min(bytes);
    }

    /// What our SYN says of the shift.
    pub fn shift(&self) -> Option<u8> {
        (self.shift > 0).then_some(self.shift)
    }

    /// Whether it holds nothing.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.ahead.is_empty()
    }

    /// RFC 9293 §3.10.7.4, the four cases of the first check; a segment may begin before the window.
    pub fn is_acceptable(&self, segment: &Segment<'_>) -> bool {
        let (first, len) = (segment.sequence, segment.sequence_len());
        let window = self.granted.wrapping_sub(self.expected);
        let is_inside = |sequence: u32| sequence.wrapping_sub(self.expected) < window;
        match (len, window) {
            (0, 0) => first == self.expected,
            (0, _) => is_inside(first) || first == self.expected,
            // What a closed window is probed with; its acknowledgement and a RST count all the same.
            (_, 0) => first == self.expected,
            _ => {
                is_inside(first)
                    || is_inside(first.wrapping_add(len - 1))
                    || (is_before(first, self.expected) && is_before(self.expected, first.wrapping_add(len)))
            }
        }
    }

    /// Takes data and FIN of an acceptable segment; bytes in order are offered to `deliver`, which says how many it took.
    /// Returns whether the container's FIN has come, and everything before it.
    pub fn take(&mut self, segment: &Segment<'_>, deliver: impl FnOnce(&[u8]) -> usize) -> bool {
        if segment.flags.contains(Flags::FIN) {
            let end = segment.sequence.wrapping_add(segment.payload.len() as u32);
            if is_at_most(end, self.granted) {
                self.fin.get_or_insert(end);
            }
        }
        // What came before is cut off, and what is beyond the window.
        let known = self.expected.wrapping_sub(segment.sequence);
        let (sequence, payload) = match segment.payload.get(known as usize..) {
            Some(news) if !is_before(self.expected, segment.sequence) => (self.expected, news),
            _ => (segment.sequence, segment.payload),
        };
        let room = self.granted.wrapping_sub(sequence);
        if !is_before(sequence, self.expected) && room <= u32::MAX / 2 {
            let payload = &payload[..payload.len().min(room as usize)];
            if sequence == self.expected {
                self.take_in_order(payload, deliver);
            } else if !payload.is_empty() {
                self.take_ahead(sequence, payload);
            }
        }
        if self.fin != Some(self.expected) {
            // One that bytes reach over was none.
            self.fin = self.fin.filter(|fin| !is_before(*fin, self.expected));
            return false;
        }
        self.expected = self.expected.wrapping_add(1);
        self.granted = later(self.granted, self.expected);
        self.fin = None;
        true
    }

    fn take_in_order(&mut self, payload: &[u8], deliver: impl FnOnce(&[u8]) -> usize) {
        let mut kept = payload;
        if self.queue.is_empty() && !payload.is_empty() {
            let taken = deliver(payload).min(payload.len());
            self.queue.skip(taken);
            kept = &payload[taken..];
        }
        let len = self.queue.write_ahead(self.queue.len(), kept);
        self.queue.extend(len);
        self.expected = self.expected.wrapping_add((payload.len() - kept.len() + len) as u32);
        if !self.ahead.is_empty() {
            self.ahead.advance_to(self.expected);
            if let Some(end) = self.ahead.take_at(self.expected) {
                self.queue.extend(end.wrapping_sub(self.expected) as usize);
                self.expected = end;
            }
        }
    }

    fn take_ahead(&mut self, sequence: u32, payload: &[u8]) {
        let offset = self.queue.len() + sequence.wrapping_sub(self.expected) as usize;
        let len = payload.len().min((self.queue.len() + self.queue.room()).saturating_sub(offset));
        if len > 0 && self.ahead.insert(sequence, sequence.wrapping_add(len as u32)) {
            self.queue.write_ahead(offset, &payload[..len]);
            self.ahead_latest = sequence;
        }
    }

    /// First sequence number that is not granted with the next header; never before what was.
    fn right_edge(&self) -> u32 {
        let most = usize::from(u16::MAX) << self.shift;
        let room = self.largest_window.saturating_sub(self.queue.len());
        let window = room.min(most) >> self.shift << self.shift;
        let edge = self.expected.wrapping_add(window as u32);
        // RFC 9293 §3.8.6.2.2: it moves by segments, or by halves of a small buffer; crumbs would come back as crumbs.
        let step = (self.queue.capacity() / 2).min(usize::from(self.segment_bytes)) as u32;
        let is_worth_it = is_at_most(self.granted.wrapping_add(step), edge);
        if is_worth_it { edge } else { self.granted }
    }

    /// The window as a header says it.
    pub fn window_field(&self) -> u16 {
        let window = self.right_edge().wrapping_sub(self.expected) >> self.shift;
        u16::try_from(window).unwrap_or(u16::MAX)
    }

    /// Such a header has left.
    pub fn grant_all(&mut self) {
        self.granted = self.right_edge();
    }

    /// So many bytes were granted.
    pub fn grant(&mut self, window: u32) {
        self.granted = later(self.granted, self.expected.wrapping_add(window));
    }

    /// Writes what is ahead into `blocks`, the latest first; returns how many.
    pub fn tell_ahead(&self, blocks: &mut [(u32, u32)]) -> usize {
        self.ahead.told(self.ahead_latest, blocks)
    }

    /// Whether the window has opened so much that the container should know (RFC 9293 §3.8.6.2.2).
    pub fn has_window_news(&self, segment_bytes: u32) -> bool {
        let more = self.right_edge().wrapping_sub(self.granted) as usize;
        let step = (2 * segment_bytes as usize).min(self.largest_window / 4).max(1);
        let is_news = more >= step && more <= self.largest_window;
        // A window that is wide open already is told of with the next acknowledgement.
        let left = self.granted.wrapping_sub(self.expected) as usize;
        is_news && left < self.largest_window / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_window_is_granted_less_than_there_is_room_for() {
        let mut receiver = Receiver::new(1 << 20);
        receiver.begin(1, 1_460);
        assert_eq!(usize::from(receiver.window_field()) << WINDOW_SHIFT, 1 << 20);
        receiver.limit_window(512 << 10);
        assert_eq!(usize::from(receiver.window_field()) << WINDOW_SHIFT, 512 << 10);
        receiver.queue.write_ahead(0, &[0; 100 << 10]);
        receiver.queue.extend(100 << 10);
        assert_eq!(usize::from(receiver.window_field()) << WINDOW_SHIFT, 412 << 10, "what waits counts");
        receiver.grant(512 << 10);
        receiver.limit_window(256 << 10);
        assert_eq!(usize::from(receiver.window_field()) << WINDOW_SHIFT, 512 << 10, "a window never shrinks");
        receiver.limit_window(2 << 20);
        assert_eq!(usize::from(receiver.window_field()) << WINDOW_SHIFT, 924 << 10, "the buffer bounds it");
    }
}
