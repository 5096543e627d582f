//! The container as a neighbor on the link: who it is, and who we are to it (RFC 826, RFC 4861, RFC 5227).
//!
//! On a private segment we own the gateway's and the resolver's addresses and answer for these alone: never for the
//! container's own, which would break its duplicate address detection, nor for anyone else's. On a shared one
//! we answer for everybody but the container (proxy ARP, RFC 1027; RFC 4389). The container's link address is
//! configured or learnt, and follows what its frames say, so that it may change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::boundary::{Duration, FrameSink, Instant};
use super::drop_reason::DropReason;
use super::emit::{Emitter, Transport};
use super::service::router_advert::{ALL_NODES, Advertisement};
use crate::config::{LinkConfig, Segment};
use crate::wire::MacAddr;
use crate::wire::arp::{self, Operation};
use crate::wire::ip::{self, Ethernet, Header, Packet, protocol};
use crate::wire::ndp::{self, Message, NEIGHBOR_LEN};
use crate::wire::vnet_header::{Offload, VNET_HEADER_LEN};

/// RFC 4861 §10: RETRANS_TIMER.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of the container's link address, and the answers about ours.
#[derive(Debug)]
pub struct Neighbor {
    link: LinkConfig,
    advertisement: Advertisement,
    container_mac: Option<MacAddr>,
    solicited_ipv4: Option<Instant>,
    solicited_ipv6: Option<Instant>,
}

impl Neighbor {
    /// Knows what the configuration knows.
    #[must_use]
    pub fn new(link: &LinkConfig, advertisement: Advertisement) -> Neighbor {
        Neighbor {
            link: link.clone(),
            advertisement,
            container_mac: link.container_mac,
            solicited_ipv4: None,
            solicited_ipv6: None,
        }
    }

    /// Where frames for the container go, once that is known.
    #[must_use]
    pub fn container_mac(&self) -> Option<MacAddr> {
        self.container_mac
    }

    /// Link addresses of a frame for the container.
    ///
    /// # Errors
    /// `NoContainerMac` as long as nobody has said it; see [`Self::solicit`].
    pub fn ethernet(&self) -> Result<Ethernet, DropReason> {
        let destination = self.container_mac.ok_or(DropReason::NoContainerMac)?;
        Ok(Ethernet { source: self.link.gateway_mac, destination })
    }

    /// Takes note of who sent a valid frame. Only a unicast link address that is not ours counts, and only for
    /// an address on the link that is not ours.
    #[inline]
    pub fn learn(&mut self, source_mac: MacAddr, source: IpAddr) {
        if self.container_mac != Some(source_mac)
            && source_mac.is_unicast()
            && source_mac != self.link.gateway_mac
            && self.is_containers(source)
        {
            self.container_mac = Some(source_mac);
        }
    }

    /// Somebody else has learnt it.
    pub fn moved(&mut self, mac: MacAddr) {
        self.container_mac = Some(mac);
    }

    /// Answers a request for an address that we answer for.
    ///
    /// # Errors
    /// `NotForUs` for other addresses, `NeighborConflict` when the sender claims to be us, `LinkFull`.
    pub fn handle_arp<F: FrameSink>(
        &mut self,
        message: &arp::Message,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        if self.is_claimed(message.sender.into()) || message.sender_mac == self.link.gateway_mac {
            return Err(DropReason::NeighborConflict);
        }
        self.learn(message.sender_mac, message.sender.into());
        match message.operation {
            Operation::Reply => return Ok(()),
            Operation::Request if !self.is_ours(message.target.into()) => return Err(DropReason::NotForUs),
            // It asks whether anybody else has an address of its own.
            Operation::Request if self.is_shared() && is_probe(message) => return Err(DropReason::NotForUs),
            Operation::Request => {}
        }
        // A sender from elsewhere is answered, too: Linux asks in the name of whichever of its addresses the
        // packet carries. An unspecified one is a probe (RFC 5227 §2.1.1), against which we defend the address.
        let reply = arp::Message {
            operation: Operation::Reply,
            sender_mac: self.link.gateway_mac,
            sender: message.target,
            target_mac: message.sender_mac,
            target: message.sender,
        };
        self.send_arp(&reply, message.sender_mac, frames)
    }

