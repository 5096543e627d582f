//! Everything that a container can send, beside a host and a clock that do what they like.

use std::net::{IpAddr, SocketAddr};

use netferry::wire::vnet_header::{FrameMeta, VNET_HEADER_LEN};

use super::bench::Bench;
use super::bytes::Bytes;
use crate::clock::Duration;
use crate::packet::{self, ICMP, ICMPV6, Ip, TCP, UDP};
use crate::settings::{CONTAINER, CONTAINER_MAC, CONTAINER6, GATEWAY_MAC, at};

/// Steps of one input.
const MAX_STEPS: usize = 200;

/// Addresses that mean something to the core.
fn address(bytes: &mut Bytes<'_>, is_ipv6: bool) -> IpAddr {
    let text = if is_ipv6 {
        bytes.pick(&[
            "2001:db8::5",
            "2001:db8::5",
            "2001:db8::6",
            "fd00::2",
            "fd00::3",
            "fd00::64",
            "fe80::2",
            "ff02::1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fd00::77",
            "ff02::1:2",
        ])
    } else {
        bytes.pick(&[
            "203.0.113.5",
            "203.0.113.5",
            "203.0.113.6",
            "10.0.2.2",
            "10.0.2.3",
            "10.0.2.100",
            "10.0.2.255",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.251",
            "255.255.255.255",
            "10.0.2.77",
            "240.0.0.1",
            "169.254.169.254",
        ])
    };
    text.parse().unwrap()
}

fn source(bytes: &mut Bytes<'_>, is_ipv6: bool) -> IpAddr {
    match bytes.byte() {
        0..=239 if is_ipv6 => CONTAINER6.into(),
        0..=239 => CONTAINER.into(),
        _ => address(bytes, is_ipv6),
    }
}

fn port(bytes: &mut Bytes<'_>) -> u16 {
    bytes.pick(&[80, 53, 67, 68, 5_000, 5_001, 546, 547, 0])
}

/// Endpoints of a packet: the container's side first.
fn endpoints(bytes: &mut Bytes<'_>) -> (SocketAddr, SocketAddr) {
    let is_ipv6 = bytes.flag();
    let source = SocketAddr::new(source(bytes, is_ipv6), port(bytes));
    (source, SocketAddr::new(address(bytes, is_ipv6), port(bytes)))
}

fn envelope(bytes: &mut Bytes<'_>, from: IpAddr, to: IpAddr, protocol: u8) -> Ip {
    let hops = bytes.pick(&[64, 64, 64, 255, 1, 0]);
    Ip::new(from, to, protocol).hops(hops)
}

/// A segment whose numbers are near those that the core awaits.
fn segment(bytes: &mut Bytes<'_>, bench: &Bench, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let numbers = bench.numbers.get(&(from.port(), to)).copied().unwrap_or_default();
    let near = |bytes: &mut Bytes<'_>, number: u32| match bytes.byte() {
        0..=199 => number,
        200..=227 => number.wrapping_add(u32::from(bytes.word())),
        228..=250 => number.wrapping_sub(u32::from(bytes.word())),
        _ => bytes.long(),
    };
    let sequence = near(bytes, numbers.sequence);
    let acknowledgement = near(bytes, numbers.expected);
    let flags =
        bytes.pick(&[0x10, 0x10, 0x18, 0x02, 0x11, 0x04, 0x14, 0x12, 0x01, 0xc2, 0x50, 0x29, 0, 0xff]);
    let options = match bytes.byte() {
        0..=127 => &[][..],
        _ => bytes.chunk(),
    };
    let options = &options[..options.len().min(40) & !3];
    let len = match bytes.byte() {
        0..=99 => 0,
        100..=199 => usize::from(bytes.byte()),
        200..=230 => usize::from(bytes.word() % 1_460),
        _ => usize::from(bytes.word() % 50_000),
    };
    let payload: Vec<u8> = (0..len).map(|place| sequence.wrapping_add(place as u32) as u8).collect();
    let mut segment = packet::tcp((from.port(), to.port()), sequence, acknowledgement, flags, &[]);
    segment[14..16].copy_from_slice(&bytes.pick(&[0xffff_u16, 1_000, 1, 0]).to_be_bytes());
    segment[12] = (((20 + options.len()) / 4) << 4) as u8;
    segment.extend(options);
    segment.extend(payload);
    if bytes.byte() >= 250 {
        segment[12] = bytes.byte();
    }
    segment
}

