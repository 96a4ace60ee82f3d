//! The cores, as a session sees them.
//!
//! Implemented by the engine, and by the tests with a core that they drive themselves.

use std::fmt::{self, Debug};
use std::sync::mpsc;
use std::time::Duration;

use reactor::Cx;
use reactor::inbox::CallError;

use crate::core::VhostCore;

/// Runs on a core, with its rings.
type Work = dyn FnOnce(&mut VhostCore, &mut Cx) + Send;

/// What a session has done on a core.
pub struct CoreWork(pub Box<Work>);

impl Debug for CoreWork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CoreWork")
    }
}

/// The cores that serve rings. Places count from 0.
pub trait Cores: Debug + Send + Sync {
    /// How many, at least one.
    fn count(&self) -> usize;

    /// Runs something on a core and waits until it has run, at most `within`. Control threads only.
    ///
    /// # Errors
    ///
    /// The core did not come to it.
    fn run(&self, place: usize, within: Duration, work: CoreWork) -> Result<(), CallError>;
}

/// Runs something on a core and returns its result.
pub(super) fn call<R: Send + 'static>(
    cores: &dyn Cores,
    place: usize,
    within: Duration,
    work: impl FnOnce(&mut VhostCore, &mut Cx) -> R + Send + 'static,
) -> Result<R, CallError> {
    let (told, answer) = mpsc::channel();
    let run = move |core: &mut VhostCore, cx: &mut Cx| {
        // Who does not wait any more needs no answer.
        let _ = told.send(work(core, cx));
    };
    cores.run(place, within, CoreWork(Box::new(run)))?;
    answer.try_recv().map_err(|_| CallError::Gone)
}
