//! What the soak has found, as a line a shift and as tables in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use crate::instances::FACES;
use crate::shift::{Outcome, Tally};
use crate::watch::Sample;

/// Memory may differ by so much between medians of quiet moments: what the allocator keeps depends on what was last freed.
const FLAT_BYTES: u64 = 2 << 20;
/// The same of single moments.
const ROUGHLY_FLAT_BYTES: u64 = 8 << 20;
/// From so many shifts on there are medians to compare.
const SHIFTS_OF_MEDIANS: usize = 10;
/// More are not listed.
const FINDINGS: usize = 100;

pub struct Report {
    baseline: Vec<Sample>,
    /// Of each shift, each instance.
    quiet: Vec<[Sample; FACES.len()]>,
    most: [Sample; FACES.len()],
    after_silence: Option<Vec<Sample>>,
    tallies: BTreeMap<(String, String), Tally>,
    processes: usize,
    slowest: Duration,
    length: Duration,
    findings: Vec<String>,
}

impl Report {
    pub fn new(baseline: &[Sample]) -> Report {
        Report {
            baseline: baseline.to_vec(),
            quiet: Vec::new(),
            most: [Sample::default(); FACES.len()],
            after_silence: None,
            tallies: BTreeMap::new(),
            processes: 0,
            slowest: Duration::ZERO,
            length: Duration::ZERO,
            findings: Vec::new(),
        }
    }

    /// Takes a shift in, and says so.
    pub fn take(&mut self, at: Duration, outcome: Outcome) {
        self.length = at;
        self.quiet.push(outcome.quiet);
        let mut sum = Tally::default();
        outcome.tallies.values().for_each(|tally| sum.add(*tally));
        let mut line = format!("{:>5} s:", at.as_secs());
        for (place, face) in FACES.iter().enumerate() {
            let (quiet, most, all) = (outcome.quiet[place], outcome.most[place], &mut self.most[place]);
            line += &format!(
                " {} {:.1} (at most {:.1}) MiB, {} ({}) descriptors;",
                face.name(),
                mebibytes(quiet.anonymous_bytes),
                mebibytes(most.anonymous_bytes),
                quiet.descriptors,
                most.descriptors
            );
            all.anonymous_bytes = all.anonymous_bytes.max(most.anonymous_bytes);
            all.descriptors = all.descriptors.max(most.descriptors);
            all.streams = all.streams.max(most.streams);
            all.datagrams = all.datagrams.max(most.datagrams);
            all.threads = all.threads.max(most.threads);
            all.processes = all.processes.max(most.processes);
        }
        println!(
            "{line} {} rounds, {:.0} MB compared, {} processes at most, quiet after {:.1} s, {} findings",
            sum.rounds,
            sum.bytes as f64 / 1e6,
            outcome.processes,
            outcome.settled.as_secs_f64(),
            outcome.findings.len()
        );
        outcome.tallies.into_iter().for_each(|(key, tally)| self.tallies.entry(key).or_default().add(tally));
        self.processes = self.processes.max(outcome.processes);
        self.slowest = self.slowest.max(outcome.settled);
        for finding in outcome.findings {
            self.find(&format!("at {} s: {finding}", at.as_secs()));
        }
    }

    /// After the longest silence no exchange of datagrams may be left, either.
    pub fn take_silence(&mut self, samples: &[Sample]) {
        for (face, (now, before)) in FACES.iter().zip(samples.iter().zip(self.baseline.clone())) {
            if now.datagrams != before.datagrams || now.other_descriptors() != before.other_descriptors() {
                let name = face.name();
                self.find(&format!("after silence {name} holds {now:?}, at first {before:?}"));
            }
        }
        self.after_silence = Some(samples.to_vec());
    }

