//! TCP: what does not connect, what is reset, what belongs to no connection.

use netferry::stack::boundary::{Action, CloseKind, HostError};
use netferry::stack::drop_reason::DropReason;
use smoltcp::socket::tcp::State;

use super::{both_families, everywhere};
use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, Ip, RST, SYN, TCP, tcp};
use crate::world::{CONTAINER, CONTAINER6, Settings, World, at};

#[test]
fn syn_to_closed_host_port_is_answered_with_rst() {
    everywhere(|mut world, target| {
        let failing = Target::failing(HostError::Refused).after(ms(30));
        let stream = world.connect(target, Script::container(1, 10), failing);
        world.run_until(secs(1), "the refusal", |world| world.guest.app(stream).peer_reset);
        let port = world.guest.streams[stream.0].port;
        let segments = world.segments_to(port);
        assert_eq!(segments.len(), 1, "a RST and nothing before it");
        assert_eq!(segments[0].tcp_flags(), Some(RST | ACK));
        assert_eq!(world.host.connects_to(target), 1);
        world.finish_within(ms(10));
    });
}

#[test]
fn unreachable_targets_are_told_by_icmp_that_quotes_the_syn() {
    // RFC 792, RFC 4443 §3.1: by error, the type and code of each family.
    let told = [
        (HostError::NetworkUnreachable, (3, 0), (1, 0)),
        (HostError::HostUnreachable, (3, 1), (1, 3)),
        (HostError::Prohibited, (3, 13), (1, 1)),
        (HostError::HopLimitExceeded, (11, 0), (3, 0)),
    ];
    for (error, ipv4, ipv6) in told {
        both_families(|target| {
            let mut world = World::usual();
            let stream = world.connect(target, Script::container(1, 10), Target::failing(error));
            world.run_for(ms(50));
            let errors = world.icmp_errors();
            assert_eq!(errors.len(), 1, "{error:?}");
            let (kind, code, from, quote) = &errors[0];
            assert_eq!((*kind, *code), if target.is_ipv4() { ipv4 } else { ipv6 }, "{error:?}");
            assert_eq!(Some(*from), world.settings.config.link.gateway_like(target.ip()));
            assert_eq!((quote.destination, quote.ports().1), (target.ip(), target.port()));
            assert_eq!(quote.ports().0, world.guest.streams[stream.0].port);
            assert_eq!(quote.tcp_flags(), Some(SYN));
            assert!(!world.guest.streams[stream.0].established);
            world.guest.abort(stream);
            world.finish_within(secs(1));
        });
    }
}

#[test]
fn a_connect_that_never_ends_is_given_up_after_the_handshake_timeout() {
    both_families(|target| {
        let settings = Settings::default()
            .with(|config| config.timeouts.tcp_handshake = std::time::Duration::from_secs(20));
        let mut world = World::new(settings);
        let stream = world.connect(target, Script::container(1, 10), Target::hanging());
        world.run_for(secs(19));
        assert_eq!((world.stack.flow_count(), world.host.open_sockets()), (1, 1));
        world.guest.abort(stream);
        world.run_for(secs(21));
        assert_eq!((world.stack.flow_count(), world.host.open_sockets()), (0, 0));
        assert_eq!(world.count_actions(|action| matches!(action, Action::Close { .. })), 1);
        world.finish();
    });
}

#[test]
fn a_connect_that_times_out_on_the_host_is_not_answered() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let failing = Target::failing(HostError::TimedOut).after(secs(10));
    let stream = world.connect(target, Script::container(1, 10), failing);
    world.run_for(secs(9));
    world.guest.abort(stream);
    world.run_for(secs(2));
    assert_eq!(world.sent_packets().count(), 0);
    world.finish();
}

#[test]
fn a_host_out_of_descriptors_is_tried_again_by_the_containers_next_syn() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let stream = world.connect(target, Script::container(1, 10), Target::failing(HostError::Exhausted));
    world.run_for(ms(100));
    assert_eq!(world.stack.flow_count(), 0);
    assert_eq!(world.drops(DropReason::DescriptorLimit), 1);
    world.host.targets.insert(target, Target::running(Script::host(1, 10)));
    world.run_until(secs(10), "the second try", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    world.finish();
}

#[test]
fn a_container_that_gives_up_before_the_host_connects_cancels_the_connect() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 10)).after(secs(3));
    let syn = Ip::new(CONTAINER, target.ip(), TCP).carrying(tcp((5_000, 80), 100, 0, SYN, &[]));
    let rst = Ip::new(CONTAINER, target.ip(), TCP).carrying(tcp((5_000, 80), 101, 0, RST, &[]));
    world.host.targets.insert(target, host);
    world.inject(&syn);
    world.run_for(secs(1));
    world.inject(&rst);
    world.run_for(secs(1));
    assert_eq!(world.host.open_sockets(), 0, "the connect is cancelled");
    assert_eq!(world.host.connections.len(), 0);
    world.finish();
}

#[test]
fn a_reset_by_the_host_reaches_the_container() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 5_000).ending(Ending::ResetAfterReceiving(1_000)));
        let container = Script::container(1, 1_000).ending(Ending::Never);
        let stream = world.connect(target, container, host);
        world.run_until(secs(5), "the reset", |world| world.guest.app(stream).peer_reset);
        world.finish_within(secs(1));
    });
}

#[test]
fn a_reset_by_the_host_reaches_a_container_that_only_listens() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 5_000).ending(Ending::ResetAfterSending));
    let stream = world.connect(target, Script::container(1, 0).ending(Ending::Never), host);
    world.run_until(secs(5), "the reset", |world| world.guest.app(stream).peer_reset);
    world.finish_within(secs(1));
}

