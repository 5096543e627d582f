//! What becomes of the network when something breaks around it: docs/faults.md has the table.
//!
//! A case serves a container by one [`Face`] or all of them, and lets an [`Agent`] in there hold connections while it breaks
//! something. The world echoes streams at port 7000, and tells datagrams at port 7001 where they came from.

mod death;
mod device;
mod host;
mod kernel;
mod output;
mod pause;

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{FAR4, FAR6, Ground, PYTHON, SCRATCH, SUBJECT};
use crate::process::{Running, SOON, Stream, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

/// Under which name, and for whose container, the program works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `netferry run`: the container is ours.
    Run,
    /// `netferry attach PID`.
    Attach,
    /// As RootlessKit starts slirp4netns.
    Slirp4netns,
    /// `pasta COMMAND`: the host's addresses are the container's.
    Pasta,
}

/// All of them.
pub const FACES: [Face; 4] = [Face::Run, Face::Attach, Face::Slirp4netns, Face::Pasta];

/// A relay, and the container that it serves.
pub struct Served {
    pub face: Face,
    pub relay: Running,
    /// A process in the container.
    pub container: i32,
    /// That process, where it is not the relay's child.
    holder: Option<Running>,
}

const HELD: &str = "echo container $$; exec sleep 100";

/// A namespace of the unprivileged user, held by a sleeping process.
pub fn holder(ground: &Ground) -> Running {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", HELD]);
    let mut holder = start(command);
    holder.wait_for(Stream::Out, "container ");
    holder
}

impl Face {
    /// Its command line for a container, with `options`; and whoever holds that, where it is not ours.
    pub fn words(self, ground: &Ground, options: &[&str]) -> (Vec<String>, Option<Running>) {
        let holder = matches!(self, Face::Attach | Face::Slirp4netns).then(|| holder(ground));
        let number = holder.as_ref().map(|holder| holder.pid().to_string()).unwrap_or_default();
        let words = match self {
            Face::Run => [&["run"], options, &["--", "sh", "-c", HELD]].concat(),
            Face::Attach => [&["attach"], options, &[&number]].concat(),
            Face::Slirp4netns => {
                [&["slirp4netns", "-c", "--enable-ipv6"], options, &[&number, "tap0"]].concat()
            }
            Face::Pasta => [&["pasta", "--config-net"], options, &["--", "sh", "-c", HELD]].concat(),
        };
        (words.into_iter().map(str::to_owned).collect(), holder)
    }

    /// Serves a container, as the unprivileged user.
    pub fn serve(self, ground: &Ground, options: &[&str]) -> Served {
        self.serve_by(ground, options, start)
    }

    /// The same, started otherwise.
    pub fn serve_by(
        self,
        ground: &Ground,
        options: &[&str],
        start: impl FnOnce(Command) -> Running,
    ) -> Served {
        let (words, holder) = self.words(ground, options);
        let mut command = ground.user(SUBJECT);
        command.args(words);
        let mut relay = start(command);
        let container = match &holder {
            Some(holder) => holder.pid(),
            None => number_in(&relay.wait_for(Stream::Out, "container ")),
        };
        Served { face: self, relay, container, holder }
    }
}

fn number_in(line: &str) -> i32 {
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}

impl Served {
    /// `program` in the container, as its root.
    pub fn inside(&self, ground: &Ground, program: &str) -> Command {
        let mut command = ground.user("nsenter");
        let pid = self.container.to_string();
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials", program]);
        command
    }

    /// The name of its interface.
    pub fn device(&self) -> &'static str {
        // As the host's has it.
        if self.face == Face::Pasta { "host0" } else { "tap0" }
    }

    /// Runs `ip` there.
    #[track_caller]
    pub fn ip(&self, ground: &Ground, words: &str) {
        let output = self.inside(ground, "ip").args(words.split(' ')).output().expect("ip starts");
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until the container has its addresses and whoever configures it is done, and starts an agent there.
    #[track_caller]
    pub fn agent(&self, ground: &Ground) -> Agent {
        let mut command = self.inside(ground, PYTHON);
        command.args(["-c", AGENT]);
        let mut running = start(command);
        running.wait_for(Stream::Out, "#0 ready");
        Agent { running, asked: 0 }
    }

    /// Seconds of processor time that the relay has spent.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.relay.pid())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("stat").split(' ').collect();
        let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Ends it in the way of its face; nothing but that may have ended it before.
    #[track_caller]
    pub fn end(self) -> crate::process::Outcome {
        match self.face {
            Face::Run | Face::Pasta => {
                kill(Pid::from_raw(self.container), Signal::SIGTERM).expect("it lives")
            }
            Face::Attach | Face::Slirp4netns => self.relay.signal(Signal::SIGTERM),
        }
        let outcome = self.relay.finish(SOON);
        drop(self.holder);
        match self.face {
            Face::Run | Face::Pasta => outcome.expect_code(128 + 15),
            Face::Attach => outcome.expect_success(),
            Face::Slirp4netns => outcome.expect_signal(Signal::SIGTERM),
        }
    }

    /// Whether the relay waits, and has nothing to do.
    pub fn is_sleeping(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.relay.pid())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    }
}

