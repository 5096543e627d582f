//! The driver: one thread that owns one link, one `Stack`, one poll and every host socket of its flows.
//!
//! A turn of the loop: wait; hand every event to the core; read a batch of frames; accept a batch of
//! connections; let deadlines pass; then let the core flush and carry out its actions, whose immediate results
//! go straight back to it. Everything is edge-triggered: what a budget leaves undone is remembered here and
//! done next turn without waiting, so one busy source never starves the others.
//!
//! The clock is read here and nowhere else, once a turn, and more often in a long one.

mod accept;
pub mod answer;
pub mod audit;
pub mod clock;
mod crew;
mod desk;
mod fault;
pub mod hook;
mod intake;
mod link;
pub mod loopback;
pub mod mailbox;
mod observed;
mod paced;
mod past_link;
pub mod recorder;
mod requests;
mod rest;
mod scarcity;
mod sockets;
mod spin;
pub mod splice;
pub mod switch;
mod token;
mod told;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use tracing::debug;

use self::audit::Audit;
use self::clock::Clock;
use self::crew::Member;
use self::desk::Desk;
use self::hook::Hook;
use self::intake::{Intake, TurnEnd};
use self::link::{Link, LinkRead};
use self::loopback::{Loopback, LoopbackPaths};
use self::mailbox::{Letter, Mailbox};
use self::recorder::Recorder;
use self::rest::Rest;
use self::scarcity::Scarcity;
use self::sockets::{Noticed, Sockets};
use self::spin::Spin;
use self::switch::Port;
use self::token::{FlowMark, Subject};
use self::told::{Obituary, log_event};
use crate::config::{Config, PortForwarding};
use crate::observe::capture::Capture;
use crate::stack::Stack;
use crate::stack::boundary::{DatagramPort, Duration, FlowId, HostError, HostEvent, Instant, Io, ListenerId};
use crate::stack::isolation::caught;
use crate::stack::service::names::NameTable;
use crate::sys::confined::Confined;
use crate::sys::socket::ListenError;

pub use self::link::Device;
pub use self::sockets::Listener;

/// Readiness events taken from the kernel at once; more wait there.
const EVENTS_PER_TURN: usize = 512;
/// Bytes of frames read before the others get their turn.
const FRAME_BYTES_PER_TURN: usize = 256 << 10;
/// Actions carried out before the others get their turn.
const ACTIONS_PER_TURN: usize = 1_024;

/// How long the end waits for bytes that the container has sent to reach their peers.
const LINGER: Duration = Duration::from_secs(10);
/// A connection silent for so long is not waited for.
const LINGER_QUIET: Duration = Duration::from_millis(100);

/// Another descriptor to watch, and what to do when it is readable. It must be drained then: its next event
/// comes only after that.
pub struct Source<'a> {
    descriptor: OwnedFd,
    on_readable: Box<dyn FnMut() -> Reaction + 'a>,
}

impl<'a> Source<'a> {
    /// Watches a duplicate of `watched`, so that `on_readable` may own or borrow the thing itself.
    pub fn new(watched: &impl AsFd, on_readable: impl FnMut() -> Reaction + 'a) -> io::Result<Source<'a>> {
        let descriptor = watched.as_fd().try_clone_to_owned()?;
        Ok(Source { descriptor, on_readable: Box::new(on_readable) })
    }
}

/// What a [`Source`] asks of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Continue,
    /// To tell the core of new resolvers.
    ResolversChanged(Vec<SocketAddr>),
    /// To tell the core who is on the network now.
    NamesChanged(Arc<NameTable>),
    /// To send from other addresses than these, which the host has lost; nobody knows which where there are none.
    AddressesLost(Option<Vec<IpAddr>>),
    /// To end with this exit status, at once.
    Finish(u8),
    /// To end with this exit status once what the container has sent is delivered, or has been waited for long
    /// enough.
    FinishDelivered(u8),
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The TAP was taken away, with its namespace or from it; or the guest is gone.
    LinkGone,
    /// A source asked for it.
    Finished(u8),
}

