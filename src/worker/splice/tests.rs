//! Spliced connections over real sockets, in a network of their own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::*;
use crate::config::limits::SpliceLimits;
use crate::sys::socket::tests::in_private_network;
use crate::sys::socket::{Accepted, StreamListener};

/// A driver with nothing but spliced connections.
struct Driver {
    poll: Poll,
    yard: Yard,
    connections: Vec<Option<SplicedConnection>>,
    endings: Vec<Progress>,
}

impl Driver {
    fn new(limits: SpliceLimits) -> Driver {
        let yard = Yard { pool: CarrierPool::new(limits), eye: None };
        Driver { poll: Poll::new().unwrap(), yard, connections: Vec::new(), endings: Vec::new() }
    }

    fn add(&mut self, connection: SplicedConnection) {
        for (index, side) in [Side::Initiating, Side::Target].into_iter().enumerate() {
            let fd = connection.socket(side).as_fd().as_raw_fd();
            let token = Token(self.connections.len() * 2 + index);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut SourceFd(&fd), token, interest).unwrap();
        }
        self.connections.push(Some(connection));
    }

    /// A client's end, a server's end, and a spliced connection between them.
    fn join(&mut self) -> (TcpStream, TcpStream) {
        let door = StreamListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(door.local_address().unwrap()).unwrap();
        let Accepted::Connection(initiating, ..) = door.accept() else { panic!("nobody came") };
        let (target, _) = StreamSocket::connect(server.local_addr().unwrap(), None).unwrap();
        self.add(SplicedConnection::new(initiating, target));
        (client, server.accept().unwrap().0)
    }

    fn settle(&mut self, index: usize, mut progress: Progress) {
        loop {
            let Some(connection) = &mut self.connections[index] else { return };
            match progress {
                Progress::Waiting => return,
                Progress::Behind => progress = connection.advance(&mut self.yard),
                Progress::Finished => {
                    self.connections[index].take().unwrap().finish(&mut self.yard);
                    self.endings.push(progress);
                }
                Progress::Failed(..) => {
                    self.connections[index].take().unwrap().reset(&mut self.yard);
                    self.endings.push(progress);
                }
            }
        }
    }

    /// Serves until `is_done`; whether that came before ten seconds without an event.
    fn run_until(&mut self, mut is_done: impl FnMut(&Driver) -> bool) -> bool {
        let mut events = Events::with_capacity(64);
        let mut quiet = 0;
        while !is_done(self) {
            self.poll.poll(&mut events, Some(std::time::Duration::from_millis(20))).unwrap();
            quiet = if events.is_empty() { quiet + 1 } else { 0 };
            if quiet == 500 {
                return false;
            }
            for event in &events {
                let index = event.token().0 / 2;
                let side = if event.token().0 % 2 == 0 { Side::Initiating } else { Side::Target };
                let readiness = Readiness {
                    is_readable: event.is_readable() || event.is_read_closed() || event.is_error(),
                    is_writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                    is_error: event.is_error(),
                };
                let Some(connection) = &mut self.connections[index] else { continue };
                let progress = connection.handle_event(side, readiness, &mut self.yard);
                self.settle(index, progress);
            }
        }
        true
    }
}

/// Bytes that differ from place to place, so that none may be lost, doubled or swapped.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

