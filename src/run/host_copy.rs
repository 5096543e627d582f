//! What the container takes over from the host: addresses, routes, and the interface's name.
//!
//! [`HostNetwork`] is what the host has, read in one go; [`resolve`], which looks at nothing else, decides what of
//! it the container gets. Of each family the interface of the default route is the template, or the only one that
//! has an address at all; a family without a template is off. Where there is none for either, the container gets a
//! link-local address, so that it reaches the host at least. Source: pasta(1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cli::HostCopy;
use crate::config::address::GATEWAY_LINK_LOCAL;
use crate::config::{AddressPair, Aliases, Ipv4Link, Ipv6Link, LinkConfig, Offers, Segment};
use crate::sys::netlink::route::Route;
use crate::sys::netlink::{InterfaceAddress, Netlink, NetlinkError};
use crate::sys::resolv_conf::ResolvConf;

/// The container's address on a host that has none to copy (RFC 3927).
const LOCAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
const LOCAL_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
const LOCAL_PREFIX_LEN: u8 = 16;
/// The interface's name on such a host.
const LOCAL_NAME: &str = "tap0";

/// Prefix length of an IPv6 address that is given without.
const IPV6_PREFIX_LEN: u8 = 64;

/// Why there is nothing to copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// `-i`.
    #[error("the host has no interface {0}; `ip link` shows those it has")]
    NoSuchInterface(String),
    /// `-i`, without an address.
    #[error("the host has no interface {0} with an address to copy; `ip address` shows those there are")]
    NothingThere(String),
    /// `-4`, `-6` or an address of the family.
    #[error("the host has no {family} address to copy; give one with --address, or leave the family away")]
    NoAddress {
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// The host did not tell.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Interfaces with their addresses and routes.
#[derive(Debug, Default)]
pub struct HostNetwork {
    /// Numbers and names.
    pub interfaces: Vec<(u32, String)>,
    /// Addresses of all of them.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes by all of them.
    pub routes: Vec<Route>,
}

/// What the container gets.
#[derive(Debug, Clone)]
pub struct Copied {
    /// The segment.
    pub link: LinkConfig,
    /// Name of the interface.
    pub tap_name: String,
    /// Of each family one part.
    parts: Vec<Part>,
}

/// What the interface gets of one family.
#[derive(Debug, Clone)]
struct Part {
    /// The template, on the host; zero where there is none.
    interface: u32,
    addresses: Vec<(IpAddr, u8)>,
    /// The routes to the neighbors are among `routes`.
    has_prefix_routes: bool,
    routes: Vec<Route>,
}

/// What is found for one family.
struct Template {
    part: Part,
    gateway: Option<IpAddr>,
}

impl HostNetwork {
    /// Reads what the namespace of the calling process has.
    pub fn read() -> Result<HostNetwork, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let addresses = netlink.interface_addresses()?;
        let routes = netlink.routes()?;
        let mut numbers: Vec<u32> = addresses.iter().map(|own| own.interface).collect();
        numbers.extend(routes.iter().flat_map(Route::interfaces));
        numbers.sort_unstable();
        numbers.dedup();
        let mut interfaces = Vec::new();
        for number in numbers {
            interfaces.push((number, netlink.link_name(number)?));
        }
        Ok(HostNetwork { interfaces, addresses, routes })
    }

    fn name(&self, number: u32) -> Option<&str> {
        self.interfaces.iter().find(|(own, _)| *own == number).map(|(_, name)| name.as_str())
    }

    /// Addresses that may be the container's as well.
    fn addresses_of(&self, is_ipv4: bool) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.iter().filter(move |own| {
            let is_local = match own.address {
                IpAddr::V4(v4) => v4.is_loopback(),
                IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
            };
            own.address.is_ipv4() == is_ipv4 && own.is_lasting && !is_local
        })
    }

    /// The interface to copy a family from.
    fn template(&self, is_ipv4: bool) -> Option<u32> {
        let defaults = self.routes.iter().filter(|route| route.is_ipv4() == is_ipv4 && route.is_default());
        let best = defaults.min_by_key(|route| route.priority()).and_then(|route| route.interfaces().next());
        best.or_else(|| {
            let mut with_address: Vec<u32> = self.addresses_of(is_ipv4).map(|own| own.interface).collect();
            with_address.dedup();
            match with_address.as_slice() {
                [only] => Some(*only),
                _ => None,
            }
        })
    }
}