/// Why there is no way from loopback to loopback.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// A port of the container's loopback.
    #[error("in the container: {0}")]
    Listen(#[from] ListenError),
    /// No room in the poll.
    #[error("cannot watch the ways past the link: {0}")]
    Poll(io::Error),
}

/// The driver of one link.
pub struct Worker {
    poll: Poll,
    config: Arc<Config>,
    stack: Stack,
    link: Link,
    sockets: Sockets,
    clock: Clock,
    now: Instant,
    read_buffer: Box<[u8]>,
    /// The link has not said "nothing more" since its last event.
    is_link_ready: bool,
    intake: Intake,
    /// Actions are left from the last turn.
    is_behind: bool,
    /// Published TCP ports that have not said "nothing more" since their last event, each once.
    ready_listeners: VecDeque<ListenerId>,
    scarcity: Scarcity,
    /// Flows that found the table full, as far as the user has been told.
    flows_refused: u64,
    desk: Desk,
    audit: Audit,
    /// Whom the user has us ask about what begins.
    hook: Option<Box<Hook>>,
    mailbox: Option<Mailbox<Letter>>,
    /// What it is among several workers of one interface.
    member: Option<Box<Member>>,
    /// Those that it leads, until they run.
    others: Vec<Worker>,
    loopback: Option<Box<Loopback>>,
    /// Listeners on addresses that the host does not have.
    freebind: bool,
    /// A source has asked for the end: the exit status, and until when what is under way may arrive.
    finish: Option<(u8, Instant)>,
    spin: Spin,
    rest: Rest,
    /// The way to the other containers of a network.
    port: Option<Port>,
    /// Those who watch, if there are any.
    recorder: Option<Box<Recorder>>,
    /// The capture that was asked for at the start.
    own_capture: Option<u32>,
    /// What chance comes from where the link is a bad one.
    impair_seed: u64,
}

impl Worker {
    /// A driver for a TAP or a guest's socket. `listeners` are the sockets of `config.publish`, in its order; `secret` seeds what
    /// must not be guessed.
    pub fn new(
        config: Arc<Config>,
        device: impl Into<Device>,
        listeners: Vec<Listener>,
        resolvers: Vec<SocketAddr>,
        secret: [u64; 4],
    ) -> io::Result<Worker> {
        Worker::assemble(config, device.into(), listeners, resolvers, secret, Clock::start())
    }

