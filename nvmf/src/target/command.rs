//! A command capsule: planned when its header arrives, executed when its data is there.
//!
//! The order is that of the specification: opcode, namespace and fields first (the plan), then
//! the data pointer, then memory, then data. NVMe/TCP Transport 1.0 section 3.3.2 and 3.6.2.6;
//! NVMe over Fabrics section 2 for the SGL descriptors allowed.

use std::sync::Arc;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::Sgl;
use bdev::{Io, Memory, Operation, Status};
use reactor::dma::DmaBuffer;
use reactor::slab::SlotId;
use zerocopy::FromBytes;

use super::admin::{self, ConnectRequest, Refusal, RequestedController};
use super::connection::{self, BUFFER_SHARE, Connection, GRANT_SHARE, Queue, SendItem};
use super::description::SubsystemId;
use super::io_command::{self, NamespaceView, RANGE_BYTES};
use super::message::{ConnectQuestion, ConnectionId, Message, QueueKind};
use super::receive::{Step, Taken};
use super::request::{Action, Plan, PlannedIo, RequestState, Transfer};
use crate::fabrics::connect::{
    CONNECT_DATA_BYTES, CONNECT_RECORD_FORMAT, CONNECT_TYPE, FABRICS_OPCODE,
};
use crate::pdu::{
    CommandCapsule, DataRange, FatalErrorStatus, PduHeader, ReadyToTransfer, TermReason,
    write_header,
};
use bdev::nvme::opcode::FabricsType;

impl Connection {
    /// Takes a command capsule, or leaves it where it is when its data has no place.
    pub(super) fn take_capsule(
        &mut self,
        step: &mut Step<'_>,
        header: &[u8],
        parts: &PduHeader,
    ) -> Taken {
        let Ok((capsule, _)) = CommandCapsule::read_from_prefix(header) else {
            unreachable!("the framer waits for the whole header of a capsule");
        };
        let command = capsule.command;
        let plan = self.plan(step, &command);
        let plan = with_data_pointer(plan, &command, parts.data_bytes);
        let Some(slot) = self.free.last().copied() else {
            // More commands than the queue has entries (NVMe over Fabrics 2.4).
            self.end(step, header, TermReason::new(FatalErrorStatus::SequenceError, 0));
            return Taken::Yes;
        };
        let in_capsule = match plan.transfer {
            Transfer::FromHost(len_bytes) if parts.data_bytes > 0 => {
                let Some(buffer) = self.take_buffer(step, len_bytes) else {
                    return Taken::NoBuffer;
                };
                Some(buffer)
            }
            _ => None,
        };
        self.free.pop();
        let now = step.cx.now();
        let is_free = self.command_ids.take(command.command_id.get());
        let request = &mut self.requests[usize::from(slot)];
        request.begin(command, plan, now);
        if !is_free {
            return self.refuse_command_id(step, slot, in_capsule, parts);
        }
        if let Some(buffer) = in_capsule {
            request.buffer = Some(buffer);
            request.state = RequestState::ReceivingCapsuleData;
            self.begin_data(slot, parts);
            return Taken::Yes;
        }
        self.discard_data(parts);
        match plan.transfer {
            Transfer::None => self.execute(step, slot),
            Transfer::ToHost(_) | Transfer::FromHost(_) => self.need_buffer(step, slot),
        }
        Taken::Yes
    }

    /// Answers a command whose identifier belongs to another that is under way.
    #[cold]
    fn refuse_command_id(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        buffer: Option<DmaBuffer>,
        parts: &PduHeader,
    ) -> Taken {
        let request = &mut self.requests[usize::from(slot)];
        request.owns_command_id = false;
        request.plan = Plan::fail(Status::COMMAND_ID_CONFLICT.with_do_not_retry());
        request.buffer = buffer;
        step.cx.counters.protocol_errors += 1;
        self.discard_data(parts);
        self.execute(step, slot);
        Taken::Yes
    }

