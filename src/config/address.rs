//! The addresses of the segment between the container and us.
//!
//! A user names a subnet; everything else follows from it, always in the same way: gateway `.2`, DNS `.3`,
//! container `.100`, and for IPv6 `::2`, `::3` and `::100` (these are the texts: `::100` is 0x100). An address
//! with host bits (`10.0.2.50/24`) names the container as well. What a subnet may not be is refused here, with
//! the reason; whether it is free on this host is the question of [`collision`].
//!
//! RFCs: 1918 and 6890 (which ranges mean what), 4193 (unique local prefixes), 4291 (IPv6 addressing), 8200 §5 (MTU).

pub mod collision;
#[cfg(test)]
mod tests;

pub use collision::{ExplicitSubnets, HostNetworks, avoid_collisions, check_collisions};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::wire::MacAddr;

/// Our Ethernet address on every segment: locally administered, and never equal to a [`derived_mac`].
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x67, 0x77, 0, 0, 2]);

/// The gateway's link-local address on every segment; short, so that a route table reads well.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// MTU unless told otherwise: what the world uses. Super-segments make it as fast as a large one.
pub const DEFAULT_MTU: u16 = 1_500;

/// Largest MTU: a frame of it still fits the 64 KiB that the link carries at once, headers included.
pub const MAX_MTU: u16 = 65_520;

/// Smallest MTU with IPv6 on the link (RFC 8200 §5).
pub const MIN_MTU_IPV6: u16 = 1_280;

/// Smallest MTU without IPv6: what every IPv4 host must accept in one piece (RFC 1122 §3.3.2).
pub const MIN_MTU_IPV4: u16 = 576;

/// Who else is on the segment, as the container sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segment {
    /// Nobody: a private network, whose gateway and resolver we are.
    #[default]
    Private,
    /// Everybody whom the host reaches: the container stands in the host's place, with the host's own addresses, and
    /// whatever address it asks for is reached through us. The gateway is the host's, and not us.
    Shared(Aliases),
    /// The other containers of a network, whose gateway and resolver we are; they reach each other past us. The
    /// container has the addresses it was given, and no others.
    Bridged {
        /// Whether there is no way out.
        internal: bool,
    },
}

/// Addresses that the container has for the host, whose own it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aliases {
    /// The host's loopback.
    pub loopback: AddressPair,
    /// The host by the address that the container has as well.
    pub host: AddressPair,
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressPair {
    /// IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6.
    pub ipv6: Option<Ipv6Addr>,
}

impl AddressPair {
    /// The address of the same family as `other`.
    #[must_use]
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// The Ethernet segment: one container, one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// Who else is there.
    pub segment: Segment,
    /// IPv4 side, unless switched off.
    pub ipv4: Option<Ipv4Link>,
    /// IPv6 side, unless switched off.
    pub ipv6: Option<Ipv6Link>,
    /// Bytes of the largest IP packet that is not a super-segment.
    pub mtu: u16,
    /// Our address on the segment.
    pub gateway_mac: MacAddr,
    /// The container's address where we set or read it; learnt from its frames otherwise.
    pub container_mac: Option<MacAddr>,
}

/// Addresses of the IPv4 side: distinct, and of a private segment all inside `subnet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Link {
    /// The segment's prefix.
    pub subnet: Ipv4Net,
    /// Default route of the container, and the host as seen from there.
    pub gateway: Ipv4Addr,
    /// Where the container sends DNS queries for us to forward; always there on a private segment.
    pub dns: Option<Ipv4Addr>,
    /// The container.
    pub container: Ipv4Addr,
}

/// Addresses of the IPv6 side: distinct, and of a private segment all inside `prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Link {
    /// The segment's prefix, a /64 when it is to be advertised.
    pub prefix: Ipv6Net,
    /// The host as seen from the container.
    pub gateway: Ipv6Addr,
    /// Source of router advertisements and default route of the container (RFC 4861 §4.2).
    pub gateway_link_local: Ipv6Addr,
    /// Where the container sends DNS queries for us to forward; always there on a private segment.
    pub dns: Option<Ipv6Addr>,
    /// The container.
    pub container: Ipv6Addr,
}

impl LinkConfig {
    /// Gives the container this Ethernet address, and the IPv6 address that it makes for itself from it when it
    /// follows router advertisements.
    pub fn adopt_container_mac(&mut self, mac: MacAddr) {
        self.container_mac = Some(mac);
        if let Some(ipv6) = &mut self.ipv6 {
            ipv6.container = eui64_address(ipv6.prefix, mac);
        }
    }

