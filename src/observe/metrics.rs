//! Metrics as text: OpenMetrics 1.0, and the older text of Prometheus (0.0.4).
//!
//! Every metric that there is stands in [`FAMILIES`], with its kind and what it means; a sample of another name is a bug. Names
//! and units are those of the conventions: `netferry_`, base units, `_total` for what only grows. References: the OpenMetrics
//! specification, "Exposition formats" of Prometheus.

use std::fmt::Write;

/// Whether a metric may go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its samples end in `_total`.
    Counter,
    /// It may go anywhere.
    Gauge,
    /// It is 1, and its labels are what it tells; its samples end in `_info`.
    Info,
}

/// A metric: name without the suffix of its kind, kind, meaning.
pub type Family = (&'static str, Kind, &'static str);

/// Every metric that there is.
pub const FAMILIES: &[Family] = &[
    ("netferry_instance", Kind::Info, "Who this is, and whom it serves."),
    ("netferry_uptime_seconds", Kind::Gauge, "How long the network has been there."),
    ("netferry_link_packets", Kind::Counter, "Frames on the container's interface; a super-segment is one."),
    ("netferry_link_bytes", Kind::Counter, "Bytes of these frames, Ethernet headers included."),
    ("netferry_link_lost_packets", Kind::Counter, "Frames that the container's interface had no room for."),
    ("netferry_drops", Kind::Counter, "Packets that went no further, by the reason."),
    ("netferry_flows", Kind::Gauge, "Flows, by protocol and state."),
    ("netferry_flows_opened", Kind::Counter, "Flows that came to be."),
    ("netferry_flows_closed", Kind::Counter, "Flows that are no more."),
    ("netferry_flows_evicted", Kind::Counter, "Flows given up to make room for others."),
    ("netferry_tcp_retransmissions", Kind::Counter, "Segments that the container had to be sent again."),
    (
        "netferry_tcp_buffer_bytes",
        Kind::Gauge,
        "What the buffers of TCP hold, and at least what is set aside.",
    ),
    (
        "netferry_spliced_flows",
        Kind::Gauge,
        "What goes from loopback to loopback past the link, by protocol.",
    ),
    ("netferry_published_ports", Kind::Gauge, "Ports of the host that lead into the container, by protocol."),
];

/// A text in the making.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    is_open: bool,
    common: Vec<(&'static str, String)>,
}

