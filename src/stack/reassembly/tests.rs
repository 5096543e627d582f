//! Tests of `reassembly`, sentences of its behaviour.

use super::*;
use crate::stack::boundary::Duration;
use crate::stack::emit::tests::ETHERNET;
use crate::wire::ip::{Header, protocol, write_fragment_headers};
use etherparse::SlicedPacket;
use etherparse::defrag::{IpDefragPayloadVec, IpDefragPool};
use proptest::prelude::*;
use rstest::rstest;

const BEGIN: Instant = Instant::from_micros_const(1_000_000_000);

fn header(is_ipv6: bool) -> Header {
    let (source, destination) = if is_ipv6 {
        (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x64]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]))
    } else {
        (IpAddr::from([10, 0, 2, 100]), IpAddr::from([203, 0, 113, 1]))
    };
    Header {
        source,
        destination,
        protocol: protocol::UDP,
        hop_limit: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: false,
    }
}

fn piece(is_ipv6: bool, identification: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let fragment = Fragment { identification, offset, more };
    let mut frame = vec![0; 14 + ip::header_len(is_ipv6) + if is_ipv6 { 8 } else { 0 }];
    write_fragment_headers(&mut frame, &ETHERNET, &header(is_ipv6), &fragment, payload.len());
    frame.extend_from_slice(payload);
    frame.split_off(14)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// `payload` in pieces of `step` bytes.
fn pieces(is_ipv6: bool, identification: u32, payload: &[u8], step: usize) -> Vec<Vec<u8>> {
    (0..payload.len())
        .step_by(step)
        .map(|offset| {
            let end = payload.len().min(offset + step);
            piece(is_ipv6, identification, offset, end < payload.len(), &payload[offset..end])
        })
        .collect()
}

fn add(reassembler: &mut Reassembler, bytes: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
    reassembler.add(&ip::parse(bytes).unwrap(), BEGIN)
}

fn with(limits: ReassemblyLimits) -> Reassembler {
    Reassembler::new(limits)
}

fn default() -> Reassembler {
    with(ReassemblyLimits::default())
}

fn assert_whole(bytes: &[u8], is_ipv6: bool, payload: &[u8]) {
    let packet = ip::parse(bytes).unwrap();
    assert_eq!((packet.fragment, packet.protocol), (None, protocol::UDP));
    assert_eq!((packet.source, packet.destination), (header(is_ipv6).source, header(is_ipv6).destination));
    assert_eq!(packet.bytes.len(), bytes.len());
    assert_eq!(packet.payload, payload);
}

#[rstest]
fn any_order_makes_the_same_packet(#[values(false, true)] is_ipv6: bool) {
    let payload = pattern(61);
    let pieces = pieces(is_ipv6, 7, &payload, 16);
    assert_eq!(pieces.len(), 4);
    let mut orders = 0;
    for code in 0..256usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        if (0..4).any(|wanted| !order.contains(&wanted)) {
            continue;
        }
        orders += 1;
        let mut reassembler = default();
        for &index in &order[..3] {
            assert_eq!(add(&mut reassembler, &pieces[index]), Ok(None));
        }
        let whole = add(&mut reassembler, &pieces[order[3]]).unwrap().unwrap();
        assert_whole(&whole, is_ipv6, &payload);
        assert_eq!((reassembler.bytes(), reassembler.poll_timeout()), (0, None));
    }
    assert_eq!(orders, 24);
}

