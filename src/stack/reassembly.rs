//! IP packets put together from their fragments, within bounds (RFC 791, RFC 8200 §4.5, RFC 5722, RFC 8900).
//!
//! Pieces are kept as they came, sorted by place; their lengths add up to the whole exactly when nothing is
//! missing, since overlaps are not tolerated: one overlap and the whole packet is lost, with everything that
//! still comes of it until its time is up (RFC 5722 §4). The one exception is RFC 8200's: an exact duplicate is
//! dropped alone. Datagrams, fragments of each and bytes in all are limited; the oldest datagram gives way.
//!
//! Marks of congestion on any piece are those of the whole (RFC 3168 §5.3), and must not contradict each other.

use std::net::IpAddr;

use super::boundary::Instant;
use super::drop_reason::DropReason;
use crate::config::limits::ReassemblyLimits;
use crate::wire::icmp::{self, Problem};
use crate::wire::ip::{self, Chain, FRAGMENT_HEADER_LEN, Fragment, Packet};

/// What an IP packet can be at most.
const MAX_PACKET_BYTES: usize = 65_535;
/// Counted for each piece beside its bytes.
const PIECE_OVERHEAD_BYTES: usize = size_of::<Piece>() + 16;

/// The ECN field of a traffic class, and its value where a queue has marked the packet (RFC 3168 §5).
const ECN_MASK: u8 = 0b11;
const ECN_MARKED: u8 = 0b11;

/// Waits for fragments.
#[derive(Debug)]
pub struct Reassembler {
    limits: ReassemblyLimits,
    /// In order of their deadlines, since all have the same time.
    datagrams: Vec<Datagram>,
    bytes: usize,
    evicted: u64,
}

/// What the fragments of one datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// RFC 791 counts it in; in IPv6 only the first fragment's is of account (RFC 8200 §4.5).
    ipv4_protocol: Option<u8>,
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    deadline: Instant,
    fragments: usize,
    /// Headers of the first fragment, IPv6 fragment header included; empty before it came.
    headers: Vec<u8>,
    /// Sorted by place, without overlaps.
    pieces: Vec<Piece>,
    /// Length of the fragmentable part, once the last fragment has come.
    total: Option<usize>,
    received: usize,
    /// The values of the ECN field that its pieces have had, a bit for each.
    ecn_seen: u8,
    /// Set when nothing can become of it: whatever still comes is dropped for this reason.
    spoilt: Option<DropReason>,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

impl Reassembler {
    /// Waits for nothing yet.
    #[must_use]
    pub fn new(limits: ReassemblyLimits) -> Reassembler {
        Reassembler { limits, datagrams: Vec::new(), bytes: 0, evicted: 0 }
    }

    /// Adds a fragment, which `packet.fragment` says it is. Returns the whole packet if this was what it
    /// lacked, from its IP header on and without any trace of fragmentation.
    ///
    /// # Errors
    /// `FragmentInvalid`, `FragmentOverlap`, `FragmentDuplicate`, `FragmentLimit`.
    pub fn add(&mut self, packet: &Packet<'_>, now: Instant) -> Result<Option<Vec<u8>>, DropReason> {
        let Some(fragment) = packet.fragment else { return Err(DropReason::FragmentInvalid) };
        check_geometry(packet, &fragment)?;
        let key = Key::of(packet, &fragment);
        let index = match self.datagrams.iter().position(|datagram| datagram.key == key) {
            // `handle_timeout` may be late; what is over is over.
            Some(index) if self.datagrams[index].deadline <= now => {
                self.remove(index);
                self.begin(key, now)
            }
            Some(index) => index,
            None => self.begin(key, now),
        };
        let datagram = &mut self.datagrams[index];
        let before = datagram.bytes();
        let outcome = datagram.add(packet, &fragment, &self.limits);
        self.bytes = self.bytes - before + self.datagrams[index].bytes();
        outcome?;
        if self.datagrams[index].is_complete() {
            return self.remove(index).assemble().map(Some);
        }
        self.make_room(key)?;
        Ok(None)
    }

