//! What goes from loopback to loopback, between the host's and the container's, past link and stack.
//!
//! Sockets inside the container come from a process there ([`crate::sys::socket::inner`]). [`streams`] holds the
//! spliced connections, [`datagrams`] the exchanges of UDP, [`follow`] finds out which ports come and go. What may
//! be spliced at all, and where to, is [`crate::stack::forward::splice`]'s to say. The driver gives events and the
//! time; nothing here waits.

pub mod datagrams;
pub mod eye;
pub mod follow;
pub mod pacing;
pub mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use tracing::debug;

use self::datagrams::Datagrams;
use self::eye::Eye;
use self::follow::{Change, Follow};
use self::streams::Streams;
use super::recorder::Choice;
use super::recorder::stage::{Order, Stage};
use super::scarcity::Scarcity;
use super::sockets::Sockets;
use super::splice::Side;
use super::token::Subject;
use crate::config::{Config, Forwarding, PortForwarding, PortProtocol, PublishRule};
use crate::stack::boundary::{Instant, ListenerId};
use crate::stack::flow::FlowProtocol;
use crate::stack::forward::splice::{self, Path};
use crate::stack::hook::QuestionId;
use crate::stack::policy::judge::{Judged, Spliced};
use crate::sys::proc_net::PortTables;
use crate::sys::socket::inner::InnerSockets;
use crate::sys::socket::{Accepted, ListenError, SocketError, StreamListener, StreamSocket};

/// Connections accepted of a port before the others get their turn.
const ACCEPTS_PER_TURN: usize = 32;

/// The ways into the container past its link.
#[derive(Debug)]
pub struct LoopbackPaths {
    /// Sockets of the container.
    pub inside: InnerSockets,
    /// What is bound on the host.
    pub host_tables: PortTables,
    /// What is bound in the container.
    pub container_tables: PortTables,
    /// Ports that clients are given by the kernel; UDP cannot tell such a client from a server.
    pub ephemeral: std::ops::RangeInclusive<u16>,
}

/// A port that is listened on in the container.
#[derive(Debug)]
struct Outward {
    listener: StreamListener,
    rule: PublishRule,
    is_ready: bool,
}

/// A connection that has been accepted and has no other socket yet.
#[derive(Debug)]
struct Half {
    initiating: StreamSocket,
    way: Way,
    target: SocketAddr,
    spliced: Spliced,
}

/// Says whether something may be spliced: the policy of the core.
pub type Judge<'a> = dyn FnMut(&Spliced) -> Judged + 'a;

/// Which way a spliced connection leads.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// To a socket of the container.
    Inward,
    /// To one of the host.
    Outward,
}

/// Everything that goes from loopback to loopback.
#[derive(Debug)]
pub struct Loopback {
    registry: Registry,
    inside: InnerSockets,
    streams: Streams,
    datagrams: Datagrams,
    outward: BTreeMap<u32, Outward>,
    next_place: u32,
    follow: Follow,
    /// For a descriptor. The first that has to wait keeps others from being accepted: there are never more than a few.
    waiting: VecDeque<Half>,
    /// For the user's hook; as many as the core has questions at most.
    asked: BTreeMap<QuestionId, Half>,
}

impl Loopback {
    /// Listens in the container on what has to be listened on there.
    ///
    /// # Errors
    /// The first port of `forwarding.outward.required` that cannot be had.
    pub fn new(
        registry: Registry,
        config: &Config,
        paths: LoopbackPaths,
        forwarding: &PortForwarding,
    ) -> Result<Loopback, ListenError> {
        let Forwarding { required, hopeful, followed: _ } = &forwarding.outward;
        let tables = (paths.host_tables, paths.container_tables);
        let mut loopback = Loopback {
            streams: Streams::new(&registry, config.limits.splice),
            datagrams: Datagrams::new(&registry, &config.limits, config.timeouts.udp.into()),
            registry,
            inside: paths.inside,
            outward: BTreeMap::new(),
            next_place: 0,
            follow: Follow::new(forwarding, tables, &paths.ephemeral),
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
        };
        for rule in required {
            loopback.listen_inside(rule)?;
        }
        for ports in hopeful {
            for port in ports.ports.iter().filter(|port| !paths.ephemeral.contains(port)) {
                let rule = ports.rule(port);
                if let Err(error) = loopback.listen_inside(&rule) {
                    debug!(%rule, %error, "not forwarded");
                }
            }
        }
        Ok(loopback)
    }

