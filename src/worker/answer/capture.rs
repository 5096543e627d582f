//! `capture`: what passes, as pcapng, into a socket that comes with the request.

use serde_json::json;

use crate::config::filter::{Candidate, Filter, Transport};
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, RefusalCode, Request};
use crate::stack::flow::{FlowKey, FlowProtocol};
use crate::sys::descriptor;
use crate::worker::Worker;
use crate::worker::recorder::{Choice, WHOLE_PACKETS, Wish};

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let choice = request.text("filter")?.filter(|text| !text.trim().is_empty()).map(choose).transpose()?;
    let snap_len = request.number("snap_length")?.and_then(|len| u32::try_from(len).ok());
    let snap_len = snap_len.filter(|len| *len > 0).unwrap_or(WHOLE_PACKETS).min(WHOLE_PACKETS);
    let wish = Wish { choice, snap_len, segments: request.flag("segment")? };
    let missing = || Refusal::bad_argument("a stream socket is to come with the request, to be written to");
    if request.descriptors.len() != 1 {
        return Err(missing());
    }
    let stream = request.descriptors.pop().ok_or_else(missing)?;
    let stream = descriptor::stream_socket(stream).map_err(|_| missing())?;
    let number = worker
        .capture(stream, wish)
        .map_err(|error| Refusal::new(RefusalCode::Refused, format!("no capture: {error}")))?;
    Ok(Answer::Once(json!({ "capture": number })))
}

/// The flows that a filter names: by their endpoints as the container sees them, whose own is the source.
fn choose(text: &str) -> Result<Choice, Refusal> {
    let filter = Filter::parse(text).map_err(|error| Refusal::bad_argument(error.to_string()))?;
    Ok(std::sync::Arc::new(move |key: &FlowKey| {
        let transport = match key.protocol {
            FlowProtocol::Tcp => Transport::Tcp,
            FlowProtocol::Udp => Transport::Udp,
            FlowProtocol::Echo => Transport::Icmp,
        };
        filter.matches(&Candidate { transport, pairs: &[(key.container, key.remote)] })
    }))
}
