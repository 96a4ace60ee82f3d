//! Commands on children of nexuses.

use std::slice;
use std::sync::Arc;

use nexus::truth::{Discard, NotRebuilt};
use nexus::{ChildState, ConfigError, FaultReason, Home, Standing};
use reactor::Cx;

use super::Shared;
use super::nexuses::{self, Patience, hand_out, no_child, release_children};
use super::state::{Deadline, State};
use crate::command::error::Object;
use crate::command::limits::{CHILDREN_MAX, DEVICES_MAX};
use crate::command::{CommandError, Labels, OfChild, Progress, Reply, field};
use crate::model::nexus::ChildEntry;

impl Shared {
    /// Adds a child. At the deadline it is listed, and the command may be given again.
    pub(super) fn add_child(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let (name, _) = field::nexus(&asked.nexus)?;
        let child = self.wanted_child(&asked.uri)?;
        let mut state = self.lock();
        state.model.nexuses.get(name).ok_or_else(|| nexuses::is_missing(name))?;
        state = self.when_there(state, name, deadline)?;
        let entry = state.model.nexuses.get(name).ok_or_else(|| nexuses::is_missing(name))?;
        let id = entry.id;
        if let Some(known) = entry.child(&child.text) {
            if known.absent.is_some() {
                drop(state);
                self.reopen_child(name, id, &child.text, deadline)?;
                return self.nexus_reply(name, deadline);
            }
            if known.handle.is_some() {
                drop(state);
                return self.nexus_reply(name, deadline);
            }
        } else {
            if entry.children.len() >= CHILDREN_MAX {
                let (what, limit) = (Object::Child, CHILDREN_MAX);
                return Err(CommandError::LimitReached { what, limit });
            }
            if state.model.devices.len() >= DEVICES_MAX {
                let (what, limit) = (Object::Device, DEVICES_MAX);
                return Err(CommandError::LimitReached { what, limit });
            }
            self.claim_child(&mut state, name, id, &child)?;
            let entry = state.model.nexuses.get_mut(name).expect("it was just there");
            let (uri, device) = (child.text.clone(), child.device.clone());
            entry.children.push(ChildEntry::coming(uri, device));
        }
        drop(state);
        let outcome = self.open_child(name, &child, Standing::OutOfSync, deadline);
        if let Err(error) = outcome {
            if !matches!(error, CommandError::Deadline { .. }) {
                self.drop_child(name, &child.text);
            }
            return Err(error);
        }
        self.nexus_reply(name, deadline)
    }

    /// Waits until the device of a child is open, and gives it to the home core.
    pub(super) fn open_child(
        self: &Arc<Shared>,
        name: &str,
        child: &nexuses::WantedChild,
        standing: Standing,
        deadline: Deadline,
    ) -> Result<(), CommandError> {
        let mut state = self.when_idle(self.lock(), &child.device, deadline)?;
        let handle = hand_out(&mut state, name, child)?;
        let entry = state.model.nexuses.get(name).ok_or_else(|| nexuses::is_missing(name))?;
        let (labels, place) = (entry.asked.labels, entry.place);
        // A look of its own: another child may be added at the same time.
        let look = state.model.next_nexus_id();
        drop(state);
        let config = child.config(handle, standing, labels);
        if labels == Labels::None {
            let (children, configs) = (slice::from_ref(child), slice::from_ref(&config));
            self.check_unlabelled((place, look), deadline, children, configs)?;
        }
        let added = self.ask_nexus(name, deadline, move |home, _| home.add(config.clone()));
        match added? {
            Ok(_) => Ok(()),
            Err(error) => Err(nexuses::refused(name, "uri", &error)),
        }
    }

    /// Forgets a child that the home core does not have.
    fn drop_child(self: &Arc<Shared>, name: &str, uri: &str) {
        let mut state = self.lock();
        let Some(entry) = state.model.nexuses.get_mut(name) else { return };
        let (dropped, kept) = entry.children.drain(..).partition(|child| child.uri == uri);
        entry.children = kept;
        release_children(&mut state, dropped);
        self.changed.notify_all();
    }

    /// Takes a child away. A member leaves first; what is in flight at the child is aborted.
    pub(super) fn remove_child(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let (name, uri) = self.known_child(asked)?;
        let mut patience = Patience::new();
        loop {
            let wanted = uri.clone();
            let removed =
                self.ask_nexus(name, deadline, move |home, cx| home.remove(cx, &wanted))?;
            match removed {
                // One that is still being opened is not known there.
                Ok(()) | Err(ConfigError::NoSuchChild { .. }) => break,
                Err(ConfigError::Busy) if deadline.left().is_zero() => {
                    let known = format!("child {uri} is not used for new I/O; some is in flight");
                    return Err(deadline.passed(known, Progress::default()));
                }
                Err(ConfigError::Busy) => patience.pass(),
                Err(error) => return Err(nexuses::refused(name, "uri", &error)),
            }
        }
        self.drop_child(name, &uri);
        self.nexus_reply(name, deadline)
    }

    pub(super) fn offline_child(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.expel_child(asked, deadline, Home::offline)
    }

    pub(super) fn fault_child(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        self.expel_child(asked, deadline, |home, cx, name| home.fault(cx, name, FaultReason::Rpc))
    }

