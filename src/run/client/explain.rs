//! `netferry explain`: what would become of a packet, and what became of those that went no further.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::resolve::resolve;
use super::table::{duration, plain};
use super::{ClientError, Connection, reach};
use crate::cli::native::explain::Explain;
use crate::cli::native::target::Target;

/// How long a probe waits for an answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// A destination as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Destination {
    protocol: &'static str,
    host: String,
    port: u16,
}

/// Carries it out.
pub fn run(explain: &Explain) -> Result<u8, ClientError> {
    match (&explain.url, explain.last) {
        (Some(word), Some(limit)) => {
            // The first word is the instance here.
            let target = Target { id: Some(word.clone()), ..explain.target.clone() };
            failures(&mut reach(&target)?, limit, explain.json)
        }
        (None, Some(limit)) => failures(&mut reach(&explain.target)?, limit, explain.json),
        // As with other commands, the instance may come first.
        (Some(id), None) if explain.target.id.as_ref().is_some_and(|url| url.contains("://")) => {
            let target = Target { id: Some(id.clone()), ..explain.target.clone() };
            let url = explain.target.id.as_deref().unwrap_or_default();
            packet(&mut reach(&target)?, &read(url)?, explain)
        }
        (Some(url), None) => {
            let destination = read(url)?;
            packet(&mut reach(&explain.target)?, &destination, explain)
        }
        (None, None) => {
            Err(ClientError::Malformed("name a destination, as in tcp://crates.io:443".to_owned()))
        }
    }
}

/// Reads `tcp://HOST:PORT` and its like.
fn read(url: &str) -> Result<Destination, ClientError> {
    let wrong = |why: &str| ClientError::Malformed(format!("{}: {why}", plain(url)));
    let schemes = ["tcp", "udp", "icmp"];
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        schemes.into_iter().find(|known| *known == scheme).map(|scheme| (scheme, rest))
    });
    let (protocol, rest) =
        parts.ok_or_else(|| wrong("write tcp://HOST:PORT, udp://HOST:PORT or icmp://HOST"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let unbracketed = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(host).to_owned()
    };
    if protocol == "icmp" {
        return Ok(Destination { protocol, host: unbracketed(rest), port: 0 });
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("a port is missing, as in HOST:443"))?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("this is no port"))?;
    Ok(Destination { protocol, host: unbracketed(host), port })
}

fn packet(
    connection: &mut Connection,
    destination: &Destination,
    explain: &Explain,
) -> Result<u8, ClientError> {
    let mut said = String::new();
    let (addresses, name) = match destination.host.parse::<IpAddr>() {
        Ok(address) => (vec![address], None),
        Err(_) => {
            let (addresses, says) = found(connection, &destination.host)?;
            said.push_str(&says);
            (addresses, Some(destination.host.as_str()))
        }
    };
    let (mut leaves, mut all) = (false, Vec::new());
    for address in addresses {
        let asked = json!({
            "protocol": destination.protocol,
            "address": address.to_string(),
            "port": destination.port,
            "name": name,
        });
        let mut told = connection.ask("explain", asked)?;
        told["address"] = address.to_string().into();
        if let (true, Some(target)) = (explain.probe, told["target"].as_str()) {
            told["probe"] = probe(destination.protocol, target).into();
        }
        leaves |= matches!(told["fate"].as_str(), Some("leaves" | "answered"));
        said.push_str(&describe(&told, destination));
        all.push(told);
    }
    let text = if explain.json { format!("{:#}\n", Value::Array(all)) } else { said };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(u8::from(!leaves))
}

