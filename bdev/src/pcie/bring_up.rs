//! From whatever state a controller is in to one with its I/O queues made, and back.
//!
//! Called on the thread that attaches, and on the supervisor's for a reset: with deadlines, never
//! on a core. NVMe Base 2.0 sections 3.5 (initialisation, shutdown) and 5.4, 5.5, 5.27.1.5.

use reactor::Nanos;
use zerocopy::little_endian::U32;

use super::admin::{AdminQueue, check_alive};
use super::bar::{ALL_ONES, Bar};
use super::error::PcieError;
use super::identity::{ControllerIdentity, Namespace, ShadowDoorbells};
use super::layout;
use super::options::{NAMESPACES_MAX, PAGE_BYTES, QUEUE_ENTRIES};
use super::platform::Platform;
use super::ring::{Place, Shadow};
use crate::nvme::command::SubmissionEntry;
use crate::nvme::feature::{self, QueueCounts};
use crate::nvme::identify::{
    IDENTIFY_BYTES, IdentifyController, IdentifyKind, IdentifyNamespace, NamespaceList,
    NvmIdentifyController,
};
use crate::nvme::opcode::AdminOpcode;
use crate::nvme::register::{
    CAPABILITIES_OFFSET, CONFIGURATION_OFFSET, Capabilities, Configuration, ControllerStatus,
    STATUS_OFFSET, ShutdownRequest, ShutdownStatus,
};

/// Shortest time that a controller is given to become ready, whatever it says: some say nothing.
const READY_TIMEOUT_MIN_MS: u32 = 2_000;
/// Time that a shutdown is given when the controller says none.
const SHUTDOWN_TIMEOUT_MS: u64 = 5_000;
/// Longest time that a shutdown is given.
const SHUTDOWN_TIMEOUT_MAX_MS: u64 = 60_000;
/// CC.EN.
const ENABLE: u32 = 0b1;
/// CC.CSS for all supported command sets.
const ALL_COMMAND_SETS: u32 = 0b110 << 4;

/// Reads and checks the capabilities.
///
/// # Errors
///
/// The controller is gone, or one that this driver cannot use.
pub fn capabilities(bar: Bar) -> Result<Capabilities, PcieError> {
    let capabilities = Capabilities(bar.read64(CAPABILITIES_OFFSET));
    if capabilities.0 == u64::MAX {
        return Err(PcieError::Gone);
    }
    let sets = Capabilities::COMMAND_SET_NVM | Capabilities::COMMAND_SETS;
    if capabilities.0 & sets == 0 {
        return Err(PcieError::Unsupported("it has no NVM command set"));
    }
    if capabilities.page_bytes_min() > u64::from(PAGE_BYTES) {
        return Err(PcieError::Unsupported("it takes no memory pages of 4 KiB"));
    }
    if capabilities.queue_entries_last() == 0 {
        return Err(PcieError::Identity("its queues have one entry"));
    }
    Ok(capabilities)
}

/// Entries of an I/O queue: as many as wanted, or the largest power of two that there may be.
pub fn queue_entries(capabilities: Capabilities) -> u16 {
    let most = u32::from(capabilities.queue_entries_last()) + 1;
    let power = 1_u32 << most.ilog2();
    u16::try_from(power).map_or(QUEUE_ENTRIES, |power| power.min(QUEUE_ENTRIES))
}

fn ready_timeout(capabilities: Capabilities) -> Nanos {
    Nanos::from_millis(u64::from(capabilities.timeout_ms().max(READY_TIMEOUT_MIN_MS)))
}

/// Disables the controller and waits until it is: it touches no memory any more.
///
/// # Errors
///
/// It is gone, or does not stop.
pub fn disable(
    bar: Bar,
    platform: &dyn Platform,
    capabilities: Capabilities,
) -> Result<(), PcieError> {
    let configuration = bar.read32(CONFIGURATION_OFFSET);
    if configuration == ALL_ONES {
        return Err(PcieError::Gone);
    }
    bar.write32(CONFIGURATION_OFFSET, configuration & !ENABLE);
    // One that was not ready before says at once that it is not, and has yet to notice.
    platform.pause();
    let timeout = ready_timeout(capabilities);
    wait(bar, platform, timeout, "disabled", |status| !status.is_ready())
}

/// Waits until the status is as wanted.
fn wait(
    bar: Bar,
    platform: &dyn Platform,
    timeout: Nanos,
    wanted: &'static str,
    is_wanted: impl Fn(ControllerStatus) -> bool,
) -> Result<(), PcieError> {
    let deadline = platform.now() + timeout;
    loop {
        let status = bar.read32(STATUS_OFFSET);
        if status == ALL_ONES {
            return Err(PcieError::Gone);
        }
        if is_wanted(ControllerStatus(status)) {
            return Ok(());
        }
        if platform.now() >= deadline {
            return Err(PcieError::NotReady { wanted, waited_ms: timeout.0 / 1_000_000 });
        }
        platform.pause();
    }
}

