//! From children with labels to an owner in force: learning, claiming, assembling (rules 1 to 7).

use reactor::{Cx, Nanos};

use super::clerk::Clerk;
use super::desk::{Desk, Fence};
use super::{LeftOut, Opening, Phase, RecordSource, Sight, Tracked, random_uuid};
use crate::child::{ChildIndex, ChildSet, FaultReason};
use crate::truth::assembly::force;
use crate::truth::label::store::LabelError;
use crate::truth::label::{Configured, HINT_BYTES_MAX, Label};
use crate::truth::lease::may_serve_at_us;
use crate::truth::names::{Generation, Lineage, Promise, RecordId, VoterHalf};
use crate::truth::owner::{Owner, Progress};
use crate::truth::quorum::{Roster, Voter};
use crate::truth::record::{Record, VouchedRecord};
use crate::truth::{Assembly, ControlIo, TruthEvent};

/// How long labels are waited for before the volume is claimed without those that do not answer.
pub const LEARN_WAIT: Nanos = Nanos::from_secs(2);

/// How often a nexus that has not decided anything yet claims again, having met a newer owner.
pub const DUELS_MAX: u32 = 3;

impl Tracked {
    /// Begins anew, knowing nothing.
    pub(super) fn begin_learning(&mut self, cx: &mut Cx) {
        self.phase = Phase::Learning { since: cx.now() };
        self.is_stale = true;
        self.owner = None;
        self.change = None;
        (self.members, self.is_frozen) = (ChildSet::EMPTY, false);
        self.is_owner_frozen = false;
        self.marking.clear();
        self.clearing = Default::default();
        self.copies = Default::default();
        for child in self.present() {
            self.seats.leave(child);
            self.sights[child.get()] = Sight::Unknown;
            self.forget_claim(child);
            self.desk(child).retry_at = Some(cx.now());
        }
    }

    /// A newer owner was met before this one could decide anything: once more, above it.
    pub(super) fn duel(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, counter: u64) {
        self.heard = self.heard.max(counter);
        self.duels += 1;
        for child in self.present() {
            self.desk(child).give_up(cx, io);
        }
        if self.duels > DUELS_MAX {
            self.phase = Phase::Over;
            return self.say(TruthEvent::Overtaken);
        }
        self.begin_learning(cx);
        let pause = Nanos::from_millis(cx.random.below(500));
        for child in self.present() {
            self.desk(child).retry_at = Some(cx.now() + pause);
        }
    }

    /// A label was read, or is none.
    pub(super) fn learned(
        &mut self,
        cx: &mut Cx,
        child: ChildIndex,
        learned: Result<Box<Label>, LabelError>,
    ) {
        self.desk(child).retry_at = None;
        let (blocks, block_bytes) = (self.desk(child).blocks, self.desk(child).block_bytes());
        let sight = match learned {
            Ok(label) => match label.check(self.config.nexus, blocks, block_bytes) {
                Ok(()) => Sight::Ours(label),
                Err(misfit) => Sight::Misfit(misfit.to_string()),
            },
            Err(LabelError::Absent) => Sight::Blank,
            Err(error) => Sight::Misfit(error.to_string()),
        };
        self.sights[child.get()] = sight;
        if self.copies.targeting(child) {
            return self.target_learned(cx, child);
        }
        if !matches!(self.phase, Phase::Learning { .. }) {
            self.take_seat(child);
        }
    }

    fn configured(&self, child: ChildIndex) -> Option<Configured> {
        let Sight::Ours(label) = &self.sights[child.get()] else { return None };
        let name = &self.desks[child.get()].as_ref()?.name;
        Some(Configured { replica: label.replica, hint: hint(name) })
    }

