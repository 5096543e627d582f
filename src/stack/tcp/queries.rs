//! Queries to a network's resolver over TCP: each is answered here or passes, whatever came before it on the connection.
//!
//! The container's connection is accepted at once, and one to a resolver of the host is made when a query first needs it.
//! Messages have their length in front (RFC 1035 §4.2.2). Toward the host each is looked at before a byte of it leaves;
//! toward the container our answers go between those that come from the host (RFC 7766 §6.2.1.1: in any order). Of a
//! message its first bytes are kept, which hold the question; what is behind them follows unseen. While our own
//! answers wait for room nothing more is read, so that what is held has an end.

use super::super::boundary::{FlowId, HostError, HostIo, StreamRead, StreamWrite};
use super::super::service::names::{Handled, Names};
use super::endpoint::Endpoint;
use super::turns::Turn;
use crate::config::limits::DNS_QUERY_BYTES;
use crate::wire::dns::{self, Code};

/// Bytes of the length in front of a message.
const LENGTH_BYTES: usize = 2;
/// Our answers that may wait; one more may come on top.
const ANSWERS_BYTES: usize = 4 << 10;

/// The connection to a resolver of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// No query has needed it yet.
    Unneeded,
    /// A query needs it, and nobody has been told.
    Wanted,
    /// It is being made, after so many resolvers that refused.
    Connecting {
        /// Resolvers that refused.
        tried: usize,
    },
    /// It is there.
    Open,
    /// There is none to be had.
    Failed,
}

/// What is under way on one connection of a client.
#[derive(Debug)]
pub struct Queries {
    /// Toward the resolver.
    pub upstream: Upstream,
    /// The first bytes of the message that is being read, its length in front.
    head: Vec<u8>,
    /// Bytes of a message that passes, and how many of them the host has taken.
    passing: Vec<u8>,
    taken: usize,
    /// Bytes of the message at hand that follow its head unseen.
    following: usize,
    /// Whether these go to the host, or nowhere.
    follow_on: bool,
    /// Our answers, each with its length in front.
    answers: Vec<u8>,
    framing: Framing,
}

/// Where in a sequence of messages a stream stands.
#[derive(Debug, Default)]
struct Framing {
    first_of_length: Option<u8>,
    remaining: usize,
}

impl Framing {
    fn is_between(&self) -> bool {
        self.first_of_length.is_none() && self.remaining == 0
    }

    /// Bytes that may follow without a message ending among them.
    fn next_bytes(&self) -> usize {
        match (self.remaining, self.first_of_length) {
            (0, None) => LENGTH_BYTES,
            (0, Some(_)) => 1,
            (remaining, _) => remaining,
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.remaining > 0 {
                let (_, behind) = rest.split_at(self.remaining.min(rest.len()));
                self.remaining -= rest.len() - behind.len();
                rest = behind;
                continue;
            }
            rest = behind;
            match self.first_of_length.take() {
                None => self.first_of_length = Some(byte),
                Some(first) => self.remaining = usize::from(u16::from_be_bytes([first, byte])),
            }
        }
    }
}

impl Default for Queries {
    fn default() -> Self {
        Queries {
            upstream: Upstream::Unneeded,
            head: Vec::new(),
            passing: Vec::new(),
            taken: 0,
            following: 0,
            follow_on: false,
            answers: Vec::new(),
            framing: Framing::default(),
        }
    }
}

