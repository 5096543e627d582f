//! The container's side of a start-up, in a forked child: its namespaces, its TAP, its addresses.
//!
//! Everything here happens in the container's network namespace, so that nothing of the host is touched, and
//! goes away with the process that holds it: the device with its last descriptor, new namespaces with their
//! last process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::net::IpAddr;

use tracing::{debug, warn};

use super::handshake::{HandshakeError, Line, Word};
use super::host_copy::Copied;
use crate::cli::Configuration;
use crate::config::limits::LINK_QUEUE_FRAMES;
use crate::config::{LinkConfig, Segment};
use crate::observe::log::say;
use crate::sys::loose_tap::{self, LooseTapError};
use crate::sys::mounts::{self, MountError};
use crate::sys::namespace::{self, NamespaceError, Namespaces};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::process::{self, SignalMask};
use crate::sys::resolv_conf::ResolvConf;
use crate::sys::sysctl;
use crate::sys::tap::{Tap, TapError, TapFeatures};

/// The command's status when it was never started because the process outside gave up.
const GIVEN_UP: i32 = 1;

/// What the container is to have.
#[derive(Debug)]
pub struct Container<'a> {
    /// The segment.
    pub link: &'a LinkConfig,
    /// What it has of the host's network, where that is not a private one.
    pub copied: Option<&'a Copied>,
    /// Name of its TAP.
    pub tap_name: &'a str,
    /// Whether its end shows in nothing but the end of its namespace, which the TAP must not keep then.
    pub ends_with_namespace: bool,
    /// What to ask of the TAP.
    pub tap_features: TapFeatures,
    /// How many queues the TAP has.
    pub queues: usize,
    /// Whether it is to have a TAP at all.
    pub has_link: bool,
    /// Who configures it.
    pub configuration: Configuration,
}

/// The command of `netferry run`, and what it is to be born with.
#[derive(Debug)]
pub struct Command<'a> {
    /// Program and arguments.
    pub words: &'a [OsString],
    /// Signals blocked before we blocked ours.
    pub mask: SignalMask,
    /// The host's resolver settings, of which the search list is passed on.
    pub host_resolv_conf: &'a ResolvConf,
}