    /// The container's address of the same family as `other`.
    #[must_use]
    pub fn container_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.ipv4.map(|link| link.container.into()),
            IpAddr::V6(_) => self.ipv6.map(|link| link.container.into()),
        }
    }

    /// The gateway's routable address of the same family as `other`.
    #[must_use]
    pub fn gateway_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.ipv4.map(|link| link.gateway.into()),
            IpAddr::V6(_) => self.ipv6.map(|link| link.gateway.into()),
        }
    }

    /// Whether `address` is the gateway, by either of its addresses.
    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ipv4.is_some_and(|link| link.gateway == v4),
            IpAddr::V6(v6) => {
                self.ipv6.is_some_and(|link| link.gateway == v6 || link.gateway_link_local == v6)
            }
        }
    }

    /// Whether `address` is the DNS forwarder's.
    #[must_use]
    pub fn is_dns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ipv4.is_some_and(|link| link.dns == Some(v4)),
            IpAddr::V6(v6) => self.ipv6.is_some_and(|link| link.dns == Some(v6)),
        }
    }

    /// Whether somebody other than the container answers to `address` on the segment, and that is us.
    #[must_use]
    pub fn is_answered_for(&self, address: IpAddr) -> bool {
        match self.segment {
            Segment::Private | Segment::Bridged { .. } => self.is_gateway(address) || self.is_dns(address),
            Segment::Shared(_) => {
                !address.is_unspecified() && self.container_like(address).is_some_and(|own| own != address)
            }
        }
    }

    /// Whether a packet to `address` passes us as it would a router. On a shared segment the gateway does that, and
    /// we are but the wire to it.
    #[must_use]
    pub fn is_routed(&self, address: IpAddr) -> bool {
        match self.segment {
            Segment::Private | Segment::Bridged { .. } => !self.is_on_link(address),
            Segment::Shared(_) => false,
        }
    }

    /// Whether `address` is everybody's on the segment, or the name of its network.
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.is_broadcast() || self.ipv4.is_some_and(|link| link.is_broadcast(v4)),
            IpAddr::V6(_) => false,
        }
    }

    /// Whether `address` is one that the container was given, or makes for itself of what it was given (RFC 4862 §5.3,
    /// §5.5).
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        if self.container_like(address) == Some(address) {
            return true;
        }
        match address {
            IpAddr::V4(_) => false,
            // Which of these are others' is known to whoever sees all of the link.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => !self.is_gateway(address),
            IpAddr::V6(v6) => {
                let made = self.ipv6.zip(self.container_mac);
                made.is_some_and(|(ipv6, mac)| eui64_address(ipv6.prefix, mac) == v6)
            }
        }
    }

    /// Whether nothing but the segment itself is to be reached.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        match self.segment {
            Segment::Private | Segment::Shared(_) => false,
            Segment::Bridged { internal } => internal,
        }
    }

    /// Whether `address` lies on the segment.
    #[must_use]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ipv4.is_some_and(|link| link.subnet.contains(&v4)),
            IpAddr::V6(v6) => {
                v6.is_unicast_link_local() || self.ipv6.is_some_and(|link| link.prefix.contains(&v6))
            }
        }
    }
}

impl Ipv4Link {
    /// Whether `address` is everybody's in the subnet, or the subnet's own; there is neither among two or one
    /// (RFC 3021).
    #[must_use]
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        self.subnet.prefix_len() < 31
            && (address == self.subnet.broadcast() || address == self.subnet.network())
    }

    /// Resolves a subnet, or a container's address in its subnet, to the addresses of the link.
    pub fn from_cidr(cidr: Ipv4Net) -> Result<Ipv4Link, AddressError> {
        let subnet = cidr.trunc();
        if let Some(meaning) = reserved_ipv4(subnet) {
            return Err(AddressError::Reserved { meaning });
        }
        if cidr.prefix_len() > 29 {
            return Err(AddressError::Ipv4TooSmall(cidr));
        }
        let (gateway, dns) = (ipv4_offset(subnet, 2), ipv4_offset(subnet, 3));
        let container = if cidr.addr() != subnet.addr() {
            cidr.addr()
        } else if cidr.prefix_len() <= 24 {
            ipv4_offset(subnet, 100)
        } else {
            Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1)
        };
        let taken = [(gateway, "gateway"), (dns, "DNS"), (subnet.broadcast(), "broadcast")];
        if let Some((_, role)) = taken.into_iter().find(|(address, _)| *address == container) {
            return Err(AddressError::ContainerTaken { address: container.into(), role });
        }
        Ok(Ipv4Link { subnet, gateway, dns: Some(dns), container })
    }
}

