//! The one forwarding decision.
//!
//! Everything that decides where a flow goes is a rule here: the gateway as an alias of the host's loopback, the
//! DNS address, published ports, and what may not be reached at all. TCP, UDP and echo ask the same function,
//! and no fast path goes around it.
//!
//! The rules toward the host, first match wins:
//! 1. DHCP, where it is offered, is served: to the broadcast address, also from a container that has no address
//!    yet, and to the gateway; DHCPv6 to the group of its servers;
//! 2. the source must be an address of the segment that is not ours (anything else is spoofed);
//! 3. the DNS address, port 53, is the forwarder; echo to it is answered; on a private segment the rest of it is
//!    closed, and without a forwarder it is nobody's;
//! 4. on a private segment, the gateway answers echo; its other ports are the host's loopback where that is allowed,
//!    else closed. On a shared one, where the gateway is the host's, an alias is the host's loopback, or the
//!    host by the address that the container has as well;
//! 5. a destination on a private segment that nobody has is unreachable, on a shared one a link-local IPv6
//!    address, whose link is not known;
//! 6. addresses that would mean "this host" or nobody to the host's kernel are martian: loopback, unspecified,
//!    IPv4-mapped and IPv4-compatible IPv6, reserved (RFC 1122 §3.2.1.3, RFC 4291 §2.5.5, RFC 6890), and IPv6 that has a
//!    translator or a tunnel make such an IPv4 address of it;
//! 7. multicast and broadcast stay on the segment;
//! 8. all else goes where it says, unless the segment is an internal one.
//!
//! On the segment of a network of several containers the first five are those of a private one, with three differences:
//! the source must be the container's own, not any of the segment; the gateway is the resolver as well, and has both
//! meanings; and other containers are not reached this way at all, as frames for them do not come to us. An internal
//! network has no way out (not to the host's loopback either), and none of its ports can be published.
//!
//! Whether it may go there is the policy's to say ([`super::policy`]), which is asked with what was decided here.

pub mod splice;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::drop_reason::DropReason;
use super::flow::FlowProtocol;
use crate::config::{Aliases, Config, LinkConfig, PublishRule, Segment};
use crate::wire::{dhcp, dhcpv6};

/// Port of the DNS.
const DNS_PORT: u16 = 53;

/// Where a flow that the container initiates goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// To this address, through a socket of the host.
    Host(SocketAddr),
    /// To the DNS forwarder.
    Resolver,
    /// To the gateway itself, which answers echo.
    Gateway,
    /// To the DHCP or DHCPv6 server.
    Dhcp,
    /// Nowhere, and the container is told so: RST or ICMP port unreachable.
    Closed(DropReason),
    /// Nowhere, and the container is told by ICMP host unreachable.
    Unreachable(DropReason),
    /// Nowhere, and the container is told that policy forbids it: RST or ICMP administratively prohibited.
    Prohibited(DropReason),
    /// Nowhere, silently.
    Drop(DropReason),
}

/// Where a flow that a client of a published port initiates goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// The client as the container will see it.
    pub client: SocketAddr,
    /// The container's server.
    pub server: SocketAddr,
    /// The client's real address could not be shown, so its port may be changed as well.
    pub masked: bool,
}

/// Decides where a flow from `source` in the container to `destination` goes.
#[must_use]
pub fn outbound(
    config: &Config,
    protocol: FlowProtocol,
    source: IpAddr,
    destination: SocketAddr,
) -> Outbound {
    let link = &config.link;
    if protocol == FlowProtocol::Udp && is_dhcp(config, source, destination) {
        return Outbound::Dhcp;
    }
    if !is_container_source(link, source) {
        return Outbound::Drop(DropReason::SpoofedSource);
    }
    let address = destination.ip();
    let decided = match link.segment {
        Segment::Private | Segment::Bridged { .. } => to_private(config, protocol, destination),
        Segment::Shared(aliases) => to_shared(config, aliases, protocol, destination),
    };
    if let Some(decided) = decided {
        return decided;
    }
    if is_loopback(address) {
        return Outbound::Drop(DropReason::HostLoopback);
    }
    if is_martian(address) {
        return Outbound::Drop(DropReason::Martian);
    }
    if address.is_multicast() || link.is_broadcast(address) {
        return Outbound::Drop(DropReason::Multicast);
    }
    let is_nobodys = match link.segment {
        Segment::Private | Segment::Bridged { .. } => link.is_on_link(address),
        // It has a meaning on one link only, and which of the host's is not known.
        Segment::Shared(_) => is_ipv6_link_local(address),
    };
    if is_nobodys {
        return Outbound::Unreachable(DropReason::NotForUs);
    }
    if link.is_internal() {
        return Outbound::Unreachable(DropReason::NoWayOut);
    }
    Outbound::Host(destination)
}

