//! A container that configures itself, behind the face of slirp4netns without `--configure`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use crate::ground::{Ground, PYTHON, SCRATCH, WORLD4, WORLD6, sealed};
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::http;

/// What udhcpc calls with the lease in its environment: does with it what an init system would.
const UDHCPC_SCRIPT: &str = "#!/bin/sh -e
[ \"$1\" = bound ] || exit 0
ip address add \"$ip/$mask\" broadcast \"$broadcast\" dev \"$interface\"
ip link set \"$interface\" mtu \"$mtu\"
ip route add default via \"$router\"
echo \"leased $ip/$mask from $serverid for $lease, resolver $dns, mtu $mtu\"
";

/// Asks all DHCPv6 servers for the resolver, and prints kind and options of the answer.
const INFORMATION_REQUEST: &str = "
import socket, struct
link = socket.if_nametoindex('tap0')
client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
client.settimeout(5)
client.bind(('::', 546))
client.sendto(bytes.fromhex('0b010203' '0001000a00030001020000000009' '000600020017'), ('ff02::1:2', 547, 0, link))
answer, server = client.recvfrom(1500)
assert answer[:4] == bytes.fromhex('07010203'), answer.hex()
assert server[0].startswith('fe80::2'), server
at = 4
while at < len(answer):
    code, length = struct.unpack_from('!HH', answer, at)
    if code == 23:
        print('resolver', socket.inet_ntop(socket.AF_INET6, answer[at + 4:at + 4 + length]))
    at += 4 + length
";

/// A namespace of the unprivileged user, held by a sleeping process.
fn target(ground: &Ground) -> Running {
    let mut command = ground.user("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "sh",
        "-c",
        "ip link set lo up; echo up; exec sleep 60",
    ]);
    let mut target = start(command);
    target.wait_for(Stream::Out, "up");
    target
}

/// Runs `program` inside `target`, as its root.
fn inside(ground: &Ground, target: &Running, program: &[&str]) -> Outcome {
    let pid = target.pid().to_string();
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
    run(command)
}

/// Runs `script` inside again and again until it succeeds.
fn await_inside(ground: &Ground, target: &Running, script: &str) {
    let started = Instant::now();
    loop {
        let outcome = inside(ground, target, &["sh", "-c", script]);
        if outcome.status.success() {
            return;
        }
        assert!(started.elapsed() < SOON, "{script}: {outcome}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Starts the program as `slirp4netns` on `target`, which brings the device up itself.
fn serve(ground: &Ground, target: &Running, options: &[&str]) -> Running {
    let pid = target.pid().to_string();
    let running = start(ground.netferry(&[&["slirp4netns"], options, &[&pid, "tap0"]].concat()));
    await_inside(ground, target, "ip link set tap0 up");
    running
}

/// Runs udhcpc once, without a second try.
fn udhcpc(ground: &Ground, target: &Running, options: &[&str]) -> Outcome {
    ground.needs(&["busybox"]);
    let script = Path::new(SCRATCH).join("udhcpc.sh");
    fs::write(&script, UDHCPC_SCRIPT).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let command = ["busybox", "udhcpc", "-f", "-i", "tap0", "-n", "-q", "-O", "mtu", "-O", "broadcast"];
    let script = ["-s", script.to_str().unwrap()];
    inside(ground, target, &[&command[..], &script, options].concat())
}

#[test]
fn udhcpc_leases_an_address_and_the_world_is_reached_from_it() {
    sealed(|ground| {
        ground.needs(&["curl", "dig"]);
        ground.world_resolver(WORLD4, "first");
        let target = target(ground);
        let _running = serve(ground, &target, &["--mtu", "9000"]);
        udhcpc(ground, &target, &[])
            .expect_success()
            .expect_stdout("leased 10.0.2.15/24 from 10.0.2.2 for 86400, resolver 10.0.2.3, mtu 9000");
        let resolve = ["dig", "+short", "+time=8", "+tries=1", "@10.0.2.3", "www.test"];
        assert_eq!(inside(ground, &target, &resolve).expect_success().stdout, "203.0.113.2\n");
        http(ground.world_listener(WORLD4, 8080));
        let fetch =
            ["curl", "-sS", "--max-time", "10", "--interface", "10.0.2.15", "http://203.0.113.2:8080/"];
        inside(ground, &target, &fetch).expect_success().expect_stdout("hello ");
        // Once more, by broadcast and as somebody else; the first keeps its own.
        let again = udhcpc(ground, &target, &["-B", "-x", "0x3d:00aabbcc"]);
        assert!(again.stderr.contains("lease of 10.0.2.16 obtained from 10.0.2.2"), "{again}");
    });
}

#[test]
fn no_resolver_is_leased_where_dns_is_disabled() {
    sealed(|ground| {
        let target = target(ground);
        let _running = serve(ground, &target, &["--disable-dns", "--cidr", "10.5.0.0/16"]);
        let outcome = udhcpc(ground, &target, &[]).expect_success();
        let lease = outcome.stdout.lines().find(|line| line.starts_with("leased")).unwrap();
        assert_eq!(lease, "leased 10.5.0.15/16 from 10.5.0.2 for 86400, resolver , mtu 1500");
    });
}

#[test]
fn an_address_made_of_the_advertised_prefix_reaches_the_world() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        let target = target(ground);
        let _running = serve(ground, &target, &["--enable-ipv6"]);
        await_inside(
            ground,
            &target,
            "ip -6 address show dev tap0 scope global -tentative | grep 'inet6 fd00::.*dynamic'",
        );
        await_inside(ground, &target, "ip -6 route | grep 'default via fe80::2 dev tap0 proto ra'");
        http(ground.world_listener(WORLD6, 8080));
        let fetch = ["curl", "-sS", "--max-time", "10", "http://[2001:db8:1::2]:8080/"];
        inside(ground, &target, &fetch).expect_success().expect_stdout("hello ");
        let ask = inside(ground, &target, &[PYTHON, "-c", INFORMATION_REQUEST]);
        assert_eq!(ask.expect_success().stdout, "resolver fd00::3\n");
    });
}
