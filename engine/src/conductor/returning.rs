//! Devices of children that could not be opened when their volume was: opened as they come.
//!
//! On a thread of the nexus's own, from its creation until all are open or it is gone: opening
//! blocks. Operators may do the same by command meanwhile. Whether and when a child that is there
//! is brought back, and how long is waited between two attempts, is the home core's to say
//! ([`nexus::home::comeback`]).

use std::sync::Arc;

use nexus::Standing;
use nexus::home::comeback::ABSENT;

use super::Shared;
use super::devices;
use super::nexuses::{WantedChild, is_missing, no_child, release_children};
use super::state::{Deadline, State};
use crate::command::limits::WITHIN_MAX;
use crate::command::{CommandError, Progress};
use crate::homes::NexusId;
use crate::model::nexus::ChildEntry;

impl Shared {
    /// Opens absent children on a thread of its own. Without one operators do it.
    pub(super) fn begin_bringing_back(self: &Arc<Shared>, name: &str, id: NexusId) {
        let (shared, nexus) = (Arc::clone(self), name.to_owned());
        let _ = devices::spawn(name, move || shared.bring_back(&nexus, id));
    }

    fn bring_back(self: &Arc<Shared>, name: &str, id: NexusId) {
        let mut attempts = 0;
        loop {
            let absent = self.absent_children(name, id);
            if absent.is_empty() {
                return;
            }
            let deadline = Deadline::after(WITHIN_MAX);
            let reopen = |uri: &String| self.reopen_child(name, id, uri, deadline);
            let outcomes: Vec<_> = absent.iter().map(reopen).collect();
            if outcomes.iter().any(|outcome| matches!(outcome, Err(CommandError::Stopping))) {
                return;
            }
            attempts = if outcomes.iter().any(Result::is_ok) { 0 } else { attempts + 1 };
            // Ends with the engine, and with the nexus.
            let look = |state: &mut State| {
                state.model.nexuses.get(name).is_none_or(|one| one.id != id).then_some(())
            };
            let late = |_: &State| is_missing(name);
            let pause = Deadline::after(ABSENT.wait(attempts).into());
            match self.wait(self.lock(), pause, look, late) {
                Ok(_) | Err(CommandError::Stopping) => return,
                Err(_) => {}
            }
        }
    }

    /// Children of a nexus whose devices are not open; none of one that is gone.
    fn absent_children(&self, name: &str, id: NexusId) -> Vec<String> {
        let state = self.lock();
        let entry = state.model.nexuses.get(name).filter(|entry| entry.id == id);
        let children = entry.into_iter().flat_map(|entry| &entry.children);
        children.filter(|child| child.absent.is_some()).map(|child| child.uri.clone()).collect()
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
        let standing = Standing::ByTruth;
        let joined = opened.and_then(|()| self.open_child(name, &child, standing, deadline));
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
