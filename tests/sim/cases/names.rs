//! The resolver of a network: names of its containers are answered by the gateway itself, over UDP and TCP, and nothing
//! of them reaches the host.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use netferry::config::Segment;
use netferry::config::network::Member;
use netferry::stack::boundary::{Action, HostError, HostEvent};
use netferry::stack::service::names::NameTable;
use netferry::wire::MacAddr;

use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::guest::StreamId;
use crate::host::{DatagramPeer, Target};
use crate::settings::{DNS, DNS6, Settings, at};
use crate::world::World;

const FIRST: &str = "203.0.113.53:53";
const SECOND: &str = "203.0.113.54:53";

fn world(internal: bool) -> World {
    let bridged = |config: &mut netferry::config::Config| config.link.segment = Segment::Bridged { internal };
    let mut world = World::new(Settings::default().with(bridged));
    let member = Member {
        id: "1".to_owned(),
        name: "web".to_owned(),
        aliases: Vec::new(),
        ipv4: Some(Ipv4Addr::new(10, 0, 2, 7)),
        ipv6: None,
        mac: MacAddr([2, 0x42, 10, 0, 2, 7]),
        interface: "eth0".to_owned(),
        publish: Vec::new(),
        pid: None,
        namespace: None,
        rules: Arc::default(),
        audited: false,
    };
    world.host.tell(HostEvent::NamesChanged(Arc::new(NameTable::of([&member]))));
    world
}

/// A query for the IPv4 addresses of a name of one label.
fn query(identifier: u16, name: &str) -> Vec<u8> {
    let mut message = identifier.to_be_bytes().to_vec();
    message.extend(b"\x01\x00\x00\x01\0\0\0\0\0\0");
    message.push(name.len() as u8);
    message.extend(name.as_bytes());
    message.extend(b"\0\0\x01\0\x01");
    message
}

/// What the gateway says of `web`.
fn own_answer(identifier: u16) -> Vec<u8> {
    let mut message = query(identifier, "web");
    (message[2], message[3], message[7]) = (0x85, 0x80, 1);
    message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\x02\x07");
    message
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

fn opened(world: &World) -> usize {
    world.count_actions(|action| matches!(action, Action::OpenDatagram { .. } | Action::ConnectStream { .. }))
}

/// A client over TCP whose bytes the test says and hears itself.
fn client(world: &mut World) -> StreamId {
    let silent = Script::container(1, 0).ending(Ending::Never).reading(Reading::Never);
    let stream = world.guest.connect(SocketAddr::new(DNS.into(), 53), silent);
    world.run_for(ms(50));
    stream
}

fn say(world: &mut World, stream: StreamId, bytes: &[u8]) {
    assert_eq!(world.guest.socket(stream).send_slice(bytes).unwrap(), bytes.len());
    world.run_for(ms(50));
}

fn heard(world: &mut World, stream: StreamId) -> Vec<u8> {
    let mut heard = vec![0; 100_000];
    let count = world.guest.socket(stream).recv_slice(&mut heard).unwrap();
    heard.truncate(count);
    heard
}

#[test]
fn a_name_of_the_network_is_answered_over_udp_and_nobody_is_asked() {
    for internal in [false, true] {
        for forwarder in [SocketAddr::new(DNS.into(), 53), SocketAddr::new(DNS6.into(), 53)] {
            let mut world = world(internal);
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, forwarder, &query(9, "web"));
            world.run_for(ms(100));
            assert_eq!(world.guest.udp_received(socket), [(forwarder, own_answer(9))]);
            assert_eq!(opened(&world), 0);
            world.finish();
        }
    }
}

