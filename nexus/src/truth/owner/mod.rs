//! One owner of a volume: claims it, assembles it, changes its members, keeps its marks.
//!
//! Plain data without I/O or clock. Whoever drives it (the home core, a simulator, a test) asks
//! for [`Owner::requests`], makes the I/O, and brings the answers to [`Owner::answered`]; both
//! may take any time, and what fails is told as [`Answer::Lost`].
//!
//! Labels are not commanded but reconciled: [`labels`] says what each label should be by the
//! rules, and a request is the difference from what was last written. At most one label write is
//! in flight a replica, so label writes of one owner never pass one another.

mod change;
mod labels;
mod marks;
mod rebuild;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assembly::{self, Plan, Refusal, Seen, Survey};
use super::label::{Configured, Label, Missing, Session, Shape};
use super::names::{Generation, Policy, Promise, VoterHalf};
use super::quorum::{Roster, TooMany, Voter, Voters};
use super::region_map::RegionMap;
use super::voter::Overtaken;
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
pub use change::Progress;
use change::{Change, InForce};
pub use rebuild::{Discard, NotRebuilt, Target};

/// Whether a replica's device is flushed before its label is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    /// It is: the label says that this copy may be trusted alone (rule 9).
    First,
    /// It need not be.
    No,
}

/// I/O that the owner wants made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Make a voter promise, wait until nothing of older owners (and of this owner's earlier
    /// sessions) can act there any more, and read it. Answer [`Answer::Seen`] or
    /// [`Answer::Record`].
    Claim {
        /// Whom.
        voter: Voter,
        /// What it is to promise.
        promise: Promise,
    },
    /// Write a label, if nothing newer was promised. Answer [`Answer::Written`].
    WriteLabel {
        /// Where.
        child: ChildIndex,
        /// What comes first.
        flush: Flush,
        /// What.
        label: Arc<Label>,
    },
    /// Change the record by compare-and-swap, if nothing newer was promised. Answer
    /// [`Answer::Written`].
    WriteRecord {
        /// What.
        half: Box<VoterHalf>,
    },
}

impl Request {
    /// Whom it is for.
    pub fn voter(&self) -> Voter {
        match self {
            Request::Claim { voter, .. } => *voter,
            Request::WriteLabel { child, .. } => Voter::Replica(*child),
            Request::WriteRecord { .. } => Voter::Record,
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A replica has promised.
    Seen(Box<Seen>),
    /// The record has promised, and says this.
    Record(Box<VoterHalf>),
    /// It is durable.
    Written,
    /// A newer owner was promised.
    Refused(Overtaken),
    /// No answer, or an error: whether it took effect is not known.
    Lost,
}

/// What is known of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Known {
    /// Its label: read, or written and answered.
    label: Arc<Label>,
    session: Session,
}

/// Where the owner stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Collecting promises.
    Claiming,
    /// It may decide.
    Ruling(Box<Reign>),
    /// A newer one exists: nothing is ever acknowledged again.
    Overtaken,
    /// It cannot tell any more who has the data: a new owner must assemble.
    Resigned,
    /// Closed properly.
    Closed,
}

/// What an owner keeps from assembly on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reign {
    /// Policy, lineage and history; its ballot and electorates are those of the epoch being
    /// written or in force.
    half: VoterHalf,
    shape: Shape,
    members: ChildSet,
    /// In sync: members that were not lost, and targets that are complete.
    good: ChildSet,
    /// While members change.
    change: Option<Change>,
    /// The last epoch in force; none before the first.
    in_force: Option<InForce>,
    /// A new owner may answer only when its predecessor's lease has run out (rule 5).
    must_wait: bool,
    /// Regions that members may differ in: every mark sent or read, and every region to be copied.
    dirty: RegionMap,
    /// What absent replicas lack; no entry: everything.
    missing: BTreeMap<ChildIndex, Missing>,
    /// Regions to be copied to a member before they may be used, by place (rule 23).
    to_copy: Vec<RegionMap>,
    /// From whom.
    source: ChildIndex,
    target: Option<Target>,
    /// Members get their clean flag.
    closing: bool,
    strangers: ChildSet,
    went_on: ChildSet,
}

