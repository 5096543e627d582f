//! ICMP echo: through the host's ping sockets, from ourselves, and never forged.

use std::net::IpAddr;

use netferry::stack::boundary::{Action, HostError, StackEvent};
use netferry::stack::drop_reason::DropReason;
use netferry::wire::vnet_header::Offload;

use super::{both_families, everywhere};
use crate::clock::{ms, secs};
use crate::host::EchoPeer;
use crate::packet::{ICMP, ICMPV6, Ip, SYN, TCP, UDP, echo_request, tcp, udp};
use crate::world::{DNS, DNS6, GATEWAY, GATEWAY6, GATEWAY6_LINK_LOCAL, Settings, World};

#[test]
fn a_ping_goes_through_and_its_reply_comes_back() {
    everywhere(|mut world, target| {
        world.host.echo_peers.insert(target.ip(), EchoPeer::Answers { after: ms(30) });
        world.guest.ping(target.ip(), 7, 1, b"payload of a ping");
        world.run_for(ms(20));
        assert_eq!(world.guest.pongs, [], "not before the target answers");
        world.run_for(ms(20));
        assert_eq!(world.guest.pongs, [(target.ip(), 7, 1, b"payload of a ping".to_vec())]);
        world.finish_within(secs(61));
    });
}

#[test]
fn the_containers_identifier_is_kept_whatever_the_hosts_is() {
    let mut world = World::usual();
    let targets: [IpAddr; 2] = ["203.0.113.5".parse().unwrap(), "203.0.113.6".parse().unwrap()];
    // The second socket cannot have the identifier of the first.
    world.guest.ping(targets[0], 7, 1, b"one");
    world.run_for(ms(1));
    let packet =
        Ip::new(crate::world::CONTAINER, targets[1], ICMP).carrying(echo_request(false, 7, 2, b"two"));
    world.inject(&packet);
    world.run_for(ms(10));
    assert_ne!(world.host.datagrams[1].local_port, 7);
    let reply = world.sent_packets().find(|ip| ip.source == targets[1]).expect("a reply");
    assert_eq!(reply.icmp(), Some((0, 0)));
    assert_eq!(reply.transport[4..8], [0, 7, 0, 2]);
    world.finish_within(secs(61));
}

#[test]
fn a_silent_target_stays_silent() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.echo_peers.insert(target.ip(), EchoPeer::Silent);
        world.guest.ping(target.ip(), 7, 1, b"x");
        world.run_for(secs(10));
        assert_eq!(world.guest.pongs, []);
        assert!(world.icmp_errors().is_empty());
        world.finish_within(secs(61));
    });
}

#[test]
fn where_ping_sockets_are_forbidden_nothing_is_answered_and_the_user_told_once() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.echo_forbidden = true;
        for sequence in 1..=3 {
            let source = world.settings.config.link.container_like(target.ip()).unwrap();
            let protocol = if target.is_ipv4() { ICMP } else { ICMPV6 };
            let request = echo_request(target.is_ipv6(), 7, sequence, b"x");
            world.inject(&Ip::new(source, target.ip(), protocol).carrying(request));
            world.run_for(secs(1));
        }
        assert_eq!(world.sent_packets().count(), 0, "no reply that nobody sent, and no error");
        assert_eq!(world.drops(DropReason::EchoForbidden), 3);
        let told = world.events.iter().filter(|(_, event)| *event == StackEvent::EchoForbidden);
        assert_eq!(told.count(), 1);
        world.finish_within(ms(1));
    });
}

#[test]
fn the_gateway_and_the_dns_address_answer_by_themselves() {
    let own: [IpAddr; 5] =
        [GATEWAY.into(), DNS.into(), GATEWAY6.into(), GATEWAY6_LINK_LOCAL.into(), DNS6.into()];
    for address in own {
        let mut world = World::usual();
        world.host.echo_forbidden = true;
        world.guest.ping(address, 7, 1, b"are you there?");
        world.run_for(ms(100));
        assert_eq!(world.guest.pongs, [(address, 7, 1, b"are you there?".to_vec())]);
        assert_eq!(world.host.actions, []);
        world.finish();
    }
}

#[test]
fn a_hop_limit_of_one_is_answered_by_the_gateway() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        let echo = (if is_ipv6 { ICMPV6 } else { ICMP }, echo_request(is_ipv6, 7, 1, b"traceroute"));
        let datagram = (UDP, udp((7_000, 33_434), b"traceroute"));
        let segment = (TCP, tcp((7_000, 80), 1, 0, SYN, &[]));
        for (protocol, transport) in [echo, datagram, segment] {
            for hop_limit in [1, 0] {
                let mut world = World::usual();
                let link = &world.settings.config.link;
                let (source, gateway) =
                    (link.container_like(target.ip()).unwrap(), link.gateway_like(target.ip()));
                let packet =
                    Ip::new(source, target.ip(), protocol).hops(hop_limit).carrying(transport.clone());
                world.inject(&packet);
                world.run_for(ms(10));
                let errors = world.icmp_errors();
                let [(kind, code, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
                assert_eq!((*kind, *code), if is_ipv6 { (3, 0) } else { (11, 0) });
                assert_eq!(Some(*from), gateway);
                assert_eq!((quote.destination, quote.protocol), (target.ip(), protocol));
                assert_eq!(quote.transport[..8], packet[packet.len() - transport.len()..][..8]);
                assert_eq!(world.host.actions, [], "it goes no further");
                assert_eq!(world.drops(DropReason::HopLimit), 1);
                world.finish();
            }
        }
    });
}

