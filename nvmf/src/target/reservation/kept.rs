//! What a namespace starts with, and the thread that stores what it is to keep.
//!
//! Made on a control thread when a device is shared, part of the namespace. A device that can keep
//! a record gets a thread of its own, since storing blocks, and a file system that hangs must hold
//! up no other namespace. The home core gives it one record at a time and looks for results
//! between passes.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use bdev::BlockDevice;
use bdev::reservation::keeper::StoreResult;
use bdev::reservation::{self, Persistence, ReservationStore, Reservations, StoreError};
use uuid::Uuid;

/// Records that wait for the thread. The keeper stores one after the other; a second may follow
/// when the namespace went and came back meanwhile.
const JOBS_MAX: usize = 2;

/// Results that wait for the home core; a thread with one more waits for room.
pub(super) const RESULTS_MAX: usize = 64;

/// Stack of the thread, which writes a file and no more.
const STACK_BYTES: usize = 256 << 10;

/// Which attempt, and how it ended.
pub(super) type Stored = (u64, StoreResult);

#[derive(Debug)]
struct Job {
    ticket: u64,
    record: Vec<u8>,
    results: SyncSender<Stored>,
}

/// The reservations that a namespace starts with, and where they are kept.
#[derive(Debug)]
pub struct KeptReservations {
    initial: Reservations,
    jobs: Option<SyncSender<Job>>,
    /// Shared with the thread, and read by control threads; no core looks at it.
    failures: Arc<Failures>,
}

/// How often reservations could not be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveFailures {
    /// Since the namespace was made.
    pub count: u64,
    /// What was wrong the first time, with its cause.
    pub first: Option<String>,
}

/// The same as the thread notes it.
#[derive(Debug, Default)]
struct Failures {
    count: AtomicU64,
    first: OnceLock<String>,
}

impl KeptReservations {
    /// None at the start, and none is kept through a loss of power.
    pub fn none() -> Self {
        let initial = Reservations::new(Persistence::Unsupported);
        Self { initial, jobs: None, failures: Arc::default() }
    }

    /// Those that the device has kept for the namespace of this identity. Blocks.
    ///
    /// # Errors
    ///
    /// There is a record and it cannot be used, or the system gives no thread.
    pub fn load(device: &dyn BlockDevice, namespace: Uuid) -> Result<Self, StoreError> {
        let initial = reservation::load(device, namespace)?;
        let failures = Arc::default();
        let jobs = match device.reservation_store() {
            Some(store) => Some(start(store, namespace, Arc::clone(&failures))?),
            None => None,
        };
        Ok(Self { initial, jobs, failures })
    }

    /// What there was when the device was shared.
    pub fn initial(&self) -> &Reservations {
        &self.initial
    }

    /// How often they could not be stored. On a control thread.
    pub fn failures(&self) -> SaveFailures {
        // Relaxed, as where it is counted: a number by itself.
        let count = self.failures.count.load(Ordering::Relaxed);
        SaveFailures { count, first: self.failures.first.get().cloned() }
    }

    /// Whether reservations can be kept through a loss of power.
    pub fn can_be_kept(&self) -> bool {
        self.jobs.is_some()
    }

    /// Stores a record, and sends the result; false when that could not be begun.
    pub(super) fn store(&self, ticket: u64, record: Vec<u8>, results: &SyncSender<Stored>) -> bool {
        let job = Job { ticket, record, results: results.clone() };
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok())
    }
}

/// Starts the thread; it ends with the last that could give it something.
fn start(
    store: Arc<dyn ReservationStore>,
    namespace: Uuid,
    failures: Arc<Failures>,
) -> Result<SyncSender<Job>, StoreError> {
    let (jobs, waiting): (_, Receiver<Job>) = sync_channel(JOBS_MAX);
    let place = store.place();
    let run = move || {
        for Job { ticket, record, results } in waiting {
            let result = match store.save(namespace, &record) {
                Ok(()) => StoreResult::Stored,
                Err(error) => {
                    failures.first.get_or_init(|| in_words(&error));
                    failures.count.fetch_add(1, Ordering::Relaxed);
                    StoreResult::Failed
                }
            };
            // Fails only when the target is gone, and nobody waits for it.
            let _ = results.send((ticket, result));
        }
    };
    std::thread::Builder::new()
        .name(String::from("reservations"))
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|source| StoreError::System { action: "start a thread for", place, source })?;
    Ok(jobs)
}

/// An error with its cause.
fn in_words(error: &StoreError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
