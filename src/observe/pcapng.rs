//! Blocks of the pcapng format (draft-ietf-opsawg-pcapng), as far as a capture of two interfaces needs them.
//!
//! Each block is appended to a buffer, whole, little-endian, padded to words. What stands at the front of every file is
//! [`preamble`]: one section and its two interfaces. A reader that comes late, or a file that is begun when another is full, needs
//! it and nothing else. [`block_len`] and [`is_packet`] let those cut a stream who only pass it on.

/// The container's side: Ethernet frames as on its link.
pub const CONTAINER: u32 = 0;
/// The host's side: IP packets as its sockets carry them.
pub const HOST: u32 = 1;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
/// An IP packet, whose first four bits say which version.
const LINKTYPE_RAW: u16 = 101;

const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_PROGRAM: u16 = 4;
const OPTION_NAME: u16 = 2;
const OPTION_DESCRIPTION: u16 = 3;
const OPTION_FLAGS: u16 = 2;
const OPTION_RECEIVED: u16 = 4;
const OPTION_DROPPED: u16 = 5;

/// What there is in front of the packet of an [`ENHANCED_PACKET`].
const PACKET_FRONT: usize = 28;
/// That, and what is behind its options.
const PACKET_OVERHEAD: usize = PACKET_FRONT + 4;

/// Bytes of the block that [`statistics`] appends.
pub const STATISTICS_LEN: usize = 52;

/// Which way a packet went, as its interface sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the machine whose interface it is.
    Inbound,
    /// From it.
    Outbound,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }
}

/// A packet on one of the interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// [`CONTAINER`] or [`HOST`].
    pub interface: u32,
    /// Since 1970.
    pub micros: u64,
    /// Which way it went.
    pub direction: Direction,
    /// What of it is kept.
    pub bytes: &'a [u8],
    /// How long it was.
    pub original_len: usize,
    /// About it.
    pub comment: Option<&'a str>,
}

/// What stands at the front of a file.
#[must_use]
pub fn preamble(snap_len: u32) -> Vec<u8> {
    let mut out = Vec::new();
    block(&mut out, SECTION_HEADER, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        // Of a length that nobody knows yet.
        out.extend(u64::MAX.to_le_bytes());
        option(out, OPTION_PROGRAM, concat!("netferry ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, OPTION_END, &[]);
    });
    let interfaces = [
        (LINKTYPE_ETHERNET, "container", "frames of the container's link"),
        (LINKTYPE_RAW, "host", "what the host's sockets carry, put into packets by netferry"),
    ];
    for (link_type, name, description) in interfaces {
        block(&mut out, INTERFACE_DESCRIPTION, |out| {
            out.extend(link_type.to_le_bytes());
            out.extend(0_u16.to_le_bytes());
            out.extend(snap_len.to_le_bytes());
            option(out, OPTION_NAME, name.as_bytes());
            option(out, OPTION_DESCRIPTION, description.as_bytes());
            option(out, OPTION_END, &[]);
        });
    }
    out
}

/// Appends a packet; its bytes there.
pub fn packet<'o>(out: &'o mut Vec<u8>, packet: &Packet<'_>) -> &'o mut [u8] {
    let start = out.len() + PACKET_FRONT;
    block(out, ENHANCED_PACKET, |out| {
        out.extend(packet.interface.to_le_bytes());
        timestamp(out, packet.micros);
        out.extend(word(packet.bytes.len()));
        out.extend(word(packet.original_len));
        out.extend_from_slice(packet.bytes);
        pad(out, packet.bytes.len());
        if let Some(comment) = packet.comment {
            option(out, OPTION_COMMENT, comment.as_bytes());
        }
        let direction: u32 = match packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(out, OPTION_FLAGS, &direction.to_le_bytes());
        option(out, OPTION_END, &[]);
    });
    &mut out[start..start + packet.bytes.len()]
}

/// Bytes that a packet takes at most, with a comment of so many.
#[must_use]
pub fn packet_len(bytes: usize, comment: usize) -> usize {
    PACKET_OVERHEAD + bytes.next_multiple_of(4) + comment.next_multiple_of(4) + 16
}

/// Appends what an interface has counted: packets that were to be captured, and those of them that were lost.
pub fn statistics(out: &mut Vec<u8>, interface: u32, micros: u64, received: u64, dropped: u64) {
    block(out, INTERFACE_STATISTICS, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, micros);
        option(out, OPTION_RECEIVED, &received.to_le_bytes());
        option(out, OPTION_DROPPED, &dropped.to_le_bytes());
        option(out, OPTION_END, &[]);
    });
}

