//! Who a frame on the network may say it is from, and what only the gateway may say.
//!
//! A container that could speak as another, or as the gateway, would be sent what is meant for them. So the sender of
//! every frame that leaves for other containers is looked at: the source of a packet, and what ARP and neighbor discovery tell
//! of. It must hold the address, or be the first to use a link-local one. And whoever is heard as a router, or as a server of
//! addresses, decides where others send; nobody but us is. Rules that look at the first bytes of a message do so in the
//! first fragment as well, and a first fragment that hides them is refused (RFC 6980, RFC 7113 §3).

use std::net::IpAddr;

use super::{Bridge, Claim, PortId};
use crate::config::LinkConfig;
use crate::stack::boundary::Instant;
use crate::stack::drop_reason::DropReason;
use crate::wire::arp::{self, Operation};
use crate::wire::frame::{Body, Frame, FrameError};
use crate::wire::ip::{IPV6_HEADER_LEN, Packet, protocol};
use crate::wire::{MacAddr, dhcp, dhcpv6, ndp};

const ICMP_REDIRECT: u8 = 5;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// What may stand between a fragment header and the transport: behind it a first fragment could hide what it is.
const EXTENSIONS: [u8; 8] = [
    protocol::HOP_BY_HOP,
    protocol::ROUTING,
    protocol::FRAGMENT,
    51, // Authentication header, RFC 4302.
    protocol::DESTINATION_OPTIONS,
    135, // Mobility header, RFC 6275.
    139, // Host identity, RFC 7401.
    140, // Shim6, RFC 5533.
];

impl<T> Bridge<T> {
    /// Whether the container of port `from` may send this to others; what is to be learnt first.
    pub(super) fn check_origin(
        &self,
        from: PortId,
        link: &LinkConfig,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<Option<Claim>, DropReason> {
        match &frame.body {
            Body::Arp(message) => self.check_arp(from, link, frame.source, message).map(|()| None),
            Body::Ip(packet) => {
                check_service(packet)?;
                let claim = self.check_source(from, link, packet, now)?;
                if claim.is_some() || packet.protocol != protocol::ICMPV6 || packet.fragment.is_some() {
                    return Ok(claim);
                }
                self.check_discovery(from, link, frame.source, packet, now)
            }
        }
    }

    fn check_arp(
        &self,
        from: PortId,
        link: &LinkConfig,
        source: MacAddr,
        message: &arp::Message,
    ) -> Result<(), DropReason> {
        if message.sender_mac != source {
            return Err(DropReason::SpoofedMac);
        }
        let is_probe = message.operation == Operation::Request && message.sender.is_unspecified();
        let own = self.ports.get(&from).and_then(|port| port.ipv4);
        if is_probe || own == Some(message.sender) {
            return Ok(());
        }
        let sender = IpAddr::V4(message.sender);
        let is_anothers =
            link.is_gateway(sender) || link.is_dns(sender) || self.addresses.contains_key(&sender);
        Err(if is_anothers { DropReason::NeighborConflict } else { DropReason::SpoofedSource })
    }

    fn check_source(
        &self,
        from: PortId,
        link: &LinkConfig,
        packet: &Packet<'_>,
        now: Instant,
    ) -> Result<Option<Claim>, DropReason> {
        let source = packet.source;
        if source.is_unspecified() {
            return may_have_no_source(packet).then_some(None).ok_or(DropReason::SpoofedSource);
        }
        self.check_holder(from, link, source, DropReason::SpoofedSource, now)
    }

    /// Whether the port holds an address, or may come to.
    fn check_holder(
        &self,
        from: PortId,
        link: &LinkConfig,
        address: IpAddr,
        refusal: DropReason,
        now: Instant,
    ) -> Result<Option<Claim>, DropReason> {
        match self.addresses.get(&address) {
            Some(holder) if holder.port == from => {
                holder.note(now);
                Ok(None)
            }
            Some(holder) if holder.is_fresh(now) => Err(refusal),
            Some(_) | None => match address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() && !link.is_gateway(address) => {
                    self.may_learn(from, now).map(|()| Some(Claim::Address(v6)))
                }
                IpAddr::V4(_) | IpAddr::V6(_) => Err(refusal),
            },
        }
    }

