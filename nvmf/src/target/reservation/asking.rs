//! From a command about reservations to its answer, by way of the home core.
//!
//! The connection asks and keeps the slot, the home core's keeper decides, the answer finds the
//! slot again if it is still the same use of it. Off the path of I/O.

use std::sync::Arc;

use bdev::Status;
use bdev::reservation::keeper::Request;
use bdev::reservation::{Command, Notification, PersistenceChange, Registrant, RegistrantId};
use reactor::Cx;
use uuid::Uuid;

use super::command;
use super::keeping::{Asker, Reply, ToSend, Wants};
use crate::target::connection::Connection;
use crate::target::core::TargetCore;
use crate::target::description::TargetDescription;
use crate::target::message::{ConnectionId, Message, NewAccess, ReservationQuestion};
use crate::target::namespace::NamespaceId;
use crate::target::receive::Step;
use crate::target::request::{Payload, RequestState, Transfer};

impl Connection {
    /// Asks what a reservation command asks; its data is there.
    pub(in crate::target) fn ask_reservation(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &self.requests[usize::from(slot)];
        let queue = self.queue.as_ref().expect("planned for a queue");
        let (data, wants): (&[u8], Wants) = match (&request.buffer, request.plan.transfer) {
            (Some(buffer), Transfer::FromHost(bytes)) => (buffer.bytes(bytes), Wants::Status),
            _ => (&[], Wants::Report),
        };
        let asked = command::request(&request.command, queue.host, data);
        let path = queue.path_of(&request.command).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT);
        match asked.and_then(|asked| Ok((path?.uuid, asked))) {
            Ok((namespace, asked)) => self.ask(step, slot, wants, namespace, asked),
            Err(status) => self.fail(step, slot, status.with_do_not_retry()),
        }
    }

    /// Asks for, or changes, what feature 83h says of a namespace.
    pub(in crate::target) fn ask_persistence(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        id: NamespaceId,
        change: Option<PersistenceChange>,
    ) {
        let queue = self.queue.as_ref().expect("an admin command has its queue");
        let subsystem = step.core.description.subsystems.get(&queue.controller.subsystem);
        let namespace = subsystem.and_then(|subsystem| subsystem.namespace(id));
        let Some(namespace) = namespace.map(|namespace| namespace.uuid) else {
            let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
            return self.fail(step, slot, gone);
        };
        match (change, queue.host) {
            (None, _) => self.ask(step, slot, Wants::Persistence, namespace, Request::Look),
            (Some(change), Some(host)) => {
                let (from, command) = (Registrant::unnamed(host), Command::SetPersistence(change));
                let asked = Request::Change { from, command };
                self.ask(step, slot, Wants::Status, namespace, asked);
            }
            (Some(_), None) => {
                self.fail(step, slot, Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry());
            }
        }
    }

    fn ask(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        wants: Wants,
        namespace: Uuid,
        request: Request,
    ) {
        let queue = self.queue.as_ref().expect("only a queue asks");
        let subsystem = queue.controller.subsystem;
        let connection = ConnectionId { core: step.core.own(), slot: step.id };
        let own = &mut self.requests[usize::from(slot)];
        own.state = RequestState::AtHome;
        let asker = Asker { connection, slot, generation: own.generation, subsystem, wants };
        let question = ReservationQuestion { namespace, asker, request };
        step.core.tell_home(Message::Reserve(Box::new(question)));
    }

    /// The home core's answer.
    fn take_reply(&mut self, step: &mut Step<'_>, slot: u16, reply: Reply) {
        let request = &mut self.requests[usize::from(slot)];
        match reply {
            Reply::Status(status) => self.complete(step, slot, status, 0),
            Reply::Value(value) => self.complete(step, slot, Status::SUCCESS, u64::from(value)),
            Reply::Report(report) => {
                let (Some(buffer), Transfer::ToHost(len_bytes)) =
                    (&mut request.buffer, request.plan.transfer)
                else {
                    unreachable!("a report is planned with room for it");
                };
                let room = &mut buffer.bytes_mut()[..len_bytes as usize];
                let len = report.len().min(room.len());
                room[..len].copy_from_slice(&report[..len]);
                room[len..].fill(0);
                request.payload = Payload::Buffer(len_bytes);
                self.complete_read(step, slot, 0);
            }
        }
    }
}

