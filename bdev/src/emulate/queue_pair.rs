//! The queue pair of an emulated device: each I/O is a row of steps, one of them in flight below.
//!
//! What the device can do itself is a single step. What it cannot is a loop of pieces over a
//! buffer of the core's pool, which is taken when the I/O starts and given back when it ends.
//! [`EmulateQueuePair::next_step`] is the one place that says which step follows which.

use std::collections::VecDeque;

use reactor::dma::DmaBuffer;
use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Wake};

use super::cores::Hold;
use super::cores::Member;
use super::ranges::conflict;
use crate::below::Below;
use crate::device::{Geometry, Limits};
use crate::io::{Completion, Completions, Io, IoFlags, Lba, Memory, Operation, Token};
use crate::legality;
use crate::nvme::status::Status;
use crate::parts::parts;
use crate::queue_pair::{Busy, QueuePair};

/// Bytes looked at in one go when comparing.
const COMPARE_BYTES: usize = 512;

/// What is made of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Sent as it is.
    Native,
    /// Sent as write zeroes.
    AsWriteZeroes,
    /// Pieces of zeroes are written.
    Zero,
    /// Pieces are read and compared.
    Compare,
    /// Read, compared, and then the new content written.
    Swap,
    /// Pieces are read, and nobody looks.
    Probe,
}

/// What is in flight below for an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet: it waits for its turn, a credit or a buffer.
    InLine,
    /// The I/O itself.
    Whole,
    /// A write of so many blocks of zeroes.
    Zeroing(u32),
    /// A read of so many blocks to compare, or to see it end well.
    Reading(u32),
    /// The write of a compare-and-write.
    Swapping,
}

#[derive(Debug)]
struct Emulated {
    io: Io,
    plan: Plan,
    step: Step,
    done_blocks: u32,
    buffer: Option<DmaBuffer>,
    /// What it has of the range's stripes.
    hold: Hold,
    aborted: bool,
}

impl Emulated {
    /// True when the plan needs a buffer.
    fn needs_buffer(&self) -> bool {
        !matches!(self.plan, Plan::Native | Plan::AsWriteZeroes)
    }
}

#[derive(Debug)]
pub(super) struct EmulateQueuePair {
    below: Below,
    geometry: Geometry,
    inner: Limits,
    outer: Limits,
    depth: u32,
    slots: Slab<Emulated>,
    /// Those in line, in order of their submission; before them those between two steps.
    line: VecDeque<SlotId>,
    /// Its part between the cores; nothing where the device compares and writes itself.
    member: Option<Member>,
    /// Emulated compare-and-writes among the slots.
    swaps: u32,
}

impl EmulateQueuePair {
    pub(super) fn new(
        inner_queue_pair: Box<dyn QueuePair>,
        geometry: Geometry,
        (inner, outer): (Limits, Limits),
        depth: u32,
        member: Option<Member>,
    ) -> EmulateQueuePair {
        EmulateQueuePair {
            below: Below::new(inner_queue_pair, depth),
            geometry,
            inner,
            outer,
            depth,
            slots: Slab::with_capacity(depth),
            line: VecDeque::with_capacity(depth as usize),
            member,
            swaps: 0,
        }
    }

    fn plan(&self, operation: Operation) -> Plan {
        let has = |operation| self.inner.operations.contains(operation);
        match operation {
            Operation::Unmap if has(operation) && self.inner.unmap_zeroes => Plan::Native,
            Operation::Unmap if has(Operation::WriteZeroes) => Plan::AsWriteZeroes,
            _ if operation != Operation::Unmap && has(operation) => Plan::Native,
            Operation::Unmap | Operation::WriteZeroes => Plan::Zero,
            Operation::Compare => Plan::Compare,
            Operation::CompareAndWrite => Plan::Swap,
            Operation::Verify => Plan::Probe,
            Operation::Read | Operation::Write | Operation::Flush => Plan::Native,
        }
    }

    /// Starts what can be started, in order; true when something was sent.
    fn start(&mut self, cx: &mut Cx) -> bool {
        let mut any = false;
        // Those passed over stay, in order, at the front.
        let mut passed = 0;
        while passed < self.line.len() && self.below.queue_pair.credits() > 0 {
            let id = self.line[passed];
            // Its buffer first, so that who waits for one has no stripe that others wait for.
            if !self.equip(cx, id) || self.must_wait(id, passed) || !self.enter(id) {
                passed += 1;
                continue;
            }
            self.line.remove(passed);
            self.next_step(cx, id);
            any = true;
        }
        any
    }

