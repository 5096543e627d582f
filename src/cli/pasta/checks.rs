//! Values of options, one by one: what is a name, an address, a mask to pasta.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::super::values::{ValueError, malformed, unusable};
use super::NAMED_NAMESPACES;
use super::ports::Families;
use crate::config::InterfaceName;

/// Until the host has been looked at.
pub(super) fn link_name(asked: Option<InterfaceName>) -> String {
    asked.map_or_else(|| "tap0".to_owned(), |name| name.as_str().to_owned())
}

pub(super) fn is_number(word: &OsString) -> bool {
    word.to_str().is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A name without slash is one that ip-netns(8) has given.
pub(super) fn namespace_path(given: &std::path::Path) -> PathBuf {
    if given.as_os_str().to_string_lossy().contains('/') {
        given.to_owned()
    } else {
        std::path::Path::new(NAMED_NAMESPACES).join(given)
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

pub(super) fn interface(option: &str, text: &Option<String>) -> Result<Option<InterfaceName>, ValueError> {
    let Some(text) = text else { return Ok(None) };
    let name = InterfaceName::new(text).ok_or_else(|| {
        malformed(option, text, "not the name of an interface; `ip link` shows those there are")
    })?;
    Ok(Some(name))
}

pub(super) fn host_address(option: &str, text: &str) -> Result<IpAddr, ValueError> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| malformed(option, text, "not an address; write it as in 192.0.2.1 or 2001:db8::1"))?;
    let is_nobodys = address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if is_nobodys {
        return Err(unusable(option, text, "no interface can have it; give an address of one host"));
    }
    Ok(address)
}

pub(super) fn listed(option: &str, values: &[String]) -> Result<Option<Vec<IpAddr>>, ValueError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| malformed(option, text, "not an address; write it as in 192.0.2.53"))
    };
    let addresses = values.iter().map(parse).collect::<Result<Vec<IpAddr>, _>>()?;
    Ok((!addresses.is_empty()).then_some(addresses))
}

pub(super) fn check_family(option: &str, address: IpAddr, families: Families) -> Result<(), ValueError> {
    let is_on = if address.is_ipv4() { families.ipv4 } else { families.ipv6 };
    if is_on {
        return Ok(());
    }
    Err(unusable(option, &address.to_string(), "its family is off; leave it away, or -4 or -6"))
}

/// One address of each family; `Some` and empty for `none`, `None` where nothing is said.
/// Podman names such addresses whatever families it asks for: those of a family that is off mean nothing.
pub(super) fn per_family(
    option: &str,
    values: &[String],
    families: Families,
) -> Result<Option<Vec<IpAddr>>, ValueError> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in values {
        if text == "none" {
            found.clear();
            continue;
        }
        let address = host_address(option, text)?;
        let is_on = if address.is_ipv4() { families.ipv4 } else { families.ipv6 };
        if !is_on {
            continue;
        }
        // The last one counts, as of every option.
        found.retain(|other| other.is_ipv4() != address.is_ipv4());
        found.push(address);
    }
    Ok((!values.is_empty()).then_some(found))
}

pub(super) fn address_with_length(option: &str, text: &str) -> Result<(IpAddr, Option<u8>), ValueError> {
    let Some((address, length)) = text.split_once('/') else {
        return Ok((host_address(option, text)?, None));
    };
    let address = host_address(option, address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.parse() {
        Ok(length) if (1..=most).contains(&length) => Ok((address, Some(length))),
        Ok(_) | Err(_) => Err(malformed(option, text, format!("not a prefix length; use 1 to {most}"))),
    }
}

/// A prefix length, or a mask of as many ones.
pub(super) fn netmask(text: &str) -> Result<u8, ValueError> {
    let length = match text.parse::<Ipv4Addr>() {
        Ok(mask) if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() == 32 => {
            u8::try_from(mask.to_bits().leading_ones()).ok()
        }
        Ok(_) => None,
        Err(_) => text.parse().ok(),
    };
    length.filter(|length| (1..=32).contains(length)).ok_or_else(|| {
        malformed("--netmask", text, "neither a mask nor a prefix length; write it as in 255.255.255.0 or 24")
    })
}
