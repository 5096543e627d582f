//! The user's hook: a program that is asked about what begins, before any rule.
//!
//! Nothing here waits. What is about to begin and is not known from an earlier answer becomes a question, and is held where it
//! would wait for the host anyway: a SYN in its endpoint, datagrams and pings where they wait for their socket, a client of a published
//! port with its connection accepted and no SYN sent. No socket toward the world is opened before the answer. The
//! driver carries questions ([`Stack::poll_question`]) and answers ([`Stack::handle_verdict`]); a question that has had no
//! answer in time ends as [`OnFailure`](crate::config::OnFailure) says. An answer to a question that is no more changes nothing.
//!
//! Bounded: questions (`HOOK_QUESTIONS`), what waits for each, answers that are remembered (`HOOK_ANSWERS`). Queries to the DNS
//! forwarder are the rules' alone: the names that the hook is told come from there.

mod verdict;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;

use super::Stack;
use super::boundary::{Action, ArrivedDatagrams, Duration, FlowId, Instant, ListenerId};
use super::drop_reason::DropReason;
use super::flow::FlowProtocol;
use super::policy::Ask;
use super::policy::judge::{Judged, Spliced};
use crate::config::limits::{
    HOOK_ANSWERS, HOOK_DATAGRAMS, HOOK_LONGEST_LIFETIME, HOOK_NAMES, HOOK_QUESTIONS,
};
use crate::config::rules::{Direction, Verdict};
use crate::config::{HookSettings, HookVerdict, OnFailure};

/// Names a question, and never another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub u64);

/// What the hook is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its name.
    pub id: QuestionId,
    /// Who begins.
    pub direction: Direction,
    /// Transport.
    pub protocol: FlowProtocol,
    /// The container's endpoint, where it is known; port zero for echo.
    pub local: Option<SocketAddr>,
    /// The endpoint on the host's side, as rules see it; port zero for echo.
    pub remote: SocketAddr,
    /// What the peer is known by, the name that it was found by last in front.
    pub names: Vec<String>,
}

/// What has come of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookStats {
    /// Questions.
    pub asked: u64,
    /// What an earlier answer has decided.
    pub remembered: u64,
    /// By [`HookVerdict`], what earlier answers have decided included.
    pub said: [u64; HookVerdict::ALL.len()],
    /// No answer in time, or none that makes sense.
    pub failed: u64,
    /// Answers to questions that are no more.
    pub stale: u64,
}

/// What an answer is remembered for: the other end, and the server's port.
type Place = (Direction, FlowProtocol, IpAddr, u16);

/// A client of a published UDP port, and where it has come to.
type Client = (ListenerId, SocketAddr, Option<IpAddr>);

/// Datagrams that a client has sent.
type Held = Vec<(ArrivedDatagrams, Box<[u8]>)>;

/// What waits for an answer.
#[derive(Debug)]
enum Waiting {
    /// A flow of the table, and what has its socket opened where it has none yet.
    Flow(FlowId, Option<Action>),
    /// A client of a published UDP port, who has no flow yet.
    Client(Client, Held),
    /// Something past the link, which the driver holds.
    Spliced(Spliced),
}

#[derive(Debug)]
struct Pending {
    waiting: Waiting,
    place: Place,
    direction: Direction,
    until: Instant,
}

/// Questions and answers.
#[derive(Debug)]
pub struct Hook {
    settings: HookSettings,
    /// By name, which is by age: all have the same time.
    pending: BTreeMap<QuestionId, Pending>,
    /// Of these, how many the container has begun.
    of_container: usize,
    clients: HashMap<Client, QuestionId, RandomState>,
    next: u64,
    outbox: VecDeque<Question>,
    /// What became of what the driver holds.
    settled: VecDeque<(QuestionId, Judged)>,
    answers: HashMap<Place, (HookVerdict, Instant), RandomState>,
    is_gone: bool,
    stats: HookStats,
}

/// What there is to be said without a question.
enum Known {
    /// An answer of the hook's, or that there will be none.
    Said(Option<HookVerdict>),
    /// Nothing: ask.
    Nothing,
    /// Nothing, and too many have been asked.
    Busy,
}

impl Hook {
    /// Nothing has been asked yet. Neither the container nor the world can aim for one bucket, by the hasher's secret.
    #[must_use]
    fn new(settings: HookSettings, hasher: RandomState) -> Hook {
        Hook {
            settings,
            pending: BTreeMap::new(),
            of_container: 0,
            clients: HashMap::with_hasher(hasher.clone()),
            next: 0,
            outbox: VecDeque::new(),
            settled: VecDeque::new(),
            answers: HashMap::with_hasher(hasher),
            is_gone: false,
            stats: HookStats::default(),
        }
    }

    fn has_room(&self, direction: Direction) -> bool {
        self.pending.len() < HOOK_QUESTIONS
            && (direction == Direction::In || self.of_container < HOOK_QUESTIONS / 4 * 3)
    }

