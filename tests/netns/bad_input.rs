//! Bad input: one line that says what to do, the right status, and nothing left behind.

use std::path::Path;
use std::process::Command;

use crate::ground::{Ground, SUBJECT, bind, sealed};
use crate::process::{Stream, run, start};

/// Fails unless `command` ends with `code` and one line on standard error that contains all of `words`.
#[track_caller]
fn refused_by(ground: &Ground, command: Command, code: i32, words: &[&str]) {
    let before = ground.belongings();
    let outcome = run(command).expect_code(code);
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line is asked for\n{outcome}");
    assert!(outcome.stderr.starts_with("netferry: "), "{outcome}");
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in the error\n{outcome}");
    }
    ground.assert_nothing_left(&before);
}

#[track_caller]
fn refused(ground: &Ground, arguments: &[&str], code: i32, words: &[&str]) {
    refused_by(ground, ground.netferry(arguments), code, words);
}

#[test]
fn an_unknown_namespace_is_refused() {
    sealed(|ground| {
        refused(ground, &["attach", "4194303"], 1, &["4194303"]);
        refused(ground, &["attach", "/run/netns/nonexistent"], 1, &["/run/netns/nonexistent"]);
    });
}

#[test]
fn a_path_that_is_no_network_namespace_is_refused() {
    sealed(|ground| {
        refused(ground, &["attach", "/etc/passwd"], 1, &["/etc/passwd"]);
        refused(ground, &["attach", "/proc/self/ns/uts"], 1, &["/proc/self/ns/uts"]);
    });
}

#[test]
fn a_namespace_of_somebody_else_is_refused() {
    sealed(|ground| refused(ground, &["attach", "1"], 1, &["1"]));
}

#[test]
fn a_missing_tun_device_is_refused_with_a_way_out() {
    sealed(|ground| {
        nix::mount::mount(
            Some("none"),
            "/dev/net",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        refused(ground, &["run", "--", "true"], 1, &["/dev/net/tun"]);
    });
}

#[test]
fn a_tun_device_without_permission_is_refused_with_a_way_out() {
    sealed(|ground| {
        // A file that no user of ours may open, whichever user that is.
        bind(Path::new("/etc/shadow"), Path::new("/dev/net/tun"));
        refused(ground, &["run", "--", "true"], 1, &["/dev/net/tun", "ermission"]);
    });
}

#[test]
fn a_tap_name_too_long_is_refused() {
    sealed(|ground| {
        let name = "sixteen-letters-";
        refused(ground, &["run", "--ifname", name, "--", "true"], 1, &[name, "15"]);
    });
}

#[test]
fn a_tap_name_in_use_is_refused() {
    sealed(|ground| {
        refused(ground, &["run", "--ifname", "lo", "--", "true"], 1, &["lo"]);
        let mut holder = ground.user("unshare");
        holder.args(["--user", "--map-root-user", "--net", "sh", "-c", "echo up; exec sleep 60"]);
        let mut target = start(holder);
        target.wait_for(Stream::Out, "up");
        let pid = target.pid().to_string();
        let mut first = start(ground.netferry(&["attach", &pid, "tap0"]));
        first.wait_for(Stream::Err, "gateway");
        refused(ground, &["attach", &pid, "tap0"], 1, &["tap0"]);
    });
}

#[test]
fn disabled_user_namespaces_are_refused_with_a_way_out() {
    sealed(|ground| {
        // In a user namespace of its own, so that the limit binds nobody else on the machine.
        let mut command = ground.user("unshare");
        let script = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {SUBJECT} run -- true");
        command.args(["--user", "--map-root-user", "sh", "-c", &script]);
        refused_by(ground, command, 1, &["user namespace", "max_user_namespaces"]);
    });
}

#[test]
fn prefixes_that_cannot_hold_the_segment_are_refused() {
    sealed(|ground| {
        for (option, prefix) in [("--cidr", "10.0.2.0/31"), ("--cidr6", "fd00::/127")] {
            refused(ground, &["run", option, prefix, "--", "true"], 1, &[prefix]);
        }
    });
}

#[test]
fn prefixes_that_mean_something_else_are_refused() {
    sealed(|ground| {
        for (option, prefix) in [
            ("--cidr", "127.0.0.0/8"),
            ("--cidr", "224.0.0.0/24"),
            ("--cidr6", "fe80::/64"),
            ("--cidr6", "ff02::/64"),
        ] {
            refused(ground, &["run", option, prefix, "--", "true"], 1, &[prefix]);
        }
    });
}

#[test]
fn prefixes_that_collide_with_the_host_are_refused() {
    sealed(|ground| {
        refused(ground, &["run", "--cidr", "203.0.113.0/24", "--", "true"], 1, &["203.0.113."]);
        refused(ground, &["run", "--cidr6", "2001:db8:1::/64", "--", "true"], 1, &["2001:db8:1:"]);
    });
}

#[test]
fn an_mtu_out_of_range_is_refused() {
    sealed(|ground| {
        for mtu in ["67", "65522", "100000"] {
            refused(ground, &["run", &format!("--mtu={mtu}"), "--", "true"], 1, &[mtu]);
        }
        for mtu in ["-1", "many"] {
            refused(ground, &["run", &format!("--mtu={mtu}"), "--", "true"], 2, &[mtu]);
        }
        // RFC 8200 §5: a link that carries IPv6 has at least 1280.
        refused(ground, &["run", "--mtu=1000", "--", "true"], 1, &["1280"]);
    });
}

#[test]
fn malformed_ports_to_publish_are_refused() {
    sealed(|ground| {
        for spec in ["80:", ":80", "0:80", "8080:70000", "8080-8090:80-85", "1.2.3:80:80", "8080:80/sctp"] {
            refused(ground, &["run", "-p", spec, "--", "true"], 2, &[spec]);
        }
    });
}

#[test]
fn a_port_published_twice_is_refused() {
    sealed(|ground| {
        let before = ground.belongings();
        let outcome = run(ground.netferry(&["run", "-p", "8080:80", "-p", "8080:81", "--", "true"]));
        assert!(matches!(outcome.status.code(), Some(1 | 2)), "{outcome}");
        assert!(outcome.stderr.contains("8080"), "{outcome}");
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn unknown_options_and_commands_are_usage_errors() {
    sealed(|ground| {
        let before = ground.belongings();
        for arguments in [&["run", "--no-such-option"][..], &["no-such-command"], &["attach"], &[]] {
            let outcome = run(ground.netferry(arguments)).expect_code(2);
            assert!(!outcome.stderr.is_empty(), "{outcome}");
        }
        ground.assert_nothing_left(&before);
    });
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    sealed(|ground| {
        for arguments in [&["--help"][..], &["run", "--help"], &["attach", "--help"], &["--version"]] {
            let outcome = run(ground.netferry(arguments)).expect_success();
            assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome}");
        }
    });
}
