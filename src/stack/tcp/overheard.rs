//! What passes on a connection to a resolver: queries, and the answers to them that names are learnt from.
//!
//! Messages have their length in front (RFC 1035 §4.2.2) and come in any pieces; of each the beginning is kept, as long as it is not
//! whole. Nothing is held back or changed. An answer counts only if its identifier and its question are those of a query that
//! went before it on this connection.

use std::collections::VecDeque;

use crate::config::limits::{DNS_OVERHEARD_BYTES, DNS_OVERHEARD_QUERIES};
use crate::stack::boundary::{
    DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, HostIo, StreamRead, StreamWrite,
};
use crate::wire::dns_answer as dns;

/// Of a query: its header, the longest name, type and class.
const QUERY_BYTES: usize = 12 + 255 + 4;

/// See the module.
#[derive(Debug)]
pub struct Overheard {
    up: Messages,
    down: Messages,
    /// Queries without an answer, the oldest first.
    asked: VecDeque<Vec<u8>>,
    /// Queries and their answers.
    answered: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Overheard {
    fn default() -> Overheard {
        Overheard {
            up: Messages::keeping(QUERY_BYTES),
            down: Messages::keeping(DNS_OVERHEARD_BYTES),
            asked: VecDeque::new(),
            answered: Vec::new(),
        }
    }
}

impl Overheard {
    fn hear_query(&mut self, bytes: &[u8]) {
        let asked = &mut self.asked;
        self.up.pass(bytes, |query| {
            if !dns::is_query(&query) {
                return;
            }
            if asked.len() >= DNS_OVERHEARD_QUERIES {
                asked.pop_front();
            }
            asked.push_back(query);
        });
    }

    fn hear_answer(&mut self, bytes: &[u8]) {
        let (asked, answered) = (&mut self.asked, &mut self.answered);
        self.down.pass(bytes, |answer| {
            if dns::is_query(&answer) {
                return;
            }
            let question = dns::question(&answer);
            let is_its =
                |query: &Vec<u8>| query.get(..2) == answer.get(..2) && dns::question(query) == question;
            if let Some(query) = asked.iter().position(is_its).and_then(|place| asked.remove(place)) {
                answered.push((query, answer));
            }
        });
    }

    /// The queries that have been answered since the last call, with their answers.
    pub fn take_answered(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.answered)
    }
}

/// A stream that is cut into messages, of which the beginning is kept.
#[derive(Debug)]
struct Messages {
    most: usize,
    /// The first byte of a length whose second is yet to come.
    first_of_length: Option<u8>,
    remaining: usize,
    kept: Vec<u8>,
}

impl Messages {
    fn keeping(most: usize) -> Messages {
        Messages { most, first_of_length: None, remaining: 0, kept: Vec::new() }
    }

    fn pass(&mut self, bytes: &[u8], mut is_whole: impl FnMut(Vec<u8>)) {
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.remaining == 0 {
                rest = behind;
                match self.first_of_length.take() {
                    None => self.first_of_length = Some(byte),
                    Some(first) => self.remaining = usize::from(u16::from_be_bytes([first, byte])),
                }
                continue;
            }
            let (part, behind) = rest.split_at(self.remaining.min(rest.len()));
            let kept = part.len().min(self.most - self.kept.len());
            self.kept.extend_from_slice(&part[..kept]);
            self.remaining -= part.len();
            rest = behind;
            if self.remaining == 0 {
                is_whole(std::mem::take(&mut self.kept));
            }
        }
    }
}

/// The host's sockets, of which what passes by one stream is overheard.
pub struct Overhearing<'a, H> {
    /// The sockets.
    pub host: &'a mut H,
    /// Who listens.
    pub overheard: &'a mut Overheard,
}

impl<H: HostIo> HostIo for Overhearing<'_, H> {
    fn receive_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        let read = self.host.receive_stream(flow, buffer);
        if let StreamRead::Bytes(count) = read {
            self.overheard.hear_answer(&buffer[..count]);
        }
        read
    }

    fn send_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        let written = self.host.send_stream(flow, bytes);
        if let StreamWrite::Bytes(count) = written {
            self.overheard.hear_query(&bytes[..count]);
        }
        written
    }

    fn receive_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        self.host.receive_datagrams(port, buffer)
    }

    fn send_datagrams(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        self.host.send_datagrams(port, bytes, how)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Both streams are strangers': whatever they hold, no more is kept than may be.
        #[test]
        fn whatever_comes_is_survived_and_little_of_it_kept(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..60),
        ) {
            let mut overheard = Overheard::default();
            for (is_query, part) in parts {
                if is_query { overheard.hear_query(&part) } else { overheard.hear_answer(&part) }
                let Overheard { up, down, asked, .. } = &overheard;
                prop_assert!(up.kept.len() <= QUERY_BYTES && down.kept.len() <= DNS_OVERHEARD_BYTES);
                prop_assert!(asked.len() <= DNS_OVERHEARD_QUERIES);
            }
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u16).to_be_bytes(), message].concat()
    }

    fn answer_to(query: &[u8], len: usize) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.resize(len, 0);
        answer
    }

    #[test]
    fn answers_find_their_queries_however_the_streams_are_cut() {
        let queries = ["a.org", "b.org", "c.org"].map(|name| dns::query(7, name, dns::A).unwrap());
        let up: Vec<u8> = queries.iter().flat_map(|query| framed(query)).collect();
        let order = [1, 0];
        let down: Vec<u8> =
            order.iter().flat_map(|place| framed(&answer_to(&queries[*place], 200))).collect();
        for cut in 1..=up.len().max(down.len()) {
            let mut overheard = Overheard::default();
            up.chunks(cut).for_each(|part| overheard.hear_query(part));
            down.chunks(cut).for_each(|part| overheard.hear_answer(part));
            let expected = order.map(|place| (queries[place].clone(), answer_to(&queries[place], 200)));
            assert_eq!(overheard.take_answered(), expected, "{cut}");
            assert_eq!((overheard.take_answered().len(), overheard.asked.len()), (0, 1));
        }
    }

    #[test]
    fn what_was_not_asked_and_what_is_too_long_is_not_kept() {
        let (asked, other) =
            (dns::query(7, "a.org", dns::A).unwrap(), dns::query(7, "b.org", dns::A).unwrap());
        let mut overheard = Overheard::default();
        overheard.hear_query(&framed(&asked));
        overheard.hear_answer(&framed(&answer_to(&other, 100)));
        assert!(overheard.take_answered().is_empty());
        overheard.hear_answer(&framed(&answer_to(&asked, 60_000)));
        assert_eq!(overheard.take_answered()[0].1.len(), DNS_OVERHEARD_BYTES);
        for number in 0..1_000_u16 {
            overheard.hear_query(&framed(&dns::query(number, "a.org", dns::A).unwrap()));
        }
        assert_eq!(overheard.asked.len(), DNS_OVERHEARD_QUERIES);
        overheard.hear_query(&framed(&[0; 60_000]));
        assert!(overheard.asked.iter().all(|query| query.len() <= QUERY_BYTES));
    }
}
