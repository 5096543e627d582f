//! The policy on every path of the core: who gets through, what the others hear, and what is counted.

use std::net::{IpAddr, SocketAddr};

use netferry::config::PortProtocol::{Tcp, Udp};
use netferry::config::{Rules, UdpMapping};
use netferry::stack::audit::AuditEvent;
use netferry::stack::boundary::{CloseKind, HostError, Io, ListenerId};
use netferry::stack::drop_reason::DropReason;
use netferry::stack::flow::FlowProtocol;
use netferry::stack::flow::Way;
use netferry::stack::flow::ledger::Tally;
use netferry::stack::policy::RuleMark;
use netferry::stack::policy::explain::Fate;
use netferry::stack::policy::judge::Reloaded;
use netferry::stack::recent::Why;
use netferry::stack::view::FlowState;

use super::both_families;
use crate::app::{Ending, Reading, Script};
use crate::clock::{ms, secs};
use crate::host::{DatagramPeer, EchoPeer, Target};
use crate::link::Faults;
use crate::packet::{Ip, SYN, TCP, UDP, tcp, udp};
use crate::world::{CONTAINER, DNS, GATEWAY, Settings, World, at};

const RESOLVER: &str = "203.0.113.53:53";
const SERVER: &str = "198.51.100.80:443";

fn rules(toml: &str) -> Rules {
    Rules::from_toml(toml).unwrap()
}

fn ruled(toml: &str) -> World {
    World::new(Settings::default().with(|config| config.rules = rules(toml)))
}

fn reload(world: &mut World, toml: &str, rejudge: bool) -> Reloaded {
    let mut io = Io { host: &mut world.host, frames: &mut world.link };
    world.stack.set_rules(rules(toml), rejudge, world.now, &mut io)
}

fn tally(world: &World, place: usize) -> Tally {
    world.stack.rule_tallies()[place].1
}

fn query(name: &str) -> Vec<u8> {
    netferry::wire::dns_answer::query(7, name, netferry::wire::dns_answer::A).unwrap()
}

/// The container asks for a name, whose answer is the server's address for so many seconds.
fn resolve(world: &mut World, name: &str, ttl: u32) {
    let address = match at(SERVER).ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!("the answers are of IPv4"),
    };
    world.host.datagram_peers.insert(at(RESOLVER), DatagramPeer::Names { address, ttl });
    let socket = world.guest.udp_bind(5_353);
    world.guest.udp_send(socket, SocketAddr::new(DNS.into(), 53), &query(name));
    // The guest asks for one neighbor a second.
    world.run_for(ms(1_500));
    assert_eq!(world.guest.udp_received(socket).len(), 1, "an answer");
}

#[test]
fn what_is_rejected_is_told_and_what_is_denied_is_not() {
    for (verdict, reason) in [("reject", DropReason::RuleRejected), ("deny", DropReason::RuleDenied)] {
        both_families(|target| {
            let mut world = ruled(&format!("[[rule]]\n{verdict} = ['203.0.113.0/24', '2001:db8::/32']"));
            let stream = world.guest.connect(target, Script::container(1, 10));
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, b"x");
            world.guest.ping(target.ip(), 7, 1, b"x");
            world.run_for(ms(500));
            let (told, errors) = if verdict == "reject" { (true, 2) } else { (false, 0) };
            assert_eq!(world.guest.app(stream).peer_reset, told);
            assert_eq!(world.icmp_errors().len(), errors);
            // RFC 1812 §5.2.7.1: code 13; RFC 4443 §3.1: code 1.
            let prohibited = if target.is_ipv4() { (3, 13) } else { (1, 1) };
            assert!(world.icmp_errors().iter().all(|error| (error.0, error.1) == prohibited));
            assert_eq!((world.drops(reason), world.host.actions.len()), (3, 0));
            let Tally { flows, traffic } = tally(&world, 0);
            assert_eq!((flows, traffic.frames), (3, 3));
            let failures: Vec<_> = world.stack.recent().latest().collect();
            assert_eq!(failures.len(), 3);
            assert!(failures.iter().all(|failure| failure.why == Why::Dropped(reason)));
            let rule = failures[0].rule.as_deref().unwrap();
            assert!(rule.starts_with("rule 1: ") && rule.contains("203.0.113.0/24"), "{rule}");
            world.guest_is_mute = true;
            world.finish();
        });
    }
}

