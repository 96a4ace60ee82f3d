//! I/O commands: from a submission queue entry to what the device is to do.
//!
//! A plain total function, called once a command on the hot path; nothing in it depends on the
//! connection. NVM Command Set 1.0 section 3.2.

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::opcode::NvmOpcode;
use bdev::nvme::sgl::Sgl;
use bdev::{Geometry, IoFlags, Lba, Operation, Status};

use reactor::slab::SlotId;

use super::request::{Action, Plan, PlannedIo, Transfer};

/// Force unit access, in command dword 12 (figure 55 and others).
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// Deallocate, in command dword 12 of Write Zeroes.
const DEALLOCATE: u32 = 1 << 25;
/// Attribute "deallocate" of Dataset Management, in command dword 11.
const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
/// Bytes of a range of Dataset Management.
pub(super) const RANGE_BYTES: u32 = 16;
/// Most ranges of a Dataset Management command: their number has eight bits, zero-based.
const RANGES_MAX: u32 = 256;

/// The namespace of a command, as the planner needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamespaceView {
    /// The core's root.
    pub root: SlotId,
    /// Size.
    pub geometry: Geometry,
    /// Writes are refused.
    pub read_only: bool,
}

/// Plans an I/O command. `transfer_bytes_max` is the controller's MDTS.
pub(super) fn plan(
    command: &SubmissionEntry,
    namespace: &NamespaceView,
    transfer_bytes_max: u32,
) -> Plan {
    let Ok(opcode) = NvmOpcode::try_from(command.opcode) else {
        return Plan::fail(Status::INVALID_OPCODE);
    };
    let operation = match opcode {
        NvmOpcode::Read => Operation::Read,
        NvmOpcode::Write => Operation::Write,
        NvmOpcode::Compare => Operation::Compare,
        NvmOpcode::WriteZeroes => Operation::WriteZeroes,
        NvmOpcode::Flush => return flush(namespace),
        NvmOpcode::DatasetManagement => return dataset_management(command, namespace),
        _ => return Plan::fail(Status::INVALID_OPCODE),
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
    Plan { action: Action::Io(io), transfer }
}

/// NVM Command Set 1.0 section 3.2.3: hints to read or write sequentially are taken and ignored;
/// only "deallocate" does something.
///
/// Linux sends the whole list of 256 ranges however few it uses, since there are drives that read
/// all of it. So the data may be longer than the ranges in use, up to the whole list.
fn dataset_management(command: &SubmissionEntry, namespace: &NamespaceView) -> Plan {
    let ranges = (command.cdw10.get() & 0xff) + 1;
    let attributes = command.cdw11.get();
    let deallocate = attributes & ATTRIBUTE_DEALLOCATE != 0;
    if deallocate && namespace.read_only {
        return Plan::fail(Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry());
    }
    let ranges = if deallocate { u16::try_from(ranges).expect("eight bits plus one") } else { 0 };
    let used_bytes = ((command.cdw10.get() & 0xff) + 1) * RANGE_BYTES;
    let sent_bytes = match command.sgl().decode() {
        Sgl::InCapsule { length, .. } | Sgl::TransportDataBlock { length } => length,
        _ => used_bytes,
    };
    let is_legal = (used_bytes..=RANGES_MAX * RANGE_BYTES).contains(&sent_bytes);
    // An illegal length differs from what is planned and is refused with the data pointer.
    let transfer = Transfer::FromHost(if is_legal { sent_bytes } else { used_bytes });
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
        let namespace = NamespaceView { root: ROOT, geometry, read_only: false };
        plan(&command, &namespace, 1 << 20)
    }

    #[test]
    fn a_list_of_ranges_may_be_longer_than_what_is_used_of_it() {
        for sent_bytes in [32, 48, 4096] {
            let plan = deallocate(2, sent_bytes);
            assert_eq!(plan.transfer, Transfer::FromHost(sent_bytes));
            assert_eq!(plan.action, Action::Deallocate { root: ROOT, ranges: 2 });
        }
    }

    #[test]
    fn a_list_shorter_than_its_ranges_or_longer_than_any_is_not_planned_for() {
        for sent_bytes in [31, 4097] {
            assert_eq!(deallocate(2, sent_bytes).transfer, Transfer::FromHost(32));
        }
    }
}
