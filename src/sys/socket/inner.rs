//! Sockets of the container's network namespace, for a process outside of it.
//!
//! A socket belongs to the namespace of the process that opened it, for ever. So a forked child ([`serve`]) enters
//! the container's namespaces, opens sockets there on request and hands them out over a socket pair
//! ([`InnerSockets`]); it never moves a byte. Only loopback addresses are served, and those that are the container's
//! own: all else is reached through its link. The tables of bound ports are to be had the same way. The child is confined
//! before it serves: it sees no file, and may call nothing but what opens such sockets. One request, one answer; a connect is only started, so no answer waits for a peer.
//!
//! The child ends when the other end of the line is closed. As long as it lives, and any socket of it, the
//! kernel keeps the namespace: whoever waits for that to go must watch something else.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tracing::warn;

use super::datagram::DatagramSocket;
use super::{ListenError, SocketError, StreamListener, StreamSocket};
use crate::sys::confined::Confined;
use crate::sys::descriptor::{pair, receive_descriptor, send_descriptor};
use crate::sys::proc_net::{self, PortTables};

/// A letter, a family, an address and a port.
const REQUEST_BYTES: usize = 1 + 1 + 16 + 2;
/// An errno, or 0 for a socket.
const ANSWER_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Connect(SocketAddr),
    Listen(SocketAddr),
    Exchange(SocketAddr),
    Receive(SocketAddr),
    /// The table of this number, see [`proc_net`].
    Table(u16),
}

/// The line to the child inside.
#[derive(Debug)]
pub struct InnerSockets {
    line: OwnedFd,
    /// It was told that nobody is inside any more.
    is_mourned: Cell<bool>,
}

impl InnerSockets {
    /// Both ends: ours, and the one that [`serve`] is given in the child.
    pub fn pair() -> io::Result<(InnerSockets, OwnedFd)> {
        let (line, inside) = pair()?;
        Ok((InnerSockets { line, is_mourned: Cell::new(false) }, inside))
    }

    /// A stream that connects to `target`; its outcome shows as writability or an error.
    pub fn connect(&self, target: SocketAddr) -> Result<StreamSocket, SocketError> {
        Ok(StreamSocket { fd: self.ask(Request::Connect(target))? })
    }

    /// A listening stream socket.
    pub fn listen(&self, address: SocketAddr) -> Result<StreamListener, ListenError> {
        match self.ask(Request::Listen(address)) {
            Ok(fd) => Ok(StreamListener { fd, is_listening: true }),
            Err(error) => Err(ListenError::new(address, "tcp", error)),
        }
    }

    /// A datagram socket of any port, connected to `target`.
    pub fn exchange(&self, target: SocketAddr) -> Result<DatagramSocket, SocketError> {
        Ok(DatagramSocket::adopt(self.ask(Request::Exchange(target))?, target, Some(target)))
    }

    /// A datagram socket bound to `address`.
    pub fn receive(&self, address: SocketAddr) -> Result<DatagramSocket, ListenError> {
        match self.ask(Request::Receive(address)) {
            Ok(fd) => Ok(DatagramSocket::adopt(fd, address, None)),
            Err(error) => Err(ListenError::new(address, "udp", error)),
        }
    }

    /// The tables of the ports that are bound inside.
    pub fn tables(&self) -> io::Result<PortTables> {
        let mut tables = Vec::new();
        for number in 0..PortTables::COUNT {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            tables.push(match self.ask(Request::Table(number)) {
                Ok(table) => Some(table),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
                Err(error) => return Err(error),
            });
        }
        Ok(PortTables::from_descriptors(tables))
    }

    fn ask(&self, request: Request) -> io::Result<OwnedFd> {
        let answer = self.exchange_words(request);
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if answer.as_ref().is_err_and(is_gone) && !self.is_mourned.replace(true) {
            warn!("the process in the container has ended: nothing goes from loopback to loopback any more");
        }
        answer
    }

