//! Files and block devices through `io_uring`.
//!
//! [`ring`] is one core's ring: single issuer with deferred task work where the kernel has that,
//! the file registered where it may be. [`crate::file`] makes a queue pair of it. Everything that
//! a device does is asynchronous here, zeroing and unmapping of ranges too.
//!
//! Opened on a control thread; a queue pair is opened, used and dropped on its core's thread.

mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::file::queue_pair::{FileQueuePair, kernel_depth};
use crate::file::{self, Backing, FileError};
use crate::queue_pair::QueuePair;
use crate::reservation::ReservationStore;
use ring::Ring;

/// The device.
#[derive(Debug)]
pub struct Uring {
    uuid: Option<Uuid>,
    backing: Arc<Backing>,
}

impl Uring {
    /// Serves an open file.
    ///
    /// # Errors
    ///
    /// [`FileError::Interface`] where the kernel has no `io_uring`, one that lacks an operation,
    /// or does not let the process use it (`kernel.io_uring_disabled`, a filter of system calls).
    pub fn new(backing: Arc<Backing>, uuid: Option<Uuid>) -> Result<Uring, FileError> {
        Uring::probe()?;
        Ok(Uring { uuid, backing })
    }

    /// Whether the kernel offers what this needs.
    ///
    /// # Errors
    ///
    /// As [`Uring::new`].
    pub fn probe() -> Result<(), FileError> {
        ring::probe().map_err(|source| FileError::Interface { interface: "io_uring", source })
    }

    /// True when I/O goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.backing.is_direct()
    }
}

impl BlockDevice for Uring {
    fn name(&self) -> &str {
        self.backing.path()
    }

    fn about(&self) -> Option<String> {
        Some(file::about("io_uring", &self.backing))
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
        let ring = Ring::open(self.backing.clone(), kernel_depth(depth), depth)
            .map_err(|source| OpenError::System { device: self.name().to_owned(), source })?;
        Ok(Box::new(FileQueuePair::new(cx, self.backing.clone(), ring, depth)))
    }
}
