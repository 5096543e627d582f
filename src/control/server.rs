//! A UNIX socket on which each connection makes one request and gets one answer.
//!
//! A request ends with its JSON value, or where the client half-closes, whichever comes first. Nothing here waits:
//! clients are polled by a poll of their own, whose descriptor is readable in the driver's whenever there is
//! something to do, and a turn reads a little of one of them. Bounded are a request's bytes and those behind it, a
//! client's time, and the number of clients: the one that came first gives way.
//!
//! Reference: unix(7).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::limits::{API_CONNECTIONS, API_PATIENCE, API_REQUEST_BYTES, API_SURPLUS_BYTES};
use crate::stack::boundary::{Duration, Instant};

const LISTENER: Token = Token(0);

/// Events taken from the kernel at once; more wait there.
const EVENTS_PER_TURN: usize = 32;
/// Clients let in in one turn.
const ACCEPTS_PER_TURN: usize = 4;
/// Bytes read in one turn, in which one client is served.
const READ_BYTES_PER_TURN: usize = 4_096;
/// When to try again to let a client in after there was no descriptor for it.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// Of the socket: whoever may write to it may publish ports in our name.
const MODE: u32 = 0o600;
/// Clients that wait to be let in.
const BACKLOG: i32 = 128;

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
    /// Clients that have something to be read or written, each once.
    ready: VecDeque<usize>,
    /// The listener has not said "nobody more" since its last event.
    may_accept: bool,
    /// There was no descriptor for a client; when to try again.
    accept_retry: Option<Instant>,
    path: Option<OwnPath>,
}

/// Where the socket was made, and which file that is.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Debug)]
struct Client {
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

/// How far a client got in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// To its next event.
    Waits,
    /// There is more to read, next time.
    Unread,
    Done,
}

impl Server {
    /// Listens at `path`, for its owner alone. A socket that lies there already is replaced, as a former run may
    /// have left it; so is an empty file, by which `mktemp` reserves a name.
    pub fn bind(path: &Path) -> Result<Server, ControlError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() || metadata.is_file() && metadata.len() == 0 => {
                // What is wrong beyond that, binding tells.
                let _ = fs::remove_file(path);
            }
            Ok(_) => return Err(ControlError::Occupied { path: path.to_path_buf() }),
            Err(_) => {}
        }
        let open = || {
            let poll = Poll::new()?;
            let mut listener = listen(path)?;
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Ok((poll, listener, OwnPath::of(path)?))
        };
        let (poll, listener, own_path) =
            open().map_err(|source| ControlError::Bind { path: path.to_path_buf(), source })?;
        Ok(Server {
            poll,
            listener,
            clients: BTreeMap::new(),
            next_token: LISTENER.0 + 1,
            ready: VecDeque::new(),
            may_accept: true,
            accept_retry: None,
            path: Some(own_path),
        })
    }

    /// Leaves the socket's path behind at the end: for those who will not be able to remove it.
    pub fn leave_path(&mut self) {
        self.path = None;
    }

    /// When the next client has taken too long, or another may be let in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_deadline().into_iter().chain(self.accept_retry).min()
    }

    fn next_deadline(&self) -> Option<Instant> {
        // They are as old as their tokens.
        self.clients.values().next().map(|client| client.deadline)
    }

    /// Lets clients in, gives up those that took too long, and serves one: reads a part of what it asks, answers
    /// by `answer`. Whether there may be more to do at once.
    pub fn handle_events(&mut self, now: Instant, mut answer: impl FnMut(&[u8]) -> String) -> bool {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        // An error here is an interrupted call: the events are still there.
        let mut has_more = self.poll.poll(&mut events, Some(std::time::Duration::ZERO)).is_err();
        has_more |= events.iter().count() == EVENTS_PER_TURN;
        for event in &events {
            match event.token() {
                LISTENER => self.may_accept = true,
                Token(token) if !self.ready.contains(&token) => self.ready.push_back(token),
                Token(_) => {}
            }
        }
        // Whoever is let in may have spoken already.
        has_more |= self.accept(now);
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up_oldest(TOO_SLOW);
        }
        if let Some(token) = self.ready.pop_front() {
            self.serve(token, &mut answer);
        }
        has_more || self.may_accept || !self.ready.is_empty()
    }

    /// Whether somebody was let in.
    fn accept(&mut self, now: Instant) -> bool {
        if self.accept_retry.is_some_and(|retry| retry <= now) {
            self.accept_retry = None;
            self.may_accept = true;
        }
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
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    io::ErrorKind::WouldBlock => self.may_accept = false,
                    // Out of descriptors, of which no event will tell that some are free again.
                    _ => {
                        self.may_accept = false;
                        self.accept_retry = Some(now + ACCEPT_RETRY);
                    }
                },
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
        self.clients.insert(token, Client { stream, request: Vec::new(), reply: None, surplus: 0, deadline });
    }

    fn serve(&mut self, token: usize, answer: &mut impl FnMut(&[u8]) -> String) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        match client.advance(answer) {
            Progress::Waits => {}
            Progress::Unread => self.ready.push_back(token),
            Progress::Done => {
                self.clients.remove(&token);
            }
        }
    }

    fn give_up_oldest(&mut self, reason: &str) {
        if let Some((_, mut client)) = self.clients.pop_first()
            && client.reply.is_none()
        {
            // If it cannot be told it has not been waiting to hear.
            let _ = client.stream.write(reason.as_bytes());
            // Left unread, it would turn the end of that into a reset.
            let _ = client.stream.read(&mut [0; READ_BYTES_PER_TURN]);
        }
    }
}

impl Client {
    /// Reads, answers, writes, as far as each goes now, but reads no more than its share.
    fn advance(&mut self, answer: &mut impl FnMut(&[u8]) -> String) -> Progress {
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
            let reply = answer(&self.request);
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

/// Readable in another poll whenever [`Server::handle_events`] has something to do.
impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(own) = &self.path
            && own.is_still_there()
        {
            let _ = fs::remove_file(&own.path);
        }
    }
}

impl OwnPath {
    fn of(path: &Path) -> io::Result<OwnPath> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(OwnPath { path: path.to_path_buf(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// A container that is restarted may have a socket of its next relay there while this one ends.
    fn is_still_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode))
    }
}

/// Listens at `path`.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The file that bind() makes takes the mode of the socket: there is no moment at which others could connect.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(MODE))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from_std(OwnedFd::from(socket).into()))
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

#[cfg(test)]
mod tests;
