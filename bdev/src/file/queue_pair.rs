//! The queue pair of a file or block device, over whichever port leads to the kernel.
//!
//! What is submitted waits in line; `flush` pushes the line to the port, which enters the kernel
//! once, then or when it is polled; `poll` reaps, continues what was transferred in part, and
//! hands up. All on the core's thread. One I/O is one command of the kernel, unless the kernel
//! stops short.

use std::collections::VecDeque;
use std::sync::Arc;

use nix::errno::Errno;
use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Wake};

use super::command::{Command, Durability, Port, Reaped, Watch};
use super::range::RangeMode;
use super::status::{media_error, status_of};
use super::{Backing, KERNEL_DEPTH_MAX, limits};
use crate::device::Limits;
use crate::io::{COMPLETIONS_PER_POLL, Completion, Completions, Io, IoFlags, Operation};
use crate::legality;
use crate::nvme::status::Status;
use crate::parts::parts;
use crate::queue_pair::{Busy, QueuePair};

/// Where an I/O is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    InLine,
    InKernel,
}

#[derive(Debug)]
struct InFlight {
    io: Io,
    stage: Stage,
    done_bytes: u64,
    /// Of an operation on a range, once it was pushed.
    mode: Option<RangeMode>,
    aborted: bool,
}

/// What becomes of an I/O whose command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ended(Status),
    /// It goes back in line.
    Again,
}

#[derive(Debug)]
pub(crate) struct FileQueuePair<P: Port> {
    backing: Arc<Backing>,
    limits: Limits,
    port: P,
    depth: u32,
    slots: Slab<InFlight>,
    line: VecDeque<SlotId>,
    in_kernel: u32,
    reaped: Vec<Reaped>,
    /// Ended without the kernel.
    ended: VecDeque<Completion>,
}

impl<P: Port> FileQueuePair<P> {
    /// A queue pair for `depth` I/Os over a port that was opened for them.
    pub(crate) fn new(backing: Arc<Backing>, port: P, depth: u32) -> Self {
        backing.look_again();
        FileQueuePair {
            limits: limits(&backing),
            backing,
            port,
            depth,
            slots: Slab::with_capacity(depth),
            line: VecDeque::with_capacity(depth as usize),
            in_kernel: 0,
            reaped: Vec::with_capacity(COMPLETIONS_PER_POLL),
            ended: VecDeque::with_capacity(depth as usize),
        }
    }

    fn check(&self, io: &Io) -> Result<(), Status> {
        legality::check(io, &self.backing.geometry(), &self.limits)?;
        // Direct I/O wants lengths aligned as well; with the length of a block there is nothing to
        // look at.
        let low_bits = self.limits.alignment_bytes - 1;
        let segments = io.memory.segments();
        if segments.len() > 1 && segments.iter().any(|one| one.len_bytes() & low_bits != 0) {
            return Err(Status::SGL_DATA_BLOCK_GRANULARITY_INVALID);
        }
        Ok(())
    }

    /// Pushes what is in line and enters the kernel.
    fn hand_over(&mut self) {
        while self.in_kernel < self.port.capacity()
            && !self.line.is_empty()
            && self.port.make_room()
            && let Some(id) = self.line.pop_front()
        {
            let slot = self.slots.get_mut(id).expect("an I/O in line has not ended");
            slot.stage = Stage::InKernel;
            self.in_kernel += 1;
            self.port.push(id, command(slot, &self.backing));
        }
        self.port.enter();
    }

    /// A command ended; hands its I/O up or puts it back in line.
    fn command_ended(&mut self, reaped: Reaped, completions: &mut Completions) -> usize {
        let Reaped { id, result } = reaped;
        self.in_kernel -= 1;
        let slot = self.slots.get_mut(id).expect("a command ends once, and before its I/O");
        assert_eq!(slot.stage, Stage::InKernel, "only what the kernel has can end there");
        let outcome = match u32::try_from(result) {
            Ok(result) => advance(slot, u64::from(result), &self.backing),
            Err(_) => fail(slot, Errno::from_raw(result.wrapping_neg()), &self.backing),
        };
        match outcome {
            Outcome::Ended(status) => {
                let slot = self.slots.remove(id).expect("looked at above");
                completions.push(Completion::new(slot.io.token, status));
                1
            }
            Outcome::Again => {
                slot.stage = Stage::InLine;
                self.line.push_back(id);
                0
            }
        }
    }
}

/// What to ask the kernel for.
fn command<'a>(slot: &'a mut InFlight, backing: &Backing) -> Command<'a> {
    let io = &slot.io;
    let block_bytes = u64::from(backing.block_bytes());
    let (start, len_bytes) = (io.lba.0 * block_bytes, u64::from(io.blocks) * block_bytes);
    let offset_bytes = start + slot.done_bytes;
    let memory = parts(&io.memory, slot.done_bytes, len_bytes - slot.done_bytes);
    match io.operation {
        Operation::Read => Command::Read { offset_bytes, memory },
        Operation::Write => {
            let durability = match io.flags.contains(IoFlags::FUA) {
                true => Durability::AtOnce,
                false => Durability::Later,
            };
            Command::Write { offset_bytes, memory, durability }
        }
        Operation::Flush => Command::Sync,
        Operation::WriteZeroes | Operation::Unmap => {
            let mode = backing.range_mode(io.operation);
            slot.mode = Some(mode);
            Command::Range { mode, offset_bytes, len_bytes }
        }
        Operation::Compare | Operation::CompareAndWrite | Operation::Verify => {
            unreachable!("the limits leave it out")
        }
    }
}

