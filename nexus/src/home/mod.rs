//! What there is one of in a nexus: its children's states, and every change of its members.
//!
//! Owned by the service of the home core, which polls it in every pass. Hears of failures through
//! the mailbox, decides who leaves, publishes it, waits until every core has stopped using the
//! child, has [`Truth`] bring the new set into force, and publishes that: only then do the cores
//! acknowledge what they held. One change at a time; what fails meanwhile leaves with the next.

mod closing;
pub mod comeback;
#[cfg(test)]
mod comeback_tests;
mod control;
mod equal;
#[cfg(test)]
mod fence_tests;
#[cfg(test)]
mod late_tests;
mod marks;
mod opening;
mod ports;
mod rebuild;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod survey_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tracked_tests;
#[cfg(test)]
mod tracked_walk;

use std::sync::Arc;

use bdev::BlockDevice;
use reactor::{Cx, Wake};

use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet, ChildState, FaultReason};
use crate::config::{self, ChildConfig, Standing};
use crate::errors::ErrorStore;
use crate::mail::Letter;
use crate::nexus::Nexus;
use crate::rebuild::Rebuild;
use crate::truth::{MemberChange, Truth, TruthEvent};
use crate::view::{Mode, Version};
use closing::Closing;
pub use comeback::Comebacks;
use comeback::{Comeback, Looks};
pub use control::ChildReport;
pub use marks::IDLE_BEFORE_CLEAR;
use marks::Marks;
pub(crate) use ports::Ports;

/// Letters taken in one poll.
const LETTERS_PER_POLL: usize = 64;

/// A child as the home core knows it.
#[derive(Debug)]
struct Child {
    config: ChildConfig,
    state: ChildState,
    errors: ErrorStore,
    comeback: Comeback,
}

/// How far a change of members is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Idle,
    /// Cores are to stop using those that leave: all must follow this view.
    Stopping(Version),
    /// I/O is stopped for those that join: all cores must be drained under this view.
    Draining(Version),
    /// The labels are being written.
    Deciding(MemberChange),
    /// A new owner is to assemble the volume: all cores must have given everything back.
    StartingOver(Version),
}

/// Why I/O is not admitted. Several may hold at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stops {
    by_operator: bool,
    by_truth: bool,
    /// Members are not known yet.
    unassembled: bool,
    by_home: bool,
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Home {
    nexus: Arc<Nexus>,
    truth: Box<dyn Truth>,
    children: [Option<Child>; CHILDREN_MAX],
    ports: Ports,
    step: Step,
    /// Targets that are complete and are to become members.
    joining: ChildSet,
    /// Of those whose joining is being decided, those that were lost meanwhile: they leave next.
    doomed: ChildSet,
    stops: Stops,
    /// The view since which I/O is not admitted.
    stopped_since: Version,
    /// Why the volume is not open, in words.
    refusal: Option<String>,
    rebuild: Rebuild,
    closing: Closing,
    looks: Looks,
    marks: Marks,
    /// Regions that are not equal yet.
    unequal: u64,
}

impl Home {
    /// The home of a nexus, which has one at a time. On the home core.
    pub fn new(nexus: Arc<Nexus>, cx: &mut Cx, truth: Box<dyn Truth>) -> Home {
        if let Some(waker) = &cx.waker {
            // A second home of the same nexus is on the same core.
            let _ = nexus.home_waker.set(waker.clone());
        }
        let mut children = [const { None }; CHILDREN_MAX];
        let configured = nexus.configured();
        for (place, config) in children.iter_mut().zip(&configured) {
            let state = match config.standing {
                Standing::Member => ChildState::Open,
                Standing::OutOfSync => ChildState::Faulted(FaultReason::OutOfSync),
                Standing::ByTruth => ChildState::Init,
            };
            let comeback = Comeback::of(config.standing);
            let config = config.clone();
            *place = Some(Child { config, state, errors: ErrorStore::new(), comeback });
        }
        let (stopped_since, view) = nexus.published.fetch();
        let mut ports = Ports::new();
        let mut truth = truth;
        for (child, config) in ChildIndex::all().zip(&configured) {
            ports.place(child, Some(config::prepare(config).device));
            truth.place(child, Some(config));
        }
        truth.attach(nexus.geometry(), view.members);
        let rebuild = Rebuild::new(&nexus, nexus.geometry().block_bytes, cx);
        Home {
            nexus,
            truth,
            children,
            ports,
            step: Step::Idle,
            joining: ChildSet::EMPTY,
            doomed: ChildSet::EMPTY,
            stops: Stops { unassembled: view.members.is_empty(), ..Stops::default() },
            stopped_since,
            refusal: None,
            rebuild,
            closing: Closing::No,
            looks: Looks::default(),
            marks: Marks::with(view.intent.clone()),
            unequal: 0,
        }
    }

