//! The host's sockets of this worker, by flow and by published port.
//!
//! A table indexed by the flow's slot, checked by its generation; no hashing. Registration is edge-triggered
//! and for everything at once, made once in a socket's life, so a half-dead socket whose `EPOLLHUP` cannot be
//! masked is told once and never again. A socket leaves the poll by being closed.

mod run;
mod stream;
mod transfers;
pub mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use self::run::Run;
use self::stream::Stream;
use self::watch::Watch;
use super::token::{FlowMark, Subject};
use crate::config::{InterfaceName, OutboundAddresses, PortProtocol, PublishRule};
use crate::stack::boundary::{
    Action, CloseKind, DatagramPort, FlowId, HostError, HostEvent, ListenerId, NetworkErrorReport, Notice,
};
use crate::sys::socket::info::{self, Ends, TcpInfo};
use crate::sys::socket::{
    Accepted, ConnectProgress, DatagramSocket, IcmpNotice, ListenError, ListenOptions, SocketError,
    StreamListener, StreamSocket,
};
use crate::worker::recorder::host_side::{End, Happening};

/// The socket of a published port.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Stream(StreamListener),
    /// UDP.
    Datagram(DatagramSocket),
}

impl Listener {
    /// Binds what a rule publishes.
    pub fn bind(rule: &PublishRule, freebind: bool) -> Result<Listener, ListenError> {
        let interface = rule.interface.as_ref().map(InterfaceName::as_str);
        let options = ListenOptions { interface, freebind };
        let address = SocketAddr::new(rule.host_address, rule.host_port);
        match rule.protocol {
            PortProtocol::Tcp => StreamListener::bind_with(address, &options).map(Listener::Stream),
            PortProtocol::Udp => DatagramSocket::bind_with(address, &options).map(Listener::Datagram),
        }
    }
}

/// Every socket of this worker.
#[derive(Debug)]
pub struct Sockets {
    registry: Registry,
    slots: Vec<Slot>,
    listeners: BTreeMap<u32, Listener>,
    outbound: OutboundAddresses,
    has_closed: bool,
    /// Datagrams that wait for the end of the turn.
    run: Run,
    /// Of runs that did not leave.
    lost: Vec<HostEvent>,
    /// Flows whose stream the kernel had no memory for: twice at most, since each waits after that for an event.
    starved: Vec<FlowId>,
    /// Where a datagram is read that may belong to no run.
    spare: Box<[u8]>,
    /// Somebody captures what happens here.
    watch: Option<Box<Watch>>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    socket: Option<FlowSocket>,
}

#[derive(Debug)]
enum FlowSocket {
    Connecting { socket: StreamSocket, is_ipv6: bool },
    Stream(Stream),
    Datagram(DatagramSocket),
}

/// What an event of a flow's socket means for the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// The flow is no more.
    Nothing,
    /// A connect has come to its end.
    Connect(Result<(), (HostError, Option<Notice>)>),
    /// A stream.
    Stream {
        /// Something to read, an end or an error included.
        readable: bool,
        /// Room to write, which the core waits for.
        writable: bool,
    },
    /// A datagram socket.
    Datagram {
        /// Something to read.
        readable: bool,
        /// Reports of the network wait.
        reports: bool,
    },
}

impl Sockets {
    /// An empty table over the sockets of the published ports, in the order of the configuration.
    pub fn new(
        registry: Registry,
        listeners: Vec<Listener>,
        outbound: OutboundAddresses,
    ) -> io::Result<Sockets> {
        let mut sockets = Sockets {
            registry,
            slots: Vec::new(),
            listeners: BTreeMap::new(),
            outbound,
            has_closed: false,
            run: Run::default(),
            lost: Vec::new(),
            starved: Vec::new(),
            spare: Box::default(),
            watch: None,
        };
        for (place, listener) in (0..).zip(listeners) {
            sockets.add_listener(ListenerId(place), listener)?;
        }
        Ok(sockets)
    }

