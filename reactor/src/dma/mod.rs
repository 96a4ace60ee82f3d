//! Memory that devices and sockets may be pointed at (ARCHITECTURE 9).
//!
//! [`region`] maps it (2 MiB hugepages first, ordinary locked pages otherwise), [`pool`] cuts one
//! core's region into buffers of a few sizes, [`segment`] names a piece of it inside an I/O.
//! Regions are never unmapped while the process lives: that is what lets a [`Segment`] be a plain
//! Copy value. A region belongs to one core; only that core's thread touches it.

#[cfg(feature = "simulation")]
mod lost;
pub mod pool;
pub mod region;
pub mod segment;

pub use pool::{DmaBuffer, DmaPool, PoolConfig};
pub use region::{DmaError, PageKind, PagePreference, Region, RegionId};
pub use segment::Segment;
