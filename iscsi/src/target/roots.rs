//! The roots of a core: its queue pair of each unit that a session here uses.
//!
//! Opened when the core first has a session of the target, shared by all connections of the core.
//! I/Os that find no credit wait in order; a pass looks only at the busy ones.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::scsi::LogicalUnit;
use bdev::{Completions, Io, OpenError, QueuePair, stack};
use reactor::{Cx, Wake};

/// I/Os that a core has at one unit's device at once; more wait here.
const ROOT_DEPTH: u32 = 1024;

#[derive(Debug)]
struct Root {
    unit: Arc<LogicalUnit>,
    queue_pair: Box<dyn QueuePair>,
    waiting: VecDeque<Io>,
    is_listed: bool,
}

impl Root {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.queue_pair.inflight() == 0
    }
}

/// The units that a core has open.
#[derive(Debug, Default)]
pub(super) struct Roots {
    open: Vec<Root>,
    busy: Vec<usize>,
}

impl Roots {
    /// The root of a unit, opened now if it was not.
    pub fn find_or_open(
        &mut self,
        cx: &mut Cx,
        unit: &Arc<LogicalUnit>,
    ) -> Result<usize, OpenError> {
        if let Some(found) = self.open.iter().position(|root| Arc::ptr_eq(&root.unit, unit)) {
            return Ok(found);
        }
        let queue_pair = stack::open(Arc::clone(unit.device()), cx, ROOT_DEPTH)?;
        let waiting = VecDeque::with_capacity(ROOT_DEPTH as usize);
        let unit = Arc::clone(unit);
        self.open.push(Root { unit, queue_pair, waiting, is_listed: false });
        self.busy.reserve(self.open.len());
        Ok(self.open.len() - 1)
    }

    /// Submits, now or when there is a credit.
    pub fn submit(&mut self, cx: &mut Cx, index: usize, io: Io) {
        let root = &mut self.open[index];
        if !std::mem::replace(&mut root.is_listed, true) {
            self.busy.push(index);
        }
        if !root.waiting.is_empty() || root.queue_pair.submit(cx, io).is_err() {
            root.waiting.push_back(io);
        }
    }

    /// Number of busy roots.
    pub fn busy_count(&self) -> usize {
        self.busy.len()
    }

    /// Rings the doorbells of the busy ones.
    pub fn flush(&mut self, cx: &mut Cx) {
        for index in &self.busy {
            self.open[*index].queue_pair.flush(cx);
        }
    }

    /// Polls the busy root at `place`, and submits what waits.
    pub fn poll(&mut self, cx: &mut Cx, place: usize, completions: &mut Completions) -> usize {
        let root = &mut self.open[self.busy[place]];
        let count = root.queue_pair.poll(cx, completions);
        while let Some(io) = root.waiting.front() {
            if root.queue_pair.submit(cx, *io).is_err() {
                break;
            }
            root.waiting.pop_front();
        }
        count
    }

    /// Takes the root at `place` off the list if it is idle; true if it is.
    pub fn unlist_if_idle(&mut self, place: usize) -> bool {
        let root = &mut self.open[self.busy[place]];
        if !root.is_idle() {
            return false;
        }
        root.is_listed = false;
        self.busy.swap_remove(place);
        true
    }

    /// When they must be polled next.
    pub fn wake(&self, wake: Wake) -> Wake {
        self.busy.iter().fold(wake, |wake, index| wake.soonest(self.open[*index].queue_pair.wake()))
    }

    /// Makes their descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        let open = &mut self.open;
        self.busy.iter().all(|index| open[*index].is_idle() || open[*index].queue_pair.arm(cx))
    }
}
