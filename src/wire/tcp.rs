//! TCP segments, as far as the core looks into them itself (RFC 9293 §3.1).
//!
//! The connection's engine reads and writes segments on its own; here is what dispatch needs before there is an
//! engine, or beside it: ports, flags, a reset for strangers, and the MSS option, which is clamped on its way.

use super::{be16, be32};

/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// Bytes of the header without options.
pub const MIN_HEADER_LEN: usize = 20;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MAX_SEGMENT_SIZE: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;

/// Control bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push function.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// A segment whose header fits its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Sequence number of the first byte, or of the SYN.
    pub sequence: u32,
    /// Next byte expected; means something with [`Flags::ACK`] only.
    pub acknowledgement: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window as it stands, not scaled.
    pub window: u16,
    /// Bytes of header, options included.
    pub header_len: usize,
    /// MSS option; looked for in a SYN only, where alone it means something.
    pub max_segment_size: Option<u16>,
    /// Data.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Sequence numbers the segment takes up (SEG.LEN).
    #[must_use]
    pub fn sequence_len(&self) -> u32 {
        // An IP packet's length has 16 bits, so this cannot truncate.
        self.payload.len() as u32
            + u32::from(self.flags.contains(Flags::SYN))
            + u32::from(self.flags.contains(Flags::FIN))
    }
}

/// Why bytes are no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TcpError {
    /// Fewer than twenty bytes.
    #[error("shorter than a TCP header")]
    Truncated,
    /// The data offset points into the fixed header or beyond the end.
    #[error("bad TCP data offset")]
    DataOffset,
}

/// Parses a segment. Options are walked in a SYN only, and a malformed one ends the walk, as it does in every
/// common stack.
#[inline]
pub fn parse(transport: &[u8]) -> Result<Segment<'_>, TcpError> {
    let fixed: &[u8; MIN_HEADER_LEN] = transport.first_chunk().ok_or(TcpError::Truncated)?;
    let header_len = usize::from(fixed[12] >> 4) * 4;
    if header_len < MIN_HEADER_LEN || header_len > transport.len() {
        return Err(TcpError::DataOffset);
    }
    let (header, payload) = transport.split_at(header_len);
    let flags = Flags(fixed[13]);
    let max_segment_size = match flags.contains(Flags::SYN) {
        true => option_at(header, OPTION_MAX_SEGMENT_SIZE, 4).map(|at| be16(header, at)),
        false => None,
    };
    Ok(Segment {
        source_port: be16(fixed, 0),
        destination_port: be16(fixed, 2),
        sequence: be32(fixed, 4),
        acknowledgement: be32(fixed, 8),
        flags,
        window: be16(fixed, 14),
        header_len,
        max_segment_size,
        payload,
    })
}

/// Bits by which the sender of this SYN shifts its later windows (RFC 7323 §2.2), if it says so.
#[must_use]
pub fn window_shift(syn: &[u8]) -> Option<u8> {
    let header = syn.get(..usize::from(syn.get(12)? >> 4) * 4)?;
    // RFC 7323 §2.3: a larger shift counts as 14.
    option_at(header, OPTION_WINDOW_SCALE, 3).map(|at| header[at].min(14))
}

/// Offset of the value of the first option of this kind and length in `header`, which ends with its last option.
fn option_at(header: &[u8], wanted: u8, wanted_len: usize) -> Option<usize> {
    let mut at = MIN_HEADER_LEN;
    while let Some(&kind) = header.get(at) {
        let len = match kind {
            OPTION_END => return None,
            OPTION_NOP => 1,
            _ => match header.get(at + 1) {
                Some(&len) if len >= 2 => usize::from(len),
                Some(_) | None => return None,
            },
        };
        if kind == wanted && len == wanted_len && at + len <= header.len() {
            return Some(at + 2);
        }
        at += len;
    }
    None
}

