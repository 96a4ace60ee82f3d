//! Label I/O on one child: batches of pages, one batch after the other, each I/O tried again a
//! little, all within a deadline.
//!
//! Owned by a [`super::desk::Desk`], on the home core. What has missed its deadline is aborted; the
//! lane takes nothing new until all of it has come back.

use std::collections::VecDeque;

use bdev::{Completion, Io, IoFlags, Lba, Token};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};

use crate::child::{ChildIndex, FaultReason};
use crate::truth::ControlIo;
use crate::truth::label::PageAddress;
use crate::truth::label::store::PageWrite;
use crate::truth::label::wire::PAGE_BYTES;

/// How long a label may take to be read or written: shorter than a host's I/O may hang on a child
/// ([`crate::mirror::CHILD_TIMEOUT`]), so that both together stay well under the host's 30 s.
pub const LABEL_TIMEOUT: Nanos = Nanos::from_secs(4);

/// How often an I/O of a label is tried.
pub const LABEL_TRIES: u32 = 3;

/// A page of a copy of the label.
pub(super) type Page = (PageAddress, usize);

/// An I/O of a label.
#[derive(Clone, Debug)]
pub(super) enum LabelIo {
    /// Everything that has completed becomes durable.
    Flush,
    /// A page is read.
    Read(Page),
    /// A page is written.
    Write(PageWrite),
}

/// The child that a lane is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub child: ChildIndex,
    pub block_bytes: u32,
}

#[derive(Debug)]
struct Flight {
    token: Token,
    io: LabelIo,
    buffer: Option<DmaBuffer>,
    tries: u32,
}

/// What has come of a lane's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// As many batches as were to be reported are done.
    Reported,
    /// All are done.
    Ended,
    /// It failed; what is in flight ends first.
    Failed(FaultReason),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    /// Highest bits of its tokens.
    number: u64,
    next_token: u64,
    batches: VecDeque<Vec<LabelIo>>,
    /// Batches that are still to be done before it reports.
    report_after: Option<usize>,
    unsent: VecDeque<(LabelIo, u32)>,
    flight: Vec<Flight>,
    is_running: bool,
    is_in_batch: bool,
    is_draining: bool,
    fault: Option<FaultReason>,
    deadline: Nanos,
    /// When the present work began.
    pub began_at: Nanos,
    /// Pages that were read.
    pub pages: Vec<(Page, Box<[u8; PAGE_BYTES]>)>,
}

const LANE_SHIFT: u32 = 56;

impl Lane {
    pub fn new(number: u64) -> Lane {
        Lane {
            number,
            next_token: 0,
            batches: VecDeque::new(),
            report_after: None,
            unsent: VecDeque::new(),
            flight: Vec::new(),
            is_running: false,
            is_in_batch: false,
            is_draining: false,
            fault: None,
            deadline: Nanos(0),
            began_at: Nanos(0),
            pages: Vec::new(),
        }
    }

    /// True when it takes work.
    pub fn is_free(&self) -> bool {
        !self.is_running && !self.is_draining
    }

    /// True while there is work that was not given up.
    pub fn is_running(&self) -> bool {
        self.is_running
    }

    /// Begins work: `batches` in order; says so when the first `report_after` are done.
    pub fn start(&mut self, now: Nanos, batches: Vec<Vec<LabelIo>>, report_after: usize) {
        assert!(self.is_free(), "one work at a time");
        self.began_at = now;
        self.deadline = now + LABEL_TIMEOUT;
        self.batches.extend(batches);
        self.report_after = Some(report_after);
        self.is_running = true;
        self.pages.clear();
    }

    /// More for the work that has just ended, within the same deadline; keeps what was read.
    pub fn go_on(&mut self, batch: Vec<LabelIo>) {
        assert!(self.is_free(), "one work at a time");
        self.batches.push_back(batch);
        self.report_after = None;
        self.is_running = true;
    }

    /// Gives up; what is in flight ends first.
    pub fn give_up(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, child: ChildIndex) {
        if !self.flight.is_empty() {
            io.abort(cx, child);
        }
        self.drop_rest();
    }

    fn drop_rest(&mut self) {
        (self.is_running, self.is_in_batch) = (false, false);
        self.is_draining = !self.flight.is_empty();
        self.batches.clear();
        self.unsent.clear();
        self.fault = None;
    }

