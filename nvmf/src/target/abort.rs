//! Abort of a command that waits: for a buffer, for its turn to ask for data, for the other half of
//! its pair, or for a credit of the device.
//!
//! Abort is best effort (NVMe Base 2.0 section 5.1): a command whose R2T has left is not aborted,
//! since its data will come, and one that the device has ends with the device. An Abort begins on
//! the core of the admin queue; the home core knows where the queue that it names is, and the
//! command ends on that core. The aborted command is answered first, as the section wants.

use bdev::nvme::opcode::AdminOpcode;
use bdev::{Status, Token};

use super::admin::ControllerState;
use super::connection::{self, Connection, SendItem};
use super::fused::Pairing;
use super::limits::ABORTS_MAX;
use super::message::{AbortOutcome, AbortQuestion, ConnectionId, Message, RequestId};
use super::receive::Step;
use super::request::RequestState;
use crate::fabrics::connect::ADMIN_QUEUE_ID;

impl Connection {
    /// Begins an Abort of what waits on a queue; false when the slot has none, or it is for the
    /// controller to answer.
    pub(super) fn begin_abort(&mut self, step: &mut Step<'_>, slot: u16) -> bool {
        let command = &self.requests[usize::from(slot)].command;
        let (queue_id, command_id) = command.abort();
        let is_ready = self.admin.as_ref().is_some_and(|one| one.state() == ControllerState::Ready);
        if command.opcode != AdminOpcode::Abort.value() || !is_ready {
            return false;
        }
        if queue_id == ADMIN_QUEUE_ID {
            let is_aborted = self.abort_waiting(step, command_id);
            if is_aborted {
                self.complete(step, slot, Status::SUCCESS, AbortOutcome::Aborted as u64);
            }
            return is_aborted;
        }
        if self.aborts_under_way() >= usize::from(ABORTS_MAX) {
            self.fail(step, slot, Status::ABORT_LIMIT_EXCEEDED);
            return true;
        }
        let controller = self.queue.as_ref().expect("a controller has its admin queue").controller;
        let request = &mut self.requests[usize::from(slot)];
        request.state = RequestState::Asking;
        let request = RequestId { slot, generation: request.generation };
        let connection = ConnectionId { core: step.core.own(), slot: step.id };
        let question = AbortQuestion { connection, request, controller, queue_id, command_id };
        step.core.tell_home(Message::Abort(question));
        true
    }

    /// The Aborts that other cores are asked about.
    fn aborts_under_way(&self) -> usize {
        let is_one = |one: &&super::request::Request| {
            one.state == RequestState::Asking && one.command.opcode == AdminOpcode::Abort.value()
        };
        self.requests.iter().filter(is_one).count()
    }

    /// An Abort of a command of this queue, from wherever its admin queue is.
    pub(super) fn abort_asked(
        &mut self,
        step: &mut Step<'_>,
        question: &AbortQuestion,
    ) -> AbortOutcome {
        // Slots of connections and numbers of queues are used again.
        let is_it = self.queue.as_ref().is_some_and(|queue| {
            queue.controller == question.controller && queue.id == question.queue_id
        });
        if is_it && self.abort_waiting(step, question.command_id) {
            AbortOutcome::Aborted
        } else {
            AbortOutcome::NotAborted
        }
    }

    /// How an Abort of this admin queue ends.
    pub(super) fn abort_ended(
        &mut self,
        step: &mut Step<'_>,
        request: RequestId,
        outcome: AbortOutcome,
    ) {
        if self.is_asking(request) {
            self.complete(step, request.slot, Status::SUCCESS, outcome as u64);
        }
    }