/// Decides what the container gets. Of `link` the families that are asked for count, and what is not addresses.
pub fn resolve(copy: &HostCopy, mut link: LinkConfig, host: &HostNetwork) -> Result<Copied, CopyError> {
    let named = match &copy.interface {
        None => None,
        Some(name) => {
            let found = host.interfaces.iter().find(|(_, own)| own == name.as_str());
            Some(found.map(|(number, _)| *number).ok_or_else(|| CopyError::NothingThere(name.to_string()))?)
        }
    };
    let (wants_ipv4, wants_ipv6) = (link.ipv4.is_some(), link.ipv6.is_some());
    let mut ipv4 = if wants_ipv4 { family(copy, host, named, true) } else { None };
    let ipv6 = if wants_ipv6 { family(copy, host, named, false) } else { None };
    for (is_wanted_alone, found, family) in
        [(!wants_ipv6, ipv4.is_some(), "IPv4"), (!wants_ipv4, ipv6.is_some(), "IPv6")]
    {
        let is_wanted = if family == "IPv4" { wants_ipv4 } else { wants_ipv6 };
        if is_wanted && is_wanted_alone && !found {
            return Err(CopyError::NoAddress { family });
        }
    }
    if ipv4.is_none() && ipv6.is_none() {
        if let Some(name) = &copy.interface {
            return Err(CopyError::NothingThere(name.to_string()));
        }
        ipv4 = Some(local_only());
    }
    let number = ipv4.iter().chain(&ipv6).map(|found| found.part.interface).find(|number| *number != 0);
    let host_name = number.and_then(|number| host.name(number)).unwrap_or(LOCAL_NAME);
    let tap_name = copy.tap_name.map_or_else(|| host_name.to_owned(), |name| name.as_str().to_owned());

    let dns = pair(&copy.dns_forward);
    link.ipv4 = ipv4.as_ref().and_then(|found| ipv4_link(found, dns.ipv4));
    link.ipv6 = ipv6.as_ref().and_then(|found| ipv6_link(found, dns.ipv6));
    let gateways =
        AddressPair { ipv4: link.ipv4.map(|ipv4| ipv4.gateway), ipv6: link.ipv6.map(|ipv6| ipv6.gateway) };
    let named_loopback = pair(&copy.map_host_loopback);
    let loopback = if copy.gateway_is_loopback { gateways } else { named_loopback };
    link.segment = Segment::Shared(Aliases { loopback, host: pair(&copy.map_guest_address) });
    let parts = ipv4.into_iter().chain(ipv6).map(|found| found.part).collect();
    Ok(Copied { link, tap_name, parts })
}

impl Copied {
    /// Gives an interface, which is there and in the current namespace, its addresses and routes, and brings it up.
    pub fn configure(&self, netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
        for part in &self.parts {
            for (address, prefix_len) in &part.addresses {
                if part.has_prefix_routes {
                    netlink.add_address_alone(index, *address, *prefix_len)?;
                } else {
                    netlink.add_address(index, *address, *prefix_len, true)?;
                }
            }
        }
        netlink.set_up(index)?;
        for part in &self.parts {
            netlink.add_routes(&part.routes, part.interface, index)?;
        }
        Ok(())
    }
}

/// Fills in what is told over DHCP and router advertisements: nothing unless it is asked for, the host's own where
/// nothing is named.
pub fn complete_offers(offers: &mut Offers, copy: &HostCopy, link: &LinkConfig, host: &ResolvConf) {
    if !copy.offers_resolvers {
        offers.resolvers = Some(Vec::new());
    } else if offers.resolvers.is_none() {
        let shown = host.servers.iter().filter_map(|server| {
            let address = server.ip();
            if !address.is_loopback() {
                return Some(address);
            }
            // The host's loopback is not the container's: whoever forwards to it stands for it.
            let dns = AddressPair {
                ipv4: link.ipv4.and_then(|ipv4| ipv4.dns),
                ipv6: link.ipv6.and_then(|ipv6| ipv6.dns),
            };
            let Segment::Shared(aliases) = link.segment else { return None };
            dns.like(address).or(aliases.loopback.like(address))
        });
        offers.resolvers = Some(shown.collect());
    }
    if !copy.offers_search {
        offers.search.clear();
    } else if offers.search.is_empty() {
        offers.search.clone_from(&host.search);
    }
}

