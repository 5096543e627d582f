//! The program under the name of pasta: what the container looks like, whom it reaches, how we live and end.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, SUBJECT, WORLD4, WORLD6, processes, sealed};
use crate::process::{Outcome, Running, SOON, run, start};
use crate::servers::{echo_datagrams, http};
use crate::slirp4netns::{container, inside};

/// What podman 5 says, but for the namespace and the ports.
const PODMANS: [&str; 15] = [
    "--config-net",
    "--dns-forward",
    "169.254.1.1",
    "-t",
    "none",
    "-u",
    "none",
    "-T",
    "none",
    "-U",
    "none",
    "--no-map-gw",
    "--quiet",
    "--map-guest-addr",
    "169.254.1.2",
];

/// The program by its other name.
pub fn pasta(ground: &Ground, arguments: &[&str]) -> Command {
    let mut command = ground.user(link().to_str().unwrap());
    command.args(arguments);
    command
}

fn link() -> PathBuf {
    let link = Path::new(SCRATCH).join("pasta");
    if !link.exists() {
        symlink(SUBJECT, &link).unwrap();
    }
    link
}

/// Serves `container` in the background, and is there when this returns.
pub fn serve(ground: &Ground, container: &Running, arguments: &[&str]) {
    let pid = container.pid().to_string();
    let outcome = run(pasta(ground, &[arguments, &[&pid]].concat())).expect_success();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "nothing is to be said");
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes of ours that live.
fn living() -> Vec<String> {
    processes().into_iter().filter(|name| name.contains("pasta") || name.contains("netferry")).collect()
}

/// Gets what a web server says.
pub fn fetch(ground: &Ground, container: &Running, address: impl Into<IpAddr>, port: u16) -> Outcome {
    ground.needs(&["curl"]);
    let url = format!("http://{}/", SocketAddr::new(address.into(), port));
    inside(ground, container, &["curl", "-sS", "--max-time", "5", &url])
}

#[test]
fn the_container_looks_like_the_host() {
    sealed(|ground| {
        let container = container(ground);
        serve(ground, &container, &["--config-net", "--no-map-gw", "--quiet"]);
        let script = "ip -o address show dev host0; ip link show host0; ip route; ip -6 route";
        let text = inside(ground, &container, &["sh", "-c", script]).expect_success().stdout;
        for part in [
            "203.0.113.1/24",
            "2001:db8:1::1/64",
            "mtu 65520",
            "default via 203.0.113.2 dev host0",
            "203.0.113.0/24 dev host0",
            "default via fe80::1 dev host0",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        http(ground.world_listener(WORLD4, 8080));
        http(ground.world_listener(WORLD6, 8080));
        fetch(ground, &container, WORLD4, 8080).expect_success().expect_stdout("hello 203.0.113.1");
        fetch(ground, &container, WORLD6, 8080).expect_success().expect_stdout("hello 2001:db8:1::1");
    });
}

#[test]
fn options_say_what_the_interface_is_to_be() {
    sealed(|ground| {
        let container = container(ground);
        let options = [
            "--config-net",
            "-I",
            "eth7",
            "--mtu",
            "1400",
            "-a",
            "192.0.2.9",
            "-n",
            "24",
            "-g",
            "192.0.2.1",
            "--ns-mac-addr",
            "02:11:22:33:44:55",
            "-4",
        ];
        serve(ground, &container, &options);
        let script = "ip -o address show dev eth7; ip link show eth7; ip route; ip -6 route show default";
        let text = inside(ground, &container, &["sh", "-c", script]).expect_success().stdout;
        for part in ["192.0.2.9/24", "mtu 1400", "02:11:22:33:44:55", "default via 192.0.2.1 dev eth7"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("2001:db8"), "{text}");
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, WORLD4, 8080).expect_success().expect_stdout("hello 203.0.113.1");
    });
}

#[test]
fn a_container_of_podman_reaches_the_world_names_and_the_host_but_not_its_loopback() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        let container = container(ground);
        let queries = ground.world_resolver(WORLD4, "world");
        let netns = format!("/proc/{}/ns/net", container.pid());
        let userns = format!("/proc/{}/ns/user", container.pid());
        let words = [&PODMANS[..], &["--userns", &userns, "--netns", &netns]].concat();
        let outcome = run(pasta(ground, &words)).expect_success();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, WORLD4, 8080).expect_success();
        for transport in ["+notcp", "+tcp"] {
            let dig = ["dig", transport, "+short", "+tries=1", "@169.254.1.1", "www.test", "A"];
            inside(ground, &container, &dig).expect_success().expect_stdout("203.0.113.2");
        }
        assert!(queries.load(std::sync::atomic::Ordering::Relaxed) > 0);
        // The host, by the address that it shares with the container.
        http(TcpListener::bind((HOST4, 8081)).unwrap());
        fetch(ground, &container, Ipv4Addr::new(169, 254, 1, 2), 8081).expect_success();
        // The gateway is the host's: what it serves is reached, and the host's loopback is not.
        http(TcpListener::bind((Ipv4Addr::LOCALHOST, 8082)).unwrap());
        fetch(ground, &container, WORLD4, 8082).expect_code(7);
        fetch(ground, &container, Ipv4Addr::new(169, 254, 1, 2), 8082).expect_code(7);
        fetch(ground, &container, Ipv4Addr::LOCALHOST, 8082).expect_code(7);
    });
}