#[test]
fn another_name_is_forwarded_and_on_an_internal_network_refused() {
    let forwarder = SocketAddr::new(DNS.into(), 53);
    let mut open = world(false);
    open.host.datagram_peers.insert(at(FIRST), DatagramPeer::Resolves { after: ms(20), mark: 1 });
    let socket = open.guest.udp_bind(7_000);
    open.guest.udp_send(socket, forwarder, &query(1, "other"));
    open.run_for(ms(100));
    let [(_, answer)] = open.guest.udp_received(socket) else { panic!("not one answer") };
    assert_eq!(answer.last(), Some(&1), "as the resolver has it");
    open.finish_within(secs(301));

    let mut internal = world(true);
    let socket = internal.guest.udp_bind(7_000);
    internal.guest.udp_send(socket, forwarder, &query(1, "other"));
    internal.run_for(ms(100));
    let [(_, answer)] = internal.guest.udp_received(socket) else { panic!("not one answer") };
    assert_eq!(answer[3] & 0x0f, 5);
    assert_eq!(opened(&internal), 0);
    internal.finish();
}

#[test]
fn a_name_of_the_network_is_answered_over_tcp_without_anybody_elses_connection() {
    let mut world = world(false);
    let stream = client(&mut world);
    let whole = framed(&query(3, "web"));
    for part in whole.chunks(5) {
        say(&mut world, stream, part);
    }
    assert_eq!(heard(&mut world, stream), framed(&own_answer(3)));
    say(&mut world, stream, &[framed(&query(4, "web")), framed(&query(5, "web"))].concat());
    assert_eq!(heard(&mut world, stream), [framed(&own_answer(4)), framed(&own_answer(5))].concat());
    assert_eq!(opened(&world), 0);
    world.guest.socket(stream).close();
    world.run_for(secs(30));
    world.finish();
}

#[test]
fn of_queries_on_one_connection_only_those_for_others_reach_the_resolver() {
    let mut world = world(false);
    world.host.targets.insert(at(FIRST), Target::failing(HostError::Refused).after(ms(10)));
    world.host.targets.insert(at(SECOND), Target::running(Script::echo(1)).after(ms(10)));
    let stream = client(&mut world);
    let other = framed(&query(2, "other"));
    say(&mut world, stream, &[framed(&query(1, "web")), other.clone(), framed(&query(3, "web"))].concat());
    // What the resolver's program returns is what it was sent: the one query.
    let mut expected = vec![framed(&own_answer(1)), other.clone(), framed(&own_answer(3))];
    let mut got = heard(&mut world, stream);
    assert_eq!(got.len(), expected.concat().len());
    expected.retain(|message| match got.windows(message.len()).position(|part| part == message) {
        Some(at) => got.drain(at..at + message.len()).next().is_none(),
        None => true,
    });
    assert!(expected.is_empty() && got.is_empty(), "{expected:?} {got:?}");
    assert_eq!(world.peer(at(SECOND)).written_by_core, other.len() as u64);
    world.guest.socket(stream).close();
    world.run_for(secs(30));
}

#[test]
fn a_query_over_tcp_that_no_resolver_takes_is_answered_so_and_the_connection_goes_on() {
    let mut world = world(false);
    let stream = client(&mut world);
    say(&mut world, stream, &framed(&query(1, "other")));
    let answer = heard(&mut world, stream);
    assert_eq!((answer.len(), answer[5] & 0x0f), (14, 2));
    say(&mut world, stream, &framed(&query(2, "web")));
    assert_eq!(heard(&mut world, stream), framed(&own_answer(2)));
    world.guest.socket(stream).close();
    world.run_for(secs(30));
    world.finish();
}

#[test]
fn a_message_longer_than_any_query_is_refused_without_being_kept() {
    let mut world = world(false);
    let stream = client(&mut world);
    let mut long = query(1, "web");
    long.resize(60_000, 0);
    say(&mut world, stream, &framed(&long));
    say(&mut world, stream, &framed(&query(2, "web")));
    world.run_for(secs(1));
    let answer = heard(&mut world, stream);
    assert_eq!((answer[5] & 0x0f, &answer[14..]), (1, &*framed(&own_answer(2))));
    assert_eq!(opened(&world), 0);
    world.guest.socket(stream).close();
    world.run_for(secs(30));
    world.finish();
}
