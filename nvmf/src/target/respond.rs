//! Answers: a request's header, payload and response capsule, put into its slot for `send`.
//!
//! A read's data and its success can leave in one PDU (the SUCCESS flag) when the host ignores
//! submission queue heads and there is nothing else to say. NVMe/TCP Transport 1.0 sections 3.3.2,
//! 3.6.2.7 and 3.6.2.9.

use bdev::nvme::completion::CompletionEntry;
use bdev::{Completion, Status};

use super::admin::ErrorReport;
use super::connection::{Connection, SendItem};
use super::receive::Step;
use super::request::{Action, Payload, Request, RequestState, Transfer};
use super::send::ZEROES;
use crate::pdu::{
    C2hData, DataRange, Flags, Framing, HEADER_SLOT_BYTES, ResponseCapsule, crc32c, write_header,
};

/// SQ head in the completions of a queue without flow control (NVMe over Fabrics 2.4.1).
const NO_QUEUE_HEAD: u16 = 0xffff;

impl Connection {
    /// A device has completed the I/O of a slot.
    pub(super) fn device_completed(&mut self, step: &mut Step<'_>, slot: u16, end: Completion) {
        self.at_device -= 1;
        let state = self.requests[usize::from(slot)].state;
        assert_eq!(state, RequestState::InDevice, "a device completes what it was given");
        if !self.is_open() {
            // Nobody is answered any more: nothing may follow a termination request.
            return self.release(slot, &mut step.cx.dma);
        }
        if !end.status.is_success() {
            return self.io_failed(step, slot, end);
        }
        let request = &mut self.requests[usize::from(slot)];
        match (request.plan.action, request.plan.transfer) {
            (Action::Deallocate { root, ranges }, _) => self.deallocate(step, slot, root, ranges),
            (Action::Verify { io, block_bytes, .. }, _) => {
                self.verify(step, slot, io, block_bytes);
            }
            (Action::Copy(copy), _) => self.copy(step, slot, copy),
            (Action::FusedCompare(_), _) => self.pair_completed(step, slot, end),
            (_, Transfer::ToHost(len_bytes)) => {
                request.payload = if end.zeroes {
                    Payload::Zeroes(len_bytes)
                } else {
                    Payload::Buffer(len_bytes)
                };
                self.complete_read(step, slot, 0);
            }
            _ => self.complete(step, slot, Status::SUCCESS, 0),
        }
    }

    /// An I/O of a slot has failed, or could not begin.
    pub(super) fn io_failed(&mut self, step: &mut Step<'_>, slot: u16, end: Completion) {
        match self.requests[usize::from(slot)].plan.action {
            Action::FusedCompare(_) => self.pair_completed(step, slot, end),
            _ => self.fail(step, slot, end.status),
        }
    }

    /// Answers with an error.
    pub(super) fn fail(&mut self, step: &mut Step<'_>, slot: u16, status: Status) {
        self.complete(step, slot, status, 0);
    }

    /// Answers without data.
    pub(super) fn complete(&mut self, step: &mut Step<'_>, slot: u16, status: Status, result: u64) {
        let request = &mut self.requests[usize::from(slot)];
        request.head_bytes = 0;
        request.payload = Payload::None;
        request.tail_bytes = 0;
        append_response(request, &mut self.queue, self.framing, status, result);
        if !status.is_success() {
            self.report_error(step, slot, status);
        }
        self.answer(step, slot);
    }

    /// Answers with the data that the slot's payload names.
    pub(super) fn complete_read(&mut self, step: &mut Step<'_>, slot: u16, result: u64) {
        let request = &mut self.requests[usize::from(slot)];
        let (data, len_bytes): (&[u8], u32) = match (&request.payload, &request.buffer) {
            (Payload::Zeroes(len_bytes), _) => (&ZEROES[..*len_bytes as usize], *len_bytes),
            (Payload::Buffer(len_bytes), Some(buffer)) => (buffer.bytes(*len_bytes), *len_bytes),
            _ => unreachable!("a read has a payload"),
        };
        let flow_control = self.queue.as_ref().is_none_or(|queue| queue.flow_control);
        let is_io = self.admin.is_none();
        let in_data = is_io && !flow_control && result == 0;
        let flags = if in_data { Flags::LAST.with(Flags::SUCCESS) } else { Flags::LAST };
        let range = DataRange { offset: 0, length: len_bytes };
        let command_id = request.command.command_id.get();
        let header = C2hData::new(command_id, range, flags, self.framing);
        request.tail_bytes = 0;
        if self.framing.digests.data {
            let digest = crc32c(data).to_le_bytes();
            request.tail[..digest.len()].copy_from_slice(&digest);
            request.tail_bytes = 4;
        }
        let written = write_header(&header, &mut request.head);
        request.head_bytes = u8::try_from(written).expect("a header is at most 128 bytes");
        if !in_data {
            append_response(request, &mut self.queue, self.framing, Status::SUCCESS, result);
        }
        self.answer(step, slot);
    }

    /// Tells the controller of an error, for its log.
    #[cold]
    fn report_error(&mut self, step: &mut Step<'_>, slot: u16, status: Status) {
        let Some(queue) = &self.queue else { return };
        let command = &self.requests[usize::from(slot)].command;
        let Some(report) = ErrorReport::of(queue.id, command, status) else { return };
        match self.admin.as_mut() {
            Some(admin) => admin.note_error(&report),
            None => step.core.report_error(queue.admin, queue.controller, report),
        }
    }

    fn answer(&mut self, step: &mut Step<'_>, slot: u16) {
        let now = step.cx.now();
        let request = &mut self.requests[usize::from(slot)];
        request.state = RequestState::Sending;
        if let Action::Io(_) | Action::FusedWrite(_) = request.plan.action {
            let bytes = match request.plan.transfer {
                Transfer::None => 0,
                Transfer::ToHost(bytes) | Transfer::FromHost(bytes) => u64::from(bytes),
            };
            step.cx.counters.ios += 1;
            step.cx.counters.io_bytes += bytes;
            if step.core.answers.add(request.started) {
                step.cx.counters.io_ns += step.core.answers.sent(now);
            }
        }
        self.enqueue(SendItem::Answer(slot), now);
        step.core.mark_send(self, step.id);
    }
}

/// Appends a response capsule to the slot's tail.
fn append_response(
    request: &mut Request,
    queue: &mut Option<super::connection::Queue>,
    framing: Framing,
    status: Status,
    result: u64,
) {
    let (head, id) = match queue {
        Some(queue) if queue.flow_control => {
            queue.head = (queue.head + 1) % queue.entries;
            (queue.head, queue.id)
        }
        Some(queue) => (NO_QUEUE_HEAD, queue.id),
        None => (0, 0),
    };
    let command_id = request.command.command_id.get();
    let mut completion = CompletionEntry::new(command_id, head, status).with_result_wide(result);
    completion.queue_id.set(id);
    let capsule = ResponseCapsule::new(completion, framing);
    let mut bytes = [0; HEADER_SLOT_BYTES];
    let written = write_header(&capsule, &mut bytes);
    let at = usize::from(request.tail_bytes);
    request.tail[at..at + written].copy_from_slice(&bytes[..written]);
    request.tail_bytes = u8::try_from(at + written).expect("a tail is at most 32 bytes");
}