    /// Decides what a command needs.
    fn plan(&self, step: &Step<'_>, command: &SubmissionEntry) -> Plan {
        let fabrics = command.opcode == FABRICS_OPCODE;
        let Some(queue) = &self.queue else {
            // Nothing but Connect may come before Connect (NVMe over Fabrics 3.3).
            return if fabrics && command.fabrics_type() == CONNECT_TYPE {
                let transfer = Transfer::FromHost(CONNECT_DATA_BYTES as u32);
                Plan { action: Action::Connect, transfer }
            } else {
                Plan::fail(Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry())
            };
        };
        if fabrics && command.fabrics_type() == CONNECT_TYPE {
            return Plan::fail(Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry());
        }
        if self.admin.is_some() {
            let id = queue.controller.subsystem;
            let Some(subsystem) = step.core.description.subsystems.get(&id) else {
                return Plan::fail(Status::INTERNAL_ERROR);
            };
            return match admin::transfer_of(command, subsystem.limits()) {
                Ok(transfer) => Plan { action: Action::Admin, transfer: transfer.into() },
                Err(status) => Plan::fail(status.with_do_not_retry()),
            };
        }
        if let Err(status) = admin::check_flags(command) {
            return Plan::fail(status.with_do_not_retry());
        }
        if fabrics {
            return plan_disconnect(command);
        }
        let namespace = command.namespace_id.get().wrapping_sub(1) as usize;
        let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
        let Some(path) = queue.namespaces.get(namespace).copied().flatten() else {
            return Plan::fail(gone);
        };
        if let Some(refusal) = path.refusal {
            return Plan::fail(refusal);
        }
        let Some(at) = step.core.roots.get(path.root) else { return Plan::fail(gone) };
        let view =
            NamespaceView { root: path.root, geometry: at.geometry, read_only: at.read_only };
        io_command::plan(command, &view, queue.transfer_bytes_max)
    }

    /// A buffer, within what one connection may hold.
    fn take_buffer(&mut self, step: &mut Step<'_>, len_bytes: u32) -> Option<DmaBuffer> {
        if self.held_bytes > step.cx.dma.len_bytes() / BUFFER_SHARE {
            return None;
        }
        let buffer = step.cx.dma.take(len_bytes)?;
        self.held_bytes += buffer.len_bytes() as usize;
        Some(buffer)
    }

    /// A buffer for a transfer outside the capsule; one to the controller needs a grant as well.
    fn take_transfer_buffer(
        &mut self,
        step: &mut Step<'_>,
        transfer: Transfer,
    ) -> Option<DmaBuffer> {
        match transfer {
            Transfer::None => unreachable!("only a command with data waits for a buffer"),
            Transfer::ToHost(len_bytes) => self.take_buffer(step, len_bytes),
            Transfer::FromHost(len_bytes) => {
                let pool_bytes = step.cx.dma.len_bytes();
                let own_bytes_max = pool_bytes / BUFFER_SHARE / GRANT_SHARE;
                let all_bytes_max = pool_bytes / GRANT_SHARE;
                if self.granted_bytes >= own_bytes_max || step.core.granted_bytes >= all_bytes_max {
                    return None;
                }
                let buffer = self.take_buffer(step, len_bytes)?;
                let bytes = buffer.len_bytes() as usize;
                self.granted_bytes += bytes;
                step.core.granted_bytes += bytes;
                Some(buffer)
            }
        }
    }

    /// Goes on with a slot that needs a buffer, now or when there is one.
    fn need_buffer(&mut self, step: &mut Step<'_>, slot: u16) {
        let transfer = self.requests[usize::from(slot)].plan.transfer;
        if self.waiting.is_empty()
            && let Some(buffer) = self.take_transfer_buffer(step, transfer)
        {
            self.with_buffer(step, slot, buffer);
            return;
        }
        self.requests[usize::from(slot)].state = RequestState::WaitingForBuffer;
        self.waiting.push_back(slot);
        step.core.mark_starved(self, step.id);
    }

    /// Tries again for the slots that wait for a buffer; returns how many got one.
    pub(super) fn retry_waiting(&mut self, step: &mut Step<'_>) -> usize {
        let mut served = 0;
        while let Some(slot) = self.waiting.front().copied() {
            let transfer = self.requests[usize::from(slot)].plan.transfer;
            let Some(buffer) = self.take_transfer_buffer(step, transfer) else {
                step.core.mark_starved(self, step.id);
                break;
            };
            self.waiting.pop_front();
            self.with_buffer(step, slot, buffer);
            served += 1;
        }
        served
    }

