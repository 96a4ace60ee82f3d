//! An I/O of the host while the mirror has it.

use bdev::{Io, Status};
use reactor::Nanos;
use reactor::dma::DmaBuffer;

use crate::child::ChildSet;

/// Where an I/O is. Each has one next stage, but for what fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not admitted yet: the volume is paused, or others do not know of this core yet.
    New,
    /// An earlier write of this core has its range.
    Blocked,
    /// It lacks stripes: another core has some.
    Stripes,
    /// A region is not marked, or a child has no credit, or there is no buffer: tried again.
    Ready,
    /// At the children.
    Flight,
    /// Back from the children; something is to be decided by the home core.
    Held,
    /// Its data is there; a write to its range must end first.
    Answer,
}

/// What is done with an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Sent to every child that is written: writes, flushes, the write of a compare-and-write.
    Everywhere,
    /// Asked of one child: reads and compares.
    Anywhere,
    /// The compare of a compare-and-write.
    CompareFirst,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) io: Io,
    pub(super) stage: Stage,
    pub(super) work: Work,
    /// Children that have a token of it.
    pub(super) pending: ChildSet,
    /// Children that it is still to be sent to: a retry, or one that was busy.
    pub(super) unsent: ChildSet,
    /// Children that did it.
    pub(super) done: ChildSet,
    /// Children that refused it.
    pub(super) refused: ChildSet,
    /// Children on which it failed for good; of a read, all that were tried in vain.
    pub(super) failed: ChildSet,
    /// Children that were tried again once, and twice.
    pub(super) tried_again: ChildSet,
    pub(super) tried_twice: ChildSet,
    /// How it ends if it ends now.
    pub(super) status: Status,
    pub(super) zeroes: bool,
    /// It has been sent to a child, and its children's part is not over.
    pub(super) has_begun: bool,
    /// The host wants it to end.
    pub(super) is_aborted: bool,
    /// It is on the list of those tried again at each poll.
    pub(super) is_listed: bool,
    /// When it last was sent to a child.
    pub(super) sent_at: Nanos,
    /// Words of the stripe lock that it has, of those that it needs.
    pub(super) words: u32,
    pub(super) has_stripes: bool,
    /// It is in line for a stripe, and so must take it, or nobody could.
    pub(super) has_asked: bool,
    /// The halves of a compare-and-write, where they came in several segments.
    pub(super) buffer: Option<DmaBuffer>,
}

impl Slot {
    #[inline]
    pub(super) fn new(io: Io, work: Work) -> Slot {
        Slot {
            io,
            stage: Stage::New,
            work,
            pending: ChildSet::EMPTY,
            unsent: ChildSet::EMPTY,
            done: ChildSet::EMPTY,
            refused: ChildSet::EMPTY,
            failed: ChildSet::EMPTY,
            tried_again: ChildSet::EMPTY,
            tried_twice: ChildSet::EMPTY,
            status: Status::SUCCESS,
            zeroes: false,
            has_begun: false,
            is_aborted: false,
            is_listed: false,
            sent_at: Nanos(0),
            words: 0,
            has_stripes: false,
            has_asked: false,
            buffer: None,
        }
    }

    /// Nothing of it is at a child, or on the way to one.
    #[inline]
    pub(super) fn is_back(&self) -> bool {
        self.pending.union(self.unsent).is_empty()
    }

    /// True when it changes blocks, and so has a range in the table from the beginning.
    #[inline]
    pub(super) fn is_write(&self) -> bool {
        self.io.operation.changes_blocks()
    }
}
