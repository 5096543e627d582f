//! Published ports: a client of the host reaches the container's server.

use std::net::SocketAddr;

use netferry::config::PortProtocol::{Tcp, Udp};
use netferry::stack::boundary::{CloseKind, HostError, HostEvent, ListenerId};
use netferry::stack::drop_reason::DropReason;
use netferry::wire::vnet_header::Offload;

use crate::app::{Ending, Script};
use crate::clock::{ms, secs};
use crate::world::{CONTAINER, GATEWAY, GATEWAY6, Settings, World, at};

/// A host port of each family, its client outside, the same port on the container.
fn published(run: impl Fn(World, SocketAddr)) {
    for offload in [Offload::ALL, Offload::NONE] {
        for (host, client) in [("0.0.0.0:8080", "198.51.100.9:33333"), ("[::]:8080", "[2001:db8:9::9]:33333")]
        {
            let settings = Settings::default().offload(offload).publishing(Tcp, at(host), 80);
            run(World::new(settings), at(client));
        }
    }
}

#[test]
fn a_client_reaches_the_server_and_is_seen_with_its_own_address() {
    published(|mut world, client| {
        let stream = world.guest.listen(80, Script::container(1, 200_000));
        world.client_connects(0, client, Script::host(1, 100_000)).unwrap();
        world.run_until(secs(20), "both ends", World::all_ended);
        assert_eq!(world.guest.streams[stream.0].remote.or(Some(client)), Some(client));
        world.assert_exchanged(stream, world.peer(client));
        let first = world.segments_to(80).into_iter().next().unwrap();
        assert_eq!(first.from(), client);
        world.finish();
    });
}

#[test]
fn a_client_whom_the_host_has_no_room_for_any_more_leaves_nothing_behind() {
    published(|mut world, client| {
        world.guest.listen(80, Script::container(1, 10));
        let flow = world.client_connects(0, client, Script::host(1, 10)).unwrap();
        world.handle_host(HostEvent::ConnectFailed { flow, error: HostError::Exhausted, notice: None });
        world.run_for(ms(100));
        assert_eq!(world.drops(DropReason::DescriptorLimit), 1);
        assert_eq!(world.peer(client).closed, Some(CloseKind::Reset));
        world.finish_within(secs(1));
    });
}

#[test]
fn a_port_is_not_accepted_of_while_its_share_of_handshakes_is_taken() {
    let mut settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
    settings = settings.publishing(Tcp, at("0.0.0.0:8081"), 81);
    let mut world = World::new(settings.with(|config| config.limits.opening_per_port = 2));
    // The container's side is silent.
    world.link.up.loss = 1_000;
    for port in 1..=2 {
        assert!(world.stack.may_accept(ListenerId(0)));
        let client = SocketAddr::from(([198, 51, 100, 9], port));
        world.client_connects(0, client, Script::host(1, 10).ending(Ending::Never)).unwrap();
    }
    assert!(!world.stack.may_accept(ListenerId(0)) && world.stack.may_accept(ListenerId(1)));
    world.run_until(secs(300), "the first has waited long enough", |world| {
        world.stack.may_accept(ListenerId(0))
    });
    world.finish_within(secs(1));
}

#[test]
fn a_client_is_reset_where_the_container_refuses() {
    published(|mut world, client| {
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(5), "the reset", |world| world.peer(client).app.peer_reset);
        assert_eq!(world.peer(client).closed, Some(CloseKind::Reset));
        assert_eq!(world.peer(client).app.received, 0);
        world.finish_within(secs(1));
    });
}

#[test]
fn a_client_is_reset_where_the_container_does_not_answer() {
    published(|mut world, client| {
        world.link.up.loss = 1_000;
        world.client_connects(0, client, Script::host(1, 100).ending(Ending::Never)).unwrap();
        world.run_until(secs(300), "the reset", |world| world.peer(client).app.peer_reset);
        world.finish();
    });
}

#[test]
fn a_client_that_leaves_before_the_container_answers_leaves_nothing_behind() {
    published(|mut world, client| {
        world.link.up.delay = secs(2);
        world.guest.listen(80, Script::container(1, 0).ending(Ending::AfterPeerEnds));
        world.client_connects(0, client, Script::host(1, 0).ending(Ending::ResetAfterSending)).unwrap();
        world.run_until(secs(20), "the flow is gone", |world| world.stack.flow_count() == 0);
        world.run_for(secs(5));
        world.finish();
    });
}

#[test]
fn a_client_on_the_hosts_loopback_is_shown_as_the_gateway() {
    for (host, client, shown) in [
        ("0.0.0.0:8080", "127.0.0.1:40000", SocketAddr::new(GATEWAY.into(), 40_000)),
        ("[::]:8080", "[::1]:40000", SocketAddr::new(GATEWAY6.into(), 40_000)),
    ] {
        let mut world = World::new(Settings::default().publishing(Tcp, at(host), 80));
        let stream = world.guest.listen(80, Script::container(1, 10));
        world.client_connects(0, at(client), Script::host(1, 10)).unwrap();
        world.run_until(secs(5), "both ends", World::all_ended);
        assert_eq!(world.segments_to(80)[0].from(), shown);
        world.assert_exchanged(stream, world.peer(at(client)));
        world.finish();
    }
}

