//! Who is let in when more connections are begun than can be: those that come again.
//!
//! A flood never asks twice for the same connection, since that would halve it; whoever means it sends the same SYN again after
//! a second (RFC 6298 §2.1). So while handshakes are scarce ([`Newcomers::is_crowded`]) a SYN is dropped and remembered
//! when it is seen first, and has its turn when it comes again; the oldest unfinished handshake gives way to it. An honest
//! connection takes a second longer through a flood, and a flood costs a look at a SYN.
//!
//! Handshakes are scarce when most places are taken (a flood that nobody answers), and when very many have come to nothing
//! lately (one that is refused, or answered and not gone on with): such take few places, but a socket each.
//!
//! SYNs are remembered in a Bloom filter of two periods, so that memory is bounded whatever comes; it is there only while
//! it is needed. A SYN taken for another one that came before is let in, which does no harm while they are few.

use std::collections::VecDeque;

use super::super::boundary::{Duration, FlowId, Instant};
use crate::config::Limits;
use crate::config::limits::{FRUITLESS_PER_SECOND, HANDSHAKE_GIVES_WAY};

/// A SYN is remembered for one to two of these: its first repetition comes after a second.
const PERIOD: Duration = Duration::from_millis(1_500);
/// Bits of each SYN in the filter.
const PROBES: u32 = 5;

/// So many handshakes that came to nothing are never a crowd.
const FEW: usize = 64;

/// What is known of those who want to connect, and of those who are about to.
#[derive(Debug)]
pub struct Newcomers {
    filter: Filter,
    /// Handshakes of the container in the order they began in; some are over.
    begun: VecDeque<(FlowId, Instant)>,
    fruitless: Level,
    most_begun: usize,
}

impl Newcomers {
    /// Nobody yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Newcomers {
        Newcomers {
            filter: Filter::new(limits.newcomer_memory_bytes),
            begun: VecDeque::new(),
            fruitless: Level { count: 0, at: Instant::ZERO, most: limits.half_open.max(FEW) },
            most_begun: 2 * limits.half_open,
        }
    }

    /// Whether very many handshakes have come to nothing lately.
    pub fn is_crowded(&mut self, now: Instant) -> bool {
        self.fruitless.leak(now);
        self.fruitless.count >= self.fruitless.most
    }

    /// Whether the SYN of this hash was here before; it is remembered in any case.
    pub fn came_before(&mut self, hash: u64, now: Instant) -> bool {
        self.filter.insert(hash, now)
    }

    /// Nobody needs to be remembered.
    pub fn rest(&mut self, now: Instant) {
        self.filter.rest(now);
    }

    /// A handshake of the container has begun; `is_under_way` tells which still are.
    pub fn begin(&mut self, flow: FlowId, now: Instant, is_under_way: impl Fn(FlowId) -> bool) {
        if self.begun.len() >= self.most_begun {
            // Few of them are, or there would be too many handshakes: it pays for itself.
            self.begun.retain(|(flow, _)| is_under_way(*flow));
        }
        self.begun.push_back((flow, now));
    }

    /// The oldest handshake of those under way, if it has had time enough.
    pub fn oldest(&mut self, now: Instant, is_under_way: impl Fn(FlowId) -> bool) -> Option<FlowId> {
        while let Some((flow, began)) = self.begun.front().copied() {
            if is_under_way(flow) {
                return (began + HANDSHAKE_GIVES_WAY.into() <= now).then_some(flow);
            }
            self.begun.pop_front();
        }
        None
    }

    /// A handshake of the container is over.
    pub fn end(&mut self, is_complete: bool) {
        let level = &mut self.fruitless;
        if is_complete {
            level.count = level.count.saturating_sub(1);
        } else {
            // What is far above the mark would keep others waiting long after the flood.
            level.count = (level.count + 1).min(2 * level.most);
        }
    }
}

/// A count that goes down by itself.
#[derive(Debug)]
struct Level {
    count: usize,
    /// When it last went down.
    at: Instant,
    most: usize,
}

impl Level {
    fn leak(&mut self, now: Instant) {
        let elapsed = (now - self.at).total_micros();
        let leaked = elapsed.saturating_mul(u64::from(FRUITLESS_PER_SECOND)) / 1_000_000;
        if leaked > 0 {
            self.at = now;
            self.count = self.count.saturating_sub(usize::try_from(leaked).unwrap_or(usize::MAX));
        }
    }
}

/// What was seen in this period and the one before.
#[derive(Debug)]
struct Filter {
    words: usize,
    /// Empty while there is nothing to remember.
    current: Vec<u64>,
    former: Vec<u64>,
    began: Instant,
}

