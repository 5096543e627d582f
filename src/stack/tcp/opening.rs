//! How TCP flows begin: at a SYN of the container, at a client of a published port, at a query that needs a resolver.
//!
//! Each is judged first (`forward`, the policy), then has to find room: in the table, among the half-open, in memory.

use std::net::SocketAddr;

use super::super::Flow;
use super::super::Stack;
use super::super::boundary::{Action, CloseKind, FlowId, FrameSink, HostIo, Instant, Io, ListenerId};
use super::super::drop_reason::DropReason;
use super::super::flow::{FlowKey, FlowProtocol, HostSide, Way};
use super::super::forward::{self, Outbound};
use super::super::policy::{Ask, RuleMark};
use super::endpoint::{Endpoint, LinkView};
use super::handshakes::Handshake;
use super::queries::Upstream;
use super::relay::{Stage, TcpFlow};
use super::time_wait::initial_from;
use super::{QUOTE_BYTES, is_opening, is_under_way};
use crate::config::PublishRule;
use crate::wire::icmp::Problem;
use crate::wire::ip;
use crate::wire::tcp::{self, Segment};

impl Stack {
    /// A segment that belongs to no flow: a SYN may begin one, anything else is answered by RST. `least_initial` is the
    /// least number that our side of it may begin with.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn open_from_container<H: HostIo, F: FrameSink>(
        &mut self,
        key: FlowKey,
        packet: &ip::Packet<'_>,
        segment: &Segment<'_>,
        least_initial: Option<u32>,
        link: &LinkView,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        let (decision, rule) = self.decide_outbound(FlowProtocol::Tcp, packet, key.remote, now);
        let reject = |stack: &mut Stack, io: &mut Io<'_, H, F>, reason| {
            if let Some(reset) = tcp::reset_for(segment) {
                stack.send_bare(packet, &reset, io.frames)?;
            }
            Err(reason)
        };
        let (target, resolvers_tried, hop_limit) = match decision {
            Outbound::Drop(reason) => return Err(reason),
            _ if !is_opening(segment) => return reject(self, io, DropReason::NoFlow),
            Outbound::Closed(reason) | Outbound::Prohibited(reason) => return reject(self, io, reason),
            Outbound::Gateway | Outbound::Dhcp => return reject(self, io, DropReason::Denied),
            Outbound::Unreachable(reason) => {
                self.send_problem(Problem::HostUnreachable, packet.bytes, now, io.frames)?;
                return Err(reason);
            }
            Outbound::Host(target) => (target, None, Some(self.forwarded_hop_limit(packet, now, io.frames)?)),
            // Whom it is for is seen in each query.
            Outbound::Resolver if self.names.is_some() => (key.remote, None, None),
            Outbound::Resolver => match self.resolvers.preferred() {
                Some(resolver) => (resolver, Some(0), None),
                None => {
                    self.tell_no_resolver();
                    return reject(self, io, DropReason::NoResolver);
                }
            },
        };
        if key.remote.port() == 0 || key.container.port() == 0 {
            return Err(DropReason::BadTransport);
        }
        let buffer_bytes = self.admit_newcomer(&key, segment.sequence, now, io)?;
        let initial = initial_from(self.initial_number(&key, now), least_initial);
        let mut endpoint = Endpoint::accept(key.remote, key.container, buffer_bytes, initial);
        endpoint.handle_segment(segment, false, link, now, |_| 0);
        if decision == Outbound::Resolver && self.names.is_some() {
            self.accept_queries(key, endpoint, rule, now);
            return Ok(());
        }
        let quote = packet.bytes[..packet.bytes.len().min(QUOTE_BYTES)].into();
        let side = match resolvers_tried {
            Some(_) => HostSide::new(target, Way::Forwarder, rule),
            None => HostSide::outbound(target, key.remote, rule),
        };
        let flow = self.add_tcp(key, side, endpoint, Stage::Connecting { quote, resolvers_tried }, now);
        if resolvers_tried.is_some() {
            self.overhear(flow);
        }
        self.flows.count_up(flow, packet.bytes.len());
        self.tell_opened(flow, key, target, now);
        self.begin_opening(flow, Action::ConnectStream { flow, target, hop_limit }, now);
        Ok(())
    }

    /// A connection to a network's resolver: it is ours, whether the host is needed for it or not.
    fn accept_queries(&mut self, key: FlowKey, mut endpoint: Endpoint, rule: RuleMark, now: Instant) {
        endpoint.release_syn_ack();
        let side = HostSide::new(key.remote, Way::Forwarder, rule);
        let flow = self.add_tcp(key, side, endpoint, Stage::Opening { via: None }, now);
        if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
            tcp.queries = Some(Box::default());
        }
        self.overhear(flow);
        self.queue_tcp(flow);
        self.tell_opened(flow, key, key.remote, now);
    }

    /// Names are to be learnt from the answers of a connection to a resolver, where somebody wants to know them.
    fn overhear(&mut self, flow: FlowId) {
        if let (Some(_), Some((_, Flow::Tcp(tcp)))) = (&self.policy, self.flows.get_mut(flow)) {
            tcp.overheard = Some(Box::default());
        }
    }

    /// A query needs a resolver of the host: the next is asked.
    pub(super) fn ask_upstream(&mut self, flow: FlowId, tried: usize) {
        let next = if tried == 0 { self.resolvers.preferred() } else { self.resolvers.after_failures(tried) };
        if next.is_none() && tried == 0 {
            self.tell_no_resolver();
        }
        let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) else { return };
        let Some(queries) = &mut tcp.queries else { return };
        match next {
            Some(target) => {
                queries.upstream = Upstream::Connecting { tried };
                self.actions.push_back(Action::ConnectStream { flow, target, hop_limit: None });
            }
            None => {
                queries.give_up_upstream();
                self.queue_tcp(flow);
            }
        }
    }

    /// Whether a client of a published port may be accepted; those who may not wait in the host's queue.
    #[must_use]
    pub fn may_accept(&self, listener: ListenerId) -> bool {
        self.handshakes.has_room_for(listener) && self.has_room_for_question()
    }

    /// A client of a published port was accepted: names the flow that its socket is to be bound to.
    ///
    /// # Errors
    /// The reason why there will be no flow; the driver resets the connection.
    pub fn accept_stream(
        &mut self,
        listener: ListenerId,
        client: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        let Some(rule) = self.published.get(&listener.0).copied() else {
            self.stats.record(DropReason::Denied);
            return Err(DropReason::Denied);
        };
        self.accept_by_rule(listener, rule, (client, local), now)
    }

    /// The same for a port that another worker has published.
    pub(in crate::stack) fn accept_by_rule(
        &mut self,
        listener: ListenerId,
        rule: PublishRule,
        (client, local): (SocketAddr, SocketAddr),
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        let opened = self.enter_quietly(|stack| {
            let opened = stack.open_from_host(listener, &rule, client, now);
            if let Err(reason) = opened {
                stack.stats.record(reason);
                stack.note_refused_client(FlowProtocol::Tcp, client, local, reason, now);
            }
            opened
        });
        opened.unwrap_or(Err(DropReason::Fault))
    }

    fn open_from_host(
        &mut self,
        listener: ListenerId,
        rule: &PublishRule,
        client: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        let inbound = forward::inbound(&self.config, rule, client)?;
        self.link_view()?;
        let rule = self.consult(&Ask::inbound(FlowProtocol::Tcp, client, inbound.server.port()), 0, now)?;
        let key = self.free_key(FlowProtocol::Tcp, &inbound).ok_or(DropReason::EndpointsTaken)?;
        // No frame can be sent here, so nobody is given up.
        if self.flows.is_full_of(FlowProtocol::Tcp) {
            return Err(DropReason::FlowLimit);
        }
        let buffer_bytes = self.memory.buffer_for_one_more().ok_or(DropReason::MemoryLimit)?;
        let initial = self.initial_number(&key, now);
        let endpoint = Endpoint::connect(key.remote, key.container, buffer_bytes, initial);
        let side = HostSide::new(client, Way::Published(listener), rule);
        let flow = self.add_tcp(key, side, endpoint, Stage::Opening { via: Some(listener) }, now);
        if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
            tcp.host_connected();
        }
        self.tell_opened(flow, key, client, now);
        if rule == RuleMark::AWAITED {
            self.ask_about_flow(flow, None, now);
        } else {
            self.queue_tcp(flow);
        }
        Ok(flow)
    }

    pub(super) fn add_tcp(
        &mut self,
        key: FlowKey,
        side: HostSide,
        endpoint: Endpoint,
        stage: Stage,
        now: Instant,
    ) -> FlowId {
        let mut tcp = Box::new(TcpFlow::new(endpoint, stage));
        self.memory.charge(&mut tcp);
        let handshake = tcp.handshake();
        self.handshakes.begin(handshake);
        let flow = self.flows.insert(key, side, now, Flow::Tcp(tcp));
        if handshake == Some(Handshake::Outbound) {
            let flows = &self.flows;
            self.newcomers.begin(flow, now, |flow| is_under_way(flows, flow));
        }
        let deadline = now + self.config.timeouts.tcp_handshake.into();
        if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
            self.timers.wake_by(flow, &mut tcp.alarm, deadline);
        }
        flow
    }

    /// Room for one more TCP flow of the container: in the table, among the half-open, and in memory. Returns its buffer size.
    fn admit_newcomer<H: HostIo, F: FrameSink>(
        &mut self,
        key: &FlowKey,
        sequence: u32,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<usize, DropReason> {
        if !self.newcomers.is_crowded(now) && !self.handshakes.is_scarce() {
            self.newcomers.rest(now);
        } else if !self.newcomers.came_before(self.hasher.hash_one((key, sequence)), now) {
            return Err(DropReason::HalfOpenLimit);
        }
        if !self.handshakes.has_room() {
            let flows = &self.flows;
            let oldest = self.newcomers.oldest(now, |flow| is_under_way(flows, flow));
            // Its SYN was never answered, or the SYN-ACK was not: nobody is told.
            self.close_tcp(oldest.ok_or(DropReason::HalfOpenLimit)?, CloseKind::Reset);
        }
        self.make_room(FlowProtocol::Tcp, now, io)?;
        self.buffer_for_newcomer(now, io)
    }

    /// RFC 6528 §3: a clock of four microseconds, and for each pair of endpoints another place on it, which nobody can
    /// guess: the numbers of a pair only grow, and those of two pairs are unrelated.
    fn initial_number(&self, key: &FlowKey, now: Instant) -> u32 {
        // The lower halves: the hash is as good in any of its bits, and the clock wraps as the numbers do.
        (self.hasher.hash_one(key) as u32).wrapping_add((now.total_micros() / 4) as u32)
    }
}
