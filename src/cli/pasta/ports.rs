//! Port specifications of pasta: which ports are forwarded, from where to where.
//!
//! One value is `none`, `all`, `auto`, or `[ADDRESS[%INTERFACE]/]LIST`, where LIST is of ports and ranges, each
//! with other ports to lead to behind a colon, and of exclusions behind a tilde; `auto` and `all` may stand in a list
//! too. A list of nothing but exclusions means all ports but those. Values of one option add up; `none` stands
//! alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::cli::values::{ValueError, malformed, unusable};
use crate::config::{Forwarding, InterfaceName, PortProtocol, PortSet, PortsAt, PublishRule};

/// Which way, and of which transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Listened on at the host.
    Inward(PortProtocol),
    /// Listened on at the container's loopback.
    Outward(PortProtocol),
}

/// Families that the container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// Rules of one value, less what they are listened on.
#[derive(Debug, Default)]
struct List {
    /// Ports to listen on, and where they lead.
    ranges: Vec<(RangeInclusive<u16>, u16)>,
    excluded: Vec<RangeInclusive<u16>>,
    is_auto: bool,
    is_all: bool,
}

/// Adds what the values of `option` ask for to `forwarding`, `most` rules in all.
pub(super) fn read(
    option: &str,
    values: &[String],
    direction: Direction,
    families: Families,
    most: usize,
    forwarding: &mut Forwarding,
) -> Result<(), ValueError> {
    if values.is_empty() {
        return add(option, "auto", direction, families, most, forwarding);
    }
    for value in values {
        if value == "none" {
            if values.len() > 1 {
                return Err(malformed(option, value, "stands alone; leave it or the other values away"));
            }
            return Ok(());
        }
        add(option, value, direction, families, most, forwarding)?;
    }
    Ok(())
}

fn add(
    option: &str,
    value: &str,
    direction: Direction,
    families: Families,
    most: usize,
    forwarding: &mut Forwarding,
) -> Result<(), ValueError> {
    let (place, list) = match value.rsplit_once('/') {
        Some((place, list)) => (Some(place), list),
        None => (None, value),
    };
    let (address, interface) = match place {
        None => (None, None),
        Some(place) => read_place(option, value, place)?,
    };
    let addresses = listen_addresses(option, value, direction, families, address)?;
    let protocol = match direction {
        Direction::Inward(protocol) | Direction::Outward(protocol) => protocol,
    };
    let list = read_list(option, value, list)?;
    for address in addresses {
        let ports_at = |ports| PortsAt { protocol, address, interface, ports };
        if list.is_auto {
            forwarding.followed.push(ports_at(list.all_but_excluded()));
        }
        if list.is_all {
            forwarding.hopeful.push(ports_at(list.all_but_excluded()));
        }
        for (range, first_target) in &list.ranges {
            for (port, target) in range.clone().zip(*first_target..=u16::MAX) {
                if list.excludes(port) {
                    continue;
                }
                let rule = PublishRule {
                    protocol,
                    host_address: address,
                    host_port: port,
                    interface,
                    container_address: None,
                    container_port: target,
                };
                if let Some(other) = forwarding.required.iter().find(|other| clashes(other, &rule)) {
                    let why = format!("port {port} leads to {} already; give it once", other.container_port);
                    return Err(unusable(option, value, why));
                }
                if forwarding.required.len() == most {
                    let why = format!("more than {most} ports in all, each family counted; list fewer");
                    return Err(unusable(option, value, why));
                }
                forwarding.required.push(rule);
            }
        }
    }
    Ok(())
}

/// Whether both would listen on the same, with different ends.
fn clashes(one: &PublishRule, other: &PublishRule) -> bool {
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && one.host_address == other.host_address
        && one.interface == other.interface
}