/// A command ended well.
fn advance(slot: &mut InFlight, moved_bytes: u64, backing: &Backing) -> Outcome {
    let InFlight { io, aborted, .. } = *slot;
    if !matches!(io.operation, Operation::Read | Operation::Write) {
        return Outcome::Ended(Status::SUCCESS);
    }
    let block_bytes = u64::from(backing.block_bytes());
    let len_bytes = u64::from(io.blocks) * block_bytes;
    let reached = slot.done_bytes + moved_bytes;
    assert!(reached <= len_bytes, "the kernel moves no more than it was asked to");
    if reached == len_bytes {
        return Outcome::Ended(Status::SUCCESS);
    }
    // Whole blocks only: direct I/O does not go on from within one.
    let whole = reached - reached % block_bytes;
    if whole == slot.done_bytes {
        // The end of the file is not where it was.
        let fits = io.fits(backing.look_again().blocks);
        let status = if fits { media_error(io.operation) } else { Status::LBA_OUT_OF_RANGE };
        return Outcome::Ended(status);
    }
    slot.done_bytes = whole;
    if aborted { Outcome::Ended(Status::ABORT_REQUESTED) } else { Outcome::Again }
}

/// A command ended with an error.
fn fail(slot: &InFlight, errno: Errno, backing: &Backing) -> Outcome {
    if slot.aborted && matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::ECANCELED) {
        return Outcome::Ended(Status::ABORT_REQUESTED);
    }
    // A block device says so of what lies past its end, and of nothing else.
    if errno == Errno::ENOSPC && !slot.io.fits(backing.look_again().blocks) {
        return Outcome::Ended(Status::LBA_OUT_OF_RANGE);
    }
    match (errno, slot.mode) {
        (Errno::EAGAIN | Errno::EINTR, _) => Outcome::Again,
        (Errno::EOPNOTSUPP | Errno::ENOSYS, Some(mode)) if backing.note_missing(mode) => {
            Outcome::Again
        }
        _ => Outcome::Ended(status_of(errno, slot.io.operation)),
    }
}

impl<P: Port> QueuePair for FileQueuePair<P> {
    fn submit(&mut self, _cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        if let Err(status) = self.check(&io) {
            self.ended.push_back(Completion::new(io.token, status));
            return Ok(());
        }
        let slot = InFlight { io, stage: Stage::InLine, done_bytes: 0, mode: None, aborted: false };
        let id = self.slots.insert(slot).expect("a credit is a free slot");
        self.line.push_back(id);
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Cx) {
        self.hand_over();
    }

    fn poll(&mut self, _cx: &mut Cx, completions: &mut Completions) -> usize {
        let mut count = self.ended.len().min(completions.room());
        for completion in self.ended.drain(..count) {
            completions.push(completion);
        }
        if self.in_kernel > 0 {
            let mut reaped = std::mem::take(&mut self.reaped);
            self.port.reap(&mut reaped, completions.room());
            for one in reaped.drain(..) {
                count += self.command_ended(one, completions);
            }
            self.reaped = reaped;
        }
        if !self.line.is_empty() || self.port.has_work() {
            self.hand_over();
        }
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        self.slots.len() + u32::try_from(self.ended.len()).expect("no more than the depth")
    }

    fn abort_all(&mut self, _cx: &mut Cx) {
        for id in self.line.drain(..) {
            let slot = self.slots.remove(id).expect("an I/O in line has not ended");
            self.ended.push_back(Completion::new(slot.io.token, Status::ABORT_REQUESTED));
        }
        for (id, slot) in self.slots.iter_mut() {
            if !slot.aborted {
                slot.aborted = true;
                self.port.cancel(id);
            }
        }
        self.port.enter();
    }

    fn wake(&self) -> Wake {
        let stalled = !self.line.is_empty() && self.in_kernel < self.port.capacity();
        if !self.ended.is_empty() || stalled || self.port.has_work() {
            return Wake::Now;
        }
        match (self.in_kernel, self.port.watch()) {
            (0, _) => Wake::Never,
            (_, Watch::Descriptor) => Wake::Descriptor,
            (_, Watch::Nobody) => Wake::Now,
        }
    }

    fn arm(&mut self, _cx: &mut Cx) -> bool {
        match self.wake() {
            Wake::Never => true,
            Wake::Descriptor => self.port.arm(),
            Wake::Now | Wake::At(_) => false,
        }
    }
}

/// How many commands of a queue pair this deep the kernel has at most.
pub(crate) fn kernel_depth(depth: u32) -> u32 {
    depth.clamp(1, KERNEL_DEPTH_MAX)
}
