//! Marks before writes, many in one label write; and clearing them behind a flush (rules 18, 19).
//!
//! A region that is to be cleared is flushed on every member and the target first: all that wait
//! at that moment share one flush. A mark that is wanted again in time costs nothing.

use reactor::Cx;

use super::Tracked;
use crate::child::{ChildIndex, ChildSet};
use crate::intent::RegionIndex;
use crate::truth::TruthEvent;
use crate::truth::planted::{self, Bug};

/// How far the clear of a region is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// It is not to be cleared.
    #[default]
    Kept,
    /// To be cleared behind the next flush.
    Wanted,
    /// To be cleared behind the flush that is under way.
    Behind,
    /// Taken out of the labels, which are being written.
    Leaving,
}

/// See the module. Each list has the regions of one step, and such as have gone on since.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// By region, as far as any was ever cleared.
    steps: Vec<Step>,
    wanted: Vec<RegionIndex>,
    behind: Vec<RegionIndex>,
    leaving: Vec<RegionIndex>,
    /// Children whose flush is under way.
    flushing: ChildSet,
}

impl Clearing {
    fn step(&self, region: RegionIndex) -> Step {
        self.steps.get(place(region)).copied().unwrap_or_default()
    }

    fn set(&mut self, region: RegionIndex, step: Step) {
        let place = place(region);
        if place >= self.steps.len() {
            self.steps.resize(place + 1, Step::Kept);
        }
        self.steps[place] = step;
    }

    pub fn want(&mut self, region: RegionIndex) {
        self.set(region, Step::Wanted);
        self.wanted.push(region);
    }

    /// It is written again: it stays marked, or is marked anew.
    fn take_back(&mut self, region: RegionIndex) {
        if self.step(region) != Step::Kept {
            self.set(region, Step::Kept);
        }
    }

    /// It was written by a copy: the flush that is under way does not cover that.
    pub fn copied(&mut self, region: RegionIndex) {
        if self.step(region) == Step::Behind {
            self.want(region);
        }
    }

    /// A session has ended: the flush that is under way there is not heard of any more, and covers
    /// nothing.
    pub fn gone(&mut self, child: ChildIndex) {
        for region in std::mem::take(&mut self.behind) {
            self.copied(region);
        }
        self.flushing = self.flushing.without(child);
    }

    /// Has those of the wanted that are `due` wait for a flush that begins now. False when none is.
    fn go_behind(&mut self, due: impl Fn(RegionIndex) -> bool) -> bool {
        for region in std::mem::take(&mut self.wanted) {
            match self.step(region) {
                Step::Wanted if due(region) => {
                    self.set(region, Step::Behind);
                    self.behind.push(region);
                }
                Step::Wanted => self.wanted.push(region),
                Step::Kept | Step::Behind | Step::Leaving => {}
            }
        }
        !self.behind.is_empty()
    }

    /// Takes those that are in no label any more off the list.
    fn take_cleared(&mut self, is_cleared: impl Fn(RegionIndex) -> bool) -> Vec<RegionIndex> {
        let steps = &self.steps;
        self.leaving.retain(|region| steps[place(*region)] == Step::Leaving);
        let cleared: Vec<RegionIndex> =
            self.leaving.extract_if(.., |region| is_cleared(*region)).collect();
        cleared.iter().for_each(|region| self.set(*region, Step::Kept));
        cleared
    }
}

fn place(region: RegionIndex) -> usize {
    usize::try_from(region.0).expect("regions are countable")
}

impl Tracked {
    pub(super) fn mark(&mut self, region: RegionIndex) {
        self.is_stale = true;
        self.clearing.take_back(region);
        self.marking.push(region);
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
        let marked = self.marking.extract_if(.., |region| is_marked(region));
        self.events.extend(marked.map(TruthEvent::Marked));
        let cleared = self.clearing.take_cleared(|region| owner.is_cleared(region));
        self.events.extend(cleared.into_iter().map(TruthEvent::Cleared));
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
        let children = self.seats.children(group);
        let is_free = |child: ChildIndex| {
            self.desks[child.get()].as_ref().is_some_and(|desk| desk.is_flush_free())
        };
        if !children.iter().all(is_free) {
            return;
        }
        if !self.clearing.go_behind(|region| owner.is_equal(region)) {
            return;
        }
        self.clearing.flushing = children;
        if planted::is(Bug::ClearUnflushed) {
            self.clearing.flushing = ChildSet::EMPTY;
            return self.clear_flushed();
        }
        for child in children {
            self.desk(child).start_flush(cx.now());
        }
    }

    /// A child was flushed, in the session in which the flush began.
    pub(super) fn flushed(&mut self, child: ChildIndex) {
        self.clearing.flushing = self.clearing.flushing.without(child);
        if self.clearing.flushing.is_empty() {
            self.clear_flushed();
        }
    }

    fn clear_flushed(&mut self) {
        for region in std::mem::take(&mut self.clearing.behind) {
            if self.clearing.step(region) != Step::Behind {
                continue;
            }
            match self.owner.as_mut().is_some_and(|owner| owner.clear(region)) {
                true => {
                    self.clearing.set(region, Step::Leaving);
                    self.clearing.leaving.push(region);
                }
                // Members change, or it is not equal yet: later, behind another flush.
                false => self.clearing.want(region),
            }
        }
    }
}
