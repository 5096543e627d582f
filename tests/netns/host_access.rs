//! What of the host itself a container can reach: only what it may.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::faults::Face;
use crate::ground::{FAR4, FAR6, Ground, HOST4, PYTHON, WORLD4, sealed};
use crate::process::{Outcome, SOON, run};
use crate::servers::serve_streams;

/// Counts connections and datagrams that reach port 9000 of the host's loopback, on any of its addresses.
fn watch_loopback() -> Arc<AtomicUsize> {
    let visits = Arc::new(AtomicUsize::new(0));
    for address in ["127.0.0.1:9000", "127.0.0.2:9000", "[::1]:9000"] {
        let seen = Arc::clone(&visits);
        serve_streams(TcpListener::bind(address).unwrap(), move |mut stream, _| {
            seen.fetch_add(1, Ordering::SeqCst);
            // What is asked is read: a close over unread data would be a reset.
            stream.read_exact(&mut [0])?;
            stream.write_all(b"secret\n")
        });
        let (socket, seen) = (UdpSocket::bind(address).unwrap(), Arc::clone(&visits));
        thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 99]) {
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = socket.send_to(b"secret\n", client);
            }
        });
    }
    visits
}

/// Asks port 9000 of the gateway, by both families and both transports, and prints what it hears.
const ASK_GATEWAY: &str = "\
import socket, subprocess
route = subprocess.check_output(['ip', '-6', 'route', 'show', 'default'], text=True).split()
six = (route[route.index('via') + 1], 9000, 0, socket.if_nametoindex('tap0'))
for name, family, address in (('4', socket.AF_INET, ('10.0.2.2', 9000)), ('6', socket.AF_INET6, six)):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(family, kind); s.settimeout(3)
        try:
            s.connect(address); s.send(b'x'); print(name, kind.name, s.recv(99).decode().strip())
        except OSError as error: print(name, kind.name, type(error).__name__)";

fn ask_gateway(ground: &Ground, options: &[&str]) -> Outcome {
    run(ground.netferry(&[&["run"], options, &["--", PYTHON, "-c", ASK_GATEWAY]].concat())).expect_success()
}

#[test]
fn the_loopback_of_the_host_is_out_of_reach_by_default() {
    sealed(|ground| {
        let visits = watch_loopback();
        let outcome = ask_gateway(ground, &[]);
        assert_eq!(visits.load(Ordering::SeqCst), 0, "{outcome}");
        assert!(!outcome.stdout.contains("secret"), "{outcome}");
        // And it is told so at once.
        assert_eq!(outcome.stdout.matches("ConnectionRefusedError").count(), 4, "{outcome}");
    });
}

#[test]
fn the_gateway_leads_to_the_loopback_of_the_host_where_asked() {
    sealed(|ground| {
        watch_loopback();
        let outcome = ask_gateway(ground, &["--host-loopback"]);
        assert_eq!(outcome.stdout.matches("secret").count(), 4, "{outcome}");
    });
}

/// Puts frames for addresses that would mean the host itself on the wire, past the container's own routing; for those that
/// are its arguments as well, behind a comma with a source that is not the container's.
const FORGE: &str = "\
import socket, struct, subprocess, sys
def ip(*words): return subprocess.check_output(['ip', *words], text=True).split()
def after(word, words): return words[words.index(word) + 1]
route = ip('-4', 'route', 'show', 'default'); gateway, device = after('via', route), after('dev', route)
# Whatever it answers, its Ethernet address is known then.
subprocess.run(['ping', '-n', '-c', '1', '-W', '1', gateway], stdout=subprocess.DEVNULL)
there = bytes.fromhex(after('lladdr', ip('neighbour', 'show', gateway)).replace(':', ''))
here = bytes.fromhex(ip('-br', 'link', 'show', device)[2].replace(':', ''))
own4, own6 = [after(f, ip('-o', n, 'address', 'show', 'dev', device, 'scope', 'global')).split('/')[0]
    for f, n in (('inet', '-4'), ('inet6', '-6'))]