#[test]
fn two_clients_that_look_alike_are_kept_apart() {
    let settings =
        Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80).publishing(Tcp, at("0.0.0.0:8081"), 80);
    let mut world = World::new(settings);
    // Both appear as the gateway with the same port, unless one of the ports is changed.
    let (first, second) = (at("127.0.0.1:40000"), at("127.0.0.2:40000"));
    world.guest.listen(80, Script::echoed(1, 0).ending(Ending::AfterPeerEnds));
    world.guest.listen(80, Script::echoed(1, 0).ending(Ending::AfterPeerEnds));
    let sending = Script { expect_key: 0, ..Script::host(0, 5_000) };
    for (listener, client) in [(0, first), (1, second)] {
        world.client_connects(listener, client, Script { send_key: 3, ..sending }).unwrap();
    }
    world.guest.streams.iter_mut().for_each(|stream| stream.app.script.expect_key = 3);
    world.run_until(secs(5), "both ends", World::all_ended);
    assert!(world.guest.streams.iter().all(|stream| stream.app.got_all(5_000)));
    world.finish();
}

#[test]
fn a_datagram_of_a_client_reaches_the_server_and_the_answer_the_client() {
    for (host, client, local) in [
        ("0.0.0.0:5353", "198.51.100.9:33333", "192.0.2.7"),
        ("[::]:5353", "[2001:db8:9::9]:33333", "2001:db8:7::7"),
    ] {
        let mut world = World::new(Settings::default().publishing(Udp, at(host), 53));
        let (client, local) = (at(client), local.parse().unwrap());
        let server = world.guest.udp_bind(53);
        world.host.send_to_listener(ListenerId(0), client, local, b"question");
        world.run_for(ms(10));
        assert_eq!(world.guest.udp_received(server), [(client, b"question".to_vec())]);
        world.guest.udp_send(server, client, b"answer");
        world.run_for(ms(10));
        let [(ListenerId(0), sent)] = &world.host.listener_sent[..] else { panic!("one answer") };
        assert_eq!((sent.to, sent.how.from, &sent.bytes[..]), (client, Some(local), &b"answer"[..]));
        assert_eq!(world.host.opened, 0, "the port's own socket serves all");
        world.finish_within(secs(301));
    }
}

#[test]
fn a_client_of_a_published_port_on_loopback_is_answered_there() {
    let mut world = World::new(Settings::default().publishing(Udp, at("0.0.0.0:5353"), 53));
    let (client, local) = (at("127.0.0.1:40000"), "127.0.0.1".parse().unwrap());
    let server = world.guest.udp_bind(53);
    world.host.send_to_listener(ListenerId(0), client, local, b"question");
    world.run_for(ms(10));
    let shown = SocketAddr::new(GATEWAY.into(), 40_000);
    assert_eq!(world.guest.udp_received(server), [(shown, b"question".to_vec())]);
    world.guest.udp_send(server, shown, b"answer");
    world.run_for(ms(10));
    assert_eq!(world.host.listener_sent.len(), 1);
    assert_eq!(world.host.listener_sent[0].1.to, client);
    assert_eq!(world.host.listener_sent[0].1.how.from, Some(local));
    assert!(world.sent_packets().all(|ip| ip.destination == CONTAINER));
    world.finish_within(secs(301));
}

#[test]
fn a_client_who_comes_by_two_ports_of_one_server_from_one_port_of_his_is_let_in_once() {
    let published =
        Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80).publishing(Tcp, at("0.0.0.0:8081"), 80);
    let published = published.publishing(Udp, at("0.0.0.0:5353"), 53).publishing(Udp, at("0.0.0.0:5354"), 53);
    let mut world = World::new(published);
    let (client, local) = (at("198.51.100.9:33333"), "192.0.2.7".parse().unwrap());
    let stream = world.guest.listen(80, Script::container(1, 5_000));
    world.client_connects(0, client, Script::host(1, 5_000)).unwrap();
    // The container could not tell the two connections apart, and a client who is shown as he is has no other port.
    assert_eq!(world.client_connects(1, client, Script::host(2, 10)), None);
    assert_eq!(world.rejected, [DropReason::EndpointsTaken]);
    world.run_until(secs(20), "both ends", World::all_ended);
    world.assert_exchanged(stream, world.peer(client));
    let server = world.guest.udp_bind(53);
    for (listener, question) in [(2, &b"first"[..]), (3, b"other"), (2, b"second")] {
        world.host.send_to_listener(ListenerId(listener), client, local, question);
        world.run_for(ms(10));
    }
    assert_eq!(world.guest.udp_received(server), [(client, b"first".to_vec()), (client, b"second".to_vec())]);
    assert_eq!(world.drops(DropReason::EndpointsTaken), 2);
    world.finish_within(secs(301));
}

#[test]
fn clients_that_all_look_alike_are_given_ports_as_long_as_one_is_found() {
    // Each by a port of the host of its own, from the same port of loopback.
    let listeners = 300;
    let settings = (0..listeners).fold(Settings::default(), |settings, number| {
        settings.publishing(Tcp, SocketAddr::from(([0, 0, 0, 0], 8_000 + number)), 80)
    });
    let mut world = World::new(settings);
    // The container's side is silent, so that all of them stay.
    world.link.up.loss = 1_000;
    let let_in = (0..listeners).filter(|number| {
        let client = SocketAddr::from(([127, 0, 0, 1 + (*number % 200) as u8], 40_000));
        let script = Script::host(1, 10).ending(Ending::Never);
        world.client_connects(u32::from(*number), client, script).is_some()
    });
    assert_eq!(let_in.count(), 256, "the ports that are tried");
    assert_eq!(world.drops(DropReason::EndpointsTaken), u64::from(listeners) - 256);
    let refused = usize::from(listeners) - 256;
    assert!(
        world.rejected.len() == refused
            && world.rejected.iter().all(|why| *why == DropReason::EndpointsTaken)
    );
    world.finish_within(secs(300));
}
