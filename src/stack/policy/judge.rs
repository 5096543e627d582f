//! Asking the policy, from every path, and judging again what was let through before.

use std::net::SocketAddr;

use super::{Ask, Judgement, Policy, RuleMark, Standing};
use crate::config::Rules;
use crate::config::rules::{Direction, Verdict};
use crate::stack::audit::{Audit, AuditMark};
use crate::stack::boundary::{FlowId, FrameSink, HostIo, Instant, Io};
use crate::stack::drop_reason::DropReason;
use crate::stack::emit::Transport;
use crate::stack::flow::ledger::Tally;
use crate::stack::flow::{FlowKey, FlowProtocol, HostSide, Way};
use crate::stack::forward::{self, Outbound};
use crate::stack::hook::QuestionId;
use crate::stack::{Flow, Stack};
use crate::wire::{dns_answer as dns, ip, udp};

/// What came of other rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Flows that go on.
    pub kept: usize,
    /// Flows that were ended, since the rules would not let them through.
    pub ended: usize,
}

/// What goes from socket to socket, past the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spliced {
    /// Who initiates.
    pub direction: Direction,
    /// Transport.
    pub protocol: FlowProtocol,
    /// The endpoint on the host's side.
    pub peer: SocketAddr,
    /// The server's port.
    pub port: u16,
    /// The server in the container, where it is there.
    pub inside: Option<SocketAddr>,
    /// The user's hook has let it through: rules have no say.
    pub by_hook: bool,
}

/// What was decided about what goes past the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It may: as this.
    Granted(Spliced),
    /// It may not.
    Refused,
    /// The user's hook is asked first about this: [`Stack::poll_settled`] will tell.
    Asked(QuestionId, Spliced),
}

impl Spliced {
    /// A client of a published port that leads to `server`.
    #[must_use]
    pub fn inward(protocol: FlowProtocol, client: SocketAddr, server: SocketAddr) -> Spliced {
        let (direction, port, inside) = (Direction::In, server.port(), Some(server));
        Spliced { direction, protocol, peer: client, port, inside, by_hook: false }
    }

    /// A client in the container, to `server` on the host.
    #[must_use]
    pub fn outward(protocol: FlowProtocol, server: SocketAddr) -> Spliced {
        let (direction, port) = (Direction::Out, server.port());
        Spliced { direction, protocol, peer: server, port, inside: None, by_hook: false }
    }

    pub(in crate::stack) fn ask(&self) -> Ask<'static> {
        match self.direction {
            Direction::Out => Ask::outbound(self.protocol, self.peer),
            Direction::In => Ask::inbound(self.protocol, self.peer, self.port),
        }
    }
}

impl Stack {
    /// Decides where a flow that the container initiates with `packet` goes, and whether it may; `forward` says the one, the
    /// policy the other.
    pub(in crate::stack) fn decide_outbound(
        &mut self,
        protocol: FlowProtocol,
        packet: &ip::Packet<'_>,
        remote: SocketAddr,
        now: Instant,
    ) -> (Outbound, RuleMark) {
        let decision = forward::outbound(&self.config, protocol, packet.source, remote);
        if self.policy.is_none() {
            return (decision, RuleMark::NONE);
        }
        let ask = match decision {
            Outbound::Host(target) => Ask::outbound(protocol, target),
            // Of what is asked over UDP each query is judged by itself.
            Outbound::Resolver if protocol == FlowProtocol::Tcp => Ask::Query { name: None },
            Outbound::Resolver
            | Outbound::Gateway
            | Outbound::Dhcp
            | Outbound::Closed(_)
            | Outbound::Unreachable(_)
            | Outbound::Prohibited(_)
            | Outbound::Drop(_) => return (decision, RuleMark::NONE),
        };
        match self.consult(&ask, packet.bytes.len(), now) {
            Ok(rule) => (decision, rule),
            Err(DropReason::RuleRejected) => (Outbound::Prohibited(DropReason::RuleRejected), RuleMark::NONE),
            Err(reason) => (Outbound::Drop(reason), RuleMark::NONE),
        }
    }

