//! Putting IP packets on the link: headers, checksums, fragments, super-frames.
//!
//! A datagram from the host is received straight into the frame it leaves in: [`Emitter::reserve_udp`] gives
//! the room behind the headers, [`Emitter::commit_udp`] writes them in front of what arrived. Only what must be
//! cut (larger than the MTU, or a run the link cannot take whole) is copied once more.
//!
//! Checksums are left partial where the link completes them. RFC 791 §2.3 and RFC 8200 §4.5 (fragments),
//! RFC 6864 (identification).

use std::num::NonZeroU16;

use super::boundary::FrameSink;
use super::drop_reason::DropReason;
use crate::wire::ip::{self, ETHERNET_HEADER_LEN, Ethernet, FRAGMENT_HEADER_LEN, Fragment, Header};
use crate::wire::udp;
use crate::wire::vnet_header::{FrameMeta, Offload, Segmentation};

/// Largest UDP payload that an IPv4 packet holds; IPv6 is kept to the same.
const MAX_UDP_PAYLOAD: usize = 65_507;

/// Datagrams the kernel accepts in one super-frame (`UDP_MAX_SEGMENTS` of older kernels).
const MAX_UDP_SEGMENTS: usize = 64;

/// Writes packets of one link.
#[derive(Debug)]
pub struct Emitter {
    mtu: usize,
    offload: Offload,
    /// Distinguishes fragmented packets from one another.
    identification: u32,
    /// Holds a transport that is to be fragmented.
    cut: Vec<u8>,
    /// Holds a run that is to be taken apart.
    run: Vec<u8>,
}

impl Emitter {
    /// An emitter for a link of `mtu` bytes.
    #[must_use]
    pub fn new(mtu: u16, offload: Offload) -> Self {
        Emitter { mtu: mtu.into(), offload, identification: 1, cut: Vec::new(), run: Vec::new() }
    }

    /// Sends one packet whose transport of `len` bytes is written by `fill`, which leaves the checksum field of
    /// TCP and UDP zero and completes that of any other protocol. A packet larger than the MTU is fragmented.
    ///
    /// # Errors
    /// [`DropReason::LinkFull`] when the link takes no frame now.
    pub fn send(
        &mut self,
        frames: &mut impl FrameSink,
        ethernet: &Ethernet,
        header: &Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), DropReason> {
        let is_ipv6 = header.source.is_ipv6();
        if ip::header_len(is_ipv6) + len > self.mtu {
            let mut transport = std::mem::take(&mut self.cut);
            transport.clear();
            transport.resize(len, 0);
            fill(&mut transport);
            self.complete(header, &mut transport);
            let sent = self.send_fragments(frames, ethernet, header, &transport);
            self.cut = transport;
            return sent;
        }
        let total = ETHERNET_HEADER_LEN + ip::header_len(is_ipv6) + len;
        let frame = frames.reserve(total).ok_or(DropReason::LinkFull)?;
        let offset = ip::write_headers(frame, ethernet, header, len);
        let transport = &mut frame[offset..total];
        fill(transport);
        let meta = self.finish_checksum(header, transport, None);
        let encoded = encode(&meta, header, offset);
        frames.commit(total, encoded);
        Ok(())
    }