/// Evaluates in the container what it is asked, and holds sockets by name meanwhile. What it answers to an error is its name.
const AGENT: &str = "\
import errno, os, socket, time
held = {}
def connect(name, address='198.51.100.7', port=7000, timeout=10):
    s = held[name] = socket.create_connection((address, port), timeout); return 'connected'
def datagrams(name, address='198.51.100.7', port=7001, timeout=3):
    s = held[name] = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(*((41, 25, 1) if ':' in address else (0, 11, 1)))
    s.settimeout(timeout); s.connect((address, port)); return 'open'
def echo(name, size=1, timeout=20):
    s = held[name]; s.settimeout(timeout); data = os.urandom(size); s.sendall(data); got = b''
    while len(got) < size:
        part = s.recv(1 << 16)
        if not part: return 'end'
        got += part
    return 'echoed' if got == data else 'wrong bytes'
def asks(name, timeout=1):
    s = held[name]; s.settimeout(timeout); s.send(b'x'); return s.recv(100).decode().strip()
def pings(name, address='198.51.100.7'):
    six = ':' in address
    s = held[name] = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, 58 if six else 1)
    s.setsockopt(*((41, 25, 1) if six else (0, 11, 1))); s.connect((address, 0)); return 'open'
def echoes(name, timeout=1):
    s = held[name]; s.settimeout(timeout); mark = os.urandom(8)
    s.send(bytes([128 if s.family == socket.AF_INET6 else 8, 0, 0, 0, 0, 0, 0, 1]) + mark)
    while s.recv(100)[8:] != mark: pass
    return 'answered'
def until(wanted, what, timeout=20):
    deadline = time.monotonic() + timeout
    while True:
        answer = tried(what)
        if wanted in answer or time.monotonic() > deadline: return answer
        time.sleep(0.02)
def tried(what):
    try: return str(eval(what))
    except socket.timeout: return 'TIMEOUT'
    except OSError as error: return errno.errorcode.get(error.errno, repr(error))
def has_default():
    lines = [line.split() for line in open('/proc/net/route')][1:]
    return any(words[1] == '00000000' for words in lines) and os.path.exists('/proc/net/if_inet6')
deadline = time.monotonic() + 20
while not has_default() and time.monotonic() < deadline: time.sleep(0.005)
number = 0
print('#0 ready', flush=True)
while True:
    number += 1
    path = '/mnt/scratch/asked-%d-%d' % (os.getpid(), number)
    while not os.path.exists(path): time.sleep(0.002)
    print('#%d %s' % (number, tried(open(path).read())), flush=True)
";

/// A program in the container that does as it is asked.
pub struct Agent {
    running: Running,
    asked: usize,
}

impl Agent {
    /// Has a Python expression evaluated there.
    #[track_caller]
    pub fn ask(&mut self, what: &str) -> String {
        self.begin(what);
        self.answer()
    }

    /// Asks, and does not wait for the answer.
    pub fn begin(&mut self, what: &str) {
        self.asked += 1;
        let path = format!("{SCRATCH}/asked-{}-{}", self.running.pid(), self.asked);
        fs::write(format!("{path}.new"), what).expect("the scratch directory is ours");
        fs::rename(format!("{path}.new"), path).expect("the scratch directory is ours");
    }

    /// What comes of what it was asked last.
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let prefix = format!("#{} ", self.asked);
        let line = self.running.wait_for(Stream::Out, &prefix);
        line[prefix.len()..].to_owned()
    }

    /// Has it evaluated, and expects this.
    #[track_caller]
    pub fn expect(&mut self, what: &str, answer: &str) {
        assert_eq!(self.ask(what), answer, "{what}");
    }
}

/// The world's servers.
pub fn serve_world(ground: &Ground) {
    for world in [IpAddr::V4(FAR4), FAR6.into()] {
        serve_streams(ground.world_listener(world, 7000), echo);
        echo_datagrams(ground.world_datagrams(world, 7001), true);
    }
}

/// Runs `ip` on the host.
#[track_caller]
pub fn host_ip(ground: &Ground, words: &str) {
    let output = ground.root("ip").args(words.split(' ')).output().expect("ip starts");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
