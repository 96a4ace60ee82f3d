//! The looks that a core waits for.
//!
//! Owned by the core, which comes by in each pass while there are any: for what threads have found,
//! and to take one step of those that are made on the core itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bdev::allocation::{Allocation, AllocationError};
use bdev::{AllocationQuery, Lba};
use reactor::slab::SlotId;
use reactor::{Nanos, Wake};

use super::known::{Job, KnownAllocation, Looked, Way};
use crate::target::message::RequestId;

/// How long a host waits for an answer before it is told to come again. As for reservations, well
/// under the minute that a Linux host gives an admin command.
pub const ANSWER_TIMEOUT: Nanos = Nanos::from_secs(10);

/// How soon a result is looked for while a thread is at work.
const LOOK_INTERVAL: Nanos = Nanos::from_millis(1);

/// Results that wait for the core; a thread with one more waits for room.
const RESULTS_MAX: usize = 64;

/// Whose look it is: a request of a connection of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its connection.
    pub connection: SlotId,
    /// Which of its requests.
    pub request: RequestId,
}

/// Why a look is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// Too many wait.
    Busy,
    /// The namespace's device knows nothing.
    Unknown,
}

/// The end of a look.
#[derive(Debug)]
pub struct Ended {
    /// Whose it was.
    pub asker: Asker,
    /// Where the range ends.
    pub end: Lba,
    /// What was found; nothing when it took too long.
    pub found: Option<Result<Allocation, AllocationError>>,
}

#[derive(Debug)]
struct Look {
    asker: Asker,
    deadline: Nanos,
    /// What is left to be looked at.
    range: Range<Lba>,
    extents_max: usize,
    /// Of a look that is made here.
    query: Option<Arc<dyn AllocationQuery>>,
}

/// See the module.
#[derive(Debug)]
pub struct Looks {
    looks: Vec<Look>,
    results: Receiver<Looked>,
    /// Given to the threads.
    results_to: SyncSender<Looked>,
}

impl Looks {
    /// None yet.
    pub fn none() -> Looks {
        let (results_to, results) = sync_channel(RESULTS_MAX);
        Looks { looks: Vec::new(), results, results_to }
    }

    /// True while there are any.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.looks.is_empty()
    }

    /// True while there are any that the core itself makes.
    pub fn is_made_here(&self) -> bool {
        self.looks.iter().any(|look| look.query.is_some())
    }

    /// When the core is to come by.
    pub fn wake(&self, now: Nanos) -> Wake {
        if self.is_made_here() {
            Wake::Now
        } else if self.is_waiting() {
            Wake::At(now + LOOK_INTERVAL)
        } else {
            Wake::Never
        }
    }

    /// Begins a look at a range that is not empty, for at least one extent.
    pub fn begin(
        &mut self,
        known: &KnownAllocation,
        asker: Asker,
        (range, extents_max): (Range<Lba>, usize),
        now: Nanos,
    ) -> Result<(), NotBegun> {
        let query = match &known.0 {
            Way::Nobody => return Err(NotBegun::Unknown),
            Way::AtOnce(query) => Some(Arc::clone(query)),
            Way::Thread(jobs) => {
                let results = self.results_to.clone();
                let job = Job { asker, range: range.clone(), extents_max, results };
                jobs.try_send(job).map_err(|_| NotBegun::Busy)?;
                None
            }
        };
        let deadline = now + ANSWER_TIMEOUT;
        self.looks.push(Look { asker, deadline, range, extents_max, query });
        Ok(())
    }

    /// The next look that has ended. To be asked until it says `None`, which it does after one step
    /// of a look that is made here.
    pub fn next(&mut self) -> Option<Ended> {
        while let Ok((asker, found)) = self.results.try_recv() {
            // One that took too long is not waited for any more.
            let place = self.looks.iter().position(|look| look.asker == asker);
            let Some(place) = place else { continue };
            let end = self.looks.swap_remove(place).range.end;
            return Some(Ended { asker, end, found: Some(found) });
        }
        let place = self.looks.iter().position(|look| look.query.is_some())?;
        let look = &mut self.looks[place];
        let found = look.query.as_ref()?.look(look.range.clone(), look.extents_max);
        // A list without an extent would not tell the host where to go on.
        if let Ok(Allocation { extents, looked_to }) = &found
            && extents.is_empty()
            && *looked_to < look.range.end
        {
            look.range.start = *looked_to;
            return None;
        }
        let Look { asker, range, .. } = self.looks.swap_remove(place);
        Some(Ended { asker, end: range.end, found: Some(found) })
    }

    /// Gives up what has taken too long.
    pub fn expire(&mut self, now: Nanos) -> Vec<Ended> {
        let late = self.looks.extract_if(.., |look| look.deadline <= now);
        late.map(|look| Ended { asker: look.asker, end: look.range.end, found: None }).collect()
    }
}
