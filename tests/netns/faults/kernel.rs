//! The kernel refuses what it always granted, now and then and all at once: `strace` has it say so.
//!
//! An injected error reaches the filter of system calls as a call without a number, so these relays have none.

use std::fs;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::{Face, Served, serve_world};
use crate::ground::{Ground, HOST4, PYTHON, SCRATCH, sealed};
use crate::process::{Running, SOON, Stream, start};

/// `strace` on a relay, which says at the end what it has done.
struct Injection {
    strace: Running,
    trace: String,
}

impl Injection {
    /// Has each of `calls` (`NAME:error=ERRNO:when=FIRST+EVERY`) fail from now on.
    fn begin(ground: &Ground, served: &Served, calls: &[&str]) -> Injection {
        ground.needs(&["strace"]);
        let trace = format!("{SCRATCH}/trace-{}", served.relay.pid());
        let names: Vec<&str> = calls.iter().map(|call| call.split(':').next().unwrap()).collect();
        let mut command = ground.root("strace");
        command.args(["-o", &trace, "-p", &served.relay.pid().to_string(), "-e"]);
        command.arg(format!("trace={}", names.join(",")));
        for call in calls {
            command.args(["-e", &format!("inject={call}")]);
        }
        let mut strace = start(command);
        strace.wait_for(Stream::Err, "attached");
        Injection { strace, trace }
    }

    /// Waits for the end of the relay, and expects that each call has failed.
    fn end(self, calls: &[&str]) {
        self.strace.finish(SOON);
        let trace = fs::read_to_string(&self.trace).unwrap();
        for call in calls {
            let name = format!("{}(", call.split(':').next().unwrap());
            let count =
                trace.lines().filter(|line| line.starts_with(&name) && line.contains("(INJECTED)")).count();
            assert!(count > 0, "{call} was never injected");
            println!("{call}: {count} times");
        }
    }
}

/// A server in the container that says hello, at port 80.
const SERVER: &str = "\
import socket
l = socket.socket(); l.bind(('0.0.0.0', 80)); l.listen(64); print('listening', flush=True)
while True:
    s, _ = l.accept(); s.sendall(b'hello'); s.close()";

#[test]
fn a_kernel_out_of_memory_now_and_then_costs_time_and_no_connection() {
    sealed(|ground| {
        serve_world(ground);
        let served = Face::Run.serve(ground, &["--no-sandbox", "-p", "8080:80"]);
        let mut agent = served.agent(ground);
        let mut command = served.inside(ground, PYTHON);
        command.args(["-c", SERVER]);
        let mut server = start(command);
        server.wait_for(Stream::Out, "listening");
        agent.expect("connect('old')", "connected");
        let calls = [
            // Bytes of connections and datagrams, frames, and what is opened for somebody new.
            "sendto:error=ENOBUFS:when=2+5",
            "recvfrom:error=ENOMEM:when=2+5",
            "sendmsg:error=ENOBUFS:when=1+2",
            "read:error=ENOMEM:when=3+11",
            "write:error=ENOBUFS:when=5+40",
            "writev:error=ENOMEM:when=3+40",
            "socket:error=ENOMEM:when=3+6",
            "connect:error=ENOBUFS:when=2+6",
            "epoll_ctl:error=ENOMEM:when=4+9",
            "accept4:error=ENOBUFS:when=1+2",
        ];
        let injection = Injection::begin(ground, &served, &calls);
        agent.expect("echo('old', 300000)", "echoed");
        for _ in 0..2 {
            agent.expect("until('connected', \"connect('new')\")", "connected");
            agent.expect("echo('new', 100000)", "echoed");
        }
        for flow in ["one", "two"] {
            agent.expect(&format!("datagrams('{flow}')"), "open");
            let answer = agent.ask(&format!("until('from ', \"asks('{flow}')\")"));
            assert!(answer.starts_with("from "), "{answer}");
        }
        // Clients wait in the host's queue; one that was taken from there in vain is reset. None is told an end.
        let mut greeted = 0;
        for _ in 0..4 {
            let mut client = ground.dial_from_world(HOST4, 8080).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            let mut heard = Vec::new();
            match client.read_to_end(&mut heard) {
                Ok(_) => {
                    assert_eq!(heard, b"hello");
                    greeted += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
        assert!(greeted > 1, "{greeted}");
        assert!(served.cpu() < Duration::from_secs(5), "{:?}", served.cpu());
        drop(agent);
        drop(server);
        served.end();
        injection.end(&calls);
    });
}
