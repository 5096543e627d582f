//! Signals for the command, from a relay that has no power over it any more.
//!
//! kill(2) asks for the user or for a capability in the target's user namespace. The relay that is confined lives in a
//! user namespace beside the command's and has no capability; the command may be another user by then (`su`,
//! a server that gives up root). So a small process stays behind as it was ([`start`]): it holds the pidfd of the
//! command and one end of a line, and may call nothing but to wait for a signal's number there and to send that signal
//! there. When the line ends, so do the command, if it has not, and the messenger: a death signal
//! (`PR_SET_PDEATHSIG`) counts as sent by the one that died, who must not send any (`sandbox`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{MsgFlags, recv, send};

use super::confined::{Confined, Sandboxed, Waiver};
use super::daemon::{close_all_but, leave_standard_streams};
use super::descriptor::pair;
use super::process::{self, Child, Signal};
use super::seccomp::{self, Calls};

/// Signals wait here no longer than it takes to pass them on.
const REQUEST_BYTES: usize = 4;

/// The line to it. With this the command ends.
#[derive(Debug)]
pub struct Messenger {
    line: OwnedFd,
}

/// Forks it off, while this process has a single thread and its powers. `filtered` tells whether its system calls are filtered.
pub fn start(command: &Child, filtered: bool) -> io::Result<Messenger> {
    let (line, far) = pair()?;
    // It ends with the line, and nobody waits for it.
    let _child = process::fork_child(|| {
        let served = close_all_but(&[far.as_fd(), command.as_fd()])
            .and_then(|()| leave_standard_streams())
            .and_then(|()| Ok(prctl::set_no_new_privs()?))
            .and_then(|()| confine(filtered))
            .and_then(|confined| serve(&far, command, confined));
        i32::from(served.is_err())
    })?;
    Ok(Messenger { line })
}

fn confine(filtered: bool) -> io::Result<Confined> {
    // Its powers over the command are what it is for.
    let sandboxed = Sandboxed::waived(Waiver::OfTask);
    if !filtered {
        return Ok(Confined::waived(sandboxed, Waiver::OfUser));
    }
    seccomp::install(Calls::Messenger, sandboxed).map_err(io::Error::other)
}

fn serve(line: &OwnedFd, command: &Child, _: Confined) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    loop {
        match recv(line.as_raw_fd(), &mut request, MsgFlags::empty()) {
            Ok(REQUEST_BYTES) => {
                if let Ok(signal) = Signal::try_from(i32::from_ne_bytes(request)) {
                    // It may have ended just now.
                    let _ = command.signal(signal);
                }
            }
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => {
                // ESRCH where it has ended, and was the reason.
                let _ = command.signal(Signal::SIGKILL);
                return Ok(());
            }
        }
    }
}

impl Messenger {
    /// Has the command sent a signal.
    pub fn pass_on(&self, signal: Signal) -> io::Result<()> {
        let request = (signal as i32).to_ne_bytes();
        loop {
            match send(self.line.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
