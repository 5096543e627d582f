//! The instances that live as long as the soak, each with a container: one for each face of the program, one of two
//! workers, and a network with two containers that stay.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, PYTHON, SCRATCH, SUBJECT};
use crate::process::{Running, Stream, start};
use crate::shift::PATIENCE;
use crate::watch::Watched;

/// What listens in every container (`server.py`).
pub const SERVER: &str = include_str!("server.py");
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
    /// `netferry run` with two workers.
    Workers,
    /// A network: of its two containers one has the servers, the other the traffic.
    Network,
}

/// All of them.
pub const FACES: [Face; 5] = [Face::Run, Face::Slirp4netns, Face::Pasta, Face::Workers, Face::Network];

impl Face {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Face::Run => "run",
            Face::Slirp4netns => "slirp4netns",
            Face::Pasta => "pasta",
            Face::Workers => "two workers",
            Face::Network => "network",
        }
    }
}

/// The API socket of [`Face::Slirp4netns`].
pub fn api_socket() -> String {
    format!("{SCRATCH}/soak-api.sock")
}

/// The network of [`Face::Network`], and how its containers that stay are told.
pub const NETWORK: &str = "soak";
const SERVER_OF_NETWORK: &[&str] =
    &["--name", "server", "--ip", "172.30.0.2", "--ip6", "fd00:30::2", "-p", "7507:7", "-p", "7580:8080"];

/// One that runs.
pub struct Instance {
    pub face: Face,
    /// The program under test.
    pub relay: Running,
    /// What holds the namespaces, if that is not the relay's own child.
    holder: Option<Running>,
    /// A process inside.
    inside: String,
    /// The container of a network that has the traffic, and a process in it.
    client: Option<(Running, String)>,
    server: Option<Running>,
    pub watched: Watched,
}

impl Instance {
    pub fn start(ground: &Ground, face: Face) -> Instance {
        let mut client = None;
        let (relay, holder, inside) = match face {
            Face::Workers => {
                let options = ["run", "--workers", "2", "-p", "7707:7", "-p", "7780:8080"];
                let words = [&options[..], &["--", "sh", "-c", ASLEEP]].concat();
                let mut relay = start(ground.netferry(&words));
                let inside = pid_in(&relay.wait_for(Stream::Out, "up"));
                (relay, None, inside)
            }
            Face::Network => {
                let subnets = ["--subnet", "172.30.0.0/16", "--subnet6", "fd00:30::/64"];
                let create = [&["network", "create", NETWORK], &subnets[..]].concat();
                start(ground.netferry(&create)).finish(PATIENCE).expect_success();
                let member = |options: &[&str]| {
                    let words =
                        [&["run", "--network", NETWORK], options, &["--", "sh", "-c", ASLEEP]].concat();
                    let mut relay = start(ground.netferry(&words));
                    let inside = pid_in(&relay.wait_for(Stream::Out, "up"));
                    (relay, inside)
                };
                let (relay, inside) = member(SERVER_OF_NETWORK);
                client = Some(member(&["--name", "client"]));
                (relay, None, inside)
            }
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
        let mut roots: Vec<i32> = [Some(relay.pid()), client.as_ref().map(|(relay, _)| relay.pid())]
            .into_iter()
            .flatten()
            .collect();
        roots.extend((face == Face::Network).then(processes_of_network).into_iter().flatten());
        let watched = Watched::new(roots, &inside);
        let mut instance = Instance { face, relay, holder, inside, client, server: None, watched };
        instance.await_network(ground);
        let mut server = instance.enter(ground, PYTHON);
        server.args(["-c", SERVER]);
        let mut server = start(server);
        server.wait_for(Stream::Out, "up");
        instance.server = Some(server);
        instance
    }

    /// The one with this face.
    pub fn of(instances: &[Instance], face: Face) -> &Instance {
        instances.iter().find(|instance| instance.face == face).expect("all faces have one")
    }

    /// Its control socket, if it has one.
    pub fn control(&self) -> Option<PathBuf> {
        let name = format!("{}.sock", self.relay.pid());
        let directories = fs::read_dir("/tmp").expect("ours").flatten().map(|entry| entry.path());
        directories.map(|directory| directory.join(&name)).find(|path| path.exists())
    }

    /// What its servers have said of ends of their own making since it was `seen`.
    pub fn said_by_server(&self, seen: &mut usize) -> Vec<String> {
        let said = self.server.as_ref().map(|server| server.so_far(Stream::Out)).unwrap_or_default();
        let whole = said.rfind('\n').map_or(0, |end| end + 1);
        let new = said[*seen..whole].lines().filter(|line| *line != "up").map(str::to_owned).collect();
        *seen = whole;
        new
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
        enter(ground, &self.inside, &[], program)
    }

    /// The same where its traffic comes from. On a network that is another container, with its own resolv.conf.
    pub fn enter_client(&self, ground: &Ground, program: &str) -> Command {
        match &self.client {
            Some((_, inside)) => enter(ground, inside, &["--mount"], program),
            None => self.enter(ground, program),
        }
    }

    /// Ends the container, and the instance with it.
    pub fn end(self, ground: &Ground) {
        let Instance { face, relay, holder, server, inside, client, .. } = self;
        drop(server);
        let kill_command = |pid: &str| {
            let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a PID"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the command of run lives");
        };
        match holder {
            Some(holder) => drop(holder),
            None => kill_command(&inside),
        }
        if let Some((_, inside)) = &client {
            kill_command(inside);
        }
        drop((relay, client));
        if face == Face::Network {
            let remove = ["network", "rm", "--force", NETWORK];
            start(ground.netferry(&remove)).finish(PATIENCE).expect_success();
        }
        // They are in a sandbox or killed, and cannot do it.
        for file in [api_socket(), format!("{SCRATCH}/pasta")] {
            let _ = fs::remove_file(file);
        }
    }
}

/// `program`, to be run where the process `inside` is.
pub fn enter(ground: &Ground, inside: &str, options: &[&str], program: &str) -> Command {
    let mut command = ground.user("nsenter");
    command.args(["--target", inside, "--user", "--net"]).args(options);
    command.args(["--preserve-credentials", program]);
    command
}

/// Those that serve [`NETWORK`].
fn processes_of_network() -> Vec<i32> {
    let asked = format!("network\0create\0{NETWORK}\0");
    let all = crate::ground::processes().into_iter().filter_map(|line| line.split(' ').next()?.parse().ok());
    let serving = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&asked)
    };
    let found: Vec<i32> = all.filter(serving).collect();
    assert!(!found.is_empty(), "nobody serves the network");
    found
}

/// A namespace of the unprivileged user, and the process that holds it.
pub fn hold(ground: &Ground) -> (Running, String) {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", ASLEEP]);
    let mut holder = start(command);
    let inside = pid_in(&holder.wait_for(Stream::Out, "up"));
    (holder, inside)
}

/// The number behind `up`.
fn pid_in(line: &str) -> String {
    line.split_whitespace().last().expect("up PID").to_owned()
}
