//! `netferry metrics`: the text as it comes.

use std::io::{self, Write};

use serde_json::json;

use super::{ClientError, reach};
use crate::cli::native::metrics::Metrics;

/// Carries it out.
pub fn run(metrics: &Metrics) -> Result<u8, ClientError> {
    let format = if metrics.prometheus { "prometheus" } else { "openmetrics" };
    let answer = reach(&metrics.target)?.ask("metrics", json!({ "format": format }))?;
    let text = if metrics.json {
        format!("{answer:#}\n")
    } else {
        answer["text"].as_str().unwrap_or_default().to_owned()
    };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}
