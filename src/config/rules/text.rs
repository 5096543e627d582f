//! Rules as a file would have them: what [`Rules::from_toml`] reads again as the same.

use super::{Direction, DnsDefault, Protocols, Rule, RuleProtocol, Rules, Verdict};

impl Rules {
    /// The text of a file of these rules.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| text.push_str(&format!("{name} = {value}\n"));
        for (name, verdict) in [("default", self.default_out), ("default-in", self.default_in)] {
            if verdict != Verdict::Allow {
                line(name, &quoted(verdict.name()));
            }
        }
        if self.default_dns != DnsDefault::Allow {
            line("dns", &quoted(self.default_dns.name()));
        }
        self.list.iter().for_each(|rule| rule.write_toml(&mut text));
        text
    }
}

impl Rule {
    fn write_toml(&self, text: &mut String) {
        text.push_str("[[rule]]\n");
        let mut line = |name: &str, value: &str| text.push_str(&format!("{name} = {value}\n"));
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        line(self.verdict.name(), &list(self.peers.written.iter().map(|peer| quoted(peer)).collect()));
        if self.direction == Direction::In {
            line("direction", &quoted(self.direction.name()));
        }
        if self.protocols != Protocols::TRAFFIC {
            let all = RuleProtocol::ALL.into_iter().filter(|protocol| self.protocols.contains(*protocol));
            line("protocol", &list(all.map(|protocol| quoted(protocol.name())).collect()));
        }
        if !self.ports.is_any() {
            let range = |(first, last): &(u16, u16)| quoted(&format!("{first}-{last}"));
            line("ports", &list(self.ports.0.iter().map(range).collect()));
        }
        if let Some(label) = &self.label {
            line("label", &quoted(label));
        }
        if !self.limit.is_off() {
            line("limit", &quoted(&self.limit.to_string()));
        }
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}
