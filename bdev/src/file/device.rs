//! The device of an open file, over either interface of the kernel.
//!
//! Opened on a control thread, shared by all cores; a queue pair is opened, used and dropped on its
//! core's thread. [`crate::Aio`] and [`crate::Uring`] are this with their own [`Interface`].

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use super::queue_pair::{FileQueuePair, kernel_depth};
use super::{Backing, Port, about, allocation, limits, reservation_store};
use crate::allocation::AllocationQuery;
use crate::device::{BlockDevice, Geometry, Limits, OpenError, ResizeError};
use crate::queue_pair::QueuePair;
use crate::reservation::ReservationStore;

/// A way into the kernel, on any core.
pub(crate) trait Interface: Debug + Send + Sync {
    /// One core's part of it.
    type Port: Port + 'static;

    /// What an operator calls it, and what is to be known of it.
    fn describe(&self) -> String;

    /// Opens the calling core's way to a file for `capacity` commands at once, of slots below
    /// `depth`.
    fn open_port(
        &self,
        cx: &mut Cx,
        backing: &Arc<Backing>,
        capacity: u32,
        depth: u32,
    ) -> io::Result<Self::Port>;
}

/// See the module.
#[derive(Debug)]
pub struct FileDevice<I> {
    uuid: Option<Uuid>,
    backing: Arc<Backing>,
    interface: I,
}

impl<I> FileDevice<I> {
    /// Serves an open file.
    pub(crate) fn over(interface: I, backing: Arc<Backing>, uuid: Option<Uuid>) -> FileDevice<I> {
        FileDevice { uuid, backing, interface }
    }

    /// True when I/O goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.backing.is_direct()
    }
}

impl<I: Interface> BlockDevice for FileDevice<I> {
    fn name(&self) -> &str {
        self.backing.path()
    }

    fn about(&self) -> Option<String> {
        Some(about(&self.interface.describe(), &self.backing))
    }

    fn geometry(&self) -> Geometry {
        self.backing.look_again()
    }

    fn resize(&self, blocks: u64) -> Result<Geometry, ResizeError> {
        self.backing.resize(blocks)
    }

    fn limits(&self) -> Limits {
        limits(&self.backing)
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        reservation_store(&self.backing)
    }

    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        allocation(&self.backing)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let depth = depth.max(1);
        let port = self.interface.open_port(cx, &self.backing, kernel_depth(depth), depth);
        let port =
            port.map_err(|source| OpenError::System { device: self.name().to_owned(), source })?;
        Ok(Box::new(FileQueuePair::new(self.backing.clone(), port, depth)))
    }
}
