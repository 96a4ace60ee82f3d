//! A device for tests that writes down what its children were given, over all cores.
//!
//! Checks on the way that no two writes to one block are at a child together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::{Busy, Completions, Io, QueuePair, Token};
use reactor::{Cx, Wake};
use uuid::Uuid;

/// Names a write: what its blocks are filled with.
pub(crate) type Stamp = u32;

/// What a child was given.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Writes at the child: queue pair, token, first block, end, and the stamp of each block.
    inflight: Vec<(usize, Token, u64, u64, Vec<Stamp>)>,
    /// Writes that it has done, by block.
    done: HashSet<(u64, Stamp)>,
    queue_pairs: usize,
    /// I/Os that came back.
    pub(crate) ended: usize,
}

impl Log {
    /// True when the child has done that write of a block.
    pub(crate) fn has(&self, block: u64, stamp: Stamp) -> bool {
        stamp == 0 || self.done.contains(&(block, stamp))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Watch {
    inner: Arc<dyn BlockDevice>,
    log: Arc<Mutex<Log>>,
}

impl Watch {
    pub(crate) fn new(inner: Arc<dyn BlockDevice>) -> (Watch, Arc<Mutex<Log>>) {
        let log = Arc::new(Mutex::new(Log::default()));
        (Watch { inner, log: log.clone() }, log)
    }
}

impl BlockDevice for Watch {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.inner.open_queue_pair(cx, depth)?;
        let mut log = self.log.lock().unwrap();
        log.queue_pairs += 1;
        let number = log.queue_pairs;
        let block_bytes = self.inner.geometry().block_bytes;
        Ok(Box::new(WatchQueuePair { inner, log: self.log.clone(), number, block_bytes }))
    }
}

#[derive(Debug)]
struct WatchQueuePair {
    inner: Box<dyn QueuePair>,
    log: Arc<Mutex<Log>>,
    number: usize,
    block_bytes: u32,
}

impl QueuePair for WatchQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.inner.submit(cx, io)?;
        if io.operation.changes_blocks() {
            let (start, end) = (io.lba.0, io.lba.0 + u64::from(io.blocks));
            let stamps = (0..io.blocks).map(|block| {
                let mut stamp = [0; 4];
                if let Some(segment) = io.memory.segments().first() {
                    segment.read(block * self.block_bytes, &mut stamp);
                }
                Stamp::from_le_bytes(stamp)
            });
            let stamps = stamps.collect();
            let mut log = self.log.lock().unwrap();
            for (.., from, to, _) in &log.inflight {
                assert!(*from >= end || start >= *to, "two writes to one block are at a child");
            }
            let entry = (self.number, io.token, start, end, stamps);
            log.inflight.push(entry);
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.inner.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let before = completions.as_slice().len();
        let count = self.inner.poll(cx, completions);
        let mut log = self.log.lock().unwrap();
        for completion in &completions.as_slice()[before..] {
            log.ended += 1;
            let named = |entry: &(usize, Token, u64, u64, Vec<Stamp>)| {
                (entry.0, entry.1) == (self.number, completion.token)
            };
            let Some(place) = log.inflight.iter().position(named) else { continue };
            let (.., start, end, stamps) = log.inflight.swap_remove(place);
            if completion.status.is_success() {
                log.done.extend((start..end).zip(stamps));
            }
        }
        count
    }

    fn credits(&self) -> u32 {
        self.inner.credits()
    }

    fn inflight(&self) -> u32 {
        self.inner.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.inner.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.inner.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.inner.arm(cx)
    }
}
