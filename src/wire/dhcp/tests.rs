//! Tests of `dhcp`, sentences of its behaviour. `dhcproto` is the independent reader and writer.

use super::*;
use dhcproto::v4::{self, DhcpOption, OptionCode};
use dhcproto::{Decodable, Encodable, Name};
use ipnet::Ipv4Net;
use proptest::prelude::*;
use rstest::rstest;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A DISCOVER without options but its type, byte by byte: RFC 2131, figure 1.
fn discover() -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 3, 0x80, 0];
    message.resize(28, 0);
    message.extend(MAC.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    message
}

#[test]
fn fields_are_where_the_rfc_has_them() {
    let mut message = discover();
    message[12..16].copy_from_slice(&[10, 0, 2, 15]);
    message[24..28].copy_from_slice(&[10, 0, 2, 99]);
    let expected = Request {
        kind: RequestKind::Discover,
        transaction: 0x1234_5678,
        broadcast: true,
        client_address: Ipv4Addr::new(10, 0, 2, 15),
        relay: Ipv4Addr::new(10, 0, 2, 99),
        mac: MAC,
        client_identifier: None,
        requested_address: None,
        server: None,
        max_packet: None,
        fqdn: None,
    };
    assert_eq!(parse(&message), Ok(expected));
}

fn kind_of(number: u8) -> (v4::MessageType, RequestKind) {
    match number % 5 {
        0 => (v4::MessageType::Discover, RequestKind::Discover),
        1 => (v4::MessageType::Request, RequestKind::Request),
        2 => (v4::MessageType::Decline, RequestKind::Decline),
        3 => (v4::MessageType::Release, RequestKind::Release),
        _ => (v4::MessageType::Inform, RequestKind::Inform),
    }
}

