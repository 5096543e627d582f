//! Tests of `dhcpv6`, sentences of its behaviour. `dhcproto` is the independent reader and writer.

use super::*;
use dhcproto::v6::{self, DhcpOption, ORO, OptionCode};
use dhcproto::{Decodable, Encodable, Name};
use proptest::prelude::*;
use rstest::rstest;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A message of the client's with these options.
fn bytes_of(kind: v6::MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
    options.into_iter().for_each(|option| message.opts_mut().insert(option));
    message.to_vec().unwrap()
}

/// An association for addresses.
fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let mut opts = v6::DhcpOptions::new();
    for &addr in addresses {
        let none = v6::DhcpOptions::new();
        opts.insert(DhcpOption::IAAddr(v6::IAAddr { addr, preferred_life: 0, valid_life: 0, opts: none }));
    }
    DhcpOption::IANA(v6::IANA { id, t1: 0, t2: 0, opts })
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

proptest! {
    #[test]
    fn what_an_independent_writer_says_is_read(
        client in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        server in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        asks_for in prop::option::of(prop::collection::vec(22u16..26, 0..5)),
        wanted in prop::collection::vec(prop::collection::vec(any::<u128>(), 0..3), 0..3),
        rapid_commit: bool,
    ) {
        let mut options = vec![DhcpOption::ElapsedTime(7)];
        options.extend(client.clone().map(DhcpOption::ClientId));
        options.extend(server.clone().map(DhcpOption::ServerId));
        options.extend(asks_for.as_ref().map(|codes| {
            DhcpOption::ORO(ORO { opts: codes.iter().map(|code| OptionCode::from(*code)).collect() })
        }));
        options.extend(rapid_commit.then_some(DhcpOption::RapidCommit));
        let wanted: Vec<Vec<Ipv6Addr>> =
            wanted.into_iter().map(|list| list.into_iter().map(Ipv6Addr::from).collect()).collect();
        options.extend((0..).zip(&wanted).map(|(id, addresses)| association(id, addresses)));
        let bytes = bytes_of(v6::MessageType::Solicit, options);
        let request = parse(&bytes).unwrap();
        prop_assert_eq!((request.kind, request.transaction), (RequestKind::Solicit, [1, 2, 3]));
        prop_assert_eq!(request.client_identifier, client.as_deref());
        prop_assert_eq!(request.server_identifier, server.as_deref());
        prop_assert_eq!(request.rapid_commit, rapid_commit);
        let is_asked = |code| asks_for.as_ref().is_none_or(|codes| codes.contains(&code));
        prop_assert_eq!(request.asks_for(OPTION_DNS_SERVERS), is_asked(23));
        prop_assert_eq!(request.asks_for(OPTION_SEARCH), is_asked(24));
        let mut read: Vec<_> = request.associations();
        read.sort_by_key(|association| association.id);
        // The writer has an order of its own.
        read.iter_mut().for_each(|association| association.addresses.sort());
        let expected = (0u32..).zip(wanted).map(|(id, mut addresses)| {
            addresses.sort();
            Association { kind: AssociationKind::Addresses, id: id.to_be_bytes(), addresses }
        });
        prop_assert_eq!(read, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_we_write_is_read_by_an_independent_reader(
        client in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_DUID_LEN)),
        resolvers in prop::collection::vec(any::<u128>().prop_map(Ipv6Addr::from), 0..5),
        search in prop::collection::vec("[a-z]{1,9}", 0..4),
        address: u128, withdrawn: u128, rapid_commit: bool,
    ) {
        let mut options = vec![association(7, &[])];
        options.extend(client.clone().map(DhcpOption::ClientId));
        let bytes = bytes_of(v6::MessageType::Solicit, options);
        let (address, withdrawn) = (Ipv6Addr::from(address), Ipv6Addr::from(withdrawn));
        let grants = [
            Grant::Address { id: [0, 0, 0, 7], address, seconds: 100, withdrawn: vec![withdrawn] },
            Grant::Refused { kind: AssociationKind::Prefixes, id: [9; 4], status: Status::NoPrefixAvail },
        ];
        let names: Vec<_> = search.iter().map(|name| DomainName::new(name).unwrap()).collect();
        let (kind, expected_kind) = match rapid_commit {
            true => (ReplyKind::Reply, v6::MessageType::Reply),
            false => (ReplyKind::Advertise, v6::MessageType::Advertise),
        };
        let own = DomainName::new("c.example").unwrap();
        let reply = Reply {
            kind,
            request: &parse(&bytes).unwrap(),
            server_identifier: duid(MAC),
            status: Some(Status::NotOnLink),
            grants: &grants,
            resolvers: &resolvers,
            search: &names,
            fqdn: Some(&own),
        };
        let mut out = [0xee; Reply::MAX_LEN];
        let len = reply.write(&mut out);
        let message = v6::Message::from_bytes(&out[..len]).unwrap();
        prop_assert_eq!((message.msg_type(), message.xid()), (expected_kind, [1, 2, 3]));
        let options = message.opts();
        let client = client.map(DhcpOption::ClientId);
        prop_assert_eq!(options.get(OptionCode::ClientId), client.as_ref());
        prop_assert_eq!(options.get(OptionCode::ServerId), Some(&DhcpOption::ServerId(duid(MAC).into())));
        prop_assert_eq!(options.get(OptionCode::RapidCommit).is_some(), rapid_commit);
        let status = v6::StatusCode { status: v6::Status::NotOnLink, msg: String::new() };
        prop_assert_eq!(options.get(OptionCode::StatusCode), Some(&DhcpOption::StatusCode(status)));
        let expected = (!resolvers.is_empty()).then_some(DhcpOption::DomainNameServers(resolvers));
        prop_assert_eq!(options.get(OptionCode::DomainNameServers), expected.as_ref());
        let expected = DhcpOption::DomainSearchList(search.iter().map(|text| name(text)).collect());
        prop_assert_eq!(options.get(OptionCode::DomainSearchList), Some(&expected).filter(|_| !search.is_empty()));
        prop_assert_eq!(options.get(OptionCode::from(39)), None, "nobody asked");
        let Some(DhcpOption::IANA(granted)) = options.get(OptionCode::IANA) else { panic!("{options:?}") };
        prop_assert_eq!((granted.id, granted.t1, granted.t2), (7, 50, 80));
        let lifetimes: Vec<_> = granted.opts.iter().map(|option| match option {
            DhcpOption::IAAddr(own) => (own.addr, own.preferred_life, own.valid_life),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(lifetimes, [(address, 100, 100), (withdrawn, 0, 0)]);
        let Some(DhcpOption::IAPD(refused)) = options.get(OptionCode::IAPD) else { panic!("{options:?}") };
        let status = v6::StatusCode { status: v6::Status::NoPrefixAvail, msg: String::new() };
        prop_assert_eq!(refused.opts.get(OptionCode::StatusCode), Some(&DhcpOption::StatusCode(status)));
    }

    #[test]
    fn arbitrary_associations_never_panic(bytes in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..100)) {
        if let Ok(request) = parse(&[&[1, 1, 2, 3][..], &bytes].concat()) {
            let _ = request.associations();
        }
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
    assert_eq!(parse(&[2, 9, 9, 9]).unwrap().kind, RequestKind::Other(2));
    use RequestKind::*;
    let kinds =
        [(1, Solicit), (3, Request), (4, Confirm), (5, Renew), (6, Rebind), (8, Release), (9, Decline)];
    for (number, kind) in [&kinds[..], &[(11, InformationRequest)]].concat() {
        assert_eq!(parse(&[number, 9, 9, 9]).unwrap().kind, kind);
    }
}

#[rstest]
#[case::empty(&[], Dhcpv6Error::Truncated)]
#[case::short(&[11, 0, 0], Dhcpv6Error::Truncated)]
#[case::half_a_header(&[11, 0, 0, 0, 0, 1, 0], Dhcpv6Error::Truncated)]
#[case::beyond_the_end(&[11, 0, 0, 0, 0, 8, 0, 3, 0, 0], Dhcpv6Error::Option(8))]
#[case::nobody(&[11, 0, 0, 0, 0, 1, 0, 0], Dhcpv6Error::Option(1))]
#[case::half_a_code(&[11, 0, 0, 0, 0, 6, 0, 1, 0], Dhcpv6Error::Option(6))]
#[case::short_association(&[1, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0], Dhcpv6Error::Option(3))]
#[case::cut_within(&[1, 0, 0, 0, 0, 4, 0, 8, 0, 0, 0, 0, 0, 5, 0, 1], Dhcpv6Error::Option(4))]
#[case::short_address(&[1, 0, 0, 0, 0, 4, 0, 8, 0, 0, 0, 0, 0, 5, 0, 0], Dhcpv6Error::Option(4))]
#[case::no_flags(&[1, 0, 0, 0, 0, 39, 0, 0], Dhcpv6Error::Option(39))]
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

#[test]
fn only_so_many_associations_are_looked_at() {
    let option = [0, 4, 0, 4, 1, 2, 3, 4];
    let message = [&[1, 0, 0, 0][..], &option.repeat(20)].concat();
    assert_eq!(parse(&message).unwrap().associations().len(), MAX_ASSOCIATIONS);
}

#[test]
fn a_reply_tells_what_fits_one_packet_and_a_name_to_who_asks() {
    let client = vec![7; MAX_DUID_LEN];
    let asks = |codes: &[u16]| {
        let opts = codes.iter().map(|code| OptionCode::from(*code)).collect();
        vec![DhcpOption::ClientId(client.clone()), DhcpOption::ORO(ORO { opts })]
    };
    let (resolvers, own) = (vec![Ipv6Addr::LOCALHOST; 200], DomainName::new("c.example").unwrap());
    let search: Vec<_> = (0..200).map(|at| DomainName::new(&format!("a{at}.example")).unwrap()).collect();
    let write = |bytes: &[u8], resolvers: &[Ipv6Addr]| {
        let reply = Reply {
            kind: ReplyKind::Reply,
            request: &parse(bytes).unwrap(),
            server_identifier: duid(MAC),
            status: None,
            grants: &[],
            resolvers,
            search: &search,
            fqdn: Some(&own),
        };
        let mut out = [0xee; Reply::MAX_LEN];
        let len = reply.write(&mut out);
        v6::Message::from_bytes(&out[..len]).unwrap();
        out[..len].to_vec()
    };
    let all = bytes_of(v6::MessageType::InformationRequest, asks(&[23, 24, 39]));
    assert!((1_210..=1_232).contains(&write(&all, &resolvers).len()));
    assert!((1_210..=1_232).contains(&write(&all, &[]).len()));
    let only_name = bytes_of(v6::MessageType::InformationRequest, asks(&[39]));
    let expected = b"\x00\x27\x00\x0c\x04\x01c\x07example\0";
    assert!(write(&only_name, &resolvers).ends_with(expected));
}
