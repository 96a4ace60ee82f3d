//! The RAM disk's memory: one anonymous mapping, populated as it is written.
//!
//! Owned by the device, touched by the queue pairs of all cores through raw pointers only: no
//! reference into it ever exists. Who may touch what is the range lock's business
//! ([`crate::range_lock`]); a caller holds the range, or is the only queue pair.
//!
//! All the `unsafe` of the RAM disk is here.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};
use reactor::dma::Segment;

/// Start and end of the mapping lie on this, so that the kernel can use huge pages: 2 MiB.
const ALIGNMENT_BYTES: usize = 2 << 20;

/// From this length on zeroing gives whole pages back to the system instead of writing them: the
/// call costs about what filling 64 KiB does, and the memory is free for others.
const GIVE_BACK_BYTES: u64 = super::chunks::CHUNK_BYTES;

/// Cache lines fetched ahead of a copy. The processor's own prefetcher takes over from there.
#[cfg(target_arch = "x86_64")]
const PREFETCH_LINES: u64 = 4;
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: u64 = 64;

/// Why there is no memory for a RAM disk.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More than the machine has. Overcommitted memory would end the process at some later write.
    #[error("a RAM disk of {len_bytes} bytes is larger than this machine's memory ({ram_bytes})")]
    BeyondMachine {
        /// What was asked for.
        len_bytes: u64,
        /// What the machine has.
        ram_bytes: u64,
    },
    /// The system did not map it.
    #[error("cannot map {len_bytes} bytes for a RAM disk")]
    Map {
        /// What was asked for.
        len_bytes: u64,
        /// The system's answer.
        #[source]
        source: nix::Error,
    },
}

/// Memory that reads as zeroes where it was never written.
#[derive(Debug)]
pub(super) struct DiskMemory {
    base: NonNull<u8>,
    len_bytes: u64,
    page_bytes: u64,
    mapping: NonNull<u8>,
    mapping_bytes: usize,
}

// SAFETY: the mapping belongs to no thread; it lives until the value is dropped.
unsafe impl Send for DiskMemory {}
// SAFETY: the methods copy through raw pointers and make no references; callers hold the range
// that they touch (see the module comment), so that no two threads copy to one byte at a time.
unsafe impl Sync for DiskMemory {}

