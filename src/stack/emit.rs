//! One IP packet onto the link: headers, checksum, virtio-net header.
//!
//! The transport's bytes are written where they will be sent from. [`Emitter::send`] lets a closure write them
//! behind the headers; [`Emitter::receive_datagrams`] lets the host's socket do so, before it is known whose
//! datagram it will be, and puts the headers in front afterwards. With checksum offload only the pseudo-header
//! sum is stored. A run of equal datagrams leaves as one super-frame where the link takes those, and one by one
//! otherwise; what exceeds the MTU leaves as fragments, unless it may not.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::boundary::FrameSink;
use super::drop_reason::DropReason;
use crate::config::limits::{MAX_FRAME_BYTES, MAX_ROOM_BYTES};
use crate::wire::ip::{
    self, ETHERNET_HEADER_LEN, Ethernet, FRAGMENT_HEADER_LEN, Fragment, Header, header_len, protocol,
};
use crate::wire::vnet_header::{FrameMeta, Offload, Segmentation, VNET_HEADER_LEN};
use crate::wire::{checksum, tcp, udp};

/// How the transport's checksum comes about, and how the packet is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP with a zeroed checksum field.
    Tcp {
        /// Set for a super-segment; the link must take those of this family.
        segmentation: Option<Segmentation>,
    },
    /// UDP with a zeroed checksum field.
    Udp,
    /// Anything whose checksum is complete.
    Complete,
}

/// Everything about a datagram, or a run of equal ones, but its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpEnvelope {
    /// Link addresses.
    pub ethernet: Ethernet,
    /// IP header, whose protocol is UDP.
    pub header: Header,
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Bytes of each datagram but the last, when the payload is a run of several.
    pub segment_bytes: Option<NonZeroU16>,
}

/// What a packet for the container must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitter {
    mtu: usize,
    offload: Offload,
}

impl Emitter {
    /// For a link of this MTU that can do `offload`.
    #[must_use]
    pub fn new(mtu: u16, offload: Offload) -> Emitter {
        Emitter { mtu: usize::from(mtu), offload }
    }

    /// Sends one packet with up to `len` bytes of transport, which `fill` writes; it returns how many it did.
    ///
    /// # Errors
    /// `LinkFull`; `MessageTooLong` for more than the MTU without segmentation the link can do.
    pub fn send<F: FrameSink>(
        &self,
        ethernet: &Ethernet,
        header: &Header,
        transport: Transport,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let at = ETHERNET_HEADER_LEN + header_len(header.source.is_ipv6());
        if at + len > self.largest_frame(header, transport) {
            return Err(DropReason::MessageTooLong);
        }
        let frame = frames.reserve(at + len).ok_or(DropReason::LinkFull)?;
        let len = fill(&mut frame[at..at + len]);
        ip::write_headers(frame, ethernet, header, len);
        let meta = self.finish(header, transport, at, &mut frame[at..at + len]);
        frames.commit(at + len, meta);
        Ok(())
    }