proptest! {
    #[test]
    fn an_independent_reassembler_agrees(
        is_ipv6: bool, len in 9usize..4_000, eighths in 1usize..100, seed: u64,
    ) {
        let payload = pattern(len);
        prop_assume!(eighths * 8 < len);
        let mut pieces = pieces(is_ipv6, 7, &payload, (eighths * 8).max(len / 200 / 8 * 8 + 8));
        let mut state = seed;
        for index in (1..pieces.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(index, (state >> 33) as usize % (index + 1));
        }
        let mut reassembler = default();
        let mut oracle = IpDefragPool::<(), ()>::new();
        for piece in &pieces {
            let ours = add(&mut reassembler, piece).unwrap();
            let sliced = SlicedPacket::from_ip(piece).unwrap();
            let theirs: Option<IpDefragPayloadVec> = oracle.process_sliced_packet(&sliced, (), ()).unwrap();
            prop_assert_eq!(ours.is_some(), theirs.is_some());
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(ip::parse(&ours).unwrap().payload, &theirs.payload[..]);
                prop_assert_eq!(&theirs.payload, &payload);
            }
        }
        prop_assert_eq!(reassembler.bytes(), 0);
    }

    #[test]
    fn arbitrary_fragments_never_panic_and_stay_within_bounds(
        fragments in prop::collection::vec(
            (any::<bool>(), 0u32..6, 0usize..8_192, any::<bool>(), 0usize..600, 0u64..40), 0..200,
        ),
    ) {
        let limits = ReassemblyLimits { datagrams: 4, fragments_per_datagram: 6, total_bytes: 4_000, ..ReassemblyLimits::default() };
        let mut reassembler = with(limits);
        let mut now = BEGIN;
        for (is_ipv6, identification, eighths, more, len, seconds) in fragments {
            now += Duration::from_secs(seconds);
            let bytes = piece(is_ipv6, identification, (eighths % 60) * 8, more, &pattern(len));
            let packet = ip::parse(&bytes).unwrap();
            if let Ok(Some(whole)) = reassembler.add(&packet, now) {
                prop_assert!(ip::parse(&whole).unwrap().fragment.is_none());
            }
            prop_assert!(reassembler.bytes() <= limits.total_bytes);
            prop_assert!(reassembler.datagrams.len() <= limits.datagrams);
            let counted: usize = reassembler.datagrams.iter().map(Datagram::bytes).sum();
            prop_assert_eq!(counted, reassembler.bytes());
        }
        reassembler.handle_timeout(now + Duration::from_secs(100), |_| {});
        prop_assert_eq!((reassembler.bytes(), reassembler.poll_timeout()), (0, None));
    }
}

#[rstest]
fn datagrams_are_kept_apart(#[values(false, true)] is_ipv6: bool) {
    let mut reassembler = default();
    let (one, other) = (pieces(is_ipv6, 1, &[1; 24], 16), pieces(is_ipv6, 2, &[2; 24], 16));
    assert_eq!(add(&mut reassembler, &one[0]), Ok(None));
    assert_eq!(add(&mut reassembler, &other[1]), Ok(None));
    assert_whole(&add(&mut reassembler, &one[1]).unwrap().unwrap(), is_ipv6, &[1; 24]);
    assert_whole(&add(&mut reassembler, &other[0]).unwrap().unwrap(), is_ipv6, &[2; 24]);
}

#[rstest]
fn exact_duplicates_are_dropped_alone(#[values(false, true)] is_ipv6: bool) {
    let payload = pattern(40);
    let pieces = pieces(is_ipv6, 7, &payload, 16);
    let mut reassembler = default();
    for index in [0, 2] {
        assert_eq!(add(&mut reassembler, &pieces[index]), Ok(None));
        assert_eq!(add(&mut reassembler, &pieces[index]), Err(DropReason::FragmentDuplicate));
    }
    assert_whole(&add(&mut reassembler, &pieces[1]).unwrap().unwrap(), is_ipv6, &payload);
}

