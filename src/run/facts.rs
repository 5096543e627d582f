//! What has to be known of the host before anything is made.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ipnet::IpNet;
use tracing::{debug, info};

use super::container::Container;
use super::host_copy::{Copied, CopyError, HostNetwork};
use super::{
    Doing, IPV6_SYSCTLS, RunError, configuration, ends_with_namespace, host_copy, policy, tap_features,
    workers,
};
use crate::cli::{self, Collisions, Configuration, OutboundSources, Plan};
use crate::config::address::{HostNetworks, avoid_collisions, random_mac};
use crate::config::{DhcpPool, LinkConfig, Offers, OutboundAddresses, Rules, Segment, Services};
use crate::sys::host;
use crate::sys::memory;
use crate::sys::netlink::Netlink;
use crate::sys::resolv_conf::{self, ResolvConf};

/// What has to be known of the host before anything is made.
pub(super) struct Facts {
    /// Free of collisions with the host's networks, or copied from one of them.
    pub(super) link: LinkConfig,
    pub(super) tap_name: String,
    pub(super) copied: Option<Copied>,
    pub(super) services: Services,
    pub(super) offers: Offers,
    pub(super) host_addresses: Vec<IpAddr>,
    pub(super) host_networks: Vec<IpNet>,
    pub(super) rules: Rules,
    /// Raised if the container goes where it may not.
    pub(super) drifted: Option<Arc<AtomicBool>>,
    pub(super) outbound: OutboundAddresses,
    pub(super) resolv_conf: ResolvConf,
    pub(super) resolvers: Vec<SocketAddr>,
    /// Bytes that there are for us, where the host tells; from a sandbox it cannot be seen.
    pub(super) memory: Option<u64>,
}

impl Facts {
    pub(super) fn gather(plan: &Plan) -> Result<Facts, RunError> {
        let resolv_conf = resolv_conf::read(Path::new(resolv_conf::PATH)).doing("read /etc/resolv.conf")?;
        let resolvers = plan.resolvers.clone().unwrap_or_else(|| resolv_conf.servers.clone());
        let interfaces = host_interfaces();
        let copied = match &plan.host_copy {
            None => None,
            Some(copy) => {
                let network = HostNetwork::read().map_err(CopyError::from)?;
                Some(host_copy::resolve(copy, plan.link.clone(), &network)?)
            }
        };
        let mut link = match (&copied, plan.collisions) {
            (Some(copied), _) => copied.link.clone(),
            (None, Collisions::Accept) => plan.link.clone(),
            (None, Collisions::Avoid(explicit)) => {
                let networks: Vec<(IpAddr, u8)> =
                    interfaces.iter().map(|(_, address, prefix_len)| (*address, *prefix_len)).collect();
                let resolvers: Vec<IpAddr> = resolvers.iter().map(SocketAddr::ip).collect();
                let host = HostNetworks { interfaces: &networks, resolvers: &resolvers };
                avoid_collisions(plan.link.clone(), explicit, host)?
            }
        };
        if link.ipv6.is_some() && !Path::new(IPV6_SYSCTLS).exists() {
            info!("this kernel has no IPv6, and neither has the container");
            link.ipv6 = None;
        }
        if configuration(plan) == Configuration::Ours && link.container_mac.is_none() {
            let [random, ..] = host::random_secret().doing("draw a random number")?;
            match link.segment {
                Segment::Private => link.adopt_container_mac(random_mac(random)),
                Segment::Shared(_) | Segment::Bridged { .. } => link.container_mac = Some(random_mac(random)),
            }
        }
        let outbound = outbound_addresses(&plan.outbound, &interfaces)?;
        let on_link = interfaces.iter().filter(|(_, address, _)| !address.is_loopback());
        let host_networks = on_link.filter_map(|(_, address, len)| IpNet::new(*address, *len).ok()).collect();
        let host_addresses = interfaces.into_iter().map(|(_, address, _)| address).collect();
        let tap_name =
            copied.as_ref().map_or_else(|| plan.tap_name.clone(), |copied| copied.tap_name.clone());
        let (mut services, mut offers) = (plan.services, plan.offers.clone());
        if let Some(copy) = &plan.host_copy {
            // The one address that the container has.
            let pool = link.ipv4.map(|ipv4| DhcpPool { first: ipv4.container, last: ipv4.container });
            services.dhcp = pool.filter(|_| copy.offers_dhcp);
            host_copy::complete_offers(&mut offers, copy, &link, &resolv_conf);
        }
        Ok(Facts {
            link,
            tap_name,
            copied,
            services,
            offers,
            host_addresses,
            host_networks,
            rules: policy::read(plan)?,
            drifted: policy::drift(plan),
            outbound,
            resolv_conf,
            resolvers,
            memory: memory::available_bytes(),
        })
    }

    pub(super) fn container<'a>(&'a self, plan: &'a Plan) -> Container<'a> {
        Container {
            link: &self.link,
            copied: self.copied.as_ref(),
            tap_name: &self.tap_name,
            ends_with_namespace: ends_with_namespace(plan),
            tap_features: tap_features(plan),
            queues: workers(plan),
            has_link: !plan.forwarding.splice_only,
            configuration: configuration(plan),
        }
    }
}

/// Index, address and prefix length of each interface; a host that does not tell is taken to have none.
pub(super) fn host_interfaces() -> Vec<(u32, IpAddr, u8)> {
    match Netlink::open().and_then(|mut netlink| netlink.addresses()) {
        Ok(found) => found,
        Err(error) => {
            debug!("the host's networks are unknown: {error}");
            Vec::new()
        }
    }
}

/// The addresses to send from, all of them the host's own.
fn outbound_addresses(
    sources: &OutboundSources,
    interfaces: &[(u32, IpAddr, u8)],
) -> Result<OutboundAddresses, RunError> {
    let own = |address: IpAddr| {
        let found = interfaces.iter().any(|(_, own, _)| *own == address);
        if found { Ok(()) } else { Err(RunError::NoSuchSource { address }) }
    };
    let ipv4 = match &sources.ipv4 {
        None => None,
        Some(cli::Source::Address(address)) => own((*address).into()).map(|()| Some(*address))?,
        Some(cli::Source::Interface(name)) => {
            Some(address_of(name, interfaces, "IPv4", |address| match address {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            })?)
        }
    };
    let ipv6 = match &sources.ipv6 {
        None => None,
        Some(cli::Source::Address(address)) => own((*address).into()).map(|()| Some(*address))?,
        Some(cli::Source::Interface(name)) => {
            Some(address_of(name, interfaces, "IPv6", |address| match address {
                IpAddr::V6(v6) if !v6.is_unicast_link_local() => Some(v6),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            })?)
        }
    };
    Ok(OutboundAddresses { ipv4, ipv6, ipv4_device: sources.ipv4_device, ipv6_device: sources.ipv6_device })
}

fn address_of<A>(
    name: &str,
    interfaces: &[(u32, IpAddr, u8)],
    family: &'static str,
    wanted: impl Fn(IpAddr) -> Option<A>,
) -> Result<A, RunError> {
    let missing = || RunError::NoSourceThere { name: name.to_owned(), family };
    let index = Netlink::open().and_then(|mut netlink| netlink.link_index(name)).map_err(|_| missing())?;
    let own = interfaces.iter().filter(|(place, ..)| *place == index);
    own.filter_map(|(_, address, _)| wanted(*address)).next().ok_or_else(missing)
}
