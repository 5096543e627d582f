//! Datagrams of all sizes, and the errors that answer them.

use std::net::IpAddr;

use crate::ground::{Ground, HOST4, HOST6, PYTHON, UNREACHABLE4, WORLD4, WORLDS, sealed};
use crate::process::{Outcome, run};
use crate::servers::echo_datagrams;

const PRELUDE: &str = "\
import errno, os, socket, sys, time
address = sys.argv[1]
def new():
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5); return s
";

fn python(ground: &Ground, options: &[&str], address: IpAddr, script: &str) -> Outcome {
    let (script, address) = (format!("{PRELUDE}{script}"), address.to_string());
    run(ground.netferry(&[&["run"], options, &["--", PYTHON, "-c", &script, &address]].concat()))
}

#[test]
fn datagrams_are_echoed_and_come_from_the_host() {
    sealed(|ground| {
        for world in WORLDS {
            echo_datagrams(ground.world_datagrams(world, 7000), true);
            let script = "s = new(); s.sendto(b'x', (address, 7000)); d, a = s.recvfrom(99); print(a[0], a[1], d.decode())";
            let outcome = python(ground, &[], world, script).expect_success();
            let host = if world.is_ipv4() { "from 203.0.113.1:" } else { "from [2001:db8:1::1]:" };
            assert!(outcome.stdout.starts_with(&format!("{world} 7000 {host}")), "{outcome}");
        }
    });
}

#[test]
fn datagrams_of_any_size_come_back_whole() {
    sealed(|ground| {
        for (world, mtu) in WORLDS.into_iter().flat_map(|world| [(world, "1500"), (world, "65520")]) {
            if mtu == "1500" {
                echo_datagrams(ground.world_datagrams(world, 7000), false);
            }
            // One after the other: 0 is a datagram too, 1472 and 1452 just fit, the rest travel in fragments. Where the
            // container's link takes more than the host's, the first that is too long tells the container so.
            let script = "\
s = new(); s.settimeout(1); lost = []
for size in (0, 1, 512, 1452, 1453, 1472, 1473, 9000, 60000):
    data = os.urandom(size)
    for attempt in range(2):
        s.sendto(data, (address, 7000))
        try: assert s.recv(1 << 16) == data, size; break
        except TimeoutError: lost.append(size)
    else: sys.exit('%d bytes were lost again' % size)
print(*lost)";
            let outcome = python(ground, &["--mtu", mtu], world, script).expect_success();
            let lost = match (mtu, world) {
                ("1500", _) => "\n",
                (_, IpAddr::V4(_)) => "1473\n",
                (_, IpAddr::V6(_)) => "1453\n",
            };
            assert_eq!(outcome.stdout, lost, "{outcome}");
        }
    });
}

#[test]
fn a_burst_of_datagrams_arrives_in_order() {
    sealed(|ground| {
        echo_datagrams(ground.world_datagrams(WORLD4, 7000), false);
        let script = "\
s = new(); s.connect((address, 7000)); got = []
s.send(b'0'); s.recv(99)  # neighbours are known and the host's socket is open after this
for i in range(64): s.send(b'%d' % i)
try:
    while len(got) < 64: got.append(int(s.recv(99)))
except TimeoutError: pass
assert got == sorted(got), got
print(len(got))";
        assert_eq!(python(ground, &[], WORLD4.into(), script).expect_success().stdout, "64\n");
    });
}

#[test]
fn two_sockets_of_the_container_do_not_hear_each_other() {
    sealed(|ground| {
        echo_datagrams(ground.world_datagrams(WORLD4, 7000), false);
        let script = "\
a, b = new(), new()
a.sendto(b'for a', (address, 7000)); b.sendto(b'for b', (address, 7000))
print(a.recv(99).decode(), b.recv(99).decode())";
        assert_eq!(python(ground, &[], WORLD4.into(), script).expect_success().stdout, "for a for b\n");
    });
}

#[test]
fn a_closed_port_is_reported_to_the_sender() {
    sealed(|ground| {
        for world in WORLDS {
            let script = "\
s = new(); s.connect((address, 9))
try:
    s.send(b'x'); s.recv(99); print('answered')
except ConnectionRefusedError: print('refused')
except TimeoutError: print('silence')";
            for options in [&[][..], &["--udp-mapping", "endpoint-independent"]] {
                assert_eq!(python(ground, options, world, script).expect_success().stdout, "refused\n");
            }
        }
    });
}

