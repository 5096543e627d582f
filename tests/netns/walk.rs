//! The walk of docs/walk.sh: several containers on a network, as an ordinary user, with somebody in the world who
//! watches and comes to visit.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::ground::{FAR4, HOST4, SCRATCH, SUBJECT, WORLD4, sealed, sysctl};
use crate::process::{Stream, run, start};

/// For all of the walk, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

const WALK: &str = include_str!("../../docs/walk.sh");

#[test]
fn the_walk_of_a_lesson_on_container_networks_goes_as_it_is_told() {
    sealed(|ground| {
        ground.needs(&["curl", "ping", "tcpdump", "getent", "nsenter", "python3"]);
        ground.allow_ping();
        sysctl("net/ipv4/ip_unprivileged_port_start", "81");
        let (script, runtime) = (format!("{SCRATCH}/walk.sh"), format!("{SCRATCH}/run"));
        fs::write(&script, WALK).expect("scratch");
        let mut install = ground.user("install");
        install.args(["-d", "-m", "0700"]).arg(&runtime);
        run(install).expect_success();
        let mut watch = ground.in_world(|| {
            let mut tcpdump = ground.root("tcpdump");
            tcpdump.args(["-n", "-l", "-i", "world0", "-Z", "root", "icmp"]).stdin(Stdio::null());
            start(tcpdump)
        });
        watch.wait_for(Stream::Err, "listening on");
        let over = AtomicBool::new(false);
        let walked = thread::scope(|scope| {
            scope.spawn(|| ground.in_world(|| visit(&over)));
            let mut walk = ground.user("sh");
            walk.arg(&script).args([HOST4.to_string(), FAR4.to_string()]);
            walk.env("NETFERRY", SUBJECT).env("XDG_RUNTIME_DIR", &runtime).env("TMPDIR", SCRATCH);
            walk.env("VISITOR", WORLD4.to_string());
            let walked = start(walk).finish(PATIENCE);
            over.store(true, Ordering::Relaxed);
            walked
        });
        let walked = walked.expect_success();
        // Which ping got what, by the order of the walk: the gateway and the host's address are no hop away, others are.
        for (whom, ttl) in [("172.17.0.1", 64), (&*HOST4.to_string(), 64), (&*FAR4.to_string(), 63)] {
            let reply = format!("from {whom}: icmp_seq=1 ttl={ttl} ");
            assert!(walked.stdout.contains(&reply), "no {reply:?}\n{walked}");
        }
        for text in [
            "default via 172.17.0.1 dev eth0",
            "172.17.0.0/16 dev eth0",
            "eth0             UNKNOWN        02:42:ac:11:00:02",
            "from two (172.17.0.20)",
            "hello from web",
            "172.17.0.20     two",
            &format!("{WORLD4} - - "),
            &format!("{HOST4} - - "),
            "172.17.0.20 - - ",
            "default via 172.18.0.1 dev eth0",
        ] {
            assert!(walked.stdout.contains(text), "no {text:?}\n{walked}");
        }
        assert!(!walked.stdout.contains("172.18.0.2 - - ") && !walked.stdout.contains("127.0.0.1 - - "));
        // Outside it is the host that asks, with the identifier and the numbers of the container's ping.
        for sequence in [1, 2] {
            let asked = format!("{HOST4} > {FAR4}: ICMP echo request, id 4242, seq {sequence},");
            watch.wait_for(Stream::Out, &asked);
        }
    });
}

/// Comes to the published port until it has been served once, or it is over.
fn visit(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let asked = TcpStream::connect((HOST4, 81)).and_then(|mut client| {
            client.set_read_timeout(Some(Duration::from_secs(5)))?;
            client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            client.read_to_string(&mut answer)?;
            Ok(answer)
        });
        if asked.is_ok_and(|answer| answer.contains("hello from web")) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
