//! What a capture is told of the host's sockets.
//!
//! Every place that reads, writes, opens or closes a socket asks whether somebody watches, and if so puts down what happened. The
//! addresses of a socket are asked for once, when it is met.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{FlowSocket, Listener, Sockets};
use crate::stack::boundary::{
    ArrivedDatagrams, DatagramPort, DatagramSend, FlowId, HostError, ListenerId, StreamRead, StreamWrite,
};
use crate::worker::recorder::host_side::{End, Happening};
use crate::worker::recorder::stage::{Sight, Stage, Whose};

/// Where it is put down, and the sockets that are known there.
#[derive(Debug)]
pub struct Watch {
    /// What was seen in this turn.
    pub stage: Stage,
    /// Their own address and their peer's.
    met: HashMap<FlowId, (SocketAddr, SocketAddr)>,
}

impl Watch {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(stage: Stage) -> Watch {
        Watch { stage, met: HashMap::new() }
    }
}

impl Sockets {
    /// From now on what happens is put down, or no longer.
    pub fn watch(&mut self, watch: Option<Box<Watch>>) {
        self.watch = watch;
    }

    /// What was put down.
    pub fn watch_mut(&mut self) -> Option<&mut Watch> {
        self.watch.as_deref_mut()
    }

    fn put(&mut self, whose: Whose, happening: Happening, bytes: &[u8]) {
        let Some(watch) = &mut self.watch else { return };
        match happening {
            Happening::Sent(end) => {
                watch.stage.put_stream(|| Sight::Socket(whose, Happening::Sent(end)), bytes);
            }
            other => watch.stage.put_whole(Sight::Socket(whose, other), bytes),
        }
    }

    /// The addresses of a flow's socket.
    fn addresses(&mut self, flow: FlowId) -> Option<(SocketAddr, SocketAddr)> {
        let unspecified = |local: SocketAddr| SocketAddr::new(super::unspecified_like(local.ip()), 0);
        match self.socket(flow)? {
            FlowSocket::Connecting { socket, .. } => {
                Some((socket.local_address().ok()?, socket.peer_address().ok()?))
            }
            FlowSocket::Stream(stream) => {
                Some((stream.socket.local_address().ok()?, stream.socket.peer_address().ok()?))
            }
            FlowSocket::Datagram(socket) => {
                let local = socket.local_address().ok()?;
                Some((local, socket.peer_address().unwrap_or_else(|_| unspecified(local))))
            }
        }
    }

