//! Clients that ask, wait, hear, and do none of these in time.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Plain;
use std::time::Duration;

use super::*;
use crate::control::server::{ClientName, Server};

struct Ground {
    server: Server<Client>,
    path: std::path::PathBuf,
    now: Instant,
    asked: Vec<(ClientName, Request)>,
    answers: VecDeque<Answer>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Ground {
    fn new(name: &str) -> Ground {
        let path = std::env::temp_dir().join(format!("netferry-native-{}-{name}", std::process::id()));
        let server = Server::bind("--control", &path).unwrap().for_user(crate::sys::user::own());
        Ground { server, path, now: Instant::from_secs(1), asked: Vec::new(), answers: VecDeque::new() }
    }

    fn connect(&self) -> BufReader<Plain> {
        let client = Plain::connect(&self.path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        BufReader::new(client)
    }

    /// Turns until there is nothing more to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let (asked, answers) = (&mut self.asked, &mut self.answers);
            let has_more = self.server.handle_events(self.now, |client, request| match request {
                Ok(request) => {
                    let answer = answers.pop_front().unwrap_or_else(|| Answer::Once(json!(request.name)));
                    asked.push((client, request));
                    answer
                }
                Err(refusal) => Answer::Refused(refusal),
            });
            if !has_more {
                return;
            }
        }
        panic!("it never rests");
    }

    fn asked(&self) -> Vec<&str> {
        self.asked.iter().map(|(_, request)| request.name.as_str()).collect()
    }
}

