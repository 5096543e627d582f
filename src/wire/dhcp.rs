//! DHCP messages on an Ethernet link (RFC 2131 §2, options of RFC 2132).
//!
//! What we read: messages of clients, with those of their options that a server acts upon. What we write: the
//! answers of a server. Options may continue in the fields `file` and `sname` (RFC 2131 §4.1). Of an option that
//! comes more than once the first counts: those read here are too short to be split (RFC 3396). BOOTP messages
//! without a message type are refused, and so is what is not Ethernet.

use std::net::Ipv4Addr;

use super::{MacAddr, array, be16, be32};

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;

/// Bytes of the longest client identifier that is understood: with it the longest reply is still one that every
/// client must accept, 576 bytes of packet (RFC 2131 §2). RFC 4361 makes identifiers of up to 135 bytes.
pub const MAX_CLIENT_IDENTIFIER: usize = 250;

const OP_REQUEST: u8 = 1;
const OP_REPLY: u8 = 2;
const HARDWARE_ETHERNET: u8 = 1;
const FLAG_BROADCAST: u16 = 0x8000;
/// RFC 2131 §3: what tells options from BOOTP's vendor area.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME_AT: usize = 44;
const FILE_AT: usize = 108;
const COOKIE_AT: usize = 236;
const OPTIONS_AT: usize = 240;
/// RFC 1542 §2.1: some clients discard what is shorter.
const MIN_REPLY_LEN: usize = 300;

const OPTION_PAD: u8 = 0;
const OPTION_SUBNET_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_MTU: u8 = 26;
const OPTION_BROADCAST: u8 = 28;
const OPTION_REQUESTED_ADDRESS: u8 = 50;
const OPTION_LEASE_TIME: u8 = 51;
const OPTION_OVERLOAD: u8 = 52;
const OPTION_MESSAGE_TYPE: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_RENEWAL_TIME: u8 = 58;
const OPTION_REBINDING_TIME: u8 = 59;
const OPTION_CLIENT_IDENTIFIER: u8 = 61;
const OPTION_END: u8 = 255;

/// What a client wants (RFC 2131 §3.1, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Servers, speak up.
    Discover,
    /// This address, please: chosen from an offer, kept from before, or for longer.
    Request,
    /// Somebody else has this address.
    Decline,
    /// This address is no longer needed.
    Release,
    /// Everything but an address.
    Inform,
}

/// A client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it wants.
    pub kind: RequestKind,
    /// `xid`.
    pub transaction: u32,
    /// It cannot receive unicast yet.
    pub broadcast: bool,
    /// `ciaddr`: the address it has and answers for; unspecified when it has none.
    pub client_address: Ipv4Addr,
    /// `giaddr`: the relay that passed it on; unspecified when there was none.
    pub relay: Ipv4Addr,
    /// `chaddr`: names one interface.
    pub mac: MacAddr,
    /// How it names itself, unless by `mac`; 1 to [`MAX_CLIENT_IDENTIFIER`] bytes.
    pub client_identifier: Option<&'a [u8]>,
    /// The address it would like.
    pub requested_address: Option<Ipv4Addr>,
    /// The server it speaks to.
    pub server: Option<Ipv4Addr>,
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// You may have this.
    Offer,
    /// It is yours.
    Ack,
    /// It is not.
    Nak,
}

/// A server's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What it says.
    pub kind: ReplyKind,
    /// `xid` of the request.
    pub transaction: u32,
    /// The flag of the request.
    pub broadcast: bool,
    /// `ciaddr`: of an acknowledged request.
    pub client_address: Ipv4Addr,
    /// `yiaddr`: the address leased.
    pub your_address: Ipv4Addr,
    /// `chaddr` of the request.
    pub mac: MacAddr,
    /// The identifier of the request, which it must repeat (RFC 6842); at most [`MAX_CLIENT_IDENTIFIER`] bytes.
    pub client_identifier: Option<&'a [u8]>,
    /// Who speaks.
    pub server: Ipv4Addr,
    /// How long the address may be used.
    pub lease_seconds: Option<u32>,
    /// What the client is to know of its network.
    pub network: Option<Network>,
}

