//! Marks before data, regions to be made equal, and when a mark may go (rules 18 to 24).

use super::{Owner, Reign, Request};
use crate::child::{ChildIndex, ChildSet};
use crate::intent::RegionIndex;
use crate::truth::label::Label;
use crate::truth::planted::{self, Bug};
use crate::truth::region_map::RegionMap;

impl Reign {
    /// True when a member is to be given the region first.
    fn is_pending(&self, region: RegionIndex) -> bool {
        self.to_copy.iter().any(|map| !map.is_empty() && map.contains(region))
    }

    fn has_marks(&self, label: &Label, region: RegionIndex) -> bool {
        label.dirty.contains(region)
    }
}

impl Owner {
    /// Marks a region on every member and the target, and for all who are absent; label writes
    /// follow. Data goes to a replica when [`Owner::is_marked`] there.
    pub fn mark(&mut self, region: RegionIndex) {
        let Some(reign) = self.reign_mut() else { return };
        if planted::is(Bug::NoMark) {
            return;
        }
        reign.dirty.insert(region);
        for missing in reign.missing.values_mut() {
            missing.lacks.insert(region);
        }
    }

    /// True when a region's mark is durable on a replica, and no write that is in flight takes it
    /// away: it may be written there.
    pub fn is_marked(&self, child: ChildIndex, region: RegionIndex) -> bool {
        let (Some(reign), Some(label)) = (self.reign(), self.label(child)) else { return false };
        let lax = planted::is(Bug::NoMark)
            || planted::is(Bug::MarkOne) && reign.members.first() != Some(child);
        let in_flight = match &self.sent[child.get()] {
            Some(Request::WriteLabel { label, .. }) => Some(label),
            _ => None,
        };
        let everywhere = |label: &Label| {
            let is_absent_told = |missing: &crate::truth::label::Missing| {
                let known = label.missing_of(missing.replica);
                reign.is_target(child) || known.is_none_or(|known| known.lacks.contains(region))
            };
            reign.has_marks(label, region) && reign.missing.values().all(is_absent_told)
        };
        lax || everywhere(label) && in_flight.is_none_or(|label| everywhere(label))
    }

    /// True when nothing in memory marks a region: the next write must.
    pub fn is_wanted(&self, region: RegionIndex) -> bool {
        self.reign().is_some_and(|reign| !reign.dirty.contains(region))
    }

    /// The regions that are marked; nothing before assembly.
    pub fn marked(&self) -> Option<&RegionMap> {
        self.reign().map(|reign| &reign.dirty)
    }

    /// How many regions are marked.
    pub fn marked_regions(&self) -> u64 {
        self.reign().map_or(0, |reign| reign.dirty.len())
    }

    /// Takes a mark away, and what the target no longer lacks; label writes follow. The caller
    /// knows that no write to the region is in flight on any core, and that a flush issued after
    /// the last one has completed on every member and the target ([`super::super::activity`]).
    /// False when the region is not equal yet, or members change.
    pub fn clear(&mut self, region: RegionIndex) -> bool {
        let Some(reign) = self.reign_mut() else { return false };
        if reign.change.is_some() || reign.is_pending(region) {
            return false;
        }
        reign.dirty.remove(region);
        if let Some(target) = &reign.target
            && target.is_ready
            && !target.todo.contains(region)
            && let Some(missing) = reign.missing.get_mut(&target.child)
        {
            missing.lacks.remove(region);
        }
        true
    }

    /// True when a clear changed nothing that was still to be written: no label has the mark.
    pub fn is_cleared(&self, region: RegionIndex) -> bool {
        let Some(reign) = self.reign() else { return false };
        let has =
            |child: ChildIndex| self.label(child).is_some_and(|label| label.dirty.contains(region));
        !reign.dirty.contains(region) && !reign.members.iter().any(has)
    }

    /// Regions that may be neither read nor written by a host, as members may differ in them.
    pub fn pending(&self) -> Option<RegionMap> {
        self.reign().map(Reign::pending)
    }

    /// Whether there are such regions.
    pub fn has_pending(&self) -> bool {
        self.reign().is_some_and(|reign| reign.to_copy.iter().any(|map| !map.is_empty()))
    }

    /// Whether a region may be used.
    pub fn is_equal(&self, region: RegionIndex) -> bool {
        let pending = self.reign().is_some_and(|reign| reign.is_pending(region));
        !pending || planted::is(Bug::ReadBeforeEqual)
    }

    /// From whom regions are copied.
    pub fn source(&self) -> Option<ChildIndex> {
        self.reign().map(|reign| reign.source)
    }

    /// Members to which a region is to be copied and may be now: copies are writes, so they are
    /// marked on the receiver first (rule 24).
    pub fn copies(&self, region: RegionIndex) -> ChildSet {
        let Some(reign) = self.reign() else { return ChildSet::EMPTY };
        if reign.in_force.is_none() || reign.change.is_some() {
            return ChildSet::EMPTY;
        }
        let wants = |child: &ChildIndex| {
            reign.to_copy[child.get()].contains(region) && self.is_marked(*child, region)
        };
        let members = reign.members.iter().filter(wants);
        members.fold(ChildSet::EMPTY, ChildSet::with)
    }

    /// A region was copied to a member.
    pub fn copied(&mut self, child: ChildIndex, region: RegionIndex) {
        if let Some(reign) = self.reign_mut() {
            reign.to_copy[child.get()].remove(region);
        }
    }
}
