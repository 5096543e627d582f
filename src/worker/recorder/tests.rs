//! What observers get, and what a slow one costs.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::Poll;

use super::*;
use crate::config::limits::{CAPTURE_BURST_BYTES, CAPTURE_BYTES_PER_MICROSECOND};
use crate::stack::boundary::Instant;
use crate::stack::flow::FlowProtocol;
use crate::stack::forward::tests::config;
use crate::wire::vnet_header::Offload;
use crate::worker::recorder::host_side::{End, Happening};

struct Bench {
    recorder: Recorder,
    stack: Stack,
    link: Stage,
    sockets: Stage,
    _poll: Poll,
}

const FLOW: FlowId = FlowId { slot: 4, generation: 2 };

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Bench {
    fn new() -> Bench {
        let poll = Poll::new().unwrap();
        let stack =
            Stack::new(Arc::new(config(false)), Offload::NONE, Vec::new(), [1, 2, 3, 4], Instant::ZERO);
        let recorder = Recorder::new(poll.registry().try_clone().unwrap(), 1_000_000, &stack);
        let stage = |recorder: &Recorder| Stage::new(recorder.order(), usize::MAX);
        let (link, sockets) = (stage(&recorder), stage(&recorder));
        Bench { recorder, stack, link, sockets, _poll: poll }
    }

    fn watch(&mut self, wish: Wish) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.recorder.add(ours, wish).unwrap();
        theirs
    }

    fn opens(&mut self) {
        self.recorder.note(&StackEvent::FlowOpened {
            flow: FLOW,
            protocol: 6,
            container: at("10.0.2.100:4000"),
            remote: at("192.0.2.1:80"),
            target: at("192.0.2.1:80"),
        });
    }

    fn frame(&mut self, payload: usize) {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .tcp(4_000, 80, 1, 500);
        builder.write(&mut frame, &vec![7; payload]).unwrap();
        self.link.put(Sight::Frame(Direction::Outbound, [0; 10]), &[&frame]);
    }

    fn drain(&mut self) {
        self.drain_at(0);
    }

    fn drain_at(&mut self, micros: u64) {
        self.recorder.drain(&mut self.link, &mut self.sockets, None, &self.stack);
        self.recorder.begin_turn(micros);
    }
}

/// Interface, comment and length of a packet.
type Shown = (u32, Option<String>, usize);

/// Each packet, and what the statistics at the end tell of both interfaces.
fn read(mut stream: UnixStream) -> (Vec<Shown>, Vec<(u64, u64)>) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let (mut packets, mut told, mut rest) = (Vec::new(), Vec::new(), bytes.as_slice());
    while !rest.is_empty() {
        let len = pcapng::block_len(rest).unwrap().unwrap();
        let (block, behind) = rest.split_at(len);
        rest = behind;
        if let Some((_, received, dropped)) = pcapng::told(block) {
            told.push((received, dropped));
        } else if !pcapng::is_preamble(block) {
            let number = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            let kept = number(20) as usize;
            let options = &block[28 + kept.next_multiple_of(4)..];
            let comment = (options[0] == 1).then(|| {
                let len = usize::from(u16::from_le_bytes([options[2], options[3]]));
                String::from_utf8(options[4..4 + len].to_vec()).unwrap()
            });
            packets.push((number(8), comment, kept));
        }
    }
    (packets, told)
}

fn all() -> Wish {
    Wish { choice: None, snap_len: WHOLE_PACKETS, segments: false }
}

