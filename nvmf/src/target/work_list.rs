//! Connections that have something to do in the next turn of a phase.
//!
//! Two lists that change places: what is listed while a turn runs belongs to the next one. Both
//! have room for every connection of the core from the start, so listing never allocates.

use reactor::slab::SlotId;

/// The connections of one phase.
#[derive(Debug)]
pub(super) struct WorkList {
    next: Vec<SlotId>,
    turn: Vec<SlotId>,
}

impl WorkList {
    /// An empty list with room for `capacity` connections.
    pub fn with_capacity(capacity: usize) -> WorkList {
        WorkList { next: Vec::with_capacity(capacity), turn: Vec::with_capacity(capacity) }
    }

    /// Lists a connection for the next turn. The caller lists it once only.
    pub fn push(&mut self, id: SlotId) {
        self.next.push(id);
    }

    /// Starts a turn with what is listed; returns how many there are.
    pub fn begin_turn(&mut self) -> usize {
        self.turn.clear();
        std::mem::swap(&mut self.next, &mut self.turn);
        self.turn.len()
    }

    /// A connection of this turn.
    pub fn at(&self, index: usize) -> SlotId {
        self.turn[index]
    }

    /// True when nothing is listed for the next turn.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_during_a_turn_belongs_to_the_next() {
        let id = |index| SlotId { index, generation: 1 };
        let mut list = WorkList::with_capacity(2);
        list.push(id(1));
        assert_eq!(list.begin_turn(), 1);
        assert_eq!(list.at(0), id(1));
        list.push(id(2));
        assert!(!list.is_empty());
        assert_eq!(list.begin_turn(), 1);
        assert_eq!(list.at(0), id(2));
        assert_eq!(list.begin_turn(), 0);
    }
}
