//! Drives a queue pair step by step and checks it after each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::dma::{DmaBuffer, Segment};
use reactor::{Cx, Nanos, VirtualClock, Wake};

use super::actions::{Action, Comparing, Fault, Sketch};
use super::model::Model;
use super::{DEPTH_MAX, Options, Verdict};
use crate::device::{BlockDevice, Geometry, Limits};
use crate::io::{
    COMPLETIONS_PER_POLL, Completion, Completions, Io, IoFlags, Lba, Operation, Token,
};
use crate::legality;
use crate::nvme::status::Status;
use crate::queue_pair::{Busy, QueuePair};
use crate::segment_list::SegmentList;

/// What memory holds before a read, and after a completion. Never written by the suite.
const POISON_BEFORE: u8 = 0xee;
const POISON_AFTER: u8 = 0xdd;
/// Values that the suite writes lie below.
const WRITTEN_MAX: u8 = 0xd0;

/// Real time after which an I/O is taken to be lost.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// What a pass takes of the core's time, which stands still otherwise.
const PASS: Nanos = Nanos::from_micros(10);

/// Fills up a list of completions to leave little room.
const FILLER: Token = Token(u64::MAX);

/// The buffers of the suite: one for each I/O that can be in flight, and as many whose I/O has
/// ended, poisoned and watched.
#[derive(Debug)]
pub(super) struct Arena {
    buffers: Vec<DmaBuffer>,
}

impl Arena {
    pub(super) fn take(cx: &mut Cx, depth: u32) -> Arena {
        let count = 2 * depth.min(DEPTH_MAX);
        let take = |_| cx.dma.take(LARGEST_BUFFER_BYTES).expect("the pool has room for the suite");
        Arena { buffers: (0..count).map(take).collect() }
    }

    pub(super) fn give(self, cx: &mut Cx) {
        self.buffers.into_iter().for_each(|buffer| cx.dma.give(buffer));
    }
}

/// An I/O in flight.
#[derive(Debug)]
struct Pending {
    io: Io,
    buffer: usize,
    /// Of the I/O; kept until it completes.
    _segments: SegmentList,
    /// The memory in order, which is not the order of its addresses.
    pieces: Vec<Segment>,
    /// What the memory held at submission.
    content: Vec<u8>,
    verdict: Result<(), Status>,
    aborted: bool,
}

impl Pending {
    fn range_blocks(&self) -> (u64, u64) {
        (self.io.lba.0, self.io.lba.0.saturating_add(u64::from(self.io.blocks)))
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            let start = bytes.len();
            bytes.resize(start + piece.len_bytes() as usize, 0);
            piece.read(0, &mut bytes[start..]);
        }
        bytes
    }
}

/// One sequence over one queue pair.
pub(super) struct Harness<'a> {
    cx: &'a mut Cx,
    hand: &'a VirtualClock,
    arena: &'a mut Arena,
    queue_pair: Box<dyn QueuePair>,
    geometry: Geometry,
    limits: Limits,
    verdict: Verdict,
    model: Model,
    pending: HashMap<Token, Pending>,
    free: Vec<usize>,
    /// Buffers of ended I/Os, oldest first.
    watched: std::collections::VecDeque<usize>,
    next_token: u64,
}

