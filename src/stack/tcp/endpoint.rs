//! The container-facing TCP engine of one flow, behind a narrow door.
//!
//! Today it is a smoltcp socket with an interface and a socket set of its own: shared sets cost O(flows) a
//! packet. What smoltcp cannot do by itself is done at this door, so that the relay sees a plain endpoint:
//!
//! - **Super-segments.** smoltcp 0.14 offers segmentation offload for IPv4 only (its IPv6 path drops what is
//!   larger than the MTU). So the engine is told of a larger segment size than the container announced, a
//!   multiple of the real one, and every segment that exceeds the real one leaves with the size to cut at in
//!   its virtio-net header. The size the engine announces in turn is set back to the link's in its SYN.
//! - **The held SYN.** A passive endpoint takes the container's SYN and says nothing until
//!   [`Endpoint::release_syn_ack`] or [`Endpoint::abort`].
//! - **Initial sequence numbers.** Each engine is seeded by the caller, from a keyed hash (RFC 6528).
//!
//! Read RFC 9293 first. What is known to be missing (minimum RTO of one second, no use of received SACK, no
//! ECN) is smoltcp's, and ends when the engine is replaced.

use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::super::boundary::{FrameSink, Instant};
use crate::wire::ip::{self, Ethernet};
use crate::wire::tcp::{self, Flags};
use crate::wire::vnet_header::{FrameMeta, Offload, Segmentation};

/// Largest IP packet a frame can carry.
const MAX_PACKET_BYTES: usize = 65_535;

/// Header bytes of TCP without options.
const TCP_HEADER_LEN: usize = 20;

/// Longest packet of headers alone: IPv6 and TCP with all its options.
const MAX_HEADER_BYTES: usize = 40 + 60;

/// What the link looks like to an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct LinkView {
    /// Addresses of the frames toward the container.
    pub ethernet: Ethernet,
    /// Bytes of the largest IP packet that is not a super-segment.
    pub mtu: u16,
    /// What may be left to the container's kernel.
    pub offload: Offload,
}

impl LinkView {
    fn segments(&self, is_ipv6: bool) -> bool {
        self.offload.checksum && if is_ipv6 { self.offload.tcp6 } else { self.offload.tcp4 }
    }

    fn max_segment_size(&self, is_ipv6: bool) -> u16 {
        self.mtu - (ip::header_len(is_ipv6) + TCP_HEADER_LEN) as u16
    }
}

/// One engine: our end of one connection with the container.
pub struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// Largest payload the container takes in one segment.
    segment_bytes: u16,
    is_ipv6: bool,
    /// Bits by which the container's windows are shifted.
    window_shift: u8,
    /// What the container has last granted; none before the handshake is done.
    grant: Option<Grant>,
}

/// What the container has taken and what it will take.
#[derive(Debug, Clone, Copy)]
struct Grant {
    /// Its latest acknowledgement number.
    acknowledged: u32,
    /// First sequence number beyond its window.
    right_edge: u32,
}

/// Whether sequence number `a` lies before `b` (RFC 9293 §3.4).
fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

