//! The container: an independent TCP/IP stack on the far end of the link, and the programs that use it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netferry::config::LinkConfig;
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr};

use crate::app::{App, Script, Wish};
use crate::clock::{Instant, secs};
use crate::packet;

/// Where the guest's frames wait.
#[derive(Debug)]
struct GuestDevice {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Receiving(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Receiving {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for GuestDevice {
    type RxToken<'a> = Receiving;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Receiving, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Receiving(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// A TCP connection of the container, by its place in `Guest::streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(pub usize);

/// A UDP socket of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpId(usize);

/// One connection and its program.
pub struct Stream {
    pub app: App,
    pub port: u16,
    /// The other end as the container sees it, once known.
    pub remote: Option<SocketAddr>,
    /// The handshake completed.
    pub established: bool,
    handle: SocketHandle,
    last: tcp::State,
    /// Bits by which the other end's windows are shifted.
    window_shift: u8,
    /// The latest acknowledgement number that came, and the right edge of its window.
    grant: Option<(u32, u32)>,
}

struct UdpSocket {
    handle: SocketHandle,
    received: Vec<(SocketAddr, Vec<u8>)>,
}

/// An echo reply: who, identifier, sequence, payload.
pub type Pong = (IpAddr, u16, u16, Vec<u8>);

/// What a DHCP server has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// With the length of its prefix.
    pub address: (Ipv4Addr, u8),
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
}

/// The container.
pub struct Guest {
    pub streams: Vec<Stream>,
    pub pongs: Vec<Pong>,
    /// Bytes of each new TCP buffer.
    pub buffer_bytes: usize,
    interface: Interface,
    device: GuestDevice,
    inbox: VecDeque<Vec<u8>>,
    sockets: SocketSet<'static>,
    udp: Vec<UdpSocket>,
    pings: Vec<SocketHandle>,
    dhcp: Option<SocketHandle>,
    /// The present one, and how many came so far.
    pub lease: (Option<Lease>, usize),
    next_port: u16,
    link: LinkConfig,
    mac: [u8; 6],
    neighbors_fresh_until: Instant,
}

/// A socket address of the standard library.
pub fn std_address(endpoint: smoltcp::wire::IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

impl Guest {
    /// A container with the addresses of `link`.
    pub fn new(link: &LinkConfig, mac: [u8; 6], seed: u64) -> Guest {
        let mut device =
            GuestDevice { mtu: usize::from(link.mtu), received: VecDeque::new(), sent: Vec::new() };
        let mut config = InterfaceConfig::new(EthernetAddress(mac).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            if let Some(ipv4) = link.ipv4 {
                addresses.push(IpCidr::new(ipv4.container.into(), ipv4.subnet.prefix_len())).unwrap();
            }
            if let Some(ipv6) = link.ipv6 {
                addresses.push(IpCidr::new(ipv6.container.into(), ipv6.prefix.prefix_len())).unwrap();
            }
        });
        if let Some(ipv4) = link.ipv4 {
            interface.routes_mut().add_default_ipv4_route(ipv4.gateway).unwrap();
        }
        if let Some(ipv6) = link.ipv6 {
            interface.routes_mut().add_default_ipv6_route(ipv6.gateway_link_local).unwrap();
        }
        Guest {
            streams: Vec::new(),
            pongs: Vec::new(),
            buffer_bytes: 64 << 10,
            interface,
            device,
            inbox: VecDeque::new(),
            sockets: SocketSet::new(Vec::new()),
            udp: Vec::new(),
            pings: Vec::new(),
            dhcp: None,
            lease: (None, 0),
            next_port: 49_152,
            link: link.clone(),
            mac,
            // The first time it asks for itself.
            neighbors_fresh_until: Instant::ZERO + secs(20),
        }
    }

    fn add_stream(&mut self, script: Script, port: u16) -> StreamId {
        let buffer = || tcp::SocketBuffer::new(vec![0; self.buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let handle = self.sockets.add(socket);
        self.streams.push(Stream {
            app: App::new(script),
            port,
            remote: None,
            established: false,
            handle,
            last: tcp::State::Closed,
            window_shift: 0,
            grant: None,
        });
        StreamId(self.streams.len() - 1)
    }

    /// Connects from a fresh port.
    pub fn connect(&mut self, remote: SocketAddr, script: Script) -> StreamId {
        self.next_port += 1;
        self.connect_from(self.next_port, remote, script)
    }

    /// Connects from `port`.
    pub fn connect_from(&mut self, port: u16, remote: SocketAddr, script: Script) -> StreamId {
        let id = self.add_stream(script, port);
        let stream = &mut self.streams[id.0];
        let socket = self.sockets.get_mut::<tcp::Socket>(stream.handle);
        socket.connect(self.interface.context(), remote, port).unwrap();
        stream.remote = Some(remote);
        stream.last = socket.state();
        id
    }

    /// Waits for one connection on `port`.
    pub fn listen(&mut self, port: u16, script: Script) -> StreamId {
        let id = self.add_stream(script, port);
        let stream = &mut self.streams[id.0];
        let socket = self.sockets.get_mut::<tcp::Socket>(stream.handle);
        socket.listen(port).unwrap();
        stream.last = socket.state();
        id
    }

    /// Changes a socket's own settings.
    pub fn socket(&mut self, id: StreamId) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.streams[id.0].handle)
    }

    /// The program of a connection.
    pub fn app(&self, id: StreamId) -> &App {
        &self.streams[id.0].app
    }

    /// The program of a connection, to change its script.
    pub fn app_mut(&mut self, id: StreamId) -> &mut App {
        &mut self.streams[id.0].app
    }

    /// The state of a connection.
    pub fn state(&self, id: StreamId) -> tcp::State {
        self.sockets.get::<tcp::Socket>(self.streams[id.0].handle).state()
    }

    /// Sends a RST now.
    pub fn abort(&mut self, id: StreamId) {
        self.streams[id.0].app.ended = Some(Wish::Reset);
        self.socket(id).abort();
    }

    /// Opens a UDP socket on `port`.
    pub fn udp_bind(&mut self, port: u16) -> UdpId {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 512 << 10]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.udp.push(UdpSocket { handle: self.sockets.add(socket), received: Vec::new() });
        UdpId(self.udp.len() - 1)
    }

    /// Sends a datagram.
    pub fn udp_send(&mut self, id: UdpId, to: SocketAddr, payload: &[u8]) {
        let socket = self.sockets.get_mut::<udp::Socket>(self.udp[id.0].handle);
        socket.send_slice(payload, smoltcp::wire::IpEndpoint::from(to)).unwrap();
    }

    /// What a UDP socket has received.
    pub fn udp_received(&self, id: UdpId) -> &[(SocketAddr, Vec<u8>)] {
        &self.udp[id.0].received
    }

    /// Sends an echo request.
    pub fn ping(&mut self, to: IpAddr, identifier: u16, sequence: u16, payload: &[u8]) {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(identifier)).unwrap();
        let checksums = ChecksumCapabilities::default();
        match to {
            IpAddr::V4(_) => {
                let repr = Icmpv4Repr::EchoRequest { ident: identifier, seq_no: sequence, data: payload };
                let room = socket.send(repr.buffer_len(), to.into()).unwrap();
                repr.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);
            }
            IpAddr::V6(v6) => {
                let repr = Icmpv6Repr::EchoRequest { ident: identifier, seq_no: sequence, data: payload };
                let source = self.interface.get_source_address_ipv6(&v6);
                let room = socket.send(repr.buffer_len(), to.into()).unwrap();
                repr.emit(&source, &v6, &mut Icmpv6Packet::new_unchecked(room), &checksums);
            }
        }
        self.pings.push(self.sockets.add(socket));
    }

