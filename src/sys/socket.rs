//! The host's sockets: every flow of the container ends in one of these.
//!
//! All are non-blocking and close-on-exec. What the kernel refuses is told as [`SocketError`], by what the
//! container ought to learn from it. Streams are here; datagram and ping sockets in [`datagram`].
//!
//! Left alone on purpose: TCP's buffer sizes, since setting one switches the kernel's autotuning off.

mod control;
pub mod datagram;
pub mod info;
pub mod inner;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

pub use datagram::{ArrivedDatagram, DatagramSocket, ErrorReport, Outgoing};

/// Connections that wait for `accept`: as many as the host allows, to which the kernel lowers it (`net.core.somaxconn`).
const LISTEN_BACKLOG: i32 = 65_535;

/// What a host socket could not do, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketError {
    /// Nobody listens there.
    Refused,
    /// The peer gave the connection up.
    Reset,
    /// No route.
    NetworkUnreachable,
    /// The last hop found nobody.
    HostUnreachable,
    /// The peer does not speak the protocol.
    ProtocolUnreachable,
    /// Forbidden by policy, here or on the way.
    Prohibited,
    /// No answer.
    TimedOut,
    /// The hop limit ran out on the way.
    HopLimitExceeded,
    /// Larger than the path allows.
    MessageTooLong {
        /// IP bytes; 0 where unknown.
        mtu: u32,
    },
    /// Out of descriptors, ports or memory.
    Exhausted,
    /// Anything else, by its errno.
    Other(i32),
}

impl SocketError {
    /// Sorts an errno.
    #[must_use]
    pub fn from_errno(errno: i32) -> SocketError {
        match Errno::from_raw(errno) {
            Errno::ECONNREFUSED => SocketError::Refused,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED | Errno::ENOTCONN => SocketError::Reset,
            Errno::ENETUNREACH | Errno::ENETDOWN => SocketError::NetworkUnreachable,
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => SocketError::HostUnreachable,
            Errno::EPROTO | Errno::ENOPROTOOPT => SocketError::ProtocolUnreachable,
            Errno::EACCES | Errno::EPERM => SocketError::Prohibited,
            Errno::ETIMEDOUT => SocketError::TimedOut,
            Errno::EMSGSIZE => SocketError::MessageTooLong { mtu: 0 },
            // ENOSPC: epoll(7), as many sockets watched as the user may have watched.
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM
            | Errno::ENOSPC
            | Errno::EADDRNOTAVAIL => SocketError::Exhausted,
            // EAFNOSUPPORT: a host without IPv6 has no route for it.
            Errno::EAFNOSUPPORT => SocketError::NetworkUnreachable,
            _ => SocketError::Other(errno),
        }
    }
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> SocketError {
        SocketError::from_errno(error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> SocketError {
        SocketError::from_errno(errno as i32)
    }
}

/// An ICMP or ICMPv6 error of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpNotice {
    /// The router or host that sent it.
    pub offender: Option<IpAddr>,
    /// TTL or hop limit with which it arrived, where the socket asks for that.
    pub hop_limit: Option<u8>,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes before its quotation, where they mean something.
    pub rest: u32,
}

/// Outcome of moving bytes or a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes were moved; zero bytes read from a stream are its end.
    Bytes(usize),
    /// Not now.
    Blocked,
    /// Not at all.
    Failed(SocketError),
}

/// A TCP connection, established or on its way.
#[derive(Debug)]
pub struct StreamSocket {
    fd: OwnedFd,
}

/// How far a connect got at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectProgress {
    /// Established.
    Done,
    /// Its outcome shows as writability or an error.
    Pending,
}

