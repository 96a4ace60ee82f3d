//! What the conductor keeps under its lock: the model, its description, and how far each core is.
//!
//! Held for as long as it takes to copy or change plain data, never while anything is waited for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvmf::target::{ApplyError, DigestPolicy, TargetDescription};
use reactor::cores::CoreId;

use crate::command::{CommandError, Progress};
use crate::export::Export;
use crate::model::device::{DevicePhase, Stack};
use crate::model::{Generation, Model};

/// When a command has to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub at: Instant,
    pub within: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(within: Duration) -> Deadline {
        Deadline { at: Instant::now() + within, within }
    }

    /// How much is left.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The same, but no later than so long from now.
    pub fn at_most(self, within: Duration) -> Deadline {
        if self.left() <= within { self } else { Deadline::after(within) }
    }

    /// The error when it has passed.
    pub fn passed(&self, state: String, progress: Progress) -> CommandError {
        CommandError::Deadline { within: self.within, state, progress }
    }
}

/// How far a core is.
#[derive(Debug)]
pub(crate) struct CoreState {
    pub core: CoreId,
    /// The last description that it has.
    pub applied: Generation,
    /// The last description of which it has said that nothing else is in use.
    pub settled: Generation,
    /// It has ended.
    pub is_gone: bool,
    /// The last namespace that it could not open, and with which description.
    pub failure: Option<(Generation, Arc<ApplyError>)>,
}

/// A device that nobody uses any more, to be closed by a thread of its own.
#[derive(Debug)]
pub(crate) struct Unused {
    pub name: String,
    pub stack: Stack,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    pub model: Model,
    pub latest: Arc<TargetDescription>,
    pub generation: Generation,
    /// None before the cores have started.
    pub cores: Vec<CoreState>,
    /// Devices of which is being read what they have kept.
    pub learning: BTreeSet<String>,
    /// Changes under way.
    pub in_flight: usize,
    pub is_stopping: bool,
    /// Addresses are listened on; before that they are only bound.
    pub is_listening: bool,
}

impl State {
    /// Nothing to serve, and no core to serve it.
    pub fn new(digests: DigestPolicy) -> State {
        let mut model = Model::new(digests);
        let generation = Generation(1);
        let latest = model.describe(generation);
        State {
            model,
            latest,
            generation,
            cores: Vec::new(),
            learning: BTreeSet::new(),
            in_flight: 0,
            is_stopping: false,
            is_listening: false,
        }
    }

    /// Lets go of everything that is served.
    pub fn release(&mut self, digests: DigestPolicy) -> (Model, Arc<TargetDescription>) {
        let nothing = State::new(digests);
        let model = std::mem::replace(&mut self.model, nothing.model);
        (model, std::mem::replace(&mut self.latest, nothing.latest))
    }

    /// Describes the model anew. Cores follow; the description that they are waited for.
    pub fn publish(&mut self) -> Generation {
        self.generation = self.next_generation();
        self.latest = self.model.describe(self.generation);
        self.generation
    }

    /// The number that the next description will have.
    pub fn next_generation(&self) -> Generation {
        Generation(self.generation.0 + 1)
    }

    /// True when every core has the description.
    pub fn is_applied(&self, generation: Generation) -> bool {
        self.cores.iter().all(|core| core.applied >= generation)
    }

    fn is_settled(&self, generation: Generation) -> bool {
        self.cores.iter().all(|core| core.settled >= generation)
    }

    /// True when no core can have anything by the handle, which no description has since.
    fn is_unused(&self, export: &Arc<Export>, since: Generation) -> bool {
        self.is_applied(since) && (export.is_unused() || self.is_settled(since))
    }

    /// What is known of the cores.
    pub fn progress(&self, generation: Generation) -> Progress {
        let mut progress = Progress::default();
        for core in &self.cores {
            if core.applied < generation {
                progress.missing.push(core.core);
            } else {
                progress.applied.push(core.core);
                if !self.model.going.is_empty() && core.settled < generation {
                    progress.in_use.push(core.core);
                }
            }
        }
        progress
    }

    /// A namespace of `subsystem` that a core could not open, in this description or later.
    pub fn failure(&self, subsystem: &str, since: Generation) -> Option<CommandError> {
        self.cores.iter().find_map(|core| {
            let (generation, source) = core.failure.as_ref()?;
            let is_it = *generation >= since && source.subsystem == subsystem;
            let source = Arc::clone(source);
            is_it.then_some(CommandError::Open { core: core.core, source })
        })
    }

    /// Forgets what no core uses any more; the devices among it are to be closed.
    pub fn reap(&mut self) -> Vec<Unused> {
        if self.model.going.is_empty() {
            return Vec::new();
        }
        self.reap_exchanges();
        self.reap_namespaces();
        self.reap_subsystems();
        self.reap_devices()
    }

    fn reap_exchanges(&mut self) {
        for name in self.model.going.exchanges.clone() {
            let Some(device) = self.model.devices.get_mut(&name) else { continue };
            let retired = std::mem::take(&mut device.retired);
            let kept: Vec<_> =
                retired.into_iter().filter(|one| !self.is_unused(&one.export, one.since)).collect();
            if kept.is_empty() {
                self.model.going.exchanges.remove(&name);
            }
            if let Some(device) = self.model.devices.get_mut(&name) {
                device.retired = kept;
            }
        }
    }

    fn reap_namespaces(&mut self) {
        for (nqn, id) in self.model.going.namespaces.clone() {
            let subsystem = self.model.subsystems.get(&nqn).expect("it outlives its namespaces");
            let entry = subsystem.namespaces.get(&id).expect("what is going is there");
            let since = entry.gone_since.expect("what is going has gone since");
            if !self.is_unused(&entry.export, since) {
                continue;
            }
            let subsystem = self.model.subsystems.get_mut(&nqn).expect("it was just there");
            let entry = subsystem.namespaces.remove(&id).expect("it was just there");
            let device = self.model.devices.get_mut(&entry.device);
            device.expect("a namespace keeps its device").users -= 1;
            self.model.going.namespaces.remove(&(nqn, id));
        }
    }

    fn reap_subsystems(&mut self) {
        for nqn in self.model.going.subsystems.clone() {
            let entry = self.model.subsystems.get(&nqn).expect("what is going is there");
            let since = entry.gone_since.expect("what is going has gone since");
            if entry.namespaces.is_empty() && self.is_applied(since) {
                self.model.subsystems.remove(&nqn);
                self.model.going.subsystems.remove(&nqn);
            }
        }
    }

    fn reap_devices(&mut self) -> Vec<Unused> {
        let mut unused = Vec::new();
        for name in self.model.going.devices.clone() {
            let entry = self.model.devices.get_mut(&name).expect("what is going is there");
            let DevicePhase::Going(_, since) = &entry.phase else { continue };
            let since = *since;
            entry.released.retain(|handle| !handle.is_unused());
            let is_used = entry.users > 0 || !entry.retired.is_empty();
            if is_used || !entry.released.is_empty() || !self.is_applied(since) {
                continue;
            }
            let entry = self.model.devices.get_mut(&name).expect("it was just there");
            let phase = std::mem::replace(&mut entry.phase, DevicePhase::Closing);
            let DevicePhase::Going(stack, _) = phase else { unreachable!("it was just going") };
            self.model.going.devices.remove(&name);
            unused.push(Unused { name, stack });
        }
        unused
    }
}
