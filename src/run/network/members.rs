//! The containers on a network: a worker in a thread of its own for each, and how they come and go.
//!
//! A member begins when its TAP is handed over and ends with its process, with its TAP, when it is disconnected, or by a fault of
//! ours. However it ends, its thread does, and with the thread all that it held: the port on the switch, the published ports, the
//! TAP. Only then it is told to be gone ([`Farewell`]), so that whoever has heard that may give its address and its ports to
//! another.
//!
//! What takes its time, because a worker has to do it, is answered later: a request has a *ticket* then, and
//! [`Members::take_reply`] tells the reply with it. What is asked of an instance ([`inquiry`]) the worker itself answers.

mod hooked;
mod inquiry;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tracing::{debug, info, warn};

use self::inquiry::{Reload, both};
use super::hook::Hub;
use crate::config::limits::NETWORK_MEMBERS;
use crate::config::network::{
    Member, MemberStatus, NetworkConfig, NetworkReply, NetworkRequest, NetworkStatus,
};
use crate::config::{Config, DhcpPool, Limits, Offers, PublishRule, Rules, Services};
use crate::control::native;
use crate::observe::audit::AuditFile;
use crate::stack::boundary::{ListenerId, Reply, Request};
use crate::stack::service::names::NameTable;
use crate::sys::confined::Confined;
use crate::sys::host;
use crate::sys::tap::{Tap, TapFeatures};
use crate::worker::audit::Audit;
use crate::worker::mailbox::{Answer, Letter, Postbox, Refusal, Replied};
use crate::worker::switch::{Counters, Switch};
use crate::worker::{ExitReason, Listener, Reaction, Worker};

/// Tells the end of a member from the answers of its worker.
const FAREWELL: u64 = 1 << 63;

/// An answer that nobody waits for.
const NOBODY: u64 = 0;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This.
    Now(NetworkReply),
    /// This, in the language of instances.
    Said(native::Answer),
    /// [`Members::take_reply`] will tell it with this ticket, or [`Members::take_said`].
    Later(u64),
}

/// What does not change while the network is there.
#[derive(Debug)]
pub struct Terms {
    /// The network.
    pub network: NetworkConfig,
    /// What one member may hold.
    pub limits: Limits,
    /// The host's own addresses.
    pub host_addresses: Vec<std::net::IpAddr>,
    /// How far we are confined, and with us each thread.
    pub confined: Confined,
    /// Our process.
    pub pid: u32,
    /// What may go where, for each container.
    pub rules: Rules,
}

/// All containers of a network.
pub struct Members {
    terms: Terms,
    switch: Arc<Switch>,
    running: BTreeMap<u64, Running>,
    next_number: u64,
    next_ticket: u64,
    registry: Registry,
    /// Tokens of their processes begin here.
    first_token: usize,
    answers: Postbox<Answer>,
    resolvers: Vec<SocketAddr>,
    waiting: BTreeMap<u64, Asked>,
    replies: VecDeque<(u64, NetworkReply)>,
    said: VecDeque<(u64, native::Answer)>,
    /// Rules that are about to be those of all.
    reloads: BTreeMap<u64, Reload>,
    /// So many were lost by faults of ours.
    faults: u64,
    /// Those that are to be told when the last member is gone.
    waiting_for_end: Vec<u64>,
    is_ending: bool,
    hook: Option<Hub>,
}

/// One container.
struct Running {
    member: Member,
    published: Vec<(ListenerId, PublishRule)>,
    postbox: Postbox<Letter>,
    counters: Arc<Counters>,
    thread: JoinHandle<io::Result<ExitReason>>,
    process: Option<OwnedFd>,
    /// Who waits for its end.
    waiting: Vec<u64>,
    is_leaving: bool,
}

/// What a worker was asked.
struct Asked {
    number: u64,
    what: Question,
}

enum Question {
    Publish(Vec<PublishRule>),
    Unpublish(Vec<ListenerId>),
    /// What an instance is asked.
    Inquiry,
    /// To take other rules, as part of what was asked with this ticket.
    Reload(u64),
}

