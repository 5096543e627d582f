//! Who carried it: servers that look, while they serve, whose socket brought the client.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::ground::{Ground, WORLD4, WORLD6, find_program};
use crate::servers::{serve_streams, write_body};
use crate::session::Session;

/// Port of the pages.
pub const PAGES_PORT: u16 = 8080;

/// A process that holds a socket.
#[derive(Debug, Clone)]
struct Holder {
    pid: u32,
    program: String,
}

/// A request that was served.
#[derive(Debug, Clone)]
struct Visit {
    client: SocketAddr,
    /// Whether every process with the socket runs the program under test, and there is one.
    carried_by_subject: bool,
    holders: Vec<Holder>,
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

impl Ground {
    /// The world's own address of a connection to the host's `address`, and the first line that comes out of it.
    pub fn ask_from_world(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<(SocketAddr, String)> {
        let stream = self.dial_from_world(address, port)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok((stream.local_addr()?, answer.trim_end().to_owned()))
    }
}
