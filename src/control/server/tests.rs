//! Clients that behave, and clients that do not.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Plain;
use std::time::Duration;

use std::io::{Read, Write};
use std::net::Shutdown;

use super::*;
use crate::config::limits::{API_CONNECTIONS, API_PATIENCE, API_REQUEST_BYTES, API_SURPLUS_BYTES};
use crate::control::single::{READ_BYTES_PER_TURN, Single, TOO_LARGE, TOO_MANY, TOO_SLOW};

struct Ground {
    server: Server<Single>,
    path: PathBuf,
    now: Instant,
    asked: Vec<Vec<u8>>,
}

impl Ground {
    fn new(name: &str) -> Ground {
        let path = std::env::temp_dir().join(format!("netferry-control-{}-{name}", std::process::id()));
        let server = Server::bind("--api-socket", &path).unwrap();
        Ground { server, path, now: Instant::from_secs(1), asked: Vec::new() }
    }

    fn connect(&self) -> Plain {
        let client = Plain::connect(&self.path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client
    }

    /// Turns until there is nothing more to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let asked = &mut self.asked;
            let answer = |_, request: Vec<u8>| {
                let told = format!("{} bytes", request.len());
                asked.push(request);
                told
            };
            if !self.server.handle_events(self.now, answer) {
                return;
            }
        }
        panic!("it never rests");
    }
}

fn read(mut client: Plain) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn request_ends_with_the_half_close() {
    let mut ground = Ground::new("half-close");
    let mut client = ground.connect();
    client.write_all(b"{\"half\"").unwrap();
    ground.settle();
    assert!(ground.asked.is_empty());
    client.write_all(b": ").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    ground.settle();
    assert_eq!(ground.asked, [b"{\"half\": "]);
    assert_eq!(read(client), "9 bytes");
    assert!(ground.server.clients.is_empty());
}

#[test]
fn request_ends_with_its_json_value() {
    let mut ground = Ground::new("whole");
    let mut client = ground.connect();
    client.write_all(b"\n{\n").unwrap();
    ground.settle();
    assert!(ground.asked.is_empty());
    client.write_all(b"}").unwrap();
    ground.settle();
    assert_eq!(ground.asked, [b"\n{\n}"]);
    // What follows is no second request.
    client.write_all(b"\n{}\n").unwrap();
    ground.settle();
    assert_eq!(ground.asked.len(), 1);
    assert_eq!(read(client), "4 bytes");
    ground.settle();
    assert!(ground.server.clients.is_empty(), "its end was seen");
}

