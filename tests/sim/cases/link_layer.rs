//! ARP, neighbor discovery, router advertisements, and whose frames are believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netferry::stack::drop_reason::DropReason;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{self, ICMPV6, Ip, Seen, TCP, UDP, arp_request, tcp, udp};
use crate::world::{
    CONTAINER, CONTAINER_MAC, CONTAINER6, DNS, DNS6, GATEWAY, GATEWAY_MAC, GATEWAY6, GATEWAY6_LINK_LOCAL,
    Settings, World, at,
};

fn replies(world: &World) -> Vec<Seen> {
    let asked = |seen: &Seen| !seen.ip.as_ref().is_some_and(|ip| ip.is_unsolicited_advertisement());
    world.link.seen().filter(asked).collect()
}

#[test]
fn arp_for_the_gateway_and_the_dns_address_is_answered() {
    for target in [GATEWAY, DNS] {
        let mut world = World::usual();
        world.inject_frame(arp_request(CONTAINER_MAC, CONTAINER, target));
        world.run_for(ms(1));
        let seen = replies(&world);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].destination_mac, CONTAINER_MAC);
        assert_eq!(seen[0].arp, Some((2, GATEWAY_MAC, target, CONTAINER)));
    }
}

#[test]
fn arp_for_anyone_else_is_not_answered() {
    for target in
        [Ipv4Addr::new(10, 0, 2, 50), Ipv4Addr::new(203, 0, 113, 5), CONTAINER, Ipv4Addr::UNSPECIFIED]
    {
        let mut world = World::usual();
        world.inject_frame(arp_request(CONTAINER_MAC, CONTAINER, target));
        world.run_for(ms(1));
        assert_eq!(replies(&world), [], "{target}");
    }
}

#[test]
fn an_address_probe_is_answered_only_for_what_is_ours() {
    // RFC 5227: a probe has no sender address.
    let mut world = World::usual();
    world.inject_frame(arp_request(CONTAINER_MAC, Ipv4Addr::UNSPECIFIED, CONTAINER));
    world.run_for(ms(1));
    assert_eq!(replies(&world), []);
    world.inject_frame(arp_request(CONTAINER_MAC, Ipv4Addr::UNSPECIFIED, GATEWAY));
    world.run_for(ms(1));
    assert_eq!(replies(&world).len(), 1);
}

fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = target.octets();
    (Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]), [0x33, 0x33, 0xff, a, b, c])
}

fn neighbor_solicitation(source: Ipv6Addr, target: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
    let (group, mac) = solicited_node(target);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(CONTAINER_MAC);
    }
    packet::ethernet(CONTAINER_MAC, mac, &Ip::new(source, group, ICMPV6).hops(hop_limit).carrying(message))
}

#[test]
fn neighbor_solicitations_for_our_addresses_are_answered() {
    for target in [GATEWAY6, GATEWAY6_LINK_LOCAL, DNS6] {
        let mut world = World::usual();
        world.inject_frame(neighbor_solicitation(CONTAINER6, target, 255));
        world.run_for(ms(1));
        let seen = replies(&world);
        assert_eq!(seen.len(), 1, "{target}");
        let ip = seen[0].ip.clone().unwrap();
        assert_eq!((ip.icmp(), ip.hop_limit, ip.destination), (Some((136, 0)), 255, CONTAINER6.into()));
        assert_eq!(ip.transport[8..24], target.octets());
        assert_eq!(
            ip.transport[24..32],
            [&[2, 1], &GATEWAY_MAC[..]].concat()[..],
            "target link-layer address"
        );
        assert_ne!(ip.transport[4] & 0x40, 0, "solicited");
    }
}

#[test]
fn neighbor_solicitations_for_others_or_from_afar_are_not_answered() {
    let ours_from_afar = neighbor_solicitation(CONTAINER6, GATEWAY6, 254);
    let container_itself = neighbor_solicitation(Ipv6Addr::UNSPECIFIED, CONTAINER6, 255);
    let stranger = neighbor_solicitation(CONTAINER6, "fd00::77".parse().unwrap(), 255);
    let outside = neighbor_solicitation(CONTAINER6, "2001:db8::5".parse().unwrap(), 255);
    for frame in [ours_from_afar, container_itself, stranger, outside] {
        let mut world = World::usual();
        world.inject_frame(frame);
        world.run_for(ms(1));
        assert!(replies(&world).iter().all(|seen| seen.ip.as_ref().unwrap().icmp() != Some((136, 0))));
    }
}