impl Default for Ipv4Link {
    /// 10.0.2.0/24.
    fn default() -> Self {
        Ipv4Link::from_cidr(collision::IPV4_CANDIDATES[0]).expect("a candidate is a usable subnet")
    }
}

impl Ipv6Link {
    /// Resolves a prefix, or a container's address in its prefix, to the addresses of the link.
    pub fn from_cidr(cidr: Ipv6Net) -> Result<Ipv6Link, AddressError> {
        let prefix = cidr.trunc();
        if let Some(meaning) = reserved_ipv6(prefix) {
            return Err(AddressError::Reserved { meaning });
        }
        if !(48..=120).contains(&cidr.prefix_len()) {
            return Err(AddressError::Ipv6PrefixLength(cidr));
        }
        let (gateway, dns) = (ipv6_offset(prefix, 2), ipv6_offset(prefix, 3));
        let container = if cidr.addr() != prefix.addr() {
            cidr.addr()
        } else if cidr.prefix_len() < 120 {
            ipv6_offset(prefix, 0x100)
        } else {
            // `::100` does not fit a /120.
            ipv6_offset(prefix, 0x10)
        };
        let taken = [(gateway, "gateway"), (dns, "DNS")];
        if let Some((_, role)) = taken.into_iter().find(|(address, _)| *address == container) {
            return Err(AddressError::ContainerTaken { address: container.into(), role });
        }
        Ok(Ipv6Link { prefix, gateway, gateway_link_local: GATEWAY_LINK_LOCAL, dns: Some(dns), container })
    }
}

impl Default for Ipv6Link {
    /// [`collision::DEFAULT_IPV6_PREFIX`].
    fn default() -> Self {
        Ipv6Link::from_cidr(collision::DEFAULT_IPV6_PREFIX).expect("the default is a usable prefix")
    }
}

impl Default for LinkConfig {
    /// Both families, default subnets, MTU 1500.
    fn default() -> Self {
        let ipv4 = Ipv4Link::default();
        LinkConfig {
            segment: Segment::Private,
            ipv4: Some(ipv4),
            ipv6: Some(Ipv6Link::default()),
            mtu: DEFAULT_MTU,
            gateway_mac: GATEWAY_MAC,
            container_mac: Some(derived_mac(ipv4.container)),
        }
    }
}

/// The container's Ethernet address unless told otherwise: locally administered, and the same whenever the
/// container's address is.
#[must_use]
pub fn derived_mac(container: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = container.octets();
    MacAddr([0x02, 0x6e, a, b, c, d])
}

/// An Ethernet address for a container, of random bits: locally administered, unicast, and not ours.
#[must_use]
pub fn random_mac(random: u64) -> MacAddr {
    let [a, b, c, d, e, f, ..] = random.to_be_bytes();
    let mac = MacAddr([(a | 0x02) & !0x01, b, c, d, e, f]);
    if mac == GATEWAY_MAC { MacAddr([0x06, b, c, d, e, f]) } else { mac }
}

/// The address that a host with this Ethernet address makes for itself in an advertised prefix: the modified
/// EUI-64 of RFC 4291, appendix A, and RFC 2464 §4.
#[must_use]
pub fn eui64_address(prefix: Ipv6Net, mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let identifier = u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(prefix.addr().to_bits() | u128::from(identifier))
}

/// A container's Ethernet address as asked for; ours is taken.
pub fn container_mac(asked: MacAddr) -> Result<MacAddr, AddressError> {
    if asked == GATEWAY_MAC { Err(AddressError::GatewayMac) } else { Ok(asked) }
}

/// Checks an MTU against the families on the link.
pub fn mtu(asked: u64, with_ipv6: bool) -> Result<u16, AddressError> {
    let smallest = if with_ipv6 { MIN_MTU_IPV6 } else { MIN_MTU_IPV4 };
    match u16::try_from(asked) {
        Ok(mtu) if (smallest..=MAX_MTU).contains(&mtu) => Ok(mtu),
        Ok(mtu) if with_ipv6 && (MIN_MTU_IPV4..MIN_MTU_IPV6).contains(&mtu) => {
            Err(AddressError::MtuNeedsNoIpv6)
        }
        Ok(_) | Err(_) => Err(AddressError::MtuOutOfRange { smallest }),
    }
}

