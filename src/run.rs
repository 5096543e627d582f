//! Start-up, in an order in which every error comes before anything is created.
//!
//! Plan; facts about the host; a child that waits, forked while there is one thread and nothing to inherit;
//! published ports. Only then may the child go to work: it makes or enters the namespaces, opens the TAP there,
//! configures it and hands it over ([`container`]). With the TAP the driver is built, the user is told, and
//! the child becomes the command, or ends. From then on this process only serves ([`crate::worker`]), and ends
//! with the command's status, or with the namespace.
//!
//! Whatever fails on the way ends the child, and with it all that was made.

mod attach;
mod banner;
pub mod client;
mod container;
mod facts;
mod handshake;
mod hook;
mod host_copy;
mod inside;
pub mod instance;
pub mod network;
mod policy;
mod ports;
mod recording;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tracing::level_filters::LevelFilter;
use tracing::{debug, info, warn};

use self::container::{Command, container_addresses};
use self::facts::Facts;
use self::handshake::{HandshakeError, Line, Word};
use self::hook::HookError;
use self::host_copy::CopyError;
use self::instance::Observed;
use self::policy::PolicyError;
use self::ports::Ports;
use self::supervise::Supervised;
use crate::cli::{
    self, Announcement, AttachTarget, Configuration, Confinement, Lifetime, Mode, Plan, Verbosity, Workers,
};
use crate::config::address::AddressError;
use crate::config::{Forwarding, LocalClients, PortForwarding, PublishRule};
use crate::control::ControlError;
use crate::observe::audit::AuditError;
use crate::observe::capture::{Capture, CaptureError};
use crate::observe::file;
use crate::observe::log;
use crate::observe::log_file::LogFile;
use crate::observe::panics;
use crate::observe::rotation::FileError;
use crate::sys::bess::BessError;
use crate::sys::confined::{Confined, Sandboxed, Waiver};
use crate::sys::daemon::{self, Fork};
use crate::sys::host;
use crate::sys::id_map::{IdMapError, IdMapping, write_id_maps};
use crate::sys::messenger;
use crate::sys::namespace::{NamespaceError, NamespaceTarget, Namespaces};
use crate::sys::outlet;
use crate::sys::process::{self, Child, FORWARDED_SIGNALS, Signal, Signals};
use crate::sys::resolv_conf::{self};
use crate::sys::sandbox::{self, SandboxError, SandboxPlan};
use crate::sys::seccomp::{self, Calls, SeccompError};
use crate::sys::socket::ListenError;
use crate::sys::tap::{Tap, TapError, TapFeatures};
use crate::sys::text;
use crate::sys::user::{UserError, become_user};
use crate::worker::answer::Identity;
use crate::worker::loopback::LoopbackPaths;
use crate::worker::{Device, ExitReason, LoopbackError, Source};

pub use crate::observe::log::say;

/// The shell of a user who has named none.
const DEFAULT_SHELL: &str = "/bin/sh";

/// Most workers that are chosen for who asks for as many as gain.
const AUTO_WORKERS: usize = 4;

/// There exactly where the kernel has IPv6.
const IPV6_SYSCTLS: &str = "/proc/sys/net/ipv6";

/// Said whatever else is not to be said.
const UNCONFINED: &str = "WARNING: --no-sandbox: nothing stands between whoever takes this process over from the \
                          container and all that you may do; for debugging only";

