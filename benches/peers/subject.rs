//! Who is compared: the relays, each serving a container of its own, and the kernel's own way for root.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::{container, inside, processor_seconds_of, resident_bytes_of, settle, wait_for_route};
use crate::ground::{Ground, HOST4, SCRATCH, SUBJECT, find_program};
use crate::process::{Outcome, Running, run, start};

/// The port of the container that is published.
pub const INNER_PORT: u16 = 5201;
/// The container's address behind the kernel's bridge.
const BRIDGED: &str = "10.9.0.2";

/// One of those who are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Netferry,
    Slirp4netns,
    Pasta,
    /// veth, bridge and MASQUERADE, set up by root.
    Kernel,
}

/// All of them, in the order of the tables.
pub const ALL: [Subject; 4] = [Subject::Netferry, Subject::Slirp4netns, Subject::Pasta, Subject::Kernel];

/// A container that a subject serves. Both end with it.
pub struct Served {
    pub subject: Subject,
    pid: String,
    relay: Option<Running>,
    _container: Running,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Netferry => "netferry",
            Subject::Slirp4netns => "slirp4netns",
            Subject::Pasta => "pasta",
            Subject::Kernel => "kernel",
        }
    }

    /// Whether it is one of those that need no root, and is not ours.
    pub fn is_peer(self) -> bool {
        matches!(self, Subject::Slirp4netns | Subject::Pasta)
    }

    /// The host's port that leads to the container's [`INNER_PORT`]: one for each, since all are there at once.
    pub fn outer_port(self) -> u16 {
        15_201 + self as u16
    }

    /// The program, where it is installed. The kernel's way needs iptables.
    pub fn program(self) -> Option<String> {
        let (variable, name) = match self {
            Subject::Netferry => return Some(SUBJECT.to_owned()),
            Subject::Slirp4netns => ("PEERS_SLIRP4NETNS", "slirp4netns"),
            Subject::Pasta => ("PEERS_PASTA", "pasta"),
            Subject::Kernel => ("PEERS_IPTABLES", "iptables"),
        };
        let program = env::var(variable).unwrap_or_else(|_| name.to_owned());
        find_program(&program).and_then(|path| path.to_str().map(str::to_owned))
    }

    /// What it says its version is.
    pub fn version(self) -> String {
        let Some(program) = self.program().filter(|_| self != Subject::Kernel) else {
            return fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        };
        let output = Command::new(program).arg("--version").output().map(|output| output.stdout);
        String::from_utf8_lossy(&output.unwrap_or_default()).lines().next().unwrap_or_default().to_owned()
    }

    /// Its command that serves the namespace of process `pid` and stays in the foreground.
    fn command(self, ground: &Ground, program: &str, pid: &str, mtu: u32) -> Command {
        let mut command = ground.user(program);
        let (mtu, outer) = (mtu.to_string(), self.outer_port());
        match self {
            Subject::Netferry => {
                let published = [format!("{outer}:{INNER_PORT}"), format!("{outer}:{INNER_PORT}/udp")];
                command.args(["attach", "--mtu", &mtu, "-p", &published[0], "-p", &published[1], pid, "tap0"])
            }
            Subject::Slirp4netns => {
                command.args(["--configure", "--mtu", &mtu, "--api-socket", &api_socket(pid), pid, "tap0"])
            }
            Subject::Pasta => command.args(pasta_words(&mtu, &format!("{outer}:{INNER_PORT}"), pid)),
            Subject::Kernel => unreachable!("the kernel's way is no program"),
        };
        command
    }

    /// Serves a new container whose interface has this MTU.
    pub fn serve(self, ground: &Ground, mtu: u32) -> Served {
        let (container, pid) = container(ground);
        settle(ground, &pid, "reno");
        let relay = (self != Subject::Kernel).then(|| {
            let program = self.program().expect("only those installed take part");
            start(self.command(ground, &program, &pid, mtu))
        });
        match &relay {
            Some(relay) => wait_for_route(ground, &pid, relay),
            None => bridge(ground, &pid, mtu),
        }
        if self == Subject::Slirp4netns {
            for protocol in ["tcp", "udp"] {
                publish(&api_socket(&pid), protocol, self.outer_port());
            }
        }
        Served { subject: self, pid, relay, _container: container }
    }

    /// Serves a new container whose published port is spliced for clients on the host's loopback: ours under the
    /// name of pasta, and pasta.
    pub fn serve_spliced(self, ground: &Ground, congestion: &str) -> Option<Served> {
        let program = match self {
            Subject::Netferry => SUBJECT.to_owned(),
            Subject::Pasta => self.program()?,
            Subject::Slirp4netns => return None,
            Subject::Kernel => {
                let (container, pid) = container(ground);
                return Some(Served { subject: self, pid, relay: None, _container: container });
            }
        };
        let (container, pid) = container(ground);
        settle(ground, &pid, congestion);
        let mut command = ground.user(&program);
        if self == Subject::Netferry {
            command.arg("pasta");
        }
        command.args(pasta_words("65520", &format!("{}:{INNER_PORT}", self.outer_port()), &pid));
        let relay = start(command);
        wait_for_route(ground, &pid, &relay);
        Some(Served { subject: self, pid, relay: Some(relay), _container: container })
    }

    /// How long it takes from its start to its word that it is ready, in seconds. Where it is `confined`, slirp4netns gives up
    /// files and system calls as podman has it do; ours always does.
    pub fn time_to_ready(self, ground: &Ground, confined: bool) -> Option<f64> {
        let program = self.program()?;
        let (container, pid) = container(ground);
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let pid_file = format!("{SCRATCH}/ready-{pid}.pid");
        let mut command = ground.user(&program);
        // The write end is descriptor 1, the one that is certainly inherited.
        match self {
            Subject::Netferry => command.args(["attach", "--ready-fd", "1", &pid, "tap0"]),
            Subject::Slirp4netns => {
                let confinement: &[&str] =
                    if confined { &["--enable-sandbox", "--enable-seccomp"] } else { &[] };
                command.args(confinement).args(["--configure", "--ready-fd", "1", &pid, "tap0"])
            }
            // It goes to the background when it is ready.
            Subject::Pasta => command
                .args(pasta_words("65520", "none", &pid).iter().filter(|word| *word != "--foreground"))
                .args(["--pid", &pid_file]),
            Subject::Kernel => return None,
        };
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let (mut child, took) = if self == Subject::Pasta {
            let mut child = command.stdout(Stdio::null()).spawn().expect("it is installed");
            child.wait().expect("own child");
            (child, began.elapsed())
        } else {
            let child = command.stdout(writer).spawn().expect("it is installed");
            // Ours are the only ends but the child's.
            drop(command);
            reader.read_exact(&mut [0; 1]).expect("it becomes ready");
            (child, began.elapsed())
        };
        // pasta has ended; what it left in the background is told by its file.
        let _ = child.kill();
        let _ = child.wait();
        if let Some(daemon) = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(daemon), Signal::SIGTERM);
        }
        drop(container);
        Some(took.as_secs_f64())
    }
}

