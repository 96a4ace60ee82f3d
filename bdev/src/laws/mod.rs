//! The laws of [`crate::QueuePair`] as one property suite that every implementation runs.
//!
//! Compiled for tests, and with the feature `laws` for the tests of other crates. [`check`] drives
//! a device with random sequences of legal and illegal I/Os against a model in memory
//! ([`model`]); a violation panics, and the sequence that led to it is shrunk and printed.
//!
//! What is checked: every accepted token completes exactly once, aborted or not; nothing completes
//! inside `submit`; `inflight` and `credits` tell the truth, and `Busy` is said at zero credits
//! only; a poll hands up no more than there is room for; an I/O in flight wakes somebody; an
//! illegal I/O fails and changes nothing; a read that succeeded filled all of its memory or said
//! `zeroes`; the memory of a write is not changed, and no memory is touched after completion;
//! what was written is what is read.

mod actions;
mod harness;
mod model;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use proptest::test_runner::{Config, TestRunner};
use reactor::Cx;

use crate::device::{BlockDevice, Geometry, Limits};
use crate::io::Io;
use crate::legality;
use crate::nvme::status::Status;
use harness::{Arena, Harness};

/// What holds for a device, and how hard to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What it remembers.
    pub keeps: Keeps,
    /// Which I/Os are legal: what [`legality::check`] says, given the device's own limits, unless
    /// the device refuses more.
    pub verdict: Verdict,
    /// Depth of the queue pairs opened, 1 to [`DEPTH_MAX`].
    pub depth: u32,
    /// Sequences tried.
    pub cases: u32,
    /// Steps in the longest sequence.
    pub steps_max: usize,
}

/// A check of an I/O against a device's geometry and limits.
pub type Verdict = fn(&Io, &Geometry, &Limits) -> Result<(), Status>;

/// Deepest queue pair of the suite: as many I/Os as the small pool of a test has buffers for.
pub const DEPTH_MAX: u32 = 16;

/// What a device remembers of what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All of it; a new device reads as zeroes.
    Everything,
    /// Nothing; it always reads as zeroes.
    Nothing,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            keeps: Keeps::Everything,
            verdict: legality::check,
            depth: 8,
            cases: 64,
            steps_max: 120,
        }
    }
}

/// Runs the suite over devices from `make_device`, one for each sequence. A device should have
/// some hundreds of blocks: enough to differ, few enough to meet. Time is virtual, and goes on
/// when the queue pair says that it waits for it.
pub fn check(make_device: impl Fn(&mut Cx) -> Arc<dyn BlockDevice>, options: Options) {
    assert!((1..=DEPTH_MAX).contains(&options.depth), "the suite has buffers for {DEPTH_MAX}");
    let (mut cx, hand) = reactor::cx::test_context();
    let arena = Arena::take(&mut cx, options.depth);
    let state = RefCell::new((cx, arena));
    let config = Config { cases: options.cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&actions::sequence(options.steps_max), |sequence| {
        let (cx, arena) = &mut *state.borrow_mut();
        let device = make_device(cx);
        let mut harness = Harness::open(cx, &hand, arena, &*device, options);
        for action in sequence {
            harness.perform(action);
        }
        harness.finish();
        Ok(())
    });
    let (mut cx, arena) = state.into_inner();
    arena.give(&mut cx);
    if let Err(violation) = outcome {
        panic!("{violation}");
    }
}
