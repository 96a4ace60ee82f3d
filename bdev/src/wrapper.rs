//! A device that stands before one other: what all of those have in common.
//!
//! Implemented by splitting, emulation, delays and faults; called as any device is. Name, words,
//! identity and size are always those of the device behind, the size as it is now.

use std::fmt::Debug;
use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use crate::allocation::AllocationQuery;
use crate::device::{BlockDevice, Geometry, Limits, OpenError, ResizeError};
use crate::queue_pair::QueuePair;
use crate::reservation::{DeviceReservations, ReservationStore};
use crate::session::Sessions;

/// See the module.
pub(crate) trait Wrapper: Debug + Send + Sync {
    /// The device behind.
    fn inner(&self) -> &dyn BlockDevice;

    /// What the wrapper accepts.
    fn outer_limits(&self) -> Limits {
        self.inner().limits()
    }

    /// As [`BlockDevice::open_queue_pair`].
    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError>;
}

impl<W: Wrapper> BlockDevice for W {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn about(&self) -> Option<String> {
        self.inner().about()
    }

    fn geometry(&self) -> Geometry {
        self.inner().geometry()
    }

    fn resize(&self, blocks: u64) -> Result<Geometry, ResizeError> {
        self.inner().resize(blocks)
    }

    fn limits(&self) -> Limits {
        self.outer_limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.inner().uuid()
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        self.inner().reservation_store()
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        self.inner().reservations()
    }

    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        self.inner().allocation()
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        self.inner().sessions()
    }

    fn is_best_alone(&self) -> bool {
        self.inner().is_best_alone()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.open_wrapped(cx, depth)
    }
}
