//! Published ports, reached from the world and from the host.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::ground::{Ground, HOST4, HOST6, PYTHON, SCRATCH, sealed};
use crate::pattern::crc_of_body;
use crate::process::{Running, Stream, run, start};
use crate::servers::{read_body, write_body};

/// Logs each client and says hello; both families, port in `sys.argv[1]`.
const TCP_SERVER: &str = "\
import socket, sys, threading
def serve(family, address):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(sys.argv[1]))); s.listen(64)
    print('listening', address, flush=True)
    while True:
        c, a = s.accept(); print('client', a[0], a[1], flush=True); c.sendall(b'hello'); c.close()
threading.Thread(target=serve, args=(socket.AF_INET6, '::')).start()
serve(socket.AF_INET, '0.0.0.0')";

/// Logs each sender and echoes.
const UDP_SERVER: &str = "\
import socket, sys, threading
def serve(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(sys.argv[1])))
    print('listening', address, flush=True)
    while True:
        d, a = s.recvfrom(1 << 16); print('client', a[0], a[1], flush=True); s.sendto(d, a)
threading.Thread(target=serve, args=(socket.AF_INET6, '::')).start()
serve(socket.AF_INET, '0.0.0.0')";

fn server(ground: &Ground, specs: &[&str], script: &str, port: &str) -> Running {
    let mut arguments = vec!["run"];
    specs.iter().for_each(|spec| arguments.extend(["-p", spec]));
    arguments.extend(["--", PYTHON, "-c", script, port]);
    let mut server = start(ground.netferry(&arguments));
    server.wait_for(Stream::Out, "listening ::");
    server.wait_for(Stream::Out, "listening 0.0.0.0");
    server
}

#[track_caller]
fn greeted(stream: &mut TcpStream) {
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
}

fn logged(client: SocketAddr) -> String {
    format!("client {} {}", client.ip(), client.port())
}

/// Sends a datagram from `socket` and waits for its echo.
#[track_caller]
fn datagram_echoed(socket: &UdpSocket, to: SocketAddr, payload: &[u8]) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(to).unwrap();
    socket.send(payload).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let len = socket.recv(&mut buffer).expect("the datagram is echoed");
    assert_eq!(&buffer[..len], payload);
}

#[test]
fn a_published_tcp_port_shows_the_server_its_true_client() {
    sealed(|ground| {
        let mut server = server(ground, &["8080:80"], TCP_SERVER, "80");
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            let mut stream = ground.dial_from_world(host, 8080).unwrap();
            greeted(&mut stream);
            server.wait_for(Stream::Out, &logged(stream.local_addr().unwrap()));
        }
    });
}

#[test]
fn a_published_udp_port_shows_the_server_its_true_client() {
    sealed(|ground| {
        let mut server = server(ground, &["5300:53/udp"], UDP_SERVER, "53");
        for (host, any) in [(IpAddr::V4(HOST4), "203.0.113.2:0"), (IpAddr::V6(HOST6), "[2001:db8:1::2]:0")] {
            for size in [1, 1_400, 9_000] {
                let socket = ground.in_world(|| UdpSocket::bind(any)).unwrap();
                datagram_echoed(&socket, SocketAddr::new(host, 5300), &vec![7; size]);
                server.wait_for(Stream::Out, &logged(socket.local_addr().unwrap()));
            }
        }
    });
}

#[test]
fn a_published_port_is_reached_from_the_loopback_of_the_host() {
    sealed(|ground| {
        let mut server = server(ground, &["8080:80"], TCP_SERVER, "80");
        for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let mut stream = TcpStream::connect((host, 8080)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            greeted(&mut stream);
        }
        // A loopback address means nothing in the container; the gateway stands for the host.
        server.wait_for(Stream::Out, "client 10.0.2.2 ");
        let log = server.so_far(Stream::Out);
        assert!(!log.contains("client 127.") && !log.contains("client ::1 "), "{log}");
    });
}

#[test]
fn a_published_udp_port_is_reached_from_the_loopback_of_the_host() {
    sealed(|ground| {
        let _server = server(ground, &["5300:53/udp"], UDP_SERVER, "53");
        for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let socket = UdpSocket::bind(SocketAddr::new(host, 0)).unwrap();
            datagram_echoed(&socket, SocketAddr::new(host, 5300), b"hello");
        }
    });
}

