//! One core's path through the nexus: a queue pair over the queue pairs of the children.
//!
//! Owned by whoever opened it, called on its core's thread. [`start`] takes an I/O from its arrival
//! to the children, [`finish`] from their completions to the host's, [`follow`] keeps up with the
//! view. Nothing here allocates once it is open, but for opening a child.
//!
//! An I/O sits in one slot for its life. Slots that wait for something that nobody will tell (a
//! credit, a stripe of another core, a mark, the end of a pause) are on one list and tried again at
//! each poll; those blocked by a range are told by the range table, those held by the next view.

mod finish;
mod follow;
mod port;
mod slot;
mod start;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::device::{Geometry, Limits};
use bdev::stripe_lock::LockMember;
use bdev::{
    BlockDevice, Busy, Completion, Completions, Io, OpenError, Operation, QueuePair, Status,
    legality,
};
use reactor::slab::Slab;
use reactor::{Cx, Nanos, Wake};

use crate::cell::Cell;
use crate::child::{CHILDREN_MAX, ChildSet, FaultReason};
use crate::nexus::Nexus;
use crate::range_table::RangeTable;
use crate::view::{Version, View};
use port::Port;
use slot::{Slot, Stage, Work};

/// A child that has not answered an I/O for this long is taken out: 6 s, so that with the change of
/// members the host waits a third of the 30 s after which it would give up.
pub const CHILD_TIMEOUT: Nanos = Nanos::from_secs(6);

/// How often I/Os are looked at for that.
const SWEEP_INTERVAL: Nanos = Nanos::from_millis(100);

/// When what waits for another core is tried again at the latest, should nobody wake this one.
const RECHECK_INTERVAL: Nanos = Nanos::from_millis(1);

/// See the module.
#[derive(Debug)]
pub struct MirrorQueuePair {
    nexus: Arc<Nexus>,
    cell: Arc<Cell>,
    member: LockMember,
    /// Others must follow this view before this core begins anything.
    shared_since: Option<Version>,
    version: Version,
    view: Arc<View>,
    /// Children that this core has stopped using and reported; the next view decides.
    suspended: ChildSet,
    /// Those whose letter did not fit the box, and why they failed.
    unreported: ChildSet,
    reasons: [FaultReason; CHILDREN_MAX],
    /// [`View::kept`] when they were reported.
    kept: [u32; CHILDREN_MAX],
    /// [`View::incarnations`] when they were reported.
    incarnations: [u32; CHILDREN_MAX],
    /// Whom new writes go to.
    written: ChildSet,
    /// Who must have a write before it is acknowledged without further thought.
    required: ChildSet,
    /// Who may be read.
    readable: ChildSet,
    ports: [Option<Port>; CHILDREN_MAX],
    open: ChildSet,
    /// Submitted to since their last doorbell.
    unflushed: ChildSet,
    geometry: Geometry,
    limits: Limits,
    depth: u32,
    slots: Slab<Slot>,
    ranges: RangeTable,
    /// Slots that are tried again at each poll.
    listed: VecDeque<u32>,
    /// Slots that the range table let go.
    freed: Vec<u32>,
    ready: VecDeque<Completion>,
    polled: Completions,
    is_active: bool,
    /// Slots that have begun.
    begun: u32,
    next_sweep: Nanos,
    recheck_at: Nanos,
}

