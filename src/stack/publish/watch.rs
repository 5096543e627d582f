//! Whether anybody in the container listens on a published TCP port, so that the host's port may refuse where nobody does.
//!
//! The host's kernel completes a client's handshake before we hear of him, so a port must not listen while the container's
//! does not. Whether that does is asked as anybody would: by a SYN, from the gateway. A SYN-ACK is answered by a RST, so that
//! the server's program never learns of it; a RST says that nobody listens. This needs nothing of the container but its link.
//!
//! A port is *open*, and asked about only when the container has refused a client; or it is *shut*, and asked about again and
//! again: at once, then ever less often by the time it has been shut. Without an answer, as from a packet filter, it is open.
//! A server that begins to listen is found within a thousandth of the time it let wait for it, a millisecond at least and a
//! tenth of a second at most. With [`ClosedPorts::Refuse`] a port is asked about from the beginning. With
//! [`ClosedPorts::Learn`] it begins open, and opens again after a while: an instance that nobody talks to asks nothing.
//!
//! RFC 9293 §3.10.7.3 (what a SYN earns), RFC 1122 §4.2.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use ahash::RandomState;

use crate::config::limits::{PORT_QUESTIONS_PER_SECOND, PORT_QUESTIONS_UNANSWERED};
use crate::config::{ClosedPorts, PortProtocol};
use crate::stack::Stack;
use crate::stack::boundary::{Action, Duration, FrameSink, Instant, ListenerId};
use crate::stack::drop_reason::DropReason;
use crate::stack::flow::{FlowKey, FlowProtocol};
use crate::wire::ip;
use crate::wire::tcp::{self, BareSegment, Flags, Segment};

/// Least and most time between two questions about one port.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// The part of the time a port has been shut that may pass until the next question.
const PART_OF_AGE: u64 = 1_024;
/// How long a port refuses because the container has refused a client, where it does so for that reason only.
const LEARNT_FOR: Duration = Duration::from_secs(10);
/// A link of one hop answers at once.
const PATIENCE: Duration = Duration::from_millis(20);
/// Questions at once, that a link with a short queue has room for the answers.
const AT_A_TIME: usize = 32;
/// A question's share of the time.
const QUESTION_MICROS: u64 = 1_000_000 / PORT_QUESTIONS_PER_SECOND as u64;
/// Ports that questions come from: these, one after the other.
const FIRST_PORT: u16 = 60_000;
const PORTS: u64 = 5_000;
/// What a SYN offers; nothing is ever sent into it.
const WINDOW: u16 = 1_024;

/// All published TCP ports.
#[derive(Debug)]
pub struct Watches {
    ports: BTreeMap<u32, Watch>,
    questions: HashMap<FlowKey, u32, RandomState>,
    shut: usize,
    /// No later than the first that is due.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Watch {
    /// Since when nobody listens; the host's port refuses.
    shut_since: Option<Instant>,
    question: Option<Question>,
    unanswered: u8,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Question {
    key: FlowKey,
    sequence: u32,
    asked_at: Instant,
}

impl Watches {
    /// None yet. The container cannot aim for one bucket, by the hasher's secret.
    pub fn new(hasher: RandomState) -> Watches {
        Watches { ports: BTreeMap::new(), questions: HashMap::with_hasher(hasher), shut: 0, next: None }
    }

