//! Keeping up with the view, and telling the home core what this core has seen of a child.

use bdev::{Completion, Completions, Status};
use reactor::Cx;

use bdev::device::Geometry;
use bdev::legality::Legality;

use super::port::Port;
use super::slot::Stage;
use super::{CHILD_TIMEOUT, MirrorQueuePair, SWEEP_INTERVAL};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::mail::{Letter, in_words};
use crate::planted::{self, Bug};
use crate::view::Mode;

impl MirrorQueuePair {
    /// Follows the view in force.
    #[cold]
    pub(super) fn follow(&mut self, cx: &mut Cx) {
        let (version, view) = self.nexus.published.fetch();
        let is_other = |child: &ChildIndex| {
            self.view.incarnations[child.get()] != view.incarnations[child.get()]
        };
        let others: ChildSet = ChildIndex::all().filter(is_other).collect();
        (self.version, self.view) = (version, view);
        let geometry = Geometry { blocks: self.view.blocks, ..self.legality.geometry() };
        self.legality = Legality::new(geometry, self.legality.limits());
        let kept = self.judge_suspended();
        self.close_unused();
        self.open_used(cx);
        self.recount();
        self.forget(others);
        for child in self.open.minus(self.view.written()) {
            if let Some(port) = self.ports[child.get()].as_mut() {
                port.abort(cx);
            }
        }
        if self.view.is_shared {
            self.take_stripes_of_begun();
        }
        self.cell.set_followed(version);
        self.look_at_others();
        self.settle_all(cx, kept);
        self.release_unmarked();
        self.note_elders();
    }

    /// Notes which writes began before this view.
    fn note_elders(&mut self) {
        self.elders.clear();
        for index in 0..self.depth {
            if self.slots.is_taken(index) {
                let (token, slot) = self.slots.named(index);
                self.elders.extend((slot.has_begun && slot.is_write()).then_some(token));
            }
        }
        if self.elders.is_empty() {
            self.cell.set_past(self.version);
        }
    }

    /// Tells the home core when the last write that began before this view has ended.
    #[cold]
    pub(super) fn look_at_elders(&mut self) {
        let slots = &self.slots;
        self.elders.retain(|token| slots.is_named(*token));
        if self.elders.is_empty() {
            self.cell.set_past(self.version);
            self.nexus.wake_home();
        }
    }

    /// Children that were reported: out, replaced, or to be kept. Returns the last.
    fn judge_suspended(&mut self) -> ChildSet {
        let mut all_kept = ChildSet::EMPTY;
        let used = self.view.members.union(self.view.targets);
        for child in self.suspended {
            let place = child.get();
            let is_other = self.incarnations[place] != self.view.incarnations[place];
            let is_kept = self.view.kept[place] != self.kept[place];
            if !used.contains(child) || is_other || is_kept {
                self.suspended = self.suspended.without(child);
                self.fenced = self.fenced.without(child);
                self.unreported = self.unreported.without(child);
                all_kept = all_kept.with(child);
                self.ports[place].iter_mut().for_each(Port::accept_restart);
            }
        }
        all_kept
    }

    /// What these did for an I/O before they were put in anew counts nothing: they may have lost
    /// it.
    fn forget(&mut self, others: ChildSet) {
        if others.is_empty() {
            return;
        }
        for slot in self.slots.iter_mut() {
            let of_slot =
                [&mut slot.done, &mut slot.refused, &mut slot.failed, &mut slot.tried_again];
            of_slot.into_iter().for_each(|children| *children = children.minus(others));
            slot.tried_twice = slot.tried_twice.minus(others);
        }
    }

    /// Closes queue pairs that are used no more and have given everything back.
    pub(super) fn close_unused(&mut self) {
        let used = self.view.written();
        for child in self.open {
            let place = child.get();
            let is_over = |port: &Port| {
                let is_other = port.incarnation != self.view.incarnations[place];
                port.outstanding == 0 && (!used.contains(child) || is_other)
            };
            if self.ports[place].as_ref().is_some_and(is_over) {
                self.ports[place] = None;
                self.open = self.open.without(child);
                self.unflushed = self.unflushed.without(child);
            }
        }
        self.cell.set_open(self.open);
    }

    /// Opens the children that are used and not open yet. One that cannot be opened has failed.
    fn open_used(&mut self, cx: &mut Cx) {
        for child in self.view.written().minus(self.open) {
            let incarnation = self.view.incarnations[child.get()];
            let device = self.view.device(child).clone();
            match Port::open(cx, &device, incarnation, self.depth) {
                Ok(port) => {
                    self.ports[child.get()] = Some(port);
                    self.open = self.open.with(child);
                }
                Err(error) => {
                    self.nexus.mailbox.explain(child, Some(in_words(&error)));
                    self.suspend(child, FaultReason::CantOpen);
                }
            }
        }
        self.cell.set_open(self.open);
    }

