//! The control socket: who is listed, who is answered, and that nothing of it stays behind.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netferry::config::limits::{METRICS_CONNECTIONS, METRICS_REQUEST_BYTES};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, SUBJECT, WORLD4, sealed};
use crate::pasta;
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo, serve_streams};
use crate::slirp4netns::{container, serve};

/// The directory of the ground's user: there is no better one on the ground.
fn directory() -> PathBuf {
    let found = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
    let mut found = found.filter(|path| path.to_string_lossy().contains("netferry-"));
    found.next().expect("the user's directory of sockets")
}

fn sockets() -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(directory()).unwrap().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Waits until `holds`; an end of a process takes a moment to be noticed.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An instance with a command that waits for a signal.
fn instance(ground: &Ground, options: &[&str]) -> Running {
    let command = ["--", "sh", "-c", "echo up; exec sleep 60"];
    let mut running = start(ground.netferry(&[&["run", "-q"], options, &command].concat()));
    running.wait_for(Stream::Out, "up");
    running
}

/// Ends it in the orderly way, with its command.
fn end(instance: Running) {
    instance.signal(Signal::SIGTERM);
    instance.finish(SOON).expect_code(143);
}

fn ps(ground: &Ground, options: &[&str]) -> String {
    run(ground.netferry(&[&["ps"], options].concat())).expect_success().stdout
}

