//! Going to the background, but not before there is something to be had there.
//!
//! [`fork`] comes first of all. Whoever started us waits for the process it started, which waits in turn for
//! [`Announcer::ready`], or for the end of the child that did not come to that: then its status is the child's,
//! which has said why. Until then the child ends with its parent. References: daemon(7), prctl(2).

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use super::process::{self, Child};

/// Which of the two processes we are.
#[derive(Debug)]
pub enum Fork {
    /// The one that was started; it has nothing left to do but to end with this status.
    Parent(u8),
    /// The one that goes on.
    Child(Announcer),
}

/// What the child has to tell, once.
#[derive(Debug)]
pub struct Announcer {
    line: OwnedFd,
    /// Opened while there is a file system to open it from.
    null: OwnedFd,
}

/// Closes every descriptor but the standard three: none of them was meant for us, and somebody may wait for its end.
/// To be called before we open any ourselves.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: takes three numbers; nothing of this process owns a descriptor beyond the standard ones yet.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    Errno::result(result)?;
    Ok(())
}

/// The same, but for some; for a child that has its parent's.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for kept in kept.into_iter().chain([libc::c_uint::MAX]) {
        if first < kept {
            let last = if kept == libc::c_uint::MAX { kept } else { kept - 1 };
            // SAFETY: takes three numbers; the child ends without running the destructors of what is closed here.
            Errno::result(unsafe { libc::close_range(first, last, 0) })?;
        }
        first = kept.saturating_add(1);
    }
    Ok(())
}

/// Leaves the standard descriptors of whoever started us, who may wait for their end.
pub fn leave_standard_streams() -> io::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// Forks, while this process has a single thread. In the parent it returns only when the child is ready, or gone.
pub fn fork() -> io::Result<Fork> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let (hears, tells) = pipe2(OFlag::O_CLOEXEC)?;
    let parent = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    match process::fork_on()? {
        Some(child) => {
            drop(tells);
            Ok(Fork::Parent(wait(hears, &child)?))
        }
        None => {
            drop(hears);
            process::set_parent_death_signal(Signal::SIGKILL, parent)?;
            Ok(Fork::Child(Announcer { line: tells, null }))
        }
    }
}

/// The status to end with.
fn wait(hears: OwnedFd, child: &Child) -> io::Result<u8> {
    let mut word = [0];
    if std::fs::File::from(hears).read(&mut word)? == 1 {
        return Ok(0);
    }
    let status = child.wait()?.shell_status();
    // An end without a word is no success, whatever its status says.
    Ok(u8::try_from(status & 0xff).unwrap_or(u8::MAX).max(1))
}

impl Announcer {
    /// Leaves the session, the directory and the standard descriptors of whoever started us, and lets the process it
    /// started end. Nothing of theirs is kept: they may wait for the end of what they read.
    pub fn ready(self) -> io::Result<()> {
        setsid()?;
        chdir("/")?;
        dup2_stdin(&self.null)?;
        dup2_stdout(&self.null)?;
        dup2_stderr(&self.null)?;
        process::clear_parent_death_signal()?;
        debug_assert!(self.null.as_raw_fd() > 2);
        match std::fs::File::from(self.line).write_all(b"r") {
            // Whoever started us was killed just now.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}
