//! Datagram and ping sockets of the host, and the peers that answer them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use super::*;
use netferry::stack::boundary::NetworkErrorReport;

/// What a UDP address does with a datagram.
#[derive(Debug, Clone)]
pub enum DatagramPeer {
    /// Sends it back.
    Echoes {
        after: Duration,
    },
    /// Sends it back from another address.
    EchoesFrom {
        source: SocketAddr,
    },
    /// Answers as a resolver would: the query with the response bit, and one byte more.
    Resolves {
        after: Duration,
        mark: u8,
    },
    /// Answers that the name asked for has this address, for so many seconds.
    Names {
        address: Ipv4Addr,
        ttl: u32,
    },
    /// Answers with this, whatever it is sent.
    Says(Vec<u8>),
    /// Answers with so many equal datagrams at once.
    Bursts {
        count: usize,
        bytes: usize,
    },
    Silent,
    /// An ICMP error comes back.
    Reports {
        error: HostError,
    },
    /// The host takes them, and finds later that it cannot send them; for want of room where there is no error.
    Loses {
        error: Option<HostError>,
    },
    /// The host does not send what may not be fragmented and is longer than this.
    TooLong {
        mtu: u32,
    },
    /// The socket cannot even be opened.
    OpenFails {
        error: HostError,
    },
}

/// What a pinged address does.
#[derive(Debug, Clone, Copy)]
pub enum EchoPeer {
    Answers { after: Duration },
    Silent,
    Reports { error: HostError, offender: IpAddr },
}

/// A datagram the core sent, one of a run already cut.
#[derive(Debug, Clone)]
pub struct SentDatagram {
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    pub how: DatagramSend,
}

/// Datagrams that wait for the core.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<(SocketAddr, Option<IpAddr>, Vec<u8>)>,
    blocked: bool,
}

/// A flow's datagram or ping socket.
#[derive(Debug)]
pub struct DatagramSocket {
    pub flow: FlowId,
    /// Connected to this peer; unspecified when to nobody.
    pub target: SocketAddr,
    /// Its own port, or its identifier.
    pub local_port: u16,
    pub sent: Vec<SentDatagram>,
    pub open: bool,
    is_echo: bool,
    pub(super) inbox: Inbox,
}

impl SimHost {
    pub(super) fn open_datagram(
        &mut self,
        flow: FlowId,
        target: SocketAddr,
        preferred: u16,
        beside: Option<FlowId>,
    ) {
        self.open(flow, Socket::Datagram(self.datagrams.len()));
        if let Some(DatagramPeer::OpenFails { error }) = self.datagram_peers.get(&target) {
            return self.fail(flow, *error, None);
        }
        self.add_datagram_socket(flow, target, preferred, false);
        let sibling = beside.and_then(|beside| self.sockets.get(&beside).copied());
        if let Some(Socket::Datagram(place)) = sibling {
            let port = self.datagrams[place].local_port;
            self.datagrams.last_mut().unwrap().local_port = port;
        }
    }

    pub(super) fn open_echo(&mut self, flow: FlowId, target: IpAddr, identifier: u16) {
        self.open(flow, Socket::Datagram(self.datagrams.len()));
        if self.echo_forbidden {
            return self.fail(flow, HostError::Prohibited, None);
        }
        self.add_datagram_socket(flow, SocketAddr::new(target, 0), identifier, true);
    }

    fn add_datagram_socket(&mut self, flow: FlowId, target: SocketAddr, preferred: u16, is_echo: bool) {
        let taken = |port: u16| self.datagrams.iter().any(|socket| socket.open && socket.local_port == port);
        let local_port = match preferred {
            0 => 40_000 + self.datagrams.len() as u16,
            port if taken(port) => 40_000 + self.datagrams.len() as u16,
            port => port,
        };
        let inbox = Inbox::default();
        let socket =
            DatagramSocket { flow, target, local_port, sent: Vec::new(), open: true, is_echo, inbox };
        self.datagrams.push(socket);
        self.outbox.push_back(HostEvent::Connected { flow });
    }

    /// A datagram from anywhere reaches the socket of `flow`; a connected one hears only its peer.
    pub fn send_to_flow(&mut self, flow: FlowId, source: SocketAddr, bytes: &[u8]) {
        let (port, bytes) = (DatagramPort::Flow(flow), bytes.to_vec());
        self.happenings.push(self.now, Happening::Arrives { port, source, local: None, bytes });
    }

    /// A datagram from a client reaches a published port at the host's address `local`.
    pub fn send_to_listener(
        &mut self,
        listener: ListenerId,
        source: SocketAddr,
        local: IpAddr,
        bytes: &[u8],
    ) {
        let (port, bytes) = (DatagramPort::Listener(listener), bytes.to_vec());
        self.happenings.push(self.now, Happening::Arrives { port, source, local: Some(local), bytes });
    }

