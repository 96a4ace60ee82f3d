//! A rebuild as an operator sees it: how far it is, and what became of earlier ones.

use std::collections::VecDeque;

use reactor::Nanos;

use super::copier::Moved;
use crate::child::{ChildIndex, FaultReason};
use crate::view::Version;

/// Rebuilds that are remembered.
pub const HISTORY_MAX: usize = 32;

/// How often the rate is taken.
const RATE_INTERVAL: Nanos = Nanos::from_millis(500);

/// How a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildState {
    /// The child is being made a target.
    Preparing,
    /// Regions are copied.
    Copying,
    /// By an operator: nothing is copied, host writes go to the target all the same.
    Paused,
    /// Everything is there: it is flushed and becomes a member.
    Finishing,
}

/// What a rebuild copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole volume.
    Full,
    /// What the child lacks.
    Partial,
}

/// How a rebuild ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildEnd {
    /// The child is a member.
    Completed,
    /// An operator stopped it.
    Stopped,
    /// The child failed.
    TargetFailed(FaultReason),
    /// No member could be read.
    SourcesFailed,
}

/// How far a rebuild is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Whose.
    pub child: ChildIndex,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: RebuildState,
    /// What it copies.
    pub scope: Scope,
    /// Blocks that it was to deal with when it began. Never falls or rises.
    pub total_blocks: u64,
    /// Of them, those dealt with. Never falls.
    pub done_blocks: u64,
    /// Bytes that were copied, and those left out as zeroes.
    pub moved: Moved,
    /// Bytes a second of late.
    pub rate: u64,
    /// Time to the end at that rate; nothing while it stands.
    pub left: Option<Nanos>,
    /// When it began, by the core's clock.
    pub started_at: Nanos,
    /// True while the host's I/O holds it back.
    pub is_held_back: bool,
}

impl RebuildProgress {
    /// Blocks that are left.
    pub fn left_blocks(&self) -> u64 {
        self.total_blocks - self.done_blocks
    }
}

/// A rebuild that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildRecord {
    /// The child's name.
    pub name: String,
    /// What it was to copy.
    pub scope: Scope,
    /// When it began, by the core's clock.
    pub started_at: Nanos,
    /// When it ended.
    pub ended_at: Nanos,
    /// How.
    pub end: RebuildEnd,
    /// Bytes that were copied, and those left out as zeroes.
    pub moved: Moved,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobStep {
    /// Its label is being written.
    Preparing,
    /// Every core must follow the view in which it is written.
    Following(Version),
    /// Regions are copied.
    Copying,
    /// The target is being flushed.
    Flushing,
    /// The home core makes it a member.
    Admitting,
}

/// The rebuild under way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) child: ChildIndex,
    name: String,
    pub(crate) step: JobStep,
    pub(crate) is_paused: bool,
    /// Why it is about to end, when that is known better than by the child's state.
    pub(crate) end: Option<RebuildEnd>,
    scope: Scope,
    total_blocks: u64,
    done_blocks: u64,
    started_at: Nanos,
    /// What had been moved when it began.
    moved_before: Moved,
    rate: u64,
    rated_at: Nanos,
    rated_bytes: u64,
}

impl Job {
    /// A job that begins now, when so much was moved by those before it.
    pub(crate) fn new(child: ChildIndex, name: String, now: Nanos, moved: Moved) -> Job {
        Job {
            child,
            name,
            step: JobStep::Preparing,
            is_paused: false,
            end: None,
            scope: Scope::Full,
            total_blocks: 0,
            done_blocks: 0,
            started_at: now,
            moved_before: moved,
            rate: 0,
            rated_at: now,
            rated_bytes: moved.all_bytes(),
        }
    }

    /// What is to be copied is known: so many blocks of a volume of so many.
    pub(crate) fn begin(&mut self, now: Nanos, left_blocks: u64, volume_blocks: u64) {
        self.step = JobStep::Copying;
        self.total_blocks = left_blocks.min(volume_blocks);
        self.scope = if left_blocks < volume_blocks { Scope::Partial } else { Scope::Full };
        self.rated_at = now;
    }

