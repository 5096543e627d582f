//! The requests of slirp4netns's API socket: JSON in, JSON out.
//!
//! `add_hostfwd`, `list_hostfwd`, `remove_hostfwd`, and the error objects, in the original's words as far as they
//! go; what is wrong in particular follows them. Beyond the original: IPv6 addresses, and a range of ports by
//! `host_port_end`. Reference: slirp4netns(1), "API SOCKET".

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use crate::config::{LinkConfig, PortProtocol, PublishRule};
use crate::stack::boundary::{ListenerId, Reply, Request};

/// Ports of one request.
const MAX_RANGE: u16 = 1_024;

/// What is wrong with a request, behind "bad request: ".
type Refusal = String;

/// The answer to one request, which `carry_out` does.
pub fn answer(request: &[u8], link: &LinkConfig, carry_out: impl FnOnce(Request) -> Reply) -> String {
    let value = match decode(request, link) {
        Ok((verb, request)) => encode(verb, carry_out(request), link),
        Err(refusal) => error(&refusal),
    };
    value.to_string()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    List,
    Remove,
}

fn decode(request: &[u8], link: &LinkConfig) -> Result<(Verb, Request), Refusal> {
    let value: Value = first_value(request).ok_or("cannot parse JSON")?;
    let object = value.as_object().ok_or("json_object() failed")?;
    match object.get("execute").and_then(Value::as_str).ok_or("no execute found")? {
        "add_hostfwd" => {
            let rules = publish_rules(arguments(object)?.as_ref(), link);
            let rules = rules.map_err(|refusal| format!("add_hostfwd: {refusal}"))?;
            Ok((Verb::Add, Request::Publish(rules)))
        }
        "list_hostfwd" => Ok((Verb::List, Request::List)),
        "remove_hostfwd" => {
            let id = arguments(object)?.get("id").and_then(whole).and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or("remove_hostfwd: bad arguments.id")?;
            Ok((Verb::Remove, Request::Unpublish(ListenerId(id))))
        }
        _ => Err("unknown execute".to_owned()),
    }
}

/// What the command is about; nothing where they are missing, or null as some languages write what is missing.
fn arguments(object: &Map<String, Value>) -> Result<Cow<'_, Map<String, Value>>, Refusal> {
    match object.get("arguments") {
        None | Some(Value::Null) => Ok(Cow::Owned(Map::new())),
        Some(Value::Object(arguments)) => Ok(Cow::Borrowed(arguments)),
        Some(_) => Err("arguments is not an object".to_owned()),
    }
}

/// A number without a fraction, however it is written: some languages know no other numbers than 80.0.
fn whole(value: &Value) -> Option<u64> {
    let of_float = |number: f64| {
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u64)
    };
    value.as_u64().or_else(|| value.as_f64().and_then(of_float))
}

/// The original reads one value and ignores what follows it.
fn first_value(request: &[u8]) -> Option<Value> {
    serde_json::Deserializer::from_slice(request).into_iter().next()?.ok()
}

fn publish_rules(arguments: &Map<String, Value>, link: &LinkConfig) -> Result<Vec<PublishRule>, Refusal> {
    let protocol = match arguments.get("proto").and_then(Value::as_str) {
        Some("tcp") => PortProtocol::Tcp,
        Some("udp") => PortProtocol::Udp,
        _ => return Err("bad arguments.proto".to_owned()),
    };
    let host_port = port(arguments, "host_port")?.ok_or("bad arguments.host_port")?;
    let container_port = port(arguments, "guest_port")?.ok_or("bad arguments.guest_port")?;
    let last = port(arguments, "host_port_end")?.unwrap_or(host_port);
    let host_address = address(arguments, "host_addr")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    // The unspecified address is nobody's: whoever names it means the container, whatever its address is.
    let container_address = address(arguments, "guest_addr")?.filter(|address| !address.is_unspecified());
    if link.container_like(host_address).is_none() {
        return Err("bad arguments.host_addr: the network has no addresses of this family".to_owned());
    }
    if container_address.is_some_and(|guest| guest.is_ipv4() != host_address.is_ipv4()) {
        return Err("bad arguments.guest_addr: not of the family of host_addr".to_owned());
    }
    let further = last.checked_sub(host_port).filter(|further| *further < MAX_RANGE);
    let further = further.filter(|further| container_port.checked_add(*further).is_some());
    let further = further.ok_or_else(|| {
        format!("bad arguments.host_port_end: not a range of at most {MAX_RANGE} ports on both sides")
    })?;
    let rule = |offset: u16| PublishRule {
        protocol,
        host_address,
        host_port: host_port + offset,
        interface: None,
        container_address,
        container_port: container_port + offset,
    };
    Ok((0..=further).map(rule).collect())
}

fn port(arguments: &Map<String, Value>, name: &str) -> Result<Option<u16>, Refusal> {
    let value = match arguments.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let port = whole(value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    port.map(Some).ok_or_else(|| format!("bad arguments.{name}"))
}

/// An address; none where it is missing, null or empty.
fn address(arguments: &Map<String, Value>, name: &str) -> Result<Option<IpAddr>, Refusal> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => match text.parse::<IpAddr>() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(format!("bad arguments.{name}")),
        },
        Some(_) => Err(format!("bad arguments.{name}")),
    }
}

fn encode(verb: Verb, reply: Reply, link: &LinkConfig) -> Value {
    match reply {
        Reply::Published(listeners) => match listeners.as_slice() {
            [ListenerId(id)] => json!({ "return": { "id": id } }),
            [first, ..] => {
                let ids: Vec<u32> = listeners.iter().map(|listener| listener.0).collect();
                json!({ "return": { "id": first.0, "ids": ids } })
            }
            [] => json!({ "return": {} }),
        },
        Reply::Unpublished => json!({ "return": {} }),
        Reply::NoSuchPort => error("remove_hostfwd: bad arguments.id"),
        Reply::Listed(rules) => {
            let entries: Vec<Value> =
                rules.iter().map(|(listener, rule)| entry(*listener, rule, link)).collect();
            // The manual has it below "return", the original itself at the top.
            json!({ "return": { "entries": entries }, "entries": entries })
        }
        Reply::Refused(reason) => match verb {
            Verb::Add => error(&format!("add_hostfwd: slirp_add_hostfwd failed: {reason}")),
            Verb::List | Verb::Remove => error(&reason),
        },
    }
}

fn entry(ListenerId(id): ListenerId, rule: &PublishRule, link: &LinkConfig) -> Value {
    let server = rule.container_address.or_else(|| link.container_like(rule.host_address));
    json!({
        "id": id,
        "proto": rule.protocol.to_string(),
        "host_addr": rule.host_address.to_string(),
        "host_port": rule.host_port,
        "guest_addr": server.map(|server| server.to_string()),
        "guest_port": rule.container_port,
    })
}

fn error(refusal: &str) -> Value {
    json!({ "error": { "desc": format!("bad request: {refusal}") } })
}

#[cfg(test)]
mod tests;
