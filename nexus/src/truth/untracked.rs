//! No labels: what the home core decides is in force at once, and forgotten with the process.
//!
//! For volumes that live no longer than the process, and for tests. A target is copied as a whole;
//! which regions it still lacks is kept in memory. Owned by [`crate::Home`], on the home core.

use std::collections::{BTreeSet, VecDeque};

use bdev::{Completion, Geometry};
use reactor::{Cx, Wake};

use super::region_map::RegionMap;
use super::{ControlIo, CopyOrder, Discard, MemberChange, NotRebuilt, Truth, TruthEvent};
use crate::child::{ChildIndex, ChildSet};
use crate::intent::{REGION_BYTES, RegionIndex};

/// A target and what it lacks.
#[derive(Debug)]
struct Lacking {
    child: ChildIndex,
    /// Neither copied nor ordered.
    todo: RegionMap,
    ordered: BTreeSet<RegionIndex>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Untracked {
    regions: u64,
    members: ChildSet,
    target: Option<Lacking>,
    /// Of the members, by number: whom copies come from, until that one fails.
    source: u32,
    /// Copies of targets that were given up meanwhile: not answered yet.
    stale: BTreeSet<(ChildIndex, RegionIndex)>,
    events: VecDeque<TruthEvent>,
    is_deciding: bool,
}

impl Untracked {
    fn say(&mut self, event: TruthEvent) {
        self.events.push_back(event);
    }

    fn source(&self) -> Option<ChildIndex> {
        let number = self.source.checked_rem(self.members.len())?;
        self.members.iter().nth(number as usize)
    }

    /// Takes an order back; true when it was one of the present target.
    fn take_back(&mut self, order: CopyOrder) -> bool {
        let ordered = |target: &mut Lacking| {
            order.to == ChildSet::only(target.child) && target.ordered.remove(&order.region)
        };
        let is_known = self.target.as_mut().is_some_and(ordered);
        if !is_known && let Some(child) = order.to.first() {
            self.stale.remove(&(child, order.region));
        }
        is_known
    }

    fn forget_target(&mut self) {
        if let Some(Lacking { child, ordered, .. }) = self.target.take() {
            self.stale.extend(ordered.into_iter().map(|region| (child, region)));
        }
    }
}

impl Truth for Untracked {
    fn attach(&mut self, volume: Geometry, members: ChildSet) {
        self.regions = volume.len_bytes().div_ceil(REGION_BYTES);
        self.members = members;
        if let Some(target) = &mut self.target {
            let known = target.todo.regions();
            target.todo = target.todo.resized(self.regions.max(known));
            (known..self.regions).for_each(|region| {
                target.todo.insert(RegionIndex(region));
            });
        }
    }

    fn begin_change(&mut self, _cx: &mut Cx, change: MemberChange) {
        assert!(!self.is_deciding, "one change at a time");
        self.is_deciding = true;
        self.members = change.after;
        if self.target.as_ref().is_some_and(|target| change.after.contains(target.child)) {
            self.forget_target();
        }
        self.say(TruthEvent::InForce);
    }

    fn marks_regions(&self) -> bool {
        false
    }

    fn begin_mark(&mut self, _cx: &mut Cx, _region: RegionIndex) {
        unreachable!("nobody marks what is not tracked");
    }

    fn begin_clear(&mut self, _cx: &mut Cx, _region: RegionIndex) {
        unreachable!("nobody clears what is not tracked");
    }

    fn begin_target(
        &mut self,
        _cx: &mut Cx,
        child: ChildIndex,
        _discard: Discard,
    ) -> Result<(), NotRebuilt> {
        if self.members.contains(child) {
            return Err(NotRebuilt::Member);
        }
        if self.target.is_some() || self.is_deciding {
            return Err(NotRebuilt::Busy);
        }
        let todo = RegionMap::full(self.regions);
        self.target = Some(Lacking { child, todo, ordered: BTreeSet::new() });
        self.say(TruthEvent::TargetReady(child));
        Ok(())
    }

    fn target_lost(&mut self, _cx: &mut Cx, child: ChildIndex) {
        if self.target.as_ref().is_some_and(|target| target.child == child) {
            self.forget_target();
            self.events.retain(|event| *event != TruthEvent::TargetReady(child));
        }
    }

    fn next_copy(&mut self) -> Option<CopyOrder> {
        let source = self.source()?;
        let Lacking { child, todo, ordered } = self.target.as_mut()?;
        let is_free = |region: &RegionIndex| !self.stale.contains(&(*child, *region));
        let region = todo.iter().find(is_free)?;
        todo.remove(region);
        ordered.insert(region);
        Some(CopyOrder { region, source, to: ChildSet::only(*child) })
    }

    fn copied(&mut self, _cx: &mut Cx, order: CopyOrder) {
        self.take_back(order);
    }