#[test]
fn what_is_allowed_is_counted_by_rule_and_by_way() {
    both_families(|target| {
        let mut world = ruled("default = 'deny'\n[[rule]]\nallow = 'any'\nprotocol = 'tcp'\nports = 80\n");
        let stream =
            world.connect(target, Script::container(1, 50_000), Target::running(Script::host(1, 70_000)));
        world.run_until(secs(20), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        let sent = world.stack.stats().from_container.bytes + world.stack.stats().to_container.bytes;
        let Tally { flows, traffic } = tally(&world, 0);
        assert_eq!(flows, 1);
        assert!((120_000..=sent).contains(&traffic.bytes), "{traffic:?} of {sent}");
        let ways = world.stack.way_tallies();
        assert_eq!(
            ways.iter().map(|(way, tally)| (*way, tally.flows)).collect::<Vec<_>>(),
            [(Way::Masquerade, 1)]
        );
        assert_eq!(ways[0].1.traffic, traffic);
        world.finish();
    });
}

#[test]
fn without_rules_nothing_is_judged_and_the_ways_are_counted_all_the_same() {
    both_families(|target| {
        let mut world = World::usual();
        world.connect(target, Script::container(1, 10), Target::running(Script::host(1, 10)));
        world.run_until(secs(20), "both ends", World::all_ended);
        assert!(world.stack.policy().is_none() && world.stack.rule_tallies().is_empty());
        assert_eq!(world.stack.way_tallies()[0].1.flows, 1);
        world.finish();
    });
}

#[test]
fn the_gateway_as_an_alias_is_judged_as_the_host_that_it_stands_for() {
    let allowing = |toml: &str| {
        World::new(
            Settings::default().with(|config| (config.rules, config.host_loopback) = (rules(toml), true)),
        )
    };
    let gateway = SocketAddr::new(GATEWAY.into(), 8080);
    let mut world = allowing("presets = ['no-host']");
    let stream = world.guest.connect(gateway, Script::container(1, 10));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
    assert_eq!(world.host.actions, []);
    world.finish();
    let mut world = allowing("default = 'deny'\n[[rule]]\nallow = '127.0.0.1'");
    world.host.targets.insert(at("127.0.0.1:8080"), Target::running(Script::host(1, 10)));
    world.guest.connect(gateway, Script::container(1, 10));
    world.run_until(secs(5), "both ends", World::all_ended);
    assert_eq!(world.stack.way_tallies()[0].0, Way::HostAlias);
    world.finish();
}

#[test]
fn a_name_opens_the_way_for_as_long_as_it_is_known() {
    let mut world = ruled("presets = ['allow-list']\n[[rule]]\nallow = '*.example.org'\nports = 443\n");
    let early = world.guest.connect(at(SERVER), Script::container(1, 10));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(early).peer_reset);
    resolve(&mut world, "www.example.org", 60);
    let open = Script::container(2, 100).ending(Ending::Never);
    let host = Target::running(Script::host(2, 100).ending(Ending::Never));
    let stream = world.connect(at(SERVER), open, host);
    world.run_until(secs(5), "bytes", |world| world.guest.app(stream).received == 100);
    world.run_for(secs(60));
    let late = world.guest.connect(at(SERVER), Script::container(3, 10));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(late).peer_reset);
    assert!(!world.guest.app(stream).peer_reset, "what was let through goes on");
    // It did match when it began.
    let again = "presets = ['allow-list']\n[[rule]]\nallow = '*.example.org'\nports = 443\n";
    assert_eq!(reload(&mut world, again, true).ended, 0);
    assert_eq!(reload(&mut world, "presets = ['allow-list']", true).ended, 1);
    world.run_for(ms(50));
    assert!(world.guest.app(stream).peer_reset);
    world.finish_within(secs(301));
}