#[rstest]
#[case::same_place_other_content(0, true, vec![9; 16])]
#[case::across_the_end_of_the_first(8, true, vec![9; 16])]
#[case::into_the_one_before(8, true, vec![1; 8])]
#[case::over_the_one_after(16, true, vec![1; 32])]
#[case::covering_all(0, true, vec![1; 64])]
#[case::beyond_the_end(56, true, vec![1; 8])]
#[case::another_end(40, false, vec![1; 4])]
#[case::end_before_what_came(32, false, vec![1; 8])]
fn overlaps_lose_the_whole_datagram(
    #[values(false, true)] is_ipv6: bool,
    #[case] offset: usize,
    #[case] more: bool,
    #[case] payload: Vec<u8>,
) {
    let mut reassembler = default();
    // 0..16 and the last, 40..56; what is missing is 16..40.
    assert_eq!(add(&mut reassembler, &piece(is_ipv6, 7, 0, true, &[0; 16])), Ok(None));
    assert_eq!(add(&mut reassembler, &piece(is_ipv6, 7, 40, false, &[0; 16])), Ok(None));
    let overlap = piece(is_ipv6, 7, offset, more, &payload);
    assert_eq!(add(&mut reassembler, &overlap), Err(DropReason::FragmentOverlap));
    assert_eq!(reassembler.bytes(), 0, "nothing is kept");
    // RFC 5722 §4: nor is what comes later, until the time is up.
    for bytes in [piece(is_ipv6, 7, 16, true, &[0; 24]), piece(is_ipv6, 7, 0, true, &[0; 16])] {
        assert_eq!(add(&mut reassembler, &bytes), Err(DropReason::FragmentOverlap));
    }
    let mut quoted = Vec::new();
    reassembler
        .handle_timeout(BEGIN + Duration::from_secs(30), |first| quoted.push(first.map(<[u8]>::to_vec)));
    assert_eq!(quoted, [None], "no error is sent about it");
    assert_eq!(add(&mut reassembler, &piece(is_ipv6, 7, 0, true, &[0; 16])), Ok(None));
}

#[test]
fn end_that_comes_before_known_pieces_is_an_overlap() {
    let mut reassembler = default();
    assert_eq!(add(&mut reassembler, &piece(false, 7, 64, true, &[0; 8])), Ok(None));
    assert_eq!(add(&mut reassembler, &piece(false, 7, 8, false, &[0; 8])), Err(DropReason::FragmentOverlap));
}

#[rstest]
fn impossible_pieces_are_refused(#[values(false, true)] is_ipv6: bool) {
    let mut reassembler = default();
    let headers = if is_ipv6 { 0 } else { 20 };
    let most = 65_535 - headers - 65_496;
    for (offset, more, len) in [
        (0, true, 15),      // ragged
        (0, true, 0),       // empty
        (8, false, 0),      // empty end
        (65_528, false, 8), // ping of death
        (65_496, false, most + 1),
    ] {
        let bytes = piece(is_ipv6, 7, offset, more, &pattern(len));
        assert_eq!(add(&mut reassembler, &bytes), Err(DropReason::FragmentInvalid), "{offset} {len}");
    }
    assert_eq!((reassembler.bytes(), reassembler.poll_timeout()), (0, None));
    assert_eq!(add(&mut reassembler, &piece(is_ipv6, 7, 65_496, false, &pattern(most))), Ok(None));

    let whole = ip::parse(&piece(is_ipv6, 7, 0, true, &[0; 8]))
        .map(|packet| default().add(&Packet { fragment: None, ..packet }, BEGIN));
    assert_eq!(whole, Ok(Err(DropReason::FragmentInvalid)), "no fragment at all");
}

#[test]
fn largest_packet_is_put_together() {
    for (is_ipv6, len) in [(false, 65_515), (true, 65_535)] {
        let payload = pattern(len);
        let mut reassembler = default();
        let mut whole = None;
        for bytes in pieces(is_ipv6, 7, &payload, 1_448) {
            whole = add(&mut reassembler, &bytes).unwrap();
        }
        assert_whole(&whole.unwrap(), is_ipv6, &payload);
    }
}

