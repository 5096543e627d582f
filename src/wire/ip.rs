//! IPv4 and IPv6 headers (RFC 791, RFC 8200), read into one view and written from one description.
//!
//! A parsed packet is trimmed to the length it claims, its IPv4 header checksum is right and its IPv6 extension
//! headers have been walked, at most [`MAX_EXTENSION_HEADERS`] of them. IPv4 options are skipped; anything that
//! asks for a route is refused. The walk stops at the fragment header of a real fragment, whose payload is then
//! the piece as it stands; an "atomic" fragment is a whole packet (RFC 6946).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::checksum::{pseudo_header_sum, transport_checksum, transport_checksum_ok};
use super::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, FrameError};
use super::{MacAddr, array, be16, be32, checksum};

/// Protocol and next-header numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_HEADER_LEN: usize = 40;
/// Bytes of an IPv6 fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// How many IPv6 extension headers are walked.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const IPV4_HEADER_LEN: usize = 20;
const IPV4_DONT_FRAGMENT: u16 = 0x4000;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_OFFSET_MASK: u16 = 0x1fff;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// A packet of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sent it, as it says.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Protocol of `payload`.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4 DF; always set for IPv6, whose routers never fragment.
    pub dont_fragment: bool,
    /// Set when this is a piece of a larger packet.
    pub fragment: Option<Fragment>,
    /// The whole packet, from the IP header on, without what followed it in the frame.
    pub bytes: &'a [u8],
    /// What follows the IP header and the extension headers.
    pub payload: &'a [u8],
}

/// Place of a piece in the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Common to all pieces; 16 bits in IPv4.
    pub identification: u32,
    /// Bytes of the fragmentable part that come before; a multiple of eight.
    pub offset: usize,
    /// Whether pieces follow.
    pub more: bool,
}

/// What an IP header is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source; its family is the packet's.
    pub source: IpAddr,
    /// Destination, of the same family.
    pub destination: IpAddr,
    /// Protocol of the transport.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// IPv4 identification.
    pub identification: u16,
    /// IPv4 DF.
    pub dont_fragment: bool,
}

/// The two link addresses of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Who sends it.
    pub source: MacAddr,
    /// Whom it is for.
    pub destination: MacAddr,
}

impl Ethernet {
    /// Writes the Ethernet header at the front of `frame`.
    pub fn write(&self, frame: &mut [u8], ethertype: u16) {
        frame[0..6].copy_from_slice(&self.destination.0);
        frame[6..12].copy_from_slice(&self.source.0);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// Bytes of the IP header that [`write_headers`] writes.
#[must_use]
pub const fn header_len(is_ipv6: bool) -> usize {
    if is_ipv6 { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN }
}

/// Parses a packet of either version.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, FrameError> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_ipv4(bytes),
        Some(6) => parse_ipv6(bytes),
        Some(_) => Err(FrameError::Version),
        None => Err(FrameError::Truncated),
    }
}

#[inline]
fn parse_ipv4(bytes: &[u8]) -> Result<Packet<'_>, FrameError> {
    let fixed: &[u8; IPV4_HEADER_LEN] = bytes.first_chunk().ok_or(FrameError::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total_len = usize::from(be16(fixed, 2));
    if header_len < IPV4_HEADER_LEN {
        return Err(FrameError::HeaderLength);
    }
    if total_len < header_len || total_len > bytes.len() {
        return Err(FrameError::TotalLength);
    }
    let (header, payload) = bytes[..total_len].split_at(header_len);
    // The usual header has a constant length, of which the compiler makes five additions.
    let options = &header[IPV4_HEADER_LEN..];
    let sum = checksum::sum(fixed);
    if checksum::add(sum, if options.is_empty() { 0 } else { checksum::sum(options) }) != 0xffff {
        return Err(FrameError::HeaderChecksum);
    }
    check_options(options)?;
    let flags = be16(fixed, 6);
    let offset = usize::from(flags & IPV4_OFFSET_MASK) * 8;
    let more = flags & IPV4_MORE_FRAGMENTS != 0;
    let fragment =
        (more || offset != 0).then(|| Fragment { identification: u32::from(be16(fixed, 4)), offset, more });
    Ok(Packet {
        source: Ipv4Addr::from(array(fixed, 12)).into(),
        destination: Ipv4Addr::from(array(fixed, 16)).into(),
        protocol: fixed[9],
        hop_limit: fixed[8],
        traffic_class: fixed[1],
        dont_fragment: flags & IPV4_DONT_FRAGMENT != 0,
        fragment,
        bytes: &bytes[..total_len],
        payload,
    })
}