    fn exchange_words(&self, request: Request) -> io::Result<OwnedFd> {
        send_descriptor(&self.line, None, &request.to_bytes())?;
        let mut answer = [0; ANSWER_BYTES];
        match receive_descriptor(&self.line, &mut answer)? {
            (ANSWER_BYTES, Some(fd)) => Ok(fd),
            (ANSWER_BYTES, None) => match i32::from_ne_bytes(answer) {
                // The kernel drops a descriptor that we have no room for.
                0 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// What is there to hand out besides sockets: the tables of bound ports, opened while there are files to open.
#[derive(Debug)]
pub struct Tables([Option<OwnedFd>; PortTables::COUNT]);

impl Tables {
    /// Those of the calling process's namespace.
    pub fn open() -> io::Result<Tables> {
        let mut tables = [const { None }; PortTables::COUNT];
        for (number, table) in tables.iter_mut().enumerate() {
            *table = proc_net::open_own(number)?;
        }
        Ok(Tables(tables))
    }
}

/// Opens sockets in the namespace of the calling process until the other end of `line` is closed. `own` are the
/// container's addresses.
pub fn serve(line: BorrowedFd<'_>, own: &[IpAddr], tables: &Tables, _: Confined) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    loop {
        let (len, _) = match receive_descriptor(line, &mut request) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            received => received?,
        };
        if len == 0 {
            return Ok(());
        }
        let opened = match Request::from_bytes(&request[..len]) {
            Some(request) if request.is_allowed(own) => open(request, tables),
            Some(_) | None => Err(libc::EINVAL),
        };
        let answer = opened.as_ref().err().copied().unwrap_or(0).to_ne_bytes();
        match send_descriptor(line, opened.as_ref().ok().map(Opened::as_fd), &answer) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent?,
        }
    }
}

/// What answers a request: a socket that is closed once it is handed out, or a table that stays.
enum Opened<'a> {
    Socket(OwnedFd),
    Table(&'a OwnedFd),
}

impl Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Opened::Socket(socket) => socket.as_fd(),
            Opened::Table(table) => table.as_fd(),
        }
    }
}

fn open(request: Request, tables: &Tables) -> Result<Opened<'_>, i32> {
    let socket = match request {
        Request::Connect(target) => {
            StreamSocket::connect(target, None).map(|(socket, _)| socket.fd).map_err(errno_of)
        }
        Request::Listen(address) => {
            StreamListener::bind(address).map(|socket| socket.fd).map_err(|error| error.errno())
        }
        Request::Exchange(target) => {
            DatagramSocket::open(target, None, 0).map(DatagramSocket::into_fd).map_err(errno_of)
        }
        Request::Table(number) => {
            let table = tables.0.get(usize::from(number)).and_then(Option::as_ref);
            return table.map(Opened::Table).ok_or(libc::ENOENT);
        }
        Request::Receive(address) => {
            DatagramSocket::bind(address).map(DatagramSocket::into_fd).map_err(|error| error.errno())
        }
    };
    socket.map(Opened::Socket)
}

/// An errno that [`SocketError::from_errno`] sorts back to the same.
fn errno_of(error: SocketError) -> i32 {
    match error {
        SocketError::Refused => libc::ECONNREFUSED,
        SocketError::Reset => libc::ECONNRESET,
        SocketError::NetworkUnreachable => libc::ENETUNREACH,
        SocketError::HostUnreachable | SocketError::HopLimitExceeded => libc::EHOSTUNREACH,
        SocketError::ProtocolUnreachable => libc::EPROTO,
        SocketError::Prohibited => libc::EPERM,
        SocketError::TimedOut => libc::ETIMEDOUT,
        SocketError::MessageTooLong { .. } => libc::EMSGSIZE,
        SocketError::Exhausted => libc::EMFILE,
        SocketError::Other(errno) => errno,
    }
}

impl Request {
    fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let (letter, address) = match self {
            Request::Connect(address) => (b'c', address),
            Request::Listen(address) => (b'l', address),
            Request::Exchange(address) => (b'e', address),
            Request::Receive(address) => (b'r', address),
            Request::Table(number) => (b't', SocketAddr::new(Ipv4Addr::LOCALHOST.into(), number)),
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = letter;
        match address.ip() {
            IpAddr::V4(ip) => {
                bytes[1] = 4;
                bytes[2..6].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes[1] = 6;
                bytes[2..18].copy_from_slice(&ip.octets());
            }
        }
        bytes[18..].copy_from_slice(&address.port().to_be_bytes());
        bytes
    }