    /// Watches the socket of one more published port.
    pub fn add_listener(&mut self, listener: ListenerId, socket: Listener) -> io::Result<()> {
        let token = Subject::Listener(listener).token();
        match &socket {
            Listener::Stream(socket) => register(&self.registry, socket, token, Interest::READABLE)?,
            Listener::Datagram(socket) => register(&self.registry, socket, token, Interest::READABLE)?,
        }
        self.listeners.insert(listener.0, socket);
        Ok(())
    }

    /// Closes the socket of a published port.
    pub fn remove_listener(&mut self, listener: ListenerId) {
        self.listeners.remove(&listener.0);
    }

    /// Carries out an action; what came of it, when that is known at once.
    pub fn execute(&mut self, action: Action) -> Option<HostEvent> {
        if self.watch.is_none() {
            return self.carry_out(action);
        }
        match action {
            Action::ShutdownWrite { flow } => self.see(flow, Happening::Finished(End::Ours), &[]),
            Action::Close { flow, how: CloseKind::Graceful } => self.see_end(flow, Happening::Closed),
            Action::Close { flow, how: CloseKind::Reset } => {
                self.see_end(flow, Happening::Reset(End::Ours));
            }
            _ => {}
        }
        let outcome = self.carry_out(action);
        if let Action::ConnectStream { flow, target, .. } = action {
            self.see_beginning(flow, Some(target), End::Ours);
            if matches!(outcome, Some(HostEvent::Connected { .. })) {
                self.see(flow, Happening::Established, &[]);
            }
        }
        if let Action::OpenEcho { flow, target, .. } = action {
            self.meet_echo(flow, target);
        }
        outcome
    }

    fn carry_out(&mut self, action: Action) -> Option<HostEvent> {
        match action {
            Action::ConnectStream { flow, target, hop_limit } => {
                let (source, device) = self.origin_for(target.ip());
                let device = device.as_ref().map(InterfaceName::as_str);
                let is_ipv6 = target.is_ipv6();
                let opened = StreamSocket::connect_by(target, source, device, hop_limit);
                self.install(
                    flow,
                    opened.map(|(socket, progress)| match progress {
                        ConnectProgress::Done => {
                            socket.note_established(is_ipv6);
                            FlowSocket::Stream(Stream::new(socket))
                        }
                        ConnectProgress::Pending => FlowSocket::Connecting { socket, is_ipv6 },
                    }),
                )
            }
            Action::OpenDatagram { flow, target, preferred_port, beside } => {
                let shared_port = beside.and_then(|beside| self.port_of(beside));
                let (source, device) = self.origin_for(target.ip());
                let device = device.as_ref().map(InterfaceName::as_str);
                let opened = DatagramSocket::open_by(target, source, (preferred_port, shared_port), device);
                self.install(flow, opened.map(FlowSocket::Datagram))
            }
            Action::OpenEcho { flow, target, identifier } => {
                let (source, device) = self.origin_for(target);
                let device = device.as_ref().map(InterfaceName::as_str);
                let opened = DatagramSocket::open_echo(target, source, identifier, device);
                self.install(flow, opened.map(FlowSocket::Datagram))
            }
            Action::ShutdownWrite { flow } => {
                if let Some(FlowSocket::Stream(stream)) = self.socket(flow) {
                    stream.socket.shutdown_write();
                }
                None
            }
            Action::KeepAlive { flow, idle, interval, probes } => {
                if let Some(FlowSocket::Stream(stream)) = self.socket(flow) {
                    stream.socket.keep_alive(idle.into(), interval.into(), probes);
                }
                None
            }
            Action::Listen { listener } => {
                let Some(Listener::Stream(socket)) = self.listeners.get_mut(&listener.0) else { return None };
                socket.listen().is_err().then_some(HostEvent::NotListening { listener })
            }
            Action::Refuse { listener } => {
                if let Some(Listener::Stream(socket)) = self.listeners.get_mut(&listener.0) {
                    socket.refuse();
                }
                None
            }
            Action::Close { flow, how } => {
                match (self.remove(flow), how) {
                    (Some(FlowSocket::Stream(stream)), CloseKind::Reset) => stream.socket.reset(),
                    // Closing what is still connecting cancels it; a datagram socket has nobody to reset.
                    (Some(_) | None, CloseKind::Graceful | CloseKind::Reset) => {}
                }
                None
            }
        }
    }

