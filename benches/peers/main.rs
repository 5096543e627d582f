//! netferry, its rootless peers and the kernel's own NAT side by side, on one sealed ground.
//!
//! `cargo bench --bench peers`. Each subject serves a container of its own; all of them stand at the same time, and
//! take turns in every measure of every round, so that a machine that changes its speed changes it for all.
//! Servers and clients outside stand in the world, beyond the host's link, since only what is forwarded is
//! masqueraded. Congestion control is reno and buffers are the kernel's own limits, for steady figures. Only ratios
//! are claims.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `PEERS_SECONDS` | length of one run, below 10 | 2 |
//! | `PEERS_ROUNDS` | runs behind each median | 3 |
//! | `PEERS_ONLY` | groups of measures | `tcp published udp latency splice start scale` |
//! | `PEERS_MTU` | MTUs, separated by spaces | `1500 9000 65520` |
//! | `PEERS_STREAMS` | parallel connections | `1 4 16` |
//! | `PEERS_SCALE` | numbers of idle connections | `1 100 10000 100000` |
//! | `PEERS_RELAYS` | who takes part | `netferry slirp4netns pasta kernel` |
//! | `PEERS_SLIRP4NETNS`, `PEERS_PASTA` | the peers | as found |
//! | `PEERS_OUT` | directory for peers.md, peers.json, peers.svg; not below /tmp, which the ground has for itself | `target/peers` |
//! | `NETFERRY_BIN` | ours | as built |

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

mod container;
mod figures;
mod goals;
#[path = "../../tests/netns/ground.rs"]
#[allow(dead_code)]
mod ground;
mod load;
mod plan;
#[path = "../../tests/netns/process.rs"]
#[allow(dead_code)]
mod process;
mod report;
mod subject;

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use container::{CONGESTION, Direction, setting, usual_congestion};
use figures::{Figures, median, range};
use ground::{Ground, is_sealed, seal};
use report::Machine;
use subject::Subject;

/// Descriptors that 100 000 connections take, on either side of a relay.
const DESCRIPTORS: u64 = 200_000;
/// What else a process opens.
const OTHER_DESCRIPTORS: u32 = 500;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if env::current_exe().is_ok_and(|path| path == Path::new(plan::LOAD)) {
        if let Err(error) = load::run(&words) {
            eprintln!("{words:?}: {error}");
            std::process::exit(1);
        }
        return;
    }
    if !is_sealed() {
        // A relay has one descriptor for each connection. Without the privilege to raise the limit, what it is.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_err() {
            setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
        }
        let status = seal::<&str>(&[]).status().expect("setpriv and unshare (util-linux) start");
        std::process::exit(status.code().unwrap_or(1));
    }
    let ground = Ground::build();
    ground.needs(&["iperf3"]);
    fs::copy(env::current_exe().expect("a path"), plan::LOAD).expect("the scratch directory is writable");
    // Ports of very many connections, and those of ended ones soon again.
    ground::sysctl("net/ipv4/ip_local_port_range", "16384 65535");
    ground::sysctl("net/ipv4/tcp_tw_reuse", "1");
    run(&ground);
}

