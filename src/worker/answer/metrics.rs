//! `metrics`, and the page of the same name: counters and gauges as text.

use serde_json::json;

use crate::config::PortProtocol;
use crate::control::ClientName;
use crate::control::http::Format;
use crate::control::native::{Answer, Refusal, Request};
use crate::observe::metrics::Exposition;
use crate::stack::flow::FlowProtocol;
use crate::stack::stats::Stats;
use crate::worker::Worker;
use crate::worker::crew::counted::Gauges;

type Labels = Vec<(&'static str, String)>;

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let format = match request.text("format")? {
        None | Some("openmetrics") => Format::OpenMetrics,
        Some("prometheus") => Format::Prometheus,
        Some(_) => return Err(Refusal::bad_argument(r#""format" is openmetrics or prometheus"#)),
    };
    let text = text(worker, format);
    Ok(Answer::Once(json!({ "content_type": format.content_type(), "text": text })))
}

/// Everything there is to tell. What it takes does not depend on the number of flows.
pub(in crate::worker) fn text(worker: &Worker, format: Format) -> String {
    let identity = &worker.desk.identity;
    let container = identity.container.clone().or(identity.container_pid.map(|pid| pid.to_string()));
    let common = vec![("instance_id", identity.id.clone()), ("container", container.unwrap_or_default())];
    let mut text = Exposition::new(format == Format::OpenMetrics, common);
    let (stats, gauges) = (worker.stats(), worker.gauges());
    let label = |name: &'static str, value: &str| (name, value.to_owned());
    text.family(
        "netferry_instance",
        [(
            vec![
                label("version", env!("CARGO_PKG_VERSION")),
                label("face", identity.face),
                label("interface", &identity.interface),
                ("namespace", identity.namespace.map(|inode| inode.to_string()).unwrap_or_default()),
            ],
            1.0,
        )],
    );
    text.family("netferry_uptime_seconds", [(Vec::new(), worker.now.total_micros() as f64 / 1e6)]);
    let directions = [("from_container", stats.from_container), ("to_container", stats.to_container)];
    let each = |value: fn(&crate::stack::stats::Traffic) -> u64| {
        directions.map(|(name, traffic)| (vec![label("direction", name)], value(&traffic) as f64))
    };
    text.family("netferry_link_packets", each(|traffic| traffic.frames));
    text.family("netferry_link_bytes", each(|traffic| traffic.bytes));
    text.family("netferry_link_lost_packets", [(Vec::new(), gauges.lost_frames as f64)]);
    text.family(
        "netferry_drops",
        stats.iter_drops().map(|(reason, count)| (vec![label("reason", reason.name())], count as f64)),
    );
    text.family("netferry_flows", flows(&stats, gauges));
    let counts = |count: fn(&crate::stack::stats::FlowCounts) -> u64| {
        FlowProtocol::ALL
            .map(|protocol| (vec![label("protocol", protocol.name())], count(&stats.flows(protocol)) as f64))
    };
    text.family("netferry_flows_opened", counts(|flows| flows.opened));
    text.family("netferry_flows_closed", counts(|flows| flows.closed));
    text.family("netferry_flows_evicted", counts(|flows| flows.evicted));
    text.family("netferry_tcp_retransmissions", [(Vec::new(), stats.tcp_retransmissions as f64)]);
    text.family("netferry_tcp_buffer_bytes", [(Vec::new(), gauges.tcp_buffer_bytes as f64)]);
    let (streams, exchanges) = worker
        .loopback
        .as_ref()
        .map_or((0, 0), |loopback| (loopback.streams().count(), loopback.exchanges().count()));
    let by_protocol = |tcp: usize, udp: usize| {
        [(vec![label("protocol", "tcp")], tcp as f64), (vec![label("protocol", "udp")], udp as f64)]
    };
    text.family("netferry_spliced_flows", by_protocol(streams, exchanges));
    let ports = |protocol| worker.stack.published().filter(|(_, rule)| rule.protocol == protocol).count();
    text.family("netferry_published_ports", by_protocol(ports(PortProtocol::Tcp), ports(PortProtocol::Udp)));
    text.finish()
}

/// Flows by protocol and state, as far as that is counted all the while.
fn flows(stats: &Stats, gauges: Gauges) -> Vec<(Labels, f64)> {
    let open = |protocol| stats.flows(protocol).open();
    let (tcp, half_open) = (open(FlowProtocol::Tcp), gauges.half_open as u64);
    let all: u64 = FlowProtocol::ALL.into_iter().map(open).sum();
    let resting = (gauges.flows as u64).saturating_sub(all);
    [
        ("tcp", "opening", half_open),
        ("tcp", "established", tcp.saturating_sub(half_open)),
        ("tcp", "time-wait", resting),
        ("udp", "established", open(FlowProtocol::Udp)),
        ("icmp", "established", open(FlowProtocol::Echo)),
    ]
    .into_iter()
    .map(|(protocol, state, count)| {
        (vec![("protocol", protocol.to_owned()), ("state", state.to_owned())], count as f64)
    })
    .collect()
}
