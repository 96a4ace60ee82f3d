//! From the children's completions to the host's.

use bdev::{Completion, Io, Status};
use reactor::Cx;

use super::slot::{Stage, Work};
use super::verdict::{Verdict, judge};
use super::{ENDED, MirrorQueuePair};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::mail::Letter;
use crate::planted::{self, Bug};
use crate::view::Mode;

impl MirrorQueuePair {
    /// An I/O of a child has ended.
    #[inline]
    pub(super) fn child_completed(
        &mut self,
        cx: &mut Cx,
        child: ChildIndex,
        completion: &Completion,
    ) {
        let (index, slot) = self.slots.by_token(completion.token);
        assert!(slot.pending.contains(child), "a child completes a token once");
        slot.pending = slot.pending.without(child);
        if slot.work != Work::Everywhere {
            return self.asked_child_completed(cx, index, child, completion);
        }
        if !completion.status.is_success() {
            return self.write_failed(cx, index, child, completion.status);
        }
        slot.done = slot.done.with(child);
        if slot.is_back() {
            self.written_everywhere(cx, index);
        }
    }

    /// A write or flush is back from all children that it was sent to.
    #[inline]
    fn written_everywhere(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        match slot.done.contains_all(self.required) {
            true if slot.is_swap() => self.finish(cx, index, Status::SUCCESS),
            true => self.end(index, Status::SUCCESS),
            false => self.settle(cx, index),
        }
    }

    /// A write or flush failed on a child.
    #[cold]
    fn write_failed(&mut self, cx: &mut Cx, index: u32, child: ChildIndex, status: Status) {
        self.try_write_again(index, child, status);
        if self.slots.at(index).is_back() {
            self.written_everywhere(cx, index);
        }
    }

    /// A write or flush that failed is tried again there twice, then the child is out.
    fn try_write_again(&mut self, index: u32, child: ChildIndex, status: Status) {
        let is_conflict = status.has_code(Status::RESERVATION_CONFLICT);
        let device = self.view.devices[child.get()].as_ref();
        let is_fenced = is_conflict && device.is_some_and(|device| device.is_reserved);
        let slot = self.slots.at(index);
        slot.status = status;
        if is_fenced {
            slot.failed = slot.failed.with(child);
            return self.fence(child);
        }
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
        self.list(index);
    }

    /// Decides about an I/O that is back from all children that it was sent to.
    #[inline(never)]
    pub(super) fn settle(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
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
            if planted::is(Bug::AckBeforeOut) && !slot.done.is_empty() {
                return self.finish(cx, index, Status::SUCCESS);
            }
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
        let slot = self.slots.at(index);
        slot.unsent = slot.unsent.union(children);
        slot.stage = Stage::Flight;
        self.send_unsent(cx, index);
    }

    /// A read or compare of one child has ended.
    #[inline(never)]
    fn asked_child_completed(
        &mut self,
        cx: &mut Cx,
        index: u32,
        child: ChildIndex,
        completion: &Completion,
    ) {
        let Completion { status, zeroes, .. } = *completion;
        let slot = self.slots.at(index);
        slot.status = status;
        if !status.is_success() && judge(status) != Verdict::Answered {
            return self.asked_in_vain(cx, index, child);
        }
        slot.zeroes = zeroes;
        let time = cx.now() - slot.sent_at;
        let is_swap = slot.work == Work::CompareFirst;
        let had_failed = !slot.failed.is_empty();
        self.ports[child.get()].as_mut().expect("it was just polled").note_latency(time);
        if had_failed {
            self.count_errors(index);
        }
        match is_swap {
            true if status.is_success() => self.swap(cx, index),
            true => self.finish(cx, index, status),
            false => {
                self.slots.at(index).done = ChildSet::only(child);
                self.answer(cx, index);
            }
        }
    }

    /// The child that was asked has failed: another one is.
    #[cold]
    fn asked_in_vain(&mut self, cx: &mut Cx, index: u32, child: ChildIndex) {
        let slot = self.slots.at(index);
        slot.failed = slot.failed.with(child);
        if planted::is(Bug::NotTriedElsewhere) {
            let status = slot.status;
            return self.finish(cx, index, status);
        }
        match slot.is_aborted {
            true => self.finish(cx, index, Status::ABORT_REQUESTED),
            false => self.send_anywhere(cx, index),
        }
    }

    /// An I/O failed on some children, and then succeeded on another.
    #[cold]
    fn count_errors(&mut self, index: u32) {
        let failed = std::mem::take(&mut self.slots.at(index).failed);
        failed.iter().for_each(|child| self.count_error(child));
    }

