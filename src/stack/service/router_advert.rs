//! Router advertisements (RFC 4861 §6.2, RFC 8106): how a container that configures itself learns its prefix,
//! its default route, the MTU and the resolver.
//!
//! Sent to whoever solicits, at once, and to all nodes now and then. Lifetimes stay well above the interval, so
//! that a lost advertisement costs nothing. Randomness comes as an argument.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::{LinkConfig, Services};
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

/// When the next unsolicited advertisement is due.
#[derive(Debug)]
pub struct RouterAdvert {
    next_unsolicited: Option<Instant>,
}

impl RouterAdvert {
    /// The first one is due after the longest interval: whoever comes up before asks. None ever is without IPv6, or
    /// where they are not offered.
    #[must_use]
    pub fn new(link: &LinkConfig, services: Services, now: Instant) -> RouterAdvert {
        let is_due = link.ipv6.is_some() && services.router_adverts;
        RouterAdvert { next_unsolicited: is_due.then_some(now + INTERVAL_MAX) }
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
        link: &LinkConfig,
        services: Services,
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
        send(link, services, ALL_NODES, ndp::multicast_mac(ALL_NODES), frames)
    }
}

/// Sends the link's advertisement to one node, or to all.
///
/// # Errors
/// `LinkFull`; `NotForUs` without IPv6.
pub fn send<F: FrameSink>(
    link: &LinkConfig,
    services: Services,
    destination: Ipv6Addr,
    destination_mac: MacAddr,
    frames: &mut F,
) -> Result<(), DropReason> {
    let advertisement = advertisement(link, services, destination).ok_or(DropReason::NotForUs)?;
    let ethernet = Ethernet { source: link.gateway_mac, destination: destination_mac };
    let header = Header {
        source: IpAddr::V6(advertisement.source),
        destination: IpAddr::V6(destination),
        protocol: protocol::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
    };
    let emitter = Emitter::new(link.mtu, Offload::NONE);
    let fill = |out: &mut [u8]| advertisement.write(out);
    emitter.send(&ethernet, &header, Transport::Complete, RouterAdvertisement::MAX_LEN, fill, frames)
}

/// What the link's router says of it; nothing without IPv6.
#[must_use]
pub fn advertisement(
    link: &LinkConfig,
    services: Services,
    destination: Ipv6Addr,
) -> Option<RouterAdvertisement> {
    let ipv6 = link.ipv6?;
    Some(RouterAdvertisement {
        source: ipv6.gateway_link_local,
        destination,
        mac: link.gateway_mac,
        hop_limit: ADVERTISED_HOP_LIMIT,
        other_configuration: services.dhcpv6,
        router_lifetime: ROUTER_LIFETIME_SECONDS,
        prefix: ipv6.prefix,
        // RFC 4862 §5.5.3 (d) with RFC 2464 §4: an Ethernet identifier fills 64 bits.
        autonomous: ipv6.prefix.prefix_len() == 64,
        valid_lifetime: PREFIX_VALID_SECONDS,
        preferred_lifetime: PREFIX_PREFERRED_SECONDS,
        mtu: u32::from(link.mtu),
        dns: ipv6.dns.filter(|_| services.dns),
        dns_lifetime: DNS_LIFETIME_SECONDS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::emit::tests::{Link, link_config};
    use crate::wire::ip;

    #[test]
    fn unsolicited_advertisements_come_every_200_to_600_seconds() {
        let config = link_config();
        let begin = Instant::from_secs(1_000);
        for (jitter, earliest) in [(0, 200), (u64::from(u32::MAX), 200), (400_000_000, 600)] {
            let mut link = Link::default();
            let mut advert = RouterAdvert { next_unsolicited: Some(begin) };
            assert_eq!(advert.poll_timeout(), Some(begin));
            advert.handle_timeout(&config, Services::default(), jitter, begin, &mut link).unwrap();
            let next = advert.poll_timeout().unwrap();
            assert!(next >= begin + Duration::from_secs(earliest), "{next}");
            assert!(next <= begin + Duration::from_secs(600), "{next}");
            advert
                .handle_timeout(
                    &config,
                    Services::default(),
                    jitter,
                    next - Duration::from_micros(1),
                    &mut link,
                )
                .unwrap();
            assert_eq!(link.frames.len(), 1, "early");
            advert.handle_timeout(&config, Services::default(), jitter, next, &mut link).unwrap();
            assert_eq!(link.frames.len(), 2);
        }
    }

    #[test]
    fn full_link_does_not_stop_the_clock() {
        let config = link_config();
        let mut link = Link { room: 0, ..Link::default() };
        let mut advert = RouterAdvert { next_unsolicited: Some(Instant::ZERO) };
        let sent = advert.handle_timeout(&config, Services::default(), 0, Instant::ZERO, &mut link);
        assert_eq!(sent, Err(DropReason::LinkFull));
        assert_eq!(advert.poll_timeout(), Some(Instant::ZERO + INTERVAL_MIN));
    }

    #[test]
    fn advertisement_goes_to_all_nodes_with_the_hop_limit_that_counts() {
        let mut link = Link::default();
        let config = link_config();
        RouterAdvert { next_unsolicited: Some(Instant::ZERO) }
            .handle_timeout(&config, Services::default(), 0, Instant::ZERO, &mut link)
            .unwrap();
        let frame = &link.frames[0].bytes;
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let packet = ip::parse(&frame[14..]).unwrap();
        assert_eq!((packet.destination, packet.hop_limit), (IpAddr::V6(ALL_NODES), 255));
        assert_eq!(packet.payload.len(), RouterAdvertisement::MAX_LEN);
        assert!(ip::transport_checksum_ok(
            packet.source,
            packet.destination,
            packet.protocol,
            packet.payload
        ));
    }

    #[test]
    fn only_a_64_bit_prefix_is_autonomous() {
        let mut config = link_config();
        assert!(advertisement(&config, Services::default(), ALL_NODES).unwrap().autonomous);
        let ipv6 = config.ipv6.as_mut().unwrap();
        ipv6.prefix = "fd00::/112".parse().unwrap();
        assert!(!advertisement(&config, Services::default(), ALL_NODES).unwrap().autonomous);
        config.ipv6 = None;
        assert_eq!(advertisement(&config, Services::default(), ALL_NODES), None);
        assert_eq!(RouterAdvert::new(&config, Services::default(), Instant::ZERO).poll_timeout(), None);
    }

    #[test]
    fn what_is_served_is_announced_and_nothing_else() {
        let config = link_config();
        let services = |dns, dhcpv6| Services { dns, dhcpv6, ..Services::default() };
        let all = advertisement(&config, services(true, true), ALL_NODES).unwrap();
        assert_eq!((all.other_configuration, all.dns), (true, config.ipv6.unwrap().dns));
        let none = advertisement(&config, services(false, false), ALL_NODES).unwrap();
        assert_eq!((none.other_configuration, none.dns), (false, None));
    }
}
