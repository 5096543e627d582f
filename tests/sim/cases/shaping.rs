//! Rates: TCP is paced and loses nothing, flows share, short exchanges pass transfers, datagrams wait within bounds.

use netferry::config::{RateLimits, Rules};
use netferry::stack::boundary::{FlowId, Io};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::shape::ClassId;

use super::everywhere;
use crate::app::Script;
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, Target};
use crate::world::{World, at};

fn limits(text: &str) -> RateLimits {
    text.parse().unwrap()
}

/// How long it took, in milliseconds.
fn time_until(world: &mut World, what: &str, done: impl Fn(&World) -> bool) -> u64 {
    let began = world.now;
    world.run_until(secs(120), what, done);
    (world.now - began).total_millis()
}

#[test]
fn transfers_keep_to_the_rate_and_lose_nothing() {
    // 700 kB at 8 Mbit/s, less the 50 kB that are saved up. More than the window takes at once would show how the guest deals
    // with one that closes, which smoltcp probes once a second.
    for (spec, up, down) in
        [("up=8mbit", 700_000, 0), ("down=8mbit", 0, 700_000), ("8mbit", 700_000, 700_000)]
    {
        everywhere(|mut world, target| {
            world.stack.limit_rates(limits(spec));
            let host = Target::running(Script::host(1, down)).limits(1 << 20, 1 << 20);
            let stream = world.connect(target, Script::container(1, up), host);
            let took = time_until(&mut world, "both ends", World::all_ended);
            assert!((640..=700).contains(&took), "{spec}: {took} ms");
            world.assert_exchanged(stream, world.peer(target));
            let dropped: u64 = world.stack.stats().iter_drops().map(|(_, count)| count).sum();
            assert_eq!(dropped, 0);
            world.finish();
        });
    }
}

#[test]
fn flows_share_the_rate_evenly_in_each_direction() {
    for (spec, up, down) in [("up=8mbit", 700_000, 0), ("down=8mbit", 0, 700_000)] {
        let mut world = World::usual();
        world.stack.limit_rates(limits(spec));
        let targets = ["203.0.113.5:80", "203.0.113.6:80", "203.0.113.7:80", "203.0.113.8:80"].map(at);
        let streams: Vec<_> = (1..)
            .zip(targets)
            .map(|(flow, target)| {
                let host = Target::running(Script::host(flow, down)).limits(1 << 20, 1 << 20);
                world.connect(target, Script::container(flow, up), host)
            })
            .collect();
        world.run_for(secs(2));
        let moved: Vec<u64> = streams
            .iter()
            .zip(targets)
            .map(|(stream, target)| match up {
                0 => world.guest.app(*stream).received,
                _ => world.peer(target).app.received,
            })
            .collect();
        let total: u64 = moved.iter().sum();
        assert!((1_950_000..=2_100_000).contains(&total), "{spec}: {moved:?}");
        assert!(moved.iter().all(|one| one.abs_diff(total / 4) < total / 40), "{spec}: {moved:?}");
        world.run_until(secs(20), "all ends", World::all_ended);
        for (stream, target) in streams.into_iter().zip(targets) {
            world.assert_exchanged(stream, world.peer(target));
        }
        world.finish();
    }
}

#[test]
fn a_request_is_answered_beside_transfers_that_fill_the_rate() {
    let mut world = World::usual();
    world.stack.limit_rates(limits("8mbit"));
    for flow in 1..=8 {
        let target = at(&format!("203.0.113.5:{}", 1_000 + flow));
        let host = Target::running(Script::host(flow, 4_000_000)).limits(1 << 20, 1 << 20);
        world.connect(target, Script::container(flow, 4_000_000), host);
    }
    world.run_for(secs(2));
    let target = at("203.0.113.9:80");
    let stream = world.connect(target, Script::container(99, 300), Target::running(Script::host(99, 2_000)));
    let took = time_until(&mut world, "an answer", |world| world.guest.app(stream).received == 2_000);
    // One quantum of the others, 6 KB, is 6 ms at this rate; in turn with them it would be 50.
    assert!(took <= 30, "{took} ms");
    world.stack.limit_rates(RateLimits::default());
    world.run_until(secs(60), "all ends", World::all_ended);
    world.finish();
}