    /// Answers neighbor and router solicitations, and learns from advertisements. `source_mac` is whom the
    /// frame is from, `packet` an ICMPv6 message for which [`ndp::is_discovery`] holds.
    ///
    /// # Errors
    /// `BadChecksum`, `NeighborInvalid`, `NotForUs`, `NeighborConflict`, `LinkFull`.
    pub fn handle_ndp<F: FrameSink>(
        &mut self,
        packet: &Packet<'_>,
        source_mac: MacAddr,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let IpAddr::V6(source) = packet.source else { return Err(DropReason::NeighborInvalid) };
        if !ip::transport_checksum_ok(packet.source, packet.destination, protocol::ICMPV6, packet.payload) {
            return Err(DropReason::BadChecksum);
        }
        // RFC 6980: neighbor discovery is never fragmented.
        let message = match packet.fragment {
            None => ndp::parse(packet.payload, packet.hop_limit).ok_or(DropReason::NeighborInvalid)?,
            Some(_) => return Err(DropReason::NeighborInvalid),
        };
        if self.is_claimed(packet.source) || source_mac == self.link.gateway_mac {
            return Err(DropReason::NeighborConflict);
        }
        match message {
            Message::RouterSolicitation { source_mac: told } => {
                self.answer_router_solicitation(source, source_mac, told, frames)
            }
            Message::NeighborSolicitation { target, source_mac: told } => {
                let destination = packet.destination;
                self.answer_neighbor_solicitation(
                    source,
                    destination,
                    target,
                    told.unwrap_or(source_mac),
                    told,
                    frames,
                )
            }
            Message::NeighborAdvertisement { target, target_mac: _ } if self.is_claimed(target.into()) => {
                Err(DropReason::NeighborConflict)
            }
            Message::NeighborAdvertisement { target, target_mac } => {
                self.learn(target_mac.unwrap_or(source_mac), target.into());
                Ok(())
            }
        }
    }

    /// Asks for the link address of `target`, a neighbor that is not ours; once a second at most. The answer
    /// comes through [`Self::handle_arp`] or [`Self::handle_ndp`].
    pub fn solicit<F: FrameSink>(&mut self, target: IpAddr, now: Instant, frames: &mut F) {
        if !self.is_containers(target) {
            return;
        }
        let last = if target.is_ipv6() { &mut self.solicited_ipv6 } else { &mut self.solicited_ipv4 };
        if last.is_some_and(|last| now < last + SOLICIT_INTERVAL) {
            return;
        }
        *last = Some(now);
        // A full link drops this as it would anything; the next second brings another.
        let _sent = match target {
            IpAddr::V4(target) => self.request(target, frames),
            IpAddr::V6(target) => self.solicit_ipv6(target, frames),
        };
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.link.is_answered_for(address)
    }

    /// Whether nobody else may speak as this address. On a shared segment the container's own addresses are more than
    /// we know.
    fn is_claimed(&self, address: IpAddr) -> bool {
        match self.link.segment {
            Segment::Private | Segment::Bridged { .. } => self.is_ours(address),
            Segment::Shared(_) => {
                self.link.gateway_like(address) == Some(address) || self.link.is_dns(address)
            }
        }
    }

    /// Whether the container may have this address.
    fn is_containers(&self, address: IpAddr) -> bool {
        match self.link.segment {
            Segment::Private => self.link.is_on_link(address) && !self.is_ours(address),
            Segment::Bridged { .. } => self.link.is_own(address),
            // It may have more of the host's addresses than the one we know.
            Segment::Shared(_) => {
                !address.is_unspecified() && !address.is_multicast() && !self.link.is_broadcast(address)
            }
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self.link.segment, Segment::Shared(_))
    }

