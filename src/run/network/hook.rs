//! The hook of a network: one program, which is asked about all of its containers.
//!
//! Each container's worker has a stream of its own, and takes what is at its other end for the hook. That is here: questions are
//! passed on to the program under numbers that are nobody else's, and answers to whoever asked, under his. What a container's
//! worker cannot be told for want of room it waits for in vain, as long as it waits for any answer. When the program has ended
//! all streams are closed, and so are those of containers that come later.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;

use mio::{Registry, Token};
use serde_json::{Value, json};
use tracing::{error, warn};

use crate::config::HookSettings;
use crate::config::limits::{HOOK_ANSWER_BYTES, HOOK_NETWORK_QUESTIONS, HOOK_OUTGOING_BYTES};
use crate::run::hook::Started;
use crate::worker::hook::Hook;
use crate::worker::hook::lines::{Gone, Lines};

/// The program and those who ask it.
pub struct Hub {
    program: String,
    settings: HookSettings,
    registry: Registry,
    /// Of the program; those of members have the ones behind it.
    token: Token,
    /// Nothing once it has ended.
    lines: Option<Lines>,
    members: BTreeMap<u64, Lines>,
    /// By the number that the program knows: who has asked, and under which.
    asked: BTreeMap<u64, (u64, Value)>,
    next: u64,
    /// One answer to no question has been told of.
    is_told: bool,
}

impl Hub {
    /// At our end of the program's stream. Events come with `token`, and with those behind it.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(started: Started, registry: Registry, token: Token) -> io::Result<Hub> {
        let Started { program, stream, settings } = started;
        let lines = Lines::new(stream, HOOK_ANSWER_BYTES);
        lines.watch(&registry, token)?;
        Ok(Hub {
            program,
            settings,
            registry,
            token,
            lines: Some(lines),
            members: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
            is_told: false,
        })
    }

    /// What the worker of the member with this number asks. A former one of that number is forgotten.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn join(&mut self, number: u64) -> io::Result<Hook> {
        let (ours, theirs) = UnixStream::pair()?;
        if self.lines.is_some() {
            // Its questions are longer than answers are.
            let lines = Lines::new(ours, HOOK_OUTGOING_BYTES);
            lines.watch(&self.registry, self.token_of(number))?;
            self.members.insert(number, lines);
        }
        Ok(Hook::new(self.program.clone(), theirs, self.settings))
    }

    fn token_of(&self, number: u64) -> Token {
        Token(self.token.0 + 1 + usize::try_from(number).unwrap_or(usize::MAX / 4))
    }

    /// Something has happened at one of the streams; false if the token is of none.
    pub fn note(&mut self, token: Token) -> bool {
        let Some(behind) = token.0.checked_sub(self.token.0) else { return false };
        let lines = match behind.checked_sub(1) {
            None => self.lines.as_mut(),
            Some(number) => self.members.get_mut(&(number as u64)),
        };
        lines.into_iter().for_each(Lines::note);
        true
    }

    /// Whether there may be more to do at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let has_room = self.lines.as_ref().is_some_and(has_room);
        self.lines.as_ref().is_some_and(Lines::is_ready)
            || (has_room && self.members.values().any(Lines::is_ready))
    }

    /// Passes on what there is.
    pub fn serve(&mut self) {
        if self.serve_program().is_err() {
            error!("the hook {} has ended", self.program);
            self.lines = None;
            self.members.clear();
            self.asked.clear();
        }
    }

    fn serve_program(&mut self) -> Result<(), Gone> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let answers = if lines.is_ready() { lines.receive()? } else { Vec::new() };
        for answer in answers {
            let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let asked = answer["id"].as_u64().and_then(|id| self.asked.remove(&id));
            match asked {
                Some((number, id)) => {
                    if let Some(member) = self.members.get_mut(&number) {
                        let mut answer = answer;
                        answer["id"] = id;
                        member.push(&answer);
                    }
                }
                // One that comes late is no mistake.
                None if answer["id"].as_u64().is_some_and(|id| id < self.next) => {}
                None if self.is_told => {}
                None => {
                    self.is_told = true;
                    warn!("the hook {} has given an answer that makes no sense", self.program);
                }
            }
        }
        self.members.retain(|number, member| {
            while member.is_ready() && has_room(lines) {
                let Ok(questions) = member.receive() else { return false };
                for question in questions {
                    let mut question: Value = serde_json::from_slice(&question).unwrap_or_default();
                    let id = std::mem::replace(&mut question["id"], self.next.into());
                    if !lines.push(&question) {
                        // No verdict: it fails at once.
                        member.push(&json!({ "id": id }));
                        continue;
                    }
                    self.asked.insert(self.next, (*number, id));
                    self.next += 1;
                    if self.asked.len() > HOOK_NETWORK_QUESTIONS {
                        self.asked.pop_first();
                    }
                }
            }
            member.send().is_ok()
        });
        lines.send()
    }
}