#[test]
fn a_name_is_learnt_from_an_answer_over_tcp_that_was_asked_for() {
    let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes(), message].concat();
    let mut answer = query("www.example.org");
    (answer[2], answer[7]) = (0x81, 1);
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x50");
    for asked in ["www.example.org", "other.example.org"] {
        let mut world =
            ruled("presets = ['allow-list']\ndns = 'allow'\n[[rule]]\nallow = 'www.example.org'\n");
        // A resolver that returns what it is sent: a query is no answer, and of the two an answer says what it is.
        world.host.targets.insert(at(RESOLVER), Target::running(Script::echo(1)));
        let silent = Script::container(1, 0).ending(Ending::Never).reading(Reading::Never);
        let client = world.guest.connect(SocketAddr::new(DNS.into(), 53), silent);
        world.run_for(ms(50));
        for part in [framed(&query(asked)), framed(&answer)].concat().chunks(7) {
            assert_eq!(world.guest.socket(client).send_slice(part).unwrap(), part.len());
            world.run_for(ms(20));
        }
        let known = world.stack.policy().unwrap().names.asked(at(SERVER).ip(), world.now).map(str::to_owned);
        assert_eq!(known.as_deref(), (asked == "www.example.org").then_some(asked));
        if known.is_some() {
            let open = Script::container(2, 100);
            world.connect(at(SERVER), open, Target::running(Script::host(2, 100)));
            world.run_until(secs(5), "it is let through", |world| world.host.connects_to(at(SERVER)) == 1);
        }
        world.guest.socket(client).abort();
        world.run_for(secs(30));
    }
}

#[test]
fn what_rests_in_time_wait_shows_what_it_has_carried_and_is_counted_once() {
    let toml = "[[rule]]\nallow = 'any'\nports = 80\n";
    for reloaded in [None, Some(toml), Some("default-in = 'deny'")] {
        let mut world = ruled(toml);
        let target = at("203.0.113.5:80");
        let container = Script::container(1, 30_000).ending(Ending::AfterPeerEnds);
        world.connect(target, container, Target::running(Script::host(1, 50_000)));
        world.run_until(secs(20), "the rest", |world| {
            (0..9)
                .filter_map(|slot| world.stack.view_flow(slot))
                .any(|view| view.state == FlowState::TimeWait)
        });
        let flow = (0..9).find_map(|slot| world.stack.view_flow(slot)).unwrap();
        assert!(flow.carried.up.bytes > 30_000 && flow.carried.down.bytes > 50_000, "{flow:?}");
        let counted = tally(&world, 0);
        assert_eq!((counted.flows, counted.traffic), (1, flow.carried.both()));
        if let Some(toml) = reloaded {
            reload(&mut world, toml, true);
        }
        let is_kept = reloaded.is_none_or(|other| other == toml);
        if is_kept {
            assert_eq!(tally(&world, 0), counted);
        }
        world.run_for(secs(15));
        assert_eq!(world.stack.flow_count(), 0);
        let ways = world.stack.way_tallies();
        assert!(ways[0].1.traffic.bytes >= counted.traffic.bytes, "{ways:?}");
        let after = tally(&world, 0);
        let more = after.traffic.bytes - if is_kept { counted.traffic.bytes } else { 0 };
        assert!(more < 200, "an acknowledgement at most: {after:?}, {counted:?}");
        world.finish();
    }
}

#[test]
fn a_query_for_a_forbidden_name_is_refused_and_others_are_asked() {
    let mut world = ruled("[[rule]]\nreject = '*.tracker.net'\nprotocol = 'dns'\n");
    resolve(&mut world, "www.example.org", 60);
    let socket = world.guest.udp_bind(7_000);
    for name in ["x.tracker.net", "X.TRACKER.net"] {
        world.guest.udp_send(socket, SocketAddr::new(DNS.into(), 53), &query(name));
    }
    world.run_for(ms(50));
    let answers = world.guest.udp_received(socket);
    assert_eq!(answers.len(), 2);
    for (from, answer) in answers {
        assert_eq!((*from, answer[3] & 0xf), (SocketAddr::new(DNS.into(), 53), 5), "REFUSED");
    }
    assert_eq!(world.host.datagrams.iter().map(|socket| socket.sent.len()).sum::<usize>(), 1);
    assert_eq!((world.drops(DropReason::RuleRejected), tally(&world, 0).flows), (2, 2));
    // Over TCP nobody sees what is asked.
    let stream = world.guest.connect(SocketAddr::new(DNS.into(), 53), Script::container(1, 10));
    world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
    world.finish_within(secs(301));
}

