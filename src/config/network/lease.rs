//! Which addresses and names a container gets that is to be connected to a network.
//!
//! An address is a member's as long as it is connected: the lowest that is free, or the one it asks for. Its Ethernet
//! address follows from that, so that neighbors who remember the one know the other even when somebody else has it by
//! then. A name is one member's; an alias may be several members', who then share it. Who is on the network is an
//! argument: what has been leased is what they have.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::wish::HostName;
use super::{Member, NetworkConfig, NetworkIpv4, NetworkIpv6};
use crate::config::forwarding::InterfaceName;
use crate::config::limits::{ALIASES_PER_MEMBER, NETWORK_MEMBERS};
use crate::config::publish::PublishRule;
use crate::config::rules::Rules;
use crate::wire::MacAddr;

/// What a container asks for that is to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its name; one is made where there is none.
    pub name: Option<HostName>,
    /// Other names.
    pub aliases: Vec<HostName>,
    /// The address it wants.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address it wants.
    pub ipv6: Option<Ipv6Addr>,
    /// What its interface is to be called.
    pub interface: InterfaceName,
    /// Ports of the host that are to lead to it.
    pub publish: Vec<PublishRule>,
    /// What may go where, behind what the network's rules say.
    pub rules: Arc<Rules>,
    /// Whether it is written down where it goes.
    pub audited: bool,
}

/// Why a container cannot be a member. The text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// As many as there may be.
    #[error("network {network} has {NETWORK_MEMBERS} containers, which is the limit; disconnect one")]
    TooMany {
        /// Which network.
        network: String,
    },
    /// More aliases than there may be.
    #[error("{asked} aliases are asked for and {ALIASES_PER_MEMBER} are the limit; give fewer")]
    TooManyAliases {
        /// How many.
        asked: usize,
    },
    /// A name is one container's.
    #[error("{name} is on network {network} already; choose another name, or disconnect it")]
    NameTaken {
        /// As asked.
        name: HostName,
        /// Which network.
        network: String,
    },
    /// Somebody has the address.
    #[error("{address} is the address of {holder}; choose another, or none for a free one")]
    AddressTaken {
        /// As asked.
        address: IpAddr,
        /// Whose it is.
        holder: String,
    },
    /// Not one of the network's.
    #[error("{address} is not in {subnet}; choose an address there, or none for a free one")]
    NotInSubnet {
        /// As asked.
        address: IpAddr,
        /// The network's subnet.
        subnet: String,
    },
    /// The network does not have the family.
    #[error("network {network} has no {family}; leave {option} out")]
    FamilyOff {
        /// Which network.
        network: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// The option that asks for an address of it.
        option: &'static str,
    },
    /// Nothing is left.
    #[error("every address of {subnet} is taken; disconnect a container, or create a larger network")]
    NoneFree {
        /// The network's subnet.
        subnet: String,
    },
    /// An internal network is not reached from outside.
    #[error("network {network} is internal, and no port can lead into it; leave --publish out")]
    Internal {
        /// Which network.
        network: String,
    },
}

/// The member of `network` that a container becomes which is called `id`, beside those who are there.
///
/// # Errors
/// What it cannot have.
pub fn lease(
    network: &NetworkConfig,
    present: &[Member],
    id: String,
    wanted: Admission,
) -> Result<Member, MemberError> {
    let called = || network.name.clone();
    if present.len() >= NETWORK_MEMBERS {
        return Err(MemberError::TooMany { network: called() });
    }
    if wanted.aliases.len() > ALIASES_PER_MEMBER {
        return Err(MemberError::TooManyAliases { asked: wanted.aliases.len() });
    }
    if network.internal && !wanted.publish.is_empty() {
        return Err(MemberError::Internal { network: called() });
    }
    let name = match wanted.name {
        Some(name) if present.iter().any(|member| member.name == name.as_str()) => {
            return Err(MemberError::NameTaken { name, network: called() });
        }
        Some(name) => name.to_string(),
        None => free_name(present),
    };
    let ipv4 = match (network.ipv4, wanted.ipv4) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(MemberError::FamilyOff { network: called(), family: "IPv4", option: "--ip" });
        }
        (Some(ipv4), asked) => Some(ipv4_of(&ipv4, present, asked)?),
    };
    let ipv6 = match (network.ipv6, wanted.ipv6) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(MemberError::FamilyOff { network: called(), family: "IPv6", option: "--ip6" });
        }
        (Some(ipv6), asked) => Some(ipv6_of(&ipv6, present, asked)?),
    };
    let aliases: BTreeSet<String> = wanted.aliases.iter().map(HostName::to_string).collect();
    Ok(Member {
        id,
        aliases: aliases.into_iter().filter(|alias| *alias != name).collect(),
        name,
        ipv4,
        ipv6,
        mac: member_mac(ipv4, ipv6),
        interface: wanted.interface.to_string(),
        publish: wanted.publish,
        pid: None,
        namespace: None,
        rules: wanted.rules,
        audited: wanted.audited,
    })
}

