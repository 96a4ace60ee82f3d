//! How a voter answers: a replica's label, or the record.
//!
//! The voter half is written like that of a Paxos acceptor: it promises only to a higher
//! generation, and accepts only from the one it has promised. Whoever keeps it durable does so
//! before it answers. [`Gate`] is the same for the commands at a replica: below every front door,
//! so that a claim that comes over the network also ends a local owner's handle.

use super::names::{Ballot, Epoch, Generation, Promise, VoterHalf};
use super::planted::{self, Bug};

/// Why the record does not take what an owner writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// A newer owner has been promised.
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
    /// It does not know of the owner's claim, or of any epoch: it was emptied since.
    #[error("the record was emptied, and has no vote until the volume is opened by its replicas")]
    Emptied,
}

/// A newer owner has been promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {promised} has taken the volume")]
pub struct Overtaken {
    /// The newer one.
    pub promised: Generation,
}

impl VoterHalf {
    /// Promises to serve no generation older than that of `promise` (rule 1). The same owner may
    /// ask again, after it has lost the answer.
    pub fn promise(&mut self, promise: Promise) -> Result<(), Overtaken> {
        if promise.generation < self.promised.generation {
            return Err(Overtaken { promised: self.promised.generation });
        }
        self.promised = promise;
        Ok(())
    }

    /// Accepts what an owner writes, if no newer one has been promised. An epoch older than the
    /// one accepted is none of an owner that has read it: the caller's mistake.
    pub fn accept(&mut self, written: &VoterHalf) -> Result<(), Overtaken> {
        self.promise(written.promised)?;
        self.clone_from(written);
        Ok(())
    }

    /// True for a voter that has accepted nothing. A replica of that kind is a new one; the record
    /// may have been emptied, so its word is worth nothing.
    pub fn is_empty(&self) -> bool {
        self.ballot.epoch == Epoch(0)
    }

    /// What the record accepts: only from the owner that has claimed it as it is now, so that one
    /// that was emptied after the claim takes nothing for granted. An empty one is filled, by an
    /// owner that found it so, with an epoch in force; it has no vote on one that is not.
    pub fn accept_at_record(&mut self, written: &VoterHalf) -> Result<(), NotTaken> {
        if written.promised.generation < self.promised.generation {
            return Err(Overtaken { promised: self.promised.generation }.into());
        }
        let is_claimed = self.promised.generation == written.promised.generation;
        let may_fill = !self.is_empty() || written.settled;
        let is_lax = planted::is(Bug::EmptyRecordAccepts) || planted::is(Bug::EmptyRecordVotes);
        if !(is_lax || is_claimed && may_fill) {
            return Err(NotTaken::Emptied);
        }
        self.clone_from(written);
        Ok(())
    }

    /// The newest of two: by epoch, then by who wrote it, then by whether it is known to be in
    /// force.
    pub(super) fn rank(&self) -> (Ballot, bool) {
        (self.ballot, self.settled)
    }
}

/// Number of a handle at a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Handle {
    id: HandleId,
    generation: Generation,
    in_flight: u32,
    is_dead: bool,
}

/// What a claim must wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing: once the promise is durable it may be answered.
    Drained,
    /// These handles are dead; their commands are to be aborted, and the claim is answered when
    /// the last of them has ended.
    Draining(Vec<HandleId>),
}

/// Who may use a replica's blocks and label: handles by generation. One a replica, below all of
/// its front doors. Checked when a handle is opened and when it dies, not at every command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gate {
    promised: Generation,
    handles: Vec<Handle>,
    next: u64,
}

impl Gate {
    /// A gate behind which the label has promised this.
    pub fn new(promised: Generation) -> Gate {
        Gate { promised, ..Gate::default() }
    }

    /// A handle for an owner that has claimed.
    pub fn open(&mut self, generation: Generation) -> Result<HandleId, Overtaken> {
        if generation != self.promised {
            return Err(Overtaken { promised: self.promised });
        }
        let id = HandleId(self.next);
        self.next += 1;
        self.handles.push(Handle { id, generation, in_flight: 0, is_dead: false });
        Ok(id)
    }

