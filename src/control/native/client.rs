//! One client of the native socket: whole lines in, lines out, and how long each may take.
//!
//! A client asks and is answered, and then may ask again; it may rest between two requests as long as nobody else needs its
//! place. What it sends in advance waits in its socket. A stream goes on until the client half-closes or
//! leaves: it is slow at its own expense, since what does not fit into its buffer is counted and told.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use mio::net::{UnixListener, UnixStream};
use serde_json::{Value, json};

use super::{Answer, Refusal, RefusalCode, Request, VERSION, encode_refusal};
use crate::config::limits::{
    API_PATIENCE, API_SURPLUS_BYTES, CONTROL_CONNECTIONS, CONTROL_REQUEST_BYTES, CONTROL_STREAM_BYTES,
};
use crate::control::server::{Conversation, Dismissal, Progress};
use crate::stack::boundary::Instant;
use crate::sys::descriptor;

/// Bytes read in one turn, in which one client is served.
const READ_BYTES_PER_TURN: usize = 16 << 10;

/// What a client is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It asks, or rests.
    Asking,
    /// Its answer is being found.
    Waiting,
    /// It hears a stream.
    Hearing,
    /// It is told something, and then it goes.
    Leaving,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    phase: Phase,
    /// The beginning of a request, or more than one.
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    outgoing: Vec<u8>,
    sent: usize,
    /// Lines of the stream that found no room since one did.
    lost: u64,
    /// Bytes that came while nothing was to be asked.
    surplus: usize,
    has_ended: bool,
    /// It is to ask or to read until then.
    deadline: Option<Instant>,
}

impl Conversation for Client {
    type Door = UnixListener;
    type Request = Result<Request, Refusal>;
    type Answer = Answer;
    const MOST: usize = CONTROL_CONNECTIONS;