/// Who there is, and what they have said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Registry {
    promise: Promise,
    roster: Roster,
    claimed: Voters,
    known: Vec<Option<Known>>,
}

impl Registry {
    fn label(&self, child: ChildIndex) -> Option<&Label> {
        self.known[child.get()].as_ref().map(|known| &*known.label)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    registry: Registry,
    phase: Phase,
    /// Not to be used until claimed anew.
    lost: ChildSet,
    record: Option<VoterHalf>,
    /// The record does not answer, and is not to be asked yet.
    is_record_lost: bool,
    /// Claims that were on their way when the record was found empty: they may be older than what
    /// it has forgotten, and are made again.
    outdated: ChildSet,
    /// What was requested and not answered, by place; the record is last.
    sent: Vec<Option<Request>>,
}

impl Owner {
    /// An owner that has claimed nobody. Its generation is higher than any it has heard of.
    pub fn new(promise: Promise, roster: Roster) -> Owner {
        let known = vec![None; CHILDREN_MAX];
        Owner {
            registry: Registry { promise, roster, claimed: Voters::default(), known },
            phase: Phase::Claiming,
            lost: ChildSet::EMPTY,
            record: None,
            is_record_lost: false,
            outdated: ChildSet::EMPTY,
            sent: vec![None; CHILDREN_MAX + 1],
        }
    }

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.registry.promise.generation
    }

    /// Places of replicas.
    pub fn roster(&self) -> &Roster {
        &self.registry.roster
    }

    /// Gives a replica a place, if it has none: one that was configured later.
    pub fn seat(&mut self, configured: &Configured) -> Result<ChildIndex, TooMany> {
        self.registry.roster.intern(configured)
    }

    /// How votes are counted; nothing before assembly.
    pub fn policy(&self) -> Option<Policy> {
        self.reign().map(|reign| reign.half.policy)
    }

    /// Length of the volume, its blocks and regions; nothing before assembly.
    pub fn shape(&self) -> Option<Shape> {
        self.reign().map(|reign| reign.shape)
    }

    /// Who has promised.
    pub fn claimed(&self) -> Voters {
        self.registry.claimed
    }

    /// True when a newer owner exists: all I/O fails from here on.
    pub fn is_overtaken(&self) -> bool {
        self.phase == Phase::Overtaken
    }

    /// A newer owner was met at a voter that was asked nothing.
    pub fn overtaken(&mut self) {
        self.phase = Phase::Overtaken;
    }

    /// True when it was closed properly, and every member says so.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// What is to be done and was not begun: in any order, at most one a voter.
    pub fn requests(&self) -> Vec<Request> {
        self.requests_to(|_| true)
    }

    /// The same of those voters that take a request now: to find out what a label should be is
    /// work, and vain where it cannot be written yet.
    pub fn requests_to(&self, takes: impl Fn(Voter) -> bool) -> Vec<Request> {
        if matches!(self.phase, Phase::Overtaken | Phase::Resigned | Phase::Closed) {
            return Vec::new();
        }
        let replicas = self.registry.roster.all().iter().map(Voter::Replica);
        let record = self.registry.roster.record().map(|_| Voter::Record);
        let is_idle = |voter: &Voter| self.sent[slot(*voter)].is_none() && takes(*voter);
        let idle = replicas.chain(record).filter(is_idle);
        idle.filter_map(|voter| self.request(voter)).collect()
    }

    fn request(&self, voter: Voter) -> Option<Request> {
        let claim = Request::Claim { voter, promise: self.registry.promise };
        match voter {
            Voter::Replica(child) if self.lost.contains(child) => None,
            Voter::Replica(child) if !self.registry.claimed.contains(voter) => {
                self.may_claim(child).then_some(claim)
            }
            Voter::Replica(child) => self.label_request(child),
            Voter::Record if self.is_record_lost => None,
            Voter::Record if !self.registry.claimed.record => {
                (self.policy() != Some(Policy::Solo)).then_some(claim)
            }
            Voter::Record => {
                let half = self.desired_record()?;
                Some(Request::WriteRecord { half: Box::new(half) })
            }
        }
    }

