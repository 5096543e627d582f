//! Messages of the DNS, as far as a policy looks into what is forwarded: who is asked for, and which addresses the answer
//! gives. What we answer ourselves is [`super::dns`].
//!
//! Both come from strangers. A name is read at most as long as a name may be, whatever its compression pointers do: each
//! must lead further back than the last, so that none leads in a circle. Names that are no host names (letters, digits,
//! hyphens, underscores) are passed over, as are records of other types and classes; a message that ends too early gives what was
//! whole before.
//!
//! RFC 1035 §4.1 (format, compression), RFC 3596 (AAAA), RFC 2181 §8 (TTL).

use std::net::IpAddr;

use super::{array, be16, be32};

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;

/// Type of an address of IPv4.
pub const A: u16 = 1;
/// Type of another name of the same.
pub const CNAME: u16 = 5;
/// Type of an address of IPv6.
pub const AAAA: u16 = 28;
/// The class of the Internet.
const IN: u16 = 1;

/// Length of the longest name with its dots.
const MAX_NAME: usize = 253;
/// Records of one message that are looked at.
const MAX_RECORDS: usize = 256;

/// What a message asks, if it asks one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name, in lower case, without a dot at its end; empty for the root.
    pub name: String,
    /// The type of the records that are asked for.
    pub kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is, as [`Question::name`].
    pub owner: String,
    /// Seconds for which it holds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The owner has this address.
    Address(IpAddr),
    /// The owner is another name of this one.
    Alias(String),
}

/// The question of a query, or of the answer to one: `None` where there is not exactly one, or it is no host name.
#[must_use]
pub fn question(message: &[u8]) -> Option<Question> {
    if message.len() < HEADER_LEN || be16(message, 4) != 1 {
        return None;
    }
    let (name, end) = name(message, HEADER_LEN)?;
    let fixed = message.get(end..end + 4)?;
    (be16(fixed, 2) == IN).then(|| Question { name, kind: be16(fixed, 0), end: end + 4 })
}

/// Whether a message says that it is a query.
#[must_use]
pub fn is_query(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 == 0)
}

/// The addresses and aliases of the answer section of a good answer, and the question that it answers.
#[must_use]
pub fn answer(message: &[u8]) -> Option<(Question, Vec<Record>)> {
    let question = question(message)?;
    let is_good = !is_query(message) && message[3] & 0x0f == 0;
    let mut records = Vec::new();
    let mut at = question.end;
    for _ in 0..usize::from(be16(message, 6)).min(MAX_RECORDS) {
        let Some(behind_name) = skip_name(message, at) else { break };
        let Some(fixed) = message.get(behind_name..behind_name + 10) else { break };
        let data_at = behind_name + 10;
        let Some(data) = message.get(data_at..data_at + usize::from(be16(fixed, 8))) else { break };
        if is_good && be16(fixed, 2) == IN {
            let said = match (be16(fixed, 0), data.len()) {
                (A, 4) => Some(Data::Address(array::<4>(data, 0).into())),
                (AAAA, 16) => Some(Data::Address(array::<16>(data, 0).into())),
                (CNAME, _) => name(message, data_at).map(|(name, _)| Data::Alias(name)),
                _ => None,
            };
            // RFC 2181 §8: one with its highest bit set counts as zero.
            let ttl = if be32(fixed, 4) > i32::MAX as u32 { 0 } else { be32(fixed, 4) };
            if let (Some(data), Some((owner, _))) = (said, name(message, at)) {
                records.push(Record { owner, ttl, data });
            }
        }
        at = data_at + data.len();
    }
    Some((question, records))
}

/// The answer to a query that is not to be asked: REFUSED, with its question and nothing else (RFC 1035 §4.1.1).
#[must_use]
pub fn refusal(query: &[u8]) -> Option<Vec<u8>> {
    let end = question(query).map_or(HEADER_LEN, |question| question.end);
    let mut refusal = query.get(..end)?.to_vec();
    // QR, the operation and "recursion desired" as they came; "recursion available", and the code.
    refusal[2] = 0x80 | (refusal[2] & 0x79);
    refusal[3] = 0x80 | 5;
    let questions = u16::from(end > HEADER_LEN);
    refusal[4..6].copy_from_slice(&questions.to_be_bytes());
    refusal[6..12].fill(0);
    Some(refusal)
}

/// A query for the records of a name, with recursion desired; `None` where that is no name.
#[must_use]
pub fn query(identifier: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let name = super::DomainName::new(name)?;
    let mut query = Vec::with_capacity(HEADER_LEN + name.labels().len() + 4);
    query.extend(identifier.to_be_bytes());
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(name.labels());
    query.extend(kind.to_be_bytes());
    query.extend(IN.to_be_bytes());
    Some(query)
}

