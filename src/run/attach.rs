//! `netferry attach`, and the other faces that serve what exists already: a namespace, or a TAP that is open.

use std::os::fd::OwnedFd;

use tracing::{info, warn};

use super::handshake::{Line, Word};
use super::{Doing, Facts, Ports, RunError, end, fork, receive_tap, resolver_source, supervise, tell_user};
use crate::cli::{Attach, AttachTarget, Plan};
use crate::config::PublishRule;
use crate::sys::namespace::NamespaceTarget;
use crate::sys::process::{self, Signal, Signals};
use crate::sys::ready::{ReadyDescriptor, take_inherited};
use crate::sys::tap::Tap;
use crate::worker::{ExitReason, Worker};

/// What ends us.
const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Descriptors that were passed on to us.
struct Inherited {
    ready: Option<ReadyDescriptor>,
    exit: Option<OwnedFd>,
    tap: Option<OwnedFd>,
}

impl Inherited {
    /// To be called first of all, while no descriptor is ours yet.
    fn take(what: &Attach) -> Result<Inherited, RunError> {
        let tap = match what.target {
            AttachTarget::TapFd(number) => Some(number),
            AttachTarget::Pid(_) | AttachTarget::Path(_) | AttachTarget::Bess(_) => None,
        };
        let ready = what.ready_fd.map(|number| taken("--ready-fd", number, ReadyDescriptor::take));
        let exit = what.exit_fd.map(|number| taken("--exit-fd", number, take_inherited));
        let tap = tap.map(|number| taken("TAPFD", number, take_inherited));
        Ok(Inherited { ready: ready.transpose()?, exit: exit.transpose()?, tap: tap.transpose()? })
    }
}

fn taken<T>(
    option: &'static str,
    number: i32,
    take: impl FnOnce(i32) -> std::io::Result<T>,
) -> Result<T, RunError> {
    take(number).map_err(|source| RunError::Inherited { option, number, source })
}

/// Serves until a signal, the namespace's end, or whatever else was named; the status to exit with.
pub fn attach(plan: &Plan, what: &Attach) -> Result<u8, RunError> {
    let inherited = Inherited::take(what)?;
    let namespaces = namespace_target(what).map(|target| target.open()).transpose()?;
    let process = match what.target {
        AttachTarget::Pid(pid) if what.ends_with_process => {
            Some((process::watch_process(pid).doing("watch the process of the namespace")?, pid))
        }
        AttachTarget::Pid(_) | AttachTarget::Path(_) | AttachTarget::TapFd(_) | AttachTarget::Bess(_) => None,
    };
    let facts = Facts::gather(plan)?;
    process::block_signals(&ENDING_SIGNALS).doing("block signals")?;
    let signals = Signals::open(&ENDING_SIGNALS).doing("watch signals")?;
    let (worker, rules) = match (namespaces, inherited.tap) {
        (Some(namespaces), _) => {
            let container = facts.container(plan);
            let parent = std::process::id();
            let (child, line) = fork(|line| container.join(line, &namespaces, parent))?;
            let set_up = match set_up_by_child(plan, &facts, &line) {
                Ok(set_up) => set_up,
                Err(error) => {
                    drop(line);
                    end(child);
                    return Err(error);
                }
            };
            child.wait().doing("wait for the set-up process")?;
            // `namespaces` ends here: held open, they would keep the namespace alive that we are to end with.
            set_up
        }
        (None, Some(tap)) => {
            let ports = Ports::bind(plan, &facts.link)?;
            let rules = ports.rules.clone();
            let tap = Tap::from_fd(tap, super::tap_features(plan))?;
            (ports.into_worker(plan, &facts, tap)?, rules)
        }
        (None, None) => return Err(RunError::Unsupported("--target-type=bess")),
    };
    let mut sources = vec![supervise::ending_signal(&signals).doing("watch signals")?];
    if let Some((pidfd, pid)) = &process {
        sources.push(supervise::ending_process(pidfd, *pid).doing("watch the process of the namespace")?);
    }
    if let Some(exit) = &inherited.exit {
        sources.push(supervise::ending_descriptor(exit).doing("watch the descriptor of --exit-fd")?);
    }
    sources.extend(resolver_source(plan, &facts));
    tell_user(plan, what.announcement, &facts.link, &rules);
    if let Some(ready) = inherited.ready {
        // Whoever asked to be told may have lost interest: the network is up all the same.
        if let Err(error) = ready.tell() {
            warn!("--ready-fd: {error}");
        }
    }
    match worker.run(sources).doing("wait for events")? {
        ExitReason::Finished(status) => Ok(status),
        ExitReason::LinkGone => {
            info!("the interface is gone, and so is our work");
            Ok(0)
        }
    }
}

fn set_up_by_child(plan: &Plan, facts: &Facts, line: &Line) -> Result<(Worker, Vec<PublishRule>), RunError> {
    let ports = Ports::bind(plan, &facts.link)?;
    line.say(Word::Begin)?;
    let tap = receive_tap(plan, line)?;
    let rules = ports.rules.clone();
    Ok((ports.into_worker(plan, facts, tap)?, rules))
}

fn namespace_target(what: &Attach) -> Option<NamespaceTarget> {
    match (&what.target, &what.userns) {
        (AttachTarget::Pid(pid), None) => Some(NamespaceTarget::Pid(*pid)),
        (AttachTarget::Pid(pid), Some(userns)) => Some(NamespaceTarget::Paths {
            netns: format!("/proc/{pid}/ns/net").into(),
            userns: Some(userns.clone()),
        }),
        (AttachTarget::Path(netns), userns) => {
            Some(NamespaceTarget::Paths { netns: netns.clone(), userns: userns.clone() })
        }
        (AttachTarget::TapFd(_) | AttachTarget::Bess(_), _) => None,
    }
}
