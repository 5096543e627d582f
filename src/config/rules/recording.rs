//! A recording of where a container went (`--audit`), and the allow-list that would have let it.
//!
//! A recording has a JSON object a line. What was let through is put together to rules by protocol and port, names
//! where a destination had one, addresses elsewhere. Lines about queries, totals and what was refused add nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::Rules;
use super::file::FileError;

/// The rules of a recording, or of a file of rules: the first character tells them apart.
///
/// # Errors
/// The first mistake and its line.
pub fn rules_of(text: &str) -> Result<Rules, FileError> {
    if text.trim_start().starts_with('{') {
        Rules::from_toml(&suggest(text)?)
    } else {
        Rules::from_toml(text)
    }
}

/// A file of rules that lets through what a recording was let through, and nothing else.
///
/// # Errors
/// The first line that is none of a recording.
pub fn suggest(recording: &str) -> Result<String, FileError> {
    // Peers by what they are asked for; those with the same ports share a rule.
    let mut ports: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    for (line, text) in (1..).zip(recording.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |why: &str| FileError { line, why: why.to_owned() };
        let told: Value = serde_json::from_str(text).map_err(|_| wrong("this is no line of a recording"))?;
        let member = |name: &str| told[name].as_str();
        let protocol = member("protocol");
        if member("event") != Some("new") || member("verdict") != Some("allow") || protocol == Some("dns") {
            continue;
        }
        let protocol = protocol
            .filter(|protocol| ["tcp", "udp", "icmp"].contains(protocol))
            .ok_or_else(|| wrong("it names no protocol"))?;
        let peer = member("name").or(member("address")).ok_or_else(|| wrong("it names no destination"))?;
        let of_peer = ports.entry((protocol.to_owned(), peer.to_owned())).or_default();
        if protocol != "icmp" {
            of_peer.insert(told["port"].as_u64().ok_or_else(|| wrong("it names no port"))?);
        }
    }
    let mut rules: BTreeMap<(String, BTreeSet<u64>), Vec<String>> = BTreeMap::new();
    for ((protocol, peer), ports) in ports {
        rules.entry((protocol, ports)).or_default().push(peer);
    }
    let mut toml =
        "# Where the container went; everything else is rejected.\ndefault = \"reject\"\n".to_owned();
    for ((protocol, ports), peers) in rules {
        let quoted: Vec<String> = peers.iter().map(|peer| format!("{peer:?}")).collect();
        let _ = write!(toml, "\n[[rule]]\nprotocol = \"{protocol}\"\n");
        if !ports.is_empty() {
            let ports: Vec<String> = ports.iter().map(u64::to_string).collect();
            let _ = writeln!(toml, "ports = [{}]", ports.join(", "));
        }
        match &quoted[..] {
            [one] => {
                let _ = writeln!(toml, "allow = [{one}]");
            }
            several => {
                let _ = writeln!(toml, "allow = [\n    {},\n]", several.join(",\n    "));
            }
        }
    }
    Ok(toml)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::Verdict;

    const RECORDING: &str = r#"{"event":"new","protocol":"dns","name":"static.crates.io","verdict":"allow"}
{"event":"new","protocol":"tcp","name":"static.crates.io","address":"192.0.2.1","port":443,"verdict":"allow"}
{"event":"new","protocol":"tcp","name":"static.crates.io","address":"192.0.2.2","port":443,"verdict":"allow"}
{"event":"new","protocol":"tcp","name":"index.crates.io","address":"192.0.2.1","port":443,"verdict":"allow"}
{"event":"new","protocol":"tcp","name":null,"address":"2001:db8::1","port":22,"verdict":"allow"}
{"event":"new","protocol":"tcp","name":"evil.example","address":"192.0.2.9","port":80,"verdict":"reject"}
{"event":"new","protocol":"icmp","address":"192.0.2.3","port":0,"verdict":"allow"}
{"event":"total","protocol":"tcp","name":"static.crates.io","address":"192.0.2.1","port":443,"flows":3}
{"event":"lost","destinations":0}
"#;

    #[test]
    fn a_recording_becomes_the_list_of_what_it_was_let_through() {
        let rules = rules_of(RECORDING).unwrap();
        let shown: Vec<_> = rules.list.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "allow out icmp 192.0.2.3",
                "allow out tcp 2001:db8::1 22",
                "allow out tcp index.crates.io,static.crates.io 443",
            ]
        );
        assert_eq!(rules.default_out, Verdict::Reject);
        assert_eq!(rules_of("default = 'deny'").unwrap().default_out, Verdict::Deny);
    }

    #[test]
    fn what_is_no_recording_is_told_with_its_line() {
        for (text, line) in [
            ("{\"event\":\"total\"}\nnonsense", 2),
            (r#"{"event":"new","verdict":"allow"}"#, 1),
            (r#"{"event":"new","verdict":"allow","protocol":"tcp","address":"192.0.2.1"}"#, 1),
            (r#"{"event":"new","verdict":"allow","protocol":"udp","port":1}"#, 1),
        ] {
            assert_eq!(rules_of(text).unwrap_err().line, line, "{text}");
        }
        // A name that is none, as a line that somebody else has written may have it.
        let forged = r#"{"event":"new","verdict":"allow","protocol":"tcp","name":"any\"]\n","port":1}"#;
        assert!(rules_of(forged).is_err());
    }
}
