//! Containers of podman's on a network of ours: podman gives them none, and `netferry network connect` does (docs/network.md).

use std::fs;
use std::time::{Duration, Instant};

use crate::ground::{HOST4, SUBJECT, sealed};
use crate::image::{GREET, IMAGE, import};
use crate::process::{Outcome, SOON};
use crate::session::{Session, finish};

fn netferry(session: &Session, words: &str) -> Outcome {
    let words: Vec<&str> = words.split(' ').collect();
    finish(session.command(SUBJECT, &words))
}

/// A container that podman has given no network, and its process.
fn without_network(session: &Session, name: &str, script: &str) -> String {
    let resolver = "--volume=/tmp/resolv.conf:/etc/resolv.conf:ro";
    // ping of busybox opens a raw socket; where podman makes no network it gives no range of groups for others.
    let options = ["--network=none", "--cap-add=NET_RAW", resolver, "--name", name];
    let command = [IMAGE, "sh", "-c", script];
    session.podman(&[&["run", "--detach"], &options[..], &command[..]].concat()).expect_success();
    let inspect = ["inspect", "--format", "{{.State.Pid}}", name];
    session.podman(&inspect).expect_success().stdout.trim().to_owned()
}

#[test]
fn containers_that_podman_gives_no_network_are_connected_to_one_of_ours() {
    sealed(|ground| {
        let session = Session::start(ground);
        import(&session);
        fs::write("/tmp/resolv.conf", "nameserver 172.17.0.1\n").expect("private directory");
        netferry(&session, "network create lab --subnet 172.17.0.0/16").expect_success();
        let serve = format!("exec socat TCP-LISTEN:80,fork,reuseaddr EXEC:{GREET}");
        let web = without_network(&session, "web", &serve);
        netferry(&session, &format!("network connect lab {web} --name web -p {HOST4}:18080:80"))
            .expect_success();
        let client = without_network(&session, "client", "exec sleep 100");
        netferry(&session, &format!("network connect lab {client} --name client")).expect_success();

        let script = "ip route; ping -c 1 -W 10 172.17.0.1; ping -4 -c 1 -W 10 web; socat - TCP:web:80";
        let shown = session.podman(&["exec", "client", "sh", "-ec", script]).expect_success();
        shown
            .expect_stdout("default via 172.17.0.1 dev eth0")
            .expect_stdout("64 bytes from 172.17.0.1: seq=0 ttl=64")
            .expect_stdout("64 bytes from 172.17.0.2: seq=0 ttl=64")
            .expect_stdout("from 172.17.0.3:");
        let (visitor, seen) = ground.greeted_over_tcp(18080);
        assert_eq!(seen, visitor);
        let log = session.podman(&["logs", "web"]).expect_success();
        assert!(log.stderr.contains(&format!("from {visitor}\n")), "{log}");

        session.podman(&["rm", "--force", "--time=0", "web"]).expect_success();
        let deadline = Instant::now() + SOON;
        while netferry(&session, "network inspect lab").expect_success().stdout.contains("\"web\"") {
            assert!(Instant::now() < deadline, "web is gone, and on the network still");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(ground.dial_from_world(HOST4, 18080).is_err(), "the port is still open");
        netferry(&session, "network rm --force lab").expect_success();
        session.assert_relays_gone();
    });
}
