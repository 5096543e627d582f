//! Confinement, by default or as `--enable-sandbox` and `--enable-seccomp` ask for it: every kind of traffic still
//! works, and nothing else does.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ground::{FAR4, Ground, PYTHON, SUBJECT, WORLD4, WORLD6, WORLDS, sealed};
use crate::pattern::crc_of_body;
use crate::process::{Outcome, Running, SOON, Stream, run, start};
use crate::servers::{echo_datagrams, http};

const CONFINED: [&str; 2] = ["--enable-sandbox", "--enable-seccomp"];
/// Enough for the flow's buffers to fill and the segments to be joined.
const BODY_BYTES: u64 = 16 << 20;

/// A relay and the namespace that it serves.
struct Pair {
    relay: Running,
    /// Of a process in the namespace.
    container: i32,
    /// That process, where it is not the relay's child.
    holder: Option<Running>,
}

/// As RootlessKit starts it: a plain user, and the number of a process in its own user namespace.
fn started_by_a_plain_user(ground: &Ground, options: &[&str]) -> Pair {
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
    let mut holder = start(command);
    holder.wait_for(Stream::Out, "up");
    let container = holder.pid();
    let number = container.to_string();
    let words = [&["slirp4netns", "-c", "--enable-ipv6"], options, &[&number, "tap0"]].concat();
    Pair { relay: start(ground.netferry(&words)), container, holder: Some(holder) }
}

/// As podman starts it: root of a user namespace that owns the container's network namespace, given by path.
fn started_by_a_root_of_its_namespace(ground: &Ground, options: &[&str]) -> Pair {
    let script = format!(
        "unshare --net sleep 60 >/dev/null 2>&1 & container=$!
         until [ \"$(cat /proc/$container/comm)\" = sleep ]; do sleep 0.01; done
         echo container $container
         exec {SUBJECT} slirp4netns -c --enable-ipv6 {} --netns-type=path /proc/$container/ns/net tap0",
        options.join(" ")
    );
    let mut command = ground.user("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let mut relay = start(command);
    let line = relay.wait_for(Stream::Out, "container ");
    let container = line.trim_start_matches("container ").parse().unwrap();
    Pair { relay, container, holder: None }
}

type Start = fn(&Ground, &[&str]) -> Pair;
const STARTS: [Start; 2] = [started_by_a_plain_user, started_by_a_root_of_its_namespace];

impl Pair {
    /// A line of the relay's `/proc/PID/status`.
    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.relay.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_string()
    }

    /// Waits until the relay is as `field` tells.
    #[track_caller]
    fn await_status(&self, field: &str, wanted: &str) {
        let deadline = Instant::now() + SOON;
        while self.status(field) != wanted {
            assert!(
                Instant::now() < deadline,
                "{field} is {:?}\n{}",
                self.status(field),
                self.relay.so_far(Stream::Err)
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a program in the container, once that has its network: the relay confines itself while it is set up.
    #[track_caller]
    fn inside(&self, ground: &Ground, program: &[&str]) -> Outcome {
        let deadline = Instant::now() + SOON;
        while self.enter(ground, &["ip", "-4", "route", "show", "default"]).stdout.is_empty() {
            assert!(Instant::now() < deadline, "no network\n{}", self.relay.so_far(Stream::Err));
            thread::sleep(Duration::from_millis(5));
        }
        self.enter(ground, program)
    }

    fn enter(&self, ground: &Ground, program: &[&str]) -> Outcome {
        let pid = self.container.to_string();
        let mut command = ground.user("nsenter");
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(program);
        run(command)
    }

    /// Ends it as a runtime does; it must have lived until now, and not die of its own filter.
    fn end(self) -> Outcome {
        self.relay.signal(Signal::SIGTERM);
        let outcome = self.relay.finish(SOON).expect_signal(Signal::SIGTERM);
        kill(Pid::from_raw(self.container), Signal::SIGKILL).unwrap();
        assert!(!outcome.stderr.contains("system call"), "{outcome}");
        outcome
    }
}

/// Runs `case` with both ways of starting, confined.
fn confined(ground: &Ground, case: impl Fn(&Ground, &Pair)) {
    for start in STARTS {
        let pair = start(ground, &CONFINED);
        // Installed last of all.
        pair.await_status("Seccomp", "2");
        case(ground, &pair);
        pair.end();
    }
}

#[test]
fn no_capability_no_new_privilege_and_no_file_is_left() {
    sealed(|ground| {
        let before = ground.belongings();
        confined(ground, |_, pair| {
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(pair.status(set), "0000000000000000", "{set}");
            }
            assert_eq!(pair.status("NoNewPrivs"), "1");
            let root = format!("/proc/{}/root", pair.relay.pid());
            let mut names: Vec<_> = fs::read_dir(&root)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            // Only what resolv.conf is reached by.
            assert!(names == ["etc"] || names == ["etc", "run"], "{names:?}");
            assert!(fs::metadata(format!("{root}/etc/resolv.conf")).is_ok());
        });
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn without_dns_there_is_no_file_at_all() {
    sealed(|ground| {
        let pair =
            started_by_a_plain_user(ground, &["--enable-sandbox", "--enable-seccomp", "--disable-dns"]);
        pair.await_status("Seccomp", "2");
        assert_eq!(fs::read_dir(format!("/proc/{}/root", pair.relay.pid())).unwrap().count(), 0);
        pair.end();
    });
}

#[test]
fn the_network_stays_that_of_the_host() {
    sealed(|ground| {
        confined(ground, |_, pair| {
            let namespace = |kind: &str, pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            let relay = pair.relay.pid().to_string();
            assert_eq!(namespace("net", &relay), namespace("net", "self"));
            assert_ne!(namespace("mnt", &relay), namespace("mnt", "self"));
            // Nobody in the container is above it.
            let container = pair.container.to_string();
            if pair.holder.is_some() {
                assert_ne!(namespace("user", &relay), namespace("user", &container));
            }
        });
    });
}

#[test]
fn streams_are_carried_both_ways() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        for world in WORLDS {
            http(ground.world_listener(world, 8080));
        }
        confined(ground, |ground, pair| {
            for world in WORLDS {
                let url = format!("http://{}", std::net::SocketAddr::new(world, 8080));
                let script = format!(
                    "curl -sS --max-time 20 {url}/bytes/{BODY_BYTES} | curl -sS --max-time 20 -T - {url}/upload \
                     -H 'Content-Length: {BODY_BYTES}' -H 'Transfer-Encoding:'"
                );
                let outcome = pair.inside(ground, &["sh", "-c", &script]).expect_success();
                assert_eq!(outcome.stdout, format!("{BODY_BYTES} {:08x}\n", crc_of_body(BODY_BYTES)));
            }
            // Refused, and unreachable.
            pair.inside(ground, &["curl", "-sS", "--max-time", "10", "http://203.0.113.2:9/"]).expect_code(7);
            pair.inside(ground, &["curl", "-sS", "--max-time", "10", "http://198.18.0.1/"]).expect_code(7);
        });
    });
}

#[test]
fn many_connections_at_once_are_carried() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        confined(ground, |ground, pair| {
            let script = "\
import socket
connections = []
for i in range(300):
    s = socket.create_connection(('203.0.113.2', 8080), 10); s.sendall(b'GET /bytes/100000 HTTP/1.1\\r\\n\\r\\n')
    connections.append(s)
total = 0
for s in connections:
    while block := s.recv(1 << 16): total += len(block)
print(total > 300 * 100000)";
            let outcome = pair.inside(ground, &[PYTHON, "-c", script]).expect_success();
            assert_eq!(outcome.stdout, "True\n");
        });
    });
}

