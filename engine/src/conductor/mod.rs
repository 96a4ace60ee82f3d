//! Carries commands out: changes the model, and sees that every core follows.
//!
//! [`Conductor::execute`] is called on control threads, from several at once, and blocks the
//! caller until the command is done or its time is over. A change is made in the model under a
//! lock that is held only for plain data, described anew as a whole, and brought to each core by
//! that core's own [`courier`]; the caller waits for the couriers' news. So a core that is late
//! holds up nobody but those who wait for it, several changes may travel in one description, and a
//! core that was out of reach catches up by itself.
//!
//! What may block (opening, closing, measuring a device) runs on a thread that is made for it. A
//! device that hangs there is busy; questions and the other devices do not notice.
//!
//! What was removed is going until no core has anything of it: see [`State::reap`]. A command that
//! waits for that and runs out of time may be given again, and waits on.

mod children;
mod courier;
mod devices;
mod home_call;
mod labels;
mod learning;
mod nexuses;
mod portals;
mod returning;
pub(crate) mod stage;
pub(crate) mod state;
mod subsystems;
#[cfg(test)]
mod tests;
mod vhosts;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvmf::target::{DigestPolicy, TargetDescription};

use crate::command::error::Object;
use crate::command::limits::COMMANDS_IN_FLIGHT_MAX;
use crate::command::{Command, CommandError, CoreInfo, CountersInfo, Reply, field};
use crate::model::Generation;
use crate::model::subsystem::SubsystemEntry;
use crate::registry::Registry;
use stage::Stage;
use state::{CoreState, Deadline, State, Unused};

/// What a conductor is told of the machine.
#[derive(Clone, Debug)]
pub struct ConductorOptions {
    /// What opens devices.
    pub registry: Registry,
    /// Number of cores that will serve.
    pub cores: usize,
    /// Whether hosts that ask for digests get them.
    pub digests: DigestPolicy,
}

/// What threads of the conductor share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Told whenever something happened that anybody may wait for.
    changed: Condvar,
    stage: OnceLock<Arc<dyn Stage>>,
    options: ConductorOptions,
}

/// See the module.
#[derive(Debug)]
pub struct Conductor {
    shared: Arc<Shared>,
    couriers: Mutex<Vec<JoinHandle<()>>>,
}

/// Name of the threads that close devices.
const CLOSER: &str = "device-close";

type Guard<'a> = MutexGuard<'a, State>;

impl Shared {
    /// The state. A thread that panicked with it leaves plain data behind, whole enough to go on.
    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is not used any more and has it closed; tells those who wait for that.
    fn reap(self: &Arc<Shared>, state: &mut Guard<'_>) {
        let going = state.model.going.len();
        let unused = state.reap();
        if state.model.going.len() != going {
            self.changed.notify_all();
        }
        for Unused { name, stack } in unused {
            let shared = Arc::clone(self);
            let closing = name.clone();
            // Flushing a file may take long. Without a thread, the closure and the device in it are
            // dropped here.
            let spawned = thread::Builder::new().name(String::from(CLOSER)).spawn(move || {
                shared.close_home(&closing);
                drop(stack);
                let mut state = shared.lock();
                state.model.devices.remove(&closing);
                nexuses::forget(&mut state, &closing);
                drop(state);
                shared.changed.notify_all();
            });
            if spawned.is_err() {
                state.model.devices.remove(&name);
                nexuses::forget(state, &name);
            }
        }
    }

    /// Waits until `look` has found something. At the deadline `late` says what is known.
    fn wait<'a, T>(
        self: &'a Arc<Shared>,
        mut state: Guard<'a>,
        deadline: Deadline,
        mut look: impl FnMut(&mut State) -> Option<T>,
        late: impl FnOnce(&State) -> CommandError,
    ) -> Result<(Guard<'a>, T), CommandError> {
        loop {
            self.reap(&mut state);
            if let Some(found) = look(&mut state) {
                return Ok((state, found));
            }
            if state.is_stopping {
                return Err(CommandError::Stopping);
            }
            let left = deadline.left();
            if left.is_zero() {
                return Err(late(&state));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every core has a description.
    fn wait_applied<'a>(
        self: &'a Arc<Shared>,
        state: Guard<'a>,
        deadline: Deadline,
        generation: Generation,
        known: impl FnOnce() -> String,
    ) -> Result<Guard<'a>, CommandError> {
        let look = |state: &mut State| state.is_applied(generation).then_some(());
        let late = |state: &State| deadline.passed(known(), state.progress(generation));
        Ok(self.wait(state, deadline, look, late)?.0)
    }

    /// Describes the model anew and tells the couriers.
    fn publish(&self, state: &mut Guard<'_>) -> Generation {
        let generation = state.publish();
        self.changed.notify_all();
        generation
    }
}

