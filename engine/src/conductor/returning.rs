//! Replicas of a volume with labels that are out when it is opened: brought back as they come.
//!
//! On a thread of the nexus's own, from its creation until all are in sync, are given up, or it is
//! gone. A device that could not be opened is tried again; who is here and behind is rebuilt by its
//! label, one after the other. Operators may do the same by command meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexus::truth::Discard;
use nexus::{ChildState, ConfigError, FaultReason, Home};
use reactor::Cx;

use super::Shared;
use super::devices;
use super::nexuses::{WantedChild, is_missing, no_child, release_children};
use super::state::{Deadline, State};
use crate::command::limits::WITHIN_MAX;
use crate::command::{CommandError, Progress};
use crate::homes::NexusId;
use crate::model::device::DevicePhase;
use crate::model::nexus::ChildEntry;

/// First pause before it is looked who has come; doubled up to [`RETURN_RETRY_MAX`].
const RETURN_RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest such pause.
const RETURN_RETRY_MAX: Duration = Duration::from_secs(5);

/// How often a rebuild of one child is begun here: one that fails is the home's affair where the
/// device is remote, and operators' otherwise, who may have stopped it too.
const RETURN_TRIES: u32 = 1;

/// How far the children are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progressing {
    /// All are in sync, or left to operators.
    Over,
    /// Somebody was brought back.
    Moved,
    /// Somebody is waited for.
    Waiting,
}

/// What a home says of those that are out.
enum Next {
    Nobody,
    Wait,
    Begun(String),
    Refused(String),
}

impl Shared {
    /// Brings children back on a thread of its own. Without one operators do it.
    pub(super) fn begin_bringing_back(self: &Arc<Shared>, name: &str, id: NexusId) {
        let (shared, nexus) = (Arc::clone(self), name.to_owned());
        let _ = devices::spawn(name, move || shared.bring_back(&nexus, id));
    }

    fn bring_back(self: &Arc<Shared>, name: &str, id: NexusId) {
        let mut tries = BTreeMap::new();
        let mut pause = RETURN_RETRY_MIN;
        loop {
            match self.bring_one_back(name, id, &mut tries) {
                Ok(Progressing::Over) | Err(CommandError::Stopping) => return,
                Ok(Progressing::Moved) => pause = RETURN_RETRY_MIN,
                Ok(Progressing::Waiting) | Err(_) => pause = (pause * 2).min(RETURN_RETRY_MAX),
            }
            // Ends with the engine, and with the nexus.
            let look = |state: &mut State| {
                state.model.nexuses.get(name).is_none_or(|one| one.id != id).then_some(())
            };
            let late = |_: &State| is_missing(name);
            match self.wait(self.lock(), Deadline::after(pause), look, late) {
                Ok(_) | Err(CommandError::Stopping) => return,
                Err(_) => {}
            }
        }
    }

    fn bring_one_back(
        self: &Arc<Shared>,
        name: &str,
        id: NexusId,
        tries: &mut BTreeMap<String, u32>,
    ) -> Result<Progressing, CommandError> {
        let state = self.lock();
        let entry = state.model.nexuses.get(name).filter(|entry| entry.id == id);
        let (Some(entry), Some(device)) = (entry, state.model.devices.get(name)) else {
            return Ok(Progressing::Over);
        };
        if !matches!(device.phase, DevicePhase::Present(_)) {
            return Ok(Progressing::Over);
        }
        let (place, is_absent) = (entry.place, |child: &&ChildEntry| child.absent.is_some());
        let absent: Vec<String> =
            entry.children.iter().filter(is_absent).map(|child| child.uri.clone()).collect();
        drop(state);
        let deadline = Deadline::after(WITHIN_MAX);
        let mut progress = if absent.is_empty() { Progressing::Over } else { Progressing::Waiting };
        for uri in absent {
            if self.reopen_child(name, id, &uri, deadline).is_ok() {
                progress = Progressing::Moved;
            }
        }
        let given_up: Vec<String> = tries
            .iter()
            .filter(|(_, count)| **count >= RETURN_TRIES)
            .map(|(uri, _)| uri.clone())
            .collect();
        let next = self.with_home(name, (place, id), deadline, move |home, cx| {
            next_target(home, cx, &given_up)
        })?;
        match next {
            None => Ok(Progressing::Over),
            Some(Next::Nobody) => Ok(progress),
            Some(Next::Wait) => Ok(Progressing::Waiting),
            Some(Next::Begun(uri)) => {
                *tries.entry(uri).or_default() += 1;
                Ok(Progressing::Moved)
            }
            Some(Next::Refused(uri)) => {
                tries.insert(uri, RETURN_TRIES);
                Ok(Progressing::Moved)
            }
        }
    }

