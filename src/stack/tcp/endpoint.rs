//! The container-facing TCP engine of one flow (RFC 9293), behind a narrow door.
//!
//! It is made for one peer: a kernel that is one hop away, takes super-segments and sends them.
//!
//! - **Bytes from the container** that come in order are offered to the relay where they lie in the frame; only what the
//!   host does not take at once is kept. Bytes out of order wait in the same ring, and are told of (RFC 2018).
//! - **Bytes for the container** stay in one ring until they are acknowledged, and leave in super-segments with the size
//!   to cut at in the virtio-net header, for either family.
//! - **The held SYN.** A passive endpoint takes the container's SYN and says nothing until
//!   [`Endpoint::release_syn_ack`] or [`Endpoint::abort`].
//! - **Memory.** An endpoint without bytes has no buffer.
//! - **Acknowledgements** are owed, not sent, by what arrives; [`Endpoint::poll_transmit`] pays all of a batch with one.
//!
//! What it leaves out: urgent data is data (RFC 6093), no timestamps (a link that does not keep segments for the minutes
//! that sequence numbers need to wrap has no use for them), no data on a SYN (RFC 7413: the container sends it
//! again after the handshake). The halves are [`sender`] and [`receiver`]; what they have to say leaves by [`transmit`].

pub mod ecn;
mod queue;
mod receiver;
mod sender;
pub(super) mod sequence;
mod transmit;

use std::net::SocketAddr;

use self::ecn::Ecn;
use self::receiver::Receiver;
use self::sender::Sender;
use self::sequence::is_before;
use super::super::boundary::{Duration, Instant};
use super::challenge::Challenges;
use super::turns::Exchange;
use crate::wire::ip::{self, Ethernet};
use crate::wire::tcp::{self, Flags, Segment};
use crate::wire::vnet_header::Offload;

/// A container that answers our SYN within this is on the other end of a TAP and nothing else.
const NEAR: Duration = Duration::from_millis(2);
/// The most that such a container may have on its way. A transfer gains nothing by more: it would wait in the link's queue,
/// and whoever shares the link would wait behind it.
const NEAR_WINDOW_BYTES: usize = 768 << 10;
/// The same while somebody exchanges short messages beside it, which wait for all that is queued before them: one
/// super-segment.
const SHARED_WINDOW_BYTES: usize = 64 << 10;

/// What is longer before an answer is a transfer; programs acknowledge those every 32 KiB or less often.
const LONGEST_QUESTION_BYTES: u32 = 16 << 10;

/// Header bytes of TCP without options.
const TCP_HEADER_LEN: usize = tcp::MIN_HEADER_LEN;

/// What the link looks like to an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct LinkView {
    /// Addresses of the frames toward the container.
    pub ethernet: Ethernet,
    /// Bytes of the largest IP packet that is not a super-segment.
    pub mtu: u16,
    /// What may be left to the container's kernel.
    pub offload: Offload,
    /// What its bottleneck holds, where it is slow on purpose.
    pub bottleneck: Option<u32>,
}

impl LinkView {
    fn segments(&self, is_ipv6: bool) -> bool {
        self.offload.checksum && if is_ipv6 { self.offload.tcp6 } else { self.offload.tcp4 }
    }

    fn max_segment_size(&self, is_ipv6: bool) -> u16 {
        self.mtu - (ip::header_len(is_ipv6) + TCP_HEADER_LEN) as u16
    }
}

/// The states of RFC 9293 §3.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// Where an endpoint's connection stands, as far as the relay cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The handshake goes on.
    Opening,
    /// The container may still send.
    Open,
    /// The container has sent its FIN.
    ContainerFinished,
    /// Both halves are closed and everything is acknowledged; we closed first.
    TimeWait,
    /// Nothing is left: reset by either side, or closed by both.
    Closed,
}

/// What is still to be sent beside data.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    syn: bool,
    acknowledgement: bool,
    reset: bool,
    probe: bool,
    /// A RST with this number, to an acknowledgement of what was never sent.
    refusal: Option<u32>,
}