/// Our own addresses on a private segment.
fn to_private(config: &Config, protocol: FlowProtocol, destination: SocketAddr) -> Option<Outbound> {
    let address = destination.ip();
    let (is_gateway, is_dns) = (config.link.is_gateway(address), config.link.is_dns(address));
    if is_dns && config.services.dns && protocol != FlowProtocol::Echo && destination.port() == DNS_PORT {
        return Some(Outbound::Resolver);
    }
    if is_dns && !is_gateway {
        return Some(match protocol {
            _ if !config.services.dns => Outbound::Unreachable(DropReason::NotForUs),
            FlowProtocol::Echo => Outbound::Gateway,
            FlowProtocol::Tcp | FlowProtocol::Udp => Outbound::Closed(DropReason::Denied),
        });
    }
    if !is_gateway {
        return None;
    }
    Some(match protocol {
        FlowProtocol::Echo => Outbound::Gateway,
        FlowProtocol::Tcp | FlowProtocol::Udp if config.link.is_internal() => {
            Outbound::Closed(DropReason::NoWayOut)
        }
        FlowProtocol::Tcp | FlowProtocol::Udp if config.host_loopback => {
            Outbound::Host(SocketAddr::new(loopback_like(address), destination.port()))
        }
        FlowProtocol::Tcp | FlowProtocol::Udp => Outbound::Closed(DropReason::HostLoopback),
    })
}

/// What stands for something else on a shared segment.
fn to_shared(
    config: &Config,
    aliases: Aliases,
    protocol: FlowProtocol,
    destination: SocketAddr,
) -> Option<Outbound> {
    let address = destination.ip();
    let is_forwarder = config.services.dns && config.link.is_dns(address);
    if is_forwarder && protocol != FlowProtocol::Echo && destination.port() == DNS_PORT {
        return Some(Outbound::Resolver);
    }
    let meant = if aliases.loopback.like(address) == Some(address) {
        loopback_like(address)
    } else if aliases.host.like(address) == Some(address) {
        config.link.container_like(address)?
    } else if is_forwarder && protocol == FlowProtocol::Echo {
        return Some(Outbound::Gateway);
    } else {
        return None;
    };
    Some(match protocol {
        // It is the host that is asked, whatever its address.
        FlowProtocol::Echo => Outbound::Gateway,
        FlowProtocol::Tcp | FlowProtocol::Udp => Outbound::Host(SocketAddr::new(meant, destination.port())),
    })
}

/// Whether what a rule publishes can be the container's.
#[must_use]
pub fn can_publish(link: &LinkConfig, rule: &PublishRule) -> bool {
    let Some(own) = link.container_like(rule.host_address) else { return false };
    let server = rule.container_address.unwrap_or(own);
    server.is_ipv4() == own.is_ipv4() && is_container_source(link, server) && !link.is_internal()
}

/// Decides how a client that reached the host at `local` under `rule` appears in the container.
///
/// The client's own address and port are kept wherever the container could route an answer to it. A client on
/// the host's loopback, or one whose address the segment itself uses, appears as the gateway: a remote peer is
/// never shown as 127.0.0.1.
pub fn inbound(config: &Config, rule: &PublishRule, client: SocketAddr) -> Result<Inbound, DropReason> {
    let link = &config.link;
    let own = link.container_like(rule.host_address).ok_or(DropReason::Denied)?;
    let server = rule.container_address.unwrap_or(own);
    if !is_container_source(link, server) {
        // Nobody but the container is to be reached this way.
        return Err(DropReason::Denied);
    }
    if link.is_internal() {
        return Err(DropReason::NoWayOut);
    }
    let address = client.ip().to_canonical();
    if address.is_ipv4() != server.is_ipv4() || address.is_multicast() || address.is_unspecified() {
        return Err(DropReason::Martian);
    }
    let shown = match mask(link, address) {
        Mask::None if address == server => link.gateway_like(server),
        Mask::None => Some(address),
        Mask::As(mask) => mask,
    };
    let shown = shown.ok_or(DropReason::Denied)?;
    Ok(Inbound {
        client: SocketAddr::new(shown, client.port()),
        server: SocketAddr::new(server, rule.container_port),
        masked: shown != address,
    })
}

