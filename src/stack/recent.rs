//! What went no further lately, for whoever asks why something does not work.
//!
//! A ring of failures, each with its flow, what stopped it and how often. It is written on the way out of a failure, never on the
//! way of a packet that passes, and at most so often a second, so that a flood of bad packets costs nothing more.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::Stack;
use super::boundary::{Duration, FlowId, HostError, Instant};
use super::drop_reason::DropReason;
use super::flow::{FlowKey, FlowProtocol};
use super::policy::{RuleMark, describe};
use crate::config::limits::{RECENT_FAILURES, RECENT_FAILURES_PER_SECOND};
use crate::config::rules::Direction;
use crate::wire::frame::{self, Body};
use crate::wire::ip::{self, protocol};

/// Whose failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// IANA protocol number.
    pub protocol: u8,
    /// Who initiates.
    pub direction: Direction,
    /// Who began: the container, or a client.
    pub source: SocketAddr,
    /// Whom it was for, as who began sees it.
    pub destination: SocketAddr,
}

/// What stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// We did.
    Dropped(DropReason),
    /// The host's socket reported this.
    Host(HostError),
}

/// One failure, or several that were the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose, where the packet told.
    pub whose: Option<Failed>,
    /// What stopped it.
    pub why: Why,
    /// The rule that did, as it read then.
    pub rule: Option<String>,
    /// The last time.
    pub last: Instant,
    /// How often.
    pub count: u64,
}

/// The ring.
#[derive(Debug)]
pub struct Recent {
    ring: VecDeque<Failure>,
    /// The rule that has refused what is in hand.
    blamed: Option<RuleMark>,
    /// Written in the second that began then.
    written: (Instant, u32),
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { ring: VecDeque::new(), blamed: None, written: (Instant::ZERO, 0) }
    }
}

impl Recent {
    /// The rule that has refused what is in hand.
    pub fn blame(&mut self, rule: RuleMark) {
        self.blamed = Some(rule);
    }

    /// The last failures, the latest first.
    pub fn latest(&self) -> impl Iterator<Item = &Failure> {
        self.ring.iter().rev()
    }

    fn admits(&mut self, now: Instant) -> bool {
        let (began, count) = &mut self.written;
        if *began + Duration::from_secs(1) <= now {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        *count <= RECENT_FAILURES_PER_SECOND
    }

    fn note(&mut self, failure: Failure) {
        let is_same = |other: &Failure| {
            let ends = |failure: &Failure| {
                failure.whose.map(|whose| (whose.protocol, whose.source.ip(), whose.destination))
            };
            ends(other) == ends(&failure) && other.why == failure.why && other.rule == failure.rule
        };
        let before = self.ring.iter().position(is_same).and_then(|place| self.ring.remove(place));
        let count = before.map_or(0, |before| before.count) + failure.count;
        if self.ring.len() >= RECENT_FAILURES {
            self.ring.pop_front();
        }
        self.ring.push_back(Failure { count, ..failure });
    }
}

impl Stack {
    /// What went no further lately.
    #[must_use]
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// A frame of the container went no further.
    pub(super) fn note_dropped(&mut self, frame: &[u8], reason: DropReason, now: Instant) {
        let blamed = self.recent.blamed.take();
        if self.recent.admits(now) {
            let rule = self.rule_text(blamed);
            self.recent.note(Failure {
                whose: whose(frame),
                why: Why::Dropped(reason),
                rule,
                last: now,
                count: 1,
            });
        }
    }

    /// The host could not do what a flow needs.
    pub(super) fn note_host_error(&mut self, key: &FlowKey, error: HostError, now: Instant) {
        if self.recent.admits(now) {
            let whose = Failed {
                protocol: key.protocol.number(key.container.is_ipv6()),
                direction: Direction::Out,
                source: key.container,
                destination: key.remote,
            };
            let why = Why::Host(error);
            self.recent.note(Failure { whose: Some(whose), why, rule: None, last: now, count: 1 });
        }
    }

