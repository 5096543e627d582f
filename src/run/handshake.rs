//! What the two processes of a start-up say to each other: one word a message, over a socket pair.
//!
//! The process outside leads. Whatever goes wrong inside comes back as the text of [`Word::Failed`]; an end
//! that is closed means that the other side has given up, and has said why to whom it concerns.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::descriptor::{pair, receive_descriptor, send_descriptor};
use crate::sys::tap::Tap;

/// An error's text is one line; more of it is cut off.
const MAX_TEXT_BYTES: usize = 4_096;

/// One step of the start-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Outside: everything of the host is in place; make or enter the namespaces.
    Begin,
    /// Inside: the new user namespace wants its identities.
    Unmapped,
    /// Outside: they are written.
    Mapped,
    /// Inside: one more queue of the TAP comes with it.
    Queue,
    /// Inside: the network is configured; the TAP comes with it.
    Configured,
    /// Outside: frames are being served; become the command.
    Go,
    /// Inside: it cannot be done.
    Failed,
}

const WORDS: [(Word, u8); 7] = [
    (Word::Begin, b'b'),
    (Word::Unmapped, b'u'),
    (Word::Mapped, b'm'),
    (Word::Queue, b'q'),
    (Word::Configured, b'c'),
    (Word::Go, b'g'),
    (Word::Failed, b'f'),
];

/// Why the other side was not heard.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It said why it could not go on.
    #[error("{0}")]
    Told(String),
    /// It is gone.
    #[error("the set-up process ended before its work was done; run with -v and look at its messages")]
    Gone,
    /// It said something else.
    #[error("the set-up processes disagree: {wanted:?} was due, {found:?} came")]
    Disorder {
        /// What was due.
        wanted: Word,
        /// What came.
        found: Option<Word>,
    },
    /// The socket pair failed.
    #[error("the set-up processes cannot talk to each other: {0}")]
    Socket(#[from] io::Error),
}

/// One end.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Both ends.
    pub fn pair() -> Result<(Line, Line), HandshakeError> {
        let (one, other) = pair()?;
        Ok((Line(one), Line(other)))
    }

    /// Says a word.
    pub fn say(&self, word: Word) -> Result<(), HandshakeError> {
        self.send(word, None, "")
    }

    /// Says that the network is configured, and hands the TAP over: all of its queues.
    pub fn hand_over(&self, queues: &[Tap]) -> Result<(), HandshakeError> {
        let (last, others) = queues.split_last().ok_or(HandshakeError::Gone)?;
        for queue in others {
            self.send(Word::Queue, Some(queue.as_fd()), "")?;
        }
        self.send(Word::Configured, Some(last.as_fd()), "")
    }

    /// Waits until the network is configured; the queues that came with it, if any did.
    pub fn take_over(&self) -> Result<Vec<OwnedFd>, HandshakeError> {
        let mut queues = Vec::new();
        loop {
            let (word, descriptor) = self.hear_one_of(Word::Configured, Some(Word::Queue))?;
            queues.extend(descriptor);
            if word == Word::Configured {
                return Ok(queues);
            }
        }
    }

    /// Says why it cannot be done. If nobody hears it any more there is nobody to tell.
    pub fn fail(&self, text: &str) {
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        let _ = self.send(Word::Failed, None, &text[..end]);
    }

    fn send(&self, word: Word, descriptor: Option<BorrowedFd<'_>>, text: &str) -> Result<(), HandshakeError> {
        let code = WORDS.iter().find(|(known, _)| *known == word).map_or(0, |(_, code)| *code);
        let message: Vec<u8> = std::iter::once(code).chain(text.bytes()).collect();
        send_descriptor(self.0.as_fd(), descriptor, &message).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => HandshakeError::Gone,
            _ => HandshakeError::Socket(error),
        })
    }

    /// Waits for a word, and the descriptor that comes with it.
    pub fn hear(&self, wanted: Word) -> Result<Option<OwnedFd>, HandshakeError> {
        self.hear_one_of(wanted, None).map(|(_, descriptor)| descriptor)
    }

    fn hear_one_of(&self, wanted: Word, or: Option<Word>) -> Result<(Word, Option<OwnedFd>), HandshakeError> {
        let mut buffer = [0; MAX_TEXT_BYTES + 1];
        let (len, descriptor) = match receive_descriptor(self.0.as_fd(), &mut buffer) {
            Ok((0, _)) => return Err(HandshakeError::Gone),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(HandshakeError::Gone),
            Err(error) => return Err(error.into()),
        };
        let found = WORDS.iter().find(|(_, code)| *code == buffer[0]).map(|(word, _)| *word);
        match found {
            Some(word) if word == wanted || found == or => Ok((word, descriptor)),
            Some(Word::Failed) => {
                Err(HandshakeError::Told(String::from_utf8_lossy(&buffer[1..len]).into_owned()))
            }
            _ => Err(HandshakeError::Disorder { wanted, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_descriptors_arrive() {
        let (outside, inside) = Line::pair().unwrap();
        outside.say(Word::Begin).unwrap();
        assert!(inside.hear(Word::Begin).unwrap().is_none());
        let file = std::fs::File::open("/dev/null").unwrap();
        inside.send(Word::Queue, Some(file.as_fd()), "").unwrap();
        inside.send(Word::Configured, Some(file.as_fd()), "").unwrap();
        assert_eq!(outside.take_over().unwrap().len(), 2);
        inside.say(Word::Configured).unwrap();
        assert!(outside.take_over().unwrap().is_empty());
    }

    #[test]
    fn failure_is_told_in_its_own_words() {
        let (outside, inside) = Line::pair().unwrap();
        inside.fail("no tun here");
        assert_eq!(outside.hear(Word::Configured).unwrap_err().to_string(), "no tun here");
        inside.fail(&"é".repeat(MAX_TEXT_BYTES));
        assert_eq!(outside.hear(Word::Configured).unwrap_err().to_string().len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn closed_line_and_wrong_word_are_told_apart() {
        let (outside, inside) = Line::pair().unwrap();
        inside.say(Word::Unmapped).unwrap();
        assert!(matches!(
            outside.hear(Word::Configured),
            Err(HandshakeError::Disorder { wanted: Word::Configured, found: Some(Word::Unmapped) })
        ));
        drop(inside);
        assert!(matches!(outside.hear(Word::Configured), Err(HandshakeError::Gone)));
        assert!(matches!(outside.say(Word::Go), Err(HandshakeError::Gone)));
    }
}
