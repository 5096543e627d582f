//! A container comes to a network: its address is chosen, its interface made, and that handed over.
//!
//! All under the lock of the network's members, so that nobody else chooses the same address meanwhile. What fails on the way leaves
//! nothing: the interface goes with its descriptor, and what the network has not taken it does not know.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::super::{ClientError, Connection};
use super::place::{Lock, Place};
use crate::cli::native::network::{Connect, Wants};
use crate::cli::{AttachTarget, Configuration, RulePart, RunOnNetwork, values};
use crate::config::network::lease::{Admission, lease};
use crate::config::network::wish::NetworkName;
use crate::config::network::{Member, NetworkConfig, NetworkRequest};
use crate::config::publish::{self, PublishSpec};
use crate::config::{InterfaceName, Limits, LinkConfig, PublishRule};
use crate::control::network as language;
use crate::observe::audit::AuditFile;
use crate::run::container::{Command, Container};
use crate::run::handshake::{HandshakeError, Line, Word};
use crate::run::supervise::Supervised;
use crate::run::{Doing, RunError, end, fork, namespace_of, policy, shell};
use crate::sys::host;
use crate::sys::id_map::{IdMapping, write_id_maps};
use crate::sys::messenger;
use crate::sys::namespace::NamespaceTarget;
use crate::sys::process::{self, Child, FORWARDED_SIGNALS, Signals};
use crate::sys::resolv_conf::{self, ResolvConf};
use crate::sys::tap::TapFeatures;

/// How often a network is made anew that ends just when it is found.
const ATTEMPTS: usize = 10;

/// A network as it is, while nobody else can connect to it.
struct Joining {
    connection: Connection,
    network: NetworkConfig,
    present: Vec<Member>,
    /// Where it is to be written down where the container goes.
    audit: Option<File>,
    _lock: Lock,
}

impl Joining {
    fn begin(place: &Place, name: &NetworkName) -> Result<Joining, ClientError> {
        let lock = place.lock_members(name)?;
        let mut connection = place.reach(name)?;
        let status = super::ask(&mut connection, &NetworkRequest::Inspect { brief: true }, &[])?;
        let (network, present) = super::read_status(&status)?;
        Ok(Joining { connection, network, present, audit: None, _lock: lock })
    }

    /// The same, and makes the network if it is not there. One that ends with its last container may do so at any moment until
    /// it has answered us; then it is made anew.
    fn begin_on_any(place: &Place, name: &NetworkName) -> Result<Joining, ClientError> {
        for _ in 1..ATTEMPTS {
            super::ensure(place, name)?;
            match Joining::begin(place, name) {
                Err(ClientError::NoNetwork { .. }) => {}
                Err(ClientError::Connect { source, .. }) if is_farewell(&source) => {}
                joining => return joining,
            }
        }
        super::ensure(place, name)?;
        Joining::begin(place, name)
    }

    /// Who the container will be.
    fn member(
        &mut self,
        wants: &Wants,
        interface: InterfaceName,
        specs: &[PublishSpec],
        own_rules: &[RulePart],
        audit: Option<&Path>,
    ) -> Result<Member, ClientError> {
        let [random, ..] = host::random_secret().map_err(|source| ClientError::Place { source })?;
        let wanted = Admission {
            name: wants.name.clone(),
            aliases: wants.alias.clone(),
            ipv4: wants.ip,
            ipv6: wants.ip6,
            interface,
            publish: rules(&self.network, specs)?,
            rules: Arc::new(policy::of_network(own_rules)?),
            audited: audit.is_some(),
        };
        let id = format!("{:012x}", random >> 16);
        self.audit = audit.map(AuditFile::open).transpose().map_err(RunError::from)?;
        lease(&self.network, &self.present, id, wanted)
            .map_err(|error| ClientError::Unusable(error.to_string()))
    }

    /// Hands the interface over; from then on the network serves it.
    fn hand_over(
        mut self,
        member: Member,
        tap: &OwnedFd,
        process: Option<&OwnedFd>,
    ) -> Result<(), ClientError> {
        let mut descriptors: Vec<_> = [Some(tap), process].into_iter().flatten().map(AsFd::as_fd).collect();
        descriptors.extend(self.audit.as_ref().map(AsFd::as_fd));
        super::ask(&mut self.connection, &NetworkRequest::Connect(member), &descriptors).map(|_| ())
    }
}

