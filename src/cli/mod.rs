//! From the words of a command line to a [`Plan`]: what is asked for, parsed and checked, before anything of
//! the host has been looked at.
//!
//! Each dialect has a file with its own options and resolves them to the same `Plan`; [`values`] reads what
//! dialects have in common. Nothing here touches the system or ends the process: help and errors are values of
//! [`CliError`], which knows its exit code. Left to those who run the plan: whether its subnets are free
//! ([`crate::config::address::avoid_collisions`]), its ports bindable and its namespace reachable.

pub mod native;
pub mod pasta;
pub mod slirp4netns;
pub mod values;

pub use self::native::ClientCommand;

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::address::ExplicitSubnets;
use crate::config::network::wish::NetworkName;
use crate::config::publish::PublishSpec;
use crate::config::{
    ClosedPorts, HookSettings, Impairments, InterfaceName, LinkConfig, Offers, PortForwarding, PublishRule,
    RateLimits, Rules, Services, Timeouts, Transports, UdpMapping,
};

/// What was asked for, complete and consistent in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For whom.
    pub mode: Mode,
    /// The segment; subnets that are not explicit may be exchanged for free ones.
    pub link: LinkConfig,
    /// What is done about networks of the host that overlap the segment.
    pub collisions: Collisions,
    /// Name of the TAP in the container: a valid interface name.
    pub tap_name: String,
    /// What of the segment is taken from an interface of the host, as this one is otherwise; nothing for a private
    /// network.
    pub host_copy: Option<HostCopy>,
    /// Ports to listen on; no two take the same.
    pub publish: Vec<PublishRule>,
    /// Ports to forward in the manner of pasta, those of `publish` not among them.
    pub forwarding: PortForwarding,
    /// How many threads serve it.
    pub workers: Workers,
    /// What of the container's traffic is carried.
    pub transports: Transports,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
    /// What may go where, part behind part.
    pub rules: Vec<RulePart>,
    /// Where it is written down where the container goes.
    pub audit: Option<PathBuf>,
    /// A list, or a recording of such an audit, beyond which going somewhere is a failure.
    pub audit_enforce: Option<PathBuf>,
    /// A program that is asked before any rule.
    pub hook: Option<HookPlan>,
    /// How UDP endpoints are mapped.
    pub udp_mapping: UdpMapping,
    /// What published TCP ports do that nobody listens on in the container.
    pub closed_ports: ClosedPorts,
    /// How long silence is tolerated.
    pub timeouts: Timeouts,
    /// What the segment offers beside the way out.
    pub services: Services,
    /// What those who ask for their settings are told.
    pub offers: Offers,
    /// Where host sockets send from.
    pub outbound: OutboundSources,
    /// The program that we stand for, where we do.
    pub face: Option<&'static str>,
    /// Where requests are taken while the network is up, in the manner of slirp4netns.
    pub api_socket: Option<PathBuf>,
    /// Where requests of `netferry`'s other commands are taken.
    pub control: ControlPlace,
    /// Where metrics are to be had over HTTP.
    pub metrics: Option<SocketAddr>,
    /// What we give up before we serve.
    pub confinement: Confinement,
    /// Resolvers to ask instead of the host's own.
    pub resolvers: Option<Vec<SocketAddr>>,
    /// Whether checksum and segmentation offloads of the TAP are used where the kernel has them.
    pub offload: bool,
    /// How we live as a process.
    pub process: ProcessPlan,
    /// Where every frame of the link is recorded, in pcap format.
    pub capture: Option<PathBuf>,
    /// How fast and how bad the network is, and who watches it from the beginning.
    pub conditions: Conditions,
    /// How much is told on standard error.
    pub verbosity: Verbosity,
}

/// A program that is asked what may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookPlan {
    /// Its path, or its name along `PATH`.
    pub program: PathBuf,
    /// How it is asked.
    pub settings: HookSettings,
}

/// A part of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulePart {
    /// These rules.
    Rules(Rules),
    /// Those of this file.
    File(PathBuf),
}

/// How fast and how bad a network is, and who watches it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// What the container may carry.
    pub limits: RateLimits,
    /// How bad its link is.
    pub impairments: Impairments,
    /// Where both sides of the translation are recorded, in pcapng format.
    pub recording: Option<Recording>,
}

/// A capture in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The first.
    pub path: PathBuf,
    /// Bytes of each.
    pub max_bytes: Option<u64>,
    /// How many they are.
    pub files: usize,
    /// Bytes of each packet.
    pub snap_len: u32,
    /// Whether super-segments are cut.
    pub segments: bool,
}

/// Where requests of `netferry`'s other commands are taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ControlPlace {
    /// Among the user's other instances, if there is a place for them.
    #[default]
    Default,
    /// Nowhere.
    None,
    /// Here.
    Path(PathBuf),
}

impl Plan {
    /// Whether something of it is one worker's: the addresses of names in rules, a rate, the link's faults, a record
    /// of all.
    #[must_use]
    pub fn takes_one_worker(&self) -> bool {
        !self.rules.is_empty()
            || self.conditions != Conditions::default()
            || self.capture.is_some()
            || self.audit.is_some()
            || self.audit_enforce.is_some()
            || self.hook.is_some()
    }
}

