//! Captures: who watches, and what each of them gets.
//!
//! While somebody does, link and sockets put down what they see in stages ([`stage`]); at the end of a
//! turn [`Recorder::drain`] gives it, in its order, a name each ([`names`]), puts packets of the host's side together
//! ([`host_side`]) and hands them to the observers. An observer is a descriptor with a bounded
//! buffer in front ([`CAPTURE_BUFFER_BYTES`]): what it is too slow for is lost to it, counted, and told in the
//! statistics at the end of its stream. Traffic waits for none of them.
//!
//! While nobody watches there is no stage, and each place asks one question.

pub mod host_side;
pub mod names;
pub mod stage;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use self::host_side::HostSide;
use self::names::Names;
use self::stage::{Order, Seen, Sight, Stage, Whose};
use super::token::Subject;
use crate::config::limits::{CAPTURE_BUFFER_BYTES, CAPTURE_OBSERVERS};
use crate::observe::pcapng::{self, CONTAINER, Direction, HOST, Packet};
use crate::stack::Stack;
use crate::stack::boundary::{FlowId, StackEvent};
use crate::stack::flow::FlowKey;
use crate::wire::segmentation;

/// Longer than any frame.
pub const WHOLE_PACKETS: u32 = 262_144;

/// Chooses flows by what they are.
pub type Choice = Box<dyn Fn(&FlowKey) -> bool + Send>;

/// What somebody wants to see.
pub struct Wish {
    /// Which flows; all that passes where there is none, what belongs to no flow included.
    pub choice: Option<Choice>,
    /// Bytes of each packet.
    pub snap_len: u32,
    /// Super-segments are to be cut.
    pub segments: bool,
}

/// One who watches.
struct Observer {
    id: u32,
    stream: UnixStream,
    wish: Wish,
    waiting: Vec<u8>,
    written: usize,
    /// By interface.
    received: [u64; 2],
    dropped: [u64; 2],
    /// Its end is told, and only has to leave.
    is_concluded: bool,
    is_gone: bool,
}

/// All who watch.
pub struct Recorder {
    registry: Registry,
    order: Order,
    epoch_micros: u64,
    host: HostSide,
    names: Names,
    observers: Vec<Observer>,
    next_id: u32,
    scratch: Vec<u8>,
    pieces: Vec<u8>,
}

impl Recorder {
    /// Nobody watches yet. `epoch_micros` is the time since 1970 at which instants begin.
    #[must_use]
    pub fn new(registry: Registry, epoch_micros: u64, stack: &Stack) -> Recorder {
        let mut names = Names::default();
        stack.flow_keys().for_each(|(flow, key)| names.open(flow, key));
        Recorder {
            registry,
            order: Order::default(),
            epoch_micros,
            host: HostSide::default(),
            names,
            observers: Vec::new(),
            next_id: 0,
            scratch: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// The order of what is seen.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order.clone()
    }

    /// Lets somebody watch, who reads pcapng at the other end of `stream`.
    ///
    /// # Errors
    /// Too many watch already, or the stream cannot be watched.
    pub fn add(&mut self, stream: UnixStream, wish: Wish) -> io::Result<u32> {
        if self.observers.len() >= CAPTURE_OBSERVERS {
            let why = format!("{CAPTURE_OBSERVERS} captures are under way already; end one of them");
            return Err(io::Error::other(why));
        }
        stream.set_nonblocking(true)?;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let token = Subject::Observer(id).token();
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        self.registry.register(&mut SourceFd(&stream.as_raw_fd()), token, interest)?;
        let waiting = pcapng::preamble(wish.snap_len);
        let mut observer = Observer {
            id,
            stream,
            wish,
            waiting,
            written: 0,
            received: [0; 2],
            dropped: [0; 2],
            is_concluded: false,
            is_gone: false,
        };
        observer.flush();
        self.observers.push(observer);
        Ok(id)
    }

    /// Whether nobody watches any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.observers.is_empty()
    }

