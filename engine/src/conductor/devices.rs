//! Commands on devices.
//!
//! Each device is opened, measured and closed on threads of its own; whoever gave the command waits
//! for the outcome, and leaves at its deadline while the thread goes on.

use std::sync::{Arc, OnceLock};
use std::thread;

use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::rules::RuleSet;
use bdev::uri::DeviceUri;
use bdev::{BlockDevice, ResizeError};

use super::state::{Deadline, State};
use super::{Guard, Shared};
use crate::command::error::Object;
use crate::command::limits::DEVICES_MAX;
use crate::command::{AddDevice, CommandError, Progress, Reply, ResizeDevice, field};
use crate::export::Export;
use crate::model::device::{DeviceEntry, DevicePhase, Outcome, Retired, Stack, StackChange};
use crate::model::nexus::NexusEntry;
use crate::model::subsystem::SubsystemEntry;
use crate::model::{Generation, Model, draw_uuid};
use crate::registry;
use crate::remote::Host;

/// What to do about a device that is going.
const GOING: &str = "wait until it is gone, or give the command to remove it again";

impl Shared {
    pub(super) fn add_device(
        self: &Arc<Shared>,
        asked: &AddDevice,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let uri = field::uri(&asked.uri)?;
        self.options.registry.check_built(&asked.uri, &uri).map_err(Arc::new)?;
        let name = registry::device_name(&uri);
        field::device(&name)?;
        let mut state = self.lock();
        let outcome = match state.model.devices.get(&name) {
            Some(entry) if entry.uri != uri => {
                let difference = format!("it is {}", entry.uri);
                return Err(CommandError::AlreadyExists { what: Object::Device, name, difference });
            }
            Some(entry) => match &entry.phase {
                DevicePhase::Present(_) => return Ok(Reply::Device(entry.info(&name))),
                DevicePhase::Opening(outcome) => Arc::clone(outcome),
                DevicePhase::Going(..) | DevicePhase::Closing => return Err(is_going(&name)),
            },
            None => {
                self.begin_opening(&mut state, asked.uri.clone(), uri, (&name, Host::Machine))?
            }
        };
        let late = |_: &State| {
            let known = format!("device {name} is still being opened, and will be listed");
            deadline.passed(known, Progress::default())
        };
        let (state, opened) = self.wait(state, deadline, |_| outcome.get().cloned(), late)?;
        opened?;
        // It may have been removed meanwhile.
        let entry = state.model.devices.get(&name).ok_or_else(|| is_missing(&name))?;
        Ok(Reply::Device(entry.info(&name)))
    }

    /// Lists the device as one that comes, and opens it on a thread of its own.
    pub(super) fn begin_opening(
        self: &Arc<Shared>,
        state: &mut Guard<'_>,
        text: String,
        uri: DeviceUri,
        (name, host): (&str, Host),
    ) -> Result<Outcome, CommandError> {
        if state.model.devices.len() >= DEVICES_MAX {
            return Err(CommandError::LimitReached { what: Object::Device, limit: DEVICES_MAX });
        }
        let outcome: Outcome = Arc::new(OnceLock::new());
        let told = Arc::clone(&outcome);
        let (shared, opened) = (Arc::clone(self), name.to_owned());
        spawn(name, move || {
            let opening = shared.options.registry.open_as(&text, host);
            // Looked at before the lock is taken, as it may block too.
            let device = opening.map(|(_, device)| (device.geometry(), device));
            let mut state = shared.lock();
            let result = match (device, state.model.devices.get_mut(&opened)) {
                (Ok((geometry, device)), Some(entry)) => {
                    entry.geometry = geometry;
                    entry.phase = DevicePhase::Present(Stack::new(device));
                    close_if_orphaned(&mut state, &opened);
                    Ok(())
                }
                // The engine has ended meanwhile.
                (Ok(_), None) => Err(CommandError::Stopping),
                (Err(error), _) => {
                    state.model.devices.remove(&opened);
                    Err(CommandError::Device(Arc::new(error)))
                }
            };
            told.set(result).expect("a device is opened once");
            shared.changed.notify_all();
        })?;
        let entry = DeviceEntry::opening(uri, draw_uuid(), Arc::clone(&outcome));
        state.model.devices.insert(name.to_owned(), entry);
        Ok(outcome)
    }

