//! What reservations let the hosts of this core do, and what the core does when that changes.
//!
//! Each queue has, with its way to a namespace, the grant of its host: what the hot path looks at.
//! It is made when the way is, and made anew for each new table. On the core's own thread.

use std::collections::BTreeMap;

use bdev::nvme::command::SubmissionEntry;
use bdev::reservation::{Access, AccessClass, AccessTable, Fences, Grant, RegistrantId};
use bdev::{Completion, Io, Operation, Status, Token};
use reactor::Cx;
use reactor::slab::SlotId;
use uuid::Uuid;

use crate::target::connection::{self, Connection, Queue, parts};
use crate::target::core::TargetCore;
use crate::target::description::TargetDescription;
use crate::target::message::{Message, NewAccess};
use crate::target::namespace::NamespacePath;
use crate::target::request::RequestState;

/// The tables of a core, and what it waits for.
#[derive(Debug)]
pub(in crate::target) struct Rights {
    tables: BTreeMap<Uuid, AccessTable>,
    pub fences: Fences,
}

impl Rights {
    /// Those at the start.
    pub fn of(description: &TargetDescription) -> Self {
        let mut rights = Self { tables: BTreeMap::new(), fences: Fences::default() };
        rights.serve(description);
        rights
    }

    /// Follows a change of the description: a namespace that is new has the table that its kept
    /// reservations give, one that is gone has none.
    ///
    /// A table that came for a namespace before its description did is newer, and stays.
    pub fn serve(&mut self, description: &TargetDescription) {
        let mut before = std::mem::take(&mut self.tables);
        for namespace in description.subsystems.values().flat_map(|one| one.namespaces()) {
            let table = before
                .remove(&namespace.uuid)
                .unwrap_or_else(|| namespace.reservations.initial().access_table());
            self.tables.insert(namespace.uuid, table);
        }
    }

    /// What a host may do at a namespace.
    pub fn grant(&self, namespace: Uuid, host: Option<RegistrantId>) -> Grant {
        match self.tables.get(&namespace) {
            Some(table) => grant(table, host),
            None => AccessTable::open().grant_of_nobody(),
        }
    }
}

fn grant(table: &AccessTable, host: Option<RegistrantId>) -> Grant {
    host.map_or_else(|| table.grant_of_nobody(), |host| table.grant(&host))
}

impl Queue {
    /// The way to the namespace of a command.
    #[inline]
    pub fn path_of(&self, command: &SubmissionEntry) -> Option<&NamespacePath> {
        let place = command.namespace_id.get().wrapping_sub(1) as usize;
        self.namespaces.get(place)?.as_ref()
    }

    /// Why an I/O of a command may not go to the device: the right may have been lost while its
    /// data came.
    #[inline]
    pub fn conflict(&self, command: &SubmissionEntry, operation: Operation) -> Option<Status> {
        let path = self.path_of(command)?;
        let access = path.grant.access(AccessClass::of(operation));
        (access == Access::Conflict).then(conflict)
    }
}

/// The status of what a reservation does not let pass. To retry is for the host to decide once it
/// knows more.
#[cold]
pub(in crate::target) fn conflict() -> Status {
    Status::RESERVATION_CONFLICT.with_do_not_retry()
}

/// What a new table means for a connection.
#[derive(Clone, Copy, Debug)]
struct Judgement {
    grant: Grant,
    /// Its host is one of those whose commands are aborted.
    is_aborted: bool,
}

impl Judgement {
    /// How an I/O that has not begun ends, if it does.
    fn status(&self, io: &Io) -> Option<Status> {
        if self.is_aborted {
            return Some(Status::ABORTED_PREEMPT.with_do_not_retry());
        }
        let access = self.grant.access(AccessClass::of(io.operation));
        (access == Access::Conflict).then(conflict)
    }

    /// Whether what its host has at the device is to be awaited. What the device is doing for a
    /// command may be more than the command says (a fused pair), so that for a host that has lost
    /// anything all of it is.
    fn awaits(&self) -> bool {
        self.is_aborted || !self.grant.is_unlimited()
    }
}

impl TargetCore {
    /// A new table is in force here from now on, and the home core told once nothing that it
    /// forbids is at the device any more.
    pub(in crate::target) fn take_access(&mut self, cx: &mut Cx, access: NewAccess) {
        let NewAccess { namespace, round, table, aborts } = access;
        let mut judgements = BTreeMap::new();
        let mut roots: Vec<SlotId> = Vec::new();
        let mut awaited: Vec<Token> = Vec::new();
        for (id, connection) in self.connections.iter_mut() {
            let Some(queue) = connection.queue.as_mut() else { continue };
            let grant = grant(&table, queue.host);
            let is_aborted = queue.host.is_some_and(|host| aborts.contains(&host));
            let ways = queue.namespaces.iter_mut().flatten();
            for path in ways.filter(|path| path.uuid == namespace) {
                path.grant = grant;
                if !roots.contains(&path.root) {
                    roots.push(path.root);
                }
            }
            let judgement = Judgement { grant, is_aborted };
            if judgement.awaits() {
                judgements.insert(id.index, judgement);
                at_device(id, connection, namespace, &mut awaited);
            }
        }
        self.state.rights.tables.insert(namespace, table);
        for root in roots {
            self.withdraw(cx, root, &judgements, &mut awaited);
        }
        self.state.rights.fences.begin(namespace, round, awaited);
    }

    /// Answers what has not begun and may not any more.
    fn withdraw(
        &mut self,
        cx: &mut Cx,
        root: SlotId,
        judgements: &BTreeMap<u32, Judgement>,
        awaited: &mut Vec<Token>,
    ) {
        let status = |io: &Io| {
            let (connection, _, _) = parts(io.token);
            judgements.get(&connection).and_then(|judgement| judgement.status(io))
        };
        for io in self.state.roots.withdraw(root, |io| status(io).is_some()) {
            let status = status(&io).expect("chosen for having one");
            awaited.retain(|token| *token != io.token);
            self.complete(cx, Completion::new(io.token, status));
        }
    }

    /// Tells the home core of tables that are in force here.
    #[cold]
    pub(in crate::target) fn report_access(&mut self) {
        while let Some((namespace, round)) = self.state.rights.fences.take_finished() {
            self.state.tell_home(Message::AccessInForce { namespace, round });
        }
    }
}

/// Notes what a connection has at a namespace's device, or waiting for it.
fn at_device(id: SlotId, connection: &Connection, namespace: Uuid, tokens: &mut Vec<Token>) {
    let Some(queue) = &connection.queue else { return };
    for (slot, request) in (0..).zip(&connection.requests) {
        let path = queue.path_of(&request.command);
        let is_there = request.state == RequestState::InDevice;
        if is_there && path.is_some_and(|path| path.uuid == namespace) {
            tokens.push(connection::token(id, slot, request.generation));
        }
    }
}
