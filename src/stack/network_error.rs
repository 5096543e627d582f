//! ICMP errors both ways: what the network says of the container's packets, and what the container says of ours.
//!
//! The host's sockets tell an error with the beginning of the payload that it is about, not with its headers. So the
//! packet is put together again as the container sent it, with its own addresses, ports and identifiers, and that is what the
//! error toward the container quotes. What cannot be told from the payload is remembered of the packets sent last
//! ([`Sent`]). The error keeps its type, its code and the address of whoever sent it, and arrives with one hop less.
//!
//! An error of the container belongs to the flow whose packet it quotes, or to none. It changes no mapping
//! (RFC 5508 REQ-4), and none is answered. It ends a connect to a port of the container, and makes the segments of a stream
//! smaller. Left out: datagrams for a host behind a narrower link in the container, which leave us as large as its first
//! link takes them.

use std::net::{IpAddr, SocketAddr};

use super::boundary::{
    CloseKind, DatagramPort, FlowId, FrameSink, HostError, Instant, ListenerId, NetworkErrorReport, Notice,
};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol};
use super::tcp::relay::Stage;
use super::udp::anyone_like;
use super::unreachable::Report;
use super::{Flow, Stack, forward};
use crate::wire::icmp::{self, Problem};
use crate::wire::ip::{self, Ethernet, protocol};
use crate::wire::{MacAddr, udp};

/// The link addresses of a packet that is only quoted.
const NO_ETHERNET: Ethernet = Ethernet { source: MacAddr([0; 6]), destination: MacAddr([0; 6]) };

/// What is remembered of a packet of the container's, to know it again when an error quotes the payload.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    identification: u16,
    payload_len: u16,
    hop_limit: u8,
    traffic_class: u8,
    dont_fragment: bool,
    front: [u8; 8],
}

impl Sent {
    /// Of this packet, whose transport carries `payload`; of a run, what its first datagram is.
    pub(super) fn of(packet: &ip::Packet<'_>, payload: &[u8]) -> Sent {
        let mut front = [0; 8];
        let known = payload.len().min(front.len());
        front[..known].copy_from_slice(&payload[..known]);
        Sent {
            identification: ip::identification(packet.bytes),
            payload_len: u16::try_from(payload.len()).unwrap_or(u16::MAX),
            hop_limit: packet.hop_limit,
            traffic_class: packet.traffic_class,
            dont_fragment: packet.dont_fragment,
            front,
        }
    }

    /// Whether its payload may begin like this.
    fn begins_with(&self, payload: &[u8]) -> bool {
        let known = payload.len().min(self.front.len());
        payload.len() <= usize::from(self.payload_len) && payload[..known] == self.front[..known]
    }
}

impl Stack {
    /// The network, or this host, said what became of a datagram that was sent by this socket.
    pub(super) fn network_error(
        &mut self,
        port: DatagramPort,
        report: &NetworkErrorReport,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let flow = match port {
            DatagramPort::Flow(flow) => Some(flow),
            DatagramPort::Listener(listener) => self.client_of_report(listener, report),
        };
        match flow.and_then(|flow| Some((flow, self.flows.get(flow)?))) {
            Some((flow, Flow::Udp(_))) => self.udp_network_error(flow, report, now, frames),
            Some((flow, Flow::Echo(_))) => self.echo_network_error(flow, report, now, frames),
            Some((_, Flow::Tcp(_) | Flow::TimeWait(_))) | None => self.stats.record(DropReason::NoFlow),
        }
    }

    /// The flow of the client that an error of a published port's socket is about.
    fn client_of_report(&self, listener: ListenerId, report: &NetworkErrorReport) -> Option<FlowId> {
        let client = report.destination?;
        // A socket bound to one address does not tell it.
        let locals = [report.local, None];
        locals.into_iter().find_map(|local| self.clients.get(&(listener, client, local)).copied())
    }

    fn udp_network_error(
        &mut self,
        flow: FlowId,
        report: &NetworkErrorReport,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        if body.is_dns() {
            self.ask_next_resolver(flow, now, true);
            return;
        }
        let sent = body.sent;
        self.note_host_error(&key, report.error, now);
        let Some(problem) = problem_of_report(report, key.container.is_ipv6()) else { return };
        let remote = match report.destination {
            Some(destination) if key.remote.ip().is_unspecified() => {
                forward::shown_peer(&self.config, destination)
            }
            _ => key.remote,
        };
        if remote.ip().is_unspecified() || remote.is_ipv4() != key.container.is_ipv4() {
            return;
        }
        let offending = self.rebuild_udp(&FlowKey { remote, ..key }, &sent, &report.payload);
        self.report(problem, offending, report.notice.as_ref(), now, frames);
    }

