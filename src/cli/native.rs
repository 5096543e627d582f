//! `netferry run` and `netferry attach`; the commands that ask a running instance have a file each.
//!
//! The options are texts here, so that each mistake is told in the same words: clap finds what belongs where,
//! [`values`] judges it. What clap says of a wrong command line is cut down to its first sentence.

pub mod audit;
pub mod capture;
pub mod conditions;
pub mod explain;
pub mod flows;
pub mod hook;
pub mod impair;
pub mod metrics;
pub mod network;
mod policy;
pub mod ps;
pub mod rules;
pub mod shape;
pub mod target;
#[cfg(feature = "top")]
pub mod top;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use self::conditions::ConditionOptions;
use self::hook::HookOptions;
use self::policy::RuleOptions;
use super::values::{self, ValueError};
use super::{
    Announcement, CliError, Collisions, Configuration, Confinement, ControlPlace, Invocation, Lifetime, Mode,
    OutboundSources, Plan, ProcessPlan, RunOnNetwork, Verbosity, Workers,
};
use crate::config::address::{self, ExplicitSubnets, Ipv4Link, Ipv6Link};
use crate::config::limits::MAX_RESOLVERS;
use crate::config::network::wish::NetworkName;
use crate::config::{
    ClosedPorts, Limits, LinkConfig, Offers, PortForwarding, Segment, Services, Timeouts, Transports,
    UdpMapping, publish,
};

const DEFAULT_TAP_NAME: &str = "tap0";

const EXAMPLES: &str = "\
Examples:
  netferry run                                  a shell with a network of its own
  netferry run -- curl https://example.org/     one command
  netferry run -p 8080:80 python3 -m http.server 80
                                                a server on port 80, reached at the host's port 8080
  netferry attach 4711                          a network for the namespace of process 4711

  netferry ps                                   the networks that are there, and who serves them
  netferry rules -v                             what may go where, with counters
  netferry explain tcp://crates.io:443          whether the container gets there, and why

`netferry COMMAND --help` explains the options. `netferry slirp4netns`, or netferry under the name
slirp4netns, stands in for that program: `netferry slirp4netns --help`.";

const RUN_EXAMPLES: &str = "\
Examples:
  netferry run
      The user's shell, with TCP, UDP, ping and DNS to wherever the host reaches.
  netferry run -p 8080:80 python3 -m http.server 80
      What listens on port 80 in the container is reached at the host's port 8080.
  netferry run -p 127.0.0.1:5353:53/udp -p '[::1]:8000-8009:8000-8009' -- ./server --port 8000
      Ports of one host address, of UDP, of IPv6, and a range. `--` ends netferry's own options.
  netferry run --host-loopback -- curl http://10.0.2.2:3000/
      A server on the host's own 127.0.0.1:3000, at the gateway's address.

Exit status: that of CMD; 128 plus the signal that killed it; 121 for what --audit-enforce does not allow; 127 if it is not found, 126 if it cannot be \
executed; 1 if the network cannot be set up; 2 for a mistake on the command line.";

const ATTACH_EXAMPLES: &str = "\
Examples:
  unshare -Urn sleep 1h &
  netferry attach $!
      A network for a namespace made by somebody else; it lasts until netferry is ended.
  netferry attach -p 8080:80 --userns /proc/4711/ns/user /proc/4711/ns/net eth0
      The same by path, with the interface named eth0.

Exit status: 0 when ended by a signal or with the namespace; 1 if the network cannot be set up; 2 for a mistake on \
the command line.";

/// A network for processes that have none, without root.
///
/// netferry opens a TAP device in a network namespace and carries its traffic over ordinary sockets of the host. It
/// changes nothing on the host: no bridge, no route, no firewall rule.
#[derive(Debug, Parser)]
#[command(name = "netferry", version, after_help = EXAMPLES, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl ClientCommand {
    /// What clap leaves unjudged.
    fn check(&self) -> Result<(), ValueError> {
        if let ClientCommand::Network(asked) = self {
            return asked.check();
        }
        if let ClientCommand::Flows(flows) = self { flows.check() } else { Ok(()) }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Run),
    Attach(Attach),
    #[command(flatten)]
    Client(ClientCommand),
}

