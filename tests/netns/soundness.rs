//! The ground itself, without the program under test: when these fail, no other case means anything.

use crate::ground::{SUBJECT, WORLD4, sealed};
use crate::process::run;
use crate::servers::http;

#[test]
fn the_host_reaches_the_world() {
    sealed(|ground| {
        ground.needs(&["curl", "dig", "ping"]);
        ground.allow_ping();
        ground.world_resolver(WORLD4, "first");
        http(ground.world_listener(WORLD4, 8080));
        for (command, expected) in [
            (&["curl", "-sS", "--max-time", "5", "http://203.0.113.2:8080/"][..], "hello 203.0.113.1"),
            (&["curl", "-sS", "-4", "--max-time", "5", "http://www.test:8080/"], "hello 203.0.113.1"),
            (&["dig", "+short", "www.test", "AAAA"], "2001:db8:1::2"),
            (&["dig", "+short", "+tcp", "who.test", "TXT"], "first"),
            (&["ping", "-n", "-c", "1", "-W", "2", "198.51.100.7"], "1 received"),
            (&["ping", "-n", "-c", "1", "-W", "2", "2001:db8:2::7"], "1 received"),
        ] {
            let mut user = ground.user(command[0]);
            user.args(&command[1..]);
            run(user).expect_success().expect_stdout(expected);
        }
    });
}

#[test]
fn the_user_is_no_root() {
    sealed(|ground| {
        let mut command = ground.user("sh");
        command.args(["-c", "grep CapEff /proc/self/status; ip link add x type veth; ip -brief link"]);
        let outcome = run(command).expect_success().expect_stdout("CapEff:\t0000000000000000");
        assert!(!outcome.stdout.contains("x@"), "{outcome}");
        let mut help = ground.user(SUBJECT);
        help.arg("--version");
        // It can be executed; what it says is another case's affair.
        let code = run(help).status.code();
        assert!(code.is_some_and(|code| code < 126), "{code:?}");
    });
}

#[test]
fn there_is_no_way_out_of_the_world() {
    sealed(|ground| {
        let links = ground.text_of("ip", &["-brief", "link"]);
        assert_eq!(links.lines().count(), 2, "lo and host0 are all the host has\n{links}");
        let world = ground.in_world(|| ground.text_of("ip", &["-brief", "link"]));
        assert_eq!(world.lines().count(), 2, "lo and world0 are all the world has\n{world}");
        let routes = ground.in_world(|| ground.text_of("ip", &["route", "show", "default"]));
        assert_eq!(routes, "", "the world is the end");
    });
}