    /// The host's port of a flow's datagram socket.
    fn port_of(&mut self, flow: FlowId) -> Option<u16> {
        match self.socket(flow)? {
            FlowSocket::Datagram(socket) => socket.local_address().ok().map(|address| address.port()),
            FlowSocket::Connecting { .. } | FlowSocket::Stream(_) => None,
        }
    }

    /// The address and the interface to send from to `target`: none of those asked for reaches the loopback.
    fn origin_for(&self, target: IpAddr) -> (Option<IpAddr>, Option<InterfaceName>) {
        let outbound = &self.outbound;
        match target {
            _ if target.is_loopback() => (None, None),
            IpAddr::V4(_) => (outbound.ipv4.map(IpAddr::V4), outbound.ipv4_device),
            IpAddr::V6(_) => (outbound.ipv6.map(IpAddr::V6), outbound.ipv6_device),
        }
    }

    /// The host has lost `addresses`, or nobody knows which.
    pub fn forsake(&mut self, addresses: Option<&[IpAddr]>) {
        for slot in &mut self.slots {
            if let Some(FlowSocket::Datagram(socket)) = &mut slot.socket {
                socket.forsake(addresses);
            }
        }
    }

    /// The socket of a published UDP port.
    #[must_use]
    pub fn datagram_listener(&self, listener: ListenerId) -> Option<&DatagramSocket> {
        match self.listeners.get(&listener.0)? {
            Listener::Datagram(socket) => Some(socket),
            Listener::Stream(_) => None,
        }
    }

    /// Gives the socket of a published UDP port away, watched no longer.
    pub fn take_datagram_listener(&mut self, listener: ListenerId) -> Option<DatagramSocket> {
        self.datagram_listener(listener)?;
        match self.listeners.remove(&listener.0) {
            Some(Listener::Datagram(socket)) => {
                let descriptor = socket.as_fd().as_raw_fd();
                self.registry.deregister(&mut SourceFd(&descriptor)).ok()?;
                Some(socket)
            }
            Some(Listener::Stream(_)) | None => None,
        }
    }

    /// Takes over an accepted connection; what to tell the core when that fails.
    pub fn adopt(&mut self, flow: FlowId, socket: StreamSocket) -> Option<HostEvent> {
        match self.install(flow, Ok(FlowSocket::Stream(Stream::new(socket)))) {
            Some(HostEvent::Connected { .. }) | None => {
                if self.watch.is_some() {
                    self.see_beginning(flow, None, End::Peer);
                    self.see(flow, Happening::Established, &[]);
                }
                None
            }
            failed => failed,
        }
    }

    /// Puts a flow's socket in its place and watches it.
    fn install(&mut self, flow: FlowId, opened: Result<FlowSocket, SocketError>) -> Option<HostEvent> {
        let _previous = self.remove(flow);
        let watched = opened.and_then(|socket| {
            let token = Subject::Flow(FlowMark::new(flow)).token();
            // Watched only after connect(): before it, a stream looks hung up.
            let outcome = match &socket {
                FlowSocket::Connecting { socket, .. } => {
                    register(&self.registry, socket, token, STREAM_INTEREST)
                }
                FlowSocket::Stream(stream) => {
                    register(&self.registry, &stream.socket, token, STREAM_INTEREST)
                }
                FlowSocket::Datagram(datagram) => {
                    register(&self.registry, datagram, token, Interest::READABLE)
                }
            };
            match (outcome, socket) {
                (Ok(()), socket) => Ok(socket),
                // Its peer is connected, and is not to take this for an end.
                (Err(error), FlowSocket::Stream(stream)) => {
                    stream.socket.reset();
                    Err(error.into())
                }
                (Err(error), FlowSocket::Connecting { .. } | FlowSocket::Datagram(_)) => Err(error.into()),
            }
        });
        match watched {
            Ok(socket) => {
                let is_pending = matches!(socket, FlowSocket::Connecting { .. });
                let place = flow.slot as usize;
                if self.slots.len() <= place {
                    self.slots.resize_with(place + 1, Slot::default);
                }
                self.slots[place] = Slot { generation: flow.generation, socket: Some(socket) };
                (!is_pending).then_some(HostEvent::Connected { flow })
            }
            Err(error) => {
                self.has_closed |= error != SocketError::Exhausted;
                Some(HostEvent::ConnectFailed { flow, error: host_error(error), notice: None })
            }
        }
    }

