//! Copies regions from a member to those that lack them, several pieces at once.
//!
//! Owned by [`super::Rebuild`], polled on the home core. A piece takes the stripes of its range,
//! so that no core writes there meanwhile, reads from the source, writes to every receiver, and
//! gives the stripes back. Nothing here blocks, and nothing fails for want of a buffer or a credit:
//! it is tried again at the next poll.

use std::sync::Arc;

use bdev::{Completion, Io, IoFlags, Lba, Operation, Status, Token};
use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Nanos, Wake};

use super::holes::Holes;
use super::order::{Obstacle, Open};
use super::pace::Pace;
use super::piece::{Content, Piece, Stage};
use super::seat::{NotSent, Seat};
use super::{ORDERS_MAX, PIECES_MAX, RECHECK_INTERVAL, ROUNDS_MAX, WRITE_TRIES_MAX};
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet, FaultReason};
use crate::mirror::CHILD_TIMEOUT;
use crate::nexus::Nexus;
use crate::truth::CopyOrder;
use crate::view::Mode;

/// What the home core hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyEvent {
    /// An order is over, once each: all of `to` have the region, or why not.
    Over(CopyOrder, Result<(), Obstacle>),
    /// A receiver failed; its order will be over when everything is back.
    ReceiverLost(ChildIndex, FaultReason),
    /// A read failed; the piece is read again, there or elsewhere.
    SourceError(ChildIndex),
    /// A source did not answer in time.
    SourceSilent(ChildIndex),
    /// A flush of a child has ended.
    Flushed(ChildIndex, Status),
}

/// Bytes that it has dealt with since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Read from a source and given to receivers.
    pub copied_bytes: u64,
    /// Found to be zeroes by the source's word, without being read.
    pub skipped_bytes: u64,
}

impl Moved {
    /// Both.
    pub fn all_bytes(&self) -> u64 {
        self.copied_bytes + self.skipped_bytes
    }

    pub(super) fn since(self, before: Moved) -> Moved {
        Moved {
            copied_bytes: self.copied_bytes - before.copied_bytes,
            skipped_bytes: self.skipped_bytes - before.skipped_bytes,
        }
    }
}

/// Of the tokens of flushes. No piece has it.
const FLUSH_GENERATION: u32 = 0;

/// See the module.
#[derive(Debug)]
pub(crate) struct Copier {
    nexus: Arc<Nexus>,
    block_bytes: u32,
    seat: Option<Seat>,
    pieces: Slab<Piece>,
    orders: [Option<Open>; ORDERS_MAX],
    /// Children that are to be flushed, and those that are being.
    to_flush: ChildSet,
    flushing: ChildSet,
    flushed_at: Nanos,
    holes: Holes,
    ended: Vec<(ChildIndex, Completion)>,
    events: Vec<CopyEvent>,
    moved: Moved,
    is_paused: bool,
    /// When what waits for a stripe, a buffer or a credit is tried again.
    recheck_at: Option<Nanos>,
    next_sweep: Nanos,
}

impl Copier {
    pub(crate) fn new(nexus: Arc<Nexus>, block_bytes: u32) -> Copier {
        Copier {
            nexus,
            block_bytes,
            seat: None,
            pieces: Slab::with_capacity(PIECES_MAX),
            orders: [const { None }; ORDERS_MAX],
            to_flush: ChildSet::EMPTY,
            flushing: ChildSet::EMPTY,
            flushed_at: Nanos(0),
            holes: Holes::default(),
            ended: Vec::with_capacity(PIECES_MAX as usize * CHILDREN_MAX),
            events: Vec::new(),
            moved: Moved::default(),
            is_paused: false,
            recheck_at: None,
            next_sweep: Nanos(0),
        }
    }

    /// True when another order would be begun.
    pub(crate) fn wants_order(&self) -> bool {
        !self.is_paused && self.orders.iter().any(Option::is_none)
    }

    /// Begins an order of the blocks from `start` to `end`. They may be written on each receiver:
    /// what must be durable there before the first byte (rules 24 and 26) is.
    pub(crate) fn accept(&mut self, order: CopyOrder, start: u64, end: u64) {
        let place = self.orders.iter().position(Option::is_none).expect("there is room for it");
        self.orders[place] = Some(Open::new(order, start, end));
    }

    /// Has a child flushed: answered by [`CopyEvent::Flushed`].
    pub(crate) fn flush(&mut self, child: ChildIndex) {
        self.to_flush = self.to_flush.with(child);
    }

    /// Begins nothing more; what is in flight ends.
    pub(crate) fn pause(&mut self) {
        self.is_paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.is_paused = false;
    }

