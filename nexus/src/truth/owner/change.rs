//! Changes of members: who is written when, when an epoch is in force, and what follows when
//! someone fails on the way (rules 8 to 14).

use std::collections::BTreeMap;

use super::{Known, Owner, Phase, Registry, Reign};
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::truth::assembly::{Plan, Step};
use crate::truth::label::{DataState, MISSING_SLOTS, Missing};
use crate::truth::names::{Ballot, Electorate, Epoch, Policy, VoterHalf};
use crate::truth::planted::{self, Bug};
use crate::truth::quorum::{Voter, Voters};
use crate::truth::region_map::RegionMap;

/// A change under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Change {
    /// Members of the epoch before.
    pub before: ChildSet,
    /// The promises are its commitment: it was in force, and is only opened again.
    pub is_kept: bool,
    /// Those whom this change leaves out.
    pub leaving: ChildSet,
}

/// An epoch in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InForce {
    pub ballot: Ballot,
    pub members: ChildSet,
    pub electorate: Electorate,
}

/// How far the owner is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not decided yet.
    Claiming,
    /// Members change; nothing new is acknowledged.
    Changing,
    /// Members change, and cannot until one of these answers: all I/O waits.
    Frozen {
        /// Who, in words.
        waits_for: Vec<String>,
    },
    /// The epoch is in force.
    InForce {
        /// Which.
        epoch: Epoch,
        /// With whom.
        members: ChildSet,
    },
    /// A newer owner exists.
    Overtaken,
    /// The last replica in sync has come back without its cache before it was alone in force:
    /// whoever drives this starts a new owner, with a higher generation, that assembles anew.
    Resigned,
    /// Closed.
    Closed,
}

impl Reign {
    pub(super) fn new(registry: &Registry, plan: Plan) -> Reign {
        let labels = || plan.in_sync.iter().filter_map(|child| registry.label(child));
        let shape = labels().next().expect("who is in sync was seen").shape;
        let mut dirty = RegionMap::new(shape.regions());
        labels().for_each(|label| dirty.unite(&label.dirty));
        let source = plan.in_sync.first().expect("somebody is in sync");
        let mut reign = Reign {
            half: plan.newest.clone(),
            shape,
            members: plan.members,
            good: plan.in_sync,
            change: None,
            in_force: None,
            must_wait: false,
            missing: BTreeMap::new(),
            to_copy: vec![RegionMap::new(shape.regions()); CHILDREN_MAX],
            source,
            target: None,
            closing: false,
            dirty,
            strangers: plan.strangers,
            went_on: plan.went_on,
        };
        for label in labels() {
            label
                .missing
                .iter()
                .flatten()
                .for_each(|missing| reign.know_missing(registry, missing));
        }
        reign.missing.retain(|child, _| !plan.in_sync.intersection(plan.members).contains(*child));
        reign.complete_missing();
        for child in plan.in_sync.iter().filter(|child| *child != source) {
            reign.to_copy[child.get()] = reign.dirty.clone();
        }
        reign.begin(registry, &plan);
        reign
    }

    /// The first change: what assembly has decided.
    fn begin(&mut self, registry: &Registry, plan: &Plan) {
        let before = registry.roster.set_of(&plan.previous.members);
        let named = plan.members.union(before);
        self.must_wait = !registry.claimed.replicas.contains_all(named);
        let leaving = before.minus(plan.members).union(plan.members.minus(plan.in_sync));
        self.change = Some(Change { before, is_kept: plan.step == Step::Keep, leaving });
        match plan.step {
            Step::Keep => {}
            Step::Finish => self.propose(registry, plan.epoch, plan.newest.current.clone()),
            Step::Leave => {
                let electorate = registry.roster.electorate(plan.members, self.half.policy);
                self.propose(registry, plan.epoch, electorate);
                self.half.previous = plan.previous.clone();
            }
        }
        if plan.step != Step::Keep {
            self.forsake(registry, leaving);
        }
    }

    fn propose(&mut self, registry: &Registry, epoch: Epoch, electorate: Electorate) {
        self.half.promised = registry.promise;
        self.half.ballot = Ballot { epoch, generation: registry.promise.generation };
        self.half.current = electorate;
        self.half.settled = false;
    }

