//! The policy that an instance begins with, out of what the command line names.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::{Plan, RulePart};
use crate::config::Rules;
use crate::config::limits::RULES_FILE_BYTES;
use crate::config::rules::file::FileError;
use crate::config::rules::{RuleError, Verdict, recording};
use crate::observe::audit::{AuditError, AuditFile};
use crate::worker::audit::Audit;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file of rules.
    #[error("cannot read the rules of {}: {source}; name a file that you may read", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// What it says.
    #[error("{}, {error}", path.display())]
    Wrong {
        /// As given.
        path: PathBuf,
        /// Line and reason.
        error: FileError,
    },
    /// All of them together.
    #[error("{0}; leave some out")]
    TooMany(#[from] RuleError),
}

/// Ends a run that has gone where it may not (`--audit-enforce`).
pub const DRIFT_STATUS: u8 = 121;

/// Bytes of a recording.
const RECORDING_BYTES: u64 = 16 << 20;

/// What is watched for: a flag that is raised if the container goes where it may not, where that is a failure.
pub fn drift(plan: &Plan) -> Option<Arc<AtomicBool>> {
    plan.audit_enforce.as_ref().map(|_| Arc::default())
}

/// The status to end with, by what has drifted.
pub fn status(drifted: Option<&Arc<AtomicBool>>, status: u8) -> u8 {
    let has_drifted = drifted.is_some_and(|drifted| drifted.load(Ordering::Relaxed));
    if has_drifted { DRIFT_STATUS } else { status }
}

/// The audit that a plan asks for, its file open.
pub fn open_audit(plan: &Plan, drifted: Option<&Arc<AtomicBool>>) -> Result<Audit, AuditError> {
    let file = plan.audit.as_deref().map(AuditFile::create).transpose()?;
    Ok(Audit { file, drifted: drifted.cloned() })
}

/// Puts the parts together; what is to be enforced comes last.
pub fn read(plan: &Plan) -> Result<Rules, PolicyError> {
    let mut rules = put_together(&plan.rules)?;
    if let Some(path) = &plan.audit_enforce {
        let text = read_recording(path)?;
        let wrong = |error| PolicyError::Wrong { path: path.clone(), error };
        rules.append(recording::rules_of(&text).map_err(wrong)?);
        if rules.default_out == Verdict::Allow {
            rules.default_out = Verdict::Reject;
        }
    }
    Ok(rules.bounded()?)
}

/// The parts in their order; files are read.
fn put_together(parts: &[RulePart]) -> Result<Rules, PolicyError> {
    let mut rules = Rules::default();
    for part in parts {
        match part {
            RulePart::Rules(own) => rules.append(own.clone()),
            RulePart::File(path) => rules.append(read_file(path)?),
        }
    }
    Ok(rules)
}

/// The policy of a network, or of one container on it.
pub fn of_network(parts: &[RulePart]) -> Result<Rules, PolicyError> {
    Ok(put_together(parts)?.bounded()?)
}

/// The text of a recording.
pub fn read_recording(path: &Path) -> Result<String, PolicyError> {
    read_at_most(path, RECORDING_BYTES)
}

/// The rules of one file.
pub fn read_file(path: &Path) -> Result<Rules, PolicyError> {
    let text = read_text(path)?;
    Rules::from_toml(&text).map_err(|error| PolicyError::Wrong { path: path.to_owned(), error })
}

/// The text of a file of rules, and not more of it than one may have.
pub fn read_text(path: &Path) -> Result<String, PolicyError> {
    read_at_most(path, RULES_FILE_BYTES as u64 + 1)
}

fn read_at_most(path: &Path, most: u64) -> Result<String, PolicyError> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map_err(|source| PolicyError::Unreadable { path: path.to_owned(), source })?;
    Ok(text)
}
