//! From an I/O's arrival to the children.

use bdev::Status;
use bdev::io::{Io, IoFlags, Memory, Operation};
use bdev::parts::parts;
use reactor::Cx;
use reactor::dma::DmaBuffer;

use super::port::Port;
use super::slot::{Slot, Stage, Work};
use super::{ENDED, MirrorQueuePair};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::planted::{self, Bug};
use crate::view::{Locality, Mode};

/// Bytes copied in one go out of a host's segments.
const COPY_BYTES: usize = 512;

impl MirrorQueuePair {
    /// Takes an I/O as far as it goes; called on its arrival and whenever something that it waits
    /// for may have come.
    #[inline(never)]
    pub(super) fn advance(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        match slot.stage {
            Stage::Vacant | Stage::Blocked | Stage::Held => {}
            Stage::Flight => self.send_unsent(cx, index),
            Stage::Answer => self.answer_between_cores(cx, index),
            Stage::New | Stage::Stripes | Stage::Ready => self.begin(cx, index),
        }
    }

    /// Begins an I/O, or puts it on the list.
    fn begin(&mut self, cx: &mut Cx, index: u32) {
        let slot = self.slots.at(index);
        if slot.stage == Stage::New && !slot.has_begun {
            if self.view.mode != Mode::Running || self.shared_since.is_some() {
                if self.view.mode == Mode::Ended || slot.is_aborted {
                    let status = if slot.is_aborted { Status::ABORT_REQUESTED } else { ENDED };
                    return self.finish(cx, index, status);
                }
                return self.list(index);
            }
            if !self.is_equal(index) {
                return self.list(index);
            }
            let slot = self.slots.at(index);
            slot.stage = Stage::Stripes;
        }
        let slot = self.slots.at(index);
        if slot.stage == Stage::Stripes {
            if slot.is_write() && (self.view.is_shared || slot.has_asked) && !slot.has_stripes {
                let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
                let taken = planted::is(Bug::NoOrderBetweenCores)
                    || self.nexus.lock.take(self.member, start, blocks, &mut slot.words);
                if !taken {
                    slot.has_asked = true;
                    return self.list(index);
                }
                slot.has_stripes = true;
            }
            slot.stage = Stage::Ready;
        }
        if slot.is_aborted && !slot.has_begun {
            return self.finish(cx, index, Status::ABORT_REQUESTED);
        }
        if self.view.mode == Mode::Ended {
            return self.finish(cx, index, ENDED);
        }
        if !slot.has_begun && self.view.mode != Mode::Running {
            return self.list(index);
        }
        let work = slot.work;
        match work {
            Work::Everywhere => self.send_once_marked(cx, index),
            Work::Anywhere => self.send_anywhere(cx, index),
            // Marked before it begins: the writes that have begun never wait for room for a mark.
            Work::CompareFirst if !self.is_marked(index) => self.list_unmarked(index),
            Work::CompareFirst => match self.gather(cx, index) {
                true => self.send_anywhere(cx, index),
                false => self.list(index),
            },
        }
    }

    /// Sends to all that are written, once each region of the I/O is marked.
    // Part of `submit`, which a call of its own would make a tenth longer.
    #[inline(always)]
    pub(super) fn send_once_marked(&mut self, cx: &mut Cx, index: u32) {
        match self.is_marked(index) {
            true => self.send_everywhere(cx, index),
            false => self.list_unmarked(index),
        }
    }

    /// True when each region of a write is marked; asks for the marks that are missing.
    #[inline]
    fn is_marked(&mut self, index: u32) -> bool {
        let Some(intent) = &self.view.intent else { return true };
        intent.has_all(&self.slots.at(index).io, || self.nexus.wake_home())
    }

    /// True when members are equal in each region of an I/O; asks for the copies that are missing.
    #[cold]
    fn is_equal(&mut self, index: u32) -> bool {
        let Some(equal) = &self.view.equal else { return true };
        equal.has_all(&self.slots.at(index).io, || self.nexus.wake_home())
    }

