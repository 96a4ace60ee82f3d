//! Who may be trusted: the seam between the data path and what decides about members.
//!
//! [`crate::Home`] owns one [`Truth`] and calls it on the home core. The data path needs three
//! things of it: that a change of the members is in force (replica-truth rules 8 to 13), that a
//! region is marked before it is written (18), and that a mark is gone (19). How that comes about
//! (labels, the record, the lease) is the business of the implementation; the state machines beside
//! this file are plain data, fed by an adapter that does their label I/O through [`ControlIo`].
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
mod planted;
pub mod quorum;
pub mod record;
pub mod region_map;
pub mod voter;

use std::fmt::Debug;

use bdev::{Busy, Completion, Io};
use reactor::{Cx, Wake};

use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::intent::RegionIndex;

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

/// What was decided since the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruthEvent {
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
}

/// I/O of the home core on the children, for labels. Addresses are those of the child's device,
/// label area included; memory is the caller's until the completion comes back through
/// [`Truth::completed`].
pub trait ControlIo {
    /// Submits to a child's queue pair of the home core. `Err(Busy)`: try again at the next poll.
    /// A child that is not open completes with a path error.
    fn submit(&mut self, cx: &mut Cx, child: ChildIndex, io: Io) -> Result<(), Busy>;
}

/// What decides about members and remembers marks. All calls are on the home core.
pub trait Truth: Debug {
    /// Begins a change of members; one at a time. The answer is [`TruthEvent::InForce`], however
    /// late.
    fn begin_change(&mut self, cx: &mut Cx, change: MemberChange);

    /// False when regions are not marked at all (no labels): then the two calls below never come,
    /// and writes do not wait.
    fn marks_regions(&self) -> bool;

    /// Begins to mark a region; answered by [`TruthEvent::Marked`].
    fn begin_mark(&mut self, cx: &mut Cx, region: RegionIndex);

    /// Begins to clear the mark of a region that is equal everywhere, has no write in flight on any
    /// core, and whose last write was followed by a flush on every member; answered by
    /// [`TruthEvent::Cleared`]. No write to the region begins until then.
    fn begin_clear(&mut self, cx: &mut Cx, region: RegionIndex);

    /// An I/O submitted through [`ControlIo`] has ended.
    fn completed(&mut self, cx: &mut Cx, child: ChildIndex, completion: Completion);

    /// Goes on, and says what was decided; called again until it says nothing.
    fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) -> Option<TruthEvent>;

    /// When it must be polled next, beyond completions of its I/O.
    fn wake(&self) -> Wake;
}

/// No labels: what the home core decides is in force at once, and forgotten with the process. For
/// volumes that live no longer than the process, and for tests.
#[derive(Debug, Default)]
pub struct Untracked {
    decided: bool,
}

impl Truth for Untracked {
    fn begin_change(&mut self, _cx: &mut Cx, _change: MemberChange) {
        assert!(!self.decided, "one change at a time");
        self.decided = true;
    }

    fn marks_regions(&self) -> bool {
        false
    }

    fn begin_mark(&mut self, _cx: &mut Cx, _region: RegionIndex) {
        unreachable!("nobody marks what is not tracked");
    }

    fn begin_clear(&mut self, _cx: &mut Cx, _region: RegionIndex) {
        unreachable!("nobody clears what is not tracked");
    }

    fn completed(&mut self, _cx: &mut Cx, _child: ChildIndex, _completion: Completion) {
        unreachable!("nothing was submitted");
    }

    fn poll(&mut self, _cx: &mut Cx, _io: &mut dyn ControlIo) -> Option<TruthEvent> {
        std::mem::take(&mut self.decided).then_some(TruthEvent::InForce)
    }

    fn wake(&self) -> Wake {
        if self.decided { Wake::Now } else { Wake::Never }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoIo;

    impl ControlIo for NoIo {
        fn submit(&mut self, _: &mut Cx, _: ChildIndex, _: Io) -> Result<(), Busy> {
            Err(Busy)
        }
    }

    #[test]
    fn without_labels_a_change_is_in_force_at_the_next_poll_and_once() {
        let (mut cx, _) = reactor::cx::test_context();
        let mut truth = Untracked::default();
        assert_eq!(truth.poll(&mut cx, &mut NoIo), None);
        let one = ChildSet::only(ChildIndex::new(1).unwrap());
        let change = MemberChange { before: one, after: one, reason: None };
        truth.begin_change(&mut cx, change);
        assert_eq!(truth.wake(), Wake::Now);
        assert_eq!(truth.poll(&mut cx, &mut NoIo), Some(TruthEvent::InForce));
        assert_eq!(truth.poll(&mut cx, &mut NoIo), None);
        assert_eq!(truth.wake(), Wake::Never);
    }
}
