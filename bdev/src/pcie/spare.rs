//! Regions that the queues of detached controllers have left: regions are never unmapped, so the
//! next controller takes them first. Control threads only; the lock is never near an I/O.

use std::sync::{Mutex, PoisonError};

use reactor::dma::Region;

#[derive(Debug)]
struct Spare(Region);

// SAFETY: a region is a name and an address; its memory is reached through `QueueMemory` alone.
unsafe impl Send for Spare {}

static SPARE: Mutex<Vec<Spare>> = Mutex::new(Vec::new());

/// A region that nobody uses any more.
pub(super) fn take() -> Option<Region> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|spare| spare.0)
}

/// Leaves a region that no device can reach any more.
pub(super) fn give(region: Region) {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(Spare(region));
}
