//! The user's hook: who is asked, who waits, and what each answer, and none, does on every path.

use std::net::{IpAddr, SocketAddr};

use netferry::config::PortProtocol::{Tcp, Udp};
use netferry::config::limits::{HOOK_DATAGRAMS, HOOK_NAMES, HOOK_QUESTIONS};
use netferry::config::rules::Direction;
use netferry::config::{HookSettings, HookVerdict, OnFailure, Rules};
use netferry::stack::boundary::{CloseKind, Io, ListenerId};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::flow::FlowProtocol;
use netferry::stack::hook::{Question, QuestionId};
use netferry::stack::policy::explain::Fate;
use netferry::stack::policy::judge::{Judged, Spliced};
use netferry::stack::view::FlowState;

use super::both_families;
use crate::app::{Ending, Script};
use crate::clock::{Duration, ms, secs};
use crate::host::{DatagramPeer, Target};
use crate::packet::{Ip, SYN, TCP, tcp};
use crate::world::{CONTAINER, DNS, Settings, World, at};

const ALLOW: Option<HookVerdict> = Some(HookVerdict::Allow);
const DENY: Option<HookVerdict> = Some(HookVerdict::Deny);
const REJECT: Option<HookVerdict> = Some(HookVerdict::Reject);
const PASS: Option<HookVerdict> = Some(HookVerdict::Pass);

fn asking(settings: Settings, on_failure: OnFailure) -> World {
    let mut world = World::new(settings);
    world.stack.ask_hook_first(HookSettings { on_failure, ..HookSettings::default() });
    world
}

fn ruled(toml: &str) -> Settings {
    Settings::default().with(|config| config.rules = Rules::from_toml(toml).unwrap())
}

fn questions(world: &mut World) -> Vec<Question> {
    std::iter::from_fn(|| world.stack.poll_question()).collect()
}

fn answer_for(world: &mut World, question: QuestionId, said: Option<HookVerdict>, lifetime: Duration) {
    let mut io = Io { host: &mut world.host, frames: &mut world.link };
    world.stack.handle_verdict(question, said, lifetime, world.now, &mut io);
}

fn answer(world: &mut World, question: QuestionId, said: Option<HookVerdict>) {
    answer_for(world, question, said, Duration::ZERO);
}

/// Answers all that is asked until now.
fn answer_all(world: &mut World, said: Option<HookVerdict>) -> usize {
    let all = questions(world);
    all.iter().for_each(|question| answer(world, question.id, said));
    all.len()
}

/// What the hook has decided: flows and packets.
fn decided(world: &World) -> (u64, u64) {
    let tallies = world.stack.rule_tallies();
    let hook = tallies.last().unwrap().1;
    (hook.flows, hook.traffic.frames)
}

#[test]
fn everything_that_the_container_begins_waits_for_the_answer_and_then_goes_on() {
    both_families(|target| {
        let mut world = asking(ruled("default = 'reject'"), OnFailure::Deny);
        world.host.targets.insert(target, Target::running(Script::host(1, 1_000)));
        world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(1) });
        let stream = world.guest.connect(target, Script::container(1, 500));
        let socket = world.guest.udp_bind(7_000);
        for payload in [&b"one"[..], b"two", b"three"] {
            world.guest.udp_send(socket, target, payload);
        }
        world.guest.ping(target.ip(), 7, 1, b"x");
        world.run_for(ms(900));
        assert_eq!(
            (world.host.actions.len(), world.icmp_errors().len()),
            (0, 0),
            "nobody was asked on the host"
        );
        let states: Vec<_> =
            (0..3).filter_map(|slot| world.stack.view_flow(slot)).map(|view| view.state).collect();
        assert_eq!(states, [FlowState::Asking; 3]);
        let mut asked = questions(&mut world);
        asked.sort_by_key(|question| question.protocol.name());
        let shown: Vec<_> = asked
            .iter()
            .map(|question| (question.direction, question.protocol, question.remote, question.names.len()))
            .collect();
        let pinged = SocketAddr::new(target.ip(), 0);
        assert_eq!(
            shown,
            [
                (Direction::Out, FlowProtocol::Echo, pinged, 0),
                (Direction::Out, FlowProtocol::Tcp, target, 0),
                (Direction::Out, FlowProtocol::Udp, target, 0),
            ]
        );
        assert_eq!(asked[2].local.unwrap().port(), 7_000);
        for question in asked {
            answer(&mut world, question.id, ALLOW);
        }
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.run_for(ms(200));
        let heard: Vec<_> = world.guest.udp_received(socket).iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(heard, [3, 3, 5], "what waited left in its order, and the rules had no say");
        assert_eq!(world.host.datagrams.len(), 2, "an exchange and a ping");
        assert_eq!((decided(&world).0, world.stack.stats().drops(DropReason::RuleRejected)), (3, 0));
        world.finish_within(secs(301));
    });
}

