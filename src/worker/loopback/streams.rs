//! Spliced connections, by slot, and whose turn it is.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;
use tracing::debug;

use super::eye::Eye;
use super::pacing::{Moved, Pace, Pacing};
use super::{Way, is_worth_telling};
use crate::config::limits::SpliceLimits;
use crate::stack::boundary::{FlowId, Instant};
use crate::stack::policy::judge::Spliced;
use crate::stack::shape::ClassId;
use crate::stack::spliced::{Heading, Lane, SplicedId, SplicedKind};
use crate::sys::socket::StreamSocket;
use crate::sys::socket::info::{self, Ends, TcpInfo};
use crate::worker::recorder::stage::Place;
use crate::worker::splice::pool::CarrierPool;
use crate::worker::splice::{Progress, Readiness, Side, SplicedConnection, Yard};
use crate::worker::token::{FlowMark, Subject};

/// One connection, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// Its slot and which life of it.
    pub name: (u32, u32),
    /// Whether it leads into the container.
    pub is_inward: bool,
    /// When it began.
    pub since: Instant,
    /// Our socket in the container.
    pub inside: Ends,
    /// Our socket on the host.
    pub outside: Ends,
    /// How that is doing.
    pub info: Option<TcpInfo>,
    /// Bytes delivered to the host.
    pub from_container: u64,
    /// Bytes delivered to the container.
    pub to_container: u64,
}

/// All spliced connections of a worker.
#[derive(Debug)]
pub struct Streams {
    registry: Option<Registry>,
    yard: Yard,
    most: usize,
    connections: Slab<Joined>,
    /// Counts the lives of all slots.
    generation: u32,
    /// Those whose share of a turn was spent.
    behind: VecDeque<FlowMark>,
    has_closed: bool,
    pacing: Pacing,
}

#[derive(Debug)]
struct Joined {
    generation: u32,
    way: Way,
    since: Instant,
    connection: SplicedConnection,
    what: Spliced,
    /// Whom its target was connected to.
    server: SocketAddr,
    pace: Pace,
}

impl Joined {
    /// The side that sends what goes this way.
    fn source(&self, heading: Heading) -> Side {
        match (self.way, heading) {
            (Way::Inward, Heading::ToContainer) | (Way::Outward, Heading::FromContainer) => Side::Initiating,
            (Way::Inward, Heading::FromContainer) | (Way::Outward, Heading::ToContainer) => Side::Target,
        }
    }

    fn id(&self, slot: usize) -> SplicedId {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        SplicedId { kind: SplicedKind::Stream, slot, generation: self.generation }
    }

    fn watch(&mut self, slot: usize, yard: &mut Yard) {
        let initiating_place = match self.way {
            Way::Inward => Place::Host,
            Way::Outward => Place::Container,
        };
        let id = self.id(slot);
        self.connection.watch(id, initiating_place, self.server, yard);
    }
}

impl Streams {
    /// None yet.
    pub fn new(registry: &Registry, limits: SpliceLimits) -> Streams {
        Streams {
            // Without a registry every connection is refused.
            registry: registry.try_clone().ok(),
            yard: Yard { pool: CarrierPool::new(limits), eye: None },
            most: limits.connections,
            connections: Slab::new(),
            generation: 0,
            behind: VecDeque::new(),
            has_closed: false,
            pacing: Pacing::default(),
        }
    }