/// Bytes of the block at the front, all of it included, once its head is there. `None` for what is no block of ours.
#[must_use]
pub fn block_len(front: &[u8]) -> Option<Option<usize>> {
    let Some(head) = front.first_chunk::<8>() else { return Some(None) };
    let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    (len >= 12 && len.is_multiple_of(4)).then_some(Some(len))
}

/// Whether a block belongs to the front of every file.
#[must_use]
pub fn is_preamble(block: &[u8]) -> bool {
    let kind = block.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind));
    matches!(kind, Some(SECTION_HEADER | INTERFACE_DESCRIPTION))
}

/// The interface, and the packets received and lost of it, where a block tells them.
#[must_use]
pub fn told(block: &[u8]) -> Option<(u32, u64, u64)> {
    let number = |at: usize| block.get(at..at + 4)?.first_chunk().map(|four| u32::from_le_bytes(*four));
    let long = |at: usize| block.get(at..at + 8)?.first_chunk().map(|eight| u64::from_le_bytes(*eight));
    if number(0)? != INTERFACE_STATISTICS {
        return None;
    }
    Some((number(8)?, long(24)?, long(36)?))
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = word(out.len() - start + 4);
    out[start + 4..start + 8].copy_from_slice(&len);
    out.extend(len);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend_from_slice(&value[..usize::from(len)]);
    pad(out, usize::from(len));
}

fn timestamp(out: &mut Vec<u8>, micros: u64) {
    out.extend(((micros >> 32) as u32).to_le_bytes());
    out.extend((micros as u32).to_le_bytes());
}

fn pad(out: &mut Vec<u8>, len: usize) {
    out.resize(out.len() + len.next_multiple_of(4) - len, 0);
}

fn word(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a stream, each with its kind and its body.
    fn blocks(mut stream: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !stream.is_empty() {
            let len = block_len(stream).unwrap().unwrap();
            let (block, rest) = stream.split_at(len);
            assert_eq!(block[4..8], block[len - 4..], "the length stands at both ends");
            let kind = u32::from_le_bytes(block[..4].try_into().unwrap());
            found.push((kind, block[8..len - 4].to_vec()));
            stream = rest;
        }
        found
    }

    #[test]
    fn a_file_begins_with_a_section_and_two_interfaces() {
        let preamble = preamble(262_144);
        let found = blocks(&preamble);
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION_HEADER, 1, 1]);
        assert_eq!(found[0].1[..8], [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]);
        assert_eq!((found[1].1[0], found[2].1[0]), (1, 101));
        assert_eq!(found[1].1[4..8], 262_144_u32.to_le_bytes());
        assert_eq!(found[1].1[8..21], *b"\x02\0\x09\0container");
        assert!(is_preamble(&preamble));
    }

    #[test]
    fn a_packet_has_its_time_its_lengths_and_its_options() {
        let mut out = Vec::new();
        let bytes = [7; 61];
        packet(
            &mut out,
            &Packet {
                interface: HOST,
                micros: 0x0001_0002_0003_0004,
                direction: Direction::Outbound,
                bytes: &bytes,
                original_len: 1_500,
                comment: Some("flow 17"),
            },
        );
        assert!(out.len() <= packet_len(61, 7) && !is_preamble(&out));
        let body = &blocks(&out)[0].1;
        let words: Vec<u32> =
            body[..20].chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(words, [HOST, 0x0001_0002, 0x0003_0004, 61, 1_500]);
        assert_eq!((&body[20..81], &body[81..84]), (&bytes[..], &[0; 3][..]));
        assert_eq!(body[84..96], *b"\x01\0\x07\0flow 17\0");
        assert_eq!(body[96..], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_was_counted_is_read_back() {
        let mut out = Vec::new();
        statistics(&mut out, CONTAINER, 5, 1_000, 12);
        assert_eq!(blocks(&out)[0].0, INTERFACE_STATISTICS);
        assert_eq!((told(&out), out.len()), (Some((CONTAINER, 1_000, 12)), STATISTICS_LEN));
        assert_eq!(told(&preamble(1)), None);
        assert_eq!(told(&out[..30]), None);
    }

    #[test]
    fn what_is_no_block_is_told_from_what_is_not_all_there() {
        assert_eq!(block_len(&[0; 7]), Some(None));
        for nonsense in [[0; 8], [1, 0, 0, 0, 13, 0, 0, 0]] {
            assert_eq!(block_len(&nonsense), None);
        }
    }
}