fn family(copy: &HostCopy, host: &HostNetwork, named: Option<u32>, is_ipv4: bool) -> Option<Template> {
    let interface = named.or_else(|| host.template(is_ipv4));
    let asked: Vec<_> = copy.addresses.iter().filter(|(address, _)| address.is_ipv4() == is_ipv4).collect();
    let mut addresses: Vec<(IpAddr, u8)> = if asked.is_empty() {
        let own = host.addresses_of(is_ipv4).filter(|own| Some(own.interface) == interface);
        own.map(|own| (own.address, own.prefix_len)).collect()
    } else {
        asked.iter().map(|(address, len)| (*address, len.unwrap_or_else(|| usual_len(*address)))).collect()
    };
    if let (true, Some(length)) = (is_ipv4, copy.netmask) {
        let told = asked.iter().filter(|(_, len)| len.is_some()).map(|(address, _)| *address);
        let told: Vec<IpAddr> = told.collect();
        addresses.iter_mut().filter(|(own, _)| !told.contains(own)).for_each(|(_, len)| *len = length);
    }
    if copy.only_first_address {
        addresses.truncate(1);
    }
    if addresses.is_empty() {
        return None;
    }
    let interface = interface.unwrap_or(0);
    let own: Vec<IpAddr> = addresses.iter().map(|(address, _)| *address).collect();
    let asked_gateway: Option<IpAddr> =
        if is_ipv4 { copy.gateway4.map(Into::into) } else { copy.gateway6.map(Into::into) };
    let theirs = host.routes.iter().filter(|route| route.is_ipv4() == is_ipv4 && route.leaves_by(interface));
    let default = theirs.clone().filter(|route| route.is_default()).min_by_key(|route| route.priority());
    let gateway = asked_gateway.or_else(|| default.and_then(|route| route.gateway(interface)));
    let is_whole = asked_gateway.is_none() && !copy.only_default_route;
    let routes = if is_whole {
        let is_needed = |route: &&Route| !route.destination().is_some_and(|(to, _)| is_ipv6_link_local(to));
        theirs.filter(is_needed).map(|route| route.clone().from_one_of(&own)).collect()
    } else {
        gateway.map(|gateway| routes_by(gateway, &addresses)).unwrap_or_default()
    };
    let has_prefix_routes = is_whole && asked.is_empty() && copy.netmask.is_none();
    Some(Template { part: Part { interface, addresses, has_prefix_routes, routes }, gateway })
}

/// The default route, and before it one to its gateway where no address makes that a neighbor.
fn routes_by(gateway: IpAddr, addresses: &[(IpAddr, u8)]) -> Vec<Route> {
    let is_neighbor = is_ipv6_link_local(gateway)
        || addresses
            .iter()
            .any(|(address, len)| IpNet::new(*address, *len).is_ok_and(|subnet| subnet.contains(&gateway)));
    let to_gateway = (!is_neighbor).then(|| Route::to_neighbor(gateway));
    to_gateway.into_iter().chain([Route::default_by(gateway)]).collect()
}

fn local_only() -> Template {
    let addresses = vec![(LOCAL_ADDRESS.into(), LOCAL_PREFIX_LEN)];
    let gateway = IpAddr::V4(LOCAL_GATEWAY);
    let routes = routes_by(gateway, &addresses);
    let part = Part { interface: 0, addresses, has_prefix_routes: false, routes };
    Template { part, gateway: Some(gateway) }
}

fn ipv4_link(found: &Template, dns: Option<Ipv4Addr>) -> Option<Ipv4Link> {
    let (IpAddr::V4(container), length) = *found.part.addresses.first()? else { return None };
    let gateway = match found.gateway {
        Some(IpAddr::V4(gateway)) => gateway,
        // Somebody has to ask for the container's link address, and to be seen as the host.
        Some(IpAddr::V6(_)) | None => LOCAL_GATEWAY,
    };
    Some(Ipv4Link { subnet: Ipv4Net::new(container, length).ok()?.trunc(), gateway, dns, container })
}

fn ipv6_link(found: &Template, dns: Option<Ipv6Addr>) -> Option<Ipv6Link> {
    let (IpAddr::V6(container), length) = *found.part.addresses.first()? else { return None };
    let gateway = match found.gateway {
        Some(IpAddr::V6(gateway)) => gateway,
        Some(IpAddr::V4(_)) | None => GATEWAY_LINK_LOCAL,
    };
    let gateway_link_local = if gateway.is_unicast_link_local() { gateway } else { GATEWAY_LINK_LOCAL };
    let prefix = Ipv6Net::new(container, length).ok()?.trunc();
    Some(Ipv6Link { prefix, gateway, gateway_link_local, dns, container })
}

/// Prefix length of an address that is given without: that of its class (RFC 791 §2.3), as pasta has it.
fn usual_len(address: IpAddr) -> u8 {
    match address {
        IpAddr::V6(_) => IPV6_PREFIX_LEN,
        IpAddr::V4(v4) => match v4.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            224..=255 => 32,
        },
    }
}

fn is_ipv6_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn pair(addresses: &[IpAddr]) -> AddressPair {
    let mut pair = AddressPair::default();
    for address in addresses {
        match address {
            IpAddr::V4(v4) => pair.ipv4 = Some(*v4),
            IpAddr::V6(v6) => pair.ipv6 = Some(*v6),
        }
    }
    pair
}

#[cfg(test)]
mod tests;