    /// Asks the policy, and counts what it refuses.
    pub(in crate::stack) fn judge(
        &mut self,
        ask: &Ask<'_>,
        bytes: usize,
        now: Instant,
    ) -> Result<RuleMark, DropReason> {
        let Some(policy) = &self.policy else { return Ok(RuleMark::NONE) };
        let Judgement { verdict, rule } = policy.decide(ask, None, now);
        let reason = match verdict {
            Verdict::Allow => return Ok(rule),
            Verdict::Deny => DropReason::RuleDenied,
            Verdict::Reject => DropReason::RuleRejected,
        };
        self.note_refusal(ask, verdict, rule, bytes, now);
        Err(reason)
    }

    /// Counts what was refused, and writes it down.
    pub(in crate::stack) fn note_refusal(
        &mut self,
        ask: &Ask<'_>,
        verdict: Verdict,
        rule: RuleMark,
        bytes: usize,
        now: Instant,
    ) {
        self.flows.ledger_mut().packet(rule, bytes);
        self.recent.blame(rule);
        self.audit(ask, verdict, rule, now);
    }

    /// Judges what is spliced past the link, before it is joined: whether it may be.
    pub fn judge_spliced(&mut self, spliced: &Spliced, now: Instant) -> Judged {
        match self.consult(&spliced.ask(), 0, now) {
            Ok(RuleMark::AWAITED) => self.ask_about_spliced(spliced, now),
            judged => self.conclude_spliced(spliced, judged, now),
        }
    }

    /// What was decided about it is counted, and written down.
    pub(in crate::stack) fn conclude_spliced(
        &mut self,
        spliced: &Spliced,
        judged: Result<RuleMark, DropReason>,
        now: Instant,
    ) -> Judged {
        match judged {
            Ok(rule) => {
                self.flows.ledger_mut().decided(rule);
                self.audit(&spliced.ask(), Verdict::Allow, rule, now);
                let by_hook = self.policy().is_some_and(|policy| rule == policy.standing(Standing::Hook));
                Judged::Granted(Spliced { by_hook, ..*spliced })
            }
            Err(reason) => {
                let server = SocketAddr::new(spliced.peer.ip(), spliced.port);
                self.stats.record(reason);
                self.note_refused_client(spliced.protocol, spliced.peer, server, reason, now);
                Judged::Refused
            }
        }
    }

    /// Whether what was spliced before would be again; nothing is counted.
    #[must_use]
    pub fn may_stay_spliced(&self, spliced: &Spliced, now: Instant) -> bool {
        let verdict = self.policy().map(|policy| policy.decide(&spliced.ask(), None, now).verdict);
        spliced.by_hook || verdict.is_none_or(|verdict| verdict == Verdict::Allow)
    }

