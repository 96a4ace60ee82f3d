//! One core's way to a RAM disk: `submit` checks and queues, `poll` copies.
//!
//! Copying in `poll` rather than at once lets the first lines of the I/Os to come be fetched while
//! the present one is copied: a random block of a large disk misses the cache and the TLB. Work a
//! poll is bounded, and a long I/O is done in pieces, so that the core's loop comes round.

use std::collections::VecDeque;
use std::sync::Arc;

use reactor::{Cx, Wake};

use super::Shared;
use crate::device::Limits;
use crate::io::{Completion, Completions, Io, Operation};
use crate::legality;
use crate::nvme::status::Status;
use crate::parts::parts;
use crate::queue_pair::{Busy, QueuePair};
use crate::range_lock::{Access, Pass};

/// An I/O longer than this is done in pieces that end at multiples of it. A huge page, so that an
/// unmap gives whole ones back.
const PIECE_BYTES: u64 = 2 << 20;

/// A poll begins nothing more once it has copied or zeroed this much: about 100 us of work.
const POLL_BYTES_MAX: u64 = 1 << 20;

/// How many I/Os ahead of the present one are prefetched.
const PREFETCH_AHEAD: usize = 2;

/// An I/O that waits to be done.
#[derive(Debug)]
struct Queued {
    io: Io,
    /// Of the I/O, how much is done.
    done_bytes: u64,
    /// How it will end without anything being done, if so.
    verdict: Option<Status>,
}

/// What a try at an I/O came to.
enum Step {
    Ended(Status),
    /// A piece is done, others are left.
    Advanced,
    /// Another core has the range.
    Conflict,
}

#[derive(Debug)]
pub(super) struct MallocQueuePair {
    shared: Arc<Shared>,
    limits: Limits,
    depth: u32,
    /// Never grows past `depth`, its capacity.
    queue: VecDeque<Queued>,
}

impl MallocQueuePair {
    pub(super) fn open(shared: Arc<Shared>, limits: Limits, depth: u32) -> MallocQueuePair {
        shared.lock.join();
        let queue = VecDeque::with_capacity(depth as usize);
        MallocQueuePair { shared, limits, depth, queue }
    }
}

impl Drop for MallocQueuePair {
    fn drop(&mut self) {
        self.shared.lock.leave();
    }
}

impl Shared {
    /// Fetches the first lines of an I/O to come, if there is one.
    #[inline]
    fn prefetch(&self, queued: Option<&Queued>) {
        if let Some(queued) = queued
            && queued.verdict.is_none()
        {
            let block_bytes = u64::from(self.geometry.block_bytes);
            self.memory.prefetch(queued.io.lba.0 * block_bytes + queued.done_bytes);
        }
    }

    /// Does the next piece of an I/O, and adds its length to `bytes`.
    #[inline]
    fn step(&self, pass: &Pass<'_>, queued: &mut Queued, bytes: &mut u64) -> Step {
        if let Some(status) = queued.verdict {
            return Step::Ended(status);
        }
        let io = &queued.io;
        if io.operation == Operation::Flush {
            return Step::Ended(Status::SUCCESS);
        }
        let block_bytes = u64::from(self.geometry.block_bytes);
        let total = u64::from(io.blocks) * block_bytes;
        let offset = io.lba.0 * block_bytes + queued.done_bytes;
        let left = total - queued.done_bytes;
        let len = if left <= PIECE_BYTES { left } else { PIECE_BYTES - offset % PIECE_BYTES };
        let access = if io.operation.changes_blocks() { Access::Exclusive } else { Access::Shared };
        let Some(_held) = pass.try_take(offset, len, access) else { return Step::Conflict };
        *bytes += len;
        if let Err(status) = self.perform(io, offset, queued.done_bytes, len) {
            return Step::Ended(status);
        }
        queued.done_bytes += len;
        if len == left { Step::Ended(Status::SUCCESS) } else { Step::Advanced }
    }

    /// Does the I/O to `len` bytes of the disk from `offset` on; its memory begins at `from`.
    #[inline]
    fn perform(&self, io: &Io, offset: u64, from: u64, len: u64) -> Result<(), Status> {
        let mut at = offset;
        let mut places = |from| {
            at = offset;
            parts(&io.memory, from, len).map(move |part| {
                let place = at;
                at += u64::from(part.len_bytes());
                (place, part)
            })
        };
        match io.operation {
            Operation::Read => {
                places(from).for_each(|(at, part)| self.memory.copy_out(at, part));
            }
            Operation::Write => {
                self.chunks.set(offset, len);
                places(from).for_each(|(at, part)| self.memory.copy_in(at, part));
            }
            Operation::WriteZeroes | Operation::Unmap => {
                self.memory.zero(offset, len);
                self.chunks.clear(offset, len, self.geometry.len_bytes());
            }
            Operation::Compare | Operation::CompareAndWrite => {
                if !places(from).all(|(at, part)| self.memory.equals(at, part)) {
                    return Err(Status::COMPARE_FAILURE);
                }
                if io.operation == Operation::CompareAndWrite {
                    self.chunks.set(offset, len);
                    // The second half; the limits keep the I/O in one piece.
                    places(len).for_each(|(at, part)| self.memory.copy_in(at, part));
                }
            }
            // Memory is never found unreadable.
            Operation::Flush | Operation::Verify => {}
        }
        Ok(())
    }
}

const _: () = assert!(super::ATOMIC_BYTES_MAX as u64 <= PIECE_BYTES);

impl QueuePair for MallocQueuePair {
    fn submit(&mut self, _cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        let verdict = legality::check(&io, &self.shared.geometry, &self.limits).err();
        self.queue.push_back(Queued { io, done_bytes: 0, verdict });
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Cx) {}

    fn poll(&mut self, _cx: &mut Cx, completions: &mut Completions) -> usize {
        let MallocQueuePair { shared, queue, .. } = self;
        if queue.is_empty() {
            return 0;
        }
        (0..PREFETCH_AHEAD).for_each(|index| shared.prefetch(queue.get(index)));
        let pass = shared.lock.enter();
        let (mut count, mut bytes) = (0, 0);
        // Each once: what stays goes to the end of the queue, so that nothing blocks the rest.
        for _ in 0..queue.len() {
            if completions.room() == 0 || bytes >= POLL_BYTES_MAX {
                break;
            }
            shared.prefetch(queue.get(PREFETCH_AHEAD));
            let mut queued = queue.pop_front().expect("as many as were counted");
            match shared.step(&pass, &mut queued, &mut bytes) {
                Step::Ended(status) => {
                    completions.push(Completion::new(queued.io.token, status));
                    count += 1;
                }
                Step::Advanced | Step::Conflict => queue.push_back(queued),
            }
        }
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        u32::try_from(self.queue.len()).expect("no more than the depth")
    }

    fn abort_all(&mut self, _cx: &mut Cx) {
        for queued in &mut self.queue {
            queued.verdict.get_or_insert(Status::ABORT_REQUESTED);
        }
    }

    fn wake(&self) -> Wake {
        if self.queue.is_empty() { Wake::Never } else { Wake::Now }
    }

    fn arm(&mut self, _cx: &mut Cx) -> bool {
        self.queue.is_empty()
    }
}
