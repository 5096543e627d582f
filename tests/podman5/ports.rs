//! Published ports: either family and transport, over the link and over loopback, of every form that podman has.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::case;
use crate::ground::{HOST4, HOST6, WORLD4, WORLD6};
use crate::image::{GREET, IMAGE};
use crate::session::Session;
use crate::witness::assert_subject_listens;

const LOOPBACK4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Greets at TCP and UDP `ports`, over both families.
fn serve(session: &Session, network: &str, options: &[&str], ports: &[u16]) {
    let mut script = String::from("trap 'exit 0' TERM\n");
    for port in ports {
        for (listen, exchange) in [("TCP4-LISTEN", "UDP4-RECVFROM"), ("TCP6-LISTEN", "UDP6-RECVFROM")] {
            let only = if listen.contains('6') { ",ipv6only=1" } else { "" };
            script.push_str(&format!("socat {listen}:{port},fork,reuseaddr{only} EXEC:{GREET} &\n"));
            script.push_str(&format!("socat {exchange}:{port},fork{only} EXEC:{GREET} &\n"));
        }
    }
    script.push_str("wait");
    let arguments = ["run", "--detach", "--name", "server", "--network", network];
    let outcome = session.podman(&[&arguments[..], options, &[IMAGE, "sh", "-c", &script]].concat());
    assert_eq!(outcome.expect_success().stderr, "", "no warnings");
}

/// Asks until there is an answer; who was asking, and whom the server saw.
#[track_caller]
fn ask<T>(what: &str, mut once: impl FnMut() -> std::io::Result<Option<T>>) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let attempt = once();
        if let Ok(Some(answer)) = attempt {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: {:?}", attempt.err());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn seen(line: &str) -> Option<SocketAddr> {
    line.trim_end().strip_prefix("from ")?.parse().ok()
}

#[track_caller]
fn stream(session: &Session, from_world: bool, host: IpAddr, port: u16) -> (SocketAddr, SocketAddr) {
    ask(&format!("TCP {host} {port}"), || {
        let stream = if from_world {
            session.ground.dial_from_world(host, port)?
        } else {
            TcpStream::connect((host, port))?
        };
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(seen(&line).map(|seen| (stream.local_addr().expect("connected"), seen)))
    })
}

#[track_caller]
fn datagram(session: &Session, from_world: bool, host: IpAddr, port: u16) -> (SocketAddr, SocketAddr) {
    ask(&format!("UDP {host} {port}"), || {
        let any: IpAddr = match (from_world, host) {
            (true, IpAddr::V4(_)) => WORLD4.into(),
            (true, IpAddr::V6(_)) => WORLD6.into(),
            (false, host) => host,
        };
        let bind = || UdpSocket::bind((any, 0));
        let socket = if from_world { session.ground.in_world(bind)? } else { bind()? };
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send_to(b"hello\n", (host, port))?;
        let mut answer = [0; 100];
        let (len, _) = socket.recv_from(&mut answer)?;
        let line = String::from_utf8_lossy(&answer[..len]).into_owned();
        Ok(seen(&line).map(|seen| (socket.local_addr().expect("bound"), seen)))
    })
}

fn end(session: &Session) {
    session.podman(&["rm", "--force", "--time=0", "server"]).expect_success();
    session.assert_relays_gone();
}

#[test]
fn over_the_link_the_true_client_is_seen_on_both_families_and_transports() {
    case(|session| {
        serve(session, "pasta", &["--publish=18080:80", "--publish=15300:80/udp"], &[80]);
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            let (client, seen) = stream(session, true, host, 18080);
            assert_eq!(seen, client);
            let (client, seen) = datagram(session, true, host, 15300);
            assert_eq!(seen, client);
        }
        assert_subject_listens(session, 18080);
        assert_subject_listens(session, 15300);
        end(session);
        ask("the port is closed", || Ok(session.ground.dial_from_world(HOST4, 18080).is_err().then_some(())));
    });
}

#[test]
fn over_loopback_a_port_is_reached_on_both_families_and_transports() {
    case(|session| {
        serve(session, "pasta", &["--publish=18080:80", "--publish=15300:80/udp"], &[80]);
        for host in [LOOPBACK4, LOOPBACK6] {
            stream(session, false, host, 18080);
            datagram(session, false, host, 15300);
        }
        end(session);
    });
}

#[test]
fn the_host_reaches_a_port_by_its_own_address() {
    case(|session| {
        serve(session, "pasta", &["--publish=18080:80", "--publish=15300:80/udp"], &[80]);
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            let (client, seen) = stream(session, false, host, 18080);
            assert_ne!(seen.ip(), client.ip(), "that is the container's own");
        }
        end(session);
    });
}

#[test]
fn ranges_are_published_as_they_are_and_translated() {
    case(|session| {
        let publish = ["--publish=18080-18082:80-82", "--publish=18090-18091:18090-18091/udp"];
        serve(session, "pasta", &publish, &[80, 81, 82, 18090, 18091]);
        for port in [18080, 18081, 18082] {
            let (client, seen) = stream(session, true, HOST4.into(), port);
            assert_eq!(seen, client);
            stream(session, false, LOOPBACK4, port);
        }
        for port in [18090, 18091] {
            let (client, seen) = datagram(session, true, HOST6.into(), port);
            assert_eq!(seen, client);
            datagram(session, false, LOOPBACK6, port);
        }
        assert!(session.ground.dial_from_world(HOST4, 18083).is_err());
        end(session);
    });
}

#[test]
fn a_port_is_bound_to_the_address_that_is_named() {
    case(|session| {
        let publish = [
            "--publish=203.0.113.1:18080:80",
            "--publish=127.0.0.1:18081:80",
            "--publish=[::1]:18082:80/udp",
        ];
        serve(session, "pasta", &publish, &[80]);
        stream(session, true, HOST4.into(), 18080);
        stream(session, false, LOOPBACK4, 18081);
        datagram(session, false, LOOPBACK6, 18082);
        assert!(TcpStream::connect((LOOPBACK4, 18080)).is_err());
        assert!(session.ground.dial_from_world(HOST4, 18081).is_err());
        assert!(session.ground.dial_from_world(HOST6, 18080).is_err());
        end(session);
    });
}

#[test]
fn a_port_is_bound_to_the_interface_that_is_named() {
    case(|session| {
        serve(session, "pasta:-t,%host0/18080:80", &[], &[80]);
        let (client, seen) = stream(session, true, HOST4.into(), 18080);
        assert_eq!(seen, client);
        assert!(TcpStream::connect((LOOPBACK4, 18080)).is_err());
        end(session);
    });
}

/// The original starts all the same when the other family is free, and fails this case.
#[test]
fn a_taken_port_is_told_and_nothing_is_left() {
    case(|session| {
        let _taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 18080)).unwrap();
        let run = ["run", "--rm", "--network=pasta", "--publish=18080:80", IMAGE, "true"];
        let outcome = session.podman(&run);
        assert!(!outcome.status.success(), "{outcome}");
        outcome.expect_stderr("18080");
        session.assert_relays_gone();
    });
}
