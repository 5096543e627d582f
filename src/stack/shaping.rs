//! Where flows meet the rates that limit them ([`super::shape`]).
//!
//! TCP is paced by its windows: toward the container a flow reads no more from the host than its turn allows, and the
//! host's kernel holds the sender back; toward the host what the container has sent stays in the endpoint's buffer, whose
//! window closes. Nothing is dropped. Of UDP the host's socket keeps what is not read; what the container sends waits,
//! bounded, and is dropped beyond that (`rate_limit`), as datagrams have no other way to be told. The DNS forwarder and
//! echo are paid for or free, and never wait.
//!
//! What is counted is payload, which is the same on both sides of us. Where nothing is limited, all of this is one
//! question at each place (`is_on`).

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use super::boundary::{DatagramPort, DatagramWrite, FlowId, FrameSink, HostIo, Instant, Io};
use super::drop_reason::DropReason;
use super::network_error::problem_of;
use super::policy::RuleMark;
use super::shape::{ClassId, Scheduler};
use super::spliced::{Heading, Lane, SplicedId};
use super::udp::Pending;
use super::{Flow, Stack, Unread, forward};
use crate::config::limits::Limits;
use crate::config::rate::Rate;
use crate::config::{Impairments, RateLimits};

/// What a flow may move now, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Toward the host.
    pub up: usize,
    /// Toward the container.
    pub down: usize,
}

impl Allowance {
    /// Whatever it likes.
    pub(super) const FREE: Allowance = Allowance { up: usize::MAX, down: usize::MAX };
}

/// Who moves bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mover {
    /// A flow's own, or what a published port's clients share.
    Of(Unread),
    /// Past the link.
    Spliced(SplicedId),
}

impl From<FlowId> for Mover {
    fn from(flow: FlowId) -> Mover {
        Mover::Of(Unread::Flow(flow))
    }
}

impl From<Unread> for Mover {
    fn from(unread: Unread) -> Mover {
        Mover::Of(unread)
    }
}

/// The rates of one container, and who waits for them.
#[derive(Debug)]
pub(super) struct Shaping {
    /// Something is limited, or somebody still waits.
    is_on: bool,
    up: Scheduler<Mover>,
    down: Scheduler<Mover>,
    /// Of what is spliced: who has a turn now, one a direction at most.
    spliced_turns: VecDeque<(Lane, usize)>,
    limits: RateLimits,
    class_limits: HashMap<ClassId, RateLimits, RandomState>,
    /// Flows of other classes than the first.
    classes: HashMap<FlowId, ClassId, RandomState>,
    /// Datagrams of the container that wait.
    held: HashMap<FlowId, VecDeque<Pending>, RandomState>,
    held_bytes: usize,
}