    /// So many blocks are left, of which a part may be done; so much was moved in all.
    pub(crate) fn note(&mut self, now: Nanos, left_blocks: u64, moved: Moved) {
        let done = self.total_blocks.saturating_sub(left_blocks);
        self.done_blocks = self.done_blocks.max(done);
        let span = now.since(self.rated_at);
        if span >= RATE_INTERVAL {
            let bytes = u128::from(moved.all_bytes() - self.rated_bytes);
            let rate = bytes * 1_000_000_000 / u128::from(span.0);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            self.rate = if self.rate == 0 { rate } else { (self.rate / 4) * 3 + rate / 4 };
            (self.rated_at, self.rated_bytes) = (now, moved.all_bytes());
        }
    }

    /// As an operator sees it.
    pub(crate) fn progress(&self, moved: Moved, block_bytes: u32) -> RebuildProgress {
        let state = match self.step {
            JobStep::Preparing | JobStep::Following(_) => RebuildState::Preparing,
            JobStep::Copying if self.is_paused => RebuildState::Paused,
            JobStep::Copying => RebuildState::Copying,
            JobStep::Flushing | JobStep::Admitting => RebuildState::Finishing,
        };
        let left_blocks = self.total_blocks - self.done_blocks;
        let left_ns = u128::from(left_blocks) * u128::from(block_bytes) * 1_000_000_000;
        let left_ns = left_ns.checked_div(u128::from(self.rate));
        let left = left_ns.map(|span| Nanos(u64::try_from(span).unwrap_or(u64::MAX)));
        RebuildProgress {
            child: self.child,
            name: self.name.clone(),
            state,
            scope: self.scope,
            total_blocks: self.total_blocks,
            done_blocks: self.done_blocks,
            moved: moved.since(self.moved_before),
            rate: self.rate,
            left: left.filter(|_| state == RebuildState::Copying),
            started_at: self.started_at,
            is_held_back: false,
        }
    }

    /// What is remembered of it.
    pub(crate) fn record(self, now: Nanos, end: RebuildEnd, moved: Moved) -> RebuildRecord {
        RebuildRecord {
            name: self.name,
            scope: self.scope,
            started_at: self.started_at,
            ended_at: now,
            end,
            moved: moved.since(self.moved_before),
        }
    }
}

/// The last [`HISTORY_MAX`] rebuilds.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: VecDeque<RebuildRecord>,
}

impl History {
    pub(crate) fn add(&mut self, record: RebuildRecord) {
        if self.records.len() == HISTORY_MAX {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RebuildRecord> {
        self.records.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let child = ChildIndex::new(1).unwrap();
        Job::new(child, String::from("new"), Nanos::from_secs(1), Moved::default())
    }

    fn moved(copied_bytes: u64) -> Moved {
        Moved { copied_bytes, skipped_bytes: 0 }
    }

    #[test]
    fn the_rate_tells_how_long_it_will_take() {
        let mut job = job();
        job.begin(Nanos::from_secs(1), 1000, 4000);
        job.note(Nanos::from_secs(2), 750, moved(128_000));
        let progress = job.progress(moved(128_000), 512);
        assert_eq!((progress.scope, progress.rate), (Scope::Partial, 128_000));
        assert_eq!((progress.done_blocks, progress.left_blocks()), (250, 750));
        assert_eq!(progress.left, Some(Nanos::from_secs(3)));
        job.note(Nanos::from_secs(2), 800, moved(128_000));
        assert_eq!(job.progress(moved(128_000), 512).done_blocks, 250, "it never falls");
    }

    #[test]
    fn as_many_rebuilds_as_there_is_room_for_are_remembered_and_one_more_pushes_one_out() {
        let mut history = History::default();
        let record =
            |at| job().record(Nanos::from_secs(at), RebuildEnd::Completed, Moved::default());
        (0..HISTORY_MAX as u64).for_each(|at| history.add(record(at)));
        assert_eq!(history.iter().next().unwrap().ended_at, Nanos(0));
        history.add(record(100));
        assert_eq!(history.iter().count(), HISTORY_MAX);
        assert_eq!(history.iter().next().unwrap().ended_at, Nanos::from_secs(1));
    }
}
