//! Pipes as carriers of bytes between two sockets: splice(2) moves references to pages, never the bytes.
//!
//! A pipe's size counts against a quota of its user (`fs.pipe-user-pages-soft`), and a process without
//! privilege may not go beyond `fs.pipe-max-size`; so [`Pipe::resize`] says what it got. A pipe is full when its
//! slots are, one for each piece of a page: many small segments fill it with few bytes.
//!
//! Splicing into a socket whose peer is gone raises `SIGPIPE`, for which there is no flag; Rust's start-up
//! code ignores that signal. References: pipe(7), splice(2), F_SETPIPE_SZ(2const).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::socket::Transfer;

/// Why there is no pipe, or none of the size asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// `EMFILE`, `ENFILE`.
    #[error("out of descriptors for a pipe; raise the limit (`ulimit -n`)")]
    Descriptors,
    /// `EPERM`: the user's quota is spent, or the size is beyond what users may have.
    #[error(
        "the user's pipes may not grow to {wanted_bytes} bytes; see the sysctls fs.pipe-user-pages-soft and fs.pipe-max-size"
    )]
    Quota {
        /// Asked for.
        wanted_bytes: usize,
    },
    /// Anything else, by its errno.
    #[error("cannot make a pipe: {}", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

/// A pipe with both its ends, non-blocking and closed on exec.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity_bytes: usize,
}

impl Pipe {
    /// A new one, of the size the kernel gives it: 64 KiB, or a page or two for a user beyond his quota.
    pub fn open() -> Result<Pipe, PipeError> {
        let (read, write) =
            pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| pipe_error(errno, 0))?;
        let capacity = fcntl(&write, FcntlArg::F_GETPIPE_SZ).map_err(|errno| pipe_error(errno, 0))?;
        Ok(Pipe { read, write, capacity_bytes: usize::try_from(capacity).unwrap_or(0) })
    }

    /// Bytes it holds when they come in whole pages.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Makes it hold `wanted_bytes` or a little more; what it holds now. It keeps its size on failure.
    pub fn resize(&mut self, wanted_bytes: usize) -> Result<usize, PipeError> {
        let wanted = i32::try_from(wanted_bytes).map_err(|_| PipeError::Quota { wanted_bytes })?;
        let got = fcntl(&self.write, FcntlArg::F_SETPIPE_SZ(wanted))
            .map_err(|errno| pipe_error(errno, wanted_bytes))?;
        self.capacity_bytes = usize::try_from(got).unwrap_or(self.capacity_bytes);
        Ok(self.capacity_bytes)
    }

    /// Moves up to `most` bytes of what has arrived at a non-blocking `socket` into the pipe. Zero bytes are the stream's end.
    /// `Blocked` when nothing has arrived *or* the pipe is full: only for an empty pipe is it known which.
    pub fn fill_from(&self, socket: impl AsFd, most: usize) -> Transfer {
        splice(socket.as_fd(), self.write.as_fd(), self.capacity_bytes.min(most))
    }

    /// Takes bytes out of the pipe, into memory; how many.
    pub fn read(&self, buffer: &mut [u8]) -> Transfer {
        loop {
            match nix::unistd::read(&self.read, buffer) {
                Ok(len) => return Transfer::Bytes(len),
                Err(Errno::EAGAIN) => return Transfer::Blocked,
                Err(Errno::EINTR) => {}
                Err(errno) => return Transfer::Failed(errno.into()),
            }
        }
    }

    /// Moves up to `len` bytes of what the pipe holds into a non-blocking `socket`.
    pub fn drain_into(&self, socket: impl AsFd, len: usize) -> Transfer {
        splice(self.read.as_fd(), socket.as_fd(), len)
    }
}

fn pipe_error(errno: Errno, wanted_bytes: usize) -> PipeError {
    match errno {
        Errno::EMFILE | Errno::ENFILE => PipeError::Descriptors,
        Errno::EPERM => PipeError::Quota { wanted_bytes },
        other => PipeError::Other(other as i32),
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Transfer {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    loop {
        // SAFETY: both descriptors are borrowed for the call; null offsets are allowed and the rule for pipes and sockets.
        let moved = unsafe {
            libc::splice(
                from.as_raw_fd(),
                std::ptr::null_mut(),
                to.as_raw_fd(),
                std::ptr::null_mut(),
                len,
                flags,
            )
        };
        match Errno::result(moved) {
            Ok(moved) => return Transfer::Bytes(usize::try_from(moved).unwrap_or(0)),
            Err(Errno::EAGAIN) => return Transfer::Blocked,
            Err(Errno::EINTR) => {}
            Err(errno) => return Transfer::Failed(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn non_blocking_pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn resizing_says_what_was_got() {
        let mut pipe = Pipe::open().unwrap();
        assert!(pipe.capacity_bytes() >= 4_096);
        let got = pipe.resize(100_000).unwrap();
        assert!(got >= 100_000 && got == pipe.capacity_bytes(), "{got}");
        let wanted_bytes = usize::MAX;
        assert_eq!(pipe.resize(wanted_bytes), Err(PipeError::Quota { wanted_bytes }));
        assert_eq!(pipe.capacity_bytes(), got);
    }

    #[test]
    fn bytes_pass_from_socket_to_socket_and_the_end_reads_as_nothing() {
        let (mut near, source) = non_blocking_pair();
        let (mut far, target) = non_blocking_pair();
        let pipe = Pipe::open().unwrap();
        assert_eq!(pipe.fill_from(&source, usize::MAX), Transfer::Blocked);
        near.write_all(b"across").unwrap();
        assert_eq!(pipe.fill_from(&source, usize::MAX), Transfer::Bytes(6));
        assert_eq!(pipe.drain_into(&target, 6), Transfer::Bytes(6));
        let mut buffer = [0; 6];
        far.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"across");
        drop(near);
        assert_eq!(pipe.fill_from(&source, usize::MAX), Transfer::Bytes(0));
    }

    #[test]
    fn refusals_of_the_kernel_are_told_apart() {
        assert_eq!(pipe_error(Errno::EMFILE, 0), PipeError::Descriptors);
        let quota = pipe_error(Errno::EPERM, 524_288);
        assert!(quota.to_string().contains("524288 bytes; see the sysctls fs.pipe-user-pages-soft"));
        assert_eq!(pipe_error(Errno::EBUSY, 0), PipeError::Other(libc::EBUSY));
    }
}
