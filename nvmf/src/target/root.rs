//! A root: this core's queue pair of one namespace, shared by all connections of the core.
//!
//! I/Os that find no credit wait here in order; the target never refuses a host for it. Opened
//! when the core first serves a queue of the subsystem.

use std::collections::VecDeque;

use bdev::{BlockDevice, Completions, Geometry, Io, OpenError, QueuePair};
use reactor::{Cx, Wake};

/// I/Os that a core has at one namespace's device at once; more wait in the root.
pub(super) const ROOT_DEPTH: u32 = 1024;

/// A namespace's queue pair on this core.
#[derive(Debug)]
pub(super) struct Root {
    queue_pair: Box<dyn QueuePair>,
    waiting: VecDeque<Io>,
    /// Entries of the queues that submit here: as many I/Os can wait.
    entries: usize,
    /// Size of the device and its blocks.
    pub geometry: Geometry,
    /// Writes are refused.
    pub read_only: bool,
}

impl Root {
    /// Opens the device on this core.
    pub fn open(cx: &mut Cx, device: &dyn BlockDevice, read_only: bool) -> Result<Root, OpenError> {
        let queue_pair = device.open_queue_pair(cx, ROOT_DEPTH)?;
        let read_only = read_only || device.limits().read_only;
        Ok(Root {
            queue_pair,
            waiting: VecDeque::new(),
            entries: 0,
            geometry: device.geometry(),
            read_only,
        })
    }

    /// Makes room for the I/Os of another queue, so that waiting never allocates.
    pub fn reserve(&mut self, entries: usize) {
        self.entries += entries;
        self.waiting.reserve(self.entries);
    }

    /// Takes back the room for a queue that is gone.
    pub fn unreserve(&mut self, entries: usize) {
        self.entries -= entries;
    }

    /// Submits, now or when there is a credit.
    pub fn submit(&mut self, cx: &mut Cx, io: Io) {
        if !self.waiting.is_empty() || self.queue_pair.submit(cx, io).is_err() {
            self.waiting.push_back(io);
        }
    }

    /// Rings the doorbell and takes completions; returns how many.
    pub fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        if self.is_idle() {
            return 0;
        }
        self.queue_pair.flush(cx);
        let count = self.queue_pair.poll(cx, completions);
        while let Some(io) = self.waiting.front() {
            if self.queue_pair.submit(cx, *io).is_err() {
                break;
            }
            self.waiting.pop_front();
        }
        count
    }

    /// Nothing in flight and nothing waiting.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.queue_pair.inflight() == 0
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        if self.is_idle() { Wake::Never } else { self.queue_pair.wake() }
    }

    /// Makes its descriptor fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.is_idle() || self.queue_pair.arm(cx)
    }
}