#[test]
fn what_the_hook_rejects_is_told_and_what_it_denies_is_not() {
    for (said, reason) in [(REJECT, DropReason::RuleRejected), (DENY, DropReason::RuleDenied)] {
        both_families(|target| {
            let mut world = asking(Settings::default(), OnFailure::Pass);
            let stream = world.guest.connect(target, Script::container(1, 10));
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, b"x");
            world.guest.udp_send(socket, target, b"y");
            world.guest.ping(target.ip(), 7, 1, b"x");
            world.run_for(ms(300));
            assert_eq!(answer_all(&mut world, said), 3);
            world.run_for(ms(100));
            let (told, errors) = if said == REJECT { (true, 2) } else { (false, 0) };
            assert_eq!(world.guest.app(stream).peer_reset, told);
            let prohibited = if target.is_ipv4() { (3, 13) } else { (1, 1) };
            assert!(world.icmp_errors().iter().all(|error| (error.0, error.1) == prohibited));
            assert_eq!((world.icmp_errors().len(), world.host.actions.len()), (errors, 0));
            assert_eq!((world.drops(reason), decided(&world).0), (4, 3), "two datagrams waited");
            assert!(world.stack.way_tallies().is_empty(), "nothing was translated");
            let failures: Vec<_> = world.stack.recent().latest().collect();
            assert_eq!((failures.len(), failures[0].rule.as_deref()), (3, Some("the hook")));
            assert_eq!(world.stack.flow_count(), 0);
            world.guest_is_mute = true;
            world.finish();
        });
    }
}

#[test]
fn clients_of_published_ports_are_asked_about_before_the_container_hears_of_them() {
    let published = || {
        Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80).publishing(Udp, at("0.0.0.0:5353"), 53)
    };
    for said in [ALLOW, DENY, REJECT, PASS] {
        let mut world = asking(published(), OnFailure::Deny);
        let stream = world.guest.listen(80, Script::container(1, 10));
        let server = world.guest.udp_bind(53);
        let (client, local) = (at("198.51.100.9:4000"), "192.0.2.7".parse().unwrap());
        world.client_connects(0, client, Script::host(1, 10)).unwrap();
        for payload in [&b"one"[..], b"two"] {
            world.host.send_to_listener(ListenerId(1), client, local, payload);
        }
        world.run_for(ms(900));
        assert!(world.segments_to(80).is_empty() && world.guest.udp_received(server).is_empty());
        let asked = questions(&mut world);
        assert_eq!(asked.len(), 2);
        for question in &asked {
            assert_eq!((question.direction, question.remote), (Direction::In, client));
            let port = if question.protocol == FlowProtocol::Tcp { 80 } else { 53 };
            assert_eq!(question.local, Some(SocketAddr::new(CONTAINER.into(), port)));
            answer(&mut world, question.id, said);
        }
        let is_let_in = matches!(said, ALLOW | PASS);
        if is_let_in {
            world.run_until(secs(5), "both ends", World::all_ended);
            world.assert_exchanged(stream, world.peer(client));
            let heard: Vec<_> = world.guest.udp_received(server).to_vec();
            assert_eq!(heard, [(client, b"one".to_vec()), (client, b"two".to_vec())]);
        } else {
            world.run_for(ms(100));
            assert_eq!(world.peer(client).closed, Some(CloseKind::Reset));
            assert!(world.segments_to(80).is_empty() && world.guest.udp_received(server).is_empty());
            let reason = if said == DENY { DropReason::RuleDenied } else { DropReason::RuleRejected };
            assert_eq!(world.drops(reason), 3, "a connection and two datagrams");
            assert_eq!(world.stack.flow_count(), 0);
        }
        world.finish_within(secs(301));
    }
}