/// One engine: our end of one connection with the container.
#[derive(Debug)]
pub struct Endpoint {
    /// Whom we stand for.
    local: SocketAddr,
    container: SocketAddr,
    state: State,
    /// The SYN-ACK waits for the host.
    is_held: bool,
    sender: Sender,
    receiver: Receiver,
    /// Bits by which the container's windows are shifted.
    container_shift: u8,
    understands_sack: bool,
    ecn: Ecn,
    challenges: Challenges,
    owed: Owed,
    /// Nothing but a TAP lies between.
    is_near: bool,
    /// The link took no more.
    is_behind: bool,
    /// When empty rings are to be given up.
    release_at: Option<Instant>,
}

impl Endpoint {
    /// An endpoint at `local` (an address of the world, which we stand for) that awaits the SYN of `container`. `initial`
    /// is its first sequence number; it must be one that nobody can guess (RFC 6528).
    #[must_use]
    pub fn accept(local: SocketAddr, container: SocketAddr, buffer_bytes: usize, initial: u32) -> Self {
        Self::new(local, container, buffer_bytes, initial, State::Listen)
    }

    /// An endpoint at `local` that connects to the container's server.
    #[must_use]
    pub fn connect(local: SocketAddr, container: SocketAddr, buffer_bytes: usize, initial: u32) -> Self {
        let mut endpoint = Self::new(local, container, buffer_bytes, initial, State::SynSent);
        endpoint.owed.syn = true;
        endpoint
    }

    fn new(
        local: SocketAddr,
        container: SocketAddr,
        buffer_bytes: usize,
        initial: u32,
        state: State,
    ) -> Self {
        Endpoint {
            local,
            container,
            state,
            is_held: state == State::Listen,
            sender: Sender::new(initial, buffer_bytes),
            receiver: Receiver::new(buffer_bytes),
            container_shift: 0,
            understands_sack: false,
            ecn: Ecn::default(),
            challenges: Challenges::default(),
            owed: Owed::default(),
            is_near: false,
            is_behind: false,
            release_at: None,
        }
    }

