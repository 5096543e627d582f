//! The scripted host: carries out the core's actions, plays the peers, and keeps the books.
//!
//! Every flow's socket is opened and closed exactly once; what the core does to a socket that is not there is
//! a violation. Readiness is told on edges only: after `Blocked` was answered, once the cause is gone.

mod datagram;
mod stream;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use netferry::stack::boundary::{
    Action, ArrivedDatagrams, DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, HostError,
    HostEvent, HostIo, ListenerId, Notice, StreamRead, StreamWrite,
};

pub use datagram::{DatagramPeer, DatagramSocket, EchoPeer, SentDatagram, notice_for};
pub use stream::Connection;

use crate::app::Script;
use crate::clock::{Duration, EventQueue, Instant, ms};
use crate::prng::Prng;

/// How a connect ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Connects,
    Fails(HostError),
    /// No answer, ever.
    Hangs,
}

/// What waits behind an address.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub after: Duration,
    pub outcome: Outcome,
    pub script: Script,
    /// Bytes the host's kernel holds in each direction.
    pub send_limit: usize,
    pub receive_limit: usize,
}

impl Target {
    /// Connects at once to a program.
    pub fn running(script: Script) -> Target {
        let limit = 256 << 10;
        Target { after: ms(0), outcome: Outcome::Connects, script, send_limit: limit, receive_limit: limit }
    }

    /// Comes to nothing.
    pub fn failing(error: HostError) -> Target {
        Target { outcome: Outcome::Fails(error), ..Target::running(Script::host(0, 0)) }
    }

    /// Never answers.
    pub fn hanging() -> Target {
        Target { outcome: Outcome::Hangs, ..Target::running(Script::host(0, 0)) }
    }

    pub fn after(self, after: Duration) -> Target {
        Target { after, ..self }
    }

    pub fn limits(self, send_limit: usize, receive_limit: usize) -> Target {
        Target { send_limit, receive_limit, ..self }
    }
}

/// How unkindly the host's kernel answers, in thousandths of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moods {
    /// `Blocked` without need; readiness follows soon.
    pub storms: u32,
    /// Fewer bytes than there are, or fit.
    pub short: u32,
    /// Readiness that nobody waits for.
    pub spurious: u32,
    /// Whether equal datagrams are joined (`UDP_GRO`).
    pub joins: bool,
}

/// A flow's socket, by its place in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    /// The connect to this target runs.
    Connecting(SocketAddr),
    Stream(usize),
    Datagram(usize),
}

#[derive(Debug)]
enum Happening {
    ConnectEnds(FlowId, u64),
    Edge(HostEvent),
    /// The peer left all questions of the kernel unanswered.
    GivenUp(FlowId),
    Arrives {
        port: DatagramPort,
        source: SocketAddr,
        local: Option<IpAddr>,
        bytes: Vec<u8>,
    },
}

/// The host.
pub struct SimHost {
    pub now: Instant,
    pub moods: Moods,
    /// What TCP addresses lead to; everything else refuses.
    pub targets: HashMap<SocketAddr, Target>,
    /// What UDP addresses lead to; everything else is silent.
    pub datagram_peers: HashMap<SocketAddr, DatagramPeer>,
    /// What pinged addresses do; everything else answers at once.
    pub echo_peers: HashMap<IpAddr, EchoPeer>,
    /// Whether ping sockets are forbidden.
    pub echo_forbidden: bool,
    /// The ICMP errors that end connects to these targets.
    pub connect_notices: BTreeMap<SocketAddr, Notice>,
    /// Every stream that ever was, in the order of their connecting.
    pub connections: Vec<Connection>,
    /// Every datagram socket that ever was.
    pub datagrams: Vec<DatagramSocket>,
    /// What published UDP ports sent: which, and what.
    pub listener_sent: Vec<(ListenerId, SentDatagram)>,
    /// Published TCP ports that refuse their clients.
    pub shut: HashSet<ListenerId>,
    /// Every action, as it came.
    pub actions: Vec<Action>,
    pub violations: Vec<String>,
    pub opened: u64,
    pub closed: u64,
    /// Calls of `receive_stream` that gave bytes.
    pub stream_reads: u64,
    /// The call of the core, from now on, that panics when it is done: a bug in the middle of a flow's handling.
    pub strike_at: Option<u64>,
    /// Calls that have panicked.
    pub struck: usize,
    /// Calls that were to send bytes of a stream.
    pub stream_sends: usize,
    outbox: VecDeque<HostEvent>,
    sockets: HashMap<FlowId, Socket>,
    dead: HashSet<FlowId>,
    openings: HashMap<FlowId, u64>,
    listener_inboxes: HashMap<ListenerId, datagram::Inbox>,
    happenings: EventQueue<Happening>,
    prng: Prng,
}

