//! RootlessKit 2 with `--net=pasta`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::case;
use crate::ground::WORLD4;
use crate::image::GREETER;
use crate::process::{Stream, start};
use crate::session::{DIRECTORY, Session, finish};
use crate::witness::Pages;

const GREET: &str = "/mnt/scratch/greet";

fn rootlesskit(session: &Session, options: &[&str], script: &str) -> Command {
    let binary = Path::new(DIRECTORY).join("pasta");
    let binary = format!("--pasta-binary={}", binary.display());
    let first = ["--net=pasta", &binary, "--state-dir=/tmp/state", "--copy-up=/etc"];
    session.command("rootlesskit", &[&first[..], options, &["sh", "-ec", script]].concat())
}

#[test]
fn a_command_reaches_the_world_by_address_and_name() {
    case(|session| {
        session.ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(session);
        let script = "ip address show tap0; cat /etc/resolv.conf; curl -sS http://203.0.113.2:8080/
            curl -4sS http://www.test:8080/";
        let outcome = finish(rootlesskit(session, &["--disable-host-loopback"], script)).expect_success();
        assert_eq!(outcome.stdout.matches("hello 203.0.113.1\n").count(), 2, "{outcome}");
        outcome
            .expect_stdout("inet 10.0.2.100/24")
            .expect_stdout("mtu 65520")
            .expect_stdout("nameserver 10.0.2.3\n");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn ports_that_a_command_opens_are_published_by_themselves() {
    case(|session| {
        fs::write(GREET, GREETER).unwrap();
        fs::set_permissions(GREET, fs::Permissions::from_mode(0o755)).unwrap();
        let script = format!("echo up; exec socat TCP-LISTEN:18080,fork,reuseaddr EXEC:{GREET}");
        let mut server = start(rootlesskit(session, &["--port-driver=implicit"], &script));
        server.wait_for(Stream::Out, "up");
        let (client, seen) = session.ground.greeted_over_tcp(18080);
        assert_eq!(seen, client);
    });
}
