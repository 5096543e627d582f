//! The filter: what is on its list works, and anything else is the end.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use netferry::sys::confined::{Confined, Sandboxed, Waiver};
use netferry::sys::process::{ExitKind, Signal, SignalMask, exec, fork_child};
use netferry::sys::resolv_conf::{self, ResolvConfWatch};
use netferry::sys::seccomp::{Calls, install};
use nix::fcntl::FcntlArg;
use nix::sched::CloneFlags;
use socket2::{Domain, Protocol, Type};

use crate::Case;
use crate::container::{contained, output_of};

pub const CASES: &[Case] = &[
    ("seccomp_lets_pass_what_the_loop_does", allowed),
    ("seccomp_ends_whoever_does_anything_else", forbidden),
    ("seccomp_lets_several_workers_make_threads_and_nothing_else", threads),
    ("seccomp_names_the_call_that_is_missing", told),
    ("seccomp_lets_a_panic_and_an_abort_be_told", bugs),
];

const VIOLATION: ExitKind = ExitKind::Signaled(Signal::SIGSYS as i32);

/// What it is called, and doing it.
type Attempt<'a> = (&'static str, Box<dyn FnOnce() + 'a>);

/// How a child ends that does this under the filter.
fn filtered(body: impl FnOnce()) -> ExitKind {
    let child = fork_child(|| {
        install(Calls::Relay, Sandboxed::waived(Waiver::OfTest)).unwrap();
        body();
        0
    });
    child.unwrap().wait().unwrap()
}

fn allowed() {
    contained(|| {
        output_of("ip", &["link", "set", "lo", "up"]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver fe80::1%lo\n").unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut watch = ResolvConfWatch::open(&path).unwrap();
        let end = filtered(|| {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            udp.send_to(b"x", udp.local_addr().unwrap()).unwrap();
            udp.recv_from(&mut [0]).unwrap();
            assert!(!watch.drain());
            assert_eq!(resolv_conf::read(&path).unwrap().servers[0].to_string(), "[fe80::1%1]:53");
            // Beyond what the allocator takes from its heap, and growing.
            let mut large: Vec<u8> = Vec::new();
            for _ in 0..64 {
                large.extend_from_slice(&[1; 1 << 20]);
            }
            drop(large);
            eprintln!("a message");
        });
        assert_eq!(end, ExitKind::Exited(0));
    });
}

fn forbidden() {
    let mask = SignalMask::current().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    let file = fs::File::open(&path).unwrap();
    let cases: Vec<Attempt<'_>> = vec![
        ("execve", Box::new(move || drop(exec(&["true".into()], &mask)))),
        ("program", Box::new(|| drop(Command::new("true").status()))),
        ("thread", Box::new(|| drop(std::thread::spawn(|| ())))),
        ("mount", Box::new(|| assert!(nix::mount::umount("/nowhere").is_ok()))),
        ("open for writing", Box::new(|| drop(fs::File::options().write(true).open(&path)))),
        ("open to make", Box::new(|| drop(fs::File::create(directory.path().join("new"))))),
        ("remove", Box::new(|| drop(fs::remove_file(&path)))),
        ("list", Box::new(|| drop(fs::read_dir("/").map(Iterator::count)))),
        ("unix socket", Box::new(|| drop(std::os::unix::net::UnixStream::connect("/none")))),
        ("kill", Box::new(|| nix::sys::signal::kill(nix::unistd::getppid(), None).unwrap())),
        ("unshare", Box::new(|| nix::sched::unshare(CloneFlags::CLONE_NEWUSER).unwrap())),
        ("pair of sockets", Box::new(|| drop(std::os::unix::net::UnixStream::pair()))),
        (
            "socket of SCTP",
            Box::new(|| drop(socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP)))),
        ),
        (
            "raw socket",
            Box::new(|| drop(socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))),
        ),
        (
            "option of a socket that is not listed",
            Box::new(|| drop(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().set_broadcast(true))),
        ),
        (
            "duplicate across exec",
            Box::new(move || assert!(nix::fcntl::fcntl(&file, FcntlArg::F_DUPFD(0)).is_ok())),
        ),
    ];
    for (name, body) in cases {
        assert_eq!(filtered(body), VIOLATION, "{name}");
    }
    assert!(Path::new(&path).exists());
}

fn threads() {
    let workers = |body: &dyn Fn(Confined)| {
        let child = fork_child(|| {
            body(install(Calls::Workers, Sandboxed::waived(Waiver::OfTest)).unwrap());
            0
        });
        child.unwrap().wait().unwrap()
    };
    let served = workers(&|confined| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = std::sync::Condvar::new();
        let lock = std::sync::Mutex::new(0);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (sender, asked, lock) = (sender.clone(), &asked, &lock);
                let body = move |_| {
                    // An allocator's heap of its own, something to wait for, and a bell.
                    let poll = mio::Poll::new().unwrap();
                    let bell = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
                    bell.wake().unwrap();
                    *lock.lock().unwrap() += 1;
                    asked.notify_one();
                    sender.send(vec![number; 1 << 20]).unwrap();
                };
                confined.spawn_scoped(scope, body).unwrap();
            }
            let guard = asked.wait_while(lock.lock().unwrap(), |done| *done < 8).unwrap();
            drop(guard);
            let sum: usize = receiver.iter().take(8).map(|bytes| bytes[0]).sum();
            assert_eq!(sum, 28);
        });
        // Its thread is confined as it is, and makes others likewise.
        let inner = confined.spawn(|confined| confined.spawn(|_| 5).unwrap().join().unwrap());
        assert_eq!(inner.unwrap().join().unwrap(), 5);
    });
    assert_eq!(served, ExitKind::Exited(0));
    let told = workers(&|confined| {
        assert!(confined.spawn(|_| panic!("on purpose")).unwrap().join().is_err());
    });
    assert_eq!(told, ExitKind::Exited(0));
    type Body = fn(Confined);
    let forbidden: [(&str, Body); 5] = [
        ("fork", |_| drop(fork_child(|| 0))),
        ("program", |_| drop(Command::new("true").status())),
        ("program of a thread", |confined| {
            drop(confined.spawn(|_| drop(Command::new("true").status())).unwrap().join());
        }),
        ("thread with a name", |_| {
            drop(std::thread::Builder::new().name("a".into()).spawn(|| ()).unwrap().join());
        }),
        ("open for writing in a thread", |confined| {
            drop(confined.spawn(|_| drop(fs::File::create("/tmp/new"))).unwrap().join());
        }),
    ];
    for (name, body) in forbidden {
        assert_eq!(workers(&body), VIOLATION, "{name}");
    }
}

fn told() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = fork_child(move || {
        nix::unistd::dup2_stderr(&writer).unwrap();
        drop(writer);
        install(Calls::Relay, Sandboxed::waived(Waiver::OfTest)).unwrap();
        nix::unistd::getppid();
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), VIOLATION);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let expected = format!("netferry: system call {} (", libc::SYS_getppid);
    assert!(text.contains(") is not among those"), "{text}");
    assert!(text.starts_with(&expected) && text.ends_with('\n') && text.lines().count() == 1, "{text}");
}

fn bugs() {
    assert_eq!(filtered(|| panic!("on purpose")), ExitKind::Exited(101));
    assert_eq!(filtered(|| std::process::abort()), ExitKind::Signaled(Signal::SIGABRT as i32));
}