    /// The last: what was left behind when all was stopped, and how memory went.
    pub fn take_end(&mut self, left: Option<String>) {
        if let Some(left) = left {
            self.find(&format!("left behind: {left}"));
        }
        for (place, face) in FACES.iter().enumerate() {
            let (early, late) = self.windows(place);
            let allowed = if self.quiet.len() < SHIFTS_OF_MEDIANS { ROUGHLY_FLAT_BYTES } else { FLAT_BYTES };
            if late > early + allowed {
                let (early, late) = (mebibytes(early), mebibytes(late));
                self.find(&format!("memory of {} grew from {early:.1} to {late:.1} MiB", face.name()));
            }
        }
    }

    /// Median of the memory of quiet moments in the second and the last fifth of the time; the first fifth warms up.
    fn windows(&self, place: usize) -> (u64, u64) {
        let all: Vec<u64> = self.quiet.iter().map(|quiet| quiet[place].anonymous_bytes).collect();
        let fifth = all.len().div_ceil(5);
        let from = fifth.min(all.len() - 1);
        let median = |part: &[u64]| {
            let mut sorted = part.to_vec();
            sorted.sort_unstable();
            sorted[sorted.len() / 2]
        };
        // Of few moments there is nothing to warm up.
        let early =
            if all.len() < SHIFTS_OF_MEDIANS { &all[..1] } else { &all[from..(from + fifth).min(all.len())] };
        (median(early), median(&all[all.len() - fifth..]))
    }

    /// What a line through the memory of quiet moments, from the second fifth on, gains in an hour.
    fn mebibytes_an_hour(&self, place: usize) -> f64 {
        let all = self.quiet.iter().map(|quiet| mebibytes(quiet[place].anonymous_bytes));
        let points: Vec<(f64, f64)> =
            (0..).map(f64::from).zip(all).skip(self.quiet.len().div_ceil(5)).collect();
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let rise: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        let shifts_an_hour = 3600.0 * self.quiet.len() as f64 / self.length.as_secs_f64().max(1.0);
        if spread == 0.0 { 0.0 } else { rise / spread * shifts_an_hour }
    }

    /// Writes it in the place of what was written before.
    pub fn write_to(&self, file: Option<&mut File>) {
        let Some(file) = file else { return };
        let written = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        written.and_then(|_| write!(file, "{self}")).expect("the report can be written");
    }

    fn find(&mut self, finding: &str) {
        println!("FOUND {finding}");
        self.findings.push(finding.to_owned());
    }

    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shifts = self.quiet.len();
        writeln!(
            f,
            "\nsoak: {} s in {shifts} shifts; at most {} processes",
            self.length.as_secs(),
            self.processes
        )?;
        writeln!(f, "quiet at latest {:.1} s after a shift\n", self.slowest.as_secs_f64())?;
        writeln!(
            f,
            "| instance | MiB at first | early, quiet | late, quiet | an hour | most | descriptors at first | quiet | most | connections, most | exchanges of datagrams, most | threads |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
        for (place, face) in FACES.iter().enumerate() {
            let (early, late) = self.windows(place);
            let (first, most) = (self.baseline[place], self.most[place]);
            let last =
                self.after_silence.as_ref().map_or(self.quiet[shifts - 1][place], |samples| samples[place]);
            writeln!(
                f,
                "| {} | {:.1} | {:.1} | {:.1} | {:+.2} | {:.1} | {} | {} | {} | {} | {} | {} |",
                face.name(),
                mebibytes(first.anonymous_bytes),
                mebibytes(early),
                mebibytes(late),
                self.mebibytes_an_hour(place),
                mebibytes(most.anonymous_bytes),
                first.descriptors,
                last.descriptors,
                most.descriptors,
                most.streams,
                most.datagrams,
                most.threads
            )?;
        }
        writeln!(f, "\n| where | what | rounds | MB compared | datagrams sent | lost |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for ((place, kind), tally) in &self.tallies {
            let Tally { rounds, bytes, sent, lost } = *tally;
            writeln!(f, "| {place} | {kind} | {rounds} | {:.0} | {sent} | {lost} |", bytes as f64 / 1e6)?;
        }
        writeln!(f, "\n{} findings", self.findings.len())?;
        self.findings.iter().take(FINDINGS).try_for_each(|finding| writeln!(f, "- {finding}"))
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
