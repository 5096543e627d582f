//! The core: a pure state machine between a link and the host's sockets.
//!
//! It owns no descriptor, reads no clock and draws no randomness: frames, host events and `now` are arguments,
//! effects are values (`boundary`). Two runs with the same inputs are the same run, which is what the simulator
//! lives on.
//!
//! This file only dispatches. A frame is parsed once and handed to the module of its protocol; a host event or
//! a deadline finds its flow in the table and the flow's kind decides the rest.

pub mod audit;
pub mod boundary;
pub mod bridge;
mod deadlines;
pub mod drop_reason;
pub mod emit;
pub mod errands;
pub mod flow;
pub mod forward;
pub mod hook;
mod icmp;
pub mod impair;
pub mod isolation;
pub mod neighbor;
mod network_error;
mod outgoing;
pub mod policy;
pub mod publish;
pub mod reassembly;
pub mod recent;
pub mod service;
pub mod shape;
mod shaping;
pub mod share;
pub mod spliced;
pub mod stats;
pub mod tcp;
pub mod timer;
mod told;
mod udp;
pub mod unreachable;
pub mod view;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::RandomState;

use self::audit::Audit;
use self::boundary::{
    Action, CloseKind, FlowId, FrameSink, HostEvent, HostIo, Instant, Io, ListenerId, StackEvent,
};
use self::drop_reason::DropReason;
use self::emit::Emitter;
use self::errands::Errands;
use self::flow::{FlowKey, FlowProtocol, FlowTable};
use self::hook::Hook;
use self::icmp::EchoFlow;
use self::neighbor::Neighbor;
use self::policy::Policy;
use self::publish::watch::Watches;
use self::reassembly::Reassembler;
use self::recent::Recent;
use self::service::dhcp::DhcpServer;
use self::service::dns::Resolvers;
use self::service::names::Names;
use self::service::router_advert::{Advertisement, RouterAdvert};
use self::shaping::Shaping;
use self::share::Share;
use self::stats::Stats;
use self::tcp::handshakes::Handshakes;
use self::tcp::memory::Memory;
use self::tcp::newcomers::Newcomers;
use self::tcp::relay::TcpFlow;
use self::tcp::time_wait::TimeWait;
use self::tcp::turns::Turns;
use self::timer::{Alarm, Timers};
use self::udp::UdpFlow;
use self::udp::mapping::Mappings;
use self::unreachable::Unreachable;
use crate::config::{Config, PublishRule};
use crate::wire::frame::{self, Body};
use crate::wire::icmp::Problem;
use crate::wire::ip;
use crate::wire::ndp;
use crate::wire::vnet_header::{FrameMeta, Offload};

/// What a flow is.
#[derive(Debug)]
enum Flow {
    Tcp(Box<TcpFlow>),
    TimeWait(TimeWait),
    Udp(Box<UdpFlow>),
    Echo(Box<EchoFlow>),
}

impl Flow {
    fn alarm(&self) -> &Alarm {
        match self {
            Flow::Tcp(tcp) => &tcp.alarm,
            Flow::TimeWait(time_wait) => &time_wait.alarm,
            Flow::Udp(udp) => &udp.alarm,
            Flow::Echo(echo) => &echo.alarm,
        }
    }
}

/// A socket that was not read to its end within its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unread {
    Flow(FlowId),
    Listener(ListenerId),
}