    /// A child that answers late, or again, takes part.
    pub(super) fn take_seat(&mut self, child: ChildIndex) {
        let Some(configured) = self.configured(child) else { return };
        let Some(owner) = &mut self.owner else { return };
        let Ok(place) = owner.seat(&configured) else { return };
        if self.seats.child(place).is_some_and(|other| other != child) {
            let words = format!("another child is replica {} too", configured.replica.0);
            self.sights[child.get()] = Sight::Misfit(words);
            return;
        }
        self.seats.take(child, place);
        owner.child_back(place);
        self.is_stale = true;
    }

    /// Asks again those that did not answer, where they are waited for.
    fn ask_again(&mut self, cx: &mut Cx) {
        let now = cx.now();
        for child in self.present() {
            let is_waited_for = match self.phase {
                Phase::Learning { .. } | Phase::Claiming => true,
                Phase::Ruling { .. } | Phase::Serving => self.is_asked(child),
                Phase::Resigned | Phase::Releasing | Phase::Over => false,
            };
            let desk = self.desk(child);
            let is_time = desk.retry_at.is_some_and(|at| at <= now) && desk.is_free();
            if is_waited_for && is_time {
                desk.retry_at = None;
                desk.name_run(|| random_uuid(cx));
                desk.learn(now);
            }
        }
    }

    /// A child that is looked at beside the service: the owner waits for it, or it was put in late
    /// and nobody knows yet who it is.
    pub(super) fn is_asked(&self, child: ChildIndex) -> bool {
        let is_new = matches!(self.sights[child.get()], Sight::Unknown)
            && self.seats.place(child).is_none()
            && !self.copies.targeting(child);
        is_new || self.owner_waits_for(child)
    }

    /// A member that was lost while the owner cannot do without it.
    pub(super) fn owner_waits_for(&self, child: ChildIndex) -> bool {
        let (Some(owner), Some(place)) = (&self.owner, self.seats.place(child)) else {
            return false;
        };
        owner.is_lost(place) && (owner.is_changing() || owner.members().contains(place))
    }

    /// Goes on towards an epoch in force.
    pub(super) fn open_up(&mut self, cx: &mut Cx) {
        self.ask_again(cx);
        match self.phase {
            Phase::Learning { since } => {
                let is_known =
                    |child: &ChildIndex| !matches!(self.sights[child.get()], Sight::Unknown);
                let labels = self.present().filter(|child| self.configured(*child).is_some());
                let has_label = labels.count() > 0;
                let all_known = self.present().all(|child| is_known(&child));
                let is_time = all_known || cx.now().since(since) >= LEARN_WAIT;
                match has_label {
                    true if is_time => self.begin_claim(cx),
                    false if is_time => self.refuse("no child has a label of the volume"),
                    _ => {}
                }
            }
            Phase::Claiming if self.is_stale => self.try_to_open(cx),
            Phase::Ruling { serve_at } => self.try_to_serve(cx, serve_at),
            _ => {}
        }
    }

    fn begin_claim(&mut self, cx: &mut Cx) {
        self.phase = Phase::Claiming;
        self.is_stale = true;
        let labels: Vec<&Label> = self.sights.iter().filter_map(Sight::label).collect();
        let newest = labels.iter().max_by_key(|label| label.voter.ballot);
        let newest = (*newest.expect("a label was read")).clone();
        let promised = labels.iter().map(|label| label.voter.promised.generation.counter).max();
        self.heard = self.heard.max(promised.unwrap_or(0));
        let members: Vec<&&Label> = labels
            .iter()
            .filter(|label| newest.voter.current.members.contains(label.replica))
            .collect();
        self.was_clean = members.len() == newest.voter.current.members.len()
            && members.into_iter().all(|label| label.clean);
        let record = newest.voter.current.record.map(|record| record.id);
        self.meet_record(cx, record, &newest.voter);
        let mut roster = Roster::new(Vec::new(), self.clerk.as_ref().map(|clerk| clerk.id));
        for child in self.present() {
            let Some(configured) = self.configured(child) else { continue };
            let is_new = roster.place(configured.replica).is_none();
            let Some(place) = roster.intern(&configured).ok().filter(|_| is_new) else {
                let words = format!("another child is replica {} too", configured.replica.0);
                self.sights[child.get()] = Sight::Misfit(words);
                continue;
            };
            self.seats.take(child, place);
        }
        for absent in newest.configured.iter() {
            // Those that find no place are named when they are needed.
            let _ = roster.intern(absent);
        }
        let owner_id = random_uuid(cx);
        let counter = self.heard.checked_add(1).expect("2^64 owners there never are");
        let generation = Generation { counter, owner: owner_id };
        let mut owner = Owner::new(Promise { generation, host: self.config.host }, roster);
        for place in owner.roster().all() {
            if self.seats.child(place).is_none() {
                owner.child_lost(place);
            }
        }
        self.owner = Some(owner);
    }

