//! Every touch of a ring in a guest's memory.
//!
//! Called by [`super::SplitQueue`] on the core of the ring. The guest writes the same memory at any
//! time, so indices are atomic, descriptors are copied once by volatile loads, and there is never a
//! reference to any of it. Whatever is read is a number without meaning until it was checked; this
//! module only makes sure that no number leads outside of the ring. Virtio 1.2 sections 2.7.5 to
//! 2.7.10.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use reactor::dma::{RegionId, Segment};

use super::layout::{
    AVAILABLE_ALIGN_BYTES, DESCRIPTORS_ALIGN_BYTES, Descriptor, RING_SIZE_MAX, USED_ALIGN_BYTES,
    available_bytes, descriptors_bytes, used_bytes,
};
use crate::memory::{FrontendAddress, MemoryMap};

/// A segment over a guest's memory.
pub(crate) fn segment(host: NonNull<u8>, len_bytes: u32, region: RegionId) -> Segment {
    // SAFETY: the only caller has just found that the whole of it is in a mapping. The ring whose
    // request gets the segment has the map, and keeps it until its last request has completed.
    // Nobody makes references to a guest's memory.
    unsafe { Segment::from_raw(host, len_bytes, region) }
}

/// Where the parts of a ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: FrontendAddress,
    /// The available ring, which the driver writes.
    pub available: FrontendAddress,
    /// The used ring, which we write.
    pub used: FrontendAddress,
}

/// Why a ring cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not a power of two, or too large.
    #[error("a ring of {size} entries is not a power of two up to {RING_SIZE_MAX}")]
    Size {
        /// What was asked for.
        size: u32,
    },
    /// A part of it is not in memory, or not aligned.
    #[error("a part of the ring is outside of the guest's memory, or not aligned")]
    Place,
}

/// Pointers to the parts of a ring, checked once.
#[derive(Debug)]
pub struct Ring {
    size: u16,
    descriptors: NonNull<u64>,
    available: NonNull<u16>,
    used: NonNull<u16>,
    /// Keeps the memory mapped.
    memory: Arc<MemoryMap>,
}

// SAFETY: the pointers go to mapped memory that the value keeps, and all access is volatile or
// atomic; a ring is made on a control thread and then belongs to one core.
unsafe impl Send for Ring {}

