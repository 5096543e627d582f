//! Several workers on one interface serve what one does. The kernel spreads the flows over their queues by the queue that a
//! flow was last answered by, and by a hash where it has forgotten that (after three seconds) or never knew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write, pipe};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use serde_json::Value;

use crate::ground::{Ground, HOST4, HOST6, PYTHON, WORLD4, WORLDS, sealed};
use crate::process::{Outcome, SOON, Stream, run, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

/// Streams that come back as they went, to both families at once, with a pause of `sys.argv[1]` seconds in each; datagrams, names
/// and pings beside them. A server on port 80 that logs its clients ends with the last line of standard input.
const CONTAINER: &str = r#"
import socket, subprocess, sys, threading, time
ADDRESSES = sys.argv[2:]
good = []
def stream(address, number):
    s = socket.create_connection((address, 7000), 30); s.settimeout(60)
    for turn in range(2):
        if turn: time.sleep(float(sys.argv[1]))
        body = bytes((at * 7 + number + turn) % 251 for at in range(2000)) * 150
        writer = threading.Thread(target=s.sendall, args=(body,)); writer.start()
        back = bytearray()
        while len(back) < len(body):
            part = s.recv(1 << 18)
            if not part: break
            back += part
        writer.join()
        if back != body: print('other bytes', address, number, turn, len(back), flush=True)
        else: good.append(number)
    s.shutdown(socket.SHUT_WR)
    if s.recv(1): print('more bytes', flush=True)
threads = [threading.Thread(target=stream, args=(address, number)) for address in ADDRESSES for number in range(8)]
for t in threads: t.start()
for address in ADDRESSES:
    u = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)
    u.sendto(b'datagram', (address, 7000)); assert u.recv(100) == b'datagram'
    ping = subprocess.run(['ping', '-c', '2', '-i', '0.2', '-w', '30', address], stdout=subprocess.DEVNULL)
    print('ping', ping.returncode, flush=True)
print('name', socket.getaddrinfo('www.test', 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0], flush=True)
for t in threads: t.join()
print(len(good), 'good', flush=True)
def served(l):
    while True:
        c, a = l.accept(); print('client', a[0], a[1], flush=True); c.sendall(b'hello'); c.close()
def datagrams(u):
    while True:
        d, a = u.recvfrom(100); u.sendto(repr(a).encode(), a)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 80))