    /// What was ordered for a child is given up.
    pub(crate) fn drop_receiver(&mut self, child: ChildIndex) {
        self.to_flush = self.to_flush.without(child);
        for open in self.orders.iter_mut().flatten().filter(|open| open.order.to.contains(child)) {
            open.give_up(Obstacle::Gone(child));
        }
    }

    pub(crate) fn moved(&self) -> Moved {
        self.moved
    }

    /// Blocks that were copied of the orders under way.
    pub(crate) fn done_blocks(&self) -> u64 {
        self.orders.iter().flatten().map(|open| open.done_blocks).sum()
    }

    /// Orders under way.
    pub(crate) fn has_orders(&self) -> bool {
        self.orders.iter().any(Option::is_some)
    }

    /// Nothing is in flight, and no stripe is held.
    pub(crate) fn is_still(&self) -> bool {
        self.pieces.is_empty() && self.flushing.is_empty()
    }

    /// What came of it since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<CopyEvent> {
        std::mem::take(&mut self.events)
    }

    /// Goes on; returns how much there was to do.
    pub(crate) fn poll(&mut self, cx: &mut Cx, pace: &mut Pace) -> usize {
        self.end_orders();
        if !self.has_work() {
            self.seat = None;
            self.recheck_at = None;
            return 0;
        }
        let mut seat = match self.seat.take() {
            Some(seat) => seat,
            None => match Seat::take(&self.nexus, cx) {
                Some(seat) => seat,
                None => {
                    self.recheck_at = Some(cx.now() + RECHECK_INTERVAL);
                    return 0;
                }
            },
        };
        seat.keep_up(cx);
        self.look_at_view(&seat);
        let open = seat.open_children();
        let mut work = self.take_ended(cx, &mut seat, open);
        self.advance_all(cx, &mut seat);
        // What was read in this pass is in the cache still, where the receivers are in memory.
        let receivers = seat.submitted();
        if !receivers.is_empty() {
            work += self.take_ended(cx, &mut seat, receivers);
            self.advance_all(cx, &mut seat);
        }
        self.begin_flushes(cx, &mut seat);
        work += self.begin(cx, &mut seat, pace);
        self.sweep(cx, &mut seat);
        seat.ring(cx);
        let has_begun = |piece: &Piece| matches!(piece.stage, Stage::Reading | Stage::Writing);
        if self.flushing.is_empty() && !self.pieces.iter().any(|(_, piece)| has_begun(piece)) {
            seat.say_drained();
        }
        seat.close_unused(cx);
        self.recheck_at = self.must_retry(&seat).then(|| cx.now() + RECHECK_INTERVAL);
        if self.is_still() {
            seat.rest();
        }
        self.seat = Some(seat);
        self.end_orders();
        work
    }

    /// Gives up orders that the view does not allow any more.
    fn look_at_view(&mut self, seat: &Seat) {
        let written = seat.view().written();
        for open in self.orders.iter_mut().flatten() {
            if seat.view().mode == Mode::Ended {
                open.give_up(Obstacle::Ended);
            } else if let Some(child) = open.order.to.minus(written).first() {
                open.give_up(Obstacle::Gone(child));
            }
        }
    }

    /// Something is in flight, or to be begun.
    fn has_work(&self) -> bool {
        !self.is_still() || !self.to_flush.is_empty() || (self.has_orders() && !self.is_paused)
    }

    /// Something waits for what nobody tells: a stripe, a buffer, a credit, the others' word.
    fn must_retry(&self, seat: &Seat) -> bool {
        let waits = |piece: &Piece| match piece.stage {
            Stage::Stripes => true,
            Stage::Ready => seat.view().mode == Mode::Running,
            Stage::Reading => false,
            Stage::Writing => !piece.unsent.is_empty(),
        };
        seat.waits_for_others()
            || !self.to_flush.is_empty()
            || self.pieces.iter().any(|(_, piece)| waits(piece))
    }

    fn begin_flushes(&mut self, cx: &mut Cx, seat: &mut Seat) {
        for child in self.to_flush.minus(self.flushing) {
            if !seat.may_begin() {
                return;
            }
            let sent = match seat.view().written().contains(child) {
                true => seat.submit(cx, child, Io::flush(Token(child.get() as u64))),
                false => Err(NotSent::CannotOpen),
            };
            match sent {
                Ok(()) => {
                    self.flushing = self.flushing.with(child);
                    self.flushed_at = cx.now();
                }
                Err(NotSent::Busy) => continue,
                Err(NotSent::CannotOpen) => {
                    self.events.push(CopyEvent::Flushed(child, Status::INTERNAL_PATH_ERROR));
                }
            }
            self.to_flush = self.to_flush.without(child);
        }
    }

    fn advance_all(&mut self, cx: &mut Cx, seat: &mut Seat) {
        for index in 0..PIECES_MAX {
            if let Some(id) = self.pieces.id_at(index) {
                self.advance(cx, seat, id);
            }
        }
    }

    /// Takes what has come back from these children.
    fn take_ended(&mut self, cx: &mut Cx, seat: &mut Seat, children: ChildSet) -> usize {
        let mut ended = std::mem::take(&mut self.ended);
        seat.poll(cx, children, &mut ended);
        let count = ended.len();
        for (child, completion) in ended.drain(..) {
            let id = SlotId::from_token(completion.token.0);
            if id.generation == FLUSH_GENERATION {
                self.flushing = self.flushing.without(child);
                self.events.push(CopyEvent::Flushed(child, completion.status));
                continue;
            }
            let piece = self.pieces.get_mut(id).expect("a piece outlives its tokens");
            assert!(piece.pending.contains(child), "a child completes a token once");
            piece.pending = piece.pending.without(child);
            match piece.stage {
                Stage::Reading => self.was_read(id, child, completion),
                Stage::Writing => self.was_written(id, child, completion.status),
                stage => unreachable!("a piece in {stage:?} is at no child"),
            }
        }
        self.ended = ended;
        count
    }

    fn was_read(&mut self, id: SlotId, child: ChildIndex, completion: Completion) {
        let piece = self.pieces.get_mut(id).expect("the caller has it");
        if !completion.status.is_success() {
            piece.failed_sources = piece.failed_sources.with(child);
            piece.stage = Stage::Ready;
            self.events.push(CopyEvent::SourceError(child));
            return;
        }
        let len_bytes = piece.blocks * self.block_bytes;
        let buffer = piece.buffer.as_ref().expect("it was read to a buffer");
        piece.content = match completion.zeroes {
            true => Content::Zeroes,
            false if is_zero(buffer.bytes(len_bytes)) => Content::ZeroesInBuffer,
            false => Content::Buffer,
        };
        self.hand_out(id);
    }

    /// The content of a piece is known: it goes to the receivers.
    fn hand_out(&mut self, id: SlotId) {
        let piece = self.pieces.get_mut(id).expect("the caller has it");
        let open = self.orders[piece.order].as_ref().expect("an order outlives its pieces");
        let source = piece.source.expect("somebody was asked");
        piece.stage = Stage::Writing;
        piece.unsent = open.order.to;
        if source != open.order.source && piece.unsent.contains(source) {
            // Another member's content became the right one: the first source receives it.
            piece.unsent = piece.unsent.without(source).with(open.order.source);
        }
    }

    fn was_written(&mut self, id: SlotId, child: ChildIndex, status: Status) {
        if status.is_success() {
            return;
        }
        let piece = self.pieces.get_mut(id).expect("the caller has it");
        let tries = &mut piece.tries[child.get()];
        *tries += 1;
        if *tries < WRITE_TRIES_MAX {
            piece.unsent = piece.unsent.with(child);
            return;
        }
        let order = piece.order;
        self.give_up_receiver(order, child, FaultReason::IoError);
    }

    /// A receiver did not take what it was given.
    fn give_up_receiver(&mut self, order: usize, child: ChildIndex, reason: FaultReason) {
        let open = self.orders[order].as_mut().expect("an order outlives its pieces");
        if open.give_up(Obstacle::Receiver(child, reason)) {
            self.events.push(CopyEvent::ReceiverLost(child, reason));
        }
    }

    /// Takes a piece as far as it goes.
    fn advance(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId) {
        let piece = self.pieces.get_mut(id).expect("the caller saw it");
        if piece.stage == Stage::Stripes {
            // Also when nobody wants it any more: it may be in line, and whose turn it is must
            // take it.
            if !seat.take_stripes(piece.start, piece.blocks, &mut piece.words) {
                return;
            }
            piece.stage = Stage::Ready;
        }
        let open = self.orders[piece.order].as_ref().expect("an order outlives its pieces");
        let is_unwanted = open.obstacle.is_some();
        match piece.stage {
            Stage::Ready if is_unwanted => self.end(cx, seat, id),
            Stage::Ready => self.read(cx, seat, id),
            Stage::Writing => self.write(cx, seat, id),
            Stage::Stripes | Stage::Reading => {}
        }
    }

    /// Asks a source for a piece.
    fn read(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId) {
        if !seat.may_begin() {
            return;
        }
        let piece = self.pieces.get_mut(id).expect("the caller saw it");
        let open = self.orders[piece.order].as_ref().expect("an order outlives its pieces");
        let Some(source) = source_of(seat.view().readable(), open, piece.failed_sources) else {
            return self.no_source(seat, id);
        };
        piece.source = Some(source);
        let end = piece.start + u64::from(piece.blocks);
        if self.holes.is_hole(seat.view(), source, piece.start..end) {
            (piece.content, piece.is_skipped) = (Content::Zeroes, true);
            self.hand_out(id);
            return self.write(cx, seat, id);
        }
        let len_bytes = piece.blocks * self.block_bytes;
        if piece.buffer.is_none() {
            piece.buffer = cx.dma.take(len_bytes);
        }
        let Some(buffer) = &piece.buffer else { return };
        let segment = buffer.segment(len_bytes);
        let read = Io::read(Lba(piece.start), piece.blocks, segment, Token(id.to_token()));
        match seat.submit(cx, source, Io { flags: IoFlags::ACCEPT_ZEROES, ..read }) {
            Ok(()) => {
                piece.stage = Stage::Reading;
                piece.pending = piece.pending.with(source);
                piece.sent_at = cx.now();
            }
            Err(NotSent::Busy) => {}
            Err(NotSent::CannotOpen) => {
                piece.failed_sources = piece.failed_sources.with(source);
            }
        }
    }

    /// Every source has failed: they are asked again, some times.
    fn no_source(&mut self, seat: &Seat, id: SlotId) {
        let piece = self.pieces.get_mut(id).expect("the caller saw it");
        piece.rounds += 1;
        piece.failed_sources = ChildSet::EMPTY;
        if piece.rounds < ROUNDS_MAX && !seat.view().readable().is_empty() {
            return;
        }
        let open = self.orders[piece.order].as_mut().expect("an order outlives its pieces");
        open.give_up(Obstacle::Unreadable);
    }

    /// Sends a piece to the receivers that it is still to be sent to; ends it when all are done.
    fn write(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId) {
        let piece = self.pieces.get_mut(id).expect("the caller saw it");
        let order = piece.order;
        let open = self.orders[order].as_ref().expect("an order outlives its pieces");
        let written = seat.view().written();
        piece.unsent = match open.obstacle {
            None => piece.unsent.intersection(written),
            Some(_) => ChildSet::EMPTY,
        };
        let range = piece.start..piece.start + u64::from(piece.blocks);
        let mut refused = ChildSet::EMPTY;
        for child in piece.unsent {
            let is_zero = piece.content == Content::Zeroes;
            if is_zero && self.holes.is_hole(seat.view(), child, range.clone()) {
                piece.unsent = piece.unsent.without(child);
                continue;
            }
            let way = self.holes.zeroing(seat.view(), child);
            let io = io_of(piece, self.block_bytes, way, Token(id.to_token()));
            match seat.submit(cx, child, io) {
                Ok(()) => {
                    piece.unsent = piece.unsent.without(child);
                    piece.pending = piece.pending.with(child);
                    piece.sent_at = cx.now();
                }
                Err(NotSent::Busy) => {}
                Err(NotSent::CannotOpen) => {
                    piece.unsent = piece.unsent.without(child);
                    refused = refused.with(child);
                }
            }
        }
        let is_over = piece.unsent.is_empty() && piece.is_back();
        for child in refused {
            self.give_up_receiver(order, child, FaultReason::CantOpen);
        }
        if is_over {
            self.end(cx, seat, id);
        }
    }

    /// Nothing of a piece is at a child any more: it gives back what it has.
    fn end(&mut self, cx: &mut Cx, seat: &mut Seat, id: SlotId) {
        let piece = self.pieces.remove(id).expect("the caller saw it");
        assert!(
            piece.is_back() && piece.stage != Stage::Stripes,
            "it is back, and has its stripes"
        );
        seat.release_stripes(piece.start, piece.blocks, piece.words);
        if let Some(buffer) = piece.buffer {
            cx.dma.give(buffer);
        }
        let open = self.orders[piece.order].as_mut().expect("an order outlives its pieces");
        open.pieces -= 1;
        open.done_blocks += u64::from(piece.blocks);
        let bytes = u64::from(piece.blocks) * u64::from(self.block_bytes);
        match piece.is_skipped {
            _ if piece.stage != Stage::Writing => {}
            true => self.moved.skipped_bytes += bytes,
            false => self.moved.copied_bytes += bytes,
        }
    }

    /// Cuts new pieces, as many as the pace allows.
    fn begin(&mut self, cx: &mut Cx, seat: &mut Seat, pace: &mut Pace) -> usize {
        let mut begun = 0;
        while !self.is_paused && seat.may_begin() && !self.pieces.is_full() {
            let is_cut = |open: &Option<Open>| open.as_ref().is_none_or(Open::is_cut);
            let Some(place) = self.orders.iter().position(|open| !is_cut(open)) else { break };
            let Some(bytes_max) = pace.grant(cx.now(), self.pieces.len()) else { break };
            let open = self.orders[place].as_mut().expect("it was just there");
            let (start, blocks) = open.cut(u64::from(bytes_max / self.block_bytes));
            pace.charge(u64::from(blocks) * u64::from(self.block_bytes));
            let piece = Piece::new(place, start, blocks);
            let id = self.pieces.insert(piece).expect("there was room");
            self.advance(cx, seat, id);
            begun += 1;
        }
        begun
    }

    /// Finds children that do not answer.
    fn sweep(&mut self, cx: &mut Cx, seat: &mut Seat) {
        let now = cx.now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + super::SWEEP_INTERVAL;
        if now.since(self.flushed_at) >= CHILD_TIMEOUT {
            self.flushing.iter().for_each(|child| seat.abort(cx, child));
        }
        let is_late = |piece: &Piece| !piece.is_back() && now.since(piece.sent_at) >= CHILD_TIMEOUT;
        let late = |(_, piece): (SlotId, &mut Piece)| {
            is_late(piece).then(|| {
                piece.sent_at = now;
                (piece.stage, piece.order, piece.pending)
            })
        };
        let late: Vec<_> = self.pieces.iter_mut().filter_map(late).collect();
        for (stage, order, pending) in late {
            for child in pending {
                seat.abort(cx, child);
                match stage {
                    Stage::Writing => self.give_up_receiver(order, child, FaultReason::TimedOut),
                    _ => self.events.push(CopyEvent::SourceSilent(child)),
                }
            }
        }
    }

    /// Tells of orders that are over.
    fn end_orders(&mut self) {
        for place in &mut self.orders {
            if let Some(open) = place.take_if(|open| open.is_over()) {
                let result = open.obstacle.map_or(Ok(()), Err);
                self.events.push(CopyEvent::Over(open.order, result));
            }
        }
    }

    /// When it must be polled next.
    pub(crate) fn wake(&self, pace: &Pace) -> Wake {
        if !self.events.is_empty() {
            return Wake::Now;
        }
        let is_over = self.orders.iter().flatten().any(Open::is_over);
        let recheck = self.recheck_at.map_or(Wake::Never, Wake::At);
        let Some(seat) = &self.seat else {
            let must_begin = is_over || self.has_work() && self.recheck_at.is_none();
            return if must_begin { Wake::Now } else { recheck };
        };
        if is_over || !self.has_work() {
            // The seat is to be left.
            return Wake::Now;
        }
        let has_more = self.orders.iter().flatten().any(|open| !open.is_cut());
        let may_begin = has_more && !self.is_paused && !self.pieces.is_full() && seat.may_begin();
        let begin = if may_begin { pace.wake(self.pieces.len()) } else { Wake::Never };
        let sweep = if self.is_still() { Wake::Never } else { Wake::At(self.next_sweep) };
        recheck.soonest(seat.wake()).soonest(begin).soonest(sweep)
    }

    pub(crate) fn arm(&mut self, cx: &mut Cx) -> bool {
        self.seat.as_mut().is_none_or(|seat| seat.arm(cx))
    }
}

/// Who is read: the order's source, or another member, of those that have not failed.
fn source_of(readable: ChildSet, open: &Open, failed: ChildSet) -> Option<ChildIndex> {
    let candidates = readable.minus(failed);
    match candidates.contains(open.order.source) {
        true => Some(open.order.source),
        false => candidates.first(),
    }
}

/// What a receiver is sent. `zeroing` is how it is given zeroes at less cost than data.
fn io_of(piece: &Piece, block_bytes: u32, zeroing: Option<Operation>, token: Token) -> Io {
    let lba = Lba(piece.start);
    let zeroes = match piece.content {
        Content::Buffer => None,
        Content::ZeroesInBuffer => zeroing,
        Content::Zeroes => Some(zeroing.unwrap_or(Operation::WriteZeroes)),
    };
    if let Some(operation) = zeroes {
        return Io::with_memory(operation, lba, piece.blocks, bdev::Memory::None, token);
    }
    let buffer = piece.buffer.as_ref().expect("its content is in it");
    Io::write(lba, piece.blocks, buffer.segment(piece.blocks * block_bytes), token)
}

/// Ends at the first byte that is not zero, which is early in all but blocks of zeroes.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
}
