//! The face of slirp4netns 1.3: its options, its defaults, its exit codes.
//!
//! Those who start slirp4netns read its `--help` for the names of options, the first two lines of its `--version`
//! for version and commit, and its exit code: 1 for every mistake, of which a mistake in the words shows the help on
//! standard output as well. Options are taken as getopt_long(3) takes them: abbreviated, with `=` or a
//! space, the last of several counting, anywhere among the operands. What differs is listed in
//! docs/compatibility.md.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser};
use ipnet::{Ipv4Net, Ipv6Net};

use super::values::{self, ValueError, malformed, unusable};
use super::{
    Announcement, Attach, AttachTarget, CliError, Collisions, Conditions, Configuration, Confinement,
    ControlPlace, Lifetime, Mode, OutboundSources, Plan, ProcessPlan, Source, Verbosity, Workers,
};
use crate::config::address::{self, Ipv4Link, Ipv6Link};
use crate::config::{
    ClosedPorts, DhcpPool, LinkConfig, Offers, PortForwarding, Segment, Services, Timeouts, Transports,
    UdpMapping,
};

/// The name that selects this face.
pub const NAME: &str = "slirp4netns";

const DEFAULT_TAP_NAME: &str = "tap0";

/// The version whose options these are.
const COMPATIBLE_WITH: &str = "1.3.1";

/// What the original says is the largest MTU; a link of ours carries one byte less.
const ORIGINAL_MAX_MTU: &str = "65521";

/// The longest prefix that has room for the container's address, network + 100.
const LONGEST_PREFIX: u8 = 25;

/// Offsets in the subnet of the addresses that DHCP hands out.
const DHCP_OFFSETS: (u32, u32) = (15, 30);

const IPV6_PREFIX: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64);

const AFTER_HELP: &str = "\
TAPNAME is tap0 unless given. \
The container reaches the host at network + 2 (10.0.2.2) and the host's resolvers at network + 3 (10.0.2.3); its own \
address is network + 100 (10.0.2.100) with --configure, or one of network + 15 to + 30 by DHCP.
This is netferry in the place of slirp4netns; `netferry --help` shows its own commands.";

/// A network for an unprivileged network namespace.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    override_usage = "slirp4netns [OPTION]... PID|PATH|TAPFD|SOCKET [TAPNAME]",
    after_help = AFTER_HELP,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
struct Cli {
    /// Bring up the interface: addresses, routes, MTU.
    #[arg(short, long)]
    configure: bool,

    /// End with the first event on this descriptor.
    #[arg(short, long, value_name = "FD")]
    exit_fd: Option<String>,

    /// Write "1" to this descriptor, and close it, when the network is up.
    #[arg(short, long, value_name = "FD")]
    ready_fd: Option<String>,

    /// Largest packet in bytes [default: 1500, from 576 to 65521].
    #[arg(short, long, value_name = "MTU")]
    mtu: Option<String>,

    /// IPv6 as well: fd00::/64.
    #[arg(short = '6', long)]
    enable_ipv6: bool,

    /// Take requests for published ports on this UNIX socket.
    #[arg(short, long, value_name = "PATH")]
    api_socket: Option<PathBuf>,

    /// IPv4 subnet [default: 10.0.2.0/24].
    #[arg(long, value_name = "CIDR")]
    cidr: Option<String>,

    /// Keep the host's 127.0.0.1 and ::1 out of the container's reach.
    #[arg(long)]
    disable_host_loopback: bool,

    /// How the network namespace is named: path, pid or tapfd [default: pid].
    #[arg(long, value_name = "TYPE")]
    netns_type: Option<String>,

    /// User namespace that owns the network namespace.
    #[arg(long, value_name = "PATH")]
    userns_path: Option<PathBuf>,

    /// Give up all files and capabilities that are not needed.
    #[arg(long)]
    enable_sandbox: bool,

    /// Give up all system calls that are not needed.
    #[arg(long)]
    enable_seccomp: bool,

    /// Send from this IPv4 address, or that of this interface.
    #[arg(long, value_name = "ADDR|INTERFACE")]
    outbound_addr: Option<String>,

    /// Send from this IPv6 address, or that of this interface.
    #[arg(long, value_name = "ADDR|INTERFACE")]
    outbound_addr6: Option<String>,

    /// Do not forward DNS queries.
    #[arg(long)]
    disable_dns: bool,

    /// Ethernet address of the interface; with --configure only.
    #[arg(long, value_name = "MAC")]
    macaddress: Option<String>,

    /// Whom the network is for: netns or bess (User Mode Linux) [default: netns].
    #[arg(long, value_name = "TYPE")]
    target_type: Option<String>,

    /// Show this help.
    #[arg(short, long, action = ArgAction::SetTrue)]
    help: bool,

    /// Show the version.
    #[arg(short, long, action = ArgAction::SetTrue)]
    version: bool,

