//! A bug of ours costs the flow that it strikes: shown on a build that has one on demand.

use std::fs::File;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::ground::{Ground, PYTHON, WORLD4, bind, cannot_run, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo, serve_streams};

/// The debug build, which faults where its environment says.
const FAULTY: &str = "/mnt/faulty";

/// Three connections: what is exchanged on the first before and after each of the others is struck.
const CLIENT: &str = r#"
import socket, sys
def connect():
    s = socket.create_connection(("203.0.113.2", 7), timeout=10)
    s.settimeout(10)
    return s
def ask(s, text):
    s.sendall(text)
    got = b""
    while len(got) < len(text):
        part = s.recv(100)
        assert part, "ended"
        got += part
    assert got == text, got
honest = connect()
ask(honest, b"before")
for turn in range(3):
    struck = connect()
    ask(struck, b"unharmed")
    try:
        ask(struck, b"strike me")
        sys.exit("no fault")
    except ConnectionResetError:
        print("reset", flush=True)
    ask(honest, b"between")
ask(connect(), b"afterwards")
print("all others go on", flush=True)
"#;

fn make_faulty() {
    if !cfg!(debug_assertions) {
        cannot_run("faults on demand are compiled out of release builds: test a debug build");
    }
    File::create(FAULTY).expect("private directory");
    bind(Path::new(env!("CARGO_BIN_EXE_netferry")), Path::new(FAULTY));
}

fn faulty(ground: &Ground, arguments: &[&str]) -> std::process::Command {
    let mut command = ground.user(FAULTY);
    command.args(arguments).env("NETFERRY_FAULT", "strike");
    command
}

/// Once for the place of the fault, with the way there; then one line for each connection.
#[track_caller]
fn assert_told(log: &str) {
    assert!(log.contains("src/worker/fault.rs:") && log.contains("panics::install"), "{log}");
    assert_eq!(log.matches("please report it").count(), 1, "{log}");
    assert_eq!(log.matches("was ended by a fault of netferry's own; all others go on").count(), 3, "{log}");
}

#[test]
fn a_fault_resets_its_connection_and_no_other() {
    sealed(|ground| {
        make_faulty();
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        let before = ground.belongings();
        for workers in ["1", "3"] {
            let arguments = ["run", "--workers", workers, "--", PYTHON, "-c", CLIENT];
            let outcome = run(faulty(ground, &arguments)).expect_success();
            assert_eq!(outcome.stdout, "reset\nreset\nreset\nall others go on\n", "{outcome}");
            assert_told(&outcome.stderr);
        }
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_fault_is_told_and_survived_in_the_sandbox_as_well() {
    sealed(|ground| {
        make_faulty();
        serve_streams(ground.world_listener(WORLD4, 7), echo);
        let mut holder = ground.user("unshare");
        holder.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
        let mut container = start(holder);
        container.wait_for(Stream::Out, "up");
        let pid = container.pid().to_string();
        let options = ["slirp4netns", "-c", "--enable-sandbox", "--enable-seccomp", &pid, "tap0"];
        let relay: Running = start(faulty(ground, &options));
        let mut inside = ground.user("nsenter");
        inside.args(["--target", &pid, "--user", "--net", "--preserve-credentials", PYTHON, "-c"]);
        let script = format!(
            "import os, time\nwhile not os.path.exists('/proc/sys/net/ipv4/conf/tap0'): time.sleep(0.01)\ntime.sleep(0.3)\n{CLIENT}"
        );
        inside.arg(script);
        let outcome = run(inside).expect_success();
        outcome.expect_stdout("all others go on");
        relay.signal(Signal::SIGTERM);
        let log = relay.finish(SOON).expect_signal(Signal::SIGTERM).stderr;
        assert_told(&log);
    });
}
