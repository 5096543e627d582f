//! What somebody sees who asks: counters, and flows: who talks to whom, how far it has come, what it has carried.
//!
//! Nothing is kept for it but what the flow table counts anyway. A walk goes by slots, so that it can be stopped anywhere and gone on with
//! later: a flow that lives all the while is met exactly once.

use std::net::{IpAddr, SocketAddr};

use super::boundary::{Duration, FlowId, FrameSink, HostIo, Instant, Io, ListenerId};
use super::flow::{Carried, FlowKey, HostSide};
use super::policy::RuleMark;
use super::stats::Stats;
use super::tcp::relay::{Stage, TcpFlow};
use super::{Flow, Stack};

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// The user's hook has yet to say whether it may begin.
    Asking,
    /// The host connects; the container waits.
    Connecting,
    /// The host is connected; the container has yet to complete its handshake.
    Opening,
    /// Both sides may speak.
    Established,
    /// The container has sent its FIN, the host has not.
    ContainerClosed,
    /// The host has sent its FIN, the container has not.
    HostClosed,
    /// Both have, and something is yet to be delivered.
    Closing,
    /// The pair of endpoints rests.
    TimeWait,
}

impl FlowState {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FlowState::Asking => "asking",
            FlowState::Connecting => "connecting",
            FlowState::Opening => "opening",
            FlowState::Established => "established",
            FlowState::ContainerClosed => "container-closed",
            FlowState::HostClosed => "host-closed",
            FlowState::Closing => "closing",
            FlowState::TimeWait => "time-wait",
        }
    }
}

/// One flow, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowView {
    /// Its name.
    pub flow: FlowId,
    /// Its endpoints, as the container sees them.
    pub key: FlowKey,
    /// How far it has come.
    pub state: FlowState,
    /// Its other side: whom the host's socket is for, and how it is translated.
    pub side: HostSide,
    /// Whether it is a client of a published UDP port, who share its socket.
    pub shares_socket: bool,
    /// When it came to be.
    pub since: Instant,
    /// When it last carried anything.
    pub last_active: Instant,
    /// What it has carried: packets on the link, a super-segment or a joined run of datagrams being one, and their bytes from
    /// the IP header on.
    pub carried: Carried,
    /// What a round trip to the container takes, once measured.
    pub round_trip: Option<Duration>,
    /// Segments that the container was sent again.
    pub retransmissions: u32,
    /// Bytes of the container that the host has not taken, and of the host that the container has not acknowledged.
    pub waiting: (usize, usize),
}

impl Stack {
    /// Slots of flows: none has a greater one.
    #[must_use]
    pub fn flow_slots(&self) -> u32 {
        self.flows.slots()
    }

    /// TCP flows whose handshake is not complete on both sides.
    #[must_use]
    pub fn half_open_count(&self) -> usize {
        self.handshakes.count()
    }

    /// The flow in a slot, if there is one.
    #[must_use]
    pub fn view_flow(&self, slot: u32) -> Option<FlowView> {
        let met = self.flows.meet(slot)?;
        let mut view = FlowView {
            flow: met.flow,
            key: met.key,
            state: FlowState::TimeWait,
            side: met.side,
            shares_socket: false,
            since: met.since,
            last_active: met.last_active,
            carried: met.carried,
            round_trip: None,
            retransmissions: 0,
            waiting: (0, 0),
        };
        let opened = |is_open| if is_open { FlowState::Established } else { FlowState::Connecting };
        match met.body {
            Flow::Tcp(tcp) => {
                view.state = state_of(tcp);
                (view.round_trip, view.retransmissions) = tcp.endpoint.health();
                view.waiting = (tcp.endpoint.received_bytes(), tcp.endpoint.unacknowledged_bytes());
            }
            Flow::TimeWait(_) => {}
            Flow::Udp(udp) => {
                view.state = opened(udp.is_open());
                view.shares_socket = udp.client().is_some();
            }
            Flow::Echo(echo) => view.state = opened(echo.is_open()),
        }
        if met.side.rule == RuleMark::AWAITED {
            view.state = FlowState::Asking;
        }
        Some(view)
    }

    /// Ends a flow: a RST to both sides of TCP, silence for the others. Whether there was one.
    pub fn kill_flow<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> bool {
        let is_there = self.flows.get(flow).is_some();
        self.enter(io, now, |stack, io| stack.end_flow(flow, now, io));
        is_there
    }
}

fn state_of(tcp: &TcpFlow) -> FlowState {
    match (&tcp.stage, tcp.finished()) {
        (Stage::Connecting { .. }, _) => FlowState::Connecting,
        (Stage::Opening { .. }, _) => FlowState::Opening,
        (Stage::Relaying, (false, false)) => FlowState::Established,
        (Stage::Relaying, (true, false)) => FlowState::ContainerClosed,
        (Stage::Relaying, (false, true)) => FlowState::HostClosed,
        (Stage::Relaying, (true, true)) => FlowState::Closing,
    }
}

impl Stack {
    /// Counters since the beginning.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Alarms set, those of flows that are gone included until they ring or are swept out.
    #[must_use]
    pub fn alarm_count(&self) -> usize {
        self.timers.len()
    }

    /// Every flow with its endpoints.
    pub fn flow_keys(&self) -> impl Iterator<Item = (FlowId, FlowKey)> + '_ {
        self.flows.ids().filter_map(|flow| Some((flow, self.flows.key(flow)?)))
    }

    /// The flow between these endpoints.
    #[must_use]
    pub fn flow_between(&self, key: &FlowKey) -> Option<FlowId> {
        self.flows.find(key)
    }

    /// The flow of a published UDP port's client, who came to this address of the host.
    #[must_use]
    pub fn flow_of_client_at(
        &self,
        listener: ListenerId,
        client: SocketAddr,
        local: Option<IpAddr>,
    ) -> Option<FlowId> {
        self.clients.get(&(listener, client, local)).copied()
    }

    /// Flows alive now, those in TIME-WAIT included.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Whether a TCP flow carries something that its other side has yet to take: an ending program has handed
    /// these bytes to its kernel and relies on them to arrive.
    #[must_use]
    pub fn is_delivering(&self, now: Instant, quiet: Duration) -> bool {
        self.flows.ids().any(|flow| match self.flows.get(flow) {
            Some(Flow::Tcp(tcp)) => {
                let is_recent = self.flows.last_active(flow).is_some_and(|at| at + quiet > now);
                tcp.endpoint.received_bytes() > 0 || is_recent
            }
            Some(Flow::Udp(_) | Flow::Echo(_) | Flow::TimeWait(_)) | None => false,
        })
    }

    /// Bytes of TCP buffers granted to flows now.
    #[must_use]
    pub fn tcp_buffer_bytes(&self) -> usize {
        self.memory.charged()
    }
}
