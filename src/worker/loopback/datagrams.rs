//! UDP from loopback to loopback: for each client of a port a socket of its own on the other side.
//!
//! A relay is a bound socket on one side. What a client sends to it leaves by the client's exchange, a socket on the
//! other side that is connected to the server; what comes back there goes to the client. An exchange that is silent
//! for long is closed, and the one that is silent longest gives way when there are too many. Joined runs
//! of datagrams stay joined (see [`crate::sys::socket::datagram`]).

mod paced;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;
use tracing::debug;

use super::eye::{Eye, Known};
use super::pacing::{Pace, Pacing};
use super::{Judge, is_worth_telling};
use crate::config::PublishRule;
use crate::config::limits::{HOOK_DATAGRAMS, Limits, MAX_FRAME_BYTES};
use crate::stack::boundary::{Duration, FlowId, Instant, ListenerId};
use crate::stack::flow::FlowProtocol;
use crate::stack::forward::splice;
use crate::stack::hook::QuestionId;
use crate::stack::policy::judge::{Judged, Spliced};
use crate::stack::spliced::{Heading, Lane, SplicedId, SplicedKind};
use crate::stack::stats::Traffic;
use crate::sys::socket::datagram::Received;
use crate::sys::socket::info::{self, Ends};
use crate::sys::socket::inner::InnerSockets;
use crate::sys::socket::{ArrivedDatagram, DatagramSocket, Outgoing, SocketError, Transfer};
use crate::worker::recorder::host_side::{End, Happening};
use crate::worker::recorder::stage::Place;
use crate::worker::token::{FlowMark, Subject};

/// How often it is looked which exchanges are over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Which way a relay leads.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// From the host's loopback to this address of the container, of this published port.
    Inward {
        /// The published port.
        listener: ListenerId,
        /// The server in the container.
        target: SocketAddr,
    },
    /// From the container's loopback, by this rule.
    Outward(PublishRule),
}

#[derive(Debug)]
struct Relay {
    socket: DatagramSocket,
    way: Way,
}

#[derive(Debug)]
struct Exchange {
    generation: u32,
    relay: u32,
    client: SocketAddr,
    what: Spliced,
    socket: DatagramSocket,
    since: Instant,
    last_active: Instant,
    /// What came from the client and from the server.
    forth: Traffic,
    back: Traffic,
    /// What waits for its turn, from the client and from the server.
    held: [VecDeque<Held>; 2],
    pace: Pace,
}

/// A datagram, or a run of them, that waits.
#[derive(Debug)]
struct Held {
    payload: Box<[u8]>,
    arrived: ArrivedDatagram,
}

/// What may wait.
#[derive(Debug, Clone, Copy)]
struct HoldLimits {
    of_one: usize,
    total_bytes: usize,
}

/// A client who waits to be let through.
#[derive(Debug)]
struct Asked {
    question: QuestionId,
    way: Way,
    target: SocketAddr,
    held: Vec<(ArrivedDatagram, Box<[u8]>)>,
}

/// One exchange, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeView {
    /// Its slot and which life of it.
    pub name: (u32, u32),
    /// Whether its server is in the container.
    pub is_inward: bool,
    /// The bound socket that its client sends to.
    pub bound: Ends,
    /// Its client.
    pub client: SocketAddr,
    /// Our socket that is connected to the server.
    pub connected: Ends,
    /// When it began.
    pub since: Instant,
    /// When it last carried anything.
    pub last_active: Instant,
    /// Datagrams of the container, a joined run being one.
    pub from_container: Traffic,
    /// Datagrams for it.
    pub to_container: Traffic,
}

