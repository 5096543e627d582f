//! A network begins: its subnets are chosen, and a process goes to the background that serves it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use ipnet::IpNet;

use super::super::ClientError;
use super::place::Place;
use crate::cli::native::network::Create;
use crate::cli::{Confinement, HookPlan};
use crate::config::Rules;
use crate::config::address::HostNetworks;
use crate::config::network::wish::{NetworkName, NetworkWish, Surroundings};
use crate::config::network::{NetworkConfig, NetworkRequest};
use crate::control::Server;
use crate::control::native::Client;
use crate::observe::log::say;
use crate::observe::panics;
use crate::run::facts::host_interfaces;
use crate::run::network::{Lifetime, serve};
use crate::run::{Doing, RunError, UNCONFINED, hook, keep_log, policy};
use crate::sys::daemon::{self, Announcer, Fork};
use crate::sys::resolv_conf;
use crate::sys::{janitor, user};

/// `netferry network create`.
pub(super) fn create(place: &Place, asked: &Create) -> Result<u8, ClientError> {
    let wish = NetworkWish {
        subnet: asked.subnet,
        subnet6: asked.subnet6,
        without_ipv6: asked.no_ipv6,
        gateway: asked.gateway,
        gateway6: asked.gateway6,
        mtu: asked.mtu,
        isolated: asked.isolated,
        internal: asked.internal,
        host_loopback: asked.host_loopback,
    };
    let confinement = if asked.no_sandbox { Confinement::None } else { Confinement::Full };
    let parts = asked.rules.resolve().map_err(|error| ClientError::Usage(error.to_string()))?;
    let rules = policy::of_network(&parts)?;
    let lock = place.lock_all()?;
    if place.open(&asked.name)?.is_some() {
        return Err(ClientError::NetworkExists { name: asked.name.to_string() });
    }
    match begin(place, &asked.name, &wish, confinement)? {
        Begun::Started => Ok(0),
        Begun::Failed(status) => Ok(status),
        Begun::Here(network, announcer) => {
            // Ours is a copy: whoever started us keeps it until we are ready.
            drop(lock);
            if let Some((file, verbosity)) = asked.log() {
                keep_log(&file, verbosity)?;
                panics::install();
            }
            let hook = asked.hook().map_err(|error| ClientError::Usage(error.to_string()))?;
            let terms = Terms { rules, hook, confinement, lifetime: Lifetime::UntilRemoved };
            host(place, network, terms, announcer)
        }
    }
}

/// Makes the network if it is not there, as `netferry run --network` does: one that ends with its last container.
pub(super) fn ensure(place: &Place, name: &NetworkName) -> Result<(), ClientError> {
    let lock = place.lock_all()?;
    if place.open(name)?.is_some() {
        return Ok(());
    }
    match begin(place, name, &NetworkWish::default(), Confinement::Full)? {
        Begun::Started => Ok(()),
        Begun::Failed(_) => Err(ClientError::Unusable(format!("network {name} could not be started"))),
        Begun::Here(network, announcer) => {
            drop(lock);
            let terms = Terms {
                rules: Rules::default(),
                hook: None,
                confinement: Confinement::Full,
                lifetime: Lifetime::OfMembers,
            };
            let ended = host(place, network, terms, announcer);
            let status = ended.unwrap_or_else(|error| {
                say(&error.to_string());
                1
            });
            std::process::exit(status.into())
        }
    }
}

/// What came of a fork.
enum Begun {
    /// We asked, and it is there.
    Started,
    /// We asked, and it is not; it has said why.
    Failed(u8),
    /// We are it.
    Here(NetworkConfig, Announcer),
}

fn begin(
    place: &Place,
    name: &NetworkName,
    wish: &NetworkWish,
    confinement: Confinement,
) -> Result<Begun, ClientError> {
    place.clear(name)?;
    let network = plan(place, name, wish)?;
    if confinement == Confinement::None {
        say(UNCONFINED);
    }
    match daemon::fork().doing("go to the background")? {
        Fork::Parent(0) => Ok(Begun::Started),
        Fork::Parent(status) => Ok(Begun::Failed(status)),
        Fork::Child(announcer) => Ok(Begun::Here(network, announcer)),
    }
}

/// The network on subnets that neither the host nor another network has.
fn plan(place: &Place, name: &NetworkName, wish: &NetworkWish) -> Result<NetworkConfig, ClientError> {
    let resolvers = resolv_conf::read(Path::new(resolv_conf::PATH)).doing("read /etc/resolv.conf")?.servers;
    let resolvers: Vec<IpAddr> = resolvers.iter().map(SocketAddr::ip).collect();
    let interfaces: Vec<(IpAddr, u8)> =
        host_interfaces().into_iter().map(|(_, address, prefix_len)| (address, prefix_len)).collect();
    let mut networks: Vec<(IpNet, String)> = Vec::new();
    for other in place.names()? {
        let Some(mut connection) = place.open(&other)? else { continue };
        let status = super::ask(&mut connection, &NetworkRequest::Inspect { brief: true }, &[])?;
        let (config, _) = super::read_status(&status)?;
        networks.extend(config.subnets().map(|subnet| (subnet, config.name.clone())));
    }
    let around = Surroundings {
        host: HostNetworks { interfaces: &interfaces, resolvers: &resolvers },
        networks: &networks,
    };
    NetworkConfig::new(name.clone(), wish, around).map_err(|error| ClientError::Unusable(error.to_string()))
}

/// How it is served.
struct Terms {
    rules: Rules,
    hook: Option<HookPlan>,
    confinement: Confinement,
    lifetime: Lifetime,
}

/// Serves it, in the background.
fn host(
    place: &Place,
    network: NetworkConfig,
    terms: Terms,
    announcer: Announcer,
) -> Result<u8, ClientError> {
    let Terms { rules, hook, confinement, lifetime } = terms;
    let name: NetworkName =
        network.name.parse().map_err(|_| ClientError::Broken("a network without a name".to_owned()))?;
    let path = place.socket(&name);
    let server: Server<Client> = Server::bind("network", &path).map_err(RunError::from)?;
    let filtered = confinement.has_filter();
    let _janitor = janitor::start(&path, filtered).doing("start a process")?;
    let mut server = server.for_user(user::own());
    server.leave_path();
    // Nothing of whoever started us is kept, and they may wait for the end of what they read.
    let hook = hook::start(hook.as_ref(), Stdio::null()).map_err(RunError::from)?;
    serve(network, rules, hook, confinement, lifetime, server, || announcer.ready())?;
    Ok(0)
}
