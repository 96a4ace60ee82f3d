//! Files and block devices through Linux AIO: for kernels without `io_uring`, or where it is
//! switched off.
//!
//! [`context`] is one core's context in the kernel. AIO is asynchronous for direct I/O only: with
//! a file system that has none, a read that is not cached holds the core up until the disk
//! answers. It knows no zeroing of ranges, so those go to a thread of the device ([`worker`]).
//!
//! Opened on a control thread; a queue pair is opened, used and dropped on its core's thread.

mod context;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::file::queue_pair::{FileQueuePair, kernel_depth};
use crate::file::{self, Backing, FileError};
use crate::queue_pair::QueuePair;
use crate::reservation::ReservationStore;
use context::Context;
use worker::RangeWorker;

/// The device.
#[derive(Debug)]
pub struct Aio {
    uuid: Option<Uuid>,
    backing: Arc<Backing>,
    /// Where there are ranges to zero.
    worker: Option<RangeWorker>,
}

impl Aio {
    /// Serves an open file. Starts a thread where ranges can be zeroed; the thread has the
    /// affinity of the caller, so call it on a thread that is pinned to no core.
    ///
    /// # Errors
    ///
    /// [`FileError::Interface`] where the kernel has no AIO, or no thread can be had.
    pub fn new(backing: Arc<Backing>, uuid: Option<Uuid>) -> Result<Aio, FileError> {
        let interface = |source| FileError::Interface { interface: "Linux AIO", source };
        context::probe().map_err(interface)?;
        let worker = match backing.has_ranges() {
            true => Some(RangeWorker::start().map_err(interface)?),
            false => None,
        };
        Ok(Aio { uuid, backing, worker })
    }

    /// True when I/O goes past the page cache, which is when AIO is asynchronous.
    pub fn is_direct(&self) -> bool {
        self.backing.is_direct()
    }
}

impl BlockDevice for Aio {
    fn name(&self) -> &str {
        self.backing.path()
    }

    fn about(&self) -> Option<String> {
        Some(file::about("Linux AIO", &self.backing))
    }

    fn geometry(&self) -> Geometry {
        self.backing.look_again()
    }

    fn limits(&self) -> Limits {
        file::limits(&self.backing)
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        file::reservation_store(&self.backing)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let depth = depth.max(1);
        let worker = self.worker.clone();
        let context = Context::open(self.backing.clone(), worker, kernel_depth(depth), depth);
        let context = context
            .map_err(|source| OpenError::System { device: self.name().to_owned(), source })?;
        Ok(Box::new(FileQueuePair::new(cx, self.backing.clone(), context, depth)))
    }
}
