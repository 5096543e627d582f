//! ICMP and ICMPv6: echo, and the errors we tell the container (RFC 792, RFC 4443, RFC 1812 §4.3, RFC 1191).

use std::net::IpAddr;

use super::ip::{self, Chain, Quote, protocol, transport_checksum};
use super::{be16, be32, checksum};

/// Bytes before an echo's data and before an error's quotation.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in a message.
pub const CHECKSUM_OFFSET: usize = 2;

const V4_ECHO_REPLY: u8 = 0;
const V4_DESTINATION_UNREACHABLE: u8 = 3;
const V4_SOURCE_QUENCH: u8 = 4;
const V4_REDIRECT: u8 = 5;
const V4_ECHO_REQUEST: u8 = 8;
const V4_TIME_EXCEEDED: u8 = 11;
const V4_PARAMETER_PROBLEM: u8 = 12;
const V6_DESTINATION_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 parameter problem.
pub const V6_PARAMETER_PROBLEM: u8 = 4;
const V6_FIRST_INFORMATIONAL: u8 = 128;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;

/// RFC 1812 §4.3.2.3: as much as fits in a datagram of 576 bytes.
const V4_QUOTE_MAX: usize = 576 - 20 - HEADER_LEN;
/// RFC 4443 §2.4 (c): as much as fits in the minimum IPv6 MTU.
const V6_QUOTE_MAX: usize = 1280 - 40 - HEADER_LEN;

/// An echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Tells one pinger from another.
    pub identifier: u16,
    /// Counts the requests.
    pub sequence: u16,
    /// The whole message, from its type on.
    pub message: &'a [u8],
}

/// What went wrong with a packet of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Problem {
    /// No route.
    NetworkUnreachable,
    /// A route, and nobody at its end.
    HostUnreachable,
    /// The transport protocol is not supported.
    ProtocolUnreachable,
    /// Nobody listens.
    PortUnreachable,
    /// Policy forbids it.
    Prohibited,
    /// The hop limit ran out.
    HopLimitExceeded,
    /// Not all fragments came in time.
    ReassemblyTimeExceeded,
    /// Larger than the path allows.
    PacketTooBig {
        /// Largest IP packet that would have passed.
        mtu: u32,
    },
    /// Anything else that somebody on the way has said, in his own words.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes before the quotation.
        rest: u32,
    },
}

impl Problem {
    /// What an error of this type and code says; `rest` are the four bytes before the quotation. None for what is no
    /// error, or none that concerns a packet's fate (source quench, redirect).
    #[must_use]
    pub fn from_message(is_ipv6: bool, kind: u8, code: u8, rest: u32) -> Option<Problem> {
        let mtu = if is_ipv6 { rest } else { rest & 0xffff };
        match (is_ipv6, kind, code) {
            (false, V4_DESTINATION_UNREACHABLE, 4) | (true, V6_PACKET_TOO_BIG, _) => {
                return Some(Problem::PacketTooBig { mtu });
            }
            (false, V4_DESTINATION_UNREACHABLE | V4_TIME_EXCEEDED | V4_PARAMETER_PROBLEM, _)
            | (true, V6_DESTINATION_UNREACHABLE | V6_TIME_EXCEEDED | V6_PARAMETER_PROBLEM, _) => {}
            (false | true, _, _) => return None,
        }
        let named = [
            Problem::NetworkUnreachable,
            Problem::HostUnreachable,
            Problem::PortUnreachable,
            Problem::Prohibited,
            Problem::HopLimitExceeded,
            Problem::ReassemblyTimeExceeded,
        ];
        let says = |problem: &Problem| {
            let (its_kind, its_code, _) = if is_ipv6 { v6_error(*problem, &[]) } else { v4_error(*problem) };
            (its_kind, its_code) == (kind, code)
        };
        Some(named.into_iter().find(says).unwrap_or(match (is_ipv6, kind, code) {
            (false, V4_DESTINATION_UNREACHABLE, 2) => Problem::ProtocolUnreachable,
            (false | true, _, _) => Problem::Other { kind, code, rest },
        }))
    }
}

