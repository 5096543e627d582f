//! Ports that podman publishes through one of its two port handlers.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpStream};

use crate::ground::{WORLD4, sealed};
use crate::image::{GREET, IMAGE, import};
use crate::session::Session;
use crate::witness::{Pages, assert_subject_listens};

/// A detached container `server` of the network `network` whose TCP port 80 and UDP port 53 greet.
#[track_caller]
pub fn start_server(session: &Session, network: &str, options: &[&str]) {
    let script = format!(
        "curl -sS http://203.0.113.2:8080/
         socat UDP-RECVFROM:53,fork EXEC:{GREET} &
         exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:{GREET}"
    );
    let arguments = ["run", "--detach", "--name", "server", "--network", network];
    let command = [IMAGE, "sh", "-ec", &script];
    session.podman(&[&arguments[..], options, &command[..]].concat()).expect_success();
}

const PUBLISHED: [&str; 2] = ["--publish=18080:80", "--publish=15300:53/udp"];

#[test]
fn ports_published_by_slirp4netns_show_the_true_client() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        start_server(&session, "slirp4netns:port_handler=slirp4netns", &PUBLISHED);
        let (tcp, seen) = ground.greeted_over_tcp(18080);
        assert_eq!(seen, tcp);
        let (udp, seen) = ground.greeted_over_udp(15300);
        assert_eq!(seen, udp);
        let log = session.podman(&["logs", "server"]).expect_success();
        for client in [tcp, udp] {
            assert!(log.stderr.contains(&format!("from {client}\n")), "{log}");
        }
        // From the host itself as well.
        let mut line = String::new();
        BufReader::new(TcpStream::connect(("127.0.0.1", 18080)).unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("from "), "{line:?}");
        assert_subject_listens(&session, 18080);
        assert_subject_listens(&session, 15300);
        pages.assert_carried_by_subject();
        session.podman(&["rm", "--force", "--time=0", "server"]).expect_success();
        session.assert_relays_gone();
        assert!(ground.dial_from_world(crate::ground::HOST4, 18080).is_err(), "the port is still open");
    });
}

#[test]
fn a_range_of_ports_is_published_by_slirp4netns() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        let range = "--publish=203.0.113.1:18078-18082:78-82";
        start_server(&session, "slirp4netns:port_handler=slirp4netns", &[range]);
        ground.greeted_over_tcp(18080);
        for port in 18078..=18082 {
            assert_subject_listens(&session, port);
        }
        let elsewhere = TcpStream::connect(("127.0.0.1", 18080));
        assert!(elsewhere.is_err(), "only one address was to be published: {elsewhere:?}");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn a_port_that_is_taken_is_refused_by_slirp4netns() {
    sealed(|ground| {
        let session = Session::start(ground);
        import(&session);
        let _taken = std::net::TcpListener::bind(("0.0.0.0", 18080)).unwrap();
        let network = "--network=slirp4netns:port_handler=slirp4netns";
        let outcome = session.podman(&["run", "--rm", network, "--publish=18080:80", IMAGE, "true"]);
        assert!(!outcome.status.success(), "{outcome}");
        outcome.expect_stderr("add_hostfwd");
        session.assert_relays_gone();
    });
}

#[test]
fn ports_published_by_rootlesskit_are_reached() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        start_server(&session, "slirp4netns:port_handler=rootlesskit", &PUBLISHED);
        for (client, seen) in [ground.greeted_over_tcp(18080), ground.greeted_over_udp(15300)] {
            assert_eq!(client.ip(), IpAddr::V4(WORLD4));
            // This handler connects from within the container's namespace.
            assert_eq!(seen.ip().to_string(), "10.0.2.100");
        }
        pages.assert_carried_by_subject();
    });
}

#[test]
fn two_containers_of_a_pod_share_the_network() {
    sealed(|ground| {
        let session = Session::start(ground);
        session.ground.needs(&["catatonit"]);
        let pages = Pages::open(&session);
        import(&session);
        let network = "--network=slirp4netns:port_handler=slirp4netns";
        let create = ["pod", "create", "--name=pod", network, "--publish=18080:80"];
        session.podman(&create).expect_success();
        let script = format!("exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:{GREET}");
        let server = ["run", "--detach", "--pod=pod", IMAGE, "sh", "-c", &script];
        session.podman(&server).expect_success();
        let (client, seen) = ground.greeted_over_tcp(18080);
        assert_eq!(seen, client);
        let script = "socat - TCP:127.0.0.1:80; curl -sS http://203.0.113.2:8080/";
        let outcome = session.podman(&["run", "--rm", "--pod=pod", IMAGE, "sh", "-ec", script]);
        outcome.expect_success().expect_stdout("from 127.0.0.1:").expect_stdout("hello 203.0.113.1\n");
        session.relay();
        pages.assert_carried_by_subject();
        session.podman(&["pod", "rm", "--force", "--time=0", "pod"]).expect_success();
        session.assert_relays_gone();
    });
}
