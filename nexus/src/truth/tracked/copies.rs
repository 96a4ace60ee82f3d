//! What is to be copied: regions in which members may differ, those that a host waits for first,
//! then what a rebuild target lacks (rules 23 to 30).

use std::collections::{BTreeMap, VecDeque};

use reactor::Cx;

use super::{Phase, Sight, Tracked, random_uuid};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::intent::RegionIndex;
use crate::truth::label::{Configured, Label};
use crate::truth::names::ReplicaId;
use crate::truth::owner::Owner;
use crate::truth::region_map::RegionMap;
use crate::truth::{CopyOrder, Discard, NotRebuilt, TruthEvent};

/// A target and how far its label is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Targeting {
    child: ChildIndex,
    discard: Discard,
    step: TargetStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetStep {
    /// Its label is to be read.
    Wanted,
    /// It is being read.
    Asked,
    /// The owner rebuilds it.
    Begun,
    /// The home core knows that it is ready.
    Ready,
}

/// An order that was given out.
#[derive(Clone, Copy, Debug)]
struct Given {
    order: CopyOrder,
    /// What it was for is gone: its answer counts nothing.
    is_stale: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    target: Option<Targeting>,
    given: BTreeMap<RegionIndex, Given>,
    asked_for: VecDeque<RegionIndex>,
    /// Where the search for the target's next region goes on.
    next: u64,
    /// Counted on when a source of the target's copies fails.
    source: u32,
}

impl Copies {
    pub fn ask_for(&mut self, region: RegionIndex) {
        if !self.asked_for.contains(&region) {
            self.asked_for.push_back(region);
        }
    }

    pub fn targeting(&self, child: ChildIndex) -> bool {
        self.target.is_some_and(|target| target.child == child)
    }

    /// The target was lost, or given up.
    pub fn forget_target(&mut self) {
        let Some(target) = self.target.take() else { return };
        for given in self.given.values_mut() {
            given.is_stale |= given.order.to == ChildSet::only(target.child);
        }
    }

    /// The target is a member.
    pub fn joined(&mut self, children: ChildSet) {
        if self.target.is_some_and(|target| children.contains(target.child)) {
            self.target = None;
        }
    }

    pub fn failed(&mut self, order: CopyOrder, child: ChildIndex) {
        if self.given.get(&order.region).is_some_and(|given| given.order == order) {
            self.given.remove(&order.region);
        }
        if child == order.source {
            self.source = self.source.wrapping_add(1);
        }
    }

    fn is_given(&self, region: RegionIndex) -> bool {
        self.given.contains_key(&region)
    }
}

impl Tracked {
    pub(super) fn target_wanted(
        &mut self,
        child: ChildIndex,
        discard: Discard,
    ) -> Result<(), NotRebuilt> {
        // Before it serves, a member is not known to be one.
        let owner = self.owner.as_ref().filter(|_| self.phase == Phase::Serving);
        let Some(owner) = owner else { return Err(NotRebuilt::Busy) };
        if self.members.contains(child) {
            return Err(NotRebuilt::Member);
        }
        let is_pending = owner.pending().is_none_or(|pending| !pending.is_empty());
        let is_busy = owner.is_changing() || owner.target().is_some() || self.is_closing;
        if is_pending || is_busy || self.copies.target.is_some() || self.change.is_some() {
            return Err(NotRebuilt::Busy);
        }
        self.copies.target = Some(Targeting { child, discard, step: TargetStep::Wanted });
        // A label write of an earlier membership may hang there still.
        self.dismissed = self.dismissed.with(child);
        self.is_stale = true;
        Ok(())
    }

    /// The next step towards a target that may be written.
    pub(super) fn go_on_with_target(&mut self, cx: &mut Cx) {
        let Some(target) = self.copies.target else { return };
        let step = match target.step {
            TargetStep::Wanted if self.dismissed.contains(target.child) => return,
            TargetStep::Wanted => {
                let now = cx.now();
                let desk = self.desk(target.child);
                if !desk.is_free() {
                    return;
                }
                desk.learn(now);
                TargetStep::Asked
            }
            TargetStep::Begun if self.is_target_ready(target.child) => {
                self.say(TruthEvent::TargetReady(target.child));
                TargetStep::Ready
            }
            TargetStep::Asked | TargetStep::Begun | TargetStep::Ready => return,
        };
        self.copies.target = Some(Targeting { step, ..target });
        self.is_stale = true;
    }

    /// The label says target, and has every mark that there is.
    fn is_target_ready(&self, child: ChildIndex) -> bool {
        let (Some(owner), Some(place)) = (&self.owner, self.seats.place(child)) else {
            return false;
        };
        let is_it = |target: &&crate::truth::owner::Target| target.child == place;
        let is_ready = owner.target().filter(is_it).is_some_and(|target| target.is_ready);
        let mut marked = owner.marked().into_iter().flat_map(RegionMap::iter);
        is_ready && marked.all(|region| owner.is_marked(place, region))
    }

    /// The label of a child that is to be a target was read.
    pub(super) fn target_learned(&mut self, cx: &mut Cx, child: ChildIndex) {
        if let Err(reason) = self.seat_target(cx, child) {
            self.copies.forget_target();
            self.say(TruthEvent::LeftOut(child, reason));
        }
    }

