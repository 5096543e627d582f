//! Rates, and who may go on within them: a token bucket, and turns of flows that wait for one.
//!
//! [`TokenBucket`] knows what may be sent by now. [`Scheduler`] is one direction of one container: the container's own bucket,
//! classes with buckets of their own (a rule that limits what it names), and the flows that wait. Whoever has something to
//! move asks ([`Scheduler::ask`]); where there is no token, or others wait, it is noted, and is told when its turn comes
//! ([`Scheduler::poll`]). What it then moved it pays for ([`Scheduler::pay`]).
//!
//! Turns go round by deficit (DRR, Shreedhar and Varghese 1995): each flow gets one quantum a round, whatever the size of
//! what it moves. A flow that did not wait before has its first quantum at once, so that a request with its
//! answer passes a transfer that fills the rate; and as in FQ-CoDel (RFC 8290 §4.2) one that was served stays in the
//! round for one more turn, or many short requests would never let the others on. Among classes, each has as many turns in
//! a row as flows of it wait.
//!
//! No packet waits here, only names of flows: what is not read or not acknowledged waits where it is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Bound;

use ahash::RandomState;

use super::boundary::Instant;
use crate::config::rate::Rate;

/// What a bucket saves up while nobody sends: enough that a busy machine's late wake-ups lose nothing.
const BURST: std::time::Duration = std::time::Duration::from_millis(50);
/// At least so much, or a slow rate would not let one super-segment through.
const LEAST_BURST_BYTES: usize = 16 << 10;
/// What the turns of a second share, a two-hundredth each, between the size of a packet and what a flow reads in a turn
/// ([`super::tcp::turns`]).
const TURNS_PER_SECOND: u64 = 200;
const LEAST_QUANTUM_BYTES: i64 = 1_514;
const LARGEST_QUANTUM_BYTES: i64 = 512 << 10;

/// A rate, and what of it has not been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    rate: Rate,
    burst_nanos: u64,
    /// When all that was taken is paid for at the rate, in nanoseconds.
    paid_until: u64,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate) -> TokenBucket {
        let burst = rate.time_for(LEAST_BURST_BYTES).max(BURST);
        TokenBucket { rate, burst_nanos: as_nanos(burst), paid_until: 0 }
    }

    /// Its rate.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The same debts at another rate.
    pub fn change(&mut self, rate: Rate) {
        *self = TokenBucket { paid_until: self.paid_until, ..TokenBucket::new(rate) };
    }

    /// Bytes that may be taken now.
    #[must_use]
    pub fn available(&self, now: Instant) -> usize {
        let now = nanos(now);
        let saved = (now + self.burst_nanos).saturating_sub(self.paid_until.max(now));
        let bytes = self.rate.bytes_in(std::time::Duration::from_nanos(saved));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Takes so many, more than are there if need be: the debt has to be paid before anything else passes.
    pub fn take(&mut self, bytes: usize, now: Instant) {
        self.paid_until = self.paid_until.max(nanos(now)) + as_nanos(self.rate.time_for(bytes));
    }

    /// When so many can be taken; never more than the bucket holds.
    #[must_use]
    pub fn ready_at(&self, bytes: usize) -> Instant {
        let wanted = as_nanos(self.rate.time_for(bytes)).min(self.burst_nanos);
        let at = (self.paid_until + wanted).saturating_sub(self.burst_nanos);
        Instant::from_micros(i64::try_from(at.div_ceil(1_000)).unwrap_or(i64::MAX))
    }

    fn quantum(&self) -> i64 {
        let bytes = self.rate.bits() / 8 / TURNS_PER_SECOND;
        i64::try_from(bytes).unwrap_or(i64::MAX).clamp(LEAST_QUANTUM_BYTES, LARGEST_QUANTUM_BYTES)
    }
}

/// Names what has a bucket of its own beside the container's. The first is of all flows that no rule limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClassId(pub u32);

#[derive(Debug)]
struct Class<K> {
    bucket: Option<TokenBucket>,
    /// Those that did not wait before.
    fresh: VecDeque<K>,
    /// Those that have had a turn.
    round: VecDeque<K>,
    /// Scheduler that it still has before another class.
    turns: usize,
}

