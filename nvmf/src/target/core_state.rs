//! What the connections of a core share: the description, the roots, and the lists of a pass.
//!
//! Owned by [`super::TargetCore`], lent to whichever connection is worked on; on the core's own
//! thread only.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::reservation::RegistrantId;
use reactor::Cx;
use reactor::mesh::{CoreIndex, Peers};
use reactor::slab::SlotId;

use super::admin::ErrorReport;
use super::allocation::looks::Looks;
use super::answers::Answers;
use super::closing::Closing;
use super::connection::{CONNECTIONS_PER_CORE_MAX, Connection, ConnectionState};
use super::description::{SubsystemId, TargetDescription};
use super::message::{
    AbortOutcome, AbortQuestion, ConnectionId, ControllerChange, ControllerKey, Message, QueueKind,
};
use super::namespace::NamespacePath;
use super::reservation::rights::Rights;
use super::roots::{RootError, Roots};
use super::work_list::WorkList;
use crate::pdu::TermReason;

/// Errors of I/O commands that a core reports to their controllers between two sweeps: an error
/// log holds as many. What is beyond is counted with the next.
pub(super) const ERROR_REPORTS_PER_SWEEP: u32 = super::admin::error_log::ERROR_ENTRIES as u32;

/// The index of the core that listens and keeps the register.
pub(super) const HOME: CoreIndex = CoreIndex(0);

/// What the connections of a core share: borrowed by whichever is worked on.
#[derive(Debug)]
pub(super) struct CoreState {
    pub description: Arc<TargetDescription>,
    pub roots: Roots,
    /// What reservations let hosts do.
    pub rights: Rights,
    /// Devices that are being asked what is allocated.
    pub looks: Looks,
    pub answers: Answers,
    pub peers: Peers<Message>,
    /// Messages that found a ring full, in order; sent before anything newer.
    pub outbox: VecDeque<(CoreIndex, Message)>,
    pub receive_list: WorkList,
    pub send_list: WorkList,
    pub starved_list: WorkList,
    /// Bytes of buffers, over all connections, whose data was asked for by R2T.
    pub granted_bytes: usize,
    /// Connections to look at once more: they may be over.
    pub ending: Vec<SlotId>,
    /// Controllers whose I/O queues are being closed here.
    pub closing: Closing,
    /// Errors that may be reported before the next sweep, and those that were not.
    pub error_reports_left: u32,
    errors_unlisted: u32,
}

impl CoreState {
    /// The state of a core that serves `description` and has no connection yet.
    pub fn new(description: Arc<TargetDescription>, peers: Peers<Message>) -> CoreState {
        let capacity = CONNECTIONS_PER_CORE_MAX as usize;
        CoreState {
            rights: Rights::of(&description),
            looks: Looks::none(),
            description,
            roots: Roots::new(peers.own()),
            answers: Answers::new(),
            peers,
            outbox: VecDeque::new(),
            receive_list: WorkList::with_capacity(capacity),
            send_list: WorkList::with_capacity(capacity),
            starved_list: WorkList::with_capacity(capacity),
            granted_bytes: 0,
            ending: Vec::with_capacity(capacity),
            closing: Closing::default(),
            error_reports_left: ERROR_REPORTS_PER_SWEEP,
            errors_unlisted: 0,
        }
    }

    /// This core's index.
    pub fn own(&self) -> CoreIndex {
        self.peers.own()
    }

    /// Sends to another core, or to this one.
    pub fn send_message(&mut self, to: CoreIndex, message: Message) {
        if !self.outbox.is_empty() {
            return self.outbox.push_back((to, message));
        }
        if let Err(message) = self.peers.send(to, message) {
            self.outbox.push_back((to, message));
        }
    }

    /// Tells the core of an admin queue how an Abort ends. After the answer of the command that
    /// was aborted: a message leaves behind what its pass sends to hosts.
    pub fn end_abort(&mut self, question: &AbortQuestion, outcome: AbortOutcome) {
        let AbortQuestion { connection: ConnectionId { core, slot: connection }, request, .. } =
            *question;
        self.send_message(core, Message::AbortEnded { connection, request, outcome });
    }

    /// Sends to the home core.
    pub fn tell_home(&mut self, message: Message) {
        self.send_message(HOME, message);
    }

    /// Sends to every core, this one included.
    pub fn broadcast(&mut self, message: impl Fn() -> Message) {
        for core in 0..self.peers.count() {
            let core = CoreIndex(u16::try_from(core).expect("fewer than 65536 cores"));
            self.send_message(core, message());
        }
    }

    pub fn retry_outbox(&mut self) {
        while let Some((to, message)) = self.outbox.pop_front() {
            if let Err(message) = self.peers.send(to, message) {
                return self.outbox.push_front((to, message));
            }
        }
    }