#[test]
fn an_unreachable_destination_is_reported_to_the_sender() {
    sealed(|ground| {
        let script = "\
s = new(); s.setsockopt(0, 11, 1)  # IP_RECVERR, ip(7): this error is a soft one
s.connect((address, 9))
try:
    s.send(b'x'); s.recv(99); print('answered')
except OSError as error: print(errno.errorcode.get(error.errno, error))";
        for options in [&[][..], &["--udp-mapping", "endpoint-independent"]] {
            let outcome = python(ground, options, UNREACHABLE4.into(), script).expect_success();
            assert!(["EHOSTUNREACH\n", "ENETUNREACH\n"].contains(&&*outcome.stdout), "{outcome}");
        }
    });
}

/// A server of the world that answers from another port than it was asked on.
fn answer_from_elsewhere(ground: &Ground) {
    let (asked, other) = (ground.world_datagrams(WORLD4, 7000), ground.world_datagrams(WORLD4, 7001));
    std::thread::spawn(move || {
        let mut buffer = [0; 99];
        while let Ok((_, client)) = asked.recv_from(&mut buffer) {
            let _ = other.send_to(b"from elsewhere", client);
        }
    });
}

const ASK_AND_SAY_WHO_ANSWERS: &str = "\
s = new(); s.settimeout(1); s.sendto(b'x', (address, 7000))
try: print(s.recvfrom(99)[1][1])
except TimeoutError: print('silence')";

#[test]
fn only_the_peer_asked_may_answer_by_default() {
    sealed(|ground| {
        answer_from_elsewhere(ground);
        let outcome = python(ground, &[], WORLD4.into(), ASK_AND_SAY_WHO_ANSWERS).expect_success();
        assert_eq!(outcome.stdout, "silence\n");
    });
}

#[test]
fn anyone_may_answer_where_mapping_is_endpoint_independent() {
    sealed(|ground| {
        answer_from_elsewhere(ground);
        let options = ["--udp-mapping", "endpoint-independent"];
        let outcome = python(ground, &options, WORLD4.into(), ASK_AND_SAY_WHO_ANSWERS).expect_success();
        assert_eq!(outcome.stdout, "7001\n");
    });
}

#[test]
fn a_server_learns_that_its_client_is_gone() {
    sealed(|ground| {
        for (world, published) in WORLDS.into_iter().zip(["7000:7000/udp", "[::]:7000:7000/udp"]) {
            let script = "\
s = new(); s.bind(('::' if ':' in address else '0.0.0.0', 7000)); print('ready', flush=True)
s.setsockopt(*((41, 25) if ':' in address else (0, 11)), 1)  # IPV6_RECVERR, IP_RECVERR
question, client = s.recvfrom(99)
time.sleep(0.3); s.sendto(b'answer', client)
deadline = time.time() + 5
while True:
    try: data, ancillary, flags, about = s.recvmsg(99, 999, socket.MSG_ERRQUEUE); break
    except OSError:
        if time.time() > deadline: sys.exit('nobody told')
        time.sleep(0.05)
origin, kind, code = ancillary[0][2][4:7]
print(about[:2] == client[:2], data, kind, code)";
            let (script, address) = (format!("{PRELUDE}{script}"), world.to_string());
            let arguments = ["run", "--publish", published, "--", PYTHON, "-c", &script, &address];
            let mut server = crate::process::start(ground.netferry(&arguments));
            server.wait_for(crate::process::Stream::Out, "ready");
            // It asks, and is gone before it is answered.
            let client = ground.world_datagrams(world, 0);
            let host: IpAddr = if world.is_ipv4() { HOST4.into() } else { HOST6.into() };
            client.send_to(b"question", (host, 7000)).unwrap();
            drop(client);
            let outcome = server.finish(crate::process::SOON).expect_success();
            let told = if world.is_ipv4() { "3 3" } else { "1 4" };
            assert_eq!(outcome.stdout, format!("ready\nTrue b'answer' {told}\n"), "{outcome}");
        }
    });
}