#[test]
fn datagrams_of_any_size_come_back_and_errors_are_told() {
    sealed(|ground| {
        for world in WORLDS {
            echo_datagrams(ground.world_datagrams(world, 7000), false);
        }
        confined(ground, |ground, pair| {
            let script = "\
import os, socket, sys
address = sys.argv[1]
def new():
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5); return s
s = new()
for size in (0, 1, 1472, 1473, 9000, 60000):
    data = os.urandom(size); s.sendto(data, (address, 7000)); assert s.recv(1 << 16) == data, size
s.setsockopt(17, 103, 500); s.sendto(bytes(5000), (address, 7000))
for i in range(10): assert len(s.recv(1 << 16)) == 500
s = new(); s.connect((address, 9))
try: s.send(b'x'); s.recv(1)
except ConnectionRefusedError: print('refused')";
            for world in WORLDS {
                let outcome =
                    pair.inside(ground, &[PYTHON, "-c", script, &world.to_string()]).expect_success();
                assert_eq!(outcome.stdout, "refused\n");
            }
        });
    });
}

#[test]
fn ping_works_where_the_host_allows_it() {
    sealed(|ground| {
        ground.needs(&["ping"]);
        ground.allow_ping();
        confined(ground, |ground, pair| {
            for world in [IpAddr::from(WORLD4), WORLD6.into()] {
                let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", &world.to_string()];
                pair.inside(ground, &ping).expect_success().expect_stdout("2 received");
            }
        });
    });
}

