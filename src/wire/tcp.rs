//! TCP segments, as far as the core looks into them itself (RFC 9293 §3.1).
//!
//! Ports, flags and options of what the container sends, the header of what we send, and a reset for strangers. Options
//! known are those of RFC 9293 (MSS), RFC 7323 (window scale) and RFC 2018 (selective acknowledgement).

use super::{be16, be32};

/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// Bytes of the header without options.
pub const MIN_HEADER_LEN: usize = 20;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MAX_SEGMENT_SIZE: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;
/// Bytes of one block of a selective acknowledgement.
const SACK_BLOCK_LEN: usize = 8;
/// Bytes of the longest header.
pub const MAX_HEADER_LEN: usize = 60;
/// Blocks that fit a header beside nothing else.
pub const MAX_SACK_BLOCKS: usize = 4;

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
    /// Options as they stand.
    pub options: &'a [u8],
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

    /// Bits by which the sender of this SYN shifts its later windows (RFC 7323 §2.2), if it says so.
    #[must_use]
    pub fn window_shift(&self) -> Option<u8> {
        // RFC 7323 §2.3: a larger shift counts as 14.
        self.option(OPTION_WINDOW_SCALE, 1).map(|value| value[0].min(14))
    }

    /// Whether the sender of this SYN understands selective acknowledgements (RFC 2018 §2).
    #[must_use]
    pub fn permits_sack(&self) -> bool {
        self.option(OPTION_SACK_PERMITTED, 0).is_some()
    }

    /// Ranges received beyond the acknowledged: first sequence number, and the one behind the last (RFC 2018 §3).
    pub fn sack_blocks(&self) -> impl Iterator<Item = (u32, u32)> {
        let found = OptionWalk { rest: self.options }.find(|(kind, _)| *kind == OPTION_SACK);
        let blocks = found.map_or(&[][..], |(_, value)| value);
        blocks.chunks_exact(SACK_BLOCK_LEN).map(|block| (be32(block, 0), be32(block, 4)))
    }

    /// The value of the first option of this kind and length.
    fn option(&self, wanted: u8, len: usize) -> Option<&[u8]> {
        let mut walk = OptionWalk { rest: self.options };
        walk.find(|(kind, value)| *kind == wanted && value.len() == len).map(|(_, value)| value)
    }
}

/// The options of a header; a malformed one ends the walk.
struct OptionWalk<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for OptionWalk<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            match *self.rest {
                [] | [OPTION_END, ..] => return None,
                [OPTION_NOP, ref rest @ ..] => self.rest = rest,
                [kind, len, ref rest @ ..] => {
                    let len = usize::from(len).checked_sub(2)?;
                    let (value, rest) = rest.split_at_checked(len)?;
                    self.rest = rest;
                    return Some((kind, value));
                }
                [_] => return None,
            }
        }
    }
}

/// The control bits of a header that we wrote ourselves.
#[must_use]
pub fn flags_of(header: &[u8]) -> Flags {
    Flags(header.get(13).copied().unwrap_or(0))
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
        true => OptionWalk { rest: &header[MIN_HEADER_LEN..] }
            .find(|(kind, value)| *kind == OPTION_MAX_SEGMENT_SIZE && value.len() == 2)
            .map(|(_, value)| be16(value, 0)),
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
        options: &header[MIN_HEADER_LEN..],
        payload,
    })
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

    /// Writes the segment with options at the front of `transport`, which holds [`MAX_HEADER_LEN`] bytes, with a zero
    /// checksum, and returns the length of its header.
    pub fn write_with(&self, options: &Options<'_>, transport: &mut [u8]) -> usize {
        self.write(transport);
        let len = MIN_HEADER_LEN + options.write(&mut transport[MIN_HEADER_LEN..MAX_HEADER_LEN]);
        transport[12] = (len as u8 / 4) << 4;
        len
    }

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

/// Options of a segment of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options<'a> {
    /// Largest payload that we take in one segment.
    pub max_segment_size: Option<u16>,
    /// Bits by which our later windows are shifted.
    pub window_shift: Option<u8>,
    /// We understand selective acknowledgements.
    pub permits_sack: bool,
    /// Ranges that we have beyond the acknowledged; [`MAX_SACK_BLOCKS`] at most.
    pub sack: &'a [(u32, u32)],
}

