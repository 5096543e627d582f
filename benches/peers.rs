//! netferry, slirp4netns and pasta side by side: iperf3 through each, in turn, on the same sealed ground.
//!
//! `cargo bench --bench peers`. Every figure is from a container and a relay of its own; the relays take turns
//! inside each round, so that a machine that changes its speed changes it for all. Reno everywhere and the
//! kernel's own buffer limits, for steady figures; the server stands on the host.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `PEERS_SECONDS` | length of one run | 3 |
//! | `PEERS_ROUNDS` | runs behind each median | 3 |
//! | `PEERS_MTU` | MTUs, separated by spaces | `1500 65520` |
//! | `PEERS_STREAMS` | parallel connections | 1 |
//! | `PEERS_RELAYS` | who takes part | `netferry slirp4netns pasta` |
//! | `PEERS_SLIRP4NETNS`, `PEERS_PASTA` | the peers | as found |
//! | `NETFERRY_BIN` | ours | as built |

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../tests/netns/ground.rs"]
#[allow(dead_code)]
mod ground;
mod measure;
#[path = "../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;

use std::env;
use std::process::Command;
use std::time::Duration;

use ground::{Ground, HOST4, SUBJECT, find_program};
use measure::{
    Direction, Sample, container, inside, processor_seconds, report, sample, setting, settle, wait_for_route,
};
use process::{SOON, Stream, start};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relay {
    Netferry,
    Slirp4netns,
    Pasta,
}

fn main() {
    let ground = measure::ground();
    let taking_part = env::var("PEERS_RELAYS").unwrap_or_else(|_| "netferry slirp4netns pasta".to_owned());
    let relays: Vec<(Relay, String)> = [Relay::Netferry, Relay::Slirp4netns, Relay::Pasta]
        .into_iter()
        .filter(|relay| taking_part.split_whitespace().any(|name| name == relay.name()))
        .filter_map(|relay| match relay.program() {
            Some(program) => Some((relay, program)),
            None => {
                println!("{relay:?} is not installed: left out");
                None
            }
        })
        .collect();
    let rounds = setting("PEERS_ROUNDS", 3);
    let mtus = env::var("PEERS_MTU").unwrap_or_else(|_| "1500 65520".to_owned());
    println!("single runs of {} s, {rounds} rounds, congestion control reno", setting("PEERS_SECONDS", 3));
    for mtu in mtus.split_whitespace() {
        for direction in [Direction::Up, Direction::Down] {
            let mut samples = vec![Vec::new(); relays.len()];
            for _ in 0..rounds {
                for (collected, (relay, program)) in samples.iter_mut().zip(&relays) {
                    collected.push(measure(&ground, *relay, program, mtu, direction));
                }
            }
            compare(mtu, direction, &relays, &samples);
        }
    }
}

impl Relay {
    fn program(self) -> Option<String> {
        let (variable, name) = match self {
            Relay::Netferry => return Some(SUBJECT.to_owned()),
            Relay::Slirp4netns => ("PEERS_SLIRP4NETNS", "slirp4netns"),
            Relay::Pasta => ("PEERS_PASTA", "pasta"),
        };
        let program = env::var(variable).unwrap_or_else(|_| name.to_owned());
        find_program(&program).and_then(|path| path.to_str().map(str::to_owned))
    }

    /// How the names of its processes begin.
    fn process_names(self) -> &'static [&'static str] {
        match self {
            Relay::Netferry => &["netferry"],
            Relay::Slirp4netns => &["slirp4netns"],
            // It executes a build of itself for the processor at hand, passt.avx2.
            Relay::Pasta => &["pasta", "passt"],
        }
    }

    /// What it is called.
    fn name(self) -> &'static str {
        match self {
            Relay::Netferry => "netferry",
            Relay::Slirp4netns => "slirp4netns",
            Relay::Pasta => "pasta",
        }
    }

    /// Its command that serves the namespace of process `pid` and stays in the foreground.
    fn command(self, ground: &Ground, program: &str, pid: &str, mtu: &str) -> Command {
        let mut command = ground.user(program);
        match self {
            Relay::Netferry => command.args(["attach", "--mtu", mtu, pid, "tap0"]),
            Relay::Slirp4netns => command.args(["--configure", "--mtu", mtu, pid, "tap0"]),
            // No splicing and no ports: what is compared is the way through the TAP.
            Relay::Pasta => command.args([
                "--foreground",
                "--quiet",
                "--config-net",
                "-I",
                "tap0",
                "-a",
                "10.0.2.100",
                "-n",
                "24",
                "-g",
                "10.0.2.2",
                "-m",
                mtu,
                "-t",
                "none",
                "-u",
                "none",
                "-T",
                "none",
                "-U",
                "none",
                pid,
            ]),
        };
        command
    }
}

/// A container and a relay, iperf3 once through it.
fn measure(ground: &Ground, relay: Relay, program: &str, mtu: &str, direction: Direction) -> Sample {
    let (_container, pid) = container(ground);
    settle(ground, &pid, "reno");
    let running = start(relay.command(ground, program, &pid, mtu));
    wait_for_route(ground, &pid, &running);

    let mut server = ground.user("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--bind", &HOST4.to_string()]);
    let mut server = start(server);
    server.wait_for(Stream::Out, "Server listening");

    let (seconds, streams) = (setting("PEERS_SECONDS", 3), setting("PEERS_STREAMS", 1));
    let reverse = if direction == Direction::Down { "--reverse" } else { "" };
    let client =
        format!("exec iperf3 --json --client {HOST4} --time {seconds} --parallel {streams} {reverse}");
    let before = processor_seconds(relay.process_names());
    let outcome = start(inside(ground, &pid, &client)).finish(Duration::from_secs(u64::from(seconds)) + SOON);
    sample(outcome, processor_seconds(relay.process_names()) - before)
    // Relay, server and container are killed here, by their own handles.
}

fn compare(mtu: &str, direction: Direction, relays: &[(Relay, String)], samples: &[Vec<Sample>]) {
    let rows: Vec<_> =
        relays.iter().zip(samples).map(|((relay, _), samples)| (relay.name(), samples.as_slice())).collect();
    let medians = report(&format!("MTU {mtu}, {direction:?}"), &rows);
    let mut best_peer: f64 = 0.0;
    let mut ours = 0.0;
    for ((relay, _), median) in relays.iter().zip(medians) {
        match relay {
            Relay::Netferry => ours = median,
            Relay::Slirp4netns | Relay::Pasta => best_peer = best_peer.max(median),
        }
    }
    if best_peer > 0.0 && ours > 0.0 {
        println!("\nnetferry is {:.1} times the better peer", ours / best_peer);
    }
}
