//! From a stream of pcapng to files: whoever reads a capture writes it down here.
//!
//! Files are a ring of a given number, each of them complete in itself: the front of the stream stands at the front of each. When
//! one is full the next is begun, over what it had. They are opened at the start, because whoever has given up the file system
//! cannot open one later; FILE is the first, FILE.1 the next, and the times in them tell which is the newest.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::{file, pcapng};

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write a capture to {}: {source}; name a file in a directory of yours", path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// Where a stream is written to.
#[derive(Debug)]
pub struct Files {
    ring: Vec<File>,
    current: usize,
    /// Bytes of each.
    most: u64,
    len: u64,
    front: Vec<u8>,
}

/// What the end of a stream tells, over both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Packets that were to be captured.
    pub packets: u64,
    /// Those of them that were lost, since nobody read them in time.
    pub lost: u64,
}

impl Totals {
    /// Bytes at the end of a stream that tell.
    pub const BYTES: usize = 2 * pcapng::STATISTICS_LEN;

    /// What the last bytes of a stream tell.
    #[must_use]
    pub fn at_the_end_of(bytes: &[u8]) -> Totals {
        let last = &bytes[bytes.len().saturating_sub(Self::BYTES)..];
        let told = last.chunks(Self::BYTES / 2).filter_map(pcapng::told);
        told.fold(Totals::default(), |sum, (_, packets, lost)| Totals {
            packets: sum.packets + packets,
            lost: sum.lost + lost,
        })
    }
}

impl Files {
    /// Makes `count` files, at least one, of `most` bytes each, or empties them.
    ///
    /// # Errors
    /// The first that cannot be made, or has no room on its disk; then none is left.
    pub fn create(path: &Path, count: usize, most: Option<u64>) -> Result<Files, FileError> {
        let path_of = |place: usize| match place {
            0 => path.to_owned(),
            place => PathBuf::from(format!("{}.{place}", path.display())),
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut ring = Vec::new();
        for place in 0..count.max(1) {
            let path = path_of(place);
            match file::create(&path, &options) {
                Ok(file) => ring.push(file),
                Err(source) => {
                    (0..place).for_each(|made| file::remove_if_empty(&path_of(made)));
                    return Err(FileError { path, source });
                }
            }
        }
        Ok(Files { ring, current: 0, most: most.unwrap_or(u64::MAX), len: 0, front: Vec::new() })
    }

    /// Writes a block, whole or, where the disk is full, not at all.
    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        if pcapng::is_preamble(block) {
            self.front.extend_from_slice(block);
        } else if self.len + block.len() as u64 > self.most && self.len > self.front.len() as u64 {
            self.current = (self.current + 1) % self.ring.len();
            let file = &mut self.ring[self.current];
            file.rewind()?;
            file.set_len(0)?;
            self.len = 0;
            file::write_whole(file, &mut self.len, &self.front)?;
        }
        file::write_whole(&mut self.ring[self.current], &mut self.len, block)
    }
}

/// Writes a stream to its end, and tells what that says.
///
/// # Errors
/// What a file or the stream refuses; a stream that is none of ours.
pub fn write_down(mut stream: impl Read, files: &mut Files) -> io::Result<Totals> {
    let (mut held, mut totals) = (Vec::new(), Totals::default());
    let mut room = vec![0; 256 << 10];
    loop {
        let len = match stream.read(&mut room) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if len == 0 {
            return Ok(totals);
        }
        held.extend_from_slice(&room[..len]);
        let mut at = 0;
        while let Some(whole) = next(&held[at..])? {
            let block = &held[at..at + whole];
            if let Some((_, packets, lost)) = pcapng::told(block) {
                totals.packets += packets;
                totals.lost += lost;
            }
            files.block(block)?;
            at += whole;
        }
        held.drain(..at);
    }
}

/// Bytes of the block at the front, if all of it is there.
fn next(held: &[u8]) -> io::Result<Option<usize>> {
    match pcapng::block_len(held) {
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no capture")),
        Some(Some(len)) if len <= held.len() => Ok(Some(len)),
        Some(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::pcapng::{CONTAINER, Direction, HOST, Packet};

    fn stream(packets: usize) -> Vec<u8> {
        let mut stream = pcapng::preamble(100);
        for number in 0..packets {
            let bytes = [number as u8; 100];
            let packet = Packet {
                interface: CONTAINER,
                micros: number as u64,
                direction: Direction::Inbound,
                bytes: &bytes,
                original_len: 100,
                comment: None,
            };
            pcapng::packet(&mut stream, &packet);
        }
        pcapng::statistics(&mut stream, CONTAINER, 9, packets as u64 + 3, 3);
        pcapng::statistics(&mut stream, HOST, 9, 10, 4);
        stream
    }

    /// The stream a few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(self.0.len()).min(7);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn without_a_size_a_file_is_the_stream() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.pcapng");
        let stream = stream(50);
        let totals = write_down(Slow(&stream), &mut Files::create(&path, 1, None).unwrap()).unwrap();
        assert_eq!(totals, Totals { packets: 63, lost: 7 });
        assert_eq!(Totals::at_the_end_of(&stream), totals);
        assert_eq!(Totals::at_the_end_of(&stream[..300]), Totals::default());
        assert_eq!(std::fs::read(path).unwrap(), stream);
    }

    #[test]
    fn files_go_round_and_each_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        let stream = stream(100);
        write_down(stream.as_slice(), &mut Files::create(&path, 3, Some(2_000)).unwrap()).unwrap();
        let front = pcapng::preamble(100);
        let mut newest = 0;
        for name in ["ring", "ring.1", "ring.2"] {
            let bytes = std::fs::read(directory.path().join(name)).unwrap();
            assert!(bytes.len() <= 2_000 && bytes.starts_with(&front), "{name}: {}", bytes.len());
            let mut at = front.len();
            while at < bytes.len() {
                let len = pcapng::block_len(&bytes[at..]).unwrap().unwrap();
                newest = newest.max(if len == 144 { bytes[at + 28] } else { 0 });
                at += len;
            }
            assert_eq!(at, bytes.len());
        }
        assert_eq!(newest, 99);
        assert!(!directory.path().join("ring.3").exists());
    }

    #[test]
    fn what_is_no_capture_is_refused_and_a_file_that_cannot_be_made_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::create(&directory.path().join("x"), 1, None).unwrap();
        assert!(write_down(&b"GET / HTTP/1.0\r\n\r\n"[..], &mut files).is_err());
        let error = Files::create(Path::new("/nowhere/x"), 1, None).unwrap_err().to_string();
        assert!(error.starts_with("cannot write a capture to /nowhere/x: "), "{error}");
    }
}
