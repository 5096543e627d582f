//! Networks that the user defines: bridges in a namespace of podman's own, which `slirp4netns` connects to the host.

use crate::ground::{WORLD4, sealed};
use crate::image::{IMAGE, import};
use crate::ports::start_server;
use crate::session::Session;
use crate::witness::Pages;

#[test]
fn containers_of_a_network_reach_each_other_and_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        session.podman(&["network", "create", "net"]).expect_success();
        start_server(&session, "net", &["--publish=18080:80"]);
        ground.greeted_over_tcp(18080);
        let script = "socat - TCP:server:80; curl -4sS http://www.test:8080/";
        let outcome = session.podman(&["run", "--rm", "--network=net", IMAGE, "sh", "-ec", script]);
        outcome.expect_success().expect_stdout("from 10.89.0.3:").expect_stdout("hello 203.0.113.1\n");
        session.relay();
        pages.assert_carried_by_subject();
        session.podman(&["rm", "--force", "--time=0", "server"]).expect_success();
        session.assert_relays_gone();
    });
}

/// podman forwards in the namespace of its networks, where the kernel then ignores router advertisements. The original leaves
/// the default route to them and fails this case.
#[test]
fn a_network_with_ipv6_reaches_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        session.podman(&["network", "create", "--ipv6", "net"]).expect_success();
        let script = "curl -sS --retry 5 --retry-delay 1 --retry-all-errors 'http://[2001:db8:1::2]:8080/'";
        let outcome = session.podman(&["run", "--rm", "--network=net", IMAGE, "sh", "-ec", script]);
        assert_eq!(outcome.expect_success().stdout, "hello 2001:db8:1::1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn a_container_of_two_networks_reaches_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        for name in ["one", "two"] {
            session.podman(&["network", "create", name]).expect_success();
        }
        let script = "ip -4 address; curl -sS http://203.0.113.2:8080/";
        let outcome = session.podman(&["run", "--rm", "--network=one,two", IMAGE, "sh", "-ec", script]);
        outcome
            .expect_success()
            .expect_stdout("inet 10.89.0.2/24")
            .expect_stdout("inet 10.89.1.2/24")
            .expect_stdout("hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
    });
}