    /// When the oldest datagram's time is up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.datagrams.first().map(|datagram| datagram.deadline)
    }

    /// Gives up what has waited too long. `expired` is called for each datagram, with the packet that its first
    /// fragment was, to be quoted in a "reassembly time exceeded", or with nothing if that never came or if the
    /// datagram is to be forgotten silently.
    pub fn handle_timeout(&mut self, now: Instant, mut expired: impl FnMut(Option<&[u8]>)) {
        while self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let datagram = self.remove(0);
            expired(datagram.first_fragment().as_deref());
        }
    }

    /// Datagrams given up to make room for others since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Bytes of all that waits, bookkeeping included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.datagrams.len() >= self.limits.datagrams {
            self.remove(0);
            self.evicted += 1;
        }
        // A clock that steps back must not break the order.
        let deadline = now + self.limits.timeout.into();
        let deadline = self.datagrams.last().map_or(deadline, |last| last.deadline.max(deadline));
        self.datagrams.push(Datagram::new(key, deadline));
        self.datagrams.len() - 1
    }

    /// Lets the oldest datagrams go until the rest fits, and at last the newcomer itself.
    fn make_room(&mut self, newcomer: Key) -> Result<(), DropReason> {
        while self.bytes > self.limits.total_bytes {
            let is_newcomer = self.datagrams.len() == 1 || self.datagrams[0].key == newcomer;
            self.remove(0);
            if is_newcomer {
                return Err(DropReason::FragmentLimit);
            }
            self.evicted += 1;
        }
        Ok(())
    }

    fn remove(&mut self, index: usize) -> Datagram {
        let datagram = self.datagrams.remove(index);
        self.bytes -= datagram.bytes();
        datagram
    }
}

/// What can be told of a fragment alone.
fn check_geometry(packet: &Packet<'_>, fragment: &Fragment) -> Result<(), DropReason> {
    let len = packet.payload.len();
    // RFC 8200 §4.5: all but the last are multiples of eight; and no packet outgrows its length field.
    let is_ragged = fragment.more && !len.is_multiple_of(8);
    let whole = whole_len(packet.bytes.len() - len, packet.source.is_ipv6(), fragment.offset + len);
    let is_cut_short = packet.source.is_ipv6() && fragment.offset == 0 && !has_whole_chain(packet);
    if len == 0 || is_ragged || whole > MAX_PACKET_BYTES || is_cut_short {
        Err(DropReason::FragmentInvalid)
    } else {
        Ok(())
    }
}

/// What the sender of an invalid fragment is to be told: IPv6 names the field (RFC 8200 §4.5), IPv4 has no word for it.
#[must_use]
pub fn complaint_about(packet: &Packet<'_>) -> Option<Problem> {
    const PAYLOAD_LENGTH_AT: u32 = 4;
    const ERRONEOUS_FIELD: u8 = 0;
    const INCOMPLETE_CHAIN: u8 = 3;
    let fragment = packet.fragment.filter(|_| packet.source.is_ipv6())?;
    let len = packet.payload.len();
    let (code, rest) = if len == 0 {
        return None;
    } else if fragment.more && !len.is_multiple_of(8) {
        (ERRONEOUS_FIELD, PAYLOAD_LENGTH_AT)
    } else if fragment.offset == 0 {
        (INCOMPLETE_CHAIN, 0)
    } else {
        let offset_at = packet.bytes.len() - len - FRAGMENT_HEADER_LEN + 2;
        (ERRONEOUS_FIELD, u32::try_from(offset_at).unwrap_or(0))
    };
    Some(Problem::Other { kind: icmp::V6_PARAMETER_PROBLEM, code, rest })
}

/// RFC 8200 §4.5, RFC 7112: all headers up to the transport's stand in the first fragment, so that nobody on the way
/// misses them.
fn has_whole_chain(packet: &Packet<'_>) -> bool {
    let headers_len = packet.bytes.len() - packet.payload.len();
    // As if it were the whole packet.
    let mut whole = packet.bytes.to_vec();
    let Ok(chain) = Chain::walk(&whole) else { return false };
    whole[chain.fragment_named_at] = packet.protocol;
    whole.drain(headers_len - FRAGMENT_HEADER_LEN..headers_len);
    let Ok(chain) = Chain::walk(&whole) else { return false };
    let transport_len = whole.len().saturating_sub(chain.payload_at);
    transport_len
        >= match whole[chain.next_header_at] {
            ip::protocol::TCP => 20,
            ip::protocol::UDP | ip::protocol::ICMPV6 => 8,
            _ => 0,
        }
}

/// What the length field of the whole packet would say.
fn whole_len(headers_len: usize, is_ipv6: bool, fragmentable_len: usize) -> usize {
    if is_ipv6 {
        headers_len - ip::header_len(true) - FRAGMENT_HEADER_LEN + fragmentable_len
    } else {
        headers_len + fragmentable_len
    }
}

impl Key {
    fn of(packet: &Packet<'_>, fragment: &Fragment) -> Key {
        Key {
            source: packet.source,
            destination: packet.destination,
            identification: fragment.identification,
            ipv4_protocol: packet.source.is_ipv4().then_some(packet.protocol),
        }
    }
}

impl Datagram {
    fn new(key: Key, deadline: Instant) -> Datagram {
        Datagram {
            key,
            deadline,
            fragments: 0,
            headers: Vec::new(),
            pieces: Vec::new(),
            total: None,
            received: 0,
            ecn_seen: 0,
            spoilt: None,
        }
    }

