//! `netferry shape`.

use std::io::{self, Write};

use serde_json::json;

use super::ClientError;
use super::words::split;
use crate::cli::native::shape::Shape;
use crate::config::RateLimits;

/// Carries it out.
pub fn run(shape: &Shape) -> Result<u8, ClientError> {
    let (target, rates) = split(&shape.words, shape.control.as_deref());
    let arguments = match rates.as_str() {
        "" => json!({}),
        rates => {
            let limits: RateLimits =
                rates.parse().map_err(|error| ClientError::Usage(format!("{rates}: {error}")))?;
            json!({ "limits": limits.to_string() })
        }
    };
    let answer = super::reach(&target)?.ask("shape", arguments)?;
    let limits = answer["limits"].as_str().unwrap_or_default();
    writeln!(io::stdout(), "{limits}").map_err(ClientError::Output)?;
    Ok(0)
}
