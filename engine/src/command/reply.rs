//! What commands answer: the engine's objects as they are known, copied.

use std::net::SocketAddr;

use nvmf::target::statistics::IoStatistics;
use reactor::cores::CoreId;
use reactor::counters::CoreCounters;
use uuid::Uuid;

use nvmf::target::reservation::SaveFailures;

use super::{Access, AnaState, Failure, HostChoice, Lateness, NexusInfo, RuleSet, VhostInfo};

/// The answer to a command that was carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// There is nothing to say.
    Done,
    /// All devices, by name.
    Devices(Vec<DeviceInfo>),
    /// The device, as it is now.
    Device(DeviceInfo),
    /// All subsystems, by NQN.
    Subsystems(Vec<SubsystemInfo>),
    /// The subsystem, as it is now.
    Subsystem(SubsystemInfo),
    /// The namespace, as it is now.
    Namespace(NamespaceInfo),
    /// All portals, in the order in which they were made.
    Portals(Vec<PortalInfo>),
    /// The portal.
    Portal(PortalInfo),
    /// What was counted.
    Counters(CountersInfo),
    /// All nexuses, by name.
    Nexuses(Vec<NexusInfo>),
    /// The nexus, as it is now.
    Nexus(NexusInfo),
    /// All vhost devices, by socket.
    Vhosts(Vec<VhostInfo>),
    /// The vhost device, as it is now.
    Vhost(VhostInfo),
}

/// Whether an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is being opened, or cores do not have it yet.
    Coming,
    /// It is.
    Present,
    /// It was removed; what is left of it waits for I/O to come back from a device.
    Going,
}

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its URI, in its first spelling.
    pub uri: String,
    /// Whether it is there.
    pub presence: Presence,
    /// Bytes of a block; zero while it is coming.
    pub block_bytes: u32,
    /// Number of blocks when it was last looked at.
    pub blocks: u64,
    /// Its own identity, when it has one.
    pub uuid: Option<Uuid>,
    /// How it is reached, where there is something to know.
    pub about: Option<String>,
    /// Random at each start of the device.
    pub instance: Uuid,
    /// The faults that are set.
    pub fault: Option<RuleSet<Failure>>,
    /// The delays that are set.
    pub delay: Option<RuleSet<Lateness>>,
}

/// A subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemInfo {
    /// Its NQN.
    pub nqn: String,
    /// Whether it is there.
    pub presence: Presence,
    /// Its serial number.
    pub serial: String,
    /// First and last identifier of its controllers.
    pub controller_ids: (u16, u16),
    /// Most entries of an I/O queue.
    pub queue_entries: u16,
    /// Which hosts may connect.
    pub hosts: HostsInfo,
    /// Its namespaces, by identifier.
    pub namespaces: Vec<NamespaceInfo>,
}

/// Which hosts may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsInfo {
    /// Every host, or those named.
    pub policy: HostChoice,
    /// Those named, by NQN.
    pub named: Vec<String>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Its identifier.
    pub namespace: u32,
    /// Whether it is there.
    pub presence: Presence,
    /// Name of its device.
    pub device: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Whether hosts may write, as was asked; a device may refuse all the same.
    pub access: Access,
    /// How good the path to it is.
    pub ana: AnaState,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Number of blocks when its device was last looked at.
    pub blocks: u64,
    /// How often its reservations could not be stored, and the first such error.
    pub reservation_failures: SaveFailures,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortalInfo {
    /// Its number in the discovery log.
    pub id: u16,
    /// Whether it is there.
    pub presence: Presence,
    /// Where; the port is the real one when 0 was asked for.
    pub address: SocketAddr,
    /// What discovery names instead.
    pub advertised: Option<SocketAddr>,
}

/// What was counted, as it was last published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountersInfo {
    /// By core, in the order in which they were started.
    pub cores: Vec<CoreInfo>,
    /// By namespace, in the order of their subsystems' names.
    pub namespaces: Vec<NamespaceCounters>,
}

/// What hosts moved through a namespace. A busy core tells four times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceCounters {
    /// NQN of its subsystem.
    pub subsystem: String,
    /// Its identifier.
    pub namespace: u32,
    /// Of all cores, since it was added.
    pub moved: IoStatistics,
}

/// What a core counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreInfo {
    /// The core.
    pub core: CoreId,
    /// Its counters, since it was started.
    pub counters: CoreCounters,
}
