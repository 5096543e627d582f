//! What goes from loopback to loopback past the link, seen and ruled as everything else is: captures, rates.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::capture::{expect_losses, find_nothing_wrong, slow_reader, tshark};
use crate::ground::{Ground, PYTHON, SCRATCH, sealed};
use crate::pasta::eventually;
use crate::pasta_ports::{DATAGRAMS, enter, forward, server};
use crate::pattern::crc_of_body;
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{http, read_body, write_body};
use crate::slirp4netns::{container, inside};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SPLICED: [&str; 7] = ["-t", "4040:4041", "-T", "7000:7001", "-u", "4042:4043", "--host-lo-to-ns-lo"];

/// Takes all that each client sends, and gives all of it back then.
const SINK_AND_SOURCE: &str = "\
import socket, threading
def serve(c):
    data = bytearray()
    while d := c.recv(1 << 20): data += d
    c.sendall(data); c.close()
s = socket.create_server(('127.0.0.1', 4041)); print('listening', flush=True)
while True: threading.Thread(target=serve, args=(s.accept()[0],)).start()";

/// The name of the only instance, and where it is asked.
fn instance(ground: &Ground) -> (String, PathBuf) {
    let listed = run(ground.netferry(&["ps", "--json"])).expect_success().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap_or_else(|| panic!("no instance: {listed}")).to_owned();
    let directories = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
    let mut sockets = directories.map(|path| path.join(format!("{id}.sock")));
    let socket = sockets.find(|path| path.exists()).expect("a control socket");
    (id, socket)
}

