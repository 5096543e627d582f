//! UDP flows: datagrams between the container and a host socket of their own.
//!
//! By default a flow is a pair of endpoints with one connected host socket, so that only the peer that was
//! asked may answer and its ICMP errors find their way back. The sockets of one container endpoint share one port of the
//! host ([`mapping`]), so that all peers see it at the same (RFC 4787 §4.1); filtering is address and port dependent
//! (§5). With `--udp-mapping endpoint-independent` one unconnected socket serves all peers and anyone may answer. Clients of a published
//! port share the port's socket; their flows hold only who they are.
//!
//! The first datagrams of a flow wait, bounded, for the driver to open the socket. After that every datagram
//! goes straight through, runs of equal ones together. Nothing is queued: what the host or the link does not
//! take is dropped and counted, as a router would.

mod from_host;
pub mod mapping;

use std::net::{IpAddr, SocketAddr};

use super::boundary::{
    Action, CloseKind, DatagramPort, DatagramSend, DatagramWrite, FlowId, FrameSink, HostError, HostIo,
    Instant, Io, ListenerId,
};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol, HostSide, Way};
use super::forward::{self, Outbound};
use super::network_error::{Sent, problem_of};
use super::policy::{Ask, RuleMark};
use super::service::dns::Exchange;
use super::timer::Alarm;
use super::{Flow, Stack};
use crate::config::rules::Verdict;
use crate::config::{Segment, UdpMapping};
use crate::wire::icmp::Problem;
use crate::wire::vnet_header::{FrameMeta, Segmentation};
use crate::wire::{ip, udp};

/// TTL of what the DNS forwarder sends.
const FORWARDER_HOP_LIMIT: u8 = 64;

/// Datagrams read from one socket before others get their turn.
pub(super) const READ_BUDGET: usize = 64;

/// Which socket a flow's datagrams leave through.
#[derive(Debug)]
pub(super) enum Via {
    /// None yet: these wait for it.
    Opening(Vec<Pending>),
    /// Its own.
    Own,
    /// A published port's, toward this client, from the address it had reached.
    Listener { listener: ListenerId, client: SocketAddr, local: Option<IpAddr> },
}

/// A datagram that waits for its socket.
#[derive(Debug)]
pub(super) struct Pending {
    /// What it says.
    pub payload: Box<[u8]>,
    /// How it is to leave.
    pub how: DatagramSend,
    /// What an error would quote.
    pub sent: Sent,
}

/// The state of one UDP flow.
#[derive(Debug)]
pub struct UdpFlow {
    /// When it is next to be woken.
    pub(super) alarm: Alarm,
    via: Via,
    /// Set when the flow carries queries to the DNS forwarder.
    dns: Option<Exchange>,
    /// The last datagram of the container's.
    pub(super) sent: Sent,
}

impl UdpFlow {
    /// Whether it carries queries to the DNS forwarder.
    pub(super) fn is_dns(&self) -> bool {
        self.dns.is_some()
    }

    /// Whether its socket is there.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.via, Via::Opening(_))
    }

    /// The client of a published port that the flow belongs to, if it is one.
    pub(super) fn client(&self) -> Option<(ListenerId, SocketAddr, Option<IpAddr>)> {
        match self.via {
            Via::Listener { listener, client, local } => Some((listener, client, local)),
            Via::Opening(_) | Via::Own => None,
        }
    }
}

