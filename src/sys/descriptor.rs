//! Handing an open descriptor, with a short message, from one process to another.
//!
//! How the child inside the container's namespace gives its TAP device to the process outside. The two ends
//! come from [`pair`]; each message is one packet, so that it arrives whole or not at all. Reference: unix(7).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use socket2::SockRef;

/// Descriptors that are kept of those that come on a stream.
const MOST_DESCRIPTORS: usize = 4;

/// Two connected ends, closed on exec. An end reads as empty once the other is closed.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends `message`, which must not be empty, and a duplicate of `descriptor` if there is one.
pub fn send_descriptor(
    socket: impl AsFd,
    descriptor: Option<BorrowedFd<'_>>,
    message: &[u8],
) -> io::Result<()> {
    if message.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty message reads as the end"));
    }
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(message)];
    let sent =
        retry(|| sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None))?;
    if sent < message.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Waits for a message: how many bytes of `buffer` it filled, and the descriptor that came with it (closed on
/// exec). Zero bytes when the other end is closed. A message longer than `buffer` is an error.
pub fn receive_descriptor(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(received) => break received,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows of them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is longer than its buffer"));
    }
    let bytes = received.bytes;
    // Only one is ever sent; more than that are closed here.
    Ok((bytes, descriptors.into_iter().next()))
}

/// Takes what has arrived on a stream, without waiting, and the descriptors that came with it (closed on exec), of which
/// four are kept. Zero bytes when the other end is closed.
pub fn receive_some(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    // Room for all that the kernel lets through at once (SCM_MAX_FD), or those beyond would stay with us unseen.
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows of them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    // More than were asked for do not stay.
    descriptors.truncate(MOST_DESCRIPTORS);
    Ok(received.bytes)
}

/// Sends all of `message`, which must not be empty, on a stream, with duplicates of `descriptors` at its beginning.
pub fn send_all(
    socket: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
    mut message: &[u8],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let mut control = if raw.is_empty() { &[][..] } else { &rights[..] };
    while !message.is_empty() {
        let parts = [IoSlice::new(message)];
        let sent =
            retry(|| sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None))?;
        control = &[];
        message = &message[sent..];
    }
    Ok(())
}

/// A stream that somebody has handed over: a Unix socket, and no file that could keep its writer waiting.
pub fn stream_socket(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let socket = SockRef::from(&descriptor);
    if (socket.domain()?, socket.r#type()?) != (socket2::Domain::UNIX, socket2::Type::STREAM) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no stream socket"));
    }
    Ok(UnixStream::from(descriptor))
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_message_and_is_the_same_file() {
        let (near, far) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"contents").unwrap();
        send_descriptor(&near, Some(file.as_fd()), b"tap0").unwrap();
        let mut buffer = [0; 64];
        let (len, received) = receive_descriptor(&far, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"tap0");
        let mut received = std::fs::File::from(received.unwrap());
        let flags = fcntl(&received, FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "contents");
    }

    #[test]
    fn a_message_may_come_alone_and_messages_stay_apart() {
        let (near, far) = pair().unwrap();
        send_descriptor(&near, None, b"one").unwrap();
        send_descriptor(&near, None, b"two").unwrap();
        let mut buffer = [0; 64];
        assert!(matches!(receive_descriptor(&far, &mut buffer), Ok((3, None))));
        assert_eq!(&buffer[..3], b"one");
        assert!(matches!(receive_descriptor(&far, &mut buffer), Ok((3, None))));
        assert_eq!(&buffer[..3], b"two");
    }

    #[test]
    fn a_closed_end_reads_as_empty_and_cannot_be_written_to() {
        let (near, far) = pair().unwrap();
        drop(near);
        assert!(matches!(receive_descriptor(&far, &mut [0; 8]), Ok((0, None))));
        let error = send_descriptor(&far, None, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (near, far) = pair().unwrap();
        send_descriptor(&near, None, b"123456789").unwrap();
        let error = receive_descriptor(&far, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_empty_message_is_refused() {
        let (near, _far) = pair().unwrap();
        assert_eq!(send_descriptor(&near, None, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
