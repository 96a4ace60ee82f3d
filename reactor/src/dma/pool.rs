//! One core's pool of DMA buffers: a region cut into 2 MiB chunks, each chunk into buffers of one
//! class (4, 16, 64 or 128 KiB).
//!
//! Owned by [`crate::Cx`], used by that core's thread only, without locks or allocation: every
//! list has its full capacity from the start. A chunk takes a class when the class runs dry and
//! gives it up when all its buffers are back, so the mix follows the load; one chunk a class never
//! changes, so that no size of I/O can be starved for good by another. Buffers are reused last in,
//! first out, which keeps the same few lines in the cache.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::region::{DmaError, HUGE_PAGE_BYTES, PageKind, PagePreference, Region, RegionId};
use super::segment::Segment;

/// Sizes of buffer, ascending, in bytes.
pub const CLASS_BYTES: [u32; 4] = [4 << 10, 16 << 10, 64 << 10, 128 << 10];

/// The largest buffer, and with it the largest I/O that a front door can take: 128 KiB.
pub const LARGEST_BUFFER_BYTES: u32 = CLASS_BYTES[CLASS_BYTES.len() - 1];

/// Fewest chunks that a pool can be made of: one a class.
pub const CHUNKS_MIN: usize = CLASS_BYTES.len();

/// Most buffers in a chunk: all of the smallest class.
const BUFFERS_PER_CHUNK_MAX: usize = HUGE_PAGE_BYTES / CLASS_BYTES[0] as usize;

const NO_CLASS: u8 = u8::MAX;
const NOT_LISTED: u32 = u32::MAX;

/// How large a core's pool is and what backs it.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Size in 2 MiB chunks, at least [`CHUNKS_MIN`]. Default 32 (64 MiB).
    pub chunks: usize,
    /// Which pages to ask for.
    pub pages: PagePreference,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { chunks: 32, pages: PagePreference::HugeFirst }
    }
}

/// A buffer of the pool, owned until [`DmaPool::give`]. Dropping it instead loses it to the pool,
/// which is why it must not be dropped.
#[derive(Debug)]
#[must_use = "a buffer goes back to its pool with `give`"]
pub struct DmaBuffer {
    address: NonNull<u8>,
    len_bytes: u32,
    region: RegionId,
    chunk: u32,
}

#[cfg(feature = "simulation")]
impl Drop for DmaBuffer {
    fn drop(&mut self) {
        let DmaBuffer { address, len_bytes, region, chunk } = *self;
        super::lost::keep(ManuallyDrop::new(DmaBuffer { address, len_bytes, region, chunk }));
    }
}

impl DmaBuffer {
    #[cfg(feature = "simulation")]
    pub(super) fn is_of(&self, region: RegionId) -> bool {
        self.region == region
    }

    /// Length of the buffer (that of its class), in bytes.
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// The first `len_bytes` as a segment for an I/O.
    pub fn segment(&self, len_bytes: u32) -> Segment {
        assert!(len_bytes <= self.len_bytes, "a segment must fit its buffer");
        // SAFETY: memory of a pool stays mapped for the life of the process; the holder of the
        // buffer makes no slice of it while an I/O has the segment.
        unsafe { Segment::from_raw(self.address, len_bytes, self.region) }
    }

    /// The first `len_bytes`, for the processor to read. Not while an I/O has the buffer.
    pub fn bytes(&self, len_bytes: u32) -> &[u8] {
        assert!(len_bytes <= self.len_bytes, "a slice must fit its buffer");
        // SAFETY: mapped, initialised (zeroed at mapping) memory owned by this buffer alone.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), len_bytes as usize) }
    }

    /// All of it, for the processor to write. Not while an I/O has the buffer.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow makes this the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len_bytes as usize) }
    }
}

/// Buffers of one 2 MiB piece of the region.
#[derive(Debug)]
struct Chunk {
    class: u8,
    /// Its place in the class's list of chunks with free buffers, or `NOT_LISTED`.
    listed_at: u32,
    free: Vec<u16>,
}

/// The buffers of one core.
#[derive(Debug)]
pub struct DmaPool {
    region: Region,
    chunks: Vec<Chunk>,
    /// By class: chunks that have a free buffer.
    available: [Vec<u32>; CLASS_BYTES.len()],
    /// Chunks without a class.
    unused: Vec<u32>,
    taken: u32,
    exhausted: u64,
}

/// A pool ends with its core. Tests have many, one after the other.
impl Drop for DmaPool {
    fn drop(&mut self) {
        // Memory that is still out may be a device's.
        if self.taken == 0 {
            self.region.give_back();
        }
    }
}