    fn copy_failed(&mut self, _cx: &mut Cx, order: CopyOrder, child: ChildIndex) {
        if self.take_back(order) {
            let target = self.target.as_mut().expect("it has just taken an order back");
            target.todo.insert(order.region);
        }
        if child == order.source && self.source() == Some(child) {
            self.source = self.source.wrapping_add(1);
        }
    }

    fn copies_left(&self) -> u64 {
        let left = |target: &Lacking| target.todo.len() + target.ordered.len() as u64;
        self.target.as_ref().map_or(0, left)
    }

    fn is_complete(&self, child: ChildIndex) -> bool {
        let is_it = self.target.as_ref().is_some_and(|target| target.child == child);
        is_it && self.copies_left() == 0
    }

    fn begin_close(&mut self, _cx: &mut Cx) {
        self.say(TruthEvent::Closed);
    }

    fn completed(&mut self, _cx: &mut Cx, _child: ChildIndex, _completion: Completion) {
        unreachable!("nothing was submitted");
    }

    fn poll(&mut self, _cx: &mut Cx, _io: &mut dyn ControlIo) -> Option<TruthEvent> {
        let event = self.events.pop_front()?;
        if event == TruthEvent::InForce {
            self.is_deciding = false;
        }
        Some(event)
    }

    fn wake(&self) -> Wake {
        if self.events.is_empty() { Wake::Never } else { Wake::Now }
    }
}

#[cfg(test)]
mod tests {
    use bdev::{Busy, Io};

    use super::*;

    struct NoIo;

    impl ControlIo for NoIo {
        fn submit(&mut self, _: &mut Cx, _: ChildIndex, _: Io) -> Result<(), Busy> {
            Err(Busy)
        }

        fn abort(&mut self, _: &mut Cx, _: ChildIndex) {}
    }

    fn child(index: usize) -> ChildIndex {
        ChildIndex::new(index).unwrap()
    }

    fn volume(regions: u64) -> Geometry {
        Geometry { block_bytes: 512, blocks: regions * REGION_BYTES / 512 - 1 }
    }

    #[test]
    fn without_labels_a_change_is_in_force_at_the_next_poll_and_once() {
        let (mut cx, _) = reactor::cx::test_context();
        let mut truth = Untracked::default();
        assert_eq!(truth.poll(&mut cx, &mut NoIo), None);
        let one = ChildSet::only(child(1));
        let change = MemberChange { before: one, after: one, reason: None };
        truth.begin_change(&mut cx, change);
        assert_eq!(truth.wake(), Wake::Now);
        assert_eq!(truth.poll(&mut cx, &mut NoIo), Some(TruthEvent::InForce));
        assert_eq!(truth.poll(&mut cx, &mut NoIo), None);
        assert_eq!(truth.wake(), Wake::Never);
    }

    #[test]
    fn a_target_is_complete_when_each_region_was_copied_from_a_member() {
        let (mut cx, _) = reactor::cx::test_context();
        let mut truth = Untracked::default();
        truth.attach(volume(3), ChildSet::only(child(0)).with(child(2)));
        let no = Discard::No;
        assert_eq!(truth.begin_target(&mut cx, child(2), no), Err(NotRebuilt::Member));
        assert_eq!(truth.begin_target(&mut cx, child(1), no), Ok(()));
        assert_eq!(truth.begin_target(&mut cx, child(3), no), Err(NotRebuilt::Busy));
        assert_eq!(truth.poll(&mut cx, &mut NoIo), Some(TruthEvent::TargetReady(child(1))));
        let orders: Vec<_> = std::iter::from_fn(|| truth.next_copy()).collect();
        assert_eq!(orders.iter().map(|order| order.region.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(orders.iter().all(|order| order.source == child(0)));
        truth.copied(&mut cx, orders[0]);
        truth.copied(&mut cx, orders[2]);
        truth.copy_failed(&mut cx, orders[1], child(0));
        assert_eq!((truth.copies_left(), truth.is_complete(child(1))), (1, false));
        let again = truth.next_copy().unwrap();
        assert_eq!((again.region, again.source), (RegionIndex(1), child(2)), "another source");
        truth.copied(&mut cx, again);
        assert!(truth.is_complete(child(1)) && !truth.is_complete(child(2)));
    }

    #[test]
    fn a_copy_for_a_target_that_was_given_up_counts_nothing_for_the_next_attempt() {
        let (mut cx, _) = reactor::cx::test_context();
        let mut truth = Untracked::default();
        truth.attach(volume(1), ChildSet::only(child(0)));
        truth.begin_target(&mut cx, child(1), Discard::No).unwrap();
        let stale = truth.next_copy().unwrap();
        truth.target_lost(&mut cx, child(1));
        assert_eq!(truth.poll(&mut cx, &mut NoIo), None, "it is not ready any more");
        truth.begin_target(&mut cx, child(1), Discard::No).unwrap();
        assert_eq!(truth.next_copy(), None, "the old copy may still be on its way");
        truth.copied(&mut cx, stale);
        assert!(!truth.is_complete(child(1)));
        assert_eq!(truth.next_copy(), Some(stale));
    }
}
