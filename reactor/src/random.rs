//! A small, fast source of random numbers for one core.
//!
//! Owned by the core's context and called on its thread. Seeded explicitly, so that a test or the
//! simulator replays the same run from the same seed; never for secrets. The generator is
//! xoshiro256++ of Blackman and Vigna, its state filled from the seed by SplitMix64 as they advise
//! (<https://prng.di.unimi.it>).

/// The increment of SplitMix64: 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator of 64-bit numbers with a period of 2^256 - 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// Starts the sequence that belongs to `seed`. Any seed will do, zero too.
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        // SplitMix64 is a bijection of a counter, so the four words are never all zero.
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(GOLDEN_GAMMA);
            let mixed = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        });
        Self { state }
    }

    /// The next number, any of the 2^64.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number from 0 to `bound - 1`. The bias is below `bound` in 2^64.
    ///
    /// # Panics
    ///
    /// When the bound is zero.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        // The high half of the product scales without a division (Lemire).
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with the given probability; never at 0.0 or below, always at 1.0 or above.
    #[inline]
    pub fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits, as many as a double holds exactly: a number in [0, 1).
        let unit = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        unit < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sequence_is_that_of_the_published_algorithms() {
        // xoshiro256++ from the state 1, 2, 3, 4: vectors of the reference implementation.
        let mut random = Random { state: [1, 2, 3, 4] };
        let expected = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
        ];
        assert_eq!(std::array::from_fn(|_| random.next_u64()), expected);
        // SplitMix64 from the seed 0.
        assert_eq!(Random::new(0).state[0], 0xe220_a839_7b1d_cdaf);
        assert_eq!(Random::new(0).state[1], 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn a_seed_replays_and_another_seed_does_not() {
        let draw = |seed| -> [u64; 8] {
            let mut random = Random::new(seed);
            std::array::from_fn(|_| random.next_u64())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_below_a_bound_are_spread_evenly() {
        const DRAWS: u64 = 60_000;
        let mut random = Random::new(1);
        let mut counts = [0_u64; 6];
        for _ in 0..DRAWS {
            counts[usize::try_from(random.below(6)).unwrap()] += 1;
        }
        // Five standard deviations (91 each) around 10 000.
        assert!(counts.iter().all(|count| count.abs_diff(DRAWS / 6) < 456), "{counts:?}");
    }

    #[test]
    fn chances_come_as_often_as_they_say() {
        let mut random = Random::new(1);
        let hits = (0..40_000).filter(|_| random.chance(0.25)).count();
        assert!(hits.abs_diff(10_000) < 433, "{hits}");
        assert!((0..1_000).all(|_| random.chance(1.0)));
        assert!((0..1_000).all(|_| !random.chance(0.0)));
        assert!(!random.chance(f64::NAN));
    }

    #[test]
    #[should_panic(expected = "no number below zero")]
    fn below_zero_is_refused() {
        Random::new(0).below(0);
    }

    proptest! {
        #[test]
        fn a_number_below_a_bound_is_below_it(seed: u64, bound in 1_u64..) {
            let mut random = Random::new(seed);
            for _ in 0..20 {
                prop_assert!(random.below(bound) < bound);
            }
            prop_assert_eq!(random.below(1), 0);
        }
    }
}