fn check_options(mut options: &[u8]) -> Result<(), FrameError> {
    while let [kind, rest @ ..] = options {
        options = match *kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => rest,
            OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => return Err(FrameError::SourceRoute),
            _ => match rest.first() {
                Some(&len) if len >= 2 => options.get(usize::from(len)..).ok_or(FrameError::HeaderLength)?,
                Some(_) | None => return Err(FrameError::HeaderLength),
            },
        };
    }
    Ok(())
}

#[inline]
fn parse_ipv6(bytes: &[u8]) -> Result<Packet<'_>, FrameError> {
    let fixed: &[u8; IPV6_HEADER_LEN] = bytes.first_chunk().ok_or(FrameError::Truncated)?;
    let total_len = IPV6_HEADER_LEN + usize::from(be16(fixed, 4));
    let bytes = bytes.get(..total_len).ok_or(FrameError::TotalLength)?;
    let chain = Chain::walk(bytes)?;
    Ok(Packet {
        source: Ipv6Addr::from(array::<16>(fixed, 8)).into(),
        destination: Ipv6Addr::from(array::<16>(fixed, 24)).into(),
        protocol: bytes[chain.next_header_at],
        hop_limit: fixed[7],
        traffic_class: fixed[0] << 4 | fixed[1] >> 4,
        dont_fragment: true,
        fragment: chain.fragment,
        bytes,
        payload: &bytes[chain.payload_at..],
    })
}

/// Where the extension headers of an IPv6 packet lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Offset of the field that names the protocol of the payload.
    pub next_header_at: usize,
    /// Offset of the payload.
    pub payload_at: usize,
    /// For a fragment: the field that names its fragment header.
    pub fragment_named_at: usize,
    /// Set when the walk ended at the fragment header of a real fragment.
    pub fragment: Option<Fragment>,
}

impl Chain {
    /// Walks the extension headers of `packet`, which holds at least the fixed IPv6 header.
    #[inline]
    pub fn walk(packet: &[u8]) -> Result<Chain, FrameError> {
        let mut chain =
            Chain { next_header_at: 6, payload_at: IPV6_HEADER_LEN, fragment_named_at: 6, fragment: None };
        let mut has_fragment_header = false;
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let kind = packet[chain.next_header_at];
            let len = match kind {
                protocol::HOP_BY_HOP if chain.payload_at != IPV6_HEADER_LEN => {
                    // RFC 8200 §4.1: only directly behind the fixed header.
                    return Err(FrameError::ExtensionChain);
                }
                protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                    let header: &[u8; 4] = chain.header(packet)?;
                    // RFC 5095 for type 0; of the others we are no waypoint either.
                    if kind == protocol::ROUTING && (header[2] == 0 || header[3] != 0) {
                        return Err(FrameError::SourceRoute);
                    }
                    8 + usize::from(header[1]) * 8
                }
                protocol::FRAGMENT if has_fragment_header => return Err(FrameError::ExtensionChain),
                protocol::FRAGMENT => {
                    let header: &[u8; FRAGMENT_HEADER_LEN] = chain.header(packet)?;
                    let field = be16(header, 2);
                    let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
                    has_fragment_header = true;
                    if more || offset != 0 {
                        return Ok(Chain {
                            next_header_at: chain.payload_at,
                            payload_at: chain.payload_at + FRAGMENT_HEADER_LEN,
                            fragment_named_at: chain.next_header_at,
                            fragment: Some(Fragment { identification: be32(header, 4), offset, more }),
                        });
                    }
                    FRAGMENT_HEADER_LEN
                }
                _ => return Ok(chain),
            };
            if packet.len() < chain.payload_at + len {
                return Err(FrameError::ExtensionChain);
            }
            chain.next_header_at = chain.payload_at;
            chain.payload_at += len;
        }
        Err(FrameError::ExtensionChain)
    }

    fn header<'a, const N: usize>(&self, packet: &'a [u8]) -> Result<&'a [u8; N], FrameError> {
        packet[self.payload_at..].first_chunk().ok_or(FrameError::ExtensionChain)
    }
}