/// Whether a conversation has ended because the other side has.
fn is_farewell(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// The rules of ports on a network: what its families allow.
pub(super) fn rules(network: &NetworkConfig, specs: &[PublishSpec]) -> Result<Vec<PublishRule>, ClientError> {
    let ipv4 = network.ipv4.map(|ipv4| crate::config::Ipv4Link {
        subnet: ipv4.subnet,
        gateway: ipv4.gateway,
        dns: None,
        container: ipv4.gateway,
    });
    // Of the link only the families matter.
    let mut link = LinkConfig { ipv4, ..LinkConfig::default() };
    link.ipv6 = link.ipv6.filter(|_| network.ipv6.is_some());
    publish::resolve(specs, &link, Limits::default().published_ports)
        .map_err(|error| ClientError::Unusable(error.to_string()))
}

fn container<'a>(link: &'a LinkConfig, member: &'a Member, ends_with_namespace: bool) -> Container<'a> {
    Container {
        link,
        copied: None,
        tap_name: &member.interface,
        ends_with_namespace,
        tap_features: TapFeatures::ALL,
        queues: 1,
        has_link: true,
        configuration: Configuration::Ours,
    }
}

fn tap_of(line: &Line) -> Result<OwnedFd, RunError> {
    let descriptor = line.hear(Word::Configured)?;
    Ok(descriptor.ok_or(HandshakeError::Gone)?)
}

/// `netferry network connect`.
pub(super) fn connect(place: &Place, asked: &Connect) -> Result<u8, ClientError> {
    let target = values::attach_target(asked.target.clone())
        .map_err(|error| ClientError::Unusable(error.to_string()))?;
    let (target, pid) = match target {
        AttachTarget::Pid(pid) => (NamespaceTarget::Pid(pid), Some(pid)),
        AttachTarget::Path(netns) => (NamespaceTarget::Paths { netns, userns: asked.userns.clone() }, None),
        AttachTarget::TapFd(_) | AttachTarget::Bess(_) => {
            return Err(ClientError::Unusable("a network is for namespaces".to_owned()));
        }
    };
    let mut joining = Joining::begin(place, &asked.network)?;
    let own_rules = asked.rules.resolve().map_err(|error| ClientError::Usage(error.to_string()))?;
    let mut member =
        joining.member(&asked.wants, asked.interface, &asked.publish, &own_rules, asked.audit.as_deref())?;
    // First of all: the namespace is that process's only as long as it lives.
    let watched = pid.map(process::watch_process).transpose().doing("watch the process of the namespace");
    let namespaces = target.open().map_err(RunError::from)?;
    let watched = watched?;
    (member.pid, member.namespace) = (pid, namespaces.inode());
    let link = joining.network.link_of(&member);
    let container = container(&link, &member, pid.is_none());
    let parent = std::process::id();
    let (child, line) = fork(|line| container.join(line, &namespaces, parent))?;
    let made = line.say(Word::Begin).map_err(RunError::from).and_then(|()| tap_of(&line));
    drop(line);
    let tap = match made {
        Ok(tap) => tap,
        Err(error) => {
            end(child);
            return Err(error.into());
        }
    };
    child.wait().doing("wait for the set-up process")?;
    // Held open, they would outlive the container.
    drop(namespaces);
    joining.hand_over(member, &tap, watched.as_ref())?;
    Ok(0)
}

/// `netferry run --network`.
pub fn run(asked: &RunOnNetwork) -> Result<u8, ClientError> {
    let place = Place::own()?;
    let mut joining = Joining::begin_on_any(&place, &asked.network)?;
    let member = joining.member(
        &asked.wants,
        asked.interface,
        &asked.publish,
        &asked.rules,
        asked.audit.as_deref(),
    )?;
    let link = joining.network.link_of(&member);
    let host = resolv_conf::read(Path::new(resolv_conf::PATH)).doing("read /etc/resolv.conf")?;
    Ok(run_member(asked, joining, member, &link, &host)?)
}

fn run_member(
    asked: &RunOnNetwork,
    joining: Joining,
    member: Member,
    link: &LinkConfig,
    host: &ResolvConf,
) -> Result<u8, RunError> {
    let mapping = IdMapping::root_with_ranges()?;
    let words: Vec<OsString> = if asked.command.is_empty() { vec![shell()] } else { asked.command.clone() };
    let mask = process::block_signals(&FORWARDED_SIGNALS).doing("block signals")?;
    let signals = Signals::open(&FORWARDED_SIGNALS).doing("watch signals")?;
    let inside = member.clone();
    let container = container(link, &inside, false);
    let command = Command { words: &words, mask, host_resolv_conf: host };
    let parent = std::process::id();
    let (child, line) = fork(|line| container.run_command(line, &command, parent))?;
    let messenger = match messenger::start(&child, true) {
        Ok(messenger) => messenger,
        Err(error) => {
            end(child);
            return Err(error).doing("start a process");
        }
    };
    let supervised = Supervised { signals, child: &child, messenger };
    match begin(joining, member, &mapping, &child, line) {
        Ok(()) => supervised.wait().doing("wait for the command"),
        Err(error) => {
            drop(supervised);
            let _ = child.wait();
            Err(error)
        }
    }
}

fn begin(
    joining: Joining,
    mut member: Member,
    mapping: &IdMapping,
    child: &Child,
    line: Line,
) -> Result<(), RunError> {
    line.say(Word::Begin)?;
    line.hear(Word::Unmapped)?;
    write_id_maps(child.pid(), mapping)?;
    line.say(Word::Mapped)?;
    let tap = tap_of(&line)?;
    let watched = process::watch_process(child.pid()).doing("watch the command")?;
    (member.pid, member.namespace) = (Some(child.pid()), namespace_of(child.pid()));
    joining.hand_over(member, &tap, Some(&watched)).map_err(|error| RunError::Network(error.to_string()))?;
    drop(tap);
    line.say(Word::Go)?;
    Ok(())
}

/// What a network tells of itself, and who is on it.
pub(super) fn read_status(status: &Value) -> Result<(NetworkConfig, Vec<Member>), ClientError> {
    let broken = |refusal: crate::control::native::Refusal| ClientError::Broken(refusal.message);
    let network = language::config_of(status).map_err(broken)?;
    Ok((network, language::members_of(status).map_err(broken)?))
}
