//! A container that configures itself: DHCP, DHCPv6, and addresses other than the one it was meant to have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::v4::{self, DhcpOption, MessageType};
use dhcproto::{Decodable, Encodable, v6};
use netferry::config::{Config, DhcpPool, Ipv4Link, Ipv6Link, LinkConfig, PortProtocol};
use netferry::stack::drop_reason::DropReason;
use netferry::wire::MacAddr;

use super::everywhere;
use crate::app::Script;
use crate::clock::{ms, secs};
use crate::guest::{Guest, Lease};
use crate::host::{DatagramPeer, Target};
use crate::link::Faults;
use crate::packet::{self, Ip, TCP, UDP, tcp, udp};
use crate::prng::Prng;
use crate::world::{CONTAINER, CONTAINER_MAC, DNS, DNS6, GATEWAY, GATEWAY_MAC, Settings, World, at};

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const LAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 30);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5055, 0x0aff, 0xfe00, 0x0264);
/// What the container makes of the prefix for itself.
const AUTOCONFIGURED: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0x5055, 0x0aff, 0xfe00, 0x0264);

fn offering() -> Settings {
    Settings::default().with(|config| {
        config.services.dhcp = Some(DhcpPool { first: FIRST, last: LAST });
        config.services.dhcpv6 = true;
        // Nobody has told what the container's interface is like.
        config.link.container_mac = None;
    })
}

fn expected() -> Lease {
    Lease { address: (FIRST, 24), router: Some(GATEWAY), dns: vec![DNS] }
}

/// The container has leased its address.
fn leased(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.guest.ask_for_lease();
    world.run_until(secs(60), "a lease", |world| world.guest.lease.0.is_some());
    assert_eq!(world.guest.lease.0, Some(expected()));
    world
}

#[test]
fn a_dhcp_client_gets_an_address_and_reaches_the_world_from_it() {
    let mut world = leased(offering());
    let target = at("203.0.113.5:80");
    let stream =
        world.connect(target, Script::container(1, 50_000), Target::running(Script::host(1, 50_000)));
    world.run_until(secs(20), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    let socket = world.guest.udp_bind(5_000);
    world.host.datagram_peers.insert(at("203.0.113.6:7"), DatagramPeer::Echoes { after: ms(1) });
    world.guest.udp_send(socket, at("203.0.113.6:7"), b"from the lease");
    world.run_until(secs(5), "the echo", |world| !world.guest.udp_received(socket).is_empty());
    world.guest.ping(GATEWAY.into(), 7, 1, b"you there");
    world.run_until(secs(5), "the pong", |world| !world.guest.pongs.is_empty());
    assert!(
        world.segments_to(world.guest.streams[0].port).iter().all(|ip| ip.destination == IpAddr::from(FIRST))
    );
    world.finish_within(secs(400));
}

#[test]
fn a_lease_is_renewed_before_it_ends() {
    let mut world = leased(offering());
    let replies = |world: &World| world.sent_packets().filter(is_dhcp).count();
    let before = replies(&world);
    world.run_for(secs(43_100));
    assert_eq!(replies(&world), before);
    world.run_for(secs(200));
    assert_eq!(replies(&world), before + 1, "one answer to the renewal at half time");
    world.run_for(secs(86_400));
    assert_eq!(world.guest.lease.0, Some(expected()));
    world.finish();
}

#[test]
fn a_lease_is_had_over_a_bad_link() {
    for seed in 0..20 {
        let settings = Settings { seed, ..offering() }.faults(Faults::mixed(150));
        let mut world = World::new(settings);
        world.guest.ask_for_lease();
        world.run_until(secs(600), "a lease", |world| world.guest.lease.0.is_some());
        assert_eq!(world.guest.lease.0, Some(expected()), "seed {seed}");
        world.finish();
    }
}

fn is_dhcp(ip: &packet::SeenIp) -> bool {
    ip.protocol == UDP && ip.ports() == (67, 68)
}

/// The frame in which a container without an address sends `payload` to all.
fn broadcast(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let packet = Ip::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, UDP).carrying(udp(ports, payload));
    packet::ethernet(CONTAINER_MAC, [0xff; 6], &packet)
}

fn request(kind: MessageType, client: u8, options: &[DhcpOption]) -> Vec<u8> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut message = v4::Message::new_with_id(7, nobody, nobody, nobody, nobody, &CONTAINER_MAC);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ClientIdentifier(vec![0, client]));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message.to_vec().unwrap()
}

/// Kind and address of every answer so far.
fn answers(world: &World) -> Vec<(MessageType, Ipv4Addr)> {
    let read = |ip: packet::SeenIp| {
        let message = v4::Message::from_bytes(ip.udp_payload()).unwrap();
        (message.opts().msg_type().unwrap(), message.yiaddr())
    };
    world.sent_packets().filter(is_dhcp).map(read).collect()
}