impl MirrorQueuePair {
    /// Opens a core's queue pair with room for `depth` I/Os.
    pub(crate) fn open(nexus: Arc<Nexus>, cx: &mut Cx, depth: u32) -> Result<Self, OpenError> {
        let depth = depth.max(1);
        let membership = nexus.join(cx.waker.clone()).ok_or_else(|| OpenError::System {
            device: nexus.name().to_owned(),
            source: std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                "it is open on as many cores as it can be",
            ),
        })?;
        let (version, view) = nexus.published.fetch();
        let geometry = nexus.geometry();
        let limits = nexus.limits();
        let mut mirror = MirrorQueuePair {
            cell: membership.cell,
            member: membership.member,
            shared_since: membership.shared_since,
            version,
            view,
            suspended: ChildSet::EMPTY,
            unreported: ChildSet::EMPTY,
            reasons: [FaultReason::Unknown; CHILDREN_MAX],
            kept: [0; CHILDREN_MAX],
            incarnations: [0; CHILDREN_MAX],
            written: ChildSet::EMPTY,
            required: ChildSet::EMPTY,
            readable: ChildSet::EMPTY,
            ports: [const { None }; CHILDREN_MAX],
            open: ChildSet::EMPTY,
            unflushed: ChildSet::EMPTY,
            geometry,
            limits,
            depth,
            slots: Slab::with_capacity(depth),
            ranges: RangeTable::new(depth, geometry.block_bytes),
            listed: VecDeque::with_capacity(depth as usize),
            freed: Vec::with_capacity(depth as usize),
            ready: VecDeque::with_capacity(depth as usize),
            polled: Completions::new(),
            is_active: false,
            begun: 0,
            next_sweep: Nanos(0),
            recheck_at: Nanos(0),
            nexus,
        };
        mirror.follow(cx);
        Ok(mirror)
    }

    /// Looks at the version, and follows another view.
    #[inline]
    fn keep_up(&mut self, cx: &mut Cx) {
        if !self.is_active {
            self.is_active = true;
            self.next_sweep = cx.now() + SWEEP_INTERVAL;
            let version = self.cell.activate(&self.nexus.published);
            if version != self.version {
                self.follow(cx);
            }
        } else if self.nexus.published.version() != self.version {
            self.follow(cx);
        }
    }

    /// Puts a slot on the list of those tried again.
    fn list(&mut self, index: u32) {
        let slot = slot_at(&mut self.slots, index);
        if !slot.is_listed {
            slot.is_listed = true;
            self.listed.push_back(index);
        }
    }

    /// Tries those on the list once each.
    fn retry_listed(&mut self, cx: &mut Cx) {
        for _ in 0..self.listed.len() {
            let index = self.listed.pop_front().expect("as many as were counted");
            // What has ended meanwhile was taken off by whoever ended it, or is not listed.
            slot_at(&mut self.slots, index).is_listed = false;
            self.advance(cx, index);
        }
        self.recheck_at = cx.now() + RECHECK_INTERVAL;
    }

    /// Goes on with those that the range table let go.
    fn go_on_freed(&mut self, cx: &mut Cx) {
        while let Some(index) = self.freed.pop() {
            let slot = slot_at(&mut self.slots, index);
            match slot.stage {
                Stage::Blocked => {
                    slot.stage = Stage::New;
                    self.advance(cx, index);
                }
                Stage::Answer => self.answer_between_cores(index),
                stage => unreachable!("a slot in {stage:?} waits for no range"),
            }
        }
    }

    /// Polls the children.
    fn poll_children(&mut self, cx: &mut Cx) {
        for child in self.open {
            let Some(port) = self.ports[child.get()].as_mut() else { continue };
            if port.outstanding == 0 {
                continue;
            }
            port.queue_pair.poll(cx, &mut self.polled);
            for place in 0..self.polled.as_slice().len() {
                let completion = self.polled.as_slice()[place];
                self.child_completed(cx, child, completion);
            }
            self.polled.drain();
        }
    }

    /// Rings the doorbells of the children that were submitted to.
    #[inline]
    fn ring(&mut self, cx: &mut Cx) {
        for child in std::mem::take(&mut self.unflushed) {
            if let Some(port) = self.ports[child.get()].as_mut() {
                port.queue_pair.flush(cx);
            }
        }
    }

    /// Nothing in flight: the home core need not wait for this one from now on.
    fn rest(&mut self) {
        self.close_unused();
        self.is_active = false;
        self.cell.rest();
    }
}