#[test]
fn a_port_published_on_one_address_is_closed_on_the_others() {
    sealed(|ground| {
        let _server = server(ground, &["127.0.0.1:8080:80", "[2001:db8:1::1]:8081:80"], TCP_SERVER, "80");
        greeted(&mut TcpStream::connect("127.0.0.1:8080").unwrap());
        greeted(&mut ground.dial_from_world(HOST6, 8081).unwrap());
        for closed in [(IpAddr::V4(HOST4), 8080), (HOST6.into(), 8080), (HOST4.into(), 8081)] {
            let error = ground.dial_from_world(closed.0, closed.1).expect_err("nobody listens there");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{closed:?}");
        }
    });
}

#[test]
fn a_range_of_ports_is_published_port_by_port() {
    sealed(|ground| {
        let script = TCP_SERVER.replace("int(sys.argv[1])", "int(sys.argv[1]) + 1");
        let _server = server(ground, &["8080-8082:80-82"], &script, "80");
        greeted(&mut ground.dial_from_world(HOST4, 8081).unwrap());
    });
}

/// Listens on port 80 of the container whenever it is sent USR1, for both families, and closes at USR2.
const SWITCHED_SERVER: &str = "\
import select, signal, socket, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
def listen(family, any):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((any, 80)); s.listen(); return s
open_now = []; accepted = 0
print('up', flush=True)
while True:
    which = signal.sigtimedwait([signal.SIGUSR1, signal.SIGUSR2], 0 if open_now else 60)
    if which and which.si_signo == signal.SIGUSR1:
        open_now = [listen(socket.AF_INET, '0.0.0.0'), listen(socket.AF_INET6, '::')]
        print('listens', flush=True)
    elif which:
        for s in open_now: s.close()
        open_now = []; print('closed after', accepted, flush=True)
    for s in select.select(open_now, [], [], 0.01)[0] if open_now else []:
        c, _ = s.accept(); accepted += 1; c.sendall(b'hello'); c.close()";

