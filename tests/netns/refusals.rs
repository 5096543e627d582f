//! What a router on the way refuses is told to the container in the router's words: its type, its code, its address.

use std::net::IpAddr;

use crate::ground::{Ground, PYTHON, WORLD4, WORLD6, sealed};
use crate::process::run;
use crate::routers::{END4, END6};

/// How iptables(8) names it, ICMP type and code, and what ping(8) makes of it.
const WORDS4: [(&str, u8, u8, &str); 7] = [
    ("icmp-net-unreachable", 3, 0, "Destination Net Unreachable"),
    ("icmp-host-unreachable", 3, 1, "Destination Host Unreachable"),
    ("icmp-proto-unreachable", 3, 2, "Destination Protocol Unreachable"),
    ("icmp-port-unreachable", 3, 3, "Destination Port Unreachable"),
    ("icmp-net-prohibited", 3, 9, "Destination Net Prohibited"),
    ("icmp-host-prohibited", 3, 10, "Destination Host Prohibited"),
    ("icmp-admin-prohibited", 3, 13, "Packet filtered"),
];
/// See [`WORDS4`].
const WORDS6: [(&str, u8, u8, &str); 4] = [
    ("icmp6-no-route", 1, 0, "Destination unreachable: No route"),
    ("icmp6-adm-prohibited", 1, 1, "Destination unreachable: Administratively prohibited"),
    ("icmp6-addr-unreachable", 1, 3, "Destination unreachable: Address unreachable"),
    ("icmp6-port-unreachable", 1, 4, "Destination unreachable: Port unreachable"),
];

/// Has the world refuse to forward anything, with these words.
fn refuse(ground: &Ground, is_ipv6: bool, words: &str) {
    let program = if is_ipv6 { "ip6tables" } else { "iptables" };
    ground.needs(&[program]);
    for arguments in ["-F FORWARD", &format!("-A FORWARD -j REJECT --reject-with {words}")] {
        let mut command = ground.root(program);
        command.args(arguments.split(' '));
        ground.in_world(|| run(command)).expect_success();
    }
}

/// A datagram and a connect to `sys.argv[1]`: type, code and author of the error that comes back for each.
const ASK: &str = "\
import select, socket, sys
address = sys.argv[1]; v6 = ':' in address
for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
    s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind); s.setblocking(False)
    s.setsockopt(*((41, 25) if v6 else (0, 11)), 1)  # IPV6_RECVERR, IP_RECVERR
    s.connect_ex((address, 9))
    if kind == socket.SOCK_DGRAM: s.send(b'x')
    p = select.poll(); p.register(s, 0); p.poll(5000)
    try: data = s.recvmsg(99, 999, socket.MSG_ERRQUEUE)[1][0][2]
    except OSError as error: print(error); continue
    who = socket.inet_ntop(s.family, data[24:40] if v6 else data[20:24])
    print(data[5], data[6], who)";

fn keep_their_words(ground: &Ground, end: IpAddr, router: IpAddr, words: &[(&str, u8, u8, &str)]) {
    ground.needs(&["ping"]);
    ground.allow_ping();
    let _way = ground.with_routers(1_500);
    let (is_ipv6, end) = (end.is_ipv6(), end.to_string());
    for (name, kind, code, said) in words {
        refuse(ground, is_ipv6, name);
        let outcome = run(ground.netferry(&["run", "--", PYTHON, "-c", ASK, &end])).expect_success();
        let line = format!("{kind} {code} {router}\n");
        assert_eq!(outcome.stdout, line.repeat(2), "{name}: {outcome}");
        let ping = ["run", "--", "ping", "-n", "-c", "1", "-W", "5", &end];
        run(ground.netferry(&ping)).expect_stdout(&format!("From {router} icmp_seq=1 {said}"));
    }
}

#[test]
fn refusals_over_ipv4_keep_their_words() {
    sealed(|ground| keep_their_words(ground, END4.into(), WORLD4.into(), &WORDS4));
}

#[test]
fn refusals_over_ipv6_keep_their_words() {
    sealed(|ground| keep_their_words(ground, END6.into(), WORLD6.into(), &WORDS6));
}
