//! What a namespace starts with, and the thread that stores what it is to keep.
//!
//! Made on a control thread when a device is shared, part of the namespace. A device that can keep
//! a record gets a thread of its own, since storing blocks, and a file system that hangs must hold
//! up no other namespace. The home core gives it one record at a time and looks for results
//! between passes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
}

impl KeptReservations {
    /// None at the start, and none is kept through a loss of power.
    pub fn none() -> Self {
        Self { initial: Reservations::new(Persistence::Unsupported), jobs: None }
    }

    /// Those that the device has kept for the namespace of this identity. Blocks.
    ///
    /// # Errors
    ///
    /// There is a record and it cannot be used, or the system gives no thread.
    pub fn load(device: &dyn BlockDevice, namespace: Uuid) -> Result<Self, StoreError> {
        let initial = reservation::load(device, namespace)?;
        let jobs = match device.reservation_store() {
            Some(store) => Some(start(store, namespace)?),
            None => None,
        };
        Ok(Self { initial, jobs })
    }

    /// What there was when the device was shared.
    pub fn initial(&self) -> &Reservations {
        &self.initial
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
fn start(store: Arc<dyn ReservationStore>, namespace: Uuid) -> Result<SyncSender<Job>, StoreError> {
    let (jobs, waiting): (_, Receiver<Job>) = sync_channel(JOBS_MAX);
    let place = store.place();
    let run = move || {
        for Job { ticket, record, results } in waiting {
            let result = match store.save(namespace, &record) {
                Ok(()) => StoreResult::Stored,
                Err(_) => StoreResult::Failed,
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
