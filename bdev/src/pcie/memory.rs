//! Memory that a driver shares with its controller: queues, lists of pages, bounce buffers.
//!
//! A [`QueueMemory`] is one region of 2 MiB with its I/O address. The device may write all of it at
//! any time, so it is touched through raw pointers only, by volatile or atomic accesses or copies,
//! and nothing here makes a reference to it. Used by the core that has the queue, or the supervisor
//! while no core does.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{DmaError, PagePreference, Region, Segment};

use super::numa::{self, Node};
use super::platform::{Mapping, Platform};
use super::spare;

/// Length of the memory of a queue pair.
pub const QUEUE_MEMORY_BYTES: usize = HUGE_PAGE_BYTES;

/// Why memory for queues could not be had.
#[derive(Debug, thiserror::Error)]
pub enum QueueMemoryError {
    /// There is none.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// The IOMMU refused it.
    #[error("the IOMMU does not take memory of queues")]
    Map(#[source] std::io::Error),
}

/// 2 MiB that the processor and the device both know.
#[derive(Debug)]
pub struct QueueMemory {
    mapping: Mapping,
    region: Region,
    node: Option<Node>,
}

// SAFETY: a region is mapped for the life of the process, whatever thread looks; who may look is
// said above, and the phases of `port` hand the memory over with release and acquire.
unsafe impl Send for QueueMemory {}
// SAFETY: as above; nothing is reached but through raw accesses.
unsafe impl Sync for QueueMemory {}

impl QueueMemory {
    /// Takes a region near the device, zeroed, and shows it to the device.
    ///
    /// # Errors
    ///
    /// No memory, or the IOMMU refuses it.
    pub fn map(platform: &dyn Platform) -> Result<QueueMemory, QueueMemoryError> {
        let node = platform.node();
        let region = match spare::take(node) {
            Some(region) => region,
            None => {
                numa::near(node, || Region::map(QUEUE_MEMORY_BYTES, PagePreference::HugeFirst))?
            }
        };
        match platform.map(&region) {
            Ok(mapping) => {
                let memory = QueueMemory { mapping, region, node };
                memory.view().zero(0, QUEUE_MEMORY_BYTES);
                Ok(memory)
            }
            Err(error) => {
                spare::give(region, node);
                Err(QueueMemoryError::Map(error))
            }
        }
    }

    /// The way to it.
    pub fn view(&self) -> View {
        View { base: self.region.base(), address: self.mapping.address }
    }

    /// Gives the region back for another controller's queues. Once the device cannot reach it.
    pub fn unmap(self, platform: &dyn Platform) {
        // A mapping that is not taken away keeps the device's right to the memory: then it is
        // lost to everybody else.
        if platform.unmap(self.mapping).is_ok() {
            spare::give(self.region, self.node);
        }
    }
}

/// Where a [`QueueMemory`] is, for the processor and for the device. Copy: the region under it
/// stays mapped for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct View {
    base: NonNull<u8>,
    address: u64,
}

// SAFETY: as for `QueueMemory`.
unsafe impl Send for View {}
// SAFETY: as for `QueueMemory`.
unsafe impl Sync for View {}

impl View {
    /// The device's address of a byte.
    #[inline]
    pub fn address(self, offset_bytes: usize) -> u64 {
        assert!(offset_bytes < QUEUE_MEMORY_BYTES, "an offset is inside");
        self.address + offset_bytes as u64
    }

    #[inline]
    fn at(self, offset_bytes: usize, len_bytes: usize) -> *mut u8 {
        let end = offset_bytes.checked_add(len_bytes);
        assert!(end.is_some_and(|end| end <= QUEUE_MEMORY_BYTES), "an access is inside");
        // SAFETY: inside the region, which is one mapping.
        unsafe { self.base.as_ptr().add(offset_bytes) }
    }

    /// Stores words of 8 bytes, for the device to read after a barrier.
    #[inline]
    pub fn store<const WORDS: usize>(self, offset_bytes: usize, words: [u64; WORDS]) {
        debug_assert!(offset_bytes.is_multiple_of(8), "words are aligned");
        let target = self.at(offset_bytes, WORDS * 8).cast::<[u64; WORDS]>();
        // SAFETY: inside, aligned to 8 (the base is to 2 MiB), and no reference to it exists.
        unsafe { target.write_volatile(words) }
    }

    /// Loads 4 bytes before everything that is loaded after.
    #[inline]
    pub fn load_acquire(self, offset_bytes: usize) -> u32 {
        debug_assert!(offset_bytes.is_multiple_of(4), "a word is aligned");
        let source = self.at(offset_bytes, 4).cast::<AtomicU32>();
        // SAFETY: inside and aligned; an atomic is shared with the device as with another thread.
        // Acquire, partner: the device's store of the phase after the rest of the entry.
        let value = unsafe { (*source).load(Ordering::Acquire) };
        #[cfg(target_arch = "aarch64")]
        super::bar::read_barrier();
        u32::from_le(value)
    }

