//! One TCP flow: bytes between the container's endpoint and the host's socket.
//!
//! The relay owns no buffer. Toward the host it writes straight from the frame, or from the endpoint's receive buffer
//! when the host had no room; toward the container it reads straight into the transmit buffer, as much as its turn
//! allows ([`super::turns`]), and it stops when the other side blocks: so what one side has not taken is bounded by the
//! endpoint's window, and a slow reader slows its writer.
//!
//! Halves close separately. The container's FIN becomes a FIN of the host socket once every byte before it has
//! been written; the host's end of stream becomes a FIN of the endpoint. A failure of either side is a RST to
//! the other, never a FIN.

use super::super::boundary::{
    Action, CloseKind, Duration, FlowId, FrameSink, HostError, HostIo, Instant, Io, ListenerId, StreamRead,
    StreamWrite,
};
use super::super::service::names::Names;
use super::super::timer::Alarm;
use super::endpoint::{Endpoint, LinkView, Phase};
use super::handshakes::Handshake;
use super::overheard::{Overheard, Overhearing};
use super::queries::{Queries, Upstream};
use super::turns::Turn;
use crate::config::limits::KEEPALIVE_PROBES;
use crate::wire::tcp::Segment;

/// Bytes that a flow reads first: an answer and its header mostly fit.
const FIRST_READ_BYTES: usize = 4 << 10;
/// Bytes of one read of a flow whose reads are always filled.
const LARGEST_READ_BYTES: usize = 512 << 10;

/// How far a flow has come.
#[derive(Debug)]
pub enum Stage {
    /// The container's SYN is held while the host connects.
    Connecting {
        /// The beginning of the SYN's packet, to be quoted in an ICMP error.
        quote: Box<[u8]>,
        /// Resolvers tried so far, when this is a query of the DNS; none otherwise.
        resolvers_tried: Option<usize>,
    },
    /// The host's side is connected, and the container has yet to complete its handshake.
    Opening {
        /// The published port whose client waits for it; none where the container began.
        via: Option<ListenerId>,
    },
    /// Both sides are connected.
    Relaying,
}

/// Whose turn it is to do something for a flow to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// One side to complete the handshake.
    Handshake,
    /// The container to acknowledge data or a FIN, or to answer a probe of its closed window.
    Acknowledgement,
    /// The host to take the last bytes; the container is done.
    Host,
    /// Nobody in particular: either side may speak, or be silent for as long as it is there.
    Anybody,
}

/// What became of a flow that was advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Alive,
    /// It could move more at once, and wants another turn.
    Unfinished,
    /// Both halves have ended and we closed first: the pair of endpoints rests in TIME-WAIT.
    TimeWait,
    /// It is over.
    Over(CloseKind),
}

/// The state of one TCP flow.
#[derive(Debug)]
pub struct TcpFlow {
    /// Toward the container.
    pub endpoint: Endpoint,
    /// When it is next to be woken.
    pub alarm: Alarm,
    /// How far it has come.
    pub stage: Stage,
    /// Bytes of buffer charged to the total: what the buffers hold, and at least what they may always hold.
    pub charged_bytes: usize,
    /// It waits in the queue of flows to be advanced.
    pub queued: bool,
    /// Bytes of the next read: what the last ones brought, with room for more.
    read_bytes: usize,
    host_readable: bool,
    host_writable: bool,
    /// The host's connection is gone, as a write found.
    host_failure: Option<HostError>,
    /// The host's FIN has been read.
    host_finished: bool,
    /// Our FIN toward the host has been ordered.
    host_shut: bool,
    /// The container's FIN has been received.
    container_finished: bool,
    /// Bytes that may leave straight from a segment; the others wait in the buffer for a turn: there is a rate, or very much
    /// to do.
    pub most_direct: usize,
    /// Questions whether the container is still there since it last said something.
    pub probes: u8,
    /// Until when an answer to the last question may come.
    pub answer_by: Instant,
    /// The host's kernel has been told to ask the same of the peer.
    pub keeps_alive: bool,
    /// Set when it carries queries to a network's resolver, which are looked at one by one.
    pub(super) queries: Option<Box<Queries>>,
    /// Set when names are learnt from what it carries, which then passes in turns only.
    pub(super) overheard: Option<Box<Overheard>>,
}

