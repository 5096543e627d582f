//! A host that has no more descriptors for us: whoever is connected goes on, whoever is new waits, and gets in as soon
//! as there is room.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::ground::{Ground, HOST4, PYTHON, WORLD4, sealed};
use crate::process::{Stream, start};
use crate::servers::{echo, echo_datagrams, serve_streams};

/// Goes on with each file that appears in the scratch directory, and says in a line what the phase before came to.
const CONTAINER: &str = "\
import os, select, socket, sys, threading, time
def echoes(s, text=b'x'):
    s.sendall(text); return s.recv(16) == text
def phase(name):
    while not os.path.exists('/mnt/scratch/' + name): time.sleep(0.01)
listener = socket.socket(); listener.bind(('0.0.0.0', 80)); listener.listen(64)
def serve():
    while True:
        s, _ = listener.accept(); s.sendall(b'hello'); s.close()
threading.Thread(target=serve, daemon=True).start()
old = [socket.create_connection(('203.0.113.2', 7000)) for _ in range(20)]
print('connected', sum(map(echoes, old)), flush=True)
phase('short')
poll, new, ended = select.epoll(), [], []
for _ in range(30):
    s = socket.socket(); s.setblocking(False); s.connect_ex(('203.0.113.2', 7000)); poll.register(s, select.EPOLLOUT); new.append(s)
until = time.monotonic() + 2.5; up = {}
while time.monotonic() < until:
    for fd, events in poll.poll(0.1): up[fd] = events; poll.unregister(fd)
bad = sum(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 for s in new)
print('short: %s connected, %d refused, %d old echo' % (0 < len(up) < 30, bad, sum(map(echoes, old))), flush=True)
phase('ends')
for s in old[:10]: s.close()
print('ended', flush=True)
phase('plenty')
until = time.monotonic() + 20
while len(up) < 30 and time.monotonic() < until:
    for fd, events in poll.poll(0.1): up[fd] = events; poll.unregister(fd)
for s in new: s.setblocking(True); s.settimeout(5)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5); u.sendto(b'x', ('203.0.113.2', 7000))
print('plenty: %d echo, %d old, datagram %s' % (sum(map(echoes, new)), sum(map(echoes, old[10:])), u.recv(16) == b'x'), flush=True)
";

fn phase(name: &str) {
    fs::write(format!("/mnt/scratch/{name}"), "").expect("the scratch directory is ours");
}

/// Leaves a running process `free` descriptors and no more, by its soft limit.
fn leave_descriptors(ground: &Ground, pid: i32, free: usize) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let open: Vec<usize> =
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The limit is one of their numbers, and a closed one is given again.
    let last = (0..).filter(|number| !open.contains(number)).nth(free - 1).expect("endless");
    let (pid, most) = (pid.to_string(), format!("--nofile={}:", last + 1));
    let status = ground.user("prlimit").args(["--pid", &pid, &most]).status().expect("prlimit (util-linux)");
    assert!(status.success());
}

fn serve(ground: &Ground) {
    serve_streams(ground.world_listener(WORLD4, 7000), echo);
    echo_datagrams(ground.world_datagrams(WORLD4, 7000), false);
}

/// Connects to a published port, whose host queues it, and says what is heard within a moment.
#[track_caller]
fn hears_nothing(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let heard = stream.read(&mut [0; 5]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::WouldBlock), "the client is to wait, not to be sent away");
}

#[track_caller]
fn hears_hello(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).expect("the client is served in the end");
    assert_eq!(&heard, b"hello");
}

/// Fails if whoever waits is not served before they would be looked at again in any case, a second later. A busy
/// machine may be late now and then, hardly three times.
#[track_caller]
fn assert_soon(mut wait: impl FnMut() -> Duration) {
    let soon = Duration::from_millis(700);
    let mut waits = Vec::new();
    while waits.len() < 3 {
        let waited = wait();
        if waited < soon {
            return;
        }
        waits.push(waited);
    }
    panic!("it was waited for more than a descriptor: {waits:?}");
}

