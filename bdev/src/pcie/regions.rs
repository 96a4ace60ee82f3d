//! Which memory the device knows, and at which address.
//!
//! [`Regions`] is the controller's list, which only grows; a core adds its own pool's region when
//! it opens a queue pair, and whoever has memory later (a pool that grows, a guest) has it added
//! ([`super::Controller::share`]). [`Table`] is a queue pair's copy, which it renews when memory of
//! an I/O is not in it: an address that lies in no region is never given to the device.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use reactor::dma::{Region, RegionId, Segment};

use super::options::REGIONS_MAX;
use super::platform::{Mapping, Platform};

/// A region and where the device sees it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    id: RegionId,
    start: usize,
    mapping: Mapping,
}

/// The list of a controller.
#[derive(Debug)]
pub struct Regions {
    slots: Box<[OnceLock<Known>]>,
    claimed: AtomicUsize,
}

impl Default for Regions {
    fn default() -> Self {
        Regions::with_room(REGIONS_MAX)
    }
}

impl Regions {
    /// A list with room for so many.
    pub fn with_room(count: usize) -> Regions {
        let slots = (0..count).map(|_| OnceLock::new()).collect();
        Regions { slots, claimed: AtomicUsize::new(0) }
    }

    /// Shows a region to the device, unless it knows it. One thread a region: that of its core.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses it, or the list is full.
    pub fn add(&self, platform: &dyn Platform, region: &Region) -> std::io::Result<()> {
        if self.iter().any(|known| known.id == region.id()) {
            return Ok(());
        }
        let mapping = platform.map(region)?;
        // Relaxed: the number only has to be one's own; the slot publishes what is in it.
        let place = self.claimed.fetch_add(1, Ordering::Relaxed);
        let known = Known { id: region.id(), start: region.base().as_ptr().addr(), mapping };
        match self.slots.get(place) {
            Some(slot) => {
                slot.set(known).expect("a claimed slot is set once");
                Ok(())
            }
            None => {
                platform.unmap(mapping)?;
                Err(std::io::ErrorKind::QuotaExceeded.into())
            }
        }
    }

    /// How many there are, at most: one that is being added may be counted already.
    fn count(&self) -> usize {
        // Relaxed: who sees an old number looks again with the next I/O.
        self.claimed.load(Ordering::Relaxed).min(self.slots.len())
    }

    fn iter(&self) -> impl Iterator<Item = Known> {
        self.slots.iter().filter_map(|slot| slot.get().copied())
    }
}

/// A queue pair's copy.
#[derive(Debug)]
pub struct Table {
    /// The region of its own core, where nearly all memory of I/Os is.
    own: Known,
    /// All that were known at the last look, with room for all that there can be.
    known: Vec<Known>,
}

impl Table {
    /// The regions known now, that of `own`, which is one of them, before all others.
    pub fn new(regions: &Regions, own: RegionId) -> Table {
        let mut known = Vec::with_capacity(REGIONS_MAX);
        known.extend(regions.iter());
        let own = known.iter().find(|one| one.id == own).copied();
        let own = own.expect("a core's region is added before its queue pair is opened");
        Table { own, known }
    }

    /// The device's address of a segment that lies wholly in the region of the queue pair's core.
    #[inline]
    pub fn translate_own(&self, segment: Segment) -> Option<u64> {
        self.own.translate(segment)
    }

    /// The device's address of a segment that lies wholly in a region that it knows.
    pub fn translate(&self, segment: Segment) -> Option<u64> {
        let own = self.own.translate(segment);
        own.or_else(|| self.known.iter().find_map(|known| known.translate(segment)))
    }

    /// Takes over the regions that the device was shown since the last look; false when there are
    /// none. Allocates nothing.
    pub fn renew(&mut self, regions: &Regions) -> bool {
        let before = self.known.len();
        if regions.count() == before {
            return false;
        }
        self.known.clear();
        self.known.extend(regions.iter());
        self.known.len() > before
    }
}

impl Known {
    #[inline]
    fn translate(&self, segment: Segment) -> Option<u64> {
        let offset = segment.address().as_ptr().addr().wrapping_sub(self.start);
        let room = self.mapping.len_bytes.wrapping_sub(offset);
        let inside = offset < self.mapping.len_bytes && segment.len_bytes() as usize <= room;
        inside.then(|| self.mapping.address + offset as u64)
    }
}
