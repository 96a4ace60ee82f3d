//! From the labels found to a decision: who is in sync, which epoch is to be finished or begun,
//! or what is missing.
//!
//! A pure function over what voters have answered that promised this owner's generation. Called
//! by [`super::owner::Owner`] on the home core (rules 2, 3, 14 to 17, 25 and 32).

use super::label::{DataState, Label, Session};
use super::names::{Electorate, Epoch, Fork, ForkCause, Lineage, Policy, VoterHalf};
use super::planted::{self, Bug};
use super::quorum::{Roster, Voter, Voters};
use crate::child::{ChildIndex, ChildSet};

/// A replica's answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its label, with the promise.
    pub label: Label,
    /// The run of its device now.
    pub session: Session,
}

impl Seen {
    fn is_suspect(&self) -> bool {
        self.label.is_suspect(self.session)
    }
}

/// All that is known: only from voters that have promised this owner's generation.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// Who has which place; all members that a label names have one.
    pub roster: &'a Roster,
    /// Answers of replicas, by place.
    pub seen: &'a [Option<Seen>],
    /// The record's answer.
    pub record: Option<&'a VoterHalf>,
}

/// What the owner is to do with the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is in force with all of its members here: only the labels are opened.
    Keep,
    /// Nobody knows whether it was in force: write it again, under this owner's generation, before
    /// anything else (rule 3).
    Finish,
    /// Begin another one, without those that are not here or not in sync.
    Leave,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// The newest voter half found: policy, lineage, history, and for [`Step::Keep`] the epoch.
    pub newest: VoterHalf,
    /// The epoch to write.
    pub epoch: Epoch,
    /// Its members.
    pub members: ChildSet,
    /// Who votes on it.
    pub previous: Electorate,
    /// In sync, and here.
    pub in_sync: ChildSet,
    /// Copies of another history: full rebuild.
    pub strangers: ChildSet,
    /// Of those, copies that went on after the fork: only by `--discard`.
    pub went_on: ChildSet,
}