/// Writes the Ethernet and IP headers for `payload_len` bytes of transport; returns where the transport begins.
///
/// Should the families of the two addresses differ, an IPv4 one is written as IPv4-mapped.
pub fn write_headers(frame: &mut [u8], ethernet: &Ethernet, header: &Header, payload_len: usize) -> usize {
    let is_ipv4 = header.source.is_ipv4() && header.destination.is_ipv4();
    ethernet.write(frame, if is_ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    write_header(&mut frame[ETHERNET_HEADER_LEN..], header, payload_len)
}

/// The same for the IP header alone, at the front of `packet`; returns what [`write_headers`] would.
pub fn write_header(packet: &mut [u8], header: &Header, payload_len: usize) -> usize {
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let flags = if header.dont_fragment { IPV4_DONT_FRAGMENT } else { 0 };
            write_ipv4(packet, source, destination, header, header.identification, flags, payload_len)
        }
        (source, destination) => {
            write_ipv6(packet, source, destination, header, header.protocol, payload_len)
        }
    }
}

/// The same for one piece of a larger packet: IPv4 says it in the header, IPv6 in a fragment header, behind
/// which the returned offset points.
pub fn write_fragment_headers(
    frame: &mut [u8],
    ethernet: &Ethernet,
    header: &Header,
    fragment: &Fragment,
    payload_len: usize,
) -> usize {
    debug_assert!(fragment.offset.is_multiple_of(8) && fragment.offset <= 0xfff8);
    let offset = (fragment.offset & 0xfff8) as u16;
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.write(frame, ETHERTYPE_IPV4);
            let flags = (offset >> 3) | if fragment.more { IPV4_MORE_FRAGMENTS } else { 0 };
            let identification = (fragment.identification & 0xffff) as u16;
            let ip = &mut frame[ETHERNET_HEADER_LEN..];
            write_ipv4(ip, source, destination, header, identification, flags, payload_len)
        }
        (source, destination) => {
            ethernet.write(frame, ETHERTYPE_IPV6);
            let ip = &mut frame[ETHERNET_HEADER_LEN..];
            let len = payload_len + FRAGMENT_HEADER_LEN;
            let at = write_ipv6(ip, source, destination, header, protocol::FRAGMENT, len);
            let extension = &mut frame[at..at + FRAGMENT_HEADER_LEN];
            extension[0..2].copy_from_slice(&[header.protocol, 0]);
            extension[2..4].copy_from_slice(&(offset | u16::from(fragment.more)).to_be_bytes());
            extension[4..8].copy_from_slice(&fragment.identification.to_be_bytes());
            at + FRAGMENT_HEADER_LEN
        }
    }
}

/// What an ICMP error quotes of a packet, of which anything may be cut off behind the first bytes of its transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote<'a> {
    /// Who sent the packet.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// Protocol of `transport`.
    pub protocol: u8,
    /// The beginning of its transport header, which may be nothing.
    pub transport: &'a [u8],
    /// A fragment that is not the first: `transport` is from somewhere within.
    pub is_later_fragment: bool,
}

impl Quote<'_> {
    /// Source and destination port; the caller has checked that there are so many bytes.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        (be16(self.transport, 0), be16(self.transport, 2))
    }

    /// Sequence number, if it is TCP; the caller has checked as well.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        be32(self.transport, 4)
    }
}

/// Source and destination port of a TCP segment or a UDP datagram, if there is so much of it.
#[must_use]
pub fn ports(transport: &[u8]) -> Option<(u16, u16)> {
    (transport.len() >= 4).then(|| (be16(transport, 0), be16(transport, 2)))
}