#[test]
fn what_has_no_answer_in_time_fails_as_it_was_asked_for() {
    both_families(|target| {
        // Closed: the SYN that comes again is asked about again.
        let mut world = asking(Settings::default(), OnFailure::Deny);
        world.host.targets.insert(target, Target::running(Script::host(1, 10)));
        let stream = world.guest.connect(target, Script::container(1, 10));
        let socket = world.guest.udp_bind(7_000);
        world.guest.udp_send(socket, target, b"x");
        world.run_for(ms(500));
        let first = questions(&mut world);
        world.run_until(secs(2), "their time is over", |world| world.drops(DropReason::HookFailed) == 2);
        assert_eq!((world.host.actions.len(), first.len()), (0, 2));
        assert!(!world.guest.app(stream).peer_reset);
        // Too late, and of a question that is no more.
        for question in &first {
            answer(&mut world, question.id, ALLOW);
        }
        answer(&mut world, QuestionId(9_999), REJECT);
        world.run_for(ms(10));
        assert_eq!((world.stack.hook_stats().unwrap().0.stale, world.host.actions.len()), (3, 0));
        world.run_until(secs(5), "it is asked about again", |world| world.stack.flow_count() == 1);
        assert_eq!(answer_all(&mut world, ALLOW), 1);
        world.run_until(secs(5), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        world.finish_within(secs(301));
        // Open: the rules decide.
        for toml in ["default = 'reject'", "default = 'allow'"] {
            let mut world = asking(ruled(toml), OnFailure::Pass);
            world.host.targets.insert(target, Target::running(Script::host(1, 10)));
            let stream = world.guest.connect(target, Script::container(1, 10));
            world.run_for(ms(900));
            assert_eq!(world.host.actions.len(), 0);
            world.run_for(secs(2));
            let (reset, connects) = if toml.contains("reject") { (true, 0) } else { (false, 1) };
            assert_eq!(
                (world.guest.app(stream).peer_reset, world.host.connects_to(target)),
                (reset, connects)
            );
            assert_eq!(world.stack.hook_stats().unwrap().0.failed, 1);
            world.finish_within(secs(301));
        }
    });
}

#[test]
fn answers_twice_in_nonsense_and_about_what_has_gone_change_nothing() {
    both_families(|target| {
        let mut world = asking(Settings::default(), OnFailure::Deny);
        world.host.targets.insert(target, Target::running(Script::host(1, 10).ending(Ending::Never)));
        let kept = world.guest.connect(target, Script::container(1, 10).ending(Ending::Never));
        world.run_for(ms(100));
        let question = questions(&mut world)[0].id;
        answer(&mut world, question, ALLOW);
        answer(&mut world, question, DENY);
        world.run_until(secs(2), "bytes", |world| world.guest.app(kept).received == 10);
        // What makes no sense is no answer.
        let second = world.guest.connect(target, Script::container(2, 10));
        world.run_for(ms(100));
        assert_eq!(answer_all(&mut world, None), 1);
        assert_eq!(world.drops(DropReason::HookFailed), 1);
        // Somebody ends the flow while the hook thinks; its slot may be another's by then.
        world.run_until(secs(5), "it is asked about again", |world| world.stack.flow_count() == 2);
        let waiting = (0..9).filter_map(|slot| world.stack.view_flow(slot));
        let flow = waiting.map(|view| (view.state, view.flow)).find(|(state, _)| *state == FlowState::Asking);
        let question = questions(&mut world)[0].id;
        let mut io = Io { host: &mut world.host, frames: &mut world.link };
        assert!(world.stack.kill_flow(flow.unwrap().1, world.now, &mut io));
        world.run_for(ms(10));
        let third = world.guest.connect(target, Script::container(3, 10));
        world.run_for(ms(100));
        let connects = world.host.connects_to(target);
        answer(&mut world, question, ALLOW);
        world.run_for(ms(100));
        assert_eq!(world.host.connects_to(target), connects, "the answer was about another");
        assert_eq!(answer_all(&mut world, REJECT), 1);
        world.run_for(ms(10));
        assert!(world.guest.app(third).peer_reset && !world.guest.app(kept).peer_reset);
        let _ = second;
        for (flow, _) in world.stack.flow_keys().collect::<Vec<_>>() {
            let mut io = Io { host: &mut world.host, frames: &mut world.link };
            world.stack.kill_flow(flow, world.now, &mut io);
        }
        world.guest_is_mute = true;
        world.finish();
    });
}

#[test]
fn an_answer_counts_for_its_destination_for_as_long_as_it_says() {
    let target = at("203.0.113.5:80");
    let mut world = asking(Settings::default(), OnFailure::Deny);
    world.host.targets.insert(target, Target::running(Script::host(1, 0)));
    let connect = |world: &mut World, target| {
        world.guest.connect(target, Script::container(1, 0));
        world.run_for(ms(200));
        questions(world)
    };
    let first = connect(&mut world, target)[0].id;
    answer_for(&mut world, first, ALLOW, secs(60));
    world.run_for(ms(50));
    assert!(connect(&mut world, target).is_empty());
    assert_eq!(world.host.connects_to(target), 2);
    let explained = world.stack.explain(FlowProtocol::Tcp, target, None, world.now);
    assert_eq!(explained.fate, Fate::Leaves(target));
    assert_eq!(explained.steps[1].says, "the hook allows it, as it said before");
    // Another port is another destination.
    let other = at("203.0.113.5:81");
    let question = connect(&mut world, other)[0].id;
    answer_for(&mut world, question, DENY, secs(60));
    assert!(connect(&mut world, other).is_empty());
    assert_eq!(world.host.connects_to(other), 0);
    let explained = world.stack.explain(FlowProtocol::Tcp, other, None, world.now);
    assert_eq!(explained.fate, Fate::Dropped(DropReason::RuleDenied));
    world.run_for(secs(60));
    let explained = world.stack.explain(FlowProtocol::Tcp, target, None, world.now);
    assert!(explained.steps[1].says.starts_with("the hook is asked first"), "{explained:?}");
    assert_eq!(connect(&mut world, target).len(), 1);
    let (stats, waiting) = world.stack.hook_stats().unwrap();
    assert_eq!(waiting, 1);
    assert!(stats.remembered >= 2 && stats.asked >= 3, "{stats:?}");
    world.guest_is_mute = true;
    world.finish_within(secs(301));
}

#[test]
fn there_are_only_so_many_questions_and_clients_have_some_of_them() {
    let settings =
        Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80).publishing(Udp, at("0.0.0.0:5353"), 53);
    let mut world = asking(settings, OnFailure::Deny);
    world.guest_is_mute = true;
    let most = HOOK_QUESTIONS / 4 * 3;
    for port in 0..2_000_u16 {
        let syn = tcp((10_000 + port, 80), 1, 0, SYN, &[]);
        world.inject(&Ip::new(CONTAINER, at("203.0.113.5:80").ip(), TCP).carrying(syn));
    }
    world.run_for(ms(10));
    assert_eq!((questions(&mut world).len(), world.stack.flow_count()), (most, most));
    assert_eq!(world.drops(DropReason::HookBusy), 2_000 - most as u64);
    // Of one client so much, of all clients so many.
    let local: IpAddr = "192.0.2.7".parse().unwrap();
    for _ in 0..HOOK_DATAGRAMS + 5 {
        world.host.send_to_listener(ListenerId(1), at("198.51.100.9:4000"), local, b"x");
    }
    world.run_for(ms(10));
    assert_eq!(world.drops(DropReason::HookBusy), 2_000 - most as u64 + 5);
    let mut clients = 0;
    while world.stack.may_accept(ListenerId(0)) {
        clients += 1;
        let client = SocketAddr::from(([198, 51, 100, 9], clients));
        world.client_connects(0, client, Script::host(1, 10).ending(Ending::Never)).unwrap();
    }
    assert_eq!(usize::from(clients), HOOK_QUESTIONS - most - 1);
    world.run_for(secs(1));
    let all = (HOOK_QUESTIONS - 1 + HOOK_DATAGRAMS) as u64;
    assert_eq!(world.drops(DropReason::HookFailed), all, "all of them fail in time");
    assert!(world.stack.may_accept(ListenerId(0)));
    world.finish();
}

