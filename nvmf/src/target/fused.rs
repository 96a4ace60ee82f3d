//! Fused compare and write: two commands, next to each other on a queue, that are one I/O.
//!
//! Called by the connection as capsules and data come. The first half takes a buffer for the data
//! of both, so that a second half never waits for memory that a first half holds; the device gets
//! one compare-and-write, on the token of the first half, once both have their data. NVMe Base 2.0
//! section 3.4.2 (fused operations) and 3.3.3.1 (FUSE), NVM Command Set 1.0 section 2.1.1.
//!
//! Who gets which status: the half with a fault of its own gets it, and the other "Aborted due to
//! Failed Fused Command"; a half whose neighbour is no half gets "Aborted due to Missing Fused
//! Command"; halves of different ranges both get Invalid Field. An error of the device that is not
//! a miscompare goes to both: nobody knows then which half it met, so neither may look undone.

use bdev::nvme::command::{Fuse, SubmissionEntry};
use bdev::{Completion, Memory, Operation, Status};

use super::connection::Connection;
use super::receive::Step;
use super::request::{Action, Plan, PlannedIo, RequestState, Transfer};

/// What the next command of a queue may be the second half of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairing {
    /// Of nothing.
    Nothing,
    /// Of the command in this slot.
    First(u16),
    /// Of a first half that has failed.
    Failed,
}

impl Connection {
    /// What becomes of a command's plan by its place in the queue; of the state nothing changes.
    #[inline]
    pub(super) fn as_half(&self, plan: Plan, command: &SubmissionEntry) -> Plan {
        if command.fuse() != Fuse::Second || !self.is_io_queue() {
            return plan;
        }
        let status = match (self.pairing, plan.action) {
            (Pairing::Nothing, _) => Status::ABORTED_MISSING_FUSED,
            (Pairing::Failed, _) => Status::ABORTED_FAILED_FUSED,
            (Pairing::First(first), Action::FusedWrite(write)) => {
                if self.is_range_of(first, write) {
                    return plan;
                }
                Status::INVALID_FIELD.with_do_not_retry()
            }
            (Pairing::First(_), _) => return plan,
        };
        Plan::fail(status)
    }

    fn is_io_queue(&self) -> bool {
        self.queue.is_some() && self.admin.is_none()
    }

    fn is_range_of(&self, first: u16, write: PlannedIo) -> bool {
        let Action::FusedCompare(compare) = self.requests[usize::from(first)].plan.action else {
            return false;
        };
        (compare.root, compare.lba, compare.blocks) == (write.root, write.lba, write.blocks)
    }

    /// True when the data of a second half, which comes now, has its place.
    pub(super) fn first_half_has_buffer(&self) -> bool {
        match self.pairing {
            Pairing::First(first) => self.requests[usize::from(first)].buffer.is_some(),
            _ => true,
        }
    }

    /// A command was taken into a slot: it is half of a pair, or parts what was one.
    #[inline]
    pub(super) fn join_halves(&mut self, step: &mut Step<'_>, slot: u16) {
        let fuse = self.requests[usize::from(slot)].command.fuse();
        if (fuse != Fuse::Normal || self.pairing != Pairing::Nothing) && self.is_io_queue() {
            self.join(step, slot, fuse);
        }
    }

    #[cold]
    fn join(&mut self, step: &mut Step<'_>, slot: u16, fuse: Fuse) {
        let before = std::mem::replace(&mut self.pairing, Pairing::Nothing);
        let action = self.requests[usize::from(slot)].plan.action;
        if let Pairing::First(first) = before {
            match (fuse, action) {
                (Fuse::Second, Action::FusedWrite(_)) => self.pair(step, first, slot),
                (Fuse::Second, Action::Fail(status)) => {
                    // Ranges that differ are the fault of both.
                    let is_common = status.has_code(Status::INVALID_FIELD);
                    let failed = Status::ABORTED_FAILED_FUSED;
                    self.end_first(step, first, if is_common { status } else { failed });
                }
                _ => self.end_first(step, first, Status::ABORTED_MISSING_FUSED),
            }
        }
        if fuse == Fuse::First {
            self.pairing = match action {
                Action::FusedCompare(_) => Pairing::First(slot),
                _ => Pairing::Failed,
            };
        }
    }