    /// The two ends of a flow's socket, and how its TCP is doing.
    #[must_use]
    pub fn look(&self, flow: FlowId) -> (Ends, Option<TcpInfo>) {
        let slot = self.slots.get(flow.slot as usize).filter(|slot| slot.generation == flow.generation);
        match slot.and_then(|slot| slot.socket.as_ref()) {
            Some(FlowSocket::Connecting { socket, .. } | FlowSocket::Stream(Stream { socket, .. })) => {
                (info::ends(socket), info::tcp_info(socket).ok())
            }
            Some(FlowSocket::Datagram(socket)) => (info::ends(socket), None),
            None => (Ends::default(), None),
        }
    }

    fn slot(&mut self, flow: FlowId) -> Option<&mut Slot> {
        self.slots.get_mut(flow.slot as usize).filter(|slot| slot.generation == flow.generation)
    }

    fn socket(&mut self, flow: FlowId) -> Option<&mut FlowSocket> {
        self.slot(flow)?.socket.as_mut()
    }

    fn remove(&mut self, flow: FlowId) -> Option<FlowSocket> {
        let removed = self.slot(flow)?.socket.take();
        self.has_closed |= removed.is_some();
        removed
    }

    /// Whether a descriptor has become free since the last call of [`Sockets::take_closed`].
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Whether a descriptor has become free since the last call.
    pub fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.has_closed)
    }

    /// The flow that an event is about, if it still lives.
    #[must_use]
    pub fn flow_of(&self, mark: FlowMark) -> Option<FlowId> {
        let slot = self.slots.get(mark.slot() as usize)?;
        let flow = FlowId { slot: mark.slot(), generation: slot.generation };
        (slot.socket.is_some() && FlowMark::new(flow) == mark).then_some(flow)
    }

    /// Takes note of an event of a flow's socket.
    pub fn note(&mut self, flow: FlowId, event: &Event) -> Noticed {
        let noticed = self.note_event(flow, event);
        if self.watch.is_some()
            && let Noticed::Connect(outcome) = &noticed
        {
            match outcome {
                Ok(()) => self.see(flow, Happening::Established, &[]),
                Err((HostError::Refused | HostError::Reset, _)) => self.see_end(flow, Happening::Refused),
                Err(_) => self.see_end(flow, Happening::Closed),
            }
        }
        noticed
    }

    fn note_event(&mut self, flow: FlowId, event: &Event) -> Noticed {
        let Some(slot) = self.slot(flow) else { return Noticed::Nothing };
        match slot.socket.take() {
            None => Noticed::Nothing,
            Some(FlowSocket::Connecting { socket, is_ipv6 }) => match connect_outcome(&socket, event) {
                None => {
                    slot.socket = Some(FlowSocket::Connecting { socket, is_ipv6 });
                    Noticed::Nothing
                }
                Some(Ok(())) => {
                    socket.note_established(is_ipv6);
                    let mut stream = Stream::new(socket);
                    stream.note(event);
                    slot.socket = Some(FlowSocket::Stream(stream));
                    Noticed::Connect(Ok(()))
                }
                Some(Err(error)) => {
                    let notice = socket.take_notice().map(notice_of);
                    self.has_closed = true;
                    Noticed::Connect(Err((host_error(error), notice)))
                }
            },
            Some(FlowSocket::Stream(mut stream)) => {
                let (readable, writable) = stream.note(event);
                slot.socket = Some(FlowSocket::Stream(stream));
                Noticed::Stream { readable, writable }
            }
            Some(FlowSocket::Datagram(mut socket)) => {
                socket.note_readable();
                slot.socket = Some(FlowSocket::Datagram(socket));
                Noticed::Datagram { readable: event.is_readable(), reports: event.is_error() }
            }
        }
    }

    /// The next report of the network about the datagrams of a flow or of a published port.
    pub fn take_report(&mut self, port: DatagramPort) -> Option<NetworkErrorReport> {
        let report = self.datagram_socket(port)?.take_report()?;
        Some(NetworkErrorReport {
            error: host_error(report.error),
            notice: report.notice.map(notice_of),
            destination: report.destination,
            local: report.local,
            payload: report.payload,
        })
    }

    /// An event says that datagrams may wait on a published port.
    pub fn note_readable(&mut self, listener: ListenerId) {
        if let Some(Listener::Datagram(socket)) = self.listeners.get_mut(&listener.0) {
            socket.note_readable();
        }
    }

    /// Takes the next connection of a published TCP port.
    pub fn accept(&self, listener: ListenerId) -> Accepted {
        match self.listeners.get(&listener.0) {
            Some(Listener::Stream(socket)) => socket.accept(),
            Some(Listener::Datagram(_)) | None => Accepted::Blocked,
        }
    }

    /// Whether a published port is a TCP port.
    #[must_use]
    pub fn is_stream_listener(&self, listener: ListenerId) -> bool {
        matches!(self.listeners.get(&listener.0), Some(Listener::Stream(_)))
    }

    fn datagram_socket(&mut self, port: DatagramPort) -> Option<&mut DatagramSocket> {
        match port {
            DatagramPort::Flow(flow) => match self.socket(flow)? {
                FlowSocket::Datagram(socket) => Some(socket),
                FlowSocket::Connecting { .. } | FlowSocket::Stream(_) => None,
            },
            DatagramPort::Listener(ListenerId(place)) => match self.listeners.get_mut(&place)? {
                Listener::Datagram(socket) => Some(socket),
                Listener::Stream(_) => None,
            },
        }
    }
}