#[test]
fn other_rules_leave_what_the_hook_let_through_and_judge_what_it_passed() {
    let mut world = asking(Settings::default(), OnFailure::Deny);
    let targets = [at("203.0.113.5:80"), at("203.0.113.6:80"), at("203.0.113.7:80")];
    let mut streams = Vec::new();
    for (flow, target) in (1..).zip(targets) {
        let host = Target::running(Script::host(flow, 10).ending(Ending::Never));
        streams.push(world.connect(target, Script::container(flow, 10).ending(Ending::Never), host));
        world.run_for(ms(20));
        let question = questions(&mut world)[0].id;
        match flow {
            1 => answer(&mut world, question, ALLOW),
            2 => answer(&mut world, question, PASS),
            // The rules that are in force when it answers are those that count.
            _ => {
                let rules = Rules::from_toml("default = 'reject'").unwrap();
                let mut io = Io { host: &mut world.host, frames: &mut world.link };
                let reloaded = world.stack.set_rules(rules, true, world.now, &mut io);
                assert_eq!((reloaded.kept, reloaded.ended), (2, 1));
                answer(&mut world, question, PASS);
            }
        }
        world.run_for(ms(50));
    }
    let reset: Vec<_> = streams.iter().map(|stream| world.guest.app(*stream).peer_reset).collect();
    assert_eq!(reset, [false, true, true]);
    assert_eq!(world.host.connects_to(targets[2]), 0);
    assert!(decided(&world).1 > 2, "its packets go on counting for the hook");
    world.guest_is_mute = true;
    for (flow, _) in world.stack.flow_keys().collect::<Vec<_>>() {
        let mut io = Io { host: &mut world.host, frames: &mut world.link };
        world.stack.kill_flow(flow, world.now, &mut io);
    }
    world.finish();
}

