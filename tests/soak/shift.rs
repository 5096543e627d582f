//! A shift: all activities at once for a while, then quiet, in which everything has to go back to nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netferry::config::Limits;

use crate::activities::{ACTIVITIES, Activity, Place};
use crate::ground::{Ground, PYTHON};
use crate::instances::{FACES, Instance};
use crate::process::{Running, Stream, start};
use crate::watch::{Sample, sockets};

const TRAFFIC: &str = include_str!("traffic.py");
/// How long anything may take on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what the instances hold.
const GLANCE: Duration = Duration::from_secs(2);
/// What programs of traffic may take beyond their shift: what they have begun is completed.
const OVERTIME: Duration = Duration::from_secs(150);
/// How long what was freed may stay with an instance after a load, and how much is not worth waiting for.
const MEMORY_PATIENCE: Duration = Duration::from_secs(10);
const MEMORY_KEPT: u64 = 2 << 20;

/// When a shift ends.
#[derive(Debug, Clone, Copy)]
pub struct End(Instant);

impl End {
    pub fn has_come(self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps, but not beyond it.
    pub fn pause(self, time: Duration) {
        thread::sleep(time.min(self.0.saturating_duration_since(Instant::now())));
    }
}

/// What an activity has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub rounds: u64,
    /// Whose arrival was compared.
    pub bytes: u64,
    /// Datagrams.
    pub sent: u64,
    pub lost: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.rounds += other.rounds;
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.lost += other.lost;
    }
}

/// What came of a shift.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By the place and kind of activity.
    pub tallies: BTreeMap<(String, String), Tally>,
    /// The most that each instance held.
    pub most: [Sample; FACES.len()],
    /// What each held when all was quiet.
    pub quiet: [Sample; FACES.len()],
    /// The most processes there were.
    pub processes: usize,
    /// How long it took until all was quiet.
    pub settled: Duration,
    /// What must not be.
    pub findings: Vec<String>,
}

/// All activities for `length`, and quiet after it.
pub fn work(ground: &Ground, instances: &[Instance], baseline: &[Sample], length: Duration) -> Outcome {
    let mut outcome = Outcome::default();
    let end = End(Instant::now() + length);
    let programs = programs(ground, instances, length);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let churns: Vec<_> = ACTIVITIES
            .iter()
            .filter_map(|activity| match activity {
                Activity::Churn(name, work) => Some((
                    *name,
                    scope.spawn(move || catch_unwind(AssertUnwindSafe(|| work(ground, instances, end)))),
                )),
                Activity::Traffic(..) => None,
            })
            .collect();
        let watcher = scope.spawn(|| watch(instances, &done));
        for (place, program) in programs {
            let (tallies, findings) = tallies_of(program, length + OVERTIME);
            outcome
                .findings
                .extend(findings.into_iter().map(|finding| format!("{}: {finding}", place.name())));
            tallies.into_iter().for_each(|(kind, tally)| outcome.add(place.name(), kind, tally));
        }
        for (name, churn) in churns {
            match churn.join().expect("panics are caught") {
                Ok(tally) => outcome.add("here".to_owned(), name.to_owned(), tally),
                Err(panic) => outcome.findings.push(format!("{name}: {}", text_of(panic.as_ref()))),
            }
        }
        done.store(true, Ordering::Relaxed);
        (outcome.most, outcome.processes) = watcher.join().expect("it only looks");
    });
    settle(instances, baseline, &mut outcome);
    outcome
}

impl Outcome {
    fn add(&mut self, place: String, kind: String, tally: Tally) {
        self.tallies.entry((place, kind)).or_default().add(tally);
    }
}

/// One for each place, with all that is to go on there.
fn programs(ground: &Ground, instances: &[Instance], length: Duration) -> Vec<(Place, Running)> {
    let mut words: Vec<(Place, Vec<String>)> = Vec::new();
    for activity in ACTIVITIES {
        let Activity::Traffic(place, kind, target) = activity else { continue };
        let word = format!("{kind}={target}");
        match words.iter_mut().find(|(there, _)| there == place) {
            Some((_, words)) => words.push(word),
            None => words.push((*place, vec![word])),
        }
    }
    let controls: Vec<_> = instances
        .iter()
        .filter_map(|instance| {
            Some(format!("{}={}", instance.face.name().replace(' ', "-"), instance.control()?.display()))
        })
        .collect();
    let started = words.into_iter().map(|(place, words)| {
        let dress = |mut command: std::process::Command| {
            command.env("SOAK_CONTROLS", controls.join(" "));
            command.args(["-c", TRAFFIC, &length.as_secs().to_string()]).args(&words);
            start(command)
        };
        let running = match place {
            Place::In(face) => dress(Instance::of(instances, face).enter_client(ground, PYTHON)),
            Place::World => ground.in_world(|| dress(ground.root(PYTHON))),
            Place::Host => dress(ground.user(PYTHON)),
        };
        (place, running)
    });
    started.collect()
}