/// The network of one link.
pub struct Stack {
    config: Arc<Config>,
    offload: Offload,
    hasher: RandomState,
    neighbor: Neighbor,
    router_advert: RouterAdvert,
    emitter: Emitter,
    unreachable: Unreachable,
    reassembler: Reassembler,
    resolvers: Resolvers,
    names: Option<Names>,
    dhcp: Option<DhcpServer>,
    /// Which flows are this worker's.
    share: Share,
    errands: Errands,
    flows: FlowTable<Flow>,
    /// Published ports, by the number of their listener. No number is given twice.
    published: BTreeMap<u32, PublishRule>,
    next_listener: u32,
    /// Which of them somebody listens on in the container.
    watches: Watches,
    /// Flows of published UDP ports by who their client is.
    clients: HashMap<(ListenerId, SocketAddr, Option<IpAddr>), FlowId, RandomState>,
    /// UDP flows that share a port of the host, by their endpoint of the container.
    mappings: Mappings,
    timers: Timers,
    /// TCP flows that something happened to since the last flush.
    queue: Vec<FlowId>,
    unread: VecDeque<Unread>,
    actions: VecDeque<Action>,
    events: VecDeque<StackEvent>,
    stats: Stats,
    memory: Memory,
    handshakes: Handshakes,
    newcomers: Newcomers,
    echo_forbidden_told: bool,
    no_resolver_told: bool,
    /// Tells fragmented datagrams apart (RFC 6864).
    identification: u16,
    /// Room for one echo reply, or what a turn of a stream reads; none before it is needed.
    scratch: Box<[u8]>,
    turns: Turns,
    shaping: Shaping,
    /// What a bottleneck of the link holds, in bytes, where it has one on purpose.
    bottleneck: Option<u32>,
    /// What may go where; none where everything may.
    policy: Option<Box<Policy>>,
    /// The user's own say, before any rule.
    hook: Option<Box<Hook>>,
    /// What went no further lately.
    recent: Recent,
    /// Where the container goes, if somebody writes it down.
    audit: Option<Box<Audit>>,
}

