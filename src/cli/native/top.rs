//! `netferry top`.

use clap::Args;

use super::target::Target;

/// Watch an instance in the terminal: rates, the busiest flows, what is dropped and why.
///
/// Anew every second; q, Esc or Ctrl-C ends it. What --json prints once is what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Exit status: 0; 1 if there is no such instance, or it ends; 2 for a mistake on the command line."
)]
pub struct Top {
    /// Of which instance.
    #[command(flatten)]
    pub target: Target,

    /// Print status and flows once, as one JSON object, and end.
    #[arg(long)]
    pub json: bool,
}
