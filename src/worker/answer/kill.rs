//! `kill`: ends flows, by their names.
//!
//! Both sides of a TCP connection see a RST; of UDP and ping only the mapping is forgotten.

use serde_json::{Value, json};

use super::flows::{PAGE_FLOWS, Shelf, parse_name};
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::boundary::{FlowId, Io};
use crate::worker::Worker;

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let names = request.argument("flows").and_then(Value::as_array);
    let names = names.filter(|names| !names.is_empty() && names.len() <= PAGE_FLOWS);
    let names = names.ok_or_else(|| {
        Refusal::bad_argument(format!(r#""flows" is not an array of 1 to {PAGE_FLOWS} names of flows"#))
    })?;
    let parse = |name: &Value| name.as_str().and_then(parse_name);
    let flows: Option<Vec<_>> = names.iter().map(parse).collect();
    let flows = flows.ok_or_else(|| Refusal::bad_argument(r#"a flow is named by its "id", as f17.3 is"#))?;
    let ended = flows.into_iter().filter(|flow| end(worker, *flow)).count();
    // Their sockets go at once, and the last frames with them.
    worker.settle();
    Ok(Answer::Once(json!({ "ended": ended })))
}

fn end(worker: &mut Worker, (shelf, slot, generation): (Shelf, u32, u32)) -> bool {
    match shelf {
        Shelf::Core => {
            let mut io = Io { host: &mut worker.sockets, frames: &mut worker.link };
            worker.stack.kill_flow(FlowId { slot, generation }, worker.now, &mut io)
        }
        Shelf::Spliced => {
            worker.loopback.as_mut().is_some_and(|loopback| loopback.end_stream((slot, generation)))
        }
        Shelf::Exchange => {
            worker.loopback.as_mut().is_some_and(|loopback| loopback.end_exchange((slot, generation)))
        }
    }
}
