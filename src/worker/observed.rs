//! The worker's part in captures, and in links that are bad on purpose.

use std::io;
use std::os::unix::net::UnixStream;

use super::clock::Clock;
use super::recorder::{Recorder, Wish};
use super::sockets::watch::Watch;
use super::{Worker, fault};
use crate::config::{Impairments, RateLimits};
use crate::observe::pcapng::Direction;
use crate::stack::boundary::{Io, StackEvent};
use crate::stack::drop_reason::DropReason;
use crate::stack::impair::ImpairStats;
use crate::sys::memory;
use crate::wire::vnet_header::VNET_HEADER_LEN;
use crate::worker::recorder::stage::{Sight, Stage};

impl Worker {
    /// The same, with rates and a link as they are asked for.
    #[must_use]
    pub fn with_conditions(mut self, limits: RateLimits, impairments: Impairments) -> Worker {
        self.stack.limit_rates(limits);
        self.impair(impairments);
        self
    }

    /// The same, with everything captured from the beginning: pcapng comes out at the other end of `stream`. It is waited
    /// for at the end.
    ///
    /// # Errors
    /// As [`Worker::capture`].
    pub fn with_capture_to(mut self, stream: UnixStream, wish: Wish) -> io::Result<Worker> {
        self.own_capture = Some(self.capture(stream, wish)?);
        Ok(self)
    }

    /// Lets somebody watch, who reads pcapng at the other end of `stream`; the number of the capture.
    ///
    /// # Errors
    /// There are too many, or the stream cannot be watched.
    pub fn capture(&mut self, stream: UnixStream, wish: Wish) -> io::Result<u32> {
        if self.recorder.is_none() {
            let registry = self.poll.registry().try_clone()?;
            let epoch_micros =
                Clock::epoch_micros().saturating_sub(self.clock.now().total_micros().unsigned_abs());
            self.recorder = Some(Box::new(Recorder::new(registry, epoch_micros, &self.stack)));
        }
        let Some(recorder) = &mut self.recorder else { return Err(io::ErrorKind::NotFound.into()) };
        let added = recorder.add(stream, wish);
        let (order, most) = (recorder.order(), recorder.most_bytes());
        let is_idle = recorder.is_idle();
        if is_idle {
            self.end_captures();
        } else {
            match self.link.stage_mut() {
                Some(stage) => stage.keep(most),
                None => self.link.watch(Some(Box::new(Stage::new(order.clone(), most)))),
            }
            match self.sockets.watch_mut() {
                Some(watch) => watch.stage.keep(most),
                None => self.sockets.watch(Some(Box::new(Watch::new(Stage::new(order, most))))),
            }
            self.look_at_spliced();
            self.note_time();
            if self.port.is_some() {
                let bell = self.postbox()?;
                self.port.iter().for_each(|port| port.passed().watch(bell.clone()));
            }
        }
        added
    }

    /// Puts down what other containers of the network have sent to ours, past us.
    fn note_passed(&mut self) {
        let (Some(port), Some(stage)) = (&self.port, self.link.stage_mut()) else { return };
        let (frames, lost) = port.passed().take();
        for read in frames {
            if let Some((header, frame)) = read.split_first_chunk() {
                stage.put(Sight::Frame(Direction::Inbound, *header), &[frame]);
            }
        }
        stage.lose(lost);
    }

    /// What is spliced is seen as far as anybody wants it.
    fn look_at_spliced(&mut self) {
        let micros = self.micros();
        let Some(loopback) = &mut self.loopback else { return };
        let wanted = self.recorder.as_ref();
        loopback.look(wanted.map(|recorder| (recorder.order(), recorder.most_bytes(), recorder.choices())));
        if let Some(stage) = loopback.stage_mut() {
            stage.tick(micros);
        }
    }

    fn end_captures(&mut self) {
        let had_some = self.recorder.take().is_some();
        self.link.watch(None);
        self.sockets.watch(None);
        self.port.iter().for_each(|port| port.passed().leave());
        self.look_at_spliced();
        if had_some {
            memory::give_back();
        }
    }

