//! `netferry impair`.

use std::path::PathBuf;

use clap::Args;

/// Tell or change how bad an instance's link is.
///
/// Without LIST it tells that, and what became of packets so far. LIST is as for `netferry run --impair`, and replaces what
/// was asked for before: delay=50ms,jitter=5ms,loss=1%,rate=10mbit, up. or down. in front for one direction; off makes
/// the link a good one again.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Exit status: 0 when it is done; 1 if it cannot be; 2 for a mistake on the command line."
)]
pub struct Impair {
    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// The instance, or NETWORK/CONTAINER, as `netferry ps` lists it, if there are several; and how bad the link is to be.
    #[arg(value_name = "ID|LIST", num_args = 0..=2)]
    pub words: Vec<String>,
}
