//! Questions to the home cores of nexuses, from control threads.
//!
//! A home core answers in the pass in which it is asked. One that is late is asked again until the
//! time of the command is over; what it has begun meanwhile is waited for, so that nothing is done
//! twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nexus::Home;
use reactor::Cx;
use reactor::inbox::CallError;

use super::Shared;
use super::courier::PATIENCE;
use super::state::Deadline;
use crate::command::{CommandError, Progress};
use crate::homes::{HomeWork, Homes, NexusId};
use crate::model::nexus::NexusReport;

/// How long a core that cannot be asked just now is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// How long listing waits for a home core: what it has told before is shown then.
const REPORT_WITHIN: Duration = Duration::from_millis(100);

/// What a home core tells of a nexus.
fn report(home: &Home, mode: nexus::view::Mode) -> NexusReport {
    NexusReport {
        children: home.children().collect(),
        mode,
        is_paused: home.is_paused(),
        refusal: home.refusal().map(String::from),
        notice: home.notice().map(String::from),
        verification: home.verification().cloned(),
        rebuild: home.rebuild(),
        history: home.rebuild_history().cloned().collect(),
    }
}

impl Shared {
    /// Has the core at `place` work on its nexuses, and waits for the result.
    pub(super) fn at_home<R: Send + 'static>(
        &self,
        place: usize,
        deadline: Deadline,
        ask: impl Fn(&mut Homes, &mut Cx) -> R + Send + Sync + 'static,
    ) -> Result<R, CommandError> {
        let stage = self.stage.get().ok_or(CommandError::Stopping)?;
        let ask = Arc::new(ask);
        loop {
            let slot: Arc<Mutex<Option<R>>> = Arc::default();
            let (asked, told) = (Arc::clone(&ask), Arc::clone(&slot));
            let work = HomeWork(Box::new(move |homes, cx| {
                let answer = asked(homes, cx);
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            }));
            let take = || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut called = stage.at_home(place, deadline.left().min(PATIENCE), work);
            loop {
                if let Some(answer) = take() {
                    return Ok(answer);
                }
                let is_over = deadline.left().is_zero();
                match called {
                    Ok(()) | Err(CallError::Gone) => return Err(CommandError::Stopping),
                    _ if self.lock().is_stopping => return Err(CommandError::Stopping),
                    _ if is_over => return Err(self.home_is_late(place, deadline)),
                    Err(CallError::Unfinished) => thread::sleep(PAUSE),
                    Err(CallError::Full) => {
                        thread::sleep(PAUSE);
                        called = Err(CallError::Deadline);
                    }
                    Err(CallError::Deadline) => break,
                }
            }
        }
    }

    fn home_is_late(&self, place: usize, deadline: Deadline) -> CommandError {
        let state = self.lock();
        let missing = state.cores.get(place).map(|core| core.core).into_iter().collect();
        let progress = Progress { missing, ..Progress::default() };
        deadline.passed(String::from("the home core of the nexus does not answer"), progress)
    }

    /// Has the home of a nexus do something, and takes down how the nexus is then. Nothing where
    /// it has no home any more.
    pub(super) fn with_home<R: Send + 'static>(
        &self,
        name: &str,
        (place, id): (usize, NexusId),
        deadline: Deadline,
        ask: impl Fn(&mut Home, &mut Cx) -> R + Send + Sync + 'static,
    ) -> Result<Option<R>, CommandError> {
        let answer = self.at_home(place, deadline, move |homes, cx| {
            let home = homes.get(id)?;
            let answer = ask(home, cx);
            Some((answer, report(home, home.nexus().view().mode)))
        })?;
        let Some((answer, report)) = answer else { return Ok(None) };
        let mut state = self.lock();
        if let Some(entry) = state.model.nexuses.get_mut(name).filter(|entry| entry.id == id) {
            entry.known = Some(report);
        }
        Ok(Some(answer))
    }

    /// Takes down how all nexuses are, as far as their home cores answer at once.
    pub(super) fn hear_homes(&self) {
        let mut by_place: Vec<Vec<NexusId>> = Vec::new();
        for entry in self.lock().model.nexuses.values().filter(|entry| entry.nexus.is_some()) {
            let places = by_place.len().max(entry.place + 1);
            by_place.resize_with(places, Vec::new);
            by_place[entry.place].push(entry.id);
        }
        for (place, ids) in by_place.into_iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let deadline = Deadline::after(REPORT_WITHIN);
            let told = self.at_home(place, deadline, move |homes, _| {
                let tell = |id: &NexusId| {
                    let home = homes.get(*id)?;
                    Some((*id, report(home, home.nexus().view().mode)))
                };
                ids.iter().filter_map(tell).collect::<Vec<_>>()
            });
            let mut state = self.lock();
            for (id, report) in told.into_iter().flatten() {
                let entry = state.model.nexuses.values_mut().find(|entry| entry.id == id);
                if let Some(entry) = entry {
                    entry.known = Some(report);
                }
            }
        }
    }
}
