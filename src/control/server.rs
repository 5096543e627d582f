//! A UNIX socket and its clients, in one dialect or another.
//!
//! What a client says and hears is its [`Conversation`]'s; here is what all have in common. Nothing waits:
//! clients are polled by a poll of their own, whose descriptor is readable in the driver's whenever there is
//! something to do, and a turn lets one of them get on a little. Bounded are the number of clients, of whom the one that
//! came first gives way, and by each dialect a request's bytes and a client's time.
//!
//! Reference: unix(7).

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::stack::boundary::{Duration, Instant};
use crate::sys::user;

const LISTENER: Token = Token(0);

/// Events taken from the kernel at once; more wait there.
const EVENTS_PER_TURN: usize = 32;
/// Clients let in in one turn.
const ACCEPTS_PER_TURN: usize = 4;
/// When to try again to let a client in after there was no descriptor for it.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// Of the socket: whoever may write to it may publish ports in our name.
const MODE: u32 = 0o600;
/// Clients that wait to be let in.
const BACKLOG: i32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The path is taken by something that is no socket.
    #[error("{option} {}: exists and is no socket; choose another path", path.display())]
    Occupied {
        /// Who wants it.
        option: &'static str,
        /// As given.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{option} {}: {source}", path.display())]
    Bind {
        /// Who wants it.
        option: &'static str,
        /// As given.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// An address that cannot be listened at.
    #[error("{option} {address}: {source}; choose another address or port")]
    Listen {
        /// Who wants it.
        option: &'static str,
        /// As given.
        address: SocketAddr,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Names one client of one server, and never another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(usize);

impl ClientName {
    /// A client of another server: nobody here.
    pub const ELSEWHERE: ClientName = ClientName(usize::MAX);
}

/// How far a client got in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// To its next event.
    Waits,
    /// There is more to do for it, next time.
    Unread,
    /// It is gone, or may go.
    Done,
}

/// Why a client is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dismissal {
    /// It took too long.
    TooSlow,
    /// Another wanted to come in.
    TooMany,
}

/// Where clients come in.
pub trait Door: Source + Sized {
    /// One of them.
    type Stream: Source;

    /// Lets the next in, who never has to be waited for.
    fn accept(&self) -> io::Result<Self::Stream>;

    /// Its user, where that can be known.
    fn peer(stream: &Self::Stream) -> Option<u32>;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).map(|(stream, _)| stream)
    }

    fn peer(stream: &UnixStream) -> Option<u32> {
        user::peer(stream.as_fd()).ok()
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<TcpStream> {
        TcpListener::accept(self).map(|(stream, _)| stream)
    }

    fn peer(_: &TcpStream) -> Option<u32> {
        None
    }
}

/// What one client says and hears.
pub trait Conversation {
    /// Where it comes in.
    type Door: Door;
    /// What it asks.
    type Request;
    /// What it is answered.
    type Answer;
    /// Clients at a time.
    const MOST: usize;

    /// With a client that was just let in.
    fn begin(stream: <Self::Door as Door>::Stream, now: Instant) -> Self;

    /// When it will have taken too long.
    fn deadline(&self) -> Option<Instant>;

    /// Reads, answers and writes, as far as each goes now, but no more than a share.
    fn advance(&mut self, now: Instant, answer: &mut dyn FnMut(Self::Request) -> Self::Answer) -> Progress;

    /// Tells it why it has to go, if it may be waiting to hear.
    fn dismiss(&mut self, why: Dismissal);
}

/// The socket and its clients.
#[derive(Debug)]
pub struct Server<C: Conversation> {
    poll: Poll,
    listener: C::Door,
    /// By token; the lowest came first.
    clients: BTreeMap<usize, C>,
    next_token: usize,
    /// Clients that have something to be read or written, each once.
    ready: VecDeque<usize>,
    /// The listener has not said "nobody more" since its last event.
    may_accept: bool,
    /// There was no descriptor for a client; when to try again.
    accept_retry: Option<Instant>,
    /// Whose clients alone are let in, and root's.
    owner: Option<u32>,
    path: Option<OwnPath>,
}

/// Where the socket was made, and which file that is.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl<C: Conversation<Door = UnixListener>> Server<C> {
    /// Listens at `path`, for its owner alone. A socket that lies there already is replaced, as a former run may
    /// have left it; so is an empty file, by which `mktemp` reserves a name. `option` is who wants it.
    pub fn bind(option: &'static str, path: &Path) -> Result<Self, ControlError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() || metadata.is_file() && metadata.len() == 0 => {
                // What is wrong beyond that, binding tells.
                let _ = fs::remove_file(path);
            }
            Ok(_) => return Err(ControlError::Occupied { option, path: path.to_path_buf() }),
            Err(_) => {}
        }
        let open = || {
            let mut server = Server::behind(listen(path)?)?;
            server.path = Some(OwnPath::of(path)?);
            Ok(server)
        };
        open().map_err(|source| ControlError::Bind { option, path: path.to_path_buf(), source })
    }
}