impl Queries {
    /// Whether nothing waits for either side.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.passing.is_empty() && self.answers.is_empty() && (self.following == 0 || !self.follow_on)
    }

    /// No resolver can be asked: what waits for one is answered so.
    pub fn give_up_upstream(&mut self) {
        self.upstream = Upstream::Failed;
        let unanswered = std::mem::take(&mut self.passing);
        self.taken = 0;
        self.follow_on = false;
        if let Some(message) = unanswered.get(LENGTH_BYTES..) {
            self.answer(dns::refusal(message, Code::ServFail));
        }
    }

    fn answer(&mut self, message: Option<Vec<u8>>) {
        let Some(message) = message else { return };
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.answers.extend_from_slice(&length.to_be_bytes());
        self.answers.extend_from_slice(&message);
    }

    /// Takes what the container has sent, as far as it can be dealt with now.
    ///
    /// # Errors
    /// The host's connection is gone.
    pub fn relay_to_host(
        &mut self,
        flow: FlowId,
        endpoint: &mut Endpoint,
        names: &Names,
        host_writable: &mut bool,
        host: &mut impl HostIo,
    ) -> Result<(), HostError> {
        loop {
            if !self.write_passing(flow, host_writable, host)? {
                return Ok(());
            }
            if self.following > 0 {
                if !self.pass_following(flow, endpoint, host_writable, host)? {
                    return Ok(());
                }
            } else if self.answers.len() >= ANSWERS_BYTES || !self.read_head(endpoint, names) {
                return Ok(());
            }
        }
    }

    /// Whether all of the message at hand that was read has left.
    fn write_passing(
        &mut self,
        flow: FlowId,
        host_writable: &mut bool,
        host: &mut impl HostIo,
    ) -> Result<bool, HostError> {
        while !self.passing.is_empty() {
            if self.upstream != Upstream::Open || !*host_writable {
                return Ok(false);
            }
            match host.send_stream(flow, &self.passing[self.taken..]) {
                StreamWrite::Bytes(count) => self.taken += count,
                StreamWrite::Blocked => *host_writable = false,
                StreamWrite::Failed(error) => return Err(error),
            }
            if self.taken >= self.passing.len() {
                self.passing.clear();
                self.taken = 0;
            }
        }
        Ok(true)
    }

    /// Moves the rest of a message on, or drops it. Whether there was anything to move.
    fn pass_following(
        &mut self,
        flow: FlowId,
        endpoint: &mut Endpoint,
        host_writable: &mut bool,
        host: &mut impl HostIo,
    ) -> Result<bool, HostError> {
        if endpoint.received_bytes() == 0 || (self.follow_on && !*host_writable) {
            return Ok(false);
        }
        let (mut moved, mut failure) = (0, None);
        let (most, follow_on) = (self.following, self.follow_on);
        endpoint.receive_with(|bytes| {
            let bytes = &bytes[..bytes.len().min(most)];
            if !follow_on || bytes.is_empty() {
                moved = bytes.len();
                return moved;
            }
            match host.send_stream(flow, bytes) {
                StreamWrite::Bytes(count) => moved = count,
                StreamWrite::Blocked => *host_writable = false,
                StreamWrite::Failed(error) => failure = Some(error),
            }
            moved
        });
        self.following -= moved;
        match failure {
            Some(error) => Err(error),
            None => Ok(moved > 0),
        }
    }

    /// Reads on in the message at hand, and judges it when there is enough of it. Whether there was anything to read.
    fn read_head(&mut self, endpoint: &mut Endpoint, names: &Names) -> bool {
        let wanted = match self.head.first_chunk::<LENGTH_BYTES>() {
            None => LENGTH_BYTES,
            Some(length) => LENGTH_BYTES + usize::from(u16::from_be_bytes(*length)).min(DNS_QUERY_BYTES),
        };
        let before = self.head.len();
        if before < wanted {
            endpoint.receive_with(|bytes| {
                let count = bytes.len().min(wanted - before);
                self.head.extend_from_slice(&bytes[..count]);
                count
            });
        }
        let Some(length) = self.head.first_chunk::<LENGTH_BYTES>() else { return self.head.len() > before };
        let length = usize::from(u16::from_be_bytes(*length));
        if self.head.len() == LENGTH_BYTES + length.min(DNS_QUERY_BYTES) {
            self.judge(length, names);
            return true;
        }
        self.head.len() > before
    }

    fn judge(&mut self, length: usize, names: &Names) {
        let head = std::mem::take(&mut self.head);
        let message = &head[LENGTH_BYTES..];
        self.following = length - message.len();
        // Nothing that is a query is so long.
        let handled = if self.following > 0 {
            dns::refusal(message, Code::FormErr).map_or(Handled::Ignored, Handled::Answered)
        } else {
            names.handle_stream(message)
        };
        self.follow_on = false;
        match handled {
            Handled::Answered(answer) => self.answer(Some(answer)),
            Handled::Ignored => {}
            Handled::Forwarded if self.upstream == Upstream::Failed => {
                self.answer(dns::refusal(message, Code::ServFail));
            }
            Handled::Forwarded => {
                if self.upstream == Upstream::Unneeded {
                    self.upstream = Upstream::Wanted;
                }
                self.passing = head;
            }
        }
    }

    /// Gives the container our answers and what the host has sent, message by message.
    ///
    /// # Errors
    /// The host's connection is gone.
    pub fn relay_to_container(
        &mut self,
        flow: FlowId,
        endpoint: &mut Endpoint,
        host_readable: &mut bool,
        host: &mut impl HostIo,
        turn: &mut Turn<'_>,
    ) -> Result<StreamRead, HostError> {
        loop {
            while self.framing.is_between() && !self.answers.is_empty() && endpoint.transmit_space() > 0 {
                // A message of ours is not interrupted either.
                let whole =
                    LENGTH_BYTES + usize::from(u16::from_be_bytes([self.answers[0], self.answers[1]]));
                if endpoint.transmit_space() < whole {
                    break;
                }
                let answers = &self.answers;
                let mut written = 0;
                while written < whole {
                    let mut part = 0;
                    endpoint.transmit_with(whole - written, |space| {
                        part = space.len().min(whole - written);
                        space[..part].copy_from_slice(&answers[written..written + part]);
                        part
                    });
                    if part == 0 {
                        break;
                    }
                    written += part;
                }
                debug_assert_eq!(written, whole, "the space was asked for");
                turn.moved += written;
                self.answers.drain(..whole.min(self.answers.len()));
            }
            let may_read = self.upstream == Upstream::Open && *host_readable && turn.moved < turn.most;
            let mut most =
                turn.scratch.len().min(endpoint.transmit_space()).min(turn.most - turn.moved.min(turn.most));
            if !self.answers.is_empty() {
                most = most.min(self.framing.next_bytes());
            }
            if !may_read || most == 0 || (self.framing.is_between() && !self.answers.is_empty()) {
                return Ok(StreamRead::Blocked);
            }
            match host.receive_stream(flow, &mut turn.scratch[..most]) {
                StreamRead::Bytes(count) => {
                    let bytes = &turn.scratch[..count];
                    self.framing.pass(bytes);
                    let mut written = 0;
                    while written < count {
                        let before = written;
                        endpoint.transmit_with(count - written, |space| {
                            let part = space.len().min(count - written);
                            space[..part].copy_from_slice(&bytes[written..written + part]);
                            written += part;
                            part
                        });
                        if written == before {
                            break;
                        }
                    }
                    turn.moved += count;
                }
                StreamRead::Blocked => {
                    *host_readable = false;
                    return Ok(StreamRead::Blocked);
                }
                StreamRead::End => {
                    *host_readable = false;
                    return Ok(StreamRead::End);
                }
                StreamRead::Failed(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_between_two_messages_is_found_however_they_are_cut() {
        let stream = [0, 3, 9, 9, 9, 0, 0, 1, 1, 1];
        for cut in 1..5 {
            let mut framing = Framing::default();
            let mut at = 0;
            for part in stream[..7].chunks(cut) {
                framing.pass(part);
                at += part.len();
                assert_eq!(framing.is_between(), at == 5 || at == 7, "{cut} {at}");
            }
            framing.pass(&stream[7..]);
            assert_eq!((framing.is_between(), framing.next_bytes()), (false, 0x101 - 1));
        }
    }

    #[test]
    fn an_answer_for_whoever_cannot_be_asked_says_so() {
        let mut queries =
            Queries { passing: vec![0, 12, 7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], ..Queries::default() };
        queries.give_up_upstream();
        assert_eq!(queries.answers[..6], [0, 12, 7, 7, 0x85, 0x82]);
        assert!(!queries.is_settled());
    }
}
