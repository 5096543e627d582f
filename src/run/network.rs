//! The process that serves a network of several containers.
//!
//! One process for each network, so that networks share nothing that a container could get hold of, and a fault ends one of them.
//! Its first thread, whose loop is here, moves no packet: it answers requests, watches the containers' processes, and tells
//! the others of new resolvers. Each container has a thread of its own ([`members`]), so that limits, turns and faults are those of
//! one container, and several processors serve several.
//!
//! The process is confined as any relay is before it takes its first request, and enters no namespace: who connects a container
//! opens and configures its TAP there, and hands over the descriptor. It ends by a request or a signal, and with it all that
//! it had: TAPs, ports, threads.

mod hook;
pub mod members;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tracing::{debug, info};

use self::hook::Hub;
use self::members::{Members, Outcome, Terms};
use super::facts::host_interfaces;
use super::hook::Started;
use super::supervise::reaction_to;
use super::{Doing, RunError};
use crate::cli::Confinement;
use crate::config::limits::MAILBOX;
use crate::config::network::{NetworkConfig, NetworkReply};
use crate::config::{Limits, Rules};
use crate::control::native::{Answer, Client};
use crate::control::{ClientName, Server, network as language};
use crate::stack::boundary::{Duration, Instant};
use crate::sys::confined::{Confined, Sandboxed, Waiver};
use crate::sys::host;
use crate::sys::memory;
use crate::sys::netlink::watch::AddressWatch;
use crate::sys::process::{self, Signals};
use crate::sys::resolv_conf::{self, ResolvConfWatch};
use crate::sys::sandbox::{self, SandboxPlan};
use crate::sys::seccomp::{self, Calls};
use crate::sys::text;
use crate::worker::Reaction;
use crate::worker::clock::Clock;
use crate::worker::mailbox::Mailbox;

const BELL: Token = Token(0);
const REQUESTS: Token = Token(1);
const SIGNALS: Token = Token(2);
const RESOLVERS: Token = Token(3);
const ADDRESSES: Token = Token(4);
/// Processes of members have tokens from here on.
const FIRST_PROCESS: usize = 16;
/// And those who ask the hook from here on.
const HOOK: Token = Token(usize::MAX / 2);

const EVENTS_PER_TURN: usize = 128;

/// How many members may each be as large as they may: the descriptors and the memory of the process are dealt out for so many.
/// Most are small.
const LARGE_MEMBERS: u64 = 16;

/// How long the end waits for the threads, and for whoever asked for it to be told.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// When a network ends, unless it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Not before.
    UntilRemoved,
    /// With its last container, or when none has come for a while.
    OfMembers,
}

/// How long a network that ends with its last container waits for its first.
const FIRST_MEMBER_PATIENCE: Duration = Duration::from_secs(30);

