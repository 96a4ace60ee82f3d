//! A process that serves the volume: started over disks that were there before it, and ended
//! without ceremony.

use std::sync::{Arc, PoisonError};

use bdev::BlockDevice;
use nexus::truth::label::LABEL_BYTES;
use nexus::truth::names::{NexusId, Policy};
use nexus::truth::tracked::{
    Contents, Fence, Format, FormatSpec, Opening, RecordSource, Tracked, TrackedConfig,
};
use nexus::truth::{Truth, Untracked};
use nexus::view::Locality;
use nexus::{ChildConfig, Home, Marking, Nexus, NexusConfig, Standing};
use reactor::{Cx, Nanos, VirtualClock};
use uuid::Uuid;

use super::content::BLOCK_BYTES;
use super::contexts::{Contexts, Core};
use super::disk::{Disk, Drive, Party, SharedPlatter};
use super::network::Cluster;
use super::plan::{DiskPlan, DrivePlan, Plan, Truthfulness, VOLUME_BLOCKS};
use super::record::{Line, RECORD, SharedRecord};
use super::server::Server;
use super::violation::Violation;

/// The volume.
const NEXUS: NexusId = NexusId(Uuid::from_u128(0x7e5));
/// The run of its host: processes crash, the host does not.
const BOOT: Uuid = Uuid::from_u128(0xb007);
/// Its name towards targets.
const HOST: Uuid = Uuid::from_u128(0x405);
/// Polls of a format at most.
const FORMAT_POLLS_MAX: usize = 10_000;
/// By how much the clock goes on between them.
const FORMAT_STEP: Nanos = Nanos::from_micros(50);

/// The disk's block that is the volume's first.
pub fn data_start_blocks(plan: &Plan) -> u64 {
    match plan.truthfulness {
        Truthfulness::Untracked => 0,
        Truthfulness::Tracked => LABEL_BYTES / u64::from(BLOCK_BYTES),
    }
}

/// Blocks of a disk.
pub fn disk_blocks(plan: &Plan) -> u64 {
    data_start_blocks(plan) + VOLUME_BLOCKS
}

/// What a process knows of itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// How many were before it.
    pub number: u64,
    /// Its way to the record, if there is one.
    pub record: Option<Line>,
}

impl Identity {
    /// Who it is at the disks.
    pub fn party(&self) -> Party {
        Party(self.number + 1)
    }
}

/// Opens the disks for a process: itself, or over the network, which takes its time.
pub fn open(
    plan: &Plan,
    disks: &[SharedPlatter],
    cluster: Option<&mut Cluster>,
    party: Party,
    contexts: &mut Contexts,
) -> Result<Vec<Arc<dyn BlockDevice>>, Violation> {
    if let Some(cluster) = cluster {
        return cluster.open(HOST, contexts);
    }
    let blocks = disk_blocks(plan);
    let are_shared = plan.contest.is_some();
    let all = disks.iter().zip(&plan.disks);
    if let Some(drives) = &plan.drives {
        let device = |((disk, of), drive): ((&SharedPlatter, &DiskPlan), &DrivePlan)| {
            let opened = Drive::new(disk.clone(), blocks, of.depth_max, *drive, plan.seed);
            opened.map(|drive| Arc::new(drive) as Arc<dyn BlockDevice>).map_err(broken)
        };
        return all.zip(drives).map(device).collect();
    }
    let device = |(disk, plan): (&SharedPlatter, &DiskPlan)| {
        let disk = disk.clone();
        Arc::new(match are_shared {
            true => Disk::shared(disk, blocks, plan.depth_max, party),
            false => Disk::new(disk, blocks, plan.depth_max),
        }) as Arc<dyn BlockDevice>
    };
    Ok(all.map(device).collect())
}

fn children(plan: &Plan, devices: &[Arc<dyn BlockDevice>]) -> Vec<ChildConfig> {
    let data_start_blocks = data_start_blocks(plan);
    let standing = match plan.truthfulness {
        Truthfulness::Untracked => Standing::Member,
        Truthfulness::Tracked => Standing::ByTruth,
    };
    let child = |device: &Arc<dyn BlockDevice>| ChildConfig {
        name: device.name().to_owned(),
        device: Arc::clone(device),
        data_start_blocks,
        locality: Locality::Remote,
        standing,
    };
    devices.iter().map(child).collect()
}

fn broken(error: impl std::fmt::Display) -> Violation {
    Violation::Stuck(error.to_string())
}

