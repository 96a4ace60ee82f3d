//! What there is: devices, nexuses, subsystems, portals, as plain data.
//!
//! Owned by the conductor under its lock, which no core ever takes. Nothing here waits, opens or
//! closes anything; the steps that do are [`crate::conductor`]'s. [`Model::describe`] makes the
//! description that cores share of it, [`Model::devices`] and the like what listings show. An
//! object that was removed stays, as one that is going, until no core has anything of it.

pub(crate) mod device;
pub(crate) mod nexus;
pub(crate) mod subsystem;
pub(crate) mod vhost;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvmf::fabrics::nqn::DISCOVERY_NQN;
use nvmf::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use nvmf::target::{DigestPolicy, Portal, PortalId, SubsystemId, TargetDescription};
use uuid::{Builder, Uuid};
use vhost_blk::core::setup::DeviceKey;

use crate::command::{PortalInfo, Presence};
use crate::homes::NexusId;
use device::DeviceEntry;
use nexus::NexusEntry;
use subsystem::SubsystemEntry;
use vhost::VhostEntry;

/// Number of a description: each change has the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub u64);

/// All devices, by name.
pub(crate) type Devices = BTreeMap<String, DeviceEntry>;

/// The identifier of the discovery subsystem; the others follow.
const DISCOVERY_ID: SubsystemId = SubsystemId(0);

/// An address of the model.
#[derive(Debug)]
pub(crate) struct PortalEntry {
    /// As it was asked for.
    pub asked: SocketAddr,
    /// As it is: with the real port.
    pub local: SocketAddr,
    pub advertised: Option<SocketAddr>,
    pub presence: Presence,
    /// Bound, until a core listens on it.
    pub socket: Option<OwnedFd>,
}

/// What is going, so that it is found without a look at everything.
#[derive(Debug, Default)]
pub(crate) struct Going {
    pub devices: BTreeSet<String>,
    pub subsystems: BTreeSet<String>,
    pub namespaces: BTreeSet<(String, u32)>,
    /// Devices with handles that were replaced.
    pub exchanges: BTreeSet<String>,
}

impl Going {
    /// Number of things that are.
    pub fn len(&self) -> usize {
        let Going { devices, subsystems, namespaces, exchanges } = self;
        devices.len() + subsystems.len() + namespaces.len() + exchanges.len()
    }

    /// True when nothing is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Model {
    pub devices: Devices,
    /// By NQN.
    pub subsystems: BTreeMap<String, SubsystemEntry>,
    pub portals: BTreeMap<u16, PortalEntry>,
    /// By the name of its device.
    pub nexuses: BTreeMap<String, NexusEntry>,
    /// By the path of the socket.
    pub vhosts: BTreeMap<String, VhostEntry>,
    pub going: Going,
    discovery: Arc<Subsystem>,
    digests: DigestPolicy,
    next_subsystem: u32,
    next_nexus: u64,
    next_vhost: u64,
}

impl Model {
    /// Nothing but the discovery subsystem. Any host may ask it; each is told only of what it may
    /// connect to (NVMe over Fabrics 1.1 section 1.5.4).
    pub fn new(digests: DigestPolicy) -> Model {
        let instance = draw_uuid().into_bytes();
        let config = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, instance);
        let discovery = Subsystem::new(config).expect("the defaults are legal");
        Model {
            devices: BTreeMap::new(),
            subsystems: BTreeMap::new(),
            portals: BTreeMap::new(),
            nexuses: BTreeMap::new(),
            vhosts: BTreeMap::new(),
            going: Going::default(),
            discovery: Arc::new(discovery),
            digests,
            next_subsystem: DISCOVERY_ID.0 + 1,
            next_nexus: 1,
            next_vhost: 0,
        }
    }

    /// An identifier that no subsystem of this process ever had.
    pub fn next_subsystem_id(&mut self) -> SubsystemId {
        let id = self.next_subsystem;
        self.next_subsystem = id.checked_add(1).expect("no process lives that long");
        SubsystemId(id)
    }

    /// A number that no nexus of this process ever had.
    pub fn next_nexus_id(&mut self) -> NexusId {
        let id = self.next_nexus;
        self.next_nexus = id.checked_add(1).expect("no process lives that long");
        NexusId(id)
    }

    /// A number that no vhost device of this process ever had.
    pub fn next_vhost_key(&mut self) -> DeviceKey {
        let key = self.next_vhost;
        self.next_vhost = key.checked_add(1).expect("no process lives that long");
        DeviceKey(key)
    }

    /// The socket by which virtual machines reach the device, if there is one.
    pub fn vhost_of(&self, device: &str) -> Option<&str> {
        let found = self.vhosts.iter().find(|(_, one)| one.asked.device == device);
        found.map(|(socket, _)| socket.as_str())
    }

    /// What cores are to serve. Only subsystems that were changed are made anew.
    pub fn describe(&mut self, generation: Generation) -> Arc<TargetDescription> {
        let mut subsystems = BTreeMap::from([(DISCOVERY_ID, Arc::clone(&self.discovery))]);
        for entry in self.subsystems.values_mut().filter(|entry| entry.gone_since.is_none()) {
            let built = match entry.built.take() {
                Some(built) => built,
                None => Arc::new(entry.build(&self.devices)),
            };
            entry.serial = String::from_utf8_lossy(built.serial()).into_owned();
            subsystems.insert(entry.id, Arc::clone(entry.built.insert(built)));
        }
        let present = self.portals.iter().filter(|(_, one)| one.presence == Presence::Present);
        let portal = |(id, one): (&u16, &PortalEntry)| Portal {
            id: PortalId(*id),
            local: one.local,
            advertised: one.advertised,
        };
        Arc::new(TargetDescription {
            generation: generation.0,
            subsystems,
            portals: present.map(portal).collect(),
            digests: self.digests,
        })
    }

    /// Subsystems with a namespace of the device are made anew with the next description.
    pub fn touch_device(&mut self, name: &str) {
        for subsystem in self.subsystems.values_mut() {
            if subsystem.namespaces.values().any(|one| one.device == name) {
                subsystem.built = None;
            }
        }
    }

    /// A namespace that has the device and is not going: NQN and identifier.
    pub fn user_of(&self, device: &str) -> Option<(String, u32)> {
        self.subsystems.iter().find_map(|(nqn, subsystem)| {
            let found = subsystem.present().find(|(_, one)| one.device == device);
            found.map(|(id, _)| (nqn.clone(), id))
        })
    }
}

impl PortalEntry {
    /// What a listing shows.
    pub fn info(&self, id: u16) -> PortalInfo {
        PortalInfo { id, presence: self.presence, address: self.local, advertised: self.advertised }
    }
}

/// Random bits from the system, by way of the keys that the standard library draws for its maps.
pub(crate) fn draw_uuid() -> Uuid {
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(()).to_le_bytes());
    }
    Builder::from_random_bytes(bytes).into_uuid()
}
