//! The socket of an established connection, and what is known of it without asking the kernel.
//!
//! A short read or write means that the kernel has no more data or room (epoll(7), "Do I need to continuously read/write a
//! file descriptor until EAGAIN"), so the call that would say EAGAIN is spared. Whatever happens to the socket later makes an
//! event, and the event clears the mark. Two things could make a short read lie: a FIN or RST behind the data, and urgent
//! data, at which a read stops. Both show in the event that told of them; from then on every read asks the kernel.
//!
//! That the kernel has no memory for a call (`ENOBUFS`, `ENOMEM`) says nothing of the connection. No event follows it either:
//! whoever calls has to come again.

use mio::event::Event;

use crate::sys::socket::{SocketError, StreamSocket, Transfer};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: StreamSocket,
    /// The last read came back short: nothing to read until the next event.
    is_drained: bool,
    /// FIN, RST, an error or urgent data has been seen: a short read proves nothing any more.
    is_special: bool,
    /// The last write came back short: no room until the next event.
    is_full: bool,
}

impl Stream {
    pub(super) fn new(socket: StreamSocket) -> Stream {
        Stream { socket, is_drained: false, is_special: false, is_full: false }
    }

    /// Takes note of an event: whether there may be something to read, and whether there is room to write that the
    /// core waits for.
    pub(super) fn note(&mut self, event: &Event) -> (bool, bool) {
        self.is_special |=
            event.is_read_closed() || event.is_write_closed() || event.is_error() || event.is_priority();
        let readable = event.is_readable() || self.is_special;
        if readable {
            self.is_drained = false;
        }
        let has_room = event.is_writable() || self.is_special;
        (readable, has_room && std::mem::take(&mut self.is_full))
    }

    /// Forgets what is known: the kernel may have memory again.
    pub(super) fn try_again(&mut self) {
        (self.is_drained, self.is_full) = (false, false);
    }

    /// Reads what has arrived; zero bytes are the end.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Transfer {
        if self.is_drained || buffer.is_empty() {
            return Transfer::Blocked;
        }
        let outcome = self.socket.receive(buffer);
        match outcome {
            Transfer::Bytes(0) | Transfer::Failed(_) => {}
            Transfer::Bytes(len) => self.is_drained = len < buffer.len() && !self.is_special,
            Transfer::Blocked => self.is_drained = true,
        }
        self.is_drained |= outcome == Transfer::Failed(SocketError::Exhausted);
        outcome
    }

    /// Writes as much as there is room for.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Transfer {
        if self.is_full {
            return Transfer::Blocked;
        }
        let outcome = self.socket.send(bytes);
        match outcome {
            Transfer::Bytes(len) => self.is_full = len < bytes.len(),
            Transfer::Blocked | Transfer::Failed(SocketError::Exhausted) => self.is_full = true,
            Transfer::Failed(_) => {}
        }
        outcome
    }
}
