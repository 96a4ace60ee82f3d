//! The truth on the replicas: drives [`Owner`] over the labels of a nexus' children.
//!
//! Owned by [`crate::Home`], on the home core. The owner is a state machine without I/O; this reads
//! and writes labels for it ([`desk`]), asks the record ([`clerk`]), tells the home core what was
//! decided, and gives the owner what the home core has seen. Rules are those of replica-truth.
//!
//! 1. [`opening`]: reads every label, claims every replica, assembles, waits for a lease that may
//!    still run, says [`TruthEvent::Assembled`].
//! 2. [`serving`]: brings changes of members into force, tells of members lost, freezes and thaws,
//!    keeps the lease, starts over.
//! 3. [`marks`]: marks before writes, and clears behind a flush.
//! 4. [`copies`]: rebuild targets, and what is to be copied.
//!
//! What is not fenced: a child that may be open elsewhere ([`Fence::Polled`]) keeps nobody out by
//! itself. An owner reads its promise at least every [`crate::truth::lease::KEEP_ALIVE_US`] and
//! before every label write, and stops when it finds a newer one; a new owner serves only when a
//! lease has passed, unless every member was closed cleanly. Where such a child's device keeps
//! reservations, late writes are refused there too ([`warden`]): who meets a conflict is overtaken.

mod clerk;
mod copies;
mod desk;
mod format;
mod lane;
mod marks;
mod opening;
mod seats;
mod serving;
mod survey;
mod warden;

use std::collections::VecDeque;

use bdev::{Completion, Geometry, Status};
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::label::Label;
use super::lease::Lease;
use super::names::{Generation, NexusId};
use super::owner::{Answer, Owner, Request};
use super::planted::{self, Bug};
use super::quorum::Voter;
use super::record::Record;
use super::region_map::RegionMap;
use super::{ControlIo, CopyOrder, Discard, MemberChange, NotRebuilt, Truth, TruthEvent};
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet, FaultReason};
use crate::config::ChildConfig;
use crate::intent::{REGION_BYTES, RegionIndex};
use clerk::Clerk;
pub use clerk::RECORD_TIMEOUT;
use copies::Copies;
use desk::{Desk, News};
pub use desk::{Fence, RETRY_MAX, RETRY_MIN};
pub use format::{Contents, Format, FormatError, FormatSpec};
pub use lane::{LABEL_TIMEOUT, LABEL_TRIES};
use marks::Clearing;
use seats::Seats;
pub use survey::{Finding, Survey, SurveyError};
use warden::{Verdict, Warden};

/// The record of a volume that has one.
#[derive(Debug, Default)]
pub enum RecordSource {
    /// There is none, or it is away.
    #[default]
    None,
    /// This one.
    Given(Box<dyn Record + Send>),
    /// An operator vouches that nobody has gone on with its vote (`--record-says-go`).
    Vouched,
}

/// How the volume is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// By the rules.
    #[default]
    Ordinary,
    /// From this child, whatever others hold (`--force`, rule 32). Recorded in the label.
    Forced {
        /// Its name.
        child: String,
        /// Whether it may have been left out: what was acknowledged since is lost for certain.
        left_out: LeftOut,
    },
}

/// Whether a volume is forced open from a replica that others have gone on without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeftOut {
    /// It is not: the refusal says so.
    #[default]
    Refused,
    /// An operator gives up what was written since.
    Accepted,
}

/// What a [`Tracked`] must know.
#[derive(Debug)]
pub struct TrackedConfig {
    /// The volume.
    pub nexus: NexusId,
    /// This host, for operators to read in labels.
    pub host: Uuid,
    /// The run of this host, drawn anew when it boots: what local devices have in volatile caches
    /// is kept as long. Another one at every start where that is not known.
    pub boot: Uuid,
    /// The record.
    pub record: RecordSource,
    /// How it is opened.
    pub opening: Opening,
    /// What keeps older owners from its children; nothing: local devices are open here only, and
    /// of remote ones nobody knows.
    pub fence: Option<Fence>,
}

/// What is known of a child's label.
#[derive(Debug, Default)]
enum Sight {
    /// It has not answered yet.
    #[default]
    Unknown,
    /// It has none.
    Blank,
    /// It is one of the volume's.
    Ours(Box<Label>),
    /// It cannot be one of the volume's, in words.
    Misfit(String),
}

