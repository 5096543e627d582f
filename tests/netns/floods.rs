//! Floods of every kind, from a container against a relay that has 64 MiB of memory: the limits hold, memory
//! is bounded, and a connection that was there before goes on.
//!
//! Each takes two seconds; `NETFERRY_FLOOD_SECONDS=600 cargo test --release --test netns -- floods:: --nocapture` takes ten
//! minutes each and tells the rates.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{FAR4, Ground, PYTHON, SCRATCH, WORLD4, cannot_run, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo, http, serve_streams};

/// What the relay may use, sockets of the kernel included.
const MEMORY: u64 = 64 << 20;

/// The honest one: a connection over which a message of 100 bytes goes back and forth, and a new one for each tenth.
const HONEST: &str = "\
import os, socket, sys, time
s = socket.create_connection(('203.0.113.2', 7), 10); s.settimeout(30)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
rounds = fresh = failed = 0; slowest = 0.0
print('up', flush=True)
end = time.time() + float(sys.argv[1])
while time.time() < end:
    began = time.time(); data = os.urandom(100); s.sendall(data); back = b''
    while len(back) < 100:
        block = s.recv(100 - len(back)); assert block, 'the connection was ended'; back += block
    assert back == data; rounds += 1; slowest = max(slowest, time.time() - began)
    if rounds % 10 == 5:
        try:
            with socket.create_connection(('203.0.113.2', 7), 60) as n: n.sendall(b'x'); fresh += n.recv(1) == b'x'
        except OSError: failed += 1
    time.sleep(0.01)
print(f'honest rounds {rounds} slowest {slowest * 1000:.0f} ms, new connections {fresh} and {failed} failed', flush=True)";

/// What the floods have in common: frames made by hand, as many as go.
const FRAMES: &str = "\
import os, random, socket, struct, subprocess, sys, time
end = time.time() + float(sys.argv[1]); sent = 0
def out(name): return subprocess.check_output(name, text=True).split()
there = bytes.fromhex(sys.argv[2].replace(':', ''))
here = bytes.fromhex(out(['ip', '-br', 'link', 'show', 'tap0'])[2].replace(':', ''))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); raw.bind(('tap0', 0))
r = random.Random(1).getrandbits
def total(data):
    data += b'\\0' * (len(data) % 2); s = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
own = socket.inet_aton('10.0.2.100'); world = socket.inet_aton('203.0.113.2'); dns = socket.inet_aton('10.0.2.3')
def ip(target, protocol, transport, at=None, ident=0, flags=0):
    if at is not None:
        c = total(own + target + struct.pack('!HH', protocol, len(transport)) + transport)
        transport = transport[:at] + struct.pack('!H', c) + transport[at + 2:]
    h = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(transport), ident, flags, 64, protocol, 0) + own + target
    return there + here + b'\\x08\\0' + h[:10] + struct.pack('!H', total(h)) + h[12:] + transport
def flood(make):
    global sent
    while time.time() < end:
        for _ in range(64):
            try: raw.send(make()); sent += 1
            except OSError: time.sleep(0.0005)
    print('sent', sent, flush=True)
";

const SYN: &str = "flood(lambda: ip(world, 6, struct.pack('!HHIIBBHHH', r(16), r(16), r(32), 0, 0x50, 2, 65535, 0, 0), 16))";
/// To addresses that never answer.
const HALF_OPEN: &str = "\
flood(lambda: ip(socket.inet_aton('198.51.100.9'), 6, struct.pack('!HHIIBBHHH', r(16), r(16), r(32), 0, 0x50, 2, 65535, 0, 0), 16))";
const UDP: &str =
    "flood(lambda: ip(world, 17, struct.pack('!HHHH', r(16) | 1, r(16) | 1, 108, 0) + bytes(100), 6))";
