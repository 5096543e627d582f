//! How a network is to be: as fast as that, as bad as that, and captured.

use std::path::PathBuf;

use clap::Args;

use crate::cli::values::ValueError;
use crate::cli::{Conditions, Recording};
use crate::config::{Impairments, RateLimits};

/// Most files that a capture is spread over.
const MOST_FILES: usize = 100;
/// Smallest size of one.
const LEAST_FILE_BYTES: u64 = 64 << 10;
/// As of the format.
const WHOLE_PACKETS: u32 = 262_144;

/// Options of `run` and `attach`.
#[derive(Debug, Args)]
pub struct ConditionOptions {
    /// Limit what the container carries, as in up=10mbit,down=50mbit; a rate alone is for both.
    ///
    /// Payload is what counts. TCP is paced and loses nothing; flows share evenly. `netferry shape` changes it later.
    #[arg(long, value_name = "RATES", help_heading = "Conditions")]
    limit: Option<String>,

    /// Make the link a bad one, as in delay=50ms,jitter=5ms,loss=1%,rate=10mbit.
    ///
    /// Each direction on its own; up. or down. in front of a name is for one. Also duplicate=1%, reorder=1%, and
    /// queue=200ms: how long a packet may wait for the rate. `netferry impair` changes it later.
    #[arg(long, value_name = "LIST", help_heading = "Conditions")]
    impair: Option<String>,

    /// Capture everything, both sides of the translation, in this file (pcapng).
    #[arg(long, value_name = "FILE", help_heading = "Conditions")]
    pcap: Option<PathBuf>,

    #[command(flatten)]
    capture: CaptureOptions,
}

/// How a capture is written, wherever it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CaptureOptions {
    /// Bytes of a file of the capture, as in 10M; then the next is begun.
    #[arg(long, value_name = "SIZE", help_heading = "Capture")]
    pub capture_size: Option<String>,

    /// Files that a capture with a size goes round in: FILE, FILE.1 and so on [default: 2].
    #[arg(long, value_name = "N", requires = "capture_size", help_heading = "Capture")]
    pub capture_files: Option<usize>,

    /// Keep so many bytes of each packet.
    #[arg(short, long, value_name = "BYTES", help_heading = "Capture")]
    pub snaplen: Option<u32>,

    /// Cut super-segments into the packets that a wire would carry, with their checksums.
    #[arg(long, help_heading = "Capture")]
    pub segment: bool,
}

impl ConditionOptions {
    /// What they ask for.
    pub fn resolve(&self) -> Result<Conditions, ValueError> {
        let limits = self.limit.as_deref().map(limits).transpose()?.unwrap_or_default();
        let impairments = self.impair.as_deref().map(impairments).transpose()?.unwrap_or_default();
        let recording = self.pcap.as_ref().map(|path| self.capture.resolve(path.clone())).transpose()?;
        if recording.is_none() && self.capture != CaptureOptions::none() {
            return Err(ValueError::Malformed(
                "--capture-size, --capture-files, --snaplen and --segment are about --pcap; give that as well"
                    .to_owned(),
            ));
        }
        Ok(Conditions { limits, impairments, recording })
    }
}

fn limits(text: &str) -> Result<RateLimits, ValueError> {
    text.parse().map_err(|error| ValueError::Malformed(format!("--limit {text}: {error}")))
}

fn impairments(text: &str) -> Result<Impairments, ValueError> {
    text.parse().map_err(|error| ValueError::Malformed(format!("--impair {text}: {error}")))
}

impl CaptureOptions {
    fn none() -> CaptureOptions {
        CaptureOptions { capture_size: None, capture_files: None, snaplen: None, segment: false }
    }

    /// How a capture in this file is to be.
    pub fn resolve(&self, path: PathBuf) -> Result<Recording, ValueError> {
        let max_bytes = self.capture_size.as_deref().map(size).transpose()?;
        let files = match (self.capture_files, max_bytes) {
            (None, None) => 1,
            (None, Some(_)) => 2,
            (Some(files), _) if (1..=MOST_FILES).contains(&files) => files,
            (Some(files), _) => {
                let message = format!("--capture-files {files}: give 1 to {MOST_FILES}");
                return Err(ValueError::Unusable(message));
            }
        };
        Ok(Recording { path, max_bytes, files, snap_len: self.snap_len(), segments: self.segment })
    }

    /// Bytes of each packet.
    #[must_use]
    pub fn snap_len(&self) -> u32 {
        self.snaplen.filter(|len| *len > 0).unwrap_or(WHOLE_PACKETS).min(WHOLE_PACKETS)
    }
}

fn size(text: &str) -> Result<u64, ValueError> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1_u64 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        Some(_) | None => (text, 1),
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let bytes = number.and_then(|number| number.checked_mul(factor));
    match bytes {
        None => Err(ValueError::Malformed(format!(
            "--capture-size {text}: not a size; write it as in 10M, 500K or 1G"
        ))),
        Some(bytes) if bytes < LEAST_FILE_BYTES => Err(ValueError::Unusable(format!(
            "--capture-size {text}: too small for a capture; give 64K or more"
        ))),
        Some(bytes) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, bytes) in [("10M", 10 << 20), ("64k", 64 << 10), ("1G", 1 << 30), ("100000", 100_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1T", "-1M", "1.5M", "+5M", "63K", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ring_has_two_files_unless_it_is_said_how_many() {
        let options = |capture_size: Option<&str>, capture_files| CaptureOptions {
            capture_size: capture_size.map(str::to_owned),
            capture_files,
            ..CaptureOptions::none()
        };
        let files = |options: CaptureOptions| options.resolve("x".into()).map(|recording| recording.files);
        assert_eq!(files(options(None, None)), Ok(1));
        assert_eq!(files(options(Some("1M"), None)), Ok(2));
        assert_eq!(files(options(Some("1M"), Some(5))), Ok(5));
        assert!(files(options(Some("1M"), Some(0))).is_err());
        assert!(files(options(Some("1M"), Some(101))).is_err());
    }
}
