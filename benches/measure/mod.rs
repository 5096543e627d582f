//! What the benches share: a container for a relay, and figures out of iperf3.

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, TCP_BUFFERS, is_sealed, seal};
use crate::process::{Outcome, Running, SOON, Stream, run, start};

/// Clock ticks of `/proc/PID/stat`; the kernel's interface to programs has had no other value for long.
const TICKS_PER_SECOND: f64 = 100.0;

/// The setting of the namespace that reads or writes it.
pub const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the container.
    Up,
    /// Into the container.
    Down,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub gigabits_per_second: f64,
    pub relay_seconds_per_gigabyte: f64,
}

/// The ground, once this process stands on it: the first one starts itself again there and exits as that does.
pub fn ground() -> Ground {
    if !is_sealed() {
        let status = seal::<&str>(&[]).status().expect("setpriv and unshare (util-linux) start");
        std::process::exit(status.code().unwrap_or(1));
    }
    let ground = Ground::build();
    ground.needs(&["iperf3"]);
    ground
}

/// A number from the environment.
pub fn setting(name: &str, default: u32) -> u32 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A namespace of the user's without a network, and the PID that leads to it.
pub fn container(ground: &Ground) -> (Running, String) {
    let mut holder = ground.user("unshare");
    holder.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 600"]);
    let mut container = start(holder);
    container.wait_for(Stream::Out, "up");
    let pid = container.pid().to_string();
    (container, pid)
}

/// Gives the container the kernel's own buffers and this congestion control. To be called before the relay starts: it may
/// open sockets there at once.
pub fn settle(ground: &Ground, pid: &str, congestion: &str) {
    let mut settings = format!("echo {congestion} > {CONGESTION}");
    for (name, value) in TCP_BUFFERS {
        settings += &format!(" && echo {value} > /proc/sys/{name}");
    }
    run(inside(ground, pid, &settings)).expect_success();
}

/// The congestion control that new namespaces have on this machine.
#[allow(dead_code)]
pub fn usual_congestion(ground: &Ground) -> String {
    let (_container, pid) = container(ground);
    run(inside(ground, &pid, &format!("cat {CONGESTION}"))).expect_success().stdout.trim().to_owned()
}

/// `script`, to be run in the container.
pub fn inside(ground: &Ground, pid: &str, script: &str) -> Command {
    let mut command = ground.user("nsenter");
    command.args(["--target", pid, "--user", "--net", "--preserve-credentials", "sh", "-c", script]);
    command
}

/// Waits until `relay` has set up the container.
pub fn wait_for_route(ground: &Ground, pid: &str, relay: &Running) {
    let deadline = Instant::now() + SOON;
    while !run(inside(ground, pid, "ip route show default")).stdout.contains("tap0") {
        assert!(Instant::now() < deadline, "no route appeared:\n{}", relay.so_far(Stream::Err));
        thread::sleep(Duration::from_millis(20));
    }
    // Whatever follows its configuration (router advertisements, sandboxing) is not to be measured.
    thread::sleep(Duration::from_millis(200));
}

/// User and system time of all processes whose name begins with one of `names`.
pub fn processor_seconds(names: &[&str]) -> f64 {
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        if !names.iter().any(|wanted| name.starts_with(wanted)) {
            continue;
        }
        // proc(5): utime and stime are fields 14 and 15, the state is field 3.
        let fields: Vec<_> = fields.split(' ').collect();
        ticks += fields[11..=12].iter().filter_map(|text| text.parse::<f64>().ok()).sum::<f64>();
    }
    ticks / TICKS_PER_SECOND
}

/// The figures of an iperf3 client with `--json`, whose relay has used `processor_seconds`.
pub fn sample(outcome: Outcome, processor_seconds: f64) -> Sample {
    let outcome = outcome.expect_success();
    let received = outcome.stdout.split("\"sum_received\"").nth(1).expect("iperf3 reports what was received");
    let gigabytes = number_after(received, "\"bytes\":") / 1e9;
    Sample {
        gigabits_per_second: number_after(received, "\"bits_per_second\":") / 1e9,
        relay_seconds_per_gigabyte: processor_seconds / gigabytes,
    }
}

/// Prints a table of the samples of each relay, and returns the medians of their speeds.
pub fn report(title: &str, relays: &[(&str, &[Sample])]) -> Vec<f64> {
    println!("\n| {title} | Gbit/s, median | min | max | relay cpu-s/GB |");
    println!("|---|---|---|---|---|");
    let row = |&(name, samples): &(&str, &[Sample])| {
        let speeds: Vec<_> = samples.iter().map(|sample| sample.gigabits_per_second).collect();
        let cost = median(samples.iter().map(|sample| sample.relay_seconds_per_gigabyte).collect());
        let lowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = speeds.iter().copied().fold(0.0, f64::max);
        let middle = median(speeds);
        println!("| {name} | {middle:.2} | {lowest:.2} | {highest:.2} | {cost:.2} |");
        middle
    };
    relays.iter().map(row).collect()
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
