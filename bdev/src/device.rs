//! A block device: what hands out one queue pair a core.

use std::fmt::Debug;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::allocation::AllocationQuery;
use crate::io::Operation;
use crate::queue_pair::QueuePair;
use crate::reservation::{DeviceReservations, ReservationStore};
use crate::session::Sessions;

/// Size of the device and of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes a block: a power of two, 512 to 4096.
    pub block_bytes: u32,
    /// Number of blocks.
    pub blocks: u64,
}

/// Smallest block: 512 bytes.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// Largest block: 4 KiB.
pub const BLOCK_BYTES_MAX: u32 = 4096;

impl Geometry {
    /// Size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }
}

/// A set of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationSet(u8);

impl OperationSet {
    /// Every operation.
    pub const ALL: OperationSet = OperationSet(0xff);
    /// Reads, writes and flushes: what every device has.
    pub const BASIC: OperationSet = OperationSet(0b111);

    /// True when `operation` is in the set.
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }

    /// The set without `operation`.
    #[must_use]
    pub const fn without(self, operation: Operation) -> OperationSet {
        OperationSet(self.0 & !(1 << operation as u8))
    }

    /// The set with `operation`.
    #[must_use]
    pub const fn with(self, operation: Operation) -> OperationSet {
        OperationSet(self.0 | (1 << operation as u8))
    }
}

/// What a single I/O of the device may be like. [`crate::split`] cuts those that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest I/O with memory, in blocks.
    pub io_blocks_max: u32,
    /// Longest I/O without memory (write zeroes, unmap, verify), in blocks.
    pub range_blocks_max: u32,
    /// Most segments.
    pub segments_max: u32,
    /// No I/O with memory may cross a multiple of this many blocks; zero means no boundary.
    pub boundary_blocks: u32,
    /// Alignment of a segment's address, in bytes: a power of two.
    pub alignment_bytes: u32,
    /// Blocks that a write changes all or none of, when power or the process is lost.
    pub atomic_blocks: u32,
    /// What it can do itself.
    pub operations: OperationSet,
    /// Completed writes may be lost with power until a flush.
    pub volatile_cache: bool,
    /// Unmapped blocks read as zeroes. Where false, unmap is done as write zeroes.
    pub unmap_zeroes: bool,
    /// Writes are refused.
    pub read_only: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            io_blocks_max: u32::MAX,
            range_blocks_max: u32::MAX,
            segments_max: u32::MAX,
            boundary_blocks: 0,
            alignment_bytes: 1,
            atomic_blocks: 1,
            operations: OperationSet::ALL,
            volatile_cache: false,
            unmap_zeroes: true,
            read_only: false,
        }
    }
}

/// Why a queue pair could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused something the queue pair needs.
    #[error("cannot open a queue pair on {device}")]
    System {
        /// The device's name.
        device: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Why a device cannot have another size.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// Its size is not ours to change: memory is mapped once, a disk grows by its own means, which
    /// [`BlockDevice::geometry`] then sees.
    #[error("{device} has a size that is not changed from here")]
    Fixed {
        /// The device's name.
        device: String,
    },
    /// It would lose what it holds.
    #[error("{device} has {blocks} blocks and cannot have fewer: {asked_blocks} were asked for")]
    Smaller {
        /// The device's name.
        device: String,
        /// What it has.
        blocks: u64,
        /// What was asked for.
        asked_blocks: u64,
    },
    /// No device can have this size.
    #[error("{device} cannot have the size asked for")]
    Geometry {
        /// The device's name.
        device: String,
        /// Why not.
        #[source]
        source: crate::legality::GeometryError,
    },
    /// The system refused.
    #[error("cannot grow {device}")]
    System {
        /// The device's name.
        device: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A block device. Shared by all cores; I/O goes through the queue pairs.
pub trait BlockDevice: Debug + Send + Sync {
    /// Its name: the path part of its URI.
    fn name(&self) -> &str;

    /// What an operator should know of how it is reached, in a few words; nothing where there is
    /// nothing to know. Wrappers say what the device below them says.
    fn about(&self) -> Option<String> {
        None
    }

    /// Its size now: asked of the system where it can change, so for control threads only. A queue
    /// pair that is opened later has it; those open already may keep to the size that they saw.
    fn geometry(&self) -> Geometry;

    /// Gives it a size of so many blocks, at least as many as it has, and tells the size that it
    /// has then. Control threads only.
    ///
    /// # Errors
    ///
    /// Each by its name in [`ResizeError`]; the size is then as it was.
    fn resize(&self, _blocks: u64) -> Result<Geometry, ResizeError> {
        Err(ResizeError::Fixed { device: self.name().to_owned() })
    }

    /// What its queue pairs accept.
    fn limits(&self) -> Limits;

    /// Its identity, when it has one of its own (`uuid=` in the URI).
    fn uuid(&self) -> Option<Uuid>;

    /// Where it keeps reservations through a loss of power; nothing where it has no place for
    /// them. Wrappers hand out that of the device below them.
    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        None
    }

    /// Its reservations, when it is one that keeps them itself against other hosts: a remote one, a
    /// drive. Wrappers hand out those of the device below them.
    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        None
    }

    /// What tells which of its blocks were written; nothing where nobody knows. Wrappers hand out
    /// that of the device below them.
    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        None
    }

    /// Its sessions, when it is one that can go away and come back: a remote one. Wrappers hand out
    /// those of the device below them.
    fn sessions(&self) -> Option<Arc<Sessions>> {
        None
    }

    /// True when its I/O costs more while several queue pairs are open, and opening one costs
    /// little: whoever uses it seldom closes its own meanwhile. Wrappers say what the device below
    /// them says.
    fn is_best_alone(&self) -> bool {
        false
    }

    /// Opens the calling core's queue pair with room for `depth` I/Os. Slow path: may allocate.
    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError>;
}