    /// Room for the payload of a UDP datagram, or of a run of them.
    pub fn reserve_udp<'a>(&self, frames: &'a mut impl FrameSink, is_ipv6: bool) -> Option<&'a mut [u8]> {
        let headers = udp_payload_offset(is_ipv6);
        let frame = frames.reserve(headers + MAX_UDP_PAYLOAD)?;
        Some(&mut frame[headers..headers + MAX_UDP_PAYLOAD])
    }

    /// Sends the first `len` bytes of what [`Emitter::reserve_udp`] gave: one datagram, or a run of datagrams
    /// of `segment_bytes` each but for the last.
    ///
    /// # Errors
    /// [`DropReason::LinkFull`] when the link takes no frame now.
    #[expect(clippy::too_many_arguments, reason = "the parts of one datagram")]
    pub fn commit_udp(
        &mut self,
        frames: &mut impl FrameSink,
        ethernet: &Ethernet,
        header: &Header,
        source_port: u16,
        destination_port: u16,
        len: usize,
        segment_bytes: Option<NonZeroU16>,
    ) -> Result<(), DropReason> {
        let is_ipv6 = header.source.is_ipv6();
        let headers = udp_payload_offset(is_ipv6);
        let segment_bytes = segment_bytes.map(|bytes| usize::from(bytes.get())).filter(|bytes| *bytes < len);
        let each = segment_bytes.unwrap_or(len);
        let fits = ip::header_len(is_ipv6) + udp::HEADER_LEN + each <= self.mtu;
        let whole = match segment_bytes {
            None => fits,
            Some(each) => fits && self.offload.udp && len.div_ceil(each) <= MAX_UDP_SEGMENTS,
        };
        let frame = frames.reserve(headers + len).ok_or(DropReason::LinkFull)?;
        if !whole {
            let mut payload = std::mem::take(&mut self.run);
            payload.clear();
            payload.extend_from_slice(&frame[headers..headers + len]);
            let sent =
                self.send_each(frames, ethernet, header, source_port, destination_port, &payload, each);
            self.run = payload;
            return sent;
        }
        let offset = ip::write_headers(frame, ethernet, header, udp::HEADER_LEN + len);
        let transport = &mut frame[offset..headers + len];
        udp::write_header(transport, source_port, destination_port, len);
        let meta = self.finish_checksum(header, transport, segment_bytes);
        let encoded = encode(&meta, header, offset);
        frames.commit(headers + len, encoded);
        Ok(())
    }

    /// Sends each datagram of a run in packets of its own.
    #[expect(clippy::too_many_arguments, reason = "the parts of one datagram")]
    fn send_each(
        &mut self,
        frames: &mut impl FrameSink,
        ethernet: &Ethernet,
        header: &Header,
        source_port: u16,
        destination_port: u16,
        payload: &[u8],
        each: usize,
    ) -> Result<(), DropReason> {
        let mut sent = Ok(());
        for datagram in payload.chunks(each.max(1)) {
            let length = udp::HEADER_LEN + datagram.len();
            let one = self.send(frames, ethernet, header, length, |transport| {
                transport[udp::HEADER_LEN..].copy_from_slice(datagram);
                udp::write_header(transport, source_port, destination_port, datagram.len());
            });
            sent = sent.and(one);
        }
        sent
    }

    fn send_fragments(
        &mut self,
        frames: &mut impl FrameSink,
        ethernet: &Ethernet,
        header: &Header,
        transport: &[u8],
    ) -> Result<(), DropReason> {
        let is_ipv6 = header.source.is_ipv6();
        self.identification = self.identification.wrapping_add(1).max(1);
        let headers = ip::header_len(is_ipv6) + if is_ipv6 { FRAGMENT_HEADER_LEN } else { 0 };
        // All but the last carry a multiple of eight bytes.
        let each = (self.mtu - headers) & !7;
        let mut offset = 0;
        for piece in transport.chunks(each) {
            let more = offset + piece.len() < transport.len();
            let fragment = Fragment { identification: self.identification, offset, more };
            let total = ETHERNET_HEADER_LEN + headers + piece.len();
            let frame = frames.reserve(total).ok_or(DropReason::LinkFull)?;
            let start = ip::write_fragment_headers(frame, ethernet, header, &fragment, piece.len());
            frame[start..total].copy_from_slice(piece);
            frames.commit(total, [0; 10]);
            offset += piece.len();
        }
        Ok(())
    }

    /// Writes the complete checksum.
    fn complete(&self, header: &Header, transport: &mut [u8]) {
        if let Some(offset) = checksum_offset(header.protocol) {
            let sum = ip::transport_checksum(header.source, header.destination, header.protocol, transport);
            // RFC 768, RFC 8200 §8.1: zero would mean that there is none.
            let sum = if header.protocol == ip::protocol::UDP && sum == 0 { 0xffff } else { sum };
            transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Writes the checksum as far as is ours, and says what is left to the link.
    fn finish_checksum(
        &self,
        header: &Header,
        transport: &mut [u8],
        segment_bytes: Option<usize>,
    ) -> FrameMeta {
        let Some(offset) = checksum_offset(header.protocol) else { return FrameMeta::default() };
        if !self.offload.checksum {
            self.complete(header, transport);
            return FrameMeta::default();
        }
        let sum = ip::pseudo_header_sum(header.source, header.destination, header.protocol, transport.len());
        transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        let segmentation = segment_bytes
            .and_then(|bytes| u16::try_from(bytes).ok())
            .map(|segment_bytes| Segmentation::Udp { segment_bytes });
        FrameMeta { checksum_partial: true, checksum_valid: false, segmentation }
    }
}

fn encode(meta: &FrameMeta, header: &Header, offset: usize) -> [u8; 10] {
    let (transport_header_len, checksum_offset) = match header.protocol {
        ip::protocol::TCP => (20, crate::wire::tcp::CHECKSUM_OFFSET),
        _ => (udp::HEADER_LEN, udp::CHECKSUM_OFFSET),
    };
    meta.encode(header.source.is_ipv6(), offset as u16, transport_header_len as u16, checksum_offset as u16)
}

fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        ip::protocol::TCP => Some(crate::wire::tcp::CHECKSUM_OFFSET),
        ip::protocol::UDP => Some(udp::CHECKSUM_OFFSET),
        _ => None,
    }
}

fn udp_payload_offset(is_ipv6: bool) -> usize {
    ETHERNET_HEADER_LEN + ip::header_len(is_ipv6) + udp::HEADER_LEN
}