    fn seat_target(&mut self, cx: &mut Cx, child: ChildIndex) -> Result<(), FaultReason> {
        let target = self.copies.target.ok_or(FaultReason::RebuildFailed)?;
        let nexus = self.config.nexus;
        let session = self.desk(child).session();
        let name = self.desk(child).name.clone();
        let owner = self.owner.as_mut().ok_or(FaultReason::RebuildFailed)?;
        let shape = owner.shape().ok_or(FaultReason::RebuildFailed)?;
        let replica = match &self.sights[child.get()] {
            Sight::Ours(label) => label.replica,
            Sight::Blank => {
                let replica = ReplicaId(random_uuid(cx));
                let desk = self.desks[child.get()].as_mut().expect("it has answered");
                // It names others from its first label on, so that it is never taken for one of a
                // volume that is being created.
                let mut fresh = Label::blank(replica, nexus, shape, session);
                fresh.configured = owner.roster().configured().into();
                desk.set_fresh(fresh);
                replica
            }
            Sight::Unknown | Sight::Misfit(_) => return Err(FaultReason::CantOpen),
        };
        let configured = Configured { replica, hint: super::opening::hint(&name) };
        let place = owner.seat(&configured).map_err(|_| FaultReason::CantOpen)?;
        if self.seats.child(place).is_some_and(|other| other != child) {
            return Err(FaultReason::CantOpen);
        }
        self.seats.take(child, place);
        owner.rebuild(place, target.discard).map_err(|_| FaultReason::OutOfSync)?;
        self.copies.target = Some(Targeting { step: TargetStep::Begun, ..target });
        self.copies.next = 0;
        self.is_stale = true;
        Ok(())
    }

    pub(super) fn give_target_up(&mut self, child: ChildIndex) {
        if !self.copies.targeting(child) {
            return;
        }
        self.copies.forget_target();
        let ready = TruthEvent::TargetReady(child);
        self.events.retain(|event| *event != ready);
        self.dismissed = self.dismissed.with(child);
        self.is_stale = true;
        if let (Some(owner), Some(place)) = (&mut self.owner, self.seats.place(child)) {
            owner.child_lost(place);
        }
    }

    pub(super) fn order_copy(&mut self) -> Option<CopyOrder> {
        let order = self.order_for_members().or_else(|| self.order_for_target())?;
        self.copies.given.insert(order.region, Given { order, is_stale: false });
        Some(order)
    }

    /// Regions that members may differ in: those that a host waits for first.
    fn order_for_members(&mut self) -> Option<CopyOrder> {
        let owner = self.owner.as_ref().filter(|owner| owner.has_pending())?;
        let source = self.seats.child(owner.source()?)?;
        let order = |region: RegionIndex| {
            let to = self.seats.children(owner.copies(region));
            let is_due = !to.is_empty() && !self.copies.is_given(region);
            is_due.then_some(CopyOrder { region, source, to })
        };
        let pending = owner.pending()?;
        let asked_for = self.copies.asked_for.iter().copied();
        let asked_for = asked_for.filter(|region| pending.contains(*region));
        asked_for.chain(pending.iter()).find_map(order)
    }

    fn order_for_target(&mut self) -> Option<CopyOrder> {
        let target = self.copies.target.filter(|target| target.step == TargetStep::Ready)?;
        let owner = self.owner.as_ref()?;
        if owner.is_changing() {
            return None;
        }
        let sources = self.seats.children(owner.readable());
        let number = self.copies.source.checked_rem(sources.len())?;
        let source = sources.iter().nth(number as usize)?;
        let todo = &owner.target()?.todo;
        let is_due = |region: &RegionIndex| !self.copies.is_given(*region);
        let from = |first: u64| todo.iter().filter(move |region| region.0 >= first);
        let region = from(self.copies.next).find(is_due).or_else(|| from(0).find(is_due))?;
        self.copies.next = region.0 + 1;
        Some(CopyOrder { region, source, to: ChildSet::only(target.child) })
    }

    pub(super) fn was_copied(&mut self, order: CopyOrder) {
        let given = self.copies.given.get(&order.region).copied();
        let Some(given) = given.filter(|given| given.order == order) else { return };
        self.copies.given.remove(&order.region);
        let places = self.seats.places(order.to);
        let source = self.seats.place(order.source);
        let Some(owner) = &mut self.owner else { return };
        if given.is_stale {
            return;
        }
        self.is_stale = true;
        self.clearing.copied(order.region);
        let target = owner.target().map(|target| target.child);
        if target.is_some_and(|target| places == ChildSet::only(target)) {
            return owner.rebuilt(order.region);
        }
        // Copies of a source that has left meanwhile do not make members equal.
        if owner.source() != source {
            return;
        }
        places.iter().for_each(|place| owner.copied(place, order.region));
        if owner.is_equal(order.region) {
            self.copies.asked_for.retain(|asked| *asked != order.region);
            self.say(TruthEvent::Equal(order.region));
        }
    }

    pub(super) fn count_copies(&self) -> u64 {
        let Some(owner) = &self.owner else { return 0 };
        let pending = || owner.pending().map_or(0, |pending| pending.len());
        let pending = if owner.has_pending() { pending() } else { 0 };
        pending + owner.target().map_or(0, |target| target.todo.len())
    }

    pub(super) fn is_target_complete(&self, child: ChildIndex) -> bool {
        let (Some(owner), Some(place)) = (&self.owner, self.seats.place(child)) else {
            return false;
        };
        let is_done = |owner: &Owner| {
            owner.target().is_some_and(|target| target.child == place && target.todo.is_empty())
        };
        self.is_target_ready(child) && is_done(owner) && self.count_copies() == 0
    }
}
