//! Queries and answers, with hickory as the independent writer and reader.

use std::str::FromStr;

use hickory_proto::op::{Edns as HickoryEdns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};

use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_str(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, udp_bytes: u16) -> Message {
    let mut edns = HickoryEdns::new();
    edns.set_max_payload(udp_bytes).set_version(0).set_dnssec_ok(true);
    message.edns = Some(edns);
    message
}

#[test]
fn a_question_is_what_an_independent_writer_wrote() {
    for (kind, wanted) in [
        (RecordType::A, Wanted::A),
        (RecordType::AAAA, Wanted::Aaaa),
        (RecordType::PTR, Wanted::Ptr),
        (RecordType::ANY, Wanted::Any),
        (RecordType::MX, Wanted::Other),
    ] {
        let bytes = query("WeB.Example.", kind).to_bytes().unwrap();
        let query = parse(&bytes).unwrap();
        assert_eq!((query.name.as_deref(), query.wanted), (Some("web.example"), wanted));
        assert!(query.is_internet && query.edns.is_none());
        assert_eq!(query.udp_room(), PLAIN_UDP_BYTES);
    }
    let bytes = with_edns(query(".", RecordType::A), 4_096).to_bytes().unwrap();
    let query = parse(&bytes).unwrap();
    assert_eq!(query.name.as_deref(), Some(""));
    assert_eq!(query.edns, Some(Edns { udp_bytes: 4_096, version: 0, wants_signatures: true }));
    assert_eq!(query.udp_room(), 1_232);
}

#[test]
fn an_answer_is_read_by_an_independent_reader_as_it_was_meant() {
    let bytes = with_edns(query("WeB.", RecordType::A), 1_400).to_bytes().unwrap();
    let addresses = ["172.17.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap());
    let records = [
        Record::Address(addresses[0]),
        Record::Address(addresses[1]),
        Record::Name("db.internal".to_owned()),
    ];
    let answer = parse(&bytes).unwrap().answer(Code::NoError, &records, 7, 1_232);
    assert_eq!(answer[HEADER_LEN..HEADER_LEN + 9], bytes[HEADER_LEN..HEADER_LEN + 9], "byte for byte");
    let answer = Message::from_bytes(&answer).unwrap();
    assert_eq!(answer.metadata.id, 0x1234);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert!(answer.metadata.recursion_desired && !answer.metadata.truncation);
    let data: Vec<RData> = answer.answers.iter().map(|record| record.data.clone()).collect();
    assert_eq!(data[0].ip_addr(), Some(addresses[0]));
    assert_eq!(data[1].ip_addr(), Some(addresses[1]));
    assert_eq!(data[2].to_string(), "db.internal.");
    assert!(
        answer
            .answers
            .iter()
            .all(|record| record.ttl == 7 && record.name == answer.queries[0].name().clone())
    );
    let edns = answer.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1_232, 0, true));
}

#[test]
fn what_does_not_fit_is_truncated_and_an_unknown_version_of_edns_is_told_so() {
    let bytes = query("web.", RecordType::A).to_bytes().unwrap();
    let records = vec![Record::Address([10, 0, 0, 1].into()); 40];
    let answer = parse(&bytes).unwrap().answer(Code::NoError, &records, 0, PLAIN_UDP_BYTES);
    let answer = Message::from_bytes(&answer).unwrap();
    assert!(answer.metadata.truncation && answer.answers.is_empty());

    let mut asked = with_edns(query("web.", RecordType::A), 512);
    asked.edns.as_mut().unwrap().set_version(1);
    let bytes = asked.to_bytes().unwrap();
    let answer = parse(&bytes).unwrap().answer(Code::NoError, &records[..1], 0, 512);
    let answer = Message::from_bytes(&answer).unwrap();
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert!(answer.answers.is_empty());
}

#[test]
fn what_is_no_query_is_answered_so_or_not_at_all() {
    let good = with_edns(query("web.", RecordType::A), 512).to_bytes().unwrap();
    for length in HEADER_LEN..good.len() {
        assert_eq!(parse(&good[..length]), Err(QueryError::Answer(Code::FormErr)), "{length}");
    }
    for length in 0..HEADER_LEN {
        assert_eq!(parse(&good[..length]), Err(QueryError::Silence), "{length}");
    }
    let altered = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(parse(&altered(2, 0x80)), Err(QueryError::Silence), "an answer");
    assert_eq!(parse(&altered(2, 0x28)), Err(QueryError::Answer(Code::NotImp)), "an update");
    for (at, byte) in [(5, 0), (5, 2), (7, 1), (11, 2), (HEADER_LEN, 0xc0), (HEADER_LEN, 64), (HEADER_LEN, 9)]
    {
        assert_eq!(parse(&altered(at, byte)), Err(QueryError::Answer(Code::FormErr)), "{at} {byte}");
    }
    let refused = Message::from_bytes(&refusal(&altered(2, 0x29), Code::NotImp).unwrap()).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::NotImp);
    assert_eq!(refused.metadata.op_code, OpCode::Update);
    assert_eq!(refusal(&good[..11], Code::FormErr), None);
}

#[test]
fn names_that_nobody_can_have_and_names_too_long_are_told_from_others() {
    let mut bytes = query("web.", RecordType::A).to_bytes().unwrap();
    bytes[HEADER_LEN + 1] = b'.';
    assert_eq!(parse(&bytes).unwrap().name, None);
    bytes[HEADER_LEN + 1] = 0xe4;
    assert_eq!(parse(&bytes).unwrap().name, None);
    let mut long = bytes[..HEADER_LEN].to_vec();
    for _ in 0..128 {
        long.extend_from_slice(b"\x01a");
    }
    long.extend_from_slice(&[0, 0, 1, 0, 1]);
    long[11] = 0;
    assert_eq!(parse(&long), Err(QueryError::Answer(Code::FormErr)));
}
