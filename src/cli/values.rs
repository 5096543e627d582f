//! Values of options, each parsed into a type that cannot be wrong.
//!
//! A value that is not of its option's form is [`ValueError::Malformed`], a usage error; one that is, but cannot be
//! used, is [`ValueError::Unusable`]. Both texts begin with the option and the value as written.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{AttachTarget, Workers};
use crate::config::Timeouts;
use crate::config::address::{self, Ipv4Link, Ipv6Link};
use crate::config::limits::MAX_WORKERS;
use crate::config::publish::PublishSpec;
use crate::config::timeouts::TimeoutError;
use crate::wire::MacAddr;

/// Longest interface name (`IFNAMSIZ` less its final zero).
pub(super) const INTERFACE_NAME_MAX_BYTES: usize = 15;

const DNS_PORT: u16 = 53;

/// What is wrong with an option's value, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not of the form.
    #[error("{0}")]
    Malformed(String),
    /// Of the form, but out of the question.
    #[error("{0}")]
    Unusable(String),
}

pub(super) fn malformed(option: &str, text: &str, why: impl Display) -> ValueError {
    ValueError::Malformed(format!("{option} {}: {why}", visible(text)))
}

pub(super) fn unusable(option: &str, text: &str, why: impl Display) -> ValueError {
    ValueError::Unusable(format!("{option} {}: {why}", visible(text)))
}

/// A value as it can stand in one line.
fn visible(text: &str) -> String {
    if text.is_empty() { "''".to_owned() } else { text.escape_debug().to_string() }
}

/// The IPv4 side of the link, of `--cidr`.
pub fn ipv4_link(option: &str, text: &str) -> Result<Ipv4Link, ValueError> {
    if text.parse::<Ipv6Net>().is_ok() {
        return Err(malformed(option, text, "this is an IPv6 prefix; give it with --cidr6"));
    }
    let cidr: Ipv4Net = text
        .parse()
        .map_err(|_| malformed(option, text, "not an IPv4 subnet; write it as in 10.0.2.0/24"))?;
    Ipv4Link::from_cidr(cidr).map_err(|error| unusable(option, text, error))
}

/// The IPv6 side of the link, of `--cidr6`.
pub fn ipv6_link(option: &str, text: &str) -> Result<Ipv6Link, ValueError> {
    if text.parse::<Ipv4Net>().is_ok() {
        return Err(malformed(option, text, "this is an IPv4 subnet; give it with --cidr"));
    }
    let cidr: Ipv6Net = text
        .parse()
        .map_err(|_| malformed(option, text, "not an IPv6 prefix; write it as in fd00:1:2:3::/64"))?;
    Ipv6Link::from_cidr(cidr).map_err(|error| unusable(option, text, error))
}

/// Bytes of the largest packet, for the families on the link.
pub fn mtu(option: &str, text: &str, with_ipv6: bool) -> Result<u16, ValueError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed(option, text, "not a number of bytes; write it as in 1500"));
    }
    // What is too long for a number is too large for an MTU.
    let asked = text.parse().unwrap_or(u64::MAX);
    address::mtu(asked, with_ipv6).map_err(|error| unusable(option, text, error))
}

/// Where to listen: an address with a port, or a port of the host's loopback.
pub fn listening(option: &str, text: &str) -> Result<SocketAddr, ValueError> {
    let of_loopback = || text.parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
    let address = text.parse().ok().or_else(of_loopback).filter(|address| address.port() != 0);
    address.ok_or_else(|| {
        malformed(option, text, "not an address and a port; write it as in 9100 or 0.0.0.0:9100")
    })
}

/// How many threads serve the interface.
pub fn workers(option: &str, text: &str) -> Result<Workers, ValueError> {
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed(option, text, "not a number of threads; write it as in 2, or auto"));
    }
    match text.parse() {
        Ok(count @ 1..=MAX_WORKERS) => Ok(Workers::Count(count)),
        Ok(_) | Err(_) => Err(unusable(option, text, format!("give 1 to {MAX_WORKERS}, or auto"))),
    }
}

