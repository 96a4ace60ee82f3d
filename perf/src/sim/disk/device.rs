//! A simulated disk as a block device.

use std::sync::Arc;

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::session::Sessions;
use bdev::{Operation, OperationSet, QueuePair};
use reactor::Cx;
use uuid::Uuid;

use super::gate::Party;
use super::platter::SharedPlatter;
use super::queue_pair::{DiskQueuePair, lock};
use crate::sim::content::BLOCK_BYTES;

/// See the module.
pub struct Disk {
    name: String,
    uuid: Uuid,
    blocks: u64,
    depth_max: u32,
    limits: Limits,
    platter: SharedPlatter,
    party: Party,
    sessions: Option<Arc<Sessions>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Disk").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Disk {
    /// The device of a disk of `blocks` blocks, whose queue pairs have at most `depth_max` credits.
    pub fn new(platter: SharedPlatter, blocks: u64, depth_max: u32) -> Disk {
        let (number, volatile_cache) = {
            let platter = lock(&platter);
            (platter.number, platter.has_volatile_cache())
        };
        // As a disk is: the mirror brings its own compare-and-write.
        let operations = OperationSet::ALL.without(Operation::CompareAndWrite);
        let limits = Limits { operations, volatile_cache, ..Limits::default() };
        let (name, uuid) = (format!("disk{number}"), Uuid::from_u128(u128::from(number) + 1));
        let (party, sessions) = (Party::default(), None);
        Disk { name, uuid, blocks, depth_max, limits, platter, party, sessions }
    }

    /// The same, of a disk that is elsewhere: others may have it open too, and what is behind it
    /// may start anew.
    pub fn shared(platter: SharedPlatter, blocks: u64, depth_max: u32, party: Party) -> Disk {
        let sessions = Some(lock(&platter).meet());
        Disk { party, sessions, ..Disk::new(platter, blocks, depth_max) }
    }
}

impl BlockDevice for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        Geometry { block_bytes: BLOCK_BYTES, blocks: self.blocks }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<Uuid> {
        Some(self.uuid)
    }

    fn open_queue_pair(&self, _: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let depth = depth.min(self.depth_max);
        let (geometry, limits) = (self.geometry(), self.limits);
        let platter = (self.platter.clone(), self.party);
        Ok(Box::new(DiskQueuePair::open(platter, geometry, limits, depth)))
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        self.sessions.clone()
    }
}