impl<K> Class<K> {
    fn new(bucket: Option<TokenBucket>) -> Class<K> {
        Class { bucket, fresh: VecDeque::new(), round: VecDeque::new(), turns: 0 }
    }

    fn available(&self, now: Instant) -> usize {
        self.bucket.map_or(usize::MAX, |bucket| bucket.available(now))
    }
}

#[derive(Debug, Clone, Copy)]
struct Member {
    class: ClassId,
    /// It has something to move; otherwise it only stays for the round.
    is_waiting: bool,
    /// Bytes that it may still move in its turn, or has moved beyond it.
    deficit: i64,
}

/// The turns of one direction.
#[derive(Debug)]
pub struct Scheduler<K> {
    bucket: Option<TokenBucket>,
    classes: BTreeMap<ClassId, Class<K>>,
    members: HashMap<K, Member, RandomState>,
    waiting: usize,
    /// The class that has its turns.
    current: ClassId,
}

impl<K: Copy + Eq + Hash> Scheduler<K> {
    /// No limit. The hasher is keyed by a secret where the container chooses the keys.
    #[must_use]
    pub fn new(hasher: RandomState) -> Scheduler<K> {
        Scheduler {
            bucket: None,
            classes: BTreeMap::from([(ClassId::default(), Class::new(None))]),
            members: HashMap::with_hasher(hasher),
            waiting: 0,
            current: ClassId::default(),
        }
    }

    /// Limits all together from now on, or no longer.
    pub fn limit(&mut self, rate: Option<Rate>) {
        change(&mut self.bucket, rate);
    }

    /// Limits one class from now on, or no longer.
    pub fn limit_class(&mut self, class: ClassId, rate: Option<Rate>) {
        let class = self.classes.entry(class).or_insert_with(|| Class::new(None));
        change(&mut class.bucket, rate);
    }

