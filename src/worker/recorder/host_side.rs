//! What the host's sockets carry, as packets: the other side of the translation, for a capture.
//!
//! A socket shows bytes and events, no packets. From them packets are put together that are true in what they tell:
//! addresses and ports are those of the socket, every byte stands at its place in the stream, SYN, FIN and RST come
//! when the socket began, ended or failed. What a socket does not show is made up, the same for all: sequence numbers
//! begin at zero, the hop limit is 64, and what one side has sent is acknowledged by the other with its next
//! packet, or by an empty one after 64 KiB. Times are those at which we read or wrote. Retransmissions of the host's kernel are not here.
//!
//! A stream whose beginning was not seen begins in the middle, without a handshake.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::stack::boundary::FlowId;
use crate::wire::ip::{self, Header, protocol};
use crate::wire::tcp::{BareSegment, Flags, MAX_HEADER_LEN, MIN_HEADER_LEN, Options};
use crate::wire::{checksum, tcp, udp};

use crate::observe::pcapng::Direction;

/// Largest payload of one packet that is put together: with its headers it fits the length field of IPv4.
pub const LARGEST_PAYLOAD: usize = 65_000;
/// Payload of a packet where they are to be as on a wire.
const WIRE_PAYLOAD: usize = 1_440;
/// What is not acknowledged by data is, after so much.
const ACKNOWLEDGED_AFTER: u32 = 64 << 10;
/// So that no reader takes a window for full.
const WINDOW_SHIFT: u8 = 14;

/// Which end of a host's connection did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Our socket.
    Ours,
    /// Its peer.
    Peer,
}

impl End {
    fn other(self) -> End {
        match self {
            End::Ours => End::Peer,
            End::Peer => End::Ours,
        }
    }

    fn direction(self) -> Direction {
        match self {
            End::Ours => Direction::Outbound,
            End::Peer => Direction::Inbound,
        }
    }
}

/// What happened to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A connection begins.
    Began {
        /// The socket's own address.
        local: SocketAddr,
        /// Its peer's.
        peer: SocketAddr,
        /// Who connects.
        by: End,
    },
    /// It is there, and its beginning was not seen.
    Met {
        /// The socket's own address.
        local: SocketAddr,
        /// Its peer's.
        peer: SocketAddr,
    },
    /// The other end agreed.
    Established,
    /// The other end did not.
    Refused,
    /// One end sent bytes.
    Sent(End),
    /// One end will send no more.
    Finished(End),
    /// One end gave the connection up.
    Reset(End),
    /// The socket is closed, in the ordinary way.
    Closed,
    /// Nobody looks at it any more.
    Unwatched,
    /// A datagram, or a run of them.
    Datagrams {
        /// The socket's own address.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// Who sent them.
        from: End,
        /// Bytes of each but the last, where there are several.
        segment_bytes: Option<NonZeroU16>,
        /// TTL or hop limit.
        hop_limit: u8,
    },
    /// An echo message, from its type on.
    Echo {
        /// The socket's own address; its port is the identifier.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
        /// Who sent it.
        from: End,
        /// TTL or hop limit.
        hop_limit: u8,
    },
}

/// One end of a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Sender {
    /// The number of its next byte.
    next: u32,
    /// What of it the other has acknowledged.
    acknowledged: u32,
    has_finished: bool,
}

#[derive(Debug)]
struct Stream {
    local: SocketAddr,
    peer: SocketAddr,
    by: End,
    /// Both have said SYN, or nobody saw it.
    is_open: bool,
    ours: Sender,
    theirs: Sender,
}

/// The streams of the host's side.
#[derive(Debug, Default)]
pub struct HostSide {
    streams: HashMap<FlowId, Stream>,
    scratch: Vec<u8>,
}

impl HostSide {
    /// Whether the stream of a flow is known.
    #[must_use]
    pub fn knows(&self, flow: FlowId) -> bool {
        self.streams.contains_key(&flow)
    }

