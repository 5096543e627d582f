//! What carries streams and large packets, against the bytes that were meant.

use netferry::config::limits::ReassemblyLimits;
use netferry::stack::boundary::Instant;
use netferry::stack::reassembly::Reassembler;
use netferry::stack::tcp::endpoint::{Endpoint, LinkView};
use netferry::wire::MacAddr;
use netferry::wire::ip::{self, Ethernet};
use netferry::wire::tcp as wire;
use netferry::wire::vnet_header::Offload;

use super::bytes::Bytes;
use crate::clock::Duration;
use crate::link::Link;
use crate::packet::{self, Ip, TCP, UDP};
use crate::settings::{CONTAINER, CONTAINER_MAC, GATEWAY_MAC, at};

const MAX_STEPS: usize = 400;
/// What the container's stream says at a place.
fn pattern(place: u32) -> u8 {
    (place as u8).wrapping_mul(7).wrapping_add((place >> 8) as u8)
}

/// One endpoint and a container that breaks every rule but one: a byte of its stream is always the same. What the endpoint
/// hands on is that stream, in order and without a gap.
pub fn tcp(input: &[u8]) {
    const START: u32 = 0xffff_ff00;
    const MEMORY: usize = 64 << 10;
    let mut bytes = Bytes::new(input);
    let (container, remote) = (at("10.0.2.100:5000"), at("203.0.113.5:80"));
    let offload = bytes.pick(&[Offload::ALL, Offload::NONE]);
    let mut link = Link::new(1, offload, 1_500, (GATEWAY_MAC, CONTAINER_MAC));
    let ethernet = Ethernet { source: MacAddr(GATEWAY_MAC), destination: MacAddr(CONTAINER_MAC) };
    let view = LinkView { ethernet, mtu: 1_500, offload, bottleneck: None };
    let is_passive = bytes.flag();
    // Where the container's stream begins. As long as its SYN waits for an answer another may take its place, one that
    // acknowledges nothing.
    let (mut start, mut is_held) = (START, is_passive);
    let mut endpoint = match is_passive {
        true => Endpoint::accept(remote, container, MEMORY, 7),
        false => Endpoint::connect(remote, container, MEMORY, 7),
    };
    let mut now = Instant::ZERO;
    let (mut ours, mut theirs, mut taken) = (7_u32, start.wrapping_add(1), 0_u32);
    let mut take = |got: &[u8], most: usize| {
        let count = got.len().min(most);
        for byte in &got[..count] {
            assert_eq!(*byte, pattern(taken), "byte {taken} of the stream");
            taken = taken.wrapping_add(1);
        }
        count
    };
    // The container's first SYN.
    if !is_passive {
        endpoint.poll_transmit(&view, now, &mut link);
        ours = ours_after(&mut link, now);
    }
    let first = packet::tcp((5_000, 80), start, ours, if is_passive { 0x02 } else { 0x12 }, &[]);
    let first = wire::parse(&first).expect("a SYN");
    endpoint.handle_segment(&first, false, &view, now, |_| 0);
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        match bytes.byte() % 12 {
            0..=5 => {
                let sequence = match bytes.byte() {
                    0..=180 => theirs,
                    181..=220 => theirs.wrapping_add(u32::from(bytes.word() % 3_000)),
                    221..=250 => theirs.wrapping_sub(u32::from(bytes.word() % 3_000)),
                    _ => bytes.long(),
                };
                let acknowledgement = match bytes.byte() {
                    0..=200 => ours,
                    201..=240 => ours.wrapping_sub(u32::from(bytes.word())),
                    _ => bytes.long(),
                };
                let flags = bytes.pick(&[0x10, 0x18, 0x10, 0x18, 0x11, 0x02, 0x04, 0x12, 0x30, 0x50, 0x90]);
                let options = bytes.chunk();
                let options = &options[..options.len().min(40) & !3];
                let len = if flags & 2 == 0 { usize::from(bytes.word() % 4_000) } else { 0 };
                let first = sequence.wrapping_sub(start.wrapping_add(1));
                let payload: Vec<u8> =
                    (0..len).map(|place| pattern(first.wrapping_add(place as u32))).collect();
                let mut segment = packet::tcp((5_000, 80), sequence, acknowledgement, flags, &[]);
                segment[14..16].copy_from_slice(&bytes.pick(&[0xffff_u16, 500, 1, 0]).to_be_bytes());
                segment[12] = (((20 + options.len()) / 4) << 4) as u8;
                segment.extend(options);
                segment.extend(payload);
                let Ok(parsed) = wire::parse(&segment) else { continue };
                if is_held && flags & 0x12 == 0x02 {
                    (start, theirs) = (sequence, sequence.wrapping_add(1));
                }
                let most = usize::from(bytes.word());
                endpoint.limit_memory(MEMORY * 2, 2_048);
                endpoint.handle_segment(&parsed, bytes.byte() == 3, &view, now, |got| take(got, most));
            }
            6 => endpoint.receive_with(|got| take(got, usize::from(bytes.word()))),
            7 => endpoint.transmit_with(usize::from(bytes.word()).max(1), |room| {
                let count = room.len().min(usize::from(bytes.word()));
                room[..count].fill(0x61);
                count
            }),
            8 if bytes.byte() > 200 => endpoint.close(),
            8 => {
                endpoint.release_syn_ack();
                is_held = false;
            }
            9 if bytes.byte() > 230 => endpoint.abort(),
            9 => endpoint.probe(),
            _ => now += Duration::from_millis(1 << (bytes.byte() % 17)),
        }
        link.now = now;
        endpoint.poll_transmit(&view, now, &mut link);
        while let Some(frame) = link.arrived_at_guest(now) {
            let ip = packet::read(&frame).unwrap().ip.expect("a segment");
            let flags = ip.tcp_flags().unwrap();
            let span = ip.tcp_payload().len() as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            ours = ip.sequence().wrapping_add(span);
            if flags & 0x10 != 0 {
                theirs = ip.acknowledgement();
            }
        }
        assert_eq!(link.violations, Vec::<String>::new());
        assert!(endpoint.memory().into_iter().all(|held| held <= MEMORY), "{:?}", endpoint.memory());
        assert!(endpoint.received_bytes() <= MEMORY);
    }
}

