//! RootlessKit: what rootless Docker, nerdctl, k3s and BuildKit stand on.

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::ground::{HOST4, WORLD4, sealed};
use crate::image::GREETER;
use crate::process::{Running, Stream, start};
use crate::session::{DIRECTORY, Session, finish};
use crate::witness::{Confinement, PAGES_PORT, Pages, assert_confined, assert_subject_listens};

const STATE: &str = "/tmp/state";
const GREET: &str = "/mnt/scratch/greet";

/// `script`, to be run by RootlessKit with `options`.
fn rootlesskit(session: &Session, options: &[&str], script: &str) -> Command {
    session.ground.needs(&["rootlesskit", "rootlessctl", "curl", "socat"]);
    let binary = format!("--slirp4netns-binary={DIRECTORY}/slirp4netns");
    let state = format!("--state-dir={STATE}");
    let first = ["--net=slirp4netns", &binary, &state];
    session.command("rootlesskit", &[&first[..], options, &["sh", "-ec", script]].concat())
}

/// A server within that greets on TCP port 80 and UDP port 53, once it has fetched a page of the world.
fn start_server(session: &Session, options: &[&str]) -> Running {
    fs::write(GREET, GREETER).unwrap();
    fs::set_permissions(GREET, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "curl -sS http://203.0.113.2:8080/
         socat UDP-RECVFROM:53,fork EXEC:{GREET} &
         socat TCP-LISTEN:81,fork,reuseaddr EXEC:{GREET} &
         exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:{GREET}"
    );
    let mut server = start(rootlesskit(session, options, &script));
    server.wait_for(Stream::Out, "hello 203.0.113.1");
    server
}

#[test]
fn a_command_reaches_the_world_and_not_the_hosts_loopback() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let (pages, loopback) = (Pages::open(&session), Pages::default());
        loopback.serve(&session, TcpListener::bind(("127.0.0.1", PAGES_PORT)).unwrap());
        let script = "ip address show tap0; cat /etc/resolv.conf; echo mine > /etc/hosts
            curl -sS http://203.0.113.2:8080/; curl -4sS http://www.test:8080/
            ! curl -sS --max-time 5 http://10.0.2.2:8080/";
        let options = ["--copy-up=/etc", "--disable-host-loopback"];
        let outcome = finish(rootlesskit(&session, &options, script)).expect_success();
        assert_eq!(outcome.stdout.matches("hello 203.0.113.1\n").count(), 2, "{outcome}");
        outcome
            .expect_stdout("inet 10.0.2.100/24")
            .expect_stdout("mtu 65520")
            .expect_stdout("nameserver 10.0.2.3\n");
        loopback.assert_unvisited();
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn the_hosts_loopback_is_reached_unless_disabled() {
    sealed(|ground| {
        let session = Session::start(ground);
        let loopback = Pages::default();
        loopback.serve(&session, TcpListener::bind(("127.0.0.1", PAGES_PORT)).unwrap());
        let outcome = finish(rootlesskit(&session, &[], "curl -sS http://10.0.2.2:8080/")).expect_success();
        assert_eq!(outcome.stdout, "hello 127.0.0.1\n");
        loopback.assert_carried_by_subject();
    });
}

#[test]
fn subnet_mtu_and_ipv6_are_what_was_asked_for() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let script = "ip address show tap0; curl -sS http://203.0.113.2:8080/
            curl -sS --retry 5 --retry-delay 1 --retry-all-errors 'http://[2001:db8:1::2]:8080/'";
        let options = ["--copy-up=/etc", "--cidr=10.77.0.0/24", "--mtu=1400", "--ipv6"];
        finish(rootlesskit(&session, &options, script))
            .expect_success()
            .expect_stdout("inet 10.77.0.100/24")
            .expect_stdout("mtu 1400")
            .expect_stdout("hello 203.0.113.1\n")
            .expect_stdout("hello 2001:db8:1::1\n");
        pages.assert_carried_by_subject();
    });
}

#[test]
fn sandbox_and_filter_are_on_when_the_program_offers_them() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let options = ["--copy-up=/etc", "--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto"];
        let server = start_server(&session, &options);
        assert_confined(
            session.relay(),
            &Confinement { sees_files: false, is_filtered: true, is_capable: false },
        );
        pages.assert_carried_by_subject();
        drop(server);
    });
}

#[test]
fn sandbox_and_filter_are_off_by_default() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let server = start_server(&session, &[]);
        let relay = session.relay();
        assert!(Path::new(&format!("/proc/{relay}/root/usr/bin")).exists());
        assert!(fs::read_to_string(format!("/proc/{relay}/status")).unwrap().contains("Seccomp:\t0"));
        pages.assert_carried_by_subject();
        drop(server);
    });
}

const PUBLISHED: [&str; 2] = ["--publish=0.0.0.0:18080:80/tcp", "--publish=0.0.0.0:15300:53/udp"];

#[test]
fn ports_published_by_slirp4netns_show_the_true_client() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let options = [&["--copy-up=/etc", "--port-driver=slirp4netns"], &PUBLISHED[..]].concat();
        let server = start_server(&session, &options);
        let (client, seen) = ground.greeted_over_tcp(18080);
        assert_eq!(seen, client);
        let (client, seen) = ground.greeted_over_udp(15300);
        assert_eq!(seen, client);
        assert_subject_listens(&session, 18080);
        assert_subject_listens(&session, 15300);
        pages.assert_carried_by_subject();
        drop(server);
    });
}

#[test]
fn ports_published_by_the_builtin_driver_are_reached() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let options = [&["--copy-up=/etc", "--port-driver=builtin"], &PUBLISHED[..]].concat();
        let server = start_server(&session, &options);
        for (client, seen) in [ground.greeted_over_tcp(18080), ground.greeted_over_udp(15300)] {
            assert_eq!(client.ip(), IpAddr::V4(WORLD4));
            assert!(seen.ip().is_loopback(), "this driver connects within the namespace: {seen}");
        }
        pages.assert_carried_by_subject();
        drop(server);
    });
}

#[test]
fn ports_come_and_go_while_it_runs() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let server = start_server(&session, &["--copy-up=/etc", "--port-driver=slirp4netns"]);
        let socket = format!("--socket={STATE}/api.sock");
        let control = |arguments: &[&str]| {
            finish(session.command("rootlessctl", &[&[socket.as_str()], arguments].concat())).expect_success()
        };
        let first = control(&["add-ports", "0.0.0.0:18080:80/tcp"]).stdout;
        let second = control(&["add-ports", "0.0.0.0:18081:81/tcp"]).stdout;
        assert_ne!(first, second);
        for port in [18080, 18081] {
            let (client, seen) = ground.greeted_over_tcp(port);
            assert_eq!(seen, client);
            assert_subject_listens(&session, port);
        }
        let list = control(&["list-ports"]);
        assert!(list.stdout.contains("18080") && list.stdout.contains("18081"), "{list}");
        control(&["remove-ports", first.trim()]);
        assert!(ground.dial_from_world(HOST4, 18080).is_err(), "the port is still open");
        ground.greeted_over_tcp(18081);
        pages.assert_carried_by_subject();
        drop(server);
    });
}

#[test]
fn the_program_is_found_by_the_search_path() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        let arguments = ["--net=slirp4netns", "curl", "-sS", "http://203.0.113.2:8080/"];
        let outcome = finish(session.command_by_path("rootlesskit", &arguments)).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}