/// How many threads serve the interface, each with a queue of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// So many; at least one.
    Count(usize),
    /// As many as gain.
    Auto,
}

/// How we live as a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessPlan {
    /// Whether we go on in the background once the network is up, and whoever started us finds us ended with success.
    pub background: bool,
    /// Where our process id is written.
    pub pid_file: Option<PathBuf>,
    /// Where we write what would go to standard error.
    pub log_file: Option<LogFile>,
    /// The user and group to become, where we are started as root: numbers or names, as given.
    pub run_as: Option<String>,
}

/// A log file that does not grow for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Its path.
    pub path: PathBuf,
    /// Its largest size; the oldest lines go first.
    pub max_bytes: u64,
}

/// What the container takes over from the host: addresses, routes and MTU of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostCopy {
    /// Which interface; the one of the default route of each family where none is named.
    pub interface: Option<InterfaceName>,
    /// Addresses instead of the host's, with the length of their prefix where it is told.
    pub addresses: Vec<(IpAddr, Option<u8>)>,
    /// Prefix length of IPv4 addresses that name none.
    pub netmask: Option<u8>,
    /// Default gateway instead of the host's.
    pub gateway4: Option<Ipv4Addr>,
    /// Default gateway instead of the host's.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether the interface gets only the first of the addresses.
    pub only_first_address: bool,
    /// Whether it gets only a default route.
    pub only_default_route: bool,
    /// Whether the gateway is an alias of the host's loopback, unless another address is named.
    pub gateway_is_loopback: bool,
    /// Aliases of the host's loopback.
    pub map_host_loopback: Vec<IpAddr>,
    /// Aliases of the host by the address that the container has as well.
    pub map_guest_address: Vec<IpAddr>,
    /// Where the container sends DNS queries that are to be forwarded.
    pub dns_forward: Vec<IpAddr>,
    /// Whether addresses are leased over DHCP.
    pub offers_dhcp: bool,
    /// Whether resolvers are told over DHCP and router advertisements.
    pub offers_resolvers: bool,
    /// Whether the host's search list is.
    pub offers_search: bool,
    /// Name of the container's interface; the host's interface's where none is given.
    pub tap_name: Option<InterfaceName>,
}

/// For whom the network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// For a command in namespaces of its own.
    Run {
        /// The command and its arguments; empty for the user's shell.
        command: Vec<OsString>,
    },
    /// For what exists already.
    Attach(Attach),
}

/// What exists already, and how it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// What.
    pub target: AttachTarget,
    /// The user namespace that owns it, where `target` does not tell.
    pub userns: Option<PathBuf>,
    /// Who gives the interface its addresses and routes.
    pub configuration: Configuration,
    /// A descriptor, open since before we started, that is told when the network is up.
    pub ready_fd: Option<i32>,
    /// A descriptor, open since before we started, with whose first event we end.
    pub exit_fd: Option<i32>,
    /// What ends us besides `exit_fd`.
    pub lifetime: Lifetime,
    /// How it is told that the network is up.
    pub announcement: Announcement,
}

/// What a network is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachTarget {
    /// The network namespace of a process; above zero.
    Pid(i32),
    /// A network namespace by its file, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    Path(PathBuf),
    /// A TAP device that is open, by our descriptor of it.
    TapFd(i32),
    /// Whoever connects to this socket, such as User Mode Linux (BESS).
    Bess(PathBuf),
}

/// How long we are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the process that names the namespace, and at most as long as the namespace. A signal is another
    /// orderly end.
    OfTarget,
    /// Until whoever started us ends us, by a signal of which we die: he counts on us being there, even when the
    /// container is gone.
    UntilTold,
}

/// Who configures the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configuration {
    /// We do.
    Ours,
    /// Others do, or it is configured already.
    Others,
}

/// How it is told that the network is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// By one line on standard error.
    StandardError,
    /// By the lines of slirp4netns, on standard output.
    StandardOutput,
    /// Not at all.
    Nothing,
}

/// What is done about networks of the host that overlap the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collisions {
    /// A subnet that the user named is refused, a default one exchanged for a free one.
    Avoid(ExplicitSubnets),
    /// Nothing: they are out of the container's reach.
    Accept,
}

/// Where host sockets send from; the kernel chooses where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboundSources {
    /// IPv4 sockets.
    pub ipv4: Option<Source<Ipv4Addr>>,
    /// IPv6 sockets.
    pub ipv6: Option<Source<Ipv6Addr>>,
    /// The only interface that IPv4 sockets use.
    pub ipv4_device: Option<InterfaceName>,
    /// The only interface that IPv6 sockets use.
    pub ipv6_device: Option<InterfaceName>,
}

/// A source address, or the interface whose address it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<A> {
    /// The address itself.
    Address(A),
    /// The first address of this interface.
    Interface(String),
}

/// What we give up before we serve: a sandbox gives up files and every capability that is not needed, a filter the
/// system calls that are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confinement {
    /// All of it.
    #[default]
    Full,
    /// What the flags of another program's face ask for.
    OfFace {
        /// Files and capabilities.
        sandbox: bool,
        /// System calls.
        filter: bool,
    },
    /// Nothing, because the user wants it so.
    None,
}

