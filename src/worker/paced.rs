//! Rates, for what goes past the link: it asks, has turns and pays like any flow ([`crate::stack::spliced`]).

use super::Worker;
use super::loopback::Loopback;
use super::loopback::pacing::Moved;
use crate::stack::Stack;
use crate::stack::boundary::Instant;
use crate::stack::shape::ClassId;
use crate::stack::spliced::Lane;

/// Those that are asked for before the others get their turn.
const ASKS_PER_TURN: usize = 1_024;

impl Worker {
    /// Lets what is spliced go on within its rates. Where there are none it is a question.
    pub(super) fn pace_spliced(&mut self) {
        let Some(loopback) = &mut self.loopback else { return };
        let is_on = self.stack.is_shaping();
        if !is_on && !loopback.is_paced() && loopback.asking() == 0 {
            return;
        }
        let (stack, now) = (&mut self.stack, self.now);
        loopback.pace(is_on);
        while let Some((lane, most)) = stack.poll_spliced_turn() {
            let class = loopback.class(lane, |what| stack.class_of_spliced(what, now)).unwrap_or_default();
            have_turn(stack, loopback, (lane, class, most), now);
        }
        for _ in 0..ASKS_PER_TURN.min(loopback.asking()) {
            let Some(lane) = loopback.next_asking() else { break };
            let Some(class) = loopback.class(lane, |what| stack.class_of_spliced(what, now)) else {
                continue;
            };
            let most = stack.ask_spliced(lane, class, now);
            if most > 0 {
                have_turn(stack, loopback, (lane, class, most), now);
            }
        }
        loopback.take_closed().into_iter().for_each(|id| stack.forget_spliced(id));
        (0..loopback.take_lost()).for_each(|_| stack.count_spliced_loss());
    }
}

fn have_turn(
    stack: &mut Stack,
    loopback: &mut Loopback,
    (lane, class, most): (Lane, ClassId, usize),
    now: Instant,
) {
    let Moved { bytes, has_more } = loopback.move_within(lane, most);
    if stack.pay_spliced(lane, class, bytes, has_more, now) {
        loopback.ask_again(lane);
    }
}
