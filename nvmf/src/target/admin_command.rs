//! Commands of an admin queue: handed to its controller, and what follows from them.
//!
//! The controller ([`super::admin`]) knows nothing of sockets and cores; here its answers become
//! answers of the connection, and its effects messages to the home core.

use std::sync::Arc;

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::identify::IdentifyKind;
use bdev::nvme::opcode::AdminOpcode;

use super::admin::{self, AdminOutcome, Effect, HeldCompletion};
use super::connection::Connection;
use super::message::{ConnectionId, ControllerChange, Message, RequestId};
use super::receive::Step;
use super::request::{Payload, RequestState, Transfer};
use super::subsystem::SubsystemKind;

impl Connection {
    /// Executes a command of the admin queue. The controllers of the subsystem are known to the
    /// home core; a command that lists them waits for its answer.
    pub(super) fn begin_admin(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        let queue = self.queue.as_ref().expect("a controller has its admin queue");
        if !lists_controllers(&request.command) {
            return self.execute_admin(step, slot, &[]);
        }
        request.state = RequestState::Asking;
        let connection = ConnectionId { core: step.core.own(), slot: step.id };
        let request = RequestId { slot, generation: request.generation };
        let subsystem = queue.controller.subsystem;
        step.core.tell_home(Message::ListControllers { connection, request, subsystem });
    }

    /// The home core's answer to a command that lists controllers; they ascend.
    pub(super) fn controllers_listed(
        &mut self,
        step: &mut Step<'_>,
        request: RequestId,
        controllers: &[u16],
    ) {
        if self.is_asking(request) {
            self.execute_admin(step, request.slot, controllers);
        }
    }

    /// Whether a request still waits for what other cores were asked. Its connection may have been
    /// lost meanwhile.
    pub(super) fn is_asking(&self, request: RequestId) -> bool {
        let known = self.requests.get(usize::from(request.slot));
        let is_same = known.is_some_and(|one| {
            one.state == RequestState::Asking && one.generation == request.generation
        });
        is_same && self.is_open()
    }

    fn execute_admin(&mut self, step: &mut Step<'_>, slot: u16, controllers: &[u16]) {
        let request = &mut self.requests[usize::from(slot)];
        let controller = self.admin.as_mut().expect("an admin plan is made by its controller");
        let queue = self.queue.as_ref().expect("a controller has its admin queue");
        let description = Arc::clone(&step.core.description);
        let Some(subsystem) = description.subsystems.get(&queue.controller.subsystem) else {
            // Removed; the connection is about to be closed.
            return self.fail(step, slot, Status::INTERNAL_ERROR);
        };
        let local = self.socket.as_ref().map(|socket| socket.local());
        let directory = match subsystem.kind() {
            SubsystemKind::Discovery => description.directory(local),
            SubsystemKind::Nvm => None,
        };
        let input = admin::AdminInput {
            now: step.cx.now(),
            subsystem,
            open_io_queues: controller.open_io_queues(),
            controllers,
            statistics: subsystem.statistics(),
            directory: directory.as_ref(),
        };
        let mut nothing = [];
        let (data_in, data_out): (&[u8], &mut [u8]) =
            match (&mut request.buffer, request.plan.transfer) {
                (Some(buffer), Transfer::ToHost(len_bytes)) => {
                    let room = &mut buffer.bytes_mut()[..len_bytes as usize];
                    // What the command leaves alone reads as zero, not as what was there before.
                    room.fill(0);
                    (&[], room)
                }
                (Some(buffer), Transfer::FromHost(len_bytes)) => {
                    (buffer.bytes(len_bytes), &mut nothing)
                }
                _ => (&[], &mut nothing),
            };
        let granted_before = controller.io_queues_granted();
        let (outcome, effect) = controller.command(&input, &request.command, data_in, data_out);
        let (granted, round) = (controller.io_queues_granted(), controller.round());
        match outcome {
            AdminOutcome::Complete { status, result } => self.complete(step, slot, status, result),
            AdminOutcome::Data { len_bytes, result } => {
                request.payload = Payload::Buffer(len_bytes);
                self.complete_read(step, slot, result);
            }
            AdminOutcome::Held => request.state = RequestState::Held,
            AdminOutcome::Allocation { namespace, range } => {
                self.ask_allocation(step, slot, namespace, range);
            }
            AdminOutcome::Persistence { namespace, change } => {
                self.ask_persistence(step, slot, namespace, change);
            }
        }
        let change = match effect {
            Effect::None => None,
            Effect::Enabled => Some(ControllerChange::Enabled),
            Effect::Reset | Effect::Shutdown => Some(ControllerChange::Disabled { round }),
        };
        let of_queues =
            (granted != granted_before).then_some(ControllerChange::QueuesGranted(granted));
        for change in [change, of_queues].into_iter().flatten() {
            let controller = self.queue.as_ref().expect("it has its admin queue").controller;
            step.core.tell_home_first(Message::Controller { controller, change });
        }
        self.answer_events(step);
    }

    /// Completes held asynchronous event requests while there are events for them.
    pub(super) fn answer_events(&mut self, step: &mut Step<'_>) {
        loop {
            let Some(controller) = self.admin.as_mut() else { return };
            let Some(HeldCompletion { command_id, status, result }) = controller.next_event()
            else {
                return;
            };
            let held = self.requests.iter().position(|request| {
                request.state == RequestState::Held
                    && request.command.command_id.get() == command_id
            });
            let slot = held.expect("the controller answers requests that are held here");
            let slot = u16::try_from(slot).expect("a queue has at most 65535 slots");
            self.complete(step, slot, status, u64::from(result));
        }
    }
}

/// Whether a command is Identify of the lists of controllers.
fn lists_controllers(command: &SubmissionEntry) -> bool {
    let lists = [IdentifyKind::NamespaceControllers, IdentifyKind::Controllers];
    command.opcode == AdminOpcode::Identify.value()
        && IdentifyKind::from_value(command.identify().kind)
            .is_some_and(|kind| lists.contains(&kind))
}