impl Options<'_> {
    /// Writes them, padded to whole words, and returns their length: 40 bytes at most.
    fn write(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(size) = self.max_segment_size {
            let [high, low] = size.to_be_bytes();
            put(&[OPTION_MAX_SEGMENT_SIZE, 4, high, low]);
        }
        if let Some(shift) = self.window_shift {
            put(&[OPTION_NOP, OPTION_WINDOW_SCALE, 3, shift]);
        }
        if self.permits_sack {
            put(&[OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2]);
        }
        let sack = &self.sack[..self.sack.len().min(MAX_SACK_BLOCKS)];
        if !sack.is_empty() {
            put(&[OPTION_NOP, OPTION_NOP, OPTION_SACK, (2 + SACK_BLOCK_LEN * sack.len()) as u8]);
            for (first, end) in sack {
                put(&first.to_be_bytes());
                put(&end.to_be_bytes());
            }
        }
        at
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
    fn options_of_an_independent_writer_are_found() {
        let bytes = syn_with(&[
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::WindowScale(15),
        ]);
        let segment = parse(&bytes).unwrap();
        assert_eq!((segment.window_shift(), segment.permits_sack()), (Some(14), true), "RFC 7323 §2.3");
        let bytes =
            syn_with(&[TcpOptionElement::SelectiveAcknowledgement((1, 2), [Some((7, 9)), None, None])]);
        let segment = parse(&bytes).unwrap();
        assert_eq!(segment.sack_blocks().collect::<Vec<_>>(), [(1, 2), (7, 9)]);
        assert_eq!((segment.window_shift(), segment.permits_sack()), (None, false));
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
            options: &[],
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
                flags: flags.union(ack), window, header_len: 20, max_segment_size: None, options: &[], payload: &[],
            }));
            let slice = TcpHeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(slice.sequence_number(), sequence);
            prop_assert_eq!(slice.ack(), acknowledgement.is_some());
            prop_assert_eq!(slice.rst(), flags.contains(Flags::RST));
            prop_assert_eq!(slice.window_size(), window);
            prop_assert_eq!(slice.checksum(), 0);
        }

        #[test]
        fn options_are_parsed_back_and_an_independent_reader_agrees(
            size in prop::option::of(any::<u16>()), shift in prop::option::of(0u8..15), permits_sack: bool,
            sack in prop::collection::vec(any::<(u32, u32)>(), 0..3),
        ) {
            let bare = BareSegment {
                source_port: 1, destination_port: 2, sequence: 3, acknowledgement: None, flags: Flags::SYN, window: 4,
            };
            let options = Options { max_segment_size: size, window_shift: shift, permits_sack, sack: &sack };
            let mut bytes = [0xee; MAX_HEADER_LEN];
            let len = bare.write_with(&options, &mut bytes);
            let segment = parse(&bytes[..len]).unwrap();
            prop_assert_eq!((segment.max_segment_size, segment.window_shift()), (size, shift));
            prop_assert_eq!(segment.permits_sack(), permits_sack);
            prop_assert_eq!(segment.sack_blocks().collect::<Vec<_>>(), sack.clone());
            let read: Result<Vec<_>, _> = TcpHeaderSlice::from_slice(&bytes[..len]).unwrap().options_iterator().collect();
            let read: Vec<_> = read.unwrap().into_iter().filter(|option| *option != TcpOptionElement::Noop).collect();
            let count = [size.is_some(), shift.is_some(), permits_sack, !sack.is_empty()];
            prop_assert_eq!(read.len(), count.into_iter().filter(|is_there| *is_there).count());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(segment) = parse(&bytes) {
                let _ = reset_for(&segment);
                let _ = (segment.window_shift(), segment.permits_sack(), segment.sack_blocks().count());
            }
        }

        #[test]
        fn arbitrary_options_never_panic(options in prop::collection::vec(0u8..6, 40)) {
            let mut bytes = syn_with(&[]);
            bytes[12] = 0xf0;
            bytes.extend(options);
            let segment = parse(&bytes).unwrap();
            let _ = (segment.window_shift(), segment.permits_sack(), segment.sack_blocks().count());
        }
    }
}
