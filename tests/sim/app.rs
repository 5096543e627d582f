//! The program at one end of a stream, container's or host's: what it sends, how it reads, when it ends.
//!
//! Streams carry a pattern in which every byte follows from a key and its position, so that each byte is
//! checked as it arrives: a byte lost, doubled or moved is told by its place.

use std::collections::VecDeque;

use crate::clock::{Duration, Instant};
use crate::prng::scramble;

/// An echo program stops reading while it holds this much.
const ECHO_LIMIT: usize = 64 << 10;

/// When and how a program ends its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// FIN once everything is sent.
    AfterSending,
    /// FIN once everything is sent and the peer has sent its own.
    AfterPeerEnds,
    /// Never by itself.
    Never,
    /// RST once everything is handed over.
    ResetAfterSending,
    /// RST once so many bytes came.
    ResetAfterReceiving(u64),
}

/// How a program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Whatever is there.
    Freely,
    /// Not at all.
    Never,
    /// At most so many bytes so often.
    Paced { bytes: usize, every: Duration },
}

/// What a program does.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Bytes of the pattern it sends.
    pub sends: u64,
    pub send_key: u64,
    /// The pattern it expects.
    pub expect_key: u64,
    pub ending: Ending,
    pub reading: Reading,
    /// Sends back what it reads, instead of a pattern.
    pub echoes: bool,
}

impl Script {
    /// Sends `sends` bytes, reads freely, ends after that. The container's keys are odd, the host's even.
    pub fn container(flow: u64, sends: u64) -> Script {
        Script {
            sends,
            send_key: flow * 2 + 1,
            expect_key: flow * 2,
            ending: Ending::AfterSending,
            reading: Reading::Freely,
            echoes: false,
        }
    }

    /// The other end of [`Script::container`] of the same `flow`.
    pub fn host(flow: u64, sends: u64) -> Script {
        let peer = Script::container(flow, sends);
        Script { send_key: peer.expect_key, expect_key: peer.send_key, ..peer }
    }

    /// Sends everything back and ends when the peer has.
    pub fn echo(flow: u64) -> Script {
        Script { ending: Ending::AfterPeerEnds, echoes: true, ..Script::host(flow, 0) }
    }

    /// A container program whose peer echoes.
    pub fn echoed(flow: u64, sends: u64) -> Script {
        let script = Script::container(flow, sends);
        Script { expect_key: script.send_key, ..script }
    }

    pub fn ending(self, ending: Ending) -> Script {
        Script { ending, ..self }
    }

    pub fn reading(self, reading: Reading) -> Script {
        Script { reading, ..self }
    }
}

/// What a program wants of its socket besides bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Finish,
    Reset,
}

/// A running program.
#[derive(Debug)]
pub struct App {
    pub script: Script,
    pub sent: u64,
    pub received: u64,
    /// Position of the first byte that was not the pattern's.
    pub wrong_at: Option<u64>,
    /// It has sent its FIN or RST.
    pub ended: Option<Wish>,
    /// It has seen the peer's FIN, and after how many bytes.
    pub peer_ended: Option<u64>,
    /// It has seen a RST, or its connect refused.
    pub peer_reset: bool,
    echo: VecDeque<u8>,
    next_read_at: Instant,
}

/// The first `count` bytes of a queue.
pub fn front(queue: &VecDeque<u8>, count: usize) -> Vec<u8> {
    let (first, second) = queue.as_slices();
    let split = count.min(first.len());
    [&first[..split], &second[..count - split]].concat()
}

/// The bytes of the pattern from `position` on.
pub fn fill(key: u64, position: u64, buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        let place = position + filled as u64;
        let word = scramble(key.wrapping_mul(0x1000_0001) ^ (place / 8)).to_le_bytes();
        let from = (place % 8) as usize;
        let count = (8 - from).min(buffer.len() - filled);
        buffer[filled..filled + count].copy_from_slice(&word[from..from + count]);
        filled += count;
    }
}