#[test]
fn an_answer_to_another_question_teaches_nothing() {
    let mut world = ruled("presets = ['allow-list']\n[[rule]]\nallow = '*.example.org'\n");
    // The resolver that answers has been asked for something else under the same number.
    let mut other = query("www.example.org");
    other[2] |= 0x80;
    other[7] = 1;
    other.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x50");
    world.host.datagram_peers.insert(at(RESOLVER), DatagramPeer::Says(other));
    let socket = world.guest.udp_bind(5_353);
    world.guest.udp_send(socket, SocketAddr::new(DNS.into(), 53), &query("evil.net"));
    world.run_for(ms(50));
    assert!(world.stack.policy().unwrap().names.is_empty());
    world.finish_within(secs(301));
}

#[test]
fn clients_of_published_ports_are_judged_by_their_own_address() {
    let settings = Settings::default().publishing(Tcp, at("0.0.0.0:8080"), 80);
    let settings = settings.publishing(Udp, at("0.0.0.0:5353"), 53);
    let toml = "[[rule]]\nallow = '198.51.100.0/24'\ndirection = 'in'\nports = [80, 53]\n[[rule]]\ndeny = 'any'\ndirection = 'in'\n";
    let mut world = World::new(settings.with(|config| config.rules = rules(toml)));
    world.guest.listen(80, Script::container(1, 10));
    let stranger = world.client_connects(0, at("203.0.113.9:4000"), Script::host(1, 10));
    assert_eq!((stranger, world.rejected.as_slice()), (None, &[DropReason::RuleDenied][..]));
    world.client_connects(0, at("198.51.100.9:4000"), Script::host(1, 10)).unwrap();
    world.run_until(secs(5), "both ends", World::all_ended);
    let server = world.guest.udp_bind(53);
    let local = "192.0.2.7".parse().unwrap();
    for client in ["203.0.113.9:4000", "198.51.100.9:4000"] {
        world.host.send_to_listener(ListenerId(1), at(client), local, b"q");
    }
    world.run_for(ms(20));
    let heard: Vec<_> = world.guest.udp_received(server).iter().map(|(from, _)| *from).collect();
    assert_eq!(heard, [at("198.51.100.9:4000")]);
    assert_eq!((tally(&world, 0).flows, tally(&world, 1).flows), (2, 2));
    world.finish_within(secs(301));
}

#[test]
fn who_may_not_be_asked_may_not_answer_by_a_mapping_for_all() {
    let settings = Settings::default().with(|config| {
        config.udp_mapping = UdpMapping::EndpointIndependent;
        config.rules = rules("[[rule]]\nreject = '198.51.100.0/24'");
    });
    let mut world = World::new(settings);
    world.host.datagram_peers.insert(at("203.0.113.5:3478"), DatagramPeer::Echoes { after: ms(1) });
    let socket = world.guest.udp_bind(7_000);
    world.guest.udp_send(socket, at("203.0.113.5:3478"), b"x");
    world.run_for(ms(10));
    let flow = world.host.datagrams[0].flow;
    world.host.send_to_flow(flow, at("198.51.100.6:1"), b"no");
    world.host.send_to_flow(flow, at("203.0.113.6:1"), b"yes");
    world.guest.udp_send(socket, at("198.51.100.6:1"), b"x");
    world.run_for(ms(10));
    let heard: Vec<_> = world.guest.udp_received(socket).iter().map(|(from, _)| *from).collect();
    assert_eq!(heard, [at("203.0.113.5:3478"), at("203.0.113.6:1")]);
    assert_eq!(world.drops(DropReason::RuleRejected), 2);
    world.finish_within(secs(301));
}

