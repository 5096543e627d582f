//! Tests of `socket`, sentences of its behaviour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::Received;
use super::*;

const PRIVATE_NETWORK: &str = "NETFERRY_TEST_PRIVATE_NETWORK";

/// Runs `body` in a network namespace of its own, where only loopback exists: the test starts itself again
/// there, by its full name.
pub(crate) fn in_private_network(name: &str, body: fn()) {
    if std::env::var_os(PRIVATE_NETWORK).is_some() {
        body();
        return;
    }
    let test = std::env::current_exe().unwrap();
    let script = "ip link set lo up && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-Urn", "--", "sh", "-ec", script, "sh"])
        .arg(test)
        .args(["--exact", name, "--nocapture"])
        .env(PRIVATE_NETWORK, "1")
        .output()
        .expect("these tests need unshare (util-linux) and ip (iproute2)");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

fn wait(fd: &impl AsFd, flags: PollFlags) {
    let mut fds = [PollFd::new(fd.as_fd(), flags)];
    assert_eq!(poll(&mut fds, PollTimeout::from(2_000u16)), Ok(1), "nothing happened");
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn plain() -> Outgoing {
    Outgoing {
        to: None,
        from: None,
        segment_bytes: None,
        hop_limit: 33,
        traffic_class: 0x28,
        dont_fragment: true,
    }
}

fn receive(socket: &DatagramSocket, buffer: &mut [u8]) -> ArrivedDatagram {
    wait(socket, PollFlags::POLLIN);
    match socket.receive(buffer) {
        Received::Datagram(datagram) => datagram,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stream_connects_carries_bytes_and_ends() {
    in_private_network("sys::socket::tests::stream_connects_carries_bytes_and_ends", || {
        let listener = StreamListener::bind(loopback(0)).unwrap();
        assert!(matches!(listener.accept(), Accepted::Blocked));
        let address = listener.local_address().unwrap();
        let (ours, _) = StreamSocket::connect(address, None).unwrap();
        wait(&ours, PollFlags::POLLOUT);
        assert_eq!(ours.take_error(), Ok(()));
        let Accepted::Connection(theirs, client, local) = listener.accept() else { panic!("no connection") };
        assert_eq!((client, local), (ours.local_address().unwrap(), address));
        let mut buffer = [0; 16];
        assert_eq!(theirs.receive(&mut buffer), Transfer::Blocked);
        assert_eq!(ours.send(b"over"), Transfer::Bytes(4));
        ours.shutdown_write();
        wait(&theirs, PollFlags::POLLIN);
        assert_eq!(theirs.receive(&mut buffer), Transfer::Bytes(4));
        assert_eq!(theirs.receive(&mut buffer), Transfer::Bytes(0));
        theirs.reset();
        wait(&ours, PollFlags::POLLIN);
        assert_eq!(ours.receive(&mut buffer), Transfer::Failed(SocketError::Reset));
    });
}

#[test]
fn connect_to_a_closed_port_is_refused() {
    in_private_network("sys::socket::tests::connect_to_a_closed_port_is_refused", || {
        let outcome = StreamSocket::connect(loopback(9), None).and_then(|(socket, _)| {
            wait(&socket, PollFlags::POLLOUT);
            socket.take_error()
        });
        assert_eq!(outcome, Err(SocketError::Refused));
        let elsewhere = StreamSocket::connect("203.0.113.1:9".parse().unwrap(), None);
        assert_eq!(elsewhere.err(), Some(SocketError::NetworkUnreachable));
    });
}

#[test]
fn listen_errors_say_what_to_do() {
    in_private_network("sys::socket::tests::listen_errors_say_what_to_do", || {
        let first = StreamListener::bind(loopback(8080)).unwrap();
        let text = StreamListener::bind(loopback(8080)).unwrap_err().to_string();
        assert!(text.starts_with("cannot publish 127.0.0.1:8080/tcp: the port is in use"), "{text}");
        drop(first);
        let elsewhere = DatagramSocket::bind("203.0.113.1:5000".parse().unwrap()).unwrap_err().to_string();
        assert!(elsewhere.contains("the host has no address 203.0.113.1"), "{elsewhere}");
        let low =
            ListenError::new(loopback(80), "tcp", io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(low.contains("net.ipv4.ip_unprivileged_port_start"), "{low}");
    });
}

#[test]
fn datagrams_carry_hop_limit_class_and_addresses() {
    in_private_network("sys::socket::tests::datagrams_carry_hop_limit_class_and_addresses", || {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let local: IpAddr =
                if any.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            let server = DatagramSocket::bind(SocketAddr::new(any, 5353)).unwrap();
            let mut client = DatagramSocket::open(SocketAddr::new(local, 5353), None, 40_000).unwrap();
            let mut second = DatagramSocket::open(SocketAddr::new(local, 5353), None, 40_000).unwrap();
            assert_eq!(client.local_address().unwrap().port(), 40_000);
            assert_ne!(second.local_address().unwrap().port(), 40_000);
            assert_eq!(client.send(b"ping", &plain()), Transfer::Bytes(4));
            let mut buffer = [0; 64];
            let arrived = receive(&server, &mut buffer);
            assert_eq!(
                arrived,
                ArrivedDatagram {
                    len: 4,
                    segment_bytes: None,
                    source: SocketAddr::new(local, 40_000),
                    local: Some(local),
                    traffic_class: 0x28,
                    hop_limit: 33,
                }
            );
            let mut server = server;
            let reply = Outgoing { to: Some(arrived.source), from: arrived.local, ..plain() };
            assert_eq!(server.send(b"", &reply), Transfer::Bytes(0));
            assert_eq!(receive(&client, &mut buffer).len, 0);
            assert_eq!(second.send(b"x", &plain()), Transfer::Bytes(1));
        }
    });
}

#[test]
fn a_run_of_datagrams_arrives_as_each_of_them() {
    in_private_network("sys::socket::tests::a_run_of_datagrams_arrives_as_each_of_them", || {
        let server = DatagramSocket::bind(loopback(5000)).unwrap();
        let mut client = DatagramSocket::open(loopback(5000), None, 0).unwrap();
        let sent: Vec<u8> = (0..100 * 100 + 7).map(|i| i as u8).collect();
        let how = Outgoing { segment_bytes: NonZeroU16::new(100), ..plain() };
        for can_segment in [true, false] {
            client.disable_segmentation_unless(can_segment);
            assert_eq!(client.send(&sent, &how), Transfer::Bytes(sent.len()));
            let mut received = Vec::new();
            let mut datagrams = 0;
            while received.len() < sent.len() {
                let mut buffer = vec![0; 65_536];
                let arrived = receive(&server, &mut buffer);
                let segment = arrived.segment_bytes.map_or(arrived.len, |bytes| bytes.get().into());
                datagrams += arrived.len.div_ceil(segment);
                received.extend_from_slice(&buffer[..arrived.len]);
            }
            assert!(received == sent);
            assert_eq!(datagrams, 101);
        }
    });
}

#[test]
fn datagrams_that_wait_are_read_as_runs_of_equal_ones() {
    in_private_network("sys::socket::tests::datagrams_that_wait_are_read_as_runs_of_equal_ones", || {
        let mut server = DatagramSocket::bind(loopback(0)).unwrap();
        let target = server.local_address().unwrap();
        let mut clients = [0, 1].map(|_| DatagramSocket::open(target, None, 0).unwrap());
        let sources = clients.each_ref().map(|client| client.local_address().unwrap());
        // Who sends how many bytes; the longest is larger than the room that is left behind a run.
        let sent = [(0, 100), (0, 100), (0, 40), (0, 100), (1, 100), (1, 4_000), (1, 0), (0, 7)];
        for (number, (client, len)) in (0u8..).zip(sent) {
            assert_eq!(clients[client].send(&vec![number; len], &plain()), Transfer::Bytes(len));
        }
        let (mut buffer, mut spare, mut arrived) = (vec![0; 5_000], vec![0; 65_535], Vec::new());
        loop {
            match server.receive_run(&mut buffer, &mut spare) {
                Received::Datagram(run) => {
                    let each = run.segment_bytes.map_or(run.len.max(1), |bytes| bytes.get().into());
                    let from = sources.iter().position(|source| *source == run.source).unwrap();
                    let datagrams = buffer[..run.len].chunks(each).map(<[u8]>::to_vec).collect::<Vec<_>>();
                    arrived.push((from, if run.len == 0 { vec![vec![]] } else { datagrams }));
                }
                Received::Blocked => break,
                Received::Failed(error) => panic!("{error:?}"),
            }
        }
        let whole = |number: u8, len: usize| vec![number; len];
        let expected = [
            (0, vec![whole(0, 100), whole(1, 100), whole(2, 40)]),
            (0, vec![whole(3, 100)]),
            (1, vec![whole(4, 100)]),
            (1, vec![whole(5, 4_000)]),
            (1, vec![whole(6, 0)]),
            (0, vec![whole(7, 7)]),
        ];
        assert_eq!(arrived, expected);
        // What was found empty is not asked again before an event, and is after one.
        assert_eq!(clients[0].send(b"one", &plain()), Transfer::Bytes(3));
        assert!(matches!(server.receive_run(&mut buffer, &mut spare), Received::Datagram(_)));
        assert_eq!(clients[0].send(b"two", &plain()), Transfer::Bytes(3));
        assert_eq!(server.receive_run(&mut buffer, &mut spare), Received::Blocked);
        server.note_readable();
        assert!(matches!(server.receive_run(&mut buffer, &mut spare), Received::Datagram(_)));
    });
}

#[test]
fn refused_datagram_is_reported_with_its_payload_and_costs_no_other() {
    in_private_network(
        "sys::socket::tests::refused_datagram_is_reported_with_its_payload_and_costs_no_other",
        || {
            let target = loopback(5000);
            let mut client = DatagramSocket::open(target, None, 0).unwrap();
            assert_eq!(client.send(b"first", &plain()), Transfer::Bytes(5));
            wait(&client, PollFlags::empty());
            let server = DatagramSocket::bind(target).unwrap();
            assert_eq!(client.send(b"second", &plain()), Transfer::Bytes(6));
            assert_eq!(receive(&server, &mut [0; 64]).len, 6);
            let report = client.take_report().unwrap();
            assert_eq!(report.error, SocketError::Refused);
            assert_eq!(report.notice.unwrap().offender, Some(Ipv4Addr::LOCALHOST.into()));
            assert_eq!(report.destination, Some(target));
            assert_eq!(report.payload, b"first");
            assert_eq!(client.take_report(), None);
        },
    );
}

#[test]
fn datagram_larger_than_the_path_names_the_mtu() {
    in_private_network("sys::socket::tests::datagram_larger_than_the_path_names_the_mtu", || {
        assert!(Command::new("ip").args("link set lo mtu 1400".split(' ')).status().unwrap().success());
        let server = DatagramSocket::bind(loopback(5000)).unwrap();
        for target in [loopback(5000), loopback(0)] {
            let target = if target.port() == 0 { "0.0.0.0:0".parse().unwrap() } else { target };
            let mut client = DatagramSocket::open(target, None, 0).unwrap();
            let how = Outgoing { to: Some(loopback(5000)), ..plain() };
            let too_long = Transfer::Failed(SocketError::MessageTooLong { mtu: 1400 });
            assert_eq!(client.send(&[0; 2000], &how), too_long);
            assert_eq!(client.take_report(), None);
            let fragmented = Outgoing { dont_fragment: false, ..how };
            assert_eq!(client.send(&[0; 2000], &fragmented), Transfer::Bytes(2000));
            assert_eq!(receive(&server, &mut [0; 4096]).len, 2000);
        }
    });
}

#[test]
fn echo_keeps_its_identifier_and_says_when_it_is_forbidden() {
    in_private_network("sys::socket::tests::echo_keeps_its_identifier_and_says_when_it_is_forbidden", || {
        // A new network namespace starts with ping sockets forbidden to all.
        let refused = DatagramSocket::open_echo(Ipv6Addr::LOCALHOST.into(), None, 7, None);
        assert_eq!(refused.err(), Some(SocketError::Prohibited));
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let mut socket = DatagramSocket::open_echo(Ipv4Addr::LOCALHOST.into(), None, 0x1234, None).unwrap();
        let request = [8, 0, 0, 0, 0x12, 0x34, 0, 1, b'h', b'i'];
        assert_eq!(socket.send(&request, &plain()), Transfer::Bytes(10));
        let mut buffer = [0; 64];
        let arrived = receive(&socket, &mut buffer);
        assert_eq!((arrived.len, arrived.source), (10, loopback(0x1234)));
        assert_eq!((buffer[0], &buffer[8..10]), (0, b"hi".as_slice()));
    });
}

#[test]
fn a_waiting_accept_without_descriptors_is_exhaustion() {
    in_private_network("sys::socket::tests::a_waiting_accept_without_descriptors_is_exhaustion", || {
        let listener = StreamListener::bind(loopback(0)).unwrap();
        let (ours, _) = StreamSocket::connect(listener.local_address().unwrap(), None).unwrap();
        wait(&listener, PollFlags::POLLIN);
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        assert!(matches!(listener.accept(), Accepted::Exhausted));
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert!(matches!(listener.accept(), Accepted::Connection(..)));
        drop(ours);
    });
}

#[test]
fn sockets_send_from_the_address_asked_for() {
    in_private_network("sys::socket::tests::sockets_send_from_the_address_asked_for", || {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        // All of 127/8 is the loopback's; the kernel would choose 127.0.0.1.
        let source = IpAddr::from([127, 0, 0, 9]);
        let listener = StreamListener::bind(loopback(0)).unwrap();
        let (ours, _) = StreamSocket::connect(listener.local_address().unwrap(), Some(source)).unwrap();
        wait(&listener, PollFlags::POLLIN);
        let Accepted::Connection(_, client, _) = listener.accept() else { panic!("no connection") };
        assert_eq!((client.ip(), ours.local_address().unwrap()), (source, client));

        let flow = DatagramSocket::open(loopback(5000), Some(source), 40_000).unwrap();
        assert_eq!(flow.local_address().unwrap(), SocketAddr::new(source, 40_000));
        let second = DatagramSocket::open(loopback(5000), Some(source), 40_000).unwrap();
        assert_eq!(second.local_address().unwrap().ip(), source, "with another port");
        let unconnected = DatagramSocket::open("0.0.0.0:0".parse().unwrap(), Some(source), 0).unwrap();
        assert_eq!(unconnected.local_address().unwrap().ip(), source);
        let echo = DatagramSocket::open_echo(loopback(0).ip(), Some(source), 7, None).unwrap();
        assert_eq!(echo.local_address().unwrap().ip(), source);

        let foreign = IpAddr::from([203, 0, 113, 9]);
        assert!(StreamSocket::connect(loopback(9), Some(foreign)).is_err());
        assert!(DatagramSocket::open(loopback(9), Some(foreign), 0).is_err());
    });
}

#[test]
fn whatever_the_host_has_run_out_of_is_told_as_the_same() {
    let scarce = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC, libc::EADDRNOTAVAIL];
    for errno in scarce {
        assert_eq!(SocketError::from_errno(errno), SocketError::Exhausted, "errno {errno}");
    }
    assert_eq!(SocketError::from_errno(libc::ECONNREFUSED), SocketError::Refused);
}

#[test]
fn a_port_that_refuses_stays_ours_and_listens_again_beside_its_connections() {
    in_private_network(
        "sys::socket::tests::a_port_that_refuses_stays_ours_and_listens_again_beside_its_connections",
        || {
            // A port that the kernel had chosen would go with the listening.
            for any in ["0.0.0.0:8080", "[::]:8080"] {
                let mut listener = StreamListener::bind(any.parse().unwrap()).unwrap();
                let address = listener.local_address().unwrap();
                let local = match address {
                    SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
                    SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
                };
                let client = std::net::TcpStream::connect(local).unwrap();
                wait(&listener, PollFlags::POLLIN);
                let Accepted::Connection(server, ..) = listener.accept() else { panic!("nobody came") };
                for round in 0..3 {
                    listener.refuse();
                    let error = std::net::TcpStream::connect(local).unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                    // Its poll says that it is hung up; there is nobody to accept.
                    assert!(matches!(listener.accept(), Accepted::Blocked));
                    for other in [address, local] {
                        let stolen = StreamListener::bind(other);
                        assert!(
                            matches!(stolen, Err(ListenError::InUse { .. })),
                            "{round}: {other}: {stolen:?}"
                        );
                    }
                    listener.listen().unwrap();
                    let other = std::net::TcpStream::connect(local).unwrap();
                    wait(&listener, PollFlags::POLLIN);
                    assert!(matches!(listener.accept(), Accepted::Connection(..)));
                    drop(other);
                }
                assert_eq!(server.send(b"still there"), Transfer::Bytes(11));
                drop((client, server));
            }
        },
    );
}
