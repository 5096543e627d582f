//! `netferry shape`.

use std::path::PathBuf;

use clap::Args;

/// Tell or change how much an instance's container may carry.
///
/// Without RATES it tells them. up=10mbit,down=50mbit limits both directions, down=50mbit one, and lifts the other's
/// limit; a rate alone is for both, off lifts them. Connections go on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Exit status: 0 when it is done; 1 if it cannot be; 2 for a mistake on the command line."
)]
pub struct Shape {
    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// The instance, or NETWORK/CONTAINER, as `netferry ps` lists it, if there are several; and the rates.
    #[arg(value_name = "ID|RATES", num_args = 0..=2)]
    pub words: Vec<String>,
}
