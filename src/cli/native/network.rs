//! `netferry network`, and the options of `netferry run` that are about a network.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};

use super::hook::HookOptions;
use super::policy::RuleOptions;
use crate::cli::values::ValueError;
use crate::cli::{HookPlan, LogFile, Verbosity};
use crate::config::network::wish::{HostName, NetworkName};
use crate::config::publish::PublishSpec;
use crate::config::{InterfaceName, UdpMapping};

/// The interface of a container on a network.
pub const DEFAULT_INTERFACE: &str = "eth0";

/// What is the network's and not one container's.
pub(super) const NOT_ON_A_NETWORK: [&str; 25] = [
    "closed_ports",
    "host_loopback",
    "dns",
    "udp_mapping",
    "timeout",
    "cidr",
    "cidr6",
    "no_ipv6",
    "mtu",
    "mac",
    "no_offload",
    "workers",
    "no_sandbox",
    "control",
    "limit",
    "impair",
    "pcap",
    "capture_size",
    "capture_files",
    "snaplen",
    "segment",
    "audit_enforce",
    "hook",
    "hook_timeout",
    "hook_failure",
];

const EXAMPLES: &str = "\
Examples:
  netferry network create lab
  netferry network connect lab 4711 --name web -p 8080:80
  netferry run --network lab -- curl http://web/
  netferry network rm --force lab

Exit status: 0; 1 if it cannot be done; 2 for a mistake on the command line.";

/// Networks of several containers: a switch, a gateway, names and published ports, in one process and without root.
///
/// Containers of a network reach each other, by name too; those of different networks do not.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Network {
    /// What to do.
    #[command(subcommand)]
    pub action: NetworkAction,
}

impl Network {
    /// What clap leaves unjudged.
    pub(super) fn check(&self) -> Result<(), ValueError> {
        match &self.action {
            NetworkAction::Create(create) => create.rules.resolve().and(create.hook().map(drop)),
            NetworkAction::Connect(connect) => connect.rules.resolve().map(drop),
            NetworkAction::Disconnect(_)
            | NetworkAction::Ls(_)
            | NetworkAction::Inspect(_)
            | NetworkAction::Rm(_)
            | NetworkAction::Publish(_)
            | NetworkAction::Unpublish(_) => Ok(()),
        }
    }
}

/// What is done with networks.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[expect(
    missing_docs,
    reason = "what --help says of them is written at their options; a comment here would replace it"
)]
pub enum NetworkAction {
    Create(Create),
    Connect(Connect),
    Disconnect(Disconnect),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
    Publish(Publish),
    Unpublish(Unpublish),
}

/// Make a network, and the process that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Create {
    /// What it is to be called.
    #[arg(value_name = "NAME")]
    pub name: NetworkName,

    /// IPv4 subnet [default: the first of 172.17.0.0/16 to 172.31.0.0/16 that is free].
    #[arg(long, value_name = "CIDR")]
    pub subnet: Option<Ipv4Net>,

    /// IPv6 prefix [default: the first of fd40:6ce4:2b9f:100::/64 and on that is free].
    #[arg(long, value_name = "CIDR6", conflicts_with = "no_ipv6")]
    pub subnet6: Option<Ipv6Net>,

    /// Address of the gateway, which is the resolver as well [default: the first of the subnet].
    #[arg(long, value_name = "ADDR")]
    pub gateway: Option<Ipv4Addr>,

    /// IPv6 address of the gateway [default: the first of the prefix].
    #[arg(long, value_name = "ADDR6", conflicts_with = "no_ipv6")]
    pub gateway6: Option<Ipv6Addr>,

    /// Do without IPv6.
    #[arg(long)]
    pub no_ipv6: bool,

    /// Largest packet in bytes, from 1280 (576 without IPv6) to 65520 [default: 1500].
    #[arg(long, value_name = "N")]
    pub mtu: Option<u64>,

    /// Keep the containers apart from each other; each has its way out.
    #[arg(long)]
    pub isolated: bool,

    /// No way out, and no published ports: the containers reach each other and the gateway alone.
    #[arg(long)]
    pub internal: bool,

    /// Let the gateway's address stand for the host's loopback.
    #[arg(long)]
    pub host_loopback: bool,

    /// Keep files, capabilities and system calls that serving does not need: for debugging only.
    #[arg(long)]
    pub no_sandbox: bool,

    /// Write down in this file what the process does and what goes wrong, up to 1 MiB; then the older half goes.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub log_file: Option<PathBuf>,

    /// Tell of each flow in --log-file; twice, of each packet.
    #[arg(short, long, action = ArgAction::Count, requires = "log_file", help_heading = "Output")]
    pub verbose: u8,

    /// What may go where, for each of its containers.
    #[command(flatten)]
    pub rules: RuleOptions,

    /// Who is asked before that, for each of its containers.
    #[command(flatten)]
    hook: HookOptions,
}