fn run(ground: &Ground) {
    let listed = |name: &str, default: &str| -> Vec<String> {
        let text = env::var(name).unwrap_or_else(|_| default.to_owned());
        text.split_whitespace().map(str::to_owned).collect()
    };
    let numbers = |name: &str, default: &str| -> Vec<u32> {
        listed(name, default).iter().map(|text| text.parse().expect("a number")).collect()
    };
    let groups = listed("PEERS_ONLY", "tcp published udp latency splice start scale");
    let wanted = |group: &str| groups.iter().any(|name| name == group);
    let taking_part = listed("PEERS_RELAYS", "netferry slirp4netns pasta kernel");
    let subjects: Vec<Subject> = subject::ALL
        .into_iter()
        .filter(|subject| taking_part.iter().any(|name| name == subject.name()))
        .filter(|subject| {
            let installed = subject.program().is_some();
            if !installed {
                println!("{} is not installed: left out", subject.name());
            }
            installed
        })
        .collect();
    if subjects.contains(&Subject::Kernel) {
        subject::prepare_kernel(ground);
    }

    let (rounds, mut figures, mut steadiness) = (setting("PEERS_ROUNDS", 3), Figures::default(), Vec::new());
    for mtu in numbers("PEERS_MTU", "1500 9000 65520") {
        let measures = plan::measures(mtu, &numbers("PEERS_STREAMS", "1 4 16"), wanted);
        if measures.is_empty() {
            continue;
        }
        for round in 0..rounds {
            let served: Vec<_> = subjects.iter().map(|subject| subject.serve(ground, mtu)).collect();
            for measure in &measures {
                eprintln!("round {}: {measure}", round + 1);
                steadiness.push(same_work());
                for served in &served {
                    measure.run(ground, served, &mut figures);
                }
            }
        }
    }
    if wanted("splice") {
        splice(ground, &subjects, rounds, &mut figures);
    }
    if wanted("start") {
        start(ground, &subjects, &mut figures);
    }
    if wanted("scale") {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let most = u32::try_from(descriptors).unwrap_or(u32::MAX) - OTHER_DESCRIPTORS;
        let counts = numbers("PEERS_SCALE", "1 100 10000 100000");
        if counts.iter().any(|count| *count > most) {
            println!(
                "a process may have {descriptors} descriptors here, so {most} connections are the most\n"
            );
        }
        for round in 0..rounds {
            for &subject in &subjects {
                eprintln!("round {}: very many connections, {}", round + 1, subject.name());
                steadiness.push(same_work());
                plan::scale(ground, subject, &counts, most, &mut figures);
            }
        }
    }

    let unsteadiness = range(&steadiness).map_or(0.0, |_| unsteadiness(&steadiness));
    let machine = machine(&subjects, rounds, unsteadiness);
    print!("{}", report::markdown(&machine, &figures));
    let directory = env::var("PEERS_OUT").unwrap_or_else(|_| "target/peers".to_owned());
    report::write(&machine, &figures, &PathBuf::from(&directory)).expect("the report can be written");
    println!("\nwritten to {directory}: peers.md, peers.json, peers.svg");
}

/// With the congestion control that this machine gives to new namespaces, and with reno.
fn splice(ground: &Ground, subjects: &[Subject], rounds: u32, figures: &mut Figures) {
    let mut congestions = vec![usual_congestion(ground), "reno".to_owned()];
    congestions.dedup();
    for congestion in congestions {
        fs::write(CONGESTION, &congestion).expect("the namespace is ours");
        for round in 0..rounds {
            eprintln!("round {}: spliced ports, {congestion}", round + 1);
            let served: Vec<_> =
                subjects.iter().filter_map(|subject| subject.serve_spliced(ground, &congestion)).collect();
            for direction in [Direction::Up, Direction::Down] {
                for served in &served {
                    plan::spliced(ground, served, &congestion, direction, figures);
                }
            }
        }
    }
}

/// Many starts, since one is short.
fn start(ground: &Ground, subjects: &[Subject], figures: &mut Figures) {
    const STARTS: u32 = 15;
    eprintln!("{STARTS} starts");
    for _ in 0..STARTS {
        for (name, confined) in [("start to ready", false), ("start to ready, confined", true)] {
            for &subject in subjects {
                if let Some(seconds) = subject.time_to_ready(ground, confined) {
                    figures.add(name, "ms", subject, seconds * 1e3);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Seconds that the same computation takes now.
fn same_work() -> f64 {
    let began = Instant::now();
    let mut state = 1_u64;
    for _ in 0..20_000_000 {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    began.elapsed().as_secs_f64()
}

/// The inner nine tenths of the times, as a share of their median.
fn unsteadiness(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let cut = times.len() / 20;
    let inner = &times[cut..times.len() - cut];
    let middle = median(inner).expect("there are times");
    (inner[inner.len() - 1] - inner[0]) / middle
}

fn machine(subjects: &[Subject], rounds: u32, unsteadiness: f64) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    Machine {
        processor: processor.map_or("unknown", |text| text.trim_start_matches([' ', '\t', ':'])).to_owned(),
        processors: thread::available_parallelism().map_or(1, std::num::NonZero::get),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        versions: subjects.iter().map(|subject| (*subject, subject.version())).collect(),
        rounds,
        seconds: setting("PEERS_SECONDS", 2),
        unsteadiness,
    }
}
