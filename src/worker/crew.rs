//! Several workers for one interface, each in a thread of its own, with a queue of the interface, a core, a poll and sockets.
//!
//! The first is the *leader*: it has what there is one of, the published ports, the sources, the control socket, and every
//! flow that is no connection. Connections are divided among all ([`crate::stack::share`]). Nothing is shared but what stands in
//! [`Crew`]; all else is said in letters:
//!
//! - A frame that came by the queue of one and belongs to another is posted to him, whole. His box is bounded, and the frame is lost
//!   where it is full, as in any queue.
//! - A client of a published port is accepted by the leader and posted to whom he belongs to. How many of them the container
//!   has yet to accept is counted at the [`gate`], over all workers, so that the rest wait in the host's queue as they do with one
//!   worker. Where the owner has no room for another handshake, the client waits with him: nobody is lost between two workers.
//! - Where the container is on the link, which servers refuse clients, that a descriptor is free, new resolvers, the end.
//!
//! Limits are divided ([`crate::config::Limits::share_of`]), but for those of the gate.
//!
//! **The end.** The leader ends as a single worker would, once nobody delivers anything any more, and the others end with it,
//! however it ends. Whoever else ends, by a lost interface, an error or a panic, has the leader end with the same.

pub mod counted;
mod gate;
pub mod inquiry;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use tracing::debug;

use self::counted::Counted;
use self::gate::Gate;
use self::inquiry::Questions;
use super::clock::Clock;
use super::mailbox::{Letter, Postbox};
use super::scarcity::Scarcity;
use super::{Device, ExitReason, LINGER_QUIET, Listener, Reaction, Source, Worker};
use crate::config::{Config, PublishRule};
use crate::stack::boundary::{Io, ListenerId};
use crate::stack::drop_reason::DropReason;
use crate::stack::share::Share;
use crate::sys::confined::Confined;
use crate::sys::socket::StreamSocket;
use crate::wire::MacAddr;

const LEADER: usize = 0;
/// Clients taken from those that wait before the others get their turn.
const CLIENTS_PER_TURN: usize = 32;

/// A client of a published port on his way to whom he belongs to.
#[derive(Debug)]
pub struct Client {
    pub socket: StreamSocket,
    pub address: SocketAddr,
    pub local: SocketAddr,
    pub listener: ListenerId,
    pub rule: PublishRule,
}

/// What the workers of one interface share.
#[derive(Debug)]
struct Crew {
    boxes: Vec<Postbox<Letter>>,
    gate: Gate,
    /// What each of the others has counted by the end of its last turn.
    counted: Vec<Mutex<Counted>>,
    /// Who still delivers what the container has sent, once the end is near.
    delivering: Vec<AtomicBool>,
    /// All are to end.
    is_over: AtomicBool,
    /// One of the others has ended.
    has_fallen: AtomicBool,
    /// The leader waits for a descriptor.
    is_scarce: AtomicBool,
}

/// One of them, as its worker knows itself.
#[derive(Debug)]
pub struct Member {
    own: usize,
    crew: Arc<Crew>,
    /// Clients whom there was no room for yet.
    waiting: VecDeque<Client>,
    /// Those, and the ones whom the container has yet to accept, by their ports: as many as are counted at the gate.
    counted: BTreeMap<u32, usize>,
    /// Where the others were told that the container is.
    told_mac: Option<MacAddr>,
    /// Of the leader: what the others were asked.
    questions: Questions,
}

impl Crew {
    /// Has one of them look up.
    fn ring(&self, whom: usize) {
        // A full box has rung, and somebody who is gone needs no bell.
        let _ = self.boxes[whom].post(Letter::React(Reaction::Continue));
    }

    fn post(&self, whom: usize, letter: Letter) -> bool {
        self.boxes[whom].post(letter).is_ok()
    }

    fn is_anybody_delivering(&self) -> bool {
        self.delivering.iter().any(|one| one.load(Ordering::Acquire))
    }
}

/// Ends all others when the leader ends.
struct EndOfAll<'a>(&'a Crew);

