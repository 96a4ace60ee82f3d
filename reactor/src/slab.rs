//! A slab of fixed capacity whose identifiers carry a generation.
//!
//! Owns the state of what is in flight: requests, tasks, timers. Called by its owner, on that
//! owner's thread. A slot's generation changes each time its value is removed, so an identifier
//! that arrives late or twice (a completion after an abort, say) names nothing, rather than the
//! slot's next tenant. The slab never grows: full means `Busy` upward.
//!
//! The free list is last in, first out, so that the slots in use stay few and warm in the cache.

use thiserror::Error;

/// The most slots that a slab may be made for.
pub const CAPACITY_SLOTS_MAX: u32 = 1 << 20;

/// The generation of a slot's first tenant. Zero is never a generation, so that a token of zeroed
/// memory names nothing.
const GENERATION_FIRST: u32 = 1;

/// Ends the free list.
const NO_SLOT: u32 = u32::MAX;

/// Names one tenancy of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// Which slot, below the slab's capacity.
    pub index: u32,
    /// Which tenant of it. Repeats after 2^32 - 1 tenants of one slot.
    pub generation: u32,
}

impl SlotId {
    /// Packs the identifier into the token that travels with an I/O: generation above index.
    #[inline]
    pub const fn to_token(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// Unpacks a token. Any value is accepted; the slab finds out whether it names anything.
    #[inline]
    pub const fn from_token(token: u64) -> Self {
        Self { index: token as u32, generation: (token >> 32) as u32 }
    }
}

/// Every slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("every slot of the slab is taken")]
pub struct Full;

#[derive(Debug)]
enum Content<T> {
    Vacant { next_free: u32 },
    Occupied(T),
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the tenant, or of the next one when vacant.
    generation: u32,
    content: Content<T>,
}

/// Values in numbered slots.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Box<[Slot<T>]>,
    free_head: u32,
    len: u32,
}

impl<T> Slab<T> {
    /// Makes a slab of `capacity_slots` slots. All memory is allocated here.
    ///
    /// # Panics
    ///
    /// When the capacity is above `CAPACITY_SLOTS_MAX`.
    pub fn with_capacity(capacity_slots: u32) -> Self {
        assert!(
            capacity_slots <= CAPACITY_SLOTS_MAX,
            "capacity {capacity_slots} is above {CAPACITY_SLOTS_MAX}"
        );
        let slots = (0..capacity_slots)
            .map(|index| {
                let next_free = if index + 1 == capacity_slots { NO_SLOT } else { index + 1 };
                Slot { generation: GENERATION_FIRST, content: Content::Vacant { next_free } }
            })
            .collect();
        Self { slots, free_head: if capacity_slots == 0 { NO_SLOT } else { 0 }, len: 0 }
    }

