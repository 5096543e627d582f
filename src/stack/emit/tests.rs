//! Tests of `emit`, sentences of its behaviour.

use super::*;
use crate::config::{Ipv4Link, Ipv6Link, LinkConfig};
use crate::wire::MacAddr;
use crate::wire::frame::{self, Body};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A frame that was committed.
#[derive(Debug)]
pub(in crate::stack) struct Sent {
    pub(in crate::stack) bytes: Vec<u8>,
    pub(in crate::stack) meta: FrameMeta,
    pub(in crate::stack) raw_meta: [u8; VNET_HEADER_LEN],
}

/// A link that keeps what it was given, as long as there is room.
#[derive(Debug)]
pub(in crate::stack) struct Link {
    pub(in crate::stack) frames: Vec<Sent>,
    pub(in crate::stack) room: usize,
    pub(in crate::stack) reserved: Vec<u8>,
}

impl Default for Link {
    fn default() -> Self {
        Link { frames: Vec::new(), room: usize::MAX, reserved: Vec::new() }
    }
}

impl FrameSink for Link {
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        assert!(len <= MAX_ROOM_BYTES, "a frame of {len} bytes");
        if self.frames.len() >= self.room {
            return None;
        }
        // Content is unspecified: make forgetting a byte visible.
        self.reserved = vec![0xee; len];
        Some(&mut self.reserved)
    }

    fn commit(&mut self, len: usize, header: [u8; VNET_HEADER_LEN]) {
        let bytes = self.reserved[..len].to_vec();
        self.reserved = Vec::new();
        self.frames.push(Sent { bytes, meta: FrameMeta::parse(&header).unwrap(), raw_meta: header });
    }

    fn commit_gathered(&mut self, len: usize, payload: [&[u8]; 2], header: [u8; VNET_HEADER_LEN]) {
        assert_eq!(self.reserved.len(), len + payload.concat().len(), "all of it is reserved");
        self.reserved[len..].copy_from_slice(&payload.concat());
        self.commit(self.reserved.len(), header);
    }
}

pub(in crate::stack) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(in crate::stack) const CONTAINER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(in crate::stack) const ETHERNET: Ethernet = Ethernet { source: GATEWAY_MAC, destination: CONTAINER_MAC };

pub(in crate::stack) fn link_config() -> LinkConfig {
    LinkConfig {
        segment: Default::default(),
        ipv4: Some(Ipv4Link {
            subnet: "10.0.2.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Some(Ipv4Addr::new(10, 0, 2, 3)),
            container: Ipv4Addr::new(10, 0, 2, 100),
        }),
        ipv6: Some(Ipv6Link {
            prefix: "fd00::/64".parse().unwrap(),
            gateway: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
            gateway_link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            dns: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3)),
            container: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64),
        }),
        mtu: 1500,
        gateway_mac: GATEWAY_MAC,
        container_mac: None,
    }
}

fn header(is_ipv6: bool, protocol: u8) -> Header {
    let config = link_config();
    let (source, destination) = if is_ipv6 {
        (IpAddr::V6("2001:db8::1".parse().unwrap()), config.ipv6.unwrap().container.into())
    } else {
        (IpAddr::from([203, 0, 113, 1]), config.ipv4.unwrap().container.into())
    };
    Header {
        source,
        destination,
        protocol,
        hop_limit: 64,
        traffic_class: 0,
        identification: 7,
        dont_fragment: false,
    }
}

fn envelope(is_ipv6: bool, segment_bytes: u16) -> UdpEnvelope {
    UdpEnvelope {
        ethernet: ETHERNET,
        header: header(is_ipv6, protocol::UDP),
        source_port: 53,
        destination_port: 4_000,
        segment_bytes: NonZeroU16::new(segment_bytes),
    }
}

fn packet_of(sent: &Sent) -> ip::Packet<'_> {
    let frame = frame::parse(&sent.bytes).unwrap();
    assert_eq!((frame.source, frame.destination), (GATEWAY_MAC, CONTAINER_MAC));
    let Body::Ip(packet) = frame.body else { panic!("not IP") };
    assert_eq!(packet.bytes.len() + ETHERNET_HEADER_LEN, sent.bytes.len());
    packet
}

