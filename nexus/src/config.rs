//! What a nexus is made of, and why it cannot be made so.
//!
//! Used on a control thread, before anything exists.

use std::sync::Arc;

use bdev::device::{Geometry, OperationSet};
use bdev::{BlockDevice, Emulate, Operation, Split, split};
use uuid::Uuid;

use crate::child::CHILDREN_MAX;
use crate::truth::NotRebuilt;
use crate::view::{ChildDevice, Locality};

/// A child as it is configured.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// What an operator calls it: its URI.
    pub name: String,
    /// The device; what it lacks is put above it here.
    pub device: Arc<dyn BlockDevice>,
    /// Its blocks before this one are for the label.
    pub data_start_blocks: u64,
    /// How near it is.
    pub locality: Locality,
    /// What it is at the beginning.
    pub standing: Standing,
}

/// What a child is at the beginning, by the word of [`crate::truth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In sync: a member.
    Member,
    /// Configured, but to be rebuilt before it is used.
    OutOfSync,
    /// Nobody knows until the truth has assembled the volume, which waits until then. That of all
    /// children or of none.
    ByTruth,
}

/// A nexus as it is configured.
#[derive(Clone, Debug)]
pub struct NexusConfig {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Option<Uuid>,
    /// Length of the volume in blocks; nothing for the shortest child.
    pub blocks: Option<u64>,
    /// 1 to [`CHILDREN_MAX`] of them.
    pub children: Vec<ChildConfig>,
    /// Whether regions are marked before they are written.
    pub marking: Marking,
}

/// Whether writes wait for marks ([`crate::intent`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// They do: there are labels.
    Regions,
    /// They do not.
    Off,
}

/// Why a nexus, or a child of it, cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// None at all.
    #[error("a nexus needs at least one child")]
    NoChildren,
    /// None that holds the data.
    #[error("none of the children is in sync")]
    NoMembers,
    /// Some are to be judged by their labels, and others are not.
    #[error("the labels decide about all of the children or about none")]
    MixedStandings,
    /// It is not being rebuilt.
    #[error("child {name} is not being rebuilt")]
    NoRebuild {
        /// Which.
        name: String,
    },
    /// It cannot be rebuilt.
    #[error("child {name} is not rebuilt")]
    NotRebuilt {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: NotRebuilt,
    },
    /// Too many.
    #[error("{count} children are more than the {CHILDREN_MAX} that a nexus can have")]
    TooManyChildren {
        /// How many there would be.
        count: usize,
    },
    /// The same device twice.
    #[error("child {name} is there twice: {other} is the same device")]
    Duplicate {
        /// The second.
        name: String,
        /// The first.
        other: String,
    },
    /// Too short for the volume.
    #[error("child {name} has room for {blocks} blocks, the volume has {needed}")]
    TooSmall {
        /// Which.
        name: String,
        /// Blocks after its label.
        blocks: u64,
        /// Blocks of the volume.
        needed: u64,
    },
    /// Blocks of another length.
    #[error("child {name} has blocks of {block_bytes} bytes, the volume has blocks of {needed}")]
    BlockSize {
        /// Which.
        name: String,
        /// Its block size.
        block_bytes: u32,
        /// That of the volume.
        needed: u32,
    },
    /// It cannot be written.
    #[error("child {name} is read-only")]
    ReadOnly {
        /// Which.
        name: String,
    },
    /// No place is free: a child that left is still open on a core.
    #[error("no place is free for child {name}: one that left is still in use on a core")]
    NoPlace {
        /// Which.
        name: String,
    },
    /// There is no child of that name.
    #[error("the nexus has no child {name}")]
    NoSuchChild {
        /// What was asked for.
        name: String,
    },
    /// The volume would lose its last copy.
    #[error("child {name} is the last one in sync")]
    LastMember {
        /// Which.
        name: String,
    },
    /// Something else is being changed.
    #[error("another change of the nexus is under way")]
    Busy,
}

/// The volume that the children of a configuration make.
pub(crate) fn check(config: &NexusConfig) -> Result<Geometry, ConfigError> {
    let count = config.children.len();
    if count > CHILDREN_MAX {
        return Err(ConfigError::TooManyChildren { count });
    }
    let Some(first) = config.children.first() else { return Err(ConfigError::NoChildren) };
    let is = |standing| config.children.iter().filter(|child| child.standing == standing).count();
    match is(Standing::ByTruth) {
        0 if is(Standing::Member) == 0 => return Err(ConfigError::NoMembers),
        0 => {}
        all if all == count => {}
        _ => return Err(ConfigError::MixedStandings),
    }
    let shortest = config.children.iter().map(room_blocks).min().unwrap_or(0);
    let blocks = config.blocks.unwrap_or(shortest);
    let geometry = Geometry { block_bytes: first.device.geometry().block_bytes, blocks };
    for (place, child) in config.children.iter().enumerate() {
        check_child(child, geometry)?;
        let others = config.children[..place].iter();
        check_duplicate(child, others.map(|other| (other.name.as_str(), &other.device)))?;
    }
    Ok(geometry)
}

/// Blocks of a child after its label.
fn room_blocks(child: &ChildConfig) -> u64 {
    child.device.geometry().blocks.saturating_sub(child.data_start_blocks)
}