#[test]
fn request_that_is_too_large_is_answered_and_not_carried_out() {
    let mut ground = Ground::new("large");
    let mut client = ground.connect();
    client.write_all(&vec![b' '; API_REQUEST_BYTES + 1]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    ground.settle();
    assert_eq!(read(client), TOO_LARGE);
    assert!(ground.asked.is_empty() && ground.server.clients.is_empty());
    let mut client = ground.connect();
    client.write_all(&vec![b' '; API_REQUEST_BYTES]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    ground.settle();
    assert_eq!(ground.asked.len(), 1, "the limit itself is allowed");
}

#[test]
fn what_can_become_no_json_is_answered_at_once() {
    let mut ground = Ground::new("nonsense");
    let mut client = ground.connect();
    client.write_all(b"nonsense").unwrap();
    ground.settle();
    assert_eq!(read(client), "8 bytes");
}

/// Writes until there is no more room; how often that went.
fn fill(client: &mut Plain) -> usize {
    client.set_nonblocking(true).unwrap();
    let written = (0..).take_while(|_| client.write(&[b' '; 1_024]).is_ok()).count();
    client.set_nonblocking(false).unwrap();
    written
}

#[test]
fn client_that_never_stops_is_read_a_little_each_turn() {
    let mut ground = Ground::new("endless");
    let mut endless = ground.connect();
    ground.settle();
    let most = 2 * READ_BYTES_PER_TURN / 1_024;
    assert!(fill(&mut endless) > most, "more than what is read in a turn");
    let mut other = ground.connect();
    other.write_all(b"{}").unwrap();
    for _ in 0..10 {
        assert!(ground.server.handle_events(ground.now, |_, _| "answered".to_owned()), "more is there");
        let refilled = fill(&mut endless);
        assert!(refilled <= most, "{refilled} KiB were read in one turn");
    }
    assert_eq!(read(other), "answered", "others have their turn");
    // It is told, and given up in its time.
    ground.now += API_PATIENCE.into();
    ground.server.handle_events(ground.now, |_, _| String::new());
    let mut text = String::new();
    let _ = endless.read_to_string(&mut text);
    assert_eq!(text, TOO_LARGE);
}

#[test]
fn long_answer_is_written_as_the_client_reads_it() {
    let mut ground = Ground::new("long");
    let mut client = ground.connect();
    client.write_all(b"{}").unwrap();
    let long = "x".repeat(1 << 20);
    ground.server.handle_events(ground.now, |_, _| long.clone());
    for _ in 0..5 {
        ground.server.handle_events(ground.now, |_, _| long.clone());
    }
    let reader = std::thread::spawn(move || read(client));
    while !ground.server.clients.is_empty() {
        ground.server.handle_events(ground.now, |_, _| panic!("asked again"));
    }
    assert_eq!(reader.join().unwrap(), long);
}

#[test]
fn slow_client_is_given_up() {
    let mut ground = Ground::new("slow");
    let mut client = ground.connect();
    client.write_all(b"{").unwrap();
    ground.settle();
    let deadline = ground.server.poll_timeout().unwrap();
    assert_eq!(deadline, ground.now + API_PATIENCE.into());
    ground.now = deadline;
    ground.settle();
    assert_eq!(read(client), TOO_SLOW);
    assert_eq!(ground.server.poll_timeout(), None);
}

#[test]
fn who_has_spoken_while_we_were_stopped_is_heard() {
    let mut ground = Ground::new("stopped");
    let mut client = ground.connect();
    client.write_all(b"{").unwrap();
    ground.settle();
    client.write_all(b"}\n").unwrap();
    ground.now += (API_PATIENCE * 60).into();
    ground.settle();
    assert_eq!(read(client), "3 bytes");
    // Once: who has not ended its request then is late.
    let mut slow = ground.connect();
    slow.write_all(b"{").unwrap();
    ground.settle();
    slow.write_all(b" ").unwrap();
    ground.now += (API_PATIENCE * 60).into();
    ground.settle();
    assert_eq!(read(slow), TOO_SLOW);
}

#[test]
fn idle_clients_give_way_and_do_not_keep_others_out() {
    let mut ground = Ground::new("idle");
    let idle: Vec<Plain> = (0..API_CONNECTIONS * 3).map(|_| ground.connect()).collect();
    ground.settle();
    assert_eq!(ground.server.clients.len(), API_CONNECTIONS);
    let mut client = ground.connect();
    client.write_all(b"{}\n").unwrap();
    ground.settle();
    assert_eq!(read(client), "3 bytes");
    let first = idle.into_iter().next().unwrap();
    assert_eq!(read(first), TOO_MANY);
}

#[test]
fn client_that_goes_without_a_word_is_answered_to_nobody() {
    let mut ground = Ground::new("gone");
    drop(ground.connect());
    ground.settle();
    assert!(ground.server.clients.is_empty());
    let mut client = ground.connect();
    client.write_all(b"{}\n").unwrap();
    drop(client);
    ground.settle();
    assert!(ground.server.clients.is_empty());
}

#[test]
fn path_of_a_former_run_is_replaced_and_another_file_is_not() {
    let mut first = Ground::new("path");
    first.server.leave_path();
    let path = first.path.clone();
    drop(first);
    assert!(path.exists(), "left behind");
    let second = Server::<Single>::bind("--api-socket", &path).unwrap();
    drop(second);
    assert!(!path.exists(), "removed");
    let (older, newer) = (
        Server::<Single>::bind("--api-socket", &path).unwrap(),
        Server::<Single>::bind("--api-socket", &path).unwrap(),
    );
    drop(older);
    assert!(path.exists(), "removed the socket of a successor");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "open to others");
    drop(newer);
    fs::write(&path, "mine").unwrap();
    let error = Server::<Single>::bind("--api-socket", &path).unwrap_err();
    assert!(error.to_string().ends_with("exists and is no socket; choose another path"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();
    let nowhere = Server::<Single>::bind("--api-socket", Path::new("/nonexistent/x")).unwrap_err();
    assert!(nowhere.to_string().starts_with("--api-socket /nonexistent/x: No such file"), "{nowhere}");
}

#[test]
fn client_that_never_stops_talking_is_cut_off() {
    let mut ground = Ground::new("flood");
    let mut client = ground.connect();
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let error = loop {
        match client.write(&[b' '; 10_000]) {
            Ok(len) => sent += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ground.settle(),
            Err(error) => break error,
        }
        assert!(sent < 2 * API_SURPLUS_BYTES, "{sent} bytes were taken");
    };
    let cut_off = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    assert!(cut_off.contains(&error.kind()) && sent > API_SURPLUS_BYTES, "{error} after {sent}");
    assert!(ground.server.clients.is_empty());
}

#[test]
fn client_given_up_hears_why_though_it_was_not_heard() {
    let mut ground = Ground::new("unheard");
    let mut unheard = ground.connect();
    ground.settle();
    unheard.write_all(b"{").unwrap();
    // Nothing of it was read when its time is over.
    let oldest = *ground.server.clients.keys().next().unwrap();
    ground.server.give_up(oldest, Dismissal::TooSlow);
    assert_eq!(read(unheard), TOO_SLOW);
}

#[test]
fn name_that_an_empty_file_reserves_is_taken() {
    let path = std::env::temp_dir().join(format!("netferry-control-{}-reserved", std::process::id()));
    fs::write(&path, "").unwrap();
    drop(Server::<Single>::bind("--api-socket", &path).unwrap());
    assert!(!path.exists());
}