    pub(super) fn arrives(
        &mut self,
        port: DatagramPort,
        source: SocketAddr,
        local: Option<IpAddr>,
        bytes: Vec<u8>,
    ) {
        let (inbox, event) = match port {
            DatagramPort::Listener(listener) => {
                (self.listener_inboxes.entry(listener).or_default(), HostEvent::ListenerReadable { listener })
            }
            DatagramPort::Flow(flow) => {
                let Some(&Socket::Datagram(place)) = self.sockets.get(&flow) else { return };
                let socket = &mut self.datagrams[place];
                let hears = socket.is_echo || socket.target.ip().is_unspecified() || socket.target == source;
                if !hears {
                    return;
                }
                (&mut socket.inbox, HostEvent::Readable { flow })
            }
        };
        inbox.waiting.push_back((source, local, bytes));
        // Nobody reads a datagram socket before its first edge.
        if inbox.blocked || inbox.waiting.len() == 1 {
            inbox.blocked = false;
            self.outbox.push_back(event);
        }
    }

    fn inbox(&mut self, port: DatagramPort) -> Option<&mut Inbox> {
        match port {
            DatagramPort::Listener(listener) => Some(self.listener_inboxes.entry(listener).or_default()),
            DatagramPort::Flow(flow) => {
                self.check_alive("receive_datagrams", flow);
                match self.sockets.get(&flow) {
                    Some(&Socket::Datagram(place)) => Some(&mut self.datagrams[place].inbox),
                    Some(Socket::Connecting(_) | Socket::Stream(_)) | None => None,
                }
            }
        }
    }

