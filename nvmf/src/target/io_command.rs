//! I/O commands: from a submission queue entry to what the device is to do.
//!
//! A plain total function, called once a command on the hot path; nothing in it depends on the
//! connection. NVM Command Set 1.0 section 3.2.

use bdev::nvme::command::{DataPointerFormat, Fuse, SubmissionEntry};
use bdev::nvme::nvm_command::TransferFlags;
use bdev::nvme::opcode::NvmOpcode;
use bdev::{Geometry, IoFlags, Lba, Operation, OperationSet, Status};
use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::slab::SlotId;

use super::limits::{
    COMPARE_AND_WRITE_BYTES_MAX, COPY_LIST_BYTES, COPY_RANGES_MAX, VERIFY_BYTES_MAX,
};
use super::request::{Action, Plan, PlannedCopy, PlannedIo, Transfer};

/// Force unit access, in command dword 12 (figure 55 and others).
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// Deallocate, in command dword 12 of Write Zeroes.
const DEALLOCATE: u32 = 1 << 25;
/// Attribute "deallocate" of Dataset Management, in command dword 11.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
/// Bytes of a range of Dataset Management.
pub(super) const RANGE_BYTES: u32 = 16;
/// Bytes of a source range of Copy, by descriptor format (NVM Command Set 1.0 section 3.2.2).
const COPY_RANGE_BYTES: [u8; 2] = [32, 40];
/// Bytes at the start of a source range that say where it is.
const COPY_RANGE_USED_BYTES: usize = 18;
const _: () = assert!(COPY_RANGES_MAX * COPY_RANGE_BYTES[1] as u32 <= COPY_LIST_BYTES);

/// The namespace of a command, as the planner needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamespaceView {
    /// The core's root.
    pub root: SlotId,
    /// Size.
    pub geometry: Geometry,
    /// Writes are refused.
    pub read_only: bool,
    /// What the device does itself.
    pub operations: OperationSet,
}

/// Plans an I/O command. `transfer_bytes_max` is the controller's MDTS.
pub(super) fn plan(
    command: &SubmissionEntry,
    namespace: &NamespaceView,
    transfer_bytes_max: u32,
) -> Plan {
    let Ok(opcode) = NvmOpcode::try_from(command.opcode) else {
        return Plan::fail(Status::INVALID_OPCODE.with_do_not_retry());
    };
    let operation = match opcode {
        NvmOpcode::Read => Operation::Read,
        NvmOpcode::Write => Operation::Write,
        NvmOpcode::Compare => Operation::Compare,
        NvmOpcode::WriteZeroes => Operation::WriteZeroes,
        NvmOpcode::Flush => return flush(namespace),
        NvmOpcode::DatasetManagement => return dataset_management(command, namespace),
        NvmOpcode::Copy => return copy(command, namespace),
        NvmOpcode::Verify => return verify(command, namespace),
        // Write Uncorrectable among them: ONCS says that there is none.
        _ => return Plan::fail(Status::INVALID_OPCODE.with_do_not_retry()),
    };
    ranged(command, operation, namespace, transfer_bytes_max)
}

fn flush(namespace: &NamespaceView) -> Plan {
    let io = PlannedIo {
        root: namespace.root,
        operation: Operation::Flush,
        flags: IoFlags::NONE,
        lba: Lba(0),
        blocks: 0,
    };
    Plan { action: Action::Io(io), transfer: Transfer::None }
}

