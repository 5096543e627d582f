//! `netferry attach`, and the other faces that serve what exists already: a namespace, or a TAP that is open.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info, warn};

use super::handshake::{Line, Word};
use super::instance::Observed;
use super::{
    Doing, Facts, Ports, RunError, calls, confine, confine_calls, end, fork, hook, host_sources,
    loopback_paths, open_capture, policy, receive_devices, recording, supervise, tap_features, tell_user,
};
use crate::cli::{Attach, AttachTarget, Lifetime, Plan};
use crate::config::PublishRule;
use crate::control::Server;
use crate::sys::bess::{BessListener, BessSocket};
use crate::sys::daemon::Announcer;
use crate::sys::namespace::{NamespaceTarget, Namespaces};
use crate::sys::process::{self, Child, ENDING_SIGNALS, Signals};
use crate::sys::ready::{ReadyDescriptor, take_inherited};
use crate::sys::tap::Tap;
use crate::sys::text;
use crate::sys::watch_path::PathWatch;
use crate::worker::answer::Identity;
use crate::worker::{Device, ExitReason};

/// Descriptors that were passed on to us.
struct Inherited {
    ready: Option<ReadyDescriptor>,
    exit: Option<OwnedFd>,
}

impl Inherited {
    /// To be called first of all, while no descriptor is ours yet.
    fn take(what: &Attach) -> Result<Inherited, RunError> {
        let ready = what.ready_fd.map(|number| taken("--ready-fd", number, ReadyDescriptor::take));
        let exit = what.exit_fd.map(|number| taken("--exit-fd", number, take_inherited));
        Ok(Inherited { ready: ready.transpose()?, exit: exit.transpose()? })
    }
}

/// What is attached to, as far as it can be opened from here.
enum Place {
    Namespaces(Namespaces),
    Tap(OwnedFd),
    Guest(PathBuf),
}

