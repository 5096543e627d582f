//! What goes from loopback to loopback, past the link: its names, and its part in the rates.
//!
//! The core never sees its bytes; whoever moves them asks before ([`Stack::ask_spliced`]), has turns like any flow
//! ([`Stack::poll_spliced_turn`]), and pays ([`Stack::pay_spliced`]). What it shares a rate with is the same as for flows: the
//! container's own, and that of the rule that has let it through.

use super::Stack;
use super::boundary::Instant;
use super::drop_reason::DropReason;
use super::policy::judge::Spliced;
use super::shape::ClassId;

/// What carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SplicedKind {
    /// A connection.
    Stream,
    /// Datagrams of one client.
    Exchange,
}

/// Names one of them; no other ever has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplicedId {
    /// Which table it is in.
    pub kind: SplicedKind,
    /// Its place there.
    pub slot: u32,
    /// Counts the lives of all places.
    pub generation: u32,
}

impl std::fmt::Display for SplicedId {
    /// As users know it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.kind {
            SplicedKind::Stream => 's',
            SplicedKind::Exchange => 'x',
        };
        write!(f, "{letter}{}.{}", self.slot, self.generation)
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heading {
    /// To the host.
    FromContainer,
    /// To the container.
    ToContainer,
}

/// One direction of something spliced: what waits for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lane {
    /// Whose.
    pub id: SplicedId,
    /// Which.
    pub heading: Heading,
}

impl Stack {
    /// Whether what is spliced has to ask.
    #[must_use]
    pub fn is_shaping(&self) -> bool {
        self.shaping.is_on()
    }

    /// What it shares a rate with, by the rules in force.
    #[must_use]
    pub fn class_of_spliced(&self, what: &Spliced, now: Instant) -> ClassId {
        let Some(policy) = self.policy() else { return ClassId::default() };
        self.shaping.class_of_mark(policy.decide(&what.ask(), None, now).rule)
    }

    /// How many bytes may be moved at once; where none, it is noted, and its turn comes.
    pub fn ask_spliced(&mut self, lane: Lane, class: ClassId, now: Instant) -> usize {
        self.shaping.ask_spliced(lane, class, now)
    }

    /// Pays for what was moved, and notes it where there is more. Whether it may go on outside of all rates.
    pub fn pay_spliced(
        &mut self,
        lane: Lane,
        class: ClassId,
        bytes: usize,
        has_more: bool,
        now: Instant,
    ) -> bool {
        self.shaping.pay_spliced(lane, class, bytes, has_more, now)
    }

    /// The next whose turn has come, and how many bytes it may move. It is to be paid for before the core is flushed again,
    /// which gives the next turn.
    pub fn poll_spliced_turn(&mut self) -> Option<(Lane, usize)> {
        self.shaping.poll_spliced_turn()
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_spliced_turn(&self) -> bool {
        self.shaping.has_spliced_turn()
    }

    /// It is no more.
    pub fn forget_spliced(&mut self, id: SplicedId) {
        self.shaping.forget_spliced(id);
    }

    /// A datagram did not find room to wait.
    pub fn count_spliced_loss(&mut self) {
        self.stats.record(DropReason::RateLimit);
    }
}