impl Endpoint {
    /// An endpoint at `local` (an address of the world, which we stand for) that awaits the container's SYN.
    #[must_use]
    pub fn accept(local: SocketAddr, buffer_bytes: usize, seed: u64, link: &LinkView, now: Instant) -> Self {
        let mut endpoint = Self::new(local.ip(), buffer_bytes, seed, link, now);
        let socket = endpoint.socket();
        socket.pause_synack(true);
        socket
            .listen(IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() })
            .expect("a fresh socket listens on any port but zero, which the caller refuses");
        endpoint
    }

    /// An endpoint at `local` that connects to the container's `server`.
    #[must_use]
    pub fn connect(
        local: SocketAddr,
        server: SocketAddr,
        buffer_bytes: usize,
        seed: u64,
        link: &LinkView,
        now: Instant,
    ) -> Self {
        let mut endpoint = Self::new(local.ip(), buffer_bytes, seed, link, now);
        let Endpoint { interface, sockets, handle, .. } = &mut endpoint;
        sockets
            .get_mut::<Socket<'static>>(*handle)
            .connect(
                interface.context(),
                IpEndpoint::new(server.ip().into(), server.port()),
                IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() },
            )
            .expect("both endpoints are specified and of one family");
        endpoint
    }

    fn new(local: IpAddr, buffer_bytes: usize, seed: u64, link: &LinkView, now: Instant) -> Self {
        let is_ipv6 = local.is_ipv6();
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut capabilities = NoDevice(capabilities(link, is_ipv6));
        let mut interface = Interface::new(config, &mut capabilities, now);
        let local = IpAddress::from(local);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(local, if is_ipv6 { 128 } else { 32 })).expect("the list is empty");
        });
        let mut socket =
            Socket::new(SocketBuffer::new(vec![0; buffer_bytes]), SocketBuffer::new(vec![0; buffer_bytes]));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let segment_bytes = link.max_segment_size(is_ipv6);
        Endpoint { interface, sockets, handle, segment_bytes, is_ipv6, window_shift: 0, grant: None }
    }

    /// Takes one segment of the container, as a whole IP packet whose checksums have been seen to.
    pub fn handle_segment(
        &mut self,
        packet: &[u8],
        segment: &tcp::Segment<'_>,
        link: &LinkView,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        if segment.flags.contains(Flags::SYN) {
            self.handle_syn(packet, segment, link, now, frames);
        } else if self.is_news(segment) {
            self.ingress(packet, link, now, frames);
        }
    }

    /// Notes what the segment grants, and says whether the engine needs to see it.
    ///
    /// Two kinds of bare ACK are kept from smoltcp 0.14. One that has been overtaken by a larger grant: the engine
    /// would believe its smaller window and, at zero, wait for ever. And one that repeats itself while nothing
    /// but our FIN is unacknowledged: the third starts a fast retransmission, which finds no data to send and
    /// has by then stopped the timer that would have sent the FIN again.
    fn is_news(&mut self, segment: &tcp::Segment<'_>) -> bool {
        if !segment.flags.contains(Flags::ACK) || segment.flags.contains(Flags::RST) {
            return true;
        }
        let acknowledged = segment.acknowledgement;
        let right_edge = acknowledged.wrapping_add(u32::from(segment.window) << self.window_shift);
        let is_bare = segment.payload.is_empty() && !segment.flags.contains(Flags::FIN);
        if let Some(last) = self.grant {
            let repeats = acknowledged == last.acknowledged;
            if is_before(acknowledged, last.acknowledged)
                || (repeats && is_before(right_edge, last.right_edge))
            {
                return !is_bare;
            }
            let awaits_ack_of_fin = matches!(self.view().state(), State::FinWait1 | State::Closing);
            if is_bare && repeats && awaits_ack_of_fin && self.view().send_queue() == 0 {
                return false;
            }
        }
        self.grant = Some(Grant { acknowledged, right_edge });
        true
    }

    /// Bytes of the container's window that are not yet spoken for.
    ///
    /// The engine gets no more than these to send, except for one byte with which it asks a closed window to
    /// open: its fast retransmission ignores the window, and bytes that it has once sent beyond a window that
    /// then closes are never sent again.
    fn granted_bytes(&self) -> usize {
        let Some(Grant { acknowledged, right_edge }) = self.grant else { return usize::MAX };
        let queued = self.view().send_queue();
        let window = right_edge.wrapping_sub(acknowledged) as usize;
        if window == 0 && queued == 0 { 1 } else { window.saturating_sub(queued) }
    }

    /// Notes the container's segment size and tells the engine the lifted one.
    ///
    /// Data on a SYN (RFC 7413) is left out; the container sends it again after the handshake.
    fn handle_syn(
        &mut self,
        packet: &[u8],
        segment: &tcp::Segment<'_>,
        link: &LinkView,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        let headers = packet.len() - segment.payload.len();
        let offset = headers - segment.header_len;
        let mut copy = [0u8; MAX_HEADER_BYTES];
        let ip_header = ip::header_len(self.is_ipv6);
        let Some(syn) = copy.get_mut(..ip_header + segment.header_len) else { return };
        // The engine skips IP options anyway; without them the header is of one known length.
        syn[..ip_header].copy_from_slice(&packet[..ip_header]);
        syn[ip_header..].copy_from_slice(&packet[offset..headers]);
        ip::set_plain_header(syn, self.is_ipv6);
        if let Some(announced) = segment.max_segment_size {
            self.segment_bytes = announced.clamp(64, link.max_segment_size(self.is_ipv6));
            tcp::set_max_segment_size(&mut syn[ip_header..], self.lifted_segment_bytes(link));
        } else {
            // RFC 9293 §3.7.1 MUST-15: without the option the default is 536, or 1220 over IPv6.
            self.segment_bytes = self.segment_bytes.min(if self.is_ipv6 { 1_220 } else { 536 });
        }
        let syn = &copy[..ip_header + segment.header_len];
        self.window_shift = tcp::window_shift(&syn[ip_header..]).unwrap_or(0);
        if segment.flags.contains(Flags::ACK) && self.grant.is_none() {
            let acknowledged = segment.acknowledgement;
            // The window of a SYN is never shifted.
            let right_edge = acknowledged.wrapping_add(segment.window.into());
            self.grant = Some(Grant { acknowledged, right_edge });
        }
        self.ingress(syn, link, now, frames);
    }

    /// The segment size the engine works with: the largest multiple of the real one that fits a frame.
    fn lifted_segment_bytes(&self, link: &LinkView) -> u16 {
        if !link.segments(self.is_ipv6) {
            return self.segment_bytes;
        }
        let most = (MAX_PACKET_BYTES - ip::header_len(self.is_ipv6) - TCP_HEADER_LEN) as u16;
        most / self.segment_bytes * self.segment_bytes
    }

    fn ingress(&mut self, packet: &[u8], link: &LinkView, now: Instant, frames: &mut impl FrameSink) {
        let mut device = LinkDevice::new(self, link, Some(packet), frames);
        self.interface.poll_ingress_single(now, &mut device, &mut self.sockets);
    }

    /// Sends what there is to send: data, acknowledgements, resets, probes. Returns whether any frame left.
    pub fn poll_transmit(&mut self, link: &LinkView, now: Instant, frames: &mut impl FrameSink) -> bool {
        let mut sent = false;
        let mut device = LinkDevice::new(self, link, None, frames);
        // Asked here, too: the engine stops its timer and forgets what it meant to retransmit before it finds
        // the link full.
        while device.has_room()
            && self.interface.poll_egress(now, &mut device, &mut self.sockets)
                == PollResult::SocketStateChanged
        {
            sent = true;
        }
        sent
    }

    /// When [`Endpoint::poll_transmit`] has something to do next.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Answers the held SYN with a SYN-ACK at the next transmission.
    pub fn release_syn_ack(&mut self) {
        self.socket().pause_synack(false);
    }

    /// Gives the connection up with a RST at the next transmission.
    pub fn abort(&mut self) {
        self.socket().abort();
    }

    /// Sends FIN after everything queued.
    pub fn close(&mut self) {
        self.socket().close();
    }

    /// Hands received bytes, in order, to `take`, which says how many it took.
    pub fn receive_with(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        // Failing means that nothing is there and nothing will come.
        let _ = self.socket().recv(|bytes| (take(bytes), ()));
    }

    /// Lets `fill` write bytes for the container into free buffer space; it says how many it wrote.
    pub fn transmit_with(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) {
        let most = self.transmit_space();
        // Failing means that our half is closed, and then there is nothing to write.
        let _ = self.socket().send(|space| {
            let most = most.min(space.len());
            (fill(&mut space[..most]), ())
        });
    }

    /// Received bytes that nobody has taken yet.
    #[must_use]
    pub fn received_bytes(&self) -> usize {
        self.view().recv_queue()
    }

    /// Bytes for the container that it has not acknowledged.
    #[must_use]
    pub fn unacknowledged_bytes(&self) -> usize {
        self.view().send_queue()
    }

    /// Bytes for the container that there is room for, here and there; zero once our half is closed.
    #[must_use]
    pub fn transmit_space(&self) -> usize {
        let socket = self.view();
        let free = if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 };
        free.min(self.granted_bytes())
    }

    /// Where the connection stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.view().state() {
            State::Listen | State::Closed => Phase::Closed,
            State::SynSent | State::SynReceived => Phase::Opening,
            State::Established | State::FinWait1 | State::FinWait2 => Phase::Open,
            State::CloseWait | State::Closing | State::LastAck => Phase::ContainerFinished,
            State::TimeWait => Phase::TimeWait,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn view(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("state", &self.view().state()).finish_non_exhaustive()
    }
}

