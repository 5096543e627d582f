//! The file that an audit is written to: lines, that never keep anybody waiting.
//!
//! The file is opened for writing without waiting, and what it does not take at once (a pipe whose reader is slow) waits
//! in a buffer of its own. A line that finds no room is lost and counted, as is one that the file refuses (a full disk); the user is told
//! of the first. Of a line that a full disk has begun to take nothing stays; a pipe keeps the beginning, and the next line begins anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::file;

/// Bytes that wait for the file.
const MAX_WAITING_BYTES: usize = 256 << 10;

/// Why nothing is written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit to {}: {source}; name a file in a directory of yours", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Where lines go.
pub trait Outlet: Write {
    /// Cuts off the last `count` bytes that were written; an error where that cannot be.
    fn take_back(&mut self, count: usize) -> io::Result<()>;
}

impl Outlet for File {
    fn take_back(&mut self, count: usize) -> io::Result<()> {
        let back = i64::try_from(count).map_err(io::Error::other)?;
        let kept = self.seek(SeekFrom::Current(-back))?;
        self.set_len(kept)
    }
}

/// An audit's file.
#[derive(Debug)]
pub struct AuditFile<W = File> {
    file: W,
    waiting: Vec<u8>,
    /// Of the first line that waits, this much is written.
    written: usize,
    /// What waits begins with the end of a line that was cut.
    begins_anew: bool,
    lost: u64,
    is_told: bool,
}

impl AuditFile {
    /// Makes the file, or empties it; there is none where there is no room for it.
    pub fn create(path: &Path) -> Result<AuditFile, AuditError> {
        AuditFile::open(path).map(AuditFile::new)
    }

    /// The same, to be written to elsewhere.
    pub fn open(path: &Path) -> Result<File, AuditError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NONBLOCK);
        let failed = |source| AuditError { path: path.to_owned(), source };
        file::create(path, &options).map_err(failed)
    }
}

impl<W: Outlet> AuditFile<W> {
    /// What [`AuditFile::open`] has opened.
    #[must_use]
    pub fn new(file: W) -> AuditFile<W> {
        AuditFile { file, waiting: Vec::new(), written: 0, begins_anew: false, lost: 0, is_told: false }
    }

    /// One more line, without its end.
    pub fn write(&mut self, line: &str) {
        if self.waiting.len() - self.written + line.len() >= MAX_WAITING_BYTES {
            self.lose(1, "it is written too slowly");
            return;
        }
        self.waiting.extend_from_slice(line.as_bytes());
        self.waiting.push(b'\n');
        self.flush();
    }

    /// Lines that are lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes what waits, as far as the file takes it.
    pub fn flush(&mut self) {
        while self.written < self.waiting.len() {
            match self.file.write(&self.waiting[self.written..]) {
                Ok(count @ 1..) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) => return self.give_up("it takes nothing"),
                Err(error) => return self.give_up(&error.to_string()),
            }
        }
        self.waiting.clear();
        (self.written, self.begins_anew) = (0, false);
    }

    /// What waits is lost. A line that was cut in the middle is taken back; where it cannot be, the next begins anew.
    fn give_up(&mut self, why: &str) {
        let rest = &self.waiting[self.written..];
        let is_separator_left = self.begins_anew && self.written == 0;
        let lines = rest.iter().filter(|byte| **byte == b'\n').count() - usize::from(is_separator_left);
        let taken = &self.waiting[..self.written];
        let whole = taken.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let begun = taken.len() - whole;
        let is_cut = begun > 0 && self.file.take_back(begun).is_err();
        self.begins_anew = is_separator_left || is_cut;
        self.waiting.clear();
        self.written = 0;
        if self.begins_anew {
            self.waiting.push(b'\n');
        }
        self.lose(lines as u64, why);
    }

    fn lose(&mut self, lines: u64, why: &str) {
        self.lost += lines;
        if !self.is_told {
            self.is_told = true;
            warn!("lines of the audit are lost: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then says this.
    struct Disk {
        taken: Vec<u8>,
        room: usize,
        then: io::ErrorKind,
        gives_back: bool,
    }

    impl Disk {
        fn with_room(room: usize, then: io::ErrorKind) -> Disk {
            Disk { taken: Vec::new(), room, then, gives_back: true }
        }
    }

    impl Outlet for Disk {
        fn take_back(&mut self, count: usize) -> io::Result<()> {
            if !self.gives_back {
                return Err(io::ErrorKind::NotSeekable.into());
            }
            self.taken.truncate(self.taken.len() - count);
            Ok(())
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.taken.len());
            if count == 0 {
                return Err(self.then.into());
            }
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_tells_their_number() {
        let cases =
            [(true, &b"first\n"[..], &b"first\nfourth\n"[..]), (false, b"first\nse", b"first\nse\nfourth\n")];
        for (gives_back, full, again) in cases {
            let mut file =
                AuditFile::new(Disk { gives_back, ..Disk::with_room(8, io::ErrorKind::StorageFull) });
            for line in ["first", "second", "third"] {
                file.write(line);
            }
            assert_eq!((&file.file.taken[..], file.lost()), (full, 2));
            file.file.room = 100;
            file.write("fourth");
            assert_eq!(&file.file.taken[..], again, "it begins on a line of its own");
        }
    }

    #[test]
    fn a_file_keeps_whole_lines_and_what_it_had_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        std::fs::write(&path, "before\n").unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"whole\nha").unwrap();
        file.take_back(2).unwrap();
        file.write_all(b"last\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nwhole\nlast\n");
    }

    #[test]
    fn a_slow_reader_gets_what_fits_and_the_rest_is_counted() {
        let mut file = AuditFile::new(Disk::with_room(10, io::ErrorKind::WouldBlock));
        let line = "x".repeat(999);
        (0..1_000).for_each(|_| file.write(&line));
        assert!(file.waiting.len() <= MAX_WAITING_BYTES);
        assert_eq!(file.lost(), 1_000 - (MAX_WAITING_BYTES as u64) / 1_000);
        file.file.room = usize::MAX / 2;
        file.flush();
        assert_eq!(file.file.taken.len() as u64, 1_000 * (1_000 - file.lost()));
    }
}
