//! How many frames are read before the others get their turn.
//!
//! Few, so that nobody waits for long. But where turn after turn leaves frames behind, the link's queue fills up, and drops
//! what it has no room for, whoever filled it. So turns grow then: of what is read in one turn, a connection's small
//! segments go to the host in one call and are acknowledged once, and each costs a fraction of what it does alone. As soon
//! as nothing is left behind, turns shrink again.

use crate::stack::boundary::Duration;

/// Frames of a turn that leaves none behind.
const FEW: usize = 32;
/// Frames of the largest turn.
const MANY: usize = 4_096;

/// How a turn has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    /// There were no more frames.
    Drained,
    /// It had as many as it may have.
    Full,
    /// It had as many bytes as it may have, or as much time.
    Long,
}

/// What the last turns were like.
#[derive(Debug)]
pub struct Intake {
    frames: usize,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake { frames: FEW }
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

    /// A turn is over.
    pub fn learn(&mut self, end: TurnEnd) {
        self.frames = match end {
            TurnEnd::Drained => (self.frames / 2).max(FEW),
            TurnEnd::Full => (self.frames * 2).min(MANY),
            TurnEnd::Long => self.frames,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_grow_while_frames_are_left_behind_and_shrink_after_it() {
        let mut intake = Intake::default();
        intake.learn(TurnEnd::Drained);
        assert_eq!((intake.most(), intake.is_crowded()), (FEW, false));
        let sizes: Vec<_> = (0..9)
            .map(|_| {
                intake.learn(TurnEnd::Full);
                intake.most()
            })
            .collect();
        assert_eq!(sizes, [64, 128, 256, 512, 1_024, 2_048, MANY, MANY, MANY]);
        intake.learn(TurnEnd::Long);
        assert_eq!(intake.most(), MANY);
        for _ in 0..7 {
            assert!(intake.is_crowded());
            intake.learn(TurnEnd::Drained);
        }
        assert!(!intake.is_crowded());
    }
}
