//! A list of segments that a layer builds for an I/O of its own and keeps until it completes.
//!
//! Owned by the layer's slot for that I/O, used on the core's thread. Its room is taken when the
//! queue pair is opened; it is refilled for each I/O without allocation.

use reactor::dma::Segment;

use crate::io::Memory;

/// Segments of one I/O, in order.
#[derive(Debug, Default)]
pub(crate) struct SegmentList {
    segments: Vec<Segment>,
}

impl SegmentList {
    /// An empty list with room for `segments_max`.
    pub(crate) fn with_capacity(segments_max: usize) -> SegmentList {
        SegmentList { segments: Vec::with_capacity(segments_max) }
    }

    /// Replaces the contents. Only while no I/O has the list.
    pub(crate) fn fill(&mut self, segments: impl Iterator<Item = Segment>) {
        self.segments.clear();
        self.segments.extend(segments);
    }

    /// The memory of an I/O over the list, which stays as it is until that I/O has completed:
    /// within this crate that is the rule of whoever owns the list.
    pub(crate) fn memory(&self) -> Memory {
        match self.segments.as_slice() {
            [] => Memory::None,
            [one] => Memory::One(*one),
            // SAFETY: the array is on the heap and changes in `fill` only, which the owner does
            // not call, nor drop the list, before the I/O has completed.
            many => unsafe { Memory::many(many) },
        }
    }
}
