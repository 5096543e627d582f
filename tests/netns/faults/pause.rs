//! Stopped for a while, and continued: job control, a debugger, a laptop's lid.

use std::env;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Agent, FACES, Face, Served, eventually, serve_world};
use crate::ground::sealed;
use crate::process::start;

/// For how long; a minute by hand (docs/testing.md).
fn pause() -> Duration {
    let seconds = env::var("NETFERRY_PAUSE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn stops(pid: i32) {
    eventually("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    });
}

/// After the pause: what was under way arrives, what was there is there, and none of it costs more than it is worth.
fn goes_on(served: &Served, agent: &mut Agent, spent_before: Duration) {
    let face = served.face;
    assert_eq!(agent.answer(), "echoed", "{face:?}");
    for (what, answer) in [("echo('idle', 1000, 120)", "echoed"), ("connect('new')", "connected")] {
        agent.expect(what, answer);
    }
    let answer = agent.ask("until('from ', \"asks('flow')\")");
    assert!(answer.starts_with("from "), "{face:?}: {answer}");
    let spent = served.cpu() - spent_before;
    assert!(spent < Duration::from_secs(2), "{face:?} spent {spent:?} on catching up");
}

#[test]
fn relays_that_are_stopped_for_a_while_go_on_where_they_were() {
    sealed(|ground| {
        serve_world(ground);
        let mut all: Vec<(Served, Agent)> = FACES
            .into_iter()
            .map(|face| {
                let served = face.serve(ground, &[]);
                let mut agent = served.agent(ground);
                for what in ["connect('busy')", "connect('idle')"] {
                    agent.expect(what, "connected");
                }
                agent.expect("datagrams('flow')", "open");
                (served, agent)
            })
            .collect();
        let before: Vec<Duration> = all.iter().map(|(served, _)| served.cpu()).collect();
        for (served, agent) in &mut all {
            served.relay.signal(Signal::SIGSTOP);
            stops(served.relay.pid());
            agent.begin("echo('busy', 300000, 180)");
        }
        std::thread::sleep(pause());
        for (served, _) in &all {
            served.relay.signal(Signal::SIGCONT);
        }
        for ((served, agent), before) in all.iter_mut().zip(before) {
            goes_on(served, agent, before);
        }
        for (served, agent) in all {
            drop(agent);
            served.end();
        }
    });
}

#[test]
fn a_command_that_is_stopped_with_its_network_goes_on_with_it() {
    sealed(|ground| {
        serve_world(ground);
        let served = Face::Run.serve_by(ground, &[], |mut command| {
            command.process_group(0);
            start(command)
        });
        let mut agent = served.agent(ground);
        for what in ["connect('busy')", "connect('idle')"] {
            agent.expect(what, "connected");
        }
        agent.expect("datagrams('flow')", "open");
        let before = served.cpu();
        // Relay, messenger and command; the agent came from elsewhere, and waits.
        let group = Pid::from_raw(-served.relay.pid());
        kill(group, Signal::SIGSTOP).unwrap();
        stops(served.relay.pid());
        stops(served.container);
        agent.begin("echo('busy', 300000, 180)");
        std::thread::sleep(pause());
        kill(group, Signal::SIGCONT).unwrap();
        goes_on(&served, &mut agent, before);
        drop(agent);
        served.end();
    });
}