    /// Puts a value into a free slot.
    ///
    /// # Errors
    ///
    /// `Full` when there is none; the value is dropped. Ask `is_full` first to keep it.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<SlotId, Full> {
        self.insert_with(|_| value)
    }

    /// Puts a value that knows its own identifier into a free slot.
    ///
    /// # Errors
    ///
    /// `Full` when there is none; `make` is not called.
    #[inline]
    pub fn insert_with(&mut self, make: impl FnOnce(SlotId) -> T) -> Result<SlotId, Full> {
        let index = self.free_head;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Err(Full);
        };
        let Content::Vacant { next_free } = slot.content else {
            unreachable!("slot {index} is on the free list and occupied");
        };
        let id = SlotId { index, generation: slot.generation };
        slot.content = Content::Occupied(make(id));
        self.free_head = next_free;
        self.len += 1;
        Ok(id)
    }

    /// The value that `id` names, if it is still there.
    #[inline]
    pub fn get(&self, id: SlotId) -> Option<&T> {
        match self.slots.get(id.index as usize) {
            Some(Slot { generation, content: Content::Occupied(value) })
                if *generation == id.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// The value that `id` names, if it is still there, to change.
    #[inline]
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        match self.slots.get_mut(id.index as usize) {
            Some(Slot { generation, content: Content::Occupied(value) })
                if *generation == id.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// Takes the value that `id` names out and frees its slot. `None` for an identifier that is
    /// late, a repeat, or foreign.
    #[inline]
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation || matches!(slot.content, Content::Vacant { .. }) {
            return None;
        }
        let vacant = Content::Vacant { next_free: self.free_head };
        let Content::Occupied(value) = std::mem::replace(&mut slot.content, vacant) else {
            unreachable!("slot {} was seen occupied", id.index);
        };
        slot.generation = slot.generation.checked_add(1).unwrap_or(GENERATION_FIRST);
        self.free_head = id.index;
        self.len -= 1;
        Some(value)
    }

    /// The identifier of the present tenant of a slot, if it has one.
    #[inline]
    pub fn id_at(&self, index: u32) -> Option<SlotId> {
        match self.slots.get(index as usize) {
            Some(Slot { generation, content: Content::Occupied(_) }) => {
                Some(SlotId { index, generation: *generation })
            }
            _ => None,
        }
    }

    /// The present tenant of a slot, if it has one, to change, with its identifier.
    #[inline]
    pub fn tenant_mut(&mut self, index: u32) -> Option<(SlotId, &mut T)> {
        match self.slots.get_mut(index as usize) {
            Some(Slot { generation, content: Content::Occupied(value) }) => {
                Some((SlotId { index, generation: *generation }, value))
            }
            _ => None,
        }
    }

    /// How many slots are taken.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no slot is taken.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every slot is taken.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.free_head == NO_SLOT
    }

    /// How many slots there are.
    #[inline]
    pub fn capacity_slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("bounded by CAPACITY_SLOTS_MAX")
    }

    /// Every value with its identifier, by index. Visits all slots, taken or not.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &T)> {
        (0_u32..).zip(self.slots.iter()).filter_map(|(index, slot)| match &slot.content {
            Content::Occupied(value) => {
                Some((SlotId { index, generation: slot.generation }, value))
            }
            Content::Vacant { .. } => None,
        })
    }

    /// Every value with its identifier, by index, to change. Visits all slots, taken or not.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotId, &mut T)> {
        (0_u32..).zip(self.slots.iter_mut()).filter_map(|(index, slot)| match &mut slot.content {
            Content::Occupied(value) => {
                Some((SlotId { index, generation: slot.generation }, value))
            }
            Content::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_slab_takes_its_capacity_and_refuses_one_more() {
        let mut slab = Slab::with_capacity(3);
        let ids: Vec<_> = (0..3).map(|value| slab.insert(value).unwrap()).collect();
        assert!(slab.is_full());
        assert_eq!(slab.insert(3), Err(Full));
        assert_eq!(slab.remove(ids[1]), Some(1));
        assert!(!slab.is_full());
        assert!(slab.insert(4).is_ok());
        assert_eq!(slab.len(), slab.capacity_slots());
    }

    #[test]
    fn the_last_slot_freed_is_the_first_taken() {
        let mut slab = Slab::with_capacity(4);
        let ids: Vec<_> = (0..4).map(|value| slab.insert(value).unwrap()).collect();
        slab.remove(ids[0]);
        slab.remove(ids[2]);
        assert_eq!(slab.insert(9).unwrap().index, 2);
        assert_eq!(slab.insert(9).unwrap().index, 0);
    }

    #[test]
    fn a_late_identifier_does_not_reach_the_next_tenant() {
        let mut slab = Slab::with_capacity(1);
        let first = slab.insert("first").unwrap();
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None, "a double remove is caught");
        assert_eq!(slab.tenant_mut(0), None);
        let second = slab.insert("second").unwrap();
        assert_eq!(slab.tenant_mut(0), Some((second, &mut "second")));
        assert_eq!(slab.tenant_mut(1), None);
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
    }

    #[test]
    fn foreign_and_zeroed_tokens_name_nothing() {
        let mut slab = Slab::with_capacity(2);
        slab.insert(()).unwrap();
        assert_eq!(slab.get(SlotId::from_token(0)), None);
        assert_eq!(slab.get(SlotId::from_token(u64::MAX)), None);
        assert_eq!(slab.get(SlotId { index: 2, generation: 1 }), None);
        assert_eq!(slab.remove(SlotId { index: 1, generation: 1 }), None, "that slot is vacant");
    }

    #[test]
    fn a_generation_wraps_past_zero() {
        let mut slab = Slab::with_capacity(1);
        slab.slots[0].generation = u32::MAX;
        let last = slab.insert(1).unwrap();
        slab.remove(last);
        assert_eq!(slab.insert(2).unwrap().generation, GENERATION_FIRST);
    }

    #[test]
    fn a_value_can_be_made_from_its_own_identifier() {
        let mut slab = Slab::with_capacity(1);
        let id = slab.insert_with(SlotId::to_token).unwrap();
        assert_eq!(slab.get(id), Some(&id.to_token()));
        assert_eq!(slab.id_at(0), Some(id));
        assert_eq!(slab.insert_with(|_| unreachable!("not called when full")), Err(Full));
        slab.remove(id);
        assert_eq!(slab.id_at(0), None);
        assert_eq!(slab.id_at(1), None);
    }

    #[test]
    fn the_largest_slab_can_be_made() {
        assert_eq!(Slab::<()>::with_capacity(CAPACITY_SLOTS_MAX).capacity_slots(), 1 << 20);
    }

    #[test]
    #[should_panic(expected = "is above")]
    fn a_slab_above_the_largest_is_refused() {
        Slab::<()>::with_capacity(CAPACITY_SLOTS_MAX + 1);
    }

    #[test]
    fn a_slab_of_none_is_always_full() {
        let mut slab = Slab::with_capacity(0);
        assert!(slab.is_full() && slab.is_empty());
        assert_eq!(slab.insert(1), Err(Full));
    }

    proptest! {
        #[test]
        fn tokens_round_trip(token: u64) {
            prop_assert_eq!(SlotId::from_token(token).to_token(), token);
        }

        #[test]
        fn any_sequence_of_steps_agrees_with_a_map(
            capacity in 0_u32..8,
            steps in proptest::collection::vec((0_u8..4, any::<proptest::sample::Index>()), 0..200),
        ) {
            let mut slab = Slab::with_capacity(capacity);
            let mut model = HashMap::new();
            // Every identifier ever given, live or not.
            let mut given: Vec<SlotId> = Vec::new();
            for (value, (step, pick)) in steps.into_iter().enumerate() {
                if step < 2 || given.is_empty() {
                    match slab.insert(value) {
                        Ok(id) => {
                            prop_assert!(!given.contains(&id), "an identifier was given twice");
                            given.push(id);
                            model.insert(id, value);
                        }
                        Err(Full) => prop_assert_eq!(model.len(), capacity as usize),
                    }
                } else {
                    let id = given[pick.index(given.len())];
                    if step == 2 {
                        prop_assert_eq!(slab.remove(id), model.remove(&id));
                    } else {
                        if let Some(stored) = slab.get_mut(id) {
                            *stored += 1000;
                        }
                        model.entry(id).and_modify(|stored| *stored += 1000);
                    }
                }
                prop_assert_eq!(slab.len() as usize, model.len());
                prop_assert_eq!(slab.is_full(), model.len() == capacity as usize);
                for id in &given {
                    prop_assert_eq!(slab.get(*id), model.get(id));
                }
                let listed: HashMap<_, _> = slab.iter().map(|(id, value)| (id, *value)).collect();
                prop_assert_eq!(&listed, &model);
            }
        }
    }
}
