//! A small seeded generator (SplitMix64): the only source of chance in the simulator.

/// A stream of numbers that its seed decides completely.
#[derive(Debug, Clone)]
pub struct Prng(u64);

/// Scrambles one word; the step function of SplitMix64.
pub fn scramble(word: u64) -> u64 {
    let mut mixed = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Prng {
    /// A generator of its own for each `purpose` of a seed, so that drawing more for one does not shift another.
    pub fn new(seed: u64, purpose: &str) -> Prng {
        Prng(purpose.bytes().fold(scramble(seed), |state, byte| scramble(state ^ u64::from(byte))))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < u64::from(per_mille)
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[test]
fn the_seed_and_the_purpose_decide_the_numbers() {
    let draw = |seed, purpose| {
        let mut prng = Prng::new(seed, purpose);
        [prng.next(), prng.next(), prng.below(7)]
    };
    assert_eq!(draw(1, "link"), draw(1, "link"));
    assert_ne!(draw(1, "link"), draw(2, "link"));
    assert_ne!(draw(1, "link"), draw(1, "host"));
}
