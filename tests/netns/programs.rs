//! Real programs that are neither curl, dig nor ping, each with its own habits at the socket.

use std::time::Duration;

use crate::ground::{Ground, WORLD4, WORLD6, sealed};
use crate::process::{Outcome, Running, Stream, run, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

/// An iperf3 server in the world, for one test.
fn iperf3_server(ground: &Ground) -> Running {
    ground.needs(&["iperf3"]);
    let mut command = ground.root("iperf3");
    command.args(["--server", "--one-off", "--forceflush"]);
    let mut server = ground.in_world(|| start(command));
    server.wait_for(Stream::Out, "Server listening");
    server
}

/// One second of iperf3 in a container; the figure named `key` of `section` in its summary.
fn iperf3(ground: &Ground, options: &[&str], section: &str, key: &str) -> f64 {
    let _server = iperf3_server(ground);
    let command = ["run", "--", "iperf3", "--json", "--time", "1", "--client"];
    let outcome = start(ground.netferry(&[&command, options].concat()))
        .finish(Duration::from_secs(30))
        .expect_success();
    // The last one: those of the intervals come before it.
    let section =
        outcome.stdout.rsplit(&format!("\"{section}\":")).next().expect("iperf3 reports the section");
    let figure = section.split(&format!("\"{key}\":")).nth(1).expect("iperf3 reports the figure");
    let end = figure.find([',', '\n', '}']).expect("JSON goes on");
    figure[..end].trim().parse().expect("a number")
}

#[test]
fn iperf3_measures_both_directions() {
    sealed(|ground| {
        let (v4, v6) = (WORLD4.to_string(), WORLD6.to_string());
        for options in [
            &[v4.as_str()][..],
            &[&v4, "--reverse"],
            &[&v6, "--bidir"],
            &[&v4, "--parallel", "8"],
            &[&v6, "--reverse", "--zerocopy", "--parallel", "8"],
        ] {
            let received = iperf3(ground, options, "sum_received", "bits_per_second");
            // Far below what any machine does; a stall of a few hundred milliseconds shows all the same.
            assert!(received > 100e6, "{received} bit/s with {options:?}");
        }
    });
}

#[test]
fn iperf3_loses_no_datagram_of_a_moderate_stream() {
    sealed(|ground| {
        let world = WORLD4.to_string();
        for direction in [&[][..], &["--reverse"]] {
            let options = [&[world.as_str(), "--udp", "--bitrate", "20M"], direction].concat();
            let lost = iperf3(ground, &options, "sum", "lost_percent");
            assert!(lost < 1.0, "{lost} % lost, {direction:?}");
        }
    });
}

fn piped(ground: &Ground, script: &str) -> Outcome {
    run(ground.netferry(&["run", "--", "sh", "-c", script])).expect_success()
}

#[test]
fn ncat_sends_ends_and_hears_the_answer() {
    sealed(|ground| {
        ground.needs(&["ncat"]);
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        let text = piped(ground, "seq 1 20000 | ncat 203.0.113.2 7000 | cksum; seq 1 20000 | cksum").stdout;
        let (there, here) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(there, here);
    });
}

#[test]
fn socat_exchanges_datagrams() {
    sealed(|ground| {
        ground.needs(&["socat"]);
        echo_datagrams(ground.world_datagrams(WORLD6, 7000), false);
        let outcome = piped(ground, "echo hello | socat -t 2 - 'UDP6:[2001:db8:1::2]:7000'");
        assert_eq!(outcome.stdout, "hello\n");
    });
}
