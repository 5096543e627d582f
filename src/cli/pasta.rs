//! The face of pasta, as of its manual of 2026: its options, its defaults, its exit codes.
//!
//! Podman reads the error of an option that pasta does not know, and RootlessKit the exit code beside
//! `--version`; people read the rest. Options are taken as getopt_long(3) takes them, up to the first operand:
//! abbreviated, with `=` or a space, the last of several counting where one is all there can be. What is asked for
//! becomes a plan that copies the host's network instead of making a private one. What differs is listed in
//! docs/compatibility.md.

mod checks;
mod ports;
mod virtual_machines;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser};

use self::checks::{
    address_with_length, check_family, host_address, interface, is_name, is_number, link_name, listed,
    namespace_path, netmask, per_family,
};
use self::ports::{Direction, Families};
use self::virtual_machines::VirtualMachines;
use super::values::{self, ValueError, malformed, unusable};
use super::{
    Announcement, Attach, AttachTarget, CliError, Collisions, Conditions, Configuration, Confinement,
    ControlPlace, HostCopy, Lifetime, LogFile, Mode, OutboundSources, Plan, ProcessPlan, Source, Verbosity,
    Workers,
};
use crate::config::address::{self, Ipv4Link, Ipv6Link};
use crate::config::{
    ClosedPorts, InterfaceName, Limits, LinkConfig, LocalClients, Offers, PortForwarding, PortProtocol,
    Segment, Services, Timeouts, Transports, UdpMapping,
};
use crate::wire::MacAddr;

/// The name that selects this face.
pub const NAME: &str = "pasta";

/// Unless told otherwise, as the original has it.
const DEFAULT_MTU: u16 = address::MAX_MTU;

/// The original counts the Ethernet header's room otherwise.
const ORIGINAL_MAX_MTU: u64 = 65_535;

const DEFAULT_LOG_BYTES: u64 = 1 << 20;

/// Below it a log would hold no more than its own head.
const SMALLEST_LOG_BYTES: u64 = 4 << 10;

/// Where named network namespaces are, see ip-netns(8).
const NAMED_NAMESPACES: &str = "/run/netns";

const AFTER_HELP: &str = "\
SPEC is none, all, auto (what is bound on the other side), or [ADDRESS[%INTERFACE]/]PORTS: ports and ranges with \
commas between, each followed by :PORTS where it leads elsewhere, ~PORTS for exclusions; the default is auto.
This is netferry in the place of pasta; `netferry --help` shows its own commands.";

/// The host's network for an unprivileged network namespace.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    override_usage = "pasta [OPTION]... [COMMAND [ARG]...]\n       pasta [OPTION]... PID\n       \
                      pasta [OPTION]... --netns PATH|NAME",
    after_help = AFTER_HELP,
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
struct Cli {
    /// Tell of each flow; stay in the foreground.
    #[arg(short, long)]
    debug: bool,
    /// Tell of each packet; stay in the foreground.
    #[arg(long)]
    trace: bool,
    /// Tell of nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// Accepted; counters are told at the end with --debug.
    #[arg(long, value_name = "SECONDS")]
    stats: Option<String>,
    /// Stay in the foreground.
    #[arg(short, long)]
    foreground: bool,
    /// Accepted: messages go to standard error in any case, until in the background.
    #[arg(short = 'e', long)]
    stderr: bool,
    /// Write messages to this file.
    #[arg(short, long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Let the log file grow up to this size [default: 1 MiB].
    #[arg(long, value_name = "BYTES")]
    log_size: Option<String>,
    /// Become this user, if started as root.
    #[arg(long, value_name = "UID[:GID]|LOGIN[:GROUP]")]
    runas: Option<String>,
    /// Record every frame in this file, in pcap format.
    #[arg(short, long, value_name = "PATH")]
    pcap: Option<PathBuf>,
    /// Write the process id to this file.
    #[arg(short = 'P', long, value_name = "PATH")]
    pid: Option<PathBuf>,