/// Where the adapter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Labels are read.
    Learning { since: Nanos },
    /// Replicas are claimed.
    Claiming,
    /// Assembled, and not said yet.
    Ruling { serve_at: Nanos },
    /// The home core knows its members.
    Serving,
    /// The home core is to start over.
    Resigned,
    /// Closed, but for reservations that are being given back.
    Releasing,
    /// Overtaken or closed.
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Tracked {
    config: TrackedConfig,
    phase: Phase,
    desks: [Option<Desk>; CHILDREN_MAX],
    sights: [Sight; CHILDREN_MAX],
    /// Of children whose devices keep reservations.
    wardens: [Option<Warden>; CHILDREN_MAX],
    seats: Seats,
    clerk: Option<Clerk>,
    owner: Option<Owner>,
    /// The owner may want something, or have decided something.
    is_stale: bool,
    /// The owner may want something that it could not have yet. No mark has become durable by it.
    is_due: bool,
    /// Highest counter of a generation that was heard of.
    heard: u64,
    /// How often a newer owner was met before this one could decide.
    duels: u32,
    /// The labels that were read say that no owner was left.
    was_clean: bool,
    lease: Lease,
    /// The home core knows that it is frozen.
    is_frozen: bool,
    /// The owner waits for somebody.
    is_owner_frozen: bool,
    /// When the lease is looked at next.
    next_look: Nanos,
    last_refusal: String,
    /// What an opening by force has given up, in words.
    notice: Option<String>,
    /// Members as the home core knows them.
    members: ChildSet,
    /// What the home core has asked for.
    change: Option<MemberChange>,
    is_closing: bool,
    /// Whose work is to be given up at the next poll.
    dismissed: ChildSet,
    /// Regions that are to be marked.
    marking: Vec<RegionIndex>,
    clearing: Clearing,
    copies: Copies,
    events: VecDeque<TruthEvent>,
    has_begun: bool,
}

impl Tracked {
    /// For a nexus whose children are all [`crate::Standing::ByTruth`].
    pub fn new(config: TrackedConfig) -> Tracked {
        Tracked {
            config,
            phase: Phase::Learning { since: Nanos(0) },
            desks: [const { None }; CHILDREN_MAX],
            sights: [const { Sight::Unknown }; CHILDREN_MAX],
            wardens: [const { None }; CHILDREN_MAX],
            seats: Seats::default(),
            clerk: None,
            owner: None,
            is_stale: true,
            is_due: false,
            heard: 0,
            duels: 0,
            was_clean: false,
            lease: Lease::new(),
            is_frozen: false,
            is_owner_frozen: false,
            next_look: Nanos(0),
            last_refusal: String::new(),
            notice: None,
            members: ChildSet::EMPTY,
            change: None,
            is_closing: false,
            dismissed: ChildSet::EMPTY,
            marking: Vec::new(),
            clearing: Clearing::default(),
            copies: Copies::default(),
            events: VecDeque::new(),
            has_begun: false,
        }
    }

    /// The generation of the owner; nothing before it claims.
    pub fn generation(&self) -> Option<Generation> {
        self.owner.as_ref().map(Owner::generation)
    }

    fn say(&mut self, event: TruthEvent) {
        self.events.push_back(event);
    }

    fn desk(&mut self, child: ChildIndex) -> &mut Desk {
        self.desks[child.get()].as_mut().expect("a child has a desk")
    }

    fn present(&self) -> impl Iterator<Item = ChildIndex> + use<> {
        let taken = |child: &ChildIndex| self.desks[child.get()].is_some();
        ChildIndex::all().filter(taken).collect::<ChildSet>().iter()
    }

    /// Nothing is under way and nothing is due: what a volume in service is most of the time.
    fn is_at_rest(&self, now: Nanos) -> bool {
        let is_asking = self.clerk.as_ref().is_some_and(|clerk| clerk.is_busy(now));
        self.phase == Phase::Serving
            && !self.is_stale
            && !self.is_due
            && now < self.next_look
            && !is_asking
            && self.dismissed.is_empty()
            && !self.desks.iter().flatten().any(Desk::is_busy)
            && self.wardens.iter().flatten().all(Warden::is_free)
            && !self.is_any_due(now)
    }

