//! ICMP errors: of the network about the container's packets, and of the container about ours.

use std::net::IpAddr;

use netferry::config::PortProtocol::{Tcp, Udp};
use netferry::stack::boundary::{CloseKind, DatagramPort, HostError, ListenerId, Notice};
use netferry::stack::drop_reason::DropReason;

use super::both_families;
use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, EchoPeer, SentDatagram, Target, notice_for};
use crate::packet::{ACK, ICMP, ICMPV6, Ip, SYN, SeenIp, TCP, UDP, echo_request, tcp, udp};
use crate::world::{CONTAINER, CONTAINER6, Settings, World, at};

fn router(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { "2001:db8:ffff::1" } else { "198.51.100.254" }.parse().unwrap()
}

fn container(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { CONTAINER6.into() } else { CONTAINER.into() }
}

#[test]
fn an_error_quotes_the_datagram_as_the_container_sent_it() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        let mut world = World::usual();
        world.host.datagram_peers.insert(target, DatagramPeer::Silent);
        let ip = Ip::new(container(is_ipv6), target.ip(), UDP).hops(9).numbered(0xbeef).whole();
        let packet = ip.carrying(udp((7_000, target.port()), &[0x5a; 900]));
        world.inject(&packet);
        world.run_for(ms(1));
        let socket = &world.host.datagrams[0];
        let sent = SentDatagram { bytes: socket.sent[0].bytes[..20].to_vec(), ..socket.sent[0].clone() };
        let error = HostError::HostUnreachable;
        let notice =
            Notice { offender: Some(router(is_ipv6)), hop_limit: Some(61), ..notice_for(error, target) };
        world.host.say(DatagramPort::Flow(socket.flow), error, notice, &sent);
        world.run_for(ms(1));
        let errors = world.icmp_errors();
        let [(_, _, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
        assert_eq!(*from, router(is_ipv6));
        let expected = if is_ipv6 { 0 } else { 0xbeef };
        assert_eq!((quote.identification, quote.hop_limit, quote.length), (expected, 9, packet.len()));
        // Of the transport: ports, the length of the whole datagram, and as much as the network gave back.
        assert_eq!(quote.ports(), (7_000, target.port()));
        assert_eq!((&quote.transport[4..6], quote.transport.len()), (&908u16.to_be_bytes()[..], 28));
        let told = world.sent_packets().find(|ip| ip.icmp().is_some()).unwrap();
        assert_eq!(told.hop_limit, 60, "one hop less than it had");
        world.finish_within(secs(301));
    });
}

#[test]
fn the_quoted_checksum_is_right_where_all_of_the_datagram_is_known() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.datagram_peers.insert(target, DatagramPeer::Reports { error: HostError::Refused });
        world.host.echo_peers.insert(
            target.ip(),
            EchoPeer::Reports { error: HostError::HopLimitExceeded, offender: router(target.is_ipv6()) },
        );
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"to be quoted");
        world.guest.ping(target.ip(), 77, 5, b"to be quoted, too");
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        assert_eq!(errors.len(), 2);
        for (_, _, _, quote) in errors {
            assert!(quote.checksum_holds(), "{quote:?}");
        }
        world.finish_within(secs(301));
    });
}

