//! A UNIX socket on which each connection makes one request and gets one answer.
//!
//! A request ends where the client half-closes, or with a newline behind a complete JSON value, whichever comes
//! first. Nothing here waits: clients are polled by a poll of their own, whose descriptor is readable in the
//! driver's whenever there is something to do. Bounded are a request's bytes, a client's time, and the number of
//! clients: the one that came first gives way.
//!
//! Reference: unix(7).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

use crate::config::limits::{API_CONNECTIONS, API_PATIENCE, API_REQUEST_BYTES};
use crate::stack::boundary::Instant;

const LISTENER: Token = Token(0);

/// Events, and so requests, of one turn.
const EVENTS_PER_TURN: usize = 4;
/// Clients let in in one turn.
const ACCEPTS_PER_TURN: usize = 4;

const TOO_LARGE: &str = r#"{"error":{"desc":"bad request: too large message"}}"#;
const TOO_SLOW: &str = r#"{"error":{"desc":"bad request: it did not end in time"}}"#;
const TOO_MANY: &str = r#"{"error":{"desc":"bad request: too many clients, and this one came first"}}"#;

/// Why there is no API socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The path is taken by something that is no socket.
    #[error("--api-socket {}: exists and is no socket; choose another path", path.display())]
    Occupied {
        /// As given.
        path: PathBuf,
    },
    /// Anything else.
    #[error("--api-socket {}: {source}", path.display())]
    Bind {
        /// As given.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

/// The socket and its clients.
#[derive(Debug)]
pub struct Server {
    poll: Poll,
    listener: UnixListener,
    /// By token; the lowest came first.
    clients: BTreeMap<usize, Client>,
    next_token: usize,
    /// The listener has not said "nobody more" since its last event.
    may_accept: bool,
    path: Option<PathBuf>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    reply: Option<Reply>,
    deadline: Instant,
}

#[derive(Debug)]
struct Reply {
    bytes: Vec<u8>,
    sent: usize,
}

/// Whether a client is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waits,
    Done,
}

impl Server {
    /// Listens at `path`, for its owner alone. A socket that lies there already is replaced, as a former run may
    /// have left it.
    pub fn bind(path: &Path) -> Result<Server, ControlError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(ControlError::Occupied { path: path.to_path_buf() });
            }
            // What is wrong beyond that, binding tells.
            Ok(_) => {
                let _ = fs::remove_file(path);
            }
            Err(_) => {}
        }
        let open = || {
            let poll = Poll::new()?;
            let mut listener = UnixListener::bind(path)?;
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Ok((poll, listener))
        };
        let (poll, listener) =
            open().map_err(|source| ControlError::Bind { path: path.to_path_buf(), source })?;
        Ok(Server {
            poll,
            listener,
            clients: BTreeMap::new(),
            next_token: LISTENER.0 + 1,
            may_accept: true,
            path: Some(path.to_path_buf()),
        })
    }

    /// Leaves the socket's path behind at the end: for those who will not be able to remove it.
    pub fn leave_path(&mut self) {
        self.path = None;
    }

    /// When the next client has taken too long.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        // They are as old as their tokens.
        self.clients.values().next().map(|client| client.deadline)
    }

    /// Lets clients in, reads what they ask, answers by `answer`, and gives up those that took too long. Whether
    /// there may be more to do at once.
    pub fn handle_events(&mut self, now: Instant, mut answer: impl FnMut(&[u8]) -> String) -> bool {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        // An error here is an interrupted call: the events are still there.
        let is_interrupted = self.poll.poll(&mut events, Some(std::time::Duration::ZERO)).is_err();
        let mut count = 0;
        for event in &events {
            count += 1;
            match event.token() {
                LISTENER => self.may_accept = true,
                Token(token) => self.serve(token, &mut answer),
            }
        }
        let has_admitted = self.accept(now);
        while self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.give_up_oldest(TOO_SLOW);
        }
        is_interrupted || has_admitted || self.may_accept || count == EVENTS_PER_TURN
    }

    /// Whether somebody was let in, who may have spoken already.
    fn accept(&mut self, now: Instant) -> bool {
        let mut has_admitted = false;
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.may_accept {
                break;
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.admit(stream, now);
                    has_admitted = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of descriptors: the client waits until another event comes.
                Err(_) => self.may_accept = false,
            }
        }
        has_admitted
    }

    fn admit(&mut self, mut stream: UnixStream, now: Instant) {
        if self.clients.len() >= API_CONNECTIONS {
            self.give_up_oldest(TOO_MANY);
        }
        let token = self.next_token;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(token), interest).is_err() {
            return;
        }
        self.next_token += 1;
        let deadline = now + API_PATIENCE.into();
        self.clients.insert(token, Client { stream, request: Vec::new(), reply: None, deadline });
    }

    fn serve(&mut self, token: usize, answer: &mut impl FnMut(&[u8]) -> String) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        if client.advance(answer) == Progress::Done {
            self.clients.remove(&token);
        }
    }

    fn give_up_oldest(&mut self, reason: &str) {
        if let Some((_, mut client)) = self.clients.pop_first()
            && client.reply.is_none()
        {
            // If it cannot be told it has not been waiting to hear.
            let _ = client.stream.write(reason.as_bytes());
        }
    }
}

impl Client {
    /// Reads, answers, writes, as far as each goes now.
    fn advance(&mut self, answer: &mut impl FnMut(&[u8]) -> String) -> Progress {
        let mut is_over = false;
        let mut room = [0; 1_024];
        loop {
            match self.stream.read(&mut room) {
                Ok(0) => {
                    is_over = true;
                    break;
                }
                // What comes behind the request is read, so that closing does not reset, and forgotten.
                Ok(_) if self.reply.is_some() => {}
                Ok(len) => {
                    self.request.extend_from_slice(&room[..len]);
                    if self.request.len() > API_REQUEST_BYTES {
                        self.reply_with(TOO_LARGE.to_owned());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
        }
        if self.reply.is_none() && (is_over || is_complete(&self.request)) {
            let reply = answer(&self.request);
            self.reply_with(reply);
        }
        match (self.write(), is_over) {
            (Ok(true), true) | (Err(_), _) => Progress::Done,
            (Ok(true), false) => {
                // A client that waits for our end instead of telling its own.
                let _ = self.stream.shutdown(Shutdown::Write);
                Progress::Waits
            }
            (Ok(false), _) => Progress::Waits,
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

/// Readable in another poll whenever [`Server::handle_events`] has something to do.
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// A newline behind a whole JSON value.
fn is_complete(request: &[u8]) -> bool {
    request.ends_with(b"\n") && serde_json::from_slice::<serde_json::Value>(request).is_ok()
}

#[cfg(test)]
mod tests;