#[test]
fn other_rules_leave_what_is_allowed_alone_and_keep_the_counters_of_those_that_stay() {
    both_families(|target| {
        let first = "[[rule]]\ndeny = '192.0.2.0/24'\n[[rule]]\nallow = 'any'\nports = 80\n";
        let slow = Faults { bytes_per_second: Some(4 << 20), ..Faults::default() };
        let settings = Settings::default().faults(slow).with(|config| config.rules = rules(first));
        let mut world = World::new(settings);
        world.inject(&Ip::new(CONTAINER, at("192.0.2.9:1").ip(), TCP).carrying(tcp(
            (5_000, 80),
            1,
            0,
            SYN,
            &[],
        )));
        let stream =
            world.connect(target, Script::container(1, 400_000), Target::running(Script::host(1, 400_000)));
        world.run_until(secs(5), "the first bytes", |world| world.guest.app(stream).received > 0);
        let mut reloads = 0;
        while world.guest.app(stream).received < 300_000 {
            world.run_for(ms(1));
            // Another order, and one more rule, each time.
            let toml = format!(
                "[[rule]]\nreject='198.18.{}.0/24'\n[[rule]]\nallow = 'any'\nports = 80\n[[rule]]\ndeny = '192.0.2.0/24'\n",
                reloads % 200
            );
            assert_eq!(reload(&mut world, &toml, true), Reloaded { kept: 1, ended: 0 });
            reloads += 1;
        }
        world.run_until(secs(20), "both ends", World::all_ended);
        world.assert_exchanged(stream, world.peer(target));
        assert!(reloads > 3, "{reloads}");
        assert_eq!(
            (tally(&world, 2).flows, tally(&world, 2).traffic.frames),
            (1, 1),
            "it was there all the time"
        );
        let carried = tally(&world, 1);
        assert_eq!(carried.flows, 1);
        let sent = world.stack.stats().from_container.bytes + world.stack.stats().to_container.bytes;
        assert!((800_000..=sent).contains(&carried.traffic.bytes), "{carried:?} of {sent}");
        world.finish();
    });
}

#[test]
fn flows_that_would_not_be_let_through_any_more_end_only_where_that_is_asked() {
    both_families(|target| {
        for rejudge in [false, true] {
            let mut world = World::usual();
            let open = Script::container(1, 100).ending(Ending::Never);
            let host = Target::running(Script::host(1, 100).ending(Ending::Never));
            let stream = world.connect(target, open, host);
            world.host.datagram_peers.insert(target, DatagramPeer::Echoes { after: ms(1) });
            world.host.echo_peers.insert(target.ip(), EchoPeer::Answers { after: ms(1) });
            let socket = world.guest.udp_bind(7_000);
            world.guest.udp_send(socket, target, b"x");
            world.guest.ping(target.ip(), 7, 1, b"x");
            world.run_for(ms(100));
            let came_of = reload(&mut world, "default = 'deny'", rejudge);
            assert_eq!(
                came_of,
                if rejudge { Reloaded { kept: 0, ended: 3 } } else { Reloaded { kept: 3, ended: 0 } }
            );
            world.run_for(ms(100));
            assert_eq!(world.guest.app(stream).peer_reset, rejudge);
            let closed = rejudge.then_some(CloseKind::Reset);
            assert_eq!(world.peer(target).closed, closed);
            world.guest.udp_send(socket, target, b"y");
            world.run_for(ms(100));
            let answers = world.guest.udp_received(socket).len();
            assert_eq!(answers, if rejudge { 1 } else { 2 });
            reload(&mut world, "default = 'deny'", true);
            world.finish_within(secs(301));
        }
    });
}

#[test]
fn it_is_explained_as_it_happens() {
    let toml = "[[rule]]\nlabel='mail'\nreject = 'any'\nports = 25\n[[rule]]\ndeny = '198.18.0.0/15'\n[[rule]]\nallow = '*.example.org'\n";
    let mut world = ruled(toml);
    let cases = [
        ("203.0.113.5:25", Some(DropReason::RuleRejected)),
        ("198.18.0.1:80", Some(DropReason::RuleDenied)),
        ("127.0.0.1:80", Some(DropReason::HostLoopback)),
        ("240.0.0.1:80", Some(DropReason::Martian)),
        ("10.0.2.2:80", Some(DropReason::HostLoopback)),
        ("10.0.2.77:80", Some(DropReason::NotForUs)),
        ("203.0.113.5:80", None),
    ];
    for (destination, reason) in cases {
        let destination = at(destination);
        let told = world.stack.explain(FlowProtocol::Tcp, destination, None, world.now);
        let expected = match told.fate {
            Fate::Leaves(target) => {
                assert_eq!(target, destination);
                None
            }
            Fate::Refused(reason, _) | Fate::Dropped(reason) => Some(reason),
            Fate::Answered => unreachable!("nobody answers TCP here"),
        };
        assert_eq!(expected, reason, "{told:?}");
        let before = reason.map(|reason| world.drops(reason));
        world.inject(&Ip::new(CONTAINER, destination.ip(), TCP).carrying(tcp(
            (5_000, destination.port()),
            1,
            0,
            SYN,
            &[],
        )));
        world.run_for(ms(5));
        assert_eq!(
            reason.map(|reason| world.drops(reason)),
            before.map(|before| before + 1),
            "{destination}"
        );
    }
    let named =
        world.stack.explain(FlowProtocol::Udp, at("203.0.113.5:443"), Some("a.example.org"), world.now);
    assert_eq!(named.rule, Some(RuleMark::of(2)));
    assert!(
        named.steps.iter().any(|step| step.says.contains("rule 3: allow out *.example.org")),
        "{named:?}"
    );
    world.guest_is_mute = true;
    world.finish();
}

