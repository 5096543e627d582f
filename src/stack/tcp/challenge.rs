//! Answers to what only claims to belong to a connection, and how often they are given (RFC 5961 §7).
//!
//! A segment out of the window, a RST or SYN within it or an impossible acknowledgement is answered by an
//! acknowledgement, from which an honest peer learns where the connection stands. Anybody can cause such answers, and two
//! ends that disagree would answer each other for ever: so each connection gives one in a while.

use super::super::boundary::{Duration, Instant};
use crate::config::limits::CHALLENGE_INTERVAL;

/// When a connection gave such an answer last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Challenges {
    quiet_until: Option<Instant>,
}

impl Challenges {
    /// Whether one may be given now; the next only after a while.
    pub fn may_answer(&mut self, now: Instant) -> bool {
        let may = self.quiet_until.is_none_or(|until| until <= now);
        if may {
            self.quiet_until = Some(now + Duration::from(CHALLENGE_INTERVAL));
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_are_half_a_second_apart_however_often_they_are_caused() {
        let mut challenges = Challenges::default();
        let given = (0..=1_250).map(Instant::from_millis).filter(|now| challenges.may_answer(*now));
        assert_eq!(given.map(|at| at.total_millis()).collect::<Vec<_>>(), [0, 500, 1_000]);
    }
}
