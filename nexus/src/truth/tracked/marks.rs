//! Marks before writes, many in one label write; and clearing them behind a flush (rules 18, 19).
//!
//! A region that is to be cleared is flushed on every member and the target first: all that wait
//! at that moment share one flush. A mark that is wanted again in time costs nothing.

use std::collections::BTreeSet;

use reactor::Cx;

use super::Tracked;
use crate::child::{ChildIndex, ChildSet};
use crate::intent::RegionIndex;
use crate::truth::TruthEvent;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// To be cleared behind the next flush.
    wanted: BTreeSet<RegionIndex>,
    /// To be cleared behind the flush that is under way.
    behind: BTreeSet<RegionIndex>,
    /// Children whose flush is under way.
    flushing: ChildSet,
    /// Taken out of the labels, which are being written.
    leaving: BTreeSet<RegionIndex>,
}

impl Clearing {
    pub fn want(&mut self, region: RegionIndex) {
        self.wanted.insert(region);
    }

    /// It is written again: it stays marked, or is marked anew.
    fn take_back(&mut self, region: RegionIndex) {
        self.wanted.remove(&region);
        self.behind.remove(&region);
        self.leaving.remove(&region);
    }

    /// It was written by a copy: the flush that is under way does not cover that.
    pub fn copied(&mut self, region: RegionIndex) {
        if self.behind.remove(&region) {
            self.wanted.insert(region);
        }
    }

    /// A session has ended: the flush that is under way there is not heard of any more, and covers
    /// nothing.
    pub fn gone(&mut self, child: ChildIndex) {
        self.wanted.append(&mut self.behind);
        self.flushing = self.flushing.without(child);
    }
}

impl Tracked {
    pub(super) fn mark(&mut self, region: RegionIndex) {
        self.is_stale = true;
        self.clearing.take_back(region);
        self.marking.insert(region);
        if let Some(owner) = &mut self.owner {
            owner.mark(region);
        }
    }

    /// Whoever must have a mark before data, and a flush before a clear.
    fn group(&self) -> ChildSet {
        let Some(owner) = &self.owner else { return ChildSet::EMPTY };
        owner.written_by_hosts()
    }

    /// Tells of marks that are durable everywhere, and of those that are gone.
    pub(super) fn look_at_marks(&mut self) {
        let group = self.group();
        let Some(owner) = &self.owner else { return };
        if group.is_empty() {
            return;
        }
        let is_marked =
            |region: &RegionIndex| group.iter().all(|place| owner.is_marked(place, *region));
        let marked: Vec<RegionIndex> = self.marking.iter().copied().filter(is_marked).collect();
        let is_cleared = |region: &RegionIndex| owner.is_cleared(*region);
        let leaving = self.clearing.leaving.iter().copied();
        let cleared: Vec<RegionIndex> = leaving.filter(is_cleared).collect();
        for region in marked {
            self.marking.remove(&region);
            self.say(TruthEvent::Marked(region));
        }
        for region in cleared {
            self.clearing.leaving.remove(&region);
            self.say(TruthEvent::Cleared(region));
        }
    }

    /// Begins a flush for all that wait for one.
    pub(super) fn start_flushes(&mut self, cx: &mut Cx) {
        let group = self.group();
        let Some(owner) = &self.owner else { return };
        let is_still = !owner.is_changing() && !group.is_empty();
        let is_idle = self.clearing.behind.is_empty() && self.clearing.flushing.is_empty();
        if self.clearing.wanted.is_empty() || !is_still || !is_idle {
            return;
        }
        if !owner.claimed().replicas.contains_all(group) {
            return;
        }
        let is_equal = |region: &RegionIndex| owner.is_equal(*region);
        let due: BTreeSet<RegionIndex> =
            self.clearing.wanted.iter().copied().filter(is_equal).collect();
        if due.is_empty() {
            return;
        }
        let children = self.seats.children(group);
        let is_free = |child: ChildIndex| {
            self.desks[child.get()].as_ref().is_some_and(|desk| desk.is_flush_free())
        };
        if !children.iter().all(is_free) {
            return;
        }
        self.clearing.wanted.retain(|region| !due.contains(region));
        self.clearing.behind = due;
        self.clearing.flushing = children;
        for child in children {
            self.desk(child).start_flush(cx.now());
        }
    }

    /// A child was flushed, in the session in which the flush began.
    pub(super) fn flushed(&mut self, child: ChildIndex) {
        self.clearing.flushing = self.clearing.flushing.without(child);
        if !self.clearing.flushing.is_empty() {
            return;
        }
        for region in std::mem::take(&mut self.clearing.behind) {
            match self.owner.as_mut().is_some_and(|owner| owner.clear(region)) {
                true => self.clearing.leaving.insert(region),
                // Members change, or it is not equal yet: later, behind another flush.
                false => self.clearing.wanted.insert(region),
            };
        }
    }
}
