//! A TAP that does not keep its network namespace alive.
//!
//! The descriptor of a TAP holds the namespace that `/dev/net/tun` was opened in, for as long as it is open,
//! whatever becomes of the device. Opened in the container's namespace it would keep that alive after the last
//! of its processes, and we would serve nobody for ever. So the device is made in a namespace that is thrown
//! away, and moved from there: when the container's namespace ends the device ends with it, and its
//! descriptor tells (`EBADFD`).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::{Netlink, NetlinkError};
use super::tap::{Tap, TapError, TapFeatures};

const OWN_NETWORK: &str = "/proc/thread-self/ns/net";

/// Why there is no TAP, or not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum LooseTapError {
    /// It could not be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// It could not be moved.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no way back into the namespace that it is for.
    #[error("cannot return to the container's network namespace: {0}")]
    Return(nix::Error),
}

/// Makes the device `name` for the current network namespace, as [`Tap::open_queues`] does, but without holding the
/// namespace. A name that exists here already (a persistent TAP, or somebody else's interface) is opened in
/// place, and so is everything where no further namespace may be made: that holds it. Only in a
/// single-threaded process, whose namespace it changes for a moment.
pub fn open(name: &str, wanted: TapFeatures, queues: usize) -> Result<Vec<Tap>, LooseTapError> {
    let in_place = || Ok(Tap::open_queues(name, wanted, queues)?);
    if Netlink::open()?.link_exists(name)? {
        return in_place();
    }
    let Ok(home) = File::open(OWN_NETWORK).map(OwnedFd::from) else {
        return in_place();
    };
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        return in_place();
    }
    let made = make_for(&home, name, wanted, queues);
    setns(&home, CloneFlags::CLONE_NEWNET).map_err(LooseTapError::Return)?;
    made
}

fn make_for(
    home: &OwnedFd,
    name: &str,
    wanted: TapFeatures,
    queues: usize,
) -> Result<Vec<Tap>, LooseTapError> {
    let taps = Tap::open_queues(name, wanted, queues)?;
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(name)?;
    netlink.move_link(index, home.as_fd())?;
    Ok(taps)
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::sys::socket::tests::in_private_network;

    #[test]
    fn device_is_here_and_ends_with_the_namespace() {
        in_private_network("sys::loose_tap::tests::device_is_here_and_ends_with_the_namespace", || {
            // Of this thread alone, so that leaving it is its end.
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let tap = open("tap0", TapFeatures::ALL, 2).unwrap().pop().unwrap();
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link_index("tap0").unwrap();
            netlink.set_up(index).unwrap();
            drop(netlink);
            let mut buffer = [0; 2048];
            while tap.read(&mut buffer).is_ok() {}
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let end = loop {
                let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, PollTimeout::from(5_000u16)), Ok(1), "the namespace lives on");
                match tap.read(&mut buffer) {
                    // A frame that was taken back on the way down leaves an event without anything to read.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => break error,
                    Ok(_) => {}
                }
            };
            assert_eq!(end.raw_os_error(), Some(libc::EBADFD));
        });
    }

    #[test]
    fn name_that_exists_is_told_as_by_an_ordinary_opening() {
        in_private_network(
            "sys::loose_tap::tests::name_that_exists_is_told_as_by_an_ordinary_opening",
            || {
                let _first = open("tap0", TapFeatures::ALL, 1).unwrap();
                let second = open("tap0", TapFeatures::ALL, 1);
                assert!(matches!(second, Err(LooseTapError::Tap(TapError::NameTaken { .. }))), "{second:?}");
            },
        );
    }
}
