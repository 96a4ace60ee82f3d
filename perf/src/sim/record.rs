//! A simulated record: a voter without data that answers late, not at all, or whose answer is lost.
//!
//! Outlives the processes that ask it; each has a [`Line`] to it of its own.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nexus::truth::names::{RecordId, VoterHalf};
use nexus::truth::record::{Record, RecordError};
use reactor::Nanos;
use reactor::random::Random;
use uuid::Uuid;

use super::trace::Trace;

/// Its name in labels.
pub const RECORD: RecordId = RecordId(Uuid::from_u128(0x4ec0));

/// What is wrong with the way to it.
#[derive(Clone, Copy, Debug)]
pub struct RecordPlan {
    /// How long an answer takes at most.
    pub delay_most: Nanos,
    /// Of the questions, those that do not reach it.
    pub unreached: f64,
    /// Of the changes, those whose answer is lost.
    pub unheard: f64,
}

#[derive(Debug)]
struct Inner {
    half: VoterHalf,
    plan: RecordPlan,
    now: Nanos,
    random: Random,
    trace: Trace,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct SharedRecord(Arc<Mutex<Inner>>);

impl SharedRecord {
    /// One that was never written.
    pub fn new(plan: RecordPlan, seed: u64, trace: Trace) -> SharedRecord {
        let random = Random::new(seed.rotate_left(13) ^ 0x4ec0);
        let (half, now) = Default::default();
        SharedRecord(Arc::new(Mutex::new(Inner { half, plan, now, random, trace })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it says of a volume that was just made.
    pub fn found(&self, half: VoterHalf) {
        self.inner().half = half;
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut inner = self.inner();
        (inner.plan.unreached, inner.plan.unheard) = (0.0, 0.0);
    }

    /// The clock has moved.
    pub fn advance(&self, now: Nanos) {
        self.inner().now = now;
    }

    /// A way to it.
    pub fn line(&self) -> Line {
        Line { record: self.clone(), cut_until: Arc::new(Mutex::new(Nanos(0))) }
    }
}

/// The way of one process to the record.
#[derive(Clone, Debug)]
pub struct Line {
    record: SharedRecord,
    cut_until: Arc<Mutex<Nanos>>,
}

impl Line {
    /// Nothing gets through until then.
    pub fn cut(&self, until: Nanos) {
        *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn is_cut(&self) -> bool {
        let until = *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.record.inner().now < until
    }
}

fn away() -> RecordError {
    RecordError::Io { place: String::from("the record"), source: io::ErrorKind::TimedOut.into() }
}

impl Record for Line {
    fn id(&self) -> RecordId {
        RECORD
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        let is_cut = self.is_cut();
        let inner = &mut *self.record.inner();
        let unreached = inner.plan.unreached;
        match is_cut || inner.random.chance(unreached) {
            true => Err(away()),
            false => Ok(inner.half.clone()),
        }
    }

    fn swap(&mut self, expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        let mut inner = self.record.inner();
        if inner.half != *expected {
            return Err(RecordError::Changed);
        }
        inner.half = new.clone();
        let unheard = inner.plan.unheard;
        let is_unheard = inner.random.chance(unheard);
        let promised = new.promised.generation.counter;
        inner.trace.note("record", [new.ballot.epoch.0, promised, u64::from(is_unheard)]);
        if is_unheard { Err(away()) } else { Ok(()) }
    }

    fn answers_after(&mut self) -> Option<Nanos> {
        let mut inner = self.record.inner();
        let most = inner.plan.delay_most.0.max(1);
        Some(Nanos(inner.random.below(most)))
    }
}
