//! The user's hook as a real program: what it is asked, what comes of its answers, and of its silence and its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, WORLD4, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::rules::{ask, attach, attempt, counters, written};
use crate::servers::{echo, echo_datagrams, serve_streams};
use crate::slirp4netns::{container, inside};

/// Answers by the remote port, and writes down who it is and what it was asked.
const HOOK: &str = r#"#!/usr/bin/python3
import json, os, sys
log = open('LOG', 'a')
def note(what):
    log.write(json.dumps(what) + '\n'); log.flush()
note({'pid': os.getpid(), 'net': os.readlink('/proc/self/ns/net'), 'uid': os.getuid(),
      'open': {fd: os.readlink('/proc/self/fd/' + fd) for fd in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + fd)},
      'group': os.getpgrp()})
SAYS = {80: 'allow', 81: 'deny', 82: 'reject', 84: 'perhaps', 85: 'pass', 7: 'allow', 9: 'reject', 0: 'allow'}
for line in sys.stdin:
    asked = json.loads(line)
    note(asked)
    port = asked['remote']['port']
    answer = {'id': asked['id']}
    if asked['direction'] == 'in':
        answer['verdict'] = 'allow' if asked['remote']['address'] == '203.0.113.2' else 'deny'
    elif port == 83:
        continue
    elif port == 86:
        sys.exit(3)
    else:
        answer['verdict'] = SAYS[port]
        if port == 82:
            answer['lifetime'] = 600
    print(json.dumps(answer), flush=True)
note('end')
"#;

/// Writes the hook where anybody may run it; its path, and that of what it writes down.
fn hook(name: &str) -> (String, String) {
    let log = written(&format!("{name}.jsonl"), "");
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
    let program = written(name, &HOOK.replace("LOG", &log));
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (program, log)
}

