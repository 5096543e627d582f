//! Published ports: which host ports lead to which container ports.
//!
//! A [`PublishSpec`] is one argument as written, `[HOST_IP:]HOST_PORT[-END]:CONTAINER_PORT[-END][/tcp|udp]`, or a
//! single port that is the same on both sides. [`resolve`] makes of all of them the rules of an instance: one
//! for each port and family, none that takes another's host port, and not more than the limit. Whether the host
//! grants a port is found out by binding it, not here.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::address::LinkConfig;
use super::forwarding::InterfaceName;

/// Transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortProtocol {
    /// Stream.
    Tcp,
    /// Datagram.
    Udp,
}

/// One host port that leads to one container port. A range on the command line is many of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRule {
    /// Transport.
    pub protocol: PortProtocol,
    /// Host address to bind; the unspecified address of a family stands for all of that family.
    pub host_address: IpAddr,
    /// Host port to bind.
    pub host_port: u16,
    /// The only interface whose clients are served (`SO_BINDTODEVICE`).
    pub interface: Option<InterfaceName>,
    /// Address of the container's server, of the same family; the container's own where none is given.
    pub container_address: Option<IpAddr>,
    /// Port of the container's server.
    pub container_port: u16,
}

impl PortProtocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for PublishRule {
    /// As in `0.0.0.0:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_address, self.host_port);
        write!(f, "{host}->{}/{}", self.container_port, self.protocol)
    }
}

/// Ports `first..=last`, none of them zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range, unless it is reversed or holds port zero.
    pub fn new(first: u16, last: u16) -> Result<PortRange, PublishSpecError> {
        if first == 0 {
            return Err(PublishSpecError::PortZero);
        }
        if last < first {
            return Err(PublishSpecError::Reversed { first, last });
        }
        Ok(PortRange { first, last })
    }

    /// How many ports, at least one.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// One argument of `--publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishSpec {
    protocol: PortProtocol,
    /// `None` for every address of the host.
    host_address: Option<IpAddr>,
    host_ports: PortRange,
    /// As many as `host_ports`.
    container_ports: PortRange,
}

impl PublishSpec {
    /// The argument, unless the ranges differ in length or the address cannot be one of the host's.
    pub fn new(
        protocol: PortProtocol,
        host_address: Option<IpAddr>,
        host_ports: PortRange,
        container_ports: PortRange,
    ) -> Result<PublishSpec, PublishSpecError> {
        if host_ports.count() != container_ports.count() {
            return Err(PublishSpecError::UnequalRanges {
                host: host_ports.count(),
                container: container_ports.count(),
            });
        }
        if let Some(address) = host_address
            && !is_bindable(address)
        {
            return Err(PublishSpecError::NotAHostAddress(address));
        }
        Ok(PublishSpec { protocol, host_address, host_ports, container_ports })
    }

    /// Host addresses to bind with the families of `link`; none when the only family asked for is off.
    fn host_addresses(self, link: &LinkConfig) -> impl Iterator<Item = IpAddr> + Clone {
        let (ipv4, ipv6) = (link.ipv4.is_some(), link.ipv6.is_some());
        let wanted = match self.host_address {
            Some(address) => [Some(address), None],
            None => [Some(Ipv4Addr::UNSPECIFIED.into()), Some(Ipv6Addr::UNSPECIFIED.into())],
        };
        wanted.into_iter().flatten().filter(move |address| if address.is_ipv4() { ipv4 } else { ipv6 })
    }
}

fn is_bindable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast(),
        // A link-local address means nothing without its interface, which the form has no place for.
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host_ports, self.container_ports, self.protocol)
    }
}

/// Why an argument of `--publish` is not understood. The text follows the option and its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishSpecError {
    /// Not of the form.
    #[error("expected [HOST_IP:]HOST_PORT[-END]:CONTAINER_PORT[-END][/tcp|udp], such as 8080:80")]
    Syntax,
    /// An IPv6 address without brackets, or something else with many colons.
    #[error("too many colons; an IPv6 address stands in brackets, as in [::1]:8080:80")]
    TooManyColons,
    /// A host address is followed by one port only.
    #[error("a host address is followed by both ports, as in 127.0.0.1:8080:80")]
    OnePortOnly,
    /// What stands in the place of an address is none.
    #[error("`{}` is not an IP address; give one such as 127.0.0.1 or [::1]", .0.escape_debug())]
    Address(String),
    /// Nobody can listen there.
    #[error("{0} cannot be listened on; give an address of this host, or none for all")]
    NotAHostAddress(IpAddr),
    /// What stands in the place of a port is none.
    #[error("`{}` is not a port; give a number from 1 to 65535, or two with a hyphen", .0.escape_debug())]
    Port(String),
    /// Port zero.
    #[error("port 0 cannot be published; give a number from 1 to 65535")]
    PortZero,
    /// A range that runs backwards.
    #[error("the range {first}-{last} is reversed; the smaller port comes first")]
    Reversed {
        /// As asked.
        first: u16,
        /// As asked.
        last: u16,
    },
    /// Ranges that cannot be paired.
    #[error("{host} host ports lead to {container} container ports; give ranges of equal length")]
    UnequalRanges {
        /// Ports of the host's range.
        host: usize,
        /// Ports of the container's range.
        container: usize,
    },
    /// Neither tcp nor udp.
    #[error("unknown protocol `{}`; use tcp or udp", .0.escape_debug())]
    Protocol(String),
}