/// Where an endpoint's connection stands, as far as the relay cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The handshake goes on.
    Opening,
    /// The container may still send.
    Open,
    /// The container has sent its FIN.
    ContainerFinished,
    /// Both halves are closed and everything is acknowledged; we closed first.
    TimeWait,
    /// Nothing is left: reset by either side, or closed by both.
    Closed,
}

fn capabilities(link: &LinkView, is_ipv6: bool) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit =
        if link.segments(is_ipv6) { MAX_PACKET_BYTES } else { link.mtu.into() };
    // Received checksums are verified before the engine sees a segment, and a partial one never verifies.
    capabilities.checksum = ChecksumCapabilities::ignored();
    capabilities.checksum.ipv4 = Checksum::Tx;
    if !link.offload.checksum {
        capabilities.checksum.tcp = Checksum::Tx;
    }
    capabilities
}

/// Tells a new interface its capabilities; carries nothing.
struct NoDevice(DeviceCapabilities);

impl Device for NoDevice {
    type RxToken<'a> = NoToken;
    type TxToken<'a> = NoToken;

    fn receive(&mut self, _now: Instant) -> Option<(NoToken, NoToken)> {
        None
    }

    fn transmit(&mut self, _now: Instant) -> Option<NoToken> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}

/// A token that cannot exist.
enum NoToken {}

