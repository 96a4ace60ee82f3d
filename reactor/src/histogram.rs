//! A histogram of latencies in fixed memory.
//!
//! Owned by whoever measures: a core, a load generator's job. `record` runs on the hot path;
//! merging and reading run wherever the result is wanted.
//!
//! The scale is linear within an octave and logarithmic over octaves: each octave from 64 ns up
//! is cut into 64 buckets of one width, so a bucket is at most 1/64 as wide as its lowest value,
//! and everything below 128 ns is exact. All of `u64` fits into 3776 buckets, 30 KiB.

use std::fmt;

/// Buckets an octave, as a power of two: the relative error is at most 2^-6.
const SUB_BUCKET_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;

/// 64 octaves, of which the lowest six share the first 64 buckets.
const BUCKETS: usize = (64 - SUB_BUCKET_BITS as usize + 1) * SUB_BUCKETS;

/// How many values fell where. Values are nanoseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

/// The bucket that a value belongs to.
#[inline]
fn bucket_of(value_ns: u64) -> usize {
    // Setting bit 6 puts the lowest octaves on one linear scale with the first one cut in 64.
    let magnitude = 63 - (value_ns | SUB_BUCKETS as u64).leading_zeros();
    let shift = magnitude - SUB_BUCKET_BITS;
    ((shift as usize) << SUB_BUCKET_BITS) + (value_ns >> shift) as usize
}

/// The highest value of a bucket.
fn bucket_high_ns(bucket: usize) -> u64 {
    let shift = (bucket >> SUB_BUCKET_BITS).saturating_sub(1);
    let low = (bucket - (shift << SUB_BUCKET_BITS)) as u64;
    (low << shift) + ((1 << shift) - 1)
}

impl Histogram {
    /// Makes an empty histogram. All memory is allocated here.
    pub fn new() -> Self {
        let counts = vec![0; BUCKETS].into_boxed_slice().try_into();
        Self {
            counts: counts.expect("the vector was made with this length"),
            count: 0,
            sum_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
        }
    }

    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value_ns: u64) {
        self.counts[bucket_of(value_ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(value_ns);
        self.min_ns = self.min_ns.min(value_ns);
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What was counted since `earlier`, a copy of this histogram. Its extremes are those of their
    /// buckets.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut difference = Histogram::new();
        for (bucket, count) in difference.counts.iter_mut().enumerate() {
            *count = self.counts[bucket].wrapping_sub(earlier.counts[bucket]);
            if *count > 0 {
                let high_ns = bucket_high_ns(bucket);
                difference.min_ns = difference.min_ns.min(high_ns);
                difference.max_ns = high_ns.min(self.max_ns);
            }
        }
        difference.count = self.count.wrapping_sub(earlier.count);
        difference.sum_ns = self.sum_ns.wrapping_sub(earlier.sum_ns);
        difference
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum_ns, self.min_ns, self.max_ns) = (0, 0, u64::MAX, 0);
    }

    /// The smallest value counted such that a share of `quantile` (0.0 to 1.0, clamped) of all
    /// values are no greater, or up to 1/64 above it, never below. The extremes are exact. Zero
    /// when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let share = quantile.clamp(0.0, 1.0);
        // At least one, so that 0.0 is the minimum; at most all, whatever the rounding.
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return if rank == 1 {
                    self.min_ns
                } else {
                    bucket_high_ns(bucket).min(self.max_ns)
                };
            }
        }
        0
    }

    /// The mean, exact but for rounding to a double. Zero when nothing was counted.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least value counted, exact. Zero when nothing was counted.
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min_ns }
    }

    /// The greatest value counted, exact. Zero when nothing was counted.
    pub fn max(&self) -> u64 {
        self.max_ns
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Histogram")
            .field("count", &self.count)
            .field("min_ns", &self.min())
            .field("p50_ns", &self.quantile(0.5))
            .field("p99_ns", &self.quantile(0.99))
            .field("max_ns", &self.max())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for value in values {
            histogram.record(*value);
        }
        histogram
    }

    /// Values of every magnitude alike.
    fn latency() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
    }

    #[test]
    fn the_difference_to_a_copy_is_what_came_after_it() {
        let mut whole = Histogram::new();
        [5, 7000].iter().for_each(|value_ns| whole.record(*value_ns));
        let earlier = whole.clone();
        [100, 100, 3000].iter().for_each(|value_ns| whole.record(*value_ns));
        let since = whole.since(&earlier);
        assert_eq!((since.count(), since.quantile(0.5)), (3, 100));
        assert_eq!(since.min(), 100);
        assert!((3000..3000 + 3000 / 64).contains(&since.max()), "{}", since.max());
        assert_eq!(whole.since(&whole).count(), 0);
    }

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut expected_low = 0_u64;
        for bucket in 0..BUCKETS {
            let high = bucket_high_ns(bucket);
            assert_eq!(bucket_of(expected_low), bucket);
            assert_eq!(bucket_of(high), bucket);
            // The bound that is promised: width - 1 is less than 1/64 of the lowest value.
            assert!(high == expected_low || (high - expected_low) < expected_low / 64);
            expected_low = high.wrapping_add(1);
        }
        assert_eq!(expected_low, 0, "the last bucket ends with u64::MAX");
    }

    #[test]
    fn an_empty_histogram_reads_as_zero() {
        let histogram = Histogram::new();
        assert_eq!((histogram.count(), histogram.min(), histogram.max()), (0, 0, 0));
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (0, 0.0));
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(histogram.quantile(0.0), 1);
        assert_eq!(histogram.quantile(0.5), 50);
        assert_eq!(histogram.quantile(0.99), 99);
        assert_eq!(histogram.quantile(1.0), 100);
        assert_eq!(histogram.mean(), 50.5);
    }

    #[test]
    fn the_extremes_of_the_range_are_counted() {
        let histogram = of(&[0, u64::MAX, u64::MAX]);
        assert_eq!((histogram.min(), histogram.max()), (0, u64::MAX));
        assert_eq!(histogram.quantile(0.5), u64::MAX);
        assert_eq!(histogram.quantile(f64::NAN), 0);
    }

    #[test]
    fn clearing_forgets_everything() {
        let mut histogram = of(&[1, 1_000_000]);
        histogram.clear();
        assert!(histogram == Histogram::new());
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_one_sixty_fourth_above_the_true_one(
            mut values in proptest::collection::vec(latency(), 1..200),
            quantile in 0.0..=1.0_f64,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = ((quantile * values.len() as f64).ceil() as usize).max(1);
            let truth = values[rank - 1];
            let found = histogram.quantile(quantile);
            prop_assert!(found >= truth && found - truth <= truth / 64, "{} for {}", found, truth);
            prop_assert_eq!(histogram.quantile(0.0), values[0]);
            prop_assert_eq!(histogram.quantile(1.0), values[values.len() - 1]);
        }

        #[test]
        fn merging_equals_recording_into_one(
            left in proptest::collection::vec(latency(), 0..50),
            right in proptest::collection::vec(latency(), 0..50),
        ) {
            let mut merged = of(&left);
            merged.merge(&of(&right));
            prop_assert!(merged == of(&[left.clone(), right.clone()].concat()));
            let count = left.len() + right.len();
            prop_assert_eq!(merged.count(), count as u64);
            if count > 0 {
                let sum: u128 = left.iter().chain(&right).map(|value| u128::from(*value)).sum();
                prop_assert_eq!(merged.mean(), sum as f64 / count as f64);
            }
        }
    }
}
