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
mod handshake;
mod host_copy;
mod inside;
pub mod instance;
pub mod network;
mod policy;
mod recording;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;
use tracing::{debug, info, warn};

use self::container::{Command, Container, container_addresses};
use self::handshake::{HandshakeError, Line, Word};
use self::host_copy::{Copied, CopyError, HostNetwork};
use self::instance::Observed;
use self::policy::PolicyError;
use self::supervise::Supervised;
use crate::cli::{
    self, Announcement, AttachTarget, Collisions, Configuration, Confinement, Lifetime, Mode,
    OutboundSources, Plan, Verbosity, Workers,
};
use crate::config::address::{AddressError, HostNetworks, avoid_collisions, random_mac};
use crate::config::{
    Config, DhcpPool, Forwarding, Limits, LinkConfig, LocalClients, Offers, OutboundAddresses,
    PortForwarding, PublishRule, Rules, Segment, Services,
};
use crate::control::ControlError;
use crate::observe::audit::AuditError;
use crate::observe::capture::{Capture, CaptureError};
use crate::observe::log;
use crate::observe::log_file::LogFile;
use crate::observe::panics;
use crate::observe::rotation::FileError;
use crate::sys::bess::BessError;
use crate::sys::confined::{Confined, Sandboxed, Waiver};
use crate::sys::daemon::{self, Fork};
use crate::sys::host;
use crate::sys::id_map::{IdMapError, IdMapping, write_id_maps};
use crate::sys::memory;
use crate::sys::messenger;
use crate::sys::namespace::{NamespaceError, NamespaceTarget, Namespaces};
use crate::sys::netlink::Netlink;
use crate::sys::outlet;
use crate::sys::process::{self, Child, FORWARDED_SIGNALS, Signal, Signals};
use crate::sys::resolv_conf::{self, ResolvConf};
use crate::sys::sandbox::{self, SandboxError, SandboxPlan};
use crate::sys::seccomp::{self, Calls, SeccompError};
use crate::sys::socket::ListenError;
use crate::sys::tap::{Tap, TapError, TapFeatures};
use crate::sys::user::{UserError, become_user};
use crate::worker::answer::Identity;
use crate::worker::loopback::LoopbackPaths;
use crate::worker::{Device, ExitReason, Listener, LoopbackError, Source, Worker};

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
        Some(file) => {
            let opened = LogFile::create(&file.path, file.max_bytes);
            let opened = opened.map_err(|source| RunError::LogFile { path: file.path.clone(), source })?;
            // Whoever keeps a log wants to read what happened.
            log::install_to_file(level(plan.verbosity.max(Verbosity::Normal)), opened);
        }
    }
    panics::install();
    if let Some(path) = &plan.process.pid_file {
        let written = std::fs::write(path, format!("{}\n", std::process::id()));
        written.map_err(|source| {
            remove_if_empty(path);
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

/// What has to be known of the host before anything is made.
struct Facts {
    /// Free of collisions with the host's networks, or copied from one of them.
    link: LinkConfig,
    tap_name: String,
    copied: Option<Copied>,
    services: Services,
    offers: Offers,
    host_addresses: Vec<IpAddr>,
    host_networks: Vec<IpNet>,
    rules: Rules,
    /// Raised if the container goes where it may not.
    drifted: Option<Arc<AtomicBool>>,
    outbound: OutboundAddresses,
    resolv_conf: ResolvConf,
    resolvers: Vec<SocketAddr>,
    /// Bytes that there are for us, where the host tells; from a sandbox it cannot be seen.
    memory: Option<u64>,
}

impl Facts {
    fn gather(plan: &Plan) -> Result<Facts, RunError> {
        let resolv_conf = resolv_conf::read(Path::new(resolv_conf::PATH)).doing("read /etc/resolv.conf")?;
        let resolvers = plan.resolvers.clone().unwrap_or_else(|| resolv_conf.servers.clone());
        let interfaces = host_interfaces();
        let copied = match &plan.host_copy {
            None => None,
            Some(copy) => {
                let network = HostNetwork::read().map_err(CopyError::from)?;
                Some(host_copy::resolve(copy, plan.link.clone(), &network)?)
            }
        };
        let mut link = match (&copied, plan.collisions) {
            (Some(copied), _) => copied.link.clone(),
            (None, Collisions::Accept) => plan.link.clone(),
            (None, Collisions::Avoid(explicit)) => {
                let networks: Vec<(IpAddr, u8)> =
                    interfaces.iter().map(|(_, address, prefix_len)| (*address, *prefix_len)).collect();
                let resolvers: Vec<IpAddr> = resolvers.iter().map(SocketAddr::ip).collect();
                let host = HostNetworks { interfaces: &networks, resolvers: &resolvers };
                avoid_collisions(plan.link.clone(), explicit, host)?
            }
        };
        if link.ipv6.is_some() && !Path::new(IPV6_SYSCTLS).exists() {
            info!("this kernel has no IPv6, and neither has the container");
            link.ipv6 = None;
        }
        if configuration(plan) == Configuration::Ours && link.container_mac.is_none() {
            let [random, ..] = host::random_secret().doing("draw a random number")?;
            match link.segment {
                Segment::Private => link.adopt_container_mac(random_mac(random)),
                Segment::Shared(_) | Segment::Bridged { .. } => link.container_mac = Some(random_mac(random)),
            }
        }
        let outbound = outbound_addresses(&plan.outbound, &interfaces)?;
        let on_link = interfaces.iter().filter(|(_, address, _)| !address.is_loopback());
        let host_networks = on_link.filter_map(|(_, address, len)| IpNet::new(*address, *len).ok()).collect();
        let host_addresses = interfaces.into_iter().map(|(_, address, _)| address).collect();
        let tap_name =
            copied.as_ref().map_or_else(|| plan.tap_name.clone(), |copied| copied.tap_name.clone());
        let (mut services, mut offers) = (plan.services, plan.offers.clone());
        if let Some(copy) = &plan.host_copy {
            // The one address that the container has.
            let pool = link.ipv4.map(|ipv4| DhcpPool { first: ipv4.container, last: ipv4.container });
            services.dhcp = pool.filter(|_| copy.offers_dhcp);
            host_copy::complete_offers(&mut offers, copy, &link, &resolv_conf);
        }
        Ok(Facts {
            link,
            tap_name,
            copied,
            services,
            offers,
            host_addresses,
            host_networks,
            rules: policy::read(plan)?,
            drifted: policy::drift(plan),
            outbound,
            resolv_conf,
            resolvers,
            memory: memory::available_bytes(),
        })
    }

    fn container<'a>(&'a self, plan: &'a Plan) -> Container<'a> {
        Container {
            link: &self.link,
            copied: self.copied.as_ref(),
            tap_name: &self.tap_name,
            ends_with_namespace: ends_with_namespace(plan),
            tap_features: tap_features(plan),
            queues: workers(plan),
            has_link: !plan.forwarding.splice_only,
            configuration: configuration(plan),
        }
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

/// Index, address and prefix length of each interface; a host that does not tell is taken to have none.
fn host_interfaces() -> Vec<(u32, IpAddr, u8)> {
    match Netlink::open().and_then(|mut netlink| netlink.addresses()) {
        Ok(found) => found,
        Err(error) => {
            debug!("the host's networks are unknown: {error}");
            Vec::new()
        }
    }
}

/// The addresses to send from, all of them the host's own.
fn outbound_addresses(
    sources: &OutboundSources,
    interfaces: &[(u32, IpAddr, u8)],
) -> Result<OutboundAddresses, RunError> {
    let own = |address: IpAddr| {
        let found = interfaces.iter().any(|(_, own, _)| *own == address);
        if found { Ok(()) } else { Err(RunError::NoSuchSource { address }) }
    };
    let ipv4 = match &sources.ipv4 {
        None => None,
        Some(cli::Source::Address(address)) => own((*address).into()).map(|()| Some(*address))?,
        Some(cli::Source::Interface(name)) => {
            Some(address_of(name, interfaces, "IPv4", |address| match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            })?)
        }
    };
    let ipv6 = match &sources.ipv6 {
        None => None,
        Some(cli::Source::Address(address)) => own((*address).into()).map(|()| Some(*address))?,
        Some(cli::Source::Interface(name)) => {
            Some(address_of(name, interfaces, "IPv6", |address| match address {
                IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            })?)
        }
    };
    Ok(OutboundAddresses { ipv4, ipv6, ipv4_device: sources.ipv4_device, ipv6_device: sources.ipv6_device })
}

fn address_of<A>(
    name: &str,
    interfaces: &[(u32, IpAddr, u8)],
    family: &'static str,
    wanted: impl Fn(IpAddr) -> Option<A>,
) -> Result<A, RunError> {
    let missing = || RunError::NoSourceThere { name: name.to_owned(), family };
    let index = Netlink::open().and_then(|mut netlink| netlink.link_index(name)).map_err(|_| missing())?;
    let own = interfaces.iter().filter(|(place, ..)| *place == index);
    own.filter_map(|(_, address, _)| wanted(*address)).next().ok_or_else(missing)
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
    let mut worker = ports.into_worker(plan, facts, devices, open_capture(plan)?)?.with_audit(audit);
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

/// Published ports, bound.
struct Ports {
    rules: Vec<PublishRule>,
    listeners: Vec<Listener>,
    descriptors: u64,
}

impl Ports {
    /// Binds every port, or none. To be called after the child is forked: neither the descriptors nor the
    /// raised limit are meant for it.
    fn bind(plan: &Plan, link: &LinkConfig) -> Result<Ports, RunError> {
        let descriptors = host::raise_descriptor_limit().doing("read the limit of descriptors")?;
        let mut ports = Ports { rules: Vec::new(), listeners: Vec::new(), descriptors };
        for rule in plan.publish.iter().chain(&plan.forwarding.inward.required) {
            if link.container_like(rule.host_address).is_none() {
                // The family was taken away because this host has none of it.
                continue;
            }
            ports.listeners.push(Listener::bind(rule, plan.forwarding.freebind)?);
            ports.rules.push(*rule);
        }
        ports.bind_hopeful(plan, link);
        Ok(ports)
    }

    /// Binds what can be bound of the ports that are taken as they come, and leaves the rest, and the ports that
    /// clients are given by the kernel.
    fn bind_hopeful(&mut self, plan: &Plan, link: &LinkConfig) {
        let ephemeral = host::ephemeral_ports();
        let most = usize::try_from(self.descriptors / 2)
            .unwrap_or(usize::MAX)
            .min(Limits::default().published_ports);
        let hopeful = plan.forwarding.inward.hopeful.iter();
        for ports in hopeful.filter(|ports| link.container_like(ports.address).is_some()) {
            for port in ports.ports.iter().filter(|port| !ephemeral.contains(port)) {
                if self.listeners.len() >= most {
                    debug!(most, "no more ports are published");
                    return;
                }
                let rule = ports.rule(port);
                let is_listed = self.rules.iter().any(|other| {
                    (other.protocol, other.host_address, other.host_port)
                        == (rule.protocol, rule.host_address, rule.host_port)
                });
                if is_listed {
                    continue;
                }
                match Listener::bind(&rule, plan.forwarding.freebind) {
                    Ok(listener) => {
                        self.listeners.push(listener);
                        self.rules.push(rule);
                    }
                    Err(error) => debug!(%rule, %error, "not published"),
                }
            }
        }
    }

    fn into_worker(
        self,
        plan: &Plan,
        facts: &Facts,
        devices: Vec<Device>,
        capture: Option<Capture>,
    ) -> Result<Worker, RunError> {
        let published = u64::try_from(self.rules.len()).unwrap_or(u64::MAX);
        let config = Config {
            link: facts.link.clone(),
            host_loopback: plan.host_loopback,
            transports: plan.transports,
            services: facts.services,
            offers: facts.offers.clone(),
            local_clients: plan.forwarding.local_clients,
            outbound: facts.outbound,
            closed_ports: plan.closed_ports,
            udp_mapping: plan.udp_mapping,
            publish: self.rules,
            host_addresses: facts.host_addresses.clone(),
            host_networks: facts.host_networks.clone(),
            rules: facts.rules.clone(),
            audit: plan.audit.is_some() || plan.audit_enforce.is_some(),
            limits: limits(self.descriptors.saturating_sub(published), facts.memory),
            timeouts: plan.timeouts,
        };
        let secret = host::random_secret().doing("draw a random number")?;
        let worker = Worker::several(&config, devices, self.listeners, &facts.resolvers, secret)
            .doing("watch the interface")?;
        let worker = worker.with_conditions(plan.conditions.limits, plan.conditions.impairments);
        Ok(match capture {
            Some(capture) => worker.with_capture(capture),
            None => worker,
        })
    }
}

/// The file that frames are recorded in, if they are.
fn open_capture(plan: &Plan) -> Result<Option<Capture>, RunError> {
    let open = |path| Capture::create(path).inspect_err(|_| remove_if_empty(path));
    Ok(plan.capture.as_deref().map(open).transpose()?)
}

/// Takes a file away that was made, and then had no room for what was to be in it.
fn remove_if_empty(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
        // The error that is told is the first one.
        let _ = std::fs::remove_file(path);
    }
}

/// What may be held: bounded by the descriptors and the memory there are.
fn limits(descriptors: u64, memory: Option<u64>) -> Limits {
    let limits = Limits::default().within_descriptors(descriptors);
    match memory {
        Some(bytes) => limits.within_memory(bytes),
        None => limits,
    }
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
