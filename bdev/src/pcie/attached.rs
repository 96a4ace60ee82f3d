//! The controllers of this process, so that two namespaces of one drive share it.
//!
//! Looked at on control threads only, when a device is opened.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reactor::dma::Region;
use uuid::Uuid;

use super::address;
use super::controller::Controller;
use super::device::PcieDevice;
use super::error::PcieError;
use super::options::{Options, QUEUES_MAX};
use super::vfio::Vfio;
use crate::uri::{PciAddress, PcieUri};

/// Identifies the machine for as long as it is installed (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// Controllers that are attached, or were.
static ATTACHED: Mutex<Vec<(PciAddress, Weak<Controller>)>> = Mutex::new(Vec::new());

/// Opens a namespace of a local drive, with an I/O queue for each core of the machine.
///
/// # Errors
///
/// The address cannot be driven, the controller does not answer, or the namespace is not there.
pub fn open(uri: &PcieUri) -> Result<PcieDevice, PcieError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let queues = u16::try_from(cores).unwrap_or(QUEUES_MAX).clamp(1, QUEUES_MAX);
    let host_id = host_id(Path::new(MACHINE_ID));
    let controller = attach(uri.address, Options { queues, host_id, ..Options::default() })?;
    let device = PcieDevice::new(uri.name(), controller, uri.namespace)?;
    Ok(device.with_recovery(uri.recovery))
}

/// Who this machine is, as it is towards drives that keep reservations; nothing where it does not
/// say.
fn host_id(file: &Path) -> Option<[u8; 16]> {
    let text = std::fs::read_to_string(file).ok()?;
    let id = Uuid::parse_str(text.trim()).ok()?;
    (!id.is_nil()).then(|| id.into_bytes())
}

fn attach(address: PciAddress, options: Options) -> Result<Arc<Controller>, PcieError> {
    // Held while the controller is brought up: a second namespace waits for the first.
    let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
    attached.retain(|(_, controller)| controller.strong_count() > 0);
    // One that is dead may still be held by those whose I/O it failed.
    let mut same = attached.iter().filter(|(other, _)| *other == address);
    let alive = |controller: &Arc<Controller>| !controller.is_dead();
    if let Some(controller) = same.find_map(|(_, one)| one.upgrade().filter(alive)) {
        return Ok(controller);
    }
    let text = address.to_string();
    let device = address::check(Path::new("/"), &text)?;
    let platform = Arc::new(Vfio::open(&device, &text)?);
    let controller = Arc::new(Controller::attach(&text, platform, options)?);
    attached.push((address, Arc::downgrade(&controller)));
    Ok(controller)
}

/// Shows memory that is new, of a pool that grew or a guest's, to every attached controller. One
/// that is attached later is shown the memory of the cores that use it. One thread a region.
///
/// # Errors
///
/// A controller that cannot be shown more; the others have been.
pub fn share(region: &Region) -> Result<(), PcieError> {
    let attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut result = Ok(());
    for controller in attached.iter().filter_map(|(_, controller)| controller.upgrade()) {
        if let Err(source) = controller.share(region) {
            result =
                Err(PcieError::System { what: "new memory cannot be shown to a drive", source });
        }
    }
    result
}
