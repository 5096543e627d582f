//! Killed at each step of start-up, and each of the processes that belong together killed while it serves.
//!
//! The steps are those of a run that `strace` has recorded: the program is killed in the n-th call of a name, for calls all
//! along the way; alone, or with each of its children that comes to the same call.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Face, eventually, holder, serve_world};
use crate::ground::{Ground, SCRATCH, SUBJECT, processes, sealed};
use crate::process::{Outcome, Running, SOON, Stream, start};

/// A start-up that comes to an end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Run,
    Attach,
    PastaCommand,
    PastaInTheBackground,
}

const STARTS: [Start; 4] = [Start::Run, Start::Attach, Start::PastaCommand, Start::PastaInTheBackground];

/// One of the calls of a recorded start-up: the how-manieth of its name.
type Step = (String, usize);

/// Runs one under `strace`; whoever holds its container ends when the start-up has.
fn trace(ground: &Ground, what: Start, options: &[&str]) -> Outcome {
    ground.needs(&["strace"]);
    let mut holder = matches!(what, Start::Attach | Start::PastaInTheBackground).then(|| holder(ground));
    let number = holder.as_ref().map(|holder| holder.pid().to_string()).unwrap_or_default();
    let words: &[&str] = match what {
        Start::Run => &["run", "-p", "8080:80", "--", "true"],
        Start::Attach => &["attach", "-p", "8080:80", &number],
        Start::PastaCommand => &["pasta", "--config-net", "-t", "8080", "--", "true"],
        Start::PastaInTheBackground => &["pasta", "--config-net", "-t", "8080", &number],
    };
    let mut command = Command::new("strace");
    command.args(["-qq"]).args(options);
    let user = ground.user(SUBJECT);
    command.arg(user.get_program()).args(user.get_args()).args(words);
    command
        .env_clear()
        .envs(user.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir("/");
    let mut running = start(command);
    eventually("it comes to an end", || {
        let is_up = running.so_far(Stream::Err).contains("gateway");
        if is_up {
            holder = None;
        }
        !running.is_running()
    });
    drop(holder);
    running.finish(SOON)
}

/// The calls of an undisturbed start-up, of all of its processes or of the first alone, in their order.
fn steps(ground: &Ground, what: Start, with_children: bool) -> Vec<Step> {
    let path = format!("{SCRATCH}/steps");
    let mut options = vec!["-o", &path];
    if with_children {
        options.push("-f");
    }
    trace(ground, what, &options);
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let (process, line) = if with_children { line.split_once(' ').unwrap() } else { ("", line) };
        let Some((name, _)) = line.trim_start().split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            continue;
        }
        let count = counts.entry((process.to_owned(), name.to_owned())).or_default();
        *count += 1;
        let step = (name.to_owned(), *count);
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    // Until the program itself begins there is nothing of ours to end.
    let begins = steps.iter().position(|(name, count)| name == "execve" && *count >= 2).unwrap_or(0);
    steps.split_off(begins + 1)
}

/// How many of the steps are tried, of each start-up; all where it is asked for (docs/testing.md).
fn is_tried(place: usize, of: usize) -> bool {
    match env::var("NETFERRY_DEATH_STEPS").ok().and_then(|text| text.parse::<usize>().ok()) {
        Some(every) => place.is_multiple_of(every.max(1)),
        None => place.is_multiple_of((of / 5).max(1)),
    }
}

fn dies_at_each_step(ground: &Ground, what: Start, with_children: bool) {
    let before = ground.belongings();
    let steps = steps(ground, what, with_children);
    assert!(steps.len() > 50, "{steps:?}");
    ground.assert_nothing_left(&before);
    let mut killed = 0;
    for (place, (name, count)) in steps.iter().enumerate() {
        if !is_tried(place, steps.len()) {
            continue;
        }
        let inject = format!("inject={name}:signal=KILL:when={count}");
        let only = format!("trace={name}");
        let mut options = vec!["-o", "/dev/null", "-e", &only, "-e", &inject];
        if with_children {
            options.push("-f");
        }
        let outcome = trace(ground, what, &options);
        let is_killed = std::os::unix::process::ExitStatusExt::signal(&outcome.status) == Some(9);
        killed += usize::from(is_killed);
        println!("{what:?} {name} {count}: {:?}", outcome.status);
        // The file of a control socket whose janitor was killed as well goes when the next one looks for instances.
        let seen = crate::process::run(ground.netferry(&["ps"])).expect_success();
        assert_eq!(seen.stdout.lines().count(), 1, "nobody but the heading\n{seen}");
        ground.assert_nothing_left(&before);
        std::net::TcpListener::bind("0.0.0.0:8080").unwrap_or_else(|error| panic!("{name} {count}: {error}"));
    }
    assert!(killed > 0, "nothing was killed");
    println!(
        "figures: {what:?}, children {with_children}: {} steps of {}, {killed} ended so",
        killed,
        steps.len()
    );
}

#[test]
fn a_start_that_is_killed_at_any_step_leaves_nothing() {
    sealed(|ground| STARTS.into_iter().for_each(|what| dies_at_each_step(ground, what, false)));
}