/// The member that a user means: by its name, or by the beginning of its number that is no other's.
#[must_use]
pub fn meant_by<'a>(present: impl Iterator<Item = &'a Member> + Clone, text: &str) -> Option<&'a Member> {
    let name = text.to_ascii_lowercase();
    if let Some(member) = present.clone().find(|member| member.name == name || member.id == text) {
        return Some(member);
    }
    let mut beginning = present.filter(|member| text.len() >= 4 && member.id.starts_with(text));
    match (beginning.next(), beginning.next()) {
        (Some(member), None) => Some(member),
        (Some(_) | None, _) => None,
    }
}

/// `c1`, `c2` and so on, the first that nobody is called.
fn free_name(present: &[Member]) -> String {
    let names: BTreeSet<&str> = present.iter().map(|member| &*member.name).collect();
    let mut free = (1u32..).map(|number| format!("c{number}")).filter(|name| !names.contains(&**name));
    free.next().expect("there are fewer members than numbers")
}

fn ipv4_of(
    network: &NetworkIpv4,
    present: &[Member],
    asked: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, MemberError> {
    let NetworkIpv4 { subnet, gateway } = *network;
    let Some(asked) = asked else {
        let mut taken: BTreeSet<Ipv4Addr> = present.iter().filter_map(|member| member.ipv4).collect();
        taken.insert(gateway);
        let free = subnet.hosts().find(|address| !taken.contains(address));
        return free.ok_or_else(|| MemberError::NoneFree { subnet: subnet.to_string() });
    };
    let address = IpAddr::V4(asked);
    if !subnet.contains(&asked) {
        return Err(MemberError::NotInSubnet { address, subnet: subnet.to_string() });
    }
    let reserved = match asked {
        _ if asked == gateway => Some("the gateway"),
        _ if asked == subnet.network() => Some("the subnet itself"),
        _ if asked == subnet.broadcast() => Some("everybody in the subnet"),
        _ => None,
    };
    let holder = present.iter().find(|member| member.ipv4 == Some(asked));
    free_or_held(address, reserved, holder).map(|()| asked)
}

fn ipv6_of(
    network: &NetworkIpv6,
    present: &[Member],
    asked: Option<Ipv6Addr>,
) -> Result<Ipv6Addr, MemberError> {
    let NetworkIpv6 { prefix, gateway } = *network;
    let Some(asked) = asked else {
        let mut taken: BTreeSet<Ipv6Addr> = present.iter().filter_map(|member| member.ipv6).collect();
        taken.extend([gateway, prefix.network()]);
        let free = prefix.hosts().find(|address| !taken.contains(address));
        return free.ok_or_else(|| MemberError::NoneFree { subnet: prefix.to_string() });
    };
    let address = IpAddr::V6(asked);
    if !prefix.contains(&asked) {
        return Err(MemberError::NotInSubnet { address, subnet: prefix.to_string() });
    }
    let reserved = match asked {
        _ if asked == gateway => Some("the gateway"),
        // RFC 4291 §2.6.1: the anycast address of the subnet's routers.
        _ if asked == prefix.network() => Some("the routers of the subnet"),
        _ => None,
    };
    let holder = present.iter().find(|member| member.ipv6 == Some(asked));
    free_or_held(address, reserved, holder).map(|()| asked)
}

fn free_or_held(address: IpAddr, reserved: Option<&str>, holder: Option<&Member>) -> Result<(), MemberError> {
    match reserved.or_else(|| holder.map(|member| &*member.name)) {
        Some(holder) => Err(MemberError::AddressTaken { address, holder: holder.to_owned() }),
        None => Ok(()),
    }
}

/// Docker's: locally administered, and the IPv4 address behind it, or the end of the IPv6 address where there is no other.
/// Never the gateway's.
fn member_mac(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> MacAddr {
    let end = ipv6.map_or(0, |address| address.to_bits() as u32);
    let [a, b, c, d] = ipv4.map_or(end, Ipv4Addr::to_bits).to_be_bytes();
    MacAddr([0x02, 0x42, a, b, c, d])
}
