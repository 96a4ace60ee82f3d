//! What the cores know of the nexus: a copy that the home core publishes and they follow.
//!
//! A view is immutable; which one is in force is told by [`crate::published`].

use std::sync::Arc;

use bdev::BlockDevice;
use bdev::session::Sessions;

use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::intent::IntentMap;

/// Whether I/O is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Running,
    /// What comes waits, what has begun goes on: paused by an operator, or for a moment by the home
    /// core, or frozen for want of a quorum.
    Paused,
    /// Never again: another owner has taken the volume, or it is being closed. What waits and what
    /// comes fails with a path error.
    Ended,
}

/// How near a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// On this node: preferred for reads.
    Local,
    /// Over a network.
    Remote,
}

/// What a core needs to open a child.
#[derive(Clone, Debug)]
pub struct ChildDevice {
    /// The device, with every operation and for I/Os of any size ([`bdev::stack`]).
    pub device: Arc<dyn BlockDevice>,
    /// Its block that is block zero of the volume: what lies before is for the label.
    pub data_start_blocks: u64,
    /// How near it is.
    pub locality: Locality,
    /// Of a device that can come and go, its sessions.
    pub sessions: Option<Arc<Sessions>>,
    /// How often it had restarted when it was put in: with one more, what it holds is not to be
    /// trusted.
    pub restarts: u64,
    /// It is reserved for this owner of the volume: who meets a conflict there is overtaken.
    pub is_reserved: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct View {
    /// Members in force: a write is acknowledged when each of them has it.
    pub members: ChildSet,
    /// Of the members, those on their way out. They are not used any more.
    pub leaving: ChildSet,
    /// Written, not read; not waited for by the members' law, but by its own (rule 28).
    pub targets: ChildSet,
    /// The devices of members and targets, by place.
    pub devices: [Option<ChildDevice>; CHILDREN_MAX],
    /// By place: how often a core was told that a child it reported stays, as it is the last one.
    pub kept: [u32; CHILDREN_MAX],
    /// By place: which child has it now, counted; a core closes what it has of an earlier one.
    pub incarnations: [u32; CHILDREN_MAX],
    /// Whether I/O is admitted.
    pub mode: Mode,
    /// Length of the volume, in blocks.
    pub blocks: u64,
    /// More than one core (or a rebuild) uses the volume: stripes are taken between them.
    pub is_shared: bool,
    /// Which regions may be written; nothing where regions are not marked.
    pub intent: Option<Arc<IntentMap>>,
    /// While members may differ in some regions: a mark on each of the others. I/O to a region
    /// without one waits until it was copied (replica-truth rule 23).
    pub equal: Option<Arc<IntentMap>>,
}

impl View {
    /// Whom new writes go to.
    pub fn written(&self) -> ChildSet {
        self.members.minus(self.leaving).union(self.targets)
    }

    /// Who may be read.
    pub fn readable(&self) -> ChildSet {
        self.members.minus(self.leaving)
    }

    /// The device at a place in use.
    pub(crate) fn device(&self, child: ChildIndex) -> &ChildDevice {
        self.devices[child.get()].as_ref().expect("a child in use has a device")
    }
}

/// Number of a view; each has a higher one than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub usize);