    /// Whether it stays in the container.
    fn is_allowed(self, own: &[IpAddr]) -> bool {
        match self {
            Request::Table(_) => true,
            Request::Listen(address) | Request::Receive(address) => address.ip().is_loopback(),
            Request::Connect(target) | Request::Exchange(target) => {
                target.ip().is_loopback() || own.contains(&target.ip())
            }
        }
    }

    /// None for anything that is no request.
    fn from_bytes(bytes: &[u8]) -> Option<Request> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        let ip: IpAddr = match bytes[1] {
            4 => <[u8; 4]>::try_from(&bytes[2..6]).ok()?.into(),
            6 => <[u8; 16]>::try_from(&bytes[2..18]).ok()?.into(),
            _ => return None,
        };
        let address = SocketAddr::new(ip, u16::from_be_bytes([bytes[18], bytes[19]]));
        match bytes[0] {
            b'c' => Some(Request::Connect(address)),
            b'l' => Some(Request::Listen(address)),
            b'e' => Some(Request::Exchange(address)),
            b'r' => Some(Request::Receive(address)),
            b't' => Some(Request::Table(address.port())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::confined::{Sandboxed, Waiver};
    use crate::sys::socket::tests::in_private_network;
    use std::io::{Read, Write};

    /// With a thread in the child's place.
    fn with_server(body: impl FnOnce(&InnerSockets)) {
        let (sockets, inside) = InnerSockets::pair().unwrap();
        let tables = Tables::open().unwrap();
        let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
        let server = confined.spawn(move |confined| serve(inside.as_fd(), &[], &tables, confined)).unwrap();
        body(&sockets);
        drop(sockets);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn sockets_of_every_kind_come_over_the_line() {
        in_private_network("sys::socket::inner::tests::sockets_of_every_kind_come_over_the_line", || {
            with_server(|sockets| {
                for any in ["127.0.0.1:0", "[::1]:0"] {
                    let listener = sockets.listen(any.parse().unwrap()).unwrap();
                    let address = listener.local_address().unwrap();
                    assert!(matches!(sockets.listen(address), Err(ListenError::InUse { .. })));
                    let mut client = std::net::TcpStream::from(sockets.connect(address).unwrap().fd);
                    client.write_all(b"in").unwrap();
                    let crate::sys::socket::Accepted::Connection(server, ..) = listener.accept() else {
                        panic!("nobody came")
                    };
                    let mut buffer = [0; 2];
                    std::net::TcpStream::from(server.fd).read_exact(&mut buffer).unwrap();
                    assert_eq!(&buffer, b"in");
                    let bound = sockets.receive(any.parse().unwrap()).unwrap();
                    let address = bound.local_address().unwrap();
                    assert!(matches!(sockets.receive(address), Err(ListenError::InUse { .. })));
                    let asking = std::net::UdpSocket::from(sockets.exchange(address).unwrap().into_fd());
                    asking.send(b"ping").unwrap();
                    let bound = std::net::UdpSocket::from(bound.into_fd());
                    assert_eq!(bound.recv_from(&mut [0; 8]).unwrap(), (4, asking.local_addr().unwrap()));
                }
            });
        });
    }

    #[test]
    fn only_loopback_is_served() {
        with_server(|sockets| {
            let error = sockets.connect("203.0.113.1:80".parse().unwrap()).unwrap_err();
            assert_eq!(error, SocketError::Other(libc::EINVAL));
            let error = sockets.listen("0.0.0.0:0".parse().unwrap()).unwrap_err();
            assert!(matches!(error, ListenError::Other { .. }), "{error}");
        });
    }

    #[test]
    fn nobody_inside_is_an_error() {
        let (sockets, inside) = InnerSockets::pair().unwrap();
        drop(inside);
        assert!(sockets.connect("127.0.0.1:80".parse().unwrap()).is_err());
    }
}