    /// Judges the queries that a datagram for the forwarder holds, one of each `each` bytes. One that is rejected is
    /// answered so.
    pub(in crate::stack) fn judge_queries(
        &mut self,
        key: &FlowKey,
        packet: &ip::Packet<'_>,
        payload: &[u8],
        each: usize,
        now: Instant,
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        if self.policy.is_none() {
            return Ok(());
        }
        for message in payload.chunks(each.max(1)) {
            let question = dns::question(message);
            let name = question.as_ref().map(|question| question.name.as_str());
            match self.judge(&Ask::Query { name }, packet.bytes.len(), now) {
                Ok(rule) => {
                    self.flows.ledger_mut().packet(rule, packet.bytes.len());
                    self.audit(&Ask::Query { name }, Verdict::Allow, rule, now);
                }
                Err(DropReason::RuleRejected) => {
                    if let Some(refusal) = dns::refusal(message) {
                        self.send_udp_answer(key, &refusal, frames)?;
                    }
                    return Err(DropReason::RuleRejected);
                }
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    /// Learns the names that an answer of the forwarder gives to addresses. It must answer what was asked.
    pub(in crate::stack) fn learn_names(&mut self, query: &[u8], answer: &[u8], now: Instant) {
        let Some(policy) = &mut self.policy else { return };
        let (Some(asked), Some((answered, records))) = (dns::question(query), dns::answer(answer)) else {
            return;
        };
        if asked.name == answered.name && asked.kind == answered.kind {
            policy.names.learn(&answered, &records, now);
        }
    }

    /// The policy, if there is one.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_deref()
    }

    /// What each rule has let through or refused, by its mark.
    #[must_use]
    pub fn rule_tallies(&self) -> Vec<(RuleMark, Tally)> {
        self.flows.carried_by_rules()
    }

    /// What went each way.
    #[must_use]
    pub fn way_tallies(&self) -> Vec<(Way, Tally)> {
        self.flows.carried_by_ways()
    }

    /// Puts other rules in force, all at once: the next packet is judged by them. A rule that was there before keeps its
    /// counters. With `rejudge`, flows that the new ones would not let through are ended.
    pub fn set_rules<H: HostIo, F: FrameSink>(
        &mut self,
        rules: Rules,
        rejudge: bool,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) -> Reloaded {
        let before = self.policy.take();
        let tallies = self.flows.carried_by_rules();
        let mut policy = Policy::new(&self.config, rules, self.hasher.clone());
        if let Some(before) = before.as_deref() {
            // What is known goes on being known.
            policy.names.adopt(&before.names);
        }
        let heirs = inheritance(before.as_deref(), &policy);
        let inherited = |old: RuleMark| old.index().and_then(|index| heirs.get(index).copied().flatten());
        let mut sums = vec![Tally::default(); policy.marks()];
        for (old, tally) in tallies {
            let heir = inherited(old);
            if let Some(sum) = heir.and_then(RuleMark::index).and_then(|index| sums.get_mut(index)) {
                *sum = tally;
            }
        }
        let (former, hook) = (policy.standing(Standing::Former), policy.standing(Standing::Hook));
        let mut over = Vec::new();
        let mut reloaded = Reloaded::default();
        let flows: Vec<FlowId> = self.flows.ids().collect();
        for flow in flows {
            let Some(ask) = self.ask_again(flow) else {
                self.inherit_at_rest(flow, inherited, former, &mut sums);
                continue;
            };
            if self.is_awaited(flow) {
                // The rules that are in force then are asked, if they are.
                reloaded.kept += 1;
                continue;
            }
            let side = self.flows.side(flow);
            let held = side.and_then(|side| inherited(side.rule));
            let Judgement { verdict, rule } = match held {
                // Over that the rules have no say.
                Some(rule) if rule == hook => Judgement { verdict: Verdict::Allow, rule },
                Some(_) | None => policy.decide(&ask, held, now),
            };
            // What flows carry is added to the sums when somebody asks: not twice.
            let carried = self.flows.carried(flow).unwrap_or_default().both();
            if let Some(sum) = held.and_then(RuleMark::index).and_then(|index| sums.get_mut(index)) {
                sum.traffic.subtract(carried);
            }
            if verdict == Verdict::Allow {
                self.flows.set_rule(flow, rule);
                reloaded.kept += 1;
            } else if rejudge {
                self.flows.set_rule(flow, rule);
                over.push(flow);
                reloaded.ended += 1;
            } else {
                self.flows.set_rule(flow, former);
                reloaded.kept += 1;
            }
        }
        self.flows.ledger_mut().set_rules(sums);
        self.policy = Some(Box::new(policy));
        self.limit_rules();
        for flow in over {
            self.enter(io, now, |stack, io| stack.end_flow(flow, now, io));
        }
        reloaded
    }

    /// Other rules are in force. What rests in TIME-WAIT goes on counting for its own, if that is there.
    fn inherit_at_rest(
        &mut self,
        flow: FlowId,
        inherited: impl Fn(RuleMark) -> Option<RuleMark>,
        former: RuleMark,
        sums: &mut [Tally],
    ) {
        let Some(rule) = self.flows.side(flow).map(|side| side.rule).filter(|rule| rule.index().is_some())
        else {
            return;
        };
        let heir = inherited(rule);
        let carried = self.flows.carried(flow).unwrap_or_default().both();
        if let Some(sum) = heir.and_then(RuleMark::index).and_then(|index| sums.get_mut(index)) {
            sum.traffic.subtract(carried);
        }
        self.flows.set_rule(flow, heir.unwrap_or(former));
    }

    /// What was asked when a flow began; nothing of one that rests in TIME-WAIT or carries queries, which are judged one
    /// by one.
    pub(in crate::stack) fn ask_again(&self, flow: FlowId) -> Option<Ask<'static>> {
        let (key, side) = (self.flows.key(flow)?, self.flows.side(flow)?);
        if matches!(self.flows.get(flow), Some(Flow::TimeWait(_))) {
            return None;
        }
        match side.way {
            Way::Masquerade | Way::HostAlias => Some(Ask::outbound(key.protocol, side.peer)),
            Way::Forwarder if key.protocol == FlowProtocol::Tcp => Some(Ask::Query { name: None }),
            Way::Forwarder => None,
            Way::Published(_) => Some(Ask::inbound(key.protocol, side.peer, key.container.port())),
        }
    }

    /// Ends a flow of whatever kind: TCP by RST to both sides.
    pub(in crate::stack) fn end_flow<H: HostIo, F: FrameSink>(
        &mut self,
        flow: FlowId,
        now: Instant,
        io: &mut Io<'_, H, F>,
    ) {
        match self.flows.get(flow) {
            Some(Flow::Tcp(_)) => self.abort_tcp(flow, now, io),
            Some(Flow::Udp(_) | Flow::Echo(_)) => self.close_datagram_flow(flow),
            Some(Flow::TimeWait(_)) => {
                self.flows.remove(flow);
            }
            None => {}
        }
    }
}

/// For each mark of the old rules the new one of the same rule, if there is one.
fn inheritance(before: Option<&Policy>, after: &Policy) -> Vec<Option<RuleMark>> {
    let Some(before) = before else { return Vec::new() };
    let same = |mark| match before.rule(mark)? {
        Ok(rule) => after.rules().list.iter().position(|other| other == rule).map(RuleMark::of),
        Err(standing) => Some(after.standing(standing)),
    };
    (0..before.marks()).map(|index| same(RuleMark::of(index))).collect()
}

impl Stack {
    /// Puts the rules of the configuration in force, if there are any.
    pub(in crate::stack) fn begin_policy(&mut self) {
        if self.config.audit {
            self.audit = Some(Box::new(Audit::new(self.hasher.clone())));
        }
        // An audit wants to know names.
        if !self.config.rules.is_empty() || self.config.audit {
            self.open_policy();
        }
    }

