//! A root: this core's queue pair of one namespace, shared by all connections of the core.
//!
//! I/Os that find no credit wait here in order; the target never refuses a host for it. When the
//! device behind the namespace is changed, the I/Os at the old one end first and new ones wait;
//! then the old queue pair is closed before the new one is opened, as a device may allow one only.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::{
    BlockDevice, Busy, Completion, Completions, Geometry, Io, OpenError, OperationSet, QueuePair,
    Status,
};
use reactor::mesh::CoreIndex;
use reactor::{Cx, Wake};

use super::namespace::Namespace;
use super::statistics::{IoStatistics, NamespaceStatistics};

/// I/Os that a core has at one namespace's device at once; more wait in the root.
pub(super) const ROOT_DEPTH: u32 = 1024;

/// A namespace's queue pair on this core.
#[derive(Debug)]
pub(super) struct Root {
    device: Arc<dyn BlockDevice>,
    queue_pair: Box<dyn QueuePair>,
    /// Takes the place of `device` once `queue_pair`, which is of that, has nothing in flight.
    next: Option<Arc<dyn BlockDevice>>,
    /// There is no queue pair: the device of the last change could not be opened.
    absent: bool,
    /// Why, until it is told. Meanwhile the device before it is held, so that nobody takes the
    /// change for done.
    failure: Option<OpenError>,
    waiting: VecDeque<Io>,
    /// Entries of the queues that submit here: as many I/Os can wait.
    entries: usize,
    /// The namespace is gone.
    retired: bool,
    /// It is on the list of busy roots.
    pub is_listed: bool,
    /// What was moved through here, and where that is told.
    moved: IoStatistics,
    statistics: Arc<NamespaceStatistics>,
    core: CoreIndex,
    /// Size of the device and its blocks.
    pub geometry: Geometry,
    /// Writes are refused.
    pub read_only: bool,
    /// What the device does itself.
    pub operations: OperationSet,
}

impl Root {
    /// Opens a namespace's device on this core.
    pub fn open(cx: &mut Cx, namespace: &Namespace, core: CoreIndex) -> Result<Root, OpenError> {
        let device = Arc::clone(&namespace.device);
        let queue_pair = device.open_queue_pair(cx, ROOT_DEPTH)?;
        let statistics = Arc::clone(&namespace.statistics);
        Ok(Root {
            device,
            queue_pair,
            next: None,
            absent: false,
            failure: None,
            waiting: VecDeque::new(),
            entries: 0,
            retired: false,
            is_listed: false,
            moved: statistics.of_core(core),
            statistics,
            core,
            geometry: namespace.geometry,
            read_only: namespace.is_read_only(),
            operations: namespace.limits().operations,
        })
    }

    /// Follows a change of the namespace. Another device, or another size of the same, needs
    /// another queue pair; until the old one is empty, I/Os wait. A failure that comes only then is
    /// told by [`Root::take_failure`].
    pub fn follow(&mut self, cx: &mut Cx, namespace: &Namespace) -> Result<(), OpenError> {
        self.read_only = namespace.is_read_only();
        self.operations = namespace.limits().operations;
        let newest = self.next.as_ref().unwrap_or(&self.device);
        let same = std::ptr::addr_eq(Arc::as_ptr(newest), Arc::as_ptr(&namespace.device));
        if same && self.geometry == namespace.geometry && !self.absent {
            return Ok(());
        }
        self.next = Some(Arc::clone(&namespace.device));
        self.geometry = namespace.geometry;
        self.change_queue_pair(cx);
        self.take_failure().map_or(Ok(()), Err)
    }

    /// Why the device of the last change could not be opened, once.
    pub fn take_failure(&mut self) -> Option<OpenError> {
        let failure = self.failure.take()?;
        if let Some(device) = self.next.take() {
            self.device = device;
        }
        Some(failure)
    }