/// The sequence number behind what our SYN takes.
fn ours_after(link: &mut Link, now: Instant) -> u32 {
    let frame = link.arrived_at_guest(now).expect("a SYN");
    packet::read(&frame).unwrap().ip.expect("a segment").sequence().wrapping_add(1)
}

/// Fragments cut from one packet, and lies among them. Whatever becomes whole is that packet, or as much of it as a last
/// fragment has claimed.
pub fn reassembly(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let limits = ReassemblyLimits { datagrams: 4, total_bytes: 100_000, ..ReassemblyLimits::default() };
    let mut reassembler = Reassembler::new(limits);
    let mut now = Instant::ZERO;
    let base: Vec<u8> = (0..65_535_u32).map(pattern).collect();
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        if bytes.byte() > 240 {
            now += Duration::from_secs(bytes.byte().into());
            reassembler.handle_timeout(now, |first| {
                assert!(first.is_none_or(|first| ip::parse(first).is_ok()));
            });
            continue;
        }
        let offset = match bytes.byte() {
            0..=200 => usize::from(bytes.byte() % 32) * 8,
            _ => usize::from(bytes.word()) & 0xfff8,
        };
        let len = match bytes.byte() {
            0..=200 => usize::from(bytes.byte() % 8) * 8,
            201..=240 => usize::from(bytes.byte()),
            _ => usize::from(bytes.word()),
        };
        let part = &base[offset.min(base.len())..(offset + len).min(base.len())];
        let part = &part[..part.len().min(65_400)];
        let is_ipv6 = bytes.flag();
        let (source, destination) = match is_ipv6 {
            true => (at("[fd00::64]:1").ip(), at("[2001:db8::5]:1").ip()),
            false => (CONTAINER.into(), at("203.0.113.5:1").ip()),
        };
        let piece = Ip {
            fragment: Some((offset, bytes.flag())),
            identification: u16::from(bytes.byte() % 6),
            ..Ip::new(source, destination, if bytes.byte() > 250 { TCP } else { UDP })
        };
        let mut raw = piece.raw(part);
        if bytes.byte() > 250 {
            let at = usize::from(bytes.byte()) % raw.len();
            raw[at] ^= 1 << (bytes.byte() % 8);
        }
        let Ok(parsed) = ip::parse(&raw) else { continue };
        if parsed.fragment.is_none() {
            continue;
        }
        let is_honest = raw == piece.raw(part);
        if let Ok(Some(whole)) = reassembler.add(&parsed, now) {
            let whole = ip::parse(&whole).expect("what is put together is a packet");
            assert!(whole.fragment.is_none());
            if is_honest && whole.payload.len() <= base.len() {
                let same = whole.payload.iter().zip(&base).filter(|(a, b)| a == b).count();
                // One bit of a fragment may have been turned over before.
                assert!(same + MAX_STEPS >= whole.payload.len(), "{same} of {}", whole.payload.len());
            }
        }
        assert!(reassembler.bytes() <= limits.total_bytes, "{}", reassembler.bytes());
    }
    reassembler.handle_timeout(now + Duration::from_secs(3_600), |_| {});
    assert_eq!((reassembler.bytes(), reassembler.poll_timeout()), (0, None));
}