    /// There is a policy from now on, if there was none.
    pub(in crate::stack) fn open_policy(&mut self) {
        if self.policy.is_none() {
            let policy = Policy::new(&self.config, self.config.rules.clone(), self.hasher.clone());
            self.flows.ledger_mut().open(policy.marks());
            self.policy = Some(Box::new(policy));
            self.limit_rules();
        }
    }

    /// A flow begins to count for its rule and its way, and is written down.
    pub(in crate::stack) fn begin_counting(&mut self, flow: FlowId, key: FlowKey, now: Instant) {
        let Some(side) = self.flows.side(flow) else { return };
        if side.rule == RuleMark::AWAITED {
            return;
        }
        self.flows.ledger_mut().begin(&side);
        self.limit_by_rule(flow, side.rule);
        if self.audit.is_some() && matches!(side.way, Way::Masquerade | Way::HostAlias) {
            let ask = Ask::outbound(key.protocol, side.peer);
            let mark = self.audit(&ask, Verdict::Allow, side.rule, now);
            self.flows.set_audit(flow, mark);
        }
    }

    /// Sends one datagram to the container in answer to what it sent on `key`, from whom it was for.
    fn send_udp_answer(
        &mut self,
        key: &FlowKey,
        payload: &[u8],
        frames: &mut impl FrameSink,
    ) -> Result<(), DropReason> {
        let ethernet = self.neighbor.ethernet()?;
        let header = self.header(key.remote.ip(), key.container.ip(), ip::protocol::UDP);
        let fill = |out: &mut [u8]| {
            out[udp::HEADER_LEN..].copy_from_slice(payload);
            udp::write_header(out, key.remote.port(), key.container.port(), payload.len());
            out.len()
        };
        let len = udp::HEADER_LEN + payload.len();
        self.emitter.send(&ethernet, &header, Transport::Udp, len, fill, frames)
    }
}

impl HostSide {
    /// Of a flow that the container began, to `remote` as it sees it.
    #[must_use]
    pub fn outbound(peer: SocketAddr, remote: SocketAddr, rule: RuleMark) -> HostSide {
        let way = if peer.ip() == remote.ip() { Way::Masquerade } else { Way::HostAlias };
        HostSide::new(peer, way, rule)
    }

    /// Of any flow.
    #[must_use]
    pub fn new(peer: SocketAddr, way: Way, rule: RuleMark) -> HostSide {
        HostSide { peer, way, rule, audit: AuditMark::NONE }
    }
}