#[test]
fn a_rate_is_changed_and_lifted_while_bytes_flow() {
    everywhere(|mut world, target| {
        world.stack.limit_rates(limits("8mbit"));
        let host = Target::running(Script::host(1, 8_000_000)).limits(1 << 20, 1 << 20);
        let stream = world.connect(target, Script::container(1, 8_000_000), host);
        world.run_for(secs(1));
        let received = world.guest.app(stream).received;
        assert!((900_000..=1_100_000).contains(&received), "{received}");
        world.stack.limit_rates(limits("16mbit"));
        world.run_for(secs(1));
        let received = world.guest.app(stream).received - received;
        assert!((1_850_000..=2_200_000).contains(&received), "{received}");
        world.stack.limit_rates(RateLimits::default());
        assert!(time_until(&mut world, "both ends", World::all_ended) < 100);
        world.assert_exchanged(stream, world.peer(target));
        world.finish();
    });
}

#[test]
fn a_class_has_a_rate_of_its_own() {
    let mut world = World::usual();
    let class = ClassId(3);
    world.stack.limit_class(class, limits("8mbit"));
    let (slow, fast) = (at("203.0.113.5:80"), at("203.0.113.6:80"));
    for (flow, target) in [(1, slow), (2, fast)] {
        let host = Target::running(Script::host(flow, 1_000_000)).limits(1 << 20, 1 << 20).after(ms(5));
        world.connect(target, Script::container(flow, 700_000), host);
        if target == slow {
            world.run_for(ms(1));
            world.stack.assign_class(FlowId { slot: 0, generation: 0 }, class);
        }
    }
    world.run_for(ms(100));
    assert_eq!(world.peer(fast).app.received, 700_000);
    let received = world.peer(slow).app.received;
    assert!((120_000..=200_000).contains(&received), "{received}");
    let took = 101 + time_until(&mut world, "both ends", World::all_ended);
    assert!((930..=1_060).contains(&took), "{took} ms");
    world.stack.limit_class(class, RateLimits::default());
    world.finish();
}

#[test]
fn datagrams_keep_to_the_rate_and_what_waits_is_bounded() {
    everywhere(|mut world, target| {
        world.stack.limit_rates(limits("up=800kbit"));
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(0) });
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"opens the socket");
        world.run_for(ms(10));
        // Ten seconds of five times the rate: 100 000 bytes a second.
        for _ in 0..1_000 {
            for _ in 0..5 {
                world.guest.udp_send(socket, target, &[7; 1_000]);
            }
            world.run_for(ms(10));
        }
        let received = world.guest.udp_received(socket).len();
        assert!((950..=1_050).contains(&received), "{received} datagrams of 1 000");
        let dropped = world.drops(DropReason::RateLimit);
        assert!((3_850..=4_050).contains(&dropped), "{dropped}");
        world.run_for(secs(1));
        let most = world.settings.config.limits.shaped_datagrams_per_flow;
        let late = world.guest.udp_received(socket).len() - received;
        assert!((most - 2..=most).contains(&late), "{late} waited");
        // A transfer beside the flood has its half.
        let stream_to = at("203.0.113.77:80");
        let stream =
            world.connect(stream_to, Script::container(1, 200_000), Target::running(Script::host(1, 0)));
        let began = world.now;
        while !world.all_ended() {
            assert!(world.now < began + secs(8), "{} bytes", world.peer(stream_to).app.received);
            for _ in 0..5 {
                world.guest.udp_send(socket, target, &[7; 1_000]);
            }
            world.run_for(ms(10));
        }
        world.assert_exchanged(stream, world.peer(stream_to));
        world.finish_within(secs(301));
    });
}

