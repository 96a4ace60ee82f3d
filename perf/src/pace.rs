//! When the next I/O may start: at once, or when a fixed rate says so.
//!
//! Owned by a load-generating service, on its core's thread. An open load keeps its schedule
//! whatever the device does: an I/O that had to wait for a free slot is timed from when it was due,
//! so that a stall shows in every latency that it delayed.

use reactor::clock::Nanos;

use crate::cycles::{TickRate, Ticks};

/// A schedule.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as a slot is free.
    Closed,
    /// One every period.
    Open {
        /// Ticks between two.
        period: u64,
        /// When the next one is due.
        due: Ticks,
        /// The rate of the ticks.
        rate: TickRate,
    },
}

impl Pace {
    /// A schedule of `ios_per_second`, from now on; closed when there is none.
    pub fn new(ios_per_second: Option<f64>, rate: TickRate) -> Pace {
        match ios_per_second {
            None => Pace::Closed,
            Some(ios_per_second) => {
                let period = (rate.hertz() / ios_per_second.max(f64::MIN_POSITIVE)) as u64;
                Pace::Open { period: period.max(1), due: Ticks::now(), rate }
            }
        }
    }

    /// Begins the schedule at `now`.
    pub fn begin(&mut self, now: Ticks) {
        if let Pace::Open { due, .. } = self {
            *due = now;
        }
    }

    /// The time from which the next I/O is to be measured, when it may start at `now`.
    #[inline]
    pub fn start(&mut self, now: Ticks) -> Option<Ticks> {
        match self {
            Pace::Closed => Some(now),
            Pace::Open { period, due, .. } => (*due <= now).then(|| {
                let start = *due;
                *due = Ticks(start.0.saturating_add(*period));
                start
            }),
        }
    }

    /// How long from `now` until the next I/O is due; none when that is no matter of time.
    pub fn wait(&self, now: Ticks) -> Option<Nanos> {
        match self {
            Pace::Closed => None,
            Pace::Open { due, rate, .. } => Some(Nanos(rate.to_ns(due.since(now)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_load_starts_when_it_is_asked() {
        let mut pace = Pace::new(None, TickRate::calibrate());
        assert_eq!(pace.start(Ticks(7)), Some(Ticks(7)));
        assert_eq!(pace.wait(Ticks(7)), None);
    }

    #[test]
    fn what_was_delayed_is_timed_from_when_it_was_due() {
        let rate = TickRate::calibrate();
        let mut pace = Pace::new(Some(1_000.0), rate);
        pace.begin(Ticks(0));
        let period = (rate.hertz() / 1_000.0) as u64;
        let late = Ticks(period * 2);
        assert_eq!(pace.start(late), Some(Ticks(0)));
        assert_eq!(pace.start(late), Some(Ticks(period)));
        assert_eq!(pace.start(late), Some(late));
        assert_eq!(pace.start(late), None);
        assert!(pace.wait(late).unwrap().0.abs_diff(1_000_000) < 1_000);
    }
}
