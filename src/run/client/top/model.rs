//! What is drawn: the last answers, and what has changed since those before.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

/// Seconds that are remembered.
const REMEMBERED: usize = 240;

/// One flow, and how much it moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Busy {
    /// As it was told.
    pub flow: Value,
    /// Bytes a second from the container and to it.
    pub rates: (u64, u64),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    /// The last answer to `status`.
    pub status: Value,
    /// The busiest first.
    pub flows: Vec<Busy>,
    /// Bytes a second from the container, the latest last.
    pub up: VecDeque<u64>,
    /// Bytes a second to the container.
    pub down: VecDeque<u64>,
    /// Drops by reason: in all, and in the last second; the most first.
    pub drops: Vec<(String, u64, u64)>,
    flow_bytes: HashMap<String, (u64, u64)>,
    link_bytes: Option<(u64, u64)>,
    drop_counts: HashMap<String, u64>,
}

impl Model {
    /// Takes new answers, so long after the last.
    pub fn take(&mut self, status: Value, flows: Vec<Value>, passed: Duration) {
        let rate = |bytes: u64, before: u64| per_second(bytes.saturating_sub(before), passed);
        let bytes = bytes_of(&status);
        if let Some((up, down)) = self.link_bytes.replace(bytes) {
            remember(&mut self.up, rate(bytes.0, up));
            remember(&mut self.down, rate(bytes.1, down));
        }
        let before = std::mem::take(&mut self.flow_bytes);
        self.flows = flows
            .into_iter()
            .map(|flow| {
                let id = flow["id"].as_str().unwrap_or_default().to_owned();
                let bytes = bytes_of(&flow);
                let (up, down) = before.get(&id).copied().unwrap_or(bytes);
                self.flow_bytes.insert(id, bytes);
                Busy { flow, rates: (rate(bytes.0, up), rate(bytes.1, down)) }
            })
            .collect();
        let sum = |(up, down): (u64, u64)| up.saturating_add(down);
        self.flows.sort_by_key(|busy| std::cmp::Reverse((sum(busy.rates), sum(bytes_of(&busy.flow)))));
        let drops = status["drops_by_reason"].as_object();
        let counts =
            drops.into_iter().flatten().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        self.drops = counts
            .map(|(name, count)| {
                let before = self.drop_counts.insert(name.clone(), count).unwrap_or(count);
                (name, count, rate(count, before))
            })
            .collect();
        self.drops.sort_by_key(|(_, count, rate)| std::cmp::Reverse((*rate, *count)));
        self.status = status;
    }

    /// What was told last.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let flows: Vec<&Value> = self.flows.iter().map(|busy| &busy.flow).collect();
        json!({ "status": self.status, "flows": flows })
    }
}

fn bytes_of(told: &Value) -> (u64, u64) {
    let of = |direction: &str| told[direction]["bytes"].as_u64().unwrap_or(0);
    (of("from_container"), of("to_container"))
}

fn per_second(count: u64, passed: Duration) -> u64 {
    let micros = passed.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

fn remember(rates: &mut VecDeque<u64>, rate: u64) {
    if rates.len() >= REMEMBERED {
        rates.pop_front();
    }
    rates.push_back(rate);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: u64) -> Value {
        json!({ "id": "f0.0", "from_container": { "bytes": bytes }, "to_container": { "bytes": 0 } })
    }

    #[test]
    fn rates_are_what_has_moved_since() {
        let mut model = Model::default();
        let status = |bytes: u64, drops: u64| {
            let mut status = told(bytes);
            status["drops_by_reason"] = json!({ "no_flow": drops, "denied": 9 });
            status
        };
        let quiet = json!({ "id": "f1.0", "from_container": { "bytes": 7 }, "to_container": { "bytes": 7 } });
        model.take(status(100, 3), vec![quiet.clone(), told(50)], Duration::ZERO);
        assert!(model.up.is_empty() && model.flows.iter().all(|busy| busy.rates == (0, 0)));
        model.take(status(300, 7), vec![quiet, told(150)], Duration::from_secs(2));
        assert_eq!(model.up, [100]);
        assert_eq!((model.flows[0].rates, &model.flows[0].flow["id"]), ((50, 0), &"f0.0".into()));
        assert_eq!(model.drops, [("no_flow".to_owned(), 7, 2), ("denied".to_owned(), 9, 0)]);
    }

    #[test]
    fn the_past_is_forgotten() {
        let mut model = Model::default();
        for second in 0..REMEMBERED as u64 + 10 {
            model.take(told(second), Vec::new(), Duration::from_secs(1));
        }
        assert_eq!(model.up.len(), REMEMBERED);
    }
}
