//! The names of a network's containers: what the gateway's resolver answers itself, and what it lets pass.
//!
//! Ours are the names and aliases of the members, and the reverse names of the network's subnets, whether somebody has the
//! address or not: none of these ever leaves. What is not a query is refused here as well, since nobody can say what
//! would leave with it. Everything else is the forwarder's ([`super::dns`]), unless the network is internal: then it is
//! refused, because a question is a way out.
//!
//! Answers may not be remembered (their time to live is 0): members come and go, and the next query is one hop.
//!
//! RFC 1035 §3.5 and RFC 3596 §2.5 (reverse names), RFC 2308 §2 (names that there are not, and types that a name has
//! not). Left out: the SOA record of negative answers, which serves to remember them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::network::Member;
use crate::config::{LinkConfig, Segment};
use crate::wire::dns::{self, Code, Query, QueryError, Record, Wanted};

/// Addresses of one answer; more members may share an alias.
const MAX_RECORDS: usize = 32;
/// Seconds for which an answer may be remembered.
const LIFETIME_SECONDS: u32 = 0;

/// Whose names these are, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameTable {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, String>,
}

impl NameTable {
    /// The names of these members.
    #[must_use]
    pub fn of<'a>(members: impl IntoIterator<Item = &'a Member>) -> NameTable {
        let mut table = NameTable::default();
        for member in members {
            let ipv4 = member.ipv4.map(IpAddr::V4);
            let own: Vec<IpAddr> = ipv4.into_iter().chain(member.ipv6.map(IpAddr::V6)).collect();
            for name in std::iter::once(&member.name).chain(&member.aliases) {
                table.addresses.entry(name.to_ascii_lowercase()).or_default().extend(&own);
            }
            table.names.extend(own.iter().map(|address| (*address, member.name.clone())));
        }
        table
    }
}

/// What becomes of a message to the resolver.
#[derive(Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is answered with this.
    Answered(Vec<u8>),
    /// It is the forwarder's.
    Forwarded,
    /// Nothing.
    Ignored,
}

/// The resolver of a network's segment.
#[derive(Debug)]
pub struct Names {
    table: Arc<NameTable>,
    ipv4: Option<Ipv4Net>,
    ipv6: Option<Ipv6Net>,
    forwards: bool,
}

impl Names {
    /// The resolver of `link`, where that is a network's segment. It knows nobody yet.
    #[must_use]
    pub fn new(link: &LinkConfig) -> Option<Names> {
        match link.segment {
            Segment::Private | Segment::Shared(_) => None,
            Segment::Bridged { internal } => Some(Names {
                table: Arc::default(),
                ipv4: link.ipv4.map(|ipv4| ipv4.subnet),
                ipv6: link.ipv6.map(|ipv6| ipv6.prefix),
                forwards: !internal,
            }),
        }
    }

    /// The members have changed.
    pub fn change(&mut self, table: Arc<NameTable>) {
        self.table = table;
    }

    /// Judges one message that came over UDP.
    #[must_use]
    pub fn handle_datagram(&self, message: &[u8]) -> Handled {
        self.handle(message, |query| query.udp_room())
    }

    /// Judges one message that came over TCP.
    #[must_use]
    pub fn handle_stream(&self, message: &[u8]) -> Handled {
        self.handle(message, |_| usize::from(u16::MAX))
    }

