//! A network of several containers beside root's bridge, on one sealed ground: `cargo bench --bench network`, as root.
//!
//! First throughput: the switch and the workers as the process of a network has them, in this process and unconfined; the
//! containers are namespaces, the other side of the world is one more. Both ways stand at the same time and take turns in every
//! measure of every round. Only ratios are claims. Then a crowd ([`crowd`]), with the program itself.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NETWORK_SECONDS` | length of one run | 2 |
//! | `NETWORK_ROUNDS` | runs behind each median | 3 |
//! | `NETWORK_MEMBERS` | containers of the second part; without it where they are 0 | 100 |
//! | `NETWORK_MEASURES` | how many measures of the first part | all |

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

mod crowd;
#[path = "../../tests/netns/ground.rs"]
#[allow(dead_code)]
mod ground;
mod lab;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ground::{Ground, HOST4, WORLD4, is_sealed, seal};
use lab::{Lab, Place};

const OURS: &str = "netferry";
const KERNEL: &str = "kernel bridge";

fn main() {
    if !is_sealed() {
        let status = seal::<&str>(&[]).status().expect("setpriv and unshare (util-linux) start");
        std::process::exit(status.code().unwrap_or(1));
    }
    let ground = Ground::build();
    ground.needs(&["iperf3", "iptables"]);
    if setting("NETWORK_MEASURES", usize::MAX) > 0 {
        throughput(&ground);
    }
    if setting("NETWORK_MEMBERS", 100) > 0 {
        crowd::crowd(&ground);
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Two containers on a network of ours, and two on root's bridge.
fn throughput(ground: &Ground) {
    let mut lab = Lab::new();
    let ours = [Place::new(), Place::new()];
    for (place, last) in ours.iter().zip(2..) {
        lab.connect(place, last);
    }
    let kernel = [Place::new(), Place::new()];
    bridge(&kernel);
    let _servers: Vec<Server> = ours.iter().chain(&kernel).map(Server::within).collect();
    let _outside = ground.in_world(|| Server::start(Command::new("iperf3")));
    let seconds = setting("NETWORK_SECONDS", 2).to_string();
    let outside = WORLD4.to_string();
    let measures: [(&str, [&str; 2], &[&str]); 7] = [
        ("container to container, 1 stream", ["172.17.0.3", "10.9.0.3"], &[]),
        ("container to the world, 1 stream", [&outside, &outside], &[]),
        ("container to container, 4 streams", ["172.17.0.3", "10.9.0.3"], &["-P", "4"]),
        ("container to container and back, 1 stream each", ["172.17.0.3", "10.9.0.3"], &["--bidir"]),
        ("container to container, IPv6, 1 stream", ["fd00:17::3", "fd09::3"], &[]),
        ("container to the world, 4 streams", [&outside, &outside], &["-P", "4"]),
        ("the world to a container, 1 stream", [&outside, &outside], &["-R"]),
    ];
    let mut figures: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    let mut processor: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for round in 0..setting("NETWORK_ROUNDS", 3) {
        for (at, (what, targets, words)) in
            measures.iter().enumerate().take(setting("NETWORK_MEASURES", usize::MAX))
        {
            eprintln!("round {}: {what}", round + 1);
            for (subject, places) in [&ours, &kernel].into_iter().enumerate() {
                let before = processor_seconds_of(std::process::id());
                let words = [&["-c", targets[subject], "-t", &seconds, "--json"], *words].concat();
                let gigabits = arrived(&places[0].output("iperf3", &words));
                figures.entry((at, subject)).or_default().push(gigabits);
                if subject == 0 {
                    let gigabytes = gigabits / 8.0 * seconds.parse::<f64>().unwrap();
                    processor
                        .entry(at)
                        .or_default()
                        .push((processor_seconds_of(std::process::id()) - before) / gigabytes);
                }
            }
        }
    }
    println!("| Gbit/s, MTU 1500 | {OURS} | {KERNEL} | ratio | our processor s/GB |\n|---|---|---|---|---|");
    for (at, (what, ..)) in measures.iter().enumerate().filter(|(at, _)| figures.contains_key(&(*at, 0))) {
        let [ours, kernel] = [0, 1].map(|subject| median(&figures[&(at, subject)]));
        let ratio = ours / kernel;
        println!("| {what} | {ours:.1} | {kernel:.1} | {ratio:.2} | {:.2} |", median(&processor[&at]));
    }
    println!();
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// What arrived, as an iperf3 client tells it, in Gbit/s.
fn arrived(output: &[u8]) -> f64 {
    let said: serde_json::Value = serde_json::from_slice(output).expect("iperf3 writes JSON");
    let end = &said["end"];
    let number = |name: &str| end[name]["bits_per_second"].as_f64();
    let there = number("sum_received").unwrap_or_else(|| panic!("iperf3 reports what was received: {said}"));
    (there + number("sum_received_bidir_reverse").unwrap_or(0.0)) / 1e9
}

struct Server(Child);

impl Server {
    fn within(place: &Place) -> Server {
        Server::start(place.command("iperf3"))
    }

    fn start(mut command: Command) -> Server {
        let child = command.arg("-s").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        std::thread::sleep(Duration::from_millis(300));
        Server(child.expect("iperf3 starts"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Root's bridge, with MASQUERADE.
fn bridge(places: &[Place]) {
    let mut script = "echo 1 > /proc/sys/net/ipv4/ip_forward; ip link add br9 type bridge; \
                      ip address add 10.9.0.1/24 dev br9; ip address add fd09::1/64 dev br9 nodad; ip link set br9 up; \
                      iptables -t nat -A POSTROUTING -s 10.9.0.0/24 ! -o br9 -j MASQUERADE; "
        .to_owned();
    for (place, last) in places.iter().zip(2..) {
        let pid = place.pid();
        script += &format!(
            "ip link add ve{last} type veth peer name eth0 netns {pid}; ip link set ve{last} master br9 up; "
        );
    }
    assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    for (place, last) in places.iter().zip(2..) {
        place.run(&format!(
            "ip address add 10.9.0.{last}/24 dev eth0; ip address add fd09::{last}/64 dev eth0 nodad; \
             ip link set eth0 up; ip route add default via 10.9.0.1"
        ));
    }
    let reached = format!("ping -c 1 -W 10 {HOST4} > /dev/null");
    places.iter().for_each(|place| place.run(&reached));
}

/// User and system time of a process, in seconds.
fn processor_seconds_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // proc(5): utime and stime are fields 14 and 15, the state is field 3; a hundred ticks are a second.
    fields[11..=12].iter().map(|text| text.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}