/// The address under which the container knows a host-side peer that answered an unconnected socket.
#[must_use]
pub fn shown_peer(config: &Config, peer: SocketAddr) -> SocketAddr {
    let address = peer.ip().to_canonical();
    let shown = match mask(&config.link, address) {
        Mask::As(Some(mask)) => mask,
        Mask::As(None) | Mask::None => address,
    };
    SocketAddr::new(shown, peer.port())
}

/// What an address of the host's side has to appear as in the container.
enum Mask {
    /// Itself.
    None,
    /// This, if it can appear at all.
    As(Option<IpAddr>),
}

/// Loopback is never shown as such, nor is an address that the container has, or that the segment uses.
fn mask(link: &LinkConfig, address: IpAddr) -> Mask {
    let gateway = link.gateway_like(address);
    match link.segment {
        Segment::Private | Segment::Bridged { .. } => {
            if is_loopback(address) || link.is_on_link(address) {
                Mask::As(gateway)
            } else {
                Mask::None
            }
        }
        Segment::Shared(aliases) => {
            if is_loopback(address) {
                Mask::As(aliases.loopback.like(address).or(gateway))
            } else if link.container_like(address) == Some(address) {
                Mask::As(aliases.host.like(address).or(gateway))
            } else if is_ipv6_link_local(address) || link.is_dns(address) {
                Mask::As(gateway)
            } else {
                Mask::None
            }
        }
    }
}

fn is_dhcp(config: &Config, source: IpAddr, destination: SocketAddr) -> bool {
    let link = &config.link;
    let is_offered = match destination.ip() {
        IpAddr::V4(v4) => {
            let is_server = v4.is_broadcast() || link.ipv4.is_some_and(|ipv4| ipv4.gateway == v4);
            config.services.dhcp.is_some() && is_server && destination.port() == dhcp::SERVER_PORT
        }
        IpAddr::V6(v6) => {
            config.services.dhcpv6 && v6 == dhcpv6::ALL_SERVERS && destination.port() == dhcpv6::SERVER_PORT
        }
    };
    // RFC 2131 §4.1: who has no address yet sends from 0.0.0.0, by broadcast.
    let has_no_address =
        source == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && destination.ip() == IpAddr::V4(Ipv4Addr::BROADCAST);
    is_offered && (has_no_address || is_container_source(link, source))
}

/// Whether the container may send from `source`.
#[must_use]
pub fn is_container_source(link: &LinkConfig, source: IpAddr) -> bool {
    if source.is_unspecified() || link.is_broadcast(source) || link.is_dns(source) {
        return false;
    }
    match link.segment {
        Segment::Bridged { .. } => link.is_own(source),
        Segment::Private => link.is_on_link(source) && !link.is_gateway(source),
        // It may have several of the host's addresses, and give itself others.
        Segment::Shared(aliases) => {
            link.gateway_like(source).is_some_and(|gateway| gateway != source)
                && aliases.loopback.like(source) != Some(source)
                && aliases.host.like(source) != Some(source)
                && !source.is_multicast()
                && !is_loopback(source)
                && !is_martian(source)
        }
    }
}

fn is_ipv6_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn loopback_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            // 0/8 reaches the local host through Linux; 240/4 but for broadcast is reserved (RFC 1112 §4).
            first == 0 || (first >= 240 && !v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let embeds_ipv4 = segments[..5] == [0; 5] && (segments[5] == 0xffff || segments[5] == 0);
            // Deprecated site-local, and the discard-only prefix of RFC 6666.
            embeds_ipv4
                || segments[0] & 0xffc0 == 0xfec0
                || segments[..4] == [0x0100, 0, 0, 0]
                || translated(v6).is_some_and(|v4| v4.is_loopback() || is_martian(v4.into()))
        }
    }
}

/// The IPv4 address that a translator or a tunnel of the host would make of it.
pub(super) fn embedded_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => translated(v6),
    }
}

/// The IPv4 address that NAT64 or 6to4 would make of it. RFC 6052 §3.1, RFC 3964 §4.1: the address must be one that is
/// of use to the world; a translator on the host may not know that.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
pub(crate) mod tests;