/// Why the volume is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No replica with a label has answered.
    #[error("no replica of the volume has answered")]
    NoLabels,
    /// Nobody can tell whether others went on.
    #[error(
        "epoch {epoch} needs {need} votes of those who could have gone on without the rest, \
         and has {have}: {} must answer, or --force",
        list(missing)
    )]
    NoQuorum {
        /// The newest epoch found.
        epoch: u64,
        /// Votes there are.
        have: usize,
        /// Votes that are needed.
        need: usize,
        /// Voters that have not answered.
        missing: Vec<String>,
    },
    /// The newest epoch is known, but nobody who is here has its data.
    #[error(
        "no replica that is here is in sync with epoch {epoch}: {} must answer, or --force",
        list(missing)
    )]
    NobodyInSync {
        /// The newest epoch found.
        epoch: u64,
        /// Its members that have not answered or hold no good copy.
        missing: Vec<String>,
    },
    /// Two histories, none of which began in the other.
    #[error("{} hold histories that have parted: choose one with --force", list(replicas))]
    TwoLineages {
        /// Who.
        replicas: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

/// The labels of one history.
struct History {
    voters: Voters,
    strangers: ChildSet,
    went_on: ChildSet,
}

impl<'a> Survey<'a> {
    fn replicas(&self) -> impl Iterator<Item = (ChildIndex, &'a Seen)> {
        let seen: &'a [Option<Seen>] = self.seen;
        ChildIndex::all().zip(seen).filter_map(|(child, seen)| Some((child, seen.as_ref()?)))
    }

    fn halves(&self) -> impl Iterator<Item = (Voter, &'a VoterHalf)> {
        let replicas =
            self.replicas().map(|(child, seen)| (Voter::Replica(child), &seen.label.voter));
        let record = self.record.map(|half| (Voter::Record, half));
        replicas.chain(record)
    }

    /// Those that belong to the history that all others began in.
    fn history(&self) -> Result<History, Refusal> {
        let real = || self.halves().filter(|(_, half)| half.ballot.epoch > Epoch(0));
        let descends = |half: &VoterHalf, from: Lineage| {
            half.lineage == from || half.history.iter().any(|fork| fork.lineage == from)
        };
        let youngest = real().map(|(_, half)| half);
        let mut youngest =
            youngest.filter(|half| real().all(|(_, other)| descends(half, other.lineage)));
        let Some(youngest) = youngest.next() else {
            let replicas = real().map(|(voter, _)| self.roster.name(voter)).collect();
            return Err(Refusal::TwoLineages { replicas });
        };
        let fork = youngest.history.iter().rfind(|fork| fork.lineage == youngest.lineage);
        let first = fork.map_or(Epoch(0), |fork| fork.epoch);
        let (mut voters, mut strangers) = (Voters::default(), ChildSet::EMPTY);
        let mut went_on = ChildSet::EMPTY;
        for (voter, half) in self.halves() {
            match voter {
                // Never written, or emptied since: it may have voted for what it has forgotten.
                Voter::Record if self.is_record_empty() && !planted::is(Bug::EmptyRecordVotes) => {}
                _ if half.lineage == youngest.lineage || half.ballot.epoch == Epoch(0) => {
                    voters.insert(voter);
                }
                Voter::Replica(child) => {
                    strangers = strangers.with(child);
                    if half.ballot.epoch >= first {
                        went_on = went_on.with(child);
                    }
                }
                Voter::Record => {}
            }
        }
        Ok(History { voters, strangers, went_on })
    }

    /// The record answers, and says nothing.
    fn is_record_empty(&self) -> bool {
        self.record.is_some_and(VoterHalf::is_empty)
    }

    fn label(&self, child: ChildIndex) -> &Label {
        &self.seen[child.get()].as_ref().expect("only who was seen is asked").label
    }

    /// Members in sync with the newest epoch that are here (rule 17), without suspects (25).
    fn in_sync(&self, newest: &VoterHalf, settled: bool, voters: Voters) -> ChildSet {
        let members = self.roster.set_of(&newest.current.members);
        let mut good = ChildSet::EMPTY;
        for child in members.intersection(voters.replicas) {
            let label = self.label(child);
            if label.state != DataState::Member {
                continue;
            }
            let half = &label.voter;
            let has_it = half.ballot.epoch == newest.ballot.epoch
                && half.current.members == newest.current.members;
            // Behind, yet named by the newest epoch, and no target: it was never left out, as it
            // would have become a target first. So nothing after its epoch was ever in force.
            let is_behind = half.ballot.epoch < newest.ballot.epoch
                && !settled
                && half.current.members.contains(label.replica);
            if has_it || is_behind {
                good = good.with(child);
            }
        }
        let suspects = self.replicas().filter(|(_, seen)| seen.is_suspect());
        let fine = suspects.fold(good, |fine, (child, _)| fine.without(child));
        match () {
            () if planted::is(Bug::AnySource) => good,
            () if !fine.is_empty() => fine,
            // They are the best there is only if everybody is here.
            () if voters.replicas.contains_all(members) => good,
            () => ChildSet::EMPTY,
        }
    }

    fn refuse(&self, newest: &VoterHalf, electorate: &Electorate, voters: Voters) -> Refusal {
        let (have, need) = match newest.policy {
            Policy::Solo => {
                let members = self.roster.set_of(&electorate.members);
                let here = members.intersection(voters.replicas);
                (here.len() as usize, electorate.members.len())
            }
            Policy::Majority | Policy::Record => self.roster.votes(electorate, voters),
        };
        let mut missing = self.roster.missing(electorate, voters);
        if let (true, Some(last)) = (self.is_record_empty() && !voters.record, missing.last_mut())
            && *last == self.roster.name(Voter::Record)
        {
            last.push_str(", which is empty,");
        }
        Refusal::NoQuorum { epoch: newest.ballot.epoch.0, have, need, missing }
    }
}

/// Decides, or says what is missing.
pub fn assemble(survey: Survey<'_>) -> Result<Plan, Refusal> {
    let History { voters, strangers, went_on } = survey.history_or_nothing()?;
    let halves = survey.halves().filter(|(voter, _)| voters.contains(*voter));
    let halves: Vec<(Voter, &VoterHalf)> =
        halves.filter(|(_, half)| half.ballot.epoch > Epoch(0)).collect();
    let newest = halves.iter().map(|(_, half)| *half).max_by_key(|half| half.rank());
    let newest = newest.ok_or(Refusal::NoLabels)?;
    let settled = halves.iter().any(|(_, half)| {
        half.ballot.epoch == newest.ballot.epoch
            && half.current.members == newest.current.members
            && half.settled
    });
    let roster = survey.roster;
    let lax = is_lax(&survey, newest, voters);
    if !lax && !roster.may_trust(newest.policy, &newest.current, voters) {
        return Err(survey.refuse(newest, &newest.current, voters));
    }
    let alone = planted::is(Bug::SelfSetEnough) && names_itself(&survey, newest, voters);
    let ask_previous = !settled && !lax && !alone && !planted::is(Bug::NoPreviousQuorum);
    if ask_previous && !roster.may_trust(newest.policy, &newest.previous, voters) {
        return Err(survey.refuse(newest, &newest.previous, voters));
    }
    let members = roster.set_of(&newest.current.members);
    let in_sync = survey.in_sync(newest, settled, voters);
    if in_sync.is_empty() {
        let missing = members.iter().map(|child| roster.name(Voter::Replica(child))).collect();
        return Err(Refusal::NobodyInSync { epoch: newest.ballot.epoch.0, missing });
    }
    let as_if_settled = planted::is(Bug::NoPreviousQuorum) || planted::is(Bug::SelfSetEnough);
    let step = match () {
        () if !settled && !as_if_settled => Step::Finish,
        () if in_sync == members => Step::Keep,
        () => Step::Leave,
    };
    let (epoch, members, previous) = match step {
        Step::Keep | Step::Finish => (newest.ballot.epoch, members, newest.previous.clone()),
        Step::Leave => (newest.ballot.epoch.next(), in_sync, newest.current.clone()),
    };
    let newest = newest.clone();
    Ok(Plan { step, newest, epoch, members, previous, in_sync, strangers, went_on })
}

impl Survey<'_> {
    fn history_or_nothing(&self) -> Result<History, Refusal> {
        let has_label = self.replicas().any(|(_, seen)| seen.label.voter.ballot.epoch > Epoch(0));
        if has_label { self.history() } else { Err(Refusal::NoLabels) }
    }
}

