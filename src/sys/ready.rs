//! Descriptors that whoever started us has passed on; above all the one by which he wants to be told that the
//! network is up.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// What is written when the network is up.
const READY: &[u8] = b"1";

/// Takes over descriptor `number`, which must have been open since before the process started, for a use of its
/// own; to be called before the process opens any. Programs started later do not inherit it.
pub fn take_inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes a number and a flag; a number that is no open descriptor is refused.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(result)?;
    // SAFETY: it is open, as the call before has shown, and of those who share this process nobody has
    // opened it: by the caller's word it was inherited for this use.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// An inherited descriptor, told once and closed.
#[derive(Debug)]
pub struct ReadyDescriptor(OwnedFd);

impl ReadyDescriptor {
    /// Takes it over, under the conditions of [`take_inherited`].
    pub fn take(number: i32) -> io::Result<ReadyDescriptor> {
        take_inherited(number).map(ReadyDescriptor)
    }

    /// Tells, and closes.
    pub fn tell(self) -> io::Result<()> {
        File::from(self.0).write_all(READY)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn one_byte_and_the_end_are_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = OwnedFd::from(writer).into_raw_fd();
        ReadyDescriptor::take(number).unwrap().tell().unwrap();
        let mut told = Vec::new();
        reader.read_to_end(&mut told).unwrap();
        assert_eq!(told, READY);
    }

    #[test]
    fn number_that_is_not_open_is_refused() {
        assert_eq!(ReadyDescriptor::take(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
