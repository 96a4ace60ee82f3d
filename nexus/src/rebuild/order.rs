//! What is to be copied: the regions under way, each cut into pieces.

use crate::child::{ChildIndex, FaultReason};
use crate::truth::CopyOrder;

/// Why an order is not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A receiver did not take its part.
    Receiver(ChildIndex, FaultReason),
    /// A receiver is in use no more: it was lost, or its rebuild was given up.
    Gone(ChildIndex),
    /// No member could be read.
    Unreadable,
    /// The volume has ended.
    Ended,
}

/// An order under way.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) order: CopyOrder,
    /// First block that no piece has yet.
    pub(super) next: u64,
    /// Block behind the region's last.
    pub(super) end: u64,
    /// Pieces in flight.
    pub(super) pieces: u32,
    /// Blocks of the pieces that have ended.
    pub(super) done_blocks: u64,
    /// Why it is not gone on with, if so: the first reason that there was.
    pub(super) obstacle: Option<Obstacle>,
}

impl Open {
    /// An order for the blocks from `start` to `end`.
    pub(super) fn new(order: CopyOrder, start: u64, end: u64) -> Open {
        Open { order, next: start, end, pieces: 0, done_blocks: 0, obstacle: None }
    }

    /// It is not gone on with; false when that was so already.
    pub(super) fn give_up(&mut self, obstacle: Obstacle) -> bool {
        let is_first = self.obstacle.is_none();
        self.obstacle.get_or_insert(obstacle);
        is_first
    }

    /// True when no piece will be cut from it any more.
    pub(super) fn is_cut(&self) -> bool {
        self.obstacle.is_some() || self.next >= self.end
    }

    /// True when nothing of it is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_cut() && self.pieces == 0
    }

    /// Cuts the next piece, of at most `blocks_max` blocks: its first block and its length.
    pub(super) fn cut(&mut self, blocks_max: u64) -> (u64, u32) {
        assert!(!self.is_cut(), "there is something to cut");
        let start = self.next;
        // Pieces end where one of the longest length would, so that a short one does not make all
        // that follow cross stripes.
        let blocks = (blocks_max - start % blocks_max).min(self.end - start);
        self.next += blocks;
        self.pieces += 1;
        (start, u32::try_from(blocks).expect("a piece fits a buffer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::ChildSet;
    use crate::intent::RegionIndex;

    #[test]
    fn the_pieces_of_a_region_are_aligned_and_cover_it() {
        let child = ChildIndex::new(0).expect("there is a first place");
        let order = CopyOrder { region: RegionIndex(0), source: child, to: ChildSet::only(child) };
        let mut open = Open::new(order, 0, 1000);
        assert_eq!(open.cut(128), (0, 128));
        assert_eq!(open.cut(256), (128, 128));
        assert_eq!(open.cut(256), (256, 256));
        assert_eq!(open.cut(256), (512, 256));
        assert_eq!(open.cut(256), (768, 232));
        assert!(open.is_cut() && !open.is_over());
        open.pieces = 0;
        assert!(open.is_over());
    }
}