/// Makes replicas of the disks, with which nothing is wrong yet.
pub fn format(
    plan: &Plan,
    disks: &[SharedPlatter],
    mut cluster: Option<&mut Cluster>,
    hand: &VirtualClock,
    record: Option<&SharedRecord>,
    contexts: &mut Contexts,
) -> Result<(), Violation> {
    let mut calm = plan.clone();
    calm.drives.iter_mut().flatten().for_each(|drive| drive.fault_chance = 0.0);
    let devices = open(&calm, disks, cluster.as_deref_mut(), Party::default(), contexts)?;
    let spec = FormatSpec {
        nexus: NEXUS,
        policy: plan.contest.as_ref().map_or(Policy::Solo, |contest| contest.policy),
        record: record.map(|_| RECORD),
        blocks: None,
        contents: Contents::Equal,
        host: Uuid::nil(),
        boot: BOOT,
    };
    let mut core = take(0, hand, plan.seed, cluster.as_deref_mut(), contexts)?;
    let mut format = Format::new(spec, &children(plan, &devices)).map_err(broken)?;
    for _ in 0..FORMAT_POLLS_MAX {
        core.cx.advance_clock();
        core.look();
        if let Some(result) = format.poll(&mut core.cx) {
            if let (Some(record), Some(half)) = (record, format.voter_half()) {
                record.found(half.clone());
            }
            drop((format, devices));
            contexts.give(core);
            cluster.and_then(Cluster::end_process).into_iter().for_each(|core| contexts.give(core));
            return result.map_err(broken);
        }
        hand.advance(FORMAT_STEP);
        if let Some(cluster) = &mut cluster {
            cluster.advance();
            (0..cluster.parties()).for_each(|party| cluster.pass(party));
        }
        for disk in disks {
            disk.lock().unwrap_or_else(PoisonError::into_inner).advance(hand.read());
        }
    }
    Err(Violation::Stuck(String::from("the format never ends")))
}

/// A context of a core of a process.
fn take(
    core: usize,
    hand: &VirtualClock,
    seed: u64,
    cluster: Option<&mut Cluster>,
    contexts: &mut Contexts,
) -> Result<Core, Violation> {
    match cluster {
        Some(cluster) => contexts.take_wired(core, hand, seed, &cluster.port()),
        None => contexts.take(core, hand, seed).map_err(broken),
    }
}

/// Who decides about the children, with what it keeps on them.
fn home(plan: &Plan, identity: &Identity, nexus: &Arc<Nexus>, cx: &mut Cx) -> Home {
    let truth: Box<dyn Truth> = match plan.truthfulness {
        Truthfulness::Untracked => Box::new(Untracked::default()),
        Truthfulness::Tracked => Box::new(Tracked::new(TrackedConfig {
            nexus: NEXUS,
            host: Uuid::nil(),
            boot: BOOT,
            record: match &identity.record {
                Some(line) => RecordSource::Given(Box::new(line.clone())),
                None => RecordSource::None,
            },
            opening: Opening::Ordinary,
            fence: plan.contest.is_none().then_some(Fence::Exclusive),
        })),
    };
    Home::new(nexus.clone(), cx, truth)
}

/// Starts a process.
pub fn start(
    plan: &Plan,
    disks: &[SharedPlatter],
    mut cluster: Option<&mut Cluster>,
    hand: &VirtualClock,
    identity: &Identity,
    contexts: &mut Contexts,
) -> Result<(Arc<Nexus>, Vec<Server>), Violation> {
    let devices = open(plan, disks, cluster.as_deref_mut(), identity.party(), contexts)?;
    let (marking, uuid) = match plan.truthfulness {
        Truthfulness::Untracked => (Marking::Off, None),
        Truthfulness::Tracked => (Marking::Regions, Some(NEXUS.0)),
    };
    let config = NexusConfig {
        name: String::from("nexus0"),
        uuid,
        blocks: None,
        children: children(plan, &devices),
        marking,
    };
    let nexus = Nexus::new(config).map_err(broken)?;
    let mut servers = Vec::new();
    for core in 0..plan.cores {
        // Identities are drawn from a core's numbers: no two processes have the same.
        let seed = plan.seed.rotate_left(20) ^ (identity.number << 8) ^ (1 + core as u64);
        let core = take(core, hand, seed, cluster.as_deref_mut(), contexts)?;
        servers.push(Server::new(core, plan.depth, plan.idling));
    }
    let first = &mut servers[0];
    first.core.cx.advance_clock();
    first.home = Some(home(plan, identity, &nexus, &mut first.core.cx));
    first.open(&*nexus)?;
    Ok((nexus, servers))
}
