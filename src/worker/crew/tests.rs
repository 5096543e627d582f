//! Several workers behind as many guest's sockets, which stand for the queues of one interface: what comes by which of them is
//! the guest's to choose.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::super::tests::config;
use super::*;
use crate::config::PortProtocol;
use crate::sys::bess::BessSocket;
use crate::sys::confined::{Sandboxed, Waiver};
use crate::sys::socket::tests::in_private_network;
use crate::wire::frame::{self, Body};
use crate::wire::tcp::{self, Flags};

const GUEST: ([u8; 4], [u8; 6]) = ([10, 0, 2, 100], [2, 0, 0, 0, 0, 9]);
/// With which the guest reaches the host's loopback.
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const SERVER_PORT: u16 = 7_000;
const BODY_BYTES: usize = 300_000;
const SEGMENT_BYTES: usize = 1_000;
const WINDOW: u16 = 60_000;
/// Less than any window that is granted.
const FLIGHT_BYTES: usize = 20 * SEGMENT_BYTES;

/// A crew, and the other ends of its queues.
struct Guest {
    queues: Vec<OwnedFd>,
}

/// A segment that came, and by which queue.
struct Came {
    queue: usize,
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: Flags,
    payload: Vec<u8>,
}

fn crew_of(workers: usize, published: &[u16]) -> (Worker, Guest) {
    let mut config = config(8);
    config.host_loopback = true;
    let mut listeners = Vec::new();
    for port in published {
        let rule = PublishRule {
            protocol: PortProtocol::Tcp,
            host_address: "127.0.0.1".parse().unwrap(),
            host_port: *port,
            interface: None,
            container_address: None,
            container_port: 80,
        };
        listeners.push(Listener::bind(&rule, false).unwrap());
        config.publish.push(rule);
    }
    let mut devices = Vec::new();
    let mut queues = Vec::new();
    for _ in 0..workers {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        devices.push(BessSocket::from_fd(ours).unwrap().into());
        queues.push(theirs);
    }
    let leader = Worker::several(&config, devices, listeners, &[], [1, 2, 3, 4]).unwrap();
    (leader, Guest { queues })
}

fn start(leader: Worker) -> JoinHandle<io::Result<ExitReason>> {
    let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
    confined.spawn(move |confined| leader.run(Vec::new(), confined)).unwrap()
}

fn body() -> Vec<u8> {
    (0..BODY_BYTES).map(|at| (at / 7 + at % 251) as u8).collect()
}

/// A segment of the guest's.
fn segment(
    ports: (u16, u16),
    sequence: u32,
    acknowledgement: Option<u32>,
    mark: Flags,
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(GUEST.1, crate::config::address::GATEWAY_MAC.0);
    let mut tcp = ethernet.ipv4(GUEST.0, GATEWAY, 64).tcp(ports.0, ports.1, sequence, WINDOW);
    if let Some(number) = acknowledgement {
        tcp = tcp.ack(number);
    }
    if mark.contains(Flags::SYN) {
        tcp = tcp.syn();
    }
    if mark.contains(Flags::FIN) {
        tcp = tcp.fin();
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).unwrap();
    frame
}

