//! The core between a link that checks every frame and a host that does what chance wants, and the invariants that
//! hold whatever the container sends.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use netferry::config::{DhcpPool, PortProtocol, Rules, UdpMapping};
use netferry::stack::Stack;
use netferry::stack::boundary::{
    Action, ArrivedDatagrams, DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, HostError,
    HostEvent, HostIo, Io, ListenerId, NetworkErrorReport, Notice, StreamRead, StreamWrite,
};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::flow::FlowProtocol;
use netferry::wire::vnet_header::{Offload, VNET_HEADER_LEN};

use crate::clock::{Duration, Instant};
use crate::link::Link;
use crate::packet::{self, TCP};
use crate::prng::Prng;
use crate::settings::{CONTAINER_MAC, GATEWAY_MAC, Settings, at};

/// Deadlines that a network may have until nothing is left of it.
const MAX_DEADLINES: usize = 20_000;

const ERRORS: [HostError; 10] = [
    HostError::Refused,
    HostError::Reset,
    HostError::NetworkUnreachable,
    HostError::HostUnreachable,
    HostError::Prohibited,
    HostError::TimedOut,
    HostError::HopLimitExceeded,
    HostError::MessageTooLong { mtu: 1_280 },
    HostError::Exhausted,
    HostError::Other,
];

/// A policy that has something of everything.
const RULES: &str = "presets = ['no-metadata']\ndns = 'listed'\n\
    [[rule]]\nallow = ['*.example', 'a.b', 'lan']\n[[rule]]\nreject = ['203.0.113.0/25', '2001:db8::/33']\n\
    [[rule]]\ndeny = '*'\nprotocol = 'icmp'\n[[rule]]\ndeny = '*.b'\nprotocol = 'dns'\n[[rule]]\nreject = 'any'\ndirection = 'in'\nports = 53\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Connecting,
    Stream,
    Datagram,
}

/// A host whose kernel is moody.
pub struct Host {
    sockets: HashMap<FlowId, Socket>,
    order: Vec<FlowId>,
    /// Flows of datagrams to IPv6 peers.
    ipv6: HashSet<FlowId>,
    /// Streams whose peer has not answered the kernel's questions.
    dead: HashSet<FlowId>,
    /// What the next datagram to be read says; otherwise chance decides.
    pub datagrams: Vec<Vec<u8>>,
    /// What was sent last through a flow of datagrams.
    pub sent: Vec<u8>,
    calm: bool,
    prng: Prng,
}

impl Host {
    fn pick(&mut self) -> Option<FlowId> {
        (!self.order.is_empty()).then(|| self.prng.pick(&self.order))
    }

    fn close(&mut self, flow: FlowId) {
        self.sockets.remove(&flow);
        self.order.retain(|other| *other != flow);
    }

    fn open(&mut self, flow: FlowId, socket: Socket) {
        if self.sockets.insert(flow, socket).is_none() {
            self.order.push(flow);
        }
    }
}

