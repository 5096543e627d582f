//! Ports in the manner of pasta: over the link and from loopback to loopback, in both directions, as listed and as
//! followed.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ground::{Ground, HOST4, HOST6, PYTHON, sealed};
use crate::pasta::{eventually, pasta, serve};
use crate::pattern::crc_of_body;
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo_datagrams, http, read_body, write_body};
use crate::slirp4netns::{container, inside};

const LOOPBACK4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Listens on every address of both families, at the ports of `sys.argv[1:]`, or on `ADDRESS/PORT`; tells each client
/// and echoes.
const STREAMS: &str = "\
import socket, sys, threading
def client(c, a, port):
    print('client', a[0], a[1], 'of', port, flush=True)
    while d := c.recv(1 << 16): c.sendall(d)
    c.shutdown(socket.SHUT_WR); c.close()
def serve(address, port):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ':' in address: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(port))); s.listen(64); print('listening', address, port, flush=True)
    while True:
        c, a = s.accept(); threading.Thread(target=client, args=(c, a, port)).start()
for word in sys.argv[1:]:
    address, _, port = word.rpartition('/')
    for a in [address] if address else ['0.0.0.0', '::']:
        threading.Thread(target=serve, args=(a, port)).start()";

/// The same of datagrams.
pub const DATAGRAMS: &str = "\
import socket, sys, threading
def serve(address, port):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    if ':' in address: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(port))); print('listening', address, port, flush=True)
    while True:
        d, a = s.recvfrom(1 << 16); print('client', a[0], a[1], 'of', port, flush=True); s.sendto(d, a)
for word in sys.argv[1:]:
    address, _, port = word.rpartition('/')
    for a in [address] if address else ['0.0.0.0', '::']:
        threading.Thread(target=serve, args=(a, port)).start()";

pub fn enter(ground: &Ground, container: &Running) -> Command {
    let mut command = ground.user("nsenter");
    command.args(["--target", &container.pid().to_string(), "--user", "--net", "--preserve-credentials"]);
    command
}

/// A server in the container, up when this returns.
pub fn server(ground: &Ground, container: &Running, script: &str, ports: &[&str]) -> Running {
    let mut command = enter(ground, container);
    command.args([PYTHON, "-c", script]).args(ports);
    let mut server = start(command);
    let each = ports.iter().map(|port| if port.contains('/') { 1 } else { 2 }).sum::<usize>();
    eventually("the server listens", || server.so_far(Stream::Out).matches("listening").count() == each);
    let _ = server.so_far(Stream::Out);
    server.wait_for(Stream::Out, "listening");
    server
}

fn quiet(options: &[&str]) -> Vec<String> {
    let has = |option: &str| options.contains(&option);
    let mut words = vec!["--config-net".to_owned(), "-q".to_owned()];
    for option in ["-t", "-u", "-T", "-U"] {
        if !has(option) {
            words.extend([option.to_owned(), "none".to_owned()]);
        }
    }
    words.extend(options.iter().map(|option| (*option).to_owned()));
    words
}

pub fn forward(ground: &Ground, container: &Running, options: &[&str]) {
    let words = quiet(options);
    serve(ground, container, &words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Sends a line from the world and gets it back; the client's own address.
#[track_caller]
fn greet_from_world(ground: &Ground, host: IpAddr, port: u16) -> SocketAddr {
    let stream = ground.dial_from_world(host, port).unwrap_or_else(|error| panic!("{host} {port}: {error}"));
    greet(stream)
}

#[track_caller]
fn greet_from_host(host: IpAddr, port: u16) -> SocketAddr {
    let to = SocketAddr::new(host, port);
    let stream = TcpStream::connect_timeout(&to, SOON).unwrap_or_else(|error| panic!("{to}: {error}"));
    greet(stream)
}

#[track_caller]
fn greet(mut stream: TcpStream) -> SocketAddr {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"good day").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"good day");
    stream.local_addr().unwrap()
}

fn is_answered(host: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(host, port), SOON) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = [0; 2];
    stream.write_all(b"hi").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Sends a datagram and gets it back.
#[track_caller]
fn datagram(socket: &UdpSocket, to: SocketAddr, size: usize) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect(to).unwrap();
    socket.send(&vec![7; size]).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} bytes to {to}: {error}"));
    assert_eq!(&buffer[..len], vec![7; size]);
}

fn told(client: SocketAddr, port: &str) -> String {
    format!("client {} {} of {port}", client.ip(), client.port())
}

