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
#[path = "../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ground::{Ground, HOST4, SUBJECT, TCP_BUFFERS, find_program, is_sealed, seal};
use process::{Running, SOON, Stream, run, start};

/// Clock ticks of `/proc/PID/stat`; the kernel's interface to programs has had no other value for long.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relay {
    Netferry,
    Slirp4netns,
    Pasta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Container to host.
    Up,
    /// Host to container.
    Down,
}

/// One run.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gigabits_per_second: f64,
    relay_seconds_per_gigabyte: f64,
}

fn main() {
    if !is_sealed() {
        let status = seal::<&str>(&[]).status().expect("setpriv and unshare (util-linux) start");
        std::process::exit(status.code().unwrap_or(1));
    }
    let ground = Ground::build();
    ground.needs(&["iperf3"]);
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
            report(mtu, direction, &relays, &samples);
        }
    }
}

fn setting(name: &str, default: u32) -> u32 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
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
    let mut holder = ground.user("unshare");
    holder.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 600"]);
    let mut container = start(holder);
    container.wait_for(Stream::Out, "up");
    let pid = container.pid().to_string();
    let running = start(relay.command(ground, program, &pid, mtu));
    wait_for_route(ground, &pid, &running);

    let mut server = ground.user("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--bind", &HOST4.to_string()]);
    let mut server = start(server);
    server.wait_for(Stream::Out, "Server listening");

    let mut settings = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control".to_owned();
    for (name, value) in TCP_BUFFERS {
        settings += &format!(" && echo {value} > /proc/sys/{name}");
    }
    let (seconds, streams) = (setting("PEERS_SECONDS", 3), setting("PEERS_STREAMS", 1));
    let reverse = if direction == Direction::Down { "--reverse" } else { "" };
    let client = format!(
        "{settings} && exec iperf3 --json --client {HOST4} --time {seconds} --parallel {streams} {reverse}"
    );
    let before = processor_seconds(relay);
    let outcome = start(inside(ground, &pid, &client)).finish(Duration::from_secs(u64::from(seconds)) + SOON);
    let used = processor_seconds(relay) - before;
    let outcome = outcome.expect_success();
    let received = outcome.stdout.split("\"sum_received\"").nth(1).expect("iperf3 reports what was received");
    let gigabytes = number_after(received, "\"bytes\":") / 1e9;
    Sample {
        gigabits_per_second: number_after(received, "\"bits_per_second\":") / 1e9,
        relay_seconds_per_gigabyte: used / gigabytes,
    }
    // Relay, server and container are killed here, by their own handles.
}

fn inside(ground: &Ground, pid: &str, script: &str) -> Command {
    let mut command = ground.user("nsenter");
    command.args(["--target", pid, "--user", "--net", "--preserve-credentials", "sh", "-c", script]);
    command
}

fn wait_for_route(ground: &Ground, pid: &str, relay: &Running) {
    let deadline = Instant::now() + SOON;
    while !run(inside(ground, pid, "ip route show default")).stdout.contains("tap0") {
        assert!(Instant::now() < deadline, "no route appeared:\n{}", relay.so_far(Stream::Err));
        thread::sleep(Duration::from_millis(20));
    }
    // Whatever follows its configuration (router advertisements, sandboxing) is not to be measured.
    thread::sleep(Duration::from_millis(200));
}

/// User and system time of all processes of a relay.
fn processor_seconds(relay: Relay) -> f64 {
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        if !relay.process_names().iter().any(|ours| name.starts_with(ours)) {
            continue;
        }
        // proc(5): utime and stime are fields 14 and 15, the state is field 3.
        let fields: Vec<_> = fields.split(' ').collect();
        ticks += fields[11..=12].iter().filter_map(|text| text.parse::<f64>().ok()).sum::<f64>();
    }
    ticks / TICKS_PER_SECOND
}

fn number_after(text: &str, key: &str) -> f64 {
    let rest = text.split(key).nth(1).expect("iperf3 reports it").trim_start();
    let end =
        rest.find(|c: char| !matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-')).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn report(mtu: &str, direction: Direction, relays: &[(Relay, String)], samples: &[Vec<Sample>]) {
    println!("\n| MTU {mtu}, {direction:?} | Gbit/s, median | min | max | relay cpu-s/GB |");
    println!("|---|---|---|---|---|");
    let mut best_peer: f64 = 0.0;
    let mut ours = 0.0;
    for ((relay, _), samples) in relays.iter().zip(samples) {
        let speeds: Vec<_> = samples.iter().map(|sample| sample.gigabits_per_second).collect();
        let cost = median(samples.iter().map(|sample| sample.relay_seconds_per_gigabyte).collect());
        let middle = median(speeds.clone());
        let lowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = speeds.iter().copied().fold(0.0, f64::max);
        println!("| {} | {middle:.2} | {lowest:.2} | {highest:.2} | {cost:.2} |", relay.name());
        match relay {
            Relay::Netferry => ours = middle,
            Relay::Slirp4netns | Relay::Pasta => best_peer = best_peer.max(middle),
        }
    }
    if best_peer > 0.0 && ours > 0.0 {
        println!("\nnetferry is {:.1} times the better peer", ours / best_peer);
    }
}
