//! What addresses are called: learnt from the answers that the container was given by the DNS forwarder.
//!
//! An address is known by the name that was asked for, whatever aliases led to it, and by those aliases too; but only the first
//! may open a way. Otherwise whoever has a name of his own in the DNS could make it an alias of one that is
//! allowed, with an address of his choice, where a resolver passes such an answer on. A name that is forbidden is found behind
//! every alias.
//!
//! Addresses are forgotten when their time (RFC 1035 §3.2.1, the shortest of the chain) is over, within bounds. When
//! there are too many, the quarter that would be forgotten first is.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ahash::RandomState;

use crate::config::limits::{LEARNT_NAMES, NAME_LEAST_TTL, NAME_LONGEST_TTL, NAMES_PER_ADDRESS};
use crate::stack::boundary::{Duration, Instant};
use crate::wire::dns_answer::{Data, Question, Record};

/// Aliases of one answer that are followed.
const MAX_CHAIN: usize = 16;

/// A name of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learnt {
    /// In lower case, without a dot at its end.
    pub name: Box<str>,
    /// It is what was asked for; else an alias on the way.
    pub is_asked: bool,
    /// Forgotten then.
    pub until: Instant,
}

/// The names of addresses.
#[derive(Debug)]
pub struct Names {
    by_address: HashMap<IpAddr, Vec<Learnt>, RandomState>,
    count: usize,
    limit: usize,
}

impl Names {
    /// None yet. The container cannot aim for one bucket, by the hasher's secret.
    #[must_use]
    pub fn new(hasher: RandomState) -> Names {
        Names::bounded(hasher, LEARNT_NAMES)
    }

    fn bounded(hasher: RandomState, limit: usize) -> Names {
        Names { by_address: HashMap::with_hasher(hasher), count: 0, limit }
    }