    /// Serve this network namespace: a path, or a name below /run/netns.
    #[arg(long, value_name = "PATH|NAME")]
    netns: Option<PathBuf>,
    /// User namespace that owns the network namespace.
    #[arg(long, value_name = "PATH|NAME", conflicts_with = "netns_only")]
    userns: Option<PathBuf>,
    /// Do not join or make a user namespace.
    #[arg(long)]
    netns_only: bool,
    /// Stay when the network namespace goes.
    #[arg(long)]
    no_netns_quit: bool,
    /// Give the interface its addresses and routes.
    #[arg(long)]
    config_net: bool,
    /// Name of the interface in the namespace [default: the host's].
    #[arg(short = 'I', long, value_name = "NAME")]
    ns_ifname: Option<String>,
    /// Ethernet address of the interface in the namespace.
    #[arg(long, value_name = "MAC")]
    ns_mac_addr: Option<String>,
    /// With --config-net: only a default route.
    #[arg(long)]
    no_copy_routes: bool,
    /// With --config-net: only the first address of each family.
    #[arg(long)]
    no_copy_addrs: bool,

    /// Address of the namespace, of each family one or more [default: the host's].
    #[arg(short, long, value_name = "ADDRESS[/LENGTH]")]
    address: Vec<String>,
    /// IPv4 netmask or prefix length, for an address without.
    #[arg(short, long, value_name = "MASK")]
    netmask: Option<String>,
    /// Default gateway, of each family one [default: the host's].
    #[arg(short, long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Ethernet address that the namespace sees the others at.
    #[arg(short = 'M', long, value_name = "MAC")]
    mac_addr: Option<String>,
    /// Largest packet in bytes; 0 for the kernel's default [default: 65520].
    #[arg(short, long, value_name = "MTU")]
    mtu: Option<String>,
    /// Interface of the host whose network is copied [default: that of the default route].
    #[arg(short, long, value_name = "NAME")]
    interface: Option<String>,
    /// Send from this address, of each family one, or from the addresses of this interface.
    #[arg(short, long, value_name = "ADDRESS|INTERFACE")]
    outbound: Vec<String>,
    /// Send IPv4 by this interface only.
    #[arg(long, value_name = "NAME")]
    outbound_if4: Option<String>,
    /// Send IPv6 by this interface only.
    #[arg(long, value_name = "NAME")]
    outbound_if6: Option<String>,
    /// IPv4 only.
    #[arg(short = '4', long, conflicts_with = "ipv6_only")]
    ipv4_only: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    ipv6_only: bool,

    /// The gateway does not stand for the host.
    #[arg(long)]
    no_map_gw: bool,
    /// Address that stands for the host's loopback, of each family one, or none [default: the gateway].
    #[arg(long, value_name = "ADDRESS")]
    map_host_loopback: Vec<String>,
    /// Address that stands for the host by the address that the namespace has as well, of each family one, or none.
    #[arg(long, value_name = "ADDRESS")]
    map_guest_addr: Vec<String>,

    /// Resolvers to tell of over DHCP and the like, or none [default: the host's].
    #[arg(short = 'D', long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Address whose DNS queries are forwarded, of each family one, or none.
    #[arg(long, value_name = "ADDRESS")]
    dns_forward: Vec<String>,
    /// Resolver that forwarded queries go to, of each family one [default: the host's].
    #[arg(long, value_name = "ADDRESS")]
    dns_host: Vec<String>,
    /// Domains to tell of over DHCP and the like, or none [default: the host's].
    #[arg(short = 'S', long, value_name = "LIST")]
    search: Vec<String>,
    /// Tell of resolvers over DHCP, DHCPv6 and router advertisements.
    #[arg(long, overrides_with = "no_dhcp_dns")]
    dhcp_dns: bool,
    /// Do not [default].
    #[arg(long, overrides_with = "dhcp_dns")]
    no_dhcp_dns: bool,
    /// Tell of domains over DHCP, DHCPv6 and router advertisements.
    #[arg(long, overrides_with = "no_dhcp_search")]
    dhcp_search: bool,
    /// Do not [default].
    #[arg(long, overrides_with = "dhcp_search")]
    no_dhcp_search: bool,
    /// Host name to tell of over DHCP.
    #[arg(short = 'H', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Host name in full to tell of over DHCP and DHCPv6.
    #[arg(long, value_name = "NAME")]
    fqdn: Option<String>,