/// Why the addresses asked for cannot be those of a link. The text is to follow what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A range that does not name neighbors on a link.
    #[error("covers {meaning} addresses; choose a private range such as 10.0.2.0/24 or fd00::/64")]
    Reserved {
        /// What the range stands for.
        meaning: &'static str,
    },
    /// Longer than /29.
    #[error(
        "a /{} has no room for gateway, DNS and container beside its network and broadcast address; \
         use a /29 or larger",
        .0.prefix_len()
    )]
    Ipv4TooSmall(Ipv4Net),
    /// Not in 48..=120.
    #[error("prefix length {} is out of range; use /48 to /120, best /64", .0.prefix_len())]
    Ipv6PrefixLength(Ipv6Net),
    /// The host bits name somebody else.
    #[error(
        "{address} is the {role} address of this subnet; give the container another, or none for the default"
    )]
    ContainerTaken {
        /// As asked.
        address: IpAddr,
        /// Whose it is.
        role: &'static str,
    },
    /// `--mac` names ours.
    #[error("{GATEWAY_MAC} is the gateway's own address; choose another")]
    GatewayMac,
    /// Fine for IPv4, too small for IPv6.
    #[error("IPv6 needs an MTU of at least {MIN_MTU_IPV6}; raise it or add --no-ipv6")]
    MtuNeedsNoIpv6,
    /// Too small or too large for any link.
    #[error("out of range; use {smallest} to {MAX_MTU}")]
    MtuOutOfRange {
        /// With the families at hand.
        smallest: u16,
    },
    /// The subnet is in use on the host.
    #[error(
        "subnet {subnet} overlaps {taken}/{prefix_len} of a host interface; choose a free one with {}",
        cidr_option(.subnet)
    )]
    HostNetwork {
        /// The link's.
        subnet: IpNet,
        /// The host interface's address.
        taken: IpAddr,
        /// The host interface's prefix length.
        prefix_len: u8,
    },
    /// A resolver would be hidden by the link.
    #[error(
        "subnet {subnet} contains the host's DNS resolver {resolver}; choose another with {}",
        cidr_option(.subnet)
    )]
    ContainsResolver {
        /// The link's.
        subnet: IpNet,
        /// The resolver.
        resolver: IpAddr,
    },
    /// Nothing of the list of defaults is free.
    #[error(
        "each of the {tried} default {family} subnets is in use on this host; choose a free one with {option}"
    )]
    NoFreeDefault {
        /// Length of the list.
        tried: usize,
        /// IPv4 or IPv6.
        family: &'static str,
        /// The option that names a subnet.
        option: &'static str,
    },
}

fn cidr_option(subnet: &IpNet) -> &'static str {
    match subnet {
        IpNet::V4(_) => "--cidr",
        IpNet::V6(_) => "--cidr6",
    }
}

fn ipv4_offset(subnet: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.addr().to_bits() | offset)
}

fn ipv6_offset(prefix: Ipv6Net, offset: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.addr().to_bits() | offset)
}

/// IPv4 ranges that cannot be a link's (RFC 6890). Link-local is not among them: it may be used between two
/// parties who know of it.
const RESERVED_IPV4: [(Ipv4Net, &str); 4] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8), "unspecified (0.0.0.0/8)"),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback (127.0.0.0/8)"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast (224.0.0.0/4)"),
    (Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), "reserved (240.0.0.0/4)"),
];

/// IPv6 ranges that cannot be a link's (RFC 4291 §2.4 and §4); the narrower name first.
const RESERVED_IPV6: [(Ipv6Net, &str); 5] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback (::1)"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), "IPv4-mapped (::ffff:0:0/96)"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 8), "reserved (::/8)"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local (fe80::/10)"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "multicast (ff00::/8)"),
];

fn reserved_ipv4(subnet: Ipv4Net) -> Option<&'static str> {
    let found = RESERVED_IPV4.iter().find(|(range, _)| range.contains(&subnet) || subnet.contains(range));
    found.map(|(_, meaning)| *meaning)
}

fn reserved_ipv6(prefix: Ipv6Net) -> Option<&'static str> {
    let found = RESERVED_IPV6.iter().find(|(range, _)| range.contains(&prefix) || prefix.contains(range));
    found.map(|(_, meaning)| *meaning)
}
