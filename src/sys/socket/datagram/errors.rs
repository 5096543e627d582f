//! Errors that the network has sent back for datagrams of a socket: its error queue (ip(7), `IP_RECVERR`).

use std::os::fd::OwnedFd;

use super::super::SocketError;
use super::super::control::{ControlBuffer, QueuedError, RawAddress};
use super::message::receive_message;
use super::{DatagramSocket, ErrorReport};

/// Bytes of a refused datagram's payload that are kept for the report: as many as an ICMPv6 error may quote.
const REPORT_PAYLOAD_BYTES: usize = 1_232;
/// Reports that are kept while looking for another; more are forgotten, as the kernel's own queue would.
const STASHED_REPORTS: usize = 16;

impl DatagramSocket {
    /// The MTU that a datagram refused by this host ran into. It stands in the error queue; reports of the
    /// network in front of it are kept for [`Self::take_report`].
    pub(super) fn refused_mtu(&mut self) -> u32 {
        for _ in 0..STASHED_REPORTS {
            match self.read_error_queue() {
                Some(ErrorReport { error: SocketError::MessageTooLong { mtu }, notice: None, .. }) => {
                    return mtu;
                }
                Some(ErrorReport { notice: None, .. }) => {}
                Some(report) => {
                    if self.stash.len() < STASHED_REPORTS {
                        self.stash.push_back(report);
                    }
                }
                None => break,
            }
        }
        0
    }

    /// The next error that the network has sent back. Errors of this host are left out: the send that met
    /// them has told already.
    pub fn take_report(&mut self) -> Option<ErrorReport> {
        if let Some(report) = self.stash.pop_front() {
            return Some(report);
        }
        loop {
            let report = self.read_error_queue()?;
            if report.notice.is_some() {
                return Some(report);
            }
        }
    }

    fn read_error_queue(&self) -> Option<ErrorReport> {
        let mut address = RawAddress::new();
        let mut payload = [0u8; REPORT_PAYLOAD_BYTES];
        let (queued, len) = read_error_queue(&self.fd, &mut address, &mut payload)?;
        Some(ErrorReport {
            error: queued.error,
            notice: queued.notice,
            destination: address.read(),
            local: queued.local,
            payload: payload[..len].to_vec(),
        })
    }
}

/// The next of the errors that wait on a socket, and how many bytes of what it is about stand in `payload`.
pub(in crate::sys::socket) fn read_error_queue(
    fd: &OwnedFd,
    address: &mut RawAddress,
    payload: &mut [u8],
) -> Option<(QueuedError, usize)> {
    let mut control = ControlBuffer::new();
    loop {
        let (len, _) =
            receive_message(fd, [payload, &mut []], address, &mut control, libc::MSG_ERRQUEUE).ok()?;
        if let Some(queued) = QueuedError::read(control.messages()) {
            return Some((queued, len));
        }
    }
}
