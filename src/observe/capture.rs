//! Every frame of a link, in the format that tcpdump and Wireshark read (draft-ietf-opsawg-pcap).
//!
//! A super-segment is one record, as the link carried it. Where the virtio-net header leaves a checksum to
//! whoever sends the frame on, the record has it completed, so that no reader takes it for wrong. A file that
//! cannot be written any more ends the capture, with one warning, and never the network.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::file;
use crate::wire::segmentation::complete_checksum;

/// Longer than any frame.
const SNAP_LEN: u32 = 262_144;

const LINKTYPE_ETHERNET: u32 = 1;

/// Records are handed to the kernel when there is as much as this, or the driver has nothing else to do.
const FLUSHED_BYTES: usize = 64 << 10;

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
#[error("cannot record frames in {}: {source}; name a file in a directory of yours", path.display())]
pub struct CaptureError {
    path: PathBuf,
    source: io::Error,
}

/// A file that frames are recorded in.
#[derive(Debug)]
pub struct Capture {
    file: Option<File>,
    /// Bytes of the file.
    len: u64,
    /// Whole records that are not in it yet.
    waiting: Vec<u8>,
    /// Time zero of the instants given, in microseconds since 1970.
    epoch_micros: u64,
    scratch: Vec<u8>,
}

impl Capture {
    /// Makes the file, or empties it. Where it cannot be begun for want of room there is none.
    pub fn create(path: &Path) -> Result<Capture, CaptureError> {
        let failed = |source| CaptureError { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = file::create(path, &options).map_err(failed)?;
        let mut header = Vec::with_capacity(24);
        header.extend(0xa1b2_c3d4_u32.to_le_bytes());
        header.extend(2_u16.to_le_bytes());
        header.extend(4_u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(SNAP_LEN.to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        let mut capture =
            Capture { file: Some(file), len: 0, waiting: header, epoch_micros: 0, scratch: Vec::new() };
        capture.write_down().map_err(failed)?;
        Ok(capture)
    }

    /// Tells it the time since 1970 at which the instants of [`Capture::record`] begin.
    pub fn begin(&mut self, epoch_micros: u64) {
        self.epoch_micros = epoch_micros;
    }

    /// Records a frame that passed `now_micros` after the beginning, with its virtio-net header.
    pub fn record(&mut self, now_micros: u64, header: &[u8], frame: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = self.epoch_micros.saturating_add(now_micros);
        // The format has 32 bits for seconds, unsigned: good until 2106.
        let seconds = u32::try_from(time / 1_000_000).unwrap_or(u32::MAX);
        let micros = u32::try_from(time % 1_000_000).unwrap_or(0);
        let len = u32::try_from(frame.len()).unwrap_or(SNAP_LEN).min(SNAP_LEN);
        let mut record = [0; 16];
        for (place, value) in [seconds, micros, len, len].into_iter().enumerate() {
            record[place * 4..place * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(&frame[..len as usize]);
        complete_checksum(header, &mut self.scratch);
        self.waiting.extend_from_slice(&record);
        self.waiting.extend_from_slice(&self.scratch);
        if self.waiting.len() >= FLUSHED_BYTES {
            self.flush();
        }
    }

    /// Hands what was recorded to the kernel.
    pub fn flush(&mut self) {
        if let Err(error) = self.write_down() {
            warn!("frames are recorded no longer: {error}");
            self.file = None;
        }
    }

    /// All that waits or, where the disk is full, none of it, so that the file ends with a whole record.
    fn write_down(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.waiting.is_empty()) else { return Ok(()) };
        let written = file::write_whole(file, &mut self.len, &self.waiting);
        self.waiting.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;

    fn recorded(frames: &[(u64, &[u8], &[u8])]) -> Vec<u8> {
        let name = format!("netferry-{}-{:?}.pcap", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        let mut capture = Capture::create(&path).unwrap();
        capture.begin(1_700_000_000_000_000);
        for (at, header, frame) in frames {
            capture.record(*at, header, frame);
        }
        capture.flush();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_recorded_with_its_time_and_length() {
        let bytes = recorded(&[(1_500_001, &[0; 10], &[7; 60])]);
        assert_eq!(&bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[20], 1);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([word(24), word(28), word(32), word(36)], [1_700_000_001, 500_001, 60, 60]);
        assert_eq!(&bytes[40..], [7; 60]);
    }

    #[test]
    fn a_checksum_left_to_the_sender_is_completed_and_no_other() {
        let mut frame = [0; 8];
        frame[2..8].copy_from_slice(&[0x12, 0x34, 0x00, 0x01, 0xab, 0xcd]);
        let header = [1, 0, 0, 0, 0, 0, 2, 0, 2, 0];
        let bytes = recorded(&[(0, &header, &frame), (0, &[0; 10], &frame)]);
        let expected = !checksum::sum(&frame[2..]);
        assert_eq!(bytes[40 + 4..40 + 6], expected.to_be_bytes());
        assert_eq!(bytes[64..72], frame);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told() {
        let error = Capture::create(Path::new("/nowhere/frames.pcap")).unwrap_err().to_string();
        assert!(error.starts_with("cannot record frames in /nowhere/frames.pcap: "), "{error}");
    }
}