    /// Forgets its IPv4 address and asks for one over DHCP.
    pub fn ask_for_lease(&mut self) {
        self.set_ipv4(None);
        self.dhcp = Some(self.sockets.add(dhcpv4::Socket::new()));
    }

    fn set_ipv4(&mut self, lease: Option<&Lease>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
            if let Some((address, prefix_len)) = lease.map(|lease| lease.address) {
                addresses.push(IpCidr::new(address.into(), prefix_len)).unwrap();
            }
        });
        self.interface.routes_mut().remove_default_ipv4_route();
        if let Some(router) = lease.and_then(|lease| lease.router) {
            self.interface.routes_mut().add_default_ipv4_route(router).unwrap();
        }
        if let (Some(link), Some(lease)) = (&mut self.link.ipv4, lease) {
            link.container = lease.address.0;
        }
    }

    fn collect_lease(&mut self) {
        let Some(handle) = self.dhcp else { return };
        let lease = match self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => Some(Lease {
                address: (config.address.address(), config.address.prefix_len()),
                router: config.router,
                dns: config.dns_servers.to_vec(),
            }),
        };
        self.lease.1 += usize::from(lease.is_some());
        self.set_ipv4(lease.as_ref());
        self.lease.0 = lease;
    }

    /// Gives the guest a frame.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.inbox.push_back(frame);
    }

    /// Whether a frame is a bare ACK over which smoltcp 0.14 would hang: one that was overtaken, whose smaller
    /// window it would believe, or one that repeats itself to a connection that waits for nothing but the ACK of
    /// its FIN, the third of which stops the timer that sends the FIN again.
    fn misleads(&mut self, frame: &[u8]) -> bool {
        let ip = packet::read(frame).ok().and_then(|seen| seen.ip);
        let is_sound = |ip: &packet::SeenIp| ip.transport.len() >= 20 && ip.checksum_holds();
        let Some(ip) = ip.filter(|ip| ip.protocol == packet::TCP && is_sound(ip)) else { return false };
        let (from, port) = (Some(ip.from()), ip.ports().1);
        let Some(stream) =
            self.streams.iter_mut().find(|stream| stream.port == port && stream.remote == from)
        else {
            return false;
        };
        let flags = ip.transport[13];
        if flags & packet::SYN != 0 {
            stream.window_shift = ip.window_shift().unwrap_or(0);
            return false;
        }
        let edge = ip.acknowledgement().wrapping_add(u32::from(ip.window()) << stream.window_shift);
        let grant = (ip.acknowledgement(), edge);
        let is_bare = ip.tcp_payload().is_empty() && flags == packet::ACK;
        let repeats = stream.grant.is_some_and(|(acknowledged, _)| acknowledged == grant.0);
        let overtaken = |(acknowledged, edge)| {
            (grant.0.wrapping_sub(acknowledged) as i32) < 0
                || (repeats && (grant.1.wrapping_sub(edge) as i32) < 0)
        };
        if stream.grant.is_some_and(overtaken) {
            return is_bare;
        }
        stream.grant = Some(grant);
        let socket = self.sockets.get::<tcp::Socket>(stream.handle);
        let awaits_ack_of_fin = matches!(socket.state(), tcp::State::FinWait1 | tcp::State::Closing);
        is_bare && repeats && awaits_ack_of_fin && socket.send_queue() == 0
    }

    /// Says again who the gateway is: smoltcp 0.14 forgets a segment for good that it was about to retransmit fast
    /// while its neighbor entry, which lives for 60 s, has just expired. Said before all else: what it would answer to a
    /// frame without an entry is lost.
    fn refresh_neighbors(&mut self, now: Instant) {
        if now < self.neighbors_fresh_until {
            return;
        }
        self.neighbors_fresh_until = now + secs(20);
        let (ours, theirs) = (self.link.gateway_mac.0, self.mac);
        if let Some(ipv4) = self.link.ipv4 {
            let mut reply = packet::arp_request(ours, ipv4.gateway, ipv4.container);
            reply[21] = 2;
            reply[32..38].copy_from_slice(&theirs);
            self.inbox.push_front(reply);
        }
        if let Some(ipv6) = self.link.ipv6 {
            let mut message = vec![136, 0, 0, 0, 0xa0, 0, 0, 0];
            message.extend(ipv6.gateway_link_local.octets());
            message.extend([2, 1]);
            message.extend(ours);
            let ip = packet::Ip::new(ipv6.gateway_link_local, ipv6.container, packet::ICMPV6).hops(255);
            self.inbox.push_front(packet::ethernet(ours, theirs, &ip.carrying(message)));
        }
    }

    /// Lets stack and programs work until nothing moves; what they sent comes out.
    pub fn step(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.refresh_neighbors(now);
        for _ in 0..64 {
            while let Some(frame) = self.inbox.pop_front() {
                if !self.misleads(&frame) {
                    self.device.received.push_back(frame);
                    self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
                }
            }
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            let mut moved = false;
            for stream in &mut self.streams {
                moved |= step_stream(stream, self.sockets.get_mut(stream.handle), now);
            }
            self.collect();
            if !moved {
                break;
            }
        }
        std::mem::take(&mut self.device.sent)
    }

    fn collect(&mut self) {
        self.collect_lease();
        for udp in &mut self.udp {
            let socket = self.sockets.get_mut::<udp::Socket>(udp.handle);
            while let Ok((payload, meta)) = socket.recv() {
                udp.received.push((std_address(meta.endpoint), payload.to_vec()));
            }
        }
        for handle in &self.pings {
            let socket = self.sockets.get_mut::<icmp::Socket>(*handle);
            while let Ok((message, from)) = socket.recv() {
                let word = |at| u16::from_be_bytes([message[at], message[at + 1]]);
                let is_reply = message[0] == if matches!(from, IpAddress::Ipv4(_)) { 0 } else { 129 };
                if is_reply && message.len() >= 8 {
                    self.pongs.push((from.into(), word(4), word(6), message[8..].to_vec()));
                }
            }
        }
    }

    /// When the guest wants to be stepped next.
    pub fn next_at(&mut self, now: Instant) -> Option<Instant> {
        let stack = self.interface.poll_at(now, &self.sockets);
        self.streams.iter().filter_map(|stream| stream.app.next_at(now)).chain(stack).min()
    }
}