/// Commands that ask instances which are there.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[expect(
    missing_docs,
    reason = "what --help says of a command is written at its options; a comment here would replace it"
)]
pub enum ClientCommand {
    Ps(ps::Ps),
    Flows(flows::Flows),
    Rules(rules::Rules),
    Explain(explain::Explain),
    Audit(audit::Audit),
    Capture(capture::Capture),
    Shape(shape::Shape),
    Impair(impair::Impair),
    Metrics(metrics::Metrics),
    #[cfg(feature = "top")]
    Top(top::Top),
    Network(network::Network),
}

/// Run a command in a new network namespace that has a network.
///
/// Makes a user, a network and a mount namespace, sets up an interface there and runs CMD in them. CMD gets an
/// /etc/resolv.conf that leads to the host's resolvers. The network is gone when CMD ends.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES, override_usage = "netferry run [OPTIONS] [--] [CMD [ARG]...]")]
struct Run {
    #[command(flatten)]
    link: LinkOptions,

    /// Name of the interface in the container [default: tap0, on a network eth0].
    #[arg(long, value_name = "NAME", help_heading = "Interface")]
    ifname: Option<String>,

    /// Run it on this network of several containers, which is started if it is not there.
    ///
    /// A network that is started so ends with its last container; see netferry network.
    #[arg(long, value_name = "NETWORK", help_heading = "Networks", conflicts_with_all = network::NOT_ON_A_NETWORK)]
    network: Option<NetworkName>,

    #[command(flatten)]
    wants: network::Wants,

    /// The command to run and its arguments; the user's shell if there is none.
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Give a network namespace that exists a network.
///
/// Sets up an interface in the namespace and serves it until the namespace's process ends or a signal comes.
#[derive(Debug, Args)]
#[command(after_help = ATTACH_EXAMPLES)]
struct Attach {
    #[command(flatten)]
    link: LinkOptions,

    /// User namespace that owns the network namespace, when that is named by its path.
    #[arg(long, value_name = "PATH")]
    userns: Option<PathBuf>,

    /// Write a line to this descriptor, and close it, when the network is up.
    #[arg(long, value_name = "N", help_heading = "Output")]
    ready_fd: Option<String>,

    /// The namespace: a process in it, or its path such as /run/netns/NAME.
    #[arg(value_name = "PID|PATH")]
    target: PathBuf,

    /// Name of the interface in the container.
    #[arg(value_name = "TAPNAME", default_value = DEFAULT_TAP_NAME)]
    tap_name: String,
}

/// Options of both.
#[derive(Debug, Args)]
struct LinkOptions {
    /// Publish a port of the container on the host: [HOST_IP:]HOST_PORT[-END]:CONTAINER_PORT[-END][/tcp|udp].
    ///
    /// The container's server sees the client's real address. Without HOST_IP all addresses of the host are listened on,
    /// IPv4 and IPv6; an IPv6 HOST_IP stands in brackets. A single port is the same on both sides. May be repeated.
    #[arg(short, long, value_name = "SPEC", help_heading = "Ports and DNS")]
    publish: Vec<String>,

    /// What a published TCP port does while nobody listens on it in the container.
    ///
    /// Where clients are refused, a server that begins to listen is found within a thousandth of the time it took, a tenth of a
    /// second at most; a client that comes before is refused.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Ports and DNS")]
    closed_ports: ClosedPortsArg,

    /// Let the gateway's address stand for the host's loopback.
    ///
    /// Without it, what listens only on 127.0.0.1 or ::1 of the host is out of the container's reach.
    #[arg(long, help_heading = "Ports and DNS")]
    host_loopback: bool,

