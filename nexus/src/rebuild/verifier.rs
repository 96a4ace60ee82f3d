//! Compares the members of a volume with each other, and changes nothing.
//!
//! Owned by [`super::Rebuild`], polled on the home core. Each check takes the stripes of its range,
//! so that no core writes there meanwhile, reads it from one member after the other, and gives the
//! stripes back. What differs is reported against the first member that could be read; which of
//! them is right nobody knows.

use std::sync::Arc;

use bdev::{Completion, Io, Lba, Token};
use reactor::dma::DmaBuffer;
use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Nanos, Wake};

use super::pace::Pace;
use super::seat::{NotSent, Seat};
use super::{RECHECK_INTERVAL, SWEEP_INTERVAL};
use crate::child::{ChildIndex, ChildSet};
use crate::mirror::CHILD_TIMEOUT;
use crate::nexus::Nexus;
use crate::view::Mode;

/// Ranges under comparison at once, each with two buffers.
pub const CHECKS_MAX: u32 = 8;

/// Differences that are listed; more are only counted.
pub const DIFFERENCES_MAX: usize = 256;

/// Neighbouring blocks in which a member differs from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The member.
    pub child: ChildIndex,
    /// The one that it was compared with.
    pub reference: ChildIndex,
    /// First block of the volume.
    pub start: u64,
    /// How many.
    pub blocks: u64,
}

/// How a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyState {
    /// It goes on.
    Running,
    /// Everything was compared.
    Completed,
    /// It was given up: by an operator, or as the volume ended or began to be opened anew.
    Stopped,
}

/// What a comparison has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// How it is.
    pub state: VerifyState,
    /// Blocks of the volume.
    pub total_blocks: u64,
    /// Of them, those that were looked at.
    pub done_blocks: u64,
    /// Blocks that differ, counted once for each member that differs.
    pub different_blocks: u64,
    /// Where: at most [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// Blocks that could not be read, counted once for each member.
    pub unread_blocks: u64,
}

impl VerifyReport {
    /// Adds neighbouring blocks that differ.
    fn add(&mut self, mut found: Difference) {
        self.different_blocks += found.blocks;
        let touches = |known: &Difference, found: &Difference| {
            (known.child, known.reference) == (found.child, found.reference)
                && (known.start + known.blocks == found.start
                    || found.start + found.blocks == known.start)
        };
        while let Some(place) = self.differences.iter().position(|known| touches(known, &found)) {
            let known = self.differences.swap_remove(place);
            found.start = found.start.min(known.start);
            found.blocks += known.blocks;
        }
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(found);
        }
    }

    /// Adds what differs between the bytes of two members from block `start` on.
    fn compare(&mut self, found: Difference, block_bytes: u32, one: &[u8], other: &[u8]) {
        if one == other {
            return;
        }
        let size = block_bytes as usize;
        for (block, (one, other)) in (found.start..).zip(one.chunks(size).zip(other.chunks(size))) {
            if one != other {
                self.add(Difference { start: block, blocks: 1, ..found });
            }
        }
    }
}

/// A range under comparison.
#[derive(Debug)]
struct Check {
    start: u64,
    blocks: u32,
    has_stripes: bool,
    words: u32,
    /// Members that are still to be read; nothing before the stripes were taken.
    left: ChildSet,
    reading: Option<ChildIndex>,
    reference: Option<ChildIndex>,
    /// What the reference has, and what the present one has.
    buffers: [Option<DmaBuffer>; 2],
    sent_at: Nanos,
}

