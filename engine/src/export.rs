//! A device as one namespace has it: the same device under a handle of its own.
//!
//! Made by the conductor, a handle a namespace, a new one whenever the device behind a namespace is
//! exchanged. A core keeps the handle for as long as it has a queue pair by it, so that the count
//! of its references tells when nothing of the namespace is in use any more, whatever the other
//! namespaces of the core wait for. I/O does not pass through here: queue pairs are the device's
//! own, so a handle costs an I/O nothing.

use std::sync::Arc;

use bdev::device::OpenError;
use bdev::reservation::{DeviceReservations, ReservationStore};
use bdev::session::Sessions;
use bdev::{AllocationQuery, BlockDevice, Geometry, Limits, QueuePair};
use reactor::Cx;
use uuid::Uuid;

/// See the module.
#[derive(Debug)]
pub(crate) struct Export {
    device: Arc<dyn BlockDevice>,
}

impl Export {
    /// A handle of a device.
    pub fn new(device: Arc<dyn BlockDevice>) -> Arc<Export> {
        Arc::new(Export { device })
    }

    /// True when nobody has the handle but the caller.
    pub fn is_unused(self: &Arc<Export>) -> bool {
        // Nobody else makes references of a handle that no description has any more, so that a
        // count of one stays one. Cores drop theirs after the queue pair, and the count is read
        // with the ordering of the lock that told of the cores' last description.
        Arc::strong_count(self) == 1
    }
}

impl BlockDevice for Export {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn about(&self) -> Option<String> {
        self.device.about()
    }

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.device.uuid()
    }

    fn is_best_alone(&self) -> bool {
        self.device.is_best_alone()
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        self.device.sessions()
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        self.device.reservation_store()
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        self.device.reservations()
    }

    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        self.device.allocation()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.device.open_queue_pair(cx, depth)
    }
}