impl SimHost {
    /// A host where nothing listens.
    pub fn new(seed: u64) -> SimHost {
        SimHost {
            now: Instant::ZERO,
            moods: Moods::default(),
            targets: HashMap::new(),
            datagram_peers: HashMap::new(),
            echo_peers: HashMap::new(),
            echo_forbidden: false,
            connect_notices: BTreeMap::new(),
            connections: Vec::new(),
            datagrams: Vec::new(),
            listener_sent: Vec::new(),
            shut: HashSet::new(),
            actions: Vec::new(),
            violations: Vec::new(),
            opened: 0,
            closed: 0,
            stream_reads: 0,
            strike_at: None,
            struck: 0,
            stream_sends: 0,
            outbox: VecDeque::new(),
            sockets: HashMap::new(),
            dead: HashSet::new(),
            openings: HashMap::new(),
            listener_inboxes: HashMap::new(),
            happenings: EventQueue::new(),
            prng: Prng::new(seed, "host"),
        }
    }

    /// Sockets that are open or being connected.
    pub fn open_sockets(&self) -> usize {
        self.sockets.len()
    }

    /// The connections to `target`, in order.
    pub fn connections_to(&self, target: SocketAddr) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |connection| connection.target == target)
    }

    /// The only connection to `target`.
    pub fn connection(&self, target: SocketAddr) -> &Connection {
        let mut found = self.connections_to(target);
        let first = found.next().unwrap_or_else(|| panic!("nobody connected to {target}"));
        assert!(found.next().is_none(), "more than one connection to {target}");
        first
    }

    /// The only connection to `target`, to change its script.
    pub fn connection_mut(&mut self, target: SocketAddr) -> &mut Connection {
        self.connections.iter_mut().find(|connection| connection.target == target).expect("a connection")
    }

    /// The sockets connects have been asked for to `target`, whatever became of them.
    pub fn connects_to(&self, target: SocketAddr) -> usize {
        let asks =
            |action: &&Action| matches!(action, Action::ConnectStream { target: to, .. } if *to == target);
        self.actions.iter().filter(asks).count()
    }

    /// Carries out an action.
    pub fn execute(&mut self, action: Action) {
        self.actions.push(action);
        match action {
            Action::ConnectStream { flow, target, .. } => {
                self.open(flow, Socket::Connecting(target));
                let script = self.targets.get(&target).copied();
                let script = script.unwrap_or(Target::failing(HostError::Refused));
                if script.outcome != Outcome::Hangs {
                    self.happenings.push(self.now + script.after, Happening::ConnectEnds(flow, self.opened));
                }
            }
            Action::OpenDatagram { flow, target, preferred_port, beside } => {
                self.open_datagram(flow, target, preferred_port, beside);
            }
            Action::OpenEcho { flow, target, identifier } => self.open_echo(flow, target, identifier),
            Action::ShutdownWrite { flow } => match self.sockets.get(&flow) {
                Some(Socket::Stream(place)) => {
                    if !self.connections[*place].shutdown_write() {
                        self.violations.push(format!("{flow:?} shut down twice"));
                    }
                }
                other => self.violations.push(format!("{action:?} on {other:?}")),
            },
            Action::KeepAlive { flow, interval, probes, .. } => {
                let Some(&Socket::Stream(place)) = self.sockets.get(&flow) else {
                    return self.violations.push(format!("{action:?} without a stream"));
                };
                if self.connections[place].vanished {
                    let until = interval * u32::from(probes);
                    self.happenings.push(self.now + until, Happening::GivenUp(flow));
                }
            }
            Action::Refuse { listener } => {
                if !self.shut.insert(listener) {
                    self.violations.push(format!("{listener:?} is to refuse, and does"));
                }
            }
            Action::Listen { listener } => {
                if !self.shut.remove(&listener) {
                    self.violations.push(format!("{listener:?} is to be listened on, and is"));
                }
            }
            Action::Close { flow, how } => match self.sockets.remove(&flow) {
                Some(socket) => {
                    self.closed += 1;
                    self.dead.insert(flow);
                    match socket {
                        Socket::Connecting(_) => {}
                        Socket::Stream(place) => self.connections[place].close(how),
                        Socket::Datagram(place) => self.datagrams[place].open = false,
                    }
                }
                None if self.struck > 0 => {}
                None => self.violations.push(format!("{action:?} without a socket")),
            },
        }
    }

    fn open(&mut self, flow: FlowId, socket: Socket) {
        self.opened += 1;
        self.openings.insert(flow, self.opened);
        // A flow of the DNS closes the socket to a resolver that failed and opens one to the next.
        if self.dead.remove(&flow) && !matches!(socket, Socket::Datagram(_)) {
            self.violations.push(format!("{flow:?} opened after it was closed"));
        }
        if let Some(present) = self.sockets.insert(flow, socket) {
            self.violations.push(format!("{flow:?} opened while it has {present:?}"));
        }
    }

    /// Binds an accepted connection to its flow; its target is the client.
    pub fn bind_accepted(&mut self, flow: FlowId, client: SocketAddr, target: Target) {
        self.open(flow, Socket::Stream(self.connections.len()));
        self.connections.push(Connection::new(flow, client, &target));
    }

    /// Lets everything due happen and every peer work; events for the core wait in order.
    pub fn step(&mut self, now: Instant) {
        self.now = now;
        while let Some(happening) = self.happenings.pop_due(now) {
            match happening {
                Happening::ConnectEnds(flow, opening) => self.connect_ends(flow, opening),
                Happening::Edge(event) => self.outbox.push_back(event),
                Happening::GivenUp(flow) => {
                    if let Some(&Socket::Stream(place)) = self.sockets.get(&flow) {
                        self.connections[place].give_up();
                    }
                }
                Happening::Arrives { port, source, local, bytes } => self.arrives(port, source, local, bytes),
            }
        }
        for connection in &mut self.connections {
            let flow = connection.flow;
            let edges = connection.step(now);
            let wanted = |spurious: u32, prng: &mut Prng| edges.any() && prng.chance(spurious);
            if edges.readable || wanted(self.moods.spurious, &mut self.prng) {
                self.outbox.push_back(HostEvent::Readable { flow });
            }
            if edges.writable || wanted(self.moods.spurious, &mut self.prng) {
                self.outbox.push_back(HostEvent::Writable { flow });
            }
        }
        // The driver ignores late events of sockets that are gone.
        let sockets = &self.sockets;
        self.outbox.retain(|event| match event {
            HostEvent::Readable { flow }
            | HostEvent::Writable { flow }
            | HostEvent::NetworkError { port: DatagramPort::Flow(flow), .. } => sockets.contains_key(flow),
            HostEvent::Connected { .. }
            | HostEvent::ConnectFailed { .. }
            | HostEvent::NetworkError { port: DatagramPort::Listener(_), .. }
            | HostEvent::ListenerReadable { .. }
            | HostEvent::NotListening { .. }
            | HostEvent::DatagramsLost { .. }
            | HostEvent::ResolversChanged(_)
            | HostEvent::NamesChanged(_) => true,
        });
    }

    fn connect_ends(&mut self, flow: FlowId, opening: u64) {
        let Some(&Socket::Connecting(target)) = self.sockets.get(&flow) else { return };
        if self.openings.get(&flow) != Some(&opening) {
            return;
        }
        let script = self.targets.get(&target).copied().unwrap_or(Target::failing(HostError::Refused));
        match script.outcome {
            Outcome::Connects => {
                self.sockets.insert(flow, Socket::Stream(self.connections.len()));
                self.connections.push(Connection::new(flow, target, &script));
                self.outbox.push_back(HostEvent::Connected { flow });
            }
            Outcome::Fails(error) => {
                let notice = self.connect_notices.get(&target).copied();
                self.fail(flow, error, notice);
            }
            Outcome::Hangs => {}
        }
    }

    fn fail(&mut self, flow: FlowId, error: HostError, notice: Option<Notice>) {
        self.sockets.remove(&flow);
        self.closed += 1;
        self.outbox.push_back(HostEvent::ConnectFailed { flow, error, notice });
    }

    /// The next event for the core.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.outbox.pop_front()
    }

    /// Puts an event of the test's own before the core.
    pub fn tell(&mut self, event: HostEvent) {
        self.outbox.push_back(event);
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<Instant> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        let peers = self.connections.iter().filter_map(|connection| connection.app.next_at(self.now));
        peers.chain(self.happenings.next_at()).min()
    }

    /// Notes a call on a socket that was closed.
    fn check_alive(&mut self, call: &str, flow: FlowId) {
        if self.dead.contains(&flow) {
            self.violations.push(format!("{call} on {flow:?} after its close"));
        }
    }

    fn stream(&mut self, call: &str, flow: FlowId) -> Option<usize> {
        self.check_alive(call, flow);
        match self.sockets.get(&flow) {
            Some(Socket::Stream(place)) => Some(*place),
            Some(Socket::Connecting(_) | Socket::Datagram(_)) | None => None,
        }
    }
}

