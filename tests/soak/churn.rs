//! Instances, containers of a network and published ports that come and go. What must not happen panics, which the shift
//! reports.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ground::{Ground, HOST4, HOST6, PYTHON, WORLD4, WORLD6};
use crate::instances::{Instance, NETWORK, SERVER, api_socket, enter, hold};
use crate::process::{Running, Stream, start};
use crate::shift::{End, PATIENCE, Tally};

/// What a container that ends by itself fetches, and how it sums it up.
const FETCH: &str = "curl -sS --max-time 60 http://203.0.113.2:8080/bytes/300000 | sha256sum";
/// What one fetches that is ended before it is done.
const ENDLESS: &str =
    "echo up; exec curl -sS -o /dev/null --limit-rate 2M http://203.0.113.2:8080/bytes/1000000000";

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Its command has done its work.
    ByItself,
    /// The relay is asked to.
    Terminated,
    /// The relay is killed; the command must not stay behind.
    Killed,
    /// It was attached to a container, which ends.
    ContainerEnds,
}

/// Four at a time, each of which ends in another way while it is in use.
pub fn instances(ground: &Ground, _: &[Instance], end: End) -> Tally {
    let mut tally = Tally::default();
    while !end.has_come() {
        let endings = [Ending::ByItself, Ending::Terminated, Ending::Killed, Ending::ContainerEnds];
        let all: Vec<_> = endings.map(|ending| (ending, begin(ground, ending))).into_iter().collect();
        // Some traffic goes through all of them first.
        thread::sleep(Duration::from_millis(300));
        for (ending, (running, container)) in all {
            finish(ground, ending, running, container);
            tally.rounds += 1;
        }
        end.pause(Duration::from_millis(700));
    }
    tally
}

fn begin(ground: &Ground, ending: Ending) -> (Running, Option<Running>) {
    match ending {
        // The port is published by one instance after the other.
        Ending::ByItself => {
            (start(ground.netferry(&["run", "-p", "7900:80", "--", "sh", "-c", FETCH])), None)
        }
        Ending::Terminated | Ending::Killed => {
            let mut running = start(ground.netferry(&["run", "--", "sh", "-c", ENDLESS]));
            running.wait_for(Stream::Out, "up");
            (running, None)
        }
        Ending::ContainerEnds => {
            let (container, pid) = hold(ground);
            let mut running = start(ground.netferry(&["attach", &pid]));
            running.wait_for(Stream::Err, "gateway");
            (running, Some(container))
        }
    }
}

fn finish(ground: &Ground, ending: Ending, running: Running, container: Option<Running>) {
    match ending {
        Ending::ByItself => {
            let outcome = running.finish(PATIENCE).expect_success();
            assert_eq!(outcome.stdout, fetched_without(ground), "another body: {outcome}");
        }
        Ending::Terminated => {
            running.signal(Signal::SIGTERM);
            let outcome = running.finish(PATIENCE);
            assert_eq!(outcome.status.code(), Some(128 + Signal::SIGTERM as i32), "{outcome}");
        }
        Ending::Killed => {
            running.signal(Signal::SIGKILL);
            // The output ends with the last process that holds it, the command.
            running.finish(PATIENCE).expect_signal(Signal::SIGKILL);
        }
        Ending::ContainerEnds => {
            drop(container);
            running.finish(PATIENCE).expect_success();
        }
    }
}

/// What [`FETCH`] says on the host.
fn fetched_without(ground: &Ground) -> &'static str {
    static SAID: OnceLock<String> = OnceLock::new();
    SAID.get_or_init(|| said_by(ground.user("sh"), &["-c", FETCH]))
}

fn said_by(mut command: Command, words: &[&str]) -> String {
    command.args(words);
    start(command).finish(PATIENCE).expect_success().stdout
}

/// What containers of the network fetch of the one that stays: by its name, and by its address.
const FETCH_BY_NAME: &str = "curl -sS --max-time 60 http://server:8080/bytes/300000 | sha256sum";
const FETCH_FROM_MEMBER: &str = "curl -sS --max-time 60 http://172.30.0.2:8080/bytes/300000 | sha256sum";
/// The sum of that, as nobody's network has carried it.
const SUM_OF_BODY: &str = "import hashlib, random; print(hashlib.sha256(random.Random(1).randbytes(1 << 22)[:300000]).hexdigest(), ' -')";

/// Four containers at a time join the network: one fetches by name and ends; one serves a published port until its relay
/// is told to end; one is killed while it fetches; and a namespace is connected, and leaves by its end or when it is told to.
pub fn members(ground: &Ground, _: &[Instance], end: End) -> Tally {
    let sum = said_by(ground.user(PYTHON), &["-c", SUM_OF_BODY]);
    let mut tally = Tally::default();
    while !end.has_come() {
        let port = 7600 + u16::try_from(tally.rounds % 100).expect("small");
        let member = |options: &[&str], command: &[&str]| {
            let words = [&["run", "--network", NETWORK], options, &["--"], command].concat();
            start(ground.netferry(&words))
        };
        let fetching = member(&[], &["sh", "-c", FETCH_BY_NAME]);
        let mut serving = member(&["--name", "visited", "-p", &format!("{port}:7")], &[PYTHON, "-c", SERVER]);
        let mut killed = member(&[], &["sh", "-c", ENDLESS]);
        let (guest, pid) = hold(ground);
        start(ground.netferry(&["network", "connect", NETWORK, &pid, "--name", "guest"]))
            .finish(PATIENCE)
            .expect_success();
        assert_eq!(said_by(enter(ground, &pid, &[], "sh"), &["-c", FETCH_FROM_MEMBER]), sum, "another body");
        serving.wait_for(Stream::Out, "up");
        tally.bytes += greet(ground.dial_from_world(HOST4, port).expect("it is published"));
        killed.wait_for(Stream::Out, "up");
        let outcome = fetching.finish(PATIENCE).expect_success();
        assert_eq!(outcome.stdout, sum, "another body: {outcome}");
        serving.signal(Signal::SIGTERM);
        serving.finish(PATIENCE).expect_code(128 + Signal::SIGTERM as i32);
        killed.signal(Signal::SIGKILL);
        killed.finish(PATIENCE).expect_signal(Signal::SIGKILL);
        if tally.rounds % 8 == 0 {
            let disconnect = ["network", "disconnect", NETWORK, "guest"];
            start(ground.netferry(&disconnect)).finish(PATIENCE).expect_success();
        }
        drop(guest);
        tally.bytes += 600_000;
        tally.rounds += 4;
        end.pause(Duration::from_millis(700));
    }
    tally
}

