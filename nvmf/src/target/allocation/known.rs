//! What a namespace knows of the blocks of its device, and the thread that asks where that blocks.
//!
//! Made on a control thread when a device is shared, part of the namespace. A device that answers
//! from memory is asked on the core; any other gets a thread of its own, so that a file system that
//! hangs holds up no other namespace.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bdev::allocation::{Allocation, AllocationError, Pace};
use bdev::{AllocationQuery, BlockDevice, Lba};

use super::looks::Asker;

/// Looks that wait for the thread: a second of them at the longest that each may take. One more is
/// told to come again.
pub(super) const JOBS_MAX: usize = 16;

/// Stack of the thread, which seeks in a file and no more.
const STACK_BYTES: usize = 256 << 10;

/// Whose look it was, and what it found.
pub(super) type Looked = (Asker, Result<Allocation, AllocationError>);

/// A look for the thread.
#[derive(Debug)]
pub(super) struct Job {
    pub asker: Asker,
    pub range: Range<Lba>,
    pub extents_max: usize,
    pub results: SyncSender<Looked>,
}

/// What a namespace knows of the blocks of its device.
#[derive(Debug)]
pub struct KnownAllocation(pub(super) Way);

/// How it is found out.
#[derive(Debug)]
pub(super) enum Way {
    /// Not at all.
    Nobody,
    /// By asking, on any thread.
    AtOnce(Arc<dyn AllocationQuery>),
    /// By a thread that asks.
    Thread(SyncSender<Job>),
}

impl KnownAllocation {
    /// What can be known without a thread.
    pub fn at_once(device: &dyn BlockDevice) -> Self {
        match device.allocation() {
            Some(query) if query.pace() == Pace::AtOnce => Self(Way::AtOnce(query)),
            _ => Self(Way::Nobody),
        }
    }

    /// What a device knows. On a control thread.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn of(device: &dyn BlockDevice) -> io::Result<Self> {
        match device.allocation() {
            Some(query) if query.pace() == Pace::Blocks => Ok(Self(Way::Thread(start(query)?))),
            _ => Ok(Self::at_once(device)),
        }
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        !matches!(self.0, Way::Nobody)
    }
}

/// Starts the thread; it ends with the last that could give it something.
fn start(query: Arc<dyn AllocationQuery>) -> io::Result<SyncSender<Job>> {
    let (jobs, waiting): (_, Receiver<Job>) = sync_channel(JOBS_MAX);
    let run = move || {
        for Job { asker, range, extents_max, results } in waiting {
            // Fails only when the core is gone, and nobody waits for it.
            let _ = results.send((asker, query.look(range, extents_max)));
        }
    };
    let thread = std::thread::Builder::new().name(String::from("allocation"));
    thread.stack_size(STACK_BYTES).spawn(run)?;
    Ok(jobs)
}
