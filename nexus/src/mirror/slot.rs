//! An I/O of the host while the mirror has it, and the places where these are kept.
//!
//! A slot's place names it in the range table and on the lists. Its generation changes with each
//! tenant, so a completion that a child gives twice names nothing.

use bdev::{Io, Operation, Status, Token};
use reactor::Nanos;
use reactor::dma::DmaBuffer;
use reactor::slab::SlotId;

use crate::child::ChildSet;

const CACHE_LINE_BYTES: usize = 64;

/// Where an I/O is. Each has one next stage, but for what fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is none.
    Vacant,
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

/// See the module. On lines of its own, and in this order: where each I/O moves blocks through the
/// first-level cache, a write finds its slot in the second, twice, and each line counts.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) io: Io,
    /// When it last was sent to a child.
    pub(super) sent_at: Nanos,
    /// Of the tenant, or of the next one when vacant.
    generation: u32,
    /// When vacant: the vacant one after it.
    next_vacant: u32,
    /// Words of the stripe lock that it has, of those that it needs.
    pub(super) words: u32,
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
    pub(super) has_stripes: bool,
    /// It is in line for a stripe, and so must take it, or nobody could.
    pub(super) has_asked: bool,
    /// The halves of a compare-and-write, where they came in several segments. Taken out before the
    /// slot is left.
    pub(super) buffer: Option<DmaBuffer>,
}

const _: () = {
    let is_hot_in_two_lines = std::mem::offset_of!(Slot, buffer) <= 2 * CACHE_LINE_BYTES;
    assert!(is_hot_in_two_lines, "but for the buffer of the rare compare-and-write");
};

impl Slot {
    fn vacant(next_vacant: u32) -> Slot {
        Slot {
            io: Io::flush(Token(0)),
            sent_at: Nanos(0),
            generation: 1,
            next_vacant,
            words: 0,
            stage: Stage::Vacant,
            work: Work::Everywhere,
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
            has_stripes: false,
            has_asked: false,
            buffer: None,
        }
    }

    /// Made new in its place: a slot is some 150 bytes, most of which are zeroes at first.
    #[inline]
    fn renew(&mut self, io: &Io, work: Work) {
        self.io = *io;
        self.words = 0;
        self.stage = Stage::New;
        self.work = work;
        self.pending = ChildSet::EMPTY;
        self.unsent = ChildSet::EMPTY;
        self.done = ChildSet::EMPTY;
        self.refused = ChildSet::EMPTY;
        self.failed = ChildSet::EMPTY;
        self.tried_again = ChildSet::EMPTY;
        self.tried_twice = ChildSet::EMPTY;
        self.status = Status::SUCCESS;
        self.zeroes = false;
        self.has_begun = false;
        self.is_aborted = false;
        self.is_listed = false;
        self.has_stripes = false;
        self.has_asked = false;
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

    /// True where the children are sent something else than what the host sent.
    #[inline]
    pub(super) fn is_swap(&self) -> bool {
        self.io.operation == Operation::CompareAndWrite
    }
}

/// The slots of a queue pair. Never grows. The one left last is taken first, so that those in use
/// stay few and warm.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    /// The first vacant one; as many as there are slots when there is none.
    vacant: u32,
}

impl Slots {
    /// `count` of them, all vacant.
    pub(super) fn new(count: u32) -> Slots {
        Slots { slots: (0..count).map(|index| Slot::vacant(index + 1)).collect(), vacant: 0 }
    }

    /// The place that the next I/O is put into.
    #[inline]
    pub(super) fn next(&self) -> u32 {
        self.vacant
    }

    /// Takes a vacant slot. Returns its place.
    ///
    /// # Panics
    ///
    /// When there is none: the caller has no credit.
    #[inline]
    pub(super) fn insert(&mut self, io: &Io, work: Work) -> u32 {
        let index = self.vacant;
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.stage == Stage::Vacant);
        self.vacant = slot.next_vacant;
        slot.renew(io, work);
        index
    }

    /// The I/O in a slot that is known to be taken.
    #[inline]
    pub(super) fn at(&mut self, index: u32) -> &mut Slot {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.stage != Stage::Vacant, "slot {index} is vacant");
        slot
    }

    /// The same, with the token that names it at the children.
    #[inline]
    pub(super) fn named(&mut self, index: u32) -> (Token, &mut Slot) {
        let slot = self.at(index);
        (Token(SlotId { index, generation: slot.generation }.to_token()), slot)
    }

    /// The place and the I/O that a token names.
    ///
    /// # Panics
    ///
    /// When it names none: a child has completed an I/O that it was not given, or twice.
    #[inline]
    pub(super) fn by_token(&mut self, token: Token) -> (u32, &mut Slot) {
        let SlotId { index, generation } = SlotId::from_token(token.0);
        let slot = &mut self.slots[index as usize];
        assert!(slot.generation == generation, "a slot outlives its tokens");
        (index, slot)
    }

    /// True while the I/O that a token names is in its slot.
    pub(super) fn is_named(&self, token: Token) -> bool {
        let SlotId { index, generation } = SlotId::from_token(token.0);
        let slot = &self.slots[index as usize];
        slot.generation == generation && slot.stage != Stage::Vacant
    }

    /// Leaves a slot.
    #[inline]
    pub(super) fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.buffer.is_none() && slot.is_back() && slot.stage != Stage::Vacant);
        slot.stage = Stage::Vacant;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_vacant = self.vacant;
        self.vacant = index;
    }

    /// True when there is an I/O in a slot.
    pub(super) fn is_taken(&self, index: u32) -> bool {
        self.slots[index as usize].stage != Stage::Vacant
    }

    /// Each that is taken, in order of their places.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.stage != Stage::Vacant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_left_last_is_taken_first_and_its_old_token_names_nothing() {
        let mut slots = Slots::new(2);
        let io = Io::flush(Token(7));
        let first = slots.insert(&io, Work::Everywhere);
        let (token, slot) = slots.named(first);
        slot.done = ChildSet::EMPTY.with(crate::child::ChildIndex::new(3).unwrap());
        assert_eq!(slots.by_token(token).0, first);
        slots.remove(first);
        assert!(!slots.is_taken(first) && slots.iter_mut().count() == 0);
        assert_eq!(slots.insert(&io, Work::Anywhere), first);
        let (new_token, slot) = slots.named(first);
        assert!(new_token != token && slot.done.is_empty() && slot.stage == Stage::New);
    }

    #[test]
    #[should_panic(expected = "outlives its tokens")]
    fn a_token_that_comes_twice_is_a_bug_of_the_child() {
        let mut slots = Slots::new(1);
        let index = slots.insert(&Io::flush(Token(0)), Work::Everywhere);
        let (token, _) = slots.named(index);
        slots.remove(index);
        slots.by_token(token);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn one_more_than_there_are_slots_is_refused_before_it_comes_here() {
        let mut slots = Slots::new(2);
        let io = Io::flush(Token(0));
        for _ in 0..3 {
            slots.insert(&io, Work::Everywhere);
        }
    }
}