fn ranged(
    command: &SubmissionEntry,
    mut operation: Operation,
    namespace: &NamespaceView,
    transfer_bytes_max: u32,
) -> Plan {
    let control = command.cdw12.get();
    let low = u64::from(command.cdw10.get());
    let high = u64::from(command.cdw11.get());
    let lba = Lba(low | high << 32);
    // NLB is 0's based and has 16 bits.
    let blocks = (control & 0xffff) + 1;
    if namespace.read_only && operation.changes_blocks() {
        return Plan::fail(Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry());
    }
    let end = lba.0.checked_add(u64::from(blocks));
    if end.is_none_or(|end| end > namespace.geometry.blocks) {
        return Plan::fail(Status::LBA_OUT_OF_RANGE.with_do_not_retry());
    }
    let bytes = operation.memory_bytes(blocks, namespace.geometry.block_bytes);
    let Some(bytes) = u32::try_from(bytes).ok().filter(|bytes| *bytes <= transfer_bytes_max) else {
        // NVMe Base 2.0 figure 275, MDTS: a transfer beyond it is an invalid field.
        return Plan::fail(Status::INVALID_FIELD.with_do_not_retry());
    };
    let mut flags = IoFlags::NONE;
    if control & FORCE_UNIT_ACCESS != 0 && operation != Operation::Compare {
        flags = flags.with(IoFlags::FUA);
    }
    let transfer = match operation {
        Operation::Read => {
            flags = flags.with(IoFlags::ACCEPT_ZEROES);
            Transfer::ToHost(bytes)
        }
        Operation::Write | Operation::Compare => Transfer::FromHost(bytes),
        _ => Transfer::None,
    };
    if operation == Operation::WriteZeroes && control & DEALLOCATE != 0 {
        operation = Operation::Unmap;
    }
    let io = PlannedIo { root: namespace.root, operation, flags, lba, blocks };
    let action = match command.fuse() {
        Fuse::Normal | Fuse::Reserved => Action::Io(io),
        // More than any device could compare and write at once: ACWU says how much it can.
        Fuse::First | Fuse::Second if bytes > COMPARE_AND_WRITE_BYTES_MAX => {
            return Plan::fail(Status::ATOMIC_WRITE_UNIT_EXCEEDED.with_do_not_retry());
        }
        Fuse::First => Action::FusedCompare(io),
        Fuse::Second => Action::FusedWrite(io),
    };
    Plan { action, transfer }
}

/// NVM Command Set 1.0 section 3.2.5: what a read would find, without the transfer.
fn verify(command: &SubmissionEntry, namespace: &NamespaceView) -> Plan {
    let Geometry { block_bytes, blocks: device_blocks } = namespace.geometry;
    let (lba, blocks) = (Lba(command.starting_lba()), command.block_count());
    let end = lba.0.checked_add(u64::from(blocks));
    if end.is_none_or(|end| end > device_blocks) {
        return Plan::fail(Status::LBA_OUT_OF_RANGE.with_do_not_retry());
    }
    let bytes = Operation::Read.memory_bytes(blocks, block_bytes);
    if bytes > VERIFY_BYTES_MAX {
        // Section 4.1.5.2, VSL.
        return Plan::fail(Status::INVALID_FIELD.with_do_not_retry());
    }
    if namespace.operations.contains(Operation::Verify) {
        let (operation, flags) = (Operation::Verify, IoFlags::NONE);
        let io = PlannedIo { root: namespace.root, operation, flags, lba, blocks };
        return Plan { action: Action::Io(io), transfer: Transfer::None };
    }
    let buffer_bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(LARGEST_BUFFER_BYTES);
    let operation = Operation::Read;
    let flags = IoFlags::ACCEPT_ZEROES;
    let io = PlannedIo { root: namespace.root, operation, flags, lba, blocks };
    Plan { action: Action::Verify { io, buffer_bytes, block_bytes }, transfer: Transfer::None }
}

/// NVM Command Set 1.0 section 3.2.2. Descriptor formats 0 and 1 differ, without protection
/// information, in nothing but the length of a range.
fn copy(command: &SubmissionEntry, namespace: &NamespaceView) -> Plan {
    let fields = command.cdw12.get();
    let range_bytes = match (fields >> 8) & 0xf {
        0 => COPY_RANGE_BYTES[0],
        1 => COPY_RANGE_BYTES[1],
        _ => return Plan::fail(Status::INVALID_FIELD.with_do_not_retry()),
    };
    let ranges = (fields & 0xff) + 1;
    if ranges > COPY_RANGES_MAX {
        return Plan::fail(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_do_not_retry());
    }
    if namespace.read_only {
        return Plan::fail(Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry());
    }
    let is_durable = command.transfer_flags().has(TransferFlags::FORCE_UNIT_ACCESS);
    let copy = PlannedCopy {
        root: namespace.root,
        block_bytes: namespace.geometry.block_bytes,
        ranges: u16::try_from(ranges).expect("eight bits plus one"),
        flags: if is_durable { IoFlags::FUA } else { IoFlags::NONE },
        range_bytes,
        lba: Lba(command.starting_lba()),
    };
    let transfer = Transfer::FromHost(ranges * u32::from(range_bytes));
    Plan { action: Action::Copy(copy), transfer }
}

