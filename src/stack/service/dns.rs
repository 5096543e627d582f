//! The DNS forwarder: which resolver is asked, and who is asked next when it does not answer.
//!
//! Queries travel as ordinary flows whose target is a resolver of the host, so they are neither parsed beyond
//! their identifier nor cached nor altered; where there is a policy, it looks into both queries and answers. A resolver that refuses or stays silent is passed over for the next
//! one, and the one that answered last is asked first from then on. Over UDP the forwarder keeps the queries of
//! a flow until they are answered, so that it can ask again; over TCP the SYN is held, and it tries the next
//! resolver before the container learns anything.
//!
//! RFC 1035 §4.1.1 (identifier), §4.2.1 (transport over UDP).

use std::net::SocketAddr;

use super::super::boundary::{DatagramSend, Instant};
use super::super::drop_reason::DropReason;

/// Rounds over all resolvers before a query is given up.
const ROUNDS: usize = 2;

/// The host's resolvers, in the order of preference learnt so far.
#[derive(Debug, Clone, Default)]
pub struct Resolvers {
    list: Vec<SocketAddr>,
    preferred: usize,
}

impl Resolvers {
    /// The resolvers of `resolv.conf`, first one preferred.
    #[must_use]
    pub fn new(list: Vec<SocketAddr>) -> Self {
        Resolvers { list, preferred: 0 }
    }

    /// Whom to ask first.
    #[must_use]
    pub fn preferred(&self) -> Option<SocketAddr> {
        self.list.get(self.preferred).copied()
    }

    /// Whom to ask after so many have failed, once around.
    #[must_use]
    pub fn after_failures(&self, failures: usize) -> Option<SocketAddr> {
        (failures < self.list.len()).then(|| self.list[(self.preferred + failures) % self.list.len()])
    }

    /// Whom to ask after so many silences, more than once around: a lost datagram is no dead server.
    #[must_use]
    pub fn after_silences(&self, silences: usize) -> Option<SocketAddr> {
        (silences < ROUNDS * self.list.len())
            .then(|| self.list[(self.preferred + silences) % self.list.len()])
    }

    /// Notes that the resolver asked after so many failures answered.
    pub fn answered(&mut self, failures: usize) {
        if failures > 0 && !self.list.is_empty() {
            self.preferred = (self.preferred + failures) % self.list.len();
        }
    }
}

/// A query that waits for its answer.
#[derive(Debug)]
struct Query {
    identifier: [u8; 2],
    message: Box<[u8]>,
    how: DatagramSend,
}

/// The queries of one client endpoint.
#[derive(Debug, Default)]
pub struct Exchange {
    waiting: Vec<Query>,
    /// Resolvers that have failed these queries.
    pub failures: usize,
    /// When the resolver asked last is passed over.
    pub deadline: Option<Instant>,
}

impl Exchange {
    /// Keeps a query until it is answered; beyond `limit` the oldest gives way, and waits no more.
    ///
    /// # Errors
    /// That one did.
    pub fn ask(
        &mut self,
        message: &[u8],
        how: DatagramSend,
        limit: usize,
        deadline: Instant,
    ) -> Result<(), DropReason> {
        let Some(&identifier) = message.first_chunk() else { return Ok(()) };
        // A client that repeats itself is still one query.
        self.waiting.retain(|query| query.identifier != identifier);
        let is_full = self.waiting.len() >= limit;
        if is_full {
            self.waiting.remove(0);
        }
        self.waiting.push(Query { identifier, message: message.into(), how });
        self.deadline.get_or_insert(deadline);
        if is_full { Err(DropReason::DnsPendingLimit) } else { Ok(()) }
    }

    /// The query that `message` answers, if one still waits; it then waits no more.
    pub fn take_answered(&mut self, message: &[u8]) -> Option<Box<[u8]>> {
        let identifier = message.first_chunk::<2>()?;
        let place = self.waiting.iter().position(|query| query.identifier == *identifier)?;
        let query = self.waiting.remove(place);
        if self.waiting.is_empty() {
            self.deadline = None;
        }
        Some(query.message)
    }

    /// Queries without an answer, to be asked again.
    pub fn unanswered(&self) -> impl Iterator<Item = (&[u8], &DatagramSend)> {
        self.waiting.iter().map(|query| (&*query.message, &query.how))
    }

    /// Gives all queries up.
    pub fn give_up(&mut self) {
        self.waiting.clear();
        self.deadline = None;
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], 53))
    }

    const HOW: DatagramSend = DatagramSend {
        to: None,
        from: None,
        segment_bytes: None,
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: false,
    };

    #[test]
    fn the_resolver_that_answers_is_preferred_from_then_on() {
        let mut resolvers = Resolvers::new(vec![server(1), server(2), server(3)]);
        assert_eq!(resolvers.preferred(), Some(server(1)));
        assert_eq!(resolvers.after_failures(1), Some(server(2)));
        assert_eq!(resolvers.after_failures(3), None);
        assert_eq!(resolvers.after_silences(3), Some(server(1)));
        assert_eq!(resolvers.after_silences(6), None);
        resolvers.answered(1);
        assert_eq!(resolvers.preferred(), Some(server(2)));
        assert_eq!(resolvers.after_failures(2), Some(server(1)));
    }

    #[test]
    fn without_resolvers_nobody_is_asked() {
        let mut resolvers = Resolvers::default();
        assert_eq!(resolvers.preferred(), None);
        assert_eq!(resolvers.after_silences(0), None);
        resolvers.answered(2);
    }

    #[test]
    fn an_answer_is_delivered_once_and_strangers_never() {
        let mut exchange = Exchange::default();
        exchange.ask(b"\x12\x34query", HOW, 4, Instant::from_secs(1)).unwrap();
        assert_eq!(exchange.take_answered(b"\x99\x99"), None);
        assert_eq!(exchange.take_answered(b"\x12"), None);
        assert_eq!(exchange.take_answered(b"\x12\x34answer").as_deref(), Some(&b"\x12\x34query"[..]));
        assert_eq!(exchange.take_answered(b"\x12\x34answer"), None);
        assert!(exchange.is_settled() && exchange.deadline.is_none());
    }

    #[test]
    fn waiting_queries_are_bounded_and_the_oldest_gives_way() {
        let mut exchange = Exchange::default();
        for identifier in 0..6u8 {
            let asked = exchange.ask(&[0, identifier], HOW, 4, Instant::from_secs(1));
            assert_eq!(asked.is_ok(), identifier < 4);
        }
        assert_eq!(exchange.unanswered().count(), 4);
        assert!(exchange.take_answered(&[0, 1]).is_none());
        assert!(exchange.take_answered(&[0, 2]).is_some());
    }
}