impl StreamSocket {
    /// Starts to connect to `target`, from the address `source` if there is one. Watch the socket only
    /// afterwards: before it, it looks hung up.
    pub fn connect(
        target: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(StreamSocket, ConnectProgress), SocketError> {
        Self::connect_by(target, source, None, None)
    }

    /// The same, by this interface only; and with this TTL or hop limit, for somebody who wants to know who says that
    /// there is no way: see [`Self::take_notice`] and [`Self::note_established`].
    pub fn connect_by(
        target: SocketAddr,
        source: Option<IpAddr>,
        device: Option<&str>,
        hop_limit: Option<u8>,
    ) -> Result<(StreamSocket, ConnectProgress), SocketError> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        prepare_stream(&socket)?;
        bind_device(&socket, device)?;
        if let Some(source) = source {
            // The port is chosen with the target at hand, so that each target has all ports to itself.
            set_int_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        if let Some(hop_limit) = hop_limit {
            // The kernel has no TTL of zero.
            let hop_limit = hop_limit.max(1).into();
            if target.is_ipv6() {
                socket.set_unicast_hops_v6(hop_limit)?;
            } else {
                socket.set_ttl_v4(hop_limit)?;
            }
            // Who says that there is no way. Kernels before 5.9 do not tell, and connect all the same.
            let _ = tell_errors(&socket, target.is_ipv6(), true);
        }
        let progress = match socket.connect(&SockAddr::from(target)) {
            Ok(()) => ConnectProgress::Done,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => ConnectProgress::Pending,
            Err(error) => return Err(error.into()),
        };
        Ok((StreamSocket { fd: socket.into() }, progress))
    }

    /// The connect has succeeded: from now on what the network says is for the kernel to weigh, which tries again
    /// where the connection may yet go on (RFC 5461 §2). Until then every error of it ends the connect.
    pub fn note_established(&self, is_ipv6: bool) {
        let _ = tell_errors(&self.fd, is_ipv6, false);
    }

    /// The ICMP error that ended a connect, if one did.
    pub fn take_notice(&self) -> Option<IcmpNotice> {
        let (queued, _) =
            datagram::errors::read_error_queue(&self.fd, &mut control::RawAddress::new(), &mut [])?;
        queued.notice
    }

    /// The error that ended a connect or a connection, taken off the socket.
    pub fn take_error(&self) -> Result<(), SocketError> {
        match SockRef::from(&self.fd).take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(error.into()),
        }
    }

