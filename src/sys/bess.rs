//! The guest's end of a link without a TAP: a `SOCK_SEQPACKET` socket, one Ethernet frame a packet.
//!
//! User Mode Linux speaks this with its `vec` devices (`transport=bess`): we listen at a path, it connects, and from
//! then on each packet, either way, is one bare frame: no virtio-net header, so no offloads. As with the original
//! there is one client: the listener is closed, and its path removed, once that is here. When it goes, the
//! link is gone, for nobody else can come.
//!
//! A guest that reads too slowly has its frames wait in the socket, and in us for a short while
//! ([`BessSocket::write`]); then they are dropped, as by a full queue. References: unix(7), the kernel's
//! `Documentation/virt/uml/user_mode_linux_howto_v2.rst`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv, send,
    setsockopt, socket, sockopt,
};

/// How long a frame waits for a guest that has been reading until now. One that does not read at all is waited
/// for once, not for each frame.
const WAIT_MILLIS: u16 = 5;
/// Room for frames that the guest has yet to read: as much as the kernel allows an ordinary user.
const QUEUE_BYTES: usize = 1 << 22;

/// Why there is no socket to connect to.
#[derive(Debug, thiserror::Error)]
pub enum BessError {
    /// The path is taken by something that is no socket.
    #[error("{} exists and is no socket; choose another path", path.display())]
    Occupied {
        /// The path asked for.
        path: PathBuf,
    },
    /// Another step failed.
    #[error("cannot {doing} at {}: {source}", path.display())]
    Step {
        /// What was being done.
        doing: &'static str,
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A socket that waits for its one client. Its path goes with it.
#[derive(Debug)]
pub struct BessListener {
    fd: OwnedFd,
    path: PathBuf,
}

impl BessListener {
    /// Listens at `path`. A socket that lies there already is replaced, as a former run may have left it.
    pub fn bind(path: &Path) -> Result<BessListener, BessError> {
        let failed = |doing: &'static str| {
            let path = path.to_path_buf();
            move |errno: Errno| BessError::Step { doing, path, source: errno.into() }
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                let removed = fs::remove_file(path);
                removed.map_err(|source| BessError::Step {
                    doing: "replace the socket",
                    path: path.to_path_buf(),
                    source,
                })?;
            }
            Ok(_) => return Err(BessError::Occupied { path: path.to_path_buf() }),
            // What else is wrong, binding tells.
            Err(_) => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd =
            socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed("make a socket"))?;
        let address = UnixAddr::new(path).map_err(failed("make a socket"))?;
        bind(fd.as_raw_fd(), &address).map_err(failed("make a socket"))?;
        let listener = BessListener { fd, path: path.to_path_buf() };
        let backlog = Backlog::new(1).map_err(failed("listen"))?;
        listen(&listener.fd, backlog).map_err(failed("listen"))?;
        Ok(listener)
    }

    /// The client, if it has come; to be asked when the descriptor is readable. The path is removed then, and nobody
    /// else can come.
    pub fn accept(&self) -> io::Result<Option<BessSocket>> {
        loop {
            match accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
                Ok(number) => {
                    let socket = BessSocket::new(owned(number));
                    self.remove_path();
                    return Ok(Some(socket));
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Somebody else may have replaced the path since: then it is theirs. Removed twice it is not there.
    fn remove_path(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for BessListener {
    fn drop(&mut self) {
        self.remove_path();
    }
}

/// Readable when the client has come.
impl AsFd for BessListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn owned(number: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// The connection to the guest, non-blocking.
#[derive(Debug)]
pub struct BessSocket {
    fd: OwnedFd,
    /// The guest did not take a frame within its time; until it takes one again, none waits.
    is_stalled: bool,
}

impl BessSocket {
    fn new(fd: OwnedFd) -> BessSocket {
        // The kernel gives what it allows; less is a shorter queue and nothing worse.
        let _ = setsockopt(&fd, sockopt::SndBuf, &QUEUE_BYTES);
        BessSocket { fd, is_stalled: false }
    }

    /// Takes over a connected `SOCK_SEQPACKET` socket, and makes it non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<BessSocket> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let status = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))?;
        Ok(BessSocket::new(fd))
    }

    /// Reads one frame; zero when the guest is gone, `WouldBlock` when there is none. A frame longer than
    /// `buffer` is cut.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty())?)
    }

    /// Writes one frame, whole or not at all, after a short wait for room. `WouldBlock` when there was none,
    /// `BrokenPipe` or `ConnectionReset` when the guest is gone.
    pub fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        let first = send(self.fd.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
        let result = match first {
            Err(Errno::EAGAIN) if !self.is_stalled => {
                let mut waited = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                // A signal cuts the wait short, which costs at most this frame.
                let _ = poll(&mut waited, PollTimeout::from(WAIT_MILLIS));
                send(self.fd.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL)
            }
            other => other,
        };
        self.is_stalled = result == Err(Errno::EAGAIN);
        Ok(result?)
    }
}

impl AsFd for BessSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::descriptor::pair;

    fn connect(path: &Path) -> Result<OwnedFd, Errno> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(fd)
    }

    #[test]
    fn one_client_comes_and_the_door_is_closed_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bess.sock");
        let listener = BessListener::bind(&path).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let client = connect(&path).unwrap();
        let mut guest = listener.accept().unwrap().unwrap();
        assert!(!path.exists());
        assert_eq!(connect(&path).unwrap_err(), Errno::ENOENT);
        drop(listener);
        send(client.as_raw_fd(), b"to us", MsgFlags::empty()).unwrap();
        send(client.as_raw_fd(), b"again", MsgFlags::empty()).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(guest.read(&mut buffer).unwrap(), 5);
        assert_eq!(guest.read(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"again");
        assert_eq!(guest.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(guest.write(b"to the guest").unwrap(), 12);
        assert_eq!(recv(client.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(12));
        drop(client);
        assert_eq!(guest.read(&mut buffer).unwrap(), 0);
        assert_eq!(guest.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn socket_of_a_former_run_is_replaced_and_anything_else_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bess.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = BessListener::bind(&path).unwrap();
        connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(BessListener::bind(&path), Err(BessError::Occupied { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn path_that_cannot_be_is_told() {
        let missing = BessListener::bind(Path::new("/nonexistent/bess.sock")).unwrap_err().to_string();
        assert!(
            missing.starts_with("cannot make a socket at /nonexistent/bess.sock: No such file"),
            "{missing}"
        );
        let long = "/tmp/".to_string() + &"x".repeat(200);
        assert!(matches!(BessListener::bind(Path::new(&long)), Err(BessError::Step { .. })));
    }

    #[test]
    fn guest_that_does_not_read_costs_frames_and_one_wait() {
        let (ours, guests) = pair().unwrap();
        let mut link = BessSocket::from_fd(ours).unwrap();
        let frame = [0; 1514];
        let mut taken = 0_u32;
        while link.write(&frame).is_ok() {
            taken += 1;
            assert!(taken < 1_000_000, "the queue has no end");
        }
        assert!(link.is_stalled);
        // Room again: the next frame is taken, and frames may wait again.
        let mut buffer = [0; 2048];
        while recv(guests.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        link.write(&frame).unwrap();
        assert!(!link.is_stalled);
    }
}
