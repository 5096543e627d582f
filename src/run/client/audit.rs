//! `netferry audit`: nobody is asked, a file is read.

use std::io::{self, Write};

use super::ClientError;
use crate::cli::native::audit::{Audit, AuditCommand};
use crate::config::rules::recording;
use crate::run::policy::{self, PolicyError};

/// Carries it out.
pub fn run(audit: &Audit) -> Result<u8, ClientError> {
    let AuditCommand::Suggest(suggest) = &audit.command;
    let text = policy::read_recording(&suggest.file)?;
    let rules = recording::suggest(&text)
        .map_err(|error| PolicyError::Wrong { path: suggest.file.clone(), error })?;
    io::stdout().write_all(rules.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}