proptest! {
    #[test]
    fn what_an_independent_writer_says_is_read(
        kind: u8, transaction: u32, broadcast: bool, client_address: u32, relay: u32,
        requested in prop::option::of(any::<u32>()), server in prop::option::of(any::<u32>()),
        max_packet in prop::option::of(any::<u16>()), asks_fqdn: bool,
        identifier in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_CLIENT_IDENTIFIER)),
    ) {
        let (kind, expected_kind) = kind_of(kind);
        let (client_address, relay) = (Ipv4Addr::from(client_address), Ipv4Addr::from(relay));
        let mut message =
            v4::Message::new_with_id(transaction, client_address, UNSPECIFIED, UNSPECIFIED, relay, &MAC.0);
        if broadcast {
            message.set_flags(v4::Flags::default().set_broadcast());
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::Hostname("container".into()));
        let mut parameters = vec![OptionCode::Router, OptionCode::SubnetMask];
        if asks_fqdn {
            parameters.push(OptionCode::ClientFQDN);
        }
        options.insert(DhcpOption::ParameterRequestList(parameters));
        if let Some(max_packet) = max_packet {
            options.insert(DhcpOption::MaxMessageSize(max_packet));
        }
        if let Some(requested) = requested {
            options.insert(DhcpOption::RequestedIpAddress(requested.into()));
        }
        if let Some(server) = server {
            options.insert(DhcpOption::ServerIdentifier(server.into()));
        }
        if let Some(identifier) = &identifier {
            options.insert(DhcpOption::ClientIdentifier(identifier.clone()));
        }
        let expected = Request {
            kind: expected_kind,
            transaction,
            broadcast,
            client_address,
            relay,
            mac: MAC,
            client_identifier: identifier.as_deref(),
            requested_address: requested.map(Ipv4Addr::from),
            server: server.map(Ipv4Addr::from),
            max_packet,
            fqdn: asks_fqdn.then_some(FqdnQuery::BARE),
        };
        let bytes = message.to_vec().unwrap();
        prop_assert_eq!(parse(&bytes), Ok(expected));
    }

    #[test]
    fn what_we_write_is_read_by_an_independent_reader(
        transaction: u32, broadcast: bool, client_address: u32, your_address: u32, mtu: u16,
        lease_seconds in prop::option::of(any::<u32>()), with_network: bool, router_is_elsewhere: bool,
        resolvers in prop::collection::vec(any::<u32>(), 0..5), search in prop::collection::vec("[a-z]{1,9}", 0..4),
        hostname in prop::option::of("[a-z]{1,20}"), fqdn in prop::option::of("[a-z]{1,9}\\.[a-z]{1,9}"),
        query in prop::option::of(any::<u8>()),
        identifier in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_CLIENT_IDENTIFIER)),
    ) {
        let network = Network {
            mask: Ipv4Addr::new(255, 255, 255, 0),
            broadcast: Ipv4Addr::new(10, 0, 2, 255),
            router: Ipv4Addr::new(10, 0, 2, 2),
            router_is_elsewhere,
            mtu,
            resolvers: resolvers.into_iter().map(Ipv4Addr::from).collect(),
            search: search.iter().map(|name| DomainName::new(name).unwrap()).collect(),
            hostname,
            fqdn: fqdn.as_deref().and_then(DomainName::new),
        };
        // Labels are what the independent reader reads.
        let query = query.map(|flags| FqdnQuery { flags: flags | FQDN_LABELS });
        let reply = Reply {
            kind: ReplyKind::Ack,
            transaction,
            broadcast,
            client_address: client_address.into(),
            your_address: your_address.into(),
            mac: MAC,
            client_identifier: identifier.as_deref(),
            server: network.router,
            lease_seconds,
            network: with_network.then_some(&network),
            fqdn: query,
        };
        let mut out = [0xee; 1_472];
        let len = reply.write(&mut out);
        prop_assert!((300..=out.len()).contains(&len));
        let message = v4::Message::from_bytes(&out[..len]).unwrap();
        prop_assert_eq!(message.opcode(), v4::Opcode::BootReply);
        prop_assert_eq!((message.htype(), message.chaddr()), (v4::HType::Eth, &MAC.0[..]));
        prop_assert_eq!((message.xid(), message.flags().broadcast()), (transaction, broadcast));
        prop_assert_eq!((message.ciaddr(), message.yiaddr()), (reply.client_address, reply.your_address));
        prop_assert_eq!((message.siaddr(), message.giaddr()), (UNSPECIFIED, UNSPECIFIED));
        let mut expected = v4::DhcpOptions::new();
        expected.insert(DhcpOption::MessageType(v4::MessageType::Ack));
        expected.insert(DhcpOption::ServerIdentifier(network.router));
        if let Some(seconds) = lease_seconds {
            expected.insert(DhcpOption::AddressLeaseTime(seconds));
            expected.insert(DhcpOption::Renewal(seconds / 2));
            expected.insert(DhcpOption::Rebinding((u64::from(seconds) * 7).div_ceil(8) as u32));
        }
        if with_network {
            expected.insert(DhcpOption::SubnetMask(network.mask));
            expected.insert(DhcpOption::BroadcastAddr(network.broadcast));
            expected.insert(DhcpOption::Router(vec![network.router]));
            expected.insert(DhcpOption::InterfaceMtu(mtu));
            if !network.resolvers.is_empty() {
                expected.insert(DhcpOption::DomainNameServer(network.resolvers.clone()));
            }
            if router_is_elsewhere {
                let host = Ipv4Net::new(network.router, 32).unwrap();
                let routes = vec![(host, UNSPECIFIED), (Ipv4Net::default(), network.router)];
                expected.insert(DhcpOption::ClasslessStaticRoute(routes));
            }
            if let Some(hostname) = &network.hostname {
                expected.insert(DhcpOption::Hostname(hostname.clone()));
            }
            if let (Some(query), Some(fqdn)) = (query, &fqdn) {
                let flags = v4::fqdn::FqdnFlags::from(0x0c | if query.flags & 1 != 0 { 2 } else { 0 });
                let name = Name::from_ascii(format!("{fqdn}.")).unwrap();
                expected.insert(DhcpOption::ClientFQDN(v4::fqdn::ClientFQDN::new(flags, name)));
            }
            if !search.is_empty() {
                let names = search.iter().map(|name| Name::from_ascii(format!("{name}.")).unwrap());
                expected.insert(DhcpOption::DomainSearch(names.collect()));
            }
        }
        if let Some(identifier) = identifier {
            expected.insert(DhcpOption::ClientIdentifier(identifier));
        }
        let read = message.opts();
        prop_assert_eq!(read.len(), expected.len());
        for (code, option) in expected.iter() {
            prop_assert_eq!(read.get(*code), Some(option));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_options_never_panic(
        options in prop::collection::vec(any::<u8>(), 0..200),
        fields in prop::collection::vec(any::<u8>(), 192),
        overload in 0u8..5,
    ) {
        let mut message = discover();
        message[44..236].copy_from_slice(&fields);
        message.pop();
        message.extend([52, 1, overload]);
        message.extend(options);
        let _ = parse(&message);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..244, byte: u8) {
        let mut message = discover();
        message[at] = byte;
        let _ = parse(&message);
    }
}

/// A network that has more to tell than any message holds.
fn talkative() -> Network {
    let any = Ipv4Addr::BROADCAST;
    let name = |label: char| DomainName::new(&label.to_string().repeat(60)).unwrap();
    Network {
        mask: any,
        broadcast: any,
        router: any,
        router_is_elsewhere: true,
        mtu: 1,
        resolvers: vec![any; 80],
        search: ('a'..='z').map(name).collect(),
        hostname: Some("h".repeat(255)),
        fqdn: DomainName::new(&["f".repeat(60), "g".repeat(60)].join(".")),
    }
}

fn offer(network: &Network) -> Reply<'_> {
    let any = Ipv4Addr::BROADCAST;
    Reply {
        kind: ReplyKind::Offer,
        transaction: 0,
        broadcast: true,
        client_address: any,
        your_address: any,
        mac: MAC,
        client_identifier: Some(&[7; MAX_CLIENT_IDENTIFIER]),
        server: any,
        lease_seconds: Some(1),
        network: Some(network),
        fqdn: Some(FqdnQuery::BARE),
    }
}

