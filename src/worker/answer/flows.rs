//! `flows`: every flow with both of its sides, in pages.
//!
//! A page looks at so many slots and shows so many flows at most, however many there are, so that it takes a fraction of a
//! millisecond; `next` says where to go on. Flows of the core come first, then what is spliced, then exchanges of
//! datagrams from loopback to loopback. A flow that lives all the while is shown once.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::config::filter::{Candidate, Filter, Transport};
use crate::config::rules::Direction;
use crate::control::ClientName;
use crate::control::native::{Answer, Refusal, Request};
use crate::stack::boundary::Instant;
use crate::stack::flow::{FlowProtocol, Way};
use crate::stack::stats::Traffic;
use crate::stack::view::{FlowState, FlowView};
use crate::sys::socket::info::{Ends, TcpInfo};
use crate::worker::Worker;
use crate::worker::loopback::datagrams::ExchangeView;
use crate::worker::loopback::streams::StreamView;

/// Flows of one page.
pub const PAGE_FLOWS: usize = 128;
/// Slots that are looked at for one page.
const PAGE_SLOTS: u32 = 4_096;

/// Where a flow is kept, which is also how its name begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Core,
    Spliced,
    Exchange,
}

impl Shelf {
    const ALL: [Shelf; 3] = [Shelf::Core, Shelf::Spliced, Shelf::Exchange];

    fn letter(self) -> char {
        match self {
            Shelf::Core => 'f',
            Shelf::Spliced => 's',
            Shelf::Exchange => 'x',
        }
    }
}

/// The name of a flow, as `f17.3`: where it is kept, the slot, and which life of the slot.
pub(super) fn name(shelf: Shelf, slot: u32, generation: u32) -> String {
    format!("{}{slot}.{generation}", shelf.letter())
}

/// What [`name`] has written.
pub(super) fn parse_name(text: &str) -> Option<(Shelf, u32, u32)> {
    let shelf = Shelf::ALL.into_iter().find(|shelf| text.starts_with(shelf.letter()))?;
    let (slot, generation) = text.get(1..)?.split_once('.')?;
    Some((shelf, slot.parse().ok()?, generation.parse().ok()?))
}

pub(super) fn answer(worker: &mut Worker, _: ClientName, request: &mut Request) -> Result<Answer, Refusal> {
    let filter = Filter::parse(request.text("filter")?.unwrap_or_default());
    let filter = filter.map_err(|error| Refusal::bad_argument(error.to_string()))?;
    let from = request.number("from")?.unwrap_or(0);
    let wants_info = !request.flag("brief")?;
    let (flows, next) = page(worker, &filter, from, wants_info);
    Ok(Answer::Once(json!({ "flows": flows, "next": next })))
}

/// One page, and where the next begins.
fn page(worker: &Worker, filter: &Filter, from: u64, wants_info: bool) -> (Vec<Value>, Option<u64>) {
    let mut flows = Vec::new();
    let mut looked_at = 0;
    let (first_shelf, first_slot) = ((from >> 32) as usize, from as u32);
    for (place, shelf) in Shelf::ALL.into_iter().enumerate().skip(first_shelf) {
        let begin = if place == first_shelf { first_slot } else { 0 };
        for slot in begin..slots(worker, shelf) {
            if flows.len() >= PAGE_FLOWS || looked_at >= PAGE_SLOTS {
                return (flows, Some((place as u64) << 32 | u64::from(slot)));
            }
            looked_at += 1;
            let shown = match shelf {
                Shelf::Core => {
                    worker.stack.view_flow(slot).and_then(|view| core(worker, &view, filter, wants_info))
                }
                Shelf::Spliced => worker.loopback.as_ref().and_then(|loopback| {
                    spliced(&loopback.streams().view(slot)?, worker.now, filter, wants_info)
                }),
                Shelf::Exchange => worker
                    .loopback
                    .as_ref()
                    .and_then(|loopback| exchange(&loopback.exchanges().view(slot)?, worker.now, filter)),
            };
            flows.extend(shown);
        }
    }
    (flows, None)
}

