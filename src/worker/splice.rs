//! A spliced connection: two host sockets whose bytes go from one to the other without entering the stack.
//!
//! For connections between the host's loopback and the container's, where no link lies between. The driver
//! watches both sockets, edge-triggered for reading and writing, and gives each event to
//! [`SplicedConnection::handle_event`]. Each direction moves bytes through a carrier ([`pool`]): taken when its
//! source has something, given back as soon as it is empty. A target that takes nothing leaves the carrier full,
//! and then the source's window closes: that is the whole of flow control.
//!
//! A source's end becomes the target's FIN once all before it is delivered; the other direction goes on
//! (RFC 9293 §3.6). An error on one side is a RST on the other, and what was under way is dropped, as TCP does
//! itself. Left out: timeouts and the forwarding decision, which come before and above.

pub mod pool;

use self::pool::{Carrier, CarrierPool};
use crate::sys::socket::{SocketError, StreamSocket, Transfer};

/// One of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was accepted.
    Initiating,
    /// The one that was connected, or is about to be.
    Target,
}

/// What the kernel said of a socket since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, the stream's end or an error can be read.
    pub is_readable: bool,
    /// Bytes can be written, or it can be learnt that they cannot.
    pub is_writable: bool,
    /// An error waits (`EPOLLERR`).
    pub is_error: bool,
}

/// How a turn of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more to do until an event.
    Waiting,
    /// Its share of this turn is spent: [`SplicedConnection::advance`] is due without an event.
    Behind,
    /// Both directions have ended and everything is delivered to the kernel: [`SplicedConnection::finish`] it.
    Finished,
    /// A side failed: [`SplicedConnection::reset`] it.
    Failed(Side, SocketError),
}

/// Two sockets and the bytes between them.
#[derive(Debug)]
pub struct SplicedConnection {
    initiating: StreamSocket,
    target: StreamSocket,
    /// From the initiating side to the target.
    forth: Direction,
    back: Direction,
}

#[derive(Debug)]
struct Direction {
    carrier: Option<Carrier>,
    phase: Phase,
    is_source_ready: bool,
    is_target_ready: bool,
    delivered_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The source has ended; what the carrier holds goes before the FIN.
    Ending,
    /// The FIN is sent.
    Ended,
}

/// Why a direction stopped, when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    Blocked,
    Budget,
}

/// Whose fault a direction's failure is.
enum Fault {
    Source(SocketError),
    Target(SocketError),
}

impl SplicedConnection {
    /// Joins an accepted socket and another that is connected or connecting. Watch both before the first
    /// [`SplicedConnection::advance`].
    pub fn new(initiating: StreamSocket, target: StreamSocket) -> SplicedConnection {
        initiating.forgo_pacing();
        target.forgo_pacing();
        SplicedConnection { initiating, target, forth: Direction::new(), back: Direction::new() }
    }

    /// The socket of a side, to be watched.
    pub fn socket(&self, side: Side) -> &StreamSocket {
        match side {
            Side::Initiating => &self.initiating,
            Side::Target => &self.target,
        }
    }

    /// Bytes delivered to the kernel: toward the target, toward the initiating side.
    pub fn delivered_bytes(&self) -> (u64, u64) {
        (self.forth.delivered_bytes, self.back.delivered_bytes)
    }

    /// Carriers it holds now; none when it is idle.
    pub fn carriers(&self) -> usize {
        usize::from(self.forth.carrier.is_some()) + usize::from(self.back.carrier.is_some())
    }

    /// A socket's readiness has changed.
    pub fn handle_event(&mut self, side: Side, readiness: Readiness, pool: &mut CarrierPool) -> Progress {
        let (outgoing, incoming) = match side {
            Side::Initiating => (&mut self.forth, &mut self.back),
            Side::Target => (&mut self.back, &mut self.forth),
        };
        outgoing.is_source_ready |= readiness.is_readable;
        incoming.is_target_ready |= readiness.is_writable;
        let progress = self.advance(pool);
        // A reset is seen by reading or writing; a side that has ended, or whose peer is slow, does neither.
        if readiness.is_error
            && !matches!(progress, Progress::Failed(..))
            && let Err(error) = self.socket(side).take_error()
        {
            return Progress::Failed(side, error);
        }
        progress
    }