    /// Does what there is to do; returns how much that was.
    pub fn poll(&mut self, cx: &mut Cx) -> usize {
        let mut work = self.take_letters(cx);
        let truth = &mut self.truth;
        work += self.ports.poll(cx, |cx, child, completion| truth.completed(cx, child, completion));
        work += self.hear_truth(cx);
        work += self.poll_rebuild(cx);
        work += self.go_on(cx);
        self.end_labels(cx);
        work += self.see_to_copies();
        work += self.see_to_comebacks(cx);
        self.go_on_closing(cx);
        work + self.see_to_marks(cx)
    }

    /// When it must be polled next. Letters of other cores wake the core.
    pub fn wake(&self) -> Wake {
        if self.nexus.mailbox.has_any() || self.is_any_wanted() {
            return Wake::Now;
        }
        let step = match self.step {
            // Cores that follow do not say so; they are few microseconds away.
            Step::Stopping(_) | Step::Draining(_) => Wake::Now,
            Step::StartingOver(_) => Wake::Now,
            Step::Idle if !self.joining.is_empty() => Wake::Now,
            Step::Idle | Step::Deciding(_) => Wake::Never,
        };
        let wake = step.soonest(self.truth.wake()).soonest(self.ports.wake());
        wake.soonest(self.marks.wake()).soonest(self.rebuild_wake()).soonest(self.looks.wake())
    }