/// The I/O in a slot that is known to be taken.
#[inline]
fn slot_at(slots: &mut Slab<Slot>, index: u32) -> &mut Slot {
    slots.tenant_mut(index).expect("the slot is taken").1
}

impl QueuePair for MirrorQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        self.keep_up(cx);
        if let Err(status) = legality::check(&io, &self.geometry, &self.limits) {
            self.ready.push_back(Completion::new(io.token, status));
            return Ok(());
        }
        let work = match io.operation {
            Operation::Read | Operation::Compare => Work::Anywhere,
            Operation::CompareAndWrite => Work::CompareFirst,
            Operation::Write | Operation::Flush | Operation::WriteZeroes | Operation::Unmap => {
                Work::Everywhere
            }
        };
        let id = self.slots.insert(Slot::new(io, work)).expect("there was a credit");
        if io.operation.changes_blocks() && !self.ranges.enter_writer(id.index, io.lba.0, io.blocks)
        {
            slot_at(&mut self.slots, id.index).stage = Stage::Blocked;
            return Ok(());
        }
        self.advance(cx, id.index);
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.ring(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        if !self.is_active {
            return 0;
        }
        if self.nexus.published.version() != self.version {
            self.follow(cx);
        }
        self.poll_children(cx);
        self.go_on_freed(cx);
        if !self.listed.is_empty() {
            self.retry_listed(cx);
            self.go_on_freed(cx);
        }
        if cx.now() >= self.next_sweep {
            self.sweep(cx);
        }
        self.ring(cx);
        if self.begun == 0 {
            self.say_drained();
        }
        let count = self.ready.len().min(completions.room());
        for completion in self.ready.drain(..count) {
            completions.push(completion);
        }
        if self.inflight() == 0 {
            self.rest();
        }
        count
    }

    #[inline]
    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    #[inline]
    fn inflight(&self) -> u32 {
        self.slots.len() + u32::try_from(self.ready.len()).expect("no more than the depth")
    }

    /// Ends what has not begun, and reads where they are. A write that has begun goes on: ended at
    /// some children only, it would leave them different. A child that hangs is given up in time.
    fn abort_all(&mut self, cx: &mut Cx) {
        for index in 0..self.depth {
            let Some(id) = self.slots.id_at(index) else { continue };
            let slot = self.slots.get_mut(id).expect("it was just there");
            slot.is_aborted = true;
            // A write that waits for its range or its stripes ends when it gets them.
            if matches!(slot.stage, Stage::New | Stage::Ready) && !slot.is_listed {
                self.advance(cx, index);
            }
        }
    }

    fn wake(&self) -> Wake {
        if self.inflight() == 0 {
            return Wake::Never;
        }
        let is_behind = self.nexus.published.version() != self.version;
        let has_work = !self.ready.is_empty() || !self.freed.is_empty();
        if is_behind || has_work || !self.unflushed.is_empty() {
            return Wake::Now;
        }
        let mut wake = Wake::At(self.next_sweep);
        if !self.listed.is_empty() {
            wake = wake.soonest(Wake::At(self.recheck_at));
        }
        let ports = self.ports.iter().flatten().filter(|port| port.outstanding > 0);
        ports.fold(wake, |wake, port| wake.soonest(port.queue_pair.wake()))
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        let is_still = self.ready.is_empty()
            && self.freed.is_empty()
            && self.nexus.published.version() == self.version;
        let mut ports = self.ports.iter_mut().flatten().filter(|port| port.outstanding > 0);
        is_still && ports.all(|port| port.queue_pair.arm(cx))
    }
}

impl Drop for MirrorQueuePair {
    fn drop(&mut self) {
        // The children's queue pairs go first, so that nobody writes what is unlocked then.
        self.ports = [const { None }; CHILDREN_MAX];
        self.cell.rest();
        self.nexus.leave(self.member);
    }
}

/// The host's answer where the volume serves no more: another path may.
const ENDED: Status = Status::INTERNAL_PATH_ERROR;