/// Bytes of the log of a network.
const LOG_BYTES: u64 = 1 << 20;

impl Create {
    /// The program that is asked first, if any.
    ///
    /// # Errors
    /// It cannot be asked like that.
    pub fn hook(&self) -> Result<Option<HookPlan>, ValueError> {
        self.hook.resolve(UdpMapping::default())
    }

    /// Where a log is kept, if one is, and how much is told there.
    #[must_use]
    pub fn log(&self) -> Option<(LogFile, Verbosity)> {
        let file = LogFile { path: self.log_file.clone()?, max_bytes: LOG_BYTES };
        Some((file, super::verbosity(self.verbose, false)))
    }
}

/// What a container asks for on a network.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Wants {
    /// What others call the container [default: c1, c2 and so on].
    #[arg(long, value_name = "NAME", help_heading = "Networks", requires = "network")]
    pub name: Option<HostName>,

    /// Another name of it; may be repeated. Containers may share one.
    #[arg(long, value_name = "NAME", help_heading = "Networks", requires = "network")]
    pub alias: Vec<HostName>,

    /// Its IPv4 address [default: the lowest that is free].
    #[arg(long, value_name = "ADDR", help_heading = "Networks", requires = "network")]
    pub ip: Option<Ipv4Addr>,

    /// Its IPv6 address [default: the lowest that is free].
    #[arg(long, value_name = "ADDR6", help_heading = "Networks", requires = "network")]
    pub ip6: Option<Ipv6Addr>,
}

/// Connect a network namespace to a network.
///
/// Makes an interface in the namespace, gives it its addresses and routes, and hands it over to the network's process. With a PID
/// the container leaves the network when the process ends, with a path when the namespace does.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Connect {
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: NetworkName,

    /// The namespace: a process in it, or its path such as /run/netns/NAME.
    #[arg(value_name = "PID|PATH")]
    pub target: PathBuf,

    /// Names and addresses.
    #[command(flatten)]
    pub wants: Wants,

    /// Publish a port of the container: [HOST_IP:]HOST_PORT[-END]:CONTAINER_PORT[-END][/tcp|udp]; may be repeated.
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<PublishSpec>,

    /// Name of the interface in the container.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INTERFACE, value_parser = interface_name)]
    pub interface: InterfaceName,

    /// User namespace that owns the network namespace, when that is named by its path.
    #[arg(long, value_name = "PATH")]
    pub userns: Option<PathBuf>,

    /// Write down where the container goes, as netferry run does, in this file.
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,

    /// What may go where, behind what the network's rules say.
    #[command(flatten)]
    pub rules: RuleOptions,
}

/// Let a container go from a network.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Disconnect {
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: NetworkName,

    /// The container, by its name or the beginning of its ID.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// List the networks that are there.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Ls {
    /// One JSON array instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Tell what a network is, who is on it, and which ports are published, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Inspect {
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: NetworkName,
}

/// End a network, and the process that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Rm {
    /// The networks.
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<NetworkName>,

    /// Even with containers on it, which lose their network.
    #[arg(short, long)]
    pub force: bool,
}

/// Publish more ports of a container, all or none, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Publish {
    /// The network.
    #[arg(value_name = "NETWORK")]
    pub network: NetworkName,

    /// The container, by its name or the beginning of its ID.
    #[arg(value_name = "CONTAINER")]
    pub container: String,

    /// The ports: [HOST_IP:]HOST_PORT[-END]:CONTAINER_PORT[-END][/tcp|udp].
    #[arg(value_name = "SPEC", required = true)]
    pub specs: Vec<PublishSpec>,
}

/// Publish ports of a container no longer; connections through them go on.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Unpublish {
    /// What they are, as for publish.
    #[command(flatten)]
    pub ports: Publish,
}

/// The name of an interface.
pub(super) fn interface_name(text: &str) -> Result<InterfaceName, String> {
    InterfaceName::new(text)
        .ok_or_else(|| "a name of an interface has up to 15 letters, digits, `-` and the like".to_owned())
}