#[derive(Debug, thiserror::Error)]
enum ContainerError {
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Tap(#[from] TapError),
    #[error(transparent)]
    LooseTap(#[from] LooseTapError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("{0}")]
    Orphaned(std::io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl Container<'_> {
    /// The child of `netferry run`: makes the namespaces, sets them up, and becomes the command. Returns the
    /// status to end with where it does not come to that. `parent` is the process outside.
    pub fn run_command(&self, line: Line, command: &Command<'_>, parent: u32) -> i32 {
        if let Err(error) = self.make(&line, command, parent) {
            return give_up(&line, &error);
        }
        if line.hear(Word::Go).is_err() {
            return GIVEN_UP;
        }
        drop(line);
        match process::exec(command.words, &command.mask) {
            Err(error) => {
                say(&error.to_string());
                error.shell_status()
            }
            Ok(never) => absurd(never),
        }
    }

    /// The child of `netferry attach`: enters the namespaces, sets them up, hands the TAP over and ends.
    pub fn join(&self, line: Line, namespaces: &Namespaces, parent: u32) -> i32 {
        match self.enter(&line, namespaces, parent) {
            Ok(()) => 0,
            Err(error) => give_up(&line, &error),
        }
    }

    fn make(&self, line: &Line, command: &Command<'_>, parent: u32) -> Result<(), ContainerError> {
        line.hear(Word::Begin)?;
        namespace::unshare_user_net_mount()?;
        super::die_with(parent).map_err(ContainerError::Orphaned)?;
        line.say(Word::Unmapped)?;
        line.hear(Word::Mapped)?;
        mounts::make_private()?;
        if !mounts::show_own_sysfs() {
            debug!("/sys of the container is the host's: it could not be mounted anew");
        }
        self.replace_resolv_conf(command.host_resolv_conf);
        let allowed = (sysctl::permit_ping(), sysctl::permit_low_ports());
        debug!(ping = allowed.0, low_ports = allowed.1, "the container's own sysctls");
        if !self.has_link {
            return Ok(line.say(Word::Configured)?);
        }
        let queues = Tap::open_queues(self.tap_name, self.tap_features, self.queues)?;
        self.configure()?;
        Ok(line.hand_over(&queues)?)
    }

    fn enter(&self, line: &Line, namespaces: &Namespaces, parent: u32) -> Result<(), ContainerError> {
        line.hear(Word::Begin)?;
        namespaces.enter()?;
        super::die_with(parent).map_err(ContainerError::Orphaned)?;
        if !self.has_link {
            return Ok(line.say(Word::Configured)?);
        }
        let queues = if self.ends_with_namespace {
            loose_tap::open(self.tap_name, self.tap_features, self.queues)?
        } else {
            // Moving a device takes the kernel 20 ms, which are saved where a process tells the end.
            Tap::open_queues(self.tap_name, self.tap_features, self.queues)?
        };
        match self.configuration {
            Configuration::Ours => self.configure()?,
            Configuration::Others => {
                let mut netlink = Netlink::open()?;
                let index = netlink.link_index(self.tap_name)?;
                lengthen_queue(&mut netlink, index);
            }
        }
        Ok(line.hand_over(&queues)?)
    }

    /// Gives the TAP, which is in the current network namespace, its addresses.
    fn configure(&self) -> Result<(), ContainerError> {
        let mut netlink = Netlink::open()?;
        let loopback = netlink.link_index("lo")?;
        netlink.set_up(loopback)?;
        let index = netlink.link_index(self.tap_name)?;
        if self.link.ipv6.is_some() && !sysctl::settle_ipv6(self.tap_name) {
            debug!("IPv6 of the container may take a second to settle");
        }
        if let Some(mac) = self.link.container_mac {
            netlink.set_mac(index, mac.0)?;
        }
        netlink.set_mtu(index, self.link.mtu.into())?;
        lengthen_queue(&mut netlink, index);
        if let Some(copied) = self.copied {
            return Ok(copied.configure(&mut netlink, index)?);
        }
        for (address, prefix_len) in container_addresses(self.link) {
            netlink.add_address(index, address, prefix_len, true)?;
        }
        netlink.set_up(index)?;
        if let Some(ipv4) = self.link.ipv4 {
            netlink.add_default_route(index, ipv4.gateway.into())?;
        }
        if let Some(ipv6) = self.link.ipv6 {
            netlink.add_default_route(index, ipv6.gateway_link_local.into())?;
        }
        Ok(())
    }

    /// Without it the command has a network all the same, and names to look up elsewhere.
    fn replace_resolv_conf(&self, host: &ResolvConf) {
        if dns_addresses(self.link).is_empty() {
            // The container reaches the host's resolvers as the host does.
            return;
        }
        if let Err(error) = mounts::bind_resolv_conf(&resolv_conf_text(self.link, host)) {
            warn!("the command sees the host's /etc/resolv.conf: {error}");
        }
    }
}

/// With the queue that the kernel gives it, an interface works as well, but for bursts.
fn lengthen_queue(netlink: &mut Netlink, index: u32) {
    if let Err(error) = netlink.set_queue_length(index, LINK_QUEUE_FRAMES) {
        debug!(%error, "the interface keeps its queue");
    }
}

/// The container's addresses with the length of their prefix.
pub fn container_addresses(link: &LinkConfig) -> Vec<(IpAddr, u8)> {
    let ipv4 = link.ipv4.map(|ipv4| (ipv4.container.into(), ipv4.subnet.prefix_len()));
    let ipv6 = link.ipv6.map(|ipv6| (ipv6.container.into(), ipv6.prefix.prefix_len()));
    ipv4.into_iter().chain(ipv6).collect()
}

/// The addresses at which the container asks for names.
pub fn dns_addresses(link: &LinkConfig) -> Vec<IpAddr> {
    let ipv4 = link.ipv4.and_then(|ipv4| ipv4.dns).map(IpAddr::from);
    let ipv6 = link.ipv6.and_then(|ipv6| ipv6.dns).map(IpAddr::from);
    ipv4.into_iter().chain(ipv6).collect()
}

fn resolv_conf_text(link: &LinkConfig, host: &ResolvConf) -> String {
    let mut text = String::new();
    for address in dns_addresses(link) {
        text.push_str(&format!("nameserver {address}\n"));
    }
    let mut options = host.options.clone();
    if matches!(link.segment, Segment::Bridged { .. }) {
        // A container's name has no dot: it is asked for as it is before it is looked for in the host's domains, which would
        // tell it to others.
        options.retain(|option| !option.starts_with("ndots:"));
        options.push("ndots:0".to_owned());
    }
    for (keyword, words) in [("search", &host.search), ("options", &options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

fn give_up(line: &Line, error: &ContainerError) -> i32 {
    // A line that is gone needs no telling: it was the other side that gave up.
    line.fail(&error.to_string());
    GIVEN_UP
}

fn absurd(never: Infallible) -> i32 {
    match never {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_names_our_forwarder_and_the_hosts_search_list() {
        let host = ResolvConf {
            servers: vec!["192.0.2.53:53".parse().unwrap()],
            search: vec!["example.org".into(), "example.net".into()],
            options: vec!["ndots:2".into()],
        };
        let link = LinkConfig::default();
        let dns = link.ipv6.unwrap().dns.unwrap();
        assert_eq!(
            resolv_conf_text(&link, &host),
            format!(
                "nameserver 10.0.2.3\nnameserver {dns}\nsearch example.org example.net\noptions ndots:2\n"
            )
        );
        let link = LinkConfig { ipv6: None, ..link };
        assert_eq!(resolv_conf_text(&link, &ResolvConf::default()), "nameserver 10.0.2.3\n");
    }
}