    fn echo_network_error(
        &mut self,
        flow: FlowId,
        report: &NetworkErrorReport,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        self.note_host_error_of(flow, report.error, now);
        let Some((key, Flow::Echo(body))) = self.flows.get_mut(flow) else { return };
        let Some(problem) = problem_of_report(report, key.container.is_ipv6()) else { return };
        let sequence = report.payload.get(6..8).and_then(|bytes| bytes.first_chunk::<2>());
        let sent = sequence.and_then(|bytes| body.sent_as(u16::from_be_bytes(*bytes)));
        let sent = sent.copied();
        let offending = self.rebuild_echo(&key, sent.as_ref(), &report.payload);
        self.report(problem, offending, report.notice.as_ref(), now, frames);
    }

    /// The datagram that an error speaks of, as the container sent it, as far as it is known.
    pub(super) fn rebuild_udp(&self, key: &FlowKey, sent: &Sent, payload: &[u8]) -> Vec<u8> {
        let sent = sent.begins_with(payload).then_some(sent);
        let payload_len = sent.map_or(payload.len(), |sent| usize::from(sent.payload_len));
        let mut transport = vec![0; udp::HEADER_LEN + payload.len()];
        udp::write_header(&mut transport, key.container.port(), key.remote.port(), payload_len);
        transport[udp::HEADER_LEN..].copy_from_slice(payload);
        if payload_len == payload.len() {
            let (source, destination) = (key.container.ip(), key.remote.ip());
            let sum = ip::transport_checksum(source, destination, protocol::UDP, &transport);
            udp::set_checksum(&mut transport, if sum == 0 { 0xffff } else { sum });
        }
        self.rebuild(key, protocol::UDP, sent, &transport, udp::HEADER_LEN + payload_len)
    }

    /// The same for an echo request.
    pub(super) fn rebuild_echo(&self, key: &FlowKey, sent: Option<&Sent>, message: &[u8]) -> Vec<u8> {
        let is_ipv6 = key.container.is_ipv6();
        let sent = sent.filter(|sent| usize::from(sent.payload_len) >= message.len());
        let whole_len =
            sent.map_or(message.len(), |sent| usize::from(sent.payload_len)).max(icmp::HEADER_LEN);
        let mut transport = message.to_vec();
        transport.resize(message.len().max(icmp::HEADER_LEN), 0);
        // The kernel has put the socket's identifier in; the container knows its own.
        let is_whole = transport.len() == whole_len;
        icmp::replace_identifier(&mut transport, key.container.port());
        if is_whole {
            icmp::fill_checksum(&mut transport, key.container.ip(), key.remote.ip());
        }
        let protocol = if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        self.rebuild(key, protocol, sent, &transport, whole_len)
    }

    /// A packet of the container's whose transport has `transport_len` bytes, of which these are known.
    fn rebuild(
        &self,
        key: &FlowKey,
        protocol: u8,
        sent: Option<&Sent>,
        transport: &[u8],
        transport_len: usize,
    ) -> Vec<u8> {
        let mut header = self.header(key.container.ip(), key.remote.ip(), protocol);
        if let Some(sent) = sent {
            header.identification = sent.identification;
            header.hop_limit = sent.hop_limit;
            header.traffic_class = sent.traffic_class;
            header.dont_fragment = sent.dont_fragment;
        }
        let room = ip::ETHERNET_HEADER_LEN + ip::header_len(key.container.is_ipv6());
        let mut frame = vec![0; room];
        ip::write_headers(&mut frame, &NO_ETHERNET, &header, transport_len);
        frame.extend_from_slice(transport);
        frame.split_off(ip::ETHERNET_HEADER_LEN)
    }

    /// Passes on what somebody on the host's side said about a packet of the container.
    pub(super) fn report(
        &mut self,
        problem: Problem,
        mut offending: Vec<u8>,
        notice: Option<&Notice>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let offender = notice.and_then(|notice| notice.offender);
        let sent = match (offender, ip::destination(&offending)) {
            (Some(offender), Some(destination))
                if offender.is_ipv4() == destination.is_ipv4() && !offender.is_unspecified() =>
            {
                if problem == Problem::HopLimitExceeded {
                    // As it arrived where it could not go on.
                    ip::set_hop_limit(&mut offending, 1);
                }
                let from = forward::shown_peer(&self.config, SocketAddr::new(offender, 0)).ip();
                let hop_limit = notice.and_then(|notice| notice.hop_limit);
                let hop_limit = hop_limit.map(|arrived| self.hop_limit_from(from, arrived));
                let report = Report { problem, from, hop_limit, offending: &offending };
                self.neighbor.ethernet().and_then(|ethernet| {
                    self.unreachable.send(&report, now, &ethernet, &self.emitter, frames)
                })
            }
            _ => self.send_problem(problem, &offending, now, frames),
        };
        self.count(sent);
    }