/// An error, and what it quotes of the packet that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error<'a> {
    /// What went wrong.
    pub problem: Problem,
    /// The packet, as far as it is quoted.
    pub quote: Quote<'a>,
}

/// An error, if `message` is one, of a packet that can be told from others by what is quoted of it.
#[must_use]
pub fn parse_error(is_ipv6: bool, message: &[u8]) -> Option<Error<'_>> {
    let (header, quoted) = message.split_first_chunk::<HEADER_LEN>()?;
    let problem = Problem::from_message(is_ipv6, header[0], header[1], be32(header, 4))?;
    // RFC 792: at least eight bytes of the transport are quoted.
    let quote = ip::parse_quote(quoted).filter(|quote| quote.transport.len() >= 8)?;
    let can_be_told = quote.source.is_ipv6() == is_ipv6 && !quote.is_later_fragment;
    can_be_told.then_some(Error { problem, quote })
}

/// An echo request, if `message` is one.
#[must_use]
pub fn parse_echo_request(is_ipv6: bool, message: &[u8]) -> Option<Echo<'_>> {
    parse_echo(if is_ipv6 { V6_ECHO_REQUEST } else { V4_ECHO_REQUEST }, message)
}

/// An echo reply, if `message` is one.
#[must_use]
pub fn parse_echo_reply(is_ipv6: bool, message: &[u8]) -> Option<Echo<'_>> {
    parse_echo(if is_ipv6 { V6_ECHO_REPLY } else { V4_ECHO_REPLY }, message)
}

fn parse_echo(kind: u8, message: &[u8]) -> Option<Echo<'_>> {
    let header: &[u8; HEADER_LEN] = message.first_chunk()?;
    (header[0] == kind && header[1] == 0).then(|| Echo {
        identifier: be16(header, 4),
        sequence: be16(header, 6),
        message,
    })
}

/// Writes the reply that carries `identifier` and everything else of `message`, a request or a reply, into
/// `out`, which is at least as long.
pub fn write_echo_reply(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    identifier: u16,
    message: &[u8],
) {
    let out = &mut out[..message.len()];
    out.copy_from_slice(message);
    make_echo_reply(out, source, destination, identifier);
}

/// Turns `message`, a request or a reply of at least [`HEADER_LEN`] bytes, into the reply where it stands.
pub fn make_echo_reply(message: &mut [u8], source: IpAddr, destination: IpAddr, identifier: u16) {
    message[0] = if source.is_ipv6() { V6_ECHO_REPLY } else { V4_ECHO_REPLY };
    message[1] = 0;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    fill_checksum(message, source, destination);
}

/// Writes the identifier of an echo of at least [`HEADER_LEN`] bytes, of which the rest may be cut off: its checksum stays
/// as right as it was (RFC 1624).
pub fn replace_identifier(message: &mut [u8], identifier: u16) {
    let before = be16(message, CHECKSUM_OFFSET);
    let without = checksum::add(!before, !be16(message, 4));
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    let after = !checksum::add(without, identifier);
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&after.to_be_bytes());
}