/// Overwrites the value of the MSS option, if this TCP header has one, and says whether it had. The checksum
/// is left as it is.
pub fn set_max_segment_size(transport: &mut [u8], value: u16) -> bool {
    let Some(&offset) = transport.get(12) else { return false };
    let header_len = usize::from(offset >> 4) * 4;
    let Some(header) = transport.get_mut(..header_len) else { return false };
    let Some(at) = option_at(header, OPTION_MAX_SEGMENT_SIZE, 4) else { return false };
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
    true
}

/// Control bits of a segment that is known to hold a header.
#[must_use]
pub fn flags(transport: &[u8]) -> Flags {
    Flags(transport[13])
}

/// Header bytes of a segment that is known to hold one.
#[must_use]
pub fn header_len(transport: &[u8]) -> usize {
    usize::from(transport[12] >> 4) * 4
}

/// Stores a checksum, complete or partial.
pub fn set_checksum(transport: &mut [u8], value: u16) {
    transport[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&value.to_be_bytes());
}

/// A segment without options and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareSegment {
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Next byte expected; sets [`Flags::ACK`] by itself.
    pub acknowledgement: Option<u32>,
    /// Other control bits.
    pub flags: Flags,
    /// Window.
    pub window: u16,
}

impl BareSegment {
    /// Bytes on the wire.
    pub const LEN: usize = MIN_HEADER_LEN;

