//! How another thread tells a worker something: letters in a box, and a bell.
//!
//! A worker owns what it works on, and shares none of it. Whoever wants something of it posts a [`Letter`]; the worker opens
//! its letters between two batches of packets, in the order in which they came. The bell is rung for the first letter in an
//! empty box only, since the worker empties the box as a whole: so a burst of letters is one system call, and posting to a worker
//! that is at it is none.
//!
//! The box is bounded in letters and in bytes. That it is full is a state that the poster is told of, with the letter
//! given back; so is a worker that is gone. What may be lost, as a frame may, is refused when the box is half full, so that
//! there is room for the rest.
//!
//! The answer to a question ([`Letter::Ask`]) is a letter, too: the asker has a mailbox of [`Answer`]s in a poll of its own,
//! and waits for nobody. Not all questions are answered: a worker that ends leaves letters unopened.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::{Registry, Waker};
use tracing::debug;

use super::Reaction;
use super::crew::Client;
use crate::config::limits::MailboxLimits;
use crate::control::native;
use crate::stack::boundary::{Reply, Request};
use crate::wire::MacAddr;

/// What can be posted.
pub trait Post: Send {
    /// Bytes that it holds beside itself.
    fn bytes(&self) -> usize;
    /// Whether nobody counts on its arrival.
    fn may_be_lost(&self) -> bool;
}

/// What a worker is told.
#[derive(Debug)]
pub enum Letter {
    /// To do what a source of its own might ask for.
    React(Reaction),
    /// A frame that came by the queue of another worker, behind its virtio-net header.
    Frame(Vec<u8>),
    /// A client of a published port whom another worker has accepted.
    Client(Box<Client>),
    /// Where another worker has heard from the container on the link.
    ContainerAt(MacAddr),
    /// A server in the container has refused a client of another worker's.
    Suspect(SocketAddr),
    /// Another worker has closed a socket.
    Relieved,
    /// To carry out a request, and tell what came of it.
    Ask {
        /// What the answer will carry; the asker's own.
        ticket: u64,
        /// What is asked for.
        request: Request,
        /// Where the answer goes.
        answers: Postbox<Answer>,
    },
    /// To answer what was asked at a counter elsewhere, as if it had been at its own.
    Inquire {
        /// What the answer will carry; the asker's own.
        ticket: u64,
        /// As it was asked.
        request: Box<native::Request>,
        /// Where the answer goes; to the leader of the interface's workers, where there is none.
        answers: Option<Postbox<Answer>>,
    },
    /// What another worker answers to [`Letter::Inquire`].
    Answered {
        /// That of the question.
        ticket: u64,
        /// What is answered.
        said: Box<native::Answer>,
    },
}

impl Post for Letter {
    fn bytes(&self) -> usize {
        match self {
            Letter::Frame(bytes) => bytes.len(),
            Letter::React(_)
            | Letter::Ask { .. }
            // Bounded by those who ask, each of whom waits for the answer.
            | Letter::Inquire { .. }
            | Letter::Answered { .. }
            | Letter::Client(_)
            | Letter::ContainerAt(_)
            | Letter::Suspect(_)
            | Letter::Relieved => 0,
        }
    }

    fn may_be_lost(&self) -> bool {
        match self {
            Letter::React(_)
            | Letter::Ask { .. }
            | Letter::Inquire { .. }
            | Letter::Answered { .. }
            | Letter::Client(_) => false,
            // The others are told again.
            Letter::Frame(_) | Letter::ContainerAt(_) | Letter::Suspect(_) | Letter::Relieved => true,
        }
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// That of the question.
    pub ticket: u64,
    /// What is answered.
    pub reply: Replied,
}

/// An answer in the language of its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replied {
    /// To [`Letter::Ask`].
    Request(Reply),
    /// To [`Letter::Inquire`].
    Inquiry(native::Answer),
}

impl Post for Answer {
    fn bytes(&self) -> usize {
        0
    }

    fn may_be_lost(&self) -> bool {
        false
    }
}