/// A source range of Copy: first block, and length, which is 0's based.
pub(super) fn source_range(bytes: &[u8; COPY_RANGE_USED_BYTES]) -> (Lba, u32) {
    let [_, _, _, _, _, _, _, _, b0, b1, b2, b3, b4, b5, b6, b7, l0, l1] = *bytes;
    let lba = Lba(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]));
    (lba, u32::from(u16::from_le_bytes([l0, l1])) + 1)
}

/// Over fabrics every command has an SGL (NVMe Base 2.0 section 3.3.3.1, PSDT). Of fused operations
/// there is one, compare and write: its first half is a Compare, its second a Write.
pub(super) fn check_flags(command: &SubmissionEntry) -> Result<(), Status> {
    let is_sound = match command.fuse() {
        Fuse::Normal => true,
        Fuse::First => command.opcode == NvmOpcode::Compare.value(),
        Fuse::Second => command.opcode == NvmOpcode::Write.value(),
        Fuse::Reserved => false,
    };
    let has_sgl = command.data_pointer_format() == DataPointerFormat::Sgl;
    if has_sgl && is_sound { Ok(()) } else { Err(Status::INVALID_FIELD) }
}

/// NVM Command Set 1.0 section 3.2.3: hints to read or write sequentially are taken and ignored;
/// only "deallocate" does something. Linux sends a list of 256 ranges however few it uses, since
/// there are drives that read all of it.
fn dataset_management(command: &SubmissionEntry, namespace: &NamespaceView) -> Plan {
    let ranges = (command.cdw10.get() & 0xff) + 1;
    let attributes = command.cdw11.get();
    let deallocate = attributes & ATTRIBUTE_DEALLOCATE != 0;
    if deallocate && namespace.read_only {
        return Plan::fail(Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry());
    }
    let ranges = if deallocate { u16::try_from(ranges).expect("eight bits plus one") } else { 0 };
    let transfer = Transfer::FromHost(((command.cdw10.get() & 0xff) + 1) * RANGE_BYTES);
    Plan { action: Action::Deallocate { root: namespace.root, ranges }, transfer }
}

