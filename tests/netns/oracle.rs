//! An independent judge: everything that the container is sent in many thousand flows, read by tshark, which knows
//! nothing of us. No packet is malformed, no checksum wrong, no dissector sees an error.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, sealed};
use crate::process::{Stream, run, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

/// Connections of clients in the world to a published port.
const CLIENTS: usize = 200;

/// Flows of every kind, so many as its argument says in all; a line for each kind, and a server for the clients.
const FLOWS: &str = r#"
import os, random, socket, struct, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
ALL, PCAP = int(sys.argv[1]), sys.argv[2]
link = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line and "lo:" not in line][0]
dump = subprocess.Popen(["tcpdump", "-i", link, "-Z", "root", "-Q", "in", "-B", "65536", "-s", "0", "-w", PCAP], stderr=subprocess.PIPE, text=True)
while "listening on" not in dump.stderr.readline(): pass
four, six = "203.0.113.2", "2001:db8:1::2"
resolvers = [line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver")]
assert len(resolvers) == 2, resolvers
def exact(s, count):
    got = 0
    while got < count:
        part = s.recv(65536)
        if not part: return got
        got += len(part)
    return got
def stream(n, size):
    to = (four, 7) if n % 2 else (six, 7)
    with socket.create_connection(to, timeout=20) as s:
        sender = threading.Thread(target=s.sendall, args=(bytes(size),)) if size > 60000 else None
        if sender: sender.start()
        else: s.sendall(bytes(size))
        assert exact(s, size) == size
        if sender: sender.join()
        if n % 3 == 0: s.shutdown(socket.SHUT_WR); assert s.recv(1) == b""
        if n % 3 == 1: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def short(n): stream(n, random.Random(n).randrange(4000))
def long(n): stream(n, 300_000)
def datagram(n):
    size = random.Random(n).choice([0, 1, 40, 512, 1200, 1472, 1473, 3000, 9000, 30000])
    with socket.socket(socket.AF_INET if n % 2 else socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.connect((four, 7) if n % 2 else (six, 7))
        for _ in range(3):
            s.send(bytes(size))
            try:
                assert len(s.recv(65536)) == size
                return
            except TimeoutError: pass
def query(n):
    name = random.Random(n).choice([b"\3www\4test\0", b"\3who\4test\0", b"\4none\4test\0"])
    message = struct.pack("!HHHHHH", n & 65535, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", random.Random(n).choice([1, 28, 16]), 1)
    if n % 20 == 0:
        with socket.create_connection(("10.0.2.3", 53), timeout=10) as s:
            s.sendall(struct.pack("!H", len(message)) + message)
            assert exact(s, 2) >= 2
        return
    resolver = resolvers[n % 2]
    with socket.socket(socket.AF_INET6 if ":" in resolver else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((resolver, 53))
        s.send(message)
        assert s.recv(4096)[:2] == message[:2]
def refused(n):
    try:
        socket.create_connection((four if n % 2 else six, 9), timeout=5).close()
        raise SystemExit("not refused")
    except ConnectionRefusedError: pass
def closed(n):
    with socket.socket(socket.AF_INET if n % 2 else socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)
        s.connect((four if n % 2 else six, 9))
        s.send(bytes(n % 200))
        try: s.recv(10)
        except OSError: pass
def unreachable(n):
    try: socket.create_connection(("198.18.0.1" if n % 2 else "2001:db8:dead::1", 80), timeout=5).close()
    except OSError: pass
def ping(n):
    v6 = n % 2 == 0
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) if v6 else socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    body = struct.pack("!HH", 1000 + n, 1) + bytes(n % 1400)
    message = struct.pack("!BBH", 128 if v6 else 8, 0, 0) + body
    if not v6:
        even = message + b"\0" * (len(message) % 2)
        total = sum(struct.unpack("!%dH" % (len(even) // 2), even))
        while total >> 16: total = (total & 0xffff) + (total >> 16)
        message = message[:2] + struct.pack("!H", ~total & 0xffff) + message[4:]
    s.sendto(message, (six if v6 else four, 0))
    time.sleep(0.002)
    s.close()
listener = socket.create_server(("0.0.0.0", 80), backlog=512)
def serve():
    while True:
        client, _ = listener.accept()
        client.sendall(client.recv(1000))
        client.close()
threading.Thread(target=serve, daemon=True).start()
print("serving", flush=True)
shares = [(short, 36), (long, 1), (datagram, 28), (query, 15), (refused, 8), (closed, 4), (unreachable, 3), (ping, 5)]
for what, share in shares:
    count = ALL * share // 100
    if what is long: count = min(count, 40)
    if what is short: count = ALL - sum(ALL * other // 100 for w, other in shares if w not in (short, long)) - min(ALL // 100, 40)
    with ThreadPoolExecutor(24) as pool:
        for done in pool.map(what, range(count)): pass
    print(what.__name__, count, flush=True)
sys.stdin.readline()
time.sleep(0.3)
dump.terminate()
dump.wait()
print("captured", flush=True)
"#;

/// What tshark finds wrong with a capture.
fn complaints(ground: &Ground, capture: &str, checks_transport: bool) -> String {
    let filter = match checks_transport {
        true => format!("{MALFORMED} || {TRANSPORT_CHECKSUM}"),
        false => MALFORMED.to_owned(),
    };
    let mut tshark = judge(ground, capture, checks_transport);
    tshark.args([
        "-Y",
        &filter,
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "_ws.col.Protocol",
        "-e",
        "_ws.col.Info",
    ]);
    tshark.args(["-e", "_ws.expert.message"]);
    run(tshark).expect_success().stdout
}

fn judge(ground: &Ground, capture: &str, checks_transport: bool) -> Command {
    let mut tshark = ground.root("tshark");
    tshark.args(["-n", "-r", capture, "-o", "ip.check_checksum:TRUE"]);
    for transport in ["tcp", "udp"] {
        tshark.args(["-o", &format!("{transport}.check_checksum:{checks_transport}")]);
    }
    tshark
}

/// Malformed, or an error in a dissector's eyes.
const MALFORMED: &str = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0";
const TRANSPORT_CHECKSUM: &str = "tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || \
     icmpv6.checksum.status == 0";

fn drive(ground: &Ground, flows: usize, options: &[&str], checks_transport: bool) {
    ground.needs(&["tshark", "tcpdump"]);
    ground.allow_ping();
    ground.world_resolver(WORLD4, "first");
    for world in [WORLD4.into(), WORLD6.into()] {
        let world: std::net::IpAddr = world;
        serve_streams(ground.world_listener(world, 7), echo);
        echo_datagrams(ground.world_datagrams(world, 7), false);
    }
    let capture = format!("{SCRATCH}/capture");
    let script = format!("{SCRATCH}/flows.py");
    fs::write(&script, FLOWS).expect("scratch");
    let count = flows.to_string();
    let arguments = [&["run", "-p", "8080:80"][..], options, &["--", "sh", "-c"]].concat();
    let mut command = ground.netferry(&arguments);
    let go = format!("{SCRATCH}/go");
    assert!(Command::new("mkfifo").args(["-m", "666", &go]).status().expect("mkfifo").success());
    command.arg(format!("exec {PYTHON} {script} {count} {capture} < {go}"));
    let mut running = start(command);
    let told = fs::OpenOptions::new().write(true).open(&go).expect("a pipe");
    running.wait_for(Stream::Out, "serving");
    for _ in 0..CLIENTS {
        let mut stream = ground.dial_from_world(crate::ground::HOST4, 8080).expect("a published port");
        std::io::Write::write_all(&mut stream, b"a question").expect("the container reads it");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("the container answers");
        assert_eq!(answer, "a question");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while !running.so_far(Stream::Out).contains("ping ") {
        assert!(
            Instant::now() < deadline,
            "{}\n{}",
            running.so_far(Stream::Out),
            running.so_far(Stream::Err)
        );
        thread::sleep(Duration::from_millis(20));
    }
    drop(told);
    let outcome = running.finish(Duration::from_secs(20)).expect_success().expect_stdout("captured");
    let kinds = outcome.stdout.lines().filter_map(|line| line.split_once(' ')?.1.parse::<usize>().ok());
    assert_eq!(kinds.sum::<usize>(), flows, "{outcome}");
    let seen = run({
        let mut tshark = judge(ground, &capture, checks_transport);
        tshark.args(["-q", "-z", "io,stat,0,ip,ipv6,tcp,udp,icmp,icmpv6,dns"]);
        tshark
    });
    println!("{}", seen.expect_success().stdout);
    assert!(fs::metadata(Path::new(&capture)).is_ok_and(|file| file.len() > 200 * flows as u64));
    let found = complaints(ground, &capture, checks_transport);
    let first: Vec<_> = found.lines().take(20).collect();
    assert!(
        found.is_empty(),
        "{} packets are wrong, the first of them:\n{}",
        found.lines().count(),
        first.join("\n")
    );
}

#[test]
fn tshark_finds_nothing_wrong_in_ten_thousand_flows() {
    sealed(|ground| {
        drive(ground, 10_000, &["--no-offload"], true);
    });
}

#[test]
fn tshark_finds_nothing_malformed_in_super_segments() {
    // The transport checksums of what the kernel is to complete are not there yet.
    sealed(|ground| drive(ground, 1_000, &[], false));
}