#[test]
fn a_reset_by_the_container_reaches_the_host() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 100).ending(Ending::Never));
        let stream = world.connect(target, Script::container(1, 5_000).ending(Ending::Never), host);
        world.run_until(secs(5), "the bytes", |world| {
            world.host.connections.first().is_some_and(|peer| peer.app.received == 5_000)
        });
        world.guest.abort(stream);
        world.run_until(secs(1), "the reset", |world| world.peer(target).app.peer_reset);
        assert_eq!(world.peer(target).closed, Some(CloseKind::Reset));
        world.finish_within(secs(1));
    });
}

#[test]
fn a_reset_after_the_containers_end_still_reaches_it() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 0).ending(Ending::Never));
    let stream = world.connect(target, Script::container(1, 1_000), host);
    world.run_for(secs(1));
    assert_eq!(world.peer(target).app.peer_ended, Some(1_000));
    world.host.connection_mut(target).app.script.ending = Ending::ResetAfterSending;
    world.run_until(secs(5), "the reset", |world| world.guest.app(stream).peer_reset);
    world.finish_within(secs(1));
}

#[test]
fn a_segment_of_no_connection_is_answered_with_rst() {
    both_families(|target| {
        let mut world = World::usual();
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        let send = |flags, acknowledgement, payload: &[u8]| {
            Ip::new(source, target.ip(), TCP).carrying(tcp((5_000, 80), 700, acknowledgement, flags, payload))
        };
        world.inject(&send(ACK, 4_242, b"stray"));
        world.inject(&send(FIN, 0, b"abc"));
        world.inject(&send(RST, 0, b""));
        world.run_for(ms(10));
        let [to_ack, to_fin] = &world.segments_to(5_000)[..] else { panic!("two RSTs, none about a RST") };
        // RFC 9293 §3.10.7.1.
        assert_eq!((to_ack.tcp_flags(), to_ack.sequence()), (Some(RST), 4_242));
        assert_eq!((to_fin.tcp_flags(), to_fin.sequence()), (Some(RST | ACK), 0));
        assert_eq!(to_fin.acknowledgement(), 700 + 3 + 1);
        assert_eq!(to_ack.from(), target);
        assert_eq!(world.host.actions, []);
        world.finish();
    });
}

#[test]
fn a_new_syn_opens_a_connection_that_rests_in_time_wait() {
    both_families(|target| {
        let mut world = World::usual();
        // The host closes first: TIME-WAIT is ours.
        world.host.targets.insert(target, Target::running(Script::host(1, 100)));
        let script = Script::container(1, 100).ending(Ending::AfterPeerEnds);
        let first = world.guest.connect_from(5_000, target, script);
        world.run_until(secs(5), "the first exchange", World::all_ended);
        world.run_until(secs(1), "the container forgets", |world| world.guest.state(first) == State::Closed);
        assert_eq!(world.stack.flow_count(), 1, "the pair of endpoints rests");
        assert_eq!(world.host.open_sockets(), 0, "without a socket");
        let second = world.guest.connect_from(5_000, target, script);
        world.run_until(secs(10), "the second exchange", World::all_ended);
        assert!(world.guest.app(first).got_all(100) && world.guest.app(second).got_all(100));
        assert_eq!(world.host.connections_to(target).count(), 2);
        world.finish();
    });
}

#[test]
fn a_repeated_fin_in_time_wait_is_acknowledged_again() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    world.host.targets.insert(target, Target::running(Script::host(1, 0)));
    let script = Script::container(1, 0).ending(Ending::AfterPeerEnds);
    world.guest.connect_from(5_000, target, script);
    world.run_until(secs(5), "the exchange", World::all_ended);
    world.run_for(ms(100));
    let last = world.segments_to(5_000).pop().unwrap();
    let before = world.segments_to(5_000).len();
    let fin = tcp((5_000, 80), last.acknowledgement() - 1, last.sequence(), FIN | ACK, &[]);
    world.inject(&Ip::new(CONTAINER, target.ip(), TCP).carrying(fin));
    world.run_for(ms(10));
    let again = &world.segments_to(5_000)[before..];
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].tcp_flags(), Some(ACK));
    assert_eq!(again[0].acknowledgement(), last.acknowledgement());
    world.finish();
}

#[test]
fn a_container_that_vanishes_is_given_up_with_both_sides_reset() {
    let timeout = std::time::Duration::from_secs(60);
    let mut world = World::new(Settings::default().with(|config| config.timeouts.tcp_closing = timeout));
    let target = at("203.0.113.5:80");
    let host = Target::running(Script::host(1, 100_000).ending(Ending::Never).reading(Reading::Freely));
    let stream = world.connect(target, Script::container(1, 10).ending(Ending::Never), host);
    world.run_until(secs(1), "bytes flow", |world| world.guest.app(stream).received > 0);
    world.host.connection_mut(target).app.script.sends = 300_000;
    world.link.up.loss = 1_000;
    world.run_until(secs(200), "the flow is given up", |world| world.stack.flow_count() == 0);
    assert!(world.peer(target).closed == Some(CloseKind::Reset));
    world.finish();
}

#[test]
fn segments_with_a_wrong_checksum_are_dropped() {
    let mut world = World::usual();
    let mut syn =
        Ip::new(CONTAINER6, at("[2001:db8::5]:80").ip(), TCP).carrying(tcp((5_000, 80), 1, 0, SYN, &[]));
    *syn.last_mut().unwrap() ^= 1;
    world.inject(&syn);
    world.run_for(ms(10));
    assert_eq!(world.drops(DropReason::BadChecksum), 1);
    assert_eq!((world.host.actions.len(), world.sent_packets().count()), (0, 0));
    world.finish();
}
