//! The core between a container and a host that exist in memory only: for what is measured without a kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use netferry::config::{ClosedPorts, Config, Ipv4Link, LinkConfig};
use netferry::stack::Stack;
use netferry::stack::boundary::{
    Action, DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, FrameSink, HostEvent, HostIo,
    Instant, Io, StreamRead, StreamWrite,
};
use netferry::wire::MacAddr;
use netferry::wire::tcp;
use netferry::wire::vnet_header::{Offload, VNET_HEADER_LEN};

const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 2];
const CONTAINER_MAC: [u8; 6] = [0x52, 0x55, 0x0a, 0, 2, 100];
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Ethernet and IPv4 headers of the frames here.
const TCP_OFFSET: usize = 34;
const WINDOW: u16 = 65_535;
/// Flows that begin before the others are served: fewer than may be half-open.
const BATCH: usize = 1_000;

/// A host that takes everything, and gives what it is told to.
#[derive(Debug, Default)]
pub struct Host {
    /// Bytes that it has left to give.
    pub gives: usize,
    /// Bytes that it has given.
    pub given: u64,
    /// Bytes it has taken.
    pub taken: u64,
}

impl HostIo for Host {
    fn receive_stream(&mut self, _: FlowId, buffer: &mut [u8]) -> StreamRead {
        match self.gives.min(buffer.len()) {
            0 => StreamRead::Blocked,
            count => {
                self.gives -= count;
                self.given += count as u64;
                StreamRead::Bytes(count)
            }
        }
    }

    fn send_stream(&mut self, _: FlowId, bytes: &[u8]) -> StreamWrite {
        self.taken += bytes.len() as u64;
        StreamWrite::Bytes(bytes.len())
    }

    fn receive_datagrams(&mut self, _: DatagramPort, _: &mut [u8]) -> DatagramRead {
        DatagramRead::Blocked
    }

    fn send_datagrams(&mut self, _: DatagramPort, bytes: &[u8], _: &DatagramSend) -> DatagramWrite {
        self.taken += bytes.len() as u64;
        DatagramWrite::Sent
    }
}

/// A link that keeps the headers of what leaves, and no payload.
#[derive(Debug)]
pub struct Frames {
    room: Box<[u8]>,
    /// Container's port and our sequence number of each SYN-ACK, in the order they left.
    syn_acks: Vec<(u16, u32)>,
    /// Frames that left.
    pub count: u64,
}

impl Frames {
    fn note(&mut self, len: usize) {
        self.count += 1;
        let Some(segment) = self.room.get(TCP_OFFSET..len).filter(|_| self.room[23] == 6) else { return };
        if let Ok(segment) = tcp::parse(segment)
            && segment.flags.contains(tcp::Flags::SYN)
        {
            self.syn_acks.push((segment.destination_port, segment.sequence));
        }
    }
}

impl FrameSink for Frames {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.room.get_mut(..len)
    }

    fn commit(&mut self, len: usize, _: [u8; VNET_HEADER_LEN]) {
        self.note(len);
    }

    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], _: [u8; VNET_HEADER_LEN]) {
        std::hint::black_box(payload);
        self.note(len);
    }
}

/// A connection of the container.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    port: u16,
    server_port: u16,
    /// Whose it is in the core.
    pub flow: FlowId,
    /// The container's next sequence number.
    pub sent: u32,
    /// The next that it expects.
    pub received: u32,
}

/// The core and its two sides.
pub struct Rig {
    pub stack: Stack,
    pub host: Host,
    pub frames: Frames,
    now: Instant,
    opened: usize,
}

impl Rig {
    pub fn new() -> Rig {
        let secret = [1, 2, 3, 4];
        let stack = Stack::new(config().into(), Offload::ALL, Vec::new(), secret, Instant::ZERO);
        let frames = Frames { room: vec![0; 66_000].into(), syn_acks: Vec::new(), count: 0 };
        Rig { stack, host: Host::default(), frames, now: Instant::ZERO, opened: 0 }
    }