/// Serves a network until it is removed, or a signal; `ready` is called when requests are taken.
pub fn serve(
    network: NetworkConfig,
    rules: Rules,
    hook: Option<Started>,
    confinement: Confinement,
    lifetime: Lifetime,
    requests: Server<Client>,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), RunError> {
    process::block_signals(&process::ENDING_SIGNALS).doing("block signals")?;
    let signals = Signals::open(&process::ENDING_SIGNALS).doing("watch signals")?;
    let pid = std::process::id();
    let limits = share_of_limits()?;
    let follows_resolvers = !network.internal;
    let path = Path::new(resolv_conf::PATH);
    let resolvers = resolv_conf::read(path).doing("read /etc/resolv.conf")?.servers;
    let watch = follows_resolvers.then(|| ResolvConfWatch::open(path)).transpose();
    let watch = watch.unwrap_or_else(|error| {
        debug!(%error, "changes of /etc/resolv.conf are not followed");
        None
    });
    let addresses = AddressWatch::open()
        .inspect_err(|error| debug!(%error, "addresses that the host loses are not noticed"))
        .ok();
    let host_addresses = host_interfaces().into_iter().map(|(_, address, _)| address).collect();
    let poll = Poll::new().doing("watch requests")?;
    let answers = Mailbox::open(poll.registry(), BELL, MAILBOX).doing("watch the threads")?;
    let watched = [
        Some((requests.as_raw_fd(), REQUESTS)),
        Some((signals.as_fd().as_raw_fd(), SIGNALS)),
        watch.as_ref().map(|watch| (watch.as_fd().as_raw_fd(), RESOLVERS)),
        addresses.as_ref().map(|watch| (watch.as_fd().as_raw_fd(), ADDRESSES)),
    ];
    for (descriptor, token) in watched.into_iter().flatten() {
        let registered = poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE);
        registered.doing("watch requests")?;
    }
    let sandboxed = leave_files(confinement, follows_resolvers)?;
    // Going to the background takes calls that serving does not.
    ready().doing("tell that the network is there")?;
    let confined = match confinement {
        Confinement::None => Confined::waived(sandboxed, Waiver::OfUser),
        Confinement::Full | Confinement::OfFace { .. } => seccomp::install(Calls::Network, sandboxed)?,
    };
    info!(network = network.name, "ready");
    let terms = Terms { network, limits, host_addresses, confined, pid, rules };
    let registry = poll.registry().try_clone().doing("watch requests")?;
    let hub = |started| Hub::new(started, poll.registry().try_clone()?, HOOK);
    let hook = hook.map(hub).transpose().doing("watch the hook")?;
    let members = Members::new(terms, resolvers.clone(), registry, FIRST_PROCESS, answers.postbox());
    let members = members.with_hook(hook);
    let clock = Clock::start();
    let now = clock.now();
    let mut serving = Serving {
        poll,
        clock,
        now,
        requests,
        has_requests: true,
        answers,
        members,
        signals,
        watch,
        addresses,
        resolvers,
        asked: BTreeMap::new(),
        ending: None,
        lonely: (lifetime == Lifetime::OfMembers).then_some(now + FIRST_MEMBER_PATIENCE),
        had_members: false,
    };
    text::forget_start();
    serving.run().doing("wait for events")
}

/// What one member may hold.
fn share_of_limits() -> Result<Limits, RunError> {
    let descriptors = host::raise_descriptor_limit().doing("read the limit of descriptors")?;
    let limits = Limits::default().within_descriptors(descriptors / LARGE_MEMBERS);
    Ok(match memory::available_bytes() {
        Some(bytes) => limits.within_memory(bytes / LARGE_MEMBERS),
        None => limits,
    })
}

fn leave_files(confinement: Confinement, follows_resolvers: bool) -> Result<Sandboxed, RunError> {
    if confinement == Confinement::None {
        return Ok(Sandboxed::waived(Waiver::OfUser));
    }
    let files = if follows_resolvers { vec![Path::new(resolv_conf::PATH)] } else { Vec::new() };
    Ok(sandbox::enter(&SandboxPlan { files, container_userns: None, low_ports: true })?)
}

/// The loop and what it turns between.
struct Serving {
    poll: Poll,
    clock: Clock,
    now: Instant,
    requests: Server<Client>,
    /// Requests may wait that were not taken in their turn.
    has_requests: bool,
    answers: Mailbox<crate::worker::mailbox::Answer>,
    members: Members,
    signals: Signals,
    watch: Option<ResolvConfWatch>,
    addresses: Option<AddressWatch>,
    resolvers: Vec<SocketAddr>,
    /// Who waits for the reply with a ticket.
    asked: BTreeMap<u64, ClientName>,
    /// The end is near, and comes by then at the latest.
    ending: Option<Instant>,
    /// A network that ends with its last container ends by then without any.
    lonely: Option<Instant>,
    had_members: bool,
}

