//! `netferry rules`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::target::Target;

const EXAMPLES: &str = "\
Examples:
  netferry rules -v
      Each rule with the flows, packets and bytes that it has decided about, and each way through the translation.
  netferry rules check rules.toml
      Whether a file is in order; a mistake is told with its line.
  netferry rules reload --rejudge rules.toml 4711
      Other rules for instance 4711, all at once; what they would not let through ends.

Exit status: 0; 1 if it cannot be done, or a file of rules has a mistake; 2 for a mistake on the command line.";

/// Show the rules of an instance with their counters, or put others in force.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Rules {
    /// What to do; to show them where nothing is said.
    #[command(subcommand)]
    pub command: Option<RulesCommand>,

    /// Whose.
    #[command(flatten)]
    pub target: Target,

    /// With counters, and with the ways through the translation: masquerade, aliases, published ports.
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub verbose: bool,

    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// What to do with rules.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RulesCommand {
    /// Put the rules of a file in force instead of those that are, all at once.
    ///
    /// A file with a mistake changes nothing. Rules that were there before keep their counters.
    Reload(Reload),
    /// Tell whether a file of rules is in order.
    Check(Check),
}

/// `netferry rules reload`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Reload {
    /// End what was let through before and would not be any more.
    #[arg(long)]
    pub rejudge: bool,

    /// The rules, in TOML; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Whose.
    #[command(flatten)]
    pub target: Target,
}

/// `netferry rules check`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Check {
    /// The rules, in TOML; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}