/// Planted: one replica is enough.
fn is_lax(survey: &Survey<'_>, _newest: &VoterHalf, voters: Voters) -> bool {
    let is_clean = || voters.replicas.iter().any(|child| survey.label(child).clean);
    planted::is(Bug::LoneClaim) || planted::is(Bug::CleanIsCurrent) && is_clean()
}

fn names_itself(survey: &Survey<'_>, newest: &VoterHalf, voters: Voters) -> bool {
    voters.replicas.iter().any(|child| {
        let label = survey.label(child);
        label.voter.ballot.epoch == newest.ballot.epoch
            && label.voter.current.members.as_slice() == [label.replica]
    })
}

/// Why a replica cannot be chosen by force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForceError {
    /// It has not answered.
    #[error("{name} has not answered")]
    NotHere {
        /// Which.
        name: String,
    },
    /// Its blocks are a mixture, or were given up.
    #[error("{name} is being rebuilt or was removed: its blocks are no copy of the volume")]
    NoCopy {
        /// Which.
        name: String,
    },
}

/// What a forced opening gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// The decision.
    pub plan: Plan,
    /// Every replica and epoch that is discarded, in words.
    pub discards: Vec<String>,
    /// An epoch that excludes the chosen replica is known: acknowledged writes are lost for
    /// certain, so ask once more.
    pub is_excluded: bool,
}

