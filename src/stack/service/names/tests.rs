//! What is answered here, what passes, and what does neither.

use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use rstest::rstest;

use super::*;
use crate::stack::emit::tests::link_config;
use crate::wire::MacAddr;

fn member(name: &str, aliases: &[&str], last: u8, ipv6: bool) -> Member {
    Member {
        id: format!("{last:012x}"),
        name: name.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        ipv4: Some(Ipv4Addr::new(172, 17, 0, last)),
        ipv6: ipv6.then(|| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())),
        mac: MacAddr([2, 0x42, 172, 17, 0, last]),
        interface: "eth0".to_owned(),
        publish: Vec::new(),
        pid: None,
        namespace: None,
        rules: Arc::default(),
        audited: false,
    }
}

fn names(internal: bool) -> Names {
    let mut link = link_config();
    link.segment = Segment::Bridged { internal };
    link.ipv4.as_mut().unwrap().subnet = "172.17.0.0/20".parse().unwrap();
    link.ipv6.as_mut().unwrap().prefix = "fd00::/62".parse().unwrap();
    let mut names = Names::new(&link).unwrap();
    let members = [member("web", &["www", "all"], 2, true), member("db.lan", &["all"], 3, false)];
    names.change(Arc::new(NameTable::of(&members)));
    names
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(Name::from_str(name).unwrap(), kind));
    message.to_bytes().unwrap()
}

fn answered(names: &Names, message: &[u8]) -> Message {
    match names.handle_datagram(message) {
        Handled::Answered(answer) => Message::from_bytes(&answer).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn records(answer: &Message) -> Vec<String> {
    let mut records: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    records.sort();
    records
}

#[rstest]
#[case::name("web.", RecordType::A, &["172.17.0.2"])]
#[case::name_in_large_letters("WEB.", RecordType::AAAA, &["fd00::2"])]
#[case::alias("wWw.", RecordType::A, &["172.17.0.2"])]
#[case::shared_alias("all.", RecordType::A, &["172.17.0.2", "172.17.0.3"])]
#[case::name_with_a_dot("db.lan.", RecordType::A, &["172.17.0.3"])]
#[case::no_such_type("db.lan.", RecordType::AAAA, &[])]
#[case::another_type("web.", RecordType::MX, &[])]
#[case::any("web.", RecordType::ANY, &["172.17.0.2", "fd00::2"])]
#[case::reverse("3.0.17.172.in-addr.arpa.", RecordType::PTR, &["db.lan."])]
#[case::reverse_6(
    "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.IP6.ARPA.",
    RecordType::PTR,
    &["web."]
)]
#[case::reverse_of_another_type("3.0.17.172.in-addr.arpa.", RecordType::A, &[])]
#[case::on_the_way("0.17.172.in-addr.arpa.", RecordType::SOA, &[])]
fn names_of_members_are_answered_with_what_they_have(
    #[case] name: &str,
    #[case] kind: RecordType,
    #[case] expected: &[&str],
) {
    for internal in [false, true] {
        let answer = answered(&names(internal), &query(name, kind));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        assert_eq!(records(&answer), expected);
    }
}

#[rstest]
#[case::free("4.0.17.172.in-addr.arpa.", RecordType::PTR)]
#[case::last_of_the_subnet("255.15.17.172.in-addr.arpa.", RecordType::PTR)]
#[case::behind("x.3.0.17.172.in-addr.arpa.", RecordType::PTR)]
#[case::no_octet("03.0.17.172.in-addr.arpa.", RecordType::PTR)]
#[case::free_6("9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR)]
fn reverse_names_of_the_subnet_that_nobody_has_do_not_exist(#[case] name: &str, #[case] kind: RecordType) {
    let answer = answered(&names(false), &query(name, kind));
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(answer.answers.is_empty());
}

#[rstest]
#[case::other("example.org.")]
#[case::below_a_member("a.web.")]
#[case::above_a_member("lan.")]
#[case::root(".")]
#[case::beside_the_subnet("1.16.17.172.in-addr.arpa.")]
#[case::larger_than_the_subnet("17.172.in-addr.arpa.")]
#[case::all_reverse_names("in-addr.arpa.")]
#[case::beside_the_prefix("4.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.")]
fn other_names_pass_unless_the_network_has_no_way_out(#[case] name: &str) {
    let message = query(name, RecordType::A);
    assert_eq!(names(false).handle_datagram(&message), Handled::Forwarded);
    assert_eq!(names(false).handle_stream(&message), Handled::Forwarded);
    let answer = answered(&names(true), &message);
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn what_is_no_query_stays_here() {
    let mut two = query("web.", RecordType::A);
    two[5] = 2;
    assert_eq!(answered(&names(false), &two).metadata.response_code, ResponseCode::FormErr);
    let mut answer = query("web.", RecordType::A);
    answer[2] |= 0x80;
    assert_eq!(names(false).handle_datagram(&answer), Handled::Ignored);
    assert_eq!(names(false).handle_datagram(&answer[..5]), Handled::Ignored);
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let mut question = Question::query(Name::from_str("web.").unwrap(), RecordType::TXT);
    question.set_query_class(DNSClass::CH);
    message.add_query(question);
    let chaos = answered(&names(false), &message.to_bytes().unwrap());
    assert!(chaos.answers.is_empty() && chaos.metadata.response_code == ResponseCode::NoError);
}

#[test]
fn an_alias_of_many_is_truncated_over_udp_and_bounded_over_tcp() {
    let mut names = names(false);
    let crowd: Vec<Member> =
        (0..100).map(|last| member(&format!("c{last}"), &["crowd"], last, true)).collect();
    names.change(Arc::new(NameTable::of(&crowd)));
    let message = query("crowd.", RecordType::AAAA);
    assert!(answered(&names, &message).metadata.truncation);
    let Handled::Answered(answer) = names.handle_stream(&message) else { panic!("not answered") };
    let answer = Message::from_bytes(&answer).unwrap();
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), MAX_RECORDS);
}

#[test]
fn only_the_segment_of_a_network_has_names() {
    assert!(Names::new(&link_config()).is_none());
}