    /// The namespace or what takes its place, and the name of the interface.
    #[arg(hide = true)]
    operands: Vec<OsString>,
}

/// What the operands name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Pid,
    Path,
    TapFd,
    Bess,
}

pub(super) fn parse(args: Vec<OsString>) -> Result<Plan, CliError> {
    let cli = Cli::try_parse_from(args).map_err(|error| reduce(&error))?;
    if cli.help {
        return Err(CliError::Information(help()));
    }
    if cli.version {
        return Err(CliError::Information(version()));
    }
    cli.resolve().map_err(|error| match error {
        ValueError::Malformed(message) => usage(message),
        ValueError::Unusable(message) => CliError::Unusable(message),
    })
}

/// What `--help` shows, and what the original shows of every mistake as well.
fn help() -> String {
    Cli::command().render_help().to_string().trim_end().to_owned()
}

/// The lines that the original prints, with what is true of us.
fn version() -> String {
    format!(
        "slirp4netns version {COMPATIBLE_WITH} (netferry {})\n\
         commit: none\n\
         libslirp: none\n\
         SLIRP_CONFIG_VERSION_MAX: 4\n\
         libseccomp: none",
        env!("CARGO_PKG_VERSION")
    )
}

fn usage(message: String) -> CliError {
    CliError::FaceUsage { message, face: NAME, help: help() }
}

/// The first sentence of what clap says.
fn reduce(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let sentence = paragraph.collect::<Vec<_>>().join(" ");
    usage(sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned())
}

impl Cli {
    fn resolve(self) -> Result<Plan, ValueError> {
        let kind = self.target_kind()?;
        let target = self.target(kind)?;
        let tap_name = match self.operands.get(1) {
            Some(name) => values::interface_name("TAPNAME", &name.to_string_lossy())?,
            None => DEFAULT_TAP_NAME.to_owned(),
        };
        let link = self.link()?;
        let dhcp = link.ipv4.map(|ipv4| dhcp_pool(&ipv4));
        let dhcpv6 = link.ipv6.is_some();
        let inherited = |option: &str, text: &Option<String>| {
            text.as_ref().map(|text| values::inherited_fd(option, text)).transpose()
        };
        let attach = Attach {
            target,
            userns: self.userns_path.clone(),
            configuration: if self.configure { Configuration::Ours } else { Configuration::Others },
            ready_fd: inherited("--ready-fd", &self.ready_fd)?,
            exit_fd: inherited("--exit-fd", &self.exit_fd)?,
            // A guest comes once, and its socket is not to be left behind.
            lifetime: match kind {
                TargetKind::Bess => Lifetime::OfTarget,
                TargetKind::Pid | TargetKind::Path | TargetKind::TapFd => Lifetime::UntilTold,
            },
            announcement: Announcement::StandardOutput,
        };
        Ok(Plan {
            mode: Mode::Attach(attach),
            link,
            collisions: Collisions::Accept,
            tap_name,
            host_copy: None,
            publish: Vec::new(),
            forwarding: PortForwarding::default(),
            workers: Workers::Count(1),
            transports: Transports::default(),
            host_loopback: !self.disable_host_loopback,
            rules: Vec::new(),
            audit: None,
            audit_enforce: None,
            hook: None,
            udp_mapping: UdpMapping::default(),
            closed_ports: ClosedPorts::default(),
            timeouts: Timeouts::default(),
            services: Services { dns: !self.disable_dns, dhcp, dhcpv6, ..Services::default() },
            offers: Offers::default(),
            outbound: OutboundSources {
                ipv4: self
                    .outbound_addr
                    .as_deref()
                    .map(|text| source("--outbound-addr", text))
                    .transpose()?,
                ipv6: self
                    .outbound_addr6
                    .as_deref()
                    .map(|text| source("--outbound-addr6", text))
                    .transpose()?,
                ..OutboundSources::default()
            },
            face: Some(NAME),
            api_socket: self.api_socket,
            control: ControlPlace::Default,
            metrics: None,
            confinement: Confinement::OfFace { sandbox: self.enable_sandbox, filter: self.enable_seccomp },
            resolvers: None,
            offload: true,
            process: ProcessPlan::default(),
            capture: None,
            conditions: Conditions::default(),
            verbosity: Verbosity::Normal,
        })
    }

    fn target_kind(&self) -> Result<TargetKind, ValueError> {
        let is_bess = match self.target_type.as_deref() {
            None | Some("netns") => false,
            Some("bess") => true,
            Some(other) => return Err(malformed("--target-type", other, "unknown; use netns or bess")),
        };
        let kind = match self.netns_type.as_deref() {
            None | Some("pid") => TargetKind::Pid,
            Some("path") => TargetKind::Path,
            Some("tapfd") => TargetKind::TapFd,
            Some(other) => return Err(malformed("--netns-type", other, "unknown; use path, pid or tapfd")),
        };
        if is_bess {
            let conflicts = [
                ("--configure", self.configure),
                ("--netns-type", self.netns_type.is_some()),
                ("--userns-path", self.userns_path.is_some()),
            ];
            if let Some((option, _)) = conflicts.into_iter().find(|(_, given)| *given) {
                let message = format!("{option} is for namespaces, which --target-type=bess has none of");
                return Err(ValueError::Malformed(message));
            }
            return Ok(TargetKind::Bess);
        }
        if kind == TargetKind::TapFd && self.configure {
            let message =
                "--configure needs a namespace, and --netns-type=tapfd names none; configure it there";
            return Err(ValueError::Malformed(message.to_owned()));
        }
        Ok(kind)
    }

