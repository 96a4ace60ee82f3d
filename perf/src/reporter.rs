//! From a core that makes load to the main thread, and to the other cores: what happens when.
//!
//! Owned by the core's service. A main thread that is starved, because every core spins at
//! real-time priority, must not be missed: the counters of a serving core are read here, at the
//! very edges of the window, and the service ends by itself once it has said how it went.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use reactor::counters::{CoreCounters, SharedCounters};

use crate::harness::RunError;
use crate::meter::{CoreMeasure, Phase};
use crate::report::Faults;

/// What a load-generating core tells the main thread.
#[derive(Debug)]
pub enum Event {
    /// It is still filling the device, and something was written since it last said so.
    Filling,
    /// Its window opened; the counters of the serving core, if there is one.
    Began(Option<CoreCounters>),
    /// Its window closed.
    Closed(Option<CoreCounters>),
    /// It is done, nothing is in flight any more.
    Ended(Box<Outcome>),
    /// It cannot go on.
    Failed(RunError),
}

/// What a core brings home.
#[derive(Debug)]
pub struct Outcome {
    /// What it measured.
    pub measure: CoreMeasure,
    /// What went wrong.
    pub faults: Faults,
}

/// Where cores wait for each other, so that all begin at the same time. Clones are one gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicUsize>);

impl Gate {
    /// A gate that opens once `cores` have arrived.
    pub fn new(cores: usize) -> Gate {
        Gate(Arc::new(AtomicUsize::new(cores)))
    }

    fn arrive(&self) {
        // Release, partner: the acquire in `is_open`; what a core filled is there for all.
        self.0.fetch_sub(1, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        // Acquire, partner: the release in `arrive`.
        self.0.load(Ordering::Acquire) == 0
    }
}

/// One core's end of it.
#[derive(Debug)]
pub struct Reporter {
    events: Sender<Event>,
    gate: Gate,
    arrived: bool,
    server: Option<SharedCounters>,
    ended: bool,
}

impl Reporter {
    /// Of a core that waits at `gate`; `server` is read at the edges of the window.
    pub fn new(events: Sender<Event>, gate: Gate, server: Option<SharedCounters>) -> Reporter {
        Reporter { events, gate, arrived: false, server, ended: false }
    }

    /// Of the only core there is.
    pub fn alone(events: Sender<Event>) -> Reporter {
        Reporter::new(events, Gate::new(1), None)
    }

    /// Says that this core is ready; true once all are.
    pub fn may_begin(&mut self) -> bool {
        if !self.arrived {
            self.arrived = true;
            self.gate.arrive();
        }
        self.gate.is_open()
    }

    /// Something was filled.
    pub fn filling(&self) {
        self.send(Event::Filling);
    }

    /// The phase changed to this one.
    pub fn entered(&self, phase: Phase) {
        let counters = || self.server.as_ref().map(SharedCounters::read);
        match phase {
            Phase::Measuring => self.send(Event::Began(counters())),
            Phase::Done => self.send(Event::Closed(counters())),
            Phase::Waiting | Phase::Ramp => {}
        }
    }

    /// The core is done. The first end counts.
    pub fn end(&mut self, outcome: Result<Outcome, RunError>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.send(match outcome {
                Ok(outcome) => Event::Ended(Box::new(outcome)),
                Err(error) => Event::Failed(error),
            });
        }
    }

    /// True once it has.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn send(&self, event: Event) {
        // The main thread may have given up: then nobody reads it.
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn nobody_begins_before_all_have_arrived() {
        let (events, _reports) = mpsc::channel();
        let gate = Gate::new(2);
        let mut one = Reporter::new(events.clone(), gate.clone(), None);
        let mut two = Reporter::new(events, gate, None);
        assert!(!one.may_begin() && !one.may_begin());
        assert!(two.may_begin() && one.may_begin());
    }

    #[test]
    fn the_first_end_counts_and_the_edges_carry_the_servers_counters() {
        let (events, reports) = mpsc::channel();
        let server = SharedCounters::default();
        let mut reporter = Reporter::new(events, Gate::new(1), Some(server.clone()));
        reporter.entered(Phase::Ramp);
        server.publish(&CoreCounters { ios: 3, ..CoreCounters::default() });
        reporter.entered(Phase::Measuring);
        reporter.end(Err(RunError::Lost));
        reporter.end(Err(RunError::Lost));
        assert!(reporter.has_ended());
        let seen: Vec<Event> = reports.try_iter().collect();
        let [Event::Began(Some(counters)), Event::Failed(RunError::Lost)] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(counters.ios, 3);
    }
}