    /// What is told about link addresses must be true.
    fn check_discovery(
        &self,
        from: PortId,
        link: &LinkConfig,
        source: MacAddr,
        packet: &Packet<'_>,
        now: Instant,
    ) -> Result<Option<Claim>, DropReason> {
        if !ndp::is_discovery(packet.payload) {
            return Ok(None);
        }
        let message = ndp::parse(packet.payload, packet.hop_limit).ok_or(DropReason::NeighborInvalid)?;
        let told = match message {
            ndp::Message::RouterSolicitation { source_mac }
            | ndp::Message::NeighborSolicitation { source_mac, .. } => source_mac,
            ndp::Message::NeighborAdvertisement { target_mac, .. } => target_mac,
        };
        if told.is_some_and(|told| told != source) {
            return Err(DropReason::SpoofedMac);
        }
        match message {
            ndp::Message::RouterSolicitation { .. } => Ok(None),
            ndp::Message::NeighborAdvertisement { target, .. } => {
                self.check_holder(from, link, target.into(), DropReason::NeighborConflict, now)
            }
            // RFC 6620 §3.2.3: who asks whether anybody has an address is about to take it. Should somebody have it, the
            // question reaches him, and the answer tells.
            ndp::Message::NeighborSolicitation { target, .. } if packet.source.is_unspecified() => {
                let claim = self.check_holder(from, link, target.into(), DropReason::NeighborConflict, now);
                Ok(claim.unwrap_or(None))
            }
            ndp::Message::NeighborSolicitation { .. } => Ok(None),
        }
    }
}

/// Who has no address yet asks for one, or whether anybody else has it, and tells which groups it listens to; none of it in
/// fragments (RFC 6980 §5).
fn may_have_no_source(packet: &Packet<'_>) -> bool {
    match packet.source {
        IpAddr::V4(_) => super::is_for_server(packet),
        IpAddr::V6(_) => {
            // That of a fragment stands behind its header, be it the only one of its packet.
            let icmp_at = match packet.bytes.get(6) {
                Some(&protocol::HOP_BY_HOP) => IPV6_HEADER_LEN,
                _ => 6,
            };
            packet.bytes.get(icmp_at) == Some(&protocol::ICMPV6) && packet.destination.is_multicast()
        }
    }
}

/// Refuses what only the gateway may say.
fn check_service(packet: &Packet<'_>) -> Result<(), DropReason> {
    let is_first = packet.fragment.is_none_or(|fragment| fragment.offset == 0);
    if !is_first {
        // Useless without the first.
        return Ok(());
    }
    let is_ipv6 = packet.source.is_ipv6();
    match packet.protocol {
        protocol::UDP => match packet.payload {
            [high, low, ..] => {
                let source_port = u16::from_be_bytes([*high, *low]);
                let server_port = if is_ipv6 { dhcpv6::SERVER_PORT } else { dhcp::SERVER_PORT };
                if source_port == server_port { Err(DropReason::RogueServer) } else { Ok(()) }
            }
            _ => Err(DropReason::BadTransport),
        },
        protocol::ICMP if !is_ipv6 && packet.payload.first() == Some(&ICMP_REDIRECT) => {
            Err(DropReason::RogueServer)
        }
        protocol::ICMPV6 if is_ipv6 => match packet.payload.first() {
            Some(&(ROUTER_ADVERTISEMENT | REDIRECT)) => Err(DropReason::RogueServer),
            Some(_) if packet.fragment.is_some() && ndp::is_discovery(packet.payload) => {
                Err(DropReason::NeighborInvalid)
            }
            Some(_) => Ok(()),
            None => Err(DropReason::BadTransport),
        },
        hidden if is_ipv6 && packet.fragment.is_some() && EXTENSIONS.contains(&hidden) => {
            Err(DropReason::Frame(FrameError::ExtensionChain))
        }
        _ => Ok(()),
    }
}
