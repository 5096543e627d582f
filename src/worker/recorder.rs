//! Captures: who watches, and what each of them gets.
//!
//! While somebody does, link, sockets and what is spliced put down what they see in stages ([`stage`]); at the end of a
//! turn [`Recorder::drain`] gives it, in its order, a name each ([`names`]), puts packets of the host's side together
//! ([`host_side`]) and hands them to the observers. An observer is a descriptor with a bounded
//! buffer in front ([`CAPTURE_BUFFER_BYTES`]): what it is too slow for is lost to it, counted, and told in the
//! statistics at the end of its stream. Traffic waits for none of them, nor do they have more of the worker's time than their
//! [`Allowance`]: each turn begins with the room that there is, and what has none is not even copied.
//!
//! While nobody watches there is no stage, and each place asks one question.

pub mod allowance;
pub mod host_side;
pub mod names;
pub mod outgoing;
pub mod stage;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry};

use self::allowance::Allowance;
use self::host_side::{Happening, HostSide};
use self::names::Names;
use self::outgoing::Outgoing;
use self::stage::{Lost, Order, Place, Seen, Sight, Stage, Whose};
use super::token::Subject;
use crate::config::limits::{CAPTURE_BUFFER_BYTES, CAPTURE_OBSERVERS};
use crate::observe::pcapng::{self, CONTAINER, Direction, HOST, Packet};
use crate::stack::Stack;
use crate::stack::boundary::{FlowId, StackEvent};
use crate::stack::flow::FlowKey;
use crate::stack::spliced::SplicedId;
use crate::wire::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ip::ETHERNET_HEADER_LEN;
use crate::wire::segmentation;

/// Longer than any frame.
pub const WHOLE_PACKETS: u32 = 262_144;