impl FromStr for PublishSpec {
    type Err = PublishSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, PortProtocol::Tcp),
            Some((ports, "tcp")) => (ports, PortProtocol::Tcp),
            Some((ports, "udp")) => (ports, PortProtocol::Udp),
            Some((_, other)) => return Err(PublishSpecError::Protocol(other.to_owned())),
        };
        let (host_address, ports) = split_host_address(ports)?;
        let (host_ports, container_ports) = match ports.split_once(':') {
            Some((host, container)) => (parse_range(host)?, parse_range(container)?),
            None => (parse_range(ports)?, parse_range(ports)?),
        };
        PublishSpec::new(protocol, host_address, host_ports, container_ports)
    }
}

/// Splits off the address, and leaves `HOST:CONTAINER`, or one port that stands for both.
fn split_host_address(text: &str) -> Result<(Option<IpAddr>, &str), PublishSpecError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(PublishSpecError::Syntax)?;
        let address: Ipv6Addr = address.parse().map_err(|_| PublishSpecError::Address(address.to_owned()))?;
        let ports = rest.strip_prefix(':').ok_or(PublishSpecError::Syntax)?;
        return match ports.matches(':').count() {
            0 => Err(PublishSpecError::OnePortOnly),
            1 => Ok((Some(address.into()), ports)),
            _ => Err(PublishSpecError::TooManyColons),
        };
    }
    match text.matches(':').count() {
        0 if text.is_empty() => Err(PublishSpecError::Syntax),
        1 if text.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok()) => {
            Err(PublishSpecError::OnePortOnly)
        }
        0 | 1 => Ok((None, text)),
        2 => {
            let (address, ports) = text.split_once(':').ok_or(PublishSpecError::Syntax)?;
            let address: Ipv4Addr =
                address.parse().map_err(|_| PublishSpecError::Address(address.to_owned()))?;
            Ok((Some(address.into()), ports))
        }
        _ => Err(PublishSpecError::TooManyColons),
    }
}

fn parse_range(text: &str) -> Result<PortRange, PublishSpecError> {
    match text.split_once('-') {
        Some((first, last)) => PortRange::new(parse_port(first)?, parse_port(last)?),
        None => {
            let port = parse_port(text)?;
            PortRange::new(port, port)
        }
    }
}

fn parse_port(text: &str) -> Result<u16, PublishSpecError> {
    // `parse` alone would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits);
    port.ok_or_else(|| PublishSpecError::Port(text.to_owned()))
}

/// Why arguments that are each understood cannot be carried out together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// An address of a family that is off.
    #[error("--publish {0}: the family of its address is off; give an address of the other, or none for all")]
    FamilyOff(PublishSpec),
    /// Two rules for one host port.
    #[error(
        "--publish {second}: host port {port}/{} is published already by {first}; choose another",
        .second.protocol
    )]
    Duplicate {
        /// Who has it.
        first: PublishSpec,
        /// Who wants it too.
        second: PublishSpec,
        /// The host port.
        port: u16,
    },
    /// More sockets than the limit.
    #[error(
        "--publish: {asked} ports are asked for, each family counted, and {limit} are the limit; publish fewer"
    )]
    TooMany {
        /// Rules in all.
        asked: usize,
        /// `Limits::published_ports`.
        limit: usize,
    },
}

/// The rules of an instance: `specs` in order, each port in order, IPv4 before IPv6. Of `link` only the
/// families matter, so that its subnets may still move.
pub fn resolve(
    specs: &[PublishSpec],
    link: &LinkConfig,
    limit: usize,
) -> Result<Vec<PublishRule>, PublishError> {
    let count = |spec: &PublishSpec| spec.host_ports.count() * spec.host_addresses(link).count();
    let asked = specs.iter().map(count).fold(0, usize::saturating_add);
    if asked > limit {
        return Err(PublishError::TooMany { asked, limit });
    }
    let mut rules = Vec::with_capacity(asked);
    let mut taken: BTreeMap<(bool, u16), Vec<(IpAddr, &PublishSpec)>> = BTreeMap::new();
    for spec in specs {
        if spec.host_addresses(link).next().is_none() {
            return Err(PublishError::FamilyOff(*spec));
        }
        for (host_port, container_port) in spec.host_ports.ports().zip(spec.container_ports.ports()) {
            for host_address in spec.host_addresses(link) {
                let holders = taken.entry((spec.protocol == PortProtocol::Tcp, host_port)).or_default();
                if let Some((_, first)) = holders.iter().find(|(held, _)| overlap(*held, host_address)) {
                    return Err(PublishError::Duplicate { first: **first, second: *spec, port: host_port });
                }
                holders.push((host_address, spec));
                let protocol = spec.protocol;
                rules.push(PublishRule {
                    protocol,
                    host_address,
                    host_port,
                    interface: None,
                    container_address: None,
                    container_port,
                });
            }
        }
    }
    Ok(rules)
}

/// Whether two sockets of one family cannot have the same port at these addresses. IPv6 sockets are bound
/// for IPv6 only, so that the families never meet.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}