def total(data):
    data += b'\\0' * (len(data) % 2); s = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def packet(destination, protocol, transport, at, source=None):
    family = socket.AF_INET6 if ':' in destination else socket.AF_INET
    source = socket.inet_pton(family, source or (own6 if ':' in destination else own4))
    target = socket.inet_pton(family, destination)
    pseudo = source + target + struct.pack('!IHBB', len(transport), 0, 0, protocol)
    transport = transport[:at] + struct.pack('!H', total(pseudo + transport)) + transport[at + 2:]
    if family == socket.AF_INET6:
        header = struct.pack('!IHBB', 6 << 28, len(transport), protocol, 64) + source + target; kind = 0x86dd
    else:
        header = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0) + source + target
        header = header[:10] + struct.pack('!H', total(header)) + header[12:]; kind = 0x0800
    return there + here + struct.pack('!H', kind) + header + transport
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((device, 0)); sent = 0
def both(destination, source=None):
    global sent
    s.send(packet(destination, 17, struct.pack('!HHHH', 4000, 9000, 9, 0) + b'x', 6, source)); sent += 1
    s.send(packet(destination, 6, struct.pack('!HHIIBBHHH', 4001, 9000, 1, 0, 0x50, 2, 65535, 0, 0), 16, source)); sent += 1
for destination in ('127.0.0.1', '127.0.0.2', '0.0.0.0', '0.0.0.1', '::1', '::', '::ffff:127.0.0.1', '::127.0.0.1',
        '::ffff:169.254.169.254', '64:ff9b::127.0.0.1', '2002:7f00:1::1', '10.0.2.3', '10.0.2.255', '224.0.0.1', 'ff02::1'):
    both(destination)
for argument in sys.argv[1:]: both(*argument.split(','))
# From whom the container is not: the world and the host itself must not see it either.
for destination, source in (('198.51.100.7', '127.0.0.1'), ('203.0.113.1', '127.0.0.1'), ('198.51.100.7', gateway),
        ('198.51.100.7', '0.0.0.0'), ('198.51.100.7', '224.0.0.1'), ('2001:db8:2::7', '::1'), ('2001:db8:2::7', '::'),
        ('2001:db8:2::7', '::ffff:127.0.0.1'), ('2001:db8:2::7', 'ff02::1')):
    both(destination, source)
# The same frames do arrive where they may: else this test could not fail.
for destination in ('198.51.100.7', '2001:db8:2::7'):
    s.send(packet(destination, 17, struct.pack('!HHHH', 4000, 9000, 9, 0) + b'x', 6))
print('forged', sent)";

/// Every way of serving a container, with the host's loopback behind its gateway and without. The last has the host's own
/// gateway for it.
const WAYS: [(Face, &[&str]); 8] = [
    (Face::Run, &[]),
    (Face::Run, &["--host-loopback"]),
    (Face::Run, &["--network", "lab"]),
    (Face::Attach, &[]),
    (Face::Slirp4netns, &[]),
    (Face::Slirp4netns, &["--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"]),
    (Face::Pasta, &[]),
    (Face::Pasta, &["--no-map-gw"]),
];

fn create_network(ground: &Ground) {
    let words = ["network", "create", "lab", "--subnet", "10.0.2.0/24", "--subnet6", "fd00:2::/64"];
    run(ground.netferry(&words)).expect_success();
}

fn remove_network(ground: &Ground) {
    run(ground.netferry(&["network", "rm", "--force", "lab"])).expect_success();
}