    fn bytes(&self) -> usize {
        self.headers.len() + self.received + self.pieces.len() * PIECE_OVERHEAD_BYTES
    }

    fn is_complete(&self) -> bool {
        self.spoilt.is_none() && self.total == Some(self.received) && !self.headers.is_empty()
    }

    fn add(
        &mut self,
        packet: &Packet<'_>,
        fragment: &Fragment,
        limits: &ReassemblyLimits,
    ) -> Result<(), DropReason> {
        if let Some(reason) = self.spoilt {
            return Err(reason);
        }
        self.fragments += 1;
        if self.fragments > limits.fragments_per_datagram {
            return Err(self.spoil(DropReason::FragmentLimit));
        }
        let at = self.pieces.partition_point(|piece| piece.offset < fragment.offset);
        let end = fragment.offset + packet.payload.len();
        if self.is_duplicate(at, packet.payload, fragment) {
            return Err(DropReason::FragmentDuplicate);
        }
        if self.contradicts(at, fragment, end) {
            return Err(self.spoil(DropReason::FragmentOverlap));
        }
        if fragment.offset == 0 {
            self.headers = packet.bytes[..packet.bytes.len() - packet.payload.len()].to_vec();
        }
        if !fragment.more {
            self.total = Some(end);
        }
        self.ecn_seen |= 1 << (packet.traffic_class & ECN_MASK);
        self.received += packet.payload.len();
        self.pieces.insert(at, Piece { offset: fragment.offset, bytes: packet.payload.to_vec() });
        Ok(())
    }

    /// RFC 8200 §4.5: fragments may be duplicated by the network, and then differ in nothing.
    fn is_duplicate(&self, at: usize, payload: &[u8], fragment: &Fragment) -> bool {
        self.pieces.get(at).is_some_and(|piece| {
            let is_last = self.total == Some(piece.end());
            piece.offset == fragment.offset && piece.bytes == payload && is_last != fragment.more
        })
    }

    /// Whether a fragment that would be piece number `at` overlaps a neighbor or an end.
    fn contradicts(&self, at: usize, fragment: &Fragment, end: usize) -> bool {
        let overlaps_earlier = at > 0 && self.pieces[at - 1].end() > fragment.offset;
        let overlaps_later = self.pieces.get(at).is_some_and(|piece| piece.offset < end);
        let misses_end = match self.total {
            Some(total) => end > total || !fragment.more,
            None => !fragment.more && self.pieces.last().is_some_and(|piece| piece.end() > end),
        };
        overlaps_earlier || overlaps_later || misses_end
    }

    fn spoil(&mut self, reason: DropReason) -> DropReason {
        self.spoilt = Some(reason);
        self.headers = Vec::new();
        self.pieces = Vec::new();
        self.received = 0;
        reason
    }

    /// The first fragment as it came; `None` also for a spoilt datagram (RFC 5722 §4: no error is sent).
    fn first_fragment(&self) -> Option<Vec<u8>> {
        let first = self.pieces.first().filter(|piece| piece.offset == 0)?;
        Some([&self.headers[..], &first.bytes[..]].concat())
    }

    /// Joins a complete datagram.
    fn assemble(self) -> Result<Vec<u8>, DropReason> {
        let is_ipv6 = self.key.source.is_ipv6();
        // The first fragment's headers may be longer than those each piece was measured with.
        let whole_len = whole_len(self.headers.len(), is_ipv6, self.received);
        let is_marked = self.ecn_seen & 1 << ECN_MARKED != 0;
        if is_marked && self.ecn_seen & 1 != 0 {
            // Who does not know of marks cannot have been marked.
            return Err(DropReason::FragmentInvalid);
        }
        let length = u16::try_from(whole_len).map_err(|_| DropReason::FragmentInvalid)?.to_be_bytes();
        let mut packet = Vec::with_capacity(self.headers.len() + self.received);
        packet.extend_from_slice(&self.headers);
        if is_marked {
            // The field stands in the second byte of either header, four bits to the left in IPv6.
            packet[1] |= if is_ipv6 { ECN_MARKED << 4 } else { ECN_MARKED };
        }
        if is_ipv6 {
            // The header before names the fragment header, which in turn names what follows.
            let chain = Chain::walk(&packet)?;
            packet[chain.fragment_named_at] = packet[chain.next_header_at];
            packet.truncate(chain.next_header_at);
            packet[4..6].copy_from_slice(&length);
        } else {
            packet[2..4].copy_from_slice(&length);
            packet[6..8].fill(0);
            ip::fill_ipv4_checksum(&mut packet);
        }
        for piece in &self.pieces {
            packet.extend_from_slice(&piece.bytes);
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests;