impl DmaPool {
    /// Maps the region and cuts it. Called on the core's own thread, once, at start.
    pub fn new(config: PoolConfig) -> Result<DmaPool, DmaError> {
        let count = config.chunks.max(CHUNKS_MIN);
        let region = Region::map(count.saturating_mul(HUGE_PAGE_BYTES), config.pages)?;
        let chunk = |_| Chunk {
            class: NO_CLASS,
            listed_at: NOT_LISTED,
            free: Vec::with_capacity(BUFFERS_PER_CHUNK_MAX),
        };
        let last = u32::try_from(count).expect("fewer than 2^32 chunks were mapped");
        let mut pool = DmaPool {
            region,
            chunks: (0..count).map(chunk).collect(),
            available: std::array::from_fn(|_| Vec::with_capacity(count)),
            unused: (0..last).rev().collect(),
            taken: 0,
            exhausted: 0,
        };
        for class in 0..CLASS_BYTES.len() {
            assert!(pool.grow(class), "a pool has a chunk for every class");
        }
        Ok(pool)
    }

    /// A buffer of at least `len_bytes`, or nothing when there is none left (or none so large).
    /// Its contents are whatever was last in it.
    pub fn take(&mut self, len_bytes: u32) -> Option<DmaBuffer> {
        let class = CLASS_BYTES.iter().position(|bytes| *bytes >= len_bytes)?;
        for class in class..CLASS_BYTES.len() {
            if !self.available[class].is_empty() || self.grow(class) {
                return Some(self.take_from(class));
            }
        }
        self.exhausted += 1;
        None
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: DmaBuffer) {
        // With the feature `simulation` a buffer that is dropped counts as lost.
        let buffer = ManuallyDrop::new(buffer);
        assert_eq!(buffer.region, self.region.id(), "a buffer goes back to its own pool");
        let chunk_index = buffer.chunk;
        let chunk = &mut self.chunks[chunk_index as usize];
        let class = usize::from(chunk.class);
        let start = chunk_index as usize * HUGE_PAGE_BYTES;
        let offset = buffer.address.as_ptr().addr() - self.region.base().as_ptr().addr() - start;
        let index = offset / CLASS_BYTES[class] as usize;
        chunk.free.push(u16::try_from(index).expect("a chunk has at most 512 buffers"));
        let whole = chunk.free.len() == buffers_per_chunk(class);
        if chunk.listed_at == NOT_LISTED {
            self.list(class, chunk_index);
        }
        self.taken -= 1;
        // While it is the class's only supply it stays, or a load at the edge would cut it anew
        // for every buffer; another class in need can still take it (`grow`).
        if whole && self.available[class].len() > 1 && chunk_index as usize >= CLASS_BYTES.len() {
            self.release(chunk_index);
        }
    }

    /// Takes back what was dropped on this thread, of a simulated process that is gone with all
    /// that could still touch it.
    #[cfg(feature = "simulation")]
    pub fn regain(&mut self) {
        super::lost::take(self.region.id()).into_iter().for_each(|buffer| self.give(buffer));
    }

    /// Buffers taken and not given back.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// How often `take` found nothing.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// The region that all buffers are cut from, for a device to be shown.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Which pages back the pool.
    pub fn pages(&self) -> PageKind {
        self.region.pages()
    }

    /// Size in bytes.
    pub fn len_bytes(&self) -> usize {
        self.region.len_bytes()
    }

    fn take_from(&mut self, class: usize) -> DmaBuffer {
        let chunk_index = *self.available[class].last().expect("the caller saw an available chunk");
        let chunk = &mut self.chunks[chunk_index as usize];
        let index = usize::from(chunk.free.pop().expect("a listed chunk has a free buffer"));
        if chunk.free.is_empty() {
            self.unlist(class, chunk_index);
        }
        self.taken += 1;
        let len_bytes = CLASS_BYTES[class];
        let offset = chunk_index as usize * HUGE_PAGE_BYTES + index * len_bytes as usize;
        // SAFETY: chunk and index are within the region, so the offset is too.
        let address = unsafe { self.region.base().add(offset) };
        DmaBuffer { address, len_bytes, region: self.region.id(), chunk: chunk_index }
    }

    /// Takes the class from a chunk whose buffers are all back.
    fn release(&mut self, chunk_index: u32) {
        self.unlist(usize::from(self.chunks[chunk_index as usize].class), chunk_index);
        let chunk = &mut self.chunks[chunk_index as usize];
        chunk.class = NO_CLASS;
        chunk.free.clear();
        self.unused.push(chunk_index);
    }

