//! Tests of `ip`, sentences of its behaviour.

use super::*;
use etherparse::{IpNumber, Ipv4Slice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, PacketBuilder};
use proptest::prelude::*;

const ETHERNET: Ethernet =
    Ethernet { source: MacAddr([2, 0, 0, 0, 0, 2]), destination: MacAddr([2, 0, 0, 0, 0, 1]) };

fn ipv4_packet(options: &[u8]) -> Vec<u8> {
    let mut packet =
        vec![0x45 + (options.len() / 4) as u8, 0, 0, (28 + options.len()) as u8, 0, 0, 0, 0, 64, 17];
    packet.extend([0, 0, 10, 0, 2, 100, 10, 0, 2, 2]);
    packet.extend(options);
    packet.extend([0x11; 8]);
    fill_ipv4_checksum(&mut packet);
    packet
}

fn ipv6_packet(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, rest.len() as u8, first, 64];
    packet.extend([0xfd; 32]);
    packet.extend(rest);
    packet
}

fn address(is_ipv6: bool, bytes: [u8; 16]) -> IpAddr {
    if is_ipv6 { IpAddr::from(bytes) } else { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) }
}

prop_compose! {
    fn any_header()(
        is_ipv6: bool, source: [u8; 16], destination: [u8; 16], protocol in 61u8..250,
        hop_limit: u8, traffic_class: u8, identification: u16, dont_fragment: bool,
    ) -> Header {
        Header {
            source: address(is_ipv6, source), destination: address(is_ipv6, destination),
            protocol, hop_limit, traffic_class, identification, dont_fragment,
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() {
            *first = [*first, 0x45, 0x60][usize::from(version)];
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_chains_never_panic_and_stay_inside(
        first in prop::sample::select(vec![0u8, 43, 44, 60]),
        mut rest in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 17, 43, 44, 59, 60]), 0..250),
    ) {
        rest.truncate(250);
        let packet = ipv6_packet(first, &rest);
        if let Ok(parsed) = parse(&packet) {
            prop_assert_eq!(parsed.bytes.len(), packet.len());
            prop_assert!(parsed.payload.len() <= rest.len());
        }
    }

    #[test]
    fn arbitrary_ipv4_options_never_panic(
        mut options in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 4, 131, 137, 148, 255]), 0..=40),
    ) {
        options.truncate(options.len() / 4 * 4);
        let _ = parse(&ipv4_packet(&options));
    }

    #[test]
    fn written_headers_are_parsed_back(header in any_header(), payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let is_ipv6 = header.source.is_ipv6();
        let mut frame = vec![0xee; 14 + header_len(is_ipv6) + payload.len()];
        let at = write_headers(&mut frame, &ETHERNET, &header, payload.len());
        prop_assert_eq!(at, 14 + header_len(is_ipv6));
        frame[at..].copy_from_slice(&payload);
        let packet = parse(&frame[14..]).unwrap();
        prop_assert_eq!(packet, Packet {
            source: header.source, destination: header.destination, protocol: header.protocol,
            hop_limit: header.hop_limit, traffic_class: header.traffic_class,
            dont_fragment: is_ipv6 || header.dont_fragment, fragment: None,
            bytes: &frame[14..], payload: &payload,
        });
    }

    #[test]
    fn written_fragments_are_parsed_back(
        header in any_header(), identification: u32, eighths in 0usize..8191, more: bool, len in 0usize..100,
    ) {
        let is_ipv6 = header.source.is_ipv6();
        prop_assume!(more || eighths != 0);
        let identification = if is_ipv6 { identification } else { identification & 0xffff };
        let fragment = Fragment { identification, offset: eighths * 8, more };
        let mut frame = vec![0xee; 14 + header_len(is_ipv6) + if is_ipv6 { 8 } else { 0 } + len];
        let at = write_fragment_headers(&mut frame, &ETHERNET, &header, &fragment, len);
        prop_assert_eq!(at + len, frame.len());
        let packet = parse(&frame[14..]).unwrap();
        prop_assert_eq!(packet.fragment, Some(fragment));
        prop_assert_eq!(packet.protocol, header.protocol);
        prop_assert_eq!(packet.payload.len(), len);

        if is_ipv6 {
            let fixed = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap();
            prop_assert_eq!(fixed.next_header(), IpNumber::IPV6_FRAGMENTATION_HEADER);
            let slice = Ipv6FragmentHeaderSlice::from_slice(&frame[54..]).unwrap();
            prop_assert_eq!(slice.identification(), identification);
            prop_assert_eq!(usize::from(slice.fragment_offset().value()) * 8, eighths * 8);
            prop_assert_eq!(slice.more_fragments(), more);
            prop_assert_eq!(slice.next_header().0, header.protocol);
        } else {
            let slice = Ipv4Slice::from_slice(&frame[14..]).unwrap();
            prop_assert_eq!(u32::from(slice.header().identification()), identification);
            prop_assert_eq!(usize::from(slice.header().fragments_offset().value()), eighths);
            prop_assert_eq!(slice.header().more_fragments(), more);
        }
    }

    #[test]
    fn an_independent_reader_agrees_with_written_headers(header in any_header(), len in 0usize..1400) {
        let is_ipv6 = header.source.is_ipv6();
        let mut frame = vec![0; 14 + header_len(is_ipv6) + len];
        write_headers(&mut frame, &ETHERNET, &header, len);
        if is_ipv6 {
            let slice = Ipv6HeaderSlice::from_slice(&frame[14..]).unwrap();
            prop_assert_eq!(IpAddr::from(slice.source_addr()), header.source);
            prop_assert_eq!(IpAddr::from(slice.destination_addr()), header.destination);
            prop_assert_eq!(usize::from(slice.payload_length()), len);
            prop_assert_eq!(slice.traffic_class(), header.traffic_class);
            prop_assert_eq!(slice.hop_limit(), header.hop_limit);
            prop_assert_eq!(slice.flow_label().value(), 0);
        } else {
            let header_slice = Ipv4Slice::from_slice(&frame[14..]).unwrap().header().to_header();
            prop_assert_eq!(header_slice.header_checksum, header_slice.calc_header_checksum());
            prop_assert_eq!(IpAddr::from(header_slice.source), header.source);
            prop_assert_eq!(header_slice.identification, header.identification);
            prop_assert_eq!(header_slice.dont_fragment, header.dont_fragment);
            prop_assert_eq!(usize::from(header_slice.total_len), 20 + len);
        }
    }

    #[test]
    fn packets_of_an_independent_writer_have_right_checksums(
        is_ipv6: bool, source: [u8; 16], destination: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut packet = Vec::new();
        if is_ipv6 {
            PacketBuilder::ipv6(source, destination, 64).udp(1, 2).write(&mut packet, &data).unwrap();
        } else {
            let (source, destination) = ([source[0], 1, 2, 3], [destination[0], 4, 5, 6]);
            PacketBuilder::ipv4(source, destination, 64).udp(1, 2).write(&mut packet, &data).unwrap();
        }
        let parsed = parse(&packet).unwrap();
        let mut transport = parsed.payload.to_vec();
        prop_assert!(transport_checksum_ok(parsed.source, parsed.destination, protocol::UDP, &transport));
        let stored = be16(&transport, 6);
        transport[6..8].fill(0);
        let ours = transport_checksum(parsed.source, parsed.destination, protocol::UDP, &transport);
        prop_assert_eq!(ours, stored);
    }
}

