//! A remote namespace as a block device.
//!
//! Opened on control threads; queue pairs are opened and dropped on their cores. Its supervisor
//! lives for as long as the device or any queue pair of it does.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bdev::reservation::DeviceReservations;
use bdev::reservation::device::Abilities;
use bdev::session::Sessions;
use bdev::{BlockDevice, Geometry, Limits, OpenError, Operation, QueuePair};
use reactor::sleep::Waker;
use reactor::{Cx, Nanos};
use uuid::Uuid;

use super::super::controller::{ControllerIdentity, Instance};
use super::super::error::ConnectError;
use super::super::join::Association;
use super::super::options::{OptionsError, QUEUE_DEPTH_MAX};
use super::super::queue_pair::NamespaceView;
use super::event::RemoteEvent;
use super::hub::{self, HubError};
use super::options::RemoteOptions;
use super::queue_pair::{RemoteQueuePair, Setup};
use super::reserve::RemoteReservations;
use super::shared::Shared;
use super::supervisor::Supervisor;

/// How much longer than the time to connect the supervisor may take to say what came of it.
const OPEN_SLACK: Duration = Duration::from_secs(1);

/// Why a remote device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRemoteError {
    /// The options make no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The thread for admin queues could not be started.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The target could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing came of it in time.
    #[error("{address} was not connected within {within:?}: is it reachable?")]
    TimedOut {
        /// Where to.
        address: std::net::SocketAddr,
        /// The limit.
        within: Duration,
    },
    /// The URI gives the device another identity than the namespace has.
    #[error("the namespace has the identity {found}, and not {asked}")]
    OtherIdentity {
        /// What the URI says.
        asked: Uuid,
        /// What the target says.
        found: Uuid,
    },
}

/// What opening finds out.
#[derive(Debug)]
pub(super) struct Opened {
    pub view: NamespaceView,
    pub uuid: Option<Uuid>,
    pub identity: ControllerIdentity,
}

/// Keeps the supervisor going; dropping the last one ends it.
#[derive(Debug)]
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A namespace of a remote target.
#[derive(Debug)]
pub struct RemoteDevice {
    name: String,
    handle: Arc<Handle>,
    options: RemoteOptions,
    view: NamespaceView,
    limits: Limits,
    uuid: Option<Uuid>,
    identity: ControllerIdentity,
}

/// A device whose supervisor somebody else polls; becomes a device when that has connected.
#[derive(Debug)]
pub struct Opening {
    name: String,
    handle: Arc<Handle>,
    options: RemoteOptions,
    outcome: Receiver<Result<Opened, ConnectError>>,
}

impl Opening {
    /// Prepares a device and its supervisor.
    fn new(
        name: String,
        mut options: RemoteOptions,
        waker: Option<Waker>,
    ) -> Result<(Opening, impl FnOnce() -> Supervisor + Send + 'static), OptionsError> {
        options.check()?;
        options.connect.queue_depth = QUEUE_DEPTH_MAX;
        let (shared, notes) = Shared::new(waker);
        let (reply, outcome) = sync_channel(1);
        let (for_supervisor, told) = (Arc::clone(&shared), options.clone());
        let make = move || Supervisor::new(for_supervisor, notes, &told, reply);
        let handle = Arc::new(Handle(shared));
        Ok((Opening { name, handle, options, outcome }, make))
    }

    /// The device once it is connected.
    ///
    /// # Errors
    /// It cannot be connected.
    pub fn take(&self) -> Option<Result<RemoteDevice, ConnectError>> {
        let outcome = self.outcome.try_recv().ok()?;
        Some(outcome.map(|opened| self.finish(opened)))
    }

    fn finish(&self, opened: Opened) -> RemoteDevice {
        let Opened { view, uuid, identity } = opened;
        RemoteDevice {
            name: self.name.clone(),
            handle: Arc::clone(&self.handle),
            options: self.options.clone(),
            limits: limits_of(&view),
            view,
            uuid,
            identity,
        }
    }
}

