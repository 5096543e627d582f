//! `explain`, `names` and `failures`: what would become of a packet, what the container knows of a name, and what went no
//! further lately.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::config::limits::RECENT_FAILURES;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::boundary::HostError;
use crate::stack::flow::FlowProtocol;
use crate::stack::policy::explain::{Explanation, Fate};
use crate::stack::recent::{Failure, Why};
use crate::worker::Worker;

/// What would become of a first packet.
pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let protocol = protocol(request)?;
    let address: IpAddr = request
        .text("address")?
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Refusal::bad_argument(r#""address" is no address"#))?;
    let port = match (protocol, request.number("port")?) {
        (FlowProtocol::Echo, _) => 0,
        (_, Some(port @ 1..=65_535)) => u16::try_from(port).unwrap_or(0),
        (_, _) => return Err(Refusal::bad_argument(r#""port" is no port"#)),
    };
    let name = request.text("name")?.map(str::to_ascii_lowercase);
    let destination = SocketAddr::new(address, port);
    let told = worker.stack.explain(protocol, destination, name.as_deref(), worker.now);
    Ok(Answer::Once(describe(&told)))
}

fn protocol(request: &Request) -> Result<FlowProtocol, Refusal> {
    let name = request.text("protocol")?.unwrap_or("tcp");
    let found = FlowProtocol::ALL.into_iter().find(|protocol| protocol.name() == name);
    found.ok_or_else(|| Refusal::bad_argument(r#""protocol" is none of tcp, udp and icmp"#))
}

fn describe(told: &Explanation) -> Value {
    let steps: Vec<Value> =
        told.steps.iter().map(|step| json!({ "stage": step.stage, "says": step.says })).collect();
    let (fate, reason, how, target) = match told.fate {
        Fate::Leaves(target) => ("leaves", None, None, Some(target.to_string())),
        Fate::Answered => ("answered", None, None, None),
        Fate::Refused(reason, how) => ("refused", Some(reason.name()), Some(how), None),
        Fate::Dropped(reason) => ("dropped", Some(reason.name()), None, None),
    };
    let rule = told.rule.and_then(|mark| mark.index()).map(|index| index + 1);
    json!({ "steps": steps, "fate": fate, "reason": reason, "told_by": how, "target": target, "rule": rule })
}

/// What the container was told of a name, and whom it would ask.
pub(super) fn names(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let name = request.text("name")?.unwrap_or_default().to_ascii_lowercase();
    let now = worker.now;
    let policy = worker.stack.policy();
    let known = policy.map(|policy| policy.names.addresses(&name, now)).unwrap_or_default();
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    let resolvers: Vec<String> = worker.stack.resolvers().map(|server| server.to_string()).collect();
    let query = worker.stack.explain_query(&name, now);
    Ok(Answer::Once(json!({ "known": known, "resolvers": resolvers, "query": describe(&query) })))
}

/// What went no further lately, the latest first.
pub(super) fn failures(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let limit = request.number("limit")?.and_then(|limit| usize::try_from(limit).ok());
    let now = worker.now;
    let latest = worker.stack.recent().latest().take(limit.unwrap_or(RECENT_FAILURES));
    let failures: Vec<Value> = latest
        .map(|failure| {
            let ago = (now - failure.last).total_micros() as f64 / 1e6;
            let mut value = describe_failure(failure);
            value["seconds_ago"] = ago.into();
            if let (Some(policy), Some(whose)) = (worker.stack.policy(), failure.whose) {
                value["name"] = policy.names.asked(whose.destination.ip(), now).into();
            }
            value
        })
        .collect();
    Ok(Answer::Once(json!({ "failures": failures })))
}

fn describe_failure(failure: &Failure) -> Value {
    let (reason, says) = match failure.why {
        Why::Dropped(reason) => (reason.name().to_owned(), reason.sentence().to_owned()),
        Why::Host(error) => (format!("host_{}", host_error(error).0), host_error(error).1.to_owned()),
    };
    let whose = failure.whose.map(|whose| {
        json!({
            "protocol": whose.protocol,
            "direction": whose.direction.name(),
            "source": whose.source.to_string(),
            "destination": whose.destination.to_string(),
        })
    });
    json!({ "flow": whose, "reason": reason, "says": says, "rule": failure.rule, "count": failure.count })
}

/// A name for programs and a sentence for people.
fn host_error(error: HostError) -> (&'static str, &'static str) {
    match error {
        HostError::Refused => ("refused", "nobody listens there (ECONNREFUSED)"),
        HostError::Reset => ("reset", "the peer gave the connection up (ECONNRESET)"),
        HostError::NetworkUnreachable => ("network_unreachable", "the host has no route there (ENETUNREACH)"),
        HostError::HostUnreachable => ("host_unreachable", "the peer is not reached (EHOSTUNREACH)"),
        HostError::ProtocolUnreachable => {
            ("protocol_unreachable", "the peer does not speak that protocol (ENOPROTOOPT)")
        }
        HostError::Prohibited => ("prohibited", "the host or a router forbids it (EACCES)"),
        HostError::TimedOut => ("timed_out", "the peer did not answer (ETIMEDOUT)"),
        HostError::HopLimitExceeded => ("hop_limit_exceeded", "the hop limit ran out on the way"),
        HostError::MessageTooLong { .. } => {
            ("message_too_long", "it is larger than the path takes (EMSGSIZE)")
        }
        HostError::Exhausted => ("exhausted", "the host has run out of descriptors, ports or memory"),
        HostError::Other => ("other", "the host's socket failed"),
    }
}
