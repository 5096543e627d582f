//! A spliced connection: two host sockets whose bytes go from one to the other without entering the stack.
//!
//! For connections between the host's loopback and the container's, where no link lies between. The driver
//! watches both sockets, edge-triggered for reading and writing, and gives each event to
//! [`SplicedConnection::handle_event`]. Each direction moves bytes through a carrier ([`pool`]): taken when its
//! source has something, given back as soon as it is empty. A target that takes nothing leaves the carrier full,
//! and then the source's window closes: that is the whole of flow control.
//!
//! While somebody looks at a connection ([`SplicedConnection::watch`]) it is carried by buffers, and what is read and written is
//! told to an [`Eye`]; afterwards by pipes again.
//!
//! A source's end becomes the target's FIN once all before it is delivered; the other direction goes on
//! (RFC 9293 §3.6). An error on one side is a RST on the other, and what was under way is dropped, as TCP does
//! itself. Left out: timeouts and the forwarding decision, which come before and above.

pub mod pool;

use std::net::SocketAddr;

use self::pool::{Carrier, CarrierPool};
use super::loopback::eye::{Eye, Known, first_sight};
use super::recorder::host_side::{End, Happening};
use super::recorder::stage::Place;
use crate::stack::flow::FlowProtocol;
use crate::stack::spliced::SplicedId;
use crate::sys::socket::{SocketError, StreamSocket, Transfer, info};

/// What the connections of a worker share.
#[derive(Debug)]
pub struct Yard {
    /// What carries their bytes.
    pub pool: CarrierPool,
    /// Who looks at them, if anybody does.
    pub eye: Option<Box<Eye>>,
}

/// One of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was accepted.
    Initiating,
    /// The one that was connected, or is about to be.
    Target,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Initiating => Side::Target,
            Side::Target => Side::Initiating,
        }
    }
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
    /// The target has agreed.
    is_established: bool,
    /// Somebody looks.
    watched: Option<Box<Watched>>,
}

/// What those who look know of a connection.
#[derive(Debug, Clone, Copy)]
struct Watched {
    known: Known,
    /// Where the accepted socket is.
    initiating_place: Place,
}

/// The source of a direction, as those who look know it.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    known: Known,
    source: Place,
    target: Place,
}

#[derive(Debug)]
struct Direction {
    carrier: Option<Carrier>,
    phase: Phase,
    is_source_ready: bool,
    is_target_ready: bool,
    delivered_bytes: u64,
    filled_bytes: u64,
    /// What of the source's may be taken, where that is paced.
    allowance: Option<usize>,
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
        let (forth, back) = (Direction::new(), Direction::new());
        SplicedConnection { initiating, target, forth, back, is_established: false, watched: None }
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

    /// Has it seen from now on, as `id`, if the eye wants it, or no longer. `server` is whom the target was connected to.
    pub fn watch(&mut self, id: SplicedId, initiating_place: Place, server: SocketAddr, yard: &mut Yard) {
        let Some(eye) = &mut yard.eye else {
            self.watched = None;
            return;
        };
        if let Some(watched) = &self.watched {
            if !eye.wants(&watched.known.key) {
                for place in [Place::Container, Place::Host] {
                    eye.see(&watched.known, place, Happening::Unwatched, &[]);
                }
                self.watched = None;
            }
            return;
        }
        let (accepted, connected) = (info::ends(&self.initiating), info::ends(&self.target));
        // One that has failed meanwhile has no ends that could be shown.
        let (Some(client), Some(door), Some(ours)) = (accepted.peer, accepted.local, connected.local) else {
            return;
        };
        let server = connected.peer.unwrap_or(server);
        let (own, remote) = match initiating_place {
            Place::Container => (client, door),
            Place::Host => (server, ours),
        };
        let known = Known::new(id, FlowProtocol::Tcp, own, remote);
        if !eye.wants(&known.key) {
            return;
        }
        let is_new = !self.is_established;
        eye.see(&known, initiating_place, first_sight(door, client, End::Peer, is_new), &[]);
        eye.see(&known, initiating_place, Happening::Established, &[]);
        eye.see(&known, initiating_place.other(), first_sight(ours, server, End::Ours, is_new), &[]);
        self.watched = Some(Box::new(Watched { known, initiating_place }));
    }

    fn see(&self, side: Side, happening: Happening, yard: &mut Yard) {
        if let (Some(watched), Some(eye)) = (&self.watched, &mut yard.eye) {
            eye.see(&watched.known, watched.place(side), happening, &[]);
        }
    }

    fn note_established(&mut self, yard: &mut Yard) {
        if !std::mem::replace(&mut self.is_established, true) {
            self.see(Side::Target, Happening::Established, yard);
        }
    }

