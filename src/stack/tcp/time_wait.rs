//! A pair of endpoints at rest after we closed first (RFC 9293 §3.10.7.4, RFC 1337, RFC 6191).
//!
//! Buffers and the host's socket are gone; a few numbers stay to acknowledge the container's FIN again, and to tell a new
//! connection of the same pair from a stray segment of the old one.

use super::super::boundary::{Duration, Instant};
use super::super::timer::Alarm;
use super::challenge::Challenges;
use super::endpoint::sequence::{is_at_most, later};
use crate::wire::tcp::{BareSegment, Flags, Segment};

/// By how much the first number of a connection that takes the place of another is beyond the last of that one.
const DISTANCE: u32 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub struct TimeWait {
    /// When the rest may end.
    pub alarm: Alarm,
    until: Instant,
    /// RCV.NXT: the number behind the container's FIN.
    expected: u32,
    /// SND.NXT: the number behind ours.
    next: u32,
    challenges: Challenges,
}

/// What a segment means to a pair at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Silence,
    /// It is to be acknowledged.
    Acknowledge,
    /// A new connection begins, whose numbers on our side begin here or later.
    OpenAnew {
        /// The first that may be used.
        least_initial: u32,
    },
}

impl TimeWait {
    /// A pair that rests until then.
    #[must_use]
    pub fn new(expected: u32, next: u32, until: Instant) -> TimeWait {
        TimeWait { alarm: Alarm::default(), until, expected, next, challenges: Challenges::default() }
    }

    /// When the rest ends; later than the alarm if the container sent its FIN again.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Judges a segment of the container; `rest` is how long the pair rests from a FIN on.
    pub fn judge(&mut self, segment: &Segment<'_>, rest: Duration, now: Instant) -> Verdict {
        let flags = segment.flags;
        if flags.contains(Flags::RST) {
            // RFC 1337 §3: it does not end the rest.
            return Verdict::Silence;
        }
        if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
            // RFC 6191 §2 without timestamps: what begins beyond the last number is new.
            if is_at_most(self.expected, segment.sequence) {
                return Verdict::OpenAnew { least_initial: self.next.wrapping_add(DISTANCE) };
            }
        } else if flags.contains(Flags::FIN) {
            // All that can arrive in peace: our acknowledgement was lost.
            self.until = now + rest;
            return Verdict::Acknowledge;
        } else if segment.sequence_len() == 0 && segment.sequence == self.expected {
            return Verdict::Silence;
        }
        if self.challenges.may_answer(now) { Verdict::Acknowledge } else { Verdict::Silence }
    }

    /// The acknowledgement.
    #[must_use]
    pub fn answer(&self, segment: &Segment<'_>) -> BareSegment {
        BareSegment {
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            sequence: self.next,
            acknowledgement: Some(self.expected),
            flags: Flags::ACK,
            window: 0,
        }
    }
}

/// The first number of a connection: the one that was drawn, but none before `least`.
#[must_use]
pub fn initial_from(drawn: u32, least: Option<u32>) -> u32 {
    least.map_or(drawn, |least| later(drawn, least))
}
