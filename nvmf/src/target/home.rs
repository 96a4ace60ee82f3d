//! The register of controllers: which ids are in use, by which host, with which queues.
//!
//! Lives on the target's first core; the others ask by message when a host connects or goes away.
//! Plain data in and out. NVMe over Fabrics section 3.3 (Connect), NVMe Base 2.0 section 6.3.

use std::collections::{BTreeMap, BTreeSet};

use bdev::Status;

use super::message::{ConnectQuestion, ControllerChange, ControllerKey, QueueKind};
use crate::fabrics::Nqn;
use crate::fabrics::connect::ConnectParameter;

/// Controllers that a target can have at once.
pub(super) const CONTROLLERS_MAX: usize = 4096;

#[derive(Debug)]
struct Entry {
    usage: u32,
    host: HostIdentity,
    enabled: bool,
    queues: BTreeSet<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostIdentity {
    nqn: Nqn,
    id: [u8; 16],
}

/// The register.
#[derive(Debug, Default)]
pub(super) struct Home {
    controllers: BTreeMap<(u16, u16), Entry>,
    last_id: BTreeMap<u16, u16>,
    usages: u32,
}

impl Home {
    /// Decides on a Connect: makes a controller for an admin queue, finds it for an I/O queue.
    ///
    /// # Errors
    /// Status and result of the completion that refuses it.
    pub fn connect(&mut self, request: &ConnectQuestion) -> Result<ControllerKey, (Status, u32)> {
        let host = HostIdentity { nqn: request.host_nqn, id: request.host_id };
        match request.queue {
            QueueKind::Admin => self.create(request, host),
            QueueKind::Io { queue_id, controller_id } => {
                self.attach((request.subsystem, controller_id), queue_id, &host)
            }
        }
    }

    /// A queue of a controller is gone. Late news of an earlier use of the id are ignored.
    pub fn queue_closed(&mut self, controller: ControllerKey, queue_id: u16) {
        if let Some(entry) = self.entry(controller) {
            entry.queues.remove(&queue_id);
        }
    }

    /// A controller changed; true when its I/O queues must be closed on every core.
    pub fn change(&mut self, controller: ControllerKey, change: ControllerChange) -> bool {
        let Some(entry) = self.entry(controller) else { return false };
        match change {
            ControllerChange::Enabled => {
                entry.enabled = true;
                false
            }
            ControllerChange::Disabled => {
                entry.enabled = false;
                true
            }
            ControllerChange::Gone => {
                self.controllers.remove(&(controller.subsystem, controller.id));
                true
            }
        }
    }

    fn entry(&mut self, controller: ControllerKey) -> Option<&mut Entry> {
        self.controllers
            .get_mut(&(controller.subsystem, controller.id))
            .filter(|entry| entry.usage == controller.usage)
    }

    fn create(
        &mut self,
        request: &ConnectQuestion,
        host: HostIdentity,
    ) -> Result<ControllerKey, (Status, u32)> {
        if self.controllers.len() >= CONTROLLERS_MAX {
            return Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        }
        let subsystem = request.subsystem;
        let range = &request.controller_ids;
        let last = self.last_id.get(&subsystem).copied();
        // Ids are used again as late as can be, so that a host's stale id finds nobody.
        let after = last.filter(|last| last < range.end()).map_or(*range.start(), |last| last + 1);
        let free = (after..=*range.end())
            .chain(*range.start()..after)
            .find(|id| !self.controllers.contains_key(&(subsystem, *id)))
            .ok_or((Status::CONNECT_CONTROLLER_BUSY, 0))?;
        self.last_id.insert(subsystem, free);
        self.usages = self.usages.wrapping_add(1);
        let usage = self.usages;
        let entry = Entry { usage, host, enabled: false, queues: BTreeSet::new() };
        self.controllers.insert((subsystem, free), entry);
        Ok(ControllerKey { subsystem, id: free, usage })
    }

    fn attach(
        &mut self,
        key: (u16, u16),
        queue_id: u16,
        host: &HostIdentity,
    ) -> Result<ControllerKey, (Status, u32)> {
        // Another host's controller is answered like one that does not exist.
        let entry = self
            .controllers
            .get_mut(&key)
            .filter(|entry| entry.host == *host)
            .ok_or((Status::CONNECT_INVALID_PARAMETERS, ConnectParameter::ControllerId.result()))?;
        // NVMe over Fabrics 3.3: a queue that exists, or a controller that is not enabled.
        if !entry.enabled || !entry.queues.insert(queue_id) {
            return Err((Status::COMMAND_SEQUENCE_ERROR, 0));
        }
        Ok(ControllerKey { subsystem: key.0, id: key.1, usage: entry.usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(queue: QueueKind, host_id: u8) -> ConnectQuestion {
        ConnectQuestion {
            subsystem: 1,
            queue,
            host_nqn: "nqn.2014-08.org.example:host".parse().unwrap(),
            host_id: [host_id; 16],
            controller_ids: 1..=3,
        }
    }

    fn io(queue_id: u16, controller: ControllerKey) -> QueueKind {
        QueueKind::Io { queue_id, controller_id: controller.id }
    }

    #[test]
    fn an_io_queue_needs_an_enabled_controller_of_its_own_host() {
        let mut home = Home::default();
        let made = home.connect(&question(QueueKind::Admin, 1)).unwrap();
        let early = home.connect(&question(io(1, made), 1));
        assert_eq!(early, Err((Status::COMMAND_SEQUENCE_ERROR, 0)));
        assert!(!home.change(made, ControllerChange::Enabled));
        assert_eq!(home.connect(&question(io(1, made), 1)), Ok(made));
        let twice = home.connect(&question(io(1, made), 1));
        assert_eq!(twice, Err((Status::COMMAND_SEQUENCE_ERROR, 0)));
        let other_host = home.connect(&question(io(2, made), 2)).unwrap_err();
        assert_eq!(other_host.0, Status::CONNECT_INVALID_PARAMETERS);
        home.queue_closed(made, 1);
        assert_eq!(home.connect(&question(io(1, made), 1)), Ok(made));
    }

    #[test]
    fn ids_run_out_and_come_back_with_another_usage() {
        let mut home = Home::default();
        let admin = question(QueueKind::Admin, 1);
        let made: Vec<_> = (0..3).map(|_| home.connect(&admin).unwrap()).collect();
        assert_eq!(made.iter().map(|key| key.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(home.connect(&admin), Err((Status::CONNECT_CONTROLLER_BUSY, 0)));
        assert!(home.change(made[1], ControllerChange::Gone));
        let again = home.connect(&admin).unwrap();
        assert_eq!(again.id, 2);
        assert_ne!(again.usage, made[1].usage);
        assert!(!home.change(made[1], ControllerChange::Disabled), "old news of an id used again");
    }

    #[test]
    fn a_controller_that_is_disabled_loses_its_queues() {
        let mut home = Home::default();
        let made = home.connect(&question(QueueKind::Admin, 1)).unwrap();
        home.change(made, ControllerChange::Enabled);
        home.connect(&question(io(1, made), 1)).unwrap();
        assert!(home.change(made, ControllerChange::Disabled));
        let refused = home.connect(&question(io(2, made), 1));
        assert_eq!(refused, Err((Status::COMMAND_SEQUENCE_ERROR, 0)));
    }
}
