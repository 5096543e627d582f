//! Containers of one network on the real kernel: what passes between them, what does not, and what becomes of it all at the end.
//!
//! The decisions themselves have their tests beside them (`stack/bridge/tests.rs`); here are the frames of a kernel, and frames
//! by hand through a packet socket (`bridge.py`).

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::ground::{Ground, HOST4, PYTHON, WORLD4, processes, sealed};
use crate::process::{Running, SOON, Stream, run, start};
use crate::servers::{echo, serve_streams};

const LIBRARY: &str = include_str!("bridge.py");

pub fn network(ground: &Ground, words: &str) -> Command {
    let mut arguments = vec!["network"];
    arguments.extend(words.split(' '));
    ground.netferry(&arguments)
}

pub fn create(ground: &Ground, words: &str) {
    run(network(ground, &format!("create {words}"))).expect_success();
}

pub fn inspect(ground: &Ground, name: &str) -> Value {
    let outcome = run(network(ground, &format!("inspect {name}"))).expect_success();
    serde_json::from_str(&outcome.stdout).expect("it is JSON")
}

pub fn members(status: &Value) -> Vec<String> {
    let list = status["members"].as_array().expect("a list").iter();
    list.map(|member| member["name"].as_str().expect("a name").to_owned()).collect()
}

/// `script`, behind [`LIBRARY`], in a container of a network.
pub fn contained(ground: &Ground, network: &str, words: &str, script: &str) -> Running {
    let script = format!("{LIBRARY}\n{script}");
    let mut arguments = vec!["run", "--network", network];
    arguments.extend(words.split(' ').filter(|word| !word.is_empty()));
    arguments.extend(["--", PYTHON, "-c", &script]);
    start(ground.netferry(&arguments))
}

/// Waits until it is `done`, for as long as a machine may be busy.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn is_bound(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_err()
}

#[test]
fn containers_reach_each_other_in_both_families_with_super_segments_whole() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64");
        let mut server = contained(ground, "lab", "--name server", "serve(6)");
        server.wait_for(Stream::Out, "listening");
        let client = contained(
            ground,
            "lab",
            "--name client",
            "for family, address in ((AF_INET, '172.17.0.2'), (AF_INET6, 'fd00:17::2')):\n \
             transfer(family, address, 16 << 20); datagrams(family, address)\nprint('as it should be')",
        );
        client.finish(SOON * 2).expect_success().expect_stdout("as it should be");
        let told = server.wait_for(Stream::Out, "largest");
        let largest: usize = told.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(largest > 9_000, "at an MTU of 1500 the largest frame of a stream had {largest} bytes");
        eventually("who has ended has left", || members(&inspect(ground, "lab")) == ["server"]);
        run(network(ground, "rm --force lab")).expect_success();
    });
}

#[test]
fn nobody_on_a_network_speaks_as_another() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64");
        let mut victim = contained(ground, "lab", "--name victim", "hear()");
        victim.wait_for(Stream::Out, "listening");
        let mut liar = contained(ground, "lab", "--name liar", "lie(); print('said'); time.sleep(60)");
        liar.wait_for(Stream::Out, "said");
        let told = victim.wait_for(Stream::Out, "heard");
        assert_eq!(told, "heard 1 honest, 0 lies", "{}", victim.so_far(Stream::Err));
        let status = inspect(ground, "lab");
        let list = status["members"].as_array().expect("a list");
        let liar = list.iter().find(|member| member["name"] == "liar").expect("it is there");
        for reason in ["spoofed_mac", "spoofed_source", "neighbor_conflict", "rogue_server"] {
            assert!(liar["dropped"][reason].as_u64().unwrap_or(0) > 0, "{reason}: {status:#}");
        }
        run(network(ground, "rm --force lab")).expect_success();
    });
}

#[test]
fn networks_and_isolated_containers_are_apart_but_for_what_is_published_and_an_internal_one_has_no_way_out() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), echo);
        create(ground, "apart --isolated --subnet 172.17.0.0/16");
        create(ground, "other --subnet 172.18.0.0/16");
        create(ground, "inner --internal --subnet 172.19.0.0/16");
        let serve = "accept_all()";
        let mut server = contained(ground, "apart", "--name server -p 8080:7000", serve);
        server.wait_for(Stream::Out, "listening");
        let published = HOST4.to_string();
        for (network, same) in [("apart", true), ("other", false)] {
            // Around the question who has the address, which is not passed on.
            let neighbor = if same { "neighbor('172.17.0.2', '02:42:ac:11:00:02')\n" } else { "" };
            let script = format!(
                "{neighbor}assert is_cut_off('172.17.0.2', 7000)\nassert connects('{published}', 8080)\n\
                 assert connects('{WORLD4}', 7000)\nprint('as it should be')"
            );
            let client = contained(ground, network, "", &script);
            client.finish(SOON * 2).expect_success().expect_stdout("as it should be");
        }
        let mut server = contained(ground, "inner", "--name server", serve);
        server.wait_for(Stream::Out, "listening");
        let script = format!(
            "assert connects('172.19.0.2', 7000)\nassert connects('server', 7000)\n\
             for target in ('{WORLD4}', '{published}', '172.19.0.1'):\n assert is_cut_off(target, 7000), target\n\
             assert is_cut_off('{published}', 8080)\nassert not resolves('example.org')\nprint('as it should be')"
        );
        let client = contained(ground, "inner", "", &script);
        client.finish(SOON * 2).expect_success().expect_stdout("as it should be");
        let refused = contained(ground, "inner", "-p 8081:80", "print('it ran')");
        refused.finish(SOON).expect_code(1).expect_stderr("internal");
        for name in ["apart", "other", "inner"] {
            run(network(ground, &format!("rm --force {name}"))).expect_success();
        }
    });
}

