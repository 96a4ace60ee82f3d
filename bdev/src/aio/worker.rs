//! The thread that zeroes ranges for an AIO device, since the kernel has no asynchronous way.
//!
//! One a device, started with it on a control thread, ended when the device and its last queue
//! pair are gone. A queue pair gives it jobs over a bounded channel, gets the results over one of
//! its own, and is woken by its eventfd. The thread holds the file only while it works on it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use nix::sys::eventfd::EventFd;
use reactor::slab::SlotId;

use crate::file::{Backing, RangeMode, Reaped};

/// Jobs that wait for the thread; what does not fit waits in its queue pair.
const JOBS_MAX: usize = 64;

/// One range to zero.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: SlotId,
    pub(super) mode: RangeMode,
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    pub(super) backing: Arc<Backing>,
    /// With room for the result.
    pub(super) results: SyncSender<Reaped>,
    /// Told of the result.
    pub(super) event: Arc<EventFd>,
}

impl Job {
    fn run(self) {
        let zeroed = self.backing.zero_range(self.mode, self.offset_bytes, self.len_bytes);
        // The file is closed, if this is the last of it, before anybody hears of the end.
        drop(self.backing);
        let result = match zeroed {
            Ok(()) => 0,
            Err(errno) => -(errno as i32),
        };
        // Neither fails but for a queue pair that is gone and waits for nothing.
        let _ = self.results.try_send(Reaped { id: self.id, result });
        let _ = self.event.write(1);
    }
}

/// A way to the thread.
#[derive(Clone, Debug)]
pub(super) struct RangeWorker {
    jobs: SyncSender<Job>,
}

impl RangeWorker {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<RangeWorker> {
        let (jobs, waiting): (_, Receiver<Job>) = sync_channel(JOBS_MAX);
        let run = move || waiting.into_iter().for_each(Job::run);
        std::thread::Builder::new().name(String::from("aio-ranges")).spawn(run)?;
        Ok(RangeWorker { jobs })
    }

    /// Gives it a job, or gives the job back when too many wait.
    pub(super) fn give(&self, job: Job) -> Result<(), Job> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job)) => Err(job),
            Err(TrySendError::Disconnected(_)) => {
                unreachable!("the thread ends with the last that could give it a job")
            }
        }
    }
}
