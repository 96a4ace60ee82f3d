//! Sizes: of a volume, of its regions, and of the label's reserved region at a replica's start.
//!
//! The label takes the first [`LABEL_BYTES`] of a replica, data follows. Each of its two copies
//! has one head page and five maps of up to [`MAP_PAGES_MAX`] pages.

use super::MISSING_SLOTS;
use super::wire::{PAGE_BYTES, PAGE_REGIONS};
use crate::intent::REGION_BYTES;

/// Bytes at the start of a replica that are the label's. The first block of the volume is behind
/// them.
pub const LABEL_BYTES: u64 = 2 * COPY_BYTES;
/// Bytes of one copy.
pub const COPY_BYTES: u64 = 1 << 20;
/// Pages of a map. 32 of them and four-MiB regions reach 3.9 TiB.
pub const MAP_PAGES_MAX: u32 = 32;
/// Regions of a volume.
pub const REGIONS_MAX: u64 = PAGE_REGIONS * MAP_PAGES_MAX as u64;
/// Largest region, so that the limit of what may be dirty is at least 16 of them: a volume of at
/// most 62.5 TiB.
pub const REGION_BYTES_MAX: u64 = 64 << 20;

/// The dirty map and the slots.
const MAPS: u64 = 1 + MISSING_SLOTS as u64;

const _: () = {
    let pages = 1 + MAPS * MAP_PAGES_MAX as u64;
    assert!(pages * PAGE_BYTES as u64 <= COPY_BYTES, "a copy holds a head and all maps");
    assert!(REGION_BYTES.is_power_of_two() && REGION_BYTES_MAX.is_power_of_two());
    assert!(REGIONS_MAX == 1_024_000);
    assert!(LABEL_BYTES == 2 << 20);
};

/// Why a volume cannot have a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// It would need too many or too large regions.
    #[error(
        "a volume of {bytes} bytes is larger than the {} that labels can keep track of",
        REGIONS_MAX * REGION_BYTES_MAX
    )]
    TooLarge {
        /// Its length.
        bytes: u128,
    },
    /// It has no blocks.
    #[error("a volume needs at least one block")]
    Empty,
    /// Its blocks are of no usual length.
    #[error("blocks of {block_bytes} bytes are none of 512 to {PAGE_BYTES}, or no power of two")]
    BlockBytes {
        /// Their length.
        block_bytes: u32,
    },
    /// Its regions are none that this version would choose or widen to.
    #[error("regions of {region_bytes} bytes do not fit the volume")]
    RegionBytes {
        /// Their length.
        region_bytes: u64,
    },
}

/// Length of a volume, its blocks and its regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    blocks: u64,
    block_bytes: u32,
    region_bytes: u64,
}

impl Shape {
    /// For a new volume: regions are of [`REGION_BYTES`], or where the maps would not reach, of
    /// the smallest power of two that they reach with.
    pub fn new(blocks: u64, block_bytes: u32) -> Result<Shape, ShapeError> {
        let bytes = u128::from(blocks) * u128::from(block_bytes);
        let mut region_bytes = REGION_BYTES;
        while bytes > u128::from(region_bytes) * u128::from(REGIONS_MAX) {
            region_bytes *= 2;
            if region_bytes > REGION_BYTES_MAX {
                return Err(ShapeError::TooLarge { bytes });
            }
        }
        Shape::with_regions(blocks, block_bytes, region_bytes)
    }

    /// For a volume whose regions were chosen before.
    pub fn with_regions(
        blocks: u64,
        block_bytes: u32,
        region_bytes: u64,
    ) -> Result<Shape, ShapeError> {
        let usual =
            block_bytes.is_power_of_two() && (512..=PAGE_BYTES as u32).contains(&block_bytes);
        if !usual {
            return Err(ShapeError::BlockBytes { block_bytes });
        }
        if blocks == 0 {
            return Err(ShapeError::Empty);
        }
        let bytes = u128::from(blocks) * u128::from(block_bytes);
        let sound = region_bytes.is_power_of_two()
            && (REGION_BYTES..=REGION_BYTES_MAX).contains(&region_bytes)
            && bytes <= u128::from(region_bytes) * u128::from(REGIONS_MAX);
        if !sound {
            return Err(ShapeError::RegionBytes { region_bytes });
        }
        Ok(Shape { blocks, block_bytes, region_bytes })
    }