    /// The same of a flow that is in the table.
    pub(super) fn note_host_error_of(&mut self, flow: FlowId, error: HostError, now: Instant) {
        if let Some(key) = self.flows.key(flow) {
            self.note_host_error(&key, error, now);
        }
    }

    /// A flow was refused after it had waited for that to be decided.
    pub(super) fn note_refused_flow(
        &mut self,
        key: &FlowKey,
        direction: Direction,
        reason: DropReason,
        now: Instant,
    ) {
        let blamed = self.recent.blamed.take();
        if self.recent.admits(now) {
            let (source, destination) = match direction {
                Direction::Out => (key.container, key.remote),
                Direction::In => (key.remote, key.container),
            };
            let protocol = key.protocol.number(key.container.is_ipv6());
            let rule = self.rule_text(blamed);
            let whose = Some(Failed { protocol, direction, source, destination });
            self.recent.note(Failure { whose, why: Why::Dropped(reason), rule, last: now, count: 1 });
        }
    }

    /// A client was not let in.
    pub(super) fn note_refused_client(
        &mut self,
        protocol: FlowProtocol,
        client: SocketAddr,
        server: SocketAddr,
        reason: DropReason,
        now: Instant,
    ) {
        let blamed = self.recent.blamed.take();
        if self.recent.admits(now) {
            let whose = Failed {
                protocol: protocol.number(server.is_ipv6()),
                direction: Direction::In,
                source: client,
                destination: server,
            };
            let rule = self.rule_text(blamed);
            let why = Why::Dropped(reason);
            self.recent.note(Failure { whose: Some(whose), why, rule, last: now, count: 1 });
        }
    }

    fn rule_text(&self, mark: Option<RuleMark>) -> Option<String> {
        describe(self.policy()?, mark?)
    }
}

/// Whose packet a frame holds, as far as it can be read.
fn whose(frame: &[u8]) -> Option<Failed> {
    let frame = frame::parse(frame).ok()?;
    let Body::Ip(packet) = frame.body else { return None };
    let has_ports = matches!(packet.protocol, protocol::TCP | protocol::UDP) && !is_later_fragment(&packet);
    let port = |at: usize| match packet.payload.get(at..at + 2) {
        Some(bytes) if has_ports => u16::from_be_bytes([bytes[0], bytes[1]]),
        Some(_) | None => 0,
    };
    Some(Failed {
        protocol: packet.protocol,
        direction: Direction::Out,
        source: SocketAddr::new(packet.source, port(0)),
        destination: SocketAddr::new(packet.destination, port(2)),
    })
}

fn is_later_fragment(packet: &ip::Packet<'_>) -> bool {
    packet.fragment.is_some_and(|fragment| fragment.offset > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(port: u16, seconds: i64) -> Failure {
        let whose = Failed {
            protocol: 6,
            direction: Direction::Out,
            source: SocketAddr::from(([10, 0, 2, 100], 4_000 + port)),
            destination: SocketAddr::from(([203, 0, 113, 2], port)),
        };
        let (why, last) = (Why::Dropped(DropReason::RuleDenied), Instant::from_secs(seconds));
        Failure { whose: Some(whose), why, rule: None, last, count: 1 }
    }

    #[test]
    fn the_same_failure_is_one_with_a_count_and_the_oldest_gives_way() {
        let mut recent = Recent::default();
        for second in 0..3 {
            recent.note(failure(1, second));
        }
        assert_eq!(recent.latest().map(|failure| failure.count).collect::<Vec<_>>(), [3]);
        for port in 2..1_000 {
            recent.note(failure(port, 9));
        }
        assert_eq!(recent.latest().count(), RECENT_FAILURES);
        assert_eq!(recent.latest().next().and_then(|failure| failure.whose).unwrap().destination.port(), 999);
    }

    #[test]
    fn a_flood_is_written_down_so_often_a_second() {
        let mut recent = Recent::default();
        let admitted = (0..5_000).filter(|n| recent.admits(Instant::from_millis(n / 5))).count();
        assert_eq!(admitted, RECENT_FAILURES_PER_SECOND as usize);
        assert!(recent.admits(Instant::from_secs(2)));
    }
}
