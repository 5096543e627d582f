//! What a hostile container sends: frames by their kind, each with the reason for which it has to be dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netferry::stack::drop_reason::DropReason;
use netferry::wire::frame::FrameError;

use crate::link::HeadedFrame;
use crate::packet::{self, ACK, ICMP, ICMPV6, Ip, SYN, TCP, UDP, tcp, udp};
use crate::world::{
    CONTAINER, CONTAINER_MAC, CONTAINER6, DNS, GATEWAY, GATEWAY_MAC, GATEWAY6, GATEWAY6_LINK_LOCAL,
};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);

/// Frames of one kind.
pub struct Kind {
    pub name: &'static str,
    pub frames: Vec<HeadedFrame>,
    /// Each frame is dropped for one of these.
    pub reasons: Vec<DropReason>,
}

fn kind(name: &'static str, reasons: &[DropReason], packets: Vec<Vec<u8>>) -> Kind {
    let frames = packets.iter().map(|packet| packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, packet)).collect();
    framed(name, reasons, frames)
}

fn framed(name: &'static str, reasons: &[DropReason], frames: Vec<Vec<u8>>) -> Kind {
    headed(name, reasons, frames.into_iter().map(|frame| ([0; 10], frame)).collect())
}

fn headed(name: &'static str, reasons: &[DropReason], frames: Vec<HeadedFrame>) -> Kind {
    Kind { name, frames, reasons: reasons.to_vec() }
}

fn ip(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, protocol: u8) -> Ip {
    Ip::new(source, destination, protocol)
}

