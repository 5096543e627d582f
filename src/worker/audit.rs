//! The audit of an instance: what the core has seen goes to the file, and what was on no list is told at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tracing::error;

use super::Worker;
use super::clock::Clock;
use crate::config::rules::RuleProtocol;
use crate::observe::audit::AuditFile;
use crate::stack::Stack;
use crate::stack::audit::{AuditEvent, Destination};

/// What is watched for.
#[derive(Debug, Default)]
pub struct Audit {
    /// Where it is written, if anywhere.
    pub file: Option<AuditFile>,
    /// Set at the end, if something was refused because it is on no list and that matters.
    pub drifted: Option<Arc<AtomicBool>>,
}

impl Worker {
    /// The same, with every destination written down, or compared with a list.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Worker {
        self.audit = audit;
        self
    }

    /// Writes down what is new.
    pub(super) fn write_audit(&mut self) {
        let Some(file) = &mut self.audit.file else {
            while self.stack.poll_audit().is_some() {}
            return;
        };
        let epoch = Clock::epoch_micros().saturating_sub(self.clock.now().total_micros().unsigned_abs());
        let mut wrote = false;
        while let Some(event) = self.stack.poll_audit() {
            file.write(&line(&event, epoch).to_string());
            wrote = true;
        }
        if !wrote {
            file.flush();
        }
    }

    /// Writes the totals, and says what has drifted.
    pub(super) fn end_audit(&mut self) {
        self.write_audit();
        if let Some(file) = &mut self.audit.file {
            for total in self.stack.audit_totals() {
                file.write(&line(&total, 0).to_string());
            }
            let lost = json!({
                "event": "lost",
                "destinations": self.stack.audit_lost(),
                "lines": file.lost(),
            });
            file.write(&lost.to_string());
        }
        if let Some(drifted) = &self.audit.drifted {
            tell_drift(&self.stack, drifted);
        }
    }
}

fn tell_drift(stack: &Stack, drifted: &AtomicBool) {
    let (some, count) = stack.drifted();
    if count == 0 {
        return;
    }
    drifted.store(true, Ordering::Relaxed);
    for destination in some {
        error!("--audit-enforce: {} is on no list, and was refused", named(destination));
    }
    error!("--audit-enforce: the container has asked {count} times for what is on no list");
}

fn named(destination: &Destination) -> String {
    let protocol = destination.protocol.name();
    match (&destination.name, destination.peer) {
        (Some(name), Some(peer)) => format!("{protocol} {peer} ({name})"),
        (None, Some(peer)) => format!("{protocol} {peer}"),
        (name, None) => format!("a query for {}", name.as_deref().unwrap_or("something over TCP")),
    }
}

fn line(event: &AuditEvent, epoch_micros: u64) -> Value {
    match event {
        AuditEvent::New { destination, rule, at } => {
            let micros = epoch_micros.saturating_add(at.total_micros().unsigned_abs());
            let mut line = described("new", destination);
            line["time"] = (micros as f64 / 1e6).into();
            line["rule"] = rule.clone().into();
            line
        }
        AuditEvent::Total { destination, flows, carried } => {
            let mut line = described("total", destination);
            line["flows"] = (*flows).into();
            line["packets_up"] = carried.up.frames.into();
            line["bytes_up"] = carried.up.bytes.into();
            line["packets_down"] = carried.down.frames.into();
            line["bytes_down"] = carried.down.bytes.into();
            line
        }
    }
}

fn described(event: &str, destination: &Destination) -> Value {
    let port = destination
        .peer
        .map(|peer| peer.port())
        .filter(|_| matches!(destination.protocol, RuleProtocol::Tcp | RuleProtocol::Udp));
    json!({
        "event": event,
        "protocol": destination.protocol.name(),
        "name": destination.name,
        "address": destination.peer.map(|peer| peer.ip().to_string()),
        "port": port,
        "verdict": destination.verdict.name(),
    })
}
