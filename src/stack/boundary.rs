//! The line between the core and its driver.
//!
//! In: `Stack::handle_*`, each given `now`. Out: [`Action`]s to carry out, [`StackEvent`]s to tell, and the
//! next deadline. An action's outcome comes back as a [`HostEvent`]. Payload never travels in these values: the
//! core asks for it, by reference, through [`HostIo`], and hands frames to a [`FrameSink`]. Both are statically
//! dispatched, so that the simulator and the real driver each compile to straight calls.
//!
//! The core never sees a descriptor or an errno. It calls [`HostIo`] until it answers `Blocked` and then waits
//! for `Readable` or `Writable`: readiness is edge-triggered, as the driver's poll is.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

pub use smoltcp::time::{Duration, Instant};

use super::service::names::NameTable;
use crate::config::PublishRule;
use crate::wire::vnet_header::VNET_HEADER_LEN;

/// Names one flow of one worker, and never another: a slot that is used again gets the next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// Place in the flow table; small, dense, reused.
    pub slot: u32,
    /// Counts the lives of the slot.
    pub generation: u32,
}

impl std::fmt::Display for FlowId {
    /// As users know it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "f{}.{}", self.slot, self.generation)
    }
}

/// Names a published port: its place in `Config::publish`, or a number beyond for one published later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// What is asked for while the network is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Publish these ports, all or none.
    Publish(Vec<PublishRule>),
    /// Publish a port no longer.
    Unpublish(ListenerId),
    /// Tell the ports that are published.
    List,
}

/// What came of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// These ports are published now, in the order asked for.
    Published(Vec<ListenerId>),
    /// It is published no longer.
    Unpublished,
    /// There is no such port.
    NoSuchPort,
    /// These are published.
    Listed(Vec<(ListenerId, PublishRule)>),
    /// It cannot be, for this reason.
    Refused(String),
}

/// What the driver is to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Open a stream socket for `flow` and connect it; answered by `Connected` or `ConnectFailed`.
    ConnectStream {
        /// Whose socket it becomes.
        flow: FlowId,
        /// Whom to connect to.
        target: SocketAddr,
        /// TTL or hop limit of its segments; the host's own where there is none.
        hop_limit: Option<u8>,
    },
    /// Open a datagram socket for `flow`, with the source port `preferred_port` where that is free; answered
    /// by `Connected` or `ConnectFailed`.
    OpenDatagram {
        /// Whose socket it becomes.
        flow: FlowId,
        /// Connected to this peer, or to nobody (the unspecified address of the family) when endpoint-independent.
        target: SocketAddr,
        /// The container's own source port; 0 for any.
        preferred_port: u16,
        /// A flow of the same endpoint of the container: its socket's port is the new one's, too.
        beside: Option<FlowId>,
    },
    /// Open a ping socket for `flow`, with the identifier where that is free; answered by `Connected` or
    /// `ConnectFailed` (`Prohibited` where `ping_group_range` forbids it).
    OpenEcho {
        /// Whose socket it becomes.
        flow: FlowId,
        /// Whom to ping.
        target: IpAddr,
        /// The container's identifier.
        identifier: u16,
    },
    /// Send FIN once everything sent so far has left (`shutdown(SHUT_WR)`).
    ShutdownWrite {
        /// Whose socket.
        flow: FlowId,
    },
    /// Ask the stream's peer whether it is still there whenever it was silent for `idle`, which it was already; give the
    /// connection up when it leaves `probes` questions unanswered (`SO_KEEPALIVE`).
    KeepAlive {
        /// Whose socket.
        flow: FlowId,
        /// Silence before the first question.
        idle: Duration,
        /// From one question to the next.
        interval: Duration,
        /// Questions.
        probes: u8,
    },
    /// Listen on a published port again.
    Listen {
        /// Which.
        listener: ListenerId,
    },
    /// Listen on a published port no longer, but keep it: the host's kernel refuses its clients.
    Refuse {
        /// Which.
        listener: ListenerId,
    },
    /// Close the socket and forget the flow; nothing, where there is no such socket (after a fault).
    Close {
        /// Whose socket.
        flow: FlowId,
        /// Politely or by RST.
        how: CloseKind,
    },
}

impl Action {
    /// Whose socket it is about, where it is a flow's.
    #[must_use]
    pub fn flow(&self) -> Option<FlowId> {
        match self {
            Action::ConnectStream { flow, .. }
            | Action::OpenDatagram { flow, .. }
            | Action::OpenEcho { flow, .. }
            | Action::ShutdownWrite { flow }
            | Action::KeepAlive { flow, .. }
            | Action::Close { flow, .. } => Some(*flow),
            Action::Listen { .. } | Action::Refuse { .. } => None,
        }
    }
}