impl Drop for EndOfAll<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        (LEADER + 1..self.0.boxes.len()).for_each(|other| self.0.ring(other));
    }
}

/// Tells the leader when another ends.
struct EndOfOne(Arc<Crew>);

impl Drop for EndOfOne {
    fn drop(&mut self) {
        self.0.has_fallen.store(true, Ordering::Release);
        self.0.ring(LEADER);
    }
}

impl Member {
    fn is_leader(&self) -> bool {
        self.own == LEADER
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.own;
        (0..self.crew.boxes.len()).filter(move |other| *other != own)
    }

    /// Posts a frame to whom it belongs to; whether he has room for it.
    pub fn hand_over(&self, owner: usize, header: &[u8], frame: &[u8]) -> bool {
        self.crew.post(owner, Letter::Frame([header, frame].concat()))
    }

    /// Whether one more client of a port may be accepted; `own` are those of the leader himself.
    pub fn has_room_for(&self, listener: ListenerId, own: usize) -> bool {
        self.crew.gate.has_room(listener, own)
    }

    /// The leader has run out of descriptors.
    pub fn note_scarcity(&self) {
        self.crew.is_scarce.store(true, Ordering::Release);
    }
}

impl Worker {
    /// Drivers for the queues of one TAP, one for each; the first is answered, and has the others. Otherwise as [`Worker::new`].
    pub fn several(
        config: &Config,
        devices: Vec<Device>,
        listeners: Vec<Listener>,
        resolvers: &[SocketAddr],
        secret: [u64; 4],
    ) -> io::Result<Worker> {
        let clock = Clock::start();
        let count = devices.len();
        let mut listeners = Some(listeners);
        let mut workers = Vec::new();
        for (own, device) in devices.into_iter().enumerate() {
            let part = Arc::new(config.share_of(own == LEADER, count));
            let listeners = listeners.take().unwrap_or_default();
            let mut worker = Worker::assemble(part, device, listeners, resolvers.to_vec(), secret, clock)?;
            worker.stack.take_share(Share::part(own, count, secret));
            workers.push(worker);
        }
        if count > 1 {
            let boxes = workers.iter_mut().map(Worker::postbox).collect::<io::Result<Vec<_>>>()?;
            let crew = Arc::new(Crew {
                boxes,
                gate: Gate::new(&config.limits),
                counted: (0..count).map(|_| Mutex::default()).collect(),
                delivering: (0..count).map(|_| AtomicBool::new(false)).collect(),
                is_over: AtomicBool::new(false),
                has_fallen: AtomicBool::new(false),
                is_scarce: AtomicBool::new(false),
            });
            let scarcity = Scarcity::default();
            for (own, worker) in workers.iter_mut().enumerate() {
                worker.scarcity = scarcity.of_another();
                worker.member = Some(Box::new(Member {
                    own,
                    crew: Arc::clone(&crew),
                    waiting: VecDeque::new(),
                    counted: BTreeMap::new(),
                    told_mac: config.link.container_mac,
                    questions: Questions::default(),
                }));
            }
        }
        let others = workers.split_off(workers.len().min(1));
        let mut leader = workers.pop().ok_or_else(|| io::Error::other("an interface has a queue"))?;
        leader.others = others;
        Ok(leader)
    }

    /// Runs a leader and those it leads, until it ends.
    pub(super) fn run_crew(mut self, sources: Vec<Source<'_>>, confined: Confined) -> io::Result<ExitReason> {
        let others = std::mem::take(&mut self.others);
        let Some(member) = &self.member else { return Err(io::Error::other("a crew has a leader")) };
        let crew = Arc::clone(&member.crew);
        debug!(workers = crew.boxes.len(), "each queue has its worker");
        thread::scope(|scope| {
            let end = EndOfAll(&crew);
            let mut threads = Vec::new();
            for mut other in others {
                let news = EndOfOne(Arc::clone(&crew));
                threads.push(confined.spawn_scoped(scope, move |_confined| {
                    let _news = news;
                    other.drive(Vec::new())
                })?);
            }
            let led = self.drive(sources);
            drop(end);
            let mut outcome = led;
            for thread in threads {
                outcome = followed_by(outcome, thread);
            }
            // Nobody has ended before all were told to, then.
            outcome.map(|reason| reason.unwrap_or(ExitReason::LinkGone))
        })
    }

