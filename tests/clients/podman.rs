//! `podman run --network slirp4netns`, and its options.

use std::net::TcpListener;

use crate::ground::{HOST4, WORLD4, sealed};
use crate::image::{IMAGE, import};
use crate::process::Outcome;
use crate::session::Session;
use crate::witness::{Confinement, PAGES_PORT, Pages, assert_confined};

/// Runs `script` in a container of the network `network`.
#[track_caller]
fn run_in(session: &Session, network: &str, script: &str) -> Outcome {
    session.podman(&["run", "--rm", "--network", network, IMAGE, "sh", "-ec", script])
}

/// Fetches with a little patience: an IPv6 address may be new.
const FETCH: &str =
    "fetch() { curl -sS --retry 5 --retry-delay 1 --retry-connrefused --max-time 10 \"$@\"; };";

#[test]
fn a_container_reaches_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        let script = format!(
            "{FETCH} ip address show tap0; cat /sys/class/net/tap0/mtu; cat /etc/resolv.conf
             fetch http://203.0.113.2:8080/; fetch -6 'http://[2001:db8:1::2]:8080/'
             fetch -4 http://www.test:8080/; fetch -6 http://www.test:8080/; nslookup www.test 10.0.2.3"
        );
        let outcome = run_in(&session, "slirp4netns", &script).expect_success();
        for (text, times) in [
            ("inet 10.0.2.100/24", 1),
            ("inet6 fd00::", 1),
            ("\n65520\n", 1),
            ("hello 203.0.113.1\n", 2),
            ("hello 2001:db8:1::1\n", 2),
            ("Address: 203.0.113.2\n", 1),
        ] {
            assert_eq!(outcome.stdout.matches(text).count(), times, "{text:?} in {outcome}");
        }
        let first = outcome.stdout.split("nameserver ").nth(1).unwrap_or_default();
        assert!(first.starts_with("10.0.2.3\n"), "{outcome}");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn a_container_that_keeps_the_users_identity_reaches_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        let arguments = ["run", "--rm", "--userns=keep-id", "--network=slirp4netns", IMAGE];
        let outcome =
            session.podman(&[&arguments[..], &["curl", "-sS", "http://203.0.113.2:8080/"]].concat());
        assert_eq!(outcome.expect_success().stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn the_mtu_is_what_was_asked_for() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        let script = "cat /sys/class/net/tap0/mtu; curl -sS http://203.0.113.2:8080/bytes/3000000 | wc -c";
        let outcome = run_in(&session, "slirp4netns:mtu=1300", script).expect_success();
        assert_eq!(outcome.stdout, "1300\n3000000\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn the_subnet_is_what_was_asked_for() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        let script = "ip address show tap0; ip route; cat /etc/resolv.conf; curl -4sS http://www.test:8080/";
        let outcome = run_in(&session, "slirp4netns:cidr=10.77.0.0/16", script).expect_success();
        outcome
            .expect_stdout("inet 10.77.0.100/16")
            .expect_stdout("default via 10.77.0.2 ")
            .expect_stdout("nameserver 10.77.0.3\n")
            .expect_stdout("hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn ipv6_is_there_when_asked_for_and_only_then() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        let script = format!("{FETCH} fetch 'http://[2001:db8:1::2]:8080/'");
        let outcome = run_in(&session, "slirp4netns:enable_ipv6=true", &script).expect_success();
        assert_eq!(outcome.stdout, "hello 2001:db8:1::1\n");
        let script = "curl -sS http://203.0.113.2:8080/; ip -6 address show dev tap0 scope global; ip -6 route show default";
        let outcome = run_in(&session, "slirp4netns:enable_ipv6=false", script).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn the_hosts_loopback_is_reached_when_allowed() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        pages.serve(&session, TcpListener::bind(("127.0.0.1", PAGES_PORT)).unwrap());
        import(&session);
        let script = "curl -sS http://10.0.2.2:8080/";
        let outcome = run_in(&session, "slirp4netns:allow_host_loopback=true", script).expect_success();
        assert_eq!(outcome.stdout, "hello 127.0.0.1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn the_hosts_loopback_is_not_reached_by_default() {
    sealed(|ground| {
        let session = Session::start(ground);
        let (pages, loopback) = (Pages::open(&session), Pages::default());
        loopback.serve(&session, TcpListener::bind(("127.0.0.1", PAGES_PORT)).unwrap());
        import(&session);
        let script = "curl -sS http://203.0.113.2:8080/; ! curl -sS --max-time 5 http://10.0.2.2:8080/";
        let outcome = run_in(&session, "slirp4netns", script).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        loopback.assert_unvisited();
        pages.assert_carried_by_subject();
    });
}

#[test]
fn connections_leave_from_the_address_that_was_asked_for() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        for address in ["203.0.113.9/24", "2001:db8:1::9/64"] {
            ground.text_of("ip", &["address", "add", address, "dev", "host0"]);
        }
        import(&session);
        let script = format!("{FETCH} fetch http://203.0.113.2:8080/; fetch 'http://[2001:db8:1::2]:8080/'");
        let both = "slirp4netns:outbound_addr=203.0.113.9,outbound_addr6=2001:db8:1::9";
        let outcome = run_in(&session, both, &script).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.9\nhello 2001:db8:1::9\n");
        let outcome =
            run_in(&session, "slirp4netns:outbound_addr=host0", "curl -sS http://203.0.113.2:8080/");
        assert_eq!(outcome.expect_success().stdout, format!("hello {HOST4}\n"));
        pages.assert_carried_by_subject();
    });
}

#[test]
fn the_program_is_shut_in_and_still_works() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        let run = ["run", "--detach", "--name=held", "--network=slirp4netns", IMAGE, "sleep", "60"];
        session.podman(&run).expect_success();
        let expected = Confinement { sees_files: false, is_filtered: true, is_capable: false };
        assert_confined(session.relay(), &expected);
        let outcome = session.podman(&["exec", "held", "curl", "-4sS", "http://www.test:8080/"]);
        assert_eq!(outcome.expect_success().stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
        session.podman(&["rm", "--force", "--time=0", "held"]).expect_success();
        session.assert_relays_gone();
    });
}
