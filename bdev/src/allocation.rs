//! Which blocks of a device were written: asked of the device itself, without reading a block.
//!
//! A device that knows hands out a query by [`crate::BlockDevice::allocation`]. Front doors tell
//! their hosts of it, and who copies a device leaves out what it says was never written. What it
//! answers errs on one side only: a block that it leaves out reads as zeroes, one that it names may
//! do so too. Blocks that are written while it is asked may be in the answer or not.
//!
//! No answer takes long: each call looks at a part of what was asked for, and says how far it came.

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use crate::io::Lba;

/// Most extents of an answer: 128 KiB of descriptors of NVMe, which have 16 bytes.
pub const EXTENTS_MAX: usize = 8192;

/// A query that blocks looks at nothing more after this long. A call that hangs in the system is
/// not cut off by it.
pub const LOOK_TIME_MAX: Duration = Duration::from_millis(50);

/// How a query may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// On any thread: it looks at memory only, for some microseconds.
    AtOnce,
    /// On control threads only: it calls the system.
    Blocks,
}

/// Neighbouring blocks that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub lba: Lba,
    /// How many, at least 1.
    pub blocks: u64,
}

impl Extent {
    /// The block behind the last.
    pub fn end(&self) -> Lba {
        Lba(self.lba.0 + self.blocks)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Ascending, without neighbours: between two there is a block that reads as zeroes.
    pub extents: Vec<Extent>,
    /// Everything up to here was looked at: the end of the range, or less, and never its start.
    pub looked_to: Lba,
}

/// Why nothing could be found.
#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    /// The device is closed.
    #[error("the device is closed")]
    Closed,
    /// The system refused.
    #[error("cannot ask which blocks are written")]
    System(#[source] std::io::Error),
}

/// A device's answer to where it holds anything.
pub trait AllocationQuery: Debug + Send + Sync {
    /// How [`AllocationQuery::look`] may be called.
    fn pace(&self) -> Pace;

    /// Looks at a range, which lies inside the device, and is not empty, from its start on, for at
    /// most `extents_max` extents (at least 1, at most [`EXTENTS_MAX`]).
    ///
    /// # Errors
    ///
    /// Each by its name in [`AllocationError`].
    fn look(&self, range: Range<Lba>, extents_max: usize) -> Result<Allocation, AllocationError>;
}

/// Puts an answer together from what is found, in ascending order.
#[derive(Debug)]
pub(crate) struct Finder {
    range: Range<Lba>,
    extents_max: usize,
    extents: Vec<Extent>,
}

impl Finder {
    /// One for the arguments of [`AllocationQuery::look`].
    pub(crate) fn new(range: Range<Lba>, extents_max: usize) -> Finder {
        assert!(range.start < range.end, "a look is at something");
        assert!((1..=EXTENTS_MAX).contains(&extents_max), "an answer has room, and not too much");
        Finder { range, extents_max, extents: Vec::new() }
    }

    /// Adds what was found, as far as it is in the range; false when there is no room.
    #[must_use]
    pub(crate) fn add(&mut self, found: Range<Lba>) -> bool {
        let (start, end) = (found.start.max(self.range.start), found.end.min(self.range.end));
        if start >= end {
            return true;
        }
        if let Some(last) = self.extents.last_mut()
            && start <= last.end()
        {
            last.blocks = end.max(last.end()).0 - last.lba.0;
            return true;
        }
        if self.extents.len() >= self.extents_max {
            return false;
        }
        self.extents.push(Extent { lba: start, blocks: end.0 - start.0 });
        true
    }

    /// The answer once everything up to `looked_to` was added.
    pub(crate) fn done(self, looked_to: Lba) -> Allocation {
        let looked_to = looked_to.min(self.range.end);
        assert!(looked_to > self.range.start, "a look comes at least one block further");
        Allocation { extents: self.extents, looked_to }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// What a query says of a whole device when it is asked until it has said all, as ranges.
    pub(crate) fn look_through(
        query: &dyn AllocationQuery,
        blocks: u64,
        extents_max: usize,
    ) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut from = Lba(0);
        while from < Lba(blocks) {
            let part = query.look(from..Lba(blocks), extents_max).unwrap();
            assert!(part.looked_to > from && part.extents.len() <= extents_max);
            for extent in part.extents {
                assert!(extent.lba >= from && extent.end() <= part.looked_to);
                match found.last_mut() {
                    Some(last) if last.end == extent.lba.0 => last.end = extent.end().0,
                    _ => found.push(extent.lba.0..extent.end().0),
                }
            }
            from = part.looked_to;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(range: Range<u64>) -> Range<Lba> {
        Lba(range.start)..Lba(range.end)
    }

    #[test]
    fn neighbours_are_one_extent_and_nothing_leaves_the_range() {
        let mut finder = Finder::new(blocks(10..20), 2);
        for found in [0..5, 8..11, 11..12, 11..13, 15..15, 18..30] {
            assert!(finder.add(blocks(found)));
        }
        let extent = |lba, blocks| Extent { lba: Lba(lba), blocks };
        let expected =
            Allocation { extents: vec![extent(10, 3), extent(18, 2)], looked_to: Lba(20) };
        assert_eq!(finder.done(Lba(30)), expected);
    }

    #[test]
    fn as_many_extents_as_there_is_room_for_are_taken_and_one_more_is_not() {
        let mut finder = Finder::new(blocks(0..100), EXTENTS_MAX.min(3));
        for start in [0, 10, 20] {
            assert!(finder.add(blocks(start..start + 1)));
        }
        assert!(finder.add(blocks(21..22)), "a neighbour needs no room");
        assert!(!finder.add(blocks(30..31)));
    }

    #[test]
    #[should_panic(expected = "has room")]
    fn more_extents_than_an_answer_can_have_are_not_asked_for() {
        let _ = Finder::new(blocks(0..1), EXTENTS_MAX + 1);
    }
}
