//! Published TCP ports refuse where nobody listens in the container, and only there.

use std::net::SocketAddr;

use netferry::config::ClosedPorts;
use netferry::config::PortProtocol::Tcp;
use netferry::stack::boundary::{Action, CloseKind, HostEvent, ListenerId};

use crate::app::{Ending, Script};
use crate::clock::{Duration, ms, secs};
use crate::packet::{RST, SYN};
use crate::world::{GATEWAY, GATEWAY6, Settings, World, at};

/// By then the guest, which throws away what it says before it knows the gateway, has been asked again.
const KNOWN: Duration = Duration::from_millis(100);

const PORT: ListenerId = ListenerId(0);

/// A host port of each family, its client outside, the same port on the container.
fn published(run: impl Fn(World, SocketAddr)) {
    for (host, client) in [("0.0.0.0:8080", "198.51.100.9:33333"), ("[::]:8080", "[2001:db8:9::9]:33333")] {
        let settings = Settings::default().publishing(Tcp, at(host), 80);
        run(World::new(settings.with(|config| config.closed_ports = ClosedPorts::Refuse)), at(client));
    }
}

fn is_shut(world: &World) -> bool {
    assert_eq!(world.host.shut.contains(&PORT), world.stack.is_port_shut(PORT));
    world.stack.is_port_shut(PORT)
}

/// The questions the container was asked so far.
fn questions(world: &World) -> usize {
    let is_syn = |ip: &crate::packet::SeenIp| ip.tcp_flags() == Some(SYN);
    world.segments_to(80).iter().filter(|ip| is_syn(ip) && ip.ports().0 >= 60_000).count()
}

#[test]
fn a_port_nobody_listens_on_refuses_from_the_beginning() {
    published(|mut world, client| {
        world.run_for(KNOWN);
        assert!(is_shut(&world));
        assert!(world.client_connects(0, client, Script::host(1, 100)).is_none());
        assert_eq!((world.stack.flow_count(), world.rejected.len()), (0, 0), "we have not heard of him");
        world.finish();
    });
}

#[test]
fn a_port_opens_as_soon_as_the_container_listens_and_the_next_client_is_served() {
    published(|mut world, client| {
        world.run_for(KNOWN);
        assert!(is_shut(&world));
        let stream = world.guest.listen(80, Script::container(1, 200_000));
        world.run_for(ms(1));
        assert!(!is_shut(&world));
        world.client_connects(0, client, Script::host(1, 100_000)).unwrap();
        world.run_until(secs(20), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(client));
        world.finish();
    });
}

#[test]
fn the_servers_program_never_learns_of_the_questions() {
    published(|mut world, client| {
        world.run_for(KNOWN);
        let stream = world.guest.listen(80, Script::container(1, 100));
        world.run_for(secs(5));
        assert!(!world.guest.streams[stream.0].established);
        assert_eq!(world.guest.state(stream), smoltcp::socket::tcp::State::Listen);
        let segments = world.segments_to(80);
        let last = segments.last().unwrap();
        assert_eq!(last.tcp_flags().unwrap() & RST, RST, "a question answered is taken back");
        let gateway: std::net::IpAddr = if client.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() };
        assert!(segments.iter().all(|segment| segment.source == gateway));
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(5), "both ends", World::all_ended);
        world.finish();
    });
}

#[test]
fn a_port_that_is_open_is_not_asked_about() {
    published(|mut world, _| {
        world.guest.listen(80, Script::container(1, 100));
        world.run_for(secs(3_600));
        assert!(questions(&world) <= 2);
        assert!(!is_shut(&world));
        world.finish();
    });
}

#[test]
fn questions_become_rarer_and_a_server_is_found_in_a_tenth_of_a_second() {
    published(|mut world, _| {
        world.run_for(secs(120));
        let after = questions(&world);
        assert!((4_000..7_000).contains(&after), "{after}");
        world.run_for(secs(10));
        assert_eq!(questions(&world) - after, 100);
        world.guest.listen(80, Script::container(1, 100));
        world.run_for(ms(100));
        assert!(!is_shut(&world));
        world.finish();
    });
}

#[test]
fn when_the_server_is_gone_one_client_is_reset_and_the_next_are_refused() {
    published(|mut world, client| {
        world.guest.listen(80, Script::container(1, 100));
        world.run_for(ms(5));
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(20), "both ends", World::all_ended);
        // The guest's socket took one connection; now nobody listens.
        let next = SocketAddr::new(client.ip(), 33_334);
        world.client_connects(0, next, Script::host(2, 100)).unwrap();
        world.run_for(ms(5));
        assert_eq!(world.peer(next).closed, Some(CloseKind::Reset));
        assert!(is_shut(&world));
        assert!(world.client_connects(0, SocketAddr::new(client.ip(), 33_335), Script::host(3, 1)).is_none());
        world.finish();
    });
}

#[test]
fn a_container_that_does_not_answer_leaves_the_port_open() {
    published(|mut world, client| {
        world.link.up.loss = 1_000;
        world.run_for(secs(2));
        assert!(!is_shut(&world));
        assert_eq!(questions(&world), 10);
        world.link.up.loss = 0;
        let stream = world.guest.listen(80, Script::container(1, 100));
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(20), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(client));
        world.finish();
    });
}

