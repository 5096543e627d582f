//! DHCP messages on an Ethernet link (RFC 2131 §2, options of RFC 2132, RFC 3397, RFC 3442 and RFC 4702).
//!
//! What we read: messages of clients, with those of their options that a server acts upon. What we write: the
//! answers of a server, with as much of what it has to tell as the client can take. Options may continue in the fields `file` and `sname` (RFC 2131 §4.1). Of an option that
//! comes more than once the first counts: those read here are too short to be split (RFC 3396). BOOTP messages
//! without a message type are refused, and so is what is not Ethernet.

use std::net::Ipv4Addr;

use super::{DomainName, MacAddr, array, be16, be32, domain};

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;

/// Bytes of the longest client identifier that is understood: with it, the routes and one resolver still fit a reply
/// that every client must accept, 576 bytes of packet (RFC 2131 §2). RFC 4361 makes identifiers of up to 135 bytes.
pub const MAX_CLIENT_IDENTIFIER: usize = 234;
/// Bytes of the headers of IP and UDP before a message.
pub const PACKET_OVERHEAD: usize = 28;

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
const OPTION_HOST_NAME: u8 = 12;
const OPTION_MTU: u8 = 26;
const OPTION_BROADCAST: u8 = 28;
const OPTION_REQUESTED_ADDRESS: u8 = 50;
const OPTION_LEASE_TIME: u8 = 51;
const OPTION_OVERLOAD: u8 = 52;
const OPTION_MESSAGE_TYPE: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_PARAMETERS: u8 = 55;
const OPTION_MAX_MESSAGE: u8 = 57;
const OPTION_RENEWAL_TIME: u8 = 58;
const OPTION_REBINDING_TIME: u8 = 59;
const OPTION_CLIENT_IDENTIFIER: u8 = 61;
const OPTION_FQDN: u8 = 81;
const OPTION_SEARCH: u8 = 119;
const OPTION_CLASSLESS_ROUTES: u8 = 121;
const OPTION_END: u8 = 255;
/// Bytes of the longest value of an option.
const MAX_VALUE_LEN: usize = 255;
/// RFC 4702 §2.1: the server is to make the A record; the answer does otherwise; the name is labels, not text; the
/// server makes no records.
const FQDN_SERVER_UPDATES: u8 = 0x01;
const FQDN_OVERRIDDEN: u8 = 0x02;
const FQDN_LABELS: u8 = 0x04;
const FQDN_NO_UPDATES: u8 = 0x08;
/// RFC 4702 §2.2: what a server writes into both of the obsolete codes.
const FQDN_CODES: [u8; 2] = [255, 255];

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
    /// Bytes of the largest packet it takes, where it says so.
    pub max_packet: Option<u16>,
    /// How it would like to be told its name in full, where it asks for that.
    pub fqdn: Option<FqdnQuery>,
}

/// What a client says about its name in full: the flags of RFC 4702 §2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FqdnQuery {
    flags: u8,
}

impl FqdnQuery {
    /// Of a client that asks without an option of its own.
    pub const BARE: FqdnQuery = FqdnQuery { flags: FQDN_LABELS };
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
    pub network: Option<&'a Network>,
    /// How it is to be told its name in full, if it is.
    pub fqdn: Option<FqdnQuery>,
}

