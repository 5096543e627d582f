//! The DHCP server (RFC 2131): addresses of the pool for a container that configures itself.
//!
//! It is the only server of the link and says so: what it has no record of, because it was started anew, it
//! grants where it could have granted it, and refuses otherwise, so that a client never waits for a server that
//! is not there. Leases are kept by [`leases`]; an address outside the pool, such as the one the container is
//! given by others, is never leased but may be asked about (INFORM).
//!
//! Every answer carries mask, router, broadcast address, the link's MTU and the [`Settings`], whether asked for or
//! not; only the name in full is told to none but who asks (RFC 4702 §4). Nothing that a client says of its own
//! name is kept. Left out: relays, BOOTP without DHCP, and probing an address before it is offered (RFC 2131
//! §4.3.1, a SHOULD): there is nobody else on the link.

pub mod leases;

use std::net::Ipv4Addr;

use self::leases::{ClientKey, Leases};
use super::settings::Settings;
use crate::config::{Config, Ipv4Link};
use crate::stack::boundary::{FrameSink, Instant};
use crate::stack::drop_reason::DropReason;
use crate::stack::emit::{Emitter, Transport};
use crate::wire::dhcp::{self, Network, Reply, ReplyKind, Request, RequestKind};
use crate::wire::ip::{Ethernet, Header, protocol};
use crate::wire::vnet_header::Offload;
use crate::wire::{MacAddr, udp};

/// How long an address is leased.
pub const LEASE_SECONDS: u32 = 86_400;

/// The server of one link.
#[derive(Debug)]
pub struct DhcpServer {
    ipv4: Ipv4Link,
    network: Network,
    gateway_mac: MacAddr,
    emitter: Emitter,
    leases: Leases,
}

/// An answer and whom it goes to.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    reply: Reply<'a>,
    tells_network: bool,
    destination: Ipv4Addr,
    destination_mac: MacAddr,
}

impl DhcpServer {
    /// The server that the configuration asks for, if it does.
    #[must_use]
    pub fn new(config: &Config) -> Option<DhcpServer> {
        let (pool, ipv4) = (config.services.dhcp?, config.link.ipv4?);
        let settings = Settings::of(config);
        let network = Network {
            mask: ipv4.subnet.netmask(),
            broadcast: ipv4.subnet.broadcast(),
            router: ipv4.gateway,
            router_is_elsewhere: !ipv4.subnet.contains(&ipv4.gateway),
            mtu: config.link.mtu,
            resolvers: settings.resolvers_ipv4,
            search: settings.search,
            hostname: settings.hostname,
            fqdn: settings.fqdn,
        };
        Some(DhcpServer {
            ipv4,
            network,
            gateway_mac: config.link.gateway_mac,
            // Clients read from packet sockets, which show a checksum that is yet to be completed as a wrong one.
            emitter: Emitter::new(config.link.mtu, Offload::NONE),
            leases: Leases::new(&pool, &ipv4, config.limits.dhcp_leases),
        })
    }

    /// Takes one message of a client and answers it.
    ///
    /// # Errors
    /// `DhcpInvalid`, `DhcpNotServed`, `DhcpPoolEmpty`, `LinkFull`.
    pub fn handle_message<F: FrameSink>(
        &mut self,
        message: &[u8],
        now: Instant,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let request = dhcp::parse(message).map_err(|_| DropReason::DhcpInvalid)?;
        match self.answer(&request, now)? {
            Some(answer) => self.send(&answer, request.max_packet, frames),
            None => Ok(()),
        }
    }

