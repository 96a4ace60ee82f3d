//! A walk over a part of an I/O's memory, segment by segment.
//!
//! The data of one PDU is a range of a command's data buffer, and the buffer is a list of segments;
//! sending, receiving, copying and digesting all need the pieces of such a range. Called on the hot
//! path of the core that owns the connection; allocates nothing.

use bdev::Memory;
use reactor::dma::Segment;

/// A contiguous piece of an I/O's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    /// The segment that it is in.
    pub segment: &'a Segment,
    /// Its first byte, from the start of the segment.
    pub offset_bytes: u32,
    /// Its length; never zero.
    pub len_bytes: u32,
}

/// The pieces of `len_bytes` from `offset_bytes` on, in order. What lies past the memory's end is
/// left out: callers check ranges when a PDU's header arrives.
pub(super) fn pieces(
    memory: &Memory,
    offset_bytes: u32,
    len_bytes: u32,
) -> impl Iterator<Item = Piece<'_>> {
    let mut skip = offset_bytes;
    let mut left = len_bytes;
    memory.segments().iter().filter_map(move |segment| {
        let passed = skip.min(segment.len_bytes());
        skip -= passed;
        let len_bytes = (segment.len_bytes() - passed).min(left);
        left -= len_bytes;
        (len_bytes > 0).then_some(Piece { segment, offset_bytes: passed, len_bytes })
    })
}

/// Copies `from` to `offset_bytes` of the memory.
pub(super) fn write(memory: &Memory, offset_bytes: u32, mut from: &[u8]) {
    let len_bytes = u32::try_from(from.len()).expect("staging is shorter than 4 GiB");
    for piece in pieces(memory, offset_bytes, len_bytes) {
        let (now, later) = from.split_at(piece.len_bytes as usize);
        piece.segment.write(piece.offset_bytes, now);
        from = later;
    }
    assert!(from.is_empty(), "a transfer stays inside the memory of its I/O");
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::cx::test_context;

    #[test]
    fn a_range_is_cut_at_the_edges_of_segments() {
        let (mut cx, _) = test_context();
        let buffer = cx.dma.take(4096).unwrap();
        let whole = buffer.segment(4096);
        let list = [whole.part(0, 512), whole.part(1024, 0), whole.part(2048, 1024)];
        // Pieces in the memory of one segment stay; `Memory::many` needs unsafe, so its walk is
        // shown by the same code over each segment in turn.
        let cut = |memory: Memory, offset, length| {
            pieces(&memory, offset, length)
                .map(|piece| (piece.offset_bytes, piece.len_bytes))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(Memory::One(list[0]), 0, 512), [(0, 512)]);
        assert_eq!(cut(Memory::One(list[0]), 500, 12), [(500, 12)]);
        assert_eq!(cut(Memory::One(list[1]), 0, 12), []);
        assert_eq!(cut(Memory::One(list[2]), 1000, 100), [(1000, 24)]);
        assert_eq!(cut(Memory::None, 0, 100), []);
        cx.dma.give(buffer);
    }
}