    /// A child is to be looked at again.
    fn is_any_due(&self, now: Nanos) -> bool {
        let is_due = |child: &ChildIndex| {
            let desk = self.desks[child.get()].as_ref();
            desk.is_some_and(|desk| desk.retry_at.is_some_and(|at| at <= now))
        };
        ChildIndex::all().filter(is_due).any(|child| self.is_asked(child))
    }

    /// Sessions that have ended: what was completed there may be lost (rule 25).
    fn watch_sessions(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        for child in ChildIndex::all() {
            if self.desks[child.get()].is_some() {
                self.watch_session(cx, io, child);
            }
        }
    }

    /// True when a child's device has started anew.
    fn watch_session(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, child: ChildIndex) -> bool {
        let desk = self.desk(child);
        if !desk.has_restarted(|| random_uuid(cx)) {
            return false;
        }
        desk.give_up(cx, io);
        if let Some(warden) = &mut self.wardens[child.get()] {
            warden.restarted();
        }
        self.child_failed(cx, child, FaultReason::OutOfSync);
        true
    }

    /// Something of a child's was lost: it takes part again when it was claimed anew.
    fn child_failed(&mut self, cx: &mut Cx, child: ChildIndex, reason: FaultReason) {
        self.is_stale = true;
        self.desk(child).put_off(cx.now());
        self.forget_claim(child);
        self.clearing.gone(child);
        let place = self.seats.place(child);
        let was_target = self.is_target(child) || self.copies.targeting(child);
        if let (Some(owner), Some(place)) = (&mut self.owner, place) {
            owner.child_lost(place);
        }
        if was_target {
            self.copies.forget_target();
        }
        let after = self.change.map_or(ChildSet::EMPTY, |change| change.after);
        if self.phase != Phase::Serving {
            return;
        }
        if self.members.union(after).contains(child) {
            self.say(TruthEvent::MemberLost(child, reason));
        } else if was_target {
            self.say(TruthEvent::LeftOut(child, FaultReason::RebuildFailed));
        }
    }

    fn is_target(&self, child: ChildIndex) -> bool {
        let target = self.owner.as_ref().and_then(|owner| owner.target());
        target.is_some_and(|target| self.seats.child(target.child) == Some(child))
    }

    fn poll_desks(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        for child in std::mem::take(&mut self.dismissed) {
            if let Some(desk) = &mut self.desks[child.get()] {
                desk.give_up(cx, io);
                self.forget_claim(child);
                self.clearing.gone(child);
            }
        }
        for child in self.present() {
            while let Some(news) = self.desk(child).poll(cx, io) {
                let is_free = matches!(news, News::Free);
                self.is_stale |= !is_free;
                self.is_due |= is_free;
                self.hear(cx, io, child, news);
            }
        }
    }

    fn hear(&mut self, cx: &mut Cx, io: &mut dyn ControlIo, child: ChildIndex, news: News) {
        let sent_at_us = self.desk(child).began_at().0 / 1000;
        match news {
            News::Lost(reason) => return self.child_failed(cx, child, reason),
            News::Learned(learned) => return self.learned(cx, child, learned),
            News::Flushed => {
                if !self.watch_session(cx, io, child) {
                    self.flushed(child);
                }
                return;
            }
            News::Answer(Answer::Refused(overtaken)) if self.phase == Phase::Claiming => {
                return self.duel(cx, io, overtaken.promised.counter);
            }
            News::Answer(Answer::Refused(_)) => {
                return self.owner.iter_mut().for_each(Owner::overtaken);
            }
            News::Answer(answer) => {
                if let (Some(owner), Some(place)) = (&mut self.owner, self.seats.place(child)) {
                    if matches!(answer, Answer::Seen(_)) {
                        let desk = self.desks[child.get()].as_mut().expect("it has answered");
                        (desk.retry_at, desk.retry_after) = (None, RETRY_MIN);
                    }
                    owner.answered(Voter::Replica(place), answer);
                }
            }
            News::Beaten => {}
            News::Free => return,
        }
        if let Some(place) = self.seats.place(child) {
            self.lease.answered(Voter::Replica(place), sent_at_us);
        }
    }