/// Whether another turn's questions of one member may be passed on: others wait where they are asked.
fn has_room(lines: &Lines) -> bool {
    lines.waiting() < HOOK_OUTGOING_BYTES / 2
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    struct Bench {
        hub: Hub,
        poll: Poll,
        program: BufReader<UnixStream>,
    }

    impl Bench {
        fn new() -> Bench {
            let (stream, theirs) = UnixStream::pair().unwrap();
            theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let poll = Poll::new().unwrap();
            let started = Started { program: "hook".to_owned(), stream, settings: HookSettings::default() };
            let hub = Hub::new(started, poll.registry().try_clone().unwrap(), Token(1 << 20)).unwrap();
            Bench { hub, poll, program: BufReader::new(theirs) }
        }

        /// A member whose worker is this test.
        fn member(&mut self, number: u64) -> BufReader<UnixStream> {
            let stream = self.hub.join(number).unwrap().into_stream().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            BufReader::new(stream)
        }

        fn turn(&mut self) {
            let mut events = Events::with_capacity(16);
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                assert!(self.hub.note(event.token()));
            }
            self.hub.serve();
        }
    }

    fn heard(stream: &mut BufReader<UnixStream>) -> Value {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn say(stream: &mut BufReader<UnixStream>, line: &Value) {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    #[test]
    fn each_member_gets_the_answers_to_its_own_questions() {
        let mut bench = Bench::new();
        let (mut first, mut second) = (bench.member(0), bench.member(1));
        assert!(!bench.hub.note(Token(3)));
        say(&mut first, &json!({ "id": 7, "instance": "lab/first" }));
        say(&mut second, &json!({ "id": 7, "instance": "lab/second" }));
        bench.turn();
        let (one, other) = (heard(&mut bench.program), heard(&mut bench.program));
        assert_ne!(one["id"], other["id"]);
        // In any order; those that make no sense are for whoever asked to judge, or for nobody.
        for (asked, verdict) in [(&other, "deny"), (&one, "perhaps")] {
            say(&mut bench.program, &json!({ "id": asked["id"], "verdict": verdict, "lifetime": 5 }));
        }
        say(&mut bench.program, &json!({ "id": 99, "verdict": "allow" }));
        say(&mut bench.program, &json!([1]));
        bench.turn();
        let by_name = |name: &str| if one["instance"] == name { "perhaps" } else { "deny" };
        let expected = |name| json!({ "id": 7, "verdict": by_name(name), "lifetime": 5 });
        assert_eq!(heard(&mut first), expected("lab/first"));
        assert_eq!(heard(&mut second), expected("lab/second"));
        assert!(bench.hub.asked.is_empty() && bench.hub.is_told);
    }

    #[test]
    fn who_leaves_is_forgotten_and_the_end_of_the_program_is_the_end_for_all() {
        let mut bench = Bench::new();
        let (mut first, second) = (bench.member(0), bench.member(1));
        drop(second);
        bench.turn();
        assert_eq!(bench.hub.members.keys().collect::<Vec<_>>(), [&0]);
        let Bench { mut hub, poll, program } = bench;
        drop(program);
        let mut events = Events::with_capacity(16);
        let mut poll = poll;
        poll.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
        events.iter().for_each(|event| assert!(hub.note(event.token())));
        hub.serve();
        assert_eq!(heard(&mut first), Value::Null);
        let late = hub.join(2).unwrap().into_stream().unwrap();
        late.set_nonblocking(false).unwrap();
        assert_eq!(heard(&mut BufReader::new(late)), Value::Null);
        assert!(!hub.is_ready());
    }

    #[test]
    fn a_program_that_reads_nothing_has_bounded_questions_wait_and_the_others_fail() {
        let mut bench = Bench::new();
        let mut member = bench.member(0);
        member.get_mut().set_nonblocking(true).unwrap();
        let question = format!("{}\n", json!({ "id": 1, "names": "x".repeat(200) }));
        let mut is_full = 0;
        // Until nothing is taken any more, whatever the kernel keeps.
        while is_full < 3 {
            match member.get_mut().write_all(question.as_bytes()) {
                Ok(()) => is_full = 0,
                Err(_) => is_full += 1,
            }
            bench.turn();
        }
        let hub = &bench.hub;
        assert!(hub.lines.as_ref().unwrap().waiting() <= HOOK_OUTGOING_BYTES);
        assert!(hub.asked.len() <= HOOK_NETWORK_QUESTIONS && hub.asked.len() > 1_000);
    }
}
