//! What a network is asked to be, and what it becomes: its name, and subnets that are free.
//!
//! The gateway is the first address of each subnet unless another is named. Nothing here is taken from the host: which
//! subnets that uses is an argument, as for a single link ([`collision`](crate::config::address::collision)).
//!
//! RFCs: 1918 and 4193 (private ranges), 952 and 1123 §2.1 (names of hosts).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{NetworkConfig, NetworkIpv4, NetworkIpv6};
use crate::config::address::collision::{DEFAULT_IPV6_PREFIX, HostNetworks, check_subnet};
use crate::config::address::{AddressError, DEFAULT_MTU, GATEWAY_MAC, Ipv4Link, Ipv6Link, mtu};

/// Bytes of the longest name of a network.
pub const MAX_NETWORK_NAME: usize = 63;

/// IPv6 prefixes that are tried for a network, beginning behind those of single containers: `:100::/64`, `:101::/64`.
const IPV6_CANDIDATES: std::ops::Range<u128> = 0x100..0x200;

/// Name of a network: letters, digits, `_`, `.` and `-`, of which the first is a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NetworkName {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let may_follow = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins_well && text.len() <= MAX_NETWORK_NAME && text.bytes().all(may_follow) {
            Ok(NetworkName(text.to_owned()))
        } else {
            Err(NetworkError::Name(text.to_owned()))
        }
    }
}

/// Name of a host, in small letters: labels of letters, digits, hyphens and underscores, with dots between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// Bytes of the longest, written with dots (RFC 1035 §2.3.4: 255 with lengths and root).
    pub const MAX_LEN: usize = 253;
    /// Bytes of the longest label.
    const MAX_LABEL: usize = 63;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = |label: &str| {
            (1..=Self::MAX_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // RFC 1123 §2.1: what looks like an address is taken for one.
        let is_address = text.parse::<Ipv4Addr>().is_ok();
        if text.len() <= Self::MAX_LEN && !is_address && text.split('.').all(is_label) {
            Ok(HostName(text.to_ascii_lowercase()))
        } else {
            Err(NetworkError::HostName(text.to_owned()))
        }
    }
}

/// What was asked for when a network was created; everything left open is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkWish {
    /// IPv4 subnet.
    pub subnet: Option<Ipv4Net>,
    /// IPv6 prefix.
    pub subnet6: Option<Ipv6Net>,
    /// Whether there is no IPv6.
    pub without_ipv6: bool,
    /// The gateway's IPv4 address.
    pub gateway: Option<Ipv4Addr>,
    /// The gateway's IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// Bytes of the largest packet.
    pub mtu: Option<u64>,
    /// Whether members cannot reach each other.
    pub isolated: bool,
    /// Whether there is no way out.
    pub internal: bool,
    /// Whether the gateway stands for the host's loopback.
    pub host_loopback: bool,
}

/// What a new network must stay clear of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// The host's own networks.
    pub host: HostNetworks<'a>,
    /// Subnets of the other networks, each with its name.
    pub networks: &'a [(IpNet, String)],
}

impl NetworkConfig {
    /// The network that was wished for, on subnets that are free. The same host leads to the same choice.
    ///
    /// # Errors
    /// What of the wish cannot be, in one line.
    pub fn new(
        name: NetworkName,
        wish: &NetworkWish,
        around: Surroundings<'_>,
    ) -> Result<NetworkConfig, NetworkError> {
        let subnet = match wish.subnet {
            Some(subnet) => usable_ipv4(subnet, around)?,
            None => {
                let free = ipv4_candidates().find(|subnet| around.check((*subnet).into()).is_ok());
                free.ok_or(NetworkError::NoFreeSubnet { family: "IPv4", option: "--subnet" })?
            }
        };
        let gateway = wish.gateway.unwrap_or_else(|| Ipv4Addr::from_bits(subnet.network().to_bits() + 1));
        if !subnet.contains(&gateway) || gateway == subnet.network() || gateway == subnet.broadcast() {
            return Err(NetworkError::Gateway { gateway: gateway.into(), subnet: subnet.into() });
        }
        let ipv6 = if wish.without_ipv6 { None } else { Some(ipv6_of(wish, around)?) };
        let mtu = match wish.mtu {
            None => DEFAULT_MTU,
            Some(asked) => mtu(asked, ipv6.is_some()).map_err(|why| NetworkError::Mtu { asked, why })?,
        };
        Ok(NetworkConfig {
            name: name.to_string(),
            ipv4: Some(NetworkIpv4 { subnet, gateway }),
            ipv6,
            gateway_mac: GATEWAY_MAC,
            mtu,
            isolated: wish.isolated,
            internal: wish.internal,
            host_loopback: wish.host_loopback,
        })
    }

    /// Its subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        let ipv4 = self.ipv4.map(|ipv4| IpNet::V4(ipv4.subnet));
        let ipv6 = self.ipv6.map(|ipv6| IpNet::V6(ipv6.prefix));
        ipv4.into_iter().chain(ipv6)
    }
}

fn usable_ipv4(asked: Ipv4Net, around: Surroundings<'_>) -> Result<Ipv4Net, NetworkError> {
    let subnet = asked.trunc();
    if subnet != asked {
        return Err(NetworkError::HostBits { asked: asked.into(), subnet: subnet.into() });
    }
    // Whatever a single link may not be, a network may not be either.
    Ipv4Link::from_cidr(subnet).map_err(|why| NetworkError::Subnet { subnet: subnet.into(), why })?;
    around.check(subnet.into()).map(|()| subnet)
}