    /// The namespace is gone. Returns what had not begun.
    pub fn retire(&mut self) -> Vec<Io> {
        self.retired = true;
        self.next = None;
        self.failure = None;
        self.waiting.drain(..).collect()
    }

    /// Takes back what had not begun and is chosen.
    pub fn withdraw(&mut self, is_chosen: impl Fn(&Io) -> bool) -> Vec<Io> {
        let chosen = self.waiting.iter().filter(|io| is_chosen(io)).copied().collect();
        self.waiting.retain(|io| !is_chosen(io));
        chosen
    }

    /// True once the namespace is gone.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// True while another queue pair waits to take the place of the one in use.
    pub fn is_changing(&self) -> bool {
        self.next.is_some()
    }

    /// True when the device of the last change could not be opened, and nobody was told.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
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
        self.moved.add(&io, self.geometry.block_bytes);
        let waits = !self.waiting.is_empty() || self.next.is_some();
        if waits || self.queue_pair.submit(cx, io).is_err() {
            self.waiting.push_back(io);
        }
    }

    /// Rings the doorbell.
    pub fn flush(&mut self, cx: &mut Cx) {
        self.queue_pair.flush(cx);
    }

    /// Takes completions, and submits what waits; returns how many there were.
    pub fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let count = self.queue_pair.poll(cx, completions);
        if self.next.is_some() && self.failure.is_none() {
            self.change_queue_pair(cx);
        }
        if self.absent {
            return count + self.refuse_waiting(completions);
        }
        if self.next.is_none() {
            while let Some(io) = self.waiting.front() {
                if self.queue_pair.submit(cx, *io).is_err() {
                    break;
                }
                self.waiting.pop_front();
            }
        }
        count
    }

    #[cold]
    fn change_queue_pair(&mut self, cx: &mut Cx) {
        if self.queue_pair.inflight() > 0 {
            return;
        }
        let Some(device) = self.next.take() else { return };
        // The old one is closed first.
        self.queue_pair = Box::new(Absent);
        match device.open_queue_pair(cx, ROOT_DEPTH) {
            Ok(queue_pair) => {
                self.queue_pair = queue_pair;
                self.absent = false;
                // Last, as it tells the engine that nothing of the one before is in use.
                self.device = device;
            }
            Err(error) => {
                self.absent = true;
                self.failure = Some(error);
                self.next = Some(device);
            }
        }
    }

    /// Without a queue pair there is nothing to wait for.
    #[cold]
    fn refuse_waiting(&mut self, completions: &mut Completions) -> usize {
        let count = self.waiting.len().min(completions.room());
        for io in self.waiting.drain(..count) {
            completions.push(Completion::new(io.token, Status::INTERNAL_ERROR));
        }
        count
    }

    /// Tells what was moved through here.
    pub fn publish(&self) {
        self.statistics.store(self.core, &self.moved);
    }

    /// Nothing in flight and nothing waiting.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.queue_pair.inflight() == 0
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        let is_due = self.is_changing() && !self.has_failed() && self.queue_pair.inflight() == 0;
        if is_due || self.absent && !self.waiting.is_empty() {
            return Wake::Now;
        }
        if self.is_idle() { Wake::Never } else { self.queue_pair.wake() }
    }

    /// Makes its descriptor fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.is_idle() || self.queue_pair.arm(cx)
    }
}

/// Stands where a queue pair could not be opened: takes nothing.
#[derive(Debug)]
struct Absent;

impl QueuePair for Absent {
    fn submit(&mut self, _: &mut Cx, _: Io) -> Result<(), Busy> {
        Err(Busy)
    }

    fn flush(&mut self, _: &mut Cx) {}

    fn poll(&mut self, _: &mut Cx, _: &mut Completions) -> usize {
        0
    }

    fn credits(&self) -> u32 {
        0
    }

    fn inflight(&self) -> u32 {
        0
    }

    fn abort_all(&mut self, _: &mut Cx) {}

    fn wake(&self) -> Wake {
        Wake::Never
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        true
    }
}