    /// Makes a child leave by `how`, and waits until it has.
    fn expel_child(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
        how: fn(&mut Home, &mut Cx, &str) -> Result<(), ConfigError>,
    ) -> Result<Reply, CommandError> {
        let (name, uri) = self.known_child(asked)?;
        let wanted = uri.clone();
        let done = self.ask_nexus(name, deadline, move |home, cx| how(home, cx, &wanted))?;
        done.map_err(|error| nexuses::refused(name, "uri", &error))?;
        self.settle(name, &uri, deadline)
    }

    /// Begins to rebuild a child, as soon as nothing of its is in flight any more.
    pub(super) fn start_rebuild(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let (name, uri) = self.known_child(asked)?;
        if let Some(id) = self.absent_child(name, &uri)? {
            self.reopen_child(name, id, &uri, deadline)?;
        }
        let mut patience = Patience::new();
        loop {
            let wanted = uri.clone();
            let begun = self.ask_nexus(name, deadline, move |home, cx| {
                match home.begin_target(cx, &wanted, Discard::No) {
                    // It takes part in the opening by itself.
                    Err(_) if !home.is_assembled() => Ok(()),
                    // The same again.
                    Err(_) if home.rebuild().is_some_and(|one| one.name == wanted) => Ok(()),
                    begun => begun.map(|_| ()),
                }
            })?;
            match begun {
                Ok(()) => return self.nexus_reply(name, deadline),
                Err(ConfigError::Busy) if self.is_in_sync(name, &uri) => {
                    let child = format!("{uri} of {name}");
                    let (name, source) = (uri, NotRebuilt::Member);
                    let source = Arc::new(ConfigError::NotRebuilt { name, source });
                    return Err(CommandError::Child { child, source });
                }
                Err(ConfigError::Busy) if deadline.left().is_zero() => {
                    let known = format!("child {uri} is in use still: its rebuild is not begun");
                    return Err(deadline.passed(known, Progress::default()));
                }
                Err(ConfigError::Busy) => patience.pass(),
                Err(error) => return Err(nexuses::refused(name, "uri", &error)),
            }
        }
    }

    /// True for a child that its home core has said to be a member.
    fn is_in_sync(&self, name: &str, uri: &str) -> bool {
        let state = self.lock();
        let known = state.model.nexuses.get(name).and_then(|entry| entry.known.as_ref());
        let children = known.map(|known| known.children.as_slice()).unwrap_or_default();
        children.iter().any(|child| child.name == uri && child.state == ChildState::Open)
    }

    pub(super) fn change_rebuild(
        self: &Arc<Shared>,
        asked: &OfChild,
        deadline: Deadline,
        change: fn(&mut Home, &mut Cx, &str) -> Result<(), ConfigError>,
    ) -> Result<Reply, CommandError> {
        let (name, uri) = self.known_child(asked)?;
        let done = self.ask_nexus(name, deadline, move |home, cx| change(home, cx, &uri))?;
        done.map_err(|error| nexuses::refused(name, "uri", &error))?;
        self.nexus_reply(name, deadline)
    }

    /// Name of a nexus, and the URI of a child of it in its first spelling.
    fn known_child<'a>(
        self: &Arc<Shared>,
        asked: &'a OfChild,
    ) -> Result<(&'a str, String), CommandError> {
        let (name, _) = field::nexus(&asked.nexus)?;
        let uri = field::uri(&asked.uri)?.to_string();
        let state = self.lock();
        let entry = state.model.nexuses.get(name).ok_or_else(|| nexuses::is_missing(name))?;
        entry.child(&uri).ok_or_else(|| no_child(name, &uri))?;
        Ok((name, uri))
    }

    /// Waits until the members are what they are to be.
    fn settle(
        self: &Arc<Shared>,
        name: &str,
        uri: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let mut patience = Patience::new();
        while self.ask_nexus(name, deadline, |home, _| home.is_changing())? {
            if deadline.left().is_zero() {
                let known = format!("child {uri} is not used; that is not in force yet");
                return Err(deadline.passed(known, Progress::default()));
            }
            patience.pass();
        }
        self.nexus_reply(name, deadline)
    }
}

impl Shared {
    /// Waits until a nexus is there; other threads may be at work on it.
    pub(super) fn when_there<'a>(
        self: &'a Arc<Shared>,
        state: super::Guard<'a>,
        name: &str,
        deadline: Deadline,
    ) -> Result<super::Guard<'a>, CommandError> {
        use crate::model::device::DevicePhase;
        let look = |state: &mut State| match state.model.devices.get(name) {
            None => Some(Err(nexuses::is_missing(name))),
            Some(entry) => match entry.phase {
                DevicePhase::Going(..) | DevicePhase::Closing => Some(Err(nexuses::is_going(name))),
                DevicePhase::Opening(_) => None,
                DevicePhase::Present(_) => Some(Ok(())),
            },
        };
        let late = |_: &State| {
            let known = format!("the children of nexus {name} are still being opened");
            deadline.passed(known, Progress::default())
        };
        let (state, there) = self.wait(state, deadline, look, late)?;
        there.map(|()| state)
    }
}