    /// The connection has something to send.
    pub fn mark_send(&mut self, connection: &mut Connection, id: SlotId) {
        if !connection.listed_send {
            connection.listed_send = true;
            self.send_list.push(id);
        }
    }

    /// The connection has something to receive.
    pub fn mark_receive(&mut self, connection: &mut Connection, id: SlotId) {
        if !connection.listed_receive {
            connection.listed_receive = true;
            self.receive_list.push(id);
        }
    }

    /// The connection waits for a buffer.
    pub fn mark_starved(&mut self, connection: &mut Connection, id: SlotId) {
        if !connection.listed_starved {
            connection.listed_starved = true;
            self.starved_list.push(id);
        }
    }

    /// The host broke the protocol: a termination request, then the end.
    pub fn terminate(
        &mut self,
        connection: &mut Connection,
        id: SlotId,
        reason: TermReason,
        cx: &mut Cx,
    ) {
        cx.counters.protocol_errors += 1;
        connection.terminate(reason, cx.now());
        self.mark_send(connection, id);
    }

    /// Reports an error of an I/O queue to the core of its admin queue.
    pub fn report_error(
        &mut self,
        admin: ConnectionId,
        controller: ControllerKey,
        report: ErrorReport,
    ) {
        let Some(left) = self.error_reports_left.checked_sub(1) else {
            self.errors_unlisted = self.errors_unlisted.saturating_add(1);
            return;
        };
        self.error_reports_left = left;
        let unlisted = std::mem::take(&mut self.errors_unlisted);
        let report = ErrorReport { unlisted, ..report };
        let told = Message::CommandFailed { connection: admin.slot, controller, report };
        self.send_message(admin.core, told);
    }

    /// The connection is lost, or given up: its socket goes, and the home core is told.
    pub fn lost(&mut self, connection: &mut Connection, id: SlotId, cx: &mut Cx) {
        if connection.state == ConnectionState::Draining {
            return;
        }
        connection.close(&mut cx.dma);
        self.granted_bytes -= std::mem::take(&mut connection.granted_bytes);
        connection.admin = None;
        if let Some(queue) = &connection.queue {
            self.leave_paths(&queue.namespaces, queue.entries);
            let controller = queue.controller;
            self.tell_home(match queue.id {
                0 => Message::Controller { controller, change: ControllerChange::Gone },
                queue_id => Message::QueueClosing { controller, queue_id },
            });
        }
        self.ending.push(id);
    }

    /// Tells the home core something that must be known there before the host is answered, so
    /// that the host's next Connect, which may come to any core, is judged by it.
    pub fn tell_home_first(&mut self, message: Message) {
        self.tell_home(message);
        self.peers.publish();
    }

    /// Takes back what the home core made for a Connect that came to nothing.
    pub fn undo_connect(&mut self, controller: ControllerKey, queue: QueueKind) {
        self.tell_home(match queue {
            QueueKind::Admin => Message::Controller { controller, change: ControllerChange::Gone },
            QueueKind::Io { queue_id, .. } => Message::QueueClosed { controller, queue_id },
        });
    }

    /// A queue of `entries` entries goes these ways no more.
    pub fn leave_paths(&mut self, paths: &[Option<NamespacePath>], entries: u16) {
        for path in paths.iter().flatten() {
            self.roots.unreserve(path.root, usize::from(entries));
        }
    }

    /// The ways of a queue of so many entries, of such a host, to the namespaces of its subsystem;
    /// `before` are those that it had. Opens roots that this core does not have yet; what cannot be
    /// opened is left out, and the first such error returned.
    pub fn namespace_paths(
        &mut self,
        cx: &mut Cx,
        id: SubsystemId,
        (entries, host): (u16, Option<RegistrantId>),
        before: &[Option<NamespacePath>],
    ) -> (Vec<Option<NamespacePath>>, Result<(), RootError>) {
        let description = Arc::clone(&self.description);
        let Some(subsystem) = description.subsystems.get(&id) else {
            return (Vec::new(), Ok(()));
        };
        let mut paths = Vec::new();
        let mut outcome = Ok(());
        for namespace in subsystem.namespaces() {
            let root = match self.roots.find_or_open(cx, id, namespace) {
                Ok(root) => root,
                Err(error) => {
                    outcome = outcome.and(Err(error));
                    continue;
                }
            };
            let place = (namespace.id.0 as usize).saturating_sub(1);
            let is_new =
                !before.get(place).copied().flatten().is_some_and(|path| path.root == root);
            if is_new {
                self.roots.reserve(root, usize::from(entries));
            }
            if paths.len() <= place {
                paths.resize(place + 1, None);
            }
            let (refusal, uuid) = (namespace.refusal(), namespace.uuid);
            let grant = self.rights.grant(uuid, host);
            paths[place] = Some(NamespacePath { root, refusal, grant, uuid });
        }
        (paths, outcome)
    }
}
