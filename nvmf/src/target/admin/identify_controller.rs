//! Identify Controller, as a Linux host wants it: what the target can do, and its limits.
//!
//! NVMe Base 2.0 figure 275, NVM Command Set 1.0 section 4.1.5.2.

use bdev::nvme::identify::{
    IDENTIFY_BYTES, IdentifyController, NvmIdentifyController, controller_field as field,
};
use bdev::nvme::register::Version;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros};

use super::error_log::ERROR_ENTRIES;
use super::events::supported_mask;
use super::identify::IdentifyContext;
use super::identify_namespace::{self, zero_based};
use crate::target::limits::{
    ABORTS_MAX, ASYNC_EVENTS_MAX, CAPSULE_UNIT_BYTES, KEEP_ALIVE_GRANULARITY, NAMESPACES_LIMIT,
    PAGE_BYTES, VERIFY_PAGES_SHIFT,
};
use crate::target::subsystem::{FIRMWARE, MODEL, Subsystem};

/// LPA bit 5: the pages of supported log pages and of effects of features are there.
const LOG_SUPPORTED_PAGES: u8 = 1 << 5;
/// ONCS bit 6.
const TIMESTAMP: u16 = 1 << 6;
/// Seconds within which an ANA change ends: the ten that hosts grant by default.
const ANA_TRANSITION_SECONDS: u8 = 10;
/// Every state that a namespace may be in here.
const ANA_STATES: u8 = field::ANA_OPTIMIZED
    | field::ANA_NON_OPTIMIZED
    | field::ANA_INACCESSIBLE
    | field::ANA_PERSISTENT_LOSS
    | field::ANA_CHANGE;
/// RAB: commands fetched in one go, a power of two.
const ARBITRATION_BURST: u8 = 6;
/// SQES, required and largest: 64 bytes.
const SUBMISSION_ENTRY_SIZES: u8 = 0x66;
/// CQES, required and largest: 16 bytes.
const COMPLETION_ENTRY_SIZES: u8 = 0x44;
/// A command capsule without data.
const COMMAND_BYTES: u32 = 64;
/// IORCSZ: a response capsule of 16 bytes.
const RESPONSE_CAPSULE_UNITS: u32 = 1;
/// OFCS: Disconnect of single queues.
const DISCONNECT: u16 = 1;
/// WZSL as a power of two of pages: 32 MiB, the most that the 16 bits of NLB can say in blocks of
/// 512 bytes. Without it a host cuts Write Zeroes at MDTS.
const WRITE_ZEROES_PAGES_SHIFT: u8 = 13;

/// SGLS bit 18: a descriptor may be longer than what is transferred.
const SGL_LONGER: u32 = 1 << 18;
/// CDFS: source range descriptors of formats 0 and 1.
const COPY_FORMATS: u16 = 0b11;

/// Fills Identify Controller of an I/O controller (CNS 01h).
pub(super) fn fill_io(cx: &IdentifyContext<'_>, out: &mut [u8; IDENTIFY_BYTES]) {
    let data = common(cx, out);
    let subsystem = cx.subsystem;
    let limits = subsystem.limits();
    data.controller_type = field::TYPE_IO;
    data.multi_path = field::MULTI_PORT | field::MULTI_CONTROLLER | field::ANA_REPORTING;
    data.arbitration_burst = ARBITRATION_BURST;
    data.abort_limit = ABORTS_MAX - 1;
    data.firmware_updates = field::FIRMWARE_SLOT_1_READ_ONLY | field::FIRMWARE_ONE_SLOT;
    data.log_page_attributes |= field::LOG_EFFECTS;
    data.ana_transition_seconds = ANA_TRANSITION_SECONDS;
    data.ana_capabilities = ANA_STATES | field::ANA_GROUP_FIXED;
    // Every namespace is a group of its own.
    data.ana_group_id_max = U32::new(NAMESPACES_LIMIT);
    data.ana_group_count = U32::new(NAMESPACES_LIMIT);
    data.submission_entry_sizes = SUBMISSION_ENTRY_SIZES;
    data.completion_entry_sizes = COMPLETION_ENTRY_SIZES;
    data.namespace_count = U32::new(NAMESPACES_LIMIT);
    data.namespaces_allowed = U32::new(NAMESPACES_LIMIT);
    data.nvm_commands = U16::new(
        field::COMPARE
            | field::DATASET_MANAGEMENT
            | field::RESERVATIONS
            | field::WRITE_ZEROES
            | field::SAVE_SELECT
            | field::VERIFY
            | field::COPY
            | TIMESTAMP,
    );
    if subsystem.knows_allocation() {
        data.admin_commands = U16::new(field::GET_LBA_STATUS);
    }
    data.volatile_write_cache = field::FLUSH_ALL_UNSUPPORTED;
    if subsystem.has_volatile_cache() {
        data.volatile_write_cache |= field::WRITE_CACHE_PRESENT;
    }
    // What holds for every namespace; one that can do more says so itself.
    let atomic = subsystem.namespaces().iter().map(|one| one.limits().atomic_blocks).min();
    let atomic_zero_based = zero_based(atomic.unwrap_or(1));
    data.atomic_write = atomic_zero_based;
    data.atomic_write_power_fail = atomic_zero_based;
    // Announced only where every namespace that can be written does it, as far as all do.
    if let Some(blocks) = compare_and_write_blocks(subsystem) {
        data.fused_operations = U16::new(field::COMPARE_AND_WRITE);
        data.atomic_compare_write = zero_based(blocks);
    }
    data.copy_formats = U16::new(COPY_FORMATS);
    let capsule_units = (COMMAND_BYTES + limits.in_capsule_bytes) / CAPSULE_UNIT_BYTES;
    data.command_capsule_size = U32::new(capsule_units);
    data.response_capsule_size = U32::new(RESPONSE_CAPSULE_UNITS);
    data.fabrics_commands = U16::new(DISCONNECT);
}

