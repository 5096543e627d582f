//! Neighbor discovery on an Ethernet link (RFC 4861, RFC 2464, RFC 8106).
//!
//! What we read: solicitations of the container, and its advertisements. What we write: advertisements and
//! solicitations of our own, and router advertisements, each a whole ICMPv6 message with its checksum.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::{DomainName, MacAddr, array, domain, icmp};

/// RFC 4861 §7.1: a packet from another link cannot arrive with this hop limit.
pub const HOP_LIMIT: u8 = 255;
/// Bytes of the solicitations and advertisements written here.
pub const NEIGHBOR_LEN: usize = 32;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const OPTION_SOURCE_LINK_ADDRESS: u8 = 1;
const OPTION_TARGET_LINK_ADDRESS: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_RDNSS: u8 = 25;
const OPTION_DNSSL: u8 = 31;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
const FLAG_MANAGED: u8 = 0x80;
const FLAG_OTHER_CONFIGURATION: u8 = 0x40;
const PREFIX_ON_LINK: u8 = 0x80;
const PREFIX_AUTONOMOUS: u8 = 0x40;

/// A message of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Routers, speak up.
    RouterSolicitation {
        /// The asker's link address.
        source_mac: Option<MacAddr>,
    },
    /// Who has the target?
    NeighborSolicitation {
        /// The address asked about.
        target: Ipv6Addr,
        /// The asker's link address; none when it probes for duplicates.
        source_mac: Option<MacAddr>,
    },
    /// The target is here.
    NeighborAdvertisement {
        /// The address told about.
        target: Ipv6Addr,
        /// Its link address.
        target_mac: Option<MacAddr>,
    },
}

/// Whether an ICMPv6 message is neighbor discovery of any kind, redirects included.
#[must_use]
pub fn is_discovery(message: &[u8]) -> bool {
    message.first().is_some_and(|kind| (ROUTER_SOLICITATION..=REDIRECT).contains(kind))
}

/// Whether an ICMPv6 message asks for routers.
#[must_use]
pub fn is_router_solicitation(message: &[u8]) -> bool {
    message.first() == Some(&ROUTER_SOLICITATION)
}

/// Parses an ICMPv6 message whose checksum is right. `None` for what is no neighbor discovery of the three
/// kinds, and for what RFC 4861 §6.1.1, §7.1.1 and §7.1.2 have us discard silently.
#[must_use]
pub fn parse(message: &[u8], hop_limit: u8) -> Option<Message> {
    let (&kind, &code) = (message.first()?, message.get(1)?);
    if hop_limit != HOP_LIMIT || code != 0 {
        return None;
    }
    match kind {
        ROUTER_SOLICITATION => {
            let source_mac = link_address(message.get(8..)?, OPTION_SOURCE_LINK_ADDRESS)?;
            Some(Message::RouterSolicitation { source_mac })
        }
        NEIGHBOR_SOLICITATION => {
            let source_mac = link_address(message.get(24..)?, OPTION_SOURCE_LINK_ADDRESS)?;
            Some(Message::NeighborSolicitation { target: target(message)?, source_mac })
        }
        NEIGHBOR_ADVERTISEMENT => {
            let target_mac = link_address(message.get(24..)?, OPTION_TARGET_LINK_ADDRESS)?;
            Some(Message::NeighborAdvertisement { target: target(message)?, target_mac })
        }
        _ => None,
    }
}

/// The target field of a message of at least 24 bytes; never a group.
fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let target = Ipv6Addr::from(array::<16>(message, 8));
    (!target.is_multicast()).then_some(target)
}

/// The link address in an option of this kind, if any; the outer `None` when the options are malformed.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while !options.is_empty() {
        let len = usize::from(*options.get(1)?) * 8;
        // RFC 4861 §4.6: an option of length zero spoils the packet.
        if len == 0 || len > options.len() {
            return None;
        }
        if options[0] == wanted && len == 8 {
            let mac = MacAddr(array(options, 2));
            found = found.or(mac.is_unicast().then_some(mac));
        }
        options = &options[len..];
    }
    Some(found)
}

/// The group that a neighbor with `address` listens to (RFC 4291 §2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet group of an IPv6 group (RFC 2464 §7).
#[must_use]
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Writes "`target` is at `mac`, and is a router" and returns its length, [`NEIGHBOR_LEN`].
pub fn write_neighbor_advertisement(
    out: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: MacAddr,
    solicited: bool,
) -> usize {
    let flags = FLAG_ROUTER | FLAG_OVERRIDE | if solicited { FLAG_SOLICITED } else { 0 };
    write_neighbor(out, NEIGHBOR_ADVERTISEMENT, flags, target, OPTION_TARGET_LINK_ADDRESS, mac);
    finish(out, NEIGHBOR_LEN, source, destination)
}

/// Writes "who has `target`? tell `mac`" and returns its length, [`NEIGHBOR_LEN`].
pub fn write_neighbor_solicitation(
    out: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: MacAddr,
) -> usize {
    write_neighbor(out, NEIGHBOR_SOLICITATION, 0, target, OPTION_SOURCE_LINK_ADDRESS, mac);
    finish(out, NEIGHBOR_LEN, source, destination)
}

