//! A changed description, brought to a core while hosts are connected.
//!
//! Called on the core's own thread by the engine, for one description after the other. What is new
//! holds from the next command on. What is gone takes no new I/O: what had not begun is answered,
//! what is at a device ends there, and then [`TargetCore::is_settled`]. Controllers of this core
//! raise their events (NVMe Base 2.0 section 5.2: attached namespace attributes, ANA, discovery).

use std::collections::BTreeSet;
use std::sync::Arc;

use bdev::{Completion, Status};
use reactor::Cx;
use reactor::slab::SlotId;

use super::core::TargetCore;
use super::description::{SubsystemId, TargetDescription};
use super::namespace::{Namespace, NamespaceId};
use super::reservation::keeping::Keeping;
use super::roots::RootError;
use super::subsystem::{Subsystem, SubsystemKind};

/// A namespace that this core could not open. The rest of the description is served.
#[derive(Debug, thiserror::Error)]
#[error("subsystem {subsystem}: a namespace cannot be opened")]
pub struct ApplyError {
    /// Name of the subsystem.
    pub subsystem: String,
    /// Why.
    #[source]
    pub source: RootError,
}

/// What changed of a subsystem's namespaces, as hosts are told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    namespaces: BTreeSet<NamespaceId>,
    ana: bool,
}

impl TargetCore {
    /// Serves `description` from now on.
    ///
    /// # Errors
    ///
    /// The first namespace that could not be opened here, for a queue that is connected; its hosts
    /// are told that there is none.
    pub fn apply(
        &mut self,
        cx: &mut Cx,
        description: Arc<TargetDescription>,
    ) -> Result<(), ApplyError> {
        let before = std::mem::replace(&mut self.state.description, Arc::clone(&description));
        let mut outcome = Ok(());
        self.serve_reservations(cx, &description);
        self.retire_roots(cx, &description);
        for (id, old) in &before.subsystems {
            let closed = match description.subsystems.get(id) {
                Some(new) if Arc::ptr_eq(old, new) => continue,
                Some(new) => {
                    let changed = self.change_subsystem(cx, *id, old, new);
                    outcome = outcome.and(changed);
                    self.connections_of(*id, |host| !new.hosts().allows(host))
                }
                None => self.connections_of(*id, |_| true),
            };
            for connection in closed {
                self.with(cx, connection, |one, step, _| step.core.lost(one, step.id, step.cx));
            }
        }
        if !description.is_discovered_like(&before) {
            self.tell_discovery(cx);
        }
        self.state.peers.publish();
        outcome
    }

    /// True when nothing that was removed or replaced is in use on this core any more.
    pub fn is_settled(&self) -> bool {
        let stored = self.keeping.as_ref().is_none_or(Keeping::is_settled);
        stored && self.state.roots.are_settled()
    }

    /// A namespace whose changed device could not be opened here after [`TargetCore::apply`], when
    /// the I/O at the device before it was done; each once. Its I/O is refused from then on.
    pub fn take_failure(&mut self) -> Option<ApplyError> {
        let (id, source) = self.state.roots.take_failure()?;
        let subsystem = self.state.description.subsystems.get(&id);
        let subsystem = subsystem.map_or_else(String::new, |found| found.nqn().to_string());
        Some(ApplyError { subsystem, source })
    }

    /// Namespaces that the description does not have any more take nothing new.
    fn retire_roots(&mut self, cx: &mut Cx, description: &TargetDescription) {
        let is_gone = |(subsystem, namespace): &(SubsystemId, NamespaceId)| {
            let subsystem = description.subsystems.get(subsystem);
            subsystem.and_then(|subsystem| subsystem.namespace(*namespace)).is_none()
        };
        let gone: Vec<_> = self.state.roots.open().filter(is_gone).collect();
        let status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();
        for (subsystem, namespace) in gone {
            for io in self.state.roots.retire(subsystem, namespace) {
                self.complete(cx, Completion::new(io.token, status));
            }
        }
    }

