//! How much one flow reads before the link and the other flows have their turn.
//!
//! Large turns cost less for each byte: fewer calls, fewer acknowledgements toward the host's peer, and a reader that
//! is woken for more. But whoever exchanges short messages beside a transfer waits for as long as a turn takes. So turns
//! are large, and become small for a while when a short message has passed.
//!
//! The other way, what the container sends goes to the host from the frame it came in; unless more frames wait than the
//! link takes at once. Then small segments wait for the turn of their flow, so that one call carries many of them.

use std::net::IpAddr;

use crate::stack::boundary::{Duration, Instant};

/// A turn while nobody is in a hurry.
const LARGE_BYTES: usize = 512 << 10;
/// A turn beside an exchange of short messages.
const SMALL_BYTES: usize = 32 << 10;
/// What a turn moves at most that is taken for a short message.
const MESSAGE_BYTES: usize = 4 << 10;
/// Payload of a segment that is worth a call of its own, however many frames wait.
const WORTHWHILE_BYTES: usize = 1 << 10;
/// An exchange is taken to go on for this long.
const EXCHANGE_LASTS: Duration = Duration::from_millis(5);

/// The turn of one flow.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Bytes that it may move toward the container.
    pub most: usize,
    /// Bytes that it has moved there.
    pub moved: usize,
    /// Bytes that it may move toward the host.
    pub most_up: usize,
    /// Bytes that it has moved there.
    pub moved_up: usize,
    /// Where a flow without a buffer may read.
    pub scratch: &'a mut [u8],
}

/// Who exchanges short messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// The container's end.
    pub container: IpAddr,
    /// Nothing but a TAP lies between it and us.
    pub is_near: bool,
}

/// Whether anybody exchanges short messages.
#[derive(Debug, Default)]
pub struct Turns {
    exchange: Option<(Exchange, Instant)>,
    /// More small frames wait on the link than a turn takes.
    pub is_crowded: bool,
}

impl Turns {
    /// The turn of a flow that has it now.
    #[must_use]
    pub fn begin<'a>(&self, scratch: &'a mut [u8], now: Instant) -> Turn<'a> {
        let most = if self.exchange(now).is_some() { SMALL_BYTES } else { LARGE_BYTES };
        Turn { most, moved: 0, most_up: usize::MAX, moved_up: 0, scratch }
    }

    /// Who exchanges short messages now, if anybody does.
    #[must_use]
    pub fn exchange(&self, now: Instant) -> Option<Exchange> {
        self.exchange.filter(|(_, until)| now < *until).map(|(exchange, _)| exchange)
    }

    /// Whether a segment with so much payload is to wait for the turn of its flow.
    #[must_use]
    pub fn gathers(&self, payload_bytes: usize) -> bool {
        self.is_crowded && payload_bytes < WORTHWHILE_BYTES
    }

    /// It is over; `whose` tells of its flow, if a short message makes it an exchange.
    pub fn end(&mut self, moved: usize, now: Instant, whose: impl FnOnce() -> Option<Exchange>) {
        if (1..=MESSAGE_BYTES).contains(&moved)
            && let Some(exchange) = whose()
        {
            self.exchange = Some((exchange, now + EXCHANGE_LASTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_message_makes_turns_small_for_a_while() {
        let start = Instant::from_millis(1_000);
        let mut turns = Turns::default();
        let most = |turns: &Turns, now| turns.begin(&mut [], now).most;
        let whose = Exchange { container: [10, 0, 2, 100].into(), is_near: true };
        for moved in [0, LARGE_BYTES, MESSAGE_BYTES + 1] {
            turns.end(moved, start, || Some(whose));
        }
        assert_eq!(most(&turns, start), LARGE_BYTES);
        turns.end(1, start, || None);
        assert_eq!(most(&turns, start), LARGE_BYTES, "a transfer with acknowledgements of its own");
        turns.end(1, start, || Some(whose));
        assert_eq!(most(&turns, start), SMALL_BYTES);
        let other = Exchange { is_near: false, ..whose };
        turns.end(LARGE_BYTES, start + Duration::from_millis(1), || Some(other));
        assert_eq!(most(&turns, start + Duration::from_millis(4)), SMALL_BYTES);
        assert_eq!(turns.exchange(start + Duration::from_millis(4)), Some(whose));
        assert_eq!(turns.exchange(start + EXCHANGE_LASTS), None);
        assert_eq!(most(&turns, start + EXCHANGE_LASTS), LARGE_BYTES);
    }
}