impl Guest {
    fn send(&self, queue: usize, frame: &[u8]) {
        let sent = send(self.queues[queue].as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
        assert_eq!(sent, Ok(frame.len()));
    }

    /// The next segment that comes within so long; other frames are passed over.
    fn segment_within(&self, patience: Duration) -> Option<Came> {
        let mut frame = [0; 65_600];
        loop {
            let mut watched: Vec<_> = self
                .queues
                .iter()
                .map(|queue| PollFd::new(std::os::fd::AsFd::as_fd(queue), PollFlags::POLLIN))
                .collect();
            let timeout = PollTimeout::try_from(patience).unwrap();
            if poll(&mut watched, timeout).unwrap() == 0 {
                return None;
            }
            let queue = watched.iter().position(|queue| queue.any() == Some(true)).unwrap();
            let len = recv(self.queues[queue].as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
            assert_ne!(len, 0, "the worker is gone");
            let Ok(frame::Frame { body: Body::Ip(packet), .. }) = frame::parse(&frame[..len]) else {
                continue;
            };
            if packet.protocol != crate::wire::ip::protocol::TCP {
                continue;
            }
            let segment = tcp::parse(packet.payload).unwrap();
            return Some(Came {
                queue,
                ports: (segment.source_port, segment.destination_port),
                sequence: segment.sequence,
                acknowledgement: segment.acknowledgement,
                flags: segment.flags,
                payload: segment.payload.to_vec(),
            });
        }
    }

    /// Connects to the host's server, its SYN by `queue`; the numbers that follow, and the owner's queue.
    fn connect(&self, port: u16, queue: usize) -> (u32, u32, usize) {
        self.send(queue, &segment((port, SERVER_PORT), 1_000, None, Flags::SYN, &[]));
        let came = loop {
            // What the last connection still hears is passed over.
            let came = self.segment_within(Duration::from_secs(30)).expect("a SYN-ACK");
            if came.ports == (SERVER_PORT, port) {
                break came;
            }
        };
        assert!(came.flags.contains(Flags::SYN.union(Flags::ACK)), "{:?}", came.flags);
        assert_eq!(came.acknowledgement, 1_001);
        let next = came.sequence.wrapping_add(1);
        self.send(1 - queue, &segment((port, SERVER_PORT), 1_001, Some(next), Flags::default(), &[]));
        (1_001, next, came.queue)
    }
}

#[test]
fn bytes_of_a_flow_that_changes_queues_with_every_frame_arrive_whole_both_ways() {
    in_private_network(
        "worker::crew::tests::bytes_of_a_flow_that_changes_queues_with_every_frame_arrive_whole_both_ways",
        || {
            let (leader, guest) = crew_of(2, &[]);
            let crew = start(leader);
            let server = TcpListener::bind(("127.0.0.1", SERVER_PORT)).unwrap();
            let mut owners = Vec::new();
            for (port, queue) in [(40_000, 0), (40_001, 1), (40_002, 0), (40_003, 1), (40_004, 0)] {
                let (first, peer_first, owner) = guest.connect(port, queue);
                let (mut host, _) = server.accept().unwrap();
                let received = std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    host.read_to_end(&mut bytes).unwrap();
                    host.write_all(&bytes).unwrap();
                    host.shutdown(Shutdown::Write).unwrap();
                    bytes
                });
                upload(&guest, (port, SERVER_PORT), (first, peer_first), owner);
                assert!(received.join().unwrap() == body(), "what the host's program reads");
                assert!(download(&guest, port, (first, peer_first), owner) == body(), "what comes back");
                owners.push(owner);
            }
            assert!(owners.contains(&0) && owners.contains(&1), "each has some: {owners:?}");
            drop(guest);
            assert_eq!(crew.join().unwrap().unwrap(), ExitReason::LinkGone);
        },
    );
}

/// Sends the body and a FIN, each segment by the other queue than the last; what is not acknowledged is sent again.
fn upload(guest: &Guest, ports: (u16, u16), (first, peer): (u32, u32), owner: usize) {
    let body = body();
    let (mut acknowledged, mut next, mut turn) = (0, 0, 0);
    while acknowledged <= body.len() {
        while next <= body.len() && next < acknowledged + FLIGHT_BYTES {
            let part = &body[next..body.len().min(next + SEGMENT_BYTES)];
            let mark = if part.is_empty() { Flags::FIN } else { Flags::default() };
            let sequence = first.wrapping_add(next as u32);
            guest.send(turn % 2, &segment(ports, sequence, Some(peer), mark, part));
            turn += 1;
            next += part.len().max(1);
        }
        match guest.segment_within(Duration::from_millis(300)) {
            Some(came) if came.ports == (ports.1, ports.0) => {
                assert_eq!(came.queue, owner, "one worker answers, and no other");
                assert!(!came.flags.contains(Flags::RST));
                let number = came.acknowledgement.wrapping_sub(first) as usize;
                assert!(number <= body.len() + 1, "{number}");
                acknowledged = acknowledged.max(number);
            }
            Some(_) => {}
            None => next = acknowledged,
        }
    }
}

