//! `impair`: how bad the link is.

use serde_json::{Value, json};

use crate::config::Impairments;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::impair::ImpairStats;
use crate::worker::Worker;

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    if let Some(text) = request.text("impairments")? {
        let how: Impairments =
            text.parse().map_err(|error| Refusal::bad_argument(format!("{text}: {error}")))?;
        worker.impair(how);
    }
    let (how, up, down) = worker.impairments();
    Ok(Answer::Once(json!({
        "impairments": how.to_string(),
        "from_container": describe(up),
        "to_container": describe(down),
        "spliced": worker.loopback.as_ref().map(|past| past.streams().count() + past.exchanges().count()),
    })))
}

fn describe(stats: ImpairStats) -> Value {
    let ImpairStats { packets, lost, overflowed, duplicated, reordered } = stats;
    json!({
        "packets": packets,
        "lost": lost,
        "overflowed": overflowed,
        "duplicated": duplicated,
        "reordered": reordered,
    })
}
