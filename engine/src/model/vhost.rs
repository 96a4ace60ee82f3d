//! A vhost device of the model.

use std::sync::Arc;

use vhost_blk::session::VhostDevice;

use crate::command::{AddVhost, VhostInfo};
use crate::export::Export;

/// How far a vhost device is.
#[derive(Debug)]
pub(crate) enum VhostPhase {
    /// Its socket is being bound.
    Coming,
    /// It serves.
    Present(VhostDevice),
    /// A thread ends it.
    Going,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct VhostEntry {
    /// As it was asked for, with a number of queues.
    pub asked: AddVhost,
    pub phase: VhostPhase,
    /// Its handle of the device.
    pub export: Arc<Export>,
}

impl VhostEntry {
    /// What a listing shows.
    pub fn info(&self) -> VhostInfo {
        let AddVhost { socket, device, queues, access } = self.asked.clone();
        let served = match &self.phase {
            VhostPhase::Present(served) => Some(served),
            VhostPhase::Coming | VhostPhase::Going => None,
        };
        VhostInfo {
            socket,
            device,
            queues: queues.unwrap_or_default(),
            access,
            is_connected: served.is_some_and(VhostDevice::is_connected),
            failure: served.and_then(VhostDevice::failure),
        }
    }
}