#[test]
fn over_the_link_the_server_sees_its_true_client() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "-u", "5300:53"]);
        let mut streams = server(ground, &container, STREAMS, &["80"]);
        let mut datagrams = server(ground, &container, DATAGRAMS, &["53"]);
        for (host, any) in [(IpAddr::V4(HOST4), "203.0.113.2:0"), (IpAddr::V6(HOST6), "[2001:db8:1::2]:0")] {
            let client = greet_from_world(ground, host, 8080);
            streams.wait_for(Stream::Out, &told(client, "80"));
            for size in [1, 1_400, 9_000] {
                let socket = ground.in_world(|| UdpSocket::bind(any)).unwrap();
                datagram(&socket, SocketAddr::new(host, 5300), size);
                datagrams.wait_for(Stream::Out, &told(socket.local_addr().unwrap(), "53"));
            }
        }
    });
}

#[test]
fn ranges_translations_exclusions_and_addresses_are_what_they_say() {
    sealed(|ground| {
        let container = container(ground);
        let bound = format!("{HOST4}/9200:9300");
        let options =
            ["-t", "9000-9002,~9001", "-t", "9100-9101:9500-9501", "-t", &bound, "-t", "%host0/9400"];
        forward(ground, &container, &options);
        let _server =
            server(ground, &container, STREAMS, &["9000", "9001", "9002", "9500", "9501", "9300", "9400"]);
        let world = |port| ground.dial_from_world(HOST4, port);
        for port in [9000, 9002, 9100, 9101, 9200, 9400] {
            greet_from_world(ground, HOST4.into(), port);
        }
        assert!(world(9001).is_err() && world(9003).is_err());
        greet_from_world(ground, HOST6.into(), 9100);
        assert!(ground.dial_from_world(HOST6, 9200).is_err(), "bound to one address only");
        assert!(!is_answered(LOOPBACK4, 9200), "bound to one address only");
        assert!(!is_answered(LOOPBACK4, 9400), "bound to one interface only");
    });
}

#[test]
fn from_loopback_to_loopback_the_server_sees_loopback() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "-u", "5300:53", "--host-lo-to-ns-lo"]);
        let ports = ["127.0.0.1/80", "::1/80"];
        let mut streams = server(ground, &container, STREAMS, &ports);
        let ports = ["127.0.0.1/53", "::1/53"];
        let mut datagrams = server(ground, &container, DATAGRAMS, &ports);
        for (loopback, any) in [(LOOPBACK4, "127.0.0.1:0"), (LOOPBACK6, "[::1]:0")] {
            greet_from_host(loopback, 8080);
            streams.wait_for(Stream::Out, &format!("client {loopback} "));
            let socket = UdpSocket::bind(any).unwrap();
            for size in [0, 1, 1_400, 9_000, 60_000] {
                datagram(&socket, SocketAddr::new(loopback, 5300), size);
            }
            datagrams.wait_for(Stream::Out, &format!("client {loopback} "));
        }
    });
}

#[test]
fn from_loopback_the_server_sees_its_own_address_unless_told() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "-u", "5300:53"]);
        let mut streams = server(ground, &container, STREAMS, &["80"]);
        let mut datagrams = server(ground, &container, DATAGRAMS, &["53"]);
        for (loopback, any, own) in
            [(LOOPBACK4, "127.0.0.1:0", IpAddr::V4(HOST4)), (LOOPBACK6, "[::1]:0", IpAddr::V6(HOST6))]
        {
            greet_from_host(loopback, 8080);
            streams.wait_for(Stream::Out, &format!("client {own} "));
            datagram(&UdpSocket::bind(any).unwrap(), SocketAddr::new(loopback, 5300), 100);
            datagrams.wait_for(Stream::Out, &format!("client {own} "));
        }
    });
}

#[test]
fn without_splicing_clients_on_loopback_come_over_the_link() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "--no-splice"]);
        let mut streams = server(ground, &container, STREAMS, &["80"]);
        greet_from_host(LOOPBACK4, 8080);
        // The gateway stands for the host's loopback.
        streams.wait_for(Stream::Out, "client 203.0.113.2 ");
    });
}

/// Expects that a connection is reset: while connect(2) still waits, or after it.
fn expect_reset(dialled: std::io::Result<TcpStream>) {
    let end = dialled.and_then(|mut client| {
        client.set_read_timeout(Some(SOON))?;
        client.read(&mut [0; 1])
    });
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_port_nobody_serves_in_the_container_is_reset_on_every_way() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80"]);
        expect_reset(TcpStream::connect((LOOPBACK4, 8080)));
        expect_reset(ground.dial_from_world(HOST4, 8080));
    });
}