#[test]
fn a_start_whose_processes_are_killed_at_any_step_leaves_nothing_and_does_not_hang() {
    sealed(|ground| {
        // What goes to the background is followed by nobody but its own end.
        let starts = STARTS.into_iter().filter(|what| *what != Start::PastaInTheBackground);
        starts.for_each(|what| dies_at_each_step(ground, what, true));
    });
}

/// The process that may signal the command: it has the only pidfd but the relay's.
fn messenger_of(relay: &Running) -> i32 {
    let has_pidfd = |pid: &i32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .any(|to| to.to_string_lossy().contains("pidfd"))
    };
    let found: Vec<i32> = beside(relay).into_iter().filter(has_pidfd).collect();
    assert_eq!(found.len(), 1, "{:?}", processes());
    found[0]
}

/// Numbers of the processes of this program but `relay`.
fn beside(relay: &Running) -> Vec<i32> {
    let numbers = processes().into_iter().filter(|text| text.contains("(netferry"));
    numbers
        .filter_map(|text| text.split(' ').next()?.parse().ok())
        .filter(|pid| *pid != relay.pid())
        .collect()
}

#[test]
fn a_command_whose_messenger_is_killed_still_ends_when_it_is_told_to() {
    sealed(|ground| {
        serve_world(ground);
        let mut served = Face::Run.serve(ground, &[]);
        let mut agent = served.agent(ground);
        agent.expect("connect('old')", "connected");
        kill(Pid::from_raw(messenger_of(&served.relay)), Signal::SIGKILL).unwrap();
        // The network stays; who wants to end it learns what is left.
        agent.expect("echo('old', 100000)", "echoed");
        served.relay.signal(Signal::SIGTERM);
        served.relay.wait_for(Stream::Err, "netferry: the process that passes signals on has ended");
        // What it leaves is the command, which nobody who is confined may end.
        kill(Pid::from_raw(served.container), Signal::SIGKILL).unwrap();
        served.relay.finish(SOON).expect_code(128 + 15);
    });
}

/// A confined relay may send no signal, which its own death would be to the command, from Linux 6.12 on.
fn death_is_no_signal() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 12)
}

/// Everybody who could end the command is killed at the same moment, with the janitor or without.
fn is_killed_as_a_whole(ground: &Ground, options: &[&str], with_janitor: bool, goes_on: bool) {
    let before = ground.belongings();
    let mut served = Face::Run.serve(ground, options);
    let mut agent = served.agent(ground);
    agent.expect("connect('old')", "connected");
    let others = if with_janitor { beside(&served.relay) } else { vec![messenger_of(&served.relay)] };
    let killed: Vec<Pid> = others.into_iter().chain([served.relay.pid()]).map(Pid::from_raw).collect();
    // Who is stopped does not hear of another's end.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        killed.iter().for_each(|pid| kill(*pid, signal).unwrap());
    }
    eventually("the relay has ended", || !served.relay.is_running());
    eventually("nobody of it is left", || beside(&served.relay).is_empty());
    std::net::TcpListener::bind("0.0.0.0:8080").expect("the port has been given back");
    if goes_on {
        agent.expect("until(\"['lo']\", '[name for _, name in socket.if_nameindex()]')", "['lo']");
        agent.expect("connect('new')", "ENETUNREACH");
        kill(Pid::from_raw(served.container), Signal::SIGKILL).expect("it is there");
    }
    drop(agent);
    // Whoever started us is told by the status.
    served.relay.finish(SOON).expect_signal(Signal::SIGKILL);
    // The file of a control socket whose janitor was killed as well goes when the next one looks for instances.
    crate::process::run(ground.netferry(&["ps"])).expect_success();
    // What the agent was asked is ours.
    let asked = fs::read_dir(SCRATCH).unwrap().map(|entry| entry.unwrap().path());
    asked.for_each(|path| fs::remove_file(path).unwrap());
    ground.assert_nothing_left(&before);
}

#[test]
fn a_command_whose_network_is_killed_as_a_whole_goes_on_without_one_where_nobody_may_end_it() {
    sealed(|ground| {
        serve_world(ground);
        let published = ["-p", "8080:80"];
        for with_janitor in [false, true] {
            is_killed_as_a_whole(ground, &published, with_janitor, death_is_no_signal());
        }
        is_killed_as_a_whole(ground, &[&published[..], &["--no-sandbox"]].concat(), true, false);
    });
}

#[test]
fn a_process_in_the_container_that_is_killed_takes_the_ways_past_the_link_and_nothing_else() {
    sealed(|ground| {
        serve_world(ground);
        let mut served = Face::Pasta.serve(ground, &["-t", "8080"]);
        let mut agent = served.agent(ground);
        agent.expect("connect('old')", "connected");
        let network = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let container = network(served.container);
        let inner =
            beside(&served.relay).into_iter().find(|pid| network(*pid) == container).expect("it is there");
        kill(Pid::from_raw(inner), Signal::SIGKILL).unwrap();
        eventually("it is gone", || !beside(&served.relay).contains(&inner));
        // The host's queue takes the client; there is no way on.
        let mut client = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        assert!(!matches!(std::io::Read::read(&mut client, &mut [0]), Ok(1..)));
        served.relay.wait_for(Stream::Err, "netferry: the process in the container has ended: nothing goes");
        agent.expect("echo('old', 100000)", "echoed");
        drop(agent);
        served.end();
    });
}
