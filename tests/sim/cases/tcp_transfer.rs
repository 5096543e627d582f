//! TCP: opening, carrying, closing, on a good link.

use smoltcp::socket::tcp::State;

use super::everywhere;
use crate::app::{Ending, Script};
use crate::clock::{ms, secs};
use crate::host::Target;
use crate::packet::{ACK, FIN, RST, SYN};
use crate::world::{World, at};

#[test]
fn bytes_travel_both_ways_complete_and_in_order() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 300_000));
        let stream = world.connect(target, Script::container(1, 400_000), host);
        world.run_until(secs(20), "both streams end", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn super_segments_are_used_both_ways_where_the_link_has_them() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 300_000));
        world.connect(target, Script::container(1, 300_000), host);
        world.run_until(secs(20), "both streams end", World::all_ended);
        let offload = world.settings.offload.tcp4;
        assert_eq!(world.link.super_commits > 0, offload, "toward the container");
        assert_eq!(world.link.super_joins > 0, offload, "toward the host");
        world.finish();
    });
}

#[test]
fn what_is_echoed_comes_back() {
    everywhere(|mut world, target| {
        let stream = world.connect(target, Script::echoed(1, 200_000), Target::running(Script::echo(1)));
        world.run_until(secs(20), "the echo ends", World::all_ended);
        assert!(world.guest.app(stream).got_all(200_000));
        world.finish();
    });
}

#[test]
fn syn_ack_waits_for_the_host_to_connect() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 10)).after(ms(700));
        let stream = world.connect(target, Script::container(1, 10), host);
        world.run_for(ms(690));
        assert!(!world.guest.streams[stream.0].established);
        let port = world.guest.streams[stream.0].port;
        assert_eq!(world.segments_to(port), [], "no segment before the host has connected");
        world.run_until(ms(200), "the handshake", |world| world.guest.streams[stream.0].established);
        assert_eq!(world.segments_to(port)[0].tcp_flags(), Some(SYN | ACK));
        world.run_until(secs(5), "both streams end", World::all_ended);
        world.finish();
    });
}

#[test]
fn a_repeated_syn_does_not_connect_twice() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    // The container's own patience is one second: it repeats its SYN at least twice meanwhile.
    let stream =
        world.connect(target, Script::container(1, 10), Target::running(Script::host(1, 10)).after(secs(4)));
    world.run_until(secs(10), "both streams end", World::all_ended);
    assert_eq!(world.host.connects_to(target), 1);
    world.assert_exchanged(stream, world.peer(target));
    world.finish();
}

#[test]
fn the_container_may_close_first_and_still_receives() {
    everywhere(|mut world, target| {
        let host = Target::running(Script::host(1, 100_000).ending(Ending::AfterPeerEnds));
        let stream = world.connect(target, Script::container(1, 5_000), host);
        world.run_until(secs(10), "both streams end", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn data_sent_after_the_containers_fin_still_arrives() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let script = Script::host(1, 50_000).ending(Ending::Never);
    let stream =
        world.connect(target, Script::container(1, 5_000), Target::running(Script { sends: 0, ..script }));
    world.run_for(secs(2));
    assert_eq!(world.peer(target).app.peer_ended, Some(5_000), "the host has seen the container's end");
    assert!(world.guest.app(stream).peer_ended.is_none(), "the container has not seen an end nobody sent");
    world.host.connection_mut(target).app.script = Script::host(1, 50_000);
    world.run_until(secs(10), "both streams end", World::all_ended);
    world.assert_exchanged(stream, world.peer(target));
    world.finish();
}

#[test]
fn the_host_may_close_first_and_still_receives() {
    everywhere(|mut world, target| {
        let waiting = Script::container(1, 0).ending(Ending::Never);
        let stream = world.connect(target, waiting, Target::running(Script::host(1, 5_000)));
        world.run_for(secs(1));
        assert_eq!(world.guest.app(stream).peer_ended, Some(5_000));
        assert_eq!(world.guest.state(stream), State::CloseWait);
        assert_eq!(world.peer(target).app.peer_ended, None, "the host has not seen an end nobody sent");
        world.guest.app_mut(stream).script = Script::container(1, 100_000);
        world.run_until(secs(5), "both streams end", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn both_may_close_at_once() {
    everywhere(|mut world, target| {
        let stream = world.connect(target, Script::container(1, 0), Target::running(Script::host(1, 0)));
        world.run_until(secs(5), "both streams end", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn an_end_is_sent_once_and_only_after_all_bytes() {
    let mut world = World::usual();
    let target = at("203.0.113.5:80");
    let stream =
        world.connect(target, Script::container(1, 30_000), Target::running(Script::host(1, 30_000)));
    world.run_until(secs(5), "both streams end", World::all_ended);
    let port = world.guest.streams[stream.0].port;
    let segments = world.segments_to(port);
    let fins = segments.iter().filter(|segment| segment.tcp_flags().is_some_and(|flags| flags & FIN != 0));
    assert_eq!(fins.count(), 1);
    assert!(segments.iter().all(|segment| segment.tcp_flags().is_some_and(|flags| flags & RST == 0)));
    assert!(world.peer(target).end_told && world.peer(target).shut);
    world.finish();
}