#[test]
fn the_containers_loopback_reaches_what_is_listed_of_the_hosts() {
    sealed(|ground| {
        http(TcpListener::bind((LOOPBACK4, 8082)).unwrap());
        http(TcpListener::bind((LOOPBACK6, 8082)).unwrap());
        http(TcpListener::bind((LOOPBACK4, 8083)).unwrap());
        echo_datagrams(UdpSocket::bind((LOOPBACK4, 7000)).unwrap(), true);
        let container = container(ground);
        forward(ground, &container, &["-T", "80:8082,8082", "-U", "7000"]);
        for url in ["http://127.0.0.1:8082/", "http://[::1]:8082/", "http://127.0.0.1:80/"] {
            inside(ground, &container, &["curl", "-sS", "--max-time", "5", url]).expect_success();
        }
        let closed = ["curl", "-sS", "--max-time", "5", "http://127.0.0.1:8083/"];
        inside(ground, &container, &closed).expect_code(7);
        let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); \
                      s.sendto(b'x', ('127.0.0.1', 7000)); print(s.recv(99).decode())";
        inside(ground, &container, &[PYTHON, "-c", script]).expect_success().expect_stdout("from 127.0.0.1:");
    });
}

#[test]
fn ports_are_followed_within_a_second_or_so_in_both_directions() {
    sealed(|ground| {
        let container = container(ground);
        let words = ["--config-net", "-q", "-t", "auto", "-u", "auto", "-T", "auto", "-U", "auto"];
        serve(ground, &container, &words);
        assert!(!is_answered(LOOPBACK4, 8080));
        let streams = server(ground, &container, STREAMS, &["8080"]);
        let began = Instant::now();
        eventually("the port is published", || ground.dial_from_world(HOST4, 8080).is_ok());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        greet_from_world(ground, HOST4.into(), 8080);
        eventually("the port is published to loopback", || is_answered(LOOPBACK6, 8080));
        let _datagrams = server(ground, &container, DATAGRAMS, &["5300"]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.connect((LOOPBACK4, 5300)).unwrap();
        eventually("the UDP port is published", || {
            socket.send(b"x").is_ok() && socket.recv(&mut [0; 9]).is_ok()
        });
        // The other way, and what is published is not taken for a server of the host's.
        http(TcpListener::bind((LOOPBACK4, 8082)).unwrap());
        let fetch = ["curl", "-sS", "--max-time", "2", "http://127.0.0.1:8082/"];
        eventually("the host's port is there", || inside(ground, &container, &fetch).status.success());
        streams.signal(nix::sys::signal::Signal::SIGKILL);
        eventually("the port is published no longer", || {
            TcpStream::connect_timeout(&SocketAddr::new(LOOPBACK4, 8080), SOON).is_err()
        });
    });
}

#[test]
fn without_an_interface_loopback_is_all_there_is() {
    sealed(|ground| {
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "--splice-only", "--host-lo-to-ns-lo"]);
        let links = inside(ground, &container, &["ip", "-brief", "link"]).stdout;
        assert_eq!(links.lines().count(), 1, "{links}");
        let mut streams = server(ground, &container, STREAMS, &["80"]);
        greet_from_host(LOOPBACK4, 8080);
        streams.wait_for(Stream::Out, "client 127.0.0.1 ");
    });
}

/// Sends what it gets back to front of the connection: first all in, then all out.
const SINK_AND_SOURCE: &str = "\
import socket, zlib
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 80)); s.listen(4); print('listening', flush=True)
while True:
    c, a = s.accept(); data = bytearray()
    while d := c.recv(1 << 20): data += d
    print('%d %08x' % (len(data), zlib.crc32(data)), flush=True)
    c.sendall(data); c.close()";

#[test]
fn much_goes_through_a_splice_unharmed_with_a_half_close_between() {
    sealed(|ground| {
        let len = 64 << 20;
        let container = container(ground);
        forward(ground, &container, &["-t", "8080:80", "--host-lo-to-ns-lo"]);
        let mut command = enter(ground, &container);
        command.args([PYTHON, "-c", SINK_AND_SOURCE]);
        let mut server = start(command);
        server.wait_for(Stream::Out, "listening");
        let stream = TcpStream::connect((LOOPBACK4, 8080)).unwrap();
        write_body(&stream, len).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        server.wait_for(Stream::Out, &format!("{len} {:08x}", crc_of_body(len)));
        let upload = read_body(&stream, len).unwrap();
        assert_eq!((upload.len, upload.crc), (len, crc_of_body(len)));
    });
}

#[test]
fn ports_that_cannot_be_had_are_told_in_one_line_and_nothing_is_left() {
    sealed(|ground| {
        let container = container(ground);
        let _taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        let pid = container.pid().to_string();
        drop(pasta(ground, &[]));
        let before = ground.belongings();
        let cases = [("8080:80", "in use"), ("80", "privilege"), ("192.0.2.200/9000", "no address")];
        for (spec, reason) in cases {
            let words = quiet(&["-t", spec]);
            let mut words: Vec<_> = words.iter().map(String::as_str).collect();
            words.push(&pid);
            let outcome = run(pasta(ground, &words)).expect_code(1);
            assert_eq!((outcome.stdout.as_str(), outcome.stderr.lines().count()), ("", 1), "{outcome}");
            assert!(outcome.stderr.contains(reason), "{reason}: {outcome}");
        }
        ground.assert_nothing_left(&before);
    });
}
