//! TCP over paths that lose and delay, with senders that probe for bandwidth, and with ends that vanish.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, processes, sealed, sysctl};
use crate::pattern::crc_of_body;
use crate::process::{Running, SOON, Stream, start};
use crate::servers::{http, serve_and_report, write_body};

/// Where the bad path leads.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const CHECK: &str =
    "import sys, zlib; data = sys.stdin.buffer.read(); print(len(data), '%08x' % zlib.crc32(data))";

/// Uploads and downloads `len` bytes at the same time after `prepare`, and compares checksums.
fn transfer_both_ways(ground: &Ground, world: IpAddr, len: u64, prepare: &str, options: &[&str]) -> Duration {
    ground.needs(&["curl", "iptables"]);
    http(ground.world_listener(world, 8080));
    let file = Path::new(SCRATCH).join("body");
    write_body(File::create(&file).unwrap(), len).unwrap();
    let base = format!("http://{}", SocketAddr::new(world, 8080));
    let script = format!(
        "{prepare}\n\
         curl -sS --max-time 90 -T {} {base}/upload > /tmp/up &\n\
         curl -sS --max-time 90 {base}/bytes/{len} | {PYTHON} -c \"$CHECK\"\n\
         wait; cat /tmp/up",
        file.display()
    );
    let check = format!("CHECK={CHECK}");
    let command = [&["run"], options, &["--", "env", &check, "sh", "-ec", &script]].concat();
    let outcome = start(ground.netferry(&command)).finish(Duration::from_secs(100)).expect_success();
    let wanted = format!("{len} {:08x}\n", crc_of_body(len));
    assert_eq!(outcome.stdout, wanted.repeat(2), "down, then up");
    println!("{len} bytes each way in {:.2} s", outcome.took.as_secs_f64());
    outcome.took
}

/// Every hundredth packet of the container's link is lost, by chance, either way.
fn lossy(tables: &str) -> String {
    let lose = "-m statistic --mode random --probability 0.01 -j DROP";
    format!("{tables} -A INPUT -p tcp {lose}\n{tables} -A OUTPUT -p tcp {lose}")
}

#[test]
fn transfers_both_ways_complete_over_a_link_that_loses_one_in_a_hundred() {
    sealed(|ground| {
        transfer_both_ways(ground, WORLD4.into(), 32 << 20, &lossy("iptables"), &[]);
    });
}

#[test]
fn transfers_both_ways_complete_over_a_lossy_link_without_offloads() {
    sealed(|ground| {
        transfer_both_ways(ground, WORLD6.into(), 32 << 20, &lossy("ip6tables"), &["--no-offload"]);
    });
}

/// The path of `bad_path.py`.
fn bad_path(ground: &Ground) -> Running {
    let world = ground.in_world(|| File::open("/proc/thread-self/ns/net").unwrap());
    let path = format!("/proc/{}/fd/{}", std::process::id(), world.as_raw_fd());
    let mut command = ground.root(PYTHON);
    command.args(["-c", include_str!("bad_path.py"), &path]);
    let mut running = start(command);
    running.wait_for(Stream::Out, "ready");
    running
}

#[test]
fn transfers_both_ways_complete_over_a_far_and_lossy_path() {
    sealed(|ground| {
        let path = bad_path(ground);
        let took = transfer_both_ways(ground, FAR_AWAY.into(), 2 << 20, "", &[]);
        let lost = path.so_far(Stream::Out).lines().filter(|line| line.starts_with("lost")).count();
        assert!(lost >= 10, "the path was not bad: {lost} lost");
        assert!(took > Duration::from_millis(500), "the path was not far: {took:?}");
        println!("{lost} packets lost");
    });
}