/// What it has written down so far.
fn noted(log: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The states of flows to this port, as the command prints them.
fn states_to(ground: &Ground, port: u16) -> Vec<String> {
    let filter = format!("dst port {port}");
    let told = ask(ground, &["flows", "--json", &filter]).expect_success().stdout;
    let flows: Vec<Value> = serde_json::from_str(&told).unwrap();
    flows.iter().filter_map(|flow| flow["state"].as_str().map(str::to_owned)).collect()
}

fn serve_in(ground: &Ground, container: &Running, script: &str) -> Running {
    let pid = container.pid().to_string();
    let mut server = ground.user("nsenter");
    server.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", script]);
    let mut server = start(server);
    server.wait_for(Stream::Out, "up");
    server
}

#[test]
fn the_hook_is_asked_first_on_every_path_and_only_what_it_is_asked_about_waits() {
    sealed(|ground| {
        ground.needs(&["dig", "ping"]);
        ground.allow_ping();
        ground.world_resolver(WORLD4, "first");
        for port in 80..=86 {
            serve_streams(ground.world_listener(WORLD4, port), echo);
        }
        echo_datagrams(ground.world_datagrams(WORLD4, 7), false);
        let container = container(ground);
        let (program, log) = hook("hook.py");
        let options = [
            "--hook",
            &program,
            "--hook-timeout",
            "60s",
            "--deny",
            "203.0.113.2:80-86/tcp",
            "-p",
            "8080:80",
            "-p",
            "5353:53/udp",
        ];
        let mut relay = attach(ground, &container, &options);
        // Queries are not asked about; what they teach, over TCP as well, is told.
        let by_tcp = ["dig", "+tcp", "@10.0.2.3", "+time=20", "+tries=1", "www.test", "A"];
        inside(ground, &container, &by_tcp).expect_success().expect_stdout("203.0.113.2");
        let words = [
            "tcp/203.0.113.2/80/20",
            "tcp/203.0.113.2/81/1",
            "tcp/203.0.113.2/82/20",
            "tcp/203.0.113.2/84/1",
            "tcp/203.0.113.2/85/1",
            "udp/203.0.113.2/7/20",
            "udp/203.0.113.2/9/20",
        ];
        let heard = attempt(ground, &container, &words);
        // Allowed against the rules, denied, rejected, nonsense, left to the rules.
        assert_eq!(heard, ["ok", "silence", "ECONNREFUSED", "silence", "silence", "ok", "EHOSTUNREACH"]);
        inside(ground, &container, &["ping", "-n", "-c", "1", "-W", "20", "203.0.113.2"]).expect_success();
        // What was said for ten minutes is not asked again.
        assert_eq!(attempt(ground, &container, &["tcp/203.0.113.2/82/20"]), ["ECONNREFUSED"]);
        let to_82 = |asked: &&Value| asked["remote"]["port"] == 82;
        assert_eq!(noted(&log).iter().filter(to_82).count(), 1);

        // A published port: the world may, the host's own address may not; the container does not hear of it.
        let serve = "import socket; s = socket.create_server(('0.0.0.0', 80)); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                     u.bind(('0.0.0.0', 53)); print('up', flush=True)\n\
                     import threading\n\
                     def answer():\n\
                     \x20   while True: data, who = u.recvfrom(99); u.sendto(b'to ' + data, who)\n\
                     threading.Thread(target=answer, daemon=True).start()\n\
                     while True: c, who = s.accept(); print(who[0], flush=True); c.sendall(b'hello'); c.close()";
        let mut server = serve_in(ground, &container, serve);
        let mut greeting = [0; 5];
        ground.dial_from_world(HOST4, 8080).unwrap().read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello");
        server.wait_for(Stream::Out, "203.0.113.2");
        let mut refused = TcpStream::connect((HOST4, 8080)).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert!(matches!(refused.read(&mut greeting), Ok(0) | Err(_)), "it is let in");
        let client = ground.world_datagrams(WORLD4, 4_000);
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = [0; 9];
        client.send_to(b"you", (HOST4, 5353)).unwrap();
        assert_eq!(client.recv(&mut answer).unwrap(), 6);

        // One waits, and everything else goes on.
        let held = inside_later(ground, &container, 83);
        wait_until("it waits for the hook", || states_to(ground, 83) == ["asking"]);
        assert_eq!(attempt(ground, &container, &["tcp/203.0.113.2/80/20"]), ["ok"]);
        assert_eq!(states_to(ground, 83), ["asking"]);
        drop(held);

        let told = counters(ground);
        let hook = &told["hook"];
        let expected =
            [("allow", 6), ("deny", 2), ("reject", 3), ("pass", 1), ("remembered", 1), ("waiting", 1)];
        for (name, count) in expected {
            assert!(hook[name].as_u64().unwrap() >= count, "{name}: {told:#}");
        }
        assert!(hook["failed"].as_u64().unwrap() >= 1 && hook["bytes"].as_u64().unwrap() > 300, "{told:#}");
        // Who hears nothing may have said it again.
        assert!(told["rules"][0]["flows"].as_u64().unwrap() >= 1, "what it left to the rules: {told:#}");
        let table = ask(ground, &["rules", "-v"]).expect_success();
        let first = table.stdout.lines().nth(1).unwrap();
        assert!(first.starts_with("hook") && first.contains(&program), "{table}");
        let explained = ask(ground, &["explain", "tcp://203.0.113.2:85"]).expect_code(1);
        assert!(explained.stdout.contains("the hook is asked first"), "{explained}");
        let explained = ask(ground, &["explain", "tcp://203.0.113.2:82"]).expect_code(1);
        assert!(explained.stdout.contains("the hook rejects it, as it said before"), "{explained}");
        let last = ask(ground, &["explain", "--last", "20"]).expect_success();
        assert!(last.stdout.contains("by the hook") && last.stdout.contains("gave no answer"), "{last}");

        let all = noted(&log);
        let me = &all[0];
        let host = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(me["net"].as_str(), host.to_str(), "it is on the host's network");
        // What whoever runs the suite has left open is not ours.
        let is_ours = |target: &str| {
            ["socket:", "anon_inode:", "/dev/net/tun", "net:"].iter().any(|kind| target.starts_with(kind))
        };
        let open = me["open"].as_object().unwrap();
        let ours: Vec<_> = open
            .iter()
            .filter(|(_, target)| is_ours(target.as_str().unwrap()))
            .map(|(number, _)| number)
            .collect();
        assert_eq!(ours, ["0", "1"], "and has nothing of ours but one stream: {me}");
        assert_eq!(me["group"], me["pid"]);
        assert_eq!(
            (&all[1]["names"], &all[1]["remote"]["port"]),
            (&serde_json::json!(["www.test"]), &80.into())
        );
        let asked = all.iter().find(|asked| asked["remote"]["port"] == 7).unwrap();
        assert_eq!((&asked["protocol"], &asked["direction"]), (&"udp".into(), &"out".into()));
        assert_eq!(asked["local"]["address"], "10.0.2.100");
        assert_eq!(asked["instance"], relay.pid().to_string());
        table.stdout.lines().for_each(|line| println!("figures: rules -v: {line}"));
        println!("figures: asked: {asked}");

        // It ends, and who has been let through does not.
        let kept = serve_in(ground, &container, KEPT);
        inside_later(ground, &container, 86).finish(Duration::from_secs(90));
        relay.wait_for(Stream::Err, "has ended: from now on what it would be asked about is denied");
        assert_eq!(attempt(ground, &container, &["tcp/203.0.113.2/80/1"]), ["silence"]);
        assert_eq!(counters(ground)["hook"]["has_ended"], true);
        let explained = ask(ground, &["explain", "--json", "tcp://203.0.113.2:80"]).expect_code(1);
        assert!(explained.stdout.contains("hook_failed"), "{explained}");
        kept.signal(Signal::SIGUSR1);
        kept.finish(SOON).expect_success().expect_stdout("there");
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON).expect_success();
    });
}

