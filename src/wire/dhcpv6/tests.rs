//! Tests of `dhcpv6`, sentences of its behaviour. `dhcproto` is the independent reader and writer.

use super::*;
use dhcproto::v6::{self, DhcpOption, ORO, OptionCode};
use dhcproto::{Decodable, Encodable};
use proptest::prelude::*;
use rstest::rstest;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

proptest! {
    #[test]
    fn what_an_independent_writer_says_is_read(
        transaction: [u8; 3],
        client in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        server in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        asks_for in prop::option::of(prop::collection::vec(22u16..26, 0..5)),
        wants_addresses: bool,
    ) {
        let mut message =
            v6::Message::new_with_id(v6::MessageType::InformationRequest, transaction);
        let options = message.opts_mut();
        options.insert(DhcpOption::ElapsedTime(7));
        if let Some(client) = &client {
            options.insert(DhcpOption::ClientId(client.clone()));
        }
        if let Some(server) = &server {
            options.insert(DhcpOption::ServerId(server.clone()));
        }
        if let Some(codes) = &asks_for {
            let codes = codes.iter().map(|code| OptionCode::from(*code));
            options.insert(DhcpOption::ORO(ORO { opts: codes.collect() }));
        }
        if wants_addresses {
            let opts = v6::DhcpOptions::new();
            options.insert(DhcpOption::IANA(v6::IANA { id: 1, t1: 0, t2: 0, opts }));
        }
        let bytes = message.to_vec().unwrap();
        let expected = Request {
            kind: RequestKind::InformationRequest,
            transaction,
            client_identifier: client.as_deref(),
            server_identifier: server.as_deref(),
            wants_addresses,
            declines_dns: asks_for.is_some_and(|codes| !codes.contains(&23)),
        };
        prop_assert_eq!(parse(&bytes), Ok(expected));
    }

    #[test]
    fn what_we_write_is_read_by_an_independent_reader(
        transaction: [u8; 3],
        client in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        dns in prop::option::of(any::<u128>()),
    ) {
        let dns = dns.map(Ipv6Addr::from);
        let server_identifier = duid(MAC);
        let reply = Reply { transaction, client_identifier: client.as_deref(), server_identifier, dns };
        let mut out = [0xee; Reply::MAX_LEN];
        let len = reply.write(&mut out);
        let message = v6::Message::from_bytes(&out[..len]).unwrap();
        prop_assert_eq!((message.msg_type(), message.xid()), (v6::MessageType::Reply, transaction));
        let count = 1 + usize::from(client.is_some()) + usize::from(dns.is_some());
        let options = message.opts();
        prop_assert_eq!(options.iter().count(), count);
        let expected = client.map(DhcpOption::ClientId);
        prop_assert_eq!(options.get(OptionCode::ClientId), expected.as_ref());
        prop_assert_eq!(options.get(OptionCode::ServerId), Some(&DhcpOption::ServerId(server_identifier.into())));
        let expected = dns.map(|dns| DhcpOption::DomainNameServers(vec![dns]));
        prop_assert_eq!(options.get(OptionCode::DomainNameServers), expected.as_ref());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_options_never_panic(options in prop::collection::vec(0u8..8, 0..100)) {
        let _ = parse(&[&[11, 1, 2, 3][..], &options].concat());
    }
}

#[test]
fn a_duid_of_a_link_address_is_that_of_the_rfc() {
    assert_eq!(duid(MAC), [0, 3, 0, 1, 2, 0, 0, 0, 0, 2]);
}

#[test]
fn messages_about_addresses_are_told_apart_by_their_number() {
    assert_eq!(parse(&[1, 9, 9, 9]).unwrap().kind, RequestKind::Other(1));
    assert_eq!(parse(&[11, 9, 9, 9]).unwrap().kind, RequestKind::InformationRequest);
}

#[rstest]
#[case::empty(&[], Dhcpv6Error::Truncated)]
#[case::short(&[11, 0, 0], Dhcpv6Error::Truncated)]
#[case::half_a_header(&[11, 0, 0, 0, 0, 1, 0], Dhcpv6Error::Truncated)]
#[case::beyond_the_end(&[11, 0, 0, 0, 0, 8, 0, 3, 0, 0], Dhcpv6Error::Option(8))]
#[case::nobody(&[11, 0, 0, 0, 0, 1, 0, 0], Dhcpv6Error::Option(1))]
#[case::half_a_code(&[11, 0, 0, 0, 0, 6, 0, 1, 0], Dhcpv6Error::Option(6))]
#[case::relayed(&[12, 0, 0, 0], Dhcpv6Error::Relayed)]
fn malformed_messages_are_refused(#[case] message: &[u8], #[case] expected: Dhcpv6Error) {
    assert_eq!(parse(message), Err(expected));
}

#[test]
fn identifiers_have_the_longest_length_of_the_rfc() {
    let message = |len: u8| [&[11, 0, 0, 0, 0, 1, 0, len][..], &vec![7; usize::from(len)]].concat();
    assert!(parse(&message(130)).is_ok());
    assert_eq!(parse(&message(131)), Err(Dhcpv6Error::Option(1)));
}
