//! How busy a core's queue pair is, told to the home core: what a rebuild paces itself by.
//!
//! Kept by the queue pair in plain memory, and copied to its [`crate::cell::Cell`] with plain
//! stores, once a poll and only while others use the volume. The time that I/Os spend in the nexus
//! is added up a poll at a time, as their number times the length of the poll before: divided by
//! how many ended it is their mean latency, and no I/O carries a stamp for it.

use reactor::Nanos;

use crate::cell::Cell;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    since: Nanos,
    ended: usize,
    time_ns: usize,
}

impl Meter {
    /// The first I/O after a rest is about to come.
    #[inline]
    pub(crate) fn restart(&mut self, now: Nanos) {
        self.since = now;
    }

    /// A poll has handed up `ended` I/Os, and `inflight` are left.
    #[inline]
    pub(crate) fn note(&mut self, cell: &Cell, now: Nanos, ended: usize, inflight: u32) {
        let span = now.since(self.since).0 as usize;
        self.since = now;
        let inflight = inflight as usize;
        self.ended = self.ended.wrapping_add(ended);
        self.time_ns = self.time_ns.wrapping_add(span.wrapping_mul(inflight + ended));
        cell.set_load(self.ended, self.time_ns, inflight);
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ios_of_three_and_five_microseconds_took_four_on_average() {
        let (mut meter, cell) = (Meter::default(), Cell::default());
        meter.restart(Nanos::from_micros(100));
        meter.note(&cell, Nanos::from_micros(100), 0, 2);
        meter.note(&cell, Nanos::from_micros(103), 1, 1);
        meter.note(&cell, Nanos::from_micros(105), 1, 0);
        let (ended, time_ns, inflight) = cell.load();
        assert_eq!((ended, inflight), (2, 0));
        assert_eq!(time_ns / ended, 4_000);
    }
}
