//! `netferry run` as a wrapper: status, signals, terminal, environment, and leaving nothing behind.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::ground::{PYTHON, SCRATCH, SUBJECT, WORLD4, sealed};
use crate::process::{SOON, Stream, run, start};

#[test]
fn the_status_of_the_command_is_passed_on() {
    sealed(|ground| {
        run(ground.netferry(&["run", "--", "true"])).expect_code(0);
        run(ground.netferry(&["run", "--", "sh", "-c", "exit 7"])).expect_code(7);
        run(ground.netferry(&["run", "--", "sh", "-c", "exit 255"])).expect_code(255);
    });
}

#[test]
fn a_command_killed_by_a_signal_yields_128_and_its_number() {
    sealed(|ground| {
        run(ground.netferry(&["run", "--", "sh", "-c", "kill -KILL $$"])).expect_code(128 + 9);
        run(ground.netferry(&["run", "--", "sh", "-c", "kill -TERM $$"])).expect_code(128 + 15);
    });
}

#[test]
fn a_command_that_is_not_found_yields_127() {
    sealed(|ground| {
        let before = ground.belongings();
        let outcome = run(ground.netferry(&["run", "--", "no-such-program"]));
        outcome.expect_code(127).expect_stderr("no-such-program");
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_command_that_cannot_be_executed_yields_126() {
    sealed(|ground| {
        run(ground.netferry(&["run", "--", "/etc/passwd"])).expect_code(126).expect_stderr("/etc/passwd");
    });
}

#[test]
fn arguments_reach_the_command_as_they_are() {
    sealed(|ground| {
        let script = "printf '<%s>' \"$@\"";
        let arguments = ["run", "--", "sh", "-c", script, "sh", "--mtu", "a b", "", "-p", "--"];
        let outcome = run(ground.netferry(&arguments)).expect_success();
        assert_eq!(outcome.stdout, "<--mtu><a b><><-p><-->");
    });
}

#[test]
fn the_command_inherits_environment_and_directory() {
    sealed(|ground| {
        let mut command = ground.netferry(&["run", "--", "sh", "-c", "pwd; echo $MARK"]);
        command.env("MARK", "kept").current_dir(SCRATCH);
        assert_eq!(run(command).expect_success().stdout, format!("{SCRATCH}\nkept\n"));
    });
}

#[test]
fn standard_streams_are_passed_through() {
    sealed(|ground| {
        let mut command = ground.netferry(&["run", "--", "sh", "-c", "tr a-z A-Z; echo to-stderr >&2"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"from stdin\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "FROM STDIN\n");
        assert!(String::from_utf8_lossy(&output.stderr).contains("to-stderr\n"));
    });
}

#[test]
fn without_a_command_the_shell_of_the_user_is_run() {
    sealed(|ground| {
        let mut command = ground.netferry(&["run"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"ip -brief link show tap0\nexit 3\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("tap0"), "{output:?}");
    });
}

#[test]
fn signals_are_forwarded_to_the_command() {
    sealed(|ground| {
        for (signal, name) in [
            (Signal::SIGTERM, "TERM"),
            (Signal::SIGINT, "INT"),
            (Signal::SIGHUP, "HUP"),
            (Signal::SIGUSR1, "USR1"),
        ] {
            let script =
                format!("trap 'echo got-{name}; exit 9' {name}; echo up; while :; do sleep 0.05; done");
            let mut running = start(ground.netferry(&["run", "--", "sh", "-c", &script]));
            running.wait_for(Stream::Out, "up");
            running.signal(signal);
            running.finish(SOON).expect_code(9).expect_stdout(&format!("got-{name}"));
        }
    });
}

#[test]
fn a_signal_the_command_does_not_catch_ends_it_and_us() {
    sealed(|ground| {
        let before = ground.belongings();
        let mut running = start(ground.netferry(&["run", "--", "sh", "-c", "echo up; exec sleep 60"]));
        running.wait_for(Stream::Out, "up");
        running.signal(Signal::SIGTERM);
        running.finish(SOON).expect_code(128 + 15);
        ground.assert_nothing_left(&before);
    });
}

/// Runs its arguments on a terminal of their own, types `sys.argv[1]` when it sees "up", and passes the status on.
const TERMINAL: &str = r"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp(sys.argv[2], sys.argv[2:])
seen = b''; typed = False
while True:
    try: block = os.read(terminal, 4096)
    except OSError: break
    if not block: break
    seen += block
    if b'up\r\n' in seen and not typed:
        typed = True; os.write(terminal, sys.argv[1].encode().decode('unicode_escape').encode())
sys.stdout.write(seen.decode()); sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn the_command_has_the_terminal() {
    sealed(|ground| {
        let script = "test -t 0 && test -t 1 && test -t 2 && echo up && read line && echo got-$line";
        let mut command = ground.user(PYTHON);
        command.args(["-c", TERMINAL, "typed\\n", SUBJECT, "run", "--", "sh", "-c", script]);
        run(command).expect_success().expect_stdout("got-typed");
    });
}

#[test]
fn an_interrupt_typed_on_the_terminal_is_the_command_s_to_handle() {
    sealed(|ground| {
        let script = "trap 'echo got-INT; exit 5' INT; echo up; while :; do sleep 0.05; done";
        let mut command = ground.user(PYTHON);
        command.args(["-c", TERMINAL, "\\x03", SUBJECT, "run", "--", "sh", "-c", script]);
        run(command).expect_code(5).expect_stdout("got-INT");
    });
}

#[test]
fn job_control_works_in_the_default_shell() {
    sealed(|ground| {
        // An interactive shell complains when it cannot have the terminal.
        let mut command = ground.user(PYTHON);
        let typed = "sleep 0.1 &\\nwait %1 && exit 4\\n";
        command.args(["-c", TERMINAL, typed, SUBJECT, "run", "--", "sh", "-c", "echo up; exec sh -i"]);
        let outcome = run(command).expect_code(4);
        assert!(!outcome.stdout.contains("job control turned off"), "{outcome}");
    });
}

#[test]
fn the_container_has_exactly_a_loopback_and_the_tap() {
    sealed(|ground| {
        let links = run(ground.netferry(&["run", "--", "ip", "-brief", "link"])).expect_success();
        let names: Vec<_> = links.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["lo", "tap0"], "{links}");
        run(ground.netferry(&["run", "--", "ping", "-n", "-c", "1", "-W", "2", "127.0.0.1"]))
            .expect_success();
    });
}

#[test]
fn addresses_routes_and_mtu_are_as_asked() {
    sealed(|ground| {
        let options = ["run", "--cidr", "192.168.77.0/24", "--cidr6", "fd77:1:2:3::/64", "--mtu", "9000"];
        let more = ["--mac", "02:00:00:00:77:01", "--ifname", "uplink", "--", "sh", "-c"];
        let script = "ip -o address; ip route; ip -6 route; ip link show uplink";
        let outcome = run(ground.netferry(&[&options[..], &more, &[script]].concat())).expect_success();
        for expected in [
            "192.168.77.100/24",
            "fd77:1:2:3",
            "default via 192.168.77.2 dev uplink",
            "mtu 9000",
            "02:00:00:00:77:01",
        ] {
            assert!(outcome.stdout.contains(expected), "no {expected:?}\n{outcome}");
        }
        assert_eq!(outcome.stdout.matches("default via fe80::").count(), 1, "{outcome}");
    });
}

#[test]
fn nothing_is_left_when_the_command_ends() {
    sealed(|ground| {
        let before = ground.belongings();
        run(ground.netferry(&["run", "-p", "8080:80", "--", "true"])).expect_success();
        ground.assert_nothing_left(&before);
        // The port is free again at once.
        std::net::TcpListener::bind("0.0.0.0:8080").expect("the port has been given back");
    });
}

#[test]
fn nothing_is_left_when_we_are_killed() {
    sealed(|ground| {
        let before = ground.belongings();
        let mut running =
            start(ground.netferry(&["run", "-p", "8080:80", "--", "sh", "-c", "echo up; exec sleep 60"]));
        running.wait_for(Stream::Out, "up");
        running.signal(Signal::SIGKILL);
        running.finish(SOON);
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn a_background_process_of_the_command_does_not_hold_us() {
    sealed(|ground| {
        let script = "sleep 20 >/dev/null 2>&1 </dev/null & exit 0";
        let outcome = run(ground.netferry(&["run", "--", "sh", "-c", script])).expect_success();
        assert!(outcome.took.as_secs() < 10, "{outcome}");
    });
}

#[test]
fn two_containers_run_side_by_side() {
    sealed(|ground| {
        ground.needs(&["curl"]);
        crate::servers::http(ground.world_listener(WORLD4, 8080));
        let script = "echo up; sleep 0.5; curl -sS --max-time 10 http://203.0.113.2:8080/";
        let arguments = ["run", "--", "sh", "-c", script];
        let mut both = [start(ground.netferry(&arguments)), start(ground.netferry(&arguments))];
        both.iter_mut().for_each(|one| drop(one.wait_for(Stream::Out, "up")));
        for one in both {
            one.finish(SOON).expect_success().expect_stdout("hello ");
        }
    });
}