    /// Joins two sockets; a connection too many is reset.
    pub fn join(
        &mut self,
        initiating: StreamSocket,
        (target, server): (StreamSocket, SocketAddr),
        way: Way,
        what: Spliced,
        now: Instant,
    ) {
        if self.connections.len() >= self.most {
            debug!(most = self.most, "one spliced connection too many");
            initiating.reset();
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let mut connection = SplicedConnection::new(initiating, target);
        let pace = Pace::default();
        connection.pace(self.pacing.is_on());
        let joined = Joined { generation, way, since: now, connection, what, server, pace };
        let slot = self.connections.insert(joined);
        if self.yard.eye.is_some() {
            self.connections[slot].watch(slot, &mut self.yard);
        }
        let mark = mark_of(slot, generation);
        if let Err(error) = self.watch(slot, mark) {
            debug!(%error, "a spliced connection cannot be watched");
            self.take_out(slot).reset(&mut self.yard);
            return;
        }
        self.settle(slot, mark, Progress::Behind);
    }

    /// Has an eye look from now on, or none.
    pub fn look(&mut self, eye: Option<Box<Eye>>) {
        self.yard.eye = eye;
        for (slot, joined) in &mut self.connections {
            joined.watch(slot, &mut self.yard);
        }
    }

    /// Who looks, if anybody does.
    pub fn eye_mut(&mut self) -> &mut Option<Box<Eye>> {
        &mut self.yard.eye
    }

    fn watch(&self, slot: usize, mark: FlowMark) -> io::Result<()> {
        let registry = self.registry.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        let connection = &self.connections[slot].connection;
        let sides = [
            (Side::Initiating, Subject::SplicedInitiating(mark)),
            (Side::Target, Subject::SplicedTarget(mark)),
        ];
        for (side, subject) in sides {
            let descriptor = connection.socket(side).as_fd().as_raw_fd();
            registry.register(&mut SourceFd(&descriptor), subject.token(), interest)?;
        }
        Ok(())
    }

    fn slot_of(&self, mark: FlowMark) -> Option<usize> {
        let slot = mark.slot() as usize;
        let spliced = self.connections.get(slot)?;
        (mark_of(slot, spliced.generation) == mark).then_some(slot)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Slots of connections: none has a greater one.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.connections.capacity()).unwrap_or(u32::MAX)
    }

    /// The connection in a slot, if there is one.
    #[must_use]
    pub fn view(&self, slot: u32) -> Option<StreamView> {
        let spliced = self.connections.get(slot as usize)?;
        let connection = &spliced.connection;
        let ends = |side| info::ends(connection.socket(side));
        let info = |side| info::tcp_info(connection.socket(side)).ok();
        let ((initiating, target), (forth, back)) =
            ((Side::Initiating, Side::Target), connection.delivered_bytes());
        let (inner, outer, from_container, to_container) = match spliced.way {
            Way::Inward => (target, initiating, back, forth),
            Way::Outward => (initiating, target, forth, back),
        };
        Some(StreamView {
            name: (slot, spliced.generation),
            is_inward: matches!(spliced.way, Way::Inward),
            since: spliced.since,
            inside: ends(inner),
            outside: ends(outer),
            info: info(outer),
            from_container,
            to_container,
        })
    }

    /// Resets a connection. Whether there was one.
    pub fn end(&mut self, (slot, generation): (u32, u32)) -> bool {
        let slot = slot as usize;
        let is_there = self.connections.get(slot).is_some_and(|spliced| spliced.generation == generation);
        if is_there {
            self.has_closed = true;
            self.take_out(slot).reset(&mut self.yard);
        }
        is_there
    }

    /// Takes an event of one side's socket.
    pub fn handle_event(&mut self, mark: FlowMark, side: Side, event: &Event) {
        let Some(slot) = self.slot_of(mark) else { return };
        let readiness = Readiness {
            is_readable: event.is_readable() || event.is_read_closed(),
            is_writable: event.is_writable() || event.is_write_closed(),
            is_error: event.is_error(),
        };
        let progress = self.connections[slot].connection.handle_event(side, readiness, &mut self.yard);
        self.settle(slot, mark, progress);
    }

    /// Goes on with those that had more to do, each once.
    pub fn advance(&mut self) {
        for _ in 0..self.behind.len() {
            let Some(mark) = self.behind.pop_front() else { return };
            let Some(slot) = self.slot_of(mark) else { continue };
            let progress = self.connections[slot].connection.advance(&mut self.yard);
            self.settle(slot, mark, progress);
        }
    }

    /// Resets those that may not stay; how many.
    pub fn rejudge(&mut self, may_stay: &impl Fn(&Spliced) -> bool) -> usize {
        let over = self.connections.iter().filter(|(_, joined)| !may_stay(&joined.what));
        let over: Vec<usize> = over.map(|(slot, _)| slot).collect();
        self.has_closed |= !over.is_empty();
        for slot in &over {
            self.take_out(*slot).reset(&mut self.yard);
        }
        over.len()
    }

