//! A command capsule: planned when its header arrives, executed when its data is there.
//!
//! The order is that of the specification: opcode, namespace and fields first (the plan), then
//! the data pointer (`data_pointer`), then memory (`buffers`), then data (`receive`). Halves of a
//! fused pair meet in `fused`; commands of several I/Os go on in `steps`. NVMe/TCP Transport 1.0
//! section 3.3.2 and 3.6.2.6.

use std::sync::Arc;

use bdev::nvme::command::SubmissionEntry;
use bdev::{Completion, Io, Memory, Status};
use zerocopy::FromBytes;

use super::admin::{self, ConnectRequest, Refusal, RequestedController};
use super::allocation::command as allocation;
use super::connection::{self, Connection, Queue};
use super::data_pointer;
use super::description::SubsystemId;
use super::io_command::{self, NamespaceView};
use super::message::{ConnectQuestion, ConnectionId, Message, QueueKind};
use super::receive::{Step, Taken};
use super::request::{Action, Plan, PlannedIo, Request, RequestState, Transfer};
use super::reservation::{command as reservation, rights};
use super::root::Root;
use crate::fabrics::connect::{
    CONNECT_DATA_BYTES, CONNECT_RECORD_FORMAT, CONNECT_TYPE, FABRICS_OPCODE,
};
use crate::pdu::{CommandCapsule, FatalErrorStatus, PduHeader, TermReason};
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
        let plan = data_pointer::checked(plan, &command, parts.data_bytes);
        let plan = self.as_half(plan, &command);
        let Some(slot) = self.free.last().copied() else {
            // More commands than the queue has entries (NVMe over Fabrics 2.4).
            self.end(step, header, TermReason::new(FatalErrorStatus::SequenceError, 0));
            return Taken::Yes;
        };
        let Ok(buffer) = self.capsule_buffer(step, &plan, parts.data_bytes) else {
            return Taken::NoBuffer;
        };
        self.free.pop();
        let now = step.cx.now();
        let is_free = self.command_ids.take(command.command_id.get());
        let request = &mut self.requests[usize::from(slot)];
        request.begin(command, plan, now);
        request.buffer = buffer;
        if !is_free {
            refuse_command_id(request);
            step.cx.counters.protocol_errors += 1;
        }
        self.join_halves(step, slot);
        let plan = self.requests[usize::from(slot)].plan;
        match plan.transfer {
            Transfer::FromHost(_) if parts.data_bytes > 0 => {
                self.requests[usize::from(slot)].state = RequestState::ReceivingCapsuleData;
                self.begin_data(slot, parts);
            }
            Transfer::None if plan.buffer_bytes() == 0 => {
                self.discard_data(parts);
                self.execute(step, slot);
            }
            _ => {
                self.discard_data(parts);
                self.need_buffer(step, slot);
            }
        }
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
            let is_there = allocation::check_announced(subsystem, command);
            let transfer = || admin::transfer_of(command, subsystem.limits());
            return match is_there.and_then(|()| transfer()) {
                Ok(transfer) => Plan { action: Action::Admin, transfer: transfer.into() },
                Err(status) => Plan::fail(status.with_do_not_retry()),
            };
        }
        if let Err(status) = io_command::check_flags(command) {
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
        if reservation::is_reservation(command.opcode) {
            return reservation::plan(command, queue.host, queue.transfer_bytes_max);
        }
        if !path.grant.is_unlimited() && !reservation::may_go(path.grant, command.opcode) {
            return Plan::fail(rights::conflict());
        }
        let Some(at) = step.core.roots.get(path.root) else { return Plan::fail(gone) };
        let Root { geometry, read_only, operations, .. } = *at;
        let view = NamespaceView { root: path.root, geometry, read_only, operations };
        io_command::plan(command, &view, queue.transfer_bytes_max)
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
            Action::FusedCompare(_) | Action::FusedWrite(_) => self.half_is_ready(step, slot),
            Action::Deallocate { root, ranges } => self.deallocate(step, slot, root, ranges),
            Action::Verify { io, block_bytes, .. } => self.verify(step, slot, io, block_bytes),
            Action::Copy(copy) => self.copy(step, slot, copy),
            Action::Admin => {
                if !self.begin_abort(step, slot) {
                    self.begin_admin(step, slot);
                }
            }
            Action::Reservation => self.ask_reservation(step, slot),
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
        let request = &self.requests[usize::from(slot)];
        let memory = match (&request.buffer, request.plan.transfer) {
            (Some(buffer), Transfer::ToHost(bytes) | Transfer::FromHost(bytes)) => {
                Memory::One(buffer.segment(bytes))
            }
            _ => Memory::None,
        };
        self.submit_io(step, slot, io, memory);
    }

    /// Gives the device an I/O of a slot. The slot has no other there.
    pub(super) fn submit_io(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        io: PlannedIo,
        memory: Memory,
    ) {
        let request = &mut self.requests[usize::from(slot)];
        request.state = RequestState::InDevice;
        let token = connection::token(step.id, slot, request.generation);
        let PlannedIo { root, operation, flags, lba, blocks } = io;
        let io = Io { operation, flags, blocks, lba, token, memory };
        let own = &self.requests[usize::from(slot)].command;
        let queue = self.queue.as_ref().expect("only a queue has I/O");
        if let Some(status) = queue.conflict(own, operation) {
            return self.io_failed(step, slot, Completion::new(token, status));
        }
        match step.core.roots.submit(step.cx, root, io) {
            Ok(()) => self.at_device += 1,
            // It is gone since the command was planned.
            Err(io) => {
                let status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
                self.io_failed(step, slot, Completion::new(io.token, status));
            }
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

/// Makes a command fail whose identifier belongs to another that is under way.
#[cold]
fn refuse_command_id(request: &mut Request) {
    request.owns_command_id = false;
    request.plan = Plan::fail(Status::COMMAND_ID_CONFLICT.with_do_not_retry());
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