/// Reads what is quoted of a packet. None unless that holds its addresses and where its transport begins.
#[must_use]
pub fn parse_quote(bytes: &[u8]) -> Option<Quote<'_>> {
    let is_ipv6 = match bytes.first()? >> 4 {
        4 => false,
        6 => true,
        _ => return None,
    };
    if bytes.len() < header_len(is_ipv6) {
        return None;
    }
    let (protocol, transport_at, is_later_fragment) = if is_ipv6 {
        let chain = Chain::walk(bytes).ok()?;
        let is_later = chain.fragment.is_some_and(|fragment| fragment.offset != 0);
        (bytes[chain.next_header_at], chain.payload_at, is_later)
    } else {
        let is_later = be16(bytes, 6) & IPV4_OFFSET_MASK != 0;
        (bytes[9], usize::from(bytes[0] & 0x0f) * 4, is_later)
    };
    let transport = bytes.get(transport_at.max(header_len(is_ipv6))..)?;
    let (source, destination) = addresses(bytes, is_ipv6);
    Some(Quote { source, destination, protocol, transport, is_later_fragment })
}

/// Source and destination of a packet that is known to be of that version and long enough.
#[must_use]
fn addresses(packet: &[u8], is_ipv6: bool) -> (IpAddr, IpAddr) {
    if is_ipv6 {
        (Ipv6Addr::from(array::<16>(packet, 8)).into(), Ipv6Addr::from(array::<16>(packet, 24)).into())
    } else {
        (Ipv4Addr::from(array(packet, 12)).into(), Ipv4Addr::from(array(packet, 16)).into())
    }
}

/// Destination of the packet that begins with `packet`, of which the rest may be cut off.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    let is_ipv6 = packet.first()? >> 4 == 6;
    (packet.len() >= header_len(is_ipv6)).then(|| addresses(packet, is_ipv6).1)
}

/// IPv4 identification of the packet that begins with `packet`; zero for one of IPv6.
#[must_use]
pub fn identification(packet: &[u8]) -> u16 {
    if packet.len() >= IPV4_HEADER_LEN && packet[0] >> 4 == 4 { be16(packet, 4) } else { 0 }
}

/// Writes the TTL or hop limit of `packet`, which begins with a whole IP header.
pub fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    if packet[0] >> 4 == 6 {
        packet[7] = hop_limit;
    } else {
        packet[8] = hop_limit;
        fill_ipv4_checksum(packet);
    }
}

/// Recomputes the header checksum of the IPv4 packet `packet`.
pub fn fill_ipv4_checksum(packet: &mut [u8]) {
    let header_len = (usize::from(packet[0] & 0x0f) * 4).min(packet.len());
    packet[10..12].fill(0);
    let checksum = !checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn write_ipv4(
    ip: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    header: &Header,
    identification: u16,
    flags: u16,
    payload_len: usize,
) -> usize {
    let ip = &mut ip[..IPV4_HEADER_LEN];
    ip[0] = 0x45;
    ip[1] = header.traffic_class;
    ip[2..4].copy_from_slice(&length_field(IPV4_HEADER_LEN + payload_len));
    ip[4..6].copy_from_slice(&identification.to_be_bytes());
    ip[6..8].copy_from_slice(&flags.to_be_bytes());
    ip[8] = header.hop_limit;
    ip[9] = header.protocol;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    fill_ipv4_checksum(ip);
    ETHERNET_HEADER_LEN + IPV4_HEADER_LEN
}

fn write_ipv6(
    ip: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    header: &Header,
    next_header: u8,
    payload_len: usize,
) -> usize {
    let ip = &mut ip[..IPV6_HEADER_LEN];
    ip[0..4].copy_from_slice(&[0x60 | header.traffic_class >> 4, header.traffic_class << 4, 0, 0]);
    ip[4..6].copy_from_slice(&length_field(payload_len));
    ip[6] = next_header;
    ip[7] = header.hop_limit;
    ip[8..24].copy_from_slice(&ipv6_octets(source));
    ip[24..40].copy_from_slice(&ipv6_octets(destination));
    ETHERNET_HEADER_LEN + IPV6_HEADER_LEN
}

fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn length_field(len: usize) -> [u8; 2] {
    debug_assert!(len <= usize::from(u16::MAX), "an IP packet of {len} bytes");
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests;