    /// Moves what can be moved.
    pub fn advance(&mut self, pool: &mut CarrierPool) -> Progress {
        let forth = match self.forth.pump(&self.initiating, &self.target, pool) {
            Ok(pause) => pause,
            Err(Fault::Source(error)) => return Progress::Failed(Side::Initiating, error),
            Err(Fault::Target(error)) => return Progress::Failed(Side::Target, error),
        };
        let back = match self.back.pump(&self.target, &self.initiating, pool) {
            Ok(pause) => pause,
            Err(Fault::Source(error)) => return Progress::Failed(Side::Target, error),
            Err(Fault::Target(error)) => return Progress::Failed(Side::Initiating, error),
        };
        if self.forth.phase == Phase::Ended && self.back.phase == Phase::Ended {
            Progress::Finished
        } else if forth == Pause::Budget || back == Pause::Budget {
            Progress::Behind
        } else {
            Progress::Waiting
        }
    }

    /// Closes both sockets in the ordinary way; what the kernel has accepted it still delivers.
    pub fn finish(mut self, pool: &mut CarrierPool) {
        self.give_back(pool);
    }

    /// Closes both sockets with a RST.
    pub fn reset(mut self, pool: &mut CarrierPool) {
        self.give_back(pool);
        self.initiating.reset();
        self.target.reset();
    }

    fn give_back(&mut self, pool: &mut CarrierPool) {
        let carriers = [self.forth.carrier.take(), self.back.carrier.take()];
        carriers.into_iter().flatten().for_each(|carrier| pool.give_back(carrier));
    }
}

impl Direction {
    fn new() -> Direction {
        // Bytes may have come before the sockets were watched; asking once settles it.
        Direction {
            carrier: None,
            phase: Phase::Open,
            is_source_ready: true,
            is_target_ready: true,
            delivered_bytes: 0,
        }
    }

    /// Moves bytes until a socket has no more to give or to take, or the turn's share is spent.
    fn pump(
        &mut self,
        source: &StreamSocket,
        target: &StreamSocket,
        pool: &mut CarrierPool,
    ) -> Result<Pause, Fault> {
        let deadline_bytes = self.delivered_bytes + pool.limits().turn_bytes as u64;
        let pause = loop {
            let has_filled = self.fill(source, pool)?;
            let has_drained = self.drain(target)?;
            if !has_filled && !has_drained {
                break Pause::Blocked;
            }
            if self.delivered_bytes >= deadline_bytes {
                break Pause::Budget;
            }
        };
        if self.held_bytes() == 0 {
            self.carrier.take().into_iter().for_each(|carrier| pool.give_back(carrier));
            if self.phase == Phase::Ending {
                target.shutdown_write();
                self.phase = Phase::Ended;
            }
        }
        Ok(pause)
    }

    /// Whether the source gave anything, its end included.
    fn fill(&mut self, source: &StreamSocket, pool: &mut CarrierPool) -> Result<bool, Fault> {
        if self.phase != Phase::Open || !self.is_source_ready {
            return Ok(false);
        }
        let was_empty = self.held_bytes() == 0;
        let carrier = self.carrier.get_or_insert_with(|| pool.lend());
        match carrier.fill_from(source) {
            Transfer::Bytes(0) => self.phase = Phase::Ending,
            Transfer::Bytes(_) => {}
            Transfer::Blocked => {
                // With bytes held it may be the carrier that is full: the source is asked again after the target took some.
                self.is_source_ready = !was_empty;
                return Ok(false);
            }
            Transfer::Failed(error) => return Err(Fault::Source(error)),
        }
        Ok(true)
    }

    /// Whether the target took anything.
    fn drain(&mut self, target: &StreamSocket) -> Result<bool, Fault> {
        let Some(carrier) = &mut self.carrier else { return Ok(false) };
        if carrier.held_bytes() == 0 || !self.is_target_ready {
            return Ok(false);
        }
        match carrier.drain_into(target) {
            Transfer::Bytes(len) => self.delivered_bytes += len as u64,
            Transfer::Blocked => {
                self.is_target_ready = false;
                return Ok(false);
            }
            Transfer::Failed(error) => return Err(Fault::Target(error)),
        }
        Ok(true)
    }

    fn held_bytes(&self) -> usize {
        self.carrier.as_ref().map_or(0, Carrier::held_bytes)
    }
}

#[cfg(test)]
mod tests;