/// One round of a program and its socket; whether anything moved.
fn step_stream(stream: &mut Stream, socket: &mut tcp::Socket<'static>, now: Instant) -> bool {
    let app = &mut stream.app;
    let mut moved = false;
    if socket.may_send() || socket.may_recv() {
        stream.established = true;
        stream.remote = socket.remote_endpoint().map(std_address);
    }
    let before = app.received;
    let wanted = app.to_read(now).min(socket.recv_queue());
    if wanted > 0 {
        let mut bytes = vec![0; wanted];
        let count = socket.recv_slice(&mut bytes).unwrap_or(0);
        app.read(&bytes[..count], now);
    }
    moved |= app.received != before;
    if socket.recv_queue() == 0 && socket.recv(|_| (0, ())) == Err(tcp::RecvError::Finished) {
        moved |= app.peer_ended.is_none();
        app.peer_ends();
    }
    if socket.may_send() && stream.established {
        let bytes = app.to_send(socket.send_capacity() - socket.send_queue());
        let count = if bytes.is_empty() { 0 } else { socket.send_slice(&bytes).unwrap() };
        app.took(count);
        moved |= count > 0;
    }
    if stream.established && socket.is_active() {
        match app.wish() {
            Wish::Nothing => {}
            Wish::Finish => {
                socket.close();
                app.ended = Some(Wish::Finish);
                moved = true;
            }
            Wish::Reset => {
                socket.abort();
                app.ended = Some(Wish::Reset);
                moved = true;
            }
        }
    }
    let state = socket.state();
    let orderly = [tcp::State::Closed, tcp::State::LastAck, tcp::State::TimeWait];
    if state == tcp::State::Closed && !orderly.contains(&stream.last) && app.ended != Some(Wish::Reset) {
        app.peer_reset = true;
    }
    stream.last = state;
    moved
}
