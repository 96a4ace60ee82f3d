//! A root: this core's queue pair of one namespace, shared by all connections of the core.
//!
//! I/Os that find no credit wait here in order; the target never refuses a host for it. When the
//! device behind the namespace is changed, the I/Os at the old one end first and new ones wait.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::{BlockDevice, Completions, Geometry, Io, OpenError, QueuePair};
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
    /// Takes the place of `queue_pair`, which is of `device`, once that has nothing in flight.
    next: Option<(Arc<dyn BlockDevice>, Box<dyn QueuePair>)>,
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
            waiting: VecDeque::new(),
            entries: 0,
            retired: false,
            is_listed: false,
            moved: statistics.of_core(core),
            statistics,
            core,
            geometry: namespace.geometry,
            read_only: namespace.is_read_only(),
        })
    }

    /// Follows a change of the namespace. Another device, or another size of the same, needs
    /// another queue pair; until the old one is empty, I/Os wait.
    pub fn follow(&mut self, cx: &mut Cx, namespace: &Namespace) -> Result<(), OpenError> {
        let newest = self.next.as_ref().map_or(&self.device, |(device, _)| device);
        let same = std::ptr::addr_eq(Arc::as_ptr(newest), Arc::as_ptr(&namespace.device));
        if !same || self.geometry != namespace.geometry {
            let queue_pair = namespace.device.open_queue_pair(cx, ROOT_DEPTH)?;
            self.next = Some((Arc::clone(&namespace.device), queue_pair));
            self.geometry = namespace.geometry;
        }
        self.read_only = namespace.is_read_only();
        Ok(())
    }

    /// The namespace is gone. Returns what had not begun.
    pub fn retire(&mut self) -> Vec<Io> {
        self.retired = true;
        self.next = None;
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
        if self.next.is_some() {
            self.change_queue_pair();
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
    fn change_queue_pair(&mut self) {
        if self.queue_pair.inflight() == 0
            && let Some((device, queue_pair)) = self.next.take()
        {
            self.queue_pair = queue_pair;
            // Last, as it tells the engine that nothing of the one before is in use.
            self.device = device;
        }
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
        if self.is_changing() && self.queue_pair.inflight() == 0 {
            return Wake::Now;
        }
        if self.is_idle() { Wake::Never } else { self.queue_pair.wake() }
    }

    /// Makes its descriptor fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.is_idle() || self.queue_pair.arm(cx)
    }
}
