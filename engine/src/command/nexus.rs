//! What can be asked of nexuses, and what they are shown as.
//!
//! A nexus is a device by its name as well: namespaces are made of it, and it is listed among the
//! devices. Its children are devices too, opened with it and closed when it lets go of them; one
//! that was there before is named `bdev:///NAME` and stays. Children are named by their URIs.

use std::time::Duration;

pub use nexus::rebuild::{RebuildEnd, RebuildState, Scope, VerifyState};
pub use nexus::truth::names::Policy;
pub use nexus::truth::tracked::LeftOut;
pub use nexus::{ChildState, FaultReason};
use reactor::cores::CoreId;
use uuid::Uuid;

use super::{CHANGE_WITHIN, DEVICE_WITHIN, LIST_WITHIN, Presence, REMOVE_WITHIN};

/// A change to a nexus, or a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NexusCommand {
    /// Which nexuses there are; answered by [`super::Reply::Nexuses`].
    List,
    /// Makes a nexus of children that hold the same, or nothing; answered by
    /// [`super::Reply::Nexus`].
    Create(CreateNexus),
    /// Ends a nexus that no namespace uses, and closes its children; answered by
    /// [`super::Reply::Done`].
    Destroy {
        /// Its name.
        nexus: String,
    },
    /// Admits no more I/O: it waits. Answered by [`super::Reply::Nexus`] when nothing is in flight.
    Pause {
        /// Its name.
        nexus: String,
    },
    /// Ends that; answered by [`super::Reply::Nexus`].
    Resume {
        /// Its name.
        nexus: String,
    },
    /// Makes it as long as its shortest child; answered by [`super::Reply::Nexus`].
    Grow {
        /// Its name.
        nexus: String,
    },
    /// Compares all members with each other while I/O goes on; answered by
    /// [`super::Reply::Nexus`], and what was found is told by [`NexusCommand::List`].
    Verify {
        /// Its name.
        nexus: String,
    },
    /// Gives that up; answered by [`super::Reply::Nexus`].
    StopVerify {
        /// Its name.
        nexus: String,
    },
    /// Adds a child, out of sync; answered by [`super::Reply::Nexus`].
    AddChild(OfChild),
    /// Takes a child away and closes it; answered by [`super::Reply::Nexus`].
    RemoveChild(OfChild),
    /// Stops using a child until it is taken online; answered by [`super::Reply::Nexus`].
    OfflineChild(OfChild),
    /// Says that a child is not to be trusted; answered by [`super::Reply::Nexus`].
    FaultChild(OfChild),
    /// Begins to make a child that is out equal to the others: it was added, taken offline, or
    /// faulted. Answered by [`super::Reply::Nexus`]; how far it is, [`NexusCommand::List`] tells.
    StartRebuild(OfChild),
    /// Gives that up: the child is out of sync as before. Answered by [`super::Reply::Nexus`].
    StopRebuild(OfChild),
    /// Copies nothing for a while; host writes go to the child all the same. Answered by
    /// [`super::Reply::Nexus`].
    PauseRebuild(OfChild),
    /// Ends that; answered by [`super::Reply::Nexus`].
    ResumeRebuild(OfChild),
}

/// Whether the children of a nexus carry labels, which say who has every write; with them a nexus
/// outlives its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// They do not: the nexus takes it that all hold the same.
    #[default]
    None,
    /// All are blank, and get their first.
    Create,
    /// All are replicas of one volume, which is opened.
    Open,
    /// Whichever of the two they are.
    AsFound,
}

impl Labels {
    /// What suits devices that nobody has said anything of: labels, unless all are memory, which
    /// ends with the process.
    pub fn for_devices<'a>(mut uris: impl Iterator<Item = &'a str>) -> Labels {
        let is_memory = |uri: &str| uri.starts_with("malloc:") || uri.starts_with("null:");
        if uris.all(is_memory) { Labels::None } else { Labels::AsFound }
    }
}

/// Opens a volume with labels from one replica, whatever others hold. Recorded in its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Force {
    /// URI of the child.
    pub child: String,
    /// Whether others may have gone on without it: what was acknowledged since is lost for certain.
    pub left_out: LeftOut,
}

/// Where the record of a volume is kept: a voter beside its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordPlace {
    /// In this file, on something that is not lost together with a replica.
    File(String),
    /// By this command ([`crate::record_command`]).
    Command(String),
}

/// What a nexus is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateNexus {
    /// Its name, which is that of its device.
    pub nexus: String,
    /// Its identity; none makes one of its name. With labels, none takes that of the labels, or
    /// draws one.
    pub uuid: Option<String>,
    /// Length in bytes; none takes that of the shortest child. That of a volume that is opened is
    /// in its labels.
    pub len_bytes: Option<u64>,
    /// Whether its children carry labels.
    pub labels: Labels,
    /// The replica to open it from by force, once; none for the rules.
    pub force: Option<Force>,
    /// Who decides about the members of a volume with labels; none takes that of the labels, or for
    /// a volume that is created what suits it.
    pub policy: Option<Policy>,
    /// Its record, where it has one.
    pub record: Option<RecordPlace>,
    /// URIs of its children, 1 to 16.
    pub children: Vec<String>,
}

