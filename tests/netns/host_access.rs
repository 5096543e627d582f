//! What of the host itself a container can reach: only what it may.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::ground::{Ground, PYTHON, sealed};
use crate::process::{Outcome, run};
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

/// Puts frames for addresses that would mean the host itself on the wire, past the container's own routing.
const FORGE: &str = "\
import socket, struct, subprocess, time
subprocess.run(['ping', '-n', '-c', '1', '-W', '2', '10.0.2.2'], stdout=subprocess.DEVNULL)
neighbour = subprocess.check_output(['ip', 'neighbour', 'show', '10.0.2.2'], text=True).split()
there = bytes.fromhex(neighbour[neighbour.index('lladdr') + 1].replace(':', ''))
here = bytes.fromhex(open('/sys/class/net/tap0/address').read().strip().replace(':', '')) \\
    if False else bytes.fromhex(subprocess.check_output(['ip', '-br', 'link', 'show', 'tap0'], text=True).split()[2].replace(':', ''))
own6 = [l.split()[3].split('/')[0] for l in
    subprocess.check_output(['ip', '-6', '-o', 'address', 'show', 'dev', 'tap0', 'scope', 'global'], text=True).splitlines()][0]
def total(data):
    data += b'\\0' * (len(data) % 2); s = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def packet(destination, protocol, transport, at, source=None):
    family = socket.AF_INET6 if ':' in destination else socket.AF_INET
    source = socket.inet_pton(family, source or (own6 if ':' in destination else '10.0.2.100'))
    target = socket.inet_pton(family, destination)
    pseudo = source + target + struct.pack('!IHBB', len(transport), 0, 0, protocol)
    transport = transport[:at] + struct.pack('!H', total(pseudo + transport)) + transport[at + 2:]
    if family == socket.AF_INET6:
        header = struct.pack('!IHBB', 6 << 28, len(transport), protocol, 64) + source + target; kind = 0x86dd
    else:
        header = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0) + source + target
        header = header[:10] + struct.pack('!H', total(header)) + header[12:]; kind = 0x0800
    return there + here + struct.pack('!H', kind) + header + transport
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('tap0', 0)); sent = 0
def both(destination, source=None):
    global sent
    s.send(packet(destination, 17, struct.pack('!HHHH', 4000, 9000, 9, 0) + b'x', 6, source)); sent += 1
    s.send(packet(destination, 6, struct.pack('!HHIIBBHHH', 4001, 9000, 1, 0, 0x50, 2, 65535, 0, 0), 16, source)); sent += 1
for destination in ('127.0.0.1', '127.0.0.2', '0.0.0.0', '0.0.0.1', '::1', '::', '::ffff:127.0.0.1', '::127.0.0.1',
        '64:ff9b::127.0.0.1', '2002:7f00:1::1', '10.0.2.3', '10.0.2.255', '224.0.0.1', 'fe80::1', 'ff02::1'):
    both(destination)
# From whom the container is not: the world and the host itself must not see it either.
for destination, source in (('203.0.113.2', '127.0.0.1'), ('203.0.113.1', '127.0.0.1'), ('203.0.113.2', '10.0.2.2'),
        ('203.0.113.2', '203.0.113.1'), ('2001:db8::2', '::1'), ('2001:db8::2', '::ffff:127.0.0.1')):
    both(destination, source)
# The same frames do arrive where they may: else this test could not fail.
s.send(packet('203.0.113.2', 17, struct.pack('!HHHH', 4000, 9000, 9, 0) + b'x', 6))
time.sleep(1); print('forged', sent)";

#[test]
fn frames_addressed_to_a_loopback_address_never_reach_it() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        let visits = watch_loopback();
        let control = ground.world_datagrams(crate::ground::WORLD4, 9000);
        control.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        for options in [&[][..], &["--host-loopback"]] {
            let outcome = run(ground.netferry(&[&["run"], options, &["--", PYTHON, "-c", FORGE]].concat()));
            let outcome = outcome.expect_success().expect_stdout("forged 42");
            // That one, and no other.
            control.set_nonblocking(false).unwrap();
            control.recv(&mut [0; 9]).expect("a forged frame for the world arrives there");
            control.set_nonblocking(true).unwrap();
            assert!(control.recv(&mut [0; 9]).is_err(), "a spoofed source was taken for the container's");
            assert_eq!(visits.load(Ordering::SeqCst), 0, "{outcome}");
        }
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
