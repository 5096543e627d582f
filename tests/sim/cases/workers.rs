//! A core with a part of the flows: what it chooses is its own, and what is another's it leaves whole.

use std::net::SocketAddr;

use netferry::config::PortProtocol::Tcp;
use netferry::config::{ClosedPorts, PublishRule};
use netferry::stack::boundary::{Action, ListenerId};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::flow::{FlowKey, FlowProtocol};
use netferry::stack::share::Share;
use netferry::wire::vnet_header::VNET_HEADER_LEN;

use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{self, Ip, SYN};
use crate::world::{CONTAINER, GATEWAY, GATEWAY_MAC, Settings, World, at};

const SECRET: [u64; 4] = [5, 6, 7, 8];
const WORKERS: usize = 4;
const PORT: ListenerId = ListenerId(0);

/// The world of one worker of four.
fn world_of(own: usize, settings: Settings) -> World {
    let mut world = World::new(settings.with(|config| *config = config.share_of(own == 0, WORKERS)));
    world.stack.take_share(Share::part(own, WORKERS, SECRET));
    world
}

fn owner_of(container: SocketAddr, remote: SocketAddr) -> usize {
    let key = FlowKey { protocol: FlowProtocol::Tcp, container, remote };
    Share::part(0, WORKERS, SECRET).owner(&key).unwrap_or(0)
}

/// A client outside whose connection to the container's port 80 belongs to this worker.
fn client_of(own: usize) -> SocketAddr {
    let server = SocketAddr::new(CONTAINER.into(), 80);
    let clients = (30_000..).map(|port| SocketAddr::new(at("198.51.100.9:1").ip(), port));
    clients.into_iter().find(|client| owner_of(server, *client) == own).unwrap()
}

fn rule() -> PublishRule {
    Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80).config.publish[0]
}

#[test]
fn a_segment_in_fragments_goes_whole_to_whom_it_belongs() {
    let remote = at("203.0.113.5:80");
    let port =
        (40_000..).find(|port| owner_of(SocketAddr::new(CONTAINER.into(), *port), remote) == 2).unwrap();
    let mut leader = world_of(0, Settings::default());
    let syn = packet::tcp((port, 80), 7, 0, SYN, &[1; 1_200]);
    for fragment in Ip::new(CONTAINER, at("203.0.113.5:80").ip(), 6).numbered(9).fragments(syn.clone(), 600) {
        leader.inject(&fragment);
    }
    leader.run_for(ms(10));
    assert_eq!((leader.stack.flow_count(), leader.count_actions(|_| true)), (0, 0), "it is not his");
    let (owner, frame) = leader.stack.take_stray().expect("the segment");
    assert_eq!(owner, 2);
    assert!(leader.stack.take_stray().is_none());
    let mut other = world_of(2, Settings::default());
    other.link.inject_up([0; VNET_HEADER_LEN], frame, other.now);
    other.run_for(ms(10));
    assert_eq!(other.count_actions(|action| matches!(action, Action::ConnectStream { .. })), 1);
    leader.finish();
}

#[test]
fn questions_about_ports_are_such_that_the_answers_come_back_to_the_asker() {
    let settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
    let mut leader = world_of(0, settings.with(|config| config.closed_ports = ClosedPorts::Refuse));
    leader.run_for(secs(5));
    let questions: Vec<_> = leader.segments_to(80).into_iter().filter(|ip| ip.ports().0 >= 60_000).collect();
    assert!(questions.len() > 20, "{}", questions.len());
    let server = SocketAddr::new(CONTAINER.into(), 80);
    for question in questions {
        assert_eq!(owner_of(server, SocketAddr::new(question.source, question.ports().0)), 0);
    }
    assert!(leader.stack.is_port_shut(PORT));
    leader.finish();
}

#[test]
fn clients_that_look_alike_get_ports_of_the_worker_they_are_with() {
    let server = SocketAddr::new(CONTAINER.into(), 80);
    // On the host's loopback, they are shown as the gateway.
    let shown = |port| SocketAddr::new(GATEWAY.into(), port);
    let port = (30_000..).find(|port| owner_of(server, shown(*port)) == 3).unwrap();
    let mut other = world_of(3, Settings::default());
    other.guest.listen(80, Script::container(1, 100));
    other.run_for(ms(100));
    for host in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        let client = SocketAddr::new(host.parse().unwrap(), port);
        other
            .stack
            .accept_handed(PORT, &rule(), (client, at("0.0.0.0:8080")), other.now)
            .expect("a port of its own");
    }
    other.run_for(ms(1));
    let syns = other.segments_to(80).into_iter().filter(|ip| ip.tcp_flags() == Some(SYN));
    let ports: std::collections::BTreeSet<u16> = syns.map(|ip| ip.ports().0).collect();
    assert_eq!(ports.len(), 3);
    assert!(ports.iter().all(|port| owner_of(server, shown(*port)) == 3), "{ports:?}");
}

#[test]
fn the_leader_hears_of_a_server_that_refuses_anothers_client_and_asks_about_its_port() {
    let settings = || {
        let settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
        settings.with(|config| config.closed_ports = ClosedPorts::Learn)
    };
    let (mut leader, mut other) = (world_of(0, settings()), world_of(1, settings()));
    leader.run_for(ms(100));
    other.run_for(ms(100));
    let client = client_of(1);
    assert_eq!(leader.stack.owner_of_client(PORT, client), Some(1));
    assert_eq!(leader.stack.owner_of_client(PORT, client_of(0)), None);
    assert_eq!(
        other.stack.accept_stream(PORT, client, at("0.0.0.0:8080"), other.now),
        Err(DropReason::Denied)
    );
    let flow = other.stack.accept_handed(PORT, &rule(), (client, at("0.0.0.0:8080")), other.now).unwrap();
    other.host.bind_accepted(flow, client, Target::running(Script::host(1, 100)));
    assert_eq!(other.stack.opening_clients(PORT), 1);
    // The guest throws away what it says before it knows the gateway, and is asked again.
    other.run_for(secs(4));
    assert_eq!((other.stack.opening_clients(PORT), other.stack.flow_count()), (0, 0), "nobody listens");
    let server = other.stack.take_suspect().expect("the server");
    assert_eq!((server, other.stack.take_suspect()), (SocketAddr::new(CONTAINER.into(), 80), None));
    assert!(!leader.stack.is_port_shut(PORT));
    leader.stack.suspect(server, leader.now);
    leader.run_for(ms(100));
    assert!(leader.stack.is_port_shut(PORT));
    leader.finish();
}

#[test]
fn whoever_learns_where_the_container_is_tells_the_others() {
    let mut leader = world_of(0, Settings::default());
    let mac = leader.stack.container_mac();
    let mut other = world_of(1, Settings::default().with(|config| config.link.container_mac = None));
    assert_eq!(other.stack.container_mac(), None);
    other.stack.container_moved(netferry::wire::MacAddr(GATEWAY_MAC));
    assert_eq!(other.stack.container_mac(), Some(netferry::wire::MacAddr(GATEWAY_MAC)));
    leader.run_for(ms(1));
    assert_eq!(leader.stack.container_mac(), mac);
}