/// All exchanges of a worker.
#[derive(Debug)]
pub struct Datagrams {
    registry: Option<Registry>,
    most: usize,
    idle: Duration,
    relays: BTreeMap<u32, Relay>,
    exchanges: Slab<Exchange>,
    by_client: HashMap<(u32, SocketAddr), usize>,
    /// Clients about whom the user's hook was asked, and what they have said; as many as the core has questions at most.
    asked: HashMap<(u32, SocketAddr), Asked>,
    generation: u32,
    next_sweep: Option<Instant>,
    buffer: Box<[u8]>,
    pacing: Pacing,
    hold_limits: HoldLimits,
    held_bytes: usize,
    /// Those that found no room to wait.
    lost: u64,
}

impl Datagrams {
    /// None yet.
    pub fn new(registry: &Registry, limits: &Limits, idle: Duration) -> Datagrams {
        Datagrams {
            registry: registry.try_clone().ok(),
            most: limits.splice.exchanges,
            idle,
            relays: BTreeMap::new(),
            exchanges: Slab::new(),
            by_client: HashMap::new(),
            asked: HashMap::new(),
            generation: 0,
            next_sweep: None,
            buffer: vec![0; MAX_FRAME_BYTES].into(),
            pacing: Pacing::default(),
            hold_limits: HoldLimits {
                of_one: limits.shaped_datagrams_per_flow,
                total_bytes: limits.shaped_total_bytes,
            },
            held_bytes: 0,
            lost: 0,
        }
    }

    /// Watches a bound socket.
    pub fn add_relay(&mut self, place: u32, socket: DatagramSocket, way: Way) -> io::Result<()> {
        self.watch(&socket, Subject::Relay(place))?;
        self.relays.insert(place, Relay { socket, way });
        Ok(())
    }

    /// Closes a bound socket and all that came by it.
    pub fn remove_relay(&mut self, place: u32) {
        if self.relays.remove(&place).is_some() {
            let over = self.exchanges.iter().filter(|(_, exchange)| exchange.relay == place);
            for slot in over.map(|(slot, _)| slot).collect::<Vec<_>>() {
                self.close(slot);
            }
        }
    }

    /// Closes the bound sockets of a published port.
    pub fn remove_listener(&mut self, over: ListenerId) {
        let places = self.relays.iter().filter_map(|(place, relay)| match relay.way {
            Way::Inward { listener, .. } => (listener == over).then_some(*place),
            Way::Outward(_) => None,
        });
        for place in places.collect::<Vec<_>>() {
            self.remove_relay(place);
        }
    }

