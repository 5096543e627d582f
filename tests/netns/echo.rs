//! ping, forwarded through ping sockets of the host.

use std::net::IpAddr;

use crate::ground::{FAR4, Ground, WORLD4, WORLD6, sealed};
use crate::process::{Outcome, Stream, run, start};

fn ping(ground: &Ground, options: &[&str], target: impl Into<IpAddr>) -> Outcome {
    ground.needs(&["ping"]);
    let target = target.into().to_string();
    let command = ["run", "--", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "3"];
    run(ground.netferry(&[&command, options, &[&target]].concat()))
}

#[test]
fn the_world_answers_ping_over_ipv4() {
    sealed(|ground| {
        ground.allow_ping();
        ping(ground, &[], WORLD4).expect_success().expect_stdout("2 received");
        ping(ground, &[], FAR4).expect_success().expect_stdout("2 received");
    });
}

#[test]
fn the_world_answers_ping_over_ipv6() {
    sealed(|ground| {
        ground.allow_ping();
        ping(ground, &["-6"], WORLD6).expect_success().expect_stdout("2 received");
    });
}

#[test]
fn large_echoes_come_back_whole() {
    sealed(|ground| {
        ground.allow_ping();
        // ping itself compares what comes back, byte by byte, with -p.
        let options = ["-s", "8000", "-p", "a5"];
        let outcome = ping(ground, &options, WORLD4).expect_success().expect_stdout("2 received");
        assert!(!outcome.stdout.contains("wrong data byte"), "{outcome}");
    });
}

#[test]
fn the_gateway_answers_ping_itself() {
    sealed(|ground| {
        // Even where the host lets nobody ping, as here.
        ping(ground, &[], IpAddr::from([10, 0, 2, 2])).expect_success().expect_stdout("2 received");
    });
}

#[test]
fn the_gateway_answers_ping_over_ipv6_itself() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        let script = "gateway=$(ip -6 route show default | sed -n 's/.* via \\([^ ]*\\) .*/\\1/p' | head -1); \
                      ping -6 -n -c 2 -i 0.2 -W 3 $gateway%tap0";
        run(ground.netferry(&["run", "--", "sh", "-c", script])).expect_success().expect_stdout("2 received");
    });
}

#[test]
fn a_forbidden_ping_gets_no_answer_and_one_hint() {
    sealed(|ground| {
        let outcome = ping(ground, &["-W", "1"], WORLD4).expect_code(1).expect_stdout(" 0 received");
        assert_eq!(outcome.stderr.matches("ping does not work").count(), 1, "{outcome}");
    });
}

#[test]
fn an_address_that_nobody_has_gets_no_answer() {
    sealed(|ground| {
        ground.allow_ping();
        // No echo is forged: 192.0.2.0/24 leads to a world that drops it.
        ping(ground, &["-W", "1"], IpAddr::from([192, 0, 2, 9])).expect_code(1).expect_stdout(" 0 received");
    });
}

#[test]
fn two_pings_at_once_each_get_their_own_answers() {
    sealed(|ground| {
        ground.allow_ping();
        ground.needs(&["ping"]);
        let script = "ping -n -c 5 -i 0.2 -W 3 203.0.113.2 & first=$!; \
                      ping -n -c 5 -i 0.2 -W 3 203.0.113.2; second=$?; wait $first && exit $second";
        let mut pings = start(ground.netferry(&["run", "--", "sh", "-c", script]));
        pings.wait_for(Stream::Out, "5 received");
        let outcome = pings.finish(crate::process::SOON).expect_success();
        assert_eq!(outcome.stdout.matches("5 received").count(), 2, "{outcome}");
        assert!(!outcome.stdout.contains("DUP!"), "{outcome}");
    });
}