    /// A replica that is no member is claimed when it is to be rebuilt.
    fn may_claim(&self, child: ChildIndex) -> bool {
        match &self.phase {
            Phase::Claiming => true,
            Phase::Ruling(reign) => {
                reign.change.is_some() || reign.members.contains(child) || reign.is_target(child)
            }
            Phase::Overtaken | Phase::Resigned | Phase::Closed => false,
        }
    }

    /// A request was begun.
    pub fn sent(&mut self, request: Request) {
        let place = &mut self.sent[slot(request.voter())];
        assert!(place.is_none(), "one request a voter");
        *place = Some(request);
    }

    /// A request has ended.
    pub fn answered(&mut self, voter: Voter, answer: Answer) {
        let Some(request) = self.sent[slot(voter)].take() else { return };
        match (answer, voter) {
            (Answer::Refused(_), _) => self.phase = Phase::Overtaken,
            (Answer::Lost, Voter::Replica(child)) => self.child_lost(child),
            (Answer::Lost, Voter::Record) => self.is_record_lost = true,
            (Answer::Seen(_), Voter::Replica(child)) if self.outdated.contains(child) => {
                self.outdated = self.outdated.without(child);
            }
            (Answer::Seen(seen), Voter::Replica(child)) => self.take_seen(child, *seen),
            (Answer::Record(half), _) => self.take_record(*half),
            (Answer::Written, _) => self.take_written(request),
            (Answer::Seen(_), Voter::Record) => unreachable!("the record has no label"),
        }
        self.advance();
    }

    fn take_seen(&mut self, child: ChildIndex, seen: Seen) {
        self.registry.claimed.insert(Voter::Replica(child));
        if let Phase::Ruling(reign) = &mut self.phase {
            // A member that was away has lost what was in flight; it votes, and is rebuilt.
            let alone = ChildSet::only(child);
            let is_alone = |epoch: &InForce| reign.change.is_none() && epoch.members == alone;
            let is_alone = reign.in_force.as_ref().is_some_and(is_alone);
            if !seen.label.is_suspect(seen.session) || is_alone {
                // Alone in force there is nothing better, whatever it has lost.
            } else if reign.good == alone {
                // The last one that was waited for has lost its cache, before it was alone: one
                // that was given up may be better. Only an assembly can tell (rule 25).
                self.phase = Phase::Resigned;
                return;
            } else {
                reign.good = reign.good.without(child);
            }
        }
        let label = Arc::new(seen.label);
        self.registry.known[child.get()] = Some(Known { label, session: seen.session });
        self.begin_target(child);
    }

    /// The record has promised. An empty one may have forgotten whom else: what replicas promise
    /// counts only from now on, so that an owner who went on with the record's vote has either
    /// claimed one of them before, or never will.
    fn take_record(&mut self, half: VoterHalf) {
        if half.is_empty() && self.phase == Phase::Claiming {
            self.registry.claimed.replicas = ChildSet::EMPTY;
            let is_sent = |child: &ChildIndex| self.sent[child.get()].is_some();
            self.outdated = self.registry.roster.all().iter().filter(is_sent).collect();
        }
        // Found empty by an owner that rules already: nothing is known of who was promised.
        self.is_record_lost = half.is_empty() && self.phase != Phase::Claiming;
        self.record = Some(half);
        self.registry.claimed.record = !self.is_record_lost;
    }

    fn take_written(&mut self, request: Request) {
        match request {
            Request::WriteLabel { child, label, .. } => {
                let known = self.registry.known[child.get()].as_mut();
                known.expect("only claimed replicas are written").label = label;
                self.target_written(child);
            }
            Request::WriteRecord { half } => {
                self.record = Some(*half);
                self.registry.claimed.record = true;
            }
            Request::Claim { .. } => unreachable!("a claim is answered with what was seen"),
        }
    }

