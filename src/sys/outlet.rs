//! Writing to what somebody else is to read, and may not: standard error, a log on a pipe.
//!
//! A pipe that nobody empties fills up, and an ordinary write waits for ever, and the container's network with it. The
//! stream cannot be made non-blocking either: that belongs to the open file, which the command of `run`, or
//! whoever started us, has as well. So each write by itself is asked not to wait: a pipe by `RWF_NOWAIT`
//! (pwritev2(2); pipes know it since Linux 6.5, before that poll(2) has to do), a socket by `MSG_DONTWAIT`, a
//! terminal by pieces for which there surely is room when poll(2) says that there is any. Files are written as ever: a disk does not
//! wait for a reader.
//!
//! Nothing here allocates or locks, so that a signal handler may use it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::fstat;
use nix::unistd::write;

/// A pipe that has any room has this much (pipe(7), `PIPE_BUF`).
const PIPE_PIECE: usize = 4_096;
/// So has a terminal: its buffers have 256 bytes at least, and a line's end takes one more there.
const TERMINAL_PIECE: usize = 128;

/// Writes as much of `bytes` as is taken at once; less than all where there is no more room now. An error is one that
/// came before anything was written.
pub fn write_now(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match write_piece(to, &bytes[written..]) {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(count) => written += count,
            Err(Errno::EINTR) => {}
            Err(_) if written > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(written)
}

/// The same, waiting for room no longer than `patience` each time there is none; for what is said before anybody is
/// served, or after.
pub fn write_within(to: BorrowedFd<'_>, bytes: &[u8], patience: Duration) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = write_now(to, rest)?;
        rest = &rest[count..];
        if count == 0 && !has_room(to, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}

fn write_piece(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match fstat(to)?.st_mode & libc::S_IFMT {
        libc::S_IFIFO => match write_without_waiting(to, bytes) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => write_where_there_is_room(to, bytes, PIPE_PIECE),
            outcome => outcome,
        },
        libc::S_IFSOCK => send(to.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
        libc::S_IFCHR => write_where_there_is_room(to, bytes, TERMINAL_PIECE),
        _ => write(to, bytes),
    }
}

fn write_without_waiting(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    /// At the file's own place, as write(2) does.
    const HERE: libc::off_t = -1;
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: takes a descriptor, one buffer that outlives the call and is only read, and numbers.
    let written = unsafe {
        libc::syscall(
            libc::SYS_pwritev2,
            to.as_raw_fd(),
            &raw const part,
            1 as libc::c_ulong,
            HERE,
            0 as libc::c_ulong,
            libc::RWF_NOWAIT,
        )
    };
    Errno::result(written).map(|count| usize::try_from(count).unwrap_or(0))
}

/// Another writer may take the room between the two calls, and this one waits then: there is no better way.
fn write_where_there_is_room(to: BorrowedFd<'_>, bytes: &[u8], piece: usize) -> Result<usize, Errno> {
    if !has_room(to, PollTimeout::ZERO) {
        return Err(Errno::EAGAIN);
    }
    write(to, &bytes[..bytes.len().min(piece)])
}

/// An error counts as room: the write tells of it.
fn has_room(to: BorrowedFd<'_>, patience: PollTimeout) -> bool {
    let mut watched = [PollFd::new(to, PollFlags::POLLOUT)];
    matches!(poll(&mut watched, patience), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pipe_takes_what_it_has_room_for_and_nobody_waits() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut taken = 0;
        loop {
            match write_now(writer.as_fd(), &[7; 1_000]).unwrap() {
                1_000 => taken += 1_000,
                rest => {
                    taken += rest;
                    break;
                }
            }
        }
        assert!(taken >= PIPE_PIECE, "{taken}");
        // What was begun may have room left in its page.
        while let 1.. = write_now(writer.as_fd(), b"x").unwrap() {
            taken += 1;
        }
        assert!(write_within(writer.as_fd(), b"more", Duration::from_millis(1)).is_err());
        let mut emptied = vec![0; taken];
        reader.read_exact(&mut emptied).unwrap();
        write_within(writer.as_fd(), b"more", Duration::from_millis(1)).unwrap();
        drop(writer);
        emptied.clear();
        reader.read_to_end(&mut emptied).unwrap();
        assert_eq!(emptied, b"more");
    }

    #[test]
    fn kernels_that_know_no_better_are_asked_for_room_first() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut taken = 0;
        while let Ok(count) = write_where_there_is_room(writer.as_fd(), &[7; 10_000], PIPE_PIECE) {
            taken += count;
        }
        assert!(taken >= PIPE_PIECE && taken.is_multiple_of(PIPE_PIECE), "{taken}");
    }

    #[test]
    fn a_socket_and_a_terminal_are_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        while write_now(ours.as_fd(), &[7; 4_096]).unwrap() > 0 {}
        let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let mut number: libc::c_int = 0;
        let unlock: libc::c_int = 0;
        // SAFETY: reads one int, and writes one.
        let results = unsafe {
            [
                libc::ioctl(terminal.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock),
                libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTN, &raw mut number),
            ]
        };
        assert_eq!(results, [0, 0]);
        let program = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(format!("/dev/pts/{number}"))
            .unwrap();
        for line in [&[b'x'; 100][..], b"a line\n"] {
            while write_now(program.as_fd(), line).unwrap() > 0 {}
        }
    }

    #[test]
    fn nobody_at_the_other_end_is_an_error_and_no_signal() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let broken = write_now(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(write_now(ours.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
