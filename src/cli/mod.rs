//! From the words of a command line to a [`Plan`]: what is asked for, parsed and checked, before anything of
//! the host has been looked at.
//!
//! Each dialect has a file with its own options and resolves them to the same `Plan`; [`values`] reads what
//! dialects have in common. Nothing here touches the system or ends the process: help and errors are values of
//! [`CliError`], which knows its exit code. Left to those who run the plan: whether its subnets are free
//! ([`crate::config::address::avoid_collisions`]), its ports bindable and its namespace reachable.

pub mod native;
pub mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::address::ExplicitSubnets;
use crate::config::{LinkConfig, PublishRule, UdpMapping};

/// What was asked for, complete and consistent in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For whom.
    pub mode: Mode,
    /// The segment; subnets that are not explicit may be exchanged for free ones.
    pub link: LinkConfig,
    /// Which subnets of `link` the user named.
    pub explicit_subnets: ExplicitSubnets,
    /// Name of the TAP in the container: a valid interface name.
    pub tap_name: String,
    /// Ports to listen on; no two take the same.
    pub publish: Vec<PublishRule>,
    /// Whether the gateway address stands for the host's loopback.
    pub host_loopback: bool,
    /// How UDP endpoints are mapped.
    pub udp_mapping: UdpMapping,
    /// Resolvers to ask instead of the host's own.
    pub resolvers: Option<Vec<SocketAddr>>,
    /// Whether checksum and segmentation offloads of the TAP are used where the kernel has them.
    pub offload: bool,
    /// How much is told on standard error.
    pub verbosity: Verbosity,
}

/// For whom the network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// For a command in namespaces of its own.
    Run {
        /// The command and its arguments; empty for the user's shell.
        command: Vec<OsString>,
    },
    /// For a network namespace that exists.
    Attach {
        /// Which.
        target: AttachTarget,
        /// The user namespace that owns it, where `target` does not tell.
        userns: Option<PathBuf>,
        /// A descriptor, open since before we started, that is told when the network is up.
        ready_fd: Option<i32>,
    },
}

/// How an existing network namespace is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachTarget {
    /// By a process in it; above zero.
    Pid(i32),
    /// By a file, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    Path(PathBuf),
}

/// How much is told on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// One line when the network is up, and warnings.
    #[default]
    Normal,
    /// Each flow.
    Debug,
    /// Each packet.
    Trace,
}

/// Why there is no plan. The text is complete: program name first, no newline last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// Help or version was asked for: text for standard output.
    #[error("{0}")]
    Information(String),
    /// The words make no sense; one line that names the help to read.
    #[error("netferry: {message}; try '{command} --help'")]
    Usage {
        /// What was asked and found.
        message: String,
        /// Whose help explains it.
        command: &'static str,
    },
    /// The words make sense, but what they ask for cannot be; one line that says what can.
    #[error("netferry: {0}")]
    Unusable(String),
}

impl CliError {
    /// The status to end the process with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Information(_) => 0,
            CliError::Usage { .. } => 2,
            CliError::Unusable(_) => 1,
        }
    }
}

/// Reads a command line, program name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Plan, CliError> {
    native::parse(args.into_iter().collect())
}

/// The native command line's definition, for those who document or complete it.
#[must_use]
pub fn command() -> clap::Command {
    native::command()
}