    /// Two halves have met.
    fn pair(&mut self, step: &mut Step<'_>, first: u16, second: u16) {
        let command = &self.requests[usize::from(second)].command;
        let by_transport = self.requests[usize::from(first)].buffer.is_some()
            && self.requests[usize::from(first)].granted_bytes == 0
            && !is_in_capsule(command);
        if by_transport {
            // The first half's data came in its capsule, so its buffer was not granted; now it is
            // to wait for an R2T. If no more may do so, waiting for that could block the stream.
            if !self.has_grant(step) {
                self.requests[usize::from(second)].plan = Plan::fail(Status::COMMAND_INTERRUPTED);
                return self.end_first(step, first, Status::ABORTED_FAILED_FUSED);
            }
            self.grant(step, first);
        }
        self.requests[usize::from(first)].partner = Some(second);
        self.requests[usize::from(second)].partner = Some(first);
    }

    /// Ends a first half that has no second: now, or once the data has come that it asked for.
    fn end_first(&mut self, step: &mut Step<'_>, slot: u16, status: Status) {
        let request = &mut self.requests[usize::from(slot)];
        match request.state {
            RequestState::WaitingForBuffer => {
                self.waiting.retain(|waiting| *waiting != slot);
                self.fail(step, slot, status);
            }
            RequestState::Paired => {
                self.ungrant(step, slot);
                self.fail(step, slot, status);
            }
            _ => {
                request.verdict = request.verdict.or(Some(status));
                // It is no half any more: its data ends it.
                request.plan.action = Action::Fail(status);
            }
        }
    }

    /// All data of a half is there.
    #[cold]
    pub(super) fn half_is_ready(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        request.state = RequestState::Paired;
        let Some(partner) = request.partner else {
            if let Some(status) = request.verdict {
                self.pairing = Pairing::Failed;
                self.ungrant(step, slot);
                self.fail(step, slot, status);
            }
            return;
        };
        if self.requests[usize::from(partner)].state != RequestState::Paired {
            return;
        }
        let is_first =
            matches!(self.requests[usize::from(slot)].plan.action, Action::FusedCompare(_));
        let (first, second) = if is_first { (slot, partner) } else { (partner, slot) };
        self.ungrant(step, first);
        let verdict = |slot: u16| self.requests[usize::from(slot)].verdict;
        match (verdict(first), verdict(second)) {
            (None, None) => self.compare_and_write(step, first, second),
            (Some(status), _) => self.end_pair(step, first, status, Status::ABORTED_FAILED_FUSED),
            (None, Some(status)) => {
                self.end_pair(step, first, Status::ABORTED_FAILED_FUSED, status);
            }
        }
    }

    fn compare_and_write(&mut self, step: &mut Step<'_>, first: u16, second: u16) {
        let request = &self.requests[usize::from(second)];
        let (Action::FusedWrite(write), Transfer::FromHost(len_bytes)) =
            (request.plan.action, request.plan.transfer)
        else {
            unreachable!("the second half is a write");
        };
        let buffer = self.requests[usize::from(first)].buffer.as_ref();
        let buffer = buffer.expect("the first half has the data of both");
        let memory = Memory::One(buffer.segment(2 * len_bytes));
        let io = PlannedIo { operation: Operation::CompareAndWrite, ..write };
        self.submit_io(step, first, io, memory);
    }

    /// The device has done, or refused, a pair.
    #[cold]
    pub(super) fn pair_completed(&mut self, step: &mut Step<'_>, first: u16, end: Completion) {
        let (compare, write) = match end.status {
            status if status.is_success() => (status, status),
            status
                if status.has_code(Status::COMPARE_FAILURE)
                    || status.has_code(Status::ATOMIC_WRITE_UNIT_EXCEEDED) =>
            {
                (status, Status::ABORTED_FAILED_FUSED)
            }
            // The device has no such operation: FUSE is a field that is not supported for it.
            status if status.has_code(Status::INVALID_OPCODE) => {
                let status = Status::INVALID_FIELD.with_do_not_retry();
                (status, status)
            }
            status => (status, status),
        };
        self.end_pair(step, first, compare, write);
    }

    fn end_pair(&mut self, step: &mut Step<'_>, first: u16, compare: Status, write: Status) {
        let second = self.requests[usize::from(first)].partner.expect("a pair has two halves");
        self.complete(step, first, compare, 0);
        self.complete(step, second, write, 0);
    }
}

fn is_in_capsule(command: &SubmissionEntry) -> bool {
    matches!(command.sgl().decode(), bdev::nvme::sgl::Sgl::InCapsule { .. })
}
