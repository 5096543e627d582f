//! What other containers send to one, for those who capture there.
//!
//! Such a frame is written to the interface by the worker of who sends it, and never passes that of whom it is for. While somebody
//! watches there, the sender leaves a copy first, and the receiver's worker takes what there is before it looks at a frame of its own
//! container: so a question is there before its answer. There are no more copies than those who watch have room for; what finds none
//! is counted. Nobody pays for it where nobody watches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::limits::CAPTURE_TURN_BYTES;
use crate::worker::Reaction;
use crate::worker::mailbox::{Letter, Postbox};

/// Copies on their way to one container's worker.
#[derive(Debug, Default)]
pub struct Passed {
    is_watched: AtomicBool,
    /// Bytes that may be copied before they are taken.
    room: AtomicUsize,
    copies: Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    lost: u64,
    /// Of whoever watches.
    bell: Option<Postbox<Letter>>,
}

impl Passed {
    /// A thread that panicked while it held them has left them whole.
    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies are wanted from now on; the first of each time is told of in a letter.
    pub fn watch(&self, bell: Postbox<Letter>) {
        self.copies().bell = Some(bell);
        self.is_watched.store(true, Ordering::Release);
    }

    /// So many bytes may be copied from now on, before they are taken.
    pub fn allow(&self, room: usize) {
        self.room.store(room.min(CAPTURE_TURN_BYTES), Ordering::Relaxed);
    }

    /// And no longer.
    pub fn leave(&self) {
        self.is_watched.store(false, Ordering::Release);
        *self.copies() = Copies::default();
    }

    /// Leaves a copy of a frame, behind its virtio-net header, that is about to be written.
    pub fn see(&self, read: &[u8]) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        let mut copies = self.copies();
        if copies.bytes + read.len() > self.room.load(Ordering::Relaxed) {
            copies.lost += 1;
            return;
        }
        let is_first = copies.frames.is_empty();
        copies.bytes += read.len();
        copies.frames.push(read.to_vec());
        if is_first && let Some(bell) = &copies.bell {
            // A box that is full has rung.
            let _ = bell.post(Letter::React(Reaction::Continue));
        }
    }

    /// Takes the copies, and how many there were no room for.
    #[must_use]
    pub fn take(&self) -> (Vec<Vec<u8>>, u64) {
        if !self.is_watched.load(Ordering::Acquire) {
            return (Vec::new(), 0);
        }
        let mut copies = self.copies();
        copies.bytes = 0;
        (std::mem::take(&mut copies.frames), std::mem::take(&mut copies.lost))
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;
    use crate::config::limits::MAILBOX;
    use crate::worker::mailbox::Mailbox;

    #[test]
    fn copies_are_taken_in_their_order_rung_for_once_and_bounded() {
        let poll = Poll::new().unwrap();
        let mut mailbox = Mailbox::open(poll.registry(), Token(0), MAILBOX).unwrap();
        let passed = Passed::default();
        passed.see(b"nobody watches");
        assert_eq!(passed.take(), (Vec::new(), 0));
        passed.watch(mailbox.postbox());
        passed.see(b"nobody has room");
        assert_eq!(passed.take(), (Vec::new(), 1));
        passed.allow(usize::MAX);
        let large = vec![0; CAPTURE_TURN_BYTES - 3];
        for frame in [&b"one"[..], &large, b"!"] {
            passed.see(frame);
        }
        mailbox.note_bell();
        assert!(matches!(mailbox.next_letter(), Some(Letter::React(Reaction::Continue))));
        assert!(mailbox.next_letter().is_none());
        let (frames, lost) = passed.take();
        assert_eq!((frames.len(), &*frames[0], lost), (2, &b"one"[..], 1));
        passed.see(b"next");
        passed.leave();
        assert_eq!(passed.take(), (Vec::new(), 0));
    }
}
