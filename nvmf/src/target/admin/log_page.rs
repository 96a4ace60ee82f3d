//! Get Log Page, but for the discovery log.
//!
//! A page is built whole and the part that was asked for is copied out, zeroes after its end; the
//! largest is some 4 KiB. NVMe Base 2.0 section 5.16.

use bdev::Status;
use bdev::nvme::admin_command::GetLogPage;
use bdev::nvme::command::{NAMESPACE_ID_ALL, SubmissionEntry};
use bdev::nvme::identify::COMMAND_SET_NVM;
use bdev::nvme::log_page::{
    self as page, ANA_GROUPS_ONLY, AnaGroup, AnaHeader, ChangedNamespaceLog, CommandEffectsLog,
    Counter, FirmwareSlotLog, SmartLog, effect,
};
use bdev::nvme::opcode::{AdminOpcode, NvmOpcode};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::changed_namespaces::ChangedNamespaces;
use super::discovery::Directory;
use super::error_log::ErrorLog;
use super::features;
use super::identify_controller::firmware_revision;
use crate::fabrics::Nqn;
use crate::target::limits::TargetLimits;
use crate::target::reservation::notifications::Notifications;
use crate::target::statistics::IoStatistics;
use crate::target::subsystem::{Subsystem, SubsystemKind};

/// 13h: NVMe-MI commands supported and effects, all of which are none.
const MANAGEMENT_EFFECTS: u8 = 0x13;
const MANAGEMENT_EFFECTS_BYTES: usize = 4096;
/// Entries of a page with a descriptor for each of 256 identifiers.
const IDENTIFIERS: usize = 256;

/// Log pages of an I/O controller.
const IO_PAGES: [u8; 10] = [
    page::SUPPORTED,
    page::ERROR,
    page::SMART,
    page::FIRMWARE_SLOT,
    page::CHANGED_NAMESPACES,
    page::COMMAND_EFFECTS,
    page::ANA,
    page::FEATURE_EFFECTS,
    MANAGEMENT_EFFECTS,
    page::RESERVATION_NOTIFICATION,
];
/// Log pages of a discovery controller.
const DISCOVERY_PAGES: [u8; 5] =
    [page::SUPPORTED, page::ERROR, page::FEATURE_EFFECTS, MANAGEMENT_EFFECTS, page::DISCOVERY];

/// Admin commands that are executed.
const ADMIN_COMMANDS: [AdminOpcode; 7] = [
    AdminOpcode::GetLogPage,
    AdminOpcode::Identify,
    AdminOpcode::Abort,
    AdminOpcode::SetFeatures,
    AdminOpcode::GetFeatures,
    AdminOpcode::AsyncEventRequest,
    AdminOpcode::KeepAlive,
];
/// I/O commands that are executed and leave blocks as they are.
const READING_COMMANDS: [NvmOpcode; 8] = [
    NvmOpcode::Flush,
    NvmOpcode::Read,
    NvmOpcode::Compare,
    NvmOpcode::Verify,
    NvmOpcode::ReservationRegister,
    NvmOpcode::ReservationReport,
    NvmOpcode::ReservationAcquire,
    NvmOpcode::ReservationRelease,
];
/// I/O commands that are executed and change blocks.
const WRITING_COMMANDS: [NvmOpcode; 4] =
    [NvmOpcode::Write, NvmOpcode::WriteZeroes, NvmOpcode::DatasetManagement, NvmOpcode::Copy];

/// LSUPP of a supported log page, FSUPP of a supported feature.
const SUPPORTED_BIT: u32 = 1;
/// FSP: the feature is of the controller (figure 257).
const SCOPE_CONTROLLER: u32 = 1 << 21;
/// FSP: the feature is of each namespace.
const SCOPE_NAMESPACE: u32 = 1 << 20;
/// Log pages are read in dwords.
const OFFSET_UNIT_BYTES: u64 = 4;
/// SMART counts data in thousands of 512 bytes.
const DATA_UNIT_BYTES: u64 = 512_000;
const SPARE_PERCENT: u8 = 100;
const SPARE_THRESHOLD_PERCENT: u8 = 10;
/// AFI: slot 1 is active.
const FIRMWARE_SLOT_ACTIVE: u8 = 1;