    /// The compare of a compare-and-write found what it was to find: now the write.
    #[cold]
    fn swap(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        slot.work = Work::Everywhere;
        slot.stage = Stage::Ready;
        self.advance(cx, index);
    }

    /// The data of a read is there. It is given when every write that is in flight to its blocks
    /// has ended: what it may show must then be on every member (replica-truth 21).
    #[inline]
    fn answer(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        let Io { lba, blocks, .. } = slot.io;
        slot.stage = Stage::Answer;
        slot.has_begun = false;
        self.begun -= 1;
        if planted::is(Bug::ReadInFlight) {
            let status = slot.status;
            return self.end(index, status);
        }
        if !self.ranges.enter_reader(index, lba.0, blocks) {
            return;
        }
        if self.is_of_the_past(index) {
            return self.ask_again(cx, index);
        }
        if self.begins_at_once && !self.slots.at(index).has_asked {
            // No other core has the volume open.
            let status = self.slots.at(index).status;
            return self.end(index, status);
        }
        self.answer_between_cores(cx, index);
    }

    /// True when who was asked is out by now: it may have done a write that has failed since, on
    /// the members that are left, and then nobody may see it.
    #[inline]
    fn is_of_the_past(&mut self, index: u32) -> bool {
        let done = self.slots.at(index).done;
        done.intersection(self.readable).is_empty() && !planted::is(Bug::ReadInFlight)
    }

    /// Asks a member that is left, as if nobody had been asked.
    #[cold]
    fn ask_again(&mut self, cx: &mut Cx, index: u32) {
        if self.ranges.contains(index) {
            self.ranges.leave(index, &mut self.freed);
        }
        if self.slots.at(index).words > 0 {
            self.give_back_stripes(index);
        }
        let slot = self.slots.at(index);
        (slot.words, slot.has_asked, slot.done) = (0, false, ChildSet::EMPTY);
        match slot.is_aborted {
            true => self.end(index, Status::ABORT_REQUESTED),
            // A newer owner decides what becomes of the write that it may have seen.
            false if self.view.mode == Mode::Ended => self.end(index, ENDED),
            false => self.send_anywhere(cx, index),
        }
    }

    /// The same against writes of other cores: where there is one, the read waits its turn for the
    /// stripes like a write, and gives them back at once.
    #[inline(never)]
    pub(super) fn answer_between_cores(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
        let lock = &self.nexus.lock;
        let waits = slot.has_asked
            || self.view.is_shared && lock.is_written_by_others(self.member, start, blocks);
        if waits && !lock.take(self.member, start, blocks, &mut slot.words) {
            slot.has_asked = true;
            return self.list(index);
        }
        if self.nexus.published.version() != self.version {
            // Who wrote there may have given up under a view that this core does not know yet.
            if self.slots.at(index).words > 0 {
                self.give_back_stripes(index);
            }
            let slot = self.slots.at(index);
            (slot.words, slot.has_asked) = (0, false);
            return self.list(index);
        }
        if self.is_of_the_past(index) {
            return self.ask_again(cx, index);
        }
        let status = self.slots.at(index).status;
        self.end(index, status);
    }

    /// Ends an I/O, and gives back what it had.
    #[cold]
    pub(super) fn finish(&mut self, cx: &mut Cx, index: u32, status: Status) {
        let slot = self.slots.at(index);
        if let Some(buffer) = slot.buffer.take() {
            cx.dma.give(buffer);
        }
        self.end(index, status);
    }

    // Part of `poll`, which a call of its own would make a tenth longer.
    #[inline(always)]
    fn end(&mut self, index: u32, status: Status) {
        let slot = self.slots.at(index);
        debug_assert!(slot.is_back() && !slot.is_listed && slot.buffer.is_none());
        self.begun -= u32::from(slot.has_begun);
        let zeroes = slot.zeroes && status.is_success() && slot.work == Work::Anywhere;
        self.ready.push(Completion { token: slot.io.token, status, zeroes });
        if slot.is_write() || slot.stage == Stage::Answer && self.ranges.contains(index) {
            self.ranges.leave(index, &mut self.freed);
        }
        if slot.words > 0 {
            self.give_back_stripes(index);
        }
        self.slots.remove(index);
    }

    #[inline(never)]
    fn give_back_stripes(&mut self, index: u32) {
        let slot = self.slots.at(index);
        let nexus = &self.nexus;
        let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
        nexus.lock.release(start, blocks, slot.words, |member| nexus.wake_user(member));
    }

    /// An I/O failed on a child and may yet succeed, there or elsewhere.
    #[cold]
    fn count_error(&mut self, child: ChildIndex) {
        // A letter that finds no room is one of very many.
        self.nexus.post(Letter::Error { child });
    }
}
