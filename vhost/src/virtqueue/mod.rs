//! Split virtqueues over a guest's memory, from the side of the device (virtio 1.2 section 2.7).
//!
//! [`access`] is the only module that touches a ring, [`chain`] walks descriptors, [`queue`] keeps
//! the indices, [`inflight`] what outlives the process. The guest is hostile: each number is read
//! once, checked, and then used.

pub mod access;
pub mod chain;
pub mod inflight;
pub mod layout;
pub mod queue;
#[cfg(test)]
mod tests;

pub use access::{Ring, RingAddresses, RingError};
pub use chain::{ChainBuffer, ChainError, Indirect};
pub use inflight::Inflight;
pub use queue::{Call, QueueError, QueueFeatures, SplitQueue, Suppression};