#[test]
fn instances_are_listed_with_whom_they_serve_and_leave_nothing_behind() {
    sealed(|ground| {
        assert_eq!(ps(ground, &["--json"]).trim(), "[]");
        let container = container(ground);
        let first = instance(ground, &[]);
        let relay = serve(ground, &["-c", &container.pid().to_string()]);
        let _hidden = instance(ground, &["--control", "none"]);
        let listed: serde_json::Value = serde_json::from_str(&ps(ground, &["--json"])).unwrap();
        let of = |pid: i32| {
            let all = listed.as_array().unwrap();
            all.iter()
                .find(|one| one["pid"] == pid)
                .unwrap_or_else(|| panic!("no {pid} in {listed:#}"))
                .clone()
        };
        assert_eq!(listed.as_array().unwrap().len(), 2, "{listed:#}");
        let (one, two) = (of(first.pid()), of(relay.pid()));
        assert_eq!((&one["face"], &two["face"]), (&"run".into(), &"slirp4netns".into()));
        assert_eq!(one["container"]["name"], "sh");
        assert_eq!(two["container"]["pid"], container.pid());
        let namespace = fs::metadata(format!("/proc/{}/ns/net", container.pid())).unwrap();
        assert_eq!(two["container"]["namespace"], std::os::unix::fs::MetadataExt::ino(&namespace));
        assert_eq!(one["container"]["addresses"][0], "10.0.2.100");
        let table = ps(ground, &[]);
        assert!(table.lines().count() == 3 && table.contains("slirp4netns"), "{table}");
        // For the user alone.
        assert_eq!(directory().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(sockets()[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // An orderly end, and one that asks nobody.
        end(first);
        drop(relay);
        eventually("sockets stay behind", || sockets().is_empty());
    });
}

#[test]
fn what_was_killed_with_its_janitor_is_removed_by_the_next_who_looks() {
    sealed(|ground| {
        let place = format!("{SCRATCH}/own.sock");
        let kept = instance(ground, &["--control", &place]);
        let killed = instance(ground, &[]);
        assert_eq!(sockets().len(), 1);
        // All that belongs to it: the relay, and the children that it has forked beside the command.
        for child in children_of(killed.pid()).into_iter().chain([killed.pid()]) {
            kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
        }
        eventually("the killed one is there", || UnixStream::connect(&sockets()[0]).is_err());
        assert_eq!(ps(ground, &["--json"]).trim(), "[]");
        assert!(sockets().is_empty(), "the socket of a killed instance stays behind");
        // A place that was asked for is one's own.
        let second = run(ground.netferry(&["run", "-q", "--control", &place, "true"]));
        second.expect_code(1).expect_stderr("--control");
        let ask = format!(
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{place}')\n\
             s.sendall(b'{{\"version\":1,\"request\":\"rubbish\"}}\\n'); print(s.recv(4096).decode())"
        );
        let mut client = ground.user(PYTHON);
        client.args(["-c", &ask]);
        run(client).expect_success().expect_stdout("unknown-request");
        end(kept);
        eventually("the socket stays behind", || !fs::exists(&place).unwrap());
    });
}

#[test]
fn flows_are_shown_from_both_sides_and_can_be_ended() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        // Connects out, is connected to, and tells when a connection ends and how.
        let script = format!(
            "import socket, threading\n\
             s = socket.create_connection(('{WORLD4}', 7)); s.sendall(b'x' * 1000); s.recv(9)\n\
             u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'y', ('{WORLD4}', 9))\n\
             l = socket.create_server(('', 80)); print('up', flush=True); c, a = l.accept(); print('in', flush=True)\n\
             try: s.recv(99999); s.recv(99999); print('ended', flush=True)\n\
             except ConnectionResetError: print('reset', flush=True)\n\
             c.recv(9); import time; time.sleep(60)"
        );
        let mut container =
            start(ground.netferry(&["run", "-q", "-p", "8080:80", "--", PYTHON, "-c", &script]));
        container.wait_for(Stream::Out, "up");
        let client = ground.dial_from_world(HOST4, 8080).unwrap();
        container.wait_for(Stream::Out, "in");
        let flows = |words: &[&str]| -> serde_json::Value {
            let output = run(ground.netferry(&[&["flows", "--json"], words].concat())).expect_success();
            serde_json::from_str(&output.stdout).unwrap()
        };
        let all = flows(&[]);
        assert_eq!(all.as_array().unwrap().len(), 3, "{all:#}");
        let out = &flows(&["tcp", "and", "dst", "port", "7"])[0];
        assert_eq!(
            (&out["state"], &out["begun_by"]),
            (&"established".into(), &"container".into()),
            "{out:#}"
        );
        assert_eq!(out["container"]["remote"], format!("{WORLD4}:7"));
        assert_eq!(out["host"]["remote"], format!("{WORLD4}:7"));
        assert!(out["host"]["local"].as_str().unwrap().starts_with(&format!("{HOST4}:")), "{out:#}");
        assert!(out["from_container"]["bytes"].as_u64().unwrap() > 1_000, "{out:#}");
        assert_eq!(out["host_tcp"]["state"], "established");
        assert!(out["host_tcp"]["acknowledged_bytes"].as_u64().unwrap() >= 1_000, "{out:#}");
        // By what only the host's side shows.
        let port = out["host"]["local"].as_str().unwrap().rsplit(':').next().unwrap();
        assert_eq!(flows(&["src", "port", port])[0]["id"], out["id"]);
        let published = &flows(&["dst port 80"])[0];
        let client_end = client.local_addr().unwrap().to_string();
        assert_eq!(published["begun_by"], "host", "{published:#}");
        assert_eq!(published["container"]["remote"], client_end);
        assert_eq!(published["host"]["remote"], client_end);
        assert_eq!(published["host"]["local"], format!("{HOST4}:8080"));
        assert_eq!(flows(&["udp"])[0]["to_container"]["packets"], 0);
        let table = run(ground.netferry(&["flows"])).expect_success().stdout;
        assert!(table.contains("established") && table.lines().count() == 4, "{table}");
        // Which of them is ended, and no other.
        run(ground.netferry(&["flows", "--kill"])).expect_code(2).expect_stderr("--all");
        run(ground.netferry(&["flows", "--kill", "tcp", "dst", "port", "7"]))
            .expect_success()
            .expect_stdout("1 ended");
        container.wait_for(Stream::Out, "reset");
        assert_eq!(flows(&["tcp"]).as_array().unwrap().len(), 1);
        run(ground.netferry(&["flows", "nobody"]))
            .expect_code(1)
            .expect_stderr("there is no instance nobody");
        drop(client);
        end(container);
    });
}

#[test]
fn flows_are_shown_again_and_again_and_a_spliced_one_can_be_ended() {
    sealed(|ground| {
        let container = container(ground);
        let echo = "import socket, threading\n\
                    s = socket.create_server(('', 80)); print('up', flush=True)\n\
                    def serve(c):\n\
                    \x20   try:\n\
                    \x20       while d := c.recv(9999): c.sendall(d)\n\
                    \x20   except ConnectionResetError: print('reset', flush=True)\n\
                    while True: threading.Thread(target=serve, args=(s.accept()[0],)).start()";
        let pid = container.pid().to_string();
        let mut server = ground.user("nsenter");
        server.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", echo]);
        let mut server = start(server);
        server.wait_for(Stream::Out, "up");
        let options = ["--config-net", "-q", "-t", "8080:80", "-u", "none", "-T", "none", "-U", "none"];
        pasta::serve(ground, &container, &options);
        let dial = || {
            let stream = TcpStream::connect("127.0.0.1:8080").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
        };
        let exchange = |stream: &mut TcpStream| {
            let mut answer = [0; 1_000];
            stream.write_all(&answer).and_then(|()| stream.read_exact(&mut answer)).unwrap();
        };
        let (mut client, mut other) = (dial(), dial());
        exchange(&mut client);
        exchange(&mut other);
        let port = client.local_addr().unwrap().port().to_string();
        let watch = start(ground.netferry(&["flows", "--watch=0.1", "--json", "port", &port]));
        // Each showing is a line, and shows more than the last.
        let shown = || -> Vec<u64> {
            let text = watch.so_far(Stream::Out);
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let bytes = |line: &str| {
                let flows: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(
                    (flows.as_array().unwrap().len(), &flows[0]["path"]),
                    (1, &"splice".into()),
                    "{line}"
                );
                flows[0]["from_container"]["bytes"].as_u64().unwrap()
            };
            whole.lines().map(bytes).collect()
        };
        for round in 1..=3 {
            eventually("it is shown again", || shown().last().is_some_and(|bytes| *bytes == round * 1_000));
            exchange(&mut client);
        }
        watch.signal(Signal::SIGTERM);
        watch.finish(SOON).expect_signal(Signal::SIGTERM);
        run(ground.netferry(&["flows", "--kill", "port", &port])).expect_success().expect_stdout("1 ended");
        let ended = client.read(&mut [0; 9]);
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        server.wait_for(Stream::Out, "reset");
        exchange(&mut other);
        exchange(&mut dial());
    });
}

#[test]
fn whoever_reads_metrics_slowly_or_asks_too_much_keeps_nobody_away() {
    sealed(|ground| {
        let container = instance(ground, &["--metrics", "9100"]);
        let dial = || {
            let stream = TcpStream::connect("127.0.0.1:9100").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
        };
        let hear = |mut stream: TcpStream| {
            let mut said = String::new();
            let outcome = stream.read_to_string(&mut said);
            (outcome.is_ok(), said)
        };
        let page = || {
            let mut stream = dial();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            hear(stream).1
        };
        // The first of those who say nothing gives way; the others are given up in time.
        let begun = Instant::now();
        let mut idle: Vec<TcpStream> = (0..METRICS_CONNECTIONS).map(|_| dial()).collect();
        idle[1].write_all(b"GET /metr").unwrap();
        assert!(page().starts_with("HTTP/1.1 200 OK"));
        assert_eq!(hear(idle.remove(0)).1, "");
        // One that has sent too much is told so, and may go on talking for a while.
        let mut endless = dial();
        let much = vec![b'x'; METRICS_REQUEST_BYTES + 1];
        endless.write_all(b"GET /metrics HTTP/1.1\r\nX: ").and_then(|()| endless.write_all(&much)).unwrap();
        let mut answer = [0; 12];
        endless.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
        // One that reads nothing of its answer.
        let mut deaf = dial();
        deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let last = idle.pop().unwrap();
        assert_eq!(hear(last).1, "");
        assert!(begun.elapsed() >= Duration::from_secs(9), "it had its time");
        assert!(page().ends_with("# EOF\n") || page().contains("netferry_flows"));
        drop((idle, endless, deaf));
        end(container);
    });
}

#[test]
fn metrics_are_a_page_that_a_scraper_understands() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        let script = format!(
            "import socket, time; s = socket.create_connection(('{WORLD4}', 7)); s.sendall(b'x' * 9000); s.recv(9)\n\
             print('up', flush=True); time.sleep(60)"
        );
        let options = ["run", "-q", "--metrics", "9100", "-p", "8080:80", "--", PYTHON, "-c", &script];
        let mut container = start(ground.netferry(&options));
        container.wait_for(Stream::Out, "up");
        let fetch = |accept: &str| {
            let mut curl = ground.user("curl");
            curl.args(["-s", "-i", "-H", accept, "http://127.0.0.1:9100/metrics"]);
            let said = run(curl).expect_success().stdout;
            let (head, body) = said.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            (head.to_owned(), body.to_owned())
        };
        let (head, open) = fetch("Accept: application/openmetrics-text; version=1.0.0");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        let samples = parse_open_metrics(&open);
        let value = |name: &str, label: &str| {
            let found =
                samples.iter().find(|(key, _)| key.starts_with(&format!("{name}{{")) && key.contains(label));
            found.unwrap_or_else(|| panic!("no {name} {label} in {open}")).1
        };
        assert_eq!(value("netferry_flows", "state=\"established\""), 1.0);
        assert_eq!(value("netferry_published_ports", "tcp"), 2.0, "one of each family");
        assert!(value("netferry_link_bytes_total", "from_container") > 9_000.0);
        assert!(value("netferry_instance_info", "face=\"run\"") == 1.0);
        let (head, older) = fetch("Accept: text/plain");
        assert!(
            head.contains("version=0.0.4") && older.contains("# TYPE netferry_drops_total counter"),
            "{older}"
        );
        // By the socket it is the same text.
        let told = run(ground.netferry(&["metrics"])).expect_success().stdout;
        assert_eq!(parse_open_metrics(&told).len(), samples.len());
        // From elsewhere it is not to be had.
        assert!(ground.dial_from_world(HOST4, 9100).is_err());
        end(container);
    });
}

