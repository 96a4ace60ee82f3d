//! The part of memory that a ring has registered: its core's pool.
//!
//! Regions are mapped for the life of the process, so what was registered once stays right.

use reactor::dma::Segment;
use reactor::dma::region::Region;

/// Longest piece that the kernel registers under one number: 1 GiB.
const PIECE_BYTES: usize = 1 << 30;

/// See the module. Empty when nothing is registered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Registered {
    base: usize,
    len_bytes: usize,
}

impl Registered {
    /// All of a region.
    pub(super) fn all_of(region: &Region) -> Registered {
        Registered { base: region.base().as_ptr().addr(), len_bytes: region.len_bytes() }
    }

    /// The number under which the whole segment is registered.
    #[inline]
    pub(super) fn number_of(&self, segment: Segment) -> Option<u16> {
        self.number_at(segment.address().as_ptr().addr(), segment.len_bytes() as usize)
    }

    #[inline]
    fn number_at(&self, address: usize, len_bytes: usize) -> Option<u16> {
        let start = address.checked_sub(self.base)?;
        let end = start.checked_add(len_bytes)?;
        let number = start / PIECE_BYTES;
        let inside = end <= self.len_bytes && end <= (number + 1) * PIECE_BYTES;
        if inside { u16::try_from(number).ok() } else { None }
    }
}

/// The pieces of a region, in order of their numbers.
pub(super) fn pieces(region: &Region) -> Vec<libc::iovec> {
    let base = region.base().as_ptr();
    let piece = |start: usize| libc::iovec {
        iov_base: base.wrapping_add(start).cast(),
        iov_len: (region.len_bytes() - start).min(PIECE_BYTES),
    };
    (0..region.len_bytes()).step_by(PIECE_BYTES).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = 1 << 40;

    fn number(offset: usize, len_bytes: usize) -> Option<u16> {
        let registered = Registered { base: BASE, len_bytes: PIECE_BYTES + (2 << 20) };
        registered.number_at(BASE.wrapping_add(offset), len_bytes)
    }

    #[test]
    fn a_segment_has_a_number_when_all_of_it_is_in_one_piece() {
        assert_eq!(number(0, 4096), Some(0));
        assert_eq!(number(PIECE_BYTES - 4096, 4096), Some(0));
        assert_eq!(number(PIECE_BYTES - 4096, 4097), None);
        assert_eq!(number(PIECE_BYTES, 2 << 20), Some(1));
        assert_eq!(number(PIECE_BYTES, (2 << 20) + 1), None);
        assert_eq!(number(PIECE_BYTES + (2 << 20), 1), None);
        assert_eq!(number(usize::MAX - BASE, 1), None);
        assert_eq!(number(usize::MAX, 1), None);
    }

    #[test]
    fn without_registration_nothing_has_a_number() {
        let (mut cx, _) = reactor::cx::test_context();
        let buffer = cx.dma.take(4096).unwrap();
        let segment = buffer.segment(4096);
        assert_eq!(Registered::default().number_of(segment), None);
        assert_eq!(Registered::all_of(cx.dma.region()).number_of(segment), Some(0));
        assert_eq!(pieces(cx.dma.region()).len(), 1);
        cx.dma.give(buffer);
    }
}
