//! Regions in which members may differ after a crash: no host uses one before it was copied to
//! every member (replica-truth rule 23).
//!
//! The cores see a map with a mark on each region that may be used, and no map once all are equal.
//! Which regions there are is known by the truth; the copies are those of [`crate::rebuild`].

use std::sync::Arc;

use super::Home;
use crate::intent::{IntentMap, RegionIndex};

impl Home {
    /// Regions in which members may still differ.
    pub fn unequal_regions(&self) -> u64 {
        self.unequal
    }

    /// The map for the cores of a volume that was just assembled.
    pub(super) fn begin_copies(&mut self, blocks: u64) -> Option<Arc<IntentMap>> {
        let pending = self.truth.pending();
        self.unequal = pending.as_ref().map_or(0, |pending| pending.len());
        let pending = pending.filter(|_| self.unequal > 0)?;
        let region_bytes = self.truth.region_bytes();
        let map = IntentMap::with_regions(blocks, self.nexus.block_bytes(), region_bytes);
        for region in (0..map.regions()).map(RegionIndex) {
            if !pending.contains(region) {
                map.set_marked(region);
            }
        }
        Some(Arc::new(map))
    }

    /// Tells the truth which regions hosts wait for.
    pub(super) fn see_to_copies(&mut self) -> usize {
        let mut count = 0;
        if self.unequal > 0
            && let Some(equal) = &self.nexus.view().equal
        {
            let truth = &mut self.truth;
            equal.take_wanted(|region| {
                if !equal.is_marked(region) {
                    truth.copy_first(region);
                    count += 1;
                }
            });
        }
        count
    }

    /// A region is equal on every member: those who wait for it go on.
    pub(super) fn set_equal(&mut self, region: RegionIndex) {
        let view = self.nexus.view();
        let Some(equal) = &view.equal else { return };
        if equal.is_marked(region) {
            return;
        }
        equal.set_marked(region);
        self.unequal = self.unequal.saturating_sub(1);
        match self.unequal {
            0 => drop(self.nexus.publish(|view| view.equal = None)),
            _ => self.nexus.wake_all(),
        }
    }

    /// With other members, fewer regions may be unequal: alone, a member is equal to itself.
    pub(super) fn look_what_is_equal(&mut self) {
        if self.unequal == 0 {
            return;
        }
        let pending = self.truth.pending();
        let is_pending =
            |region: &RegionIndex| pending.as_ref().is_some_and(|map| map.contains(*region));
        let regions = self.nexus.view().equal.as_ref().map_or(0, |equal| equal.regions());
        for region in (0..regions).map(RegionIndex).filter(|region| !is_pending(region)) {
            self.set_equal(region);
        }
    }
}