    fn target(&self, kind: TargetKind) -> Result<AttachTarget, ValueError> {
        let Some(operand) = self.operands.first() else {
            let missing = match kind {
                TargetKind::Pid => "PID",
                TargetKind::Path => "PATH",
                TargetKind::TapFd => "TAPFD",
                TargetKind::Bess => "PATH of a socket",
            };
            return Err(ValueError::Malformed(format!("no {missing} is given")));
        };
        if let Some(surplus) = self.operands.get(2) {
            return Err(malformed("operand", &surplus.to_string_lossy(), "one too many"));
        }
        let text = operand.to_string_lossy();
        match kind {
            TargetKind::Pid => match text.parse() {
                Ok(pid) if pid > 0 => Ok(AttachTarget::Pid(pid)),
                Ok(_) | Err(_) => {
                    Err(malformed("PID", &text, "not a process; give its number, or add --netns-type=path"))
                }
            },
            TargetKind::Path => Ok(AttachTarget::Path(operand.into())),
            TargetKind::TapFd => values::inherited_fd("TAPFD", &text).map(AttachTarget::TapFd),
            TargetKind::Bess => Ok(AttachTarget::Bess(operand.into())),
        }
    }

    fn link(&self) -> Result<LinkConfig, ValueError> {
        let ipv4 = match &self.cidr {
            Some(text) => ipv4_link(text)?,
            None => Ipv4Link::default(),
        };
        let mtu = match self.mtu.as_deref() {
            Some(ORIGINAL_MAX_MTU) => address::MAX_MTU,
            Some(text) => values::mtu("--mtu", text, false)?,
            None => address::DEFAULT_MTU,
        };
        // The kernel takes IPv6 from an interface with a smaller MTU; podman asks for IPv6 whatever the MTU is.
        let has_ipv6 = self.enable_ipv6 && mtu >= address::MIN_MTU_IPV6;
        let ipv6 = has_ipv6.then(|| Ipv6Link::from_cidr(IPV6_PREFIX).expect("fd00::/64 is a usable prefix"));
        let mut link = LinkConfig {
            segment: Segment::Private,
            ipv4: Some(ipv4),
            ipv6,
            mtu,
            gateway_mac: address::GATEWAY_MAC,
            container_mac: None,
        };
        if let Some(text) = &self.macaddress {
            if !self.configure {
                return Err(ValueError::Malformed("--macaddress is for --configure; add that".to_owned()));
            }
            link.adopt_container_mac(values::container_mac("--macaddress", text)?);
        }
        Ok(link)
    }
}

fn ipv4_link(text: &str) -> Result<Ipv4Link, ValueError> {
    let link = values::ipv4_link("--cidr", text)?;
    // Of the form, as it has just been found to be.
    let cidr: Ipv4Net = text.parse().unwrap_or(link.subnet);
    if cidr.addr() != link.subnet.addr() {
        let why = format!("an address in a subnet; give the subnet itself, {}", link.subnet);
        return Err(unusable("--cidr", text, why));
    }
    if cidr.prefix_len() > LONGEST_PREFIX || cidr.prefix_len() == 0 {
        let why = format!("prefix length out of range; use 1 to {LONGEST_PREFIX}");
        return Err(unusable("--cidr", text, why));
    }
    Ok(Ipv4Link { container: Ipv4Addr::from_bits(link.subnet.addr().to_bits() + 100), ..link })
}

fn dhcp_pool(link: &Ipv4Link) -> DhcpPool {
    let network = link.subnet.addr().to_bits();
    let (first, last) = DHCP_OFFSETS;
    DhcpPool { first: Ipv4Addr::from_bits(network + first), last: Ipv4Addr::from_bits(network + last) }
}

/// An address of its family, or the name of an interface.
fn source<A: std::str::FromStr>(option: &str, text: &str) -> Result<Source<A>, ValueError> {
    if let Ok(address) = text.parse() {
        return Ok(Source::Address(address));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(malformed(option, text, "an address of the other family; see the other option"));
    }
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    if text.is_empty() || text.len() > values::INTERFACE_NAME_MAX_BYTES || !text.bytes().all(allowed) {
        return Err(malformed(option, text, "neither an address nor the name of an interface"));
    }
    Ok(Source::Interface(text.to_owned()))
}
