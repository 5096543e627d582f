//! Just enough DNS (RFC 1035) for a resolver whose answers a case can predict.
//!
//! `www.test` has one address of each family, `big.test` a text that does not fit a datagram, `who.test` a text
//! that names the resolver. Nothing else exists.

use crate::ground::{WORLD4, WORLD6};

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP: answers beyond 512 bytes are cut to a TC bit.
    Datagram,
    /// TCP.
    Stream,
}

/// Bytes of text under `big.test`.
pub const BIG_TEXT_BYTES: usize = 4_000;

const HEADER_BYTES: usize = 12;
const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// The answer to `query` by the resolver `label`; none to what is no query.
pub fn answer(query: &[u8], label: &str, transport: Transport) -> Option<Vec<u8>> {
    let (name, question) = parse_question(query)?;
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let data = match (name.as_str(), kind) {
        ("www.test", A) => Some(WORLD4.octets().to_vec()),
        ("www.test", AAAA) => Some(WORLD6.octets().to_vec()),
        ("who.test", TXT) => Some(text(label.as_bytes())),
        ("big.test", TXT) => Some(text(&[b'x'; BIG_TEXT_BYTES])),
        _ => None,
    };
    let exists = ["www.test", "who.test", "big.test"].contains(&name.as_str());
    let mut record = Vec::new();
    if let Some(data) = data {
        // Owner (a pointer to the question), type, class IN, a TTL of one minute.
        record.extend([0xc0, HEADER_BYTES as u8]);
        record.extend(kind.to_be_bytes());
        record.extend([0, 1, 0, 0, 0, 60]);
        record.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        record.extend(data);
    }
    let truncated = transport == Transport::Datagram && HEADER_BYTES + question.len() + record.len() > 512;
    // QR, the query's RD, TC; RA and the code NXDOMAIN.
    let flags = [0x80 | (query[2] & 1) | if truncated { 2 } else { 0 }, 0x80 | if exists { 0 } else { 3 }];
    let answers = u8::from(!record.is_empty() && !truncated);
    let mut message = vec![query[0], query[1], flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0];
    message.extend(question);
    if answers == 1 {
        message.extend(record);
    }
    Some(message)
}

/// Name in lower case, and the bytes of the whole question.
fn parse_question(query: &[u8]) -> Option<(String, &[u8])> {
    if query.len() < HEADER_BYTES || query[2] & 0x80 != 0 || query[4..6] != [0, 1] {
        return None;
    }
    let mut at = HEADER_BYTES;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_ascii_lowercase());
        at += len;
    }
    Some((labels.join("."), query.get(HEADER_BYTES..at + 4)?))
}

fn text(content: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in content.chunks(255) {
        data.push(part.len() as u8);
        data.extend(part);
    }
    data
}
