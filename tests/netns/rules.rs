//! The policy on the real kernel: who gets where on each path, what is counted, explained and put in its place while bytes flow.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::ground::{FAR4, Ground, HOST4, PYTHON, SCRATCH, WORLD4, sealed};
use crate::pattern::crc_of_body;
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::{echo, echo_datagrams, http, serve_streams};
use crate::slirp4netns::{container, inside};

/// What a program in the container hears of each destination: `tcp|udp/ADDRESS/PORT/SECONDS`, one a line.
const TRY: &str = "\
import errno, socket, sys
for word in sys.argv[1:]:
    kind, address, port, patience = word.split('/')
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    s.settimeout(float(patience))
    try:
        s.connect((address, int(port)))
        if kind == 'udp':
            s.send(b'x'); s.recv(99)
        print(kind, address, port, 'ok')
    except TimeoutError:
        print(kind, address, port, 'silence')
    except OSError as error:
        print(kind, address, port, errno.errorcode[error.errno])
";

pub fn attempt(ground: &Ground, container: &Running, words: &[&str]) -> Vec<String> {
    let outcome = inside(ground, container, &[&[PYTHON, "-c", TRY], words].concat()).expect_success();
    let last = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    outcome.stdout.lines().map(last).collect()
}

pub fn attach(ground: &Ground, container: &Running, options: &[&str]) -> Running {
    let pid = container.pid().to_string();
    let mut running = start(ground.netferry(&[&["attach"], options, &[&pid]].concat()));
    running.wait_for(Stream::Err, "gateway");
    running
}

pub fn ask(ground: &Ground, words: &[&str]) -> Outcome {
    run(ground.netferry(words))
}

/// The counters of `rules`, as the command prints them in JSON.
pub fn counters(ground: &Ground) -> serde_json::Value {
    serde_json::from_str(&ask(ground, &["rules", "--json"]).expect_success().stdout).unwrap()
}

pub fn written(name: &str, text: &str) -> String {
    let path = format!("{SCRATCH}/{name}");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn rules_hold_on_every_path_and_are_counted_and_explained() {
    sealed(|ground| {
        ground.needs(&["dig", "ping"]);
        ground.allow_ping();
        ground.world_resolver(WORLD4, "first");
        serve_streams(ground.world_listener(WORLD4, 80), echo);
        echo_datagrams(ground.world_datagrams(WORLD4, 7), false);
        serve_streams(TcpListener::bind("127.0.0.1:3000").unwrap(), echo);
        let container = container(ground);
        let options = [
            "--host-loopback",
            "--preset",
            "allow-list,no-host",
            "--allow",
            "*.test:80/tcp",
            "--allow",
            "203.0.113.2:7/udp",
            "--deny",
            "198.51.100.0/24",
            "--reject",
            "secret.test/dns",
            "-p",
            "8080:80",
            "--allow",
            "in:203.0.113.2",
            "--deny",
            "in:any",
        ];
        let relay = attach(ground, &container, &options);
        // By its address alone nobody knows the server's name.
        assert_eq!(attempt(ground, &container, &["tcp/203.0.113.2/80/9"]), ["ECONNREFUSED"]);
        let resolve = |name: &str| {
            let words = ["dig", "@10.0.2.3", "+time=8", "+tries=1", name, "A"];
            inside(ground, &container, &words).expect_success().stdout
        };
        assert!(resolve("www.test").contains("203.0.113.2"));
        assert!(resolve("secret.test").contains("status: REFUSED"));
        let words = [
            "tcp/203.0.113.2/80/9",
            "tcp/203.0.113.2/81/9",
            "udp/203.0.113.2/7/9",
            "udp/203.0.113.2/9/9",
            "tcp/198.51.100.7/80/1",
            "tcp/10.0.2.2/3000/9",
        ];
        let heard = attempt(ground, &container, &words);
        assert_eq!(heard, ["ok", "ECONNREFUSED", "ok", "EHOSTUNREACH", "silence", "ECONNREFUSED"]);
        let ping = inside(ground, &container, &["ping", "-n", "-c", "1", "-W", "9", "203.0.113.2"]);
        assert!(ping.stdout.contains("Packet filtered"), "{ping}");

        // A published port: the world may, the host's own address may not.
        let serve = "import socket; s = socket.create_server(('0.0.0.0', 80)); print('up', flush=True)\n\
                     while True: c = s.accept()[0]; c.sendall(b'hello'); c.close()";
        let mut server = ground.user("nsenter");
        let pid = container.pid().to_string();
        server.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", serve]);
        let mut server = start(server);
        server.wait_for(Stream::Out, "up");
        let mut greeting = [0; 5];
        ground.dial_from_world(HOST4, 8080).unwrap().read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello");
        let mut refused = std::net::TcpStream::connect((HOST4, 8080)).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(matches!(refused.read(&mut greeting), Ok(0) | Err(_)), "it is let in");

        let told = counters(ground);
        let flows = |place: usize| told["rules"][place]["flows"].as_u64().unwrap();
        let shown = |place: usize| told["rules"][place]["rule"].as_str().unwrap().to_owned();
        assert_eq!(shown(0), "reject out host");
        assert_eq!((flows(0), flows(1), flows(2)), (1, 1, 1), "{told:#}");
        assert!(flows(3) >= 1 && flows(4) == 1, "{told:#}");
        assert_eq!((flows(5), flows(6)), (1, 1), "{told:#}");
        assert!(told["rules"][2]["bytes"].as_u64().unwrap() >= 58, "{told:#}");
        let ways = told["nat"].as_array().unwrap();
        assert!(ways.iter().any(|way| way["kind"] == "published" && way["flows"] == 1), "{told:#}");
        assert!(ways.iter().any(|way| way["kind"] == "masquerade" && way["flows"] == 2), "{told:#}");
        let table = ask(ground, &["rules", "-v"]).expect_success();
        assert!(table.stdout.contains("allow out tcp *.test 80"), "{table}");

        let explained = ask(ground, &["explain", "--probe", "tcp://www.test:80"]).expect_success();
        for text in ["allowed, by rule 2: allow out tcp *.test 80", "masqueraded", "203.0.113.2:80 accepts"] {
            assert!(explained.stdout.contains(text), "{text}\n{explained}");
        }
        let denied = ask(ground, &["explain", "tcp://198.51.100.7:80"]).expect_code(1);
        assert!(denied.stdout.contains("denied, by rule 4: deny out 198.51.100.0/24"), "{denied}");
        ask(ground, &["explain", "tcp://secret.test:80"]).expect_code(1).expect_stderr("may not ask for it");
        let last = ask(ground, &["explain", "--last", "20"]).expect_success();
        for text in [
            "-> 198.51.100.7:80",
            "a rule denies it",
            "by rule 4: ",
            "in:any",
            "icmp 10.0.2.100:0 -> 203.0.113.2:0",
        ] {
            let text = if text == "in:any" { "deny in any" } else { text };
            assert!(last.stdout.contains(text), "{text}\n{last}");
        }
        // Evidence for whoever reads along.
        for (command, outcome) in
            [("rules -v", &table), ("explain", &explained), ("explain", &denied), ("explain --last", &last)]
        {
            outcome.stdout.lines().for_each(|line| println!("figures: {command}: {line}"));
        }
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON);
    });
}