    /// The hop limit with which the container gets what arrived from `source`: one less where we are a router to
    /// it, but never so few that the container's own stack would refuse it.
    pub(super) fn hop_limit_from(&self, source: IpAddr, arrived: u8) -> u8 {
        // The host's own addresses are those of the router itself.
        let is_router = self.config.host_addresses.contains(&source);
        arrived.saturating_sub(u8::from(self.config.link.is_routed(source) && !is_router)).max(1)
    }

    /// The container said that a packet of ours did not get where it was to go.
    pub(super) fn handle_error_of_container(
        &mut self,
        packet: &ip::Packet<'_>,
        error: &icmp::Error<'_>,
    ) -> Result<(), DropReason> {
        let flow = self.flow_of_quote(packet, error)?;
        match self.flows.get(flow) {
            Some(Flow::Tcp(_)) => self.tcp_error_of_container(flow, error),
            Some(Flow::Udp(_)) => Err(DropReason::IcmpNotForwarded),
            Some(Flow::Echo(_) | Flow::TimeWait(_)) | None => Err(DropReason::NoFlow),
        }
    }

    /// The container, or a router in it, did not take a segment. That ends an attempt to connect to it, and makes segments
    /// smaller; what is established is ended by nobody but its ends (RFC 1122 §4.2.3.9, RFC 5461 §3.1).
    fn tcp_error_of_container(&mut self, flow: FlowId, error: &icmp::Error<'_>) -> Result<(), DropReason> {
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return Err(DropReason::NoFlow) };
        if !tcp.endpoint.has_outstanding(error.quote.sequence()) {
            return Err(DropReason::IcmpNotForwarded);
        }
        match (error.problem, &tcp.stage) {
            (Problem::PacketTooBig { mtu }, _) => tcp.endpoint.keep_within(mtu),
            (_, Stage::Opening { via: Some(_) }) => self.close_tcp(flow, CloseKind::Reset),
            (_, Stage::Opening { via: None } | Stage::Connecting { .. } | Stage::Relaying) => {
                return Err(DropReason::IcmpNotForwarded);
            }
        }
        Ok(())
    }

    /// The flow that an error of the container speaks of.
    fn flow_of_quote(&self, packet: &ip::Packet<'_>, error: &icmp::Error<'_>) -> Result<FlowId, DropReason> {
        let quote = &error.quote;
        if !forward::is_container_source(&self.config.link, packet.source) {
            return Err(DropReason::SpoofedSource);
        }
        // It is for the sender of what it quotes.
        if packet.destination != quote.source {
            return Err(DropReason::IcmpNotForwarded);
        }
        let flow_protocol = match quote.protocol {
            protocol::TCP => FlowProtocol::Tcp,
            protocol::UDP => FlowProtocol::Udp,
            _ => return Err(DropReason::IcmpNotForwarded),
        };
        let (source_port, destination_port) = quote.ports();
        let exact = FlowKey {
            protocol: flow_protocol,
            container: SocketAddr::new(quote.destination, destination_port),
            remote: SocketAddr::new(quote.source, source_port),
        };
        let independent = FlowKey { remote: anyone_like(exact.remote), ..exact };
        self.flows.find(&exact).or_else(|| self.flows.find(&independent)).ok_or(DropReason::NoFlow)
    }
}

/// What the container is told: the words of the network where they are known, and of this host otherwise.
fn problem_of_report(report: &NetworkErrorReport, is_ipv6: bool) -> Option<Problem> {
    problem_of_notice(report.notice.as_ref(), is_ipv6).or_else(|| problem_of(report.error))
}

/// What an ICMP error says, where it is one of the container's family.
pub(super) fn problem_of_notice(notice: Option<&Notice>, is_ipv6: bool) -> Option<Problem> {
    let notice = notice?;
    let offender = notice.offender.filter(|offender| offender.is_ipv6() == is_ipv6);
    offender.and_then(|_| Problem::from_message(is_ipv6, notice.kind, notice.code, notice.rest))
}

/// What the container is told about a host error of a datagram; nothing where silence is the truth.
pub(super) fn problem_of(error: HostError) -> Option<Problem> {
    match error {
        HostError::Refused => Some(Problem::PortUnreachable),
        HostError::NetworkUnreachable => Some(Problem::NetworkUnreachable),
        HostError::HostUnreachable => Some(Problem::HostUnreachable),
        HostError::ProtocolUnreachable => Some(Problem::ProtocolUnreachable),
        HostError::Prohibited => Some(Problem::Prohibited),
        HostError::HopLimitExceeded => Some(Problem::HopLimitExceeded),
        HostError::MessageTooLong { mtu } => Some(Problem::PacketTooBig { mtu }),
        HostError::Reset | HostError::TimedOut | HostError::Exhausted | HostError::Other => None,
    }
}