#[test]
fn options_of_the_first_fragment_may_not_push_the_whole_over_the_limit() {
    let mut reassembler = default();
    // Without options 0..65 512 just fits; the first fragment then comes with 40 bytes of them.
    for bytes in &pieces(false, 7, &pattern(65_512), 1_448)[1..] {
        assert_eq!(add(&mut reassembler, bytes), Ok(None));
    }
    let plain = piece(false, 7, 0, true, &pattern(1_448));
    let mut first = [&plain[..20], &[1; 40], &plain[20..]].concat();
    first[0] = 0x4f;
    let length = (first.len() as u16).to_be_bytes();
    first[2..4].copy_from_slice(&length);
    ip::fill_ipv4_checksum(&mut first);
    assert_eq!(add(&mut reassembler, &first), Err(DropReason::FragmentInvalid));
    assert_eq!(reassembler.bytes(), 0);
}

#[test]
fn extension_headers_before_the_fragment_header_stay() {
    let options = [protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0];
    let with_options = |bytes: Vec<u8>| {
        let mut packet = [&bytes[..40], &options, &bytes[40..]].concat();
        packet[6] = protocol::HOP_BY_HOP;
        let length = (packet.len() as u16 - 40).to_be_bytes();
        packet[4..6].copy_from_slice(&length);
        packet
    };
    let mut reassembler = default();
    assert_eq!(add(&mut reassembler, &with_options(piece(true, 7, 0, true, &[1; 8]))), Ok(None));
    let last = with_options(piece(true, 7, 8, false, &[2; 3]));
    let whole = add(&mut reassembler, &last).unwrap().unwrap();
    assert_whole(&whole, true, &[1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
    assert_eq!(whole[40..48], [protocol::UDP, 0, 1, 4, 0, 0, 0, 0]);
}

#[test]
fn time_runs_from_the_first_arrival_and_the_first_fragment_is_quoted() {
    let mut reassembler = default();
    let at = |seconds| BEGIN + Duration::from_secs(seconds);
    let first = piece(false, 1, 0, true, &[1; 16]);
    reassembler.add(&ip::parse(&first).unwrap(), at(0)).unwrap();
    reassembler.add(&ip::parse(&piece(false, 1, 16, true, &[1; 16])).unwrap(), at(20)).unwrap();
    reassembler.add(&ip::parse(&piece(true, 2, 16, true, &[1; 16])).unwrap(), at(10)).unwrap();
    assert_eq!(reassembler.poll_timeout(), Some(at(30)));
    let mut quoted = Vec::new();
    reassembler.handle_timeout(at(29), |_| panic!("early"));
    reassembler.handle_timeout(at(30), |packet| quoted.push(packet.map(<[u8]>::to_vec)));
    assert_eq!(quoted, [Some(first)]);
    assert_eq!(reassembler.poll_timeout(), Some(at(40)));
    reassembler.handle_timeout(at(40), |packet| quoted.push(packet.map(<[u8]>::to_vec)));
    assert_eq!(quoted[1..], [None], "its first fragment never came");
    assert_eq!((reassembler.bytes(), reassembler.poll_timeout()), (0, None));
}

#[test]
fn late_piece_does_not_complete_what_is_over() {
    let mut reassembler = default();
    let pieces = pieces(false, 7, &pattern(24), 16);
    assert_eq!(add(&mut reassembler, &pieces[0]), Ok(None));
    let late = BEGIN + Duration::from_secs(30);
    assert_eq!(reassembler.add(&ip::parse(&pieces[1]).unwrap(), late), Ok(None));
    assert_eq!(reassembler.poll_timeout(), Some(late + Duration::from_secs(30)));
}

#[test]
fn flood_of_datagrams_evicts_the_oldest() {
    let mut reassembler = default();
    for identification in 0..10_000 {
        assert_eq!(add(&mut reassembler, &piece(true, identification, 8, true, &[0; 8])), Ok(None));
    }
    assert_eq!(reassembler.datagrams.len(), 64);
    assert_eq!(reassembler.take_evicted(), 10_000 - 64);
    assert_eq!(reassembler.take_evicted(), 0);
    // The newest survive.
    assert_eq!(add(&mut reassembler, &piece(true, 9_999, 16, false, &[0; 8])), Ok(None));
    assert!(add(&mut reassembler, &piece(true, 9_999, 0, true, &[0; 8])).unwrap().is_some());
}

#[test]
fn flood_of_bytes_evicts_the_oldest_and_stays_within_the_total() {
    let mut reassembler = default();
    let limit = ReassemblyLimits::default().total_bytes;
    for identification in 0..60 {
        for offset in (0..60_000).step_by(6_000) {
            let bytes = piece(false, identification, 8 + offset, true, &[0; 6_000]);
            assert_eq!(add(&mut reassembler, &bytes), Ok(None));
            assert!(reassembler.bytes() <= limit);
        }
    }
    assert!(reassembler.take_evicted() > 40);
    assert!(reassembler.bytes() > limit / 2);
}

#[test]
fn datagram_larger_than_the_total_gives_way_itself() {
    let mut reassembler = with(ReassemblyLimits { total_bytes: 1_000, ..ReassemblyLimits::default() });
    assert_eq!(add(&mut reassembler, &piece(false, 7, 0, true, &[0; 800])), Ok(None));
    let more = piece(false, 7, 800, true, &[0; 800]);
    assert_eq!(add(&mut reassembler, &more), Err(DropReason::FragmentLimit));
    assert_eq!((reassembler.bytes(), reassembler.take_evicted()), (0, 0));
}

#[test]
fn too_many_fragments_lose_the_datagram() {
    let mut reassembler = with(ReassemblyLimits { fragments_per_datagram: 4, ..ReassemblyLimits::default() });
    for index in 0..4 {
        assert_eq!(add(&mut reassembler, &piece(false, 7, 16 * index, true, &[0; 8])), Ok(None));
    }
    for _ in 0..2 {
        let beyond = piece(false, 7, 8, true, &[0; 8]);
        assert_eq!(add(&mut reassembler, &beyond), Err(DropReason::FragmentLimit));
        assert_eq!(reassembler.bytes(), 0);
    }
}

#[test]
fn clock_that_steps_back_keeps_the_order() {
    let mut reassembler = default();
    let piece_of = |identification| piece(false, identification, 0, true, &[0; 8]);
    reassembler.add(&ip::parse(&piece_of(1)).unwrap(), BEGIN).unwrap();
    reassembler.add(&ip::parse(&piece_of(2)).unwrap(), BEGIN - Duration::from_secs(5)).unwrap();
    let mut expired = 0;
    reassembler.handle_timeout(BEGIN + Duration::from_secs(30), |_| expired += 1);
    assert_eq!(expired, 2);
}

#[rstest]
// ECT(0), ECT(1) and CE; not capable of ECN.
#[case([2, 2, 2], Some(2))]
#[case([2, 3, 2], Some(3))]
#[case([1, 1, 3], Some(3))]
#[case([3, 3, 3], Some(3))]
#[case([0, 0, 0], Some(0))]
#[case([0, 3, 0], None)]
fn marks_of_congestion_are_kept_and_may_not_contradict(
    #[values(false, true)] is_ipv6: bool,
    #[case] marks: [u8; 3],
    #[case] expected: Option<u8>,
) {
    let mut reassembler = default();
    let mut whole = Ok(None);
    for (mut bytes, mark) in pieces(is_ipv6, 1, &pattern(40), 16).into_iter().zip(marks) {
        bytes[1] |= if is_ipv6 { mark << 4 } else { mark };
        if !is_ipv6 {
            ip::fill_ipv4_checksum(&mut bytes);
        }
        whole = add(&mut reassembler, &bytes);
    }
    let seen = whole.map(|whole| ip::parse(&whole.unwrap()).unwrap().traffic_class);
    assert_eq!(seen, expected.ok_or(DropReason::FragmentInvalid));
    assert_eq!(reassembler.bytes(), 0);
}
