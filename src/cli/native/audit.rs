//! `netferry audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  netferry run --audit fetched.jsonl -- cargo fetch
      Where it goes is written down.
  netferry audit suggest fetched.jsonl > rules.toml
      The rules that would have let it, and nothing else.
  netferry run --audit-enforce rules.toml -- cargo fetch
      It may go nowhere else; where it tries to, the exit status is 121.

Exit status: 0; 1 if the file cannot be read, or is no recording; 2 for a mistake on the command line.";

/// Make something of what was written down with --audit.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Audit {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What to do with a recording.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum AuditCommand {
    /// Print the rules that let through what was let through then, and nothing else.
    Suggest(Suggest),
}

/// `netferry audit suggest`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Suggest {
    /// What --audit has written.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}