/// What a client is to know of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Of its subnet.
    pub mask: Ipv4Addr,
    /// Of its subnet.
    pub broadcast: Ipv4Addr,
    /// Its default route.
    pub router: Ipv4Addr,
    /// Its resolver.
    pub dns: Option<Ipv4Addr>,
    /// Of its link.
    pub mtu: u16,
}

/// Why bytes are no message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DhcpError {
    /// Shorter than the fixed fields.
    #[error("shorter than a DHCP message")]
    Truncated,
    /// A reply, or nothing known.
    #[error("not a request")]
    NotARequest,
    /// Not Ethernet, or a link address that names no interface.
    #[error("not an Ethernet client")]
    Hardware,
    /// BOOTP, or something else.
    #[error("no DHCP options")]
    Cookie,
    /// An option of impossible length, or beyond the end.
    #[error("bad option {0}")]
    Option(u8),
    /// No message type, or one that no client sends.
    #[error("no message type of a client")]
    MessageType,
}

/// Parses a client's message.
///
/// # Errors
/// What is wrong with it.
pub fn parse(message: &[u8]) -> Result<Request<'_>, DhcpError> {
    if message.len() < OPTIONS_AT {
        return Err(DhcpError::Truncated);
    }
    if message[0] != OP_REQUEST {
        return Err(DhcpError::NotARequest);
    }
    let mac = MacAddr(array(message, 28));
    if message[1] != HARDWARE_ETHERNET || message[2] != 6 || !mac.is_unicast() {
        return Err(DhcpError::Hardware);
    }
    if message[COOKIE_AT..OPTIONS_AT] != COOKIE {
        return Err(DhcpError::Cookie);
    }
    let mut options = Options::default();
    options.read(&message[OPTIONS_AT..])?;
    // RFC 2131 §4.1: first `file`, then `sname`.
    let overload = options.overload.unwrap_or(0);
    if overload & 1 != 0 {
        options.read(&message[FILE_AT..COOKIE_AT])?;
    }
    if overload & 2 != 0 {
        options.read(&message[SNAME_AT..FILE_AT])?;
    }
    Ok(Request {
        kind: options.kind.ok_or(DhcpError::MessageType)?,
        transaction: be32(message, 4),
        broadcast: be16(message, 10) & FLAG_BROADCAST != 0,
        client_address: Ipv4Addr::from(array(message, 12)),
        relay: Ipv4Addr::from(array(message, 24)),
        mac,
        client_identifier: options.client_identifier,
        requested_address: options.requested_address,
        server: options.server,
    })
}

/// The options that count, as far as they have been read.
#[derive(Default)]
struct Options<'a> {
    kind: Option<RequestKind>,
    overload: Option<u8>,
    client_identifier: Option<&'a [u8]>,
    requested_address: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Options<'a> {
    /// Reads one area; each of its bytes is looked at once. A missing end is forgiven, half an option is not.
    fn read(&mut self, mut area: &'a [u8]) -> Result<(), DhcpError> {
        while let [code, rest @ ..] = area {
            area = match *code {
                OPTION_END => return Ok(()),
                OPTION_PAD => rest,
                code => {
                    let (&len, rest) = rest.split_first().ok_or(DhcpError::Option(code))?;
                    let (value, rest) =
                        rest.split_at_checked(usize::from(len)).ok_or(DhcpError::Option(code))?;
                    self.take(code, value)?;
                    rest
                }
            };
        }
        Ok(())
    }

    fn take(&mut self, code: u8, value: &'a [u8]) -> Result<(), DhcpError> {
        match code {
            OPTION_MESSAGE_TYPE => {
                let kind = request_kind(byte(code, value)?).ok_or(DhcpError::MessageType)?;
                self.kind.get_or_insert(kind);
            }
            OPTION_OVERLOAD => {
                self.overload.get_or_insert(byte(code, value)?);
            }
            OPTION_REQUESTED_ADDRESS => {
                self.requested_address.get_or_insert(address(code, value)?);
            }
            OPTION_SERVER => {
                self.server.get_or_insert(address(code, value)?);
            }
            OPTION_CLIENT_IDENTIFIER if (1..=MAX_CLIENT_IDENTIFIER).contains(&value.len()) => {
                self.client_identifier.get_or_insert(value);
            }
            OPTION_CLIENT_IDENTIFIER => return Err(DhcpError::Option(code)),
            _ => {}
        }
        Ok(())
    }
}

