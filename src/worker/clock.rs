//! The only reader of the clock.

use crate::stack::boundary::Instant;

/// The process's monotonic clock, from zero at start-up.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: std::time::Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub(super) fn read() -> std::time::Instant {
        std::time::Instant::now()
    }

    /// The time since 1970.
    #[expect(clippy::disallowed_methods, reason = "the same place")]
    pub fn epoch_micros() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// From now on.
    pub fn start() -> Clock {
        Clock { started: Self::read() }
    }

    /// The time since the start.
    pub fn now(&self) -> Instant {
        let elapsed = Self::read().duration_since(self.started);
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }
}