impl DiskMemory {
    /// Maps `len_bytes`, which must not be zero. Nothing is resident yet.
    pub(super) fn map(len_bytes: u64) -> Result<DiskMemory, MemoryError> {
        let failed = |source| MemoryError::Map { len_bytes, source };
        let ram_bytes = nix::sys::sysinfo::sysinfo().map_err(failed)?.ram_total();
        if len_bytes > ram_bytes {
            return Err(MemoryError::BeyondMachine { len_bytes, ram_bytes });
        }
        // As much again as the alignment, to find an aligned start inside.
        let mapping_bytes = usize::try_from(len_bytes)
            .ok()
            .and_then(|len| len.checked_next_multiple_of(ALIGNMENT_BYTES))
            .and_then(|len| len.checked_add(ALIGNMENT_BYTES))
            .and_then(NonZeroUsize::new)
            .ok_or(MemoryError::BeyondMachine { len_bytes, ram_bytes })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choosing.
        let mapping = unsafe { mmap_anonymous(None, mapping_bytes, protection, flags) };
        let mapping = mapping.map_err(failed)?;
        // Advice: a kernel without transparent huge pages refuses it, and small pages do too.
        // SAFETY: the range is the mapping just made; the advice does not change its contents.
        let _ = unsafe { madvise(mapping, mapping_bytes.get(), MmapAdvise::MADV_HUGEPAGE) };
        let mapping = mapping.cast::<u8>();
        let skip = mapping.as_ptr().align_offset(ALIGNMENT_BYTES);
        // SAFETY: the start skips less than the alignment, by which the mapping is longer.
        let base = unsafe { mapping.add(skip) };
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).map_err(failed)?;
        let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        Ok(DiskMemory {
            base,
            len_bytes,
            page_bytes: page_bytes.expect("every system has a page size"),
            mapping,
            mapping_bytes: mapping_bytes.get(),
        })
    }

    /// Address of a range, which must lie inside.
    #[inline]
    fn at(&self, offset_bytes: u64, len_bytes: u64) -> NonNull<u8> {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(end.is_some_and(|end| end <= self.len_bytes), "a copy stays inside the device");
        // SAFETY: the offset is within the mapping, as just asserted.
        unsafe { self.base.add(offset_bytes as usize) }
    }

    /// Copies from the disk to the whole of `into`.
    #[inline]
    pub(super) fn copy_out(&self, offset_bytes: u64, into: Segment) {
        let from = self.at(offset_bytes, u64::from(into.len_bytes()));
        // SAFETY: both are mapped for this length: the disk by `at`, the segment by its own
        // promise until the I/O completes. DMA memory never overlaps the disk's private mapping.
        unsafe { from.copy_to_nonoverlapping(into.address(), into.len_bytes() as usize) };
    }

    /// Copies the whole of `from` to the disk.
    #[inline]
    pub(super) fn copy_in(&self, offset_bytes: u64, from: Segment) {
        let into = self.at(offset_bytes, u64::from(from.len_bytes()));
        // SAFETY: as in `copy_out`, with the direction turned round.
        unsafe { into.copy_from_nonoverlapping(from.address(), from.len_bytes() as usize) };
    }

    /// True when the disk holds there what is in `other`.
    pub(super) fn equals(&self, offset_bytes: u64, other: Segment) -> bool {
        let here = self.at(offset_bytes, u64::from(other.len_bytes()));
        let there = other.address().as_ptr().cast_const().cast();
        // SAFETY: both are mapped for this length, as in `copy_out`; memcmp takes any pointers,
        // where a slice would claim that nobody else writes the memory.
        unsafe {
            let len_bytes = other.len_bytes() as usize;
            libc::memcmp(here.as_ptr().cast_const().cast(), there, len_bytes) == 0
        }
    }

    /// Makes a range read as zeroes; whole pages of a long one go back to the system.
    pub(super) fn zero(&self, offset_bytes: u64, len_bytes: u64) {
        let end_bytes = offset_bytes + len_bytes;
        let first_page = offset_bytes.next_multiple_of(self.page_bytes).min(end_bytes);
        let pages_end = end_bytes - end_bytes % self.page_bytes;
        if pages_end.saturating_sub(first_page) < GIVE_BACK_BYTES {
            return self.fill_zero(offset_bytes, len_bytes);
        }
        self.fill_zero(offset_bytes, first_page - offset_bytes);
        let pages_bytes = pages_end - first_page;
        let pages = self.at(first_page, pages_bytes).cast();
        // SAFETY: whole pages inside the mapping, to which no reference exists. A private
        // anonymous page that was given back reads as zeroes when it is touched again.
        let given = unsafe { madvise(pages, pages_bytes as usize, MmapAdvise::MADV_DONTNEED) };
        if given.is_err() {
            self.fill_zero(first_page, pages_bytes);
        }
        self.fill_zero(pages_end, end_bytes - pages_end);
    }

    fn fill_zero(&self, offset_bytes: u64, len_bytes: u64) {
        let start = self.at(offset_bytes, len_bytes);
        // SAFETY: mapped for this length (`at`), and no reference to it exists.
        unsafe { start.write_bytes(0, len_bytes as usize) };
    }

    /// Fetches the first lines of a copy to come into the cache, and its page into the TLB.
    #[inline]
    pub(super) fn prefetch(&self, offset_bytes: u64) {
        #[cfg(target_arch = "x86_64")]
        if offset_bytes.saturating_add(PREFETCH_LINES * LINE_BYTES) <= self.len_bytes {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start = self.at(offset_bytes, PREFETCH_LINES * LINE_BYTES);
            for line in 0..PREFETCH_LINES {
                // SAFETY: a hint, without effect on memory; the address is inside the mapping.
                unsafe {
                    _mm_prefetch(
                        start.as_ptr().add((line * LINE_BYTES) as usize).cast(),
                        _MM_HINT_T0,
                    )
                };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset_bytes;
    }

    /// Bytes of the mapping that are resident, for tests.
    #[cfg(test)]
    pub(super) fn resident_bytes(&self) -> u64 {
        let pages = self.mapping_bytes / self.page_bytes as usize;
        let mut states = vec![0_u8; pages];
        // SAFETY: the range is the mapping; `states` has a byte for each of its pages.
        let result = unsafe {
            libc::mincore(self.mapping.as_ptr().cast(), self.mapping_bytes, states.as_mut_ptr())
        };
        assert_eq!(result, 0);
        states.iter().filter(|state| **state & 1 == 1).count() as u64 * self.page_bytes
    }
}

impl Drop for DiskMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; queue pairs share ownership of the value, so none
        // that could touch it is left.
        let unmapped = unsafe { munmap(self.mapping.cast(), self.mapping_bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN_BYTES: u64 = 8 << 20;

    fn with_bytes(run: impl FnOnce(&DiskMemory, Segment)) {
        let (mut cx, _) = reactor::cx::test_context();
        let buffer = cx.dma.take(128 << 10).unwrap();
        run(&DiskMemory::map(LEN_BYTES).unwrap(), buffer.segment(128 << 10));
        cx.dma.give(buffer);
    }

    #[test]
    fn memory_starts_on_two_mebibytes_and_reads_as_zeroes() {
        with_bytes(|memory, segment| {
            assert_eq!(memory.base.as_ptr().addr() % ALIGNMENT_BYTES, 0);
            segment.write(0, &[7; 4096]);
            memory.copy_out(LEN_BYTES - 4096, segment.part(0, 4096));
            let mut bytes = [7; 4096];
            segment.read(0, &mut bytes);
            assert_eq!(bytes, [0; 4096]);
        });
    }

    #[test]
    fn a_mapping_takes_no_memory_until_it_is_written_and_gives_it_back() {
        with_bytes(|memory, segment| {
            assert_eq!(memory.resident_bytes(), 0);
            segment.write(0, &[1; 4096]);
            for offset in (0..LEN_BYTES).step_by(4096) {
                memory.copy_in(offset, segment.part(0, 4096));
            }
            assert!(memory.resident_bytes() >= LEN_BYTES);
            memory.zero(0, LEN_BYTES);
            assert_eq!(memory.resident_bytes(), 0);
        });
    }

    #[test]
    fn zeroing_touches_nothing_beside_its_range() {
        with_bytes(|memory, segment| {
            let ones = vec![1_u8; 128 << 10];
            for (offset, len) in [(512, 512), (512, 100 << 10), (4096, 64 << 10), (4608, 69_120)] {
                segment.write(0, &ones);
                memory.copy_in(0, segment);
                memory.zero(offset, len);
                memory.copy_out(0, segment);
                let mut expected = ones.clone();
                expected[offset as usize..(offset + len) as usize].fill(0);
                let mut bytes = vec![2; ones.len()];
                segment.read(0, &mut bytes);
                assert_eq!(bytes, expected);
            }
        });
    }

    #[test]
    fn a_disk_larger_than_the_machine_is_refused_by_name() {
        let ram_bytes = nix::sys::sysinfo::sysinfo().unwrap().ram_total();
        let error = DiskMemory::map(ram_bytes + 1).unwrap_err();
        assert!(error.to_string().contains("larger than this machine's memory"), "{error}");
        assert!(DiskMemory::map(ram_bytes).is_ok(), "at the limit nothing is reserved");
    }

    #[test]
    #[should_panic(expected = "stays inside")]
    fn a_copy_beyond_the_end_is_a_bug() {
        with_bytes(|memory, segment| memory.copy_out(LEN_BYTES - 511, segment.part(0, 512)));
    }
}