/// The addresses of a name: those that the container was told, else those that it would be.
fn found(connection: &mut Connection, name: &str) -> Result<(Vec<IpAddr>, String), ClientError> {
    let told = connection.ask("names", json!({ "name": name }))?;
    let texts = |list: &str| -> Vec<String> {
        let all = told[list].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let query = &told["query"];
    if query["fate"] != "leaves" {
        let steps = steps(query);
        let why = format!("the container may not ask for it: {}", steps.join("; "));
        return Err(ClientError::Unresolved { name: name.to_owned(), why });
    }
    let known: Vec<IpAddr> = texts("known").iter().filter_map(|text| text.parse().ok()).collect();
    if !known.is_empty() {
        return Ok((known, format!("{name}\n  dns    the container knows its addresses\n")));
    }
    let resolvers: Vec<SocketAddr> = texts("resolvers").iter().filter_map(|text| text.parse().ok()).collect();
    let addresses = resolve(name, &resolvers)?;
    Ok((addresses, format!("{name}\n  dns    resolved as the container would, by {}\n", resolvers[0])))
}

fn steps(told: &Value) -> Vec<String> {
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let step = |step: &Value| plain(step["says"].as_str().unwrap_or_default());
    steps.iter().map(step).collect()
}

fn describe(told: &Value, destination: &Destination) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    let address = text(&told["address"]);
    let whole = match (destination.port, address.contains(':')) {
        (0, _) => address,
        (port, true) => format!("[{address}]:{port}"),
        (port, false) => format!("{address}:{port}"),
    };
    let mut lines = format!("{}://{whole}\n", destination.protocol);
    for step in told["steps"].as_array().map(Vec::as_slice).unwrap_or_default() {
        lines.push_str(&format!("  {:<6} {}\n", text(&step["stage"]), text(&step["says"])));
    }
    let fate = match told["fate"].as_str() {
        Some("leaves") => "it leaves".to_owned(),
        Some("answered") => "it is answered by the gateway".to_owned(),
        Some("refused") => format!("it goes no further; the container is told by {}", text(&told["told_by"])),
        _ => "it goes no further, and the container is told nothing".to_owned(),
    };
    lines.push_str(&format!("  so     {fate}\n"));
    if let Some(probe) = told["probe"].as_str() {
        lines.push_str(&format!("  probe  {}\n", plain(probe)));
    }
    lines
}

/// What the host's socket says, which is what the instance's would.
fn probe(protocol: &str, target: &str) -> String {
    let Ok(target) = target.parse::<SocketAddr>() else { return "nobody to ask".to_owned() };
    if protocol != "tcp" {
        return "only TCP tells whether somebody is there".to_owned();
    }
    match TcpStream::connect_timeout(&target, PROBE_PATIENCE) {
        Ok(_) => format!("{target} accepts"),
        Err(error) => format!("{target}: {error}"),
    }
}

fn failures(connection: &mut Connection, limit: u16, json: bool) -> Result<u8, ClientError> {
    let answer = connection.ask("failures", json!({ "limit": limit }))?;
    let all = answer["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = match (json, all.is_empty()) {
        (true, _) => format!("{:#}\n", answer["failures"]),
        (false, true) => "nothing went wrong lately\n".to_owned(),
        (false, false) => all.iter().map(failure).collect(),
    };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

fn failure(told: &Value) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    let ago = duration(told["seconds_ago"].as_f64().unwrap_or(0.0));
    let count = told["count"].as_u64().unwrap_or(1);
    let flow = &told["flow"];
    let what = match flow["protocol"].as_u64() {
        Some(number) => {
            let protocol = match number {
                1 | 58 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                other => format!("protocol {other}"),
            };
            format!("{protocol} {} -> {}", text(&flow["source"]), text(&flow["destination"]))
        }
        None => "a frame".to_owned(),
    };
    let name = told["name"].as_str().map(|name| format!(" ({})", plain(name))).unwrap_or_default();
    let times = if count == 1 { String::new() } else { format!(", {count} times") };
    let mut lines = format!("{ago} ago{times}: {what}{name}\n  {}\n", text(&told["says"]));
    if let Some(rule) = told["rule"].as_str() {
        lines.push_str(&format!("  by {}\n", plain(rule)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        let read = |url: &str| read(url).map(|read| (read.protocol, read.host, read.port)).ok();
        assert_eq!(read("tcp://crates.io:443"), Some(("tcp", "crates.io".to_owned(), 443)));
        assert_eq!(read("udp://[2001:db8::1]:53/"), Some(("udp", "2001:db8::1".to_owned(), 53)));
        assert_eq!(read("icmp://192.0.2.1"), Some(("icmp", "192.0.2.1".to_owned(), 0)));
        for wrong in ["crates.io:443", "sctp://a:1", "tcp://a", "tcp://a:0", "tcp://a:x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
