//! Lines of JSON to and from another process, over a stream that nobody waits for.
//!
//! What the other side has not read yet waits here, within bounds. One that has closed the stream, or writes what is no line of a
//! reasonable length, is gone.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde_json::Value;

use crate::config::limits::{HOOK_BYTES_PER_TURN, HOOK_OUTGOING_BYTES};

/// Nobody is there any more, or nobody who writes lines.
#[derive(Debug)]
pub struct Gone;

/// One end of such a stream.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    /// Bytes of a line that is read.
    longest: usize,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// It has not said "nothing more" since its last event.
    is_ready: bool,
}

impl Lines {
    /// Reads lines of so many bytes at most.
    #[must_use]
    pub fn new(stream: UnixStream, longest: usize) -> Lines {
        Lines { stream, longest, outgoing: Vec::new(), incoming: Vec::new(), is_ready: false }
    }

    /// Has `registry` tell with `token` when it can be read or written.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        registry.register(&mut SourceFd(&self.stream.as_raw_fd()), token, interest)
    }

    /// That was told.
    pub fn note(&mut self) {
        self.is_ready = true;
    }

    /// Whether something may be there to be read without an event.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The stream alone.
    #[cfg(test)]
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Has one more line wait to be sent; whether there is room for it.
    pub fn push(&mut self, line: &Value) -> bool {
        let text = line.to_string();
        let has_room = self.outgoing.len() + text.len() < HOOK_OUTGOING_BYTES;
        if has_room {
            self.outgoing.extend_from_slice(text.as_bytes());
            self.outgoing.push(b'\n');
        }
        has_room
    }

    /// Sends what waits, as far as it is taken.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn send(&mut self) -> Result<(), Gone> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[sent..]) {
                Ok(0) => return Err(Gone),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Gone),
            }
        }
        self.outgoing.drain(..sent);
        Ok(())
    }

    /// Reads lines, as many as a turn has.
    ///
    /// # Errors
    /// Nobody is there, or nobody who writes lines.
    pub fn receive(&mut self) -> Result<Vec<Vec<u8>>, Gone> {
        let mut lines = Vec::new();
        let mut room = [0; 4_096];
        let mut taken = 0;
        while taken < HOOK_BYTES_PER_TURN {
            match self.stream.read(&mut room) {
                Ok(0) => return if lines.is_empty() { Err(Gone) } else { Ok(lines) },
                Ok(count) => {
                    taken += count;
                    for part in room[..count].split_inclusive(|byte| *byte == b'\n') {
                        self.incoming.extend_from_slice(part);
                        if self.incoming.len() > self.longest {
                            return Err(Gone);
                        }
                        if part.ends_with(b"\n") {
                            lines.push(std::mem::take(&mut self.incoming));
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    break;
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::limits::HOOK_ANSWER_BYTES;

    fn pair() -> (Lines, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Lines::new(ours, HOOK_ANSWER_BYTES), theirs)
    }

    #[test]
    fn lines_come_in_pieces_and_one_without_an_end_is_the_end() {
        let (mut lines, mut theirs) = pair();
        theirs.write_all(b"one\ntw").unwrap();
        assert_eq!(lines.receive().ok().unwrap(), [b"one\n".to_vec()]);
        theirs.write_all(b"o\n\n").unwrap();
        assert_eq!(lines.receive().ok().unwrap(), [b"two\n".to_vec(), b"\n".to_vec()]);
        theirs.write_all(&vec![b'x'; HOOK_ANSWER_BYTES + 1]).unwrap();
        assert!(lines.receive().is_err());
    }

    #[test]
    fn what_nobody_reads_waits_within_bounds_and_goes_out_later() {
        let (mut lines, mut theirs) = pair();
        let line = json!({ "names": "x".repeat(1_000) });
        let mut count = 0;
        while lines.push(&line) {
            count += 1;
        }
        assert!(lines.waiting() <= HOOK_OUTGOING_BYTES && count > 1_000);
        theirs.set_nonblocking(true).unwrap();
        let (mut read, mut room) = (0, vec![0; 64 << 10]);
        while lines.waiting() > 0 {
            assert!(lines.send().is_ok());
            while let Ok(taken) = theirs.read(&mut room) {
                read += taken;
            }
        }
        assert_eq!(read, count * (line.to_string().len() + 1));
        drop(theirs);
        assert!(lines.push(&line) && lines.send().is_err());
    }
}