    /// Ends a command of this queue that waits, with "Command Abort Requested". False when there is
    /// none of that identifier, or it waits for nothing that can be taken back.
    pub(super) fn abort_waiting(&mut self, step: &mut Step<'_>, command_id: u16) -> bool {
        let found = self.requests.iter().position(|request| {
            request.state != RequestState::Free
                && request.owns_command_id
                && request.command.command_id.get() == command_id
        });
        let Some(slot) = found else { return false };
        let slot = u16::try_from(slot).expect("a queue has at most 65535 slots");
        let (state, partner) = {
            let request = &self.requests[usize::from(slot)];
            (request.state, request.partner)
        };
        if !self.is_open() || partner.is_some() {
            // Halves that have met are one I/O.
            return false;
        }
        match state {
            RequestState::WaitingForBuffer => self.waiting.retain(|waiting| *waiting != slot),
            RequestState::WaitingForData if self.take_back_request(slot) => self.transfers_due -= 1,
            RequestState::Paired => {}
            RequestState::InDevice if self.take_back_io(step, slot) => self.at_device -= 1,
            _ => return false,
        }
        if self.pairing == Pairing::First(slot) {
            self.pairing = Pairing::Failed;
        }
        self.ungrant(step, slot);
        self.fail(step, slot, Status::ABORT_REQUESTED);
        true
    }

    /// Takes the I/O of a slot back that waits for a credit of its device. Of a command of several
    /// I/Os the earlier ones stay done.
    fn take_back_io(&self, step: &mut Step<'_>, slot: u16) -> bool {
        let request = &self.requests[usize::from(slot)];
        let Some(root) = request.plan.action.root() else { return false };
        let token: Token = connection::token(step.id, slot, request.generation);
        if step.core.roots.withdraw(root, |io| io.token == token).is_empty() {
            return false;
        }
        if step.core.rights.fences.is_open() {
            step.core.rights.fences.completed(token);
        }
        true
    }

    /// Takes the R2T of a slot out of the send queue, if none of it has left.
    fn take_back_request(&mut self, slot: u16) -> bool {
        let item = SendItem::ReadyToTransfer(slot);
        let Some(place) = self.send_queue.iter().position(|one| *one == item) else {
            return false;
        };
        if place == 0 && self.sent_bytes > 0 {
            return false;
        }
        self.send_queue.remove(place).is_some()
    }
}

#[cfg(test)]
mod tests {
    use bdev::nvme::command::SubmissionEntry;
    use bdev::nvme::sgl::SglDescriptor;
    use reactor::dma::DmaBuffer;
    use reactor::dma::pool::CLASS_BYTES;
    use reactor::slab::SlotId;
    use reactor::socket::memory::MemoryLimits;

    use super::*;
    use crate::pdu::{Digests, PduKind};
    use crate::target::harness::Harness;
    use crate::target::tests::{connected, io};

    fn block(len_bytes: u32) -> SglDescriptor {
        SglDescriptor::transport_data_block(len_bytes)
    }

    fn abort(queue_id: u16, command_id: u16) -> SubmissionEntry {
        let mut command = SubmissionEntry::new(0x08, 90, 0).with_sgl(block(0));
        command.cdw10.set(u32::from(command_id) << 16 | u32::from(queue_id));
        command
    }

    fn take_all(harness: &mut Harness) -> Vec<DmaBuffer> {
        let mut taken = Vec::new();
        for class_bytes in CLASS_BYTES.into_iter().rev() {
            while let Some(buffer) = harness.cx.dma.take(class_bytes) {
                taken.push(buffer);
            }
        }
        taken
    }

    fn give_all(harness: &mut Harness, buffers: Vec<DmaBuffer>) {
        for buffer in buffers {
            harness.cx.dma.give(buffer);
        }
    }

    /// The connection of the I/O queue: the second.
    fn abort_io(harness: &mut Harness, command_id: u16) -> bool {
        let id: SlotId = harness.core.connections.iter().nth(1).unwrap().0;
        let Harness { core, cx, .. } = harness;
        core.with(cx, id, |one, step, _| one.abort_waiting(step, command_id)).unwrap()
    }

