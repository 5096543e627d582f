//! Tests of `sockets`, sentences of its behaviour.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use mio::{Events, Poll};

use super::*;
use crate::stack::boundary::{DatagramRead, DatagramSend, DatagramWrite, HostIo, StreamRead, StreamWrite};
use crate::sys::socket::tests::in_private_network;

const FLOW: FlowId = FlowId { slot: 3, generation: 1 };

struct Ground {
    poll: Poll,
    sockets: Sockets,
}

impl Ground {
    fn new(listeners: Vec<Listener>) -> Ground {
        Ground::sending_from(listeners, OutboundAddresses::default())
    }

    fn sending_from(listeners: Vec<Listener>, outbound: OutboundAddresses) -> Ground {
        let poll = Poll::new().unwrap();
        let sockets = Sockets::new(poll.registry().try_clone().unwrap(), listeners, outbound).unwrap();
        Ground { poll, sockets }
    }

    /// What the events until now mean for `FLOW`.
    fn notice(&mut self) -> Vec<Noticed> {
        let mut events = Events::with_capacity(16);
        self.poll.poll(&mut events, Some(Duration::from_millis(500))).unwrap();
        let mut noticed = Vec::new();
        for event in &events {
            if let Some(Subject::Flow(mark)) = Subject::from_token(event.token())
                && let Some(flow) = self.sockets.flow_of(mark)
            {
                assert_eq!(flow, FLOW);
                noticed.push(self.sockets.note(flow, event));
            }
        }
        noticed
    }

    fn connect(&mut self, target: SocketAddr) {
        let done = self.sockets.execute(Action::ConnectStream { flow: FLOW, target, hop_limit: None });
        if done.is_none() {
            assert_eq!(self.notice(), [Noticed::Connect(Ok(()))]);
        }
    }

    fn receive(&mut self, room: usize) -> (StreamRead, Vec<u8>) {
        let mut buffer = vec![0; room];
        let read = self.sockets.receive_stream(FLOW, &mut buffer);
        buffer.truncate(if let StreamRead::Bytes(len) = read { len } else { 0 });
        (read, buffer)
    }
}

fn connected() -> (Ground, TcpStream) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut ground = Ground::new(Vec::new());
    ground.connect(server.local_addr().unwrap());
    (ground, server.accept().unwrap().0)
}

