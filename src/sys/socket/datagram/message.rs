//! One message in, one message out: recvmsg(2) and sendmsg(2).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::super::control::{ControlBuffer, RawAddress};

fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

/// Receives one message: its length and flags; `address` and `control` are filled in.
pub(super) fn receive_message(
    fd: &OwnedFd,
    buffers: [&mut [u8]; 2],
    address: &mut RawAddress,
    control: &mut ControlBuffer,
    flags: i32,
) -> io::Result<(usize, i32)> {
    let mut parts =
        buffers.map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
    let mut message = empty_message();
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = RawAddress::CAPACITY as libc::socklen_t;
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = ControlBuffer::CAPACITY as _;
    // SAFETY: every pointer in `message` and in `parts` is to a live, exclusively borrowed buffer of the length beside it,
    // and the kernel writes no further.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    address.set_len(message.msg_namelen as usize);
    control.set_len(message.msg_controllen as _);
    Ok((len, message.msg_flags))
}

/// Sends one message to `address`, or to the connected peer.
pub(super) fn send_message(
    fd: &OwnedFd,
    bytes: &[u8],
    address: Option<&mut RawAddress>,
    control: &mut ControlBuffer,
) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = empty_message();
    if let Some(address) = address {
        message.msg_name = address.as_mut_ptr().cast();
        message.msg_namelen = address.len() as libc::socklen_t;
    }
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if control.len() > 0 {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
    }
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it; the kernel only reads them.
    let len = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}
