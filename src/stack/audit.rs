//! Where the container goes, for whoever writes it down: each destination once, and in the end what it has carried.
//!
//! Nothing is written here: new destinations wait in an outbox for the driver, which may take its time; what does not fit is
//! counted. A destination is a protocol, a peer on the host's side, the name that it was found by, and what became of it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use ahash::RandomState;

use super::Stack;
use super::boundary::Instant;
use super::flow::{Carried, FlowProtocol};
use super::policy::{Ask, RuleMark, Standing, describe};
use crate::config::limits::{AUDIT_DESTINATIONS, AUDIT_OUTBOX};
use crate::config::rules::{Direction, RuleProtocol, Verdict};

/// Names a destination; none where nothing is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditMark(u32);

impl AuditMark {
    /// Not written down.
    pub const NONE: AuditMark = AuditMark(u32::MAX);

    /// Its place.
    #[must_use]
    pub fn index(self) -> Option<usize> {
        (self != AuditMark::NONE).then_some(self.0 as usize)
    }
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// What is spoken; of queries to the DNS forwarder there is no peer.
    pub protocol: RuleProtocol,
    /// The name that it was found by, or that was asked for.
    pub name: Option<String>,
    /// The endpoint on the host's side; port zero for echo.
    pub peer: Option<SocketAddr>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEvent {
    /// A destination that was not known before.
    New {
        /// Which.
        destination: Destination,
        /// The rule that decided, where one did.
        rule: Option<String>,
        /// When.
        at: Instant,
    },
    /// In the end, of each: how many flows, and what they carried.
    Total {
        /// Which.
        destination: Destination,
        /// Flows, or packets that began none.
        flows: u64,
        /// What they have carried.
        carried: Carried,
    },
}

#[derive(Debug)]
struct Known {
    destination: Destination,
    flows: u64,
}

/// What is known so far.
#[derive(Debug)]
pub struct Audit {
    known: Vec<Known>,
    places: HashMap<Destination, u32, RandomState>,
    outbox: VecDeque<AuditEvent>,
    lost: u64,
    /// Destinations that the default refused: they are on no list.
    drifted: Vec<Destination>,
    drifts: u64,
}

impl Audit {
    /// Nothing yet.
    #[must_use]
    pub fn new(hasher: RandomState) -> Audit {
        Audit {
            known: Vec::new(),
            places: HashMap::with_hasher(hasher),
            outbox: VecDeque::new(),
            lost: 0,
            drifted: Vec::new(),
            drifts: 0,
        }
    }

    fn note(
        &mut self,
        destination: Destination,
        rule: impl FnOnce() -> Option<String>,
        at: Instant,
    ) -> AuditMark {
        if let Some(place) = self.places.get(&destination) {
            if let Some(known) = self.known.get_mut(*place as usize) {
                known.flows += 1;
            }
            return AuditMark(*place);
        }
        if self.known.len() >= AUDIT_DESTINATIONS || self.outbox.len() >= AUDIT_OUTBOX {
            self.lost += 1;
            return AuditMark::NONE;
        }
        let place = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        self.outbox.push_back(AuditEvent::New { destination: destination.clone(), rule: rule(), at });
        self.known.push(Known { destination: destination.clone(), flows: 1 });
        self.places.insert(destination, place);
        AuditMark(place)
    }

    fn drift(&mut self, destination: &Destination) {
        const SHOWN: usize = 16;
        self.drifts += 1;
        if self.drifted.len() < SHOWN && !self.drifted.contains(destination) {
            self.drifted.push(destination.clone());
        }
    }
}

impl Stack {
    /// What is to be written down next.
    pub fn poll_audit(&mut self) -> Option<AuditEvent> {
        self.audit.as_mut()?.outbox.pop_front()
    }

    /// Destinations that there was no room for.
    #[must_use]
    pub fn audit_lost(&self) -> u64 {
        self.audit.as_ref().map_or(0, |audit| audit.lost)
    }

    /// Some of the destinations that no rule knows and the default has refused, and how often that was.
    #[must_use]
    pub fn drifted(&self) -> (&[Destination], u64) {
        self.audit.as_ref().map_or((&[], 0), |audit| (&audit.drifted, audit.drifts))
    }

    /// What each destination has carried, flows that are alive included.
    #[must_use]
    pub fn audit_totals(&self) -> Vec<AuditEvent> {
        let Some(audit) = &self.audit else { return Vec::new() };
        let carried = self.flows.carried_by_audit();
        let total = |(place, known): (usize, &Known)| AuditEvent::Total {
            destination: known.destination.clone(),
            flows: known.flows,
            carried: carried.get(place).copied().unwrap_or_default(),
        };
        audit.known.iter().enumerate().map(total).collect()
    }

    /// Writes down what was decided about something that goes out.
    pub(super) fn audit(
        &mut self,
        ask: &Ask<'_>,
        verdict: Verdict,
        rule: RuleMark,
        now: Instant,
    ) -> AuditMark {
        let Some(audit) = &mut self.audit else { return AuditMark::NONE };
        let policy = self.policy.as_deref();
        let destination = match *ask {
            Ask::Flow { direction: Direction::In, .. } => return AuditMark::NONE,
            Ask::Flow { direction: Direction::Out, protocol, peer, .. } => Destination {
                protocol: match protocol {
                    FlowProtocol::Tcp => RuleProtocol::Tcp,
                    FlowProtocol::Udp => RuleProtocol::Udp,
                    FlowProtocol::Echo => RuleProtocol::Icmp,
                },
                name: policy.and_then(|policy| policy.names.asked(peer.ip(), now)).map(str::to_owned),
                peer: Some(peer),
                verdict,
            },
            Ask::Query { name } => Destination {
                protocol: RuleProtocol::Dns,
                name: name.map(str::to_owned),
                peer: None,
                verdict,
            },
        };
        if verdict != Verdict::Allow
            && policy.is_some_and(|policy| {
                rule == policy.standing(Standing::DefaultOut) || rule == policy.standing(Standing::DefaultDns)
            })
        {
            audit.drift(&destination);
        }
        audit.note(destination, || policy.and_then(|policy| describe(policy, rule)), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(port: u16) -> Destination {
        let peer = Some(SocketAddr::from(([203, 0, 113, 2], port)));
        Destination { protocol: RuleProtocol::Tcp, name: None, peer, verdict: Verdict::Allow }
    }

    #[test]
    fn a_destination_is_told_once_and_there_are_only_so_many() {
        let mut audit = Audit::new(RandomState::with_seeds(1, 2, 3, 4));
        let at = Instant::ZERO;
        let first = audit.note(destination(1), || None, at);
        assert_eq!(audit.note(destination(1), || None, at), first);
        assert_eq!((audit.outbox.len(), audit.known[0].flows), (1, 2));
        for port in 2..=u16::MAX {
            audit.note(destination(port), || None, at);
            audit.outbox.clear();
        }
        assert_eq!(audit.known.len(), AUDIT_DESTINATIONS);
        assert_eq!(audit.lost, u64::from(u16::MAX) - AUDIT_DESTINATIONS as u64);
        // A driver that does not come finds no more than fits.
        let mut slow = Audit::new(RandomState::with_seeds(1, 2, 3, 4));
        for port in 1..=u16::MAX {
            slow.note(destination(port), || None, at);
        }
        assert_eq!(slow.outbox.len(), AUDIT_OUTBOX);
    }
}