fn transport_ok(packet: &ip::Packet<'_>, transport: &[u8]) -> bool {
    ip::transport_checksum_ok(packet.source, packet.destination, packet.protocol, transport)
}

/// What an engine at the other end does with a partial checksum; then it must be right.
fn completed(sent: &Sent) -> Vec<u8> {
    let packet = packet_of(sent);
    let mut transport = packet.payload.to_vec();
    if sent.meta.checksum_partial {
        let start = usize::from(u16::from_le_bytes([sent.raw_meta[6], sent.raw_meta[7]]));
        let offset = usize::from(u16::from_le_bytes([sent.raw_meta[8], sent.raw_meta[9]]));
        assert_eq!(start, sent.bytes.len() - transport.len());
        let value = !checksum::sum(&transport);
        transport[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
    }
    assert!(transport_ok(&packet, &transport));
    transport
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

fn bare_segment(payload: &[u8]) -> impl FnOnce(&mut [u8]) -> usize {
    let bare = tcp::BareSegment {
        source_port: 80,
        destination_port: 4_000,
        sequence: 1,
        acknowledgement: Some(2),
        flags: tcp::Flags::PSH,
        window: 100,
    };
    let payload = payload.to_vec();
    move |room| {
        bare.write(room);
        room[20..20 + payload.len()].copy_from_slice(&payload);
        20 + payload.len()
    }
}

fn send_tcp(offload: Offload, is_ipv6: bool, len: usize, segment_bytes: u16) -> Result<Link, DropReason> {
    let mut link = Link::default();
    let segmentation = Some(Segmentation::Tcp { segment_bytes, ecn: false }).filter(|_| segment_bytes > 0);
    Emitter::new(1500, offload).send(
        &ETHERNET,
        &header(is_ipv6, protocol::TCP),
        Transport::Tcp { segmentation },
        20 + len,
        bare_segment(&pattern(len)),
        &mut link,
    )?;
    Ok(link)
}

#[test]
fn segment_carries_a_full_or_partial_checksum_as_the_link_can() {
    for (offload, is_partial) in [(Offload::NONE, false), (Offload::ALL, true)] {
        for is_ipv6 in [false, true] {
            let link = send_tcp(offload, is_ipv6, 100, 0).unwrap();
            assert_eq!(link.frames[0].meta.checksum_partial, is_partial);
            assert_eq!(link.frames[0].meta.segmentation, None);
            assert_eq!(completed(&link.frames[0])[20..], pattern(100));
        }
    }
}

#[test]
fn super_segment_leaves_whole_where_the_link_takes_it() {
    for is_ipv6 in [false, true] {
        let link = send_tcp(Offload::ALL, is_ipv6, 60_000, 1_400).unwrap();
        let sent = &link.frames[0];
        assert_eq!(sent.meta.segmentation, Some(Segmentation::Tcp { segment_bytes: 1_400, ecn: false }));
        assert_eq!(sent.raw_meta[1], if is_ipv6 { 4 } else { 1 });
        let header_len = u16::from_le_bytes([sent.raw_meta[2], sent.raw_meta[3]]);
        assert_eq!(usize::from(header_len), 14 + header_len_of(is_ipv6) + 20);
        assert_eq!(completed(sent)[20..], pattern(60_000));

        let refused = send_tcp(Offload::NONE, is_ipv6, 60_000, 1_400);
        assert_eq!(refused.unwrap_err(), DropReason::MessageTooLong);
    }
}

fn header_len_of(is_ipv6: bool) -> usize {
    super::header_len(is_ipv6)
}

#[test]
fn single_segment_is_no_super_segment() {
    let link = send_tcp(Offload::ALL, false, 1_400, 1_400).unwrap();
    assert_eq!(link.frames[0].meta.segmentation, None);
}

#[test]
fn segment_shorter_than_reserved_is_sent_as_long_as_it_is() {
    let mut link = Link::default();
    let emitter = Emitter::new(1500, Offload::NONE);
    let header = header(false, protocol::TCP);
    let transport = Transport::Tcp { segmentation: None };
    emitter.send(&ETHERNET, &header, transport, 1_400, bare_segment(b"ab"), &mut link).unwrap();
    assert_eq!(completed(&link.frames[0]).len(), 22);
}

#[test]
fn full_link_refuses() {
    let mut link = Link { room: 0, ..Link::default() };
    let emitter = Emitter::new(1500, Offload::NONE);
    assert_eq!(emitter.send_datagrams(&envelope(false, 0), b"x", &mut link), Err(DropReason::LinkFull));
    let never = |_: &mut [u8]| -> Option<(UdpEnvelope, usize)> { panic!("read without room to put it") };
    assert_eq!(emitter.receive_datagrams(false, never, &mut link), Err(DropReason::LinkFull));
}

/// Sends `payload` by copy and by direct reception; both must do the same.
fn send_udp(offload: Offload, envelope: &UdpEnvelope, payload: &[u8]) -> Result<Link, DropReason> {
    let emitter = Emitter::new(1500, offload);
    let (mut copied, mut received) = (Link::default(), Link::default());
    let outcome = emitter.send_datagrams(envelope, payload, &mut copied);
    let receive = |room: &mut [u8]| {
        room[..payload.len()].copy_from_slice(payload);
        Some((*envelope, payload.len()))
    };
    let is_ipv6 = envelope.header.source.is_ipv6();
    assert_eq!(emitter.receive_datagrams(is_ipv6, receive, &mut received), outcome.map(|()| true));
    assert_eq!(copied.frames.len(), received.frames.len());
    for (one, other) in copied.frames.iter().zip(&received.frames) {
        assert_eq!((&one.bytes, one.raw_meta), (&other.bytes, other.raw_meta));
    }
    outcome.map(|()| received)
}

fn datagrams_of(link: &Link) -> Vec<Vec<u8>> {
    link.frames
        .iter()
        .map(|sent| {
            let transport = completed(sent);
            let datagram = udp::parse(&transport).unwrap();
            assert_eq!((datagram.source_port, datagram.destination_port), (53, 4_000));
            datagram.payload.to_vec()
        })
        .collect()
}

#[test]
fn datagram_within_the_mtu_is_one_frame() {
    for offload in [Offload::NONE, Offload::ALL] {
        for (is_ipv6, most) in [(false, 1_472), (true, 1_452)] {
            for len in [0, 1, most] {
                let link = send_udp(offload, &envelope(is_ipv6, 0), &pattern(len)).unwrap();
                assert_eq!(datagrams_of(&link), [pattern(len)]);
                assert_eq!(link.frames[0].meta.segmentation, None);
            }
        }
    }
}

#[test]
fn run_of_datagrams_is_one_super_frame_where_the_link_takes_it() {
    for is_ipv6 in [false, true] {
        let link = send_udp(Offload::ALL, &envelope(is_ipv6, 1_200), &pattern(50_000)).unwrap();
        assert_eq!(datagrams_of(&link), [pattern(50_000)]);
        assert_eq!(link.frames[0].meta.segmentation, Some(Segmentation::Udp { segment_bytes: 1_200 }));
        assert_eq!(link.frames[0].raw_meta[1], 5);
    }
}

#[test]
fn run_of_datagrams_is_cut_where_the_link_does_not_take_it() {
    for is_ipv6 in [false, true] {
        let link = send_udp(Offload::NONE, &envelope(is_ipv6, 1_200), &pattern(5_000)).unwrap();
        let whole = pattern(5_000);
        let expected: Vec<_> = whole.chunks(1_200).map(<[u8]>::to_vec).collect();
        assert_eq!(datagrams_of(&link), expected);
        let identifications: Vec<_> =
            link.frames.iter().map(|sent| u16::from_be_bytes([sent.bytes[18], sent.bytes[19]])).collect();
        assert!(is_ipv6 || identifications == [7, 8, 9, 10, 11]);
    }
}

#[test]
fn run_of_one_datagram_is_no_super_frame() {
    let link = send_udp(Offload::ALL, &envelope(false, 1_200), &pattern(1_200)).unwrap();
    assert_eq!(link.frames[0].meta.segmentation, None);
    assert_eq!(datagrams_of(&link), [pattern(1_200)]);
}

#[test]
fn run_of_datagrams_beyond_the_mtu_is_fragmented_one_by_one() {
    let link = send_udp(Offload::ALL, &envelope(false, 2_000), &pattern(4_000)).unwrap();
    assert_eq!(link.frames.len(), 4);
    let offsets: Vec<_> = link.frames.iter().map(|sent| packet_of(sent).fragment.unwrap().offset).collect();
    assert_eq!(offsets, [0, 1_480, 0, 1_480]);
}

#[test]
fn datagram_beyond_the_mtu_is_fragmented_and_complete() {
    for offload in [Offload::NONE, Offload::ALL] {
        for is_ipv6 in [false, true] {
            for len in [1_473, 3_000, 65_000] {
                let link = send_udp(offload, &envelope(is_ipv6, 0), &pattern(len)).unwrap();
                let mut whole = Vec::new();
                for (index, sent) in link.frames.iter().enumerate() {
                    let packet = packet_of(sent);
                    let fragment = packet.fragment.unwrap();
                    assert!(packet.bytes.len() <= 1_500);
                    assert_eq!((fragment.offset, fragment.identification), (whole.len(), 7));
                    assert_eq!(fragment.more, index + 1 < link.frames.len());
                    assert_eq!(sent.raw_meta, [0; 10], "no engine completes a fragment");
                    whole.extend_from_slice(packet.payload);
                }
                assert!(transport_ok(&packet_of(&link.frames[0]), &whole));
                assert_eq!(udp::parse(&whole).unwrap().payload, pattern(len));
            }
        }
    }
}

#[test]
fn datagram_that_may_not_be_fragmented_is_refused() {
    let mut envelope = envelope(false, 0);
    envelope.header.dont_fragment = true;
    assert_eq!(send_udp(Offload::ALL, &envelope, &pattern(1_473)).unwrap_err(), DropReason::MessageTooLong);
    assert!(send_udp(Offload::ALL, &envelope, &pattern(1_472)).is_ok());
}

#[test]
fn datagram_beyond_any_packet_is_refused() {
    let emitter = Emitter::new(1500, Offload::ALL);
    let mut link = Link::default();
    for (is_ipv6, most) in [(false, 65_507), (true, 65_527)] {
        let envelope = envelope(is_ipv6, 0);
        assert_eq!(emitter.send_datagrams(&envelope, &pattern(most), &mut link), Ok(()));
        let beyond = emitter.send_datagrams(&envelope, &pattern(most + 1), &mut link);
        assert_eq!(beyond, Err(DropReason::MessageTooLong));
    }
}

#[test]
fn nothing_received_sends_nothing() {
    let mut link = Link::default();
    let emitter = Emitter::new(1500, Offload::ALL);
    assert_eq!(emitter.receive_datagrams(true, |_| None, &mut link), Ok(false));
    assert!(link.frames.is_empty());
}

#[test]
fn complete_message_is_sent_as_it_is_or_in_fragments() {
    let emitter = Emitter::new(1500, Offload::ALL);
    for is_ipv6 in [false, true] {
        let header = header(is_ipv6, if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP });
        for len in [8, 1_452, 1_481, 4_000] {
            let mut link = Link::default();
            emitter.send_complete(&ETHERNET, &header, &pattern(len), &mut link).unwrap();
            let pieces: Vec<_> =
                link.frames.iter().flat_map(|sent| packet_of(sent).payload.to_vec()).collect();
            assert_eq!(pieces, pattern(len));
            assert_eq!(link.frames.len() > 1, len > 1_480);
        }
    }
}
