//! What a readiness event is about, packed into the word that the poll carries.
//!
//! Kind in the top four bits, then 28 bits of generation, then the slot: a stale event of a flow whose slot
//! has been given away within the same batch is told apart without a lookup.

use crate::stack::boundary::{FlowId, ListenerId};

const KIND_SHIFT: u32 = 60;
const GENERATION_SHIFT: u32 = 32;
const GENERATION_MASK: u32 = (1 << (KIND_SHIFT - GENERATION_SHIFT)) - 1;

const _: () = assert!(usize::BITS == 64, "a token holds a generation and a slot");

/// The subject of a readiness event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The TAP.
    Link,
    /// A source that the driver was given, by its place.
    Source(u32),
    /// A socket on which requests are taken, and its clients.
    Control(Counter),
    /// Letters of other threads.
    Mailbox,
    /// A published port.
    Listener(ListenerId),
    /// A flow's socket.
    Flow(FlowMark),
    /// The socket of a spliced connection that was accepted.
    SplicedInitiating(FlowMark),
    /// The one that was connected.
    SplicedTarget(FlowMark),
    /// A TCP port listened on in the container, by its place.
    Outward(u32),
    /// A UDP port of a loopback, by its place.
    Relay(u32),
    /// The socket of one exchange of datagrams from loopback to loopback.
    Exchange(FlowMark),
    /// The reader of a capture, by its number.
    Observer(u32),
    /// The user's hook.
    Hook,
}

/// Where requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// In the manner of slirp4netns.
    Api,
    /// In our own language.
    Native,
    /// The page of metrics.
    Metrics,
}

impl Counter {
    const ALL: [Counter; 3] = [Counter::Api, Counter::Native, Counter::Metrics];
}

/// A [`FlowId`] with as much of its generation as a token holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowMark {
    slot: u32,
    generation: u32,
}

impl FlowMark {
    /// The mark of a flow.
    #[must_use]
    pub fn new(flow: FlowId) -> FlowMark {
        FlowMark { slot: flow.slot, generation: flow.generation & GENERATION_MASK }
    }

    /// Place in the flow table.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }
}

impl Subject {
    /// Packs the subject.
    #[must_use]
    pub fn token(self) -> mio::Token {
        let (kind, generation, slot) = match self {
            Subject::Link => (0, 0, 0),
            Subject::Source(place) => (1, 0, place),
            Subject::Listener(ListenerId(place)) => (2, 0, place),
            Subject::Flow(mark) => (3, mark.generation, mark.slot),
            Subject::Control(counter) => (4, 0, counter as u32),
            Subject::SplicedInitiating(mark) => (5, mark.generation, mark.slot),
            Subject::SplicedTarget(mark) => (6, mark.generation, mark.slot),
            Subject::Outward(place) => (7, 0, place),
            Subject::Relay(place) => (8, 0, place),
            Subject::Exchange(mark) => (9, mark.generation, mark.slot),
            Subject::Mailbox => (10, 0, 0),
            Subject::Observer(number) => (11, 0, number),
            Subject::Hook => (12, 0, 0),
        };
        mio::Token((kind << KIND_SHIFT) | ((generation as usize) << GENERATION_SHIFT) | slot as usize)
    }

    /// Unpacks what [`Subject::token`] packed; `None` for anything else.
    #[must_use]
    pub fn from_token(mio::Token(word): mio::Token) -> Option<Subject> {
        let slot = word as u32;
        let generation = (word >> GENERATION_SHIFT) as u32 & GENERATION_MASK;
        match word >> KIND_SHIFT {
            0 => Some(Subject::Link),
            1 => Some(Subject::Source(slot)),
            2 => Some(Subject::Listener(ListenerId(slot))),
            3 => Some(Subject::Flow(FlowMark { slot, generation })),
            4 => Counter::ALL.into_iter().find(|counter| *counter as u32 == slot).map(Subject::Control),
            5 => Some(Subject::SplicedInitiating(FlowMark { slot, generation })),
            6 => Some(Subject::SplicedTarget(FlowMark { slot, generation })),
            7 => Some(Subject::Outward(slot)),
            8 => Some(Subject::Relay(slot)),
            9 => Some(Subject::Exchange(FlowMark { slot, generation })),
            10 => Some(Subject::Mailbox),
            11 => Some(Subject::Observer(slot)),
            12 => Some(Subject::Hook),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip() {
        for subject in [
            Subject::Link,
            Subject::Control(Counter::Api),
            Subject::Control(Counter::Native),
            Subject::Control(Counter::Metrics),
            Subject::Mailbox,
            Subject::Hook,
            Subject::Source(3),
            Subject::Observer(u32::MAX),
            Subject::Listener(ListenerId(u32::MAX)),
            Subject::Flow(FlowMark::new(FlowId { slot: u32::MAX, generation: 1 })),
            Subject::Flow(FlowMark::new(FlowId { slot: 0, generation: GENERATION_MASK })),
        ] {
            assert_eq!(Subject::from_token(subject.token()), Some(subject));
        }
        assert_eq!(Subject::from_token(mio::Token(usize::MAX)), None);
    }

    #[test]
    fn lives_of_a_slot_differ() {
        let first = FlowMark::new(FlowId { slot: 5, generation: 8 });
        let second = FlowMark::new(FlowId { slot: 5, generation: 9 });
        assert_ne!(Subject::Flow(first).token(), Subject::Flow(second).token());
    }
}
