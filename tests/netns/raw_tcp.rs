//! TCP against segments made by hand, on the real kernel: the program serves a TAP, and what is on the other side of it is a
//! packet socket (`raw_tcp.py`) whose ports the container's own TCP never sees.
//!
//! The simulator has the same and much more (`tests/sim/cases/tcp_*.rs`); this is to show that driver, TAP and the host's
//! sockets play their part.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use crate::ground::{Ground, PYTHON, WORLD4, sealed};
use crate::process::{Outcome, SOON, start};
use crate::servers::{echo, serve_and_report, serve_streams};

const LIBRARY: &str = include_str!("raw_tcp.py");

/// Runs a script behind [`LIBRARY`] in a container without offloads, whose frames are as they would be on a wire.
fn raw(ground: &Ground, script: &str) -> Outcome {
    ground.needs(&["iptables"]);
    let script = format!("{LIBRARY}{script}\nprint('as it should be')");
    let arguments = ["run", "--no-offload", "--", PYTHON, "-c", &script, &WORLD4.to_string()];
    let outcome = start(ground.netferry(&arguments)).finish(Duration::from_secs(60)).expect_success();
    outcome.expect_stdout("as it should be")
}

#[test]
fn segments_out_of_order_overlapping_and_repeated_arrive_as_one_stream() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        raw(
            ground,
            "\
text = bytes(range(256)) * 4
p = Peer(); p.connect(); base = p.next
for a, b in ((600, 1024), (300, 700), (600, 1024), (100, 301)): p.send(data=text[a:b], seq=base + a)
held = p.await_(lambda s: len(s.options) >= 12)
assert held.ack == base and b'\\x05' in held.options, held
assert not any(s.data for s in p.hear(0.3)), 'nothing comes back of what is not in order'
p.send(data=text[:100], seq=base); p.next = base + 1024
assert p.take(1024) == text",
        );
    });
}

#[test]
fn a_silent_container_is_sent_the_same_again_ever_later() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            stream.write_all(&[7; 100])?;
            stream.read(&mut [0; 1]).map(drop)
        });
        raw(
            ground,
            "\
p = Peer(); p.connect()
copies = p.seen + p.hear(4)
assert all(len(s.data) == 100 and s.seq == p.expected for s in copies), copies
gaps = [b.at - a.at for a, b in zip(copies, copies[1:])]
print(gaps)
assert len(gaps) >= 4, gaps
for gap, wanted in zip(gaps, (0.2, 0.4, 0.8, 1.6)): assert wanted - 0.15 < gap < wanted * 1.5 + 0.3, gaps",
        );
    });
}

#[test]
fn a_closed_window_of_the_container_is_probed_and_all_comes_once_it_opens() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            stream.write_all(&[7; 10_000])?;
            stream.read(&mut [0; 1]).map(drop)
        });
        raw(
            ground,
            "\
p = Peer(); p.window = 0; p.connect()
until, probes = time.monotonic() + 3.5, []
while time.monotonic() < until:
    for s in p.hear(0.02): probes.append(s); p.send()
assert all(len(s.data) == 1 and s.seq == p.expected for s in probes), probes
gaps = [b.at - a.at for a, b in zip(probes, probes[1:])]
# Each is twice the one before, but for what a busy machine adds to them.
assert len(gaps) >= 3 and all(1.2 < b / a < 4 for a, b in zip(gaps, gaps[1:])), gaps
assert 1.5 < (gaps[-1] / gaps[0]) ** (1 / (len(gaps) - 1)) < 2.7, gaps
p.window = 65535; p.send(); begun = time.monotonic()
assert len(p.take(10000)) == 10000 and time.monotonic() - begun < 5",
        );
    });
}

#[test]
fn our_closed_window_answers_probes_and_opens_when_the_server_reads() {
    sealed(|ground| {
        let (ready, go) = std::sync::mpsc::channel::<()>();
        let go = std::sync::Mutex::new(go);
        let read = serve_and_report(ground.world_listener(WORLD4, 7000), move |mut stream| {
            go.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
        });
        // It reads once the container has had the time to fill everything on the way.
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_secs(12));
            ready.send(()).unwrap();
        });
        let outcome = raw(
            ground,
            "\
p = Peer(); p.connect(); sent, window, quiet = 0, 65535, 0
edge = p.next + window
while quiet < 50:
    while p.next + 1460 <= edge: p.send(data=bytes(1460)); p.next += 1460; sent += 1460
    heard = p.hear(0.01)
    quiet = 0 if heard else quiet + 1
    for s in heard: edge = max(edge, s.ack + s.win)
assert edge - p.next < 1460, 'the window is closed'
for probe in (dict(seq=p.next - 1), dict(data=b'x', seq=edge)):
    p.seen = []; p.send(**probe); answer = p.await_(lambda s: True, 2)
    assert answer.ack == p.next, answer
    time.sleep(0.6)
p.await_(lambda s: s.ack + s.win >= p.next + 1460, 30)
p.send(ACK | FIN); p.next += 1; p.await_(lambda s: s.ack == p.next)
print('sent', sent)",
        );
        reader.join().unwrap();
        let sent: u64 =
            outcome.stdout.lines().find_map(|line| line.strip_prefix("sent ")).unwrap().parse().unwrap();
        assert_eq!(read.recv_timeout(SOON).unwrap(), sent, "the byte of the probe was not taken");
    });
}