#[test]
fn every_congestion_control_of_the_containers_kernel_sends_without_a_stall() {
    sealed(|ground| {
        let received = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream| {
            let (mut total, mut longest, mut last) = (0u64, Duration::ZERO, Instant::now());
            let mut buffer = vec![0; 1 << 17];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                longest = longest.max(last.elapsed());
                (total, last) = (total + count as u64, Instant::now());
            }
            (total, longest)
        });
        // BBR and CUBIC where the kernel has them, whatever it has in any case.
        let script = "\
import socket, sys
for name in open('/proc/sys/net/ipv4/tcp_available_congestion_control').read().split():
    s = socket.socket(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    s.connect((sys.argv[1], 7000))
    for _ in range(64): s.sendall(bytes(1 << 20))
    s.close(); print('used', name)";
        let arguments = ["run", "--", PYTHON, "-c", script, &WORLD4.to_string()];
        // A busy machine may leave one waiting now and then, hardly three times.
        let mut stalls = Vec::new();
        while stalls.len() < 3 {
            let outcome = start(ground.netferry(&arguments)).finish(Duration::from_secs(60)).expect_success();
            let used: Vec<_> = outcome.stdout.lines().filter_map(|line| line.strip_prefix("used ")).collect();
            assert!(!used.is_empty(), "{outcome}");
            let mut stalled = Vec::new();
            for name in used {
                let (total, longest) = received.recv_timeout(SOON).unwrap();
                println!("{name}: {total} bytes, longest gap {longest:?}");
                assert_eq!(total, 64 << 20, "{name}");
                if longest >= Duration::from_millis(900) {
                    stalled.push(format!("{name} for {longest:?}"));
                }
            }
            if stalled.is_empty() {
                return;
            }
            stalls.push(stalled);
        }
        panic!("senders stalled: {stalls:?}");
    });
}

#[test]
fn a_server_that_vanishes_amid_an_upload_resets_the_container() {
    sealed(|ground| {
        ground.needs(&["iptables"]);
        // The host's kernel gives up after a few seconds instead of a quarter of an hour.
        sysctl("net/ipv4/tcp_retries2", "3");
        let begun = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream| {
            stream.read_exact(&mut [0; 100_000]).unwrap();
            stream
        });
        let script = "\
import errno, socket, sys
s = socket.create_connection((sys.argv[1], 7000), timeout=40)
try:
    while True: s.sendall(bytes(1 << 16))
except OSError as error: print(errno.errorcode.get(error.errno, error))";
        let client = start(ground.netferry(&["run", "--", PYTHON, "-c", script, &WORLD4.to_string()]));
        let _stream = begun.recv_timeout(SOON).unwrap();
        ground.in_world(|| {
            let drop = ["-I", "INPUT", "-j", "DROP"];
            assert!(Command::new("iptables").args(drop).status().unwrap().success());
        });
        let outcome = client.finish(Duration::from_secs(45)).expect_success();
        assert_eq!(outcome.stdout, "ECONNRESET\n");
    });
}

#[test]
fn a_container_killed_amid_an_upload_leaves_the_server_an_end() {
    sealed(|ground| {
        let (told, begun) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let ends = serve_and_report(ground.world_listener(WORLD4, 7000), move |mut stream| {
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut buffer = vec![0; 1 << 16];
            let mut total = 0u64;
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => return Ok(total),
                    Ok(count) => total += count as u64,
                    Err(error) => return Err(error.kind()),
                }
                if total > 1 << 20 {
                    let _ = told.lock().unwrap().send(());
                }
            }
        });
        let script = "\
import socket, sys
s = socket.create_connection((sys.argv[1], 7000))
while True: s.sendall(bytes(1 << 16))";
        let client = start(ground.netferry(&["run", "--", PYTHON, "-c", script, &WORLD4.to_string()]));
        begun.recv_timeout(SOON).unwrap();
        let sender = processes().into_iter().find(|process| process.contains("(python3"));
        let sender = sender.and_then(|text| text.split(' ').next()?.parse().ok()).expect("the sender runs");
        kill(Pid::from_raw(sender), Signal::SIGKILL).unwrap();
        // Its kernel closes the connection, or resets it; either comes through, and soon.
        let end = ends.recv_timeout(SOON).unwrap();
        assert!(matches!(end, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
        client.finish(SOON).expect_code(137);
    });
}
