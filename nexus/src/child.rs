//! What a child of a nexus is called, and how it is.
//!
//! The states and reasons are those that the control plane knows (CONTRACT 1.11), so that what an
//! operator sees keeps its names. Kept by the home core; copies travel in the view.

use std::fmt;

/// Most children of a nexus.
pub const CHILDREN_MAX: usize = 16;

/// A place among the children of a nexus, below [`CHILDREN_MAX`]. Kept for the life of the child;
/// given to another one only after every core has closed its queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildIndex(u8);

impl ChildIndex {
    /// The place `index`; nothing when there is no such place.
    pub const fn new(index: usize) -> Option<ChildIndex> {
        if index < CHILDREN_MAX { Some(ChildIndex(index as u8)) } else { None }
    }

    /// As an index of an array of [`CHILDREN_MAX`].
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// All places in order.
    pub fn all() -> impl Iterator<Item = ChildIndex> {
        (0..CHILDREN_MAX as u8).map(ChildIndex)
    }
}

impl fmt::Display for ChildIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A set of children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChildSet(u16);

const _: () = assert!(u16::BITS as usize == CHILDREN_MAX);

impl ChildSet {
    /// No child.
    pub const EMPTY: ChildSet = ChildSet(0);

    /// This child alone.
    #[inline]
    pub const fn only(child: ChildIndex) -> ChildSet {
        ChildSet(1 << child.0)
    }

    /// True when `child` is in it.
    #[inline]
    pub const fn contains(self, child: ChildIndex) -> bool {
        self.0 & (1 << child.0) != 0
    }

    /// True when all of `other` is in it.
    #[inline]
    pub const fn contains_all(self, other: ChildSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// With `child`.
    #[inline]
    #[must_use]
    pub const fn with(self, child: ChildIndex) -> ChildSet {
        ChildSet(self.0 | (1 << child.0))
    }

    /// Without `child`.
    #[inline]
    #[must_use]
    pub const fn without(self, child: ChildIndex) -> ChildSet {
        ChildSet(self.0 & !(1 << child.0))
    }

    /// Those in either.
    #[inline]
    #[must_use]
    pub const fn union(self, other: ChildSet) -> ChildSet {
        ChildSet(self.0 | other.0)
    }

    /// Those in both.
    #[inline]
    #[must_use]
    pub const fn intersection(self, other: ChildSet) -> ChildSet {
        ChildSet(self.0 & other.0)
    }

    /// Those that are not in `other`.
    #[inline]
    #[must_use]
    pub const fn minus(self, other: ChildSet) -> ChildSet {
        ChildSet(self.0 & !other.0)
    }

    /// How many.
    #[inline]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// True when there is none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first one.
    #[inline]
    pub const fn first(self) -> Option<ChildIndex> {
        if self.0 == 0 { None } else { Some(ChildIndex(self.0.trailing_zeros() as u8)) }
    }

    /// Each, in order.
    #[inline]
    pub fn iter(self) -> Children {
        Children(self)
    }
}

impl IntoIterator for ChildSet {
    type Item = ChildIndex;
    type IntoIter = Children;

    #[inline]
    fn into_iter(self) -> Children {
        self.iter()
    }
}

impl FromIterator<ChildIndex> for ChildSet {
    fn from_iter<I: IntoIterator<Item = ChildIndex>>(children: I) -> ChildSet {
        children.into_iter().fold(ChildSet::EMPTY, ChildSet::with)
    }
}

/// The children of a set, in order.
#[derive(Clone, Debug)]
pub struct Children(ChildSet);

impl Iterator for Children {
    type Item = ChildIndex;

    #[inline]
    fn next(&mut self) -> Option<ChildIndex> {
        let child = self.0.first()?;
        self.0.0 &= self.0.0 - 1;
        Some(child)
    }
}

/// Why a child is faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultReason {
    /// Nobody knows.
    Unknown,
    /// It lacks writes that the others have, or may lack them.
    OutOfSync,
    /// It could not be opened.
    CantOpen,
    /// Its rebuild failed.
    RebuildFailed,
    /// It did not take a write, or failed too often.
    IoError,
    /// It did not answer in time.
    TimedOut,
    /// The control plane said so.
    Rpc,
}

impl fmt::Display for FaultReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FaultReason::Unknown => "unknown",
            FaultReason::OutOfSync => "out of sync",
            FaultReason::CantOpen => "cannot be opened",
            FaultReason::RebuildFailed => "rebuild failed",
            FaultReason::IoError => "I/O error",
            FaultReason::TimedOut => "timed out",
            FaultReason::Rpc => "faulted by request",
        })
    }
}

/// How a child is, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildState {
    /// Not opened yet.
    Init,
    /// Its configuration cannot be: too small, another block size.
    ConfigInvalid,
    /// A member: in sync, read and written.
    Open,
    /// Written, not read: it is being rebuilt.
    Rebuilding,
    /// On its way out of the nexus.
    Destroying,
    /// Taken offline by an operator.
    Closed,
    /// Out, and why.
    Faulted(FaultReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(index: usize) -> ChildIndex {
        ChildIndex::new(index).unwrap()
    }

    #[test]
    fn there_are_sixteen_places_and_no_more() {
        assert_eq!(ChildIndex::all().count(), CHILDREN_MAX);
        assert!(ChildIndex::new(CHILDREN_MAX - 1).is_some());
        assert_eq!(ChildIndex::new(CHILDREN_MAX), None);
    }

    #[test]
    fn a_set_keeps_what_was_put_into_it_in_order() {
        let set: ChildSet = [15, 0, 7].into_iter().map(child).collect();
        assert_eq!(set.iter().map(ChildIndex::get).collect::<Vec<_>>(), [0, 7, 15]);
        assert_eq!(set.len(), 3);
        assert!(set.contains(child(7)) && !set.without(child(7)).contains(child(7)));
        assert_eq!(set.minus(ChildSet::only(child(0))).first(), Some(child(7)));
        assert!(set.contains_all(set.intersection(ChildSet::only(child(15)))));
    }

    #[test]
    fn all_places_fit_one_set() {
        let all: ChildSet = ChildIndex::all().collect();
        assert_eq!(all.len() as usize, CHILDREN_MAX);
        assert!(ChildSet::EMPTY.is_empty() && !all.is_empty());
    }
}
