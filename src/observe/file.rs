//! Files that are written while the network is up: made where there is room, and never ending in half of something.
//!
//! A disk that is full when a file is made is told at once, and nothing is left. One that is full later
//! has taken the beginning of a record; that is taken back ([`take_back`]), so that whoever reads the file finds whole ones only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// A disk with less room than this is full: what the first records take.
const LEAST_ROOM_BYTES: usize = 4_096;

/// Opens `path` by `options`, which make the file or empty it. Where there is no room on its disk it is removed.
///
/// # Errors
/// There is no such place, or no room.
pub fn create(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let mut file = options.open(path)?;
    // Of pipes and devices nothing is known before they are written to.
    if file.metadata()?.is_file() {
        let tried = file.write_all(&[0; LEAST_ROOM_BYTES]);
        take_back(&mut file, 0)?;
        tried.inspect_err(|_| remove_if_empty(path))?;
    }
    Ok(file)
}

/// Cuts a file to its first `len` bytes, and goes on there. What cannot be cut (a pipe) is an error.
///
/// # Errors
/// The kernel's.
pub fn take_back(file: &mut File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    file.seek(SeekFrom::Start(len)).map(|_| ())
}

/// Adds `bytes` to a file of `len`, all of them or, where the disk is full, none; a pipe keeps what it has taken.
///
/// # Errors
/// The kernel's.
pub fn write_whole(file: &mut File, len: &mut u64, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = file.write_all(bytes) {
        let _ = take_back(file, *len);
        return Err(error);
    }
    *len += bytes.len() as u64;
    Ok(())
}

/// Takes a file away that was made, and then had no room for what was to be in it.
pub fn remove_if_empty(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
        // The error that is told is the first one.
        let _ = fs::remove_file(path);
    }
}