#[test]
fn an_error_keeps_its_type_its_code_and_its_place() {
    // RFC 1812 §5.2.7.1, RFC 4443 §3: by family, and the four bytes that have a meaning.
    let ipv4 = [
        (3, 0, 0),
        (3, 5, 0),
        (3, 6, 0),
        (3, 9, 0),
        (3, 10, 0),
        (3, 11, 0),
        (3, 13, 0),
        (3, 15, 0),
        (3, 4, 1_400),
        (11, 0, 0),
        (11, 1, 0),
        (12, 0, 20 << 24),
    ];
    let ipv6 = [
        (1, 0, 0),
        (1, 1, 0),
        (1, 2, 0),
        (1, 3, 0),
        (1, 4, 0),
        (1, 5, 0),
        (1, 6, 0),
        (2, 0, 1_280),
        (3, 0, 0),
        (3, 1, 0),
        (4, 1, 40),
    ];
    both_families(|target| {
        for (kind, code, rest) in if target.is_ipv6() { ipv6.to_vec() } else { ipv4.to_vec() } {
            let mut world = World::usual();
            world.host.datagram_peers.insert(target, DatagramPeer::Silent);
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, b"x");
            world.run_for(ms(1));
            let socket = &world.host.datagrams[0];
            let (port, sent) = (DatagramPort::Flow(socket.flow), socket.sent[0].clone());
            let offender = Some(router(target.is_ipv6()));
            let notice = Notice { offender, hop_limit: None, kind, code, rest };
            world.host.say(port, HostError::Other, notice, &sent);
            // What only concerns the host's routing says nothing about the datagram (RFC 1812 §4.3.3.3, 5.2.7.2).
            for kind in if target.is_ipv6() { [137, 200] } else { [4, 5] } {
                world.host.say(port, HostError::Other, Notice { kind, code: 0, ..notice }, &sent);
            }
            world.run_for(ms(1));
            let errors = world.icmp_errors();
            assert_eq!(errors.len(), 1, "({kind}, {code})");
            assert_eq!((errors[0].0, errors[0].1), (kind, code));
            let told = world.sent_packets().find(|ip| ip.icmp() == Some((kind, code))).unwrap();
            assert_eq!(told.transport[4..8], rest.to_be_bytes());
            world.finish_within(secs(301));
        }
    });
}

#[test]
fn an_error_of_the_other_family_is_told_as_our_own() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    world.host.datagram_peers.insert(target, DatagramPeer::Silent);
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, target, b"x");
    world.run_for(ms(1));
    let socket = &world.host.datagrams[0];
    let (port, sent) = (DatagramPort::Flow(socket.flow), socket.sent[0].clone());
    let notice = Notice { offender: Some(router(true)), hop_limit: Some(9), kind: 1, code: 0, rest: 0 };
    world.host.say(port, HostError::NetworkUnreachable, notice, &sent);
    world.run_for(ms(1));
    let errors = world.icmp_errors();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].0, errors[0].1), (3, 0));
    assert_eq!(Some(errors[0].2), world.settings.config.link.gateway_like(target.ip()));
    world.finish_within(secs(301));
}

#[test]
fn errors_of_many_pings_at_once_each_quote_their_own() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        let mut world = World::usual();
        let error = HostError::HopLimitExceeded;
        world.host.echo_peers.insert(target.ip(), EchoPeer::Reports { error, offender: router(is_ipv6) });
        let protocol = if is_ipv6 { ICMPV6 } else { ICMP };
        // As mtr sends them: one identifier, a sequence and a hop limit for each hop.
        for sequence in 1..=30u16 {
            let hops = sequence as u8 + 1;
            let ip = Ip::new(container(is_ipv6), target.ip(), protocol).hops(hops).numbered(1_000 + sequence);
            world.inject(&ip.carrying(echo_request(is_ipv6, 7, sequence, &[0; 36])));
            world.run_for(ms(if sequence == 1 { 1 } else { 0 }));
        }
        world.run_for(ms(10));
        let quotes: Vec<_> = world.icmp_errors().into_iter().map(|(_, _, _, quote)| quote).collect();
        assert_eq!(quotes.len(), 30);
        for (quote, sequence) in quotes.iter().zip(1..) {
            assert_eq!(quote.transport[4..8], [0, 7, 0, sequence]);
            let identification = if is_ipv6 { 0 } else { 1_000 + u16::from(sequence) };
            assert_eq!((quote.identification, quote.hop_limit), (identification, 1));
        }
        let limits: Vec<_> = world.host.datagrams[0].sent.iter().map(|sent| sent.how.hop_limit).collect();
        assert_eq!(limits, (1..=30).collect::<Vec<_>>());
        world.finish_within(secs(61));
    });
}

#[test]
fn a_connect_that_a_router_ends_is_told_in_its_words() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        for error in [HostError::HopLimitExceeded, HostError::Prohibited, HostError::Refused] {
            let mut world = World::usual();
            let notice =
                Notice { offender: Some(router(is_ipv6)), hop_limit: None, ..notice_for(error, target) };
            world.host.connect_notices.insert(target, notice);
            let stream = world.connect(target, Script::container(1, 10), Target::failing(error));
            world.run_for(ms(50));
            let errors = world.icmp_errors();
            let [(kind, code, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
            assert_eq!((*kind, *code, *from), (notice.kind, notice.code, router(is_ipv6)));
            assert_eq!((quote.tcp_flags(), quote.ports().1), (Some(SYN), target.port()));
            let port = world.guest.streams[stream.0].port;
            assert_eq!(world.segments_to(port).len(), 0, "an ICMP error is no RST");
            world.guest.abort(stream);
            world.finish_within(secs(1));
        }
    });
}

