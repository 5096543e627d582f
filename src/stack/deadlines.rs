//! What time does: alarms of flows, fragments that never got whole, questions and advertisements that are due.

use super::Flow;
use super::Stack;
use super::boundary::{FlowId, FrameSink, HostIo, Instant, Io};
use super::drop_reason::DropReason;
use super::stats::{CountedFrames, Traffic};
use crate::wire::icmp::Problem;

impl Stack {
    /// Does what is due at `now`.
    pub fn handle_timeout<H: HostIo, F: FrameSink>(&mut self, now: Instant, io: &mut Io<'_, H, F>) {
        for _ in 0..self.unread.len() {
            if let Some(unread) = self.unread.pop_front() {
                self.enter(io, now, |stack, io| stack.read(unread, now, io));
            }
        }
        while let Some((flow, at)) = self.timers.pop_due(now) {
            self.enter(io, now, |stack, io| stack.ring(flow, at, now, io));
        }
        self.enter(io, now, |stack, io| stack.ask_about_ports(now, io.frames));
        self.give_up_questions(now, io);
        self.enter(io, now, |stack, io| stack.give_up_fragments(now, io.frames));
        // Any number will do to spread the advertisements of many instances; this one is the instance's own.
        let jitter = self.hasher.hash_one(now.total_micros());
        let mut sent = Traffic::default();
        let mut frames = CountedFrames::new(&mut *io.frames, &mut sent);
        let advertised = self.router_advert.handle_timeout(jitter, now, &mut frames);
        self.stats.to_container.add(sent);
        self.count(advertised);
    }

    /// The alarm that a flow had set for `at` rings.
    fn ring<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        at: Instant,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let Some((_, body)) = self.flows.get_mut(flow) else { return };
        let alarm = match body {
            Flow::Tcp(tcp) => &mut tcp.alarm,
            Flow::TimeWait(time_wait) => &mut time_wait.alarm,
            Flow::Udp(udp) => &mut udp.alarm,
            Flow::Echo(echo) => &mut echo.alarm,
        };
        if !alarm.ring(at) {
            return;
        }
        match body {
            Flow::Tcp(_) => self.tcp_alarm(flow, now, io),
            Flow::TimeWait(_) => self.time_wait_alarm(flow, now),
            Flow::Udp(_) => self.udp_alarm(flow, now),
            Flow::Echo(_) => self.echo_alarm(flow, now),
        }
    }

    /// Forgets the packets whose fragments have not all come in time, and says so where the first had come
    /// (RFC 792, RFC 8200 §4.5).
    fn give_up_fragments(&mut self, now: Instant, frames: &mut impl FrameSink) {
        let mut expired = Vec::new();
        self.reassembler.handle_timeout(now, |first| expired.push(first.map(<[u8]>::to_vec)));
        self.stats.record_many(DropReason::FragmentTimeout, expired.len() as u64);
        for first in expired.into_iter().flatten() {
            let told = self.send_problem(Problem::ReassemblyTimeExceeded, &first, now, frames);
            self.count(told);
        }
    }

    /// The earliest instant at which [`Stack::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.unread.is_empty() || !self.queue.is_empty() {
            return Some(Instant::ZERO);
        }
        let deadlines = [
            self.timers.earliest(),
            self.reassembler.poll_timeout(),
            self.router_advert.poll_timeout(),
            self.watches.poll_timeout(),
            self.shaping.poll_timeout(),
            self.hook_timeout(),
        ];
        deadlines.into_iter().flatten().min()
    }
}
