//! DHCPv6 messages, as far as a server of one link needs them (RFC 8415 §8, §21; RFC 3646; RFC 4704).
//!
//! What we read: any client's message, with the options that decide about an answer. What we write: Advertise and
//! Reply, with as much of what a server has to tell as fits a packet that every link carries. Of an option that
//! comes more than once the first counts, except associations. Messages of relays are refused: the container is on
//! our link.

use std::net::Ipv6Addr;

use super::{DomainName, MacAddr, array, be16, domain};

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

/// Associations of one message that are looked at, and addresses of each of them.
pub const MAX_ASSOCIATIONS: usize = 8;

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;
const HEADER_LEN: usize = 4;
const OPTION_HEADER_LEN: usize = 4;
const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_IA_NA: u16 = 3;
const OPTION_IA_TA: u16 = 4;
const OPTION_IA_ADDRESS: u16 = 5;
const OPTION_REQUESTED: u16 = 6;
const OPTION_STATUS: u16 = 13;
const OPTION_RAPID_COMMIT: u16 = 14;
const OPTION_DNS_SERVERS: u16 = 23;
const OPTION_SEARCH: u16 = 24;
const OPTION_IA_PD: u16 = 25;
const OPTION_FQDN: u16 = 39;
/// Bytes of an address and its two lifetimes (RFC 8415 §21.6).
const IA_ADDRESS_LEN: usize = 24;
/// RFC 4704 §4.1: the server is to make the AAAA record; the answer does otherwise; the server makes no records.
const FQDN_SERVER_UPDATES: u8 = 0x01;
const FQDN_OVERRIDDEN: u8 = 0x02;
const FQDN_NO_UPDATES: u8 = 0x04;

/// What a client wants (RFC 8415 §7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Servers, speak up.
    Solicit,
    /// These addresses, of this server.
    Request,
    /// Are these addresses still of this link?
    Confirm,
    /// For longer, from the same server.
    Renew,
    /// For longer, from any server.
    Rebind,
    /// These addresses are no longer needed.
    Release,
    /// Somebody else has these addresses.
    Decline,
    /// Everything but an address.
    InformationRequest,
    /// Anything else, by its number: nothing that a client sends.
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
    /// It takes a Reply to a Solicit.
    pub rapid_commit: bool,
    /// Flags of the option about its name in full.
    fqdn_flags: u8,
    requested: Option<&'a [u8]>,
    options: &'a [u8],
}

/// What an association is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssociationKind {
    /// Addresses to keep: IA_NA.
    Addresses,
    /// Addresses for a while: IA_TA.
    TemporaryAddresses,
    /// Prefixes to delegate: IA_PD.
    Prefixes,
}

/// One thing that a client wants addresses or prefixes for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// What it is about.
    pub kind: AssociationKind,
    /// What the client knows it by.
    pub id: [u8; 4],
    /// Addresses that it has, or would like; [`MAX_ASSOCIATIONS`] at most.
    pub addresses: Vec<Ipv6Addr>,
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
        1 => RequestKind::Solicit,
        3 => RequestKind::Request,
        4 => RequestKind::Confirm,
        5 => RequestKind::Renew,
        6 => RequestKind::Rebind,
        8 => RequestKind::Release,
        9 => RequestKind::Decline,
        11 => RequestKind::InformationRequest,
        RELAY_FORWARD | RELAY_REPLY => return Err(Dhcpv6Error::Relayed),
        other => RequestKind::Other(other),
    };
    let options = &message[HEADER_LEN..];
    let mut request = Request {
        kind,
        transaction: array(header, 1),
        client_identifier: None,
        server_identifier: None,
        rapid_commit: false,
        fqdn_flags: 0,
        requested: None,
        options,
    };
    for option in (Options { rest: options }) {
        let (code, value) = option?;
        let is_well_formed = match code {
            OPTION_CLIENT_ID | OPTION_SERVER_ID => (1..=MAX_DUID_LEN).contains(&value.len()),
            OPTION_IA_NA | OPTION_IA_TA | OPTION_IA_PD => {
                let inner = value.get(association_header_len(code)..).ok_or(Dhcpv6Error::Option(code))?;
                Options { rest: inner }.all(|option| match option {
                    Ok((OPTION_IA_ADDRESS, value)) => value.len() >= IA_ADDRESS_LEN,
                    other => other.is_ok(),
                })
            }
            OPTION_REQUESTED => value.len().is_multiple_of(2),
            OPTION_FQDN => !value.is_empty(),
            _ => true,
        };
        if !is_well_formed {
            return Err(Dhcpv6Error::Option(code));
        }
        match code {
            OPTION_CLIENT_ID => _ = request.client_identifier.get_or_insert(value),
            OPTION_SERVER_ID => _ = request.server_identifier.get_or_insert(value),
            OPTION_REQUESTED => _ = request.requested.get_or_insert(value),
            OPTION_RAPID_COMMIT => request.rapid_commit = true,
            OPTION_FQDN => request.fqdn_flags = value[0],
            _ => {}
        }
    }
    Ok(request)
}