/// A range of Dataset Management: length and first block (NVM Command Set 1.0 figure 42).
pub(super) fn range(bytes: &[u8; RANGE_BYTES as usize]) -> (u32, Lba) {
    let [_, _, _, _, l0, l1, l2, l3, b0, b1, b2, b3, b4, b5, b6, b7] = *bytes;
    let blocks = u32::from_le_bytes([l0, l1, l2, l3]);
    (blocks, Lba(u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: SlotId = SlotId { index: 0, generation: 1 };
    use bdev::nvme::sgl::SglDescriptor;

    /// Plan of a deallocate with this many ranges and bytes of data.
    fn deallocate(ranges: u32, sent_bytes: u32) -> Plan {
        let sgl = SglDescriptor::in_capsule(0, sent_bytes);
        let opcode = NvmOpcode::DatasetManagement as u8;
        let mut command = SubmissionEntry::new(opcode, 1, 1).with_sgl(sgl);
        command.cdw10.set(ranges - 1);
        command.cdw11.set(ATTRIBUTE_DEALLOCATE);
        let geometry = Geometry { block_bytes: 512, blocks: 1024 };
        let namespace = NamespaceView { geometry, ..view(512) };
        plan(&command, &namespace, 1 << 20)
    }

    #[test]
    fn a_list_of_ranges_counts_as_long_as_what_is_used_of_it() {
        for sent_bytes in [31, 32, 48, 4096, 4097] {
            let plan = deallocate(2, sent_bytes);
            assert_eq!(plan.transfer, Transfer::FromHost(32));
            assert_eq!(plan.action, Action::Deallocate { root: ROOT, ranges: 2 });
        }
    }

    fn view(block_bytes: u32) -> NamespaceView {
        NamespaceView {
            root: ROOT,
            geometry: Geometry { block_bytes, blocks: 1 << 20 },
            read_only: false,
            operations: OperationSet::ALL.without(Operation::Verify),
        }
    }

    fn ranged(opcode: NvmOpcode, blocks: u32) -> SubmissionEntry {
        let sgl = SglDescriptor::transport_data_block(u32::MAX);
        let mut command = SubmissionEntry::new(opcode as u8, 1, 1).with_sgl(sgl);
        command.cdw12.set(blocks - 1);
        command
    }

    #[test]
    fn a_verify_is_planned_up_to_its_largest_size() {
        let of = |block_bytes, blocks| {
            plan(&ranged(NvmOpcode::Verify, blocks), &view(block_bytes), 4096).action
        };
        let refused = Action::Fail(Status::INVALID_FIELD.with_do_not_retry());
        assert!(matches!(of(512, 1), Action::Verify { buffer_bytes: 512, .. }));
        let most = of(512, 1 << 16);
        assert!(matches!(most, Action::Verify { buffer_bytes: LARGEST_BUFFER_BYTES, .. }));
        assert!(matches!(of(4096, 8192), Action::Verify { .. }));
        assert_eq!(of(4096, 8193), refused);
    }

    #[test]
    fn a_device_that_verifies_is_asked_to() {
        let of = |blocks| {
            let view = NamespaceView { operations: OperationSet::ALL, ..view(4096) };
            plan(&ranged(NvmOpcode::Verify, blocks), &view, 4096).action
        };
        let (operation, flags) = (Operation::Verify, IoFlags::NONE);
        let io = PlannedIo { root: ROOT, operation, flags, lba: Lba(0), blocks: 8192 };
        assert_eq!(of(8192), Action::Io(io));
        assert_eq!(of(8193), Action::Fail(Status::INVALID_FIELD.with_do_not_retry()));
    }

    #[test]
    fn a_copy_is_planned_up_to_its_most_ranges_in_both_formats() {
        let of = |ranges: u32, format: u32| {
            let mut command = ranged(NvmOpcode::Copy, 1);
            command.cdw12.set(format << 8 | (ranges - 1));
            plan(&command, &view(512), 4096)
        };
        assert_eq!(of(64, 0).transfer, Transfer::FromHost(64 * 32));
        assert_eq!(of(64, 1).transfer, Transfer::FromHost(64 * 40));
        let limit = Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_do_not_retry();
        assert_eq!(of(65, 0).action, Action::Fail(limit));
        let field = Status::INVALID_FIELD.with_do_not_retry();
        for format in 2..16 {
            assert_eq!(of(1, format).action, Action::Fail(field));
        }
        let fixed = NamespaceView { read_only: true, ..view(512) };
        let protected = Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry();
        let found = plan(&ranged(NvmOpcode::Copy, 1), &fixed, 4096).action;
        assert_eq!(found, Action::Fail(protected));
    }

    #[test]
    fn a_source_range_is_read_from_its_place() {
        let mut bytes = [0xee; COPY_RANGE_USED_BYTES];
        bytes[8..16].copy_from_slice(&0x0102_0304_0506_0708_u64.to_le_bytes());
        bytes[16..].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(source_range(&bytes), (Lba(0x0102_0304_0506_0708), 1 << 16));
    }

    #[test]
    fn halves_of_a_fused_pair_are_a_compare_and_a_write_of_half_a_buffer_at_most() {
        let of = |opcode, flags, blocks| {
            let mut command = ranged(opcode, blocks);
            command.flags |= flags;
            check_flags(&command).map(|()| plan(&command, &view(512), 1 << 20).action)
        };
        assert!(matches!(of(NvmOpcode::Compare, 1, 128), Ok(Action::FusedCompare(_))));
        assert!(matches!(of(NvmOpcode::Write, 2, 128), Ok(Action::FusedWrite(_))));
        let limit = Action::Fail(Status::ATOMIC_WRITE_UNIT_EXCEEDED.with_do_not_retry());
        assert_eq!(of(NvmOpcode::Compare, 1, 129), Ok(limit));
        assert_eq!(of(NvmOpcode::Write, 2, 129), Ok(limit));
        for (opcode, flags) in [
            (NvmOpcode::Write, 1),
            (NvmOpcode::Compare, 2),
            (NvmOpcode::Read, 1),
            (NvmOpcode::Flush, 2),
            (NvmOpcode::Compare, 3),
            (NvmOpcode::Fabrics, 1),
        ] {
            assert_eq!(of(opcode, flags, 1), Err(Status::INVALID_FIELD), "{opcode:?} {flags}");
        }
    }
}
