//! The kernel's form of an I/O's memory: one address and length, or an array of them.
//!
//! Owned by a port, on the core's thread. A row a slot, at one address from beginning to end, so
//! that what the kernel was given stays where it is.

use std::fmt;

use reactor::dma::Segment;

use super::SEGMENTS_MAX;
use crate::parts::Parts;

/// How the kernel gets the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// In one piece.
    One(Segment),
    /// As so many entries from an address on.
    Many(*const libc::iovec, u32),
}

/// Rows of `SEGMENTS_MAX` entries.
pub(crate) struct Vectors {
    entries: Box<[libc::iovec]>,
}

impl fmt::Debug for Vectors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vectors").field("entries", &self.entries.len()).finish()
    }
}

impl Vectors {
    /// Room for `rows` I/Os.
    pub(crate) fn new(rows: u32) -> Vectors {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Vectors { entries: vec![empty; rows as usize * SEGMENTS_MAX as usize].into_boxed_slice() }
    }

    /// Puts memory into a row that no command in the kernel uses.
    pub(crate) fn shape(&mut self, row: u32, mut memory: Parts<'_>) -> Shape {
        let first = memory.next().expect("a command with memory has some");
        let Some(second) = memory.next() else { return Shape::One(first) };
        let start = row as usize * SEGMENTS_MAX as usize;
        let entries = &mut self.entries[start..start + SEGMENTS_MAX as usize];
        let mut count = 0;
        for segment in [first, second].into_iter().chain(memory) {
            entries[count] = libc::iovec {
                iov_base: segment.address().as_ptr().cast(),
                iov_len: segment.len_bytes() as usize,
            };
            count += 1;
        }
        Shape::Many(entries.as_ptr(), u32::try_from(count).expect("no more than a row has"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::parts;
    use crate::segment_list::SegmentList;

    fn shape_of(count: u32, from_bytes: u64) -> (Shape, Vectors) {
        let (mut cx, _) = reactor::cx::test_context();
        let buffer = cx.dma.take(SEGMENTS_MAX * 512).unwrap();
        let mut list = SegmentList::default();
        list.fill((0..count).map(|_| buffer.segment(512)));
        let mut vectors = Vectors::new(2);
        let memory = list.memory();
        let shape = vectors.shape(1, parts(&memory, from_bytes, u64::MAX));
        cx.dma.give(buffer);
        (shape, vectors)
    }

    #[test]
    fn memory_in_one_piece_needs_no_array() {
        assert!(matches!(shape_of(1, 0).0, Shape::One(segment) if segment.len_bytes() == 512));
        assert!(matches!(shape_of(3, 1024).0, Shape::One(segment) if segment.len_bytes() == 512));
    }

    #[test]
    fn memory_in_pieces_fills_its_own_row() {
        let (Shape::Many(first, count), vectors) = shape_of(SEGMENTS_MAX, 0) else {
            panic!("in pieces");
        };
        assert_eq!(count, SEGMENTS_MAX);
        assert_eq!(first, vectors.entries[SEGMENTS_MAX as usize..].as_ptr());
        assert!(vectors.entries[..SEGMENTS_MAX as usize].iter().all(|one| one.iov_len == 0));
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn one_piece_more_than_a_row_has_is_a_bug() {
        shape_of(SEGMENTS_MAX + 1, 0);
    }
}
