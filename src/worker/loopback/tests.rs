//! Ways from loopback to loopback over real sockets: limits are kept, and silence ends an exchange.
//!
//! A thread stands in for the process in the container; both sides are one network here.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration as StdDuration;

use mio::{Events, Poll};

use super::*;
use crate::config::limits::{HOOK_DATAGRAMS, SpliceLimits};
use crate::config::rules::Direction;
use crate::config::{Forwarding, LocalClients, PortForwarding};
use crate::stack::boundary::Duration;
use crate::stack::forward::tests::config;
use crate::sys::confined::{Confined, Sandboxed, Waiver};
use crate::sys::socket::inner::Tables;
use crate::sys::socket::tests::in_private_network;

/// A loopback with nothing around it but its poll.
struct Driver {
    poll: Poll,
    loopback: Loopback,
    scarcity: Scarcity,
    now: Instant,
    /// What the policy lets through.
    allows: fn(&Spliced) -> Judged,
}

impl Driver {
    fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        let wait = if self.loopback.is_behind(&self.scarcity) { 0 } else { 20 };
        self.poll.poll(&mut events, Some(StdDuration::from_millis(wait))).unwrap();
        for event in &events {
            let subject = Subject::from_token(event.token()).unwrap();
            self.loopback.handle_event(subject, event, self.now, &mut self.allows);
        }
        self.loopback.advance(self.now, &mut self.scarcity, &mut self.allows);
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        for _ in 0..250 {
            self.turn();
            if done() {
                return;
            }
        }
        panic!("never: {what}");
    }
}

fn outward(protocol: PortProtocol, port: u16, target: u16) -> PublishRule {
    PublishRule {
        protocol,
        host_address: "127.0.0.1".parse().unwrap(),
        host_port: port,
        interface: None,
        container_address: None,
        container_port: target,
    }
}

/// Runs `body` with the rules of the container's loopback and these limits.
fn with_driver(rules: &[PublishRule], limits: SpliceLimits, body: impl FnOnce(&mut Driver)) {
    let (inside, line) = InnerSockets::pair().unwrap();
    let tables = Tables::open().unwrap();
    let confined = Confined::waived(Sandboxed::waived(Waiver::OfTest), Waiver::OfTest);
    let server = confined
        .spawn(move |confined| crate::sys::socket::inner::serve(line.as_fd(), &[], &tables, confined))
        .unwrap();
    let poll = Poll::new().unwrap();
    let mut config = config(false);
    config.limits.splice = limits;
    let forwarding = PortForwarding {
        outward: Forwarding { required: rules.to_vec(), ..Forwarding::default() },
        local_clients: LocalClients::SplicedToLoopback,
        ..PortForwarding::default()
    };
    let container_tables = inside.tables().unwrap();
    let host_tables = PortTables::own().unwrap();
    let paths = LoopbackPaths { inside, host_tables, container_tables, ephemeral: 32_768..=60_999 };
    let registry = poll.registry().try_clone().unwrap();
    let loopback = Loopback::new(registry, &config, paths, &forwarding).unwrap();
    let mut driver = Driver {
        poll,
        loopback,
        scarcity: Scarcity::default(),
        now: Instant::ZERO,
        allows: |what| Judged::Granted(*what),
    };
    body(&mut driver);
    drop(driver);
    server.join().unwrap().unwrap();
}

fn is_answered(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    stream.read(&mut [0; 8]).is_ok_and(|len| len > 0)
}

