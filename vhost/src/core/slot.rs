//! The requests of a ring that are under way, each in a slot of its own.
//!
//! Owned by a ring, on its core. All room is taken when the ring starts. A slot's generation is in
//! the tokens of its I/Os, so that one that came late or twice is caught.

use bdev::{Io, IoFlags, Token};

use crate::block::{BlockStatus, Plan, Request};

/// Names a slot of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotIndex(pub u16);

/// Names a ring of the core, for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingPlace(pub u16);

/// A request under way, or room for one.
#[derive(Debug)]
pub(super) struct Slot {
    pub request: Request,
    /// The head of its chain.
    pub head: u16,
    plan: Plan,
    /// The range that is at the device, of a plan of ranges.
    range: usize,
    flags: IoFlags,
    generation: u32,
    is_used: bool,
}

impl Slot {
    /// The I/O that is due.
    pub fn io(&self, ring: RingPlace, index: SlotIndex) -> Option<Io> {
        let token = to_token(ring, index, self.generation);
        self.request.io(self.plan, self.range, token, self.flags)
    }

    /// An I/O of it has ended: how the request ends, or nothing when there is more of it.
    pub fn advance(&mut self, status: BlockStatus) -> Option<BlockStatus> {
        if status == BlockStatus::Ok && self.plan == Plan::Ranges {
            self.range += 1;
            if self.range < self.request.ranges().len() {
                return None;
            }
        }
        Some(status)
    }
}

/// The slots of a ring.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<SlotIndex>,
}

impl Slots {
    /// As many slots as the ring has entries.
    pub fn new(count: u16) -> Slots {
        let slot = |_| Slot {
            request: Request::with_room(),
            head: 0,
            plan: Plan::Flush,
            range: 0,
            flags: IoFlags::NONE,
            generation: 0,
            is_used: false,
        };
        Slots {
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().map(SlotIndex).collect(),
        }
    }

    /// How many are free.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// True when no request is under way.
    pub fn are_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The slot that the next request will have, to be filled.
    pub fn next_free(&mut self) -> Option<&mut Slot> {
        let index = self.free.last()?;
        Some(&mut self.slots[usize::from(index.0)])
    }

    /// Takes the slot of [`Slots::next_free`] for a plan.
    pub fn take(&mut self, head: u16, plan: Plan, flags: IoFlags) -> SlotIndex {
        let index = self.free.pop().expect("the slot was just found free");
        let slot = &mut self.slots[usize::from(index.0)];
        assert!(!slot.is_used, "a free slot has no request");
        slot.is_used = true;
        (slot.head, slot.plan, slot.flags, slot.range) = (head, plan, flags, 0);
        index
    }

    /// A slot with a request.
    pub fn get(&mut self, index: SlotIndex) -> &mut Slot {
        let slot = &mut self.slots[usize::from(index.0)];
        assert!(slot.is_used, "a slot is looked at while it has a request");
        slot
    }

    /// The slot that a token names.
    pub fn of_token(&mut self, token: Token) -> (SlotIndex, &mut Slot) {
        let (_, index, generation) = from_token(token);
        let slot = self.get(index);
        assert_eq!(slot.generation, generation, "a token completes once");
        (index, slot)
    }

    /// The request of a slot has ended.
    pub fn free(&mut self, index: SlotIndex) {
        let slot = self.get(index);
        slot.is_used = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }
}

fn to_token(ring: RingPlace, slot: SlotIndex, generation: u32) -> Token {
    Token(u64::from(ring.0) << 48 | u64::from(slot.0) << 32 | u64::from(generation))
}

/// The ring, the slot and its generation in a token.
pub(super) fn from_token(token: Token) -> (RingPlace, SlotIndex, u32) {
    (RingPlace((token.0 >> 48) as u16), SlotIndex((token.0 >> 32) as u16), token.0 as u32)
}
