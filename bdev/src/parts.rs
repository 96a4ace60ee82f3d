//! Walks a part of an I/O's memory segment by segment.
//!
//! Used by whatever handles an I/O in pieces (the RAM disk, splitting, emulation), on the core's
//! thread. Looks at addresses and lengths only, never at the memory.

use reactor::dma::Segment;

use crate::io::Memory;

/// The segments, cut at both ends, of the `len_bytes` of `memory` from `from_bytes` on. Ends early
/// where the memory does.
pub fn parts(memory: &Memory, from_bytes: u64, len_bytes: u64) -> Parts<'_> {
    Parts { segments: memory.segments(), skip_bytes: from_bytes, left_bytes: len_bytes }
}

/// See [`parts`].
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    segments: &'a [Segment],
    skip_bytes: u64,
    left_bytes: u64,
}

impl Iterator for Parts<'_> {
    type Item = Segment;

    #[inline]
    fn next(&mut self) -> Option<Segment> {
        while self.left_bytes > 0 {
            let (segment, rest) = self.segments.split_first()?;
            self.segments = rest;
            let whole = u64::from(segment.len_bytes());
            if self.skip_bytes >= whole {
                self.skip_bytes -= whole;
                continue;
            }
            let len = (whole - self.skip_bytes).min(self.left_bytes);
            let narrow = |bytes| u32::try_from(bytes).expect("no longer than the segment");
            let part = segment.part(narrow(self.skip_bytes), narrow(len));
            self.skip_bytes = 0;
            self.left_bytes -= len;
            return Some(part);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::segment_list::SegmentList;

    fn check(whole: Segment, lengths: &[u32], from: u64, len: u64) -> Result<(), TestCaseError> {
        let total = u64::from(lengths.iter().sum::<u32>());
        let mut offset = 0;
        let mut list = SegmentList::with_capacity(lengths.len());
        list.fill(lengths.iter().map(|length| {
            offset += length;
            whole.part(offset - length, *length)
        }));
        let start = whole.address().as_ptr().addr() as u64;
        let bytes: Vec<u64> = parts(&list.memory(), from, len)
            .flat_map(|part| {
                let address = part.address().as_ptr().addr() as u64 - start;
                address..address + u64::from(part.len_bytes())
            })
            .collect();
        let expected: Vec<u64> = (from.min(total)..(from + len).min(total)).collect();
        prop_assert_eq!(bytes, expected);
        Ok(())
    }

    #[test]
    fn the_parts_are_the_bytes_asked_for_in_order() {
        let (mut cx, _) = reactor::cx::test_context();
        let buffer = cx.dma.take(4096).unwrap();
        let strategy = (prop::collection::vec(0_u32..40, 0..8), 0_u64..200, 0_u64..200);
        TestRunner::default()
            .run(&strategy, |(lengths, from, len)| check(buffer.segment(4096), &lengths, from, len))
            .unwrap();
        cx.dma.give(buffer);
    }
}