impl Request<'_> {
    /// What it wants addresses or prefixes for; the first [`MAX_ASSOCIATIONS`].
    #[must_use]
    pub fn associations(&self) -> Vec<Association> {
        let read = |(code, value): (u16, &[u8])| {
            let kind = match code {
                OPTION_IA_NA => AssociationKind::Addresses,
                OPTION_IA_TA => AssociationKind::TemporaryAddresses,
                OPTION_IA_PD => AssociationKind::Prefixes,
                _ => return None,
            };
            let options = Options { rest: &value[association_header_len(code)..] };
            let addresses = options.flatten().filter(|(code, _)| *code == OPTION_IA_ADDRESS);
            let addresses = addresses.map(|(_, value)| Ipv6Addr::from(array::<16>(value, 0)));
            Some(Association {
                kind,
                id: array(value, 0),
                addresses: addresses.take(MAX_ASSOCIATIONS).collect(),
            })
        };
        Options { rest: self.options }.flatten().filter_map(read).take(MAX_ASSOCIATIONS).collect()
    }

    /// Whether it wants to know what this option tells: all, unless it says what.
    fn asks_for(&self, option: u16) -> bool {
        self.requested.is_none_or(|codes| names(codes, option))
    }

    /// Whether it wants to know its name in full. RFC 4704 §6: only who says so is told.
    fn asks_for_fqdn(&self) -> bool {
        self.requested.is_some_and(|codes| names(codes, OPTION_FQDN))
    }
}

fn names(codes: &[u8], option: u16) -> bool {
    codes.chunks_exact(2).any(|code| code == option.to_be_bytes())
}

/// Bytes of an association before its options.
fn association_header_len(code: u16) -> usize {
    if code == OPTION_IA_TA { 4 } else { 12 }
}

/// The options of an area, each once; the first that is cut ends them.
struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), Dhcpv6Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(header) = self.rest.first_chunk::<OPTION_HEADER_LEN>() else {
            self.rest = &[];
            return Some(Err(Dhcpv6Error::Truncated));
        };
        let code = be16(header, 0);
        let split = self.rest[OPTION_HEADER_LEN..].split_at_checked(usize::from(be16(header, 2)));
        let (value, rest) = split.unwrap_or_default();
        self.rest = rest;
        Some(if split.is_some() { Ok((code, value)) } else { Err(Dhcpv6Error::Option(code)) })
    }
}

/// The identifier of a server with this Ethernet address: DUID-LL.
#[must_use]
pub fn duid(mac: MacAddr) -> [u8; DUID_LL_LEN] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// You may have this.
    Advertise,
    /// So it is.
    Reply,
}

/// Outcome of what a client asked for (RFC 8415 §21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success = 0,
    /// There are none to be had.
    NoAddrsAvail = 2,
    /// The addresses are not of this link.
    NotOnLink = 4,
    /// There are none to be had.
    NoPrefixAvail = 6,
}

/// What comes of an association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// An address to use, and addresses that may not be used any longer.
    Address {
        /// What the client knows the association by.
        id: [u8; 4],
        /// To use.
        address: Ipv6Addr,
        /// How long, preferred and valid alike.
        seconds: u32,
        /// Not to use; [`MAX_ASSOCIATIONS`] at most.
        withdrawn: Vec<Ipv6Addr>,
    },
    /// Nothing, and why.
    Refused {
        /// Of the association.
        kind: AssociationKind,
        /// What the client knows the association by.
        id: [u8; 4],
        /// Why.
        status: Status,
    },
}

/// A server's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What it says.
    pub kind: ReplyKind,
    /// What it answers: its identifiers are repeated, and only what it asks for is told.
    pub request: &'a Request<'a>,
    /// Who speaks.
    pub server_identifier: [u8; DUID_LL_LEN],
    /// Outcome of the whole, where that is told.
    pub status: Option<Status>,
    /// Outcome of each association; [`MAX_ASSOCIATIONS`] at most.
    pub grants: &'a [Grant],
    /// Resolvers, the best first (RFC 3646 §3).
    pub resolvers: &'a [Ipv6Addr],
    /// Domains to search, in their order (RFC 3646 §4).
    pub search: &'a [DomainName],
    /// The client's name in full (RFC 4704).
    pub fqdn: Option<&'a DomainName>,
}

