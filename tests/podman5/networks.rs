//! Networks that the user defines: bridges in a namespace of podman's own, which `pasta` connects to the host.

use crate::case;
use crate::ground::WORLD4;
use crate::image::{GREET, IMAGE};
use crate::witness::Pages;

#[test]
fn containers_of_a_network_find_each_other_by_name_and_reach_the_world() {
    case(|session| {
        session.ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(session);
        session.podman(&["network", "create", "net"]).expect_success();
        let serve = format!("exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:{GREET}");
        let run = ["run", "--detach", "--name=server", "--network=net", "--publish=18080:80", IMAGE];
        session.podman(&[&run[..], &["sh", "-c", &serve]].concat()).expect_success();
        session.ground.greeted_over_tcp(18080);
        let script = "socat - TCP:server:80; curl -4sS http://www.test:8080/";
        let outcome = session.podman(&["run", "--rm", "--network=net", IMAGE, "sh", "-ec", script]);
        outcome.expect_success().expect_stdout("from 10.89.0.").expect_stdout("hello 203.0.113.1\n");
        assert!(!session.relays().is_empty(), "it is ours that connects the bridge");
        pages.assert_carried_by_subject();
        session.podman(&["rm", "--force", "--time=0", "server"]).expect_success();
        session.assert_relays_gone();
    });
}

#[test]
fn a_network_with_ipv6_reaches_the_world() {
    case(|session| {
        let pages = Pages::open(session);
        session.podman(&["network", "create", "--ipv6", "net"]).expect_success();
        let script = "curl -sS --retry 5 --retry-delay 1 --retry-all-errors 'http://[2001:db8:1::2]:8080/'";
        let outcome = session.podman(&["run", "--rm", "--network=net", IMAGE, "sh", "-ec", script]);
        assert_eq!(outcome.expect_success().stdout, "hello 2001:db8:1::1\n");
        pages.assert_carried_by_subject();
    });
}
