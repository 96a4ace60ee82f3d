//! Who and what labels speak of: replicas, owners, epochs, and those who vote on them.
//!
//! Plain values without I/O, used on the home core and in tests. The words are those of
//! docs/FORMATS.md, "Replica label".

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// Most members of an epoch, and most replicas that a volume is configured with.
pub const MEMBERS_MAX: usize = crate::child::CHILDREN_MAX;

/// Most changes of lineage that a label remembers.
pub const HISTORY_MAX: usize = 8;

/// A replica, for as long as it holds data of the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(pub Uuid);

/// A volume, the same on all of its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub Uuid);

/// The control plane's record of a volume, or a witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub Uuid);

/// A history that two copies share. Changes only by force; two lineages never merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lineage(pub Uuid);

/// One owner, compared in the order of the fields; never reused, also not on the same host
/// (rule 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation {
    /// Highest counter seen, plus one.
    pub counter: u64,
    /// Drawn anew by every owner; breaks ties.
    pub owner: Uuid,
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of owner {}", self.counter, self.owner)
    }
}

/// The generation that a voter has promised to, and where its owner runs. The fence: monotone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Promise {
    /// No older one is served any more.
    pub generation: Generation,
    /// The owner's host, for an operator to look at; nothing is decided by it.
    pub host: Uuid,
}

/// Number of an epoch. One that was sent anywhere is never withdrawn or reused (rule 11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^64 changes of members take longer than the volume"))
    }
}

/// An epoch as it was proposed: which, and by whom. The newest one that a voter has accepted is
/// the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ballot {
    /// Which.
    pub epoch: Epoch,
    /// Who wrote it last.
    pub generation: Generation,
}

/// Replicas that are members of an epoch: each once, in order, at most [`MEMBERS_MAX`]. Shared by
/// the labels that say the same, which are cloned for each mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members(Arc<[ReplicaId]>);

impl Members {
    /// In any order, each once; nothing when one is there twice or there are too many.
    pub fn new(mut members: Vec<ReplicaId>) -> Option<Members> {
        members.sort_unstable();
        let repeats = members.windows(2).any(|pair| pair[0] == pair[1]);
        (!repeats && members.len() <= MEMBERS_MAX).then(|| Members(members.into()))
    }

    /// True when `replica` is one of them.
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.0.binary_search(&replica).is_ok()
    }

    /// Each, in order.
    pub fn as_slice(&self) -> &[ReplicaId] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none, as on a replica that was never a member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Who decides when a change of members counts, and who may open the volume (section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// More than half; the record has a vote among an even number of members.
    #[default]
    Majority,
    /// The record and one member, or all members.
    Record,
    /// No record. A running owner decides alone; opening needs every member.
    Solo,
}

impl Policy {
    /// Votes of the record beside `members`, each of whom has one.
    pub const fn record_votes(self, members: usize) -> u8 {
        match self {
            Policy::Solo => 0,
            Policy::Majority => (members > 0 && members.is_multiple_of(2)) as u8,
            Policy::Record => members.saturating_sub(1) as u8,
        }
    }
}

const _: () = assert!(MEMBERS_MAX <= u8::MAX as usize, "votes are counted in a byte");

/// The record as a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordVoter {
    /// Which record; another one's word is nothing.
    pub id: RecordId,
    /// What its word counts, beside one a member; may be none.
    pub votes: u8,
}

/// V(e): who votes on what follows an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Electorate {
    /// One vote each.
    pub members: Members,
    /// The record, where the volume has one.
    pub record: Option<RecordVoter>,
}

/// A change of lineage: by creation or by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fork {
    /// What it began.
    pub lineage: Lineage,
    /// Its first epoch.
    pub epoch: Epoch,
    /// How.
    pub cause: ForkCause,
}

/// How a lineage began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForkCause {
    /// With the volume.
    Created,
    /// An operator gave up what others might hold (`--force`, rule 32).
    Forced,
}

/// What a voter answers with, written like that of a Paxos acceptor. The record is one without
/// data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VoterHalf {
    /// The fence.
    pub promised: Promise,
    /// Newest epoch accepted; zero for none.
    pub ballot: Ballot,
    /// Its members and the record's part in it.
    pub current: Electorate,
    /// Those of the epoch before it: whom to ask about an unsettled one.
    pub previous: Electorate,
    /// How votes are counted.
    pub policy: Policy,
    /// The owner has seen the epoch in force; only ever set by it.
    pub settled: bool,
    /// The history that the epoch belongs to.
    pub lineage: Lineage,
    /// How the lineage came about, oldest first; the last [`HISTORY_MAX`].
    pub history: Arc<Vec<Fork>>,
}

impl VoterHalf {
    /// Begins a lineage with `epoch`; the oldest fork is forgotten when there is no room.
    pub fn fork(&mut self, fork: Fork) {
        let history = Arc::make_mut(&mut self.history);
        if history.len() == HISTORY_MAX {
            history.remove(0);
        }
        history.push(fork);
        self.lineage = fork.lineage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(number: u128) -> ReplicaId {
        ReplicaId(Uuid::from_u128(number))
    }

    #[test]
    fn generations_compare_by_counter_then_owner() {
        let generation = |counter, owner| Generation { counter, owner: Uuid::from_u128(owner) };
        assert!(generation(1, 9) < generation(2, 1));
        assert!(generation(2, 1) < generation(2, 2));
    }

    #[test]
    fn members_are_each_there_once_and_at_most_the_limit() {
        let members = Members::new(vec![replica(2), replica(1)]).unwrap();
        assert_eq!(members.as_slice(), [replica(1), replica(2)]);
        assert!(members.contains(replica(1)) && !members.contains(replica(3)));
        assert_eq!(Members::new(vec![replica(1), replica(1)]), None);
        let many = |count: usize| (0..count).map(|number| replica(number as u128)).collect();
        assert!(Members::new(many(MEMBERS_MAX)).is_some());
        assert!(Members::new(many(MEMBERS_MAX + 1)).is_none());
    }

    #[test]
    fn the_record_has_the_votes_of_its_policy() {
        let votes = |policy: Policy| [1, 2, 3, 4].map(|members| policy.record_votes(members));
        assert_eq!(votes(Policy::Majority), [0, 1, 0, 1]);
        assert_eq!(votes(Policy::Record), [0, 1, 2, 3]);
        assert_eq!(votes(Policy::Solo), [0, 0, 0, 0]);
    }

    #[test]
    fn the_oldest_fork_is_forgotten_first() {
        let mut voter = VoterHalf::default();
        let fork = |number: u64| Fork {
            lineage: Lineage(Uuid::from_u128(u128::from(number))),
            epoch: Epoch(number),
            cause: ForkCause::Forced,
        };
        (1..=HISTORY_MAX as u64 + 1).for_each(|number| voter.fork(fork(number)));
        assert_eq!(voter.history.len(), HISTORY_MAX);
        assert_eq!(voter.history[0], fork(2));
        assert_eq!(voter.lineage, fork(HISTORY_MAX as u64 + 1).lineage);
    }
}