#[test]
fn length_lies_of_ipv4_are_refused() {
    let good = ipv4_packet(&[]);
    assert!(parse(&good).is_ok());
    assert_eq!(parse(&good[..19]), Err(FrameError::Truncated));
    assert_eq!(parse(&good[..27]), Err(FrameError::TotalLength));
    let broken = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        fill_ipv4_checksum(&mut packet);
        parse(&packet).map(|_| ())
    };
    assert_eq!(broken(0, 0x44), Err(FrameError::HeaderLength));
    assert_eq!(broken(0, 0x40), Err(FrameError::HeaderLength));
    assert_eq!(broken(0, 0x4f), Err(FrameError::TotalLength));
    assert_eq!(broken(3, 19), Err(FrameError::TotalLength));
    assert_eq!(broken(3, 29), Err(FrameError::TotalLength));
    assert_eq!(broken(0, 0x55), Err(FrameError::Version));
    assert_eq!(parse(&[]), Err(FrameError::Truncated));
}

#[test]
fn wrong_ipv4_header_checksum_is_refused() {
    let mut packet = ipv4_packet(&[]);
    packet[8] -= 1;
    assert_eq!(parse(&packet), Err(FrameError::HeaderChecksum));
}

#[test]
fn ipv4_options_are_skipped_and_source_routes_refused() {
    // Router alert, then padding.
    let packet = ipv4_packet(&[148, 4, 0, 0, 1, 1, 0, 0]);
    assert_eq!(parse(&packet).unwrap().payload, [0x11; 8]);
    for kind in [OPTION_LOOSE_SOURCE_ROUTE, OPTION_STRICT_SOURCE_ROUTE] {
        let packet = ipv4_packet(&[1, kind, 7, 4, 1, 2, 3, 4]);
        assert_eq!(parse(&packet), Err(FrameError::SourceRoute));
    }
    for options in [[148, 1, 0, 0], [148, 0, 0, 0], [148, 5, 0, 0], [1, 1, 1, 148]] {
        assert_eq!(parse(&ipv4_packet(&options)), Err(FrameError::HeaderLength), "{options:?}");
    }
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let mut rest = vec![60, 0, 1, 4, 0, 0, 0, 0]; // hop-by-hop, then
    rest.extend([17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 16 bytes of destination options
    rest.extend([0x22; 8]);
    let packet = ipv6_packet(0, &rest);
    let parsed = parse(&packet).unwrap();
    assert_eq!((parsed.protocol, parsed.payload), (17, &[0x22; 8][..]));
}

#[test]
fn ipv6_chain_is_bounded() {
    let chain = |headers: usize| {
        let mut rest = Vec::new();
        for index in 0..headers {
            rest.extend([if index + 1 == headers { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        parse(&ipv6_packet(60, &rest)).map(|packet| packet.protocol)
    };
    assert_eq!(chain(MAX_EXTENSION_HEADERS), Ok(17));
    assert_eq!(chain(MAX_EXTENSION_HEADERS + 1), Err(FrameError::ExtensionChain));
}

#[test]
fn ipv6_chain_that_overruns_or_is_out_of_order_is_refused() {
    for (first, rest) in [
        (60, &[17, 1, 1, 4, 0, 0, 0, 0][..]), // says 16 bytes, has 8
        (60, &[17, 0, 1][..]),
        (44, &[17, 0, 0, 1, 0, 0][..]),
        (60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..]), // hop-by-hop in second place
        (44, &[44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1][..]), // a fragment header in a fragment
    ] {
        assert_eq!(parse(&ipv6_packet(first, rest)), Err(FrameError::ExtensionChain), "{first} {rest:?}");
    }
    let packet = ipv6_packet(17, &[0; 8]);
    assert_eq!(parse(&packet[..47]), Err(FrameError::TotalLength));
    assert_eq!(parse(&packet[..39]), Err(FrameError::Truncated));
}

#[test]
fn ipv6_routing_headers_are_refused_unless_spent() {
    let with = |kind: u8, left: u8| parse(&ipv6_packet(43, &[17, 0, kind, left, 0, 0, 0, 0])).map(|_| ());
    assert_eq!(with(0, 0), Err(FrameError::SourceRoute));
    assert_eq!(with(0, 1), Err(FrameError::SourceRoute));
    assert_eq!(with(4, 1), Err(FrameError::SourceRoute));
    assert_eq!(with(4, 0), Ok(()));
}

#[test]
fn atomic_ipv6_fragment_is_a_whole_packet() {
    let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 9]; // offset 0, no more
    rest.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    rest.extend([0x33; 8]);
    let packet = ipv6_packet(44, &rest);
    let parsed = parse(&packet).unwrap();
    assert_eq!((parsed.fragment, parsed.protocol, parsed.payload), (None, 17, &[0x33; 8][..]));
}

#[test]
fn later_ipv6_fragments_are_not_walked_into() {
    let mut rest = vec![60, 0, 0, 8, 0, 0, 0, 9]; // offset 8, no more
    rest.extend([0xff; 8]);
    let packet = ipv6_packet(44, &rest);
    let parsed = parse(&packet).unwrap();
    assert_eq!(parsed.fragment, Some(Fragment { identification: 9, offset: 8, more: false }));
    assert_eq!((parsed.protocol, parsed.payload), (60, &[0xff; 8][..]));
}
