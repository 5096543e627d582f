//! Ten thousand connections in one burst, from and to the container, beside a transfer that must not notice.
//!
//! `NETFERRY_STORM` sets another number. The host allows itself two descriptors a connection here, of which the
//! hard limit decides: below that the storm is smaller, and said to be.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::ground::{Ground, HOST4, PYTHON, WORLD4, sealed};
use crate::process::{Running, Stream, start};
use crate::servers::serve_streams;

const STORM: u64 = 10_000;
/// Connections that rest from before the storm until after it.
const RESTING: usize = 100;
/// The whole of a storm; SYNs that found a queue full come again after 1, 3 and 7 seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Opens all at once, asks on each, and takes the answers as they come; the sockets stay open until all are there.
const CLIENTS: &str = "\
import errno, resource, select, socket, struct, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
def storm(host, port, count, patience):
    began = time.monotonic(); poll = select.epoll(); waiting = {}; good = lost = 0; kept = []; last = began
    for number in range(count):
        s = socket.socket(); s.setblocking(False); s.connect_ex((host, port))
        waiting[s.fileno()] = (s, number); poll.register(s, select.EPOLLOUT)
    while waiting and time.monotonic() - began < patience:
        for fd, events in poll.poll(1):
            s, number = waiting[fd]
            try:
                if events & select.EPOLLOUT:
                    error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if error: raise OSError(error, '')
                    s.send(struct.pack('!Q', number)); poll.modify(fd, select.EPOLLIN)
                else:
                    good += s.recv(8) == struct.pack('!Q', number * 7); last = time.monotonic()
                    poll.unregister(fd); kept.append(waiting.pop(fd)[0])
            except OSError as error:
                lost += 1; poll.unregister(fd); waiting.pop(fd)
    print('%d of %d, %d lost, %d silent, in %.2f s' % (good, count, lost, len(waiting), last - began), flush=True)
";

/// Answers each number with seven times itself, and keeps every connection.
const SERVER: &str = "\
import resource, select, socket, struct, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
def serve(host, port):
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((host, port)); l.listen(65535)
    l.setblocking(False); poll = select.epoll(); poll.register(l, select.EPOLLIN); clients = {}
    print('listening', flush=True)
    while True:
        for fd, events in poll.poll():
            if fd != l.fileno():
                try: asked = clients[fd].recv(8)
                except OSError: asked = b''
                if asked: clients[fd].send(struct.pack('!Q', struct.unpack('!Q', asked)[0] * 7))
                else: clients.pop(fd).close()
                continue
            try:
                while True:
                    s, _ = l.accept(); s.setblocking(False); clients[s.fileno()] = s; poll.register(s, select.EPOLLIN)
            except BlockingIOError: pass
";

/// A child that takes an endless body until told to stop, and says how long it was: blocks of 64 KiB, each led by its
/// number, every byte compared. And connections that rest meanwhile.
const BESIDE: &str = "\
import os, select, socket, struct, time
resting = [socket.create_connection(('203.0.113.2', 7002)) for _ in range(RESTING)]
class Transfer:
    def __init__(self):
        (self.told, tell), (answers, answer) = os.pipe(), os.pipe()
        self.tell, self.answers = tell, answers
        if os.fork() == 0:
            os.close(tell); s = socket.create_connection(('203.0.113.2', 7001)); blocks = 0; worst = 0.0; last = time.monotonic()
            body = bytes(range(8, 256)) + bytes(range(256)) * 255
            while not select.select([self.told], [], [], 0)[0]:
                block = s.recv(1 << 16, socket.MSG_WAITALL); assert block == struct.pack('!Q', blocks) + body, blocks
                now = time.monotonic(); worst = max(worst, now - last); last = now; blocks += 1
            os.write(answer, b'transfer %d blocks, longest pause %.3f s\\n' % (blocks, worst)); os._exit(0)
        os.close(answer); os.close(self.told)
    def end(self):
        os.close(self.tell); print(os.read(self.answers, 200).decode(), end='', flush=True)
def rested():
    for s in resting: s.sendall(b'x')
    print('rested', sum(s.recv(1) == b'x' for s in resting), flush=True)
";

