//! Cuts I/Os that are larger than a device takes, and joins their ends.
//!
//! A decorator that [`crate::stack`] places above a device whose limits require it, so that above
//! it one credit is one I/O of any size. [`cut`] says where to cut, [`queue_pair`] does it.
//!
//! Not everything can be cut, and [`check`] says what is refused: a compare-and-write (both or
//! neither cannot be kept over two I/Os), and an I/O of which a single block lies in more segments
//! than the device takes in one I/O. A write that had to be cut is not atomic as a whole: the
//! device then says one atomic block only, unless nothing but its number of segments is limited.

mod cut;
mod queue_pair;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use reactor::Cx;

use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::io::{Io, Operation};
use crate::legality;
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;
use crate::wrapper::Wrapper;
use queue_pair::SplitQueuePair;

/// A device that takes I/Os of any size.
#[derive(Debug)]
pub struct Split {
    inner: Arc<dyn BlockDevice>,
}

impl Split {
    /// Wraps a device.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Split {
        Split { inner }
    }
}

/// True when a device of these limits needs [`Split`] above it.
pub fn is_needed(limits: &Limits) -> bool {
    let Limits { io_blocks_max, range_blocks_max, segments_max, boundary_blocks, .. } = *limits;
    [io_blocks_max, range_blocks_max, segments_max] != [u32::MAX; 3] || boundary_blocks != 0
}

/// What a split device of these inner limits says of itself.
fn outer_limits(inner: Limits) -> Limits {
    let atomic_blocks = match inner.boundary_blocks {
        0 => inner.atomic_blocks.min(inner.io_blocks_max),
        // A write of two blocks may cross it.
        _ => 1,
    };
    Limits {
        io_blocks_max: u32::MAX,
        range_blocks_max: u32::MAX,
        segments_max: u32::MAX,
        boundary_blocks: 0,
        atomic_blocks,
        ..inner
    }
}

/// The check of an I/O for a split device whose inner device has the limits `inner`.
pub fn check(io: &Io, geometry: &Geometry, inner: &Limits) -> Result<(), Status> {
    legality::check(io, geometry, &outer_limits(*inner))?;
    if io.memory.segments().len() <= inner.segments_max as usize {
        return Ok(());
    }
    let whole = io.operation == Operation::CompareAndWrite;
    if whole || !cut::every_block_fits(io, geometry, inner) {
        return Err(Status::INVALID_SGL_DESCRIPTOR_COUNT);
    }
    Ok(())
}

impl Wrapper for Split {
    fn inner(&self) -> &dyn BlockDevice {
        &*self.inner
    }

    fn outer_limits(&self) -> Limits {
        outer_limits(self.inner.limits())
    }

    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let (geometry, limits) = (self.geometry(), self.inner.limits());
        let unusable = [limits.io_blocks_max, limits.range_blocks_max, limits.segments_max]
            .contains(&0)
            .then_some("its limits allow no I/O at all");
        // Cuts are between blocks, so a longer alignment could be lost at one.
        let uneven = (limits.alignment_bytes > geometry.block_bytes)
            .then_some("its memory must be aligned to more than a block");
        if let Some(reason) = unusable.or(uneven) {
            let source = std::io::Error::new(std::io::ErrorKind::Unsupported, reason);
            return Err(OpenError::System { device: self.name().to_owned(), source });
        }
        let inner = self.inner.open_queue_pair(cx, depth)?;
        Ok(Box::new(SplitQueuePair::new(inner, geometry, limits, depth.max(1))))
    }
}