    /// From now on nothing is taken but what [`SplicedConnection::advance_within`] allows, or whatever there is.
    pub fn pace(&mut self, is_paced: bool) {
        let allowance = is_paced.then_some(0);
        (self.forth.allowance, self.back.allowance) = (allowance, allowance);
    }

    /// Whether bytes of a side wait for an allowance.
    pub fn wants_allowance(&self, source: Side) -> bool {
        match source {
            Side::Initiating => self.forth.wants_allowance(),
            Side::Target => self.back.wants_allowance(),
        }
    }

    /// Moves so many bytes of a side at most, if it is paced; how many it were.
    pub fn advance_within(&mut self, source: Side, most: usize, yard: &mut Yard) -> (Progress, usize) {
        let direction = |connection: &mut SplicedConnection, allowance| {
            let direction = match source {
                Side::Initiating => &mut connection.forth,
                Side::Target => &mut connection.back,
            };
            if direction.allowance.is_some() {
                direction.allowance = Some(allowance);
            }
            direction.filled_bytes
        };
        let before = direction(self, most);
        let progress = self.advance(yard);
        let after = direction(self, 0);
        (progress, usize::try_from(after - before).unwrap_or(usize::MAX))
    }

    /// A socket's readiness has changed.
    pub fn handle_event(&mut self, side: Side, readiness: Readiness, yard: &mut Yard) -> Progress {
        let (outgoing, incoming) = match side {
            Side::Initiating => (&mut self.forth, &mut self.back),
            Side::Target => (&mut self.back, &mut self.forth),
        };
        outgoing.is_source_ready |= readiness.is_readable;
        incoming.is_target_ready |= readiness.is_writable;
        if side == Side::Target && readiness.is_writable && !readiness.is_error {
            self.note_established(yard);
        }
        let progress = self.advance(yard);
        // A reset is seen by reading or writing; a side that has ended, or whose peer is slow, does neither.
        if readiness.is_error
            && !matches!(progress, Progress::Failed(..))
            && let Err(error) = self.socket(side).take_error()
        {
            return self.failed(side, error, yard);
        }
        progress
    }

    /// Moves what can be moved.
    pub fn advance(&mut self, yard: &mut Yard) -> Progress {
        // Who looks is to see that it is connected before the first byte.
        if self.watched.is_some() && !self.is_established && self.target.peer_address().is_ok() {
            self.note_established(yard);
        }
        let seen = |side| self.watched.as_ref().map(|watched| watched.sighting(side));
        let (seen_forth, seen_back) = (seen(Side::Initiating), seen(Side::Target));
        let forth = match self.forth.pump(&self.initiating, &self.target, seen_forth, yard) {
            Ok(pause) => pause,
            Err(Fault::Source(error)) => return self.failed(Side::Initiating, error, yard),
            Err(Fault::Target(error)) => return self.failed(Side::Target, error, yard),
        };
        let back = match self.back.pump(&self.target, &self.initiating, seen_back, yard) {
            Ok(pause) => pause,
            Err(Fault::Source(error)) => return self.failed(Side::Target, error, yard),
            Err(Fault::Target(error)) => return self.failed(Side::Initiating, error, yard),
        };
        if self.forth.delivered_bytes > 0 || self.back.delivered_bytes > 0 {
            self.note_established(yard);
        }
        if self.forth.phase == Phase::Ended && self.back.phase == Phase::Ended {
            Progress::Finished
        } else if forth == Pause::Budget || back == Pause::Budget {
            Progress::Behind
        } else {
            Progress::Waiting
        }
    }

    fn failed(&mut self, side: Side, error: SocketError, yard: &mut Yard) -> Progress {
        match error {
            SocketError::Refused if side == Side::Target && !self.is_established => {
                self.see(side, Happening::Refused, yard);
            }
            SocketError::Refused | SocketError::Reset => self.see(side, Happening::Reset(End::Peer), yard),
            // Our reset is all there is of others.
            _ => {}
        }
        Progress::Failed(side, error)
    }

    /// Closes both sockets in the ordinary way; what the kernel has accepted it still delivers.
    pub fn finish(mut self, yard: &mut Yard) {
        for side in [Side::Initiating, Side::Target] {
            self.see(side, Happening::Closed, yard);
        }
        self.give_back(&mut yard.pool);
    }

    /// Closes both sockets with a RST.
    pub fn reset(mut self, yard: &mut Yard) {
        for side in [Side::Initiating, Side::Target] {
            // Who was reset himself is no more.
            self.see(side, Happening::Reset(End::Ours), yard);
        }
        self.give_back(&mut yard.pool);
        self.initiating.reset();
        self.target.reset();
    }

