//! What is said, where, and how much of it.

use crate::ground::sealed;
use crate::process::run;

#[test]
fn one_line_tells_what_was_set_up() {
    sealed(|ground| {
        let arguments =
            ["run", "--mtu", "4000", "-p", "8080:80", "-p", "127.0.0.1:5300:53/udp", "--", "true"];
        let outcome = run(ground.netferry(&arguments)).expect_success();
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
        assert_eq!(outcome.stdout, "", "standard output is the command's alone");
        for part in [
            "netferry: ",
            "tap0",
            "10.0.2.100/24",
            "/64",
            "10.0.2.2",
            "10.0.2.3",
            "4000",
            "8080",
            "80/tcp",
            "127.0.0.1:5300",
            "53/udp",
        ] {
            assert!(outcome.stderr.contains(part), "no {part:?}\n{outcome}");
        }
    });
}

#[test]
fn quiet_says_nothing() {
    sealed(|ground| {
        for option in ["-q", "--quiet"] {
            let outcome = run(ground.netferry(&["run", option, "--", "true"])).expect_success();
            assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
        }
    });
}

#[test]
fn quiet_still_says_what_is_wrong() {
    sealed(|ground| {
        let outcome = run(ground.netferry(&["attach", "-q", "/nonexistent"])).expect_code(1);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    });
}

#[test]
fn verbose_says_more() {
    sealed(|ground| {
        let script = "exec 3<>/dev/tcp/203.0.113.2/9 || true";
        let plain = run(ground.netferry(&["run", "--", "bash", "-c", script])).expect_success();
        let verbose = run(ground.netferry(&["run", "-v", "-v", "--", "bash", "-c", script])).expect_success();
        let lines = |text: &str| text.lines().count();
        assert!(lines(&verbose.stderr) > lines(&plain.stderr), "{plain}\n{verbose}");
        assert!(verbose.stderr.contains("203.0.113.2:9"), "the flow is told of\n{verbose}");
    });
}

#[test]
fn without_ipv6_there_is_none() {
    sealed(|ground| {
        let script = "ip -6 -o address show dev tap0 scope global; ip -6 route show default";
        let outcome = run(ground.netferry(&["run", "--no-ipv6", "--", "sh", "-c", script])).expect_success();
        assert_eq!(outcome.stdout, "", "{outcome}");
    });
}
