//! The program under the name of slirp4netns, started as that program's clients start it.

use std::io::Read;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::ground::{Ground, HOST4, HOST6, PYTHON, SCRATCH, SUBJECT, WORLD4, WORLD6, sealed};
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::{http, serve_streams};

/// A namespace of the unprivileged user, held by a sleeping process.
pub fn container(ground: &Ground) -> Running {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
    let mut container = start(command);
    container.wait_for(Stream::Out, "up");
    container
}

/// Runs `program` inside `container`.
pub fn inside(ground: &Ground, container: &Running, program: &[&str]) -> Outcome {
    let pid = container.pid().to_string();
    let mut command = ground.user("nsenter");
    command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
    run(command)
}

/// The program by its other name.
pub fn slirp4netns(ground: &Ground) -> Command {
    ground.user(link().to_str().unwrap())
}

fn link() -> PathBuf {
    let link = Path::new(SCRATCH).join("slirp4netns");
    if !link.exists() {
        symlink(SUBJECT, &link).unwrap();
    }
    link
}

/// Starts it and waits until it says that it is ready, as runtimes do: on a descriptor.
pub fn serve(ground: &Ground, arguments: &[&str]) -> Running {
    let script = format!("exec {} --ready-fd 5 \"$@\" 5>&2", link().display());
    let mut command = ground.user("sh");
    command.args(["-c", &script, "sh"]).args(arguments);
    let mut running = start(command);
    let deadline = Instant::now() + SOON;
    while running.so_far(Stream::Err) != "1" {
        assert!(Instant::now() < deadline, "not ready: {}", running.so_far(Stream::Err));
        std::thread::sleep(Duration::from_millis(10));
    }
    running.wait_for(Stream::Out, "* Recommended IP: ");
    running
}

/// Ends it as runtimes do; it dies of the signal, as those who wait for it expect.
fn end(running: Running, signal: Signal) {
    running.signal(signal);
    let outcome = running.finish(SOON);
    assert_eq!(outcome.status.signal(), Some(signal as i32), "{outcome}");
}

fn fetch(ground: &Ground, container: &Running, url: &str) -> Outcome {
    ground.needs(&["curl"]);
    inside(ground, container, &["curl", "-sS", "--max-time", "10", url])
}

fn pid_of(container: &Running) -> String {
    container.pid().to_string()
}

#[test]
fn configure_gives_a_process_the_network_of_the_original() {
    sealed(|ground| {
        let container = container(ground);
        let running = serve(ground, &["-c", "--mtu=65520", "-6", &pid_of(&container), "tap0"]);
        let script =
            "ip -o address show tap0; ip route; ip -6 route show default; ip link show tap0; ip link show lo";
        let text = inside(ground, &container, &["sh", "-c", script]).expect_success().stdout;
        let expected = [
            "10.0.2.100/24",
            "default via 10.0.2.2",
            " fd00::",
            "/64",
            "default via fe80::2",
            "mtu 65520",
            "LOOPBACK,UP",
        ];
        for part in expected {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        http(ground.world_listener(WORLD4, 8080));
        http(ground.world_listener(WORLD6, 8080));
        fetch(ground, &container, &format!("http://{WORLD4}:8080/")).expect_success().expect_stdout("hello ");
        fetch(ground, &container, &format!("http://[{WORLD6}]:8080/"))
            .expect_success()
            .expect_stdout("hello ");
        end(running, Signal::SIGTERM);
        let links = inside(ground, &container, &["ip", "-brief", "link"]).stdout;
        assert!(!links.contains("tap0"), "the device was left behind\n{links}");
    });
}

#[test]
fn a_path_and_its_user_namespace_are_served_with_another_subnet() {
    sealed(|ground| {
        let container = container(ground);
        let (netns, userns) =
            (format!("/proc/{}/ns/net", container.pid()), format!("/proc/{}/ns/user", container.pid()));
        let mac = "02:11:22:33:44:55";
        let arguments = [
            "--configure",
            "--cidr=192.168.77.0/24",
            "--macaddress",
            mac,
            "--netns-type=path",
            "--userns-path",
            &userns,
            &netns,
            "eth7",
        ];
        let _running = serve(ground, &arguments);
        let text = inside(ground, &container, &["sh", "-c", "ip address show eth7; ip route"]).stdout;
        for part in ["192.168.77.100/24", "default via 192.168.77.2", mac] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, &format!("http://{WORLD4}:8080/")).expect_success();
    });
}