impl HostIo for Host {
    fn receive_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        assert!(!buffer.is_empty());
        assert_eq!(self.sockets.get(&flow), Some(&Socket::Stream));
        if self.calm && self.dead.contains(&flow) {
            return StreamRead::Failed(HostError::TimedOut);
        }
        match self.prng.below(if self.calm { 4 } else { 12 }) {
            0..=3 => StreamRead::Blocked,
            4 => StreamRead::End,
            5 => StreamRead::Failed(self.prng.pick(&ERRORS)),
            _ => {
                let count = 1 + self.prng.below(buffer.len() as u64) as usize;
                buffer[..count].fill(0x61);
                StreamRead::Bytes(count)
            }
        }
    }

    fn send_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        assert!(!bytes.is_empty());
        assert_eq!(self.sockets.get(&flow), Some(&Socket::Stream));
        if self.calm && self.dead.contains(&flow) {
            return StreamWrite::Failed(HostError::TimedOut);
        }
        match self.prng.below(8) {
            0 => StreamWrite::Blocked,
            1 if !self.calm => StreamWrite::Failed(self.prng.pick(&ERRORS)),
            2..=4 => StreamWrite::Bytes(1 + self.prng.below(bytes.len() as u64) as usize),
            _ => StreamWrite::Bytes(bytes.len()),
        }
    }

    fn receive_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        let (bytes, each) = match self.datagrams.pop() {
            Some(bytes) => (bytes, None),
            None if self.calm || self.prng.chance(600) => return DatagramRead::Blocked,
            None if self.prng.chance(100) => return DatagramRead::Failed(self.prng.pick(&ERRORS)),
            None => {
                let most = self.prng.pick(&[0, 1, 100, 3_000, 65_507]);
                let len = self.prng.below(most + 1) as usize;
                let each = NonZeroU16::new(self.prng.within(1, 1_400) as u16);
                let each = each.filter(|each| {
                    usize::from(each.get()) < len && len.div_ceil(usize::from(each.get())) <= 64
                });
                (vec![0x62; len], each.filter(|_| self.prng.chance(500)))
            }
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        let is_ipv6 = match port {
            DatagramPort::Flow(flow) => self.ipv6.contains(&flow),
            DatagramPort::Listener(_) => false,
        };
        let sources = match is_ipv6 {
            true => ["[2001:db8::5]:53", "[::1]:9", "[fd00::64]:80", "[2001:db8::9]:7"],
            false => ["203.0.113.5:53", "127.0.0.1:9", "10.0.2.100:80", "198.51.100.1:7"],
        };
        DatagramRead::Arrived(ArrivedDatagrams {
            len,
            segment_bytes: each.filter(|each| usize::from(each.get()) < len),
            source: at(self.prng.pick(&sources)),
            local: self.prng.pick(&[None, Some(IpAddr::from([192, 0, 2, 7]))]),
            traffic_class: self.prng.next() as u8,
            hop_limit: self.prng.next() as u8,
        })
    }

    fn send_datagrams(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        if let DatagramPort::Flow(flow) = port {
            assert_eq!(self.sockets.get(&flow), Some(&Socket::Datagram));
        }
        assert!(how.segment_bytes.is_none_or(|each| usize::from(each.get()) < bytes.len()), "a run of one");
        self.sent = bytes.to_vec();
        match self.prng.below(8) {
            0 => DatagramWrite::Blocked,
            1 => DatagramWrite::Failed(self.prng.pick(&ERRORS)),
            _ => DatagramWrite::Sent,
        }
    }
}

/// Where a connection of the container stands, by what the core has sent of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Numbers {
    /// The container's next sequence number, as far as it is acknowledged.
    pub sequence: u32,
    /// The next that it expects.
    pub expected: u32,
}

/// The whole.
pub struct Bench {
    pub stack: Stack,
    pub link: Link,
    pub host: Host,
    pub now: Instant,
    pub numbers: HashMap<(u16, SocketAddr), Numbers>,
    chance: Prng,
}