impl Exposition {
    /// `is_open` is for OpenMetrics; each sample has the labels `common`.
    #[must_use]
    pub fn new(is_open: bool, common: Vec<(&'static str, String)>) -> Exposition {
        Exposition { text: String::new(), is_open, common }
    }

    /// The samples of a metric of [`FAMILIES`]: their labels and values.
    pub fn family(
        &mut self,
        name: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        let Some((name, kind, help)) = FAMILIES.iter().find(|(known, ..)| *known == name) else {
            debug_assert!(false, "{name} is missing in FAMILIES");
            return;
        };
        let (suffix, type_name) = match kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Info => ("_info", if self.is_open { "info" } else { "gauge" }),
        };
        // The older text has the suffix in the head as well.
        let headed = if self.is_open { (*name).to_owned() } else { format!("{name}{suffix}") };
        let _ = writeln!(self.text, "# TYPE {headed} {type_name}\n# HELP {headed} {help}");
        for (labels, value) in samples {
            let _ = write!(self.text, "{name}{suffix}");
            let mut before = '{';
            for (label, value) in self.common.iter().chain(&labels) {
                let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value));
                before = ',';
            }
            let _ = writeln!(self.text, "{} {value}", if before == ',' { "}" } else { "" });
        }
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.is_open {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// One text out of those of several, whose samples tell by their labels whose they are: a metric stands in one place of it.
#[must_use]
pub fn merged(texts: &[&str]) -> String {
    const END: &str = "# EOF";
    if let [text] = texts {
        return (*text).to_owned();
    }
    // Heads and samples, in the order of the first text.
    let mut families: Vec<(&str, String)> = Vec::new();
    for text in texts {
        let mut place = 0;
        for line in text.lines().filter(|line| *line != END) {
            if line.starts_with("# TYPE ") {
                place = families.iter().position(|(head, _)| *head == line).unwrap_or(families.len());
                if place == families.len() {
                    families.push((line, format!("{line}\n")));
                }
            } else if let Some((_, family)) = families.get_mut(place)
                && (!line.starts_with('#') || !family.contains(line))
            {
                family.push_str(line);
                family.push('\n');
            }
        }
    }
    let mut text: String = families.into_iter().map(|(_, family)| family).collect();
    if texts.iter().any(|text| text.trim_end().ends_with(END)) {
        text.push_str(END);
        text.push('\n');
    }
    text
}

/// A label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_texts_are_as_their_readers_want_them() {
        let text = |is_open| {
            let mut text = Exposition::new(is_open, vec![("instance", "a\"b\\\n".to_owned())]);
            text.family("netferry_drops", [(vec![("reason", "no_flow".to_owned())], 3.0)]);
            text.finish()
        };
        let sample = "netferry_drops_total{instance=\"a\\\"b\\\\\\n\",reason=\"no_flow\"} 3\n";
        let help = "Packets that went no further, by the reason.";
        assert_eq!(
            text(true),
            format!("# TYPE netferry_drops counter\n# HELP netferry_drops {help}\n{sample}# EOF\n")
        );
        assert_eq!(
            text(false),
            format!("# TYPE netferry_drops_total counter\n# HELP netferry_drops_total {help}\n{sample}")
        );
    }

    #[test]
    fn several_texts_become_one_with_each_metric_in_one_place() {
        let text = |who: &str, reasons: &[&str]| {
            let mut text = Exposition::new(true, vec![("container", who.to_owned())]);
            text.family("netferry_uptime_seconds", [(Vec::new(), 1.0)]);
            let sample = |reason: &&str| (vec![("reason", (*reason).to_owned())], 3.0);
            text.family("netferry_drops", reasons.iter().map(sample));
            text.finish()
        };
        let (web, db) = (text("web", &["no_flow"]), text("db", &["denied", "no_flow"]));
        assert_eq!(merged(&[&web]), web);
        let merged = merged(&[&db, &web]);
        let lines: Vec<&str> = merged.lines().filter(|line| !line.starts_with("# HELP")).collect();
        let expected = [
            "# TYPE netferry_uptime_seconds gauge",
            "netferry_uptime_seconds{container=\"db\"} 1",
            "netferry_uptime_seconds{container=\"web\"} 1",
            "# TYPE netferry_drops counter",
            "netferry_drops_total{container=\"db\",reason=\"denied\"} 3",
            "netferry_drops_total{container=\"db\",reason=\"no_flow\"} 3",
            "netferry_drops_total{container=\"web\",reason=\"no_flow\"} 3",
            "# EOF",
        ];
        assert_eq!(lines, expected);
        assert_eq!(merged.matches("# HELP").count(), 2);
    }

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for (name, _, help) in FAMILIES {
            assert!(
                name.starts_with("netferry_") && !name.ends_with("_total") && help.ends_with('.'),
                "{name}"
            );
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn dashboard_shows_what_there_is_and_all_of_it() {
        let dashboard = include_str!("../../docs/grafana.json");
        let shown: BTreeSet<&str> = dashboard
            .split(|c: char| !c.is_ascii_lowercase() && c != '_')
            .filter(|word| word.starts_with("netferry_"))
            .collect();
        let with_suffix = |(name, kind, _): &Family| match kind {
            Kind::Counter => format!("{name}_total"),
            Kind::Gauge => (*name).to_owned(),
            Kind::Info => format!("{name}_info"),
        };
        let there: BTreeSet<String> = FAMILIES.iter().map(with_suffix).collect();
        assert_eq!(shown, there.iter().map(String::as_str).collect());
    }
}