/// Whether a child fits the volume.
pub(crate) fn check_child(child: &ChildConfig, volume: Geometry) -> Result<(), ConfigError> {
    let name = child.name.clone();
    let block_bytes = child.device.geometry().block_bytes;
    if block_bytes != volume.block_bytes {
        return Err(ConfigError::BlockSize { name, block_bytes, needed: volume.block_bytes });
    }
    if child.device.limits().read_only {
        return Err(ConfigError::ReadOnly { name });
    }
    let blocks = room_blocks(child);
    if blocks < volume.blocks || blocks == 0 {
        return Err(ConfigError::TooSmall { name, blocks, needed: volume.blocks.max(1) });
    }
    Ok(())
}

/// Whether a child is one of those that are there: by name, by device, or by the device's identity.
pub(crate) fn check_duplicate<'a>(
    child: &ChildConfig,
    others: impl Iterator<Item = (&'a str, &'a Arc<dyn BlockDevice>)>,
) -> Result<(), ConfigError> {
    for (name, device) in others {
        let same_uuid = child.device.uuid().is_some() && child.device.uuid() == device.uuid();
        let same_device = std::ptr::addr_eq(Arc::as_ptr(&child.device), Arc::as_ptr(device));
        if child.name == name || same_device || same_uuid {
            return Err(ConfigError::Duplicate {
                name: child.name.clone(),
                other: name.to_owned(),
            });
        }
    }
    Ok(())
}

/// The device of a child with what it lacks above it. Compare-and-write is the mirror's own.
pub(crate) fn prepare(child: &ChildConfig) -> ChildDevice {
    let mut device = child.device.clone();
    let limits = device.limits();
    // So is who verifies: it reads.
    let operations = limits.operations.with(Operation::CompareAndWrite).with(Operation::Verify);
    if operations != OperationSet::ALL || !limits.unmap_zeroes {
        device = Arc::new(Emulate::new(device));
    }
    if split::is_needed(&device.limits()) {
        device = Arc::new(Split::new(device));
    }
    let ChildConfig { data_start_blocks, locality, .. } = *child;
    let sessions = child.device.sessions();
    let restarts = sessions.as_ref().map_or(0, |sessions| sessions.restarts());
    let is_reserved = false;
    ChildDevice { device, data_start_blocks, locality, sessions, restarts, is_reserved }
}

#[cfg(test)]
mod tests {
    use bdev::Malloc;

    use super::*;
    use crate::nexus::Nexus;
    use crate::testing::{BLOCKS, child, config, disk};

    fn malloc(block_bytes: u32, blocks: u64, uuid: Option<Uuid>) -> Arc<dyn BlockDevice> {
        Arc::new(Malloc::new("malloc", Geometry { block_bytes, blocks }, uuid).unwrap())
    }

    fn refused(config: NexusConfig) -> ConfigError {
        Nexus::new(config).unwrap_err()
    }

    #[test]
    fn a_nexus_has_one_to_sixteen_children_and_one_in_sync() {
        assert_eq!(refused(config(Vec::new())), ConfigError::NoChildren);
        let sixteen: Vec<_> = (0..16).map(|_| disk()).collect();
        assert!(Nexus::new(config(sixteen.clone())).is_ok());
        let seventeen = [sixteen, vec![disk()]].concat();
        assert_eq!(refused(config(seventeen)), ConfigError::TooManyChildren { count: 17 });
        let mut stale = config(vec![disk()]);
        stale.children[0].standing = Standing::OutOfSync;
        assert_eq!(refused(stale), ConfigError::NoMembers);
        let mut mixed = config(vec![disk(), disk()]);
        mixed.children[1].standing = Standing::ByTruth;
        assert_eq!(refused(mixed), ConfigError::MixedStandings);
    }

    #[test]
    fn a_device_is_there_once_whatever_it_is_called() {
        let device = disk();
        let twice = config(vec![device.clone(), device]);
        assert!(matches!(refused(twice), ConfigError::Duplicate { .. }));
        let mut named = config(vec![disk(), disk()]);
        named.children[1].name = named.children[0].name.clone();
        assert!(matches!(refused(named), ConfigError::Duplicate { .. }));
        let uuid = Some(Uuid::from_u128(7));
        let same = config(vec![malloc(512, 8, uuid), malloc(512, 8, uuid)]);
        assert!(matches!(refused(same), ConfigError::Duplicate { .. }));
    }

    #[test]
    fn children_have_one_block_size_and_room_for_the_volume() {
        let mixed = config(vec![malloc(512, 80, None), malloc(4096, 80, None)]);
        assert!(matches!(refused(mixed), ConfigError::BlockSize { needed: 512, .. }));
        let shortest = Nexus::new(config(vec![disk(), malloc(512, 8, None)])).unwrap();
        assert_eq!(shortest.geometry().blocks, 8);
        let sized = |blocks| NexusConfig { blocks: Some(blocks), ..config(vec![disk()]) };
        assert!(Nexus::new(sized(BLOCKS)).is_ok());
        let error = refused(sized(BLOCKS + 1));
        assert!(matches!(error, ConfigError::TooSmall { blocks: BLOCKS, .. }));
        assert_eq!(error.to_string(), "child child0 has room for 300 blocks, the volume has 301");
    }

    #[test]
    fn the_label_of_a_child_is_no_part_of_the_volume() {
        let mut labelled = child("labelled", disk());
        labelled.data_start_blocks = 100;
        let volume = NexusConfig { children: vec![labelled.clone()], ..config(Vec::new()) };
        assert_eq!(Nexus::new(volume).unwrap().geometry().blocks, BLOCKS - 100);
        labelled.data_start_blocks = BLOCKS;
        let none = NexusConfig { children: vec![labelled], ..config(Vec::new()) };
        assert!(matches!(refused(none), ConfigError::TooSmall { .. }));
    }
}