impl Bench {
    /// A network of one of several kinds, with limits that are reached soon.
    pub fn new(kind: u8, seed: u8) -> Bench {
        let offload = if kind & 1 == 0 { Offload::ALL } else { Offload::NONE };
        let mut settings = Settings::default().offload(offload).with(|config| {
            config.limits.flows = 12;
            config.limits.half_open = 6;
            config.limits.tcp_buffer_total_bytes = 256 << 10;
            config.limits.tcp_buffer_max_bytes = 64 << 10;
            config.limits.reassembly.datagrams = 6;
            config.limits.reassembly.total_bytes = 200 << 10;
            config.limits.events = 64;
            config.host_loopback = kind & 2 != 0;
            config.link.mtu = if kind & 4 == 0 { 1_500 } else { 9_000 };
            if kind & 8 != 0 {
                config.udp_mapping = UdpMapping::EndpointIndependent;
            }
            if kind & 32 != 0 {
                config.rules = Rules::from_toml(RULES).unwrap();
                config.audit = true;
            }
            if kind & 16 != 0 {
                let address = |last| std::net::Ipv4Addr::new(10, 0, 2, last);
                config.services.dhcp = Some(DhcpPool { first: address(15), last: address(18) });
                config.services.dhcpv6 = true;
                config.link.container_mac = None;
            }
        });
        settings = settings.publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80).publishing(
            PortProtocol::Udp,
            at("0.0.0.0:5300"),
            53,
        );
        let secret = [1, 2, 3, u64::from(seed)];
        let mtu = settings.config.link.mtu;
        Bench {
            stack: Stack::new(Arc::new(settings.config), offload, settings.resolvers, secret, Instant::ZERO),
            link: Link::new(1, offload, mtu, (GATEWAY_MAC, CONTAINER_MAC)),
            host: Host {
                sockets: HashMap::new(),
                order: Vec::new(),
                ipv6: HashSet::new(),
                dead: HashSet::new(),
                datagrams: Vec::new(),
                sent: Vec::new(),
                calm: false,
                prng: Prng::new(seed.into(), "host"),
            },
            now: Instant::ZERO,
            numbers: HashMap::new(),
            chance: Prng::new(seed.into(), "chance"),
        }
    }

    /// A frame with its header reaches the core.
    pub fn frame(&mut self, header: &[u8; VNET_HEADER_LEN], frame: &[u8]) {
        self.link.now = self.now;
        // Answers go to whoever has asked.
        if let Some(mac) = frame.get(6..12).filter(|mac| mac[0] & 1 == 0) {
            self.link.macs.1 = mac.try_into().unwrap();
        }
        let mut io = Io { host: &mut self.host, frames: &mut self.link };
        self.stack.handle_frame(header, frame, self.now, &mut io);
        self.settle();
    }

    /// The same for an IP packet of the container, whose checksums are complete.
    pub fn packet(&mut self, packet: &[u8]) {
        let frame = packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, packet);
        self.frame(&[0; VNET_HEADER_LEN], &frame);
    }

    /// A client of the published port comes.
    pub fn accept(&mut self, client: SocketAddr) {
        if let Ok(flow) = self.stack.accept_stream(ListenerId(0), client, at("192.0.2.7:8080"), self.now) {
            self.host.open(flow, Socket::Stream);
        }
        self.settle();
    }

    /// Something happens on the host.
    pub fn host_event(&mut self, kind: u8) {
        let flow = self.host.pick();
        let event = match (kind % 8, flow) {
            (0, _) => HostEvent::ListenerReadable { listener: ListenerId(1) },
            (1, _) => self.network_error(flow),
            (2, _) => HostEvent::ResolversChanged(Vec::new()),
            (3, _) => HostEvent::ResolversChanged(vec![at("203.0.113.53:53")]),
            (4 | 5, Some(flow)) if self.host.sockets[&flow] == Socket::Stream => HostEvent::Writable { flow },
            (_, Some(flow)) if self.host.sockets[&flow] != Socket::Connecting => HostEvent::Readable { flow },
            _ => return,
        };
        self.tell(event);
        self.settle();
    }

    /// The network says that something did not arrive.
    fn network_error(&mut self, flow: Option<FlowId>) -> HostEvent {
        let datagrams = flow.filter(|flow| self.host.sockets[flow] == Socket::Datagram);
        let addresses = [None, Some(at("203.0.113.5:53")), Some(at("[2001:db8::5]:53"))];
        let report = NetworkErrorReport {
            error: self.chance.pick(&ERRORS),
            notice: self.notice(),
            destination: self.chance.pick(&addresses),
            local: self.chance.pick(&addresses).map(|address| address.ip()),
            payload: self.host.sent.clone(),
        };
        let port = datagrams.map_or(DatagramPort::Listener(ListenerId(1)), DatagramPort::Flow);
        HostEvent::NetworkError { port, report }
    }

    fn notice(&mut self) -> Option<Notice> {
        let offenders =
            ["198.51.100.9", "2001:db8::9", "127.0.0.1", "10.0.2.100"].map(|text| text.parse().ok());
        let notice = Notice {
            offender: self.chance.pick(&offenders),
            hop_limit: self.chance.pick(&[None, Some(0), Some(64)]),
            kind: self.chance.pick(&[3, 11, 12, 1, 2, 4, 0, 255]),
            code: self.chance.below(8) as u8,
            rest: self.chance.pick(&[0, 1_280, 68, u32::MAX]),
        };
        self.chance.chance(500).then_some(notice)
    }

    /// The driver's turns until something happens.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..64 {
            let Some(due) = self.stack.poll_timeout().filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.ring();
        }
        self.now = self.now.max(until);
        self.ring();
    }

    fn ring(&mut self) {
        self.link.now = self.now;
        let mut io = Io { host: &mut self.host, frames: &mut self.link };
        self.stack.handle_timeout(self.now, &mut io);
        self.settle();
    }

    fn tell(&mut self, event: HostEvent) {
        self.link.now = self.now;
        let mut io = Io { host: &mut self.host, frames: &mut self.link };
        self.stack.handle_host(event, self.now, &mut io);
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let mut io = Io { host: &mut self.host, frames: &mut self.link };
            self.stack.flush(self.now, &mut io);
            let mut acted = false;
            while let Some(action) = self.stack.poll_action() {
                acted = true;
                self.carry_out(action);
            }
            if !acted {
                break;
            }
        }
        while self.stack.poll_event().is_some() {}
        while let Some(frame) = self.link.arrived_at_guest(self.now) {
            self.learn(&frame);
        }
        self.check();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::ConnectStream { flow, .. } => {
                self.host.open(flow, Socket::Connecting);
                match self.chance.below(8) {
                    0 => {
                        self.host.close(flow);
                        let (error, notice) = (self.chance.pick(&ERRORS), self.notice());
                        self.tell(HostEvent::ConnectFailed { flow, error, notice });
                    }
                    1 => {}
                    _ => {
                        self.host.open(flow, Socket::Stream);
                        self.tell(HostEvent::Connected { flow });
                    }
                }
            }
            Action::OpenDatagram { flow, .. } | Action::OpenEcho { flow, .. } => {
                if matches!(action, Action::OpenDatagram { target, .. } if target.is_ipv6()) {
                    self.host.ipv6.insert(flow);
                }
                if self.chance.chance(100) {
                    self.host.close(flow);
                    let (error, notice) = (self.chance.pick(&ERRORS), self.notice());
                    self.tell(HostEvent::ConnectFailed { flow, error, notice });
                } else {
                    self.host.open(flow, Socket::Datagram);
                    self.tell(HostEvent::Connected { flow });
                }
            }
            Action::ShutdownWrite { flow } => assert_eq!(self.host.sockets.get(&flow), Some(&Socket::Stream)),
            Action::KeepAlive { flow, .. } => {
                assert_eq!(self.host.sockets.get(&flow), Some(&Socket::Stream));
                self.host.dead.insert(flow);
            }
            Action::Listen { .. } | Action::Refuse { .. } => {}
            Action::Close { flow, .. } => {
                assert!(self.host.sockets.contains_key(&flow), "{action:?} without a socket");
                self.host.close(flow);
            }
        }
    }

    /// What a frame of the core tells of a connection.
    fn learn(&mut self, frame: &[u8]) {
        let Some(ip) = packet::read(frame).expect("the link has checked it").ip else { return };
        if ip.protocol != TCP || ip.fragment.is_some() {
            return;
        }
        let flags = ip.tcp_flags().unwrap();
        let span = ip.tcp_payload().len() as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        let key = (ip.ports().1, SocketAddr::new(ip.source, ip.ports().0));
        let numbers = Numbers { sequence: ip.acknowledgement(), expected: ip.sequence().wrapping_add(span) };
        self.numbers.insert(key, numbers);
    }

    fn check(&self) {
        // A neighbor may ask to be answered at any address of its own.
        let is_grave = |violation: &&String| !violation.starts_with("destination");
        assert_eq!(self.link.violations.iter().find(is_grave), None);
        assert_eq!(self.stack.check(), Ok(()));
        assert_eq!(self.stack.stats().drops(DropReason::Fault), 0, "a panic was caught");
    }

    /// Nothing more comes: in the end nothing is left.
    pub fn finish(mut self) {
        self.host.calm = true;
        let mut told = HashSet::new();
        for _ in 0..MAX_DEADLINES {
            if self.stack.flow_count() == 0 {
                break;
            }
            let due = self.stack.poll_timeout().expect("a flow has a deadline");
            self.now = self.now.max(due) + Duration::from_micros(1);
            self.ring();
            let sockets = &self.host.sockets;
            let dead: Vec<_> =
                self.host.dead.iter().copied().filter(|flow| sockets.contains_key(flow)).collect();
            // On an edge, hence once.
            for flow in dead.into_iter().filter(|flow| told.insert(*flow)) {
                self.tell(HostEvent::Writable { flow });
                self.tell(HostEvent::Readable { flow });
                self.settle();
            }
        }
        // Fragments have a shorter life than any flow, but may be younger.
        self.wait(Duration::from_secs(120));
        assert_eq!(
            (self.stack.flow_count(), self.host.sockets.len()),
            (0, 0),
            "at {}: {:?}, dead {:?}",
            self.now,
            self.host.sockets,
            self.host.dead
        );
        assert_eq!(self.stack.tcp_buffer_bytes(), 0);
        let stats = self.stack.stats();
        for protocol in FlowProtocol::ALL {
            assert_eq!(stats.flows(protocol).open(), 0, "{protocol:?}");
        }
        assert_eq!(stats.to_container.frames, self.link.commits);
    }
}