/// A packet of any kind from its IP header on.
fn any_packet(bytes: &mut Bytes<'_>, bench: &Bench) -> Vec<u8> {
    let (from, to) = endpoints(bytes);
    let is_ipv6 = from.is_ipv6();
    match bytes.byte() % 8 {
        0..=3 => {
            let segment = segment(bytes, bench, from, to);
            envelope(bytes, from.ip(), to.ip(), TCP).carrying(segment)
        }
        4 => {
            let mut datagram = packet::udp((from.port(), to.port()), bytes.chunk());
            if bytes.byte() >= 240 {
                datagram[4..6].copy_from_slice(&bytes.word().to_be_bytes());
            }
            envelope(bytes, from.ip(), to.ip(), UDP).carrying(datagram)
        }
        5 => {
            let message = packet::echo_request(is_ipv6, from.port(), to.port(), bytes.chunk());
            envelope(bytes, from.ip(), to.ip(), if is_ipv6 { ICMPV6 } else { ICMP }).carrying(message)
        }
        6 => {
            let message = [&[bytes.byte(), bytes.byte(), 0, 0], bytes.chunk()].concat();
            envelope(bytes, from.ip(), to.ip(), if is_ipv6 { ICMPV6 } else { ICMP }).carrying(message)
        }
        _ => {
            let protocol = bytes.byte();
            envelope(bytes, from.ip(), to.ip(), protocol).raw(bytes.chunk())
        }
    }
}

/// IPv6 extension headers in front of a transport.
fn with_extensions(bytes: &mut Bytes<'_>, packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 != 6 {
        // IPv4: options in their place.
        let options = bytes.chunk();
        let options = &options[..options.len().min(40) & !3];
        let mut longer = [&packet[..20], options, &packet[20..]].concat();
        longer[0] = 0x40 | (5 + options.len() / 4) as u8;
        let total = longer.len() as u16;
        longer[2..4].copy_from_slice(&total.to_be_bytes());
        longer[10..12].fill(0);
        let checksum = !packet::sum(0, &longer[..20 + options.len()]);
        longer[10..12].copy_from_slice(&checksum.to_be_bytes());
        return longer;
    }
    let (mut longer, mut named_at) = (packet.to_vec(), 6);
    for _ in 0..bytes.byte() % 12 {
        let kind = bytes.pick(&[0u8, 60, 43, 44, 51, 59, 135]);
        let mut extension = vec![longer[named_at], if kind == 44 { 0 } else { bytes.byte() % 3 }];
        let len = if kind == 44 { 8 } else { 8 + 8 * usize::from(extension[1]) };
        extension.extend(bytes.take(len - 2));
        extension.resize(len, 0);
        longer[named_at] = kind;
        let place = if named_at == 6 { 40 } else { longer.len() - (packet.len() - 40) };
        named_at = place;
        longer.splice(place..place, extension);
    }
    let len = (longer.len() - 40) as u16;
    longer[4..6].copy_from_slice(&len.to_be_bytes());
    longer
}

fn fragment_of(bytes: &mut Bytes<'_>, packet: &[u8]) -> Vec<u8> {
    let ip = match packet[0] >> 4 {
        6 => packet::read_ipv6(packet),
        _ => packet::read_ipv4(packet),
    };
    let Ok(ip) = ip else { return packet.to_vec() };
    let offset = usize::from(bytes.byte() % 16) * 8 * usize::from(bytes.pick(&[1u8, 3, 100]));
    let more = bytes.flag();
    let len = usize::from(bytes.word());
    let from = offset.min(ip.transport.len());
    let part = &ip.transport[from..(from + len).min(ip.transport.len())];
    let piece = Ip {
        fragment: Some((offset & 0xfff8, more)),
        identification: bytes.byte().into(),
        ..Ip::new(ip.source, ip.destination, ip.protocol)
    };
    piece.raw(part)
}