#[test]
fn root_of_its_own_user_namespace_is_served_by_path_as_podman_has_it() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        // Everything happens in one user namespace, whose root starts us with every capability there.
        let script = format!(
            "set -e; unshare --net sleep 30 & sleep 0.3; pid=$!
             {} --disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 \
                --netns-type=path /proc/$pid/ns/net tap0 3</dev/zero 4>{SCRATCH}/ready &
             exit 9",
            link().display()
        );
        // A descriptor with an event at once would end it: a fifo that somebody holds has none.
        let script = script.replace("3</dev/zero", &format!("3<>{SCRATCH}/exit")).replace(
            "exit 9",
            &format!(
                "for i in $(seq 100); do [ -s {SCRATCH}/ready ] && break; sleep 0.05; done
                 nsenter --net=/proc/$pid/ns/net curl -sS --max-time 10 http://{WORLD4}:8080/
                 grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$!/status; kill $! $pid"
            ),
        );
        let mut make = ground.user("mkfifo");
        make.arg(format!("{SCRATCH}/exit"));
        run(make).expect_success();
        let mut command = ground.user("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &script]);
        let outcome = run(command);
        let text = &outcome.stdout;
        assert!(text.contains("hello ") && text.contains("NoNewPrivs:\t1"), "{outcome}");
        assert!(text.contains("Seccomp:\t2"), "{outcome}");
    });
}

#[test]
fn a_persistent_device_that_others_configure_is_served_without_configure() {
    sealed(|ground| {
        let container = container(ground);
        let set_up = "ip tuntap add name tap0 mode tap && ip link set tap0 address 02:aa:bb:cc:dd:ee mtu 65520 up && \
                      ip address add 10.0.2.100/24 dev tap0 && ip route add default via 10.0.2.2";
        inside(ground, &container, &["sh", "-c", set_up]).expect_success();
        let arguments = ["--mtu", "65520", "--disable-host-loopback", &pid_of(&container), "tap0"];
        let running = serve(ground, &arguments);
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, &format!("http://{WORLD4}:8080/")).expect_success().expect_stdout("hello ");
        end(running, Signal::SIGTERM);
        let links = inside(ground, &container, &["ip", "-brief", "address"]).stdout;
        assert!(links.contains("tap0") && links.contains("10.0.2.100/24"), "not ours to remove\n{links}");
    });
}

#[test]
fn without_configure_a_new_device_is_left_alone() {
    sealed(|ground| {
        let container = container(ground);
        let _running = serve(ground, &[&pid_of(&container)]);
        let link = inside(ground, &container, &["ip", "-oneline", "address", "show", "tap0"]).stdout;
        assert_eq!(link, "", "it has addresses");
        let link = inside(ground, &container, &["ip", "-oneline", "link", "show", "tap0"]).expect_success();
        assert!(link.stdout.contains("state DOWN"), "{link}");
    });
}

#[test]
fn the_exit_descriptor_ends_it() {
    sealed(|ground| {
        let container = container(ground);
        let script =
            format!("sleep 2 | {} -c --exit-fd=0 {}; echo status ${{?}}", link().display(), container.pid());
        let mut command = ground.user("sh");
        command.args(["-c", &script]);
        let mut running = start(command);
        running.wait_for(Stream::Out, "* Recommended IP: ");
        assert!(!running.so_far(Stream::Out).contains("status"), "it ended before its time");
        running.finish(SOON).expect_success().expect_stdout("status 0");
    });
}

#[test]
fn it_outlives_the_process_that_named_the_namespace() {
    sealed(|ground| {
        let container = container(ground);
        let mut second = ground.user("nsenter");
        let pid = pid_of(&container);
        second.args(["--target", &pid, "--user", "--net", "--preserve-credentials", "sleep", "30"]);
        let second = start(second);
        let _running = serve(ground, &["-c", &pid]);
        drop(container);
        http(ground.world_listener(WORLD4, 8080));
        // Time enough to have seen its end, were it watched.
        std::thread::sleep(Duration::from_millis(300));
        fetch(ground, &second, &format!("http://{WORLD4}:8080/")).expect_success().expect_stdout("hello ");
    });
}

#[test]
fn the_loopback_of_the_host_is_reached_unless_that_is_disabled() {
    sealed(|ground| {
        let container = container(ground);
        http(TcpListener::bind("127.0.0.1:8000").unwrap());
        let running = serve(ground, &["-c", &pid_of(&container)]);
        fetch(ground, &container, "http://10.0.2.2:8000/").expect_success().expect_stdout("hello ");
        end(running, Signal::SIGTERM);
        let _running = serve(ground, &["-c", "--disable-host-loopback", &pid_of(&container)]);
        // 7: could not connect.
        fetch(ground, &container, "http://10.0.2.2:8000/").expect_code(7);
    });
}

