//! Identify Namespace: what a host learns of a block device.
//!
//! NVM Command Set 1.0 section 4.1.5.1 (figure 97), NVMe Base 2.0 section 5.17.2.8.

use bdev::Operation;
use bdev::nvme::identify::{
    IDENTIFY_BYTES, IdentifyNamespace, IndependentIdentifyNamespace, LbaFormat,
    namespace_field as field,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros};

use crate::target::limits::{
    COMPARE_AND_WRITE_BYTES_MAX, COPY_BYTES_MAX, COPY_RANGES_MAX, PAGE_BYTES, TargetLimits,
};
use crate::target::namespace::Namespace;

/// A count of blocks, zero-based and cut to its field.
pub(super) fn zero_based(blocks: u32) -> U16 {
    U16::new(u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX))
}

/// Blocks that a fused compare and write of the namespace may have; zero when its device has no
/// such operation.
pub(super) fn compare_and_write_blocks(limits: &TargetLimits, namespace: &Namespace) -> u32 {
    let device = namespace.limits();
    if !device.operations.contains(Operation::CompareAndWrite) {
        return 0;
    }
    let bytes = limits.transfer_bytes_max.min(COMPARE_AND_WRITE_BYTES_MAX);
    device.atomic_blocks.min(bytes / namespace.geometry.block_bytes.max(1))
}

/// Fills Identify Namespace (CNS 00h and 11h).
pub(super) fn fill(limits: &TargetLimits, namespace: &Namespace, out: &mut [u8; IDENTIFY_BYTES]) {
    let data = IdentifyNamespace::mut_from_bytes(out).expect("both have 4096 bytes");
    data.zero();
    let geometry = namespace.geometry;
    let device = namespace.limits();
    let block_bytes = geometry.block_bytes;
    data.size_blocks = U64::new(geometry.blocks);
    data.capacity_blocks = U64::new(geometry.blocks);
    data.used_blocks = U64::new(geometry.blocks);
    data.capacity_bytes = u128::from(geometry.len_bytes()).to_le_bytes();
    data.features = features(namespace);
    data.lba_format[0] = LbaFormat { data_shift: shift(block_bytes), ..LbaFormat::default() };
    data.multi_path = field::SHARED;
    // An unmapped block reads as zeroes whatever the device (ARCHITECTURE section 3).
    data.deallocate = field::DEALLOCATED_READS_ZERO | field::WRITE_ZEROES_DEALLOCATES;
    if device.atomic_blocks > 1 {
        data.atomic_write = zero_based(device.atomic_blocks);
        data.atomic_write_power_fail = zero_based(device.atomic_blocks);
        data.atomic_compare_write = zero_based(compare_and_write_blocks(limits, namespace));
    }
    // A boundary that does not fit its field is too far apart to matter.
    data.optimal_boundary_blocks = U16::new(u16::try_from(device.boundary_blocks).unwrap_or(0));
    let page_blocks = zero_based((PAGE_BYTES / block_bytes.max(1)).max(1));
    data.write_granularity = page_blocks;
    data.write_alignment = page_blocks;
    data.deallocate_granularity = page_blocks;
    data.deallocate_alignment = page_blocks;
    data.optimal_write_size = zero_based(limits.transfer_bytes_max / block_bytes.max(1));
    let copy_blocks = COPY_BYTES_MAX / block_bytes.max(1);
    data.copy_source_blocks_max = U16::new(u16::try_from(copy_blocks).unwrap_or(u16::MAX));
    data.copy_blocks_max = U32::new(copy_blocks);
    data.copy_ranges_max = u8::try_from(COPY_RANGES_MAX - 1).expect("at most 256 ranges");
    data.ana_group_id = U32::new(namespace.id.0);
    data.attributes = attributes(namespace);
    data.reservations = reservations(namespace);
    data.nguid = namespace.nguid();
}

/// Fills Identify Namespace independent of command sets (CNS 08h).
pub(super) fn fill_independent(namespace: &Namespace, out: &mut [u8; IDENTIFY_BYTES]) {
    let data = IndependentIdentifyNamespace::mut_from_bytes(out).expect("both have 4096 bytes");
    data.zero();
    // Only the UID bit is common to all command sets.
    data.features = features(namespace) & field::UID_NOT_REUSED;
    data.multi_path = field::SHARED;
    data.ana_group_id = U32::new(namespace.id.0);
    data.attributes = attributes(namespace);
    data.reservations = reservations(namespace);
    data.status = field::READY;
}

fn features(namespace: &Namespace) -> u8 {
    let own_atomics = if namespace.limits().atomic_blocks > 1 { field::OWN_ATOMICS } else { 0 };
    field::UID_NOT_REUSED | field::OPTIMAL_SIZES | own_atomics
}

/// RESCAP: all types, and persistence through power loss where the device can keep it.
fn reservations(namespace: &Namespace) -> u8 {
    let types = field::ALL_RESERVATION_TYPES | field::IGNORE_EXISTING_KEY_1_3;
    let is_kept = namespace.reservations.can_be_kept();
    types | if is_kept { field::PERSIST_THROUGH_POWER_LOSS } else { 0 }
}

fn attributes(namespace: &Namespace) -> u8 {
    if namespace.is_read_only() { field::WRITE_PROTECTED } else { 0 }
}

/// LBADS: a device's block size is a power of two.
fn shift(block_bytes: u32) -> u8 {
    block_bytes.trailing_zeros().to_le_bytes()[0]
}
