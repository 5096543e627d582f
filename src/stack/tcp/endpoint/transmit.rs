//! What an endpoint sends, and in which order: resets, the handshake, data, acknowledgements, probes.
//!
//! One segment or super-segment a call of the link, its payload straight from the queue where it waits to be acknowledged.
//! RFC 9293 §3.8 and §3.10.7; RFC 2018 for what is told of bytes out of order.

use super::sender::Turn;
use super::{Endpoint, LinkView, Owed, State, TCP_HEADER_LEN};
use crate::stack::boundary::{Duration, FrameSink, Instant};
use crate::stack::emit::Emitter;
use crate::wire::ip::{self, Header, protocol};
use crate::wire::tcp::{self, BareSegment, Flags, MAX_SACK_BLOCKS, Options};

/// Largest IP packet a frame can carry.
const MAX_PACKET_BYTES: usize = 65_535;

/// How long an empty ring is kept for the next bytes.
const KEEP_RINGS: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Sends what there is to send: data, acknowledgements, resets, probes. Returns whether any frame left.
    pub fn poll_transmit(&mut self, link: &LinkView, now: Instant, frames: &mut impl FrameSink) -> bool {
        self.is_behind = false;
        if self.release_at.is_some_and(|due| due <= now) {
            self.release();
        }
        let sent = self.transmit(link, now, frames);
        self.sender.watch_window(now);
        let is_idle = self.sender.queue.is_empty() && self.receiver.is_idle();
        let has_rings = self.sender.queue.has_memory() || self.receiver.queue.has_memory();
        self.release_at = match self.release_at {
            _ if !is_idle || !has_rings => None,
            None => Some(now + KEEP_RINGS),
            _ if sent => Some(now + KEEP_RINGS),
            due => due,
        };
        sent
    }

    fn release(&mut self) {
        if self.sender.queue.is_empty() {
            self.sender.queue.shrink();
        }
        if self.receiver.is_idle() {
            self.receiver.queue.shrink();
        }
    }

    fn transmit(&mut self, link: &LinkView, now: Instant, frames: &mut impl FrameSink) -> bool {
        if let Some(sequence) = self.owed.refusal.take() {
            // Should it be lost, the next such acknowledgement earns another.
            self.send_refusal(sequence, link, frames);
        }
        if self.owed.reset {
            let sent = self.send_reset(link, frames);
            self.owed.reset = !sent;
            return sent;
        }
        if self.is_held || matches!(self.state, State::Listen | State::Closed) {
            // What ended it may still be owed an answer.
            return self.state == State::Closed && self.pay_acknowledgement(link, frames);
        }
        if self.sender.handle_timeout(now) && matches!(self.state, State::SynSent | State::SynReceived) {
            self.owed.syn = true;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            if self.owed.syn {
                return self.send_syn(link, now, frames);
            }
            return self.state == State::SynReceived && self.pay_acknowledgement(link, frames);
        }
        let mut sent = std::mem::take(&mut self.owed.probe) && self.send_probe(link, frames);
        let most = self.most_payload(link);
        while let Some(turn) = self.sender.turn(most) {
            if !self.send_data(&turn, link, frames) {
                self.is_behind = true;
                return sent;
            }
            self.sender.sent(&turn, now);
            sent = true;
        }
        if !self.receiver.ahead.is_empty() && self.owed.acknowledgement {
            // Data does not tell of what is held.
            return self.pay_acknowledgement(link, frames) || sent;
        }
        if !sent
            && (self.owed.acknowledgement
                || self.takes_data() && self.receiver.has_window_news(self.sender.segment_bytes))
        {
            self.owed.acknowledgement = true;
            sent = self.pay_acknowledgement(link, frames);
        }
        sent
    }

    fn most_payload(&self, link: &LinkView) -> usize {
        let is_ipv6 = self.local.is_ipv6();
        let cut = self.sender.segment_bytes as usize;
        if !link.segments(is_ipv6) {
            return cut;
        }
        let most = MAX_PACKET_BYTES - ip::header_len(is_ipv6) - TCP_HEADER_LEN;
        (most / cut).max(1) * cut
    }

    fn send_syn(&mut self, link: &LinkView, now: Instant, frames: &mut impl FrameSink) -> bool {
        let is_answer = self.state == State::SynReceived;
        let options = Options {
            max_segment_size: Some(link.max_segment_size(self.local.is_ipv6())),
            window_shift: self.receiver.shift(),
            permits_sack: !is_answer || self.understands_sack,
            sack: &[],
        };
        let window = self.receiver.queue.capacity().min(usize::from(u16::MAX)) as u16;
        let header = BareSegment {
            source_port: self.local.port(),
            destination_port: self.container.port(),
            sequence: self.sender.unacknowledged,
            acknowledgement: is_answer.then_some(self.receiver.expected),
            flags: if is_answer { Flags::SYN.union(self.ecn.agreement()) } else { Flags::SYN },
            window,
        };
        if !self.send(&header, &options, None, 0, link, frames) {
            self.is_behind = true;
            return false;
        }
        self.receiver.grant(window.into());
        self.sender.syn_sent(now);
        self.owed = Owed::default();
        true
    }

    fn send_data(&mut self, turn: &Turn, link: &LinkView, frames: &mut impl FrameSink) -> bool {
        let offset = turn.sequence.wrapping_sub(self.sender.unacknowledged) as usize;
        let is_last = offset + turn.len == self.sender.queue.len();
        let mut header = self.header(turn.sequence);
        if is_last {
            header.flags = header.flags.union(Flags::PSH);
        }
        if turn.fin {
            header.flags = header.flags.union(Flags::FIN);
        }
        let is_new = turn.len > 0 && self.sender.is_new(turn);
        let field = if is_new { self.ecn.data_field() } else { 0 };
        if is_new {
            header.flags = header.flags.union(self.ecn.data_flags());
        }
        let data = Some((offset, turn.len));
        let sent = self.send(&header, &Options::default(), data, field, link, frames);
        if sent {
            self.acknowledged();
            if is_new {
                self.ecn.data_sent();
            }
        }
        sent
    }

    fn pay_acknowledgement(&mut self, link: &LinkView, frames: &mut impl FrameSink) -> bool {
        if !self.owed.acknowledgement {
            return false;
        }
        let mut blocks = [(0, 0); MAX_SACK_BLOCKS];
        let count = if self.understands_sack { self.receiver.tell_ahead(&mut blocks) } else { 0 };
        let options = Options { sack: &blocks[..count], ..Options::default() };
        let header = self.header(self.sender.highest());
        let sent = self.send(&header, &options, None, 0, link, frames);
        if sent {
            self.acknowledged();
        }
        self.is_behind |= !sent;
        sent
    }

    fn send_reset(&mut self, link: &LinkView, frames: &mut impl FrameSink) -> bool {
        let mut header = self.header(self.sender.highest());
        header.flags = Flags::RST;
        let sent = self.send(&header, &Options::default(), None, 0, link, frames);
        self.is_behind |= !sent;
        sent
    }

    fn send_probe(&mut self, link: &LinkView, frames: &mut impl FrameSink) -> bool {
        let header = self.header(self.sender.highest().wrapping_sub(1));
        self.send(&header, &Options::default(), None, 0, link, frames)
    }

    fn send_refusal(&self, sequence: u32, link: &LinkView, frames: &mut impl FrameSink) {
        let header = BareSegment { acknowledgement: None, flags: Flags::RST, ..self.header(sequence) };
        self.send(&header, &Options::default(), None, 0, link, frames);
    }

    /// The header of a segment at `sequence` that acknowledges and grants all that can be.
    fn header(&self, sequence: u32) -> BareSegment {
        BareSegment {
            source_port: self.local.port(),
            destination_port: self.container.port(),
            sequence,
            acknowledgement: Some(self.receiver.expected),
            flags: self.ecn.flags(),
            window: self.receiver.window_field(),
        }
    }

    /// Such a segment has left.
    fn acknowledged(&mut self) {
        self.receiver.grant_all();
        self.owed.acknowledgement = false;
    }

    /// Sends one segment, with so many bytes of the queue from an offset on and this ECN field; `false` when the link takes
    /// no more.
    fn send(
        &self,
        segment: &BareSegment,
        options: &Options<'_>,
        data: Option<(usize, usize)>,
        ecn_field: u8,
        link: &LinkView,
        frames: &mut impl FrameSink,
    ) -> bool {
        let (offset, len) = data.unwrap_or_default();
        let header = Header {
            source: self.local.ip(),
            destination: self.container.ip(),
            protocol: protocol::TCP,
            hop_limit: 64,
            traffic_class: ecn_field,
            identification: 0,
            dont_fragment: true,
        };
        let mut bytes = [0; tcp::MAX_HEADER_LEN];
        let header_len = segment.write_with(options, &mut bytes);
        let payload = self.sender.queue.parts(offset, len);
        // It cannot be more than the container announced, which has 16 bits.
        let cut = self.sender.segment_bytes as u16;
        let emitter = Emitter::new(link.mtu, link.offload);
        emitter.send_tcp(&link.ethernet, &header, cut, &bytes[..header_len], payload, frames).is_ok()
    }
}