    /// Sends one TCP segment, or a super-segment that is cut at `segment_bytes` of payload: `head` is its header, with a
    /// zero checksum, `payload` the two parts of what follows.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_tcp<F: FrameSink>(
        &self,
        ethernet: &Ethernet,
        header: &Header,
        segment_bytes: u16,
        head: &[u8],
        payload: [&[u8]; 2],
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let payload_len = payload[0].len() + payload[1].len();
        let is_super = payload_len > usize::from(segment_bytes);
        // CWR of a super-segment stands on the first of its segments only (RFC 3168 §6.1.2).
        let ecn = tcp::flags_of(head).contains(tcp::Flags::CWR);
        let segmentation = is_super.then_some(Segmentation::Tcp { segment_bytes, ecn });
        let transport = Transport::Tcp { segmentation };
        let (at, len) = (ETHERNET_HEADER_LEN + header_len(header.source.is_ipv6()), head.len() + payload_len);
        if !self.offload.checksum || payload_len == 0 {
            // The checksum needs every byte.
            let fill = |out: &mut [u8]| {
                let (first, rest) = out.split_at_mut(head.len());
                let (second, third) = rest.split_at_mut(payload[0].len());
                first.copy_from_slice(head);
                second.copy_from_slice(payload[0]);
                third.copy_from_slice(payload[1]);
                len
            };
            return self.send(ethernet, header, transport, len, fill, frames);
        }
        if at + len > self.largest_frame(header, transport) {
            return Err(DropReason::MessageTooLong);
        }
        let frame = frames.reserve(at + len).ok_or(DropReason::LinkFull)?;
        ip::write_headers(frame, ethernet, header, len);
        let front = &mut frame[at..at + head.len()];
        front.copy_from_slice(head);
        let sum = ip::pseudo_header_sum(header.source, header.destination, protocol::TCP, len);
        front[tcp::CHECKSUM_OFFSET..tcp::CHECKSUM_OFFSET + 2].copy_from_slice(&sum.to_be_bytes());
        let meta = FrameMeta { checksum_partial: true, segmentation, ..FrameMeta::default() };
        let meta = encode(&meta, header, at, head.len(), tcp::CHECKSUM_OFFSET);
        frames.commit_gathered(at + head.len(), payload, meta);
        Ok(())
    }

    /// Sends a transport message whose checksum is complete, in fragments if it must be.
    ///
    /// # Errors
    /// `LinkFull`; `MessageTooLong` for more than the MTU that may not be fragmented.
    pub fn send_complete<F: FrameSink>(
        &self,
        ethernet: &Ethernet,
        header: &Header,
        message: &[u8],
        frames: &mut F,
    ) -> Result<(), DropReason> {
        if self.fits(header, message.len()) {
            let fill = |room: &mut [u8]| {
                room.copy_from_slice(message);
                message.len()
            };
            return self.send(ethernet, header, Transport::Complete, message.len(), fill, frames);
        }
        self.send_fragments(ethernet, header, &[], message, frames)
    }

    /// Sends a datagram, or a run of them.
    ///
    /// # Errors
    /// `LinkFull`, with some of a run or of the fragments possibly sent; `MessageTooLong` for more than the MTU
    /// that may not be fragmented.
    pub fn send_datagrams<F: FrameSink>(
        &self,
        envelope: &UdpEnvelope,
        payload: &[u8],
        frames: &mut F,
    ) -> Result<(), DropReason> {
        if self.is_one_frame(envelope, payload.len()) {
            let at = ETHERNET_HEADER_LEN + header_len(envelope.header.source.is_ipv6()) + udp::HEADER_LEN;
            let frame = frames.reserve(at + payload.len()).ok_or(DropReason::LinkFull)?;
            frame[at..at + payload.len()].copy_from_slice(payload);
            let meta = self.finish_datagrams(envelope, frame, payload.len());
            frames.commit(at + payload.len(), meta);
            return Ok(());
        }
        let segment_bytes = envelope.segment_bytes.map_or(payload.len(), |bytes| usize::from(bytes.get()));
        if segment_bytes >= payload.len() {
            return self.send_datagram_in_fragments(envelope, payload, frames);
        }
        let mut single = UdpEnvelope { segment_bytes: None, ..*envelope };
        for segment in payload.chunks(segment_bytes) {
            self.send_datagrams(&single, segment, frames)?;
            single.header.identification = single.header.identification.wrapping_add(1);
        }
        Ok(())
    }

    /// Reserves a frame, has `receive` read a datagram or a run right into it, and sends that. `receive` says
    /// how many bytes it read and whose they are, or that there was nothing; then the result is `false`.
    ///
    /// # Errors
    /// As [`Self::send_datagrams`]. `LinkFull` comes before anything is read.
    pub fn receive_datagrams<F: FrameSink>(
        &self,
        is_ipv6: bool,
        receive: impl FnOnce(&mut [u8]) -> Option<(UdpEnvelope, usize)>,
        frames: &mut F,
    ) -> Result<bool, DropReason> {
        let at = ETHERNET_HEADER_LEN + header_len(is_ipv6) + udp::HEADER_LEN;
        let frame = frames.reserve(MAX_ROOM_BYTES).ok_or(DropReason::LinkFull)?;
        let Some((envelope, len)) = receive(&mut frame[at..]) else { return Ok(false) };
        debug_assert_eq!(envelope.header.source.is_ipv6(), is_ipv6, "headers of another size than reserved");
        if envelope.header.source.is_ipv6() == is_ipv6 && self.is_one_frame(&envelope, len) {
            let meta = self.finish_datagrams(&envelope, frame, len);
            frames.commit(at + len, meta);
            return Ok(true);
        }
        // Neither one frame nor worth a buffer that lasts: an oversized datagram, or a run on an old kernel.
        let payload = frame[at..at + len].to_vec();
        self.send_datagrams(&envelope, &payload, frames)?;
        Ok(true)
    }

    /// Bytes of the largest frame this may become, Ethernet header included.
    fn largest_frame(&self, header: &Header, transport: Transport) -> usize {
        let takes_super_segments = match transport {
            Transport::Tcp { segmentation: Some(_) } => match header.source {
                IpAddr::V4(_) => self.offload.tcp4,
                IpAddr::V6(_) => self.offload.tcp6,
            },
            Transport::Tcp { segmentation: None } | Transport::Udp | Transport::Complete => false,
        };
        if takes_super_segments { MAX_FRAME_BYTES } else { ETHERNET_HEADER_LEN + self.mtu }
    }

    fn fits(&self, header: &Header, transport_len: usize) -> bool {
        header_len(header.source.is_ipv6()) + transport_len <= self.mtu
    }

    /// Whether this payload leaves as a single frame: one datagram within the MTU, or a run that the link cuts.
    fn is_one_frame(&self, envelope: &UdpEnvelope, len: usize) -> bool {
        match envelope.segment_bytes.map(|bytes| usize::from(bytes.get())) {
            Some(segment_bytes) if segment_bytes < len => {
                let whole = header_len(envelope.header.source.is_ipv6()) + udp::HEADER_LEN + len;
                self.offload.udp
                    && self.offload.checksum
                    && ETHERNET_HEADER_LEN + whole <= MAX_FRAME_BYTES
                    && self.fits(&envelope.header, udp::HEADER_LEN + segment_bytes)
            }
            Some(_) | None => self.fits(&envelope.header, udp::HEADER_LEN + len),
        }
    }

    /// Puts all headers in front of the `len` bytes of payload that stand in their place in `frame`.
    fn finish_datagrams(
        &self,
        envelope: &UdpEnvelope,
        frame: &mut [u8],
        len: usize,
    ) -> [u8; VNET_HEADER_LEN] {
        let UdpEnvelope { ethernet, header, source_port, destination_port, segment_bytes } = envelope;
        let transport_len = udp::HEADER_LEN + len;
        let at = ip::write_headers(frame, ethernet, header, transport_len);
        let transport = &mut frame[at..at + transport_len];
        udp::write_header(transport, *source_port, *destination_port, len);
        let mut meta = self.checksum(header, protocol::UDP, udp::CHECKSUM_OFFSET, transport);
        meta.segmentation = segment_bytes
            .filter(|bytes| usize::from(bytes.get()) < len)
            .map(|bytes| Segmentation::Udp { segment_bytes: bytes.get() });
        encode(&meta, header, at, udp::HEADER_LEN, udp::CHECKSUM_OFFSET)
    }

    /// Stores the checksum of `transport`, which begins at `at`, and describes the frame.
    fn finish(
        &self,
        header: &Header,
        transport: Transport,
        at: usize,
        bytes: &mut [u8],
    ) -> [u8; VNET_HEADER_LEN] {
        match transport {
            Transport::Tcp { segmentation } => {
                let header_len = usize::from(bytes[12] >> 4) * 4;
                let mut meta = self.checksum(header, protocol::TCP, tcp::CHECKSUM_OFFSET, bytes);
                // A single segment is not a super-segment, whatever it was meant to become.
                meta.segmentation = segmentation.filter(|segmentation| {
                    let (Segmentation::Tcp { segment_bytes, .. } | Segmentation::Udp { segment_bytes }) =
                        segmentation;
                    bytes.len() > header_len + usize::from(*segment_bytes)
                });
                encode(&meta, header, at, header_len, tcp::CHECKSUM_OFFSET)
            }
            Transport::Udp => {
                let meta = self.checksum(header, protocol::UDP, udp::CHECKSUM_OFFSET, bytes);
                encode(&meta, header, at, udp::HEADER_LEN, udp::CHECKSUM_OFFSET)
            }
            Transport::Complete => [0; VNET_HEADER_LEN],
        }
    }

    fn checksum(&self, header: &Header, protocol: u8, offset: usize, transport: &mut [u8]) -> FrameMeta {
        let Header { source, destination, .. } = *header;
        let value = if self.offload.checksum {
            ip::pseudo_header_sum(source, destination, protocol, transport.len())
        } else {
            ip::transport_checksum(source, destination, protocol, transport)
        };
        transport[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
        FrameMeta { checksum_partial: self.offload.checksum, ..FrameMeta::default() }
    }

    fn send_datagram_in_fragments<F: FrameSink>(
        &self,
        envelope: &UdpEnvelope,
        payload: &[u8],
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let UdpEnvelope { ethernet, header, source_port, destination_port, segment_bytes: _ } = envelope;
        let len = udp::HEADER_LEN + payload.len();
        if len > usize::from(u16::MAX) {
            return Err(DropReason::MessageTooLong);
        }
        let mut front = [0u8; udp::HEADER_LEN];
        udp::write_header(&mut front, *source_port, *destination_port, payload.len());
        // No engine completes a checksum across fragments.
        let pseudo = ip::pseudo_header_sum(header.source, header.destination, protocol::UDP, len);
        let sum = !checksum::add(pseudo, checksum::add(checksum::sum(&front), checksum::sum(payload)));
        udp::set_checksum(&mut front, if sum == 0 { 0xffff } else { sum });
        self.send_fragments(ethernet, header, &front, payload, frames)
    }

    /// Sends `front` and `rest`, one behind the other, in fragments (RFC 791 §3.2, RFC 8200 §4.5). `front` is
    /// at most eight bytes, so that it lies in the first.
    fn send_fragments<F: FrameSink>(
        &self,
        ethernet: &Ethernet,
        header: &Header,
        front: &[u8],
        rest: &[u8],
        frames: &mut F,
    ) -> Result<(), DropReason> {
        let is_ipv6 = header.source.is_ipv6();
        let total = front.len() + rest.len();
        let overhead = header_len(is_ipv6) + if is_ipv6 { FRAGMENT_HEADER_LEN } else { 0 };
        let step = self.mtu.saturating_sub(overhead) & !7;
        // The length field of IPv6 does not count the header.
        let whole = if is_ipv6 { total } else { header_len(false) + total };
        if (header.dont_fragment && !is_ipv6) || step == 0 || whole > usize::from(u16::MAX) {
            return Err(DropReason::MessageTooLong);
        }
        let identification = u32::from(header.identification);
        for offset in (0..total).step_by(step) {
            let len = step.min(total - offset);
            let fragment = Fragment { identification, offset, more: offset + len < total };
            let frame_len = ETHERNET_HEADER_LEN + overhead + len;
            let frame = frames.reserve(frame_len).ok_or(DropReason::LinkFull)?;
            let at = ip::write_fragment_headers(frame, ethernet, header, &fragment, len);
            let begin = if offset == 0 { front.len() } else { 0 };
            frame[at..at + begin].copy_from_slice(&front[..begin]);
            let from = (offset + begin) - front.len();
            frame[at + begin..at + len].copy_from_slice(&rest[from..from + len - begin]);
            frames.commit(frame_len, [0; VNET_HEADER_LEN]);
        }
        Ok(())
    }
}

fn encode(
    meta: &FrameMeta,
    header: &Header,
    at: usize,
    header_len: usize,
    checksum_offset: usize,
) -> [u8; VNET_HEADER_LEN] {
    // Offsets within the headers of one packet: far below 65 536.
    meta.encode(header.source.is_ipv6(), at as u16, header_len as u16, checksum_offset as u16)
}

#[cfg(test)]
pub(in crate::stack) mod tests;