    pub(super) fn remove_device(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let name = field::device(name)?;
        let mut state = self.lock();
        let entry = state.model.devices.get(name).ok_or_else(|| is_missing(name))?;
        let instance = entry.instance;
        if !matches!(entry.phase, DevicePhase::Going(..) | DevicePhase::Closing) {
            state = self.when_idle(state, name, deadline)?;
            if state.model.nexuses.contains_key(name) {
                return Err(CommandError::Unsupported {
                    what: Object::Device,
                    name: name.to_owned(),
                    advice: "it is a nexus: destroy that",
                });
            }
            check_unused(&state, name)?;
            self.let_go(&mut state, name);
        }
        // Another one may have taken its place by the time this thread looks.
        let look = |state: &mut State| {
            let entry = state.model.devices.get(name);
            entry.is_none_or(|entry| entry.instance != instance).then_some(())
        };
        let late = |state: &State| {
            let progress = state.progress(state.generation);
            let known = match state.model.devices.get(name).map(|entry| &entry.phase) {
                Some(DevicePhase::Closing) => format!("device {name} is being closed"),
                _ => format!("device {name} takes no more I/O and is closed when none is left"),
            };
            deadline.passed(known, progress)
        };
        drop(self.wait(state, deadline, look, late)?);
        Ok(Reply::Done)
    }

    /// Has an idle device that nothing uses closed when no core has anything of it.
    pub(super) fn let_go(&self, state: &mut Guard<'_>, name: &str) {
        let since = state.generation;
        let entry = state.model.devices.get_mut(name).expect("the caller has found it");
        let phase = std::mem::replace(&mut entry.phase, DevicePhase::Closing);
        let DevicePhase::Present(stack) = phase else { unreachable!("an idle device") };
        entry.phase = DevicePhase::Going(stack, since);
        state.model.going.devices.insert(name.to_owned());
        self.changed.notify_all();
    }

    pub(super) fn resize_device(
        self: &Arc<Shared>,
        asked: &ResizeDevice,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let name = field::device(&asked.device)?;
        let len_bytes = field::len_bytes(asked.len_bytes)?;
        let state = self.measure(name, len_bytes, deadline)?;
        let entry = state.model.devices.get(name).ok_or_else(|| is_missing(name))?;
        Ok(Reply::Device(entry.info(name)))
    }