impl TcpFlow {
    /// A flow at the beginning of its life.
    #[must_use]
    pub fn new(endpoint: Endpoint, stage: Stage) -> Self {
        TcpFlow {
            endpoint,
            alarm: Alarm::default(),
            stage,
            charged_bytes: 0,
            queued: false,
            read_bytes: FIRST_READ_BYTES,
            host_readable: false,
            host_writable: false,
            host_failure: None,
            host_finished: false,
            host_shut: false,
            container_finished: false,
            most_direct: usize::MAX,
            probes: 0,
            answer_by: Instant::ZERO,
            keeps_alive: false,
            queries: None,
            overheard: None,
        }
    }

    /// Whether the driver has a socket for it, connected or not; of queries to a network's resolver only where they need one.
    #[must_use]
    pub fn has_socket(&self) -> bool {
        let upstream = self.queries.as_ref().map(|queries| queries.upstream);
        matches!(upstream, None | Some(Upstream::Connecting { .. } | Upstream::Open))
    }

    fn has_host(&self) -> bool {
        self.queries.as_ref().is_none_or(|queries| queries.upstream == Upstream::Open)
    }

    /// Whether the handshake is complete on both sides.
    #[must_use]
    pub fn is_relaying(&self) -> bool {
        matches!(self.stage, Stage::Relaying)
    }

    /// Whether the container's half has ended, and whether the host's has.
    #[must_use]
    pub fn finished(&self) -> (bool, bool) {
        (self.container_finished, self.host_finished)
    }

    /// The handshake that is under way, unless it is complete on both sides.
    #[must_use]
    pub fn handshake(&self) -> Option<Handshake> {
        match self.stage {
            Stage::Connecting { .. } | Stage::Opening { via: None } => Some(Handshake::Outbound),
            Stage::Opening { via: Some(listener) } => Some(Handshake::Inbound(listener)),
            Stage::Relaying => None,
        }
    }