impl Confinement {
    /// Whether files and capabilities are given up.
    #[must_use]
    pub fn has_sandbox(self) -> bool {
        match self {
            Confinement::Full => true,
            Confinement::OfFace { sandbox, .. } => sandbox,
            Confinement::None => false,
        }
    }

    /// Whether system calls are.
    #[must_use]
    pub fn has_filter(self) -> bool {
        match self {
            Confinement::Full => true,
            Confinement::OfFace { filter, .. } => filter,
            Confinement::None => false,
        }
    }
}

/// How much is told on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// One line when the network is up, and warnings.
    #[default]
    Normal,
    /// Each flow.
    Debug,
    /// Each packet.
    Trace,
}

/// Why there is no plan. The text is complete: program name first, no newline last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// Help or version was asked for: text for standard output.
    #[error("{0}")]
    Information(String),
    /// The words make no sense; one line that names the help to read.
    #[error("netferry: {message}; try '{command} --help'")]
    Usage {
        /// What was asked and found.
        message: String,
        /// Whose help explains it.
        command: &'static str,
    },
    /// The words of another program's face make no sense.
    #[error("{face}: {message}")]
    FaceUsage {
        /// What was asked and found.
        message: String,
        /// The program that we stand for.
        face: &'static str,
        /// Its help, for standard output.
        help: String,
    },
    /// The words of another program's face make no sense, or no possible sense.
    #[error("{face}: {message}")]
    Face {
        /// What was asked and found.
        message: String,
        /// The program that we stand for.
        face: &'static str,
    },
    /// The words make sense, but what they ask for cannot be; one line that says what can.
    #[error("netferry: {0}")]
    Unusable(String),
}

impl CliError {
    /// The status to end the process with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Information(_) => 0,
            CliError::Usage { .. } => 2,
            // getopt_long's users exit so.
            CliError::FaceUsage { .. } | CliError::Face { .. } | CliError::Unusable(_) => 1,
        }
    }

    /// What belongs on standard output.
    #[must_use]
    pub fn standard_output(&self) -> Option<&str> {
        match self {
            CliError::Information(text) | CliError::FaceUsage { help: text, .. } => Some(text),
            CliError::Usage { .. } | CliError::Face { .. } | CliError::Unusable(_) => None,
        }
    }

    /// What belongs on standard error: one line.
    #[must_use]
    pub fn standard_error(&self) -> Option<String> {
        match self {
            CliError::Information(_) => None,
            CliError::Usage { .. }
            | CliError::FaceUsage { .. }
            | CliError::Face { .. }
            | CliError::Unusable(_) => Some(self.to_string()),
        }
    }
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// To serve a network.
    Serve(Box<Plan>),
    /// To ask those who do.
    Ask(Box<ClientCommand>),
    /// To run a command on a network of several containers.
    Join(Box<RunOnNetwork>),
}

/// `netferry run --network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOnNetwork {
    /// Which.
    pub network: NetworkName,
    /// Names and addresses of the container.
    pub wants: native::network::Wants,
    /// What its interface is called.
    pub interface: InterfaceName,
    /// Ports of the host that lead to it.
    pub publish: Vec<PublishSpec>,
    /// Parts of its rules, which stand behind the network's.
    pub rules: Vec<RulePart>,
    /// Where it is written down where it goes.
    pub audit: Option<PathBuf>,
    /// The command and its arguments; the user's shell if there is none.
    pub command: Vec<OsString>,
    /// How much is told on standard error.
    pub verbosity: Verbosity,
}

/// Reads a command line that asks for a network, program name first.
///
/// # Errors
/// Also for one that asks for something else.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Plan, CliError> {
    match read(args)? {
        Invocation::Serve(plan) => Ok(*plan),
        Invocation::Ask(_) | Invocation::Join(_) => {
            Err(CliError::Unusable("this command serves no network".to_owned()))
        }
    }
}

/// Reads a command line, program name first. The face is chosen by the name that we are called by, or by the
/// first word.
pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let face = |word: Option<&OsStr>| {
        let word = word.and_then(OsStr::to_str)?;
        let faces: [(&str, Face); 2] = [(slirp4netns::NAME, slirp4netns::parse), (pasta::NAME, pasta::parse)];
        faces.into_iter().find(|(name, _)| *name == word).map(|(_, parse)| parse)
    };
    if let Some(parse) = face(args.first().and_then(|word| Path::new(word).file_name())) {
        return parse(args).map(Box::new).map(Invocation::Serve);
    }
    if let Some(parse) = face(args.get(1).map(OsString::as_os_str)) {
        return parse(args[1..].to_vec()).map(Box::new).map(Invocation::Serve);
    }
    native::parse(args)
}

/// Reads a command line of another program, that program's name first.
type Face = fn(Vec<OsString>) -> Result<Plan, CliError>;

/// The native command line's definition, for those who document or complete it.
#[must_use]
pub fn command() -> clap::Command {
    native::command()
}
