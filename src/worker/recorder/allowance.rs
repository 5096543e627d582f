//! How much of the worker's time captures may have, counted in bytes that are copied for them: so many a second, and what was
//! saved up while less passed. A reader that keeps pace with any rate would else have the worker put packets together for it
//! most of the time, and slow what it only wants to see.

use crate::config::limits::{CAPTURE_BURST_BYTES, CAPTURE_BYTES_PER_MICROSECOND};

/// What may be copied.
#[derive(Debug)]
pub struct Allowance {
    /// Below zero, where a packet was larger than what was left.
    bytes: i64,
    at_micros: u64,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance { bytes: CAPTURE_BURST_BYTES, at_micros: 0 }
    }
}

impl Allowance {
    /// It is this late now: what may be copied.
    pub fn at(&mut self, now_micros: u64) -> usize {
        let passed = now_micros.saturating_sub(self.at_micros).min(1_000_000);
        self.at_micros = self.at_micros.max(now_micros);
        // At most what a second has.
        let earned = passed as i64 * CAPTURE_BYTES_PER_MICROSECOND;
        self.bytes = (self.bytes + earned).min(CAPTURE_BURST_BYTES);
        usize::try_from(self.bytes).unwrap_or(0)
    }

    /// So much was copied.
    pub fn spend(&mut self, bytes: usize) {
        self.bytes -= i64::try_from(bytes).unwrap_or(CAPTURE_BURST_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_up_is_bounded_and_what_is_spent_comes_back_with_time() {
        let mut allowance = Allowance::default();
        let burst = CAPTURE_BURST_BYTES as usize;
        assert_eq!((allowance.at(0), allowance.at(500_000_000)), (burst, burst));
        allowance.spend(burst + 1_000);
        assert_eq!(allowance.at(500_000_000), 0);
        let each_milli = CAPTURE_BYTES_PER_MICROSECOND as usize * 1_000;
        assert_eq!(allowance.at(500_001_000), each_milli - 1_000);
        assert_eq!(allowance.at(499_999_000), each_milli - 1_000, "time that goes back earns nothing");
        // A turn of a microsecond earns something, too.
        let before = allowance.at(500_001_000);
        (1..=10).for_each(|micro| {
            allowance.at(500_001_000 + micro);
        });
        assert_eq!(allowance.at(500_001_010) - before, each_milli / 100);
    }
}
