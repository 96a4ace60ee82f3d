//! The label of a replica: what it knows of its volume, and what its own blocks are worth.
//!
//! Plain data. The owner on the home core makes a new label from the one it read; [`store`] says
//! which pages of the reserved region that changes, and in which order they are written. The
//! format is docs/FORMATS.md, "Replica label"; the meaning of the fields are the rules cited in
//! [`crate::truth`].

mod head;
mod shape;
pub mod store;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::Arc;

use uuid::Uuid;

use super::names::{Epoch, Lineage, MEMBERS_MAX, NexusId, ReplicaId, VoterHalf};
use super::region_map::RegionMap;
use crate::intent::RegionIndex;
pub use head::{decode_record, encode_record};
pub use shape::{
    COPY_BYTES, LABEL_BYTES, MAP_PAGES_MAX, PageAddress, REGION_BYTES_MAX, REGIONS_MAX, Shape,
    ShapeError,
};

/// Replicas that a volume can be configured with.
pub const CONFIGURED_MAX: usize = MEMBERS_MAX;
/// Absent replicas of which a label knows what they lack. One more needs a full copy.
pub const MISSING_SLOTS: usize = 4;
/// Longest address hint.
pub const HINT_BYTES_MAX: usize = 158;

/// What a replica's blocks are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataState {
    /// It has been a member, and is one if its epoch says so.
    Member,
    /// Fresh or being rebuilt: a mixture, never trusted. Durable before the first rebuild byte.
    Target,
    /// Removed for good.
    Retired,
}

/// Whether a device keeps what it has acknowledged when it loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// It does, or is written through.
    Durable,
    /// Only what a flush has covered.
    Volatile,
}

/// One run of a replica's device: from boot to boot, or of the target that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// Drawn anew at every start that may have lost a cache.
    pub boot: Uuid,
    /// Whether a start may.
    pub cache: Cache,
}

/// The last epoch in which a copy was in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InSync {
    /// Of which history.
    pub lineage: Lineage,
    /// Zero for never.
    pub epoch: Epoch,
}

/// A replica that the volume should have, in or out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configured {
    /// Which.
    pub replica: ReplicaId,
    /// Where it was last seen; at most [`HINT_BYTES_MAX`] bytes, may be empty.
    pub hint: String,
}

/// What an absent replica lacks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Missing {
    /// Which.
    pub replica: ReplicaId,
    /// Its last epoch when it was lost.
    pub in_sync_epoch: Epoch,
    /// The regions.
    pub lacks: RegionMap,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// Whose label it is.
    pub replica: ReplicaId,
    /// Of which volume.
    pub nexus: NexusId,
    /// Length of the volume, its blocks and regions.
    pub shape: Shape,
    /// What it answers as a voter.
    pub voter: VoterHalf,
    /// At most [`CONFIGURED_MAX`], each once.
    pub configured: Arc<[Configured]>,
    /// What its blocks are worth.
    pub state: DataState,
    /// No owner is left. Says nothing about being current (rule 15).
    pub clean: bool,
    /// Admits a partial rebuild.
    pub in_sync: InSync,
    /// The run in which it was opened and known to be equal.
    pub session: Session,
    /// Regions that members may differ in.
    pub dirty: RegionMap,
    /// What absent replicas lack.
    pub missing: [Option<Missing>; MISSING_SLOTS],
}

impl Label {
    /// A label of a replica that holds nothing yet and knows nobody.
    pub fn blank(replica: ReplicaId, nexus: NexusId, shape: Shape, session: Session) -> Label {
        Label {
            replica,
            nexus,
            shape,
            voter: VoterHalf::default(),
            configured: Arc::default(),
            state: DataState::Target,
            clean: true,
            in_sync: InSync::default(),
            session,
            dirty: RegionMap::new(shape.regions()),
            missing: [const { None }; MISSING_SLOTS],
        }
    }

    /// True when a creation of the volume has begun with it and got no further: it has promised,
    /// and was never a member or a target of anything.
    pub fn is_begun_only(&self) -> bool {
        self.voter.ballot.epoch == Epoch(0) && self.configured.is_empty()
    }

    /// What an absent replica lacks; nothing where that is not known, so that it lacks everything.
    pub fn missing_of(&self, replica: ReplicaId) -> Option<&Missing> {
        self.missing.iter().flatten().find(|missing| missing.replica == replica)
    }

    /// Marks a region, here and for all who are absent (rule 18).
    pub fn mark(&mut self, region: RegionIndex) {
        self.dirty.insert(region);
        for missing in self.missing.iter_mut().flatten() {
            missing.lacks.insert(region);
        }
    }

    /// True when the device has started anew since it was last known to be equal, and may have
    /// lost what it had in a cache (rule 25).
    pub fn is_suspect(&self, now: Session) -> bool {
        self.session.boot != now.boot
            && (self.session.cache == Cache::Volatile || now.cache == Cache::Volatile)
    }
}

/// Why a replica cannot be a child of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Another volume's.
    #[error("the replica belongs to volume {}, not to {}", found.0, wanted.0)]
    OtherNexus {
        /// Whose it is.
        found: NexusId,
        /// Whose it should be.
        wanted: NexusId,
    },
    /// Removed for good, and not asked back.
    #[error("replica {} was removed from the volume", replica.0)]
    Retired {
        /// Which.
        replica: ReplicaId,
    },
    /// Shorter than the volume and its label.
    #[error("the device has {blocks} blocks, label and volume need {needed}")]
    TooSmall {
        /// Of the device.
        blocks: u64,
        /// Of label and volume.
        needed: u64,
    },
    /// Its blocks are of another length.
    #[error("the device has blocks of {found} bytes, the volume has blocks of {wanted}")]
    BlockBytes {
        /// Of the device.
        found: u32,
        /// Of the volume.
        wanted: u32,
    },
}

impl Label {
    /// Whether a replica with this label, on a device of this size, is one of `nexus`.
    pub fn check(&self, nexus: NexusId, blocks: u64, block_bytes: u32) -> Result<(), Misfit> {
        if self.nexus != nexus {
            return Err(Misfit::OtherNexus { found: self.nexus, wanted: nexus });
        }
        if self.state == DataState::Retired {
            return Err(Misfit::Retired { replica: self.replica });
        }
        let wanted = self.shape.block_bytes();
        if block_bytes != wanted {
            return Err(Misfit::BlockBytes { found: block_bytes, wanted });
        }
        let needed = self.shape.data_start_blocks() + self.shape.blocks();
        if blocks < needed {
            return Err(Misfit::TooSmall { blocks, needed });
        }
        Ok(())
    }
}
