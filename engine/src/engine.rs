//! A running target: its cores, from the first to the last.
//!
//! [`Engine::start`] takes the port before it touches memory, opens the devices, describes the
//! target, starts a reactor a core and lets the first of them listen; [`Engine::stop`] drains and
//! joins them. Control threads only. What a core does meanwhile is `nvmf::target`.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bdev::BlockDevice;
use bdev::emulate::Sharing;
use nvmf::fabrics::Nqn;
use nvmf::target::{Message, TargetCore, TargetDescription};
use reactor::cores::{CoreId, CoreList};
use reactor::counters::{CoreCounters, SharedCounters};
use reactor::dma::PageKind;
use reactor::inbox::CallError;
use reactor::mesh::{self, Peers};
use reactor::reactor::StartError;
use reactor::socket::epoll::bind_listener;
use reactor::{Nanos, Reactor, ReactorConfig, ReactorHandle};

use crate::assembly::{self, AssemblyError};
use crate::config::{ConfigError, TargetConfig};
use crate::memory::{self, MemoryShortage};
use crate::registry::{Registry, RegistryError};

/// How long a core that was just started may take to begin to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);

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
    /// A device could not be opened.
    #[error(transparent)]
    Device(#[from] RegistryError),
    /// Devices and configuration do not make a target.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// Something listens there already.
    #[error(
        "port {port} of {address} is in use: stop what listens there, or choose another port \
         (0 takes a free one)",
        port = .address.port(), address = .address.ip()
    )]
    PortInUse {
        /// Where the target was to listen.
        address: SocketAddr,
    },
    /// The process may not listen there.
    #[error(
        "no permission for port {port} of {address}: choose one above 1023, or grant the process \
         CAP_NET_BIND_SERVICE",
        port = .address.port(), address = .address.ip()
    )]
    NoPermission {
        /// Where the target was to listen.
        address: SocketAddr,
    },
    /// The machine does not have the address.
    #[error(
        "this machine does not have the address {address}: choose one of its own, or 0.0.0.0 or \
         :: for all of them",
        address = .address.ip()
    )]
    NoSuchAddress {
        /// Where the target was to listen.
        address: SocketAddr,
    },
    /// The system refused to listen for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where the target was to listen.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The machine has too little memory for the cores.
    #[error(transparent)]
    Memory(#[from] MemoryShortage),
    /// A core could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A core ended, or did not answer, while it was being set up.
    #[error("core {core} does not answer: is the machine overloaded?")]
    Unresponsive {
        /// The core.
        core: CoreId,
        /// How the call ended.
        #[source]
        source: CallError,
    },
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

type Core = ReactorHandle<TargetCore>;

/// A running target. Dropping it stops it without grace.
#[derive(Debug)]
pub struct Engine {
    cores: Vec<Core>,
    local: SocketAddr,
    nqn: Nqn,
    connect_line: String,
    device_notes: Vec<String>,
}

impl Engine {
    /// Starts a target; when it returns, the port accepts.
    ///
    /// # Errors
    ///
    /// Whatever keeps the target from starting; nothing of it is left running then.
    pub fn start(config: &TargetConfig) -> Result<Engine, EngineError> {
        config.check()?;
        let cores = config.resolve_cores()?;
        let (socket, local) = listen(config.listen_address())?;
        memory::check(config.pool(), cores.as_slice().len())?;
        let sharing = match cores.as_slice() {
            [_] => Sharing::OneCore,
            _ => Sharing::ManyCores,
        };
        let devices = Registry::standard().open_all(&config.devices, sharing)?;
        let about = |device: &Arc<dyn BlockDevice>| {
            device.about().map(|about| format!("{}: {about}", device.name()))
        };
        let device_notes = devices.iter().filter_map(about).collect();
        let description = assembly::describe(config, devices, local.port(), draw_instance())?;
        let mut engine = Engine {
            cores: Vec::with_capacity(cores.as_slice().len()),
            local,
            nqn: config.nqn,
            connect_line: assembly::connect_line(local, config.advertise, &config.nqn),
            device_notes,
        };
        engine.start_cores(config, &cores, Arc::new(description))?;
        engine.listen_on_first_core(socket)?;
        Ok(engine)
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Name of the subsystem.
    pub fn nqn(&self) -> &Nqn {
        &self.nqn
    }

    /// What an operator should know of the devices: a line for each that has something to say.
    pub fn device_notes(&self) -> &[String] {
        &self.device_notes
    }

    /// The command with which a Linux host connects, ready to paste.
    pub fn connect_line(&self) -> &str {
        &self.connect_line
    }

    /// Its cores, in the order of [`Engine::counters`].
    pub fn cores(&self) -> impl Iterator<Item = CoreId> {
        self.cores.iter().map(Core::core)
    }

    /// Which pages back the DMA memory of each core.
    pub fn pages(&self) -> impl Iterator<Item = PageKind> {
        self.cores.iter().map(Core::pages)
    }

    /// What each core has last published of its counters.
    pub fn counters(&self) -> Vec<CoreCounters> {
        self.cores.iter().map(Core::counters).collect()
    }

    /// Readers of the counters of each core, for other threads.
    pub fn shared_counters(&self) -> Vec<SharedCounters> {
        self.cores.iter().map(Core::shared_counters).collect()
    }

    /// Ends the target: no new work, what is in flight is answered within `grace` or cut off, all
    /// threads are joined.
    ///
    /// # Errors
    ///
    /// A core that panicked, or that did not end a quarter of a second after the grace.
    pub fn stop(mut self, grace: Duration) -> Result<(), StopError> {
        end(std::mem::take(&mut self.cores), grace)
    }

    /// Starts all cores at the same time: each maps and populates its own memory.
    fn start_cores(
        &mut self,
        config: &TargetConfig,
        cores: &CoreList,
        description: Arc<TargetDescription>,
    ) -> Result<(), EngineError> {
        let prepare = |core: &CoreId| {
            let seed = RandomState::new().hash_one(core);
            let (core, idle, pool) = (*core, config.idle, config.pool());
            Reactor::new(ReactorConfig { core, idle, pool, seed })
        };
        let reactors: Vec<Reactor> =
            cores.as_slice().iter().map(prepare).collect::<Result<_, _>>()?;
        let wakers: Vec<_> = reactors.iter().map(|reactor| reactor.waker().clone()).collect();
        let prepared = reactors.into_iter().zip(mesh::connect(&wakers));
        let results: Vec<Result<Core, EngineError>> = thread::scope(|scope| {
            let begun: Vec<_> = prepared
                .map(|(reactor, peers)| {
                    let description = Arc::clone(&description);
                    scope.spawn(move || start_core(reactor, peers, description))
                })
                .collect();
            let joined = begun.into_iter().map(thread::ScopedJoinHandle::join);
            joined.map(|joined| joined.expect("starting a core does not panic")).collect()
        });
        let mut failure = None;
        for result in results {
            match result {
                Ok(core) => self.cores.push(core),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn listen_on_first_core(&self, socket: OwnedFd) -> Result<(), EngineError> {
        let first = self.cores.first().expect("a list of cores is never empty");
        let listening = first
            .call(LISTEN_WITHIN, move |core| {
                core.service.listen(&mut core.cx, assembly::PORTAL, socket)
            })
            .map_err(|source| EngineError::Unresponsive { core: first.core(), source })?;
        listening.map_err(|source| EngineError::Listen { address: self.local, source })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What goes wrong now cannot be told to anyone; `stop` is for those who want to know.
        let _ = end(std::mem::take(&mut self.cores), Duration::ZERO);
    }
}

fn start_core(
    reactor: Reactor,
    peers: Peers<Message>,
    description: Arc<TargetDescription>,
) -> Result<Core, EngineError> {
    reactor.start(move |_| Ok(TargetCore::new(description, peers)))
}

/// Asks all cores to end, waits for them, and joins those that have.
fn end(cores: Vec<Core>, grace: Duration) -> Result<(), StopError> {
    let deadline = Instant::now() + grace + STOP_SLACK;
    let mut unasked: Vec<&Core> = cores.iter().collect();
    loop {
        // A full inbox refuses; a core that goes on will have room in a moment.
        unasked.retain(|core| !core.is_finished() && !core.stop(Nanos::from(grace)));
        if cores.iter().all(Core::is_finished) || Instant::now() >= deadline {
            break;
        }
        thread::sleep(STOP_LOOK_INTERVAL);
    }
    let mut outcome = Ok(());
    for handle in cores {
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

/// Binds the port; also where it is then listened on.
fn listen(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), EngineError> {
    use std::io::ErrorKind;
    let refused = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => EngineError::PortInUse { address },
        ErrorKind::PermissionDenied => EngineError::NoPermission { address },
        ErrorKind::AddrNotAvailable => EngineError::NoSuchAddress { address },
        _ => EngineError::Listen { address, source },
    };
    let listener = TcpListener::from(bind_listener(address).map_err(refused)?);
    let local = listener.local_addr().map_err(refused)?;
    Ok((OwnedFd::from(listener), local))
}

/// Random bits from the system, by way of the keys that the standard library draws for its maps.
fn draw_instance() -> [u8; 16] {
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(()).to_le_bytes());
    }
    bytes
}