/// Limits of the device: with compare-and-write where fused pairs are taken.
fn limits_of(view: &NamespaceView) -> Limits {
    let limits = view.limits;
    if view.fused_blocks == 0 || !limits.operations.contains(Operation::Compare) {
        return limits;
    }
    Limits {
        operations: limits.operations.with(Operation::CompareAndWrite),
        // One limit stands for both, so it is that of the lesser.
        atomic_blocks: limits.atomic_blocks.min(view.fused_blocks),
        ..limits
    }
}

impl RemoteDevice {
    /// Connects to a namespace, which is to be called `name`. Blocks for as long as the options
    /// let it; control threads only.
    ///
    /// # Errors
    /// It cannot be connected, or not in time.
    pub fn open(name: String, options: RemoteOptions) -> Result<RemoteDevice, OpenRemoteError> {
        let hub = hub::get()?;
        let address = options.discovery.first().copied().unwrap_or(options.connect.address);
        // What is not where it should be is to be discovered first, and may have many portals; who
        // opens it does not wait for each of them.
        let attempts = if options.discovery.is_empty() { 1 } else { 3 };
        let within = options.connect.connect_timeout * attempts + OPEN_SLACK;
        let (opening, make) = Opening::new(name, options, Some(hub.waker()))?;
        hub.add(Box::new(make))?;
        match opening.outcome.recv_timeout(within) {
            Ok(outcome) => Ok(opening.finish(outcome?)),
            Err(_) => Err(OpenRemoteError::TimedOut { address, within }),
        }
    }

    /// Begins to connect; the caller polls the supervisor, and goes on doing so for as long as the
    /// device is in use. For tests and the simulator.
    ///
    /// # Errors
    /// The options make no sense.
    pub fn open_stepped(
        name: String,
        options: RemoteOptions,
    ) -> Result<(Opening, Supervisor), OptionsError> {
        let (opening, make) = Opening::new(name, options, None)?;
        Ok((opening, make()))
    }

    /// The controller when it was first connected.
    pub fn controller(&self) -> &ControllerIdentity {
        &self.identity
    }

    /// The oldest event that was not taken yet. Any thread.
    pub fn take_event(&self) -> Option<RemoteEvent> {
        self.handle.shared().take_event()
    }
}

impl BlockDevice for RemoteDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> Option<String> {
        let ControllerIdentity { model, firmware, instance, .. } = &self.identity;
        let address = self.handle.shared().address();
        let kind = match instance {
            Instance::Own(_) => "",
            Instance::Foreign => ", whose restarts cannot be told from lost connections",
        };
        Some(format!("NVMe/TCP to {address}, {model} {firmware}{kind}"))
    }

    fn geometry(&self) -> Geometry {
        Geometry { blocks: self.handle.shared().blocks(), ..self.view.geometry }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        Some(Arc::clone(self.handle.shared().sessions()))
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        let abilities = self.view.reservations;
        let handle = Arc::clone(&self.handle);
        (abilities != Abilities::default())
            .then(|| Arc::new(RemoteReservations { handle, abilities }) as Arc<_>)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let shared = self.handle.shared();
        let Some(queue_id) = shared.take_port(shared.queues()) else {
            let count = shared.queues();
            let text = format!("all {count} I/O queues that the target grants are in use");
            let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, text);
            return Err(OpenError::System { device: self.name.clone(), source });
        };
        let setup = Setup {
            handle: Arc::clone(&self.handle),
            association: Association::of(&self.options.connect),
            queue_id,
            depth: depth.clamp(1, QUEUE_DEPTH_MAX),
            view: NamespaceView { geometry: self.geometry(), ..self.view },
            limits: self.limits,
            when_lost: self.options.when_lost,
            io_timeout: Nanos::from(self.options.io_timeout),
        };
        Ok(Box::new(RemoteQueuePair::new(cx, setup)))
    }
}
