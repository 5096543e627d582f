//! Routes as the kernel has them: read whole, and given to another interface.
//!
//! A [`Route`] keeps every attribute of the kernel's message, so that a copy differs in nothing but the interface;
//! only what cannot be asked for (counters, flags of state) is left out. Sources: rtnetlink(7), ip-route(8).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{Netlink, NetlinkError, family};

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    message: RouteMessage,
}

impl Route {
    /// The default route of the gateway's family.
    #[must_use]
    pub fn default_by(gateway: IpAddr) -> Route {
        let mut route = Route::empty(gateway, 0);
        route.message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        route
    }

    /// A route to a neighbor that no prefix of the interface covers.
    #[must_use]
    pub fn to_neighbor(neighbor: IpAddr) -> Route {
        let mut route = Route::empty(neighbor, if neighbor.is_ipv4() { 32 } else { 128 });
        if neighbor.is_ipv4() {
            route.message.header.scope = RouteScope::Link;
        }
        route.message.attributes.push(RouteAttribute::Destination(neighbor.into()));
        route
    }

    /// The same, leaving by `interface`.
    #[must_use]
    pub fn by(mut self, interface: u32) -> Route {
        self.message.attributes.push(RouteAttribute::Oif(interface));
        self
    }

    /// The same with a priority.
    #[must_use]
    pub fn with_priority(mut self, priority: u32) -> Route {
        self.message.attributes.push(RouteAttribute::Priority(priority));
        self
    }

    fn empty(like: IpAddr, prefix_len: u8) -> Route {
        let mut message = RouteMessage::default();
        message.header.address_family = family(like);
        message.header.destination_prefix_length = prefix_len;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        Route { message }
    }

    /// Whether it is IPv4's.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.message.header.address_family == netlink_packet_route::AddressFamily::Inet
    }

    /// Whether it leads everywhere.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.message.header.destination_prefix_length == 0
    }

    /// Where it leads, unless that is everywhere: the prefix and its length.
    #[must_use]
    pub fn destination(&self) -> Option<(IpAddr, u8)> {
        let prefix_len = self.message.header.destination_prefix_length;
        self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => Some((ip(address)?, prefix_len)),
            _ => None,
        })
    }

    /// Its gateway, or that of its first next hop that leaves by `interface`.
    #[must_use]
    pub fn gateway(&self, interface: u32) -> Option<IpAddr> {
        let hops = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        let hop = hops.and_then(|hops| hops.iter().find(|hop| hop.interface_index == interface));
        let attributes = hop.map_or(&self.message.attributes, |hop| &hop.attributes);
        attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            _ => None,
        })
    }

    /// Smaller goes first among routes to the same.
    #[must_use]
    pub fn priority(&self) -> u32 {
        let told = self.message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
        told.unwrap_or(0)
    }

    /// Whether it, or one of its next hops, leaves by `interface`.
    #[must_use]
    pub fn leaves_by(&self, interface: u32) -> bool {
        self.interfaces().any(|index| index == interface)
    }

    /// The interfaces that it leaves by.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.message.attributes.iter().flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
    }

    /// The same without a preferred source that is none of `addresses`.
    #[must_use]
    pub fn from_one_of(mut self, addresses: &[IpAddr]) -> Route {
        self.message.attributes.retain(|attribute| match attribute {
            RouteAttribute::PrefSource(source) => {
                ip(source).is_some_and(|source| addresses.contains(&source))
            }
            _ => true,
        });
        self
    }

    /// The same for another interface: `from` is the one that it leaves by now, next hops by others are left out.
    fn moved(&self, from: u32, to: u32) -> RouteMessage {
        let mut message = self.message.clone();
        // The rest is the kernel's to say.
        message.header.flags &= RouteFlags::Onlink;
        message.attributes.retain(|attribute| {
            !matches!(
                attribute,
                RouteAttribute::CacheInfo(_) | RouteAttribute::Oif(_) | RouteAttribute::Expires(_)
            )
        });
        let mut has_hops = false;
        for attribute in &mut message.attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                has_hops = true;
                hops.retain(|hop| hop.interface_index == from);
                for hop in hops {
                    hop.interface_index = to;
                    hop.flags &= netlink_packet_route::route::RouteNextHopFlags::Onlink;
                }
            }
        }
        if !has_hops {
            message.attributes.push(RouteAttribute::Oif(to));
        }
        message
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

impl Netlink {
    /// The unicast routes of the main table, of both families, in the kernel's order.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in [netlink_packet_route::AddressFamily::Inet, netlink_packet_route::AddressFamily::Inet6]
        {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let question = RouteNetlinkMessage::GetRoute(question);
            let answers = self.converse(question, NLM_F_REQUEST | NLM_F_DUMP, "list the routes")?;
            for answer in answers {
                let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
                let is_cached = message.header.flags.contains(RouteFlags::Cloned);
                let is_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
                // A kernel without IPv6 answers with IPv4's for either family.
                let is_asked_for = message.header.address_family == family;
                if is_main && is_asked_for && !is_cached && message.header.kind == RouteType::Unicast {
                    found.push(Route { message });
                }
            }
        }
        Ok(found)
    }

    /// Gives interface `to` the routes that interface `from`, perhaps of another namespace, has. Those that it has
    /// already are no error, and each is tried until the routes it depends on are there.
    pub fn add_routes(&mut self, routes: &[Route], from: u32, to: u32) -> Result<(), NetlinkError> {
        let mut left: Vec<&Route> = routes.iter().collect();
        loop {
            let (mut again, mut refusal) = (Vec::new(), None);
            for route in &left {
                let request = RouteNetlinkMessage::NewRoute(route.moved(from, to));
                let added = self.change(request, NLM_F_CREATE | NLM_F_EXCL, "add a route of the host");
                match added {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(error) => {
                        again.push(*route);
                        refusal = Some(error);
                    }
                }
            }
            match refusal {
                None => return Ok(()),
                Some(error) if again.len() == left.len() => return Err(error),
                Some(_) => left = again,
            }
        }
    }
}