    fn begin(stream: UnixStream, now: Instant) -> Client {
        Client {
            stream,
            phase: Phase::Asking,
            received: Vec::new(),
            descriptors: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            lost: 0,
            surplus: 0,
            has_ended: false,
            deadline: Some(now + API_PATIENCE.into()),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn advance(
        &mut self,
        now: Instant,
        answer: &mut dyn FnMut(Result<Request, Refusal>) -> Answer,
    ) -> Progress {
        let was_busy = self.is_busy();
        let Ok(mut may_have_more) = self.read() else { return Progress::Done };
        if self.surplus > API_SURPLUS_BYTES {
            return Progress::Done;
        }
        let mut has_asked = false;
        if self.phase == Phase::Asking
            && self.has_said_all()
            && let Some(line) = self.next_line()
        {
            has_asked = true;
            let descriptors = std::mem::take(&mut self.descriptors);
            let said = answer(Request::decode(&line, descriptors));
            self.take_answer(&said);
        } else if self.received.len() > CONTROL_REQUEST_BYTES {
            self.part_with(RefusalCode::TooLarge, "the request is too large");
        }
        let Ok(is_flushed) = self.write() else { return Progress::Done };
        if is_flushed {
            match self.phase {
                Phase::Leaving => return Progress::Done,
                Phase::Hearing if self.has_ended => return Progress::Done,
                Phase::Asking if self.has_ended && self.received.is_empty() => return Progress::Done,
                Phase::Asking | Phase::Waiting | Phase::Hearing => {}
            }
            may_have_more |= has_asked || was_busy && self.phase == Phase::Asking;
        }
        self.set_deadline(now, has_asked);
        if may_have_more { Progress::Unread } else { Progress::Waits }
    }

    fn dismiss(&mut self, why: Dismissal) {
        match why {
            Dismissal::TooSlow => self.part_with(RefusalCode::TooSlow, "the request did not end in time"),
            Dismissal::TooMany => {
                self.part_with(RefusalCode::TooMany, "there are too many clients, and this one came first");
            }
        }
        // If it cannot be told it has not been waiting to hear.
        let _ = self.write();
    }
}

impl Client {
    /// The answer that was not there yet ([`Answer::Later`]).
    pub fn answer(&mut self, answer: &Answer) {
        if self.phase == Phase::Waiting {
            self.take_answer(answer);
        }
    }

    /// One more event of its stream; lost if the client has not read what came before.
    pub fn push(&mut self, event: &Value) {
        if self.phase != Phase::Hearing {
            return;
        }
        if self.waiting_bytes() >= CONTROL_STREAM_BYTES {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.say(&json!({ "version": VERSION, "lost": lost }).to_string());
        }
        self.say(&json!({ "version": VERSION, "event": event }).to_string());
    }

    /// The end of its stream.
    pub fn end_stream(&mut self) {
        if self.phase == Phase::Hearing {
            if self.lost > 0 {
                let lost = std::mem::take(&mut self.lost);
                self.say(&json!({ "version": VERSION, "lost": lost }).to_string());
            }
            self.phase = Phase::Leaving;
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Whether all that it was told has left.
    fn has_said_all(&self) -> bool {
        self.waiting_bytes() == 0
    }

    fn say(&mut self, line: &str) {
        self.outgoing.extend_from_slice(line.as_bytes());
        self.outgoing.push(b'\n');
    }

    fn take_answer(&mut self, answer: &Answer) {
        if let Some(line) = answer.encode() {
            self.say(&line);
        }
        self.phase = match answer {
            Answer::Once(_) | Answer::Refused(_) => Phase::Asking,
            Answer::Stream(_) => Phase::Hearing,
            Answer::Later => Phase::Waiting,
        };
    }

    fn part_with(&mut self, code: RefusalCode, message: &str) {
        let is_heard = self.phase == Phase::Asking && self.has_said_all();
        if is_heard {
            self.say(&encode_refusal(&Refusal::new(code, message)));
        }
        self.received = Vec::new();
        self.phase = Phase::Leaving;
    }

    /// A request to be carried out; at the end of all, what there is of one.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = match self.received.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if self.has_ended && !self.received.is_empty() => self.received.len(),
                None => return None,
            };
            let line: Vec<u8> = self.received.drain(..end).collect();
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }

    /// Whether a request is answered: the next waits in the socket.
    fn is_busy(&self) -> bool {
        match self.phase {
            // One that it sent in advance is carried out before the next is read.
            Phase::Asking => !self.has_said_all() || self.received.contains(&b'\n'),
            Phase::Waiting => true,
            Phase::Hearing | Phase::Leaving => false,
        }
    }

    /// Reads what there is, up to its share. Whether there may be more.
    fn read(&mut self) -> io::Result<bool> {
        if self.has_ended || self.is_busy() {
            return Ok(false);
        }
        let mut room = [0; READ_BYTES_PER_TURN];
        match descriptor::receive_some(self.stream.as_fd(), &mut room, &mut self.descriptors) {
            Ok(0) => {
                self.has_ended = true;
                Ok(true)
            }
            Ok(len) => {
                match self.phase {
                    Phase::Asking | Phase::Waiting => self.received.extend_from_slice(&room[..len]),
                    Phase::Hearing | Phase::Leaving => {
                        self.surplus += len;
                        self.descriptors.clear();
                    }
                }
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Whether nothing is left to be written.
    fn write(&mut self) -> io::Result<bool> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What a stream adds must not grow behind what has left.
                    self.outgoing.drain(..self.sent);
                    self.sent = 0;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// A client that rests, waits for us or hears a stream may take its time.
    fn set_deadline(&mut self, now: Instant, is_new: bool) {
        let is_pressed = match self.phase {
            Phase::Asking => !self.has_said_all() || !self.received.is_empty(),
            Phase::Leaving => true,
            Phase::Waiting | Phase::Hearing => false,
        };
        if !is_pressed {
            self.deadline = None;
        } else if is_new || self.deadline.is_none() {
            self.deadline = Some(now + API_PATIENCE.into());
        }
    }
}

#[cfg(test)]
mod tests;
