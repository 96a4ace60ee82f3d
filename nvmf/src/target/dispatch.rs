//! What a core does about the messages of the others: hosts that come, and controllers that go.
//!
//! Called in the message phase of a pass, off the path of I/O. NVMe over Fabrics section 3.3.

use std::sync::Arc;

use bdev::Status;
use bdev::reservation::RegistrantId;
use reactor::Cx;
use reactor::slab::SlotId;

use super::admin::{
    AdminController, ConnectRequest, ControllerOptions, FlowControl, RequestedController,
};
use super::connection::Queue;
use super::core::TargetCore;
use super::home::{Decided, Follows, QueueCount};
use super::limits::ADMIN_IN_CAPSULE_BYTES;
use super::message::{AbortOutcome, ConnectionId, ControllerKey, Message, QueueKind};
use crate::pdu::Rules;

impl TargetCore {
    pub(super) fn take_message(&mut self, cx: &mut Cx, message: Message) {
        match message {
            Message::Adopt(stream) => self.adopt(cx, stream),
            Message::Connected { connection, queue, outcome } => {
                self.connected(cx, connection, queue, outcome);
            }
            Message::CloseQueues { controller, round } => self.close_queues(cx, controller, round),
            Message::Quiesced { connection, controller, round } => {
                if let Some(admin) = self.admin(connection, controller) {
                    admin.quiesced(round, cx.now());
                }
            }
            Message::QueuesOpen { connection, controller, count } => {
                if let Some(admin) = self.admin(connection, controller) {
                    admin.set_open_io_queues(count);
                }
            }
            Message::CommandFailed { connection, controller, report } => {
                if let Some(admin) = self.admin(connection, controller) {
                    admin.note_error(&report);
                }
            }
            Message::ControllersListed { connection, request, controllers } => {
                self.with(cx, connection, |one, step, _| {
                    one.controllers_listed(step, request, &controllers);
                });
            }
            Message::AbortOnQueue { connection, question } => {
                let aborted =
                    self.with(cx, connection, |one, step, _| one.abort_asked(step, &question));
                let outcome = aborted.unwrap_or(AbortOutcome::NotAborted);
                self.state.end_abort(&question, outcome);
            }
            Message::AbortEnded { connection, request, outcome } => {
                self.with(cx, connection, |one, step, _| one.abort_ended(step, request, outcome));
            }
            Message::Access(access) => self.take_access(cx, *access),
            Message::Reserved { asker, reply } => self.take_reply(cx, &asker, reply),
            Message::ReservationNotice { namespace, notification } => {
                self.take_reservation_notice(cx, namespace, notification);
            }
            of_home => self.take_message_of_home(cx, of_home),
        }
    }

    /// The controller whose admin queue is this connection, if it is there still.
    fn admin(&mut self, id: SlotId, controller: ControllerKey) -> Option<&mut AdminController> {
        let connection = self.connections.get_mut(id)?;
        let is_of_it = connection.queue.as_ref()?.controller == controller;
        connection.admin.as_deref_mut().filter(|_| is_of_it)
    }

    /// A message to the home core.
    fn take_message_of_home(&mut self, cx: &mut Cx, message: Message) {
        let home = self.home.as_mut().expect("the home core is told");
        match message {
            Message::Reserve(question) => self.take_reservation_question(cx, *question),
            Message::AccessInForce { namespace, round } => {
                self.take_access_in_force(cx, namespace, round);
            }
            Message::Connect { connection, request } => home.ask(connection, request),
            Message::ListControllers { connection, request, subsystem } => {
                let controllers = home.controllers(subsystem);
                let connection = (connection.core, connection.slot);
                let answer =
                    Message::ControllersListed { connection: connection.1, request, controllers };
                self.state.send_message(connection.0, answer);
            }
            Message::Abort(question) => {
                match home.queue_of(question.controller, question.queue_id) {
                    Some(ConnectionId { core, slot: connection }) => {
                        let asked = Message::AbortOnQueue { connection, question };
                        self.state.send_message(core, asked);
                    }
                    None => self.state.end_abort(&question, AbortOutcome::NotAborted),
                }
            }
            Message::QueueClosing { controller, queue_id } => {
                home.queue_closing(controller, queue_id);
            }
            Message::QueueClosed { controller, queue_id } => {
                home.queue_closed(controller, queue_id);
            }
            Message::Controller { controller, change } => {
                let cores = self.state.peers.count();
                match home.change(controller, change, cores, cx.now()) {
                    Follows::Nothing => {}
                    Follows::CloseQueues(round) => {
                        self.state.broadcast(|| Message::CloseQueues { controller, round });
                        self.arm_sweep(cx);
                    }
                }
            }
            Message::QueuesClosed { controller, round } => {
                if let Some(admin) = home.core_finished(controller, round) {
                    let connection = admin.slot;
                    let told = Message::Quiesced { connection, controller, round };
                    self.state.send_message(admin.core, told);
                }
            }
            _ => unreachable!("taken by the caller"),
        }
    }