impl Place {
    /// To be called directly after [`Inherited::take`]: it may take a descriptor itself.
    fn open(what: &Attach) -> Result<Place, RunError> {
        let namespaces = |target: NamespaceTarget| Ok(Place::Namespaces(target.open()?));
        match (&what.target, &what.userns) {
            (AttachTarget::Pid(pid), None) => namespaces(NamespaceTarget::Pid(*pid)),
            (AttachTarget::Pid(pid), Some(userns)) => namespaces(NamespaceTarget::Paths {
                netns: format!("/proc/{pid}/ns/net").into(),
                userns: Some(userns.clone()),
            }),
            (AttachTarget::Path(netns), userns) => {
                namespaces(NamespaceTarget::Paths { netns: netns.clone(), userns: userns.clone() })
            }
            (AttachTarget::TapFd(number), _) => taken("TAPFD", *number, take_inherited).map(Place::Tap),
            (AttachTarget::Bess(path), _) => Ok(Place::Guest(path.clone())),
        }
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
pub fn attach(plan: &Plan, what: &Attach, announcer: Option<Announcer>) -> Result<u8, RunError> {
    let mut inherited = Inherited::take(what)?;
    let place = Place::open(what)?;
    let process = match what.target {
        AttachTarget::Pid(pid) if what.lifetime == Lifetime::OfTarget => {
            Some((process::watch_process(pid).doing("watch the process of the namespace")?, pid))
        }
        AttachTarget::Pid(_) | AttachTarget::Path(_) | AttachTarget::TapFd(_) | AttachTarget::Bess(_) => None,
    };
    let path = match &what.target {
        AttachTarget::Path(path) if what.lifetime == Lifetime::OfTarget => PathWatch::open(path)
            .inspect_err(|error| debug!(%error, "the file of the namespace is not watched"))
            .ok(),
        AttachTarget::Pid(_) | AttachTarget::Path(_) | AttachTarget::TapFd(_) | AttachTarget::Bess(_) => None,
    };
    let facts = Facts::gather(plan)?;
    let signals = match what.lifetime {
        Lifetime::OfTarget => {
            process::block_signals(&ENDING_SIGNALS).doing("block signals")?;
            Some(Signals::open(&ENDING_SIGNALS).doing("watch signals")?)
        }
        // They do what they do to every program, and those that were ignored when we were started still are.
        Lifetime::UntilTold => None,
    };
    let mut identity = identity(plan, what, &facts);
    let (ports, coming, loopback, userns) = match place {
        Place::Namespaces(namespaces) => {
            identity.namespace = namespaces.inode();
            let (ports, setting_up) = SettingUp::begin(plan, &facts, &namespaces)?;
            let loopback = loopback_paths(plan, &facts, &namespaces)?;
            // Of the namespaces no more is kept: held open, the network would outlive the container.
            (ports, Coming::FromChild(setting_up), loopback, namespaces.into_user())
        }
        Place::Tap(descriptor) => {
            let ports = Ports::bind(plan, &facts.link)?;
            let tap = Tap::from_fd(descriptor, tap_features(plan))?;
            (ports, Coming::Here(Device::from(tap).into()), None, None)
        }
        Place::Guest(path) => {
            let ports = Ports::bind(plan, &facts.link)?;
            let listener = BessListener::bind(&path)?;
            announce(plan, what, &facts, &ports.rules, inherited.ready.take());
            let socket = guest(&listener, signals.as_ref(), inherited.exit.as_ref())?;
            let Some(socket) = socket else { return Ok(0) };
            (ports, Coming::Here(Device::from(socket).into()), None, None)
        }
    };
    let rules = ports.rules.clone();
    let mut sources = Vec::new();
    if let Some(signals) = &signals {
        sources.push(supervise::ending_signal(signals).doing("watch signals")?);
    }
    if let Some((pidfd, pid)) = &process {
        sources.push(supervise::ending_process(pidfd, *pid).doing("watch the process of the namespace")?);
    }
    if let Some(path) = &path {
        sources.push(supervise::ending_path(path).doing("watch the file of the namespace")?);
    }
    if let Some(exit) = &inherited.exit {
        sources.push(supervise::ending_descriptor(exit).doing("watch the descriptor of --exit-fd")?);
    }
    sources.extend(host_sources(plan, &facts));
    // What makes files has to know that all goes well before the way to them is closed; for the others the container is
    // set up meanwhile.
    let makes_files = plan.api_socket.is_some()
        || plan.capture.is_some()
        || plan.conditions.recording.is_some()
        || plan.audit.is_some();
    let coming = if makes_files { Coming::Here(coming.arrive(plan)?) } else { coming };
    let capture = open_capture(plan)?;
    let audit = policy::open_audit(plan, facts.drifted.as_ref())?;
    let api = plan.api_socket.as_deref().map(|path| Server::bind("--api-socket", path)).transpose()?;
    let observed = Observed::begin(plan, identity)?;
    let opened = recording::open(plan)?;
    let hook = hook::start(plan.hook.as_ref(), Stdio::inherit())?;
    let sandboxed = confine(plan, userns)?;
    let Arrived { devices, setter } = coming.arrive(plan)?;
    let mut worker = ports.into_worker(plan, &facts, devices, capture)?.with_audit(audit);
    worker = hook::join(worker, hook)?;
    if let Some(paths) = loopback {
        worker = worker.with_loopback(paths, &plan.forwarding)?;
    }
    if let Some(mut api) = api {
        if plan.confinement.has_sandbox() || plan.confinement.has_filter() {
            api.leave_path();
        }
        worker = worker.with_api(api).doing("watch the API socket")?;
    }
    let (worker, _janitor) = observed.serve(worker).doing("watch the control socket")?;
    if let Some(announcer) = announcer {
        announcer.ready().doing("go to the background")?;
    }
    let (worker, recorded) = recording::begin(opened, worker)?;
    // Its memory was taken down while all this was made.
    setter.map(|setter| setter.wait()).transpose().doing("wait for the set-up process")?;
    let confined = confine_calls(plan, calls(plan), sandboxed)?;
    let writing = recorded.map(|recorded| recorded.write(confined)).transpose().doing("start a thread")?;
    if !matches!(what.target, AttachTarget::Bess(_)) {
        announce(plan, what, &facts, &rules, inherited.ready.take());
    }
    text::forget_start();
    let ended = worker.run(sources, confined).doing("wait for events");
    writing.unwrap_or_default().finish();
    match ended? {
        ExitReason::Finished(status) => Ok(policy::status(facts.drifted.as_ref(), status)),
        ExitReason::LinkGone => {
            info!("the interface is gone, and so is our work");
            match (what.lifetime, &what.target) {
                // A guest comes once.
                (Lifetime::OfTarget, _) | (Lifetime::UntilTold, AttachTarget::Bess(_)) => {
                    Ok(policy::status(facts.drifted.as_ref(), 0))
                }
                (Lifetime::UntilTold, _) => wait_until_told(inherited.exit.as_ref()),
            }
        }
    }
}

/// Who this instance is, but for its namespace.
fn identity(plan: &Plan, what: &Attach, facts: &Facts) -> Identity {
    let (container_pid, container) = match &what.target {
        AttachTarget::Pid(pid) => (Some(*pid), None),
        AttachTarget::Path(path) | AttachTarget::Bess(path) => (None, Some(path.display().to_string())),
        AttachTarget::TapFd(_) => (None, None),
    };
    Identity { container_pid, container, ..super::identity(plan, facts, "attach") }
}

/// Does nothing but be there. podman, for one, takes its namespace away first and only then ends us by our process
/// id, which must not be another's by then.
fn wait_until_told(exit: Option<&OwnedFd>) -> Result<u8, RunError> {
    loop {
        let mut watched: Vec<PollFd<'_>> =
            exit.iter().map(|exit| PollFd::new(exit.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(0),
            Err(errno) => return Err(std::io::Error::from(errno)).doing("wait for the end"),
        }
    }
}

/// Where the device comes from.
enum Coming {
    Here(Arrived),
    FromChild(SettingUp),
}

impl Coming {
    /// Waits for it, where it is not there yet.
    fn arrive(self, plan: &Plan) -> Result<Arrived, RunError> {
        match self {
            Coming::Here(arrived) => Ok(arrived),
            Coming::FromChild(setting_up) => setting_up.arrive(plan),
        }
    }
}

/// The device, and the child that has set it up and is about to end, to be waited for.
struct Arrived {
    devices: Vec<Device>,
    setter: Option<Child>,
}

impl From<Device> for Arrived {
    fn from(device: Device) -> Arrived {
        Arrived { devices: vec![device], setter: None }
    }
}

/// A child that sets the interface up from inside, and ends when that is done.
struct SettingUp {
    child: Child,
    line: Line,
}

impl SettingUp {
    /// Binds the ports, and lets the child begin.
    fn begin(plan: &Plan, facts: &Facts, namespaces: &Namespaces) -> Result<(Ports, SettingUp), RunError> {
        let container = facts.container(plan);
        let parent = std::process::id();
        let (child, line) = fork(|line| container.join(line, namespaces, parent))?;
        let begun = Ports::bind(plan, &facts.link).and_then(|ports| Ok((ports, line.say(Word::Begin)?)));
        match begun {
            Ok((ports, ())) => Ok((ports, SettingUp { child, line })),
            Err(error) => {
                drop(line);
                end(child);
                Err(error)
            }
        }
    }

    /// Waits for the end of its work.
    fn arrive(self, plan: &Plan) -> Result<Arrived, RunError> {
        let SettingUp { child, line } = self;
        match receive_devices(plan, &line) {
            Ok(devices) => Ok(Arrived { devices, setter: Some(child) }),
            Err(error) => {
                drop(line);
                end(child);
                Err(error)
            }
        }
    }
}

/// Tells that the network is up.
fn announce(
    plan: &Plan,
    what: &Attach,
    facts: &Facts,
    rules: &[PublishRule],
    ready: Option<ReadyDescriptor>,
) {
    // Whoever asked to be told may have lost interest: the network is up all the same.
    if let Some(Err(error)) = ready.map(ReadyDescriptor::tell) {
        warn!("--ready-fd: {error}");
    }
    tell_user(plan, what.announcement, facts, rules);
}

/// Waits for the guest that connects to the socket; `None` if we are to end before.
fn guest(
    listener: &BessListener,
    signals: Option<&Signals>,
    exit: Option<&OwnedFd>,
) -> Result<Option<BessSocket>, RunError> {
    loop {
        let ends = [signals.map(AsFd::as_fd), exit.map(AsFd::as_fd)];
        let mut watched: Vec<PollFd<'_>> =
            ends.into_iter().flatten().map(|end| PollFd::new(end, PollFlags::POLLIN)).collect();
        watched.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(std::io::Error::from(errno)).doing("wait for the guest"),
        }
        let has_event = |watched: &PollFd<'_>| watched.any() == Some(true);
        if watched.split_last().is_some_and(|(_, ends)| ends.iter().any(has_event)) {
            return Ok(None);
        }
        if let Some(socket) = listener.accept().doing("take the guest's connection")? {
            return Ok(Some(socket));
        }
    }
}