    fn forget_claim(&mut self, child: ChildIndex) {
        if let Some(warden) = &mut self.wardens[child.get()] {
            warden.give_up();
        }
    }

    /// Claims the labels of children that are reserved now.
    fn poll_wardens(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        for child in self.present() {
            let is_free = self.desk(child).is_free();
            let warden = self.wardens[child.get()].as_mut();
            let Some(verdict) = warden.and_then(|warden| warden.poll(is_free)) else { continue };
            self.is_stale = true;
            match verdict {
                Verdict::Overtaken(counter, _) if self.phase == Phase::Claiming => {
                    self.duel(cx, io, counter);
                }
                // Of a newer owner the label knows too, and of one of another volume it does not.
                Verdict::Held(promise)
                | Verdict::Unable(promise)
                | Verdict::Overtaken(_, promise) => {
                    self.desk(child).claim(cx.now(), promise);
                }
                Verdict::Foreign(key) => {
                    let words = format!("another host has reserved it, with key {:#x}", key.0);
                    self.sights[child.get()] = Sight::Misfit(words);
                    self.child_failed(cx, child, FaultReason::CantOpen);
                }
                Verdict::Lost => self.child_failed(cx, child, FaultReason::TimedOut),
            }
        }
    }

    /// Ends what was closed once nothing is reserved any more.
    fn end_release(&mut self) {
        let mut wardens = self.wardens.iter_mut().flatten();
        if self.phase == Phase::Releasing && wardens.all(Warden::is_released) {
            self.phase = Phase::Over;
            self.say(TruthEvent::Closed);
        }
    }

    /// Says whose late writers are kept out by labels alone.
    fn tell_unfenced(&mut self) {
        let is_unfenced = |place: usize| {
            let is_fenced = |warden: &Warden| !warden.is_unable();
            !self.wardens[place].as_ref().is_some_and(is_fenced)
        };
        let open = self.desks.iter().enumerate().filter_map(|(place, desk)| {
            let desk = desk.as_ref().filter(|desk| desk.fence == Fence::Polled)?;
            is_unfenced(place).then_some(desk.name.as_str())
        });
        let names: Vec<&str> = open.collect();
        if names.is_empty() {
            return;
        }
        let names = names.join(", ");
        let words = format!(
            "no reservations at {names}: writes of an older owner are kept out by labels alone"
        );
        let notice = self.notice.take().filter(|notice| !notice.contains(&words));
        self.notice = Some(notice.map_or(words.clone(), |notice| format!("{notice}; {words}")));
    }

    fn poll_clerk(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) {
        let Some(clerk) = &mut self.clerk else { return };
        if clerk.retry_at.is_some_and(|at| at <= cx.now()) {
            clerk.retry_at = None;
            self.is_stale = true;
            self.owner.iter_mut().for_each(Owner::record_back);
        }
        let was_free = clerk.is_free();
        let said = clerk.poll(cx.now());
        // Also after an answer that came too late: it may be asked again.
        self.is_due |= !was_free && clerk.is_free();
        let Some((answer, asked_at)) = said else { return };
        self.is_stale = true;
        match &answer {
            Answer::Refused(overtaken) if self.phase == Phase::Claiming => {
                return self.duel(cx, io, overtaken.promised.counter);
            }
            Answer::Lost => {}
            _ => self.lease.answered(Voter::Record, asked_at.0 / 1000),
        }
        if let Some(owner) = &mut self.owner {
            owner.answered(Voter::Record, answer);
        }
    }

