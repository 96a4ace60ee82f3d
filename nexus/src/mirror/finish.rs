//! From the children's completions to the host's.

use bdev::{Completion, Io, Status};
use reactor::Cx;
use reactor::slab::SlotId;

use super::slot::{Stage, Work};
use super::verdict::{Verdict, judge};
use super::{ENDED, MirrorQueuePair, slot_at};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::mail::Letter;
use crate::view::Mode;

impl MirrorQueuePair {
    /// An I/O of a child has ended.
    #[inline]
    pub(super) fn child_completed(
        &mut self,
        cx: &mut Cx,
        child: ChildIndex,
        completion: Completion,
    ) {
        let port = self.ports[child.get()].as_mut().expect("it was just polled");
        port.outstanding -= 1;
        let id = SlotId::from_token(completion.token.0);
        let slot = self.slots.get_mut(id).expect("a slot outlives its tokens");
        assert!(slot.pending.contains(child), "a child completes a token once");
        slot.pending = slot.pending.without(child);
        if slot.work != Work::Everywhere {
            return self.asked_child_completed(cx, id, child, completion);
        }
        if completion.status.is_success() {
            slot.done = slot.done.with(child);
        } else {
            self.write_failed(id, child, completion.status);
        }
        let slot = self.slots.get_mut(id).expect("a slot outlives its tokens");
        if !slot.is_back() {
            return;
        }
        if slot.done.contains_all(self.required) {
            self.finish(cx, id.index, Status::SUCCESS);
        } else {
            self.settle(cx, id.index);
        }
    }

    /// A write or flush failed on a child: tried again there twice, then the child is out.
    #[cold]
    fn write_failed(&mut self, id: SlotId, child: ChildIndex, status: Status) {
        let slot = self.slots.get_mut(id).expect("a slot outlives its tokens");
        slot.status = status;
        if judge(status) == Verdict::Refused {
            slot.refused = slot.refused.with(child);
            return;
        }
        if !self.written.contains(child) {
            slot.failed = slot.failed.with(child);
            return;
        }
        if slot.tried_twice.contains(child) {
            slot.failed = slot.failed.with(child);
            return self.suspend(child, FaultReason::IoError);
        }
        match slot.tried_again.contains(child) {
            true => slot.tried_twice = slot.tried_twice.with(child),
            false => slot.tried_again = slot.tried_again.with(child),
        }
        slot.unsent = slot.unsent.with(child);
        self.count_error(child);
        self.list(id.index);
    }

    /// Decides about an I/O that is back from all children that it was sent to.
    pub(super) fn settle(&mut self, cx: &mut Cx, index: u32) {
        let slot = slot_at(&mut self.slots, index);
        if slot.work != Work::Everywhere {
            return self.send_anywhere(cx, index);
        }
        if self.view.mode == Mode::Ended {
            return self.finish(cx, index, ENDED);
        }
        let members = self.view.members;
        let missing = members.minus(slot.done);
        let refused = slot.refused.intersection(missing);
        let failed = slot.failed.intersection(missing);
        let undecided = self.view.leaving.union(self.suspended).intersection(missing);
        let targets = self.view.targets.minus(self.suspended);
        if missing.is_empty() {
            let behind = targets.minus(slot.done);
            let unasked = behind.minus(slot.refused).minus(slot.failed);
            if !unasked.is_empty() {
                return self.send_again(cx, index, unasked);
            }
            behind.iter().for_each(|child| self.suspend(child, FaultReason::RebuildFailed));
            return self.finish(cx, index, Status::SUCCESS);
        }
        let unasked = missing.minus(refused).minus(failed).minus(undecided);
        if !unasked.is_empty() {
            return self.send_again(cx, index, unasked);
        }
        let unusable = self.view.leaving.union(self.suspended);
        let has_any = !members.intersection(slot.done).minus(unusable).is_empty();
        if has_any && !refused.is_empty() {
            // The others did it: who refused is the one that differs.
            slot.stage = Stage::Held;
            return refused.iter().for_each(|child| self.suspend(child, FaultReason::OutOfSync));
        }
        if !undecided.union(unusable.intersection(slot.done)).is_empty() {
            slot.stage = Stage::Held;
            return;
        }
        // Every member refused it or is the last one, on which it failed: the host's. What targets
        // did of it their source does not have.
        let status = slot.status;
        let ahead = targets.intersection(slot.done.union(slot.failed));
        ahead.iter().for_each(|child| self.suspend(child, FaultReason::RebuildFailed));
        self.finish(cx, index, status);
    }