    fn change_subsystem(
        &mut self,
        cx: &mut Cx,
        id: SubsystemId,
        old: &Subsystem,
        new: &Subsystem,
    ) -> Result<(), ApplyError> {
        let failed = |source| ApplyError { subsystem: new.nqn().to_string(), source };
        let mut outcome = Ok(());
        for namespace in new.namespaces() {
            outcome = outcome.and(self.state.roots.follow(cx, id, namespace).map_err(failed));
        }
        for connection in self.connections_of_queues(id) {
            outcome = outcome.and(self.renew_paths(cx, connection, id).map_err(failed));
        }
        let changes = Changes::between(old, new);
        if changes != Changes::default() {
            self.tell_controllers(cx, id, &changes);
        }
        outcome
    }

    /// A queue's ways to the namespaces, as they are now.
    fn renew_paths(
        &mut self,
        cx: &mut Cx,
        connection: SlotId,
        id: SubsystemId,
    ) -> Result<(), RootError> {
        let found = self.connections.get_mut(connection).and_then(|one| one.queue.as_mut());
        let Some(queue) = found else { return Ok(()) };
        let (paths, outcome) =
            self.state.namespace_paths(cx, id, (queue.entries, queue.host), &queue.namespaces);
        queue.namespaces = paths;
        outcome
    }

    /// I/O queues of a subsystem.
    fn connections_of_queues(&self, id: SubsystemId) -> Vec<SlotId> {
        let is_queue = |connection: &super::connection::Connection| {
            let queue = connection.queue.as_ref().filter(|_| connection.is_open());
            queue.is_some_and(|queue| queue.controller.subsystem == id && queue.id != 0)
        };
        self.connections.iter().filter(|(_, one)| is_queue(one)).map(|(slot, _)| slot).collect()
    }

    /// Admin queues of a subsystem whose host `chosen` names, which take their I/O queues along.
    fn connections_of(
        &self,
        id: SubsystemId,
        chosen: impl Fn(&crate::fabrics::Nqn) -> bool,
    ) -> Vec<SlotId> {
        let is_chosen = |connection: &super::connection::Connection| {
            let queue = connection.queue.as_ref();
            let of_it = queue.is_some_and(|queue| queue.controller.subsystem == id);
            let admin = connection.admin.as_ref();
            of_it && admin.is_some_and(|admin| chosen(admin.host_nqn()))
        };
        self.connections.iter().filter(|(_, one)| is_chosen(one)).map(|(slot, _)| slot).collect()
    }

    fn tell_controllers(&mut self, cx: &mut Cx, id: SubsystemId, changes: &Changes) {
        for connection in self.connections_of(id, |_| true) {
            self.with(cx, connection, |one, step, _| {
                let Some(admin) = one.admin.as_mut() else { return };
                for namespace in &changes.namespaces {
                    admin.notice_namespace_change(*namespace);
                }
                if changes.ana {
                    admin.notice_ana_change();
                }
                one.answer_events(step);
            });
        }
    }

    fn tell_discovery(&mut self, cx: &mut Cx) {
        let description = Arc::clone(&self.state.description);
        let discovery = description
            .subsystems
            .iter()
            .filter(|(_, subsystem)| subsystem.kind() == SubsystemKind::Discovery);
        for (id, _) in discovery {
            for connection in self.connections_of(*id, |_| true) {
                self.with(cx, connection, |one, step, _| {
                    let Some(admin) = one.admin.as_mut() else { return };
                    admin.notice_discovery_change();
                    one.answer_events(step);
                });
            }
        }
    }
}

impl Changes {
    /// What a host has to be told of when `new` takes the place of `old`.
    fn between(old: &Subsystem, new: &Subsystem) -> Changes {
        let mut changes = Changes::default();
        let ids = old.namespaces().iter().chain(new.namespaces()).map(|one| one.id);
        for id in ids {
            match (old.namespace(id), new.namespace(id)) {
                (Some(before), Some(after)) => {
                    if !looks_alike(before, after) {
                        changes.namespaces.insert(id);
                    }
                    changes.ana |= before.ana != after.ana;
                }
                // With a namespace comes or goes its ANA group.
                _ => {
                    changes.namespaces.insert(id);
                    changes.ana = true;
                }
            }
        }
        changes
    }
}

/// Whether Identify shows the same of both.
fn looks_alike(before: &Namespace, after: &Namespace) -> bool {
    before.geometry == after.geometry
        && before.uuid == after.uuid
        && before.is_read_only() == after.is_read_only()
}