    fn is_met(&self, flow: FlowId) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.met.contains_key(&flow))
    }

    /// A connection begins: ours to `peer`, or one that was accepted.
    pub(super) fn see_beginning(&mut self, flow: FlowId, peer: Option<SocketAddr>, by: End) {
        let found = match (self.addresses(flow), peer, self.socket(flow)) {
            (Some(both), _, _) => Some(both),
            // A connection under way has no peer that could be asked for.
            (None, Some(peer), Some(FlowSocket::Connecting { socket, .. })) => {
                socket.local_address().ok().map(|local| (local, peer))
            }
            (None, _, _) => None,
        };
        if let (Some(watch), Some((local, peer))) = (&mut self.watch, found) {
            watch.met.insert(flow, (local, peer));
            self.put(Whose::Flow(flow), Happening::Began { local, peer, by }, &[]);
        }
    }

    /// A ping socket was opened: of its peer, which has no port, the kernel tells nothing.
    pub(super) fn meet_echo(&mut self, flow: FlowId, target: IpAddr) {
        if let (Some((local, _)), Some(watch)) = (self.addresses(flow), &mut self.watch) {
            watch.met.insert(flow, (local, SocketAddr::new(target, 0)));
        }
    }

    /// Something happened to a stream.
    pub(super) fn see(&mut self, flow: FlowId, happening: Happening, bytes: &[u8]) {
        if !self.is_met(flow)
            && let Some((local, peer)) = self.addresses(flow)
        {
            if let Some(watch) = &mut self.watch {
                watch.met.insert(flow, (local, peer));
            }
            self.put(Whose::Flow(flow), Happening::Met { local, peer }, &[]);
        }
        self.put(Whose::Flow(flow), happening, bytes);
    }

    /// A socket is closed.
    pub(super) fn see_end(&mut self, flow: FlowId, happening: Happening) {
        if let Some(watch) = &mut self.watch
            && watch.met.remove(&flow).is_some()
        {
            self.put(Whose::Flow(flow), happening, &[]);
        }
    }

    /// A stream was read.
    pub(super) fn see_read(&mut self, flow: FlowId, outcome: StreamRead, buffer: &[u8]) {
        match outcome {
            StreamRead::Bytes(len) => self.see(flow, Happening::Sent(End::Peer), &buffer[..len]),
            StreamRead::End => self.see(flow, Happening::Finished(End::Peer), &[]),
            StreamRead::Failed(HostError::Reset | HostError::Refused) => {
                self.see(flow, Happening::Reset(End::Peer), &[]);
            }
            StreamRead::Blocked | StreamRead::Failed(_) => {}
        }
    }

    /// A stream was written.
    pub(super) fn see_written(&mut self, flow: FlowId, outcome: StreamWrite, bytes: &[u8]) {
        match outcome {
            StreamWrite::Bytes(len) => self.see(flow, Happening::Sent(End::Ours), &bytes[..len]),
            StreamWrite::Failed(HostError::Reset | HostError::Refused) => {
                self.see(flow, Happening::Reset(End::Peer), &[]);
            }
            StreamWrite::Blocked | StreamWrite::Failed(_) => {}
        }
    }

    /// Datagrams arrived.
    pub(super) fn see_arrived(&mut self, port: DatagramPort, arrived: &ArrivedDatagrams, bytes: &[u8]) {
        let way = (arrived.source, arrived.local);
        let size = arrived.segment_bytes;
        self.see_datagrams(port, End::Peer, way, size, arrived.hop_limit, bytes);
    }

    /// Datagrams left.
    pub(super) fn see_departed(&mut self, port: DatagramPort, how: &DatagramSend, bytes: &[u8]) {
        let peer = match (how.to, port) {
            (Some(peer), _) => peer,
            (None, DatagramPort::Flow(flow)) => match self.met(flow) {
                Some((_, peer)) => peer,
                None => return,
            },
            (None, DatagramPort::Listener(_)) => return,
        };
        let way = (peer, how.from);
        self.see_datagrams(port, End::Ours, way, how.segment_bytes, how.hop_limit, bytes);
    }

    fn met(&mut self, flow: FlowId) -> Option<(SocketAddr, SocketAddr)> {
        if let Some(both) = self.watch.as_ref()?.met.get(&flow) {
            return Some(*both);
        }
        let both = self.addresses(flow)?;
        self.watch.as_mut()?.met.insert(flow, both);
        Some(both)
    }

    fn see_datagrams(
        &mut self,
        port: DatagramPort,
        from: End,
        (peer, local): (SocketAddr, Option<IpAddr>),
        segment_bytes: Option<std::num::NonZeroU16>,
        hop_limit: u8,
        bytes: &[u8],
    ) {
        let (whose, bound) = match port {
            DatagramPort::Flow(flow) => {
                let Some((local, _)) = self.met(flow) else { return };
                (Whose::Flow(flow), local)
            }
            DatagramPort::Listener(listener) => {
                let Some(bound) = self.listener_address(listener) else { return };
                (Whose::Client(listener, peer, local), bound)
            }
        };
        let own = match local {
            Some(address) => SocketAddr::new(address, bound.port()),
            None => bound,
        };
        let is_echo = matches!(port, DatagramPort::Flow(flow)
            if matches!(self.socket(flow), Some(FlowSocket::Datagram(socket)) if !socket.is_udp()));
        let happening = if is_echo {
            Happening::Echo { local: own, peer, from, hop_limit }
        } else {
            Happening::Datagrams { local: own, peer, from, segment_bytes, hop_limit }
        };
        self.put(whose, happening, bytes);
    }

    fn listener_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        match self.listeners.get(&listener.0)? {
            Listener::Datagram(socket) => socket.local_address().ok(),
            Listener::Stream(_) => None,
        }
    }
}
