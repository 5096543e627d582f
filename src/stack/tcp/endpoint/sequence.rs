//! Sequence numbers and ranges of them (RFC 9293 §3.4): everything is modulo 2^32, and nothing compared is further
//! apart than half of that.

/// Whether `a` lies before `b`.
#[inline]
pub fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

/// Whether `a` is `b` or lies before it.
#[inline]
pub fn is_at_most(a: u32, b: u32) -> bool {
    a == b || is_before(a, b)
}

/// The later of both.
#[inline]
pub fn later(a: u32, b: u32) -> u32 {
    if is_before(a, b) { b } else { a }
}

/// Disjoint ranges in order, each from a first number to the one behind its last; so many at most.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    ranges: Vec<(u32, u32)>,
}

impl Ranges {
    /// Most of them: a loss in each of as many super-segments.
    pub const MOST: usize = 64;

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a range, joined with those that it touches; `false` when there is no room for one more.
    pub fn insert(&mut self, first: u32, end: u32) -> bool {
        if !is_before(first, end) {
            return true;
        }
        let from = self.ranges.partition_point(|(_, known_end)| is_before(*known_end, first));
        let to = self.ranges.partition_point(|(known_first, _)| is_at_most(*known_first, end));
        if from == to {
            if self.ranges.len() >= Self::MOST {
                return false;
            }
            self.ranges.insert(from, (first, end));
        } else {
            let first = if is_before(self.ranges[from].0, first) { self.ranges[from].0 } else { first };
            let end = later(self.ranges[to - 1].1, end);
            self.ranges[from] = (first, end);
            self.ranges.drain(from + 1..to);
        }
        true
    }

    /// Forgets everything before `sequence`.
    pub fn advance_to(&mut self, sequence: u32) {
        let gone = self.ranges.partition_point(|(_, end)| is_at_most(*end, sequence));
        self.ranges.drain(..gone);
        if let Some((first, _)) = self.ranges.first_mut() {
            *first = later(*first, sequence);
        }
        if self.ranges.is_empty() {
            // An idle flow holds no memory.
            self.ranges = Vec::new();
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.ranges = Vec::new();
    }

    /// Takes out the range that begins at `sequence`, and returns its end.
    pub fn take_at(&mut self, sequence: u32) -> Option<u32> {
        let (first, end) = *self.ranges.first()?;
        if first != sequence {
            return None;
        }
        self.advance_to(end);
        Some(end)
    }

    /// The first gap at or after `sequence` that has a range behind it: where it begins and where it ends.
    pub fn gap_after(&self, sequence: u32) -> Option<(u32, u32)> {
        let mut begin = sequence;
        for (first, end) in &self.ranges {
            if is_before(begin, *first) {
                return Some((begin, *first));
            }
            begin = later(begin, *end);
        }
        None
    }

    /// The end of the range that `sequence` is in, or `sequence` itself.
    pub fn end_around(&self, sequence: u32) -> u32 {
        let around =
            self.ranges.iter().find(|(first, end)| is_at_most(*first, sequence) && is_before(sequence, *end));
        around.map_or(sequence, |(_, end)| *end)
    }

    /// Numbers in all of them.
    pub fn total(&self) -> u32 {
        self.ranges.iter().map(|(first, end)| end.wrapping_sub(*first)).sum()
    }

    /// Numbers in all of them that are not before `sequence`.
    pub fn total_after(&self, sequence: u32) -> u32 {
        let part = |(first, end): &(u32, u32)| {
            let first = later(*first, sequence);
            if is_before(first, *end) { end.wrapping_sub(first) } else { 0 }
        };
        self.ranges.iter().map(part).sum()
    }

    /// The number behind all of them.
    pub fn last_end(&self) -> Option<u32> {
        self.ranges.last().map(|(_, end)| *end)
    }

    /// The ranges, the one around `latest` first, as RFC 2018 §4 wants them told.
    pub fn told(&self, latest: u32, blocks: &mut [(u32, u32)]) -> usize {
        let around =
            self.ranges.iter().position(|(first, end)| is_at_most(*first, latest) && is_before(latest, *end));
        let first = around.map(|at| self.ranges[at]);
        let others =
            self.ranges.iter().enumerate().filter(|(at, _)| Some(*at) != around).map(|(_, range)| *range);
        let mut count = 0;
        for (block, range) in blocks.iter_mut().zip(first.into_iter().chain(others)) {
            *block = range;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_wrap() {
        assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
        assert!(is_at_most(5, 5));
        assert_eq!(later(u32::MAX, 3), 3);
    }

    #[test]
    fn gaps_are_those_before_a_range() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20);
        ranges.insert(30, 40);
        assert_eq!(ranges.gap_after(0), Some((0, 10)));
        assert_eq!(ranges.gap_after(10), Some((20, 30)));
        assert_eq!(ranges.gap_after(25), Some((25, 30)));
        assert_eq!(ranges.gap_after(35), None);
        assert_eq!((ranges.take_at(10), ranges.take_at(10)), (Some(20), None));
    }

    #[test]
    fn the_latest_is_told_first() {
        let mut ranges = Ranges::default();
        for (first, end) in [(10, 20), (30, 40), (50, 60)] {
            assert!(ranges.insert(first, end));
        }
        let mut blocks = [(0, 0); 2];
        assert_eq!(ranges.told(35, &mut blocks), 2);
        assert_eq!(blocks, [(30, 40), (10, 20)]);
    }

    #[test]
    fn there_are_so_many_at_most() {
        let mut ranges = Ranges::default();
        let most = Ranges::MOST as u32;
        assert!((0..most).all(|at| ranges.insert(4 * at, 4 * at + 1)));
        assert!(!ranges.insert(4 * most, 4 * most + 1));
        assert!(ranges.insert(0, 4 * most), "what joins them needs no room");
        assert_eq!(ranges.total(), 4 * most);
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_numbers(
            base: u32,
            steps in prop::collection::vec((0u32..100, 0u32..20), 0..40),
            cut in 0u32..120,
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (first, len) in steps {
                prop_assert!(ranges.insert(base.wrapping_add(first), base.wrapping_add(first + len)));
                set.extend(first..first + len);
            }
            ranges.advance_to(base.wrapping_add(cut));
            let set: BTreeSet<u32> = set.into_iter().filter(|number| *number >= cut).collect();
            prop_assert_eq!(ranges.total() as usize, set.len());
            for pair in ranges.ranges.windows(2) {
                prop_assert!(is_before(pair[0].1, pair[1].0), "neighbours touch: {:?}", ranges);
            }
            for (first, end) in &ranges.ranges {
                let (first, end) = (first.wrapping_sub(base), end.wrapping_sub(base));
                prop_assert!((first..end).all(|number| set.contains(&number)));
            }
        }
    }
}
