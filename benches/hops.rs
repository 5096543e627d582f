//! What each hop of the core costs, and that it costs the same whatever the number of flows.
//!
//! `cargo bench --bench hops`. No kernel takes part: the host takes and gives at once, the link forgets.

#![allow(missing_docs)]

mod rig;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use netferry::stack::boundary::{Action, HostEvent};
use netferry::wire::frame::{self, Body};
use netferry::wire::tcp;
use netferry::wire::vnet_header::FrameMeta;
use rig::{Rig, datagram};

/// Numbers of flows that the costs are measured among.
const FLOWS: [usize; 4] = [1, 100, 10_000, 100_000];
/// Payload of a super-segment.
const SUPER_BYTES: usize = 44 * 1_448;

/// From bytes to what they say.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0];
    for payload in [0, 1_448, SUPER_BYTES] {
        let connection = Rig::new().connect(1)[0];
        let bytes = connection.segment(&vec![7; payload]);
        group.bench_function(BenchmarkId::new("TCP segment", payload), |bencher| {
            bencher.iter(|| {
                let meta = FrameMeta::parse(black_box(&header)).expect("a header");
                let frame = frame::parse(black_box(&bytes)).expect("a frame");
                let Body::Ip(packet) = frame.body else { panic!("a packet") };
                (meta, tcp::parse(packet.payload).expect("a segment").window)
            });
        });
    }
    group.finish();
}

/// A datagram of the container, to the socket of its flow.
fn forward(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    for flows in FLOWS {
        let mut rig = Rig::new();
        rig.connect(flows - 1);
        let frame = datagram(5_000, &[7; 64]);
        rig.take(&frame);
        let Some(Action::OpenDatagram { flow, .. }) = rig.stack.poll_action() else { panic!("no flow") };
        rig.tell(HostEvent::Connected { flow });
        group.bench_function(BenchmarkId::new("UDP 64 B among flows", flows), |bencher| {
            bencher.iter(|| {
                rig.take(black_box(&frame));
                rig.flush();
            });
        });
    }
    group.finish();
}

/// A super-segment from the container to the host, and its acknowledgement.
fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Bytes(SUPER_BYTES as u64));
    for flows in FLOWS {
        let mut rig = Rig::new();
        let mut connection = rig.connect(flows).swap_remove(flows / 2);
        let (first, mut frame) = (connection.sent, connection.segment(&vec![7; SUPER_BYTES]));
        group.bench_function(BenchmarkId::new("TCP up among flows", flows), |bencher| {
            bencher.iter(|| {
                connection.renumber(&mut frame);
                rig.take(black_box(&frame));
                rig.flush();
                connection.sent = connection.sent.wrapping_add(SUPER_BYTES as u32);
            });
        });
        assert_eq!(rig.host.taken as u32, connection.sent.wrapping_sub(first), "all of it was relayed");
    }
    group.finish();
}

/// What the host gives, put into frames for the container, and the container's acknowledgement.
fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (flows, bytes) in FLOWS.iter().flat_map(|flows| [64, SUPER_BYTES].map(|bytes| (*flows, bytes))) {
        let mut rig = Rig::new();
        let mut connection = rig.connect(flows).swap_remove(flows / 2);
        let mut frame = connection.segment(&[]);
        let first = connection.received;
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new(format!("TCP down {bytes} B among flows"), flows), |bencher| {
            bencher.iter(|| {
                rig.host.gives += bytes;
                rig.tell(HostEvent::Readable { flow: connection.flow });
                rig.flush();
                connection.received = first.wrapping_add(rig.host.given as u32);
                connection.renumber(&mut frame);
                rig.take(black_box(&frame));
                rig.flush();
            });
        });
        assert_eq!(rig.host.gives, 0, "all of it was relayed");
    }
    group.finish();
}

criterion_group!(hops, parse, forward, relay, encode);
criterion_main!(hops);
