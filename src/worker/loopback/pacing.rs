//! What is spliced, within rates: who asks for a turn, and who has to be told of no longer.
//!
//! While anything is limited, nothing is moved but what the core allows ([`crate::stack::spliced`]). Whoever could move something is
//! noted here once, and stays noted until it has had its turn: the driver asks for it, moves what it may, and pays.

use std::collections::VecDeque;

use super::Loopback;
use crate::stack::policy::judge::Spliced;
use crate::stack::shape::ClassId;
use crate::stack::spliced::{Heading, Lane, SplicedId, SplicedKind};

/// Those of one kind that wait.
#[derive(Debug, Default)]
pub struct Pacing {
    is_on: bool,
    asking: VecDeque<Lane>,
    closed: Vec<SplicedId>,
}

/// What one of them is known by.
#[derive(Debug, Default)]
pub struct Pace {
    is_noted: [bool; 2],
    /// What it shares a rate with, once that was asked for.
    class: Option<ClassId>,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes.
    pub bytes: usize,
    /// There are more.
    pub has_more: bool,
}

impl Pacing {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Sets it; whether that is news.
    pub fn set(&mut self, is_on: bool) -> bool {
        std::mem::replace(&mut self.is_on, is_on) != is_on
    }

    /// It could move something: it is noted, unless it is already.
    pub fn note(&mut self, pace: &mut Pace, lane: Lane) {
        if !std::mem::replace(&mut pace.is_noted[index(lane.heading)], true) {
            self.asking.push_back(lane);
        }
    }

    /// How many are to be asked for.
    #[must_use]
    pub fn asking(&self) -> usize {
        self.asking.len()
    }

    /// The next that is to be asked for.
    pub fn take_next(&mut self) -> Option<Lane> {
        self.asking.pop_front()
    }

    /// It is no more. Only one that has asked is known to anybody.
    pub fn end(&mut self, id: SplicedId, pace: &Pace) {
        if pace.class.is_some() {
            self.closed.push(id);
        }
    }

    /// Those that are no more since the last call.
    pub fn take_closed(&mut self) -> Vec<SplicedId> {
        std::mem::take(&mut self.closed)
    }
}

impl Pace {
    /// It has its turn, and may be noted again.
    pub fn begin_turn(&mut self, heading: Heading) {
        self.is_noted[index(heading)] = false;
    }

    /// It waits for another turn, of which somebody else knows.
    pub fn wait(&mut self, heading: Heading) {
        self.is_noted[index(heading)] = true;
    }

    /// Its class, which `find` tells the first time.
    pub fn class(&mut self, find: impl FnOnce() -> ClassId) -> ClassId {
        *self.class.get_or_insert_with(find)
    }

    /// Other rules are in force.
    pub fn forget_class(&mut self) {
        if self.class.is_some() {
            self.class = None;
        }
    }
}

impl Loopback {
    /// Whether anything is limited, as far as it knows.
    pub(in crate::worker) fn is_paced(&mut self) -> bool {
        self.streams.pacing_mut().is_on()
    }

    /// From now on nothing moves but what is allowed, or everything.
    pub(in crate::worker) fn pace(&mut self, is_on: bool) {
        self.streams.pace(is_on);
        self.datagrams.pace(is_on);
    }

    /// How many are to be asked for.
    pub(in crate::worker) fn asking(&mut self) -> usize {
        self.streams.pacing_mut().asking() + self.datagrams.pacing_mut().asking()
    }

    pub(in crate::worker) fn next_asking(&mut self) -> Option<Lane> {
        self.streams.pacing_mut().take_next().or_else(|| self.datagrams.pacing_mut().take_next())
    }

    pub(in crate::worker) fn class(
        &mut self,
        lane: Lane,
        find: impl FnOnce(&Spliced) -> ClassId,
    ) -> Option<ClassId> {
        match lane.id.kind {
            SplicedKind::Stream => self.streams.class(lane.id, find),
            SplicedKind::Exchange => self.datagrams.class(lane.id, find),
        }
    }

    pub(in crate::worker) fn move_within(&mut self, lane: Lane, most: usize) -> Moved {
        match lane.id.kind {
            SplicedKind::Stream => self.streams.move_within(lane, most),
            SplicedKind::Exchange => self.datagrams.move_within(lane, most),
        }
    }

    pub(in crate::worker) fn ask_again(&mut self, lane: Lane) {
        match lane.id.kind {
            SplicedKind::Stream => self.streams.ask_again(lane),
            SplicedKind::Exchange => self.datagrams.ask_again(lane),
        }
    }

    /// Other rules are in force.
    pub(in crate::worker) fn forget_classes(&mut self) {
        self.streams.forget_classes();
        self.datagrams.forget_classes();
    }

    pub(in crate::worker) fn take_closed(&mut self) -> Vec<SplicedId> {
        let mut closed = self.streams.pacing_mut().take_closed();
        closed.extend(self.datagrams.pacing_mut().take_closed());
        closed
    }

    pub(in crate::worker) fn take_lost(&mut self) -> u64 {
        self.datagrams.take_lost()
    }
}

fn index(heading: Heading) -> usize {
    match heading {
        Heading::FromContainer => 0,
        Heading::ToContainer => 1,
    }
}