fn write_neighbor(out: &mut [u8], kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: MacAddr) {
    out[0..8].copy_from_slice(&[kind, 0, 0, 0, flags, 0, 0, 0]);
    out[8..24].copy_from_slice(&target.octets());
    write_link_address(&mut out[24..32], option, mac);
}

fn write_link_address(out: &mut [u8], option: u8, mac: MacAddr) {
    out[0..2].copy_from_slice(&[option, 1]);
    out[2..8].copy_from_slice(&mac.0);
}

fn finish(out: &mut [u8], len: usize, source: Ipv6Addr, destination: Ipv6Addr) -> usize {
    icmp::fill_checksum(&mut out[..len], IpAddr::V6(source), IpAddr::V6(destination));
    len
}

/// What a router advertisement says. Lifetimes are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterAdvertisement<'a> {
    /// The router's link-local address.
    pub source: Ipv6Addr,
    /// One node or all of them.
    pub destination: Ipv6Addr,
    /// The router's link address.
    pub mac: MacAddr,
    /// Hop limit that hosts are to use.
    pub hop_limit: u8,
    /// Whether addresses are to be had over DHCPv6.
    pub managed: bool,
    /// Whether more is to be learnt over DHCPv6.
    pub other_configuration: bool,
    /// How long the router is a default router; zero for never.
    pub router_lifetime: u16,
    /// The link's prefix, which is announced as on-link.
    pub prefix: Ipv6Net,
    /// Whether hosts may make addresses of the prefix (RFC 4862).
    pub autonomous: bool,
    /// How long the prefix is valid.
    pub valid_lifetime: u32,
    /// How long its addresses are preferred.
    pub preferred_lifetime: u32,
    /// The link's MTU.
    pub mtu: u32,
    /// Recursive resolvers, the best first.
    pub resolvers: &'a [Ipv6Addr],
    /// Domains to search, in their order.
    pub search: &'a [DomainName],
    /// How long resolvers and domains may be used.
    pub dns_lifetime: u32,
}

impl RouterAdvertisement<'_> {
    /// Bytes of the longest one: what every IPv6 link carries in one packet (RFC 8200 §5).
    pub const MAX_LEN: usize = 1_280 - 40;
    /// Bytes without resolvers and domains.
    const FIXED_LEN: usize = 16 + 8 + 8 + 32;
    /// Bytes of an option before what it lists.
    const LIST_HEADER_LEN: usize = 8;

    /// Writes the message into `out`, which holds [`Self::MAX_LEN`] bytes, and returns its length. Resolvers and
    /// then domains are told as far as there is room.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out[..Self::MAX_LEN].fill(0);
        out[0] = ROUTER_ADVERTISEMENT;
        out[4] = self.hop_limit;
        out[5] = if self.managed { FLAG_MANAGED } else { 0 }
            | if self.other_configuration { FLAG_OTHER_CONFIGURATION } else { 0 };
        out[6..8].copy_from_slice(&self.router_lifetime.to_be_bytes());
        write_link_address(&mut out[16..24], OPTION_SOURCE_LINK_ADDRESS, self.mac);
        out[24..26].copy_from_slice(&[OPTION_MTU, 1]);
        out[28..32].copy_from_slice(&self.mtu.to_be_bytes());
        let flags = PREFIX_ON_LINK | if self.autonomous { PREFIX_AUTONOMOUS } else { 0 };
        out[32..36].copy_from_slice(&[OPTION_PREFIX, 4, self.prefix.prefix_len(), flags]);
        out[36..40].copy_from_slice(&self.valid_lifetime.to_be_bytes());
        out[40..44].copy_from_slice(&self.preferred_lifetime.to_be_bytes());
        out[48..64].copy_from_slice(&self.prefix.network().octets());
        let mut len = Self::FIXED_LEN;
        let room = |len| Self::MAX_LEN - len - Self::LIST_HEADER_LEN;
        let resolvers = self.resolvers.iter().take(room(len) / 16).flat_map(Ipv6Addr::octets).collect();
        len += self.write_list(&mut out[len..], OPTION_RDNSS, resolvers);
        if len + Self::LIST_HEADER_LEN < Self::MAX_LEN {
            let search = domain::list(self.search, room(len));
            len += self.write_list(&mut out[len..], OPTION_DNSSL, search);
        }
        finish(out, len, self.source, self.destination)
    }

    /// Writes the option for a list, padded to units of eight bytes (RFC 8106 §5), and returns its length: nothing
    /// for an empty one.
    fn write_list(&self, out: &mut [u8], option: u8, list: Vec<u8>) -> usize {
        if list.is_empty() {
            return 0;
        }
        let len = Self::LIST_HEADER_LEN + list.len().next_multiple_of(8);
        // No list is longer than `MAX_LEN`, 155 units.
        out[0..2].copy_from_slice(&[option, (len / 8) as u8]);
        out[4..8].copy_from_slice(&self.dns_lifetime.to_be_bytes());
        out[8..8 + list.len()].copy_from_slice(&list);
        len
    }
}

#[cfg(test)]
mod tests;