#[test]
fn datagrams_of_all_flows_wait_within_one_bound() {
    let mut settings = crate::world::Settings::default();
    settings.config.limits.shaped_total_bytes = 20_000;
    let mut world = World::new(settings);
    world.stack.limit_rates(limits("up=8kbit"));
    let target = at("203.0.113.5:80");
    let sockets: Vec<_> = (0..10).map(|place| world.guest.udp_bind(7_000 + place)).collect();
    for socket in &sockets {
        world.guest.udp_send(*socket, target, &[0; 100]);
    }
    world.run_for(ms(10));
    for _ in 0..40 {
        for socket in &sockets {
            world.guest.udp_send(*socket, target, &[0; 1_000]);
        }
        world.run_for(ms(1));
    }
    let sent: usize = world.host.datagrams.iter().map(|socket| socket.sent.len()).sum();
    // What a bucket holds at first, and what waits.
    assert!(sent <= 10 + 18, "{sent}");
    assert!(world.drops(DropReason::RateLimit) >= 400 - 18 - 20);
    world.stack.limit_rates(RateLimits::default());
    world.run_for(ms(10));
    let late = world.host.datagrams.iter().map(|socket| socket.sent.len()).sum::<usize>() - sent;
    assert!((18..=20).contains(&late), "{late}");
    world.finish_within(secs(301));
}

#[test]
fn datagrams_toward_the_container_wait_in_the_hosts_socket() {
    let mut world = World::usual();
    world.stack.limit_rates(limits("down=800kbit"));
    let target = at("203.0.113.5:80");
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, target, b"hello");
    world.run_for(ms(10));
    let flow = FlowId { slot: 0, generation: 0 };
    for _ in 0..50 {
        world.host.send_to_flow(flow, target, &[1; 1_000]);
    }
    world.run_for(ms(10));
    let soon = world.guest.udp_received(socket).len();
    // 16 KiB are saved up at first.
    assert!((16..=20).contains(&soon), "{soon}");
    world.run_for(ms(150));
    let later = world.guest.udp_received(socket).len() - soon;
    assert!((13..=17).contains(&later), "{later}");
    world.run_for(secs(1));
    assert_eq!(world.guest.udp_received(socket).len(), 50);
    world.finish_within(secs(301));
}

#[test]
fn flows_that_end_while_they_wait_leave_nothing_behind() {
    let mut world = World::usual();
    world.stack.limit_rates(limits("64kbit"));
    for flow in 1..=20 {
        let target = at(&format!("203.0.113.5:{}", 1_000 + flow));
        let host = Target::running(Script::host(flow, 200_000)).limits(1 << 20, 1 << 20);
        let stream = world.connect(target, Script::container(flow, 200_000), host);
        world.run_for(ms(50));
        world.guest.abort(stream);
    }
    world.run_for(secs(5));
    assert_eq!(world.stack.flow_count(), 0);
    world.finish();
}

#[test]
fn what_a_rule_lets_through_keeps_to_the_rates_of_the_rule() {
    let file = |limit: &str| {
        let text = format!("[[rule]]\nallow = '203.0.113.5'\n{limit}\n[[rule]]\nallow = 'any'\n");
        Rules::from_toml(&text).unwrap()
    };
    let mut settings = crate::world::Settings::default();
    settings.config.rules = file("limit = 'down=8mbit'");
    let mut world = World::new(settings);
    let (slow, fast) = (at("203.0.113.5:80"), at("203.0.113.6:80"));
    let streams = [slow, at("203.0.113.5:81"), fast].map(|target| {
        let host = Target::running(Script::host(1, 1_000_000)).limits(1 << 20, 1 << 20);
        world.connect(target, Script::container(1, 700_000), host)
    });
    world.run_for(ms(1_000));
    let received = streams.map(|stream| world.guest.app(stream).received);
    assert_eq!(received[2], 1_000_000);
    assert!((950_000..=1_100_000).contains(&(received[0] + received[1])), "{received:?}");
    assert!(received[0].abs_diff(received[1]) < 60_000, "{received:?}");
    assert_eq!(world.peer(slow).app.received, 700_000, "no limit that way");
    // The same rule without a limit, in the course of the transfer.
    let now = world.now;
    let mut io = Io { host: &mut world.host, frames: &mut world.link };
    world.stack.set_rules(file(""), false, now, &mut io);
    assert!(time_until(&mut world, "all ends", World::all_ended) < 100);
    world.finish();
}