    /// Gives an unused chunk to a class, or one that another class has but does not use; false
    /// when there is neither. The first chunks, one a class, never change.
    fn grow(&mut self, class: usize) -> bool {
        if self.unused.is_empty() {
            let whole = |chunk: &Chunk| {
                chunk.class != NO_CLASS
                    && chunk.free.len() == buffers_per_chunk(usize::from(chunk.class))
            };
            let changeable = &self.chunks[CLASS_BYTES.len().min(self.chunks.len())..];
            if let Some(place) = changeable.iter().position(whole) {
                let chunk_index = u32::try_from(CLASS_BYTES.len() + place);
                self.release(chunk_index.expect("fewer than 2^32 chunks were mapped"));
            }
        }
        let Some(chunk_index) = self.unused.pop() else { return false };
        let chunk = &mut self.chunks[chunk_index as usize];
        chunk.class = u8::try_from(class).expect("there are four classes");
        let count = u16::try_from(buffers_per_chunk(class)).expect("at most 512 a chunk");
        chunk.free.extend((0..count).rev());
        self.list(class, chunk_index);
        true
    }

    fn list(&mut self, class: usize, chunk_index: u32) {
        let place = u32::try_from(self.available[class].len()).expect("a listed chunk is a chunk");
        self.available[class].push(chunk_index);
        self.chunks[chunk_index as usize].listed_at = place;
    }

    fn unlist(&mut self, class: usize, chunk_index: u32) {
        let place = self.chunks[chunk_index as usize].listed_at;
        self.available[class].swap_remove(place as usize);
        if let Some(moved) = self.available[class].get(place as usize) {
            self.chunks[*moved as usize].listed_at = place;
        }
        self.chunks[chunk_index as usize].listed_at = NOT_LISTED;
    }
}

const fn buffers_per_chunk(class: usize) -> usize {
    HUGE_PAGE_BYTES / CLASS_BYTES[class] as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(chunks: usize) -> DmaPool {
        DmaPool::new(PoolConfig { chunks, pages: PagePreference::Ordinary }).unwrap()
    }

    #[test]
    fn a_buffer_is_of_the_smallest_class_that_fits() {
        let mut pool = pool(CHUNKS_MIN);
        for (len_bytes, expected) in [(1, 4096), (4096, 4096), (4097, 16384), (131_072, 131_072)] {
            let buffer = pool.take(len_bytes).unwrap();
            assert_eq!(buffer.len_bytes(), expected);
            pool.give(buffer);
        }
        assert!(pool.take(LARGEST_BUFFER_BYTES + 1).is_none());
    }

    #[test]
    fn small_buffers_never_take_the_last_chunk_of_the_large_class_for_good() {
        let mut pool = pool(CHUNKS_MIN + 2);
        let mut held = Vec::new();
        while let Some(buffer) = pool.take(4096) {
            held.push(buffer);
        }
        assert_eq!(pool.exhausted(), 1);
        assert!(pool.take(131_072).is_none());
        for buffer in held.drain(..) {
            pool.give(buffer);
        }
        assert_eq!(pool.taken(), 0);
        assert!(pool.take(131_072).is_some());
    }

    #[cfg(feature = "simulation")]
    #[test]
    fn a_dropped_buffer_is_lost_until_its_own_pool_regains_it() {
        let (mut one, mut other) = (pool(CHUNKS_MIN), pool(CHUNKS_MIN));
        drop(one.take(4096).unwrap());
        drop(other.take(131_072).unwrap());
        let given = one.take(4096).unwrap();
        one.give(given);
        assert_eq!((one.taken(), other.taken()), (1, 1));
        one.regain();
        assert_eq!((one.taken(), other.taken()), (0, 1));
        other.regain();
        assert_eq!(other.taken(), 0);
    }

    #[test]
    fn a_chunk_changes_its_class_once_all_its_buffers_are_back() {
        let mut pool = pool(CHUNKS_MIN + 1);
        let small: Vec<_> = (0..1024).map(|_| pool.take(4096).unwrap()).collect();
        for buffer in small {
            pool.give(buffer);
        }
        let large: Vec<_> = (0..32).map(|_| pool.take(131_072).unwrap()).collect();
        assert!(pool.take(131_072).is_none());
        for buffer in large {
            pool.give(buffer);
        }
    }

    proptest! {
        #[test]
        fn buffers_never_overlap_and_all_come_back(
            steps in prop::collection::vec((any::<bool>(), 1_u32..=131_072, any::<u16>()), 1..400),
        ) {
            let mut pool = pool(CHUNKS_MIN + 2);
            let mut held: Vec<DmaBuffer> = Vec::new();
            for (take, len_bytes, pick) in steps {
                if take {
                    let Some(buffer) = pool.take(len_bytes) else { continue };
                    let start = buffer.address.as_ptr().addr();
                    let end = start + buffer.len_bytes as usize;
                    for other in &held {
                        let from = other.address.as_ptr().addr();
                        prop_assert!(end <= from || from + other.len_bytes as usize <= start);
                    }
                    held.push(buffer);
                } else if !held.is_empty() {
                    let index = usize::from(pick) % held.len();
                    pool.give(held.swap_remove(index));
                }
                prop_assert_eq!(pool.taken() as usize, held.len());
            }
            for buffer in held {
                pool.give(buffer);
            }
            prop_assert_eq!(pool.taken(), 0);
        }
    }
}