fn syn(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Vec<u8> {
    ip(source, destination, TCP).carrying(tcp((6_000, 80), 1, 0, SYN, &[]))
}

fn datagram(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Vec<u8> {
    ip(source, destination, UDP).carrying(udp((6_000, 9), b"some payload"))
}

fn both(make: impl Fn(IpAddr, IpAddr) -> Vec<u8>) -> Vec<Vec<u8>> {
    vec![make(CONTAINER.into(), OUTSIDE.into()), make(CONTAINER6.into(), OUTSIDE6.into())]
}

/// The packet with `change` done to it, its IPv4 header checksum put right again.
fn changed(packet: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    change(&mut packet);
    if packet[0] >> 4 == 4 {
        let len = (usize::from(packet[0] & 15) * 4).min(packet.len());
        packet[10..12].fill(0);
        let checksum = !packet::sum(0, &packet[..len]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

fn frame_error(error: FrameError) -> DropReason {
    DropReason::Frame(error)
}

/// Every kind.
pub fn kinds() -> Vec<Kind> {
    [damaged(), lying_lengths(), options(), extensions(), fragments(), addresses(), link_layer(), headers()]
        .into_iter()
        .flatten()
        .collect()
}

fn damaged() -> Vec<Kind> {
    let cut = |frame: Vec<u8>| (0..frame.len()).map(|len| frame[..len].to_vec()).collect::<Vec<_>>();
    let whole = |packet: &[u8]| packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, packet);
    let reasons = [
        frame_error(FrameError::Truncated),
        frame_error(FrameError::TotalLength),
        frame_error(FrameError::Version),
        frame_error(FrameError::Arp),
        frame_error(FrameError::ExtensionChain),
    ];
    let wrong_sum = |packet: Vec<u8>| {
        let last = packet.len() - 1;
        changed(&packet, |packet| packet[last] ^= 0x55)
    };
    vec![
        framed(
            "cut at every byte",
            &reasons,
            both(syn).iter().flat_map(|packet| cut(whole(packet))).collect(),
        ),
        framed(
            "ARP cut at every byte",
            &reasons,
            cut(packet::arp_request(CONTAINER_MAC, CONTAINER, GATEWAY)),
        ),
        kind(
            "wrong transport checksum",
            &[DropReason::BadChecksum],
            both(datagram).into_iter().map(wrong_sum).collect(),
        ),
        kind(
            "wrong header checksum",
            &[frame_error(FrameError::HeaderChecksum)],
            vec![{
                let mut packet = syn(CONTAINER, OUTSIDE);
                packet[10] ^= 1;
                packet
            }],
        ),
        kind(
            "transport cut by its IP length",
            &[DropReason::BadTransport, DropReason::BadChecksum],
            (0..20)
                .flat_map(|len| {
                    both(|from, to| ip(from, to, TCP).carrying_part(&tcp((6_000, 80), 1, 0, SYN, &[])[..len]))
                })
                .collect(),
        ),
    ]
}

fn lying_lengths() -> Vec<Kind> {
    let four = syn(CONTAINER, OUTSIDE);
    let six = syn(CONTAINER6, OUTSIDE6);
    let total = |len: u16| changed(&four, |packet| packet[2..4].copy_from_slice(&len.to_be_bytes()));
    let offset = |words: u8| {
        both(|from, to| {
            let mut segment = tcp((6_000, 80), 1, 0, SYN, &[]);
            segment[12] = words << 4;
            ip(from, to, TCP).carrying(segment)
        })
    };
    let udp_length = |len: u16| {
        both(|from, to| {
            let mut datagram = udp((6_000, 9), b"some payload");
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
            ip(from, to, UDP).carrying(datagram)
        })
    };
    vec![
        kind(
            "IPv4 total length",
            &[frame_error(FrameError::TotalLength)],
            vec![
                total(0),
                total(19),
                total(41),
                total(1_500),
                total(65_535),
                changed(&six, |packet| packet[4..6].copy_from_slice(&[0xff, 0xff])),
                changed(&six, |packet| packet[4..6].copy_from_slice(&[0, 21])),
            ],
        ),
        kind(
            "IHL",
            &[frame_error(FrameError::HeaderLength)],
            (0..5).map(|words| changed(&four, |packet| packet[0] = 0x40 | words)).collect(),
        ),
        kind(
            "IP version",
            &[frame_error(FrameError::Version)],
            vec![changed(&four, |packet| packet[0] = 0x55), changed(&four, |packet| packet[0] = 0x05)],
        ),
        kind(
            "TCP data offset",
            &[DropReason::BadTransport],
            [0, 1, 4, 6, 15].into_iter().flat_map(offset).collect(),
        ),
        kind(
            "UDP length",
            &[DropReason::BadTransport],
            [0, 1, 7, 21, 1_000, 65_535].into_iter().flat_map(udp_length).collect(),
        ),
    ]
}

fn options() -> Vec<Kind> {
    let with = |options: &[u8]| {
        let mut packet = syn(CONTAINER, OUTSIDE);
        packet.splice(20..20, options.iter().copied());
        changed(&packet, |packet| {
            packet[0] = 0x45 + (options.len() / 4) as u8;
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
        })
    };
    // An option of no length would be read for ever.
    let tcp_options = |options: &[u8]| {
        let options = options.to_vec();
        both(move |from, to| {
            let mut segment = tcp((6_000, 80), 1, 0, SYN, &[]);
            segment[12] = ((20 + options.len()) as u8 / 4) << 4;
            segment.extend(&options);
            // Not to be answered: the host never connects it.
            ip(from, to, TCP).carrying(segment)
        })
    };
    let loops =
        [&[8_u8, 0, 0, 0][..], &[2, 1, 5, 5], &[3, 200, 1, 1], &[1, 1, 1, 2], &[5, 0, 5, 0, 5, 0, 5, 0]];
    vec![
        kind(
            "IPv4 options without length or beyond the header",
            &[frame_error(FrameError::HeaderLength)],
            vec![
                with(&[7, 0, 0, 0]),
                with(&[7, 1, 0, 0]),
                with(&[7, 5, 0, 0]),
                with(&[1, 1, 1, 7]),
                with(&[68, 255, 0, 0]),
            ],
        ),
        kind(
            "source routes",
            &[frame_error(FrameError::SourceRoute)],
            vec![with(&[131, 3, 4, 0]), with(&[137, 7, 4, 10, 0, 2, 2, 0]), with(&[1, 131, 3, 4])],
        ),
        kind(
            "TCP options without length or beyond the header",
            &[],
            loops.into_iter().flat_map(tcp_options).collect(),
        ),
    ]
}

/// A packet whose extension headers are these: each its kind and its bytes from the second on.
fn extended(chain: &[(u8, &[u8])], transport: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (place, (_, bytes)) in chain.iter().enumerate() {
        body.push(chain.get(place + 1).map_or(transport, |(kind, _)| *kind));
        body.extend(*bytes);
    }
    body.extend(payload);
    let first = chain.first().map_or(transport, |(kind, _)| *kind);
    ip(CONTAINER6, OUTSIDE6, first).raw(&body)
}

fn extensions() -> Vec<Kind> {
    let pad = [0, 1, 4, 0, 0, 0, 0].as_slice();
    let (hop, destination, routing, fragment) = (0, 60, 43, 44);
    let mut segment = tcp((6_000, 80), 1, 0, SYN, &[]);
    packet::fill_checksum(CONTAINER6.into(), OUTSIDE6.into(), TCP, &mut segment);
    let chain = |headers: &[(u8, &[u8])]| extended(headers, TCP, &segment);
    let atomic = [0, 0, 0, 0, 0, 0, 1].as_slice();
    let routed = |kind: u8, left: u8| chain(&[(routing, &[0, kind, left, 0, 0, 0, 0])]);
    vec![
        kind(
            "extension chains",
            &[frame_error(FrameError::ExtensionChain)],
            vec![
                chain(&vec![(destination, pad); 30]),
                chain(&[(destination, pad), (hop, pad)]),
                chain(&[(hop, pad), (hop, pad)]),
                chain(&[(fragment, atomic), (fragment, atomic)]),
                extended(&[(destination, &[255, 1, 4, 0, 0, 0, 0])], TCP, &segment),
                extended(&[(destination, &[])], 60, &[]),
                extended(&[(fragment, &[0, 0])], TCP, &[]),
            ],
        ),
        kind(
            "routing headers",
            &[frame_error(FrameError::SourceRoute)],
            vec![routed(0, 0), routed(0, 3), routed(2, 1), routed(4, 7)],
        ),
        // RFC 2675, with a payload length of zero.
        kind(
            "jumbograms",
            &[DropReason::UnknownProtocol, frame_error(FrameError::ExtensionChain)],
            vec![{
                let mut packet = chain(&[(hop, &[0, 0xc2, 4, 0, 1, 0, 0])]);
                packet[4..6].fill(0);
                packet
            }],
        ),
        kind(
            "TCP behind options",
            &[DropReason::UnsupportedOptions],
            vec![chain(&[(hop, pad)]), chain(&[(destination, pad)])],
        ),
    ]
}

fn piece(is_ipv6: bool, identification: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) =
        if is_ipv6 { (CONTAINER6.into(), OUTSIDE6.into()) } else { (CONTAINER.into(), OUTSIDE.into()) };
    Ip { identification, fragment: Some((offset, more)), ..ip(from, to, UDP) }.raw(payload)
}

fn fragments() -> Vec<Kind> {
    let eight = [7; 8];
    let families = [false, true];
    let each = |make: &dyn Fn(bool) -> Vec<Vec<u8>>| families.into_iter().flat_map(make).collect::<Vec<_>>();
    vec![
        kind(
            "fragments of impossible size or place",
            &[DropReason::FragmentInvalid],
            each(&|six| {
                vec![
                    piece(six, 1, 0, true, &[7; 9]),
                    piece(six, 2, 65_528, false, &[7; 100]),
                    piece(six, 3, 8, true, &[]),
                ]
            }),
        ),
        // The first of each is taken, and is lost with the second.
        kind(
            "overlapping fragments",
            &[DropReason::FragmentOverlap, DropReason::FragmentTimeout],
            each(&|six| {
                vec![
                    piece(six, 4, 0, true, &[7; 64]),
                    piece(six, 4, 32, true, &[8; 64]),
                    piece(six, 4, 128, false, &eight),
                    piece(six, 5, 64, false, &eight),
                    piece(six, 5, 128, true, &eight),
                ]
            }),
        ),
        kind(
            "the same fragment again",
            &[DropReason::FragmentDuplicate, DropReason::FragmentTimeout],
            each(&|six| {
                vec![
                    piece(six, 6, 8, true, &eight),
                    piece(six, 6, 8, true, &eight),
                    piece(six, 6, 8, true, &eight),
                ]
            }),
        ),
        kind(
            "fragments without end",
            &[DropReason::FragmentLimit, DropReason::FragmentTimeout],
            each(&|six| (0..2_000).map(|place| piece(six, 7, 8 * place, true, &eight)).collect()),
        ),
        kind(
            "first fragments without a second",
            &[DropReason::FragmentLimit, DropReason::FragmentTimeout],
            each(&|six| (0..3_000).map(|number| piece(six, 1_000 + number, 0, true, &[7; 1_400])).collect()),
        ),
        kind(
            "a packet that is itself a fragment",
            &[
                DropReason::UnknownProtocol,
                DropReason::BadTransport,
                DropReason::BadChecksum,
                DropReason::FragmentTimeout,
                DropReason::ErrorSuppressed,
            ],
            {
                let inner = piece(true, 9, 0, true, &[7; 64]);
                let (first, second) = inner[40..].split_at(32);
                vec![
                    Ip { identification: 10, fragment: Some((0, true)), ..ip(CONTAINER6, OUTSIDE6, 44) }
                        .raw(first),
                    Ip { identification: 10, fragment: Some((32, false)), ..ip(CONTAINER6, OUTSIDE6, 44) }
                        .raw(second),
                ]
            },
        ),
    ]
}

fn addresses() -> Vec<Kind> {
    let spoofed = [
        "192.168.7.7",
        "203.0.113.66",
        "10.0.2.2",
        "10.0.2.3",
        "127.0.0.1",
        "0.0.0.0",
        "10.0.2.255",
        "2001:db8::9",
        "fd00::2",
        "::1",
        "::",
    ];
    let groups = ["224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1"];
    let outside = |from: IpAddr| -> IpAddr { if from.is_ipv6() { OUTSIDE6.into() } else { OUTSIDE.into() } };
    let from = |list: &[&str]| -> Vec<Vec<u8>> {
        let sources = list.iter().map(|text| text.parse().unwrap());
        sources
            .flat_map(|source: IpAddr| [syn(source, outside(source)), datagram(source, outside(source))])
            .collect()
    };
    let to = |list: &[&str]| -> Vec<Vec<u8>> {
        let targets = list.iter().map(|text| text.parse().unwrap());
        targets
            .flat_map(|target: IpAddr| {
                let source: IpAddr = if target.is_ipv6() { CONTAINER6.into() } else { CONTAINER.into() };
                [syn(source, target), datagram(source, target)]
            })
            .collect()
    };
    vec![
        kind(
            "sources of others, and ours",
            &[DropReason::SpoofedSource, DropReason::NeighborConflict],
            from(&spoofed),
        ),
        kind("groups as source", &[frame_error(FrameError::SpoofedGroupSource)], from(&groups)),
        kind(
            "land",
            &[DropReason::SpoofedSource, DropReason::NeighborConflict],
            vec![
                syn(GATEWAY, GATEWAY),
                syn(DNS, DNS),
                syn(OUTSIDE, OUTSIDE),
                syn(GATEWAY6, GATEWAY6),
                datagram(GATEWAY, GATEWAY),
            ],
        ),
        kind(
            "loopback",
            &[DropReason::HostLoopback],
            to(&["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]),
        ),
        kind(
            "martians",
            &[DropReason::Martian],
            to(&[
                "0.0.0.0",
                "0.1.2.3",
                "240.0.0.1",
                "::",
                "::ffff:203.0.113.5",
                "::203.0.113.5",
                "fec0::1",
                "100::1",
            ]),
        ),
        kind(
            "groups",
            &[DropReason::Multicast],
            to(&["224.0.0.251", "255.255.255.255", "10.0.2.255", "ff02::fb", "ff0e::1"]),
        ),
        kind(
            "the container to itself and to nobody",
            &[DropReason::NotForUs],
            to(&["10.0.2.100", "10.0.2.99", "fd00::64", "fd00::99"]),
        ),
        kind("ICMP with rubbish in it", &[DropReason::IcmpNotForwarded, DropReason::NoFlow], {
            let error = |is_ipv6: bool, kind: u8, rest: &[u8]| {
                let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], rest].concat();
                match is_ipv6 {
                    true => ip(CONTAINER6, OUTSIDE6, ICMPV6).carrying(message),
                    false => ip(CONTAINER, OUTSIDE, ICMP).carrying(message),
                }
            };
            let quote = syn(OUTSIDE, CONTAINER);
            let mut packets = Vec::new();
            for rest in [&[][..], &[0x45], &[0xff; 60], &quote[..19], &quote] {
                packets.extend([3, 4, 5, 11, 12, 13, 255].map(|kind| error(false, kind, rest)));
                packets.extend([1, 2, 3, 4, 127, 200].map(|kind| error(true, kind, rest)));
            }
            packets
        }),
        kind("segments that belong to nothing", &[DropReason::NoFlow], {
            let flags = [ACK, packet::FIN, packet::RST, packet::RST | ACK, SYN | ACK, 0, 0xff];
            flags
                .into_iter()
                .flat_map(|flags| {
                    both(move |from, to| ip(from, to, TCP).carrying(tcp((6_001, 81), 5, 6, flags, b"x")))
                })
                .collect()
        }),
    ]
}

fn link_layer() -> Vec<Kind> {
    let packet = syn(CONTAINER, OUTSIDE);
    let tagged = [&GATEWAY_MAC[..], &CONTAINER_MAC, &[0x81, 0, 0, 7, 8, 0], &packet].concat();
    let of_type = |kind: [u8; 2]| [&GATEWAY_MAC[..], &CONTAINER_MAC, &kind, &packet].concat();
    let arp = |operation: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr| {
        let mut frame = packet::arp_request(CONTAINER_MAC, sender, target);
        frame[21] = operation;
        frame[22..28].copy_from_slice(&mac);
        frame
    };
    let advertisement = |target: Ipv6Addr, hops: u8| {
        let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        message.extend(target.octets());
        message.extend([2, 1, 2, 0, 0, 0, 0, 9]);
        ip(CONTAINER6, GATEWAY6, ICMPV6).hops(hops).carrying(message)
    };
    vec![
        framed(
            "tags and unknown types",
            &[frame_error(FrameError::UnknownEthertype(0))],
            vec![
                tagged,
                of_type([0x88, 0xa8]),
                of_type([0, 46]),
                of_type([0x88, 0x63]),
                of_type([0xff, 0xff]),
            ],
        ),
        framed(
            "group as the link's source",
            &[frame_error(FrameError::SpoofedGroupSource)],
            vec![
                packet::ethernet([0xff; 6], GATEWAY_MAC, &packet),
                packet::ethernet([1, 0, 0x5e, 0, 0, 1], GATEWAY_MAC, &packet),
            ],
        ),
        framed(
            "frames for another station",
            &[DropReason::NotForUs],
            vec![packet::ethernet(CONTAINER_MAC, [2, 0, 0, 0, 0, 77], &packet)],
        ),
        framed(
            "ARP in our name",
            &[DropReason::NeighborConflict],
            vec![
                arp(2, CONTAINER_MAC, GATEWAY, CONTAINER),
                arp(1, CONTAINER_MAC, GATEWAY, GATEWAY),
                arp(2, CONTAINER_MAC, DNS, CONTAINER),
                arp(2, GATEWAY_MAC, CONTAINER, GATEWAY),
            ],
        ),
        kind(
            "neighbor advertisements in our name",
            &[DropReason::NeighborConflict],
            vec![advertisement(GATEWAY6, 255), advertisement(GATEWAY6_LINK_LOCAL, 255)],
        ),
        kind(
            "neighbor discovery from afar",
            &[DropReason::NeighborInvalid],
            vec![advertisement(CONTAINER6, 254), advertisement(GATEWAY6, 1)],
        ),
    ]
}

fn headers() -> Vec<Kind> {
    let frame = packet::ethernet(CONTAINER_MAC, GATEWAY_MAC, &datagram(CONTAINER, OUTSIDE));
    let with = |header: [u8; 10]| (header, frame.clone());
    vec![
        headed(
            "segmentation of no kind or of nothing",
            &[DropReason::VnetHeader],
            vec![
                with([1, 3, 0, 0, 1, 0, 0, 0, 0, 0]),
                with([0, 9, 0, 0, 1, 0, 0, 0, 0, 0]),
                with([1, 1, 0, 0, 0, 0, 34, 0, 16, 0]),
                with([1, 5, 0, 0, 0, 0, 34, 0, 6, 0]),
                with([0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ],
        ),
        headed(
            "a datagram said to be TCP",
            &[DropReason::BadTransport],
            vec![with([1, 1, 54, 0, 100, 0, 34, 0, 16, 0])],
        ),
    ]
}