    fn with_buffer(&mut self, step: &mut Step<'_>, slot: u16, buffer: DmaBuffer) {
        let request = &mut self.requests[usize::from(slot)];
        request.buffer = Some(buffer);
        match request.plan.transfer {
            Transfer::FromHost(len_bytes) => {
                request.state = RequestState::WaitingForData;
                self.transfers_due += 1;
                let range = DataRange { offset: 0, length: len_bytes };
                let command_id = request.command.command_id.get();
                let header = ReadyToTransfer::new(command_id, slot, range, self.framing);
                let written = write_header(&header, &mut request.head);
                request.head_bytes = u8::try_from(written).expect("a header is below 129 bytes");
                self.enqueue(SendItem::ReadyToTransfer(slot), step.cx.now());
                step.core.mark_send(self, step.id);
            }
            _ => self.execute(step, slot),
        }
    }

    /// Does what the plan says; its data, or the room for it, is there.
    pub(super) fn execute(&mut self, step: &mut Step<'_>, slot: u16) {
        match self.requests[usize::from(slot)].plan.action {
            Action::Fail(status) => {
                if self.queue.is_none() {
                    step.cx.counters.protocol_errors += 1;
                }
                self.fail(step, slot, status);
            }
            Action::Io(io) => self.submit(step, slot, io),
            Action::Deallocate { root, ranges } => self.deallocate(step, slot, root, ranges),
            Action::Admin => self.begin_admin(step, slot),
            Action::Connect => self.execute_connect(step, slot),
            Action::Disconnect => {
                if let Some(Queue { controller, id: queue_id, .. }) = self.queue {
                    step.core.tell_home_first(Message::QueueClosing { controller, queue_id });
                }
                self.complete(step, slot, Status::SUCCESS, 0);
                self.finish(step.cx.now());
            }
        }
    }

    fn submit(&mut self, step: &mut Step<'_>, slot: u16, io: PlannedIo) {
        let request = &mut self.requests[usize::from(slot)];
        request.state = RequestState::InDevice;
        let memory = match (&request.buffer, request.plan.transfer) {
            (Some(buffer), Transfer::ToHost(bytes) | Transfer::FromHost(bytes)) => {
                Memory::One(buffer.segment(bytes))
            }
            _ => Memory::None,
        };
        let token = connection::token(step.id, slot, request.generation);
        let PlannedIo { root, operation, flags, lba, blocks } = io;
        self.submit_to(step, slot, root, Io { operation, flags, blocks, lba, token, memory });
    }

    /// Gives an I/O of a slot to a namespace, which may be gone since it was planned.
    fn submit_to(&mut self, step: &mut Step<'_>, slot: u16, root: SlotId, io: Io) {
        match step.core.roots.submit(step.cx, root, io) {
            Ok(()) => self.at_device += 1,
            Err(_) => {
                let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
                self.fail(step, slot, gone);
            }
        }
    }

    /// Unmaps the next range of a dataset management command, or answers it after the last.
    pub(super) fn deallocate(&mut self, step: &mut Step<'_>, slot: u16, root: SlotId, ranges: u16) {
        let Some(geometry) = step.core.roots.get(root).map(|at| at.geometry) else {
            let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
            return self.fail(step, slot, gone);
        };
        loop {
            let request = &mut self.requests[usize::from(slot)];
            if request.range_index == ranges {
                return self.complete(step, slot, Status::SUCCESS, 0);
            }
            let at = usize::from(request.range_index) * RANGE_BYTES as usize;
            let buffer = request.buffer.as_ref().expect("its data was received");
            let bytes = buffer.bytes(u32::from(ranges) * RANGE_BYTES)[at..].first_chunk();
            let (blocks, lba) = io_command::range(bytes.expect("the buffer has every range"));
            request.range_index += 1;
            if blocks == 0 {
                continue;
            }
            if lba.0.checked_add(u64::from(blocks)).is_none_or(|end| end > geometry.blocks) {
                return self.fail(step, slot, Status::LBA_OUT_OF_RANGE.with_do_not_retry());
            }
            request.state = RequestState::InDevice;
            let token = connection::token(step.id, slot, request.generation);
            let io = Io::with_memory(Operation::Unmap, lba, blocks, Memory::None, token);
            return self.submit_to(step, slot, root, io);
        }
    }

