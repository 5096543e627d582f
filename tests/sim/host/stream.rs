//! One stream of the host: the kernel's two bounded buffers, and the program of the peer behind them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use netferry::stack::boundary::{CloseKind, FlowId, HostError, StreamRead, StreamWrite};

use super::Target;
use crate::app::{App, Wish, front};
use crate::clock::Instant;

/// Readiness that came about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edges {
    pub readable: bool,
    pub writable: bool,
}

impl Edges {
    pub fn any(self) -> bool {
        self.readable || self.writable
    }
}

/// A connection between the core's socket and a peer.
#[derive(Debug)]
pub struct Connection {
    pub flow: FlowId,
    /// The peer; for a published port, the client.
    pub target: SocketAddr,
    /// The peer's program.
    pub app: App,
    /// Bytes the core has read and written.
    pub read_by_core: u64,
    pub written_by_core: u64,
    /// How the core closed it.
    pub closed: Option<CloseKind>,
    /// The core sent FIN.
    pub shut: bool,
    /// The core has been told the peer's FIN.
    pub end_told: bool,
    /// From the peer to the core.
    receive: VecDeque<u8>,
    receive_limit: usize,
    /// From the core to the peer.
    send: VecDeque<u8>,
    send_limit: usize,
    peer_finished: bool,
    /// A RST of the peer; told once by the kernel.
    reset: Option<HostError>,
    gone: bool,
    read_blocked: bool,
    write_blocked: bool,
    /// The peer's machine is gone: it takes nothing, sends nothing, answers nothing.
    pub vanished: bool,
}

impl Connection {
    pub(super) fn new(flow: FlowId, target: SocketAddr, script: &Target) -> Connection {
        Connection {
            flow,
            target,
            app: App::new(script.script),
            read_by_core: 0,
            written_by_core: 0,
            closed: None,
            shut: false,
            end_told: false,
            receive: VecDeque::new(),
            receive_limit: script.receive_limit,
            send: VecDeque::new(),
            send_limit: script.send_limit,
            peer_finished: false,
            reset: None,
            gone: false,
            // The core tries to read at once, and a fresh socket is writable.
            read_blocked: false,
            write_blocked: false,
            vanished: false,
        }
    }

    /// The kernel has asked often enough.
    pub(super) fn give_up(&mut self) {
        self.reset = Some(HostError::TimedOut);
        self.gone = true;
        self.send.clear();
        self.read_blocked = true;
    }

    /// Bytes that wait for the core.
    pub fn unread(&self) -> usize {
        self.receive.len()
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Sends FIN; false when it was sent before.
    pub(super) fn shutdown_write(&mut self) -> bool {
        !std::mem::replace(&mut self.shut, true)
    }

    pub(super) fn close(&mut self, how: CloseKind) {
        // Closing with bytes unread is a RST, as on Linux.
        self.closed = Some(if self.receive.is_empty() { how } else { CloseKind::Reset });
        self.receive.clear();
        if self.closed == Some(CloseKind::Reset) {
            self.send.clear();
        }
    }

    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> StreamRead {
        let count = buffer.len().min(self.receive.len());
        if count > 0 {
            buffer[..count].copy_from_slice(&front(&self.receive, count));
            self.receive.drain(..count);
            self.read_by_core += count as u64;
            return StreamRead::Bytes(count);
        }
        if let Some(error) = self.reset.take() {
            return StreamRead::Failed(error);
        }
        if self.peer_finished || self.gone {
            self.end_told = true;
            return StreamRead::End;
        }
        self.read_blocked = true;
        StreamRead::Blocked
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> StreamWrite {
        if let Some(error) = self.reset.take() {
            return StreamWrite::Failed(error);
        }
        if self.gone || self.shut {
            return StreamWrite::Failed(HostError::Reset);
        }
        let count = bytes.len().min(self.send_limit - self.send.len());
        if count == 0 {
            self.write_blocked = true;
            return StreamWrite::Blocked;
        }
        self.send.extend(&bytes[..count]);
        self.written_by_core += count as u64;
        StreamWrite::Bytes(count)
    }

    /// Lets the peer read, write and end; tells the edges the core waits for.
    pub(super) fn step(&mut self, now: Instant) -> Edges {
        if self.vanished && !self.gone {
            return Edges::default();
        }
        if self.vanished && self.closed.is_none() {
            let edges = Edges { readable: self.read_blocked, writable: self.read_blocked };
            self.read_blocked = false;
            return edges;
        }
        if self.gone || self.app.peer_reset {
            return Edges::default();
        }
        if self.closed == Some(CloseKind::Reset) {
            self.app.peer_reset = true;
            return Edges::default();
        }
        loop {
            let read = self.app.to_read(now).min(self.send.len());
            let bytes = front(&self.send, read);
            self.send.drain(..read);
            self.app.read(&bytes, now);
            if self.send.is_empty() && (self.shut || self.closed.is_some()) {
                self.app.peer_ends();
            }
            let sent = self.step_sending();
            if self.gone || (read == 0 && sent == 0) {
                break;
            }
        }
        let is_open = self.closed.is_none();
        let readable = !self.receive.is_empty() || self.peer_finished || self.gone;
        let writable = self.send_limit - self.send.len() >= self.send_limit.div_ceil(3) || self.gone;
        let edges = Edges {
            readable: is_open && readable && (self.read_blocked || self.gone),
            writable: is_open && writable && (self.write_blocked || self.gone),
        };
        self.read_blocked &= !edges.readable;
        self.write_blocked &= !edges.writable;
        edges
    }

    fn step_sending(&mut self) -> usize {
        let bytes = self.app.to_send(self.receive_limit - self.receive.len());
        if self.closed.is_some() {
            // Bytes for a closed socket are answered by RST.
            self.app.peer_reset |= !bytes.is_empty();
            self.gone |= self.app.peer_reset;
        } else {
            self.receive.extend(&bytes);
            self.app.took(bytes.len());
        }
        match self.app.wish() {
            Wish::Nothing => {}
            Wish::Finish => {
                self.app.ended = Some(Wish::Finish);
                self.peer_finished = true;
            }
            Wish::Reset => {
                self.app.ended = Some(Wish::Reset);
                self.reset = Some(HostError::Reset);
                self.gone = true;
                self.send.clear();
            }
        }
        bytes.len()
    }
}
