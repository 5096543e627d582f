//! How many frames are read before the others get their turn.
//!
//! Few, so that nobody waits for long. But where turn after turn leaves frames behind, the link's queue fills up, and drops
//! what it has no room for, whoever filled it. So turns grow then: of what is read in one turn, a connection's small
//! segments go to the host in one call and are acknowledged once, and each costs a fraction of what it does alone. That
//! pays only where most frames are small: beside a transfer, a short message is not to wait for what of that is read in
//! the same turn. As soon as nothing is left behind, turns shrink again.

use crate::stack::boundary::Duration;

/// Frames of a turn that leaves none behind.
const FEW: usize = 32;
/// Frames of the largest turn.
const MANY: usize = 4_096;

/// Bytes of a frame, in the mean of a turn, up to which it is one of small frames.
const SMALL_BYTES: usize = 512;

/// How a turn has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    /// There were no more frames.
    Drained,
    /// It had as many as it may have.
    Full,
    /// It had as much time as it may have.
    Late,
    /// It had as many bytes as it may have.
    Bulky,
}

/// What the last turns were like.
#[derive(Debug)]
pub struct Intake {
    frames: usize,
    /// Most frames of the last turn were small.
    are_small: bool,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake { frames: FEW, are_small: false }
    }
}

impl Intake {
    /// How long a large turn takes at most.
    pub const LONGEST: Duration = Duration::from_millis(4);
    /// So many frames are read between two looks at the clock.
    pub const LOOK: usize = 32;

    /// Frames that the next turn may have.
    pub fn most(&self) -> usize {
        self.frames
    }

    /// Whether the last turns have left frames behind.
    pub fn is_crowded(&self) -> bool {
        self.frames > FEW
    }

    /// Whether small segments are to wait for each other in the next.
    pub fn gathers(&self) -> bool {
        self.is_crowded() && self.are_small
    }

    /// A turn of so many frames and bytes is over.
    pub fn learn(&mut self, end: TurnEnd, frames: usize, bytes: usize) {
        self.are_small = bytes <= frames * SMALL_BYTES;
        self.frames = match end {
            TurnEnd::Full if self.are_small => (self.frames * 2).min(MANY),
            TurnEnd::Drained | TurnEnd::Bulky | TurnEnd::Full => (self.frames / 2).max(FEW),
            TurnEnd::Late => self.frames,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_grow_while_frames_are_left_behind_and_shrink_after_it() {
        let mut intake = Intake::default();
        intake.learn(TurnEnd::Drained, 1, 80);
        assert_eq!((intake.most(), intake.is_crowded(), intake.gathers()), (FEW, false, false));
        let sizes: Vec<_> = (0..9)
            .map(|_| {
                intake.learn(TurnEnd::Full, intake.most(), 80 * intake.most());
                assert!(intake.gathers());
                intake.most()
            })
            .collect();
        assert_eq!(sizes, [64, 128, 256, 512, 1_024, 2_048, MANY, MANY, MANY]);
        intake.learn(TurnEnd::Late, 100, 8_000);
        assert_eq!((intake.most(), intake.gathers()), (MANY, true));
        for end in [TurnEnd::Drained, TurnEnd::Bulky].into_iter().cycle().take(7) {
            assert!(intake.is_crowded());
            intake.learn(end, 32, 2_000);
        }
        assert!(!intake.is_crowded());
    }

    #[test]
    fn nothing_waits_for_others_beside_a_transfer() {
        let mut intake = Intake::default();
        // Messages among segments of a transfer.
        intake.learn(TurnEnd::Full, 32, 8 * 80 + 24 * 8_000);
        assert!(!intake.is_crowded() && !intake.gathers());
        intake.learn(TurnEnd::Full, 32, 32 * 80);
        assert!(intake.is_crowded() && intake.gathers());
        intake.learn(TurnEnd::Late, 40, 40 * 1_514);
        assert!(intake.is_crowded() && !intake.gathers());
        intake.learn(TurnEnd::Full, 64, 64 * 1_514);
        assert!(!intake.is_crowded());
    }
}