    fn assemble(
        config: Arc<Config>,
        device: Device,
        listeners: Vec<Listener>,
        resolvers: Vec<SocketAddr>,
        secret: [u64; 4],
        clock: Clock,
    ) -> io::Result<Worker> {
        let now = clock.now();
        let poll = Poll::new()?;
        let link = Link::new(device);
        let descriptor = link.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), Subject::Link.token(), Interest::READABLE)?;
        let sockets = Sockets::new(poll.registry().try_clone()?, listeners, config.outbound)?;
        let stack = Stack::new(Arc::clone(&config), link.offload(), resolvers, secret, now);
        Ok(Worker {
            poll,
            config,
            stack,
            link,
            sockets,
            clock,
            now,
            read_buffer: Link::read_buffer(),
            is_link_ready: true,
            intake: Intake::default(),
            is_behind: false,
            ready_listeners: VecDeque::new(),
            scarcity: Scarcity::default(),
            flows_refused: 0,
            desk: Desk::default(),
            audit: Audit::default(),
            hook: None,
            mailbox: None,
            member: None,
            others: Vec::new(),
            loopback: None,
            freebind: false,
            finish: None,
            spin: Spin::default(),
            rest: Rest::default(),
            port: None,
            recorder: None,
            own_capture: None,
            // Of a sum nobody learns the parts.
            impair_seed: secret.into_iter().fold(0, u64::wrapping_add),
        })
    }

    /// The same, with ways from loopback to loopback past the link.
    pub fn with_loopback(
        mut self,
        paths: LoopbackPaths,
        forwarding: &PortForwarding,
    ) -> Result<Worker, LoopbackError> {
        let registry = self.poll.registry().try_clone().map_err(LoopbackError::Poll)?;
        let mut loopback = Box::new(Loopback::new(registry, &self.config, paths, forwarding)?);
        let published: Vec<_> = self.stack.published().map(|(listener, rule)| (listener, *rule)).collect();
        for (listener, rule) in published {
            loopback.publish(&self.config, listener, &rule, &mut self.sockets);
        }
        self.freebind = forwarding.freebind;
        self.loopback = Some(loopback);
        Ok(self)
    }

    /// The same, on a network: frames for its other containers go to them.
    #[must_use]
    pub fn with_port(mut self, mut port: Port) -> Worker {
        port.set_clock(self.clock.now());
        self.port = Some(port);
        self
    }

    /// The same, with every frame recorded.
    #[must_use]
    pub fn with_capture(mut self, mut capture: Capture) -> Worker {
        capture.begin(Clock::epoch_micros().saturating_sub(self.clock.now().total_micros().unsigned_abs()));
        self.link.record_in(capture);
        self
    }

    /// Drives until the link goes away or a source asks for the end; not before all that it does not need is given up.
    pub fn run(mut self, sources: Vec<Source<'_>>, confined: Confined) -> io::Result<ExitReason> {
        if !self.others.is_empty() {
            return self.run_crew(sources, confined);
        }
        // Alone, it has a reason of its own.
        self.drive(sources).map(|reason| reason.unwrap_or(ExitReason::LinkGone))
    }

    /// The loop, until there is a reason to end, or, without one, until another worker of the interface has one.
    fn drive(&mut self, mut sources: Vec<Source<'_>>) -> io::Result<Option<ExitReason>> {
        for (place, source) in (0..).zip(&sources) {
            let descriptor = source.descriptor.as_raw_fd();
            let token = Subject::Source(place).token();
            self.poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        }
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let _obituary = if self.port.is_some() { Obituary::OfOne } else { Obituary::OfAll };
        loop {
            match self.wait(&mut events) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                // An interrupted wait has no events.
                Err(_) => events.clear(),
                Ok(()) => {}
            }
            self.link.tick(self.now);
            if self.recorder.is_some() {
                self.note_time();
            }
            for event in &events {
                match Subject::from_token(event.token()) {
                    Some(Subject::Link) => self.is_link_ready = true,
                    Some(Subject::Control(counter)) => self.desk.note(counter),
                    Some(Subject::Listener(listener)) => self.handle_listener(listener, event),
                    Some(Subject::Flow(mark)) => self.handle_flow(mark, event),
                    Some(
                        subject @ (Subject::SplicedInitiating(_)
                        | Subject::SplicedTarget(_)
                        | Subject::Outward(_)
                        | Subject::Relay(_)
                        | Subject::Exchange(_)),
                    ) => self.handle_past_link(subject, event),
                    Some(Subject::Source(place)) => {
                        let Some(source) = sources.get_mut(place as usize) else { continue };
                        let reaction = (source.on_readable)();
                        self.react(reaction);
                    }
                    Some(Subject::Mailbox) => self.note_bell(),
                    Some(Subject::Observer(number)) => self.handle_observer(number, event),
                    Some(Subject::Hook) => self.note_hook(),
                    None => {}
                }
            }
            // First: a frame may follow from what a letter tells, as a question does from a name.
            self.open_letters();
            self.feed();
            self.read_link();
            self.take_late_frames();
            self.accept();
            self.serve_control();
            self.admit_clients();
            self.serve_loopback();
            self.pace_spliced();
            self.expire();
            self.serve_hook();
            self.settle();
            self.note_starved();
            self.serve_crew();
            self.tell_of_refused_flows();
            while let Some(event) = self.stack.poll_event() {
                log_event(&event);
                self.tell_observers(&event);
            }
            self.serve_observers();
            self.write_audit();
            self.give_back_memory();
            if let Some(reason) = self.end_of_turn() {
                return Ok(reason);
            }
        }
    }

    /// Waits for events, and reads the clock after that.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        const NOT_AT_ALL: Option<std::time::Duration> = Some(std::time::Duration::ZERO);
        let patience = self.patience();
        let began = self.clock.now();
        let stats = self.stack.stats();
        let switched = self.port.as_ref().map_or(0, Port::moved);
        let moved = stats.from_container.bytes + stats.to_container.bytes + switched;
        let is_pausing = patience != NOT_AT_ALL;
        if is_pausing && self.spin.is_worth_it(moved) {
            let longest =
                patience.map_or(Spin::LONGEST.into(), |patience| patience.min(Spin::LONGEST.into()));
            loop {
                self.poll.poll(events, NOT_AT_ALL)?;
                self.now = self.clock.now();
                let waited = self.now - began;
                if !events.is_empty() {
                    self.spin.learn(waited);
                    self.rest.note_work(self.now);
                    return Ok(());
                }
                if waited >= longest.into() {
                    break;
                }
            }
        }
        let outcome = self.poll.poll(events, patience);
        self.now = self.clock.now();
        if is_pausing {
            self.spin.learn(self.now - began);
        }
        if !events.is_empty() || !is_pausing {
            self.rest.note_work(self.now);
        }
        outcome
    }

    fn end(&mut self, reason: ExitReason) -> ExitReason {
        self.link.tick(self.now);
        self.conclude_captures();
        self.end_audit();
        debug!(dropped_by_link = self.link.dropped(), stats = ?self.stack.stats(), "ended");
        reason
    }

    /// How long to wait for events; `None` for as long as it takes.
    fn patience(&self) -> Option<std::time::Duration> {
        if self.is_link_ready
            || self.is_behind
            || self.desk.is_ready()
            || self.has_letters()
            || self.has_client_to_admit()
            || self.hook.as_ref().is_some_and(|hook| hook.is_ready())
            || self.stack.has_spliced_turn()
            || self.loopback.as_ref().is_some_and(|loopback| loopback.is_behind(&self.scarcity))
            || self.next_to_accept().is_some()
            || (self.scarcity.is_waiting() && self.has_closed())
        {
            return Some(std::time::Duration::ZERO);
        }
        let look_again = self.finish.map(|_| self.now + LINGER_QUIET);
        let control = self.desk.poll_timeout();
        let loopback = self.loopback.as_ref().and_then(|loopback| loopback.poll_timeout());
        let deadlines = [
            self.stack.poll_timeout(),
            self.link.poll_timeout(),
            self.scarcity.poll_timeout(),
            self.rest.poll_timeout(),
            look_again,
            control,
            loopback,
        ];
        let earliest = deadlines.into_iter().flatten().min()?;
        let wait_micros = earliest.total_micros().saturating_sub(self.clock.now().total_micros());
        Some(std::time::Duration::from_micros(u64::try_from(wait_micros).unwrap_or(0)))
    }

    fn tell_stack(&mut self, event: HostEvent) {
        let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
        self.stack.handle_host(event, self.now, &mut io);
    }

    /// Works on the socket of one flow: a panic there ends that flow.
    fn with_sockets<R>(&mut self, flow: FlowId, work: impl FnOnce(&mut Sockets) -> R) -> Option<R> {
        let outcome = caught(|| work(&mut self.sockets));
        if outcome.is_err() {
            let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
            self.stack.give_up(flow, self.now, &mut io);
        }
        outcome.ok()
    }

    fn handle_flow(&mut self, mark: FlowMark, event: &Event) {
        let Some(flow) = self.sockets.flow_of(mark) else { return };
        match self.with_sockets(flow, |sockets| sockets.note(flow, event)).unwrap_or(Noticed::Nothing) {
            Noticed::Nothing => {}
            Noticed::Connect(Ok(())) => self.tell_stack(HostEvent::Connected { flow }),
            Noticed::Connect(Err((error, notice))) => {
                self.tell_stack(HostEvent::ConnectFailed { flow, error, notice });
            }
            Noticed::Stream { readable, writable } => {
                if writable {
                    self.tell_stack(HostEvent::Writable { flow });
                }
                if readable {
                    self.tell_stack(HostEvent::Readable { flow });
                }
            }
            Noticed::Datagram { readable, reports } => {
                if reports {
                    self.relay_reports(DatagramPort::Flow(flow));
                }
                if readable {
                    self.tell_stack(HostEvent::Readable { flow });
                }
            }
        }
    }

    /// The kernel bounds the queue of reports by the socket's receive buffer.
    fn relay_reports(&mut self, port: DatagramPort) {
        while let Some(report) = self.sockets.take_report(port) {
            self.tell_stack(HostEvent::NetworkError { port, report });
        }
    }

    fn handle_listener(&mut self, listener: ListenerId, event: &Event) {
        if self.sockets.is_stream_listener(listener) {
            if !self.ready_listeners.contains(&listener) {
                self.ready_listeners.push_back(listener);
            }
            return;
        }
        if event.is_error() {
            self.relay_reports(DatagramPort::Listener(listener));
        }
        if event.is_readable() {
            self.sockets.note_readable(listener);
            self.tell_stack(HostEvent::ListenerReadable { listener });
        }
    }

    /// Reads frames until there are none or the others must have their turn.
    fn read_link(&mut self) {
        if self.is_link_ready {
            self.stack.note_crowd(self.intake.gathers());
            let end = self.read_frames();
            self.is_link_ready = end != TurnEnd::Drained;
        }
    }

    fn read_frames(&mut self) -> TurnEnd {
        let (mut frames, mut bytes, is_crowded) = (0, 0, self.intake.is_crowded());
        let began = if is_crowded { self.clock.now() } else { self.now };
        let end = loop {
            if frames == self.intake.most() {
                break TurnEnd::Full;
            }
            if bytes >= FRAME_BYTES_PER_TURN {
                break TurnEnd::Bulky;
            }
            let looks = is_crowded && frames % Intake::LOOK == Intake::LOOK - 1;
            if looks && self.clock.now() - began >= Intake::LONGEST {
                break TurnEnd::Late;
            }
            let LinkRead::Frame(len) = self.link.read(&mut self.read_buffer) else { break TurnEnd::Drained };
            (frames, bytes) = (frames + 1, bytes + len);
            self.take_frame(len);
        };
        self.intake.learn(end, frames, bytes);
        end
    }

    fn expire(&mut self) {
        if self.stack.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
            let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
            self.stack.handle_timeout(self.now, &mut io);
        }
    }

    /// Sends the datagrams that were gathered in this turn.
    fn send_datagrams(&mut self) {
        self.sockets.send_waiting();
        while let Some(event) = self.sockets.take_lost() {
            self.tell_stack(event);
        }
    }

    /// Lets the core send what it holds back and carries out its actions, until it wants nothing more.
    fn settle(&mut self) {
        let mut budget = ACTIONS_PER_TURN;
        loop {
            let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
            self.stack.flush(self.now, &mut io);
            // Sockets may be closed below.
            self.send_datagrams();
            let before = budget;
            while budget > 0 {
                let Some(action) = self.stack.poll_action() else { break };
                budget -= 1;
                let outcome = match action.flow() {
                    Some(flow) => self.with_sockets(flow, |sockets| sockets.execute(action)),
                    None => Some(self.sockets.execute(action)),
                };
                if let Some(event) = outcome.flatten() {
                    if matches!(event, HostEvent::ConnectFailed { error: HostError::Exhausted, .. }) {
                        self.scarcity.tell(self.now);
                    }
                    self.tell_stack(event);
                }
            }
            self.is_behind = budget == 0;
            if self.is_behind || budget == before {
                self.send_datagrams();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