    /// Length of the volume in blocks.
    pub fn blocks(self) -> u64 {
        self.blocks
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u32 {
        self.block_bytes
    }

    /// Bytes of a region.
    pub fn region_bytes(self) -> u64 {
        self.region_bytes
    }

    /// How many regions there are; the last may be short.
    pub fn regions(self) -> u64 {
        self.blocks.div_ceil(self.region_bytes / u64::from(self.block_bytes))
    }

    /// Pages of each of its maps.
    pub fn map_pages(self) -> u32 {
        u32::try_from(self.regions().div_ceil(PAGE_REGIONS)).expect("regions are limited")
    }

    /// The block of a replica that is block zero of the volume.
    pub fn data_start_blocks(self) -> u64 {
        LABEL_BYTES / u64::from(self.block_bytes)
    }
}

/// A page of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageAddress {
    /// Page `number` of map `map`: 0 is dirty, 1 to 4 are the slots.
    Map {
        /// Which map.
        map: u8,
        /// Which of its pages.
        number: u32,
    },
    /// Everything but the maps.
    Head,
}

impl PageAddress {
    /// Bytes from the start of the replica to this page of copy `copy` (0 or 1).
    pub fn offset_bytes(self, copy: usize) -> u64 {
        let page = match self {
            PageAddress::Head => 0,
            PageAddress::Map { map, number } => {
                1 + u64::from(map) * u64::from(MAP_PAGES_MAX) + u64::from(number)
            }
        };
        copy as u64 * COPY_BYTES + page * PAGE_BYTES as u64
    }

    /// All pages of a label of this shape, maps first.
    pub fn all(shape: Shape) -> impl Iterator<Item = PageAddress> {
        let maps = (0..MAPS as u8).flat_map(move |map| {
            (0..shape.map_pages()).map(move |number| PageAddress::Map { map, number })
        });
        maps.chain([PageAddress::Head])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_grow_with_the_volume_up_to_a_limit() {
        let at = |bytes: u64| Shape::new(bytes / 512, 512);
        assert_eq!(at(100 << 30).unwrap().regions(), 25_600);
        let four = REGIONS_MAX * REGION_BYTES;
        assert_eq!(at(four).unwrap().region_bytes(), REGION_BYTES);
        assert_eq!(at(four + 512).unwrap().region_bytes(), 2 * REGION_BYTES);
        let most = REGIONS_MAX * REGION_BYTES_MAX;
        assert_eq!(at(most).unwrap().regions(), REGIONS_MAX);
        assert!(matches!(at(most + 512), Err(ShapeError::TooLarge { .. })));
        assert!(matches!(Shape::new(u64::MAX, 4096), Err(ShapeError::TooLarge { .. })));
    }

    #[test]
    fn odd_shapes_are_refused() {
        for block_bytes in [0, 1, 256, 520, 8192] {
            assert_eq!(Shape::new(8, block_bytes), Err(ShapeError::BlockBytes { block_bytes }));
        }
        assert_eq!(Shape::new(0, 512), Err(ShapeError::Empty));
        for region_bytes in [0, REGION_BYTES / 2, REGION_BYTES + 1, 2 * REGION_BYTES_MAX] {
            let error = ShapeError::RegionBytes { region_bytes };
            assert_eq!(Shape::with_regions(8, 512, region_bytes), Err(error));
        }
    }

    #[test]
    fn no_two_pages_lie_on_one_another_and_all_before_the_data() {
        let shape = Shape::new(REGIONS_MAX * REGION_BYTES / 4096, 4096).unwrap();
        let mut offsets: Vec<u64> = (0..2)
            .flat_map(|copy| PageAddress::all(shape).map(move |page| page.offset_bytes(copy)))
            .collect();
        offsets.sort_unstable();
        assert_eq!(offsets.len(), 2 * 161);
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] >= PAGE_BYTES as u64));
        assert!(offsets[offsets.len() - 1] + PAGE_BYTES as u64 <= LABEL_BYTES);
        assert_eq!(shape.data_start_blocks() * 4096, LABEL_BYTES);
    }
}
