//! Which parts of a RAM disk were written: a byte for each 64 KiB.
//!
//! Set by whoever writes, taken back by whoever makes a whole chunk read as zeroes; both hold the
//! range that they touch ([`crate::range_lock`]), so that no chunk is set and taken back at once.
//! Read by the allocation query on any thread. A write costs a load of one byte, and a store the
//! first time: no read-modify-write.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::allocation::{Allocation, Finder};
use crate::io::Lba;

/// Bytes of a chunk: from this length on, unmapped space goes back to the system.
pub(super) const CHUNK_BYTES: u64 = 64 << 10;

/// Chunks that are looked at in one go, 4 GiB of the disk: some tens of microseconds.
pub(super) const LOOK_CHUNKS_MAX: u64 = 1 << 16;

/// A byte of each chunk that may hold something else than zeroes.
const WRITTEN: u8 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks(Box<[AtomicU8]>);

impl Chunks {
    /// Those of a disk of zeroes.
    pub(super) fn of(len_bytes: u64) -> Chunks {
        Chunks((0..len_bytes.div_ceil(CHUNK_BYTES)).map(|_| AtomicU8::new(0)).collect())
    }

    fn at(&self, chunk: u64) -> &AtomicU8 {
        &self.0[chunk as usize]
    }

    /// A range, which is not empty, is being written.
    #[inline]
    pub(super) fn set(&self, offset_bytes: u64, len_bytes: u64) {
        let last = (offset_bytes + len_bytes - 1) / CHUNK_BYTES;
        for chunk in offset_bytes / CHUNK_BYTES..=last {
            // Relaxed, here and below: a byte says nothing of other memory. Who is to hear of a
            // write asks after it was told of it, by whatever orders its own memory.
            if self.at(chunk).load(Ordering::Relaxed) != WRITTEN {
                self.at(chunk).store(WRITTEN, Ordering::Relaxed);
            }
        }
    }

    /// A range reads as zeroes. Chunks of which the disk (of `disk_bytes`) has more are left.
    pub(super) fn clear(&self, offset_bytes: u64, len_bytes: u64, disk_bytes: u64) {
        let end_bytes = offset_bytes + len_bytes;
        let first = offset_bytes.div_ceil(CHUNK_BYTES);
        let end = match end_bytes == disk_bytes {
            true => end_bytes.div_ceil(CHUNK_BYTES),
            false => end_bytes / CHUNK_BYTES,
        };
        for chunk in first..end {
            self.at(chunk).store(0, Ordering::Relaxed);
        }
    }

    /// As [`crate::allocation::AllocationQuery::look`], for blocks of this size.
    pub(super) fn look(
        &self,
        range: Range<Lba>,
        block_bytes: u64,
        extents_max: usize,
    ) -> Allocation {
        let blocks = CHUNK_BYTES / block_bytes;
        let first = range.start.0 / blocks;
        let end = range.end.0.div_ceil(blocks).min(first + LOOK_CHUNKS_MAX);
        let mut finder = Finder::new(range, extents_max);
        for chunk in first..end {
            let start = Lba(chunk * blocks);
            let is_written = self.at(chunk).load(Ordering::Relaxed) == WRITTEN;
            if is_written && !finder.add(start..Lba(start.0 + blocks)) {
                return finder.done(start);
            }
        }
        finder.done(Lba(end * blocks))
    }
}

const _: () = assert!(CHUNK_BYTES.is_multiple_of(crate::device::BLOCK_BYTES_MAX as u64));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Extent;

    const BLOCK_BYTES: u64 = 512;
    const BLOCKS: u64 = CHUNK_BYTES / BLOCK_BYTES;

    fn extent(chunk: u64, chunks: u64) -> Extent {
        Extent { lba: Lba(chunk * BLOCKS), blocks: chunks * BLOCKS }
    }

    #[test]
    fn a_chunk_is_free_again_only_when_all_of_it_reads_as_zeroes() {
        let disk_bytes = 3 * CHUNK_BYTES + 512;
        let chunks = Chunks::of(disk_bytes);
        let look = || {
            let range = Lba(0)..Lba(disk_bytes / BLOCK_BYTES);
            chunks.look(range, BLOCK_BYTES, 8).extents
        };
        chunks.set(CHUNK_BYTES - 512, 1024);
        assert_eq!(look(), [extent(0, 2)]);
        chunks.clear(512, 2 * CHUNK_BYTES - 512, disk_bytes);
        assert_eq!(look(), [extent(0, 1)]);
        chunks.clear(0, CHUNK_BYTES - 512, disk_bytes);
        assert_eq!(look(), [extent(0, 1)]);
        chunks.set(3 * CHUNK_BYTES, 512);
        assert_eq!(look(), [extent(0, 1), Extent { lba: Lba(3 * BLOCKS), blocks: 1 }]);
        chunks.clear(0, disk_bytes, disk_bytes);
        assert_eq!(look(), []);
    }

    #[test]
    fn as_many_chunks_as_may_be_are_looked_at_in_one_go_and_one_more_in_the_next() {
        let disk_bytes = (LOOK_CHUNKS_MAX + 1) * CHUNK_BYTES;
        let chunks = Chunks::of(disk_bytes);
        chunks.set(0, 512);
        chunks.set(LOOK_CHUNKS_MAX * CHUNK_BYTES, 512);
        let end = Lba((LOOK_CHUNKS_MAX + 1) * BLOCKS);
        let first = chunks.look(Lba(0)..end, BLOCK_BYTES, 8);
        assert_eq!(first.looked_to, Lba(LOOK_CHUNKS_MAX * BLOCKS));
        assert_eq!(first.extents, [extent(0, 1)]);
        let second = chunks.look(first.looked_to..end, BLOCK_BYTES, 8);
        assert_eq!((second.looked_to, second.extents), (end, vec![extent(LOOK_CHUNKS_MAX, 1)]));
    }

    #[test]
    fn a_look_ends_where_there_is_no_room_for_what_comes() {
        let chunks = Chunks::of(8 * CHUNK_BYTES);
        for chunk in [1, 3, 5] {
            chunks.set(chunk * CHUNK_BYTES, 512);
        }
        let range = Lba(BLOCKS + 1)..Lba(8 * BLOCKS);
        let found = chunks.look(range, BLOCK_BYTES, 2);
        let first = Extent { lba: Lba(BLOCKS + 1), blocks: BLOCKS - 1 };
        assert_eq!(found.extents, [first, extent(3, 1)]);
        assert_eq!(found.looked_to, Lba(5 * BLOCKS));
    }
}