/// Urgent data is watched for because it makes reads come back short.
const STREAM_INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// No address, of the same family.
fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn register(
    registry: &Registry,
    socket: &impl AsFd,
    token: mio::Token,
    interest: Interest,
) -> io::Result<()> {
    registry.register(&mut SourceFd(&socket.as_fd().as_raw_fd()), token, interest)
}

/// How a pending connect ended; `None` while it has not.
fn connect_outcome(socket: &StreamSocket, event: &Event) -> Option<Result<(), SocketError>> {
    // Room to write and nothing else is what only a connection has.
    if event.is_writable() && !event.is_error() && !event.is_write_closed() && !event.is_read_closed() {
        return Some(Ok(()));
    }
    match socket.take_error() {
        Err(error) => Some(Err(error)),
        // The error may have been taken off by then; what is hung up is still not a connection.
        Ok(()) if event.is_write_closed() => Some(Err(SocketError::Reset)),
        Ok(()) if event.is_writable() => Some(Ok(())),
        Ok(()) => None,
    }
}

fn notice_of(notice: IcmpNotice) -> Notice {
    let IcmpNotice { offender, hop_limit, kind, code, rest } = notice;
    Notice { offender, hop_limit, kind, code, rest }
}

fn host_error(error: SocketError) -> HostError {
    match error {
        SocketError::Refused => HostError::Refused,
        SocketError::Reset => HostError::Reset,
        SocketError::NetworkUnreachable => HostError::NetworkUnreachable,
        SocketError::HostUnreachable => HostError::HostUnreachable,
        SocketError::ProtocolUnreachable => HostError::ProtocolUnreachable,
        SocketError::Prohibited => HostError::Prohibited,
        SocketError::TimedOut => HostError::TimedOut,
        SocketError::HopLimitExceeded => HostError::HopLimitExceeded,
        SocketError::MessageTooLong { mtu } => HostError::MessageTooLong { mtu },
        SocketError::Exhausted => HostError::Exhausted,
        SocketError::Other(_) => HostError::Other,
    }
}

#[cfg(test)]
mod tests;