/// A server in the container that takes all first and gives all back then.
fn sink_and_source(ground: &Ground, container: &Running) -> Running {
    let mut command = enter(ground, container);
    command.args([PYTHON, "-c", SINK_AND_SOURCE]);
    let mut server = start(command);
    server.wait_for(Stream::Out, "listening");
    server
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(LOOPBACK, 4040), SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Sends so much to the server in the container and gets it back, whole; how long each way took.
fn exchange(stream: &TcpStream, len: u64) -> (Duration, Duration) {
    let began = Instant::now();
    write_body(stream, len).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // The server has all of it once its answer begins.
    stream.peek(&mut [0]).unwrap();
    let there = began.elapsed();
    let back = read_body(stream, len).unwrap();
    assert_eq!((back.len, back.crc), (len, crc_of_body(len)));
    (there, began.elapsed() - there)
}

fn capturing(ground: &Ground, id: &str, file: &str, words: &[&str]) -> Running {
    let capture = start(ground.netferry(&[&["capture", id, "-w", file], words].concat()));
    eventually("a capture begins", || fs::metadata(file).is_ok_and(|file| file.len() > 0));
    capture
}

/// What one end of a port has sent on one side, in its order.
fn payload(ground: &Ground, file: &str, filter: &str) -> Vec<u8> {
    let packets = tshark(ground, file, filter, &["tcp.payload"]);
    let hex = packets.concat().concat();
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_capture_sees_what_is_spliced_on_both_sides_and_what_it_saw_is_what_arrived() {
    sealed(|ground| {
        ground.needs(&["tshark", "curl"]);
        let container = container(ground);
        forward(ground, &container, &SPLICED);
        http(TcpListener::bind("127.0.0.1:7001").unwrap());
        let _sink = sink_and_source(ground, &container);
        let _datagrams = server(ground, &container, DATAGRAMS, &["127.0.0.1/4043"]);
        // One is there before, with bytes on their way.
        let mut early = connect();
        early.write_all(b"before").unwrap();
        let (id, socket) = instance(ground);
        let flows = || -> serde_json::Value {
            let shown = run(ground.netferry(&["flows", &id, "--json"])).expect_success().stdout;
            serde_json::from_str(&shown).unwrap()
        };
        eventually("the early one is delivered", || flows()[0]["to_container"]["bytes"] == 6);
        let early_name = flows()[0]["id"].as_str().unwrap().to_owned();
        let (all, few) = (format!("{SCRATCH}/all.pcapng"), format!("{SCRATCH}/few.pcapng"));
        let whole = capturing(ground, &id, &all, &[]);
        // Beside it one that wants little, and only of what the container begins.
        let cut = capturing(ground, &id, &few, &["-s", "96", "--", "tcp and dst port 7000"]);
        early.write_all(b"-between-").unwrap();
        eventually("it is carried on", || flows()[0]["to_container"]["bytes"] == 15);
        let len = 700_000;
        let late = connect();
        let client = late.local_addr().unwrap().port();
        exchange(&late, len);
        let url = "http://127.0.0.1:7000/bytes/300000";
        let fetched =
            inside(ground, &container, &["sh", "-c", &format!("curl -sS --max-time 30 {url} | wc -c")]);
        assert_eq!(fetched.expect_success().stdout.trim(), "300000");
        let socket_of_client = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket_of_client.set_read_timeout(Some(SOON)).unwrap();
        for size in [0, 1, 1_400, 9_000] {
            socket_of_client.send_to(&vec![7; size], "127.0.0.1:4042").unwrap();
            assert_eq!(socket_of_client.recv(&mut [0; 10_000]).unwrap(), size);
        }
        let refused = || TcpStream::connect_timeout(&SocketAddr::new(LOOPBACK, 4040), SOON);
        drop(refused());
        eventually("all but the early one have ended", || {
            flows().as_array().unwrap().iter().filter(|flow| flow["protocol"] == "tcp").count() == 1
        });
        for capture in [whole, cut] {
            capture.signal(Signal::SIGINT);
            capture.finish(SOON).expect_success();
        }
        find_nothing_wrong(ground, &all);
        find_nothing_wrong(ground, &few);
        let body = {
            let mut body = Vec::new();
            write_body(&mut body, len).unwrap();
            body
        };
        // The kernel's own name of the client is on the host's side, ours on the container's.
        let name =
            tshark(ground, &all, &format!("tcp.srcport == {client}"), &["frame.comment"])[0][0].clone();
        assert!(name.starts_with("flow s"), "{name}");
        for (side, port) in [("host", 4040), ("container", 4041)] {
            let of = |rest: &str| {
                format!("frame.comment == \"{name}\" && frame.interface_name == \"{side}\" && {rest}")
            };
            assert!(payload(ground, &all, &of(&format!("tcp.dstport == {port}"))) == body, "{side}, there");
            assert!(payload(ground, &all, &of(&format!("tcp.srcport == {port}"))) == body, "{side}, back");
            for flags in ["tcp.flags.syn == 1", "tcp.flags.fin == 1"] {
                let ends = tshark(ground, &all, &of(flags), &["tcp.srcport"]);
                assert_eq!(ends.len(), 2, "{side}: {flags}: {ends:?}");
                assert_ne!(ends[0], ends[1]);
            }
            let comment =
                format!("frame.comment == \"flow {early_name}\" && frame.interface_name == \"{side}\"");
            assert_eq!(payload(ground, &all, &format!("{comment} && tcp.dstport == {port}")), b"-between-");
            let handshake =
                tshark(ground, &all, &format!("{comment} && tcp.flags.syn == 1"), &["tcp.srcport"]);
            assert!(handshake.is_empty(), "{handshake:?}");
        }
        for (side, port) in [("host", 4042), ("container", 4043)] {
            for end in ["srcport", "dstport"] {
                let filter = format!("frame.interface_name == \"{side}\" && udp.{end} == {port}");
                let lens: Vec<_> = tshark(ground, &all, &filter, &["udp.length"]).concat();
                assert_eq!(lens, ["8", "9", "1408", "9008"], "{side} {end}");
            }
        }
        // What the container fetched; the other saw nothing else, and no more than it wanted.
        let outward = "frame.interface_name == \"container\" && tcp.srcport == 7000";
        assert!(payload(ground, &all, outward).len() > 300_000);
        let seen = tshark(ground, &few, "frame", &["tcp.port", "frame.cap_len", "frame.len"]);
        assert!(!seen.is_empty());
        let mut longest = 0;
        for packet in &seen {
            assert!(packet[0].contains("700"), "{packet:?}");
            assert!(packet[1].parse::<usize>().unwrap() <= 96);
            longest = longest.max(packet[2].parse().unwrap());
        }
        assert!(longest > 10_000, "lengths are those of the packets: {longest}");
        slow_readers_lose_packets_and_nobody_else_does(ground, &socket);
        // Nobody looks any more: it goes on, what was open before included.
        early.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        early.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"before-between-");
        exchange(&connect(), 8 << 20);
    });
}

fn slow_readers_lose_packets_and_nobody_else_does(ground: &Ground, socket: &std::path::Path) {
    let slow = slow_reader(ground, socket);
    exchange(&connect(), 12 << 20);
    expect_losses(slow);
}

#[test]
fn rates_hold_for_what_is_spliced_and_are_lifted_while_it_flows() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &SPLICED);
        let _sink = sink_and_source(ground, &container);
        let _datagrams = server(ground, &container, DATAGRAMS, &["127.0.0.1/4043"]);
        let (id, _) = instance(ground);
        let shape = |rates: &str| run(ground.netferry(&["shape", &id, rates])).expect_success();
        shape("down=40mbit,up=80mbit");
        // 4 MB, less what is saved up: 50 ms.
        let (there, back) = exchange(&connect(), 4_000_000);
        println!("figures: spliced, 4 MB at 40mbit: {there:?}, at 80mbit: {back:?}");
        assert!(there > Duration::from_millis(740), "{there:?}");
        // Whoever looks late sees a shorter way back, and a longer one there.
        assert!(there + back > Duration::from_millis(1_080), "{there:?} {back:?}");
        // What has begun under one rate goes on under another, and under none.
        shape("down=4mbit");
        let slow = connect();
        let writer = {
            let stream = slow.try_clone().unwrap();
            std::thread::spawn(move || {
                write_body(&stream, 8_000_000).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            })
        };
        let moved = || -> u64 {
            let shown = run(ground.netferry(&["flows", &id, "--json", "tcp"])).expect_success().stdout;
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            shown[0]["to_container"]["bytes"].as_u64().unwrap()
        };
        let began = Instant::now();
        eventually("it moves", || moved() > 100_000);
        let (bytes, took) = (moved(), began.elapsed());
        let most = 500_000.0 * (took.as_secs_f64() + 0.2);
        assert!((bytes as f64) < most, "{bytes} bytes in {took:?}");
        shape("off");
        let back = read_body(&slow, 8_000_000).unwrap();
        assert_eq!((back.len, back.crc), (8_000_000, crc_of_body(8_000_000)));
        writer.join().unwrap();
        // The rate of the rule that has let it through.
        let rules = format!("{SCRATCH}/rules.toml");
        fs::write(&rules, "[[rule]]\nallow = \"any\"\ndirection = \"in\"\nlimit = \"down=40mbit\"\n")
            .unwrap();
        run(ground.netferry(&["rules", "reload", &rules])).expect_success();
        let (there, _) = exchange(&connect(), 4_000_000);
        println!("figures: spliced, 4 MB at a rule's 40mbit: {there:?}");
        assert!(there > Duration::from_millis(740), "{there:?}");
        fs::write(&rules, "").unwrap();
        run(ground.netferry(&["rules", "reload", &rules])).expect_success();
        datagrams_wait_within_bounds(ground, &id);
    });
}