    fn give_back(&mut self, pool: &mut CarrierPool) {
        let carriers = [self.forth.carrier.take(), self.back.carrier.take()];
        carriers.into_iter().flatten().for_each(|carrier| pool.give_back(carrier));
    }
}

impl Watched {
    fn place(&self, side: Side) -> Place {
        match side {
            Side::Initiating => self.initiating_place,
            Side::Target => self.initiating_place.other(),
        }
    }

    fn sighting(&self, source: Side) -> Sighting {
        Sighting { known: self.known, source: self.place(source), target: self.place(source.other()) }
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
            filled_bytes: 0,
            allowance: None,
        }
    }

    /// Moves bytes until a socket has no more to give or to take, or the turn's share is spent.
    fn pump(
        &mut self,
        source: &StreamSocket,
        target: &StreamSocket,
        seen: Option<Sighting>,
        yard: &mut Yard,
    ) -> Result<Pause, Fault> {
        if let (Some(carrier), true) = (&mut self.carrier, seen.is_some()) {
            yard.pool.make_visible(carrier);
        }
        let deadline_bytes = self.delivered_bytes + yard.pool.limits().turn_bytes as u64;
        let pause = loop {
            let has_filled = self.fill(source, seen.as_ref(), yard)?;
            let has_drained = self.drain(target, seen.as_ref(), yard)?;
            if !has_filled && !has_drained {
                break Pause::Blocked;
            }
            if self.delivered_bytes >= deadline_bytes {
                break Pause::Budget;
            }
        };
        if self.held_bytes() == 0 {
            self.carrier.take().into_iter().for_each(|carrier| yard.pool.give_back(carrier));
            if self.phase == Phase::Ending {
                target.shutdown_write();
                self.phase = Phase::Ended;
                if let (Some(seen), Some(eye)) = (&seen, &mut yard.eye) {
                    eye.see(&seen.known, seen.target, Happening::Finished(End::Ours), &[]);
                }
            }
        }
        Ok(pause)
    }

    /// Whether the source gave anything, its end included.
    fn fill(
        &mut self,
        source: &StreamSocket,
        seen: Option<&Sighting>,
        yard: &mut Yard,
    ) -> Result<bool, Fault> {
        if self.phase != Phase::Open || !self.is_source_ready {
            return Ok(false);
        }
        let was_empty = self.held_bytes() == 0;
        let most = self.allowance.unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(false);
        }
        let pool = &mut yard.pool;
        let carrier =
            self.carrier.get_or_insert_with(|| if seen.is_some() { pool.lend_buffer() } else { pool.lend() });
        let mut see = |happening, bytes: &[u8]| {
            if let (Some(seen), Some(eye)) = (seen, &mut yard.eye) {
                eye.see(&seen.known, seen.source, happening, bytes);
            }
        };
        match carrier.fill_from(source, most, |bytes| see(Happening::Sent(End::Peer), bytes)) {
            Transfer::Bytes(0) => {
                self.phase = Phase::Ending;
                see(Happening::Finished(End::Peer), &[]);
            }
            Transfer::Bytes(len) => {
                self.filled_bytes += len as u64;
                self.allowance = self.allowance.map(|most| most - len);
            }
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
    fn drain(
        &mut self,
        target: &StreamSocket,
        seen: Option<&Sighting>,
        yard: &mut Yard,
    ) -> Result<bool, Fault> {
        let Some(carrier) = &mut self.carrier else { return Ok(false) };
        if carrier.held_bytes() == 0 || !self.is_target_ready {
            return Ok(false);
        }
        let see = |bytes: &[u8]| {
            if let (Some(seen), Some(eye)) = (seen, &mut yard.eye) {
                eye.see(&seen.known, seen.target, Happening::Sent(End::Ours), bytes);
            }
        };
        match carrier.drain_into(target, see) {
            Transfer::Bytes(len) => self.delivered_bytes += len as u64,
            Transfer::Blocked => {
                self.is_target_ready = false;
                return Ok(false);
            }
            Transfer::Failed(error) => return Err(Fault::Target(error)),
        }
        Ok(true)
    }

    /// It would go on if it were allowed to.
    fn wants_allowance(&self) -> bool {
        self.allowance == Some(0)
            && self.phase == Phase::Open
            && self.is_source_ready
            && self.held_bytes() == 0
    }

    fn held_bytes(&self) -> usize {
        self.carrier.as_ref().map_or(0, Carrier::held_bytes)
    }
}

#[cfg(test)]
mod tests;