    /// What an address is called now.
    pub fn of(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &Learnt> {
        let known = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        known.iter().filter(move |learnt| learnt.until > now)
    }

    /// The name that an address was found by last.
    #[must_use]
    pub fn asked(&self, address: IpAddr, now: Instant) -> Option<&str> {
        self.of(address, now).filter(|learnt| learnt.is_asked).last().map(|learnt| &*learnt.name)
    }

    /// The addresses that a name stands for now, as far as the container was told.
    #[must_use]
    pub fn addresses(&self, name: &str, now: Instant) -> Vec<IpAddr> {
        let is_it = |learnt: &Learnt| learnt.is_asked && learnt.until > now && &*learnt.name == name;
        let known = self.by_address.iter().filter(|(_, learnt)| learnt.iter().any(is_it));
        let mut addresses: Vec<_> = known.map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Names known now, and those that are to be forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Learns from an answer.
    pub fn learn(&mut self, question: &Question, records: &[Record], now: Instant) {
        // From the name that was asked for along its aliases, each with the shortest time so far.
        let mut chain: Vec<(&str, u32)> = vec![(&question.name, u32::MAX)];
        while chain.len() < MAX_CHAIN {
            let (last, ttl) = chain[chain.len() - 1];
            let next = records.iter().find_map(|record| match &record.data {
                Data::Alias(target) if record.owner == last => Some((target.as_str(), ttl.min(record.ttl))),
                Data::Alias(_) | Data::Address(_) => None,
            });
            match next {
                Some((target, _)) if chain.iter().any(|(name, _)| *name == target) => break,
                Some(next) => chain.push(next),
                None => break,
            }
        }
        let (owner, ttl) = chain[chain.len() - 1];
        for record in records.iter().filter(|record| record.owner == owner) {
            if let Data::Address(address) = record.data {
                let until = now + lifetime(ttl.min(record.ttl));
                for (place, (name, _)) in chain.iter().enumerate() {
                    self.note(address, name, place == 0, until, now);
                }
            }
        }
    }

    fn note(&mut self, address: IpAddr, name: &str, is_asked: bool, until: Instant, now: Instant) {
        if name.is_empty() {
            return;
        }
        self.make_room(now);
        let known = self.by_address.entry(address).or_default();
        let before = known.len();
        known.retain(|learnt| learnt.until > now);
        let mut learnt = Learnt { name: name.into(), is_asked, until };
        if let Some(place) = known.iter().position(|learnt| &*learnt.name == name) {
            let before = known.remove(place);
            learnt.is_asked |= before.is_asked;
            learnt.until = until.max(before.until);
        } else if known.len() >= NAMES_PER_ADDRESS {
            known.remove(0);
        }
        known.push(learnt);
        self.count = self.count + known.len() - before;
    }

    /// Takes over what another knows.
    pub fn adopt(&mut self, other: &Names) {
        self.by_address.clone_from(&other.by_address);
        self.count = other.count;
    }

    fn make_room(&mut self, now: Instant) {
        if self.count < self.limit {
            return;
        }
        self.forget_until(now);
        if self.count < self.limit {
            return;
        }
        let mut ends: Vec<Instant> = self.by_address.values().flatten().map(|learnt| learnt.until).collect();
        let quarter = ends.len() / 4;
        let (_, end, _) = ends.select_nth_unstable(quarter);
        let end = *end;
        self.forget_until(end);
    }

    fn forget_until(&mut self, end: Instant) {
        self.by_address.retain(|_, known| {
            known.retain(|learnt| learnt.until > end);
            !known.is_empty()
        });
        self.count = self.by_address.values().map(Vec::len).sum();
    }

    /// Names and who has them, for whoever shows them.
    #[must_use]
    pub fn all(&self, now: Instant) -> BTreeMap<IpAddr, Vec<&Learnt>> {
        let known = self.by_address.keys().map(|address| (*address, self.of(*address, now).collect()));
        known.collect()
    }
}

fn lifetime(ttl: u32) -> Duration {
    let told = std::time::Duration::from_secs(ttl.into());
    told.clamp(NAME_LEAST_TTL, NAME_LONGEST_TTL).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns_answer as dns;

    fn names(limit: usize) -> Names {
        Names::bounded(RandomState::with_seeds(1, 2, 3, 4), limit)
    }

    fn at(seconds: i64) -> Instant {
        Instant::from_secs(seconds)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn question(name: &str) -> Question {
        dns::question(&dns::query(1, name, dns::A).unwrap()).unwrap()
    }

    fn has(owner: &str, ttl: u32, last: u8) -> Record {
        Record { owner: owner.to_owned(), ttl, data: Data::Address(address(last)) }
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record { owner: owner.to_owned(), ttl, data: Data::Alias(target.to_owned()) }
    }

    fn known(names: &Names, last: u8, seconds: i64) -> Vec<(String, bool)> {
        let known = names.of(address(last), at(seconds));
        known.map(|learnt| (learnt.name.to_string(), learnt.is_asked)).collect()
    }

    #[test]
    fn an_address_is_known_by_the_name_asked_for_and_by_its_aliases() {
        let mut names = names(100);
        let records = [
            has("b.net", 300, 1),
            alias("a.net", 100, "b.net"),
            alias("www.org", 200, "a.net"),
            has("x", 9, 2),
        ];
        names.learn(&question("www.org"), &records, at(0));
        let all = [("www.org", true), ("a.net", false), ("b.net", false)];
        assert_eq!(known(&names, 1, 99), all.map(|(name, asked)| (name.to_owned(), asked)));
        assert_eq!(known(&names, 1, 100), [], "the shortest time of the chain");
        assert_eq!(known(&names, 2, 1), [], "nobody asked for that one");
        assert_eq!(names.asked(address(1), at(1)), Some("www.org"));
        assert_eq!(names.addresses("www.org", at(1)), [address(1)]);
        assert!(names.addresses("b.net", at(1)).is_empty());
    }

    #[test]
    fn the_time_is_neither_too_short_nor_too_long() {
        let mut names = names(100);
        names.learn(&question("short"), &[has("short", 0, 1)], at(0));
        names.learn(&question("long"), &[has("long", u32::MAX, 2)], at(0));
        assert_eq!((known(&names, 1, 29).len(), known(&names, 1, 30).len()), (1, 0));
        assert_eq!((known(&names, 2, 86_399).len(), known(&names, 2, 86_400).len()), (1, 0));
    }

    #[test]
    fn aliases_in_a_circle_lead_nowhere() {
        let mut names = names(100);
        let records = [alias("a", 60, "b"), alias("b", 60, "a"), has("a", 60, 1)];
        names.learn(&question("a"), &records, at(0));
        assert!(names.is_empty());
        let long: Vec<_> = (0..40).map(|n| alias(&format!("n{n}"), 60, &format!("n{}", n + 1))).collect();
        names.learn(&question("n0"), &long, at(0));
        assert!(names.is_empty());
    }

    #[test]
    fn names_are_bounded_by_address_and_in_all() {
        let mut names = names(100);
        for n in 0..40 {
            let name = format!("n{n}");
            names.learn(&question(&name), &[has(&name, 60, 1)], at(0));
        }
        assert_eq!((known(&names, 1, 1).len(), names.len()), (NAMES_PER_ADDRESS, NAMES_PER_ADDRESS));
        for last in 2..=255 {
            let name = format!("m{last}");
            names.learn(&question(&name), &[has(&name, 60 + u32::from(last), last)], at(0));
            assert!(names.len() <= 100);
        }
        assert_eq!(known(&names, 255, 1).len(), 1, "what is forgotten last is still known");
        assert_eq!(known(&names, 2, 1).len(), 0);
        names.learn(&question("later"), &[has("later", 60, 9)], at(100_000));
        names.forget_until(at(99_999));
        assert_eq!(names.len(), 1);
    }
}