    fn know_missing(&mut self, registry: &Registry, missing: &Missing) {
        let Some(child) = registry.roster.place(missing.replica) else { return };
        let known = self.missing.entry(child).or_insert_with(|| missing.clone());
        known.lacks.unite(&missing.lacks);
        known.in_sync_epoch = known.in_sync_epoch.max(missing.in_sync_epoch);
    }

    /// Whoever is absent lacks at least what is dirty (rule 13), also where labels do not say so:
    /// their pages become durable one by one, so an owner that died on the way, or a damaged page,
    /// leaves a mark without its bits in the other maps.
    fn complete_missing(&mut self) {
        if planted::is(Bug::MissingEmpty) {
            return;
        }
        let Reign { dirty, missing, .. } = self;
        missing.values_mut().for_each(|missing| missing.lacks.unite(dirty));
    }

    /// These lack from here on at least what is dirty. Whoever has been away longest makes room.
    fn forsake(&mut self, registry: &Registry, leaving: ChildSet) {
        for child in leaving.iter() {
            let label = registry.label(child).filter(|label| label.in_sync.epoch > Epoch(0));
            let before = Epoch(self.half.ballot.epoch.0.saturating_sub(1));
            let missing = self.missing.entry(child).or_insert_with(|| Missing {
                replica: registry.roster.replica(child),
                in_sync_epoch: label.map_or(before, |label| label.in_sync.epoch),
                lacks: RegionMap::new(self.shape.regions()),
            });
            if !planted::is(Bug::MissingEmpty) {
                missing.lacks.unite(&self.dirty);
            }
        }
        while self.missing.len() > MISSING_SLOTS {
            let target = self.target.as_ref().map(|target| target.child);
            let others = self.missing.iter().filter(|(child, _)| Some(**child) != target);
            let oldest = others.min_by_key(|(_, missing)| missing.in_sync_epoch);
            let oldest = *oldest.expect("there are more slots than targets").0;
            self.missing.remove(&oldest);
        }
    }

    /// Proposes the next epoch. A source that leaves starts the regions over (rule 23).
    pub(super) fn change_to(&mut self, registry: &Registry, after: ChildSet) {
        let before = self.members;
        let (leaving, joining) = (before.minus(after), after.minus(before));
        self.half.previous = self.half.current.clone();
        let electorate = registry.roster.electorate(after, self.half.policy);
        self.propose(registry, self.half.ballot.epoch.next(), electorate);
        self.resource(after);
        self.members = after;
        self.good = self.good.intersection(after);
        self.change = Some(Change { before, is_kept: false, leaving });
        joining.iter().for_each(|child| drop(self.missing.remove(&child)));
        self.forsake(registry, leaving);
        if self.target.as_ref().is_some_and(|target| joining.contains(target.child)) {
            self.target = None;
        }
    }

    fn resource(&mut self, after: ChildSet) {
        if planted::is(Bug::ReadEarlyShrink) {
            self.keep_copies(after);
            return;
        }
        if after.contains(self.source) {
            return;
        }
        let pending = self.pending();
        let is_done = |child: &ChildIndex| self.to_copy[child.get()].is_empty();
        let next = after.iter().find(is_done).or(after.first());
        self.source = next.expect("an epoch has members");
        for child in self.members.union(after).iter() {
            self.to_copy[child.get()] = pending.clone();
        }
        self.to_copy[self.source.get()].clear();
    }

    fn keep_copies(&mut self, members: ChildSet) {
        for (child, map) in ChildIndex::all().zip(&mut self.to_copy) {
            if !members.contains(child) {
                map.clear();
            }
        }
    }

    /// Regions that may not be used yet.
    pub(super) fn pending(&self) -> RegionMap {
        let mut pending = RegionMap::new(self.shape.regions());
        self.to_copy.iter().for_each(|map| pending.unite(map));
        pending
    }
}

impl Owner {
    /// Begins a change of members: those that leave were lost, or are taken offline; a target that
    /// joins is complete. Members that were lost before leave with it. False when one is under way
    /// or nothing is in force; the owner itself leaves lost members behind.
    pub fn begin_change(&mut self, after: ChildSet) -> bool {
        let Owner { phase: Phase::Ruling(reign), registry, .. } = self else { return false };
        if reign.change.is_some() || reign.in_force.is_none() || after.is_empty() {
            return false;
        }
        reign.change_to(registry, after);
        self.advance();
        true
    }

