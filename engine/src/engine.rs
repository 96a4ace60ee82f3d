//! A running target: its cores, from the first to the last.
//!
//! [`Engine::start`] starts a reactor a core, carries the configuration's commands out, which binds
//! its ports and opens its devices, and lets the first core listen when all of it is served;
//! [`Engine::execute`] changes what is served; [`Engine::stop`] drains and joins the cores. Control
//! threads only. What a core does meanwhile is `nvmf::target`.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nvmf::target::{Message, TargetDescription};
use reactor::cores::{CoreId, CoreList};
use reactor::counters::{CoreCounters, SharedCounters};
use reactor::dma::PageKind;
use reactor::histogram::Histogram;
use reactor::inbox::CallError;
use reactor::mesh::{self, Peers};
use reactor::reactor::StartError;
use reactor::{Nanos, Reactor, ReactorConfig, ReactorHandle};

use crate::command::{
    Command, CommandError, DeviceInfo, NexusCommand, PortalInfo, Reply, VhostCommand, VhostInfo,
};
use crate::conductor::stage::{CoreSet, Stage};
use crate::conductor::{Conductor, ConductorOptions};
use crate::config::{ConfigError, TargetConfig};
use crate::core::EngineCore;
use crate::memory::{self, MemoryShortage};
use crate::numa;
use crate::portal::connect_line;
use crate::registry::Registry;

/// How long a core that was just started may take to begin to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);

/// How long a core may take to tell its service times.
const SERVICE_TIMES_WITHIN: Duration = Duration::from_secs(1);

/// What is left of the grace for cores to end, however long volumes took to be closed.
const END_MIN: Duration = Duration::from_millis(100);

/// How much longer than the grace that they were given cores may take to end.
const STOP_SLACK: Duration = Duration::from_millis(250);

/// How often cores that end are looked at.
const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Why a target could not be started; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it was to serve could not be made.
    #[error("{source}")]
    Setup {
        /// Which of [`TargetConfig::setup`], from zero; past its end for what comes after them.
        index: usize,
        /// Why not.
        source: CommandError,
    },
    /// The machine has too little memory for the cores.
    #[error(transparent)]
    Memory(#[from] MemoryShortage),
    /// A core could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why a target did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A core did not end in time; its thread was left behind.
    #[error("core {core} did not end in time")]
    TimedOut {
        /// The core.
        core: CoreId,
    },
    /// A core's thread panicked.
    #[error("core {core} ended in a panic")]
    Panicked {
        /// The core.
        core: CoreId,
    },
}

type Core = ReactorHandle<EngineCore>;

/// A running target. Dropping it stops it without grace.
#[derive(Debug)]
pub struct Engine {
    conductor: Conductor,
    cores: Arc<CoreSet>,
}

impl Engine {
    /// Starts a target; when it returns, its ports accept.
    ///
    /// # Errors
    ///
    /// Whatever keeps the target from starting; nothing of it is left running then.
    pub fn start(config: &TargetConfig) -> Result<Engine, EngineError> {
        config.check()?;
        let cores = config.resolve_cores()?;
        let count = cores.as_slice().len();
        memory::check(config.pool(), count)?;
        let conductor = Conductor::new(ConductorOptions {
            registry: Registry::standard(),
            cores: count,
            digests: config.digests,
        });
        let handles = start_cores(config, &cores, &conductor.description())?;
        let engine = Engine { conductor, cores: Arc::new(CoreSet::new(handles)) };
        let refused = |index| move |source| EngineError::Setup { index, source };
        let last = config.setup.len();
        let stage = Arc::clone(&engine.cores) as Arc<dyn Stage>;
        engine.conductor.attach(stage).map_err(refused(last))?;
        for (index, command) in config.setup.iter().enumerate() {
            engine.conductor.execute(command).map_err(refused(index))?;
        }
        // Only now: a host that found half of it would take the rest for gone.
        engine.conductor.listen(LISTEN_WITHIN).map_err(refused(last))?;
        Ok(engine)
    }

    /// Carries a command out within its usual time. Blocks; from any number of threads, but never
    /// from a core.
    ///
    /// # Errors
    ///
    /// Whatever keeps the command from being carried out; [`CommandError::kind`] sorts them.
    pub fn execute(&self, command: &Command) -> Result<Reply, CommandError> {
        self.conductor.execute(command)
    }

