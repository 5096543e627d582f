//! What an instance was asked to be, after every dialect of the command line has been resolved.
//!
//! Values here are parsed, checked and complete: nothing downstream validates again. The core reads it through
//! an `Arc` and never changes it.

pub mod address;
pub mod filter;
pub mod forwarding;
pub mod hook;
pub mod limits;
pub mod network;
pub mod publish;
pub mod rate;
pub mod rules;
pub mod timeouts;

pub use address::{AddressPair, Aliases, Ipv4Link, Ipv6Link, LinkConfig, Segment};
pub use forwarding::{Forwarding, InterfaceName, LocalClients, PortForwarding, PortSet, PortsAt};
pub use hook::{HookSettings, HookVerdict, OnFailure};
pub use limits::Limits;
pub use publish::{PortProtocol, PublishRule};
pub use rate::{Impairment, Impairments, Rate, RateLimits};
pub use rules::Rules;
pub use timeouts::Timeouts;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Everything the core needs to know about its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The Ethernet segment between the container and us.
    pub link: LinkConfig,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
    /// What of the container's traffic is carried at all.
    pub transports: Transports,
    /// What the segment offers beside the way out.
    pub services: Services,
    /// What those who ask for their settings are told.
    pub offers: Offers,
    /// How a client on the host's loopback reaches a published port.
    pub local_clients: LocalClients,
    /// Where host sockets send from.
    pub outbound: OutboundAddresses,
    /// What published TCP ports do that nobody listens on in the container.
    pub closed_ports: ClosedPorts,
    /// How UDP endpoints are mapped.
    pub udp_mapping: UdpMapping,
    /// Ports of the host that lead into the container; a listener's identifier is its place here.
    pub publish: Vec<PublishRule>,
    /// Addresses of the host itself, at start-up; used to tell a client's address from the container's own.
    pub host_addresses: Vec<IpAddr>,
    /// Networks that the host is on, at start-up.
    pub host_networks: Vec<IpNet>,
    /// What may go where.
    pub rules: Rules,
    /// Whether it is written down where the container goes.
    pub audit: bool,
    /// Upper bounds of everything that grows.
    pub limits: Limits,
    /// How long silence is tolerated.
    pub timeouts: Timeouts,
}

impl Config {
    /// An instance on `link` of which nothing else is asked for.
    #[must_use]
    pub fn on(link: LinkConfig) -> Config {
        Config {
            link,
            host_loopback: false,
            transports: Transports::default(),
            services: Services::default(),
            offers: Offers::default(),
            local_clients: LocalClients::default(),
            outbound: OutboundAddresses::default(),
            closed_ports: ClosedPorts::default(),
            udp_mapping: UdpMapping::default(),
            publish: Vec::new(),
            host_addresses: Vec::new(),
            host_networks: Vec::new(),
            rules: Rules::default(),
            audit: false,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// The same for one worker of several. The first has the published ports and all that is no connection; the others
    /// offer nothing.
    #[must_use]
    pub fn share_of(&self, is_first: bool, workers: usize) -> Config {
        let mut part = Config { limits: self.limits.share_of(workers), ..self.clone() };
        if !is_first {
            part.publish = Vec::new();
            part.services = Services {
                dhcp: None,
                dhcpv6: false,
                router_adverts: false,
                neighbor_discovery: false,
                // Asked over TCP, it is a connection like any other.
                dns: self.services.dns,
            };
        }
        part
    }
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
    /// Whether router advertisements are sent (RFC 4861 §6.2).
    pub router_adverts: bool,
    /// Whether neighbor solicitations are answered (RFC 4861 §7.2).
    pub neighbor_discovery: bool,
}

impl Default for Services {
    /// What `netferry run` offers: it has configured the container itself, and nobody asks for a lease.
    fn default() -> Services {
        Services { dns: true, dhcp: None, dhcpv6: false, router_adverts: true, neighbor_discovery: true }
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
    /// The only interface that IPv4 sockets use (`SO_BINDTODEVICE`).
    pub ipv4_device: Option<InterfaceName>,
    /// The only interface that IPv6 sockets use.
    pub ipv6_device: Option<InterfaceName>,
}

/// What of the container's traffic is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
    /// Echo, and the errors of both families of ICMP.
    pub icmp: bool,
}

impl Default for Transports {
    fn default() -> Transports {
        Transports { tcp: true, udp: true, icmp: true }
    }
}

/// What is told over DHCP, DHCPv6 and router advertisements beside addresses. Without a resolver here, the link's
/// DNS address is told where that forwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers {
    /// Resolvers, instead of the link's own.
    pub resolvers: Option<Vec<IpAddr>>,
    /// Domains to search, in their order.
    pub search: Vec<String>,
    /// The container's host name.
    pub hostname: Option<String>,
    /// The container's name in full (RFC 4702, RFC 4704).
    pub fqdn: Option<String>,
}

/// What a published TCP port does while nobody listens on it in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClosedPorts {
    /// It accepts clients, and resets those that the container then refuses.
    Accept,
    /// The same until the container has refused one; then it refuses the next itself, until somebody listens, and for ten
    /// seconds at most.
    #[default]
    Learn,
    /// It refuses clients from the beginning, as the container would.
    Refuse,
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