    /// Listens in the container on what a rule forwards.
    fn listen_inside(&mut self, rule: &PublishRule) -> Result<u32, ListenError> {
        let address = SocketAddr::new(rule.host_address, rule.host_port);
        let place = self.next_place;
        let failed = |source| ListenError::new(address, rule.protocol.name(), source);
        match rule.protocol {
            PortProtocol::Tcp => {
                let listener = self.inside.listen(address)?;
                let token = Subject::Outward(place).token();
                let descriptor = listener.as_fd().as_raw_fd();
                self.registry
                    .register(&mut SourceFd(&descriptor), token, Interest::READABLE)
                    .map_err(failed)?;
                self.outward.insert(place, Outward { listener, rule: *rule, is_ready: true });
            }
            PortProtocol::Udp => {
                let socket = self.inside.receive(address)?;
                self.datagrams.add_relay(place, socket, datagrams::Way::Outward(*rule)).map_err(failed)?;
            }
        }
        self.next_place += 1;
        Ok(place)
    }

    fn close_inside(&mut self, place: u32) {
        self.outward.remove(&place);
        self.datagrams.remove_relay(place);
    }

    /// Takes the part of a published UDP port that clients on the host's loopback reach. One that is published there
    /// only is taken whole.
    pub fn publish(
        &mut self,
        config: &Config,
        listener: ListenerId,
        rule: &PublishRule,
        sockets: &mut Sockets,
    ) {
        let Some(loopback) = datagrams::loopback_of(rule.host_address) else { return };
        if rule.protocol != PortProtocol::Udp || rule.interface.is_some() {
            return;
        }
        let local = SocketAddr::new(loopback, rule.host_port);
        let client = SocketAddr::new(loopback, 0);
        let target = match splice::local_client(config, rule, client, local) {
            Path::Splice(target) => target,
            Path::Link => return,
        };
        let socket = if rule.host_address.is_loopback() {
            sockets.take_datagram_listener(listener).map(Ok)
        } else {
            sockets.datagram_listener(listener).map(|socket| socket.bind_within(local))
        };
        let place = self.next_place;
        let way = datagrams::Way::Inward { listener, target };
        let added = match socket {
            None => return,
            Some(Ok(socket)) => {
                self.datagrams.add_relay(place, socket, way).map_err(|error| error.to_string())
            }
            Some(Err(error)) => Err(error.to_string()),
        };
        match added {
            Ok(()) => self.next_place += 1,
            Err(error) => debug!(%local, error, "clients on loopback take the link"),
        }
    }

    /// A published port is no more.
    pub fn unpublish(&mut self, listener: ListenerId) {
        self.datagrams.remove_listener(listener);
    }

    /// Splices an accepted connection to a socket inside, if it may be.
    pub fn splice(
        &mut self,
        initiating: StreamSocket,
        target: SocketAddr,
        judged: Judged,
        now: Instant,
        scarcity: &mut Scarcity,
    ) {
        self.begin(initiating, (Way::Inward, target), judged, now, scarcity);
    }

    fn begin(
        &mut self,
        initiating: StreamSocket,
        (way, target): (Way, SocketAddr),
        judged: Judged,
        now: Instant,
        scarcity: &mut Scarcity,
    ) {
        match judged {
            Judged::Granted(spliced) => self.join(Half { initiating, way, target, spliced }, now, scarcity),
            Judged::Refused => initiating.reset(),
            Judged::Asked(question, spliced) => {
                self.asked.insert(question, Half { initiating, way, target, spliced });
            }
        }
    }