#[test]
fn frames_addressed_to_a_loopback_address_never_reach_it_whatever_the_face() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        let visits = watch_loopback();
        let controls = [IpAddr::V4(FAR4), FAR6.into()].map(|far| ground.world_datagrams(far, 9000));
        create_network(ground);
        for (face, options) in WAYS {
            let served = face.serve(ground, options);
            drop(served.agent(ground));
            let mut forging = served.inside(ground, PYTHON);
            forging.args(["-c", FORGE]);
            let more: &[&str] = match (face, options) {
                // The gateway of both families is an alias of the host's loopback.
                (Face::Pasta, []) => &[],
                // It stands in the host's place, and may have more addresses than the host had.
                (Face::Pasta, _) => &["fe80::1"],
                (Face::Run | Face::Attach | Face::Slirp4netns, _) => &[
                    "fe80::1",
                    "198.51.100.7,10.0.2.3",
                    "198.51.100.7,203.0.113.77",
                    "2001:db8:2::7,2001:db8:1::77",
                ],
            };
            forging.args(more);
            run(forging).expect_success().expect_stdout(&format!("forged {}", 48 + 2 * more.len()));
            for control in &controls {
                // That one, which was sent after all others, and no other.
                control.set_nonblocking(false).unwrap();
                control.set_read_timeout(Some(SOON)).unwrap();
                control.recv(&mut [0; 9]).expect("a forged frame for the world arrives there");
                control.set_nonblocking(true).unwrap();
                let more = control.recv(&mut [0; 9]);
                assert!(
                    more.is_err(),
                    "{face:?} {options:?}: a spoofed source was taken for the container's"
                );
            }
            assert_eq!(visits.load(Ordering::SeqCst), 0, "{face:?} {options:?}");
            served.end();
        }
        remove_network(ground);
    });
}

/// The rows of docs/security.md, "What of the host is reached", as a program of the container has them.
#[test]
fn what_a_container_asks_for_is_where_the_table_says_whatever_the_face() {
    sealed(|ground| {
        watch_loopback();
        let says = |word: &'static [u8]| {
            move |mut stream: std::net::TcpStream, _| {
                stream.read_exact(&mut [0])?;
                stream.write_all(word)
            }
        };
        serve_streams(TcpListener::bind((HOST4, 9001)).unwrap(), says(b"the host"));
        serve_streams(ground.world_listener(WORLD4, 9000), says(b"gateway"));
        ground.in_world(|| crate::ground::ip_batch("address add 169.254.169.254/32 dev lo\n"));
        let metadata = IpAddr::from([169, 254, 169, 254]);
        serve_streams(ground.world_listener(metadata, 9001), says(b"metadata"));
        create_network(ground);
        for (face, options) in WAYS {
            let served = face.serve(ground, options);
            let mut agent = served.agent(ground);
            let of_gateway = match (face, options) {
                (Face::Pasta, ["--no-map-gw"]) => "gateway",
                (Face::Pasta, _) | (Face::Slirp4netns, []) | (Face::Run, ["--host-loopback"]) => "secret",
                (Face::Run | Face::Attach | Face::Slirp4netns, _) => "ECONNREFUSED",
            };
            let gateway = match (face, options) {
                (Face::Pasta, _) => "203.0.113.2",
                (Face::Run, ["--network", _]) => "10.0.2.1",
                (Face::Run | Face::Attach | Face::Slirp4netns, _) => "10.0.2.2",
            };
            let host = if face == Face::Pasta { "ECONNREFUSED" } else { "the host" };
            let mut rows = vec![
                (gateway, 9000, of_gateway),
                ("203.0.113.1", 9001, host),
                ("169.254.169.254", 9001, "metadata"),
            ];
            if face != Face::Pasta {
                // Of the DNS's address nothing but port 53; of the segment nobody else.
                let dns = if options.contains(&"--network") { gateway } else { "10.0.2.3" };
                rows.extend([(dns, 9000, "ECONNREFUSED"), ("10.0.2.99", 9000, "EHOSTUNREACH")]);
            }
            for (address, port, answer) in rows {
                let what = format!(
                    "connect('x', '{address}', {port}) and held['x'].send(b'x') and held['x'].recv(99).decode().strip()"
                );
                assert_eq!(agent.ask(&what), answer, "{face:?} {options:?}: {address}");
            }
            drop(agent);
            served.end();
        }
        remove_network(ground);
    });
}

#[test]
fn the_gateway_of_the_container_is_not_an_address_of_the_host() {
    sealed(|ground| {
        // A service on every address of the host, asked by the gateway's address without --host-loopback.
        let listener = TcpListener::bind("0.0.0.0:9000").unwrap();
        serve_streams(listener, |mut stream, _| {
            stream.read_exact(&mut [0])?;
            stream.write_all(b"secret\n")
        });
        let outcome = ask_gateway(ground, &[]);
        assert!(!outcome.stdout.contains("secret"), "{outcome}");
    });
}