#[test]
fn a_connect_leaves_with_one_hop_less() {
    use netferry::stack::boundary::Action;
    both_families(|target| {
        let mut world = World::usual();
        let syn = crate::packet::tcp((7_000, target.port()), 1, 0, SYN, &[]);
        world.host.targets.insert(target, Target::hanging());
        world.inject(&Ip::new(container(target.is_ipv6()), target.ip(), TCP).hops(3).carrying(syn));
        world.run_for(ms(1));
        let with_two = |action: &Action| matches!(action, Action::ConnectStream { hop_limit: Some(2), .. });
        assert_eq!(world.count_actions(with_two), 1);
        world.finish_within(secs(241));
    });
}

#[test]
fn an_error_about_a_reply_of_a_published_port_reaches_the_server() {
    for (host, client, local) in [
        ("0.0.0.0:5353", "198.51.100.9:33333", "192.0.2.1"),
        ("[::]:5353", "[2001:db8:9::9]:33333", "2001:db8::1"),
    ] {
        let mut world = World::new(Settings::default().publishing(Udp, at(host), 53));
        let (client, local): (_, IpAddr) = (at(client), local.parse().unwrap());
        let server = world.guest.udp_bind(53);
        world.host.send_to_listener(ListenerId(0), client, local, b"question");
        world.run_for(ms(10));
        world.guest.udp_send(server, client, b"answer");
        world.run_for(ms(10));
        let sent = world.host.listener_sent[0].1.clone();
        let notice = Notice { offender: Some(client.ip()), ..notice_for(HostError::Refused, client) };
        let port = DatagramPort::Listener(ListenerId(0));
        world.host.say(port, HostError::Refused, notice, &sent);
        // Nobody has asked from there.
        let stranger = SentDatagram { to: at("198.51.100.8:1"), ..sent };
        world.host.say(port, HostError::Refused, notice, &stranger);
        world.run_for(ms(10));
        let errors = world.icmp_errors();
        let [(kind, code, from, quote)] = &errors[..] else { panic!("one error: {errors:?}") };
        assert_eq!((*kind, *code, *from), (notice.kind, notice.code, client.ip()));
        assert_eq!((quote.source, quote.ports()), (container(client.is_ipv6()), (53, client.port())));
        assert_eq!(quote.udp_payload(), b"answer");
        assert_eq!(world.drops(DropReason::NoFlow), 1);
        world.finish_within(secs(301));
    }
}

/// The error that the container sends about `packet`, which came to it.
fn error_about(kind: u8, code: u8, packet: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(&packet[..packet.len().min(1_200)]);
    message
}

#[test]
fn an_error_of_the_container_changes_nothing_and_is_not_answered() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        let mut world = World::usual();
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(0) });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"x");
        world.run_for(ms(1));
        let (own, protocol) = (container(is_ipv6), if is_ipv6 { ICMPV6 } else { ICMP });
        let (kind, code) = if is_ipv6 { (1, 4) } else { (3, 3) };
        let before = world.sent_packets().count();
        let send = |world: &mut World, source: IpAddr, to: IpAddr, quoted: Vec<u8>| {
            world.inject(&Ip::new(source, to, protocol).carrying(error_about(kind, code, &quoted)));
            world.run_for(ms(1));
        };
        let answer = Ip::new(target.ip(), own, UDP).carrying(udp((target.port(), 7_000), b"x"));
        let unknown = Ip::new(target.ip(), own, UDP).carrying(udp((target.port(), 7_001), b"x"));
        send(&mut world, own, target.ip(), answer.clone());
        assert_eq!(world.drops(DropReason::IcmpNotForwarded), 1, "known, and noted");
        send(&mut world, own, target.ip(), unknown);
        assert_eq!(world.drops(DropReason::NoFlow), 1);
        send(&mut world, router(is_ipv6), target.ip(), answer.clone());
        assert_eq!(world.drops(DropReason::SpoofedSource), 1);
        send(&mut world, own, router(is_ipv6), answer.clone());
        send(&mut world, own, target.ip(), answer[..20].to_vec());
        assert_eq!(world.drops(DropReason::IcmpNotForwarded), 3);
        assert_eq!((world.sent_packets().count(), world.stack.flow_count()), (before, 1));
        world.finish_within(secs(301));
    });
}

