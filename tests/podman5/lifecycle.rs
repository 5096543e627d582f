//! How a container's network comes and goes.

use crate::image::IMAGE;
use crate::witness::Pages;
use crate::{case, run_in};

#[test]
fn the_status_of_the_command_is_the_containers() {
    case(|session| {
        session.podman(&["run", "--rm", "--network=pasta", IMAGE, "sh", "-c", "exit 42"]).expect_code(42);
        session.assert_relays_gone();
    });
}

#[test]
fn stopping_a_container_leaves_no_process_behind() {
    case(|session| {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
        for round in ["stop", "kill", "rm"] {
            session
                .podman(&[
                    "run",
                    "--detach",
                    "--name",
                    round,
                    "--publish=18080:80",
                    IMAGE,
                    "sh",
                    "-c",
                    script,
                ])
                .expect_success();
            assert!(!session.relays().is_empty());
            match round {
                "rm" => session.podman(&["rm", "--force", "--time=0", round]).expect_success(),
                _ => session.podman(&[round, round]).expect_success(),
            };
            session.assert_relays_gone();
        }
    });
}

#[test]
fn a_container_that_is_started_again_has_its_network_again() {
    case(|session| {
        let pages = Pages::open(session);
        let fetch = "curl -sS http://203.0.113.2:8080/";
        session
            .podman(&["create", "--name=again", "--network=pasta", IMAGE, "sh", "-ec", fetch])
            .expect_success();
        for _ in 0..2 {
            let outcome = session.podman(&["start", "--attach", "again"]).expect_success();
            assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        }
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn containers_side_by_side_have_networks_of_their_own() {
    case(|session| {
        let pages = Pages::open(session);
        for name in ["one", "two"] {
            session.podman(&["run", "--detach", "--name", name, IMAGE, "sleep", "60"]).expect_success();
        }
        session.podman(&["rm", "--force", "--time=0", "one"]).expect_success();
        let outcome = session.podman(&["exec", "two", "curl", "-sS", "http://203.0.113.2:8080/"]);
        assert_eq!(outcome.expect_success().stdout, "hello 203.0.113.1\n");
        session.podman(&["rm", "--force", "--time=0", "two"]).expect_success();
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn the_containers_of_a_pod_share_one_network() {
    case(|session| {
        session
            .podman(&[
                "pod",
                "create",
                "--name=pod",
                "--network=pasta",
                "--infra-image",
                IMAGE,
                "--infra-command",
                "sleep 60",
            ])
            .expect_success();
        let serve = "echo shared | socat - TCP-LISTEN:80,reuseaddr";
        session.podman(&["run", "--detach", "--pod=pod", IMAGE, "sh", "-c", serve]).expect_success();
        let ask = "socat -T 5 - TCP:127.0.0.1:80,retry=20,interval=0.2";
        let outcome = session.podman(&["run", "--rm", "--pod=pod", IMAGE, "sh", "-c", ask]);
        outcome.expect_success().expect_stdout("shared");
        session.podman(&["pod", "rm", "--force", "--time=0", "pod"]).expect_success();
        session.assert_relays_gone();
    });
}

#[test]
fn frames_are_recorded_where_podman_is_asked_to() {
    case(|session| {
        let _pages = Pages::open(session);
        let file = "/tmp/home/frames.pcap";
        run_in(session, &format!("pasta:--pcap,{file}"), "curl -sS http://203.0.113.2:8080/");
        let bytes = std::fs::read(file).unwrap();
        assert!(bytes.len() > 500 && bytes[..4] == [0xd4, 0xc3, 0xb2, 0xa1], "{} bytes", bytes.len());
    });
}