#[test]
fn names_are_looked_up_unless_that_is_disabled() {
    sealed(|ground| {
        ground.needs(&["dig"]);
        let container = container(ground);
        ground.world_resolver(WORLD4, "world");
        let ask = ["dig", "+short", "+tries=1", "+time=2", "@10.0.2.3", "www.test"];
        let running = serve(ground, &["-c", &pid_of(&container)]);
        inside(ground, &container, &ask).expect_success().expect_stdout(&WORLD4.to_string());
        end(running, Signal::SIGTERM);
        let _running = serve(ground, &["-c", "--disable-dns", &pid_of(&container)]);
        let outcome = inside(ground, &container, &ask);
        assert!(!outcome.stdout.contains(&WORLD4.to_string()), "{outcome}");
        // 9: no reply from the server.
        outcome.expect_code(9);
    });
}

#[test]
fn it_is_there_until_it_is_told_to_end_even_without_a_namespace() {
    sealed(|ground| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let container = container(ground);
            let running = serve(ground, &["-c", &pid_of(&container)]);
            drop(container);
            // Time enough to have seen the end of the interface. Clients end the namespace first and us by our
            // process id then, which must not be another's.
            std::thread::sleep(Duration::from_millis(500));
            let processor_time = || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
                let fields = stat.rsplit(") ").next().unwrap().split(' ');
                fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
            };
            let before = processor_time();
            std::thread::sleep(Duration::from_millis(300));
            assert!(processor_time() <= before + 2, "it waits busily");
            end(running, signal);
        }
    });
}

#[test]
fn the_exit_descriptor_ends_it_even_without_a_namespace() {
    sealed(|ground| {
        let container = container(ground);
        let script =
            format!("sleep 2 | {} -c --exit-fd=0 {}; echo status ${{?}}", link().display(), container.pid());
        let mut command = ground.user("sh");
        command.args(["-c", &script]);
        let mut running = start(command);
        running.wait_for(Stream::Out, "* Recommended IP: ");
        drop(container);
        std::thread::sleep(Duration::from_millis(500));
        assert!(!running.so_far(Stream::Out).contains("status"), "it ended before its time");
        running.finish(SOON).expect_success().expect_stdout("status 0");
    });
}

#[test]
fn signals_that_were_ignored_still_are() {
    sealed(|ground| {
        let container = container(ground);
        let script = format!("trap '' HUP; exec {} -c {}", link().display(), container.pid());
        let mut command = ground.user("sh");
        command.args(["-c", &script]);
        let mut running = start(command);
        running.wait_for(Stream::Out, "* Recommended IP: ");
        running.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(200));
        http(ground.world_listener(WORLD4, 8080));
        fetch(ground, &container, &format!("http://{WORLD4}:8080/")).expect_success().expect_stdout("hello ");
        end(running, Signal::SIGTERM);
    });
}

#[test]
fn ethernet_addresses_of_two_containers_differ() {
    sealed(|ground| {
        let addresses = [(); 2].map(|()| {
            let container = container(ground);
            let _running = serve(ground, &["-c", "-6", &pid_of(&container)]);
            let script = "ip -br link show tap0; ip -6 -o address show tap0 scope global";
            let outcome = inside(ground, &container, &["sh", "-c", script]).expect_success();
            // One address of that scope, which is the one that the container makes of its Ethernet address.
            let mac = outcome.stdout.split_whitespace().nth(2).unwrap().to_owned();
            assert_eq!(outcome.stdout.matches("fd00::").count(), 1, "{outcome}");
            let end: Vec<&str> = mac.split(':').skip(4).collect();
            let tail = format!("{:x}", u16::from_str_radix(&end.concat(), 16).unwrap());
            assert!(outcome.stdout.contains(&format!(":{tail}/64")), "{outcome}");
            mac
        });
        assert_ne!(addresses[0], addresses[1]);
    });
}

/// A server in the world that tells each client its address.
fn tell_address(ground: &Ground, address: impl Into<IpAddr>) {
    serve_streams(ground.world_listener(address, 7001), |mut stream, client| {
        // What is asked is read: a close over unread data would be a reset.
        stream.read_exact(&mut [0])?;
        std::io::Write::write_all(&mut stream, format!("{}\n", client.ip()).as_bytes())
    });
}

const ASK_ADDRESS: &str = "\
import socket, sys
s = socket.create_connection((sys.argv[1], 7001), 5); s.send(b'x'); print(s.recv(99).decode())";