    /// Stores 4 bytes after everything that was stored before.
    #[inline]
    pub fn store_release(self, offset_bytes: usize, value: u32) {
        debug_assert!(offset_bytes.is_multiple_of(4), "a word is aligned");
        let target = self.at(offset_bytes, 4).cast::<AtomicU32>();
        super::bar::write_barrier();
        // SAFETY: as in `load_acquire`. Release, partner: the device's load of a shadow doorbell,
        // or the software controller's host's of a phase.
        unsafe { (*target).store(value.to_le(), Ordering::Release) }
    }

    /// Copies bytes in.
    pub fn write(self, offset_bytes: usize, from: &[u8]) {
        let target = self.at(offset_bytes, from.len());
        // SAFETY: inside; `from` is a reference and so not part of the region.
        unsafe { target.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
    }

    /// Copies bytes out, once.
    pub fn read(self, offset_bytes: usize, into: &mut [u8]) {
        let source = self.at(offset_bytes, into.len());
        // SAFETY: as in `write`.
        unsafe { into.as_mut_ptr().copy_from_nonoverlapping(source, into.len()) }
    }

    /// Copies a segment of an I/O in.
    pub fn gather(self, offset_bytes: usize, from: Segment) {
        let len_bytes = from.len_bytes() as usize;
        let target = self.at(offset_bytes, len_bytes);
        // SAFETY: inside; the segment is readable until its I/O completes, and is memory of an
        // I/O, which this region never is.
        unsafe { target.copy_from_nonoverlapping(from.address().as_ptr(), len_bytes) }
    }

    /// Copies a segment of an I/O out.
    pub fn scatter(self, offset_bytes: usize, into: Segment) {
        let len_bytes = into.len_bytes() as usize;
        let source = self.at(offset_bytes, len_bytes);
        // SAFETY: as in `gather`, with the direction turned round.
        unsafe { into.address().as_ptr().copy_from_nonoverlapping(source, len_bytes) }
    }

    /// Entries of a ring, a power of two, from an offset on. Checked here, so that no access to
    /// one of them has to be.
    pub fn entries<const WORDS: usize>(self, offset_bytes: usize, count: u16) -> Entries<WORDS> {
        assert!(count.is_power_of_two(), "positions wrap by a mask");
        assert!(offset_bytes.is_multiple_of(8), "words are aligned");
        let first = self.at(offset_bytes, usize::from(count) * WORDS * 8);
        let first = NonNull::new(first).expect("inside a region");
        Entries { first, mask: count - 1 }
    }

    /// Fills with zeroes.
    pub fn zero(self, offset_bytes: usize, len_bytes: usize) {
        // SAFETY: inside.
        unsafe { self.at(offset_bytes, len_bytes).write_bytes(0, len_bytes) }
    }
}

/// Entries of a ring, of so many words of 8 bytes each. Copy, as [`View`] is.
#[derive(Clone, Copy, Debug)]
pub struct Entries<const WORDS: usize> {
    first: NonNull<u8>,
    mask: u16,
}

// SAFETY: as for `QueueMemory`.
unsafe impl<const WORDS: usize> Send for Entries<WORDS> {}
// SAFETY: as for `QueueMemory`.
unsafe impl<const WORDS: usize> Sync for Entries<WORDS> {}

impl<const WORDS: usize> Entries<WORDS> {
    /// The entry at a position, which wraps.
    #[inline]
    fn at(self, position: u16) -> *mut u64 {
        let offset = usize::from(position & self.mask) * WORDS * 8;
        // SAFETY: `View::entries` saw that as many entries as the mask can name are inside.
        unsafe { self.first.as_ptr().add(offset) }.cast()
    }

    /// Stores an entry, for the device to read after a barrier.
    #[inline]
    pub fn store(self, position: u16, words: [u64; WORDS]) {
        let target = self.at(position);
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: inside, aligned (`View::entries`), and no reference to it exists.
            unsafe { target.add(index).write_volatile(word) }
        }
    }

    /// Loads 4 bytes of an entry before everything that is loaded after.
    #[inline]
    fn load_acquire(self, position: u16, dword: usize) -> u32 {
        debug_assert!(dword < WORDS * 2, "a dword is inside its entry");
        // SAFETY: inside and aligned; an atomic is shared with the device as with another thread.
        // Acquire, partner: the device's store of the phase after the rest of the entry.
        let value =
            unsafe { (*self.at(position).cast::<AtomicU32>().add(dword)).load(Ordering::Acquire) };
        #[cfg(target_arch = "aarch64")]
        super::bar::read_barrier();
        u32::from_le(value)
    }

    /// Loads the last 4 bytes of an entry, before everything that is loaded after.
    #[inline]
    pub fn load_last(self, position: u16) -> u32 {
        self.load_acquire(position, WORDS * 2 - 1)
    }

    /// Loads the first 4 bytes of an entry.
    #[inline]
    pub fn load_first(self, position: u16) -> u32 {
        self.load_acquire(position, 0)
    }
}