/// `ADDRESS[%INTERFACE]` or `%INTERFACE`.
fn read_place(
    option: &str,
    value: &str,
    place: &str,
) -> Result<(Option<IpAddr>, Option<InterfaceName>), ValueError> {
    let (address, interface) = match place.split_once('%') {
        Some((address, interface)) => (address, Some(interface)),
        None => (place, None),
    };
    let interface = match interface {
        None => None,
        Some(text) => Some(
            InterfaceName::new(text)
                .ok_or_else(|| malformed(option, value, "no interface has the name behind `%`"))?,
        ),
    };
    if address.is_empty() && interface.is_some() {
        return Ok((None, interface));
    }
    let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = inner.parse().map_err(|_| {
        malformed(
            option,
            value,
            "what stands before `/` is no address; write it as in 192.0.2.1%eth0/8080:80",
        )
    })?;
    Ok((Some(address), interface))
}

fn listen_addresses(
    option: &str,
    value: &str,
    direction: Direction,
    families: Families,
    asked: Option<IpAddr>,
) -> Result<Vec<IpAddr>, ValueError> {
    let (any4, any6) = match direction {
        Direction::Inward(_) => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        Direction::Outward(_) => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    };
    match asked {
        None => {
            let ipv4 = families.ipv4.then_some(IpAddr::V4(any4));
            Ok(ipv4.into_iter().chain(families.ipv6.then_some(IpAddr::V6(any6))).collect())
        }
        Some(address) => {
            let is_off = if address.is_ipv4() { !families.ipv4 } else { !families.ipv6 };
            if is_off {
                return Err(unusable(
                    option,
                    value,
                    "the family of its address is off; give one of the other",
                ));
            }
            if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
                return Err(unusable(option, value, "nobody can listen there; give an address of this host"));
            }
            if matches!(direction, Direction::Outward(_)) && !address.is_loopback() {
                let why = "only the container's loopback is forwarded; give an address of it, or none";
                return Err(unusable(option, value, why));
            }
            Ok(vec![address])
        }
    }
}

impl List {
    fn excludes(&self, port: u16) -> bool {
        self.excluded.iter().any(|range| range.contains(&port))
    }

    fn all_but_excluded(&self) -> PortSet {
        let mut ports = PortSet::all();
        self.excluded.iter().flat_map(Clone::clone).for_each(|port| ports.remove(port));
        ports
    }
}

fn read_list(option: &str, value: &str, list: &str) -> Result<List, ValueError> {
    let mut read = List::default();
    for item in list.split(',') {
        match item {
            "auto" => read.is_auto = true,
            "all" => read.is_all = true,
            "none" => return Err(malformed(option, value, "`none` stands alone; leave the rest away")),
            _ => match item.strip_prefix('~') {
                Some(excluded) => read.excluded.push(read_range(option, value, excluded)?),
                None => {
                    let (from, to) = match item.split_once(':') {
                        Some((from, to)) => {
                            (read_range(option, value, from)?, read_range(option, value, to)?)
                        }
                        None => {
                            let range = read_range(option, value, item)?;
                            (range.clone(), range)
                        }
                    };
                    if from.len() != to.len() {
                        let why =
                            format!("{} ports lead to {}; give ranges of equal length", from.len(), to.len());
                        return Err(malformed(option, value, why));
                    }
                    let target = *to.start();
                    read.ranges.push((from, target));
                }
            },
        }
    }
    // `~22` alone: all but that.
    read.is_all |= read.ranges.is_empty() && !read.is_auto;
    Ok(read)
}

fn read_range(option: &str, value: &str, text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(|| {
            let what = if text.is_empty() {
                "a port is missing".to_owned()
            } else {
                format!("`{}` is not a port", text.escape_debug())
            };
            malformed(
                option,
                value,
                format!("{what}; write it as in 8080, 8080:80, 22-80:32-90, ~22, auto or none"),
            )
        })
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if last < first {
        return Err(malformed(
            option,
            value,
            format!("the range {first}-{last} is reversed; the smaller port comes first"),
        ));
    }
    Ok(first..=last)
}