#[test]
fn an_unconfigured_container_may_speak_to_the_dhcp_server_and_to_nobody_else() {
    let discover = request(MessageType::Discover, 1, &[]);
    let known = |config: &mut Config| config.link.container_mac = Some(MacAddr(CONTAINER_MAC));
    let mut world = World::new(offering().with(known));
    world.inject_frame(broadcast((68, 67), &discover));
    world.run_for(ms(1));
    assert_eq!(answers(&world), [(MessageType::Offer, FIRST)]);

    let outside = at("203.0.113.5:67").ip();
    let others = [
        broadcast((68, 68), &discover),
        packet::ethernet(
            CONTAINER_MAC,
            GATEWAY_MAC,
            &Ip::new(Ipv4Addr::UNSPECIFIED, outside, UDP).carrying(udp((68, 67), &discover)),
        ),
        packet::ethernet(
            CONTAINER_MAC,
            GATEWAY_MAC,
            &Ip::new(Ipv4Addr::UNSPECIFIED, outside, TCP).carrying(tcp((68, 67), 1, 0, packet::SYN, &[])),
        ),
    ];
    for (count, frame) in others.into_iter().enumerate() {
        world.inject_frame(frame);
        world.run_for(ms(1));
        assert_eq!(world.drops(DropReason::SpoofedSource), count as u64 + 1);
    }
    assert_eq!(answers(&world).len(), 1);
    assert_eq!(world.host.actions, []);
    world.finish();
}

#[test]
fn nobody_answers_where_dhcp_is_not_offered() {
    let mut world = World::usual();
    world.inject_frame(broadcast((68, 67), &request(MessageType::Discover, 1, &[])));
    world.inject_frame(information_request(LINK_LOCAL));
    world.run_for(ms(1));
    assert_eq!(world.sent_packets().count(), 0);
    assert_eq!((world.drops(DropReason::SpoofedSource), world.drops(DropReason::Multicast)), (1, 1));
    world.finish();
}

#[test]
fn a_lease_from_another_network_is_refused_at_once() {
    let mut world = World::new(offering());
    let elsewhere = DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 168, 1, 7));
    world.inject_frame(broadcast((68, 67), &request(MessageType::Request, 1, &[elsewhere])));
    world.run_for(ms(1));
    assert_eq!(answers(&world), [(MessageType::Nak, Ipv4Addr::UNSPECIFIED)]);
    world.finish();
}

#[test]
fn the_lease_table_is_bounded_and_recovers() {
    let mut world = World::new(offering().with(|config| {
        config.limits.dhcp_leases = 3;
    }));
    for client in 0..200 {
        world.inject_frame(broadcast((68, 67), &request(MessageType::Discover, client, &[])));
    }
    world.run_for(ms(1));
    let offered: Vec<_> = answers(&world).into_iter().map(|(_, address)| address.octets()[3]).collect();
    assert_eq!(offered, [15, 16, 17]);
    assert_eq!(world.drops(DropReason::DhcpPoolEmpty), 197);
    // Nobody took them up.
    world.run_for(secs(61));
    world.inject_frame(broadcast((68, 67), &request(MessageType::Discover, 250, &[])));
    world.run_for(ms(1));
    assert_eq!(answers(&world).len(), 4);
    world.finish();
}

#[test]
fn damaged_requests_are_counted_and_harm_nothing() {
    let mut world = World::new(offering());
    let good = request(MessageType::Discover, 1, &[DhcpOption::RequestedIpAddress(FIRST)]);
    let good6 = information_request(LINK_LOCAL);
    let mut prng = Prng::new(world.settings.seed, "dhcp");
    for _ in 0..3_000 {
        let mut message = good.clone();
        message.truncate(prng.below(good.len() as u64 + 200) as usize);
        for _ in 0..prng.below(6) {
            // The link address stays: answers to another are the simulated link's violation.
            let places = [0..28, 34..message.len().max(34)][prng.below(2) as usize].clone();
            let at = places.start + prng.below(places.len().max(1) as u64) as usize;
            if let Some(byte) = message.get_mut(at) {
                *byte = prng.next() as u8;
            }
        }
        world.inject_frame(broadcast((68, 67), &message));
        let mut message = good6[62..].to_vec();
        message.truncate(prng.below(message.len() as u64 + 10) as usize);
        for _ in 0..prng.below(4) {
            if !message.is_empty() {
                let at = prng.below(message.len() as u64) as usize;
                message[at] = prng.next() as u8;
            }
        }
        world.inject_frame(to_all_servers(LINK_LOCAL, &message));
    }
    world.run_for(secs(1));
    assert!(world.drops(DropReason::DhcpInvalid) > 1_000);
    // And it still serves.
    world.run_for(secs(61));
    let before = answers(&world).len();
    world.inject_frame(broadcast((68, 67), &request(MessageType::Discover, 1, &[])));
    world.run_for(ms(1));
    assert_eq!(answers(&world).len(), before + 1);
    world.finish();
}