/// Why a letter was not taken; it is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal<L> {
    /// There is no room for it now.
    Full(L),
    /// Nobody will ever open it.
    Gone(L),
}

impl<L> Refusal<L> {
    /// What was refused.
    #[must_use]
    pub fn into_letter(self) -> L {
        match self {
            Refusal::Full(letter) | Refusal::Gone(letter) => letter,
        }
    }
}

/// Where letters are posted; a copy is the same box.
#[derive(Debug)]
pub struct Postbox<L>(Arc<Shared<L>>);

impl<L> Clone for Postbox<L> {
    fn clone(&self) -> Self {
        Postbox(Arc::clone(&self.0))
    }
}

/// Where letters are opened; there is one for each box.
#[derive(Debug)]
pub struct Mailbox<L> {
    shared: Arc<Shared<L>>,
    /// Taken out of the box.
    in_hand: VecDeque<L>,
    /// The bell has rung since the box was emptied.
    has_rung: bool,
}

#[derive(Debug)]
struct Shared<L> {
    contents: Mutex<Contents<L>>,
    limits: MailboxLimits,
    bell: Waker,
}

#[derive(Debug)]
struct Contents<L> {
    letters: VecDeque<L>,
    bytes: usize,
    is_abandoned: bool,
}

impl<L> Shared<L> {
    /// A thread that panicked while it held the box has left it whole: letters are only put in and taken out.
    fn contents(&self) -> MutexGuard<'_, Contents<L>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Post> Postbox<L> {
    /// Posts a letter.
    ///
    /// # Errors
    /// The letter, where the box is full or nobody opens it any more.
    pub fn post(&self, letter: L) -> Result<(), Refusal<L>> {
        let MailboxLimits { letters, bytes } = self.0.limits;
        let share = if letter.may_be_lost() { 2 } else { 1 };
        let held = letter.bytes();
        let mut contents = self.0.contents();
        if contents.is_abandoned {
            return Err(Refusal::Gone(letter));
        }
        if contents.letters.len() >= letters / share || contents.bytes.saturating_add(held) > bytes / share {
            return Err(Refusal::Full(letter));
        }
        contents.bytes += held;
        contents.letters.push_back(letter);
        let is_first = contents.letters.len() == 1;
        drop(contents);
        if is_first && let Err(error) = self.0.bell.wake() {
            debug!(%error, "a worker is not woken");
        }
        Ok(())
    }
}

impl<L: Post> Mailbox<L> {
    /// An empty box, whose bell is `token` in the poll of `registry`: one poll has one such box.
    pub fn open(registry: &Registry, token: mio::Token, limits: MailboxLimits) -> io::Result<Mailbox<L>> {
        let contents = Contents { letters: VecDeque::new(), bytes: 0, is_abandoned: false };
        let bell = Waker::new(registry, token)?;
        let shared = Arc::new(Shared { contents: Mutex::new(contents), limits, bell });
        Ok(Mailbox { shared, in_hand: VecDeque::new(), has_rung: false })
    }

    /// Where its letters are posted.
    #[must_use]
    pub fn postbox(&self) -> Postbox<L> {
        Postbox(Arc::clone(&self.shared))
    }

    /// The poll has told of the bell.
    pub fn note_bell(&mut self) {
        self.has_rung = true;
    }

    /// Whether there may be letters to open.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.has_rung || !self.in_hand.is_empty()
    }

    /// The next letter.
    pub fn next_letter(&mut self) -> Option<L> {
        if self.in_hand.is_empty() && std::mem::take(&mut self.has_rung) {
            let mut contents = self.shared.contents();
            std::mem::swap(&mut contents.letters, &mut self.in_hand);
            contents.bytes = 0;
        }
        self.in_hand.pop_front()
    }
}

impl<L> Drop for Mailbox<L> {
    fn drop(&mut self) {
        let left = {
            let mut contents = self.shared.contents();
            contents.is_abandoned = true;
            std::mem::take(&mut contents.letters)
        };
        // A letter may hold a postbox, even of this very box.
        drop(left);
    }
}

#[cfg(test)]
mod tests;
