//! Commands on subsystems, and on their namespaces, hosts and ANA states.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::BlockDevice;
use nvmf::fabrics::Nqn;
use nvmf::target::namespace::Namespace;
use nvmf::target::namespace::NamespaceId;
use nvmf::target::statistics::NamespaceStatistics;
use uuid::Uuid;

use super::devices;
use super::learning::Learnt;
use super::state::{Deadline, State};
use super::{Guard, Shared};
use crate::command::error::Object;
use crate::command::limits::{HOSTS_MAX, NAMESPACES_MAX, SUBSYSTEMS_MAX};
use crate::command::{
    Access, AddNamespace, AddSubsystem, AnaState, CommandError, HostChoice, Reply, SetAnaState,
    field,
};
use crate::export::Export;
use crate::model::draw_uuid;
use crate::model::subsystem::{NamespaceEntry, SubsystemEntry};

/// What to do about an object that is going.
const GOING: &str = "wait until it is gone, or give the command to remove it again";

impl Shared {
    pub(super) fn add_subsystem(
        self: &Arc<Shared>,
        asked: &AddSubsystem,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(&asked.subsystem)?;
        let controller_ids = field::controller_ids(asked.controller_ids)?;
        let queue_entries = field::queue_entries(asked.queue_entries)?;
        let name = nqn.as_str();
        let mut state = self.lock();
        if let Some(entry) = state.model.subsystems.get(name) {
            let difference = if entry.gone_since.is_some() {
                return Err(is_going(Object::Subsystem, name.to_owned()));
            } else if entry.controller_ids != controller_ids {
                let (first, last) = (entry.controller_ids.start(), entry.controller_ids.end());
                Some(format!("its controllers are {first} to {last}"))
            } else if entry.queue_entries != queue_entries {
                Some(format!("its I/O queues have up to {} entries", entry.queue_entries))
            } else if entry.policy != asked.hosts {
                Some(String::from("lets other hosts connect"))
            } else {
                None
            };
            if let Some(difference) = difference {
                let (what, name) = (Object::Subsystem, name.to_owned());
                return Err(CommandError::AlreadyExists { what, name, difference });
            }
        } else {
            if state.model.subsystems.len() >= SUBSYSTEMS_MAX {
                let (what, limit) = (Object::Subsystem, SUBSYSTEMS_MAX);
                return Err(CommandError::LimitReached { what, limit });
            }
            let entry = SubsystemEntry {
                id: state.model.next_subsystem_id(),
                nqn,
                controller_ids,
                queue_entries,
                policy: asked.hosts,
                hosts: BTreeMap::new(),
                ana: AnaState::Optimized,
                drawn: draw_uuid(),
                namespaces: BTreeMap::new(),
                gone_since: None,
                serial: String::new(),
                built: None,
            };
            state.model.subsystems.insert(name.to_owned(), entry);
            self.publish(&mut state);
        }
        self.subsystem_served(state, name, deadline)
    }

    pub(super) fn remove_subsystem(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(name)?;
        let name = nqn.as_str();
        let mut state = self.lock();
        let since = state.next_generation();
        let found = state.model.subsystems.get_mut(name);
        let entry = found.ok_or_else(|| is_missing(Object::Subsystem, name.to_owned()))?;
        let id = entry.id;
        if entry.gone_since.is_none() {
            entry.gone_since = Some(since);
            entry.built = None;
            let mut going = Vec::new();
            for (namespace, one) in &mut entry.namespaces {
                one.gone_since.get_or_insert(since);
                going.push((name.to_owned(), *namespace));
            }
            state.model.going.namespaces.extend(going);
            state.model.going.subsystems.insert(name.to_owned());
            self.publish(&mut state);
        }
        let look = |state: &mut State| {
            let entry = state.model.subsystems.get(name);
            entry.is_none_or(|entry| entry.id != id).then_some(())
        };
        let late = |state: &State| {
            let known = format!("subsystem {name} takes no more I/O");
            deadline.passed(known, state.progress(since_of(state, name)))
        };
        drop(self.wait(state, deadline, look, late)?);
        Ok(Reply::Done)
    }

