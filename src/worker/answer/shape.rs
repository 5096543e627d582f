//! `shape`: how much the container may carry.

use serde_json::json;

use crate::config::RateLimits;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::worker::Worker;

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    if let Some(text) = request.text("limits")? {
        let limits: RateLimits =
            text.parse().map_err(|error| Refusal::bad_argument(format!("{text}: {error}")))?;
        worker.stack.limit_rates(limits);
    }
    Ok(Answer::Once(json!({ "limits": worker.stack.rate_limits().to_string() })))
}
