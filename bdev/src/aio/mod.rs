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

use std::io;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::file::{self, Backing, FileDevice, FileError};
use context::Context;
use worker::RangeWorker;

/// The contexts of all cores, as a device uses them.
#[derive(Debug)]
pub struct Contexts {
    /// Where there are ranges to zero.
    worker: Option<RangeWorker>,
    /// Why it is not another interface, in words, where that was asked for first.
    reason: Option<String>,
}

impl file::Interface for Contexts {
    type Port = Context;

    fn describe(&self) -> String {
        match &self.reason {
            None => "Linux AIO".to_owned(),
            Some(reason) => format!("Linux AIO ({reason})"),
        }
    }

    fn open_port(
        &self,
        cx: &mut Cx,
        backing: &Arc<Backing>,
        capacity: u32,
        depth: u32,
    ) -> io::Result<Context> {
        Context::open(cx, backing.clone(), self.worker.clone(), capacity, depth)
    }
}

/// The device.
pub type Aio = FileDevice<Contexts>;

impl Aio {
    /// Serves an open file. Starts a thread where ranges can be zeroed; the thread has the
    /// affinity of the caller, so call it on a thread that is pinned to no core.
    ///
    /// # Errors
    ///
    /// [`FileError::Interface`] where the kernel has no AIO, or no thread can be had.
    pub fn new(backing: Arc<Backing>, uuid: Option<Uuid>) -> Result<Aio, FileError> {
        Aio::open(backing, uuid, None)
    }

    /// As [`Aio::new`], for an interface that could not be had; the device says why.
    ///
    /// # Errors
    ///
    /// As [`Aio::new`].
    pub fn instead(refused: &FileError, backing: Arc<Backing>) -> Result<Aio, FileError> {
        let mut reason = refused.to_string();
        if let Some(source) = std::error::Error::source(refused) {
            reason = format!("{reason}: {source}");
        }
        Aio::open(backing, None, Some(reason))
    }

    fn open(
        backing: Arc<Backing>,
        uuid: Option<Uuid>,
        reason: Option<String>,
    ) -> Result<Aio, FileError> {
        let interface = |source| FileError::Interface { interface: "Linux AIO", source };
        context::probe().map_err(interface)?;
        let worker = match backing.has_ranges() {
            true => Some(RangeWorker::start().map_err(interface)?),
            false => None,
        };
        Ok(FileDevice::over(Contexts { worker, reason }, backing, uuid))
    }
}