/// How a host socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    /// Whatever is queued is still delivered.
    Graceful,
    /// The peer sees a RST (`SO_LINGER` zero).
    Reset,
}

/// What happened on the host's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// The socket of an open action is ready for use.
    Connected {
        /// Whose socket.
        flow: FlowId,
    },
    /// The open action came to nothing; the driver holds no socket for the flow.
    ConnectFailed {
        /// Whose socket.
        flow: FlowId,
        /// Why.
        error: HostError,
        /// The ICMP message that said so, where one did and the host tells.
        notice: Option<Notice>,
    },
    /// Reading may succeed again.
    Readable {
        /// Whose socket.
        flow: FlowId,
    },
    /// Writing may succeed again.
    Writable {
        /// Whose socket.
        flow: FlowId,
    },
    /// Datagrams wait on a published port.
    ListenerReadable {
        /// Which.
        listener: ListenerId,
    },
    /// The network answered a datagram that left by this socket with an error (`IP_RECVERR`).
    NetworkError {
        /// Which socket.
        port: DatagramPort,
        /// What was said, and by whom.
        report: NetworkErrorReport,
    },
    /// Datagrams that were taken as sent did not leave after all.
    DatagramsLost {
        /// How many.
        count: u64,
        /// What the host said of them, and by which socket they were to leave; nothing where it had no room.
        refused: Option<(DatagramPort, NetworkErrorReport)>,
    },
    /// A published port could not be listened on, as [`Action::Listen`] asks; it refuses its clients.
    NotListening {
        /// Which.
        listener: ListenerId,
    },
    /// The host's resolvers have changed.
    ResolversChanged(Vec<SocketAddr>),
    /// Others are on the network now, or by other names.
    NamesChanged(Arc<NameTable>),
}

/// What became of a datagram, as the host's socket tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkErrorReport {
    /// What was wrong.
    pub error: HostError,
    /// The ICMP message that said so; none where this host did not even send the datagram.
    pub notice: Option<Notice>,
    /// Where the datagram was going, where known.
    pub destination: Option<SocketAddr>,
    /// The host's address that it left from, where known.
    pub local: Option<IpAddr>,
    /// The beginning of the datagram's payload, where the host returns it.
    pub payload: Vec<u8>,
}

/// An ICMP or ICMPv6 error, as far as the host tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// The router or host that sent it, where known.
    pub offender: Option<IpAddr>,
    /// TTL or hop limit with which it arrived, where known.
    pub hop_limit: Option<u8>,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The four bytes before its quotation: the next hop's MTU, or the place of the problem, by the type.
    pub rest: u32,
}

/// A host error, by what the container ought to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostError {
    /// `ECONNREFUSED`: nobody listens there.
    Refused,
    /// `ECONNRESET`, `EPIPE`: the peer gave the connection up.
    Reset,
    /// `ENETUNREACH`.
    NetworkUnreachable,
    /// `EHOSTUNREACH`.
    HostUnreachable,
    /// `EPROTO`/protocol unreachable.
    ProtocolUnreachable,
    /// `EACCES`, `EPERM`: policy forbids it.
    Prohibited,
    /// `ETIMEDOUT`.
    TimedOut,
    /// The hop limit ran out on the way.
    HopLimitExceeded,
    /// The packet is larger than the path allows, by the next hop's MTU in bytes.
    MessageTooLong {
        /// IP bytes; 0 where unknown.
        mtu: u32,
    },
    /// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`, `EADDRNOTAVAIL`: the host has run out of something.
    Exhausted,
    /// Anything else.
    Other,
}

/// What the driver may want to tell its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackEvent {
    /// A flow came to be.
    FlowOpened {
        /// Its name.
        flow: FlowId,
        /// IP protocol number.
        protocol: u8,
        /// The container's endpoint.
        container: SocketAddr,
        /// The other endpoint as the container sees it.
        remote: SocketAddr,
        /// The other endpoint on the host's side.
        target: SocketAddr,
    },
    /// A flow is no more.
    FlowClosed {
        /// Its name.
        flow: FlowId,
    },
    /// The host does not let this user open ping sockets; told once.
    EchoForbidden,
    /// The DNS forwarder has no resolver to ask; told once for each change of the resolvers.
    NoResolver,
    /// The core has outlived a panic of its own; the panic hook has told the details.
    Faulted {
        /// The container's endpoint and the remote one of the flow that it ended, if one was in hand.
        ended: Option<(SocketAddr, SocketAddr)>,
    },
}