impl Shaping {
    pub(super) fn new(hasher: RandomState) -> Shaping {
        Shaping {
            is_on: false,
            up: Scheduler::new(hasher.clone()),
            down: Scheduler::new(hasher.clone()),
            spliced_turns: VecDeque::new(),
            limits: RateLimits::default(),
            class_limits: HashMap::with_hasher(hasher.clone()),
            classes: HashMap::with_hasher(hasher.clone()),
            held: HashMap::with_hasher(hasher),
            held_bytes: 0,
        }
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    fn settle(&mut self) {
        let is_waited_for = self.up.waiting() + self.down.waiting() > 0;
        let is_limited = !self.limits.is_off() || !self.class_limits.is_empty();
        self.is_on = is_limited || is_waited_for;
    }

    fn class_of(&self, flow: FlowId) -> ClassId {
        self.classes.get(&flow).copied().unwrap_or_default()
    }

    fn class_of_unread(&self, unread: Unread) -> ClassId {
        match unread {
            Unread::Flow(flow) => self.class_of(flow),
            // Clients of a published port share a socket, and with it whatever limits it.
            Unread::Listener(_) => ClassId::default(),
        }
    }

    /// Whether what the flow sends has to wait for its turn.
    pub(super) fn is_up_limited(&self, flow: FlowId) -> bool {
        self.is_on && self.up.is_limited(self.class_of(flow))
    }

    /// How many bytes of a flow may go straight to the host: all where there is no rate; where there is, a turn's, while
    /// nobody waits for one.
    pub(super) fn up_at_once(&self, flow: FlowId, now: Instant) -> usize {
        if self.is_up_limited(flow) { self.up.at_once(self.class_of(flow), now) } else { usize::MAX }
    }

    /// Pays for them.
    pub(super) fn pay_up_at_once(&mut self, flow: FlowId, bytes: usize, now: Instant) {
        if self.is_on && bytes > 0 {
            self.up.pay(flow.into(), self.class_of(flow), bytes, false, now);
        }
    }

    /// Whether what it is sent has to.
    pub(super) fn is_down_limited(&self, unread: Unread) -> bool {
        self.is_on && self.down.is_limited(self.class_of_unread(unread))
    }

    /// How many bytes may be read there now; where none, it is noted.
    pub(super) fn ask_down(&mut self, unread: Unread, now: Instant) -> usize {
        if !self.is_down_limited(unread) {
            return usize::MAX;
        }
        self.down.ask(unread.into(), self.class_of_unread(unread), now)
    }

    /// Pays for what was read, and notes whether there is more.
    pub(super) fn pay_down(&mut self, unread: Unread, bytes: usize, has_more: bool, now: Instant) {
        self.down.pay(unread.into(), self.class_of_unread(unread), bytes, has_more, now);
    }

    /// A flow is no more.
    pub(super) fn forget(&mut self, flow: FlowId) {
        self.up.forget(flow.into());
        self.down.forget(flow.into());
        self.classes.remove(&flow);
        let held = self.held.remove(&flow).unwrap_or_default();
        self.held_bytes -= held.iter().map(|datagram| datagram.payload.len()).sum::<usize>();
        self.settle();
    }

    /// Whether a datagram of so many bytes may leave now; otherwise it is to be held.
    pub(super) fn may_send(&mut self, flow: FlowId, bytes: usize, now: Instant) -> bool {
        if !self.is_up_limited(flow) {
            return true;
        }
        let class = self.class_of(flow);
        let may = !self.held.contains_key(&flow) && self.up.ask(flow.into(), class, now) > 0;
        if may {
            self.up.pay(flow.into(), class, bytes, false, now);
        }
        may
    }

    /// Holds a datagram until its flow has a turn.
    pub(super) fn hold(
        &mut self,
        flow: FlowId,
        datagram: Pending,
        limits: &Limits,
    ) -> Result<(), DropReason> {
        let bytes = datagram.payload.len();
        let count = self.held.get(&flow).map_or(0, VecDeque::len);
        let is_full =
            count >= limits.shaped_datagrams_per_flow || self.held_bytes + bytes > limits.shaped_total_bytes;
        if is_full {
            return Err(DropReason::RateLimit);
        }
        self.held_bytes += bytes;
        self.held.entry(flow).or_default().push_back(datagram);
        Ok(())
    }

    fn take_held(&mut self, flow: FlowId) -> Option<Pending> {
        let held = self.held.get_mut(&flow)?;
        let datagram = held.pop_front();
        if held.is_empty() {
            self.held.remove(&flow);
        }
        self.held_bytes -= datagram.as_ref().map_or(0, |datagram| datagram.payload.len());
        datagram
    }

    /// The class of what a rule has let through.
    pub(super) fn class_of_mark(&self, rule: RuleMark) -> ClassId {
        class_of_rule(rule).filter(|class| self.class_limits.contains_key(class)).unwrap_or_default()
    }

    fn lane(&mut self, heading: Heading) -> &mut Scheduler<Mover> {
        match heading {
            Heading::FromContainer => &mut self.up,
            Heading::ToContainer => &mut self.down,
        }
    }

    /// A turn has been given that is not paid for yet.
    fn is_owed(&self, heading: Heading) -> bool {
        self.spliced_turns.iter().any(|(lane, _)| lane.heading == heading)
    }

    /// See [`Stack::ask_spliced`].
    pub(super) fn ask_spliced(&mut self, lane: Lane, class: ClassId, now: Instant) -> usize {
        let scheduler = self.lane(lane.heading);
        if !scheduler.is_limited(class) {
            return usize::MAX;
        }
        scheduler.ask(Mover::Spliced(lane.id), class, now)
    }

    /// See [`Stack::pay_spliced`].
    pub(super) fn pay_spliced(
        &mut self,
        lane: Lane,
        class: ClassId,
        bytes: usize,
        has_more: bool,
        now: Instant,
    ) -> bool {
        let scheduler = self.lane(lane.heading);
        let is_limited = scheduler.is_limited(class);
        scheduler.pay(Mover::Spliced(lane.id), class, bytes, has_more && is_limited, now);
        self.settle();
        has_more && !is_limited
    }

    /// Whether somebody has a turn past the link.
    pub(super) fn has_spliced_turn(&self) -> bool {
        !self.spliced_turns.is_empty()
    }

    /// See [`Stack::poll_spliced_turn`].
    pub(super) fn poll_spliced_turn(&mut self) -> Option<(Lane, usize)> {
        self.spliced_turns.pop_front()
    }

    /// See [`Stack::forget_spliced`].
    pub(super) fn forget_spliced(&mut self, id: SplicedId) {
        self.up.forget(Mover::Spliced(id));
        self.down.forget(Mover::Spliced(id));
        self.settle();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_on {
            return None;
        }
        [self.up.poll_timeout(), self.down.poll_timeout()].into_iter().flatten().min()
    }
}

/// The class of what a rule has let through.
fn class_of_rule(rule: RuleMark) -> Option<ClassId> {
    let place = u32::try_from(rule.index()?).ok()?;
    Some(ClassId(place + 1))
}

impl Stack {
    /// Tells how bad the link is on purpose. Through a slow one connections toward the container begin as on any way through the
    /// world, and none has more on its way than the way with its queue holds: what is more would only be lost.
    pub fn expect_bottleneck(&mut self, how: &Impairments) {
        // Less a tenth: of headers, and of what is acknowledged only later.
        let held = |rate: Rate| rate.bytes_in(how.down.queue + how.down.delay + how.up.delay) * 9 / 10;
        self.bottleneck = how.down.rate.map(|rate| u32::try_from(held(rate)).unwrap_or(u32::MAX));
    }