/// Says that a member is gone, when its thread has given up all it had.
struct Farewell {
    answers: Postbox<Answer>,
    ticket: u64,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // No port of it is published any more. Where the box is full, the process is at its end.
        let answer = Answer { ticket: self.ticket, reply: Replied::Request(Reply::Listed(Vec::new())) };
        if self.answers.post(answer).is_err() {
            debug!("the end of a member is not told");
        }
    }
}

impl Members {
    /// Nobody yet. `registry` is of the poll that `answers` ring in; events there from `first_token` on are for
    /// [`Self::process_ended`].
    pub fn new(
        terms: Terms,
        resolvers: Vec<SocketAddr>,
        registry: Registry,
        first_token: usize,
        answers: Postbox<Answer>,
    ) -> Members {
        let switch = Switch::new(terms.network.gateway_mac, terms.network.isolated);
        // An internal network asks nobody outside.
        let resolvers = if terms.network.internal { Vec::new() } else { resolvers };
        Members {
            terms,
            switch,
            running: BTreeMap::new(),
            next_number: 0,
            next_ticket: NOBODY + 1,
            registry,
            first_token,
            answers,
            resolvers,
            waiting: BTreeMap::new(),
            replies: VecDeque::new(),
            said: VecDeque::new(),
            reloads: BTreeMap::new(),
            faults: 0,
            waiting_for_end: Vec::new(),
            is_ending: false,
            hook: None,
        }
    }

    /// Carries a request out, or begins to.
    pub fn handle_request(&mut self, request: NetworkRequest, descriptors: Vec<OwnedFd>) -> Outcome {
        let outcome = match request {
            NetworkRequest::Connect(member) => self.connect(member, descriptors).map(Outcome::Now),
            NetworkRequest::Disconnect { id } => self.disconnect(&id),
            NetworkRequest::Publish { id, rules } => self.publish(&id, rules),
            NetworkRequest::Unpublish { id, rules } => self.unpublish(&id, &rules),
            NetworkRequest::Inspect { brief } => {
                let status = self.status();
                let status = if brief { status.briefly() } else { status };
                Ok(Outcome::Now(NetworkReply::Inspected(status)))
            }
            NetworkRequest::Remove { force } => self.remove(force),
        };
        outcome.unwrap_or_else(|reason| Outcome::Now(NetworkReply::Refused(reason)))
    }

    /// The next reply that was promised for later.
    pub fn take_reply(&mut self) -> Option<(u64, NetworkReply)> {
        self.replies.pop_front()
    }

