//! A piece of a region while it is copied.

use reactor::Nanos;
use reactor::dma::DmaBuffer;

use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It lacks stripes: a host's write has some.
    Stripes,
    /// It may be read, once there is a buffer and a credit.
    Ready,
    /// At the source.
    Reading,
    /// At the receivers, or on the way to them.
    Writing,
}

/// What the receivers are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// What is in the buffer.
    Buffer,
    /// What is in the buffer, all of it zeroes.
    ZeroesInBuffer,
    /// Zeroes, and the buffer has none: the source said so.
    Zeroes,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Piece {
    /// Place of its order.
    pub(super) order: usize,
    pub(super) start: u64,
    pub(super) blocks: u32,
    pub(super) stage: Stage,
    /// Words of the stripe lock that it has.
    pub(super) words: u32,
    pub(super) buffer: Option<DmaBuffer>,
    /// Who is read, or was.
    pub(super) source: Option<ChildIndex>,
    /// Sources that failed in this round, and how many rounds there were.
    pub(super) failed_sources: ChildSet,
    pub(super) rounds: u32,
    pub(super) content: Content,
    /// Children that have a token of it.
    pub(super) pending: ChildSet,
    /// Receivers that it is still to be sent to.
    pub(super) unsent: ChildSet,
    /// How often each receiver was tried in vain.
    pub(super) tries: [u8; CHILDREN_MAX],
    /// When it was last sent to a child.
    pub(super) sent_at: Nanos,
    /// Bytes that were given to receivers, not left out as holes.
    pub(super) is_skipped: bool,
}

impl Piece {
    pub(super) fn new(order: usize, start: u64, blocks: u32) -> Piece {
        Piece {
            order,
            start,
            blocks,
            stage: Stage::Stripes,
            words: 0,
            buffer: None,
            source: None,
            failed_sources: ChildSet::EMPTY,
            rounds: 0,
            content: Content::Buffer,
            pending: ChildSet::EMPTY,
            unsent: ChildSet::EMPTY,
            tries: [0; CHILDREN_MAX],
            sent_at: Nanos(0),
            is_skipped: false,
        }
    }

    /// Nothing of it is at a child.
    pub(super) fn is_back(&self) -> bool {
        self.pending.is_empty()
    }
}
