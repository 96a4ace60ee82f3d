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
#[cfg(test)]
mod mixes;
mod port;
mod slot;
mod start;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::io::Waiting;
use bdev::legality::Legality;
use bdev::stripe_lock::LockMember;
use bdev::{
    BlockDevice, Busy, Completion, Completions, Io, OpenError, Operation, QueuePair, Status, Token,
};
use reactor::{Cx, Nanos, Wake};

use crate::cell::Cell;
use crate::child::{CHILDREN_MAX, ChildSet, FaultReason};
use crate::meter::Meter;
use crate::nexus::Nexus;
use crate::range_table::RangeTable;
use crate::view::{Version, View};
use port::Port;
use slot::{Slots, Stage, Work};

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
    /// Of these, those that a newer owner has.
    fenced: ChildSet,
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
    /// How many I/Os each child that is written takes for certain. Zero says nothing: it is asked.
    room: u32,
    /// What comes need not wait for anybody: the volume runs, and only this core has it open.
    begins_at_once: bool,
    ports: [Option<Port>; CHILDREN_MAX],
    open: ChildSet,
    /// Submitted to since their last doorbell.
    unflushed: ChildSet,
    legality: Legality,
    depth: u32,
    slots: Slots,
    ranges: RangeTable,
    /// Slots that are tried again at each poll.
    listed: VecDeque<u32>,
    /// Slots that wait for a mark: tried again when there are new ones.
    unmarked: Vec<u32>,
    /// [`IntentMap::changes`] when they were last tried.
    marks_seen: usize,
    /// Slots that the range table let go.
    freed: Vec<u32>,
    /// Ended, not yet handed up.
    ready: Waiting,
    /// Not there while it is looked through.
    polled: Option<Completions>,
    is_active: bool,
    /// Accepted and not yet handed up.
    inflight: u32,
    /// Writes that had begun when the view was followed, and are in flight since.
    elders: Vec<Token>,
    /// Slots that have begun.
    begun: u32,
    next_sweep: Nanos,
    recheck_at: Nanos,
    meter: Meter,
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
        let legality = Legality::new(geometry, nexus.limits());
        let mut mirror = MirrorQueuePair {
            cell: membership.cell,
            member: membership.member,
            shared_since: membership.shared_since,
            version,
            view,
            suspended: ChildSet::EMPTY,
            fenced: ChildSet::EMPTY,
            unreported: ChildSet::EMPTY,
            reasons: [FaultReason::Unknown; CHILDREN_MAX],
            kept: [0; CHILDREN_MAX],
            incarnations: [0; CHILDREN_MAX],
            written: ChildSet::EMPTY,
            required: ChildSet::EMPTY,
            readable: ChildSet::EMPTY,
            room: 0,
            begins_at_once: false,
            ports: [const { None }; CHILDREN_MAX],
            open: ChildSet::EMPTY,
            unflushed: ChildSet::EMPTY,
            legality,
            depth,
            slots: Slots::new(depth),
            ranges: RangeTable::new(depth, geometry.block_bytes),
            listed: VecDeque::with_capacity(depth as usize),
            unmarked: Vec::with_capacity(depth as usize),
            marks_seen: 0,
            freed: Vec::with_capacity(depth as usize),
            ready: Waiting::new(depth),
            polled: Some(Completions::new()),
            is_active: false,
            inflight: 0,
            elders: Vec::with_capacity(depth as usize),
            begun: 0,
            next_sweep: Nanos(0),
            recheck_at: Nanos(0),
            meter: Meter::default(),
            nexus,
        };
        mirror.follow(cx);
        Ok(mirror)
    }

    /// Looks at the version, and follows another view.
    #[inline]
    fn keep_up(&mut self, cx: &mut Cx) {
        let version = match self.is_active {
            true => self.nexus.published.version(),
            false => self.activate(cx),
        };
        if version != self.version {
            self.follow(cx);
        }
    }

    /// The first I/O after a rest.
    #[inline(never)]
    fn activate(&mut self, cx: &mut Cx) -> Version {
        self.is_active = true;
        self.next_sweep = cx.now() + SWEEP_INTERVAL;
        self.meter.restart(cx.now());
        self.cell.activate(&self.nexus.published)
    }

    /// Puts a slot on the list of those tried again.
    #[cold]
    fn list(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.is_listed {
            slot.is_listed = true;
            self.listed.push_back(index);
        }
    }

    /// Has a slot wait for a mark.
    #[cold]
    fn list_unmarked(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if !slot.is_listed {
            slot.is_listed = true;
            self.unmarked.push(index);
        }
    }

    /// Marks were set since those that wait for one were tried.
    fn has_new_marks(&self) -> bool {
        self.view.intent.as_ref().is_some_and(|intent| intent.changes() != self.marks_seen)
    }

    /// Has those that wait for a mark tried again where there are new ones, and from time to time.
    #[cold]
    fn look_at_unmarked(&mut self, cx: &mut Cx) {
        if cx.now() >= self.recheck_at {
            return self.release_unmarked();
        }
        let Some(intent) = self.view.intent.as_ref() else { return self.release_unmarked() };
        let changes = intent.changes();
        if changes == self.marks_seen {
            return;
        }
        // What is set after this look is announced by another number. What was set and taken back
        // since is asked for again at the next recheck.
        self.marks_seen = changes;
        let (slots, listed) = (&mut self.slots, &mut self.listed);
        self.unmarked.retain(|index| {
            let is_marked = intent.are_all_marked(&slots.at(*index).io);
            if is_marked {
                listed.push_back(*index);
            }
            !is_marked
        });
    }

    /// Has those that wait for a mark tried again at the next poll, and ask for it again.
    fn release_unmarked(&mut self) {
        self.marks_seen = self.view.intent.as_ref().map_or(0, |intent| intent.changes());
        self.listed.extend(self.unmarked.drain(..));
    }

    /// Tries those on the list once each.
    fn retry_listed(&mut self, cx: &mut Cx) {
        for _ in 0..self.listed.len() {
            let index = self.listed.pop_front().expect("as many as were counted");
            // What has ended meanwhile was taken off by whoever ended it, or is not listed.
            self.slots.at(index).is_listed = false;
            self.advance(cx, index);
        }
        self.recheck_at = cx.now() + RECHECK_INTERVAL;
    }

    /// Goes on with those that the range table let go.
    #[cold]
    fn go_on_freed(&mut self, cx: &mut Cx) {
        while let Some(index) = self.freed.pop() {
            let slot = self.slots.at(index);
            match slot.stage {
                Stage::Blocked => {
                    slot.stage = Stage::New;
                    self.advance(cx, index);
                }
                Stage::Answer => self.answer_between_cores(cx, index),
                stage => unreachable!("a slot in {stage:?} waits for no range"),
            }
        }
    }

    /// Polls the children.
    #[inline]
    fn poll_children(&mut self, cx: &mut Cx) {
        let mut polled = self.polled.take().expect("it is put back below");
        for child in self.open {
            let Some(port) = self.ports[child.get()].as_mut() else { continue };
            if port.outstanding == 0 {
                continue;
            }
            port.poll(cx, &mut polled);
            if port.has_restarted() {
                self.distrust(cx, child, &polled);
                polled.clear();
                continue;
            }
            for completion in polled.as_slice() {
                self.child_completed(cx, child, completion);
            }
            polled.clear();
        }
        self.polled = Some(polled);
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

impl QueuePair for MirrorQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.inflight == self.depth {
            return Err(Busy);
        }
        self.inflight += 1;
        self.keep_up(cx);
        if let Err(status) = self.legality.check(&io) {
            self.ready.push(Completion::new(io.token, status));
            return Ok(());
        }
        let work = match io.operation {
            // A verify too asks as many children as a read does: the first that can be read.
            Operation::Read | Operation::Compare | Operation::Verify => Work::Anywhere,
            Operation::CompareAndWrite => Work::CompareFirst,
            Operation::Write | Operation::Flush | Operation::WriteZeroes | Operation::Unmap => {
                Work::Everywhere
            }
        };
        // The copy into the slot comes late: made at once, it would wait for the caller's stores.
        let index = self.slots.next();
        let has_range =
            !io.operation.changes_blocks() || self.ranges.enter_writer(index, io.lba.0, io.blocks);
        self.slots.insert(&io, work);
        if !has_range {
            self.slots.at(index).stage = Stage::Blocked;
            return Ok(());
        }
        match work {
            Work::Everywhere if self.begins_at_once => self.send_once_marked(cx, index),
            Work::Anywhere if self.begins_at_once => self.send_anywhere(cx, index),
            _ => self.advance(cx, index),
        }
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
        if !self.freed.is_empty() {
            self.go_on_freed(cx);
        }
        if !self.unmarked.is_empty() {
            self.look_at_unmarked(cx);
        }
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
        if !self.elders.is_empty() {
            self.look_at_elders();
        }
        let count = self.ready.hand_up(completions);
        self.inflight -= u32::try_from(count).expect("no more than the depth");
        if self.view.is_shared {
            self.meter.note(&self.cell, cx.now(), count, self.inflight);
        }
        if self.inflight == 0 {
            self.rest();
        }
        count
    }

    #[inline]
    fn credits(&self) -> u32 {
        self.depth - self.inflight
    }

    #[inline]
    fn inflight(&self) -> u32 {
        self.inflight
    }

    /// Ends what has not begun, and reads where they are. A write that has begun goes on: ended at
    /// some children only, it would leave them different. A child that hangs is given up in time.
    fn abort_all(&mut self, cx: &mut Cx) {
        self.release_unmarked();
        for index in 0..self.depth {
            if !self.slots.is_taken(index) {
                continue;
            }
            let slot = self.slots.at(index);
            slot.is_aborted = true;
            // A write that waits for its range or its stripes ends when it gets them.
            if matches!(slot.stage, Stage::New | Stage::Ready) && !slot.is_listed {
                self.advance(cx, index);
            } else if slot.stage == Stage::Held && slot.work != Work::Everywhere && !slot.is_listed
            {
                // What members hold does not depend on it.
                self.finish(cx, index, Status::ABORT_REQUESTED);
            }
        }
    }

    fn wake(&self) -> Wake {
        if self.inflight == 0 {
            return Wake::Never;
        }
        let is_behind = self.nexus.published.version() != self.version;
        let is_marked = !self.unmarked.is_empty() && self.has_new_marks();
        let has_work = !self.ready.is_empty() || !self.freed.is_empty() || is_marked;
        if is_behind || has_work || !self.unflushed.is_empty() {
            return Wake::Now;
        }
        let mut wake = Wake::At(self.next_sweep);
        if !self.listed.is_empty() || !self.unmarked.is_empty() {
            wake = wake.soonest(Wake::At(self.recheck_at));
        }
        let ports = self.ports.iter().flatten().filter(|port| port.outstanding > 0);
        ports.fold(wake, |wake, port| wake.soonest(port.queue_pair.wake()))
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        let is_still = self.ready.is_empty()
            && self.freed.is_empty()
            && (self.unmarked.is_empty() || !self.has_new_marks())
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