fn to_all_servers(source: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let group: Ipv6Addr = "ff02::1:2".parse().unwrap();
    let packet = Ip::new(source, group, UDP).carrying(udp((546, 547), message));
    packet::ethernet(CONTAINER_MAC, [0x33, 0x33, 0, 1, 0, 2], &packet)
}

fn information_request(source: Ipv6Addr) -> Vec<u8> {
    let mut message = v6::Message::new_with_id(v6::MessageType::InformationRequest, [1, 2, 3]);
    message.opts_mut().insert(v6::DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]));
    let wanted = vec![v6::OptionCode::DomainNameServers];
    message.opts_mut().insert(v6::DhcpOption::ORO(v6::ORO { opts: wanted }));
    to_all_servers(source, &message.to_vec().unwrap())
}

#[test]
fn an_information_request_is_answered_with_the_resolver() {
    let mut world = World::new(offering());
    world.inject_frame(information_request(LINK_LOCAL));
    world.run_for(ms(1));
    let ip = world.sent_packets().find(|ip| ip.protocol == UDP).expect("an answer");
    assert_eq!((ip.destination, ip.ports()), (LINK_LOCAL.into(), (547, 546)));
    let reply = v6::Message::from_bytes(ip.udp_payload()).unwrap();
    assert_eq!((reply.msg_type(), reply.xid()), (v6::MessageType::Reply, [1, 2, 3]));
    let expected = v6::DhcpOption::DomainNameServers(vec![DNS6]);
    assert_eq!(reply.opts().get(v6::OptionCode::DomainNameServers), Some(&expected));
    world.finish();
}

#[test]
fn the_advertisement_sends_those_who_want_more_to_dhcpv6() {
    for (settings, flags) in [(offering(), 0x40), (Settings::default(), 0)] {
        let mut world = World::new(settings);
        let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        message.extend(CONTAINER_MAC);
        let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
        let packet = Ip::new(LINK_LOCAL, all_routers, packet::ICMPV6).hops(255).carrying(message);
        world.inject_frame(packet::ethernet(CONTAINER_MAC, [0x33, 0x33, 0, 0, 0, 2], &packet));
        world.run_for(ms(1));
        let ip = world.sent_packets().find(|ip| ip.icmp() == Some((134, 0))).expect("an advertisement");
        assert_eq!(ip.transport[5], flags);
        let options = |kind: u8| {
            let mut options = &ip.transport[16..];
            while options.len() >= 8 && options[0] != kind {
                options = &options[usize::from(options[1]) * 8..];
            }
            options
        };
        // A prefix to make addresses of (on-link, autonomous), and the resolver (RFC 8106).
        assert_eq!(options(3)[..4], [3, 4, 64, 0xc0]);
        assert_eq!(options(25)[8..24], DNS6.octets());
        world.finish();
    }
}

/// A world whose container has taken other addresses of the link than those it was meant to have.
fn elsewhere_on_the_link(settings: Settings) -> World {
    let mut world = World::new(settings);
    let LinkConfig { ipv4, ipv6, .. } = world.settings.config.link.clone();
    let own = LinkConfig {
        segment: Default::default(),
        ipv4: ipv4.map(|ipv4| Ipv4Link { container: FIRST, ..ipv4 }),
        ipv6: ipv6.map(|ipv6| Ipv6Link { container: AUTOCONFIGURED, ..ipv6 }),
        ..world.settings.config.link.clone()
    };
    world.guest = Guest::new(&own, CONTAINER_MAC, 1);
    world
}

#[test]
fn any_address_of_the_link_reaches_the_world() {
    everywhere(|world, target| {
        let mut world =
            elsewhere_on_the_link(world.settings.clone().with(|config| config.link.container_mac = None));
        let stream =
            world.connect(target, Script::container(1, 90_000), Target::running(Script::host(1, 90_000)));
        world.run_until(secs(20), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        let socket = world.guest.udp_bind(5_000);
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(1) });
        world.guest.udp_send(socket, target, b"hello");
        world.run_until(secs(5), "the echo", |world| !world.guest.udp_received(socket).is_empty());
        assert_eq!(world.guest.udp_received(socket), [(target, b"hello".to_vec())]);
        world.finish_within(secs(400));
    });
}

#[test]
fn a_published_port_still_leads_to_the_address_the_container_was_meant_to_have() {
    let client = at("198.51.100.9:33333");
    let settings = Settings::default().publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80);
    let mut world = elsewhere_on_the_link(settings);
    world.guest.listen(80, Script::container(1, 100));
    world.client_connects(0, client, Script::host(1, 100)).unwrap();
    world.run_for(secs(1));
    let segments = world.segments_to(80);
    assert!(!segments.is_empty() && segments.iter().all(|ip| ip.destination == IpAddr::from(CONTAINER)));
    assert_eq!(world.peer(client).app.received, 0, "nobody has that address here");
    world.run_until(secs(300), "the reset", |world| world.peer(client).app.peer_reset);
    world.finish();
}