#[test]
fn who_is_killed_leaves_nothing_behind_container_or_network() {
    sealed(|ground| {
        // The file of the locks stays.
        create(ground, "lab --subnet 172.17.0.0/16");
        contained(ground, "lab", "", "print('was here')").finish(SOON).expect_success();
        run(network(ground, "rm --force lab")).expect_success();
        eventually("all have ended", || processes().is_empty());
        let before = ground.belongings();
        create(ground, "lab --subnet 172.17.0.0/16");
        let daemon = daemon();
        let mut first = contained(ground, "lab", "--name first -p 8080:7000", "accept_all()");
        first.wait_for(Stream::Out, "listening");
        let mut second = contained(ground, "lab", "--name second -p 8081:7000", "accept_all()");
        second.wait_for(Stream::Out, "listening");
        assert!(TcpStream::connect((HOST4, 8080)).is_ok() && is_bound(8081));
        first.signal(Signal::SIGKILL);
        eventually("its port is free", || !is_bound(8080));
        eventually("it is gone", || members(&inspect(ground, "lab")) == ["second"]);
        // What it had is another's at once.
        let mut heir = contained(ground, "lab", "--name first -p 8080:7000 --ip 172.17.0.2", "accept_all()");
        heir.wait_for(Stream::Out, "listening");
        assert!(TcpStream::connect((HOST4, 8080)).is_ok());

        kill(Pid::from_raw(daemon), Signal::SIGKILL).expect("it is there");
        eventually("its ports are free", || !is_bound(8080) && !is_bound(8081));
        run(network(ground, "inspect lab")).expect_code(1);
        drop((first, second, heir));
        ground.assert_nothing_left(&before);
        create(ground, "lab --subnet 172.17.0.0/16");
        // With whoever was to remove the socket, too: it lies there, and nobody answers.
        let mut all = processes();
        all.retain(|line| line.contains("netferry"));
        for line in &all {
            let pid = line.split(' ').next().unwrap().parse().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
        }
        assert_eq!(all.len(), 2, "{all:?}");
        eventually("all have ended", || processes().is_empty());
        assert_ne!(ground.belongings(), before);
        run(network(ground, "inspect lab")).expect_code(1).expect_stderr("no network");
        assert!(!run(network(ground, "ls")).expect_success().stdout.contains("lab"));
        create(ground, "lab --subnet 172.17.0.0/16");
        assert!(run(network(ground, "ls")).expect_success().stdout.contains("172.17.0.0/16"));
        run(network(ground, "rm lab")).expect_success();
        ground.assert_nothing_left(&before);
    });
}

/// The process of the only network.
pub fn daemon() -> i32 {
    let serving = |line: &String| {
        let pid: i32 = line.split(' ').next()?.parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        (words.contains("network create") && line.contains("netferry")).then_some(pid)
    };
    // Beside it there may be whoever removes its socket at the end: the process with a filter for threads has the poll.
    let found: Vec<i32> = processes().iter().filter_map(serving).collect();
    let polls = |pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there").flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|to| to.to_string_lossy().contains("eventpoll"))
    };
    found.iter().copied().find(polls).unwrap_or_else(|| panic!("no process of a network among {found:?}"))
}

#[test]
fn containers_that_come_and_go_do_not_disturb_the_others() {
    sealed(|ground| {
        create(ground, "lab --subnet 172.17.0.0/16 --subnet6 fd00:17::/64");
        let mut server = contained(ground, "lab", "--name server", "serve(2)");
        server.wait_for(Stream::Out, "listening");
        let client = contained(
            ground,
            "lab",
            "--name client",
            "transfer(AF_INET, '172.17.0.2', 64 << 20); transfer(AF_INET6, 'fd00:17::2', 64 << 20)\nprint('whole')",
        );
        for turn in 0..4_u16 {
            let publish = format!("-p {}:80", 9_000 + turn);
            let guests: Vec<Running> = (0..3)
                .map(|number| {
                    let words = if number == 0 { publish.as_str() } else { "" };
                    contained(ground, "lab", words, "assert resolves('server')\nprint('was here')")
                })
                .collect();
            for guest in guests {
                guest.finish(SOON).expect_success().expect_stdout("was here");
            }
        }
        client.finish(SOON * 3).expect_success().expect_stdout("whole");
        eventually("all but the server have left", || members(&inspect(ground, "lab")).len() <= 1);
        run(network(ground, "rm --force lab")).expect_success();
    });
}
