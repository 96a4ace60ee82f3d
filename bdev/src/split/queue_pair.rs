//! The queue pair of a split device: whole I/Os above, pieces below.
//!
//! Each whole I/O has a slot, each piece in flight another, with room for its segments; pieces go
//! down as there are credits, one a turn of each whole I/O, so that a long one does not hold up
//! the rest. The first error of its pieces is the error of the whole.

use std::collections::VecDeque;

use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Wake};

use super::cut::{piece_blocks, segments_max};
use crate::below::Below;
use crate::device::{Geometry, Limits};
use crate::io::{Completion, Completions, Io, IoFlags, Lba, Memory, Operation, Token};
use crate::nvme::status::Status;
use crate::parts::parts;
use crate::queue_pair::{Busy, QueuePair};
use crate::segment_list::SegmentList;

/// An I/O from above.
#[derive(Debug)]
struct Whole {
    io: Io,
    /// Blocks that were cut off and sent.
    sent_blocks: u32,
    /// Nothing more is sent.
    sent: bool,
    /// Pieces in flight.
    pieces: u32,
    status: Status,
    /// The only piece said so.
    zeroes: bool,
}

/// A piece in flight.
#[derive(Debug)]
struct Piece {
    whole: SlotId,
    /// Which of the lists holds its segments.
    list: u32,
}

#[derive(Debug)]
pub(super) struct SplitQueuePair {
    below: Below,
    geometry: Geometry,
    limits: Limits,
    depth: u32,
    wholes: Slab<Whole>,
    pieces: Slab<Piece>,
    /// One for each piece that can be in flight, and those of them that are free.
    lists: Vec<SegmentList>,
    free_lists: Vec<u32>,
    /// Wholes of which something is left to send.
    unsent: VecDeque<SlotId>,
}

impl SplitQueuePair {
    pub(super) fn new(
        inner: Box<dyn QueuePair>,
        geometry: Geometry,
        limits: Limits,
        depth: u32,
    ) -> SplitQueuePair {
        let list = |_| SegmentList::with_capacity(segments_max(&limits));
        SplitQueuePair {
            below: Below::new(inner, depth),
            geometry,
            limits,
            depth,
            wholes: Slab::with_capacity(depth),
            pieces: Slab::with_capacity(depth),
            lists: (0..depth).map(list).collect(),
            free_lists: (0..depth).rev().collect(),
            unsent: VecDeque::with_capacity(depth as usize),
        }
    }

    /// Sends pieces as long as there are credits and slots; true when it sent one.
    fn send(&mut self, cx: &mut Cx) -> bool {
        let mut any = false;
        while !self.pieces.is_full() && self.below.queue_pair.credits() > 0 {
            let Some(id) = self.unsent.pop_front() else { break };
            self.send_piece(cx, id);
            any = true;
        }
        any
    }

    fn send_piece(&mut self, cx: &mut Cx, id: SlotId) {
        let whole = self.wholes.get_mut(id).expect("an I/O to send has not ended");
        let done = whole.sent_blocks;
        let whole_io = whole.io;
        let flush = whole_io.operation == Operation::Flush;
        let uncut = matches!(whole_io.operation, Operation::Flush | Operation::CompareAndWrite);
        let blocks = if uncut {
            whole_io.blocks
        } else {
            piece_blocks(&whole_io, done, &self.geometry, &self.limits)
        };
        assert!(blocks > 0 || flush, "an I/O that cannot be cut was refused");
        whole.sent_blocks += blocks;
        whole.sent = whole.sent_blocks == whole_io.blocks;
        whole.pieces += 1;
        if !whole.sent {
            self.unsent.push_back(id);
        }
        let list = self.free_lists.pop().expect("as many lists as pieces");
        let mut io = whole_io;
        if blocks < whole_io.blocks {
            io.lba = Lba(whole_io.lba.0 + u64::from(done));
            io.blocks = blocks;
            io.memory = self.piece_memory(&whole_io, done, blocks, list);
            // One piece of zeroes beside one of data could not be told upward.
            io.flags = io.flags.without(IoFlags::ACCEPT_ZEROES);
        }
        let piece = self.pieces.insert(Piece { whole: id, list }).expect("there is a free slot");
        io.token = Token(piece.to_token());
        let accepted = self.below.queue_pair.submit(cx, io);
        assert!(accepted.is_ok(), "a queue pair with credits accepts an I/O");
    }

    fn piece_memory(&mut self, io: &Io, done: u32, blocks: u32, list: u32) -> Memory {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let (from, len) = (u64::from(done) * block_bytes, u64::from(blocks) * block_bytes);
        let list = &mut self.lists[list as usize];
        list.fill(parts(&io.memory, from, len));
        list.memory()
    }

    /// A piece has ended.
    fn join(&mut self, completion: Completion) {
        let piece = self.pieces.remove(SlotId::from_token(completion.token.0));
        let piece = piece.expect("a token completes that is in flight, and only once");
        self.free_lists.push(piece.list);
        let whole = self.wholes.get_mut(piece.whole).expect("an I/O outlives its pieces");
        whole.pieces -= 1;
        whole.zeroes = completion.zeroes;
        if whole.status.is_success() && !completion.status.is_success() {
            whole.status = completion.status;
            whole.sent = true;
        }
        if whole.sent && whole.pieces == 0 {
            self.end(piece.whole);
        }
    }

    /// Everything of an I/O has ended.
    fn end(&mut self, id: SlotId) {
        let whole = self.wholes.remove(id).expect("an I/O ends once");
        if whole.sent_blocks < whole.io.blocks {
            self.unsent.retain(|other| *other != id);
        }
        let Whole { io, status, zeroes, .. } = whole;
        let zeroes = zeroes && status.is_success();
        self.below.push(Completion { token: io.token, status, zeroes });
    }
}

impl QueuePair for SplitQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        if let Err(status) = super::check(&io, &self.geometry, &self.limits) {
            self.below.push(Completion::new(io.token, status));
            return Ok(());
        }
        let whole = Whole {
            io,
            sent_blocks: 0,
            sent: false,
            pieces: 0,
            status: Status::SUCCESS,
            zeroes: false,
        };
        let id = self.wholes.insert(whole).expect("a credit is a free slot");
        self.unsent.push_back(id);
        self.send(cx);
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx);
        while let Some(completion) = self.below.next_polled() {
            self.join(completion);
        }
        if self.send(cx) {
            self.below.queue_pair.flush(cx);
        }
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        self.wholes.len() + self.below.ready()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        for _ in 0..self.unsent.len() {
            let id = self.unsent.pop_front().expect("as many as were counted");
            let whole = self.wholes.get_mut(id).expect("an I/O to send has not ended");
            if whole.status.is_success() {
                whole.status = Status::ABORT_REQUESTED;
            }
            whole.sent = true;
            if whole.pieces == 0 {
                self.end(id);
            }
        }
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        let sendable = !self.unsent.is_empty() && self.below.queue_pair.credits() > 0;
        if sendable && !self.pieces.is_full() { Wake::Now } else { self.below.wake() }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.wake() != Wake::Now && self.below.arm(cx)
    }
}
