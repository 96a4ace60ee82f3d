//! Who may be trusted: the seam between the data path and what decides about members.
//!
//! [`crate::Home`] owns one [`Truth`] and calls it on the home core. The data path needs five
//! things of it: who the members are when it begins ([`TruthEvent::Assembled`]), that a change of
//! them is in force (replica-truth rules 8 to 13), that a region is marked before it is written
//! (18), that a mark is gone (19), and what is to be copied from whom to whom ([`CopyOrder`],
//! rules 23 to 30). How that comes about (labels, the record, the lease) is the business of the
//! implementation; the state machines beside this file are plain data, fed by an adapter
//! ([`tracked`]) that does their label I/O through [`ControlIo`].
//!
//! An implementation never blocks and never completes inside `begin_…`: what it has decided it says
//! in [`Truth::poll`].

pub mod activity;
pub mod assembly;
#[cfg(test)]
mod explore;
pub mod label;
pub mod lease;
pub mod names;
pub mod owner;
#[cfg(feature = "planted")]
pub(crate) mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
pub mod quorum;
pub mod record;
pub mod region_map;
pub mod tracked;
mod untracked;
pub mod voter;

use std::fmt::Debug;

use bdev::{Busy, Completion, Geometry, Io};
use reactor::{Cx, Wake};

use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::config::ChildConfig;
use crate::intent::{REGION_BYTES, RegionIndex};
pub use owner::{Discard, NotRebuilt};
use region_map::RegionMap;
pub use untracked::Untracked;

/// Another set of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberChange {
    /// Members until now, all of whom have every acknowledged write.
    pub before: ChildSet,
    /// Members from now on. Never empty. Those that leave have not been written or read by any core
    /// since before this change began; those that join are complete, flushed, and nothing is in
    /// flight on any core (rule 29).
    pub after: ChildSet,
    /// Of those that leave and cannot be asked: why. Nothing where the leave is an operator's wish
    /// and the child can still take a label.
    pub reason: Option<FaultReason>,
}

/// A region to be copied. Copies of a region and writes to it exclude each other on all cores,
/// piece by piece (rule 28); what was ordered once is not ordered again before it was answered by
/// [`Truth::copied`] or [`Truth::copy_failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOrder {
    /// Which region.
    pub region: RegionIndex,
    /// From whom: a member.
    pub source: ChildIndex,
    /// To whom: members that the host waits for, or the rebuild target.
    pub to: ChildSet,
}

/// What the truth found when it had assembled the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// Members in force.
    pub members: ChildSet,
    /// Length of the volume in blocks, as the labels have it.
    pub blocks: u64,
}

/// What was decided since the last poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TruthEvent {
    /// The volume is open with these members: the home core publishes them, and I/O is admitted
    /// when [`Truth::pending`] was looked at. Comes once, to a nexus whose children were
    /// [`crate::Standing::ByTruth`], and again after each [`TruthEvent::Resigned`].
    Assembled(Assembly),
    /// A child that is no member, and why; before [`TruthEvent::Assembled`], and whenever it is
    /// known better.
    LeftOut(ChildIndex, FaultReason),
    /// The volume cannot be opened yet, or is frozen, and why, in words for the operator. It is
    /// tried again: all I/O waits, until [`TruthEvent::Assembled`] or [`TruthEvent::Thawed`].
    Refused(String),
    /// Nobody can tell any more who has the data: a new owner must assemble the volume. The home
    /// core stops using every child on every core, and then calls [`Truth::start_over`]. I/O waits
    /// and does not fail.
    Resigned,
    /// The change begun last is in force: held writes may be acknowledged.
    InForce,
    /// A member did not take its label. [`crate::Home`] faults it; the change goes on, and is
    /// followed by another one without that child (rule 12).
    MemberLost(ChildIndex, FaultReason),
    /// No quorum for now. All I/O waits, nothing fails; a later event ends it.
    Frozen,
    /// A quorum again: a frozen volume serves.
    Thawed,
    /// A newer owner exists. This nexus never acknowledges anything again: what is in flight and
    /// all that comes fails with a path error.
    Overtaken,
    /// The mark of this region is durable on every member (and the rebuild target).
    Marked(RegionIndex),
    /// The mark of this region is cleared on every member; the next write marks it again.
    Cleared(RegionIndex),
    /// A region that was [`Truth::pending`] is equal on every member: it may be used.
    Equal(RegionIndex),
    /// The label of the target is durable: host writes may go there (rule 28).
    TargetReady(ChildIndex),
    /// The volume is closed, and every member says so (rule 15).
    Closed,
}

/// I/O of the home core on the children, for labels. Addresses are those of the child's device,
/// label area included; memory is the caller's until the completion comes back through
/// [`Truth::completed`].
pub trait ControlIo {
    /// Submits to a child's queue pair of the home core. `Err(Busy)`: try again at the next poll.
    /// A child that is not open completes with a path error.
    fn submit(&mut self, cx: &mut Cx, child: ChildIndex, io: Io) -> Result<(), Busy>;