    /// Makes the I/O that the owner wants.
    fn drive(&mut self, cx: &mut Cx) {
        let Some(owner) = &mut self.owner else { return };
        let now = cx.now();
        let (seats, desks, wardens) = (&self.seats, &self.desks, &self.wardens);
        let takes = |voter: Voter| match voter {
            Voter::Replica(place) => {
                let Some(child) = seats.child(place) else { return false };
                let is_free = desks[child.get()].as_ref().is_some_and(Desk::is_free);
                is_free && wardens[child.get()].as_ref().is_none_or(Warden::is_free)
            }
            Voter::Record => self.clerk.as_ref().is_some_and(Clerk::is_free),
        };
        for request in owner.requests_to(takes) {
            match request.voter() {
                Voter::Replica(place) => {
                    let Some(child) = self.seats.child(place) else { continue };
                    let desk = self.desks[child.get()].as_mut().filter(|desk| desk.is_free());
                    let Some(desk) = desk else { continue };
                    owner.sent(request.clone());
                    match request {
                        Request::Claim { promise, .. } => match &mut self.wardens[child.get()] {
                            Some(warden) => warden.claim(cx, promise),
                            None => desk.claim(now, promise),
                        },
                        Request::WriteLabel { flush, label, .. } => desk.write(now, flush, label),
                        Request::WriteRecord { .. } => unreachable!("a replica is no record"),
                    }
                }
                Voter::Record => {
                    let clerk = self.clerk.as_mut().filter(|clerk| clerk.is_free());
                    let Some(clerk) = clerk else { continue };
                    owner.sent(request.clone());
                    match request {
                        Request::Claim { promise, .. } => clerk.claim(now, promise),
                        Request::WriteRecord { half } => clerk.write(now, half),
                        Request::WriteLabel { .. } => unreachable!("the record has no label"),
                    }
                }
            }
        }
    }

    fn clerk_wake(&self) -> Wake {
        self.clerk.as_ref().map_or(Wake::Never, Clerk::wake)
    }
}

impl Truth for Tracked {
    fn place(&mut self, child: ChildIndex, config: Option<&ChildConfig>) {
        if let (Some(owner), Some(place)) = (&mut self.owner, self.seats.place(child)) {
            owner.child_lost(place);
        }
        if self.copies.targeting(child) {
            self.copies.forget_target();
        }
        self.seats.leave(child);
        self.clearing.gone(child);
        self.sights[child.get()] = Sight::Unknown;
        self.dismissed = self.dismissed.without(child);
        self.is_stale = true;
        self.desks[child.get()] = config.map(|config| {
            let device = &*config.device;
            let by_device = match device.sessions() {
                Some(_) => Fence::Polled,
                None => Fence::Exclusive,
            };
            let fence = self.config.fence.unwrap_or(by_device);
            let mut desk = Desk::new(child, &config.name, device, self.config.boot, fence);
            // Read at once: it may be one that is waited for.
            desk.retry_at = Some(Nanos(0));
            desk
        });
        if let Some(warden) = &mut self.wardens[child.get()] {
            warden.release();
        }
        let fence = self.desks[child.get()].as_ref().map(|desk| desk.fence);
        let device = config.filter(|_| fence == Some(Fence::Polled)).map(|config| &config.device);
        self.wardens[child.get()] = device.and_then(|device| Warden::new(device.reservations()));
    }

    fn attach(&mut self, _volume: Geometry, _members: ChildSet) {}

    fn restarts(&self, child: ChildIndex) -> Option<u64> {
        self.desks[child.get()].as_ref().map(Desk::restarts)
    }

    fn is_reserved(&self, child: ChildIndex) -> bool {
        self.wardens[child.get()].as_ref().is_some_and(Warden::is_held)
    }

    fn fenced(&mut self) {
        if matches!(self.phase, Phase::Ruling { .. } | Phase::Serving) {
            self.is_stale = true;
            self.owner.iter_mut().for_each(Owner::overtaken);
        }
    }

    fn words(&self, child: ChildIndex) -> Option<String> {
        match &self.sights[child.get()] {
            Sight::Misfit(words) => Some(words.clone()),
            Sight::Blank => Some(String::from("it has no label")),
            Sight::Unknown | Sight::Ours(_) => None,
        }
    }

    fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    fn start_over(&mut self, cx: &mut Cx) {
        self.begin_learning(cx);
    }

    fn begin_change(&mut self, cx: &mut Cx, change: MemberChange) {
        assert!(self.change.is_none(), "one change at a time");
        self.change = Some(change);
        self.is_stale = true;
        let leaving = self.seats.places(change.before.minus(change.after));
        if let Some(owner) = self.owner.as_mut().filter(|_| change.reason.is_some()) {
            for place in leaving {
                owner.child_lost(place);
            }
            let leaving = change.before.minus(change.after);
            self.dismissed = self.dismissed.union(leaving);
            // Its vote may be needed for its own exclusion.
            leaving.iter().for_each(|child| self.desk(child).put_off(cx.now()));
        }
    }

