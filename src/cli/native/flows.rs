//! `netferry flows`.

use clap::Args;

use super::target::Selection;
use crate::cli::values::ValueError;

const EXAMPLES: &str = "\
Examples:
  netferry flows
      Every flow of the only instance there is.
  netferry flows 4711 tcp and dst port 443
      HTTPS connections of instance 4711.
  netferry flows --watch 'not host 10.0.2.3'
      All but DNS, every second anew.
  netferry flows lab
      Those of every container on network lab; lab/web is one of them.
  netferry flows --kill udp port 4433
      Ends what QUIC has opened.

Exit status: 0; 1 if there is no such instance; 2 for a mistake on the command line.";

/// Show or end the flows of an instance, as the container and as the host sees them.
///
/// CONTAINER and REMOTE are the two ends as the container sees them, HOST and PEER those of the host's own socket. UP is what the
/// container has sent, DOWN what it was sent, in bytes; RETX the segments that had to be sent again, toward the container and by the
/// host; RTT the round trip to the host's peer.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Flows {
    #[command(flatten)]
    /// Of which instance, and which of its flows.
    pub selection: Selection,

    /// One JSON array instead of a table; with --watch one each time, on a line.
    #[arg(long)]
    pub json: bool,

    /// Show them again every so many seconds [default: 1].
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub watch: Option<String>,

    /// End the flows that are meant: a RST to both sides of TCP. Without a filter, all that there are need --all.
    #[arg(long, conflicts_with = "watch")]
    pub kill: bool,

    /// With --kill: all of them.
    #[arg(long, requires = "kill")]
    pub all: bool,

    /// Only this flow, by its id (--json tells it); may be repeated.
    #[arg(long, value_name = "FLOW")]
    pub id: Vec<String>,
}

impl Flows {
    /// What clap leaves unjudged.
    pub(super) fn check(&self) -> Result<(), ValueError> {
        self.selection.check()?;
        if self.kill && !self.all && self.id.is_empty() && self.selection.filter().is_empty() {
            let message = "--kill without a filter ends every flow; say which, or give --all";
            return Err(ValueError::Malformed(message.to_owned()));
        }
        self.interval().map(drop)
    }

    /// From one showing to the next, in seconds; once where there is none.
    pub fn interval(&self) -> Result<Option<f64>, ValueError> {
        let Some(text) = &self.watch else { return Ok(None) };
        let seconds = text.parse().ok().filter(|seconds: &f64| (0.1..=86_400.0).contains(seconds));
        seconds.map(Some).ok_or_else(|| {
            ValueError::Malformed(format!("--watch={}: give seconds, from 0.1 to 86400", text.escape_debug()))
        })
    }
}