impl Filter {
    fn new(bytes: usize) -> Filter {
        // A power of two, so that a bit is found by a mask; at least one word.
        let words = 1 << (bytes / 8).max(1).ilog2();
        Filter { words, current: Vec::new(), former: Vec::new(), began: Instant::ZERO }
    }

    fn turn(&mut self, now: Instant) {
        if now < self.began + PERIOD {
            return;
        }
        let is_recent = now < self.began + PERIOD + PERIOD;
        std::mem::swap(&mut self.current, &mut self.former);
        if !is_recent {
            self.former.clear();
        }
        self.current.clear();
        self.began = now;
    }

    fn rest(&mut self, now: Instant) {
        if self.current.capacity() + self.former.capacity() > 0 && now >= self.began + PERIOD + PERIOD {
            (self.current, self.former) = (Vec::new(), Vec::new());
        }
    }

    fn insert(&mut self, hash: u64, now: Instant) -> bool {
        self.turn(now);
        self.current.resize(self.words, 0);
        let (mut now_seen, mut seen_before) = (true, !self.former.is_empty());
        let (step, mut bit) = ((hash >> 32) as usize | 1, hash as usize);
        for _ in 0..PROBES {
            let (word, mask) = ((bit / 64) & (self.words - 1), 1 << (bit % 64));
            now_seen &= self.current[word] & mask != 0;
            seen_before = seen_before && self.former[word] & mask != 0;
            self.current[word] |= mask;
            bit = bit.wrapping_add(step);
        }
        now_seen || seen_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newcomers(half_open: usize) -> Newcomers {
        Newcomers::new(&Limits { half_open, ..Limits::default() })
    }

    fn ms(count: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(count)
    }

    /// Numbers that are as good as random (SplitMix64).
    fn hash(number: u64) -> u64 {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn whoever_comes_again_after_a_second_is_known_in_the_midst_of_a_flood() {
        let mut newcomers = newcomers(4_096);
        let (mut again, mut mistaken) = (0, 0);
        // 160 000 a second, and every millisecond somebody who comes again a second later.
        for time in 0..5_000 {
            for one in 0..160 {
                mistaken += u32::from(newcomers.came_before(hash(1 << 40 | time << 10 | one), ms(time)));
            }
            mistaken += u32::from(newcomers.came_before(hash(time), ms(time)));
            if time >= 1_020 {
                again += u32::from(newcomers.came_before(hash(time - 1_020), ms(time)));
            }
        }
        assert_eq!(again, 5_000 - 1_020);
        assert!(mistaken < 100, "{mistaken} of 800 000 were taken for somebody else");
    }

    #[test]
    fn who_was_here_long_ago_is_forgotten_and_memory_given_back() {
        let mut newcomers = newcomers(4_096);
        assert!(!newcomers.came_before(hash(1), ms(1_000)));
        assert!(newcomers.came_before(hash(1), ms(2_400)));
        assert!(!newcomers.came_before(hash(1), ms(9_000)));
        newcomers.rest(ms(9_500));
        assert!(newcomers.came_before(hash(1), ms(9_600)));
        newcomers.rest(ms(20_000));
        assert_eq!(newcomers.filter.current.capacity() + newcomers.filter.former.capacity(), 0);
    }

    #[test]
    fn many_handshakes_that_come_to_nothing_are_a_crowd_for_a_while() {
        let mut newcomers = newcomers(100);
        for _ in 0..99 {
            newcomers.end(false);
        }
        assert!(!newcomers.is_crowded(Instant::ZERO));
        (0..1_000).for_each(|_| newcomers.end(false));
        assert!(newcomers.is_crowded(Instant::ZERO));
        let later = ms(u64::from(200 * 1_000 / FRUITLESS_PER_SECOND));
        assert!(!newcomers.is_crowded(later));
        // Connections in plenty, of which one in three is refused, are none.
        for number in 0..9_000 {
            newcomers.end(number % 3 > 0);
        }
        assert!(!newcomers.is_crowded(later));
    }

    #[test]
    fn the_oldest_under_way_gives_way_once_it_has_had_its_time() {
        let mut newcomers = newcomers(2);
        let flow = |slot| FlowId { slot, generation: 0 };
        newcomers.begin(flow(1), ms(0), |_| true);
        newcomers.begin(flow(2), ms(10), |_| true);
        let over = |flow: FlowId| flow.slot != 1;
        assert_eq!(newcomers.oldest(ms(2_000), over), None);
        let due = ms(10) + HANDSHAKE_GIVES_WAY.into();
        assert_eq!(newcomers.oldest(due, over), Some(flow(2)));
        assert_eq!(newcomers.oldest(due, |_| false), None);
        // However many come and go, those that are over do not pile up.
        for slot in 0..1_000 {
            newcomers.begin(flow(slot), due, |_| false);
            assert!(newcomers.begun.len() <= 4);
        }
    }
}