    /// The rules of what is bound in the container.
    pub fn outward_rules(&self) -> impl Iterator<Item = (u32, PublishRule)> + '_ {
        self.relays.iter().filter_map(|(place, relay)| match relay.way {
            Way::Inward { .. } => None,
            Way::Outward(rule) => Some((*place, rule)),
        })
    }

    fn watch(&self, socket: &DatagramSocket, subject: Subject) -> io::Result<()> {
        let registry = self.registry.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let descriptor = socket.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), subject.token(), Interest::READABLE)
    }

    /// Passes on what clients have sent.
    pub fn relay_readable(
        &mut self,
        place: u32,
        inside: &InnerSockets,
        now: Instant,
        judge: &mut Judge<'_>,
        mut eye: Option<&mut Eye>,
    ) {
        let mut buffer = std::mem::take(&mut self.buffer);
        // An edge tells once: all of it has to be read, but a flood may wait for room.
        while let Some(relay) = self.relays.get_mut(&place) {
            let arrived = match relay.socket.receive(&mut buffer) {
                Received::Datagram(arrived) => arrived,
                Received::Blocked => break,
                Received::Failed(_) => {
                    while relay.socket.take_report().is_some() {}
                    continue;
                }
            };
            let way = relay.way;
            if let Some(asked) = self.asked.get_mut(&(place, arrived.source)) {
                if asked.held.len() < HOOK_DATAGRAMS {
                    asked.held.push((arrived, buffer[..arrived.len].into()));
                }
                continue;
            }
            let slot = match self.by_client.get(&(place, arrived.source)) {
                Some(slot) => *slot,
                None => {
                    match self.begin((place, way), &arrived, &buffer[..arrived.len], inside, now, judge) {
                        Ok(Some(slot)) => slot,
                        Ok(None) => continue,
                        Err(error) => {
                            if is_worth_telling(error) {
                                debug!(client = %arrived.source, ?error, "no exchange from loopback to loopback");
                            }
                            continue;
                        }
                    }
                }
            };
            self.pass(slot, true, &buffer[..arrived.len], arrived, now, eye.as_deref_mut());
        }
        self.buffer = buffer;
    }

    /// Passes on what a server has answered.
    pub fn exchange_readable(&mut self, mark: FlowMark, now: Instant, mut eye: Option<&mut Eye>) {
        let slot = mark.slot() as usize;
        let known = self.exchanges.get(slot);
        if !known.is_some_and(|exchange| mark_of(slot, exchange.generation) == mark) {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(exchange) = self.exchanges.get_mut(slot) {
            match exchange.socket.receive(&mut buffer) {
                Received::Datagram(arrived) => {
                    self.pass(slot, false, &buffer[..arrived.len], arrived, now, eye.as_deref_mut());
                }
                Received::Blocked => break,
                Received::Failed(_) => while exchange.socket.take_report().is_some() {},
            }
        }
        self.buffer = buffer;
        if let Some(exchange) = self.exchanges.get_mut(slot) {
            while exchange.socket.take_report().is_some() {}
        }
    }

    /// Passes on what has come from the client or from the server, or has it wait.
    fn pass(
        &mut self,
        slot: usize,
        is_of_client: bool,
        payload: &[u8],
        arrived: ArrivedDatagram,
        now: Instant,
        eye: Option<&mut Eye>,
    ) {
        let exchange = &mut self.exchanges[slot];
        let Some(relay) = self.relays.get_mut(&exchange.relay) else { return };
        exchange.last_active = now;
        let traffic = if is_of_client { &mut exchange.forth } else { &mut exchange.back };
        traffic.record(arrived.len);
        let place = usize::from(!is_of_client);
        let has_to_wait = self.pacing.is_on() || !exchange.held[place].is_empty();
        let is_full = exchange.held[place].len() >= self.hold_limits.of_one
            || self.held_bytes + payload.len() > self.hold_limits.total_bytes;
        let is_lost = has_to_wait && is_full;
        if let Some(eye) = eye {
            exchange.see(slot, relay, is_of_client, (payload, &arrived), is_lost, eye);
        }
        if is_lost {
            self.lost += 1;
            return;
        }
        if !has_to_wait {
            exchange.send(relay, is_of_client, payload, &arrived);
            return;
        }
        self.held_bytes += payload.len();
        exchange.held[place].push_back(Held { payload: payload.into(), arrived });
        let lane = Lane { id: exchange.id(slot), heading: relay.way.heading(is_of_client) };
        self.pacing.note(&mut exchange.pace, lane);
    }

    /// The exchange of a client who has said something for the first time, if it may be; none while the user's hook is asked.
    fn begin(
        &mut self,
        (relay, way): (u32, Way),
        arrived: &ArrivedDatagram,
        payload: &[u8],
        inside: &InnerSockets,
        now: Instant,
        judge: &mut Judge<'_>,
    ) -> Result<Option<usize>, SocketError> {
        let client = arrived.source;
        let (target, what) = match way {
            Way::Inward { target, .. } => (target, Spliced::inward(FlowProtocol::Udp, client, target)),
            Way::Outward(rule) => {
                let target = splice::outward(&rule, client).map_err(|_| SocketError::Prohibited)?;
                (target, Spliced::outward(FlowProtocol::Udp, target))
            }
        };
        match judge(&what) {
            Judged::Granted(what) => self.open((relay, way), client, (target, what), inside, now).map(Some),
            Judged::Refused => Err(SocketError::Prohibited),
            Judged::Asked(question, _) => {
                let held = vec![(*arrived, payload.into())];
                self.asked.insert((relay, client), Asked { question, way, target, held });
                Ok(None)
            }
        }
    }

    /// What the user's hook was asked about may begin, or not.
    pub fn settle(
        &mut self,
        question: QuestionId,
        judged: Judged,
        inside: &InnerSockets,
        now: Instant,
        mut eye: Option<&mut Eye>,
    ) {
        let found = self.asked.iter().find(|(_, asked)| asked.question == question);
        let Some((relay, client)) = found.map(|(whose, _)| *whose) else { return };
        let Some(Asked { way, target, held, .. }) = self.asked.remove(&(relay, client)) else { return };
        // The port may be published no longer.
        let Judged::Granted(what) = judged else { return };
        if !self.relays.contains_key(&relay) {
            return;
        }
        match self.open((relay, way), client, (target, what), inside, now) {
            Ok(slot) => held.into_iter().for_each(|(arrived, payload)| {
                self.pass(slot, true, &payload, arrived, now, eye.as_deref_mut());
            }),
            Err(error) => debug!(%client, ?error, "no exchange from loopback to loopback"),
        }
    }

    fn open(
        &mut self,
        (relay, way): (u32, Way),
        client: SocketAddr,
        (target, what): (SocketAddr, Spliced),
        inside: &InnerSockets,
        now: Instant,
    ) -> Result<usize, SocketError> {
        if self.exchanges.len() >= self.most {
            let oldest = self.exchanges.iter().min_by_key(|(_, exchange)| exchange.last_active);
            if let Some(slot) = oldest.map(|(slot, _)| slot) {
                self.close(slot);
            }
        }
        let socket = match way {
            Way::Inward { .. } => inside.exchange(target)?,
            Way::Outward(_) => DatagramSocket::open(target, None, 0)?,
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.exchanges.vacant_key();
        self.watch(&socket, Subject::Exchange(mark_of(slot, generation)))?;
        let (forth, back) = (Traffic::default(), Traffic::default());
        let (since, last_active) = (now, now);
        let (held, pace) = Default::default();
        let exchange =
            Exchange { generation, relay, client, what, socket, since, last_active, forth, back, held, pace };
        self.exchanges.insert(exchange);
        self.by_client.insert((relay, client), slot);
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        Ok(slot)
    }

    /// Closes what may not stay; how many.
    pub fn rejudge(&mut self, may_stay: &impl Fn(&Spliced) -> bool) -> usize {
        let over = self.exchanges.iter().filter(|(_, exchange)| !may_stay(&exchange.what));
        let over: Vec<usize> = over.map(|(slot, _)| slot).collect();
        over.iter().for_each(|slot| self.close(*slot));
        over.len()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.exchanges.len()
    }

    /// Slots of exchanges: none has a greater one.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.exchanges.capacity()).unwrap_or(u32::MAX)
    }

    /// The exchange in a slot, if there is one.
    #[must_use]
    pub fn view(&self, slot: u32) -> Option<ExchangeView> {
        let exchange = self.exchanges.get(slot as usize)?;
        let relay = self.relays.get(&exchange.relay)?;
        let is_inward = matches!(relay.way, Way::Inward { .. });
        let (from_container, to_container) =
            if is_inward { (exchange.back, exchange.forth) } else { (exchange.forth, exchange.back) };
        Some(ExchangeView {
            name: (slot, exchange.generation),
            is_inward,
            bound: info::ends(&relay.socket),
            client: exchange.client,
            connected: info::ends(&exchange.socket),
            since: exchange.since,
            last_active: exchange.last_active,
            from_container,
            to_container,
        })
    }

    /// Ends an exchange. Whether there was one.
    pub fn end(&mut self, (slot, generation): (u32, u32)) -> bool {
        let slot = slot as usize;
        let is_there = self.exchanges.get(slot).is_some_and(|exchange| exchange.generation == generation);
        if is_there {
            self.close(slot);
        }
        is_there
    }

    fn close(&mut self, slot: usize) {
        let exchange = self.exchanges.remove(slot);
        self.pacing.end(exchange.id(slot), &exchange.pace);
        self.held_bytes -= exchange.held.iter().flatten().map(|held| held.payload.len()).sum::<usize>();
        self.by_client.remove(&(exchange.relay, exchange.client));
    }

    /// When [`Datagrams::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Closes what has been silent for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|due| due > now) {
            return;
        }
        let over = self.exchanges.iter().filter(|(_, exchange)| exchange.last_active + self.idle <= now);
        for slot in over.map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.close(slot);
        }
        self.next_sweep = (!self.exchanges.is_empty()).then_some(now + SWEEP_INTERVAL);
    }
}

