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

use std::net::IpAddr;

/// Everything the core needs to know about its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The Ethernet segment between the container and us.
    pub link: LinkConfig,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
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