    fn known(&self, place: &Place, now: Instant) -> Known {
        if self.is_gone {
            return Known::Said(None);
        }
        match self.answers.get(place) {
            Some((verdict, until)) if *until > now => Known::Said(Some(*verdict)),
            Some(_) | None if self.has_room(place.0) => Known::Nothing,
            Some(_) | None => Known::Busy,
        }
    }

    /// One more question; there is room for it.
    fn ask(&mut self, mut question: Question, place: Place, waiting: Waiting, now: Instant) -> QuestionId {
        let id = QuestionId(self.next);
        self.next += 1;
        question.id = id;
        let (direction, until) = (question.direction, now + self.settings.patience.into());
        if let Waiting::Client(client, _) = &waiting {
            self.clients.insert(*client, id);
        }
        self.of_container += usize::from(direction == Direction::Out);
        self.pending.insert(id, Pending { waiting, place, direction, until });
        self.outbox.push_back(question);
        self.stats.asked += 1;
        id
    }

    /// What waits for an answer to this question, which is no more after that.
    fn take(&mut self, id: QuestionId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.of_container -= usize::from(pending.direction == Direction::Out);
        if let Waiting::Client(client, _) = &pending.waiting {
            self.clients.remove(client);
        }
        Some(pending)
    }

    /// The oldest question, if its time is over.
    fn expired(&self, now: Instant) -> Option<QuestionId> {
        let (id, oldest) = self.pending.first_key_value()?;
        (oldest.until <= now || self.is_gone).then_some(*id)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(_, oldest)| oldest.until)
    }

    /// Remembers an answer. One that there is no room for is asked for again.
    fn remember(&mut self, place: Place, verdict: HookVerdict, lifetime: Duration, now: Instant) {
        if self.answers.len() >= HOOK_ANSWERS && !self.answers.contains_key(&place) {
            self.answers.retain(|_, (_, until)| *until > now);
            if self.answers.len() >= HOOK_ANSWERS {
                return;
            }
        }
        let longest = HOOK_LONGEST_LIFETIME.into();
        self.answers.insert(place, (verdict, now + lifetime.min(longest)));
    }
}

fn place_of(ask: &Ask<'_>) -> Option<Place> {
    match *ask {
        Ask::Flow { direction, protocol, peer, port, assumed: _ } => {
            Some((direction, protocol, peer.ip(), port))
        }
        Ask::Query { .. } => None,
    }
}

impl Stack {
    /// Asks a program of the user's about everything that begins from now on, before any rule.
    pub fn ask_hook_first(&mut self, settings: HookSettings) {
        self.hook = Some(Box::new(Hook::new(settings, self.hasher.clone())));
        // What it has decided is counted as a rule's, and names are told to it.
        self.open_policy();
    }