/// A change under way; counted until it is dropped.
struct Turn<'a>(&'a Shared);

impl<'a> Turn<'a> {
    fn begin(shared: &'a Shared) -> Result<Turn<'a>, CommandError> {
        let mut state = shared.lock();
        if state.is_stopping {
            return Err(CommandError::Stopping);
        }
        if state.in_flight == COMMANDS_IN_FLIGHT_MAX {
            let limit = COMMANDS_IN_FLIGHT_MAX;
            return Err(CommandError::LimitReached { what: Object::Command, limit });
        }
        state.in_flight += 1;
        Ok(Turn(shared))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

impl Conductor {
    /// Serves nothing, on no core. Commands may be given already; cores that are attached later
    /// find what was made.
    pub fn new(options: ConductorOptions) -> Conductor {
        let shared = Shared {
            state: Mutex::new(State::new(options.digests)),
            changed: Condvar::new(),
            stage: OnceLock::new(),
            options,
        };
        Conductor { shared: Arc::new(shared), couriers: Mutex::default() }
    }

    /// Carries a command out within its usual time.
    ///
    /// # Errors
    ///
    /// Whatever keeps the command from being carried out; [`CommandError::kind`] sorts them.
    pub fn execute(&self, command: &Command) -> Result<Reply, CommandError> {
        self.execute_within(command, command.within())
    }

    /// Carries a command out; blocks until it is done, for `within` at most. Questions are answered
    /// at once.
    ///
    /// # Errors
    ///
    /// As [`Conductor::execute`].
    pub fn execute_within(
        &self,
        command: &Command,
        within: Duration,
    ) -> Result<Reply, CommandError> {
        let deadline = Deadline::after(field::within(within)?);
        if command.is_question() {
            return Ok(self.answer(command));
        }
        let _turn = Turn::begin(&self.shared)?;
        let shared = &self.shared;
        match command {
            Command::AddDevice(asked) => shared.add_device(asked, deadline),
            Command::RemoveDevice { device } => shared.remove_device(device, deadline),
            Command::ResizeDevice(asked) => shared.resize_device(asked, deadline),
            Command::SetFault(asked) => {
                shared.set_fault(&asked.device, Some(&asked.rules), deadline)
            }
            Command::ClearFault { device } => shared.set_fault(device, None, deadline),
            Command::SetDelay(asked) => {
                shared.set_delay(&asked.device, Some(&asked.rules), deadline)
            }
            Command::ClearDelay { device } => shared.set_delay(device, None, deadline),
            Command::AddSubsystem(asked) => shared.add_subsystem(asked, deadline),
            Command::RemoveSubsystem { subsystem } => shared.remove_subsystem(subsystem, deadline),
            Command::AddNamespace(asked) => shared.add_namespace(asked, deadline),
            Command::RemoveNamespace { subsystem, namespace } => {
                shared.remove_namespace(subsystem, *namespace, deadline)
            }
            Command::ResizeNamespace { subsystem, namespace } => {
                shared.resize_namespace(subsystem, *namespace, deadline)
            }
            Command::AddHost { subsystem, host } => shared.add_host(subsystem, host, deadline),
            Command::RemoveHost { subsystem, host } => {
                shared.remove_host(subsystem, host, deadline)
            }
            Command::SetHostPolicy { subsystem, policy } => {
                shared.set_host_policy(subsystem, *policy, deadline)
            }
            Command::SetAnaState(asked) => shared.set_ana_state(asked, deadline),
            Command::AddPortal(asked) => shared.add_portal(asked, deadline),
            Command::RemovePortal { address } => shared.remove_portal(address, deadline),
            Command::Nexus(command) => shared.change_nexus(command, deadline),
            Command::Vhost(command) => shared.change_vhosts(command, deadline),
            Command::ListDevices
            | Command::ListSubsystems
            | Command::ListPortals
            | Command::ReadCounters => Ok(self.answer(command)),
        }
    }

    /// What the cores are to serve by now.
    pub fn description(&self) -> Arc<TargetDescription> {
        Arc::clone(&self.shared.lock().latest)
    }

    /// From now on these cores serve; they were started with [`Conductor::description`], and no
    /// command came between. They listen on nothing until [`Conductor::listen`].
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub(crate) fn attach(&self, stage: Arc<dyn Stage>) -> Result<(), CommandError> {
        let mut state = self.shared.lock();
        let generation = state.generation;
        let begun = |core| CoreState {
            core,
            applied: generation,
            settled: generation,
            is_gone: false,
            failure: None,
        };
        state.cores = stage.cores().into_iter().map(begun).collect();
        let count = state.cores.len();
        drop(state);
        assert!(self.shared.stage.set(Arc::clone(&stage)).is_ok(), "cores are attached once");
        let mut couriers = self.couriers.lock().unwrap_or_else(PoisonError::into_inner);
        for place in 0..count {
            couriers.push(courier::start(Arc::clone(&self.shared), Arc::clone(&stage), place)?);
        }
        Ok(())
    }

    /// From now on addresses are listened on, those that were added included.
    ///
    /// # Errors
    ///
    /// An address that the first core could not listen on, or a core that did not answer.
    pub(crate) fn listen(&self, within: Duration) -> Result<(), CommandError> {
        self.shared.listen_on_all(Deadline::after(within))
    }

    /// Has the replicas of all volumes with labels say that they were closed; takes this long at
    /// most. I/O of hosts ends with a path error then.
    pub(crate) fn close_volumes(&self, within: Duration) {
        self.shared.close_volumes(within);
    }

    /// Commands that wait, and those to come, end with [`CommandError::Stopping`].
    pub(crate) fn stop(&self) {
        self.shared.lock().is_stopping = true;
        self.shared.begin_to_end_vhosts();
        self.shared.changed.notify_all();
    }

    /// Waits for the couriers to end, which they do once their cores have.
    pub(crate) fn join(&self) {
        let mut couriers = self.couriers.lock().unwrap_or_else(PoisonError::into_inner);
        for courier in couriers.drain(..) {
            // One that panicked has nothing more to tell.
            let _ = courier.join();
        }
    }

    /// Closes devices and addresses. Once no core uses them, or none ever did.
    pub(crate) fn release(&self) {
        self.stop();
        let released = self.shared.lock().release(self.shared.options.digests);
        // Outside of the lock: closing a device may take long.
        drop(released);
        self.shared.changed.notify_all();
    }

    fn answer(&self, command: &Command) -> Reply {
        if let Command::Nexus(_) = command {
            return self.shared.list_nexuses();
        }
        if let Command::Vhost(_) = command {
            return self.shared.list_vhosts();
        }
        let state = self.shared.lock();
        let model = &state.model;
        match command {
            Command::ListSubsystems => {
                let all = model.subsystems.values();
                Reply::Subsystems(all.map(|one| one.info(&model.devices)).collect())
            }
            Command::ListPortals => {
                Reply::Portals(model.portals.iter().map(|(id, one)| one.info(*id)).collect())
            }
            Command::ReadCounters => {
                let subsystems = model.subsystems.values();
                let namespaces = subsystems.flat_map(SubsystemEntry::counters).collect();
                drop(state);
                Reply::Counters(CountersInfo { cores: self.counters(), namespaces })
            }
            _ => {
                let all = model.devices.iter();
                Reply::Devices(all.map(|(name, one)| one.info(name)).collect())
            }
        }
    }

    fn counters(&self) -> Vec<CoreInfo> {
        let stage = self.shared.stage.get();
        let read = |stage: &Arc<dyn Stage>| {
            let cores = stage.cores().into_iter().enumerate();
            let info = |(place, core)| CoreInfo { core, counters: stage.counters(place) };
            cores.map(info).collect()
        };
        stage.map(read).unwrap_or_default()
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        // A device's thread may have the rest for a moment longer.
        self.release();
    }
}