    fn meet_record(&mut self, cx: &mut Cx, named: Option<RecordId>, newest: &VoterHalf) {
        let source = std::mem::take(&mut self.config.record);
        let record: Option<Box<dyn Record + Send>> = match (source, named) {
            (RecordSource::Given(record), _) => Some(record),
            (RecordSource::Vouched, Some(id)) => {
                Some(Box::new(VouchedRecord::new(id, newest.clone())))
            }
            (RecordSource::Vouched | RecordSource::None, _) => None,
        };
        if let Some(record) = record {
            self.clerk = Some(Clerk::new(record, cx.waker.clone()));
        }
        // It is asked at once, whatever it said to an owner before this one.
        self.clerk.iter_mut().for_each(|clerk| clerk.retry_at = None);
    }

    /// All who can answer have promised, or do not answer.
    fn have_all_answered(&self, owner: &Owner) -> bool {
        let claimed = owner.claimed();
        let is_done = |place| claimed.replicas.contains(place) || owner.is_lost(place);
        let is_record_done = claimed.record || owner.is_record_lost();
        owner.roster().all().iter().all(is_done) && (self.clerk.is_none() || is_record_done)
    }

    fn try_to_open(&mut self, cx: &mut Cx) {
        let Some(owner) = &self.owner else { return };
        if !self.have_all_answered(owner) {
            return;
        }
        let opening = self.config.opening.clone();
        let opened = match opening {
            Opening::Ordinary => {
                let owner = self.owner.as_mut().expect("it claims");
                owner.open().map_err(|refusal| refusal.to_string())
            }
            Opening::Forced { child, left_out } => self.open_forced(cx, &child, left_out),
        };
        if let Err(words) = opened {
            return self.refuse(&words);
        }
        let is_polled = |desk: &Desk| desk.fence == Fence::Polled;
        let is_open_elsewhere = self.desks.iter().flatten().any(is_polled) && !self.was_clean;
        let owner = self.owner.as_ref().expect("it claims");
        let must_wait = owner.must_wait_for_lease() && !self.was_clean;
        let now = cx.now();
        let serve_at = match must_wait || is_open_elsewhere {
            true => Nanos::from_micros(may_serve_at_us(now.0.div_ceil(1000))),
            false => now,
        };
        self.phase = Phase::Ruling { serve_at };
    }

    /// Rule 32. Only once: should the volume be assembled again, that is by the rules.
    fn open_forced(&mut self, cx: &mut Cx, name: &str, left_out: LeftOut) -> Result<(), String> {
        let named = |child: &ChildIndex| {
            self.desks[child.get()].as_ref().is_some_and(|desk| desk.name == name)
        };
        let chosen = self.present().find(named).and_then(|child| self.seats.place(child));
        let chosen = chosen.ok_or_else(|| format!("{name} has no label to be forced from"))?;
        let lineage = Lineage(random_uuid(cx));
        let owner = self.owner.as_mut().expect("it claims");
        let forced = owner.survey(|survey| force(survey, chosen, lineage));
        let forced = forced.map_err(|refusal| refusal.to_string())?;
        let forced = forced.map_err(|error| error.to_string())?;
        let given_up = match forced.discards.is_empty() {
            true => String::from("what others that are not here may hold"),
            false => forced.discards.join(", "),
        };
        if forced.is_excluded && left_out == LeftOut::Refused {
            return Err(format!(
                "others have gone on without {name}: forced from it, the volume loses what was \
                 acknowledged since, for certain ({given_up}); say so to go on"
            ));
        }
        let owner = self.owner.as_mut().expect("it claims");
        owner.open_forced(forced);
        self.notice = Some(format!("it was opened by force from {name}: given up is {given_up}"));
        self.config.opening = Opening::Ordinary;
        Ok(())
    }