    /// Bytes of a frame that anybody wants.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        let wanted = |observer: &Observer| match observer.wish.segments {
            true => usize::MAX,
            false => observer.wish.snap_len as usize,
        };
        self.observers.iter().map(wanted).max().unwrap_or(0)
    }

    /// An observer has read something, or has enough.
    pub fn handle_event(&mut self, id: u32, event: &Event, now_micros: u64) {
        let epoch_micros = self.epoch_micros;
        let Some(observer) = self.observers.iter_mut().find(|observer| observer.id == id) else { return };
        if event.is_error() || event.is_write_closed() {
            observer.is_gone = true;
        } else if event.is_read_closed() {
            observer.conclude(epoch_micros + now_micros);
        }
        observer.flush();
        self.observers.retain(|observer| !observer.is_gone);
    }

    /// The core tells of a flow.
    pub fn note(&mut self, event: &StackEvent) {
        match event {
            StackEvent::FlowOpened { flow, protocol, container, remote, .. } => {
                if let Some(protocol) = names::protocol_of(*protocol) {
                    self.names.open(*flow, FlowKey { protocol, container: *container, remote: *remote });
                }
            }
            StackEvent::FlowClosed { flow } => self.names.close(*flow),
            StackEvent::EchoForbidden | StackEvent::NoResolver | StackEvent::Faulted { .. } => {}
        }
    }

    /// Hands over what both have seen in a turn.
    pub fn drain(&mut self, link: &mut Stage, sockets: &mut Stage, stack: &Stack) {
        let (mut frames, mut happenings) = (link.seen().iter().peekable(), sockets.seen().iter().peekable());
        loop {
            let is_frame = match (frames.peek(), happenings.peek()) {
                (Some(frame), Some(happening)) => frame.order < happening.order,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            if is_frame {
                let Some(seen) = frames.next() else { break };
                self.show_frame(seen, link.bytes_of(seen), stack);
            } else {
                let Some(seen) = happenings.next() else { break };
                self.show_happening(seen, sockets.bytes_of(seen), stack);
            }
        }
        let lost = [link.clear(), sockets.clear()];
        for observer in &mut self.observers {
            for (interface, lost) in lost.into_iter().enumerate() {
                observer.received[interface] += lost;
                observer.dropped[interface] += lost;
            }
            observer.flush();
        }
        self.observers.retain(|observer| !observer.is_gone);
    }

    fn show_frame(&mut self, seen: &Seen, bytes: &[u8], stack: &Stack) {
        let Sight::Frame(direction, header) = &seen.sight else { return };
        let key = names::key_of_frame(bytes, *direction == Direction::Outbound);
        let flow = key.and_then(|key| self.names.find(&key).or_else(|| stack.flow_between(&key)));
        let key = flow.and_then(|flow| self.names.key(flow)).or(key);
        let comment = flow.map(|flow| format!("flow {flow}"));
        let micros = self.epoch_micros + seen.micros;
        let is_whole = bytes.len() == seen.original_len;
        self.scratch.clear();
        self.scratch.extend_from_slice(bytes);
        if is_whole {
            segmentation::complete_checksum(header, &mut self.scratch);
        }
        let is_super = segmentation::is_super_segment(header);
        for observer in self.observers.iter_mut().filter(|observer| observer.wants(key.as_ref(), flow)) {
            let mut packet = Packet {
                interface: CONTAINER,
                micros,
                direction: *direction,
                bytes: &self.scratch,
                original_len: seen.original_len,
                comment: comment.as_deref(),
            };
            if is_super && is_whole && observer.wish.segments {
                segmentation::cut(header, bytes, &mut self.pieces, |piece| {
                    observer.offer(&Packet { bytes: piece, original_len: piece.len(), ..packet });
                });
            } else {
                packet.bytes = &self.scratch;
                observer.offer(&packet);
            }
        }
    }

    fn show_happening(&mut self, seen: &Seen, bytes: &[u8], stack: &Stack) {
        let Sight::Socket(whose, happening) = &seen.sight else { return };
        let flow = match whose {
            Whose::Flow(flow) => Some(*flow),
            Whose::Client(listener, client, local) => stack.flow_of_client_at(*listener, *client, *local),
        };
        let key = flow.and_then(|flow| self.names.key(flow));
        let comment = flow.map(|flow| format!("flow {flow}"));
        let micros = self.epoch_micros + seen.micros;
        let as_on_wire = self.observers.iter().any(|observer| observer.wish.segments);
        // The streams are those of flows; datagrams of nobody's have no state.
        let stream = flow.unwrap_or(FlowId { slot: u32::MAX, generation: u32::MAX });
        let observers = &mut self.observers;
        self.host.handle(stream, happening, bytes, as_on_wire, |direction, packet| {
            for observer in observers.iter_mut().filter(|observer| observer.wants(key.as_ref(), flow)) {
                observer.offer(&Packet {
                    interface: HOST,
                    micros,
                    direction,
                    bytes: packet,
                    original_len: packet.len(),
                    comment: comment.as_deref(),
                });
            }
        });
    }

    /// The end of all of them: each is told what it has lost. One that does not read any more loses the rest.
    pub fn finish(&mut self, now_micros: u64) {
        let at = self.epoch_micros + now_micros;
        for observer in &mut self.observers {
            observer.conclude(at);
            observer.flush();
        }
        self.observers.clear();
    }

    /// The same for one, which is waited for, as it is of this process.
    pub fn finish_waiting(&mut self, id: u32, now_micros: u64) {
        let at = self.epoch_micros + now_micros;
        if let Some(observer) = self.observers.iter_mut().find(|observer| observer.id == id)
            && !observer.is_gone
            && observer.stream.set_nonblocking(false).is_ok()
        {
            observer.conclude(at);
            observer.flush();
        }
        self.observers.retain(|observer| observer.id != id);
    }
}

