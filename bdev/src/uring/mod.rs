//! Files and block devices through `io_uring`.
//!
//! A core has one ring ([`core_ring`]), which all its files share through ports ([`port`]): single
//! issuer with deferred task work where the kernel has that, files and the core's DMA memory
//! registered where they may be ([`features`]). [`crate::file`] makes queue pairs of ports.
//! Everything that a device does is asynchronous here, zeroing and unmapping of ranges too.
//!
//! Opened on a control thread; a queue pair is opened, used and dropped on its core's thread.

mod core_ring;
pub(crate) mod features;
#[cfg(test)]
mod forbidden;
mod key;
mod memory;
mod port;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::file::{self, Backing, FileDevice, FileError};
use features::{Features, TaskWork};
use port::RingPort;

/// The rings of all cores, as a device uses them.
#[derive(Debug)]
pub struct Rings {
    /// For the ring of a core that has none yet.
    wanted: Features,
}

impl file::Interface for Rings {
    type Port = RingPort;

    fn describe(&self) -> String {
        match self.wanted.task_work {
            TaskWork::Deferred => "io_uring".to_owned(),
            TaskWork::Cooperative => "io_uring (a kernel without deferred task work)".to_owned(),
            TaskWork::Interrupting => "io_uring (a kernel that interrupts the core)".to_owned(),
        }
    }

    fn open_port(
        &self,
        cx: &mut Cx,
        backing: &Arc<Backing>,
        capacity: u32,
        depth: u32,
    ) -> io::Result<RingPort> {
        RingPort::open(cx, self.wanted, backing.clone(), capacity, depth)
    }
}

/// The device.
pub type Uring = FileDevice<Rings>;

impl Uring {
    /// Serves an open file.
    ///
    /// # Errors
    ///
    /// [`FileError::Interface`] where the kernel has no `io_uring`, one that lacks an operation,
    /// or does not let the process use it (`kernel.io_uring_disabled`, a filter of system calls).
    pub fn new(backing: Arc<Backing>, uuid: Option<Uuid>) -> Result<Uring, FileError> {
        let task_work = features::probe().map_err(interface)?;
        let wanted = Features { task_work, ..Features::BEST };
        Ok(FileDevice::over(Rings { wanted }, backing, uuid))
    }

    /// As on a kernel that has no more than these.
    #[cfg(test)]
    pub(crate) fn with_features(backing: Arc<Backing>, wanted: Features) -> Uring {
        FileDevice::over(Rings { wanted }, backing, None)
    }

    /// Whether the kernel offers what this needs.
    ///
    /// # Errors
    ///
    /// As [`Uring::new`].
    pub fn probe() -> Result<(), FileError> {
        features::probe().map(drop).map_err(interface)
    }
}

fn interface(source: io::Error) -> FileError {
    FileError::Interface { interface: "io_uring", source }
}