    fn wake(&mut self, listener: u32, at: Instant) {
        if let Some(watch) = self.ports.get_mut(&listener) {
            watch.due = Some(at);
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    fn forget_question(&mut self, listener: u32) -> Option<Question> {
        let question = self.ports.get_mut(&listener)?.question.take()?;
        self.questions.remove(&question.key);
        Some(question)
    }

    /// When to ask again about a port that is shut.
    fn interval(&self, age: Duration) -> Duration {
        let (least, most) = INTERVAL;
        let by_age = Duration::from_micros(age.total_micros() / PART_OF_AGE).clamp(least, most);
        by_age.max(Duration::from_micros(self.shut as u64 * QUESTION_MICROS))
    }

    /// When [`Stack::ask_about_ports`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

impl Stack {
    /// Begins to watch a port that the driver listens on.
    pub(in crate::stack) fn watch_port(&mut self, listener: u32) {
        let Some(rule) = self.published.get(&listener) else { return };
        if rule.protocol != PortProtocol::Tcp || self.config.closed_ports == ClosedPorts::Accept {
            return;
        }
        let watch = Watch { shut_since: None, question: None, unanswered: 0, due: None };
        self.watches.ports.insert(listener, watch);
        if self.config.closed_ports == ClosedPorts::Refuse {
            self.watches.wake(listener, Instant::ZERO);
        }
    }

    /// A port is published no longer.
    pub(in crate::stack) fn unwatch_port(&mut self, listener: u32) {
        self.watches.forget_question(listener);
        if let Some(watch) = self.watches.ports.remove(&listener) {
            self.watches.shut -= usize::from(watch.shut_since.is_some());
        }
    }

    /// The container has refused a client at `server`: the ports that lead there are asked about.
    pub(in crate::stack) fn suspect_ports(&mut self, server: SocketAddr, now: Instant) {
        if self.watches.ports.is_empty() {
            if self.share.has_leader() {
                self.errands.suspect(server);
            }
            return;
        }
        let suspects: Vec<u32> = self.watches.ports.keys().copied().collect();
        for listener in suspects {
            let is_idle = self
                .watches
                .ports
                .get(&listener)
                .is_some_and(|watch| watch.question.is_none() && watch.due.is_none());
            if is_idle && self.server_of(listener).is_some_and(|key| key.container == server) {
                self.watches.wake(listener, now);
            }
        }
    }

    /// The driver could not listen on a port that is open.
    pub(in crate::stack) fn port_not_listening(&mut self, listener: ListenerId, now: Instant) {
        self.watches.forget_question(listener.0);
        let Some(watch) = self.watches.ports.get_mut(&listener.0) else { return };
        if watch.shut_since.replace(now).is_none() {
            self.watches.shut += 1;
        }
        self.watches.wake(listener.0, now + INTERVAL.1);
    }

    /// Server and gateway of a port, as the flow between them that a question is.
    fn server_of(&self, listener: u32) -> Option<FlowKey> {
        let rule = self.published.get(&listener)?;
        let server = rule.container_address.or(self.config.link.container_like(rule.host_address))?;
        let gateway = self.config.link.gateway_like(server)?;
        Some(FlowKey {
            protocol: FlowProtocol::Tcp,
            container: SocketAddr::new(server, rule.container_port),
            remote: SocketAddr::new(gateway, 0),
        })
    }

    /// Asks about the ports that are due.
    pub(in crate::stack) fn ask_about_ports(&mut self, now: Instant, frames: &mut impl FrameSink) {
        if self.watches.next.is_none_or(|next| next > now) {
            return;
        }
        let due = self.watches.ports.iter().filter_map(|(listener, watch)| Some((watch.due?, *listener)));
        let mut due: Vec<(Instant, u32)> = due.filter(|(at, _)| *at <= now).collect();
        due.sort_unstable();
        for (_, listener) in due.iter().take(AT_A_TIME) {
            self.ask_about_port(*listener, now, frames);
        }
        self.watches.next = if due.len() > AT_A_TIME {
            Some(now + Duration::from_micros(AT_A_TIME as u64 * QUESTION_MICROS))
        } else {
            self.watches.ports.values().filter_map(|watch| watch.due).min()
        };
    }

    fn ask_about_port(&mut self, listener: u32, now: Instant, frames: &mut impl FrameSink) {
        if let Some(question) = self.watches.forget_question(listener) {
            debug_assert!(question.asked_at + PATIENCE <= now);
            if let Some(watch) = self.watches.ports.get_mut(&listener) {
                watch.unanswered += 1;
                if watch.unanswered >= PORT_QUESTIONS_UNANSWERED {
                    self.settle_port(listener, true, now);
                    return;
                }
            }
        }
        if self.has_learnt_enough(listener, now) {
            self.settle_port(listener, true, now);
            return;
        }
        let Some(key) = self.server_of(listener) else { return };
        if self.link_view().is_err() {
            // There is no container yet.
            self.settle_port(listener, false, now);
            return;
        }
        // Nobody can guess either (RFC 6528), and no two questions have the same.
        let seed = self.hasher.hash_one((key, now.total_micros(), listener));
        let from = |step| FlowKey {
            remote: SocketAddr::new(key.remote.ip(), FIRST_PORT + (((seed >> 32) + step) % PORTS) as u16),
            ..key
        };
        // The answer is to come to this worker.
        let key = (0..PORTS).map(from).find(|key| self.share.is_mine(key)).unwrap_or_else(|| from(0));
        let port = key.remote.port();
        let sequence = seed as u32;
        let is_taken = self.flows.find(&key).is_some() || self.watches.questions.contains_key(&key);
        let header = self.header(key.remote.ip(), key.container.ip(), ip::protocol::TCP);
        let syn = BareSegment {
            source_port: port,
            destination_port: key.container.port(),
            sequence,
            acknowledgement: None,
            flags: Flags::SYN,
            window: WINDOW,
        };
        if is_taken || self.emit_segment(&header, &syn, frames).is_err() {
            self.watches.wake(listener, now + INTERVAL.0);
            return;
        }
        if let Some(watch) = self.watches.ports.get_mut(&listener) {
            watch.question = Some(Question { key, sequence, asked_at: now });
            self.watches.questions.insert(key, listener);
            self.watches.wake(listener, now + PATIENCE);
        }
    }

    /// Whether a port that a refused client has shut is opened again, whoever listens: no longer asked about, it costs
    /// nothing until another client comes.
    fn has_learnt_enough(&self, listener: u32, now: Instant) -> bool {
        let since = self.watches.ports.get(&listener).and_then(|watch| watch.shut_since);
        self.config.closed_ports == ClosedPorts::Learn && since.is_some_and(|since| since + LEARNT_FOR <= now)
    }

    /// Takes a segment of no flow if it answers a question.
    pub(in crate::stack) fn hear_of_port(
        &mut self,
        key: &FlowKey,
        packet: &ip::Packet<'_>,
        segment: &Segment<'_>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Option<Result<(), DropReason>> {
        let listener = *self.watches.questions.get(key)?;
        let question = self.watches.ports.get(&listener)?.question.as_ref()?;
        let flags = segment.flags;
        if !flags.contains(Flags::ACK) || segment.acknowledgement != question.sequence.wrapping_add(1) {
            return None;
        }
        let is_open = flags.contains(Flags::SYN) && !flags.contains(Flags::RST);
        if !is_open && !flags.contains(Flags::RST) {
            return None;
        }
        self.watches.forget_question(listener);
        self.settle_port(listener, is_open, now);
        Some(match tcp::reset_for(segment) {
            Some(reset) => self.send_bare(packet, &reset, frames),
            None => Ok(()),
        })
    }

    /// Opens or shuts a port, or leaves it so.
    fn settle_port(&mut self, listener: u32, is_open: bool, now: Instant) {
        let Some(watch) = self.watches.ports.get_mut(&listener) else { return };
        watch.due = None;
        if is_open {
            watch.unanswered = 0;
            if watch.shut_since.take().is_some() {
                self.watches.shut -= 1;
                self.actions.push_back(Action::Listen { listener: ListenerId(listener) });
            }
            return;
        }
        if watch.shut_since.is_none() {
            watch.shut_since = Some(now);
            self.watches.shut += 1;
            self.actions.push_back(Action::Refuse { listener: ListenerId(listener) });
        }
        let since = watch.shut_since.unwrap_or(now);
        watch.unanswered = 0;
        let again = now + self.watches.interval(now - since);
        self.watches.wake(listener, again);
    }

    /// Whether the host's port refuses clients, because nobody listens in the container.
    #[must_use]
    pub fn is_port_shut(&self, listener: ListenerId) -> bool {
        self.watches.ports.get(&listener.0).is_some_and(|watch| watch.shut_since.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_rarer_with_the_time_a_port_is_shut_and_with_the_number_of_ports() {
        let mut watches = Watches::new(RandomState::with_seeds(1, 2, 3, 4));
        watches.shut = 1;
        let interval =
            |watches: &Watches, millis| watches.interval(Duration::from_millis(millis)).total_millis();
        assert_eq!(interval(&watches, 0), 1);
        assert_eq!(interval(&watches, 10_240), 10);
        assert_eq!(interval(&watches, 3_600_000), 100);
        watches.shut = 4_096;
        assert_eq!(interval(&watches, 0), 4_096, "a thousand a second, all together");
    }
}