    fn execute_connect(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        let data = request.buffer.as_ref().map(|buffer| buffer.bytes(CONNECT_DATA_BYTES as u32));
        let data = data.expect("its data was received");
        let description = Arc::clone(&step.core.description);
        let checked = admin::check_connect(&request.command, data, |nqn| {
            description.find(nqn).map(|(_, subsystem)| Arc::clone(subsystem))
        });
        match checked {
            Err(Refusal { status, result }) => {
                step.cx.counters.protocol_errors += 1;
                self.complete(step, slot, status, u64::from(result));
            }
            Ok(asked) => {
                request.state = RequestState::AtHome;
                let question =
                    question(&asked, description.find(asked.subsystem.nqn()).map(|(id, _)| id));
                self.asked = Some(Box::new(asked));
                let connection = ConnectionId { core: step.core.own(), slot: step.id };
                step.core.tell_home(Message::Connect { connection, request: Box::new(question) });
            }
        }
    }
}

/// What Disconnect of an I/O queue needs; other fabrics commands do not belong there.
fn plan_disconnect(command: &SubmissionEntry) -> Plan {
    if command.fabrics_type() != FabricsType::Disconnect as u8 {
        return Plan::fail(Status::INVALID_OPCODE.with_do_not_retry());
    }
    // RECFMT, as in Connect.
    if command.cdw10.get() & 0xffff != u32::from(CONNECT_RECORD_FORMAT) {
        return Plan::fail(Status::CONNECT_INCOMPATIBLE_FORMAT.with_do_not_retry());
    }
    Plan { action: Action::Disconnect, transfer: Transfer::None }
}

/// What the home core has to know of a Connect.
fn question(asked: &ConnectRequest, subsystem: Option<SubsystemId>) -> ConnectQuestion {
    let queue = match asked.controller {
        RequestedController::New => QueueKind::Admin,
        RequestedController::Existing(controller_id) => {
            QueueKind::Io { queue_id: asked.queue_id, controller_id }
        }
    };
    ConnectQuestion {
        subsystem: subsystem.expect("the subsystem was found by its name"),
        queue,
        host_nqn: asked.host_nqn,
        host_id: asked.host_id,
        controller_ids: asked.subsystem.controller_ids(),
    }
}

/// Checks the data pointer against what the plan transfers; `capsule_bytes` came with it.
fn with_data_pointer(plan: Plan, command: &SubmissionEntry, capsule_bytes: u32) -> Plan {
    let sgl = command.sgl().decode();
    let checked = match plan.transfer {
        Transfer::None => Ok(()),
        Transfer::ToHost(len_bytes) => match sgl {
            Sgl::TransportDataBlock { length } if length >= len_bytes => Ok(()),
            Sgl::TransportDataBlock { .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        },
        Transfer::FromHost(len_bytes) => match sgl {
            Sgl::InCapsule { offset: 0, length } if length == len_bytes => {
                if capsule_bytes == len_bytes {
                    Ok(())
                } else {
                    Err(Status::DATA_SGL_LENGTH_INVALID)
                }
            }
            Sgl::InCapsule { offset: 0, .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
            // ICDOFF is zero: in-capsule data starts where the capsule's header ends.
            Sgl::InCapsule { .. } => Err(Status::SGL_OFFSET_INVALID),
            Sgl::TransportDataBlock { length } if length == len_bytes && capsule_bytes == 0 => {
                Ok(())
            }
            Sgl::TransportDataBlock { .. } => Err(Status::DATA_SGL_LENGTH_INVALID),
            _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        },
    };
    match checked {
        Ok(()) => plan,
        Err(status) => Plan::fail(status.with_do_not_retry()),
    }
}