    /// True when something in flight, or in line at one of the first `before` places, is in the
    /// way. Only with a compare-and-write about is there anything to look for, and an I/O that has
    /// begun has its range already. One in line without its buffer is not in the way: the buffer
    /// may be that of the I/O that would wait for it.
    fn must_wait(&self, id: SlotId, before: usize) -> bool {
        if self.swaps == 0 {
            return false;
        }
        let Emulated { io, step, .. } = *self.slot(id);
        step == Step::InLine
            && io.operation.changes_blocks()
            && self.slots.iter().any(|(other_id, other)| {
                let is_equipped = other.buffer.is_some() || !other.needs_buffer();
                let passed = || self.line.iter().take(before).any(|passed| *passed == other_id);
                let earlier = other.step != Step::InLine || (is_equipped && passed());
                other_id != id && earlier && conflict(&io, &other.io)
            })
    }

    /// Takes the stripes that the I/O needs; false when another core has one of them.
    #[inline]
    fn enter(&mut self, id: SlotId) -> bool {
        let Some(member) = &mut self.member else { return true };
        let slot = self.slots.get_mut(id).expect("an I/O in line has not ended");
        slot.step != Step::InLine || member.begin(&slot.io, &mut slot.hold)
    }

    /// Takes the buffer that the plan needs; false when there is none now.
    fn equip(&mut self, cx: &mut Cx, id: SlotId) -> bool {
        let block_bytes = self.geometry.block_bytes;
        let slot = self.slots.get_mut(id).expect("an I/O in line has not ended");
        if slot.buffer.is_some() || !slot.needs_buffer() {
            return true;
        }
        let longest = LARGEST_BUFFER_BYTES.min(slot.io.blocks.saturating_mul(block_bytes));
        let smallest = match slot.plan {
            Plan::Swap => longest,
            _ => block_bytes,
        };
        // A short buffer makes for more pieces, not for a failure.
        slot.buffer = cx.dma.take(longest).or_else(|| cx.dma.take(smallest));
        if let Some(buffer) = &slot.buffer
            && slot.plan == Plan::Zero
        {
            buffer.segment(buffer.len_bytes()).fill_zero();
        }
        slot.buffer.is_some()
    }

    fn slot(&self, id: SlotId) -> &Emulated {
        self.slots.get(id).expect("an I/O that has not ended")
    }

    /// Sends the step after the present one, of which there is one.
    fn next_step(&mut self, cx: &mut Cx, id: SlotId) {
        let slot = self.slot(id);
        let Emulated { io, plan, done_blocks, .. } = *slot;
        let left = io.blocks - done_blocks;
        let step = match (plan, slot.step) {
            (Plan::Native | Plan::AsWriteZeroes, Step::InLine) => Step::Whole,
            (Plan::Zero, _) if left > 0 => Step::Zeroing(self.piece_blocks(slot)),
            (Plan::Compare | Plan::Swap | Plan::Probe, _) if left > 0 => {
                Step::Reading(self.piece_blocks(slot))
            }
            (Plan::Swap, Step::Reading(_)) => Step::Swapping,
            (plan, step) => unreachable!("no step follows {step:?} of {plan:?}"),
        };
        let io = self.step_io(id, step);
        self.slots.get_mut(id).expect("looked at above").step = step;
        let accepted = self.below.queue_pair.submit(cx, Io { token: Token(id.to_token()), ..io });
        assert!(accepted.is_ok(), "a queue pair with credits accepts an I/O");
    }

    /// Length of the next piece.
    fn piece_blocks(&self, slot: &Emulated) -> u32 {
        let buffer = slot.buffer.as_ref().expect("the I/O was equipped").len_bytes();
        let left = slot.io.blocks - slot.done_blocks;
        let blocks = left.min(buffer / self.geometry.block_bytes).min(self.inner.io_blocks_max);
        let lba = slot.io.lba.0 + u64::from(slot.done_blocks);
        match lba.checked_rem(u64::from(self.inner.boundary_blocks)) {
            Some(into) => {
                let into = u32::try_from(into).expect("less than the boundary");
                blocks.min(self.inner.boundary_blocks - into)
            }
            None => blocks,
        }
    }

    /// The I/O of a step.
    fn step_io(&self, id: SlotId, step: Step) -> Io {
        let slot = self.slot(id);
        let whole = slot.io;
        let piece = |operation, lba: u64, blocks: u32| {
            let buffer = slot.buffer.as_ref().expect("the I/O was equipped");
            let segment = buffer.segment(blocks * self.geometry.block_bytes);
            let flags = match slot.plan {
                // Zeroes need not be written where nobody looks.
                Plan::Probe => whole.flags.with(IoFlags::ACCEPT_ZEROES),
                _ => whole.flags.without(IoFlags::ACCEPT_ZEROES),
            };
            let memory = Memory::One(segment);
            Io { flags, ..Io::with_memory(operation, Lba(lba), blocks, memory, whole.token) }
        };
        let lba = whole.lba.0 + u64::from(slot.done_blocks);
        match step {
            Step::Zeroing(blocks) => piece(Operation::Write, lba, blocks),
            Step::Reading(blocks) => piece(Operation::Read, lba, blocks),
            Step::Swapping => piece(Operation::Write, whole.lba.0, whole.blocks),
            Step::Whole if slot.plan == Plan::AsWriteZeroes => {
                Io { operation: Operation::WriteZeroes, ..whole }
            }
            Step::Whole | Step::InLine => whole,
        }
    }