/// What a client is to know of its network, and of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Of its subnet.
    pub mask: Ipv4Addr,
    /// Of its subnet.
    pub broadcast: Ipv4Addr,
    /// Its default route.
    pub router: Ipv4Addr,
    /// Whether the router is outside the subnet, so that a route must lead to it first (RFC 3442).
    pub router_is_elsewhere: bool,
    /// Of its link.
    pub mtu: u16,
    /// Its resolvers, the best first.
    pub resolvers: Vec<Ipv4Addr>,
    /// Domains to search, in their order.
    pub search: Vec<DomainName>,
    /// Its host name; at most 255 bytes.
    pub hostname: Option<String>,
    /// Its name in full.
    pub fqdn: Option<DomainName>,
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
        max_packet: options.max_packet,
        fqdn: options.fqdn.or(options.asks_fqdn.then_some(FqdnQuery::BARE)),
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
    max_packet: Option<u16>,
    fqdn: Option<FqdnQuery>,
    asks_fqdn: bool,
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
            OPTION_MAX_MESSAGE if value.len() == 2 => {
                self.max_packet.get_or_insert(be16(value, 0));
            }
            OPTION_MAX_MESSAGE => return Err(DhcpError::Option(code)),
            OPTION_PARAMETERS => self.asks_fqdn |= value.contains(&OPTION_FQDN),
            OPTION_FQDN => {
                if let [flags, _, _, ..] = *value {
                    self.fqdn.get_or_insert(FqdnQuery { flags });
                }
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
    /// Bytes that every client takes: what is left of 576 behind the headers of IP and UDP.
    pub const MIN_ROOM: usize = 576 - PACKET_OVERHEAD;

    /// Writes the message into `out`, which holds at least [`Self::MIN_ROOM`] bytes and no more than the client
    /// takes, and returns its length. Resolvers, names and domains are told as far as there is room.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out.fill(0);
        out[0..3].copy_from_slice(&[OP_REPLY, HARDWARE_ETHERNET, 6]);
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        let flags = if self.broadcast { FLAG_BROADCAST } else { 0 };
        out[10..12].copy_from_slice(&flags.to_be_bytes());
        out[12..16].copy_from_slice(&self.client_address.octets());
        out[16..20].copy_from_slice(&self.your_address.octets());
        out[28..34].copy_from_slice(&self.mac.0);
        out[COOKIE_AT..OPTIONS_AT].copy_from_slice(&COOKIE);
        let mut options = Writer { out, at: OPTIONS_AT };
        let kind = match self.kind {
            ReplyKind::Offer => 2,
            ReplyKind::Ack => 5,
            ReplyKind::Nak => 6,
        };
        options.put(OPTION_MESSAGE_TYPE, &[kind]);
        options.put(OPTION_SERVER, &self.server.octets());
        if let Some(seconds) = self.lease_seconds {
            options.put(OPTION_LEASE_TIME, &seconds.to_be_bytes());
            // RFC 2131 §4.4.5: half of it, and seven eighths.
            options.put(OPTION_RENEWAL_TIME, &(seconds / 2).to_be_bytes());
            options.put(OPTION_REBINDING_TIME, &(seconds - seconds / 8).to_be_bytes());
        }
        if let Some(identifier) = self.client_identifier {
            let len = identifier.len().min(MAX_CLIENT_IDENTIFIER);
            options.put(OPTION_CLIENT_IDENTIFIER, &identifier[..len]);
        }
        if let Some(network) = self.network {
            options.put_network(network, self.fqdn);
        }
        options.finish()
    }
}

/// The options of a reply, one behind the other.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// Bytes that are left for options, their headers included.
    fn left(&self) -> usize {
        self.out.len() - self.at - 1
    }

    /// Appends an option, unless there is no room for it or it is longer than a byte can say.
    fn put(&mut self, code: u8, value: &[u8]) {
        if value.len() > MAX_VALUE_LEN || 2 + value.len() > self.left() {
            return;
        }
        self.out[self.at..self.at + 2].copy_from_slice(&[code, value.len() as u8]);
        self.out[self.at + 2..self.at + 2 + value.len()].copy_from_slice(value);
        self.at += 2 + value.len();
    }

    /// What a client cannot do without first, domains last.
    fn put_network(&mut self, network: &Network, fqdn: Option<FqdnQuery>) {
        // RFC 2132 §3.3: the mask before the router.
        self.put(OPTION_SUBNET_MASK, &network.mask.octets());
        let router = network.router.octets();
        self.put(OPTION_ROUTER, &router);
        if network.router_is_elsewhere {
            // RFC 3442: the router itself by the link, and all else by it.
            let routes = [&[32][..], &router, &Ipv4Addr::UNSPECIFIED.octets(), &[0], &router].concat();
            self.put(OPTION_CLASSLESS_ROUTES, &routes);
        }
        self.put(OPTION_MTU, &network.mtu.to_be_bytes());
        self.put(OPTION_BROADCAST, &network.broadcast.octets());
        let room = self.left().saturating_sub(2).min(MAX_VALUE_LEN) / 4;
        let resolvers: Vec<u8> = network.resolvers.iter().take(room).flat_map(Ipv4Addr::octets).collect();
        if !resolvers.is_empty() {
            self.put(OPTION_DNS, &resolvers);
        }
        if let Some(hostname) = &network.hostname {
            self.put(OPTION_HOST_NAME, hostname.as_bytes());
        }
        if let (Some(query), Some(name)) = (fqdn, &network.fqdn) {
            let is_overridden = query.flags & FQDN_SERVER_UPDATES != 0;
            let flags =
                FQDN_NO_UPDATES | query.flags & FQDN_LABELS | if is_overridden { FQDN_OVERRIDDEN } else { 0 };
            let name = match query.flags & FQDN_LABELS {
                0 => name.text().into_bytes(),
                _ => name.labels().to_vec(),
            };
            self.put(OPTION_FQDN, &[&[flags][..], &FQDN_CODES, &name].concat());
        }
        // RFC 3397 §2: what is longer than an option is cut anywhere, and put together again (RFC 3396).
        let (whole, rest) = (self.left() / (2 + MAX_VALUE_LEN), self.left() % (2 + MAX_VALUE_LEN));
        let room = whole * MAX_VALUE_LEN + rest.saturating_sub(2);
        for part in domain::list(&network.search, room).chunks(MAX_VALUE_LEN) {
            self.put(OPTION_SEARCH, part);
        }
    }

    /// Ends the options and returns the length of the whole message.
    fn finish(self) -> usize {
        self.out[self.at] = OPTION_END;
        (self.at + 1).max(MIN_REPLY_LEN)
    }
}

#[cfg(test)]
mod tests;
