//! A TCP peer in the container that sends what it is told to, segment by segment, and has no opinion of its own: for what
//! no sane stack does.

use std::net::SocketAddr;
use std::ops::Deref;

use netferry::stack::boundary::FlowId;

use crate::app::Script;
use crate::clock::{Instant, ms};
use crate::host::Target;
use crate::packet::{ACK, Ip, SYN, SeenIp, TCP, fill_checksum};
use crate::world::{CONTAINER, CONTAINER6, World, at};

/// The target that raw peers connect to.
pub const TARGET: &str = "203.0.113.5:80";
/// Options of a usual SYN: MSS 1460, SACK permitted, window shifted by 7.
pub const USUAL: &[u8] = &[2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];
/// Payload of a usual full segment.
pub const FULL: usize = 1_460;

/// One end of a connection, in the container.
#[derive(Debug, Clone)]
pub struct RawPeer {
    pub container: SocketAddr,
    pub remote: SocketAddr,
    /// SND.NXT.
    pub next: u32,
    /// RCV.NXT.
    pub expected: u32,
    /// The window field of what it sends.
    pub window: u16,
}

/// A segment to be sent.
#[derive(Debug, Clone)]
pub struct Shape {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// DSCP and ECN of the packet.
    pub traffic_class: u8,
}

/// A segment that came, with when.
#[derive(Clone)]
pub struct Got {
    pub at: Instant,
    pub ip: SeenIp,
}

impl std::fmt::Debug for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (flags, sequence, acknowledgement) = (self.flags(), self.sequence(), self.acknowledgement());
        let (len, window) = (self.payload().len(), self.window());
        write!(f, "[{} {flags:#04x} {sequence}+{len} ack {acknowledgement} win {window}]", self.at)
    }
}

impl Deref for Got {
    type Target = SeenIp;

    fn deref(&self) -> &SeenIp {
        &self.ip
    }
}

impl Got {
    pub fn flags(&self) -> u8 {
        self.ip.transport[13]
    }

    pub fn payload(&self) -> &[u8] {
        self.ip.tcp_payload()
    }

    /// The sequence number behind it.
    pub fn end(&self) -> u32 {
        let numbers = (self.flags() & SYN != 0) as u32 + u32::from(self.flags() & crate::packet::FIN != 0);
        self.sequence().wrapping_add(self.payload().len() as u32 + numbers)
    }

    /// The value of an option.
    pub fn option(&self, wanted: u8) -> Option<Vec<u8>> {
        let mut rest = &self.ip.transport[20..usize::from(self.ip.transport[12] >> 4) * 4];
        loop {
            match rest {
                [] | [0, ..] => return None,
                [1, after @ ..] => rest = after,
                [kind, len, ..] => {
                    let value = rest.get(2..usize::from(*len))?;
                    if *kind == wanted {
                        return Some(value.to_vec());
                    }
                    rest = &rest[usize::from(*len)..];
                }
                [_] => return None,
            }
        }
    }

    /// What it says it holds beyond the acknowledged (RFC 2018), relative to `base`.
    pub fn held(&self, base: u32) -> Vec<(u32, u32)> {
        let value = self.option(5).unwrap_or_default();
        let word = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().unwrap());
        (0..value.len() / 8)
            .map(|block| (word(8 * block).wrapping_sub(base), word(8 * block + 4).wrapping_sub(base)))
            .collect()
    }
}

impl Shape {
    pub fn at(self, sequence: u32) -> Shape {
        Shape { sequence, ..self }
    }

    pub fn acknowledging(self, acknowledgement: u32) -> Shape {
        Shape { acknowledgement, ..self }
    }

    pub fn window(self, window: u16) -> Shape {
        Shape { window, ..self }
    }

    pub fn with(self, payload: &[u8]) -> Shape {
        Shape { payload: payload.to_vec(), ..self }
    }

    pub fn options(self, options: &[u8]) -> Shape {
        Shape { options: options.to_vec(), ..self }
    }

    fn bytes(&self, ports: (u16, u16)) -> Vec<u8> {
        assert!(self.options.len().is_multiple_of(4), "options fill whole words");
        let mut bytes = Vec::with_capacity(60 + self.payload.len());
        bytes.extend(ports.0.to_be_bytes());
        bytes.extend(ports.1.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        bytes
    }
}

/// So many bytes of the container's pattern for flow 1, from `position` on.
pub fn pattern(position: usize, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    crate::app::fill(Script::container(1, 0).send_key, position as u64, &mut bytes);
    bytes
}

impl RawPeer {
    /// A peer that has said nothing yet. The guest falls silent, so that it does not answer for it.
    pub fn new(world: &mut World, remote: SocketAddr) -> RawPeer {
        world.guest_is_mute = true;
        let address = if remote.is_ipv4() { CONTAINER.into() } else { CONTAINER6.into() };
        let container = SocketAddr::new(address, 5_000);
        RawPeer { container, remote, next: 1_000_000, expected: 0, window: 0xffff }
    }

    /// A segment with these flags where it stands.
    pub fn shape(&self, flags: u8) -> Shape {
        Shape {
            flags,
            sequence: self.next,
            acknowledgement: self.expected,
            window: self.window,
            urgent: 0,
            options: Vec::new(),
            payload: Vec::new(),
            traffic_class: 0,
        }
    }

