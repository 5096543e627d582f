//! Who carried it: servers that look, while they serve, whose socket brought the client.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::ground::{Ground, HOST4, WORLD4, WORLD6, find_program};
use crate::servers::{serve_streams, write_body};
use crate::session::Session;

/// Port of the pages.
pub const PAGES_PORT: u16 = 8080;

/// A process that holds a socket.
#[derive(Clone)]
struct Holder {
    pid: u32,
    program: String,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as process {}", self.program, self.pid)
    }
}

/// A request that was served.
#[derive(Clone)]
struct Visit {
    client: SocketAddr,
    /// Whether every process with the socket runs the program under test, and there is one.
    carried_by_subject: bool,
    holders: Vec<Holder>,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} brought by {:?}", self.client, self.holders)
    }
}

/// A web server: `GET /bytes/N` yields that much, all else a greeting with the client's address.
#[derive(Default)]
pub struct Pages {
    visits: Arc<Mutex<Vec<Visit>>>,
}

impl Pages {
    /// Serves both near addresses of the world on [`PAGES_PORT`].
    pub fn open(session: &Session) -> Pages {
        let pages = Pages::default();
        pages.serve(session, session.ground.world_listener(WORLD4, PAGES_PORT));
        pages.serve(session, session.ground.world_listener(WORLD6, PAGES_PORT));
        pages
    }

    /// Serves `listener` too.
    pub fn serve(&self, session: &Session, listener: TcpListener) {
        let (visits, subject) = (Arc::clone(&self.visits), session.subject);
        serve_streams(listener, move |stream, client| {
            let request = read_request(&stream)?;
            let holders = holders_of(&format!("src {client}"));
            let carried_by_subject =
                !holders.is_empty() && holders.iter().all(|holder| subject.is_run_by(holder.pid));
            visits.lock().expect("no server panics").push(Visit { client, carried_by_subject, holders });
            respond(&stream, &request, client.ip())
        });
    }

    /// Fails the case unless there were visits, and the program under test carried every one of them.
    #[track_caller]
    pub fn assert_carried_by_subject(&self) {
        let visits = self.visits.lock().expect("no server panics").clone();
        assert!(!visits.is_empty(), "nobody came");
        let others: Vec<_> = visits.iter().filter(|visit| !visit.carried_by_subject).collect();
        assert!(others.is_empty(), "carried by another program: {others:#?}");
    }

    /// Fails the case if there was a visit.
    #[track_caller]
    pub fn assert_unvisited(&self) {
        let visits = self.visits.lock().expect("no server panics").clone();
        assert!(visits.is_empty(), "{visits:#?}");
    }
}

/// Fails the case unless it is the program under test that listens on the host's `port`.
#[track_caller]
pub fn assert_subject_listens(session: &Session, port: u16) {
    let text = session.ground.text_of("ss", &["-Htulnp", &format!("sport = :{port}")]);
    let holders = holders_in(&text);
    let subject = session.subject;
    assert!(
        !holders.is_empty() && holders.iter().all(|holder| subject.is_run_by(holder.pid)),
        "port {port} is held by {holders:?}\n{text}"
    );
}

/// How far a process is shut in: whether it sees the host's files, whether its system calls are filtered, whether it has a
/// capability but that of binding low ports.
#[derive(Debug, PartialEq, Eq)]
pub struct Confinement {
    pub sees_files: bool,
    pub is_filtered: bool,
    pub is_capable: bool,
}

/// Waits until process `pid` is shut in as `expected`: what starts it may not wait.
#[track_caller]
pub fn assert_confined(pid: u32, expected: &Confinement) {
    const NET_BIND_SERVICE: u64 = 1 << 10;
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("proc(5) has the field");
            line.split_whitespace().nth(1).expect("a value").to_owned()
        };
        let capabilities = u64::from_str_radix(&field("CapEff:"), 16).expect("proc(5)");
        let found = Confinement {
            sees_files: Path::new(&format!("/proc/{pid}/root/usr/bin")).exists(),
            is_filtered: field("Seccomp:") == "2",
            is_capable: capabilities & !NET_BIND_SERVICE != 0,
        };
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}, not {expected:?}\n{status}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn read_request(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(request)
}

fn respond(mut stream: &TcpStream, request: &str, client: IpAddr) -> io::Result<()> {
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let len = path.strip_prefix("/bytes/").and_then(|len| len.parse::<u64>().ok());
    let greeting = format!("hello {}\n", client.to_canonical());
    let content_len = len.unwrap_or(greeting.len() as u64);
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {content_len}\r\nConnection: close\r\n\r\n")?;
    match len {
        Some(len) => write_body(stream, len),
        None => stream.write_all(greeting.as_bytes()),
    }
}

/// Processes with TCP sockets on the host that `filter` (ss(8)) selects.
fn holders_of(filter: &str) -> Vec<Holder> {
    let output = std::process::Command::new(find_program("ss").expect("installed"))
        .args(["-Htnp", "state", "all", filter])
        .output();
    output.map(|output| holders_in(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

/// From `users:(("slirp4netns",pid=12,fd=9),...)`.
fn holders_in(text: &str) -> Vec<Holder> {
    let pids = text.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    let program = |pid| fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default().display().to_string();
    pids.map(|pid: u32| Holder { pid, program: program(pid) }).collect()
}

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(15);

impl Ground {
    /// Asks the greeter behind the host's `port`, over TCP from the world, and returns whom the world asked as and whom the
    /// greeter saw.
    #[track_caller]
    pub fn greeted_over_tcp(&self, port: u16) -> (SocketAddr, SocketAddr) {
        self.until_greeted(port, || {
            let stream = self.dial_from_world(HOST4, port)?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            Ok((stream.local_addr()?, line))
        })
    }

    /// The same over UDP.
    #[track_caller]
    pub fn greeted_over_udp(&self, port: u16) -> (SocketAddr, SocketAddr) {
        let socket = self.world_datagrams(WORLD4, 0);
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("an open socket");
        self.until_greeted(port, || {
            socket.send_to(b"hello\n", (HOST4, port))?;
            let mut answer = [0; 100];
            let (len, _) = socket.recv_from(&mut answer)?;
            Ok((socket.local_addr()?, String::from_utf8_lossy(&answer[..len]).into_owned()))
        })
    }

    #[track_caller]
    fn until_greeted(
        &self,
        port: u16,
        ask: impl Fn() -> io::Result<(SocketAddr, String)>,
    ) -> (SocketAddr, SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A relay may accept what the container refuses a moment later: an empty answer is none.
            let attempt = ask();
            if let Ok((client, answer)) = &attempt
                && let Some(seen) = answer.trim_end().strip_prefix("from ")
            {
                return (*client, seen.parse().unwrap_or_else(|error| panic!("{answer:?}: {error}")));
            }
            assert!(Instant::now() < deadline, "port {port} of the host: {attempt:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