    /// Asks what is in flight at a child to end; each still completes.
    fn abort(&mut self, cx: &mut Cx, child: ChildIndex);
}

/// What decides about members and remembers marks. All calls are on the home core.
pub trait Truth: Debug {
    /// The volume as it is configured: its size, and its members where they are known. Called once,
    /// before everything else, after [`Truth::place`] for each child; and again when it has grown.
    fn attach(&mut self, _volume: Geometry, _members: ChildSet) {}

    /// A child was put into this place, or taken away; nothing of its is in flight.
    fn place(&mut self, _child: ChildIndex, _config: Option<&ChildConfig>) {}

    /// What is known of why a child is out, in words.
    fn words(&self, _child: ChildIndex) -> Option<String> {
        None
    }

    /// What an operator is to know of how the volume was opened, in words.
    fn notice(&self) -> Option<&str> {
        None
    }

    /// How often the device of a child had restarted when it was known what its blocks are worth;
    /// nothing where nobody asked it.
    fn restarts(&self, _child: ChildIndex) -> Option<u64> {
        None
    }

    /// True when the child is reserved for this owner: a conflict of reservations on the way there
    /// says that a newer owner has taken it.
    fn is_reserved(&self, _child: ChildIndex) -> bool {
        false
    }

    /// A core met such a conflict. Answered by [`TruthEvent::Overtaken`].
    fn fenced(&mut self) {}

    /// Nothing of the volume's is in flight at any child, after [`TruthEvent::Resigned`]: they may
    /// be claimed anew.
    fn start_over(&mut self, _cx: &mut Cx) {
        unreachable!("whoever never resigns does not start over");
    }

    /// Begins a change of members; one at a time. The answer is [`TruthEvent::InForce`], however
    /// late.
    fn begin_change(&mut self, cx: &mut Cx, change: MemberChange);

    /// False when regions are not marked at all (no labels): then the two calls below never come,
    /// and writes do not wait.
    fn marks_regions(&self) -> bool;

    /// Bytes of a region.
    fn region_bytes(&self) -> u64 {
        REGION_BYTES
    }

    /// Regions that are marked already when the volume was assembled: to be cleared some time.
    fn marked(&self) -> Option<RegionMap> {
        None
    }

    /// Begins to mark a region; answered by [`TruthEvent::Marked`].
    fn begin_mark(&mut self, cx: &mut Cx, region: RegionIndex);

    /// Begins to clear the mark of a region that has no write in flight on any core; flushes every
    /// member and the target before. Answered by [`TruthEvent::Cleared`], or by
    /// [`TruthEvent::Marked`] where [`Truth::begin_mark`] came in time. No write to the region
    /// begins until then.
    fn begin_clear(&mut self, cx: &mut Cx, region: RegionIndex);

    /// Regions that members may differ in: no host reads or writes them before
    /// [`TruthEvent::Equal`] (rule 23). Nothing when there is none.
    fn pending(&self) -> Option<RegionMap> {
        None
    }

    /// A host waits for this pending region: it is copied before others.
    fn copy_first(&mut self, _region: RegionIndex) {}

    /// Begins to make a rebuild target of a child that is out and of which nothing is in flight on
    /// any core; answered by [`TruthEvent::TargetReady`], or by [`TruthEvent::LeftOut`].
    fn begin_target(
        &mut self,
        cx: &mut Cx,
        child: ChildIndex,
        discard: Discard,
    ) -> Result<(), NotRebuilt>;

    /// A target has failed, or its rebuild was given up.
    fn target_lost(&mut self, cx: &mut Cx, child: ChildIndex);

    /// The next region to copy: for members that may not be used first, then for the target. The
    /// first one for a target comes after [`TruthEvent::TargetReady`]; it is copied only when every
    /// core follows the view in which the target is written.
    fn next_copy(&mut self) -> Option<CopyOrder>;

    /// A region was copied to all of `order.to`.
    fn copied(&mut self, cx: &mut Cx, order: CopyOrder);

    /// It was not, on account of `child`: the source or one of `order.to`. It is ordered again,
    /// from another source where it was the source and there is another. Whether the child is lost
    /// is for the caller to decide.
    fn copy_failed(&mut self, cx: &mut Cx, order: CopyOrder, child: ChildIndex);

    /// Regions that are to be copied, those that were ordered and not answered included.
    fn copies_left(&self) -> u64;

    /// True when a target has every region: it may be admitted.
    fn is_complete(&self, child: ChildIndex) -> bool;

    /// Begins to close: no I/O is admitted or in flight, and no region is marked. Answered by
    /// [`TruthEvent::Closed`].
    fn begin_close(&mut self, cx: &mut Cx);

    /// An I/O submitted through [`ControlIo`] has ended.
    fn completed(&mut self, cx: &mut Cx, child: ChildIndex, completion: Completion);

    /// Goes on, and says what was decided; called again until it says nothing.
    fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) -> Option<TruthEvent>;

    /// When it must be polled next, beyond completions of its I/O.
    fn wake(&self) -> Wake;
}
