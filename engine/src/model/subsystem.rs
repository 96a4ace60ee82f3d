//! A subsystem of the model, with its namespaces and hosts, and the target's view of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bdev::BlockDevice;
use nvmf::fabrics::Nqn;
use nvmf::target::SubsystemId;
use nvmf::target::allocation::KnownAllocation;
use nvmf::target::limits::TargetLimits;
use nvmf::target::namespace::{Namespace, NamespaceId};
use nvmf::target::reservation::KeptReservations;
use nvmf::target::statistics::NamespaceStatistics;
use nvmf::target::subsystem::{HostPolicy, Subsystem, SubsystemConfig, SubsystemKind};
use uuid::{Uuid, uuid};

use super::device::DeviceEntry;
use super::{Devices, Generation};
use crate::command::{
    Access, AnaState, HostChoice, HostsInfo, NamespaceCounters, NamespaceInfo, Presence,
    SubsystemInfo,
};
use crate::export::Export;

/// The name space, in the sense of RFC 4122, of instances of several devices.
const INSTANCE_SPACE: Uuid = uuid!("0b7b8a1c-6d0e-4b7e-9a53-5d6a2f3f7c11");

/// A namespace of the model.
#[derive(Debug)]
pub(crate) struct NamespaceEntry {
    /// Name of its device.
    pub device: String,
    pub export: Arc<Export>,
    pub uuid: Uuid,
    pub access: Access,
    pub ana: AnaState,
    pub statistics: Arc<NamespaceStatistics>,
    pub reservations: Arc<KeptReservations>,
    pub allocation: Arc<KnownAllocation>,
    /// The first description without it, once it was removed.
    pub gone_since: Option<Generation>,
}

/// A subsystem of the model.
#[derive(Debug)]
pub(crate) struct SubsystemEntry {
    pub id: SubsystemId,
    pub nqn: Nqn,
    pub controller_ids: RangeInclusive<u16>,
    pub queue_entries: u16,
    pub policy: HostChoice,
    /// By text, so that listings are in order.
    pub hosts: BTreeMap<String, Nqn>,
    /// What namespaces are added with.
    pub ana: AnaState,
    /// Tells it apart while it has no namespaces.
    pub drawn: Uuid,
    pub namespaces: BTreeMap<u32, NamespaceEntry>,
    /// The first description without it, once it was removed.
    pub gone_since: Option<Generation>,
    /// Known once it was described.
    pub serial: String,
    /// As cores see it; made anew after a change.
    pub built: Option<Arc<Subsystem>>,
}

impl SubsystemEntry {
    /// The namespaces that are not going.
    pub fn present(&self) -> impl Iterator<Item = (u32, &NamespaceEntry)> {
        let all = self.namespaces.iter().map(|(id, one)| (*id, one));
        all.filter(|(_, one)| one.gone_since.is_none())
    }

    /// What cores are to see.
    pub fn build(&self, devices: &Devices) -> Subsystem {
        let namespaces = self.present().map(|(id, one)| {
            let device = devices.get(&one.device).expect("a namespace keeps its device");
            Namespace {
                id: NamespaceId(id),
                device: Arc::clone(&one.export) as Arc<dyn BlockDevice>,
                uuid: one.uuid,
                access: one.access,
                ana: one.ana,
                geometry: device.geometry,
                statistics: Arc::clone(&one.statistics),
                reservations: Arc::clone(&one.reservations),
                allocation: Arc::clone(&one.allocation),
            }
        });
        let hosts = match self.policy {
            HostChoice::Any => HostPolicy::Any,
            HostChoice::Named => HostPolicy::Only(self.hosts.values().copied().collect()),
        };
        let config = SubsystemConfig {
            hosts,
            namespaces: namespaces.collect(),
            controller_ids: self.controller_ids.clone(),
            limits: TargetLimits { queue_entries_max: self.queue_entries, ..Default::default() },
            ..SubsystemConfig::new(self.nqn, SubsystemKind::Nvm, self.instance(devices))
        };
        Subsystem::new(config).expect("every field was checked when it was given")
    }

    /// What tells a start of the devices from another: that of the only device, or one made of all
    /// of them, so that none can be started anew unnoticed.
    fn instance(&self, devices: &Devices) -> [u8; 16] {
        let of = |one: &NamespaceEntry| devices.get(&one.device).map(|device| device.instance);
        let instances: Vec<Uuid> = self.present().filter_map(|(_, one)| of(one)).collect();
        match instances.as_slice() {
            [] => self.drawn.into_bytes(),
            [only] => only.into_bytes(),
            several => {
                let bytes: Vec<u8> = several.iter().flat_map(|one| one.into_bytes()).collect();
                Uuid::new_v5(&INSTANCE_SPACE, &bytes).into_bytes()
            }
        }
    }

    /// What hosts moved through its namespaces; those that are going among them.
    pub fn counters(&self) -> impl Iterator<Item = NamespaceCounters> {
        self.namespaces.iter().map(|(id, one)| NamespaceCounters {
            subsystem: self.nqn.as_str().to_owned(),
            namespace: *id,
            moved: one.statistics.total(),
        })
    }

    /// What a listing shows.
    pub fn info(&self, devices: &Devices) -> SubsystemInfo {
        let namespaces = self.namespaces.iter();
        SubsystemInfo {
            nqn: self.nqn.as_str().to_owned(),
            presence: presence(self.gone_since),
            controller_ids: (*self.controller_ids.start(), *self.controller_ids.end()),
            queue_entries: self.queue_entries,
            serial: self.serial.clone(),
            hosts: HostsInfo { policy: self.policy, named: self.hosts.keys().cloned().collect() },
            namespaces: namespaces
                .map(|(id, one)| one.info(&self.nqn, *id, devices.get(&one.device)))
                .collect(),
        }
    }
}

impl NamespaceEntry {
    /// What a listing shows.
    pub fn info(&self, nqn: &Nqn, id: u32, device: Option<&DeviceEntry>) -> NamespaceInfo {
        let geometry = device.map(|device| device.geometry);
        NamespaceInfo {
            subsystem: nqn.as_str().to_owned(),
            namespace: id,
            presence: presence(self.gone_since),
            device: self.device.clone(),
            uuid: self.uuid,
            access: self.access,
            ana: self.ana,
            block_bytes: geometry.map_or(0, |geometry| geometry.block_bytes),
            blocks: geometry.map_or(0, |geometry| geometry.blocks),
            reservation_failures: self.reservations.failures(),
        }
    }
}

fn presence(gone_since: Option<Generation>) -> Presence {
    match gone_since {
        None => Presence::Present,
        Some(_) => Presence::Going,
    }
}