    /// Looks at the size of a device, after having made it larger where that is asked for, and
    /// waits until every core has it.
    pub(super) fn measure(
        self: &Arc<Shared>,
        name: &str,
        len_bytes: Option<u64>,
        deadline: Deadline,
    ) -> Result<Guard<'_>, CommandError> {
        let mut state = self.when_idle(self.lock(), name, deadline)?;
        let since = state.next_generation();
        let entry = state.model.devices.get_mut(name).ok_or_else(|| is_missing(name))?;
        let DevicePhase::Present(stack) = &entry.phase else { return Err(is_going(name)) };
        let blocks = match len_bytes {
            Some(len_bytes) => growth(entry, len_bytes)?,
            None => None,
        };
        let outcome: Outcome = Arc::new(OnceLock::new());
        let told = Arc::clone(&outcome);
        let device = Arc::clone(&stack.base);
        let (shared, measured) = (Arc::clone(self), name.to_owned());
        spawn(name, move || {
            let resized = grow(&measured, blocks, &*device);
            let geometry = device.geometry();
            drop(device);
            let mut state = shared.lock();
            // Without an entry the engine has ended: nothing removes a device that is busy.
            if let Some(entry) = state.model.devices.get_mut(&measured) {
                entry.is_busy = false;
                if entry.geometry != geometry {
                    entry.geometry = geometry;
                    let top = match &entry.phase {
                        DevicePhase::Present(stack) => Some(stack.top()),
                        _ => None,
                    };
                    if let Some(top) = top {
                        exchange(&mut state, &measured, &top);
                    }
                    state.model.touch_device(&measured);
                    shared.publish(&mut state);
                }
            }
            told.set(resized).expect("a device is measured once");
            shared.changed.notify_all();
        })?;
        entry.is_busy = true;
        let late = |_: &State| {
            let known = format!("device {name} does not tell its size");
            deadline.passed(known, Progress::default())
        };
        let (state, measured) = self.wait(state, deadline, |_| outcome.get().cloned(), late)?;
        measured?;
        let known = format!("device {name} has another size for I/O to come");
        self.wait_exchanged(state, name, since, deadline, known)
    }

    /// Waits until every core has exchanged its queue pairs of a device, or could not.
    fn wait_exchanged<'a>(
        self: &'a Arc<Shared>,
        state: Guard<'a>,
        name: &str,
        since: Generation,
        deadline: Deadline,
        known: String,
    ) -> Result<Guard<'a>, CommandError> {
        let generation = state.generation;
        let look = |state: &mut State| {
            if let Some(failure) = device_failure(state, name, since) {
                return Some(Err(failure));
            }
            let entry = state.model.devices.get(name);
            let is_done = entry.is_none_or(|entry| entry.retired.is_empty());
            (is_done && state.is_applied(generation)).then_some(Ok(()))
        };
        let late = |state: &State| deadline.passed(known, state.progress(generation));
        let (state, outcome) = self.wait(state, deadline, look, late)?;
        outcome.map(|()| state)
    }

    pub(super) fn set_fault(
        self: &Arc<Shared>,
        name: &str,
        rules: Option<&RuleSet<Failure>>,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let name = field::device(name)?;
        rules.map_or(Ok(()), field::fault)?;
        self.decorate(name, deadline, |stack| stack.set_fault(rules.cloned()))
    }

    pub(super) fn set_delay(
        self: &Arc<Shared>,
        name: &str,
        rules: Option<&RuleSet<Lateness>>,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let name = field::device(name)?;
        rules.map_or(Ok(()), field::delay)?;
        self.decorate(name, deadline, |stack| stack.set_delay(rules.cloned()))
    }

    /// Changes what is around a device. Where namespaces need another device for that, waits until
    /// the I/O at the one before is done.
    fn decorate(
        self: &Arc<Shared>,
        name: &str,
        deadline: Deadline,
        change: impl FnOnce(&mut Stack) -> StackChange,
    ) -> Result<Reply, CommandError> {
        let mut state = self.when_idle(self.lock(), name, deadline)?;
        // Rings keep to the device that they began with.
        check_no_vhost(&state, name)?;
        let since = state.next_generation();
        let entry = state.model.devices.get_mut(name).ok_or_else(|| is_missing(name))?;
        let DevicePhase::Present(stack) = &mut entry.phase else { return Err(is_going(name)) };
        if change(stack) == StackChange::Exchanged {
            let top = stack.top();
            exchange(&mut state, name, &top);
            self.publish(&mut state);
        }
        let known = format!("what device {name} does is changed for I/O to come");
        let state = self.wait_exchanged(state, name, since, deadline, known)?;
        let entry = state.model.devices.get(name).ok_or_else(|| is_missing(name))?;
        Ok(Reply::Device(entry.info(name)))
    }

    /// Waits until a device is there and no thread is at work on it.
    pub(super) fn when_idle<'a>(
        self: &'a Arc<Shared>,
        state: Guard<'a>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Guard<'a>, CommandError> {
        let look = |state: &mut State| match state.model.devices.get(name) {
            None => Some(Err(is_missing(name))),
            Some(entry) => match entry.phase {
                DevicePhase::Going(..) | DevicePhase::Closing => Some(Err(is_going(name))),
                DevicePhase::Opening(_) => None,
                DevicePhase::Present(_) => (!entry.is_busy).then_some(Ok(())),
            },
        };
        let late = |_: &State| {
            let known = format!("device {name} is still at work on an earlier command");
            deadline.passed(known, Progress::default())
        };
        let (state, idle) = self.wait(state, deadline, look, late)?;
        idle.map(|()| state)
    }
}

/// Refuses a device that a namespace or a nexus has.
pub(super) fn check_unused(state: &State, name: &str) -> Result<(), CommandError> {
    if let Some((nqn, id)) = state.model.user_of(name) {
        return Err(CommandError::InUse {
            what: Object::Device,
            name: name.to_owned(),
            user: format!("namespace {id} of {nqn}"),
            advice: "remove the namespace first",
        });
    }
    check_no_vhost(state, name)?;
    check_unclaimed(state, name)
}

/// Refuses a device that virtual machines have.
fn check_no_vhost(state: &State, name: &str) -> Result<(), CommandError> {
    let Some(socket) = state.model.vhost_of(name) else { return Ok(()) };
    Err(CommandError::InUse {
        what: Object::Device,
        name: name.to_owned(),
        user: format!("vhost device {socket}"),
        advice: "remove the vhost device first",
    })
}

/// Refuses a device that a nexus has.
pub(super) fn check_unclaimed(state: &State, name: &str) -> Result<(), CommandError> {
    let entry = state.model.devices.get(name);
    let Some(claim) = entry.and_then(|entry| entry.claim.as_ref()) else { return Ok(()) };
    Err(CommandError::InUse {
        what: Object::Device,
        name: name.to_owned(),
        user: format!("nexus {}", claim.nexus),
        advice: "remove the child from it first",
    })
}

/// Closes a device that was opened for a nexus which has gone, or lets go of it, meanwhile.
fn close_if_orphaned(state: &mut Guard<'_>, name: &str) {
    let since = state.generation;
    if !is_orphaned(&state.model, name) {
        return;
    }
    let Some(entry) = state.model.devices.get_mut(name) else { return };
    let phase = std::mem::replace(&mut entry.phase, DevicePhase::Closing);
    let DevicePhase::Present(stack) = phase else { unreachable!("it was just opened") };
    entry.phase = DevicePhase::Going(stack, since);
    state.model.going.devices.insert(name.to_owned());
}

