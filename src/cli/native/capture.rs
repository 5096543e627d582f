//! `netferry capture`.

use std::path::PathBuf;

use clap::Args;

use super::conditions::CaptureOptions;

const EXAMPLES: &str = "\
Examples:
  netferry capture -w - | wireshark -k -i -
      Both sides of the translation as they pass, of the only instance there is.
  netferry capture 4711 tcp and port 443 -w https.pcapng
      Flows to or from port 443 of instance 4711, into a file, until Ctrl-C.
  netferry capture --segment --capture-size 10M --capture-files 5 -w ring.pcapng
      The last 50 MiB, as packets that a wire would carry.

Exit status: 0 when ended by a signal, by the reader or with the instance; 1 if there is nothing to capture; 2 for a mistake \
on the command line.";

/// Capture packets of an instance, on both sides of the translation.
///
/// The capture (pcapng) has two interfaces: `container`, the frames of the container's link, and `host`, packets put together from
/// what the host's sockets carry. Those of one flow have its number in a comment, the one that `netferry flows` shows. A
/// reader that is too slow loses packets, and is told how many at the end; traffic never waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES, override_usage = "netferry capture [OPTIONS] [ID] [FILTER...] -w FILE")]
pub struct Capture {
    /// Write to this file; - is standard output.
    #[arg(short, value_name = "FILE")]
    pub write: PathBuf,

    /// How.
    #[command(flatten)]
    pub capture: CaptureOptions,

    /// Ask at this path instead, which an instance was given with --control.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// The instance, or NETWORK/CONTAINER, as `netferry ps` lists it, if there are several; and which flows, as for `netferry flows`.
    #[arg(value_name = "ID|FILTER")]
    pub words: Vec<String>,
}