impl Stack {
    /// A stack with no flows. `secret` keys the flow table and the sequence numbers: 256 bits nobody can guess.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        offload: Offload,
        resolvers: Vec<SocketAddr>,
        secret: [u64; 4],
        now: Instant,
    ) -> Self {
        let [a, b, c, d] = secret;
        let advertisement = Advertisement::new(&config);
        let mut stack = Stack {
            watches: Watches::new(RandomState::with_seeds(d, a, b, c)),
            offload,
            hasher: RandomState::with_seeds(b, c, d, a),
            neighbor: Neighbor::new(&config.link, advertisement.clone()),
            router_advert: RouterAdvert::new(advertisement, now),
            emitter: Emitter::new(config.link.mtu, offload),
            unreachable: Unreachable::new(&config.limits),
            reassembler: Reassembler::new(config.limits.reassembly),
            resolvers: Resolvers::new(resolvers),
            names: Names::new(&config.link),
            dhcp: DhcpServer::new(&config),
            share: Share::whole(),
            errands: Errands::default(),
            flows: FlowTable::new(config.limits.flows, secret),
            published: (0..).zip(config.publish.iter().copied()).collect(),
            next_listener: u32::try_from(config.publish.len()).unwrap_or(u32::MAX).max(1),
            clients: HashMap::with_hasher(RandomState::with_seeds(c, d, a, b)),
            mappings: Mappings::new(RandomState::with_seeds(b, a, d, c)),
            timers: Timers::default(),
            queue: Vec::new(),
            unread: VecDeque::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            memory: Memory::new(&config.limits),
            handshakes: Handshakes::new(&config.limits),
            newcomers: Newcomers::new(&config.limits),
            echo_forbidden_told: false,
            no_resolver_told: false,
            identification: 0,
            scratch: Box::default(),
            turns: Turns::default(),
            shaping: Shaping::new(RandomState::with_seeds(d, c, b, a)),
            bottleneck: None,
            policy: None,
            hook: None,
            recent: Recent::default(),
            audit: None,
            config,
        };
        stack.begin_policy();
        let published: Vec<u32> = stack.published.keys().copied().collect();
        published.into_iter().for_each(|listener| stack.watch_port(listener));
        stack
    }

    /// Takes one frame of the container: `header` is its virtio-net header (ten zero bytes on a link without),
    /// `frame` begins at the Ethernet header.
    pub fn handle_frame<H: HostIo, F: FrameSink>(
        &mut self,
        header: &[u8],
        frame: &[u8],
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        self.stats.from_container.record(frame.len());
        self.enter(io, now, |stack, io| {
            let taken = stack.dispatch_frame(header, frame, now, io);
            if let Err(reason) = taken {
                stack.note_dropped(frame, reason, now);
            }
            stack.count(taken);
        });
    }

    fn dispatch_frame<H: HostIo, F: FrameSink>(
        &mut self,
        header: &[u8],
        frame: &[u8],
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        let meta = FrameMeta::parse(header).map_err(|_| DropReason::VnetHeader)?;
        let frame = frame::parse(frame).map_err(DropReason::Frame)?;
        if frame.destination.is_unicast() && frame.destination != self.config.link.gateway_mac {
            // RFC 1122 §3.3.1: what is for another station is not ours to route.
            return Err(DropReason::NotForUs);
        }
        match &frame.body {
            Body::Arp(message) => self.neighbor.handle_arp(message, io.frames),
            Body::Ip(packet) => {
                // Never in fragments (RFC 6980 §5): the bytes of a later one may look like anything.
                let may_be_discovery = packet.protocol == ip::protocol::ICMPV6 && packet.fragment.is_none();
                if may_be_discovery && ndp::is_discovery(packet.payload) {
                    if !self.is_discovery_offered(packet) {
                        return Err(DropReason::NotForUs);
                    }
                    return self.neighbor.handle_ndp(packet, frame.source, io.frames);
                }
                self.neighbor.learn(frame.source, packet.source);
                match packet.fragment {
                    None => self.dispatch_packet(packet, &meta, now, io),
                    Some(_) => {
                        let Some(whole) = self.reassemble(packet, now, io.frames)? else { return Ok(()) };
                        let parsed = ip::parse(&whole).map_err(DropReason::Frame)?;
                        if let Some(owner) = self.share.owner_of_packet(&parsed) {
                            self.errands.stray(owner, &frame, &whole);
                            return Ok(());
                        }
                        // What came in fragments may go on in fragments.
                        let packet = ip::Packet { dont_fragment: false, ..parsed };
                        let meta = FrameMeta { checksum_partial: false, ..FrameMeta::default() };
                        self.dispatch_packet(&packet, &meta, now, io)
                    }
                }
            }
        }
    }

    /// Adds a fragment to those of its packet; the whole packet, if this was what it lacked.
    fn reassemble(
        &mut self,
        fragment: &ip::Packet<'_>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let added = self.reassembler.add(fragment, now);
        self.stats.record_many(DropReason::FragmentLimit, self.reassembler.take_evicted());
        if let (Err(DropReason::FragmentInvalid), Some(problem)) =
            (&added, reassembly::complaint_about(fragment))
        {
            self.send_problem(problem, fragment.bytes, now, frames)?;
        }
        added
    }

    /// Whether the segment has the part of neighbor discovery that a message belongs to.
    fn is_discovery_offered(&self, packet: &ip::Packet<'_>) -> bool {
        let services = self.config.services;
        if ndp::is_router_solicitation(packet.payload) {
            services.router_adverts
        } else {
            services.neighbor_discovery
        }
    }

    fn dispatch_packet<H: HostIo, F: FrameSink>(
        &mut self,
        packet: &ip::Packet<'_>,
        meta: &FrameMeta,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        let transports = self.config.transports;
        let is_carried = match packet.protocol {
            ip::protocol::TCP => transports.tcp,
            ip::protocol::UDP => transports.udp,
            ip::protocol::ICMP | ip::protocol::ICMPV6 => transports.icmp,
            _ => true,
        };
        if !is_carried {
            return Err(DropReason::Denied);
        }
        match packet.protocol {
            ip::protocol::TCP => {
                verify_checksum(packet, meta)?;
                self.handle_tcp(packet, now, io)
            }
            ip::protocol::UDP => {
                // RFC 768: an IPv4 checksum of zero was not computed.
                let unchecked = packet.source.is_ipv4() && packet.payload.get(6..8) == Some(&[0, 0]);
                if !unchecked {
                    verify_checksum(packet, meta)?;
                }
                self.handle_udp(packet, meta, now, io)
            }
            ip::protocol::ICMPV6
                if icmp::is_link_scope(packet.destination) && packet.destination.is_multicast() =>
            {
                Err(DropReason::Multicast)
            }
            ip::protocol::ICMP if packet.source.is_ipv4() => self.handle_icmp(packet, now, io),
            ip::protocol::ICMPV6 if packet.source.is_ipv6() => self.handle_icmp(packet, now, io),
            _ => {
                self.send_problem(Problem::ProtocolUnreachable, packet.bytes, now, io.frames)?;
                Err(DropReason::UnknownProtocol)
            }
        }
    }

    /// Takes one event of the host's side.
    pub fn handle_host<H: HostIo, F: FrameSink>(
        &mut self,
        event: HostEvent,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        self.enter(io, now, |stack, io| stack.dispatch_event(event, now, io));
    }

    fn dispatch_event<H: HostIo, F: FrameSink>(
        &mut self,
        event: HostEvent,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        match event {
            HostEvent::Connected { flow } => match self.flows.get(flow) {
                Some(Flow::Tcp(_)) => self.tcp_connected(flow),
                Some(Flow::Udp(_)) => self.udp_connected(flow, now, io),
                Some(Flow::Echo(_)) => self.echo_connected(flow, now, io),
                Some(Flow::TimeWait(_)) | None => {}
            },
            HostEvent::ConnectFailed { flow, error, notice } => match self.flows.get(flow) {
                Some(Flow::Tcp(_)) => self.tcp_connect_failed(flow, error, notice, now, io),
                Some(Flow::Udp(_)) => self.udp_connect_failed(flow, error, now, io.frames),
                Some(Flow::Echo(_)) => self.echo_connect_failed(flow, error, now, io.frames),
                Some(Flow::TimeWait(_)) | None => {}
            },
            HostEvent::Readable { flow } => {
                if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
                    tcp.host_readable();
                    self.flows.touch(flow, now);
                    self.queue_tcp(flow);
                } else {
                    self.read(Unread::Flow(flow), now, io);
                }
            }
            HostEvent::Writable { flow } => {
                if let Some((_, Flow::Tcp(tcp))) = self.flows.get_mut(flow) {
                    tcp.host_writable();
                    self.queue_tcp(flow);
                }
            }
            HostEvent::ListenerReadable { listener } => self.read(Unread::Listener(listener), now, io),
            HostEvent::NetworkError { port, report } => self.network_error(port, &report, now, io.frames),
            HostEvent::DatagramsLost { count, refused } => {
                let reason =
                    if refused.is_some() { DropReason::HostRefused } else { DropReason::HostQueueFull };
                self.stats.record_many(reason, count);
                if let Some((port, report)) = refused {
                    self.network_error(port, &report, now, io.frames);
                }
            }
            HostEvent::NotListening { listener } => self.port_not_listening(listener, now),
            HostEvent::ResolversChanged(list) => {
                self.resolvers = Resolvers::new(list);
                self.no_resolver_told = false;
            }
            HostEvent::NamesChanged(table) => {
                if let Some(names) = &mut self.names {
                    names.change(table);
                }
            }
        }
    }

    fn read<H: HostIo, F: FrameSink>(&mut self, unread: Unread, now: Instant, io: &mut Io<'_, H, F>) {
        let most = if self.shaping.is_on() { self.shaping.ask_down(unread, now) } else { usize::MAX };
        if most > 0 {
            self.read_within(unread, most, now, io);
        }
    }

    /// Reads datagrams of so many bytes at most, but for the last.
    fn read_within<H: HostIo, F: FrameSink>(
        &mut self,
        unread: Unread,
        most: usize,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let (bytes, more) = match unread {
            Unread::Flow(flow) => match self.flows.get(flow) {
                Some(Flow::Udp(_)) => self.read_udp(flow, most, now, io),
                Some(Flow::Echo(_)) => (0, self.read_echo(flow, now, io)),
                Some(Flow::Tcp(_) | Flow::TimeWait(_)) | None => (0, false),
            },
            Unread::Listener(listener) => self.read_listener(listener, most, now, io),
        };
        if self.shaping.is_down_limited(unread) {
            self.shaping.pay_down(unread, bytes, more, now);
        } else if more && !self.unread.contains(&unread) {
            self.unread.push_back(unread);
        }
    }

    /// Lets everything that was touched since the last call speak: to be called once after each batch of
    /// `handle_*` calls.
    pub fn flush<H: HostIo, F: FrameSink>(&mut self, now: Instant, io: &mut Io<'_, H, F>) {
        let mut queue = std::mem::take(&mut self.queue);
        for flow in queue.drain(..) {
            self.enter(io, now, |stack, io| stack.advance_tcp(flow, now, io));
        }
        // Those that want another turn wait for the next call; the emptied vector serves again.
        queue.append(&mut self.queue);
        self.queue = queue;
        if self.shaping.is_on() {
            self.serve_turns(now, io);
        }
        if self.timers.is_crowded(self.flows.len()) {
            let flows = &self.flows;
            self.timers.sweep(|flow, at| flows.get(flow).is_some_and(|body| body.alarm().is_set_for(at)));
        }
    }

    /// There may be very many cores at rest in one process.
    fn make_scratch(&mut self) {
        if self.scratch.is_empty() {
            self.scratch = vec![0; 65_535].into();
        }
    }

    /// A number for a packet toward the container that may leave in fragments (RFC 6864).
    fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// The next thing the driver is to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing the driver may want to tell.
    pub fn poll_event(&mut self) -> Option<StackEvent> {
        self.events.pop_front()
    }

    /// Makes sure that one more flow of this protocol fits: the least recently used idle one gives way.
    fn make_room<H: HostIo, F: FrameSink>(
        &mut self,
        protocol: FlowProtocol,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Result<(), DropReason> {
        if !self.flows.is_full_of(protocol) {
            return Ok(());
        }
        let idle = self.config.limits.evict_idle.into();
        let oldest = self.flows.eviction_candidate(protocol, now, idle).ok_or(DropReason::FlowLimit)?;
        self.stats.flow_evicted(self.flows.key(oldest).map_or(FlowProtocol::Tcp, |key| key.protocol));
        match self.flows.get(oldest) {
            Some(Flow::Tcp(_)) => self.abort_tcp(oldest, now, io),
            Some(Flow::TimeWait(_)) => {
                self.flows.remove(oldest);
            }
            Some(Flow::Udp(_) | Flow::Echo(_)) => self.close_datagram_flow(oldest),
            None => {}
        }
        Ok(())
    }

    /// Ends a UDP or echo flow.
    fn close_datagram_flow(&mut self, flow: FlowId) {
        let Some(key) = self.flows.key(flow) else { return };
        let lacks_socket = self.lacks_socket(flow);
        match self.flows.remove(flow) {
            Some(Flow::Udp(_) | Flow::Echo(_)) if lacks_socket => {}
            Some(Flow::Udp(udp)) => match udp.client() {
                Some(client) => {
                    self.clients.remove(&client);
                }
                None => {
                    self.mappings.leave(key.container, flow);
                    self.actions.push_back(Action::Close { flow, how: CloseKind::Graceful });
                }
            },
            Some(Flow::Echo(_)) => {
                self.actions.push_back(Action::Close { flow, how: CloseKind::Graceful });
            }
            Some(Flow::Tcp(_) | Flow::TimeWait(_)) | None => debug_assert!(false, "not a datagram flow"),
        }
        self.tell_closed(flow, key.protocol);
    }
}

/// A transport checksum that nobody vouches for is verified before anything is believed.
fn verify_checksum(packet: &ip::Packet<'_>, meta: &FrameMeta) -> Result<(), DropReason> {
    if meta.checksum_partial || meta.checksum_valid {
        return Ok(());
    }
    if ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload) {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}