#[test]
fn both_sides_of_a_flow_have_its_name_in_the_order_in_which_they_were_seen() {
    let mut bench = Bench::new();
    let stream = bench.watch(all());
    bench.opens();
    bench.frame(0);
    let began = Happening::Began { local: at("192.0.2.9:5000"), peer: at("192.0.2.1:80"), by: End::Ours };
    bench.sockets.put(Sight::Socket(Whose::Flow(FLOW), began), &[]);
    bench.frame(5);
    bench.drain();
    bench.recorder.note(&StackEvent::FlowClosed { flow: FLOW });
    bench.frame(0);
    bench.drain();
    bench.recorder.finish(7);
    let name = Some("flow f4.2".to_owned());
    let (packets, told) = read(stream);
    let seen: Vec<_> = packets.iter().map(|(interface, comment, _)| (*interface, comment.clone())).collect();
    assert_eq!(
        seen,
        [(CONTAINER, name.clone()), (HOST, name.clone()), (CONTAINER, name.clone()), (CONTAINER, name)]
    );
    assert_eq!(told, [(3, 0), (1, 0)]);
}

#[test]
fn a_choice_is_of_flows_and_a_snap_length_of_packets() {
    let mut bench = Bench::new();
    let choose = |protocol| -> Wish {
        let choice: Choice = Arc::new(move |key: &FlowKey| key.protocol == protocol);
        Wish { choice: Some(choice), snap_len: 60, segments: false }
    };
    let (tcp, udp) = (bench.watch(choose(FlowProtocol::Tcp)), bench.watch(choose(FlowProtocol::Udp)));
    bench.opens();
    bench.frame(1_000);
    bench.link.put(Sight::Frame(Direction::Outbound, [0; 10]), &[&[0xff; 60]]);
    bench.drain();
    bench.recorder.finish(7);
    assert_eq!(read(tcp).0, [(CONTAINER, Some("flow f4.2".to_owned()), 60)]);
    assert_eq!(read(udp), (vec![], vec![(0, 0), (0, 0)]));
}

#[test]
fn a_reader_that_does_not_read_loses_packets_that_are_counted_and_costs_bounded_memory() {
    let mut bench = Bench::new();
    let (slow, fast) = (bench.watch(all()), bench.watch(all()));
    let reader = std::thread::spawn(move || read(fast));
    bench.opens();
    let turns = 3 * CAPTURE_BUFFER_BYTES / (20 * 60_000);
    for _ in 0..turns {
        for _ in 0..20 {
            bench.frame(60_000);
        }
        bench.drain();
        // The other reads, however slow this machine is.
        while !bench.recorder.observers[1].waiting.is_empty() {
            std::thread::yield_now();
            bench.recorder.observers[1].flush();
        }
        let held = bench.recorder.observers[0].waiting.len();
        assert!(held <= CAPTURE_BUFFER_BYTES * 5 / 4 + 70_000, "{held}");
    }
    let dropped = bench.recorder.observers[0].dropped[0];
    assert!(dropped > 0);
    let reader_of_the_slow = std::thread::spawn(move || read(slow));
    bench.recorder.finish_waiting(0, 7);
    bench.recorder.finish(7);
    let (packets, told) = reader_of_the_slow.join().unwrap();
    let all = turns as u64 * 20;
    assert_eq!((packets.len() as u64 + dropped, told[0]), (all, (all, dropped)));
    let (packets, told) = reader.join().unwrap();
    assert_eq!((packets.len() as u64, told[0]), (all, (all, 0)));
}

