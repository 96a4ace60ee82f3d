//! Commands on vhost devices.
//!
//! Sockets are bound, and sessions ended, without the lock: both wait for others.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bdev::BlockDevice;
use reactor::inbox::CallError;
use uuid::{Uuid, uuid};
use vhost_blk::core::setup::DeviceKey;
use vhost_blk::session::cores::{CoreWork, Cores};
use vhost_blk::session::{ServeError, VhostDevice, VhostOptions};

use super::stage::Stage;
use super::state::{Deadline, State};
use super::{Shared, devices};
use crate::command::error::Object;
use crate::command::limits::VHOSTS_MAX;
use crate::command::{
    AddVhost, CommandError, Progress, Reply, VHOST_QUEUES_DEFAULT, VhostCommand, field,
};
use crate::export::Export;
use crate::model::vhost::{VhostEntry, VhostPhase};

/// The name space, in the sense of RFC 4122, of serial numbers of devices without an identity.
/// Never to be changed: guests find their disks by them.
const SERIAL_SPACE: Uuid = uuid!("c0a4c9a1-2f8e-4e0b-8a8e-6d7f0b1d5a33");

/// Digits of a serial number.
const SERIAL_DIGITS: usize = 20;

/// The cores, as sessions see them.
#[derive(Debug)]
struct StageCores {
    stage: Arc<dyn Stage>,
    count: usize,
}

impl Cores for StageCores {
    fn count(&self) -> usize {
        self.count
    }

    fn run(&self, place: usize, within: Duration, work: CoreWork) -> Result<(), CallError> {
        self.stage.at_rings(place, within, work)
    }
}

impl Shared {
    /// Carries out what changes vhost devices.
    pub(super) fn change_vhosts(
        self: &Arc<Shared>,
        command: &VhostCommand,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        match command {
            VhostCommand::List => Ok(self.list_vhosts()),
            VhostCommand::Add(asked) => self.add_vhost(asked, deadline),
            VhostCommand::Remove { socket } => self.remove_vhost(socket, deadline),
        }
    }

    pub(super) fn list_vhosts(&self) -> Reply {
        let state = self.lock();
        Reply::Vhosts(state.model.vhosts.values().map(VhostEntry::info).collect())
    }

    fn add_vhost(
        self: &Arc<Shared>,
        asked: &AddVhost,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let socket = field::vhost_socket(&asked.socket)?.to_owned();
        let device = field::device(&asked.device)?.to_owned();
        let queues = Some(asked.queues.unwrap_or(VHOST_QUEUES_DEFAULT));
        let asked = AddVhost { socket, device, queues, access: asked.access };
        let mut state = self.when_idle(self.lock(), &asked.device, deadline)?;
        if let Some(entry) = state.model.vhosts.get(&asked.socket) {
            return already(entry, &asked);
        }
        if state.model.vhosts.len() >= VHOSTS_MAX {
            return Err(CommandError::LimitReached { what: Object::Vhost, limit: VHOSTS_MAX });
        }
        devices::check_unclaimed(&state, &asked.device)?;
        let Some(stage) = self.stage.get().map(Arc::clone) else {
            return Err(CommandError::Unsupported {
                what: Object::Vhost,
                name: asked.socket,
                advice: "it is served by cores, and there are none yet",
            });
        };
        let entry = state.model.devices.get_mut(&asked.device);
        let entry = entry.ok_or_else(|| devices::is_missing(&asked.device))?;
        let top = entry.stack().ok_or_else(|| devices::is_missing(&asked.device))?.top();
        entry.users += 1;
        let export = Export::new(top);
        let device = Arc::clone(&export) as Arc<dyn BlockDevice>;
        let key = state.model.next_vhost_key();
        let options = options(&asked, key, device, self.options.cores);
        let new = VhostEntry { asked: asked.clone(), phase: VhostPhase::Coming, export };
        state.model.vhosts.insert(asked.socket.clone(), new);
        drop(state);
        let cores = Arc::new(StageCores { stage, count: self.options.cores });
        let started = VhostDevice::start(options, cores);
        let mut state = self.lock();
        match started {
            Ok(served) => {
                // Without an entry the engine has ended; the session ends outside of the lock.
                let Some(entry) = state.model.vhosts.get_mut(&asked.socket) else {
                    drop(state);
                    drop(served);
                    return Err(CommandError::Stopping);
                };
                entry.phase = VhostPhase::Present(served);
                Ok(Reply::Vhost(entry.info()))
            }
            Err(error) => {
                forget(&mut state, &asked.socket);
                drop(state);
                self.changed.notify_all();
                Err(refused(&asked, error))
            }
        }
    }