/// Blocks that a fused compare and write of any namespace may have; nothing when there is one that
/// has no such operation, or none at all.
fn compare_and_write_blocks(subsystem: &Subsystem) -> Option<u32> {
    let written = subsystem.namespaces().iter().filter(|one| !one.is_read_only());
    let blocks = written
        .map(|one| identify_namespace::compare_and_write_blocks(subsystem.limits(), one))
        .min()?;
    (blocks > 0).then_some(blocks)
}

/// Fills Identify Controller of a discovery controller (CNS 01h).
pub(super) fn fill_discovery(cx: &IdentifyContext<'_>, out: &mut [u8; IDENTIFY_BYTES]) {
    let data = common(cx, out);
    data.controller_type = field::TYPE_DISCOVERY;
}

/// Fills Identify Controller of the NVM command set (CNS 06h). Zero is no limit of its own.
pub(super) fn fill_nvm(out: &mut [u8; IDENTIFY_BYTES]) {
    let data = NvmIdentifyController::mut_from_bytes(out).expect("both have 4096 bytes");
    data.zero();
    data.verify_size_max = VERIFY_PAGES_SHIFT;
    data.write_zeroes_size_max = WRITE_ZEROES_PAGES_SHIFT;
}

/// What both kinds of controller have.
fn common<'a>(
    cx: &IdentifyContext<'_>,
    out: &'a mut [u8; IDENTIFY_BYTES],
) -> &'a mut IdentifyController {
    let subsystem = cx.subsystem;
    let limits = subsystem.limits();
    let data = IdentifyController::mut_from_bytes(out).expect("both have 4096 bytes");
    data.zero();
    data.serial_number = *subsystem.serial();
    data.model_number = padded(MODEL);
    data.firmware_revision = firmware_revision();
    // MDTS counts in the smallest page, as a power of two; checked to be one.
    let transfer_pages = limits.transfer_bytes_max / PAGE_BYTES;
    data.transfer_size_max = transfer_pages.trailing_zeros().to_le_bytes()[0];
    data.controller_id = U16::new(cx.controller_id);
    data.version = U32::new(Version::V2_0.0);
    data.async_events = U32::new(supported_mask(subsystem.kind()));
    data.attributes = U32::new(field::HOST_ID_128);
    data.async_event_limit = ASYNC_EVENTS_MAX - 1;
    data.log_page_attributes = field::LOG_EXTENDED | LOG_SUPPORTED_PAGES;
    data.error_log_entries = ERROR_ENTRIES - 1;
    data.keep_alive_granularity_100ms = U16::new(KEEP_ALIVE_GRANULARITY);
    data.commands_max = U16::new(limits.queue_entries_max);
    // In-capsule data is of I/O queues and of the admin queue alike.
    let sgls = field::SGL_SUPPORTED | field::SGL_OFFSET | field::SGL_TRANSPORT | SGL_LONGER;
    data.sgl_support = U32::new(sgls);
    data.subsystem_nqn = subsystem.nqn().to_field();
    data.sgl_descriptors_max = 1;
    data.vendor[..16].copy_from_slice(subsystem.instance());
    data
}

/// The firmware revision in its field of eight bytes.
pub(super) fn firmware_revision() -> [u8; 8] {
    padded(FIRMWARE)
}

/// ASCII in a field, cut off or padded with spaces (section 1.4.2).
fn padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut bytes = [b' '; LEN];
    for (place, byte) in bytes.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    bytes
}