fn slots(worker: &Worker, shelf: Shelf) -> u32 {
    match shelf {
        Shelf::Core => worker.stack.flow_slots(),
        Shelf::Spliced => worker.loopback.as_ref().map_or(0, |loopback| loopback.streams().slots()),
        Shelf::Exchange => worker.loopback.as_ref().map_or(0, |loopback| loopback.exchanges().slots()),
    }
}

fn core(worker: &Worker, view: &FlowView, filter: &Filter, wants_info: bool) -> Option<Value> {
    let published = match view.side.way {
        Way::Published(listener) => worker.stack.published().find(|(known, _)| *known == listener),
        Way::Masquerade | Way::HostAlias | Way::Forwarder => None,
    };
    // A published UDP port's clients share its socket, whose own end is the rule's.
    let (ends, info) = if view.shares_socket {
        let local = published.map(|(_, rule)| SocketAddr::new(rule.host_address, rule.host_port));
        (Ends { local, peer: None }, None)
    } else {
        worker.sockets.look(view.flow)
    };
    let is_of_host = view.side.way.direction() == Direction::In;
    let peer = ends.peer.or(Some(view.side.peer));
    let transport = transport_of(view.key.protocol);
    let inside = (view.key.container, view.key.remote);
    let outside = ends.local.zip(peer);
    if !is_meant(filter, transport, inside, outside, is_of_host) {
        return None;
    }
    let mut shown = common(
        name(Shelf::Core, view.flow.slot, view.flow.generation),
        view.key.protocol.name(),
        "nat",
        view.state,
        is_of_host,
    );
    shown.insert("container".into(), pair(Some(inside.0), Some(inside.1)));
    shown.insert("host".into(), pair(ends.local, peer));
    ages(&mut shown, worker.now, view.since, view.last_active);
    traffic(&mut shown, view.carried.up, view.carried.down);
    if view.key.protocol == FlowProtocol::Tcp {
        shown.insert("retransmissions".into(), view.retransmissions.into());
        let round_trip = view.round_trip.map(|time| time.total_micros() as f64 / 1e6);
        shown.insert("round_trip_seconds".into(), json!(round_trip));
        shown.insert("waiting_for_host_bytes".into(), view.waiting.0.into());
        shown.insert("waiting_for_container_bytes".into(), view.waiting.1.into());
    }
    if wants_info && let Some(info) = info {
        shown.insert("host_tcp".into(), tcp_info(&info));
    }
    Some(shown.into())
}

fn spliced(view: &StreamView, now: Instant, filter: &Filter, wants_info: bool) -> Option<Value> {
    let inside = view.inside.local.zip(view.inside.peer);
    let outside = view.outside.local.zip(view.outside.peer);
    let any = inside.or(outside)?;
    if !is_meant(filter, Transport::Tcp, inside.unwrap_or(any), outside, view.is_inward) {
        return None;
    }
    let name = name(Shelf::Spliced, view.name.0, view.name.1);
    let mut shown = common(name, "tcp", "splice", FlowState::Established, view.is_inward);
    // Our socket stands for the other side: what it is connected to is the container's own.
    shown.insert("container".into(), pair(view.inside.peer, view.inside.local));
    shown.insert("host".into(), pair(view.outside.local, view.outside.peer));
    ages(&mut shown, now, view.since, now);
    shown.remove("idle_seconds");
    shown.insert("from_container".into(), json!({ "bytes": view.from_container }));
    shown.insert("to_container".into(), json!({ "bytes": view.to_container }));
    if wants_info && let Some(info) = &view.info {
        shown.insert("host_tcp".into(), tcp_info(info));
    }
    Some(shown.into())
}

