//! What is asked of the process that serves a network, in our own language: `network-connect`, `network-disconnect`,
//! `network-publish`, `network-unpublish`, `network-inspect` and `network-remove`. Both directions stand side by side, so that
//! whoever asks and whoever is asked mean the same.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::native::{Refusal, RefusalCode, Request};
use crate::config::network::{
    Member, MemberStatus, NetworkConfig, NetworkIpv4, NetworkIpv6, NetworkReply, NetworkRequest,
    NetworkStatus,
};
use crate::config::{InterfaceName, PortProtocol, PublishRule, Rules};

/// Whether a request of this name is about a network.
#[must_use]
pub fn is_about_network(name: &str) -> bool {
    name.starts_with("network-")
}

/// Reads a request, of which [`is_about_network`] holds.
pub fn decode(request: &Request) -> Result<NetworkRequest, Refusal> {
    let id = || required(request.text("id")?, "id").map(str::to_owned);
    let rules = || {
        let list = required(request.argument("ports"), "ports")?;
        list.as_array()
            .ok_or_else(|| malformed("ports"))?
            .iter()
            .map(rule_from)
            .collect::<Result<Vec<_>, _>>()
    };
    match &*request.name {
        "network-connect" => {
            let member = required(request.argument("member"), "member")?;
            Ok(NetworkRequest::Connect(member_from(member)?))
        }
        "network-disconnect" => Ok(NetworkRequest::Disconnect { id: id()? }),
        "network-publish" => Ok(NetworkRequest::Publish { id: id()?, rules: rules()? }),
        "network-unpublish" => Ok(NetworkRequest::Unpublish { id: id()?, rules: rules()? }),
        "network-inspect" => Ok(NetworkRequest::Inspect { brief: request.flag("brief")? }),
        "network-remove" => Ok(NetworkRequest::Remove { force: request.flag("force")? }),
        other => Err(Refusal::new(
            RefusalCode::UnknownRequest,
            format!("there is no request {other} of a network"),
        )),
    }
}

/// The name of a request, and its arguments.
#[must_use]
pub fn encode(request: &NetworkRequest) -> (&'static str, Map<String, Value>) {
    let (name, arguments) = match request {
        NetworkRequest::Connect(member) => {
            let mut value = member_value(member);
            if !member.rules.is_empty() {
                value["rules"] = member.rules.to_toml().into();
            }
            ("network-connect", json!({ "member": value }))
        }
        NetworkRequest::Disconnect { id } => ("network-disconnect", json!({ "id": id })),
        NetworkRequest::Publish { id, rules } => {
            ("network-publish", json!({ "id": id, "ports": rules_value(rules) }))
        }
        NetworkRequest::Unpublish { id, rules } => {
            ("network-unpublish", json!({ "id": id, "ports": rules_value(rules) }))
        }
        NetworkRequest::Inspect { brief } => ("network-inspect", json!({ "brief": brief })),
        NetworkRequest::Remove { force } => ("network-remove", json!({ "force": force })),
    };
    match arguments {
        Value::Object(arguments) => (name, arguments),
        _ => (name, Map::new()),
    }
}

/// What a request is answered.
pub fn encode_reply(reply: &NetworkReply) -> Result<Value, Refusal> {
    match reply {
        NetworkReply::Done => Ok(json!({})),
        NetworkReply::Inspected(status) => Ok(status_value(status)),
        NetworkReply::Refused(reason) => Err(Refusal::new(RefusalCode::Refused, reason.clone())),
    }
}

/// What a network is, of the answer to `network-inspect`.
pub fn config_of(answer: &Value) -> Result<NetworkConfig, Refusal> {
    let flag = |name: &str| answer.get(name).and_then(Value::as_bool).ok_or_else(|| malformed(name));
    let mtu = answer.get("mtu").and_then(Value::as_u64).and_then(|mtu| u16::try_from(mtu).ok());
    let ipv4 = parsed(answer, "subnet")?.zip(parsed(answer, "gateway")?);
    let ipv6 = parsed(answer, "subnet6")?.zip(parsed(answer, "gateway6")?);
    Ok(NetworkConfig {
        name: answer.get("name").and_then(Value::as_str).ok_or_else(|| malformed("name"))?.to_owned(),
        ipv4: ipv4.map(|(subnet, gateway)| NetworkIpv4 { subnet, gateway }),
        ipv6: ipv6.map(|(prefix, gateway)| NetworkIpv6 { prefix, gateway }),
        gateway_mac: parsed(answer, "gateway_mac")?.ok_or_else(|| malformed("gateway_mac"))?,
        mtu: mtu.ok_or_else(|| malformed("mtu"))?,
        isolated: flag("isolated")?,
        internal: flag("internal")?,
        host_loopback: flag("host_loopback")?,
    })
}

