//! What would happen to a packet, and why: the same decisions, asked without a packet and without an effect.

use std::net::SocketAddr;

use super::{Ask, Judgement, Policy, RuleMark, Standing};
use crate::config::HookVerdict;
use crate::config::rules::Verdict;
use crate::stack::Stack;
use crate::stack::boundary::Instant;
use crate::stack::drop_reason::DropReason;
use crate::stack::flow::FlowProtocol;
use crate::stack::forward::{self, Outbound};

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which decision: `source`, `route`, `rule`, `nat`, `limit`.
    pub stage: &'static str,
    /// What was decided, in a sentence.
    pub says: String,
}

/// What would become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It would leave by a socket of the host, connected to this.
    Leaves(SocketAddr),
    /// The gateway would answer it.
    Answered,
    /// It would be dropped, and the container told how: `RST`, `ICMP administratively prohibited` and the like.
    Refused(DropReason, &'static str),
    /// It would be dropped in silence.
    Dropped(DropReason),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In the order of the decisions.
    pub steps: Vec<Step>,
    /// The end.
    pub fate: Fate,
    /// The rule that decided, where there is a policy.
    pub rule: Option<RuleMark>,
}

/// A rule in words, with its number as `netferry rules` shows it.
#[must_use]
pub fn describe(policy: &Policy, mark: RuleMark) -> Option<String> {
    let described = match policy.rule(mark)? {
        Ok(rule) => {
            let number = mark.index()? + 1;
            match &rule.label {
                Some(label) => format!("rule {number} ({label}): {rule}"),
                None => format!("rule {number}: {rule}"),
            }
        }
        Err(standing) => match standing {
            Standing::DefaultOut => format!("the default: {} out", policy.rules().default_out.name()),
            Standing::DefaultIn => format!("the default: {} in", policy.rules().default_in.name()),
            Standing::DefaultDns => format!("the default of queries: {}", policy.rules().default_dns.name()),
            Standing::Former => "rules that are no more".to_owned(),
            Standing::Hook => "the hook".to_owned(),
        },
    };
    Some(described)
}

impl Stack {
    /// What would become of a first packet of the container's to `destination`, which was found by `name` if by any.
    #[must_use]
    pub fn explain(
        &self,
        protocol: FlowProtocol,
        destination: SocketAddr,
        name: Option<&str>,
        now: Instant,
    ) -> Explanation {
        let mut steps = Vec::new();
        let mut step = |stage, says| steps.push(Step { stage, says });
        let Some(source) = self.config.link.container_like(destination.ip()) else {
            step("source", "the container has no address of this family".to_owned());
            let fate = Fate::Dropped(DropReason::SpoofedSource);
            return Explanation { steps, fate, rule: None };
        };
        let transports = self.config.transports;
        let is_carried = match protocol {
            FlowProtocol::Tcp => transports.tcp,
            FlowProtocol::Udp => transports.udp,
            FlowProtocol::Echo => transports.icmp,
        };
        if !is_carried {
            step("route", format!("{} is not carried, by an option", protocol.name()));
            return Explanation { steps, fate: Fate::Dropped(DropReason::Denied), rule: None };
        }
        step("source", format!("the container sends it from {source}"));
        let routed = forward::outbound(&self.config, protocol, source, destination);
        let told = |reason, how: &'static str| Fate::Refused(reason, how);
        let closed = if protocol == FlowProtocol::Tcp { "RST" } else { "ICMP port unreachable" };
        let (target, ask) = match routed {
            Outbound::Host(target) => {
                let ask = Ask::outbound(protocol, target).assuming(name);
                (target, ask)
            }
            Outbound::Resolver => match self.resolvers.preferred() {
                Some(resolver) => (resolver, Ask::Query { name }),
                None => {
                    step("dns", DropReason::NoResolver.sentence().to_owned());
                    return Explanation { steps, fate: told(DropReason::NoResolver, closed), rule: None };
                }
            },
            Outbound::Gateway => {
                step("route", format!("{} is the gateway's own address, which answers", destination.ip()));
                return Explanation { steps, fate: Fate::Answered, rule: None };
            }
            Outbound::Dhcp => {
                step("route", "it goes to the DHCP server of the segment".to_owned());
                return Explanation { steps, fate: Fate::Answered, rule: None };
            }
            Outbound::Closed(reason) => {
                step("route", reason.sentence().to_owned());
                return Explanation { steps, fate: told(reason, closed), rule: None };
            }
            Outbound::Unreachable(reason) => {
                step("route", reason.sentence().to_owned());
                return Explanation { steps, fate: told(reason, "ICMP host unreachable"), rule: None };
            }
            Outbound::Prohibited(reason) | Outbound::Drop(reason) => {
                step("route", reason.sentence().to_owned());
                return Explanation { steps, fate: Fate::Dropped(reason), rule: None };
            }
        };
        let by_hook = self.explain_hook(&ask, now, &mut steps);
        let denied = match by_hook {
            Some(_) if self.is_hook_gone() => DropReason::HookFailed,
            Some(_) | None => DropReason::RuleDenied,
        };
        let rule = by_hook.or_else(|| self.explain_rule(&ask, now, &mut steps));
        let refused = match rule {
            Some((_, Verdict::Deny)) => Some(Fate::Dropped(denied)),
            Some((_, Verdict::Reject)) => Some(told(
                DropReason::RuleRejected,
                match (protocol, routed) {
                    (FlowProtocol::Tcp, _) => "RST",
                    (FlowProtocol::Udp, Outbound::Resolver) => "a REFUSED answer",
                    (FlowProtocol::Udp | FlowProtocol::Echo, _) => "ICMP administratively prohibited",
                },
            )),
            Some((_, Verdict::Allow)) | None => None,
        };
        if refused.is_none() {
            let says = match routed {
                Outbound::Resolver => format!("the DNS forwarder asks the host's resolver {target}"),
                _ if target.ip() != destination.ip() => {
                    format!("{} stands for the host itself: it goes to {target}", destination.ip())
                }
                _ => format!("masqueraded: a socket of the host sends it to {target}"),
            };
            steps.push(Step { stage: "nat", says });
            if self.flows.is_full_of(protocol) {
                let says =
                    "the table of flows is full: it waits for one that has been idle for long".to_owned();
                steps.push(Step { stage: "limit", says });
            }
        }
        Explanation { steps, fate: refused.unwrap_or(Fate::Leaves(target)), rule: rule.map(|(mark, _)| mark) }
    }

