//! Places of replicas, sets of voters, and when there are enough of them.

use super::label::Configured;
use super::names::{Electorate, Members, Policy, RecordId, RecordVoter, ReplicaId};
use super::planted::{self, Bug};
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};

/// Someone who has a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Voter {
    /// A replica, by its place.
    Replica(ChildIndex),
    /// The control plane's record.
    Record,
}

/// A set of voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Voters {
    /// Replicas, by place.
    pub replicas: ChildSet,
    /// And the record.
    pub record: bool,
}

impl Voters {
    /// True when `voter` is one of them.
    pub fn contains(self, voter: Voter) -> bool {
        match voter {
            Voter::Replica(child) => self.replicas.contains(child),
            Voter::Record => self.record,
        }
    }

    /// Adds one.
    pub fn insert(&mut self, voter: Voter) {
        match voter {
            Voter::Replica(child) => self.replicas = self.replicas.with(child),
            Voter::Record => self.record = true,
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, voter: Voter) {
        match voter {
            Voter::Replica(child) => self.replicas = self.replicas.without(child),
            Voter::Record => self.record = false,
        }
    }
}

/// Which replica has which place. Replicas that only a label names have places too: no device,
/// but a vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roster {
    places: Vec<Configured>,
    record: Option<RecordId>,
}

/// More replicas are named than there are places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("children and labels name more than {CHILDREN_MAX} replicas")]
pub struct TooMany;