/// Chooses flows by what they are.
pub type Choice = Arc<dyn Fn(&FlowKey) -> bool + Send + Sync>;

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
    waiting: Outgoing,
    /// Copied for it since that was asked last.
    copied: usize,
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
    allowance: Allowance,
    epoch_micros: u64,
    host: HostSide,
    /// The two sides of what is spliced.
    spliced_outside: HostSide,
    spliced_inside: HostSide,
    names: Names,
    observers: Vec<Observer>,
    next_id: u32,
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
            allowance: Allowance::default(),
            epoch_micros,
            host: HostSide::default(),
            spliced_outside: HostSide::default(),
            spliced_inside: HostSide::default(),
            names,
            observers: Vec::new(),
            next_id: 0,
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
        let preamble = pcapng::preamble(wish.snap_len);
        let mut observer = Observer {
            id,
            stream,
            wish,
            waiting: Outgoing::default(),
            copied: 0,
            received: [0; 2],
            dropped: [0; 2],
            is_concluded: false,
            is_gone: false,
        };
        observer.waiting.append(preamble.len(), |out| out.extend_from_slice(&preamble));
        observer.flush();
        self.observers.push(observer);
        Ok(id)
    }

    /// A turn begins: what is put down in it is no more than those who watch have room for, and may have. So many bytes.
    pub fn begin_turn(&mut self, now_micros: u64) -> usize {
        let room = self.observers.iter().map(Observer::room).max().unwrap_or(0);
        let room = room.min(self.allowance.at(now_micros));
        self.order.begin(room);
        room
    }

    /// Whether nobody watches any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.observers.is_empty()
    }

    /// Which flows each of those who watch has chosen.
    #[must_use]
    pub fn choices(&self) -> Vec<Option<Choice>> {
        self.observers.iter().map(|observer| observer.wish.choice.clone()).collect()
    }

    /// How many watch.
    #[must_use]
    pub fn count(&self) -> usize {
        self.observers.len()
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

    /// Hands over what all have seen in a turn: link, sockets, and what is spliced, if anything is.
    pub fn drain(
        &mut self,
        link: &mut Stage,
        sockets: &mut Stage,
        spliced: Option<&mut Stage>,
        stack: &Stack,
    ) {
        let mut places = [Some(link), Some(sockets), spliced];
        let mut next = [0; 3];
        loop {
            let order = |place: usize| {
                let seen = places[place].as_deref()?.seen().get(next[place])?;
                Some((seen.order, place))
            };
            let Some((_, place)) = (0..places.len()).filter_map(order).min() else { break };
            if let Some(stage) = places[place].as_deref()
                && let Some(seen) = stage.seen().get(next[place])
            {
                self.show(seen, stage.bytes_of(seen), stack);
            }
            next[place] += 1;
        }
        for (place, stage) in places.iter_mut().enumerate() {
            let lost = stage.as_deref_mut().map_or(Lost::default(), Stage::clear);
            let interface = if place == 0 { CONTAINER } else { HOST } as usize;
            for observer in self.observers.iter_mut().filter(|observer| !observer.is_concluded) {
                observer.lose(interface, if observer.wish.segments { lost.pieces } else { lost.packets });
            }
        }
        for observer in &mut self.observers {
            self.allowance.spend(std::mem::take(&mut observer.copied));
            observer.flush();
        }
        self.observers.retain(|observer| !observer.is_gone);
    }

    fn show(&mut self, seen: &Seen, bytes: &[u8], stack: &Stack) {
        match &seen.sight {
            Sight::Frame(..) => self.show_frame(seen, bytes, stack),
            Sight::Socket(whose, happening) => self.show_happening(seen, (whose, happening), bytes, stack),
            Sight::Spliced { id, key, place, happening } => {
                self.show_spliced(seen, (*id, key, *place), happening, bytes);
            }
        }
    }

    fn show_frame(&mut self, seen: &Seen, bytes: &[u8], stack: &Stack) {
        let Sight::Frame(direction, header) = &seen.sight else { return };
        let key = names::key_of_frame(bytes, *direction == Direction::Outbound);
        let flow = key.and_then(|key| self.names.find(&key).or_else(|| stack.flow_between(&key)));
        let key = flow.and_then(|flow| self.names.key(flow)).or(key);
        if !self.observers.iter().any(|observer| observer.wants(key.as_ref(), flow)) {
            return;
        }
        let comment = flow.map(|flow| format!("flow {flow}"));
        let packet = Packet {
            interface: CONTAINER,
            micros: self.epoch_micros + seen.micros,
            direction: *direction,
            bytes,
            original_len: seen.original_len,
            comment: comment.as_deref(),
        };
        let is_whole = bytes.len() == seen.original_len;
        let is_super = segmentation::is_super_segment(header);
        for observer in self.observers.iter_mut().filter(|observer| observer.wants(key.as_ref(), flow)) {
            if is_super && is_whole && observer.wish.segments {
                segmentation::cut(header, bytes, &mut self.pieces, |piece| {
                    observer.offer(&Packet { bytes: piece, original_len: piece.len(), ..packet });
                });
            } else {
                observer.offer_and(&packet, |copy| segmentation::complete_checksum(header, copy));
            }
        }
    }

    fn show_happening(
        &mut self,
        seen: &Seen,
        (whose, happening): (&Whose, &Happening),
        bytes: &[u8],
        stack: &Stack,
    ) {
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
        let is_wanted = observers.iter().any(|observer| observer.wants(key.as_ref(), flow));
        let all = ((is_wanted && !seen.is_missed).then_some(bytes), seen.original_len);
        self.host.handle(stream, happening, all, as_on_wire, |direction, packet, original_len| {
            for observer in observers.iter_mut().filter(|observer| observer.wants(key.as_ref(), flow)) {
                let Some(packet) = packet else {
                    observer.lose(HOST as usize, 1);
                    continue;
                };
                observer.offer(&Packet {
                    interface: HOST,
                    micros,
                    direction,
                    bytes: packet,
                    original_len,
                    comment: comment.as_deref(),
                });
            }
        });
    }

    /// What happens on the container's loopback is shown as it would be there: behind an empty Ethernet header, and from the
    /// container is what our peer sends.
    fn show_spliced(
        &mut self,
        seen: &Seen,
        (id, key, place): (SplicedId, &FlowKey, Place),
        happening: &Happening,
        bytes: &[u8],
    ) {
        let (comment, micros) = (format!("flow {id}"), self.epoch_micros + seen.micros);
        let as_on_wire = self.observers.iter().any(|observer| observer.wish.segments);
        let stream = FlowId { slot: id.slot, generation: id.generation };
        let (observers, framed) = (&mut self.observers, &mut self.pieces);
        let side = match place {
            Place::Container => &mut self.spliced_inside,
            Place::Host => &mut self.spliced_outside,
        };
        let all = ((!seen.is_missed).then_some(bytes), seen.original_len);
        side.handle(stream, happening, all, as_on_wire, |direction, packet, len| {
            let wanted = observers.iter_mut().filter(|observer| observer.wants(Some(key), None));
            let Some(packet) = packet else {
                let interface = if place == Place::Host { HOST } else { CONTAINER };
                wanted.for_each(|observer| observer.lose(interface as usize, 1));
                return;
            };
            let (interface, direction, bytes, original_len) = match place {
                Place::Host => (HOST, direction, packet, len),
                Place::Container => {
                    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
                    let ethertype = if is_ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                    framed.clear();
                    framed.extend_from_slice(&[0; ETHERNET_HEADER_LEN - 2]);
                    framed.extend_from_slice(&ethertype.to_be_bytes());
                    framed.extend_from_slice(packet);
                    (CONTAINER, direction.opposite(), framed.as_slice(), ETHERNET_HEADER_LEN + len)
                }
            };
            for observer in wanted {
                observer.offer(&Packet {
                    interface,
                    micros,
                    direction,
                    bytes,
                    original_len,
                    comment: Some(&comment),
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
            Some(choice) => key.is_some_and(|key| choice(key)) && (flow.is_some() || key.is_some()),
        }
    }

    /// Bytes that it has room for.
    fn room(&self) -> usize {
        match self.is_gone || self.is_concluded {
            true => 0,
            false => CAPTURE_BUFFER_BYTES.saturating_sub(self.waiting.len()),
        }
    }

    fn lose(&mut self, interface: usize, packets: u64) {
        self.received[interface] += packets;
        self.dropped[interface] += packets;
    }

    fn offer(&mut self, packet: &Packet<'_>) {
        self.offer_and(packet, |_| {});
    }

    /// The same; a copy of all of the packet's bytes is finished by `finish`.
    fn offer_and(&mut self, packet: &Packet<'_>, finish: impl FnOnce(&mut [u8])) {
        if self.is_gone || self.is_concluded {
            return;
        }
        let interface = packet.interface as usize;
        let kept = packet.bytes.len().min(self.wish.snap_len as usize);
        let len = pcapng::packet_len(kept, packet.comment.map_or(0, str::len));
        if len > self.room() {
            self.lose(interface, 1);
            return;
        }
        self.received[interface] += 1;
        self.copied += self.waiting.append(len, |out| {
            let copy = pcapng::packet(out, &Packet { bytes: &packet.bytes[..kept], ..*packet });
            if kept == packet.original_len {
                finish(copy);
            }
        });
    }

    /// Tells what was lost, and that this is the end. It has room for that whatever waits.
    fn conclude(&mut self, at: u64) {
        if std::mem::replace(&mut self.is_concluded, true) {
            return;
        }
        for interface in [CONTAINER, HOST] {
            let place = interface as usize;
            let (received, dropped) = (self.received[place], self.dropped[place]);
            self.waiting.append(pcapng::STATISTICS_LEN, |out| {
                pcapng::statistics(out, interface, at, received, dropped);
            });
        }
    }

    fn flush(&mut self) {
        match self.waiting.write_to(&mut self.stream) {
            Ok(()) => self.is_gone |= self.is_concluded,
            Err(error) => self.is_gone |= error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests;
