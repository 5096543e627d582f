//! The flow table: who talks to whom, and who has been silent longest.
//!
//! A flow is known by three names. Frames find it by its [`FlowKey`], the two endpoints as the container sees
//! them; the driver by its [`FlowId`]; deadlines by the same. What a flow *does* lives in `tcp`, `udp` and
//! `icmp`; this module owns only identity, age and the bound on their number.
//!
//! Connections and exchanges of datagrams each have a list by age of their own, and an eighth of the table that the others cannot
//! take: a flood of datagrams, which are flows as soon as they are sent, neither keeps connections out nor ends those that rest.
//!
//! What a flow has carried is counted here, and once more, when it ends, for the rule that let it through and for the way
//! that it took ([`ledger`]), so that counters of rules cost nothing while packets pass.
//!
//! Invariants: every occupied slot is in the index under its key and in the age list of its kind exactly once; a slot's
//! generation changes each time it is vacated, so a late host event never reaches the slot's next tenant.

pub mod ledger;

use std::collections::HashMap;
use std::net::SocketAddr;

use ahash::RandomState;
use slab::Slab;

use self::ledger::{Ledger, Tally};
use super::audit::AuditMark;
use super::boundary::{Duration, FlowId, Instant, ListenerId};
use super::policy::RuleMark;
use super::stats::Traffic;
use crate::config::rules::Direction;

/// Transport of a flow, as far as finding it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// ICMP or ICMPv6 echo, by identifier.
    Echo,
}

impl FlowProtocol {
    /// All of them, by slot in counters.
    pub const ALL: [FlowProtocol; 3] = [FlowProtocol::Tcp, FlowProtocol::Udp, FlowProtocol::Echo];

    /// The protocol's name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FlowProtocol::Tcp => "tcp",
            FlowProtocol::Udp => "udp",
            FlowProtocol::Echo => "icmp",
        }
    }

    /// Its place in [`FlowProtocol::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            FlowProtocol::Tcp => 0,
            FlowProtocol::Udp => 1,
            FlowProtocol::Echo => 2,
        }
    }

    /// IANA protocol number in the given family.
    #[must_use]
    pub fn number(self, is_ipv6: bool) -> u8 {
        match (self, is_ipv6) {
            (FlowProtocol::Tcp, _) => 6,
            (FlowProtocol::Udp, _) => 17,
            (FlowProtocol::Echo, false) => 1,
            (FlowProtocol::Echo, true) => 58,
        }
    }
}

/// A flow's two endpoints on the container's side of the translation.
///
/// For an echo flow the container's port is the identifier and the remote port zero. An endpoint-independent
/// UDP mapping has the unspecified address and port zero as its remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Transport.
    pub protocol: FlowProtocol,
    /// The container's endpoint.
    pub container: SocketAddr,
    /// The peer, as the container sees it.
    pub remote: SocketAddr,
}

/// How a flow is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the world, from an address of the host.
    Masquerade,
    /// To the host's own loopback, or to the host by an alias.
    HostAlias,
    /// To a resolver of the host, by the DNS address.
    Forwarder,
    /// From a client of a published port.
    Published(ListenerId),
}

impl Way {
    /// Who initiates what goes this way.
    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Way::Masquerade | Way::HostAlias | Way::Forwarder => Direction::Out,
            Way::Published(_) => Direction::In,
        }
    }
}

/// The host's side of a flow, and why it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSide {
    /// The peer's endpoint on the host's side; port zero for echo.
    pub peer: SocketAddr,
    /// How it is translated.
    pub way: Way,
    /// What let it through.
    pub rule: RuleMark,
    /// As what it is written down.
    pub audit: AuditMark,
}

/// What a flow has carried: IP packets, as the link had them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// From the container.
    pub up: Traffic,
    /// To the container.
    pub down: Traffic,
}

impl Carried {
    /// Adds what another has carried.
    pub fn add(&mut self, other: Carried) {
        self.up.add(other.up);
        self.down.add(other.down);
    }

    /// Both directions.
    #[must_use]
    pub fn both(self) -> Traffic {
        let mut both = self.up;
        both.add(self.down);
        both
    }
}

/// A flow as it is met on a walk through the table.
#[derive(Debug)]
pub struct Met<'a, T> {
    /// Its name.
    pub flow: FlowId,
    /// Its endpoints.
    pub key: FlowKey,
    /// Its other side.
    pub side: HostSide,
    /// When it came to be.
    pub since: Instant,
    /// When it last carried anything.
    pub last_active: Instant,
    /// What it has carried.
    pub carried: Carried,
    /// What it is.
    pub body: &'a T,
}