#[test]
fn what_nobody_has_room_for_is_not_even_copied_and_counted_all_the_same() {
    let mut bench = Bench::new();
    let _stuck = bench.watch(all());
    bench.opens();
    let began = Happening::Began { local: at("192.0.2.9:5000"), peer: at("192.0.2.1:80"), by: End::Ours };
    bench.sockets.put(Sight::Socket(Whose::Flow(FLOW), began), &[]);
    bench.sockets.put(Sight::Socket(Whose::Flow(FLOW), Happening::Established), &[]);
    let sent = || Sight::Socket(Whose::Flow(FLOW), Happening::Sent(End::Peer));
    let payload = vec![7; 60_000];
    let turn = |bench: &mut Bench| {
        bench.frame(payload.len());
        bench.sockets.put_stream(sent, &payload);
        let copied =
            |stage: &Stage| stage.seen().iter().map(|seen| stage.bytes_of(seen).len()).sum::<usize>();
        let copied = copied(&bench.link) + copied(&bench.sockets);
        bench.drain();
        copied
    };
    let full = (0..1_000).position(|_| turn(&mut bench) == 0).expect("its buffer is bounded");
    assert!(full >= CAPTURE_BUFFER_BYTES / 2 / 70_000, "{full}");
    let before = bench.recorder.observers[0].dropped;
    for _ in 0..100 {
        assert_eq!(turn(&mut bench), 0);
    }
    let observer = &bench.recorder.observers[0];
    assert_eq!(observer.dropped[CONTAINER as usize] - before[CONTAINER as usize], 100);
    // Each with the acknowledgements between them.
    let of_host = observer.dropped[HOST as usize] - before[HOST as usize];
    assert!((100..=200).contains(&of_host), "{of_host}");
    assert!(observer.waiting.len() <= CAPTURE_BUFFER_BYTES);
}

#[test]
fn a_reader_that_keeps_pace_gets_no_more_than_what_captures_may_cost() {
    let mut bench = Bench::new();
    let stream = bench.watch(all());
    let reader = std::thread::spawn(move || read(stream));
    bench.opens();
    let burst = CAPTURE_BURST_BYTES as usize / 60_000;
    for _ in 0..burst + 100 {
        bench.frame(60_000);
        bench.drain();
        while !bench.recorder.observers[0].waiting.is_empty() {
            std::thread::yield_now();
            bench.recorder.observers[0].flush();
        }
        bench.recorder.begin_turn(0);
    }
    let lost = bench.recorder.observers[0].dropped[0];
    assert!((90..=110).contains(&lost), "{lost}");
    // A millisecond later there is more to be had.
    bench.recorder.begin_turn(1_000);
    for _ in 0..20 {
        bench.frame(60_000);
        bench.drain_at(1_000);
    }
    bench.recorder.finish_waiting(0, 7);
    let (packets, told) = reader.join().unwrap();
    let (received, dropped) = told[0];
    assert_eq!(packets.len() as u64 + dropped, received);
    let later = 20 - (dropped - lost);
    let each_milli = CAPTURE_BYTES_PER_MICROSECOND as u64 * 1_000 / 60_000;
    assert!((each_milli - 1..=each_milli + 2).contains(&later), "{later} of {each_milli}");
}

#[test]
fn a_reader_that_leaves_is_forgotten_and_there_is_a_bound_to_readers() {
    let mut bench = Bench::new();
    let streams: Vec<_> = (0..CAPTURE_OBSERVERS).map(|_| bench.watch(all())).collect();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let refused = bench.recorder.add(ours, all()).unwrap_err().to_string();
    assert!(refused.contains("captures are under way already"), "{refused}");
    drop(streams);
    bench.frame(10);
    bench.drain();
    assert!(bench.recorder.is_idle());
}

#[test]
fn one_that_wants_segments_gets_them_and_the_other_does_not() {
    let mut bench = Bench::new();
    let whole = bench.watch(all());
    let cut = bench.watch(Wish { segments: true, ..all() });
    bench.opens();
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
        .tcp(4_000, 80, 1, 500);
    builder.write(&mut frame, &[7; 5_000]).unwrap();
    let segmentation = crate::wire::vnet_header::Segmentation::Tcp { segment_bytes: 1_460, ecn: false };
    let meta = crate::wire::vnet_header::FrameMeta {
        checksum_partial: true,
        checksum_valid: false,
        segmentation: Some(segmentation),
    };
    bench.link.put(Sight::Frame(Direction::Inbound, meta.encode(false, 34, 20, 16)), &[&frame]);
    bench.drain();
    bench.recorder.finish(7);
    let lens = |stream| read(stream).0.iter().map(|(_, _, kept)| *kept).collect::<Vec<_>>();
    assert_eq!(lens(whole), [5_054]);
    assert_eq!(lens(cut), [1_514, 1_514, 1_514, 674]);
}
