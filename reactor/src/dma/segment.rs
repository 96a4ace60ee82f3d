//! A piece of DMA memory inside an I/O: address, length, region.
//!
//! Copy, and without a lifetime, because an I/O is handed from layer to layer by value. That is
//! sound because regions are never unmapped; what a segment names is decided by whoever owns the
//! buffer under it until the I/O completes (completion is release, ARCHITECTURE 3).

use std::io::{IoSlice, IoSliceMut};
use std::ptr::NonNull;

use super::region::RegionId;

/// Address, length and region of a contiguous piece of DMA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    address: NonNull<u8>,
    len_bytes: u32,
    region: RegionId,
}

impl Segment {
    /// A segment over memory that is not from a [`super::DmaPool`] (a guest's memory, a test's).
    ///
    /// # Safety
    /// The memory must stay mapped, readable and writable until every I/O that was given the
    /// segment, or a part of it, has completed, and nobody may hold a reference to it meanwhile.
    pub const unsafe fn from_raw(address: NonNull<u8>, len_bytes: u32, region: RegionId) -> Self {
        Segment { address, len_bytes, region }
    }

    /// First byte.
    pub const fn address(self) -> NonNull<u8> {
        self.address
    }

    /// Length in bytes.
    pub const fn len_bytes(self) -> u32 {
        self.len_bytes
    }

    /// The region that it is in.
    pub const fn region(self) -> RegionId {
        self.region
    }

    /// The part from `offset_bytes` on, `len_bytes` long. Panics when that is not inside.
    #[must_use]
    pub fn part(self, offset_bytes: u32, len_bytes: u32) -> Segment {
        let end = offset_bytes.checked_add(len_bytes).expect("a segment part ends below 4 GiB");
        assert!(end <= self.len_bytes, "a segment part must lie inside its segment");
        // SAFETY: the offset is within the segment, which is one allocation.
        let address = unsafe { self.address.add(offset_bytes as usize) };
        Segment { address, len_bytes, region: self.region }
    }

    /// Copies `from` to `offset_bytes` of the segment. Panics when it does not fit.
    pub fn write(self, offset_bytes: u32, from: &[u8]) {
        let len_bytes = u32::try_from(from.len()).expect("an I/O is shorter than 4 GiB");
        let target = self.part(offset_bytes, len_bytes);
        // SAFETY: `target` is mapped memory of this length (see `from_raw` and the pool), and no
        // reference to it exists, so it cannot overlap `from`.
        unsafe { target.address.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// Copies from `offset_bytes` of the segment into `into`. Panics when there is less.
    pub fn read(self, offset_bytes: u32, into: &mut [u8]) {
        let len_bytes = u32::try_from(into.len()).expect("an I/O is shorter than 4 GiB");
        let source = self.part(offset_bytes, len_bytes);
        // SAFETY: as in `write`, with the direction turned round.
        unsafe { into.as_mut_ptr().copy_from_nonoverlapping(source.address.as_ptr(), into.len()) };
    }

    /// `len_bytes` from `offset_bytes` on, for a socket to send. Panics when that is not inside.
    ///
    /// For the layer that holds the I/O, while it is in flight.
    pub fn io_slice(&self, offset_bytes: u32, len_bytes: u32) -> IoSlice<'_> {
        let part = self.part(offset_bytes, len_bytes);
        // SAFETY: mapped, initialised memory of this length (see `from_raw` and the pool). The I/O
        // in flight owns it: its submitter holds no reference until the completion, and the layer
        // that holds the I/O is on this thread and writes nothing to what it is sending.
        IoSlice::new(unsafe {
            std::slice::from_raw_parts(part.address.as_ptr(), part.len_bytes as usize)
        })
    }

    /// `len_bytes` from `offset_bytes` on, for a socket to fill. Panics when that is not inside.
    ///
    /// For the layer that holds the I/O, while it is in flight; it makes one slice of a place at a
    /// time.
    pub fn io_slice_mut(&self, offset_bytes: u32, len_bytes: u32) -> IoSliceMut<'_> {
        let part = self.part(offset_bytes, len_bytes);
        // SAFETY: as in `io_slice`; the layer that holds the I/O asks for distinct parts, uses them
        // in one call of its socket and keeps none.
        IoSliceMut::new(unsafe {
            std::slice::from_raw_parts_mut(part.address.as_ptr(), part.len_bytes as usize)
        })
    }

    /// Writes zeroes over the whole segment.
    pub fn fill_zero(self) {
        // SAFETY: mapped memory of this length, and no reference to it exists.
        unsafe { self.address.as_ptr().write_bytes(0, self.len_bytes as usize) };
    }
}
