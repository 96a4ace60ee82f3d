//! The configuration space of a virtio block device.
//!
//! Virtio 1.2 section 5.2.4. Read by the front end through the session's control thread; of all
//! fields the driver may write one, the cache mode, which rings read with every write.

use std::sync::atomic::{AtomicU8, Ordering};

use bdev::{Geometry, Limits};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::request::{RANGES_MAX, SECTOR_BYTES};
use crate::virtqueue::layout::CHAIN_DESCRIPTORS_MAX;

/// Buffers of data that a request may have: a chain without header and status.
pub const SEGMENTS_MAX: u32 = CHAIN_DESCRIPTORS_MAX as u32 - 2;

/// Longest range of a discard or write zeroes that guests are told to send: 1 GiB.
pub const RANGE_SECTORS_MAX: u32 = (1 << 30) / SECTOR_BYTES as u32;

/// Offset of the byte that the driver may write.
pub const WRITE_BACK_OFFSET: u32 = 32;

/// `struct virtio_blk_config`, section 5.2.4, up to the fields of write zeroes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockConfig {
    /// Size in sectors of 512 bytes.
    pub capacity: U64,
    /// Unused: the feature is not offered.
    pub size_max: U32,
    /// Buffers of a request.
    pub seg_max: U32,
    /// Unused: cylinders, heads, sectors.
    pub geometry: [u8; 4],
    /// Bytes of a block.
    pub block_bytes: U32,
    /// Blocks of a physical one, as a power of two.
    pub physical_block_exponent: u8,
    /// Unused: alignment of the first.
    pub alignment_offset: u8,
    /// Smallest good I/O, in blocks.
    pub io_min_blocks: U16,
    /// Best I/O, in blocks; zero for none.
    pub io_best_blocks: U32,
    /// 1 while there is a write cache.
    pub write_back: u8,
    /// Unused.
    pub unused_0: u8,
    /// Number of queues.
    pub queues: U16,
    /// Longest range of a discard, in sectors.
    pub discard_sectors_max: U32,
    /// Most ranges of a discard.
    pub discard_ranges_max: U32,
    /// Alignment of ranges to be discarded, in sectors.
    pub discard_alignment: U32,
    /// Longest range of a write zeroes, in sectors.
    pub zeroes_sectors_max: U32,
    /// Most ranges of a write zeroes.
    pub zeroes_ranges_max: U32,
    /// A write zeroes may give space back.
    pub zeroes_may_unmap: u8,
    /// Unused.
    pub unused_1: [u8; 3],
}

const _: () = assert!(size_of::<BlockConfig>() == 60);
const _: () = assert!(std::mem::offset_of!(BlockConfig, write_back) == WRITE_BACK_OFFSET as usize);
const _: () = assert!(std::mem::offset_of!(BlockConfig, discard_sectors_max) == 36);
const _: () = assert!(std::mem::offset_of!(BlockConfig, zeroes_may_unmap) == 56);

impl BlockConfig {
    /// The configuration of a device with so many queues.
    pub fn new(geometry: Geometry, limits: &Limits, queues: u16) -> BlockConfig {
        let block_sectors = geometry.block_bytes / SECTOR_BYTES as u32;
        BlockConfig {
            capacity: U64::new(geometry.blocks.saturating_mul(u64::from(block_sectors))),
            seg_max: U32::new(SEGMENTS_MAX),
            block_bytes: U32::new(geometry.block_bytes),
            io_min_blocks: U16::new(1),
            write_back: 1,
            queues: U16::new(queues),
            discard_sectors_max: U32::new(RANGE_SECTORS_MAX),
            discard_ranges_max: U32::new(RANGES_MAX as u32),
            discard_alignment: U32::new(block_sectors),
            zeroes_sectors_max: U32::new(RANGE_SECTORS_MAX),
            zeroes_ranges_max: U32::new(RANGES_MAX as u32),
            zeroes_may_unmap: u8::from(limits.unmap_zeroes),
            ..BlockConfig::default()
        }
    }

    /// `len` bytes from `offset` on; zeroes behind the last field.
    pub fn read(&self, offset: u32, len: u32) -> Vec<u8> {
        let bytes = self.as_bytes();
        let at = |place: u32| bytes.get(place as usize).copied().unwrap_or(0);
        (offset..offset.saturating_add(len)).map(at).collect()
    }
}

/// Whether completed writes may wait for a flush: the driver's choice, read by all rings.
#[derive(Debug)]
pub struct CacheMode(AtomicU8);

impl Default for CacheMode {
    fn default() -> Self {
        CacheMode(AtomicU8::new(1))
    }
}

impl CacheMode {
    /// What the driver has written.
    pub fn set(&self, write_back: u8) {
        // Relaxed: a change holds for requests that come after the driver has seen it done, which
        // the ring's own ordering puts behind it.
        self.0.store(write_back, Ordering::Relaxed);
    }

    /// What the driver reads back.
    pub fn get(&self) -> u8 {
        // Relaxed: as in `set`.
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_laid_out_as_the_specification_says() {
        let geometry = Geometry { block_bytes: 4096, blocks: 0x0102 };
        let config = BlockConfig::new(geometry, &Limits::default(), 4);
        let bytes = config.read(0, 64);
        assert_eq!(bytes[0..8], (0x0102_u64 * 8).to_le_bytes());
        assert_eq!(bytes[12..16], SEGMENTS_MAX.to_le_bytes());
        assert_eq!(bytes[20..24], 4096_u32.to_le_bytes());
        assert_eq!((bytes[32], bytes[34]), (1, 4));
        assert_eq!(bytes[36..40], RANGE_SECTORS_MAX.to_le_bytes());
        assert_eq!(bytes[44..48], 8_u32.to_le_bytes());
        assert_eq!(bytes[56..], [1, 0, 0, 0, 0, 0, 0, 0], "and nothing behind the last field");
        assert_eq!(config.read(32, 1), [1]);
        assert_eq!(config.read(u32::MAX, 4), [0_u8; 0]);
    }
}
