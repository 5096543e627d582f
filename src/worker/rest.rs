//! Giving memory back once a load is over.
//!
//! What connections have held stays with the C library when they end, and would be counted against a container's or a
//! machine's limit for as long as we live. While there is work it is of use, since the next connection takes it. So it is
//! given back after a pause, once for each load, which costs a sleeping process nothing.

use std::sync::Mutex;

use super::Worker;
use super::clock::Clock;
use crate::stack::boundary::{Duration, Instant};
use crate::sys::memory;

/// Whether there was a load, and since when there has been a pause.
#[derive(Debug)]
pub struct Rest {
    /// Turns with work in them since memory was last given back.
    turns: u32,
    /// When the last of them was.
    worked: Instant,
}

impl Default for Rest {
    fn default() -> Rest {
        Rest { turns: 0, worked: Instant::ZERO }
    }
}

impl Rest {
    /// A pause so long is the end of a load.
    const QUIET: Duration = Duration::from_secs(2);
    /// Fewer turns than this leave nothing behind that is worth a wake-up.
    const LOAD_TURNS: u32 = 64;

    /// Takes note of a turn that has work.
    pub fn note_work(&mut self, now: Instant) {
        self.turns = self.turns.saturating_add(1);
        self.worked = now;
    }

    /// When the pause will have been long enough, if anything is to be given back then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.turns >= Self::LOAD_TURNS).then(|| self.worked + Self::QUIET)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }
}

impl Worker {
    /// Gives back what a load has left, if it is over.
    pub(super) fn give_back_memory(&mut self) {
        if self.rest.is_due(self.now) {
            // Another worker of the process may just have done it; then it is this one's turn later.
            let turns = if give_back_now_and_then() { 0 } else { Rest::LOAD_TURNS };
            self.rest = Rest { turns, worked: self.now };
        }
    }
}

/// Once a second of the whole process at most, since other workers may have a use for what is free; whether it was done.
fn give_back_now_and_then() -> bool {
    const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
    static LAST: Mutex<Option<std::time::Instant>> = Mutex::new(None);
    let Ok(mut last) = LAST.try_lock() else { return false };
    let now = Clock::read();
    let is_due = last.is_none_or(|last| now.duration_since(last) >= PAUSE);
    if is_due {
        memory::give_back();
        *last = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_turns(turns: u32) -> Rest {
        let mut rest = Rest::default();
        (0..turns).for_each(|_| rest.note_work(Instant::from_secs(10)));
        rest
    }

    #[test]
    fn a_load_that_is_over_is_followed_by_one_wake_up() {
        let rest = after_turns(Rest::LOAD_TURNS);
        assert_eq!(rest.poll_timeout(), Some(Instant::from_secs(12)));
        assert!(!rest.is_due(Instant::from_millis(11_999)));
        assert!(rest.is_due(Instant::from_secs(12)));
    }

    #[test]
    fn a_few_packets_now_and_then_wake_nobody_again() {
        assert_eq!(Rest::default().poll_timeout(), None);
        assert_eq!(after_turns(Rest::LOAD_TURNS - 1).poll_timeout(), None);
    }
}