impl Ring {
    /// Finds the parts of a ring.
    ///
    /// # Errors
    ///
    /// Each by its name in [`RingError`].
    pub fn new(
        memory: Arc<MemoryMap>,
        size: u32,
        addresses: RingAddresses,
    ) -> Result<Ring, RingError> {
        let legal = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= RING_SIZE_MAX);
        let size = legal.ok_or(RingError::Size { size })?;
        let RingAddresses { descriptors, available, used } = addresses;
        let part = |address, len_bytes, align_bytes| {
            memory.ring_part(address, len_bytes, align_bytes).ok_or(RingError::Place)
        };
        let descriptors = part(descriptors, descriptors_bytes(size), DESCRIPTORS_ALIGN_BYTES)?;
        let available = part(available, available_bytes(size), AVAILABLE_ALIGN_BYTES)?;
        let used = part(used, used_bytes(size), USED_ALIGN_BYTES)?;
        Ok(Ring {
            size,
            descriptors: descriptors.cast(),
            available: available.cast(),
            used: used.cast(),
            memory,
        })
    }

    /// Number of entries, a power of two.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<MemoryMap> {
        &self.memory
    }

    /// Copies a descriptor; none when there is none of this number.
    #[inline]
    pub fn descriptor(&self, index: u16) -> Option<Descriptor> {
        (index < self.size).then(|| {
            // SAFETY: the table has `size` descriptors of two words, aligned to 16 (`new`).
            let at = unsafe { self.descriptors.add(2 * usize::from(index)) };
            Descriptor::from_words(load_words(at))
        })
    }

    /// The driver's index: how many heads it has ever made available, modulo 2^16.
    #[inline]
    pub fn available_index(&self) -> u16 {
        // Acquire: pairs with the driver's barrier between the entry and the index, so that entry
        // and descriptors are seen as they were before it (section 2.7.13).
        u16::from_le(half(self.available, 1).load(Ordering::Acquire))
    }

    /// The driver's flags.
    #[inline]
    pub fn available_flags(&self) -> u16 {
        // Relaxed: ordered by the fence of the caller.
        u16::from_le(half(self.available, 0).load(Ordering::Relaxed))
    }

    /// The head at a position of the available ring.
    #[inline]
    pub fn available_entry(&self, position: u16) -> u16 {
        // Relaxed: behind the acquire of `available_index`.
        u16::from_le(half(self.available, 2 + self.slot(position)).load(Ordering::Relaxed))
    }

    /// Up to which used entry the driver wants no call (section 2.7.7).
    #[inline]
    pub fn used_event(&self) -> u16 {
        // Relaxed: ordered by the fence of the caller.
        u16::from_le(half(self.available, 2 + usize::from(self.size)).load(Ordering::Relaxed))
    }

    /// Fills an entry of the used ring.
    #[inline]
    pub fn set_used_entry(&self, position: u16, head: u16, written_bytes: u32) {
        let entry = u64::from(head) | u64::from(written_bytes) << 32;
        // SAFETY: entries of eight bytes begin behind flags and index; the used ring is aligned to
        // four, so that halves of them are aligned words (`new`).
        let at = unsafe { self.used.add(2 + 4 * self.slot(position)).cast::<u32>() };
        // SAFETY: both words lie in the used ring, which is mapped and ours to write.
        unsafe {
            at.write_volatile((entry as u32).to_le());
            at.add(1).write_volatile(((entry >> 32) as u32).to_le());
        }
    }

    /// Our index in the used ring.
    pub fn used_index(&self) -> u16 {
        // Relaxed: read when a ring starts, while nobody writes it.
        u16::from_le(half(self.used, 1).load(Ordering::Relaxed))
    }

    /// Hands the entries before `index` to the driver.
    #[inline]
    pub fn publish_used(&self, index: u16) {
        // Release: pairs with the driver's barrier after its look at the index; what was written to
        // the buffers and the entries comes first.
        half(self.used, 1).store(index.to_le(), Ordering::Release);
    }

    /// Tells the driver, without event indices, whether kicks are wanted.
    #[inline]
    pub fn set_used_flags(&self, flags: u16) {
        // Relaxed: a hint; who depends on it fences and looks again.
        half(self.used, 0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Tells the driver behind which available entry a kick is wanted (section 2.7.10).
    #[inline]
    pub fn set_available_event(&self, index: u16) {
        let at = 2 + 4 * usize::from(self.size);
        // Relaxed: the caller fences and looks again.
        half(self.used, at).store(index.to_le(), Ordering::Relaxed);
    }

    /// A position modulo the size.
    #[inline]
    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }
}

/// Two bytes of a ring as an atomic. `at` is below the number of two-byte fields of that part.
#[inline]
fn half<'a>(part: NonNull<u16>, at: usize) -> &'a AtomicU16 {
    // SAFETY: every caller stays below the length that `Ring::new` has asked for, the parts are
    // aligned to two bytes at least, the memory is mapped while the ring is there, and the value is
    // used within the caller's expression. Both sides access these fields as whole words.
    unsafe { AtomicU16::from_ptr(part.add(at).as_ptr()) }
}

/// Copies a descriptor's words: each is read once.
#[inline]
fn load_words(at: NonNull<u64>) -> [u64; 2] {
    // SAFETY: both callers have found 16 mapped bytes there, aligned to eight. The guest may write
    // them meanwhile: volatile, and whatever comes of it is checked.
    unsafe { [at.read_volatile(), at.add(1).read_volatile()] }
}

/// Copies a descriptor of an indirect table, whose piece of memory was found by the caller. Panics
/// when it is not inside.
#[inline]
pub(crate) fn indirect_descriptor(table: Segment, index: u16) -> Descriptor {
    let mut bytes = [0; 16];
    table.read(u32::from(index) * super::layout::DESCRIPTOR_BYTES, &mut bytes);
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    Descriptor::from_words([word(0), word(8)])
}
