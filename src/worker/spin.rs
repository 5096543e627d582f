//! Whether to stay awake for the next event.
//!
//! Waking a sleeping processor takes longer than most exchanges of short messages do. So where the last waits were
//! short and little was moved between them, the next is expected to be short too, and is spent looking for events
//! over and over. One long wait ends that, so that an idle link costs nothing; so does a bulk transfer, whose two ends
//! need the processors more.

use crate::stack::boundary::Duration;

/// What the last waits were like.
#[derive(Debug, Default)]
pub struct Spin {
    /// Short waits of an exchange, in a row.
    streak: u32,
    /// Bytes that had been moved at the last wait.
    moved: u64,
}

impl Spin {
    /// Longer than the pauses of an exchange with a neighbour; a wait beyond it is slept through.
    pub const LONGEST: Duration = Duration::from_micros(100);
    /// Short waits after which the next is expected to be short.
    const STREAK: u32 = 8;
    /// More than the messages of an exchange: a transfer.
    const BULK_BYTES: u64 = 16 << 10;

    /// Whether the next wait is to be spent awake, [`Self::LONGEST`] at most. `moved` is the number of bytes that the
    /// link has carried so far.
    pub fn is_worth_it(&mut self, moved: u64) -> bool {
        let is_bulk = moved - self.moved > Self::BULK_BYTES;
        self.moved = moved;
        if is_bulk {
            self.streak = 0;
        }
        self.streak >= Self::STREAK
    }

    /// Takes note of a wait that has ended with an event.
    pub fn learn(&mut self, waited: Duration) {
        self.streak = if waited <= Self::LONGEST { self.streak.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(40);

    fn after_an_exchange() -> Spin {
        let mut spin = Spin::default();
        (0..Spin::STREAK).for_each(|_| spin.learn(SHORT));
        spin
    }

    #[test]
    fn an_exchange_is_waited_for_awake_and_an_idle_link_is_not() {
        assert!(!Spin::default().is_worth_it(0));
        let mut spin = after_an_exchange();
        assert!(spin.is_worth_it(100));
        spin.learn(Duration::from_millis(1));
        assert!(!spin.is_worth_it(200));
    }

    #[test]
    fn a_transfer_is_slept_for() {
        let mut spin = after_an_exchange();
        assert!(!spin.is_worth_it(1 << 20));
        spin.learn(SHORT);
        assert!(!spin.is_worth_it(1 << 20), "it begins anew");
    }
}