fn exchange(view: &ExchangeView, now: Instant, filter: &Filter) -> Option<Value> {
    let client = (view.bound.local, Some(view.client));
    let server = (view.connected.local, view.connected.peer);
    let (inside, outside) = if view.is_inward { (server, client) } else { (client, server) };
    let own = inside.1.zip(inside.0);
    let host = outside.0.zip(outside.1);
    let any = own.or(host)?;
    if !is_meant(filter, Transport::Udp, own.unwrap_or(any), host, view.is_inward) {
        return None;
    }
    let name = name(Shelf::Exchange, view.name.0, view.name.1);
    let mut shown = common(name, "udp", "splice", FlowState::Established, view.is_inward);
    shown.insert("container".into(), pair(inside.1, inside.0));
    shown.insert("host".into(), pair(outside.0, outside.1));
    ages(&mut shown, now, view.since, view.last_active);
    traffic(&mut shown, view.from_container, view.to_container);
    Some(shown.into())
}

/// From whom to whom, in both views: the pairs are (container, remote) and (host's own, peer).
fn is_meant(
    filter: &Filter,
    transport: Transport,
    inside: (SocketAddr, SocketAddr),
    outside: Option<(SocketAddr, SocketAddr)>,
    is_of_host: bool,
) -> bool {
    // What began on the host has its source there: the remote of the container, the peer of the host.
    let order = |(near, far): (SocketAddr, SocketAddr)| if is_of_host { (far, near) } else { (near, far) };
    match outside {
        Some(outside) => filter.matches(&Candidate { transport, pairs: &[order(inside), order(outside)] }),
        None => filter.matches(&Candidate { transport, pairs: &[order(inside)] }),
    }
}

fn transport_of(protocol: FlowProtocol) -> Transport {
    match protocol {
        FlowProtocol::Tcp => Transport::Tcp,
        FlowProtocol::Udp => Transport::Udp,
        FlowProtocol::Echo => Transport::Icmp,
    }
}

fn common(
    name: String,
    protocol: &str,
    path: &str,
    state: FlowState,
    is_of_host: bool,
) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("id".into(), name.into());
    shown.insert("protocol".into(), protocol.into());
    shown.insert("path".into(), path.into());
    shown.insert("state".into(), state.name().into());
    shown.insert("begun_by".into(), if is_of_host { "host" } else { "container" }.into());
    shown
}

fn pair(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Value {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    json!({ "local": text(local), "remote": text(remote) })
}

fn ages(shown: &mut Map<String, Value>, now: Instant, since: Instant, last_active: Instant) {
    let seconds = |then: Instant| json!((now - then).total_micros() as f64 / 1e6);
    shown.insert("age_seconds".into(), seconds(since.min(now)));
    shown.insert("idle_seconds".into(), seconds(last_active.min(now)));
}

fn traffic(shown: &mut Map<String, Value>, from_container: Traffic, to_container: Traffic) {
    let of = |traffic: Traffic| json!({ "packets": traffic.frames, "bytes": traffic.bytes });
    shown.insert("from_container".into(), of(from_container));
    shown.insert("to_container".into(), of(to_container));
}

fn tcp_info(info: &TcpInfo) -> Value {
    json!({
        "state": info.state,
        "round_trip_seconds": info.round_trip.0.as_secs_f64(),
        "round_trip_variation_seconds": info.round_trip.1.as_secs_f64(),
        "retransmission_timeout_seconds": info.retransmission_timeout.as_secs_f64(),
        "retransmissions": info.retransmissions,
        "lost_segments": info.lost,
        "unacknowledged_segments": info.unacknowledged,
        "congestion_window_segments": info.congestion_window,
        "segment_bytes": info.segment_bytes,
        "path_mtu_bytes": info.path_mtu,
        "acknowledged_bytes": info.acknowledged_bytes,
        "received_bytes": info.received_bytes,
        "delivery_bytes_per_second": info.delivery_rate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for shelf in Shelf::ALL {
            let text = name(shelf, 17, u32::MAX);
            assert_eq!(parse_name(&text), Some((shelf, 17, u32::MAX)), "{text}");
        }
        for text in ["", "f", "f1", "f1.", "g1.1", "f-1.1", "f1.1.1", "f99999999999.1", "é1.1"] {
            assert_eq!(parse_name(text), None, "{text}");
        }
    }
}
