//! What it costs to be watched: one container for each kind of observer, beside one that nobody watches, on one sealed ground.
//!
//! `cargo bench --bench observers`. All containers stand at the same time and take turns in every measure of every round; what
//! counts is the ratio to the one without an observer in the same round. The observers run beside, on the same processors: what
//! they need themselves is in the throughput, and not in the relay's processor time.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `OBSERVERS_SECONDS` | length of one run | 1 |
//! | `OBSERVERS_ROUNDS` | runs behind each median | 3 |
//! | `OBSERVERS_ONLY` | kinds, by the first words of their names, separated by commas | all |
//! | `OBSERVERS_BEFORE` | another netferry, as from before there were observers; not below /tmp | none |
//! | `NETFERRY_BIN` | ours | as built |

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../peers/container.rs"]
#[allow(dead_code)]
mod container;
#[path = "../../tests/netns/ground.rs"]
#[allow(dead_code)]
mod ground;
#[path = "../peers/load.rs"]
#[allow(dead_code)]
mod load;
#[path = "../../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use container::{Direction, arrived, inside, processor_seconds_of, setting, settle, wait_for_route};
use ground::{Ground, SCRATCH, SUBJECT, WORLD4, is_sealed, seal};
use process::{Running, SOON, Stream, run, start};

/// The program of the loads, where everyone on the ground may run it.
const LOAD: &str = "/mnt/scratch/load";
const BEFORE: &str = "/mnt/scratch/before";
/// The world's port of the echo.
const ECHO_PORT: u16 = 7_000;
const METRICS_PORT: u16 = 9_400;

/// One kind of observer.
struct Kind {
    name: &'static str,
    /// What the relay is started with.
    options: Vec<String>,
    /// What watches it: the words of a command of netferry, which gets the socket.
    watcher: &'static [&'static str],
}

/// A container with its relay and who watches.
struct Watched {
    kind: Kind,
    pid: String,
    relay: Running,
    _watcher: Option<Running>,
    _container: Running,
}

fn kinds() -> Vec<Kind> {
    let kind = |name, options: &[&str], watcher| {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Kind { name, options, watcher }
    };
    let rules = |count: usize| {
        let path = format!("{SCRATCH}/rules-{count}.toml");
        // None of them matches but the last.
        let mut text = String::new();
        for number in 1..count {
            let (third, fourth) = (number / 250, number % 250);
            text +=
                &format!("[[rule]]\ndeny = \"192.0.{third}.{fourth}\"\nprotocol = \"tcp\"\nports = 443\n\n");
        }
        text += "[[rule]]\nallow = \"any\"\n";
        fs::write(&path, text).expect("scratch");
        path
    };
    let metrics = METRICS_PORT.to_string();
    let mut kinds = vec![kind("nothing", &[], &[])];
    if env::var_os("OBSERVERS_BEFORE").is_some() {
        kinds.push(kind("before observers", &[], &[]));
    }
    kinds.extend([
        kind("flows --watch", &[], &["flows", "--watch=1"]),
        kind("metrics each second", &["--metrics", &metrics], &[]),
        kind("1 rule", &["--rules", &rules(1)], &[]),
        kind("100 rules", &["--rules", &rules(100)], &[]),
        kind("audit", &["--audit", &format!("{SCRATCH}/audit.jsonl")], &[]),
        kind("limit far above", &["--limit", "1000gbit"], &[]),
        kind("capture, 96 B", &[], &["capture", "-s", "96", "-w", "/dev/null"]),
        kind("capture, all", &[], &["capture", "-w", "/dev/null"]),
    ]);
    let only = env::var("OBSERVERS_ONLY").unwrap_or_default();
    let is_wanted = |name: &str| only.is_empty() || only.split(',').any(|start| name.starts_with(start));
    kinds.retain(|kind| kind.name == "nothing" || is_wanted(kind.name));
    kinds
}

impl Watched {
    fn new(ground: &Ground, kind: Kind, number: usize) -> Watched {
        let (container, pid) = container::container(ground);
        settle(ground, &pid, "reno");
        let is_before = kind.name.starts_with("before");
        let control = format!("{SCRATCH}/control-{number}.sock");
        let mut relay = ground.user(if is_before { BEFORE } else { SUBJECT });
        relay.arg("attach");
        if !is_before {
            relay.args(["--control", &control]).args(&kind.options);
        }
        relay.args([&pid, "tap0"]);
        let relay = start(relay);
        wait_for_route(ground, &pid, &relay);
        let watcher = kind.watcher.split_first().map(|(verb, words)| {
            let mut watcher = ground.user("sh");
            // What it shows is for nobody.
            let words = words.join(" ");
            watcher.args([
                "-c",
                &format!("exec {SUBJECT} {verb} {words} --control {control} > {SCRATCH}/shown-{number} 2>&1"),
            ]);
            start(watcher)
        });
        Watched { kind, pid, relay, _watcher: watcher, _container: container }
    }

    fn processor_seconds(&self) -> f64 {
        processor_seconds_of(self.relay.pid())
    }

