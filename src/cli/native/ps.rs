//! `netferry ps`.

use clap::Args;

/// List the networks that are there: for whom, since when, and how much they move.
///
/// The instances of this user, whatever face they have. NETNS is the inode of the container's network namespace, as `lsns`
/// shows it. Of a network of several containers there is a line for the whole and one for each, whose ID is NETWORK/CONTAINER. What
/// an instance that was killed has left behind is removed.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "Exit status: 0, also where there is none; 2 for a mistake on the command line.")]
pub struct Ps {
    /// One JSON array instead of a table.
    #[arg(long)]
    pub json: bool,
}