impl Serving {
    fn run(&mut self) -> std::io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error),
                Err(_) => events.clear(),
                Ok(()) => {}
            }
            self.now = self.clock.now();
            for event in &events {
                match event.token() {
                    BELL => self.answers.note_bell(),
                    REQUESTS => self.has_requests = true,
                    SIGNALS => self.take_signals(),
                    RESOLVERS => self.read_resolvers(),
                    ADDRESSES => self.note_lost_addresses(),
                    other => {
                        if !self.members.note_hook(other) {
                            self.members.process_ended(other);
                        }
                    }
                }
            }
            while let Some(answer) = self.answers.next_letter() {
                self.members.handle_answer(answer);
            }
            self.take_requests();
            self.reply();
            self.members.serve_hook();
            if self.is_deserted() || self.is_over() {
                return Ok(());
            }
        }
    }

    fn patience(&self) -> Option<std::time::Duration> {
        if self.has_requests || self.members.has_hook_to_serve() {
            return Some(std::time::Duration::ZERO);
        }
        let lonely = self.lonely.filter(|_| !self.had_members && !self.requests.has_clients());
        let deadline = self.requests.poll_timeout().into_iter().chain(self.ending).chain(lonely).min()?;
        let wait = deadline.total_micros().saturating_sub(self.clock.now().total_micros());
        Some(std::time::Duration::from_micros(u64::try_from(wait).unwrap_or(0)))
    }

    /// Whether whoever was to be served has gone, or never came. Who is connected may be about to bring somebody; who only
    /// wants to be finds nobody, and makes the network anew.
    fn is_deserted(&mut self) -> bool {
        let Some(lonely) = self.lonely else { return false };
        self.had_members |= !self.members.is_empty();
        let is_empty = self.members.is_empty() && !self.requests.has_clients();
        is_empty && (self.had_members || lonely <= self.now)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(received)) = self.signals.next() {
            info!(signal = %received.signal, "ended by a signal");
            self.members.end();
        }
    }

    fn read_resolvers(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        if !watch.drain() {
            return;
        }
        match resolv_conf::read_again(Path::new(resolv_conf::PATH)) {
            Ok(Some(conf)) if conf.servers != self.resolvers => {
                debug!(resolvers = ?conf.servers, "the host's resolvers changed");
                self.resolvers.clone_from(&conf.servers);
                self.members.resolvers_changed(conf.servers);
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "the host's resolv.conf cannot be read"),
        }
    }

    fn note_lost_addresses(&mut self) {
        let Some(watch) = &self.addresses else { return };
        let reaction = reaction_to(watch);
        if reaction != Reaction::Continue {
            self.members.tell_all(&reaction);
        }
    }

    fn take_requests(&mut self) {
        let is_late = self.requests.poll_timeout().is_some_and(|deadline| deadline <= self.now);
        if !self.has_requests && !is_late {
            return;
        }
        let (members, asked, now) = (&mut self.members, &mut self.asked, self.now);
        self.has_requests = self.requests.handle_events(self.now, |client, request| {
            let outcome = request.and_then(|mut request| {
                if !language::is_about_network(&request.name) {
                    return members.inquire(request, now);
                }
                let descriptors = std::mem::take(&mut request.descriptors);
                Ok(members.handle_request(language::decode(&request)?, descriptors))
            });
            match outcome {
                Err(refusal) => Answer::Refused(refusal),
                Ok(Outcome::Now(reply)) => answer_of(&reply),
                Ok(Outcome::Said(answer)) => answer,
                Ok(Outcome::Later(ticket)) => {
                    asked.insert(ticket, client);
                    Answer::Later
                }
            }
        });
    }

    /// Tells what could not be told at once.
    fn reply(&mut self) {
        while let Some((ticket, reply)) = self.members.take_reply() {
            self.tell(ticket, &answer_of(&reply));
        }
        while let Some((ticket, answer)) = self.members.take_said() {
            self.tell(ticket, &answer);
        }
    }

    fn tell(&mut self, ticket: u64, answer: &Answer) {
        let Some(client) = self.asked.remove(&ticket) else { return };
        if self.requests.with_client(client, |client| client.answer(answer)).is_some() {
            self.has_requests = true;
        }
    }

    /// Whether nobody is left, and nobody waits to be told so.
    fn is_over(&mut self) -> bool {
        if !self.members.is_ending() {
            return false;
        }
        let deadline = *self.ending.get_or_insert(self.now + END_PATIENCE);
        (self.members.is_over() && !self.has_requests) || self.now >= deadline
    }
}

fn answer_of(reply: &NetworkReply) -> Answer {
    language::encode_reply(reply).map(Answer::Once).unwrap_or_else(Answer::Refused)
}