/// Completes the checksum of a message.
pub fn fill_checksum(message: &mut [u8], source: IpAddr, destination: IpAddr) {
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
    let protocol = if source.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
    let checksum = transport_checksum(source, destination, protocol, message);
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether `message` is an error, about which no error may be sent. One too short to tell counts as an error.
#[must_use]
pub fn is_error(is_ipv6: bool, message: &[u8]) -> bool {
    match message.first() {
        None => true,
        Some(&kind) if is_ipv6 => kind < V6_FIRST_INFORMATIONAL,
        Some(&kind) => matches!(
            kind,
            V4_DESTINATION_UNREACHABLE
                | V4_SOURCE_QUENCH
                | V4_REDIRECT
                | V4_TIME_EXCEEDED
                | V4_PARAMETER_PROBLEM
        ),
    }
}

/// Bytes of the error message about the IP packet `offending`, headers of the error's own packet not included.
#[must_use]
pub fn error_len(is_ipv6: bool, offending: &[u8]) -> usize {
    HEADER_LEN + offending.len().min(if is_ipv6 { V6_QUOTE_MAX } else { V4_QUOTE_MAX })
}

/// Writes the error about the IP packet `offending`, from `source` to `destination`, into `out`, which holds
/// at least [`error_len`] bytes; returns its length.
pub fn write_error(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    problem: Problem,
    offending: &[u8],
) -> usize {
    let is_ipv6 = source.is_ipv6();
    let len = error_len(is_ipv6, offending);
    let out = &mut out[..len];
    let (kind, code, rest) = if is_ipv6 { v6_error(problem, offending) } else { v4_error(problem) };
    out[0..2].copy_from_slice(&[kind, code]);
    out[4..8].copy_from_slice(&rest.to_be_bytes());
    out[HEADER_LEN..].copy_from_slice(&offending[..len - HEADER_LEN]);
    fill_checksum(out, source, destination);
    len
}

fn v4_error(problem: Problem) -> (u8, u8, u32) {
    match problem {
        Problem::NetworkUnreachable => (V4_DESTINATION_UNREACHABLE, 0, 0),
        Problem::HostUnreachable => (V4_DESTINATION_UNREACHABLE, 1, 0),
        Problem::ProtocolUnreachable => (V4_DESTINATION_UNREACHABLE, 2, 0),
        Problem::PortUnreachable => (V4_DESTINATION_UNREACHABLE, 3, 0),
        Problem::Prohibited => (V4_DESTINATION_UNREACHABLE, 13, 0),
        Problem::HopLimitExceeded => (V4_TIME_EXCEEDED, 0, 0),
        Problem::ReassemblyTimeExceeded => (V4_TIME_EXCEEDED, 1, 0),
        // RFC 1191 §4: the next hop's MTU in the low 16 bits.
        Problem::PacketTooBig { mtu } => (V4_DESTINATION_UNREACHABLE, 4, mtu.min(0xffff)),
        Problem::Other { kind, code, rest } => (kind, code, rest),
    }
}

fn v6_error(problem: Problem, offending: &[u8]) -> (u8, u8, u32) {
    match problem {
        Problem::NetworkUnreachable => (V6_DESTINATION_UNREACHABLE, 0, 0),
        Problem::HostUnreachable => (V6_DESTINATION_UNREACHABLE, 3, 0),
        // RFC 4443 §3.4: unrecognized next header, and where it stands.
        Problem::ProtocolUnreachable => (V6_PARAMETER_PROBLEM, 1, next_header_at(offending)),
        Problem::PortUnreachable => (V6_DESTINATION_UNREACHABLE, 4, 0),
        Problem::Prohibited => (V6_DESTINATION_UNREACHABLE, 1, 0),
        Problem::HopLimitExceeded => (V6_TIME_EXCEEDED, 0, 0),
        Problem::ReassemblyTimeExceeded => (V6_TIME_EXCEEDED, 1, 0),
        Problem::PacketTooBig { mtu } => (V6_PACKET_TOO_BIG, 0, mtu),
        Problem::Other { kind, code, rest } => (kind, code, rest),
    }
}

fn next_header_at(offending: &[u8]) -> u32 {
    const IN_FIXED_HEADER: u32 = 6;
    if offending.len() < ip::header_len(true) {
        return IN_FIXED_HEADER;
    }
    Chain::walk(offending)
        .ok()
        .and_then(|chain| u32::try_from(chain.next_header_at).ok())
        .unwrap_or(IN_FIXED_HEADER)
}

#[cfg(test)]
mod tests;