/// Who is on a network, of the answer to `network-inspect`.
pub fn members_of(answer: &Value) -> Result<Vec<Member>, Refusal> {
    let list = answer.get("members").and_then(Value::as_array).ok_or_else(|| malformed("members"))?;
    list.iter().map(member_from).collect()
}

fn status_value(status: &NetworkStatus) -> Value {
    let members: Vec<Value> = status.members.iter().map(member_status_value).collect();
    let mut value = config_value(&status.config);
    value["members"] = members.into();
    value
}

fn config_value(config: &NetworkConfig) -> Value {
    json!({
        "name": config.name,
        "subnet": config.ipv4.map(|ipv4| ipv4.subnet.to_string()),
        "gateway": config.ipv4.map(|ipv4| ipv4.gateway.to_string()),
        "subnet6": config.ipv6.map(|ipv6| ipv6.prefix.to_string()),
        "gateway6": config.ipv6.map(|ipv6| ipv6.gateway.to_string()),
        "gateway_mac": config.gateway_mac.to_string(),
        "mtu": config.mtu,
        "isolated": config.isolated,
        "internal": config.internal,
        "host_loopback": config.host_loopback,
    })
}

fn member_status_value(status: &MemberStatus) -> Value {
    let mut value = member_value(&status.member);
    value["frames_sent"] = status.frames_sent.into();
    value["bytes_sent"] = status.bytes_sent.into();
    let dropped: Map<String, Value> =
        status.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), (*count).into())).collect();
    value["dropped"] = dropped.into();
    value
}

fn member_value(member: &Member) -> Value {
    json!({
        "id": member.id,
        "name": member.name,
        "aliases": member.aliases,
        "ipv4": member.ipv4,
        "ipv6": member.ipv6,
        "mac": member.mac.to_string(),
        "interface": member.interface,
        "ports": rules_value(&member.publish),
        "pid": member.pid,
        "namespace": member.namespace,
        "audited": member.audited,
    })
}

fn member_from(value: &Value) -> Result<Member, Refusal> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).ok_or_else(|| malformed(name));
    let texts = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(list) => {
            let list = list.as_array().ok_or_else(|| malformed(name))?.iter();
            list.map(|text| text.as_str().map(str::to_owned).ok_or_else(|| malformed(name))).collect()
        }
    };
    let ports = value.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Ok(Member {
        id: text("id")?.to_owned(),
        name: text("name")?.to_owned(),
        aliases: texts("aliases")?,
        ipv4: parsed(value, "ipv4")?,
        ipv6: parsed(value, "ipv6")?,
        mac: parsed(value, "mac")?.ok_or_else(|| malformed("mac"))?,
        interface: text("interface")?.to_owned(),
        publish: ports.iter().map(rule_from).collect::<Result<_, _>>()?,
        pid: value.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok()),
        namespace: value.get("namespace").and_then(Value::as_u64),
        audited: value.get("audited").and_then(Value::as_bool).unwrap_or(false),
        rules: Arc::new(match value.get("rules").and_then(Value::as_str) {
            Some(text) => Rules::from_toml(text).map_err(|error| Refusal::bad_argument(error.to_string()))?,
            None => Rules::default(),
        }),
    })
}

fn rules_value(rules: &[PublishRule]) -> Value {
    rules.iter().map(rule_value).collect::<Vec<_>>().into()
}

fn rule_value(rule: &PublishRule) -> Value {
    json!({
        "protocol": rule.protocol.name(),
        "host_address": rule.host_address,
        "host_port": rule.host_port,
        "interface": rule.interface.as_ref().map(InterfaceName::as_str),
        "container_address": rule.container_address,
        "container_port": rule.container_port,
    })
}

fn rule_from(value: &Value) -> Result<PublishRule, Refusal> {
    let port = |name: &str| {
        let port = value.get(name).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port != 0).ok_or_else(|| malformed(name))
    };
    let protocol = match value.get("protocol").and_then(Value::as_str) {
        Some("tcp") => PortProtocol::Tcp,
        Some("udp") => PortProtocol::Udp,
        Some(_) | None => return Err(malformed("protocol")),
    };
    let interface = match value.get("interface") {
        None | Some(Value::Null) => None,
        Some(name) => Some(name.as_str().and_then(InterfaceName::new).ok_or_else(|| malformed("interface"))?),
    };
    Ok(PublishRule {
        protocol,
        host_address: parsed::<IpAddr>(value, "host_address")?.ok_or_else(|| malformed("host_address"))?,
        host_port: port("host_port")?,
        interface,
        container_address: parsed(value, "container_address")?,
        container_port: port("container_port")?,
    })
}

/// A text that means something; none where it is missing or null.
fn parsed<T: FromStr>(value: &Value, name: &str) -> Result<Option<T>, Refusal> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(text) => {
            text.as_str().and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| malformed(name))
        }
    }
}