const FRAGMENTS: &str = "flood(lambda: ip(world, 17, bytes(1400), None, r(16), 0x2000 | r(3) * 175))";
/// Of many addresses and one Ethernet address: a container has one, and whoever sends from another moves the link there.
const NEIGHBORS: &str = "\
flood(lambda: b'\\xff' * 6 + here + b'\\x08\\x06' + struct.pack('!HHBBH', 1, 0x800, 6, 4, 1) + here + bytes([10, 0, 2, 101 + r(7)])
    + bytes(6) + bytes([10, 0, 2, r(8)]))";
/// Questions, answers nobody asked for, and calls for routers, of many addresses.
const NEIGHBORS6: &str = "\
def ndp():
    target = bytes.fromhex('fd00' + '0' * 24) + r(32).to_bytes(4, 'big'); own = target[:12] + r(32).to_bytes(4, 'big')
    kind, to = [(135, bytes.fromhex('ff02' + '0' * 18 + '01ff') + target[13:]), (136, bytes.fromhex('ff02' + '0' * 27 + '1')),
        (133, bytes.fromhex('ff02' + '0' * 27 + '2'))][r(32) % 3]
    rest = (target if kind != 133 else b'') + bytes([2 if kind == 136 else 1, 1]) + here
    message = struct.pack('!BBHI', kind, 0, 0, 0x20000000 if kind == 136 else 0) + rest
    c = total(own + to + struct.pack('!II', len(message), 58) + message)
    return (b'\\x33\\x33' + to[12:] + here + b'\\x86\\xdd' + struct.pack('!IHBB', 0x60000000, len(message), 58, 255) + own + to
        + message[:2] + struct.pack('!H', c) + message[4:])
flood(ndp)";
const NAMES: &str = "\
def query():
    name = b'\\x08' + b'%08x' % r(32) + b'\\x04test\\0'
    q = struct.pack('!HHHHHH', r(16), 0x100, 1, 0, 0, 0) + name + struct.pack('!HH', 1, 1)
    return ip(dns, 17, struct.pack('!HHHH', r(16) | 1024, 53, 8 + len(q), 0) + q, 6)
flood(query)";
/// Of one byte each, from 200 connections.
const TINY_SEGMENTS: &str = "\
streams = [socket.create_connection(('203.0.113.2', 7), 10) for _ in range(200)]
for s in streams: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); s.setblocking(False)
while time.time() < end:
    for s in streams:
        try: s.send(b'x'); sent += 1
        except BlockingIOError: pass
        try: s.recv(9999)
        except BlockingIOError: pass
print('sent', sent, flush=True)";
/// Downloads that nobody reads, as many as there may be.
const ZERO_WINDOWS: &str = "\
streams = []
while time.time() < end:
    try:
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.settimeout(1)
        s.connect(('203.0.113.2', 8080)); s.sendall(b'GET /bytes/100000000 HTTP/1.1\\r\\n\\r\\n')
        streams.append(s); sent += 1
    except OSError: time.sleep(0.01)
    if len(streams) >= 900: time.sleep(0.1)
print('sent', sent, flush=True)";
/// From the host's side: clients that say nothing, nonsense, or too much.
const API: &str = "\
import os, socket, sys, time
end = time.time() + float(sys.argv[1]); sent = 0; held = []
while time.time() < end:
    s = socket.socket(socket.AF_UNIX); s.settimeout(1)
    try:
        s.connect(sys.argv[2]); sent += 1
        s.send([b'', os.urandom(100), b'{' * 5000, b'{\"execute\": \"list_hostfwd\"}'][sent % 4])
    except OSError: pass
    held.append(s)
    if len(held) > 100: held.pop(0).close()
print('sent', sent, flush=True)";

/// A control group of the memory controller, of whichever version is there.
struct MemoryGroup {
    path: PathBuf,
    peak: &'static str,
}