    /// Streams that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Gives `each` the packets of what happened, from the IP header on, and how long each was. `bytes` is the payload of it, of
    /// which only a part may be there where it is a stream's: `len` is how long it was. Where there is none, because nobody has
    /// room for the packets, none is put together, but each is told. `as_on_wire` tells whether they are to be of a size that
    /// a wire carries.
    pub fn handle(
        &mut self,
        flow: FlowId,
        happening: &Happening,
        (bytes, len): (Option<&[u8]>, usize),
        as_on_wire: bool,
        mut each: impl FnMut(Direction, Option<&[u8]>, usize),
    ) {
        let whole = bytes.unwrap_or_default();
        match *happening {
            Happening::Began { local, peer, by } => {
                let stream = Stream {
                    local,
                    peer,
                    by,
                    is_open: false,
                    ours: Sender::default(),
                    theirs: Sender::default(),
                };
                let stream = self.streams.entry(flow).insert_entry(stream).into_mut();
                stream.say(&mut self.scratch, by, Flags::SYN, &[], &mut each);
            }
            Happening::Met { local, peer } => {
                let sender = Sender { next: 1, acknowledged: 1, has_finished: false };
                let stream =
                    Stream { local, peer, by: End::Ours, is_open: true, ours: sender, theirs: sender };
                self.streams.insert(flow, stream);
            }
            Happening::Established => {
                let Some(stream) = self.streams.get_mut(&flow) else { return };
                if !stream.is_open {
                    stream.is_open = true;
                    let by = stream.by;
                    stream.say(&mut self.scratch, by.other(), Flags::SYN, &[], &mut each);
                    stream.say(&mut self.scratch, by, Flags::default(), &[], &mut each);
                }
            }
            Happening::Refused => {
                if let Some(mut stream) = self.streams.remove(&flow) {
                    let by = stream.by;
                    stream.say(&mut self.scratch, by.other(), Flags::RST, &[], &mut each);
                }
            }
            Happening::Sent(end) => {
                let Some(stream) = self.streams.get_mut(&flow) else { return };
                let most = if as_on_wire { WIRE_PAYLOAD } else { LARGEST_PAYLOAD };
                for start in (0..len).step_by(most) {
                    let part_len = most.min(len - start);
                    let part = bytes
                        .map(|bytes| &bytes[start.min(bytes.len())..(start + part_len).min(bytes.len())]);
                    stream.say_part(&mut self.scratch, end, Flags::PSH, (part, part_len), &mut each);
                    let sender = stream.sender(end);
                    if sender.next.wrapping_sub(sender.acknowledged) >= ACKNOWLEDGED_AFTER {
                        let nothing = (bytes.map(|_| &[][..]), 0);
                        stream.say_part(&mut self.scratch, end.other(), Flags::default(), nothing, &mut each);
                    }
                }
            }
            Happening::Finished(end) => {
                let Some(stream) = self.streams.get_mut(&flow) else { return };
                stream.finish(&mut self.scratch, end, &mut each);
            }
            Happening::Reset(end) => {
                if let Some(mut stream) = self.streams.remove(&flow) {
                    stream.say(&mut self.scratch, end, Flags::RST, &[], &mut each);
                }
            }
            Happening::Closed => {
                if let Some(mut stream) = self.streams.remove(&flow)
                    && stream.is_open
                {
                    stream.finish(&mut self.scratch, End::Ours, &mut each);
                    if stream.theirs.has_finished {
                        stream.say(&mut self.scratch, End::Peer, Flags::default(), &[], &mut each);
                    }
                }
            }
            Happening::Unwatched => {
                self.streams.remove(&flow);
            }
            Happening::Datagrams { local, peer, from, segment_bytes, hop_limit } => {
                let size = segment_bytes.map_or(whole.len(), |size| size.get().into()).max(1);
                let (source, destination) = ends(local, peer, from);
                // Zero bytes are a datagram, too.
                for start in (0..whole.len().max(1)).step_by(size) {
                    let part = &whole[start..whole.len().min(start + size)];
                    let header_len = udp::HEADER_LEN;
                    let write = |transport: &mut [u8]| {
                        udp::write_header(transport, source.port(), destination.port(), part.len());
                        transport[header_len..].copy_from_slice(part);
                    };
                    let len = header_len + part.len();
                    let kind = (protocol::UDP, Some(udp::CHECKSUM_OFFSET));
                    if write_packet(
                        &mut self.scratch,
                        (source.ip(), destination.ip()),
                        hop_limit,
                        kind,
                        (len, len),
                        write,
                    ) {
                        each(from.direction(), Some(&self.scratch), self.scratch.len());
                    }
                }
            }
            Happening::Echo { local, peer, from, hop_limit } => {
                let (source, destination) = ends(local, peer, from);
                let is_ipv6 = source.is_ipv6();
                // What a ping socket sends gets its identifier from the kernel.
                let identifier = local.port();
                let write = |transport: &mut [u8]| {
                    transport.copy_from_slice(whole);
                    if transport.len() >= 8 {
                        transport[4..6].copy_from_slice(&identifier.to_be_bytes());
                        transport[2..4].fill(0);
                    }
                };
                let kind = (if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP }, Some(2));
                let between = (source.ip(), destination.ip());
                if whole.len() >= 8
                    && write_packet(
                        &mut self.scratch,
                        between,
                        hop_limit,
                        kind,
                        (whole.len(), whole.len()),
                        write,
                    )
                {
                    each(from.direction(), Some(&self.scratch), self.scratch.len());
                }
            }
        }
    }
}