impl Observer {
    fn wants(&self, key: Option<&FlowKey>, flow: Option<FlowId>) -> bool {
        match &self.wish.choice {
            None => true,
            // What belongs to no flow is chosen by its addresses, if it has any.
            Some(choice) => key.is_some_and(choice) && (flow.is_some() || key.is_some()),
        }
    }

    fn offer(&mut self, packet: &Packet<'_>) {
        if self.is_gone || self.is_concluded {
            return;
        }
        let interface = packet.interface as usize;
        self.received[interface] += 1;
        let kept = packet.bytes.len().min(self.wish.snap_len as usize);
        let len = pcapng::packet_len(kept, packet.comment.map_or(0, str::len));
        if self.waiting.len() - self.written + len > CAPTURE_BUFFER_BYTES {
            self.dropped[interface] += 1;
            return;
        }
        pcapng::packet(&mut self.waiting, &Packet { bytes: &packet.bytes[..kept], ..*packet });
    }

    /// Tells what was lost, and that this is the end. It has room for that whatever waits.
    fn conclude(&mut self, at: u64) {
        if std::mem::replace(&mut self.is_concluded, true) {
            return;
        }
        for interface in [CONTAINER, HOST] {
            let place = interface as usize;
            let (received, dropped) = (self.received[place], self.dropped[place]);
            pcapng::statistics(&mut self.waiting, interface, at, received, dropped);
        }
    }

    fn flush(&mut self) {
        while self.written < self.waiting.len() {
            match self.stream.write(&self.waiting[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What comes next must not grow behind what has left.
                    if self.written > CAPTURE_BUFFER_BYTES / 4 {
                        self.waiting.drain(..self.written);
                        self.written = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
        self.waiting.clear();
        self.written = 0;
        self.is_gone |= self.is_concluded;
    }
}

#[cfg(test)]
mod tests;
