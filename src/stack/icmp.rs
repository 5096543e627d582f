//! ICMP and ICMPv6: echo by ping sockets, and our own answers to echo.
//!
//! An echo request to the gateway or the DNS address is answered here. Every other one leaves through a ping
//! socket of the host (`SOCK_DGRAM`, `IPPROTO_ICMP`), and only what comes back from there is shown to the
//! container: no reply that nobody sent. Where the host forbids ping sockets (`ping_group_range`), requests are
//! dropped, counted, and the user told once.
//!
//! A flow is a container's identifier toward one destination (RFC 5508 §3.1). The kernel may give the socket
//! another identifier; the container's own is put back. Errors are the concern of `network_error`; other ICMP messages of
//! the container are not forwarded.

use std::net::{IpAddr, SocketAddr};

use super::boundary::{
    Action, DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, FrameSink, HostError, HostIo,
    Instant, Io, StackEvent,
};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol, HostSide};
use super::forward::{self, Outbound};
use super::network_error::{Sent, problem_of};
use super::stats::Traffic;
use super::timer::Alarm;
use super::udp::{Pending, READ_BUDGET, send_twice};
use super::{Flow, Stack};
use crate::wire::icmp::{self, Echo, Problem};
use crate::wire::ip;

/// Requests of a flow that an error may still speak of; mtr has as many on their way as there are hops.
const REQUESTS_REMEMBERED: usize = 32;

/// The state of one echo flow.
#[derive(Debug)]
pub struct EchoFlow {
    /// When it is next to be woken.
    pub(super) alarm: Alarm,
    /// Requests that wait for the socket; `None` once it is open.
    opening: Option<Vec<Pending>>,
    /// The last requests, by their sequence numbers.
    sent: Vec<(u16, Sent)>,
}

impl EchoFlow {
    /// Whether its socket is there.
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    fn remember(&mut self, sequence: u16, sent: Sent) {
        if self.sent.len() >= REQUESTS_REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push((sequence, sent));
    }

    /// The request of this number, unless that is long ago.
    pub(super) fn sent_as(&self, sequence: u16) -> Option<&Sent> {
        self.sent.iter().rev().find(|(its_own, _)| *its_own == sequence).map(|(_, sent)| sent)
    }
}