/// Of 400 datagrams at once at one a second, those that are saved up and the 64 that may wait arrive sooner or later.
fn datagrams_wait_within_bounds(ground: &Ground, id: &str) {
    run(ground.netferry(&["shape", id, "down=8kbit"])).expect_success();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.1:4042").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // Where the socket of the relay has no room the kernel drops what comes: little at a time.
    for number in 0..400 {
        socket.send(&[0; 1_000]).unwrap();
        if number % 20 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let lost = || -> u64 {
        let metrics = run(ground.netferry(&["metrics", id])).expect_success().stdout;
        let line = metrics.lines().find(|line| line.contains("reason=\"rate_limit\""));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
    };
    eventually("what does not fit is dropped and counted", || lost() > 0);
    socket.set_nonblocking(true).unwrap();
    let soon = std::iter::from_fn(|| socket.recv(&mut [0; 2_000]).ok()).count();
    socket.set_nonblocking(false).unwrap();
    assert!(soon < 400 - 64, "{soon} at once");
    run(ground.netferry(&["shape", id, "off"])).expect_success();
    eventually("those that waited come", || socket.recv(&mut [0; 2_000]).is_ok());
    // As exactly as the kernel let us see them all.
    let late = 1 + std::iter::from_fn(|| socket.recv(&mut [0; 2_000]).ok()).count();
    assert!(soon + late <= 400 - lost() as usize && late <= 64, "{soon} {late} {}", lost());
}