#[test]
fn resets_count_at_the_expected_number_only() {
    sealed(|ground| {
        let ends = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream| {
            let mut buffer = [0; 100];
            let count = stream.read(&mut buffer).unwrap();
            (count, stream.read(&mut buffer).map_err(|error| error.kind()))
        });
        raw(
            ground,
            "\
p = Peer(); p.connect()
p.send(RST, seq=p.next - 1); p.send(RST, seq=p.next + 100000)
assert not p.hear(0.3), 'outside of the window: nothing'
p.send(RST, seq=p.next + 100); challenge = p.await_(lambda s: True, 2)
assert challenge.flags & 63 == ACK and challenge.ack == p.next, challenge
p.send(SYN, seq=p.next + 100, ack=0); time.sleep(0.6)
p.send(SYN, seq=p.next + 100, ack=0); assert p.await_(lambda s: True, 2).flags & 63 == ACK
p.say(b'still here'); p.await_(lambda s: s.ack == p.next)
p.send(RST); assert not p.hear(0.3)",
        );
        assert_eq!(ends.recv_timeout(SOON).unwrap(), (10, Err(ErrorKind::ConnectionReset)));
    });
}

#[test]
fn impossible_acknowledgements_bring_nothing_in() {
    sealed(|ground| {
        let got = serve_and_report(ground.world_listener(WORLD4, 7000), |mut stream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        raw(
            ground,
            "\
p = Peer(); p.connect()
p.send(data=b'from the future', ack=p.expected + 1)
assert p.await_(lambda s: True, 2).ack == p.next
time.sleep(0.6)
p.send(data=b'from the past', ack=p.expected - 100000)
assert p.await_(lambda s: True, 2).ack == p.next
answers = 0
for _ in range(200): p.send(ack=p.expected + 1)
answers = len(p.hear(0.4)); assert answers <= 1, answers
p.say(b'now'); p.send(ACK | FIN); p.next += 1; p.await_(lambda s: s.ack == p.next)",
        );
        assert_eq!(got.recv_timeout(SOON).unwrap(), "now");
    });
}

#[test]
fn a_handshake_is_refused_to_what_acknowledges_something_else() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        raw(
            ground,
            "\
p = Peer(); p.send(SYN, options=USUAL, ack=0); answer = p.await_(lambda s: s.flags & SYN)
p.next += 1; p.expected = answer.seq + 1
p.send(ack=p.expected + 77); reset = p.await_(lambda s: s.flags & RST)
assert reset.seq == p.expected + 77 and not reset.flags & ACK, reset
p.send(); p.say(b'hello'); assert p.take(5) == b'hello'",
        );
    });
}

#[test]
fn both_may_close_at_once_and_the_pair_is_used_again() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| stream.write_all(b"bye"));
        raw(
            ground,
            "\
p = Peer(); p.connect(); fin = p.await_(lambda s: s.flags & FIN)
p.send(ACK | FIN); p.next += 1
assert p.await_(lambda s: True, 2).ack == p.next, 'ours is acknowledged before theirs'
p.expected = fin.seq + len(fin.data) + 1; p.send()
p.hear(0.2); p.seen = []
p.send(ACK | FIN, seq=p.next - 1); assert p.await_(lambda s: True, 2).ack == p.next, 'in TIME-WAIT'
p.send(RST); assert not p.hear(0.2)
p.send(SYN, seq=p.next - 500, ack=0); assert p.await_(lambda s: True, 2).flags & 63 == ACK, 'too old'
old = p.expected; p.next += 1000; p.seen = []; anew = p.connect()
assert 0 < anew.seq - old & 0xffffffff < 1 << 31, 'our numbers go on'",
        );
    });
}

#[test]
fn a_half_closed_connection_carries_the_answer() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question)?;
            thread::sleep(Duration::from_secs(1));
            stream.write_all(&question.repeat(1_000))
        });
        raw(
            ground,
            "\
p = Peer(); p.connect(); p.say(b'question'); p.send(ACK | FIN); p.next += 1
assert p.await_(lambda s: s.ack == p.next).flags & FIN == 0
assert p.take(8000) == b'question' * 1000
p.await_(lambda s: s.flags & FIN, 2)",
        );
    });
}

#[test]
fn small_segments_urgent_ones_and_bytes_on_the_syn_are_taken_as_bytes() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        raw(
            ground,
            "\
p = Peer(); p.send(SYN, b'early', options=bytes([2, 4, 2, 24]), ack=0)
answer = p.await_(lambda s: s.flags & SYN); assert answer.ack == p.next + 1, 'the SYN alone'
p.next, p.expected = p.next + 1, answer.seq + 1; p.send()
p.send(ACK | URG, b'early' * 250, urgent=7); p.next += 1250
sizes, data = [], b''
while len(data) < 1250:
    for s in p.hear(0.05):
        if s.data and s.seq == p.expected: sizes.append(len(s.data)); data += s.data; p.expected += len(s.data)
    p.send()
assert data == b'early' * 250 and max(sizes) == 536, sizes",
        );
    });
}

#[test]
fn a_flood_of_syns_harms_no_established_connection() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        let script = "\
s = socket.create_connection((SERVER, 7000), timeout=10, source_address=('', 40000))
p = Peer()
for n in range(20000):
    p.port = 45000 + n; p.send(SYN, options=USUAL, ack=0)
    if n % 1000 == 0: s.sendall(b'ping'); assert s.recv(4) == b'ping'
s.sendall(b'last'); assert s.recv(4) == b'last'";
        raw(ground, script);
    });
}
