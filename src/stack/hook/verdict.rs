//! What the hook's answers, and its silence, do to what waits for them.

use std::net::SocketAddr;

use super::{Held, Hook, HookVerdict, Known, OnFailure, Pending, QuestionId, Waiting, place_of};
use crate::config::rules::{Direction, Verdict};
use crate::stack::boundary::{
    Action, ArrivedDatagrams, CloseKind, Duration, FlowId, FrameSink, HostIo, Instant, Io, ListenerId,
};
use crate::stack::drop_reason::DropReason;
use crate::stack::flow::FlowProtocol;
use crate::stack::policy::judge::{Judged, Spliced};
use crate::stack::policy::{Ask, RuleMark, Standing};
use crate::stack::{Flow, Stack, forward};

impl Stack {
    /// What may be said of a flow that is about to begin: the hook's earlier answer, else [`RuleMark::AWAITED`], and it has to be
    /// asked; where there is no hook, what the rules say.
    pub(in crate::stack) fn consult(
        &mut self,
        ask: &Ask<'_>,
        bytes: usize,
        now: Instant,
    ) -> Result<RuleMark, DropReason> {
        let (Some(hook), Some(place)) = (&mut self.hook, place_of(ask)) else {
            return self.judge(ask, bytes, now);
        };
        match hook.known(&place, now) {
            Known::Said(said) => {
                hook.stats.remembered += u64::from(said.is_some());
                self.apply(said, ask, bytes, now)
            }
            Known::Nothing => Ok(RuleMark::AWAITED),
            Known::Busy => Err(DropReason::HookBusy),
        }
    }

    /// What comes of an answer, or of none.
    fn apply(
        &mut self,
        said: Option<HookVerdict>,
        ask: &Ask<'_>,
        bytes: usize,
        now: Instant,
    ) -> Result<RuleMark, DropReason> {
        let Some(hook) = &mut self.hook else { return self.judge(ask, bytes, now) };
        match said {
            Some(verdict) => hook.stats.said[verdict as usize] += 1,
            None => hook.stats.failed += 1,
        }
        let on_failure = hook.settings.on_failure;
        let rule = self.policy().map_or(RuleMark::NONE, |policy| policy.standing(Standing::Hook));
        let (verdict, reason) = match (said, on_failure) {
            (Some(HookVerdict::Allow), _) => return Ok(rule),
            (Some(HookVerdict::Pass), _) | (None, OnFailure::Pass) => return self.judge(ask, bytes, now),
            (Some(HookVerdict::Deny), _) => (Verdict::Deny, DropReason::RuleDenied),
            (Some(HookVerdict::Reject), _) => (Verdict::Reject, DropReason::RuleRejected),
            (None, OnFailure::Deny) => (Verdict::Deny, DropReason::HookFailed),
        };
        self.note_refusal(ask, verdict, rule, bytes, now);
        Err(reason)
    }

    /// Has the driver open a flow's socket: at once, or when the hook has let it.
    pub(in crate::stack) fn begin_opening(&mut self, flow: FlowId, action: Action, now: Instant) {
        if self.is_awaited(flow) {
            self.ask_about_flow(flow, Some(action), now);
        } else {
            self.open_socket(flow, action);
        }
    }

    /// Has the hook asked about a flow, which waits.
    pub(in crate::stack) fn ask_about_flow(&mut self, flow: FlowId, action: Option<Action>, now: Instant) {
        if let (Some(key), Some(ask)) = (self.flows.key(flow), self.ask_again(flow)) {
            self.ask(&ask, Some(key.container), Waiting::Flow(flow, action), now);
        }
    }

    /// Whether the hook has yet to say whether a flow may begin.
    pub(in crate::stack) fn is_awaited(&self, flow: FlowId) -> bool {
        self.hook.is_some() && self.flows.side(flow).is_some_and(|side| side.rule == RuleMark::AWAITED)
    }

    /// The same of one that the container has begun, which has no socket before.
    pub(in crate::stack) fn lacks_socket(&self, flow: FlowId) -> bool {
        self.is_awaited(flow) && self.begins(flow) == Some(Direction::Out)
    }

    /// The same of a client's, who may not even be heard of in the container.
    pub(in crate::stack) fn is_held_back(&self, flow: FlowId) -> bool {
        self.is_awaited(flow) && self.begins(flow) == Some(Direction::In)
    }

    fn begins(&self, flow: FlowId) -> Option<Direction> {
        self.flows.side(flow).map(|side| side.way.direction())
    }

    /// Asks about a client of a published UDP port, whose datagram is held until there is an answer.
    pub(in crate::stack) fn hold_client(
        &mut self,
        (listener, server): (ListenerId, SocketAddr),
        ask: &Ask<'_>,
        arrived: &ArrivedDatagrams,
        payload: &[u8],
        now: Instant,
    ) {
        let client = (listener, arrived.source, arrived.local);
        let held = vec![(*arrived, payload.into())];
        self.ask(ask, Some(server), Waiting::Client(client, held), now);
    }

    /// Asks about something past the link.
    pub(in crate::stack) fn ask_about_spliced(&mut self, spliced: &Spliced, now: Instant) -> Judged {
        let asked = self.ask(&spliced.ask(), spliced.inside, Waiting::Spliced(*spliced), now);
        asked.map_or(Judged::Refused, |question| Judged::Asked(question, *spliced))
    }

