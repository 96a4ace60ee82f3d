//! What every label should be, by the rules; the difference from what was written is a request.

use std::sync::Arc;

use super::{Flush, Known, Owner, Phase, Reign, Request};
use crate::child::{ChildIndex, ChildSet};
use crate::truth::label::{DataState, InSync, Label, MISSING_SLOTS, Missing};
use crate::truth::names::{Epoch, Policy, VoterHalf};
use crate::truth::planted::{self, Bug};
use crate::truth::quorum::Voter;
use crate::truth::region_map::RegionMap;

impl Owner {
    /// The next write to a replica's label; nothing when it is as it should be.
    pub(super) fn label_request(&self, child: ChildIndex) -> Option<Request> {
        let Phase::Ruling(reign) = &self.phase else { return None };
        let Known { label, .. } = self.registry.known[child.get()].as_ref()?;
        let (wanted, flush) = self.desired(reign, child)?;
        if wanted == **label {
            return None;
        }
        Some(Request::WriteLabel { child, flush, label: Arc::new(wanted) })
    }

    fn desired(&self, reign: &Reign, child: ChildIndex) -> Option<(Label, Flush)> {
        let known = self.registry.known[child.get()].as_ref()?;
        let mut label = Label::clone(&known.label);
        let old = reign.in_force.as_ref().map_or(ChildSet::EMPTY, |in_force| in_force.members);
        let is_inside = reign.members.contains(child);
        let takes = self.may_take(reign, Voter::Replica(child));
        let is_kept = reign.change.as_ref().is_some_and(|change| change.is_kept);
        if is_inside && (takes || is_kept || reign.change.is_none()) {
            let is_new = label.voter.ballot != reign.half.ballot;
            self.be_member(reign, child, &mut label);
            let flush = is_new && takes && !planted::is(Bug::NoFlushAtChange);
            return Some((label, if flush { Flush::First } else { Flush::No }));
        }
        if takes {
            // Left out: it votes, and its own marks stay for its rebuild.
            label.voter = reign.half.clone();
            label.clean = false;
            return Some((label, Flush::No));
        }
        if reign.is_target(child) {
            self.be_target(reign, child, known, &mut label);
            return Some((label, Flush::No));
        }
        // A member in force, or one that joins, before its turn: its marks go on.
        let marks = old.contains(child) && is_inside && reign.good.contains(child);
        if marks {
            self.put_marks(reign, child, &mut label);
        }
        marks.then_some((label, Flush::No))
    }

    /// A member of the epoch that is written or in force.
    fn be_member(&self, reign: &Reign, child: ChildIndex, label: &mut Label) {
        let session = self.registry.known[child.get()].as_ref().map(|known| known.session);
        let is_first = label.voter.ballot != reign.half.ballot;
        if reign.change.is_none() || is_first {
            label.voter = reign.half.clone();
        }
        label.voter.promised = self.registry.promise;
        label.voter.settled = match &reign.change {
            None => true,
            Some(change) if change.is_kept => true,
            Some(_) => label.voter.settled && !is_first,
        };
        if !reign.good.contains(child) {
            // Here to vote for what another owner began; what its blocks are worth stays.
            return;
        }
        label.state = DataState::Member;
        label.in_sync = InSync { lineage: reign.half.lineage, epoch: reign.half.ballot.epoch };
        label.session = session.unwrap_or(label.session);
        label.clean = reign.closing;
        self.put_configured(label);
        label.shape = reign.shape;
        self.put_marks(reign, child, label);
    }

    /// Marks and the complete maps of all who are absent (rules 13 and 18).
    pub(super) fn put_marks(&self, reign: &Reign, child: ChildIndex, label: &mut Label) {
        let is_unmarked = planted::is(Bug::MarkOne) && reign.members.first() != Some(child);
        label.dirty = match is_unmarked {
            true => RegionMap::new(reign.shape.regions()),
            false => reign.dirty.clone(),
        };
        let missing = reign.missing.values().cloned().collect();
        place_slots(&mut label.missing, missing);
    }

    /// A target: durable before the first rebuild byte. It keeps its epoch (rule 26).
    fn be_target(&self, reign: &Reign, child: ChildIndex, known: &Known, label: &mut Label) {
        if label.voter.lineage != reign.half.lineage {
            // Of another history: its epochs mean nothing in this one.
            label.voter = VoterHalf {
                policy: reign.half.policy,
                lineage: reign.half.lineage,
                history: reign.half.history.clone(),
                ..VoterHalf::default()
            };
            label.in_sync = InSync { lineage: reign.half.lineage, epoch: Epoch(0) };
        }
        label.voter.promised = self.registry.promise;
        label.state = DataState::Target;
        if planted::is(Bug::MemberAtStart) {
            let members = reign.members.with(child);
            label.voter = reign.half.clone();
            label.voter.ballot.epoch = reign.half.ballot.epoch.next();
            label.voter.current = self.registry.roster.electorate(members, reign.half.policy);
            label.voter.settled = true;
            label.state = DataState::Member;
        }
        label.clean = false;
        label.session = known.session;
        self.put_configured(label);
        if label.shape != reign.shape {
            label.shape = reign.shape;
            label.dirty = label.dirty.resized(reign.shape.regions());
            label.missing = [const { None }; MISSING_SLOTS];
        }
        // Its own marks stay until it is a member: it may hold a write that nobody else has.
        label.dirty.unite(&reign.dirty);
    }

    fn put_configured(&self, label: &mut Label) {
        let configured = self.registry.roster.configured();
        if *label.configured != *configured {
            label.configured = configured.into();
        }
    }

    /// What the record should say; nothing when it says so, or must not yet.
    pub(super) fn desired_record(&self) -> Option<VoterHalf> {
        let reign = self.reign()?;
        if reign.half.policy == Policy::Solo {
            return None;
        }
        let is_empty = self.record.as_ref().is_some_and(VoterHalf::is_empty);
        let is_lax = planted::is(Bug::EmptyRecordAccepts) || planted::is(Bug::EmptyRecordVotes);
        if is_empty && reign.change.is_some() && !is_lax {
            // It has no vote before it was told of an epoch in force.
            return None;
        }
        let mut half = reign.half.clone();
        half.promised = self.registry.promise;
        let is_taken =
            |record: &VoterHalf| record.ballot == half.ballot && record.current == half.current;
        match &reign.change {
            Some(_) if !self.may_take(reign, Voter::Record) => return None,
            Some(_) if self.record.as_ref().is_some_and(is_taken) => return None,
            Some(_) => half.settled = false,
            // In force: it is told, and nobody waits (rule 10).
            None => half.settled = true,
        }
        (self.record.as_ref() != Some(&half)).then_some(half)
    }
}

/// Puts maps into slots: those that have one keep it, so that their pages stay.
fn place_slots(slots: &mut [Option<Missing>; MISSING_SLOTS], mut missing: Vec<Missing>) {
    for slot in slots.iter_mut() {
        let same =
            slot.as_ref().and_then(|old| missing.iter().position(|new| new.replica == old.replica));
        *slot = same.map(|index| missing.remove(index));
    }
    let mut rest = missing.into_iter();
    slots.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = rest.next());
}