    /// Who has accepted the epoch that is proposed.
    pub(super) fn written(&self, reign: &Reign) -> Voters {
        let has = |half: &VoterHalf| {
            half.ballot == reign.half.ballot && half.current == reign.half.current
        };
        let mut written = Voters::default();
        for (child, known) in ChildIndex::all().zip(&self.registry.known) {
            if known.as_ref().is_some_and(|known| has(&known.label.voter)) {
                written.insert(Voter::Replica(child));
            }
        }
        written.record = self.record.as_ref().is_some_and(has);
        written
    }

    pub(super) fn is_committed(&self, reign: &Reign) -> bool {
        let Some(change) = &reign.change else { return true };
        change.is_kept
            || self.registry.roster.may_commit(
                reign.half.policy,
                &reign.half.previous,
                self.written(reign),
            )
    }

    /// Whether a voter may be given the proposed epoch now (rules 9 and 10): members that stay;
    /// those left out, while they are needed; the record, while it is; those that join.
    pub(super) fn may_take(&self, reign: &Reign, voter: Voter) -> bool {
        let Some(change) = &reign.change else { return false };
        if change.is_kept {
            return false;
        }
        let written = self.written(reign);
        let staying = reign.members.intersection(change.before);
        let begun = !written.replicas.intersection(reign.members).is_empty();
        let stay_done = begun && written.replicas.contains_all(staying.minus(self.lost));
        let committed = self.is_committed(reign);
        let outsiders = change.before.minus(reign.members);
        match voter {
            Voter::Replica(child) if staying.contains(child) => true,
            Voter::Replica(child) if reign.members.contains(child) => {
                committed && written.replicas.contains_all(staying)
            }
            Voter::Replica(child) if outsiders.contains(child) => {
                let is_needed = stay_done && !committed;
                reign.half.policy != Policy::Solo && (is_needed || planted::is(Bug::OutsidersFirst))
            }
            Voter::Replica(_) => false,
            Voter::Record if reign.half.policy == Policy::Solo => false,
            Voter::Record if planted::is(Bug::SurvivorsOnly) => false,
            Voter::Record => {
                let asked = outsiders.intersection(self.registry.claimed.replicas).minus(self.lost);
                stay_done && !committed && written.replicas.contains_all(asked)
            }
        }
    }

    /// Members say so themselves that they are open: not clean, and of this run of their devices.
    fn is_opened(&self, members: ChildSet) -> bool {
        members.iter().all(|child| {
            self.registry.known[child.get()].as_ref().is_some_and(|Known { label, session }| {
                !label.clean && !label.is_suspect(*session) && label.state == DataState::Member
            })
        })
    }

    /// Goes on as far as the answers allow.
    pub(super) fn advance(&mut self) {
        loop {
            let Some(reign) = self.reign() else { return };
            let Some(change) = &reign.change else {
                let after = reign.members.intersection(reign.good);
                if reign.closing {
                    self.finish_closing();
                } else if after != reign.members && !after.is_empty() {
                    self.begin_change(after);
                }
                return;
            };
            if !self.is_committed(reign) {
                return;
            }
            let written = self.written(reign).replicas;
            let complete = change.is_kept || written.contains_all(reign.members);
            let all_good = reign.good.contains_all(reign.members);
            if complete && all_good && self.is_opened(reign.members) {
                self.put_in_force();
                continue;
            }
            let joining = reign.members.minus(change.before).minus(written);
            let rest = reign.members.intersection(reign.good).minus(joining);
            // Not on one that is not labelled yet alone (rule 29).
            let none_left = rest.is_empty() || all_good;
            if none_left {
                return;
            }
            if let Owner { phase: Phase::Ruling(reign), registry, .. } = self {
                reign.change_to(registry, rest);
            }
        }
    }

    fn put_in_force(&mut self) {
        let Some(reign) = self.reign_mut() else { return };
        let (ballot, members) = (reign.half.ballot, reign.members);
        let electorate = reign.half.current.clone();
        reign.in_force = Some(InForce { ballot, members, electorate });
        reign.change = None;
        reign.keep_copies(members);
    }

