//! What is measured, and how one run of it goes.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::container::{Direction, arrived, setting};
use crate::figures::Figures;
use crate::ground::{Ground, HOST4, WORLD4};
use crate::process::{Running, SOON, Stream, start};
use crate::subject::{Served, Subject, value};

/// The program of the loads, where everyone on the ground may run it.
pub const LOAD: &str = "/mnt/scratch/load";
/// The world's port for datagrams and exchanges.
const WORLD_PORT: u16 = 7000;
/// Ports of the world that very many connections are spread over.
const HELD_PORTS: usize = 4;
/// Datagrams that one call of a sender with segmentation holds.
const RUN: usize = 40;
/// The name of as many connections as a process may have descriptors for, where that is fewer than were asked for.
pub const MOST_CONNECTIONS: &str = "most idle connections";
/// Both ways.
const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];

/// One kind of run through a container that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// iperf3 from the container to the world, or back.
    Tcp { mtu: u32, streams: u32, direction: Direction },
    /// iperf3 from the world to a server in the container.
    Published { mtu: u32, direction: Direction },
    /// Datagrams of this size; `run` in one call of the sender.
    Udp { size: usize, run: usize, direction: Direction },
    /// One byte to the world and back, over and over.
    RoundTrips,
    /// A connection to the world for one byte there and back, one after the other.
    Connects,
    /// Round trips while iperf3 fills the link.
    LatencyUnderLoad { direction: Direction },
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// The measures at this MTU of the groups that `wanted` lets through.
pub fn measures(mtu: u32, streams: &[u32], wanted: impl Fn(&str) -> bool) -> Vec<Measure> {
    let mut all = Vec::new();
    for direction in DIRECTIONS {
        if wanted("tcp") {
            all.extend(streams.iter().map(|&streams| Measure::Tcp { mtu, streams, direction }));
        }
        if wanted("published") {
            all.push(Measure::Published { mtu, direction });
        }
        if mtu == 1500 && wanted("udp") {
            all.extend([(64, 1), (1400, 1), (64, RUN), (1400, RUN)].map(|(size, run)| Measure::Udp {
                size,
                run,
                direction,
            }));
        }
        if mtu == 1500 && wanted("latency") {
            all.push(Measure::LatencyUnderLoad { direction });
        }
    }
    if mtu == 1500 && wanted("latency") {
        all.extend([Measure::RoundTrips, Measure::Connects]);
    }
    all
}

/// The name of a measure in tables, as [`Measure`] and the goals have it.
impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Measure::Tcp { mtu, streams, direction } => {
                write!(f, "TCP {}, {streams} streams, MTU {mtu}", direction.name())
            }
            Measure::Published { mtu, direction } => {
                write!(f, "published port {}, MTU {mtu}", direction.name())
            }
            Measure::Udp { size, run, direction } => {
                let kind = if run > 1 { "with segmentation" } else { "plain" };
                write!(f, "UDP {} {size} B {kind}", direction.name())
            }
            Measure::RoundTrips => write!(f, "TCP round trips"),
            Measure::Connects => write!(f, "TCP connects"),
            Measure::LatencyUnderLoad { direction } => {
                write!(f, "TCP round trips under load {}", direction.name())
            }
        }
    }
}

