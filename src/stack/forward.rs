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
//! 3. the DNS address, port 53, is the forwarder; echo to it is answered; the rest of it is closed; without a
//!    forwarder it is nobody's;
//! 4. the gateway answers echo; its other ports are the host's loopback where that is allowed, else closed;
//! 5. a destination on the segment that nobody has is unreachable;
//! 6. addresses that would mean "this host" or nobody to the host's kernel are martian: loopback, unspecified,
//!    IPv4-mapped and IPv4-compatible IPv6, reserved (RFC 1122 §3.2.1.3, RFC 4291 §2.5.5, RFC 6890);
//! 7. multicast and broadcast stay on the segment;
//! 8. all else goes where it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::drop_reason::DropReason;
use super::flow::FlowProtocol;
use crate::config::{Config, LinkConfig, PublishRule};
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
    if link.is_dns(address) {
        if !config.services.dns {
            return Outbound::Unreachable(DropReason::NotForUs);
        }
        return match protocol {
            FlowProtocol::Echo => Outbound::Gateway,
            FlowProtocol::Tcp | FlowProtocol::Udp if destination.port() == DNS_PORT => Outbound::Resolver,
            FlowProtocol::Tcp | FlowProtocol::Udp => Outbound::Closed(DropReason::Denied),
        };
    }
    if link.is_gateway(address) {
        return match protocol {
            FlowProtocol::Echo => Outbound::Gateway,
            FlowProtocol::Tcp | FlowProtocol::Udp if config.host_loopback => {
                Outbound::Host(SocketAddr::new(loopback_like(address), destination.port()))
            }
            FlowProtocol::Tcp | FlowProtocol::Udp => Outbound::Closed(DropReason::HostLoopback),
        };
    }
    if is_loopback(address) {
        return Outbound::Drop(DropReason::HostLoopback);
    }
    if is_martian(address) {
        return Outbound::Drop(DropReason::Martian);
    }
    if address.is_multicast() || is_broadcast(link, address) {
        return Outbound::Drop(DropReason::Multicast);
    }
    if link.is_on_link(address) {
        return Outbound::Unreachable(DropReason::NotForUs);
    }
    Outbound::Host(destination)
}

/// Whether what a rule publishes can be the container's.
#[must_use]
pub fn can_publish(link: &LinkConfig, rule: &PublishRule) -> bool {
    let Some(own) = link.container_like(rule.host_address) else { return false };
    let server = rule.container_address.unwrap_or(own);
    server.is_ipv4() == own.is_ipv4() && is_container_source(link, server)
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
    let gateway = link.gateway_like(server).ok_or(DropReason::Denied)?;
    let address = client.ip().to_canonical();
    if address.is_ipv4() != server.is_ipv4() || address.is_multicast() || address.is_unspecified() {
        return Err(DropReason::Martian);
    }
    let masked = is_loopback(address) || link.is_on_link(address) || address == server;
    let shown = if masked { gateway } else { address };
    Ok(Inbound {
        client: SocketAddr::new(shown, client.port()),
        server: SocketAddr::new(server, rule.container_port),
        masked,
    })
}

/// The address under which the container knows a host-side peer that answered an unconnected socket.
#[must_use]
pub fn shown_peer(config: &Config, peer: SocketAddr) -> SocketAddr {
    let address = peer.ip().to_canonical();
    match config.link.gateway_like(address) {
        Some(gateway) if is_loopback(address) || config.link.is_on_link(address) => {
            SocketAddr::new(gateway, peer.port())
        }
        _ => SocketAddr::new(address, peer.port()),
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

fn is_container_source(link: &LinkConfig, source: IpAddr) -> bool {
    link.is_on_link(source)
        && !link.is_gateway(source)
        && !link.is_dns(source)
        && !is_broadcast(link, source)
        && !source.is_unspecified()
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
            embeds_ipv4 || segments[0] & 0xffc0 == 0xfec0 || segments[..4] == [0x0100, 0, 0, 0]
        }
    }
}

fn is_broadcast(link: &LinkConfig, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_broadcast()
                || link.ipv4.is_some_and(|ipv4| v4 == ipv4.subnet.broadcast() || v4 == ipv4.subnet.network())
        }
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests;