    fn marks_regions(&self) -> bool {
        true
    }

    fn region_bytes(&self) -> u64 {
        let shape = self.owner.as_ref().and_then(Owner::shape);
        shape.map_or(REGION_BYTES, |shape| shape.region_bytes())
    }

    fn marked(&self) -> Option<RegionMap> {
        self.owner.as_ref().and_then(Owner::marked).cloned()
    }

    fn begin_mark(&mut self, _cx: &mut Cx, region: RegionIndex) {
        self.mark(region);
    }

    fn begin_clear(&mut self, _cx: &mut Cx, region: RegionIndex) {
        self.is_due = true;
        self.clearing.want(region);
    }

    fn pending(&self) -> Option<RegionMap> {
        if planted::is(Bug::ReadBeforeEqual) {
            return None;
        }
        self.owner.as_ref().and_then(Owner::pending).filter(|pending| !pending.is_empty())
    }

    fn copy_first(&mut self, region: RegionIndex) {
        self.copies.ask_for(region);
    }

    fn begin_target(
        &mut self,
        _cx: &mut Cx,
        child: ChildIndex,
        discard: Discard,
    ) -> Result<(), NotRebuilt> {
        self.target_wanted(child, discard)
    }

    fn target_lost(&mut self, _cx: &mut Cx, child: ChildIndex) {
        self.give_target_up(child);
    }

    fn next_copy(&mut self) -> Option<CopyOrder> {
        self.order_copy()
    }

    fn copied(&mut self, _cx: &mut Cx, order: CopyOrder) {
        self.was_copied(order);
    }

    fn copy_failed(&mut self, _cx: &mut Cx, order: CopyOrder, child: ChildIndex) {
        self.copies.failed(order, child);
    }

    fn copies_left(&self) -> u64 {
        self.count_copies()
    }

    fn is_complete(&self, child: ChildIndex) -> bool {
        self.is_target_complete(child)
    }

    fn begin_close(&mut self, _cx: &mut Cx) {
        (self.is_closing, self.is_stale) = (true, true);
    }

    fn completed(&mut self, cx: &mut Cx, child: ChildIndex, completion: Completion) {
        let is_conflict = completion.status.has_code(Status::RESERVATION_CONFLICT);
        if is_conflict && self.is_reserved(child) {
            self.fenced();
        }
        let desk = self.desk(child);
        desk.completed(cx, &completion);
        // What it comes to is heard of when the desk is polled; the end of what was given up is
        // not.
        self.is_stale |= is_conflict || desk.has_given_up();
    }

    fn poll(&mut self, cx: &mut Cx, io: &mut dyn ControlIo) -> Option<TruthEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if !self.has_begun {
            self.has_begun = true;
            self.begin_learning(cx);
        }
        if self.phase == Phase::Over {
            return None;
        }
        self.watch_sessions(cx, io);
        if self.is_at_rest(cx.now()) {
            return self.events.pop_front();
        }
        self.poll_desks(cx, io);
        self.poll_wardens(cx, io);
        self.poll_clerk(cx, io);
        self.open_up(cx);
        self.serve(cx, io);
        let is_stale = std::mem::take(&mut self.is_stale);
        if std::mem::take(&mut self.is_due) || is_stale {
            if is_stale {
                self.look_at_marks();
            }
            self.drive(cx);
            // What was begun is submitted at once.
            self.poll_desks(cx, io);
        }
        self.end_release();
        self.events.pop_front()
    }

    fn wake(&self) -> Wake {
        if self.is_stale || self.is_due || !self.events.is_empty() || !self.has_begun {
            return Wake::Now;
        }
        let desks = self.desks.iter().flatten();
        let wake = desks.fold(Wake::Never, |wake, desk| wake.soonest(desk.wake()));
        let wardens = self.wardens.iter().flatten();
        let wake = wardens.fold(wake, |wake, warden| wake.soonest(warden.wake()));
        wake.soonest(self.clerk_wake()).soonest(self.phase_wake())
    }
}

/// A fresh identity.
fn random_uuid(cx: &mut Cx) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&cx.random.next_u64().to_le_bytes());
    bytes[8..].copy_from_slice(&cx.random.next_u64().to_le_bytes());
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
