//! The addresses of the segment between the container and us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::wire::MacAddr;

/// The Ethernet segment: one container, one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
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

/// Addresses of the IPv4 side, all inside `subnet` and distinct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Link {
    /// The segment's prefix.
    pub subnet: Ipv4Net,
    /// Default route of the container, and the host as seen from there.
    pub gateway: Ipv4Addr,
    /// Where the container sends its DNS queries.
    pub dns: Ipv4Addr,
    /// The container.
    pub container: Ipv4Addr,
}

/// Addresses of the IPv6 side, all inside `prefix` and distinct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Link {
    /// The segment's prefix, a /64 when it is to be advertised.
    pub prefix: Ipv6Net,
    /// The host as seen from the container.
    pub gateway: Ipv6Addr,
    /// Source of router advertisements and default route of the container (RFC 4861 §4.2).
    pub gateway_link_local: Ipv6Addr,
    /// Where the container sends its DNS queries.
    pub dns: Ipv6Addr,
    /// The container.
    pub container: Ipv6Addr,
}

impl LinkConfig {
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
            IpAddr::V4(v4) => self.ipv4.is_some_and(|link| link.dns == v4),
            IpAddr::V6(v6) => self.ipv6.is_some_and(|link| link.dns == v6),
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
