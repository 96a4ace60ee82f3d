//! Every change to a running engine, as values: what is asked, what is answered, what is refused.
//!
//! [`Command`] goes in by `Engine::execute`, [`Reply`] or [`CommandError`] comes out. The
//! faces (gRPC, the file of `mayastor target --config`, tests) only translate; what a field may be
//! is decided here and nowhere else, so the names and addresses are text as it was given. Plain
//! data, no thread of its own; the conductor carries commands out.
//!
//! Creating is idempotent: the same thing again is the same object, and an answer like the first.

pub mod error;
pub(crate) mod field;
pub mod limits;
pub mod nexus;
pub mod reply;
pub mod vhost;

use std::time::Duration;

pub use bdev::delay::Lateness;
pub use bdev::fault::Failure;
pub use bdev::nvme::log_page::AnaState;
pub use bdev::rules::{Count, Match, Rule, RuleSet};
pub use nvmf::target::namespace::Access;

pub use error::{CommandError, ErrorKind, Progress};
pub use nexus::{
    ChildInfo, ChildState, CreateNexus, DifferenceInfo, FaultReason, Force, Labels, LeftOut,
    NexusCommand, NexusInfo, NexusState, OfChild, Policy, ProgressInfo, RebuildEnd, RebuildInfo,
    RebuildState, RecordPlace, Scope, VerifyInfo, VerifyState,
};
pub use reply::{
    CoreInfo, CountersInfo, DeviceInfo, HostsInfo, NamespaceCounters, NamespaceInfo, PortalInfo,
    Presence, Reply, SubsystemInfo,
};

pub use vhost::{AddVhost, VHOST_QUEUES_DEFAULT, VhostCommand, VhostInfo};
pub use vhost_blk::session::GuestAccess;

/// How long reading what is known may take; it waits for nobody.
pub const LIST_WITHIN: Duration = Duration::from_secs(1);

/// How long a change in memory may take until every core has it.
pub const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// How long a device may take to be opened, or to tell its size. A disk that spins up takes some
/// ten seconds.
pub const DEVICE_WITHIN: Duration = Duration::from_secs(30);

/// How long the I/O of what is removed or replaced may take to come back from its device. As long
/// as Linux waits for a command of a host (`nvme_core.io_timeout`).
pub const REMOVE_WITHIN: Duration = Duration::from_secs(30);

/// A change to a running engine, or a question to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Which devices there are; answered by [`Reply::Devices`].
    ListDevices,
    /// Opens a device; answered by [`Reply::Device`].
    AddDevice(AddDevice),
    /// Closes a device that no namespace uses; answered by [`Reply::Done`].
    RemoveDevice {
        /// Its name, the path part of its URI.
        device: String,
    },
    /// Looks at a device's size, or changes it; answered by [`Reply::Device`].
    ResizeDevice(ResizeDevice),
    /// Makes I/Os of a device fail, in place of what was set before; answered by
    /// [`Reply::Device`].
    SetFault(SetFault),
    /// Ends [`Command::SetFault`]; answered by [`Reply::Device`].
    ClearFault {
        /// The device's name.
        device: String,
    },
    /// Makes I/Os of a device late, in place of what was set before; answered by
    /// [`Reply::Device`].
    SetDelay(SetDelay),
    /// Ends [`Command::SetDelay`]; answered by [`Reply::Device`].
    ClearDelay {
        /// The device's name.
        device: String,
    },
    /// Which subsystems there are, with namespaces and hosts; answered by [`Reply::Subsystems`].
    ListSubsystems,
    /// Makes a subsystem without namespaces; answered by [`Reply::Subsystem`].
    AddSubsystem(AddSubsystem),
    /// Ends a subsystem, with its namespaces and connections; answered by [`Reply::Done`].
    RemoveSubsystem {
        /// Its NQN.
        subsystem: String,
    },
    /// Puts a device under a number; answered by [`Reply::Namespace`].
    AddNamespace(AddNamespace),
    /// Takes a device away from hosts; answered by [`Reply::Done`].
    RemoveNamespace {
        /// NQN of its subsystem.
        subsystem: String,
        /// Its identifier.
        namespace: u32,
    },
    /// Looks at the size of a namespace's device and tells hosts when it has changed; answered by
    /// [`Reply::Namespace`].
    ResizeNamespace {
        /// NQN of its subsystem.
        subsystem: String,
        /// Its identifier.
        namespace: u32,
    },
    /// Lets a host connect to a subsystem that does not let every host; answered by
    /// [`Reply::Subsystem`].
    AddHost {
        /// NQN of the subsystem.
        subsystem: String,
        /// NQN of the host.
        host: String,
    },
    /// Takes that back; answered by [`Reply::Subsystem`].
    RemoveHost {
        /// NQN of the subsystem.
        subsystem: String,
        /// NQN of the host.
        host: String,
    },
    /// Lets every host connect, or only those that are named; answered by [`Reply::Subsystem`].
    SetHostPolicy {
        /// NQN of the subsystem.
        subsystem: String,
        /// Which.
        policy: HostChoice,
    },
    /// Tells hosts how good the path to namespaces is; answered by [`Reply::Subsystem`].
    SetAnaState(SetAnaState),
    /// Where the target listens; answered by [`Reply::Portals`].
    ListPortals,
    /// Listens on another address; answered by [`Reply::Portal`].
    AddPortal(AddPortal),
    /// Listens there no longer; connections that came that way stay. Answered by [`Reply::Done`].
    RemovePortal {
        /// The address as it is listed, with the port.
        address: String,
    },
    /// What the cores have counted; answered by [`Reply::Counters`].
    ReadCounters,
    /// What is asked of nexuses.
    Nexus(NexusCommand),
    /// What is asked of vhost devices.
    Vhost(VhostCommand),
}

