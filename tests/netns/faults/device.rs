//! The container's root takes its interface in hand, and namespaces end in every way there is.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{FACES, Face, Served, eventually, holder, serve_world};
use crate::ground::{Ground, SCRATCH, SUBJECT, sealed};
use crate::process::{SOON, Stream, start};

/// Those of the container for IPv4, what others need first.
fn routes(ground: &Ground, served: &Served) -> Vec<String> {
    let output = served.inside(ground, "ip").args(["route", "show"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut routes: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    routes.sort_by_key(|route| route.contains(" via "));
    routes
}

/// An interface that goes down loses its routes.
fn give_back(ground: &Ground, served: &Served, routes: &[String], device: &str) {
    for route in routes {
        let route = route.replace(served.device(), device);
        served.ip(ground, &format!("route replace {route}"));
    }
}

#[test]
fn an_interface_that_its_container_changes_works_as_soon_as_it_can() {
    sealed(|ground| {
        serve_world(ground);
        for face in FACES {
            let served = face.serve(ground, &[]);
            let mut agent = served.agent(ground);
            let device = served.device();
            let routes = routes(ground, &served);
            agent.expect("connect('old')", "connected");
            agent.expect("datagrams('flow')", "open");
            // Down, with bytes on their way; what it had is up to whoever takes it up again.
            served.ip(ground, &format!("link set {device} down"));
            agent.begin("echo('old', 100000)");
            served.ip(ground, &format!("link set {device} up"));
            give_back(ground, &served, &routes, device);
            assert_eq!(agent.answer(), "echoed", "{face:?}");
            // Smaller, larger than we were told, renamed, with another Ethernet address, and without offloads.
            for change in ["mtu 1280", "mtu 9000", "mtu 1500", "name other", "address 02:00:00:00:00:07"] {
                if change.starts_with("name") {
                    served.ip(ground, &format!("link set {device} down"));
                }
                let device = if change.starts_with("address") { "other" } else { device };
                served.ip(ground, &format!("link set {device} {change}"));
                if change.starts_with("name") {
                    served.ip(ground, "link set other up");
                    give_back(ground, &served, &routes, "other");
                }
                agent.expect("echo('old', 300000)", "echoed");
                agent.expect("connect('new')", "connected");
                agent.expect("echo('new', 300000)", "echoed");
                let answer = agent.ask("until('from ', \"asks('flow')\")");
                assert!(answer.starts_with("from "), "{face:?} {change}: {answer}");
            }
            assert!(served.cpu() < Duration::from_secs(3), "{:?}", served.cpu());
            drop(agent);
            served.end();
        }
    });
}

/// Takes the interface away, and expects that this ends nothing that is not the network's.
#[test]
fn an_interface_that_its_container_deletes_ends_the_network_and_not_the_command() {
    sealed(|ground| {
        serve_world(ground);
        for face in FACES {
            let before = ground.belongings();
            let mut served = face.serve(ground, &[]);
            let agent = served.agent(ground);
            served.ip(ground, &format!("link delete {}", served.device()));
            drop(agent);
            match face {
                Face::Run | Face::Pasta => {
                    let told = "the container's interface was removed: the command goes on without a network";
                    served.relay.wait_for(Stream::Err, told);
                    kill(Pid::from_raw(served.container), Signal::SIGTERM).unwrap();
                    served.relay.finish(SOON).expect_code(128 + 15);
                }
                Face::Attach => {
                    served.relay.finish(SOON).expect_success();
                }
                Face::Slirp4netns => {
                    // podman ends it by its number later, which must be its own until then.
                    eventually("it rests", || served.is_sleeping());
                    assert!(served.relay.is_running());
                    served.relay.signal(Signal::SIGTERM);
                    served.relay.finish(SOON).expect_signal(Signal::SIGTERM);
                }
            }
            served.holder = None;
            ground.assert_nothing_left(&before);
        }
    });
}

#[test]
fn an_interface_that_is_moved_away_is_served_where_it_is() {
    sealed(|ground| {
        serve_world(ground);
        let served = Face::Run.serve(ground, &[]);
        drop(served.agent(ground));
        // Another network of the container's, made by its root.
        let mut command = served.inside(ground, "unshare");
        command.args(["--net", "sh", "-c", "echo container $$; exec sleep 100"]);
        let mut elsewhere = start(command);
        elsewhere.wait_for(Stream::Out, "container ");
        served.ip(ground, &format!("link set tap0 netns {}", elsewhere.pid()));
        let there = Served { container: elsewhere.pid(), ..served };
        for words in [
            "link set lo up",
            "address add 10.0.2.100/24 dev tap0",
            "link set tap0 up",
            "route add default via 10.0.2.2",
        ] {
            there.ip(ground, words);
        }
        let mut agent = there.agent(ground);
        agent.expect("connect('one')", "connected");
        agent.expect("echo('one', 100000)", "echoed");
        drop(agent);
        // With that network goes the interface, and the command is told so.
        drop(elsewhere);
        let mut relay = there.relay;
        relay.wait_for(Stream::Err, "the container's interface was removed");
        relay.signal(Signal::SIGTERM);
        relay.finish(SOON).expect_code(128 + 15);
    });
}

/// A network namespace as `ip netns add` makes it, at a path, of the ground's root.
fn named(name: &str) -> String {
    let path = Path::new(SCRATCH).join(name);
    File::create(&path).unwrap();
    let path = path.to_str().unwrap().to_owned();
    assert!(Command::new("unshare").arg(format!("--net={path}")).arg("true").status().unwrap().success());
    path
}

/// Who serves a namespace that is known by a path, and how: with what end.
const BY_PATH: [(&[&str], bool); 4] = [
    (&["attach"], true),
    (&["slirp4netns", "-c", "--netns-type=path"], false),
    (&["pasta", "--foreground", "--config-net", "--netns"], true),
    // Nothing of the container's is held but by the process inside.
    (&["pasta", "--foreground", "--config-net", "--splice-only", "--netns"], true),
];

/// Serves the namespace at `path`; `None` once that has a link.
fn serve_path(ground: &Ground, words: &[&str], path: &str) -> crate::process::Running {
    let mut command = ground.root(SUBJECT);
    command.args(words).arg(path);
    if words[0] == "slirp4netns" {
        command.arg("tap0");
    }
    let relay = start(command);
    eventually("it serves", || {
        let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).unwrap_or_default();
        let is_confined = words[0] == "slirp4netns" || status.contains("Seccomp:\t2");
        is_confined && (words.contains(&"--splice-only") || has_link(path))
    });
    relay
}

fn has_link(path: &str) -> bool {
    let output = Command::new("nsenter").arg(format!("--net={path}")).args(["ip", "-brief", "link"]).output();
    output.unwrap().stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() > 1
}

#[test]
fn a_path_that_is_unmounted_and_removed_ends_whoever_served_it() {
    sealed(|ground| {
        let before = ground.belongings();
        for (words, ends) in BY_PATH {
            let path = named("netns");
            let relay = serve_path(ground, words, &path);
            assert!(Command::new("umount").args(["--lazy", &path]).status().unwrap().success());
            fs::remove_file(&path).unwrap();
            if ends {
                relay.finish(SOON).expect_success();
            } else {
                // Only its number is still wanted.
                relay.signal(Signal::SIGTERM);
                relay.finish(SOON).expect_signal(Signal::SIGTERM);
            }
        }
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_path_that_is_only_unmounted_ends_with_its_last_process() {
    sealed(|ground| {
        let path = named("netns");
        let mut command = ground.root("nsenter");
        command.arg(format!("--net={path}")).args(["sh", "-c", "echo up; exec sleep 100"]);
        let mut last = start(command);
        last.wait_for(Stream::Out, "up");
        let mut relay = serve_path(ground, &["attach"], &path);
        assert!(Command::new("umount").args(["--lazy", &path]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(100));
        assert!(relay.is_running(), "it has somebody to serve");
        drop(last);
        relay.finish(SOON).expect_success();
        fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_process_that_is_killed_ends_whoever_served_it() {
    sealed(|ground| {
        let before = ground.belongings();
        for face in [Face::Attach, Face::Slirp4netns] {
            let mut served = face.serve(ground, &[]);
            drop(served.agent(ground));
            served.holder = None;
            match face {
                Face::Attach => served.relay.finish(SOON).expect_success(),
                _ => {
                    eventually("it rests", || served.is_sleeping());
                    served.relay.signal(Signal::SIGTERM);
                    served.relay.finish(SOON).expect_signal(Signal::SIGTERM)
                }
            };
        }
        // pasta given a process in the place of a path.
        let process = holder(ground);
        let pid = process.pid().to_string();
        let relay = start(ground.netferry(&["pasta", "--foreground", "--config-net", "--quiet", &pid]));
        eventually("it serves", || {
            fs::read_to_string(format!("/proc/{}/status", relay.pid()))
                .unwrap_or_default()
                .contains("Seccomp:\t2")
        });
        drop(process);
        relay.finish(SOON).expect_success();
        ground.assert_nothing_left(&before);
    });
}