    /// Takes one segment of the container, whose checksum has been seen to and whose packet may have been marked by a queue
    /// on the way. Bytes in order are offered to `deliver`, which says how many it took; the rest is kept for
    /// [`Self::receive_with`].
    pub fn handle_segment(
        &mut self,
        segment: &Segment<'_>,
        is_marked: bool,
        link: &LinkView,
        now: Instant,
        deliver: impl FnOnce(&[u8]) -> usize,
    ) {
        self.sender.bottleneck = link.bottleneck;
        match self.state {
            State::Closed => {}
            State::Listen => {
                let flags = segment.flags;
                if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) && !flags.contains(Flags::RST) {
                    self.take_syn(segment, link);
                    self.ecn.begin(segment);
                    self.state = State::SynReceived;
                }
            }
            State::SynSent => self.handle_in_syn_sent(segment, link, now),
            _ => self.handle_synchronized(segment, is_marked, link, now, deliver),
        }
    }

    /// RFC 9293 §3.10.7.3.
    fn handle_in_syn_sent(&mut self, segment: &Segment<'_>, link: &LinkView, now: Instant) {
        let flags = segment.flags;
        let acknowledges = flags.contains(Flags::ACK);
        if acknowledges && segment.acknowledgement != self.sender.unacknowledged.wrapping_add(1) {
            self.refuse(segment);
            return;
        }
        if flags.contains(Flags::RST) {
            if acknowledges {
                self.end();
            }
            return;
        }
        if !flags.contains(Flags::SYN) {
            return;
        }
        self.take_syn(segment, link);
        if acknowledges {
            self.syn_acknowledged(segment.acknowledgement, now);
            self.owed.syn = false;
            self.owed.acknowledgement = true;
            self.state = State::Established;
        } else {
            // Both sides open at once.
            self.state = State::SynReceived;
            self.owed.syn = true;
        }
    }

    /// Notes what a SYN says: where the container begins, and what it can do.
    fn take_syn(&mut self, segment: &Segment<'_>, link: &LinkView) {
        let is_ipv6 = self.local.is_ipv6();
        let most = link.max_segment_size(is_ipv6);
        // RFC 9293 §3.7.1 MUST-15: without the option the default is 536, or 1220 over IPv6.
        let usual = if is_ipv6 { 1_220 } else { 536 };
        let announced = segment.max_segment_size.map_or(usual, |announced| announced.max(64));
        self.sender.segment_bytes = announced.min(most).into();
        if link.bottleneck.is_some() {
            self.sender.begin_slowly();
        }
        let shift = segment.window_shift();
        if shift.is_none() {
            self.receiver.never_shift();
        }
        self.container_shift = shift.unwrap_or(0);
        self.understands_sack = segment.permits_sack();
        self.receiver.begin(segment.sequence.wrapping_add(1), most);
        // The window of a SYN is never shifted.
        self.sender.first_grant(segment.sequence, segment.acknowledgement, segment.window.into());
    }

    /// RFC 9293 §3.10.7.4, in its order.
    fn handle_synchronized(
        &mut self,
        segment: &Segment<'_>,
        is_marked: bool,
        link: &LinkView,
        now: Instant,
        deliver: impl FnOnce(&[u8]) -> usize,
    ) {
        let flags = segment.flags;
        if self.state == State::SynReceived && flags.contains(Flags::SYN) && !flags.contains(Flags::RST) {
            let is_repeated = segment.sequence.wrapping_add(1) == self.receiver.expected;
            let acknowledges = flags.contains(Flags::ACK);
            if self.is_held && acknowledges {
                // RFC 9293 §3.10.7.2, second check: nothing was said yet.
                self.refuse(segment);
                return;
            }
            if is_repeated && acknowledges {
                // Both opened at once: this acknowledges ours.
                self.owed.acknowledgement |= self.handle_acknowledgement(segment, now);
                return;
            }
            if is_repeated {
                // The answer, if there was one, was lost.
                self.owed.syn |= !self.is_held;
                return;
            }
            if self.is_held {
                // Nothing was said to the one before: the container has given it up, and this one counts.
                self.take_syn(segment, link);
                self.ecn.begin(segment);
                return;
            }
        }
        if !self.receiver.is_acceptable(segment) {
            if flags.contains(Flags::RST) {
                return;
            }
            // Bytes that come again are honest mostly, and their sender waits to hear that they have arrived.
            let repeats = segment.sequence_len() > 0 && !flags.contains(Flags::SYN);
            self.owed.acknowledgement |= repeats || self.challenges.may_answer(now);
            return;
        }
        if flags.contains(Flags::RST) {
            // RFC 5961 §3.2: elsewhere in the window it may be forged, and is asked about.
            if segment.sequence == self.receiver.expected {
                self.end();
            } else {
                self.challenge(now);
            }
            return;
        }
        if flags.contains(Flags::SYN) {
            // RFC 5961 §4.2.
            self.challenge(now);
            return;
        }
        if !flags.contains(Flags::ACK) || !self.handle_acknowledgement(segment, now) {
            return;
        }
        self.ecn.hear(segment, is_marked);
        self.handle_payload(segment, deliver);
    }

    /// Says where the connection stands to somebody who may not know, if that was not said just now.
    fn challenge(&mut self, now: Instant) {
        self.owed.acknowledgement |= self.challenges.may_answer(now);
    }

    /// RFC 9293 §3.10.7.3, §3.10.7.4: an acknowledgement of what was never sent, while the handshake goes on, is of another
    /// connection, which a RST at its number clears.
    fn refuse(&mut self, segment: &Segment<'_>) {
        if !segment.flags.contains(Flags::RST) {
            self.owed.refusal = Some(segment.acknowledgement);
        }
    }

    fn syn_acknowledged(&mut self, acknowledgement: u32, now: Instant) {
        self.sender.syn_acknowledged(acknowledgement, now);
        self.is_near = self.sender.round_trip().is_some_and(|round_trip| round_trip <= NEAR);
        self.share_link(None);
    }

    /// What others are to know of it when it has told the container something short: that it is an exchange of messages, if
    /// what came before was short, too, and no transfer whose program acknowledges by itself. How near the container is,
    /// each message tells.
    #[must_use]
    pub fn as_exchange(&mut self) -> Option<Exchange> {
        let is_near = self.sender.round_trip().is_some_and(|round_trip| round_trip <= NEAR);
        let exchange = Exchange { container: self.container.ip(), is_near };
        (self.receiver.come_since_answer() <= LONGEST_QUESTION_BYTES).then_some(exchange)
    }

    /// What the container may have on its way when it is near: less beside an exchange of short messages. A transfer of
    /// its own tells nothing of the way after the handshake, which a busy processor may have kept waiting; but who
    /// exchanges messages from the same address does.
    pub fn share_link(&mut self, beside: Option<Exchange>) {
        let is_near_beside =
            |with: Exchange| self.is_near || (with.is_near && with.container == self.container.ip());
        self.receiver.limit_window(match beside {
            Some(exchange) if is_near_beside(exchange) => SHARED_WINDOW_BYTES,
            Some(_) | None if self.is_near => NEAR_WINDOW_BYTES,
            Some(_) | None => usize::MAX,
        });
    }

    /// Whether the rest of the segment counts.
    fn handle_acknowledgement(&mut self, segment: &Segment<'_>, now: Instant) -> bool {
        let acknowledgement = segment.acknowledgement;
        if self.state == State::SynReceived {
            if self.is_held || acknowledgement != self.sender.unacknowledged.wrapping_add(1) {
                self.refuse(segment);
                return false;
            }
            self.syn_acknowledged(acknowledgement, now);
            // The window of a SYN is never shifted.
            let shift = if segment.flags.contains(Flags::SYN) { 0 } else { self.container_shift };
            let window = u32::from(segment.window) << shift;
            self.sender.first_grant(segment.sequence, acknowledgement, window);
            self.owed.syn = false;
            self.state = if self.sender.is_closing { State::FinWait1 } else { State::Established };
            return true;
        }
        if !self.sender.is_plausible(acknowledgement) {
            self.challenge(now);
            return false;
        }
        if self.understands_sack {
            segment.sack_blocks().for_each(|(first, end)| self.sender.hold(first, end));
        }
        let is_repeated = acknowledgement == self.sender.unacknowledged;
        let was_fin = is_before(self.sender.unacknowledged, acknowledgement)
            && self.sender.acknowledge(acknowledgement, now);
        if self.ecn.is_reason_to_slow_down(segment, self.sender.highest()) {
            self.sender.slow_down();
        }
        let window = u32::from(segment.window) << self.container_shift;
        let has_changed = self.sender.grant(segment.sequence, acknowledgement, window);
        if is_repeated && !has_changed && segment.sequence_len() == 0 && !self.sender.is_settled() {
            self.sender.duplicate();
        } else {
            self.sender.look_for_loss();
        }
        if was_fin {
            self.state = match self.state {
                State::FinWait1 => State::FinWait2,
                State::Closing => State::TimeWait,
                State::LastAck => State::Closed,
                other => other,
            };
        }
        true
    }

    fn handle_payload(&mut self, segment: &Segment<'_>, deliver: impl FnOnce(&[u8]) -> usize) {
        if segment.sequence_len() == 0 {
            return;
        }
        self.owed.acknowledgement = true;
        if self.takes_data() && self.receiver.take(segment, deliver) {
            self.state = match self.state {
                State::Established => State::CloseWait,
                State::FinWait1 => State::Closing,
                State::FinWait2 => State::TimeWait,
                other => other,
            };
        }
    }

    fn takes_data(&self) -> bool {
        matches!(self.state, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// When [`Endpoint::poll_transmit`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_behind {
            return Some(Instant::ZERO);
        }
        let timer = if self.is_held { None } else { self.sender.poll_timeout() };
        [timer, self.release_at].into_iter().flatten().min()
    }

    /// Answers the held SYN with a SYN-ACK at the next transmission.
    pub fn release_syn_ack(&mut self) {
        self.is_held = false;
        self.owed.syn = self.state == State::SynReceived;
    }

    /// Asks the container whether it is still there, at the next transmission: with a number it has acknowledged already,
    /// which it must answer (RFC 9293 §3.8.4). To be called when everything sent is acknowledged.
    pub fn probe(&mut self) {
        self.owed.probe = true;
    }

    /// Gives the connection up with a RST at the next transmission.
    pub fn abort(&mut self) {
        self.owed.reset = !matches!(self.state, State::Listen | State::Closed | State::TimeWait);
        self.is_held = false;
        self.end();
    }

    fn end(&mut self) {
        self.state = State::Closed;
        self.owed.acknowledgement = false;
        self.owed.syn = false;
        self.sender.stop();
    }

    /// Sends FIN after everything queued.
    pub fn close(&mut self) {
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            State::Listen | State::SynSent => State::Closed,
            other => other,
        };
        self.sender.is_closing = true;
    }

    /// Hands received bytes, in order, to `take`, which says how many it took.
    pub fn receive_with(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        let taken = take(self.receiver.queue.front());
        self.receiver.queue.consume(taken);
    }

    /// Lets `fill` write bytes for the container into free buffer space; it says how many it wrote.
    pub fn transmit_with(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        if self.transmit_space() > 0 {
            self.sender.queue.append_with(most, fill);
        }
    }

    /// Bytes of memory that the buffers hold, toward the host and toward the container.
    #[must_use]
    pub fn memory(&self) -> [usize; 2] {
        [self.receiver.queue.memory(), self.sender.queue.memory()]
    }

    /// Whether there is a buffer toward the container.
    #[must_use]
    pub fn has_transmit_memory(&self) -> bool {
        self.sender.queue.has_memory()
    }

    /// Lets each buffer grow by `room` bytes from now on, and to `least` in any case.
    pub fn limit_memory(&mut self, room: usize, least: usize) {
        for queue in [&mut self.receiver.queue, &mut self.sender.queue] {
            queue.limit_memory((queue.memory() + room).max(least));
        }
    }

    /// Whether a segment has nothing but a number that was acknowledged already, to be acknowledged again.
    #[must_use]
    pub fn is_question(&self, segment: &Segment<'_>) -> bool {
        segment.flags == Flags::ACK
            && segment.payload.len() <= 1
            && segment.sequence.wrapping_add(1) == self.receiver.expected
    }

    /// Whether a segment that began with this number may still be on its way: nobody else can quote it
    /// (RFC 5927 §4.1).
    #[must_use]
    pub fn has_outstanding(&self, sequence: u32) -> bool {
        let outstanding = self.sender.highest().wrapping_sub(self.sender.unacknowledged);
        sequence.wrapping_sub(self.sender.unacknowledged) < outstanding
    }

    /// A router behind the link takes packets of no more than `mtu` bytes; below what every router takes (RFC 8200 §5),
    /// or any has (RFC 1191 §7.1 and its least of practice), it is not believed.
    pub fn keep_within(&mut self, mtu: u32) {
        let is_ipv6 = self.local.is_ipv6();
        let headers = ip::header_len(is_ipv6) as u32 + 20;
        let least = if is_ipv6 { 1_280 } else { 552 };
        self.sender.segment_bytes = self.sender.segment_bytes.min(mtu.max(least) - headers);
    }

    /// RCV.NXT and SND.NXT.
    #[must_use]
    pub fn numbers(&self) -> (u32, u32) {
        (self.receiver.expected, self.sender.highest())
    }

    /// What a round trip to the container takes, once measured, and segments that it was sent again.
    #[must_use]
    pub fn health(&self) -> (Option<Duration>, u32) {
        (self.sender.round_trip(), self.sender.retransmissions())
    }

    /// Received bytes that nobody has taken yet.
    #[must_use]
    pub fn received_bytes(&self) -> usize {
        self.receiver.queue.len()
    }

    /// Bytes for the container that it has not acknowledged.
    #[must_use]
    pub fn unacknowledged_bytes(&self) -> usize {
        self.sender.queue.len()
    }

    /// Whether the container has acknowledged everything that was sent, a FIN included.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.sender.is_settled()
    }

    /// Bytes for the container that there is room for now; zero once our half is closed.
    #[must_use]
    pub fn transmit_space(&self) -> usize {
        let may_send = matches!(self.state, State::Established | State::CloseWait);
        if may_send && !self.sender.is_closing { self.sender.queue.room() } else { 0 }
    }

    /// Where the connection stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Listen | State::Closed => Phase::Closed,
            State::SynSent | State::SynReceived => Phase::Opening,
            State::Established | State::FinWait1 | State::FinWait2 => Phase::Open,
            State::CloseWait | State::Closing | State::LastAck => Phase::ContainerFinished,
            State::TimeWait => Phase::TimeWait,
        }
    }
}
