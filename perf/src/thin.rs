//! A device of any length in little memory: `thin:///NAME?size_mb=N`, for loads over more than
//! there is.
//!
//! Made by [`crate::device`] on a control thread; its queue pairs are on the cores' hot path. It
//! keeps the first [`KEPT_BYTES`], where a replica has its label, and folds all the rest into
//! [`FOLDED_BYTES`] of memory: an I/O costs what it costs a RAM disk, and what was written far away
//! is written over. It says that its cache is volatile, so a mirror flushes it as it would a disk.

use std::sync::Arc;

use bdev::malloc::MallocError;
use bdev::{
    BlockDevice, Busy, Completions, Geometry, Io, Lba, Limits, Malloc, OpenError, QueuePair,
};
use nexus::truth::label::LABEL_BYTES;
use reactor::{Cx, Wake};
use uuid::Uuid;

/// Bytes at the start that are kept as they are written.
pub const KEPT_BYTES: u64 = LABEL_BYTES;

/// Bytes that all others share: too many for the second-level cache.
pub const FOLDED_BYTES: u64 = 64 << 20;

/// Longest I/O; a longer one may be refused as out of range.
pub const IO_BYTES_MAX: u64 = 4 << 20;

const _: () = assert!(FOLDED_BYTES.is_power_of_two());

/// See the module.
#[derive(Debug)]
pub struct Thin {
    name: String,
    geometry: Geometry,
    memory: Arc<Malloc>,
}

impl Thin {
    /// A device of this geometry.
    ///
    /// # Errors
    ///
    /// When there is no memory, or no device can have this geometry.
    pub fn new(name: impl Into<String>, geometry: Geometry) -> Result<Thin, MallocError> {
        bdev::legality::check_geometry(geometry)?;
        let name = name.into();
        let bytes = KEPT_BYTES + FOLDED_BYTES + IO_BYTES_MAX;
        let blocks = bytes / u64::from(geometry.block_bytes);
        let memory = Malloc::new(name.clone(), Geometry { blocks, ..geometry }, None)?;
        Ok(Thin { name, geometry, memory: Arc::new(memory) })
    }
}

impl BlockDevice for Thin {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn limits(&self) -> Limits {
        Limits { volatile_cache: true, ..self.memory.limits() }
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn is_best_alone(&self) -> bool {
        self.memory.is_best_alone()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        Ok(Box::new(ThinQueuePair {
            memory: self.memory.open_queue_pair(cx, depth)?,
            blocks: self.geometry.blocks,
            kept_blocks: KEPT_BYTES / block_bytes,
            folded_mask: FOLDED_BYTES / block_bytes - 1,
        }))
    }
}

#[derive(Debug)]
struct ThinQueuePair {
    memory: Box<dyn QueuePair>,
    blocks: u64,
    kept_blocks: u64,
    folded_mask: u64,
}

impl ThinQueuePair {
    fn place(&self, lba: u64) -> u64 {
        match lba.checked_sub(self.kept_blocks) {
            // What lies past the end does so below too.
            Some(_) if lba >= self.blocks => lba,
            Some(folded) => self.kept_blocks + (folded & self.folded_mask),
            None => lba,
        }
    }
}

impl QueuePair for ThinQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        let lba = Lba(self.place(io.lba.0));
        self.memory.submit(cx, Io { lba, ..io })
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.memory.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.memory.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.memory.credits()
    }

    fn inflight(&self) -> u32 {
        self.memory.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.memory.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.memory.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.memory.arm(cx)
    }
}

#[cfg(test)]
mod tests {
    use bdev::{Status, Token};
    use reactor::cx::test_context;

    use super::*;

    const BLOCKS: u64 = (100 << 30) / 4096;

    fn status(pair: &mut dyn QueuePair, cx: &mut Cx, io: Io) -> Status {
        let mut completions = Completions::new();
        pair.submit(cx, io).unwrap();
        pair.flush(cx);
        while pair.poll(cx, &mut completions) == 0 {}
        completions.as_slice()[0].status
    }

    #[test]
    fn labels_are_kept_and_the_rest_is_folded_up_to_the_last_block() {
        let (mut cx, _) = test_context();
        let thin = Thin::new("thin0", Geometry { block_bytes: 4096, blocks: BLOCKS }).unwrap();
        let mut pair = thin.open_queue_pair(&mut cx, 4).unwrap();
        let buffer = cx.dma.take(4096).unwrap();
        let segment = buffer.segment(4096);
        let kept_blocks = KEPT_BYTES / 4096;
        for (lba, byte) in [(0, 1_u8), (kept_blocks - 1, 2), (kept_blocks, 3), (BLOCKS - 1, 4)] {
            segment.write(0, &[byte; 4096]);
            let io = Io::write(Lba(lba), 1, segment, Token(1));
            assert_eq!(status(&mut *pair, &mut cx, io), Status::SUCCESS);
        }
        for (lba, byte) in [(0, 1_u8), (kept_blocks - 1, 2), (BLOCKS - 1, 4)] {
            let io = Io::read(Lba(lba), 1, segment, Token(1));
            assert_eq!(status(&mut *pair, &mut cx, io), Status::SUCCESS);
            assert_eq!(buffer.bytes(1)[0], byte);
        }
        let past = Io::read(Lba(BLOCKS), 1, segment, Token(1));
        assert_ne!(status(&mut *pair, &mut cx, past), Status::SUCCESS);
        drop(pair);
        cx.dma.give(buffer);
    }
}
