//! Counters of what has been: for each rule and each way, what the flows have carried that are over.
//!
//! A reader adds what the flows carry that are alive. Its size is that of the policy and of the published ports.

use std::collections::BTreeMap;

use super::{Carried, HostSide, Way};
use crate::stack::audit::AuditMark;
use crate::stack::policy::RuleMark;
use crate::stack::stats::Traffic;

/// What a rule or a way has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Flows that it was asked about: each connection, the first datagram of each exchange.
    pub flows: u64,
    /// IP packets and their bytes, both ways.
    pub traffic: Traffic,
}

/// The counters.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the mark's number.
    rules: Vec<Tally>,
    ways: BTreeMap<Way, Tally>,
    /// By the place of the destination; at most as many as an audit tells apart.
    audit: Vec<Carried>,
}

impl Ledger {
    /// A flow has begun.
    pub fn begin(&mut self, side: &HostSide) {
        self.ways.entry(side.way).or_default().flows += 1;
        self.decided(side.rule);
    }

    /// A rule has decided.
    pub fn decided(&mut self, rule: RuleMark) {
        if let Some(tally) = self.rule(rule) {
            tally.flows += 1;
        }
    }

    /// A rule has decided about a packet that belongs to no flow.
    pub fn packet(&mut self, rule: RuleMark, bytes: usize) {
        if let Some(tally) = self.rule(rule) {
            tally.flows += 1;
            tally.traffic.record(bytes);
        }
    }

    /// A flow that is over has carried so much. Of a port that is published no longer nobody asks.
    pub fn add(&mut self, side: &HostSide, carried: Carried) {
        note(&mut self.audit, side.audit, carried);
        let carried = carried.both();
        if let Some(tally) = self.ways.get_mut(&side.way) {
            tally.traffic.add(carried);
        }
        if let Some(tally) = self.rule(side.rule) {
            tally.traffic.add(carried);
        }
    }

    /// Forgets a way that is no more.
    pub fn forget(&mut self, way: Way) {
        self.ways.remove(&way);
    }

    /// Other rules count from now on: what each of them inherits.
    pub fn set_rules(&mut self, rules: Vec<Tally>) {
        self.rules = rules;
    }

    /// Room for the counters of so many rules, all at zero.
    pub fn open(&mut self, rules: usize) {
        self.rules = vec![Tally::default(); rules];
    }

    fn rule(&mut self, rule: RuleMark) -> Option<&mut Tally> {
        rule.index().and_then(|index| self.rules.get_mut(index))
    }

    /// Each rule's, with what `alive` carry.
    pub(super) fn rules_with(
        &self,
        alive: impl Iterator<Item = (RuleMark, Traffic)>,
    ) -> Vec<(RuleMark, Tally)> {
        let mut sums = self.rules.clone();
        for (rule, carried) in alive {
            if let Some(tally) = rule.index().and_then(|index| sums.get_mut(index)) {
                tally.traffic.add(carried);
            }
        }
        sums.into_iter().enumerate().map(|(index, tally)| (RuleMark::of(index), tally)).collect()
    }

    /// Each destination's, with what `alive` carry.
    pub(super) fn audit_with(&self, alive: impl Iterator<Item = (AuditMark, Carried)>) -> Vec<Carried> {
        let mut sums = self.audit.clone();
        for (mark, carried) in alive {
            note(&mut sums, mark, carried);
        }
        sums
    }

    /// Each way's, with what `alive` carry.
    pub(super) fn ways_with(&self, alive: impl Iterator<Item = (Way, Traffic)>) -> Vec<(Way, Tally)> {
        let mut sums = self.ways.clone();
        for (way, carried) in alive {
            if let Some(tally) = sums.get_mut(&way) {
                tally.traffic.add(carried);
            }
        }
        sums.into_iter().collect()
    }
}

fn note(sums: &mut Vec<Carried>, mark: AuditMark, carried: Carried) {
    let Some(index) = mark.index() else { return };
    if sums.len() <= index {
        sums.resize(index + 1, Carried::default());
    }
    sums[index].add(carried);
}