/// Enables a disabled controller with an empty admin queue.
///
/// # Errors
///
/// It is gone, fails, or does not become ready.
pub fn enable(
    bar: Bar,
    platform: &dyn Platform,
    capabilities: Capabilities,
    admin: &mut AdminQueue,
) -> Result<(), PcieError> {
    admin.restart();
    let mut configuration = Configuration::enabled().0;
    if !capabilities.has(Capabilities::COMMAND_SET_NVM) {
        configuration |= ALL_COMMAND_SETS;
    }
    bar.write32(CONFIGURATION_OFFSET, configuration);
    let timeout = ready_timeout(capabilities);
    let seen =
        wait(bar, platform, timeout, "ready", |status| status.is_ready() || status.is_fatal());
    seen?;
    check_alive(bar).map(|_| ())
}

/// Asks the controller what it is.
///
/// # Errors
///
/// It does not answer, or is one that this driver cannot use.
pub fn identify(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
) -> Result<ControllerIdentity, PcieError> {
    let data = admin.identify::<IdentifyController>(platform, IdentifyKind::Controller, 0)?;
    let mut identity = ControllerIdentity::read(&data)?;
    // Not there before version 2.0, and not needed.
    let kind = IdentifyKind::CommandSetController;
    match admin.identify::<NvmIdentifyController>(platform, kind, 0) {
        Ok(data) => identity.add(&data),
        Err(PcieError::Admin { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(identity)
}

/// Asks for the namespaces that are there: those that can be used, and why others cannot.
///
/// # Errors
///
/// The controller does not answer.
pub fn namespaces(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    controller: &ControllerIdentity,
) -> Result<Vec<Result<Namespace, PcieError>>, PcieError> {
    let ids = namespace_ids(platform, admin, controller)?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let data = admin.identify::<IdentifyNamespace>(platform, IdentifyKind::Namespace, id)?;
        let kind = IdentifyKind::NamespaceDescriptors;
        let descriptors = match admin.identify::<[u8; IDENTIFY_BYTES]>(platform, kind, id) {
            Ok(descriptors) => Some(descriptors),
            // Not there before version 1.3.
            Err(PcieError::Admin { .. }) => None,
            Err(error) => return Err(error),
        };
        found.push(Namespace::read(id, controller, &data, descriptors.as_deref()));
    }
    Ok(found)
}

fn namespace_ids(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    controller: &ControllerIdentity,
) -> Result<Vec<u32>, PcieError> {
    let kind = IdentifyKind::ActiveNamespaces;
    match admin.identify::<NamespaceList>(platform, kind, 0) {
        Ok(list) => {
            let mut ids: Vec<u32> = list.iter().take(NAMESPACES_MAX).collect();
            ids.dedup();
            Ok(ids)
        }
        // Version 1.0 has no list: they are numbered without gaps.
        Err(PcieError::Admin { .. }) => {
            let most = u32::try_from(NAMESPACES_MAX).expect("a small number");
            Ok((1..=controller.namespace_count.min(most)).collect())
        }
        Err(error) => Err(error),
    }
}

/// Asks for `wanted` I/O queue pairs and says how many there may be, at least one.
///
/// # Errors
///
/// The controller does not answer.
pub fn negotiate_queues(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    wanted: u16,
) -> Result<u16, PcieError> {
    let counts = QueueCounts { submission: u32::from(wanted), completion: u32::from(wanted) };
    let entry = SubmissionEntry::set_feature(0, feature::NUMBER_OF_QUEUES, counts.value());
    let result = admin.execute(platform, AdminOpcode::SetFeatures, entry)?;
    let granted = QueueCounts::from_value(result)
        .ok_or(PcieError::Identity("it grants more queues than there can be"))?;
    let granted = granted.submission.min(granted.completion).clamp(1, u32::from(wanted));
    Ok(u16::try_from(granted).expect("no more than were wanted"))
}

/// Tells the controller who this host is, if it keeps reservations; whether it knows it then.
///
/// # Errors
///
/// It does not answer.
pub fn tell_host(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    controller: &ControllerIdentity,
    host_id: Option<[u8; 16]>,
) -> Result<bool, PcieError> {
    let Some(host_id) = host_id.filter(|_| controller.keeps_reservations()) else {
        return Ok(false);
    };
    let view = admin.view();
    view.zero(layout::ADMIN_DATA, host_id.len());
    let len = if controller.long_host_ids { host_id.len() } else { host_id.len() / 2 };
    view.write(layout::ADMIN_DATA, &host_id[..len]);
    // EXHID (NVMe Base 2.0 figure 331).
    let is_long = u32::from(controller.long_host_ids);
    let entry = SubmissionEntry::set_feature(0, feature::HOST_IDENTIFIER, is_long);
    let entry = entry.with_prp([view.address(layout::ADMIN_DATA), 0]);
    match admin.execute(platform, AdminOpcode::SetFeatures, entry) {
        Ok(_) => Ok(true),
        Err(PcieError::Admin { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the completions of a queue raise its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// They do; who is told is the platform's business.
    Vector(u16),
    /// The device has no vector for the queue.
    Off,
}

/// Makes the I/O queue pair with this number.
///
/// # Errors
///
/// The controller does not answer, or refuses.
pub fn create_queue(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    queue_id: u16,
    place: &Place,
    interrupts: Interrupts,
) -> Result<(), PcieError> {
    let size = u32::from(place.entries - 1) << 16 | u32::from(queue_id);
    let (vector, enabled) = match interrupts {
        Interrupts::Vector(vector) => (u32::from(vector), 0b10),
        Interrupts::Off => (0, 0),
    };
    let create = |opcode: AdminOpcode, offset: usize, attributes: u32| {
        let mut entry = SubmissionEntry::new(opcode.value(), 0, 0);
        entry.cdw10 = U32::new(size);
        entry.cdw11 = U32::new(attributes);
        entry.with_prp([place.view.address(offset), 0])
    };
    let opcode = AdminOpcode::CreateCompletionQueue;
    let entry = create(opcode, place.completions, vector << 16 | enabled | 0b1);
    admin.execute(platform, opcode, entry)?;
    let opcode = AdminOpcode::CreateSubmissionQueue;
    let entry = create(opcode, place.submissions, u32::from(queue_id) << 16 | 0b1);
    admin.execute(platform, opcode, entry)?;
    Ok(())
}

/// Deletes the I/O queue pair with this number: what was in it is aborted.
///
/// # Errors
///
/// The controller does not answer, or refuses.
pub fn delete_queue(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    queue_id: u16,
) -> Result<(), PcieError> {
    for opcode in [AdminOpcode::DeleteSubmissionQueue, AdminOpcode::DeleteCompletionQueue] {
        let mut entry = SubmissionEntry::new(opcode.value(), 0, 0);
        entry.cdw10 = U32::new(u32::from(queue_id));
        admin.execute(platform, opcode, entry)?;
    }
    Ok(())
}

/// Has the controller look at doorbells in memory, if it can, once its queues are made.
///
/// # Errors
///
/// It does not answer.
pub fn configure_shadow(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    controller: &ControllerIdentity,
) -> Result<ShadowDoorbells, PcieError> {
    if controller.shadow_doorbells == ShadowDoorbells::Absent {
        return Ok(ShadowDoorbells::Absent);
    }
    let view = admin.view();
    let pages = [view.address(layout::SHADOW_DOORBELLS), view.address(layout::SHADOW_ANSWERS)];
    let opcode = AdminOpcode::DoorbellBufferConfig;
    let entry = SubmissionEntry::new(opcode.value(), 0, 0).with_prp(pages);
    match admin.execute(platform, opcode, entry) {
        Ok(_) => Ok(ShadowDoorbells::Supported),
        Err(PcieError::Admin { .. }) => Ok(ShadowDoorbells::Absent),
        Err(error) => Err(error),
    }
}

/// The shadow doorbells of a queue; none when its number is too high for the page.
pub fn shadow(admin: &AdminQueue, queue_id: u16, stride_bytes: u32) -> Option<Shadow> {
    let offset = |index: usize| {
        let offset = index * stride_bytes as usize;
        let fits = offset + 4 <= PAGE_BYTES as usize;
        fits.then_some([layout::SHADOW_DOORBELLS + offset, layout::SHADOW_ANSWERS + offset])
    };
    let tail = 2 * usize::from(queue_id);
    Some(Shadow { view: admin.view(), tail: offset(tail)?, head: offset(tail + 1)? })
}

/// Tells the controller that the end is near and waits until it is ready for it.
///
/// # Errors
///
/// It is gone, or does not get ready.
pub fn shut_down(
    bar: Bar,
    platform: &dyn Platform,
    controller: &ControllerIdentity,
) -> Result<(), PcieError> {
    let status = check_alive(bar)?;
    if !status.is_ready() {
        return Ok(());
    }
    let configuration = Configuration(bar.read32(CONFIGURATION_OFFSET));
    let configuration = configuration.with_shutdown(ShutdownRequest::Normal);
    bar.write32(CONFIGURATION_OFFSET, configuration.0);
    let said_ms = u64::from(controller.shutdown_us / 1000);
    let timeout_ms = said_ms.clamp(SHUTDOWN_TIMEOUT_MS, SHUTDOWN_TIMEOUT_MAX_MS);
    let timeout = Nanos::from_millis(timeout_ms);
    wait(bar, platform, timeout, "shut down", |status| {
        status.shutdown() == ShutdownStatus::Complete
    })
}