#[test]
fn refused_connect_is_told_and_leaves_no_socket() {
    in_private_network("worker::sockets::tests::refused_connect_is_told_and_leaves_no_socket", || {
        let mut ground = Ground::new(Vec::new());
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9);
        let told = match ground.sockets.execute(Action::ConnectStream { flow: FLOW, target, hop_limit: None })
        {
            Some(HostEvent::ConnectFailed { error, .. }) => error,
            Some(other) => panic!("{other:?}"),
            None => match ground.notice().as_slice() {
                [Noticed::Connect(Err((error, _)))] => *error,
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(told, HostError::Refused);
        assert!(ground.sockets.take_closed());
        assert!(ground.sockets.socket(FLOW).is_none());
    });
}

#[test]
fn short_read_spares_the_next_call_until_there_is_an_event() {
    in_private_network(
        "worker::sockets::tests::short_read_spares_the_next_call_until_there_is_an_event",
        || {
            let (mut ground, mut peer) = connected();
            peer.write_all(b"one").unwrap();
            assert_eq!(ground.notice(), [Noticed::Stream { readable: true, writable: false }]);
            assert_eq!(ground.receive(64), (StreamRead::Bytes(3), b"one".to_vec()));
            peer.write_all(b"two").unwrap();
            // The bytes are there, but the mark of the short read stands until their event.
            assert_eq!(ground.receive(64).0, StreamRead::Blocked);
            assert_eq!(ground.notice(), [Noticed::Stream { readable: true, writable: false }]);
            assert_eq!(ground.receive(64), (StreamRead::Bytes(3), b"two".to_vec()));
        },
    );
}

#[test]
fn fin_behind_the_last_bytes_is_not_missed() {
    in_private_network("worker::sockets::tests::fin_behind_the_last_bytes_is_not_missed", || {
        let (mut ground, mut peer) = connected();
        peer.write_all(b"last").unwrap();
        drop(peer);
        assert_eq!(ground.notice(), [Noticed::Stream { readable: true, writable: false }]);
        assert_eq!(ground.receive(64), (StreamRead::Bytes(4), b"last".to_vec()));
        assert_eq!(ground.receive(64).0, StreamRead::End);
    });
}

#[test]
fn fin_after_a_short_read_makes_an_event() {
    in_private_network("worker::sockets::tests::fin_after_a_short_read_makes_an_event", || {
        let (mut ground, mut peer) = connected();
        peer.write_all(b"last").unwrap();
        assert_eq!(ground.notice(), [Noticed::Stream { readable: true, writable: false }]);
        drop(peer);
        assert_eq!(ground.receive(64), (StreamRead::Bytes(4), b"last".to_vec()));
        assert_eq!(ground.notice(), [Noticed::Stream { readable: true, writable: false }]);
        assert_eq!(ground.receive(64).0, StreamRead::End);
    });
}

#[test]
fn urgent_data_is_read_in_its_place() {
    in_private_network("worker::sockets::tests::urgent_data_is_read_in_its_place", || {
        let (mut ground, mut peer) = connected();
        peer.write_all(b"ab").unwrap();
        socket2::SockRef::from(&peer).send_out_of_band(b"c").unwrap();
        peer.write_all(b"de").unwrap();
        let mut received = Vec::new();
        for _ in 0..8 {
            ground.notice();
            while let (StreamRead::Bytes(_), bytes) = ground.receive(64) {
                received.extend_from_slice(&bytes);
            }
            if received.len() == 5 {
                break;
            }
        }
        assert_eq!(received, b"abcde");
    });
}

#[test]
fn full_socket_blocks_until_its_peer_reads() {
    in_private_network("worker::sockets::tests::full_socket_blocks_until_its_peer_reads", || {
        let (mut ground, mut peer) = connected();
        let bytes = vec![7; 1 << 20];
        let mut sent = 0;
        while let StreamWrite::Bytes(len) = ground.sockets.send_stream(FLOW, &bytes) {
            sent += len;
        }
        let mut room = vec![0; sent];
        peer.read_exact(&mut room).unwrap();
        let mut noticed = Vec::new();
        for _ in 0..10 {
            noticed.extend(ground.notice());
            if noticed.contains(&Noticed::Stream { readable: false, writable: true }) {
                break;
            }
        }
        assert!(noticed.contains(&Noticed::Stream { readable: false, writable: true }), "{noticed:?}");
        assert!(matches!(ground.sockets.send_stream(FLOW, b"more"), StreamWrite::Bytes(4)));
    });
}

#[test]
fn reset_is_seen_by_the_peer_and_frees_the_slot() {
    in_private_network("worker::sockets::tests::reset_is_seen_by_the_peer_and_frees_the_slot", || {
        let (mut ground, mut peer) = connected();
        ground.sockets.execute(Action::Close { flow: FLOW, how: CloseKind::Reset });
        assert_eq!(peer.read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(ground.sockets.take_closed());
        assert_eq!(ground.receive(4).0, StreamRead::Blocked);
    });
}

#[test]
fn earlier_life_of_a_slot_reaches_nothing() {
    in_private_network("worker::sockets::tests::earlier_life_of_a_slot_reaches_nothing", || {
        let (mut ground, mut peer) = connected();
        peer.write_all(b"x").unwrap();
        ground.notice();
        let earlier = FlowId { generation: 0, ..FLOW };
        assert_eq!(ground.sockets.receive_stream(earlier, &mut [0; 4]), StreamRead::Blocked);
        ground.sockets.execute(Action::Close { flow: earlier, how: CloseKind::Reset });
        assert_eq!(ground.receive(4), (StreamRead::Bytes(1), b"x".to_vec()));
    });
}

#[test]
fn refused_datagram_is_reported_once() {
    in_private_network("worker::sockets::tests::refused_datagram_is_reported_once", || {
        let mut ground = Ground::new(Vec::new());
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9);
        let opened = ground.sockets.execute(Action::OpenDatagram {
            flow: FLOW,
            target,
            preferred_port: 0,
            beside: None,
        });
        assert_eq!(opened, Some(HostEvent::Connected { flow: FLOW }));
        let how = DatagramSend {
            to: None,
            from: None,
            segment_bytes: None,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
        };
        let port = DatagramPort::Flow(FLOW);
        assert_eq!(ground.sockets.send_datagrams(port, b"lost", &how), DatagramWrite::Sent);
        ground.sockets.send_waiting();
        assert!(
            ground.notice().iter().any(|noticed| matches!(noticed, Noticed::Datagram { reports: true, .. }))
        );
        let report = ground.sockets.take_report(DatagramPort::Flow(FLOW)).unwrap();
        assert_eq!((report.error, report.payload.as_slice()), (HostError::Refused, b"lost".as_slice()));
        assert_eq!(ground.sockets.take_report(DatagramPort::Flow(FLOW)), None);
        assert_eq!(ground.sockets.receive_datagrams(port, &mut [0; 16]), DatagramRead::Blocked);
    });
}

#[test]
fn source_address_is_of_the_targets_family_and_never_for_the_loopback() {
    let (ipv4, ipv6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let ground = Ground::sending_from(
        Vec::new(),
        OutboundAddresses { ipv4: Some(ipv4), ipv6: Some(ipv6), ..Default::default() },
    );
    let source = |target: &str| ground.sockets.origin_for(target.parse().unwrap()).0;
    assert_eq!(source("203.0.113.2"), Some(ipv4.into()));
    assert_eq!(source("2001:db8:1::2"), Some(ipv6.into()));
    // Unconnected sockets, too: they are opened to the unspecified address.
    assert_eq!((source("0.0.0.0"), source("::")), (Some(ipv4.into()), Some(ipv6.into())));
    // A packet from elsewhere would not come back from there.
    assert_eq!((source("127.0.0.1"), source("127.0.0.53"), source("::1")), (None, None, None));
}