    /// A claim: no handle of an older generation is served from here on. The promise is to be made
    /// durable, and what is in flight of the dead handles to end, before it is answered.
    pub fn claim(&mut self, generation: Generation) -> Result<Claimed, Overtaken> {
        if generation < self.promised {
            return Err(Overtaken { promised: self.promised });
        }
        self.promised = generation;
        for handle in &mut self.handles {
            handle.is_dead |= handle.generation < generation;
        }
        self.handles.retain(|handle| !handle.is_dead || handle.in_flight > 0);
        let dead: Vec<HandleId> =
            self.handles.iter().filter(|handle| handle.is_dead).map(|handle| handle.id).collect();
        Ok(if dead.is_empty() { Claimed::Drained } else { Claimed::Draining(dead) })
    }

    /// A command of a handle begins; an owner that was overtaken hears so. Reads and writes alike
    /// (rule 4).
    pub fn begin(&mut self, id: HandleId) -> Result<(), Overtaken> {
        let promised = self.promised;
        match self.handles.iter_mut().find(|handle| handle.id == id && !handle.is_dead) {
            Some(handle) => {
                handle.in_flight += 1;
                Ok(())
            }
            None => Err(Overtaken { promised }),
        }
    }

    /// A command of a handle has ended, well or not.
    pub fn end(&mut self, id: HandleId) {
        let handle = self.handles.iter_mut().find(|handle| handle.id == id);
        let handle = handle.expect("a handle stays as long as its commands");
        handle.in_flight = handle.in_flight.checked_sub(1).expect("a command ends once");
        self.handles.retain(|handle| !handle.is_dead || handle.in_flight > 0);
    }

    /// True when nothing of an older generation can touch a block any more: the claim may be
    /// answered.
    pub fn is_drained(&self) -> bool {
        self.handles.iter().all(|handle| !handle.is_dead)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn generation(counter: u64) -> Generation {
        Generation { counter, owner: Uuid::from_u128(u128::from(counter)) }
    }

    fn promise(counter: u64) -> Promise {
        Promise { generation: generation(counter), host: Uuid::nil() }
    }

    #[test]
    fn a_voter_promises_only_upwards_and_accepts_nothing_older() {
        let mut voter = VoterHalf::default();
        voter.promise(promise(2)).unwrap();
        let error = voter.promise(promise(1)).unwrap_err();
        assert_eq!(error, Overtaken { promised: generation(2) });
        voter.promise(promise(2)).unwrap();
        let mut old = VoterHalf { promised: promise(1), settled: true, ..VoterHalf::default() };
        assert!(voter.accept(&old).is_err() && !voter.settled);
        old.promised = promise(3);
        voter.accept(&old).unwrap();
        assert_eq!(voter.promised, promise(3));
    }

    #[test]
    fn an_emptied_record_takes_an_epoch_in_force_of_its_claimant_and_nothing_else() {
        let written = |counter, settled| VoterHalf {
            promised: promise(counter),
            ballot: Ballot { epoch: Epoch(4), generation: generation(counter) },
            settled,
            ..VoterHalf::default()
        };
        let mut record = VoterHalf::default();
        assert_eq!(record.accept_at_record(&written(2, true)), Err(NotTaken::Emptied));
        record.promise(promise(2)).unwrap();
        assert_eq!(record.accept_at_record(&written(2, false)), Err(NotTaken::Emptied));
        assert!(matches!(record.accept_at_record(&written(1, true)), Err(NotTaken::Overtaken(_))));
        record.accept_at_record(&written(2, true)).unwrap();
        record.accept_at_record(&written(2, false)).unwrap();
        assert_eq!(record.accept_at_record(&written(3, false)), Err(NotTaken::Emptied));
    }

    #[test]
    fn a_claim_kills_older_handles_and_waits_for_their_commands() {
        let mut gate = Gate::new(generation(1));
        let old = gate.open(generation(1)).unwrap();
        gate.begin(old).unwrap();
        gate.begin(old).unwrap();
        assert_eq!(gate.claim(generation(2)), Ok(Claimed::Draining(vec![old])));
        assert_eq!(gate.begin(old), Err(Overtaken { promised: generation(2) }));
        gate.end(old);
        assert!(!gate.is_drained());
        gate.end(old);
        assert!(gate.is_drained());
        assert!(gate.claim(generation(1)).is_err() && gate.open(generation(1)).is_err());
        let new = gate.open(generation(2)).unwrap();
        gate.begin(new).unwrap();
        assert_eq!(gate.claim(generation(2)), Ok(Claimed::Drained), "its own handles live on");
        gate.begin(new).unwrap();
    }
}
