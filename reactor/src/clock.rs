//! Time of a core: monotonic nanoseconds, read once a pass of the loop and kept in [`crate::Cx`].
//!
//! Owned by the core's context; only the loop reads the clock, everything below uses `cx.now()`.
//! A virtual clock lets a test, or the simulator, drive a whole core by hand (STYLE 21).
//!
//! The real clock is `CLOCK_MONOTONIC` through the vDSO: one read a pass costs some 25 ns beside
//! the 250 ns of the pass's own `epoll_wait`, so a calibrated cycle counter would buy nothing.

use std::cell::Cell;
use std::ops::{Add, Sub};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Monotonic time, or a span of it, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The span of `count` microseconds.
    pub const fn from_micros(count: u64) -> Self {
        Nanos(count.saturating_mul(1_000))
    }

    /// The span of `count` milliseconds.
    pub const fn from_millis(count: u64) -> Self {
        Nanos(count.saturating_mul(1_000_000))
    }

    /// The span of `count` seconds.
    pub const fn from_secs(count: u64) -> Self {
        Nanos(count.saturating_mul(1_000_000_000))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Nanos {
    type Output = Nanos;

    fn add(self, span: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(span.0))
    }
}

impl Sub for Nanos {
    type Output = Nanos;

    fn sub(self, span: Nanos) -> Nanos {
        self.since(span)
    }
}

impl From<Duration> for Nanos {
    fn from(span: Duration) -> Nanos {
        Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(span: Nanos) -> Duration {
        Duration::from_nanos(span.0)
    }
}

/// Where a core's time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's monotonic clock, counted from the creation of the clock.
    Real(Instant),
    /// A hand of the test's own.
    Virtual(VirtualClock),
}

impl Clock {
    /// The machine's clock, starting at zero now.
    pub fn real() -> Self {
        Clock::Real(Instant::now())
    }

    /// Reads the clock.
    pub fn read(&self) -> Nanos {
        match self {
            Clock::Real(origin) => Nanos::from(origin.elapsed()),
            Clock::Virtual(hand) => hand.read(),
        }
    }
}

/// A clock that moves only when told to; clones share one hand.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Rc<Cell<u64>>);

impl VirtualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time it shows.
    pub fn read(&self) -> Nanos {
        Nanos(self.0.get())
    }

    /// Moves the hand forward.
    pub fn advance(&self, span: Nanos) {
        self.0.set(self.0.get().saturating_add(span.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_clock_moves_only_when_told_to() {
        let hand = VirtualClock::new();
        let clock = Clock::Virtual(hand.clone());
        assert_eq!(clock.read(), Nanos(0));
        hand.advance(Nanos::from_micros(3));
        assert_eq!(clock.read(), Nanos(3_000));
    }

    #[test]
    fn spans_saturate_instead_of_wrapping() {
        assert_eq!(Nanos(1).since(Nanos(2)), Nanos(0));
        assert_eq!(Nanos(u64::MAX) + Nanos(1), Nanos(u64::MAX));
    }

    #[test]
    fn the_real_clock_never_goes_back() {
        let clock = Clock::real();
        let first = clock.read();
        assert!(clock.read() >= first);
    }
}
