//! Whether a link's subnets are free on this host, and which to take when the defaults are not.
//!
//! A subnet that the host itself uses would hide that network, or the host's resolver, from the container. One
//! that the user named is then an error; a default gives way to the next of a fixed list, so that the same host
//! always leads to the same choice. Pure functions: the host's networks are arguments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{AddressError, Ipv4Link, Ipv6Link, LinkConfig, derived_mac};

/// The default IPv6 prefix: a unique local one whose 40 bits were drawn at random once (RFC 4193 §3.2.2).
///
/// The same on every machine, since it never leaves one.
pub const DEFAULT_IPV6_PREFIX: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd40, 0x6ce4, 0x2b9f, 0, 0, 0, 0, 0), 64);

/// IPv4 subnets to try in this order, the default first.
pub const IPV4_CANDIDATES: [Ipv4Net; 10] = [
    ipv4_candidate(10, 0, 2),
    ipv4_candidate(10, 0, 3),
    ipv4_candidate(10, 0, 4),
    ipv4_candidate(10, 0, 5),
    ipv4_candidate(172, 31, 2),
    ipv4_candidate(172, 31, 3),
    ipv4_candidate(172, 20, 2),
    ipv4_candidate(192, 168, 202),
    ipv4_candidate(192, 168, 203),
    ipv4_candidate(192, 168, 204),
];

/// How many subnets of the default /48 are tried, the default first: `:0::/64`, `:1::/64` and so on.
pub const IPV6_CANDIDATES: u128 = 8;

const fn ipv4_candidate(a: u8, b: u8, c: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 24)
}

/// What of the host a link must stay clear of.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNetworks<'a> {
    /// Address and prefix length of each of the host's interfaces.
    pub interfaces: &'a [(IpAddr, u8)],
    /// The resolvers in use.
    pub resolvers: &'a [IpAddr],
}

/// Which subnets the user named; the others may be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExplicitSubnets {
    /// The IPv4 subnet was named.
    pub ipv4: bool,
    /// The IPv6 prefix was named.
    pub ipv6: bool,
}

/// The first collision of either subnet with the host, if there is one.
pub fn check_collisions(link: &LinkConfig, host: HostNetworks<'_>) -> Result<(), AddressError> {
    let ipv4 = link.ipv4.map(|ipv4| IpNet::V4(ipv4.subnet));
    let ipv6 = link.ipv6.map(|ipv6| IpNet::V6(ipv6.prefix));
    ipv4.into_iter().chain(ipv6).try_for_each(|subnet| check_subnet(subnet, host))
}

/// The same link on subnets that are free on this host: a named one that is not is an error, a default one is
/// exchanged for the next candidate. A container MAC that was derived follows its address.
pub fn avoid_collisions(
    mut link: LinkConfig,
    explicit: ExplicitSubnets,
    host: HostNetworks<'_>,
) -> Result<LinkConfig, AddressError> {
    if let Some(ipv4) = link.ipv4 {
        let free = if explicit.ipv4 {
            check_subnet(ipv4.subnet.into(), host).map(|()| ipv4)?
        } else {
            free_ipv4(ipv4, host)?
        };
        if link.container_mac == Some(derived_mac(ipv4.container)) {
            link.container_mac = Some(derived_mac(free.container));
        }
        link.ipv4 = Some(free);
    }
    if let Some(ipv6) = link.ipv6 {
        link.ipv6 = Some(if explicit.ipv6 {
            check_subnet(ipv6.prefix.into(), host).map(|()| ipv6)?
        } else {
            free_ipv6(ipv6, host)?
        });
    }
    Ok(link)
}

fn free_ipv4(preferred: Ipv4Link, host: HostNetworks<'_>) -> Result<Ipv4Link, AddressError> {
    if check_subnet(preferred.subnet.into(), host).is_ok() {
        return Ok(preferred);
    }
    let free = IPV4_CANDIDATES.into_iter().find(|subnet| check_subnet((*subnet).into(), host).is_ok());
    let subnet = free.ok_or(AddressError::NoFreeDefault {
        tried: IPV4_CANDIDATES.len(),
        family: "IPv4",
        option: "--cidr",
    })?;
    Ipv4Link::from_cidr(subnet)
}