impl<C: Conversation<Door = TcpListener>> Server<C> {
    /// Listens at an address. `option` is who wants it.
    pub fn listen(option: &'static str, address: SocketAddr) -> Result<Self, ControlError> {
        let open = || Server::behind(TcpListener::bind(address)?);
        open().map_err(|source| ControlError::Listen { option, address, source })
    }
}

impl<C: Conversation> Server<C> {
    fn behind(mut listener: C::Door) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Server {
            poll,
            listener,
            clients: BTreeMap::new(),
            next_token: LISTENER.0 + 1,
            ready: VecDeque::new(),
            may_accept: true,
            accept_retry: None,
            owner: None,
            path: None,
        })
    }

    /// The same for clients of this user alone, and root's.
    #[must_use]
    pub fn for_user(mut self, owner: u32) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Leaves the socket's path behind at the end: for those who will not be able to remove it.
    pub fn leave_path(&mut self) {
        self.path = None;
    }

    /// Whether somebody is connected who may ask for something.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// When the next client has taken too long, or another may be let in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.clients.values().filter_map(C::deadline).chain(self.accept_retry).min()
    }

    /// Lets clients in, gives up those that took too long, and lets one get on. Whether there may be more to do at once.
    pub fn handle_events(
        &mut self,
        now: Instant,
        mut answer: impl FnMut(ClientName, C::Request) -> C::Answer,
    ) -> bool {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        // An error here is an interrupted call: the events are still there.
        let mut has_more = self.poll.poll(&mut events, Some(std::time::Duration::ZERO)).is_err();
        has_more |= events.iter().count() == EVENTS_PER_TURN;
        for event in &events {
            match event.token() {
                LISTENER => self.may_accept = true,
                Token(token) => self.make_ready(token),
            }
        }
        // Whoever is let in may have spoken already.
        has_more |= self.accept(now);
        if let Some(token) = self.ready.pop_front() {
            self.serve(token, now, &mut |request| answer(ClientName(token), request));
            self.give_up_if_late(token, now);
        }
        self.give_up_late(now);
        has_more || self.may_accept || !self.ready.is_empty()
    }

    /// Works on one client's conversation, which then gets its turn; `None` if the client has left.
    pub fn with_client<R>(
        &mut self,
        ClientName(token): ClientName,
        work: impl FnOnce(&mut C) -> R,
    ) -> Option<R> {
        let outcome = self.clients.get_mut(&token).map(work);
        if outcome.is_some() {
            self.make_ready(token);
        }
        outcome
    }

    fn make_ready(&mut self, token: usize) {
        if !self.ready.contains(&token) {
            self.ready.push_back(token);
        }
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
                Ok(stream) => {
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

    fn admit(&mut self, mut stream: <C::Door as Door>::Stream, now: Instant) {
        // Only root and the owner can reach the socket; should its mode be changed, they are still the only ones let in.
        let is_welcome = self
            .owner
            .is_none_or(|owner| C::Door::peer(&stream).is_some_and(|peer| peer == owner || peer == 0));
        if !is_welcome {
            return;
        }
        if self.clients.len() >= C::MOST {
            let oldest = self.clients.first_key_value().map(|(token, _)| *token);
            oldest.into_iter().for_each(|token| self.give_up(token, Dismissal::TooMany));
        }
        let token = self.next_token;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, Token(token), interest).is_err() {
            return;
        }
        self.next_token += 1;
        self.clients.insert(token, C::begin(stream, now));
    }

    fn serve(&mut self, token: usize, now: Instant, answer: &mut dyn FnMut(C::Request) -> C::Answer) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        match client.advance(now, answer) {
            Progress::Waits => {}
            Progress::Unread => self.ready.push_back(token),
            Progress::Done => {
                self.clients.remove(&token);
            }
        }
    }

    /// All who are late, but those whose turn is still to come: it may be us who were stopped, and they have spoken.
    fn give_up_late(&mut self, now: Instant) {
        let silent = self.clients.keys().filter(|token| !self.ready.contains(token));
        for token in silent.copied().collect::<Vec<_>>() {
            self.give_up_if_late(token, now);
        }
    }

    fn give_up_if_late(&mut self, token: usize, now: Instant) {
        let deadline = self.clients.get(&token).and_then(C::deadline);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.give_up(token, Dismissal::TooSlow);
        }
    }

    fn give_up(&mut self, token: usize, why: Dismissal) {
        if let Some(mut client) = self.clients.remove(&token) {
            client.dismiss(why);
        }
    }
}

/// Readable in another poll whenever [`Server::handle_events`] has something to do.
impl<C: Conversation> AsRawFd for Server<C> {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl<C: Conversation> Drop for Server<C> {
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

#[cfg(test)]
mod tests;