#[test]
fn a_connection_too_many_is_reset_and_the_others_go_on() {
    in_private_network(
        "worker::loopback::tests::a_connection_too_many_is_reset_and_the_others_go_on",
        || {
            let server = TcpListener::bind("127.0.0.1:7001").unwrap();
            std::thread::spawn(move || {
                for stream in server.incoming() {
                    let mut stream = stream.unwrap();
                    std::thread::spawn(move || {
                        let mut bytes = [0; 8];
                        while let Ok(len @ 1..) = stream.read(&mut bytes) {
                            stream.write_all(&bytes[..len]).unwrap();
                        }
                    });
                }
            });
            let limits = SpliceLimits { connections: 2, ..SpliceLimits::default() };
            with_driver(&[outward(PortProtocol::Tcp, 7000, 7001)], limits, |driver| {
                let mut clients: Vec<_> =
                    (0..2).map(|_| TcpStream::connect("127.0.0.1:7000").unwrap()).collect();
                for client in &mut clients {
                    client.write_all(b"one").unwrap();
                    driver.until("the first two are served", || is_answered(client));
                }
                let mut third = TcpStream::connect("127.0.0.1:7000").unwrap();
                third.set_nonblocking(true).unwrap();
                driver.until("the third is reset", || {
                    third
                        .read(&mut [0; 1])
                        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
                });
                clients[0].write_all(b"two").unwrap();
                let first = &mut clients[0];
                driver.until("the first goes on", || is_answered(first));
                drop(clients.remove(0));
                let mut waiting = Vec::new();
                driver.until("there is room again", || {
                    let mut next = TcpStream::connect("127.0.0.1:7000").unwrap();
                    waiting.push(next.write_all(b"three").map(|()| next));
                    waiting.iter_mut().flatten().any(is_answered)
                });
            });
        },
    );
}

#[test]
fn the_exchange_that_is_silent_longest_gives_way_and_silence_ends_the_rest() {
    in_private_network(
        "worker::loopback::tests::the_exchange_that_is_silent_longest_gives_way_and_silence_ends_the_rest",
        || {
            let server = UdpSocket::bind("127.0.0.1:7001").unwrap();
            server.set_nonblocking(true).unwrap();
            let limits = SpliceLimits { exchanges: 2, ..SpliceLimits::default() };
            with_driver(&[outward(PortProtocol::Udp, 7000, 7001)], limits, |driver| {
                let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
                let mut seen = Vec::new();
                let mut ask = |driver: &mut Driver, client: &UdpSocket| {
                    client.set_nonblocking(true).unwrap();
                    client.send_to(b"hello", "127.0.0.1:7000").unwrap();
                    driver.until("the server is asked", || match server.recv_from(&mut [0; 8]) {
                        Ok((_, from)) => {
                            server.send_to(b"there", from).unwrap();
                            seen.push(from);
                            true
                        }
                        Err(_) => false,
                    });
                    driver.until("the client is answered", || client.recv(&mut [0; 8]).is_ok());
                    driver.now += Duration::from_secs(1);
                    *seen.last().unwrap()
                };
                let first = ask(driver, &clients[0]);
                let second = ask(driver, &clients[1]);
                ask(driver, &clients[2]);
                assert_eq!(driver.loopback.datagrams.count(), 2);
                assert_eq!(ask(driver, &clients[1]), second, "it was heard of more lately and stays");
                assert_ne!(ask(driver, &clients[0]), first, "it gave way and begins anew");
                assert!(driver.loopback.poll_timeout().is_some());
                driver.now += Duration::from_secs(3_600);
                driver.turn();
                assert_eq!(driver.loopback.datagrams.count(), 0);
                assert_eq!(driver.loopback.poll_timeout(), None);
            });
        },
    );
}