#[test]
fn rules_are_exchanged_under_load_without_one_lost_byte() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        const LEN: u64 = 96 << 20;
        http(ground.world_listener(WORLD4, 8080));
        serve_streams(ground.world_listener(FAR4, 7), echo);
        let container = container(ground);
        let relay = attach(ground, &container, &["--allow", "203.0.113.2:8080/tcp"]);
        let pid = container.pid().to_string();
        let enter = |program: &[&str]| {
            let mut command = ground.user("nsenter");
            command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
            start(command)
        };
        let check = "import sys, zlib\ncrc = size = 0\n\
                     while block := sys.stdin.buffer.read1(1 << 20): crc = zlib.crc32(block, crc); size += len(block)\n\
                     print(size, '%08x' % crc)";
        let url = format!("http://203.0.113.2:8080/bytes/{LEN}");
        let script = format!("curl -sS --limit-rate 48M --max-time 100 {url} | {PYTHON} -c \"$0\"");
        let download = enter(&["sh", "-c", &script, check]);
        // A connection that later rules do not let through.
        let mut other = enter(&[
            PYTHON,
            "-c",
            "import socket; s = socket.create_connection(('198.51.100.7', 7)); print('up', flush=True)\n\
             try: print('ended', s.recv(1))\nexcept ConnectionResetError: print('reset')",
        ]);
        other.wait_for(Stream::Out, "up");
        let files: Vec<String> = (0..3)
            .map(|n| {
                let text = format!(
                    "default = 'allow'\n[[rule]]\ndeny = '198.18.{n}.0/24'\n[[rule]]\nallow = '203.0.113.2'\nports = 8080\nprotocol = 'tcp'\n"
                );
                written(&format!("rules{n}.toml"), &text)
            })
            .collect();
        let wrong = written("wrong.toml", "default = 'allow'\n[[rule]]\ndeny = '10.0.0.0/33'\n");
        for round in 0..12 {
            let reloaded = ask(ground, &["rules", "reload", "--rejudge", &files[round % 3]]).expect_success();
            assert!(reloaded.stdout.starts_with("2 rules are in force; "), "{reloaded}");
            assert!(reloaded.stdout.ends_with(", 0 were ended\n"), "{reloaded}");
        }
        ask(ground, &["rules", "reload", &wrong])
            .expect_code(1)
            .expect_stderr("line 3: '10.0.0.0/33' is no peer");
        ask(ground, &["rules", "check", &wrong]).expect_code(1).expect_stderr("line 3");
        ask(ground, &["rules", "check", &files[0]])
            .expect_success()
            .expect_stdout("1: deny out 198.18.0.0/24");
        assert_eq!(counters(ground)["rules"].as_array().unwrap().len(), 2, "the old ones are in force");
        let strict = written(
            "strict.toml",
            "default = 'deny'\n[[rule]]\nallow = '203.0.113.2'\nports = 8080\nprotocol = 'tcp'\n",
        );
        let ended = ask(ground, &["rules", "reload", "--rejudge", &strict]).expect_success();
        assert!(ended.stdout.ends_with(", 1 were ended\n"), "{ended}");
        other.finish(SOON).expect_success().expect_stdout("reset");
        let got = download.finish(Duration::from_secs(100)).expect_success();
        assert_eq!(got.stdout, format!("{LEN} {:08x}\n", crc_of_body(LEN)));
        let told = counters(ground);
        let rule = &told["rules"][0];
        assert_eq!(rule["flows"], 1, "{told:#}");
        assert!(rule["bytes"].as_u64().unwrap() > LEN, "{told:#}");
        drop(relay);
    });
}