    /// On the home core: answers the Connects that can be decided; returns how many.
    pub(super) fn decide_connects(&mut self) -> usize {
        let mut count = 0;
        let Some(home) = self.home.as_mut() else { return 0 };
        loop {
            let decided = home.decide();
            while let Some(QueueCount { admin, controller, count }) = home.next_count() {
                let told = Message::QueuesOpen { connection: admin.slot, controller, count };
                self.state.send_message(admin.core, told);
            }
            let Some(Decided { connection, queue, outcome }) = decided else { return count };
            let outcome = outcome.map(|controller| (controller, home.admin_of(controller)));
            let answer = Message::Connected { connection: connection.slot, queue, outcome };
            self.state.send_message(connection.core, answer);
            count += 1;
        }
    }

    /// The home core's answer to a Connect.
    fn connected(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        queue: QueueKind,
        outcome: Result<(ControllerKey, ConnectionId), (Status, u32)>,
    ) {
        let asking = self.connections.get_mut(id).and_then(|connection| {
            if !connection.is_open() {
                return None;
            }
            let slot = connection.connect_slot()?;
            Some((slot, connection.asked.take()?))
        });
        let Some((slot, asked)) = asking else {
            // It was lost while the home core decided: what was made goes again.
            if let Ok((controller, _)) = outcome {
                self.state.undo_connect(controller, queue);
            }
            return;
        };
        let established = outcome.and_then(|(controller, admin)| {
            let made = self.establish(cx, id, &asked, (controller, admin));
            if made.is_err() {
                self.state.undo_connect(controller, queue);
            }
            made.map(|()| controller).map_err(|status| (status, 0))
        });
        self.with(cx, id, |connection, step, _| match established {
            Ok(controller) => {
                connection.complete(step, slot, Status::SUCCESS, u64::from(controller.id));
            }
            Err((status, result)) => {
                step.cx.counters.protocol_errors += 1;
                let status = status.with_do_not_retry();
                connection.complete(step, slot, status, u64::from(result));
            }
        });
    }

    /// Makes a connection the queue that its host asked for.
    fn establish(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        asked: &ConnectRequest,
        (controller, admin_connection): (ControllerKey, ConnectionId),
    ) -> Result<(), Status> {
        let description = Arc::clone(&self.state.description);
        // Gone while the home core decided: as if it had never been there.
        let unknown = Status::CONNECT_INVALID_PARAMETERS;
        let subsystem = description.subsystems.get(&controller.subsystem).ok_or(unknown)?;
        let limits = subsystem.limits();
        let entries = asked.queue_entries;
        let host = RegistrantId::nvme(asked.host_id);
        let (namespaces, capsule_bytes) = match asked.controller {
            RequestedController::New => (Vec::new(), ADMIN_IN_CAPSULE_BYTES),
            RequestedController::Existing(_) => {
                let (paths, outcome) =
                    self.state.namespace_paths(cx, controller.subsystem, (entries, host), &[]);
                if outcome.is_err() {
                    self.state.leave_paths(&paths, entries);
                    return Err(Status::INTERNAL_ERROR);
                }
                (paths, limits.in_capsule_bytes)
            }
        };
        let connection = self.connections.get_mut(id).expect("the caller has found it");
        let admin = (asked.controller == RequestedController::New).then(|| {
            let options = ControllerOptions {
                controller_id: controller.id,
                host_nqn: asked.host_nqn,
                host_id: asked.host_id,
                keep_alive_ms: asked.keep_alive_ms,
            };
            Box::new(AdminController::new(options, subsystem, cx.now()))
        });
        let queue = Queue {
            controller,
            admin: admin_connection,
            id: asked.queue_id,
            host,
            entries,
            // The answer to the Connect, the first command of the queue, moves it to 1.
            head: 0,
            flow_control: asked.flow_control == FlowControl::On,
            transfer_bytes_max: limits.transfer_bytes_max,
            namespaces,
        };
        let rules = Rules { capsule_data_bytes_max: capsule_bytes, ..connection.rules };
        connection.establish(queue, admin, rules);
        Ok(())
    }

    fn close_queues(&mut self, cx: &mut Cx, controller: ControllerKey, round: u32) {
        let ids: Vec<SlotId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_io_queue_of(controller))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.with(cx, id, |connection, step, _| step.core.lost(connection, id, step.cx));
        }
        self.state.closing.begin(controller, round);
    }

    /// Tells the home core of controllers whose I/O queues are gone from this core.
    pub(super) fn report_closed(&mut self) {
        let connections = &self.connections;
        let is_gone = |controller| {
            !connections.iter().any(|(_, connection)| connection.is_io_queue_of(controller))
        };
        for (controller, round) in self.state.closing.take_closed(is_gone) {
            self.state.tell_home(Message::QueuesClosed { controller, round });
        }
    }
}