fn ask(ground: &Ground, pair: &Pair) -> String {
    let dig = ["dig", "@10.0.2.3", "+short", "+time=8", "+tries=1", "who.test", "TXT"];
    pair.inside(ground, &dig).expect_success().stdout
}

/// Both ways of starting, each with its own change of resolvers.
fn follows(ground: &Ground, first: impl Fn(&Ground), change: impl Fn(&Ground)) {
    ground.needs(&["dig"]);
    ground.world_resolver(WORLD4, "first");
    ground.world_resolver(FAR4, "second");
    for start in STARTS {
        first(ground);
        let pair = start(ground, &CONFINED);
        pair.await_status("Seccomp", "2");
        assert_eq!(ask(ground, &pair), "\"first\"\n");
        change(ground);
        let deadline = Instant::now() + Duration::from_secs(5);
        while ask(ground, &pair) != "\"second\"\n" {
            assert!(Instant::now() < deadline, "the change was not followed");
        }
        pair.end();
    }
}

#[test]
fn resolvers_replaced_by_renaming_are_followed() {
    sealed(|ground| {
        ground.make_etc_private();
        follows(
            ground,
            |ground| ground.replace_resolvers(&[WORLD4.into()]),
            |ground| ground.replace_resolvers(&[FAR4.into()]),
        );
    });
}

#[test]
fn resolvers_of_a_service_below_run_are_followed_and_nothing_else_of_run_is_seen() {
    sealed(|ground| {
        ground.make_etc_private();
        nix::mount::mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("mode=0755"),
        )
        .unwrap();
        fs::create_dir_all("/run/systemd/resolve").unwrap();
        fs::write("/run/podman.sock", "").unwrap();
        let _ = fs::remove_file("/etc/resolv.conf");
        symlink("../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf").unwrap();
        let name = |address: IpAddr| {
            fs::write("/run/systemd/resolve/new", format!("nameserver {address}\n")).unwrap();
            fs::rename("/run/systemd/resolve/new", "/run/systemd/resolve/stub-resolv.conf").unwrap();
        };
        follows(ground, |_| name(WORLD4.into()), |_| name(FAR4.into()));
        name(WORLD4.into());
        confined(ground, |_, pair| {
            let run = format!("/proc/{}/root/run", pair.relay.pid());
            let names: Vec<_> = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["systemd"]);
        });
    });
}

#[test]
fn each_option_does_its_own_part() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        http(ground.world_listener(WORLD4, 8080));
        let url = "http://203.0.113.2:8080/";
        for start in STARTS {
            let pair = start(ground, &["--enable-sandbox"]);
            pair.await_status("NoNewPrivs", "1");
            assert_eq!(
                (pair.status("Seccomp"), pair.status("CapEff")),
                ("0".into(), "0000000000000000".into())
            );
            pair.inside(ground, &["curl", "-sS", "--max-time", "10", url]).expect_success();
            pair.end();
            let pair = start(ground, &["--enable-seccomp"]);
            pair.await_status("Seccomp", "2");
            assert!(fs::metadata(format!("/proc/{}/root/proc", pair.relay.pid())).is_ok());
            pair.inside(ground, &["curl", "-sS", "--max-time", "10", url]).expect_success();
            pair.end();
        }
    });
}

/// A field of a process's status.
fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_string()
}