    /// Carry no TCP.
    #[arg(long)]
    no_tcp: bool,
    /// Carry no UDP.
    #[arg(long)]
    no_udp: bool,
    /// Carry no ICMP and ICMPv6.
    #[arg(long)]
    no_icmp: bool,
    /// Offer no DHCP.
    #[arg(long)]
    no_dhcp: bool,
    /// Offer no DHCPv6.
    #[arg(long)]
    no_dhcpv6: bool,
    /// Answer no neighbor solicitations, and send no router advertisements.
    #[arg(long)]
    no_ndp: bool,
    /// Send no router advertisements.
    #[arg(long)]
    no_ra: bool,

    /// TCP ports of the host that lead into the namespace.
    #[arg(short = 't', long, value_name = "SPEC")]
    tcp_ports: Vec<String>,
    /// UDP ports of the host that lead into the namespace.
    #[arg(short = 'u', long, value_name = "SPEC")]
    udp_ports: Vec<String>,
    /// TCP ports of the namespace's loopback that lead to the host's.
    #[arg(short = 'T', long, value_name = "SPEC")]
    tcp_ns: Vec<String>,
    /// UDP ports of the namespace's loopback that lead to the host's.
    #[arg(short = 'U', long, value_name = "SPEC")]
    udp_ns: Vec<String>,
    /// Clients on the host's loopback come to the namespace's loopback, not to its address.
    #[arg(long)]
    host_lo_to_ns_lo: bool,
    /// Clients on the host's loopback come over the interface, as all others.
    #[arg(long)]
    no_splice: bool,
    /// No interface at all: only what goes from loopback to loopback.
    #[arg(long, conflicts_with = "no_splice")]
    splice_only: bool,
    /// Listen on addresses that the host does not have yet.
    #[arg(long)]
    freebind: bool,

    /// Show this help.
    #[arg(short, long, action = ArgAction::SetTrue)]
    help: bool,
    /// Show the version.
    #[arg(long, action = ArgAction::SetTrue)]
    version: bool,

    #[command(flatten)]
    virtual_machines: VirtualMachines,

    /// A command, or the process whose namespace is served.
    #[arg(hide = true, trailing_var_arg = true)]
    operands: Vec<OsString>,
}

pub(super) fn parse(args: Vec<OsString>) -> Result<Plan, CliError> {
    let cli = Cli::try_parse_from(args).map_err(|error| usage(reduce(&error)))?;
    if cli.help {
        return Err(CliError::Information(Cli::command().render_help().to_string().trim_end().to_owned()));
    }
    if cli.version {
        return Err(CliError::Information(format!("pasta (netferry {})", env!("CARGO_PKG_VERSION"))));
    }
    cli.resolve().map_err(|error| match error {
        ValueError::Malformed(message) | ValueError::Unusable(message) => usage(message),
    })
}

fn usage(message: String) -> CliError {
    CliError::Face { message, face: NAME }
}

/// The first sentence of what clap says; of an unknown option, what getopt_long(3) says.
fn reduce(error: &clap::Error) -> String {
    if let (ErrorKind::UnknownArgument, Some(option)) = (error.kind(), error.get(ContextKind::InvalidArg)) {
        return format!("unrecognized option '{option}'; `pasta --help` shows those there are");
    }
    let text = error.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let sentence = paragraph.collect::<Vec<_>>().join(" ");
    sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned()
}