    /// Reads what has arrived.
    pub fn receive(&self, buffer: &mut [u8]) -> Transfer {
        loop {
            match nix::sys::socket::recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(len) => return Transfer::Bytes(len),
                Err(Errno::EAGAIN) => return Transfer::Blocked,
                Err(Errno::EINTR) => {}
                Err(errno) => return Transfer::Failed(errno.into()),
            }
        }
    }

    /// Writes as much of `bytes` as there is room for.
    pub fn send(&self, bytes: &[u8]) -> Transfer {
        loop {
            match nix::sys::socket::send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(len) => return Transfer::Bytes(len),
                Err(Errno::EAGAIN) => return Transfer::Blocked,
                Err(Errno::EINTR) => {}
                Err(errno) => return Transfer::Failed(errno.into()),
            }
        }
    }

    /// Sends FIN behind everything sent so far. A connection that is gone already needs none.
    pub fn shutdown_write(&self) {
        let _ = SockRef::from(&self.fd).shutdown(std::net::Shutdown::Write);
    }

    /// Keeps the congestion control that a host has for the world off a connection that never leaves it: one that
    /// paces, as BBR does, or that takes a busy processor for a long path, costs most of the throughput there.
    /// Reno is built into every kernel, and has neither (tcp(7), `TCP_CONGESTION`).
    pub fn forgo_pacing(&self) {
        // Slower, and no less right, where it is not allowed.
        let _ = SockRef::from(&self.fd).set_tcp_congestion(b"reno");
    }

    /// Lets the kernel ask the peer after so much silence whether it is still there, tcp(7).
    pub fn keep_alive(&self, idle: Duration, interval: Duration, probes: u8) {
        // What the kernel takes in whole seconds, up to 32767.
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
        let keepalive = TcpKeepalive::new()
            .with_time(seconds(idle))
            .with_interval(seconds(interval))
            .with_retries(probes.into());
        // A connection that is gone already tells by itself.
        let _ = SockRef::from(&self.fd).set_tcp_keepalive(&keepalive);
    }

    /// Closes with a RST: nothing queued is delivered.
    pub fn reset(self) {
        // A socket that cannot linger closes in the ordinary way.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
    }

    /// The address of this end.
    pub fn local_address(&self) -> Result<SocketAddr, SocketError> {
        local_address(&self.fd)
    }

    /// The address of the other end, once connected.
    pub fn peer_address(&self) -> Result<SocketAddr, SocketError> {
        peer_address(&self.fd)
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether errors of the network are kept, with all they say, until they are asked for.
fn tell_errors(socket: &impl AsFd, is_ipv6: bool, on: bool) -> io::Result<()> {
    let (level, name) =
        if is_ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    set_int_option(socket, level, name, on.into())
}

fn prepare_stream(socket: &Socket) -> io::Result<()> {
    // The container's stack has segmented already; what it sent is to leave at once.
    socket.set_tcp_nodelay(true)?;
    // RFC 6093 §6: urgent data is relayed in its place in the stream.
    socket.set_out_of_band_inline(true)
}

fn local_address(fd: &OwnedFd) -> Result<SocketAddr, SocketError> {
    SockRef::from(fd).local_addr()?.as_socket().ok_or(SocketError::Other(libc::EAFNOSUPPORT))
}

/// Whom a socket is connected to.
fn peer_address(fd: &OwnedFd) -> Result<SocketAddr, SocketError> {
    SockRef::from(fd).peer_addr()?.as_socket().ok_or(SocketError::Other(libc::EAFNOSUPPORT))
}

/// Why a published port could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `EADDRINUSE`.
    #[error(
        "cannot publish {address}/{transport}: the port is in use on the host; stop what listens there or choose another"
    )]
    InUse {
        /// Asked for.
        address: SocketAddr,
        /// `tcp` or `udp`.
        transport: &'static str,
    },
    /// `EACCES`.
    #[error(
        "cannot publish {address}/{transport}: ports below {limit} need privilege; choose a higher port or lower \
         the sysctl net.ipv4.ip_unprivileged_port_start on the host"
    )]
    BelowUnprivileged {
        /// Asked for.
        address: SocketAddr,
        /// `tcp` or `udp`.
        transport: &'static str,
        /// `net.ipv4.ip_unprivileged_port_start`.
        limit: u16,
    },
    /// `EADDRNOTAVAIL`.
    #[error(
        "cannot publish {address}/{transport}: the host has no address {}; see `ip address` for those it has",
        address.ip()
    )]
    NotLocal {
        /// Asked for.
        address: SocketAddr,
        /// `tcp` or `udp`.
        transport: &'static str,
    },
    /// `EMFILE`, `ENFILE`.
    #[error(
        "cannot publish {address}/{transport}: out of descriptors; publish fewer ports or raise the limit (`ulimit -n`)"
    )]
    Descriptors {
        /// Asked for.
        address: SocketAddr,
        /// `tcp` or `udp`.
        transport: &'static str,
    },
    /// Anything else.
    #[error("cannot publish {address}/{transport}: {source}")]
    Other {
        /// Asked for.
        address: SocketAddr,
        /// `tcp` or `udp`.
        transport: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

impl ListenError {
    /// What the kernel's word for it means.
    #[must_use]
    pub fn new(address: SocketAddr, transport: &'static str, source: io::Error) -> ListenError {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => ListenError::InUse { address, transport },
            Some(libc::EACCES) => {
                ListenError::BelowUnprivileged { address, transport, limit: unprivileged_port_start() }
            }
            Some(libc::EADDRNOTAVAIL) => ListenError::NotLocal { address, transport },
            Some(libc::EMFILE | libc::ENFILE) => ListenError::Descriptors { address, transport },
            _ => ListenError::Other { address, transport, source },
        }
    }
}

impl ListenError {
    /// The kernel's word for it.
    fn errno(&self) -> i32 {
        match self {
            ListenError::InUse { .. } => libc::EADDRINUSE,
            ListenError::BelowUnprivileged { .. } => libc::EACCES,
            ListenError::NotLocal { .. } => libc::EADDRNOTAVAIL,
            ListenError::Descriptors { .. } => libc::EMFILE,
            ListenError::Other { source, .. } => source.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }
}

fn unprivileged_port_start() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1_024)
}

/// How a port is listened on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenOptions<'a> {
    /// Only clients that come by this interface are heard.
    pub interface: Option<&'a str>,
    /// The address need not be the host's yet.
    pub freebind: bool,
}

