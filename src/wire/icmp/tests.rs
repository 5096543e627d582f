//! Tests of `icmp`, sentences of its behaviour.

use super::*;
use crate::wire::ip::transport_checksum_ok;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    PacketBuilder, icmpv4, icmpv6,
};
use proptest::prelude::*;

const V4: ([u8; 4], [u8; 4]) = ([10, 0, 2, 2], [10, 0, 2, 100]);
const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfe; 16]);

fn addresses(is_ipv6: bool) -> (IpAddr, IpAddr) {
    if is_ipv6 { (V6.0.into(), V6.1.into()) } else { (V4.0.into(), V4.1.into()) }
}

fn echo_request(is_ipv6: bool, identifier: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let echo = IcmpEchoHeader { id: identifier, seq: sequence };
    let mut message = if is_ipv6 {
        Icmpv6Header::with_checksum(Icmpv6Type::EchoRequest(echo), V6.1, V6.0, data)
            .unwrap()
            .to_bytes()
            .to_vec()
    } else {
        Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), data).to_bytes().to_vec()
    };
    message.extend(data);
    message
}

fn offending(is_ipv6: bool, len: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let data = vec![0x5a; len];
    if is_ipv6 {
        PacketBuilder::ipv6(V6.1, V6.0, 64).udp(1, 2).write(&mut packet, &data).unwrap();
    } else {
        PacketBuilder::ipv4(V4.1, V4.0, 64).udp(1, 2).write(&mut packet, &data).unwrap();
    }
    packet
}

