//! `netferry metrics`: the text as it comes.

use std::io::{self, Write};

use serde_json::json;

use super::reach::{Meant, Reached, has_left};
use super::{ClientError, reach_all};
use crate::cli::native::metrics::Metrics;
use crate::observe::metrics::merged;

/// Carries it out.
pub fn run(metrics: &Metrics) -> Result<u8, ClientError> {
    let format = if metrics.prometheus { "prometheus" } else { "openmetrics" };
    let mut all = Vec::new();
    let Meant { all: mut reached, is_network } = reach_all(&metrics.target)?;
    for Reached { connection, .. } in &mut reached {
        match connection.ask("metrics", json!({ "format": format })) {
            Err(error) if is_network && has_left(&error) => {}
            other => all.push(other?),
        }
    }
    let texts: Vec<&str> = all.iter().filter_map(|answer| answer["text"].as_str()).collect();
    let mut answer = json!({ "content_type": null, "text": merged(&texts) });
    if let Some(first) = all.first() {
        answer["content_type"] = first["content_type"].clone();
    }
    let text = if metrics.json {
        format!("{answer:#}\n")
    } else {
        answer["text"].as_str().unwrap_or_default().to_owned()
    };
    io::stdout().write_all(text.as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}