/// Its end, and what it says.
fn tallies_of(program: Running, limit: Duration) -> (Vec<(String, Tally)>, Vec<String>) {
    let outcome = match catch_unwind(AssertUnwindSafe(|| program.finish(limit))) {
        Ok(outcome) => outcome,
        Err(panic) => return (Vec::new(), vec![text_of(panic.as_ref())]),
    };
    let mut findings = Vec::new();
    let mut tallies = Vec::new();
    for line in outcome.stdout.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        match (words.as_slice(), numbers.as_slice()) {
            ([kind, ..], &[rounds, bytes, sent, lost]) if words.len() == 5 => {
                // Single datagrams of a quiet exchange; a storm loses what it loses, as long as some come through.
                if ["datagrams", "ping"].contains(kind) && lost * 20 > sent + 60
                    || *kind == "storm" && sent > 0 && bytes == 0
                {
                    findings.push(format!("{lost} of {sent} datagrams were lost by {kind}"));
                }
                if rounds == 0 {
                    findings.push(format!("{kind} made no round"));
                }
                tallies.push(((*kind).to_owned(), Tally { rounds, bytes, sent, lost }));
            }
            _ => findings.push(line.to_owned()),
        }
    }
    if !outcome.status.success() || !outcome.stderr.is_empty() {
        findings.push(format!("ended with {}: {}", outcome.status, outcome.stderr));
    }
    (tallies, findings)
}

fn watch(instances: &[Instance], done: &AtomicBool) -> ([Sample; FACES.len()], usize) {
    let mut most = [Sample::default(); FACES.len()];
    let mut processes = 0;
    while !done.load(Ordering::Relaxed) {
        for (most, instance) in most.iter_mut().zip(instances) {
            let now = instance.watched.sample();
            most.anonymous_bytes = most.anonymous_bytes.max(now.anonymous_bytes);
            most.descriptors = most.descriptors.max(now.descriptors);
            most.streams = most.streams.max(now.streams);
            most.datagrams = most.datagrams.max(now.datagrams);
            most.threads = most.threads.max(now.threads);
            most.processes = most.processes.max(now.processes);
        }
        processes = processes.max(crate::ground::processes().len());
        thread::sleep(GLANCE);
    }
    (most, processes)
}

/// Waits until no connection is left, in the instances, on the host and in the world, and all else is as in the beginning.
fn settle(instances: &[Instance], baseline: &[Sample], outcome: &mut Outcome) {
    let began = Instant::now();
    loop {
        let (mut left, mut keeps_memory) = (Vec::new(), false);
        for (place, instance) in instances.iter().enumerate() {
            let now = instance.watched.sample();
            let (before, name) = (baseline[place], instance.face.name());
            outcome.quiet[place] = now;
            let differs = |what: &str, now: usize, before: usize| {
                (now != before).then(|| format!("{name}: {now} {what}, {before} at first"))
            };
            left.extend(differs("connections", now.streams, before.streams));
            left.extend(differs(
                "descriptors but those of datagrams",
                now.other_descriptors(),
                before.other_descriptors(),
            ));
            let most_pipes = before.pipe_ends + 2 * Limits::default().splice.idle_pipes;
            left.extend(
                (now.pipe_ends > most_pipes).then(|| format!("{name}: {} ends of pipes", now.pipe_ends)),
            );
            keeps_memory |= now.anonymous_bytes > before.anonymous_bytes + MEMORY_KEPT;
            left.extend(differs("threads", now.threads, before.threads));
            left.extend(differs("processes", now.processes, before.processes));
        }
        outcome.settled = began.elapsed();
        // Whoever keeps more than that until then is compared with itself later.
        if left.is_empty() && (!keeps_memory || outcome.settled > MEMORY_PATIENCE) {
            return;
        }
        if outcome.settled > PATIENCE {
            outcome.findings.extend(left);
            return;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// TCP sockets of the network the calling thread is in that neither listen nor wait for time to pass.
pub fn connections() -> usize {
    let counted = |state: &str| !["0A", "07", "06"].contains(&state);
    ["tcp", "tcp6"].iter().map(|table| sockets("thread-self", table, counted).len()).sum()
}

/// Lines of a log that nobody expects.
pub fn unexpected(instance: &Instance, seen: &mut usize) -> Vec<String> {
    let said = instance.relay.so_far(Stream::Err);
    let new = &said[*seen..];
    let whole = new.rfind('\n').map_or(0, |end| end + 1);
    *seen += whole;
    let lines = new[..whole].lines().filter(|line| !crate::EXPECTED.iter().any(|part| line.contains(part)));
    lines.map(|line| format!("{} says: {line}", instance.face.name())).collect()
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
