//! Which instance a command is about, and which of its flows or packets.

use std::path::PathBuf;

use clap::Args;

use crate::cli::values::ValueError;
use crate::config::filter::Filter;

/// An instance, by its ID or the path of its socket.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// The instance, or NETWORK/CONTAINER, as `netferry ps` lists it [default: the only one there is].
    #[arg(value_name = "ID")]
    pub id: Option<String>,

    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH", conflicts_with = "id")]
    pub control: Option<PathBuf>,
}

/// An instance and a filter, either of which may be left out: what begins as a filter does is one.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Selection {
    /// The instance, or NETWORK/CONTAINER, as `netferry ps` lists it [default: the only one there is], and what is meant of it.
    ///
    /// As tcpdump has it: tcp, udp, icmp, ip, ip6; host ADDR, net CIDR, port N, portrange N-N, each with src or dst before it if one
    /// end is meant; and, or, not, parentheses.
    #[arg(value_name = "ID|FILTER")]
    pub words: Vec<String>,

    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// How a filter begins.
const BEGINNINGS: [&str; 13] =
    ["tcp", "udp", "icmp", "icmp6", "ip", "ip6", "src", "dst", "host", "net", "port", "portrange", "not"];

impl Selection {
    /// The instance that is meant.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { id: self.id().map(str::to_owned), control: self.control.clone() }
    }

    /// What is meant of it, as it was written.
    #[must_use]
    pub fn filter(&self) -> String {
        self.words[usize::from(self.id().is_some())..].join(" ")
    }

    /// Whether the filter is one.
    pub fn check(&self) -> Result<(), ValueError> {
        if self.control.is_some() && self.id().is_some() {
            let message = "an ID and --control name two instances; give one of them";
            return Err(ValueError::Malformed(message.to_owned()));
        }
        Filter::parse(&self.filter()).map(drop).map_err(|error| ValueError::Malformed(error.to_string()))
    }

    fn id(&self) -> Option<&str> {
        let first = self.words.first()?;
        let word = first.split(char::is_whitespace).next().unwrap_or_default();
        let is_filter = BEGINNINGS.contains(&word) || first.starts_with(['(', '!']) || first.is_empty();
        (!is_filter).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> (Option<String>, String) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let selection = Selection { words, control: None };
        (selection.target().id, selection.filter())
    }

    #[test]
    fn what_begins_as_a_filter_is_one() {
        assert_eq!(read(&[]), (None, String::new()));
        assert_eq!(read(&["4711"]), (Some("4711".into()), String::new()));
        assert_eq!(read(&["tcp", "and", "port", "80"]), (None, "tcp and port 80".into()));
        assert_eq!(read(&["tcp port 80"]), (None, "tcp port 80".into()));
        assert_eq!(read(&["web", "(udp)"]), (Some("web".into()), "(udp)".into()));
        assert_eq!(read(&["!udp"]), (None, "!udp".into()));
    }
}