proptest! {
    #[test]
    fn echo_reply_carries_the_request_back(
        is_ipv6: bool, identifier: u16, sequence: u16, other: u16, data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let request = echo_request(is_ipv6, identifier, sequence, &data);
        let echo = parse_echo_request(is_ipv6, &request).unwrap();
        prop_assert_eq!(echo, Echo { identifier, sequence, message: &request });
        prop_assert_eq!(parse_echo_reply(is_ipv6, &request), None);
        prop_assert_eq!(parse_echo_request(!is_ipv6, &request), None);

        let (source, destination) = addresses(is_ipv6);
        let mut reply = vec![0xee; request.len()];
        write_echo_reply(&mut reply, source, destination, other, echo.message);
        let parsed = parse_echo_reply(is_ipv6, &reply).unwrap();
        prop_assert_eq!((parsed.identifier, parsed.sequence), (other, sequence));
        let expected = IcmpEchoHeader { id: other, seq: sequence };
        if is_ipv6 {
            let slice = Icmpv6Slice::from_slice(&reply).unwrap();
            prop_assert_eq!(slice.icmp_type(), Icmpv6Type::EchoReply(expected));
            prop_assert!(slice.is_checksum_valid(V6.0, V6.1));
            prop_assert_eq!(slice.payload(), &data[..]);
        } else {
            let slice = Icmpv4Slice::from_slice(&reply).unwrap();
            prop_assert_eq!(slice.icmp_type(), Icmpv4Type::EchoReply(expected));
            prop_assert_eq!(slice.checksum(), slice.icmp_type().calc_checksum(&data));
            prop_assert_eq!(slice.payload(), &data[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(is_ipv6: bool, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = (parse_echo_request(is_ipv6, &bytes), parse_echo_reply(is_ipv6, &bytes), is_error(is_ipv6, &bytes));
        let (source, destination) = addresses(is_ipv6);
        let mut out = vec![0; error_len(is_ipv6, &bytes)];
        prop_assert_eq!(write_error(&mut out, source, destination, Problem::ProtocolUnreachable, &bytes), out.len());
    }

    #[test]
    fn errors_quote_what_fits_and_check_out(is_ipv6: bool, len in 0usize..2000) {
        let packet = offending(is_ipv6, len);
        let (source, destination) = addresses(is_ipv6);
        let mut out = vec![0xee; error_len(is_ipv6, &packet)];
        let written = write_error(&mut out, source, destination, Problem::PortUnreachable, &packet);
        prop_assert_eq!(written, out.len());
        prop_assert_eq!(&out[8..], &packet[..written - 8]);
        let most = if is_ipv6 { 1280 } else { 576 };
        prop_assert!(ip::header_len(is_ipv6) + written <= most);
        let protocol = if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        prop_assert!(transport_checksum_ok(source, destination, protocol, &out));
        prop_assert!(is_error(is_ipv6, &out));
    }
}

#[test]
fn an_independent_reader_understands_the_errors() {
    use icmpv4::{DestUnreachableHeader as V4Unreachable, TimeExceededCode as V4Time};
    use icmpv6::{DestUnreachableCode as V6Unreachable, ParameterProblemCode, TimeExceededCode as V6Time};
    let cases = [
        (Problem::NetworkUnreachable, V4Unreachable::Network, V6Unreachable::NoRoute),
        (Problem::HostUnreachable, V4Unreachable::Host, V6Unreachable::Address),
        (Problem::PortUnreachable, V4Unreachable::Port, V6Unreachable::Port),
        (Problem::Prohibited, V4Unreachable::FilterProhibited, V6Unreachable::Prohibited),
    ];
    for (problem, v4, v6) in cases {
        assert_eq!(v4_type(problem), Icmpv4Type::DestinationUnreachable(v4));
        assert_eq!(v6_type(problem), Icmpv6Type::DestinationUnreachable(v6));
    }
    assert_eq!(v4_type(Problem::HopLimitExceeded), Icmpv4Type::TimeExceeded(V4Time::TtlExceededInTransit));
    assert_eq!(v6_type(Problem::HopLimitExceeded), Icmpv6Type::TimeExceeded(V6Time::HopLimitExceeded));
    assert_eq!(
        v4_type(Problem::ReassemblyTimeExceeded),
        Icmpv4Type::TimeExceeded(V4Time::FragmentReassemblyTimeExceeded)
    );
    assert_eq!(
        v6_type(Problem::ReassemblyTimeExceeded),
        Icmpv6Type::TimeExceeded(V6Time::FragmentReassemblyTimeExceeded)
    );
    assert_eq!(
        v4_type(Problem::PacketTooBig { mtu: 1400 }),
        Icmpv4Type::DestinationUnreachable(V4Unreachable::FragmentationNeeded { next_hop_mtu: 1400 })
    );
    assert_eq!(v6_type(Problem::PacketTooBig { mtu: 1400 }), Icmpv6Type::PacketTooBig { mtu: 1400 });
    assert_eq!(
        v4_type(Problem::ProtocolUnreachable),
        Icmpv4Type::DestinationUnreachable(V4Unreachable::Protocol)
    );
    assert_eq!(
        v6_type(Problem::ProtocolUnreachable),
        Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
            code: ParameterProblemCode::UnrecognizedNextHeader,
            pointer: 6
        })
    );
}

fn error_bytes(is_ipv6: bool, problem: Problem) -> Vec<u8> {
    let packet = offending(is_ipv6, 10);
    let (source, destination) = addresses(is_ipv6);
    let mut out = vec![0; error_len(is_ipv6, &packet)];
    write_error(&mut out, source, destination, problem, &packet);
    out
}

fn v4_type(problem: Problem) -> Icmpv4Type {
    Icmpv4Slice::from_slice(&error_bytes(false, problem)).unwrap().icmp_type()
}

fn v6_type(problem: Problem) -> Icmpv6Type {
    Icmpv6Slice::from_slice(&error_bytes(true, problem)).unwrap().icmp_type()
}

#[test]
fn queries_are_no_errors_and_the_empty_message_is_treated_as_one() {
    assert!(!is_error(false, &[8, 0]) && !is_error(false, &[0, 0]) && !is_error(false, &[13]));
    assert!(!is_error(true, &[128, 0]) && !is_error(true, &[135]));
    for kind in [3, 4, 5, 11, 12] {
        assert!(is_error(false, &[kind]), "{kind}");
    }
    assert!(is_error(true, &[1]) && is_error(true, &[127]));
    assert!(is_error(false, &[]) && is_error(true, &[]));
}

proptest! {
    #[test]
    fn an_error_that_is_written_is_read_back(is_ipv6: bool, kind: u8, code: u8, rest: u32, len in 0usize..2_000) {
        let Some(problem) = Problem::from_message(is_ipv6, kind, code, rest) else {
            // Echo and the like, redirects, source quench.
            let is_none = if is_ipv6 { kind == 0 || kind > 4 } else { ![3, 11, 12].contains(&kind) };
            prop_assert!(is_none);
            return Ok(());
        };
        let (source, destination) = addresses(is_ipv6);
        let packet = offending(is_ipv6, len);
        let mut message = vec![0; error_len(is_ipv6, &packet)];
        write_error(&mut message, source, destination, problem, &packet);
        let error = parse_error(is_ipv6, &message).unwrap();
        prop_assert_eq!(error.problem, problem);
        prop_assert_eq!((error.quote.source, error.quote.destination), (destination, source));
        prop_assert_eq!((error.quote.protocol, error.quote.ports()), (protocol::UDP, (1, 2)));
        let is_too_big = matches!(problem, Problem::PacketTooBig { .. });
        prop_assert!(message[0] == kind && (message[1] == code || is_too_big));
        prop_assert_eq!(parse_error(!is_ipv6, &message).filter(|error| error.quote.source.is_ipv6() == is_ipv6), None);
        for cut in 0..HEADER_LEN + 48 {
            let _ = parse_error(is_ipv6, &message[..cut.min(message.len())]);
        }
    }

    #[test]
    fn errors_from_arbitrary_bytes_never_panic(is_ipv6: bool, kind in 0u8..13, rest in prop::collection::vec(any::<u8>(), 0..120)) {
        let message = [&[kind, 0][..], &rest].concat();
        if let Some(error) = parse_error(is_ipv6, &message) {
            let _ = error.quote.ports();
        }
    }

    #[test]
    fn a_replaced_identifier_keeps_the_checksum(is_ipv6: bool, before: u16, after: u16, data in prop::collection::vec(any::<u8>(), 0..100)) {
        let (source, destination) = addresses(is_ipv6);
        let mut message = echo_request(is_ipv6, before, 9, &data);
        fill_checksum(&mut message, source, destination);
        replace_identifier(&mut message, after);
        let number = if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        prop_assert!(transport_checksum_ok(source, destination, number, &message));
        prop_assert_eq!(parse_echo_request(is_ipv6, &message).unwrap().identifier, after);
    }
}

#[test]
fn an_error_about_a_later_fragment_is_about_no_flow() {
    let mut packet = offending(false, 100);
    packet[6..8].copy_from_slice(&[0, 5]);
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend(&packet);
    assert_eq!(parse_error(false, &message), None);
}
