//! What an instance was asked to be, after every dialect of the command line has been resolved.
//!
//! Values here are parsed, checked and complete: nothing downstream validates again. The core reads it through
//! an `Arc` and never changes it.

pub mod address;
pub mod limits;
pub mod publish;

pub use address::{Ipv4Link, Ipv6Link, LinkConfig};
pub use limits::{Limits, Timeouts};
pub use publish::{PortProtocol, PublishRule};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything the core needs to know about its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The Ethernet segment between the container and us.
    pub link: LinkConfig,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
    /// What the segment offers beside the way out.
    pub services: Services,
    /// Where host sockets send from.
    pub outbound: OutboundAddresses,
    /// How UDP endpoints are mapped.
    pub udp_mapping: UdpMapping,
    /// Ports of the host that lead into the container; a listener's identifier is its place here.
    pub publish: Vec<PublishRule>,
    /// Addresses of the host itself, at start-up; used to tell a client's address from the container's own.
    pub host_addresses: Vec<IpAddr>,
    /// Upper bounds of everything that grows.
    pub limits: Limits,
    /// How long silence is tolerated.
    pub timeouts: Timeouts,
}

/// Services that we offer on the segment ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// Whether the DNS addresses of the link forward queries; otherwise they are addresses that nobody has.
    pub dns: bool,
    /// Addresses leased over DHCP, where that is offered.
    pub dhcp: Option<DhcpPool>,
    /// Whether stateless DHCPv6 (RFC 8415 §6.1) is answered.
    pub dhcpv6: bool,
}

impl Default for Services {
    /// What `netferry run` offers: it has configured the container itself, and nobody asks for a lease.
    fn default() -> Services {
        Services { dns: true, dhcp: None, dhcpv6: false }
    }
}

/// Addresses to lease, both ends included, all inside the link's subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DhcpPool {
    /// The first.
    pub first: Ipv4Addr,
    /// The last; not below `first`.
    pub last: Ipv4Addr,
}

/// Source addresses of the sockets we open on the host; the kernel chooses where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboundAddresses {
    /// Of IPv4 sockets.
    pub ipv4: Option<Ipv4Addr>,
    /// Of IPv6 sockets.
    pub ipv6: Option<Ipv6Addr>,
}

/// Mapping behaviour of UDP, RFC 4787 §4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UdpMapping {
    /// One connected host socket for each pair of endpoints: only the peer asked may answer, and its ICMP
    /// errors are heard.
    #[default]
    Connected,
    /// One unconnected host socket for each container endpoint: anyone who learns the mapping may answer.
    EndpointIndependent,
}
