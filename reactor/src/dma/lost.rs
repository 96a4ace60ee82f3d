//! Buffers that were dropped on this thread instead of given back, for the simulator.
//!
//! A process that crashes takes its memory with it. A simulated one is dropped where it stands,
//! with buffers in it, thousands of times in one real process, whose pools would run dry or grow
//! without end. So with the feature `simulation` a buffer that is dropped is kept here, until
//! [`super::DmaPool::regain`] takes it back, once all that the crashed process was made of is gone.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use super::pool::DmaBuffer;
use super::region::RegionId;

thread_local! {
    static LOST: RefCell<Vec<ManuallyDrop<DmaBuffer>>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a buffer that is being dropped.
pub(super) fn keep(buffer: ManuallyDrop<DmaBuffer>) {
    // A thread that ends has no list any more, and nobody who would take from it.
    let _ = LOST.try_with(|lost| lost.borrow_mut().push(buffer));
}

/// All of a region that were dropped on this thread.
pub(super) fn take(region: RegionId) -> Vec<DmaBuffer> {
    let of_region = |buffer: &mut ManuallyDrop<DmaBuffer>| buffer.is_of(region);
    LOST.with_borrow_mut(|lost| {
        lost.extract_if(.., of_region).map(ManuallyDrop::into_inner).collect()
    })
}
