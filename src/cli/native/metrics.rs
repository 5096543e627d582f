//! `netferry metrics`.

use clap::Args;

use super::target::Target;

/// Print the metrics of an instance, as OpenMetrics text.
///
/// The same that `netferry run --metrics` serves over HTTP: for a scraper that reads files, or a look at what is dropped.
/// With --listen one page of all instances and networks that there are, for as long as the command runs.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Exit status: 0; 1 if there is no such instance; 2 for a mistake on the command line."
)]
pub struct Metrics {
    /// Of which instance.
    #[command(flatten)]
    pub target: Target,

    /// Serve them over HTTP at this address, asking anew each time, until ended: GET /metrics [default address: 127.0.0.1].
    ///
    /// Of the instance that is named, or of all instances and containers that the user has at that moment.
    #[arg(long, value_name = "[ADDR:]PORT", conflicts_with_all = ["prometheus", "json"])]
    pub listen: Option<String>,

    /// The older text of Prometheus, 0.0.4.
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,

    /// One JSON object with the text in it.
    #[arg(long)]
    pub json: bool,
}