impl Stream {
    fn sender(&mut self, end: End) -> &mut Sender {
        match end {
            End::Ours => &mut self.ours,
            End::Peer => &mut self.theirs,
        }
    }

    fn finish(
        &mut self,
        scratch: &mut Vec<u8>,
        end: End,
        each: &mut impl FnMut(Direction, Option<&[u8]>, usize),
    ) {
        if !std::mem::replace(&mut self.sender(end).has_finished, true) {
            self.say(scratch, end, Flags::FIN, &[], each);
            self.say(scratch, end.other(), Flags::default(), &[], each);
        }
    }

    /// One segment of `end`, which acknowledges all that the other has sent, unless it is the very first.
    fn say(
        &mut self,
        scratch: &mut Vec<u8>,
        end: End,
        flags: Flags,
        payload: &[u8],
        each: &mut impl FnMut(Direction, Option<&[u8]>, usize),
    ) {
        self.say_part(scratch, end, flags, (Some(payload), payload.len()), each);
    }

    /// The same, where of the payload only the beginning is there, or nothing is to be put together.
    fn say_part(
        &mut self,
        scratch: &mut Vec<u8>,
        end: End,
        flags: Flags,
        (payload, payload_len): (Option<&[u8]>, usize),
        each: &mut impl FnMut(Direction, Option<&[u8]>, usize),
    ) {
        let is_first = flags == Flags::SYN && end == self.by;
        let other = self.sender(end.other());
        other.acknowledged = other.next;
        let acknowledgement = (!is_first).then_some(other.next);
        let sender = self.sender(end);
        let sequence = sender.next;
        let occupies = u32::from(flags == Flags::SYN || flags == Flags::FIN);
        // Below 64 KiB.
        sender.next = sequence.wrapping_add(payload_len as u32).wrapping_add(occupies);
        let Some(payload) = payload else { return each(end.direction(), None, payload_len) };
        let (source, destination) = ends(self.local, self.peer, end);
        let segment = BareSegment {
            source_port: source.port(),
            destination_port: destination.port(),
            sequence,
            acknowledgement,
            flags,
            window: if flags == Flags::RST { 0 } else { u16::MAX },
        };
        let options = if flags == Flags::SYN {
            Options { max_segment_size: Some(1_460), window_shift: Some(WINDOW_SHIFT), ..Options::default() }
        } else {
            Options::default()
        };
        let mut head = [0; MAX_HEADER_LEN];
        let head_len = segment.write_with(&options, &mut head);
        debug_assert!(head_len >= MIN_HEADER_LEN);
        let write = |transport: &mut [u8]| {
            transport[..head_len].copy_from_slice(&head[..head_len]);
            transport[head_len..].copy_from_slice(payload);
        };
        let kind = (protocol::TCP, Some(tcp::CHECKSUM_OFFSET));
        let between = (source.ip(), destination.ip());
        let len = head_len + payload_len;
        if write_packet(scratch, between, 64, kind, (head_len + payload.len(), len), write) {
            each(end.direction(), Some(scratch), scratch.len() + payload_len - payload.len());
        }
    }
}

fn ends(local: SocketAddr, peer: SocketAddr, from: End) -> (SocketAddr, SocketAddr) {
    match from {
        End::Ours => (local, peer),
        End::Peer => (peer, local),
    }
}

/// Puts the first `there` bytes of a packet that has `len` behind its IP header into `out`; false if it would be too large for
/// one. Of one that is not all there, nobody can tell the checksum.
fn write_packet(
    out: &mut Vec<u8>,
    (source, destination): (IpAddr, IpAddr),
    hop_limit: u8,
    (number, checksum_at): (u8, Option<usize>),
    (there, len): (usize, usize),
    write: impl FnOnce(&mut [u8]),
) -> bool {
    let (source, destination) = (source.to_canonical(), destination.to_canonical());
    let is_ipv6 = source.is_ipv6() || destination.is_ipv6();
    let at = ip::header_len(is_ipv6);
    if at + len > usize::from(u16::MAX) || source.is_ipv6() != destination.is_ipv6() {
        return false;
    }
    let header = Header {
        source,
        destination,
        protocol: number,
        hop_limit,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    };
    out.clear();
    out.resize(at + there, 0);
    ip::write_header(out, &header, len);
    let transport = &mut out[at..];
    write(transport);
    if let Some(field) = checksum_at.filter(|_| there == len) {
        let sum = checksum::transport_checksum(source, destination, number, transport);
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests;
