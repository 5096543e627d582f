//! `netferry attach`: a network for a namespace that somebody else made.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::ground::{Ground, SCRATCH, SUBJECT, WORLD4, sealed};
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::http;

/// A namespace of the unprivileged user, held by a sleeping process.
fn target(ground: &Ground) -> Running {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
    let mut target = start(command);
    target.wait_for(Stream::Out, "up");
    // What is compared later is to see `sleep`, not the shell that is about to become it.
    await_name(target.pid(), "sleep");
    target
}

fn await_name(pid: i32, name: &str) {
    let deadline = Instant::now() + SOON;
    while std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end() != name {
        assert!(Instant::now() < deadline, "process {pid} did not become {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `program` inside `target`.
fn inside(ground: &Ground, target: &Running, program: &[&str]) -> Outcome {
    let pid = target.pid().to_string();
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
    run(command)
}

/// Starts `netferry attach` and waits until it says that it is ready.
fn attach(ground: &Ground, arguments: &[&str]) -> Running {
    let mut running = start(ground.netferry(&[&["attach"], arguments].concat()));
    running.wait_for(Stream::Err, "gateway");
    running
}

fn works(ground: &Ground, target: &Running) {
    ground.needs(&["curl"]);
    http(ground.world_listener(WORLD4, 8080));
    inside(ground, target, &["curl", "-sS", "--max-time", "10", "http://203.0.113.2:8080/"])
        .expect_success()
        .expect_stdout("hello ");
}

/// Ends it as a runtime does, and sees that the device went with it.
fn end(ground: &Ground, running: Running, target: &Running, device: &str) {
    running.signal(Signal::SIGTERM);
    running.finish(SOON);
    let links = inside(ground, target, &["ip", "-brief", "link"]).expect_success();
    assert!(!links.stdout.contains(device), "the device was left behind\n{links}");
}

#[test]
fn a_namespace_is_attached_to_by_pid() {
    sealed(|ground| {
        let target = target(ground);
        let before = ground.belongings();
        let running = attach(ground, &[&target.pid().to_string()]);
        works(ground, &target);
        end(ground, running, &target, "tap0");
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_namespace_is_attached_to_by_path() {
    sealed(|ground| {
        let target = target(ground);
        let netns = format!("/proc/{}/ns/net", target.pid());
        let userns = format!("/proc/{}/ns/user", target.pid());
        let running = attach(ground, &["--userns", &userns, &netns, "eth7"]);
        works(ground, &target);
        end(ground, running, &target, "eth7");
    });
}

#[test]
fn a_named_namespace_of_root_is_attached_to_by_root() {
    sealed(|ground| {
        // As `ip netns add` makes it: a file on which the namespace is mounted.
        let name = Path::new(SCRATCH).join("named");
        std::fs::File::create(&name).unwrap();
        let name = name.to_str().unwrap();
        let mut make = ground.root("unshare");
        make.arg(format!("--net={name}")).arg("true");
        run(make).expect_success();
        let mut command = ground.root(SUBJECT);
        command.args(["attach", name]);
        let mut running = start(command);
        running.wait_for(Stream::Err, "gateway");
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        let mut curl = ground.root("nsenter");
        curl.arg(format!("--net={name}")).args([
            "curl",
            "-sS",
            "--max-time",
            "10",
            "http://203.0.113.2:8080/",
        ]);
        run(curl).expect_success().expect_stdout("hello ");
        running.signal(Signal::SIGTERM);
        running.finish(SOON);
    });
}

#[test]
fn attaching_configures_addresses_and_routes() {
    sealed(|ground| {
        let target = target(ground);
        let _running = attach(ground, &["--mtu", "4000", &target.pid().to_string(), "eth7"]);
        let text =
            inside(ground, &target, &["sh", "-c", "ip -o address; ip route; ip -6 route; ip link"]).stdout;
        for expected in ["10.0.2.100/24", "default via 10.0.2.2 dev eth7", "mtu 4000", "default via fe80::"] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
    });
}

#[test]
fn attach_ends_when_its_target_is_gone() {
    sealed(|ground| {
        let target = target(ground);
        let running = attach(ground, &[&target.pid().to_string()]);
        drop(target);
        // Nobody is left to be served; a runtime may not come to end us.
        running.finish(Duration::from_secs(10));
    });
}

#[test]
fn attach_to_a_path_ends_with_the_last_holder_of_its_namespace() {
    sealed(|ground| {
        let target = target(ground);
        let netns = format!("/proc/{}/ns/net", target.pid());
        let userns = format!("/proc/{}/ns/user", target.pid());
        let running = attach(ground, &["--userns", &userns, &netns]);
        works(ground, &target);
        // Known by no process and no mount any more; our own descriptors must not keep it.
        drop(target);
        running.finish(Duration::from_secs(10)).expect_success();
    });
}

#[test]
fn readiness_is_told_on_a_descriptor() {
    sealed(|ground| {
        let target = target(ground);
        let mut command = ground.user("sh");
        let script = format!("{SUBJECT} attach --ready-fd 5 {} 5>&1 2>/dev/null", target.pid());
        command.args(["-c", &script]);
        let mut running = start(command);
        let deadline = std::time::Instant::now() + SOON;
        while running.so_far(Stream::Out).is_empty() {
            assert!(std::time::Instant::now() < deadline, "no word on the descriptor");
            std::thread::sleep(Duration::from_millis(10));
        }
        works(ground, &target);
        running.signal(Signal::SIGTERM);
        drop(target);
        let _ = &mut running;
    });
}

#[test]
fn a_port_can_be_published_into_an_attached_namespace() {
    sealed(|ground| {
        let target = target(ground);
        let _running = attach(ground, &["-p", "8080:80", &target.pid().to_string()]);
        let pid = target.pid().to_string();
        let mut server = ground.user("nsenter");
        server.args([
            "--target",
            &pid,
            "--user",
            "--net",
            "--preserve-credentials",
            crate::ground::PYTHON,
            "-c",
        ]);
        server.arg(
            "import socket\ns = socket.socket(); s.bind(('', 80)); s.listen(); print('up', flush=True)\n\
             c, a = s.accept(); print('client', a[0], a[1], flush=True)",
        );
        let mut server = start(server);
        server.wait_for(Stream::Out, "up");
        let stream = ground.dial_from_world(crate::ground::HOST4, 8080).unwrap();
        let client = stream.local_addr().unwrap();
        server.wait_for(Stream::Out, &format!("client {} {}", client.ip(), client.port()));
    });
}