const NIL: u32 = u32::MAX;

/// The table divided by this is kept for flows of the other kind.
const KEPT_FOR_OTHERS: usize = 8;

/// Flows of one kind by age.
#[derive(Debug, Clone, Copy)]
struct AgeList {
    oldest: u32,
    newest: u32,
    len: usize,
}

/// The list that flows of a protocol are in: connections in the first, exchanges of datagrams in the other.
fn list_of(protocol: FlowProtocol) -> usize {
    match protocol {
        FlowProtocol::Tcp => 0,
        FlowProtocol::Udp | FlowProtocol::Echo => 1,
    }
}

/// One entry of the table.
#[derive(Debug)]
struct Entry<T> {
    key: FlowKey,
    side: HostSide,
    carried: Carried,
    since: Instant,
    last_active: Instant,
    older: u32,
    newer: u32,
    body: T,
}

/// All flows of one worker.
#[derive(Debug)]
pub struct FlowTable<T> {
    entries: Slab<Entry<T>>,
    /// Generation of each slot ever used; outlives its tenants.
    generations: Vec<u32>,
    index: HashMap<FlowKey, u32, RandomState>,
    ages: [AgeList; 2],
    limit: usize,
    /// Lent out last.
    in_hand: Option<FlowId>,
    ledger: Ledger,
}

impl<T> FlowTable<T> {
    /// A table of at most `limit` flows, hashed under `secret` so that a container cannot aim for one bucket.
    #[must_use]
    pub fn new(limit: usize, secret: [u64; 4]) -> Self {
        FlowTable {
            entries: Slab::new(),
            generations: Vec::new(),
            index: HashMap::with_hasher(RandomState::with_seeds(secret[0], secret[1], secret[2], secret[3])),
            ages: [AgeList { oldest: NIL, newest: NIL, len: 0 }; 2],
            limit,
            in_hand: None,
            ledger: Ledger::default(),
        }
    }

    /// Flows alive now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no flow is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another flow of this protocol needs one to be given up first.
    #[must_use]
    pub fn is_full_of(&self, protocol: FlowProtocol) -> bool {
        self.entries.len() >= self.limit || self.has_its_share(protocol)
    }

    fn has_its_share(&self, protocol: FlowProtocol) -> bool {
        self.ages[list_of(protocol)].len >= self.limit - self.limit / KEPT_FOR_OTHERS
    }