fn mangle(bytes: &mut Bytes<'_>, frame: &mut Vec<u8>) {
    for _ in 0..bytes.byte() % 4 {
        let at = usize::from(bytes.word()) % frame.len().max(1);
        match bytes.byte() % 3 {
            0 => frame.truncate(at),
            1 => frame.extend(bytes.chunk()),
            _ => {
                let value = bytes.byte();
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
}

fn header(bytes: &mut Bytes<'_>, frame: &[u8]) -> [u8; VNET_HEADER_LEN] {
    let mut header = [0; VNET_HEADER_LEN];
    header[0] = bytes.byte() % 4;
    header[1] = bytes.pick(&[0, 0, 1, 4, 5, 0x81, 3, 9]);
    header[2..4].copy_from_slice(&bytes.word().to_le_bytes());
    header[4..6].copy_from_slice(&bytes.pick(&[0u16, 1, 8, 500, 1_448, 65_535]).to_le_bytes());
    let start = if frame.get(12) == Some(&0x86) { 54u16 } else { 34 };
    header[6..8].copy_from_slice(&bytes.pick(&[start, start, 0, 65_535]).to_le_bytes());
    header[8..10].copy_from_slice(&bytes.pick(&[16u16, 6, 0, 65_535]).to_le_bytes());
    header
}

/// A whole life of the core.
pub fn frames(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(bytes.byte(), bytes.byte());
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        match bytes.byte() % 16 {
            0..=5 => {
                let packet = any_packet(&mut bytes, &bench);
                bench.packet(&packet);
            }
            6 => {
                let packet = any_packet(&mut bytes, &bench);
                let packet = with_extensions(&mut bytes, &packet);
                bench.packet(&packet);
            }
            7 => {
                let packet = any_packet(&mut bytes, &bench);
                let piece = fragment_of(&mut bytes, &packet);
                bench.packet(&piece);
            }
            8 => {
                let packet = any_packet(&mut bytes, &bench);
                let mut frame = packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, &packet);
                let header = header(&mut bytes, &frame);
                mangle(&mut bytes, &mut frame);
                bench.frame(&header, &frame);
            }
            9 => {
                let frame = bytes.chunk().to_vec();
                bench.frame(&[0; VNET_HEADER_LEN], &frame);
            }
            10 => {
                let mut frame = packet::arp_request(CONTAINER_MAC, CONTAINER, "10.0.2.2".parse().unwrap());
                mangle(&mut bytes, &mut frame);
                bench.frame(&[0; VNET_HEADER_LEN], &frame);
            }
            11 | 12 => bench.host_event(bytes.byte()),
            13 => {
                let client = bytes.pick(&[
                    "198.51.100.7:4000",
                    "198.51.100.8:4000",
                    "127.0.0.1:4000",
                    "10.0.2.100:80",
                ]);
                bench.accept(at(client));
            }
            _ => bench.wait(Duration::from_millis(1 << (bytes.byte() % 18))),
        }
    }
    bench.finish();
}

/// Headers that lie about the frames behind them.
pub fn vnet(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut bench = Bench::new(bytes.byte(), bytes.byte());
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        let packet = any_packet(&mut bytes, &bench);
        let frame = packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, &packet);
        let header = match bytes.flag() {
            true => header(&mut bytes, &frame),
            false => {
                let mut header = [0; VNET_HEADER_LEN];
                let raw = bytes.take(VNET_HEADER_LEN);
                header[..raw.len()].copy_from_slice(raw);
                header
            }
        };
        // What is understood is written and understood alike.
        if let Ok(meta) = FrameMeta::parse(&header) {
            let again = FrameMeta::parse(&meta.encode(false, 34, 20, 16)).expect("our own");
            assert_eq!(again.segmentation, meta.segmentation);
            assert_eq!(again.checksum_partial, meta.checksum_partial);
        }
        bench.frame(&header, &frame);
    }
    bench.finish();
}
