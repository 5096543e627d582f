//! UDP as the world sees it: where the container's datagrams come from, and what they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::ground::{FAR4, FAR6, Ground, HOST4, HOST6, PYTHON, WORLD4, WORLD6, sealed};
use crate::process::{Stream, run, start};
use crate::servers::echo_datagrams;

/// Tells each of two servers at its own address and port from where it sees one and the same socket.
const STUN: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5); s.bind(('', 40000))
for to in ((sys.argv[1], 3478), (sys.argv[2], 3479), (sys.argv[1], 3480)):
    s.sendto(b'x', to); d, a = s.recvfrom(99); assert a[:2] == to, a; print(d.decode().split()[-1])";

fn seen_from(ground: &Ground, servers: [IpAddr; 2], options: &[&str]) -> Vec<String> {
    for (address, port) in [(servers[0], 3478), (servers[1], 3479), (servers[0], 3480)] {
        echo_datagrams(ground.world_datagrams(address, port), true);
    }
    let [one, other] = servers.map(|address| address.to_string());
    let outcome =
        run(ground.netferry(&[&["run"], options, &["--", PYTHON, "-c", STUN, &one, &other]].concat()));
    outcome.expect_success().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn servers_at_different_addresses_see_one_socket_at_one_address_and_its_own_port() {
    sealed(|ground| {
        for (servers, host) in [
            ([IpAddr::V4(WORLD4), IpAddr::V4(FAR4)], format!("{HOST4}:40000")),
            ([IpAddr::V6(WORLD6), IpAddr::V6(FAR6)], format!("[{HOST6}]:40000")),
        ] {
            let seen = seen_from(ground, servers, &[]);
            assert!(seen.len() == 3 && seen.iter().all(|other| *other == host), "{seen:?}");
        }
    });
}

#[test]
fn where_the_port_is_taken_on_the_host_all_see_the_same_other_port() {
    sealed(|ground| {
        let _taken = UdpSocket::bind("0.0.0.0:40000").unwrap();
        let seen = seen_from(ground, [WORLD4.into(), FAR4.into()], &[]);
        assert!(seen[0].starts_with(&format!("{HOST4}:")) && seen[0] != format!("{HOST4}:40000"), "{seen:?}");
        assert!(seen.iter().all(|other| *other == seen[0]), "{seen:?}");
    });
}

#[test]
fn two_containers_with_the_same_port_are_kept_apart() {
    sealed(|ground| {
        echo_datagrams(ground.world_datagrams(WORLD4, 7000), false);
        let script = "\
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.bind(('', 40000))
for i in range(20):
    s.sendto(b'%s %d' % (sys.argv[1].encode(), i), ('203.0.113.2', 7000)); d = s.recv(99).decode()
    assert d == '%s %d' % (sys.argv[1], i), d
    print('ready', flush=True); time.sleep(0.05)
print('all')";
        let mut one = start(ground.netferry(&["run", "--", PYTHON, "-c", script, "one"]));
        one.wait_for(Stream::Out, "ready");
        let mut other = start(ground.netferry(&["run", "--", PYTHON, "-c", script, "other"]));
        other.wait_for(Stream::Out, "all");
        one.wait_for(Stream::Out, "all");
    });
}

#[test]
fn the_largest_datagrams_come_back_whole() {
    sealed(|ground| {
        for (world, largest) in [(IpAddr::V4(WORLD4), "65507"), (IpAddr::V6(WORLD6), "65527")] {
            echo_datagrams(ground.world_datagrams(world, 7000), false);
            for mtu in ["1500", "65520"] {
                let script = "\
import os, socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
data = os.urandom(int(sys.argv[2])); s.sendto(data, (sys.argv[1], 7000)); assert s.recv(1 << 17) == data; print('all')";
                let address = world.to_string();
                let options = ["run", "--mtu", mtu, "--", PYTHON, "-c", script, &address, largest];
                assert_eq!(run(ground.netferry(&options)).expect_success().stdout, "all\n", "{mtu}");
            }
        }
    });
}

/// Echoes in the container on port 53 of both families.
const ECHO_SERVER: &str = "\
import socket, threading
def serve(family, any):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
    s.bind((any, 53)); print('listening', any, flush=True)
    while True: s.sendto(*s.recvfrom(1 << 17))
threading.Thread(target=serve, args=(socket.AF_INET6, '::')).start()
serve(socket.AF_INET, '0.0.0.0')";

/// Fails unless the largest datagrams there are come back from `clients`' addresses, byte for byte.
fn largest_come_back(options: &[&str], ground: &Ground, clients: [IpAddr; 2]) {
    let mut server = start(ground.netferry(&[options, &["--", PYTHON, "-c", ECHO_SERVER]].concat()));
    wait_for_server(&mut server);
    for address in clients {
        let largest: usize = if address.is_ipv4() { 65_507 } else { 65_527 };
        let unspecified: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = UdpSocket::bind((unspecified, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.connect((address, 5300)).unwrap();
        for size in [largest, 1, largest - 1] {
            let sent: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
            client.send(&sent).unwrap();
            let mut back = vec![0; 1 << 17];
            let len =
                client.recv(&mut back).unwrap_or_else(|error| panic!("{address}, {size} bytes: {error}"));
            assert!(back[..len] == sent, "{address}: {len} bytes of {size}");
        }
    }
}

#[test]
fn the_largest_datagrams_come_back_through_a_published_port() {
    sealed(|ground| {
        for mtu in ["1500", "65520"] {
            let options = ["run", "--mtu", mtu, "-p", "5300:53/udp"];
            largest_come_back(&options, ground, [HOST4.into(), HOST6.into()]);
        }
    });
}

#[test]
fn the_largest_datagrams_come_back_through_a_spliced_port() {
    sealed(|ground| {
        let options = ["pasta", "--config-net", "-u", "5300:53"];
        largest_come_back(&options, ground, [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    });
}

/// Echoes on a port of both families with what it has seen of class and hop limit, in the same class.
const CLASS_SERVER: &str = "\
import socket, struct, sys, threading
def serve(family, any):
    s = socket.socket(family, socket.SOCK_DGRAM); six = family == socket.AF_INET6
    if six: s.setsockopt(41, 26, 1)
    for level, option in (((41, 66), (41, 51)) if six else ((0, 13), (0, 12))): s.setsockopt(level, option, 1)
    s.bind((any, int(sys.argv[1]))); print('listening', any, flush=True)
    while True:
        d, notes, _, a = s.recvmsg(1 << 17, 256)
        at = {(level, kind): data for level, kind, data in notes}
        tos = struct.unpack('i', at[(41, 67)])[0] if six else at[(0, 1)][0]
        hops = struct.unpack('i', at[(41, 52) if six else (0, 2)])[0]
        s.setsockopt(*((41, 67) if six else (0, 1)), tos)
        s.sendto(b'%d %d %d' % (len(d), tos, hops), a) if d else s.sendto(b'', a)
threading.Thread(target=serve, args=(socket.AF_INET6, '::')).start()
serve(socket.AF_INET, '0.0.0.0')";

/// Sends in each class to an address and port and checks what is answered; the ECN field included.
const CLASS_CLIENT: &str = "\
import socket, struct, sys
six = ':' in sys.argv[1]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.setsockopt(*((41, 66, 1) if six else (0, 13, 1)))
s.connect((sys.argv[1], int(sys.argv[2])))
for tos in (0, 0xb8, 0x28, 1, 2, 3, 0xbb):
    s.setsockopt(*((41, 67) if six else (0, 1)), tos); s.setsockopt(*((41, 16) if six else (0, 2)), 33)
    s.send(b'xyz'); d, notes, _, _ = s.recvmsg(99, 256)
    back = struct.unpack('i', notes[0][2])[0] if six else notes[0][2][0]
    print(tos, d.decode(), back)
s.send(b''); assert s.recv(99) == b''
print('all')";

/// What [`CLASS_CLIENT`] prints where each class arrives as sent, both ways, with this hop limit of its 33.
fn classes(hops: u8) -> String {
    let lines = [0, 0xb8, 0x28, 1, 2, 3, 0xbb].map(|tos: u8| format!("{tos} 3 {tos} {hops} {tos}\n"));
    lines.concat() + "all\n"
}

fn class_client(ground: &Ground, address: IpAddr, port: &str) -> String {
    let mut client = ground.user(PYTHON);
    client.args(["-c", CLASS_CLIENT, &address.to_string(), port]);
    run(client).expect_success().stdout
}

fn wait_for_server(server: &mut crate::process::Running) {
    server.wait_for(Stream::Out, "listening 0.0.0.0");
    server.wait_for(Stream::Out, "listening ::");
}

#[test]
fn class_congestion_marks_hop_limit_and_emptiness_are_carried_out_and_back() {
    sealed(|ground| {
        let mut server = ground.user(PYTHON);
        server.args(["-c", CLASS_SERVER, "5300"]);
        let mut server = start(server);
        wait_for_server(&mut server);
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            let address = host.to_string();
            let outcome = run(ground.netferry(&["run", "--", PYTHON, "-c", CLASS_CLIENT, &address, "5300"]));
            assert_eq!(outcome.expect_success().stdout, classes(32), "{host}");
        }
    });
}

#[test]
fn class_congestion_marks_hop_limit_and_emptiness_are_carried_by_a_published_port() {
    sealed(|ground| {
        let options = ["run", "-p", "5300:53/udp", "--", PYTHON, "-c", CLASS_SERVER, "53"];
        let mut server = start(ground.netferry(&options));
        wait_for_server(&mut server);
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            // The host is the router itself; from the world there is one on the way.
            assert_eq!(class_client(ground, host, "5300"), classes(33), "{host}");
            let from_world = ground.in_world(|| class_client(ground, host, "5300"));
            assert_eq!(from_world, classes(32), "{host} from the world");
        }
    });
}

#[test]
fn class_congestion_marks_and_emptiness_are_carried_by_a_spliced_port() {
    sealed(|ground| {
        let options = ["pasta", "--config-net", "-u", "5300:53", "--", PYTHON, "-c", CLASS_SERVER, "53"];
        let mut server = start(ground.netferry(&options));
        wait_for_server(&mut server);
        for host in ["127.0.0.1", "::1"] {
            // There is no hop between loopback and loopback.
            assert_eq!(class_client(ground, host.parse().unwrap(), "5300"), classes(33), "{host}");
        }
    });
}

#[test]
fn multicast_and_broadcast_stay_on_the_containers_segment() {
    sealed(|ground| {
        let group: Ipv4Addr = "224.0.0.251".parse().unwrap();
        let world = ground.world_datagrams(Ipv4Addr::UNSPECIFIED, 5353);
        world.join_multicast_v4(&group, &WORLD4).unwrap();
        let host = UdpSocket::bind("0.0.0.0:5353").unwrap();
        host.join_multicast_v4(&group, &HOST4).unwrap();
        let script = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.settimeout(1)
for to in ('224.0.0.251', '255.255.255.255', '10.0.2.255'): s.sendto(b'query', (to, 5353))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.sendto(b'query', ('ff02::fb', 5353, 0, socket.if_nametoindex('tap0')))
try: print(s.recv(99))
except TimeoutError: print('silence')";
        let outcome = run(ground.netferry(&["run", "--", PYTHON, "-c", script])).expect_success();
        assert_eq!(outcome.stdout, "silence\n");
        for socket in [world, host] {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let heard = socket.recv_from(&mut [0; 99]).map(|(_, from): (usize, SocketAddr)| from);
            assert!(heard.is_err(), "{heard:?}");
        }
    });
}
