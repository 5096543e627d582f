//! Datagrams of the host on their way to the container: read straight into the frame that they leave in.

use std::net::SocketAddr;

use super::super::Flow;
use super::super::Stack;
use super::super::boundary::{
    ArrivedDatagrams, DatagramPort, DatagramRead, FlowId, FrameSink, HostIo, Instant, Io, ListenerId,
};
use super::super::drop_reason::DropReason;
use super::super::emit::UdpEnvelope;
use super::super::flow::{FlowKey, FlowProtocol, HostSide, Way};
use super::super::forward;
use super::super::forward::Inbound;
use super::super::policy::{Ask, RuleMark};
use super::super::stats::Traffic;
use super::{READ_BUDGET, Via};
use crate::config::PortProtocol;
use crate::wire::{ip, udp};

impl Stack {
    /// Datagrams wait on a flow's own socket: reads up to `most` bytes of them, but for the last. Returns how many it were,
    /// and whether some may be left.
    pub(in crate::stack) fn read_udp<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        most: usize,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> (usize, bool) {
        let mut bytes = 0;
        for _ in 0..READ_BUDGET {
            if bytes >= most {
                break;
            }
            let Some((key, Flow::Udp(_))) = self.flows.get_mut(flow) else { return (bytes, false) };
            let is_ipv6 = key.container.is_ipv6();
            let mut read = DatagramRead::Blocked;
            let emitter = self.emitter;
            let receive = |room: &mut [u8]| {
                read = io.host.receive_datagrams(DatagramPort::Flow(flow), room);
                let DatagramRead::Arrived(mut arrived) = read else { return None };
                self.flows.touch(flow, now);
                if !self.admit_answers(flow, room.get_mut(..arrived.len)?, &mut arrived, now)
                    || !self.may_answer(&key, &arrived, now)
                {
                    return None;
                }
                self.flows.count_down(flow, carried(&key, &arrived));
                let source = if key.remote.ip().is_unspecified() {
                    forward::shown_peer(&self.config, arrived.source)
                } else {
                    key.remote
                };
                Some((self.envelope(source, key.container, &arrived)?, arrived.len))
            };
            let sent = emitter.receive_datagrams(is_ipv6, receive, io.frames);
            if self.is_read_out(sent, read) {
                return (bytes, sent == Err(DropReason::LinkFull));
            }
            bytes += bytes_of(read);
        }
        (bytes, true)
    }

    /// Counts what became of a read, and says whether the socket is to be left alone now.
    fn is_read_out(&mut self, sent: Result<bool, DropReason>, read: DatagramRead) -> bool {
        if let Err(reason) = sent {
            self.stats.record(reason);
        }
        // A pending error of the socket shows again as a `NetworkError`; the next read goes on.
        read == DatagramRead::Blocked
    }

    /// Whether anything may pass: on a flow of the DNS only answers that are awaited, which are moved together.
    fn admit_answers(
        &mut self,
        flow: FlowId,
        bytes: &mut [u8],
        arrived: &mut ArrivedDatagrams,
        now: Instant,
    ) -> bool {
        let Some((_, Flow::Udp(body))) = self.flows.get_mut(flow) else { return false };
        let Some(exchange) = &mut body.dns else { return true };
        let each = arrived.segment_bytes.map_or(bytes.len(), |each| each.get().into());
        let (mut kept, mut from) = (0, 0);
        let mut answered = Vec::new();
        while from < bytes.len() {
            let to = (from + each).min(bytes.len());
            if let Some(query) = exchange.take_answered(&bytes[from..to]) {
                let failures = std::mem::take(&mut exchange.failures);
                self.resolvers.answered(failures);
                bytes.copy_within(from..to, kept);
                answered.push((query, kept..kept + to - from));
                kept += to - from;
            } else {
                self.stats.record(DropReason::NoFlow);
            }
            from = to;
        }
        for (query, place) in answered {
            self.learn_names(&query, &bytes[place], now);
        }
        arrived.len = kept;
        arrived.segment_bytes = arrived.segment_bytes.filter(|each| usize::from(each.get()) < kept);
        kept > 0
    }

    /// Whether a datagram may come in by a socket that anyone may answer: from whom the container may speak to.
    fn may_answer(&mut self, key: &FlowKey, arrived: &ArrivedDatagrams, now: Instant) -> bool {
        if self.policy.is_none() || !key.remote.ip().is_unspecified() {
            return true;
        }
        let ask = Ask::outbound(FlowProtocol::Udp, arrived.source);
        let judged = self.judge(&ask, arrived.len, now).map(|_| ());
        self.count(judged);
        judged.is_ok()
    }