/// Fetches by name, speaks UDP to an address, and then tries what it is given.
const FETCH: &str = "\
import socket, sys
s = socket.create_connection(('www.test', 80), 20); s.sendall(b'x'); assert s.recv(1) == b'x'; s.close()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(20); u.connect(('203.0.113.2', 7)); u.send(b'y'); assert u.recv(9) == b'y'
for word in sys.argv[1:]:
    try: socket.create_connection((word, 7), 20); print('there')
    except OSError as error: print('refused', error)
";

#[test]
fn what_was_recorded_may_be_done_again_and_nothing_else() {
    sealed(|ground| {
        ground.world_resolver(WORLD4, "first");
        serve_streams(ground.world_listener(WORLD4, 80), echo);
        serve_streams(ground.world_listener(FAR4, 7), echo);
        echo_datagrams(ground.world_datagrams(WORLD4, 7), false);
        let recording = written("recorded.jsonl", "");
        std::fs::set_permissions(&recording, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let fetch = |options: &[&str], words: &[&str]| {
            let command = [&["run", "-q"], options, &["--", PYTHON, "-c", FETCH], words].concat();
            run(ground.netferry(&command))
        };
        fetch(&["--audit", &recording], &[]).expect_success();
        let told = std::fs::read_to_string(&recording).unwrap();
        let lines: Vec<serde_json::Value> =
            told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |event: &str, protocol: &str, address: &str| {
            let found = lines.iter().find(|line| {
                line["event"] == event && line["protocol"] == protocol && line["address"] == address
            });
            found.unwrap_or_else(|| panic!("no {event} {protocol} {address} in\n{told}"))
        };
        let fetched = of("new", "tcp", "203.0.113.2");
        assert_eq!((&fetched["name"], &fetched["port"]), (&"www.test".into(), &80.into()));
        assert_eq!(fetched["verdict"], "allow");
        assert!(of("total", "tcp", "203.0.113.2")["bytes_up"].as_u64().unwrap() > 100, "{told}");
        assert!(of("total", "udp", "203.0.113.2")["packets_down"].as_u64().unwrap() >= 1, "{told}");
        assert_eq!(lines.last().unwrap()["event"], "lost");

        let suggested = ask(ground, &["audit", "suggest", &recording]).expect_success().stdout;
        assert!(suggested.contains("allow = [\"www.test\"]"), "{suggested}");
        let list = written("suggested.toml", &suggested);
        for enforced in [&recording, &list] {
            fetch(&["--audit-enforce", enforced], &[]).expect_success();
            let drifted = fetch(&["--audit-enforce", enforced], &["198.51.100.7"]).expect_code(121);
            assert!(drifted.stdout.contains("refused"), "{drifted}");
            assert!(drifted.stderr.contains("tcp 198.51.100.7:7 is on no list"), "{drifted}");
        }
        let unreadable = fetch(&["--audit-enforce", "/nowhere"], &[]).expect_code(1);
        assert!(unreadable.stderr.contains("/nowhere"), "{unreadable}");
        told.lines().for_each(|line| println!("figures: audit: {line}"));
        suggested.lines().for_each(|line| println!("figures: suggest: {line}"));
    });
}
