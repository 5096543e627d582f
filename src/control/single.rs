//! One request, one answer, and the end: the manner of slirp4netns.
//!
//! A request ends with its JSON value, or where the client half-closes, whichever comes first. Bounded are a request's
//! bytes and those behind it, and a client's time.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::{UnixListener, UnixStream};

use super::server::{Conversation, Dismissal, Progress};
use crate::config::limits::{API_CONNECTIONS, API_PATIENCE, API_REQUEST_BYTES, API_SURPLUS_BYTES};
use crate::stack::boundary::Instant;

/// Bytes read in one turn, in which one client is served.
pub(super) const READ_BYTES_PER_TURN: usize = 4_096;

/// The answer to a request that does not end.
pub(super) const TOO_LARGE: &str = r#"{"error":{"desc":"bad request: too large message"}}"#;
/// The answer to a client that takes too long.
pub(super) const TOO_SLOW: &str = r#"{"error":{"desc":"bad request: it did not end in time"}}"#;
/// The answer to a client that gives way to another.
pub(super) const TOO_MANY: &str =
    r#"{"error":{"desc":"bad request: too many clients, and this one came first"}}"#;

/// A client and its one request.
#[derive(Debug)]
pub struct Single {
    stream: UnixStream,
    request: Vec<u8>,
    reply: Option<Reply>,
    /// Bytes that came behind the request.
    surplus: usize,
    deadline: Instant,
}

#[derive(Debug)]
struct Reply {
    bytes: Vec<u8>,
    sent: usize,
}

impl Conversation for Single {
    type Door = UnixListener;
    type Request = Vec<u8>;
    type Answer = String;
    const MOST: usize = API_CONNECTIONS;

    fn begin(stream: UnixStream, now: Instant) -> Single {
        Single { stream, request: Vec::new(), reply: None, surplus: 0, deadline: now + API_PATIENCE.into() }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn advance(&mut self, _now: Instant, answer: &mut dyn FnMut(Vec<u8>) -> String) -> Progress {
        let mut room = [0; READ_BYTES_PER_TURN];
        let (mut is_over, mut may_have_more) = (false, false);
        match self.stream.read(&mut room) {
            Ok(0) => is_over = true,
            Ok(len) => {
                may_have_more = true;
                self.take(&room[..len]);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted => may_have_more = true,
                _ => return Progress::Done,
            },
        }
        if self.surplus > API_SURPLUS_BYTES {
            return Progress::Done;
        }
        if self.reply.is_none() && (is_over || is_complete(&self.request)) {
            let reply = answer(std::mem::take(&mut self.request));
            self.reply_with(reply);
        }
        match self.write() {
            Err(_) => return Progress::Done,
            Ok(true) if is_over => return Progress::Done,
            // There are clients that wait for our end instead of telling their own.
            Ok(true) => {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Ok(false) => {}
        }
        if may_have_more { Progress::Unread } else { Progress::Waits }
    }

    fn dismiss(&mut self, why: Dismissal) {
        if self.reply.is_some() {
            return;
        }
        let reason = match why {
            Dismissal::TooSlow => TOO_SLOW,
            Dismissal::TooMany => TOO_MANY,
        };
        // If it cannot be told it has not been waiting to hear.
        let _ = self.stream.write(reason.as_bytes());
        // Left unread, it would turn the end of that into a reset.
        let _ = self.stream.read(&mut [0; READ_BYTES_PER_TURN]);
    }
}

impl Single {
    /// What comes behind the request is read, so that closing does not reset, and forgotten.
    fn take(&mut self, bytes: &[u8]) {
        if self.reply.is_some() {
            self.surplus += bytes.len();
            return;
        }
        self.request.extend_from_slice(bytes);
        if self.request.len() > API_REQUEST_BYTES {
            self.reply_with(TOO_LARGE.to_owned());
        }
    }

    fn reply_with(&mut self, text: String) {
        self.request = Vec::new();
        self.reply = Some(Reply { bytes: text.into_bytes(), sent: 0 });
    }

    /// Whether there is a reply and all of it has been written.
    fn write(&mut self) -> io::Result<bool> {
        let Some(reply) = &mut self.reply else { return Ok(false) };
        while reply.sent < reply.bytes.len() {
            match self.stream.write(&reply.bytes[reply.sent..]) {
                Ok(len) => reply.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Whether the request holds its JSON value whole, or can never come to hold one. The original, too, waits for
/// neither a newline nor the half-close.
fn is_complete(request: &[u8]) -> bool {
    match serde_json::Deserializer::from_slice(request).into_iter::<serde_json::Value>().next() {
        Some(Ok(_)) => true,
        Some(Err(error)) => !error.is_eof(),
        None => false,
    }
}