    /// Ask this resolver, ADDR or ADDR:PORT, instead of the host's; may be repeated.
    #[arg(long, value_name = "ADDR[:PORT]", help_heading = "Ports and DNS")]
    dns: Vec<String>,

    /// Who may answer to a UDP port of the container.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Ports and DNS")]
    udp_mapping: UdpMappingArg,

    /// How long silence is tolerated, as in udp=5m,tcp-established=3h; may be repeated.
    ///
    /// tcp-established (default 2h4m): an idle connection whose both sides are then asked whether they are still there, every
    /// tcp-probe (75s), and which ends only when one is not. tcp-handshake (4m). tcp-closing (4m): an acknowledgement that the
    /// container owes. tcp-time-wait (10s). udp (5m). icmp (60s): an echo. dns (1500ms): until the next resolver is asked.
    #[arg(long, value_name = "NAME=TIME[,...]", help_heading = "Ports and DNS")]
    timeout: Vec<String>,

    #[command(flatten)]
    rules: RuleOptions,

    /// Write each new destination of the container to this file, as JSON lines.
    ///
    /// With its name, address, port and verdict, and in the end with what it carried. `netferry audit suggest` makes rules of it.
    #[arg(long, value_name = "FILE", help_heading = "Rules")]
    audit: Option<PathBuf>,

    /// Reject and fail on what is not in this recording or file of rules.
    ///
    /// FILE is what --audit has written, or rules in TOML. Whatever it does not allow is rejected, told on standard error, and
    /// ends in exit status 121.
    #[arg(long, value_name = "FILE", help_heading = "Rules")]
    audit_enforce: Option<PathBuf>,

    #[command(flatten)]
    hook: HookOptions,

    /// IPv4 subnet of the container [default: 10.0.2.0/24, or another if the host uses that].
    ///
    /// Gateway, DNS and container are the addresses .2, .3 and .100 in it; in a subnet smaller than /24 the container
    /// is the last one. An address with host bits, as in 10.0.2.50/24, is the container's.
    #[arg(long, value_name = "CIDR", help_heading = "Interface")]
    cidr: Option<String>,

    /// IPv6 prefix of the container [default: fd40:6ce4:2b9f::/64, or another if the host uses that].
    ///
    /// Gateway, DNS and container are ::2, ::3 and ::100 in it. An address with host bits is the container's.
    #[arg(long, value_name = "CIDR6", conflicts_with = "no_ipv6", help_heading = "Interface")]
    cidr6: Option<String>,

    /// Do without IPv6.
    #[arg(long, help_heading = "Interface")]
    no_ipv6: bool,

    /// Largest packet in bytes, from 1280 (576 without IPv6) to 65520 [default: 1500].
    #[arg(long, value_name = "N", help_heading = "Interface")]
    mtu: Option<String>,

    /// Ethernet address of the container [default: made from its IPv4 address].
    #[arg(long, value_name = "MAC", help_heading = "Interface")]
    mac: Option<String>,

    /// Do not use the interface's checksum and segmentation offloads: slower, for debugging.
    #[arg(long, help_heading = "Interface")]
    no_offload: bool,

    /// Threads that serve the interface, each with a queue of it: 1 to 16, or auto.
    ///
    /// Several gain where there are processors to spare and many transfers at once; on two processors one is as good, and better
    /// for short connections. auto: half of the processors, from 1 to 4.
    #[arg(long, value_name = "N|auto", default_value = "1", help_heading = "Interface")]
    workers: String,

    /// Keep files, capabilities and system calls that serving does not need: for debugging only.
    ///
    /// Without it, whoever takes netferry over from the container finds an empty file system, no capability, and next to no
    /// system call.
    #[arg(long, help_heading = "Interface")]
    no_sandbox: bool,

