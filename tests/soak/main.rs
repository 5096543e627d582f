//! Mixed real traffic for as long as one likes, through instances that live all the while, on sealed ground.
//!
//! `NETFERRY_SOAK_SECONDS=3600 cargo test --release --test soak`: an hour; 25 seconds without the variable, as a part of
//! `tests/run`. Time goes in shifts of a minute, each with a line: all activities of [`activities`] at once, then quiet,
//! in which no connection, descriptor, thread or process more than at the beginning may be left. Memory of the quiet
//! moments is compared, the later with the earlier. Everything that arrives is compared with what was sent. In the end
//! all is stopped, and nothing may be left behind. It fails if anything was found, and then says what.
//!
//! `NETFERRY_BIN` names another program to test than the one that was just built; `NETFERRY_SOAK_REPORT` a file for the tables,
//! which is written anew after each shift.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used, clippy::must_use_candidate)]

mod activities;
mod churn;
#[path = "../netns/dns.rs"]
#[allow(dead_code)]
mod dns;
#[path = "../netns/ground.rs"]
#[allow(dead_code)]
mod ground;
mod instances;
mod observers;
#[path = "../netns/pattern.rs"]
#[allow(dead_code)]
mod pattern;
mod pcapng;
#[path = "../netns/process.rs"]
#[allow(dead_code)]
mod process;
mod report;
#[path = "../netns/servers.rs"]
#[allow(dead_code)]
mod servers;
mod shift;
mod watch;

use std::env;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, wait};

use ground::{FAR4, Ground, WORLD4, WORLDS, is_sealed, seal};
use instances::{FACES, Instance};
use process::start;
use report::Report;
use servers::{echo, echo_datagrams, http, serve_streams};

/// What a relay may say: that it is up, and what follows from what the soak does to it.
pub const EXPECTED: &[&str] = &["gateway 10.0.2.2", "sent tapfd=", "received tapfd=", "Starting slirp", "* "];