impl Cli {
    fn resolve(self) -> Result<Plan, ValueError> {
        if let Some(option) = self.virtual_machines.given() {
            let message = format!(
                "{option} is for virtual machines, which this pasta does not serve; use passt for them"
            );
            return Err(ValueError::Malformed(message));
        }
        let families = Families { ipv4: !self.ipv6_only, ipv6: !self.ipv4_only };
        let link = self.link(families)?;
        let host_copy = self.host_copy(families)?;
        let dns = per_family("--dns-forward", &self.dns_forward, families)?.is_some();
        let services = Services {
            dns,
            dhcp: None,
            dhcpv6: !self.no_dhcpv6,
            router_adverts: !self.no_ra && !self.no_ndp,
            neighbor_discovery: !self.no_ndp,
        };
        let mode = self.mode()?;
        let is_attached = matches!(mode, Mode::Attach(_));
        let is_told_live = self.debug || self.trace;
        let resolvers = listed("--dns-host", &self.dns_host)?.unwrap_or_default();
        Ok(Plan {
            process: ProcessPlan {
                background: is_attached && !self.foreground && !is_told_live,
                pid_file: self.pid.clone(),
                log_file: self.log()?,
                run_as: self.runas.clone(),
            },
            mode,
            collisions: Collisions::Accept,
            tap_name: link_name(host_copy.tap_name),
            link,
            publish: Vec::new(),
            forwarding: self.forwarding(families)?,
            workers: Workers::Count(1),
            transports: Transports { tcp: !self.no_tcp, udp: !self.no_udp, icmp: !self.no_icmp },
            host_loopback: false,
            rules: Vec::new(),
            audit: None,
            audit_enforce: None,
            hook: None,
            udp_mapping: UdpMapping::default(),
            // Clients on loopback may be served where the others are not.
            closed_ports: ClosedPorts::Accept,
            timeouts: Timeouts::default(),
            services,
            offers: self.offers()?,
            outbound: self.sources()?,
            face: Some(NAME),
            api_socket: None,
            control: ControlPlace::Default,
            metrics: None,
            confinement: Confinement::Full,
            resolvers: (!resolvers.is_empty())
                .then(|| resolvers.into_iter().map(|address| (address, DNS_PORT).into()).collect()),
            offload: true,
            capture: self.pcap.clone(),
            conditions: Conditions::default(),
            verbosity: self.verbosity(),
            host_copy: Some(host_copy),
        })
    }

    fn verbosity(&self) -> Verbosity {
        if self.trace {
            Verbosity::Trace
        } else if self.debug {
            Verbosity::Debug
        } else if self.quiet {
            Verbosity::Quiet
        } else {
            Verbosity::Normal
        }
    }

    fn mode(&self) -> Result<Mode, ValueError> {
        let configuration = if self.config_net { Configuration::Ours } else { Configuration::Others };
        let target = match (&self.netns, self.operands.as_slice()) {
            (Some(netns), []) => AttachTarget::Path(namespace_path(netns)),
            (Some(netns), [operand, ..]) => {
                let why = format!(
                    "a namespace is given, and `{}` besides; leave one of them away",
                    operand.to_string_lossy().escape_debug()
                );
                return Err(malformed("--netns", &netns.to_string_lossy(), why));
            }
            (None, [only]) if is_number(only) => {
                let text = only.to_string_lossy();
                match text.parse() {
                    Ok(pid) if pid > 0 => AttachTarget::Pid(pid),
                    Ok(_) | Err(_) => {
                        return Err(malformed(
                            "PID",
                            &text,
                            "no process has this number; give one that lives",
                        ));
                    }
                }
            }
            (None, command) => {
                if self.userns.is_some() {
                    let why =
                        "a user namespace alone is not served; give --netns or a PID with it".to_owned();
                    return Err(ValueError::Malformed(format!("--userns: {why}")));
                }
                if self.netns_only {
                    let message = "--netns-only: a command needs a user namespace of its own to have a network \
                                   without root; leave the option away";
                    return Err(ValueError::Malformed(message.to_owned()));
                }
                return Ok(Mode::Run { command: command.to_vec() });
            }
        };
        Ok(Mode::Attach(Attach {
            target,
            userns: self.userns.clone(),
            configuration,
            ready_fd: None,
            exit_fd: None,
            lifetime: if self.no_netns_quit { Lifetime::UntilTold } else { Lifetime::OfTarget },
            announcement: Announcement::Nothing,
        }))
    }