#[test]
fn duplicate_address_detection_of_our_address_is_answered_to_all_nodes() {
    let mut world = World::usual();
    world.inject_frame(neighbor_solicitation(Ipv6Addr::UNSPECIFIED, GATEWAY6, 255));
    world.run_for(ms(1));
    let ip = replies(&world)[0].ip.clone().unwrap();
    // RFC 4861 §7.2.4: unsolicited, to all nodes.
    assert_eq!((ip.icmp(), ip.destination), (Some((136, 0)), "ff02::1".parse::<IpAddr>().unwrap()));
    assert_eq!(ip.transport[4] & 0x40, 0);
}

#[test]
fn a_router_solicitation_is_answered_with_the_prefix_and_the_mtu() {
    let mut world = World::usual();
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    message.extend(CONTAINER_MAC);
    let link_local: Ipv6Addr = "fe80::5055:aff:fe00:264".parse().unwrap();
    let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let packet = Ip::new(link_local, all_routers, ICMPV6).hops(255).carrying(message);
    world.inject_frame(packet::ethernet(CONTAINER_MAC, [0x33, 0x33, 0, 0, 0, 2], &packet));
    world.run_for(secs(1));
    let ip = replies(&world).into_iter().find_map(|seen| seen.ip.filter(|ip| ip.icmp() == Some((134, 0))));
    let ip = ip.expect("an advertisement");
    assert_eq!((ip.source, ip.hop_limit), (GATEWAY6_LINK_LOCAL.into(), 255));
    assert_ne!(ip.transport[6..8], [0, 0], "a router lifetime");
    let mut options = &ip.transport[16..];
    let (mut prefix, mut mtu) = (None, None);
    while options.len() >= 8 {
        let (option, rest) = options.split_at(usize::from(options[1]) * 8);
        match option[0] {
            3 => prefix = Some((option[2], option[16..32].to_vec())),
            5 => mtu = Some(u32::from_be_bytes(option[4..8].try_into().unwrap())),
            _ => {}
        }
        options = rest;
    }
    assert_eq!(prefix, Some((64, "fd00::".parse::<Ipv6Addr>().unwrap().octets().to_vec())));
    assert_eq!(mtu, Some(1_500));
}

#[test]
fn the_containers_link_address_is_learnt_where_it_is_not_known() {
    let mut world = World::new(Settings::default().with(|config| config.link.container_mac = None));
    let target = at("203.0.113.5:80");
    let stream = world.connect(target, Script::container(1, 100), Target::running(Script::host(1, 100)));
    world.run_until(secs(5), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    world.finish();
}

#[test]
fn a_source_that_is_not_the_containers_is_dropped_and_counted() {
    let outside: IpAddr = at("203.0.113.5:80").ip();
    let outside6: IpAddr = at("[2001:db8::5]:80").ip();
    let sources: [(&str, IpAddr); 8] = [
        ("192.168.1.1", outside),
        ("203.0.113.5", outside),
        ("10.0.2.2", outside),
        ("10.0.2.3", outside),
        ("127.0.0.1", outside),
        ("0.0.0.0", outside),
        ("2001:db8::99", outside6),
        ("fd00::2", outside6),
    ];
    for (source, target) in sources {
        let mut world = World::usual();
        let source: IpAddr = source.parse().unwrap();
        world.inject(&Ip::new(source, target, TCP).carrying(tcp((5_000, 80), 1, 0, packet::SYN, &[])));
        world.inject(&Ip::new(source, target, UDP).carrying(udp((5_000, 80), b"x")));
        world.run_for(ms(10));
        assert_eq!(world.host.actions, [], "{source}");
        assert_eq!(replies(&world), [], "{source}");
        let counted = world.drops(DropReason::SpoofedSource) + world.drops(DropReason::NeighborConflict);
        assert_eq!(counted, 2, "{source}");
    }
}

#[test]
fn garbage_is_counted_and_answered_with_nothing() {
    let mut world = World::usual();
    let good = packet::ethernet(
        CONTAINER_MAC,
        GATEWAY_MAC,
        &Ip::new(CONTAINER, at("203.0.113.5:80").ip(), UDP).carrying(udp((7, 80), b"some payload")),
    );
    let mut prng = crate::prng::Prng::new(world.settings.seed, "garbage");
    for _ in 0..3_000 {
        let mut frame = good.clone();
        frame.truncate(prng.below(good.len() as u64) as usize);
        for _ in 0..prng.below(4) {
            if !frame.is_empty() {
                let at = prng.below(frame.len() as u64) as usize;
                frame[at] = prng.next() as u8;
            }
        }
        let mut header = [0u8; 10];
        if prng.chance(200) {
            header.fill_with(|| prng.next() as u8);
        }
        let now = world.now;
        world.link.inject_up(header, frame, now);
    }
    world.run_for(secs(1));
    assert_eq!(world.stack.stats().from_container.frames, 3_000);
    world.finish_within(secs(400));
}
