//! `status`: who this is, since when, and how much it moves.

use serde_json::{Value, json};

use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::flow::FlowProtocol;
use crate::worker::Worker;
use crate::worker::switch::Port;

pub(super) fn answer(worker: &mut Worker, _: ClientName, _: &mut Request) -> Result<Answer, Refusal> {
    Ok(Answer::Once(describe(worker)))
}

fn describe(worker: &Worker) -> Value {
    let identity = &worker.desk.identity;
    let stats = worker.stats();
    let (from_container, to_container) = worker.carried();
    let (from_rate, to_rate) = worker.desk.meter.rates(worker.now, from_container, to_container);
    let exchanged = worker.port.as_ref().map(Port::exchanged);
    let drops: u64 = stats.iter_drops().map(|(_, count)| count).sum();
    let seen = stats.iter_drops().filter(|(_, count)| *count > 0);
    let by_reason: serde_json::Map<String, Value> =
        seen.map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    let open = FlowProtocol::ALL.into_iter().map(|protocol| stats.flows(protocol).open()).sum::<u64>();
    let addresses: Vec<String> = identity.addresses.iter().map(ToString::to_string).collect();
    json!({
        "id": identity.id,
        "face": identity.face,
        "pid": identity.pid,
        "program_version": env!("CARGO_PKG_VERSION"),
        "container": {
            "pid": identity.container_pid,
            "name": identity.container,
            "namespace": identity.namespace,
            "interface": identity.interface,
            "addresses": addresses,
        },
        "uptime_seconds": worker.now.total_micros() as f64 / 1e6,
        "flows": open,
        "published_ports": worker.stack.published().count(),
        "from_container": {
            "frames": stats.from_container.frames,
            "bytes": stats.from_container.bytes,
            "bytes_per_second": from_rate,
        },
        "to_container": {
            "frames": stats.to_container.frames,
            "bytes": stats.to_container.bytes,
            "bytes_per_second": to_rate,
        },
        "others": exchanged.map(|(sent, received)| json!({ "sent_bytes": sent, "received_bytes": received })),
        "drops": drops,
        "drops_by_reason": by_reason,
    })
}
