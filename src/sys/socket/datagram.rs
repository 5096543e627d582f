//! Datagram sockets: UDP flows, published UDP ports, and ping sockets.
//!
//! A run of equal datagrams travels in one system call where the kernel joins (`UDP_GRO`) and cuts
//! (`UDP_SEGMENT`) them, and what it does not join is joined here. TTL, traffic class and fragmentation belong to the socket and are set only when they
//! change, which for a flow is once. Errors of the network come from the error queue (`IP_RECVERR`) and never
//! cost a datagram: a send that only reports an earlier one's error is repeated.
//!
//! Read first: `udp(7)`, `ip(7)`, `ipv6(7)`, and `icmp(7)` for ping sockets.

pub(super) mod errors;
mod message;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use self::message::{receive_message, send_message};
use super::control::{ControlBuffer, DatagramNotes, RawAddress};
use super::{
    IcmpNotice, ListenError, ListenOptions, SocketError, Transfer, bind_device, bind_published,
    set_int_option, unspecified_like,
};

/// Queued datagrams of a burst, best effort: the kernel lowers it to `net.core.rmem_max`.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Most datagrams of one `UDP_SEGMENT` send that every kernel accepts (`UDP_MAX_SEGMENTS`).
pub const MAX_SEGMENTS: usize = 64;
/// Longest datagram that is joined with its like: no link's super-segments hold larger ones everywhere.
pub const MAX_JOINED_BYTES: usize = 1_472;
/// Datagrams of one run that are joined here.
const MAX_JOINED: usize = 32;
/// What a hop limit is taken to be where the kernel does not say.
const DEFAULT_HOP_LIMIT: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Udp,
    Ping,
}

/// A UDP or ping socket.
#[derive(Debug)]
pub struct DatagramSocket {
    fd: OwnedFd,
    kind: Kind,
    is_ipv6: bool,
    peer: Option<SocketAddr>,
    hop_limit: Option<u8>,
    traffic_class: Option<u8>,
    dont_fragment: Option<bool>,
    can_segment: bool,
    stash: VecDeque<ErrorReport>,
    /// A datagram that was read and belongs to no run.
    held: Option<(ArrivedDatagram, Box<[u8]>)>,
    /// The last read found nothing behind what it brought.
    is_drained: bool,
    /// The host has lost the address that it sends from.
    is_astray: bool,
}

/// One datagram, or a joined run, that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrivedDatagram {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each datagram but the last, when several were joined.
    pub segment_bytes: Option<NonZeroU16>,
    /// Who sent it; for a ping socket the port is the message's identifier.
    pub source: SocketAddr,
    /// The host's address it was sent to, where the socket is bound to all.
    pub local: Option<IpAddr>,
    /// As received.
    pub traffic_class: u8,
    /// As received.
    pub hop_limit: u8,
}

/// Outcome of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This.
    Datagram(ArrivedDatagram),
    /// Nothing now.
    Blocked,
    /// A pending error; the socket stays usable.
    Failed(SocketError),
}

/// How a datagram is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Peer, where the socket is not connected.
    pub to: Option<SocketAddr>,
    /// Host address to send from, where the socket is bound to all.
    pub from: Option<IpAddr>,
    /// Bytes of each datagram but the last, when there are several.
    pub segment_bytes: Option<NonZeroU16>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Not to be fragmented, here or on the way.
    pub dont_fragment: bool,
}

/// An error that the network sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReport {
    /// What was wrong.
    pub error: SocketError,
    /// The ICMP message that said so; none where this host did.
    pub notice: Option<IcmpNotice>,
    /// Where the datagram was going.
    pub destination: Option<SocketAddr>,
    /// The address that it left from, where the socket is bound to all.
    pub local: Option<IpAddr>,
    /// The beginning of its payload.
    pub payload: Vec<u8>,
}

impl DatagramSocket {
    /// A UDP socket for one flow, connected to `target` unless that is unspecified; its source port is
    /// `preferred_port` where that is free and allowed, its source address `source` if there is one.
    pub fn open(
        target: SocketAddr,
        source: Option<IpAddr>,
        preferred_port: u16,
    ) -> Result<DatagramSocket, SocketError> {
        Self::open_by(target, source, (preferred_port, None), None)
    }

