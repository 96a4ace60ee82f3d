//! This core's queue pair of one device, shared by the device's rings on the core.
//!
//! Opened with the first ring, closed after the last. Nothing waits here: what finds no credit
//! stays in its ring, which is where a guest's requests wait anyway.

use std::sync::Arc;

use bdev::{BlockDevice, Completions, Io, OpenError, QueuePair};
use reactor::{Cx, Wake};

use super::setup::DeviceKey;

/// I/Os that a core has at one device at once.
pub(super) const ROOT_DEPTH: u32 = 1024;

/// Names a root of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootPlace(pub usize);

/// See the module.
#[derive(Debug)]
pub(super) struct Root {
    pub key: DeviceKey,
    // Before the device: dropped first.
    queue_pair: Box<dyn QueuePair>,
    _device: Arc<dyn BlockDevice>,
    /// Rings that use it.
    pub rings: usize,
}

impl Root {
    /// Opens a device on this core.
    pub fn open(
        cx: &mut Cx,
        key: DeviceKey,
        device: &Arc<dyn BlockDevice>,
    ) -> Result<Root, OpenError> {
        let queue_pair = device.open_queue_pair(cx, ROOT_DEPTH)?;
        Ok(Root { key, queue_pair, _device: Arc::clone(device), rings: 0 })
    }

    /// How many I/Os it would take now.
    pub fn credits(&self) -> usize {
        self.queue_pair.credits() as usize
    }

    /// Submits; false when there is no credit.
    #[must_use]
    pub fn submit(&mut self, cx: &mut Cx, io: Io) -> bool {
        self.queue_pair.submit(cx, io).is_ok()
    }

    /// True when something is at the device.
    pub fn is_busy(&self) -> bool {
        self.queue_pair.inflight() > 0
    }

    /// Rings the doorbell.
    pub fn flush(&mut self, cx: &mut Cx) {
        self.queue_pair.flush(cx);
    }

    /// Takes completions.
    pub fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) {
        self.queue_pair.poll(cx, completions);
    }

    /// Asks for what is at the device to end.
    pub fn abort_all(&mut self, cx: &mut Cx) {
        self.queue_pair.abort_all(cx);
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        if self.is_busy() { self.queue_pair.wake() } else { Wake::Never }
    }

    /// Makes its descriptor fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        !self.is_busy() || self.queue_pair.arm(cx)
    }
}