    pub(super) fn add_namespace(
        self: &Arc<Shared>,
        asked: &AddNamespace,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(&asked.subsystem)?;
        let device = field::device(&asked.device)?;
        let id = asked.namespace.map(field::namespace).transpose()?;
        let uuid = field::uuid(asked.uuid.as_deref())?;
        let name = nqn.as_str();
        let mut state = self.lock();
        present(&mut state, name)?;
        state = self.when_idle(state, device, deadline)?;
        let wanted = Wanted { nqn, device, id, uuid, access: asked.access };
        let mut learnt: Option<(Uuid, Learnt)> = None;
        let id = loop {
            let (id, is_new) = wanted.place(&mut state)?;
            if !is_new {
                break id;
            }
            let (top, uuid) = wanted.identity(&state, id)?;
            if let Some((_, learnt)) = learnt.take_if(|(known, _)| *known == uuid) {
                wanted.insert(&mut state, id, learnt, self.options.cores)?;
                self.publish(&mut state);
                break id;
            }
            wanted.check_identity(&state, uuid)?;
            // To read what a device has kept takes as long as the device does: without the lock,
            // and then all is looked at anew.
            let (found, told) = self.learn(state, device, (top, uuid), deadline)?;
            (state, learnt) = (found, Some((uuid, told)));
            present(&mut state, name)?;
            state = self.when_idle(state, device, deadline)?;
        };
        let generation = state.generation;
        let known = || format!("namespace {} of {name} is made", id.0);
        let state = self.wait_applied(state, deadline, generation, known)?;
        state.failure(name, generation).map_or(Ok(()), Err)?;
        namespace_reply(&state, name, id)
    }

    pub(super) fn remove_namespace(
        self: &Arc<Shared>,
        name: &str,
        namespace: u32,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(name)?;
        let id = field::namespace(namespace)?;
        let name = nqn.as_str();
        let mut state = self.lock();
        let next = state.next_generation();
        let found = state.model.subsystems.get_mut(name);
        let subsystem = found.ok_or_else(|| is_missing(Object::Subsystem, name.to_owned()))?;
        let found = subsystem.namespaces.get_mut(&id.0);
        let entry = found.ok_or_else(|| is_missing(Object::Namespace, of(name, id)))?;
        let since = *entry.gone_since.get_or_insert(next);
        if since == next {
            subsystem.built = None;
            state.model.going.namespaces.insert((name.to_owned(), id.0));
            self.publish(&mut state);
        }
        let look = |state: &mut State| {
            let subsystem = state.model.subsystems.get(name);
            let entry = subsystem.and_then(|subsystem| subsystem.namespaces.get(&id.0));
            entry.is_none_or(|entry| entry.gone_since != Some(since)).then_some(())
        };
        let late = |state: &State| {
            let known = format!("namespace {} takes no more I/O", of(name, id));
            deadline.passed(known, state.progress(since))
        };
        drop(self.wait(state, deadline, look, late)?);
        Ok(Reply::Done)
    }

    pub(super) fn resize_namespace(
        self: &Arc<Shared>,
        name: &str,
        namespace: u32,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(name)?;
        let id = field::namespace(namespace)?;
        let name = nqn.as_str();
        let device = {
            let mut state = self.lock();
            present_namespace(present(&mut state, name)?, id)?.device.clone()
        };
        let state = self.measure(&device, None, deadline)?;
        namespace_reply(&state, name, id)
    }

    pub(super) fn add_host(
        self: &Arc<Shared>,
        name: &str,
        host: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let host = field::host(host)?;
        self.change_subsystem(name, deadline, |entry| {
            if entry.hosts.contains_key(host.as_str()) {
                return Ok(());
            }
            if entry.hosts.len() >= HOSTS_MAX {
                return Err(CommandError::LimitReached { what: Object::Host, limit: HOSTS_MAX });
            }
            entry.hosts.insert(host.as_str().to_owned(), host);
            entry.built = None;
            Ok(())
        })
    }

    pub(super) fn remove_host(
        self: &Arc<Shared>,
        name: &str,
        host: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let host = field::host(host)?;
        self.change_subsystem(name, deadline, |entry| {
            let removed = entry.hosts.remove(host.as_str());
            removed.ok_or_else(|| is_missing(Object::Host, host.as_str().to_owned()))?;
            entry.built = None;
            Ok(())
        })
    }

    pub(super) fn set_host_policy(
        self: &Arc<Shared>,
        name: &str,
        policy: HostChoice,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.change_subsystem(name, deadline, |entry| {
            if entry.policy != policy {
                entry.policy = policy;
                entry.built = None;
            }
            Ok(())
        })
    }