/// As many as asked for, if the descriptors suffice for both ends in one process.
fn size_of_storm() -> u64 {
    let wanted = env::var("NETFERRY_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(STORM);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let most = hard.saturating_sub(1_000);
    if most < wanted {
        println!("only {most} connections: the hard limit of descriptors is {hard}");
    }
    wanted.min(most)
}

/// What [`BESIDE`] talks to.
fn serve_transfer(ground: &Ground) {
    serve_streams(ground.world_listener(WORLD4, 7001), |mut stream, _| {
        let mut block: Vec<u8> = (0..1 << 16).map(|place: u32| place as u8).collect();
        for number in 0_u64.. {
            block[..8].copy_from_slice(&number.to_be_bytes());
            stream.write_all(&block)?;
        }
        Ok(())
    });
    serve_streams(ground.world_listener(WORLD4, 7002), crate::servers::echo);
}

/// Fails unless the transfer went on, whole, and nothing that rested was lost.
#[track_caller]
fn assert_unharmed(output: &str) {
    println!("{output}");
    let line = output.lines().find_map(|line| line.strip_prefix("transfer ")).expect("the transfer reports");
    let (blocks, rest) = line.split_once(" blocks, longest pause ").unwrap();
    assert!(blocks.parse::<u64>().unwrap() > 256, "the transfer starved: {line}");
    let pause = rest.trim_end_matches(" s");
    // Beside other work on the machine it may wait for seconds; one that was lost never goes on.
    assert!(pause.parse::<f64>().unwrap() < 10.0, "the transfer stood still: {line}");
    assert!(output.contains(&format!("rested {RESTING}\n")), "{output}");
}

fn assert_all_answered(output: &str, count: u64) {
    assert!(output.contains(&format!("{count} of {count}, 0 lost, 0 silent, in ")), "{output}");
}

#[test]
fn a_burst_of_connects_from_the_container_is_answered_to_the_last() {
    sealed(|ground| {
        let count = size_of_storm();
        serve_transfer(ground);
        let mut server = in_world(ground, &format!("{SERVER}serve('203.0.113.2', 7000)"));
        server.wait_for(Stream::Out, "listening");
        let script = format!(
            "RESTING = {RESTING}\n{BESIDE}{CLIENTS}t = Transfer(); time.sleep(0.5)\n\
             storm('203.0.113.2', 7000, {count}, 30)\nt.end(); rested()"
        );
        let outcome =
            start(ground.netferry(&["run", "--", PYTHON, "-c", &script])).finish(PATIENCE).expect_success();
        assert_unharmed(&outcome.stdout);
        assert_all_answered(&outcome.stdout, count);
    });
}

#[test]
fn a_burst_of_clients_of_a_published_port_is_answered_to_the_last() {
    sealed(|ground| {
        let count = size_of_storm();
        serve_transfer(ground);
        let script = format!(
            "RESTING = {RESTING}\n{BESIDE}{SERVER}import signal\nt = Transfer(); time.sleep(0.5)\n\
             def end(*_): t.end(); rested(); sys.exit(0)\n\
             signal.signal(signal.SIGTERM, end)\nserve('0.0.0.0', 80)"
        );
        let mut server = start(ground.netferry(&["run", "-p", "8080:80", "--", PYTHON, "-c", &script]));
        server.wait_for(Stream::Out, "listening");
        let clients = in_world(ground, &format!("{CLIENTS}storm('{HOST4}', 8080, {count}, 30)"));
        let outcome = clients.finish(PATIENCE).expect_success();
        println!("{}", outcome.stdout);
        server.signal(nix::sys::signal::Signal::SIGTERM);
        let server = server.finish(Duration::from_secs(10)).expect_success();
        assert_unharmed(&server.stdout);
        assert_all_answered(&outcome.stdout, count);
    });
}

/// Their memory is a few MiB.
const PASSING_CLIENTS: u64 = 5_000;

#[test]
fn what_a_storm_has_held_is_given_back_after_it() {
    sealed(|ground| {
        let count = size_of_storm().min(PASSING_CLIENTS);
        let script = format!("{SERVER}serve('0.0.0.0', 80)");
        let mut server = start(ground.netferry(&["run", "-p", "8080:80", "--", PYTHON, "-c", &script]));
        server.wait_for(Stream::Out, "listening");
        let before = memory(server.pid());
        let clients = in_world(ground, &format!("{CLIENTS}storm('{HOST4}', 8080, {count}, 30)"));
        assert_all_answered(&clients.finish(PATIENCE).expect_success().stdout, count);
        let loaded = memory(server.pid());
        let deadline = Instant::now() + Duration::from_secs(30);
        // Without it nine tenths stay.
        while memory(server.pid()) > before + (loaded - before) / 4 {
            assert!(Instant::now() < deadline, "{before} KiB before, {loaded}, {} now", memory(server.pid()));
            sleep(Duration::from_millis(100));
        }
        println!(
            "{before} KiB before, {loaded} with {count} connections, {} after them",
            memory(server.pid())
        );
    });
}

/// More than there may be handshakes in all; what one port may not have of them waits in the host's queue.
const HUNG_CLIENTS: usize = 4_500;

#[test]
fn clients_of_a_server_that_hangs_wait_and_leave_the_other_ports_alone() {
    sealed(|ground| {
        size_of_storm();
        // A full queue of a listener makes the kernel drop SYNs.
        let script = format!(
            "{SERVER}hung = socket.socket(); hung.bind(('0.0.0.0', 81)); hung.listen(0)\nserve('0.0.0.0', 80)"
        );
        let arguments = ["run", "-v", "-p", "8080:80", "-p", "8081:81", "--", PYTHON, "-c", &script];
        let mut server = start(ground.netferry(&arguments));
        server.wait_for(Stream::Out, "listening");
        let hung: Vec<_> = ground.in_world(|| {
            let clients = (0..HUNG_CLIENTS).map(|_| TcpStream::connect((HOST4, 8081)));
            clients.collect::<Result<_, _>>().expect("the host's queue takes them")
        });
        let storm = in_world(ground, &format!("{CLIENTS}storm('{HOST4}', 8080, 1000, 20)"));
        assert_all_answered(&storm.finish(PATIENCE).expect_success().stdout, 1_000);
        for mut client in hung {
            client.set_nonblocking(true).unwrap();
            let heard = client.read(&mut [0; 1]).map_err(|error| error.kind());
            assert_eq!(heard, Err(ErrorKind::WouldBlock), "a client of the server that hangs was sent away");
        }
        let said = server.so_far(Stream::Err);
        assert!(!said.contains("refused"), "{said}");
    });
}

/// What all processes of the program that `pid` runs hold of memory that could leak, in KiB.
fn memory(pid: i32) -> u64 {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let ours = program(&pid.to_string()).expect("it runs");
    let mut sum = 0;
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if program(&pid).as_ref() == Some(&ours) {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
            sum += line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
    }
    sum
}

/// A python program of the world.
fn in_world(ground: &Ground, script: &str) -> Running {
    ground.in_world(|| {
        start({
            let mut command = ground.root(PYTHON);
            command.args(["-c", script]);
            command
        })
    })
}
