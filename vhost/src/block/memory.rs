//! The memory of an I/O over the segments of a request.
//!
//! Called by [`super::Request::io`] on the ring's core.

use bdev::Memory;
use reactor::dma::Segment;

/// Memory over segments that a request in its slot keeps until the I/O has completed.
pub(super) fn of(segments: &[Segment]) -> Memory {
    match segments {
        [] => Memory::None,
        [one] => Memory::One(*one),
        // SAFETY: the array is on the heap, belongs to a request, and changes only in
        // `Request::parse`, which a slot calls when no I/O of the one before is left; slots are
        // kept until their ring has nothing in flight (`core::ring`).
        many => unsafe { Memory::many(many) },
    }
}