    fn remove_vhost(
        self: &Arc<Shared>,
        socket: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let socket = field::vhost_socket(socket)?;
        let mut state = self.lock();
        let entry = state.model.vhosts.get_mut(socket).ok_or_else(|| is_missing(socket))?;
        let export = Arc::clone(&entry.export);
        if let VhostPhase::Coming = entry.phase {
            return Err(is_busy(socket, "its start"));
        }
        if let VhostPhase::Present(served) = std::mem::replace(&mut entry.phase, VhostPhase::Going)
        {
            served.begin_to_end();
            let (shared, ended) = (Arc::clone(self), socket.to_owned());
            let spawned = thread::Builder::new().name(String::from("vhost-end")).spawn(move || {
                drop(served);
                let mut state = shared.lock();
                forget(&mut state, &ended);
                drop(state);
                shared.changed.notify_all();
            });
            // Without a thread the closure, and the session in it, have ended here.
            if spawned.is_err() {
                forget(&mut state, socket);
            }
        }
        let look = |state: &mut State| {
            let entry = state.model.vhosts.get(socket);
            let is_it = |entry: &VhostEntry| Arc::ptr_eq(&entry.export, &export);
            (!entry.is_some_and(is_it)).then_some(())
        };
        let late = |_: &State| {
            let known = format!("{socket} takes no more I/O and ends when none is left");
            deadline.passed(known, Progress::default())
        };
        drop(self.wait(state, deadline, look, late)?);
        Ok(Reply::Done)
    }

    /// Asks all sessions to end, as the engine does.
    pub(super) fn begin_to_end_vhosts(&self) {
        for entry in self.lock().model.vhosts.values() {
            if let VhostPhase::Present(served) = &entry.phase {
                served.begin_to_end();
            }
        }
    }
}

/// Takes an entry out of the model.
fn forget(state: &mut State, socket: &str) {
    let Some(entry) = state.model.vhosts.remove(socket) else { return };
    if let Some(device) = state.model.devices.get_mut(&entry.asked.device) {
        device.users -= 1;
    }
}

/// The answer to what is there: the same, or another.
fn already(entry: &VhostEntry, asked: &AddVhost) -> Result<Reply, CommandError> {
    if !matches!(entry.phase, VhostPhase::Present(_)) {
        return Err(is_busy(&asked.socket, "its removal or its start"));
    }
    if entry.asked == *asked {
        return Ok(Reply::Vhost(entry.info()));
    }
    let AddVhost { device, queues, access, .. } = &entry.asked;
    let queues = queues.unwrap_or_default();
    let difference = format!("it serves {device} with {queues} queues, {access:?}");
    let name = asked.socket.clone();
    Err(CommandError::AlreadyExists { what: Object::Vhost, name, difference })
}

fn options(
    asked: &AddVhost,
    key: DeviceKey,
    device: Arc<dyn BlockDevice>,
    cores: usize,
) -> VhostOptions {
    let derived = || Uuid::new_v5(&SERIAL_SPACE, asked.device.as_bytes());
    let digits = device.uuid().unwrap_or_else(derived).simple().to_string();
    VhostOptions {
        socket: asked.socket.clone().into(),
        key,
        device,
        queues: asked.queues.unwrap_or(VHOST_QUEUES_DEFAULT),
        access: asked.access,
        serial: digits[..SERIAL_DIGITS].to_owned(),
        // Devices of one queue are spread as well.
        first_core: usize::try_from(key.0).unwrap_or(0) % cores,
    }
}

fn refused(asked: &AddVhost, error: ServeError) -> CommandError {
    match error {
        ServeError::Queues { queues } => field::vhost_queues_refused(queues),
        other => CommandError::Vhost { socket: asked.socket.clone(), source: Arc::new(other) },
    }
}

fn is_missing(socket: &str) -> CommandError {
    CommandError::NotFound { what: Object::Vhost, name: socket.to_owned() }
}

fn is_busy(socket: &str, user: &str) -> CommandError {
    CommandError::InUse {
        what: Object::Vhost,
        name: socket.to_owned(),
        user: user.to_owned(),
        advice: "wait until it is over",
    }
}
