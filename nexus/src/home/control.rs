//! What an operator asks of a running nexus. Called on the home core, by the engine's commands.
//!
//! Each call begins a change and returns; what comes of it is in [`Home::children`].

use bdev::BlockDevice;
use reactor::{Cx, Wake};

use super::{Child, Comeback, Home, Step, Stops};
use crate::child::{ChildIndex, ChildSet, ChildState, FaultReason};
use crate::config::{self, ChildConfig, ConfigError};
use crate::errors::ErrorStore;
use crate::nexus::Nexus;
use crate::truth::{ControlIo, Discard};

/// A child as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildReport {
    /// Its place.
    pub index: ChildIndex,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: ChildState,
    /// Errors that were counted.
    pub errors: usize,
    /// What is known of why it is out, in words; of one that is faulted.
    pub words: Option<String>,
}

impl Home {
    /// The nexus.
    pub fn nexus(&self) -> &Nexus {
        &self.nexus
    }

    /// The children, in the order of their places.
    pub fn children(&self) -> impl Iterator<Item = ChildReport> {
        ChildIndex::all().zip(&self.children).filter_map(|(index, child)| {
            let child = child.as_ref()?;
            let (name, errors) = (child.config.name.clone(), child.errors.count());
            let words = self.words(index, child.state);
            Some(ChildReport { index, name, state: child.state, errors, words })
        })
    }

    fn words(&self, child: ChildIndex, state: ChildState) -> Option<String> {
        let ChildState::Faulted(reason) = state else { return None };
        let of_label = || self.truth.words(child);
        let of_device = || self.ports.words(child).cloned();
        let of_core = || self.nexus.mailbox.words(child);
        match reason {
            FaultReason::CantOpen => of_core().or_else(of_device).or_else(of_label),
            _ => of_device().or_else(of_label),
        }
    }

    /// The child of a name.
    pub fn find(&self, name: &str) -> Result<ChildIndex, ConfigError> {
        let named = |(_, child): &(ChildIndex, &Option<Child>)| {
            child.as_ref().is_some_and(|child| child.config.name == name)
        };
        let found = ChildIndex::all().zip(&self.children).find(named);
        let missing = || ConfigError::NoSuchChild { name: name.to_owned() };
        found.map(|(index, _)| index).ok_or_else(missing)
    }

    /// Adds a child, out of sync: a rebuild makes a member of it. One whose standing is
    /// [`crate::Standing::ByTruth`] belongs to the volume and comes back by itself; others are
    /// strangers, and wait for an operator.
    pub fn add(&mut self, config: ChildConfig) -> Result<ChildIndex, ConfigError> {
        config::check_child(&config, self.nexus.geometry())?;
        let others = self.children.iter().flatten();
        config::check_duplicate(
            &config,
            others.map(|other| (other.config.name.as_str(), &other.config.device)),
        )?;
        let no_place = || ConfigError::NoPlace { name: config.name.clone() };
        let child = ChildIndex::all().find(|child| self.is_free(*child)).ok_or_else(no_place)?;
        self.ports.place(child, Some(config::prepare(&config).device));
        self.truth.place(child, Some(&config));
        self.nexus.mailbox.explain(child, None);
        let state = ChildState::Faulted(FaultReason::OutOfSync);
        let (errors, comeback) = (ErrorStore::new(), Comeback::of(config.standing));
        self.looks.begin();
        self.children[child.get()] = Some(Child { config, state, errors, comeback });
        Ok(child)
    }

    /// True when no child has the place and no core that has I/O has something of the last one.
    fn is_free(&self, child: ChildIndex) -> bool {
        self.children[child.get()].is_none() && self.is_released(child)
    }

    /// True when nothing of a child is in flight on any core.
    fn is_released(&self, child: ChildIndex) -> bool {
        let version = self.nexus.published.version();
        let only = ChildSet::only(child);
        let released = |_, cell: &crate::cell::Cell| {
            cell.is_at_rest() || (cell.has_followed(version) && !cell.has_open(only))
        };
        self.ports.is_still(child) && self.nexus.all_users(released)
    }

    /// Faults a child: it leaves, and is out of sync from then on.
    pub fn fault(
        &mut self,
        cx: &mut Cx,
        name: &str,
        reason: FaultReason,
    ) -> Result<(), ConfigError> {
        self.expel(cx, name, ChildState::Faulted(reason))
    }

    /// Takes a child offline: it leaves, and may be taken online again.
    pub fn offline(&mut self, cx: &mut Cx, name: &str) -> Result<(), ConfigError> {
        self.expel(cx, name, ChildState::Closed)
    }

    /// Makes a child leave in an orderly way. One that has left already only changes its state.
    fn expel(&mut self, cx: &mut Cx, name: &str, state: ChildState) -> Result<(), ConfigError> {
        let child = self.find(name)?;
        let view = self.nexus.view();
        if view.targets.contains(child) {
            self.lose(cx, child, FaultReason::RebuildFailed);
        } else if self.is_becoming_target(child) {
            self.truth.target_lost(cx, child);
        } else if view.readable() == ChildSet::only(child) {
            return Err(ConfigError::LastMember { name: name.to_owned() });
        } else if view.readable().contains(child) {
            self.set_state(child, state);
            self.dismiss(child);
        }
        self.set_state(child, state);
        Ok(())
    }

    /// True when the label of a target is being written.
    fn is_becoming_target(&self, child: ChildIndex) -> bool {
        let known = self.children[child.get()].as_ref();
        known.is_some_and(|known| known.state == ChildState::Rebuilding) && !self.is_target(child)
    }

