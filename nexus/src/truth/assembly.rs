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
        let missing = self.roster.missing(electorate, voters);
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