    /// The rate of all together.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.bucket.map(|bucket| bucket.rate())
    }

    /// Whether what a class moves has to be asked for at all. Whoever still waits is told even where nothing limits it
    /// any more.
    #[must_use]
    pub fn is_limited(&self, class: ClassId) -> bool {
        self.bucket.is_some() || self.classes.get(&class).is_some_and(|class| class.bucket.is_some())
    }

    /// Flows that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many bytes `key` may move at once; where none, it is noted, and its turn comes.
    pub fn ask(&mut self, key: K, class: ClassId, now: Instant) -> usize {
        let at_once = self.at_once(class, now);
        if at_once == 0 {
            self.note(key, class, true);
        }
        at_once
    }

    /// The same of one that is not noted.
    #[must_use]
    pub fn at_once(&self, class: ClassId, now: Instant) -> usize {
        let may = self.waiting == 0 && self.available(class, now) > 0;
        if may { self.quantum_bytes(class) } else { 0 }
    }

    /// Pays for what `key` moved, in its turn or in spite of it, and notes it if it could move more.
    pub fn pay(&mut self, key: K, class: ClassId, bytes: usize, has_more: bool, now: Instant) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(bytes, now);
        }
        if let Some(bucket) = self.classes.get_mut(&class).and_then(|class| class.bucket.as_mut()) {
            bucket.take(bytes, now);
        }
        // What it moves while nobody waits it takes from nobody.
        if self.waiting > 0
            && let Some(member) = self.members.get_mut(&key)
        {
            member.deficit = member.deficit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if has_more {
            // What has moved something is not new.
            self.note(key, class, bytes == 0);
        }
    }

    /// The next whose turn it is, and how many bytes it may move. It is to be asked whether it could move more:
    /// [`Scheduler::pay`].
    pub fn poll(&mut self, now: Instant) -> Option<(K, usize)> {
        while self.waiting > 0 {
            let (key, class) = self.next(now)?;
            let quantum = i64::try_from(self.quantum_bytes(class)).unwrap_or(i64::MAX);
            let Some(member) = self.members.get_mut(&key) else { continue };
            if !member.is_waiting {
                self.members.remove(&key);
                continue;
            }
            let place = self.classes.get_mut(&class)?;
            member.deficit = member.deficit.saturating_add(quantum).min(quantum);
            place.round.push_back(key);
            if member.deficit <= 0 {
                continue;
            }
            member.is_waiting = false;
            self.waiting -= 1;
            // All of it, though less may be available: a turn that was cut short would favour those that move much at a time.
            return Some((key, usize::try_from(member.deficit).unwrap_or(0)));
        }
        None
    }

    /// Takes out the first of the class whose turn it is.
    fn next(&mut self, now: Instant) -> Option<(K, ClassId)> {
        if self.bucket.is_some_and(|bucket| bucket.available(now) == 0) {
            return None;
        }
        for (id, class) in &mut self.classes {
            if !class.fresh.is_empty() && class.available(now) > 0 {
                return class.fresh.pop_front().map(|key| (key, *id));
            }
        }
        for _ in 0..=self.classes.len() {
            let id = self.current;
            if let Some(class) = self.classes.get_mut(&id)
                && class.turns > 0
                && class.available(now) > 0
                && let Some(key) = class.round.pop_front()
            {
                class.turns -= 1;
                return Some((key, id));
            }
            let behind = self.classes.range((Bound::Excluded(id), Bound::Unbounded)).next();
            let next = behind.or_else(|| self.classes.iter().next()).map(|(id, _)| *id)?;
            self.current = next;
            if let Some(class) = self.classes.get_mut(&next) {
                class.turns = class.round.len();
            }
        }
        None
    }

    /// It is no more.
    pub fn forget(&mut self, key: K) {
        if let Some(member) = self.members.remove(&key) {
            self.waiting -= usize::from(member.is_waiting);
            if let Some(class) = self.classes.get_mut(&member.class) {
                class.fresh.retain(|other| *other != key);
                class.round.retain(|other| *other != key);
            }
        }
    }

    /// When [`Scheduler::poll`] may have somebody.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let least = LEAST_QUANTUM_BYTES as usize;
        let own = self.bucket.map_or(Instant::ZERO, |bucket| bucket.ready_at(least));
        let has_members = |class: &&Class<K>| !class.fresh.is_empty() || !class.round.is_empty();
        let classes = self.classes.values().filter(has_members);
        let earliest =
            classes.map(|class| class.bucket.map_or(Instant::ZERO, |bucket| bucket.ready_at(least)));
        Some(own.max(earliest.min()?))
    }

    fn note(&mut self, key: K, class: ClassId, is_new: bool) {
        let mut was_waiting = false;
        let member = self.members.entry(key).or_insert_with(|| {
            let place = self.classes.entry(class).or_insert_with(|| Class::new(None));
            if is_new {
                place.fresh.push_back(key);
            } else {
                place.round.push_back(key);
            }
            Member { class, is_waiting: false, deficit: 0 }
        });
        std::mem::swap(&mut was_waiting, &mut member.is_waiting);
        member.is_waiting = true;
        self.waiting += usize::from(!was_waiting);
    }

    fn available(&self, class: ClassId, now: Instant) -> usize {
        let own = self.bucket.map_or(usize::MAX, |bucket| bucket.available(now));
        own.min(self.classes.get(&class).map_or(usize::MAX, |class| class.available(now)))
    }

    /// The same for all that share a bucket, or they would not share it evenly.
    fn quantum_bytes(&self, class: ClassId) -> usize {
        let of_class = self.classes.get(&class).and_then(|class| class.bucket);
        let quantum = self.bucket.or(of_class).map_or(LARGEST_QUANTUM_BYTES, |bucket| bucket.quantum());
        usize::try_from(quantum).unwrap_or(usize::MAX)
    }
}

fn change(bucket: &mut Option<TokenBucket>, rate: Option<Rate>) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.change(rate),
        (_, rate) => *bucket = rate.map(TokenBucket::new),
    }
}

fn nanos(at: Instant) -> u64 {
    u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000)
}

fn as_nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