#[test]
fn the_longest_reply_is_one_that_every_client_accepts_and_names_a_resolver() {
    let network = talkative();
    let mut out = [0xee; Reply::MIN_ROOM];
    // RFC 2131 §2: 576 bytes of packet.
    assert_eq!(offer(&network).write(&mut out) + PACKET_OVERHEAD, 576);
    let message = v4::Message::from_bytes(&out).unwrap();
    let options = message.opts();
    assert_eq!(
        options.get(OptionCode::DomainNameServer),
        Some(&DhcpOption::DomainNameServer(vec![network.router]))
    );
    assert!(options.get(OptionCode::ClasslessStaticRoute).is_some());
    assert_eq!(options.get(OptionCode::Hostname), None, "a name is told whole or not at all");
}

#[test]
fn a_client_that_takes_more_is_told_more_and_a_long_list_is_cut_into_options() {
    let network = talkative();
    let mut out = [0xee; 1_472];
    let len = Reply { client_identifier: None, ..offer(&network) }.write(&mut out);
    let message = v4::Message::from_bytes(&out[..len]).unwrap();
    let options = message.opts();
    let resolvers = DhcpOption::DomainNameServer(vec![network.router; 63]);
    assert_eq!(options.get(OptionCode::DomainNameServer), Some(&resolvers), "an option has 255 bytes");
    assert!(
        matches!(options.get(OptionCode::Hostname), Some(DhcpOption::Hostname(name)) if name.len() == 255)
    );
    let mut at = OPTIONS_AT;
    let mut search = Vec::new();
    while out[at] != OPTION_END {
        let (code, size) = (out[at], usize::from(out[at + 1]));
        if code == OPTION_SEARCH {
            search.extend_from_slice(&out[at + 2..at + 2 + size]);
        }
        at += 2 + size;
    }
    let count = search.len() / 62;
    assert_eq!(search, domain::list(&network.search[..count], usize::MAX));
    assert!(search.len() > 255 && len + 62 > out.len(), "{len}: {count} names");
}

#[test]
fn a_name_in_full_is_written_as_the_client_writes_its_own() {
    let network = Network { fqdn: DomainName::new("c.example.org"), hostname: None, ..talkative() };
    for (flags, expected) in [
        (0x00, &b"\x08\xff\xffc.example.org"[..]),
        (0x01, b"\x0a\xff\xffc.example.org"),
        (0x04, b"\x0c\xff\xff\x01c\x07example\x03org\0"),
        (0xff, b"\x0e\xff\xff\x01c\x07example\x03org\0"),
    ] {
        let message = with_options(&[53, 1, 1, 81, 3, flags, 0, 0, 255]);
        let request = parse(&message).unwrap();
        let reply = Reply { fqdn: request.fqdn, client_identifier: None, ..offer(&network) };
        let mut out = [0; 1_472];
        let len = reply.write(&mut out);
        let option = [&[81, expected.len() as u8], expected].concat();
        assert!(out[..len].windows(option.len()).any(|window| window == option), "{flags:#x}");
    }
}

#[rstest]
#[case::offer(ReplyKind::Offer, v4::MessageType::Offer)]
#[case::ack(ReplyKind::Ack, v4::MessageType::Ack)]
#[case::nak(ReplyKind::Nak, v4::MessageType::Nak)]
fn kinds_of_reply_have_their_numbers(#[case] kind: ReplyKind, #[case] expected: v4::MessageType) {
    let reply = Reply {
        kind,
        transaction: 0,
        broadcast: false,
        client_address: UNSPECIFIED,
        your_address: UNSPECIFIED,
        mac: MAC,
        client_identifier: None,
        server: UNSPECIFIED,
        lease_seconds: None,
        network: None,
        fqdn: None,
    };
    let mut out = [0xee; Reply::MIN_ROOM];
    let len = reply.write(&mut out);
    assert_eq!(v4::Message::from_bytes(&out[..len]).unwrap().opts().msg_type(), Some(expected));
}