    /// Takes a completion of its own; false when it is another lane's.
    pub fn completed(&mut self, cx: &mut Cx, completion: &Completion) -> bool {
        let mine = |flight: &Flight| flight.token == completion.token;
        let Some(place) = self.flight.iter().position(mine) else { return false };
        let Flight { io, buffer, tries, .. } = self.flight.swap_remove(place);
        let is_done = completion.status.is_success();
        if let (true, LabelIo::Read(page), Some(buffer)) = (is_done, &io, &buffer) {
            let mut bytes = Box::new([0; PAGE_BYTES]);
            bytes.copy_from_slice(buffer.bytes(PAGE_BYTES as u32));
            self.pages.push((*page, bytes));
        }
        buffer.into_iter().for_each(|buffer| cx.dma.give(buffer));
        if self.is_draining {
            self.is_draining = !self.flight.is_empty();
        } else if !is_done && tries + 1 < LABEL_TRIES {
            self.unsent.push_back((io, tries + 1));
        } else if !is_done {
            self.fault = Some(FaultReason::IoError);
        }
        true
    }

    /// Goes on.
    pub fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, place: Place) -> Option<Progress> {
        if !self.is_running {
            return None;
        }
        if let Some(fault) = self.fault {
            self.drop_rest();
            return Some(Progress::Failed(fault));
        }
        if cx.now() >= self.deadline {
            self.give_up(cx, io, place.child);
            return Some(Progress::Failed(FaultReason::TimedOut));
        }
        loop {
            if self.is_in_batch && self.unsent.is_empty() && self.flight.is_empty() {
                self.is_in_batch = false;
                self.report_after = self.report_after.map(|left| left.saturating_sub(1));
            }
            if !self.is_in_batch {
                if self.report_after == Some(0) {
                    self.report_after = None;
                    self.is_running = !self.batches.is_empty();
                    return Some(Progress::Reported);
                }
                let Some(batch) = self.batches.pop_front() else {
                    self.is_running = false;
                    return Some(Progress::Ended);
                };
                self.is_in_batch = true;
                self.unsent.extend(batch.into_iter().map(|io| (io, 0)));
            }
            self.submit(cx, io, place);
            if !self.unsent.is_empty() || !self.flight.is_empty() {
                return None;
            }
        }
    }

    fn submit(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, place: Place) {
        while let Some((label_io, tries)) = self.unsent.pop_front() {
            let token = Token(self.number << LANE_SHIFT | self.next_token);
            let Some((request, buffer)) = prepare(cx, &label_io, token, place.block_bytes) else {
                return self.unsent.push_front((label_io, tries));
            };
            if io.submit(cx, place.child, request).is_err() {
                buffer.into_iter().for_each(|buffer| cx.dma.give(buffer));
                return self.unsent.push_front((label_io, tries));
            }
            self.next_token += 1;
            self.flight.push(Flight { token, io: label_io, buffer, tries });
        }
    }

    pub fn wake(&self) -> Wake {
        match self.is_running {
            _ if self.fault.is_some() => Wake::Now,
            true if !self.unsent.is_empty() || self.flight.is_empty() => Wake::Now,
            true => Wake::At(self.deadline),
            false => Wake::Never,
        }
    }
}

/// The I/O for the device; nothing when there is no buffer now.
fn prepare(
    cx: &mut Cx,
    io: &LabelIo,
    token: Token,
    block_bytes: u32,
) -> Option<(Io, Option<DmaBuffer>)> {
    const LEN_BYTES: u32 = PAGE_BYTES as u32;
    let blocks = LEN_BYTES / block_bytes;
    let lba = |offset_bytes: u64| Lba(offset_bytes / u64::from(block_bytes));
    match io {
        LabelIo::Flush => Some((Io::flush(token), None)),
        LabelIo::Read((page, copy)) => {
            let buffer = cx.dma.take(LEN_BYTES)?;
            let segment = buffer.segment(LEN_BYTES);
            Some((Io::read(lba(page.offset_bytes(*copy)), blocks, segment, token), Some(buffer)))
        }
        LabelIo::Write(write) => {
            let buffer = cx.dma.take(LEN_BYTES)?;
            let segment = buffer.segment(LEN_BYTES);
            segment.write(0, &write.bytes[..]);
            let io = Io::write(lba(write.offset_bytes()), blocks, segment, token);
            Some((Io { flags: IoFlags::FUA, ..io }, Some(buffer)))
        }
    }
}