impl RxToken for NoToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _f: F) -> R {
        match self {}
    }
}

impl TxToken for NoToken {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _len: usize, _f: F) -> R {
        match self {}
    }
}

/// The link as the engine sees it for the length of one call.
struct LinkDevice<'a, F> {
    packet: Option<&'a [u8]>,
    link: &'a LinkView,
    segment_bytes: u16,
    is_ipv6: bool,
    frames: &'a mut F,
}

impl<'a, F: FrameSink> LinkDevice<'a, F> {
    fn new(endpoint: &Endpoint, link: &'a LinkView, packet: Option<&'a [u8]>, frames: &'a mut F) -> Self {
        let Endpoint { segment_bytes, is_ipv6, .. } = *endpoint;
        LinkDevice { packet, link, segment_bytes, is_ipv6, frames }
    }

    fn has_room(&mut self) -> bool {
        self.frames.reserve(ip::ETHERNET_HEADER_LEN + MAX_PACKET_BYTES).is_some()
    }

    fn transmit_token(&mut self) -> Option<Transmit<'_, F>> {
        if !self.has_room() {
            return None;
        }
        Some(Transmit {
            link: self.link,
            segment_bytes: self.segment_bytes,
            is_ipv6: self.is_ipv6,
            frames: self.frames,
        })
    }
}

impl<F: FrameSink> Device for LinkDevice<'_, F> {
    type RxToken<'b>
        = Receive<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Transmit<'b, F>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.packet.take()?;
        Some((Receive(packet), self.transmit_token()?))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        self.transmit_token()
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.link, self.is_ipv6)
    }
}

struct Receive<'a>(&'a [u8]);

impl RxToken for Receive<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Transmit<'a, F> {
    link: &'a LinkView,
    segment_bytes: u16,
    is_ipv6: bool,
    frames: &'a mut F,
}

impl<S: FrameSink> TxToken for Transmit<'_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let total = ip::ETHERNET_HEADER_LEN + len;
        let frame = self.frames.reserve(total).expect("room was found when the token was made");
        let result = f(&mut frame[ip::ETHERNET_HEADER_LEN..total]);
        ip::write_ethernet(frame, &self.link.ethernet, self.is_ipv6);
        let header = finish_segment(&mut frame[..total], self.link, self.segment_bytes, self.is_ipv6);
        self.frames.commit(total, header);
        result
    }
}

/// Completes a frame the engine wrote: the announced segment size, the partial checksum, and how to cut it.
fn finish_segment(frame: &mut [u8], link: &LinkView, segment_bytes: u16, is_ipv6: bool) -> [u8; 10] {
    if !link.offload.checksum {
        return [0; 10];
    }
    let offset = ip::ETHERNET_HEADER_LEN + ip::header_len(is_ipv6);
    let (source, destination) = ip::addresses(&frame[ip::ETHERNET_HEADER_LEN..], is_ipv6);
    let segment = &mut frame[offset..];
    let sum = ip::pseudo_header_sum(source, destination, ip::protocol::TCP, segment.len());
    tcp::set_checksum(segment, sum);
    if tcp::flags(segment).contains(Flags::SYN) {
        tcp::set_max_segment_size(segment, link.max_segment_size(is_ipv6));
    }
    let header_len = tcp::header_len(segment);
    // RFC 9293 §3.7.1: options come out of the announced size.
    let cut = usize::from(segment_bytes) - (header_len - TCP_HEADER_LEN);
    let segmentation = (segment.len() - header_len > cut)
        .then_some(Segmentation::Tcp { segment_bytes: cut as u16, ecn: false });
    FrameMeta { checksum_partial: true, checksum_valid: false, segmentation }.encode(
        is_ipv6,
        offset as u16,
        header_len as u16,
        tcp::CHECKSUM_OFFSET as u16,
    )
}