    /// A child does not answer, or an I/O to it has failed. It takes part again when it was
    /// claimed anew after [`Owner::child_back`]. What is in flight there is drained before, and
    /// its late answers are not brought any more.
    pub fn child_lost(&mut self, child: ChildIndex) {
        self.lost = self.lost.with(child);
        self.outdated = self.outdated.without(child);
        self.registry.claimed.remove(Voter::Replica(child));
        self.sent[child.get()] = None;
        if let Phase::Ruling(reign) = &mut self.phase {
            if reign.is_target(child) {
                reign.target = None;
                reign.good = reign.good.without(child);
            }
            // The last copy there is, is waited for.
            if reign.good != ChildSet::only(child) {
                reign.good = reign.good.without(child);
            }
        }
        self.advance();
    }

    /// A lost child may be asked again.
    pub fn child_back(&mut self, child: ChildIndex) {
        self.lost = self.lost.without(child);
    }

    /// The record may be asked again.
    pub fn record_back(&mut self) {
        self.is_record_lost = false;
    }

    /// Whether the record did not answer and is not to be asked yet.
    pub fn is_record_lost(&self) -> bool {
        self.is_record_lost
    }

    /// Decides with the promises there are. May be tried after every answer; a driver waits some
    /// time for all children, to have as many members as it can.
    pub fn open(&mut self) -> Result<(), Refusal> {
        assert_eq!(self.phase, Phase::Claiming, "a volume is opened once");
        let plan = self.survey(assembly::assemble)??;
        self.rule(plan);
        Ok(())
    }

    /// Opens from one replica, whatever others hold (rule 32), as [`assembly::force`] has found.
    pub fn open_forced(&mut self, forced: assembly::Forced) {
        assert_eq!(self.phase, Phase::Claiming, "a volume is opened once");
        self.rule(forced.plan);
    }

    /// Looks at what has answered. Replicas that labels name get places.
    pub fn survey<T>(&mut self, look: impl FnOnce(Survey<'_>) -> T) -> Result<T, Refusal> {
        let halves = self.registry.known.iter().flatten().map(|known| &known.label.voter);
        let named: Vec<VoterHalf> = halves.chain(&self.record).cloned().collect();
        for half in &named {
            let interned = self.registry.roster.intern_all(&half.current);
            let interned = interned.and_then(|()| self.registry.roster.intern_all(&half.previous));
            interned.map_err(|TooMany| Refusal::NoLabels)?;
        }
        let seen: Vec<Option<Seen>> = ChildIndex::all()
            .zip(&self.registry.known)
            .map(|(child, known)| {
                let known =
                    known.as_ref().filter(|_| self.registry.claimed.replicas.contains(child))?;
                Some(Seen { label: Label::clone(&known.label), session: known.session })
            })
            .collect();
        let record = self.record.as_ref().filter(|_| self.registry.claimed.record);
        Ok(look(Survey { roster: &self.registry.roster, seen: &seen, record }))
    }

    fn rule(&mut self, plan: Plan) {
        self.phase = Phase::Ruling(Box::new(Reign::new(&self.registry, plan)));
        self.advance();
    }

    fn reign(&self) -> Option<&Reign> {
        match &self.phase {
            Phase::Ruling(reign) => Some(reign),
            Phase::Claiming | Phase::Overtaken | Phase::Resigned | Phase::Closed => None,
        }
    }

    fn reign_mut(&mut self) -> Option<&mut Reign> {
        match &mut self.phase {
            Phase::Ruling(reign) => Some(reign),
            Phase::Claiming | Phase::Overtaken | Phase::Resigned | Phase::Closed => None,
        }
    }

    fn label(&self, child: ChildIndex) -> Option<&Label> {
        self.registry.label(child)
    }

    /// The members, as last found or written; empty before assembly.
    pub fn members(&self) -> ChildSet {
        self.reign().map_or(ChildSet::EMPTY, |reign| reign.members)
    }

    /// Begins to close: no host I/O any more, nothing in flight, no mark left, everything flushed
    /// (rule 15). False when that is not so.
    pub fn close(&mut self) -> bool {
        let Some(reign) = self.reign_mut() else { return false };
        let is_still = reign.change.is_none()
            && reign.target.is_none()
            && reign.dirty.is_empty()
            && reign.in_force.is_some();
        reign.closing |= is_still;
        self.advance();
        is_still
    }
}

fn slot(voter: Voter) -> usize {
    match voter {
        Voter::Replica(child) => child.get(),
        Voter::Record => CHILDREN_MAX,
    }
}