    /// What had begun before the members were assembled anew starts over, and lets a copy of its
    /// region go first.
    #[cold]
    fn wait_for_copy(&mut self, index: u32) {
        let slot = self.slots.at(index);
        if slot.has_begun {
            slot.has_begun = false;
            self.begun -= 1;
        }
        let words = std::mem::take(&mut slot.words);
        let (start, blocks) = (slot.io.lba.0, slot.io.blocks);
        (slot.has_stripes, slot.has_asked, slot.stage) = (false, false, Stage::New);
        if words > 0 {
            let nexus = &self.nexus;
            nexus.lock.release(start, blocks, words, |member| nexus.wake_user(member));
        }
        self.list(index);
    }

    /// Sends to all that are written, if each of them has a credit.
    #[inline(always)]
    fn send_everywhere(&mut self, cx: &mut Cx, index: u32) {
        // All members may be suspended: the home core decides which one stays.
        if self.readable.is_empty() || self.room == 0 && !self.ask_for_room() {
            return self.list(index);
        }
        self.room -= 1;
        let (token, slot) = self.slots.named(index);
        slot.stage = Stage::Flight;
        slot.sent_at = cx.now();
        self.begun += u32::from(!slot.has_begun);
        slot.has_begun = true;
        let changed;
        let io = match slot.is_swap() {
            true => {
                changed = half(slot);
                &changed
            }
            false => &slot.io,
        };
        let mut pending = self.written;
        for child in self.written {
            let port = self.ports[child.get()].as_mut().expect("a written child is open");
            if port.submit(cx, io, token).is_err() {
                pending = pending.without(child);
            }
        }
        slot.pending = pending;
        slot.unsent = self.written.minus(pending);
        self.unflushed = self.unflushed.union(pending);
        if pending != self.written {
            self.room = 0;
            self.list(index);
        }
    }

    /// Asks the children that are written how many I/Os they take. False when one takes none.
    #[cold]
    fn ask_for_room(&mut self) -> bool {
        let ports = self.written.iter().filter_map(|child| self.ports[child.get()].as_ref());
        self.room = ports.map(Port::credits).min().unwrap_or(0);
        if planted::is(Bug::BusyIsFailed) && self.room == 0 {
            self.suspend_busy();
        }
        self.room > 0
    }

    /// What [`Bug::BusyIsFailed`] does.
    #[cold]
    fn suspend_busy(&mut self) {
        let has_none = |child: &ChildIndex| {
            self.ports[child.get()].as_ref().is_some_and(|port| port.credits() == 0)
        };
        let busy: ChildSet = self.written.iter().filter(has_none).collect();
        busy.iter().for_each(|child| self.suspend(child, FaultReason::IoError));
    }

    /// Sends to one child that may be read and has not failed yet.
    #[inline]
    pub(super) fn send_anywhere(&mut self, cx: &mut Cx, index: u32) {
        if !self.begins_at_once && !self.is_equal(index) {
            return self.wait_for_copy(index);
        }
        let candidates = self.readable.minus(self.slots.at(index).failed);
        if candidates.is_empty() {
            return self.read_nowhere(cx, index);
        }
        let Some(child) = self.nearest(candidates) else {
            // Also one that was held: it waits for a credit now, and not for the home core.
            self.slots.at(index).stage = Stage::Ready;
            return self.list(index);
        };
        let (token, slot) = self.slots.named(index);
        slot.stage = Stage::Flight;
        slot.sent_at = cx.now();
        self.begun += u32::from(!slot.has_begun);
        slot.has_begun = true;
        let changed;
        let io = match slot.is_swap() {
            true => {
                changed = half(slot);
                &changed
            }
            false => &slot.io,
        };
        let port = self.ports[child.get()].as_mut().expect("a readable child is open");
        match port.submit(cx, io, token) {
            Ok(()) => {
                slot.pending = slot.pending.with(child);
                self.unflushed = self.unflushed.with(child);
            }
            Err(_) => {
                self.room = 0;
                slot.stage = Stage::Ready;
                self.list(index);
            }
        }
    }