threading.Thread(target=datagrams, args=(u,), daemon=True).start()
for family, address in [(socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')]:
    l = socket.create_server((address, 80), family=family, backlog=64)
    threading.Thread(target=served, args=(l,), daemon=True).start()
print('listening', flush=True)
sys.stdin.read()
sys.exit(7)
"#;

fn serve(ground: &Ground) {
    ground.needs(&["ping"]);
    ground.allow_ping();
    ground.world_resolver(WORLD4, "world");
    for address in WORLDS {
        serve_streams(ground.world_listener(address, 7000), echo);
        echo_datagrams(ground.world_datagrams(address, 7000), false);
    }
}

fn served_by(ground: &Ground, workers: &str, pause: &str) {
    serve(ground);
    let before = ground.belongings();
    let worlds = WORLDS.map(|address| address.to_string());
    let mut arguments = vec!["run", "--workers", workers, "-p", "8080:80", "-p", "8080:80/udp", "--"];
    arguments.extend([PYTHON, "-c", CONTAINER, pause, &worlds[0], &worlds[1]]);
    let mut command = ground.netferry(&arguments);
    let (input, line) = pipe().unwrap();
    command.stdin(input);
    let mut container = start(command);
    container.wait_for(Stream::Out, "32 good");
    container.wait_for(Stream::Out, "listening");
    let mut clients = Vec::new();
    for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
        for _ in 0..12 {
            clients.push(ground.dial_from_world(host, 8080).unwrap());
        }
    }
    for client in &mut clients {
        let mut greeting = String::new();
        client.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "hello");
    }
    for client in &clients {
        let address = client.local_addr().unwrap();
        container.wait_for(Stream::Out, &format!("client {} {}", address.ip(), address.port()));
    }
    let socket: UdpSocket = ground.in_world(|| UdpSocket::bind((WORLD4, 0)).unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    socket.send_to(b"who am I", SocketAddr::new(HOST4.into(), 8080)).unwrap();
    let mut answer = [0; 100];
    let (len, _) = socket.recv_from(&mut answer).unwrap();
    let port = socket.local_addr().unwrap().port();
    assert_eq!(std::str::from_utf8(&answer[..len]).unwrap(), format!("('{WORLD4}', {port})"));
    let said = container.so_far(Stream::Out);
    assert_eq!(said.matches("ping 0\n").count(), 2, "{said}");
    assert!(said.contains("name ") && !said.contains("bytes"), "{said}");
    drop(line);
    container.finish(SOON).expect_code(7);
    ground.assert_nothing_left(&before);
}

#[test]
fn two_workers_serve_what_one_does_and_flows_change_queues_when_they_rest() {
    sealed(|ground| served_by(ground, "2", "3.3"));
}

#[test]
fn four_workers_serve_what_one_does() {
    sealed(|ground| served_by(ground, "4", "0"));
}

/// Threads of a process by whether the kernel filters their calls and what capabilities they have left.
fn threads(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // One may end meanwhile.
        let Ok(status) = std::fs::read_to_string(entry.unwrap().path().join("status")) else { continue };
        let wanted = ["CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
        let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
        let kind: Vec<String> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        *kinds.entry(kind.join(", ")).or_default() += 1;
    }
    kinds
}

/// The same as soon as there are so many, or when that has been waited for long enough.
fn threads_once(pid: i32, count: usize) -> BTreeMap<String, usize> {
    let deadline = Instant::now() + SOON;
    loop {
        let kinds = threads(pid);
        if kinds.values().sum::<usize>() == count || Instant::now() > deadline {
            return kinds;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn every_worker_is_confined_and_the_end_of_the_interface_ends_all() {
    sealed(|ground| {
        let script = "echo up; read x; ip link delete tap0; echo without; read x; exit 5";
        let mut command = ground.netferry(&["run", "--workers", "3", "--", "sh", "-c", script]);
        let (input, mut line) = pipe().unwrap();
        command.stdin(input);
        let mut container = start(command);
        container.wait_for(Stream::Out, "up");
        // The command may be up before the last of them is.
        let kinds = threads_once(container.pid(), 3);
        let expected = "CapEff: 0000000000000000, CapBnd: 0000000000000000, NoNewPrivs: 1, Seccomp: 2";
        assert_eq!(kinds, BTreeMap::from([(expected.to_owned(), 3)]));
        line.write_all(b"\n").unwrap();
        container.wait_for(Stream::Out, "without");
        container.wait_for(Stream::Err, "interface was removed");
        let left = threads_once(container.pid(), 1);
        assert_eq!(left.values().sum::<usize>(), 1, "the others are gone with it");
        line.write_all(b"\n").unwrap();
        container.finish(SOON).expect_code(5);
    });
}

/// Connections that have carried something, and some that nobody takes; tells how those end.
const MANY: &str = r#"
import socket, time
open = [socket.create_connection(('203.0.113.2', 7000), 30) for _ in range(48)]
for s in open: s.sendall(b'x' * 100); s.recv(100)
for _ in range(12):
    try: socket.create_connection(('203.0.113.2', 9), 30)
    except ConnectionRefusedError: pass
print('up', flush=True)
ended = 0
for s in open:
    try: s.recv(1)
    except ConnectionResetError: ended += 1
print('reset', ended, flush=True)
time.sleep(60)
"#;

#[test]
fn flows_of_all_workers_are_shown_counted_explained_and_ended_as_those_of_one() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        let mut container =
            start(ground.netferry(&["run", "-q", "--workers", "3", "--", PYTHON, "-c", MANY]));
        container.wait_for(Stream::Out, "up");
        let ask = |words: &str| -> Outcome { run(ground.netferry(&words.split(' ').collect::<Vec<_>>())) };
        let json =
            |words: &str| -> Value { serde_json::from_str(&ask(words).expect_success().stdout).unwrap() };
        let shown = json("flows --json tcp and dst port 7000");
        let names: BTreeSet<&str> =
            shown.as_array().unwrap().iter().map(|flow| flow["id"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 48, "{shown:#}");
        // By a hash with a key: that one of them has none of so many does not happen.
        for whose in ["@1", "@2"] {
            assert!(names.iter().any(|name| name.ends_with(whose)), "{names:?}");
        }
        assert!(names.iter().any(|name| !name.contains('@')), "{names:?}");
        let expected = "protocol=\"tcp\",state=\"established\"} 48";
        let deadline = Instant::now() + SOON;
        loop {
            // Each worker counts at the end of a turn.
            let told = ask("metrics").expect_success();
            if told.stdout.contains(expected) {
                break;
            }
            assert!(Instant::now() < deadline, "{told}");
        }
        assert_eq!(json("top --json")["flows"].as_array().unwrap().len(), 48);
        let failures = ask("explain --last 100").expect_success();
        failures.expect_stdout("203.0.113.2:9").expect_stdout("nobody listens there");
        for (words, name) in
            [("capture -w /dev/null", "capture"), ("impair loss=1%", "impair"), ("shape 1mbit", "shape")]
        {
            let refused = ask(words).expect_code(1);
            let line = format!(
                "netferry: {name} is answered by one worker alone; start the instance without --workers\n"
            );
            assert_eq!(refused.stderr, line);
        }
        // One by its name, then all.
        let one = names.iter().find(|name| name.ends_with("@1")).expect("it is there");
        ask(&format!("flows --kill --id {one}")).expect_success().expect_stdout("1 ended");
        ask("flows --kill tcp and dst port 7000").expect_success().expect_stdout("47 ended");
        container.wait_for(Stream::Out, "reset 48");
    });
}