    /// The hook has answered a question, in words that were understood or not. It counts for all of its kind for so long.
    pub fn handle_verdict<H: HostIo, F: FrameSink>(
        &mut self,
        question: QuestionId,
        said: Option<HookVerdict>,
        lifetime: Duration,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let Some(hook) = &mut self.hook else { return };
        let Some(pending) = hook.take(question) else {
            hook.stats.stale += 1;
            return;
        };
        if let Some(verdict) = said
            && lifetime > Duration::ZERO
        {
            hook.remember(pending.place, verdict, lifetime, now);
        }
        self.enter(io, now, |stack, io| stack.conclude(question, pending, said, now, io));
    }

    /// The hook has ended: there will be no answers any more.
    pub fn handle_hook_gone<H: HostIo, F: FrameSink>(&mut self, now: Instant, io: &mut Io<'_, H, F>) {
        if let Some(hook) = &mut self.hook {
            hook.is_gone = true;
            hook.answers.clear();
            hook.outbox.clear();
        }
        self.give_up_questions(now, io);
    }

    /// What has waited too long is given up.
    pub(in crate::stack) fn give_up_questions<H: HostIo, F: FrameSink>(
        &mut self,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        let expired = |hook: &mut Hook| {
            let question = hook.expired(now)?;
            hook.take(question).map(|pending| (question, pending))
        };
        while let Some((question, pending)) = self.hook.as_deref_mut().and_then(expired) {
            self.enter(io, now, |stack, io| stack.conclude(question, pending, None, now, io));
        }
    }

    fn conclude<H: HostIo, F: FrameSink>(
        &mut self,
        question: QuestionId,
        pending: Pending,
        said: Option<HookVerdict>,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        match pending.waiting {
            Waiting::Flow(flow, action) => self.conclude_flow(flow, action, said, now, io.frames),
            Waiting::Client((listener, ..), held) => {
                self.conclude_client(listener, &held, said, now, io.frames);
            }
            Waiting::Spliced(spliced) => {
                let judged = self.apply(said, &spliced.ask(), 0, now);
                let judged = self.conclude_spliced(&spliced, judged, now);
                if let Some(hook) = &mut self.hook {
                    hook.settled.push_back((question, judged));
                }
            }
        }
    }

    /// A flow goes on, or ends before it has begun. It may be long gone.
    fn conclude_flow(
        &mut self,
        flow: FlowId,
        action: Option<Action>,
        said: Option<HookVerdict>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        if !self.is_awaited(flow) {
            return;
        }
        let (Some(key), Some(ask), Some(carried)) =
            (self.flows.key(flow), self.ask_again(flow), self.flows.carried(flow))
        else {
            return;
        };
        let bytes = usize::try_from(carried.up.bytes).unwrap_or(usize::MAX);
        let reason = match self.apply(said, &ask, bytes, now) {
            Ok(rule) => {
                self.flows.set_rule(flow, rule);
                self.begin_counting(flow, key, now);
                match action {
                    Some(action) => self.open_socket(flow, action),
                    None => self.queue_tcp(flow),
                }
                return;
            }
            Err(reason) => reason,
        };
        let direction = self.begins(flow).unwrap_or_default();
        // It was counted as the rule's that refused it, and never went any way.
        self.flows.take_carried(flow);
        self.note_refused_flow(&key, direction, reason, now);
        match (key.protocol, direction) {
            (FlowProtocol::Tcp, Direction::In) => {
                self.stats.record(reason);
                self.close_tcp(flow, CloseKind::Reset);
            }
            (FlowProtocol::Tcp, Direction::Out) => {
                self.stats.record(reason);
                if reason == DropReason::RuleRejected
                    && let (Ok(link), Some((_, Flow::Tcp(tcp)))) =
                        (self.link_view(), self.flows.get_mut(flow))
                {
                    tcp.endpoint.abort();
                    tcp.endpoint.poll_transmit(&link, now, frames);
                }
                self.forget_connecting(flow);
            }
            (FlowProtocol::Udp, _) => self.refuse_udp(flow, reason, now, frames),
            (FlowProtocol::Echo, _) => self.refuse_echo(flow, reason, now, frames),
        }
    }

    /// Has the driver open a socket that nothing stands in the way of. UDP sockets of one endpoint of the container share their
    /// port from when they are opened on.
    fn open_socket(&mut self, flow: FlowId, mut action: Action) {
        if let Action::OpenDatagram { target, preferred_port: 1.., beside, .. } = &mut action
            && !target.ip().is_unspecified()
            && let Some(key) = self.flows.key(flow)
        {
            *beside = self.mappings.join(key.container, flow, self.config.limits.peers_per_mapping);
        }
        self.actions.push_back(action);
    }

    /// A client of a published UDP port is let in with all that it has said so far, or not.
    fn conclude_client(
        &mut self,
        listener: ListenerId,
        held: &Held,
        said: Option<HookVerdict>,
        now: Instant,
        frames: &mut impl FrameSink,
    ) {
        // The port may be published no longer.
        let (Some((first, _)), Some(rule)) = (held.first(), self.published.get(&listener.0).copied()) else {
            return;
        };
        let bytes = held.iter().map(|(arrived, _)| arrived.len).sum();
        let admitted = forward::inbound(&self.config, &rule, first.source).and_then(|inbound| {
            let ask = Ask::inbound(FlowProtocol::Udp, first.source, inbound.server.port());
            let mark = self.apply(said, &ask, bytes, now)?;
            self.admit_client(listener, &inbound, first, mark, now)
        });
        match admitted {
            Ok((flow, key)) => held.iter().for_each(|(arrived, payload)| {
                self.deliver_held((flow, key), arrived, payload, now, frames);
            }),
            Err(reason) => {
                self.stats.record_many(reason, held.len() as u64);
                let local = SocketAddr::new(first.local.unwrap_or(rule.host_address), rule.host_port);
                self.note_refused_client(FlowProtocol::Udp, first.source, local, reason, now);
            }
        }
    }
}
