//! A RAM disk.
//!
//! [`memory`] is its memory, [`chunks`] which of it was written, [`queue_pair`] one core's way to
//! it. The device is shared by all
//! cores; memory is populated as it is written and goes back to the system when it is unmapped or
//! the device is dropped.

mod chunks;
mod memory;
mod queue_pair;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::allocation::{Allocation, AllocationError, AllocationQuery, Pace};
use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::io::Lba;
use crate::legality::{self, GeometryError};
use crate::queue_pair::QueuePair;
use crate::range_lock::RangeLock;

use chunks::Chunks;
use memory::DiskMemory;
pub use memory::MemoryError;
use queue_pair::MallocQueuePair;

/// Longest compare-and-write, in bytes: what one I/O of the largest DMA buffer can carry twice
/// over, so no front door meets it.
pub const ATOMIC_BYTES_MAX: u32 = 128 << 10;

/// Why a RAM disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MallocError {
    /// No device can have this geometry.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The device.
#[derive(Debug)]
pub struct Malloc {
    name: String,
    uuid: Option<Uuid>,
    shared: Arc<Shared>,
}

/// What the queue pairs of all cores use; lives as long as the last of them.
#[derive(Debug)]
struct Shared {
    geometry: Geometry,
    memory: DiskMemory,
    chunks: Chunks,
    lock: RangeLock,
}

impl Malloc {
    /// A RAM disk full of zeroes.
    pub fn new(
        name: impl Into<String>,
        geometry: Geometry,
        uuid: Option<Uuid>,
    ) -> Result<Malloc, MallocError> {
        legality::check_geometry(geometry)?;
        let memory = DiskMemory::map(geometry.len_bytes())?;
        let chunks = Chunks::of(geometry.len_bytes());
        let shared = Shared { geometry, memory, chunks, lock: RangeLock::new() };
        Ok(Malloc { name: name.into(), uuid, shared: Arc::new(shared) })
    }
}

impl BlockDevice for Malloc {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    fn limits(&self) -> Limits {
        let atomic_blocks = ATOMIC_BYTES_MAX / self.shared.geometry.block_bytes;
        Limits { atomic_blocks, ..Limits::default() }
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        Some(self.shared.clone())
    }

    /// A second one has every I/O take its range.
    fn is_best_alone(&self) -> bool {
        true
    }

    fn open_queue_pair(&self, _cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        Ok(Box::new(MallocQueuePair::open(self.shared.clone(), self.limits(), depth.max(1))))
    }
}

impl AllocationQuery for Shared {
    fn pace(&self) -> Pace {
        Pace::AtOnce
    }

    fn look(&self, range: Range<Lba>, extents_max: usize) -> Result<Allocation, AllocationError> {
        assert!(range.end.0 <= self.geometry.blocks, "a look stays inside the device");
        Ok(self.chunks.look(range, u64::from(self.geometry.block_bytes), extents_max))
    }
}