    /// What the container sends: its kernel leaves the transport checksum to us.
    pub fn take(&mut self, frame: &[u8]) {
        self.now += netferry::stack::boundary::Duration::from_micros(1);
        let header = [1, 0, 0, 0, 0, 0, TCP_OFFSET as u8, 0, checksum_offset(frame), 0];
        let mut io = Io { host: &mut self.host, frames: &mut self.frames };
        self.stack.handle_frame(&header, frame, self.now, &mut io);
    }

    pub fn tell(&mut self, event: HostEvent) {
        let mut io = Io { host: &mut self.host, frames: &mut self.frames };
        self.stack.handle_host(event, self.now, &mut io);
    }

    /// The end of a turn.
    pub fn flush(&mut self) {
        let mut io = Io { host: &mut self.host, frames: &mut self.frames };
        self.stack.flush(self.now, &mut io);
    }

    /// So many more connections of the container, each established on both sides.
    pub fn connect(&mut self, count: usize) -> Vec<Connection> {
        let mut connections = Vec::with_capacity(count);
        while connections.len() < count {
            self.connect_batch(BATCH.min(count - connections.len()), &mut connections);
        }
        connections
    }

    fn connect_batch(&mut self, count: usize, connections: &mut Vec<Connection>) {
        let mut ports = BTreeMap::new();
        for _ in 0..count {
            // So that all ports are distinct in a batch: they tell the answers apart.
            let (port, server_port) =
                ((1_024 + self.opened % 60_000) as u16, (1 + self.opened / 60_000) as u16);
            self.opened += 1;
            let builder = builder().tcp(port, server_port, 1_000, WINDOW).syn();
            self.take(&built(builder, &[]));
            let Some(Action::ConnectStream { flow, .. }) = self.stack.poll_action() else {
                panic!("a SYN was not taken: {:?}", self.stack.stats())
            };
            ports.insert(port, (server_port, flow));
            self.tell(HostEvent::Connected { flow });
            while self.stack.poll_event().is_some() {}
        }
        self.flush();
        for (port, sequence) in std::mem::take(&mut self.frames.syn_acks) {
            let (server_port, flow) = ports[&port];
            let connection =
                Connection { port, server_port, flow, sent: 1_001, received: sequence.wrapping_add(1) };
            self.take(&connection.segment(&[]));
            connections.push(connection);
        }
        self.flush();
    }
}

impl Connection {
    /// The container's next segment.
    pub fn segment(&self, payload: &[u8]) -> Vec<u8> {
        let builder = builder().tcp(self.port, self.server_port, self.sent, WINDOW).ack(self.received);
        built(builder, payload)
    }

    /// Writes the numbers of now into such a segment.
    pub fn renumber(&self, segment: &mut [u8]) {
        segment[TCP_OFFSET + 4..TCP_OFFSET + 8].copy_from_slice(&self.sent.to_be_bytes());
        segment[TCP_OFFSET + 8..TCP_OFFSET + 12].copy_from_slice(&self.received.to_be_bytes());
    }
}

/// A datagram of the container.
pub fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder().udp(port, 9_000).write(&mut frame, payload).expect("a vector takes it");
    frame
}

fn builder() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(CONTAINER_MAC, GATEWAY_MAC).ipv4(CONTAINER.octets(), SERVER.octets(), 64)
}

fn built(builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes it");
    frame
}

fn checksum_offset(frame: &[u8]) -> u8 {
    if frame[23] == 6 { 16 } else { 6 }
}

fn config() -> Config {
    let link = LinkConfig {
        segment: Default::default(),
        ipv4: Some(Ipv4Link {
            subnet: "10.0.2.0/24".parse().expect("a subnet"),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: None,
            container: CONTAINER,
        }),
        ipv6: None,
        mtu: 1500,
        gateway_mac: MacAddr(GATEWAY_MAC),
        container_mac: Some(MacAddr(CONTAINER_MAC)),
    };
    Config { closed_ports: ClosedPorts::Accept, ..Config::on(link) }
}