/// Which device to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddDevice {
    /// Its URI, or the path of a file or block device.
    pub uri: String,
}

/// Which device to look at, and what is to become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeDevice {
    /// Its name.
    pub device: String,
    /// The size that it is to have, in bytes; none takes the size that it has by now.
    pub len_bytes: Option<u64>,
}

/// Which I/Os fail.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetFault {
    /// The device's name.
    pub device: String,
    /// The first rule that meets an I/O decides. At least one.
    pub rules: RuleSet<Failure>,
}

/// Which I/Os are late.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetDelay {
    /// The device's name.
    pub device: String,
    /// The first rule that meets an I/O decides. At least one.
    pub rules: RuleSet<Lateness>,
}

/// Which hosts may connect, those that are named aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostChoice {
    /// Every host.
    #[default]
    Any,
    /// Only those named by [`Command::AddHost`].
    Named,
}

/// What a subsystem is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddSubsystem {
    /// Its NQN.
    pub subsystem: String,
    /// Which hosts may connect.
    pub hosts: HostChoice,
    /// First and last identifier of its controllers, 1 to 65519; none takes all. Two nodes that
    /// serve one subsystem have ranges apart from each other.
    pub controller_ids: Option<(u32, u32)>,
    /// Most entries of an I/O queue, 2 to 1024; none takes the default.
    pub queue_entries: Option<u32>,
}

/// What a namespace is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddNamespace {
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Name of the device that holds its blocks.
    pub device: String,
    /// Its identifier, from 1; none takes the lowest that is free.
    pub namespace: Option<u32>,
    /// Its identity; none takes the device's own, or else one that is derived from the names.
    pub uuid: Option<String>,
    /// Whether hosts may write.
    pub access: Access,
}

/// How good the path to namespaces is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAnaState {
    /// NQN of the subsystem.
    pub subsystem: String,
    /// One namespace; none means all that there are, and those that will be added.
    pub namespace: Option<u32>,
    /// How good it is.
    pub state: AnaState,
}

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddPortal {
    /// IP address and port: `10.0.0.1:4420` or `[fe80::1]:4420`; port 0 takes a free one.
    pub address: String,
    /// What discovery names instead of the address that a host came to: an IP address, or one
    /// with a port.
    pub advertise: Option<String>,
}

impl AddNamespace {
    /// A namespace that may be written, with the next free identifier.
    pub fn new(subsystem: impl Into<String>, device: impl Into<String>) -> AddNamespace {
        AddNamespace {
            subsystem: subsystem.into(),
            device: device.into(),
            namespace: None,
            uuid: None,
            access: Access::ReadWrite,
        }
    }
}

impl Command {
    /// How long the command may take, unless its sender says otherwise.
    pub fn within(&self) -> Duration {
        match self {
            Command::ListDevices
            | Command::ListSubsystems
            | Command::ListPortals
            | Command::ReadCounters => LIST_WITHIN,
            Command::AddDevice(_) | Command::ResizeDevice(_) | Command::ResizeNamespace { .. } => {
                DEVICE_WITHIN
            }
            Command::RemoveDevice { .. }
            | Command::RemoveSubsystem { .. }
            | Command::RemoveNamespace { .. }
            | Command::SetFault(_)
            | Command::ClearFault { .. }
            | Command::SetDelay(_)
            | Command::ClearDelay { .. } => REMOVE_WITHIN,
            Command::AddSubsystem(_)
            | Command::AddNamespace(_)
            | Command::AddHost { .. }
            | Command::RemoveHost { .. }
            | Command::SetHostPolicy { .. }
            | Command::SetAnaState(_)
            | Command::AddPortal(_)
            | Command::RemovePortal { .. } => CHANGE_WITHIN,
            Command::Nexus(command) => command.within(),
            Command::Vhost(command) => command.within(),
        }
    }

    /// True for what only reads: answered from what is known, whatever else goes on.
    pub fn is_question(&self) -> bool {
        match self {
            Command::ListDevices
            | Command::ListSubsystems
            | Command::ListPortals
            | Command::ReadCounters => true,
            Command::Nexus(command) => command.is_question(),
            Command::Vhost(command) => command.is_question(),
            _ => false,
        }
    }
}