#[test]
fn what_goes_past_the_link_waits_with_the_driver() {
    let mut world = asking(ruled("default-in = 'deny'"), OnFailure::Pass);
    let (client, server) = (at("127.0.0.1:4000"), at("10.0.2.100:80"));
    let spliced = Spliced::inward(FlowProtocol::Tcp, client, server);
    let ask = |world: &mut World| match world.stack.judge_spliced(&spliced, world.now) {
        Judged::Asked(question, _) => question,
        other => panic!("{other:?}"),
    };
    for (said, granted) in [(ALLOW, true), (DENY, false), (PASS, false)] {
        let question = ask(&mut world);
        let asked = questions(&mut world);
        assert_eq!((asked[0].local, asked[0].remote), (Some(server), client));
        answer(&mut world, question, said);
        let (settled, judged) = world.stack.poll_settled().unwrap();
        assert_eq!((settled, matches!(judged, Judged::Granted(_))), (question, granted));
        if let Judged::Granted(what) = judged {
            assert!(
                world.stack.may_stay_spliced(&what, world.now)
                    && !world.stack.may_stay_spliced(&spliced, world.now)
            );
        }
    }
    let question = ask(&mut world);
    world.run_for(secs(1));
    assert_eq!(world.stack.poll_settled(), Some((question, Judged::Refused)));
    assert_eq!((world.drops(DropReason::RuleDenied), world.stack.poll_settled()), (3, None));
    world.finish();
}

#[test]
fn a_hook_that_has_ended_is_not_waited_for() {
    let target = at("203.0.113.5:80");
    for on_failure in [OnFailure::Deny, OnFailure::Pass] {
        let mut world = asking(Settings::default(), on_failure);
        world.host.targets.insert(target, Target::running(Script::host(1, 0)));
        world.guest.connect(target, Script::container(1, 0));
        world.run_for(ms(100));
        let mut io = Io { host: &mut world.host, frames: &mut world.link };
        world.stack.handle_hook_gone(world.now, &mut io);
        let passes = on_failure == OnFailure::Pass;
        world.run_for(ms(10));
        assert_eq!(world.host.connects_to(target), usize::from(passes));
        world.run_for(secs(5));
        let explained = world.stack.explain(FlowProtocol::Tcp, target, None, world.now);
        assert!(explained.steps[1].says.starts_with("the hook has ended"), "{explained:?}");
        let expected = if passes { Fate::Leaves(target) } else { Fate::Dropped(DropReason::HookFailed) };
        assert_eq!(explained.fate, expected);
        assert_eq!((questions(&mut world).len(), world.drops(DropReason::HookFailed) >= 2), (0, !passes));
        world.guest_is_mute = true;
        world.finish();
    }
}

#[test]
fn the_hook_is_told_the_names_that_a_destination_was_found_by_and_not_asked_about_queries() {
    let resolver = at("203.0.113.53:53");
    let server = at("198.51.100.80:443");
    let IpAddr::V4(address) = server.ip() else { unreachable!() };
    let mut world = asking(Settings::default(), OnFailure::Deny);
    world.host.datagram_peers.insert(resolver, DatagramPeer::Names { address, ttl: 60 });
    let socket = world.guest.udp_bind(5_353);
    let names: Vec<String> = (0..HOOK_NAMES + 2).map(|number| format!("n{number}.example.org")).collect();
    for name in &names {
        let query = netferry::wire::dns_answer::query(7, name, netferry::wire::dns_answer::A).unwrap();
        world.guest.udp_send(socket, SocketAddr::new(DNS.into(), 53), &query);
        world.run_for(ms(1_500));
    }
    assert_eq!((world.guest.udp_received(socket).len(), questions(&mut world).len()), (names.len(), 0));
    let stream = world.guest.connect(server, Script::container(1, 10));
    world.run_for(ms(50));
    let asked = questions(&mut world);
    let latest: Vec<&String> = names.iter().rev().take(HOOK_NAMES).collect();
    assert_eq!(asked[0].names.iter().collect::<Vec<_>>(), latest);
    answer(&mut world, asked[0].id, REJECT);
    world.run_for(ms(10));
    assert!(world.guest.app(stream).peer_reset);
    world.finish_within(secs(301));
}
