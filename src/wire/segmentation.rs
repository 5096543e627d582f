//! What an interface does that is handed a super-segment: cutting it into the packets that a wire would carry.
//!
//! Each piece has complete headers and a complete checksum, and needs no virtio-net header any more. TCP as in RFC 9293
//! §3.1 and RFC 3168 §6.1.2 (PSH and FIN stand on the last piece, CWR on the first), UDP as `UDP_SEGMENT` has it. What
//! the header says is believed as far as the packet bears it out: a frame that cannot be cut stays as it is.

use super::ip::{ETHERNET_HEADER_LEN, protocol};
use super::tcp::Flags;
use super::vnet_header::{FrameMeta, Segmentation, VNET_HEADER_LEN};
use super::{be16, be32, checksum, frame, ip, tcp, udp};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const FLAG_NEEDS_CSUM: u8 = 1;

/// Most pieces of one frame: 64 KiB of the smallest datagrams that a kernel joins. A header that asks for more is not
/// followed.
pub const MAX_PIECES: usize = 1_200;

/// Whether a frame stands for several packets.
#[must_use]
pub fn is_super_segment(header: &[u8]) -> bool {
    FrameMeta::parse(header).is_ok_and(|meta| meta.segmentation.is_some())
}

/// Packets that a frame of so many bytes stands for, as far as its header tells.
#[must_use]
pub fn pieces(header: &[u8; VNET_HEADER_LEN], len: usize) -> usize {
    let head_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
    match FrameMeta::parse(header).ok().and_then(|meta| meta.segmentation) {
        Some(Segmentation::Tcp { segment_bytes, .. } | Segmentation::Udp { segment_bytes }) => {
            len.saturating_sub(head_len).div_ceil(segment_bytes.into()).clamp(1, MAX_PIECES)
        }
        None => 1,
    }
}

/// Calls `each` with every packet that the frame stands for, in its order and complete; `scratch` is room for them.
pub fn cut(header: &[u8], frame: &[u8], scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
    let segmentation = FrameMeta::parse(header).ok().and_then(|meta| meta.segmentation);
    let is_cut =
        segmentation.is_some_and(|segmentation| cut_as(segmentation, frame, scratch, &mut each).is_some());
    if !is_cut {
        scratch.clear();
        scratch.extend_from_slice(frame);
        complete_checksum(header, scratch);
        each(scratch);
    }
}

/// `None` if the frame is not what the segmentation says; then nothing was given to `each`.
fn cut_as(
    segmentation: Segmentation,
    frame: &[u8],
    scratch: &mut Vec<u8>,
    each: &mut impl FnMut(&[u8]),
) -> Option<()> {
    let packet = match frame::parse(frame).ok()?.body {
        frame::Body::Ip(packet) => packet,
        frame::Body::Arp(_) => return None,
    };
    if packet.fragment.is_some() {
        return None;
    }
    let ip_len = packet.bytes.len() - packet.payload.len();
    let (segment_bytes, transport_len, wanted) = match segmentation {
        Segmentation::Tcp { segment_bytes, .. } => {
            (usize::from(segment_bytes), tcp::parse(packet.payload).ok()?.header_len, protocol::TCP)
        }
        Segmentation::Udp { segment_bytes } => (usize::from(segment_bytes), udp::HEADER_LEN, protocol::UDP),
    };
    let payload = packet.payload.get(transport_len..)?;
    let pieces = payload.len().div_ceil(segment_bytes).max(1);
    if packet.protocol != wanted || pieces > MAX_PIECES {
        return None;
    }
    let head_len = ETHERNET_HEADER_LEN + ip_len + transport_len;
    for (place, piece) in payload.chunks(segment_bytes).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&frame[..head_len]);
        scratch.extend_from_slice(piece);
        let is_last = place + 1 == pieces;
        finish_ip(&mut scratch[ETHERNET_HEADER_LEN..], ip_len, place);
        let transport = &mut scratch[ETHERNET_HEADER_LEN + ip_len..];
        let field = match segmentation {
            Segmentation::Tcp { .. } => {
                // The whole frame is below 64 KiB.
                let sequence = be32(transport, 4).wrapping_add((place * segment_bytes) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                transport[13] &= flags_of_piece(place == 0, is_last);
                tcp::CHECKSUM_OFFSET
            }
            Segmentation::Udp { .. } => {
                let len = transport.len() as u16;
                transport[4..6].copy_from_slice(&len.to_be_bytes());
                udp::CHECKSUM_OFFSET
            }
        };
        transport[field..field + 2].fill(0);
        let sum = ip::transport_checksum(packet.source, packet.destination, wanted, transport);
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        each(scratch);
    }
    if payload.is_empty() { None } else { Some(()) }
}