    fn handle(&self, message: &[u8], room: impl FnOnce(&Query<'_>) -> usize) -> Handled {
        let query = match dns::parse(message) {
            Ok(query) => query,
            Err(QueryError::Silence) => return Handled::Ignored,
            Err(QueryError::Answer(code)) => {
                return dns::refusal(message, code).map_or(Handled::Ignored, Handled::Answered);
            }
        };
        let own = query.name.as_deref().and_then(|name| self.resolve(name, &query));
        let (code, mut records) = match own {
            Some(found) => found,
            None if self.forwards => return Handled::Forwarded,
            None => (Code::Refused, Vec::new()),
        };
        // Whoever shares an alias has its turn.
        if !records.is_empty() {
            let turn = usize::from(message[1]) % records.len();
            records.rotate_left(turn);
        }
        records.truncate(MAX_RECORDS);
        let room = room(&query);
        Handled::Answered(query.answer(code, &records, LIFETIME_SECONDS, room))
    }

    /// What is known of a name of ours; nothing, where it is not one.
    fn resolve(&self, name: &str, query: &Query<'_>) -> Option<(Code, Vec<Record>)> {
        if let Some(addresses) = self.table.addresses.get(name) {
            let is_wanted = |address: &&IpAddr| match query.wanted {
                Wanted::A => address.is_ipv4(),
                Wanted::Aaaa => address.is_ipv6(),
                Wanted::Any => true,
                Wanted::Ptr | Wanted::Other => false,
            };
            let found = addresses.iter().filter(is_wanted).filter(|_| query.is_internet);
            return Some((Code::NoError, found.map(|address| Record::Address(*address)).collect()));
        }
        match self.reverse(name)? {
            Reverse::Address(address) => Some(match self.table.names.get(&address) {
                None => (Code::NxDomain, Vec::new()),
                Some(name) => {
                    let is_wanted = matches!(query.wanted, Wanted::Ptr | Wanted::Any) && query.is_internet;
                    let record = is_wanted.then(|| Record::Name(name.clone()));
                    (Code::NoError, record.into_iter().collect())
                }
            }),
            Reverse::Above => Some((Code::NoError, Vec::new())),
            Reverse::Below => Some((Code::NxDomain, Vec::new())),
        }
    }

    /// Where in the reverse trees of the subnets a name stands, if it does.
    fn reverse(&self, name: &str) -> Option<Reverse> {
        if let Some(labels) = under(name, "in-addr.arpa") {
            let numbers = labels.iter().rev().map_while(|label| octet(label)).take(4);
            let octets: Vec<u8> = numbers.collect();
            let mut address = [0; 4];
            address[..octets.len()].copy_from_slice(&octets);
            let address = Ipv4Addr::from(address);
            let prefix_len = u8::try_from(8 * octets.len()).ok()?;
            let part = IpNet::V4(Ipv4Net::new(address, prefix_len).ok()?);
            return self.place(part, labels.len() > octets.len());
        }
        let labels = under(name, "ip6.arpa")?;
        let nibbles: Vec<u8> = labels.iter().rev().map_while(|label| nibble(label)).take(32).collect();
        let bits = nibbles.iter().fold(0u128, |bits, nibble| bits << 4 | u128::from(*nibble));
        let bits = if nibbles.is_empty() { 0 } else { bits << (128 - 4 * nibbles.len()) };
        let prefix_len = u8::try_from(4 * nibbles.len()).ok()?;
        let part = IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(bits), prefix_len).ok()?);
        self.place(part, labels.len() > nibbles.len())
    }

    fn place(&self, part: IpNet, has_more_labels: bool) -> Option<Reverse> {
        let is_ours = match part {
            IpNet::V4(part) => self.ipv4.is_some_and(|subnet| subnet.contains(&part)),
            IpNet::V6(part) => self.ipv6.is_some_and(|prefix| prefix.contains(&part)),
        };
        is_ours.then(|| match part.prefix_len() == part.max_prefix_len() {
            _ if has_more_labels => Reverse::Below,
            true => Reverse::Address(part.addr()),
            false => Reverse::Above,
        })
    }
}

/// A name in the reverse tree of a subnet.
enum Reverse {
    /// That of an address.
    Address(IpAddr),
    /// One on the way to some.
    Above,
    /// One that nobody has: behind an address, or beside all of them.
    Below,
}

/// The labels of `name` in front of `parent`.
fn under<'a>(name: &'a str, parent: &str) -> Option<Vec<&'a str>> {
    let front = name.strip_suffix(parent)?.strip_suffix('.')?;
    Some(front.split('.').collect())
}

/// A number as reverse names have them: without leading zeroes.
fn octet(label: &str) -> Option<u8> {
    let is_plain =
        label.bytes().all(|byte| byte.is_ascii_digit()) && (label == "0" || !label.starts_with('0'));
    label.parse().ok().filter(|_| is_plain)
}

fn nibble(label: &str) -> Option<u8> {
    let [digit] = *label.as_bytes() else { return None };
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests;
