//! The processor's time-stamp counter: what latencies are timed with, and cycles an I/O.
//!
//! Called by the load generator on its core, once a batch; reading it costs some 10 ns, the clock
//! of the kernel 25 ns. The counter runs at one rate on every processor that the product supports
//! (`constant_tsc`, `nonstop_tsc`), so its rate is measured once, at start.

use std::time::{Duration, Instant};

/// A reading of the counter, in its own ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Reads the counter.
    #[inline]
    pub fn now() -> Ticks {
        // SAFETY: RDTSC exists on every x86-64 processor, and Linux leaves it enabled for user
        // mode unless a process asks otherwise for itself; it touches no memory.
        #[expect(unsafe_code, reason = "an intrinsic of the processor")]
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        Ticks(ticks)
    }

    /// Ticks since `earlier`; zero when `earlier` is later.
    #[inline]
    pub fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How long the counter is compared with the kernel's clock: the two pairs of readings are each
/// within 100 ns, so the rate is right to 10 parts in a million.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Binary digits behind the point of [`TickRate::ns_per_tick`].
const FRACTION_BITS: u32 = 32;

/// The rate of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickRate {
    /// Nanoseconds a tick, in units of 2^-32.
    ns_per_tick: u64,
}

impl TickRate {
    /// Measures the rate against the kernel's clock; takes 20 ms.
    pub fn calibrate() -> TickRate {
        let (began, first) = (Instant::now(), Ticks::now());
        std::thread::sleep(CALIBRATION);
        let (elapsed, last) = (began.elapsed(), Ticks::now());
        Self::from_span(elapsed, last.since(first))
    }

    /// The rate at which `ticks` passed in `elapsed`.
    fn from_span(elapsed: Duration, ticks: u64) -> TickRate {
        let scaled = (elapsed.as_nanos() << FRACTION_BITS) / u128::from(ticks.max(1));
        TickRate { ns_per_tick: u64::try_from(scaled).unwrap_or(u64::MAX) }
    }

    /// A span of ticks in nanoseconds.
    #[inline]
    pub fn to_ns(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.ns_per_tick)) >> FRACTION_BITS) as u64
    }

    /// A span of nanoseconds in ticks.
    pub fn to_ticks(self, span_ns: u64) -> u64 {
        let ticks = (u128::from(span_ns) << FRACTION_BITS) / u128::from(self.ns_per_tick.max(1));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Ticks a second.
    pub fn hertz(self) -> f64 {
        1e9 * 2_f64.powi(FRACTION_BITS as i32) / self.ns_per_tick.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_convert_both_ways() {
        let rate = TickRate::from_span(Duration::from_micros(1), 2_600);
        assert_eq!(rate.to_ns(2_600_000), 999_999);
        assert!(rate.to_ticks(1_000_000).abs_diff(2_600_000) <= 1);
        assert!((rate.hertz() - 2.6e9).abs() < 1e3);
    }

    #[test]
    fn the_measured_rate_agrees_with_the_clock() {
        let rate = TickRate::calibrate();
        let (began, first) = (Instant::now(), Ticks::now());
        std::thread::sleep(Duration::from_millis(20));
        let ns = u128::from(rate.to_ns(Ticks::now().since(first)));
        // The thread may lose its core between two reads; the bound only has to catch a rate
        // that is wrong by a factor.
        assert!(ns.abs_diff(began.elapsed().as_nanos()) < ns / 2);
    }
}