/// How a client fares that comes to the host's port 8080.
fn fare(dialled: std::io::Result<TcpStream>) -> String {
    let mut greeting = String::new();
    match dialled.and_then(|mut stream| stream.read_to_string(&mut greeting)) {
        Ok(_) => greeting,
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[test]
fn a_port_nobody_listens_on_in_the_container_refuses_until_somebody_does_and_again_afterwards() {
    sealed(|ground| {
        let options =
            ["run", "-p", "8080:80", "--closed-ports", "refuse", "--", PYTHON, "-c", SWITCHED_SERVER];
        let mut server = start(ground.netferry(&options));
        server.wait_for(Stream::Out, "up");
        let inside = ground.text_of("pgrep", &["-f", "^/usr/bin/python3 -c import select"]);
        let inside: i32 = inside.lines().last().expect("the server runs").trim().parse().unwrap();
        let tell = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(inside), signal).unwrap();
        let clients = |expected: &[&str]| {
            for address in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
                let fared = fare(ground.dial_from_world(address, 8080));
                assert!(expected.contains(&&*fared), "from the world to {address}: {fared}");
            }
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let fared = fare(TcpStream::connect((address, 8080)));
                assert!(expected.contains(&&*fared), "from the host to {address}: {fared}");
            }
        };
        for round in 1..=3 {
            clients(&["ConnectionRefused"]);
            // The port is ours all the same.
            let stolen = TcpListener::bind("0.0.0.0:8080").expect_err("it is taken");
            assert_eq!(stolen.kind(), std::io::ErrorKind::AddrInUse);
            tell(nix::sys::signal::Signal::SIGUSR1);
            server.wait_for(Stream::Out, "listens");
            // It is looked for ten times a second at least.
            std::thread::sleep(Duration::from_millis(150));
            clients(&["hello"]);
            tell(nix::sys::signal::Signal::SIGUSR2);
            // Only who was served was ever accepted: the questions are not seen.
            server.wait_for(Stream::Out, &format!("closed after {}", 4 * round));
            // The first for each family shows that the server is gone.
            let first = ["ConnectionReset", "ConnectionRefused"];
            clients(&first);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn by_default_the_first_client_of_a_port_nobody_listens_on_is_reset_and_the_next_are_refused() {
    sealed(|ground| {
        let mut server =
            start(ground.netferry(&["run", "-p", "8080:80", "--", PYTHON, "-c", SWITCHED_SERVER]));
        server.wait_for(Stream::Out, "up");
        let inside = ground.text_of("pgrep", &["-f", "^/usr/bin/python3 -c import select"]);
        let inside: i32 = inside.lines().last().expect("the server runs").trim().parse().unwrap();
        assert_eq!(fare(ground.dial_from_world(HOST4, 8080)), "ConnectionReset");
        // The container is asked once more before the port is shut.
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..3 {
            assert_eq!(fare(ground.dial_from_world(HOST4, 8080)), "ConnectionRefused");
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(inside), nix::sys::signal::Signal::SIGUSR1)
            .unwrap();
        server.wait_for(Stream::Out, "listens");
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(fare(ground.dial_from_world(HOST4, 8080)), "hello");
    });
}

#[test]
fn closed_ports_that_are_to_accept_reset_every_client() {
    sealed(|ground| {
        let options =
            ["run", "-p", "8080:80", "--closed-ports", "accept", "--", "sh", "-c", "echo up; sleep 30"];
        let mut idle = start(ground.netferry(&options));
        idle.wait_for(Stream::Out, "up");
        for _ in 0..3 {
            assert_eq!(fare(ground.dial_from_world(HOST4, 8080)), "ConnectionReset");
        }
    });
}

#[test]
fn large_bodies_pass_a_published_port_whole_both_ways() {
    sealed(|ground| {
        let script = "\
import socket, sys
s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen(); print('listening', flush=True)
while True:
    c, a = s.accept(); data = bytearray()
    while block := c.recv(1 << 18): data += block
    c.sendall(data); c.close()";
        let mut server = start(ground.netferry(&["run", "-p", "8080:80", "--", PYTHON, "-c", script]));
        server.wait_for(Stream::Out, "listening");
        let stream = ground.dial_from_world(HOST4, 8080).unwrap();
        let len = 16 << 20;
        write_body(&stream, len).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let back = read_body(&stream, u64::MAX).unwrap();
        assert_eq!((back.len, back.crc), (len, crc_of_body(len)));
    });
}

/// Fails unless `netferry run -p SPEC` ends with 1 and one line that contains `reason`, before CMD starts.
#[track_caller]
fn cannot_be_published(ground: &Ground, spec: &str, reason: &[&str]) {
    let before = ground.belongings();
    let mark = Path::new(SCRATCH).join("started");
    let outcome = run(ground.netferry(&["run", "-p", spec, "--", "touch", mark.to_str().unwrap()]));
    let outcome = outcome.expect_code(1);
    assert_eq!(outcome.stderr.lines().count(), 1, "one line is asked for\n{outcome}");
    for word in reason {
        assert!(outcome.stderr.contains(word), "no {word:?} in the error\n{outcome}");
    }
    assert!(!mark.exists(), "the command was started all the same");
    ground.assert_nothing_left(&before);
}

#[test]
fn a_tcp_port_in_use_is_an_error_before_the_command_starts() {
    sealed(|ground| {
        let _taken = TcpListener::bind("0.0.0.0:8080").unwrap();
        cannot_be_published(ground, "8080:80", &["8080", "in use"]);
    });
}

#[test]
fn a_udp_port_in_use_is_an_error_before_the_command_starts() {
    sealed(|ground| {
        let _taken = UdpSocket::bind("0.0.0.0:5300").unwrap();
        cannot_be_published(ground, "5300:53/udp", &["5300", "in use"]);
    });
}

#[test]
fn a_port_below_the_unprivileged_limit_is_an_error_before_the_command_starts() {
    sealed(|ground| cannot_be_published(ground, "80:80", &["80", "ip_unprivileged_port_start"]));
}

#[test]
fn an_address_the_host_does_not_have_is_an_error_before_the_command_starts() {
    sealed(|ground| cannot_be_published(ground, "192.0.2.77:8080:80", &["192.0.2.77"]));
}