    /// Whether [`Streams::advance`] has something to do, or somebody is to be asked for.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty() || self.pacing.asking() > 0
    }

    /// From now on nothing moves but what is allowed, or everything.
    pub fn pace(&mut self, is_on: bool) {
        if !self.pacing.set(is_on) {
            return;
        }
        for (slot, joined) in &mut self.connections {
            joined.connection.pace(is_on);
            let mark = mark_of(slot, joined.generation);
            if !self.behind.contains(&mark) {
                self.behind.push_back(mark);
            }
        }
    }

    /// Those that wait for a turn.
    pub fn pacing_mut(&mut self) -> &mut Pacing {
        &mut self.pacing
    }

    /// What a connection shares a rate with, if it is there; `find` tells it the first time.
    pub fn class(&mut self, id: SplicedId, find: impl FnOnce(&Spliced) -> ClassId) -> Option<ClassId> {
        let joined = self.connections.get_mut(id.slot as usize)?;
        let Joined { generation, what, pace, .. } = joined;
        (*generation == id.generation).then(|| pace.class(|| find(what)))
    }

    /// Other rules are in force.
    pub fn forget_classes(&mut self) {
        self.connections.iter_mut().for_each(|(_, joined)| joined.pace.forget_class());
    }

    /// A turn: moves so many bytes one way.
    pub fn move_within(&mut self, lane: Lane, most: usize) -> Moved {
        let slot = lane.id.slot as usize;
        let known = self.connections.get_mut(slot).filter(|joined| joined.generation == lane.id.generation);
        let Some(joined) = known else { return Moved::default() };
        joined.pace.begin_turn(lane.heading);
        let source = joined.source(lane.heading);
        let (progress, bytes) = joined.connection.advance_within(source, most, &mut self.yard);
        let has_more = joined.connection.wants_allowance(source);
        if has_more {
            joined.pace.wait(lane.heading);
        }
        let is_over = matches!(progress, Progress::Finished | Progress::Failed(..));
        self.settle(slot, mark_of(slot, lane.id.generation), progress);
        Moved { bytes, has_more: has_more && !is_over }
    }

    /// It may have another turn outside of all rates.
    pub fn ask_again(&mut self, lane: Lane) {
        if let Some(joined) = self.connections.get_mut(lane.id.slot as usize)
            && joined.generation == lane.id.generation
        {
            joined.pace.begin_turn(lane.heading);
            self.pacing.note(&mut joined.pace, lane);
        }
    }

    /// Notes who could move something if it were allowed to.
    fn note_wants(&mut self, slot: usize) {
        if !self.pacing.is_on() {
            return;
        }
        let Some(joined) = self.connections.get_mut(slot) else { return };
        let id = joined.id(slot);
        for heading in [Heading::FromContainer, Heading::ToContainer] {
            if joined.connection.wants_allowance(joined.source(heading)) {
                self.pacing.note(&mut joined.pace, Lane { id, heading });
            }
        }
    }

    fn take_out(&mut self, slot: usize) -> SplicedConnection {
        let joined = self.connections.remove(slot);
        self.pacing.end(joined.id(slot), &joined.pace);
        joined.connection
    }

    /// Whether a connection has ended since the last call of [`Streams::forget_closed`].
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// See [`Streams::has_closed`].
    pub fn forget_closed(&mut self) {
        self.has_closed = false;
    }

    fn settle(&mut self, slot: usize, mark: FlowMark, progress: Progress) {
        self.has_closed |= matches!(progress, Progress::Finished | Progress::Failed(..));
        match progress {
            Progress::Waiting => self.note_wants(slot),
            Progress::Behind => {
                if !self.behind.contains(&mark) {
                    self.behind.push_back(mark);
                }
                self.note_wants(slot);
            }
            Progress::Finished => self.take_out(slot).finish(&mut self.yard),
            Progress::Failed(side, error) => {
                if is_worth_telling(error) {
                    debug!(?side, ?error, "a spliced connection failed");
                }
                self.take_out(slot).reset(&mut self.yard);
            }
        }
    }
}

fn mark_of(slot: usize, generation: u32) -> FlowMark {
    FlowMark::new(FlowId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation })
}