/// The children of a process, by the kernel's list of each thread.
fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// Waits until the children of a process are these, by whether their calls are filtered: they confine themselves while it is ready
/// already.
#[track_caller]
fn await_filters(pid: i32, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut filters: Vec<_> = children(pid).iter().map(|pid| status(*pid, "Seccomp")).collect();
        filters.sort();
        if filters == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{filters:?}, not {expected:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn assert_fully_confined(pid: i32, files: &[&str]) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!((status(pid, "NoNewPrivs").as_str(), status(pid, "Seccomp").as_str()), ("1", "2"));
    let mut names: Vec<_> = fs::read_dir(format!("/proc/{pid}/root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "run");
    assert_eq!(names, files);
    for kind in ["user", "mnt", "ipc", "uts"] {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(namespace(&pid.to_string()), namespace("self"), "{kind}");
    }
}

#[test]
fn run_confines_itself_before_the_command_starts() {
    sealed(|ground| {
        let before = ground.belongings();
        let mut relay = start(ground.netferry(&["run", "--", "sh", "-c", "echo started; exec sleep 60"]));
        relay.wait_for(Stream::Out, "started");
        assert_fully_confined(relay.pid(), &["etc"]);
        // The command, who passes signals on to it, and the janitor of the control socket.
        await_filters(relay.pid(), &["0", "2", "2"]);
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON).expect_code(143);
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn attach_confines_itself_before_it_tells_that_it_is_ready() {
    sealed(|ground| {
        let mut command = ground.user("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
        let mut holder = start(command);
        holder.wait_for(Stream::Out, "up");
        let mut relay = start(ground.netferry(&["attach", &holder.pid().to_string()]));
        relay.wait_for(Stream::Err, "tap0 10.0.2.100/24");
        assert_fully_confined(relay.pid(), &["etc"]);
        // Set up by one that has ended; the janitor of the control socket is left.
        await_filters(relay.pid(), &["2"]);
        holder.signal(Signal::SIGKILL);
        relay.finish(SOON).expect_code(0);
    });
}

#[test]
fn a_network_confines_itself_before_its_first_container_and_stays_so_with_it() {
    sealed(|ground| {
        run(ground.netferry(&["network", "create", "lab"])).expect_success();
        let network = crate::bridge::daemon();
        // Going to the background takes more than serving does: who is answered is answered from behind the filter.
        crate::bridge::inspect(ground, "lab");
        assert_fully_confined(network, &["etc"]);
        let words = ["run", "--network", "lab", "--", "sh", "-c", "echo started; exec sleep 60"];
        let mut member = start(ground.netferry(&words));
        member.wait_for(Stream::Out, "started");
        assert_fully_confined(network, &["etc"]);
        // The thread that serves the container was made after all that, and has all of it.
        let threads: Vec<String> = fs::read_dir(format!("/proc/{network}/task"))
            .unwrap()
            .map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap())
            .collect();
        assert!(threads.len() > 1, "{threads:?}");
        for thread in &threads {
            for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
                assert!(thread.contains(line), "{thread}");
            }
        }
        member.signal(Signal::SIGTERM);
        member.finish(SOON).expect_code(143);
        run(ground.netferry(&["network", "rm", "--force", "lab"])).expect_success();
    });
}

#[test]
fn pasta_confines_itself_and_the_process_in_the_container() {
    sealed(|ground| {
        let before = ground.belongings();
        let words = [
            "pasta",
            "--config-net",
            "-t",
            "8000",
            "-T",
            "9000",
            "-u",
            "none",
            "-U",
            "none",
            "--",
            "sh",
            "-c",
        ];
        let words = [&words[..], &["echo started; exec sleep 60"]].concat();
        let mut relay = start(ground.netferry(&words));
        relay.wait_for(Stream::Out, "started");
        // No resolver is asked, so that no file is needed.
        assert_fully_confined(relay.pid(), &[]);
        // The command, who passes signals on to it, who opens sockets inside, and the janitor.
        await_filters(relay.pid(), &["0", "2", "2", "2"]);
        let (mut inside, mut filtered) = (0, 0);
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        for pid in children(relay.pid()).into_iter().filter(|pid| status(*pid, "Seccomp") == "2") {
            filtered += 1;
            if fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() != own {
                inside += 1;
                // What `-T` below 1024 takes, in the container.
                assert_eq!(status(pid, "CapEff"), "0000000000000400");
                assert_eq!(fs::read_dir(format!("/proc/{pid}/root")).unwrap().count(), 0);
            }
        }
        assert_eq!((filtered, inside), (3, 1));
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON).expect_code(143);
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn without_a_sandbox_it_is_said_loudly_and_all_is_kept() {
    sealed(|ground| {
        let words = ["run", "--quiet", "--no-sandbox", "--", "sh", "-c", "echo started; exec sleep 60"];
        let mut relay = start(ground.netferry(&words));
        relay.wait_for(Stream::Out, "started");
        assert_eq!(status(relay.pid(), "Seccomp"), "0");
        assert!(fs::metadata(format!("/proc/{}/root/proc", relay.pid())).is_ok());
        relay.signal(Signal::SIGTERM);
        let outcome = relay.finish(SOON).expect_code(143);
        assert!(
            outcome.stderr.contains("WARNING: --no-sandbox") && outcome.stderr.lines().count() == 1,
            "{outcome}"
        );
    });
}

#[test]
fn signals_reach_a_command_that_has_become_another_user() {
    sealed(|ground| {
        ground.needs(&["setpriv"]);
        let words = [
            "run",
            "--",
            "setpriv",
            "--reuid",
            "1",
            "--regid",
            "1",
            "--clear-groups",
            "sh",
            "-c",
            "trap 'echo told; exit 7' USR1; echo started $(id -u); while :; do sleep 0.05; done",
        ];
        let mut relay = start(ground.netferry(&words));
        relay.wait_for(Stream::Out, "started 1");
        relay.signal(Signal::SIGUSR1);
        let outcome = relay.finish(SOON).expect_code(7);
        assert!(outcome.stdout.contains("told"), "{outcome}");
    });
}
