//! A body of any length that both ends can compute, and the checksum that proves it arrived.

/// Bytes `offset..` of the endless body, where `offset` is a multiple of eight.
pub fn fill(buffer: &mut [u8], offset: u64) {
    for (position, word) in (offset / 8..).zip(buffer.chunks_mut(8)) {
        // SplitMix64: every word differs, so nothing may be lost, repeated or swapped unseen.
        let mut mixed = position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..word.len()]);
    }
}

/// CRC-32 as of zlib, so that python's `zlib.crc32` agrees.
pub struct Crc32 {
    state: u32,
    tables: Box<[[u32; 256]; 8]>,
}

impl Crc32 {
    /// Of nothing yet.
    pub fn new() -> Crc32 {
        let mut tables = Box::new([[0_u32; 256]; 8]);
        for byte in 0..256 {
            let mut value = byte as u32;
            for _ in 0..8 {
                value = (value >> 1) ^ (0xedb8_8320 & (value & 1).wrapping_neg());
            }
            tables[0][byte] = value;
        }
        for byte in 0..256 {
            for table in 1..8 {
                let below = tables[table - 1][byte];
                tables[table][byte] = (below >> 8) ^ tables[0][(below & 0xff) as usize];
            }
        }
        Crc32 { state: !0, tables }
    }

    /// Takes `bytes` in, eight at a time.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let value = u64::from_le_bytes(word.try_into().expect("eight bytes")) ^ u64::from(self.state);
            let mut next = 0;
            for (index, byte) in value.to_le_bytes().into_iter().enumerate() {
                next ^= self.tables[7 - index][usize::from(byte)];
            }
            self.state = next;
        }
        for &byte in words.remainder() {
            self.state = (self.state >> 8) ^ self.tables[0][((self.state ^ u32::from(byte)) & 0xff) as usize];
        }
    }

    /// Of everything taken in.
    pub fn value(&self) -> u32 {
        !self.state
    }
}

/// CRC-32 of the first `len` bytes of the body.
pub fn crc_of_body(len: u64) -> u32 {
    let mut crc = Crc32::new();
    let mut block = vec![0; 1 << 18];
    let mut offset = 0;
    while offset < len {
        let part = usize::try_from((len - offset).min(block.len() as u64)).expect("a block");
        fill(&mut block[..part], offset);
        crc.update(&block[..part]);
        offset += part as u64;
    }
    crc.value()
}

/// CRC-32 of `bytes`.
pub fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.value()
}

#[test]
fn the_checksum_is_the_one_of_zlib() {
    assert_eq!(crc_of(b"123456789"), 0xcbf4_3926);
    let mut in_parts = Crc32::new();
    in_parts.update(b"12");
    in_parts.update(b"3456789");
    assert_eq!(in_parts.value(), crc_of(b"123456789"));
}

#[test]
fn the_body_is_the_same_from_any_offset() {
    let (mut whole, mut part) = ([0; 64], [0; 24]);
    fill(&mut whole, 0);
    fill(&mut part, 16);
    assert_eq!(part, whole[16..40]);
}