/// The flags that a piece may keep.
fn flags_of_piece(is_first: bool, is_last: bool) -> u8 {
    let mut lost = 0;
    if !is_last {
        lost |= Flags::FIN.0 | Flags::PSH.0;
    }
    if !is_first {
        lost |= Flags::CWR.0;
    }
    !lost
}

/// Length, identification and checksum of the IP header of the piece at `place`.
fn finish_ip(packet: &mut [u8], ip_len: usize, place: usize) {
    if packet[0] >> 4 == 4 {
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let identification = be16(packet, 4).wrapping_add(place as u16);
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..ip_len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        // Of IPv6 the length counts what follows the fixed header.
        let len = (packet.len() - ip::header_len(true)) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
    }
}

/// Does what the virtio-net header leaves to be done: the field holds the sum of the pseudo-header already.
pub fn complete_checksum(header: &[u8], frame: &mut [u8]) {
    let Some(header) = header.first_chunk::<VNET_HEADER_LEN>() else { return };
    if header[0] & FLAG_NEEDS_CSUM == 0 {
        return;
    }
    let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let offset = usize::from(u16::from_le_bytes([header[8], header[9]]));
    let field = start + offset;
    let Some(covered) = frame.get(start..) else { return };
    let sum = !checksum::sum(covered);
    // RFC 768: a zero would mean that there is none. TCP has its field elsewhere, and sends it as it is.
    let sum = if sum == 0 && offset == udp::CHECKSUM_OFFSET { u16::MAX } else { sum };
    if let Some(place) = frame.get_mut(field..field + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv6RawExtHeader, PacketBuilder, SlicedPacket, TransportSlice};

    const META: fn(Segmentation) -> FrameMeta = |segmentation| FrameMeta {
        checksum_partial: true,
        checksum_valid: false,
        segmentation: Some(segmentation),
    };

    fn tcp_frame(is_ipv6: bool, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let ip = if is_ipv6 {
            ethernet.ipv6([1; 16], [2; 16], 64)
        } else {
            ethernet.ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
        };
        let mut segment = ip.tcp(4_000, 80, u32::MAX - 1_000, 500).ack(7).fin().psh();
        segment = segment.options_raw(&[1, 1, 1, 1]).unwrap();
        segment.write(&mut frame, payload).unwrap();
        frame[14 + if is_ipv6 { 40 } else { 20 } + 13] |= Flags::CWR.0;
        frame
    }

    fn cut_all(header: &[u8], frame: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        cut(header, frame, &mut Vec::new(), |piece| pieces.push(piece.to_vec()));
        pieces
    }

    /// Transport bytes of a piece whose checksums an independent reader finds right.
    fn verified(piece: &[u8]) -> (etherparse::TcpHeader, Vec<u8>) {
        let sliced = SlicedPacket::from_ethernet(piece).unwrap();
        let frame::Body::Ip(packet) = frame::parse(piece).unwrap().body else { panic!("not IP") };
        assert_eq!(packet.bytes.len(), piece.len() - ETHERNET_HEADER_LEN, "the length field");
        assert!(ip::transport_checksum_ok(
            packet.source,
            packet.destination,
            packet.protocol,
            packet.payload
        ));
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        (tcp.to_header(), tcp.payload().to_vec())
    }

    #[test]
    fn a_super_segment_becomes_what_a_wire_would_carry() {
        for is_ipv6 in [false, true] {
            let payload: Vec<u8> = (0..4_000u32).map(|n| n as u8).collect();
            let frame = tcp_frame(is_ipv6, &payload);
            let at = 14 + if is_ipv6 { 40 } else { 20 };
            let meta = META(Segmentation::Tcp { segment_bytes: 1_448, ecn: true });
            let pieces = cut_all(&meta.encode(is_ipv6, at, 24, 16), &frame);
            let read: Vec<_> = pieces.iter().map(|piece| verified(piece)).collect();
            let flags: Vec<_> = read.iter().map(|(tcp, _)| (tcp.fin, tcp.psh, tcp.cwr, tcp.ack)).collect();
            assert_eq!(
                flags,
                [(false, false, true, true), (false, false, false, true), (true, true, false, true)]
            );
            let mut next = u32::MAX - 1_000;
            let mut together = Vec::new();
            for (tcp, bytes) in &read {
                assert_eq!((tcp.sequence_number, tcp.options.as_slice()), (next, &[1, 1, 1, 1][..]));
                next = next.wrapping_add(bytes.len() as u32);
                together.extend_from_slice(bytes);
            }
            assert_eq!((together, read[0].1.len()), (payload, 1_448));
        }
    }

    #[test]
    fn a_run_of_datagrams_becomes_datagrams() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .udp(4_000, 443);
        builder.write(&mut frame, &[7; 2_500]).unwrap();
        let header = META(Segmentation::Udp { segment_bytes: 1_200 }).encode(false, 34, 8, 6);
        let lens: Vec<_> = cut_all(&header, &frame)
            .iter()
            .map(|piece| {
                let frame::Body::Ip(packet) = frame::parse(piece).unwrap().body else { panic!("not IP") };
                assert!(ip::transport_checksum_ok(packet.source, packet.destination, 17, packet.payload));
                udp::parse(packet.payload).unwrap().payload.len()
            })
            .collect();
        assert_eq!(lens, [1_200, 1_200, 100]);
    }

    #[test]
    fn what_cannot_be_cut_stays_as_it_is() {
        let frame = tcp_frame(false, &[1; 3_000]);
        let header = |segmentation| META(segmentation).encode(false, 34, 24, 16);
        // One byte a piece is 3 000 of them.
        for segmentation in
            [Segmentation::Tcp { segment_bytes: 1, ecn: false }, Segmentation::Udp { segment_bytes: 1_000 }]
        {
            assert_eq!(cut_all(&header(segmentation), &frame).len(), 1);
        }
        for mangled in [&frame[..20], &frame[..40], &[][..], &[0xff; 200]] {
            let whole = header(Segmentation::Tcp { segment_bytes: 500, ecn: false });
            assert_eq!(cut_all(&whole, mangled).len(), 1);
        }
        assert!(!is_super_segment(&[0; 10]) && !is_super_segment(&[0; 3]));
        assert!(is_super_segment(&header(Segmentation::Tcp { segment_bytes: 1, ecn: false })));
    }

    #[test]
    fn extension_headers_go_with_each_piece() {
        let mut frame = Vec::new();
        let extension = Ipv6RawExtHeader::new_raw(6.into(), &[1, 4, 0, 0, 0, 0]).unwrap();
        let ethernet = etherparse::Ethernet2Header {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
            ether_type: etherparse::EtherType::IPV6,
        };
        ethernet.write(&mut frame).unwrap();
        let plain = tcp_frame(true, &[9; 3_000]);
        frame.extend_from_slice(&plain[14..54]);
        frame[14 + 6] = 60;
        let len = (plain.len() - 54 + 8) as u16;
        frame[14 + 4..14 + 6].copy_from_slice(&len.to_be_bytes());
        extension.write(&mut frame).unwrap();
        frame.extend_from_slice(&plain[54..]);
        let header = META(Segmentation::Tcp { segment_bytes: 1_400, ecn: false }).encode(true, 62, 24, 16);
        let pieces = cut_all(&header, &frame);
        assert_eq!(pieces.len(), 3);
        for piece in pieces {
            assert_eq!(piece[14 + 6], 60);
            let _ = verified(&piece);
        }
    }

    #[test]
    fn a_checksum_left_to_the_sender_is_completed_and_no_other() {
        let mut frame = [0; 8];
        frame[2..8].copy_from_slice(&[0x12, 0x34, 0x00, 0x01, 0xab, 0xcd]);
        let expected = !checksum::sum(&frame[2..]);
        let mut completed = frame;
        complete_checksum(&[FLAG_NEEDS_CSUM, 0, 0, 0, 0, 0, 2, 0, 2, 0], &mut completed);
        assert_eq!(completed[4..6], expected.to_be_bytes());
        let mut untouched = frame;
        complete_checksum(&[0; 10], &mut untouched);
        assert_eq!(untouched, frame);
    }

    #[test]
    fn a_header_that_points_elsewhere_harms_nobody() {
        for header in [[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [1, 0, 0, 0, 0, 0, 7, 0, 9, 0]] {
            let mut frame = [1; 8];
            complete_checksum(&header, &mut frame);
            assert_eq!(frame, [1; 8]);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones_by_udp_alone() {
        for (offset, expected) in [(16u16, 0), (6, u16::MAX)] {
            // What is covered sums up to ones.
            let mut frame = vec![0; 20];
            frame[0] = 0xff;
            frame[1] = 0xff;
            let mut header = [0; VNET_HEADER_LEN];
            header[0] = FLAG_NEEDS_CSUM;
            header[8..10].copy_from_slice(&offset.to_le_bytes());
            complete_checksum(&header, &mut frame);
            let place = usize::from(offset);
            assert_eq!(u16::from_be_bytes([frame[place], frame[place + 1]]), expected, "{offset}");
        }
    }
}