/// The name at `at` and where the message goes on behind it.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut limit, mut behind) = (at, at, None);
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0b00 if length == 0 => return Some((name, behind.unwrap_or(at + 1))),
            0b00 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if name.len() + 1 + label.len() > MAX_NAME + 1 || !label.iter().all(|byte| is_of_host(*byte))
                {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
                at += 1 + usize::from(length);
            }
            0b11 => {
                let pointer = usize::from(be16(message.get(at..at + 2)?, 0) & 0x3fff);
                if pointer >= limit {
                    return None;
                }
                behind.get_or_insert(at + 2);
                (at, limit) = (pointer, pointer);
            }
            _ => return None,
        }
    }
}

/// Where the message goes on behind the name at `at`, whatever that is.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0b00 if length == 0 => return Some(at + 1),
            0b00 => at += 1 + usize::from(length),
            0b11 => return Some(at + 2),
            _ => return None,
        }
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer to a question for `example.org` with these records behind it; `\xc0\x0c` is its name.
    fn answered(records: &[&[u8]]) -> Vec<u8> {
        let mut message = query(0x1234, "Example.org", A).unwrap();
        message[2] |= 0x80;
        message[7] = records.len() as u8;
        message.extend(records.concat());
        message
    }

    fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend(kind.to_be_bytes());
        record.extend(IN.to_be_bytes());
        record.extend(ttl.to_be_bytes());
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    }

    #[test]
    fn a_chain_of_aliases_and_addresses_is_read() {
        let alias = record(b"\xc0\x0c", CNAME, 300, b"\x03cdn\xc0\x14");
        // Its target stands in its data, 12 bytes behind its own beginning.
        let target = [0xc0, (answered(&[]).len() + 12) as u8];
        let first = record(&target, A, 60, &[192, 0, 2, 1]);
        let second = record(&target, AAAA, 0x8000_0001, &[0; 16]);
        let (question, records) = answer(&answered(&[&alias, &first, &second])).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("example.org", A));
        let own = |ttl, data| Record { owner: "cdn.org".to_owned(), ttl, data };
        assert_eq!(
            records,
            [
                Record { owner: "example.org".to_owned(), ttl: 300, data: Data::Alias("cdn.org".to_owned()) },
                own(60, Data::Address("192.0.2.1".parse().unwrap())),
                own(0, Data::Address("::".parse().unwrap())),
            ]
        );
    }

    #[test]
    fn pointers_that_do_not_lead_back_are_no_names() {
        for owner in [b"\xc0\x1d".as_slice(), b"\xc0\xff", b"\xc0"] {
            let message = answered(&[&record(owner, A, 60, &[192, 0, 2, 1])]);
            assert_eq!(answer(&message).unwrap().1, [], "{owner:x?}");
        }
        // Each of two leads to the other.
        let mut message = answered(&[]);
        message[HEADER_LEN] = 0xc0;
        message[HEADER_LEN + 1] = 12;
        assert_eq!(question(&message), None);
    }

    #[test]
    fn what_failed_or_is_a_query_teaches_nothing() {
        let good = answered(&[&record(b"\xc0\x0c", A, 60, &[192, 0, 2, 1])]);
        assert_eq!(answer(&good).unwrap().1.len(), 1);
        let (mut failed, mut asked) = (good.clone(), good);
        failed[3] |= 3;
        asked[2] &= 0x7f;
        assert_eq!(answer(&failed).unwrap().1, []);
        assert_eq!(answer(&asked).unwrap().1, []);
    }

    #[test]
    fn a_refusal_repeats_the_question_only() {
        let mut asked = query(7, "example.org", AAAA).unwrap();
        let whole = asked.len();
        asked[11] = 1;
        asked.extend(b"\0\0\x29\x10\0\0\0\0\0\0\0");
        let refused = refusal(&asked).unwrap();
        assert_eq!(refused.len(), whole);
        assert_eq!(refused[..12], [0, 7, 0x81, 0x85, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(question(&refused), question(&asked));
        assert_eq!(refusal(&asked[..11]), None);
    }

    #[test]
    fn names_are_as_long_as_names_may_be() {
        let longest = [&*"a".repeat(63), &*"b".repeat(63), &*"c".repeat(63), &*"d".repeat(61)].join(".");
        assert_eq!(question(&query(1, &longest, A).unwrap()).unwrap().name, longest);
        assert_eq!(question(&query(1, "a b.example", A).unwrap_or_default()), None);
        let mut odd = query(1, "a-b.example", A).unwrap();
        odd[HEADER_LEN + 2] = b'.';
        assert_eq!(question(&odd), None, "a dot inside of a label would be another name");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
            let mut message = answered(&[&record(b"\xc0\x0c", CNAME, 60, b"\x01a\xc0\x0c")]);
            message.splice(at.min(message.len()).., bytes);
            if let Some((_, records)) = answer(&message) {
                prop_assert!(records.iter().all(|record| record.owner.len() <= MAX_NAME));
            }
            let _ = refusal(&message);
        }
    }
}