    fn link(&self, families: Families) -> Result<LinkConfig, ValueError> {
        let mtu = match self.mtu.as_deref() {
            None => DEFAULT_MTU,
            Some("0") => address::DEFAULT_MTU,
            // The original allows a little more than a frame of ours carries.
            Some(text) => match text.parse::<u64>() {
                Ok(asked) if (u64::from(address::MAX_MTU)..=ORIGINAL_MAX_MTU).contains(&asked) => {
                    address::MAX_MTU
                }
                Ok(_) | Err(_) => values::mtu("--mtu", text, families.ipv6 && !families.ipv4)?,
            },
        };
        let gateway_mac = match &self.mac_addr {
            None => address::GATEWAY_MAC,
            Some(text) => text.parse().map_err(|error| malformed("--mac-addr", text, error))?,
        };
        let container_mac: Option<MacAddr> = match &self.ns_mac_addr {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| malformed("--ns-mac-addr", text, error))?),
        };
        if container_mac == Some(gateway_mac) {
            let why = "both ends would have this address; choose another for one of them";
            return Err(unusable("--ns-mac-addr", &gateway_mac.to_string(), why));
        }
        // A kernel takes IPv6 away from a link that is too small for it (RFC 8200 §5).
        let has_ipv6 = families.ipv6 && mtu >= address::MIN_MTU_IPV6;
        Ok(LinkConfig {
            segment: Segment::Shared(Default::default()),
            ipv4: families.ipv4.then(Ipv4Link::default),
            ipv6: has_ipv6.then(Ipv6Link::default),
            mtu,
            gateway_mac,
            container_mac,
        })
    }

    fn host_copy(&self, families: Families) -> Result<HostCopy, ValueError> {
        let addresses = self.address.iter().map(|text| address_with_length("--address", text));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        for (address, _) in &addresses {
            check_family("--address", *address, families)?;
        }
        for text in &self.gateway {
            check_family("--gateway", host_address("--gateway", text)?, families)?;
        }
        let gateways = per_family("--gateway", &self.gateway, families)?.unwrap_or_default();
        let map_host_loopback = per_family("--map-host-loopback", &self.map_host_loopback, families)?;
        Ok(HostCopy {
            interface: interface("--interface", &self.interface)?,
            addresses,
            netmask: self.netmask.as_deref().map(netmask).transpose()?,
            gateway4: gateways.iter().find_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            }),
            gateway6: gateways.iter().find_map(|address| match address {
                IpAddr::V6(v6) => Some(*v6),
                IpAddr::V4(_) => None,
            }),
            only_first_address: self.no_copy_addrs,
            only_default_route: self.no_copy_routes,
            gateway_is_loopback: !self.no_map_gw && map_host_loopback.is_none(),
            map_host_loopback: map_host_loopback.unwrap_or_default(),
            map_guest_address: per_family("--map-guest-addr", &self.map_guest_addr, families)?
                .unwrap_or_default(),
            dns_forward: per_family("--dns-forward", &self.dns_forward, families)?.unwrap_or_default(),
            tap_name: match &self.ns_ifname {
                None => None,
                Some(text) => InterfaceName::new(&values::interface_name("--ns-ifname", text)?),
            },
            offers_dhcp: !self.no_dhcp,
            offers_resolvers: self.dhcp_dns,
            offers_search: self.dhcp_search,
        })
    }

    fn offers(&self) -> Result<Offers, ValueError> {
        let is_none = |values: &[String]| matches!(values, [only] if only == "none");
        let resolvers = match is_none(&self.dns) {
            true => Some(Vec::new()),
            false => listed("--dns", &self.dns)?,
        };
        let search = match is_none(&self.search) {
            true => Vec::new(),
            false => self.search.iter().flat_map(|list| list.split([' ', ','])).map(str::to_owned).collect(),
        };
        for name in search.iter().chain(&self.hostname).chain(&self.fqdn) {
            if !is_name(name) {
                let why = "not a name; use letters, digits, hyphens and dots, as in example.org";
                return Err(malformed("--search, --hostname, --fqdn", name, why));
            }
        }
        Ok(Offers { resolvers, search, hostname: self.hostname.clone(), fqdn: self.fqdn.clone() })
    }

    fn sources(&self) -> Result<OutboundSources, ValueError> {
        let mut sources = OutboundSources {
            ipv4_device: interface("--outbound-if4", &self.outbound_if4)?,
            ipv6_device: interface("--outbound-if6", &self.outbound_if6)?,
            ..OutboundSources::default()
        };
        for text in &self.outbound {
            match text.parse() {
                Ok(IpAddr::V4(v4)) => sources.ipv4 = Some(Source::Address(v4)),
                Ok(IpAddr::V6(v6)) => sources.ipv6 = Some(Source::Address(v6)),
                Err(_) => {
                    let name = InterfaceName::new(text).ok_or_else(|| {
                        malformed("--outbound", text, "neither an address nor the name of an interface")
                    })?;
                    sources.ipv4_device.get_or_insert(name);
                    sources.ipv6_device.get_or_insert(name);
                }
            }
        }
        Ok(sources)
    }

    fn forwarding(&self, families: Families) -> Result<PortForwarding, ValueError> {
        let mut forwarding = PortForwarding {
            local_clients: if self.no_splice {
                LocalClients::Link
            } else if self.host_lo_to_ns_lo || self.splice_only {
                // Without an interface the container has no other address.
                LocalClients::SplicedToLoopback
            } else {
                LocalClients::SplicedToAddress
            },
            splice_only: self.splice_only,
            freebind: self.freebind,
            ..PortForwarding::default()
        };
        let most = Limits::default().published_ports;
        let (tcp, udp) = (PortProtocol::Tcp, PortProtocol::Udp);
        let inward: [(_, &[String], _, _); 2] = [
            ("--tcp-ports", &self.tcp_ports, tcp, self.no_tcp),
            ("--udp-ports", &self.udp_ports, udp, self.no_udp),
        ];
        for (option, values, protocol, off) in inward {
            if !off {
                let direction = Direction::Inward(protocol);
                ports::read(option, values, direction, families, most, &mut forwarding.inward)?;
            }
        }
        let outward: [(_, &[String], _, _); 2] =
            [("--tcp-ns", &self.tcp_ns, tcp, self.no_tcp), ("--udp-ns", &self.udp_ns, udp, self.no_udp)];
        for (option, values, protocol, off) in outward {
            // What is not spliced cannot leave the container's loopback.
            let is_useless = self.no_splice && values.is_empty();
            if !off && !is_useless {
                let direction = Direction::Outward(protocol);
                ports::read(option, values, direction, families, most, &mut forwarding.outward)?;
            }
        }
        Ok(forwarding)
    }

    fn log(&self) -> Result<Option<LogFile>, ValueError> {
        let max_bytes = match &self.log_size {
            None => DEFAULT_LOG_BYTES,
            Some(text) => text.parse().map_err(|_| {
                malformed("--log-size", text, "not a number of bytes; write it as in 1048576")
            })?,
        };
        if max_bytes < SMALLEST_LOG_BYTES {
            let why = format!("too small for a log; use {SMALLEST_LOG_BYTES} or more");
            return Err(unusable("--log-size", &max_bytes.to_string(), why));
        }
        Ok(self.log_file.clone().map(|path| LogFile { path, max_bytes }))
    }
}

const DNS_PORT: u16 = 53;
