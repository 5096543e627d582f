//! What those who ask for their settings are told, over DHCP, DHCPv6 and router advertisements alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Config;
use crate::wire::DomainName;

/// What is told beside addresses and routes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Resolvers with an IPv4 address, the best first.
    pub resolvers_ipv4: Vec<Ipv4Addr>,
    /// Resolvers with an IPv6 address, the best first.
    pub resolvers_ipv6: Vec<Ipv6Addr>,
    /// Domains to search, in their order.
    pub search: Vec<DomainName>,
    /// The container's host name.
    pub hostname: Option<String>,
    /// The container's name in full.
    pub fqdn: Option<DomainName>,
}

impl Settings {
    /// What the configuration offers: the link's own DNS addresses where they forward and nothing else is named.
    /// What is no domain name, as a host's own files may have it, is left out.
    #[must_use]
    pub fn of(config: &Config) -> Settings {
        let (link, offers) = (&config.link, &config.offers);
        let own = [
            link.ipv4.and_then(|ipv4| ipv4.dns).map(IpAddr::V4),
            link.ipv6.and_then(|ipv6| ipv6.dns).map(IpAddr::V6),
        ];
        let resolvers: Vec<IpAddr> = match &offers.resolvers {
            Some(resolvers) => resolvers.clone(),
            None if config.services.dns => own.into_iter().flatten().collect(),
            None => Vec::new(),
        };
        let ipv4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        };
        let ipv6 = |address: &IpAddr| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(*v6),
        };
        Settings {
            resolvers_ipv4: resolvers.iter().filter_map(ipv4).collect(),
            resolvers_ipv6: resolvers.iter().filter_map(ipv6).collect(),
            search: offers.search.iter().filter_map(|name| DomainName::new(name)).collect(),
            hostname: offers.hostname.clone(),
            fqdn: offers.fqdn.as_deref().and_then(DomainName::new),
        }
    }
}

#[cfg(test)]
pub(in crate::stack) mod tests {
    use super::*;
    use crate::stack::emit::tests::link_config;

    #[test]
    fn the_links_own_resolver_is_told_unless_others_are_named_or_it_does_not_forward() {
        let mut config = Config::on(link_config());
        let (ipv4, ipv6) = (config.link.ipv4.unwrap().dns.unwrap(), config.link.ipv6.unwrap().dns.unwrap());
        let settings = Settings::of(&config);
        assert_eq!((settings.resolvers_ipv4, settings.resolvers_ipv6), (vec![ipv4], vec![ipv6]));
        config.services.dns = false;
        assert_eq!(Settings::of(&config), Settings::default());
        config.offers.resolvers = Some(vec!["192.0.2.53".parse().unwrap()]);
        let settings = Settings::of(&config);
        assert_eq!(settings.resolvers_ipv4, [Ipv4Addr::new(192, 0, 2, 53)]);
        assert!(settings.resolvers_ipv6.is_empty());
    }
}
