//! `rules` and `reload-rules`: the policy in force with its counters, and another in its place.

use serde_json::{Value, json};

use crate::config::{HookVerdict, Rules};
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::boundary::Io;
use crate::stack::flow::Way;
use crate::stack::flow::ledger::Tally;
use crate::stack::policy::{Policy, RuleMark, Standing};
use crate::worker::Worker;

/// The rules in their order, then what stands behind them, then the ways of the translation.
pub(super) fn answer(worker: &mut Worker, _: ClientName, _: &mut Request) -> Result<Answer, Refusal> {
    let tallies = worker.stack.rule_tallies();
    let tally = |mark: RuleMark| {
        let index = mark.index().and_then(|index| tallies.get(index));
        index.map(|(_, tally)| *tally).unwrap_or_default()
    };
    let policy = worker.stack.policy();
    let rules: Vec<Value> = policy.map(|policy| listed(policy, tally)).unwrap_or_default();
    let standing: Vec<Value> = policy.map(|policy| defaults(policy, tally)).unwrap_or_default();
    Ok(Answer::Once(json!({
        "hook": policy.and_then(|policy| hook(worker, tally(policy.standing(Standing::Hook)))),
        "rules": rules,
        "standing": standing,
        "nat": ways(worker),
        "names_known": policy.map_or(0, |policy| policy.names.len()),
    })))
}

/// The hook's counters, where there is one.
fn hook(worker: &Worker, tally: Tally) -> Option<Value> {
    let (stats, waiting) = worker.stack.hook_stats()?;
    let mut value = counted(tally);
    value["program"] = worker.hook.as_ref().map(|hook| hook.program.clone()).into();
    value["has_ended"] = worker.stack.is_hook_gone().into();
    value["asked"] = stats.asked.into();
    value["waiting"] = waiting.into();
    value["remembered"] = stats.remembered.into();
    for verdict in HookVerdict::ALL {
        value[verdict.name()] = stats.said[verdict as usize].into();
    }
    value["failed"] = stats.failed.into();
    value["stale"] = stats.stale.into();
    Some(value)
}

fn listed(policy: &Policy, tally: impl Fn(RuleMark) -> Tally) -> Vec<Value> {
    let numbered = policy.rules().list.iter().enumerate();
    let describe = |(index, rule): (usize, &crate::config::rules::Rule)| {
        let mut value = counted(tally(RuleMark::of(index)));
        value["number"] = (index + 1).into();
        value["rule"] = rule.to_string().into();
        value["verdict"] = rule.verdict.name().into();
        value["label"] = rule.label.clone().into();
        value
    };
    numbered.map(describe).collect()
}

fn defaults(policy: &Policy, tally: impl Fn(RuleMark) -> Tally) -> Vec<Value> {
    let rules = policy.rules();
    let describe = |which: Standing| {
        let says = match which {
            Standing::DefaultOut => format!("default: {} out", rules.default_out.name()),
            Standing::DefaultIn => format!("default: {} in", rules.default_in.name()),
            Standing::DefaultDns => format!("default: {} dns", rules.default_dns.name()),
            Standing::Former => "let through by rules that are no more".to_owned(),
            Standing::Hook => "the hook".to_owned(),
        };
        let mut value = counted(tally(policy.standing(which)));
        value["rule"] = says.into();
        value
    };
    // The hook stands before the rules.
    Standing::ALL.into_iter().filter(|which| *which != Standing::Hook).map(describe).collect()
}

fn ways(worker: &Worker) -> Vec<Value> {
    let tallies = worker.stack.way_tallies();
    let of = |way: Way| tallies.iter().find(|(other, _)| *other == way).map(|(_, tally)| *tally);
    let described = |kind: &str, says: String, tally: Tally| {
        let mut value = counted(tally);
        value["kind"] = kind.into();
        value["says"] = says.into();
        value
    };
    let mut ways = Vec::new();
    let masqueraded = "what goes out, as the host's own sockets".to_owned();
    ways.push(described("masquerade", masqueraded, of(Way::Masquerade).unwrap_or_default()));
    if let Some(tally) = of(Way::HostAlias) {
        ways.push(described("alias", "the gateway's address, to the host itself".to_owned(), tally));
    }
    if let Some(tally) = of(Way::Forwarder) {
        ways.push(described("dns", "the DNS address, to the host's resolvers".to_owned(), tally));
    }
    for (listener, rule) in worker.stack.published() {
        let tally = of(Way::Published(listener)).unwrap_or_default();
        ways.push(described("published", rule.to_string(), tally));
    }
    ways
}

fn counted(tally: Tally) -> Value {
    json!({ "flows": tally.flows, "packets": tally.traffic.frames, "bytes": tally.traffic.bytes })
}

/// All or nothing: a text with a mistake leaves the rules as they are.
pub(super) fn reload(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let text = request.text("rules")?.ok_or_else(|| Refusal::bad_argument(r#""rules" is missing"#))?;
    let rejudge = request.flag("rejudge")?;
    let rules = Rules::from_toml(text).map_err(|error| Refusal::bad_argument(error.to_string()))?;
    let count = rules.list.len();
    let now = worker.now;
    let mut io = Io { host: &mut worker.sockets, frames: &mut worker.link };
    let mut reloaded = worker.stack.set_rules(rules, rejudge, now, &mut io);
    if let Some(loopback) = &mut worker.loopback {
        loopback.forget_classes();
        if rejudge {
            let stack = &worker.stack;
            reloaded.ended += loopback.rejudge(|what| stack.may_stay_spliced(what, now));
        }
    }
    tracing::debug!(count, ?reloaded, "other rules are in force");
    Ok(Answer::Once(json!({ "rules": count, "kept": reloaded.kept, "ended": reloaded.ended })))
}