    /// What the user's hook was asked about may begin, or not.
    pub fn settle(&mut self, question: QuestionId, judged: Judged, now: Instant, scarcity: &mut Scarcity) {
        match self.asked.remove(&question) {
            Some(half) => self.begin(half.initiating, (half.way, half.target), judged, now, scarcity),
            None => {
                let eye = self.streams.eye_mut().as_deref_mut();
                self.datagrams.settle(question, judged, &self.inside, now, eye);
            }
        }
    }

    /// Gives an accepted connection its other socket. Where there is none to be had now, it waits, as those do that were
    /// not accepted yet.
    fn join(&mut self, half: Half, now: Instant, scarcity: &mut Scarcity) {
        let connected = match half.way {
            Way::Inward => self.inside.connect(half.target),
            Way::Outward => StreamSocket::connect(half.target, None).map(|(socket, _)| socket),
        };
        match connected {
            Ok(other) => {
                self.streams.join(half.initiating, (other, half.target), half.way, half.spliced, now);
            }
            Err(SocketError::Exhausted) => {
                scarcity.begin(now);
                self.waiting.push_back(half);
            }
            Err(error) => {
                debug!(target = %half.target, ?error, "nobody is reached past the link");
                half.initiating.reset();
            }
        }
    }

    /// Takes an event of one of its sockets.
    pub fn handle_event(&mut self, subject: Subject, event: &Event, now: Instant, judge: &mut Judge<'_>) {
        match subject {
            Subject::SplicedInitiating(mark) => self.streams.handle_event(mark, Side::Initiating, event),
            Subject::SplicedTarget(mark) => self.streams.handle_event(mark, Side::Target, event),
            Subject::Outward(place) => {
                if let Some(outward) = self.outward.get_mut(&place) {
                    outward.is_ready = true;
                }
            }
            Subject::Relay(place) => {
                let eye = self.streams.eye_mut().as_deref_mut();
                self.datagrams.relay_readable(place, &self.inside, now, judge, eye);
            }
            Subject::Exchange(mark) => {
                let eye = self.streams.eye_mut().as_deref_mut();
                self.datagrams.exchange_readable(mark, now, eye);
            }
            Subject::Link
            | Subject::Source(_)
            | Subject::Control(_)
            | Subject::Observer(_)
            | Subject::Hook
            | Subject::Mailbox
            | Subject::Listener(_)
            | Subject::Flow(_) => {}
        }
    }

    /// Does what is left over from the last turn, and what is due.
    pub fn advance(&mut self, now: Instant, scarcity: &mut Scarcity, judge: &mut Judge<'_>) {
        for _ in 0..self.waiting.len() {
            if !scarcity.is_waiting()
                && let Some(half) = self.waiting.pop_front()
            {
                self.join(half, now, scarcity);
            }
        }
        self.accept(now, scarcity, judge);
        self.streams.advance();
        self.datagrams.handle_timeout(now);
    }

    /// Ends what may not be spliced any more; how many there were.
    pub fn rejudge(&mut self, may_stay: impl Fn(&Spliced) -> bool) -> usize {
        self.streams.rejudge(&may_stay) + self.datagrams.rejudge(&may_stay)
    }

    /// Has what is spliced seen from now on, as far as `choices` want it, or no longer: so many bytes of each packet.
    pub fn look(&mut self, wanted: Option<(Order, usize, Vec<Option<Choice>>)>) {
        let eye = wanted.map(|(order, most, choices)| match self.streams.eye_mut().take() {
            Some(mut eye) => {
                eye.choose(choices, most);
                eye
            }
            None => Box::new(Eye::new(Stage::new(order, most), choices)),
        });
        self.streams.look(eye);
    }