/// Why there is no network. The text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The subnets do not fit this host.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A port cannot be published.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The namespace to attach to.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The identities of the new user namespace.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// The TAP that was handed over.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Whatever went wrong inside.
    #[error(transparent)]
    Inside(#[from] HandshakeError),
    /// A descriptor that should have been passed on to us.
    #[error("{option} {number}: {source}; give the number of a descriptor that is open")]
    Inherited {
        /// Which option or operand names it.
        option: &'static str,
        /// As given.
        number: i32,
        /// The kernel's word.
        source: io::Error,
    },
    /// `--outbound-addr`: no such address.
    #[error("cannot send from {address}: the host has no such address; see `ip address` for those it has")]
    NoSuchSource {
        /// As given.
        address: IpAddr,
    },
    /// `--outbound-addr`: the interface is not there, or has no address.
    #[error("cannot send from interface {name}: the host has no {family} address there; see `ip address`")]
    NoSourceThere {
        /// As given.
        name: String,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// The ways from loopback to loopback.
    #[error(transparent)]
    Loopback(#[from] LoopbackError),
    /// What is to be copied from the host.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// `--runas`.
    #[error("--runas: {0}")]
    User(#[from] UserError),
    /// `--log-file`.
    #[error("cannot write the log to {}: {source}; name a file in a directory of yours", path.display())]
    LogFile {
        /// As given.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// `--pcap`.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// `--audit`.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// `--rules` and its like.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// `--hook`.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// `--pcap` of `run` and `attach`.
    #[error(transparent)]
    Recording(#[from] FileError),
    /// `--pid`.
    #[error("cannot write the process id to {}: {source}; name a file in a directory of yours", path.display())]
    PidFile {
        /// As given.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// `--api-socket`, `--control`.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// `--enable-sandbox`.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// `--enable-seccomp`.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// `--target-type=bess`.
    #[error(transparent)]
    Bess(#[from] BessError),
    /// A network of several containers.
    #[error("{0}")]
    Network(String),
    /// The host refused something that no host should.
    #[error("cannot {doing}: {source}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

trait Doing<T> {
    /// Says what was being done when it failed.
    fn doing(self, doing: &'static str) -> Result<T, RunError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, RunError> {
        self.map_err(|source| RunError::Host { doing, source })
    }
}

/// Runs a command on a network of several containers; the status to exit with.
pub fn run_on_network(asked: &cli::RunOnNetwork) -> Result<u8, client::ClientError> {
    log::install(level(asked.verbosity));
    panics::install();
    client::network::run(asked)
}

/// Writes what is told into a file from now on.
fn keep_log(file: &cli::LogFile, verbosity: Verbosity) -> Result<(), RunError> {
    let opened = LogFile::create(&file.path, file.max_bytes);
    let opened = opened.map_err(|source| RunError::LogFile { path: file.path.clone(), source })?;
    // Whoever keeps a log wants to read what happened.
    log::install_to_file(level(verbosity).max(LevelFilter::INFO), opened);
    Ok(())
}

/// Carries a plan out; the status to exit with.
pub fn run(plan: Plan) -> Result<u8, RunError> {
    let announcer = if plan.process.background {
        daemon::close_inherited().doing("close what was left open for us")?;
        match daemon::fork().doing("go to the background")? {
            Fork::Parent(status) => return Ok(status),
            Fork::Child(announcer) => Some(announcer),
        }
    } else {
        None
    };
    if let Some(who) = &plan.process.run_as {
        become_user(who)?;
    }
    match &plan.process.log_file {
        None => log::install(level(plan.verbosity)),
        Some(file) => keep_log(file, plan.verbosity)?,
    }
    panics::install();
    if let Some(path) = &plan.process.pid_file {
        let written = std::fs::write(path, format!("{}\n", std::process::id()));
        written.map_err(|source| {
            file::remove_if_empty(path);
            RunError::PidFile { path: path.clone(), source }
        })?;
    }
    if plan.confinement == Confinement::None {
        say(UNCONFINED);
    }
    match plan.mode.clone() {
        Mode::Run { command } => run_command(&plan, command),
        Mode::Attach(what) => attach::attach(&plan, &what, announcer),
    }
}

fn level(verbosity: Verbosity) -> LevelFilter {
    match verbosity {
        Verbosity::Quiet => LevelFilter::ERROR,
        Verbosity::Normal => LevelFilter::WARN,
        Verbosity::Debug => LevelFilter::DEBUG,
        Verbosity::Trace => LevelFilter::TRACE,
    }
}

/// A command is our child, and a process that is given is watched; of a path there is only what it names.
fn ends_with_namespace(plan: &Plan) -> bool {
    match &plan.mode {
        Mode::Run { .. } => false,
        Mode::Attach(attach) => {
            !matches!(attach.target, AttachTarget::Pid(_)) && attach.lifetime == Lifetime::OfTarget
        }
    }
}

fn configuration(plan: &Plan) -> Configuration {
    match &plan.mode {
        Mode::Run { .. } => Configuration::Ours,
        Mode::Attach(attach) => attach.configuration,
    }
}

fn tap_features(plan: &Plan) -> TapFeatures {
    if plan.offload { TapFeatures::ALL } else { TapFeatures::NONE }
}

fn run_command(plan: &Plan, command: Vec<OsString>) -> Result<u8, RunError> {
    let facts = Facts::gather(plan)?;
    let mapping = IdMapping::root_with_ranges()?;
    let words = if command.is_empty() { vec![shell()] } else { command };
    let mask = process::block_signals(&FORWARDED_SIGNALS).doing("block signals")?;
    let signals = Signals::open(&FORWARDED_SIGNALS).doing("watch signals")?;
    let container = facts.container(plan);
    let command = Command { words: &words, mask, host_resolv_conf: &facts.resolv_conf };
    let parent = std::process::id();
    let (child, line) = fork(|line| container.run_command(line, &command, parent))?;
    let messenger = match messenger::start(&child, plan.confinement.has_filter()) {
        Ok(messenger) => messenger,
        Err(error) => {
            end(child);
            return Err(error).doing("start a process");
        }
    };
    let supervised = Supervised { signals, child: &child, messenger };
    let name = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    match serve_command(plan, &facts, &mapping, &supervised, line, &name) {
        Ok(ExitReason::Finished(status)) => Ok(policy::status(facts.drifted.as_ref(), status)),
        Ok(ExitReason::LinkGone) => {
            warn!("the container's interface was removed: the command goes on without a network");
            let status = supervised.wait().doing("wait for the command")?;
            Ok(policy::status(facts.drifted.as_ref(), status))
        }
        Err(error) => {
            // We may have given up the power to end it ourselves.
            drop(supervised);
            if let Err(error) = child.wait() {
                debug!(%error, "the command could not be waited for");
            }
            Err(error)
        }
    }
}

fn serve_command(
    plan: &Plan,
    facts: &Facts,
    mapping: &IdMapping,
    supervised: &Supervised<'_>,
    line: Line,
    name: &str,
) -> Result<ExitReason, RunError> {
    let ports = Ports::bind(plan, &facts.link)?;
    line.say(Word::Begin)?;
    line.hear(Word::Unmapped)?;
    if let Some(note) = write_id_maps(supervised.child.pid(), mapping)? {
        info!("{note}");
    }
    line.say(Word::Mapped)?;
    let devices = receive_devices(plan, &line)?;
    let identity = Identity {
        container_pid: Some(supervised.child.pid()),
        container: Some(name.to_owned()),
        namespace: namespace_of(supervised.child.pid()),
        ..identity(plan, facts, "run")
    };
    let observed = Observed::begin(plan, identity)?;
    let announcement =
        if plan.host_copy.is_some() { Announcement::Nothing } else { Announcement::StandardError };
    tell_user(plan, announcement, facts, &ports.rules);
    let audit = policy::open_audit(plan, facts.drifted.as_ref())?;
    let hook = hook::start(plan.hook.as_ref(), Stdio::inherit())?;
    let mut worker = ports.into_worker(plan, facts, devices, open_capture(plan)?)?.with_audit(audit);
    worker = hook::join(worker, hook)?;
    if has_loopback(plan) {
        let namespaces = NamespaceTarget::Pid(supervised.child.pid()).open()?;
        if let Some(paths) = loopback_paths(plan, facts, &namespaces)? {
            worker = worker.with_loopback(paths, &plan.forwarding)?;
        }
    }
    let (worker, _janitor) = observed.serve(worker).doing("watch the control socket")?;
    let mut sources = supervised.sources().doing("watch the command")?;
    sources.extend(host_sources(plan, facts));
    let (worker, recorded) = recording::begin(recording::open(plan)?, worker)?;
    let confined = confine_calls(plan, calls(plan), confine(plan, None)?)?;
    let writing = recorded.map(|recorded| recorded.write(confined)).transpose().doing("start a thread")?;
    line.say(Word::Go)?;
    drop(line);
    text::forget_start();
    let ended = worker.run(sources, confined).doing("wait for events");
    writing.unwrap_or_default().finish();
    ended
}

/// What is known of an instance before its container is.
fn identity(plan: &Plan, facts: &Facts, mode: &'static str) -> Identity {
    Identity {
        id: String::new(),
        face: plan.face.unwrap_or(mode),
        pid: std::process::id(),
        container_pid: None,
        container: None,
        namespace: None,
        interface: facts.tap_name.clone(),
        addresses: container_addresses(&facts.link).into_iter().map(|(address, _)| address).collect(),
    }
}

/// The network namespace of a process, by its inode.
fn namespace_of(pid: i32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|data| data.ino())
}

fn shell() -> OsString {
    std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| DEFAULT_SHELL.into())
}

/// Forks a child with its own end of a line, and nothing of the other.
fn fork(body: impl FnOnce(Line) -> i32) -> Result<(Child, Line), RunError> {
    let (outside, inside) = Line::pair()?;
    let mut outside = Some(outside);
    let kept = &mut outside;
    let child = process::fork_child(move || {
        // In the child's memory only. Its copy would keep it from hearing that we are gone.
        drop(kept.take());
        body(inside)
    });
    let child = child.doing("start a process")?;
    let line = outside.ok_or(HandshakeError::Gone)?;
    Ok((child, line))
}

/// So that nothing is left behind should the process `parent`, which forked us, be killed.
fn die_with(parent: u32) -> io::Result<()> {
    process::set_parent_death_signal(Signal::SIGKILL, i32::try_from(parent).unwrap_or(i32::MAX))
}

/// The ways from loopback to loopback, where any are asked for.
fn loopback_paths(
    plan: &Plan,
    facts: &Facts,
    namespaces: &Namespaces,
) -> Result<Option<LoopbackPaths>, RunError> {
    if has_loopback(plan) { inside::start(plan, namespaces, &facts.link).map(Some) } else { Ok(None) }
}

/// Whether anything is forwarded in a way that needs a process in the container.
fn has_loopback(plan: &Plan) -> bool {
    let PortForwarding { inward, outward, local_clients, .. } = &plan.forwarding;
    let is_spliced = *local_clients != LocalClients::Link && *inward != Forwarding::default();
    is_spliced || *outward != Forwarding::default() || !inward.followed.is_empty()
}

/// Leaves nothing of a set-up behind.
fn end(child: Child) {
    if let Err(error) = child.kill_and_wait() {
        debug!(%error, "the set-up process could not be ended");
    }
}

/// The file that frames are recorded in, if they are.
fn open_capture(plan: &Plan) -> Result<Option<Capture>, RunError> {
    Ok(plan.capture.as_deref().map(Capture::create).transpose()?)
}

/// Gives up the files that are not needed any more, as far as asked. Nothing may be opened afterwards that does not belong to
/// the loop. `container_userns` is where to go if the system allows no namespace of our own.
fn confine(plan: &Plan, container_userns: Option<OwnedFd>) -> Result<Sandboxed, RunError> {
    if !plan.confinement.has_sandbox() {
        return Ok(Sandboxed::waived(waiver(plan)));
    }
    let files = if follows_resolvers(plan) { vec![Path::new(resolv_conf::PATH)] } else { Vec::new() };
    Ok(sandbox::enter(&SandboxPlan { files, container_userns, low_ports: true })?)
}

/// The last step of all: what a set-up needs is not needed by the loop, which asks for what this answers.
fn confine_calls(plan: &Plan, calls: Calls, sandboxed: Sandboxed) -> Result<Confined, RunError> {
    if !plan.confinement.has_filter() {
        return Ok(Confined::waived(sandboxed, waiver(plan)));
    }
    Ok(seccomp::install(calls, sandboxed)?)
}

/// What is called: several workers are threads, and a capture from the start has one of its own.
fn calls(plan: &Plan) -> Calls {
    if workers(plan) > 1 || plan.conditions.recording.is_some() { Calls::Workers } else { Calls::Relay }
}

/// Who wants a stage left out.
fn waiver(plan: &Plan) -> Waiver {
    match plan.confinement {
        Confinement::None => Waiver::OfUser,
        Confinement::Full | Confinement::OfFace { .. } => Waiver::OfFace,
    }
}

/// The queues of the interface, one for each worker.
fn receive_devices(plan: &Plan, line: &Line) -> Result<Vec<Device>, RunError> {
    let descriptors = line.take_over()?;
    if plan.forwarding.splice_only {
        return Ok(vec![Device::nothing().doing("make a link to nobody")?]);
    }
    if descriptors.is_empty() {
        return Err(HandshakeError::Gone.into());
    }
    if descriptors.len() < workers(plan) {
        warn!("the interface was there before and has one queue: one worker serves it");
    }
    let mut devices = Vec::new();
    for descriptor in descriptors {
        let tap = Tap::from_fd(descriptor, tap_features(plan))?;
        debug!(features = ?tap.features(), "the interface is open");
        devices.push(tap.into());
    }
    Ok(devices)
}

/// How many workers there are to be.
fn workers(plan: &Plan) -> usize {
    match plan.workers {
        Workers::Count(count) => count,
        Workers::Auto if plan.takes_one_worker() => 1,
        Workers::Auto => host::processors().div_euclid(2).clamp(1, AUTO_WORKERS),
    }
}

/// New resolvers are followed unless the user named some, or nobody is asked.
fn follows_resolvers(plan: &Plan) -> bool {
    plan.services.dns && plan.resolvers.is_none()
}

fn resolver_source(plan: &Plan, facts: &Facts) -> Option<Source<'static>> {
    if !follows_resolvers(plan) {
        return None;
    }
    supervise::resolver_changes(facts.resolvers.clone())
        .inspect_err(|error| debug!(%error, "changes of /etc/resolv.conf are not followed"))
        .ok()
}

/// What of the host is followed: its resolvers and its addresses.
fn host_sources(plan: &Plan, facts: &Facts) -> Vec<Source<'static>> {
    let addresses = supervise::address_changes()
        .inspect_err(|error| debug!(%error, "changes of the host's addresses are not followed"))
        .ok();
    resolver_source(plan, facts).into_iter().chain(addresses).collect()
}

fn tell_user(plan: &Plan, how: Announcement, facts: &Facts, rules: &[PublishRule]) {
    if plan.verbosity == Verbosity::Quiet {
        return;
    }
    // Whoever asked may have stopped reading: the network is up all the same.
    let told = match how {
        Announcement::StandardError => {
            say(&banner::banner(&facts.tap_name, &facts.link, rules));
            Ok(())
        }
        Announcement::Nothing => Ok(()),
        Announcement::StandardOutput => {
            let lines = banner::slirp4netns_lines(plan, &facts.link, facts.outbound);
            outlet::write_within(io::stdout().as_fd(), lines.as_bytes(), log::PATIENCE)
        }
    };
    if let Err(error) = told {
        debug!(%error, "nobody reads what was set up");
    }
}
