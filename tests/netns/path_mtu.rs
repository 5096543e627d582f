//! The path's MTU is the container's to find, hop limits count one hop, and the largest packets pass in fragments.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use crate::ground::{Ground, PYTHON, WORLDS, sealed};
use crate::process::{Outcome, Running, Stream, run, start};
use crate::routers::{END4, END6, ENDS, Way};
use crate::servers::{echo_datagrams, serve_streams};

/// What the link between the two routers takes.
const NARROW: u16 = 1_400;
/// What the container's link takes: as much as the host's, and more.
const MTUS: [&str; 2] = ["1500", "65520"];

fn shell(ground: &Ground, mtu: &str, script: &str) -> Outcome {
    run(ground.netferry(&["run", "--cidr6", "fd00:aa::/64", "--mtu", mtu, "--", "sh", "-c", script]))
}

fn python(ground: &Ground, mtu: &str, script: &str, arguments: &[&str]) -> Outcome {
    run(ground.netferry(&[&["run", "--mtu", mtu, "--", PYTHON, "-c", script], arguments].concat()))
}

fn serve_datagrams(way: &Way, address: IpAddr) {
    echo_datagrams(way.at_end(|| UdpSocket::bind((address, 7_000)).unwrap()), false);
}

#[test]
fn the_first_datagram_too_long_for_the_path_tells_the_container_so() {
    sealed(|ground| {
        ground.needs(&["ip"]);
        let way = ground.with_routers(NARROW);
        ENDS.into_iter().for_each(|address| serve_datagrams(&way, address));
        let script = "\
import errno, os, socket, subprocess, sys
address = sys.argv[1]
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5); s.connect((address, 7000))
for size in (100, 1300, 1452, 1452, 9000, 65507):
    data = os.urandom(size)
    try: s.send(data); assert s.recv(1 << 16) == data, size; print(size)
    except OSError as error: print(size, errno.errorcode.get(error.errno, error))
print(subprocess.check_output(['ip', 'route', 'get', address], text=True).split('mtu ')[1].split()[0])";
        for (mtu, address) in MTUS.into_iter().flat_map(|mtu| ENDS.map(|address| (mtu, address.to_string())))
        {
            let outcome = python(ground, mtu, script, &[&address]).expect_success();
            assert_eq!(outcome.stdout, "100\n1300\n1452 EMSGSIZE\n1452\n9000\n65507\n1400\n", "{outcome}");
        }
    });
}

#[test]
fn ping_is_told_who_could_not_pass_it_on_and_what_would_have_passed() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        ground.allow_ping();
        let _way = ground.with_routers(NARROW);
        let ping = "ping -n -c 1 -W 3 -M do";
        // Too long for the path, and too long already for the host's link.
        for (options, end, router, gateway, words) in [
            ("-4 -s 1472", END4.to_string(), "192.0.2.2", "10.0.2.2", "Frag needed and DF set (mtu = "),
            ("-6 -s 1452", END6.to_string(), "2001:db8:a1::2", "fd00:aa::2", "Packet too big: mtu="),
        ] {
            for mtu in MTUS {
                shell(ground, mtu, &format!("{ping} {options} {end}"))
                    .expect_code(1)
                    .expect_stdout(&format!("From {router} icmp_seq=1 {words}1400"));
            }
            shell(ground, "65520", &format!("{ping} {} -s 5000 {end}", &options[..2]))
                .expect_code(1)
                .expect_stdout(&format!("From {gateway} icmp_seq=1 {words}1500"));
        }
    });
}

#[test]
fn the_largest_echo_comes_back_over_a_narrow_path() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        ground.allow_ping();
        let _way = ground.with_routers(NARROW);
        for (mtu, address) in MTUS.into_iter().flat_map(|mtu| ENDS.map(|address| (mtu, address))) {
            // Until the host and the container have learnt the path.
            let script = format!(
                "for n in 1 2 3; do ping -n -c 1 -W 1 -s 65507 {address} > /dev/null; done; \
                 ping -n -c 5 -i 0.2 -W 3 -s 65507 {address}"
            );
            // Three routers on the way, and us.
            let outcome = shell(ground, mtu, &script).expect_success().expect_stdout("5 received");
            assert_eq!(outcome.stdout.matches("65515 bytes from").count(), 5, "{outcome}");
            assert_eq!(outcome.stdout.matches(" ttl=60 ").count(), 5, "{outcome}");
        }
    });
}