    /// Of those with a credit, a local child, or the one that answers soonest.
    #[inline]
    fn nearest(&mut self, candidates: ChildSet) -> Option<ChildIndex> {
        // Who is read is written too. With room at each there is no need to ask.
        let has_room = self.room > 0 || self.ask_for_room();
        self.room = self.room.saturating_sub(1);
        let mut best: Option<(bool, u64, ChildIndex)> = None;
        for child in candidates {
            let port = self.ports[child.get()].as_ref().expect("a readable child is open");
            if !has_room && port.credits() == 0 {
                continue;
            }
            let key = (port.locality == Locality::Remote, port.cost(), child);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
        best.map(|(_, _, child)| child)
    }

    /// Every child that may be read has failed. Where others are suspended, the home core decides
    /// first.
    #[cold]
    fn read_nowhere(&mut self, cx: &mut Cx, index: u32) {
        let undecided = self.view.readable().intersection(self.suspended);
        let slot = self.slots.at(index);
        // Nothing of it is in flight. Held for a child that may never open, it would not end.
        if slot.is_aborted || self.view.mode == Mode::Ended {
            let status = if slot.is_aborted { Status::ABORT_REQUESTED } else { ENDED };
            return self.finish(cx, index, status);
        }
        let status = slot.status;
        match undecided.minus(slot.failed).is_empty() && !slot.failed.is_empty() {
            true => self.finish(cx, index, status),
            false => slot.stage = Stage::Held,
        }
    }

    /// Sends what could not be sent, or is sent again.
    pub(super) fn send_unsent(&mut self, cx: &mut Cx, index: u32) {
        // What is taken here is not counted.
        self.room = 0;
        let (token, slot) = self.slots.named(index);
        let io = if slot.is_swap() { half(slot) } else { slot.io };
        for child in slot.unsent {
            if !self.written.contains(child) {
                slot.unsent = slot.unsent.without(child);
                slot.failed = slot.failed.with(child);
                continue;
            }
            let port = self.ports[child.get()].as_mut().expect("a written child is open");
            if port.submit(cx, &io, token).is_ok() {
                slot.unsent = slot.unsent.without(child);
                slot.pending = slot.pending.with(child);
                slot.sent_at = cx.now();
                self.unflushed = self.unflushed.with(child);
            }
        }
        if !slot.unsent.is_empty() {
            self.list(index);
        } else if slot.pending.is_empty() {
            self.settle(cx, index);
        }
    }

    /// Makes the halves of a compare-and-write two single segments. False when there is no buffer
    /// now.
    fn gather(&mut self, cx: &mut Cx, index: u32) -> bool {
        let slot = self.slots.at(index);
        if matches!(slot.io.memory, Memory::One(_)) || slot.buffer.is_some() {
            return true;
        }
        let len_bytes =
            u32::try_from(slot.io.memory.len_bytes()).expect("the limits keep it short");
        let Some(buffer) = cx.dma.take(len_bytes) else { return false };
        copy(&slot.io, &buffer, len_bytes);
        slot.buffer = Some(buffer);
        true
    }
}

/// Copies the memory of an I/O to a buffer.
fn copy(io: &Io, buffer: &DmaBuffer, len_bytes: u32) {
    let into = buffer.segment(len_bytes);
    let mut bytes = [0_u8; COPY_BYTES];
    let mut at = 0;
    for part in parts(&io.memory, 0, u64::from(len_bytes)) {
        let mut from = 0;
        while from < part.len_bytes() {
            let len = (part.len_bytes() - from).min(COPY_BYTES as u32);
            part.read(from, &mut bytes[..len as usize]);
            into.write(at, &bytes[..len as usize]);
            (from, at) = (from + len, at + len);
        }
    }
}

/// The half of a compare-and-write that is sent to children now.
#[cold]
fn half(slot: &Slot) -> Io {
    let whole = match (&slot.buffer, slot.io.memory) {
        (None, Memory::One(segment)) => segment,
        (Some(buffer), memory) => {
            buffer.segment(u32::try_from(memory.len_bytes()).expect("the limits keep it short"))
        }
        (None, memory) => unreachable!("{memory:?} was gathered"),
    };
    let half = whole.len_bytes() / 2;
    match slot.work {
        Work::CompareFirst => Io {
            operation: Operation::Compare,
            flags: IoFlags::NONE,
            memory: Memory::One(whole.part(0, half)),
            ..slot.io
        },
        Work::Everywhere | Work::Anywhere => Io {
            operation: Operation::Write,
            memory: Memory::One(whole.part(half, half)),
            ..slot.io
        },
    }
}