    pub(super) fn set_ana_state(
        self: &Arc<Shared>,
        asked: &SetAnaState,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let id = asked.namespace.map(field::namespace).transpose()?;
        let ana = asked.state;
        self.change_subsystem(&asked.subsystem, deadline, |entry| {
            match id {
                Some(id) => present_namespace(entry, id)?.ana = ana,
                None => {
                    entry.ana = ana;
                    entry.namespaces.values_mut().for_each(|one| one.ana = ana);
                }
            }
            entry.built = None;
            Ok(())
        })
    }

    /// Changes a subsystem that is there, and waits until every core serves it so.
    fn change_subsystem(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
        change: impl FnOnce(&mut SubsystemEntry) -> Result<(), CommandError>,
    ) -> Result<Reply, CommandError> {
        let nqn = field::subsystem(name)?;
        let mut state = self.lock();
        let entry = present(&mut state, nqn.as_str())?;
        change(entry)?;
        if entry.built.is_none() {
            self.publish(&mut state);
        }
        self.subsystem_served(state, nqn.as_str(), deadline)
    }

    /// Waits until every core has what the model has now.
    fn subsystem_served<'a>(
        self: &'a Arc<Shared>,
        state: Guard<'a>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let generation = state.generation;
        let known = || format!("subsystem {name} is changed");
        let state = self.wait_applied(state, deadline, generation, known)?;
        let entry = state.model.subsystems.get(name);
        let entry = entry.ok_or_else(|| is_missing(Object::Subsystem, name.to_owned()))?;
        Ok(Reply::Subsystem(entry.info(&state.model.devices)))
    }
}

/// A namespace that is asked for, its fields checked.
struct Wanted<'a> {
    nqn: Nqn,
    device: &'a str,
    id: Option<NamespaceId>,
    uuid: Option<Uuid>,
    access: Access,
}

impl Wanted<'_> {
    /// Its identifier, and whether it is to be made: the same one may be there.
    fn place(&self, state: &mut Guard<'_>) -> Result<(NamespaceId, bool), CommandError> {
        let entry = present(state, self.nqn.as_str())?;
        let same = entry.present().find(|(id, one)| {
            self.id.is_none_or(|wanted| wanted.0 == *id) && self.is_like(NamespaceId(*id), one)
        });
        if let Some((id, _)) = same {
            return Ok((NamespaceId(id), false));
        }
        if entry.namespaces.len() >= NAMESPACES_MAX {
            let (what, limit) = (Object::Namespace, NAMESPACES_MAX);
            return Err(CommandError::LimitReached { what, limit });
        }
        let Some(id) = self.id else {
            let mut ids = 1..;
            let free = ids.find(|id| !entry.namespaces.contains_key(id));
            return Ok((NamespaceId(free.expect("fewer than the limit are taken")), true));
        };
        let Some(other) = entry.namespaces.get(&id.0) else { return Ok((id, true)) };
        let name = of(self.nqn.as_str(), id);
        if other.gone_since.is_some() {
            return Err(is_going(Object::Namespace, name));
        }
        let difference = format!(
            "it is device {} with uuid {}, {}",
            other.device,
            other.uuid,
            match other.access {
                Access::ReadWrite => "for reading and writing",
                Access::ReadOnly => "for reading only",
            }
        );
        Err(CommandError::AlreadyExists { what: Object::Namespace, name, difference })
    }

    fn is_like(&self, id: NamespaceId, other: &NamespaceEntry) -> bool {
        let derived = || Namespace::derived_uuid(&self.nqn, id);
        let uuid = self.uuid.or_else(|| other.export.uuid()).unwrap_or_else(derived);
        other.device == self.device && other.access == self.access && other.uuid == uuid
    }

    /// The device, and the identity that the namespace is to have.
    fn identity(
        &self,
        state: &Guard<'_>,
        id: NamespaceId,
    ) -> Result<(Arc<dyn BlockDevice>, Uuid), CommandError> {
        let devices = &state.model.devices;
        let device = devices.get(self.device).and_then(|entry| entry.stack());
        let stack = device.ok_or_else(|| devices::is_missing(self.device))?;
        let own = self.uuid.or_else(|| stack.base.uuid());
        let uuid = own.unwrap_or_else(|| Namespace::derived_uuid(&self.nqn, id));
        Ok((stack.top(), uuid))
    }

    fn insert(
        &self,
        state: &mut Guard<'_>,
        id: NamespaceId,
        Learnt { reservations, allocation }: Learnt,
        cores: usize,
    ) -> Result<(), CommandError> {
        let (top, uuid) = self.identity(state, id)?;
        self.check_identity(state, uuid)?;
        devices::check_unclaimed(state, self.device)?;
        let export = Export::new(top);
        let entry = state.model.devices.get_mut(self.device);
        entry.ok_or_else(|| devices::is_missing(self.device))?.users += 1;
        let subsystem = present(state, self.nqn.as_str())?;
        let namespace = NamespaceEntry {
            device: self.device.to_owned(),
            export,
            uuid,
            access: self.access,
            ana: subsystem.ana,
            statistics: Arc::new(NamespaceStatistics::new(cores)),
            reservations,
            allocation,
            gone_since: None,
        };
        subsystem.namespaces.insert(id.0, namespace);
        subsystem.built = None;
        Ok(())
    }

    /// A host takes two namespaces with one identity for one: so none is given twice, but to the
    /// same device in different subsystems, which are ways for different hosts. One that is going
    /// is waited for: its last record of reservations may not be on the medium yet.
    fn check_identity(&self, state: &Guard<'_>, uuid: Uuid) -> Result<(), CommandError> {
        for (nqn, subsystem) in &state.model.subsystems {
            let mut namespaces = subsystem.namespaces.iter();
            let going = namespaces.find(|(_, one)| one.uuid == uuid && one.gone_since.is_some());
            if let Some((id, _)) = going {
                return Err(is_going(Object::Namespace, of(nqn, NamespaceId(*id))));
            }
            let twin = subsystem.namespaces.iter().find(|(_, one)| {
                one.uuid == uuid && (one.device != self.device || subsystem.nqn == self.nqn)
            });
            let Some((id, one)) = twin else { continue };
            return Err(CommandError::AlreadyExists {
                what: Object::Namespace,
                name: of(nqn, NamespaceId(*id)),
                difference: format!(
                    "device {} has the same uuid {uuid} there: give each its own",
                    one.device
                ),
            });
        }
        Ok(())
    }
}