/// The container's Ethernet address.
pub fn container_mac(option: &str, text: &str) -> Result<MacAddr, ValueError> {
    let mac = text.parse().map_err(|error| malformed(option, text, error))?;
    address::container_mac(mac).map_err(|error| unusable(option, text, error))
}

/// One argument of `--publish`.
pub fn publish_spec(option: &str, text: &str) -> Result<PublishSpec, ValueError> {
    text.parse().map_err(|error| malformed(option, text, error))
}

/// A list of `--timeout`, applied to `timeouts`.
pub fn timeouts(option: &str, text: &str, timeouts: &mut Timeouts) -> Result<(), ValueError> {
    timeouts.apply(text).map_err(|error| match error {
        TimeoutError::OutOfRange(_) => unusable(option, text, error),
        TimeoutError::Malformed | TimeoutError::Unknown(_) | TimeoutError::NotATime(_) => {
            malformed(option, text, error)
        }
    })
}

/// A resolver: `ADDR`, `ADDR:PORT`, `[ADDR6]` or `[ADDR6]:PORT`; an IPv6 address without port needs no brackets.
pub fn resolver(option: &str, text: &str) -> Result<SocketAddr, ValueError> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let without_port = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<IpAddr>().ok(),
    };
    let resolver = without_port.map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|| text.parse().ok());
    let Some(resolver) = resolver else {
        let why = "not the address of a resolver; write it as in 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353";
        return Err(malformed(option, text, why));
    };
    if resolver.port() == 0 || resolver.ip().is_unspecified() || resolver.ip().is_multicast() {
        return Err(unusable(
            option,
            text,
            "no resolver can be there; give its address, and its port if not 53",
        ));
    }
    Ok(resolver)
}

/// The name of an interface to be made: what the kernel accepts, less what has a meaning of its own.
pub fn interface_name(option: &str, text: &str) -> Result<String, ValueError> {
    if text.len() > INTERFACE_NAME_MAX_BYTES {
        let why = format!(
            "{} bytes are too long for an interface name; use at most {INTERFACE_NAME_MAX_BYTES}",
            text.len()
        );
        return Err(unusable(option, text, why));
    }
    // The kernel takes `%d` as a pattern and refuses slash, colon and white space.
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    if text.is_empty() || text == "." || text == ".." || !text.bytes().all(allowed) {
        return Err(unusable(
            option,
            text,
            "not an interface name; use letters, digits, hyphens or dots, as in tap0",
        ));
    }
    if text == "lo" {
        return Err(unusable(
            option,
            text,
            "this is the loopback interface; choose another name such as tap0",
        ));
    }
    Ok(text.to_owned())
}

/// A namespace: a number is a process, all else a path.
pub fn attach_target(path: PathBuf) -> Result<AttachTarget, ValueError> {
    let Some(digits) = path.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) else {
        return Ok(AttachTarget::Path(path));
    };
    match digits.parse() {
        Ok(pid) if pid > 0 => Ok(AttachTarget::Pid(pid)),
        Ok(_) | Err(_) => Err(unusable(
            "PID",
            digits,
            "no process has this id; give one in the namespace, or ./NAME for a path",
        )),
    }
}

/// A descriptor that we were started with.
pub fn inherited_fd(option: &str, text: &str) -> Result<i32, ValueError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fd = text.parse().ok().filter(|_| digits);
    fd.ok_or_else(|| malformed(option, text, "not a descriptor; give the number of an open one, from 0 on"))
}

/// A descriptor we were started with and may write to.
pub fn ready_fd(option: &str, text: &str) -> Result<i32, ValueError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let fd = text.parse().ok().filter(|fd| digits && *fd > 0);
    fd.ok_or_else(|| {
        malformed(option, text, "not a descriptor to write to; give the number of an open one, from 1 on")
    })
}