/// Bytes that a Get Log Page command brings.
pub(super) fn requested_bytes(
    entry: &SubmissionEntry,
    limits: &TargetLimits,
) -> Result<u32, Status> {
    let asked_bytes = entry.get_log_page().bytes;
    let len_bytes = u32::try_from(asked_bytes).ok();
    let len_bytes = len_bytes.filter(|len_bytes| *len_bytes <= limits.transfer_bytes_max);
    len_bytes.ok_or(Status::INVALID_FIELD)
}

/// Reads a command and holds its fields to what is offered (figures 197 to 201).
pub(super) fn request_of(entry: &SubmissionEntry) -> Result<GetLogPage, Status> {
    let request = entry.get_log_page();
    let is_of_controller = matches!(entry.namespace_id.get(), 0 | NAMESPACE_ID_ALL);
    let is_aligned = request.offset.is_multiple_of(OFFSET_UNIT_BYTES);
    let is_good = is_aligned && !request.is_index && is_of_controller;
    if is_good { Ok(request) } else { Err(Status::INVALID_FIELD) }
}

/// CSI, of pages that differ by command set.
fn command_set(entry: &SubmissionEntry) -> u8 {
    entry.cdw14.get().to_le_bytes()[3]
}

/// What log pages are made of.
#[derive(Debug)]
pub(super) struct LogContext<'a> {
    pub subsystem: &'a Subsystem,
    pub statistics: &'a IoStatistics,
    pub errors: &'a ErrorLog,
    pub changed_namespaces: &'a ChangedNamespaces,
    pub notifications: &'a Notifications,
    pub ana_change_count: u64,
    pub directory: Option<&'a Directory>,
    pub host: &'a Nqn,
}

/// Fills `out` with the part of the page that was asked for.
pub(super) fn read(
    cx: &LogContext<'_>,
    entry: &SubmissionEntry,
    out: &mut [u8],
) -> Result<(), Status> {
    let request = request_of(entry)?;
    let pages: &[u8] = match cx.subsystem.kind() {
        SubsystemKind::Discovery => &DISCOVERY_PAGES,
        SubsystemKind::Nvm => &IO_PAGES,
    };
    if !pages.contains(&request.log_page) {
        return Err(Status::INVALID_LOG_PAGE);
    }
    let whole = match request.log_page {
        page::SUPPORTED => table(pages, |_| SUPPORTED_BIT),
        page::ERROR => cx.errors.page(),
        page::SMART => smart(cx.statistics, cx.errors.count()),
        page::FIRMWARE_SLOT => firmware_slots(),
        page::CHANGED_NAMESPACES => changed_namespaces(cx.changed_namespaces),
        page::COMMAND_EFFECTS => command_effects(cx.subsystem, command_set(entry))?,
        page::RESERVATION_NOTIFICATION => cx.notifications.page().as_bytes().to_vec(),
        page::ANA => ana(cx, request.specific),
        page::FEATURE_EFFECTS => table(&features::supported_by(cx.subsystem), |feature| {
            let is_per_namespace = features::is_per_namespace(feature);
            SUPPORTED_BIT | if is_per_namespace { SCOPE_NAMESPACE } else { SCOPE_CONTROLLER }
        }),
        page::DISCOVERY => {
            let directory = cx.directory.ok_or(Status::INTERNAL_ERROR)?;
            return directory.read(cx.host, request.offset, out);
        }
        _ => vec![0; MANAGEMENT_EFFECTS_BYTES],
    };
    copy_part(&whole, request.offset, out)
}

/// Copies from `offset` on; zeroes follow the end. An offset past the end is refused.
fn copy_part(whole: &[u8], offset: u64, out: &mut [u8]) -> Result<(), Status> {
    let start = usize::try_from(offset).map_err(|_| Status::INVALID_FIELD)?;
    let part = whole.get(start..).ok_or(Status::INVALID_FIELD)?;
    let len = part.len().min(out.len());
    out[..len].copy_from_slice(&part[..len]);
    out[len..].fill(0);
    Ok(())
}