    /// Makes descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        let has_mail = self.nexus.mailbox.has_any() || self.is_any_wanted();
        !has_mail && self.ports.arm(cx) && self.arm_rebuild(cx)
    }

    fn take_letters(&mut self, cx: &mut Cx) -> usize {
        for count in 0..LETTERS_PER_POLL {
            let Some(letter) = self.nexus.mailbox.take() else { return count };
            match letter {
                Letter::Failed { child, reason, kept } => {
                    // An older letter was answered already.
                    if self.nexus.view().kept[child.get()] == kept {
                        self.lose(cx, child, reason);
                    }
                }
                Letter::Fenced => self.truth.fenced(),
                Letter::Error { child } => {
                    let known = self.children[child.get()].as_mut();
                    if known.is_some_and(|known| known.errors.note(cx.now())) {
                        self.lose(cx, child, FaultReason::IoError);
                    }
                }
            }
        }
        LETTERS_PER_POLL
    }

    /// A child has failed: it leaves, unless it is the last one. Cores stop using it as soon as
    /// they see the view.
    fn lose(&mut self, cx: &mut Cx, child: ChildIndex, reason: FaultReason) {
        let view = self.nexus.view();
        if view.targets.contains(child) {
            return self.lose_target(cx, child, reason);
        }
        let usable = view.readable();
        if !usable.contains(child) {
            return;
        }
        if usable == ChildSet::only(child) {
            self.nexus.publish(|view| {
                let kept = &mut view.kept[child.get()];
                *kept = kept.wrapping_add(1);
            });
            return;
        }
        self.set_state(child, ChildState::Faulted(reason));
        self.dismiss(child);
    }

    /// A target has failed: it is written no more. One whose joining is being decided may be a
    /// member already by the labels: it leaves like one, as soon as that is known.
    fn lose_target(&mut self, cx: &mut Cx, child: ChildIndex, reason: FaultReason) {
        if let Step::Deciding(change) = self.step
            && change.after.contains(child)
        {
            self.doomed = self.doomed.with(child);
            return self.set_state(child, ChildState::Faulted(reason));
        }
        self.joining = self.joining.without(child);
        self.set_state(child, ChildState::Faulted(FaultReason::RebuildFailed));
        self.nexus.publish(|view| {
            view.targets = view.targets.without(child);
            view.devices[child.get()] = None;
        });
        self.truth.target_lost(cx, child);
    }

    /// Publishes that a member is on its way out.
    fn dismiss(&mut self, child: ChildIndex) {
        let version = self.nexus.publish(|view| view.leaving = view.leaving.with(child));
        match self.step {
            // What is held for this one would never drain.
            Step::Draining(_) => {
                self.step = Step::Stopping(version);
                self.stop(|stops| stops.by_home = false);
            }
            Step::Idle | Step::Stopping(_) => self.step = Step::Stopping(version),
            Step::Deciding(_) | Step::StartingOver(_) => {}
        }
    }

    fn hear_truth(&mut self, cx: &mut Cx) -> usize {
        let mut heard = 0;
        while let Some(event) = self.truth.poll(cx, &mut self.ports) {
            heard += 1;
            let is_mark = matches!(event, TruthEvent::Marked(_) | TruthEvent::Cleared(_));
            self.rebuild.may_have_copies |= !is_mark;
            match event {
                TruthEvent::Assembled(assembly) => self.open(cx, assembly),
                TruthEvent::LeftOut(child, reason) => self.leave_out(cx, child, reason),
                TruthEvent::Refused(words) => self.refusal = Some(words),
                TruthEvent::Resigned => self.resign(),
                TruthEvent::InForce => {
                    self.put_in_force();
                    self.look_what_is_equal();
                }
                TruthEvent::MemberLost(child, reason) => self.lose(cx, child, reason),
                TruthEvent::Frozen => self.stop(|stops| stops.by_truth = true),
                TruthEvent::Thawed => {
                    self.refusal = None;
                    self.stop(|stops| stops.by_truth = false);
                }
                TruthEvent::Overtaken => self.stop(|stops| stops.ended = true),
                TruthEvent::Marked(region) => self.set_marked(cx, region),
                TruthEvent::Cleared(region) => self.marks.cleared(region),
                TruthEvent::Equal(region) => self.set_equal(region),
                TruthEvent::TargetReady(child) => self.write_target(cx, child),
                TruthEvent::Closed => self.closed(),
            }
        }
        heard
    }

    /// The change is in force: the cores may acknowledge what they held for it.
    fn put_in_force(&mut self) {
        let Step::Deciding(change) = self.step else {
            unreachable!("nothing is in force that was not begun")
        };
        let gone = change.before.minus(change.after);
        let joined = change.after.minus(change.before);
        self.joining = self.joining.minus(joined);
        let doomed = std::mem::take(&mut self.doomed);
        joined.minus(doomed).iter().for_each(|child| self.set_state(child, ChildState::Open));
        let version = self.nexus.publish(|view| {
            view.members = change.after;
            view.leaving = view.leaving.minus(gone).union(doomed);
            view.targets = view.targets.minus(joined);
            gone.iter().for_each(|child| view.devices[child.get()] = None);
        });
        let again = !self.nexus.view().leaving.is_empty();
        self.step = if again { Step::Stopping(version) } else { Step::Idle };
        self.stop(|stops| stops.by_home = false);
    }

    /// Goes on with a change as far as the cores have followed.
    fn go_on(&mut self, cx: &mut Cx) -> usize {
        match self.step {
            Step::Stopping(version) if self.have_followed(version) => self.begin_leave(cx),
            Step::Draining(version) if self.are_drained(version) => self.begin_join(cx),
            Step::Idle if !self.joining.is_empty() => {
                self.stop(|stops| stops.by_home = true);
                self.step = Step::Draining(self.stopped_since);
            }
            Step::StartingOver(version) if self.is_all_released(version) => self.start_over(cx),
            Step::Idle
            | Step::Stopping(_)
            | Step::Draining(_)
            | Step::Deciding(_)
            | Step::StartingOver(_) => return 0,
        }
        1
    }

    fn have_followed(&self, version: Version) -> bool {
        self.nexus.all_users(|_, cell| cell.has_followed(version))
    }

    fn are_drained(&self, version: Version) -> bool {
        self.nexus.all_users(|_, cell| cell.is_drained(version))
    }

    /// Every core has stopped using those that leave.
    fn begin_leave(&mut self, cx: &mut Cx) {
        let view = self.nexus.view();
        let leaving = view.leaving.iter();
        let states = leaving.filter_map(|child| self.children[child.get()].as_ref());
        let reason = states.map(|child| child.state).find_map(|state| match state {
            ChildState::Faulted(reason) => Some(reason),
            _ => None,
        });
        self.decide(cx, MemberChange { before: view.members, after: view.readable(), reason });
    }

    /// Nothing is in flight. What a core has said of a target before it drained is in the box.
    fn begin_join(&mut self, cx: &mut Cx) {
        while self.take_letters(cx) > 0 {}
        let view = self.nexus.view();
        let joining = self.joining.intersection(view.targets);
        match self.step {
            // A letter made a member leave; those that join are next.
            Step::Stopping(_) => {}
            _ if joining.is_empty() => {
                self.step = Step::Idle;
                self.stop(|stops| stops.by_home = false);
            }
            _ => {
                let (before, after) = (view.members, view.members.union(joining));
                self.decide(cx, MemberChange { before, after, reason: None });
            }
        }
    }

    fn decide(&mut self, cx: &mut Cx, change: MemberChange) {
        assert!(!change.after.is_empty(), "the last member never leaves");
        self.step = Step::Deciding(change);
        self.truth.begin_change(cx, change);
    }

    fn set_state(&mut self, child: ChildIndex, state: ChildState) {
        let Some(known) = self.children[child.get()].as_mut() else { return };
        if matches!(state, ChildState::Faulted(_)) && !matches!(known.state, ChildState::Faulted(_))
        {
            let sessions = known.config.device.sessions();
            known.comeback.lost(sessions.map_or(0, |sessions| sessions.state().number));
            self.looks.begin();
        }
        if state == ChildState::Open {
            known.comeback.release();
        }
        known.state = state;
    }

    /// Changes what keeps I/O from being admitted, and tells the cores if that changes anything.
    fn stop(&mut self, change: impl FnOnce(&mut Stops)) {
        change(&mut self.stops);
        let mode = match self.stops {
            Stops { ended: true, .. } => Mode::Ended,
            Stops { by_operator, by_truth, unassembled, by_home, .. } => {
                match by_operator || by_truth || unassembled || by_home {
                    true => Mode::Paused,
                    false => Mode::Running,
                }
            }
        };
        if self.nexus.view().mode != mode {
            self.stopped_since = self.nexus.publish(|view| view.mode = mode);
        }
    }
}
