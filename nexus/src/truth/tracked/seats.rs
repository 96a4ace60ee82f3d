//! Which child of the nexus has which place among the replicas that labels speak of.
//!
//! A nexus gives places to children as they are configured; the owner of the labels has places for
//! replicas, those included that no child of the nexus is. Kept by [`super::Tracked`].

use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats([Option<ChildIndex>; CHILDREN_MAX]);

impl Seats {
    /// Gives a child the place of its replica.
    pub fn take(&mut self, child: ChildIndex, place: ChildIndex) {
        self.0[child.get()] = Some(place);
    }

    /// The child has none any more.
    pub fn leave(&mut self, child: ChildIndex) {
        self.0[child.get()] = None;
    }

    /// Where a child sits.
    pub fn place(&self, child: ChildIndex) -> Option<ChildIndex> {
        self.0[child.get()]
    }

    /// Who sits at a place.
    pub fn child(&self, place: ChildIndex) -> Option<ChildIndex> {
        ChildIndex::all().find(|child| self.place(*child) == Some(place))
    }

    /// The places of children, of those that have one.
    pub fn places(&self, children: ChildSet) -> ChildSet {
        children.iter().filter_map(|child| self.place(child)).collect()
    }

    /// The children at places, of those that are taken.
    pub fn children(&self, places: ChildSet) -> ChildSet {
        places.iter().filter_map(|place| self.child(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_places_are_found_from_either_side() {
        let child = |index| ChildIndex::new(index).unwrap();
        let mut seats = Seats::default();
        seats.take(child(0), child(2));
        seats.take(child(1), child(0));
        let both = ChildSet::only(child(0)).with(child(1));
        assert_eq!(seats.children(seats.places(both)), both);
        assert_eq!((seats.child(child(2)), seats.child(child(1))), (Some(child(0)), None));
        seats.leave(child(0));
        assert_eq!(seats.places(both), ChildSet::only(child(0)));
    }
}