/// A page with a descriptor for each of 256 identifiers.
fn table(identifiers: &[u8], descriptor: impl Fn(u8) -> u32) -> Vec<u8> {
    let mut entries = [U32::ZERO; IDENTIFIERS];
    for identifier in identifiers {
        entries[usize::from(*identifier)] = U32::new(descriptor(*identifier));
    }
    entries.as_bytes().to_vec()
}

fn smart(statistics: &IoStatistics, error_count: u64) -> Vec<u8> {
    let units = |bytes: u64| Counter::new(u128::from(bytes.div_ceil(DATA_UNIT_BYTES)));
    let mut log = SmartLog::new_zeroed();
    log.spare_percent = SPARE_PERCENT;
    log.spare_threshold_percent = SPARE_THRESHOLD_PERCENT;
    log.data_units_read = units(statistics.read_bytes);
    log.data_units_written = units(statistics.written_bytes);
    log.read_commands = Counter::new(u128::from(statistics.read_commands));
    log.write_commands = Counter::new(u128::from(statistics.write_commands));
    log.error_entries = Counter::new(u128::from(error_count));
    log.as_bytes().to_vec()
}

fn firmware_slots() -> Vec<u8> {
    let mut log = FirmwareSlotLog::new_zeroed();
    log.active = FIRMWARE_SLOT_ACTIVE;
    log.revisions[0] = firmware_revision();
    log.as_bytes().to_vec()
}

fn changed_namespaces(changed: &ChangedNamespaces) -> Vec<u8> {
    let mut log = ChangedNamespaceLog::new_zeroed();
    for (slot, id) in log.ids.iter_mut().zip(changed.iter()) {
        *slot = U32::new(id);
    }
    log.as_bytes().to_vec()
}

fn command_effects(subsystem: &Subsystem, command_set: u8) -> Result<Vec<u8>, Status> {
    if command_set != COMMAND_SET_NVM {
        return Err(Status::INVALID_FIELD);
    }
    let mut log = CommandEffectsLog::new_zeroed();
    for opcode in ADMIN_COMMANDS {
        log.admin[usize::from(opcode.value())] = U32::new(effect::SUPPORTED);
    }
    if subsystem.knows_allocation() {
        let opcode = AdminOpcode::GetLbaStatus.value();
        log.admin[usize::from(opcode)] = U32::new(effect::SUPPORTED);
    }
    for opcode in READING_COMMANDS {
        log.io[usize::from(opcode.value())] = U32::new(effect::SUPPORTED);
    }
    for opcode in WRITING_COMMANDS {
        let effects = effect::SUPPORTED | effect::CHANGES_DATA;
        log.io[usize::from(opcode.value())] = U32::new(effects);
    }
    Ok(log.as_bytes().to_vec())
}

/// A group for each namespace, numbered like it.
fn ana(cx: &LogContext<'_>, specific: u8) -> Vec<u8> {
    let namespaces = cx.subsystem.namespaces();
    let mut header = AnaHeader::new_zeroed();
    header.change_count = U64::new(cx.ana_change_count);
    let groups = u16::try_from(namespaces.len()).expect("a subsystem has at most 1024 namespaces");
    header.groups = groups.into();
    let mut log = header.as_bytes().to_vec();
    for namespace in namespaces {
        let members = if specific & ANA_GROUPS_ONLY != 0 { &[][..] } else { &[namespace.id.0] };
        let mut group = AnaGroup::new_zeroed();
        group.id = U32::new(namespace.id.0);
        group.namespaces = U32::new(if members.is_empty() { 0 } else { 1 });
        group.change_count = U64::new(cx.ana_change_count);
        group.state = namespace.ana.value();
        log.extend_from_slice(group.as_bytes());
        log.extend(members.iter().flat_map(|id| id.to_le_bytes()));
    }
    log
}
