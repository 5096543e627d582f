//! Captures: tshark, which knows nothing of us, sees both sides of the translation and finds nothing wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo, echo_datagrams, http, serve_streams};

/// Some of everything: fetches, datagrams, pings, a refusal, and a server for a client of the world.
const TRAFFIC: &str = r#"
import socket, struct, subprocess, sys, threading, time
four, six = "203.0.113.2", "2001:db8:1::2"
def fetch(host, size):
    with socket.create_connection((host, 80), timeout=20) as s:
        s.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        got = 0
        while part := s.recv(1 << 16): got += len(part)
    assert got > size, got
fetch(four, 300000)
fetch(six, 300000)
for host, family in ((four, socket.AF_INET), (six, socket.AF_INET6)):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.connect((host, 7))
        for size in (0, 1, 1400, 4000):
            s.send(bytes(size))
            assert len(s.recv(65536)) == size
    subprocess.run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "10", host], check=True, stdout=subprocess.DEVNULL)
    try: socket.create_connection((host, 9), timeout=20)
    except ConnectionRefusedError: pass
    else: raise SystemExit("not refused")
with socket.create_connection((four, 7), timeout=20) as s:
    def send(): s.sendall(bytes(500000)); s.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = 0
    while part := s.recv(1 << 16): got += len(part)
    assert got == 500000, got
listener = socket.create_server(("0.0.0.0", 80))
print("serving", flush=True)
client, address = listener.accept()
client.sendall(b"hello " + address[0].encode())
client.close()
sys.stdin.readline()
"#;

fn serve_world(ground: &Ground) {
    ground.allow_ping();
    for world in [WORLD4.into(), WORLD6.into()] {
        let world: std::net::IpAddr = world;
        http(ground.world_listener(world, 80));
        serve_streams(ground.world_listener(world, 7), echo);
        echo_datagrams(ground.world_datagrams(world, 7), false);
    }
}