    /// Carries a command out within this time, 1 ms to an hour.
    ///
    /// # Errors
    ///
    /// As [`Engine::execute`].
    pub fn execute_within(
        &self,
        command: &Command,
        within: Duration,
    ) -> Result<Reply, CommandError> {
        self.conductor.execute_within(command, within)
    }

    /// Where it listens; ports are the real ones where 0 was asked for.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.portals().into_iter().map(|portal| portal.address).collect()
    }

    /// What an operator should know of the devices: a line for each that has something to say.
    pub fn device_notes(&self) -> Vec<String> {
        let Ok(Reply::Devices(devices)) = self.execute(&Command::ListDevices) else {
            return Vec::new();
        };
        let cores: Vec<CoreId> = self.cores().collect();
        let notes = |device: DeviceInfo| {
            let far = numa::note(Path::new("/"), &device.uri, &cores);
            let line = move |text: String| format!("{}: {text}", device.name);
            device.about.into_iter().chain(far).map(line)
        };
        devices.into_iter().flat_map(notes).collect()
    }

    /// Volumes that are not open yet, and children that are out, each with what is known of why.
    pub fn nexus_notes(&self) -> Vec<String> {
        let list = Command::Nexus(NexusCommand::List);
        let Ok(Reply::Nexuses(nexuses)) = self.execute(&list) else { return Vec::new() };
        let notes = |nexus: crate::command::NexusInfo| {
            let name = nexus.name;
            let refusal = nexus.refusal.into_iter();
            let mut notes: Vec<String> = refusal
                .map(|words| format!("nexus {name} is not open, and waits: {words}"))
                .collect();
            notes.extend(nexus.notice.map(|words| format!("WARNING: nexus {name}: {words}")));
            for child in nexus.children {
                let words = child.words.into_iter();
                notes.extend(
                    words.map(|words| format!("nexus {name} is without {}: {words}", child.uri)),
                );
            }
            notes
        };
        nexuses.into_iter().flat_map(notes).collect()
    }

    /// The commands with which a Linux host connects, ready to paste: for each subsystem, one for
    /// each portal.
    pub fn connect_lines(&self) -> Vec<String> {
        let Ok(Reply::Subsystems(subsystems)) = self.execute(&Command::ListSubsystems) else {
            return Vec::new();
        };
        let portals = self.portals();
        let lines = subsystems.iter().flat_map(|subsystem| {
            let line = |one: &PortalInfo| connect_line(one.address, one.advertised, &subsystem.nqn);
            portals.iter().map(line)
        });
        lines.collect()
    }

    /// The options with which QEMU gets each vhost device, ready to paste.
    pub fn vhost_lines(&self) -> Vec<String> {
        let Ok(Reply::Vhosts(vhosts)) = self.execute(&Command::Vhost(VhostCommand::List)) else {
            return Vec::new();
        };
        let line = |(number, one): (usize, VhostInfo)| {
            let VhostInfo { socket, queues, .. } = one;
            format!(
                "qemu -chardev socket,id=vhost{number},path={socket},reconnect=1 \
                 -device vhost-user-blk-pci,chardev=vhost{number},num-queues={queues}"
            )
        };
        vhosts.into_iter().enumerate().map(line).collect()
    }

    fn portals(&self) -> Vec<PortalInfo> {
        match self.execute(&Command::ListPortals) {
            Ok(Reply::Portals(portals)) => portals,
            _ => Vec::new(),
        }
    }

    /// Its cores, in the order of [`Engine::counters`].
    pub fn cores(&self) -> impl Iterator<Item = CoreId> {
        self.cores.cores().into_iter()
    }

    /// Which pages back the DMA memory of each core.
    pub fn pages(&self) -> impl Iterator<Item = PageKind> {
        let pages: Vec<_> = self.cores.with_handles(|all| all.iter().map(Core::pages).collect());
        pages.into_iter()
    }

    /// What each core has last published of its counters.
    pub fn counters(&self) -> Vec<CoreCounters> {
        self.shared_counters().iter().map(SharedCounters::read).collect()
    }

    /// Readers of the counters of each core, for other threads.
    pub fn shared_counters(&self) -> Vec<SharedCounters> {
        self.cores.shared_counters()
    }

    /// How long each core took over the I/Os that it answered, since it was started; from the parse
    /// of a command to the reply handed to the socket.
    ///
    /// # Errors
    ///
    /// A core that does not answer within a second.
    pub fn service_times(&self) -> Result<Vec<Histogram>, CallError> {
        let read = |place| {
            self.cores.call(place, SERVICE_TIMES_WITHIN, |core| {
                core.service.target.service_times().clone()
            })
        };
        (0..self.cores.cores().len()).map(read).collect()
    }

    /// Ends the target: volumes with labels are closed within `grace`, or are left as after a
    /// crash; commands that wait are given up, no new work is taken, what is in flight is answered
    /// within `grace` or cut off, all threads are joined.
    ///
    /// # Errors
    ///
    /// A core that panicked, or that did not end a quarter of a second after the grace.
    pub fn stop(&self, grace: Duration) -> Result<(), StopError> {
        let begun = Instant::now();
        self.conductor.close_volumes(grace);
        self.conductor.stop();
        // What closing took is not given once more; hosts' I/O waited for it, or has ended.
        let left = grace.saturating_sub(begun.elapsed());
        let ended = self.cores.end(left.max(grace.min(END_MIN)));
        self.conductor.join();
        self.conductor.release();
        ended
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What goes wrong now cannot be told to anyone; `stop` is for those who want to know.
        let _ = self.stop(Duration::ZERO);
    }
}