    fn try_to_serve(&mut self, cx: &mut Cx, serve_at: Nanos) {
        if !self.is_stale && cx.now() < serve_at {
            return;
        }
        let Some(owner) = &self.owner else { return };
        match owner.progress() {
            Progress::InForce { members, .. } if cx.now() >= serve_at => {
                let shape = owner.shape().expect("it rules");
                self.members = self.seats.children(members);
                self.phase = Phase::Serving;
                self.is_stale = true;
                let members = self.members;
                self.tell_unfenced();
                for child in self.present().filter(|child| !members.contains(*child)) {
                    let reason = match &self.sights[child.get()] {
                        Sight::Unknown | Sight::Misfit(_) => FaultReason::CantOpen,
                        Sight::Blank | Sight::Ours(_) => FaultReason::OutOfSync,
                    };
                    self.say(TruthEvent::LeftOut(child, reason));
                }
                let assembly = Assembly { members: self.members, blocks: shape.blocks() };
                self.say(TruthEvent::Assembled(assembly));
            }
            Progress::Frozen { waits_for } => {
                let words = format!("waits for {}", waits_for.join(", "));
                self.refuse(&words);
            }
            Progress::Overtaken => {
                self.phase = Phase::Over;
                self.say(TruthEvent::Overtaken);
            }
            Progress::Resigned => self.resign(),
            _ => {}
        }
    }

    /// Says why the volume is not open, with what is known of its children; once.
    pub(super) fn refuse(&mut self, words: &str) {
        let mut words = words.to_owned();
        for child in self.present() {
            let name = &self.desks[child.get()].as_ref().expect("it is present").name;
            let note = match &self.sights[child.get()] {
                Sight::Misfit(misfit) => misfit,
                Sight::Unknown => "it does not answer",
                Sight::Blank => "it has no label",
                Sight::Ours(_) => continue,
            };
            words.push_str(&format!("; {name}: {note}"));
        }
        if let Some(record) = self.clerk.as_ref().and_then(|clerk| clerk.words.as_ref()) {
            words.push_str(&format!("; the record: {record}"));
        }
        if words != self.last_refusal {
            self.last_refusal.clone_from(&words);
            self.say(TruthEvent::Refused(words));
        }
    }

    /// Places of all who are claimed and whom nobody else can open.
    pub(super) fn exclusive(&self) -> ChildSet {
        let Some(owner) = &self.owner else { return ChildSet::EMPTY };
        let claimed = owner.claimed().replicas;
        let is_ours = |child: &ChildIndex| {
            self.desks[child.get()].as_ref().is_some_and(|desk| desk.fence == Fence::Exclusive)
        };
        let ours: ChildSet = self.present().filter(is_ours).collect();
        self.seats.places(ours).intersection(claimed)
    }

    pub(super) fn voter(&self, child: ChildIndex) -> Option<Voter> {
        self.seats.place(child).map(Voter::Replica)
    }
}

impl Sight {
    pub(super) fn label(&self) -> Option<&Label> {
        match self {
            Sight::Ours(label) => Some(label),
            _ => None,
        }
    }
}

/// A name, as long as fits.
pub(super) fn hint(name: &str) -> String {
    let mut end = name.len().min(HINT_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}