    /// Writes the segment at the front of `transport`, with a zero checksum.
    pub fn write(&self, transport: &mut [u8]) {
        let flags = match self.acknowledgement {
            Some(_) => self.flags.union(Flags::ACK),
            None => self.flags,
        };
        transport[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        transport[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        transport[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        transport[8..12].copy_from_slice(&self.acknowledgement.unwrap_or(0).to_be_bytes());
        transport[12..14].copy_from_slice(&[(MIN_HEADER_LEN as u8 / 4) << 4, flags.0]);
        transport[14..16].copy_from_slice(&self.window.to_be_bytes());
        transport[16..20].fill(0);
    }
}

/// The reset that answers a segment which belongs to no connection; none for a reset.
#[must_use]
pub fn reset_for(segment: &Segment<'_>) -> Option<BareSegment> {
    if segment.flags.contains(Flags::RST) {
        return None;
    }
    // RFC 9293 §3.10.7.1: with ACK, <SEQ=SEG.ACK><CTL=RST>; without, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let (sequence, acknowledgement) = if segment.flags.contains(Flags::ACK) {
        (segment.acknowledgement, None)
    } else {
        (0, Some(segment.sequence.wrapping_add(segment.sequence_len())))
    };
    Some(BareSegment {
        source_port: segment.destination_port,
        destination_port: segment.source_port,
        sequence,
        acknowledgement,
        flags: Flags::RST,
        window: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{TcpHeader, TcpHeaderSlice, TcpOptionElement};
    use proptest::prelude::*;

    fn syn_with(options: &[TcpOptionElement]) -> Vec<u8> {
        let mut header = TcpHeader::new(40_000, 80, 0xffff_ffff, 64_240);
        header.syn = true;
        header.set_options(options).unwrap();
        header.to_bytes().to_vec()
    }

    #[test]
    fn segment_of_an_independent_writer_is_understood() {
        let mut bytes = syn_with(&[
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
            TcpOptionElement::MaximumSegmentSize(1460),
        ]);
        let header_len = bytes.len();
        bytes.extend(b"early");
        let segment = parse(&bytes).unwrap();
        assert_eq!((segment.source_port, segment.destination_port), (40_000, 80));
        assert_eq!((segment.sequence, segment.window), (0xffff_ffff, 64_240));
        assert_eq!((segment.flags, segment.header_len), (Flags::SYN, header_len));
        assert_eq!((segment.max_segment_size, segment.payload), (Some(1460), &b"early"[..]));
        assert_eq!(segment.sequence_len(), 6);
    }

    #[test]
    fn segment_size_is_replaced_only_where_it_stands() {
        let mut bytes =
            syn_with(&[TcpOptionElement::WindowScale(7), TcpOptionElement::MaximumSegmentSize(9000)]);
        assert!(set_max_segment_size(&mut bytes, 1460));
        assert_eq!(parse(&bytes).unwrap().max_segment_size, Some(1460));
        let mut bytes = syn_with(&[TcpOptionElement::WindowScale(7)]);
        let before = bytes.clone();
        assert!(!set_max_segment_size(&mut bytes, 1460));
        assert_eq!(bytes, before);
        assert!(!set_max_segment_size(&mut [0x50; 12], 1460));
    }

    #[test]
    fn malformed_option_ends_the_walk() {
        for options in [[2, 0, 5, 5], [2, 1, 5, 5], [2, 5, 5, 5], [3, 40, 2, 4], [1, 1, 1, 2], [1, 1, 2, 4]] {
            let mut bytes = syn_with(&[]);
            bytes[12] = 0x60;
            bytes.extend(options);
            assert_eq!(parse(&bytes).unwrap().max_segment_size, None, "{options:?}");
        }
    }

    #[test]
    fn header_lengths_that_lie_are_refused() {
        let mut bytes = syn_with(&[]);
        assert_eq!(parse(&bytes[..19]), Err(TcpError::Truncated));
        for offset in [0x00, 0x40, 0x60, 0xf0] {
            bytes[12] = offset;
            assert_eq!(parse(&bytes), Err(TcpError::DataOffset));
        }
    }

    #[test]
    fn reset_answers_as_rfc_9293_says() {
        let base = Segment {
            source_port: 1,
            destination_port: 2,
            sequence: u32::MAX,
            acknowledgement: 77,
            flags: Flags::SYN,
            window: 100,
            header_len: 20,
            max_segment_size: None,
            payload: b"xy",
        };
        let reset = reset_for(&base).unwrap();
        assert_eq!((reset.source_port, reset.destination_port), (2, 1));
        assert_eq!((reset.sequence, reset.acknowledgement), (0, Some(2)));
        let reset = reset_for(&Segment { flags: Flags::FIN.union(Flags::ACK), ..base }).unwrap();
        assert_eq!((reset.sequence, reset.acknowledgement), (77, None));
        assert_eq!(reset_for(&Segment { flags: Flags::RST.union(Flags::ACK), ..base }), None);
    }

    proptest! {
        #[test]
        fn bare_segments_are_parsed_back_and_an_independent_reader_agrees(
            source_port: u16, destination_port: u16, sequence: u32, acknowledgement: Option<u32>,
            flags in 0u8..=255, window: u16,
        ) {
            let flags = Flags(flags & !Flags::ACK.0);
            let bare = BareSegment { source_port, destination_port, sequence, acknowledgement, flags, window };
            let mut bytes = [0xee; BareSegment::LEN];
            bare.write(&mut bytes);
            let ack = if acknowledgement.is_some() { Flags::ACK } else { Flags(0) };
            prop_assert_eq!(parse(&bytes), Ok(Segment {
                source_port, destination_port, sequence, acknowledgement: acknowledgement.unwrap_or(0),
                flags: flags.union(ack), window, header_len: 20, max_segment_size: None, payload: &[],
            }));
            let slice = TcpHeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(slice.sequence_number(), sequence);
            prop_assert_eq!(slice.ack(), acknowledgement.is_some());
            prop_assert_eq!(slice.rst(), flags.contains(Flags::RST));
            prop_assert_eq!(slice.window_size(), window);
            prop_assert_eq!(slice.checksum(), 0);
            set_checksum(&mut bytes, 0xabcd);
            prop_assert_eq!(TcpHeaderSlice::from_slice(&bytes).unwrap().checksum(), 0xabcd);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(segment) = parse(&bytes) {
                let _ = reset_for(&segment);
            }
            set_max_segment_size(&mut bytes, 1);
        }

        #[test]
        fn arbitrary_options_never_panic(options in prop::collection::vec(0u8..6, 40)) {
            let mut bytes = syn_with(&[]);
            bytes[12] = 0xf0;
            bytes.extend(options);
            let found = parse(&bytes).unwrap().max_segment_size;
            prop_assert_eq!(set_max_segment_size(&mut bytes, 1), found.is_some());
        }
    }
}