/// A DISCOVER whose options are these instead.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut message = discover();
    message.truncate(OPTIONS_AT);
    message.extend(options);
    message
}

#[test]
fn options_go_on_in_file_and_then_in_sname() {
    let mut message = with_options(&[52, 1, 3, 255]);
    message[FILE_AT..FILE_AT + 10].copy_from_slice(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 255]);
    message[SNAME_AT..SNAME_AT + 7].copy_from_slice(&[54, 4, 10, 0, 2, 2, 255]);
    let request = parse(&message).unwrap();
    assert_eq!(request.kind, RequestKind::Request);
    assert_eq!(request.requested_address, Some(Ipv4Addr::new(10, 0, 2, 15)));
    assert_eq!(request.server, Some(Ipv4Addr::new(10, 0, 2, 2)));

    message[OPTIONS_AT + 2] = 1;
    assert_eq!(parse(&message).unwrap().server, None, "only the file field is said to hold options");
    message[FILE_AT + 4] = 200;
    assert_eq!(parse(&message), Err(DhcpError::Option(50)), "an option ends within its field");
}

#[test]
fn of_an_option_that_comes_twice_the_first_counts() {
    let message = with_options(&[53, 1, 1, 50, 4, 1, 2, 3, 4, 0, 0, 50, 4, 5, 6, 7, 8, 255]);
    assert_eq!(parse(&message).unwrap().requested_address, Some(Ipv4Addr::new(1, 2, 3, 4)));
}

#[test]
fn a_missing_end_is_forgiven_and_nothing_behind_the_end_is_read() {
    assert_eq!(parse(&with_options(&[53, 1, 7])).unwrap().kind, RequestKind::Release);
    assert_eq!(parse(&with_options(&[53, 1, 7, 255, 50, 9])).unwrap().kind, RequestKind::Release);
}

#[rstest]
#[case::no_value(&[53, 1, 1, 50], DhcpError::Option(50))]
#[case::cut(&[53, 1, 1, 50, 4, 1, 2, 3], DhcpError::Option(50))]
#[case::unknown_cut(&[53, 1, 1, 12, 9, b'x'], DhcpError::Option(12))]
#[case::address_of_three(&[53, 1, 1, 54, 3, 1, 2, 3, 255], DhcpError::Option(54))]
#[case::type_of_two(&[53, 2, 1, 1, 255], DhcpError::Option(53))]
#[case::empty_identifier(&[53, 1, 1, 61, 0, 255], DhcpError::Option(61))]
#[case::short_size(&[53, 1, 1, 57, 1, 2, 255], DhcpError::Option(57))]
#[case::empty_overload(&[53, 1, 1, 52, 0, 255], DhcpError::Option(52))]
#[case::offer(&[53, 1, 2, 255], DhcpError::MessageType)]
#[case::unknown_type(&[53, 1, 99, 255], DhcpError::MessageType)]
#[case::bootp(&[255], DhcpError::MessageType)]
#[case::nothing(&[], DhcpError::MessageType)]
fn malformed_options_are_refused(#[case] options: &[u8], #[case] expected: DhcpError) {
    assert_eq!(parse(&with_options(options)), Err(expected));
}

#[test]
fn an_identifier_too_long_to_be_repeated_is_refused() {
    let mut options = vec![53, 1, 1, 61, 235];
    options.extend([9; 235]);
    assert_eq!(parse(&with_options(&options)), Err(DhcpError::Option(61)));
}

#[test]
fn what_is_no_request_of_an_ethernet_client_is_refused() {
    for len in 0..OPTIONS_AT {
        assert_eq!(parse(&discover()[..len]), Err(DhcpError::Truncated), "{len}");
    }
    for (at, byte, expected) in [
        (0, 2, DhcpError::NotARequest),
        (1, 6, DhcpError::Hardware),
        (2, 16, DhcpError::Hardware),
        (28, 1, DhcpError::Hardware),
        (236, 0, DhcpError::Cookie),
    ] {
        let mut message = discover();
        message[at] = byte;
        assert_eq!(parse(&message), Err(expected), "byte {at}");
    }
}
