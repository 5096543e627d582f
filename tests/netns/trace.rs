//! traceroute, tracepath and mtr show the way as it is: the gateway, and behind it what the host itself sees.

use std::net::IpAddr;

use crate::ground::{Ground, sealed};
use crate::process::{Outcome, run};
use crate::routers::{ENDS, hops};

/// An IPv6 gateway that is known beforehand.
const SUBNET6: &str = "fd00:aa::/64";

/// Runs a program in the container, with the way to `end`.
fn inside(ground: &Ground, program: &[&str], end: IpAddr) -> Outcome {
    ground.needs(&program[..1]);
    let end = end.to_string();
    run(ground.netferry(&[&["run", "--cidr6", SUBNET6, "--"], program, &[&end]].concat())).expect_success()
}

/// The gateway, and those behind it.
fn expected(end: IpAddr) -> Vec<String> {
    let gateway = if end.is_ipv4() { "10.0.2.2" } else { "fd00:aa::2" };
    [&[gateway][..], &hops(end.is_ipv6())].concat().into_iter().map(str::to_owned).collect()
}

/// What a line says that begins with the number of a hop: "3  ADDRESS", "3:  ADDRESS", "3.|-- ADDRESS".
fn hop(line: &str) -> Option<(usize, &str)> {
    let mut words = line.split_whitespace();
    let place = words.next()?.trim_end_matches([':', '|', '-', '.']).parse().ok()?;
    let address = words.find(|word| *word == "*" || *word == "???" || word.parse::<IpAddr>().is_ok())?;
    Some((place, address))
}

/// The hops in their order.
fn seen(outcome: &Outcome) -> Vec<String> {
    let mut hops = Vec::new();
    for (place, address) in outcome.stdout.lines().filter_map(hop).filter(|(place, _)| *place > 0) {
        hops.resize(hops.len().max(place), String::new());
        hops[place - 1] = address.to_owned();
    }
    hops
}

fn shows_each_hop(ground: &Ground, programs: &[&[&str]]) {
    ground.allow_ping();
    let _way = ground.with_routers(1_500);
    for end in ENDS {
        for program in programs {
            let outcome = inside(ground, program, end);
            assert_eq!(seen(&outcome), expected(end), "{program:?}\n{outcome}");
        }
    }
}

const TRACEROUTE: [&str; 6] = ["traceroute", "-n", "-w", "3", "-q", "1"];

#[test]
fn traceroute_by_datagrams_shows_each_hop() {
    sealed(|ground| {
        let to_one_port = [&TRACEROUTE[..], &["-U", "-p", "53"]].concat();
        shows_each_hop(ground, &[&TRACEROUTE, &to_one_port]);
    });
}

#[test]
fn traceroute_by_echo_shows_each_hop() {
    sealed(|ground| shows_each_hop(ground, &[&[&TRACEROUTE[..], &["-I"]].concat()]));
}

#[test]
fn traceroute_by_connects_shows_each_hop() {
    sealed(|ground| shows_each_hop(ground, &[&[&TRACEROUTE[..], &["-T", "-p", "80"]].concat()]));
}

#[test]
fn tracepath_shows_each_hop_and_that_the_way_back_is_as_long() {
    sealed(|ground| {
        let _way = ground.with_routers(1_500);
        for end in ENDS {
            let outcome = inside(ground, &["tracepath", "-n"], end);
            assert_eq!(seen(&outcome), expected(end), "{outcome}");
            assert!(outcome.stdout.contains("Resume: pmtu 1500 hops 5 back 5"), "{outcome}");
            assert!(!outcome.stdout.contains("asymm"), "{outcome}");
        }
    });
}

/// Quick, and with nothing lost.
const MTR: [&str; 9] = ["mtr", "-n", "--report", "-c", "3", "-i", "0.2", "-G", "1"];

fn mtr_loses_nothing(ground: &Ground, how: &[&str]) {
    ground.allow_ping();
    let _way = ground.with_routers(1_500);
    for end in ENDS {
        let outcome = inside(ground, &[&MTR[..], how].concat(), end);
        assert_eq!(seen(&outcome), expected(end), "{outcome}");
        let lossless = outcome.stdout.lines().filter(|line| hop(line).is_some() && line.contains(" 0.0% "));
        assert_eq!(lossless.count(), 5, "{outcome}");
    }
}

#[test]
fn mtr_by_echo_shows_each_hop() {
    sealed(|ground| mtr_loses_nothing(ground, &[]));
}

#[test]
fn mtr_by_datagrams_shows_each_hop() {
    sealed(|ground| mtr_loses_nothing(ground, &["--udp"]));
}

#[test]
fn mtr_by_connects_shows_each_hop() {
    sealed(|ground| mtr_loses_nothing(ground, &["--tcp"]));
}

#[test]
fn the_face_of_pasta_is_no_hop() {
    sealed(|ground| {
        ground.allow_ping();
        ground.needs(&["traceroute", "ping"]);
        let _way = ground.with_routers(1_500);
        for end in ENDS {
            let address = end.to_string();
            let inside = |program: &[&str]| {
                let command = [&["pasta", "--config-net", "--"], program, &[&address]].concat();
                run(ground.netferry(&command)).expect_success()
            };
            for how in [&[][..], &["-T", "-p", "80"]] {
                let outcome = inside(&[&TRACEROUTE[..], how].concat());
                assert_eq!(seen(&outcome), hops(end.is_ipv6()), "{outcome}");
            }
            // 64 of the end, and three routers.
            inside(&["ping", "-n", "-c", "1", "-W", "3"]).expect_stdout(" ttl=61 ");
        }
    });
}
