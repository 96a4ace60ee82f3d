//! A guest's memory as this process sees it: which of its addresses are where.
//!
//! Built on the control thread of a session from what the front end says (vhost-user, "Memory
//! region description"), immutable, shared with the rings on their cores. A change makes a new map.

mod mapping;

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use reactor::dma::{RegionId, Segment};

pub use mapping::Mapping;

/// Regions that a guest may have at once. QEMU has 8 by default and up to this many with memory
/// slots.
pub const REGIONS_MAX: usize = 32;

/// Most bytes of one segment, so that a segment's length fits its type.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// An address as the guest's driver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

/// An address as the front end's process has it: those of rings are told in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddress(pub u64);

/// Why memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// An empty range, or one that ends behind the last address.
    #[error("a memory region is empty, or ends behind the last address")]
    Range,
    /// The file would have to be longer.
    #[error("a memory region needs a file of {needed_bytes} bytes, and it has {file_bytes}")]
    Short {
        /// What it has.
        file_bytes: u64,
        /// What it would have to have.
        needed_bytes: u64,
    },
    /// Two regions have addresses in common.
    #[error("two memory regions overlap")]
    Overlap,
    /// Too many.
    #[error("a guest has at most {REGIONS_MAX} memory regions")]
    TooMany,
    /// There is no such region.
    #[error("there is no such memory region")]
    Unknown,
    /// The system refused.
    #[error("cannot map a guest's memory")]
    System(#[source] std::io::Error),
}

/// Where a region is, in all its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPlace {
    /// First address of the guest.
    pub guest: GuestAddress,
    /// First address of the front end.
    pub frontend: FrontendAddress,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl RegionPlace {
    fn guest_end(&self) -> u64 {
        self.guest.0 + self.len_bytes
    }

    fn is_sane(&self) -> bool {
        let guest = self.guest.0.checked_add(self.len_bytes);
        let frontend = self.frontend.0.checked_add(self.len_bytes);
        self.len_bytes > 0 && guest.is_some() && frontend.is_some()
    }
}

/// A region of a guest's memory.
#[derive(Clone, Debug)]
pub struct GuestRegion {
    place: RegionPlace,
    mapping: Arc<Mapping>,
    id: RegionId,
}

impl GuestRegion {
    /// Maps a region from its file.
    ///
    /// # Errors
    ///
    /// Each by its name in [`MemoryError`].
    pub fn map(
        place: RegionPlace,
        file: &File,
        offset_bytes: u64,
    ) -> Result<GuestRegion, MemoryError> {
        if !place.is_sane() {
            return Err(MemoryError::Range);
        }
        let mapping = Arc::new(Mapping::new(file, offset_bytes, place.len_bytes)?);
        Ok(GuestRegion { place, mapping, id: RegionId::unique() })
    }

    /// Where it is.
    pub fn place(&self) -> RegionPlace {
        self.place
    }
}

/// All of a guest's memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    /// Ascending by guest address, without overlap.
    regions: Vec<GuestRegion>,
}

impl MemoryMap {
    /// A map of regions in any order.
    ///
    /// # Errors
    ///
    /// Regions that overlap, as the guest or as the front end sees them, or too many.
    pub fn new(mut regions: Vec<GuestRegion>) -> Result<MemoryMap, MemoryError> {
        if regions.len() > REGIONS_MAX {
            return Err(MemoryError::TooMany);
        }
        regions.sort_by_key(|region| region.place.frontend);
        let first_end = |region: &GuestRegion| region.place.frontend.0 + region.place.len_bytes;
        if regions.windows(2).any(|pair| first_end(&pair[0]) > pair[1].place.frontend.0) {
            return Err(MemoryError::Overlap);
        }
        regions.sort_by_key(|region| region.place.guest);
        if regions.windows(2).any(|pair| pair[0].place.guest_end() > pair[1].place.guest.0) {
            return Err(MemoryError::Overlap);
        }
        Ok(MemoryMap { regions })
    }

    /// The same with one region more.
    ///
    /// # Errors
    ///
    /// As [`MemoryMap::new`].
    pub fn with(&self, region: GuestRegion) -> Result<MemoryMap, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(region);
        MemoryMap::new(regions)
    }

    /// The same without a region.
    ///
    /// # Errors
    ///
    /// There is none at this place.
    pub fn without(&self, place: RegionPlace) -> Result<MemoryMap, MemoryError> {
        let mut regions = self.regions.clone();
        regions.retain(|region| region.place != place);
        if regions.len() == self.regions.len() {
            return Err(MemoryError::Unknown);
        }
        Ok(MemoryMap { regions })
    }

    /// The regions, in ascending order of guest addresses.
    pub fn regions(&self) -> &[GuestRegion] {
        &self.regions
    }

    /// Hands the pieces of a guest's range to `take`, in order; false when a byte of it is in no
    /// region. `take` may have got some pieces by then.
    #[inline]
    pub fn pieces(
        &self,
        address: GuestAddress,
        len_bytes: u32,
        mut take: impl FnMut(Segment),
    ) -> bool {
        let mut at = address.0;
        let mut left = u64::from(len_bytes);
        while left > 0 {
            let Some(region) = self.region_of(at) else { return false };
            let offset = at - region.place.guest.0;
            let len = left.min(region.place.len_bytes - offset).min(SEGMENT_BYTES_MAX);
            let Some(host) = region.mapping.at(offset, len) else { return false };
            let len_bytes = u32::try_from(len).expect("bounded by a segment's length");
            take(mapping_segment(host, len_bytes, region.id));
            left -= len;
            // A region ends at an address, so this overflows only with nothing left.
            at = at.wrapping_add(len);
        }
        true
    }

    /// The place of `len_bytes` of a ring, which must be in one region and aligned to
    /// `align_bytes`, a power of two.
    pub fn ring_part(
        &self,
        address: FrontendAddress,
        len_bytes: u64,
        align_bytes: usize,
    ) -> Option<NonNull<u8>> {
        let found = self.regions.iter().find_map(|region| {
            let offset = address.0.checked_sub(region.place.frontend.0)?;
            if offset >= region.place.len_bytes {
                return None;
            }
            region.mapping.at(offset, len_bytes)
        })?;
        found.as_ptr().addr().is_multiple_of(align_bytes).then_some(found)
    }

    /// The region that has a guest's address.
    #[inline]
    fn region_of(&self, address: u64) -> Option<&GuestRegion> {
        let after = self.regions.partition_point(|region| region.place.guest.0 <= address);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (address < region.place.guest_end()).then_some(region)
    }
}

/// A segment of mapped memory.
fn mapping_segment(host: NonNull<u8>, len_bytes: u32, id: RegionId) -> Segment {
    crate::virtqueue::access::segment(host, len_bytes, id)
}