#[test]
fn what_the_policy_does_not_let_through_is_reset_and_what_it_does_no_more_ends() {
    in_private_network(
        "worker::loopback::tests::what_the_policy_does_not_let_through_is_reset_and_what_it_does_no_more_ends",
        || {
            let server = TcpListener::bind("127.0.0.1:7001").unwrap();
            std::thread::spawn(move || {
                for stream in server.incoming() {
                    let mut stream = stream.unwrap();
                    let mut bytes = [0; 8];
                    while let Ok(len @ 1..) = stream.read(&mut bytes) {
                        stream.write_all(&bytes[..len]).unwrap();
                    }
                }
            });
            let asked = UdpSocket::bind("127.0.0.1:7001").unwrap();
            asked.set_nonblocking(true).unwrap();
            let rules = [outward(PortProtocol::Tcp, 7000, 7001), outward(PortProtocol::Udp, 7000, 7001)];
            with_driver(&rules, SpliceLimits::default(), |driver| {
                driver.allows = |what| {
                    assert_eq!((what.direction, what.port), (Direction::Out, 7001));
                    if what.protocol == FlowProtocol::Tcp { Judged::Granted(*what) } else { Judged::Refused }
                };
                let mut client = TcpStream::connect("127.0.0.1:7000").unwrap();
                client.write_all(b"one").unwrap();
                driver.until("it is let through", || is_answered(&mut client));
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                sender.send_to(b"x", "127.0.0.1:7000").unwrap();
                driver.allows = |_| Judged::Refused;
                let mut late = TcpStream::connect("127.0.0.1:7000").unwrap();
                late.set_nonblocking(true).unwrap();
                let is_reset = |stream: &mut TcpStream| match stream.read(&mut [0; 8]) {
                    Ok(len) => len == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                };
                driver.until("it is reset", || is_reset(&mut late));
                assert!(asked.recv(&mut [0; 8]).is_err(), "no datagram passes");
                assert_eq!(driver.loopback.rejudge(|_| true), 0);
                assert_eq!(driver.loopback.rejudge(|_| false), 1);
                driver.until("it has ended", || is_reset(&mut client));
            });
        },
    );
}

#[test]
fn what_the_hook_is_asked_about_waits_and_then_goes_on_with_all_that_was_said() {
    in_private_network(
        "worker::loopback::tests::what_the_hook_is_asked_about_waits_and_then_goes_on_with_all_that_was_said",
        || {
            let server = TcpListener::bind("127.0.0.1:7001").unwrap();
            server.set_nonblocking(true).unwrap();
            let asked = UdpSocket::bind("127.0.0.1:7001").unwrap();
            asked.set_nonblocking(true).unwrap();
            let rules = [outward(PortProtocol::Tcp, 7000, 7001), outward(PortProtocol::Udp, 7000, 7001)];
            with_driver(&rules, SpliceLimits::default(), |driver| {
                driver.allows = |what| match what.protocol {
                    FlowProtocol::Tcp => Judged::Asked(QuestionId(1), *what),
                    FlowProtocol::Udp | FlowProtocol::Echo => Judged::Asked(QuestionId(2), *what),
                };
                let granted =
                    |protocol| Judged::Granted(Spliced::outward(protocol, "127.0.0.1:7001".parse().unwrap()));
                let settle = |driver: &mut Driver, question, judged| {
                    let Driver { loopback, scarcity, now, .. } = driver;
                    loopback.settle(QuestionId(question), judged, *now, scarcity);
                };
                let mut client = TcpStream::connect("127.0.0.1:7000").unwrap();
                client.write_all(b"early").unwrap();
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                for n in 0..HOOK_DATAGRAMS + 2 {
                    sender.send_to(&[u8::try_from(n).unwrap()], "127.0.0.1:7000").unwrap();
                }
                (0..20).for_each(|_| driver.turn());
                assert!(
                    server.accept().is_err() && asked.recv(&mut [0; 8]).is_err(),
                    "nobody has heard of it"
                );
                settle(driver, 1, granted(FlowProtocol::Tcp));
                settle(driver, 2, granted(FlowProtocol::Udp));
                settle(driver, 3, granted(FlowProtocol::Udp));
                let mut accepted = None;
                driver.until("it goes on", || {
                    accepted = accepted.take().or_else(|| server.accept().ok());
                    accepted.as_ref().is_some_and(|(stream, _)| {
                        stream.set_nonblocking(true).unwrap();
                        stream.peek(&mut [0; 8]).is_ok_and(|len| len == 5)
                    })
                });
                let mut heard = 0;
                while let Ok(1) = asked.recv(&mut [0; 1]) {
                    heard += 1;
                }
                assert_eq!(heard, HOOK_DATAGRAMS, "what was held, and no more");
                let mut second = TcpStream::connect("127.0.0.1:7000").unwrap();
                second.set_nonblocking(true).unwrap();
                (0..20).for_each(|_| driver.turn());
                settle(driver, 1, Judged::Refused);
                driver.until("it is reset", || match second.read(&mut [0; 8]) {
                    Ok(len) => len == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                });
            });
        },
    );
}
