//! Tests of `router_advert`, sentences of its behaviour.

use super::*;
use crate::config::{Aliases, Offers};
use crate::stack::emit::tests::{Link, link_config};
use crate::wire::ip;

fn advertisement() -> Advertisement {
    Advertisement::new(&Config::on(link_config()))
}

fn due_at(due: Instant) -> RouterAdvert {
    RouterAdvert { advertisement: advertisement(), next_unsolicited: Some(due) }
}

#[test]
fn unsolicited_advertisements_come_every_200_to_600_seconds() {
    let begin = Instant::from_secs(1_000);
    for (jitter, earliest) in [(0, 200), (u64::from(u32::MAX), 200), (400_000_000, 600)] {
        let (mut link, mut advert) = (Link::default(), due_at(begin));
        assert_eq!(advert.poll_timeout(), Some(begin));
        advert.handle_timeout(jitter, begin, &mut link).unwrap();
        let next = advert.poll_timeout().unwrap();
        assert!(next >= begin + Duration::from_secs(earliest), "{next}");
        assert!(next <= begin + Duration::from_secs(600), "{next}");
        advert.handle_timeout(jitter, next - Duration::from_micros(1), &mut link).unwrap();
        assert_eq!(link.frames.len(), 1, "early");
        advert.handle_timeout(jitter, next, &mut link).unwrap();
        assert_eq!(link.frames.len(), 2);
    }
}

#[test]
fn full_link_does_not_stop_the_clock() {
    let (mut link, mut advert) = (Link { room: 0, ..Link::default() }, due_at(Instant::ZERO));
    assert_eq!(advert.handle_timeout(0, Instant::ZERO, &mut link), Err(DropReason::LinkFull));
    assert_eq!(advert.poll_timeout(), Some(Instant::ZERO + INTERVAL_MIN));
}

#[test]
fn advertisement_goes_to_all_nodes_with_the_hop_limit_that_counts() {
    let mut link = Link::default();
    due_at(Instant::ZERO).handle_timeout(0, Instant::ZERO, &mut link).unwrap();
    let frame = &link.frames[0].bytes;
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let packet = ip::parse(&frame[14..]).unwrap();
    assert_eq!((packet.destination, packet.hop_limit), (IpAddr::V6(ALL_NODES), 255));
    assert!(ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, packet.payload));
}

#[test]
fn only_a_64_bit_prefix_is_autonomous() {
    let mut advertisement = advertisement();
    assert!(advertisement.message(ALL_NODES).unwrap().autonomous);
    advertisement.link.ipv6.as_mut().unwrap().prefix = "fd00::/112".parse().unwrap();
    assert!(!advertisement.message(ALL_NODES).unwrap().autonomous);
    advertisement.link.ipv6 = None;
    assert_eq!(advertisement.message(ALL_NODES), None);
    assert_eq!(RouterAdvert::new(advertisement, Instant::ZERO).poll_timeout(), None);
}

#[test]
fn what_is_served_is_announced_and_nothing_else() {
    let with = |dns, dhcpv6, segment| {
        let mut config = Config::on(link_config());
        config.services = Services { dns, dhcpv6, ..Services::default() };
        config.link.segment = segment;
        Advertisement::new(&config)
    };
    let shared = Segment::Shared(Aliases::default());
    let own = link_config().ipv6.unwrap().dns.unwrap();
    let all = with(true, true, Segment::Private);
    let message = all.message(ALL_NODES).unwrap();
    assert_eq!((message.managed, message.other_configuration, message.resolvers), (false, true, &[own][..]));
    let none = with(false, false, shared);
    let message = none.message(ALL_NODES).unwrap();
    assert_eq!((message.managed, message.other_configuration, message.resolvers), (false, false, &[][..]));
    assert!(with(true, true, shared).message(ALL_NODES).unwrap().managed, "its address is to be had");
}

#[test]
fn offers_are_told_instead_of_the_links_own_resolver() {
    let mut config = Config::on(link_config());
    config.offers = Offers {
        resolvers: Some(vec!["2001:db8::53".parse().unwrap(), "192.0.2.53".parse().unwrap()]),
        search: vec!["example.org".into(), "not a name".into()],
        ..Offers::default()
    };
    let advertisement = Advertisement::new(&config);
    let message = advertisement.message(ALL_NODES).unwrap();
    assert_eq!(message.resolvers, ["2001:db8::53".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(message.search.iter().map(|name| name.text()).collect::<Vec<_>>(), ["example.org"]);
}
