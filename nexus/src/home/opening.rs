//! How a volume comes to have members: the truth assembles it, and assembles it again when it
//! cannot tell any more who has the data.
//!
//! Until then all I/O waits. To start over, every core gives back what it has of every child, as if
//! all of them had failed: what has begun is held, and is sent again to whoever is a member then.

use reactor::Cx;

use super::{Home, Step};
use crate::child::{ChildIndex, ChildSet, ChildState, FaultReason};
use crate::config::{self, ChildConfig};
use crate::truth::{Assembly, ControlIo, Truth};
use crate::view::{ChildDevice, Version};

/// The device of a child that the truth vouches for, as it was when that was found out.
pub(super) fn prepare(config: &ChildConfig, truth: &dyn Truth, child: ChildIndex) -> ChildDevice {
    let device = config::prepare(config);
    let restarts = truth.restarts(child).unwrap_or(device.restarts);
    ChildDevice { restarts, is_reserved: truth.is_reserved(child), ..device }
}

impl Home {
    /// Why the volume is not open yet, or frozen, in words.
    pub fn refusal(&self) -> Option<&str> {
        let is_shut = self.stops.unassembled || self.stops.by_truth;
        self.refusal.as_deref().filter(|_| is_shut)
    }

    /// What an operator is to know of how the volume was opened, in words.
    pub fn notice(&self) -> Option<&str> {
        self.truth.notice()
    }

    /// True when the members are known: the volume has been opened.
    pub fn is_assembled(&self) -> bool {
        !self.stops.unassembled
    }

    /// The truth has assembled the volume: its members are written and read from here on.
    pub(super) fn open(&mut self, cx: &mut Cx, assembly: Assembly) {
        let Assembly { members, blocks } = assembly;
        assert!(!members.is_empty(), "an epoch has members");
        self.refusal = None;
        self.step = Step::Idle;
        for child in ChildIndex::all() {
            let Some(known) = &mut self.children[child.get()] else { continue };
            if members.contains(child) {
                known.comeback.release();
            }
            known.state = match known.state {
                _ if members.contains(child) => ChildState::Open,
                ChildState::Init | ChildState::Open | ChildState::Rebuilding => {
                    ChildState::Faulted(FaultReason::OutOfSync)
                }
                other => other,
            };
        }
        self.looks.begin();
        let equal = self.begin_copies(blocks);
        let intent = self.begin_marks(cx, blocks);
        let (children, truth) = (&self.children, &self.truth);
        self.nexus.publish(|view| {
            view.members = members;
            (view.leaving, view.targets) = (ChildSet::EMPTY, ChildSet::EMPTY);
            view.blocks = blocks;
            (view.equal, view.intent) = (equal, intent);
            for child in ChildIndex::all() {
                let known = children[child.get()].as_ref().filter(|_| members.contains(child));
                view.devices[child.get()] =
                    known.map(|known| prepare(&known.config, &**truth, child));
                let incarnation = &mut view.incarnations[child.get()];
                *incarnation = incarnation.wrapping_add(1);
            }
        });
        self.stop(|stops| (stops.unassembled, stops.by_truth) = (false, false));
    }

    /// The truth says why a child is no member.
    pub(super) fn leave_out(&mut self, cx: &mut Cx, child: ChildIndex, reason: FaultReason) {
        let view = self.nexus.view();
        if view.targets.contains(child) {
            return self.lose_target(cx, child, reason);
        }
        let known = self.children[child.get()].as_mut();
        if let Some(known) = known.filter(|_| !view.members.contains(child)) {
            known.state = ChildState::Faulted(reason);
        }
    }

    /// Nobody can tell who has the data: nothing is used until a new owner has assembled the
    /// volume.
    pub(super) fn resign(&mut self) {
        (self.joining, self.doomed) = (ChildSet::EMPTY, ChildSet::EMPTY);
        self.stop(|stops| (stops.unassembled, stops.by_home) = (true, false));
        let version = self.nexus.publish(|view| {
            view.leaving = view.members;
            view.targets = ChildSet::EMPTY;
        });
        self.step = Step::StartingOver(version);
    }

    /// True when nothing of the volume's is in flight anywhere.
    pub(super) fn is_all_released(&self, version: Version) -> bool {
        let all = ChildIndex::all().collect();
        let released = |_, cell: &crate::cell::Cell| {
            cell.is_at_rest() || (cell.has_followed(version) && !cell.has_open(all))
        };
        self.nexus.all_users(released) && ChildIndex::all().all(|child| self.ports.is_still(child))
    }

    pub(super) fn start_over(&mut self, cx: &mut Cx) {
        self.step = Step::Idle;
        self.truth.start_over(cx);
    }

    /// Makes what the truth has at the children end, while it starts over.
    pub(super) fn end_labels(&mut self, cx: &mut Cx) {
        if matches!(self.step, Step::StartingOver(_)) {
            ChildIndex::all().for_each(|child| self.ports.abort(cx, child));
        }
    }
}
