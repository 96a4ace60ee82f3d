//! Bringing a replica back: target label first, what to copy, admission (rules 26 to 30).

use super::{Owner, Reign};
use crate::child::{ChildIndex, ChildSet};
use crate::intent::RegionIndex;
use crate::truth::label::{DataState, Label};
use crate::truth::names::Epoch;
use crate::truth::planted::{self, Bug};
use crate::truth::region_map::RegionMap;

/// A replica being rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Which.
    pub child: ChildIndex,
    /// Its label says target: it may be written.
    pub is_ready: bool,
    /// Regions that are left to copy; what an earlier attempt has copied and cleared is not
    /// among them (rule 30).
    pub todo: RegionMap,
}

/// Why a replica is not rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuilt {
    /// Members change, regions are being made equal, or another is being rebuilt.
    #[error("the volume is not at rest")]
    Busy,
    /// It is a member.
    #[error("the replica is a member")]
    Member,
    /// It holds writes of another history: only with `--discard`.
    #[error("the replica went on after the volume was forced: use --discard to give up its data")]
    WentOn,
}

impl Reign {
    pub(super) fn is_target(&self, child: ChildIndex) -> bool {
        self.target.as_ref().is_some_and(|target| target.child == child)
    }

    /// Union of what members know it lacks and its own marks; everything where its copy cannot be
    /// placed in the history (rule 27).
    fn to_rebuild(&self, child: ChildIndex, label: &Label) -> RegionMap {
        let all = || RegionMap::full(self.shape.regions());
        let Some(missing) = self.missing.get(&child) else { return all() };
        let is_placed = label.in_sync.lineage == self.half.lineage
            && label.in_sync.epoch > Epoch(0)
            && label.in_sync.epoch >= missing.in_sync_epoch
            && label.shape == self.shape
            && !self.strangers.contains(child);
        if !is_placed {
            return all();
        }
        let mut todo = missing.lacks.clone();
        if !planted::is(Bug::OwnDirtyIgnored) {
            todo.unite(&label.dirty);
        }
        todo
    }
}

impl Owner {
    /// Begins to rebuild a replica that is here: it is claimed on a new session, so that nothing
    /// of an old one arrives later, and labelled a target.
    pub fn rebuild(&mut self, child: ChildIndex, discard: Discard) -> Result<(), NotRebuilt> {
        let Some(reign) = self.reign_mut() else { return Err(NotRebuilt::Busy) };
        if reign.members.contains(child) {
            return Err(NotRebuilt::Member);
        }
        if reign.went_on.contains(child) && discard == Discard::No {
            return Err(NotRebuilt::WentOn);
        }
        let is_still = reign.change.is_none()
            && reign.in_force.is_some()
            && reign.target.is_none()
            && !reign.closing
            && reign.pending().is_empty();
        if !is_still {
            return Err(NotRebuilt::Busy);
        }
        let todo = RegionMap::full(reign.shape.regions());
        reign.target = Some(Target { child, is_ready: false, todo });
        self.lost = self.lost.without(child);
        self.registry.claimed.replicas = self.registry.claimed.replicas.without(child);
        self.registry.known[child.get()] = None;
        self.sent[child.get()] = None;
        Ok(())
    }

    /// The target was claimed: its label is known.
    pub(super) fn begin_target(&mut self, child: ChildIndex) {
        let label = self.label(child).cloned();
        let Some(reign) = self.reign_mut() else { return };
        let (true, Some(label)) = (reign.is_target(child), label) else { return };
        let todo = reign.to_rebuild(child, &label);
        if let Some(missing) = reign.missing.get_mut(&child) {
            // Durable before its own marks can go, and so that every member knows.
            missing.lacks.unite(&todo);
        }
        if let Some(target) = &mut reign.target {
            target.todo = todo;
        }
        if self.label_request(child).is_none() {
            // An earlier attempt of this owner has labelled it already.
            self.target_written(child);
        }
    }

    /// A label of the target was written.
    pub(super) fn target_written(&mut self, child: ChildIndex) {
        let state = self.label(child).map(|label| label.state);
        let is_target = state == Some(DataState::Target) || planted::is(Bug::MemberAtStart);
        let Some(reign) = self.reign_mut() else { return };
        let missing = reign.missing.get(&child).map(|missing| missing.lacks.clone());
        let Some(target) = &mut reign.target else { return };
        if target.child == child && !target.is_ready && is_target {
            target.is_ready = true;
            // What was written since the claim did not go to it.
            target.todo.unite(&missing.unwrap_or_else(|| reign.dirty.clone()));
        }
    }

    /// The target, if there is one.
    pub fn target(&self) -> Option<&Target> {
        self.reign()?.target.as_ref()
    }

    /// Whom a host's write goes to: members, and from its label on the target (rule 28).
    pub fn written_by_hosts(&self) -> ChildSet {
        let Some(reign) = self.reign() else { return ChildSet::EMPTY };
        let target = reign.target.as_ref().filter(|target| target.is_ready);
        match target {
            Some(target) if !planted::is(Bug::NoForward) => {
                reign.members.intersection(reign.good).with(target.child)
            }
            _ => reign.members.intersection(reign.good),
        }
    }

    /// A region was copied to the target, with no write to it in flight.
    pub fn rebuilt(&mut self, region: RegionIndex) {
        if let Some(target) = self.reign_mut().and_then(|reign| reign.target.as_mut()) {
            target.todo.remove(region);
        }
    }

    /// Makes the complete target a member (rule 29): the caller knows that nothing is in flight on
    /// any core and that the target was flushed since. False when it is not complete.
    pub fn admit(&mut self) -> bool {
        let Some(reign) = self.reign_mut() else { return false };
        let Some(target) = &reign.target else { return false };
        let child = target.child;
        let is_done = target.is_ready && target.todo.is_empty() && reign.pending().is_empty();
        if !is_done || reign.change.is_some() {
            return false;
        }
        reign.good = reign.good.with(child);
        let after = reign.members.with(child);
        self.begin_change(after)
    }
}

/// Whether an operator gives up what a copy of another history holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// No.
    No,
    /// `--discard`.
    Yes,
}
