//! Whom a container reaches, and by which names.

use std::net::TcpListener;

use crate::ground::{HOST4, WORLD4, WORLD6};
use crate::pattern::crc_of_body;
use crate::servers::echo_datagrams;
use crate::witness::{PAGES_PORT, Pages};
use crate::{case, run_in};

#[test]
fn the_world_is_reached_over_both_families_and_by_name() {
    case(|session| {
        session.ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(session);
        let script =
            "cat /etc/resolv.conf; curl -sS http://203.0.113.2:8080/; curl -sS 'http://[2001:db8:1::2]:8080/'
            curl -4sS http://www.test:8080/; curl -6sS http://www.test:8080/; nslookup www.test 169.254.1.1";
        let outcome = run_in(session, "pasta", script);
        for (text, times) in
            [("hello 203.0.113.1\n", 2), ("hello 2001:db8:1::1\n", 2), ("Address: 203.0.113.2\n", 1)]
        {
            assert_eq!(outcome.stdout.matches(text).count(), times, "{text:?} in {outcome}");
        }
        let first = outcome.stdout.split("nameserver ").nth(1).unwrap_or_default();
        assert!(first.starts_with("169.254.1.1\n"), "{outcome}");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn another_address_forwards_names_if_it_is_asked_to() {
    case(|session| {
        session.ground.world_resolver(WORLD4, "first");
        let outcome = run_in(session, "pasta:--dns-forward,198.51.100.53", "nslookup www.test 198.51.100.53");
        outcome.expect_stdout("203.0.113.2");
    });
}

#[test]
fn the_host_is_reached_by_its_name_but_not_its_loopback() {
    case(|session| {
        let (pages, loopback) = (Pages::default(), Pages::default());
        pages.serve(session, TcpListener::bind((HOST4, PAGES_PORT)).unwrap());
        loopback.serve(session, TcpListener::bind(("127.0.0.1", 8081)).unwrap());
        let script =
            "grep host.containers.internal /etc/hosts; curl -sS http://host.containers.internal:8080/
            for host in 127.0.0.1 203.0.113.2 169.254.1.2 host.containers.internal; do
                ! curl -sS --max-time 5 http://$host:8081/ 2>/dev/null; done";
        let outcome = run_in(session, "pasta", script);
        outcome.expect_stdout("169.254.1.2").expect_stdout("hello 203.0.113.1\n");
        loopback.assert_unvisited();
        pages.assert_carried_by_subject();
    });
}

#[test]
fn the_hosts_loopback_is_reached_where_it_is_mapped() {
    case(|session| {
        let pages = Pages::default();
        pages.serve(session, TcpListener::bind(("127.0.0.1", 8081)).unwrap());
        let outcome =
            run_in(session, "pasta:--map-host-loopback,198.51.100.99", "curl -sS http://198.51.100.99:8081/");
        outcome.expect_stdout("hello 127.0.0.1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn what_the_containers_loopback_is_to_reach_it_reaches() {
    case(|session| {
        let pages = Pages::default();
        pages.serve(session, TcpListener::bind(("127.0.0.1", 8081)).unwrap());
        run_in(session, "pasta:-T,8081", "curl -sS http://127.0.0.1:8081/")
            .expect_stdout("hello 127.0.0.1\n");
    });
}

#[test]
fn large_and_small_transfers_arrive_whole() {
    case(|session| {
        let pages = Pages::open(session);
        let len = 32 << 20;
        let script = format!(
            "for size in 1 1000 100000 {len}; do
                 curl -sS http://203.0.113.2:8080/bytes/$size -o /tmp/body; wc -c < /tmp/body; done
             crc32 < /tmp/body"
        );
        let outcome = run_in(session, "pasta", &script);
        let expected = format!("1\n1000\n100000\n{len}\n{:08x}\n", crc_of_body(len));
        assert_eq!(outcome.stdout, expected);
        pages.assert_carried_by_subject();
    });
}

#[test]
fn datagrams_of_any_size_come_back() {
    case(|session| {
        echo_datagrams(session.ground.world_datagrams(WORLD4, 7000), false);
        echo_datagrams(session.ground.world_datagrams(WORLD6, 7000), false);
        let script = "for to in 203.0.113.2 '[2001:db8:1::2]'; do for size in 1 1400 9000 60000; do
            head -c $size /dev/urandom > /tmp/sent
            socat -b 65536 -t 3 - UDP:$to:7000,shut-none < /tmp/sent > /tmp/got; cmp /tmp/sent /tmp/got; done; done; echo all";
        assert_eq!(run_in(session, "pasta", script).stdout, "all\n");
    });
}

#[test]
fn pings_are_answered_by_those_who_are_asked() {
    case(|session| {
        session.ground.allow_ping();
        let script = "ping -c 1 -W 5 203.0.113.2; ping -6 -c 1 -W 5 2001:db8:1::2";
        let outcome = session.podman(&[
            "run",
            "--rm",
            "--network=pasta",
            "--cap-add=NET_RAW",
            crate::image::IMAGE,
            "sh",
            "-ec",
            script,
        ]);
        assert_eq!(outcome.expect_success().stdout.matches("1 packets received").count(), 2);
    });
}

#[test]
fn a_build_has_the_network_too() {
    case(|session| {
        let pages = Pages::open(session);
        let file = "/tmp/home/Containerfile";
        let text = format!(
            "FROM {}\nRUN curl -sS http://203.0.113.2:8080/ > /seen && cat /seen\n",
            crate::image::IMAGE
        );
        std::fs::write(file, text).unwrap();
        let outcome = session
            .podman(&["build", "--network=pasta", "--file", file, "/tmp/home/.config"])
            .expect_success();
        outcome.expect_stdout("hello 203.0.113.1");
        pages.assert_carried_by_subject();
    });
}