/// What tshark shows of a capture's packets, one line each, its fields parted by bars.
pub fn tshark(ground: &Ground, capture: &str, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = ground.root("tshark");
    tshark.args(["-n", "-r", capture, "-Y", filter, "-T", "fields", "-E", "separator=|"]);
    for check in ["ip", "tcp", "udp"] {
        tshark.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    // Ports of bytes without a meaning, in which a reader may find any.
    for port in ["tcp.port==4040", "tcp.port==4041", "udp.port==4042", "udp.port==4043"] {
        tshark.args(["-d", &format!("{port},data")]);
    }
    fields.iter().for_each(|field| {
        tshark.args(["-e", field]);
    });
    let shown = run(tshark).expect_success().stdout;
    shown.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// Nothing is malformed, no checksum wrong, nothing of the host's side out of its place in a stream; in the container a busy
/// kernel may send something twice.
pub fn find_nothing_wrong(ground: &Ground, capture: &str) {
    let wrong = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status == 0 || tcp.checksum.status == 0 \
                 || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 \
                 || (frame.interface_name == \"host\" && (tcp.analysis.retransmission || tcp.analysis.lost_segment \
                 || tcp.analysis.ack_lost_segment || tcp.analysis.out_of_order))";
    let fields = ["frame.number", "frame.interface_name", "_ws.col.Protocol", "_ws.col.Info"];
    assert_eq!(tshark(ground, capture, wrong, &fields), Vec::<Vec<String>>::new());
}

fn recorded(ground: &Ground, options: &[&str]) -> String {
    let (capture, script) = (format!("{SCRATCH}/both.pcapng"), format!("{SCRATCH}/traffic.py"));
    fs::write(&script, TRAFFIC).expect("scratch");
    let mut running = start(ground.netferry(
        &[&["run", "-q", "-p", "8080:80", "--pcap", &capture], options, &["--", PYTHON, &script]].concat(),
    ));
    running.wait_for(Stream::Out, "serving");
    let client = ground.dial_from_world(crate::ground::HOST4, 8080).expect("published");
    let mut heard = String::new();
    std::io::Read::read_to_string(&mut &client, &mut heard).expect("an answer");
    assert_eq!(heard, format!("hello {WORLD4}"));
    running.finish(SOON).expect_success();
    capture
}

#[test]
fn both_sides_of_each_flow_are_there_under_one_name() {
    sealed(|ground| {
        ground.needs(&["tshark", "ping"]);
        serve_world(ground);
        let capture = recorded(ground, &["--segment"]);
        find_nothing_wrong(ground, &capture);
        let fields = [
            "frame.interface_name",
            "frame.comment",
            "ip.src",
            "ip.dst",
            "ipv6.src",
            "ipv6.dst",
            "tcp.srcport",
            "tcp.dstport",
            "tcp.len",
            "udp.srcport",
            "udp.dstport",
            "frame.len",
            "tcp.flags.reset",
            "tcp.seq",
        ];
        let all = tshark(
            ground,
            &capture,
            "tcp || udp || icmp || icmpv6.type == 128 || icmpv6.type == 129",
            &fields,
        );
        // A datagram is one packet on the host's side, however the kernel fragments it.
        let longest = all
            .iter()
            .filter(|packet| packet[0] == "container" || packet[9].is_empty())
            .map(|packet| packet[11].parse::<usize>().unwrap())
            .max();
        assert!(longest <= Some(1_514), "an artefact of offloads: {longest:?}");
        // By flow: what either side has seen of it.
        let mut flows: BTreeMap<&str, BTreeMap<&str, Vec<&Vec<String>>>> = BTreeMap::new();
        for packet in all.iter().filter(|packet| packet[1].starts_with("flow ")) {
            flows.entry(&packet[1]).or_default().entry(&packet[0]).or_default().push(packet);
        }
        assert!(flows.len() >= 10, "{:?}", flows.keys());
        for (flow, sides) in &flows {
            let names: Vec<_> = sides.keys().copied().collect();
            assert_eq!(names, ["container", "host"], "{flow}: {sides:?}");
            let sources: Vec<_> = sides["container"].iter().map(|packet| &packet[2]).collect();
            assert!(!sources.iter().any(|source| *source == "203.0.113.1"), "{flow}: {sources:?}");
            let host_side = |packet: &&&Vec<String>| {
                [2, 3]
                    .iter()
                    .any(|place| packet[*place] == "203.0.113.1" || packet[*place + 2] == "2001:db8:1::1")
            };
            assert_eq!(sides["host"].iter().filter(host_side).count(), sides["host"].len(), "{flow}");
            // Both have carried the same, whatever the container's kernel sent twice.
            let bytes = |side: &str| -> u64 {
                let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
                for packet in sides[side].iter().filter(|packet| !packet[6].is_empty() && packet[8] != "0") {
                    let number = |place: usize| packet[place].parse::<u64>().unwrap();
                    let end = ends.entry(&packet[6]).or_default();
                    *end = (*end).max(number(13) + number(8) - 1);
                }
                ends.values().sum()
            };
            assert_eq!(bytes("container"), bytes("host"), "{flow}");
        }
        let nobody = "frame.interface_name == \"host\" && (ip.addr == 0.0.0.0 || ipv6.addr == ::)";
        assert_eq!(tshark(ground, &capture, nobody, &["_ws.col.Info"]), Vec::<Vec<String>>::new());
        // The whole life of a connection: the fetch over IPv4, and the client of the published port.
        let life = |filter: &str| -> Vec<String> {
            let packets = tshark(ground, &capture, filter, &["ip.src", "tcp.flags.str"]);
            packets.into_iter().map(|packet| packet.join(" ").replace('·', "")).collect()
        };
        let fetch = life(
            "frame.interface_name == \"host\" && tcp.port == 80 && ip.addr == 203.0.113.2 && tcp.flags.syn == 1",
        );
        assert_eq!(fetch, ["203.0.113.1 S", "203.0.113.2 AS"]);
        let ends = life(
            "frame.interface_name == \"host\" && tcp.port == 80 && ip.addr == 203.0.113.2 && tcp.flags.fin == 1",
        );
        assert_eq!(ends.len(), 2, "{ends:?}");
        let client = life("frame.interface_name == \"host\" && tcp.port == 8080 && tcp.flags.syn == 1");
        assert_eq!(client, ["203.0.113.2 S", "203.0.113.1 AS"]);
        let refused = life("frame.interface_name == \"host\" && tcp.port == 9 && ip && tcp.flags.reset == 1");
        assert_eq!(refused, ["203.0.113.2 AR"]);
        // Wherever super-segments stay together there is nothing wrong either.
        find_nothing_wrong(ground, &recorded(ground, &[]));
    });
}

/// An instance whose command does what it is told, line by line.
fn instance(ground: &Ground) -> (Running, fs::File) {
    let go = format!("{SCRATCH}/go");
    assert!(
        std::process::Command::new("mkfifo").args(["-m", "666", &go]).status().expect("mkfifo").success()
    );
    let script = format!("while read line; do sh -c \"$line\"; echo done; done < {go}");
    let mut running = start(ground.netferry(&["run", "-q", "--", "sh", "-c", &format!("echo up; {script}")]));
    running.wait_for(Stream::Out, "up");
    let told = fs::OpenOptions::new().write(true).open(&go).expect("a pipe");
    (running, told)
}

/// Reads nothing until it is told to, and then tells what it has heard and what it has lost.
const SLOW_READER: &str = r#"
import array, json, socket, struct, sys
ours, theirs = socket.socketpair()
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
request = json.dumps({"version": 1, "request": "capture"}).encode() + b"\n"
control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
theirs.close()
answer = control.makefile().readline()
assert "answer" in answer, answer
print("watching", flush=True)
sys.stdin.readline()
ours.shutdown(socket.SHUT_WR)
heard = b""
while part := ours.recv(1 << 20): heard += part
packets, told, at = 0, [], 0
while at < len(heard):
    kind, length = struct.unpack_from("<II", heard, at)
    if kind == 6: packets += 1
    if kind == 5: told.append(struct.unpack_from("<Q", heard, at + 24) + struct.unpack_from("<Q", heard, at + 36))
    at += length
print(json.dumps({"packets": packets, "received": sum(t[0] for t in told), "dropped": sum(t[1] for t in told)}), flush=True)
"#;

/// Somebody who watches at a control socket, and reads nothing yet.
pub fn slow_reader(ground: &Ground, socket: &Path) -> Running {
    let reader = format!("{SCRATCH}/reader.py");
    fs::write(&reader, SLOW_READER).expect("scratch");
    let mut command = ground.user(PYTHON);
    command.arg(&reader).arg(socket).stdin(std::process::Stdio::piped());
    let mut slow = start(command);
    slow.wait_for(Stream::Out, "watching");
    slow
}

/// Has it read, and something lost to it, and counted.
pub fn expect_losses(mut slow: Running) {
    slow.say("go");
    let said = slow.finish(SOON).expect_success().stdout;
    let told: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let number = |name: &str| told[name].as_u64().unwrap();
    assert!(number("dropped") > 0, "{told}");
    assert_eq!(number("packets") + number("dropped"), number("received"));
}

#[test]
fn a_slow_reader_loses_packets_that_are_counted_and_harms_nobody() {
    sealed(|ground| {
        ground.needs(&["tshark", "curl"]);
        serve_world(ground);
        let (running, mut go) = instance(ground);
        let mut running = running;
        let mut tell =
            |line: &str| std::io::Write::write_all(&mut go, format!("{line}\n").as_bytes()).expect("told");
        let listed = run(ground.netferry(&["ps", "--json"])).expect_success().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let id = listed[0]["id"].as_str().expect("one instance").to_owned();
        let directory = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
        let socket =
            directory.map(|path| path.join(format!("{id}.sock"))).find(|path| path.exists()).unwrap();
        let slow = slow_reader(ground, &socket);
        // A second one keeps the pace, in files of a size.
        let ring = format!("{SCRATCH}/ring.pcapng");
        let quick = start(ground.netferry(&[
            "capture",
            &id,
            "-s",
            "200",
            "--capture-size",
            "256K",
            "--capture-files",
            "3",
            "-w",
            &ring,
        ]));
        let deadline = std::time::Instant::now() + SOON;
        while !fs::metadata(&ring).is_ok_and(|file| file.len() > 0) {
            assert!(std::time::Instant::now() < deadline, "no capture began");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // More than all buffers on the way hold, and every byte of it arrives.
        let len: u64 = 12 << 20;
        tell(&format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | cksum"));
        let expected = run({
            let mut host = ground.root("sh");
            host.args(["-c", &format!("curl -sS --max-time 100 http://{WORLD4}/bytes/{len} | cksum")]);
            host
        });
        let expected = expected.expect_success().stdout;
        running.wait_for(Stream::Out, expected.trim());
        // Many small packets fill the ring.
        tell(&format!("ping -n -q -f -c 3000 -W 10 {WORLD4}"));
        running.wait_for(Stream::Out, "3000 packets transmitted");
        quick.signal(Signal::SIGINT);
        quick.finish(SOON).expect_success().expect_stderr("packets captured, 0 lost");
        for name in ["ring.pcapng", "ring.pcapng.1", "ring.pcapng.2"] {
            let path = format!("{SCRATCH}/{name}");
            assert!((1..=256 << 10).contains(&fs::metadata(&path).unwrap().len()), "{name}");
            assert!(!tshark(ground, &path, "icmp || tcp", &["frame.number"]).is_empty(), "{name}");
        }
        // Of several flows only those that are meant.
        let chosen = format!("{SCRATCH}/chosen.pcapng");
        let few = start(ground.netferry(&["capture", &id, "tcp", "and", "dst", "port", "80", "-w", &chosen]));
        let deadline = std::time::Instant::now() + SOON;
        while !fs::metadata(&chosen).is_ok_and(|file| file.len() > 0) {
            assert!(std::time::Instant::now() < deadline, "no capture began");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Less than what waits for a reader, however slow this machine is: none of it is lost.
        let len = 3_000_000;
        tell(&format!(
            "ping -n -q -c 1 -W 10 {WORLD4}; curl -sS --max-time 100 -o /dev/null http://{WORLD4}/bytes/{len}; echo fetched"
        ));
        running.wait_for(Stream::Out, "fetched");
        few.signal(Signal::SIGINT);
        few.finish(SOON).expect_success().expect_stderr("packets captured, 0 lost");
        for side in ["container", "host"] {
            let filter = format!("frame.interface_name == \"{side}\" && tcp.srcport == 80");
            let bytes = tshark(ground, &chosen, &filter, &["tcp.len", "tcp.analysis.retransmission"]);
            let first = bytes.iter().filter(|packet| packet[1].is_empty());
            let sum: u64 = first.map(|packet| packet[0].parse::<u64>().unwrap()).sum();
            assert!((len..len + 1_000).contains(&sum), "{side}: {sum}");
        }
        let shown =
            tshark(ground, &chosen, "frame", &["frame.interface_name", "_ws.col.Protocol", "tcp.dstport"]);
        assert!(shown.iter().all(|packet| !packet[2].is_empty()), "{shown:?}");
        for side in ["container", "host"] {
            assert!(shown.iter().any(|packet| packet[0] == side && packet[2] == "80"), "{shown:?}");
            assert!(shown.iter().any(|packet| packet[0] == side && packet[2] != "80"), "{shown:?}");
        }
        expect_losses(slow);
        drop(go);
        running.finish(SOON).expect_success();
    });
}
