//! The worker's part in asking the user's hook: questions out, answers in, a line of JSON each.
//!
//! The hook is another process, at the other end of a stream, and nobody waits for it. What it has not read yet waits here, within
//! bounds. Once it has closed the stream, or writes what is no line of a reasonable length, it is not asked any more: it is not started
//! again, since we have given up the means.

pub mod lines;

use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tracing::{error, warn};

use self::lines::{Gone, Lines};
use super::Worker;
use super::token::Subject;
use crate::config::limits::{HOOK_ANSWER_BYTES, HOOK_LONGEST_LIFETIME};
use crate::config::{HookSettings, HookVerdict, OnFailure};
use crate::stack::boundary::{Duration, Io};
use crate::stack::hook::{Question, QuestionId};

/// The hook, as the driver has it.
pub struct Hook {
    /// Nothing once it is gone.
    lines: Option<Lines>,
    settings: HookSettings,
    /// What it is called, for those who ask.
    pub(super) program: String,
    /// It has been told of one answer that makes no sense.
    is_told: bool,
}

impl Hook {
    /// At the other end of `stream`.
    #[must_use]
    pub fn new(program: String, stream: UnixStream, settings: HookSettings) -> Hook {
        let lines = Some(Lines::new(stream, HOOK_ANSWER_BYTES));
        Hook { lines, settings, program, is_told: false }
    }

    /// Our end of the stream, of one that nobody asks yet.
    #[cfg(test)]
    pub(crate) fn into_stream(self) -> Option<UnixStream> {
        self.lines.map(Lines::into_stream)
    }

    /// Whether something may be there to be read without an event.
    pub(super) fn is_ready(&self) -> bool {
        self.lines.as_ref().is_some_and(Lines::is_ready)
    }
}

impl Worker {
    /// The same, asking a program of the user's about what begins.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn with_hook(mut self, hook: Hook) -> std::io::Result<Worker> {
        if let Some(lines) = &hook.lines {
            lines.watch(self.poll.registry(), Subject::Hook.token())?;
        }
        self.stack.ask_hook_first(hook.settings);
        self.hook = Some(Box::new(hook));
        Ok(self)
    }

    /// It has answered, or has room for more questions.
    pub(super) fn note_hook(&mut self) {
        if let Some(lines) = self.hook.as_mut().and_then(|hook| hook.lines.as_mut()) {
            lines.note();
        }
    }

    /// Takes answers, sends questions, and lets what waited past the link go on.
    pub(super) fn serve_hook(&mut self) {
        let Some(mut hook) = self.hook.take() else { return };
        let mut outcome = if hook.is_ready() { self.take_answers(&mut hook) } else { Ok(()) };
        while let Some(question) = self.stack.poll_question() {
            let line = self.describe(&question);
            if !hook.lines.as_mut().is_some_and(|lines| lines.push(&line)) {
                self.tell_verdict(question.id, None, Duration::ZERO);
            }
        }
        if let Some(lines) = &mut hook.lines {
            outcome = outcome.and_then(|()| lines.send());
        }
        if outcome.is_err() && hook.lines.take().is_some() {
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
        let Some(lines) = &mut hook.lines else { return Ok(()) };
        for line in lines.receive()? {
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
}