/// Samples by name and labels; fails on what the standard does not allow.
fn parse_open_metrics(text: &str) -> Vec<(String, f64)> {
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
    let (mut samples, mut family) = (Vec::<(String, f64)>::new(), (String::new(), String::new()));
    let mut families = std::collections::BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            family = (name.to_owned(), kind.to_owned());
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.starts_with(&format!("{} ", family.0)), "{line}");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = key.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
            let suffix = match family.1.as_str() {
                "counter" => "_total",
                "info" => "_info",
                "gauge" => "",
                kind => panic!("{kind}"),
            };
            assert_eq!(name, format!("{}{suffix}", family.0));
            let labels = labels.strip_suffix('}').unwrap();
            for label in labels.split("\",") {
                let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                assert!(is_name && !value.trim_end_matches('"').contains('"'), "{line}");
            }
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0 && !samples.iter().any(|(known, _)| known == key), "{line}");
            samples.push((key.to_owned(), value));
        }
    }
    samples
}

/// Plays a user at a terminal of 80 by 24: starts `top`, waits for its picture, ends it, and compares the terminal.
const AT_A_TERMINAL: &str = r#"
import fcntl, os, pty, signal, struct, sys, termios
for how in ['key', 'signal']:
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        os.environ['TERM'] = 'xterm'
        os.execv(sys.argv[1], ['netferry', 'top'])
    before, shown = termios.tcgetattr(fd), b''
    while b'q ends' not in shown:
        shown += os.read(fd, 65536)
    during = termios.tcgetattr(fd)
    assert during != before, 'it never took the terminal'
    if how == 'key':
        os.write(fd, b'q')
    else:
        os.kill(pid, signal.SIGTERM)
    try:
        while more := os.read(fd, 65536):
            shown += more
    except OSError:
        pass
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f'{how}: {status} after {shown[-300:]}'
    assert termios.tcgetattr(fd) == before, f'{how}: the terminal is another'
    entered, left = shown.find(b'\x1b[?1049h'), shown.rfind(b'\x1b[?1049l')
    assert 0 <= entered < left and shown.rfind(b'\x1b[?25h') > shown.rfind(b'\x1b[?25l'), shown[-300:]
    print(how, 'leaves it clean', flush=True)
"#;

#[test]
fn top_leaves_the_terminal_as_it_was() {
    sealed(|ground| {
        let container = instance(ground, &[]);
        let mut user = ground.user(PYTHON);
        user.args(["-c", AT_A_TERMINAL, SUBJECT]);
        let said = run(user).expect_success();
        said.expect_stdout("key leaves it clean").expect_stdout("signal leaves it clean");
        let told = run(ground.netferry(&["top", "--json"])).expect_success().stdout;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["status"]["face"], "run");
        end(container);
    });
}

fn children_of(parent: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