impl Check {
    fn new(start: u64, blocks: u32) -> Check {
        Check {
            start,
            blocks,
            has_stripes: false,
            words: 0,
            left: ChildSet::EMPTY,
            reading: None,
            reference: None,
            buffers: [None, None],
            sent_at: Nanos(0),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Verifier {
    nexus: Arc<Nexus>,
    block_bytes: u32,
    seat: Option<Seat>,
    checks: Slab<Check>,
    next: u64,
    report: Option<VerifyReport>,
    ended: Vec<(ChildIndex, Completion)>,
    recheck_at: Option<Nanos>,
    next_sweep: Nanos,
}

impl Verifier {
    pub(crate) fn new(nexus: Arc<Nexus>, block_bytes: u32) -> Verifier {
        Verifier {
            nexus,
            block_bytes,
            seat: None,
            checks: Slab::with_capacity(CHECKS_MAX),
            next: 0,
            report: None,
            ended: Vec::with_capacity(CHECKS_MAX as usize),
            recheck_at: None,
            next_sweep: Nanos(0),
        }
    }

    /// Begins to compare a volume of so many blocks. Nothing is under way.
    pub(crate) fn begin(&mut self, total_blocks: u64) {
        assert!(self.is_still(), "one comparison at a time");
        self.next = 0;
        self.report = Some(VerifyReport {
            state: VerifyState::Running,
            total_blocks,
            done_blocks: 0,
            different_blocks: 0,
            differences: Vec::new(),
            unread_blocks: 0,
        });
    }

    /// Gives it up; what is in flight ends.
    pub(crate) fn stop(&mut self) {
        if let Some(report) = self.report.as_mut().filter(|report| is_running(report)) {
            report.state = VerifyState::Stopped;
        }
    }

    /// What was found by the comparison under way, or the last one.
    pub(crate) fn report(&self) -> Option<&VerifyReport> {
        self.report.as_ref()
    }

    /// Nothing is compared, and nothing is in flight: another comparison can begin.
    pub(crate) fn is_still(&self) -> bool {
        !self.is_running() && self.checks.is_empty()
    }

    /// The same, and there is nothing to poll for.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_still() && self.seat.is_none()
    }

    fn is_running(&self) -> bool {
        self.report.as_ref().is_some_and(is_running)
    }

    /// Goes on; returns how much there was to do.
    pub(crate) fn poll(&mut self, cx: &mut Cx, pace: &mut Pace) -> usize {
        if self.is_still() {
            (self.seat, self.recheck_at) = (None, None);
            return 0;
        }
        let Some(mut seat) = self.seat.take().or_else(|| Seat::take(&self.nexus, cx)) else {
            self.recheck_at = Some(cx.now() + RECHECK_INTERVAL);
            return 0;
        };
        seat.keep_up(cx);
        if seat.view().mode == Mode::Ended {
            self.stop();
        }
        let work = self.take_ended(cx, &mut seat) + self.cut(cx, &seat, pace);
        for index in 0..CHECKS_MAX {
            if let Some(id) = self.checks.id_at(index) {
                self.advance(cx, &mut seat, id);
            }
        }
        self.sweep(cx, &mut seat);
        seat.ring(cx);
        seat.close_unused(cx);
        if self.checks.iter().all(|(_, check)| check.reading.is_none()) {
            seat.say_drained();
        }
        let waits = |check: &Check| {
            !check.has_stripes || check.reading.is_none() && seat.view().mode == Mode::Running
        };
        let must_retry =
            seat.waits_for_others() || self.checks.iter().any(|(_, check)| waits(check));
        self.recheck_at = must_retry.then(|| cx.now() + RECHECK_INTERVAL);
        if self.checks.is_empty() {
            seat.rest();
        }
        self.seat = Some(seat);
        if let Some(report) = self.report.as_mut().filter(|report| is_running(report))
            && report.done_blocks == report.total_blocks
        {
            report.state = VerifyState::Completed;
        }
        work
    }

    /// Begins new ranges, as many as the pace allows.
    fn cut(&mut self, cx: &Cx, seat: &Seat, pace: &mut Pace) -> usize {
        let mut begun = 0;
        while self.is_running() && seat.may_begin() && !self.checks.is_full() {
            let report = self.report.as_ref().expect("it is running");
            if self.next == report.total_blocks {
                break;
            }
            let Some(bytes_max) = pace.grant(cx.now(), self.checks.len()) else { break };
            let blocks_max = u64::from(bytes_max / self.block_bytes);
            let blocks = blocks_max - self.next % blocks_max;
            let blocks = blocks.min(report.total_blocks - self.next);
            pace.charge(blocks * u64::from(self.block_bytes));
            let check = Check::new(self.next, u32::try_from(blocks).expect("it fits a buffer"));
            self.checks.insert(check).expect("there was room");
            self.next += blocks;
            begun += 1;
        }
        begun
    }

    fn take_ended(&mut self, cx: &mut Cx, seat: &mut Seat) -> usize {
        let mut ended = std::mem::take(&mut self.ended);
        seat.poll(cx, seat.open_children(), &mut ended);
        let count = ended.len();
        for (child, completion) in ended.drain(..) {
            self.was_read(child, completion);
        }
        self.ended = ended;
        count
    }

    fn was_read(&mut self, child: ChildIndex, completion: Completion) {
        let id = SlotId::from_token(completion.token.0);
        let check = self.checks.get_mut(id).expect("a check outlives its tokens");
        assert_eq!(check.reading, Some(child), "a child completes a token once");
        check.reading = None;
        check.left = check.left.without(child);
        let report = self.report.as_mut().expect("a check is part of a comparison");
        if !completion.status.is_success() {
            report.unread_blocks += u64::from(check.blocks);
            return;
        }
        let Some(reference) = check.reference else {
            check.reference = Some(child);
            return;
        };
        let len_bytes = check.blocks * self.block_bytes;
        let [Some(one), Some(other)] = &check.buffers else {
            unreachable!("both were read to a buffer")
        };
        let found = Difference { child, reference, start: check.start, blocks: 0 };
        report.compare(found, self.block_bytes, one.bytes(len_bytes), other.bytes(len_bytes));
    }

    /// Takes a check as far as it goes.
    fn advance(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId) {
        let is_running = self.is_running();
        let check = self.checks.get_mut(id).expect("the caller saw it");
        if !check.has_stripes {
            // Also when it is given up: whose turn it is must take it.
            if !seat.take_stripes(check.start, check.blocks, &mut check.words) {
                return;
            }
            check.has_stripes = true;
            check.left = seat.view().readable();
        }
        if check.reading.is_some() {
            return;
        }
        check.left = check.left.intersection(seat.view().readable());
        let has_one = check.reference.is_none() && check.left.len() < 2;
        let Some(child) = check.left.first().filter(|_| is_running && !has_one) else {
            return self.end(cx, seat, id);
        };
        if seat.may_begin() {
            self.read(cx, seat, id, child);
        }
    }

    fn read(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId, child: ChildIndex) {
        let check = self.checks.get_mut(id).expect("the caller saw it");
        let len_bytes = check.blocks * self.block_bytes;
        let place = &mut check.buffers[usize::from(check.reference.is_some())];
        if place.is_none() {
            *place = cx.dma.take(len_bytes);
        }
        let Some(buffer) = place else { return };
        let segment = buffer.segment(len_bytes);
        let io = Io::read(Lba(check.start), check.blocks, segment, Token(id.to_token()));
        match seat.submit(cx, child, io) {
            Ok(()) => (check.reading, check.sent_at) = (Some(child), cx.now()),
            Err(NotSent::Busy) => {}
            Err(NotSent::CannotOpen) => {
                check.left = check.left.without(child);
                let report = self.report.as_mut().expect("a check is part of a comparison");
                report.unread_blocks += u64::from(check.blocks);
            }
        }
    }

    /// Every member was read: the check gives back what it has.
    fn end(&mut self, cx: &mut Cx, seat: &Seat, id: SlotId) {
        let check = self.checks.remove(id).expect("the caller saw it");
        seat.release_stripes(check.start, check.blocks, check.words);
        check.buffers.into_iter().flatten().for_each(|buffer| cx.dma.give(buffer));
        let report = self.report.as_mut().expect("a check is part of a comparison");
        report.done_blocks += u64::from(check.blocks);
    }

    /// Makes reads end of a child that does not answer.
    fn sweep(&mut self, cx: &mut Cx, seat: &mut Seat) {
        let now = cx.now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        for (_, check) in self.checks.iter() {
            if let Some(child) = check.reading
                && now.since(check.sent_at) >= CHILD_TIMEOUT
            {
                seat.abort(cx, child);
            }
        }
    }

    /// When it must be polled next.
    pub(crate) fn wake(&self, pace: &Pace) -> Wake {
        if self.is_idle() {
            return Wake::Never;
        }
        let recheck = self.recheck_at.map_or(Wake::Never, Wake::At);
        let Some(seat) = &self.seat else {
            return if self.recheck_at.is_some() { recheck } else { Wake::Now };
        };
        if self.is_still() {
            // The seat is to be left.
            return Wake::Now;
        }
        let has_more = self.report.as_ref().is_some_and(|report| self.next < report.total_blocks);
        let may_begin = self.is_running() && has_more && !self.checks.is_full();
        let begin = match may_begin && seat.may_begin() {
            true => pace.wake(self.checks.len()),
            false => Wake::Never,
        };
        let is_reading = self.checks.iter().any(|(_, check)| check.reading.is_some());
        let sweep = if is_reading { Wake::At(self.next_sweep) } else { Wake::Never };
        recheck.soonest(seat.wake()).soonest(begin).soonest(sweep)
    }

    pub(crate) fn arm(&mut self, cx: &mut Cx) -> bool {
        self.seat.as_mut().is_none_or(|seat| seat.arm(cx))
    }
}

fn is_running(report: &VerifyReport) -> bool {
    report.state == VerifyState::Running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(index: usize) -> ChildIndex {
        ChildIndex::new(index).unwrap()
    }

    fn difference(start: u64, blocks: u64) -> Difference {
        Difference { child: child(1), reference: child(0), start, blocks }
    }

    fn report() -> VerifyReport {
        VerifyReport {
            state: VerifyState::Running,
            total_blocks: 0,
            done_blocks: 0,
            different_blocks: 0,
            differences: Vec::new(),
            unread_blocks: 0,
        }
    }

    #[test]
    fn neighbours_are_one_difference_from_whichever_side_they_come() {
        let mut report = report();
        report.add(difference(10, 2));
        report.add(difference(12, 1));
        report.add(difference(7, 1));
        report.add(difference(8, 2));
        report.add(Difference { child: child(2), ..difference(13, 1) });
        assert_eq!(report.differences[0], difference(7, 6));
        assert_eq!((report.differences.len(), report.different_blocks), (2, 7));
    }

    #[test]
    fn as_many_differences_as_there_is_room_for_are_listed_and_one_more_is_counted() {
        let mut report = report();
        (0..DIFFERENCES_MAX as u64).for_each(|place| report.add(difference(2 * place, 1)));
        assert_eq!(report.differences.len(), DIFFERENCES_MAX);
        report.add(difference(10_000, 1));
        assert_eq!(report.differences.len(), DIFFERENCES_MAX);
        assert_eq!(report.different_blocks, DIFFERENCES_MAX as u64 + 1);
    }

    #[test]
    fn the_blocks_that_differ_are_found_among_those_that_do_not() {
        let (one, mut other) = ([0_u8; 4096], [0_u8; 4096]);
        (other[512], other[2047]) = (1, 1);
        let mut report = report();
        report.compare(difference(100, 0), 512, &one, &other);
        assert_eq!(report.differences, [difference(101, 1), difference(103, 1)]);
    }
}
