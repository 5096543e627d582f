//! The control socket: who is listed, who is answered, and that nothing of it stays behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{Ground, PYTHON, SCRATCH, sealed};
use crate::process::{Running, SOON, Stream, run, start};
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

fn children_of(parent: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
