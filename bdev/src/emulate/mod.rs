//! Gives a device the operations that it lacks, so that every device means the same by each.
//!
//! A decorator that [`crate::stack`] places directly above a device whose limits require it:
//!
//! * write zeroes becomes writes of zeroes;
//! * unmap becomes write zeroes where there is no unmap, or where unmapped blocks may read as
//!   something else: replicas must never differ (ARCHITECTURE 3);
//! * compare becomes a read and a look;
//! * verify becomes reads that nobody looks at;
//! * compare-and-write becomes read, look and write, while other changes of the blocks wait: those
//!   of the same queue pair by [`ranges`], those of other cores by [`cores`]. A device on which
//!   nobody compares and writes pays a fence for the first change in flight and nothing else.
//!
//! [`queue_pair`] does the steps.

mod cores;
mod queue_pair;
mod ranges;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use reactor::Cx;
use reactor::dma::pool::LARGEST_BUFFER_BYTES;

use crate::device::{BlockDevice, Limits, OpenError, OperationSet};
use crate::io::Operation;
use crate::queue_pair::QueuePair;
use crate::wrapper::Wrapper;
use cores::{Cores, Member};
use queue_pair::EmulateQueuePair;

/// A device that has every operation that can be emulated.
#[derive(Debug)]
pub struct Emulate {
    inner: Arc<dyn BlockDevice>,
    /// Who has it open.
    cores: Arc<Cores>,
}

impl Emulate {
    /// Wraps a device.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Emulate {
        let cores = Arc::new(Cores::new(inner.geometry().block_bytes));
        Emulate { inner, cores }
    }

    /// A queue pair's part in keeping changes out of compare-and-writes; nothing where the device
    /// has them itself.
    fn join(&self) -> Result<Option<Member>, OpenError> {
        if self.inner.limits().operations.contains(Operation::CompareAndWrite) {
            return Ok(None);
        }
        let refused = || OpenError::System {
            device: self.name().to_owned(),
            source: std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                "it is open on as many cores as it can be",
            ),
        };
        self.cores.join().map(Some).ok_or_else(refused)
    }
}

/// True when a device of these limits needs [`Emulate`] above it. Not for verify alone: few ask for
/// it, and all I/O would pay; who would verify looks whether the device does, and else reads.
pub fn is_needed(limits: &Limits) -> bool {
    limits.operations.with(Operation::Verify) != OperationSet::ALL || !limits.unmap_zeroes
}

/// What an emulated device of these inner limits says of itself.
fn outer_limits(inner: Limits, block_bytes: u32) -> Limits {
    let native_swap = inner.operations.contains(Operation::CompareAndWrite);
    let operations = OperationSet::ALL;
    let mut limits = Limits { operations, unmap_zeroes: true, ..inner };
    if !native_swap {
        // The write must go down as one I/O of one segment, out of one buffer.
        let buffer_blocks = LARGEST_BUFFER_BYTES / block_bytes;
        limits.atomic_blocks = inner.atomic_blocks.min(inner.io_blocks_max).min(buffer_blocks);
        if inner.boundary_blocks != 0 {
            limits.atomic_blocks = 1;
        }
    }
    let native_unmap = inner.operations.contains(Operation::Unmap) && inner.unmap_zeroes;
    let is_range = |operation| inner.operations.contains(operation);
    if !native_unmap && ![Operation::WriteZeroes, Operation::Verify].into_iter().any(is_range) {
        limits.range_blocks_max = u32::MAX;
    }
    limits
}

impl Wrapper for Emulate {
    fn inner(&self) -> &dyn BlockDevice {
        &*self.inner
    }

    fn outer_limits(&self) -> Limits {
        outer_limits(self.inner.limits(), self.geometry().block_bytes)
    }

    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let member = self.join()?;
        let depth = depth.max(1);
        let inner = self.inner.open_queue_pair(cx, depth)?;
        let limits = (self.inner.limits(), self.limits());
        Ok(Box::new(EmulateQueuePair::new(inner, self.geometry(), limits, depth, member)))
    }
}