impl Served {
    /// `script` in the container.
    pub fn inside(&self, ground: &Ground, script: &str) -> Command {
        inside(ground, &self.pid, script)
    }

    /// Processor time that the relay has used, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        self.relay.as_ref().map_or(0.0, |relay| processor_seconds_of(relay.pid()))
    }

    /// Bytes that the container's interface has carried, either way.
    pub fn link_bytes(&self) -> u64 {
        let table =
            fs::read_to_string(format!("/proc/{}/net/dev", self.pid)).expect("the container is there");
        let links =
            table.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
        links
            .flat_map(|(_, counters)| {
                let counters = counters.split_whitespace();
                let count = |counter: &str| counter.parse::<u64>().expect("a number");
                // Bytes received, and behind seven other counters bytes sent.
                counters.step_by(8).map(count).collect::<Vec<_>>()
            })
            .sum()
    }

    /// Resident memory of the relay's processes, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.relay.as_ref().map_or(0, |relay| resident_bytes_of(relay.pid()))
    }
}

/// Makes the host route and translate for root's bridge: once, before anyone is served.
pub fn prepare_kernel(ground: &Ground) {
    let outer = Subject::Kernel.outer_port();
    let mut script = "set -e; echo 1 > /proc/sys/net/ipv4/ip_forward; ip link add br9 type bridge; \
                      ip address add 10.9.0.1/24 dev br9; ip link set br9 up; \
                      iptables -t nat -A POSTROUTING -s 10.9.0.0/24 ! -o br9 -j MASQUERADE; "
        .to_owned();
    for protocol in ["tcp", "udp"] {
        script += &format!(
            "iptables -t nat -A PREROUTING -p {protocol} -d {HOST4} --dport {outer} \
             -j DNAT --to-destination {BRIDGED}:{INNER_PORT}; "
        );
    }
    let mut command = ground.root("sh");
    command.args(["-c", &script]);
    run(command).expect_success();
}

/// A veth of this MTU from root's bridge into the container.
fn bridge(ground: &Ground, pid: &str, mtu: u32) {
    let script = format!(
        "set -e; ip link add ve{pid} mtu {mtu} type veth peer name tap0 mtu {mtu} netns {pid}; \
         ip link set ve{pid} master br9 up; ip link set br9 mtu {mtu}"
    );
    let mut command = ground.root("sh");
    command.args(["-c", &script]);
    run(command).expect_success();
    let script = format!(
        "ip link set lo up && ip address add {BRIDGED}/24 dev tap0 && ip link set tap0 up && \
         ip route add default via 10.9.0.1"
    );
    run(inside(ground, pid, &script)).expect_success();
    std::thread::sleep(Duration::from_millis(500));
}

fn pasta_words(mtu: &str, published: &str, pid: &str) -> Vec<String> {
    let words = format!(
        "--foreground --quiet --config-net -I tap0 -a 10.0.2.100 -n 24 -g 10.0.2.2 -m {mtu} \
         -t {published} -u {published} -T none -U none {pid}"
    );
    words.split_whitespace().map(str::to_owned).collect()
}

fn api_socket(pid: &str) -> String {
    format!("{SCRATCH}/api-{pid}.sock")
}

/// Publishes a port as podman does: one request, a newline, the end of the stream; then the whole answer.
fn publish(socket: &str, protocol: &str, port: u16) {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{socket}: {error}"));
    let request = format!(
        "{{\"execute\":\"add_hostfwd\",\"arguments\":{{\"proto\":\"{protocol}\",\"host_addr\":\"0.0.0.0\",\
         \"host_port\":{port},\"guest_addr\":\"\",\"guest_port\":{INNER_PORT}}}}}\n"
    );
    stream.write_all(request.as_bytes()).expect("the relay reads requests");
    stream.shutdown(Shutdown::Write).expect("an open stream");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the relay answers");
    assert!(answer.contains("\"return\""), "the port was not published: {answer}");
}

/// The value after `name` in the last line of what a load printed.
pub fn value(outcome: &Outcome, name: &str) -> f64 {
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    let at = words.iter().rposition(|word| *word == name);
    at.and_then(|at| words.get(at + 1)?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {:?} {:?}", outcome.stdout, outcome.stderr))
}