impl Stack {
    /// Takes one ICMP or ICMPv6 message of the container that is not neighbor discovery.
    pub(super) fn handle_icmp<H: HostIo, F: FrameSink>(
        &mut self,
        packet: &ip::Packet<'_>,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        let is_ipv6 = packet.source.is_ipv6();
        if !ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload) {
            return Err(DropReason::BadChecksum);
        }
        if let Some(error) = icmp::parse_error(is_ipv6, packet.payload) {
            return self.handle_error_of_container(packet, &error);
        }
        let echo = icmp::parse_echo_request(is_ipv6, packet.payload).ok_or(DropReason::IcmpNotForwarded)?;
        let destination = SocketAddr::new(packet.destination, 0);
        let key = FlowKey {
            protocol: FlowProtocol::Echo,
            container: SocketAddr::new(packet.source, echo.identifier),
            remote: destination,
        };
        // What was let through before is not asked about again.
        let (decision, rule) = match self.flows.find(&key).and_then(|flow| self.flows.side(flow)) {
            Some(side) => {
                (forward::outbound(&self.config, FlowProtocol::Echo, packet.source, destination), side.rule)
            }
            None => self.decide_outbound(FlowProtocol::Echo, packet, destination, now),
        };
        let target = match decision {
            Outbound::Gateway => return self.answer_echo(packet, &echo, io.frames),
            Outbound::Host(target) => target,
            Outbound::Unreachable(reason) => {
                self.send_problem(Problem::HostUnreachable, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Prohibited(reason) => {
                self.send_problem(Problem::Prohibited, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Resolver | Outbound::Dhcp => return Err(DropReason::Denied),
            Outbound::Closed(reason) | Outbound::Drop(reason) => return Err(reason),
        };
        let how = DatagramSend {
            to: None,
            from: None,
            segment_bytes: None,
            hop_limit: self.forwarded_hop_limit(packet, now, io.frames)?,
            traffic_class: packet.traffic_class,
            dont_fragment: packet.dont_fragment,
        };
        let flow = match self.flows.find(&key) {
            Some(flow) => flow,
            None => {
                self.make_room(FlowProtocol::Echo, now, io)?;
                let body = EchoFlow { alarm: Alarm::default(), opening: Some(Vec::new()), sent: Vec::new() };
                let side = HostSide::outbound(target, destination, rule);
                let flow = self.flows.insert(key, side, now, Flow::Echo(Box::new(body)));
                self.wake_echo(flow);
                self.tell_opened(flow, key, target, now);
                let open = Action::OpenEcho { flow, target: target.ip(), identifier: echo.identifier };
                self.begin_opening(flow, open, now);
                flow
            }
        };
        self.flows.touch(flow, now);
        self.flows.count_up(flow, packet.bytes.len());
        let pending_limit = self.config.limits.datagrams_pending_per_flow;
        let Some((_, Flow::Echo(body))) = self.flows.get_mut(flow) else { return Err(DropReason::NoFlow) };
        let sent = Sent::of(packet, echo.message);
        body.remember(echo.sequence, sent);
        match &mut body.opening {
            Some(pending) if pending.len() < pending_limit => {
                pending.push(Pending { payload: echo.message.into(), how, sent });
                Ok(())
            }
            Some(_) => Err(DropReason::HostQueueFull),
            None => match send_twice(io.host, DatagramPort::Flow(flow), echo.message, &how) {
                DatagramWrite::Sent => Ok(()),
                DatagramWrite::Blocked => Err(DropReason::HostQueueFull),
                DatagramWrite::Failed(error) => {
                    if let Some(problem) = problem_of(error) {
                        self.send_problem(problem, packet.bytes, now, io.frames)?;
                    }
                    Err(DropReason::HostRefused)
                }
            },
        }
    }

    /// The gateway is there: it says so itself.
    fn answer_echo(
        &mut self,
        packet: &ip::Packet<'_>,
        echo: &Echo<'_>,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let mut header = self.header(packet.destination, packet.source, packet.protocol);
        header.dont_fragment = false;
        header.identification = self.next_identification();
        let mut reply = echo.message.to_vec();
        icmp::make_echo_reply(&mut reply, header.source, header.destination, echo.identifier);
        self.emitter.send_complete(&self.neighbor.ethernet()?, &header, &reply, frames)
    }

    /// The ping socket of a flow is open: what waited for it leaves.
    pub(super) fn echo_connected<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let Some((key, Flow::Echo(body))) = self.flows.get_mut(flow) else { return };
        for request in body.opening.take().unwrap_or_default() {
            let sent = send_twice(io.host, DatagramPort::Flow(flow), &request.payload, &request.how);
            let DatagramWrite::Failed(error) = sent else {
                self.count(if sent == DatagramWrite::Sent { Ok(()) } else { Err(DropReason::HostQueueFull) });
                continue;
            };
            self.stats.record(DropReason::HostRefused);
            if let Some(problem) = problem_of(error) {
                let offending = self.rebuild_echo(&key, Some(&request.sent), &request.payload);
                self.report(problem, offending, None, now, io.frames);
            }
        }
    }

    /// The ping socket of a flow could not be opened.
    pub(super) fn echo_connect_failed(
        &mut self,
        flow: FlowId,
        error: HostError,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let Some((key, Flow::Echo(body))) = self.flows.get_mut(flow) else { return };
        let waiting = body.opening.take().unwrap_or_default();
        self.note_host_error(&key, error, now);
        self.flows.remove(flow);
        self.tell_closed(flow, FlowProtocol::Echo);
        let reason = match error {
            HostError::Prohibited => DropReason::EchoForbidden,
            HostError::Exhausted => DropReason::DescriptorLimit,
            _ => DropReason::HostRefused,
        };
        self.stats.record_many(reason, waiting.len() as u64);
        if error == HostError::Prohibited {
            if !self.echo_forbidden_told {
                self.echo_forbidden_told = true;
                self.tell(StackEvent::EchoForbidden);
            }
        } else if let (Some(problem), Some(request)) = (problem_of(error), waiting.first()) {
            let offending = self.rebuild_echo(&key, Some(&request.sent), &request.payload);
            self.report(problem, offending, None, now, frames);
        }
    }

    /// A flow ends before it has begun, as [`Stack::refuse_udp`] has it.
    pub(super) fn refuse_echo(
        &mut self,
        flow: FlowId,
        reason: DropReason,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let Some((key, Flow::Echo(body))) = self.flows.get_mut(flow) else { return };
        let waiting = body.opening.take().unwrap_or_default();
        self.flows.remove(flow);
        self.tell_closed(flow, FlowProtocol::Echo);
        self.stats.record_many(reason, waiting.len() as u64);
        if let (DropReason::RuleRejected, Some(request)) = (reason, waiting.first()) {
            let offending = self.rebuild_echo(&key, Some(&request.sent), &request.payload);
            self.report(Problem::Prohibited, offending, None, now, frames);
        }
    }

    /// Replies wait on a ping socket. Returns whether some may be left.
    pub(super) fn read_echo<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> bool {
        self.make_scratch();
        for _ in 0..READ_BUDGET {
            let Some((key, Flow::Echo(_))) = self.flows.get_mut(flow) else { return false };
            let is_ipv6 = key.container.is_ipv6();
            let read = io.host.receive_datagrams(DatagramPort::Flow(flow), &mut self.scratch);
            let arrived = match read {
                DatagramRead::Blocked => return false,
                DatagramRead::Failed(_) => continue,
                DatagramRead::Arrived(arrived) => arrived,
            };
            let Some(message) = self.scratch.get_mut(..arrived.len) else { continue };
            if icmp::parse_echo_reply(is_ipv6, message).is_none() {
                self.stats.record(DropReason::BadTransport);
                continue;
            }
            let (source, destination) = (key.remote.ip(), key.container.ip());
            icmp::make_echo_reply(message, source, destination, key.container.port());
            self.flows.touch(flow, now);
            let bytes = (ip::header_len(is_ipv6) + arrived.len) as u64;
            self.flows.count_down(flow, Traffic { frames: 1, bytes });
            let mut header = self.header(source, destination, protocol_of(is_ipv6));
            header.traffic_class = arrived.traffic_class;
            header.hop_limit = self.hop_limit_from(source, arrived.hop_limit);
            header.dont_fragment = false;
            header.identification = self.next_identification();
            let sent = self.neighbor.ethernet().and_then(|ethernet| {
                self.emitter.send_complete(&ethernet, &header, &self.scratch[..arrived.len], io.frames)
            });
            self.count(sent);
        }
        true
    }

    /// The flow's alarm rang.
    pub(super) fn echo_alarm(&mut self, flow: FlowId, now: Instant) {
        let silent_since = self.flows.last_active(flow).unwrap_or(now);
        if silent_since + self.config.timeouts.icmp.into() <= now {
            self.close_datagram_flow(flow);
        } else {
            self.wake_echo(flow);
        }
    }

    fn wake_echo(&mut self, flow: FlowId) {
        let deadline =
            self.flows.last_active(flow).unwrap_or(Instant::ZERO) + self.config.timeouts.icmp.into();
        if let Some((_, Flow::Echo(body))) = self.flows.get_mut(flow) {
            self.timers.wake_by(flow, &mut body.alarm, deadline);
        }
    }
}

fn protocol_of(is_ipv6: bool) -> u8 {
    if is_ipv6 { ip::protocol::ICMPV6 } else { ip::protocol::ICMP }
}

/// Whether an address is one of ICMPv6's own concern on the link: neighbor discovery goes to these.
pub(super) fn is_link_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    }
}
