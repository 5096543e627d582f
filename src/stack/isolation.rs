//! A bug costs a flow, not the network.
//!
//! Whatever the driver has the core do for one frame, one event, one flow or one deadline runs within
//! [`Stack::enter`], the one place that catches a panic. The flow that was in hand then, which is the one that the flow
//! table lent out last, ends: both sides see a RST, or nothing where not even that can be made. What the core keeps as
//! sums over its flows (memory charged, handshakes, clients of published ports) is counted anew without it, and
//! datagrams in reassembly are forgotten. The fault is counted as a drop and told as an event.
//!
//! Only what consumes its cause is caught, since anything else would come again at once: a panic in making an unasked router
//! advertisement ends the process, as does a flow table that does not add up any more. So does a panic while this module tidies up, but
//! for the farewell, which is caught on its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::boundary::{Action, CloseKind, FlowId, FrameSink, HostIo, Instant, Io, StackEvent};
use super::drop_reason::DropReason;
use super::flow::FlowProtocol;
use super::reassembly::Reassembler;
use super::stats::{CountedFrames, Traffic};
use super::tcp::relay::TcpFlow;
use super::{Flow, Stack};

/// What a panic has interrupted; the panic hook has told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// Calls, and catches the panic. What `call` was changing has to be put right by the caller.
///
/// # Errors
/// It panicked.
pub fn caught<R>(call: impl FnOnce() -> R) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Fault)
}

impl Stack {
    /// Runs one piece of work, counts the frames that it sends, and outlives its panic: `None` if there was one.
    pub(super) fn enter<H: HostIo, F: FrameSink, R>(
        &mut self,
        io: &mut Io<'_, H, F>,
        now: Instant,
        work: impl FnOnce(&mut Stack, &mut Io<'_, H, CountedFrames<'_, F>>) -> R,
    ) -> Option<R> {
        let mut sent = Traffic::default();
        self.flows.lay_down();
        let outcome = caught(|| {
            let mut frames = CountedFrames::new(&mut *io.frames, &mut sent);
            work(self, &mut Io { host: &mut *io.host, frames: &mut frames })
        });
        if outcome.is_err() {
            let flow = self.flows.in_hand();
            let mut frames = CountedFrames::new(&mut *io.frames, &mut sent);
            // Without a farewell the container's next segment is answered by a RST.
            let _ = caught(|| self.bid_farewell(flow, now, &mut frames));
            self.recover(flow);
        }
        self.stats.to_container.add(sent);
        outcome.ok()
    }

    /// The same for work that sends nothing.
    pub(super) fn enter_quietly<R>(&mut self, work: impl FnOnce(&mut Stack) -> R) -> Option<R> {
        self.flows.lay_down();
        let outcome = caught(|| work(self));
        if outcome.is_err() {
            self.recover(self.flows.in_hand());
        }
        outcome.ok()
    }

    /// Ends a flow whose socket the driver has failed to handle: the driver has caught the panic.
    pub fn give_up<H: HostIo, F: FrameSink>(&mut self, flow: FlowId, now: Instant, io: &mut Io<'_, H, F>) {
        let mut sent = Traffic::default();
        let mut frames = CountedFrames::new(&mut *io.frames, &mut sent);
        let _ = caught(|| self.bid_farewell(Some(flow), now, &mut frames));
        self.recover(Some(flow));
        self.stats.to_container.add(sent);
    }

    /// Resets the container's side of a TCP flow.
    fn bid_farewell(&mut self, flow: Option<FlowId>, now: Instant, frames: &mut impl FrameSink) {
        let Ok(link) = self.link_view() else { return };
        if let Some((_, Flow::Tcp(tcp))) = flow.and_then(|flow| self.flows.get_mut(flow)) {
            tcp.endpoint.abort();
            tcp.endpoint.poll_transmit(&link, now, frames);
        }
    }

    /// Takes a flow out without asking it anything, and makes the sums agree with what is left.
    fn recover(&mut self, flow: Option<FlowId>) {
        self.stats.record(DropReason::Fault);
        let key = flow.and_then(|flow| self.flows.key(flow));
        if let Some(flow) = flow
            && let Some(key) = key
        {
            self.discard(flow, key.protocol);
        }
        assert!(self.flows.is_sound(), "a fault has left the flow table in disorder");
        let flows = &self.flows;
        self.clients.retain(|_, flow| flows.get(*flow).is_some());
        self.mappings.retain(|flow| flows.get(flow).is_some());
        let tcp =
            || flows.bodies().filter_map(|body| if let Flow::Tcp(tcp) = body { Some(&**tcp) } else { None });
        self.memory.recount(tcp().map(|tcp| tcp.charged_bytes).sum());
        self.handshakes.recount(tcp().map(TcpFlow::handshake));
        self.reassembler = Reassembler::new(self.config.limits.reassembly);
        self.tell(StackEvent::Faulted { ended: key.map(|key| (key.container, key.remote)) });
    }

    fn discard(&mut self, flow: FlowId, protocol: FlowProtocol) {
        let close = |how| Action::Close { flow, how };
        match self.flows.remove(flow) {
            Some(Flow::Tcp(_)) => self.actions.push_back(close(CloseKind::Reset)),
            Some(Flow::Udp(udp)) if udp.client().is_some() => {}
            Some(Flow::Udp(_) | Flow::Echo(_)) => self.actions.push_back(close(CloseKind::Graceful)),
            // Its end was told when it began to rest.
            Some(Flow::TimeWait(_)) | None => return,
        }
        self.tell_closed(flow, protocol);
    }

    /// Whether the sums that the core keeps agree with its flows; an error says which does not. It looks at every
    /// flow: for tests.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check(&self) -> Result<(), String> {
        let tcp = || {
            self.flows.bodies().filter_map(|body| if let Flow::Tcp(tcp) = body { Some(&**tcp) } else { None })
        };
        let charged: usize = tcp().map(|tcp| tcp.charged_bytes).sum();
        let mut handshakes = self.handshakes.clone();
        handshakes.recount(tcp().map(TcpFlow::handshake));
        let queued = tcp().filter(|tcp| tcp.queued).count();
        let in_queue = self.queue.iter().filter(|flow| self.flows.get(**flow).is_some()).count();
        let limits = &self.config.limits;
        let expectations = [
            (self.flows.is_sound(), "the flow table"),
            (self.flows.len() <= limits.flows, "the number of flows"),
            (charged == self.memory.charged(), "the memory that is charged"),
            (charged <= limits.tcp_buffer_total_bytes, "the memory that may be charged"),
            (handshakes == self.handshakes, "the handshakes"),
            (queued == in_queue, "the flows that wait to be advanced"),
            (self.clients.values().all(|flow| self.flows.get(*flow).is_some()), "the clients"),
            (self.reassembler.bytes() <= limits.reassembly.total_bytes, "the fragments"),
            (self.events.len() <= limits.events, "the events"),
        ];
        let broken: Vec<_> =
            expectations.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect();
        if broken.is_empty() { Ok(()) } else { Err(format!("do not add up: {}", broken.join(", "))) }
    }
}