#[test]
fn a_router_on_the_way_is_heard_by_its_own_address() {
    for (target, router) in [("203.0.113.5", "198.51.100.254"), ("2001:db8::5", "2001:db8:ffff::1")] {
        let (target, router): (IpAddr, IpAddr) = (target.parse().unwrap(), router.parse().unwrap());
        let mut world = World::usual();
        let error = HostError::HopLimitExceeded;
        world.host.echo_peers.insert(target, EchoPeer::Reports { error, offender: router });
        let source = world.settings.config.link.container_like(target).unwrap();
        let protocol = if target.is_ipv4() { ICMP } else { ICMPV6 };
        let request = echo_request(target.is_ipv6(), 7, 3, b"traceroute");
        world.inject(&Ip::new(source, target, protocol).hops(2).carrying(request));
        world.run_for(ms(10));
        assert_eq!(world.host.datagrams[0].sent[0].how.hop_limit, 1);
        let errors = world.icmp_errors();
        let [(kind, _, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
        assert_eq!((*kind, *from), (if target.is_ipv4() { 11 } else { 3 }, router));
        assert_eq!(quote.transport[4..8], [0, 7, 0, 3], "the container's identifier and sequence");
        world.finish_within(secs(61));
    }
}

#[test]
fn an_idle_echo_flow_is_freed_after_its_timeout() {
    let mut world = World::usual();
    world.guest.ping("203.0.113.5".parse().unwrap(), 7, 1, b"x");
    world.run_for(secs(59));
    assert_eq!(world.stack.flow_count(), 1);
    world.run_for(secs(2));
    assert_eq!(world.stack.flow_count(), 0);
    assert_eq!(world.count_actions(|action| matches!(action, Action::Close { .. })), 1);
    world.finish();
}

#[test]
fn other_icmp_messages_are_not_forwarded() {
    let mut world = World::usual();
    let target: IpAddr = "203.0.113.5".parse().unwrap();
    for kind in [0, 3, 5, 9, 13, 17] {
        let mut message = echo_request(false, 7, 1, &[0x45; 28]);
        message[0] = kind;
        world.inject(&Ip::new(crate::world::CONTAINER, target, ICMP).carrying(message));
    }
    world.run_for(ms(10));
    assert_eq!((world.host.actions.len(), world.sent_packets().count()), (0, 0));
    assert_eq!(world.drops(DropReason::IcmpNotForwarded), 6);
    world.finish();
}

#[test]
fn a_later_fragment_that_looks_like_neighbor_discovery_is_a_fragment() {
    let target: IpAddr = "2001:db8::5".parse().unwrap();
    for kind in 133..=137u8 {
        let mut world = World::usual();
        let ip = Ip::new(crate::world::CONTAINER6, target, ICMPV6);
        let request = echo_request(true, 7, 1, &[kind; 4_000]);
        ip.fragments(request, 1_280).iter().for_each(|piece| world.inject(piece));
        world.run_for(ms(1));
        assert_eq!(world.host.datagrams.len(), 1, "type {kind}");
        world.finish_within(secs(61));
    }
}

#[test]
fn fragmented_neighbor_discovery_is_not_heard() {
    // RFC 6980 §5.
    let mut world = World::usual();
    let source = crate::world::CONTAINER6;
    let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicitation.extend(GATEWAY6.octets());
    let ip = Ip { hop_limit: 255, ..Ip::new(source, GATEWAY6, ICMPV6) };
    ip.fragments(solicitation, 64).iter().for_each(|piece| world.inject(piece));
    world.run_for(ms(1));
    assert_eq!(world.sent_packets().count(), 0);
    assert_eq!(world.drops(DropReason::IcmpNotForwarded), 1);
    world.finish();
}

#[test]
fn the_largest_echo_goes_through_in_fragments_both_ways() {
    for offload in [Offload::ALL, Offload::NONE] {
        for mtu in [1_280, 1_500, 9_000, 65_520] {
            both_families(|target| {
                let is_ipv6 = target.is_ipv6();
                let settings = Settings::default().offload(offload).with(|config| config.link.mtu = mtu);
                let mut world = World::new(settings);
                world.host.echo_peers.insert(target.ip(), EchoPeer::Answers { after: ms(1) });
                let source = world.settings.config.link.container_like(target.ip()).unwrap();
                let data: Vec<u8> = (0..65_507u32).map(|n| (n % 251) as u8).collect();
                let protocol = if is_ipv6 { ICMPV6 } else { ICMP };
                for sequence in 1..=3u16 {
                    let ip = Ip::new(source, target.ip(), protocol).numbered(sequence);
                    let request = echo_request(is_ipv6, 7, sequence, &data);
                    ip.fragments(request, mtu.into()).iter().for_each(|piece| world.inject(piece));
                    world.run_for(ms(5));
                }
                let sent = &world.host.datagrams[0].sent;
                assert_eq!(sent.iter().map(|sent| sent.bytes.len()).collect::<Vec<_>>(), [65_515; 3]);
                let replies: Vec<_> = world.sent_packets().filter(|ip| ip.source == target.ip()).collect();
                assert!(replies.iter().all(|ip| ip.protocol == protocol && ip.fragment.is_some()));
                let mut identifications: Vec<_> = replies.iter().map(|ip| ip.identification).collect();
                identifications.dedup();
                assert_eq!(identifications.len(), 3, "one for each reply, and one after the other");
                for identification in identifications {
                    let pieces: Vec<_> =
                        replies.iter().filter(|ip| ip.identification == identification).cloned().collect();
                    let reply = super::udp_sizes::reassemble(&pieces);
                    assert!(reply[8..] == data);
                }
                world.finish_within(secs(61));
            });
        }
    }
}
