//! Which regions were written when, and what flushes have covered: when a mark may be cleared.
//!
//! On the home core, fed with what every core reports. A mark may go when no write to the region
//! is in flight and a flush issued after the last one has completed on every member and the target,
//! on the session that carried it (rule 19). Copies are writes.

use std::collections::BTreeMap;

use super::planted::{self, Bug};
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::intent::RegionIndex;

/// Bytes that may be marked dirty in all, unless configured otherwise: what is made equal after a
/// crash. 1 GiB is copied in seconds, and 256 regions of 4 MiB are room for the working set of a
/// log and a few files.
pub const DIRTY_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// Regions that the limit is for a volume of this region size: at least 16.
pub const fn dirty_regions_max(dirty_bytes_max: u64, region_bytes: u64) -> u64 {
    let regions = dirty_bytes_max / region_bytes;
    if regions < DIRTY_REGIONS_MIN { DIRTY_REGIONS_MIN } else { regions }
}

/// However large regions are, so many may be written at the same time.
pub const DIRTY_REGIONS_MIN: u64 = 16;

/// A flush that was issued, by the time of issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlushTicket {
    child: ChildIndex,
    session: u32,
    issued_at: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Region {
    in_flight: u32,
    last_end: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Activity {
    /// Counts events; no clock is needed.
    now: u64,
    regions: BTreeMap<RegionIndex, Region>,
    /// By place: everything that ended before this was covered.
    flushed_to: [u64; CHILDREN_MAX],
    sessions: [u32; CHILDREN_MAX],
}

impl Default for Activity {
    fn default() -> Activity {
        Activity::new()
    }
}

impl Activity {
    /// Nothing was written or flushed. Regions that were marked before count as written just now.
    pub fn new() -> Activity {
        Activity {
            now: 1,
            regions: BTreeMap::new(),
            flushed_to: [0; CHILDREN_MAX],
            sessions: [0; CHILDREN_MAX],
        }
    }

    /// A write or copy to a region begins.
    pub fn write_begins(&mut self, region: RegionIndex) {
        self.regions.entry(region).or_default().in_flight += 1;
    }

    /// It has ended on every replica, well or not.
    pub fn write_ends(&mut self, region: RegionIndex) {
        self.now += 1;
        let known = self.regions.get_mut(&region).expect("a write that ends has begun");
        known.in_flight = known.in_flight.checked_sub(1).expect("a write ends once");
        known.last_end = self.now;
    }

    /// A flush goes to a replica.
    pub fn flush_begins(&mut self, child: ChildIndex) -> FlushTicket {
        self.now += 1;
        FlushTicket { child, session: self.sessions[child.get()], issued_at: self.now }
    }

    /// It has completed well.
    pub fn flush_ends(&mut self, ticket: FlushTicket) {
        let place = ticket.child.get();
        if self.sessions[place] == ticket.session {
            self.flushed_to[place] = self.flushed_to[place].max(ticket.issued_at);
        }
    }

    /// A replica's session has ended: what it carried may be lost, and nothing is covered.
    pub fn session_ended(&mut self, child: ChildIndex) {
        self.sessions[child.get()] = self.sessions[child.get()].wrapping_add(1);
        self.flushed_to[child.get()] = 0;
    }

    /// True when a write or copy to a region is in flight.
    pub fn is_busy(&self, region: RegionIndex) -> bool {
        self.regions.get(&region).is_some_and(|region| region.in_flight > 0)
    }

    /// Whether the mark of a region may go: `group` is every member and the target.
    pub fn is_clearable(&self, region: RegionIndex, group: ChildSet) -> bool {
        let known = self.regions.get(&region).copied().unwrap_or_default();
        let is_idle = known.in_flight == 0 || planted::is(Bug::ClearEarly);
        // A region that was marked before this owner: any flush of this session.
        let since = known.last_end.max(1);
        let is_covered = group.iter().all(|child| self.flushed_to[child.get()] > since);
        is_idle && (is_covered || planted::is(Bug::ClearUnflushed))
    }

    /// A mark is gone; forgets the region.
    pub fn cleared(&mut self, region: RegionIndex) {
        if !self.is_busy(region) {
            self.regions.remove(&region);
        }
    }

    /// Of `marked` regions those that were idle longest, at most `count`: to be flushed and
    /// cleared first when the limit is near.
    pub fn idlest(
        &self,
        marked: impl Iterator<Item = RegionIndex>,
        count: usize,
    ) -> Vec<RegionIndex> {
        let idle = marked.filter(|region| !self.is_busy(*region));
        let since =
            |region: &RegionIndex| self.regions.get(region).map_or(0, |known| known.last_end);
        let mut idle: Vec<RegionIndex> = idle.collect();
        idle.sort_by_key(since);
        idle.truncate(count);
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: RegionIndex = RegionIndex(3);

    fn pair() -> (ChildIndex, ChildIndex, ChildSet) {
        let (zero, one) = (ChildIndex::new(0).unwrap(), ChildIndex::new(1).unwrap());
        (zero, one, ChildSet::only(zero).with(one))
    }

    #[test]
    fn a_mark_goes_only_after_a_flush_issued_after_the_last_write_on_every_member() {
        let (zero, one, both) = pair();
        let mut activity = Activity::new();
        activity.write_begins(REGION);
        let early = activity.flush_begins(zero);
        activity.write_ends(REGION);
        activity.flush_ends(early);
        assert!(!activity.is_clearable(REGION, both), "issued too early");
        let late = [activity.flush_begins(zero), activity.flush_begins(one)];
        activity.flush_ends(late[0]);
        assert!(!activity.is_clearable(REGION, both), "one member is missing");
        activity.flush_ends(late[1]);
        assert!(activity.is_clearable(REGION, both));
        activity.write_begins(REGION);
        assert!(!activity.is_clearable(REGION, both), "a write is in flight");
    }

    #[test]
    fn a_flush_of_an_ended_session_covers_nothing() {
        let (zero, _, _) = pair();
        let mut activity = Activity::new();
        assert!(!activity.is_clearable(REGION, ChildSet::only(zero)), "marked by another owner");
        let ticket = activity.flush_begins(zero);
        activity.session_ended(zero);
        activity.flush_ends(ticket);
        assert!(!activity.is_clearable(REGION, ChildSet::only(zero)));
        let ticket = activity.flush_begins(zero);
        activity.flush_ends(ticket);
        assert!(activity.is_clearable(REGION, ChildSet::only(zero)));
    }

    #[test]
    fn the_idlest_regions_are_cleared_first() {
        let mut activity = Activity::new();
        let regions = [5, 1, 9].map(RegionIndex);
        regions.iter().for_each(|region| activity.write_begins(*region));
        activity.write_ends(regions[1]);
        activity.write_ends(regions[2]);
        let marked = [1, 2, 5, 9].map(RegionIndex);
        let idlest = activity.idlest(marked.into_iter(), 2);
        assert_eq!(idlest, [RegionIndex(2), RegionIndex(1)]);
    }

    #[test]
    fn the_limit_is_in_bytes_but_leaves_room_for_some_regions() {
        assert_eq!(dirty_regions_max(DIRTY_BYTES_MAX_DEFAULT, 4 << 20), 256);
        assert_eq!(dirty_regions_max(DIRTY_BYTES_MAX_DEFAULT, 64 << 20), DIRTY_REGIONS_MIN);
        assert_eq!(dirty_regions_max(0, 4 << 20), DIRTY_REGIONS_MIN);
    }
}
