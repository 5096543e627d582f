//! The life of TCP flows: how they begin, what wakes them, how they end.
//!
//! A flow that the container initiates: its SYN is judged by `forward`, taken by an endpoint and held; the host
//! connects; then the SYN-ACK goes out. Refused means RST, unreachable means ICMP, no answer means no answer.
//! A flow that a client of a published port initiates is accepted by the host, then the endpoint connects to
//! the container with the client's address as its own.
//!
//! After that both are the same relay (`relay`). What touches a flow only queues it; [`Stack::flush`] advances
//! each queued flow once, so that a batch of segments is answered by one acknowledgement.
//!
//! RFC 9293 (TCP), RFC 5382 (TCP through NAT), RFC 6528 (initial sequence numbers), RFC 1337 (TIME-WAIT).

mod challenge;
pub mod endpoint;
pub mod handshakes;
pub mod memory;
pub mod newcomers;
mod opening;
pub mod overheard;
mod queries;
pub mod relay;
mod room;
pub mod time_wait;
pub mod turns;

use std::net::SocketAddr;

use self::endpoint::ecn::is_marked;
use self::handshakes::Handshake;
use self::queries::Upstream;
use self::relay::{Awaited, Outcome, Stage, TcpFlow};
use self::time_wait::{TimeWait, Verdict};
use super::boundary::{
    Action, CloseKind, Duration, FlowId, FrameSink, HostError, HostIo, Instant, Io, Notice,
};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol, FlowTable};
use super::network_error::problem_of_notice;
use super::shaping::Allowance;
use super::stats::{CountedFrames, Traffic};
use super::{Flow, Stack};
use crate::config::limits::KEEPALIVE_PROBES;
use crate::wire::icmp::Problem;
use crate::wire::ip;
use crate::wire::tcp::{self, BareSegment, Flags, Segment};

/// A link that takes no frames now is asked again after this long.
const LINK_RETRY: Duration = Duration::from_millis(10);
/// Later than a deadline by so much comes only who was stopped, or whose clock has jumped.
const OVERSLEPT: Duration = Duration::from_secs(5);

/// Bytes of a SYN's packet kept for an ICMP error: the IP header and eight bytes (RFC 792) or more.
const QUOTE_BYTES: usize = 100;

