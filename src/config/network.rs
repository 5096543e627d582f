//! A network of several containers on one segment: what it is, who is on it, and what is asked of it.
//!
//! All values are checked by whoever makes them: addresses lie in the subnets and are nobody else's, names are
//! names, rules of published ports belong to families that the network has. The gateway is the resolver as well, so
//! that every other address of the subnet is free for a container.

pub mod lease;
#[cfg(test)]
mod tests;
pub mod wish;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use super::address::GATEWAY_LINK_LOCAL;
use super::{Ipv4Link, Ipv6Link, LinkConfig, PublishRule, Rules, Segment};
use crate::wire::MacAddr;

/// A network as it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// What its users call it.
    pub name: String,
    /// IPv4 side, unless switched off.
    pub ipv4: Option<NetworkIpv4>,
    /// IPv6 side, unless switched off.
    pub ipv6: Option<NetworkIpv6>,
    /// Our Ethernet address, the same toward every container.
    pub gateway_mac: MacAddr,
    /// Bytes of the largest IP packet that is not a super-segment.
    pub mtu: u16,
    /// Whether the containers are kept apart from each other.
    pub isolated: bool,
    /// Whether there is no way out, and no way in but for the containers of the network.
    pub internal: bool,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
}

/// The IPv4 side of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkIpv4 {
    /// All of its addresses.
    pub subnet: Ipv4Net,
    /// Ours among them: router and resolver.
    pub gateway: Ipv4Addr,
}

/// The IPv6 side of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkIpv6 {
    /// All of its addresses.
    pub prefix: Ipv6Net,
    /// Ours among them: router and resolver.
    pub gateway: Ipv6Addr,
}

/// A container on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Names it in requests; of one member only, now.
    pub id: String,
    /// Under which the others find it.
    pub name: String,
    /// More such names.
    pub aliases: Vec<String>,
    /// Its address, where the network has IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// Its address, where the network has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its interface's name in the container.
    pub interface: String,
    /// Ports of the host that lead to it.
    pub publish: Vec<PublishRule>,
    /// A process in it, as far as whoever connected it knew one.
    pub pid: Option<i32>,
    /// Its network namespace, by the inode.
    pub namespace: Option<u64>,
    /// What may go where, behind what the network's rules say.
    pub rules: Arc<Rules>,
    /// Whether it is written down where it goes.
    pub audited: bool,
}

/// What is asked of the process that serves a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkRequest {
    /// Take a container in. With it come the descriptor of its TAP, which is configured already, and that of its
    /// process, with whose end it leaves; without that, it leaves when its TAP is gone. That of the audit's file, where there is one, is
    /// the last.
    Connect(Member),
    /// Let a container go.
    Disconnect {
        /// [`Member::id`].
        id: String,
    },
    /// Publish more ports of a container, all or none.
    Publish {
        /// [`Member::id`].
        id: String,
        /// The ports.
        rules: Vec<PublishRule>,
    },
    /// Publish ports of a container no longer; those that are not published are passed over.
    Unpublish {
        /// [`Member::id`].
        id: String,
        /// The ports.
        rules: Vec<PublishRule>,
    },
    /// Tell what the network is and who is on it.
    Inspect {
        /// Without published ports and without what was refused, which with many containers is most of it.
        brief: bool,
    },
    /// Come to an end.
    Remove {
        /// Even with containers on it.
        force: bool,
    },
}

/// What came of a [`NetworkRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkReply {
    /// It is done.
    Done,
    /// How things are.
    Inspected(NetworkStatus),
    /// It cannot be, for this reason.
    Refused(String),
}

/// A network as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// As it was created.
    pub config: NetworkConfig,
    /// Who is on it.
    pub members: Vec<MemberStatus>,
}

/// A container on the network, and what passed between it and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its ports are those that are published now.
    pub member: Member,
    /// Frames that it sent to other containers.
    pub frames_sent: u64,
    /// Bytes of these.
    pub bytes_sent: u64,
    /// Frames of its that were refused, by the names of the reasons; none that did not occur.
    pub dropped: Vec<(&'static str, u64)>,
}

impl NetworkStatus {
    /// The same without published ports and what was refused.
    #[must_use]
    pub fn briefly(mut self) -> NetworkStatus {
        for status in &mut self.members {
            status.member.publish.clear();
            status.dropped.clear();
        }
        self
    }
}

impl NetworkConfig {
    /// The segment as one member sees it.
    #[must_use]
    pub fn link_of(&self, member: &Member) -> LinkConfig {
        let ipv4 = self.ipv4.zip(member.ipv4).map(|(NetworkIpv4 { subnet, gateway }, container)| Ipv4Link {
            subnet,
            gateway,
            dns: Some(gateway),
            container,
        });
        let ipv6 = self.ipv6.zip(member.ipv6).map(|(NetworkIpv6 { prefix, gateway }, container)| Ipv6Link {
            prefix,
            gateway,
            gateway_link_local: GATEWAY_LINK_LOCAL,
            dns: Some(gateway),
            container,
        });
        LinkConfig {
            segment: Segment::Bridged { internal: self.internal },
            ipv4,
            ipv6,
            mtu: self.mtu,
            gateway_mac: self.gateway_mac,
            container_mac: Some(member.mac),
        }
    }
}