fn line(client: &mut BufReader<Plain>) -> Value {
    let mut text = String::new();
    client.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn request(name: &str) -> String {
    format!("{}\n", json!({ "version": 1, "request": name }))
}

#[test]
fn several_requests_of_one_client_are_answered_in_their_order() {
    let mut ground = Ground::new("order");
    let mut client = ground.connect();
    // The first two at once, and half of the third.
    client
        .get_mut()
        .write_all(format!("{}\n{}{{\"version\":", request("a"), request("b")).as_bytes())
        .unwrap();
    ground.settle();
    assert_eq!(line(&mut client), json!({ "version": 1, "answer": "a" }));
    assert_eq!(line(&mut client), json!({ "version": 1, "answer": "b" }));
    assert_eq!(ground.asked(), ["a", "b"]);
    client.get_mut().write_all(b"1,\"request\":\"c\"}").unwrap();
    ground.settle();
    assert_eq!(ground.asked(), ["a", "b"]);
    // The half-close ends it as a newline does.
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    ground.settle();
    assert_eq!(line(&mut client)["answer"], "c");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it is let go");
}

#[test]
fn a_refused_client_may_ask_again() {
    let mut ground = Ground::new("refused");
    let mut client = ground.connect();
    client.get_mut().write_all(b"nonsense\n").unwrap();
    ground.settle();
    assert_eq!(line(&mut client)["error"]["code"], "malformed");
    client.get_mut().write_all(request("a").as_bytes()).unwrap();
    ground.settle();
    assert_eq!(line(&mut client)["answer"], "a");
}

#[test]
fn descriptors_come_with_their_request() {
    let mut ground = Ground::new("descriptors");
    let mut client = ground.connect();
    let file = tempfile::tempfile().unwrap();
    let rights = vec![file.as_fd(); 6];
    descriptor::send_all(client.get_ref().as_fd(), &rights, request("a").as_bytes()).unwrap();
    ground.settle();
    line(&mut client);
    assert_eq!(ground.asked[0].1.descriptors.len(), 4, "no more than so many are kept");
    client.get_mut().write_all(request("b").as_bytes()).unwrap();
    ground.settle();
    assert!(ground.asked[1].1.descriptors.is_empty());
}

#[test]
fn an_answer_may_come_later() {
    let mut ground = Ground::new("later");
    let mut client = ground.connect();
    ground.answers.push_back(Answer::Later);
    client.get_mut().write_all(format!("{}{}", request("a"), request("b")).as_bytes()).unwrap();
    ground.settle();
    assert_eq!(ground.asked(), ["a"], "the next waits for the answer");
    let name = ground.asked[0].0;
    ground.now += crate::stack::boundary::Duration::from_secs(3_600);
    ground.server.with_client(name, |client| client.answer(&Answer::Once(json!("found")))).unwrap();
    ground.settle();
    assert_eq!(line(&mut client)["answer"], "found");
    assert_eq!(line(&mut client)["answer"], "b");
}

#[test]
fn a_slow_reader_of_a_stream_loses_lines_and_is_told_how_many() {
    let mut ground = Ground::new("slow");
    let mut client = ground.connect();
    ground.answers.push_back(Answer::Stream(json!({})));
    client.get_mut().write_all(request("events").as_bytes()).unwrap();
    ground.settle();
    let name = ground.asked[0].0;
    assert_eq!(line(&mut client)["answer"], json!({}));
    let text = "x".repeat(1_000);
    let sent = 10_000;
    for number in 0..sent {
        ground.server.with_client(name, |client| {
            client.push(&json!([number, text]));
            assert!(client.outgoing.len() <= CONTROL_STREAM_BYTES + 2_000, "it grows without bound");
        });
        if number % 10 == 0 {
            ground.settle();
        }
    }
    // It reads all there is; then there is room again.
    let (mut heard, mut last) = (0, 0);
    let mut lost = 0;
    client.get_mut().set_nonblocking(true).unwrap();
    loop {
        ground.settle();
        let mut text = String::new();
        match client.read_line(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && lost == 0 => {
                ground.server.with_client(name, |client| client.push(&json!([sent, ""])));
                // The rest of a line that was cut is read below.
                assert!(text.is_empty());
                lost = u64::MAX;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        let told: Value = serde_json::from_str(&text).unwrap();
        match told["lost"].as_u64() {
            Some(count) => lost = count,
            None => {
                let number = told["event"][0].as_u64().unwrap();
                assert!(number == 0 || number > last, "{number} after {last}");
                (heard, last) = (heard + 1, number);
            }
        }
    }
    assert_eq!((heard + lost, last), (10_001, 10_000));
    client.get_mut().shutdown(Shutdown::Write).unwrap();
    ground.settle();
    assert!(ground.server.with_client(name, |_| ()).is_none(), "it has left");
}

#[test]
fn a_request_too_large_or_too_slow_ends_the_conversation() {
    let mut ground = Ground::new("bounds");
    let mut large = ground.connect();
    large.get_mut().set_nonblocking(true).unwrap();
    let mut written = 0;
    while written <= CONTROL_REQUEST_BYTES {
        match large.get_mut().write(&[b' '; 4_096]) {
            Ok(len) => written += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ground.settle(),
            Err(error) => panic!("{error}"),
        }
    }
    ground.settle();
    large.get_mut().set_nonblocking(false).unwrap();
    assert_eq!(line(&mut large)["error"]["code"], "too-large");
    let (mut slow, mut resting) = (ground.connect(), ground.connect());
    slow.get_mut().write_all(b"{").unwrap();
    resting.get_mut().write_all(request("a").as_bytes()).unwrap();
    ground.settle();
    ground.now += (API_PATIENCE * 2).into();
    ground.settle();
    assert_eq!(line(&mut slow)["error"]["code"], "too-slow");
    assert_eq!(line(&mut resting)["answer"], "a");
    resting.get_mut().write_all(request("b").as_bytes()).unwrap();
    ground.settle();
    assert_eq!(line(&mut resting)["answer"], "b", "whoever rests is left alone");
}

#[test]
fn the_first_gives_way_where_there_are_too_many() {
    let mut ground = Ground::new("many");
    let mut clients: Vec<_> = (0..=CONTROL_CONNECTIONS)
        .map(|_| {
            let client = ground.connect();
            ground.settle();
            client
        })
        .collect();
    let mut first = clients.remove(0);
    assert_eq!(line(&mut first)["error"]["code"], "too-many");
    for client in &mut clients {
        client.get_mut().write_all(request("a").as_bytes()).unwrap();
        ground.settle();
        assert_eq!(line(client)["answer"], "a");
    }
}

#[test]
fn another_user_is_not_let_in() {
    let mut ground = Ground::new("stranger");
    // Whoever connects is not this one; and is not root either, or is let in as root is.
    ground.server = {
        let _ = std::fs::remove_file(&ground.path);
        Server::bind("--control", &ground.path).unwrap().for_user(crate::sys::user::own() + 1)
    };
    let mut client = ground.connect();
    // It may have been sent away by now.
    let _ = client.get_mut().write_all(request("a").as_bytes());
    ground.settle();
    let answered = client.read(&mut [0; 100]).is_ok_and(|len| len > 0);
    assert_eq!(answered, crate::sys::user::own() == 0);
}