/// `SO_BINDTODEVICE`, socket(7): allowed to everybody for a socket that has no device yet.
fn bind_device(socket: &Socket, device: Option<&str>) -> io::Result<()> {
    device.map_or(Ok(()), |device| socket.bind_device(Some(device.as_bytes())))
}

/// A socket bound to a published port, of one family only.
fn bind_published(
    address: SocketAddr,
    options: &ListenOptions<'_>,
    kind: Type,
    protocol: Protocol,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::TCP {
        // Only so that connections of an earlier run in TIME-WAIT do not hold the port.
        socket.set_reuse_address(true)?;
    }
    bind_device(&socket, options.interface)?;
    if options.freebind {
        // One option for both families: IPv6 sockets honour it as well.
        set_int_option(&socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct StreamListener {
    fd: OwnedFd,
    is_listening: bool,
}

/// Outcome of accepting.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, its client, and the host's address the client connected to.
    Connection(StreamSocket, SocketAddr, SocketAddr),
    /// Nobody waits.
    Blocked,
    /// Somebody waits, but the host has no descriptor or memory left for him.
    Exhausted,
}

impl StreamListener {
    /// Listens on a host address.
    pub fn bind(address: SocketAddr) -> Result<StreamListener, ListenError> {
        Self::bind_with(address, &ListenOptions::default())
    }

    /// The same with options.
    pub fn bind_with(
        address: SocketAddr,
        options: &ListenOptions<'_>,
    ) -> Result<StreamListener, ListenError> {
        bind_published(address, options, Type::STREAM, Protocol::TCP)
            .and_then(|socket| socket.listen(LISTEN_BACKLOG).map(|()| socket))
            .map(|socket| StreamListener { fd: socket.into(), is_listening: true })
            .map_err(|error| ListenError::new(address, "tcp", error))
    }

    /// Listens no longer but keeps the port, so that the kernel refuses whoever comes; those that wait are reset. Linux lets
    /// a socket that was shut down for reading listen again.
    pub fn refuse(&mut self) {
        let socket = SockRef::from(&self.fd);
        // With it, another could bind the port as long as nobody listens.
        if socket.set_reuse_address(false).is_ok() && socket.shutdown(std::net::Shutdown::Read).is_ok() {
            self.is_listening = false;
        }
    }

    /// Listens again.
    pub fn listen(&mut self) -> io::Result<()> {
        if !self.is_listening {
            let socket = SockRef::from(&self.fd);
            // As when it was bound: its connections have the port, too.
            socket.set_reuse_address(true)?;
            socket.listen(LISTEN_BACKLOG)?;
            self.is_listening = true;
        }
        Ok(())
    }

    /// The address it is bound to, with the port the host chose where none was asked for.
    pub fn local_address(&self) -> Result<SocketAddr, SocketError> {
        local_address(&self.fd)
    }

    /// Takes the next connection.
    pub fn accept(&self) -> Accepted {
        if !self.is_listening {
            return Accepted::Blocked;
        }
        loop {
            match self.accept_once() {
                Ok((stream, client, local)) => return Accepted::Connection(stream, client, local),
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    Errno::EAGAIN => return Accepted::Blocked,
                    Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
                        return Accepted::Exhausted;
                    }
                    // accept(2): pending errors of the new connection are reported here and mean the next one.
                    // Each such error takes a connection off the queue, so this ends.
                    Errno::EINTR
                    | Errno::ECONNABORTED
                    | Errno::EPROTO
                    | Errno::ENOTCONN
                    | Errno::EINVAL
                    | Errno::ENETDOWN
                    | Errno::ENOPROTOOPT
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::EPERM => {}
                    // Never spin on an error nobody foresaw.
                    _ => return Accepted::Blocked,
                },
            }
        }
    }

    fn accept_once(&self) -> io::Result<(StreamSocket, SocketAddr, SocketAddr)> {
        let (socket, client) = SockRef::from(&self.fd).accept()?;
        socket.set_nonblocking(true)?;
        prepare_stream(&socket)?;
        let fd = OwnedFd::from(socket);
        let client = client.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))?;
        let local = local_address(&fd).map_err(|_| io::Error::from_raw_os_error(libc::ECONNABORTED))?;
        Ok((StreamSocket { fd }, client, local))
    }
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The unspecified address of a family.
fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn set_int_option(fd: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value outlives the call and `size` is its size; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests;