impl MemoryGroup {
    fn new(limit: u64) -> MemoryGroup {
        // Unique on the machine: cases run side by side.
        let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
        let name = format!("netferry-flood-{namespace}");
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        for (root, max, peak) in places {
            let _ = fs::write(Path::new(root).join("cgroup.subtree_control"), "+memory");
            let path = Path::new(root).join(&name);
            if Path::new(root).join("cgroup.procs").exists() && fs::create_dir(&path).is_ok() {
                if fs::write(path.join(max), limit.to_string()).is_ok() {
                    return MemoryGroup { path, peak };
                }
                let _ = fs::remove_dir(&path);
            }
        }
        cannot_run("no control group can be made for memory: run it as root");
    }

    /// The command, started in the group.
    fn hold(&self, command: &Command) -> Command {
        let mut held = Command::new("sh");
        held.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(self.path.join("cgroup.procs"));
        held.arg(command.get_program()).args(command.get_args());
        held.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        held.current_dir("/");
        held
    }

    fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.path.join(self.peak)).ok()?.trim().parse().ok()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.path).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn seconds() -> u64 {
    std::env::var("NETFERRY_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// What became of packets that went no further, and what the buffers hold.
fn metrics(ground: &Ground, pid: i32) -> Vec<String> {
    let told = run(ground.netferry(&["metrics", &pid.to_string()])).stdout;
    let of_interest = |line: &&str| {
        let names = ["netferry_drops_total", "netferry_tcp_", "netferry_flows{", "netferry_flows_evicted"];
        names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
    };
    let shorten = |line: &str| {
        let labels = line
            .split(['{', ',', '}'])
            .filter(|part| !part.starts_with("instance_id") && !part.starts_with("container"));
        labels.collect::<Vec<_>>().join(" ")
    };
    told.lines().filter(of_interest).map(shorten).collect()
}

/// Lets `script` loose, which has the frames of [`FRAMES`] at hand, or the API.
fn withstands(ground: &Ground, name: &str, script: &str) {
    serve_streams(ground.world_listener(WORLD4, 7), echo);
    http(ground.world_listener(WORLD4, 8080));
    // Nobody answers there.
    ground.set_resolvers(&[FAR4.into()]);
    let group = MemoryGroup::new(MEMORY);
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 3600"]);
    let mut container = start(command);
    container.wait_for(Stream::Out, "up");
    let pid = container.pid().to_string();
    let api = format!("{SCRATCH}/flood.sock");
    let confined = ["--enable-sandbox", "--enable-seccomp", "--api-socket", &api];
    let words = [&["slirp4netns", "-c", "--enable-ipv6"], &confined[..], &[&pid, "tap0"]].concat();
    let relay = if name == "log lines" {
        start_unread(group.hold(&ground.netferry(&["attach", "-v", "-v", "--cidr", "10.0.2.0/24", &pid])))
    } else {
        let mut relay = start(group.hold(&ground.netferry(&words)));
        relay.wait_for(Stream::Out, "* Recommended IP");
        Relay::Read(relay)
    };
    let inside = |program: &[&str]| {
        let mut command = ground.user("nsenter");
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
        command
    };
    let seconds = seconds();
    let time = seconds.to_string();
    let mut honest = start(inside(&[PYTHON, "-c", HONEST, &time]));
    honest.wait_for(Stream::Out, "up");
    let flood = if name == "API" {
        let mut command = ground.user(PYTHON);
        command.args(["-c", script, &time, &api]);
        start(command)
    } else {
        // Its Ethernet address does not change.
        start(inside(&[PYTHON, "-c", &format!("{FRAMES}{script}"), &time, "02:67:77:00:00:02"]))
    };
    let limit = Duration::from_secs(seconds) + SOON;
    let honest = honest.finish(limit);
    let flood = flood.finish(limit).expect_success();
    let resident = resident_bytes(relay.pid());
    let sent: u64 = flood.stdout.trim().trim_start_matches("sent ").parse().unwrap();
    println!("figures: {name}: {}", metrics(ground, relay.pid()).join(", "));
    println!(
        "figures: {name}: {} a second, {} MiB in the group at most, {} MiB resident; {}",
        sent / seconds,
        group.peak().map_or(0, |bytes| bytes >> 20),
        resident >> 20,
        honest.stdout.lines().last().unwrap_or_default()
    );
    assert!(sent > 50, "it was no flood\n{flood}");
    let honest = honest.expect_success();
    let rounds: u64 = honest.stdout.split_whitespace().nth(3).unwrap().parse().unwrap();
    // Its segments are lost in the queue of the link like all others, and sent again.
    assert!(rounds >= 2 * seconds, "the honest one did not get on\n{honest}");
    assert!(honest.stdout.contains(" and 0 failed"), "nothing new could begin\n{honest}");
    assert!(resident < MEMORY * 3 / 4, "{resident} bytes are resident");
    // It lives, and not because it was started again.
    relay.end();
    container.signal(Signal::SIGKILL);
}

/// The relay under the flood.
enum Relay {
    /// Somebody reads what it says.
    Read(Running),
    /// Nobody does, but its standard error stays open.
    Unread(Child, BufReader<ChildStderr>),
}

/// Started, up, and from then on not listened to.
fn start_unread(mut command: Command) -> Relay {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("setpriv starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("gateway") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("a pipe"), 0, "it ended");
    }
    Relay::Unread(child, said)
}

impl Relay {
    fn pid(&self) -> i32 {
        match self {
            Relay::Read(relay) => relay.pid(),
            Relay::Unread(child, _) => i32::try_from(child.id()).expect("a PID is positive"),
        }
    }

    fn end(self) {
        match self {
            Relay::Read(relay) => {
                relay.signal(Signal::SIGTERM);
                relay.finish(SOON).expect_signal(Signal::SIGTERM);
            }
            Relay::Unread(mut child, mut said) => {
                let pid = i32::try_from(child.id()).expect("a PID is positive");
                kill(Pid::from_raw(pid), Signal::SIGTERM).expect("own child");
                let mut rest = String::new();
                // What has waited in the pipe, and the end.
                said.read_to_string(&mut rest).expect("a pipe");
                assert!(rest.len() > 60_000, "the pipe was never full: {} bytes", rest.len());
                let status = child.wait().expect("own child");
                assert_eq!(status.code(), Some(0), "{status}");
            }
        }
    }
}

#[test]
fn connections_to_every_port() {
    sealed(|ground| withstands(ground, "SYN", SYN));
}

#[test]
fn connections_that_nobody_answers() {
    sealed(|ground| withstands(ground, "half-open", HALF_OPEN));
}

#[test]
fn datagrams_to_every_port() {
    sealed(|ground| withstands(ground, "UDP", UDP));
}

#[test]
fn fragments_that_are_never_complete() {
    sealed(|ground| withstands(ground, "fragments", FRAGMENTS));
}

#[test]
fn neighbors_that_do_not_exist() {
    sealed(|ground| withstands(ground, "ARP", NEIGHBORS));
}

#[test]
fn neighbors_of_ipv6_that_do_not_exist() {
    sealed(|ground| withstands(ground, "NDP", NEIGHBORS6));
}

#[test]
fn log_lines_that_nobody_reads() {
    // A line for each packet.
    sealed(|ground| withstands(ground, "log lines", UDP));
}

#[test]
fn queries_that_nobody_answers() {
    sealed(|ground| withstands(ground, "DNS", NAMES));
}

#[test]
fn segments_of_one_byte() {
    sealed(|ground| withstands(ground, "tiny segments", TINY_SEGMENTS));
}

#[test]
fn windows_that_never_open() {
    sealed(|ground| withstands(ground, "zero windows", ZERO_WINDOWS));
}

#[test]
fn clients_of_the_api_that_never_end() {
    sealed(|ground| withstands(ground, "API", API));
}