impl Measure {
    /// One run; what it found goes to `figures`.
    pub fn run(self, ground: &Ground, served: &Served, figures: &mut Figures) {
        let (name, subject) = (self.to_string(), served.subject);
        match self {
            Measure::Tcp { streams, direction, .. } => {
                let server = iperf_server(ground);
                let before = served.processor_seconds();
                let client = iperf_words(&WORLD4.to_string(), 5201, streams, direction == Direction::Down);
                let arrived = arrived(finish(start(served.inside(ground, &client))));
                figures.speed(&name, subject, arrived, served.processor_seconds() - before);
                drop(server);
            }
            Measure::Published { direction, .. } => {
                let server = start(served.inside(ground, "exec iperf3 --server --one-off --forceflush"));
                let arrived = published(ground, served, server, HOST4.to_string(), direction, true);
                figures.speed(&name, subject, arrived.0, arrived.1);
            }
            Measure::Udp { size, run, direction } => {
                let (sent, received, seconds) = datagrams(ground, served, size, run, direction);
                figures.add(&name, "thousand datagrams/s", subject, received / seconds / 1e3);
                figures.add(&name, "% lost", subject, 100.0 * (1.0 - received / sent).max(0.0));
            }
            Measure::RoundTrips => exchange(ground, served, "ping-pong", &name, figures),
            Measure::Connects => exchange(ground, served, "connects", &name, figures),
            Measure::LatencyUnderLoad { direction } => {
                let server = iperf_server(ground);
                let client = iperf_words(&WORLD4.to_string(), 5201, 1, direction == Direction::Down);
                // It starts before and ends after the exchanges.
                let client = client.replace("--time ", "--time 1");
                let load = start(served.inside(ground, &client));
                thread::sleep(Duration::from_millis(500));
                let (before, began) = (served.link_bytes(), Instant::now());
                exchange(ground, served, "ping-pong", &name, figures);
                let gigabits = (served.link_bytes() - before) as f64 * 8.0 / 1e9;
                figures.add(&name, "Gbit/s beside them", subject, gigabits / began.elapsed().as_secs_f64());
                drop((load, server));
            }
        }
    }
}

/// Through the published port whose server is `server`: what arrived, and the processor seconds of the relay.
fn published(
    ground: &Ground,
    served: &Served,
    mut server: Running,
    address: String,
    direction: Direction,
    from_world: bool,
) -> (crate::container::Arrived, f64) {
    server.wait_for(Stream::Out, "Server listening");
    // The server is the one in the container: what goes up is what it sends.
    let client = iperf_words(&address, served.subject.outer_port(), 1, direction == Direction::Up);
    let mut command = ground.root("sh");
    command.args(["-c", &client]);
    let before = served.processor_seconds();
    let run = || finish(start(command));
    let outcome = if from_world { ground.in_world(run) } else { run() };
    (arrived(outcome), served.processor_seconds() - before)
}

/// Through the loopback of the host, where those who splice do so; the kernel's own figure is that of the loopback.
pub fn spliced(
    ground: &Ground,
    served: &Served,
    congestion: &str,
    direction: Direction,
    figures: &mut Figures,
) {
    let server = if served.subject == Subject::Kernel {
        // Nothing in between: the loopback itself.
        let mut server = ground.root("iperf3");
        let port = served.subject.outer_port().to_string();
        server.args(["--server", "--one-off", "--forceflush", "--port", &port]);
        start(server)
    } else {
        start(served.inside(ground, "exec iperf3 --server --one-off --forceflush"))
    };
    let (arrived, seconds) = published(ground, served, server, "127.0.0.1".to_owned(), direction, false);
    let name = format!("spliced port {}, {congestion}", direction.name());
    figures.speed(&name, served.subject, arrived, seconds);
}

fn seconds() -> u32 {
    setting("PEERS_SECONDS", 2)
}

fn finish(running: Running) -> crate::process::Outcome {
    running.finish(Duration::from_secs(u64::from(seconds())) + SOON)
}

/// iperf3's server in the world, for one client.
fn iperf_server(ground: &Ground) -> Running {
    let mut server = ground.root("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--bind", &WORLD4.to_string()]);
    let mut server = ground.in_world(|| start(server));
    server.wait_for(Stream::Out, "Server listening");
    server
}

fn iperf_words(address: &str, port: u16, streams: u32, reverse: bool) -> String {
    let reverse = if reverse { "--reverse" } else { "" };
    format!(
        "exec iperf3 --json --client {address} --port {port} --time {} --parallel {streams} {reverse}",
        seconds()
    )
}

/// A load in the world.
fn in_world(ground: &Ground, words: &str) -> Running {
    let mut command: Command = ground.root(LOAD);
    command.args(words.split_whitespace());
    let mut load = ground.in_world(|| start(command));
    load.wait_for(Stream::Out, "ready");
    load
}

