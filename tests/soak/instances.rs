//! The instances that live as long as the soak, each with a container: one for each face of the program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, PYTHON, SCRATCH, SUBJECT};
use crate::process::{Running, Stream, start};
use crate::shift::PATIENCE;
use crate::watch::Watched;

/// What listens in every container (`server.py`).
const SERVER: &str = include_str!("server.py");
/// A container's own life, longer than any soak.
const ASLEEP: &str = "echo up $$; exec sleep 999999";

/// A container of the soak, and the instance that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `netferry run`, with published ports and short timeouts of UDP and echo.
    Run,
    /// As slirp4netns, sandboxed, with an API socket.
    Slirp4netns,
    /// As pasta, with spliced ports in both directions.
    Pasta,
}

/// All of them.
pub const FACES: [Face; 3] = [Face::Run, Face::Slirp4netns, Face::Pasta];

impl Face {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Face::Run => "run",
            Face::Slirp4netns => "slirp4netns",
            Face::Pasta => "pasta",
        }
    }
}

/// The API socket of [`Face::Slirp4netns`].
pub fn api_socket() -> String {
    format!("{SCRATCH}/soak-api.sock")
}

/// One that runs.
pub struct Instance {
    pub face: Face,
    /// The program under test.
    pub relay: Running,
    /// What holds the namespaces, if that is not the relay's own child.
    holder: Option<Running>,
    /// A process inside.
    inside: String,
    _server: Option<Running>,
    pub watched: Watched,
}

impl Instance {
    pub fn start(ground: &Ground, face: Face) -> Instance {
        let (relay, holder, inside) = match face {
            Face::Run => {
                let ports = ["7007:7", "7007:7/udp", "7080:8080"];
                let published = ports.iter().flat_map(|port| ["-p", port]);
                let options =
                    ["run", "--timeout", "udp=5s,icmp=5s,tcp-time-wait=2s"].into_iter().chain(published);
                let words: Vec<_> = options.chain(["--", "sh", "-c", ASLEEP]).collect();
                let mut relay = start(ground.netferry(&words));
                let inside = pid_in(&relay.wait_for(Stream::Out, "up"));
                (relay, None, inside)
            }
            Face::Slirp4netns => {
                let (holder, inside) = hold(ground);
                let api = api_socket();
                let options =
                    ["-c", "--enable-ipv6", "--enable-sandbox", "--enable-seccomp", "--api-socket", &api];
                let words = [&["slirp4netns"], &options[..], &[&inside, "tap0"]].concat();
                let mut relay = start(ground.netferry(&words));
                relay.wait_for(Stream::Out, "* Recommended IP");
                (relay, Some(holder), inside)
            }
            Face::Pasta => {
                let (holder, inside) = hold(ground);
                let link = Path::new(SCRATCH).join("pasta");
                if !link.exists() {
                    symlink(SUBJECT, &link).expect("the scratch directory is ours");
                }
                let mut command = ground.user(link.to_str().expect("plain"));
                command.args(["--config-net", "--foreground", "--no-map-gw", "--dns-forward", "169.254.1.1"]);
                command.args(["-t", "7107:7", "-u", "7107:7", "-T", "7207", "-U", "7207", &inside]);
                (start(command), Some(holder), inside)
            }
        };
        let watched = Watched::new(relay.pid(), &inside);
        let mut instance = Instance { face, relay, holder, inside, _server: None, watched };
        instance.await_network(ground);
        let mut server = instance.enter(ground, PYTHON);
        server.args(["-c", SERVER]);
        let mut server = start(server);
        server.wait_for(Stream::Out, "up");
        instance._server = Some(server);
        instance
    }

    /// Waits until the world can be reached, by both families.
    fn await_network(&self, ground: &Ground) {
        let deadline = Instant::now() + PATIENCE;
        let is_there = |target: &str| {
            let mut ip = self.enter(ground, "ip");
            let said = ip.args(["route", "get", target]).output().expect("nsenter starts");
            said.status.success() && !String::from_utf8_lossy(&said.stdout).contains("unreachable")
        };
        while !(is_there("203.0.113.2") && is_there("2001:db8:1::2")) {
            assert!(Instant::now() < deadline, "{} gives no network", self.face.name());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// `program`, to be run in the container.
    pub fn enter(&self, ground: &Ground, program: &str) -> Command {
        let mut command = ground.user("nsenter");
        command.args(["--target", &self.inside, "--user", "--net", "--preserve-credentials", program]);
        command
    }

    /// Ends the container, and the instance with it.
    pub fn end(self) {
        let Instance { relay, holder, _server, inside, .. } = self;
        drop(_server);
        match holder {
            Some(holder) => drop(holder),
            None => {
                let pid = inside.parse().expect("a PID");
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                    .expect("the command of run lives");
            }
        }
        drop(relay);
        // They are in a sandbox or killed, and cannot do it.
        for file in [api_socket(), format!("{SCRATCH}/pasta")] {
            let _ = fs::remove_file(file);
        }
    }
}

/// A namespace of the unprivileged user, and the process that holds it.
pub fn hold(ground: &Ground) -> (Running, String) {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", ASLEEP]);
    let mut holder = start(command);
    let inside = pid_in(&holder.wait_for(Stream::Out, "up"));
    (holder, inside)
}

fn pid_in(line: &str) -> String {
    line.split_whitespace().last().expect("up PID").to_owned()
}