    fn answer<'a>(&mut self, request: &Request<'a>, now: Instant) -> Result<Option<Answer<'a>>, DropReason> {
        if !request.relay.is_unspecified() || request.mac == self.gateway_mac {
            return Err(DropReason::DhcpNotServed);
        }
        let client = ClientKey::of(request);
        let for_another = request.server.is_some_and(|server| server != self.ipv4.gateway);
        match request.kind {
            RequestKind::Discover => {
                let offered = self.leases.offer(client, request.requested_address, now);
                let address = offered.ok_or(DropReason::DhcpPoolEmpty)?;
                Ok(Some(self.grant(request, ReplyKind::Offer, address)))
            }
            RequestKind::Request if for_another => {
                // RFC 2131 §3.1: a choice for another server declines our offer.
                self.leases.withdraw_offer(&client);
                Err(DropReason::DhcpNotServed)
            }
            RequestKind::Request => {
                // RFC 2131 §4.3.2: selecting and init-reboot name the address in an option, renewing and
                // rebinding in `ciaddr`.
                let address = match request.requested_address {
                    Some(requested) => requested,
                    None if !request.client_address.is_unspecified() => request.client_address,
                    None => return Err(DropReason::DhcpInvalid),
                };
                // RFC 2131 §4.3.2 has a server without a record stay silent, lest it contradict another. There is
                // no other.
                Ok(Some(if self.leases.bind(client, address, now) {
                    self.grant(request, ReplyKind::Ack, address)
                } else {
                    self.refuse(request)
                }))
            }
            RequestKind::Decline | RequestKind::Release if for_another => Err(DropReason::DhcpNotServed),
            RequestKind::Decline => {
                let address = request.requested_address.ok_or(DropReason::DhcpInvalid)?;
                self.leases.decline(&client, address, now).then_some(None).ok_or(DropReason::DhcpNotServed)
            }
            RequestKind::Release => {
                let released = self.leases.release(&client, request.client_address);
                released.then_some(None).ok_or(DropReason::DhcpNotServed)
            }
            RequestKind::Inform if !self.is_neighbor(request.client_address) => Err(DropReason::DhcpInvalid),
            RequestKind::Inform => {
                // RFC 2131 §4.3.5: no address, no lease; to the address that asks.
                let reply = Reply {
                    client_address: request.client_address,
                    fqdn: request.fqdn,
                    ..self.reply(request, ReplyKind::Ack)
                };
                Ok(Some(Answer {
                    reply,
                    tells_network: true,
                    destination: request.client_address,
                    destination_mac: request.mac,
                }))
            }
        }
    }

    fn grant<'a>(&self, request: &Request<'a>, kind: ReplyKind, address: Ipv4Addr) -> Answer<'a> {
        // Table 3 of RFC 2131: an acknowledgement repeats `ciaddr`, an offer does not.
        let client_address = match kind {
            ReplyKind::Ack if request.client_address == address => address,
            ReplyKind::Ack | ReplyKind::Offer | ReplyKind::Nak => Ipv4Addr::UNSPECIFIED,
        };
        let reply = Reply {
            client_address,
            your_address: address,
            lease_seconds: Some(LEASE_SECONDS),
            fqdn: request.fqdn,
            ..self.reply(request, kind)
        };
        // RFC 2131 §4.1: to `ciaddr`; else by broadcast to who cannot do otherwise; else to the address that it
        // will have, by its link address.
        let (destination, destination_mac) = if client_address.is_unspecified() && request.broadcast {
            (Ipv4Addr::BROADCAST, MacAddr::BROADCAST)
        } else {
            (address, request.mac)
        };
        Answer { reply, tells_network: true, destination, destination_mac }
    }

    /// RFC 2131 §4.3.2: a refusal is for a client whose address is wrong, so it goes to all.
    fn refuse<'a>(&self, request: &Request<'a>) -> Answer<'a> {
        Answer {
            reply: self.reply(request, ReplyKind::Nak),
            tells_network: false,
            destination: Ipv4Addr::BROADCAST,
            destination_mac: MacAddr::BROADCAST,
        }
    }

    /// What every answer to `request` says.
    fn reply<'a>(&self, request: &Request<'a>, kind: ReplyKind) -> Reply<'a> {
        Reply {
            kind,
            transaction: request.transaction,
            broadcast: request.broadcast,
            client_address: Ipv4Addr::UNSPECIFIED,
            your_address: Ipv4Addr::UNSPECIFIED,
            mac: request.mac,
            client_identifier: request.client_identifier,
            server: self.ipv4.gateway,
            lease_seconds: None,
            network: None,
            fqdn: None,
        }
    }

    /// Whether somebody else on the link may have this address.
    fn is_neighbor(&self, address: Ipv4Addr) -> bool {
        leases::is_assignable(&self.ipv4, address)
    }

    /// Sends the answer in a packet that the client takes (RFC 2132 §9.10) and the link carries whole.
    fn send<F: FrameSink>(
        &self,
        answer: &Answer<'_>,
        max_packet: Option<u16>,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let packet = usize::from(max_packet.unwrap_or(0).min(self.network.mtu));
        let room = packet.saturating_sub(dhcp::PACKET_OVERHEAD).max(Reply::MIN_ROOM);
        let reply = Reply { network: answer.tells_network.then_some(&self.network), ..answer.reply };
        let ethernet = Ethernet { source: self.gateway_mac, destination: answer.destination_mac };
        let header = Header {
            source: self.ipv4.gateway.into(),
            destination: answer.destination.into(),
            protocol: protocol::UDP,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        };
        let fill = |out: &mut [u8]| {
            let len = reply.write(&mut out[udp::HEADER_LEN..][..room]);
            udp::write_header(out, dhcp::SERVER_PORT, dhcp::CLIENT_PORT, len);
            udp::HEADER_LEN + len
        };
        let len = udp::HEADER_LEN + room;
        self.emitter.send(&ethernet, &header, Transport::Udp, len, fill, frames)
    }
}

#[cfg(test)]
mod tests;