    /// Sends a write to children that became written after it was sent.
    fn send_again(&mut self, cx: &mut Cx, index: u32, children: ChildSet) {
        let slot = slot_at(&mut self.slots, index);
        slot.unsent = slot.unsent.union(children);
        slot.stage = Stage::Flight;
        self.send_unsent(cx, index);
    }

    /// A read or compare of one child has ended.
    fn asked_child_completed(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        child: ChildIndex,
        completion: Completion,
    ) {
        let Completion { status, zeroes, .. } = completion;
        let slot = self.slots.get_mut(id).expect("a slot outlives its tokens");
        slot.status = status;
        if judge(status) != Verdict::Answered {
            slot.failed = slot.failed.with(child);
            if slot.is_aborted {
                return self.finish(cx, id.index, Status::ABORT_REQUESTED);
            }
            return self.send_anywhere(cx, id.index);
        }
        slot.zeroes = zeroes;
        let time = cx.now() - slot.sent_at;
        let failed = std::mem::take(&mut slot.failed);
        let is_swap = slot.work == Work::CompareFirst;
        failed.iter().for_each(|child| self.count_error(child));
        self.ports[child.get()].as_mut().expect("it was just polled").note_latency(time);
        match is_swap {
            true if status.is_success() => self.swap(cx, id),
            true => self.finish(cx, id.index, status),
            false => self.answer(id.index),
        }
    }

    /// The compare of a compare-and-write found what it was to find: now the write.
    fn swap(&mut self, cx: &mut Cx, id: SlotId) {
        let slot = self.slots.get_mut(id).expect("a slot outlives its tokens");
        slot.work = Work::Everywhere;
        slot.stage = Stage::Ready;
        self.advance(cx, id.index);
    }

    /// The data of a read is there. It is given when every write that is in flight to its blocks
    /// has ended: what it may show must then be on every member (replica-truth 21).
    #[inline]
    fn answer(&mut self, index: u32) {
        let slot = slot_at(&mut self.slots, index);
        let Io { lba, blocks, .. } = slot.io;
        slot.stage = Stage::Answer;
        slot.has_begun = false;
        self.begun -= 1;
        if self.ranges.enter_reader(index, lba.0, blocks) {
            self.answer_between_cores(index);
        }
    }

    /// The same against writes of other cores: where there is one, the read waits its turn for the
    /// stripes like a write, and gives them back at once.
    pub(super) fn answer_between_cores(&mut self, index: u32) {
        let slot = slot_at(&mut self.slots, index);
        let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
        let lock = &self.nexus.lock;
        let waits = slot.has_asked
            || self.view.is_shared && lock.is_written_by_others(self.member, start, blocks);
        if waits && !lock.take(self.member, start, blocks, &mut slot.words) {
            slot.has_asked = true;
            return self.list(index);
        }
        let status = slot.status;
        self.end(index, status);
    }

    /// Ends an I/O, and gives back what it had.
    #[inline]
    pub(super) fn finish(&mut self, cx: &mut Cx, index: u32, status: Status) {
        let slot = slot_at(&mut self.slots, index);
        if let Some(buffer) = slot.buffer.take() {
            cx.dma.give(buffer);
        }
        self.end(index, status);
    }

    #[inline]
    fn end(&mut self, index: u32, status: Status) {
        let (id, slot) = self.slots.tenant_mut(index).expect("the slot is taken");
        debug_assert!(slot.is_back() && !slot.is_listed && slot.buffer.is_none());
        if slot.has_begun {
            self.begun -= 1;
        }
        if slot.words > 0 {
            let nexus = &self.nexus;
            let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
            nexus.lock.release(start, blocks, slot.words, |member| nexus.wake_user(member));
        }
        if slot.is_write() || slot.stage == Stage::Answer && self.ranges.contains(index) {
            self.ranges.leave(index, &mut self.freed);
        }
        let zeroes = slot.zeroes && status.is_success() && slot.work == Work::Anywhere;
        self.ready.push_back(Completion { token: slot.io.token, status, zeroes });
        self.slots.remove(id);
    }

    /// An I/O failed on a child and may yet succeed, there or elsewhere.
    fn count_error(&mut self, child: ChildIndex) {
        // A letter that finds no room is one of very many.
        self.nexus.post(Letter::Error { child });
    }
}
