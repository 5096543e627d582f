//! The questions of DNS queries, and answers to them: as much of the protocol as a server needs that knows some names
//! itself and passes the others on.
//!
//! A message is read to its end before anything is made of it, and whatever lies about its lengths is refused. What comes
//! back repeats the question byte for byte, so that whoever mixes large and small letters into it finds them again.
//!
//! RFC 1035 §4.1 (messages), RFC 6891 (EDNS), RFC 9619 (one question a message).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;
/// Bytes of an answer over UDP to whoever does not say that it takes more (RFC 1035 §4.2.1).
pub const PLAIN_UDP_BYTES: usize = 512;
/// What we take ourselves over UDP, and the most that we send: no fragments on any link (RFC 9715 §3).
pub const EDNS_UDP_BYTES: u16 = 1_232;

const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
/// Labels of the longest name: each has a length and a byte.
const MAX_LABELS: usize = 127;
const MAX_NAME_LEN: usize = 255;

/// What is wanted of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Whatever there is.
    Any,
    /// Something else.
    Other,
}

/// How a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// As asked, or with nothing where the name has nothing of the kind.
    NoError = 0,
    /// The message is none.
    FormErr = 1,
    /// Nobody could be asked.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// No query.
    NotImp = 4,
    /// A name that is not to be asked for here.
    Refused = 5,
    /// An unknown version of EDNS.
    BadVers = 16,
}

/// One record of an answer; its name is the one in the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(IpAddr),
    /// The name of an address, written with dots.
    Name(String),
}

/// A query that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    message: &'a [u8],
    question_end: usize,
    /// The name, in small letters, with dots between its labels and none at its end. A label with anything but printable
    /// ASCII, or with a dot, makes it a name that nobody here has: none.
    pub name: Option<String>,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// Whether it is asked in the Internet's class.
    pub is_internet: bool,
    /// What the client says of itself with EDNS.
    pub edns: Option<Edns>,
}

/// What a client says with EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Bytes of the largest answer over UDP that it takes.
    pub udp_bytes: u16,
    /// Of EDNS; 0 is all there is.
    pub version: u8,
    /// It wants signatures.
    pub wants_signatures: bool,
}

/// Why a message is no query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryError {
    /// It is not to be answered: too short to be, or itself an answer.
    Silence,
    /// It is to be answered with this.
    Answer(Code),
}

/// Reads a message of a client.
///
/// # Errors
/// What to say instead of an answer.
pub fn parse(message: &[u8]) -> Result<Query<'_>, QueryError> {
    let header: &[u8; HEADER_LEN] = message.first_chunk().ok_or(QueryError::Silence)?;
    if header[2] & 0x80 != 0 {
        return Err(QueryError::Silence);
    }
    if header[2] & 0x78 != 0 {
        return Err(QueryError::Answer(Code::NotImp));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // RFC 9619 §4: a query has one question.
    if count(4) != 1 || count(6) != 0 {
        return Err(QueryError::Answer(Code::FormErr));
    }
    read(message, count(8), count(10)).ok_or(QueryError::Answer(Code::FormErr))
}

fn read(message: &[u8], authorities: u16, additionals: u16) -> Option<Query<'_>> {
    let (name, at) = read_name(message, HEADER_LEN)?;
    let [kind_high, kind_low, class_high, class_low] = *message.get(at..)?.first_chunk()?;
    let question_end = at + 4;
    let mut at = question_end;
    let mut edns = None;
    for place in 0..u32::from(authorities) + u32::from(additionals) {
        let is_root = *message.get(at)? == 0;
        at = skip_name(message, at)?;
        let fixed: &[u8; 10] = message.get(at..)?.first_chunk()?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        if kind == TYPE_OPT {
            // RFC 6891 §6.1.1: one, of the root, among the additional records.
            if edns.is_some() || !is_root || place < u32::from(authorities) {
                return None;
            }
            edns = Some(Edns {
                udp_bytes: u16::from_be_bytes([fixed[2], fixed[3]]),
                version: fixed[5],
                wants_signatures: fixed[6] & 0x80 != 0,
            });
        }
        at += fixed.len() + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        if at > message.len() {
            return None;
        }
    }
    let wanted = match u16::from_be_bytes([kind_high, kind_low]) {
        1 => Wanted::A,
        28 => Wanted::Aaaa,
        12 => Wanted::Ptr,
        255 => Wanted::Any,
        _ => Wanted::Other,
    };
    let class = u16::from_be_bytes([class_high, class_low]);
    let is_internet = class == CLASS_IN || class == CLASS_ANY;
    Some(Query { message, question_end, name, wanted, is_internet, edns })
}