    /// The stages put down when things were seen.
    pub(super) fn note_time(&mut self) {
        let micros = self.micros();
        if let Some(recorder) = &mut self.recorder {
            let room = recorder.begin_turn(micros);
            self.port.iter().for_each(|port| port.passed().allow(room));
        }
        if let Some(watch) = self.sockets.watch_mut() {
            watch.stage.tick(micros);
        }
        if let Some(stage) = self.link.stage_mut() {
            stage.tick(micros);
        }
        if let Some(stage) = self.loopback.as_mut().and_then(|loopback| loopback.stage_mut()) {
            stage.tick(micros);
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.now.total_micros()).unwrap_or(0)
    }

    /// A reader of a capture has room again, or is gone.
    pub(super) fn handle_observer(&mut self, number: u32, event: &mio::event::Event) {
        let micros = self.micros();
        if let Some(recorder) = &mut self.recorder {
            let before = recorder.count();
            recorder.handle_event(number, event, micros);
            self.note_who_watches(before);
        }
    }

    /// Of `before` who watched some may have gone.
    fn note_who_watches(&mut self, before: usize) {
        let now = self.recorder.as_ref().map_or(0, |recorder| recorder.count());
        if now == 0 {
            self.end_captures();
        } else if now != before {
            self.look_at_spliced();
        }
    }

    /// The core's events, for those who watch.
    pub(super) fn tell_observers(&mut self, event: &StackEvent) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(event);
        }
    }

    /// At the end of a turn: what was seen goes to those who watch.
    pub(super) fn serve_observers(&mut self) {
        self.note_passed();
        let Some(recorder) = &mut self.recorder else { return };
        let before = recorder.count();
        if let (Some(link), Some(watch)) = (self.link.stage_mut(), self.sockets.watch_mut()) {
            let spliced = self.loopback.as_mut().and_then(|loopback| loopback.stage_mut());
            recorder.drain(link, &mut watch.stage, spliced, &self.stack);
        }
        self.note_who_watches(before);
    }

    /// At the very end.
    pub(super) fn conclude_captures(&mut self) {
        self.serve_observers();
        let micros = self.micros();
        if let Some(recorder) = &mut self.recorder {
            if let Some(own) = self.own_capture {
                recorder.finish_waiting(own, micros);
            }
            recorder.finish(micros);
        }
        self.end_captures();
    }

    /// Makes the link a bad one from now on, or a better one.
    pub fn impair(&mut self, how: Impairments) {
        self.stack.expect_bottleneck(&how);
        self.link.impair(how, self.config.limits.impair, self.impair_seed);
    }

    /// How bad the link is, and what became of packets: from the container, to the container.
    #[must_use]
    pub fn impairments(&self) -> (Impairments, ImpairStats, ImpairStats) {
        self.link.impaired().map_or_else(Default::default, |impaired| {
            let (up, down) = impaired.stats();
            (impaired.how(), up, down)
        })
    }

    /// Takes a frame that was read: to whom it is for, or, where the link is a bad one, on its way.
    pub(super) fn take_frame(&mut self, len: usize) {
        // What it answers came before.
        self.note_passed();
        let read = &self.read_buffer[..len];
        let Some((header, frame)) = self.link.split(read) else { return };
        if let Some(member) = &self.member
            && let Some(owner) = self.stack.share().owner_of_frame(frame)
        {
            if !member.hand_over(owner, header, frame) {
                self.stack.count_lost(DropReason::WorkerBusy);
            }
            return;
        }
        fault::strike_driver(frame);
        if self.link.hold_back(header, frame) {
            return;
        }
        if let Some(port) = &mut self.port
            && !port.pass(read, frame, self.now)
        {
            return;
        }
        let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
        self.stack.handle_frame(header, frame, self.now, &mut io);
    }

    /// Takes what has come through a bad link.
    pub(super) fn take_late_frames(&mut self) {
        while let Some(block) = self.link.come_through() {
            let (header, frame) = block.split_at(VNET_HEADER_LEN.min(block.len()));
            // Between interfaces of a network frames have their virtio-net headers.
            if let Some(port) = &mut self.port
                && !port.pass(&block, frame, self.now)
            {
                continue;
            }
            let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
            self.stack.handle_frame(header, frame, self.now, &mut io);
        }
    }
}