    /// Puts a segment before the core.
    pub fn put(&self, world: &mut World, shape: &Shape) {
        let mut segment = shape.bytes((self.container.port(), self.remote.port()));
        let (source, destination) = (self.container.ip(), self.remote.ip());
        fill_checksum(source, destination, TCP, &mut segment);
        let mut packet = Ip::new(source, destination, TCP).raw(&segment);
        if shape.traffic_class != 0 {
            match packet[0] >> 4 {
                4 => {
                    packet[1] = shape.traffic_class;
                    packet[10..12].fill(0);
                    let checksum = !crate::packet::sum(0, &packet[..20]);
                    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                }
                _ => {
                    packet[0] |= shape.traffic_class >> 4;
                    packet[1] |= shape.traffic_class << 4;
                }
            }
        }
        world.inject(&packet);
    }

    /// What came for it since it last looked.
    pub fn take(&self, world: &mut World) -> Vec<Got> {
        let mut taken = Vec::new();
        world.link.sent_down.retain(|(at, frame)| {
            let ip = crate::packet::read(frame).ok().and_then(|seen| seen.ip);
            let fits = |ip: &SeenIp| {
                ip.protocol == TCP
                    && ip.from() == self.remote
                    && (ip.destination, ip.ports().1) == (self.container.ip(), self.container.port())
            };
            match ip.filter(fits) {
                Some(ip) => taken.push(Got { at: *at, ip }),
                None => return true,
            }
            false
        });
        taken
    }

    /// Sends a segment; what comes back at once.
    pub fn ask(&self, world: &mut World, shape: &Shape) -> Vec<Got> {
        self.put(world, shape);
        world.run_for(ms(0));
        self.take(world)
    }

    /// Sends `payload` in order; what comes back at once.
    pub fn say(&mut self, world: &mut World, payload: &[u8]) -> Vec<Got> {
        let shape = self.shape(ACK).with(payload);
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.ask(world, &shape)
    }

    /// Sends FIN; what comes back at once.
    pub fn finish(&mut self, world: &mut World) -> Vec<Got> {
        let shape = self.shape(ACK | crate::packet::FIN);
        self.next = self.next.wrapping_add(1);
        self.ask(world, &shape)
    }

    /// Takes note of all that came in order, and acknowledges it; how many bytes came, and whether a FIN.
    pub fn acknowledge(&mut self, world: &mut World) -> (usize, bool) {
        let (mut bytes, mut fin) = (0, false);
        loop {
            let got = self.take(world);
            let before = self.expected;
            for segment in &got {
                if segment.sequence() == self.expected && segment.end() != self.expected {
                    self.expected = segment.end();
                    bytes += segment.payload().len();
                    fin |= segment.flags() & crate::packet::FIN != 0;
                }
            }
            if self.expected == before {
                return (bytes, fin);
            }
            self.put(world, &self.shape(ACK));
            world.run_for(ms(0));
        }
    }

    /// Connects with these options of its SYN to `host`; the SYN-ACK.
    pub fn connect(&mut self, world: &mut World, options: &[u8], host: Target) -> Got {
        world.host.targets.insert(self.remote, host);
        let got = self.ask(world, &self.shape(SYN).acknowledging(0).options(options));
        self.next = self.next.wrapping_add(1);
        let [syn_ack] = &got[..] else { panic!("a SYN-ACK, not {got:?}") };
        assert_eq!((syn_ack.flags() & 0x3f, syn_ack.acknowledgement()), (SYN | ACK, self.next));
        self.expected = syn_ack.end();
        let syn_ack = syn_ack.clone();
        self.put(world, &self.shape(ACK));
        world.run_for(ms(0));
        // The window may be opened further than a SYN-ACK can say.
        let is_update = |got: &Got| got.payload().is_empty() && got.flags() == ACK;
        world.link.sent_down.retain(|(_, frame)| {
            let ip = crate::packet::read(frame).ok().and_then(|seen| seen.ip);
            !ip.is_some_and(|ip| ip.protocol == TCP && is_update(&Got { at: world.now, ip }))
        });
        syn_ack
    }

    /// A connection to a program on the host, in a world of the usual settings.
    pub fn connected(host: Script) -> (World, RawPeer) {
        RawPeer::connected_in(World::usual(), host)
    }

    /// The same in another world.
    pub fn connected_in(mut world: World, host: Script) -> (World, RawPeer) {
        let mut peer = RawPeer::new(&mut world, at(TARGET));
        peer.connect(&mut world, USUAL, Target::running(host));
        (world, peer)
    }

    /// A server of the container at port 80 for `client`, which has connected to listener 0: the SYN that it got.
    pub fn called(world: &mut World, client: SocketAddr, host: Script) -> (RawPeer, FlowId, Got) {
        let mut peer = RawPeer::new(world, client);
        peer.container.set_port(80);
        let flow = world.client_connects(0, client, host).expect("nothing is full");
        world.run_for(ms(0));
        let got = peer.take(world);
        let [syn] = &got[..] else { panic!("a SYN, not {got:?}") };
        assert_eq!(syn.flags(), SYN);
        peer.expected = syn.end();
        (peer, flow, syn.clone())
    }

    /// Ends the connection by RST, and checks the books.
    pub fn reset(self, mut world: World) {
        self.put(&mut world, &self.shape(crate::packet::RST | ACK));
        world.run_for(ms(1));
        world.finish();
    }
}
