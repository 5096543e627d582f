//! How much moves, without a clock of its own.
//!
//! The driver passes by once a turn, and a sample is kept whenever the last one is a second old. Whoever asks is told
//! what moved since the sample before the last: over one to two seconds while there is traffic, over the whole of a silence
//! otherwise, which makes it next to nothing.

use crate::stack::boundary::{Duration, Instant};

/// From one sample to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of both directions by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Instant,
    bytes: [u64; 2],
}

/// The last two samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    earlier: Sample,
    later: Sample,
}

impl Default for Meter {
    fn default() -> Meter {
        let nothing = Sample { at: Instant::ZERO, bytes: [0; 2] };
        Meter { earlier: nothing, later: nothing }
    }
}

impl Meter {
    /// Passes by: so many bytes have moved from the container and to it, in all.
    pub fn note(&mut self, now: Instant, from_container: u64, to_container: u64) {
        if now >= self.later.at + INTERVAL {
            self.earlier = self.later;
            self.later = Sample { at: now, bytes: [from_container, to_container] };
        }
    }

    /// Bytes a second from the container and to it.
    #[must_use]
    pub fn rates(&self, now: Instant, from_container: u64, to_container: u64) -> (u64, u64) {
        // A sample of this very moment tells nothing.
        let since = if now >= self.later.at + INTERVAL { self.later } else { self.earlier };
        let micros = u128::from((now - since.at).total_micros().max(1));
        let rate = |total: u64, then: u64| {
            let moved = u128::from(total.saturating_sub(then)) * 1_000_000;
            u64::try_from(moved / micros).unwrap_or(u64::MAX)
        };
        (rate(from_container, since.bytes[0]), rate(to_container, since.bytes[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::default();
        for second in 0..10_i64 {
            meter.note(Instant::from_secs(second), second.unsigned_abs() * 1_000, 0);
        }
        let now = Instant::from_millis(9_500);
        assert_eq!(meter.rates(now, 9_500, 0), (1_000, 0));
    }

    #[test]
    fn silence_is_no_rate() {
        let mut meter = Meter::default();
        meter.note(Instant::from_secs(1), 1_000_000, 1_000_000);
        meter.note(Instant::from_secs(2), 2_000_000, 2_000_000);
        let (from, to) = meter.rates(Instant::from_secs(602), 2_000_000, 2_000_060);
        assert_eq!((from, to), (0, 0));
    }
}