    fn iperf(&self, ground: &Ground, direction: Direction) -> (f64, f64) {
        let mut server = ground.root("iperf3");
        server.args(["--server", "--one-off", "--forceflush", "--bind", &WORLD4.to_string()]);
        let mut server = ground.in_world(|| start(server));
        server.wait_for(Stream::Out, "Server listening");
        let reverse = if direction == Direction::Down { "--reverse" } else { "" };
        let words = format!("iperf3 --client {WORLD4} --time {} --json {reverse}", seconds());
        let before = self.processor_seconds();
        let arrived = arrived(start(inside(ground, &self.pid, &words)).finish(SOON));
        (arrived.gigabits_per_second, (self.processor_seconds() - before) / arrived.gigabytes)
    }

    fn connects(&self, ground: &Ground) -> (f64, f64) {
        let words = format!("exec {LOAD} connects {WORLD4}:{ECHO_PORT} {}", seconds());
        let before = self.processor_seconds();
        let said = run(inside(ground, &self.pid, &words)).expect_success().stdout;
        let rate: f64 = said.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a rate");
        let spent = self.processor_seconds() - before;
        (rate, spent * 1e6 / (rate * f64::from(seconds())))
    }
}

fn seconds() -> u32 {
    setting("OBSERVERS_SECONDS", 1)
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if env::current_exe().is_ok_and(|path| path == Path::new(LOAD)) {
        if let Err(error) = load::run(&words) {
            eprintln!("{words:?}: {error}");
            std::process::exit(1);
        }
        return;
    }
    if !is_sealed() {
        let status = seal::<&str>(&[]).status().expect("setpriv and unshare (util-linux) start");
        std::process::exit(status.code().unwrap_or(1));
    }
    let ground = Ground::build();
    ground.needs(&["iperf3"]);
    fs::copy(env::current_exe().expect("a path"), LOAD).expect("the scratch directory is writable");
    if let Some(before) = env::var_os("OBSERVERS_BEFORE") {
        fs::copy(&before, BEFORE).unwrap_or_else(|error| panic!("{before:?}: {error}"));
    }
    ground::sysctl("net/ipv4/ip_local_port_range", "16384 65535");
    ground::sysctl("net/ipv4/tcp_tw_reuse", "1");
    measure(&ground);
}

fn measure(ground: &Ground) {
    let mut echo = ground.root(LOAD);
    echo.args(["echo", &format!("{WORLD4}:{ECHO_PORT}")]);
    let mut echo = ground.in_world(|| start(echo));
    echo.wait_for(Stream::Out, "ready");
    let watched: Vec<Watched> =
        kinds().into_iter().enumerate().map(|(number, kind)| Watched::new(ground, kind, number)).collect();
    thread::sleep(Duration::from_millis(500));
    let is_over = AtomicBool::new(false);
    let columns = ["Gbit/s up", "CPU s/GB", "Gbit/s down", "CPU s/GB", "connects/s", "CPU µs each"];
    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    thread::scope(|scope| {
        if watched.iter().any(|watched| watched.kind.name.starts_with("metrics")) {
            scope.spawn(|| scrape(&is_over));
        }
        for round in 0..setting("OBSERVERS_ROUNDS", 3) {
            for (column, what) in ["up", "down", "connects"].into_iter().enumerate() {
                eprintln!("round {}: {what}", round + 1);
                for (row, watched) in watched.iter().enumerate() {
                    let (rate, cost) = match column {
                        0 => watched.iperf(ground, Direction::Up),
                        1 => watched.iperf(ground, Direction::Down),
                        _ => watched.connects(ground),
                    };
                    figures.entry((row, 2 * column)).or_default().push(rate);
                    figures.entry((row, 2 * column + 1)).or_default().push(cost);
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("| observer | {} |", columns.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for (row, watched) in watched.iter().enumerate() {
        let cells: Vec<String> = (0..columns.len())
            .map(|column| {
                let (ours, plain) = (&figures[&(row, column)], &figures[&(0, column)]);
                let ratios: Vec<f64> = ours.iter().zip(plain).map(|(ours, plain)| ours / plain).collect();
                let value = median(ours);
                let digits = if value >= 100.0 { 0 } else { 2 };
                if row == 0 {
                    format!("{value:.digits$}")
                } else {
                    let (lowest, highest) = (
                        ratios.iter().copied().fold(f64::INFINITY, f64::min),
                        ratios.iter().copied().fold(0.0, f64::max),
                    );
                    format!("{value:.digits$}: {:.2} ({lowest:.2} to {highest:.2})", median(&ratios))
                }
            })
            .collect();
        println!("| {} | {} |", watched.kind.name, cells.join(" | "));
    }
}

/// Asks for the metrics each second, as Prometheus would at its most eager.
fn scrape(is_over: &AtomicBool) {
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next += Duration::from_secs(1);
            let mut client =
                TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS_PORT)).expect("metrics are served");
            client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
            let mut page = String::new();
            client.read_to_string(&mut page).expect("a page");
            assert!(page.contains("netferry_"), "{page}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