/// One exchange after the other with the world, and how long they took.
fn exchange(ground: &Ground, served: &Served, kind: &str, name: &str, figures: &mut Figures) {
    let server = in_world(ground, &format!("echo {WORLD4}:{WORLD_PORT}"));
    let client = format!("exec {LOAD} {kind} {WORLD4}:{WORLD_PORT} {}", seconds());
    let outcome = finish(start(served.inside(ground, &client))).expect_success();
    figures.add(name, "per s", served.subject, value(&outcome, "rate"));
    figures.add(name, "µs, p50", served.subject, value(&outcome, "p50"));
    figures.add(name, "µs, p99", served.subject, value(&outcome, "p99"));
    drop(server);
}

/// A flood of datagrams: how many were sent, how many arrived, and how long the sender sent.
fn datagrams(
    ground: &Ground,
    served: &Served,
    size: usize,
    run: usize,
    direction: Direction,
) -> (f64, f64, f64) {
    let there = format!("{WORLD4}:{WORLD_PORT}");
    let (sender, receiver) = match direction {
        Direction::Up => {
            let sink = in_world(ground, &format!("udp-sink {there} {size}"));
            let words = format!("exec {LOAD} udp-send {there} {size} {run} {}", seconds());
            (start(served.inside(ground, &words)), sink)
        }
        Direction::Down => {
            let source = in_world(ground, &format!("udp-serve {there} {size} {run} {}", seconds()));
            let words = format!("exec {LOAD} udp-fetch {there} {size}");
            (source, start(served.inside(ground, &words)))
        }
    };
    let (sender, receiver) = (finish(sender).expect_success(), finish(receiver).expect_success());
    (value(&sender, "sent"), value(&receiver, "received"), value(&sender, "seconds"))
}

/// Very many connections: what they cost in memory, how fast they opened, and what they leave to a busy one.
///
/// `most` is what descriptors allow: a count above it stands for as many.
pub fn scale(ground: &Ground, subject: Subject, counts: &[u32], most: u32, figures: &mut Figures) {
    let idle = subject.serve(ground, 1500).resident_bytes() as f64;
    if subject != Subject::Kernel {
        figures.add("idle relay", "MiB resident", subject, idle / (1 << 20) as f64);
    }
    for &count in counts {
        let served = subject.serve(ground, 1500);
        let before = served.resident_bytes() as f64;
        let name =
            if count > most { MOST_CONNECTIONS.to_owned() } else { format!("{count} idle connections") };
        let count = count.min(most);
        let held = in_world(ground, &format!("hold {WORLD4}:{WORLD_PORT} {HELD_PORTS}"));
        let words = format!("exec {LOAD} open {WORLD4}:{WORLD_PORT} {count} {HELD_PORTS}");
        let opener = start(served.inside(ground, &words));
        let deadline = Instant::now() + Duration::from_secs(40);
        while !opener.so_far(Stream::Out).contains("ready") && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        let said = opener.so_far(Stream::Out);
        let number =
            |at: usize| said.split_whitespace().nth(at).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let (open, took): (f64, f64) = (number(1), number(3));
        figures.add(&name, "opened", subject, open);
        if open > 0.0 {
            figures.add(&name, "opened per s", subject, open / took);
        }
        if open >= f64::from(count) * 0.99 && subject != Subject::Kernel && count > 1 {
            // What was allocated for a moment may go.
            thread::sleep(Duration::from_secs(2));
            let bytes = (served.resident_bytes() as f64 - before) / open;
            figures.add(&name, "bytes per connection", subject, bytes);
        }
        if open >= f64::from(count) * 0.99 {
            busy_beside(ground, &served, &name, figures);
        }
        let is_enough = open >= f64::from(count) * 0.99;
        opener.signal(nix::sys::signal::Signal::SIGKILL);
        drop((opener, held));
        if !is_enough {
            // More would not be more.
            return;
        }
    }
}

/// One busy connection while everything else is idle.
fn busy_beside(ground: &Ground, served: &Served, name: &str, figures: &mut Figures) {
    for direction in DIRECTIONS {
        let server = iperf_server(ground);
        let client = iperf_words(&WORLD4.to_string(), 5201, 1, direction == Direction::Down);
        let arrived = arrived(finish(start(served.inside(ground, &client))));
        let unit = format!("Gbit/s {} beside them", direction.name());
        figures.add(name, &unit, served.subject, arrived.gigabits_per_second);
        drop(server);
    }
}
