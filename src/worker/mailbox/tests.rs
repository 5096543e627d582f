//! A box between two threads.

use std::time::Duration;

use mio::{Events, Poll, Token};

use super::*;

const BELL: Token = Token(7);
const LIMITS: MailboxLimits = MailboxLimits { letters: 8, bytes: 1_000 };

/// So many bytes, and whether they may be lost.
#[derive(Debug, PartialEq, Eq)]
struct Parcel(usize, bool);

impl Post for Parcel {
    fn bytes(&self) -> usize {
        self.0
    }

    fn may_be_lost(&self) -> bool {
        self.1
    }
}

fn opened() -> (Poll, Mailbox<Parcel>) {
    let poll = Poll::new().unwrap();
    let mailbox = Mailbox::open(poll.registry(), BELL, LIMITS).unwrap();
    (poll, mailbox)
}

/// How often the bell has rung, waiting at most so long for the first time.
fn rings(poll: &mut Poll, patience: Duration) -> usize {
    let mut events = Events::with_capacity(8);
    poll.poll(&mut events, Some(patience)).unwrap();
    events.iter().filter(|event| event.token() == BELL).count()
}

fn taken(mailbox: &mut Mailbox<Parcel>) -> Vec<usize> {
    std::iter::from_fn(|| mailbox.next_letter()).map(|parcel| parcel.0).collect()
}

#[test]
fn letters_arrive_in_their_order_and_a_burst_rings_once() {
    let (mut poll, mut mailbox) = opened();
    let postbox = mailbox.postbox();
    for size in 1..=8 {
        postbox.post(Parcel(size, false)).unwrap();
    }
    assert!(!mailbox.is_ready(), "nobody has heard the bell yet");
    assert_eq!(rings(&mut poll, Duration::from_secs(30)), 1);
    mailbox.note_bell();
    assert_eq!(taken(&mut mailbox), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!mailbox.is_ready());
    assert_eq!(rings(&mut poll, Duration::ZERO), 0);
    postbox.post(Parcel(9, false)).unwrap();
    assert_eq!(rings(&mut poll, Duration::from_secs(30)), 1, "an empty box rings again");
}

#[test]
fn full_box_gives_the_letter_back_and_has_room_again_when_it_is_emptied() {
    let (_poll, mut mailbox) = opened();
    let postbox = mailbox.postbox();
    for _ in 0..8 {
        postbox.post(Parcel(1, false)).unwrap();
    }
    assert_eq!(postbox.post(Parcel(5, false)), Err(Refusal::Full(Parcel(5, false))));
    mailbox.note_bell();
    assert!(mailbox.next_letter().is_some());
    assert_eq!(postbox.post(Parcel(1_000, false)), Ok(()));
    assert_eq!(postbox.post(Parcel(1, false)), Err(Refusal::Full(Parcel(1, false))), "by its bytes");
    mailbox.note_bell();
    assert_eq!(taken(&mut mailbox), [1, 1, 1, 1, 1, 1, 1, 1_000]);
}

#[test]
fn what_may_be_lost_leaves_half_of_the_box_to_the_rest() {
    let (_poll, mailbox) = opened();
    let postbox = mailbox.postbox();
    for _ in 0..4 {
        postbox.post(Parcel(1, true)).unwrap();
    }
    assert!(postbox.post(Parcel(1, true)).is_err());
    for _ in 0..4 {
        postbox.post(Parcel(1, false)).unwrap();
    }
    let (_poll, mailbox) = opened();
    assert!(mailbox.postbox().post(Parcel(501, true)).is_err(), "by its bytes");
    assert!(mailbox.postbox().post(Parcel(501, false)).is_ok());
}

#[test]
fn nobody_posts_to_a_worker_that_is_gone() {
    let (_poll, mailbox) = opened();
    let postbox = mailbox.postbox();
    postbox.post(Parcel(1, false)).unwrap();
    drop(mailbox);
    assert_eq!(postbox.post(Parcel(2, false)), Err(Refusal::Gone(Parcel(2, false))));
}

#[test]
fn no_letter_of_many_threads_is_lost_or_left_lying() {
    const POSTERS: usize = 4;
    const EACH: usize = 5_000;
    let (mut poll, mut mailbox) = opened();
    std::thread::scope(|scope| {
        for poster in 0..POSTERS {
            let postbox = mailbox.postbox();
            scope.spawn(move || {
                for number in 0..EACH {
                    // Eight of the largest fit: only their number bounds them.
                    let mut letter = Parcel((number * POSTERS + poster) % 100, false);
                    while let Err(Refusal::Full(back)) = postbox.post(letter) {
                        letter = back;
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut opened = 0;
        while opened < POSTERS * EACH {
            assert_ne!(rings(&mut poll, Duration::from_secs(30)), 0, "{opened} were opened, and no bell");
            mailbox.note_bell();
            opened += taken(&mut mailbox).len();
        }
    });
    assert!(!mailbox.is_ready());
}
