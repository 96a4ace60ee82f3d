//! What one core measures: ramp, then the window, then the end; latencies and bytes in between.
//!
//! Owned by a load-generating service and called on its core's thread; `record` is on the hot path.
//! What it found goes to the main thread by value ([`CoreMeasure`]).

use reactor::Cx;
use reactor::clock::Nanos;
use reactor::cores::CoreId;
use reactor::counters::CoreCounters;
use reactor::histogram::Histogram;

use crate::cycles::{TickRate, Ticks};

/// Time beyond ramp and runtime for connecting and draining.
pub const GRACE: Nanos = Nanos::from_secs(30);

/// When to measure, and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Load before the window that is not counted.
    pub ramp: Nanos,
    /// Length of the window.
    pub runtime: Nanos,
    /// I/Os after which the window ends early.
    pub ios_max: u64,
}

impl Window {
    /// How long a core may take in all.
    pub fn lifetime(&self) -> Nanos {
        self.ramp + self.runtime + GRACE
    }
}

/// Where a core is in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun: connections are being made.
    Waiting,
    /// Load, not counted.
    Ramp,
    /// Load, counted.
    Measuring,
    /// No more load.
    Done,
}

/// What a core found.
#[derive(Clone, Debug)]
pub struct CoreMeasure {
    /// The core.
    pub core: CoreId,
    /// Latencies in nanoseconds of the I/Os that completed in the window.
    pub histogram: Histogram,
    /// Their bytes.
    pub bytes: u64,
    /// Length of the window.
    pub elapsed: Nanos,
    /// What the core counted in the window.
    pub counters: CoreCounters,
}

/// Measures one core.
#[derive(Debug)]
pub struct Meter {
    window: Window,
    rate: TickRate,
    phase: Phase,
    /// End of the ramp, then beginning of the window.
    from: Nanos,
    elapsed: Nanos,
    at_start: CoreCounters,
    in_window: CoreCounters,
    histogram: Histogram,
    bytes: u64,
}

impl Meter {
    /// A meter that has not begun.
    pub fn new(window: Window, rate: TickRate) -> Meter {
        Meter {
            window,
            rate,
            phase: Phase::Waiting,
            from: Nanos(0),
            elapsed: Nanos(0),
            at_start: CoreCounters::default(),
            in_window: CoreCounters::default(),
            histogram: Histogram::new(),
            bytes: 0,
        }
    }

    /// Starts the ramp: everything is connected.
    pub fn begin(&mut self, now: Nanos) {
        assert_eq!(self.phase, Phase::Waiting, "a meter begins once");
        self.phase = Phase::Ramp;
        self.from = now + self.window.ramp;
    }

    /// Moves on with time; once a pass.
    #[inline]
    pub fn advance(&mut self, cx: &Cx) -> Phase {
        let now = cx.now();
        if self.phase == Phase::Ramp && now >= self.from {
            self.phase = Phase::Measuring;
            self.from = now;
            self.at_start = cx.counters;
        }
        if self.phase == Phase::Measuring
            && (now.since(self.from) >= self.window.runtime
                || self.histogram.count() >= self.window.ios_max)
        {
            self.end(cx);
        }
        self.phase
    }

    /// Ends the run now, wherever it is: something failed.
    pub fn end(&mut self, cx: &Cx) {
        if self.phase == Phase::Measuring {
            self.elapsed = cx.now().since(self.from);
            self.in_window = cx.counters.since(self.at_start);
        }
        self.phase = Phase::Done;
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Counts an I/O, when the window is open.
    #[inline]
    pub fn record(&mut self, started: Ticks, ended: Ticks, bytes: u32) {
        if self.phase == Phase::Measuring {
            self.histogram.record(self.rate.to_ns(ended.since(started)));
            self.bytes += u64::from(bytes);
        }
    }

    /// What was found, once the run is over.
    pub fn measure(&mut self, core: CoreId) -> CoreMeasure {
        CoreMeasure {
            core,
            histogram: std::mem::take(&mut self.histogram),
            bytes: self.bytes,
            elapsed: self.elapsed,
            counters: self.in_window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::cx::test_context;

    const WINDOW: Window = Window { ramp: Nanos(10), runtime: Nanos(100), ios_max: 2 };

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let (mut cx, hand) = test_context();
        let mut meter = Meter::new(WINDOW, TickRate::calibrate());
        meter.begin(cx.now());
        meter.record(Ticks(0), Ticks(9), 512);
        hand.advance(Nanos(10));
        cx.advance_clock();
        cx.counters.busy_ns = 5;
        assert_eq!(meter.advance(&cx), Phase::Measuring);
        meter.record(Ticks(0), Ticks(9), 512);
        hand.advance(Nanos(100));
        cx.advance_clock();
        cx.counters.busy_ns = 12;
        assert_eq!(meter.advance(&cx), Phase::Done);
        meter.record(Ticks(0), Ticks(9), 512);
        let measure = meter.measure(cx.core);
        assert_eq!((measure.histogram.count(), measure.bytes), (1, 512));
        assert_eq!((measure.elapsed, measure.counters.busy_ns), (Nanos(100), 7));
    }

    #[test]
    fn enough_ios_end_the_window_early() {
        let (mut cx, hand) = test_context();
        let mut meter = Meter::new(WINDOW, TickRate::calibrate());
        meter.begin(cx.now());
        hand.advance(Nanos(10));
        cx.advance_clock();
        meter.advance(&cx);
        meter.record(Ticks(0), Ticks(9), 512);
        assert_eq!(meter.advance(&cx), Phase::Measuring);
        meter.record(Ticks(0), Ticks(9), 512);
        assert_eq!(meter.advance(&cx), Phase::Done);
    }
}