    /// What would become of a query for a name.
    #[must_use]
    pub fn explain_query(&self, name: &str, now: Instant) -> Explanation {
        let mut steps = Vec::new();
        let rule = self.explain_rule(&Ask::Query { name: Some(name) }, now, &mut steps);
        let fate = match (rule, self.resolvers.preferred()) {
            (Some((_, Verdict::Deny)), _) => Fate::Dropped(DropReason::RuleDenied),
            (Some((_, Verdict::Reject)), _) => Fate::Refused(DropReason::RuleRejected, "a REFUSED answer"),
            (Some((_, Verdict::Allow)) | None, Some(resolver)) => Fate::Leaves(resolver),
            (Some((_, Verdict::Allow)) | None, None) => {
                Fate::Refused(DropReason::NoResolver, "ICMP port unreachable")
            }
        };
        Explanation { steps, fate, rule: rule.map(|(mark, _)| mark) }
    }

    /// The host's resolvers, in the order in which they are asked.
    pub fn resolvers(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        (0..).map_while(|failures| self.resolvers.after_failures(failures))
    }

    /// What the user's hook has said of such a flow before, where that still counts; of one it is asked about nothing.
    fn explain_hook(
        &self,
        ask: &Ask<'_>,
        now: Instant,
        steps: &mut Vec<Step>,
    ) -> Option<(RuleMark, Verdict)> {
        let said = self.recall(ask, now)?;
        let mark = self.policy()?.standing(Standing::Hook);
        let (says, verdict) = match said {
            _ if self.is_hook_gone() => {
                ("the hook has ended, and is not asked any more", self.hook_failure())
            }
            None => ("the hook is asked first; what follows is for where it passes", None),
            Some(HookVerdict::Allow) => ("the hook allows it, as it said before", Some(Verdict::Allow)),
            Some(HookVerdict::Deny) => ("the hook denies it, as it said before", Some(Verdict::Deny)),
            Some(HookVerdict::Reject) => ("the hook rejects it, as it said before", Some(Verdict::Reject)),
            Some(HookVerdict::Pass) => ("the hook leaves it to the rules, as it said before", None),
        };
        steps.push(Step { stage: "hook", says: says.to_owned() });
        verdict.map(|verdict| (mark, verdict))
    }

    fn explain_rule(
        &self,
        ask: &Ask<'_>,
        now: Instant,
        steps: &mut Vec<Step>,
    ) -> Option<(RuleMark, Verdict)> {
        let Some(policy) = self.policy() else {
            steps.push(Step { stage: "rule", says: "there are no rules: all may pass".to_owned() });
            return None;
        };
        let Judgement { verdict, rule } = policy.decide(ask, None, now);
        let says = match describe(policy, rule) {
            Some(rule) => format!("{}, by {rule}", done(verdict)),
            None => done(verdict).to_owned(),
        };
        steps.push(Step { stage: "rule", says });
        Some((rule, verdict))
    }
}

fn done(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
        Verdict::Reject => "rejected",
    }
}
