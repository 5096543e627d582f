//! Which instance a command is about.

use std::path::PathBuf;

use clap::Args;

/// An instance, by its ID or the path of its socket.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Target {
    /// The instance, as `netferry ps` lists it [default: the only one there is].
    #[arg(value_name = "ID")]
    pub id: Option<String>,

    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH", conflicts_with = "id")]
    pub control: Option<PathBuf>,
}
