//! What a container looks like: addresses, routes, the interface.

use crate::{case, run_in};

#[test]
fn pasta_is_the_network_of_a_rootless_container_unless_another_is_asked_for() {
    case(|session| {
        session
            .podman(&["run", "--detach", "--name=one", crate::image::IMAGE, "sleep", "60"])
            .expect_success();
        assert!(!session.relays().is_empty(), "it is ours that serves it");
        let mode = session.podman(&["inspect", "--format", "{{.HostConfig.NetworkMode}}", "one"]);
        assert_eq!(mode.expect_success().stdout, "pasta\n");
        session.podman(&["rm", "--force", "--time=0", "one"]).expect_success();
    });
}

#[test]
fn addresses_routes_and_names_are_the_hosts() {
    case(|session| {
        let script = "ip address show; ip route; ip -6 route; cat /sys/class/net/host0/mtu";
        let outcome = run_in(session, "pasta", script);
        for part in [
            "host0:",
            "inet 203.0.113.1/24",
            "inet6 2001:db8:1::1/64",
            "default via 203.0.113.2 dev host0",
            "203.0.113.0/24 dev host0",
            "default via fe80::1 dev host0",
            "\n65520\n",
        ] {
            assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
        }
    });
}

#[test]
fn every_address_and_route_of_the_interface_is_there() {
    case(|session| {
        for words in [
            &["address", "add", "203.0.113.77/24", "dev", "host0"][..],
            &["address", "add", "2001:db8:1::77/64", "dev", "host0", "nodad"],
            &["route", "add", "198.51.100.0/25", "via", "203.0.113.9", "metric", "50"],
        ] {
            session.ground.text_of("ip", words);
        }
        let outcome = run_in(session, "pasta", "ip address show dev host0; ip route");
        for part in
            ["203.0.113.1/24", "203.0.113.77/24", "2001:db8:1::77/64", "198.51.100.0/25 via 203.0.113.9"]
        {
            assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
        }
    });
}

#[test]
fn options_after_the_networks_name_are_heeded() {
    case(|session| {
        let script = "ip address show dev eth7; ip route; cat /sys/class/net/eth7/mtu";
        let network = "pasta:-I,eth7,--mtu,1400,-a,192.0.2.9,-n,24,-g,192.0.2.1";
        let outcome = run_in(session, network, script);
        for part in ["inet 192.0.2.9/24", "default via 192.0.2.1 dev eth7", "\n1400\n"] {
            assert!(outcome.stdout.contains(part), "no {part:?} in {outcome}");
        }
    });
}

#[test]
fn one_family_alone_is_served() {
    case(|session| {
        let script = "ip -4 address show dev host0; ip -6 address show dev host0 scope global";
        let outcome = run_in(session, "pasta:-4", script);
        assert!(outcome.stdout.contains("203.0.113.1") && !outcome.stdout.contains("2001:db8"), "{outcome}");
        let outcome = run_in(session, "pasta:-6", script);
        assert!(!outcome.stdout.contains("203.0.113.1") && outcome.stdout.contains("2001:db8"), "{outcome}");
    });
}

#[test]
fn a_host_without_ipv6_has_ipv4() {
    case(|session| {
        session.ground.text_of("ip", &["-6", "address", "flush", "dev", "host0", "scope", "global"]);
        session.ground.text_of("ip", &["-6", "route", "flush", "default"]);
        let outcome = run_in(session, "pasta", "ip address show dev host0");
        assert!(outcome.stdout.contains("203.0.113.1/24"), "{outcome}");
    });
}

#[test]
fn a_host_without_ipv4_has_ipv6() {
    case(|session| {
        session.ground.text_of("ip", &["-4", "address", "flush", "dev", "host0"]);
        let outcome = run_in(session, "pasta", "ip address show dev host0");
        assert!(outcome.stdout.contains("2001:db8:1::1/64"), "{outcome}");
    });
}
