//! Removing a file at the end of a process that will not be able to, whatever its end is like.
//!
//! A relay that is confined sees no files, and one that is killed removes none. So a small process stays behind in the
//! host's file system ([`start`]): it gives up what it has of the program, waits for the end of a line, whose other end the relay
//! holds and nobody else, then removes the file, if it still is the same, and ends. It may call nothing else. Where both are killed
//! the file stays, for whoever looks next.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::{FileStat, fstatat};
use nix::unistd::{UnlinkatFlags, chdir, unlinkat};

use super::confined::{Confined, Sandboxed, Waiver};
use super::daemon::{close_all_but, leave_standard_streams};
use super::descriptor::pair;
use super::process::{self, block_signals};
use super::seccomp::{self, Calls};
use super::text;

/// What ends a whole group of processes, at a terminal or by a service manager: it outlives the relay by a moment.
const OUTLIVED: [Signal; 4] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM];

/// The line to it: with its last copy the file goes.
#[derive(Debug)]
pub struct Janitor {
    _line: OwnedFd,
}

/// Forks it off for the file at `path` (absolute), while this process has a single thread. `filtered` tells whether its system calls
/// are filtered.
pub fn start(path: &Path, filtered: bool) -> io::Result<Janitor> {
    let found = find(path)?;
    let (line, far) = pair()?;
    // It ends with the line, and nobody waits for it.
    let _child = process::fork_child(|| {
        let served = close_all_but(&[far.as_fd()])
            .and_then(|()| leave_standard_streams())
            .and_then(|()| block_signals(&OUTLIVED))
            // No directory is kept busy.
            .and_then(|_| Ok(chdir("/")?))
            .and_then(|()| Ok(prctl::set_no_new_privs()?))
            .and_then(|()| confine(filtered))
            .and_then(|confined| serve(&far, path, &found, confined));
        i32::from(served.is_err())
    })?;
    Ok(Janitor { _line: line })
}

fn confine(filtered: bool) -> io::Result<Confined> {
    // Its way to the file is what it is for.
    let sandboxed = Sandboxed::waived(Waiver::OfTask);
    if !filtered {
        return Ok(Confined::waived(sandboxed, Waiver::OfUser));
    }
    seccomp::install(Calls::Janitor, sandboxed).map_err(io::Error::other)
}

fn serve(line: &OwnedFd, path: &Path, found: &FileStat, _: Confined) -> io::Result<()> {
    // It needs next to nothing of the program.
    text::forget_start();
    let mut nothing = [0; 1];
    // Nothing is ever sent: the line ends, or breaks.
    while recv(line.as_raw_fd(), &mut nothing, MsgFlags::empty()) == Err(Errno::EINTR) {}
    // A container that is started again may have its next relay's file there by now.
    let still = find(path)?;
    if (still.st_dev, still.st_ino) == (found.st_dev, found.st_ino) {
        unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir)?;
    }
    Ok(())
}

fn find(path: &Path) -> io::Result<FileStat> {
    Ok(fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}