    /// How many serve the interface.
    pub(super) fn crew_size(&self) -> usize {
        self.member.as_ref().map_or(1, |member| member.crew.boxes.len())
    }

    /// A frame that came by another's queue.
    pub(super) fn take_handed(&mut self, bytes: &[u8]) {
        let Some((header, frame)) = bytes.split_at_checked(crate::wire::vnet_header::VNET_HEADER_LEN) else {
            return;
        };
        let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
        self.stack.handle_frame(header, frame, self.now, &mut io);
    }

    /// A client whom the leader has accepted.
    pub(super) fn take_client(&mut self, client: Client) {
        let Some(member) = &mut self.member else { return };
        *member.counted.entry(client.listener.0).or_default() += 1;
        member.waiting.push_back(client);
    }

    /// Another worker has heard from the container elsewhere on the link.
    pub(super) fn container_moved(&mut self, mac: MacAddr) {
        self.stack.container_moved(mac);
        if let Some(member) = &mut self.member {
            member.told_mac = Some(mac);
        }
    }

    /// Gives a client away who belongs to another worker; gives him back otherwise.
    pub(super) fn hand_client_over(
        &mut self,
        listener: ListenerId,
        socket: StreamSocket,
        (address, local): (SocketAddr, SocketAddr),
    ) -> Option<StreamSocket> {
        let Some(member) = &self.member else { return Some(socket) };
        let Some(owner) = self.stack.owner_of_client(listener, address) else { return Some(socket) };
        let Some(rule) = self.stack.rule(listener).copied() else { return Some(socket) };
        let crew = &member.crew;
        crew.gate.count(listener);
        let letter = Letter::Client(Box::new(Client { socket, address, local, listener, rule }));
        if let Err(refusal) = crew.boxes[owner].post(letter) {
            // There is room for as many as the gate lets in.
            crew.gate.release(listener, 1);
            self.stack.count_lost(DropReason::WorkerBusy);
            if let Letter::Client(client) = refusal.into_letter() {
                client.socket.reset();
            }
        }
        None
    }

    /// Whether a client waits who may come in now.
    pub(super) fn has_client_to_admit(&self) -> bool {
        let first = self.member.as_ref().and_then(|member| member.waiting.front());
        first.is_some_and(|client| self.stack.may_accept(client.listener))
    }

    /// What one worker does for the others at the end of a turn.
    pub(super) fn serve_crew(&mut self) {
        if self.member.is_none() {
            return;
        }
        self.release_clients();
        self.carry_errands();
        self.note_counted();
    }

    /// Takes clients in whom others have accepted, while there is room for them.
    pub(super) fn admit_clients(&mut self) {
        for _ in 0..CLIENTS_PER_TURN {
            if !self.has_client_to_admit() {
                return;
            }
            let Some(client) = self.member.as_mut().and_then(|member| member.waiting.pop_front()) else {
                return;
            };
            let Client { socket, address, local, listener, rule } = client;
            match self.stack.accept_handed(listener, &rule, (address, local), self.now) {
                Ok(flow) => {
                    if let Some(event) = self.sockets.adopt(flow, socket) {
                        self.tell_stack(event);
                    }
                }
                Err(reason) => {
                    debug!(client = %address, ?reason, "connection to a published port refused");
                    socket.reset();
                }
            }
        }
    }

    /// Tells the gate of clients whom the container has accepted, or who are gone.
    fn release_clients(&mut self) {
        let Some(member) = &mut self.member else { return };
        let Member { counted, waiting, crew, .. } = &mut **member;
        let mut is_awaited = false;
        counted.retain(|listener, count| {
            let listener = ListenerId(*listener);
            let waiting = waiting.iter().filter(|client| client.listener == listener).count();
            let left = (waiting + self.stack.opening_clients(listener)).min(*count);
            if left < *count {
                is_awaited |= crew.gate.release(listener, *count - left);
                *count = left;
            }
            left > 0
        });
        if is_awaited {
            crew.ring(LEADER);
        }
    }