#[test]
fn the_gateway_is_the_hosts_loopback_unless_another_address_is() {
    sealed(|ground| {
        http(TcpListener::bind((Ipv4Addr::LOCALHOST, 8082)).unwrap());
        http(TcpListener::bind((Ipv6Addr::LOCALHOST, 8082)).unwrap());
        let none = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--config-net"];
        let by_gateway = container(ground);
        serve(ground, &by_gateway, &none);
        fetch(ground, &by_gateway, WORLD4, 8082).expect_success();
        inside(ground, &by_gateway, &["curl", "-sS", "--max-time", "5", "http://[fe80::1%host0]:8082/"])
            .expect_success();
        let by_alias = container(ground);
        let alias = ["--map-host-loopback", "192.0.2.77", "--map-host-loopback", "2001:db8:1::77"];
        serve(ground, &by_alias, &[&none[..], &alias].concat());
        fetch(ground, &by_alias, Ipv4Addr::new(192, 0, 2, 77), 8082).expect_success();
        fetch(ground, &by_alias, "2001:db8:1::77".parse::<Ipv6Addr>().unwrap(), 8082).expect_success();
        fetch(ground, &by_alias, WORLD4, 8082).expect_code(7);
    });
}

#[test]
fn a_rootless_daemon_of_rootlesskit_has_the_network_it_asks_for() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        let container = container(ground);
        ground.world_resolver(WORLD4, "world");
        run(pasta(ground, &["--host-lo-to-ns-lo", "--version"])).expect_success();
        let words = [
            "--stderr",
            "--ns-ifname=tap0",
            "--mtu=65520",
            "--config-net",
            "--address=10.0.2.100",
            "--netmask=24",
            "--gateway=10.0.2.2",
            "--dns-forward=10.0.2.3",
            "--no-map-gw",
            "--ipv4-only",
            "--tcp-ports=auto",
            "--udp-ports=auto",
            "--host-lo-to-ns-lo",
        ];
        serve(ground, &container, &words);
        let script = "ip -o address show dev tap0; ip route";
        let text = inside(ground, &container, &["sh", "-c", script]).expect_success().stdout;
        for part in ["10.0.2.100/24", "default via 10.0.2.2 dev tap0"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let dig = ["dig", "+short", "+tries=1", "@10.0.2.3", "www.test", "A"];
        inside(ground, &container, &dig).expect_success().expect_stdout("203.0.113.2");
    });
}

#[test]
fn datagrams_and_pings_leave_as_the_hosts_own() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        ground.allow_ping();
        let container = container(ground);
        serve(ground, &container, &["--config-net", "--no-map-gw", "-q"]);
        echo_datagrams(ground.world_datagrams(WORLD4, 7000), true);
        let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); \
                      s.sendto(b'x', ('203.0.113.2', 7000)); print(s.recv(99).decode())";
        inside(ground, &container, &[PYTHON, "-c", script])
            .expect_success()
            .expect_stdout("from 203.0.113.1:");
        for world in [IpAddr::V4(WORLD4), IpAddr::V6(WORLD6)] {
            let world = world.to_string();
            inside(ground, &container, &["ping", "-n", "-c", "1", "-W", "5", &world]).expect_success();
        }
    });
}

#[test]
fn transports_that_are_switched_off_carry_nothing() {
    sealed(|ground| {
        http(ground.world_listener(WORLD4, 8080));
        echo_datagrams(ground.world_datagrams(WORLD4, 7000), true);
        let container = container(ground);
        serve(ground, &container, &["--config-net", "--no-map-gw", "--no-udp"]);
        fetch(ground, &container, WORLD4, 8080).expect_success();
        let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); \
                      s.sendto(b'x', ('203.0.113.2', 7000)); print(s.recv(99).decode())";
        assert!(!inside(ground, &container, &[PYTHON, "-c", script]).status.success());
    });
}

