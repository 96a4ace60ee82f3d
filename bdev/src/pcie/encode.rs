//! From an I/O to the submission entry that asks a namespace for it.
//!
//! Plain values, on the queue pair's core. The memory is described by the caller.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use crate::io::{Io, IoFlags, Operation};
use crate::nvme::command::{SUBMISSION_ENTRY_BYTES, SubmissionEntry};
use crate::nvme::nvm_command::{BLOCKS_MAX, TransferFlags};
use crate::nvme::opcode::NvmOpcode;

/// A submission entry as it is stored.
pub type Words = [u64; SUBMISSION_ENTRY_BYTES / 8];

/// How a namespace unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapping {
    /// By zeroing, with leave to give the space back, which then reads as zeroes.
    Deallocating,
    /// By zeroing alone: the namespace does not say that deallocated blocks read as zeroes.
    Zeroing,
}

/// The entry of a legal I/O.
#[inline]
pub fn entry(io: &Io, command_id: u16, namespace: u32, unmapping: Unmapping) -> SubmissionEntry {
    let opcode = match io.operation {
        Operation::Read => NvmOpcode::Read,
        Operation::Write => NvmOpcode::Write,
        Operation::Compare => NvmOpcode::Compare,
        Operation::WriteZeroes | Operation::Unmap => NvmOpcode::WriteZeroes,
        Operation::Flush => return SubmissionEntry::flush(command_id, namespace),
        Operation::CompareAndWrite => unreachable!("the limits leave it out"),
    };
    let mut flags = TransferFlags::NONE;
    if io.flags.contains(IoFlags::FUA) && io.operation.changes_blocks() {
        flags = flags.with(TransferFlags::FORCE_UNIT_ACCESS);
    }
    if io.operation == Operation::Unmap && unmapping == Unmapping::Deallocating {
        flags = flags.with(TransferFlags::DEALLOCATE);
    }
    debug_assert!((1..=BLOCKS_MAX).contains(&io.blocks), "the limits keep to it");
    let mut entry = SubmissionEntry {
        opcode: opcode.value(),
        command_id: U16::new(command_id),
        namespace_id: U32::new(namespace),
        ..SubmissionEntry::default()
    };
    entry.cdw10 = U32::new((io.lba.0 & u64::from(u32::MAX)) as u32);
    entry.cdw11 = U32::new((io.lba.0 >> 32) as u32);
    entry.cdw12 = U32::new((io.blocks - 1) | flags.bits());
    entry
}

/// The entry as words of the machine.
#[inline]
pub fn words(entry: SubmissionEntry) -> Words {
    let mut words: Words = [0; SUBMISSION_ENTRY_BYTES / 8];
    words.as_mut_bytes().copy_from_slice(entry.as_bytes());
    words
}
