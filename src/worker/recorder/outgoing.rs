//! Bytes on their way to the reader of a capture: whole packets behind each other, in pieces that are given up as they leave,
//! so that nothing is ever moved to the front.

use std::collections::VecDeque;
use std::io::{self, Write};

/// Bytes of a piece. A packet is in one of them.
const PIECE: usize = 1 << 20;
/// Pieces that are kept for what comes next.
const SPARE: usize = 2;

/// What waits.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// Of the first.
    written: usize,
    len: usize,
}

impl Outgoing {
    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `write` append something of `expected` bytes at most; how many it were.
    pub fn append(&mut self, expected: usize, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.pieces.back().is_none_or(|piece| piece.len() + expected > PIECE) {
            self.pieces.push_back(self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PIECE)));
        }
        let Some(piece) = self.pieces.back_mut() else { return 0 };
        let before = piece.len();
        write(piece);
        let appended = piece.len() - before;
        self.len += appended;
        appended
    }

    /// Writes what `out` takes; what it says when it takes no more, if that is not all.
    ///
    /// # Errors
    /// As of writing.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(piece) = self.pieces.front_mut() {
            if self.written < piece.len() {
                match out.write(&piece[self.written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(len) => {
                        self.written += len;
                        self.len -= len;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            self.written = 0;
            if let Some(mut piece) = self.pieces.pop_front()
                && self.spare.len() < SPARE
            {
                piece.clear();
                self.spare.push(piece);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, a few at a time.
    struct Reader {
        room: usize,
        heard: Vec<u8>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.room).min(300_001);
            if len == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= len;
            self.heard.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_appended_leaves_in_its_order_whatever_the_reader_takes_at_a_time() {
        let mut outgoing = Outgoing::default();
        let mut reader = Reader { room: 0, heard: Vec::new() };
        let mut expected = Vec::new();
        for number in 0..100_u32 {
            let packet = vec![number as u8; 60_000 + number as usize];
            assert_eq!(outgoing.append(packet.len(), |out| out.extend_from_slice(&packet)), packet.len());
            expected.extend_from_slice(&packet);
            reader.room = 7_000 * number as usize % 130_000;
            let left = outgoing.write_to(&mut reader);
            assert_eq!(left.is_err(), !outgoing.is_empty());
            assert_eq!(outgoing.len() + reader.heard.len(), expected.len());
            assert!(outgoing.pieces.len() <= outgoing.len() / (PIECE - 70_000) + 2);
        }
        reader.room = usize::MAX;
        outgoing.write_to(&mut reader).unwrap();
        assert!(reader.heard == expected && outgoing.is_empty() && outgoing.spare.len() <= SPARE);
    }

    #[test]
    fn what_is_larger_than_a_piece_has_one_of_its_own() {
        let mut outgoing = Outgoing::default();
        outgoing.append(2, |out| out.extend_from_slice(b"ab"));
        outgoing.append(2 * PIECE, |out| out.resize(2 * PIECE, 7));
        let mut reader = Reader { room: usize::MAX, heard: Vec::new() };
        outgoing.write_to(&mut reader).unwrap();
        assert_eq!((reader.heard.len(), &reader.heard[..3]), (2 * PIECE + 2, &b"ab\x07"[..]));
    }
}