fn sends_and_ends(mut stream: TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

fn reads_all(mut stream: TcpStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn transfers_both_ways(limits: SpliceLimits) {
    let mut driver = Driver::new(limits);
    let (client, server) = driver.join();
    let (up, down) = (pattern(3, 8_000_001), pattern(5, 5_000_003));
    let received = [reads_all(server.try_clone().unwrap()), reads_all(client.try_clone().unwrap())];
    let senders = [sends_and_ends(client, up.clone()), sends_and_ends(server, down.clone())];
    assert!(driver.run_until(|driver| !driver.endings.is_empty()));
    assert_eq!(driver.endings, [Progress::Finished]);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let [at_server, at_client] = received.map(|reader| reader.join().unwrap());
    assert!(at_server == up && at_client == down, "{} {}", at_server.len(), at_client.len());
    assert_eq!(
        (driver.yard.pool.pipes(), driver.yard.pool.buffer_bytes()),
        (driver.yard.pool.idle_pipes(), 0)
    );
}

fn half_closes(from_client: bool) {
    let mut driver = Driver::new(SpliceLimits::default());
    let (client, server) = driver.join();
    let (first, mut last) = if from_client { (client, server) } else { (server, client) };
    let (request, answer) = (pattern(7, 300_000), pattern(9, 2_000_000));
    let sender = sends_and_ends(first.try_clone().unwrap(), request.clone());
    let expected = answer.clone();
    // It answers only once it has seen the end.
    let answering = thread::spawn(move || {
        let mut bytes = Vec::new();
        last.read_to_end(&mut bytes).unwrap();
        last.write_all(&answer).unwrap();
        bytes
    });
    let reader = reads_all(first);
    assert!(driver.run_until(|driver| !driver.endings.is_empty()));
    assert_eq!(driver.endings, [Progress::Finished]);
    sender.join().unwrap();
    assert!(answering.join().unwrap() == request);
    assert!(reader.join().unwrap() == expected);
}

fn reset_passes(from_client: bool) {
    let mut driver = Driver::new(SpliceLimits::default());
    let (client, server) = driver.join();
    let (first, mut last) = if from_client { (client, server) } else { (server, client) };
    driver.run_until(|driver| driver.connections[0].as_ref().unwrap().carriers() == 0);
    socket2::SockRef::from(&first).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(first);
    assert!(driver.run_until(|driver| !driver.endings.is_empty()));
    let side = if from_client { Side::Initiating } else { Side::Target };
    assert_eq!(driver.endings, [Progress::Failed(side, SocketError::Reset)]);
    let error = last.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn bytes_arrive_whole_both_ways_at_once() {
    in_private_network("worker::splice::tests::bytes_arrive_whole_both_ways_at_once", || {
        transfers_both_ways(SpliceLimits::default());
        // Many turns to a transfer.
        transfers_both_ways(SpliceLimits { turn_bytes: 1, ..SpliceLimits::default() });
    });
}

#[test]
fn without_a_pipe_bytes_are_copied() {
    in_private_network("worker::splice::tests::without_a_pipe_bytes_are_copied", || {
        transfers_both_ways(SpliceLimits { pipes: 0, ..SpliceLimits::default() });
        // One direction has the only pipe, the other a buffer beyond the total.
        let limits = SpliceLimits { pipes: 1, buffer_total_bytes: 0, ..SpliceLimits::default() };
        transfers_both_ways(limits);
    });
}

#[test]
fn one_direction_may_end_while_the_other_goes_on() {
    in_private_network("worker::splice::tests::one_direction_may_end_while_the_other_goes_on", || {
        half_closes(true);
        half_closes(false);
    });
}

#[test]
fn reset_of_one_side_is_a_reset_of_the_other() {
    in_private_network("worker::splice::tests::reset_of_one_side_is_a_reset_of_the_other", || {
        reset_passes(true);
        reset_passes(false);
    });
}

#[test]
fn refused_connect_resets_the_client() {
    in_private_network("worker::splice::tests::refused_connect_resets_the_client", || {
        let mut driver = Driver::new(SpliceLimits::default());
        let door = StreamListener::bind("[::1]:0".parse().unwrap()).unwrap();
        let mut client = TcpStream::connect(door.local_address().unwrap()).unwrap();
        let Accepted::Connection(initiating, ..) = door.accept() else { panic!("nobody came") };
        let closed: SocketAddr = "127.0.0.1:9".parse().unwrap();
        // The kernel may tell at once or by an event.
        match StreamSocket::connect(closed, None) {
            Ok((target, _)) => driver.add(SplicedConnection::new(initiating, target)),
            Err(error) => {
                assert_eq!(error, SocketError::Refused);
                return;
            }
        }
        assert!(driver.run_until(|driver| !driver.endings.is_empty()));
        assert_eq!(driver.endings, [Progress::Failed(Side::Target, SocketError::Refused)]);
        assert!(client.read(&mut [0; 8]).is_err());
    });
}

#[test]
fn slow_reader_stops_the_sender_and_costs_one_carrier() {
    in_private_network("worker::splice::tests::slow_reader_stops_the_sender_and_costs_one_carrier", || {
        let mut driver = Driver::new(SpliceLimits::default());
        let (client, server) = driver.join();
        let bytes = pattern(11, 64 << 20);
        let sender = sends_and_ends(client, bytes.clone());
        // Nobody reads: after a while nothing moves any more, and what is held is one pipe.
        let (mut before, mut unmoved) = (0, 0);
        driver.run_until(|driver| {
            let (now, _) = driver.connections[0].as_ref().unwrap().delivered_bytes();
            unmoved = if now > 0 && now == before { unmoved + 1 } else { 0 };
            before = now;
            unmoved == 10
        });
        assert!(!sender.is_finished() && before < 32 << 20, "{before} bytes went nowhere");
        assert_eq!(driver.connections[0].as_ref().unwrap().carriers(), 1);
        assert_eq!(
            (driver.yard.pool.pipes(), driver.yard.pool.idle_pipes(), driver.yard.pool.buffer_bytes()),
            (1, 0, 0)
        );
        let reader = reads_all(server.try_clone().unwrap());
        server.shutdown(Shutdown::Write).unwrap();
        assert!(driver.run_until(|driver| !driver.endings.is_empty()));
        sender.join().unwrap();
        assert!(reader.join().unwrap() == bytes);
        assert_eq!((driver.yard.pool.pipes(), driver.yard.pool.idle_pipes()), (2, 2));
    });
}

#[test]
fn a_thousand_idle_connections_hold_no_carrier_and_all_work() {
    in_private_network(
        "worker::splice::tests::a_thousand_idle_connections_hold_no_carrier_and_all_work",
        || {
            let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
            let (_, hard) = nix::sys::resource::getrlimit(limit).unwrap();
            nix::sys::resource::setrlimit(limit, hard.min(8_192), hard).unwrap();
            let mut driver = Driver::new(SpliceLimits { pipes: 4, ..SpliceLimits::default() });
            let mut ends: Vec<_> = (0..1_000).map(|_| driver.join()).collect();
            for (number, (client, _)) in ends.iter_mut().enumerate() {
                client.write_all(&(number as u32).to_be_bytes()).unwrap();
            }
            let all_delivered = |driver: &Driver| {
                driver.connections.iter().flatten().all(|connection| connection.delivered_bytes().0 == 4)
            };
            assert!(driver.run_until(all_delivered));
            let held: usize = driver.connections.iter().flatten().map(SplicedConnection::carriers).sum();
            assert_eq!((held, driver.yard.pool.buffer_bytes()), (0, 0));
            assert!(
                driver.yard.pool.pipes() <= 4 && driver.yard.pool.pipes() == driver.yard.pool.idle_pipes()
            );
            for (number, (_, server)) in ends.iter_mut().enumerate() {
                let mut bytes = [0; 4];
                server.read_exact(&mut bytes).unwrap();
                assert_eq!(u32::from_be_bytes(bytes), number as u32);
            }
            drop(ends);
            assert!(driver.run_until(|driver| driver.endings.len() == 1_000));
            assert!(driver.endings.iter().all(|ending| *ending == Progress::Finished));
        },
    );
}