/// The name at `at`, and where it ends. In a question there is nothing that a pointer could point back to.
fn read_name(message: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let begin = at;
    let mut name = String::new();
    let mut is_plain = true;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            let is_name = at - begin <= MAX_NAME_LEN;
            return is_name.then_some((is_plain.then_some(name), at));
        }
        if length > 63 || at - begin > MAX_NAME_LEN {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        is_plain &= label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
}

/// Where the name at `at` ends, by a pointer or by the root.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..=MAX_LABELS {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => return message.get(at + 1).map(|_| at + 2),
            64..=0xbf => return None,
        }
    }
    None
}

impl Query<'_> {
    /// Bytes of the largest answer to it over UDP.
    #[must_use]
    pub fn udp_room(&self) -> usize {
        let asked = self.edns.map_or(0, |edns| usize::from(edns.udp_bytes));
        asked.clamp(PLAIN_UDP_BYTES, EDNS_UDP_BYTES.into())
    }

    /// The answer, in no more than `room` bytes; one that does not fit is marked as truncated, and has no records.
    /// `seconds` is how long it may be remembered.
    #[must_use]
    pub fn answer(&self, code: Code, records: &[Record], seconds: u32, room: usize) -> Vec<u8> {
        let answer = self.write(code, records, seconds, false);
        if answer.len() <= room { answer } else { self.write(code, &[], seconds, true) }
    }

    fn write(&self, code: Code, records: &[Record], seconds: u32, is_truncated: bool) -> Vec<u8> {
        let version_unknown = self.edns.is_some_and(|edns| edns.version > 0);
        let (code, records) = if version_unknown { (Code::BadVers, &[][..]) } else { (code, records) };
        let mut out = head(self.message, code, is_truncated);
        out[5] = 1;
        out[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap_or(u16::MAX).to_be_bytes());
        out[11] = u8::from(self.edns.is_some());
        out.extend_from_slice(&self.message[HEADER_LEN..self.question_end]);
        for record in records {
            // A pointer to the name in the question.
            out.extend_from_slice(&[0xc0, HEADER_LEN as u8]);
            let (kind, data) = record.data();
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&seconds.to_be_bytes());
            out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&data);
        }
        if let Some(edns) = self.edns {
            out.push(0);
            out.extend_from_slice(&TYPE_OPT.to_be_bytes());
            out.extend_from_slice(&EDNS_UDP_BYTES.to_be_bytes());
            // The upper bits of the code (RFC 6891 §6.1.3), the version, and the flag as it came.
            let flags = if edns.wants_signatures { 0x80 } else { 0 };
            out.extend_from_slice(&[(code as u8) >> 4, 0, flags, 0, 0, 0]);
        }
        out
    }
}

impl Record {
    fn data(&self) -> (u16, Vec<u8>) {
        match self {
            Record::Address(IpAddr::V4(address)) => (1, Ipv4Addr::octets(address).to_vec()),
            Record::Address(IpAddr::V6(address)) => (28, Ipv6Addr::octets(address).to_vec()),
            Record::Name(name) => {
                let mut data = Vec::with_capacity(name.len() + 2);
                for label in name.split('.').filter(|label| !label.is_empty()) {
                    let label = &label.as_bytes()[..label.len().min(63)];
                    data.push(label.len() as u8);
                    data.extend_from_slice(label);
                }
                data.push(0);
                (12, data)
            }
        }
    }
}

/// The answer to what is no query: the header alone.
#[must_use]
pub fn refusal(message: &[u8], code: Code) -> Option<Vec<u8>> {
    (message.len() >= HEADER_LEN).then(|| head(message, code, false))
}

/// The header of an answer to `message`, which has one, with no section in it.
fn head(message: &[u8], code: Code, is_truncated: bool) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN];
    out[..2].copy_from_slice(&message[..2]);
    // Answer, the operation as it came, authoritative, truncated, recursion as desired.
    out[2] = 0x80 | message[2] & 0x79 | 0x04 | u8::from(is_truncated) << 1;
    // Recursion is available; the client's own word on checking stays (RFC 4035 §3.2.2).
    out[3] = 0x80 | message[3] & 0x10 | (code as u8) & 0x0f;
    out
}

#[cfg(test)]
mod tests;