#[test]
fn host_sockets_send_from_the_address_or_interface_asked_for() {
    sealed(|ground| {
        let container = container(ground);
        // Not what the kernel would choose.
        let (second4, second6) = ("203.0.113.77", "2001:db8:1::77");
        for (address, prefix) in [(second4, "24"), (second6, "64")] {
            let mut add = ground.root("ip");
            add.args(["address", "add", &format!("{address}/{prefix}"), "dev", "host0", "nodad"]);
            run(add).expect_success();
        }
        tell_address(ground, WORLD4);
        tell_address(ground, WORLD6);
        let pid = pid_of(&container);
        let address = |of: &dyn ToString| {
            let of = of.to_string();
            let outcome = inside(ground, &container, &[PYTHON, "-c", ASK_ADDRESS, &of]);
            assert!(outcome.status.success(), "asked {of}: {outcome}");
            outcome.stdout
        };
        let running =
            serve(ground, &["-c", "-6", "--outbound-addr", second4, "--outbound-addr6", second6, &pid]);
        assert_eq!((address(&WORLD4).trim(), address(&WORLD6).trim()), (second4, second6));
        end(running, Signal::SIGTERM);
        let _running = serve(ground, &["-c", "-6", "--outbound-addr=host0", "--outbound-addr6=host0", &pid]);
        let (first4, first6) = (HOST4.to_string(), [HOST6.to_string(), second6.to_owned()]);
        assert_eq!(address(&WORLD4).trim(), first4);
        let seen = address(&WORLD6);
        assert!(first6.iter().any(|own| own == seen.trim()), "{seen} is not an address of host0");
    });
}

#[test]
fn a_source_that_the_host_has_not_is_refused() {
    sealed(|ground| {
        let container = container(ground);
        let pid = pid_of(&container);
        let mut add = ground.root("ip");
        add.args(["tuntap", "add", "bare0", "mode", "tap"]);
        run(add).expect_success();
        for (option, what) in [
            ("--outbound-addr=198.51.100.9", "198.51.100.9"),
            ("--outbound-addr6=2001:db8::9", "2001:db8::9"),
            ("--outbound-addr=nosuch0", "interface nosuch0"),
            ("--outbound-addr6=bare0", "no IPv6 address"),
        ] {
            let mut command = slirp4netns(ground);
            command.args(["-c", option, &pid]);
            run(command).expect_code(1).expect_stderr(what).expect_stderr("ip address");
        }
    });
}

#[test]
fn an_open_device_is_served_by_its_descriptor() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        let script = format!(
            "import ctypes, fcntl, os, struct, subprocess, sys, time
libc = ctypes.CDLL(None)
assert libc.unshare(0x40000000) == 0  # a network namespace
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'tap0', 0x1002))  # TUNSETIFF, a TAP without packet information
for command in ('link set lo up', 'link set tap0 up', 'address add 10.0.2.100/24 dev tap0', 'route add default via 10.0.2.2'):
    subprocess.run(['ip'] + command.split(), check=True)
os.set_inheritable(tap, True); sys.stdout.flush(); time.sleep(0.1)
print('descriptor', tap, flush=True); time.sleep(0.1)
curl = subprocess.run(['curl', '-sS', '--retry', '20', '--retry-delay', '1', '--retry-all-errors', '--max-time', '15', 'http://{WORLD4}:8080/'])
sys.exit(curl.returncode)"
        );
        // The holder of the device cannot start us outside of its network: its parent does, by a copy of it.
        let outer = format!(
            "import os, re, subprocess, sys
holder = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)
number = int(re.match(rb'descriptor (\\d+)', holder.stdout.readline()).group(1))
libc = __import__('ctypes').CDLL(None, use_errno=True)
tap = libc.syscall(438, os.pidfd_open(holder.pid), number, 0)  # pidfd_getfd
assert tap >= 0, __import__('os').strerror(__import__('ctypes').get_errno())
os.set_inheritable(tap, True)
relay = subprocess.Popen(['{}', '--netns-type=tapfd', str(tap)], close_fds=False)
print(holder.stdout.read().decode()); relay.terminate(); sys.exit(holder.wait() or relay.wait() + 15)",
            link().display()
        );
        let mut command = ground.user("unshare");
        command.args(["--user", "--map-root-user", PYTHON, "-c", &outer, &script]);
        run(command).expect_success().expect_stdout("hello ");
    });
}

#[test]
fn clients_find_the_options_they_look_for() {
    sealed(|ground| {
        let mut help = slirp4netns(ground);
        help.arg("--help");
        let help = run(help).expect_success().stdout;
        let looked_for = [
            "--disable-host-loopback",
            "--mtu",
            "--enable-sandbox",
            "--enable-seccomp",
            "--cidr",
            "--outbound-addr",
            "--enable-ipv6",
            "--netns-type",
            "--api-socket",
            "--disable-dns",
            "--macaddress",
            "--target-type",
            "--userns-path",
        ];
        for option in looked_for {
            assert!(help.contains(option), "no {option} in\n{help}");
        }
        let mut version = slirp4netns(ground);
        version.arg("--version");
        run(version)
            .expect_success()
            .expect_stdout("slirp4netns version 1.3")
            .expect_stdout("SLIRP_CONFIG_VERSION_MAX: 4");
        let mut subcommand = ground.netferry(&["slirp4netns", "-v"]);
        subcommand.env_remove("PATH");
        run(subcommand).expect_success().expect_stdout("slirp4netns version 1.3");
    });
}