impl App {
    pub fn new(script: Script) -> App {
        App {
            script,
            sent: 0,
            received: 0,
            wrong_at: None,
            ended: None,
            peer_ended: None,
            peer_reset: false,
            echo: VecDeque::new(),
            next_read_at: Instant::ZERO,
        }
    }

    /// How many bytes it would read now.
    pub fn to_read(&self, now: Instant) -> usize {
        match self.script.reading {
            Reading::Never => 0,
            Reading::Freely if self.script.echoes => ECHO_LIMIT.saturating_sub(self.echo.len()),
            Reading::Freely => usize::MAX,
            Reading::Paced { bytes, .. } => {
                if now >= self.next_read_at {
                    bytes
                } else {
                    0
                }
            }
        }
    }

    /// Takes bytes off the stream.
    pub fn read(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            return;
        }
        let mut expected = vec![0; bytes.len()];
        fill(self.script.expect_key, self.received, &mut expected);
        if self.wrong_at.is_none() && expected != bytes {
            let place = expected.iter().zip(bytes).position(|(right, got)| right != got).unwrap();
            self.wrong_at = Some(self.received + place as u64);
        }
        self.received += bytes.len() as u64;
        if self.script.echoes {
            self.echo.extend(bytes);
        }
        if let Reading::Paced { every, .. } = self.script.reading {
            self.next_read_at = now + every;
        }
    }

    /// The next bytes to send, at most `room`; [`App::took`] says how many were taken.
    pub fn to_send(&self, room: usize) -> Vec<u8> {
        if self.ended.is_some() {
            return Vec::new();
        }
        if self.script.echoes {
            return front(&self.echo, room.min(self.echo.len()));
        }
        let len = room.min((self.script.sends - self.sent).min(1 << 20) as usize);
        let mut bytes = vec![0; len];
        fill(self.script.send_key, self.sent, &mut bytes);
        bytes
    }

    /// So many bytes of [`App::to_send`] were taken.
    pub fn took(&mut self, count: usize) {
        self.sent += count as u64;
        if self.script.echoes {
            self.echo.drain(..count);
        }
    }

    /// The peer's FIN is next on the stream.
    pub fn peer_ends(&mut self) {
        self.peer_ended.get_or_insert(self.received);
    }

    /// Whether everything it had to send is handed over.
    pub fn sent_all(&self) -> bool {
        if self.script.echoes { self.echo.is_empty() } else { self.sent == self.script.sends }
    }

    /// What it wants now; the caller does it and notes it in `ended`.
    pub fn wish(&self) -> Wish {
        if self.ended.is_some() {
            return Wish::Nothing;
        }
        match self.script.ending {
            Ending::AfterSending if self.sent_all() => Wish::Finish,
            Ending::AfterPeerEnds if self.sent_all() && self.peer_ended.is_some() => Wish::Finish,
            Ending::ResetAfterSending if self.sent_all() => Wish::Reset,
            Ending::ResetAfterReceiving(bytes) if self.received >= bytes => Wish::Reset,
            _ => Wish::Nothing,
        }
    }

    /// When a slow reader reads next.
    pub fn next_at(&self, now: Instant) -> Option<Instant> {
        matches!(self.script.reading, Reading::Paced { .. })
            .then_some(self.next_read_at)
            .filter(|at| *at > now && self.peer_ended.is_none() && !self.peer_reset)
    }

    /// Whether it got all of `expected` bytes, as they were sent, and then the end.
    pub fn got_all(&self, expected: u64) -> bool {
        self.wrong_at.is_none() && self.received == expected && self.peer_ended == Some(expected)
    }
}

#[test]
fn a_byte_out_of_place_is_told_by_its_position() {
    let script = Script::host(3, 100);
    let sender = App::new(Script::container(3, 100));
    let mut receiver = App::new(script);
    let bytes = sender.to_send(1000);
    assert_eq!(bytes.len(), 100);
    receiver.read(&bytes[..40], Instant::ZERO);
    assert_eq!(receiver.wrong_at, None);
    receiver.read(&bytes[50..], Instant::ZERO);
    assert_eq!(receiver.wrong_at, Some(40));
}
