//! The figures of all runs, and what they say: medians, spreads, ratios, and which goals are met.

use crate::container::Arrived;
use crate::subject::{ALL, Subject};

/// Above this spread, a share of the median, a figure says little.
const NOISY: f64 = 0.35;

/// All figures of one unit that one measure gave.
#[derive(Debug)]
pub struct Row {
    pub measure: String,
    pub unit: String,
    values: Vec<(Subject, Vec<f64>)>,
}

/// Everything that was found, in the order it was first found in.
#[derive(Debug, Default)]
pub struct Figures {
    rows: Vec<Row>,
}

/// What is compared in a goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Against {
    /// The better of those that need no root.
    BestPeer,
    Kernel,
    /// Our own figure of another measure.
    Own(&'static str),
    /// A number.
    Number(f64),
}

/// A ratio that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    pub measure: &'static str,
    pub unit: &'static str,
    pub against: Against,
    /// At least this where more is better, else at most.
    pub ratio: f64,
    pub more_is_better: bool,
}

/// How a goal stands.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub goal: Goal,
    /// Our median, the other's, and the ratio of the medians.
    pub ours: f64,
    pub theirs: f64,
    pub other: String,
    pub ratio: f64,
    /// Lowest and highest ratio of a round.
    pub range: (f64, f64),
    pub met: bool,
}

impl Row {
    pub fn of(&self, subject: Subject) -> &[f64] {
        self.values.iter().find(|(name, _)| *name == subject).map_or(&[], |(_, values)| values)
    }

    pub fn median(&self, subject: Subject) -> Option<f64> {
        median(self.of(subject))
    }

    /// Highest less lowest, as a share of the median.
    pub fn spread(&self, subject: Subject) -> Option<f64> {
        let (lowest, highest) = range(self.of(subject))?;
        Some((highest - lowest) / self.median(subject)?.abs().max(f64::MIN_POSITIVE))
    }

    /// The better of the peers in this row.
    fn best_peer(&self, more_is_better: bool) -> Option<Subject> {
        let better = |a: &f64, b: &f64| if more_is_better { a.total_cmp(b) } else { b.total_cmp(a) };
        ALL.into_iter()
            .filter(|subject| subject.is_peer())
            .filter_map(|subject| Some((subject, self.median(subject)?)))
            .max_by(|(_, a), (_, b)| better(a, b))
            .map(|(subject, _)| subject)
    }
}

impl Figures {
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn row(&self, measure: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.measure == measure && row.unit == unit)
    }

    pub fn add(&mut self, measure: &str, unit: &str, subject: Subject, value: f64) {
        let at = self.rows.iter().position(|row| row.measure == measure && row.unit == unit);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row { measure: measure.to_owned(), unit: unit.to_owned(), values: Vec::new() });
            self.rows.len() - 1
        });
        let values = &mut self.rows[at].values;
        match values.iter_mut().find(|(name, _)| *name == subject) {
            Some((_, values)) => values.push(value),
            None => values.push((subject, vec![value])),
        }
    }

    /// Speed, and what it cost the relay.
    pub fn speed(&mut self, measure: &str, subject: Subject, arrived: Arrived, processor_seconds: f64) {
        self.add(measure, "Gbit/s", subject, arrived.gigabits_per_second);
        if subject != Subject::Kernel {
            self.add(measure, "relay CPU s/GB", subject, processor_seconds / arrived.gigabytes);
        }
    }

    /// How this goal stands; nothing where a figure is missing.
    pub fn judge(&self, goal: Goal) -> Option<Verdict> {
        let row = self.row(goal.measure, goal.unit)?;
        let ours = row.median(Subject::Netferry)?;
        let (other, others) = match goal.against {
            Against::BestPeer => {
                let peer = row.best_peer(goal.more_is_better)?;
                (peer.name().to_owned(), row.of(peer).to_vec())
            }
            Against::Kernel => ("kernel".to_owned(), row.of(Subject::Kernel).to_vec()),
            Against::Own(measure) => {
                (measure.to_owned(), self.row(measure, goal.unit)?.of(Subject::Netferry).to_vec())
            }
            Against::Number(number) => (String::new(), vec![number]),
        };
        let theirs = median(&others)?;
        let each =
            row.of(Subject::Netferry).iter().zip(others.iter().cycle()).map(|(ours, other)| ours / other);
        let ratio = ours / theirs;
        let met = if goal.more_is_better { ratio >= goal.ratio } else { ratio <= goal.ratio };
        Some(Verdict { goal, ours, theirs, other, ratio, range: range(&each.collect::<Vec<_>>())?, met })
    }
}

impl Verdict {
    /// Whether rounds disagree about it.
    pub fn is_uncertain(&self) -> bool {
        self.range.0 < self.goal.ratio && self.range.1 > self.goal.ratio
    }

    pub fn word(&self) -> &'static str {
        match (self.met, self.is_uncertain()) {
            (true, false) => "met",
            (true, true) => "met, not in every round",
            (false, true) => "not met, but in some rounds",
            (false, false) => "**not met**",
        }
    }
}

/// Whether a spread is too wide to go by.
pub fn is_noisy(spread: f64) -> bool {
    spread > NOISY
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

pub fn range(values: &[f64]) -> Option<(f64, f64)> {
    let lowest = values.iter().copied().min_by(f64::total_cmp)?;
    let highest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((lowest, highest))
}
