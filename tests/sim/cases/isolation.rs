//! A bug in the core costs the flow that it strikes, and nothing else.

use std::net::SocketAddr;

use netferry::config::PortProtocol;
use netferry::stack::boundary::CloseKind;
use netferry::stack::drop_reason::DropReason;
use netferry::wire::vnet_header::Offload;

use crate::app::{Ending, Script};
use crate::clock::{ms, secs};
use crate::guest::StreamId;
use crate::host::{DatagramPeer, Target};
use crate::world::{Settings, World, at};

const RESOLVER: &str = "203.0.113.53:53";

/// Flows of every kind at once; each stream with the other end of it.
fn busy(offload: Offload) -> (World, Vec<(StreamId, SocketAddr)>) {
    let mut world = World::new(
        Settings::default()
            .offload(offload)
            .publishing(PortProtocol::Tcp, at("0.0.0.0:8080"), 80)
            .publishing(PortProtocol::Udp, at("0.0.0.0:5300"), 5_300),
    );
    let mut streams = Vec::new();
    for number in 1..=3u64 {
        let remote = SocketAddr::from(([203, 0, 113, number as u8], 80));
        let host = Target::running(Script::host(number, 40_000)).after(ms(number));
        streams.push((world.connect(remote, Script::container(number, 40_000), host), remote));
    }
    let client = at("198.51.100.7:4000");
    streams.push((world.guest.listen(80, Script::container(9, 20_000)), client));
    world.client_connects(0, client, Script::host(9, 20_000)).expect("nothing is full");
    let (udp, peer) = (world.guest.udp_bind(9_000), at("203.0.113.200:7"));
    world.host.datagram_peers.insert(peer, DatagramPeer::Echoes { after: ms(1) });
    world.host.datagram_peers.insert(at(RESOLVER), DatagramPeer::Resolves { after: ms(1), mark: 7 });
    let resolving = world.guest.udp_bind(9_001);
    for number in 0..3u8 {
        world.guest.udp_send(udp, peer, &[number; 200]);
        world.guest.udp_send(resolving, at("10.0.2.3:53"), &[number, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let listener = netferry::stack::boundary::ListenerId(1);
        world.host.send_to_listener(
            listener,
            at("198.51.100.8:5000"),
            at("192.0.2.7:1").ip(),
            &[number; 100],
        );
    }
    world.guest.ping("203.0.113.99".parse().unwrap(), 7, 1, b"ping");
    (world, streams)
}

fn is_untouched(world: &World, stream: StreamId) -> bool {
    world.guest.state(stream) == smoltcp::socket::tcp::State::Listen
}

/// Each stream that was not struck has exchanged everything; the one that was is reset on both sides.
fn assert_only_one_suffers(mut world: World, streams: &[(StreamId, SocketAddr)]) {
    let over = |world: &World, (stream, remote): &(StreamId, SocketAddr)| {
        let app = world.guest.app(*stream);
        let peers = || world.host.connections_to(*remote);
        let both =
            |app: &crate::app::App| app.peer_reset || (app.ended.is_some() && app.peer_ended.is_some());
        // A server whose client is reset in the handshake goes on listening.
        (both(app) || is_untouched(world, *stream)) && peers().next().is_none_or(|peer| both(&peer.app))
    };
    world.run_until(secs(120), "every stream ends or is reset", |world| {
        streams.iter().all(|stream| over(world, stream))
    });
    let ended = world.faults[0];
    for (stream, remote) in streams {
        let is_struck = ended.is_some_and(|(_, struck)| struck == *remote);
        let peer = world.host.connections_to(*remote).next();
        if is_struck {
            // Unless all was over but for the last word.
            let app = world.guest.app(*stream);
            let has_ended = app.ended.is_some() && app.peer_ended.is_some();
            assert!(app.peer_reset || has_ended || is_untouched(&world, *stream), "{remote}: {app:?}");
            let is_complete = peer.is_some_and(|peer| peer.app.got_all(app.sent));
            assert!(peer.is_none_or(|peer| peer.closed == Some(CloseKind::Reset)) || is_complete, "{peer:?}");
        } else {
            world.assert_exchanged(*stream, peer.expect("it has connected"));
        }
    }
    // The network goes on.
    let remote = at("203.0.113.77:80");
    let later = world.connect(remote, Script::container(20, 5_000), Target::running(Script::host(20, 5_000)));
    world.run_until(secs(20), "a connection begun afterwards", |world| {
        world.host.connections_to(remote).next().is_some_and(|peer| peer.app.peer_ended.is_some())
            && world.guest.app(later).peer_ended.is_some()
    });
    world.assert_exchanged(later, world.peer(remote));
    world.finish_within(secs(700));
}

/// Strikes at the first, the second, ... call until the world gets by without being struck; returns how many.
fn strike_everywhere(offload: Offload, strike: impl Fn(&mut World, u64)) -> (u64, u64) {
    let (mut flows, mut others) = (0, 0);
    for turn in 1.. {
        let (mut world, streams) = busy(offload);
        strike(&mut world, turn);
        world.run_for(secs(3));
        if world.faults.is_empty() {
            break;
        }
        assert_eq!((world.faults.len(), world.drops(DropReason::Fault)), (1, 1));
        match world.faults[0] {
            Some(_) => flows += 1,
            None => others += 1,
        }
        assert_only_one_suffers(world, &streams);
    }
    (flows, others)
}

#[test]
fn a_panic_in_any_call_to_the_host_resets_its_flow_and_no_other() {
    let (flows, others) = strike_everywhere(Offload::ALL, |world, turn| world.host.strike_at = Some(turn));
    assert!(flows >= 30, "{flows}");
    // Reading a published port belongs to no flow.
    assert!(others <= 20, "{others}");
}

#[test]
fn a_panic_at_any_frame_for_the_container_resets_its_flow_and_no_other() {
    for offload in [Offload::ALL, Offload::NONE] {
        let (flows, _) = strike_everywhere(offload, |world, turn| world.link.strike_at = Some(turn));
        assert!(flows >= 20, "{flows}");
    }
}

#[test]
fn panics_without_end_leave_the_books_right() {
    let (mut world, streams) = busy(Offload::ALL);
    let mut others = Vec::new();
    for number in 0..200u64 {
        world.host.strike_at = Some(3);
        world.link.strike_at = Some(5);
        let remote = SocketAddr::from(([198, 51, 100, (number % 200) as u8], 80));
        let host = Target::running(Script::host(number, 9_000));
        others.push(world.connect(remote, Script::container(number, 9_000), host));
        world.run_for(ms(50));
    }
    (world.host.strike_at, world.link.strike_at) = (None, None);
    assert!(world.faults.len() > 150, "{}", world.faults.len());
    assert_eq!(world.drops(DropReason::Fault), world.faults.len() as u64);
    for stream in streams.into_iter().map(|(stream, _)| stream).chain(others) {
        world.guest.abort(stream);
    }
    world.finish_within(secs(700));
}

#[test]
fn a_flow_that_rests_in_buffers_is_given_back_in_full_when_it_is_struck() {
    let mut world = World::usual();
    let remote = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 0).reading(crate::app::Reading::Never).ending(Ending::Never));
    world.connect(remote, Script::container(1, 900_000).ending(Ending::Never), host.limits(4 << 10, 4 << 10));
    world.run_for(secs(2));
    assert!(world.stack.tcp_buffer_bytes() > 100_000, "{}", world.stack.tcp_buffer_bytes());
    world.host.strike_at = Some(1);
    world.host.connection_mut(remote).app.script.reading = crate::app::Reading::Freely;
    world.run_until(secs(10), "the fault", |world| !world.faults.is_empty());
    assert_eq!(world.stack.tcp_buffer_bytes(), 0);
    world.finish();
}