#[test]
fn a_command_gets_a_network_and_gives_its_status() {
    sealed(|ground| {
        http(ground.world_listener(WORLD4, 8080));
        link();
        let before = ground.belongings();
        let script =
            format!("ip -o address show dev host0; curl -sS --max-time 5 http://{WORLD4}:8080/; exit 42");
        let outcome =
            run(pasta(ground, &["--config-net", "--no-map-gw", "sh", "-c", &script])).expect_code(42);
        assert!(outcome.stdout.contains("203.0.113.1/24") && outcome.stdout.contains("hello"), "{outcome}");
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn in_the_background_it_writes_its_number_and_ends_with_the_container() {
    sealed(|ground| {
        let container = container(ground);
        let file = Path::new(SCRATCH).join("pasta.pid");
        serve(ground, &container, &["--config-net", "--pid", file.to_str().unwrap()]);
        let number = fs::read_to_string(&file).unwrap();
        let command = fs::read_to_string(format!("/proc/{}/cmdline", number.trim())).unwrap();
        assert!(command.contains("pasta") && number.ends_with('\n'), "{number:?} is {command:?}");
        let session = fs::read_to_string(format!("/proc/{}/stat", number.trim())).unwrap();
        let session = session.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
        assert_eq!(session, number.trim(), "it leads a session of its own");
        container.signal(nix::sys::signal::Signal::SIGKILL);
        eventually("the relay has ended", || living().is_empty());
    });
}

#[test]
fn it_ends_when_the_file_of_its_namespace_goes() {
    sealed(|ground| {
        let container = container(ground);
        let netns = Path::new(SCRATCH).join("netns");
        fs::write(&netns, "").unwrap();
        crate::ground::bind(Path::new(&format!("/proc/{}/ns/net", container.pid())), &netns);
        let userns = format!("/proc/{}/ns/user", container.pid());
        let netns_text = netns.to_str().unwrap();
        let words = [&PODMANS[..], &["--userns", &userns, "--netns", netns_text]].concat();
        run(pasta(ground, &words)).expect_success();
        assert!(!living().is_empty());
        nix::mount::umount2(&netns, nix::mount::MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&netns).unwrap();
        eventually("the relay has ended", || living().is_empty());
    });
}

#[test]
fn a_signal_ends_it_and_the_interface_goes_with_it() {
    sealed(|ground| {
        let container = container(ground);
        let file = Path::new(SCRATCH).join("pasta.pid");
        serve(ground, &container, &["--config-net", "--pid", file.to_str().unwrap()]);
        let number: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        eventually("the relay has ended", || living().is_empty());
        let links = inside(ground, &container, &["ip", "-brief", "link"]).stdout;
        assert!(!links.contains("host0"), "the device was left behind\n{links}");
    });
}

#[test]
fn frames_are_recorded_for_those_who_read_pcap() {
    sealed(|ground| {
        ground.needs(&["tcpdump"]);
        http(ground.world_listener(WORLD4, 8080));
        let file = Path::new(SCRATCH).join("frames.pcap");
        let container = container(ground);
        serve(ground, &container, &["--config-net", "--no-map-gw", "--pcap", file.to_str().unwrap()]);
        fetch(ground, &container, WORLD4, 8080).expect_success();
        let read = || ground.text_of("tcpdump", &["-nn", "-r", file.to_str().unwrap(), "-v", "tcp"]);
        eventually("both directions are recorded", || {
            let text = read();
            text.contains("203.0.113.2.8080: Flags [S]") && text.contains("203.0.113.2.8080 > 203.0.113.1.")
        });
        assert!(!read().contains("incorrect"), "{}", read());
    });
}

#[test]
fn a_namespace_that_is_not_there_is_told_in_one_line() {
    sealed(|ground| {
        link();
        let before = ground.belongings();
        for words in [
            ["--config-net", "--netns", "/nowhere/netns"],
            ["--config-net", "--netns", "no-such-name"],
            ["--config-net", "-q", "999999"],
        ] {
            let outcome = run(pasta(ground, &words)).expect_code(1);
            assert_eq!((outcome.stdout.as_str(), outcome.stderr.lines().count()), ("", 1), "{outcome}");
        }
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn in_the_foreground_it_stays_until_told() {
    sealed(|ground| {
        let container = container(ground);
        let pid = container.pid().to_string();
        let running = start(pasta(ground, &["--config-net", "--foreground", &pid]));
        eventually("the network is up", || {
            inside(ground, &container, &["ip", "route"]).stdout.contains("default via 203.0.113.2")
        });
        running.signal(nix::sys::signal::Signal::SIGTERM);
        running.finish(SOON).expect_success();
    });
}
