//! What files and block devices have in common, whatever interface of the kernel carries the I/O.
//!
//! [`backing`] opens the file, exclusively, and knows its size, its alignment and what the kernel
//! can do to ranges of it. [`queue_pair`] makes a queue pair of anything that takes [`Command`]s
//! and gives back results: the rings of [`crate::uring`] and the contexts of [`crate::aio`]. It
//! is where short transfers are continued and errors become statuses, once for both.
//!
//! Backings are opened on control threads and shared by all cores; the rest belongs to one core.

mod allocation;
pub mod backing;
mod command;
mod device;
#[cfg(test)]
mod disk_tests;
mod error;
mod ioctl;
#[cfg(test)]
mod loop_device;
pub(crate) mod queue_pair;
mod range;
#[cfg(test)]
mod scarce;
mod sidecar;
mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vectors;

pub use backing::{Access, Backing, Buffered, WriteCache};
pub(crate) use command::{Command, Durability, Port, Reaped, Watch};
pub use device::FileDevice;
pub(crate) use device::Interface;
pub use error::FileError;
pub use range::RangeMode;
pub(crate) use vectors::{Shape, Vectors};

use std::sync::Arc;

use crate::allocation::AllocationQuery;
use crate::device::{Limits, OperationSet};
use crate::io::Operation;
use crate::reservation::ReservationStore;
use allocation::FileAllocation;
use sidecar::Sidecar;

/// Most segments of an I/O. Longer lists are cut by [`crate::split`]; a front door's lists are
/// shorter, so that none of its I/Os is.
pub const SEGMENTS_MAX: u32 = 64;

/// Longest range that is zeroed or unmapped in one go, 1 GiB: an abort waits for no more.
pub const RANGE_BYTES_MAX: u64 = 1 << 30;

/// I/Os of one queue pair that the kernel has at once. What else was accepted waits for its turn;
/// no disk is faster with more from one core.
pub const KERNEL_DEPTH_MAX: u32 = 256;

/// What a queue pair over this backing takes.
pub(crate) fn limits(backing: &Backing) -> Limits {
    let block_bytes = backing.block_bytes();
    let mut limits = Limits {
        segments_max: SEGMENTS_MAX,
        alignment_bytes: backing.alignment_bytes(),
        operations: OperationSet::BASIC,
        volatile_cache: backing.write_cache() == WriteCache::Volatile,
        read_only: backing.access() == Access::ReadOnly,
        ..Limits::default()
    };
    if backing.has_ranges() {
        limits.operations = limits.operations.with(Operation::WriteZeroes).with(Operation::Unmap);
        let blocks = RANGE_BYTES_MAX / u64::from(block_bytes);
        limits.range_blocks_max = u32::try_from(blocks).expect("a GiB has few blocks");
    }
    limits
}

/// Where reservations are kept: beside a file that can be written. A block device has nothing
/// beside it that goes where it goes.
pub(crate) fn reservation_store(backing: &Backing) -> Option<Arc<dyn ReservationStore>> {
    let is_kept = backing.is_file() && backing.access() == Access::ReadWrite;
    is_kept.then(|| Arc::new(Sidecar::beside(backing.path())) as Arc<dyn ReservationStore>)
}

/// What tells where a file has data. Of a block device nobody knows.
pub(crate) fn allocation(backing: &Arc<Backing>) -> Option<Arc<dyn AllocationQuery>> {
    let query = || Arc::new(FileAllocation::of(Arc::downgrade(backing)));
    backing.is_file().then(|| query() as Arc<dyn AllocationQuery>)
}

/// One line for the operator: which interface, and whether past the page cache.
pub(crate) fn about(interface: &str, backing: &Backing) -> String {
    let access = match backing.access() {
        Access::ReadWrite => "",
        Access::ReadOnly => ", read-only",
    };
    match backing.buffered() {
        None => format!("{interface}, direct{access}"),
        Some(reason) => format!("{interface}, buffered ({reason}){access}"),
    }
}
