//! Which memory the device knows, and at which address.
//!
//! [`Regions`] is the controller's list, which only grows; a core adds its own pool's region when
//! it opens a queue pair. [`Table`] is a queue pair's copy: an address that lies in none of its
//! regions is never given to the device.

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
        let slots = (0..REGIONS_MAX).map(|_| OnceLock::new()).collect();
        Regions { slots, claimed: AtomicUsize::new(0) }
    }
}

impl Regions {
    /// Shows a region to the device, unless it knows it. One thread a region: that of its core.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses it, or there are [`REGIONS_MAX`] already.
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

    fn iter(&self) -> impl Iterator<Item = Known> {
        self.slots.iter().filter_map(|slot| slot.get().copied())
    }
}

/// A queue pair's copy.
#[derive(Debug, Default)]
pub struct Table {
    /// Its own core's region first.
    known: Vec<Known>,
}

impl Table {
    /// The regions known now, that of `own` first.
    pub fn new(regions: &Regions, own: RegionId) -> Table {
        let mut known: Vec<Known> = regions.iter().collect();
        known.sort_by_key(|one| one.id != own);
        Table { known }
    }

    /// The device's address of a segment that lies wholly in a region that it knows.
    #[inline]
    pub fn translate(&self, segment: Segment) -> Option<u64> {
        let address = segment.address().as_ptr().addr();
        let len_bytes = segment.len_bytes() as usize;
        for known in &self.known {
            let offset = address.wrapping_sub(known.start);
            let room = known.mapping.len_bytes.wrapping_sub(offset);
            if offset < known.mapping.len_bytes && len_bytes <= room {
                return Some(known.mapping.address + offset as u64);
            }
        }
        None
    }
}
