//! The capture that is asked for at the start (`--pcap` of `run` and `attach`).
//!
//! Its files are opened while there is a file system. They are written by a thread of its own, which is made after
//! confinement and confined like the loop: a slow disk slows the capture, which then loses packets, and never traffic. A file
//! that cannot be written any more ends the capture, with one warning.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use tracing::warn;

use super::{Doing, RunError};
use crate::cli::{Plan, Recording};
use crate::observe::rotation::{Files, write_down};
use crate::sys::confined::Confined;
use crate::worker::Worker;
use crate::worker::recorder::Wish;

/// Files that are open.
pub struct Opened {
    files: Files,
    wish: Wish,
}

/// Opens what is asked for, while there is a file system.
pub fn open(plan: &Plan) -> Result<Option<Opened>, RunError> {
    let Some(Recording { path, max_bytes, files, snap_len, segments }) = &plan.conditions.recording else {
        return Ok(None);
    };
    let files = Files::create(path, *files, *max_bytes)?;
    Ok(Some(Opened { files, wish: Wish { choice: None, snap_len: *snap_len, segments: *segments } }))
}

/// Lets the worker send what it captures, if it is to.
pub fn begin(opened: Option<Opened>, worker: Worker) -> Result<(Worker, Option<Recorded>), RunError> {
    let Some(Opened { files, wish }) = opened else { return Ok((worker, None)) };
    let (ours, theirs) = UnixStream::pair().doing("make a way for the capture")?;
    let worker = worker.with_capture_to(ours, wish).doing("watch the capture")?;
    Ok((worker, Some(Recorded { files, stream: theirs })))
}

/// Files that are open, and what comes for them.
pub struct Recorded {
    files: Files,
    stream: UnixStream,
}

/// The thread that writes, waited for at the end.
#[derive(Default)]
pub struct Writing(Option<JoinHandle<()>>);

impl Recorded {
    /// Writes from now on.
    pub fn write(self, confined: Confined) -> io::Result<Writing> {
        let Recorded { mut files, stream } = self;
        let thread = confined.spawn(move |_| {
            // The stream is closed with this: what comes after an error is lost to nobody.
            match write_down(stream, &mut files) {
                Ok(totals) if totals.lost > 0 => {
                    warn!(
                        "the capture lacks {} of {} packets: its disk was too slow",
                        totals.lost, totals.packets
                    );
                }
                Ok(_) => {}
                Err(error) => warn!("packets are captured no longer: {error}"),
            }
        })?;
        Ok(Writing(Some(thread)))
    }
}

impl Writing {
    /// Waits until all is written, which the end of the worker is the end of.
    pub fn finish(self) {
        if let Some(thread) = self.0
            && thread.join().is_err()
        {
            warn!("the capture ended by a fault of netferry's own");
        }
    }
}