    /// The flow between these endpoints.
    #[must_use]
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        let slot = *self.index.get(key)?;
        Some(FlowId { slot, generation: self.generations[slot as usize] })
    }

    /// Adds a flow. The caller has made sure that the key is free and the table not full.
    pub fn insert(&mut self, key: FlowKey, side: HostSide, now: Instant, body: T) -> FlowId {
        debug_assert!(!self.index.contains_key(&key) && !self.is_full_of(key.protocol));
        let carried = Carried::default();
        let (since, last_active) = (now, now);
        let entry = Entry { key, side, carried, since, last_active, older: NIL, newer: NIL, body };
        let slot = u32::try_from(self.entries.insert(entry)).expect("the flow limit is far below 2^32");
        if slot as usize == self.generations.len() {
            self.generations.push(0);
        }
        self.index.insert(key, slot);
        self.link_newest(slot);
        let flow = FlowId { slot, generation: self.generations[slot as usize] };
        self.in_hand = Some(flow);
        flow
    }

    /// Takes a flow out; `None` when it is long gone.
    pub fn remove(&mut self, flow: FlowId) -> Option<T> {
        self.get(flow)?;
        self.unlink(flow.slot);
        let entry = self.entries.remove(flow.slot as usize);
        self.index.remove(&entry.key);
        self.ledger.add(&entry.side, entry.carried);
        let generation = &mut self.generations[flow.slot as usize];
        *generation = generation.wrapping_add(1);
        Some(entry.body)
    }

    /// The flow's body, if it is still this one's slot.
    #[must_use]
    pub fn get(&self, flow: FlowId) -> Option<&T> {
        if self.generations.get(flow.slot as usize) != Some(&flow.generation) {
            return None;
        }
        self.entries.get(flow.slot as usize).map(|entry| &entry.body)
    }

    /// The flow's key and body, if it is still this one's slot.
    #[must_use]
    pub fn get_mut(&mut self, flow: FlowId) -> Option<(FlowKey, &mut T)> {
        if self.generations.get(flow.slot as usize) != Some(&flow.generation) {
            return None;
        }
        self.in_hand = Some(flow);
        self.entries.get_mut(flow.slot as usize).map(|entry| (entry.key, &mut entry.body))
    }

    /// The flow that was lent out last since [`Self::lay_down`], if it still lives: the one that a panic has left as nobody
    /// knows.
    #[must_use]
    pub fn in_hand(&self) -> Option<FlowId> {
        self.in_hand.filter(|flow| self.get(*flow).is_some())
    }

    /// Nothing is being done to any flow.
    pub fn lay_down(&mut self) {
        self.in_hand = None;
    }

    /// Every flow's body.
    pub fn bodies(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| &entry.body)
    }

    /// Whether the invariants of this module hold; it looks at every flow.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_sound = |(list, ages): (usize, &AgeList)| {
            let (mut count, mut newer, mut at) = (0, NIL, ages.newest);
            while let Some(entry) = self.entries.get(at as usize) {
                let is_known = self.index.get(&entry.key) == Some(&at) && list_of(entry.key.protocol) == list;
                if entry.newer != newer || !is_known || count > ages.len {
                    return false;
                }
                (count, newer, at) = (count + 1, at, entry.older);
            }
            at == NIL && newer == ages.oldest && count == ages.len
        };
        let listed: usize = self.ages.iter().map(|ages| ages.len).sum();
        self.ages.iter().enumerate().all(is_sound)
            && listed == self.entries.len()
            && listed == self.index.len()
    }

    /// The flow's key.
    #[must_use]
    pub fn key(&self, flow: FlowId) -> Option<FlowKey> {
        self.get(flow)?;
        self.entries.get(flow.slot as usize).map(|entry| entry.key)
    }

    /// The flow's other side.
    #[must_use]
    pub fn side(&self, flow: FlowId) -> Option<HostSide> {
        self.get(flow)?;
        self.entries.get(flow.slot as usize).map(|entry| entry.side)
    }

    /// Notes that another rule stands for the flow now, and for all that it carries and has carried.
    pub fn set_rule(&mut self, flow: FlowId, rule: RuleMark) {
        if self.get(flow).is_some()
            && let Some(entry) = self.entries.get_mut(flow.slot as usize)
        {
            entry.side.rule = rule;
        }
    }

    /// Notes as what the flow is written down.
    pub fn set_audit(&mut self, flow: FlowId, audit: AuditMark) {
        if self.get(flow).is_some()
            && let Some(entry) = self.entries.get_mut(flow.slot as usize)
        {
            entry.side.audit = audit;
        }
    }

    /// What the flow has carried.
    #[must_use]
    pub fn carried(&self, flow: FlowId) -> Option<Carried> {
        self.get(flow)?;
        self.entries.get(flow.slot as usize).map(|entry| entry.carried)
    }

    /// What the flow has carried so far, which is counted elsewhere from now on.
    pub fn take_carried(&mut self, flow: FlowId) -> Carried {
        let is_there = self.get(flow).is_some();
        let entry = self.entries.get_mut(flow.slot as usize).filter(|_| is_there);
        entry.map(|entry| std::mem::take(&mut entry.carried)).unwrap_or_default()
    }

    /// What another has carried that the flow has taken the place of.
    pub fn add_carried(&mut self, flow: FlowId, carried: Carried) {
        if self.get(flow).is_some()
            && let Some(entry) = self.entries.get_mut(flow.slot as usize)
        {
            entry.carried.add(carried);
        }
    }

    /// Counts what the container has sent on a flow.
    pub fn count_up(&mut self, flow: FlowId, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(flow.slot as usize) {
            entry.carried.up.record(bytes);
        }
    }

    /// Counts what the container was sent on a flow.
    pub fn count_down(&mut self, flow: FlowId, sent: Traffic) {
        if let Some(entry) = self.entries.get_mut(flow.slot as usize) {
            entry.carried.down.add(sent);
        }
    }

    /// The counters of rules and of ways.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// What a rule has let through, flows that are alive included; it looks at every flow.
    #[must_use]
    pub fn carried_by_rules(&self) -> Vec<(RuleMark, Tally)> {
        self.ledger.rules_with(self.entries.iter().map(|(_, entry)| (entry.side.rule, entry.carried.both())))
    }

    /// The same by the destination that is written down.
    #[must_use]
    pub fn carried_by_audit(&self) -> Vec<Carried> {
        self.ledger.audit_with(self.entries.iter().map(|(_, entry)| (entry.side.audit, entry.carried)))
    }

    /// The same by the way that was taken.
    #[must_use]
    pub fn carried_by_ways(&self) -> Vec<(Way, Tally)> {
        self.ledger.ways_with(self.entries.iter().map(|(_, entry)| (entry.side.way, entry.carried.both())))
    }

    /// When the flow last carried anything.
    #[must_use]
    pub fn last_active(&self, flow: FlowId) -> Option<Instant> {
        self.get(flow)?;
        self.entries.get(flow.slot as usize).map(|entry| entry.last_active)
    }

    /// Notes that the flow carried something; when it did so before.
    pub fn touch(&mut self, flow: FlowId, now: Instant) -> Option<Instant> {
        self.get(flow)?;
        let before = std::mem::replace(&mut self.entries[flow.slot as usize].last_active, now);
        if self.entries[flow.slot as usize].newer != NIL {
            self.unlink(flow.slot);
            self.link_newest(flow.slot);
        }
        Some(before)
    }

    /// Slots that have ever been used: no flow has one beyond.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.generations.len()).unwrap_or(u32::MAX)
    }

    /// The flow in a slot, if there is one.
    #[must_use]
    pub fn meet(&self, slot: u32) -> Option<Met<'_, T>> {
        let entry = self.entries.get(slot as usize)?;
        let flow = FlowId { slot, generation: *self.generations.get(slot as usize)? };
        let Entry { key, side, since, last_active, carried, body, .. } = entry;
        let (key, side, since, last_active, carried) = (*key, *side, *since, *last_active, *carried);
        Some(Met { flow, key, side, since, last_active, carried, body })
    }

    /// The flow that gives way to one of this protocol: the least recently used of those that have been silent for at least
    /// `idle`, or of its kind alone, if that has its share.
    #[must_use]
    pub fn eviction_candidate(&self, protocol: FlowProtocol, now: Instant, idle: Duration) -> Option<FlowId> {
        let own = self.ages[list_of(protocol)].oldest;
        let other = if self.has_its_share(protocol) { NIL } else { self.ages[1 - list_of(protocol)].oldest };
        let oldest =
            [own, other].into_iter().filter_map(|slot| Some((slot, self.entries.get(slot as usize)?)));
        let (slot, entry) = oldest.min_by_key(|(_, entry)| entry.last_active)?;
        (entry.last_active + idle <= now)
            .then(|| FlowId { slot, generation: self.generations[slot as usize] })
    }

    /// Flows of the kind of `protocol` that have been silent for at least `idle`, the longest silent first.
    pub fn silent_longest(
        &self,
        protocol: FlowProtocol,
        now: Instant,
        idle: Duration,
    ) -> impl Iterator<Item = (FlowId, &T)> {
        let entry = |slot: u32| Some((slot, self.entries.get(slot as usize)?));
        let by_age = std::iter::successors(entry(self.ages[list_of(protocol)].oldest), move |(_, older)| {
            entry(older.newer)
        });
        let silent = by_age.take_while(move |(_, entry)| entry.last_active + idle <= now);
        silent
            .map(|(slot, entry)| (FlowId { slot, generation: self.generations[slot as usize] }, &entry.body))
    }

    /// Every flow, oldest slot first.
    pub fn ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        self.entries.iter().map(|(slot, _)| {
            let slot = u32::try_from(slot).expect("the flow limit is far below 2^32");
            FlowId { slot, generation: self.generations[slot as usize] }
        })
    }

    fn link_newest(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        let ages = &mut self.ages[list_of(entry.key.protocol)];
        entry.older = ages.newest;
        entry.newer = NIL;
        let newest = std::mem::replace(&mut ages.newest, slot);
        ages.len += 1;
        match newest {
            NIL => ages.oldest = slot,
            newest => self.entries[newest as usize].newer = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { older, newer, key, .. } = self.entries[slot as usize];
        let list = list_of(key.protocol);
        self.ages[list].len -= 1;
        match older {
            NIL => self.ages[list].oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NIL => self.ages[list].newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests;