    /// A step has ended; either the next one follows, or the I/O ends.
    fn step_ended(&mut self, cx: &mut Cx, completion: Completion) {
        let id = SlotId::from_token(completion.token.0);
        let block_bytes = self.geometry.block_bytes;
        let slot = self.slots.get_mut(id);
        let slot = slot.expect("a token completes that is in flight, and only once");
        let aborted = slot.aborted;
        let outcome = match slot.step {
            _ if !completion.status.is_success() => Some(completion),
            Step::InLine => unreachable!("nothing in line is in flight"),
            Step::Whole | Step::Swapping => Some(completion),
            Step::Reading(blocks)
                if slot.plan != Plan::Probe && !equal(slot, blocks, block_bytes) =>
            {
                Some(Completion::new(completion.token, Status::COMPARE_FAILURE))
            }
            Step::Zeroing(blocks) | Step::Reading(blocks) => {
                slot.done_blocks += blocks;
                let done = slot.done_blocks == slot.io.blocks;
                if done && slot.plan == Plan::Swap {
                    fill_new(slot, block_bytes);
                }
                (done && slot.plan != Plan::Swap).then_some(completion)
            }
        };
        if let Some(completion) = outcome {
            return self.end(cx, id, completion);
        }
        if aborted {
            return self.end(cx, id, Completion::new(completion.token, Status::ABORT_REQUESTED));
        }
        if self.below.queue_pair.credits() > 0 {
            self.next_step(cx, id);
        } else {
            // The credits below are shared with others: it goes on at the next one, first of all.
            self.line.push_front(id);
        }
    }

    fn end(&mut self, cx: &mut Cx, id: SlotId, completion: Completion) {
        let slot = self.slots.remove(id).expect("an I/O ends once");
        self.swaps -= u32::from(slot.plan == Plan::Swap);
        if let Some(member) = &mut self.member {
            match slot.step {
                Step::InLine => member.withdraw(&slot.io, slot.hold),
                _ => member.end(&slot.io, slot.hold),
            }
        }
        if let Some(buffer) = slot.buffer {
            cx.dma.give(buffer);
        }
        // What a piece was found to be is not what the whole is.
        let zeroes = completion.zeroes && slot.plan == Plan::Native;
        self.below.push(Completion { token: slot.io.token, zeroes, ..completion });
    }
}

/// Compares what was read with that part of the I/O's memory.
fn equal(slot: &Emulated, blocks: u32, block_bytes: u32) -> bool {
    let read = slot.buffer.as_ref().expect("the I/O was equipped");
    let read = read.bytes(blocks * block_bytes);
    let mut copy = [0_u8; COMPARE_BYTES];
    let from = u64::from(slot.done_blocks) * u64::from(block_bytes);
    let mut at = 0;
    parts(&slot.io.memory, from, read.len() as u64).all(|part| {
        (0..part.len_bytes()).step_by(COMPARE_BYTES).all(|offset| {
            let len = ((part.len_bytes() - offset) as usize).min(COMPARE_BYTES);
            part.read(offset, &mut copy[..len]);
            at += len;
            copy[..len] == read[at - len..at]
        })
    })
}

/// Puts the second half of a compare-and-write's memory into its buffer.
fn fill_new(slot: &mut Emulated, block_bytes: u32) {
    let len = u64::from(slot.io.blocks) * u64::from(block_bytes);
    let bytes = slot.buffer.as_mut().expect("the I/O was equipped").bytes_mut();
    let mut at = 0;
    for part in parts(&slot.io.memory, len, len) {
        let end = at + part.len_bytes() as usize;
        part.read(0, &mut bytes[at..end]);
        at = end;
    }
}

impl QueuePair for EmulateQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        if let Err(status) = legality::check(&io, &self.geometry, &self.outer) {
            self.below.push(Completion::new(io.token, status));
            return Ok(());
        }
        let plan = self.plan(io.operation);
        self.swaps += u32::from(plan == Plan::Swap);
        let (step, hold) = (Step::InLine, Hold::Nothing);
        let slot = Emulated { io, plan, step, done_blocks: 0, buffer: None, hold, aborted: false };
        let id = self.slots.insert(slot).expect("a credit is a free slot");
        self.line.push_back(id);
        self.start(cx);
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx);
        while let Some(completion) = self.below.next_polled() {
            self.step_ended(cx, completion);
        }
        self.start(cx);
        self.below.queue_pair.flush(cx);
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        self.slots.len() + self.below.ready()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.aborted = true);
        while let Some(id) = self.line.pop_front() {
            self.end(cx, id, Completion::new(Token(0), Status::ABORT_REQUESTED));
        }
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        // What is in line waits for something in flight, here or on another core, or for a buffer
        // or a credit that nobody announces.
        if self.line.is_empty() { self.below.wake() } else { Wake::Now }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.line.is_empty() && self.below.arm(cx)
    }
}
