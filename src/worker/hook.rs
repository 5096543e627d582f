//! The worker's part in asking the user's hook: questions out, answers in, a line of JSON each.
//!
//! The hook is another process, at the other end of a stream, and nobody waits for it. What it has not read yet waits here, within
//! bounds. Once it has closed the stream, or writes what is no line of a reasonable length, it is not asked any more: it is not started
//! again, since we have given up the means.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use mio::Interest;
use mio::unix::SourceFd;
use serde_json::{Value, json};
use tracing::{error, warn};

use super::Worker;
use super::token::Subject;
use crate::config::limits::{
    HOOK_ANSWER_BYTES, HOOK_BYTES_PER_TURN, HOOK_LONGEST_LIFETIME, HOOK_OUTGOING_BYTES,
};
use crate::config::{HookSettings, HookVerdict, OnFailure};
use crate::stack::boundary::{Duration, Io};
use crate::stack::hook::{Question, QuestionId};

/// The hook, as the driver has it.
pub struct Hook {
    /// Nothing once it is gone.
    stream: Option<UnixStream>,
    settings: HookSettings,
    /// What it is called, for those who ask.
    pub(super) program: String,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// It has not said "nothing more" since its last event.
    is_ready: bool,
    /// It has been told of one answer that makes no sense.
    is_told: bool,
}

impl Hook {
    /// At the other end of `stream`.
    #[must_use]
    pub fn new(program: String, stream: UnixStream, settings: HookSettings) -> Hook {
        let (outgoing, incoming) = (Vec::new(), Vec::new());
        let (stream, is_ready, is_told) = (Some(stream), false, false);
        Hook { stream, settings, program, outgoing, incoming, is_ready, is_told }
    }

