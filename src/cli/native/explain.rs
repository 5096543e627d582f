//! `netferry explain`.

use clap::Args;

use super::target::Target;

const EXAMPLES: &str = "\
Examples:
  netferry explain tcp://crates.io:443
      Whether the container would get there, by which decisions, and how it would be told where it would not.
  netferry explain --probe tcp://192.0.2.7:22
      The same, and what the host's socket says when it tries.
  netferry explain --last 10
      What went no further lately, and why.

Exit status: 0 if it would leave; 1 if it would not, or there is nobody to ask; 2 for a mistake on the command line.";

/// Tell what would happen to a packet of the container, and why, or what did happen to those that went no further.
///
/// Nothing is sent but for the queries of a name that has to be resolved. The instance may be named before the destination or
/// after it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// The destination: tcp://HOST:PORT, udp://HOST:PORT or icmp://HOST.
    #[arg(value_name = "URL", required_unless_present = "last")]
    pub url: Option<String>,

    /// Whose container.
    #[command(flatten)]
    pub target: Target,

    /// Connect from the host to where it would lead, and tell what its socket says; for TCP.
    #[arg(long)]
    pub probe: bool,

    /// The last failures, so many at most.
    #[arg(long, value_name = "N", conflicts_with = "probe")]
    pub last: Option<u16>,

    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
