//! Brings descriptions to one core: a control thread a core, asleep while there is nothing new.
//!
//! Only the newest description is brought, so a core that was out of reach for a while is told
//! once. While something is going the core is asked, less and less often, whether it is settled.

use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reactor::cores::keep_off;
use reactor::inbox::CallError;

use super::Shared;
use super::stage::{Settlement, Stage};
use super::state::State;
use crate::command::CommandError;

/// How long a core is waited for before it is looked whether there is something newer to tell it,
/// or the engine ends.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// How soon a core is asked whether it is settled.
const LOOK_SOON: Duration = Duration::from_micros(500);

/// How seldom it is asked in the end: twenty short calls a second wake nobody who is at work.
const LOOK_LATE: Duration = Duration::from_millis(50);

/// How long a full inbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Starts the courier of a core.
///
/// # Errors
///
/// The system refuses a thread.
pub(super) fn start(
    shared: Arc<Shared>,
    stage: Arc<dyn Stage>,
    place: usize,
) -> Result<JoinHandle<()>, CommandError> {
    let name = format!("courier-{place}");
    let body = move || {
        keep_off(&stage.cores());
        Courier { shared, stage, place }.run();
    };
    thread::Builder::new().name(name).spawn(body).map_err(|source| CommandError::Thread {
        purpose: String::from("the courier of a core"),
        source: Arc::new(source),
    })
}

struct Courier {
    shared: Arc<Shared>,
    stage: Arc<dyn Stage>,
    place: usize,
}

impl Courier {
    fn run(&self) {
        let mut pause = LOOK_SOON;
        let mut look_at = Instant::now();
        loop {
            let mut state = self.shared.lock();
            if state.is_stopping {
                return;
            }
            let core = &state.cores[self.place];
            if core.applied < state.generation {
                drop(state);
                pause = LOOK_SOON;
                if !self.bring() {
                    return;
                }
                look_at = Instant::now() + pause;
                continue;
            }
            self.shared.reap(&mut state);
            let left = look_at.saturating_duration_since(Instant::now());
            if state.model.going.is_empty() {
                let woken = self.shared.changed.wait(state);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
            } else if !left.is_zero() {
                let waited = self.shared.changed.wait_timeout(state, left);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(state);
                if !self.ask() {
                    return;
                }
                pause = (pause * 2).min(LOOK_LATE);
                look_at = Instant::now() + pause;
            }
        }
    }

    /// Brings the newest description; false when the core has ended.
    fn bring(&self) -> bool {
        let (description, generation) = {
            let state = self.shared.lock();
            (Arc::clone(&state.latest), state.generation)
        };
        let answer = self.stage.apply(self.place, PATIENCE, description);
        self.note(answer, |state, place, applied| {
            state.cores[place].applied = generation;
            if let Err(error) = applied {
                state.cores[place].failure = Some((generation, Arc::new(error)));
            }
        })
    }

    /// Asks whether the core is settled; false when it has ended.
    fn ask(&self) -> bool {
        let generation = self.shared.lock().cores[self.place].applied;
        let answer = self.stage.settlement(self.place, PATIENCE);
        self.note(answer, |state, place, Settlement { is_settled, failure }| {
            if let Some(error) = failure {
                state.cores[place].failure = Some((generation, Arc::new(error)));
            }
            if is_settled {
                state.cores[place].settled = generation;
            }
        })
    }

    /// Takes down what a core answered and tells everyone; false when it has ended.
    fn note<R>(
        &self,
        answer: Result<R, CallError>,
        take_down: impl FnOnce(&mut State, usize, R),
    ) -> bool {
        match answer {
            Ok(answer) => {
                let mut state = self.shared.lock();
                take_down(&mut state, self.place, answer);
                self.shared.reap(&mut state);
                self.shared.changed.notify_all();
                true
            }
            Err(CallError::Gone) => {
                self.shared.lock().cores[self.place].is_gone = true;
                self.shared.changed.notify_all();
                false
            }
            // It comes to it later; whether it began does not matter, as a description may be
            // applied twice.
            Err(CallError::Full) => {
                thread::sleep(FULL_PAUSE);
                true
            }
            Err(CallError::Deadline | CallError::Unfinished) => true,
        }
    }
}