/// Reads until the FIN, each segment acknowledged by the other queue than the last.
fn download(guest: &Guest, port: u16, (first, peer): (u32, u32), owner: usize) -> Vec<u8> {
    let ports = (port, SERVER_PORT);
    let own = first.wrapping_add(BODY_BYTES as u32 + 1);
    let (mut bytes, mut turn, mut is_over) = (Vec::new(), 0, false);
    while !is_over {
        let came = guest.segment_within(Duration::from_secs(30)).expect("more of it");
        if came.ports != (SERVER_PORT, port) || came.payload.is_empty() && !came.flags.contains(Flags::FIN) {
            continue;
        }
        assert_eq!(came.queue, owner);
        if came.sequence == peer.wrapping_add(bytes.len() as u32) {
            bytes.extend(&came.payload);
            is_over = came.flags.contains(Flags::FIN);
        }
        let expected = peer.wrapping_add(bytes.len() as u32 + u32::from(is_over));
        guest.send(turn % 2, &segment(ports, own, Some(expected), Flags::default(), &[]));
        turn += 1;
    }
    bytes
}

#[test]
fn clients_of_a_published_port_come_by_the_queues_of_their_owners_and_an_end_ends_all() {
    in_private_network(
        "worker::crew::tests::clients_of_a_published_port_come_by_the_queues_of_their_owners_and_an_end_ends_all",
        || {
            let (leader, mut guest) = crew_of(4, &[8_080]);
            let crew = start(leader);
            let clients: Vec<_> =
                (0..64).map(|_| TcpStream::connect(("127.0.0.1", 8_080)).unwrap()).collect();
            let mut queues_of = BTreeMap::new();
            while queues_of.len() < clients.len() {
                let came = guest.segment_within(Duration::from_secs(30)).expect("each client's SYN");
                assert!(came.flags.contains(Flags::SYN) && came.ports.1 == 80);
                assert_eq!(*queues_of.entry(came.ports.0).or_insert(came.queue), came.queue);
            }
            let used: std::collections::BTreeSet<usize> = queues_of.into_values().collect();
            assert_eq!(used.len(), 4, "{used:?}");
            // One queue is gone, not the leader's.
            drop(guest.queues.remove(2));
            assert_eq!(crew.join().unwrap().unwrap(), ExitReason::LinkGone);
        },
    );
}

#[test]
fn frames_for_a_worker_that_has_too_much_to_do_are_lost_and_counted() {
    in_private_network(
        "worker::crew::tests::frames_for_a_worker_that_has_too_much_to_do_are_lost_and_counted",
        || {
            // The other one does not run.
            let (mut leader, guest) = crew_of(2, &[]);
            let ports = |from| (from, SERVER_PORT);
            let of_other = (1_024..)
                .map(|from| segment(ports(from), 1, Some(1), Flags::default(), &[0; 60_000]))
                .find(|frame| leader.stack.share().owner_of_frame(frame) == Some(1))
                .unwrap();
            let mut sent = 0;
            while leader.stack.stats().drops(DropReason::WorkerBusy) < 3 {
                assert!(sent < 1_000, "the box has no bottom");
                guest.send(0, &of_other);
                sent += 1;
                leader.is_link_ready = true;
                leader.read_link();
            }
            let room = crate::config::limits::MAILBOX.bytes / 2;
            assert_eq!(sent - 3, room / (10 + of_other.len()), "as many as half of the box holds");
            let member = leader.member.as_ref().unwrap();
            assert!(member.crew.post(1, Letter::React(Reaction::Continue)), "what counts has room");
        },
    );
}

#[test]
fn panic_of_one_is_the_panic_of_all() {
    let (leader, _guest) = crew_of(3, &[]);
    let member = leader.member.as_ref().unwrap();
    let crew = Arc::clone(&member.crew);
    let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
    let outcome = thread::scope(|scope| {
        let news = EndOfOne(Arc::clone(&crew));
        let body = move |_confined| {
            let _news = news;
            if crew.boxes.len() == 3 {
                std::panic::panic_any("on purpose");
            }
            Ok(None)
        };
        let thread = confined.spawn_scoped(scope, body).unwrap();
        // The leader has heard, and has no reason of its own.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| followed_by(Ok(None), thread)))
    });
    assert!(outcome.is_err());
    assert!(leader.member.as_ref().unwrap().crew.has_fallen.load(Ordering::Acquire));
}
