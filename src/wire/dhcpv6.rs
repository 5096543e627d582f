//! DHCPv6 messages, as far as a server without addresses needs them (RFC 8415 §8, §21; RFC 3646).
//!
//! What we read: any client's message, with the options that decide about an answer. What we write: a Reply
//! with identifiers and a resolver. Of an option that comes more than once the first counts. Messages of relays
//! are refused: the container is on our link.

use std::net::Ipv6Addr;

use super::{MacAddr, array, be16};

/// Where servers and relays listen.
pub const SERVER_PORT: u16 = 547;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 546;
/// `ff02::1:2`, All_DHCP_Relay_Agents_and_Servers.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Bytes of the longest DUID, its type included (RFC 8415 §11.1).
pub const MAX_DUID_LEN: usize = 130;
/// Bytes of a DUID made of an Ethernet address (RFC 8415 §11.4).
pub const DUID_LL_LEN: usize = 10;

const INFORMATION_REQUEST: u8 = 11;
const REPLY: u8 = 7;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;
const HEADER_LEN: usize = 4;
const OPTION_HEADER_LEN: usize = 4;
const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_IA_NA: u16 = 3;
const OPTION_IA_TA: u16 = 4;
const OPTION_REQUESTED: u16 = 6;
const OPTION_DNS_SERVERS: u16 = 23;
const OPTION_IA_PD: u16 = 25;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Everything but an address.
    InformationRequest,
    /// Anything else, by its number; mostly about addresses.
    Other(u8),
}

/// A client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it wants.
    pub kind: RequestKind,
    /// What the answer is known by.
    pub transaction: [u8; 3],
    /// Who asks, where it says so; 1 to [`MAX_DUID_LEN`] bytes.
    pub client_identifier: Option<&'a [u8]>,
    /// Who alone is to answer.
    pub server_identifier: Option<&'a [u8]>,
    /// It asks for addresses or prefixes.
    pub wants_addresses: bool,
    /// It says what it wants to know, and the resolver is not part of it.
    pub declines_dns: bool,
}

/// Why bytes are no message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Dhcpv6Error {
    /// Shorter than the header.
    #[error("shorter than a DHCPv6 message")]
    Truncated,
    /// A relay's.
    #[error("relayed")]
    Relayed,
    /// An option of impossible length, or beyond the end.
    #[error("bad option {0}")]
    Option(u16),
}

/// Parses a client's message.
///
/// # Errors
/// What is wrong with it.
pub fn parse(message: &[u8]) -> Result<Request<'_>, Dhcpv6Error> {
    let header: &[u8; HEADER_LEN] = message.first_chunk().ok_or(Dhcpv6Error::Truncated)?;
    let kind = match header[0] {
        INFORMATION_REQUEST => RequestKind::InformationRequest,
        RELAY_FORWARD | RELAY_REPLY => return Err(Dhcpv6Error::Relayed),
        other => RequestKind::Other(other),
    };
    let mut request = Request {
        kind,
        transaction: array(header, 1),
        client_identifier: None,
        server_identifier: None,
        wants_addresses: false,
        declines_dns: false,
    };
    let mut requested = None;
    let mut options = &message[HEADER_LEN..];
    while !options.is_empty() {
        let header: &[u8; OPTION_HEADER_LEN] = options.first_chunk().ok_or(Dhcpv6Error::Truncated)?;
        let code = be16(header, 0);
        let (value, rest) = options[OPTION_HEADER_LEN..]
            .split_at_checked(usize::from(be16(header, 2)))
            .ok_or(Dhcpv6Error::Option(code))?;
        match code {
            OPTION_CLIENT_ID | OPTION_SERVER_ID if !(1..=MAX_DUID_LEN).contains(&value.len()) => {
                return Err(Dhcpv6Error::Option(code));
            }
            OPTION_CLIENT_ID => {
                request.client_identifier.get_or_insert(value);
            }
            OPTION_SERVER_ID => {
                request.server_identifier.get_or_insert(value);
            }
            OPTION_IA_NA | OPTION_IA_TA | OPTION_IA_PD => request.wants_addresses = true,
            OPTION_REQUESTED if !value.len().is_multiple_of(2) => return Err(Dhcpv6Error::Option(code)),
            OPTION_REQUESTED => {
                requested.get_or_insert(value);
            }
            _ => {}
        }
        options = rest;
    }
    request.declines_dns = requested
        .is_some_and(|codes| codes.chunks_exact(2).all(|code| code != OPTION_DNS_SERVERS.to_be_bytes()));
    Ok(request)
}

/// The identifier of a server with this Ethernet address: DUID-LL.
#[must_use]
pub fn duid(mac: MacAddr) -> [u8; DUID_LL_LEN] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// A server's Reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Of the request.
    pub transaction: [u8; 3],
    /// Of the request; at most [`MAX_DUID_LEN`] bytes.
    pub client_identifier: Option<&'a [u8]>,
    /// Who speaks.
    pub server_identifier: [u8; DUID_LL_LEN],
    /// The resolver (RFC 3646 §3).
    pub dns: Option<Ipv6Addr>,
}

impl Reply<'_> {
    /// Bytes of the longest one.
    pub const MAX_LEN: usize = HEADER_LEN + 3 * OPTION_HEADER_LEN + MAX_DUID_LEN + DUID_LL_LEN + 16;

    /// Writes the message into `out`, which holds [`Self::MAX_LEN`] bytes, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out[0] = REPLY;
        out[1..HEADER_LEN].copy_from_slice(&self.transaction);
        let mut at = HEADER_LEN;
        let mut put = |code: u16, value: &[u8]| {
            out[at..at + 2].copy_from_slice(&code.to_be_bytes());
            // No value is longer than `MAX_DUID_LEN`.
            out[at + 2..at + 4].copy_from_slice(&(value.len() as u16).to_be_bytes());
            out[at + 4..at + 4 + value.len()].copy_from_slice(value);
            at += OPTION_HEADER_LEN + value.len();
        };
        if let Some(identifier) = self.client_identifier {
            put(OPTION_CLIENT_ID, &identifier[..identifier.len().min(MAX_DUID_LEN)]);
        }
        put(OPTION_SERVER_ID, &self.server_identifier);
        if let Some(dns) = self.dns {
            put(OPTION_DNS_SERVERS, &dns.octets());
        }
        at
    }
}

#[cfg(test)]
mod tests;
