//! A log file that does not grow for ever: when it is full, the older half of its lines goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys::outlet;

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    len: u64,
    max_bytes: u64,
}

impl LogFile {
    /// Makes the file, or empties it. It is never larger than `max_bytes`, but for one line.
    pub fn create(path: &Path, max_bytes: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(LogFile { file, len: 0, max_bytes })
    }

    /// Writes a line, whole or, where the disk is full, not at all: the bytes taken. Of a pipe nobody's reading is waited for.
    pub fn append(&mut self, line: &[u8]) -> io::Result<usize> {
        let line_len = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.len.saturating_add(line_len) > self.max_bytes {
            self.halve()?;
        }
        let taken = outlet::write_now(self.file.as_fd(), line);
        if !matches!(taken, Ok(count) if count == line.len())
            && self.file.seek(SeekFrom::Start(self.len)).is_ok()
        {
            self.file.set_len(self.len)?;
            return Ok(0);
        }
        let taken = taken?;
        self.len += u64::try_from(taken).unwrap_or(u64::MAX);
        Ok(taken)
    }

    /// Keeps the newer half, from the beginning of a line on.
    fn halve(&mut self) -> io::Result<()> {
        let mut kept = Vec::new();
        self.file.seek(SeekFrom::Start(self.len.saturating_sub(self.max_bytes / 2)))?;
        (&mut self.file).take(self.max_bytes).read_to_end(&mut kept)?;
        let start = kept.iter().position(|byte| *byte == b'\n').map_or(kept.len(), |end| end + 1);
        self.file.rewind()?;
        self.file.write_all(&kept[start..])?;
        self.len = self.file.stream_position()?;
        self.file.set_len(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_first_and_the_size_is_kept() {
        let path = std::env::temp_dir().join(format!("netferry-log-{}", std::process::id()));
        let mut log = LogFile::create(&path, 4_096).unwrap();
        for number in 0..1_000 {
            log.append(format!("line {number} of many\n").as_bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 4_096);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"line 999 of many"));
        assert!(lines.len() > 50 && lines.iter().all(|line| line.starts_with("line ")), "{text}");
    }
}
