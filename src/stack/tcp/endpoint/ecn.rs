//! Explicit congestion notification (RFC 3168): what a queue on the way marks is answered as a loss would be, without one.
//!
//! We agree to it where the container asks, and do not ask ourselves: the link has no queue of ours that would mark.

use super::sequence::is_at_most;
use crate::wire::tcp::{Flags, Segment};

/// The ECN field of an IP header (RFC 3168 §5): the sender understands marks.
const CAPABLE: u8 = 0b10;
/// The same field, marked by a queue.
const MARKED: u8 = 0b11;

/// What one end knows of marks, both ways.
#[derive(Debug, Default)]
pub struct Ecn {
    is_agreed: bool,
    /// Marked data has come, and the container has not said that it heard of it.
    echoes: bool,
    /// The container has not been told yet that we slowed down.
    owes_answer: bool,
    /// No further slowing down before this is acknowledged: once a round trip.
    slowed_until: Option<u32>,
}

/// Whether an IP header with this traffic class says that a queue has marked it.
pub fn is_marked(traffic_class: u8) -> bool {
    traffic_class & MARKED == MARKED
}

impl Ecn {
    /// The container's SYN asks for it with both flags (§6.1.1).
    pub fn begin(&mut self, syn: &Segment<'_>) {
        self.is_agreed = syn.flags.contains(Flags::ECE) && syn.flags.contains(Flags::CWR);
    }

    /// The flag of our SYN-ACK that agrees.
    pub fn agreement(&self) -> Flags {
        if self.is_agreed { Flags::ECE } else { Flags(0) }
    }

    /// Takes note of a segment that counts (§6.1.3).
    pub fn hear(&mut self, segment: &Segment<'_>, is_marked: bool) {
        if !self.is_agreed {
            return;
        }
        if segment.flags.contains(Flags::CWR) {
            self.echoes = false;
        }
        if is_marked && !segment.payload.is_empty() {
            self.echoes = true;
        }
    }

    /// Whether an acknowledgement is reason to slow down (§6.1.2): once for all that was on its way then. `highest` is the
    /// number behind everything that was sent.
    pub fn is_reason_to_slow_down(&mut self, segment: &Segment<'_>, highest: u32) -> bool {
        if self.slowed_until.is_some_and(|until| is_at_most(until, segment.acknowledgement)) {
            self.slowed_until = None;
        }
        let is_reason = self.is_agreed && segment.flags.contains(Flags::ECE) && self.slowed_until.is_none();
        if is_reason {
            self.slowed_until = Some(highest);
            self.owes_answer = true;
        }
        is_reason
    }

    /// Flags of any segment but a SYN.
    pub fn flags(&self) -> Flags {
        if self.echoes { Flags::ECE } else { Flags(0) }
    }

    /// The flag that new data has beside them.
    pub fn data_flags(&self) -> Flags {
        if self.owes_answer { Flags::CWR } else { Flags(0) }
    }

    /// The ECN field of new data; whatever else we send cannot be marked (§6.1.4, §6.1.5).
    pub fn data_field(&self) -> u8 {
        if self.is_agreed { CAPABLE } else { 0 }
    }

    /// New data has left.
    pub fn data_sent(&mut self) {
        self.owes_answer = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: Flags, acknowledgement: u32, payload: &[u8]) -> Segment<'_> {
        Segment {
            source_port: 1,
            destination_port: 2,
            sequence: 0,
            acknowledgement,
            flags,
            window: 0,
            header_len: 20,
            max_segment_size: None,
            options: &[],
            payload,
        }
    }

    fn agreed() -> Ecn {
        let mut ecn = Ecn::default();
        ecn.begin(&segment(Flags::SYN.union(Flags::ECE).union(Flags::CWR), 0, &[]));
        ecn
    }

    #[test]
    fn it_is_agreed_to_where_it_is_asked_for() {
        assert_eq!((agreed().agreement(), agreed().data_field()), (Flags::ECE, CAPABLE));
        let mut without = Ecn::default();
        without.begin(&segment(Flags::SYN.union(Flags::ECE), 0, &[]));
        without.hear(&segment(Flags::ACK, 0, b"marked"), true);
        assert_eq!((without.agreement(), without.flags(), without.data_field()), (Flags(0), Flags(0), 0));
        assert!(!without.is_reason_to_slow_down(&segment(Flags::ECE, 5, &[]), 9));
    }

    #[test]
    fn a_mark_is_echoed_until_the_container_has_answered() {
        let mut ecn = agreed();
        ecn.hear(&segment(Flags::ACK, 0, &[]), true);
        assert_eq!(ecn.flags(), Flags(0), "an acknowledgement cannot be marked");
        ecn.hear(&segment(Flags::ACK, 0, b"x"), true);
        ecn.hear(&segment(Flags::ACK, 0, b"x"), false);
        assert_eq!(ecn.flags(), Flags::ECE);
        ecn.hear(&segment(Flags::CWR, 0, b"x"), false);
        assert_eq!(ecn.flags(), Flags(0));
        ecn.hear(&segment(Flags::CWR, 0, b"x"), true);
        assert_eq!(ecn.flags(), Flags::ECE, "marked anew");
    }

    #[test]
    fn an_echo_slows_down_once_a_round_trip_and_is_answered_once() {
        let mut ecn = agreed();
        assert!(ecn.is_reason_to_slow_down(&segment(Flags::ECE, 100, &[]), 500));
        assert_eq!(ecn.data_flags(), Flags::CWR);
        ecn.data_sent();
        assert_eq!(ecn.data_flags(), Flags(0));
        assert!(!ecn.is_reason_to_slow_down(&segment(Flags::ECE, 499, &[]), 600));
        assert!(ecn.is_reason_to_slow_down(&segment(Flags::ECE, 500, &[]), 600));
    }

    #[test]
    fn only_both_bits_are_a_mark() {
        assert_eq!([0b00, 0b01, 0b10, 0b11, 0xb8 | 0b11].map(is_marked), [false, false, false, true, true]);
    }
}