    pub(super) fn read_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        let joins = self.moods.joins;
        let Some(inbox) = self.inbox(port) else { return DatagramRead::Blocked };
        let Some((source, local, bytes)) = inbox.waiting.pop_front() else {
            inbox.blocked = true;
            return DatagramRead::Blocked;
        };
        if bytes.len() > buffer.len() {
            let room = buffer.len();
            self.violations.push(format!("{} bytes cut off to {room} on {port:?}", bytes.len()));
            return DatagramRead::Blocked;
        }
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let (size, mut len, mut count) = (bytes.len(), bytes.len(), 1);
        while joins && size > 0 && count < 64 {
            let Some((next, _, more)) = inbox.waiting.front() else { break };
            let fits =
                *next == source && more.len() <= size && !more.is_empty() && len + more.len() <= buffer.len();
            if !fits || len + more.len() > 65_000 {
                break;
            }
            buffer[len..len + more.len()].copy_from_slice(more);
            let last = more.len() < size;
            len += more.len();
            count += 1;
            inbox.waiting.pop_front();
            if last {
                break;
            }
        }
        let segment_bytes = if count > 1 { NonZeroU16::new(size as u16) } else { None };
        DatagramRead::Arrived(ArrivedDatagrams {
            len,
            segment_bytes,
            source,
            local,
            traffic_class: 0,
            hop_limit: 57,
        })
    }

    pub(super) fn write_datagrams(
        &mut self,
        port: DatagramPort,
        bytes: &[u8],
        how: &DatagramSend,
    ) -> DatagramWrite {
        if self.prng.chance(self.moods.storms) {
            return DatagramWrite::Blocked;
        }
        let size = how.segment_bytes.map_or(bytes.len(), |size| usize::from(size.get()));
        let parts: Vec<Vec<u8>> = if bytes.is_empty() {
            vec![Vec::new()]
        } else {
            bytes.chunks(size).map(<[u8]>::to_vec).collect()
        };
        match port {
            DatagramPort::Listener(listener) => {
                let Some(to) = how.to else {
                    self.violations.push(format!("{listener:?} sends to nobody"));
                    return DatagramWrite::Failed(HostError::Other);
                };
                for bytes in parts {
                    self.listener_sent.push((listener, SentDatagram { to, bytes, how: *how }));
                }
            }
            DatagramPort::Flow(flow) => {
                self.check_alive("send_datagrams", flow);
                let Some(&Socket::Datagram(place)) = self.sockets.get(&flow) else {
                    return DatagramWrite::Blocked;
                };
                let socket = &self.datagrams[place];
                let connected = !socket.target.ip().is_unspecified();
                let to = if connected { Some(socket.target) } else { how.to };
                let Some(to) = to else {
                    self.violations.push(format!("{flow:?} sends to nobody"));
                    return DatagramWrite::Failed(HostError::Other);
                };
                if let Some(&DatagramPeer::TooLong { mtu }) = self.datagram_peers.get(&to)
                    && how.dont_fragment
                    && size + 28 > mtu as usize
                {
                    return DatagramWrite::Failed(HostError::MessageTooLong { mtu });
                }
                for bytes in parts {
                    let sent = SentDatagram { to, bytes, how: *how };
                    self.answer(place, &sent);
                    self.datagrams[place].sent.push(sent);
                }
            }
        }
        DatagramWrite::Sent
    }

    fn answer(&mut self, place: usize, sent: &SentDatagram) {
        let (flow, identifier) = (self.datagrams[place].flow, self.datagrams[place].local_port);
        if self.datagrams[place].is_echo {
            return self.answer_echo(flow, identifier, sent);
        }
        let port = DatagramPort::Flow(flow);
        let mut reply = |after: Duration, source: SocketAddr, bytes: Vec<u8>| {
            self.happenings.push(self.now + after, Happening::Arrives { port, source, local: None, bytes });
        };
        match self.datagram_peers.get(&sent.to).cloned() {
            None
            | Some(DatagramPeer::Silent | DatagramPeer::TooLong { .. } | DatagramPeer::OpenFails { .. }) => {}
            Some(DatagramPeer::Echoes { after }) => reply(after, sent.to, sent.bytes.clone()),
            Some(DatagramPeer::EchoesFrom { source }) => reply(ms(0), source, sent.bytes.clone()),
            Some(DatagramPeer::Bursts { count, bytes }) => {
                (0..count).for_each(|index| reply(ms(0), sent.to, vec![index as u8; bytes]));
            }
            Some(DatagramPeer::Resolves { after, mark }) => {
                let mut bytes = sent.bytes.clone();
                if let Some(flags) = bytes.get_mut(2) {
                    *flags |= 0x80;
                }
                bytes.push(mark);
                reply(after, sent.to, bytes);
            }
            Some(DatagramPeer::Names { address, ttl }) => {
                let mut bytes = sent.bytes.clone();
                (bytes[2], bytes[7]) = (bytes[2] | 0x80, 1);
                bytes.extend(b"\xc0\x0c\0\x01\0\x01");
                bytes.extend(ttl.to_be_bytes());
                bytes.extend(b"\0\x04");
                bytes.extend(address.octets());
                reply(ms(1), sent.to, bytes);
            }
            Some(DatagramPeer::Says(bytes)) => reply(ms(1), sent.to, bytes),
            Some(DatagramPeer::Reports { error }) => self.report(flow, error, sent.to.ip(), sent),
            Some(DatagramPeer::Loses { error }) => {
                let report = error.map(|error| NetworkErrorReport {
                    error,
                    notice: None,
                    destination: Some(sent.to),
                    local: None,
                    payload: sent.bytes.clone(),
                });
                let refused = report.map(|report| (port, report));
                self.outbox.push_back(HostEvent::DatagramsLost { count: 1, refused });
            }
        }
    }

    fn answer_echo(&mut self, flow: FlowId, identifier: u16, sent: &SentDatagram) {
        let mut message = sent.bytes.clone();
        let request = if sent.to.is_ipv4() { 8 } else { 128 };
        if message.len() < 8 || message[0] != request {
            self.violations
                .push(format!("a ping socket sends {:02x?}", &sent.bytes[..sent.bytes.len().min(8)]));
            return;
        }
        match self.echo_peers.get(&sent.to.ip()).copied().unwrap_or(EchoPeer::Answers { after: ms(0) }) {
            EchoPeer::Silent => {}
            EchoPeer::Reports { error, offender } => self.report(flow, error, offender, sent),
            EchoPeer::Answers { after } => {
                // The kernel puts the socket's own identifier on the way, and hands over the reply with it.
                message[0] = if sent.to.is_ipv4() { 0 } else { 129 };
                message[4..6].copy_from_slice(&identifier.to_be_bytes());
                let source = SocketAddr::new(sent.to.ip(), identifier);
                let port = DatagramPort::Flow(flow);
                let arrival = Happening::Arrives { port, source, local: None, bytes: message };
                self.happenings.push(self.now + after, arrival);
            }
        }
    }

    fn report(&mut self, flow: FlowId, error: HostError, offender: IpAddr, sent: &SentDatagram) {
        let notice = Notice { offender: Some(offender), hop_limit: Some(61), ..notice_for(error, sent.to) };
        self.say(DatagramPort::Flow(flow), error, notice, sent);
    }

    /// An ICMP error about a datagram comes back to the socket that it left by.
    pub fn say(&mut self, port: DatagramPort, error: HostError, notice: Notice, about: &SentDatagram) {
        let report = NetworkErrorReport {
            error,
            notice: Some(notice),
            destination: Some(about.to),
            local: about.how.from,
            payload: about.bytes[..about.bytes.len().min(500)].to_vec(),
        };
        self.happenings.push(self.now, Happening::Edge(HostEvent::NetworkError { port, report }));
    }
}

/// The ICMP error that the kernel makes of, and sorts as, `error`.
pub fn notice_for(error: HostError, destination: SocketAddr) -> Notice {
    let (ipv4, ipv6, rest) = match error {
        HostError::Refused => ((3, 3), (1, 4), 0),
        HostError::NetworkUnreachable => ((3, 0), (1, 0), 0),
        HostError::HostUnreachable => ((3, 1), (1, 3), 0),
        HostError::Prohibited => ((3, 13), (1, 1), 0),
        HostError::ProtocolUnreachable => ((3, 2), (4, 1), if destination.is_ipv4() { 0 } else { 6 }),
        HostError::HopLimitExceeded => ((11, 0), (3, 0), 0),
        HostError::MessageTooLong { mtu } => ((3, 4), (2, 0), mtu),
        HostError::Reset | HostError::TimedOut | HostError::Exhausted | HostError::Other => {
            panic!("the network does not say {error:?}")
        }
    };
    let (kind, code) = if destination.is_ipv4() { ipv4 } else { ipv6 };
    Notice { offender: None, hop_limit: None, kind, code, rest }
}