impl Reply<'_> {
    /// Bytes of the longest one: what every IPv6 link carries in one packet (RFC 8200 §5).
    pub const MAX_LEN: usize = 1_280 - 40 - 8;

    /// Writes the message into `out`, which holds [`Self::MAX_LEN`] bytes, and returns its length. Resolvers, the
    /// name and domains are told as far as there is room.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out[0] = match self.kind {
            ReplyKind::Advertise => ADVERTISE,
            ReplyKind::Reply => REPLY,
        };
        out[1..HEADER_LEN].copy_from_slice(&self.request.transaction);
        let mut options = Writer { out: &mut out[..Self::MAX_LEN], at: HEADER_LEN };
        if let Some(identifier) = self.request.client_identifier {
            options.put(OPTION_CLIENT_ID, identifier);
        }
        options.put(OPTION_SERVER_ID, &self.server_identifier);
        if self.request.kind == RequestKind::Solicit && self.kind == ReplyKind::Reply {
            options.put(OPTION_RAPID_COMMIT, &[]);
        }
        if let Some(status) = self.status {
            options.put(OPTION_STATUS, &status_value(status));
        }
        for grant in self.grants {
            options.put_grant(grant);
        }
        if self.request.asks_for(OPTION_DNS_SERVERS) {
            let room = options.left() / 16;
            options.put_list(OPTION_DNS_SERVERS, &octets(self.resolvers.iter().take(room)));
        }
        if let Some(name) = self.fqdn.filter(|_| self.request.asks_for_fqdn()) {
            let is_overridden = self.request.fqdn_flags & FQDN_SERVER_UPDATES != 0;
            let flags = FQDN_NO_UPDATES | if is_overridden { FQDN_OVERRIDDEN } else { 0 };
            options.put(OPTION_FQDN, &[&[flags], name.labels()].concat());
        }
        if self.request.asks_for(OPTION_SEARCH) {
            let room = options.left();
            options.put_list(OPTION_SEARCH, &domain::list(self.search, room));
        }
        options.at
    }
}

fn octets<'a>(addresses: impl Iterator<Item = &'a Ipv6Addr>) -> Vec<u8> {
    addresses.flat_map(Ipv6Addr::octets).collect()
}

/// RFC 8415 §21.13: a number, and a text that may be empty.
fn status_value(status: Status) -> [u8; 2] {
    (status as u16).to_be_bytes()
}

fn address_option(address: Ipv6Addr, seconds: u32) -> Vec<u8> {
    let seconds = seconds.to_be_bytes();
    [&option_header(OPTION_IA_ADDRESS, IA_ADDRESS_LEN)[..], &address.octets(), &seconds, &seconds].concat()
}

fn option_header(code: u16, len: usize) -> [u8; OPTION_HEADER_LEN] {
    let ([a, b], [c, d]) = (code.to_be_bytes(), (len as u16).to_be_bytes());
    [a, b, c, d]
}

/// The options of a message, one behind the other.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    /// Bytes that are left for the value of an option.
    fn left(&self) -> usize {
        (self.out.len() - self.at).saturating_sub(OPTION_HEADER_LEN)
    }

    /// Appends an option, unless there is no room for it.
    fn put(&mut self, code: u16, value: &[u8]) {
        if self.at + OPTION_HEADER_LEN + value.len() > self.out.len() {
            return;
        }
        let (header, rest) = self.out[self.at..].split_at_mut(OPTION_HEADER_LEN);
        header.copy_from_slice(&option_header(code, value.len()));
        rest[..value.len()].copy_from_slice(value);
        self.at += OPTION_HEADER_LEN + value.len();
    }

    /// Appends an option that lists something; one without anything is left out.
    fn put_list(&mut self, code: u16, list: &[u8]) {
        if !list.is_empty() {
            self.put(code, list);
        }
    }

    fn put_grant(&mut self, grant: &Grant) {
        match grant {
            Grant::Address { id, address, seconds, withdrawn } => {
                // RFC 8415 §21.4: half of the preferred lifetime, and four fifths.
                let renew = (seconds / 2).to_be_bytes();
                let rebind = (seconds / 5 * 4).to_be_bytes();
                let mut value = [&id[..], &renew, &rebind, &address_option(*address, *seconds)].concat();
                for address in withdrawn.iter().take(MAX_ASSOCIATIONS) {
                    value.extend(address_option(*address, 0));
                }
                self.put(OPTION_IA_NA, &value);
            }
            Grant::Refused { kind, id, status } => {
                let code = match kind {
                    AssociationKind::Addresses => OPTION_IA_NA,
                    AssociationKind::TemporaryAddresses => OPTION_IA_TA,
                    AssociationKind::Prefixes => OPTION_IA_PD,
                };
                let times = &[0; 8][..association_header_len(code) - 4];
                let status = [&option_header(OPTION_STATUS, 2)[..], &status_value(*status)].concat();
                self.put(code, &[&id[..], times, &status].concat());
            }
        }
    }
}

#[cfg(test)]
mod tests;