/// Opens the volume from one replica, whatever others may hold (rule 32): a new lineage, in an
/// epoch after the highest one seen.
pub fn force(
    survey: Survey<'_>,
    chosen: ChildIndex,
    lineage: Lineage,
) -> Result<Forced, ForceError> {
    let name = survey.roster.name(Voter::Replica(chosen));
    let seen = survey.seen.get(chosen.get()).and_then(Option::as_ref);
    let Some(seen) = seen else { return Err(ForceError::NotHere { name }) };
    if seen.label.state != DataState::Member {
        return Err(ForceError::NoCopy { name });
    }
    let highest = survey.halves().map(|(_, half)| half.ballot.epoch).max();
    let epoch = highest.unwrap_or_default().next();
    let mut newest = seen.label.voter.clone();
    newest.fork(Fork { lineage, epoch, cause: ForkCause::Forced });
    let others = || survey.halves().filter(|(voter, _)| *voter != Voter::Replica(chosen));
    let discards = others().map(|(voter, half)| {
        format!("{} with epoch {}", survey.roster.name(voter), half.ballot.epoch.0)
    });
    let is_excluded = others().any(|(_, half)| {
        half.ballot > seen.label.voter.ballot && !half.current.members.contains(seen.label.replica)
    });
    let members = ChildSet::only(chosen);
    let previous = survey.roster.electorate(members, newest.policy);
    let previous = Electorate { record: None, ..previous };
    let strangers = survey.replicas().map(|(child, _)| child);
    let strangers = strangers.fold(ChildSet::EMPTY, ChildSet::with).without(chosen);
    let plan = Plan {
        step: Step::Leave,
        newest,
        epoch,
        members,
        previous,
        in_sync: members,
        strangers,
        went_on: strangers,
    };
    Ok(Forced { plan, discards: discards.collect(), is_excluded })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::truth::label::{Cache, InSync, Shape};
    use crate::truth::names::{Ballot, Generation, NexusId};
    use crate::truth::quorum::tests::roster;

    fn lineage(number: u128) -> Lineage {
        Lineage(Uuid::from_u128(number))
    }

    fn half(roster: &Roster, epoch: u64, members: ChildSet) -> VoterHalf {
        let electorate = roster.electorate(members, Policy::Majority);
        let mut half = VoterHalf {
            ballot: Ballot { epoch: Epoch(epoch), generation: Generation::default() },
            current: electorate.clone(),
            previous: electorate,
            settled: true,
            ..VoterHalf::default()
        };
        let (lineage, epoch) = (lineage(1), Epoch(1));
        half.fork(Fork { lineage, epoch, cause: ForkCause::Created });
        half
    }

    fn seen(roster: &Roster, place: ChildIndex, half: VoterHalf) -> Option<Seen> {
        let session = Session { boot: Uuid::from_u128(1), cache: Cache::Volatile };
        let shape = Shape::new(1 << 20, 512).unwrap();
        let nexus = NexusId(Uuid::from_u128(8));
        let mut label = Label::blank(roster.replica(place), nexus, shape, session);
        label.in_sync = InSync { lineage: half.lineage, epoch: half.ballot.epoch };
        (label.voter, label.state) = (half, DataState::Member);
        Some(Seen { label, session })
    }

    fn pair() -> (Roster, ChildIndex, ChildIndex) {
        (roster(2, true), ChildIndex::new(0).unwrap(), ChildIndex::new(1).unwrap())
    }

    #[test]
    fn a_replica_that_was_left_behind_does_not_open_the_volume_and_says_who_is_missing() {
        let (roster, zero, _) = pair();
        let seen = [seen(&roster, zero, half(&roster, 1, roster.all())), None];
        let survey = Survey { roster: &roster, seen: &seen, record: None };
        let words = assemble(survey).unwrap_err().to_string();
        assert!(words.contains("needs 2 votes") && words.contains("and has 1"), "{words}");
        assert!(words.contains("000000000002, the record must answer, or --force"), "{words}");
        let none = Survey { roster: &roster, seen: &[None, None], record: None };
        assert_eq!(assemble(none), Err(Refusal::NoLabels));
    }

    #[test]
    fn the_record_tells_a_replica_that_others_went_on_without_it() {
        let (roster, zero, one) = pair();
        let seen = [seen(&roster, zero, half(&roster, 1, roster.all())), None];
        let record = half(&roster, 2, ChildSet::only(one));
        let survey = Survey { roster: &roster, seen: &seen, record: Some(&record) };
        let refusal = assemble(survey).unwrap_err();
        assert!(matches!(refusal, Refusal::NoQuorum { epoch: 2, .. }), "{refusal}");
    }

    #[test]
    fn a_record_that_was_lost_is_no_vote_that_nothing_happened() {
        let (roster, zero, one) = pair();
        let stale = seen(&roster, zero, half(&roster, 1, roster.all()));
        // It had voted for an epoch of the other one alone, and was emptied since.
        let empty = VoterHalf::default();
        let alone = [stale.clone(), None];
        let survey = Survey { roster: &roster, seen: &alone, record: Some(&empty) };
        let words = assemble(survey).unwrap_err().to_string();
        assert!(words.contains("and has 1") && words.contains("the record, which is empty"));
        // Those who went on know better, and all members need no record.
        let both = [stale, seen(&roster, one, half(&roster, 2, ChildSet::only(one)))];
        let survey = Survey { roster: &roster, seen: &both, record: Some(&empty) };
        assert_eq!(assemble(survey).unwrap().in_sync, ChildSet::only(one));
    }

    #[test]
    fn force_begins_a_lineage_after_all_epochs_seen_and_lists_what_it_gives_up() {
        let (roster, zero, one) = pair();
        let old = seen(&roster, zero, half(&roster, 1, roster.all()));
        let new = seen(&roster, one, half(&roster, 4, ChildSet::only(one)));
        let seen = [old, new];
        let survey = Survey { roster: &roster, seen: &seen, record: None };
        let forced = force(survey, zero, lineage(2)).unwrap();
        assert_eq!((forced.plan.epoch, forced.plan.members), (Epoch(5), ChildSet::only(zero)));
        assert!(forced.is_excluded && forced.discards[0].ends_with("with epoch 4"));
        let fork = forced.plan.newest.history.last().copied();
        assert_eq!(fork.map(|fork| fork.cause), Some(ForkCause::Forced));
        let none = Survey { seen: &[None, None], ..survey };
        assert!(matches!(force(none, zero, lineage(2)), Err(ForceError::NotHere { .. })));
    }

    #[test]
    fn a_copy_of_the_history_before_a_force_is_a_stranger_and_parted_ones_are_refused() {
        let (roster, zero, one) = pair();
        let forked = |number: u128, from: u64, epoch: u64, place| {
            let mut half = half(&roster, epoch, ChildSet::only(place));
            let (lineage, epoch) = (lineage(number), Epoch(from));
            half.fork(Fork { lineage, epoch, cause: ForkCause::Forced });
            half
        };
        let went_on = |epoch| {
            let chosen = seen(&roster, zero, forked(2, 5, 5, zero));
            let seen = [chosen, seen(&roster, one, half(&roster, epoch, ChildSet::only(one)))];
            assemble(Survey { roster: &roster, seen: &seen, record: None }).unwrap()
        };
        assert_eq!(went_on(4).strangers, ChildSet::only(one));
        assert_eq!(went_on(4).went_on, ChildSet::EMPTY);
        assert_eq!(went_on(9).went_on, ChildSet::only(one));
        assert_eq!(went_on(9).in_sync, ChildSet::only(zero));
        let parted =
            [seen(&roster, zero, forked(2, 5, 5, zero)), seen(&roster, one, forked(3, 5, 6, one))];
        let survey = Survey { roster: &roster, seen: &parted, record: None };
        assert!(matches!(assemble(survey), Err(Refusal::TwoLineages { .. })));
    }
}
