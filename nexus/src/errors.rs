//! How often a child has failed lately (CONTRACT 1.11).
//!
//! Kept by the home core, one a child. Counts what failed and then succeeded, there or elsewhere;
//! what did not succeed takes the child out at once and needs no count.

use reactor::Nanos;

/// A child is faulted with this many errors within [`ERROR_WINDOW`].
pub const ERRORS_MAX: usize = 64;

/// Time in which errors are counted.
pub const ERROR_WINDOW: Nanos = Nanos::from_secs(10);

/// The times of a child's last errors.
#[derive(Debug)]
pub(crate) struct ErrorStore {
    times: [Nanos; ERRORS_MAX],
    /// Of all times.
    count: usize,
}

impl ErrorStore {
    pub(crate) const fn new() -> ErrorStore {
        ErrorStore { times: [Nanos(0); ERRORS_MAX], count: 0 }
    }

    /// Notes an error; true when there were too many.
    pub(crate) fn note(&mut self, now: Nanos) -> bool {
        self.times[self.count % ERRORS_MAX] = now;
        self.count += 1;
        let oldest = self.times[self.count % ERRORS_MAX];
        self.count >= ERRORS_MAX && now.since(oldest) < ERROR_WINDOW
    }

    /// Errors of all times.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_errors_in_ten_seconds_are_too_many_and_one_less_is_not() {
        let mut store = ErrorStore::new();
        let second = 1_000_000_000;
        assert!(!(0..63).any(|number| store.note(Nanos(number * second / 10))));
        assert!(store.note(Nanos(64 * second / 10)));
        assert_eq!(store.count(), 64);
    }

    #[test]
    fn errors_that_come_slowly_are_never_too_many() {
        let mut store = ErrorStore::new();
        let apart = ERROR_WINDOW.0 / (ERRORS_MAX as u64 - 1);
        assert!(!(0..1000).any(|number| store.note(Nanos(number * (apart + 1)))));
        let mut store = ErrorStore::new();
        assert!((0..1000).any(|number| store.note(Nanos(number * (apart - 1)))));
    }
}