fn ipv6_of(wish: &NetworkWish, around: Surroundings<'_>) -> Result<NetworkIpv6, NetworkError> {
    let prefix = match wish.subnet6 {
        Some(asked) => {
            let prefix = asked.trunc();
            if prefix != asked {
                return Err(NetworkError::HostBits { asked: asked.into(), subnet: prefix.into() });
            }
            Ipv6Link::from_cidr(prefix).map_err(|why| NetworkError::Subnet { subnet: prefix.into(), why })?;
            around.check(prefix.into()).map(|()| prefix)?
        }
        None => {
            let free = ipv6_candidates().find(|prefix| around.check((*prefix).into()).is_ok());
            free.ok_or(NetworkError::NoFreeSubnet { family: "IPv6", option: "--subnet6" })?
        }
    };
    let first = Ipv6Addr::from_bits(prefix.network().to_bits() + 1);
    let gateway = wish.gateway6.unwrap_or(first);
    if !prefix.contains(&gateway) || gateway == prefix.network() {
        return Err(NetworkError::Gateway { gateway: gateway.into(), subnet: prefix.into() });
    }
    Ok(NetworkIpv6 { prefix, gateway })
}

/// Docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
fn ipv4_candidates() -> impl Iterator<Item = Ipv4Net> {
    let large = (17..32).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|part| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, part * 16, 0), 20));
    large.chain(small)
}

fn ipv6_candidates() -> impl Iterator<Item = Ipv6Net> {
    let site = DEFAULT_IPV6_PREFIX.addr().to_bits();
    IPV6_CANDIDATES.map(move |subnet| Ipv6Net::new_assert(Ipv6Addr::from_bits(site | subnet << 64), 64))
}

impl Surroundings<'_> {
    fn check(&self, subnet: IpNet) -> Result<(), NetworkError> {
        let overlaps = |other: &IpNet| other.contains(&subnet) || subnet.contains(other);
        if let Some((other, name)) = self.networks.iter().find(|(other, _)| overlaps(other)) {
            return Err(NetworkError::OtherNetwork { subnet, other: *other, name: name.clone() });
        }
        check_subnet(subnet, self.host).map_err(|why| match why {
            AddressError::HostNetwork { taken, prefix_len, .. } => {
                NetworkError::HostNetwork { subnet, taken, prefix_len }
            }
            AddressError::ContainsResolver { resolver, .. } => {
                NetworkError::ContainsResolver { subnet, resolver }
            }
            why => NetworkError::Subnet { subnet, why },
        })
    }
}

/// Why there can be no such network. The text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not a name of a network.
    #[error(
        "`{}` cannot be a network's name; use up to {MAX_NETWORK_NAME} letters, digits, `_`, `.` and `-`, a letter or digit \
         first",
        .0.escape_debug()
    )]
    Name(String),
    /// Not a name of a host.
    #[error(
        "`{}` cannot be the name of a host; use letters, digits, `-` and `_`, with dots between labels of up to 63",
        .0.escape_debug()
    )]
    HostName(String),
    /// A subnet is named by its first address.
    #[error("{asked} has host bits; {subnet} is the subnet")]
    HostBits {
        /// As given.
        asked: IpNet,
        /// What it lies in.
        subnet: IpNet,
    },
    /// A range that cannot be a link's.
    #[error("subnet {subnet}: {why}")]
    Subnet {
        /// As given.
        subnet: IpNet,
        /// What is wrong with it.
        why: AddressError,
    },
    /// The gateway's address is nobody's in the subnet.
    #[error(
        "{gateway} cannot be the gateway of {subnet}; give an address in it that is neither its first nor everybody's"
    )]
    Gateway {
        /// As given.
        gateway: IpAddr,
        /// The network's.
        subnet: IpNet,
    },
    /// Not an MTU.
    #[error("an MTU of {asked}: {why}")]
    Mtu {
        /// As given.
        asked: u64,
        /// What is wrong with it.
        why: AddressError,
    },
    /// The host uses it.
    #[error(
        "subnet {subnet} overlaps {taken}/{prefix_len} of a host interface; choose another, or none for a free one"
    )]
    HostNetwork {
        /// As given.
        subnet: IpNet,
        /// The interface's address.
        taken: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
    },
    /// The host's resolver would be hidden.
    #[error(
        "subnet {subnet} contains the host's DNS resolver {resolver}; choose another, or none for a free one"
    )]
    ContainsResolver {
        /// As given.
        subnet: IpNet,
        /// The resolver.
        resolver: IpAddr,
    },
    /// Another network has it.
    #[error("subnet {subnet} overlaps {other} of network {name}; choose another, or none for a free one")]
    OtherNetwork {
        /// As given.
        subnet: IpNet,
        /// The other's.
        other: IpNet,
        /// What that is called.
        name: String,
    },
    /// Nothing of the list is free.
    #[error("every {family} subnet that is usual for networks is in use; name a free one with {option}")]
    NoFreeSubnet {
        /// IPv4 or IPv6.
        family: &'static str,
        /// The option that names one.
        option: &'static str,
    },
}