    fn finish_closing(&mut self) {
        let Some(reign) = self.reign() else { return };
        let is_clean = |child| self.label(child).is_some_and(|label| label.clean);
        if reign.members.iter().all(is_clean) {
            self.phase = Phase::Closed;
        }
    }

    /// How far it is, and what it waits for.
    pub fn progress(&self) -> Progress {
        let reign = match &self.phase {
            Phase::Claiming => return Progress::Claiming,
            Phase::Overtaken => return Progress::Overtaken,
            Phase::Resigned => return Progress::Resigned,
            Phase::Closed => return Progress::Closed,
            Phase::Ruling(reign) => reign,
        };
        let dead = reign.members.intersection(self.lost);
        let (true, Some(in_force)) = (reign.change.is_none() && dead.is_empty(), &reign.in_force)
        else {
            let is_idle = self.requests().is_empty() && self.sent.iter().all(Option::is_none);
            if !is_idle {
                return Progress::Changing;
            }
            let waits_for = self.waits_for(reign);
            return Progress::Frozen { waits_for };
        };
        Progress::InForce { epoch: in_force.ballot.epoch, members: in_force.members }
    }

    fn waits_for(&self, reign: &Reign) -> Vec<String> {
        if self.is_committed(reign) {
            let members = reign.members.intersection(self.lost).iter();
            return members.map(|child| self.registry.roster.name(Voter::Replica(child))).collect();
        }
        self.registry.roster.missing(&reign.half.previous, self.written(reign))
    }

    /// The epoch in force, also while the next one is being written: its members, of whom those
    /// that stay may be read.
    pub fn in_force(&self) -> Option<(Epoch, ChildSet)> {
        let in_force = self.reign()?.in_force.as_ref()?;
        Some((in_force.ballot.epoch, in_force.members))
    }

    /// Members of the proposed epoch that were none of the one before.
    #[cfg(test)]
    pub(in crate::truth) fn joining(&self) -> ChildSet {
        let Some(reign) = self.reign() else { return ChildSet::EMPTY };
        let before = reign.change.as_ref().map_or(reign.members, |change| change.before);
        reign.members.minus(before)
    }

    /// Planted: goes back to the epoch before (rule 11).
    #[cfg(test)]
    pub(in crate::truth) fn withdraw(&mut self) {
        let Some(reign) = self.reign_mut() else { return };
        let Some(in_force) = reign.in_force.clone() else { return };
        reign.half.ballot = in_force.ballot;
        reign.half.current = in_force.electorate;
        reign.members = in_force.members;
        reign.good = reign.good.intersection(in_force.members);
        reign.change = None;
    }

    /// Whether a child was lost and is not to be asked yet.
    pub fn is_lost(&self, child: ChildIndex) -> bool {
        self.lost.contains(child)
    }

    /// Members in force that may be read: here, in sync, and not on their way out. Whoever was lost
    /// and is back only votes.
    pub fn readable(&self) -> ChildSet {
        let Some(reign) = self.reign() else { return ChildSet::EMPTY };
        let in_force = reign.in_force.as_ref().map_or(ChildSet::EMPTY, |epoch| epoch.members);
        let here = self.registry.claimed.replicas.intersection(reign.good);
        in_force.intersection(reign.members).intersection(here)
    }

    /// True while held writes wait for an epoch.
    pub fn is_changing(&self) -> bool {
        self.reign().is_none_or(|reign| reign.change.is_some())
    }

    /// True when the first answer to a host must wait until the lease of the owner before has run
    /// out (rule 5).
    pub fn must_wait_for_lease(&self) -> bool {
        self.reign().is_some_and(|reign| reign.must_wait)
    }

    /// Whether answers of these voters, each to a request sent less than a lease ago, let read
    /// data be handed up now (rule 5).
    pub fn may_read_by_lease(&self, answered: Voters) -> bool {
        let Some(reign) = self.reign() else { return false };
        let Some(in_force) = &reign.in_force else { return false };
        self.registry.roster.may_trust(reign.half.policy, &in_force.electorate, answered)
    }
}