/// Holds a connection, and uses it when it is told to.
const KEPT: &str = "\
import signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
s = socket.create_connection(('203.0.113.2', 80), 60); s.sendall(b'a'); assert s.recv(1) == b'a'
print('up', flush=True)
signal.sigwait([signal.SIGUSR1])
s.sendall(b'b'); assert s.recv(1) == b'b'; print('there')
";

/// A program in the container that tries to connect, for a second.
fn inside_later(ground: &Ground, container: &Running, port: u16) -> Running {
    let pid = container.pid().to_string();
    let script = format!(
        "import socket\ntry: socket.create_connection(('203.0.113.2', {port}), 1 if {port} == 86 else 60)\nexcept OSError as e: print(e)"
    );
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c", &script]);
    start(command)
}

#[test]
fn a_hook_that_is_slow_or_dead_fails_as_it_was_asked_for_and_ends_with_us() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 83), echo);
        let (program, log) = hook("slow.py");
        let connect = "import socket, sys\n\
                       try: s = socket.create_connection(('203.0.113.2', 83), 20); s.sendall(b'x'); print('got', s.recv(1))\n\
                       except OSError as error: print('refused', error)";
        let fetch = |options: &[&str]| {
            let command = [&["run", "-q", "--hook", &program, "--hook-timeout", "300ms"], options].concat();
            let command = [&command, &["--", PYTHON, "-c", connect][..]].concat();
            run(ground.netferry(&command)).expect_success().stdout
        };
        assert_eq!(fetch(&["--hook-failure", "pass"]), "got b'x'\n");
        assert!(fetch(&["--hook-failure", "pass", "--reject", "any"]).starts_with("refused"));
        // The hook has read to the end of its questions, or was ended.
        let pids: Vec<u64> = noted(&log).iter().filter_map(|note| note["pid"].as_u64()).collect();
        assert_eq!(pids.len(), 2);
        for pid in pids {
            let is_over = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit(')')
                    .next()
                    .is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
            };
            wait_until("the hook has ended with us", is_over);
        }
        let dead = written("dead.sh", "#!/bin/sh\nexit 1\n");
        std::fs::set_permissions(&dead, PermissionsExt::from_mode(0o755)).unwrap();
        let command = ["run", "--hook", &dead, "--hook-failure", "pass", "--", PYTHON, "-c", connect];
        let outcome = run(ground.netferry(&command)).expect_success();
        outcome.expect_stdout("got b'x'").expect_stderr("from now on the rules decide alone");
        let missing = run(ground.netferry(&["run", "--hook", "/nowhere/hook", "--", "true"])).expect_code(1);
        missing.expect_stderr("--hook: cannot run /nowhere/hook: No such file");
        let mut file = std::fs::File::create(format!("{SCRATCH}/plain")).unwrap();
        file.write_all(b"no program").unwrap();
        let plain = format!("{SCRATCH}/plain");
        run(ground.netferry(&["run", "--hook", &plain, "--", "true"]))
            .expect_code(1)
            .expect_stderr("Permission denied");
    });
}