    /// Limits what the container may carry from now on.
    pub fn limit_rates(&mut self, limits: RateLimits) {
        self.shaping.limits = limits;
        self.shaping.up.limit(limits.up);
        self.shaping.down.limit(limits.down);
        self.shaping.settle();
    }

    /// What limits the container now.
    #[must_use]
    pub fn rate_limits(&self) -> RateLimits {
        self.shaping.limits
    }

    /// Limits what the flows of a class, which is not the first, may carry together from now on.
    pub fn limit_class(&mut self, class: ClassId, limits: RateLimits) {
        self.shaping.up.limit_class(class, limits.up);
        self.shaping.down.limit_class(class, limits.down);
        if limits.is_off() {
            self.shaping.class_limits.remove(&class);
        } else {
            self.shaping.class_limits.insert(class, limits);
        }
        self.shaping.settle();
    }

    /// Puts a flow into a class; the first is that of all flows that are in no other.
    pub fn assign_class(&mut self, flow: FlowId, class: ClassId) {
        if class == ClassId::default() {
            self.shaping.classes.remove(&flow);
        } else {
            self.shaping.classes.insert(flow, class);
        }
    }

    /// Limits what the rules in force limit, and nothing else.
    pub(super) fn limit_rules(&mut self) {
        let former: Vec<ClassId> = self.shaping.class_limits.keys().copied().collect();
        former.into_iter().for_each(|class| self.limit_class(class, RateLimits::default()));
        let rules = self.policy().map(|policy| policy.rules().list.as_slice()).unwrap_or_default();
        let limits: Vec<(ClassId, RateLimits)> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| !rule.limit.is_off())
            .filter_map(|(index, rule)| Some((class_of_rule(RuleMark::of(index))?, rule.limit)))
            .collect();
        limits.into_iter().for_each(|(class, limits)| self.limit_class(class, limits));
        let flows: Vec<FlowId> = self.flows.ids().collect();
        for flow in flows {
            let rule = self.flows.side(flow).map_or(RuleMark::NONE, |side| side.rule);
            self.limit_by_rule(flow, rule);
        }
    }

    /// A flow was let through by this rule.
    pub(super) fn limit_by_rule(&mut self, flow: FlowId, rule: RuleMark) {
        let class = self.shaping.class_of_mark(rule);
        if class != ClassId::default() || !self.shaping.classes.is_empty() {
            self.assign_class(flow, class);
        }
    }

    /// What a TCP flow may move now.
    pub(super) fn tcp_allowance(&mut self, flow: FlowId, now: Instant) -> Allowance {
        let Some(Flow::Tcp(tcp)) = self.flows.get(flow) else { return Allowance::FREE };
        let (can_write, can_read) = (tcp.can_write_on(), tcp.can_read_on());
        let class = self.shaping.class_of(flow);
        let up = match self.shaping.is_up_limited(flow) {
            false => usize::MAX,
            true if can_write => self.shaping.up.ask(flow.into(), class, now),
            true => 0,
        };
        let down = match self.shaping.is_down_limited(Unread::Flow(flow)) {
            false => usize::MAX,
            true if can_read => self.shaping.ask_down(Unread::Flow(flow), now),
            true => 0,
        };
        Allowance { up, down }
    }