impl Roster {
    /// The children of a nexus, in their places, and the record that it has been given.
    pub fn new(places: Vec<Configured>, record: Option<RecordId>) -> Roster {
        assert!(places.len() <= CHILDREN_MAX, "a nexus has so many children");
        Roster { places, record }
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The record, when one was given.
    pub fn record(&self) -> Option<RecordId> {
        self.record
    }

    /// All places, in order.
    pub fn all(&self) -> ChildSet {
        let places = ChildIndex::all().take(self.places.len());
        places.fold(ChildSet::EMPTY, ChildSet::with)
    }

    /// Who is at a place.
    pub fn replica(&self, child: ChildIndex) -> ReplicaId {
        self.places[child.get()].replica
    }

    /// All replicas, with their hints.
    pub fn configured(&self) -> &[Configured] {
        &self.places
    }

    /// Where a replica is.
    pub fn place(&self, replica: ReplicaId) -> Option<ChildIndex> {
        let index = self.places.iter().position(|configured| configured.replica == replica)?;
        ChildIndex::new(index)
    }

    /// Gives a replica that a label names a place, if it has none.
    pub fn intern(&mut self, configured: &Configured) -> Result<ChildIndex, TooMany> {
        if let Some(child) = self.place(configured.replica) {
            return Ok(child);
        }
        let child = ChildIndex::new(self.places.len()).ok_or(TooMany)?;
        self.places.push(configured.clone());
        Ok(child)
    }

    /// Gives all of an electorate places.
    pub fn intern_all(&mut self, electorate: &Electorate) -> Result<(), TooMany> {
        for replica in electorate.members.as_slice() {
            self.intern(&Configured { replica: *replica, hint: String::new() })?;
        }
        Ok(())
    }

    /// The places of members, all of whom have one.
    pub fn set_of(&self, members: &Members) -> ChildSet {
        let places = members.as_slice().iter().filter_map(|replica| self.place(*replica));
        places.fold(ChildSet::EMPTY, ChildSet::with)
    }

    /// The voters of an epoch with these members.
    pub fn electorate(&self, members: ChildSet, policy: Policy) -> Electorate {
        let listed: Vec<ReplicaId> = members.iter().map(|child| self.replica(child)).collect();
        let votes = policy.record_votes(listed.len());
        let record = self.record.filter(|_| policy != Policy::Solo);
        Electorate {
            members: Members::new(listed).expect("places have different replicas"),
            record: record.map(|id| RecordVoter { id, votes }),
        }
    }

    /// What an operator calls a voter.
    pub fn name(&self, voter: Voter) -> String {
        match voter {
            Voter::Record => "the record".to_owned(),
            Voter::Replica(child) => match self.places.get(child.get()) {
                Some(Configured { replica, hint }) if hint.is_empty() => {
                    format!("replica {}", replica.0)
                }
                Some(Configured { replica, hint }) => format!("replica {} at {hint}", replica.0),
                None => format!("the replica in place {child}"),
            },
        }
    }

    /// Votes that `voters` have in an electorate, and how many are needed.
    pub fn votes(&self, electorate: &Electorate, voters: Voters) -> (usize, usize) {
        let members = self.set_of(&electorate.members);
        let record = electorate.record.map_or(0, |record| usize::from(record.votes));
        let is_ours = electorate.record.map(|record| record.id) == self.record;
        let spoken = if voters.record && is_ours { record } else { 0 };
        let have = members.intersection(voters.replicas).len() as usize + spoken;
        (have, (electorate.members.len() + record) / 2 + 1)
    }

    /// Enough to know that nobody went on without them.
    pub fn may_trust(&self, policy: Policy, electorate: &Electorate, voters: Voters) -> bool {
        if policy == Policy::Solo {
            return voters.replicas.contains_all(self.set_of(&electorate.members));
        }
        let (have, need) = self.votes(electorate, voters);
        have >= need
    }

    /// Enough for an epoch to be committed whose predecessor has these voters.
    pub fn may_commit(&self, policy: Policy, previous: &Electorate, written: Voters) -> bool {
        let lax = planted::is(Bug::SurvivorsOnly) || planted::is(Bug::RecordAsync);
        if policy == Policy::Solo || lax {
            return !written.replicas.is_empty();
        }
        let (have, need) = self.votes(previous, written);
        have >= need
    }

    /// Voters of an electorate that are not among `voters`: what an operator is told is missing.
    pub fn missing(&self, electorate: &Electorate, voters: Voters) -> Vec<String> {
        let members = self.set_of(&electorate.members).minus(voters.replicas);
        let mut names: Vec<String> =
            members.iter().map(|child| self.name(Voter::Replica(child))).collect();
        if electorate.record.is_some_and(|record| record.votes > 0) && !voters.record {
            names.push(self.name(Voter::Record));
        }
        names
    }
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::*;

    pub fn roster(replicas: usize, record: bool) -> Roster {
        let configured = |number: usize| Configured {
            replica: ReplicaId(Uuid::from_u128(number as u128 + 1)),
            hint: String::new(),
        };
        let record = record.then_some(RecordId(Uuid::from_u128(99)));
        Roster::new((0..replicas).map(configured).collect(), record)
    }

    fn voters(replicas: &[usize], record: bool) -> Voters {
        let replicas = replicas.iter().filter_map(|index| ChildIndex::new(*index));
        Voters { replicas: replicas.fold(ChildSet::EMPTY, ChildSet::with), record }
    }

    #[test]
    fn quorums_are_those_of_the_policies() {
        let trust = |policy, replicas, present: &[usize], record| {
            let roster = roster(replicas, true);
            let electorate = roster.electorate(roster.all(), policy);
            roster.may_trust(policy, &electorate, voters(present, record))
        };
        assert!(trust(Policy::Majority, 1, &[0], false));
        assert!(!trust(Policy::Majority, 1, &[], true));
        assert!(!trust(Policy::Majority, 2, &[0], false));
        assert!(trust(Policy::Majority, 2, &[0], true));
        assert!(trust(Policy::Majority, 2, &[0, 1], false));
        assert!(trust(Policy::Majority, 3, &[0, 2], false));
        assert!(!trust(Policy::Majority, 3, &[0], true));
        assert!(trust(Policy::Record, 3, &[0], true));
        assert!(!trust(Policy::Record, 3, &[0, 1], false));
        assert!(trust(Policy::Record, 3, &[0, 1, 2], false));
        assert!(!trust(Policy::Solo, 2, &[0], true));
        assert!(trust(Policy::Solo, 2, &[0, 1], false));
    }

    #[test]
    fn the_word_of_another_record_counts_nothing() {
        let electorate = roster(2, true).electorate(roster(2, true).all(), Policy::Majority);
        let other =
            Roster::new(roster(2, false).configured().to_vec(), Some(RecordId(Uuid::from_u128(5))));
        assert!(!other.may_trust(Policy::Majority, &electorate, voters(&[0], true)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let roster = roster(2, true);
        let electorate = roster.electorate(roster.all(), Policy::Majority);
        let names = roster.missing(&electorate, voters(&[0], false));
        assert_eq!(names, ["replica 00000000-0000-0000-0000-000000000002", "the record"]);
    }
}