/// Names a file for the report.
const REPORT: &str = "NETFERRY_SOAK_REPORT";
/// A shift with its quiet.
const SHIFT: Duration = Duration::from_secs(60);
/// The longest silence after which an exchange of datagrams ends, and somewhat more.
const SILENCE: Duration = Duration::from_secs(330);

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        println!("soak: test");
        return ExitCode::SUCCESS;
    }
    // What names tests of other targets.
    if words.iter().any(|word| !word.starts_with('-') && !"soak".contains(word.as_str())) {
        return ExitCode::SUCCESS;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    if !is_sealed() {
        let mut sealed = seal::<&str>(&[]);
        // Opened before the ground covers what lies there.
        let file = env::var_os(REPORT)
            .map(|path| File::create(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")));
        if let Some(file) = &file {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open file");
            sealed.env(REPORT, format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        let status = sealed.status().expect("setpriv and unshare (util-linux) start");
        return ground::verdict_of("soak", status);
    }
    if std::process::id() == 1 {
        return bury_orphans(Command::new(env::current_exe().expect("a path")).args(words));
    }
    let seconds =
        env::var("NETFERRY_SOAK_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let report = soak(&Ground::build(), Duration::from_secs(seconds.unwrap_or(25)));
    println!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends of processes that lost their parents come to the first process of a PID namespace. It does nothing else, as it could
/// not tell them from children that somebody waits for; `soak` is its only child.
#[expect(clippy::zombie_processes, reason = "the loop waits for it, among others")]
fn bury_orphans(soak: &mut Command) -> ExitCode {
    let soak = soak.spawn().expect("this program starts");
    loop {
        match wait().expect("there is a child at least") {
            WaitStatus::Exited(pid, code) if pid.as_raw().cast_unsigned() == soak.id() => {
                return u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from);
            }
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw().cast_unsigned() == soak.id() => {
                println!("the soak was ended by {signal}");
                return ExitCode::FAILURE;
            }
            _ => {}
        }
    }
}

fn soak(ground: &Ground, length: Duration) -> Report {
    ground.needs(&["curl", "dig", "ping", "sha256sum"]);
    ground.allow_ping();
    serve(ground);
    // Locks of networks stay.
    let first = ["run", "--network", instances::NETWORK, "--", "true"];
    start(ground.netferry(&first)).finish(shift::PATIENCE).expect_success();
    let deadline = Instant::now() + shift::PATIENCE;
    while !ground::processes().is_empty() {
        assert!(Instant::now() < deadline, "a network that was removed has processes");
        thread::sleep(Duration::from_millis(20));
    }
    let before = ground.belongings();
    let instances: Vec<_> = FACES.into_iter().map(|face| Instance::start(ground, face)).collect();
    let baseline: Vec<_> = instances.iter().map(|instance| instance.watched.sample()).collect();
    let began = Instant::now();
    // Two at least, so that there is something to compare.
    let shifts = (length.as_secs() / SHIFT.as_secs()).max(2);
    let mut report = Report::new(&baseline);
    let mut file = env::var_os(REPORT).map(|path| File::create(path).expect("it was opened for us"));
    let mut seen = vec![0; instances.len()];
    let mut heard = vec![0; instances.len()];
    for number in 1..=shifts {
        let left =
            length.saturating_sub(began.elapsed()) / u32::try_from(shifts - number + 1).expect("small");
        // Quiet takes a part of it.
        let traffic = left.mul_f64(0.85).max(Duration::from_secs(5));
        let mut outcome = shift::work(ground, &instances, &baseline, traffic);
        for (instance, seen) in instances.iter().zip(&mut seen) {
            outcome.findings.extend(shift::unexpected(instance, seen));
        }
        for (instance, heard) in instances.iter().zip(&mut heard) {
            let said = instance.said_by_server(heard).into_iter();
            outcome.findings.extend(said.map(|line| format!("server of {}: {line}", instance.face.name())));
        }
        outcome.findings.extend(connections_left(ground, shift::connections));
        report.take(began.elapsed(), outcome);
        report.write_to(file.as_mut());
    }
    if length > 2 * SILENCE {
        println!("quiet for {} s, so that exchanges of datagrams end", SILENCE.as_secs());
        thread::sleep(SILENCE);
        report.take_silence(&instances.iter().map(|instance| instance.watched.sample()).collect::<Vec<_>>());
    }
    instances.into_iter().for_each(|instance| instance.end(ground));
    let after = ground.belongings_after(&before);
    report.take_end((after != before).then(|| format!("{after:?}, before {before:?}")));
    report.write_to(file.as_mut());
    report
}

/// Connections that nobody can want any more, in the world and on the host.
fn connections_left(ground: &Ground, count: fn() -> usize) -> Option<String> {
    let deadline = Instant::now() + shift::PATIENCE;
    loop {
        let (host, world) = (count(), ground.in_world(count));
        if host + world == 0 {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("{host} connections are left on the host, {world} in the world"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Servers of the world at 7 (echo), 19 (reset), 53 and 8080 (bodies), and of the host's loopback at 7207 (echo).
fn serve(ground: &Ground) {
    for address in WORLDS {
        serve_streams(ground.world_listener(address, 7), echo);
        echo_datagrams(ground.world_datagrams(address, 7), false);
        http(ground.world_listener(address, 8080));
    }
    // Only reached when the rules allow it.
    http(ground.world_listener(FAR4, 8080));
    serve_streams(ground.world_listener(WORLD4, 19), |mut stream, _| {
        let _ = stream.read(&mut [0; 1])?;
        // Closed with something unread, it is reset.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    });
    ground.world_resolver(WORLD4, "world");
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(address, 7207);
        serve_streams(TcpListener::bind(address).expect("a free port"), echo);
        echo_datagrams(UdpSocket::bind(address).expect("a free port"), false);
    }
}