fn required<T>(found: Option<T>, name: &str) -> Result<T, Refusal> {
    found.ok_or_else(|| Refusal::bad_argument(format!(r#""{name}" is missing"#)))
}

fn malformed(name: &str) -> Refusal {
    Refusal::bad_argument(format!(r#""{name}" is missing or makes no sense"#))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::network::wish::{NetworkWish, Surroundings};

    fn member() -> Member {
        let rule = PublishRule {
            protocol: PortProtocol::Tcp,
            host_address: "203.0.113.1".parse().unwrap(),
            host_port: 81,
            interface: InterfaceName::new("wlan0"),
            container_address: None,
            container_port: 80,
        };
        let other = PublishRule {
            protocol: PortProtocol::Udp,
            host_address: "::".parse().unwrap(),
            interface: None,
            container_address: Some("fd00::2".parse().unwrap()),
            ..rule
        };
        Member {
            id: "4711".into(),
            name: "web".into(),
            aliases: vec!["www".into(), "shop".into()],
            ipv4: Some("172.17.0.2".parse().unwrap()),
            ipv6: None,
            mac: "02:42:ac:11:00:02".parse().unwrap(),
            interface: "eth0".into(),
            publish: vec![rule, other],
            pid: Some(4_711),
            namespace: Some(4_026_531_840),
            rules: Arc::default(),
            audited: true,
        }
    }

    #[test]
    fn each_request_is_understood_as_it_was_meant() {
        let (id, rules) = (|| "4711".to_owned(), member().publish);
        let ruled =
            Rules::from_toml("default = \"reject\"\n[[rule]]\nallow = \"any\"\nports = 80\n").unwrap();
        let requests = [
            NetworkRequest::Connect(member()),
            NetworkRequest::Connect(Member { rules: Arc::new(ruled), ..member() }),
            NetworkRequest::Disconnect { id: id() },
            NetworkRequest::Publish { id: id(), rules: rules.clone() },
            NetworkRequest::Unpublish { id: id(), rules },
            NetworkRequest::Inspect { brief: true },
            NetworkRequest::Inspect { brief: false },
            NetworkRequest::Remove { force: true },
            NetworkRequest::Remove { force: false },
        ];
        for request in requests {
            let (name, mut line) = encode(&request);
            assert!(is_about_network(name));
            line.insert("version".into(), 1.into());
            line.insert("request".into(), name.into());
            let line = Value::Object(line).to_string();
            let decoded = Request::decode(line.as_bytes(), Vec::new()).unwrap();
            assert_eq!(decode(&decoded), Ok(request), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let refused = |line: &str| {
            let line = format!(r#"{{"version":1,"request":{line}}}"#);
            decode(&Request::decode(line.as_bytes(), Vec::new()).unwrap()).unwrap_err()
        };
        assert_eq!(refused(r#""network-nonsense""#).code, RefusalCode::UnknownRequest);
        for (line, name) in [
            (r#""network-disconnect""#, "id"),
            (r#""network-publish","id":"a""#, "ports"),
            (r#""network-publish","id":"a","ports":[{}]"#, "protocol"),
            (r#""network-publish","id":"a","ports":[{"protocol":"tcp"}]"#, "host_address"),
            (r#""network-connect""#, "member"),
            (r#""network-connect","member":{}"#, "id"),
            (r#""network-connect","member":{"id":"a","name":"b","aliases":3}"#, "aliases"),
            (r#""network-connect","member":{"id":"a","name":"b","ipv4":"x"}"#, "ipv4"),
            (r#""network-remove","force":3"#, "force"),
        ] {
            let refusal = refused(line);
            assert_eq!(refusal.code, RefusalCode::BadArgument, "{line}");
            assert!(refusal.message.contains(&format!("\"{name}\"")), "{line}: {}", refusal.message);
        }
    }

    #[test]
    fn who_is_on_a_network_is_read_from_what_it_tells() {
        let subnet6 = Some("fd00:17::/64".parse().unwrap());
        let wish = NetworkWish { subnet6, isolated: true, ..NetworkWish::default() };
        let config = NetworkConfig::new("lab".parse().unwrap(), &wish, Surroundings::default()).unwrap();
        let status = MemberStatus {
            member: member(),
            frames_sent: 7,
            bytes_sent: 700,
            dropped: vec![("isolated", 3)],
        };
        let reply = NetworkReply::Inspected(NetworkStatus { config: config.clone(), members: vec![status] });
        let value = encode_reply(&reply).unwrap();
        assert_eq!(config_of(&value), Ok(config));
        assert_eq!(members_of(&value), Ok(vec![member()]));
        assert_eq!(value["subnet"], "172.17.0.0/16");
        assert_eq!(value["members"][0]["dropped"]["isolated"], 3);
        let refused = encode_reply(&NetworkReply::Refused("no".into())).unwrap_err();
        assert_eq!((refused.code, &*refused.message), (RefusalCode::Refused, "no"));
    }
}
