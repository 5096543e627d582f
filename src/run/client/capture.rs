//! `netferry capture`: what an instance sends of its packets, into a file or to standard output.
//!
//! A signal asks for the end: the instance is told by a half-closed stream, and sends what is left, with the number of
//! packets that were lost. The rest is copying.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::ClientError;
use super::words::split;
use crate::cli::native::capture::Capture;
use crate::observe::rotation::{Files, Totals, write_down};
use crate::sys::process::{self, Signal, Signals};

const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Carries it out.
pub fn run(capture: &Capture) -> Result<u8, ClientError> {
    let recording = capture.capture.resolve(capture.write.clone());
    let recording = recording.map_err(|error| ClientError::Usage(error.to_string()))?;
    let (target, filter) = split(&capture.words, capture.control.as_deref());
    let mut connection = super::reach(&target)?;
    let is_standard_output = capture.write == Path::new("-");
    let mut files = match is_standard_output {
        true => None,
        false => Some(
            Files::create(&recording.path, recording.files, recording.max_bytes)
                .map_err(|error| ClientError::Unusable(error.to_string()))?,
        ),
    };
    process::block_signals(&ENDING_SIGNALS).map_err(ClientError::Output)?;
    let signals = Signals::open(&ENDING_SIGNALS).map_err(ClientError::Output)?;
    let (ours, theirs) = UnixStream::pair().map_err(ClientError::Output)?;
    let arguments = json!({
        "filter": filter,
        "snap_length": recording.snap_len,
        "segment": recording.segments,
    });
    connection.ask_with("capture", arguments, &[theirs.as_fd()])?;
    drop(theirs);
    let reader = Ending { stream: ours, signals, is_asked: false };
    let totals = match &mut files {
        Some(files) => write_down(reader, files).map_err(ClientError::Output)?,
        None => copy(reader, io::stdout()).map_err(ClientError::Output)?,
    };
    let Totals { packets, lost } = totals;
    eprintln!("netferry: {} packets captured, {lost} lost", packets - lost.min(packets));
    Ok(0)
}

/// A stream whose end a signal asks for.
struct Ending {
    stream: UnixStream,
    signals: Signals,
    is_asked: bool,
}

impl Read for Ending {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_asked {
            let mut watched = [
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            if watched[1].any() == Some(true) {
                self.is_asked = true;
                self.stream.shutdown(Shutdown::Write)?;
            } else if watched[0].any() == Some(true) {
                break;
            }
        }
        self.stream.read(buffer)
    }
}

/// Copies a stream as it is, and reads along what its end tells.
fn copy(mut stream: impl Read, mut out: impl Write) -> io::Result<Totals> {
    let mut told = Vec::new();
    let mut room = vec![0; 256 << 10];
    loop {
        let len = match stream.read(&mut room) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if len == 0 {
            return Ok(Totals::at_the_end_of(&told));
        }
        out.write_all(&room[..len])?;
        out.flush()?;
        told.extend_from_slice(&room[..len]);
        told.drain(..told.len().saturating_sub(Totals::BYTES));
    }
}