    /// The sets that every I/O uses.
    fn recount(&mut self) {
        let usable = self.open.minus(self.suspended);
        self.written = self.view.written().intersection(usable);
        // Once a newer owner is known, what was read beside a write that failed is not told: it may
        // be undone.
        self.readable = match self.view.mode {
            Mode::Ended => ChildSet::EMPTY,
            Mode::Running | Mode::Paused => self.view.readable().intersection(usable),
        };
        let targets = self.view.targets.minus(self.suspended);
        self.required = self.view.members.union(targets);
        if planted::is(Bug::TargetIsRead) {
            self.readable = self.written;
        }
        if planted::is(Bug::TargetIsNotWritten) {
            self.written = self.readable;
            self.required = self.view.members;
        }
        self.room = 0;
        let is_alone = self.shared_since.is_none() && !self.view.is_shared;
        let is_equal = self.view.equal.is_none();
        self.begins_at_once = self.view.mode == Mode::Running && is_alone && is_equal;
    }

    /// What had begun while this core was alone takes its stripes before others begin.
    fn take_stripes_of_begun(&mut self) {
        for slot in self.slots.iter_mut() {
            let begun = matches!(slot.stage, Stage::Ready | Stage::Flight | Stage::Held);
            if begun && slot.is_write() && !slot.has_stripes {
                let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
                let taken = self.nexus.lock.take(self.member, start, blocks, &mut slot.words);
                assert!(taken, "nobody begins before this core has followed");
                slot.has_stripes = true;
            }
        }
    }

    /// Whether the others know of this core, so that it may begin.
    pub(super) fn look_at_others(&mut self) {
        let Some(since) = self.shared_since else { return };
        let own = self.member;
        let all_know = |member, cell: &crate::cell::Cell| member == own || cell.has_followed(since);
        if self.nexus.all_users(all_know) {
            self.shared_since = None;
        }
    }

    /// Looks again at what the last view left undecided. Children that are kept are asked once
    /// more where they had not been asked three times; what they answer is the host's.
    fn settle_all(&mut self, cx: &mut Cx, kept: ChildSet) {
        for index in 0..self.depth {
            if !self.slots.is_taken(index) {
                continue;
            }
            let slot = self.slots.at(index);
            slot.failed = slot.failed.minus(kept.minus(slot.tried_twice));
            if slot.stage == Stage::Held {
                debug_assert!(slot.is_back());
                self.settle(cx, index);
            }
        }
    }

    /// The device of a child has restarted: what it answers counts for nothing, and it is out.
    #[cold]
    pub(super) fn distrust(&mut self, cx: &mut Cx, child: ChildIndex, polled: &Completions) {
        self.suspend(child, FaultReason::OutOfSync);
        for completion in polled.as_slice() {
            let failed = Completion::new(completion.token, Status::INTERNAL_PATH_ERROR);
            self.child_completed(cx, child, &failed);
        }
    }

    /// A newer owner has the child: nothing that it refused is answered, until the home core has
    /// ended the volume here. It is not faulted, as nothing is wrong with it.
    #[cold]
    pub(super) fn fence(&mut self, child: ChildIndex) {
        if !self.suspended.contains(child) {
            self.fenced = self.fenced.with(child);
            self.suspend(child, FaultReason::Unknown);
        }
    }

    /// Stops using a child on this core at once, and tells the home core.
    #[cold]
    pub(super) fn suspend(&mut self, child: ChildIndex, reason: FaultReason) {
        if self.suspended.contains(child) {
            return;
        }
        self.suspended = self.suspended.with(child);
        self.reasons[child.get()] = reason;
        self.kept[child.get()] = self.view.kept[child.get()];
        self.incarnations[child.get()] = self.view.incarnations[child.get()];
        self.unreported = self.unreported.with(child);
        self.recount();
        self.report();
    }

    fn report(&mut self) {
        for child in self.unreported {
            let (reason, kept) = (self.reasons[child.get()], self.kept[child.get()]);
            let letter = match self.fenced.contains(child) {
                true => Letter::Fenced,
                false => Letter::Failed { child, reason, kept },
            };
            if !self.nexus.post(letter) {
                return;
            }
            self.unreported = self.unreported.without(child);
        }
    }

    /// Finds children that do not answer; a few other things that may be late.
    #[cold]
    pub(super) fn sweep(&mut self, cx: &mut Cx) {
        let now = cx.now();
        self.next_sweep = now + SWEEP_INTERVAL;
        self.report();
        let mut silent = ChildSet::EMPTY;
        for slot in self.slots.iter_mut() {
            let is_silent = !slot.pending.is_empty() && !planted::is(Bug::NoTimeout);
            if is_silent && now.since(slot.sent_at) >= CHILD_TIMEOUT {
                silent = silent.union(slot.pending);
                // Should the child be the last one, it is given as long again.
                slot.sent_at = now;
            }
        }
        for child in silent.intersection(self.view.written()) {
            self.suspend(child, FaultReason::TimedOut);
        }
        self.ports.iter_mut().flatten().for_each(Port::fade);
        self.close_unused();
    }

    /// Tells the home core that nothing is in flight that has begun, while nothing begins.
    pub(super) fn say_drained(&mut self) {
        if self.shared_since.is_some() {
            self.look_at_others();
        }
        if self.view.mode != Mode::Running {
            self.cell.set_drained(self.version);
            self.nexus.wake_home();
        }
    }
}
