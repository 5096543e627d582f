//! Containers for the relays, what their processes use, and figures out of iperf3.

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, TCP_BUFFERS};
use crate::process::{Outcome, Running, SOON, Stream, run, start};

/// Clock ticks of `/proc/PID/stat`; the kernel's interface to programs has had no other value for long.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a page on the machines this is for.
const PAGE_BYTES: u64 = 4096;

/// The setting of the namespace that reads or writes it.
pub const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the container.
    Up,
    /// Into the container.
    Down,
}

/// A number from the environment.
pub fn setting(name: &str, default: u32) -> u32 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A namespace of the user's without a network, and the PID that leads to it.
pub fn container(ground: &Ground) -> (Running, String) {
    let mut holder = ground.user("unshare");
    holder.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 7200"]);
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

/// User and system time of this process and those it started, in seconds.
pub fn processor_seconds_of(pid: i32) -> f64 {
    // proc(5): utime and stime are fields 14 and 15, the state is field 3.
    let ticks =
        |stat: &[String]| stat[11..=12].iter().filter_map(|text| text.parse::<f64>().ok()).sum::<f64>();
    family(pid).iter().map(|member| ticks(member)).sum::<f64>() / TICKS_PER_SECOND
}

/// Resident memory of this process and those it started, in bytes.
pub fn resident_bytes_of(pid: i32) -> u64 {
    // proc(5): rss, in pages, is field 24.
    family(pid).iter().filter_map(|member| member[21].parse::<u64>().ok()).sum::<u64>() * PAGE_BYTES
}

/// The fields of /proc/PID/stat from the state on, of this process and all below it.
fn family(pid: i32) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        let Some(pid) = head.split(' ').next().and_then(|text| text.parse::<i32>().ok()) else { continue };
        all.push((pid, fields.split_whitespace().map(str::to_owned).collect::<Vec<_>>()));
    }
    let mut members = vec![pid];
    let mut next = 0;
    while let Some(&parent) = members.get(next) {
        let parent = parent.to_string();
        members.extend(all.iter().filter(|(_, fields)| fields[1] == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    all.into_iter().filter(|(pid, _)| members.contains(pid)).map(|(_, fields)| fields).collect()
}

/// What arrived, as an iperf3 client with `--json` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub gigabits_per_second: f64,
    pub gigabytes: f64,
}

/// See [`Arrived`].
pub fn arrived(outcome: Outcome) -> Arrived {
    let outcome = outcome.expect_success();
    let said: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("iperf3 writes JSON");
    let received = &said["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().expect("iperf3 reports what was received");
    Arrived { gigabits_per_second: number("bits_per_second") / 1e9, gigabytes: number("bytes") / 1e9 }
}
