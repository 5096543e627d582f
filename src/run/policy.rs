//! The policy that an instance begins with, out of what the command line names.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::cli::RulePart;
use crate::config::Rules;
use crate::config::limits::RULES_FILE_BYTES;
use crate::config::rules::RuleError;
use crate::config::rules::file::FileError;

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

/// Puts the parts together.
pub fn read(parts: &[RulePart]) -> Result<Rules, PolicyError> {
    let mut rules = Rules::default();
    for part in parts {
        match part {
            RulePart::Rules(own) => rules.append(own.clone()),
            RulePart::File(path) => rules.append(read_file(path)?),
        }
    }
    Ok(rules.bounded()?)
}

/// The rules of one file.
pub fn read_file(path: &Path) -> Result<Rules, PolicyError> {
    let text = read_text(path)?;
    Rules::from_toml(&text).map_err(|error| PolicyError::Wrong { path: path.to_owned(), error })
}

/// The text of a file of rules, and not more of it than one may have.
pub fn read_text(path: &Path) -> Result<String, PolicyError> {
    let mut text = String::new();
    let most = RULES_FILE_BYTES as u64 + 1;
    let read = fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map_err(|source| PolicyError::Unreadable { path: path.to_owned(), source })?;
    Ok(text)
}
