//! A child for tests that takes little at a time, lacks operations, and counts what it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::{Busy, Completions, Io, IoFlags, Operation, OperationSet, QueuePair};
use reactor::{Cx, Wake};

/// What a child was given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    reads: AtomicUsize,
    writes: AtomicUsize,
    forced: AtomicUsize,
    flushes: AtomicUsize,
    refused: AtomicUsize,
}

impl Given {
    /// Reads.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Writes, and how many of them were to be durable at once.
    pub(crate) fn writes(&self) -> (usize, usize) {
        (self.writes.load(Ordering::Relaxed), self.forced.load(Ordering::Relaxed))
    }

    /// Flushes.
    pub(crate) fn flushes(&self) -> usize {
        self.flushes.load(Ordering::Relaxed)
    }

    /// I/Os for which it had no credit.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    fn note(&self, io: &Io) {
        let count = match io.operation {
            Operation::Read => &self.reads,
            Operation::Write => &self.writes,
            Operation::Flush => &self.flushes,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if io.operation == Operation::Write && io.flags.contains(IoFlags::FUA) {
            self.forced.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Modest {
    inner: Arc<dyn BlockDevice>,
    depth: u32,
    limits: Limits,
    given: Arc<Given>,
}

impl Modest {
    /// As the device behind; what it is given is counted.
    pub(crate) fn new(inner: Arc<dyn BlockDevice>) -> (Modest, Arc<Given>) {
        let given = Arc::new(Given::default());
        let limits = inner.limits();
        (Modest { inner, depth: u32::MAX, limits, given: given.clone() }, given)
    }

    /// Takes so many I/Os at once.
    pub(crate) fn with_depth(self, depth: u32) -> Modest {
        Modest { depth, ..self }
    }

    /// Has these operations only, for I/Os of so many blocks at most.
    pub(crate) fn with_limits(self, operations: OperationSet, io_blocks_max: u32) -> Modest {
        let limits = Limits { operations, io_blocks_max, unmap_zeroes: false, ..self.limits };
        Modest { limits, ..self }
    }
}

impl BlockDevice for Modest {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<uuid::Uuid> {
        self.inner.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.inner.open_queue_pair(cx, depth.min(self.depth))?;
        let (limits, given) = (self.limits, self.given.clone());
        Ok(Box::new(ModestQueuePair { inner, limits, given }))
    }
}

#[derive(Debug)]
struct ModestQueuePair {
    inner: Box<dyn QueuePair>,
    limits: Limits,
    given: Arc<Given>,
}

impl QueuePair for ModestQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        assert!(self.limits.operations.contains(io.operation), "{:?} is lacking", io.operation);
        let is_short = io.memory.segments().is_empty() || io.blocks <= self.limits.io_blocks_max;
        assert!(is_short, "{} blocks are too many", io.blocks);
        match self.inner.submit(cx, io) {
            Ok(()) => self.given.note(&io),
            Err(Busy) => {
                self.given.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Busy);
            }
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.inner.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.inner.poll(cx, completions)
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