/// True for a device that was opened for a nexus which does not have it any more.
pub(super) fn is_orphaned(model: &Model, name: &str) -> bool {
    let claim = model.devices.get(name).and_then(|entry| entry.claim.as_ref());
    let Some(claim) = claim else { return false };
    let is_child = |nexus: &NexusEntry| nexus.children.iter().any(|child| child.device == name);
    let owner = model.nexuses.get(&claim.nexus).filter(|nexus| nexus.id == claim.id);
    !owner.is_some_and(is_child)
}

/// Gives every namespace of the device another handle; the old ones are waited for.
fn exchange(state: &mut Guard<'_>, name: &str, top: &Arc<dyn BlockDevice>) {
    let since = state.next_generation();
    let mut retired = Vec::new();
    let subsystems = state.model.subsystems.values_mut();
    let all = subsystems.flat_map(|subsystem| subsystem.namespaces.values_mut());
    for namespace in all.filter(|one| one.device == name && one.gone_since.is_none()) {
        let export = Export::new(Arc::clone(top));
        let export = std::mem::replace(&mut namespace.export, export);
        retired.push(Retired { export, since });
    }
    if retired.is_empty() {
        return;
    }
    state.model.touch_device(name);
    let entry = state.model.devices.get_mut(name).expect("the caller has found it");
    entry.retired.append(&mut retired);
    state.model.going.exchanges.insert(name.to_owned());
}

/// A core that could not open a device anew for a namespace, in this description or later.
fn device_failure(state: &State, name: &str, since: Generation) -> Option<CommandError> {
    let is_user = |entry: &SubsystemEntry| entry.namespaces.values().any(|one| one.device == name);
    let users = state.model.subsystems.iter().filter(|(_, entry)| is_user(entry));
    users.into_iter().find_map(|(nqn, _)| state.failure(nqn, since))
}

/// The number of blocks that a device is to be given, if it has not as many already.
fn growth(entry: &DeviceEntry, len_bytes: u64) -> Result<Option<u64>, CommandError> {
    let block_bytes = u64::from(entry.geometry.block_bytes);
    let now = entry.geometry.len_bytes();
    if !len_bytes.is_multiple_of(block_bytes) {
        let advice = format!("give a multiple of its blocks of {block_bytes} bytes");
        return Err(bad_size(len_bytes, advice));
    }
    if len_bytes < now {
        return Err(bad_size(len_bytes, not_smaller(now)));
    }
    Ok((len_bytes > now).then_some(len_bytes / block_bytes))
}

fn bad_size(len_bytes: u64, advice: String) -> CommandError {
    CommandError::Invalid { field: "len_bytes", value: len_bytes.to_string(), advice }
}

fn not_smaller(now_bytes: u64) -> String {
    format!("a device is not made smaller than it is, {now_bytes} bytes")
}

/// Gives the device its blocks. On the device's own thread.
fn grow(name: &str, blocks: Option<u64>, device: &dyn BlockDevice) -> Result<(), CommandError> {
    let Some(blocks) = blocks else { return Ok(()) };
    let block_bytes = u64::from(device.geometry().block_bytes);
    let resized = device.resize(blocks).map(|_| ());
    resized.map_err(|error| match error {
        ResizeError::Fixed { .. } => CommandError::Unsupported {
            what: Object::Device,
            name: name.to_owned(),
            advice: "it keeps the size that it was made with, or that its driver gives it; resize \
                     it there and then give the command without a size, or add another device",
        },
        // It has grown by other means meanwhile.
        ResizeError::Smaller { blocks: now, .. } => {
            bad_size(blocks * block_bytes, not_smaller(now * block_bytes))
        }
        source @ (ResizeError::Geometry { .. } | ResizeError::System { .. }) => {
            CommandError::Resize { device: name.to_owned(), source: Arc::new(source) }
        }
    })
}

pub(super) fn spawn(device: &str, job: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    let spawned = thread::Builder::new().name(String::from("device")).spawn(job);
    spawned.map(|_| ()).map_err(|source| CommandError::Thread {
        purpose: format!("device {device}"),
        source: Arc::new(source),
    })
}

pub(super) fn is_missing(name: &str) -> CommandError {
    CommandError::NotFound { what: Object::Device, name: name.to_owned() }
}

pub(super) fn is_going(name: &str) -> CommandError {
    CommandError::InUse {
        what: Object::Device,
        name: name.to_owned(),
        user: String::from("its removal"),
        advice: GOING,
    }
}