    /// Forgets a child that has left. [`ConfigError::Busy`] while it is used on a core; a member is
    /// made to leave, and the call is to be made again.
    pub fn remove(&mut self, cx: &mut Cx, name: &str) -> Result<(), ConfigError> {
        let child = self.find(name)?;
        let view = self.nexus.view();
        if view.members.union(view.targets).contains(child) {
            self.expel(cx, name, ChildState::Destroying)?;
            return Err(ConfigError::Busy);
        }
        if !self.is_released(child) {
            self.ports.abort(cx, child);
            return Err(ConfigError::Busy);
        }
        self.children[child.get()] = None;
        self.ports.place(child, None);
        self.truth.place(child, None);
        self.nexus.forget_configured(name);
        Ok(())
    }

    /// Begins to make a rebuild target of a child that is out. It is one when its state is
    /// [`ChildState::Rebuilding`] and [`Home::is_target`]: from the view that is published then,
    /// every write goes to it too (replica-truth rule 28), and it is not read.
    pub fn begin_target(
        &mut self,
        cx: &mut Cx,
        name: &str,
        discard: Discard,
    ) -> Result<ChildIndex, ConfigError> {
        let child = self.find(name)?;
        let view = self.nexus.view();
        let is_used = view.members.union(view.targets).contains(child);
        if is_used || !self.is_released(child) || self.step != Step::Idle {
            return Err(ConfigError::Busy);
        }
        let known = self.children[child.get()].as_mut().expect("it was found");
        config::check_child(&known.config, self.nexus.geometry())?;
        let begun = self.truth.begin_target(cx, child, discard);
        begun.map_err(|source| ConfigError::NotRebuilt { name: name.to_owned(), source })?;
        known.state = ChildState::Rebuilding;
        known.comeback.release();
        self.looks.begin();
        self.begin_job(cx, child);
        Ok(child)
    }

    /// True when a child is written as a target.
    pub fn is_target(&self, child: ChildIndex) -> bool {
        self.nexus.view().targets.contains(child)
    }

    /// The label of a target is durable: writes go there from the view on that this publishes. One
    /// that was given up meanwhile is none any more.
    pub(super) fn write_target(&mut self, cx: &mut Cx, child: ChildIndex) {
        let known = self.children[child.get()].as_ref();
        let known = known.filter(|known| known.state == ChildState::Rebuilding);
        let Some(known) = known else { return self.truth.target_lost(cx, child) };
        let device = super::opening::prepare(&known.config, &*self.truth, child);
        self.nexus.publish(|view| {
            view.devices[child.get()] = Some(device);
            let incarnation = &mut view.incarnations[child.get()];
            *incarnation = incarnation.wrapping_add(1);
            view.targets = view.targets.with(child);
        });
    }

    /// A target has everything: it becomes a member once nothing is in flight on any core (rule
    /// 29). Nothing is done with a child that is no target any more.
    pub fn admit(&mut self, child: ChildIndex) {
        if self.nexus.view().targets.contains(child) {
            self.joining = self.joining.with(child);
        }
    }

    /// Stops admitting I/O; what has begun goes on. See [`Home::is_paused`].
    pub fn pause(&mut self) {
        self.stop(|stops| stops.by_operator = true);
    }

    /// Admits I/O again.
    pub fn resume(&mut self) {
        self.stop(|stops| stops.by_operator = false);
    }

    /// True when I/O is not admitted and nothing is in flight on any core.
    pub fn is_paused(&self) -> bool {
        let Stops { by_operator, .. } = self.stops;
        by_operator && self.are_drained(self.stopped_since)
    }

    /// Ends the volume: what waits and what comes fails with a path error, what has begun ends
    /// without being acknowledged where it would have to wait for a change of members.
    pub fn end(&mut self) {
        self.stop(|stops| stops.ended = true);
    }

    /// Gives up what it has in flight for labels, once no core has the volume open: true when that
    /// is nothing any more, so that it may be dropped. To be called in every pass until then.
    pub fn let_go(&mut self, cx: &mut Cx) -> bool {
        let is_still = |home: &Home| ChildIndex::all().all(|child| home.ports.is_still(child));
        if !is_still(self) {
            ChildIndex::all().for_each(|child| self.ports.abort(cx, child));
            let truth = &mut self.truth;
            self.ports.poll(cx, |cx, child, ended| truth.completed(cx, child, ended));
        }
        is_still(self)
    }

    /// When [`Home::let_go`] must be called next.
    pub fn let_go_wake(&self) -> Wake {
        self.ports.wake()
    }

    /// Makes descriptors fire for [`Home::let_go`]; false when something is there already.
    pub fn arm_let_go(&mut self, cx: &mut Cx) -> bool {
        self.ports.arm(cx)
    }

    /// True while the members are being changed.
    pub fn is_changing(&self) -> bool {
        self.step != Step::Idle || !self.joining.is_empty()
    }

    /// Makes the volume as long as its shortest child that is in use, if that is longer than it is.
    /// Every child in use must have been grown before. Returns the length, in blocks.
    pub fn grow(&mut self) -> u64 {
        let view = self.nexus.view();
        let used = view.members.union(view.targets);
        let room = |child: ChildIndex| {
            let child = view.device(child);
            child.device.geometry().blocks.saturating_sub(child.data_start_blocks)
        };
        let blocks = used.iter().map(room).min().unwrap_or(0);
        if blocks > view.blocks && view.intent.is_none() {
            self.nexus.publish(|view| view.blocks = blocks);
            self.truth.attach(self.nexus.geometry(), view.members);
        }
        self.nexus.view().blocks
    }
}