fn byte(code: u8, value: &[u8]) -> Result<u8, DhcpError> {
    match value {
        [byte] => Ok(*byte),
        _ => Err(DhcpError::Option(code)),
    }
}

fn address(code: u8, value: &[u8]) -> Result<Ipv4Addr, DhcpError> {
    let octets: [u8; 4] = value.try_into().map_err(|_| DhcpError::Option(code))?;
    Ok(octets.into())
}

fn request_kind(number: u8) -> Option<RequestKind> {
    match number {
        1 => Some(RequestKind::Discover),
        3 => Some(RequestKind::Request),
        4 => Some(RequestKind::Decline),
        7 => Some(RequestKind::Release),
        8 => Some(RequestKind::Inform),
        _ => None,
    }
}

impl Reply<'_> {
    /// Bytes of the longest one: what is left of 576 behind the headers of IP and UDP.
    pub const MAX_LEN: usize = 548;

    /// Writes the message into `out`, which holds [`Self::MAX_LEN`] bytes, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out[..Self::MAX_LEN].fill(0);
        out[0..3].copy_from_slice(&[OP_REPLY, HARDWARE_ETHERNET, 6]);
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        let flags = if self.broadcast { FLAG_BROADCAST } else { 0 };
        out[10..12].copy_from_slice(&flags.to_be_bytes());
        out[12..16].copy_from_slice(&self.client_address.octets());
        out[16..20].copy_from_slice(&self.your_address.octets());
        out[28..34].copy_from_slice(&self.mac.0);
        out[COOKIE_AT..OPTIONS_AT].copy_from_slice(&COOKIE);
        let mut at = OPTIONS_AT;
        let mut put = |code: u8, value: &[u8]| {
            // No value is longer than a byte can say; see `MAX_CLIENT_IDENTIFIER`.
            out[at..at + 2].copy_from_slice(&[code, value.len() as u8]);
            out[at + 2..at + 2 + value.len()].copy_from_slice(value);
            at += 2 + value.len();
        };
        let kind = match self.kind {
            ReplyKind::Offer => 2,
            ReplyKind::Ack => 5,
            ReplyKind::Nak => 6,
        };
        put(OPTION_MESSAGE_TYPE, &[kind]);
        put(OPTION_SERVER, &self.server.octets());
        if let Some(seconds) = self.lease_seconds {
            put(OPTION_LEASE_TIME, &seconds.to_be_bytes());
            // RFC 2131 §4.4.5: half of it, and seven eighths.
            put(OPTION_RENEWAL_TIME, &(seconds / 2).to_be_bytes());
            put(OPTION_REBINDING_TIME, &(seconds - seconds / 8).to_be_bytes());
        }
        if let Some(network) = &self.network {
            // RFC 2132 §3.3: the mask before the router.
            put(OPTION_SUBNET_MASK, &network.mask.octets());
            put(OPTION_ROUTER, &network.router.octets());
            if let Some(dns) = network.dns {
                put(OPTION_DNS, &dns.octets());
            }
            put(OPTION_MTU, &network.mtu.to_be_bytes());
            put(OPTION_BROADCAST, &network.broadcast.octets());
        }
        if let Some(identifier) = self.client_identifier {
            put(OPTION_CLIENT_IDENTIFIER, &identifier[..identifier.len().min(MAX_CLIENT_IDENTIFIER)]);
        }
        out[at] = OPTION_END;
        (at + 1).max(MIN_REPLY_LEN)
    }
}

#[cfg(test)]
mod tests;