    /// Whose turn it is to do something for the flow to go on.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        if !self.is_relaying() {
            return Awaited::Handshake;
        }
        if self.endpoint.unacknowledged_bytes() > 0 || !self.endpoint.is_settled() {
            return Awaited::Acknowledgement;
        }
        match self.endpoint.phase() {
            Phase::TimeWait | Phase::Closed => Awaited::Host,
            Phase::Opening | Phase::Open | Phase::ContainerFinished => Awaited::Anybody,
        }
    }

    /// Whether a segment asks whether the other side is still there (RFC 9293 §3.8.4): not what probes a closed window,
    /// which looks the same.
    #[must_use]
    pub fn asks_after_host(&self, segment: &Segment<'_>) -> bool {
        self.is_relaying() && self.endpoint.received_bytes() == 0 && self.endpoint.is_question(segment)
    }

    /// Has the host's kernel ask the peer whether it is still there after so much silence, from now on.
    #[must_use]
    pub fn keep_host_alive(&mut self, flow: FlowId, idle: Duration, interval: Duration) -> Action {
        self.keeps_alive = true;
        Action::KeepAlive { flow, idle, interval, probes: KEEPALIVE_PROBES }
    }

    /// The host's socket is connected: it may be read and written.
    pub fn host_connected(&mut self) {
        self.host_readable = true;
        self.host_writable = true;
    }

    /// Reading the host may succeed again.
    pub fn host_readable(&mut self) {
        self.host_readable = true;
    }

    /// Writing to the host may succeed again.
    pub fn host_writable(&mut self) {
        self.host_writable = true;
    }

    /// Takes a segment of the container; what it brings goes straight to the host, as far as that takes it. How many bytes
    /// did.
    pub fn handle_segment(
        &mut self,
        flow: FlowId,
        segment: &Segment<'_>,
        is_marked: bool,
        link: &LinkView,
        now: Instant,
        host: &mut impl HostIo,
    ) -> usize {
        self.probes = 0;
        // What the endpoint delivers has followed a handshake, whether that has been noted or not.
        let is_direct = !matches!(self.stage, Stage::Connecting { .. })
            && self.queries.is_none()
            && self.overheard.is_none();
        let mut left = if is_direct && self.host_writable { self.most_direct } else { 0 };
        let most = left;
        let (host_writable, host_failure) = (&mut self.host_writable, &mut self.host_failure);
        self.endpoint.handle_segment(segment, is_marked, link, now, |bytes| {
            if left == 0 {
                return 0;
            }
            match host.send_stream(flow, &bytes[..bytes.len().min(left)]) {
                StreamWrite::Bytes(count) => {
                    left -= count;
                    count
                }
                StreamWrite::Blocked => {
                    *host_writable = false;
                    0
                }
                // Told once: what is read after it is an end that nobody sent.
                StreamWrite::Failed(error) => {
                    *host_failure = Some(error);
                    0
                }
            }
        });
        most - left
    }

    /// Writes to the host what the container has sent, as long as the host takes it and the turn lasts.
    fn relay_to_host(
        &mut self,
        flow: FlowId,
        host: &mut impl HostIo,
        turn: &mut Turn<'_>,
    ) -> Result<(), HostError> {
        if let Some(error) = self.host_failure {
            return Err(error);
        }
        while self.can_write_on() && turn.moved_up < turn.most_up {
            let mut failure = None;
            let host_writable = &mut self.host_writable;
            let (left, moved) = (turn.most_up - turn.moved_up, &mut turn.moved_up);
            self.endpoint.receive_with(|bytes| {
                match host.send_stream(flow, &bytes[..bytes.len().min(left)]) {
                    StreamWrite::Bytes(count) => {
                        *moved += count;
                        count
                    }
                    StreamWrite::Blocked => {
                        *host_writable = false;
                        0
                    }
                    StreamWrite::Failed(error) => {
                        failure = Some(error);
                        0
                    }
                }
            });
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads from the host what fits toward the container and into the turn. What a flow without a buffer reads comes by
    /// way of the turn's scratch buffer, so that it gets one only as large as what there is.
    fn relay_to_container(
        &mut self,
        flow: FlowId,
        host: &mut impl HostIo,
        turn: &mut Turn<'_>,
    ) -> Result<(), HostError> {
        while self.can_read_on() && turn.moved < turn.most {
            let (mut outcome, mut offered) = (StreamRead::Blocked, 0);
            let wanted = self.read_bytes.min(turn.most - turn.moved);
            if self.endpoint.has_transmit_memory() {
                self.endpoint.transmit_with(wanted, |space| {
                    offered = space.len();
                    outcome = host.receive_stream(flow, space);
                    match outcome {
                        StreamRead::Bytes(count) => count,
                        StreamRead::End | StreamRead::Blocked | StreamRead::Failed(_) => 0,
                    }
                });
            } else {
                offered = wanted.min(self.endpoint.transmit_space()).min(turn.scratch.len());
                outcome = host.receive_stream(flow, &mut turn.scratch[..offered]);
                if let StreamRead::Bytes(count) = outcome {
                    self.endpoint.transmit_with(count, |space| {
                        space.copy_from_slice(&turn.scratch[..count]);
                        count
                    });
                }
            }
            match outcome {
                StreamRead::Bytes(count) => {
                    turn.moved += count;
                    self.learn_read(count, offered);
                }
                StreamRead::Blocked => self.host_readable = false,
                StreamRead::End => {
                    self.host_readable = false;
                    self.host_finished = true;
                    self.endpoint.close();
                }
                StreamRead::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the container has sent something that the host may take.
    #[must_use]
    pub fn can_write_on(&self) -> bool {
        let is_stream = self.is_relaying() && self.queries.is_none();
        is_stream && self.host_writable && self.endpoint.received_bytes() > 0
    }

    /// The same for queries to a network's resolver.
    fn relay_queries(
        &mut self,
        flow: FlowId,
        names: &Names,
        host: &mut impl HostIo,
        turn: &mut Turn<'_>,
    ) -> Result<(), HostError> {
        let Some(queries) = &mut self.queries else { return Ok(()) };
        if !matches!(self.stage, Stage::Relaying) {
            return Ok(());
        }
        let endpoint = &mut self.endpoint;
        queries.relay_to_host(flow, endpoint, names, &mut self.host_writable, host)?;
        let read = queries.relay_to_container(flow, endpoint, &mut self.host_readable, host, turn)?;
        // What waited for our answers to leave may be read now.
        queries.relay_to_host(flow, endpoint, names, &mut self.host_writable, host)?;
        // A client that has asked all it wants is done as soon as it has its answers; nobody on the host's side has to say
        // so, where nobody was asked.
        let has_asked_all = self.endpoint.phase() == Phase::ContainerFinished
            && self.endpoint.received_bytes() == 0
            && queries.is_settled()
            && matches!(queries.upstream, Upstream::Unneeded | Upstream::Failed);
        if read == StreamRead::End || has_asked_all {
            self.host_finished = true;
            self.endpoint.close();
        }
        Ok(())
    }

    /// Whether the host may have more, and there is room for it.
    #[must_use]
    pub fn can_read_on(&self) -> bool {
        self.is_relaying() && self.host_readable && self.endpoint.transmit_space() > 0
    }

    /// Reads that are filled grow, so that a bulk transfer takes few and a short answer little memory.
    fn learn_read(&mut self, count: usize, offered: usize) {
        if count == offered {
            self.read_bytes = (4 * self.read_bytes).min(LARGEST_READ_BYTES);
        } else if count < self.read_bytes / 8 {
            self.read_bytes = (self.read_bytes / 2).max(FIRST_READ_BYTES);
        }
    }

    /// Moves what can move in one turn, lets the endpoint speak, and says what became of the flow.
    #[allow(clippy::too_many_arguments)]
    pub fn advance<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        link: &LinkView,
        names: Option<&Names>,
        now: Instant,
        io: &mut Io<'_, H, F>,
        actions: &mut impl Extend<Action>,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        self.settle_stage();
        let moved = match self.overheard.take() {
            Some(mut overheard) => {
                let mut host = Overhearing { host: &mut *io.host, overheard: &mut overheard };
                let moved = self.relay(flow, names, &mut host, turn);
                self.overheard = Some(overheard);
                moved
            }
            None => self.relay(flow, names, io.host, turn),
        };
        let Ok(()) = moved else {
            // The host's connection is gone, and with it whatever it had not delivered.
            self.endpoint.abort();
            self.endpoint.poll_transmit(link, now, io.frames);
            return Outcome::Over(CloseKind::Graceful);
        };
        self.endpoint.poll_transmit(link, now, io.frames);
        match self.settle_end(flow, actions) {
            Outcome::Alive if self.can_read_on() => Outcome::Unfinished,
            outcome => outcome,
        }
    }

    fn relay(
        &mut self,
        flow: FlowId,
        names: Option<&Names>,
        host: &mut impl HostIo,
        turn: &mut Turn<'_>,
    ) -> Result<(), HostError> {
        match names.filter(|_| self.queries.is_some()) {
            Some(names) => self.relay_queries(flow, names, host, turn),
            None => {
                self.relay_to_host(flow, host, turn)?;
                self.relay_to_container(flow, host, turn)
            }
        }
    }

    /// Queries that have been answered, with their answers, where names are learnt from them.
    pub fn take_overheard(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.overheard.as_deref_mut().map(Overheard::take_answered).unwrap_or_default()
    }

    /// A flow relays as soon as the container has completed its handshake.
    fn settle_stage(&mut self) {
        if matches!(self.stage, Stage::Opening { .. })
            && matches!(self.endpoint.phase(), Phase::Open | Phase::ContainerFinished)
        {
            self.stage = Stage::Relaying;
        }
    }

    fn settle_end(&mut self, flow: FlowId, actions: &mut impl Extend<Action>) -> Outcome {
        let phase = self.endpoint.phase();
        if matches!(phase, Phase::ContainerFinished | Phase::TimeWait) {
            self.container_finished = true;
        }
        let is_settled = self.queries.as_ref().is_none_or(|queries| queries.is_settled());
        let drained = self.endpoint.received_bytes() == 0 && is_settled;
        if self.container_finished && drained && self.is_relaying() && !self.host_shut && self.has_host() {
            self.host_shut = true;
            actions.extend([Action::ShutdownWrite { flow }]);
        }
        match phase {
            Phase::Opening | Phase::Open | Phase::ContainerFinished => Outcome::Alive,
            Phase::TimeWait if drained => Outcome::TimeWait,
            Phase::Closed if !(self.container_finished && self.host_finished) => {
                Outcome::Over(CloseKind::Reset)
            }
            Phase::Closed if drained => Outcome::Over(CloseKind::Graceful),
            // Both sides are done with each other, but the host has yet to take the last bytes.
            Phase::TimeWait | Phase::Closed => Outcome::Alive,
        }
    }
}