    #[test]
    fn a_command_of_the_admin_queue_that_waits_for_a_buffer_is_aborted() {
        let (mut harness, mut admin, _queue) =
            connected(MemoryLimits::default(), Digests::default());
        let buffers = take_all(&mut harness);
        admin.command(&mut harness, SubmissionEntry::new(0x06, 5, 1).with_sgl(block(4096)), &[]);
        admin.command(&mut harness, abort(0, 6), &[]);
        let done = admin.completion(&mut harness);
        assert_eq!((done.command_id.get(), done.result()), (90, 1), "there is none of that name");
        admin.command(&mut harness, abort(0, 90), &[]);
        assert_eq!(admin.completion(&mut harness).result(), 1, "nor does it abort itself");
        admin.command(&mut harness, abort(0, 5), &[]);
        let aborted = admin.completion(&mut harness);
        assert_eq!((aborted.command_id.get(), aborted.status()), (5, Status::ABORT_REQUESTED));
        let done = admin.completion(&mut harness);
        assert_eq!((done.command_id.get(), done.result()), (90, 0));
        give_all(&mut harness, buffers);
        admin.command(&mut harness, SubmissionEntry::new(0x06, 5, 1).with_sgl(block(4096)), &[]);
        assert_eq!(admin.receive(&mut harness).parts.kind, PduKind::C2hData);
        assert!(admin.completion(&mut harness).status().is_success());
        assert_eq!(harness.cx.dma.taken(), 0);
    }

    #[test]
    fn an_io_command_is_aborted_while_it_waits_and_not_once_its_data_was_asked_for() {
        let (mut harness, _admin, mut queue) =
            connected(MemoryLimits::default(), Digests::default());
        let buffers = take_all(&mut harness);
        for (id, opcode) in [(1, 1), (2, 2), (3, 1)] {
            queue.command(&mut harness, io(opcode, id, 0, 8, block(4096)), &[]);
        }
        harness.pump();
        assert!(!abort_io(&mut harness, 9));
        for id in [2, 1] {
            assert!(abort_io(&mut harness, id));
            assert!(!abort_io(&mut harness, id), "once");
            let done = queue.completion(&mut harness);
            assert_eq!((done.command_id.get(), done.status()), (id, Status::ABORT_REQUESTED));
        }
        give_all(&mut harness, buffers);
        let ask = queue.receive(&mut harness);
        assert_eq!(ask.parts.kind, PduKind::ReadyToTransfer);
        assert!(!abort_io(&mut harness, 3));
        let ask = zerocopy::FromBytes::read_from_prefix(&ask.bytes).unwrap().0;
        queue.give_data(&mut harness, &ask, &[1; 4096], 4096);
        assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
        assert_eq!(harness.cx.dma.taken(), 0);
    }

    #[test]
    fn an_r2t_that_has_not_left_is_taken_back() {
        let (mut harness, _admin, mut queue) = connected(
            MemoryLimits { stream_bytes: 4096, ..MemoryLimits::default() },
            Digests::default(),
        );
        // A read fills the stream, from which the host takes nothing; the R2T is behind it.
        queue.command(&mut harness, io(2, 1, 0, 256, block(131_072)), &[]);
        harness.pump();
        queue.command(&mut harness, io(1, 2, 0, 8, block(4096)), &[]);
        harness.pump();
        assert!(abort_io(&mut harness, 2));
        assert_eq!(queue.receive(&mut harness).parts.kind, PduKind::C2hData);
        assert_eq!(queue.completion(&mut harness).command_id.get(), 1);
        let done = queue.completion(&mut harness);
        assert_eq!((done.command_id.get(), done.status()), (2, Status::ABORT_REQUESTED));
        queue.command(&mut harness, io(1, 2, 0, 8, block(4096)), &[]);
        assert_eq!(queue.receive(&mut harness).parts.kind, PduKind::ReadyToTransfer);
        assert!(!abort_io(&mut harness, 2));
    }

    #[test]
    fn a_first_half_is_aborted_alone_and_its_second_fails() {
        let (mut harness, _admin, mut queue) =
            connected(MemoryLimits::default(), Digests::default());
        let sgl = SglDescriptor::in_capsule(0, 512);
        let mut first = io(5, 1, 0, 1, sgl);
        first.flags |= 1;
        let mut second = io(1, 2, 0, 1, sgl);
        second.flags |= 2;
        queue.command(&mut harness, first, &[0; 512]);
        harness.pump();
        assert!(abort_io(&mut harness, 1));
        queue.command(&mut harness, second, &[7; 512]);
        let ends = [queue.completion(&mut harness), queue.completion(&mut harness)];
        let ends = ends.map(|end| (end.command_id.get(), end.status()));
        assert_eq!(ends, [(1, Status::ABORT_REQUESTED), (2, Status::ABORTED_FAILED_FUSED)]);
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}