impl Stack {
    /// Takes one TCP segment of the container.
    pub(super) fn handle_tcp<H: HostIo, F: FrameSink>(
        &mut self,
        packet: &ip::Packet<'_>,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        if packet.source.is_ipv6() && packet.bytes.len() - packet.payload.len() != ip::header_len(true) {
            return Err(DropReason::UnsupportedOptions);
        }
        let segment = tcp::parse(packet.payload).map_err(|_| DropReason::BadTransport)?;
        let key = FlowKey {
            protocol: FlowProtocol::Tcp,
            container: SocketAddr::new(packet.source, segment.source_port),
            remote: SocketAddr::new(packet.destination, segment.destination_port),
        };
        let link = self.link_view()?;
        let Some(flow) = self.flows.find(&key) else {
            if let Some(heard) = self.hear_of_port(&key, packet, &segment, now, io.frames) {
                return heard;
            }
            return self.open_from_container(key, packet, &segment, None, &link, now, io);
        };
        let active_before = self.flows.touch(flow, now);
        let is_gathered = self.turns.gathers(segment.payload.len());
        let most_direct = if is_gathered { 0 } else { self.shaping.up_at_once(flow, now) };
        self.flows.count_up(flow, packet.bytes.len());
        let Some((_, body)) = self.flows.get_mut(flow) else { return Err(DropReason::NoFlow) };
        match body {
            Flow::Tcp(tcp) => {
                if !tcp.keeps_alive && tcp.asks_after_host(&segment) {
                    // It wants to know of the peer, and hears of us only: so the host's kernel asks as often.
                    let silence = now - active_before.unwrap_or(now);
                    let interval = silence.min(self.config.timeouts.tcp_probe.into());
                    self.actions.push_back(tcp.keep_host_alive(flow, silence, interval));
                }
                self.memory.limit(tcp);
                tcp.most_direct = most_direct;
                let is_marked = is_marked(packet.traffic_class);
                let moved = tcp.handle_segment(flow, &segment, is_marked, &link, now, io.host);
                self.shaping.pay_up_at_once(flow, moved, now);
                self.memory.charge(tcp);
                if !tcp.queued {
                    tcp.queued = true;
                    self.queue.push(flow);
                }
                Ok(())
            }
            Flow::TimeWait(time_wait) => {
                let rest = self.config.timeouts.tcp_time_wait.into();
                match time_wait.judge(&segment, rest, now) {
                    Verdict::Silence => Ok(()),
                    Verdict::Acknowledge => {
                        let answer = time_wait.answer(&segment);
                        self.send_bare(packet, &answer, io.frames)
                    }
                    Verdict::OpenAnew { least_initial } => {
                        self.flows.remove(flow);
                        self.open_from_container(key, packet, &segment, Some(least_initial), &link, now, io)
                    }
                }
            }
            Flow::Udp(_) | Flow::Echo(_) => Err(DropReason::NoFlow),
        }
    }

    /// More small frames wait than the driver takes at once, or no longer.
    pub fn note_crowd(&mut self, is_crowded: bool) {
        self.turns.is_crowded = is_crowded;
    }

    /// Puts a flow into the queue of those to be advanced at the next flush.
    pub(super) fn queue_tcp(&mut self, flow: FlowId) {
        if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow)
            && !tcp.queued
        {
            tcp.queued = true;
            self.queue.push(flow);
        }
    }

    /// Advances one queued flow and deals with its end.
    pub(super) fn advance_tcp<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let allowance = if self.shaping.is_on() { self.tcp_allowance(flow, now) } else { Allowance::FREE };
        if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
            tcp.queued = false;
        }
        self.advance_tcp_within(flow, allowance, now, io);
    }

    /// Advances a flow by as many bytes as it may move.
    pub(super) fn advance_tcp_within<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        allowance: Allowance,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        if self.is_held_back(flow) {
            return;
        }
        let Ok(link) = self.link_view() else { return };
        self.make_scratch();
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        let handshake = tcp.handshake();
        self.memory.limit(tcp);
        tcp.endpoint.share_link(self.turns.exchange(now));
        let mut turn = self.turns.begin(&mut self.scratch, now);
        (turn.most, turn.most_up) = (turn.most.min(allowance.down), allowance.up);
        let mut sent = Traffic::default();
        let mut frames = CountedFrames::new(&mut *io.frames, &mut sent);
        let mut counted = Io { host: &mut *io.host, frames: &mut frames };
        let names = self.names.as_ref();
        let (_, sent_again) = tcp.endpoint.health();
        let outcome = tcp.advance(flow, &link, names, now, &mut counted, &mut self.actions, &mut turn);
        let answered = tcp.take_overheard();
        let moved = Allowance { up: turn.moved_up, down: turn.moved };
        self.turns.end(moved.down, now, || tcp.endpoint.as_exchange());
        self.stats.tcp_retransmissions += u64::from(tcp.endpoint.health().1.saturating_sub(sent_again));
        self.memory.charge(tcp);
        let wants_upstream = tcp.queries.as_ref().is_some_and(|queries| queries.upstream == Upstream::Wanted);
        // A client's connection that ends before it began.
        let is_refused = matches!(tcp.stage, Stage::Opening { via: Some(_) });
        if tcp.is_relaying() {
            self.end_handshake(handshake, true);
        }
        if wants_upstream {
            self.ask_upstream(flow, 0);
        }
        let outcome = match outcome {
            outcome if !self.shaping.is_on() => outcome,
            Outcome::Alive | Outcome::Unfinished if self.pay_tcp(flow, moved, now) => Outcome::Unfinished,
            Outcome::Alive | Outcome::Unfinished => Outcome::Alive,
            ended => ended,
        };
        self.flows.count_down(flow, sent.without_link_headers());
        for (query, answer) in answered {
            self.learn_names(&query, &answer, now);
        }
        match outcome {
            Outcome::Alive => self.schedule_tcp(flow, now),
            Outcome::Unfinished => {
                self.schedule_tcp(flow, now);
                self.queue_tcp(flow);
            }
            Outcome::Over(how) => {
                if is_refused && let Some(key) = self.flows.key(flow) {
                    self.suspect_ports(key.container, now);
                }
                self.close_tcp(flow, how);
            }
            Outcome::TimeWait => self.rest_in_time_wait(flow, now),
        }
    }

    /// The next instant at which the endpoint has something to do, or at which silence has lasted too long.
    fn schedule_tcp(&mut self, flow: FlowId, now: Instant) {
        let idle_deadline = self.tcp_idle_deadline(flow);
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        let mut deadline = idle_deadline;
        if let Some(due) = tcp.endpoint.poll_timeout() {
            deadline = deadline.min(if due <= now { now + LINK_RETRY } else { due });
        }
        self.timers.wake_by(flow, &mut tcp.alarm, deadline);
    }

    fn tcp_idle_deadline(&self, flow: FlowId) -> Instant {
        let timeouts = &self.config.timeouts;
        let last_active = self.flows.last_active(flow).unwrap_or(Instant::ZERO);
        let Some(Flow::Tcp(tcp)) = self.flows.get(flow) else { return last_active };
        let patience = match tcp.awaited() {
            Awaited::Handshake => timeouts.tcp_handshake,
            // A living container acknowledges or at least answers a probe of its closed window.
            Awaited::Acknowledgement => timeouts.tcp_closing,
            Awaited::Host => timeouts.tcp_established,
            Awaited::Anybody => timeouts.tcp_established + timeouts.tcp_probe * tcp.probes.into(),
        };
        (last_active + patience.into()).max(tcp.answer_by)
    }

    /// The flow's alarm rang.
    pub(super) fn tcp_alarm<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let deadline = self.tcp_idle_deadline(flow);
        if deadline > now {
            self.queue_tcp(flow);
            return;
        }
        let answer_by = now + self.config.timeouts.tcp_probe.into();
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        match tcp.awaited() {
            // Whoever was stopped for hours has heard nothing meanwhile, and asked nothing: that is no silence.
            awaited if now - deadline > OVERSLEPT => {
                tcp.answer_by = answer_by;
                if awaited == Awaited::Anybody {
                    tcp.endpoint.probe();
                }
                self.queue_tcp(flow);
            }
            Awaited::Handshake if matches!(tcp.stage, Stage::Connecting { .. }) => {
                // Nobody answered: neither do we. The container's own handshake has its own end.
                self.close_tcp(flow, CloseKind::Reset);
            }
            Awaited::Anybody if tcp.probes < KEEPALIVE_PROBES => {
                tcp.probes += 1;
                tcp.answer_by = answer_by;
                tcp.endpoint.probe();
                self.keep_host_alive(flow);
                self.queue_tcp(flow);
            }
            Awaited::Host => {
                // Its kernel finds out whether there is still somebody to take them.
                self.keep_host_alive(flow);
                self.flows.touch(flow, now);
                self.schedule_tcp(flow, now);
            }
            Awaited::Handshake | Awaited::Acknowledgement | Awaited::Anybody => {
                self.abort_tcp(flow, now, io);
            }
        }
    }

    /// Lets the host's kernel ask the peer whether it is still there, from now on.
    fn keep_host_alive(&mut self, flow: FlowId) {
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        if !tcp.keeps_alive {
            let timeouts = &self.config.timeouts;
            let (idle, interval) = (timeouts.tcp_established.into(), timeouts.tcp_probe.into());
            self.actions.push_back(tcp.keep_host_alive(flow, idle, interval));
        }
    }

    /// Resets both sides.
    pub(super) fn abort_tcp<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        if let (Ok(link), Some((_, Flow::Tcp(tcp)))) = (self.link_view(), self.flows.get_mut(flow)) {
            tcp.endpoint.abort();
            tcp.endpoint.poll_transmit(&link, now, io.frames);
        }
        self.close_tcp(flow, CloseKind::Reset);
    }

    /// Ends a flow: the host socket goes `how`, the container has been told.
    pub(super) fn close_tcp(&mut self, flow: FlowId, how: CloseKind) {
        let lacks_socket = self.lacks_socket(flow);
        if let Some(Flow::Tcp(tcp)) = self.flows.remove(flow) {
            self.forget_tcp(&tcp);
            if tcp.has_socket() && !lacks_socket {
                self.actions.push_back(Action::Close { flow, how });
            }
            self.tell_closed(flow, FlowProtocol::Tcp);
        }
    }

    fn forget_tcp(&mut self, tcp: &TcpFlow) {
        self.memory.release(tcp);
        self.end_handshake(tcp.handshake(), false);
    }

    fn end_handshake(&mut self, handshake: Option<Handshake>, is_complete: bool) {
        self.handshakes.end(handshake);
        if handshake == Some(Handshake::Outbound) {
            self.newcomers.end(is_complete);
        }
    }

    /// The host socket and the buffers go, the pair of endpoints stays a while.
    fn rest_in_time_wait(&mut self, flow: FlowId, now: Instant) {
        let Some((key, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        let (expected, next) = tcp.endpoint.numbers();
        let Some(side) = self.flows.side(flow) else { return };
        // It is counted with what rests, and once.
        let carried = self.flows.take_carried(flow);
        self.close_tcp(flow, CloseKind::Graceful);
        let until = now + self.config.timeouts.tcp_time_wait.into();
        let rest = self.flows.insert(key, side, now, Flow::TimeWait(TimeWait::new(expected, next, until)));
        self.flows.add_carried(rest, carried);
        self.time_wait_alarm(rest, now);
    }

    /// The rest of a pair may be over.
    pub(super) fn time_wait_alarm(&mut self, flow: FlowId, now: Instant) {
        let Some((_, Flow::TimeWait(time_wait))) = self.flows.get_mut(flow) else { return };
        let until = time_wait.until();
        if until > now {
            self.timers.wake_by(flow, &mut time_wait.alarm, until);
        } else {
            self.flows.remove(flow);
        }
    }

    /// The host socket is connected.
    pub(super) fn tcp_connected(&mut self, flow: FlowId) {
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        if let Some(queries) = &mut tcp.queries {
            queries.upstream = Upstream::Open;
            tcp.host_connected();
            self.queue_tcp(flow);
            return;
        }
        if !matches!(tcp.stage, Stage::Connecting { .. }) {
            return;
        }
        tcp.endpoint.release_syn_ack();
        tcp.host_connected();
        // Half open it stays until the container has acknowledged: it may never.
        tcp.stage = Stage::Opening { via: None };
        self.queue_tcp(flow);
    }

    /// The host could not connect: the container learns what a direct connection would have shown it.
    pub(super) fn tcp_connect_failed<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        error: HostError,
        notice: Option<Notice>,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let Some((key, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        if let Some(queries) = &tcp.queries {
            if let Upstream::Connecting { tried } = queries.upstream {
                self.ask_upstream(flow, tried + 1);
            }
            return;
        }
        if let Stage::Opening { via: Some(_) } = tcp.stage {
            // Accepted, and then the driver could not keep it.
            self.stats.record(DropReason::DescriptorLimit);
            self.abort_tcp(flow, now, io);
            return;
        }
        let Stage::Connecting { quote, resolvers_tried } = &mut tcp.stage else { return };
        // Of the resolvers the container knows nothing.
        let notice = notice.filter(|_| resolvers_tried.is_none());
        if let Some(tried) = resolvers_tried {
            *tried += 1;
            if let Some(next) = self.resolvers.after_failures(*tried) {
                self.actions.push_back(Action::ConnectStream { flow, target: next, hop_limit: None });
                return;
            }
        }
        let said = problem_of_notice(notice.as_ref(), key.container.is_ipv6());
        let problem = match error {
            _ if said.is_some() => said,
            HostError::Refused | HostError::Reset | HostError::Other => None,
            HostError::NetworkUnreachable => Some(Problem::NetworkUnreachable),
            HostError::HostUnreachable => Some(Problem::HostUnreachable),
            HostError::ProtocolUnreachable => Some(Problem::ProtocolUnreachable),
            HostError::Prohibited => Some(Problem::Prohibited),
            HostError::HopLimitExceeded => Some(Problem::HopLimitExceeded),
            HostError::MessageTooLong { mtu } => Some(Problem::PacketTooBig { mtu }),
            HostError::TimedOut => {
                self.note_host_error(&key, error, now);
                self.forget_connecting(flow);
                return;
            }
            HostError::Exhausted => {
                // The container will send its SYN again; by then there may be room.
                self.stats.record(DropReason::DescriptorLimit);
                self.note_host_error(&key, error, now);
                self.forget_connecting(flow);
                return;
            }
        };
        let quote = std::mem::take(quote).into_vec();
        self.note_host_error(&key, error, now);
        match problem {
            None => {
                if let (Ok(link), Some((_, Flow::Tcp(tcp)))) = (self.link_view(), self.flows.get_mut(flow)) {
                    tcp.endpoint.abort();
                    tcp.endpoint.poll_transmit(&link, now, io.frames);
                }
            }
            Some(problem) => {
                self.report(problem, quote, notice.as_ref(), now, io.frames);
            }
        }
        self.forget_connecting(flow);
    }

    /// Removes a flow whose host socket the driver has already forgotten.
    pub(super) fn forget_connecting(&mut self, flow: FlowId) {
        if let Some(Flow::Tcp(tcp)) = self.flows.remove(flow) {
            self.forget_tcp(&tcp);
            self.tell_closed(flow, FlowProtocol::Tcp);
        }
    }

    /// Sends a segment without options in answer to `packet`, from the address it was sent to.
    pub(super) fn send_bare(
        &mut self,
        packet: &ip::Packet<'_>,
        segment: &BareSegment,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let header = self.header(packet.destination, packet.source, ip::protocol::TCP);
        self.emit_segment(&header, segment, frames)
    }
}

/// Whether this is still a handshake that the container has begun.
fn is_under_way(flows: &FlowTable<Flow>, flow: FlowId) -> bool {
    matches!(flows.get(flow), Some(Flow::Tcp(tcp)) if tcp.handshake() == Some(Handshake::Outbound))
}

fn is_opening(segment: &Segment<'_>) -> bool {
    segment.flags.contains(Flags::SYN)
        && !segment.flags.contains(Flags::ACK)
        && !segment.flags.contains(Flags::RST)
}