#[test]
fn a_lossy_link_shuts_no_port_that_is_listened_on() {
    for seed in 1..=20 {
        let mut settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
        settings.seed = seed;
        let mut world = World::new(settings.with(|config| config.closed_ports = ClosedPorts::Refuse));
        (world.link.up.loss, world.link.down.loss) = (300, 300);
        // Each of the guest's sockets has room for one that is not answered any more.
        for _ in 0..20 {
            world.guest.listen(80, Script::container(1, 100));
        }
        for _ in 0..200 {
            world.run_for(ms(10));
            assert!(!is_shut(&world));
        }
    }
}

#[test]
fn the_container_cannot_forge_an_answer_that_it_was_not_asked_for() {
    published(|mut world, client| {
        world.guest.listen(80, Script::container(1, 100).ending(Ending::AfterPeerEnds));
        world.run_for(ms(5));
        let source = world.settings.config.link.container_like(client.ip()).unwrap();
        let gateway = world.settings.config.link.gateway_like(source).unwrap();
        for port in (60_000..65_000).step_by(50) {
            let reset = crate::packet::tcp((80, port), 0, 1, RST | crate::packet::ACK, &[]);
            world.inject(&crate::packet::Ip::new(source, gateway, crate::packet::TCP).carrying(reset));
        }
        world.run_for(ms(5));
        assert!(!is_shut(&world));
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(5), "both ends", World::all_ended);
        world.finish();
    });
}

#[test]
fn many_shut_ports_share_a_thousand_questions_a_second() {
    let mut settings = Settings::default().with(|config| config.closed_ports = ClosedPorts::Refuse);
    for port in 0..2_000 {
        settings = settings.publishing(Tcp, SocketAddr::from(([0, 0, 0, 0], 8_000 + port)), 1_000 + port);
    }
    let mut world = World::new(settings);
    world.run_for(secs(4));
    assert_eq!(world.host.shut.len(), 2_000);
    let asked = |world: &World| world.sent_packets().filter(|ip| ip.tcp_flags() == Some(SYN)).count();
    let before = asked(&world);
    world.run_for(secs(10));
    let each_second = (asked(&world) - before) / 10;
    assert!((900..=1_100).contains(&each_second), "{each_second}");
    world.finish();
}

#[test]
fn a_port_that_cannot_be_listened_on_again_is_tried_again() {
    published(|mut world, client| {
        world.run_for(KNOWN);
        world.guest.listen(80, Script::container(1, 100));
        world.run_for(ms(1));
        assert!(!is_shut(&world));
        world.host.shut.insert(PORT);
        world.host.tell(HostEvent::NotListening { listener: PORT });
        world.run_for(ms(10));
        assert!(is_shut(&world));
        world.run_for(ms(150));
        assert!(!is_shut(&world));
        let listens = world.count_actions(|action| matches!(action, Action::Listen { .. }));
        assert_eq!(listens, 2);
        world.client_connects(0, client, Script::host(1, 100)).unwrap();
        world.run_until(secs(5), "both ends", World::all_ended);
        world.finish();
    });
}

#[test]
fn where_closed_ports_are_to_accept_nothing_is_asked() {
    let mut world = World::new(Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80));
    world.run_for(Duration::from_secs(60));
    assert_eq!((questions(&world), is_shut(&world)), (0, false));
    world.finish();
}

#[test]
fn a_port_that_learns_is_open_until_a_client_is_refused_and_asks_nothing_before() {
    let settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
    let mut world = World::new(settings.with(|config| config.closed_ports = ClosedPorts::Learn));
    world.run_for(secs(60));
    assert_eq!((is_shut(&world), questions(&world)), (false, 0));
    let client = at("198.51.100.9:33333");
    world.client_connects(0, client, Script::host(1, 100)).unwrap();
    world.run_for(ms(50));
    assert_eq!(world.peer(client).closed, Some(CloseKind::Reset));
    assert!(is_shut(&world));
    assert!(world.client_connects(0, at("198.51.100.9:33334"), Script::host(2, 100)).is_none());
    // A server that begins is found; its first client is served.
    let stream = world.guest.listen(80, Script::container(3, 1_000));
    world.run_for(ms(5));
    let next = at("198.51.100.9:33335");
    world.client_connects(0, next, Script::host(3, 1_000)).unwrap();
    world.run_until(secs(20), "both ends", |world| world.guest.streams[stream.0].app.peer_ended.is_some());
    world.assert_exchanged(stream, world.peer(next));
}

#[test]
fn what_a_port_has_learnt_it_forgets_after_ten_seconds() {
    let settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
    let mut world = World::new(settings.with(|config| config.closed_ports = ClosedPorts::Learn));
    world.run_for(KNOWN);
    world.client_connects(0, at("198.51.100.9:33333"), Script::host(1, 100)).unwrap();
    world.run_for(secs(9));
    assert!(is_shut(&world));
    world.run_for(secs(3));
    let asked = questions(&world);
    assert!(!is_shut(&world));
    world.run_for(secs(600));
    assert_eq!(questions(&world), asked, "whom nobody visits is left alone");
    world.client_connects(0, at("198.51.100.9:33334"), Script::host(2, 100)).unwrap();
    world.run_for(secs(2));
    assert!(is_shut(&world));
}