/// Outcome of reading a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRead {
    /// So many bytes, at least one, stand at the front of the buffer.
    Bytes(usize),
    /// The peer has sent its FIN.
    End,
    /// Nothing now; `Readable` will follow.
    Blocked,
    /// The connection is gone.
    Failed(HostError),
}

/// Outcome of writing a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamWrite {
    /// So many bytes, at least one, were taken.
    Bytes(usize),
    /// Nothing now; `Writable` will follow.
    Blocked,
    /// The connection is gone.
    Failed(HostError),
}

/// Which datagram socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramPort {
    /// The flow's own.
    Flow(FlowId),
    /// A published port's, shared by its clients.
    Listener(ListenerId),
}

/// One datagram, or a run of equal ones joined by the host (`UDP_GRO`), that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrivedDatagrams {
    /// Bytes in the buffer; zero is a datagram too.
    pub len: usize,
    /// Bytes of each datagram but the last, when several were joined.
    pub segment_bytes: Option<NonZeroU16>,
    /// Who sent it. For a ping socket the port is the identifier.
    pub source: SocketAddr,
    /// The host's address it was sent to, where the socket is bound to several.
    pub local: Option<IpAddr>,
    /// IPv4 TOS or IPv6 traffic class as received.
    pub traffic_class: u8,
    /// TTL or hop limit as received; 64 where the host does not say.
    pub hop_limit: u8,
}

/// Outcome of reading datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramRead {
    /// These.
    Arrived(ArrivedDatagrams),
    /// Nothing now; `Readable` or `ListenerReadable` will follow.
    Blocked,
    /// A pending error of the socket; it stays usable.
    Failed(HostError),
}

/// How a datagram is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramSend {
    /// Peer, where the socket is not connected.
    pub to: Option<SocketAddr>,
    /// Host address to send from, where the socket is bound to several.
    pub from: Option<IpAddr>,
    /// Bytes of each datagram but the last, when the payload is a run of several.
    pub segment_bytes: Option<NonZeroU16>,
    /// TTL or hop limit on the way.
    pub hop_limit: u8,
    /// IPv4 TOS or IPv6 traffic class.
    pub traffic_class: u8,
    /// The datagram may not be fragmented on the way (IPv4 DF; always so for IPv6).
    pub dont_fragment: bool,
}

/// Outcome of sending datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramWrite {
    /// Taken; should it not leave after all, [`HostEvent::DatagramsLost`] will tell.
    Sent,
    /// No room; dropped, as a full queue of a router would.
    Blocked,
    /// Refused by the host.
    Failed(HostError),
}

/// The host's sockets, as the core uses them.
pub trait HostIo {
    /// Reads what the peer of a stream sent into `buffer`.
    fn receive_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead;
    /// Writes `bytes`, which are not empty, toward the peer of a stream.
    fn send_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite;
    /// Reads one datagram, or a joined run, into `buffer`. For a ping socket: the ICMP message from its type on.
    fn receive_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead;
    /// Sends one datagram, or a run. For a ping socket: the ICMP message from its type on.
    fn send_datagrams(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite;
}

/// Where frames for the container go.
pub trait FrameSink {
    /// Room for a frame of `len` bytes from its Ethernet header on, with unspecified content; `None` when the link takes no more
    /// now, which drops the frame as a full queue would. A later call forgets an uncommitted one.
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]>;
    /// Sends the first `len` bytes of what was reserved, with the virtio-net header that belongs to them.
    fn commit(&mut self, len: usize, header: [u8; VNET_HEADER_LEN]);
    /// Sends the first `len` bytes of what was reserved with `payload`, one part behind the other, behind them; all of it
    /// was reserved, so that it may be put together there.
    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]);
}

/// Both of the core's counterparts, borrowed side by side for one call.
pub struct Io<'a, H, F> {
    /// The host's sockets.
    pub host: &'a mut H,
    /// The link to the container.
    pub frames: &'a mut F,
}

impl<H: HostIo, F: FrameSink> Io<'_, H, F> {
    /// The same pair for a shorter call.
    pub fn reborrow(&mut self) -> Io<'_, H, F> {
        Io { host: self.host, frames: self.frames }
    }
}