    /// Datagrams wait on a published port; as [`Self::read_udp`].
    pub(in crate::stack) fn read_listener<H: HostIo, F: FrameSink>(
        &mut self,
        listener: ListenerId,
        most: usize,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> (usize, bool) {
        let mut bytes = 0;
        let Some(rule) = self.published.get(&listener.0).copied() else { return (0, false) };
        if rule.protocol != PortProtocol::Udp {
            return (0, false);
        }
        for _ in 0..READ_BUDGET {
            if bytes >= most {
                break;
            }
            let mut read = DatagramRead::Blocked;
            let emitter = self.emitter;
            let receive = |room: &mut [u8]| {
                read = io.host.receive_datagrams(DatagramPort::Listener(listener), room);
                let DatagramRead::Arrived(arrived) = read else { return None };
                let payload = room.get(..arrived.len)?;
                match self.flow_of_client(listener, &rule, &arrived, payload, now) {
                    Ok(Some(key)) => Some((self.envelope(key.remote, key.container, &arrived)?, arrived.len)),
                    Ok(None) => None,
                    Err(reason) => {
                        self.stats.record(reason);
                        let local =
                            SocketAddr::new(arrived.local.unwrap_or(rule.host_address), rule.host_port);
                        self.note_refused_client(FlowProtocol::Udp, arrived.source, local, reason, now);
                        None
                    }
                }
            };
            let sent = emitter.receive_datagrams(rule.host_address.is_ipv6(), receive, io.frames);
            if self.is_read_out(sent, read) {
                return (bytes, sent == Err(DropReason::LinkFull));
            }
            bytes += bytes_of(read);
        }
        (bytes, true)
    }

    /// The flow of a published port's client, made at its first datagram; none where that waits for the user's hook.
    fn flow_of_client(
        &mut self,
        listener: ListenerId,
        rule: &crate::config::PublishRule,
        arrived: &ArrivedDatagrams,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<FlowKey>, DropReason> {
        let inbound = forward::inbound(&self.config, rule, arrived.source)?;
        let known = (listener, arrived.source, arrived.local);
        if let Some(&flow) = self.clients.get(&known)
            && let Some(key) = self.flows.key(flow)
        {
            self.flows.touch(flow, now);
            self.flows.count_down(flow, carried(&key, arrived));
            return Ok(Some(key));
        }
        if self.hold_more(listener, arrived, payload)? {
            return Ok(None);
        }
        let ask = Ask::inbound(FlowProtocol::Udp, arrived.source, inbound.server.port());
        let mark = self.consult(&ask, arrived.len, now)?;
        if mark == RuleMark::AWAITED {
            self.hold_client((listener, inbound.server), &ask, arrived, payload, now);
            return Ok(None);
        }
        let (flow, key) = self.admit_client(listener, &inbound, arrived, mark, now)?;
        self.flows.count_down(flow, carried(&key, arrived));
        Ok(Some(key))
    }

    /// Makes the flow of a client who may come in.
    pub(in crate::stack) fn admit_client(
        &mut self,
        listener: ListenerId,
        inbound: &Inbound,
        arrived: &ArrivedDatagrams,
        mark: RuleMark,
        now: Instant,
    ) -> Result<(FlowId, FlowKey), DropReason> {
        let key = self.free_key(FlowProtocol::Udp, inbound).ok_or(DropReason::EndpointsTaken)?;
        if self.flows.is_full_of(FlowProtocol::Udp) {
            let idle = self.config.limits.evict_idle.into();
            let oldest =
                self.flows.eviction_candidate(FlowProtocol::Udp, now, idle).ok_or(DropReason::FlowLimit)?;
            if !matches!(self.flows.get(oldest), Some(Flow::Udp(_) | Flow::Echo(_))) {
                return Err(DropReason::FlowLimit);
            }
            self.close_datagram_flow(oldest);
        }
        let via = Via::Listener { listener, client: arrived.source, local: arrived.local };
        let side = HostSide::new(arrived.source, Way::Published(listener), mark);
        let flow = self.add_udp(key, side, via, None, now);
        self.clients.insert((listener, arrived.source, arrived.local), flow);
        self.tell_opened(flow, key, arrived.source, now);
        Ok((flow, key))
    }

    /// Passes on what a client has sent while the user's hook was asked about him.
    pub(in crate::stack) fn deliver_held(
        &mut self,
        (flow, key): (FlowId, FlowKey),
        arrived: &ArrivedDatagrams,
        payload: &[u8],
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        self.flows.touch(flow, now);
        self.flows.count_down(flow, carried(&key, arrived));
        let emitter = self.emitter;
        let fill = |room: &mut [u8]| {
            room.get_mut(..payload.len())?.copy_from_slice(payload);
            Some((self.envelope(key.remote, key.container, arrived)?, payload.len()))
        };
        let sent = emitter.receive_datagrams(key.container.is_ipv6(), fill, frames);
        self.count(sent.map(|_| ()));
    }

    /// What stands in front of datagrams for the container.
    fn envelope(
        &mut self,
        source: SocketAddr,
        container: SocketAddr,
        arrived: &ArrivedDatagrams,
    ) -> Option<UdpEnvelope> {
        let ethernet = match self.neighbor.ethernet() {
            Ok(ethernet) => ethernet,
            Err(reason) => {
                self.stats.record(reason);
                return None;
            }
        };
        let mut header = self.header(source.ip(), container.ip(), ip::protocol::UDP);
        header.traffic_class = arrived.traffic_class;
        header.hop_limit = self.hop_limit_from(source.ip(), arrived.hop_limit);
        // The host has taken it for its own; from here on it is we who send it, in as many fragments as it takes.
        header.dont_fragment = false;
        header.identification = self.next_identification();
        let (source_port, destination_port) = (source.port(), container.port());
        Some(UdpEnvelope {
            ethernet,
            header,
            source_port,
            destination_port,
            segment_bytes: arrived.segment_bytes,
        })
    }
}

fn bytes_of(read: DatagramRead) -> usize {
    match read {
        DatagramRead::Arrived(arrived) => arrived.len,
        DatagramRead::Blocked | DatagramRead::Failed(_) => 0,
    }
}

/// What arrived, as packets toward the container.
fn carried(key: &FlowKey, arrived: &ArrivedDatagrams) -> Traffic {
    let each = arrived.segment_bytes.map_or(arrived.len, |each| each.get().into());
    let frames = arrived.len.div_ceil(each.max(1)).max(1) as u64;
    let headers = (ip::header_len(key.container.is_ipv6()) + udp::HEADER_LEN) as u64;
    Traffic { frames, bytes: arrived.len as u64 + frames * headers }
}