#[test]
fn the_hook_of_a_network_is_one_program_that_all_its_containers_ask() {
    sealed(|ground| {
        for port in [80, 81, 86] {
            serve_streams(ground.world_listener(WORLD4, port), echo);
        }
        let missing = ["network", "create", "none", "--hook", "/nowhere/hook"];
        let missing = run(ground.netferry(&missing)).expect_code(1);
        missing.expect_stderr("--hook: cannot run /nowhere/hook: No such file");
        let (program, asked) = hook("shared.py");
        let log = written("lab.log", "");
        std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
        let create = format!(
            "network create lab --subnet 172.17.0.0/16 --hook {program} --hook-timeout 60s --log-file {log} \
             --deny 203.0.113.2:80/tcp"
        );
        ask(ground, &create.split(' ').collect::<Vec<_>>()).expect_success();
        let member = |name: &str| {
            let container = container(ground);
            let pid = container.pid().to_string();
            ask(ground, &["network", "connect", "lab", &pid, "--name", name]).expect_success();
            container
        };
        let (one, two) = (member("one"), member("two"));
        // Both at once, though each worker begins its numbers anew.
        let words = ["tcp/203.0.113.2/80/20", "tcp/203.0.113.2/81/1"];
        for container in [&one, &two] {
            assert_eq!(attempt(ground, container, &words), ["ok", "silence"]);
        }
        let all = noted(&asked);
        assert_eq!(all.iter().filter(|note| note["pid"].is_u64()).count(), 1, "{all:?}");
        let host = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(all[0]["net"].as_str(), host.to_str());
        assert_eq!(all[0]["open"]["2"], "/dev/null", "it keeps nothing of who has made the network");
        for name in ["lab/one", "lab/two"] {
            assert!(all.iter().any(|note| note["instance"] == name), "{all:?}");
            let table = ask(ground, &["rules", "-v", name]).expect_success();
            assert!(table.stdout.contains(&program), "{table}");
        }
        // It ends for all of them, and for those who come later.
        inside_later(ground, &one, 86).finish(Duration::from_secs(90));
        wait_until("the end is in the log", || std::fs::read_to_string(&log).unwrap().contains("has ended"));
        let three = member("three");
        for (container, name) in [(&one, "lab/one"), (&two, "lab/two"), (&three, "lab/three")] {
            wait_until("its worker has heard of the end", || {
                let told =
                    ask(ground, &["explain", "--json", name, "tcp://203.0.113.2:80"]).expect_code(1).stdout;
                told.contains("hook_failed")
            });
            assert_eq!(attempt(ground, container, &["tcp/203.0.113.2/80/1"]), ["silence"]);
        }
        ask(ground, &["network", "disconnect", "lab", "two"]).expect_success();
        ask(ground, &["network", "rm", "--force", "lab"]).expect_success();
        let told = std::fs::read_to_string(&log).unwrap();
        for what in ["ready", "connected member=\"one\"", "gone member=\"two\""] {
            assert!(told.contains(what), "{what}: {told}");
        }
    });
}
