//! A chain of descriptors as segments: what the device may read, then what it may write.
//!
//! Walked once on the ring's core, when a request is taken; afterwards only the copy is looked at,
//! whatever the guest does to its descriptors. Every step is bounded: a loop, a chain that is too
//! long, an index outside of its table, a buffer outside of memory all end the walk with an error,
//! and the ring with it (virtio 1.2 section 2.7.5 calls each of them a mistake of the driver).

use reactor::dma::Segment;

use super::access::{Ring, indirect_descriptor};
use super::layout::{
    CHAIN_DESCRIPTORS_MAX, DESCRIPTOR_BYTES, Descriptor, FLAG_INDIRECT, FLAG_NEXT, FLAG_WRITE,
};
use crate::memory::{GuestAddress, MemoryMap};

/// Most segments of a chain. A buffer is more than one only where it runs from one region of memory
/// into the next.
pub const CHAIN_SEGMENTS_MAX: usize = CHAIN_DESCRIPTORS_MAX as usize + 8;

/// Most bytes of a chain: less than 2^32 (section 2.7.5.2).
pub const CHAIN_BYTES_MAX: u64 = u32::MAX as u64;

/// Whether buffers may hold descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indirect {
    /// They may.
    Allowed,
    /// It was not negotiated.
    Refused,
}

/// What is wrong with a chain; the driver broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An index that is not in its table.
    #[error("a chain names descriptor {index}, which its table does not have")]
    Index {
        /// The index.
        index: u16,
    },
    /// Too many descriptors, or a loop.
    #[error("a chain has more than {CHAIN_DESCRIPTORS_MAX} descriptors, or goes round in a loop")]
    Long,
    /// A buffer that is not all in memory.
    #[error("a buffer at {address:#x} of {len_bytes} bytes is outside of the guest's memory")]
    Outside {
        /// Where it begins.
        address: u64,
        /// Its length.
        len_bytes: u32,
    },
    /// More segments than there is room for.
    #[error("a chain is cut into more than {CHAIN_SEGMENTS_MAX} pieces")]
    Pieces,
    /// A buffer to be read behind one to be written.
    #[error("a chain has a buffer to be read behind one to be written")]
    Order,
    /// More bytes than a chain may have.
    #[error("a chain has more than {CHAIN_BYTES_MAX} bytes")]
    Heavy,
    /// Indirect where it may not be, or with a table that is none.
    #[error("a chain has an indirect descriptor where none may be, or with a malformed table")]
    Indirect,
}

/// A chain's segments, with room for the longest: reused for chain after chain.
#[derive(Debug)]
pub struct ChainBuffer {
    segments: Vec<Segment>,
    readable: usize,
    readable_bytes: u64,
    writable_bytes: u64,
}

impl Default for ChainBuffer {
    fn default() -> Self {
        ChainBuffer {
            segments: Vec::with_capacity(CHAIN_SEGMENTS_MAX),
            readable: 0,
            readable_bytes: 0,
            writable_bytes: 0,
        }
    }
}

impl ChainBuffer {
    /// What the device may read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// What the device may write.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }

    /// Bytes of what may be read.
    pub fn readable_bytes(&self) -> u64 {
        self.readable_bytes
    }

    /// Bytes of what may be written.
    pub fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }

    /// Walks the chain that begins at `head`.
    ///
    /// # Errors
    ///
    /// Each by its name in [`ChainError`]; the buffer's contents are then of no use.
    pub fn walk(&mut self, ring: &Ring, head: u16, indirect: Indirect) -> Result<(), ChainError> {
        self.segments.clear();
        (self.readable, self.readable_bytes, self.writable_bytes) = (0, 0, 0);
        let memory = ring.memory();
        let mut index = head;
        // A chain is never longer than its ring (section 2.7.5.3.1).
        let mut left = ring.size().min(CHAIN_DESCRIPTORS_MAX);
        loop {
            left = left.checked_sub(1).ok_or(ChainError::Long)?;
            let descriptor = ring.descriptor(index).ok_or(ChainError::Index { index })?;
            if descriptor.flags & FLAG_INDIRECT != 0 {
                let goes_on = descriptor.flags & FLAG_NEXT != 0;
                if indirect == Indirect::Refused || goes_on {
                    return Err(ChainError::Indirect);
                }
                return self.walk_table(memory, descriptor);
            }
            self.add(memory, descriptor)?;
            if descriptor.flags & FLAG_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Walks the chain of an indirect table, from its first entry (section 2.7.5.3).
    fn walk_table(&mut self, memory: &MemoryMap, table: Descriptor) -> Result<(), ChainError> {
        let Descriptor { address, len_bytes, .. } = table;
        let is_whole = len_bytes.is_multiple_of(DESCRIPTOR_BYTES) && len_bytes > 0;
        let count = len_bytes / DESCRIPTOR_BYTES;
        if !is_whole || count > u32::from(u16::MAX) {
            return Err(ChainError::Indirect);
        }
        let mut whole = None;
        let mut take = |segment| whole = whole.or(Some(segment));
        if !memory.pieces(GuestAddress(address), len_bytes, &mut take) {
            return Err(ChainError::Outside { address, len_bytes });
        }
        // A table that runs over into another region is no table of any driver that we know.
        let whole = whole.filter(|segment: &Segment| segment.len_bytes() == len_bytes);
        let table = whole.ok_or(ChainError::Indirect)?;
        let (mut index, mut left) = (0_u16, CHAIN_DESCRIPTORS_MAX);
        loop {
            left = left.checked_sub(1).ok_or(ChainError::Long)?;
            if u32::from(index) >= count {
                return Err(ChainError::Index { index });
            }
            let descriptor = indirect_descriptor(table, index);
            if descriptor.flags & FLAG_INDIRECT != 0 {
                return Err(ChainError::Indirect);
            }
            self.add(memory, descriptor)?;
            if descriptor.flags & FLAG_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Adds the buffer of a descriptor.
    fn add(&mut self, memory: &MemoryMap, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor { address, len_bytes, flags, .. } = descriptor;
        let is_written = flags & FLAG_WRITE != 0;
        let has_written = self.segments.len() > self.readable;
        if has_written && !is_written {
            return Err(ChainError::Order);
        }
        let (segments, mut has_room) = (&mut self.segments, true);
        let is_inside = memory.pieces(GuestAddress(address), len_bytes, |segment| {
            has_room = has_room && segments.len() < CHAIN_SEGMENTS_MAX;
            if has_room {
                segments.push(segment);
            }
        });
        if !is_inside {
            return Err(ChainError::Outside { address, len_bytes });
        }
        if !has_room {
            return Err(ChainError::Pieces);
        }
        if self.readable_bytes + self.writable_bytes + u64::from(len_bytes) > CHAIN_BYTES_MAX {
            return Err(ChainError::Heavy);
        }
        if is_written {
            self.writable_bytes += u64::from(len_bytes);
        } else {
            self.readable = self.segments.len();
            self.readable_bytes += u64::from(len_bytes);
        }
        Ok(())
    }
}