/// The packet that was seen, from its IP header on, as an error would quote it.
fn quoted(seen: &SeenIp) -> Vec<u8> {
    Ip::new(seen.source, seen.destination, seen.protocol).raw(&seen.transport)
}

#[test]
fn an_error_of_the_container_ends_a_connect_to_its_published_port() {
    for (host, client) in [("0.0.0.0:8080", "198.51.100.9:33333"), ("[::]:8080", "[2001:db8:9::9]:33333")] {
        let client = at(client);
        let is_ipv6 = client.is_ipv6();
        let mut world = World::new(Settings::default().publishing(Tcp, at(host), 80));
        // Its firewall rejects what comes.
        world.link.down.loss = 1_000;
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_for(ms(1));
        let syn = quoted(&world.segments_to(80)[0]);
        let mut of_another = syn.clone();
        let sequence_at = syn.len() - world.segments_to(80)[0].transport.len() + 4;
        of_another[sequence_at] ^= 1;
        let (kind, code) = if is_ipv6 { (1, 1) } else { (3, 13) };
        let ip = Ip::new(container(is_ipv6), client.ip(), if is_ipv6 { ICMPV6 } else { ICMP });
        world.inject(&ip.carrying(error_about(kind, code, &of_another)));
        world.run_for(ms(1));
        assert_eq!((world.stack.flow_count(), world.drops(DropReason::IcmpNotForwarded)), (1, 1));
        world.inject(&ip.carrying(error_about(kind, code, &syn)));
        world.run_for(ms(1));
        assert_eq!(world.peer(client).closed, Some(CloseKind::Reset));
        world.finish_within(ms(10));
    }
}

#[test]
fn an_error_of_the_container_makes_segments_smaller_and_ends_nothing() {
    both_families(|target| {
        let is_ipv6 = target.is_ipv6();
        // Another address of the container's, whose packets the guest leaves alone.
        let own: IpAddr = if is_ipv6 { "fd00::65" } else { "10.0.2.101" }.parse().unwrap();
        let mut world = World::new(Settings::default().with(|config| config.link.mtu = 9_000));
        world.host.targets.insert(target, Target::running(Script::host(1, 30_000)));
        let send = |world: &mut World, transport: Vec<u8>| {
            world.inject(&Ip::new(own, target.ip(), TCP).carrying(transport));
            world.run_for(ms(1));
        };
        // With the option that it takes segments of 8 900 bytes.
        let mut syn = tcp((7_000, target.port()), 1, 0, SYN, &[2, 4, 0x22, 0xc4]);
        syn[12] = 0x60;
        send(&mut world, syn);
        let answer = world.segments_to(7_000)[0].sequence().wrapping_add(1);
        send(&mut world, tcp((7_000, target.port()), 2, answer, ACK, &[]));
        let large = world.segments_to(7_000).into_iter().find(|ip| ip.tcp_payload().len() > 8_000);
        let large = quoted(&large.expect("segments as large as were asked for"));
        let (kind, code) = if is_ipv6 { (2, 0) } else { (3, 4) };
        let protocol = if is_ipv6 { ICMPV6 } else { ICMP };
        let mut narrow = error_about(kind, code, &large);
        narrow[6..8].copy_from_slice(&1_300u16.to_be_bytes());
        world.inject(&Ip::new(own, target.ip(), protocol).carrying(narrow));
        // RFC 1122 §4.2.3.9, RFC 5461 §3.1.
        let (kind, code) = if is_ipv6 { (1, 3) } else { (3, 1) };
        world.inject(&Ip::new(own, target.ip(), protocol).carrying(error_about(kind, code, &large)));
        let before = world.segments_to(7_000).len();
        world.run_for(secs(2));
        let again = world.segments_to(7_000).split_off(before);
        assert!(!again.is_empty() && world.stack.flow_count() == 1);
        let most = 1_300 - if is_ipv6 { 60 } else { 40 };
        assert_eq!(again.iter().map(|ip| ip.tcp_payload().len()).max(), Some(most));
        send(&mut world, tcp((7_000, target.port()), 2, answer, crate::packet::RST, &[]));
        world.finish_within(secs(1));
    });
}