    /// Whether nobody is on the network.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether the network is to end, and nobody is on it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_ending && self.running.is_empty()
    }

    /// Whether the network is to end.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Who is on the network, and what passes between them.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        let members = self.running.values().map(|running| {
            let ports = running.published.iter().map(|(_, rule)| *rule).collect();
            MemberStatus {
                member: Member { publish: ports, ..running.member.clone() },
                frames_sent: running.counters.frames(),
                bytes_sent: running.counters.bytes(),
                dropped: running.counters.drops().map(|(reason, count)| (reason.name(), count)).collect(),
            }
        });
        NetworkStatus { config: self.terms.network.clone(), members: members.collect() }
    }

    /// The host's resolvers are others now.
    pub fn resolvers_changed(&mut self, resolvers: Vec<SocketAddr>) {
        if self.terms.network.internal {
            return;
        }
        self.resolvers = resolvers;
        self.tell_all(&Reaction::ResolversChanged(self.resolvers.clone()));
    }

    /// Something of the host is not as it was.
    pub fn tell_all(&self, reaction: &Reaction) {
        self.running.values().for_each(|running| running.tell(reaction.clone()));
    }

    /// The process with this token has ended.
    pub fn process_ended(&mut self, token: Token) {
        let number = token.0.saturating_sub(self.first_token) as u64;
        if let Some(running) = self.running.get_mut(&number) {
            info!(member = running.member.name, "its process has ended");
            running.leave();
        }
    }

    /// Lets everybody go.
    pub fn end(&mut self) {
        self.is_ending = true;
        self.running.values_mut().for_each(Running::leave);
    }

    fn connect(&mut self, member: Member, descriptors: Vec<OwnedFd>) -> Result<NetworkReply, String> {
        self.check(&member)?;
        let mut descriptors = descriptors;
        let audit = match member.audited {
            true => Some(descriptors.pop().ok_or("no descriptor of an audit came with it")?),
            false => None,
        };
        let mut descriptors = descriptors.into_iter();
        let tap = descriptors.next().ok_or("no descriptor of an interface came with it")?;
        let process = descriptors.next();
        let tap = Tap::from_fd(tap, TapFeatures::ALL).map_err(|error| error.to_string())?;
        let mut listeners = Vec::new();
        for rule in &member.publish {
            listeners.push(Listener::bind(rule, false).map_err(|error| error.to_string())?);
        }
        let rules = both(&self.terms.rules, &member.rules)?;
        let config = self.config_of(&member, rules);
        let identity = self.identity_of(&member);
        let audit = Audit { file: audit.map(|file| AuditFile::new(File::from(file))), drifted: None };
        let link = config.link.clone();
        let port = self.switch.join(&link, member.mac, &tap).map_err(|error| error.to_string())?;
        let counters = port.counters();
        // Its first frame may be a question.
        let names = self.names_with(Some(&member));
        let number = self.next_number;
        let hook = self.hook.as_mut().map(|hook| hook.join(number)).transpose();
        let hook = hook.map_err(|error| format!("cannot have it ask the hook: {error}"))?;
        let begin = || -> io::Result<(Worker, Postbox<Letter>)> {
            let secret = host::random_secret()?;
            let mut worker = Worker::new(Arc::new(config), tap, listeners, self.resolvers.clone(), secret)?
                .with_port(port)
                .with_identity(identity)
                .with_audit(audit)
                .with_names(names);
            if let Some(hook) = hook {
                worker = worker.with_hook(hook)?;
            }
            let postbox = worker.postbox()?;
            Ok((worker, postbox))
        };
        let (worker, postbox) = begin().map_err(|error| format!("cannot watch its interface: {error}"))?;
        // Not to be given twice, even if nothing comes of this.
        self.next_number += 1;
        if let Some(process) = &process {
            let token = Token(self.first_token + usize::try_from(number).unwrap_or(usize::MAX));
            self.registry
                .register(&mut SourceFd(&process.as_raw_fd()), token, Interest::READABLE)
                .map_err(|error| format!("cannot watch its process: {error}"))?;
        }
        let farewell = Farewell { answers: self.answers.clone(), ticket: number | FAREWELL };
        let thread = self.terms.confined.spawn(move |confined| {
            let _farewell = farewell;
            worker.run(Vec::new(), confined)
        });
        let thread = thread.map_err(|error| format!("cannot start a thread for it: {error}"))?;
        let published = (0..).map(ListenerId).zip(member.publish.iter().copied()).collect();
        info!(member = member.name, id = member.id, "connected");
        let running = Running {
            member,
            published,
            postbox,
            counters,
            thread,
            process,
            waiting: Vec::new(),
            is_leaving: false,
        };
        self.running.insert(number, running);
        self.tell_names();
        Ok(NetworkReply::Done)
    }

    /// What the switch does not look at.
    fn check(&self, member: &Member) -> Result<(), String> {
        let network = &self.terms.network;
        if self.is_ending {
            return Err(format!("network {} is being removed", network.name));
        }
        if self.running.len() >= NETWORK_MEMBERS {
            return Err(format!(
                "network {} has {NETWORK_MEMBERS} containers, which is the limit",
                network.name
            ));
        }
        let present = || self.running.values().map(|running| &running.member);
        if present().any(|other| other.id == member.id || other.name == member.name) {
            return Err(format!("{} is on network {} already", member.name, network.name));
        }
        if network.internal && !member.publish.is_empty() {
            return Err(format!("network {} is internal: none of its ports can be published", network.name));
        }
        let is_inside = |family: &str, own: bool, asked: bool, is_contained: bool| match (own, asked) {
            (true, true) if !is_contained => {
                Err(format!("{} is to have an {family} address of another subnet", member.name))
            }
            (true, false) => Err(format!("{} has no {family} address", member.name)),
            (true, true) | (false, _) => Ok(()),
        };
        let ipv4 = network.ipv4.zip(member.ipv4).is_some_and(|(of, address)| of.subnet.contains(&address));
        let ipv6 = network.ipv6.zip(member.ipv6).is_some_and(|(of, address)| of.prefix.contains(&address));
        is_inside("IPv4", network.ipv4.is_some(), member.ipv4.is_some(), ipv4)?;
        is_inside("IPv6", network.ipv6.is_some(), member.ipv6.is_some(), ipv6)
    }

    fn config_of(&self, member: &Member, rules: Rules) -> Config {
        let Terms { network, limits, host_addresses, .. } = &self.terms;
        let link = network.link_of(member);
        // Whoever configures itself gets what it was given.
        let dhcp = link.ipv4.map(|ipv4| DhcpPool { first: ipv4.container, last: ipv4.container });
        Config {
            host_loopback: network.host_loopback,
            services: Services { dhcp, ..Services::default() },
            offers: Offers { hostname: Some(member.name.clone()), ..Offers::default() },
            publish: member.publish.clone(),
            host_addresses: host_addresses.clone(),
            rules,
            audit: member.audited,
            limits: *limits,
            ..Config::on(link)
        }
    }

    /// Tells everybody who is there now.
    fn tell_names(&self) {
        let names = self.names_with(None);
        for running in self.present() {
            running.tell(Reaction::NamesChanged(Arc::clone(&names)));
        }
    }

    fn present(&self) -> impl Iterator<Item = &Running> {
        self.running.values().filter(|running| !running.is_leaving)
    }

    /// Who is there, and who is about to come.
    fn names_with(&self, newcomer: Option<&Member>) -> Arc<NameTable> {
        let present = self.present().map(|running| &running.member);
        Arc::new(NameTable::of(present.chain(newcomer)))
    }

    fn find(&mut self, id: &str) -> Result<(u64, &mut Running), String> {
        let network = &self.terms.network.name;
        let mut running = self.running.iter_mut();
        let found = running.find(|(_, running)| running.member.id == id && !running.is_leaving);
        found
            .map(|(number, running)| (*number, running))
            .ok_or_else(|| format!("{id} is not on network {network}"))
    }

    fn ticket(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        ticket
    }

    fn disconnect(&mut self, id: &str) -> Result<Outcome, String> {
        let ticket = self.ticket();
        let (_, running) = self.find(id)?;
        running.waiting.push(ticket);
        running.leave();
        Ok(Outcome::Later(ticket))
    }

    fn publish(&mut self, id: &str, rules: Vec<PublishRule>) -> Result<Outcome, String> {
        if self.terms.network.internal {
            let name = &self.terms.network.name;
            return Err(format!("network {name} is internal: none of its ports can be published"));
        }
        let (ticket, answers) = (self.ticket(), self.answers.clone());
        let (number, running) = self.find(id)?;
        running.ask(ticket, Request::Publish(rules.clone()), answers)?;
        self.waiting.insert(ticket, Asked { number, what: Question::Publish(rules) });
        Ok(Outcome::Later(ticket))
    }

    fn unpublish(&mut self, id: &str, rules: &[PublishRule]) -> Result<Outcome, String> {
        let (ticket, answers) = (self.ticket(), self.answers.clone());
        let (number, running) = self.find(id)?;
        let listeners = running.published.iter().filter(|(_, rule)| rules.contains(rule));
        let listeners: Vec<ListenerId> = listeners.map(|(listener, _)| *listener).collect();
        let Some((last, others)) = listeners.split_last() else {
            return Ok(Outcome::Now(NetworkReply::Done));
        };
        for listener in others {
            running.ask(NOBODY, Request::Unpublish(*listener), answers.clone())?;
        }
        // Letters are opened in their order.
        running.ask(ticket, Request::Unpublish(*last), answers)?;
        self.waiting.insert(ticket, Asked { number, what: Question::Unpublish(listeners) });
        Ok(Outcome::Later(ticket))
    }

    fn remove(&mut self, force: bool) -> Result<Outcome, String> {
        if !force && !self.running.is_empty() {
            let name = &self.terms.network.name;
            let (count, them) = match self.running.len() {
                1 => ("1 container".to_owned(), "it"),
                count => (format!("{count} containers"), "them"),
            };
            return Err(format!("network {name} has {count}; disconnect {them} first, or give --force"));
        }
        self.end();
        if self.running.is_empty() {
            return Ok(Outcome::Now(NetworkReply::Done));
        }
        let ticket = self.ticket();
        self.waiting_for_end.push(ticket);
        Ok(Outcome::Later(ticket))
    }

    /// A worker has answered, or ended. Whether a member is gone.
    pub fn handle_answer(&mut self, answer: Answer) -> bool {
        if answer.ticket & FAREWELL != 0 {
            self.bid_farewell(answer.ticket & !FAREWELL);
            return true;
        }
        let Some(Asked { number, what }) = self.waiting.remove(&answer.ticket) else { return false };
        let reply = match answer.reply {
            Replied::Request(reply) => reply,
            Replied::Inquiry(said) => {
                self.inquiry_answered(answer.ticket, &what, said);
                return false;
            }
        };
        let Some(running) = self.running.get_mut(&number) else { return false };
        let reply = match (what, reply) {
            (Question::Publish(rules), Reply::Published(listeners)) => {
                running.published.extend(listeners.into_iter().zip(rules));
                NetworkReply::Done
            }
            (Question::Unpublish(gone), Reply::Unpublished | Reply::NoSuchPort) => {
                running.published.retain(|(listener, _)| !gone.contains(listener));
                NetworkReply::Done
            }
            (_, Reply::Refused(reason)) => NetworkReply::Refused(reason),
            (_, other) => NetworkReply::Refused(format!("an answer that was not expected: {other:?}")),
        };
        self.replies.push_back((answer.ticket, reply));
        false
    }

    fn bid_farewell(&mut self, number: u64) {
        let Some(running) = self.running.remove(&number) else { return };
        let Running { member, thread, process, waiting, .. } = running;
        if let Some(process) = &process {
            // Closing it does the same, unless somebody else has the same open file.
            let _ = self.registry.deregister(&mut SourceFd(&process.as_raw_fd()));
        }
        // It has nothing left to do but to end.
        match thread.join() {
            Ok(Ok(reason)) => info!(member = member.name, ?reason, "gone"),
            Ok(Err(error)) => warn!(member = member.name, %error, "gone"),
            Err(_) => {
                self.faults += 1;
                warn!(member = member.name, "gone by a fault of netferry's own; the others go on");
            }
        }
        self.replies.extend(waiting.into_iter().map(|ticket| (ticket, NetworkReply::Done)));
        let asked: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, asked)| asked.number == number)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in asked {
            let gone = format!("{} is gone", member.name);
            match self.waiting.remove(&ticket).map(|asked| asked.what) {
                Some(what @ (Question::Inquiry | Question::Reload(_))) => {
                    let gone = native::Refusal::new(native::RefusalCode::NotFound, gone);
                    self.inquiry_answered(ticket, &what, gone.into());
                }
                Some(Question::Publish(_) | Question::Unpublish(_)) | None => {
                    self.replies.push_back((ticket, NetworkReply::Refused(gone)));
                }
            }
        }
        self.tell_names();
        if self.running.is_empty() {
            let told = self.waiting_for_end.drain(..).map(|ticket| (ticket, NetworkReply::Done));
            self.replies.extend(told);
        }
    }
}

impl Running {
    /// Has its worker end; its farewell follows.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.tell(Reaction::Finish(0));
    }

    fn tell(&self, reaction: Reaction) {
        if let Err(Refusal::Full(_)) = self.postbox.post(Letter::React(reaction)) {
            warn!(member = self.member.name, "its worker does not open its letters");
        }
    }

    fn ask(&self, ticket: u64, request: Request, answers: Postbox<Answer>) -> Result<(), String> {
        self.post(Letter::Ask { ticket, request, answers })
    }

    fn post(&self, letter: Letter) -> Result<(), String> {
        self.postbox.post(letter).map_err(|refusal| match refusal {
            Refusal::Full(_) => format!("{} has too much to do", self.member.name),
            Refusal::Gone(_) => format!("{} is gone", self.member.name),
        })
    }
}

#[cfg(test)]
mod tests;