    /// The same, by this interface only; from `shared_port` if there is one, which another socket has that was opened here
    /// with a preferred port and is connected to another peer.
    pub fn open_by(
        target: SocketAddr,
        source: Option<IpAddr>,
        (preferred_port, shared_port): (u16, Option<u16>),
        device: Option<&str>,
    ) -> Result<DatagramSocket, SocketError> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::UDP))?;
        if target.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        prepare(&socket, target.is_ipv6())?;
        bind_device(&socket, device)?;
        let source = source.unwrap_or(unspecified_like(target.ip()));
        let bind = |port| socket.bind(&SockAddr::from(SocketAddr::new(source, port)));
        let is_shared =
            shared_port.is_some_and(|port| socket.set_reuse_port(true).is_ok() && bind(port).is_ok());
        if !is_shared {
            if shared_port.is_some() {
                // A port is begun alone, or it might be shared with a stranger of the same user.
                socket.set_reuse_port(false)?;
            }
            if preferred_port == 0 || bind(preferred_port).is_err() {
                bind(0)?;
            }
            if preferred_port != 0 {
                // For those that share it later; where it cannot be, each has its own.
                let _ = socket.set_reuse_port(true);
            }
        }
        let peer = (!target.ip().is_unspecified()).then_some(target);
        if let Some(peer) = peer {
            socket.connect(&SockAddr::from(peer))?;
        }
        Ok(Self::new(socket, Kind::Udp, target.is_ipv6(), peer))
    }

    /// A ping socket for one flow, with the identifier where that is free, from the address `source` if there is
    /// one. `Prohibited` where the host's `net.ipv4.ping_group_range` leaves this user out.
    pub fn open_echo(
        target: IpAddr,
        source: Option<IpAddr>,
        identifier: u16,
        device: Option<&str>,
    ) -> Result<DatagramSocket, SocketError> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))?;
        prepare(&socket, target.is_ipv6())?;
        bind_device(&socket, device)?;
        let source = source.unwrap_or(unspecified_like(target));
        if socket.bind(&SockAddr::from(SocketAddr::new(source, identifier))).is_err() {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        let peer = SocketAddr::new(target, 0);
        socket.connect(&SockAddr::from(peer))?;
        Ok(Self::new(socket, Kind::Ping, target.is_ipv6(), Some(peer)))
    }

    /// The socket of a published UDP port.
    pub fn bind(address: SocketAddr) -> Result<DatagramSocket, ListenError> {
        Self::bind_with(address, &ListenOptions::default())
    }

    /// The same with options.
    pub fn bind_with(
        address: SocketAddr,
        options: &ListenOptions<'_>,
    ) -> Result<DatagramSocket, ListenError> {
        bind_published(address, options, Type::DGRAM, Protocol::UDP)
            .and_then(|socket| {
                prepare(&socket, address.is_ipv6())?;
                if address.ip().is_unspecified() {
                    // Replies must leave from the address that the client asked.
                    let (level, name) = if address.is_ipv6() {
                        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
                    } else {
                        (libc::IPPROTO_IP, libc::IP_PKTINFO)
                    };
                    set_int_option(&socket, level, name, 1)?;
                }
                Ok(Self::new(socket, Kind::Udp, address.is_ipv6(), None))
            })
            .map_err(|error| ListenError::new(address, "udp", error))
    }

    /// The same for a specific address of which another socket of ours holds the whole family: it gets what is sent
    /// to that address, the other one the rest. Nobody else can take the port meanwhile, since both have it.
    pub fn bind_within(&self, address: SocketAddr) -> Result<DatagramSocket, ListenError> {
        let failed = |error| ListenError::new(address, "udp", error);
        let shared = SockRef::from(&self.fd);
        shared.set_reuse_address(true).map_err(failed)?;
        let bound = (|| {
            let kind = Type::DGRAM.nonblocking().cloexec();
            let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(address))?;
            socket.set_reuse_address(false)?;
            prepare(&socket, address.is_ipv6())?;
            Ok(Self::new(socket, Kind::Udp, address.is_ipv6(), None))
        })();
        shared.set_reuse_address(false).map_err(failed)?;
        bound.map_err(failed)
    }

    /// A UDP socket that another process has opened or bound for us as [`DatagramSocket::open`] and
    /// [`DatagramSocket::bind`] do, of the family of `address`.
    pub(super) fn adopt(fd: OwnedFd, address: SocketAddr, peer: Option<SocketAddr>) -> DatagramSocket {
        Self::new(Socket::from(fd), Kind::Udp, address.is_ipv6(), peer)
    }

    /// The descriptor, to be handed to another process.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn new(socket: Socket, kind: Kind, is_ipv6: bool, peer: Option<SocketAddr>) -> DatagramSocket {
        let fd = OwnedFd::from(socket);
        if kind == Kind::Udp {
            // Joined runs are a gain, not a need: kernels before 5.0 have none.
            let _ = set_int_option(&fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        DatagramSocket {
            fd,
            kind,
            is_ipv6,
            peer,
            hop_limit: None,
            traffic_class: None,
            dont_fragment: None,
            can_segment: kind == Kind::Udp,
            stash: VecDeque::new(),
            held: None,
            is_drained: false,
            is_astray: false,
        }
    }

    #[cfg(test)]
    pub(super) fn disable_segmentation_unless(&mut self, can_segment: bool) {
        self.can_segment = can_segment;
    }

    /// The address it is bound to.
    pub fn local_address(&self) -> Result<SocketAddr, SocketError> {
        super::local_address(&self.fd)
    }

    /// The address it is connected to.
    pub fn peer_address(&self) -> Result<SocketAddr, SocketError> {
        super::peer_address(&self.fd)
    }

    /// The host has lost `addresses`, or nobody knows which where there are none. A connected socket goes on sending from
    /// the address it was connected with, or cannot send at all; its next datagram is to find another.
    pub fn forsake(&mut self, addresses: Option<&[IpAddr]>) {
        let is_lost = |addresses: &[IpAddr]| {
            self.local_address().is_ok_and(|local| addresses.contains(&local.ip().to_canonical()))
        };
        self.is_astray |= self.peer.is_some() && addresses.is_none_or(is_lost);
    }

    /// Connects to the same peer, from the address that the host would take now. The port stays where it was asked for.
    fn find_way(&mut self) -> Result<(), SocketError> {
        let Some(peer) = self.peer else { return Ok(()) };
        // SAFETY: all-zero bytes are a valid `sockaddr`; AF_UNSPEC is zero.
        let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
        // connect(2): a connected datagram socket is set free by connecting it to AF_UNSPEC. Until it is connected again,
        // `is_stranger` stands guard.
        // SAFETY: the pointer is to a live address of the length beside it.
        let freed = unsafe {
            libc::connect(
                self.fd.as_raw_fd(),
                &raw const nobody,
                size_of::<libc::sockaddr>() as libc::socklen_t,
            )
        };
        nix::errno::Errno::result(freed)?;
        SockRef::from(&self.fd).connect(&SockAddr::from(peer))?;
        self.is_astray = false;
        Ok(())
    }

    /// Whether it is no ping socket.
    pub fn is_udp(&self) -> bool {
        self.kind == Kind::Udp
    }

    /// An event says that there may be something to read.
    pub fn note_readable(&mut self) {
        self.is_drained = false;
    }

    /// Reads the next datagram, or a run of equal ones from the same sender: what the kernel has joined, or what waits.
    /// `spare` has room for another datagram, which may prove to be none of them.
    pub fn receive_run(&mut self, buffer: &mut [u8], spare: &mut [u8]) -> Received {
        let first = match self.held.take() {
            Some((held, bytes)) if bytes.len() <= buffer.len() => {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                held
            }
            Some(_) | None if std::mem::take(&mut self.is_drained) => return Received::Blocked,
            Some(_) | None => match self.receive(buffer) {
                Received::Datagram(first) => first,
                other @ (Received::Blocked | Received::Failed(_)) => return other,
            },
        };
        if self.kind != Kind::Udp || first.segment_bytes.is_some() || first.len > MAX_JOINED_BYTES {
            return Received::Datagram(first);
        }
        Received::Datagram(self.join(first, buffer, spare))
    }

    /// Reads on behind the first of what may be a run.
    fn join(&mut self, first: ArrivedDatagram, buffer: &mut [u8], spare: &mut [u8]) -> ArrivedDatagram {
        let mut run = first;
        let mut count = 1;
        while count < MAX_JOINED && first.len > 0 {
            let Some(room) = buffer.get_mut(run.len..run.len + first.len) else { break };
            let next = match self.receive_one(room, spare) {
                Received::Datagram(next) => next,
                Received::Blocked => {
                    self.is_drained = true;
                    break;
                }
                // The socket's error is told by its queue.
                Received::Failed(_) => break,
            };
            let is_alike = ArrivedDatagram { len: first.len, ..next } == first;
            if !is_alike || next.len == 0 || next.len > first.len {
                let (front, behind) = (next.len.min(first.len), next.len.saturating_sub(first.len));
                let bytes = [&buffer[run.len..run.len + front], &spare[..behind]].concat();
                self.held = Some((next, bytes.into()));
                break;
            }
            run.len += next.len;
            count += 1;
            if next.len < first.len {
                break;
            }
        }
        if count > 1 {
            run.segment_bytes = u16::try_from(first.len).ok().and_then(NonZeroU16::new);
        }
        run
    }

    /// Reads the next datagram, or a run that the kernel has joined. One that is larger than `buffer` is skipped, and so is
    /// one from a stranger that arrived before the socket was connected.
    pub fn receive(&self, buffer: &mut [u8]) -> Received {
        self.receive_one(buffer, &mut [])
    }

    /// The same, into `buffer` and what follows into `spare`.
    fn receive_one(&self, buffer: &mut [u8], spare: &mut [u8]) -> Received {
        let mut address = RawAddress::new();
        let mut control = ControlBuffer::new();
        let mut first_error = None;
        loop {
            let (len, flags) = match receive_message(&self.fd, [buffer, spare], &mut address, &mut control, 0)
            {
                Ok(read) => read,
                Err(error) => match error.raw_os_error().unwrap_or(libc::EINVAL) {
                    libc::EAGAIN => return Received::Blocked,
                    libc::EINTR => continue,
                    // The error queue has the whole story; here it would be told twice.
                    errno if first_error != Some(errno) && is_echo_of_the_network(errno) => {
                        first_error = Some(errno);
                        continue;
                    }
                    errno => return Received::Failed(SocketError::from_errno(errno)),
                },
            };
            let Some(mut source) = address.read() else { continue };
            if flags & libc::MSG_TRUNC != 0 || self.is_stranger(source) {
                continue;
            }
            if self.kind == Kind::Ping {
                // RFC 792, RFC 4443 §4: the identifier follows type, code and checksum.
                let Some(identifier) =
                    buffer.get(4..6).filter(|_| len >= 6).and_then(|bytes| bytes.first_chunk::<2>())
                else {
                    continue;
                };
                source.set_port(u16::from_be_bytes(*identifier));
            }
            let notes = DatagramNotes::read(control.messages());
            return Received::Datagram(ArrivedDatagram {
                len,
                // A joined run of one is a datagram.
                segment_bytes: notes.segment_bytes.filter(|bytes| usize::from(bytes.get()) < len),
                source,
                local: notes.local,
                traffic_class: notes.traffic_class.unwrap_or(0),
                hop_limit: notes.hop_limit.unwrap_or(DEFAULT_HOP_LIMIT),
            });
        }
    }

    fn is_stranger(&self, source: SocketAddr) -> bool {
        self.kind == Kind::Udp
            && self.peer.is_some_and(|peer| peer.ip() != source.ip() || peer.port() != source.port())
    }

    /// Sends one datagram or a run of several.
    pub fn send(&mut self, bytes: &[u8], how: &Outgoing) -> Transfer {
        if self.is_astray
            && let Err(error) = self.find_way()
        {
            return Transfer::Failed(error);
        }
        if let Err(error) = self.apply(how) {
            return Transfer::Failed(error.into());
        }
        match how.segment_bytes {
            Some(segment_bytes) if usize::from(segment_bytes.get()) < bytes.len() => {
                self.send_run(bytes, usize::from(segment_bytes.get()), how)
            }
            Some(_) | None => self.send_one(bytes, how, None),
        }
    }

    /// Sets what has changed since the last datagram.
    fn apply(&mut self, how: &Outgoing) -> io::Result<()> {
        let socket = SockRef::from(&self.fd);
        // The kernel has no TTL of zero; nothing of the kind is to be forwarded anyway.
        let hop_limit = how.hop_limit.max(1);
        if self.hop_limit != Some(hop_limit) {
            if self.is_ipv6 {
                socket.set_unicast_hops_v6(hop_limit.into())?;
            } else {
                socket.set_ttl_v4(hop_limit.into())?;
            }
            self.hop_limit = Some(hop_limit);
        }
        if self.traffic_class != Some(how.traffic_class) {
            if self.is_ipv6 {
                socket.set_tclass_v6(how.traffic_class.into())?;
            } else {
                socket.set_tos_v4(how.traffic_class.into())?;
            }
            self.traffic_class = Some(how.traffic_class);
        }
        if self.dont_fragment != Some(how.dont_fragment) {
            // As a router does: what may not be fragmented leaves if the link takes it, whatever this host has
            // learnt of the path, so that the container learns it by the same errors (ip(7), "PROBE"). IPv6 without
            // "don't fragment" is a datagram that the container had fragmented itself: the host may fragment it in
            // its turn, to the path's MTU.
            let (level, name, value) = match (self.is_ipv6, how.dont_fragment) {
                (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
                (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
                (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
                (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
            };
            set_int_option(&self.fd, level, name, value)?;
            self.dont_fragment = Some(how.dont_fragment);
        }
        Ok(())
    }

    fn send_run(&mut self, bytes: &[u8], segment_bytes: usize, how: &Outgoing) -> Transfer {
        let mut refused = None;
        for run in bytes.chunks(segment_bytes * MAX_SEGMENTS) {
            if self.can_segment && run.len() > segment_bytes {
                match self.send_one(run, how, Some(segment_bytes)) {
                    // This run does not fit what the path can cut; the next may.
                    Transfer::Failed(
                        SocketError::Other(libc::EINVAL) | SocketError::MessageTooLong { .. },
                    ) => {}
                    // The kernel, or the device on the way, cannot cut at all.
                    Transfer::Failed(
                        SocketError::Other(libc::EIO | libc::EOPNOTSUPP) | SocketError::ProtocolUnreachable,
                    ) => self.can_segment = false,
                    Transfer::Bytes(_) => continue,
                    other @ (Transfer::Blocked | Transfer::Failed(_)) => return other,
                }
            }
            for datagram in run.chunks(segment_bytes) {
                // Those of the same size are too long as well; the last may be shorter.
                if refused.is_some() && datagram.len() == segment_bytes {
                    continue;
                }
                match self.send_one(datagram, how, None) {
                    Transfer::Bytes(_) => {}
                    Transfer::Failed(error @ SocketError::MessageTooLong { .. }) => refused = Some(error),
                    other @ (Transfer::Blocked | Transfer::Failed(_)) => return other,
                }
            }
        }
        refused.map_or(Transfer::Bytes(bytes.len()), Transfer::Failed)
    }

    fn send_one(&mut self, bytes: &[u8], how: &Outgoing, segment_bytes: Option<usize>) -> Transfer {
        let mut control = ControlBuffer::new();
        if let Some(source) = how.from {
            control.push_source(source);
        }
        if let Some(segment) = segment_bytes.and_then(|bytes| u16::try_from(bytes).ok()) {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        let mut address = how.to.filter(|_| self.peer.is_none()).map(RawAddress::from);
        let mut first_error = None;
        loop {
            let error = match send_message(&self.fd, bytes, address.as_mut(), &mut control) {
                Ok(len) => return Transfer::Bytes(len),
                Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
            };
            match error {
                libc::EINTR => {}
                // A full device queue says ENOBUFS, a full socket EAGAIN: for a datagram they are the same.
                libc::EAGAIN | libc::ENOBUFS => return Transfer::Blocked,
                libc::EMSGSIZE => {
                    return Transfer::Failed(SocketError::MessageTooLong { mtu: self.refused_mtu() });
                }
                // An earlier datagram's ICMP error is handed to the next send, which is then not made. Saying
                // it clears it; the error queue has the whole story. What is said twice is this datagram's own.
                _ if first_error != Some(error) && is_echo_of_the_network(error) => first_error = Some(error),
                _ => return Transfer::Failed(SocketError::from_errno(error)),
            }
        }
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Errors that the network sends back for earlier datagrams.
fn is_echo_of_the_network(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EACCES
            | libc::EHOSTDOWN
            | libc::EOPNOTSUPP
            | libc::ENONET
    )
}

fn prepare(socket: &Socket, is_ipv6: bool) -> io::Result<()> {
    // Best effort: a smaller queue loses bursts, as a smaller router would.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    if is_ipv6 {
        socket.set_recv_tclass_v6(true)?;
        socket.set_recv_hoplimit_v6(true)?;
        set_int_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        socket.set_recv_tos_v4(true)?;
        set_int_option(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
        set_int_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}
