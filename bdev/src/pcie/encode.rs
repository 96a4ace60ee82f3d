//! From an I/O to the submission entry that asks a namespace for it.
//!
//! Plain values, on the queue pair's core. The memory is described by the caller.

use zerocopy::IntoBytes;

use crate::io::{Io, IoFlags, Operation};
use crate::nvme::command::{SUBMISSION_ENTRY_BYTES, SubmissionEntry};
use crate::nvme::nvm_command::{BLOCKS_MAX, TransferFlags, dataset_attribute};
use crate::nvme::opcode::NvmOpcode;

/// A submission entry as it is stored.
pub type Words = [u64; SUBMISSION_ENTRY_BYTES / 8];

/// How a namespace unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapping {
    /// By zeroing, with leave to give the space back, which then reads as zeroes.
    Deallocating,
    /// By Dataset Management: it may give the space back, and what the blocks read as then is
    /// anybody's guess ([`crate::Limits::unmap_zeroes`] is false).
    Hinting,
    /// By zeroing alone: the namespace can do nothing else.
    Zeroing,
}

/// The entry of a legal I/O as it is stored: the common command format of NVMe Base 2.0 section
/// 3.3.3.1 in words of 8 bytes, its pages already described. Unlike [`entry`] of any command it is
/// built in registers; the tests hold it to what [`SubmissionEntry`] says.
#[inline]
pub fn words(
    io: &Io,
    command_id: u16,
    namespace: u32,
    unmapping: Unmapping,
    pages: [u64; 2],
) -> Words {
    let opcode = match io.operation {
        Operation::Read => NvmOpcode::Read,
        Operation::Write => NvmOpcode::Write,
        Operation::Compare => NvmOpcode::Compare,
        Operation::Verify => NvmOpcode::Verify,
        Operation::WriteZeroes | Operation::Unmap => NvmOpcode::WriteZeroes,
        Operation::Flush => NvmOpcode::Flush,
        Operation::CompareAndWrite => unreachable!("the limits leave it out"),
    };
    let mut flags = TransferFlags::NONE;
    if io.flags.contains(IoFlags::FUA) && io.operation.changes_blocks() {
        flags = flags.with(TransferFlags::FORCE_UNIT_ACCESS);
    }
    if io.operation == Operation::Unmap && unmapping == Unmapping::Deallocating {
        flags = flags.with(TransferFlags::DEALLOCATE);
    }
    debug_assert!(io.blocks <= BLOCKS_MAX, "the limits keep to it");
    // 0's based; a flush has none and says zero.
    let count = io.blocks.saturating_sub(1);
    let head = u64::from(opcode.value()) | u64::from(command_id) << 16 | u64::from(namespace) << 32;
    let tail = u64::from(count | flags.bits());
    [head, 0, 0, pages[0], pages[1], io.lba.0, tail, 0].map(u64::to_le)
}

/// The entry of a read or a write, the same as [`words`] makes it; `namespace_word` is the
/// namespace in the upper half.
#[inline]
pub fn plain(io: &Io, command_id: u16, namespace_word: u64, pages: [u64; 2]) -> Words {
    debug_assert!(matches!(io.operation, Operation::Read | Operation::Write), "by the caller");
    let (opcode, unit_access) = match io.operation {
        Operation::Read => (NvmOpcode::Read, 0),
        _ if io.flags.contains(IoFlags::FUA) => {
            (NvmOpcode::Write, TransferFlags::FORCE_UNIT_ACCESS.bits())
        }
        _ => (NvmOpcode::Write, 0),
    };
    let head = u64::from(opcode.value()) | u64::from(command_id) << 16 | namespace_word;
    // 0's based; the caller saw that there is one at least.
    let tail = u64::from(io.blocks.wrapping_sub(1) | unit_access);
    [head, 0, 0, pages[0], pages[1], io.lba.0, tail, 0].map(u64::to_le)
}

/// A range of Dataset Management as it is stored: NVM Command Set 1.0 figure 40.
pub fn range(io: &Io) -> [u64; 2] {
    [u64::from(io.blocks) << 32, io.lba.0].map(u64::to_le)
}

/// The entry that deallocates the one range at the device's address `range`.
pub fn deallocation(command_id: u16, namespace: u32, range: u64) -> Words {
    let opcode = NvmOpcode::DatasetManagement.value();
    let head = u64::from(opcode) | u64::from(command_id) << 16 | u64::from(namespace) << 32;
    [head, 0, 0, range, 0, u64::from(dataset_attribute::DEALLOCATE) << 32, 0, 0].map(u64::to_le)
}

/// Any entry as it is stored.
pub fn entry(entry: SubmissionEntry) -> Words {
    let mut words: Words = [0; SUBMISSION_ENTRY_BYTES / 8];
    words.as_mut_bytes().copy_from_slice(entry.as_bytes());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use zerocopy::FromBytes;

    use super::*;
    use crate::io::{Lba, Memory, Token};
    use crate::nvme::nvm_command::{BlockRange, DatasetRange};

    proptest! {
        #[test]
        fn an_entry_is_what_the_wire_types_say(
            lba: u64, blocks in 1..=BLOCKS_MAX, id: u16, namespace: u32, pages: [u64; 2], fua: bool,
        ) {
            let table = [
                (Operation::Read, NvmOpcode::Read),
                (Operation::Write, NvmOpcode::Write),
                (Operation::Compare, NvmOpcode::Compare),
                (Operation::Verify, NvmOpcode::Verify),
                (Operation::WriteZeroes, NvmOpcode::WriteZeroes),
                (Operation::Unmap, NvmOpcode::WriteZeroes),
            ];
            for (operation, opcode) in table {
                let mut io = Io::with_memory(operation, Lba(lba), blocks, Memory::None, Token(0));
                let mut flags = TransferFlags::NONE;
                if fua {
                    io.flags = IoFlags::FUA;
                    if operation.changes_blocks() {
                        flags = flags.with(TransferFlags::FORCE_UNIT_ACCESS);
                    }
                }
                if operation == Operation::Unmap {
                    flags = flags.with(TransferFlags::DEALLOCATE);
                }
                let range = BlockRange { starting_lba: lba, blocks };
                let wire = SubmissionEntry::for_range(opcode, id, namespace, range, flags);
                let built = words(&io, id, namespace, Unmapping::Deallocating, pages);
                prop_assert_eq!(built, entry(wire.with_prp(pages)));
                if matches!(operation, Operation::Read | Operation::Write) {
                    prop_assert_eq!(built, plain(&io, id, u64::from(namespace) << 32, pages));
                }
            }
            let io = Io::with_memory(Operation::Unmap, Lba(lba), blocks, Memory::None, Token(0));
            let attributes = dataset_attribute::DEALLOCATE;
            let hint = SubmissionEntry::dataset_management(id, namespace, 1, attributes);
            let built = deallocation(id, namespace, pages[0]);
            prop_assert_eq!(built, entry(hint.with_prp([pages[0], 0])));
            let stored = DatasetRange::read_from_bytes(range(&io).as_bytes()).unwrap();
            prop_assert_eq!((stored.starting_lba.get(), stored.blocks.get()), (lba, blocks));
            let flush = Io::flush(Token(0));
            let built = words(&flush, id, namespace, Unmapping::Zeroing, [0; 2]);
            prop_assert_eq!(built, entry(SubmissionEntry::flush(id, namespace)));
        }
    }
}
