//! What to do while the host has nothing left to open sockets with: descriptors (`EMFILE`, `ENFILE`) or memory
//! (`ENOBUFS`, `ENOMEM`).
//!
//! That is a state, and no error. What is established has its socket and goes on. Whoever is new waits where he can: a
//! client of a published port in the host's queue, a SYN of the container in the container, whose kernel sends it
//! again; a datagram is lost, as on a full link. Nobody is refused or reset, which would say what is not true. Clients in the
//! queue are taken as soon as a socket of ours is closed, and looked for once a second, since others may have closed theirs.
//!
//! The kernel may also have no memory for bytes of somebody who is established. Nothing tells when it has some again, so it is
//! asked again fifty times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tracing::warn;

use super::Worker;
use crate::stack::boundary::{Duration, HostEvent, Instant};

/// Whether the host is known to have run out.
#[derive(Debug, Default)]
pub struct Scarcity {
    retry: Option<Instant>,
    /// When to try again what is established, and the link.
    again: Option<Instant>,
    /// When the user may be told again, in microseconds; several workers have one mouth.
    quiet_until: Arc<AtomicI64>,
}

impl Scarcity {
    /// When to try again though nothing of ours was closed.
    const RETRY: Duration = Duration::from_secs(1);
    /// When to come back to what the kernel had no memory for, and will not tell of.
    const AGAIN: Duration = Duration::from_millis(20);
    /// The user is told no more often.
    const TELL: Duration = Duration::from_secs(60);

    /// That of another worker of the same process, whose clock is the same.
    #[must_use]
    pub fn of_another(&self) -> Scarcity {
        Scarcity { quiet_until: Arc::clone(&self.quiet_until), ..Scarcity::default() }
    }

    /// Whether there is no point in accepting now.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.retry.is_some()
    }

    /// When to try again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry.into_iter().chain(self.again).min()
    }

    /// The kernel had no memory to move bytes of somebody who has all that he needs.
    pub fn starve(&mut self, now: Instant) {
        self.again.get_or_insert(now + Self::AGAIN);
    }

    /// Whether it is time to try those again.
    pub fn may_feed(&mut self, now: Instant) -> bool {
        self.again.take_if(|again| *again <= now).is_some()
    }

    /// Nothing could be opened for somebody who can wait.
    pub fn begin(&mut self, now: Instant) {
        self.retry = Some(now + Self::RETRY);
        self.tell(now);
    }

    /// Ends the wait, if it is time or something was closed.
    pub fn relieve(&mut self, now: Instant, has_closed: bool) {
        if has_closed || self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
        }
    }

    /// Nothing could be opened for somebody who will come again.
    pub fn tell(&mut self, now: Instant) {
        if self.may_tell(now) {
            warn!(
                "the host has no descriptor, port or memory left for another socket: new connections wait; see its limit \
                 of open files (ulimit -Hn)"
            );
        }
    }

    /// The table of flows, which is as large as descriptors allow, had no room.
    pub fn tell_full(&mut self, flows: usize, now: Instant) {
        if self.may_tell(now) {
            warn!(
                "all {flows} flows are in use: new ones wait until others end; where that is less than you need, raise \
                 the limit of open files (ulimit -Hn)"
            );
        }
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        let until = self.quiet_until.load(Ordering::Relaxed);
        let next = (now + Self::TELL).total_micros();
        // Of several who want to tell at once, one does.
        until <= now.total_micros()
            && self.quiet_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Worker {
    /// Tries again, if it is time, what the kernel had no memory for.
    pub(super) fn feed(&mut self) {
        if !self.scarcity.may_feed(self.now) {
            return;
        }
        self.is_link_ready |= self.link.try_again();
        while let Some(flow) = self.sockets.take_starved() {
            self.tell_stack(HostEvent::Writable { flow });
            self.tell_stack(HostEvent::Readable { flow });
        }
    }

    /// Takes note of what it had no memory for in this turn.
    pub(super) fn note_starved(&mut self) {
        if self.sockets.is_starved() || self.link.is_starved() {
            self.scarcity.starve(self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_first_socket_that_is_closed_or_after_a_second() {
        let mut scarcity = Scarcity::default();
        scarcity.begin(Instant::from_millis(0));
        scarcity.relieve(Instant::from_millis(999), false);
        assert!(scarcity.is_waiting());
        scarcity.relieve(Instant::from_millis(999), true);
        assert!(!scarcity.is_waiting());
        scarcity.begin(Instant::from_millis(1_000));
        assert_eq!(scarcity.poll_timeout(), Some(Instant::from_millis(2_000)));
        scarcity.starve(Instant::from_millis(1_000));
        scarcity.starve(Instant::from_millis(1_019));
        assert_eq!(scarcity.poll_timeout(), Some(Instant::from_millis(1_020)));
        assert!(!scarcity.may_feed(Instant::from_millis(1_019)));
        assert!(
            scarcity.may_feed(Instant::from_millis(1_020)) && !scarcity.may_feed(Instant::from_millis(1_020))
        );
        scarcity.relieve(Instant::from_millis(2_000), false);
        assert!(!scarcity.is_waiting());
    }

    #[test]
    fn the_user_is_told_once_a_minute() {
        let mut scarcity = Scarcity::default();
        assert!(scarcity.may_tell(Instant::from_secs(5)));
        assert!(!scarcity.may_tell(Instant::from_secs(64)));
        let mut another = scarcity.of_another();
        assert!(!another.may_tell(Instant::from_secs(64)));
        assert!(another.may_tell(Instant::from_secs(65)));
        assert!(!scarcity.may_tell(Instant::from_secs(65)));
    }
}