/// The loopback address at which a port bound to `address` is reached and can be taken over.
#[must_use]
pub fn loopback_of(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
        _ if address.is_loopback() => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

impl Way {
    /// Where what comes from the client, or from the server, goes.
    fn heading(&self, is_of_client: bool) -> Heading {
        match (self, is_of_client) {
            (Way::Inward { .. }, true) | (Way::Outward(_), false) => Heading::ToContainer,
            (Way::Inward { .. }, false) | (Way::Outward(_), true) => Heading::FromContainer,
        }
    }
}

impl Exchange {
    fn id(&self, slot: usize) -> SplicedId {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        SplicedId { kind: SplicedKind::Exchange, slot, generation: self.generation }
    }

    fn send(&mut self, relay: &mut Relay, is_of_client: bool, payload: &[u8], arrived: &ArrivedDatagram) {
        if is_of_client {
            send(&mut self.socket, payload, arrived, None);
        } else {
            send(&mut relay.socket, payload, arrived, Some(self.client));
        }
    }

    /// Shows what has come from the client or from the server, on both sides unless it is lost between them.
    fn see(
        &self,
        slot: usize,
        relay: &Relay,
        is_of_client: bool,
        (payload, arrived): (&[u8], &ArrivedDatagram),
        is_lost: bool,
        eye: &mut Eye,
    ) {
        let (bound, connected) = (info::ends(&relay.socket), info::ends(&self.socket));
        let (Some(door), Some(ours), Some(server)) = (bound.local, connected.local, connected.peer) else {
            return;
        };
        let (door_place, own, remote) = match relay.way {
            Way::Inward { .. } => (Place::Host, server, ours),
            Way::Outward(_) => (Place::Container, self.client, door),
        };
        let known = Known::new(self.id(slot), FlowProtocol::Udp, own, remote);
        if !eye.wants(&known.key) {
            return;
        }
        let at_door = (door_place, door, self.client);
        let at_server = (door_place.other(), ours, server);
        let (came, leaves) = if is_of_client { (at_door, at_server) } else { (at_server, at_door) };
        let (segment_bytes, hop_limit) = (arrived.segment_bytes, arrived.hop_limit.max(1));
        let shown = if is_lost { 1 } else { 2 };
        for ((place, local, peer), from) in [(came, End::Peer), (leaves, End::Ours)].into_iter().take(shown) {
            let happening = Happening::Datagrams { local, peer, from, segment_bytes, hop_limit };
            eye.see(&known, place, happening, payload);
        }
    }
}

/// Sends on; what there is no room for is lost, as on any way.
fn send(socket: &mut DatagramSocket, payload: &[u8], arrived: &ArrivedDatagram, to: Option<SocketAddr>) {
    let how = Outgoing {
        to,
        from: None,
        segment_bytes: arrived.segment_bytes,
        hop_limit: arrived.hop_limit.max(1),
        traffic_class: arrived.traffic_class,
        dont_fragment: false,
    };
    match socket.send(payload, &how) {
        Transfer::Bytes(_) | Transfer::Blocked | Transfer::Failed(_) => {}
    }
}

fn mark_of(slot: usize, generation: u32) -> FlowMark {
    FlowMark::new(FlowId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation })
}