impl<'a> Harness<'a> {
    pub(super) fn open(
        cx: &'a mut Cx,
        hand: &'a VirtualClock,
        arena: &'a mut Arena,
        device: &dyn BlockDevice,
        options: Options,
    ) -> Harness<'a> {
        let queue_pair = device.open_queue_pair(cx, options.depth).expect("the device opens");
        assert!(queue_pair.credits() > 0, "an idle queue pair takes an I/O");
        assert_eq!(queue_pair.inflight(), 0, "a new queue pair is idle");
        let geometry = device.geometry();
        let free = (0..arena.buffers.len()).collect();
        Harness {
            cx,
            hand,
            arena,
            queue_pair,
            geometry,
            limits: device.limits(),
            verdict: options.verdict,
            model: Model::new(options.keeps, geometry.blocks, geometry.block_bytes),
            pending: HashMap::new(),
            free,
            watched: Default::default(),
            next_token: 1,
        }
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Submit(sketch) => self.submit(&sketch),
            Action::Flush => self.queue_pair.flush(self.cx),
            Action::Poll { room } => {
                self.poll(room);
            }
            Action::Drain => self.drain_until(|pending| pending.is_empty()),
            Action::Abort => {
                self.queue_pair.abort_all(self.cx);
                self.pending.values_mut().for_each(|pending| pending.aborted = true);
            }
        }
        self.check_counts();
    }

    /// Ends the sequence: everything completes, and the whole device reads as the model says.
    pub(super) fn finish(mut self) {
        self.drain_until(|pending| pending.is_empty());
        let blocks = (LARGEST_BUFFER_BYTES / self.geometry.block_bytes).min(8);
        for lba in (0..self.geometry.blocks).step_by(blocks as usize) {
            let whole = Sketch {
                operation: Operation::Read,
                lba,
                blocks,
                cuts: Vec::new(),
                rotate: 0,
                fua: false,
                accept_zeroes: false,
                seed: 0,
                comparing: Comparing::Same,
                fault: Fault::None,
            };
            self.submit(&whole);
        }
        self.drain_until(|pending| pending.is_empty());
        while self.release_watched() {}
        assert_eq!(self.queue_pair.wake(), Wake::Never, "nothing is in flight");
    }

    fn check_counts(&self) {
        let inflight = self.pending.len();
        assert_eq!(self.queue_pair.inflight() as usize, inflight, "inflight is what is in flight");
        if inflight > 0 {
            assert_ne!(self.queue_pair.wake(), Wake::Never, "what is in flight wakes somebody");
        } else {
            assert!(self.queue_pair.credits() > 0, "an idle queue pair takes an I/O");
        }
    }

    /// Fits a sketch to the device, waits for what it would race with, and submits it.
    fn submit(&mut self, sketch: &Sketch) {
        let (lba, blocks) = self.fit(sketch);
        let (start, end) = (lba, lba.saturating_add(u64::from(blocks)));
        let changes = sketch.operation.changes_blocks();
        // Order is promised to nobody, so two I/Os to one block wait for each other, unless both
        // only look.
        self.drain_until(|pending| {
            !pending.values().any(|other| {
                let (from, to) = other.range_blocks();
                from < end && start < to && (changes || other.io.operation.changes_blocks())
            })
        });
        if self.queue_pair.credits() == 0 {
            self.check_refusal();
            let before = self.pending.len();
            self.drain_until(|pending| pending.len() < before);
        }
        while self.free.is_empty() {
            assert!(self.release_watched(), "there are buffers for the whole depth");
        }
        self.submit_fitted(sketch, lba, blocks);
    }

    /// Submits once more than there are credits for.
    fn check_refusal(&mut self) {
        let io = Io::flush(Token(self.next_token));
        assert_eq!(self.queue_pair.submit(self.cx, io), Err(Busy), "no credit, no I/O");
        self.check_counts();
    }

    /// Place and length of an I/O.
    fn fit(&self, sketch: &Sketch) -> (u64, u32) {
        let Geometry { block_bytes, blocks: device_blocks } = self.geometry;
        if sketch.operation == Operation::Flush {
            return (0, 0);
        }
        let lba = sketch.lba % device_blocks;
        let left = u32::try_from(device_blocks - lba).expect("a device under test is small");
        let carried = sketch.operation.memory_bytes(1, block_bytes);
        let carries = u64::from(LARGEST_BUFFER_BYTES).checked_div(carried);
        let most = u32::try_from(carries.unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
        let blocks = sketch.blocks.min(most).min(left);
        match sketch.fault {
            Fault::None => (lba, self.within_limits(sketch.operation, lba, blocks)),
            Fault::LimitsIgnored | Fault::WrongLength => (lba, blocks),
            Fault::PastEnd(past) => {
                let past = past.min(blocks);
                (device_blocks - u64::from(blocks - past), blocks)
            }
            Fault::Overflow => (u64::MAX - u64::from(blocks / 2), blocks),
            Fault::NoBlocks => (lba, 0),
        }
    }

    fn within_limits(&self, operation: Operation, lba: u64, blocks: u32) -> u32 {
        let limits = &self.limits;
        if operation.memory_bytes(1, 1) == 0 {
            return blocks.min(limits.range_blocks_max);
        }
        let mut blocks = blocks.min(limits.io_blocks_max);
        if operation == Operation::CompareAndWrite {
            blocks = blocks.min(limits.atomic_blocks);
        }
        match lba.checked_rem(u64::from(limits.boundary_blocks)) {
            Some(into) => blocks.min(limits.boundary_blocks - u32::try_from(into).expect("less")),
            None => blocks,
        }
    }

    fn submit_fitted(&mut self, sketch: &Sketch, lba: u64, blocks: u32) {
        let operation = sketch.operation;
        let content = self.content(sketch, lba, blocks);
        let buffer = self.free.pop().expect("a buffer was made free");
        let pieces = self.pieces(sketch, buffer, content.len());
        let mut at = 0;
        for piece in &pieces {
            piece.write(0, &content[at..at + piece.len_bytes() as usize]);
            at += piece.len_bytes() as usize;
        }
        let mut segments = SegmentList::with_capacity(pieces.len());
        segments.fill(pieces.iter().copied());
        let token = Token(self.next_token.rotate_right(8));
        self.next_token += 1;
        let mut io = Io::with_memory(operation, Lba(lba), blocks, segments.memory(), token);
        if sketch.fua {
            io.flags = io.flags.with(IoFlags::FUA);
        }
        if sketch.accept_zeroes && operation == Operation::Read {
            io.flags = io.flags.with(IoFlags::ACCEPT_ZEROES);
        }
        let verdict = (self.verdict)(&io, &self.geometry, &self.limits);
        let credits = self.queue_pair.credits();
        assert!(credits > 0, "a credit was waited for");
        let accepted = self.queue_pair.submit(self.cx, io);
        assert_eq!(accepted, Ok(()), "busy is said at zero credits only");
        assert!(self.queue_pair.credits() + 1 >= credits, "an I/O takes one credit");
        let pending =
            Pending { io, buffer, _segments: segments, pieces, content, verdict, aborted: false };
        self.pending.insert(token, pending);
    }

    /// What the memory holds at submission.
    fn content(&self, sketch: &Sketch, lba: u64, blocks: u32) -> Vec<u8> {
        let block_bytes = self.geometry.block_bytes;
        let half = u64::from(blocks) * u64::from(block_bytes);
        let half = usize::try_from(half).expect("fitted to a buffer");
        let written = |at: usize| sketch.seed.wrapping_add((at / 64) as u8) % WRITTEN_MAX;
        let fresh = || (0..half).map(written).collect::<Vec<u8>>();
        let on_device = lba.saturating_add(u64::from(blocks)) <= self.geometry.blocks;
        let mut compared = if on_device { self.model.guess(lba, blocks) } else { fresh() };
        if sketch.comparing == Comparing::Different && half > 0 {
            let at = usize::from(sketch.seed) * 37 % half;
            compared[at] ^= 1;
        }
        let mut content = match sketch.operation {
            Operation::Read => vec![POISON_BEFORE; half],
            Operation::Write => fresh(),
            Operation::Compare => compared,
            Operation::CompareAndWrite => [compared, fresh()].concat(),
            Operation::Flush | Operation::WriteZeroes | Operation::Unmap | Operation::Verify => {
                Vec::new()
            }
        };
        if sketch.fault == Fault::WrongLength && sketch.operation != Operation::Flush {
            let block = block_bytes as usize;
            content.resize(content.len().checked_sub(block).unwrap_or(block), 1);
        }
        content
    }

    /// Cuts a buffer into segments within the limits and puts them out of order.
    fn pieces(&self, sketch: &Sketch, buffer: usize, len_bytes: usize) -> Vec<Segment> {
        if len_bytes == 0 {
            return Vec::new();
        }
        let len = u32::try_from(len_bytes).expect("fitted to a buffer");
        let whole = self.arena.buffers[buffer].segment(len);
        let unit = self.limits.alignment_bytes;
        let mut cuts: Vec<u32> = sketch.cuts.iter().map(|cut| cut % len / unit * unit).collect();
        if sketch.fault == Fault::None {
            cuts.truncate(self.limits.segments_max.saturating_sub(1) as usize);
        }
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut pieces: Vec<Segment> =
            cuts.windows(2).map(|pair| whole.part(pair[0], pair[1] - pair[0])).collect();
        let rotate = sketch.rotate % pieces.len();
        pieces.rotate_left(rotate);
        pieces
    }

    /// Polls with little room; returns how many completed.
    fn poll(&mut self, room: usize) -> usize {
        let mut completions = Completions::new();
        let fillers = COMPLETIONS_PER_POLL - room.min(COMPLETIONS_PER_POLL);
        for _ in 0..fillers {
            completions.push(Completion::new(FILLER, Status::SUCCESS));
        }
        let count = self.queue_pair.poll(self.cx, &mut completions);
        let ended: Vec<_> = completions.drain().skip(fillers).collect();
        assert_eq!(ended.len(), count, "poll tells how many it handed up");
        for completion in ended {
            self.complete(completion);
        }
        count
    }

    /// Polls, and lets time pass, until `done`.
    fn drain_until(&mut self, done: impl Fn(&HashMap<Token, Pending>) -> bool) {
        let started = Instant::now();
        while !done(&self.pending) {
            self.queue_pair.flush(self.cx);
            if self.poll(COMPLETIONS_PER_POLL) == 0 {
                match self.queue_pair.wake() {
                    Wake::At(time) => self.hand.advance(time - self.cx.now()),
                    Wake::Never => panic!("what is in flight wakes somebody"),
                    // A core that polls on, or sleeps, takes time too: what waits in line may wait
                    // for what is late below.
                    Wake::Now | Wake::Descriptor => {
                        self.hand.advance(PASS);
                        std::thread::yield_now();
                    }
                }
                self.cx.advance_clock();
            }
            self.check_counts();
            assert!(started.elapsed() < LOST_AFTER, "never completed: {:?}", self.pending);
        }
    }

    fn complete(&mut self, completion: Completion) {
        let pending = self.pending.remove(&completion.token);
        let pending = pending.expect("a token completes that is in flight, and only once");
        let memory = pending.memory();
        match pending.verdict {
            Err(status) => check_refused(&pending, completion, &memory, status, &self.geometry),
            Ok(()) => self.check_done(&pending, completion, &memory),
        }
        self.arena.buffers[pending.buffer].bytes_mut().fill(POISON_AFTER);
        self.watched.push_back(pending.buffer);
    }

    /// A legal I/O has ended.
    fn check_done(&mut self, pending: &Pending, completion: Completion, memory: &[u8]) {
        let Io { operation, lba, blocks, flags, .. } = pending.io;
        let lba = lba.0;
        let success = completion.status.is_success();
        assert!(operation == Operation::Read || memory == pending.content, "memory is kept");
        let half = blocks as usize * self.geometry.block_bytes as usize;
        let zeroes = vec![0; half];
        let differs = completion.status.has_code(Status::COMPARE_FAILURE);
        let compares = matches!(operation, Operation::Compare | Operation::CompareAndWrite);
        let answered = success || (compares && differs);
        if !answered {
            assert!(pending.aborted, "{:?} ended with {}", pending.io, completion.status);
        }
        if completion.zeroes {
            assert!(flags.contains(IoFlags::ACCEPT_ZEROES), "zeroes are for who accepts them");
            assert_eq!(memory, pending.content, "zeroes leave the memory alone");
        }
        let new = match operation {
            Operation::Read => {
                if success {
                    self.model.expect_read(lba, if completion.zeroes { &zeroes } else { memory });
                }
                return;
            }
            Operation::Flush | Operation::Verify => return,
            Operation::Compare | Operation::CompareAndWrite => {
                let expected = self.model.compares(lba, &memory[..half]);
                if (success || differs) && expected.is_some() {
                    assert_eq!(Some(success), expected, "{:?} compares rightly", pending.io);
                }
                if operation == Operation::Compare || differs {
                    return;
                }
                &memory[half..]
            }
            Operation::Write => memory,
            Operation::WriteZeroes | Operation::Unmap => &zeroes[..],
        };
        match success {
            true => self.model.change(lba, new),
            false => self.model.may_change(lba, new),
        }
    }

    /// Looks at the oldest watched buffer and makes it free; false when there is none.
    fn release_watched(&mut self) -> bool {
        let Some(index) = self.watched.pop_front() else { return false };
        let bytes = self.arena.buffers[index].bytes(LARGEST_BUFFER_BYTES);
        let kept = bytes.iter().all(|byte| *byte == POISON_AFTER);
        assert!(kept, "memory is touched no more after completion");
        self.free.push(index);
        true
    }
}

/// An illegal I/O has ended.
fn check_refused(
    pending: &Pending,
    completion: Completion,
    memory: &[u8],
    status: Status,
    geometry: &Geometry,
) {
    let Completion { status: told, zeroes, .. } = completion;
    assert!(!told.is_success() && !zeroes, "{:?} is illegal", pending.io);
    assert_eq!(memory, pending.content, "an illegal I/O leaves its memory alone");
    // Front doors pass these on, so their codes are the same for every device.
    if legality::check_shape(&pending.io, geometry).is_err() && !pending.aborted {
        assert!(told.has_code(status), "{:?}: {told} is not {status}", pending.io);
    }
}