#[test]
fn who_is_new_waits_for_a_descriptor_and_who_is_connected_goes_on() {
    sealed(|ground| {
        serve(ground);
        assert_soon(|| who_is_new_waits(ground));
    });
}

/// How long a client waited once there was a descriptor for it.
fn who_is_new_waits(ground: &Ground) -> Duration {
    for name in ["short", "ends", "plenty"] {
        // Of an attempt before this one.
        let _ = fs::remove_file(format!("/mnt/scratch/{name}"));
    }
    let mut container = start(ground.netferry(&["run", "-p", "8080:80", "--", PYTHON, "-c", CONTAINER]));
    container.wait_for(Stream::Out, "connected 20");
    let pid = container.pid();
    leave_descriptors(ground, pid, 5);
    phase("short");
    container.wait_for(Stream::Out, "short: True connected, 0 refused, 20 old echo");
    let mut client = ground.dial_from_world(HOST4, 8080).expect("the host's queue takes it");
    hears_nothing(&mut client);
    let began = Instant::now();
    phase("ends");
    container.wait_for(Stream::Out, "ended");
    hears_hello(&mut client);
    let waited = began.elapsed();
    leave_descriptors(ground, pid, 1_000);
    phase("plenty");
    container.wait_for(Stream::Out, "plenty: 30 echo, 10 old, datagram True");
    let said = container.so_far(Stream::Err);
    assert_eq!(said.matches("no descriptor, port or memory left").count(), 1, "{said}");
    waited
}

#[test]
fn clients_on_the_hosts_loopback_wait_for_the_descriptors_of_both_ends() {
    sealed(|ground| {
        let script = "\
import socket, threading
l = socket.socket(); l.bind(('0.0.0.0', 8080)); l.listen(64); print('listening', flush=True)
def until_end(s): s.sendall(b'hello'); s.recv(1); s.close()
while True: threading.Thread(target=until_end, args=l.accept()[:1]).start()";
        let arguments = ["pasta", "--config-net", "-t", "8080", "--", PYTHON, "-c", script];
        assert_soon(|| {
            let mut container = start(ground.netferry(&arguments));
            container.wait_for(Stream::Out, "listening");
            let dial = || TcpStream::connect((Ipv4Addr::LOCALHOST, 8080)).expect("the host's queue takes it");
            let mut first: Vec<TcpStream> = (0..4).map(|_| dial()).collect();
            first.iter_mut().for_each(hears_hello);
            // Room for the accepted socket, and none for the other.
            leave_descriptors(ground, container.pid(), 1);
            let mut late: Vec<TcpStream> = (0..3).map(|_| dial()).collect();
            late.iter_mut().for_each(hears_nothing);
            let began = Instant::now();
            drop(first);
            late.iter_mut().for_each(hears_hello);
            began.elapsed()
        });
    });
}

#[test]
fn a_hundred_and_twenty_eight_descriptors_serve_any_number_of_connections_in_turn() {
    sealed(|ground| {
        serve(ground);
        // 110 beside each other, each for a second: the table has room for 64. They begin one after the other, as many that
        // begin at once wait for their handshakes already.
        let script = "\
import socket, threading, time
good = []
def one():
    s = socket.create_connection(('203.0.113.2', 7000), 40); s.sendall(b'x')
    if s.recv(1) == b'x': good.append(1)
    time.sleep(1); s.close()
threads = [threading.Thread(target=one) for _ in range(110)]
for t in threads: t.start(); time.sleep(0.003)
for t in threads: t.join()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5); u.sendto(b'x', ('203.0.113.2', 7000))
print(len(good), 'of 110, datagram', u.recv(16) == b'x')";
        let mut command = ground.user("prlimit");
        command.args(["--nofile=128:128", crate::ground::SUBJECT, "run", "--", PYTHON, "-c", script]);
        let outcome = start(command).finish(Duration::from_secs(60)).expect_success();
        assert_eq!(outcome.stdout, "110 of 110, datagram True\n", "{outcome}");
        assert_eq!(outcome.stderr.matches("all 64 flows are in use").count(), 1, "{outcome}");
    });
}