impl Stack {
    /// Takes one datagram of the container, or a run of them.
    pub(super) fn handle_udp<H: HostIo, F: FrameSink>(
        &mut self,
        packet: &ip::Packet<'_>,
        meta: &FrameMeta,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        let datagram = udp::parse(packet.payload).map_err(|_| DropReason::BadTransport)?;
        let container = SocketAddr::new(packet.source, datagram.source_port);
        let remote = SocketAddr::new(packet.destination, datagram.destination_port);
        let exact = FlowKey { protocol: FlowProtocol::Udp, container, remote };
        let mut how = DatagramSend {
            to: None,
            from: None,
            segment_bytes: match meta.segmentation {
                // A run of one is no run, whatever its header says.
                Some(Segmentation::Udp { segment_bytes }) => std::num::NonZeroU16::new(segment_bytes)
                    .filter(|each| usize::from(each.get()) < datagram.payload.len()),
                Some(Segmentation::Tcp { .. }) => return Err(DropReason::BadTransport),
                None => None,
            },
            hop_limit: packet.hop_limit,
            traffic_class: packet.traffic_class,
            dont_fragment: packet.dont_fragment,
        };
        let left;
        let mut payload = datagram.payload;
        if self.is_asked_for_names(packet.source, remote) {
            left = self.answer_names(&exact, payload, how.segment_bytes, io.frames)?;
            if left.is_empty() {
                return Ok(());
            }
            payload = &left;
            how.segment_bytes = how.segment_bytes.filter(|each| usize::from(each.get()) < payload.len());
        }
        if let Some(flow) = self.flows.find(&exact) {
            if matches!(self.flows.get(flow), Some(Flow::Udp(body)) if body.is_dns()) {
                let each = how.segment_bytes.map_or(datagram.payload.len(), |each| each.get().into());
                self.judge_queries(&exact, packet, datagram.payload, each, now, io.frames)?;
                (how.hop_limit, how.dont_fragment) = (FORWARDER_HOP_LIMIT, false);
            } else {
                how.hop_limit = self.forwarded_hop_limit(packet, now, io.frames)?;
            }
            return self.send_udp(flow, packet, payload, how, now, io);
        }
        let (decision, rule) = self.decide_outbound(FlowProtocol::Udp, packet, remote, now);
        let (target, dns) = match decision {
            Outbound::Host(target) => {
                how.hop_limit = self.forwarded_hop_limit(packet, now, io.frames)?;
                (target, None)
            }
            Outbound::Resolver => match self.resolvers.preferred() {
                Some(resolver) => {
                    // The forwarder asks for itself.
                    (how.hop_limit, how.dont_fragment) = (FORWARDER_HOP_LIMIT, false);
                    (resolver, Some(Exchange::default()))
                }
                None => {
                    self.tell_no_resolver();
                    self.send_problem(Problem::PortUnreachable, packet.bytes, now, io.frames)?;
                    return Err(DropReason::NoResolver);
                }
            },
            Outbound::Closed(reason) => {
                self.send_problem(Problem::PortUnreachable, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Prohibited(reason) => {
                self.send_problem(Problem::Prohibited, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Unreachable(reason) => {
                self.send_problem(Problem::HostUnreachable, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Gateway => return Err(DropReason::Denied),
            Outbound::Dhcp if how.segment_bytes.is_some() => return Err(DropReason::DhcpInvalid),
            Outbound::Dhcp => return self.handle_dhcp(packet.source, datagram.payload, now, io.frames),
            Outbound::Drop(reason) => return Err(reason),
        };
        if remote.port() == 0 || container.port() == 0 {
            return Err(DropReason::BadTransport);
        }
        if dns.is_some() {
            let each = how.segment_bytes.map_or(datagram.payload.len(), |each| each.get().into());
            self.judge_queries(&exact, packet, datagram.payload, each, now, io.frames)?;
        }
        let independent = self.config.udp_mapping == UdpMapping::EndpointIndependent && dns.is_none();
        if independent && rule == RuleMark::AWAITED {
            // One flow is for all peers, and cannot wait for an answer about one of them; the command line has neither.
            return Err(DropReason::HookFailed);
        }
        let (key, connect_to) = if independent {
            how.to = Some(target);
            let anyone = anyone_like(remote);
            (FlowKey { remote: anyone, ..exact }, anyone)
        } else {
            (exact, target)
        };
        let flow = match self.flows.find(&key) {
            Some(flow) => {
                // Another peer of an endpoint that has one mapping for all.
                self.audit(&Ask::outbound(FlowProtocol::Udp, target), Verdict::Allow, rule, now);
                flow
            }
            None => {
                self.make_room(FlowProtocol::Udp, now, io)?;
                let side = match dns {
                    Some(_) => HostSide::new(target, Way::Forwarder, rule),
                    None => HostSide::outbound(target, remote, rule),
                };
                let flow = self.add_udp(key, side, Via::Opening(Vec::new()), dns, now);
                // RFC 4787 REQ-4 and the resolver's own need: queries leave from a port nobody can guess.
                let preferred_port = if key.remote == target || independent { container.port() } else { 0 };
                self.tell_opened(flow, key, target, now);
                let open = Action::OpenDatagram { flow, target: connect_to, preferred_port, beside: None };
                self.begin_opening(flow, open, now);
                flow
            }
        };
        self.send_udp(flow, packet, payload, how, now, io)
    }

    fn add_udp(
        &mut self,
        key: FlowKey,
        side: HostSide,
        via: Via,
        dns: Option<Exchange>,
        now: Instant,
    ) -> FlowId {
        let flow = self.flows.insert(
            key,
            side,
            now,
            Flow::Udp(Box::new(UdpFlow { alarm: Alarm::default(), via, dns, sent: Sent::default() })),
        );
        self.wake_udp(flow);
        flow
    }

    /// Sends toward the host what the container sent on an existing flow.
    fn send_udp<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        packet: &ip::Packet<'_>,
        payload: &[u8],
        how: DatagramSend,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        self.flows.touch(flow, now);
        self.flows.count_up(flow, packet.bytes.len());
        let (limits, segment) = (self.config.limits, self.config.link.segment);
        let Some((_, Flow::Udp(body))) = self.flows.get_mut(flow) else { return Err(DropReason::NoFlow) };
        let first = how.segment_bytes.map_or(payload.len(), |each| payload.len().min(each.get().into()));
        body.sent = Sent::of(packet, &payload[..first]);
        if let Some(exchange) = &mut body.dns {
            let deadline = now + self.config.timeouts.dns_try.into();
            if let Err(reason) = exchange.ask(payload, how, limits.dns_pending_per_flow, deadline) {
                self.stats.record(reason);
            }
        }
        if self.shaping.is_on()
            && body.dns.is_none()
            && !matches!(body.via, Via::Opening(_))
            && !self.shaping.may_send(flow, payload.len(), now)
        {
            let datagram = Pending { payload: payload.into(), how, sent: body.sent };
            return self.shaping.hold(flow, datagram, &limits);
        }
        let outcome = match &mut body.via {
            Via::Opening(_) if body.dns.is_some() => DatagramWrite::Sent,
            Via::Opening(pending) if pending.len() < limits.datagrams_pending_per_flow => {
                pending.push(Pending { payload: payload.into(), how, sent: body.sent });
                DatagramWrite::Sent
            }
            Via::Opening(_) => DatagramWrite::Blocked,
            Via::Own => send_from(segment, io.host, DatagramPort::Flow(flow), payload, &how),
            Via::Listener { listener, client, local } => {
                let how = DatagramSend { to: Some(*client), from: *local, ..how };
                send_from(segment, io.host, DatagramPort::Listener(*listener), payload, &how)
            }
        };
        let is_dns = body.dns.is_some();
        if is_dns {
            self.wake_udp(flow);
        }
        match outcome {
            DatagramWrite::Sent => Ok(()),
            DatagramWrite::Blocked => Err(DropReason::HostQueueFull),
            // The forwarder asks the next resolver at its deadline.
            DatagramWrite::Failed(_) if is_dns => Ok(()),
            DatagramWrite::Failed(error) => {
                if let Some(problem) = problem_of(error) {
                    self.send_problem(problem, packet.bytes, now, io.frames)?;
                }
                Err(DropReason::HostRefused)
            }
        }
    }

    /// The socket of a flow is open: what waited for it leaves.
    pub(super) fn udp_connected<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let segment = self.config.link.segment;
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        let Via::Opening(pending) = std::mem::replace(&mut body.via, Via::Own) else { return };
        if let Some(exchange) = &body.dns {
            for (message, how) in exchange.unanswered() {
                let _ = send_twice(io.host, DatagramPort::Flow(flow), message, how);
            }
        }
        for datagram in &pending {
            let port = DatagramPort::Flow(flow);
            let sent = send_from(segment, io.host, port, &datagram.payload, &datagram.how);
            let DatagramWrite::Failed(error) = sent else {
                self.count(if sent == DatagramWrite::Sent { Ok(()) } else { Err(DropReason::HostQueueFull) });
                continue;
            };
            self.stats.record(DropReason::HostRefused);
            if let Some(problem) = problem_of(error) {
                let remote = datagram.how.to.map_or(key.remote, |to| forward::shown_peer(&self.config, to));
                let offending =
                    self.rebuild_udp(&FlowKey { remote, ..key }, &datagram.sent, &datagram.payload);
                self.report(problem, offending, None, now, io.frames);
            }
        }
    }

    /// The socket of a flow could not be opened.
    pub(super) fn udp_connect_failed(
        &mut self,
        flow: FlowId,
        error: HostError,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        if body.dns.is_some() {
            self.ask_next_resolver(flow, now, false);
            return;
        }
        self.note_host_error(&key, error, now);
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        if let (Via::Opening(pending), Some(problem)) = (&mut body.via, problem_of(error)) {
            let first = pending.first().map(|datagram| (datagram.payload.clone(), datagram.sent));
            let (payload, sent) = first.unwrap_or_default();
            let remote = key.remote;
            if !remote.ip().is_unspecified() {
                let offending = self.rebuild_udp(&FlowKey { remote, ..key }, &sent, &payload);
                self.report(problem, offending, None, now, frames);
            }
        }
        self.stats.record(if error == HostError::Exhausted {
            DropReason::DescriptorLimit
        } else {
            DropReason::HostRefused
        });
        self.mappings.leave(key.container, flow);
        self.flows.remove(flow);
        self.tell_closed(flow, FlowProtocol::Udp);
    }

    /// A flow ends before it has begun: what waited for its socket is lost, and the container told of the first where that is due.
    pub(super) fn refuse_udp(
        &mut self,
        flow: FlowId,
        reason: DropReason,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        let Via::Opening(pending) = &mut body.via else { return };
        let pending = std::mem::take(pending);
        self.stats.record_many(reason, pending.len() as u64);
        if let (DropReason::RuleRejected, Some(first)) = (reason, pending.first()) {
            let offending = self.rebuild_udp(&key, &first.sent, &first.payload);
            self.report(Problem::Prohibited, offending, None, now, frames);
        }
        self.flows.remove(flow);
        self.tell_closed(flow, FlowProtocol::Udp);
    }

    /// The flow's alarm rang: a resolver was silent, or everybody was for long.
    pub(super) fn udp_alarm(&mut self, flow: FlowId, now: Instant) {
        let silent_since = self.flows.last_active(flow).unwrap_or(now);
        let Some((_, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        if body.dns.as_ref().is_some_and(|exchange| exchange.deadline.is_some_and(|at| at <= now)) {
            self.ask_next_resolver(flow, now, true);
        } else if silent_since + self.config.timeouts.udp.into() <= now {
            self.close_datagram_flow(flow);
        } else {
            self.wake_udp(flow);
        }
    }

    fn wake_udp(&mut self, flow: FlowId) {
        let idle_deadline =
            self.flows.last_active(flow).unwrap_or(Instant::ZERO) + self.config.timeouts.udp.into();
        let Some((_, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        let resolver_deadline = body.dns.as_ref().and_then(|exchange| exchange.deadline);
        let deadline = resolver_deadline.map_or(idle_deadline, |at| at.min(idle_deadline));
        self.timers.wake_by(flow, &mut body.alarm, deadline);
    }

    /// Replaces the host socket of a flow of the DNS by one to the next resolver, and asks again.
    pub(super) fn ask_next_resolver(&mut self, flow: FlowId, now: Instant, has_socket: bool) {
        let Some((_, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        let Some(exchange) = &mut body.dns else { return };
        exchange.failures += 1;
        let next =
            if exchange.is_settled() { None } else { self.resolvers.after_silences(exchange.failures) };
        let was_open = has_socket && matches!(body.via, Via::Own);
        match next {
            Some(target) => {
                exchange.deadline = Some(now + self.config.timeouts.dns_try.into());
                body.via = Via::Opening(Vec::new());
                if was_open {
                    self.actions.push_back(Action::Close { flow, how: CloseKind::Graceful });
                }
                self.actions.push_back(Action::OpenDatagram {
                    flow,
                    target,
                    preferred_port: 0,
                    beside: None,
                });
                self.wake_udp(flow);
            }
            None => {
                exchange.give_up();
                if was_open {
                    self.close_datagram_flow(flow);
                } else {
                    self.flows.remove(flow);
                    self.tell_closed(flow, FlowProtocol::Udp);
                }
            }
        }
    }
}

/// The wildcard endpoint of a family.
pub(super) fn anyone_like(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}

/// Sends as [`send_twice`] does. Where the container stands in the host's place, its datagram is the host's own: what the
/// host's link does not take whole leaves in fragments, as one of the host's own programs would have it.
pub(super) fn send_from(
    segment: Segment,
    host: &mut impl HostIo,
    port: DatagramPort,
    payload: &[u8],
    how: &DatagramSend,
) -> DatagramWrite {
    let sent = send_twice(host, port, payload, how);
    match (sent, segment) {
        (DatagramWrite::Failed(HostError::MessageTooLong { .. }), Segment::Shared(_))
            if how.dont_fragment =>
        {
            send_twice(host, port, payload, &DatagramSend { dont_fragment: false, ..*how })
        }
        (_, Segment::Private | Segment::Shared(_) | Segment::Bridged { .. }) => sent,
    }
}

/// Sends, and once more when an earlier datagram's error stood in the way: the socket reports it in place of
/// sending this one (udp(7)).
pub(super) fn send_twice(
    host: &mut impl HostIo,
    port: DatagramPort,
    payload: &[u8],
    how: &DatagramSend,
) -> DatagramWrite {
    match host.send_datagrams(port, payload, how) {
        DatagramWrite::Failed(
            HostError::Refused
            | HostError::HostUnreachable
            | HostError::NetworkUnreachable
            | HostError::ProtocolUnreachable
            | HostError::HopLimitExceeded,
        ) => host.send_datagrams(port, payload, how),
        outcome => outcome,
    }
}