#[test]
fn what_the_host_could_not_do_is_remembered() {
    both_families(|target| {
        let mut world = World::usual();
        world.host.targets.insert(target, Target::failing(HostError::Refused));
        for _ in 0..2 {
            let stream = world.guest.connect(target, Script::container(1, 10));
            world.run_until(secs(5), "the refusal", |world| world.guest.app(stream).peer_reset);
        }
        let source = world.settings.config.link.container_like(target.ip()).unwrap();
        world.inject(&Ip::new(source, target.ip(), UDP).carrying(udp((0, 9), b"x")));
        world.run_for(ms(5));
        let failures: Vec<_> = world.stack.recent().latest().collect();
        assert_eq!(failures.len(), 2);
        assert_eq!(failures[0].why, Why::Dropped(DropReason::BadTransport));
        assert_eq!((failures[1].why, failures[1].count), (Why::Host(HostError::Refused), 2));
        assert_eq!(failures[1].whose.unwrap().destination, target);
        world.finish();
    });
}

#[test]
fn destinations_are_written_down_once_with_what_they_carried() {
    let settings = Settings::default().with(|config| {
        config.audit = true;
        config.rules =
            rules("default = 'reject'\n[[rule]]\nallow = '*.example.org'\n[[rule]]\ndeny = '192.0.2.0/24'\n");
    });
    let mut world = World::new(settings);
    resolve(&mut world, "www.example.org", 600);
    for flow in 1..=2 {
        let stream = world.connect(
            at(SERVER),
            Script::container(flow, 1_000),
            Target::running(Script::host(flow, 5_000)),
        );
        world.run_until(secs(5), "all of it", |world| world.guest.app(stream).received == 5_000);
    }
    for destination in ["203.0.113.5:80", "203.0.113.5:80", "192.0.2.9:80"] {
        let destination = at(destination);
        world.inject(&Ip::new(CONTAINER, destination.ip(), TCP).carrying(tcp(
            (5_000, destination.port()),
            1,
            0,
            SYN,
            &[],
        )));
    }
    world.run_for(secs(30));
    let mut told = Vec::new();
    while let Some(event) = world.stack.poll_audit() {
        let AuditEvent::New { destination, rule, .. } = event else { panic!("only what is new: {event:?}") };
        assert!(rule.is_some());
        told.push((
            destination.protocol.name(),
            destination.name,
            destination.peer,
            destination.verdict.name(),
        ));
    }
    let name = Some("www.example.org".to_owned());
    let expected = [
        ("dns", name.clone(), None, "allow"),
        ("tcp", name, Some(at(SERVER)), "allow"),
        ("tcp", None, Some(at("203.0.113.5:80")), "reject"),
        ("tcp", None, Some(at("192.0.2.9:80")), "deny"),
    ];
    assert_eq!(told, expected);
    let totals = world.stack.audit_totals();
    let AuditEvent::Total { flows, carried, .. } = &totals[1] else { panic!("{totals:?}") };
    assert_eq!(*flows, 2);
    assert!(
        (2_000..4_000).contains(&carried.up.bytes) && (10_000..14_000).contains(&carried.down.bytes),
        "{carried:?}"
    );
    // What a rule denies is no drift; what no rule knows is.
    let (drifted, count) = world.stack.drifted();
    assert_eq!((drifted.len(), drifted[0].peer, count), (1, Some(at("203.0.113.5:80")), 2));
    assert_eq!(world.stack.audit_lost(), 0);
    world.finish_within(secs(301));
}
