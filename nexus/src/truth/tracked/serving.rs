//! While the volume is open: changes of members, freezing, the lease, closing, starting over
//! (rules 5, 8 to 15).

use reactor::{Cx, Nanos, Wake};

use super::desk::Fence;
use super::opening::LEARN_WAIT;
use super::warden::Warden;
use super::{Phase, Tracked};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::truth::lease::KEEP_ALIVE_US;
use crate::truth::names::Policy;
use crate::truth::owner::Progress;
use crate::truth::{ControlIo, MemberChange, TruthEvent};

/// How often the lease is looked at, and retries that are due. An answer counts for so much less
/// than a lease.
const LOOK_INTERVAL: Nanos = Nanos::from_millis(20);
const _: () = assert!(LOOK_INTERVAL.0 / 1000 < KEEP_ALIVE_US / 8);

impl Tracked {
    /// Goes on with what the home core has asked for, and tells what the owner has come to.
    pub(super) fn serve(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        if !matches!(self.phase, Phase::Ruling { .. } | Phase::Serving) {
            return;
        }
        self.keep_lease(cx);
        if self.phase != Phase::Serving {
            return;
        }
        if self.is_stale || self.is_due {
            self.observe(cx, io);
        }
        if self.phase == Phase::Serving {
            self.tell_of_freezing(cx);
        }
    }

    fn observe(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        self.start_flushes(cx);
        self.go_on_with_target(cx);
        let Some(owner) = &self.owner else { return };
        match owner.progress() {
            Progress::Overtaken => {
                self.phase = Phase::Over;
                for child in self.present() {
                    self.desk(child).give_up(cx, io);
                }
                self.say(TruthEvent::Overtaken);
            }
            Progress::Resigned => self.resign(),
            Progress::Closed => {
                self.phase = Phase::Releasing;
                self.wardens.iter_mut().flatten().for_each(Warden::release);
            }
            Progress::InForce { members, .. } => {
                self.is_owner_frozen = false;
                self.settle_change(members);
                if let (true, Some(owner)) = (self.is_closing, &mut self.owner) {
                    owner.close();
                }
            }
            Progress::Frozen { waits_for } => {
                self.is_owner_frozen = true;
                let words = format!("it waits for {}", waits_for.join(", "));
                self.refuse(&words);
            }
            Progress::Claiming | Progress::Changing => {}
        }
    }

    /// Nobody can tell who has the data: the home core lets go of every child.
    pub(super) fn resign(&mut self) {
        self.phase = Phase::Resigned;
        self.owner = None;
        self.change = None;
        self.dismissed = self.present().collect();
        self.events.clear();
        self.say(TruthEvent::Resigned);
    }

    /// With these members in force and no change under way: brings about what the home core wants,
    /// or says that it is so.
    fn settle_change(&mut self, in_force: ChildSet) {
        let Some(change) = self.change else { return };
        let after = self.seats.places(change.after);
        let leaving = self.seats.places(change.before.minus(change.after)).intersection(in_force);
        let Some(owner) = &mut self.owner else { return };
        if !leaving.is_empty() {
            // Whoever was lost left by itself: this is one that can vote for it.
            if !owner.begin_change(in_force.minus(leaving)) {
                self.resign();
            }
            return;
        }
        if let Some(target) = owner.target().map(|target| target.child)
            && after.contains(target)
        {
            if !owner.admit() {
                // Asked for too early, or it was lost meanwhile.
                owner.child_lost(target);
                self.copies.forget_target();
                let child = self.seats.child(target);
                let lost = |child| TruthEvent::MemberLost(child, FaultReason::RebuildFailed);
                self.events.extend(child.map(lost));
            }
            self.is_stale = true;
            return;
        }
        if !after.contains_all(in_force) {
            // The owner holds to a member that the home core has given up.
            return self.resign();
        }
        self.tell_in_force(change, in_force);
    }

    fn tell_in_force(&mut self, change: MemberChange, in_force: ChildSet) {
        let joining = change.after.minus(change.before);
        if self.seats.places(joining).intersection(in_force) == self.seats.places(joining) {
            self.copies.joined(joining);
        }
        self.change = None;
        self.members = change.after;
        self.is_stale = true;
        self.say(TruthEvent::InForce);
    }

    /// Asks members that others may open too whether they still promise this owner.
    fn keep_lease(&mut self, cx: &mut Cx) {
        let now = cx.now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_INTERVAL;
        let Some(owner) = &self.owner else { return };
        let members = owner.members().intersection(owner.claimed().replicas);
        for child in self.seats.children(members) {
            let Some(voter) = self.voter(child) else { continue };
            let is_due = self.lease.is_due(voter, now.0 / 1000);
            let desk = self.desk(child);
            if is_due && desk.fence == Fence::Polled && desk.is_free() {
                desk.beat(now);
                self.is_stale = true;
            }
        }
    }

    /// Whether enough voters have answered lately, so that nobody else may have gone on.
    fn has_lease(&self, now: Nanos) -> bool {
        let Some(owner) = &self.owner else { return false };
        let mut fresh = self.lease.fresh((now + LOOK_INTERVAL).0 / 1000);
        fresh.replicas = fresh.replicas.union(self.exclusive());
        let Some((_, members)) = owner.in_force() else { return false };
        match owner.policy() {
            // Whoever goes on needs every one of them.
            Some(Policy::Solo) => !fresh.replicas.intersection(members).is_empty(),
            _ => owner.may_read_by_lease(fresh),
        }
    }

    fn tell_of_freezing(&mut self, cx: &mut Cx) {
        let is_frozen = self.is_owner_frozen || !self.has_lease(cx.now());
        if is_frozen != self.is_frozen {
            self.is_frozen = is_frozen;
            self.last_refusal.clear();
            self.say(if is_frozen { TruthEvent::Frozen } else { TruthEvent::Thawed });
        }
    }

    pub(super) fn phase_wake(&self) -> Wake {
        let is_polled = self.desks.iter().flatten().any(|desk| desk.fence == Fence::Polled);
        let look = if is_polled { Wake::At(self.next_look) } else { Wake::Never };
        let wake = match self.phase {
            Phase::Learning { since } => Wake::At(since + LEARN_WAIT),
            Phase::Claiming => Wake::Never,
            Phase::Ruling { serve_at } => look.soonest(Wake::At(serve_at)),
            Phase::Serving => look,
            Phase::Resigned | Phase::Releasing | Phase::Over => return Wake::Never,
        };
        let waited_for = |child: &ChildIndex| {
            !matches!(self.phase, Phase::Ruling { .. } | Phase::Serving) || self.is_asked(*child)
        };
        let retries = self.present().filter(waited_for);
        let retries = retries.filter_map(|child| self.desks[child.get()].as_ref()?.retry_at);
        retries.fold(wake, |wake, at| wake.soonest(Wake::At(at)))
    }
}