    /// Whether something may be there to be read without an event.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready && self.stream.is_some()
    }

    /// Has one more question wait to be sent; whether there is room for it.
    fn push(&mut self, line: &Value) -> bool {
        let text = line.to_string();
        let has_room = self.outgoing.len() + text.len() < HOOK_OUTGOING_BYTES;
        if has_room {
            self.outgoing.extend_from_slice(text.as_bytes());
            self.outgoing.push(b'\n');
        }
        has_room
    }

    /// Sends what waits, as far as it is taken.
    ///
    /// # Errors
    /// Nobody is there.
    fn send(&mut self) -> Result<(), Gone> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match stream.write(&self.outgoing[sent..]) {
                Ok(0) => return Err(Gone),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(Gone),
            }
        }
        self.outgoing.drain(..sent);
        Ok(())
    }

    /// Reads answers, as many as a turn has.
    ///
    /// # Errors
    /// Nobody is there, or nobody who writes lines.
    fn receive(&mut self) -> Result<Vec<Vec<u8>>, Gone> {
        let mut lines = Vec::new();
        let mut room = [0; 4_096];
        let mut taken = 0;
        while let Some(stream) = self.stream.as_mut().filter(|_| taken < HOOK_BYTES_PER_TURN) {
            match stream.read(&mut room) {
                Ok(0) => return if lines.is_empty() { Err(Gone) } else { Ok(lines) },
                Ok(count) => {
                    taken += count;
                    for part in room[..count].split_inclusive(|byte| *byte == b'\n') {
                        self.incoming.extend_from_slice(part);
                        if self.incoming.len() > HOOK_ANSWER_BYTES {
                            return Err(Gone);
                        }
                        if part.ends_with(b"\n") {
                            lines.push(std::mem::take(&mut self.incoming));
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_ready = false;
                    break;
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(lines)
    }
}

/// There will be no answers any more.
struct Gone;

impl Worker {
    /// The same, asking a program of the user's about what begins.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn with_hook(mut self, hook: Hook) -> std::io::Result<Worker> {
        if let Some(stream) = &hook.stream {
            stream.set_nonblocking(true)?;
            let descriptor = stream.as_raw_fd();
            let interest = Interest::READABLE.add(Interest::WRITABLE);
            self.poll.registry().register(&mut SourceFd(&descriptor), Subject::Hook.token(), interest)?;
        }
        self.stack.ask_hook_first(hook.settings);
        self.hook = Some(Box::new(hook));
        Ok(self)
    }

    /// It has answered, or has room for more questions.
    pub(super) fn note_hook(&mut self) {
        if let Some(hook) = &mut self.hook {
            hook.is_ready = true;
        }
    }

    /// Takes answers, sends questions, and lets what waited past the link go on.
    pub(super) fn serve_hook(&mut self) {
        let Some(mut hook) = self.hook.take() else { return };
        let mut outcome = if hook.is_ready() { self.take_answers(&mut hook) } else { Ok(()) };
        while let Some(question) = self.stack.poll_question() {
            if hook.stream.is_none() || !hook.push(&self.describe(&question)) {
                self.tell_verdict(question.id, None, Duration::ZERO);
            }
        }
        outcome = outcome.and_then(|()| hook.send());
        if outcome.is_err() && hook.stream.take().is_some() {
            let becomes = match hook.settings.on_failure {
                OnFailure::Deny => "what it would be asked about is denied",
                OnFailure::Pass => "the rules decide alone",
            };
            error!("the hook {} has ended: from now on {becomes}", hook.program);
            let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
            self.stack.handle_hook_gone(self.now, &mut io);
        }
        self.hook = Some(hook);
        while let Some((question, judged)) = self.stack.poll_settled() {
            if let Some(loopback) = &mut self.loopback {
                loopback.settle(question, judged, self.now, &mut self.scarcity);
            }
        }
    }

    fn take_answers(&mut self, hook: &mut Hook) -> Result<(), Gone> {
        for line in hook.receive()? {
            match read_answer(&line) {
                Ok((question, verdict, lifetime)) => self.tell_verdict(question, Some(verdict), lifetime),
                Err((question, why)) => {
                    if !hook.is_told {
                        hook.is_told = true;
                        warn!("the hook {} has given an answer that makes no sense: {why}", hook.program);
                    }
                    if let Some(question) = question {
                        self.tell_verdict(question, None, Duration::ZERO);
                    }
                }
            }
        }
        Ok(())
    }

    fn tell_verdict(&mut self, question: QuestionId, said: Option<HookVerdict>, lifetime: Duration) {
        let mut io = Io { host: &mut self.sockets, frames: &mut self.link };
        self.stack.handle_verdict(question, said, lifetime, self.now, &mut io);
    }

    fn describe(&self, question: &Question) -> Value {
        let endpoint = |endpoint: std::net::SocketAddr| json!({ "address": endpoint.ip().to_string(), "port": endpoint.port() });
        json!({
            "id": question.id.0,
            "instance": self.desk.identity.id,
            "direction": question.direction.name(),
            "protocol": question.protocol.name(),
            "local": question.local.map(endpoint),
            "remote": endpoint(question.remote),
            "names": question.names,
        })
    }
}

/// What an answer says; of one that makes no sense which question it was to, where that can be told, and why.
fn read_answer(
    line: &[u8],
) -> Result<(QuestionId, HookVerdict, Duration), (Option<QuestionId>, &'static str)> {
    let answer: Value = serde_json::from_slice(line).map_err(|_| (None, "it is no line of JSON"))?;
    let id = answer["id"].as_u64().map(QuestionId);
    let question = id.ok_or((None, r#""id" is that of no question"#))?;
    let verdict = answer["verdict"].as_str().and_then(HookVerdict::of_name);
    let verdict = verdict.ok_or((id, r#""verdict" is none of allow, deny, reject and pass"#))?;
    let lifetime = match &answer["lifetime"] {
        Value::Null => Duration::ZERO,
        given => {
            let seconds = given.as_f64().filter(|seconds| *seconds >= 0.0);
            let seconds = seconds.ok_or((id, r#""lifetime" is no number of seconds"#))?;
            let longest = HOOK_LONGEST_LIFETIME.as_secs_f64();
            std::time::Duration::from_secs_f64(seconds.min(longest)).into()
        }
    };
    Ok((question, verdict, lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_those_without_sense_name_their_question() {
        let read = |text: &str| read_answer(text.as_bytes());
        let plain = (QuestionId(7), HookVerdict::Deny, Duration::ZERO);
        assert_eq!(read(r#"{"id":7,"verdict":"deny"}"#), Ok(plain));
        let lasting = (QuestionId(8), HookVerdict::Allow, Duration::from_millis(1_500));
        assert_eq!(read(r#"{"verdict":"allow","id":8,"lifetime":1.5,"why":"x"}"#), Ok(lasting));
        let longest = read(r#"{"id":8,"verdict":"pass","lifetime":1e300}"#).unwrap().2;
        assert_eq!(longest, HOOK_LONGEST_LIFETIME.into());
        for (text, question) in [
            ("yes", None),
            ("[]", None),
            (r#"{"id":-1,"verdict":"deny"}"#, None),
            (r#"{"id":3}"#, Some(3)),
            (r#"{"id":3,"verdict":"Deny"}"#, Some(3)),
            (r#"{"id":3,"verdict":"deny","lifetime":-1}"#, Some(3)),
            (r#"{"id":3,"verdict":"deny","lifetime":"long"}"#, Some(3)),
        ] {
            assert_eq!(read(text).unwrap_err().0, question.map(QuestionId), "{text}");
        }
    }

    #[test]
    fn lines_come_in_pieces_and_one_without_an_end_is_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut hook = Hook::new("hook".to_owned(), ours, HookSettings::default());
        theirs.write_all(b"one\ntw").unwrap();
        assert_eq!(hook.receive().ok().unwrap(), [b"one\n".to_vec()]);
        theirs.write_all(b"o\n\n").unwrap();
        assert_eq!(hook.receive().ok().unwrap(), [b"two\n".to_vec(), b"\n".to_vec()]);
        theirs.write_all(&vec![b'x'; HOOK_ANSWER_BYTES + 1]).unwrap();
        assert!(hook.receive().is_err());
    }

    #[test]
    fn questions_that_nobody_reads_wait_within_bounds_and_go_out_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut hook = Hook::new("hook".to_owned(), ours, HookSettings::default());
        let line = json!({ "names": "x".repeat(1_000) });
        let mut count = 0;
        while hook.push(&line) {
            count += 1;
        }
        assert!(hook.outgoing.len() <= HOOK_OUTGOING_BYTES && count > 1_000);
        theirs.set_nonblocking(true).unwrap();
        let (mut read, mut room) = (0, vec![0; 64 << 10]);
        while !hook.outgoing.is_empty() {
            assert!(hook.send().is_ok());
            while let Ok(taken) = theirs.read(&mut room) {
                read += taken;
            }
        }
        assert_eq!(read, count * (line.to_string().len() + 1));
        drop(theirs);
        assert!(hook.push(&line) && hook.send().is_err());
    }
}
