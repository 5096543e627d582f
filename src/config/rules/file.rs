//! Rules in a file, in TOML; docs/rules.md has the form. Whatever is wrong is told with its line.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::preset::Preset;
use super::{Direction, DnsDefault, Peers, Ports, Protocols, Rule, RuleError, RuleProtocol, Rules, Verdict};
use crate::config::limits::RULES_FILE_BYTES;

/// What is wrong with a file of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct FileError {
    /// Counted from one.
    pub line: usize,
    /// One sentence.
    pub why: String,
}

/// One value, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Several<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Several<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Several::One(one) => vec![one],
            Several::Many(many) => many,
        }
    }
}

/// A port by its number, or a range as a text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WrittenPort {
    Number(i64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<Spanned<String>>,
    #[serde(rename = "default-in")]
    default_in: Option<Spanned<String>>,
    dns: Option<Spanned<String>>,
    #[serde(default)]
    presets: Vec<Spanned<String>>,
    #[serde(default)]
    rule: Vec<Spanned<Written>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    allow: Option<Several<String>>,
    deny: Option<Several<String>>,
    reject: Option<Several<String>>,
    direction: Option<String>,
    protocol: Option<Several<String>>,
    ports: Option<Several<WrittenPort>>,
    label: Option<String>,
    limit: Option<String>,
}

/// The text, parsed as far as its own form goes.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        // One line; the rest of what it would say is the line of the file.
        let why = error.message().lines().collect::<Vec<_>>().join("; ");
        FileError { line: line_of(text, start), why }
    })
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

impl Rules {
    /// The rules of a file; those of its presets come first.
    ///
    /// # Errors
    /// The first mistake and its line.
    pub fn from_toml(text: &str) -> Result<Rules, FileError> {
        if text.len() > RULES_FILE_BYTES {
            let why = format!("a file of rules has at most {RULES_FILE_BYTES} bytes");
            return Err(FileError { line: 1, why });
        }
        let file: File = read(text)?;
        let mut rules = Rules::default();
        for preset in &file.presets {
            rules.apply(Preset::of_name(preset.get_ref()).map_err(|error| at(text, preset, &error))?);
        }
        if let Some(written) = &file.default {
            rules.default_out = written.get_ref().parse().map_err(|error| at(text, written, &error))?;
        }
        if let Some(written) = &file.default_in {
            rules.default_in = written.get_ref().parse().map_err(|error| at(text, written, &error))?;
        }
        if let Some(written) = &file.dns {
            let named = DnsDefault::ALL.into_iter().find(|all| all.name() == written.get_ref());
            rules.default_dns =
                named.ok_or_else(|| at(text, written, &RuleError::Dns(written.get_ref().clone())))?;
        }
        for written in file.rule {
            let span = written.span();
            let rule = written.into_inner().check().map_err(|error| {
                // The span is the header's; what is wrong may stand some lines further down.
                let behind = text.get(span.start..).unwrap_or_default();
                let inside = behind.split("\n[[").next().unwrap_or_default();
                let offset = error.word().and_then(|word| inside.find(word)).unwrap_or(0);
                FileError { line: line_of(text, span.start + offset), why: error.to_string() }
            })?;
            rules.list.push(rule);
        }
        rules.bounded().map_err(|error| FileError { line: 1, why: error.to_string() })
    }
}

fn at<T>(text: &str, written: &Spanned<T>, error: &RuleError) -> FileError {
    FileError { line: line_of(text, written.span().start), why: error.to_string() }
}

impl RuleError {
    /// What was written, where that is what is wrong.
    fn word(&self) -> Option<&str> {
        match self {
            RuleError::Peer(word)
            | RuleError::Port(word)
            | RuleError::Protocol(word)
            | RuleError::Verdict(word)
            | RuleError::Direction(word)
            | RuleError::Dns(word)
            | RuleError::Preset(word) => Some(word),
            RuleError::Limit(_) | RuleError::NoLimit => Some("limit"),
            RuleError::NoPeer
            | RuleError::NoPorts
            | RuleError::NamesIn
            | RuleError::NotAsked
            | RuleError::TooManyRules(_)
            | RuleError::TooManyPeers(_) => None,
        }
    }
}

impl Written {
    fn check(self) -> Result<Rule, RuleError> {
        let (verdict, peers) = match (self.allow, self.deny, self.reject) {
            (Some(peers), None, None) => (Verdict::Allow, peers),
            (None, Some(peers), None) => (Verdict::Deny, peers),
            (None, None, Some(peers)) => (Verdict::Reject, peers),
            (None, None, None) => return Err(RuleError::Verdict(String::new())),
            _ => return Err(RuleError::Verdict("more than one".to_owned())),
        };
        let direction = match self.direction.as_deref() {
            None | Some("out") => Direction::Out,
            Some("in") => Direction::In,
            Some(other) => return Err(RuleError::Direction(other.to_owned())),
        };
        let protocols = match self.protocol.map(Several::into_vec) {
            None => Protocols::TRAFFIC,
            Some(names) => {
                let of_name = |name: &String| {
                    RuleProtocol::of_name(name).ok_or_else(|| RuleError::Protocol(name.clone()))
                };
                Protocols::of(&names.iter().map(of_name).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let mut ports = Vec::new();
        for written in self.ports.map(Several::into_vec).unwrap_or_default() {
            let text = match written {
                WrittenPort::Number(number) => number.to_string(),
                WrittenPort::Text(text) => text,
            };
            ports.extend(Ports::parse(&text)?.0);
        }
        let peers = Peers::parse(&peers.into_vec())?;
        let limit = self.limit.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        let (label, ports) = (self.label, Ports::of(ports));
        Rule { verdict, direction, protocols, peers, ports, label, limit }.checked()
    }
}