    /// Opens the device of a child that a nexus does without, and gives it to the home core.
    pub(super) fn reopen_child(
        self: &Arc<Shared>,
        name: &str,
        id: NexusId,
        uri: &str,
        deadline: Deadline,
    ) -> Result<(), CommandError> {
        let child = self.wanted_child(uri)?;
        let mut state = self.lock();
        let outcome = self.claim_child(&mut state, name, id, &child)?;
        let late = |_: &State| {
            let known = format!("device {} is still being opened", child.device);
            deadline.passed(known, Progress::default())
        };
        let done = |_: &mut State| match &outcome {
            Some(outcome) => outcome.get().cloned(),
            None => Some(Ok(())),
        };
        let (state, opened) = self.wait(state, deadline, done, late)?;
        drop(state);
        let joined = opened.and_then(|()| self.open_child(name, &child, deadline));
        self.note_reopened(name, id, &child, &joined);
        joined
    }

    /// A child that came is absent no more; one that cannot be used is let go of, and stays listed.
    fn note_reopened(
        self: &Arc<Shared>,
        name: &str,
        id: NexusId,
        child: &WantedChild,
        joined: &Result<(), CommandError>,
    ) {
        let mut state = self.lock();
        let entry = state.model.nexuses.get_mut(name).filter(|entry| entry.id == id);
        let known =
            entry.and_then(|entry| entry.children.iter_mut().find(|known| known.uri == child.text));
        let is_listed = known.is_some();
        let mut handle = None;
        if let Some(known) = known {
            known.absent = joined.as_ref().err().map(ToString::to_string);
            handle = if joined.is_err() { known.handle.take() } else { None };
        }
        if joined.is_err() || !is_listed {
            let (uri, device) = (child.text.clone(), child.device.clone());
            let gone = ChildEntry { handle, ..ChildEntry::coming(uri, device) };
            release_children(&mut state, vec![gone]);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether a nexus does without a child because its device could not be opened.
    pub(super) fn absent_child(
        &self,
        name: &str,
        uri: &str,
    ) -> Result<Option<NexusId>, CommandError> {
        let state = self.lock();
        let entry = state.model.nexuses.get(name).ok_or_else(|| is_missing(name))?;
        let child = entry.child(uri).ok_or_else(|| no_child(name, uri))?;
        Ok(child.absent.as_ref().map(|_| entry.id))
    }
}

/// Begins to rebuild the first child that is behind, where nothing else is under way.
fn next_target(home: &mut Home, cx: &mut Cx, given_up: &[String]) -> Next {
    if !home.is_assembled() || home.is_changing() || home.rebuild().is_some() {
        return Next::Wait;
    }
    let is_out = |state| {
        use FaultReason::{CantOpen, OutOfSync};
        matches!(state, ChildState::Faulted(OutOfSync | CantOpen))
    };
    let mut out = home.children().filter(|child| is_out(child.state));
    let Some(child) = out.find(|child| !given_up.contains(&child.name)) else {
        return Next::Nobody;
    };
    drop(out);
    match home.begin_target(cx, &child.name, Discard::No) {
        Ok(_) => Next::Begun(child.name),
        Err(ConfigError::Busy) => Next::Wait,
        Err(ConfigError::NotRebuilt { source: nexus::truth::NotRebuilt::Busy, .. }) => Next::Wait,
        Err(_) => Next::Refused(child.name),
    }
}
