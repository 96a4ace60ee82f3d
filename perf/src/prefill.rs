//! Writes a range once before the load, so that a RAM disk is resident: memory that was never
//! written is one page of zeroes, and reads of it measure the cache.
//!
//! Belongs to the load of one core, which calls [`Prefill::step`] once a pass until it is done.

use bdev::{Completions, Geometry, Io, Lba, Limits, QueuePair, Token};
use reactor::Cx;
use reactor::clock::Nanos;
use reactor::dma::{DmaBuffer, PoolConfig, region::HUGE_PAGE_BYTES};

use crate::harness::RunError;

/// Bytes of a write; fewer where a device takes less.
pub const WRITE_BYTES: u32 = 128 << 10;

/// Writes in flight; fewer where a queue holds less.
pub const DEPTH: u32 = 32;

/// How often a core says that it is still filling.
pub const REPORT_INTERVAL: Nanos = Nanos::from_secs(1);

/// Blocks to write: from the first up to, and without, the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub first: Lba,
    /// First block behind.
    pub end: Lba,
}

impl Range {
    /// Part `index` of `count`; together they are the whole. Parts begin at multiples of
    /// `step_blocks` from its beginning.
    #[must_use]
    pub fn part(self, index: u64, count: u64, step_blocks: u32) -> Range {
        let step = u64::from(step_blocks.max(1));
        let steps = (self.end.0 - self.first.0) / step / count.max(1);
        let bound = |index| match index == count {
            true => self.end,
            false => Lba(self.first.0 + steps * index * step),
        };
        Range { first: bound(index), end: bound(index + 1) }
    }
}

/// The filling of a range.
#[derive(Debug)]
pub struct Prefill {
    left: Range,
    write_blocks: u32,
    block_bytes: u32,
    buffers: Vec<DmaBuffer>,
    free: Vec<u32>,
}

impl Prefill {
    /// Fills part `index` of `count` of a range of a device.
    ///
    /// # Errors
    ///
    /// When there are too few buffers.
    pub fn new(
        cx: &mut Cx,
        (geometry, limits): (Geometry, Limits),
        whole: Range,
        (index, count): (u64, u64),
    ) -> Result<Prefill, RunError> {
        let write_blocks = (WRITE_BYTES / geometry.block_bytes).min(limits.io_blocks_max);
        let too_few = || RunError::Buffers { depth: DEPTH, len_bytes: WRITE_BYTES };
        let mut buffers = Vec::with_capacity(DEPTH as usize);
        for _ in 0..DEPTH {
            let mut buffer = cx.dma.take(WRITE_BYTES).ok_or_else(too_few)?;
            // Noise, as the load itself writes: nothing below can make a short cut of zeroes.
            for word in buffer.bytes_mut().as_chunks_mut::<8>().0 {
                *word = cx.random.next_u64().to_ne_bytes();
            }
            buffers.push(buffer);
        }
        Ok(Prefill {
            left: whole.part(index, count, write_blocks),
            write_blocks,
            block_bytes: geometry.block_bytes,
            buffers,
            free: (0..DEPTH).rev().collect(),
        })
    }

    /// Takes what is written and writes on; returns how much there was to do.
    ///
    /// # Errors
    ///
    /// The first write that failed.
    pub fn step(
        &mut self,
        cx: &mut Cx,
        queue_pair: &mut dyn QueuePair,
        completions: &mut Completions,
    ) -> Result<usize, RunError> {
        let mut work = queue_pair.poll(cx, completions);
        for completion in completions.drain() {
            if !completion.status.is_success() {
                return Err(RunError::Prefill { status: completion.status });
            }
            self.free.push(completion.token.0 as u32);
        }
        while self.left.first < self.left.end && queue_pair.credits() > 0 {
            let Some(index) = self.free.pop() else { break };
            let blocks_left = self.left.end.0 - self.left.first.0;
            let blocks = u32::try_from(blocks_left)
                .map_or(self.write_blocks, |left| left.min(self.write_blocks));
            let segment = self.buffers[index as usize].segment(blocks * self.block_bytes);
            let io = Io::write(self.left.first, blocks, segment, Token(u64::from(index)));
            queue_pair.submit(cx, io).expect("a queue pair with a credit accepts an I/O");
            self.left.first.0 += u64::from(blocks);
            work += 1;
        }
        queue_pair.flush(cx);
        Ok(work)
    }

    /// True once all is written.
    pub fn is_done(&self) -> bool {
        self.left.first >= self.left.end && self.free.len() == self.buffers.len()
    }

    /// Gives the buffers back.
    pub fn finish(self, cx: &mut Cx) {
        assert!(self.is_done(), "no buffer is given back while it is written from");
        for buffer in self.buffers {
            cx.dma.give(buffer);
        }
    }
}

/// A pool with room for the buffers as well.
pub fn enlarge(pool: PoolConfig) -> PoolConfig {
    let bytes = DEPTH as usize * WRITE_BYTES as usize;
    PoolConfig { chunks: pool.chunks.saturating_add(bytes.div_ceil(HUGE_PAGE_BYTES)), ..pool }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::{BlockDevice, Malloc};
    use reactor::cx::test_context;

    const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 3001 };

    #[test]
    fn parts_are_the_whole_and_begin_at_writes() {
        let whole = Range { first: Lba(3), end: Lba(1030) };
        for count in 1..9 {
            let parts: Vec<Range> = (0..count).map(|part| whole.part(part, count, 256)).collect();
            assert_eq!((parts[0].first, parts[parts.len() - 1].end), (whole.first, whole.end));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].first);
                assert_eq!((pair[1].first.0 - 3) % 256, 0);
            }
        }
    }

    #[test]
    fn every_block_of_the_range_is_written_and_no_other() {
        let (mut cx, _) = test_context();
        let disk = Malloc::new("m0", GEOMETRY, None).unwrap();
        let mut queue_pair = disk.open_queue_pair(&mut cx, 5).unwrap();
        let mut completions = Completions::new();
        let whole = Range { first: Lba(7), end: Lba(3000) };
        for part in 0..2 {
            let device = (GEOMETRY, disk.limits());
            let mut fill = Prefill::new(&mut cx, device, whole, (part, 2)).unwrap();
            while !fill.is_done() {
                fill.step(&mut cx, &mut *queue_pair, &mut completions).unwrap();
            }
            fill.finish(&mut cx);
        }
        let buffer = cx.dma.take(4096).unwrap();
        for lba in 0..GEOMETRY.blocks {
            let io = Io::read(Lba(lba), 1, buffer.segment(512), Token(0));
            queue_pair.submit(&mut cx, io).unwrap();
            queue_pair.flush(&mut cx);
            assert_eq!(queue_pair.poll(&mut cx, &mut completions), 1);
            completions.drain().for_each(drop);
            let is_written = buffer.bytes(512).iter().any(|byte| *byte != 0);
            assert_eq!(is_written, (7..3000).contains(&lba), "block {lba}");
        }
        cx.dma.give(buffer);
    }
}