/// A subsystem that is not going.
fn present<'a>(
    state: &'a mut Guard<'_>,
    name: &str,
) -> Result<&'a mut SubsystemEntry, CommandError> {
    let found = state.model.subsystems.get_mut(name);
    let entry = found.ok_or_else(|| is_missing(Object::Subsystem, name.to_owned()))?;
    match entry.gone_since {
        None => Ok(entry),
        Some(_) => Err(is_going(Object::Subsystem, name.to_owned())),
    }
}

/// A namespace that is not going.
fn present_namespace(
    entry: &mut SubsystemEntry,
    id: NamespaceId,
) -> Result<&mut NamespaceEntry, CommandError> {
    let name = of(entry.nqn.as_str(), id);
    let found = entry.namespaces.get_mut(&id.0);
    let namespace = found.ok_or_else(|| is_missing(Object::Namespace, name.clone()))?;
    match namespace.gone_since {
        None => Ok(namespace),
        Some(_) => Err(is_going(Object::Namespace, name)),
    }
}

fn namespace_reply(state: &Guard<'_>, name: &str, id: NamespaceId) -> Result<Reply, CommandError> {
    let subsystem = state.model.subsystems.get(name);
    let found = subsystem.and_then(|one| Some((one, one.namespaces.get(&id.0)?)));
    let (subsystem, one) = found.ok_or_else(|| is_missing(Object::Namespace, of(name, id)))?;
    let device = state.model.devices.get(&one.device);
    Ok(Reply::Namespace(one.info(&subsystem.nqn, id.0, device)))
}

/// The first description without a subsystem that is going.
fn since_of(state: &State, name: &str) -> crate::model::Generation {
    let entry = state.model.subsystems.get(name);
    entry.and_then(|entry| entry.gone_since).unwrap_or(state.generation)
}

/// How a namespace is called in a message.
fn of(subsystem: &str, id: NamespaceId) -> String {
    format!("{} of {subsystem}", id.0)
}

fn is_missing(what: Object, name: String) -> CommandError {
    CommandError::NotFound { what, name }
}

fn is_going(what: Object, name: String) -> CommandError {
    CommandError::InUse { what, name, user: String::from("its removal"), advice: GOING }
}