    /// Take requests of netferry's other commands at this path, or nowhere (none) [default: ID.sock in the user's directory].
    ///
    /// The directory is $XDG_RUNTIME_DIR/netferry, /run/user/UID/netferry or /tmp/netferry-UID, the first that can be had. Only
    /// this user and root are answered. `netferry ps` lists what is there.
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    control: Option<PathBuf>,

    /// Serve metrics over HTTP at this address, as Prometheus reads them: GET /metrics [default address: 127.0.0.1].
    ///
    /// Whoever reaches the address can read them.
    #[arg(long, value_name = "[ADDR:]PORT", help_heading = "Output")]
    metrics: Option<String>,

    #[command(flatten)]
    conditions: ConditionOptions,

    /// Say nothing but errors.
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,

    /// Tell of each flow; twice, of each packet.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ClosedPortsArg {
    /// Accept clients, and reset those that the container refuses.
    Accept,
    /// Refuse clients as soon as the container has refused one, until somebody listens, for ten seconds at most.
    #[default]
    Learn,
    /// Refuse clients, as the container would.
    Refuse,
}

impl From<ClosedPortsArg> for ClosedPorts {
    fn from(mode: ClosedPortsArg) -> Self {
        match mode {
            ClosedPortsArg::Refuse => ClosedPorts::Refuse,
            ClosedPortsArg::Learn => ClosedPorts::Learn,
            ClosedPortsArg::Accept => ClosedPorts::Accept,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum UdpMappingArg {
    /// Only the peer that was asked.
    #[default]
    Connected,
    /// Anyone who learns the port on the host.
    EndpointIndependent,
}

impl From<UdpMappingArg> for UdpMapping {
    fn from(mapping: UdpMappingArg) -> Self {
        match mapping {
            UdpMappingArg::Connected => UdpMapping::Connected,
            UdpMappingArg::EndpointIndependent => UdpMapping::EndpointIndependent,
        }
    }
}

pub(super) fn command() -> clap::Command {
    Cli::command()
}

pub(super) fn parse(args: Vec<OsString>) -> Result<Invocation, CliError> {
    let command = help_command(&args);
    let parsed = match parse_start(&args) {
        Some(parsed) => parsed,
        None => Cli::try_parse_from(args).map_err(|error| reduce(&error, command))?.command,
    };
    let invocation = match parsed {
        Command::Run(run) => match run.network {
            Some(_) => return run.join(command),
            None => run.resolve().map(Box::new).map(Invocation::Serve),
        },
        Command::Attach(attach) => attach.resolve().map(Box::new).map(Invocation::Serve),
        Command::Client(client) => client.check().map(|()| Invocation::Ask(Box::new(client))),
    };
    invocation.map_err(|error| match error {
        ValueError::Malformed(message) => CliError::Usage { message, command },
        ValueError::Unusable(message) => CliError::Unusable(message),
    })
}

/// What starts a network, read without the options of all other commands being made first, which took a fifth of
/// a start. None for other commands, for help, and for mistakes, which are told by the whole.
fn parse_start(args: &[OsString]) -> Option<Command> {
    fn parse<T: Args>(words: &[OsString]) -> Option<T> {
        let options = T::augment_args(clap::Command::new("netferry"));
        T::from_arg_matches(&options.try_get_matches_from(words).ok()?).ok()
    }
    let words = args.get(1..)?;
    match words.first()?.to_str()? {
        "run" => parse(words).map(Command::Run),
        "attach" => parse(words).map(Command::Attach),
        _ => None,
    }
}

impl Run {
    fn resolve(self) -> Result<Plan, ValueError> {
        let tap_name =
            values::interface_name("--ifname", self.ifname.as_deref().unwrap_or(DEFAULT_TAP_NAME))?;
        self.link.resolve(Mode::Run { command: self.command }, tap_name)
    }

    /// With a network of several containers in place of one's own.
    fn join(self, command: &'static str) -> Result<Invocation, CliError> {
        let usage = |message: String| CliError::Usage { message, command };
        let name = self.ifname.as_deref().unwrap_or(network::DEFAULT_INTERFACE);
        let interface =
            network::interface_name(name).map_err(|why| usage(format!("--ifname {name}: {why}")))?;
        let specs = self.link.publish.iter().map(|text| values::publish_spec("--publish", text));
        let publish = specs.collect::<Result<Vec<_>, _>>().map_err(|error| usage(error.to_string()))?;
        let rules = self.link.rules.resolve().map_err(|error| usage(error.to_string()))?;
        let Some(network) = self.network else { return Err(usage("--network is missing".to_owned())) };
        Ok(Invocation::Join(Box::new(RunOnNetwork {
            network,
            wants: self.wants,
            interface,
            publish,
            rules,
            audit: self.link.audit.clone(),
            command: self.command,
            verbosity: self.link.verbosity(),
        })))
    }
}

impl Attach {
    fn resolve(self) -> Result<Plan, ValueError> {
        let target = values::attach_target(self.target)?;
        if self.userns.is_some() && matches!(target, super::AttachTarget::Pid(_)) {
            let message =
                "--userns is for a PATH, and a PID has its own; leave it out, or give /proc/PID/ns/net";
            return Err(ValueError::Malformed(message.to_owned()));
        }
        let ready_fd = self.ready_fd.map(|text| values::ready_fd("--ready-fd", &text)).transpose()?;
        let tap_name = values::interface_name("TAPNAME", &self.tap_name)?;
        let attach = super::Attach {
            target,
            userns: self.userns,
            configuration: Configuration::Ours,
            ready_fd,
            exit_fd: None,
            lifetime: Lifetime::OfTarget,
            announcement: Announcement::StandardError,
        };
        self.link.resolve(Mode::Attach(attach), tap_name)
    }
}

impl LinkOptions {
    fn resolve(self, mode: Mode, tap_name: String) -> Result<Plan, ValueError> {
        let link = self.link()?;
        let workers = values::workers("--workers", &self.workers)?;
        let specs = self.publish.iter().map(|text| values::publish_spec("--publish", text));
        let specs = specs.collect::<Result<Vec<_>, _>>()?;
        let publish = publish::resolve(&specs, &link, Limits::default().published_ports)
            .map_err(|error| ValueError::Unusable(error.to_string()))?;
        let resolvers = self.dns.iter().map(|text| values::resolver("--dns", text));
        let resolvers = resolvers.collect::<Result<Vec<_>, _>>()?;
        if resolvers.len() > MAX_RESOLVERS {
            let asked = resolvers.len();
            return Err(ValueError::Unusable(format!(
                "--dns: {asked} resolvers are asked for and {MAX_RESOLVERS} are the limit; name fewer"
            )));
        }
        let control = match self.control.as_deref().and_then(Path::to_str) {
            None if self.control.is_none() => ControlPlace::Default,
            Some("none") => ControlPlace::None,
            Some(_) | None => self.control.clone().map_or(ControlPlace::None, ControlPlace::Path),
        };
        let mut timeouts = Timeouts::default();
        for list in &self.timeout {
            values::timeouts("--timeout", list, &mut timeouts)?;
        }
        let plan = Plan {
            mode,
            collisions: Collisions::Avoid(ExplicitSubnets {
                ipv4: self.cidr.is_some(),
                ipv6: self.cidr6.is_some(),
            }),
            link,
            tap_name,
            host_copy: None,
            publish,
            forwarding: PortForwarding::default(),
            workers,
            transports: Transports::default(),
            host_loopback: self.host_loopback,
            rules: self.rules.resolve()?,
            audit: self.audit.clone(),
            audit_enforce: self.audit_enforce.clone(),
            hook: self.hook.resolve(self.udp_mapping.into())?,
            udp_mapping: self.udp_mapping.into(),
            closed_ports: self.closed_ports.into(),
            timeouts,
            services: Services::default(),
            offers: Offers::default(),
            outbound: OutboundSources::default(),
            face: None,
            api_socket: None,
            control,
            metrics: self.metrics.as_deref().map(|text| values::listening("--metrics", text)).transpose()?,
            confinement: if self.no_sandbox { Confinement::None } else { Confinement::Full },
            resolvers: (!resolvers.is_empty()).then_some(resolvers),
            offload: !self.no_offload,
            process: ProcessPlan::default(),
            capture: None,
            conditions: self.conditions.resolve()?,
            verbosity: self.verbosity(),
        };
        match plan.workers {
            Workers::Count(2..) if plan.takes_one_worker() => {
                let message = "--workers: rules, hooks, audit, rates, impairments and captures are one worker's; leave it out, or give auto";
                Err(ValueError::Unusable(message.to_owned()))
            }
            Workers::Count(_) | Workers::Auto => Ok(plan),
        }
    }

    fn link(&self) -> Result<LinkConfig, ValueError> {
        let ipv4 = match &self.cidr {
            Some(text) => values::ipv4_link("--cidr", text)?,
            None => Ipv4Link::default(),
        };
        let ipv6 = match &self.cidr6 {
            Some(text) => Some(values::ipv6_link("--cidr6", text)?),
            None if self.no_ipv6 => None,
            None => Some(Ipv6Link::default()),
        };
        let mtu = match &self.mtu {
            Some(text) => values::mtu("--mtu", text, ipv6.is_some())?,
            None => address::DEFAULT_MTU,
        };
        let container_mac = match &self.mac {
            Some(text) => values::container_mac("--mac", text)?,
            None => address::derived_mac(ipv4.container),
        };
        Ok(LinkConfig {
            segment: Segment::Private,
            ipv4: Some(ipv4),
            ipv6,
            mtu,
            gateway_mac: address::GATEWAY_MAC,
            container_mac: Some(container_mac),
        })
    }

    fn verbosity(&self) -> Verbosity {
        verbosity(self.verbose, self.quiet)
    }
}

/// How much is told, by the number of times that more was asked for.
fn verbosity(more: u8, is_quiet: bool) -> Verbosity {
    match more {
        0 if is_quiet => Verbosity::Quiet,
        0 => Verbosity::Normal,
        1 => Verbosity::Debug,
        2.. => Verbosity::Trace,
    }
}

/// Whose help a mistake in this command line is explained by.
fn help_command(args: &[OsString]) -> &'static str {
    match args.get(1).and_then(|word| word.to_str()) {
        Some("run") => "netferry run",
        Some("attach") => "netferry attach",
        Some("ps") => "netferry ps",
        Some("capture") => "netferry capture",
        Some("impair") => "netferry impair",
        Some("shape") => "netferry shape",
        Some("flows") => "netferry flows",
        Some("metrics") => "netferry metrics",
        Some("top") => "netferry top",
        Some("network") => "netferry network",
        Some(_) | None => "netferry",
    }
}

/// Help and version as they are; of an error its first paragraph, on one line, and a suggestion if there is one.
fn reduce(error: &clap::Error, command: &'static str) -> CliError {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return CliError::Information(text.trim_end().to_owned());
    }
    if error.kind() == ErrorKind::MissingSubcommand {
        let message = "no command is given; start with 'netferry run' or 'netferry attach PID'".to_owned();
        return CliError::Usage { message, command };
    }
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let sentence = paragraph.collect::<Vec<_>>().join(" ");
    let mut message = sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned();
    if let Some((_, similar)) = text.split_once("tip: a similar ") {
        let similar = similar.lines().next().unwrap_or_default();
        message.push_str("; a similar ");
        message.push_str(similar);
    }
    CliError::Usage { message, command }
}

#[cfg(test)]
mod tests;