/// A child of a nexus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfChild {
    /// Name of the nexus.
    pub nexus: String,
    /// URI of the child.
    pub uri: String,
}

impl NexusCommand {
    /// How long the command may take, unless its sender says otherwise.
    pub fn within(&self) -> Duration {
        match self {
            NexusCommand::List => LIST_WITHIN,
            NexusCommand::Create(_) | NexusCommand::AddChild(_) => DEVICE_WITHIN,
            NexusCommand::Destroy { .. }
            | NexusCommand::Pause { .. }
            | NexusCommand::RemoveChild(_)
            | NexusCommand::OfflineChild(_)
            | NexusCommand::FaultChild(_)
            | NexusCommand::StartRebuild(_)
            | NexusCommand::StopRebuild(_) => REMOVE_WITHIN,
            NexusCommand::Resume { .. }
            | NexusCommand::Verify { .. }
            | NexusCommand::StopVerify { .. }
            | NexusCommand::Grow { .. }
            | NexusCommand::PauseRebuild(_)
            | NexusCommand::ResumeRebuild(_) => CHANGE_WITHIN,
        }
    }

    /// True for what only reads.
    pub fn is_question(&self) -> bool {
        matches!(self, NexusCommand::List)
    }
}

/// How a nexus is, all in all (CONTRACT 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NexusState {
    /// Its home core has not told yet.
    Unknown,
    /// Every child is in sync.
    Online,
    /// It serves, with fewer copies than it has children.
    Degraded,
    /// It does not serve.
    Faulted,
}

/// A nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexusInfo {
    /// Its name, which is that of its device.
    pub name: String,
    /// Whether it is there.
    pub presence: Presence,
    /// Its identity.
    pub uuid: Uuid,
    /// How it is, all in all.
    pub state: NexusState,
    /// Whether an operator has it admit no I/O.
    pub is_paused: bool,
    /// Why a volume with labels is not open, in words; its I/O waits until it is.
    pub refusal: Option<String>,
    /// What an operator is to know of how it was opened, in words.
    pub notice: Option<String>,
    /// Bytes of a block; zero while it is coming.
    pub block_bytes: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// The core that decides about its children; none before there are cores.
    pub home: Option<CoreId>,
    /// Its children, in the order in which they were added.
    pub children: Vec<ChildInfo>,
    /// Rebuilds that have ended, oldest first: the last 32.
    pub history: Vec<RebuildInfo>,
    /// What the comparison under way, or the last one, has found.
    pub verification: Option<VerifyInfo>,
}

/// A rebuild that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildInfo {
    /// URI of the child.
    pub uri: String,
    /// What it copied.
    pub scope: Scope,
    /// How it ended.
    pub end: RebuildEnd,
    /// Bytes that were read and written.
    pub copied_bytes: u64,
    /// Bytes that the source knew to be zeroes.
    pub skipped_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// How far the rebuild of a child is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressInfo {
    /// How it is.
    pub state: RebuildState,
    /// What it copies.
    pub scope: Scope,
    /// Blocks that it was to deal with when it began.
    pub total_blocks: u64,
    /// Of them, those dealt with.
    pub done_blocks: u64,
    /// Bytes a second of late.
    pub rate: u64,
    /// Time to the end at that rate; nothing while it stands.
    pub left: Option<Duration>,
    /// Hosts' I/O holds it back.
    pub is_held_back: bool,
}

/// What a comparison of the members of a nexus has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyInfo {
    /// How it is.
    pub state: VerifyState,
    /// Blocks of the volume.
    pub total_blocks: u64,
    /// Of them, those that were looked at.
    pub done_blocks: u64,
    /// Blocks that differ, counted once for each member that differs.
    pub different_blocks: u64,
    /// Blocks that could not be read, counted once for each member.
    pub unread_blocks: u64,
    /// Where members differ: the first of them, [`nexus::rebuild::DIFFERENCES_MAX`] at most.
    pub differences: Vec<DifferenceInfo>,
}

/// Neighbouring blocks in which a member differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferenceInfo {
    /// URI of the member; empty for one that was removed.
    pub uri: String,
    /// URI of the one that it was compared with; empty for one that was removed.
    pub reference: String,
    /// First block of the volume.
    pub start: u64,
    /// How many.
    pub blocks: u64,
}

/// A child of a nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its URI, in its first spelling.
    pub uri: String,
    /// Name of its device.
    pub device: String,
    /// How it is.
    pub state: ChildState,
    /// What is known of why it is out, in words; of one that is faulted.
    pub words: Option<String>,
    /// I/Os that failed there and succeeded then, or elsewhere.
    pub errors: u64,
    /// Its rebuild, while there is one.
    pub rebuild: Option<ProgressInfo>,
}

impl ChildInfo {
    /// Why it is out, if it is.
    pub fn fault(&self) -> Option<FaultReason> {
        match self.state {
            ChildState::Faulted(reason) => Some(reason),
            _ => None,
        }
    }
}