    /// What was seen.
    pub fn stage_mut(&mut self) -> Option<&mut Stage> {
        self.streams.eye_mut().as_deref_mut().map(|eye| &mut eye.stage)
    }

    /// Whether there is something to do without an event.
    #[must_use]
    pub fn is_behind(&self, scarcity: &Scarcity) -> bool {
        let may_join = !scarcity.is_waiting();
        let has_to_join =
            || !self.waiting.is_empty() || self.outward.values().any(|outward| outward.is_ready);
        self.streams.is_behind() || self.datagrams.is_behind() || (may_join && has_to_join())
    }

    /// Whether a connection has ended since the last call of [`Loopback::forget_closed`].
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.streams.has_closed()
    }

    /// See [`Loopback::has_closed`].
    pub fn forget_closed(&mut self) {
        self.streams.forget_closed();
    }

    /// What is spliced, for those who look.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The exchanges of datagrams, for those who look.
    #[must_use]
    pub fn exchanges(&self) -> &Datagrams {
        &self.datagrams
    }

    /// Ends a spliced connection. Whether there was one.
    pub fn end_stream(&mut self, name: (u32, u32)) -> bool {
        self.streams.end(name)
    }

    /// Ends an exchange of datagrams. Whether there was one.
    pub fn end_exchange(&mut self, name: (u32, u32)) -> bool {
        self.datagrams.end(name)
    }

    /// When there is something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.follow.poll_timeout(), self.datagrams.poll_timeout()].into_iter().flatten().min()
    }

    fn accept(&mut self, now: Instant, scarcity: &mut Scarcity, judge: &mut Judge<'_>) {
        let ready: Vec<u32> =
            self.outward.iter().filter(|(_, outward)| outward.is_ready).map(|(place, _)| *place).collect();
        for place in ready {
            for _ in 0..ACCEPTS_PER_TURN {
                let Some(outward) = self.outward.get_mut(&place) else { break };
                if scarcity.is_waiting() {
                    return;
                }
                match outward.listener.accept() {
                    Accepted::Connection(initiating, client, _) => {
                        match splice::outward(&outward.rule, client) {
                            Ok(target) => {
                                let judged = judge(&Spliced::outward(FlowProtocol::Tcp, target));
                                self.begin(initiating, (Way::Outward, target), judged, now, scarcity);
                            }
                            Err(_) => initiating.reset(),
                        }
                    }
                    Accepted::Blocked => {
                        outward.is_ready = false;
                        break;
                    }
                    Accepted::Exhausted => scarcity.begin(now),
                }
            }
        }
    }

    /// Whether [`Loopback::follow`] has something to do.
    #[must_use]
    pub fn is_follow_due(&self, now: Instant) -> bool {
        self.follow.is_due(now)
    }

    /// Looks which ports have come and gone; what is to be published or not any more on the
    /// host's side, where `published` are the ports that are now.
    pub fn follow(
        &mut self,
        now: Instant,
        published: &[(ListenerId, PublishRule)],
    ) -> Vec<Change<ListenerId>> {
        let inside: Vec<(u32, PublishRule)> = self
            .outward
            .iter()
            .map(|(place, outward)| (*place, outward.rule))
            .chain(self.datagrams.outward_rules())
            .collect();
        let (inward, outward) = self.follow.look(now, published, &inside);
        for change in outward {
            match change {
                Change::Listen(rule) => match self.listen_inside(&rule) {
                    Ok(place) => self.follow.outward_follows(place),
                    Err(error) => debug!(%rule, %error, "not followed"),
                },
                Change::Close(place) => self.close_inside(place),
            }
        }
        inward
    }

    /// The driver has published a port that is followed.
    pub fn inward_follows(&mut self, listener: ListenerId) {
        self.follow.inward_follows(listener);
    }
}

/// A connection or exchange that comes to nothing is the client's to find out.
pub(super) fn is_worth_telling(error: SocketError) -> bool {
    error != SocketError::Refused && error != SocketError::Reset
}

#[cfg(test)]
mod tests;