impl TargetCore {
    /// On the home core: a command about reservations.
    pub(in crate::target) fn take_reservation_question(
        &mut self,
        cx: &mut Cx,
        question: ReservationQuestion,
    ) {
        let keeping = self.keeping.as_mut().expect("the home core is asked");
        let ReservationQuestion { namespace, asker, request } = question;
        keeping.ask(namespace, asker, request, cx.now());
        self.act_for_keeper(cx);
    }

    /// On the home core: a core has a table in force.
    pub(in crate::target) fn take_access_in_force(
        &mut self,
        cx: &mut Cx,
        namespace: Uuid,
        round: u64,
    ) {
        let keeping = self.keeping.as_mut().expect("the home core is told");
        keeping.core_finished(namespace, round);
        self.act_for_keeper(cx);
    }

    /// A core's share of a change of the description.
    pub(in crate::target) fn serve_reservations(
        &mut self,
        cx: &mut Cx,
        description: &TargetDescription,
    ) {
        self.state.rights.serve(description);
        if let Some(keeping) = &mut self.keeping {
            keeping.serve(description);
            self.act_for_keeper(cx);
        }
    }

    /// On the home core: answers who has waited too long.
    pub(in crate::target) fn expire_reservations(&mut self, cx: &mut Cx) {
        if let Some(keeping) = &mut self.keeping {
            keeping.expire(cx.now());
            self.act_for_keeper(cx);
        }
    }

    /// On the home core, while records are being stored: looks whether one is.
    #[cold]
    pub(in crate::target) fn take_stored(&mut self, cx: &mut Cx) -> usize {
        let is_news = self.keeping.as_mut().is_some_and(|keeping| keeping.take_stored());
        if is_news {
            self.act_for_keeper(cx);
        }
        usize::from(is_news)
    }

    /// Sends what the keeper has decided.
    fn act_for_keeper(&mut self, cx: &mut Cx) {
        let (Some(home), Some(keeping)) = (&self.home, &mut self.keeping) else { return };
        while let Some(to_send) = keeping.next(|subsystem| home.host_controllers(subsystem)) {
            match to_send {
                ToSend::Access { namespace, round, table, aborts } => {
                    self.state.broadcast(|| {
                        let (table, aborts) = (table.clone(), Arc::clone(&aborts));
                        let access = NewAccess { namespace, round, table, aborts };
                        Message::Access(Box::new(access))
                    });
                }
                ToSend::Notice { namespace, notification } => {
                    self.state.broadcast(|| Message::ReservationNotice { namespace, notification });
                }
                ToSend::Reply { asker, reply } => {
                    self.state
                        .send_message(asker.connection.core, Message::Reserved { asker, reply });
                }
            }
        }
        if keeping.is_timed() {
            self.arm_sweep(cx);
        }
    }

    /// The keeper's answer, to whatever is left of who asked.
    pub(in crate::target) fn take_reply(&mut self, cx: &mut Cx, asker: &Asker, reply: Reply) {
        let Asker { connection, slot, generation, .. } = *asker;
        self.with(cx, connection.slot, |one, step, _| {
            let request = one.requests.get(usize::from(slot));
            let is_same = request.is_some_and(|request| {
                request.state == RequestState::AtHome && request.generation == generation
            });
            match (is_same, one.is_open()) {
                (true, true) => one.take_reply(step, slot, reply),
                // Nobody is answered any more: nothing may follow a termination request.
                (true, false) => one.release(slot, &mut step.cx.dma),
                (false, _) => {}
            }
        });
    }

    /// Tells the controllers of a host, as far as they are on this core.
    pub(in crate::target) fn take_reservation_notice(
        &mut self,
        cx: &mut Cx,
        namespace: Uuid,
        notification: Notification,
    ) {
        let description = Arc::clone(&self.state.description);
        let number = |connection: &Connection| {
            let host = RegistrantId::nvme(*connection.admin.as_ref()?.host_id())?;
            let subsystem = connection.queue.as_ref()?.controller.subsystem;
            let subsystem = description.subsystems.get(&subsystem)?;
            let found = subsystem.namespaces().iter().find(|one| one.uuid == namespace)?;
            (host == notification.to).then_some(found.id)
        };
        let told: Vec<_> = self
            .connections
            .iter()
            .filter_map(|(id, connection)| Some((id, number(connection)?)))
            .collect();
        for (id, number) in told {
            self.with(cx, id, |one, step, _| {
                let Some(admin) = one.admin.as_mut() else { return };
                admin.notice_reservation(number, notification.event);
                one.answer_events(step);
            });
        }
    }
}