/// What is published through the API.
const PORTS: Range<u16> = 7300..7500;

/// Published through the API, used, and withdrawn: both protocols, both families. A port that is still there after something
/// went wrong is withdrawn, so that what is found once is not found in every shift that follows.
pub fn ports(ground: &Ground, _: &[Instance], end: End) -> Tally {
    // What was asked for last time may have been done after nobody waited any more.
    withdraw_rest();
    let outcome = catch_unwind(AssertUnwindSafe(|| publish_and_withdraw(ground, end)));
    outcome.unwrap_or_else(|panic| {
        // What went wrong first is what is told; and an instance that stood still may have much to do before us.
        for _ in 0..10 {
            if catch_unwind(withdraw_rest).is_ok() {
                break;
            }
            thread::sleep(Duration::from_secs(1));
        }
        resume_unwind(panic)
    })
}

fn withdraw_rest() {
    let said = ask(r#"{"execute":"list_hostfwd"}"#);
    let listed: Value = serde_json::from_str(&said).unwrap_or_default();
    let entries = listed["return"]["entries"].as_array();
    for entry in entries.unwrap_or_else(|| panic!("no list: {said}")) {
        let port = entry["host_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        if port.is_some_and(|port| PORTS.contains(&port)) {
            withdraw(&entry["id"].to_string());
        }
    }
}

fn withdraw(id: &str) {
    let removed = ask(&format!(r#"{{"execute":"remove_hostfwd","arguments":{{"id":{id}}}}}"#));
    assert_eq!(removed, r#"{"return":{}}"#, "of {id}");
}

fn publish_and_withdraw(ground: &Ground, end: End) -> Tally {
    let mut tally = Tally::default();
    while !end.has_come() {
        let round = tally.rounds;
        let port = PORTS.start + u16::try_from(round % 200).expect("small");
        let (udp, six) = (round % 2 == 1, round % 4 >= 2);
        let (proto, host, client): (_, IpAddr, IpAddr) = match (udp, six) {
            (false, false) => ("tcp", HOST4.into(), WORLD4.into()),
            (true, false) => ("udp", HOST4.into(), WORLD4.into()),
            (false, true) => ("tcp", HOST6.into(), WORLD6.into()),
            (true, true) => ("udp", HOST6.into(), WORLD6.into()),
        };
        let asked = format!(
            r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{proto}","host_addr":"{host}","host_port":{port},"guest_port":7}}}}"#
        );
        let said = ask(&asked);
        let id = said.strip_prefix(r#"{"return":{"id":"#).and_then(|rest| rest.strip_suffix("}}"));
        let id = id.unwrap_or_else(|| panic!("{asked} is answered by {said}"));
        let listed = ask(r#"{"execute":"list_hostfwd"}"#);
        assert!(listed.contains(&format!("\"host_port\":{port},")), "{port} is not in {listed}");
        if udp {
            greet_by_datagram(ground, client, host, port);
        } else {
            tally.bytes += greet(ground.dial_from_world(host, port).expect("it is published"));
        }
        withdraw(id);
        if !udp {
            let kind = ground.dial_from_world(host, port).map(drop).map_err(|error| error.kind());
            assert_eq!(kind, Err(std::io::ErrorKind::ConnectionRefused), "it was withdrawn");
        }
        // Clients that say nothing, or nonsense.
        let mut client = connect();
        if round % 3 == 0 {
            client.write_all(b"{{{{").expect("it is read");
        }
        tally.rounds += 1;
        end.pause(Duration::from_millis(100));
    }
    tally
}

fn connect() -> UnixStream {
    let stream = UnixStream::connect(api_socket()).expect("the API listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn ask(request: &str) -> String {
    let mut stream = connect();
    stream.write_all(request.as_bytes()).expect("it is read");
    stream.shutdown(Shutdown::Write).expect("a socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    answer.trim_end().to_owned()
}

fn greet(mut stream: TcpStream) -> u64 {
    let data: Vec<u8> = (0..5_000_u32).map(|place| (place * place / 7) as u8).collect();
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(&data).expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("a socket");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("it is answered");
    assert!(back == data, "{} bytes came back", back.len());
    2 * data.len() as u64
}

/// Asks again where nothing comes: datagrams may be lost.
fn greet_by_datagram(ground: &Ground, client: IpAddr, host: IpAddr, port: u16) {
    let socket = ground.in_world(|| UdpSocket::bind((client, 0))).expect("a port is free");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    for _ in 0..10 {
        socket.send_to(b"good day", (host, port)).expect("it is taken");
        let mut room = [0; 99];
        if let Ok((len, from)) = socket.recv_from(&mut room) {
            assert_eq!((&room[..len], from.ip(), from.port()), (&b"good day"[..], host, port));
            return;
        }
    }
    panic!("no datagram to {host} {port} is answered");
}