    /// What the hook is to be asked next.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.hook.as_mut()?.outbox.pop_front()
    }

    /// What became of something past the link that the driver was told to hold.
    pub fn poll_settled(&mut self) -> Option<(QuestionId, Judged)> {
        self.hook.as_mut()?.settled.pop_front()
    }

    /// Questions and answers so far, and how many questions wait; none where there is no hook.
    #[must_use]
    pub fn hook_stats(&self) -> Option<(HookStats, usize)> {
        self.hook.as_ref().map(|hook| (hook.stats, hook.pending.len()))
    }

    /// Whether the hook has ended.
    #[must_use]
    pub fn is_hook_gone(&self) -> bool {
        self.hook.as_ref().is_some_and(|hook| hook.is_gone)
    }

    /// What becomes of what the hook says nothing about; nothing where the rules decide.
    pub(super) fn hook_failure(&self) -> Option<Verdict> {
        match self.hook.as_ref()?.settings.on_failure {
            OnFailure::Deny => Some(Verdict::Deny),
            OnFailure::Pass => None,
        }
    }

    /// What the hook has said of such a flow before, as far as that still counts; the outer nothing where there is no hook.
    #[must_use]
    pub fn recall(&self, ask: &Ask<'_>, now: Instant) -> Option<Option<HookVerdict>> {
        let (hook, place) = (self.hook.as_ref()?, place_of(ask)?);
        let known = hook.answers.get(&place).filter(|(_, until)| *until > now);
        Some(known.map(|(verdict, _)| *verdict))
    }

    /// Whether a client of a published port may be accepted, or has to wait in the host's queue for others to be answered.
    pub(super) fn has_room_for_question(&self) -> bool {
        self.hook.as_ref().is_none_or(|hook| hook.is_gone || hook.has_room(Direction::In))
    }

    pub(super) fn hook_timeout(&self) -> Option<Instant> {
        self.hook.as_ref().and_then(|hook| hook.poll_timeout())
    }

    /// Holds one more datagram of a client of a published UDP port, if the hook has been asked about him; whether it has been.
    ///
    /// # Errors
    /// There are too many of them.
    pub(super) fn hold_more(
        &mut self,
        listener: ListenerId,
        arrived: &ArrivedDatagrams,
        payload: &[u8],
    ) -> Result<bool, DropReason> {
        let client = (listener, arrived.source, arrived.local);
        let Some(hook) = &mut self.hook else { return Ok(false) };
        let Some(pending) = hook.clients.get(&client).and_then(|id| hook.pending.get_mut(id)) else {
            return Ok(false);
        };
        let Waiting::Client(_, held) = &mut pending.waiting else { return Ok(false) };
        if held.len() >= HOOK_DATAGRAMS {
            return Err(DropReason::HookBusy);
        }
        held.push((*arrived, payload.into()));
        Ok(true)
    }

    /// Asks, where [`Stack::consult`] has found nothing to go by.
    fn ask(
        &mut self,
        ask: &Ask<'_>,
        local: Option<SocketAddr>,
        waiting: Waiting,
        now: Instant,
    ) -> Option<QuestionId> {
        let Ask::Flow { direction, protocol, peer, .. } = *ask else { return None };
        let mut names: Vec<String> = Vec::new();
        if let Some(policy) = &self.policy {
            let known = policy.names.of(peer.ip(), now);
            let (asked, aliases): (Vec<_>, Vec<_>) = known.partition(|learnt| learnt.is_asked);
            let all = asked.into_iter().rev().chain(aliases).take(HOOK_NAMES);
            names.extend(all.map(|learnt| learnt.name.to_string()));
        }
        let question = Question { id: QuestionId(0), direction, protocol, local, remote: peer, names };
        let place = place_of(ask)?;
        Some(self.hook.as_mut()?.ask(question, place, waiting, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        (Direction::Out, FlowProtocol::Tcp, IpAddr::from([203, 0, 113, 2]), port)
    }

    fn hook() -> Hook {
        Hook::new(HookSettings::default(), RandomState::with_seeds(1, 2, 3, 4))
    }

    fn question(direction: Direction) -> Question {
        let remote = SocketAddr::from(([203, 0, 113, 2], 80));
        let (id, names) = (QuestionId(9), Vec::new());
        Question { id, direction, protocol: FlowProtocol::Tcp, local: None, remote, names }
    }

    fn flow(slot: u32) -> Waiting {
        Waiting::Flow(FlowId { slot, generation: 0 }, None)
    }

    #[test]
    fn questions_are_bounded_and_some_are_kept_for_clients() {
        let (mut hook, now) = (hook(), Instant::ZERO);
        let mut slot = 0;
        while let Known::Nothing = hook.known(&place(80), now) {
            hook.ask(question(Direction::Out), place(80), flow(slot), now);
            slot += 1;
        }
        assert_eq!(hook.pending.len(), HOOK_QUESTIONS / 4 * 3);
        while hook.has_room(Direction::In) {
            hook.ask(question(Direction::In), place(80), flow(slot), now);
            slot += 1;
        }
        assert_eq!((hook.pending.len(), hook.outbox.len()), (HOOK_QUESTIONS, HOOK_QUESTIONS));
        // Each is taken once, and makes room for one.
        assert!(hook.take(QuestionId(0)).is_some() && hook.take(QuestionId(0)).is_none());
        assert!(hook.has_room(Direction::Out));
        let second = Instant::from_secs(1);
        assert_eq!(hook.expired(Instant::from_millis(999)), None);
        assert_eq!((hook.expired(second), hook.poll_timeout()), (Some(QuestionId(1)), Some(second)));
    }

    #[test]
    fn answers_are_remembered_for_as_long_as_they_say_and_there_are_only_so_many() {
        let (mut hook, at) = (hook(), Instant::from_secs);
        let said = |hook: &Hook, port, now| match hook.known(&place(port), now) {
            Known::Said(said) => said,
            Known::Nothing | Known::Busy => None,
        };
        hook.remember(place(1), HookVerdict::Deny, Duration::from_secs(10), at(0));
        assert_eq!((said(&hook, 1, at(9)), said(&hook, 1, at(10))), (Some(HookVerdict::Deny), None));
        hook.remember(place(1), HookVerdict::Allow, Duration::from_secs(u64::MAX / 4_000_000), at(0));
        assert_eq!(said(&hook, 1, at(86_399)), Some(HookVerdict::Allow));
        assert_eq!(said(&hook, 1, at(86_400)), None, "a day at most");
        for port in 2..=u16::MAX {
            hook.remember(place(port), HookVerdict::Pass, Duration::from_secs(5), at(0));
        }
        assert_eq!(hook.answers.len(), HOOK_ANSWERS);
        hook.remember(place(9_999), HookVerdict::Reject, Duration::from_secs(5), at(7));
        assert_eq!(said(&hook, 9_999, at(8)), Some(HookVerdict::Reject), "the old ones gave way");
        assert_eq!(hook.answers.len(), 2);
    }
}