    fn carry_errands(&mut self) {
        let has_closed = self.has_closed();
        let Some(member) = &mut self.member else { return };
        let crew = &member.crew;
        while let Some((owner, frame)) = self.stack.take_stray() {
            let header = [0; crate::wire::vnet_header::VNET_HEADER_LEN];
            if !member.hand_over(owner, &header, &frame) {
                self.stack.count_lost(DropReason::WorkerBusy);
            }
        }
        while let Some(server) = self.stack.take_suspect() {
            // One that is not told of is told of with the next client.
            crew.post(LEADER, Letter::Suspect(server));
        }
        if has_closed && crew.is_scarce.swap(false, Ordering::AcqRel) {
            crew.post(LEADER, Letter::Relieved);
        }
        let mac = self.stack.container_mac();
        if let Some(known) = mac
            && mac != member.told_mac
        {
            let told = member.others().all(|other| crew.post(other, Letter::ContainerAt(known)));
            if told {
                member.told_mac = mac;
            }
        }
    }

    /// The leader passes on what concerns all.
    pub(super) fn pass_on(&self, reaction: &Reaction) {
        let Some(member) = self.member.as_ref().filter(|member| member.is_leader()) else { return };
        let crew = &member.crew;
        match reaction {
            Reaction::Continue | Reaction::Finish(_) => {}
            Reaction::ResolversChanged(_) | Reaction::NamesChanged(_) | Reaction::AddressesLost(_) => {
                let told = member.others().all(|other| crew.post(other, Letter::React(reaction.clone())));
                if !told {
                    debug!("not all workers have heard of what is new of the host");
                }
            }
            Reaction::FinishDelivered(_) => {
                for other in member.others() {
                    crew.delivering[other].store(true, Ordering::Release);
                    if !crew.post(other, Letter::React(reaction.clone())) {
                        crew.delivering[other].store(false, Ordering::Release);
                    }
                }
            }
        }
    }

    /// Whether the loop is to end, and why; without a reason where another has one.
    pub(super) fn end_of_turn(&mut self) -> Option<Option<ExitReason>> {
        let status = self.finish.and_then(|(status, deadline)| {
            let is_over = self.now >= deadline;
            let delivers = !is_over && self.stack.is_delivering(self.now, LINGER_QUIET);
            let may_end = match &self.member {
                None => !delivers,
                Some(member) if member.is_leader() => {
                    is_over || (!delivers && !member.crew.is_anybody_delivering())
                }
                Some(member) => {
                    if member.crew.delivering[member.own].swap(delivers, Ordering::AcqRel) && !delivers {
                        member.crew.ring(LEADER);
                    }
                    false
                }
            };
            may_end.then_some(status)
        });
        if let Some(status) = status {
            return Some(Some(self.end(ExitReason::Finished(status))));
        }
        if self.link.is_gone() {
            return Some(Some(self.end(ExitReason::LinkGone)));
        }
        let member = self.member.as_ref()?;
        let ends = if member.is_leader() { &member.crew.has_fallen } else { &member.crew.is_over };
        ends.load(Ordering::Acquire).then_some(None)
    }
}

/// A panic while it was held has left numbers.
fn held(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of the end so far, and then how one more thread has ended: the first reason counts, and an error or
/// a panic where there is none.
fn followed_by(
    so_far: io::Result<Option<ExitReason>>,
    thread: ScopedJoinHandle<'_, io::Result<Option<ExitReason>>>,
) -> io::Result<Option<ExitReason>> {
    match (so_far, thread.join()) {
        (Ok(None), Err(panic)) => std::panic::resume_unwind(panic),
        (Ok(None), Ok(ended)) => ended,
        (known, _) => known,
    }
}

#[cfg(test)]
mod tests;
