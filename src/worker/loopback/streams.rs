//! Spliced connections, by slot, and whose turn it is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;
use tracing::debug;

use super::is_worth_telling;
use crate::config::limits::SpliceLimits;
use crate::stack::boundary::FlowId;
use crate::stack::policy::judge::Spliced;
use crate::sys::socket::StreamSocket;
use crate::worker::splice::pool::CarrierPool;
use crate::worker::splice::{Progress, Readiness, Side, SplicedConnection};
use crate::worker::token::{FlowMark, Subject};

/// All spliced connections of a worker.
#[derive(Debug)]
pub struct Streams {
    registry: Option<Registry>,
    pool: CarrierPool,
    most: usize,
    connections: Slab<Joined>,
    /// Counts the lives of all slots.
    generation: u32,
    /// Those whose share of a turn was spent.
    behind: VecDeque<FlowMark>,
    has_closed: bool,
}

#[derive(Debug)]
struct Joined {
    generation: u32,
    connection: SplicedConnection,
    what: Spliced,
}

impl Streams {
    /// None yet.
    pub fn new(registry: &Registry, limits: SpliceLimits) -> Streams {
        Streams {
            // Without a registry every connection is refused.
            registry: registry.try_clone().ok(),
            pool: CarrierPool::new(limits),
            most: limits.connections,
            connections: Slab::new(),
            generation: 0,
            behind: VecDeque::new(),
            has_closed: false,
        }
    }

    /// Joins two sockets; a connection too many is reset.
    pub fn join(&mut self, initiating: StreamSocket, target: StreamSocket, what: Spliced) {
        if self.connections.len() >= self.most {
            debug!(most = self.most, "one spliced connection too many");
            initiating.reset();
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let connection = SplicedConnection::new(initiating, target);
        let slot = self.connections.insert(Joined { generation, connection, what });
        let mark = mark_of(slot, generation);
        if let Err(error) = self.watch(slot, mark) {
            debug!(%error, "a spliced connection cannot be watched");
            self.connections.remove(slot).connection.reset(&mut self.pool);
            return;
        }
        self.settle(slot, mark, Progress::Behind);
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

    /// Takes an event of one side's socket.
    pub fn handle_event(&mut self, mark: FlowMark, side: Side, event: &Event) {
        let Some(slot) = self.slot_of(mark) else { return };
        let readiness = Readiness {
            is_readable: event.is_readable() || event.is_read_closed(),
            is_writable: event.is_writable() || event.is_write_closed(),
            is_error: event.is_error(),
        };
        let progress = self.connections[slot].connection.handle_event(side, readiness, &mut self.pool);
        self.settle(slot, mark, progress);
    }

    /// Goes on with those that had more to do, each once.
    pub fn advance(&mut self) {
        for _ in 0..self.behind.len() {
            let Some(mark) = self.behind.pop_front() else { return };
            let Some(slot) = self.slot_of(mark) else { continue };
            let progress = self.connections[slot].connection.advance(&mut self.pool);
            self.settle(slot, mark, progress);
        }
    }

    /// Resets those that may not stay; how many.
    pub fn rejudge(&mut self, may_stay: &impl Fn(&Spliced) -> bool) -> usize {
        let over = self.connections.iter().filter(|(_, joined)| !may_stay(&joined.what));
        let over: Vec<usize> = over.map(|(slot, _)| slot).collect();
        self.has_closed |= !over.is_empty();
        for slot in &over {
            self.connections.remove(*slot).connection.reset(&mut self.pool);
        }
        over.len()
    }

    /// Whether [`Streams::advance`] has something to do.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
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
            Progress::Waiting => {}
            Progress::Behind => {
                if !self.behind.contains(&mark) {
                    self.behind.push_back(mark);
                }
            }
            Progress::Finished => self.connections.remove(slot).connection.finish(&mut self.pool),
            Progress::Failed(side, error) => {
                if is_worth_telling(error) {
                    debug!(?side, ?error, "a spliced connection failed");
                }
                self.connections.remove(slot).connection.reset(&mut self.pool);
            }
        }
    }
}

fn mark_of(slot: usize, generation: u32) -> FlowMark {
    FlowMark::new(FlowId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation })
}