fn free_ipv6(preferred: Ipv6Link, host: HostNetworks<'_>) -> Result<Ipv6Link, AddressError> {
    if check_subnet(preferred.prefix.into(), host).is_ok() {
        return Ok(preferred);
    }
    let free =
        (0..IPV6_CANDIDATES).map(ipv6_candidate).find(|prefix| check_subnet((*prefix).into(), host).is_ok());
    let prefix = free.ok_or(AddressError::NoFreeDefault {
        tried: IPV6_CANDIDATES as usize,
        family: "IPv6",
        option: "--cidr6",
    })?;
    Ipv6Link::from_cidr(prefix)
}

fn ipv6_candidate(subnet_id: u128) -> Ipv6Net {
    let address = Ipv6Addr::from_bits(DEFAULT_IPV6_PREFIX.addr().to_bits() | (subnet_id << 64));
    Ipv6Net::new_assert(address, 64)
}

/// Whether `subnet` is clear of all that the host has.
pub(in crate::config) fn check_subnet(subnet: IpNet, host: HostNetworks<'_>) -> Result<(), AddressError> {
    for (taken, prefix_len) in host.interfaces.iter().copied() {
        // An impossible prefix length still leaves the address itself.
        let network = IpNet::new(taken, prefix_len).unwrap_or_else(|_| IpNet::from(taken));
        if subnet.contains(&network.trunc()) || network.contains(&subnet) {
            return Err(AddressError::HostNetwork { subnet, taken, prefix_len });
        }
    }
    match host.resolvers.iter().copied().find(|resolver| subnet.contains(resolver)) {
        Some(resolver) => Err(AddressError::ContainsResolver { subnet, resolver }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn host(interfaces: &[(IpAddr, u8)]) -> HostNetworks<'_> {
        HostNetworks { interfaces, resolvers: &[] }
    }

    fn interface(text: &str) -> (IpAddr, u8) {
        let net: IpNet = text.parse().unwrap();
        (net.addr(), net.prefix_len())
    }

    #[test]
    fn free_default_stays() {
        let interfaces = [interface("127.0.0.1/8"), interface("192.168.1.7/24"), interface("fe80::1/64")];
        let link = avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host(&interfaces));
        assert_eq!(link, Ok(LinkConfig::default()));
    }

    #[test]
    fn taken_defaults_give_way_in_order_and_the_derived_mac_follows() {
        let interfaces =
            [interface("10.0.2.100/24"), interface("fd40:6ce4:2b9f::100/64"), interface("10.0.3.1/32")];
        let link =
            avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host(&interfaces)).unwrap();
        let ipv4 = link.ipv4.unwrap();
        assert_eq!(ipv4, Ipv4Link::from_cidr(v4("10.0.4.0/24")).unwrap());
        assert_eq!(link.ipv6.unwrap().prefix, "fd40:6ce4:2b9f:1::/64".parse().unwrap());
        assert_eq!(link.container_mac, Some(derived_mac(ipv4.container)));
    }

    #[test]
    fn chosen_mac_stays_when_the_subnet_moves() {
        let chosen = "02:00:00:00:00:09".parse().unwrap();
        let link = LinkConfig { container_mac: Some(chosen), ..LinkConfig::default() };
        let interfaces = [interface("10.0.2.15/24")];
        let link = avoid_collisions(link, ExplicitSubnets::default(), host(&interfaces)).unwrap();
        assert_eq!(link.container_mac, Some(chosen));
        assert_eq!(link.ipv4.unwrap().subnet, v4("10.0.3.0/24"));
    }

    #[test]
    fn host_that_uses_a_whole_private_block_moves_the_default_out_of_it() {
        let interfaces = [interface("10.8.0.6/8")];
        let link =
            avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host(&interfaces)).unwrap();
        assert_eq!(link.ipv4.unwrap().subnet, v4("172.31.2.0/24"));
    }

    #[test]
    fn named_subnet_that_is_taken_is_an_error_naming_address_and_option() {
        let link = LinkConfig {
            segment: Default::default(),
            ipv4: Some(Ipv4Link::from_cidr(v4("192.168.0.0/16")).unwrap()),
            ..LinkConfig::default()
        };
        let interfaces = [interface("192.168.1.7/24")];
        let explicit = ExplicitSubnets { ipv4: true, ipv6: false };
        let error = avoid_collisions(link.clone(), explicit, host(&interfaces)).unwrap_err();
        let expected = AddressError::HostNetwork {
            subnet: v4("192.168.0.0/16").into(),
            taken: interfaces[0].0,
            prefix_len: 24,
        };
        assert_eq!(error, expected);
        assert_eq!(
            error.to_string(),
            "subnet 192.168.0.0/16 overlaps 192.168.1.7/24 of a host interface; choose a free one with --cidr"
        );
        assert_eq!(check_collisions(&link, host(&interfaces)), Err(expected));
    }

    #[test]
    fn named_ipv6_prefix_that_is_taken_is_an_error_with_its_own_option() {
        let interfaces = [interface("fd40:6ce4:2b9f::1/48")];
        let explicit = ExplicitSubnets { ipv4: false, ipv6: true };
        let error = avoid_collisions(LinkConfig::default(), explicit, host(&interfaces)).unwrap_err();
        assert!(error.to_string().ends_with("choose a free one with --cidr6"), "{error}");
    }

    #[test]
    fn resolver_inside_the_subnet_is_a_collision() {
        let resolvers = ["10.0.2.3".parse().unwrap()];
        let host = HostNetworks { interfaces: &[], resolvers: &resolvers };
        let moved = avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host).unwrap();
        assert_eq!(moved.ipv4.unwrap().subnet, v4("10.0.3.0/24"));
        let explicit = ExplicitSubnets { ipv4: true, ipv6: true };
        let error = avoid_collisions(LinkConfig::default(), explicit, host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnet 10.0.2.0/24 contains the host's DNS resolver 10.0.2.3; choose another with --cidr"
        );
    }

    #[test]
    fn host_without_a_free_candidate_is_told_to_name_one() {
        let interfaces = [interface("10.0.0.1/8"), interface("172.16.0.1/12"), interface("192.168.0.1/16")];
        let error = avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host(&interfaces))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "each of the 10 default IPv4 subnets is in use on this host; choose a free one with --cidr"
        );
        let interfaces = [interface("fd40:6ce4:2b9f::1/48")];
        let error = avoid_collisions(LinkConfig::default(), ExplicitSubnets::default(), host(&interfaces))
            .unwrap_err();
        assert!(error.to_string().contains("8 default IPv6"), "{error}");
    }

    #[test]
    fn switched_off_family_is_not_checked() {
        let link = LinkConfig { ipv6: None, ..LinkConfig::default() };
        let interfaces = [interface("fd40:6ce4:2b9f::1/48")];
        assert_eq!(avoid_collisions(link.clone(), ExplicitSubnets::default(), host(&interfaces)), Ok(link));
    }

    #[test]
    fn every_candidate_is_a_usable_private_subnet_and_distinct() {
        for (place, subnet) in IPV4_CANDIDATES.into_iter().enumerate() {
            assert!(Ipv4Link::from_cidr(subnet).is_ok(), "{subnet}");
            assert!(subnet.addr().is_private(), "{subnet}");
            assert!(!IPV4_CANDIDATES[..place].contains(&subnet), "{subnet}");
        }
        for subnet_id in 0..IPV6_CANDIDATES {
            let prefix = ipv6_candidate(subnet_id);
            assert!(Ipv6Link::from_cidr(prefix).is_ok() && prefix.addr().is_unique_local(), "{prefix}");
        }
    }
}