/// Starts all cores at the same time: each maps and populates its own memory.
fn start_cores(
    config: &TargetConfig,
    cores: &CoreList,
    description: &Arc<TargetDescription>,
) -> Result<Vec<Core>, EngineError> {
    let prepare = |core: &CoreId| {
        let seed = RandomState::new().hash_one(core);
        let (core, idle, pool) = (*core, config.idle, config.pool());
        Reactor::new(ReactorConfig { core, idle, pool, seed })
    };
    let reactors: Vec<Reactor> = cores.as_slice().iter().map(prepare).collect::<Result<_, _>>()?;
    let wakers: Vec<_> = reactors.iter().map(|reactor| reactor.waker().clone()).collect();
    let prepared = reactors.into_iter().zip(mesh::connect(&wakers));
    let results: Vec<Result<Core, EngineError>> = thread::scope(|scope| {
        let begun: Vec<_> = prepared
            .map(|(reactor, peers)| {
                let description = Arc::clone(description);
                scope.spawn(move || start_core(reactor, peers, description))
            })
            .collect();
        let joined = begun.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|joined| joined.expect("starting a core does not panic")).collect()
    });
    let (mut started, mut failure) = (Vec::with_capacity(results.len()), None);
    for result in results {
        match result {
            Ok(core) => started.push(core),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        None => Ok(started),
        Some(error) => {
            // The others are ended; what goes wrong with that is less than what went wrong.
            let _ = CoreSet::new(started).end(Duration::ZERO);
            Err(error)
        }
    }
}

fn start_core(
    reactor: Reactor,
    peers: Peers<Message>,
    description: Arc<TargetDescription>,
) -> Result<Core, EngineError> {
    reactor.start(move |_| Ok(EngineCore::new(description, peers)))
}

impl CoreSet {
    /// Asks all cores to end, waits for them, and joins those that have.
    fn end(&self, grace: Duration) -> Result<(), StopError> {
        let deadline = Instant::now() + grace + STOP_SLACK;
        let mut asked = vec![false; self.cores().len()];
        loop {
            // A full inbox refuses; a core that goes on will have room in a moment.
            let all_ended = self.with_handles(|handles| {
                for (core, asked) in handles.iter().zip(&mut asked) {
                    *asked = *asked || core.is_finished() || core.stop(Nanos::from(grace));
                }
                handles.iter().all(Core::is_finished)
            });
            // Calls that are under way end with their core; those to one that goes on may not.
            if (all_ended || Instant::now() >= deadline)
                && let Some(handles) = self.take_handles()
            {
                return join(handles);
            }
            thread::sleep(STOP_LOOK_INTERVAL);
        }
    }
}

fn join(handles: Vec<Core>) -> Result<(), StopError> {
    let mut outcome = Ok(());
    for handle in handles {
        let core = handle.core();
        let ended = if !handle.is_finished() {
            Err(StopError::TimedOut { core })
        } else {
            handle.join().map_err(|_| StopError::Panicked { core })
        };
        outcome = outcome.and(ended);
    }
    outcome
}
