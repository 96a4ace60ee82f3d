//! One namespace of a controller, as a block device.
//!
//! Opened on control threads; queue pairs are opened and dropped on their cores, and a controller
//! lives for as long as any device or queue pair of it does.

use std::sync::Arc;

use reactor::Cx;
use uuid::Uuid;

use super::controller::Controller;
use super::error::PcieError;
use super::event::EventCounts;
use super::identity::Namespace;
use super::options::Recovery;
use super::queue_pair::{PcieQueuePair, Use};
use super::reserve::PcieReservations;
use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::queue_pair::QueuePair;
use crate::reservation::DeviceReservations;
use crate::reservation::device::Abilities;

/// A namespace of a local drive.
#[derive(Debug)]
pub struct PcieDevice {
    name: String,
    controller: Arc<Controller>,
    namespace: Namespace,
    recovery: Recovery,
}

impl PcieDevice {
    /// The namespace with this number.
    ///
    /// # Errors
    ///
    /// It is not there, or cannot be used.
    pub fn new(
        name: String,
        controller: Arc<Controller>,
        namespace: u32,
    ) -> Result<PcieDevice, PcieError> {
        let namespace = controller.namespace(namespace)?;
        let recovery = controller.shared().options.recovery;
        Ok(PcieDevice { name, controller, namespace, recovery })
    }

    /// The same, whose I/O in flight is treated like this when the controller is reset.
    pub fn with_recovery(self, recovery: Recovery) -> PcieDevice {
        PcieDevice { recovery, ..self }
    }

    /// Its controller.
    pub fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// Opens the calling core's queue pair, as what it is.
    ///
    /// # Errors
    ///
    /// All queues of the controller are taken, or the core's memory cannot be shown to it.
    pub fn open(&self, cx: &mut Cx, depth: u32) -> Result<PcieQueuePair, OpenError> {
        let refuse = |source| OpenError::System { device: self.name.clone(), source };
        let shared = self.controller.shared();
        if self.controller.is_dead() {
            return Err(refuse(std::io::Error::new(
                std::io::ErrorKind::NotConnected,
                "the controller is gone: remove the device and add it again",
            )));
        }
        shared.regions.add(&*shared.platform, cx.dma.region()).map_err(refuse)?;
        let Some(port) = shared.core_ports().iter().position(|port| port.take()) else {
            let count = shared.core_ports().len();
            let text = format!("all {count} I/O queues of the controller are in use");
            return Err(refuse(std::io::Error::new(std::io::ErrorKind::ResourceBusy, text)));
        };
        let use_of = Use { namespace: self.namespace, recovery: self.recovery };
        Ok(PcieQueuePair::new(cx, self.controller.clone(), port, use_of, depth.max(1)))
    }
}

impl BlockDevice for PcieDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> Option<String> {
        let identity = self.controller.identity();
        let mut about = format!("NVMe over VFIO, {} {}", identity.model, identity.serial);
        if self.controller.is_dead() {
            about += "; gone: remove the device and add it again";
        }
        let events = self.controller.event_counts();
        if events != EventCounts::default() {
            about += &format!("; {events}");
        }
        Some(about)
    }

    fn geometry(&self) -> Geometry {
        self.namespace.geometry
    }

    fn limits(&self) -> Limits {
        self.namespace.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.namespace.uuid
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        let abilities = Abilities(self.namespace.reservations);
        if abilities == Abilities::default() || !self.controller.is_host_known() {
            return None;
        }
        let (controller, namespace) = (self.controller.clone(), self.namespace.id);
        Some(Arc::new(PcieReservations::new(controller, namespace, abilities)))
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        Ok(Box::new(self.open(cx, depth)?))
    }
}