impl SimHost {
    fn receive_stream_unharmed(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        let Some(place) = self.stream("receive_stream", flow) else { return StreamRead::Blocked };
        if buffer.is_empty() {
            self.violations.push(format!("receive_stream of {flow:?} into no room"));
            return StreamRead::Blocked;
        }
        if self.prng.chance(self.moods.storms) {
            let again = self.now + Duration::from_micros(self.prng.within(1, 2_000));
            self.happenings.push(again, Happening::Edge(HostEvent::Readable { flow }));
            return StreamRead::Blocked;
        }
        let short = self.prng.chance(self.moods.short);
        let room = if short { 1 + self.prng.below(buffer.len() as u64) as usize } else { buffer.len() };
        let outcome = self.connections[place].receive(&mut buffer[..room]);
        self.stream_reads += u64::from(matches!(outcome, StreamRead::Bytes(_)));
        outcome
    }

    fn send_stream_unharmed(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        self.stream_sends += 1;
        let Some(place) = self.stream("send_stream", flow) else { return StreamWrite::Blocked };
        if bytes.is_empty() {
            self.violations.push(format!("send_stream of {flow:?} of nothing"));
            return StreamWrite::Blocked;
        }
        if self.connections[place].is_shut() {
            self.violations.push(format!("send_stream of {flow:?} after its shutdown"));
        }
        if self.prng.chance(self.moods.storms) {
            let again = self.now + Duration::from_micros(self.prng.within(1, 2_000));
            self.happenings.push(again, Happening::Edge(HostEvent::Writable { flow }));
            return StreamWrite::Blocked;
        }
        let short = self.prng.chance(self.moods.short);
        let len = if short { 1 + self.prng.below(bytes.len() as u64) as usize } else { bytes.len() };
        self.connections[place].send(&bytes[..len])
    }

    /// Panics if it is this call's turn.
    fn strike(&mut self) {
        if let Some(left) = &mut self.strike_at {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.strike_at = None;
                self.struck += 1;
                // As a panic, but the hook is spared.
                std::panic::resume_unwind(Box::new("a fault that was asked for"));
            }
        }
    }
}

impl HostIo for SimHost {
    fn receive_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        let outcome = self.receive_stream_unharmed(flow, buffer);
        self.strike();
        outcome
    }

    fn send_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        let outcome = self.send_stream_unharmed(flow, bytes);
        self.strike();
        outcome
    }

    fn receive_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        let outcome = self.read_datagrams(port, buffer);
        self.strike();
        outcome
    }

    fn send_datagrams(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        let outcome = self.write_datagrams(port, bytes, how);
        self.strike();
        outcome
    }
}
