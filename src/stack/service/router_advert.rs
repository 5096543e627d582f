//! Router advertisements (RFC 4861 §6.2, RFC 8106): how a container that configures itself learns its prefix,
//! its default route, the MTU and the resolver.
//!
//! Sent to whoever solicits, at once, and to all nodes now and then. Lifetimes stay well above the interval, so
//! that a lost advertisement costs nothing. Randomness comes as an argument.

use std::net::{IpAddr, Ipv6Addr};

use super::settings::Settings;
use crate::config::{Config, LinkConfig, Segment, Services};
use crate::stack::boundary::{Duration, FrameSink, Instant};
use crate::stack::drop_reason::DropReason;
use crate::stack::emit::{Emitter, Transport};
use crate::wire::MacAddr;
use crate::wire::ip::{Ethernet, Header, protocol};
use crate::wire::ndp::{self, RouterAdvertisement};
use crate::wire::vnet_header::Offload;

/// `ff02::1`.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// RFC 4861 §6.2.1: no more than 9 000 s.
const ROUTER_LIFETIME_SECONDS: u16 = 9_000;
/// RFC 4861 §6.2.1: 30 days by default.
const PREFIX_VALID_SECONDS: u32 = 2_592_000;
/// RFC 4861 §6.2.1: 7 days by default.
const PREFIX_PREFERRED_SECONDS: u32 = 604_800;
/// RFC 8106 §5.1: at least three times the longest interval.
const DNS_LIFETIME_SECONDS: u32 = 1_800;
const ADVERTISED_HOP_LIMIT: u8 = 64;
/// RFC 4861 §6.2.1: MinRtrAdvInterval by default.
const INTERVAL_MIN: Duration = Duration::from_secs(200);
/// RFC 4861 §6.2.1: MaxRtrAdvInterval by default.
const INTERVAL_MAX: Duration = Duration::from_secs(600);

/// What the link's router says of it.
#[derive(Debug, Clone)]
pub struct Advertisement {
    link: LinkConfig,
    services: Services,
    settings: Settings,
}

impl Advertisement {
    /// What the configuration has it say.
    #[must_use]
    pub fn new(config: &Config) -> Advertisement {
        Advertisement { link: config.link.clone(), services: config.services, settings: Settings::of(config) }
    }

    /// Sends it to one node, or to all.
    ///
    /// # Errors
    /// `LinkFull`; `NotForUs` without IPv6.
    pub fn send<F: FrameSink>(
        &self,
        destination: Ipv6Addr,
        destination_mac: MacAddr,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let message = self.message(destination).ok_or(DropReason::NotForUs)?;
        let ethernet = Ethernet { source: self.link.gateway_mac, destination: destination_mac };
        let header = Header {
            source: IpAddr::V6(message.source),
            destination: IpAddr::V6(destination),
            protocol: protocol::ICMPV6,
            hop_limit: ndp::HOP_LIMIT,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        };
        let emitter = Emitter::new(self.link.mtu, Offload::NONE);
        let fill = |out: &mut [u8]| message.write(out);
        emitter.send(&ethernet, &header, Transport::Complete, RouterAdvertisement::MAX_LEN, fill, frames)
    }

    /// The message to `destination`; nothing without IPv6.
    fn message(&self, destination: Ipv6Addr) -> Option<RouterAdvertisement<'_>> {
        let ipv6 = self.link.ipv6?;
        Some(RouterAdvertisement {
            source: ipv6.gateway_link_local,
            destination,
            mac: self.link.gateway_mac,
            hop_limit: ADVERTISED_HOP_LIMIT,
            managed: self.services.dhcpv6 && matches!(self.link.segment, Segment::Shared(_)),
            other_configuration: self.services.dhcpv6,
            router_lifetime: ROUTER_LIFETIME_SECONDS,
            prefix: ipv6.prefix,
            // RFC 4862 §5.5.3 (d) with RFC 2464 §4: an Ethernet identifier fills 64 bits.
            autonomous: ipv6.prefix.prefix_len() == 64,
            valid_lifetime: PREFIX_VALID_SECONDS,
            preferred_lifetime: PREFIX_PREFERRED_SECONDS,
            mtu: u32::from(self.link.mtu),
            resolvers: &self.settings.resolvers_ipv6,
            search: &self.settings.search,
            dns_lifetime: DNS_LIFETIME_SECONDS,
        })
    }
}

/// When the next unsolicited advertisement is due.
#[derive(Debug)]
pub struct RouterAdvert {
    advertisement: Advertisement,
    next_unsolicited: Option<Instant>,
}

impl RouterAdvert {
    /// The first one is due after the longest interval: whoever comes up before asks. None ever is without IPv6, or
    /// where they are not offered.
    #[must_use]
    pub fn new(advertisement: Advertisement, now: Instant) -> RouterAdvert {
        let is_due = advertisement.link.ipv6.is_some() && advertisement.services.router_adverts;
        RouterAdvert { advertisement, next_unsolicited: is_due.then_some(now + INTERVAL_MAX) }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_unsolicited
    }

    /// Sends the unsolicited advertisement if it is due. `jitter` is any random number; it places the next one
    /// somewhere between 200 and 600 seconds away.
    ///
    /// # Errors
    /// `LinkFull`; the next one is due all the same.
    pub fn handle_timeout<F: FrameSink>(
        &mut self,
        jitter: u64,
        now: Instant,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        match self.next_unsolicited {
            Some(due) if due <= now => {}
            Some(_) | None => return Ok(()),
        }
        let span = (INTERVAL_MAX - INTERVAL_MIN).total_micros();
        self.next_unsolicited = Some(now + INTERVAL_MIN + Duration::from_micros(jitter % (span + 1)));
        self.advertisement.send(ALL_NODES, ndp::multicast_mac(ALL_NODES), frames)
    }
}

#[cfg(test)]
mod tests;