#[test]
fn tracepath_finds_the_mtu_where_it_shrinks() {
    sealed(|ground| {
        ground.needs(&["tracepath"]);
        let _way = ground.with_routers(NARROW);
        for (address, gateway, router) in [
            (IpAddr::from(END4), "10.0.2.2", "192.0.2.2"),
            (IpAddr::from(END6), "fd00:aa::2", "2001:db8:a1::2"),
        ] {
            for mtu in MTUS {
                let outcome = shell(ground, mtu, &format!("tracepath -n {address}")).expect_success();
                let told: Vec<String> = outcome
                    .stdout
                    .lines()
                    .filter(|line| line.contains("ms pmtu") && !line.contains("LOCALHOST"))
                    .map(|line| {
                        let words: Vec<_> = line.split_whitespace().collect();
                        format!("{} {}", words[1], words[words.len() - 1])
                    })
                    .collect();
                let narrow = format!("{router} 1400");
                let expected = match mtu {
                    "1500" => vec![narrow],
                    _ => vec![format!("{gateway} 1500"), narrow],
                };
                assert_eq!(told, expected, "{outcome}");
                assert!(outcome.stdout.contains("Resume: pmtu 1400 hops 5 back 5"), "{outcome}");
            }
        }
    });
}

#[test]
fn streams_fill_a_narrow_path_whatever_the_containers_mtu() {
    sealed(|ground| {
        let way = ground.with_routers(NARROW);
        for address in ENDS {
            let listener = way.at_end(|| TcpListener::bind((address, 7_001)).unwrap());
            serve_streams(listener, |mut stream, _: SocketAddr| {
                let mut got = Vec::new();
                stream.read_to_end(&mut got)?;
                stream.write_all(&got)
            });
        }
        let script = "\
import os, socket, sys
s = socket.create_connection((sys.argv[1], 7001)); data = os.urandom(300000); s.sendall(data); s.shutdown(1)
got = b''
while True:
    part = s.recv(1 << 16)
    if not part: break
    got += part
print(got == data)";
        for (mtu, address) in MTUS.into_iter().flat_map(|mtu| ENDS.map(|address| (mtu, address.to_string())))
        {
            let outcome = python(ground, mtu, script, &[&address]).expect_success();
            assert_eq!(outcome.stdout, "True\n", "{outcome}");
        }
    });
}

/// Says of each packet that comes from the host: protocol, hop limit, "df" or "-", bytes of its IP packet.
fn watch(ground: &Ground) -> Running {
    let script = "\
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)); s.bind(('world0', 3))
print('ready', flush=True)
while True:
    p, a = s.recvfrom(65535)
    if a[2] != 0: continue
    if p[0] >> 4 == 4: print(p[9], p[8], 'df' if p[6] & 0x40 else '-', len(p), flush=True)
    else: print(p[6], p[7], '-', len(p), flush=True)";
    let mut command = ground.root(PYTHON);
    command.args(["-c", script]);
    let mut watcher = ground.in_world(|| start(command));
    watcher.wait_for(Stream::Out, "ready");
    watcher
}

#[test]
fn a_packet_leaves_with_one_hop_less_and_may_be_fragmented_if_it_might_before() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        ground.allow_ping();
        let mut watcher = watch(ground);
        let script = "\
import socket, subprocess, sys
for address in sys.argv[1:]:
    v6 = ':' in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    def limit(s, hops): s.setsockopt(*((41, 16) if v6 else (0, 2)), hops)
    for hops, discover in ((77, 2), (78, 0)):
        s = socket.socket(family, socket.SOCK_DGRAM); limit(s, hops)
        s.setsockopt(*((41, 23) if v6 else (0, 10)), discover)  # IPV6_MTU_DISCOVER, IP_MTU_DISCOVER
        s.sendto(b'x' * 100, (address, 9))
    s = socket.socket(family, socket.SOCK_STREAM); limit(s, 87)
    try: s.connect((address, 9))
    except ConnectionRefusedError: pass
    subprocess.run(['ping', '-n', '-c', '1', '-W', '3', '-t', '97', '-s', '100', address], stdout=2)";
        let ends = WORLDS.map(|world| world.to_string());
        python(ground, "1500", script, &[&ends[0], &ends[1]]).expect_success();
        // Protocol, hop limit, DF, bytes. IPv6 has no DF, and no fragments of its own at this size.
        for line in [
            "17 76 df 128",
            "17 77 - 128",
            "6 86 df ",
            "1 96 ",
            "17 76 - 148",
            "17 77 - 148",
            "6 86 - ",
            "58 96 - 148",
        ] {
            watcher.wait_for(Stream::Out, line);
        }
    });
}

#[test]
fn datagrams_come_back_with_the_hops_that_are_left() {
    sealed(|ground| {
        let way = ground.with_routers(1_500);
        ENDS.into_iter().for_each(|address| serve_datagrams(&way, address));
        let script = "\
import socket, sys
for address in sys.argv[1:]:
    v6 = ':' in address
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
    s.setsockopt(*((41, 51) if v6 else (0, 12)), 1)  # IPV6_RECVHOPLIMIT, IP_RECVTTL
    s.sendto(b'x', (address, 7000))
    print(int.from_bytes(s.recvmsg(9, 99)[1][0][2], 'little'))";
        let ends = ENDS.map(|address| address.to_string());
        // 64 of the end, three routers, and us.
        let outcome = python(ground, "1500", script, &[&ends[0], &ends[1]]).expect_success();
        assert_eq!(outcome.stdout, "60\n60\n", "{outcome}");
    });
}
