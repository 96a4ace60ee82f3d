//! How long a core took over the I/Os that it answered: from the parse of the command to the
//! reply handed to the socket.
//!
//! A pass notes when each of its answers was begun, and looks at the clock once more after they
//! were sent. On the path of every I/O, without allocation.

use reactor::Nanos;
use reactor::histogram::Histogram;

/// Answers noted before the clock is looked at: more than one pass mostly has.
const NOTED_MAX: usize = 1024;

/// The answers of this pass, and the service times of all before.
#[derive(Debug)]
pub(super) struct Answers {
    started: Vec<Nanos>,
    service_times: Histogram,
}

impl Answers {
    /// None yet.
    pub fn new() -> Answers {
        Answers { started: Vec::with_capacity(NOTED_MAX), service_times: Histogram::new() }
    }

    /// An I/O whose command was parsed at `started` has its answer queued. True when no more can
    /// be noted before [`Answers::sent`].
    pub fn add(&mut self, started: Nanos) -> bool {
        self.started.push(started);
        self.started.len() == NOTED_MAX
    }

    /// True when there is none to be sent.
    pub fn is_empty(&self) -> bool {
        self.started.is_empty()
    }

    /// They were sent at `now`. Returns the sum of their service times in nanoseconds.
    pub fn sent(&mut self, now: Nanos) -> u64 {
        let mut sum_ns: u64 = 0;
        for started in self.started.drain(..) {
            let service_ns = now.0.saturating_sub(started.0);
            self.service_times.record(service_ns);
            sum_ns = sum_ns.wrapping_add(service_ns);
        }
        sum_ns
    }

    /// Service times since the core was started.
    pub fn service_times(&self) -> &Histogram {
        &self.service_times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_counted_once_with_its_own_time() {
        let mut answers = Answers::new();
        assert!(answers.is_empty());
        for started in [10, 30] {
            assert!(!answers.add(Nanos(started)));
        }
        assert_eq!(answers.sent(Nanos(40)), 40);
        assert!(answers.is_empty());
        assert_eq!(answers.sent(Nanos(90)), 0);
        let times = answers.service_times();
        assert_eq!((times.count(), times.min(), times.max()), (2, 10, 30));
    }

    #[test]
    fn the_last_that_fits_says_so_and_nothing_allocates() {
        let mut answers = Answers::new();
        let full: Vec<bool> = (0..NOTED_MAX).map(|_| answers.add(Nanos(0))).collect();
        assert_eq!(full.iter().position(|full| *full), Some(NOTED_MAX - 1));
        answers.sent(Nanos(1));
        assert_eq!(answers.started.capacity(), NOTED_MAX);
    }
}