    fn answer_router_solicitation<F: FrameSink>(
        &mut self,
        source: Ipv6Addr,
        source_mac: MacAddr,
        told: Option<MacAddr>,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        if source.is_unspecified() {
            return match told {
                // RFC 4861 §6.1.1: no link address without an address.
                Some(_) => Err(DropReason::NeighborInvalid),
                None => self.advertisement.send(ALL_NODES, ndp::multicast_mac(ALL_NODES), frames),
            };
        }
        self.learn(source_mac, source.into());
        self.advertisement.send(source, told.unwrap_or(source_mac), frames)
    }

    fn answer_neighbor_solicitation<F: FrameSink>(
        &mut self,
        source: Ipv6Addr,
        destination: IpAddr,
        target: Ipv6Addr,
        source_mac: MacAddr,
        told: Option<MacAddr>,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let is_probe = source.is_unspecified();
        // RFC 4861 §7.1.1: a probe goes to the solicited-node group and names no link address.
        if is_probe && (told.is_some() || destination != IpAddr::V6(ndp::solicited_node(target))) {
            return Err(DropReason::NeighborInvalid);
        }
        self.learn(source_mac, source.into());
        if !self.is_ours(target.into()) || (is_probe && self.is_shared()) {
            return Err(DropReason::NotForUs);
        }
        // RFC 4861 §7.2.4: all nodes hear that an address someone probes for is taken.
        let (destination, destination_mac) =
            if is_probe { (ALL_NODES, ndp::multicast_mac(ALL_NODES)) } else { (source, source_mac) };
        let mac = self.link.gateway_mac;
        self.send_ndp(target, destination, destination_mac, frames, |out| {
            ndp::write_neighbor_advertisement(out, target, destination, target, mac, !is_probe)
        })
    }

    fn request<F: FrameSink>(&self, target: Ipv4Addr, frames: &mut F) -> Result<(), DropReason> {
        let ipv4 = self.link.ipv4.ok_or(DropReason::NotForUs)?;
        let request = arp::Message {
            operation: Operation::Request,
            sender_mac: self.link.gateway_mac,
            sender: ipv4.gateway,
            target_mac: MacAddr([0; 6]),
            target,
        };
        self.send_arp(&request, MacAddr::BROADCAST, frames)
    }

    fn solicit_ipv6<F: FrameSink>(&self, target: Ipv6Addr, frames: &mut F) -> Result<(), DropReason> {
        let source = self.link.ipv6.ok_or(DropReason::NotForUs)?.gateway_link_local;
        let group = ndp::solicited_node(target);
        let mac = self.link.gateway_mac;
        self.send_ndp(source, group, ndp::multicast_mac(group), frames, |out| {
            ndp::write_neighbor_solicitation(out, source, group, target, mac)
        })
    }

    fn send_arp<F: FrameSink>(
        &self,
        message: &arp::Message,
        destination: MacAddr,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let frame = frames.reserve(arp::FRAME_LEN).ok_or(DropReason::LinkFull)?;
        let len = message.write_frame(frame, &Ethernet { source: self.link.gateway_mac, destination });
        frames.commit(len, [0; VNET_HEADER_LEN]);
        Ok(())
    }

    fn send_ndp<F: FrameSink>(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        destination_mac: MacAddr,
        frames: &mut F,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), DropReason> {
        let ethernet = Ethernet { source: self.link.gateway_mac, destination: destination_mac };
        let header = Header {
            source: source.into(),
            destination: destination.into(),
            protocol: protocol::ICMPV6,
            hop_limit: ndp::HOP_LIMIT,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        };
        let emitter = Emitter::new(self.link.mtu, Offload::NONE);
        emitter.send(&ethernet, &header, Transport::Complete, NEIGHBOR_LEN, fill, frames)
    }
}

/// Whether the sender wants to know if an address is its alone (RFC 5227 §1.1), or says that it has it.
fn is_probe(message: &arp::Message) -> bool {
    message.sender.is_unspecified() || message.sender == message.target
}

#[cfg(test)]
mod tests;