    /// Pays for what a TCP flow has moved, and notes whether it could move more. Whether it is to have another turn
    /// outside of all rates.
    pub(super) fn pay_tcp(&mut self, flow: FlowId, moved: Allowance, now: Instant) -> bool {
        let Some(Flow::Tcp(tcp)) = self.flows.get(flow) else { return false };
        let (can_write, can_read) = (tcp.can_write_on(), tcp.can_read_on());
        let class = self.shaping.class_of(flow);
        let is_up_limited = self.shaping.is_up_limited(flow);
        let is_down_limited = self.shaping.is_down_limited(Unread::Flow(flow));
        self.shaping.up.pay(flow.into(), class, moved.up, is_up_limited && can_write, now);
        self.shaping.pay_down(Unread::Flow(flow), moved.down, is_down_limited && can_read, now);
        (can_read && !is_down_limited) || (can_write && !is_up_limited)
    }

    /// Lets those go on whose turn has come.
    pub(super) fn serve_turns<H: HostIo, F: FrameSink>(&mut self, now: Instant, io: &mut Io<'_, H, F>) {
        // Whoever could not move anything, as the link is full, must not keep the driver here.
        let up = if self.shaping.is_owed(Heading::FromContainer) { 0 } else { self.shaping.up.waiting() };
        for _ in 0..up {
            let Some((mover, most)) = self.shaping.up.poll(now) else { break };
            let flow = match mover {
                Mover::Of(Unread::Flow(flow)) => flow,
                Mover::Of(Unread::Listener(_)) => continue,
                Mover::Spliced(id) => {
                    self.shaping
                        .spliced_turns
                        .push_back((Lane { id, heading: Heading::FromContainer }, most));
                    // It pays only later, and nobody else before.
                    break;
                }
            };
            match self.flows.get(flow) {
                Some(Flow::Tcp(_)) => {
                    self.enter(io, now, |stack, io| {
                        stack.advance_tcp_within(flow, Allowance { up: most, down: 0 }, now, io);
                    });
                }
                Some(Flow::Udp(_)) => {
                    self.enter(io, now, |stack, io| stack.send_held(flow, most, now, io));
                }
                Some(Flow::Echo(_) | Flow::TimeWait(_)) | None => self.shaping.forget(flow),
            }
        }
        let down = if self.shaping.is_owed(Heading::ToContainer) { 0 } else { self.shaping.down.waiting() };
        for _ in 0..down {
            let Some((mover, most)) = self.shaping.down.poll(now) else { break };
            let unread = match mover {
                Mover::Of(unread) => unread,
                Mover::Spliced(id) => {
                    self.shaping.spliced_turns.push_back((Lane { id, heading: Heading::ToContainer }, most));
                    break;
                }
            };
            match unread {
                Unread::Flow(flow) if matches!(self.flows.get(flow), Some(Flow::Tcp(_))) => {
                    self.enter(io, now, |stack, io| {
                        stack.advance_tcp_within(flow, Allowance { up: 0, down: most }, now, io);
                    });
                }
                Unread::Flow(_) | Unread::Listener(_) => {
                    self.enter(io, now, |stack, io| stack.read_within(unread, most, now, io));
                }
            }
        }
        self.shaping.settle();
    }

    /// Sends what a UDP flow of the container's has waiting, as far as its turn allows.
    fn send_held<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        most: usize,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let mut moved = 0;
        while moved < most {
            let Some(datagram) = self.shaping.take_held(flow) else { break };
            moved += datagram.payload.len();
            self.send_late(flow, &datagram, now, io);
        }
        let has_more = self.shaping.held.contains_key(&flow);
        let class = self.shaping.class_of(flow);
        self.shaping.up.pay(flow.into(), class, moved, has_more, now);
    }

    /// Sends a datagram that has waited; errors are told as if it left only now.
    fn send_late<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        datagram: &Pending,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let Some((key, Flow::Udp(body))) = self.flows.get_mut(flow) else { return };
        let (port, how) = match body.client() {
            Some((listener, client, local)) => {
                let how = super::boundary::DatagramSend { to: Some(client), from: local, ..datagram.how };
                (DatagramPort::Listener(listener), how)
            }
            None => (DatagramPort::Flow(flow), datagram.how),
        };
        match super::udp::send_from(self.config.link.segment, io.host, port, &datagram.payload, &how) {
            DatagramWrite::Sent => {}
            DatagramWrite::Blocked => self.stats.record(DropReason::HostQueueFull),
            DatagramWrite::Failed(error) => {
                self.stats.record(DropReason::HostRefused);
                if let Some(problem) = problem_of(error) {
                    let to = datagram.how.to;
                    let remote = to.map_or(key.remote, |to| forward::shown_peer(&self.config, to));
                    let key = super::FlowKey { remote, ..key };
                    let offending = self.rebuild_udp(&key, &datagram.sent, &datagram.payload);
                    self.report(problem, offending, None, now, io.frames);
                }
            }
        }
    }
}
